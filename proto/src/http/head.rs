//! What request and response heads share: offsets, header fields, faults, and the rules between fields.
//!
//! A head holds offsets into the buffer it was read from, because that buffer is lent to the kernel in between; a view
//! joins the two for as long as somebody looks.

use super::list::{elements, is_token};
use super::scan::is_value_byte;
use crate::limits::CONNECTION_OPTIONS_MAX;

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HeadFault {
    /// Not HTTP/1.1 as RFC 9112 has it, or one of the smuggling shapes.
    #[error("the head is malformed")]
    Malformed,
    /// Over `HEAD_BYTES_MAX` or `HEADERS_MAX`.
    #[error("the head is too large")]
    TooLarge,
    /// Over `TARGET_BYTES_MAX`.
    #[error("the request target is too long")]
    TargetTooLong,
    /// HTTP, but neither 1.0 nor 1.1.
    #[error("the HTTP version is not spoken here")]
    Version,
}

/// A range of the buffer that a head was read from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first byte.
    pub start: u32,
    /// One past the last; never less than `start`.
    pub end: u32,
}

impl Span {
    /// From offsets below `HEAD_BYTES_MAX`.
    pub(super) fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= crate::limits::HEAD_BYTES_MAX);
        Self { start: start as u32, end: end as u32 }
    }

    /// Where `part` lies within `buf`; it is a slice of it.
    pub(super) fn within(buf: &[u8], part: &[u8]) -> Self {
        // An empty part may point anywhere: httparse gives a constant for an empty value.
        let start = (part.as_ptr() as usize).wrapping_sub(buf.as_ptr() as usize);
        if part.is_empty() || start > buf.len() { Self::default() } else { Self::new(start, start + part.len()) }
    }

    /// The bytes, in the buffer that the head was read from.
    pub fn of(self, buf: &[u8]) -> &[u8] {
        &buf[self.start as usize..self.end as usize]
    }

    /// The bytes as text; the empty text where they are not UTF-8.
    pub(super) fn text(self, buf: &[u8]) -> &str {
        simdutf8::basic::from_utf8(self.of(buf)).unwrap_or_default()
    }
}

/// One header field, as offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FieldSpans {
    pub(super) name: Span,
    pub(super) value: Span,
}

/// The header fields of a head, with their buffer.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    pub(super) spans: &'a [FieldSpans],
    pub(super) buf: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Every field in order: name as it was written, value without the whitespace around it.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let buf = self.buf;
        self.spans.iter().map(move |field| (field.name.text(buf), field.value.of(buf)))
    }

    /// The values of every field of this name, in order. Names are compared without regard to case.
    pub fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let buf = self.buf;
        let named = move |field: &&FieldSpans| field.name.of(buf).eq_ignore_ascii_case(name.as_bytes());
        self.spans.iter().filter(named).map(move |field| field.value.of(buf))
    }

    /// The value of the first field of this name.
    pub fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.values(name).next()
    }

    /// The value of the one field of this name: `Ok(None)` without one, `Err` with several.
    pub fn only(&self, name: &str) -> Result<Option<&'a [u8]>, Repeated> {
        let mut values = self.values(name);
        let first = values.next();
        if values.next().is_some() { Err(Repeated) } else { Ok(first) }
    }

    /// The elements of every field of this name, as one list of tokens.
    pub fn list<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.values(name).flat_map(elements)
    }

    /// Whether a list holds this token, without regard to case.
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.list(name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// A field that may stand once stands several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the field is repeated")]
pub struct Repeated;

/// What the fields say about a body, RFC 9112 §6.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Framing {
    pub(super) content_length: Option<u64>,
    pub(super) transfer_encoding: bool,
}

/// Copies httparse's fields into offsets and decides what they break together.
pub(super) fn fields(
    buf: &[u8],
    parsed: &[httparse::Header<'_>],
    minor: u8,
) -> Result<(Box<[FieldSpans]>, Framing), HeadFault> {
    let spans: Box<[FieldSpans]> = parsed
        .iter()
        .map(|field| FieldSpans {
            name: Span::within(buf, field.name.as_bytes()),
            value: Span::within(buf, field.value),
        })
        .collect();
    let fields = Fields { spans: &spans, buf };
    if fields.list("connection").nth(CONNECTION_OPTIONS_MAX).is_some() {
        return Err(HeadFault::TooLarge);
    }
    let framing = framing(&fields, minor)?;
    Ok((spans, framing))
}

/// Two lengths, or a length and a coding, are refused even where they agree: whoever is behind us may read the other.
fn framing(fields: &Fields<'_>, minor: u8) -> Result<Framing, HeadFault> {
    let length = fields.only("content-length").map_err(|_| HeadFault::Malformed)?;
    let content_length = length.map(content_length).transpose()?;
    let transfer_encoding = fields.first("transfer-encoding").is_some();
    if transfer_encoding && (content_length.is_some() || minor == 0) {
        return Err(HeadFault::Malformed);
    }
    Ok(Framing { content_length, transfer_encoding })
}

/// Digits only: `+5`, `5, 5`, and what does not fit are refused.
fn content_length(value: &[u8]) -> Result<u64, HeadFault> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadFault::Malformed);
    }
    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(HeadFault::Malformed)
}

/// A field that the gateway wants to add cannot be written: its name is no token, or its value would break the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header field {name:?} cannot be written")]
pub struct BadField {
    /// The name.
    pub name: String,
}

/// Appends one field line.
pub(crate) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), BadField> {
    if !is_token(name.as_bytes()) || !value.iter().all(|byte| is_value_byte(*byte)) {
        return Err(BadField { name: name.into() });
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends what `write` writes, or nothing when it fails.
pub(crate) fn all_or_nothing<E>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    let start = out.len();
    write(out).inspect_err(|_| out.truncate(start))
}
