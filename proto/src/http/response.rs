//! Response heads, RFC 9112 §4.
//!
//! As requests; interim responses (1xx other than 101) that stand before the response are passed over, and count towards
//! the ceiling of the head.

use std::mem::MaybeUninit;

use super::body::BodyLength;
use super::head::{FieldSpans, Fields, Framing, HeadFault, Span, fields};
use super::scan::HeadScan;
use crate::limits::HEADERS_MAX;
use crate::parse::Parse;

/// Looks for a response head in a buffer that grows. Each byte is looked at once.
#[derive(Debug, Clone)]
pub struct ResponseScan {
    scan: HeadScan,
    start: usize,
}

impl Default for ResponseScan {
    fn default() -> Self {
        Self::new()
    }
}

impl ResponseScan {
    /// For a connection that has said nothing yet.
    pub const fn new() -> Self {
        Self { scan: HeadScan::response(0), start: 0 }
    }

    /// `buf` is everything received so far: the bytes of the last call, and those that came since. The first answer
    /// that is not `Partial` is final; the bytes that it took include those of interim responses.
    pub fn feed(&mut self, buf: &[u8]) -> Result<Parse<ResponseHead>, HeadFault> {
        while let Some(end) = self.scan.feed(buf)? {
            let head = ResponseHead::complete(&buf[..end], self.start)?;
            if head.status == 101 || head.status >= 200 {
                return Ok(Parse::Complete(head, end));
            }
            self.start = end;
            self.scan = HeadScan::response(end);
        }
        Ok(Parse::Partial { need: self.scan.need() })
    }
}

/// A response head that is sound, as offsets into the buffer it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    status: u16,
    reason: Span,
    minor: u8,
    fields: Box<[FieldSpans]>,
    framing: Framing,
    chunked: bool,
    length: usize,
}

impl ResponseHead {
    /// Reads a head that is in `buf` as a whole, or not yet.
    pub fn parse(buf: &[u8]) -> Result<Parse<Self>, HeadFault> {
        ResponseScan::new().feed(buf)
    }

    /// Bytes that the head took, its blank line and the interim responses before it included.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How the body that follows is framed, RFC 9112 §6.3, the request having been a GET.
    pub fn body_length(&self) -> BodyLength {
        match (self.status, self.framing.content_length) {
            (100..=199 | 204 | 304, _) => BodyLength::None,
            _ if self.chunked => BodyLength::Chunked,
            (_, Some(length)) => BodyLength::Known(length),
            (_, None) => BodyLength::UntilClose,
        }
    }

    /// The head with its buffer, which begins with the bytes that it was read from.
    pub fn view<'a>(&'a self, buf: &'a [u8]) -> ResponseView<'a> {
        ResponseView { head: self, fields: Fields { spans: &self.fields, buf } }
    }

    /// `buf[start..]` is a head that the scan found sound and complete.
    fn complete(buf: &[u8], start: usize) -> Result<Self, HeadFault> {
        let mut storage = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, &buf[start..], &mut storage)
            .map_err(|_| HeadFault::Malformed)?;
        let (httparse::Status::Complete(length), Some(status @ 100..=599), Some(reason), Some(minor)) =
            (parsed, response.code, response.reason, response.version)
        else {
            return Err(HeadFault::Malformed);
        };
        if start + length != buf.len() {
            return Err(HeadFault::Malformed);
        }
        let (spans, framing) = fields(buf, response.headers, minor)?;
        let view = Fields { spans: &spans, buf };
        // One coding, the one that every reader of HTTP/1.1 has; what else is named could end elsewhere for another.
        let chunked = match view.only("transfer-encoding") {
            Ok(None) => false,
            Ok(Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => true,
            _ => return Err(HeadFault::Malformed),
        };
        let reason = Span::within(buf, reason.as_bytes());
        Ok(Self { status, reason, minor, fields: spans, framing, chunked, length: buf.len() })
    }
}

/// A response head to read from.
#[derive(Debug, Clone, Copy)]
pub struct ResponseView<'a> {
    head: &'a ResponseHead,
    fields: Fields<'a>,
}

impl<'a> ResponseView<'a> {
    /// The status.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The reason phrase; empty where it is not ASCII.
    pub fn reason(&self) -> &'a str {
        self.head.reason.text(self.fields.buf)
    }

    /// 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub fn minor(&self) -> u8 {
        self.head.minor
    }

    /// See [`ResponseHead::body_length`].
    pub fn body_length(&self) -> BodyLength {
        self.head.body_length()
    }

    /// Whether the head announces a body, whatever its status: a length other than 0, or a transfer coding.
    pub fn announces_body(&self) -> bool {
        self.head.framing.transfer_encoding || self.head.framing.content_length.is_some_and(|length| length != 0)
    }

    /// The header fields.
    pub fn fields(&self) -> Fields<'a> {
        self.fields
    }

    /// The value of the first field of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.fields.first(name)
    }

    /// The same as text, if it is UTF-8.
    pub fn header_str(&self, name: &str) -> Option<&'a str> {
        self.header(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The values of every field of this name.
    pub fn header_values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.fields.values(name)
    }

    /// Every field in order: name as written, value.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.fields.iter()
    }
}
