//! How the gateway reaches endpoints: names and addresses, the choice among several, and answers that are no session.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::kit::peer::switching;
use crate::kit::{
    Frame, Gateway, Head, NameServer, Opcode, Peer, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, until,
};

on_both_drivers!(
    names_come_from_the_hosts_file_and_from_a_name_server,
    a_name_that_moves_is_followed_when_its_time_is_over,
    unix_sockets_and_ipv6_addresses_are_endpoints,
    another_endpoint_is_tried_while_nothing_has_been_sent,
    endpoints_take_turns_across_reconfigurations,
    the_endpoint_with_the_fewest_live_sessions_is_next,
    bodies_of_other_answers_are_relayed_to_their_end_and_no_further,
    heads_of_other_answers_keep_what_is_the_clients,
    interim_answers_are_passed_over,
    frames_cut_by_the_end_of_the_handshake_are_whole,
    a_client_that_leaves_releases_an_endpoint_that_has_not_answered,
    a_client_that_leaves_ends_the_dialling,
    a_host_without_roots_takes_no_configuration_that_needs_them,
);

/// A configuration's upstream `pool` with these endpoints, and an API at `/pool` that leads to it.
fn pool(setup: Setup, urls: &[String], members: &str) -> Setup {
    let endpoints: Vec<_> = urls.iter().map(|url| format!("{{ url: \"{url}\" }}")).collect();
    setup
        .upstream(&format!("name: pool, endpoints: [{}], {members}", endpoints.join(", ")))
        .api("name: pool, context: /pool, endpoints: { production: { upstream: pool } }")
}

/// Asks for a session; says which of the upstreams is dialled for it. Client first.
#[track_caller]
fn dialled(gateway: &Gateway, target: &str, upstreams: &[RawUpstream]) -> (usize, Peer, Peer) {
    let mut client = gateway.connect();
    client.send(&Upgrade::to(target).encode());
    let (index, mut backend) = crate::kit::until_some("an upstream is dialled", || {
        upstreams.iter().enumerate().find_map(|(index, upstream)| Some((index, upstream.try_accept()?)))
    });
    backend.agree();
    client.upgraded();
    (index, client, backend)
}

/// Applies a configuration that adds an API of this number and changes nothing else.
#[track_caller]
fn reconfigure(gateway: &Gateway, number: usize) {
    let api = format!("name: other{number}, context: /other{number}");
    let endpoints = "endpoints: { production: { url: \"ws://127.0.0.1:1/\" } }";
    let outcome = gateway.apply(&format!("{}  - {{ {api}, {endpoints} }}\n", gateway.setup().yaml()));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

/// A port that refuses connections.
fn closed_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// A listener whose queue is full: the kernel answers no further SYN. What is returned with it fills it.
fn full_listener() -> (SocketAddr, impl Sized) {
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    full.bind(&"127.0.0.1:0".parse::<SocketAddr>().expect("an address").into()).expect("a free port");
    full.listen(0).expect("a socket can listen");
    let address = full.local_addr().expect("an address").as_socket().expect("an IP address");
    let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100));
    let fillers: Vec<_> = (0..4).map(|_| connect()).collect();
    (address, (full, fillers))
}

fn names_come_from_the_hosts_file_and_from_a_name_server(variant: Variant) {
    let names = NameServer::start();
    let four = RawUpstream::listen();
    let six = RawUpstream::listen_at((Ipv6Addr::LOCALHOST, 0).into());
    names.says("four.test", &["127.0.0.1"]);
    names.says("six.test", &["::1"]);
    // Nobody listens on the first two of these, wherever an answer is begun to be read.
    names.says("several.test", &["127.0.0.2", "127.0.0.3", "127.0.0.1"]);
    names.says("families.test", &["127.0.0.2", "::1"]);
    names.says("nowhere.test", &["127.0.0.2", "127.0.0.3"]);
    let (port, six_port) = (four.address().port(), six.address().port());
    let mut gateway = Setup::new(variant)
        .environment("dataplane", "FRAMEGATE_NAME_SERVERS", &names.address().to_string())
        .api_to("local", &format!("ws://localhost:{port}/"), "")
        .api_to("four", &format!("ws://Four.test:{port}/"), "")
        .api_to("six", &format!("ws://six.test:{six_port}/"), "")
        .api_to("several", &format!("ws://several.test:{port}/"), "")
        .api_to("families", &format!("ws://families.test:{six_port}/"), "")
        .api_to("nowhere", &format!("ws://nowhere.test:{port}/"), "")
        .api_to("unknown", &format!("ws://unknown.test:{port}/"), "")
        .start();
    for (api, upstream, host) in [
        ("/local", &four, format!("localhost:{port}")),
        ("/four", &four, format!("Four.test:{port}")),
        ("/six", &six, format!("six.test:{six_port}")),
        ("/several", &four, format!("several.test:{port}")),
        ("/families", &six, format!("families.test:{six_port}")),
    ] {
        // The second time the answer is known.
        for _ in 0..2 {
            let mut client = gateway.connect();
            client.send(&Upgrade::to(api).encode());
            let mut backend = upstream.accept();
            assert_eq!(backend.agree().header("Host"), Some(host.as_str()), "{api}");
            client.upgraded();
            client.send_frame(&Frame::text(api));
            backend.expect(Opcode::TEXT, api.as_bytes());
        }
    }
    for api in ["/nowhere", "/unknown"] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to(api).encode());
        assert_eq!(client.refused().status, 502, "{api}");
    }
    gateway.probe();
}

fn a_name_that_moves_is_followed_when_its_time_is_over(variant: Variant) {
    let names = NameServer::start();
    let before = RawUpstream::listen();
    let port = before.address().port();
    let after = RawUpstream::listen_at(([127, 0, 0, 2], port).into());
    names.says("moving.test", &["127.0.0.1"]);
    let setup = Setup::new(variant).environment("dataplane", "FRAMEGATE_NAME_SERVERS", &names.address().to_string());
    let gateway = pool(setup, &[format!("ws://moving.test:{port}/")], "resolve_ttl_max: 1s").start();
    let upstreams = [before, after];
    let (first, mut client, mut backend) = dialled(&gateway, "/pool", &upstreams);
    assert_eq!(first, 0);
    names.says("moving.test", &["127.0.0.2"]);
    until("the new address is used", || dialled(&gateway, "/pool", &upstreams).0 == 1);
    assert_eq!(dialled(&gateway, "/pool", &upstreams).0, 1);
    // Sessions stay where they are.
    client.send_frame(&Frame::text("still here"));
    backend.expect(Opcode::TEXT, b"still here");
}

fn unix_sockets_and_ipv6_addresses_are_endpoints(variant: Variant) {
    let setup = Setup::new(variant);
    let unix = RawUpstream::listen_unix(setup.directory().join("app.sock"));
    let six = RawUpstream::listen_at((Ipv6Addr::LOCALHOST, 0).into());
    let mut gateway = setup
        .api_to("unix", &unix.url("/chat?k=1"), "topics: [{ topic: \"/*\", mapping: \"/*\" }]")
        .api_to("six", &six.url("/chat?k=1"), "topics: [{ topic: \"/*\", mapping: \"/*\" }]")
        .start();
    for (api, upstream, host) in [("unix", &unix, "localhost".into()), ("six", &six, six.address().to_string())] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to(&format!("/{api}/a/b?q")).encode());
        let mut backend = upstream.accept();
        let head = backend.agree();
        assert_eq!(head.start_line(), "GET /chat/a/b?k=1&q HTTP/1.1");
        assert_eq!(head.header("Host"), Some(host.as_str()));
        client.upgraded();
        let payload = vec![b'x'; 300_000];
        client.send_frame(&Frame::binary(payload.clone()));
        assert!(backend.frame().payload == payload);
        backend.send_frame(&Frame::binary(payload.clone()));
        assert!(client.frame().payload == payload);
        backend.send_frame(&Frame::close(1000, "bye"));
        assert_eq!(client.expect_close(1000), "bye");
        client.send_frame(&Frame::close(1000, "bye"));
        backend.expect_close(1000);
        client.expect_end();
        backend.finish();
        backend.expect_end();
    }
    gateway.probe();
}

fn another_endpoint_is_tried_while_nothing_has_been_sent(variant: Variant) {
    let upstreams = [RawUpstream::listen(), RawUpstream::listen()];
    let setup = Setup::new(variant);
    let missing = format!("ws+unix:{}:/", setup.directory().join("missing.sock").display());
    let (full, _fillers) = full_listener();
    let endpoints =
        [format!("ws://{}/", closed_address()), missing, format!("ws://{full}/"), upstreams[0].url("/found")];
    let setup = pool(setup, &endpoints, "connect_timeout: 200ms");
    let two = upstreams.iter().map(|upstream| format!("{{ url: \"{}\" }}", upstream.url("/"))).collect::<Vec<_>>();
    let mut gateway = setup
        .upstream(&format!("name: two, endpoints: [{}], handshake_timeout: 400ms", two.join(", ")))
        .api("name: two, context: /two, endpoints: { production: { upstream: two } }")
        .start();
    // Wherever the turn begins, the one that can be connected is found.
    for _ in 0..endpoints.len() {
        let (found, _, backend) = dialled(&gateway, "/pool", &upstreams);
        assert_eq!(found, 0);
        assert!(backend.received().starts_with(b"GET /found "));
    }
    // An endpoint that has the request is the last: it may have done something about it.
    for (answer, status) in
        [("", 502), ("HTTP/1.1 101 Switching", 502), ("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 503)]
    {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/two").encode());
        let (index, mut backend) = crate::kit::until_some("an upstream is dialled", || {
            upstreams.iter().enumerate().find_map(|(index, upstream)| Some((index, upstream.try_accept()?)))
        });
        backend.head();
        backend.send(answer.as_bytes());
        drop(backend);
        assert_eq!(client.refused().status, status);
        upstreams[1 - index].expect_no_connection(Duration::from_millis(50));
    }
    gateway.probe();
}

fn endpoints_take_turns_across_reconfigurations(variant: Variant) {
    let upstreams = [RawUpstream::listen(), RawUpstream::listen(), RawUpstream::listen()];
    let urls: Vec<_> = upstreams.iter().map(|upstream| upstream.url("/")).collect();
    let gateway = pool(Setup::new(variant), &urls, "balance: round_robin").start();
    let mut turns = Vec::new();
    let mut sessions = Vec::new();
    for round in 0..8 {
        let (index, client, backend) = dialled(&gateway, "/pool", &upstreams);
        turns.push(index);
        sessions.push((client, backend));
        // A configuration that does not touch the upstream does not begin its turn anew.
        if round % 2 == 1 {
            reconfigure(&gateway, round);
        }
    }
    let expected: Vec<_> = (0..8).map(|step| (turns[0] + step) % 3).collect();
    assert_eq!(turns, expected);
    // And it closes nobody.
    for (index, (client, backend)) in sessions.iter_mut().enumerate() {
        let word = format!("session {index}");
        client.send_frame(&Frame::text(&word));
        backend.expect(Opcode::TEXT, word.as_bytes());
    }
}

fn the_endpoint_with_the_fewest_live_sessions_is_next(variant: Variant) {
    let upstreams = [RawUpstream::listen(), RawUpstream::listen()];
    let urls: Vec<_> = upstreams.iter().map(|upstream| upstream.url("/")).collect();
    let gateway = pool(Setup::new(variant), &urls, "balance: least_sessions").start();
    let mut live: [Vec<(Peer, Peer)>; 2] = Default::default();
    let mut closed = 0;
    for _ in 0..6 {
        let (index, client, backend) = dialled(&gateway, "/pool", &upstreams);
        live[index].push((client, backend));
    }
    assert_eq!([live[0].len(), live[1].len()], [3, 3]);
    for (emptier, leave) in [(0, 2), (1, 3)] {
        for _ in 0..leave {
            let (client, backend) = live[emptier].pop().expect("a session that lives");
            client.reset();
            drop(backend);
            closed += 1;
        }
        until("the sessions are over", || {
            gateway.log_lines().iter().filter(|line| line["event"] == "close").count() == closed
        });
        // Counts go on where they were under another configuration, which adds an API and changes nothing else.
        reconfigure(&gateway, closed);
        while live[emptier].len() < live[1 - emptier].len() {
            let (index, client, backend) = dialled(&gateway, "/pool", &upstreams);
            assert_eq!(index, emptier, "{} and {} sessions", live[0].len(), live[1].len());
            live[index].push((client, backend));
        }
    }
    for (client, backend) in live.iter_mut().flatten() {
        backend.send_frame(&Frame::text("alive"));
        client.expect(Opcode::TEXT, b"alive");
    }
}

/// Asks for a session, lets the upstream answer in pieces, and returns the head and the body that the client got.
#[track_caller]
fn answered(gateway: &Gateway, upstream: &RawUpstream, answer: &[u8], ends: bool) -> (Head, Vec<u8>) {
    let mut client = gateway.connect();
    client.send(&Upgrade::to("/chat").encode());
    let mut backend = upstream.accept();
    let request = backend.head();
    let relayed = std::thread::scope(|scope| {
        scope.spawn(|| {
            // The gateway may go before it has taken what is too much.
            let _ = answer.chunks(7_777).all(|piece| backend.try_send(piece));
            if ends {
                backend.finish();
            }
        });
        (client.head(), client.rest())
    });
    backend.rest();
    assert_eq!(backend.received(), request.bytes, "{}", backend.received().escape_ascii());
    relayed
}

fn bodies_of_other_answers_are_relayed_to_their_end_and_no_further(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    let large: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    let chunked = [
        &b"1;name=\"value\"\r\nx\r\n10000\r\n"[..],
        &large[..0x10000],
        b"\r\n0a\r\n0123456789\r\n0\r\nTrailer: kept\r\n\r\n",
    ]
    .concat();
    let behind = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmore";
    let length = format!("Content-Length: {}", large.len());
    for (status, framing, body, surplus, ends) in [
        ("200 OK", length.as_str(), &large[..], &behind[..], false),
        ("404 Not Found", "Content-Length: 0", b"", behind, false),
        ("503 Busy", "Transfer-Encoding: chunked", &chunked, behind, false),
        ("403 Forbidden", "X-Framing: none", &large, b"", true),
        ("204 No Content", "X-Framing: none", b"", behind, false),
        ("304 Not Modified", "ETag: \"x\"", b"", behind, false),
    ] {
        let head = format!("HTTP/1.1 {status}\r\n{framing}\r\n\r\n");
        let answer = [head.as_bytes(), body, surplus].concat();
        let (head, relayed) = answered(&gateway, &upstream, &answer, ends);
        assert_eq!(head.start_line(), format!("HTTP/1.1 {status}"));
        let (name, value) = framing.split_once(": ").expect("a field");
        assert_eq!(head.header(name), Some(value), "{head}");
        assert_eq!(head.header("Connection"), Some("close"), "{head}");
        assert!(relayed == body, "{status}: {} bytes instead of {}", relayed.len(), body.len());
    }
    // An answer of HTTP/1.0 ends with its connection too; the client reads HTTP/1.1.
    let (head, relayed) = answered(&gateway, &upstream, b"HTTP/1.0 403 No\r\n\r\nold", true);
    assert_eq!((head.start_line().as_str(), &relayed[..]), ("HTTP/1.1 403 No", &b"old"[..]));
    // A body that is cut is cut for the client as well: nothing is made up for it.
    let (head, relayed) = answered(&gateway, &upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive!", true);
    assert_eq!((head.header("Content-Length"), &relayed[..]), (Some("10"), &b"five!"[..]));
    gateway.probe();
}

fn heads_of_other_answers_keep_what_is_the_clients(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    let answer = "HTTP/1.1 401 Who Are You\r\n\
                  WWW-Authenticate: Basic realm=\"x\"\r\n\
                  Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                  Connection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n\
                  Proxy-Authenticate: Basic\r\nTrailer: X\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\
                  X-Request-Id: theirs\r\n\
                  Content-Length: 2\r\n\r\nno";
    let (head, body) = answered(&gateway, &upstream, answer.as_bytes(), false);
    assert_eq!(body, b"no");
    let id = head.header("X-Request-Id").expect("a request id").to_owned();
    assert_ne!(id, "theirs");
    let expected = format!(
        "HTTP/1.1 401 Who Are You\r\nConnection: close\r\nContent-Length: 2\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Request-Id: {id}\r\n\r\n"
    );
    assert_eq!(head.to_string(), expected);
    gateway.probe();
}

fn interim_answers_are_passed_over(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n\
                   HTTP/1.1 102 Processing\r\nUpgrade: websocket\r\n\r\n";
    for piece in [1, 50, 10_000] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/chat").encode());
        let mut backend = upstream.accept();
        let request = backend.head();
        let early = Frame::text("welcome").encode();
        let answer = [interim.as_bytes(), switching(&request, "").as_bytes(), &early].concat();
        backend.send_in_pieces(&answer, piece);
        let head = client.upgraded();
        assert_eq!(head.header("Link"), None, "{head}");
        client.expect(Opcode::TEXT, b"welcome");
    }
    let other = format!("{interim}HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone");
    let (head, body) = answered(&gateway, &upstream, other.as_bytes(), false);
    assert_eq!((head.status(), &body[..]), (404, &b"gone"[..]));
    // Interim answers without end are not waited for.
    let (head, _) = answered(&gateway, &upstream, interim.repeat(1000).as_bytes(), false);
    assert_eq!(head.status(), 502);
    gateway.probe();
}

fn frames_cut_by_the_end_of_the_handshake_are_whole(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    let said: Vec<u8> =
        (0..40_u8).flat_map(|at| Frame::binary(vec![at; 100]).masked([at + 1, 2, 3, 4]).encode()).collect();
    let answered: Vec<u8> = (0..40_u8).flat_map(|at| Frame::binary(vec![at; 100]).encode()).collect();
    for cut in [1, 3, 7, 150, 1000] {
        let mut client = gateway.connect();
        client.send(&[&Upgrade::to("/chat").encode(), &said[..cut]].concat());
        let mut backend = upstream.accept();
        let request = backend.head();
        // More of it comes while the upstream is thinking.
        client.send(&said[cut..2 * cut]);
        backend.send(&[switching(&request, "").as_bytes(), &answered[..cut]].concat());
        client.upgraded();
        client.send(&said[2 * cut..]);
        backend.send(&answered[cut..]);
        for at in 0..40 {
            backend.expect(Opcode::BINARY, &[at; 100]);
            client.expect(Opcode::BINARY, &[at; 100]);
        }
        assert!(backend.received() == [request.bytes, said.clone()].concat());
    }
    gateway.probe();
}

fn a_client_that_leaves_releases_an_endpoint_that_has_not_answered(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway =
        pool(Setup::new(variant), &[upstream.url("/")], "balance: least_sessions, handshake_timeout: 60s").start();
    gateway.probe();
    let before = gateway.descriptors();
    for (resets, early) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/pool").encode());
        let mut backend = upstream.accept();
        let request = backend.head();
        if early {
            client.send(&Frame::text("I cannot wait").masked([1, 2, 3, 4]).encode());
        }
        if resets {
            client.reset();
        } else {
            drop(client);
        }
        let left = Instant::now();
        backend.expect_end();
        assert!(left.elapsed() < Duration::from_secs(5), "{:?}", left.elapsed());
        assert_eq!(backend.received(), request.bytes);
    }
    gateway.expect_descriptors_back_to(before);
    // A client that stays is waited for, whatever it has sent already.
    let mut client = gateway.connect();
    client.send(&Upgrade::to("/pool").encode());
    client.send(&Frame::text("early").masked([1, 2, 3, 4]).encode());
    let mut backend = upstream.accept();
    let request = backend.head();
    backend.expect_silence(Duration::from_millis(700));
    backend.send(switching(&request, "").as_bytes());
    client.upgraded();
    backend.expect(Opcode::TEXT, b"early");
    gateway.probe();
}

fn a_client_that_leaves_ends_the_dialling(variant: Variant) {
    let (full, _fillers) = full_listener();
    let mut gateway = pool(Setup::new(variant), &[format!("ws://{full}/")], "connect_timeout: 60s").start();
    until("nobody is there", || gateway.metric("framegate_handshakes_active", &[]) == 0.0);
    let before = gateway.descriptors();
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let mut client = gateway.connect();
            client.send(&Upgrade::to("/pool").encode());
            client
        })
        .collect();
    until("the endpoint is dialled for each", || gateway.metric("framegate_handshakes_active", &[]) == 5.0);
    drop(clients);
    until("nobody is dialled for", || gateway.metric("framegate_handshakes_active", &[]) == 0.0);
    gateway.expect_descriptors_back_to(before);
    gateway.probe();
}

fn a_host_without_roots_takes_no_configuration_that_needs_them(variant: Variant) {
    let mut gateway = Setup::new(variant)
        .environment("dataplane", "SSL_CERT_FILE", "/nonexistent")
        .environment("dataplane", "SSL_CERT_DIR", "")
        .start();
    let with = |endpoint: &str| {
        let upstream = format!("name: far, endpoints: [{{ {endpoint} }}]");
        gateway.setup().yaml_with(&[], &[upstream], &[])
    };
    let rejected = gateway.apply(&with("url: \"wss://far.test/\""));
    assert_eq!(rejected.code, 1, "{rejected:?}");
    let reason = "upstream \"far\": the roots of this host cannot be read: ";
    assert!(rejected.stdout.contains(reason) && rejected.stdout.contains("/nonexistent"), "{rejected:?}");
    assert_eq!(gateway.metric("framegate_generations_rejected_total", &[]), 1.0);
    // Who is not verified needs no roots.
    let taken = gateway.apply(&with("url: \"wss://far.test/\", verify_certificate: false"));
    assert_eq!(taken.code, 0, "{taken:?}");
    gateway.probe();
}
