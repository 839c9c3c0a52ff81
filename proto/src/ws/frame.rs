//! Frame headers, RFC 6455 §5.2.
//!
//! ```text
//!  0               1               2               3
//!  0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7
//! +-+-+-+-+-------+-+-------------+-------------------------------+
//! |F|R|R|R| opcode|M| length (7)  | 126: 16 bits, 127: 64 bits     |
//! +-+-+-+-+-------+-+-------------+-------------------------------+
//! | masking key, if M                                             |
//! +---------------------------------------------------------------+
//! ```
//!
//! [`parse`] looks at the first bytes only, consumes nothing, and refuses what a header alone can break, before
//! anybody waits for or allocates a payload. Which frame may follow which is the session's business.

use super::Sender;
use super::violation::Violation;
use crate::limits::{CONTROL_PAYLOAD_MAX, FRAME_HEADER_MAX};
pub use crate::parse::Parse;

/// What a frame carries, §5.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// A further fragment of the message that has begun.
    Continuation,
    /// The first or only fragment of a text message.
    Text,
    /// The first or only fragment of a binary message.
    Binary,
    /// Closing handshake.
    Close,
    /// Are you there?
    Ping,
    /// I am.
    Pong,
}

impl Opcode {
    /// From the low four bits of a frame's first byte; `None` for those that are reserved.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    /// As the low four bits of a frame's first byte.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    /// Whether it is a control frame, §5.5.
    pub const fn is_control(self) -> bool {
        self.bits() & 0x8 != 0
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The last fragment of its message.
    pub fin: bool,
    /// RSV1: compressed, where permessage-deflate is agreed (RFC 7692 §6).
    pub rsv1: bool,
    /// What it carries.
    pub opcode: Opcode,
    /// The masking key, if masked.
    pub mask: Option<[u8; 4]>,
    /// Payload bytes, at most [`FRAME_PAYLOAD_MAX`](crate::limits::FRAME_PAYLOAD_MAX).
    pub length: u64,
}

/// Reads the header at the start of `bytes`, sent by `sender`, where RSV1 has a meaning or not.
///
/// A rule that the first two bytes break is told from the first two bytes.
pub fn parse(bytes: &[u8], sender: Sender, rsv1_allowed: bool) -> Result<Parse<FrameHeader>, Violation> {
    let [first, second, rest @ ..] = bytes else {
        // Even the first byte alone can break a rule; saying so does not wait for the second.
        if let [first] = bytes {
            first_byte(*first, rsv1_allowed)?;
        }
        return Ok(Parse::Partial { need: 2 });
    };
    let (fin, rsv1, opcode) = first_byte(*first, rsv1_allowed)?;
    let masked = second & 0x80 != 0;
    match sender {
        Sender::Client if !masked => return Err(Violation::Unmasked),
        Sender::Server if masked => return Err(Violation::Masked),
        _ => {}
    }
    let short = second & 0x7f;
    if opcode.is_control() && short as usize > CONTROL_PAYLOAD_MAX {
        return Err(Violation::LongControl);
    }
    let extended = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let need = 2 + extended + if masked { 4 } else { 0 };
    let length = match (short, rest) {
        (126, [a, b, ..]) => match u16::from_be_bytes([*a, *b]) {
            0..=125 => return Err(Violation::BadLength),
            length => u64::from(length),
        },
        (127, [a, b, c, d, e, f, g, h, ..]) => match u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) {
            0..=0xffff | 0x8000_0000_0000_0000.. => return Err(Violation::BadLength),
            length => length,
        },
        (126 | 127, _) => return Ok(Parse::Partial { need }),
        (short, _) => u64::from(short),
    };
    let mask = match rest.get(extended..) {
        Some([a, b, c, d, ..]) if masked => Some([*a, *b, *c, *d]),
        _ if masked => return Ok(Parse::Partial { need }),
        _ => None,
    };
    Ok(Parse::Complete(FrameHeader { fin, rsv1, opcode, mask, length }, need))
}

fn first_byte(first: u8, rsv1_allowed: bool) -> Result<(bool, bool, Opcode), Violation> {
    let fin = first & 0x80 != 0;
    let rsv1 = first & 0x40 != 0;
    if first & 0x30 != 0 || (rsv1 && !rsv1_allowed) {
        return Err(Violation::ReservedBit);
    }
    let opcode = Opcode::from_bits(first & 0x0f).ok_or(Violation::ReservedOpcode)?;
    if opcode.is_control() && !fin {
        return Err(Violation::FragmentedControl);
    }
    // RFC 7692 §6.1: only the first fragment of a data message carries the bit.
    if rsv1 && (opcode.is_control() || opcode == Opcode::Continuation) {
        return Err(Violation::ReservedBit);
    }
    Ok((fin, rsv1, opcode))
}

impl FrameHeader {
    /// A header for a control frame that the gateway sends.
    pub const fn control(opcode: Opcode, mask: Option<[u8; 4]>, length: usize) -> Self {
        Self { fin: true, rsv1: false, opcode, mask, length: length as u64 }
    }

    /// Writes the header in its shortest form and returns its bytes and their number.
    pub fn encode(&self) -> ([u8; FRAME_HEADER_MAX], usize) {
        let mut bytes = [0; FRAME_HEADER_MAX];
        bytes[0] = (u8::from(self.fin) << 7) | (u8::from(self.rsv1) << 6) | self.opcode.bits();
        let masked = u8::from(self.mask.is_some()) << 7;
        let mut end = match self.length {
            0..=125 => {
                bytes[1] = masked | self.length as u8;
                2
            }
            126..=0xffff => {
                bytes[1] = masked | 126;
                bytes[2..4].copy_from_slice(&(self.length as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = masked | 127;
                bytes[2..10].copy_from_slice(&self.length.to_be_bytes());
                10
            }
        };
        if let Some(key) = self.mask {
            bytes[end..end + 4].copy_from_slice(&key);
            end += 4;
        }
        (bytes, end)
    }
}

/// Appends a whole control frame to `out`; `payload` is at most 125 bytes, and is masked when `mask` is given.
pub fn write_control(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) {
    debug_assert!(opcode.is_control() && payload.len() <= CONTROL_PAYLOAD_MAX);
    let (header, length) = FrameHeader::control(opcode, mask, payload.len()).encode();
    out.extend_from_slice(&header[..length]);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = mask {
        super::mask::apply(&mut out[start..], key, 0);
    }
}
