//! Request targets, RFC 9112 §3.2, and which paths may be routed.
//!
//! | in a path | answer |
//! |---|---|
//! | `.` and `..` segments, plain, `%2e`, or with `;parameters` | refused |
//! | empty segments (`//`) | refused: the next server may merge them |
//! | `%2f`, `%5c`, `\` | refused: the next server may take them for a slash |
//! | `%00`-`%1f`, `%7f` | refused: they end strings and lines elsewhere |
//! | `%` without two hexadecimal digits | refused |
//! | other escapes | kept, and forwarded as they came; [`routable`] decodes those that need not be escapes |
//!
//! So no path that is routed as one place can be another place to a server that normalises it. Queries are kept as they
//! came: browsers send unescaped `%` there, and nothing is routed by them.

use std::borrow::Cow;

use super::head::{HeadFault, Span};

/// A target, in parts. The offsets are into the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) authority: Option<Span>,
    pub(super) path: Span,
    pub(super) query: Option<Span>,
}

/// Splits the target and refuses the forms that are not a resource here: `*`, `host:port`, other schemes.
pub(super) fn split(buf: &[u8], target: Span) -> Result<Target, HeadFault> {
    let text = target.of(buf);
    let base = target.start as usize;
    let end = target.end as usize;
    let (authority, path_start) = match text {
        [b'/', ..] => (None, base),
        _ => {
            let scheme = ["http://", "https://"]
                .into_iter()
                .find(|scheme| text.get(..scheme.len()).is_some_and(|got| got.eq_ignore_ascii_case(scheme.as_bytes())))
                .ok_or(HeadFault::Malformed)?;
            let start = base + scheme.len();
            let length = buf[start..end].iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(end - start);
            (Some(Span::new(start, start + length)), start + length)
        }
    };
    let query = buf[path_start..end].iter().position(|byte| *byte == b'?').map(|at| path_start + at);
    let path = Span::new(path_start, query.unwrap_or(end));
    check_path(path.of(buf))?;
    Ok(Target { authority, path, query: query.map(|at| Span::new(at + 1, end)) })
}

/// Refuses what the table above refuses. The empty path of `http://host` stands for `/`.
pub fn check_path(path: &[u8]) -> Result<(), HeadFault> {
    let mut segments = path.split(|byte| *byte == b'/');
    match segments.next() {
        Some([]) => {}
        _ => return Err(HeadFault::Malformed),
    }
    let mut segments = segments.peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        if (segment.is_empty() && !last) || !is_sound(segment) || is_dots(segment) {
            return Err(HeadFault::Malformed);
        }
    }
    Ok(())
}

fn is_sound(segment: &[u8]) -> bool {
    let mut rest = segment;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => match unescape(*high, *low) {
                None | Some(0..=0x1f | 0x7f | b'/' | b'\\') => return false,
                Some(_) => tail,
            },
            (b'%' | b'\\', _) => return false,
            (0x21..=0x7e, tail) => tail,
            _ => return false,
        };
    }
    true
}

/// Whether the segment is `.` or `..`, in any spelling, up to a `;`.
fn is_dots(segment: &[u8]) -> bool {
    let mut rest = segment;
    let mut dots = 0;
    loop {
        rest = match rest {
            [] | [b';', ..] | [b'%', b'3', b'B' | b'b', ..] => return dots == 1 || dots == 2,
            [b'.', tail @ ..] | [b'%', b'2', b'E' | b'e', tail @ ..] => tail,
            _ => return false,
        };
        dots += 1;
    }
}

/// The path as routes compare it: escapes of letters, digits and `-._~` are decoded, RFC 3986 §6.2.2.2, and the digits
/// of the other escapes are upper-case. The path has passed [`check_path`]; an empty one is `/`.
pub fn routable(path: &str) -> Cow<'_, str> {
    if path.is_empty() {
        return Cow::Borrowed("/");
    }
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let bytes = rest.as_bytes();
        match (bytes.get(at + 1), bytes.get(at + 2)) {
            (Some(high), Some(low)) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                match unescape(*high, *low) {
                    Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => plain.push(byte as char),
                    _ => {
                        plain.push('%');
                        plain.push(high.to_ascii_uppercase() as char);
                        plain.push(low.to_ascii_uppercase() as char);
                    }
                }
                rest = &rest[at + 3..];
            }
            _ => {
                plain.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

fn unescape(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_another_server_could_read_differently_are_refused() {
        for path in [
            "/chat/../admin",
            "/..",
            "/.",
            "/chat/.",
            "/./chat",
            "/%2e%2e/admin",
            "/chat/%2E./admin",
            "/chat/.%2e",
            "/chat/..;/admin",
            "/chat/..;x=y/admin",
            "/chat/..%3bx/admin",
            "//admin",
            "/chat//admin",
            "/chat//",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0d%0a",
            "/a%7f",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%+1",
            "chat",
            "/a b",
            "/caf\u{e9}",
        ] {
            assert_eq!(check_path(path.as_bytes()), Err(HeadFault::Malformed), "{path:?}");
        }
    }

    #[test]
    fn other_paths_are_kept() {
        for path in [
            "",
            "/",
            "/chat",
            "/chat/",
            "/chat/1.0/room",
            "/...",
            "/..a",
            "/a..",
            "/.well-known/x",
            "/a;b=c/d",
            "/%25",
            "/caf%C3%A9",
            "/a%20b",
            "/%252e%252e/",
            "/[x]|{y}",
            "/:@!$&'()*+,;=",
        ] {
            assert_eq!(check_path(path.as_bytes()), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn routes_see_through_needless_escapes() {
        assert_eq!(routable("/%61dmin/%7euser/%c3%a9"), "/admin/~user/%C3%A9");
        assert_eq!(routable("/plain"), "/plain");
        assert_eq!(routable(""), "/");
    }
}
