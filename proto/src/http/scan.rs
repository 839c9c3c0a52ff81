//! Where a head ends, one byte at a time and each byte once.
//!
//! ```text
//! Start ─► Method ─► Target ─► Version ─► LineLf ─► FieldStart ─► Name ─► Value ─► LineLf ─► …
//!   │ (a response)                                     └─► EndLf ─► done
//!   └─► Status ─► Reason ─► LineLf
//! ```
//!
//! Every rule that one byte and what stands before it can break is decided here, at that byte: so a garbage stream is
//! refused early, the work is linear however the bytes arrive, and the answer does not depend on how they were split.
//! What the fields mean together is decided once, when the head is complete.

use super::head::HeadFault;
use super::list::is_token_byte;
use crate::limits::{HEAD_BYTES_MAX, HEADERS_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX};

/// A scan in progress. Feed it the same buffer, grown, until it answers.
#[derive(Debug, Clone)]
pub(super) struct HeadScan {
    at: At,
    scanned: usize,
    fields: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a request line; one empty line may stand here, RFC 9112 §2.2.
    Start,
    /// Behind the CR of that empty line.
    StartLf,
    /// Where the request line must begin now.
    RequestLine,
    /// Behind so many bytes of the method.
    Method(usize),
    /// Behind so many bytes of the target.
    Target(usize),
    /// Behind so many bytes of `HTTP/1.x`.
    Version(usize),
    /// Behind so many bytes of `HTTP/1.x ddd`.
    Status(usize),
    Reason,
    LineLf,
    FieldStart,
    Name,
    Value,
    EndLf,
}

impl HeadScan {
    pub(super) const fn request() -> Self {
        Self { at: At::Start, scanned: 0, fields: 0 }
    }

    pub(super) const fn response(start: usize) -> Self {
        Self { at: At::Status(0), scanned: start, fields: 0 }
    }

    /// Looks at the bytes that are new; answers where the head ends once it does.
    pub(super) fn feed(&mut self, buf: &[u8]) -> Result<Option<usize>, HeadFault> {
        let end = buf.len().min(HEAD_BYTES_MAX);
        while let Some(&byte) = buf.get(self.scanned).filter(|_| self.scanned < end) {
            self.scanned += 1;
            if self.at == At::EndLf {
                return if byte == b'\n' { Ok(Some(self.scanned)) } else { Err(HeadFault::Malformed) };
            }
            self.at = self.step(byte)?;
            if self.at == At::Value {
                // Most of a head is field values: pass over them in a loop of their own.
                let rest = &buf[self.scanned..end];
                self.scanned += rest.iter().position(|byte| !is_value_byte(*byte)).unwrap_or(rest.len());
            }
        }
        if self.scanned == HEAD_BYTES_MAX { Err(HeadFault::TooLarge) } else { Ok(None) }
    }

    /// Bytes that are necessary to say more.
    pub(super) fn need(&self) -> usize {
        self.scanned + if self.at == At::FieldStart { 2 } else { 1 }
    }

    fn step(&mut self, byte: u8) -> Result<At, HeadFault> {
        const BAD: HeadFault = HeadFault::Malformed;
        Ok(match (self.at, byte) {
            (At::Start, b'\r') => At::StartLf,
            (At::StartLf, b'\n') => At::RequestLine,
            (At::Start | At::RequestLine, _) if is_token_byte(byte) => At::Method(1),
            (At::Method(_), b' ') => At::Target(0),
            (At::Method(length), _) if is_token_byte(byte) && length < METHOD_BYTES_MAX => At::Method(length + 1),
            (At::Target(1..), b' ') => At::Version(0),
            (At::Target(TARGET_BYTES_MAX), 0x21..=0x7e) => return Err(HeadFault::TargetTooLong),
            (At::Target(length), 0x21..=0x7e) if byte != b'#' => At::Target(length + 1),
            (At::Version(8), b'\r') => At::LineLf,
            (At::Version(length @ 0..8), _) => version_byte(length, byte).map(|()| At::Version(length + 1))?,
            (At::Status(length @ 0..8), _) => version_byte(length, byte).map(|()| At::Status(length + 1))?,
            (At::Status(8), b' ') => At::Status(9),
            (At::Status(length @ 9..12), b'0'..=b'9') => At::Status(length + 1),
            (At::Status(12), b' ') => At::Reason,
            (At::Status(12) | At::Reason | At::Value, b'\r') => At::LineLf,
            (At::Reason, _) if is_value_byte(byte) => At::Reason,
            (At::LineLf, b'\n') => At::FieldStart,
            (At::FieldStart, b'\r') => At::EndLf,
            (At::FieldStart, _) if is_token_byte(byte) => {
                self.fields += 1;
                if self.fields > HEADERS_MAX {
                    return Err(HeadFault::TooLarge);
                }
                At::Name
            }
            (At::Name, b':') => At::Value,
            (At::Name, _) if is_token_byte(byte) => At::Name,
            (At::Value, _) if is_value_byte(byte) => At::Value,
            _ => return Err(BAD),
        })
    }
}

/// The byte at this place of `HTTP/1.0` or `HTTP/1.1`. Another digit is another version, anything else is not HTTP.
fn version_byte(place: usize, byte: u8) -> Result<(), HeadFault> {
    match (place, byte) {
        (7, b'0' | b'1') => Ok(()),
        (place, byte) if place < 7 && b"HTTP/1."[place] == byte => Ok(()),
        (5 | 7, b'0'..=b'9') => Err(HeadFault::Version),
        _ => Err(HeadFault::Malformed),
    }
}

/// RFC 9110 §5.5: visible characters, space, tab, and the bytes above ASCII.
pub(super) const fn is_value_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x20..=0x7e | 0x80..)
}
