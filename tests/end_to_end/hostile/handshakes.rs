//! Smuggling, floods and lies in the opening handshake, from both sides.

use std::time::{Duration, Instant};

use crate::kit::peer::KEY;
use crate::kit::{Frame, Gateway, Opcode, RawUpstream, Setup, Upgrade, Variant, on_both_drivers};

on_both_drivers!(
    bytes_behind_the_upgrade_wait_for_a_validated_101,
    bytes_behind_an_upgrade_that_is_refused_reach_nobody,
    early_bytes_are_held_within_bounds,
    a_status_other_than_101_opens_no_tunnel,
    a_101_that_is_not_sound_opens_no_tunnel,
    bytes_of_the_upstream_behind_its_101_are_not_lost,
    a_wrong_version_is_answered_by_the_gateway,
    drafts_are_not_spoken,
    a_refused_upgrade_serves_no_second_request,
    a_body_on_the_upgrade_is_refused,
    another_protocol_is_not_forwarded,
    connection_cannot_nominate_the_gateways_own_fields,
    smuggling_shapes_are_refused_not_repaired,
    a_head_without_end_costs_nothing,
    a_response_head_without_end_costs_nothing,
    slow_heads_are_cut_on_time_while_others_are_served,
    origins_are_compared_whole,
    a_client_cannot_speak_for_a_proxy,
    the_host_that_was_routed_is_the_host_that_is_told,
);

/// A gateway whose API `chat` leads to a scripted upstream.
fn chat(variant: Variant) -> (Gateway, RawUpstream) {
    let upstream = RawUpstream::listen();
    let gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    (gateway, upstream)
}

const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: inner.test\r\n\r\n";

fn bytes_behind_the_upgrade_wait_for_a_validated_101(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    for split in [0, 1] {
        let mut client = gateway.connect();
        let early = Frame::text("early").masked([1, 2, 3, 4]).encode();
        let later = Frame::text("later").masked([5, 6, 7, 8]).encode();
        if split == 0 {
            client.send(&[Upgrade::to("/chat").encode(), early.clone()].concat());
        } else {
            client.send(&Upgrade::to("/chat").encode());
            client.send(&early);
        }
        let mut backend = upstream.accept();
        let head = backend.head();
        backend.expect_silence(Duration::from_millis(200));
        assert_eq!(backend.received(), head.bytes);
        backend.send(crate::kit::peer::switching(&head, "").as_bytes());
        backend.expect(Opcode::TEXT, b"early");
        client.upgraded();
        client.send(&later);
        backend.expect(Opcode::TEXT, b"later");
        // Byte for byte: the frames arrive as they were sent, under the masks that the client chose.
        assert_eq!(backend.received(), [head.bytes, early, later].concat());
    }
    gateway.probe();
}

fn bytes_behind_an_upgrade_that_is_refused_reach_nobody(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let mut client = gateway.connect();
    client.send(&[&Upgrade::to("/chat").encode(), SMUGGLED].concat());
    let mut backend = upstream.accept();
    let head = backend.head();
    backend.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.refused().status, 403);
    backend.finish();
    backend.rest();
    assert_eq!(backend.received(), head.bytes, "{}", backend.received().escape_ascii());
    upstream.expect_no_connection(Duration::from_millis(100));
    gateway.probe();
}

fn early_bytes_are_held_within_bounds(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let before = gateway.rss_bytes();
    let mut client = gateway.connect();
    client.send(&Upgrade::to("/chat").encode());
    let mut backend = upstream.accept();
    let head = backend.head();
    // 16 MiB of frames, as far as anybody takes them before the upstream has agreed.
    // Two keys in turn: a key that is repeated would be replaced.
    let payload = vec![b'x'; 60_000];
    let two = [[1, 2, 3, 4], [5, 6, 7, 8]].map(|key| Frame::binary(payload.clone()).masked(key).encode()).concat();
    let flood = two.repeat(16 * 1024 * 1024 / two.len());
    let taken = client.send_until_stuck(&flood, Duration::from_millis(300));
    assert!(taken < flood.len(), "everything was taken");
    assert!(gateway.rss_bytes() < before + (4 << 20), "{} bytes more", gateway.rss_bytes() - before);
    backend.expect_silence(Duration::from_millis(50));
    backend.send(crate::kit::peer::switching(&head, "").as_bytes());
    client.upgraded();
    // What was held comes in order and whole; the frame that was cut in the middle comes as far as it was sent.
    while backend.received().len() < head.bytes.len() + taken {
        assert!(backend.hear());
    }
    assert!(backend.received()[head.bytes.len()..] == flood[..taken]);
    gateway.probe();
}

fn a_status_other_than_101_opens_no_tunnel(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    for status in ["200 OK", "426 Upgrade Required", "202 Accepted", "204 No Content"] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/chat").encode());
        let mut backend = upstream.accept();
        let request = backend.head();
        // Everything is as in a 101, but for the status.
        let answer = crate::kit::peer::switching(&request, "").replace("101 Switching Protocols", status);
        backend.send(answer.as_bytes());
        backend.send(&Frame::text("from inside").encode());
        backend.finish();
        let head = client.head();
        assert_eq!(head.status().to_string(), status[..3], "{head}");
        // A 426 says what to upgrade to (RFC 9110 §15.5.22); that is all that is left of the handshake.
        assert_eq!(head.header("Upgrade").is_some(), head.status() == 426, "{head}");
        assert_eq!(head.header("Sec-WebSocket-Accept"), None, "{head}");
        client.try_send(SMUGGLED);
        client.rest();
        backend.rest();
        assert_eq!(backend.received(), request.bytes, "{}", backend.received().escape_ascii());
        gateway.probe();
    }
}

fn a_101_that_is_not_sound_opens_no_tunnel(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let good =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n";
    for answer in [
        good.replace("{}", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        good.replace("Upgrade: websocket", "Upgrade: h2c"),
        good.replace("Connection: Upgrade\r\n", ""),
        good.replace("HTTP/1.1", "HTTP/1.0"),
        format!("{good}Content-Length: 20\r\n"),
        format!("{good}Transfer-Encoding: chunked\r\n"),
    ] {
        let mut client = gateway.connect();
        client.send(&[&Upgrade::to("/chat").encode(), SMUGGLED].concat());
        let mut backend = upstream.accept();
        let request = backend.head();
        let key = request.header("Sec-WebSocket-Key").expect("a key").as_bytes().to_vec();
        let accept = tungstenite::handshake::derive_accept_key(&key);
        backend.send(format!("{}\r\n", answer.replace("{}", &accept)).as_bytes());
        backend.try_send(&Frame::text("from inside").encode());
        assert_eq!(client.refused().status, 502, "{answer}");
        backend.finish();
        backend.rest();
        assert_eq!(backend.received(), request.bytes, "{answer}");
        gateway.probe();
    }
}

fn bytes_of_the_upstream_behind_its_101_are_not_lost(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let mut client = gateway.connect();
    client.send(&Upgrade::to("/chat").encode());
    let mut backend = upstream.accept();
    let request = backend.head();
    let greeting = [Frame::text("welcome").encode(), Frame::binary(vec![7; 30_000]).encode()].concat();
    backend.send(&[crate::kit::peer::switching(&request, "").as_bytes(), &greeting].concat());
    client.upgraded();
    client.expect(Opcode::TEXT, b"welcome");
    client.expect(Opcode::BINARY, &[7; 30_000]);
    gateway.probe();
}

fn a_wrong_version_is_answered_by_the_gateway(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    for version in ["7", "8", "14", "0", "12345", "13, 8", "013", "+13"] {
        let mut client = gateway.connect();
        client.send(&[&Upgrade::to("/chat").set("Sec-WebSocket-Version", version).encode(), SMUGGLED].concat());
        let refused = client.refused();
        assert_eq!(refused.status, 426, "{version}");
        assert_eq!(refused.head.header("Sec-WebSocket-Version"), Some("13"), "{version}");
        gateway.probe();
    }
    upstream.expect_no_connection(Duration::ZERO);
}

fn drafts_are_not_spoken(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    for version in ["7", "8", "13"] {
        let old = Upgrade::to("/chat").without("Upgrade").without("Connection").set("Sec-WebSocket-Version", version);
        let mut client = gateway.connect();
        client.send(&old.encode());
        assert_eq!(client.refused().status, 426, "{version}");
    }
    let hixie = "GET /chat HTTP/1.1\r\nHost: gateway.test\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\nSec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n\r\n^n:ds[4U";
    let mut client = gateway.connect();
    client.send(hixie.as_bytes());
    assert!(matches!(client.refused().status, 400 | 426));
    upstream.expect_no_connection(Duration::ZERO);
    gateway.probe();
}

fn a_refused_upgrade_serves_no_second_request(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway =
        Setup::new(variant).api_to("chat", &upstream.url("/"), "origins: [\"https://good.test\"]").start();
    let second = Upgrade::to("/chat").with("Origin", "https://good.test").encode();
    for first in [
        Upgrade::to("/chat").with("Origin", "https://evil.test"),
        Upgrade::to("/nowhere"),
        Upgrade::to("/chat").line("GET /health HTTP/1.1").without("Upgrade"),
        Upgrade::to("/chat").set("Sec-WebSocket-Version", "8"),
    ] {
        let mut client = gateway.connect();
        client.send(&[first.encode(), second.clone()].concat());
        // `refused` checks that the answer says close, and that nothing comes behind it.
        client.refused();
        gateway.probe();
    }
    upstream.expect_no_connection(Duration::from_millis(100));
}

fn a_body_on_the_upgrade_is_refused(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let chunked = format!("{:x}\r\n{}\r\n0\r\n\r\n", SMUGGLED.len(), SMUGGLED.escape_ascii());
    for (field, value, body) in [
        ("Content-Length", SMUGGLED.len().to_string(), SMUGGLED),
        ("Content-Length", "1".into(), b"x"),
        ("Transfer-Encoding", "chunked".into(), chunked.as_bytes()),
        ("Transfer-Encoding", "identity".into(), b""),
    ] {
        let mut client = gateway.connect();
        client.send(&[&Upgrade::to("/chat").with(field, &value).encode(), body].concat());
        assert_eq!(client.refused().status, 400, "{field}: {value}");
        gateway.probe();
    }
    upstream.expect_no_connection(Duration::ZERO);
    // A length of nothing is no body.
    let mut client = gateway.connect();
    client.send(&Upgrade::to("/chat").with("Content-Length", "0").encode());
    let head = upstream.accept().agree();
    assert_eq!(head.header("Content-Length"), None, "{head}");
    client.upgraded();
}

fn another_protocol_is_not_forwarded(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    for upgrade in ["h2c", "TLS/1.0", "websocket, h2c", "h2c, websocket", "WebSocket/13", "web socket", ""] {
        let mut client = gateway.connect();
        let request = Upgrade::to("/chat").set("Upgrade", upgrade).with("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA");
        client.send(&[&request.encode()[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"].concat());
        assert!(matches!(client.refused().status, 400 | 426), "{upgrade}");
        gateway.probe();
    }
    upstream.expect_no_connection(Duration::ZERO);
}

fn connection_cannot_nominate_the_gateways_own_fields(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let mut client = gateway.connect();
    let nominated = "Upgrade, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, Forwarded, X-Request-Id, Host, \
                     Sec-WebSocket-Key, Sec-WebSocket-Version, traceparent, Cookie, X-Hop";
    let request = Upgrade::to("/chat").set("Connection", nominated).with("Cookie", "a=b").with("X-Hop", "1");
    client.send(
        &request.with("Keep-Alive", "timeout=5").with("TE", "trailers").with("Proxy-Authorization", "x").encode(),
    );
    let mut backend = upstream.accept();
    let head = backend.agree();
    for present in ["Host", "Sec-WebSocket-Key", "X-Forwarded-For", "X-Forwarded-Proto", "X-Request-Id", "traceparent"]
    {
        assert!(head.header(present).is_some(), "{present} is missing: {head}");
    }
    assert_eq!(head.header("Sec-WebSocket-Version"), Some("13"), "{head}");
    assert_eq!(head.header("X-Forwarded-For"), Some("127.0.0.1"), "{head}");
    for absent in ["Cookie", "X-Hop", "Keep-Alive", "TE", "Proxy-Authorization"] {
        assert_eq!(head.header(absent), None, "{head}");
    }
    assert_eq!(head.header("Connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"), "{head}");
    client.upgraded();
    gateway.probe();
}

fn smuggling_shapes_are_refused_not_repaired(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let good = Upgrade::to("/chat");
    for request in [
        good.clone().with("Content-Length", "0").with("Transfer-Encoding", "chunked"),
        good.clone().with("Transfer-Encoding", "chunked").with("Content-Length", "44"),
        good.clone().with("Content-Length", "0").with("Content-Length", "44"),
        good.clone().with("Content-Length", "0, 0"),
        good.clone().with("Content-Length", "+0"),
        good.clone().with("Content-Length", "-1"),
        good.clone().with("Content-Length", "0x0"),
        good.clone().with("Content-Length ", "44"),
        good.clone().with("Transfer-Encoding", "xchunked"),
        good.clone().with("Transfer-Encoding", "chunked, identity"),
        good.clone().with("Transfer-Encoding\t", "chunked"),
        good.clone().with_bytes("Transfer-Encoding:\r\n chunked"),
        good.clone().with_bytes("X: y\r\n\tfolded"),
        good.clone().with_bytes(" X: leading space"),
        good.clone().with_bytes("X: y\nZ: bare line feed"),
        good.clone().with_bytes("X: y\rZ: bare carriage return"),
        good.clone().with_bytes("X: y\r\r"),
        good.clone().with_bytes(b"X: nul\0".to_vec()),
        good.clone().with_bytes(b"X\0: nul".to_vec()),
        good.clone().with_bytes(b"X\xff: name".to_vec()),
        good.clone().with_bytes(": no name"),
        good.clone().with_bytes("no colon"),
        good.clone().line("GET /chat HTTP/1.1 "),
        good.clone().line("GET\t/chat\tHTTP/1.1"),
        good.clone().line("GET /chat\0 HTTP/1.1"),
        good.clone().line("GET /chat#fragment HTTP/1.1"),
        good.clone().line("GET /chat/%2e%2e/probe HTTP/1.1"),
        good.clone().line("GET chat HTTP/1.1"),
    ] {
        let mut client = gateway.connect();
        client.try_send(&[&request.encode(), SMUGGLED].concat());
        assert_eq!(client.refused().status, 400, "{}", request.encode().escape_ascii());
        gateway.probe();
    }
    upstream.expect_no_connection(Duration::ZERO);
}

fn a_head_without_end_costs_nothing(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let (memory, processor) = (gateway.rss_bytes(), gateway.cpu_time());
    let endless: [(&[u8], &[u8], u16); 4] = [
        (
            b"GET /chat HTTP/1.1\r\nX: ",
            b"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
            431,
        ),
        (b"GET /chat HTTP/1.1\r\n", b"X: y\r\n", 431),
        (b"GET /", b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", 414),
        (b"", b"XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX", 400),
    ];
    for (start, more, status) in endless {
        let mut client = gateway.connect();
        client.send(start);
        // Up to 20 MB in small pieces; the answer comes long before.
        for _ in 0..20_000_000 / more.len() {
            if !client.try_send(more) || client.has_heard() {
                break;
            }
        }
        // The answer may be lost to a reset when so much has been sent behind it; what counts is that it is over.
        let answer = client.rest();
        if !answer.is_empty() {
            assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{}", answer.escape_ascii());
        }
        gateway.probe();
    }
    assert!(gateway.rss_bytes() < memory + (4 << 20));
    let used = gateway.cpu_time() - processor;
    assert!(used < Duration::from_secs(2), "{used:?} of processor time");
    upstream.expect_no_connection(Duration::ZERO);
}

fn a_response_head_without_end_costs_nothing(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let memory = gateway.rss_bytes();
    for (start, more) in [
        (&b"HTTP/1.1 101 Switching Protocols\r\nX: "[..], &[b'y'; 1000][..]),
        (b"HTTP/1.1 101 Switching Protocols\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 ", &[b'1'; 1000]),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"\r\n"),
    ] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/chat").encode());
        let mut backend = upstream.accept();
        backend.head();
        backend.send(start);
        let mut taken = 0;
        while taken < 20_000_000 && backend.try_send(more) && !client.has_heard() {
            taken += more.len();
        }
        assert_eq!(client.refused().status, 502, "{}", more[..more.len().min(30)].escape_ascii());
        gateway.probe();
    }
    assert!(gateway.rss_bytes() < memory + (4 << 20));
}

fn slow_heads_are_cut_on_time_while_others_are_served(variant: Variant) {
    let timeout = Duration::from_secs(1);
    let mut gateway = Setup::new(variant).listener("handshake_timeout: 1s").start();
    let before = gateway.descriptors();
    let head = Upgrade::to("/probe").encode();
    let start = Instant::now();
    let mut crowd: Vec<_> = (0..50).map(|_| gateway.connect()).collect();
    for byte in head.iter().take(8) {
        crowd.iter_mut().for_each(|peer| peer.send(&[*byte]));
        gateway.probe();
        std::thread::sleep(Duration::from_millis(50));
    }
    for peer in &mut crowd {
        assert_eq!(peer.refused().status, 408);
    }
    let taken = start.elapsed();
    assert!(taken > timeout && taken < timeout * 5 / 2, "cut after {taken:?}");
    drop(crowd);
    gateway.expect_descriptors_back_to(before);
}

fn origins_are_compared_whole(variant: Variant) {
    let upstream = RawUpstream::listen();
    let rule = "origins: [\"https://app.example.com\", \"http://localhost:3000\"]";
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), rule).start();
    for origin in [
        "null",
        "",
        "https://app.example.com.evil.test",
        "https://evil.test/app.example.com",
        "https://app.example.com@evil.test",
        "https://xapp.example.com",
        "https://appXexample.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "http://localhost",
        "http://localhost:30000",
        "http://127.0.0.1:3000",
        "https://app.example.com https://evil.test",
    ] {
        let mut client = gateway.connect();
        client.send(&[&Upgrade::to("/chat").with("Origin", origin).encode(), SMUGGLED].concat());
        let refused = client.refused();
        assert!(matches!(refused.status, 400 | 403), "{origin:?}: {}", refused.head);
        gateway.probe();
    }
    // Two origins are no origin.
    let mut client = gateway.connect();
    let twice = Upgrade::to("/chat").with("Origin", "https://app.example.com").with("Origin", "https://evil.test");
    client.send(&twice.encode());
    assert!(matches!(client.refused().status, 400 | 403));
    upstream.expect_no_connection(Duration::ZERO);
    for origin in ["https://app.example.com", "http://localhost:3000"] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/chat").with("Origin", origin).encode());
        upstream.accept().agree();
        client.upgraded();
    }
}

fn a_client_cannot_speak_for_a_proxy(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let mut client = gateway.connect();
    let request = Upgrade::to("/chat")
        .with("X-Forwarded-For", "6.6.6.6")
        .with("X-Forwarded-Proto", "https")
        .with("X-Forwarded-Host", "evil.test")
        .with("Forwarded", "for=6.6.6.6")
        .with("X_Forwarded_For", "6.6.6.6")
        .with("X-Real-IP", "6.6.6.6");
    client.send(&request.encode());
    let head = upstream.accept().agree();
    assert!(!head.to_string().contains("6.6.6.6"), "{head}");
    assert_eq!(head.header("X-Forwarded-For"), Some("127.0.0.1"), "{head}");
    assert_eq!(head.header("X-Forwarded-Proto"), Some("http"), "{head}");
    assert_eq!(head.header("X-Forwarded-Host"), Some("gateway.test"), "{head}");
    assert!(head.header("Forwarded").is_some_and(|value| value.contains("for=127.0.0.1")), "{head}");
    client.upgraded();
    // The key towards the upstream is the gateway's own: a client that knows the accept value cannot answer for it.
    assert_ne!(head.header("Sec-WebSocket-Key"), Some(KEY), "{head}");
    gateway.probe();

    // A proxy that is trusted is believed, and what it says is continued.
    let upstream = RawUpstream::listen();
    let gateway =
        Setup::new(variant).listener("trusted_proxies: [127.0.0.1]").api_to("chat", &upstream.url("/"), "").start();
    let mut client = gateway.connect();
    client
        .send(&Upgrade::to("/chat").with("X-Forwarded-For", "203.0.113.9").with("X-Forwarded-Proto", "https").encode());
    let head = upstream.accept().agree();
    assert_eq!(head.header("X-Forwarded-For"), Some("203.0.113.9, 127.0.0.1"), "{head}");
    assert_eq!(head.header("X-Forwarded-Proto"), Some("https"), "{head}");
    client.upgraded();
}

/// A target in absolute form overrides `Host`, RFC 9112 §3.2.2: for the route, and so for everybody behind it.
fn the_host_that_was_routed_is_the_host_that_is_told(variant: Variant) {
    let upstream = RawUpstream::listen();
    let kept = format!("name: kept, preserve_host: true, endpoints: [{{ url: \"{}\" }}]", upstream.url("/"));
    let api = "name: chat, context: /chat, hosts: [outside.test], endpoints: { production: { upstream: kept } }";
    let mut gateway = Setup::new(variant).upstream(&kept).api(api).start();
    let mut client = gateway.connect();
    client.send(&Upgrade::to("http://outside.test:8080/chat").set("Host", "inside.test").encode());
    let head = upstream.accept().agree();
    assert_eq!(head.header("Host"), Some("outside.test:8080"), "{head}");
    assert!(!head.to_string().contains("inside.test"), "{head}");
    client.upgraded();
    gateway.probe();
}
