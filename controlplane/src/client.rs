//! An operator's end of the control link: one request, one answer, with deadlines. How long a name may take to become
//! addresses is the host's resolver's to say (`timeout` and `attempts` in resolv.conf).

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::control::envelope::{self, EnvelopeError, PREFIX_BYTES};
use proto::control::message::{Request, Response};
use proto::control::{Address, Message};
use proto::limits::SMALL_ENVELOPE_BYTES_MAX;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::credentials::{CredentialsError, Files};

/// How long a connection over TCP may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long its part of the TLS handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// How long the control plane may take: it reads a large file, and waits for nodes, within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no control plane answers on {}; is `framegate run` or `framegate controlplane` running? \
         (--control or FRAMEGATE_CONTROL names another socket)",
        .0
    )]
    Nobody(String),
    /// The socket is not ours to use.
    #[error("the control socket {0} belongs to another user; run this as that user or as root")]
    NotPermitted(String),
    /// The control plane hung up.
    #[error("the control plane on {0} ended the connection without an answer; its log says why")]
    HungUp(String),
    /// Over TCP certificates are needed.
    #[error("the control plane on {0} wants --control-certificate, --control-key and --control-authorities")]
    NoCertificates(String),
    /// The certificates are of no use.
    #[error("the certificates for the control plane are of no use")]
    Credentials(#[from] Box<CredentialsError>),
    /// The connection failed.
    #[error("the control plane on {control} cannot be asked")]
    Io {
        /// Where it is.
        control: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer is none.
    #[error("the control plane's answer is not understood; are both of the same version?")]
    Envelope(#[from] EnvelopeError),
    /// The answer is another message.
    #[error("the control plane answered with message kind {0}; are both of the same version?")]
    Kind(u8),
}

/// Where the control plane is, and what is needed to speak to it.
#[derive(Debug, Clone)]
pub enum Control {
    /// On this host.
    Unix(PathBuf),
    /// Elsewhere, for somebody whose certificate names an operator.
    Tls {
        /// What its certificate must be for.
        host: String,
        /// The TCP port.
        port: u16,
        /// Certificates.
        files: Files,
    },
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tls { host, port, .. } => Address::Tls { host: host.clone(), port: *port }.fmt(f),
        }
    }
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

impl Control {
    fn open(&self, failed: impl Fn(io::Error) -> ClientError + Copy) -> Result<Box<dyn Stream>, ClientError> {
        match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(failed)?;
                stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
                stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
                Ok(Box::new(stream))
            }
            Self::Tls { host, port, files } => {
                let config = files.client_config().map_err(Box::new)?;
                let name = ServerName::try_from(host.clone()).map_err(|error| failed(io::Error::other(error)))?;
                let stream = dial(host, *port).map_err(failed)?;
                stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
                let connection = ClientConnection::new(Arc::new(config), name);
                let connection = connection.map_err(|error| failed(io::Error::other(error)))?;
                let mut stream = StreamOwned::new(connection, stream);
                shake(&mut stream, Instant::now() + HANDSHAKE_WITHIN).map_err(failed)?;
                stream.sock.set_read_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
                Ok(Box::new(stream))
            }
        }
    }
}

/// The first of the host's addresses that takes a connection.
fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_WITHIN) {
            Ok(stream) => return Ok(stream),
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
            let late = "the TLS handshake did not come to an end in time; is this the control port?";
            return Err(io::Error::new(io::ErrorKind::TimedOut, late));
        }
        sock.set_read_timeout(Some(left))?;
        match conn.read_tls(sock) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
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

/// Asks the control plane.
pub fn ask(control: &Control, request: Request) -> Result<Response, ClientError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::Nobody(control.to_string()),
        io::ErrorKind::PermissionDenied => ClientError::NotPermitted(control.to_string()),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            ClientError::HungUp(control.to_string())
        }
        _ => ClientError::Io { control: control.to_string(), source },
    };
    let mut stream = control.open(failed)?;
    stream.write_all(&Message::Request(request).encode()?).map_err(failed)?;
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).map_err(failed)?;
    let length = envelope::length(prefix)?;
    if length > SMALL_ENVELOPE_BYTES_MAX {
        return Err(EnvelopeError::Length { length, ceiling: SMALL_ENVELOPE_BYTES_MAX }.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).map_err(failed)?;
    match Message::decode(&bytes)? {
        Message::Response(response) => Ok(response),
        other => Err(ClientError::Kind(other.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_that_is_not_answered_ends_in_time_however_slowly_bytes_come() {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let config = Arc::new(config);
        for trickles in [false, true] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = dial("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
            let (mut silent, _) = listener.accept().unwrap();
            let name = ServerName::try_from("control.test").unwrap();
            let connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            let begun = Instant::now();
            let trickling = std::thread::spawn(move || {
                // The head of a record that announces 4 KiB, and those one by one.
                for byte in [22, 3, 3, 16, 0].into_iter().chain(std::iter::repeat_n(2, 200)) {
                    if trickles && silent.write_all(&[byte]).is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            let error = shake(&mut stream, begun + Duration::from_millis(300)).unwrap_err();
            let took = begun.elapsed();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
            assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(1500), "{took:?}");
            drop(stream);
            trickling.join().unwrap();
        }
    }

    #[test]
    fn a_socket_that_nobody_answers_on_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("control.sock");
        let error = ask(&Control::Unix(missing.clone()), Request::Status).unwrap_err();
        assert!(error.to_string().contains("framegate run"), "{error}");
        drop(std::os::unix::net::UnixListener::bind(&missing).unwrap());
        assert!(matches!(ask(&Control::Unix(missing.clone()), Request::Status), Err(ClientError::Nobody(_))));
    }
}
