//! What passes between the two opening handshakes: the endpoint's request to the last byte, and what is agreed on.

use std::collections::BTreeSet;

use crate::kit::peer::KEY;
use crate::kit::{
    Frame, Gateway, Head, Opcode, Peer, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, until_some,
};

on_both_drivers!(
    the_endpoint_reads_this_request_and_no_other,
    a_trusted_proxy_is_continued_and_another_is_not,
    a_client_of_a_unix_socket_has_no_address,
    request_ids_are_made_or_continued,
    traces_are_made_or_continued,
    the_host_is_the_endpoints_or_the_clients,
    keys_are_the_gateways_own,
    subprotocols_are_agreed_on_from_end_to_end,
    compression_is_agreed_on_from_end_to_end,
    compression_that_is_off_is_not_offered,
);

fn chat(variant: Variant) -> (Gateway, RawUpstream) {
    let upstream = RawUpstream::listen();
    let gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    (gateway, upstream)
}

/// Opens a session with these lines in the upstream's 101; returns the upstream's request and the client's answer.
#[track_caller]
fn opened(mut client: Peer, upstream: &RawUpstream, request: &Upgrade, lines: &str) -> (Head, Head) {
    client.send(&request.encode());
    let mut backend = upstream.accept();
    let head = backend.agree_with(lines);
    let answer = client.upgraded();
    // The session is one: bytes pass, and nothing stood before them.
    client.send_frame(&Frame::text("through"));
    backend.expect(Opcode::TEXT, b"through");
    (head, answer)
}

fn the_endpoint_reads_this_request_and_no_other(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    // Everything that one connection's fields can be, between fields that are the client's to send.
    let request = Upgrade::to("/chat")
        .set("Connection", "keep-alive, Upgrade, X-Hop")
        .with("Origin", "https://gateway.test")
        .with("Connection", "x-other-hop,,")
        .with("X-Hop", "1")
        .with("X-Other-Hop", "2")
        .with("Cookie", "a=1; b=\"2\"")
        .with("cookie", "c=3")
        .with("Keep-Alive", "timeout=5")
        .with("TE", "trailers")
        .with("Trailer", "X-Sum")
        .with("Expect", "100-continue")
        .with("Content-Length", "0")
        .with("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")
        .with("Proxy-Authorization", "Basic eA==")
        .with("Proxy-Connection", "keep-alive")
        .with("X_Hop", "underscore")
        .with("X-Forwarded_For", "6.6.6.6")
        .with("Authorization", "Bearer abc")
        .with("Via", "1.1 elsewhere")
        .with("X-Real-IP", "6.6.6.6")
        .with("X-Forwarded-Port", "443")
        .with("Sec-WebSocket-Accept", "nonsense")
        .with("Sec-WebSocket-Key1", "of a draft")
        .with("Sec-Fetch-Mode", "websocket")
        .with("User-Agent", "scripted/1.0 (tests)")
        .with("Empty", "")
        .with_bytes(&b"Latin-1: caf\xe9"[..]);
    let mut client = gateway.connect();
    client.send(&request.encode());
    let mut backend = upstream.accept();
    let head = backend.head();
    let value = |name: &str| {
        let lines = head.bytes.split(|byte| *byte == b'\n');
        let mut values = lines.filter_map(|line| std::str::from_utf8(line).ok()?.strip_prefix(&format!("{name}: ")));
        let value = values.next().unwrap_or_else(|| panic!("no {name} in {head}")).trim_end().to_owned();
        assert!(values.next().is_none(), "{name} is repeated: {head}");
        value
    };
    let (key, id, trace) = (value("Sec-WebSocket-Key"), value("X-Request-Id"), value("traceparent"));
    let host = upstream.address();
    let before = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nOrigin: https://gateway.test\r\nCookie: a=1; b=\"2\"\r\ncookie: c=3\r\n\
         Authorization: Bearer abc\r\nSec-Fetch-Mode: websocket\r\nUser-Agent: scripted/1.0 (tests)\r\nEmpty: \r\n\
         Latin-1: caf"
    );
    let after = format!(
        "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
         X-Forwarded-Proto: http\r\nX-Forwarded-Host: gateway.test\r\n\
         Forwarded: for=127.0.0.1;host=gateway.test;proto=http\r\nX-Request-Id: {id}\r\ntraceparent: {trace}\r\n\
         X-Forwarded-For: 127.0.0.1\r\n\r\n"
    );
    let expected = [before.as_bytes(), b"\xe9", after.as_bytes()].concat();
    assert_eq!(head.bytes.escape_ascii().to_string(), expected.escape_ascii().to_string());
    gateway.probe();
}

fn a_trusted_proxy_is_continued_and_another_is_not(variant: Variant) {
    let request = Upgrade::to("/chat")
        .with("X-Forwarded-For", "203.0.113.9")
        .with("X-Forwarded-For", "2001:db8::7, 127.0.0.1")
        .with("X-Forwarded-Proto", "https")
        .with("X-Forwarded-Host", "front.test")
        .with("Forwarded", "for=203.0.113.9;proto=https, for=\"[2001:db8::7]\"")
        .with("Forwarded", "for=127.0.0.1")
        .with("X-Real-IP", "203.0.113.9");
    let own = "for=127.0.0.1;host=gateway.test;proto=http";
    let given = "for=203.0.113.9;proto=https, for=\"[2001:db8::7]\", for=127.0.0.1";
    for (trusted, forwarded_for, proto, host, forwarded, client) in [
        (
            "127.0.0.0/8",
            "203.0.113.9, 2001:db8::7, 127.0.0.1, 127.0.0.1",
            "https",
            "front.test",
            format!("{given}, {own}"),
            "[2001:db8::7]:0",
        ),
        ("192.0.2.1", "127.0.0.1", "http", "gateway.test", own.to_owned(), "127.0.0.1:"),
    ] {
        let upstream = RawUpstream::listen();
        let gateway = Setup::new(variant)
            .listener(&format!("trusted_proxies: [\"{trusted}\"]"))
            .api_to("chat", &upstream.url("/"), "")
            .start();
        let (head, _) = opened(gateway.connect(), &upstream, &request, "");
        for (name, expected) in [
            ("X-Forwarded-For", Some(forwarded_for)),
            ("X-Forwarded-Proto", Some(proto)),
            ("X-Forwarded-Host", Some(host)),
            ("Forwarded", Some(&forwarded)),
            ("X-Real-IP", None),
        ] {
            assert_eq!(head.header(name), expected, "{trusted}: {head}");
        }
        // The records name the same client.
        let opening = until_some("the session is in the log", || {
            gateway.log_lines().into_iter().find(|line| line["event"] == "open" && line["api"] == "chat")
        });
        let named = opening["client"].as_str().expect("a client");
        assert!(named.starts_with(client), "{trusted}: {named}");
    }
}

fn a_client_of_a_unix_socket_has_no_address(variant: Variant) {
    let upstream = RawUpstream::listen();
    let setup = Setup::new(variant);
    let socket = setup.directory().join("inside.sock");
    let gateway = setup
        .another_listener(&format!(
            "name: inside, bind: \"unix:{}\", trusted_proxies: [\"0.0.0.0/0\", \"::/0\"]",
            socket.display()
        ))
        .api_to("chat", &upstream.url("/"), "")
        .start();
    let request = Upgrade::to("/chat").with("X-Forwarded-For", "6.6.6.6").with("Forwarded", "for=6.6.6.6");
    let (head, _) = opened(Peer::connect_unix(&socket), &upstream, &request, "");
    assert_eq!(head.header("X-Forwarded-For"), None, "{head}");
    assert_eq!(head.header("Forwarded"), Some("for=unknown;host=gateway.test;proto=http"), "{head}");
    let opening = until_some("the session is in the log", || {
        gateway.log_lines().into_iter().find(|line| line["event"] == "open" && line["api"] == "chat")
    });
    assert_eq!(opening["client"], "unix");
}

fn request_ids_are_made_or_continued(variant: Variant) {
    for header in ["X-Request-Id", "X-Correlation-Id"] {
        let upstream = RawUpstream::listen();
        let mut gateway = Setup::new(variant)
            .settings(&format!("request_id_header: {header}"))
            .api_to("chat", &upstream.url("/"), "")
            .start();
        let long = "x".repeat(128);
        let longer = "x".repeat(129);
        let mut made = BTreeSet::new();
        for (given, is_kept) in [
            (Some("0b6c1f0e-7d0f:4.f+5/d=@_"), true),
            (Some(long.as_str()), true),
            (Some(longer.as_str()), false),
            (Some("two words"), false),
            (Some("quote\"quote"), false),
            (Some(""), false),
            (None, false),
        ] {
            let mut request = Upgrade::to("/chat");
            if let Some(given) = given {
                request = request.with(&header.to_ascii_lowercase(), given);
            }
            let (head, answer) = opened(gateway.connect(), &upstream, &request, &format!("{header}: theirs\r\n"));
            let id = head.header(header).expect("a request id").to_owned();
            if is_kept {
                assert_eq!(Some(id.as_str()), given);
            } else {
                assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{given:?} became {id}");
                assert!(made.insert(id.clone()), "{id} is made a second time");
            }
            // Everybody is told the same name.
            assert_eq!(answer.header(header), Some(id.as_str()), "{answer}");
            until_some("the session is in the log", || {
                gateway.log_lines().into_iter().find(|line| line["event"] == "open" && line["request_id"] == *id)
            });
        }
        // A client that is refused can say what it asks about.
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/nowhere").with(header, "mine").encode());
        assert_eq!(client.refused().head.header(header), Some("mine"));
        gateway.probe();
    }
}

fn traces_are_made_or_continued(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let sampled = format!("00-{trace}-00f067aa0ba902b7-01");
    let mut spans = BTreeSet::new();
    for (given, flags) in [
        (vec![sampled.clone()], Some("01")),
        (vec![sampled.replace("-01", "-00")], Some("00")),
        (vec![format!("cc-{trace}-00f067aa0ba902b7-03-more")], Some("01")),
        (vec![], None),
        (vec![sampled.to_uppercase()], None),
        (vec![format!("{sampled}-more")], None),
        (vec![sampled.replacen("00", "ff", 1)], None),
        (vec![sampled.replace(trace, &"0".repeat(32))], None),
        (vec![sampled.replace("00f067aa0ba902b7", &"0".repeat(16))], None),
        (vec!["nonsense".into()], None),
        // Whose child would it be?
        (vec![sampled.clone(), sampled.replace("00f067aa0ba902b7", "00f067aa0ba902b8")], None),
    ] {
        let mut request = Upgrade::to("/chat").with("tracestate", "vendor=1").with("Tracestate", "other=2");
        for value in &given {
            request = request.with("Traceparent", value);
        }
        let (head, _) = opened(gateway.connect(), &upstream, &request, "");
        let sent = head.header("traceparent").expect("a trace").to_owned();
        let [version, id, span, sent_flags] = sent.split('-').collect::<Vec<_>>()[..] else { panic!("{sent}") };
        assert_eq!((version, id.len(), span.len()), ("00", 32, 16), "{sent}");
        assert!(spans.insert(span.to_owned()), "{span} is used a second time");
        // The vendors' part belongs to the trace: it goes where the trace goes, and nowhere else.
        match flags {
            Some(flags) => {
                assert_eq!((id, sent_flags), (trace, flags), "{given:?}");
                assert_ne!(span, "00f067aa0ba902b7");
                assert_eq!(head.headers("tracestate"), ["vendor=1", "other=2"], "{head}");
            }
            None => {
                assert_ne!(id, trace, "{given:?}");
                assert_eq!(sent_flags, "00", "{given:?}");
                assert!(head.headers("tracestate").is_empty(), "{given:?}: {head}");
            }
        }
        until_some("the trace is in the log", || {
            gateway.log_lines().into_iter().find(|line| line["event"] == "open" && line["trace_id"] == *id)
        });
    }
    gateway.probe();
}

fn the_host_is_the_endpoints_or_the_clients(variant: Variant) {
    let upstream = RawUpstream::listen();
    let url = upstream.url("/");
    let gateway = Setup::new(variant)
        .upstream(&format!("name: own, endpoints: [{{ url: \"{url}\" }}]"))
        .upstream(&format!("name: preserved, endpoints: [{{ url: \"{url}\" }}], preserve_host: true"))
        .api("name: own, context: /own, endpoints: { production: { upstream: own } }")
        .api("name: preserved, context: /preserved, endpoints: { production: { upstream: preserved } }")
        .start();
    for asked in ["gateway.test", "Gateway.TEST:8443", "[2001:db8::1]:80", "192.0.2.7"] {
        let own = upstream.address().to_string();
        for (target, host) in [("/own", own.as_str()), ("/preserved", asked)] {
            let (head, _) = opened(gateway.connect(), &upstream, &Upgrade::to(target).set("Host", asked), "");
            assert_eq!(head.header("Host"), Some(host), "{target}");
            assert_eq!(head.header("X-Forwarded-Host"), Some(asked), "{target}");
        }
    }
}

fn keys_are_the_gateways_own(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let mut keys = BTreeSet::from([KEY.to_owned()]);
    for _ in 0..20 {
        // The client's accept value is checked by `upgraded`, the upstream's comes of the key that it was sent.
        let (head, answer) = opened(gateway.connect(), &upstream, &Upgrade::to("/chat"), "");
        let key = head.header("Sec-WebSocket-Key").expect("a key").to_owned();
        assert!(key.len() == 24 && key.ends_with("=="), "{key}");
        assert!(keys.insert(key.clone()), "{key} is used a second time");
        let theirs = tungstenite::handshake::derive_accept_key(key.as_bytes());
        assert!(!answer.to_string().contains(&theirs), "{answer}");
    }
    gateway.probe();
}

fn subprotocols_are_agreed_on_from_end_to_end(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    for (offers, passed, chosen) in [
        (vec!["chat.v2, chat.v1"], Some("chat.v2, chat.v1"), Some("chat.v1")),
        (vec!["chat.v2, chat.v1"], Some("chat.v2, chat.v1"), None),
        (vec!["chat.v2", "wamp.2.json ,chat.v1"], Some("chat.v2, wamp.2.json, chat.v1"), Some("wamp.2.json")),
        (vec!["Chat, chat"], Some("Chat, chat"), Some("Chat")),
        (vec![], None, None),
    ] {
        let mut request = Upgrade::to("/chat");
        for offer in &offers {
            request = request.with("Sec-WebSocket-Protocol", offer);
        }
        let lines = chosen.map_or(String::new(), |chosen| format!("Sec-WebSocket-Protocol: {chosen}\r\n"));
        let (head, answer) = opened(gateway.connect(), &upstream, &request, &lines);
        assert_eq!(head.header("Sec-WebSocket-Protocol"), passed, "{offers:?}");
        assert_eq!(answer.header("Sec-WebSocket-Protocol"), chosen, "{offers:?}");
    }
    // What was not offered, in this very writing, is nobody's to choose.
    for chosen in ["chat", "Chat.v1", "chat.v1, chat.v2", "chat.v1\r\nSec-WebSocket-Protocol: chat.v1", ""] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/chat").with("Sec-WebSocket-Protocol", "chat.v1, chat.v2").encode());
        upstream.accept().agree_with(&format!("Sec-WebSocket-Protocol: {chosen}\r\n"));
        assert_eq!(client.refused().status, 502, "{chosen:?}");
    }
    gateway.probe();
}

fn compression_is_agreed_on_from_end_to_end(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let bits = "permessage-deflate; client_max_window_bits";
    for (offers, passed, agreed) in [
        (vec!["permessage-deflate"], Some("permessage-deflate"), Some("permessage-deflate")),
        (vec!["permessage-deflate"], Some("permessage-deflate"), None),
        (vec![bits], Some(bits), Some("permessage-deflate; client_max_window_bits=12")),
        (vec![bits], Some(bits), Some("permessage-deflate; server_no_context_takeover; server_max_window_bits=10")),
        (
            vec!["permessage-deflate; server_max_window_bits=10", "permessage-deflate"],
            Some("permessage-deflate; server_max_window_bits=10, permessage-deflate"),
            Some("permessage-deflate; server_max_window_bits=9"),
        ),
        // The gateway knows no other extension, so nobody can agree to one behind its back.
        (vec!["x-webkit-deflate-frame, permessage-deflate, mux; max=4"], Some("permessage-deflate"), None),
        (vec!["x-webkit-deflate-frame"], None, None),
        (vec![], None, None),
    ] {
        let mut request = Upgrade::to("/chat");
        for offer in &offers {
            request = request.with("Sec-WebSocket-Extensions", offer);
        }
        let lines = agreed.map_or(String::new(), |agreed| format!("Sec-WebSocket-Extensions: {agreed}\r\n"));
        let mut client = gateway.connect();
        client.send(&request.encode());
        let mut backend = upstream.accept();
        let head = backend.agree_with(&lines);
        assert_eq!(head.header("Sec-WebSocket-Extensions"), passed, "{offers:?}");
        let answer = client.upgraded();
        assert_eq!(answer.header("Sec-WebSocket-Extensions"), agreed, "{offers:?}");
        // RSV1 means what was agreed on, in both directions, and nothing otherwise.
        let compressed = Frame::text("\u{2}\0").reserved(4);
        client.send_frame(&compressed);
        if agreed.is_some() {
            assert_eq!(backend.frame().reserved, 4);
            backend.send_frame(&compressed);
            assert_eq!(client.frame().reserved, 4);
        } else {
            let close = backend.frame();
            assert_eq!(close.opcode, Opcode::CLOSE, "{close:?}");
            backend.send_frame(&Frame::new(Opcode::CLOSE, close.payload));
            client.expect_close(1002);
        }
    }
    // An answer that goes beyond the offer is none.
    for (offer, answer) in [
        ("permessage-deflate", "permessage-deflate; client_max_window_bits=12"),
        ("permessage-deflate; server_max_window_bits=10", "permessage-deflate"),
        ("permessage-deflate; server_max_window_bits=10", "permessage-deflate; server_max_window_bits=11"),
        ("permessage-deflate; server_no_context_takeover", "permessage-deflate"),
        ("permessage-deflate", "permessage-deflate, permessage-deflate"),
        ("permessage-deflate, x-webkit-deflate-frame", "x-webkit-deflate-frame"),
    ] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/chat").with("Sec-WebSocket-Extensions", offer).encode());
        upstream.accept().agree_with(&format!("Sec-WebSocket-Extensions: {answer}\r\n"));
        assert_eq!(client.refused().status, 502, "{offer} answered by {answer}");
    }
    gateway.probe();
}

fn compression_that_is_off_is_not_offered(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "compression: off").start();
    let request = Upgrade::to("/chat")
        .with("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
        .with("Sec-WebSocket-Protocol", "chat");
    let (head, answer) = opened(gateway.connect(), &upstream, &request, "Sec-WebSocket-Protocol: chat\r\n");
    assert_eq!(head.header("Sec-WebSocket-Extensions"), None, "{head}");
    assert_eq!(answer.header("Sec-WebSocket-Extensions"), None, "{answer}");
    assert_eq!(answer.header("Sec-WebSocket-Protocol"), Some("chat"), "{answer}");
    // An upstream that compresses all the same is refused: the client's offer was not made to it.
    let mut client = gateway.connect();
    client.send(&request.encode());
    upstream.accept().agree_with("Sec-WebSocket-Extensions: permessage-deflate\r\n");
    assert_eq!(client.refused().status, 502);
    gateway.probe();
}
