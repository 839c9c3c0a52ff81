//! Services that decide: what they are told, what becomes of what they say, and what happens without them.

use std::time::{Duration, Instant};

use crate::kit::tls::Service;
use crate::kit::{Gateway, Peer, Port, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, pki, until};

use super::refused;

on_both_drivers!(
    a_service_is_told_what_the_endpoint_would_be_and_its_yes_is_passed_on,
    a_service_is_told_the_headers_that_are_listed,
    what_a_service_refuses_the_client_reads_in_its_words,
    without_an_answer_nobody_comes_in_unless_that_is_wanted,
    a_client_that_goes_away_takes_its_question_along,
    a_service_over_tls_must_be_the_one_that_is_meant,
);

const YES: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// An API of this name that asks the service.
fn asking(setup: Setup, name: &str, upstream: &RawUpstream, service: &str, members: &str) -> Setup {
    let comma = if members.is_empty() { "" } else { ", " };
    let step = format!("{{ forward_auth: {{ url: \"{service}\"{comma}{members} }} }}");
    setup.api_to(name, &upstream.url("/own"), &format!("on_upgrade: [{step}]"))
}

fn url(service: &RawUpstream) -> String {
    format!("http://{}/check?by=gateway", service.address())
}

fn begun(gateway: &Gateway, request: &Upgrade) -> Peer {
    let mut client = gateway.connect();
    client.send(&request.encode());
    client
}

fn a_service_is_told_what_the_endpoint_would_be_and_its_yes_is_passed_on(variant: Variant) {
    let [upstream, service] = [(); 2].map(|()| RawUpstream::listen());
    let setup =
        asking(Setup::new(variant), "a", &upstream, &url(&service), "response_headers: [X-User, X-Tier, X-Gone]");
    let mut gateway = setup.start();
    let request = Upgrade::to("/a/room?q=1")
        .set("Connection", "Upgrade, X-Hop")
        .with("Authorization", "Bearer of-the-client")
        .with("Cookie", "a=b")
        .with("Accept-Encoding", "gzip")
        .with("X-User", "spoofed")
        .with("X-Gone", "spoofed")
        .with("X-Hop", "1")
        .with("X_User", "spoofed")
        .with("X-Forwarded-For", "6.6.6.6")
        .with("X-Forwarded-Uri", "/spoofed")
        .with("X-Forwarded-Method", "POST")
        .with("X-Forwarded-Prefix", "/spoofed")
        .with("X-Real-IP", "6.6.6.6")
        .with("TE", "trailers");
    let mut client = begun(&gateway, &request);
    let mut asked = service.accept();
    let told = asked.head();
    assert_eq!(told.start_line(), "GET /check?by=gateway HTTP/1.1");
    for (name, expected) in [
        ("Host", &[service.address().to_string().as_str()][..]),
        ("Authorization", &["Bearer of-the-client"]),
        ("Cookie", &["a=b"]),
        ("X-User", &["spoofed"]),
        ("X-Forwarded-Method", &["GET"]),
        ("X-Forwarded-Uri", &["/a/room?q=1"]),
        ("X-Forwarded-Host", &["gateway.test"]),
        ("X-Forwarded-Proto", &["http"]),
        ("X-Forwarded-For", &["127.0.0.1"]),
    ] {
        assert_eq!(told.headers(name), expected, "{name}: {told}");
    }
    for name in [
        "X-Forwarded-Prefix",
        "Upgrade",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
        "X-Hop",
        "X_User",
        "X-Real-IP",
        "TE",
        "Accept-Encoding",
    ] {
        assert_eq!(told.headers(name), [""; 0], "{name}: {told}");
    }
    upstream.expect_no_connection(Duration::from_millis(50));
    let yes = "HTTP/1.1 202 Accepted\r\nX-User: alice\r\nX-Tier: gold\r\nX-Tier: plus\r\nX-Other: no\r\n\
               Set-Cookie: s=1\r\nContent-Length: 5\r\n\r\nhello";
    asked.send(yes.as_bytes());
    let head = upstream.accept().agree();
    let answer = client.upgraded();
    for (name, expected) in [
        ("X-User", &["alice"][..]),
        ("X-Tier", &["gold, plus"]),
        ("X-Gone", &[]),
        ("X-Other", &[]),
        ("Set-Cookie", &[]),
    ] {
        assert_eq!(head.headers(name), expected, "{name}: {head}");
        assert_eq!(answer.headers(name), [""; 0], "{answer}");
    }
    for name in ["traceparent", "X-Request-Id"] {
        assert_eq!(told.headers(name), head.headers(name));
    }

    // The next question goes the same way.
    let mut client = begun(&gateway, &Upgrade::to("/a"));
    assert_eq!(asked.head().headers("X-Forwarded-Uri"), ["/a"]);
    asked.send(YES);
    upstream.accept().agree();
    client.upgraded();
    service.expect_no_connection(Duration::ZERO);
    until("the questions are counted", || {
        gateway.metric("framegate_forward_auth_total", &[("outcome", "allowed")]) == 2.0
    });
    gateway.probe();
}

fn a_service_is_told_the_headers_that_are_listed(variant: Variant) {
    let [upstream, service] = [(); 2].map(|()| RawUpstream::listen());
    let steps = format!(
        "{{ set_header: {{ name: X-Set, value: by-us }} }}, {{ remove_headers: [Cookie] }}, \
         {{ forward_auth: {{ url: \"{}\", request_headers: [authorization, Cookie, X-Set] }} }}",
        url(&service)
    );
    let setup = Setup::new(variant).api_to("a", &upstream.url("/"), &format!("on_upgrade: [{steps}]"));
    let mut gateway = setup.start();
    let request =
        Upgrade::to("/a").with("Authorization", "x").with("Cookie", "a=b").with("X-Other", "1").with("X-Set", "2");
    let mut client = begun(&gateway, &request);
    let mut asked = service.accept();
    let told = asked.head();
    for (name, expected) in [
        ("Authorization", &["x"][..]),
        ("Cookie", &[]),
        ("X-Other", &[]),
        ("X-Set", &["by-us"]),
        ("X-Forwarded-Method", &["GET"]),
    ] {
        assert_eq!(told.headers(name), expected, "{name}: {told}");
    }
    asked.send(YES);
    upstream.accept().agree();
    client.upgraded();
    gateway.probe();
}

fn what_a_service_refuses_the_client_reads_in_its_words(variant: Variant) {
    let [upstream, service] = [(); 2].map(|()| RawUpstream::listen());
    let setup = asking(Setup::new(variant), "a", &upstream, &url(&service), "fail_open: true");
    let mut gateway = setup.start();
    let huge = "x".repeat(200_000);
    for (status, fields, body, kept) in [
        (401, "WWW-Authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: Bearer\r\nSet-Cookie: s=1\r\n", "who?", 4),
        (403, "Content-Type: application/json\r\nX-Other: 1\r\nServer: s\r\n", "{\"why\":1}", 9),
        (302, "Location: https://login.test/?back=%2Fa\r\n", "", 0),
        (404, "", "", 0),
        (403, "", &huge, 64 * 1024),
    ] {
        let mut client = begun(&gateway, &Upgrade::to("/a"));
        // One whose body was not read is not used again.
        let mut asked = service.try_accept().unwrap_or_else(|| service.accept());
        asked.head();
        let length = body.len();
        let head = format!("HTTP/1.1 {status} So\r\n{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n");
        asked.try_send(&[head.as_bytes(), body.as_bytes()].concat());
        let answer = client.refused();
        assert_eq!((answer.status, answer.body.as_str()), (status, &body[..kept]), "{}", answer.head);
        for name in ["WWW-Authenticate", "Location", "Content-Type"] {
            let given: Vec<_> = fields.lines().filter_map(|line| line.strip_prefix(&format!("{name}: "))).collect();
            assert_eq!(answer.head.headers(name), given, "{}", answer.head);
        }
        for name in ["Set-Cookie", "X-Other", "Server"] {
            assert_eq!(answer.head.headers(name), [""; 0], "{}", answer.head);
        }
        assert_eq!(answer.head.headers("X-Request-Id").len(), 1);
    }
    let line = gateway.logged("refused", "a");
    assert_eq!((&line["status"], &line["reason"]), (&401.into(), &"policy".into()), "{line}");
    assert_eq!(line["detail"], "step 1: forward_auth: the service said 401", "{line}");
    assert_eq!(gateway.metric("framegate_forward_auth_total", &[("outcome", "refused")]), 5.0);
    upstream.expect_no_connection(Duration::ZERO);
    gateway.probe();
}

fn without_an_answer_nobody_comes_in_unless_that_is_wanted(variant: Variant) {
    let [upstream, service] = [(); 2].map(|()| RawUpstream::listen());
    let nobody = format!("http://{}/", Port::free().address());
    let setup = Setup::new(variant);
    let setup = asking(setup, "closed", &upstream, &url(&service), "timeout: 500ms");
    let setup =
        asking(setup, "open", &upstream, &url(&service), "timeout: 500ms, fail_open: true, response_headers: [X-User]");
    let setup = asking(setup, "away", &upstream, &nobody, "");
    let setup = asking(setup, "nameless", &upstream, "http://nowhere.invalid/", "timeout: 500ms");
    let mut gateway = setup.start();
    let broken: [(&str, &[u8]); 7] = [
        ("answered with 500", b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"),
        ("answered with 503", b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n"),
        ("answered with 101", b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
        ("no HTTP", b"SSH-2.0-nonsense\r\n\r\n"),
        ("no HTTP", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
        ("no HTTP", b""),
        ("header X-User", b"HTTP/1.1 200 OK\r\nX-User: caf\xe9\r\nContent-Length: 0\r\n\r\n"),
    ];
    for (why, said) in broken {
        for api in ["closed", "open"] {
            if why == "header X-User" && api == "closed" {
                continue;
            }
            let mut client = begun(&gateway, &Upgrade::to(&format!("/{api}")).with("X-User", "spoofed"));
            let mut asked = service.accept();
            asked.head();
            asked.send(said);
            asked.finish();
            if api == "open" {
                assert_eq!(upstream.accept().agree().headers("X-User"), [""; 0], "{why}");
                client.upgraded();
            } else {
                let answer = client.refused();
                assert_eq!(answer.status, 503, "{}", answer.head);
                assert!(answer.head.header("Retry-After").is_some(), "{}", answer.head);
                let said_so =
                    |line: &serde_json::Value| line["detail"].as_str().is_some_and(|detail| detail.contains(why));
                until("the log says why", || gateway.log_lines().iter().any(said_so));
            }
        }
    }
    // One that says nothing, and one that says half of it.
    for said in [&b""[..], b"HTTP/1.1 200 OK\r\nContent"] {
        let begin = Instant::now();
        let mut client = begun(&gateway, &Upgrade::to("/closed"));
        let mut asked = service.accept();
        asked.head();
        asked.send(said);
        assert_eq!(client.refused().status, 503);
        assert!(
            (Duration::from_millis(400)..Duration::from_secs(3)).contains(&begin.elapsed()),
            "{:?}",
            begin.elapsed()
        );
        asked.expect_end();
    }
    for api in ["away", "nameless"] {
        refused(&gateway, &Upgrade::to(&format!("/{api}")), 503);
    }
    assert!(gateway.metric("framegate_forward_auth_total", &[("outcome", "late")]) >= 2.0);
    assert!(gateway.metric("framegate_forward_auth_total", &[("outcome", "failed")]) >= 10.0);
    let line = gateway.logged("refused", "away");
    let detail = "step 1: forward_auth: the service cannot be reached, or its answer is no HTTP";
    assert_eq!(line["detail"], detail, "{line}");
    upstream.expect_no_connection(Duration::ZERO);
    gateway.probe();
}

fn a_client_that_goes_away_takes_its_question_along(variant: Variant) {
    let [upstream, service] = [(); 2].map(|()| RawUpstream::listen());
    let mut gateway = asking(Setup::new(variant), "a", &upstream, &url(&service), "timeout: 60s").start();
    let client = begun(&gateway, &Upgrade::to("/a"));
    let mut asked = service.accept();
    asked.head();
    client.reset();
    asked.expect_end();
    upstream.expect_no_connection(Duration::ZERO);
    gateway.probe();
}

fn a_service_over_tls_must_be_the_one_that_is_meant(variant: Variant) {
    if !pki::is_available() {
        return;
    }
    let shared = pki::shared();
    let upstream = RawUpstream::listen();
    let service = RawUpstream::listen_securely(&Service::new(&shared.service, None));
    let secure = |host: &str| format!("https://{host}:{}/check", service.address().port());
    let setup = Setup::new(variant).authorities(&format!("name: own, certificates: {}", shared.root.display()));
    let setup = asking(setup, "known", &upstream, &secure("127.0.0.1"), "authorities: own");
    let setup = asking(setup, "unknown", &upstream, &secure("127.0.0.1"), "timeout: 5s");
    let setup = asking(setup, "clear", &upstream, &format!("http://{}/", service.address()), "timeout: 1s");
    let mut gateway = setup.start();
    let mut client = begun(&gateway, &Upgrade::to("/known"));
    let mut asked = service.accept();
    assert_eq!(asked.head().start_line(), "GET /check HTTP/1.1");
    asked.send(YES);
    opened_behind(&mut client, &upstream);
    let mut client = begun(&gateway, &Upgrade::to("/unknown"));
    let mut asked = service.accept();
    // What it hears is no question.
    assert!(asked.rest().is_empty());
    assert_eq!(client.refused().status, 503);
    refused(&gateway, &Upgrade::to("/clear"), 503);
    gateway.probe();
}

fn opened_behind(client: &mut Peer, upstream: &RawUpstream) {
    upstream.accept().agree();
    client.upgraded();
}
