//! Is it written down truly: who came, where to, for how long, how much, how it ended? And nothing that is a secret?

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::kit::gateway::series;
use crate::kit::{
    EchoBackend, Frame, Gateway, Opcode, Port, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, until,
};
use crate::kit::{pki, tls};

on_both_drivers!(
    two_lines_tell_a_session_from_door_to_door,
    what_tls_came_to_is_written_down,
    the_log_says_who_broke_off,
    a_refusal_is_one_line,
    secrets_are_nowhere,
    the_log_is_opened_again_on_request,
    a_log_that_nobody_reads_holds_nobody_up,
    metrics_agree_with_what_was_sent,
    readiness_waits_for_a_configuration,
);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The members of a line that have these names, each with its value.
#[track_caller]
fn expect_members(line: &Value, members: &[(&str, Value)]) {
    for (name, value) in members {
        assert_eq!(line[*name], *value, "{name} in {line}");
    }
}

fn two_lines_tell_a_session_from_door_to_door(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/rooms"), "version: v7").start();
    let mut client = gateway.connect();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = Upgrade::to("/chat/v7/red?lang=de")
        .with("Sec-WebSocket-Protocol", "chat.v2, chat.v1")
        .with("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"));
    client.send(&request.encode());
    let mut backend = upstream.accept();
    thread::sleep(ms(200));
    backend.agree_with("Sec-WebSocket-Protocol: chat.v1\r\n");
    let answer = client.upgraded();
    let opened = gateway.logged("open", "chat");
    let here = client.socket().local_addr().expect("an address").as_socket().expect("of IP").to_string();
    let request_id = answer.header("X-Request-Id").expect("an id");
    let who: [(&str, Value); 13] = [
        ("client", here.into()),
        ("listener", "public".into()),
        ("host", "gateway.test".into()),
        ("path", "/chat/v7/red?lang=de".into()),
        ("version", "v7".into()),
        ("environment", "production".into()),
        ("subprotocol", "chat.v1".into()),
        ("status", 101.into()),
        ("endpoint", upstream.url("/rooms").into()),
        ("trace_id", trace.into()),
        ("request_id", request_id.into()),
        ("session", opened["session"].clone()),
        ("handshake_ms", opened["handshake_ms"].clone()),
    ];
    expect_members(&opened, &who);
    let session = opened["session"].as_str().expect("an id");
    assert!(session.len() == 16 && session.bytes().all(|byte| byte.is_ascii_hexdigit()), "{opened}");
    assert!(opened["handshake_ms"].as_f64().expect("a number") >= 199.0, "{opened}");

    client.send_frame(&Frame::text("one"));
    client.send_frame(&Frame::text("tw").unfinished());
    client.send_frame(&Frame::ping("not data"));
    client.send_frame(&Frame::continuation("o"));
    client.send_frame(&Frame::binary([0; 300]));
    backend.send_frame(&Frame::binary([1; 70_000]));
    backend.send_frame(&Frame::text(""));
    client.message();
    client.message();
    thread::sleep(ms(50));
    client.send_frame(&Frame::close(4000, "done"));
    for _ in 0..5 {
        backend.frame();
    }
    assert_eq!(backend.expect_close(4000), "done");
    backend.send_frame(&Frame::close(4000, ""));
    client.expect_close(4000);
    drop((client, backend));
    let closed = gateway.logged("close", "chat");
    expect_members(&closed, &who);
    let how: [(&str, Value); 8] = [
        ("messages_to_upstream", 3.into()),
        ("bytes_to_upstream", 306.into()),
        ("messages_to_client", 2.into()),
        ("bytes_to_client", 70_000.into()),
        ("code", 4000.into()),
        ("side", "client".into()),
        ("reason", "closed".into()),
        ("termination", "C-".into()),
    ];
    expect_members(&closed, &how);
    let duration_ms = closed["duration_ms"].as_f64().expect("a number");
    assert!(duration_ms >= 49.0, "{closed}");
    assert!(closed["time"].as_str() > opened["time"].as_str(), "{closed}");
    gateway.probe();
}

fn what_tls_came_to_is_written_down(variant: Variant) {
    if !pki::is_available() {
        return;
    }
    let pki = pki::shared();
    let port = Port::free();
    let upstream = RawUpstream::listen_securely(tls::service());
    let clients = "client_certificates: { mode: optional, authorities: ours }";
    let gateway = Setup::new(variant)
        .certificate(&pki.edge.entry("shown"))
        .authorities(&format!("name: ours, certificates: \"{}\"", pki.root.display()))
        .another_listener(&format!(
            "name: secure, bind: \"{}\", tls: {{ certificates: [shown], {clients} }}",
            port.address()
        ))
        .upstream(&format!(
            "name: chat, endpoints: [{{ url: \"{}\" }}], tls: {{ authorities: ours, versions: [tls1.2] }}",
            upstream.url("/")
        ))
        .api("name: chat, context: /chat, endpoints: { production: { upstream: chat } }")
        .start();
    let client = tls::Terms::default().identity(&pki.client).resuming().client();
    for (visit, resumed) in [false, true].into_iter().enumerate() {
        let mut client = client.connect(port.address());
        client.send(&Upgrade::to("/chat").encode());
        let mut backend = upstream.accept();
        backend.agree();
        client.upgraded();
        // What came before its own frames are its tickets.
        backend.send_frame(&Frame::text("welcome"));
        client.expect(Opcode::TEXT, b"welcome");
        let lines = || gateway.log_lines().into_iter().filter(|line| line["event"] == "open").collect::<Vec<_>>();
        until("the session is in the log", || lines().len() == visit + 1);
        expect_members(
            &lines()[visit],
            &[
                ("listener", "secure".into()),
                ("tls_version", "tls1.3".into()),
                ("tls_suite", "TLS_AES_256_GCM_SHA384".into()),
                ("tls_resumed", resumed.into()),
                ("tls_server_name", "gateway.test".into()),
                ("client_certificate", "CN=client,O=Framegate".into()),
                ("client_certificate_sha256", pki.client.fingerprint().into()),
                ("upstream_tls_version", "tls1.2".into()),
            ],
        );
        let labels = [("listener", "secure"), ("version", "tls1.3"), ("resumed", if resumed { "yes" } else { "no" })];
        assert_eq!(gateway.metric("framegate_tls_handshakes_total", &labels), 1.0);
    }
    let expiry = gateway.metric("framegate_certificate_expiry_timestamp_seconds", &[("certificate", "shown")]);
    let days = (expiry - std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs_f64()) / 86_400.0;
    assert!((1.0..400.0).contains(&days), "{days}");
}

fn the_log_says_who_broke_off(variant: Variant) {
    for (leg, termination) in [("client", "CX"), ("upstream", "UX")] {
        let upstream = RawUpstream::listen();
        let gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
        let (client, backend) = gateway.session("/chat", &upstream);
        let (gone, mut other) = if leg == "client" { (client, backend) } else { (backend, client) };
        gone.reset();
        other.expect_close(1011);
        other.send_frame(&Frame::close(1011, ""));
        drop(other);
        let line = gateway.logged("close", "chat");
        let how = [("code", 1006.into()), ("side", leg.into()), ("reason", "lost".into())];
        expect_members(&line, &how);
        assert_eq!(line["termination"], termination, "{line}");
    }
    // A close frame without a code, and one that answers it.
    let upstream = RawUpstream::listen();
    let gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    backend.send_frame(&Frame::new(Opcode::CLOSE, []));
    client.expect(Opcode::CLOSE, b"");
    client.send_frame(&Frame::new(Opcode::CLOSE, []));
    drop((client, backend));
    expect_members(&gateway.logged("close", "chat"), &[("code", 1005.into()), ("termination", "U-".into())]);
}

fn a_refusal_is_one_line(variant: Variant) {
    let upstream = RawUpstream::listen();
    let nobody = Port::free();
    let mut gateway = Setup::new(variant)
        .api_to("chat", &upstream.url("/"), "")
        .api_to("broken", &format!("ws://{}/", nobody.address()), "")
        .start();
    let ask = |gateway: &Gateway, target: &str| {
        let mut client = gateway.connect();
        client.send(&Upgrade::to(target).encode());
        client
    };
    assert_eq!(ask(&gateway, "/nowhere").refused().status, 404);
    let line = gateway.logged("refused", "");
    let expected: [(&str, Value); 5] = [
        ("status", 404.into()),
        ("reason", "no_api".into()),
        ("blame", "client".into()),
        ("path", "/nowhere".into()),
        ("listener", "public".into()),
    ];
    expect_members(&line, &expected);

    assert_eq!(ask(&gateway, "/broken").refused().status, 502);
    let line = gateway.logged("refused", "broken");
    expect_members(&line, &[("reason", "upstream_unreachable".into()), ("blame", "upstream".into())]);

    let mut client = ask(&gateway, "/chat");
    let mut backend = upstream.accept();
    backend.head();
    backend.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.head().status(), 403);
    let line = gateway.logged("refused", "chat");
    expect_members(
        &line,
        &[("status", 403.into()), ("reason", "upstream_answered".into()), ("blame", "upstream".into())],
    );
    assert_eq!(gateway.log_lines().len(), 3);
    assert_eq!(gateway.metric("framegate_upstream_answers_total", &[("status", "4xx")]), 1.0);
    gateway.probe();
}

fn secrets_are_nowhere(variant: Variant) {
    const SECRET: &str = "S3CR3T";
    let upstream = RawUpstream::listen();
    let nobody = Port::free();
    let mut gateway = Setup::new(variant)
        .environment("dataplane", "FRAMEGATE_LOG_LEVEL", "trace")
        .environment("controlplane", "FRAMEGATE_LOG_LEVEL", "debug")
        .settings("drain_window: 1s, secret_query_parameters: [session_key]")
        .api_to("chat", &upstream.url(&format!("/socket?apikey={SECRET}0")), "")
        .api_to("broken", &format!("ws://{}/?session_key={SECRET}1", nobody.address()), "")
        .start();
    let sent = format!("/chat/room?access_token={SECRET}2&lang=de&ApiKey={SECRET}3&session%5Fkey={SECRET}4");
    let mut client = gateway.connect();
    let request = Upgrade::to(&sent)
        .with("Authorization", &format!("Bearer {SECRET}5"))
        .with("Cookie", &format!("sid={SECRET}6"))
        .with("Sec-WebSocket-Protocol", &format!("chat, {SECRET}7"));
    client.send(&request.encode());
    let mut backend = upstream.accept();
    let head = backend.agree_with("Sec-WebSocket-Protocol: chat\r\n");
    assert!((0..8).filter(|n| *n != 1).all(|n| head.to_string().contains(&format!("{SECRET}{n}"))), "{head}");
    client.upgraded();
    client.send_frame(&Frame::text(&format!("{{\"password\": \"{SECRET}\"}}")));
    client.send_frame(&Frame::close(4000, SECRET));
    backend.frame();
    backend.expect_close(4000);
    backend.send_frame(&Frame::close(4000, SECRET));
    client.expect_close(4000);
    for bytes in [
        Upgrade::to(&format!("/nowhere?apikey={SECRET}")).encode(),
        Upgrade::to(&format!("/broken?access_token={SECRET}")).encode(),
        Upgrade::to(&format!("/chat?access_token={SECRET}")).without("Sec-WebSocket-Key").encode(),
        Upgrade::to(&format!("/chat?access_token={SECRET}")).with_bytes(format!("Broken {SECRET}")).encode(),
        format!("GET /chat?access_token={SECRET} HTTP/1.1\r\nAuthorization: {SECRET}\r\n\r\n").into_bytes(),
        format!("GET /chat?access_token={SECRET}{} HTTP/1.1\r\n\r\n", "x".repeat(9000)).into_bytes(),
    ] {
        let mut client = gateway.connect();
        client.send(&bytes);
        let refused = client.refused();
        assert!(!format!("{}{}", refused.head, refused.body).contains(SECRET), "{}", refused.head);
    }
    let lines = || gateway.log_lines();
    until("everything is written down", || lines().len() == 8);
    let path = "/chat/room?access_token=***&lang=de&ApiKey=***&session%5Fkey=***";
    expect_members(
        &gateway.logged("open", "chat"),
        &[("path", path.into()), ("endpoint", upstream.url("/socket").into())],
    );
    let (_, metrics) = gateway.ask("/metrics").expect("metrics");
    let log = std::fs::read_to_string(gateway.setup().directory().join("sessions.log")).expect("a log");
    let places = [
        ("the session log", log),
        ("the metrics", metrics),
        ("what the data plane says", gateway.said("dataplane")),
        ("what the control plane says", gateway.said("controlplane")),
    ];
    for (place, text) in places {
        let found = text.lines().find(|line| line.contains(SECRET));
        assert_eq!(found, None, "{place} holds a secret");
    }
    gateway.probe();
}

fn the_log_is_opened_again_on_request(variant: Variant) {
    let mut gateway = Setup::new(variant).start();
    gateway.probe();
    until("the first session is written down", || gateway.log_lines().len() == 2);
    let (log, moved) = ["sessions.log", "sessions.log.1"].map(|name| gateway.setup().directory().join(name)).into();
    std::fs::rename(&log, &moved).expect("a log can be moved away");
    // Until it is told, it writes where it wrote.
    gateway.probe();
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).map_or(0, |text| text.lines().count());
    until("the second session is written behind the first", || lines(&moved) == 4);
    assert!(!log.exists());
    gateway.signal(libc::SIGUSR1);
    until("there is a new file", || log.exists());
    gateway.probe();
    until("the third session is written to it", || lines(&log) == 2);
    assert_eq!(lines(&moved), 4);
    assert!(gateway.is_alive());
}

/// A pipe in the place of the log's file, which is full and which nobody reads.
fn a_log_that_nobody_reads_holds_nobody_up(variant: Variant) {
    let echo = EchoBackend::start();
    let setup = Setup::new(variant).settings("drain_window: 200ms").api_to("chat", &echo.url("/"), "");
    let path = setup.directory().join("sessions.log");
    let name = std::ffi::CString::new(path.to_str().expect("a path in UTF-8")).expect("a path without NUL");
    // SAFETY: the name is a string with its NUL, and outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let mut pipe = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("a pipe");
    while std::io::Write::write(&mut pipe, &[b' '; 4096]).is_ok() {}
    let mut gateway = setup.start();
    let mut client = gateway.connect();
    client.upgrade("/chat");
    for _ in 0..30 {
        gateway.probe();
        client.send_frame(&Frame::text("and me?"));
        client.expect(Opcode::TEXT, b"and me?");
    }
    assert_eq!(gateway.metric("framegate_log_lines_written_total", &[]), 0.0, "it is full");
    assert_eq!(gateway.metric("framegate_sessions_total", &[]), 31.0);
    gateway.signal(libc::SIGUSR1);
    gateway.signal(libc::SIGTERM);
    client.expect_close(1012);
    client.send_frame(&Frame::close(1012, ""));
    assert_eq!(gateway.ended().code(), Some(0));
    assert!(gateway.said("dataplane").contains("the session log could not be written to its end"));
}

fn metrics_agree_with_what_was_sent(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).workers(2).api_to("chat", &upstream.url("/"), "version: v7").start();
    let mut sessions: Vec<_> = (0..3).map(|_| gateway.session("/chat/v7", &upstream)).collect();
    let active = || gateway.metric("framegate_sessions_active", &[("api", "chat"), ("version", "v7")]);
    until("all are counted", || active() == 3.0);
    for (client, backend) in &mut sessions {
        client.send_frame(&Frame::text("12345"));
        client.send_frame(&Frame::binary([0; 100]).unfinished());
        client.send_frame(&Frame::ping("p"));
        client.send_frame(&Frame::continuation([0; 900]));
        for _ in 0..4 {
            backend.frame();
        }
        backend.send_frame(&Frame::pong("p"));
        backend.send_frame(&Frame::text(&"x".repeat(70)));
        client.frame();
        client.frame();
    }
    let [mut polite, mut unmasked, reset]: [_; 3] = sessions.try_into().expect("three");
    polite.0.send_frame(&Frame::close(1000, ""));
    polite.1.expect_close(1000);
    polite.1.send_frame(&Frame::close(1000, ""));
    unmasked.0.send(&Frame::text("naked").encode());
    unmasked.0.expect_close(1002);
    unmasked.1.expect_close(1011);
    reset.1.reset();
    let mut nobody = gateway.connect();
    nobody.send(&Upgrade::to("/nowhere").encode());
    assert_eq!(nobody.refused().status, 404);
    drop((polite, unmasked, reset.0, nobody));
    for gauge in ["framegate_sessions_active", "framegate_handshakes_active"] {
        until("all have gone", || gateway.metric(gauge, &[]) == 0.0);
    }
    let (_, text) = gateway.ask("/metrics").expect("metrics");
    let found = series(&text);
    let api = |name: &str, labels: &str| {
        let comma = if labels.is_empty() { "" } else { "," };
        format!("framegate_{name}{{api=\"chat\",version=\"v7\"{comma}{labels}}}")
    };
    let (up, down) = ("direction=\"to_upstream\"", "direction=\"to_client\"");
    let expected: BTreeMap<String, f64> = [
        (api("sessions_total", ""), 3.0),
        (api("messages_total", &format!("{up},type=\"text\"")), 3.0),
        (api("messages_total", &format!("{up},type=\"binary\"")), 3.0),
        (api("messages_total", &format!("{down},type=\"text\"")), 3.0),
        (api("messages_total", &format!("{down},type=\"binary\"")), 0.0),
        (api("payload_bytes_total", up), 3.0 * 1005.0),
        (api("payload_bytes_total", down), 3.0 * 70.0),
        (api("frames_total", &format!("{up},opcode=\"text\"")), 3.0),
        (api("frames_total", &format!("{up},opcode=\"binary\"")), 3.0),
        (api("frames_total", &format!("{up},opcode=\"continuation\"")), 3.0),
        (api("frames_total", &format!("{up},opcode=\"ping\"")), 3.0),
        (api("frames_total", &format!("{up},opcode=\"close\"")), 1.0),
        (api("frames_total", &format!("{down},opcode=\"pong\"")), 3.0),
        (api("frames_total", &format!("{down},opcode=\"text\"")), 3.0),
        (api("frames_total", &format!("{down},opcode=\"close\"")), 1.0),
        (api("message_bytes_count", up), 6.0),
        (api("message_bytes_sum", up), 3.0 * 1005.0),
        (api("session_closes_total", "code=\"1000\",side=\"client\""), 1.0),
        (api("session_closes_total", "code=\"1002\",side=\"client\""), 1.0),
        (api("session_closes_total", "code=\"1006\",side=\"upstream\""), 1.0),
        (api("session_seconds_count", ""), 3.0),
        (api("violations_total", &format!("{up},reason=\"unmasked\"")), 1.0),
        ("framegate_connections_accepted_total{listener=\"public\"}".into(), 4.0),
        ("framegate_handshake_seconds_count".into(), 3.0),
        ("framegate_handshakes_active".into(), 0.0),
        ("framegate_refusals_total{reason=\"no_api\",blame=\"client\"}".into(), 1.0),
        ("framegate_ready".into(), 1.0),
        ("framegate_workers".into(), 2.0),
        ("framegate_generations_applied_total".into(), 1.0),
    ]
    .into();
    let differing: Vec<_> = expected.iter().filter(|(name, value)| found.get(*name) != Some(value)).collect();
    assert!(differing.is_empty(), "expected {differing:#?} of\n{text}");
    gateway.probe();
}

fn readiness_waits_for_a_configuration(variant: Variant) {
    let gateway = Setup::new(variant).without_control_plane().start();
    assert_eq!(gateway.ask("/ready"), Some((503, "no snapshot has been applied yet\n".into())));
    assert_eq!(gateway.ask("/health").expect("an answer").0, 200);
    assert_eq!(gateway.metric("framegate_ready", &[]), 0.0);
    assert_eq!(gateway.metric("framegate_control_connected", &[]), 0.0);
    assert!(std::net::TcpStream::connect(gateway.address()).is_err(), "nothing listens yet");
}
