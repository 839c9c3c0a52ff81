//! A request head: split anywhere it reads the same, and what is sound holds nothing that two readers could differ on.

use proto::http::{RequestHead, RequestScan};
use proto::limits::{HEAD_BYTES_MAX, HEADERS_MAX};
use proto::parse::Parse;

/// First byte: where the stream is cut. The rest: the stream.
pub fn run(bytes: &[u8]) {
    let Some((&step, stream)) = bytes.split_first() else { return };
    let whole = RequestHead::parse(stream);
    let mut scan = RequestScan::new();
    let mut end = 0;
    let in_pieces = loop {
        end = (end + usize::from(step) + 1).min(stream.len());
        match scan.feed(&stream[..end]) {
            Ok(Parse::Partial { need }) if end < stream.len() => assert!(need > end),
            answer => break answer,
        }
    };
    assert_eq!(in_pieces, whole);
    let Ok(Parse::Complete(head, used)) = whole else { return };
    assert!(used == head.length() && used <= HEAD_BYTES_MAX);
    let view = head.view(stream);
    assert!(view.headers().count() <= HEADERS_MAX);
    assert!(view.path().starts_with('/') && !view.path().contains("/../") && !view.path().contains("//"));
    let routed = view.route_path();
    assert!(!routed.split('/').any(|segment| segment == "." || segment == ".."), "{routed}");
    assert!(proto::http::target::check_path(routed.as_bytes()).is_ok(), "{routed}");
    assert!(view.target().is_ascii() && !view.target().contains(['#', ' ', '\r', '\n']));
    for (name, value) in view.headers() {
        assert!(!name.is_empty() && !name.contains([' ', ':', '\r', '\n']));
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        assert!(view.header_values(name).any(|other| other == value));
    }
    if let Ok(host) = view.host() {
        assert_eq!(host.name, host.name.to_ascii_lowercase());
        let again = proto::http::Host::parse(host.name.as_bytes());
        assert_eq!(again.map(|again| again.name), Ok(host.name), "a name that is normalised stays so");
    }
}
