//! Where requests lead: by listener, host, path and environment, and what the endpoint is then asked for.
//!
//! All APIs of a story lead to one upstream; the path that it is asked for says which of them was taken.

use std::time::Duration;

use crate::kit::gateway::http_get;
use crate::kit::{Gateway, Head, Peer, Port, RawUpstream, Setup, Upgrade, Variant, on_both_drivers};

on_both_drivers!(
    an_exact_host_goes_before_wildcards_and_those_before_every_host,
    the_longest_context_is_taken_and_the_version_may_stand_anywhere,
    exact_topics_go_before_parameters_and_those_before_the_rest,
    a_mapping_extends_the_path_and_both_queries_are_joined,
    an_api_that_is_switched_off_keeps_its_place,
    apis_are_seen_on_their_listeners_only,
    listeners_and_headers_choose_production_or_sandbox,
    every_listener_tells_its_health,
);

/// Opens a session and says what the upstream was asked for; checks that it heard nothing but that request.
#[track_caller]
fn opened(mut client: Peer, upstream: &RawUpstream, request: &Upgrade) -> Head {
    client.send(&request.encode());
    let mut backend = upstream.accept();
    let head = backend.agree();
    client.upgraded();
    assert_eq!(backend.received(), head.bytes);
    head
}

/// Sends each request to the public listener and checks the target at the upstream, or the status of a refusal.
#[track_caller]
fn expect_targets(gateway: &Gateway, upstream: &RawUpstream, table: &[(&str, &str, &str)]) {
    for (host, target, asked_for) in table {
        let request = Upgrade::to(target).set("Host", host);
        if let Ok(status) = asked_for.parse() {
            expect_refused(gateway.connect(), &request, status);
        } else {
            let head = opened(gateway.connect(), upstream, &request);
            assert_eq!(head.target(), *asked_for, "{host} {target}");
        }
    }
    upstream.expect_no_connection(Duration::ZERO);
}

#[track_caller]
fn expect_refused(mut client: Peer, request: &Upgrade, status: u16) {
    client.send(&request.encode());
    let answer = client.refused();
    assert_eq!(answer.status, status, "{}{}", answer.head, String::from_utf8_lossy(&request.encode()));
}

fn an_exact_host_goes_before_wildcards_and_those_before_every_host(variant: Variant) {
    let upstream = RawUpstream::listen();
    let api = |name: &str, context: &str, hosts: &str| {
        let url = upstream.url(&format!("/{name}"));
        format!("name: {name}, context: {context}, hosts: [{hosts}], endpoints: {{ production: {{ url: \"{url}\" }} }}")
    };
    let mut gateway = Setup::new(variant)
        .api(&api("exact", "/h", "chat.example.test, other.test"))
        .api(&api("star", "/h", "\"*.example.test\""))
        .api(&api("longer-star", "/h", "\"*.eu.example.test\""))
        .api(&api("every", "/h", ""))
        .api(&api("deeper", "/h/deep", ""))
        .api(&api("rest", "/rest", ""))
        .start();
    expect_targets(
        &gateway,
        &upstream,
        &[
            ("chat.example.test", "/h", "/exact"),
            ("CHAT.Example.TEST", "/h", "/exact"),
            ("chat.example.test:8443", "/h", "/exact"),
            ("chat.example.test.", "/h", "/exact"),
            ("other.test", "/h", "/exact"),
            ("a.example.test", "/h", "/star"),
            ("b.a.example.test", "/h", "/star"),
            ("a.eu.example.test", "/h", "/longer-star"),
            ("eu.example.test", "/h", "/star"),
            ("example.test", "/h", "/every"),
            ("notexample.test", "/h", "/every"),
            ("127.0.0.1", "/h", "/every"),
            ("[::1]:80", "/h", "/every"),
            // The host is asked first: what it has at a shorter context goes before what every host has at a longer.
            ("chat.example.test", "/h/deep", "/exact"),
            ("gateway.test", "/h/deep", "/deeper"),
            // What it does not have, the wider ones have.
            ("chat.example.test", "/rest", "/rest"),
            ("chat.example.test", "/elsewhere", "404"),
        ],
    );
    // A target in absolute form says the host, RFC 9112 §3.2.2.
    let request = Upgrade::to("/h").line("GET http://chat.example.test/h HTTP/1.1");
    assert_eq!(opened(gateway.connect(), &upstream, &request).target(), "/exact");
    gateway.probe();
}

fn the_longest_context_is_taken_and_the_version_may_stand_anywhere(variant: Variant) {
    let upstream = RawUpstream::listen();
    let api = |label: &str, members: &str| {
        let url = upstream.url(&format!("/{label}"));
        format!("{members}, endpoints: {{ production: {{ url: \"{url}\" }} }}")
    };
    let mut gateway = Setup::new(variant)
        .api(&api("chat-v1", "name: chat, version: v1, context: /chat, default_version: true"))
        .api(&api("chat-v2", "name: chat, version: v2, context: /chat"))
        .api(&api("live-1", "name: live, version: \"1.0\", context: \"/a/{version}/live\""))
        .api(&api("live-2", "name: live, version: \"2.0\", context: \"/a/{version}/live\", default_version: true"))
        .api(&api("a", "name: a, context: /a"))
        .api(&api("a-b-c", "name: abc, context: /a/b/c"))
        .api(&api("exact", "name: exact, context: /a/exact, match: exact"))
        .start();
    expect_targets(
        &gateway,
        &upstream,
        &[
            ("x", "/chat/v1", "/chat-v1"),
            ("x", "/chat/v1/", "/chat-v1"),
            ("x", "/chat/v1/below/it", "/chat-v1"),
            ("x", "/chat/v2", "/chat-v2"),
            ("x", "/chat/v2?since=1", "/chat-v2?since=1"),
            ("x", "/chat", "/chat-v1"),
            ("x", "/chat/below/it", "/chat-v1"),
            ("x", "/chat/v10", "/chat-v1"),
            ("x", "/ch%61t/v%32", "/chat-v2"),
            ("x", "/Chat/v2", "404"),
            ("x", "/chatter", "404"),
            ("x", "/a/1.0/live", "/live-1"),
            ("x", "/a/1.0/live/x", "/live-1"),
            ("x", "/a/2.0/live", "/live-2"),
            ("x", "/a/live", "/live-2"),
            ("x", "/a/3.0/live", "/a"),
            ("x", "/a/b", "/a"),
            ("x", "/a/b/c", "/a-b-c"),
            ("x", "/a/b/c/d", "/a-b-c"),
            ("x", "/a/b/cd", "/a"),
            ("x", "/a/exact", "/exact"),
            ("x", "/a/exact/", "/exact"),
            ("x", "/a/exact/below", "/a"),
            ("x", "//a", "400"),
            ("x", "/a//b", "400"),
            ("x", "/", "404"),
        ],
    );
    gateway.probe();
}

fn exact_topics_go_before_parameters_and_those_before_the_rest(variant: Variant) {
    let upstream = RawUpstream::listen();
    let topics = ["/*", "/rooms/*", "/rooms/{room}", "/rooms/{room}/members", "/rooms/lobby", "/"];
    let mapped: Vec<String> = topics
        .iter()
        .enumerate()
        .map(|(index, topic)| format!("{{ topic: \"{topic}\", mapping: \"/{index}\" }}"))
        .collect();
    let gateway =
        Setup::new(variant).api_to("feed", &upstream.url(""), &format!("topics: [{}]", mapped.join(", "))).start();
    for (path, topic) in [
        ("", "/"),
        ("/", "/"),
        ("/rooms/lobby", "/rooms/lobby"),
        ("/rooms/7", "/rooms/{room}"),
        ("/rooms/lobby2", "/rooms/{room}"),
        ("/rooms/7/", "/rooms/{room}"),
        ("/rooms/7/members", "/rooms/{room}/members"),
        ("/rooms/lobby/members", "/rooms/{room}/members"),
        ("/rooms/7/8", "/rooms/*"),
        ("/rooms", "/rooms/*"),
        ("/other", "/*"),
        ("/roomsize", "/*"),
    ] {
        let head = opened(gateway.connect(), &upstream, &Upgrade::to(&format!("/feed{path}")));
        let index: usize = head.target()[1..].parse().expect("the mapping is a number");
        assert_eq!(topics[index], topic, "{path}");
    }
}

fn a_mapping_extends_the_path_and_both_queries_are_joined(variant: Variant) {
    let upstream = RawUpstream::listen();
    let topics = "topics: [\
                  { topic: /plain }, \
                  { topic: \"/rooms/{room}\", mapping: \"/r/{room}\" }, \
                  { topic: \"/swap/{a}/{b}\", mapping: \"/{b}/{a}/{b}\" }, \
                  { topic: \"/files/*\", mapping: \"/static/*\" }, \
                  { topic: \"/fixed/{ignored}\", mapping: /fixed }, \
                  { topic: /slash, mapping: / }]";
    let mut gateway = Setup::new(variant)
        .api_to("feed", &upstream.url("/app?key=1"), topics)
        .api_to("slashed", &upstream.url("/app/"), topics)
        .api_to("bare", &upstream.url(""), topics)
        .api_to("whole", &upstream.url("/app/?key=1"), "")
        .start();
    expect_targets(
        &gateway,
        &upstream,
        &[
            // Without a mapping the endpoint's URL is asked for as it is configured.
            ("x", "/feed/plain", "/app?key=1"),
            ("x", "/feed/plain?", "/app?key=1"),
            ("x", "/feed/plain?a=b&c=%20d&key=2", "/app?key=1&a=b&c=%20d&key=2"),
            ("x", "/slashed/plain", "/app/"),
            ("x", "/slashed/plain?q", "/app/?q"),
            ("x", "/bare/plain", "/"),
            ("x", "/whole", "/app/?key=1"),
            ("x", "/whole/anything/below?q", "/app/?key=1&q"),
            // With one, the topic's parameters and rest are filled in.
            ("x", "/feed/rooms/7?since=3", "/app/r/7?key=1&since=3"),
            ("x", "/slashed/rooms/7", "/app/r/7"),
            ("x", "/bare/rooms/7", "/r/7"),
            ("x", "/bare/rooms/a%20b", "/r/a%20b"),
            ("x", "/bare/rooms/%c3%a9", "/r/%C3%A9"),
            ("x", "/bare/rooms/%37", "/r/7"),
            ("x", "/bare/rooms/a?b=/../c?d", "/r/a?b=/../c?d"),
            ("x", "/bare/swap/1/2", "/2/1/2"),
            ("x", "/bare/files/a/b/c.txt", "/static/a/b/c.txt"),
            ("x", "/bare/fixed/9", "/fixed"),
            ("x", "/slashed/slash", "/app/"),
            ("x", "/bare/rooms", "404"),
            ("x", "/bare/rooms/7/8", "404"),
            ("x", "/bare", "404"),
            // These are one path to one server and another to the next.
            ("x", "/bare/rooms/a%2Fb", "400"),
            ("x", "/bare/rooms/%2e%2e", "400"),
            ("x", "/bare/files/../rooms", "400"),
            ("x", "/bare/files/a;/..;x/b", "400"),
            ("x", "/bare/rooms//", "400"),
        ],
    );
    gateway.probe();
}

fn an_api_that_is_switched_off_keeps_its_place(variant: Variant) {
    let upstream = RawUpstream::listen();
    let setup = Setup::new(variant).api_to("a", &upstream.url("/wide"), "").api(&format!(
        "name: b, context: /a/b, enabled: true, endpoints: {{ production: {{ url: \"{}\" }} }}",
        upstream.url("/b")
    ));
    let on = setup.yaml();
    let off = on.replace("enabled: true", "enabled: false");
    let mut gateway = setup.start();
    for (yaml, asked_for) in [(&off, "404"), (&on, "/b"), (&off, "404")] {
        let outcome = gateway.apply(yaml);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        // The wider API does not step in.
        expect_targets(
            &gateway,
            &upstream,
            &[("x", "/a/b", asked_for), ("x", "/a/b/c", asked_for), ("x", "/a", "/wide")],
        );
    }
    gateway.probe();
}

fn apis_are_seen_on_their_listeners_only(variant: Variant) {
    let upstream = RawUpstream::listen();
    let port = Port::free();
    let setup = Setup::new(variant);
    let socket = setup.directory().join("inside.sock");
    let api = |name: &str, context: &str, listeners: &str| {
        let url = upstream.url(&format!("/{name}"));
        format!(
            "name: {name}, context: {context}, listeners: [{listeners}], endpoints: {{ production: {{ url: \"{url}\" }} }}"
        )
    };
    let mut gateway = setup
        .another_listener(&format!("name: inside, bind: \"unix:{}\"", socket.display()))
        .another_listener(&format!("name: six, bind: \"[::1]:{}\"", port.number))
        .api(&api("for-public", "/a", "public"))
        .api(&api("for-others", "/a", "inside, six"))
        .api(&api("for-six", "/a/six", "six"))
        .api(&api("for-all", "/all", ""))
        .start();
    let six = (std::net::Ipv6Addr::LOCALHOST, port.number).into();
    let [public, inside, six] =
        [&|| Peer::connect(gateway.address()) as Peer, &|| Peer::connect_unix(&socket), &|| Peer::connect(six)]
            as [&dyn Fn() -> Peer; 3];
    for (connect, target, asked_for) in [
        (public, "/a", "/for-public"),
        (inside, "/a", "/for-others"),
        (six, "/a", "/for-others"),
        (public, "/a/six", "/for-public"),
        (inside, "/a/six", "/for-others"),
        (six, "/a/six", "/for-six"),
        (public, "/all", "/for-all"),
        (inside, "/all", "/for-all"),
        (six, "/all", "/for-all"),
    ] {
        assert_eq!(opened(connect(), &upstream, &Upgrade::to(target)).target(), asked_for, "{target}");
    }
    gateway.probe();
}

fn listeners_and_headers_choose_production_or_sandbox(variant: Variant) {
    let upstream = RawUpstream::listen();
    let port = Port::free();
    let url = |path: &str| format!("{{ url: \"{}\" }}", upstream.url(path));
    let gateway = Setup::new(variant)
        .listener("environment_header: X-Environment")
        .another_listener(&format!(
            "name: test, bind: \"{}\", environment: sandbox, environment_header: X-Environment",
            port.address()
        ))
        .api(&format!("name: a, context: /a, endpoints: {{ production: {}, sandbox: {} }}", url("/p"), url("/s")))
        .api(&format!("name: p, context: /p, endpoints: {{ production: {} }}", url("/p")))
        .api(&format!("name: s, context: /s, endpoints: {{ sandbox: {} }}", url("/s")))
        .start();
    for (listener, chosen, target, asked_for) in [
        (gateway.address(), None, "/a", "/p"),
        (gateway.address(), Some("sandbox"), "/a", "/s"),
        (gateway.address(), Some("SandBox"), "/a", "/s"),
        (gateway.address(), Some("production"), "/a", "/p"),
        (gateway.address(), Some("staging"), "/a", "/p"),
        (gateway.address(), None, "/s", "404"),
        (gateway.address(), Some("sandbox"), "/s", "/s"),
        (gateway.address(), Some("sandbox"), "/p", "404"),
        (port.address(), None, "/a", "/s"),
        (port.address(), Some("production"), "/a", "/p"),
        (port.address(), None, "/p", "404"),
        (port.address(), Some("production"), "/p", "/p"),
    ] {
        let mut request = Upgrade::to(target).with("X-Environments", "kept");
        if let Some(chosen) = chosen {
            request = request.with("x-environment", chosen);
        }
        let client = Peer::connect(listener);
        if let Ok(status) = asked_for.parse() {
            expect_refused(client, &request, status);
        } else {
            let head = opened(client, &upstream, &request);
            assert_eq!(head.target(), asked_for, "{listener} {chosen:?} {target}");
            assert_eq!(head.header("X-Environment"), None, "{head}");
            assert_eq!(head.header("X-Environments"), Some("kept"), "{head}");
        }
    }
    upstream.expect_no_connection(Duration::ZERO);
}

fn every_listener_tells_its_health(variant: Variant) {
    let upstream = RawUpstream::listen();
    let port = Port::free();
    let setup = Setup::new(variant);
    let socket = setup.directory().join("inside.sock");
    let mut gateway = setup
        .another_listener(&format!("name: inside, bind: \"unix:{}\"", socket.display()))
        .another_listener(&format!("name: six, bind: \"[::1]:{}\"", port.number))
        .api_to("health", &upstream.url("/api"), "")
        .start();
    let six = (std::net::Ipv6Addr::LOCALHOST, port.number).into();
    for address in [gateway.address(), six] {
        let (status, body) = http_get(address, "/health").expect("a listener answers");
        assert_eq!((status, body.trim_end()), (200, "ok"), "{address}");
        // It is this path and no other.
        for target in ["/health/", "/healthy", "/health/x"] {
            assert_eq!(http_get(address, target).map(|(status, _)| status), Some(426), "{address} {target}");
        }
    }
    for request in ["GET /health HTTP/1.0\r\n\r\n", "GET /health?verbose HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut client = Peer::connect_unix(&socket);
        client.send(request.as_bytes());
        let answer = client.refused();
        assert_eq!((answer.status, answer.body.trim_end()), (200, "ok"), "{request}");
    }
    // An upgrade is a request like any other.
    assert_eq!(opened(gateway.connect(), &upstream, &Upgrade::to("/health")).target(), "/api");
    gateway.probe();
}
