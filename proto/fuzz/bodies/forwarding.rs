//! Forwarding fields: bounded, and what is written is read the same.

use std::net::{IpAddr, Ipv4Addr};

use proto::http::forwarding::{append_list, client_address, forwarded_element, parse_traceparent};
use proto::limits::FORWARDED_BYTES_MAX;

/// The values, one on each line.
pub fn run(bytes: &[u8]) {
    let values = || bytes.split(|byte| *byte == b'\n');
    let list = append_list(values(), "192.0.2.1");
    assert!(list.ends_with("192.0.2.1") && list.len() <= FORWARDED_BYTES_MAX + ", 192.0.2.1".len());
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(client_address(peer, values(), |_| false), peer);
    let client = client_address(peer, values(), |_| true);
    let element = forwarded_element(Some(client), std::str::from_utf8(bytes).ok(), "http");
    assert!(element.starts_with("for=") && element.ends_with(";proto=http"));
    let Some(parent) = std::str::from_utf8(bytes).ok().and_then(parse_traceparent) else { return };
    let child = parent.child([9; 8]);
    assert_eq!(child.trace_id, parent.trace_id);
    assert_eq!(parse_traceparent(&child.to_string()), Some(child));
}
