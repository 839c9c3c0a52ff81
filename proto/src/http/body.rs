//! Where the body of a response ends, RFC 9112 §6 and §7.
//!
//! For answers that are relayed as they come: nothing is decoded and nothing is held.

use super::list::is_token_byte;
use super::scan::is_value_byte;
use crate::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// The status has no body.
    None,
    /// This many bytes.
    Known(u64),
    /// In chunks: see [`ChunkTracker`].
    Chunked,
    /// Until the connection ends.
    UntilClose,
}

/// A chunked body breaks its grammar or a ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunked body is malformed")]
pub struct ChunkFault;

/// What a piece of a chunked body says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunked {
    /// All of it belongs to the body, and more is to come.
    More,
    /// The body ended with this many bytes of the piece.
    Ended(usize),
}

/// Follows a chunked body and says when it has ended, so that it can be relayed as it comes.
///
/// ```text
/// Size ─► Extension ─► SizeLf ─► Data ─► DataCr ─► DataLf ─► Size
///                         └─(0)─► LineStart ─► Name ─► Value ─► LineLf ─► LineStart
///                                     └─► EndLf ─► Ended
/// ```
#[derive(Debug, Clone)]
pub struct ChunkTracker {
    at: At,
    /// Bytes of this chunk's size line, or of the trailer section.
    line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Behind so many digits of the size.
    Size(u64, u8),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    LineStart,
    Name,
    Value,
    LineLf,
    EndLf,
    Ended,
}

impl Default for ChunkTracker {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkTracker {
    /// Before the first chunk.
    pub const fn new() -> Self {
        Self { at: At::Size(0, 0), line: 0 }
    }

    /// Looks at the next piece. After an end or a fault there is nothing to feed: the first takes 0 bytes more, the
    /// second stays.
    pub fn feed(&mut self, piece: &[u8]) -> Result<Chunked, ChunkFault> {
        let mut used = 0;
        while self.at != At::Ended {
            let Some(&byte) = piece.get(used) else { return Ok(Chunked::More) };
            if let At::Data(left @ 1..) = self.at {
                let here = left.min((piece.len() - used) as u64);
                used += here as usize;
                self.at = if left == here { At::DataCr } else { At::Data(left - here) };
                continue;
            }
            self.at = self.step(byte)?;
            used += 1;
        }
        Ok(Chunked::Ended(used))
    }

    fn step(&mut self, byte: u8) -> Result<At, ChunkFault> {
        self.line += 1;
        let ceiling = match self.at {
            At::LineStart | At::Name | At::Value | At::LineLf | At::EndLf => TRAILER_BYTES_MAX,
            _ => CHUNK_LINE_BYTES_MAX,
        };
        if self.line > ceiling {
            return Err(ChunkFault);
        }
        Ok(match (self.at, byte) {
            (At::Size(size, digits @ 0..16), _) if byte.is_ascii_hexdigit() => {
                At::Size(size * 16 + u64::from((byte as char).to_digit(16).unwrap_or(0)), digits + 1)
            }
            (At::Size(size, 1..), b';') => At::Extension(size),
            (At::Size(size, 1..) | At::Extension(size), b'\r') => At::SizeLf(size),
            (At::Extension(size), _) if is_value_byte(byte) => At::Extension(size),
            (At::SizeLf(0), b'\n') => self.begin(At::LineStart),
            (At::SizeLf(size), b'\n') => self.begin(At::Data(size)),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => self.begin(At::Size(0, 0)),
            (At::LineStart, b'\r') => At::EndLf,
            (At::LineStart | At::Name, _) if is_token_byte(byte) => At::Name,
            (At::Name, b':') => At::Value,
            (At::Value, b'\r') => At::LineLf,
            (At::Value, _) if is_value_byte(byte) => At::Value,
            (At::LineLf, b'\n') => At::LineStart,
            (At::EndLf, b'\n') => At::Ended,
            _ => return Err(ChunkFault),
        })
    }

    fn begin(&mut self, at: At) -> At {
        self.line = 0;
        at
    }
}
