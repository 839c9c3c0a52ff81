//! The control link over TCP: TLS 1.3 with certificates on both sides, and who somebody may be by theirs.
//!
//! Makes handshakes, few at a time and each within a deadline; what is said after that is the same as on the Unix socket.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::errors::with_sources;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::wire::{Reader, Writer};
use super::{CONNECTIONS_MAX, Peer, converse};
use crate::credentials::{CredentialsError, Files, Identity, Terms};
use crate::newcomers::{Place, Refusals, Sources};
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
        let paths = files.paths().map(Path::to_owned).to_vec();
        let terms = Terms::read("the control port", paths, move || files.server_config())?;
        let failed = |source| PortError::Io { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, terms, refusals: Arc::new(Refusals::of("the control port")) })
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
    async fn serve(self, handshaking: (OwnedSemaphorePermit, Place), office: &Arc<Office>) {
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
