//! The authority of a request: `host`, `host:port`, `[IPv6]:port`, RFC 9110 §7.2.
//!
//! Stricter than RFC 3986's reg-name, on purpose: letters, digits, `-`, `_` and dots, which is all that names of hosts
//! are made of. Escapes, user information and the punctuation that a generic URI would permit are refused.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::limits::HOST_BYTES_MAX;

/// A host that is sound.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// In lower case, without a final dot; an IPv6 address in its canonical form and in brackets.
    pub name: String,
    /// If one was written.
    pub port: Option<u16>,
}

/// The authority breaks its grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the host is malformed")]
pub struct BadHost;

impl Host {
    /// Reads the value of `Host`, or the authority of a target in absolute form.
    pub fn parse(authority: &[u8]) -> Result<Self, BadHost> {
        let text = std::str::from_utf8(authority).map_err(|_| BadHost)?;
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or(BadHost)?;
                let address: Ipv6Addr = address.parse().map_err(|_| BadHost)?;
                let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(BadHost)?) };
                (format!("[{address}]"), port)
            }
            None => {
                let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
                (registered(name)?, port)
            }
        };
        let port = match port {
            None | Some("") => None,
            Some(digits) if digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| BadHost)?)
            }
            Some(_) => return Err(BadHost),
        };
        Ok(Self { name, port })
    }
}

fn registered(name: &str) -> Result<String, BadHost> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() > HOST_BYTES_MAX || !name.split('.').all(label) {
        return Err(BadHost);
    }
    // A name whose last label is a number is an address to those who resolve it, in one spelling only.
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if numeric && name.parse::<Ipv4Addr>().is_err() {
        return Err(BadHost);
    }
    Ok(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_normalised() {
        for (authority, name, port) in [
            ("Example.COM", "example.com", None),
            ("example.com.", "example.com", None),
            ("example.com:8080", "example.com", Some(8080)),
            ("example.com:", "example.com", None),
            ("a_b.local", "a_b.local", None),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("[::1]", "[::1]", None),
            ("[0:0::1]:9000", "[::1]", Some(9000)),
            ("xn--caf-dma.example", "xn--caf-dma.example", None),
        ] {
            assert_eq!(Host::parse(authority.as_bytes()), Ok(Host { name: name.into(), port }), "{authority}");
        }
    }

    #[test]
    fn other_authorities_are_refused() {
        for authority in [
            "",
            ".",
            ":80",
            "a..b",
            ".a",
            "a b",
            "user@host",
            "a,b",
            "a/b",
            "a%20b",
            "::1",
            "[::1",
            "[::1]x",
            "[::1%25eth0]",
            "[v1.x]",
            "a:b",
            "a:123456",
            "a:70000",
            "a:+1",
            "1.2.3",
            "127.1",
            "1.2.3.4.5",
            "01.2.3.4",
            "caf\u{e9}",
        ] {
            assert_eq!(Host::parse(authority.as_bytes()), Err(BadHost), "{authority:?}");
        }
        assert_eq!(Host::parse(&[b'a'; 300]), Err(BadHost));
    }
}
