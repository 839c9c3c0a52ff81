//! Peers that break TLS itself once a session is established: each is cut, at a bounded cost, and the gateway goes on.

use std::time::{Duration, Instant};

use rustls::{SupportedProtocolVersion, version};

use crate::kit::forger::{ALERT, CHANGE_CIPHER_SPEC, DATA, Forger, HANDSHAKE};
use crate::kit::line::End;
use crate::kit::tls::{Service, Terms};
use crate::kit::{
    Frame, Gateway, Opcode, Peer, Random, RawUpstream, Setup, Upgrade, Variant, on_both_drivers_securely, pki, until,
};

on_both_drivers_securely!(
    what_is_truncated_is_lost_and_not_finished,
    an_end_that_comes_with_the_request_is_an_end,
    a_message_in_pieces_has_nothing_between_them,
    a_goodbye_of_tls_ends_a_direction,
    records_that_are_too_long_are_cut,
    records_that_nobody_sealed_are_cut,
    records_that_say_nothing_are_counted,
    messages_of_a_handshake_behind_it_are_cut,
    renegotiation_is_refused,
    early_data_reaches_nobody,
    floods_of_alerts_are_cut,
    floods_of_new_keys_are_cut,
);

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
/// What any of it may cost.
const GROWTH_BYTES_MAX: u64 = 4 << 20;

fn chat(variant: Variant) -> (Gateway, RawUpstream) {
    let upstream = RawUpstream::listen();
    let gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    (gateway, upstream)
}

/// A session of a client that seals its records itself, and its upstream, which has heard a first word.
#[track_caller]
fn forged(gateway: &Gateway, upstream: &RawUpstream, version: &'static SupportedProtocolVersion) -> (Forger, Peer) {
    let mut forger = Forger::connect(&Terms::default().version(version).client(), gateway.address());
    assert!(forger.say(DATA, &Upgrade::to("/chat").encode()));
    let mut backend = upstream.accept();
    backend.agree();
    assert!(forger.say(DATA, &word("first")));
    backend.expect(Opcode::TEXT, b"first");
    (forger, backend)
}

fn word(word: &str) -> Vec<u8> {
    Frame::text(word).masked([7, 7, 7, 7]).encode()
}

/// The client is cut, and its upstream is told that its partner failed, having heard nothing more.
#[track_caller]
fn expect_cut(forger: &mut Forger, backend: &mut Peer, what: &str) {
    assert!(forger.ends_within(Duration::from_secs(10)), "{what}: the connection does not end");
    let last = backend.frame();
    assert_eq!(last.close_code().map(|(code, _)| code), Some(1011), "{what}");
}

/// Sends records to a fresh session of each version, and checks that they end it and are counted as what they are.
#[track_caller]
fn expect_cut_by(variant: Variant, what: &str, attack: impl Fn(&mut Forger, bool) -> Vec<u8>) {
    let gateway = expect_end_by(variant, what, attack);
    until(&format!("{what}: they are counted"), || gateway.metric("framegate_tls_broken_total", &[]) == 2.0);
}

/// The same, whether the gateway blames the records, or takes them for an end that the peer wanted.
#[track_caller]
fn expect_end_by(variant: Variant, what: &str, attack: impl Fn(&mut Forger, bool) -> Vec<u8>) -> Gateway {
    let (mut gateway, upstream) = chat(variant);
    let memory = gateway.rss_bytes();
    for version in VERSIONS {
        let (mut forger, mut backend) = forged(&gateway, &upstream, version);
        let bytes = attack(&mut forger, version.version == rustls::ProtocolVersion::TLSv1_2);
        forger.send(&bytes);
        // Behind it something that would be in order.
        forger.say(DATA, &word("unheard"));
        expect_cut(&mut forger, &mut backend, what);
        gateway.probe();
    }
    let grown = gateway.rss_bytes().saturating_sub(memory);
    assert!(grown < GROWTH_BYTES_MAX, "{what}: {grown} bytes");
    gateway
}

/// In one segment with the request, before the session is the engine's.
fn an_end_that_comes_with_the_request_is_an_end(variant: Variant) {
    for version in VERSIONS {
        for (what, kind, content, broken) in [
            ("a record that nobody sealed", None, vec![], 1.0),
            ("a goodbye", Some(ALERT), vec![1, 0], 0.0),
            ("a fatal alert", Some(ALERT), vec![2, 80], 0.0),
            ("a message that has no place", Some(HANDSHAKE), vec![1, 0, 0, 0], 1.0),
        ] {
            let (mut gateway, upstream) = chat(variant);
            let mut forger = Forger::connect(&Terms::default().version(version).client(), gateway.address());
            let mut bytes = forger.sealed(DATA, &Upgrade::to("/chat").encode());
            match kind {
                Some(kind) => bytes.extend(forger.sealed(kind, &content)),
                None => bytes.extend([DATA, 3, 3, 0, 40].iter().chain(&[7; 40])),
            }
            forger.send(&bytes);
            let mut backend = upstream.accept();
            backend.agree();
            expect_cut(&mut forger, &mut backend, what);
            until(what, || gateway.metric("framegate_tls_broken_total", &[]) == broken);
            gateway.probe();
        }
    }
}

fn a_message_in_pieces_has_nothing_between_them(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    for piece in [&[24, 0][..], &[24, 0, 255, 255]] {
        let (mut forger, mut backend) = forged(&gateway, &upstream, &version::TLS13);
        forger.say(HANDSHAKE, piece);
        forger.say(DATA, &word("between"));
        expect_cut(&mut forger, &mut backend, "a message in pieces");
    }
    gateway.probe();
}

fn what_is_truncated_is_lost_and_not_finished(variant: Variant) {
    for leg in ["client", "upstream"] {
        let (gateway, upstream) = chat(variant);
        let (client, backend) = gateway.session("/chat", &upstream);
        let (mut gone, mut other) = if leg == "client" { (client, backend) } else { (backend, client) };
        gone.send_frame(&Frame::text("half a mess").unfinished());
        other.expect(Opcode::TEXT, b"half a mess");
        gone.line().be_silent();
        drop(gone);
        other.expect_close(1011);
        other.send_frame(&Frame::close(1011, ""));
        other.finish();
        other.expect_notified_end();
        let line = gateway.logged("close", "chat");
        assert_eq!((&line["side"], &line["code"]), (&leg.into(), &1006.into()), "{line}");
    }
    // And within a record.
    let (gateway, upstream) = chat(variant);
    for version in VERSIONS {
        let (mut forger, mut backend) = forged(&gateway, &upstream, version);
        let record = forger.sealed(DATA, &word("never"));
        forger.send(&record[..record.len() - 1]);
        forger.finish();
        expect_cut(&mut forger, &mut backend, "half a record");
    }
}

fn a_goodbye_of_tls_ends_a_direction(variant: Variant) {
    for leg in ["client", "upstream"] {
        let (gateway, upstream) = chat(variant);
        let (client, backend) = gateway.session("/chat", &upstream);
        let (mut gone, mut other) = if leg == "client" { (client, backend) } else { (backend, client) };
        // Not a word of WebSocket: to the session it is an end like that of a connection.
        gone.line().with_tls(|connection| connection.send_close_notify());
        other.expect_close(1011);
        other.send_frame(&Frame::close(1011, ""));
        gone.rest();
        assert_eq!(gone.line().end(), Some(End::Notified), "{leg}");
    }
    // What follows it is nobody's.
    let (gateway, upstream) = chat(variant);
    for version in VERSIONS {
        let (mut forger, mut backend) = forged(&gateway, &upstream, version);
        let mut bytes = forger.sealed(ALERT, &[1, 0]);
        bytes.extend(forger.sealed(DATA, &word("from the grave")));
        forger.send(&bytes);
        expect_cut(&mut forger, &mut backend, "data behind a goodbye");
    }
}

/// RFC 8446 §5.1 and §5.2, RFC 5246 §6.2: 2^14 bytes in a record, and little more around them.
fn records_that_are_too_long_are_cut(variant: Variant) {
    expect_cut_by(variant, "an announced length", |_, is_tls12| {
        let length: u16 = if is_tls12 { (1 << 14) + 2049 } else { (1 << 14) + 257 };
        // The header is enough; what it announces never comes.
        [&[DATA, 3, 3][..], &length.to_be_bytes()].concat()
    });
    expect_cut_by(variant, "the longest that can be announced", |_, _| {
        [&[DATA, 3, 3, 0xff, 0xff][..], &[0; 65_535]].concat()
    });
    expect_cut_by(variant, "a content that is too long", |forger, _| {
        forger.sealed(DATA, &Frame::binary(vec![7; (1 << 14) - 7]).masked([0; 4]).encode())
    });
}

fn records_that_nobody_sealed_are_cut(variant: Variant) {
    let mut random = Random::announced("records_that_nobody_sealed_are_cut");
    let noise = random.bytes(64);
    expect_cut_by(variant, "noise in a record", |_, _| [&[DATA, 3, 3, 0, 64][..], &noise].concat());
    expect_cut_by(variant, "noise without a record", |_, _| [&[0x99][..], &noise].concat());
    expect_cut_by(variant, "data in clear", |_, _| [&[DATA, 3, 3, 0, 13][..], &word("in clear")[..13]].concat());
    expect_cut_by(variant, "a record too short for its seal", |_, _| vec![DATA, 3, 3, 0, 4, 1, 2, 3, 4]);
    expect_cut_by(variant, "an alert in clear", |_, _| vec![ALERT, 3, 3, 0, 2, 2, 80]);
    expect_cut_by(variant, "a bit that fell over", |forger, _| {
        let mut record = forger.sealed(DATA, &word("fallen"));
        *record.last_mut().expect("a record") ^= 1;
        record
    });
    expect_cut_by(variant, "a record that comes twice", |forger, _| {
        let mut forged = forger.sealed(DATA, b"");
        forged.extend_from_slice(&forged.clone());
        forged
    });
    expect_cut_by(variant, "a record that is left out", |forger, _| {
        forger.sealed(DATA, &word("lost"));
        forger.sealed(DATA, &word("found"))
    });
    expect_cut_by(variant, "a type that there is not", |forger, _| forger.sealed(99, b"what am I?"));
    expect_cut_by(variant, "a change of ciphers, sealed", |forger, _| forger.sealed(CHANGE_CIPHER_SPEC, &[1]));
}

/// Empty records are allowed; many of them in a row say nothing at some expense.
fn records_that_say_nothing_are_counted(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    for version in VERSIONS {
        let (mut forger, mut backend) = forged(&gateway, &upstream, version);
        for round in 0..20 {
            let mut bytes: Vec<u8> = (0..8).flat_map(|_| forger.sealed(DATA, b"")).collect();
            bytes.extend(forger.sealed(DATA, &word(&format!("round {round}"))));
            assert!(forger.send(&bytes));
            backend.expect(Opcode::TEXT, format!("round {round}").as_bytes());
        }
        let cpu = gateway.cpu_time();
        let flood: Vec<u8> = (0..100_000).flat_map(|_| forger.sealed(DATA, b"")).collect();
        forger.send(&flood);
        expect_cut(&mut forger, &mut backend, "a hundred thousand empty records");
        let used = gateway.cpu_time() - cpu;
        assert!(used < Duration::from_millis(300), "{used:?} for records that say nothing");
        gateway.probe();
    }
    // Padding without a type is not even a record (RFC 8446 §5.4).
    let (mut forger, mut backend) = forged(&gateway, &upstream, &version::TLS13);
    let padding = forger.sealed_tls13(&[0; 100]);
    forger.send(&padding);
    expect_cut(&mut forger, &mut backend, "padding alone");
    // Padding behind a type is nothing.
    let (mut forger, mut backend) = forged(&gateway, &upstream, &version::TLS13);
    let padded = forger.sealed_tls13(&[&word("padded")[..], &[DATA], &[0; 1000]].concat());
    assert!(forger.send(&padded));
    backend.expect(Opcode::TEXT, b"padded");
    gateway.probe();
}

fn messages_of_a_handshake_behind_it_are_cut(variant: Variant) {
    let message = |kind: u8, body: &[u8]| [&[kind][..], &(body.len() as u32).to_be_bytes()[1..], body].concat();
    for (what, content) in [
        ("a Finished", message(20, &[7; 48])),
        ("a ServerHello", message(2, &[3; 70])),
        ("a Certificate", message(11, &[0, 0, 0, 0])),
        ("a NewSessionTicket, from a client", message(4, &[0; 20])),
        ("a KeyUpdate that asks for nonsense", message(24, &[7])),
        ("a message that never ends", [&[24, 0xff, 0xff, 0xff][..], &[0; 100]].concat()),
    ] {
        expect_cut_by(variant, what, |forger, _| forger.sealed(HANDSHAKE, &content));
    }
}

fn renegotiation_is_refused(variant: Variant) {
    let mut hello = Vec::new();
    crate::kit::tls::client().connection().write_tls(&mut hello).expect("a ClientHello");
    // Within the connection it is to replace, as TLS 1.2 had it (RFC 5246 §7.4.1.2); and in clear.
    expect_cut_by(variant, "a ClientHello", |forger, _| forger.sealed(HANDSHAKE, &hello[5..]));
    expect_cut_by(variant, "a ClientHello in clear", |_, _| hello.clone());
    // An upstream asks for it: HelloRequest, RFC 5246 §7.4.1.1.
    let tls12 = Service::with(&pki::shared().service, None, &[&version::TLS12], &[]);
    let upstream = RawUpstream::listen_securely(&tls12);
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    std::io::Write::write_all(&mut backend.socket(), &[HANDSHAKE, 3, 3, 0, 4, 0, 0, 0, 0]).expect("bytes can be sent");
    client.expect_close(1011);
    backend.rest();
    gateway.probe();
}

/// RFC 8446 §4.2.10: whoever offers it sends it before it is known whether it is taken. Here it never is.
fn early_data_reaches_nobody(variant: Variant) {
    let (mut gateway, upstream) = chat(variant);
    let allowing = Service::new(&pki::shared().edge, None).allowing_early_data();
    let elsewhere = RawUpstream::listen_securely(&allowing);
    let client = Terms::default().version(&version::TLS13).resuming().early_data().client();
    // The ticket is somebody else's, who would take it.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut backend = elsewhere.accept();
            backend.head();
            backend.send(b"and a ticket");
            backend.rest();
        });
        let mut peer = client.connect(elsewhere.address());
        peer.send(&Upgrade::to("/chat").encode());
        assert!(peer.hear());
    });
    let socket = std::net::TcpStream::connect(gateway.address()).expect("the gateway accepts connections");
    let peer = client.begin_over(socket.into());
    let request = Upgrade::to("/chat").with("X-Early", "yes").encode();
    let offered = peer.line().with_tls(|connection| match connection {
        rustls::Connection::Client(client) => {
            client.early_data().map(|mut early| std::io::Write::write(&mut early, &request))
        }
        rustls::Connection::Server(_) => None,
    });
    assert!(offered.is_some_and(|written| written.is_ok_and(|bytes| bytes == request.len())), "early data is offered");
    // Whether the handshake goes on without it or ends, what came early is not a request.
    if peer.line().handshake().is_ok() {
        upstream.expect_no_connection(Duration::from_millis(100));
        let mut peer = peer;
        peer.send(&Upgrade::to("/chat").encode());
        let head = upstream.accept().agree();
        assert_eq!(head.header("X-Early"), None, "{head}");
        peer.upgraded();
    }
    upstream.expect_no_connection(Duration::from_millis(100));
    gateway.probe();
}

fn floods_of_alerts_are_cut(variant: Variant) {
    let flood = |alert: [u8; 2]| {
        move |forger: &mut Forger, _| (0..10_000).flat_map(|_| forger.sealed(ALERT, &alert)).collect::<Vec<u8>>()
    };
    // A warning that somebody changed his mind.
    expect_cut_by(variant, "user_canceled", flood([1, 90]));
    // One that there is no certificate; since TLS 1.3 only two alerts are no errors (RFC 8446 §6).
    expect_end_by(variant, "no_certificate", flood([1, 41]));
    expect_end_by(variant, "a fatal alert", |forger, _| forger.sealed(ALERT, &[2, 80]));
    expect_cut_by(variant, "half an alert", |forger, _| forger.sealed(ALERT, &[1]));
}

/// Each of them costs the other side the making of keys.
fn floods_of_new_keys_are_cut(variant: Variant) {
    for leg in ["client", "upstream"] {
        let (mut gateway, upstream) = chat(variant);
        let (client, backend) = gateway.session("/chat", &upstream);
        let (mut flooder, mut other) = if leg == "client" { (client, backend) } else { (backend, client) };
        let (cpu, memory) = (gateway.cpu_time(), gateway.rss_bytes());
        let start = Instant::now();
        while !flooder.has_heard() && start.elapsed() < Duration::from_secs(15) {
            for _ in 0..100 {
                let _ = flooder.line().with_tls(|connection| connection.refresh_traffic_keys());
            }
        }
        flooder.rest();
        other.expect_close(1011);
        let (used, grown) = (gateway.cpu_time() - cpu, gateway.rss_bytes().saturating_sub(memory));
        assert!(used < Duration::from_secs(1) && grown < GROWTH_BYTES_MAX, "{leg}: {used:?}, {grown} bytes");
        gateway.probe();
    }
}
