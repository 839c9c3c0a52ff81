//! The answers that are not a 101: the gateway's own refusals, and what an endpoint said instead of switching.
//!
//! Every one of them ends the connection: a refused upgrade that stays open is the beginning of a smuggled request.

use super::body::BodyLength;
use super::head::{BadField, Fields, all_or_nothing, write_field};
use super::response::ResponseView;

/// Appends a whole answer in plain text: head with `Connection: close`, and `body` with a line end.
///
/// A 426 says what to upgrade to, a 405 what is allowed. Everything else that belongs into the head, `Retry-After` of a
/// 503 for instance, comes in `extra`. The answer to a HEAD request is one with an empty body.
pub fn write_refusal(out: &mut Vec<u8>, status: u16, extra: &[(&str, &str)], body: &str) -> Result<(), BadField> {
    all_or_nothing(out, |out| {
        status_line(out, status, reason_phrase(status));
        close(out, status);
        match status {
            405 => out.extend_from_slice(b"Allow: GET\r\n"),
            426 => out.extend_from_slice(b"Sec-WebSocket-Version: 13\r\n"),
            _ => {}
        }
        let end = if body.is_empty() {
            ""
        } else {
            out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
            "\n"
        };
        write_field(out, "Content-Length", (body.len() + end.len()).to_string().as_bytes())?;
        for (name, value) in extra {
            write_field(out, name, value.as_bytes())?;
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body.as_bytes());
        out.extend_from_slice(end.as_bytes());
        Ok(())
    })
}

/// Appends a whole answer in the words of somebody who was asked, and who says no: its status, a few of its fields, and
/// what was taken of its body.
pub fn write_dictated(out: &mut Vec<u8>, status: u16, fields: &[(&str, &[u8])], body: &[u8]) -> Result<(), BadField> {
    all_or_nothing(out, |out| {
        status_line(out, status, reason_phrase(status));
        close(out, status);
        write_field(out, "Content-Length", body.len().to_string().as_bytes())?;
        for (name, value) in fields {
            write_field(out, name, value)?;
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
        Ok(())
    })
}

/// Appends the head under which an endpoint's answer other than a 101 is relayed; its body follows raw, as the answer
/// says: so many bytes, as many as a [`ChunkTracker`](super::ChunkTracker) counts, or all until the endpoint closes.
///
/// Fields that concern one connection only are left out, those that `Connection` names among them, and those of a
/// handshake that did not happen.
pub fn write_relayed_head(
    out: &mut Vec<u8>,
    response: &ResponseView<'_>,
    extra: &[(&str, &str)],
) -> Result<BodyLength, BadField> {
    let body = response.body_length();
    all_or_nothing(out, |out| {
        let status = response.status();
        let reason = match response.reason() {
            "" => reason_phrase(status),
            reason => reason,
        };
        status_line(out, status, reason);
        close(out, status);
        match body {
            BodyLength::Known(length) => write_field(out, "Content-Length", length.to_string().as_bytes())?,
            BodyLength::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            BodyLength::None | BodyLength::UntilClose => {}
        }
        let fields = response.fields();
        let nominated = Nominated::of(&fields);
        for (name, value) in fields.iter() {
            let ours = extra.iter().any(|(ours, _)| ours.eq_ignore_ascii_case(name));
            if !ours && !is_hop_by_hop(name) && !is_switch_only(name) && !nominated.names(name) {
                write_field(out, name, value)?;
            }
        }
        for (name, value) in extra {
            write_field(out, name, value.as_bytes())?;
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    })?;
    Ok(body)
}

fn status_line(out: &mut Vec<u8>, status: u16, reason: &str) {
    out.extend_from_slice(format!("HTTP/1.1 {status:03} {reason}\r\n").as_bytes());
}

/// RFC 9110 §15.5.22 wants `Upgrade` in a 426, and §7.8 wants `Connection` to name it.
fn close(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(match status {
        426 => b"Connection: close, Upgrade\r\nUpgrade: websocket\r\n".as_slice(),
        _ => b"Connection: close\r\n".as_slice(),
    });
}

/// Fields of a response that only a 101 may carry.
fn is_switch_only(name: &str) -> bool {
    ["sec-websocket-accept", "sec-websocket-protocol", "sec-websocket-extensions"]
        .iter()
        .any(|own| own.eq_ignore_ascii_case(name))
}

/// Whether a field concerns one connection only, RFC 9110 §7.6.1, or the framing that is written anew.
pub(crate) fn is_hop_by_hop(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.iter().any(|own| own.eq_ignore_ascii_case(name)) || starts_with(name, "proxy-")
}

/// Whether the name begins with this, without regard to case.
pub(crate) fn starts_with(name: &str, prefix: &str) -> bool {
    name.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// What the `Connection` fields of a head nominate.
pub(crate) struct Nominated<'a> {
    options: Vec<&'a [u8]>,
}

impl<'a> Nominated<'a> {
    pub(crate) fn of(fields: &Fields<'a>) -> Self {
        Self { options: fields.list("connection").collect() }
    }

    pub(crate) fn names(&self, name: &str) -> bool {
        self.options.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// The phrase that the registry has for a status; empty for others.
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        414 => "URI Too Long",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
