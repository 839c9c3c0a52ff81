//! RFC 6455 §4.2.1: requests, the fault that each gets, and the request that reaches the upstream.

use proto::http::RequestHead;
use proto::limits::SUBPROTOCOLS_MAX;
use proto::parse::Parse;
use proto::ws::handshake::{
    Key, Offer, Upgrade, UpgradeFault, UpgradeRequest, accept_key, check_upgrade, write_upgrade_request,
};

const LINE: &str = "GET /chat HTTP/1.1";
const FIELDS: [&str; 5] = [
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

fn head(bytes: &str) -> RequestHead {
    match RequestHead::parse(bytes.as_bytes()) {
        Ok(Parse::Complete(head, _)) => head,
        other => panic!("{other:?}: {bytes}"),
    }
}

/// The good request with this line, without the fields of the names in `without`, and with more of them.
fn request(line: &str, without: &[&str], with: &[&str]) -> String {
    let kept = FIELDS.iter().filter(|field| !without.iter().any(|name| field.starts_with(name)));
    let lines: Vec<&str> = [line].into_iter().chain(kept.copied()).chain(with.iter().copied()).collect();
    lines.join("\r\n") + "\r\n\r\n"
}

fn check(bytes: &str) -> Result<Upgrade, UpgradeFault> {
    check_upgrade(&head(bytes).view(bytes.as_bytes()))
}

#[test]
fn rfc_6455_1_2_example() {
    let bytes = request(LINE, &[], &["Origin: http://example.com", "Sec-WebSocket-Protocol: chat, superchat"]);
    let upgrade = check(&bytes).unwrap();
    assert_eq!(upgrade.host.name, "server.example.com");
    assert_eq!(upgrade.offer.subprotocols, ["chat", "superchat"]);
    assert_eq!(&upgrade.key.accept(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), upgrade.key.accept());
}

#[test]
fn what_clients_of_the_wild_write_is_accepted() {
    for (without, with) in [
        (&["Upgrade"][..], &["upgrade: WebSocket"][..]),
        (&["Connection"], &["Connection: keep-alive, UPGRADE"]),
        (&["Connection"], &["Connection: keep-alive", "Connection: , upgrade ,"]),
        (&[], &["Content-Length: 0"]),
        (&[], &["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"]),
        (&[], &["Sec-WebSocket-Extensions: x-webkit-deflate-frame", "Sec-WebSocket-Extensions: permessage-deflate"]),
        (&[], &["Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: superchat, Chat"]),
        (&["Sec-WebSocket-Key"], &["Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC=="]),
    ] {
        assert!(check(&request(LINE, without, with)).is_ok(), "{without:?} {with:?}");
    }
}

#[test]
fn every_rule_has_its_fault() {
    use UpgradeFault::*;
    let many: Vec<String> = (0..=SUBPROTOCOLS_MAX).map(|number| format!("p{number}")).collect();
    let many = format!("Sec-WebSocket-Protocol: {}", many.join(","));
    for (line, without, with, fault) in [
        ("POST /chat HTTP/1.1", &[][..], &[][..], Method),
        ("get /chat HTTP/1.1", &[], &[], Method),
        ("HEAD /chat HTTP/1.1", &[], &[], Method),
        ("GET /chat HTTP/1.0", &[], &[], HttpVersion),
        (LINE, &["Host"], &[], BadHost),
        (LINE, &[], &["Host: server.example.com"], BadHost),
        (LINE, &["Host"], &["Host: a/b"], BadHost),
        (LINE, &["Upgrade"], &[], NotWebSocket),
        (LINE, &["Upgrade"], &["Upgrade: h2c"], NotWebSocket),
        (LINE, &["Upgrade"], &["Upgrade: h2c, websocket"], NotWebSocket),
        (LINE, &["Upgrade"], &["Upgrade: websocket, h2c"], NotWebSocket),
        (LINE, &["Upgrade"], &["Upgrade: websocket/13"], NotWebSocket),
        (LINE, &["Upgrade"], &["Upgrade: websocketx"], NotWebSocket),
        (LINE, &[], &["Upgrade: h2c"], NotWebSocket),
        (LINE, &[], &["Upgrade: websocket"], NotWebSocket),
        (LINE, &["Connection"], &[], NotWebSocket),
        (LINE, &["Connection"], &["Connection: keep-alive"], NotWebSocket),
        (LINE, &["Connection"], &["Connection: upgraded"], NotWebSocket),
        (LINE, &[], &["Content-Length: 1"], BodyOnUpgrade),
        (LINE, &[], &["Transfer-Encoding: chunked"], BodyOnUpgrade),
        (LINE, &[], &["Transfer-Encoding: identity"], BodyOnUpgrade),
        (LINE, &["Sec-WebSocket-Version"], &[], Version),
        (LINE, &["Sec-WebSocket-Version"], &["Sec-WebSocket-Version: 8"], Version),
        (LINE, &["Sec-WebSocket-Version"], &["Sec-WebSocket-Version: 13, 8"], Version),
        (LINE, &["Sec-WebSocket-Version"], &["Sec-WebSocket-Version: 013"], Version),
        (LINE, &[], &["Sec-WebSocket-Version: 13"], Version),
        (LINE, &["Sec-WebSocket-Key"], &[], BadKey),
        (LINE, &["Sec-WebSocket-Key"], &["Sec-WebSocket-Key:"], BadKey),
        (LINE, &["Sec-WebSocket-Key"], &["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA"], BadKey),
        (LINE, &["Sec-WebSocket-Key"], &["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAA"], BadKey),
        (LINE, &[], &["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="], BadKey),
        (LINE, &[], &["Sec-WebSocket-Protocol:"], BadOffer),
        (LINE, &[], &["Sec-WebSocket-Protocol: a b"], BadOffer),
        (LINE, &[], &["Sec-WebSocket-Protocol: \"a\""], BadOffer),
        (LINE, &[], &["Sec-WebSocket-Protocol: a, b, a"], BadOffer),
        (LINE, &[], &["Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: a"], BadOffer),
        (LINE, &[], &[&many], BadOffer),
        (LINE, &[], &["Sec-WebSocket-Extensions:"], BadOffer),
        (LINE, &[], &["Sec-WebSocket-Extensions: ;"], BadOffer),
        (LINE, &[], &["Sec-WebSocket-Extensions: a; b=\"c d\""], BadOffer),
    ] {
        assert_eq!(check(&request(line, without, with)), Err(fault), "{line} {without:?} {with:?}");
    }
}

#[test]
fn offers_of_unsound_deflate_are_left_out() {
    let with = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99, mux, permessage-deflate";
    let upgrade = check(&request(LINE, &[], &[with])).unwrap();
    let offers: Vec<_> = upgrade.offer.deflate.iter().map(ToString::to_string).collect();
    assert_eq!(offers, ["permessage-deflate"]);
}

#[test]
fn only_what_is_the_clients_to_send_reaches_the_upstream() {
    let bytes = request(
        LINE,
        &["Connection"],
        &[
            "Connection: upgrade, X-Hop, X-Forwarded-For, X-Request-Id, Host",
            "Connection: Cookie2",
            "X-Hop: 1",
            "cookie2: 1",
            "Cookie: a=b; c=d",
            "Origin: http://example.com",
            "User-Agent: caf\u{e9}",
            "Authorization: Bearer x",
            "tracestate: a=b",
            "HTTP2-Settings: AAMAAABk",
            "TE: trailers",
            "Trailer: X",
            "Keep-Alive: timeout=5",
            "Expect: 100-continue",
            "Proxy-Authorization: x",
            "Proxy-Connection: keep-alive",
            "Content-Length: 0",
            "Sec-WebSocket-Protocol: chat",
            "Sec-WebSocket-Extensions: permessage-deflate, mux",
            "Sec-WebSocket-Accept: x",
            "sec-websocket-future: x",
            "X_Forwarded_For: 6.6.6.6",
            "X-Forwarded-For: 6.6.6.6",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil",
            "Forwarded: for=6.6.6.6",
            "X-Real-IP: 6.6.6.6",
            "traceparent: 00-1-1-00",
            "x-request-id: theirs",
            "X-Environment: sandbox",
        ],
    );
    let head = head(&bytes);
    let client = head.view(bytes.as_bytes());
    let offer = check_upgrade(&client).unwrap().offer;
    let key = Key::from_random([1; 16]);
    let mut out = Vec::new();
    let request = UpgradeRequest {
        client,
        target: "/backend?x=1",
        host: "backend:9000",
        key: &key,
        offer: &offer,
        extra: &[("X-Forwarded-For", "192.0.2.1"), ("X-Request-Id", "ours")],
        withheld: &["x-environment"],
    };
    write_upgrade_request(&mut out, &request).unwrap();
    let expected = "GET /backend?x=1 HTTP/1.1\r\n\
        Host: backend:9000\r\n\
        Cookie: a=b; c=d\r\n\
        Origin: http://example.com\r\n\
        User-Agent: caf\u{e9}\r\n\
        Authorization: Bearer x\r\n\
        tracestate: a=b\r\n\
        Connection: Upgrade\r\n\
        Upgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: AQEBAQEBAQEBAQEBAQEBAQ==\r\n\
        Sec-WebSocket-Protocol: chat\r\n\
        Sec-WebSocket-Extensions: permessage-deflate\r\n\
        X-Forwarded-For: 192.0.2.1\r\n\
        X-Request-Id: ours\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn what_would_break_a_line_of_the_upstreams_request_is_not_written() {
    let bytes = request(LINE, &[], &[]);
    let head = head(&bytes);
    let good = UpgradeRequest {
        client: head.view(bytes.as_bytes()),
        target: "/",
        host: "a",
        key: &Key::from_random([0; 16]),
        offer: &Offer::default(),
        extra: &[],
        withheld: &[],
    };
    let mut out = b"before".to_vec();
    for bad in [
        UpgradeRequest { extra: &[("X-A", "b\r\nX-Evil: 1")], ..good },
        UpgradeRequest { extra: &[("X-A", "b\0")], ..good },
        UpgradeRequest { extra: &[("X A", "b")], ..good },
        UpgradeRequest { host: "a\r\n", ..good },
        UpgradeRequest { target: "/ HTTP/1.1\r\nX-Evil: 1", ..good },
        UpgradeRequest { target: "chat", ..good },
    ] {
        assert!(write_upgrade_request(&mut out, &bad).is_err(), "{bad:?}");
        assert_eq!(out, b"before");
    }
    assert!(write_upgrade_request(&mut out, &good).is_ok());
}
