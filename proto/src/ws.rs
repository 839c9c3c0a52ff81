//! RFC 6455: frames, masking, handshakes, fragmentation, close codes, violations.

pub mod close;
pub mod extension;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod utf8;
pub mod violation;

pub use close::{CloseCode, ClosePayload};
pub use frame::{FrameHeader, Opcode, Parse};
pub use utf8::Utf8;
pub use violation::Violation;

/// Who sends a frame, and so whether it is masked, RFC 6455 §5.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// A client: masks every frame.
    Client,
    /// A server: masks none.
    Server,
}
