//! The ways a peer can break RFC 6455 after its handshake, and the close code that answers each.

use super::close::CloseCode;

/// A rule that a peer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A reserved bit without an extension that gives it a meaning, §5.2.
    ReservedBit,
    /// An opcode that is not defined, §5.2.
    ReservedOpcode,
    /// A client's frame without a mask, §5.1.
    Unmasked,
    /// A server's frame with one, §5.1.
    Masked,
    /// A control frame in fragments, §5.5.
    FragmentedControl,
    /// A control frame of more than 125 bytes, §5.5.
    LongControl,
    /// A length that was not written in the fewest bytes, or with its top bit set, §5.2.
    BadLength,
    /// A continuation where no message has begun, §5.4.
    UnexpectedContinuation,
    /// A new message before the last one ended, §5.4.
    ExpectedContinuation,
    /// A close frame with a payload of one byte, §5.5.1.
    BadClosePayload,
    /// A close code that must not be sent, §7.4.
    BadCloseCode,
    /// A text message, or a close reason, that is not UTF-8, §8.1.
    NotUtf8,
    /// A frame over the route's ceiling.
    FrameTooLarge,
    /// A message over the route's ceiling.
    MessageTooLarge,
    /// More fragments than the route's ceiling.
    TooManyFragments,
    /// More control frames in a second than the route's ceiling.
    ControlFlood,
}

impl Violation {
    /// Every violation, for tables, metrics and tests.
    pub const ALL: [Self; 16] = [
        Self::ReservedBit,
        Self::ReservedOpcode,
        Self::Unmasked,
        Self::Masked,
        Self::FragmentedControl,
        Self::LongControl,
        Self::BadLength,
        Self::UnexpectedContinuation,
        Self::ExpectedContinuation,
        Self::BadClosePayload,
        Self::BadCloseCode,
        Self::NotUtf8,
        Self::FrameTooLarge,
        Self::MessageTooLarge,
        Self::TooManyFragments,
        Self::ControlFlood,
    ];

    /// Close code, log word, and the reason that the offender reads.
    pub const fn row(self) -> (CloseCode, &'static str, &'static str) {
        match self {
            Self::ReservedBit => (CloseCode::PROTOCOL_ERROR, "reserved_bit", "reserved bit set"),
            Self::ReservedOpcode => (CloseCode::PROTOCOL_ERROR, "reserved_opcode", "reserved opcode"),
            Self::Unmasked => (CloseCode::PROTOCOL_ERROR, "unmasked", "client frame not masked"),
            Self::Masked => (CloseCode::PROTOCOL_ERROR, "masked", "server frame masked"),
            Self::FragmentedControl => (CloseCode::PROTOCOL_ERROR, "fragmented_control", "control frame fragmented"),
            Self::LongControl => (CloseCode::PROTOCOL_ERROR, "long_control", "control frame too long"),
            Self::BadLength => (CloseCode::PROTOCOL_ERROR, "bad_length", "bad frame length"),
            Self::UnexpectedContinuation => {
                (CloseCode::PROTOCOL_ERROR, "unexpected_continuation", "continuation without a message")
            }
            Self::ExpectedContinuation => {
                (CloseCode::PROTOCOL_ERROR, "expected_continuation", "message inside a message")
            }
            Self::BadClosePayload => (CloseCode::PROTOCOL_ERROR, "bad_close_payload", "close payload of one byte"),
            Self::BadCloseCode => (CloseCode::PROTOCOL_ERROR, "bad_close_code", "bad close code"),
            Self::NotUtf8 => (CloseCode::INVALID_PAYLOAD, "not_utf8", "not UTF-8"),
            Self::FrameTooLarge => (CloseCode::TOO_BIG, "frame_too_large", "frame too large"),
            Self::MessageTooLarge => (CloseCode::TOO_BIG, "message_too_large", "message too large"),
            Self::TooManyFragments => (CloseCode::POLICY, "too_many_fragments", "too many fragments"),
            Self::ControlFlood => (CloseCode::POLICY, "control_flood", "too many control frames"),
        }
    }

    /// The code that the offender is closed with.
    pub const fn code(self) -> CloseCode {
        self.row().0
    }

    /// The metric label and log word.
    pub const fn word(self) -> &'static str {
        self.row().1
    }

    /// The close reason that the offender reads.
    pub const fn reason(self) -> &'static str {
        self.row().2
    }
}
