//! Request heads, RFC 9112 §3.
//!
//! [`RequestScan`] is fed the growing buffer and answers once; [`RequestHead`] keeps offsets; [`RequestView`] reads.

use std::borrow::Cow;
use std::mem::MaybeUninit;

use super::head::{FieldSpans, Fields, Framing, HeadFault, Span, fields};
use super::host::{BadHost, Host};
use super::scan::HeadScan;
use super::target::{self, Target};
use crate::limits::HEADERS_MAX;
use crate::parse::Parse;

/// Looks for a request head in a buffer that grows. Each byte is looked at once.
#[derive(Debug, Clone)]
pub struct RequestScan {
    scan: HeadScan,
}

impl Default for RequestScan {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestScan {
    /// For a connection that has said nothing yet.
    pub const fn new() -> Self {
        Self { scan: HeadScan::request() }
    }

    /// `buf` is everything received so far: the bytes of the last call, and those that came since. The first answer
    /// that is not `Partial` is final.
    pub fn feed(&mut self, buf: &[u8]) -> Result<Parse<RequestHead>, HeadFault> {
        match self.scan.feed(buf)? {
            Some(end) => RequestHead::complete(&buf[..end]).map(|head| Parse::Complete(head, end)),
            None => Ok(Parse::Partial { need: self.scan.need() }),
        }
    }
}

/// A request head that is sound, as offsets into the buffer it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    method: Span,
    target: Span,
    parts: Target,
    minor: u8,
    fields: Box<[FieldSpans]>,
    framing: Framing,
    length: usize,
}

impl RequestHead {
    /// Reads a head that is in `buf` as a whole, or not yet.
    pub fn parse(buf: &[u8]) -> Result<Parse<Self>, HeadFault> {
        RequestScan::new().feed(buf)
    }

    /// Bytes that the head took, its blank line included.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The head with its buffer, which begins with the bytes that it was read from.
    pub fn view<'a>(&'a self, buf: &'a [u8]) -> RequestView<'a> {
        RequestView { head: self, fields: Fields { spans: &self.fields, buf } }
    }

    /// `buf` is a head that the scan found sound and complete.
    fn complete(buf: &[u8]) -> Result<Self, HeadFault> {
        let mut storage = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let parsed = httparse::ParserConfig::default()
            .parse_request_with_uninit_headers(&mut request, buf, &mut storage)
            .map_err(|_| HeadFault::Malformed)?;
        let (httparse::Status::Complete(length), Some(method), Some(target), Some(minor)) =
            (parsed, request.method, request.path, request.version)
        else {
            return Err(HeadFault::Malformed);
        };
        if length != buf.len() {
            return Err(HeadFault::Malformed);
        }
        let target = Span::within(buf, target.as_bytes());
        let parts = target::split(buf, target)?;
        let (fields, framing) = fields(buf, request.headers, minor)?;
        let method = Span::within(buf, method.as_bytes());
        Ok(Self { method, target, parts, minor, fields, framing, length })
    }
}

/// A request head to read from.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    head: &'a RequestHead,
    fields: Fields<'a>,
}

impl<'a> RequestView<'a> {
    /// The method, as it was written: methods are case-sensitive.
    pub fn method(&self) -> &'a str {
        self.head.method.text(self.fields.buf)
    }

    /// The target, whole.
    pub fn target(&self) -> &'a str {
        self.head.target.text(self.fields.buf)
    }

    /// The path as it was written, sound in the sense of `http::target`; `/` if the target has none.
    pub fn path(&self) -> &'a str {
        match self.head.parts.path.text(self.fields.buf) {
            "" => "/",
            path => path,
        }
    }

    /// The path as routes compare it, without escapes that need not be.
    pub fn route_path(&self) -> Cow<'a, str> {
        target::routable(self.path())
    }

    /// What follows the first `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.head.parts.query.map(|query| query.text(self.fields.buf))
    }

    /// 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub fn minor(&self) -> u8 {
        self.head.minor
    }

    /// The host that is asked for. There is exactly one `Host` field, and it is sound; a target in absolute form
    /// overrides what it says, RFC 9112 §3.2.2.
    pub fn host(&self) -> Result<Host, BadHost> {
        let field = self.fields.only("host").ok().flatten().ok_or(BadHost)?;
        let host = Host::parse(field)?;
        match self.head.parts.authority {
            Some(authority) => Host::parse(authority.of(self.fields.buf)),
            None => Ok(host),
        }
    }

    /// What [`host`](Self::host) was read from, as it was written; empty if there is nothing of the kind.
    pub fn authority(&self) -> &'a str {
        match self.head.parts.authority {
            Some(authority) => authority.text(self.fields.buf),
            None => self.header_str("host").unwrap_or_default(),
        }
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

    /// Whether the head announces a body: a length other than 0, or any transfer coding.
    pub fn has_body(&self) -> bool {
        self.head.framing.transfer_encoding || self.head.framing.content_length.is_some_and(|length| length != 0)
    }
}
