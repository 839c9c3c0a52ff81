//! Envelopes over a stream of bytes, with tokio. What the bytes mean is proto's.

use std::time::Duration;

use proto::control::Message;
use proto::control::envelope::{self, EnvelopeError, PREFIX_BYTES};
use proto::limits::SMALL_ENVELOPE_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// How long the end of a connection may take.
const END_WITHIN: Duration = Duration::from_secs(1);
/// How long a peer may take to receive one message, the largest push included.
const WRITE_WITHIN: Duration = Duration::from_secs(30);

/// Why a control connection is ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection failed, or ended inside a message.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// What came is no message.
    #[error("what came is no message of protocol version {}", proto::control::PROTOCOL_VERSION)]
    Envelope(#[from] EnvelopeError),
    /// The peer does not read.
    #[error("the peer has not read a message within {} s", WRITE_WITHIN.as_secs())]
    Stuck,
}

/// One half of a connection.
type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Reads messages.
pub struct Reader {
    stream: BufReader<ReadHalf>,
}

impl Reader {
    /// Over the reading half of a connection.
    pub fn new(stream: ReadHalf) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// The next message; `None` when the peer has ended the connection between two. Not cancel-safe: a connection
    /// whose read was dropped is to be ended.
    pub async fn message(&mut self) -> Result<Option<Message>, WireError> {
        let mut prefix = [0; PREFIX_BYTES];
        match self.stream.read(&mut prefix[..1]).await {
            Ok(0) => return Ok(None),
            // Over TLS: ended without a word, between two messages.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            outcome => outcome?,
        };
        self.stream.read_exact(&mut prefix[1..]).await?;
        let length = envelope::length(prefix)?;
        if length > SMALL_ENVELOPE_BYTES_MAX {
            // Only a push may be larger, and nobody pushes to us.
            return Err(EnvelopeError::Length { length, ceiling: SMALL_ENVELOPE_BYTES_MAX }.into());
        }
        let mut bytes = Vec::new();
        if (&mut self.stream).take(length as u64).read_to_end(&mut bytes).await? < length {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        Ok(Some(Message::decode(&bytes)?))
    }
}

/// Writes messages.
pub struct Writer {
    stream: WriteHalf,
}

impl Writer {
    /// Over the writing half of a connection.
    pub fn new(stream: WriteHalf) -> Self {
        Self { stream }
    }

    /// Writes one message, all of it.
    pub async fn message(&mut self, message: &Message) -> Result<(), WireError> {
        let bytes = message.encode()?;
        let written = tokio::time::timeout(WRITE_WITHIN, async {
            self.stream.write_all(&bytes).await?;
            // TLS may keep the end of it otherwise.
            self.stream.flush().await
        });
        written.await.map_err(|_| WireError::Stuck)??;
        Ok(())
    }

    /// Says that nothing more will come, where the connection has a word for it.
    pub async fn end(&mut self) {
        // The peer may have gone, or may not listen.
        let _ = tokio::time::timeout(END_WITHIN, self.stream.shutdown()).await;
    }
}
