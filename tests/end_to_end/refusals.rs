//! What a client sees of each refusal: one status, one sentence, the end of the connection, and nothing at the upstream.
//!
//! The table is written down here a second time on purpose: who changes what peers see changes it twice.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::kit::issuer::Manner;
use crate::kit::peer::Refused;
use crate::kit::pki;
use crate::kit::{
    Gateway, IssuerServer, Peer, People, Port, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, until, until_some,
};

on_both_drivers!(
    requests_that_break_a_rule,
    requests_that_lead_nowhere,
    clients_that_cannot_say_who_they_are,
    clients_that_a_policy_does_not_let_in,
    clients_that_there_is_no_room_for,
    a_head_that_does_not_come_in_time,
    a_proxy_header_that_does_not_come,
    clients_without_a_tls_session,
    endpoints_without_a_tls_session,
    no_snapshot_means_no_listener,
    a_handshake_that_the_drain_meets,
    at_the_ceiling_of_descriptors,
    endpoints_that_cannot_be_reached,
    endpoints_that_answer_too_late_or_not_at_all,
    endpoints_whose_answer_is_wrong,
    other_answers_are_relayed_and_open_no_tunnel,
);

/// Name, status, word, blame.
const TABLE: [(&str, u16, &str, &str); 49] = [
    ("BadHead", 400, "bad_head", "client"),
    ("BadProxyHeader", 400, "bad_proxy_header", "client"),
    ("PlainHttp", 400, "plain_http", "client"),
    ("TlsFailed", 400, "tls_failed", "client"),
    ("HttpVersion", 400, "http_version", "client"),
    ("BodyOnUpgrade", 400, "body_on_upgrade", "client"),
    ("BadHost", 400, "bad_host", "client"),
    ("BadKey", 400, "bad_key", "client"),
    ("BadOffer", 400, "bad_offer", "client"),
    ("Method", 405, "method", "client"),
    ("TargetTooLong", 414, "target_too_long", "client"),
    ("HeadTooLarge", 431, "head_too_large", "client"),
    ("NotWebSocket", 426, "not_websocket", "client"),
    ("Version", 426, "version", "client"),
    ("HandshakeTimeout", 408, "handshake_timeout", "client"),
    ("NoApi", 404, "no_api", "client"),
    ("NoTopic", 404, "no_topic", "client"),
    ("NoEnvironment", 404, "no_environment", "client"),
    ("Origin", 403, "origin", "client"),
    ("NoCredentials", 401, "no_credentials", "client"),
    ("BadCredentials", 401, "bad_credentials", "client"),
    ("CredentialsUnverified", 401, "credentials_unverified", "gateway"),
    ("Scope", 403, "scope", "client"),
    ("KeyType", 401, "key_type", "client"),
    ("NotSubscribed", 403, "not_subscribed", "client"),
    ("Denied", 403, "denied", "client"),
    ("Sessions", 503, "sessions", "gateway"),
    ("SessionsOfUser", 429, "sessions_of_user", "client"),
    ("SessionsOfApplication", 429, "sessions_of_application", "client"),
    ("SessionsOfAddress", 429, "sessions_of_address", "client"),
    ("SessionsOfPlan", 429, "sessions_of_plan", "client"),
    ("Connects", 503, "connects", "gateway"),
    ("ConnectsOfAddress", 429, "connects_of_address", "client"),
    ("UpstreamFull", 503, "upstream_full", "upstream"),
    ("Policy", 403, "policy", "client"),
    ("PolicyUnavailable", 503, "policy_unavailable", "gateway"),
    ("NoSnapshot", 503, "no_snapshot", "gateway"),
    ("Draining", 503, "draining", "gateway"),
    ("Full", 503, "full", "gateway"),
    ("UpstreamUnreachable", 502, "upstream_unreachable", "upstream"),
    ("UpstreamName", 502, "upstream_name", "upstream"),
    ("UpstreamConnectTimeout", 504, "upstream_connect_timeout", "upstream"),
    ("UpstreamTls", 502, "upstream_tls", "upstream"),
    ("UpstreamHandshakeTimeout", 504, "upstream_handshake_timeout", "upstream"),
    ("UpstreamClosed", 502, "upstream_closed", "upstream"),
    ("UpstreamBadHead", 502, "upstream_bad_head", "upstream"),
    ("UpstreamBadAccept", 502, "upstream_bad_accept", "upstream"),
    ("UpstreamNotOffered", 502, "upstream_not_offered", "upstream"),
    // A fault of the gateway itself: no peer can bring it about, or it would be something else.
    ("Internal", 500, "internal", "gateway"),
];

fn row(refusal: &str) -> (u16, &'static str, &'static str) {
    let (_, status, word, blame) = TABLE.into_iter().find(|row| row.0 == refusal).expect("a refusal of the table");
    (status, word, blame)
}

/// How often this refusal has been counted.
fn counted(gateway: &Gateway, refusal: &str) -> f64 {
    let (_, word, blame) = row(refusal);
    gateway.metric("framegate_refusals_total", &[("reason", word), ("blame", blame)])
}

/// Checks the answer against the table, and that it is written down once in the counters and in the log.
#[track_caller]
fn check(gateway: &mut Gateway, before: f64, answer: &Refused, refusal: &str, what: &str) {
    let (status, word, blame) = row(refusal);
    assert_eq!(answer.status, status, "{refusal}, {what}: {}{}", answer.head, answer.body);
    let sentence = answer.body.trim_end();
    assert!(sentence.ends_with('.') && !sentence.contains('\n'), "{refusal}, {what}: {sentence:?}");
    assert_eq!(counted(gateway, refusal), before + 1.0, "{refusal}, {what}");
    until("the refusal is in the session log", || {
        let lines = gateway.log_lines().into_iter();
        let refused =
            lines.filter(|line| line["event"] == "refused" && line["reason"] == word && line["blame"] == blame);
        refused.count() as f64 == before + 1.0
    });
    gateway.probe();
}

/// Sends the bytes as a client's first words and expects this refusal.
#[track_caller]
fn expect_refusal(gateway: &mut Gateway, bytes: &[u8], refusal: &str) -> Refused {
    let before = counted(gateway, refusal);
    let mut client = gateway.connect();
    client.try_send(bytes);
    let answer = client.refused();
    check(gateway, before, &answer, refusal, &bytes[..bytes.len().min(300)].escape_ascii().to_string());
    answer
}

fn requests_that_break_a_rule(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    let good = Upgrade::to("/chat");
    let many_fields = (0..101).fold(good.clone(), |request, _| request.with("X", "y"));

    for (refusal, request) in [
        ("BadHead", good.clone().with("X", "one\r\n folded")),
        ("BadHead", good.clone().with("X ", "space before the colon")),
        ("BadHead", good.clone().with("X", "bare\ncarriage")),
        ("BadHead", good.clone().with("X", "bare\rreturn")),
        ("BadHead", good.clone().with("X", "nul\0")),
        ("BadHead", good.clone().with_bytes("no colon")),
        ("BadHead", good.clone().with("Content-Length", "0").with("Content-Length", "0")),
        ("BadHead", good.clone().with("Content-Length", "0").with("Transfer-Encoding", "chunked")),
        ("BadHead", good.clone().line("GET  /chat HTTP/1.1")),
        ("BadHead", good.clone().line("GET /chat/../probe HTTP/1.1")),
        ("BadHead", good.clone().line("GET /chat")),
        ("BadHead", good.clone().line("\x16\x03\x01\x02")),
        ("HttpVersion", good.clone().line("GET /chat HTTP/1.0")),
        ("HttpVersion", good.clone().line("PRI * HTTP/2.0")),
        ("BodyOnUpgrade", good.clone().with("Content-Length", "5")),
        ("BodyOnUpgrade", good.clone().with("Transfer-Encoding", "chunked")),
        ("BadHost", good.clone().without("Host")),
        ("BadHost", good.clone().with("Host", "other.test")),
        ("BadHost", good.clone().set("Host", "a b")),
        ("BadKey", good.clone().without("Sec-WebSocket-Key")),
        ("BadKey", good.clone().set("Sec-WebSocket-Key", "AAAA")),
        ("BadKey", good.clone().set("Sec-WebSocket-Key", "not base64, twenty four!")),
        ("BadKey", good.clone().with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")),
        ("BadOffer", good.clone().with("Sec-WebSocket-Protocol", "a b")),
        ("BadOffer", good.clone().with("Sec-WebSocket-Protocol", "a, a")),
        ("BadOffer", good.clone().with("Sec-WebSocket-Extensions", ";")),
        ("Method", good.clone().line("POST /chat HTTP/1.1")),
        ("Method", good.clone().line("get /chat HTTP/1.1")),
        ("TargetTooLong", good.clone().line(&format!("GET /chat/{} HTTP/1.1", "x".repeat(8 * 1024)))),
        ("HeadTooLarge", good.clone().with("X", &"x".repeat(16 * 1024))),
        ("HeadTooLarge", many_fields),
        ("NotWebSocket", good.clone().without("Upgrade")),
        ("NotWebSocket", good.clone().without("Connection")),
        ("NotWebSocket", good.clone().set("Upgrade", "h2c")),
        ("NotWebSocket", good.clone().set("Connection", "keep-alive")),
        ("Version", good.clone().without("Sec-WebSocket-Version")),
        ("Version", good.clone().set("Sec-WebSocket-Version", "8")),
    ] {
        let answer = expect_refusal(&mut gateway, &request.encode(), refusal);
        match refusal {
            "Method" => assert_eq!(answer.head.header("Allow"), Some("GET")),
            "Version" | "NotWebSocket" => {
                assert_eq!(answer.head.header("Upgrade"), Some("websocket"));
                assert_eq!(answer.head.header("Sec-WebSocket-Version"), Some("13"));
            }
            _ => {}
        }
    }
    upstream.expect_no_connection(Duration::ZERO);
}

fn requests_that_lead_nowhere(variant: Variant) {
    let upstream = RawUpstream::listen();
    let url = upstream.url("/");
    let mut gateway = Setup::new(variant)
        .api_to("off", &url, "enabled: false")
        .api_to("hosted", &url, "hosts: [chat.test]")
        .api_to("topics", &url, "topics: [{ topic: /rooms }]")
        .api_to("exact", &url, "match: exact")
        .api_to("guarded", &url, "origins: [\"https://good.test\"]")
        .api(&format!("name: sandbox-only, context: /sandbox-only, endpoints: {{ sandbox: {{ url: \"{url}\" }} }}"))
        .start();

    for (refusal, request) in [
        ("NoApi", Upgrade::to("/nowhere")),
        ("NoApi", Upgrade::to("/")),
        ("NoApi", Upgrade::to("/off")),
        ("NoApi", Upgrade::to("/probes")),
        ("NoApi", Upgrade::to("/hosted")),
        ("NoApi", Upgrade::to("/exact/below")),
        ("NoTopic", Upgrade::to("/topics")),
        ("NoTopic", Upgrade::to("/topics/others")),
        ("NoEnvironment", Upgrade::to("/sandbox-only")),
        ("Origin", Upgrade::to("/guarded").with("Origin", "https://bad.test")),
        ("Origin", Upgrade::to("/guarded").with("Origin", "http://good.test")),
        ("Origin", Upgrade::to("/guarded").with("Origin", "https://good.test:8443")),
        ("Origin", Upgrade::to("/guarded").with("Origin", "https://good.test.evil.test")),
        ("Origin", Upgrade::to("/guarded").with("Origin", "https://xgood.test")),
        ("Origin", Upgrade::to("/guarded").with("Origin", "null")),
    ] {
        expect_refusal(&mut gateway, &request.encode(), refusal);
    }
    upstream.expect_no_connection(Duration::ZERO);

    // And what is right beside it gets through.
    for request in [
        Upgrade::to("/hosted").set("Host", "chat.test"),
        Upgrade::to("/topics/rooms"),
        Upgrade::to("/exact"),
        Upgrade::to("/guarded").with("Origin", "https://good.test"),
    ] {
        let mut client = gateway.connect();
        client.send(&request.encode());
        upstream.accept().agree();
        client.upgraded();
    }
}

/// Every step, and every way in which a service can fail to decide, has its case among `policy`.
fn clients_that_a_policy_does_not_let_in(variant: Variant) {
    let upstream = RawUpstream::listen();
    let nobody = Port::free();
    let asks = format!("on_upgrade: [{{ forward_auth: {{ url: 'http://{}/' }} }}]", nobody.address());
    let mut gateway = Setup::new(variant)
        .api_to("refused", &upstream.url("/"), "on_upgrade: [{ deny: { addresses: [127.0.0.0/8] } }]")
        .api_to("undecided", &upstream.url("/"), &asks)
        .start();
    for (refusal, target) in [("Policy", "/refused"), ("PolicyUnavailable", "/undecided")] {
        let answer = expect_refusal(&mut gateway, &Upgrade::to(target).encode(), refusal);
        assert_eq!(answer.head.header("Retry-After").is_some(), answer.status == 503, "{}", answer.head);
    }
    upstream.expect_no_connection(Duration::ZERO);
}

/// One session each has room; the next is told why not, and when to come back.
fn clients_that_there_is_no_room_for(variant: Variant) {
    let upstream = RawUpstream::listen();
    let full = RawUpstream::listen();
    let people = People::new()
        .application("mobile", "")
        .subscriptions("mobile", &["of-user", "of-application"])
        .entry("subscriptions", "application: mobile, api: of-plan, plan: alone".into())
        .key("k", "mobile", "a-key", "user: alice");
    let asked = "authentication: { accept: [api_key] }";
    let of = |admission: &str| format!("admission: {{ {admission} }}");
    let mut gateway = Setup::new(variant)
        .people(people)
        .document("plans: [{ name: alone, sessions_max: 1 }]\ndenials: [{ name: closed, api: denied }]\n")
        .upstream(&format!("name: small, sessions_per_endpoint_max: 1, endpoints: [{{ url: \"{}\" }}]", full.url("/")))
        .api_to("denied", &upstream.url("/"), "")
        .api_to("sessions", &upstream.url("/"), &of("sessions_max: 1"))
        .api_to("of-user", &upstream.url("/"), &format!("{asked}, {}", of("sessions_per_user_max: 1")))
        .api_to("of-application", &upstream.url("/"), &format!("{asked}, {}", of("sessions_per_application_max: 1")))
        .api_to("of-address", &upstream.url("/"), &of("sessions_per_address_max: 1"))
        .api_to("of-plan", &upstream.url("/"), asked)
        .api_to("connects", &upstream.url("/"), &of("connects: 1/h"))
        .api_to("connects-of-address", &upstream.url("/"), &of("connects_per_address: 1/h"))
        .api("name: full, context: /full, endpoints: { production: { upstream: small } }")
        .start();
    for (refusal, target) in [
        ("Denied", "/denied"),
        ("Sessions", "/sessions"),
        ("SessionsOfUser", "/of-user"),
        ("SessionsOfApplication", "/of-application"),
        ("SessionsOfAddress", "/of-address"),
        ("SessionsOfPlan", "/of-plan"),
        ("Connects", "/connects"),
        ("ConnectsOfAddress", "/connects-of-address"),
        ("UpstreamFull", "/full"),
    ] {
        let request = Upgrade::to(target).with("apikey", "a-key").encode();
        let first = (refusal != "Denied").then(|| {
            let mut client = gateway.connect();
            client.send(&request);
            let mut backend = if target == "/full" { full.accept() } else { upstream.accept() };
            backend.agree();
            client.upgraded();
            (client, backend)
        });
        let answer = expect_refusal(&mut gateway, &request, refusal);
        assert_eq!(answer.head.header("Retry-After").is_some(), refusal != "Denied", "{refusal}: {}", answer.head);
        drop(first);
    }
}

/// One of each; every form and every fault has its case among `credentials`.
fn clients_that_cannot_say_who_they_are(variant: Variant) {
    let upstream = RawUpstream::listen();
    let away = IssuerServer::start();
    away.set_manner(Manner::Away);
    let people = People::new()
        .introspecting_issuer("away", "https://away.test", &away.introspection_url(), "timeout: 1s")
        .application("subscribed", "")
        .application("stranger", "")
        .subscriptions("subscribed", &["guarded"])
        .key("good", "subscribed", "good-key", "")
        .key("sandbox", "subscribed", "sandbox-key", "environment: sandbox")
        .key("stranger", "stranger", "stranger-key", "");
    let accept = "authentication: { accept: [bearer, api_key] }";
    let topics = "topics: [{ topic: /admin, scopes: [admin] }, { topic: /* }]";
    let mut gateway = Setup::new(variant)
        .api_to("guarded", &upstream.url("/"), &format!("{accept}, {topics}"))
        .people(people)
        .start();

    let with_key = |target: &str, key: &str| Upgrade::to(target).with("apikey", key);
    for (refusal, request) in [
        ("NoCredentials", Upgrade::to("/guarded")),
        ("BadCredentials", with_key("/guarded", "bad-key")),
        ("CredentialsUnverified", Upgrade::to("/guarded").with("Authorization", "Bearer opaque")),
        ("Scope", with_key("/guarded/admin", "good-key")),
        ("KeyType", with_key("/guarded", "sandbox-key")),
        ("NotSubscribed", with_key("/guarded", "stranger-key")),
    ] {
        let answer = expect_refusal(&mut gateway, &request.encode(), refusal);
        let challenged = answer.head.header("WWW-Authenticate").is_some();
        assert_eq!(challenged, answer.status == 401 || refusal == "Scope", "{}", answer.head);
    }
    upstream.expect_no_connection(Duration::ZERO);

    let mut client = gateway.connect();
    client.send(&with_key("/guarded", "good-key").encode());
    upstream.accept().agree();
    client.upgraded();
}

fn a_head_that_does_not_come_in_time(variant: Variant) {
    let timeout = Duration::from_millis(500);
    let mut gateway = Setup::new(variant).listener("handshake_timeout: 500ms").start();
    let head = Upgrade::to("/probe").encode();

    for dribble in [false, true] {
        let before = counted(&gateway, "HandshakeTimeout");
        let start = Instant::now();
        let mut client = gateway.connect();
        client.send(&head[..20]);
        // A byte now and then does not earn more time: the deadline is for the whole head.
        for byte in head[20..].iter().take(if dribble { 8 } else { 0 }) {
            std::thread::sleep(Duration::from_millis(40));
            client.try_send(&[*byte]);
        }
        let answer = client.refused();
        let taken = start.elapsed();
        assert!(taken >= timeout, "cut after {taken:?}");
        assert!(taken < timeout * 3, "cut only after {taken:?}");
        check(&mut gateway, before, &answer, "HandshakeTimeout", if dribble { "dribbling" } else { "silent" });
    }
}

fn a_proxy_header_that_does_not_come(variant: Variant) {
    let port = crate::kit::Port::free();
    let proxied = format!("name: proxied, bind: \"{}\", proxy_protocol_from: [127.0.0.0/8]", port.address());
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).another_listener(&proxied).api_to("chat", &upstream.url("/"), "").start();

    for bytes in [&Upgrade::to("/chat").encode()[..], b"PROXY UDP4 nonsense\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n"] {
        let before = counted(&gateway, "BadProxyHeader");
        let mut client = Peer::connect(port.address());
        client.send(bytes);
        client.expect_end();
        assert_eq!(counted(&gateway, "BadProxyHeader"), before + 1.0, "{}", bytes.escape_ascii());
        gateway.probe();
    }
    upstream.expect_no_connection(Duration::ZERO);

    for header in [
        &b"PROXY TCP4 192.0.2.7 192.0.2.1 5555 80\r\n"[..],
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x01\x15\xb3\0\x50",
    ] {
        let mut client = Peer::connect(port.address());
        client.send(header);
        client.send(&Upgrade::to("/chat").encode());
        let head = upstream.accept().agree();
        assert_eq!(head.header("X-Forwarded-For"), Some("192.0.2.7"), "{head}");
        client.upgraded();
    }
}

fn clients_without_a_tls_session(variant: Variant) {
    if !pki::is_available() {
        return;
    }
    let port = crate::kit::Port::free();
    let secure = format!("name: secure, bind: \"{}\", tls: {{ certificates: [shown] }}", port.address());
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant)
        .certificate(&pki::shared().edge.entry("shown"))
        .another_listener(&secure)
        .api_to("chat", &upstream.url("/"), "")
        .start();

    let before = counted(&gateway, "PlainHttp");
    let mut client = Peer::connect(port.address());
    client.send(&Upgrade::to("/chat").encode());
    check_refused(&mut gateway, before, &mut client, "PlainHttp", "an upgrade in clear");

    // Two that are no ClientHello, and one that ends with its beginning: nobody is answered in HTTP.
    let (_, word, _) = row("TlsFailed");
    for (at, bytes) in [&b"\x16\x03\x01\x00\x05\x02\0\0\x01\0"[..], b"\x17\x03\x03\x00\x03abc"].into_iter().enumerate()
    {
        let mut client = Peer::connect(port.address());
        client.send(bytes);
        let answer = client.rest();
        assert_eq!(answer.first(), Some(&21), "an alert: {}", answer.escape_ascii());
        assert_eq!(counted(&gateway, "TlsFailed"), at as f64 + 1.0, "{}", bytes.escape_ascii());
        until("the refusal is in the session log, with why", || {
            let lines = gateway.log_lines().into_iter().filter(|line| line["reason"] == word);
            lines.filter(|line| line["detail"].as_str().is_some_and(|detail| !detail.is_empty())).count() == at + 1
        });
        gateway.probe();
    }
    let failures = [("listener", "secure"), ("reason", "bad_record")];
    assert_eq!(gateway.metric("framegate_tls_failures_total", &failures), 2.0);
    upstream.expect_no_connection(Duration::ZERO);
}

fn endpoints_without_a_tls_session(variant: Variant) {
    if !pki::is_available() {
        return;
    }
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant)
        .authorities(&format!("name: ours, certificates: \"{}\"", pki::shared().root.display()))
        .upstream(&format!(
            "name: mute, endpoints: [{{ url: \"wss://{}/\" }}], tls: {{ authorities: ours }}",
            upstream.address()
        ))
        .api("name: mute, context: /mute, endpoints: { production: { upstream: mute } }")
        .start();
    for answer in ["", "HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let before = counted(&gateway, "UpstreamTls");
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/mute").encode());
        let mut backend = upstream.accept();
        backend.send(answer.as_bytes());
        backend.finish();
        check_refused(&mut gateway, before, &mut client, "UpstreamTls", answer);
    }
    let lines = gateway.log_lines().into_iter().filter(|line| line["reason"] == "upstream_tls");
    let details: Vec<_> = lines.map(|line| line["detail"].as_str().unwrap_or_default().to_owned()).collect();
    assert!(
        details.iter().all(|detail| detail.starts_with(&format!("wss://{}/: ", upstream.address()))),
        "{details:?}"
    );
    let failed =
        |reason| gateway.metric("framegate_upstream_tls_failures_total", &[("upstream", "mute"), ("reason", reason)]);
    assert_eq!((failed("abandoned"), failed("plain_http")), (1.0, 1.0), "{details:?}");
}

/// `NoSnapshot`: before a snapshot there is no listener, so nobody can be refused by one; the operator's says so.
fn no_snapshot_means_no_listener(variant: Variant) {
    let gateway = Setup::new(variant).without_control_plane().start();
    assert!(std::net::TcpStream::connect(gateway.address()).is_err());
    assert_eq!(gateway.ask("/health").map(|(status, _)| status), Some(200));
    assert_eq!(gateway.ask("/ready").map(|(status, _)| status), Some(503));
}

fn a_handshake_that_the_drain_meets(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).settings("drain_window: 2s").api_to("chat", &upstream.url("/"), "").start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let mut late = gateway.connect();
    let head = Upgrade::to("/chat").encode();
    late.send(&head[..20]);
    until("the gateway has accepted the late one", || gateway.metric("framegate_handshakes_active", &[]) == 1.0);

    gateway.signal(libc::SIGTERM);
    until("the gateway says that it is not ready", || gateway.ask("/ready").is_some_and(|(status, _)| status == 503));
    late.send(&head[20..]);
    let answer = late.refused();
    assert_eq!(answer.status, row("Draining").0, "{}", answer.head);
    assert!(answer.head.header("Retry-After").is_some(), "{}", answer.head);
    upstream.expect_no_connection(Duration::ZERO);

    client.expect_close(1012);
    backend.expect_close(1012);
    drop((client, backend));
    assert_eq!(gateway.ended().code(), Some(0));
}

fn at_the_ceiling_of_descriptors(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).descriptors(100).api_to("chat", &upstream.url("/"), "").start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let before = gateway.descriptors();

    // Silent connections take every descriptor that there is, and then some.
    let mut crowd: Vec<Peer> = (0..150).map(|_| gateway.connect()).collect();
    let answer = until_some("somebody is told that the gateway is full", || {
        crowd.iter_mut().find_map(|peer| peer.has_heard().then(|| peer.refused()))
    });
    assert_eq!(answer.status, row("Full").0, "{}", answer.head);
    assert!(answer.head.header("Retry-After").is_some(), "{}", answer.head);
    assert!(gateway.metric("framegate_connections_shed_total", &[]) > 0.0);

    // The live session does not notice, and accepting does not spin.
    let (cpu, start) = (gateway.cpu_time(), Instant::now());
    while start.elapsed() < Duration::from_secs(1) {
        client.send_frame(&crate::kit::Frame::text("still here?"));
        backend.expect(crate::kit::Opcode::TEXT, b"still here?");
        std::thread::sleep(Duration::from_millis(50));
    }
    let used = gateway.cpu_time() - cpu;
    assert!(used < Duration::from_millis(300), "{used:?} of processor time in a second of waiting");

    drop(crowd);
    gateway.expect_descriptors_back_to(before);
    gateway.probe();
}

fn endpoints_that_cannot_be_reached(variant: Variant) {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    // A queue of one that is full: the kernel answers no further SYN.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address").into()).expect("a free port");
    full.listen(0).expect("a socket can listen");
    let full_address = full.local_addr().expect("an address").as_socket().expect("an IP address");
    let _fillers: Vec<_> =
        (0..4).map(|_| std::net::TcpStream::connect_timeout(&full_address, Duration::from_millis(100))).collect();

    let mut gateway = Setup::new(variant)
        .upstream(&format!("name: full, endpoints: [{{ url: \"ws://{full_address}/\" }}], connect_timeout: 300ms"))
        .api("name: full, context: /full, endpoints: { production: { upstream: full } }")
        .api_to("closed", &format!("ws://{closed}/"), "")
        .api_to("nameless", "ws://no-such-host.invalid/", "")
        .api_to("missing", &format!("ws+unix:{}/none.sock:/", std::env::temp_dir().display()), "")
        .start();
    for (refusal, target) in [
        ("UpstreamUnreachable", "/closed"),
        ("UpstreamUnreachable", "/missing"),
        ("UpstreamName", "/nameless"),
        ("UpstreamConnectTimeout", "/full"),
    ] {
        expect_refusal(&mut gateway, &Upgrade::to(target).encode(), refusal);
    }
}

fn endpoints_that_answer_too_late_or_not_at_all(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant)
        .upstream(&format!("name: slow, endpoints: [{{ url: \"{}\" }}], handshake_timeout: 400ms", upstream.url("/")))
        .api("name: slow, context: /slow, endpoints: { production: { upstream: slow } }")
        .start();
    for (refusal, answer, goes) in [
        ("UpstreamHandshakeTimeout", "", false),
        ("UpstreamHandshakeTimeout", "HTTP/1.1 101 Switching Pro", false),
        ("UpstreamClosed", "", true),
        ("UpstreamClosed", "HTTP/1.1 101 Switching Pro", true),
    ] {
        let before = counted(&gateway, refusal);
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/slow").encode());
        let mut backend = upstream.accept();
        backend.head();
        backend.send(answer.as_bytes());
        if goes {
            drop(backend);
            check_refused(&mut gateway, before, &mut client, refusal, answer);
        } else {
            check_refused(&mut gateway, before, &mut client, refusal, answer);
            // The endpoint that was too slow is let go.
            backend.expect_end();
        }
    }
}

#[track_caller]
fn check_refused(gateway: &mut Gateway, before: f64, client: &mut Peer, refusal: &str, what: &str) {
    let answer = client.refused();
    check(gateway, before, &answer, refusal, what);
}

fn endpoints_whose_answer_is_wrong(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    let request = Upgrade::to("/chat").with("Sec-WebSocket-Protocol", "one, two").encode();
    let long = format!("HTTP/1.1 101 Switching Protocols\r\nX: {}\r\n\r\n", "x".repeat(16 * 1024));

    for (refusal, answer) in [
        ("UpstreamBadHead", "SSH-2.0-OpenSSH_9.2\r\n"),
        ("UpstreamBadHead", "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\n\n"),
        ("UpstreamBadHead", "HTTP/1.1 101 Switching Protocols\r\nX : y\r\n\r\n"),
        ("UpstreamBadHead", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("UpstreamBadHead", &long),
        (
            "UpstreamBadAccept",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        ),
        (
            "UpstreamBadAccept",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        ),
        (
            "UpstreamBadAccept",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        ),
        (
            "UpstreamBadAccept",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        ),
        ("UpstreamBadAccept", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        (
            "UpstreamNotOffered",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: three\r\n\r\n",
        ),
        (
            "UpstreamNotOffered",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        ),
    ] {
        let before = counted(&gateway, refusal);
        let mut client = gateway.connect();
        client.send(&request);
        let mut backend = upstream.accept();
        let head = backend.head();
        let key = head.header("Sec-WebSocket-Key").expect("a key").to_owned();
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        backend.try_send(answer.replace("{}", &accept).as_bytes());
        check_refused(&mut gateway, before, &mut client, refusal, &answer[..answer.len().min(200)]);
        backend.expect_end();
    }
}

fn other_answers_are_relayed_and_open_no_tunnel(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    for (status, fields, body) in [
        (200, "Content-Length: 5\r\n", "hello"),
        (302, "Location: /elsewhere\r\nContent-Length: 0\r\n", ""),
        (401, "WWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 2\r\n", "no"),
        (403, "Connection: close\r\n", "until the end of the connection"),
        (503, "Transfer-Encoding: chunked\r\n", "5\r\nsorry\r\n0\r\n\r\n"),
    ] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/chat").encode());
        let mut backend = upstream.accept();
        let request = backend.head();
        backend.send(format!("HTTP/1.1 {status} Because\r\n{fields}\r\n{body}").as_bytes());
        if fields.starts_with("Connection") {
            backend.finish();
        }
        let head = client.head();
        assert_eq!(head.status(), status, "{head}");
        assert!(head.headers("Connection").iter().all(|value| value.contains("close")), "{head}");
        assert_eq!(head.header("Upgrade"), None, "{head}");
        if status == 401 {
            assert!(head.header("WWW-Authenticate").is_some(), "{head}");
        }
        // What the client says now reaches nobody.
        client.try_send(b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n");
        let rest = client.rest();
        let expected = if status == 503 { "sorry" } else { body };
        assert!(String::from_utf8_lossy(&rest).contains(expected), "{head}{}", rest.escape_ascii());
        backend.finish();
        backend.rest();
        assert_eq!(backend.received(), request.bytes, "{}", backend.received().escape_ascii());
        gateway.probe();
    }
}
