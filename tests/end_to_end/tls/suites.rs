//! Versions and cipher suites: each that is spoken carries sessions, on both legs at once, and nothing else is spoken.

use std::time::Duration;

use rustls::{AlertDescription, CipherSuite, ProtocolVersion, SupportedProtocolVersion, version};

use super::{expect_alert, expect_echo, expect_failures, expect_service};
use crate::kit::pki::{Authority, Key, Leaf};
use crate::kit::tls::{Agreed, Service, Terms};
use crate::kit::{Frame, Opcode, Peer, Random, RawUpstream, Setup, Upgrade, Variant, on_both_drivers_securely};

on_both_drivers_securely!(
    every_suite_carries_sessions_on_both_legs,
    keys_are_updated_within_a_session,
    only_what_is_chosen_is_spoken,
    the_preferred_suite_is_the_gateways,
    old_versions_and_weak_suites_are_refused,
);

/// Those that the gateway speaks, and the kind of key that each of TLS 1.2 needs.
const SUITES: [(CipherSuite, &SupportedProtocolVersion, Key); 9] = [
    (CipherSuite::TLS13_AES_256_GCM_SHA384, &version::TLS13, Key::P256),
    (CipherSuite::TLS13_AES_128_GCM_SHA256, &version::TLS13, Key::P256),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, &version::TLS13, Key::P256),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, &version::TLS12, Key::P256),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, &version::TLS12, Key::P256),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, &version::TLS12, Key::P256),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, &version::TLS12, Key::Rsa2048),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, &version::TLS12, Key::Rsa2048),
    (CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, &version::TLS12, Key::Rsa2048),
];

/// A session whose client and whose service know one suite only, all of them through one gateway.
fn every_suite_carries_sessions_on_both_legs(variant: Variant) {
    let setup = Setup::new(variant);
    let authority = Authority::root(setup.directory(), "own");
    let issue = |name: &str, key| authority.issue(&Leaf::new(name).key(key).names(&["DNS:own.test", "IP:127.0.0.1"]));
    let (ec, rsa) = (issue("ec", Key::P256), issue("rsa", Key::Rsa2048));
    let upstreams = SUITES.map(|(suite, version, key)| {
        let identity = if key == Key::P256 { &ec } else { &rsa };
        RawUpstream::listen_securely(&Service::with(identity, None, &[version], &[suite]))
    });
    let setup = setup
        .certificate(&ec.entry("ec"))
        .certificate(&rsa.entry("rsa"))
        .authorities(&authority.entry("own"))
        .tls("certificates: [ec, rsa]");
    let mut gateway = upstreams
        .iter()
        .enumerate()
        .fold(setup, |setup, (at, upstream)| {
            let url = upstream.url("/");
            setup
                .upstream(&format!("name: up-{at}, endpoints: [{{ url: \"{url}\" }}], tls: {{ authorities: own }}"))
                .api(&format!(
                    "name: api-{at}, context: /api-{at}, endpoints: {{ production: {{ upstream: up-{at} }} }}"
                ))
        })
        .start();
    for (at, ((suite, version, _), upstream)) in SUITES.iter().zip(&upstreams).enumerate() {
        let roots = authority.certificate();
        let terms = Terms::default().roots(&roots).name(Some("own.test")).version(version).suite(*suite);
        let mut client = terms.client().connect(gateway.address());
        assert_eq!(Agreed::on(&client).suite, *suite);
        client.send(&Upgrade::to(&format!("/api-{at}")).encode());
        let mut backend = upstream.accept();
        backend.agree();
        client.upgraded();
        assert_eq!(Agreed::on(&backend).suite, *suite);
        converse(&mut client, &mut backend);
        client.send_frame(&Frame::close(1000, ""));
        backend.expect_close(1000);
        backend.send_frame(&Frame::close(1000, ""));
        client.expect_close(1000);
        client.expect_notified_end();
        // Towards an upstream the gateway is the client, who ends second (RFC 6455 §7.1.1).
        backend.finish();
        backend.expect_notified_end();
    }
    assert_eq!(gateway.metric("framegate_violations_total", &[]), 0.0);
    assert!(gateway.is_alive());
}

/// Small and large messages, one at a time and many in a write, in both directions.
fn converse(client: &mut Peer, backend: &mut Peer) {
    let mut random = Random::fixed(11);
    for length in [0, 1, 125, 126, 1_000, 16_367, 16_384, 16_385, 100_000, 1 << 20] {
        let frame = Frame::binary(random.bytes(length));
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = [&mut *client, &mut *backend];
            let bytes = ends[from].dressed(&frame).encode();
            let mut second = ends[from].second_end();
            std::thread::scope(|scope| {
                scope.spawn(|| second.send(&bytes));
                assert!(ends[to].frame().payload == frame.payload, "{length} bytes from end {from}");
            });
        }
    }
    for (from, to) in [(0, 1), (1, 0)] {
        let ends = [&mut *client, &mut *backend];
        let frames: Vec<_> = (0..50).map(|at| Frame::text(&format!("number {at}"))).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| ends[from].dressed(frame).encode()).collect();
        ends[from].send_in_pieces(&bytes, 7);
        frames.iter().for_each(|frame| ends[to].expect(Opcode::TEXT, &frame.payload));
    }
}

/// RFC 8446 §4.6.3: either side may, at any time, as often as it is reasonable.
fn keys_are_updated_within_a_session(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    for round in 0..10 {
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = [&mut client, &mut backend];
            ends[from].send_frame(&Frame::text(&format!("under the old keys {round}")));
            ends[from].line().with_tls(|connection| connection.refresh_traffic_keys()).expect("new keys");
            ends[from].send_frame(&Frame::text(&format!("under the new keys {round}")));
            ends[to].expect(Opcode::TEXT, format!("under the old keys {round}").as_bytes());
            ends[to].expect(Opcode::TEXT, format!("under the new keys {round}").as_bytes());
        }
    }
    gateway.probe();
}

fn only_what_is_chosen_is_spoken(variant: Variant) {
    let start = |members: &str| Setup::new(variant).tls(&format!("certificates: [edge], {members}")).start();
    let on = |version, suite: Option<CipherSuite>| {
        let terms = Terms::default().version(version);
        suite.into_iter().fold(terms, Terms::suite).client()
    };

    let gateway = start("versions: [tls1.3]");
    expect_alert(on(&version::TLS12, None).refusal(gateway.address()), AlertDescription::ProtocolVersion);
    expect_service(on(&version::TLS13, None).connect(gateway.address()));
    expect_failures(&gateway, "no_common_version", 1);

    let gateway = start("versions: [tls1.2]");
    expect_alert(on(&version::TLS13, None).refusal(gateway.address()), AlertDescription::ProtocolVersion);
    expect_service(on(&version::TLS12, None).connect(gateway.address()));
    let peer = Terms::default().client().connect(gateway.address());
    assert_eq!(Agreed::on(&peer).version, ProtocolVersion::TLSv1_2);

    let gateway = start("versions: [tls1.3], cipher_suites: [TLS_AES_128_GCM_SHA256]");
    let other = on(&version::TLS13, Some(CipherSuite::TLS13_AES_256_GCM_SHA384));
    expect_alert(other.refusal(gateway.address()), AlertDescription::HandshakeFailure);
    let peer = Terms::default().client().connect(gateway.address());
    assert_eq!(Agreed::on(&peer).suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
    expect_service(peer);
    expect_failures(&gateway, "no_common_suite", 1);
}

fn the_preferred_suite_is_the_gateways(variant: Variant) {
    let preferring = |suites: &str| {
        let members = format!("certificates: [edge], versions: [tls1.3], cipher_suites: [{suites}]");
        let gateway = Setup::new(variant).tls(&members).start();
        Agreed::on(&Terms::default().client().connect(gateway.address())).suite
    };
    let (aes, chacha) = ("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256");
    assert_eq!(preferring(&format!("{aes}, {chacha}")), CipherSuite::TLS13_AES_256_GCM_SHA384);
    assert_eq!(preferring(&format!("{chacha}, {aes}")), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
}

/// A ClientHello, with no extension but those that clients of its time sent: curves, points and signatures.
fn hello(version: u16, suites: &[u16]) -> Vec<u8> {
    let lengths = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..],
        &[0, 11, 0, 2, 1, 0],
        &[0, 13, 0, 10, 0, 8, 4, 3, 4, 1, 2, 3, 2, 1],
        &[0, 23, 0, 0],
    ];
    let body = [&version.to_be_bytes()[..], &[7; 32], &[0], &lengths(&suites), &[1, 0], &lengths(&extensions.concat())]
        .concat();
    let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    [&[22, 3, 1][..], &lengths(&message)].concat()
}

fn old_versions_and_weak_suites_are_refused(variant: Variant) {
    const GOOD: u16 = 0xc02b;
    let mut gateway = Setup::new(variant).start();
    let (protocol_version, handshake_failure) = (70, 40);
    let everything = [GOOD, 0xc02f, 0xc009, 0xc013, 0x002f, 0x0035, 0x000a, 0x0005];
    // SSL 3.0, TLS 1.0, TLS 1.1: whatever suites they come with. Then TLS 1.2 without forward secrecy, with CBC, RC4,
    // 3DES, export strength, no encryption, no authentication.
    let cases = [
        (0x0300, &everything[..], protocol_version),
        (0x0301, &everything, protocol_version),
        (0x0302, &everything, protocol_version),
        (0x0303, &[0x009c, 0x009d, 0x002f, 0x0035], handshake_failure),
        (0x0303, &[0xc009, 0xc00a, 0xc013, 0xc014, 0xc023, 0xc027], handshake_failure),
        (0x0303, &[0x0004, 0x0005, 0xc007, 0xc011], handshake_failure),
        (0x0303, &[0x000a, 0xc008, 0xc012], handshake_failure),
        (0x0303, &[0x0003, 0x0006, 0x0008, 0x0014], handshake_failure),
        (0x0303, &[0x0001, 0x0002, 0x003b, 0xc006, 0xc010], handshake_failure),
        (0x0303, &[0x0018, 0x001b, 0x0034, 0x00a6, 0xc018, 0xc019], handshake_failure),
    ];
    for (version, suites, alert) in cases {
        let mut client = Peer::connect(gateway.address());
        client.send(&hello(version, suites));
        let answer = client.rest();
        let what = format!("{version:04x} {suites:04x?}: {}", answer.escape_ascii());
        assert!(answer.starts_with(&[21, 3]) && answer[3..] == [0, 2, 2, alert], "{what}");
    }
    expect_failures(&gateway, "no_common_version", 3);
    expect_failures(&gateway, "no_common_suite", 7);
    // The same hello with one suite that is good is answered.
    let mut client = Peer::connect(gateway.address());
    client.send(&hello(0x0303, &[GOOD]));
    assert!(client.hear_within(Duration::from_secs(5)) && client.take_unread()[0] == 22, "a ServerHello");
    gateway.probe();
    let mut last = Terms::default().client().connect(gateway.address());
    last.upgrade("/probe");
    expect_echo(&mut last, "still here");
}
