//! The control protocol: what the two planes, and an operator's command line, say to each other.
//!
//! An envelope is `u32` big-endian length, `u8` kind, payload; the length counts kind and payload. Payloads are
//! MessagePack maps with named fields; fields that a reader does not know are skipped, except inside a snapshot's
//! sections. docs/control-protocol.md describes it byte by byte. Framing is in [`envelope`], texts in [`message`].

pub mod envelope;
pub mod message;

pub use envelope::EnvelopeError;
pub use message::Message;

/// The version of the protocol that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;
