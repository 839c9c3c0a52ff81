//! An upgrade request: whatever the client adds to it, one sound request reaches the upstream, with one of each field
//! that is the gateway's.

use proto::http::RequestHead;
use proto::parse::Parse;
use proto::ws::handshake::{Key, UpgradeRequest, check_upgrade, write_upgrade_request};

/// A whole request, or header lines (without the last line end) to add to a good one.
pub fn run(bytes: &[u8]) {
    check(bytes);
    let good: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    check(&[good, bytes, b"\r\n\r\n"].concat());
}

fn check(bytes: &[u8]) {
    let Ok(Parse::Complete(head, _)) = RequestHead::parse(bytes) else { return };
    let client = head.view(bytes);
    let Ok(upgrade) = check_upgrade(&client) else { return };
    assert!(client.method() == "GET" && client.minor() == 1 && !client.has_body());
    let key = Key::from_random([7; 16]);
    let extra = [("X-Forwarded-For", "192.0.2.1"), ("X-Request-Id", "ours")];
    let request = UpgradeRequest {
        client,
        target: "/backend",
        host: "backend:9000",
        key: &key,
        offer: &upgrade.offer,
        extra: &extra,
        withheld: &["x-withheld"],
    };
    let mut out = Vec::new();
    write_upgrade_request(&mut out, &request).expect("a sound request is written");
    let Ok(Parse::Complete(head, length)) = RequestHead::parse(&out) else {
        let nearly_full = bytes.len() + 1024 > proto::limits::HEAD_BYTES_MAX || client.headers().count() + 4 > 100;
        assert!(nearly_full, "{}", out.escape_ascii());
        return;
    };
    assert_eq!(length, out.len(), "nothing follows the head");
    let sent = head.view(&out);
    let read = check_upgrade(&sent).expect("what is sent is an upgrade");
    assert_eq!((read.offer, read.key), (upgrade.offer, key));
    for (name, value) in extra.into_iter().chain([("host", "backend:9000"), ("connection", "Upgrade")]) {
        assert_eq!(sent.header_values(name).collect::<Vec<_>>(), [value.as_bytes()], "{name}");
    }
    for name in ["te", "keep-alive", "http2-settings", "content-length", "forwarded", "x-withheld", "proxy-connection"]
    {
        assert_eq!(sent.header(name), None, "{name}");
    }
    assert!(sent.headers().all(|(name, _)| !name.contains('_')));
}
