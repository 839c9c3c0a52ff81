//! An operator's end of the control socket: one request, one answer, with deadlines.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::control::Message;
use proto::control::envelope::{self, EnvelopeError, PREFIX_BYTES};
use proto::control::message::{Request, Response};
use proto::limits::SMALL_ENVELOPE_BYTES_MAX;

/// How long the control plane may take: it reads a large file, and waits for nodes, within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no control plane answers on {}; is `framegate run` or `framegate controlplane` running? \
         (--control or FRAMEGATE_CONTROL names another socket)",
        .0.display()
    )]
    Nobody(PathBuf),
    /// The socket is not ours to use.
    #[error("the control socket {} belongs to another user; run this as that user or as root", .0.display())]
    NotPermitted(PathBuf),
    /// The control plane hung up.
    #[error("the control plane on {} ended the connection without an answer; its log says why", .0.display())]
    HungUp(PathBuf),
    /// The connection failed.
    #[error("the control plane on {} cannot be asked", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
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

/// Asks the control plane on this socket.
pub fn ask(socket: &Path, request: Request) -> Result<Response, ClientError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::Nobody(socket.into()),
        io::ErrorKind::PermissionDenied => ClientError::NotPermitted(socket.into()),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            ClientError::HungUp(socket.into())
        }
        _ => ClientError::Io { path: socket.into(), source },
    };
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
    stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(failed)?;
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
        let error = ask(&missing, Request::Status).unwrap_err();
        assert!(error.to_string().contains("framegate run"), "{error}");
        drop(std::os::unix::net::UnixListener::bind(&missing).unwrap());
        assert!(matches!(ask(&missing, Request::Status), Err(ClientError::Nobody(_))));
    }
}
