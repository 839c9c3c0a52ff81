//! The control link over TCP: TLS 1.3 with certificates on both sides, and who somebody may be by theirs.
//!
//! Makes handshakes, few at a time and each within a deadline; what is said after that is the same as on the Unix socket.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use proto::errors::with_sources;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::wire::{Reader, Writer};
use super::{CONNECTIONS_MAX, Peer, converse};
use crate::credentials::{CredentialsError, Files, Identity};
use crate::office::Office;

/// Connections that have not shown a good certificate yet.
const HANDSHAKES_MAX: usize = 64;
/// And how many of them from one address; of IPv6, from one network of 64 bits.
const HANDSHAKES_PER_SOURCE_MAX: usize = 8;
/// How long one may take for that.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// How long the reason of a refusal waits to be read, and how much of what its reader still sends is read.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 64 * 1024;
/// Refusals are told once in so long, with how many were not.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Why the port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The certificates are of no use.
    #[error("the control port cannot be opened without its certificates")]
    Credentials(#[from] CredentialsError),
    /// The system refuses.
    #[error("the control port {address} cannot be opened; choose another with --control-tcp")]
    Io {
        /// The port.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The open control port.
pub struct SecureServer {
    listener: TcpListener,
    address: SocketAddr,
    terms: Terms,
    refusals: Arc<Refusals>,
}

impl SecureServer {
    /// Reads the files and opens the port. Needs a tokio runtime around it.
    pub async fn open(address: SocketAddr, files: Files) -> Result<Self, PortError> {
        let terms = Terms::read(files)?;
        let failed = |source| PortError::Io { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, terms, refusals: Arc::default() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves connections until it is dropped.
    pub async fn serve(mut self, office: Arc<Office>) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let sources = Arc::<Sources>::default();
        loop {
            let permit = Arc::clone(&handshakes).acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    // At once, so that whoever is silent does not take the place of others.
                    let Some(place) = sources.admit(from.ip(), HANDSHAKES_PER_SOURCE_MAX) else {
                        self.refusals.tell(from, "too many from its address have not shown a good certificate yet");
                        continue;
                    };
                    let newcomer = Newcomer {
                        stream,
                        from,
                        config: self.terms.current(),
                        connections: Arc::clone(&connections),
                        refusals: Arc::clone(&self.refusals),
                    };
                    let office = Arc::clone(&office);
                    tokio::spawn(async move { newcomer.serve((permit, place), &office).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the control port cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

struct Newcomer {
    stream: TcpStream,
    from: SocketAddr,
    config: Arc<ServerConfig>,
    connections: Arc<Semaphore>,
    refusals: Arc<Refusals>,
}

impl Newcomer {
    async fn serve(self, handshaking: (OwnedSemaphorePermit, SourcePlace), office: &Arc<Office>) {
        let Self { stream, from, config, connections, refusals } = self;
        let _ = stream.set_nodelay(true);
        let accepting = TlsAcceptor::from(config).accept(stream).into_fallible();
        let stream = match tokio::time::timeout(HANDSHAKE_WITHIN, accepting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, mut stream))) => {
                refusals.tell(from, &with_sources(&error));
                // What is unread when a socket is closed would take the alert away from its reader.
                let _ = stream.shutdown().await;
                let mut rest = stream.take(LINGER_BYTES_MAX);
                let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
                return;
            }
            Err(_) => return refusals.tell(from, "the TLS handshake did not come to an end in time"),
        };
        drop(handshaking);
        let Ok(_permit) = connections.try_acquire_owned() else {
            return refusals.tell(from, "there are too many connections");
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let Some(identity) = shown.map(Identity::of) else {
            return refusals.tell(from, "it has shown no certificate");
        };
        let (reader, writer) = tokio::io::split(stream);
        let (reader, writer) = (Reader::new(Box::new(reader)), Writer::new(Box::new(writer)));
        converse(reader, writer, Peer::Remote { from, identity }, office).await;
    }
}

/// How much is going on with each source.
#[derive(Default)]
pub(crate) struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// What counts for its source until this is dropped.
pub(crate) struct SourcePlace {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    /// One more of this source, if there are fewer than so many.
    pub(crate) fn admit(self: &Arc<Self>, from: IpAddr, max: usize) -> Option<SourcePlace> {
        let source = source(from);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(SourcePlace { sources: Arc::clone(self), source })
    }
}

impl Drop for SourcePlace {
    fn drop(&mut self) {
        let mut counts = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

/// Whoever has an address of IPv6 has a whole network of them.
pub(crate) fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (!0 << 64)).into()),
        address => address,
    }
}

/// Refusals of strangers, told without letting them fill the log.
#[derive(Default)]
struct Refusals {
    told: Mutex<(Option<Instant>, u64)>,
}

impl Refusals {
    fn tell(&self, from: SocketAddr, reason: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, untold) = &mut *told;
        if last.is_some_and(|last| last.elapsed() < TELL_EVERY) {
            *untold += 1;
            return;
        }
        let others = std::mem::take(untold);
        *last = Some(Instant::now());
        tracing::warn!(%from, reason, others, "a connection to the control port is refused");
    }
}

/// The terms of TLS, and the files that they were read from.
struct Terms {
    files: Files,
    stamps: Option<Stamps>,
    config: Arc<ServerConfig>,
}

type Stamps = [(SystemTime, u64); 3];

impl Terms {
    fn read(files: Files) -> Result<Self, CredentialsError> {
        let stamps = stamps(&files);
        let config = Arc::new(files.server_config()?);
        Ok(Self { files, stamps, config })
    }

    /// Those of the files as they are; if they are of no use, those from before.
    fn current(&mut self) -> Arc<ServerConfig> {
        let stamps = stamps(&self.files);
        if stamps != self.stamps {
            self.stamps = stamps;
            match self.files.server_config() {
                Ok(config) => {
                    self.config = Arc::new(config);
                    tracing::info!("the certificates of the control port have been read again");
                }
                Err(error) => {
                    let error = with_sources(&error);
                    tracing::error!(error, "the new certificates of the control port are of no use; the old ones stay");
                }
            }
        }
        Arc::clone(&self.config)
    }
}

/// When the files were written, and how long they are; `None` while one cannot be seen.
fn stamps(files: &Files) -> Option<Stamps> {
    let mut stamps = [(SystemTime::UNIX_EPOCH, 0); 3];
    for (stamp, path) in stamps.iter_mut().zip(files.paths().map(PathBuf::from)) {
        let metadata = path.metadata().ok()?;
        *stamp = (metadata.modified().ok()?, metadata.len());
    }
    Some(stamps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_has_few_handshakes_and_takes_no_place_of_others() {
        let sources = Arc::<Sources>::default();
        let admit = |address: &str| sources.admit(address.parse().unwrap(), HANDSHAKES_PER_SOURCE_MAX);
        let mut places: Vec<_> = (0..HANDSHAKES_PER_SOURCE_MAX).map(|_| admit("192.0.2.1").unwrap()).collect();
        assert!(admit("192.0.2.1").is_none() && admit("::ffff:192.0.2.1").is_none());
        assert!(admit("192.0.2.2").is_some());
        places.extend((0..HANDSHAKES_PER_SOURCE_MAX).map(|host| admit(&format!("2001:db8::{host:x}")).unwrap()));
        assert!(admit("2001:db8::ffff:1").is_none(), "the same network");
        assert!(admit("2001:db8:0:1::1").is_some());
        places.remove(0);
        assert!(admit("192.0.2.1").is_some(), "one has come to its end");
        places.clear();
        assert!(sources.0.lock().unwrap().is_empty(), "and nothing is remembered");
    }
}
