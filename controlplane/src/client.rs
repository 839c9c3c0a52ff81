//! An operator's end of the control link: one request, one answer, with deadlines.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::control::envelope::{self, EnvelopeError, PREFIX_BYTES};
use proto::control::message::{Request, Response};
use proto::control::{Address, Message};
use proto::limits::SMALL_ENVELOPE_BYTES_MAX;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::credentials::{CredentialsError, Files};

/// How long a connection over TCP may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
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
                stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
                stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
                let connection = ClientConnection::new(Arc::new(config), name);
                let connection = connection.map_err(|error| failed(io::Error::other(error)))?;
                Ok(Box::new(StreamOwned::new(connection, stream)))
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
    fn a_socket_that_nobody_answers_on_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("control.sock");
        let error = ask(&Control::Unix(missing.clone()), Request::Status).unwrap_err();
        assert!(error.to_string().contains("framegate run"), "{error}");
        drop(std::os::unix::net::UnixListener::bind(&missing).unwrap());
        assert!(matches!(ask(&Control::Unix(missing.clone()), Request::Status), Err(ClientError::Nobody(_))));
    }
}
