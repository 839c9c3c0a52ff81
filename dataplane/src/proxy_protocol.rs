//! The PROXY protocol in front of a request, versions 1 and 2, on listeners that trust their peer to send it.
//!
//! Reading it is the library's; what is expected of whom is the listener's; here is how much of it is waited for.

use std::net::SocketAddr;

use ppp::{HeaderResult, PartialResult as _, v1, v2};

const V1_PREFIX: &[u8] = b"PROXY ";
/// Bytes of a header of version 1, its line end included.
const V1_BYTES_MAX: usize = 107;
/// Bytes of a header of version 2 with its type-length-value fields, of which nothing is used.
const V2_BYTES_MAX: usize = 4096;

/// What the start of a connection says.
#[derive(Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// A header of so many bytes, and the client it names; `None` where it names none (a health check).
    Complete(usize, Option<SocketAddr>),
    /// Not all of it has come.
    Partial,
    /// No header, or a malformed one.
    Malformed,
}

/// Reads the header at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> ProxyHeader {
    if begins(bytes, V1_PREFIX) {
        return match line(bytes) {
            Some(line) => parse_whole(line),
            None if bytes.len() < V1_BYTES_MAX => ProxyHeader::Partial,
            None => ProxyHeader::Malformed,
        };
    }
    if !begins(bytes, v2::PROTOCOL_PREFIX) {
        return ProxyHeader::Malformed;
    }
    parse_whole(bytes)
}

/// Whether `bytes` are, or could become, something that begins with `prefix`.
fn begins(bytes: &[u8], prefix: &[u8]) -> bool {
    prefix.starts_with(&bytes[..bytes.len().min(prefix.len())])
}

/// The first line, its end included; the library would judge a part of one.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    window.windows(2).position(|pair| pair == b"\r\n").map(|at| &window[..at + 2])
}

fn parse_whole(bytes: &[u8]) -> ProxyHeader {
    let header = HeaderResult::parse(bytes);
    if header.is_incomplete() {
        // What is incomplete with its line end is malformed; version 2 says how long it is.
        let waits = !bytes.starts_with(V1_PREFIX) && bytes.len() < V2_BYTES_MAX;
        return if waits { ProxyHeader::Partial } else { ProxyHeader::Malformed };
    }
    match header {
        HeaderResult::V1(Ok(header)) => {
            let client = match header.addresses {
                v1::Addresses::Tcp4(ip) => Some(SocketAddr::new(ip.source_address.into(), ip.source_port)),
                v1::Addresses::Tcp6(ip) => Some(SocketAddr::new(ip.source_address.into(), ip.source_port)),
                v1::Addresses::Unknown => None,
            };
            ProxyHeader::Complete(header.header.len(), client)
        }
        HeaderResult::V2(Ok(header)) => {
            let client = match (header.command, header.addresses) {
                (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => {
                    Some(SocketAddr::new(ip.source_address.into(), ip.source_port))
                }
                (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => {
                    Some(SocketAddr::new(ip.source_address.into(), ip.source_port))
                }
                _ => None,
            };
            ProxyHeader::Complete(header.header.len(), client)
        }
        _ => ProxyHeader::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\xc0\xa8\x01\x01\x00\x50\x01\xbb";

    #[test]
    fn both_versions_name_the_client() {
        let v1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 443\r\nGET / HTTP/1.1\r\n";
        assert_eq!(parse(v1), ProxyHeader::Complete(45, Some("192.0.2.1:40000".parse().unwrap())));
        let v6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 443\r\n";
        assert_eq!(parse(v6), ProxyHeader::Complete(v6.len(), Some("[2001:db8::1]:40000".parse().unwrap())));
        assert_eq!(parse(V2), ProxyHeader::Complete(V2.len(), Some("127.0.0.1:80".parse().unwrap())));
        assert_eq!(parse(b"PROXY UNKNOWN\r\nGET"), ProxyHeader::Complete(15, None));
    }

    #[test]
    fn a_header_in_pieces_is_waited_for() {
        let v1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 443\r\n";
        for cut in 0..v1.len() {
            assert_eq!(parse(&v1[..cut]), ProxyHeader::Partial, "{cut} bytes of version 1");
        }
        for cut in 0..V2.len() {
            assert_eq!(parse(&V2[..cut]), ProxyHeader::Partial, "{cut} bytes of version 2");
        }
    }

    #[test]
    fn what_is_no_header_is_not_waited_for() {
        for bytes in [b"GET / HTTP/1.1\r\n".as_slice(), b"PROXY TCP4 nonsense\r\n", b"\r\n\r\n\0\r\nQUIX"] {
            assert_eq!(parse(bytes), ProxyHeader::Malformed, "{bytes:?}");
        }
        let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; V1_BYTES_MAX]].concat();
        assert_eq!(parse(&endless), ProxyHeader::Malformed);
    }
}
