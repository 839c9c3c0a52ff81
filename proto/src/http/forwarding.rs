//! Who the client is and how it came, as text: `X-Forwarded-For`, `Forwarded` (RFC 7239), W3C `traceparent`.
//!
//! Reads and writes the fields; who is trusted, and where random numbers come from, is the caller's.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::list::{elements, trim};
use crate::limits::FORWARDED_BYTES_MAX;

/// A W3C `traceparent`, version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// Of the whole trace; not all zero.
    pub trace_id: [u8; 16],
    /// Of the span that sends it; not all zero.
    pub span_id: [u8; 8],
    /// Bit 0: sampled.
    pub flags: u8,
}

/// Reads a `traceparent`. A version above 00 may go on behind the fields of 00; ff is not a version.
pub fn parse_traceparent(value: &str) -> Option<TraceParent> {
    let (version, rest) = value.split_once('-')?;
    let [version] = hex(version)?;
    let (trace_id, rest) = rest.split_once('-')?;
    let (span_id, rest) = rest.split_once('-')?;
    let flags = match rest.split_once('-') {
        None => rest,
        Some((flags, _)) if version > 0 => flags,
        Some(_) => return None,
    };
    let [flags] = hex(flags)?;
    let (trace_id, span_id) = (hex(trace_id)?, hex(span_id)?);
    let sound = version != 0xff && trace_id != [0; 16] && span_id != [0; 8];
    sound.then_some(TraceParent { trace_id, span_id, flags })
}

/// Exactly so many bytes in lower-case hexadecimal digits.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl TraceParent {
    /// A trace that begins here, not sampled, from random bytes. All-zero ids are not valid, so their last bit is set.
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8]) -> Self {
        let trace_id = if trace_id == [0; 16] { (1_u128).to_be_bytes() } else { trace_id };
        Self { trace_id, span_id: [0; 8], flags: 0 }.child(span_id)
    }

    /// The same trace with our own span, from random bytes.
    pub fn child(self, span_id: [u8; 8]) -> Self {
        let span_id = if span_id == [0; 8] { (1_u64).to_be_bytes() } else { span_id };
        // Only the sampled bit is defined in version 00, and 00 is what is written.
        Self { span_id, flags: self.flags & 1, ..self }
    }

    /// The trace id as hexadecimal digits, for logs.
    pub fn trace_id_hex(&self) -> String {
        self.trace_id.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits =
            |f: &mut fmt::Formatter<'_>, bytes: &[u8]| bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"));
        f.write_str("00-")?;
        digits(f, &self.trace_id)?;
        f.write_str("-")?;
        digits(f, &self.span_id)?;
        write!(f, "-{:02x}", self.flags)
    }
}

/// One element of `Forwarded`: `for=192.0.2.1;host="example.com:80";proto=http`. Without an address (a Unix socket),
/// `for=unknown`, RFC 7239 §6.2.
pub fn forwarded_element(client: Option<IpAddr>, host: Option<&str>, proto: &str) -> String {
    let mut element = String::from("for=");
    match client.map(|client| client.to_canonical()) {
        None => element.push_str("unknown"),
        Some(IpAddr::V4(address)) => element.push_str(&address.to_string()),
        // Brackets and colons are no token characters, RFC 7239 §6.
        Some(IpAddr::V6(address)) => element.push_str(&format!("\"[{address}]\"")),
    }
    if let Some(host) = host {
        element.push_str(";host=");
        push_value(&mut element, host);
    }
    element.push_str(";proto=");
    push_value(&mut element, proto);
    element
}

/// A token as it is, anything else as a quoted string.
fn push_value(element: &mut String, value: &str) {
    if super::list::is_token(value.as_bytes()) {
        element.push_str(value);
        return;
    }
    element.push('"');
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            element.push('\\');
        }
        element.push(character);
    }
    element.push('"');
}

/// The list of the existing values with our element last. Of a list that is longer than
/// [`FORWARDED_BYTES_MAX`] its beginning, the part that is furthest from us, is left out; a list with a quote that is
/// never closed is left out whole, for it would swallow what stands behind it.
pub fn append_list<'a>(existing: impl Iterator<Item = &'a [u8]>, ours: &str) -> String {
    let mut list = kept_list(existing);
    if !list.is_empty() {
        list.push_str(", ");
    }
    list.push_str(ours);
    list
}

/// The list of the existing values, as [`append_list`] keeps them.
pub fn kept_list<'a>(existing: impl Iterator<Item = &'a [u8]>) -> String {
    let mut kept: Vec<&str> = existing.filter_map(|value| std::str::from_utf8(trim(value)).ok()).collect();
    kept.retain(|value| !value.is_empty());
    let mut list = kept.join(", ");
    if list.len() > FORWARDED_BYTES_MAX {
        let cut = list.floor_char_boundary(list.len() - FORWARDED_BYTES_MAX);
        list = list[cut..].split_once(',').map_or(String::new(), |(_, rest)| rest.trim_start().into());
    }
    if !closes_its_quotes(&list) {
        list.clear();
    }
    list
}

fn closes_its_quotes(list: &str) -> bool {
    let mut quoted = false;
    let mut bytes = list.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => drop(bytes.next()),
            _ => {}
        }
    }
    !quoted
}

/// The client's address: `peer`, or, as long as the nearer hop is trusted, what it says in `X-Forwarded-For`, read from
/// the right. An element that is no address ends the walk at the hop that wrote it.
pub fn client_address<'a>(
    peer: IpAddr,
    forwarded_for: impl Iterator<Item = &'a [u8]>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer.to_canonical();
    let hops: Vec<&[u8]> = forwarded_for.flat_map(elements).collect();
    for hop in hops.into_iter().rev() {
        if !is_trusted(client) {
            break;
        }
        match std::str::from_utf8(hop).ok().and_then(hop_address) {
            Some(address) => client = address,
            None => break,
        }
    }
    client
}

/// `192.0.2.1`, `2001:db8::1`, and the same with a port: `192.0.2.1:80`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse().or_else(|_| hop.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_is_continued() {
        let parent = parse_traceparent(SAMPLED).unwrap();
        assert_eq!(parent.to_string(), SAMPLED);
        assert_eq!(parent.child([0xab; 8]).to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-abababababababab-01");
        assert_eq!(parent.trace_id_hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let newer = parse_traceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-what-will-be").unwrap();
        assert_eq!(newer.child([1; 8]).to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0101010101010101-01");
    }

    #[test]
    fn a_trace_begins_with_ids_that_are_valid() {
        let parent = TraceParent::new([0; 16], [0; 8]).to_string();
        assert_eq!(parent, "00-00000000000000000000000000000001-0000000000000001-00");
        assert!(parse_traceparent(&parent).is_some());
    }

    #[test]
    fn other_trace_parents_are_not_continued() {
        for value in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            &SAMPLED.to_uppercase(),
            &format!("{SAMPLED}-x"),
            &SAMPLED.replacen("00", "ff", 1),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse_traceparent(value), None, "{value}");
        }
    }

    #[test]
    fn forwarded_elements_are_quoted_where_needed() {
        let v4 = "192.0.2.1".parse().ok();
        assert_eq!(forwarded_element(v4, Some("example.com"), "http"), "for=192.0.2.1;host=example.com;proto=http");
        let v6 = "2001:db8::1".parse().ok();
        assert_eq!(
            forwarded_element(v6, Some("example.com:80"), "http"),
            "for=\"[2001:db8::1]\";host=\"example.com:80\";proto=http"
        );
        assert_eq!(forwarded_element(None, None, "http"), "for=unknown;proto=http");
        assert_eq!(forwarded_element(None, Some("a\"b\\"), "http"), r#"for=unknown;host="a\"b\\";proto=http"#);
    }

    #[test]
    fn lists_are_continued_and_bounded() {
        let append = |existing: &[&str]| append_list(existing.iter().map(|value| value.as_bytes()), "10.0.0.1");
        assert_eq!(append(&[]), "10.0.0.1");
        assert_eq!(append(&["192.0.2.1, 192.0.2.2", " ", "192.0.2.3"]), "192.0.2.1, 192.0.2.2, 192.0.2.3, 10.0.0.1");
        let long = append(&[&"192.0.2.1, ".repeat(1000), "192.0.2.2"]);
        assert!(long.len() <= FORWARDED_BYTES_MAX + 10 && long.starts_with("192.0.2.1, "), "{}", long.len());
        assert!(long.ends_with("192.0.2.2, 10.0.0.1"));
        assert_eq!(append(&["for=\"a, b\\\"\""]), "for=\"a, b\\\"\", 10.0.0.1");
        assert_eq!(append(&["for=\"a", "for=b"]), "10.0.0.1");
        assert_eq!(append(&["for=\"a\\\""]), "10.0.0.1");
        assert_eq!(append(&[&format!("for=\"{}, b\"", "x".repeat(5000))]), "10.0.0.1");
        assert_eq!(append(&[&"x".repeat(5000)]), "10.0.0.1");
        assert_eq!(append(&[&"é".repeat(5000)]), "10.0.0.1");
    }

    #[test]
    fn the_client_is_behind_the_trusted_hops_and_no_further() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let trusted = |hop: IpAddr| hop.to_string().starts_with("10.");
        for (peer, list, client) in [
            ("192.0.2.9", &["1.1.1.1"][..], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
            ("10.0.0.1", &["6.6.6.6", "192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            ("::ffff:10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]:4000"], "2001:db8::1"),
            ("10.0.0.1", &["192.0.2.1:4000"], "192.0.2.1"),
            ("10.0.0.1", &["192.0.2.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ] {
            let list = list.iter().map(|value| value.as_bytes());
            assert_eq!(client_address(address(peer), list, trusted), address(client), "{peer} {client}");
        }
    }
}
