//! A 101: whatever the upstream adds to it, the client is told only what it offered.

use proto::http::ResponseHead;
use proto::parse::Parse;
use proto::ws::extension::Deflate;
use proto::ws::handshake::{Key, Offer, check_switch, write_switch};

/// A whole response, or header lines (without the last line end) to add to a good one.
pub fn run(bytes: &[u8]) {
    check(bytes);
    let good: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    check(&[good, bytes, b"\r\n\r\n"].concat());
}

fn check(bytes: &[u8]) {
    let Ok(Parse::Complete(head, _)) = ResponseHead::parse(bytes) else { return };
    let key = Key::parse(b"dGhlIHNhbXBsZSBub25jZQ==").expect("the key of RFC 6455 1.3");
    let sent = Offer {
        subprotocols: vec!["chat".into(), "superchat".into()],
        deflate: vec![
            Deflate { server_max_window_bits: Some(10), ..Deflate::default() },
            Deflate { client_max_window_bits: Some(None), ..Deflate::default() },
        ],
    };
    let Ok(agreed) = check_switch(&head.view(bytes), &key, &sent) else { return };
    assert!(agreed.subprotocol.as_ref().is_none_or(|name| sent.subprotocols.contains(name)));
    assert_eq!(agreed.deflate.is_some(), agreed.extensions.is_some());
    let mut out = Vec::new();
    write_switch(&mut out, &key.accept(), &agreed, &[]).expect("what was agreed is written");
    let Ok(Parse::Complete(head, length)) = ResponseHead::parse(&out) else { panic!("{}", out.escape_ascii()) };
    assert_eq!(length, out.len());
    assert_eq!(check_switch(&head.view(&out), &key, &sent), Ok(agreed), "the client reads what was agreed");
}
