//! How the control plane is reached: a Unix socket whose owner is believed, or TCP with certificates on both sides.
//!
//! Opens connections. Each address has a deadline, and so has the TLS handshake; how long a name may take to become
//! addresses is the host's resolver's to say. What is said on connections is not known here. The files of the certificates
//! are read at each dial, so new ones count from the next connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::control::Address;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use super::{ANSWER_TIMEOUT, Trouble};

/// How long each address of the control plane may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take for its part of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A host that has gone without a word is noticed after this.
const GONE_AFTER: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where the control plane is, and what is needed to speak to it.
#[derive(Debug, Clone)]
pub enum Control {
    /// On this host.
    Unix(PathBuf),
    /// Elsewhere.
    Tls {
        /// A name or an address, which its certificate must be for.
        host: String,
        /// The TCP port.
        port: u16,
        /// Who we are, and whom we believe.
        credentials: Credentials,
    },
}

/// PEM files for the control link over TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// This node's certificate, and what is between it and an authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities, of which one must have signed the control plane's certificate.
    pub authorities: PathBuf,
}

/// Why credentials are of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialsError {
    #[error("{} cannot be used", .0.display())]
    File(PathBuf, #[source] pem::Error),
    #[error("{} has no certificate", .0.display())]
    Empty(PathBuf),
    #[error("{} has a certificate that is not sound", .0.display())]
    Authority(PathBuf, #[source] rustls::Error),
    #[error("{} is of no use with {}", key.display(), certificate.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("TLS 1.3 is not to be had")]
    Version(#[source] rustls::Error),
}

impl std::fmt::Display for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tls { host, port, .. } => Address::Tls { host: host.clone(), port: *port }.fmt(f),
        }
    }
}

impl Credentials {
    fn client_config(&self) -> Result<ClientConfig, CredentialsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.authorities)? {
            roots.add(authority).map_err(|error| CredentialsError::Authority(self.authorities.clone(), error))?;
        }
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.map_err(|error| CredentialsError::File(self.key.clone(), error))?;
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(CredentialsError::Version)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|source| CredentialsError::Pair {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
                source,
            })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let failed = |error| CredentialsError::File(path.into(), error);
    let all: Vec<_> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if all.is_empty() { Err(CredentialsError::Empty(path.into())) } else { Ok(all) }
}

/// An open connection.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Ends a connection from another thread, wherever it waits.
#[derive(Debug)]
pub(super) enum Cut {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Cut {
    pub(super) fn now(&self) {
        // It may have ended by itself.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Stream {
    /// Connects. Whoever is given to `hold` can end the connection, from before there is anything to wait for.
    pub(super) fn open(control: &Control, hold: impl Fn(Cut)) -> Result<Self, Trouble> {
        match control {
            Control::Unix(path) => {
                let stream = dial_unix(path)?;
                hold(Cut::Unix(stream.try_clone().map_err(Trouble::Connection)?));
                Ok(Self::Unix(stream))
            }
            Control::Tls { host, port, credentials } => {
                let config = credentials.client_config().map_err(Box::new)?;
                let name = ServerName::try_from(host.clone());
                let name = name.map_err(|error| unreachable(control, io::Error::other(error)))?;
                let socket = dial_tcp(host, *port).map_err(|error| unreachable(control, error))?;
                hold(Cut::Tcp(socket.try_clone().map_err(Trouble::Connection)?));
                let failed = |source| Trouble::Handshake { control: control.to_string(), source };
                let connection = ClientConnection::new(Arc::new(config), name);
                let connection = connection.map_err(|error| failed(io::Error::other(error)))?;
                let mut stream = StreamOwned::new(connection, socket);
                shake(&mut stream, Instant::now() + HANDSHAKE_TIMEOUT).map_err(failed)?;
                Ok(Self::Tls(Box::new(stream)))
            }
        }
    }

    pub(super) fn set_read_timeout(&self, wait: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(wait),
            Self::Tls(stream) => stream.sock.set_read_timeout(wait),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(room),
            Self::Tls(stream) => stream.read(room),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

fn unreachable(control: &Control, error: io::Error) -> Trouble {
    Trouble::Dial(control.to_string(), error)
}

/// The first of the host's addresses that takes a connection.
fn dial_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    #[expect(clippy::disallowed_methods, reason = "the control thread is no worker: nobody waits for it")]
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                let socket = Socket::from(stream);
                socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE))?;
                socket.set_tcp_user_timeout(Some(GONE_AFTER))?;
                return Ok(socket.into());
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The TLS handshake, as a whole in time.
fn shake(stream: &mut StreamOwned<ClientConnection, TcpStream>, deadline: Instant) -> io::Result<()> {
    let StreamOwned { conn, sock } = stream;
    while conn.is_handshaking() || conn.wants_write() {
        if conn.wants_write() {
            conn.write_tls(sock)?;
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not come to an end in time"));
        }
        sock.set_read_timeout(Some(left))?;
        match conn.read_tls(sock) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was ended")),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if let Err(error) = conn.process_new_packets() {
            // The other side is told why; it may have gone.
            let _ = conn.write_tls(sock);
            return Err(io::Error::other(error));
        }
    }
    Ok(())
}

/// Connects without waiting: a control plane whose accept queue is full is as good as none.
fn dial_unix(path: &Path) -> Result<UnixStream, Trouble> {
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)?;
        socket.set_nonblocking(false)?;
        socket.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let stream = UnixStream::from(socket);
        let uid = peer_uid(&stream)?;
        Ok((stream, uid))
    };
    let (stream, uid) = connect().map_err(|error| Trouble::Dial(path.display().to_string(), error))?;
    // SAFETY: geteuid has no preconditions and cannot fail.
    let own = unsafe { libc::geteuid() };
    if is_trusted(uid, own) { Ok(stream) } else { Err(Trouble::Stranger { path: path.into(), uid }) }
}

fn is_trusted(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

/// Who listens, SO_PEERCRED of unix(7).
fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both pointers are to locals that live through the call, and `length` is the size of the first.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(credentials.uid) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_user_and_root_are_believed() {
        assert!(is_trusted(1000, 1000) && is_trusted(0, 1000) && is_trusted(0, 0));
        assert!(!is_trusted(1001, 1000) && !is_trusted(1000, 0) && !is_trusted(u32::MAX, 0));
    }
}
