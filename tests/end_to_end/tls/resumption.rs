//! Sessions of TLS that are resumed: on whichever worker the client comes back to, and only for as long as it would be
//! let in again.

use std::time::Duration;

use rustls::{HandshakeKind, version};

use super::{expect_failures, expect_service};
use crate::kit::line::End;
use crate::kit::pki::{Authority, Leaf};
use crate::kit::tls::{Agreed, Client, Terms};
use crate::kit::{Gateway, RawUpstream, Setup, Variant, on_both_drivers_securely};

on_both_drivers_securely!(
    a_ticket_is_good_on_every_worker,
    a_ticket_outlives_the_certificate_that_was_shown_with_it,
    no_ticket_outlives_the_rules_for_clients,
    a_revoked_client_resumes_nothing,
    without_resumption_every_handshake_is_full,
    the_gateway_resumes_its_sessions_with_upstreams,
);

/// Connects, is served, and has taken the ticket that came with it.
#[track_caller]
fn visit(client: &Client, gateway: &Gateway) -> HandshakeKind {
    let mut peer = client.connect(gateway.address());
    let kind = Agreed::on(&peer).kind;
    peer.upgrade("/probe");
    super::expect_echo(&mut peer, "hello");
    kind
}

fn a_ticket_is_good_on_every_worker(variant: Variant) {
    const VISITS: usize = 64;
    let gateway = Setup::new(variant).workers(8).start();
    for version in [&version::TLS13, &version::TLS12] {
        let client = Terms::default().version(version).resuming().client();
        assert_eq!(visit(&client, &gateway), HandshakeKind::Full);
        // The kernel gives each connection to any of the workers: all of the 64 to the first one in 8 of 10^58 cases.
        for at in 0..VISITS {
            assert_eq!(visit(&client, &gateway), HandshakeKind::Resumed, "visit {at}");
        }
    }
    for version in ["tls1.2", "tls1.3"] {
        let labels = [("listener", "public"), ("version", version), ("resumed", "yes")];
        assert_eq!(gateway.metric("framegate_tls_handshakes_total", &labels), VISITS as f64, "{version}");
    }
}

fn a_ticket_outlives_the_certificate_that_was_shown_with_it(variant: Variant) {
    let setup = Setup::new(variant);
    let authority = Authority::root(setup.directory(), "own");
    let [old, new] = ["old", "new"].map(|name| authority.issue(&Leaf::new(name).names(&["DNS:own.test"])));
    let gateway = setup.certificate(&old.entry("own")).tls("certificates: [own]").start();
    let client = Terms::default().roots(&authority.certificate()).name(Some("own.test")).resuming().client();
    assert_eq!(visit(&client, &gateway), HandshakeKind::Full);
    let applied = gateway.apply(&gateway.setup().yaml().replace(&old.entry("own"), &new.entry("own")));
    assert_eq!(applied.code, 0, "{applied:?}");
    assert_eq!(visit(&client, &gateway), HandshakeKind::Resumed);
    let stranger = Terms::default().roots(&authority.certificate()).name(Some("own.test")).client();
    assert!(Agreed::on(&stranger.connect(gateway.address())).shows(&new));
}

const OFF: &str = "client_certificates: { mode: off }";

fn no_ticket_outlives_the_rules_for_clients(variant: Variant) {
    let setup = Setup::new(variant);
    let [one, other] = ["one", "other"].map(|name| Authority::root(setup.directory(), name));
    let identity = one.issue(&Leaf::new("member"));
    let gateway = setup
        .authorities(&one.entry("one"))
        .authorities(&other.entry("other"))
        .tls(&format!("certificates: [edge], {OFF}"))
        .start();
    let rules = |rules: &str| {
        let applied = gateway.apply(&gateway.setup().yaml().replace(OFF, rules));
        assert_eq!(applied.code, 0, "{applied:?}");
    };
    for version in [&version::TLS13, &version::TLS12] {
        rules(OFF);
        let nobody = Terms::default().version(version).resuming().client();
        let member = Terms::default().version(version).identity(&identity).resuming().client();
        assert_eq!(visit(&nobody, &gateway), HandshakeKind::Full);
        assert_eq!(visit(&nobody, &gateway), HandshakeKind::Resumed);
        rules("client_certificates: { mode: required, authorities: one }");
        assert!(matches!(nobody.refusal(gateway.address()), End::Alert(_)), "a ticket is no certificate");
        assert_eq!(visit(&member, &gateway), HandshakeKind::Full);
        assert_eq!(visit(&member, &gateway), HandshakeKind::Resumed);
        rules("client_certificates: { mode: required, authorities: other }");
        assert!(matches!(member.refusal(gateway.address()), End::Alert(_)), "another authority decides now");
    }
    expect_failures(&gateway, "certificate_required", 2);
}

fn a_revoked_client_resumes_nothing(variant: Variant) {
    let setup = Setup::new(variant);
    let authority = Authority::root(setup.directory(), "clients");
    let [kept, revoked] = ["kept", "revoked"].map(|name| authority.issue(&Leaf::new(name)));
    let list = |name: &str| {
        let path = authority.certificate().with_file_name(name);
        std::fs::copy(authority.revocations(), &path).expect("a list can be copied");
        format!("revocations: [\"{}\"]", path.display())
    };
    let before = list("before.crl");
    let gateway = setup
        .authorities(&format!("{}, {before}", authority.entry("clients")))
        .tls("certificates: [edge], client_certificates: { mode: required, authorities: clients }")
        .start();
    let [kept, gone] = [&kept, &revoked].map(|identity| Terms::default().identity(identity).resuming().client());
    for client in [&kept, &gone] {
        assert_eq!(visit(client, &gateway), HandshakeKind::Full);
        assert_eq!(visit(client, &gateway), HandshakeKind::Resumed);
    }
    let mut live = gone.connect(gateway.address());
    live.upgrade("/probe");
    authority.revoke(&revoked);
    let applied = gateway.apply(&gateway.setup().yaml().replace(&before, &list("after.crl")));
    assert_eq!(applied.code, 0, "{applied:?}");
    assert!(matches!(gone.refusal(gateway.address()), End::Alert(_)), "revoked, whatever it holds");
    visit(&kept, &gateway);
    // Who is in stays in: a session is not a handshake.
    super::expect_echo(&mut live, "I was here before");
}

fn without_resumption_every_handshake_is_full(variant: Variant) {
    let gateway = Setup::new(variant).tls("certificates: [edge], resumption: false").start();
    for version in [&version::TLS13, &version::TLS12] {
        let client = Terms::default().version(version).resuming().client();
        for _ in 0..4 {
            assert_eq!(visit(&client, &gateway), HandshakeKind::Full);
        }
    }
    expect_service(gateway.connect());
}

fn the_gateway_resumes_its_sessions_with_upstreams(variant: Variant) {
    const SESSIONS: usize = 20;
    let upstream = RawUpstream::listen();
    let gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    let kinds: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let (mut client, mut backend) = gateway.session("/chat", &upstream);
            // A ticket comes behind the handshake: with the first bytes at the latest.
            backend.send_frame(&crate::kit::Frame::text("hello"));
            client.expect(crate::kit::Opcode::TEXT, b"hello");
            std::thread::sleep(Duration::from_millis(5));
            Agreed::on(&backend).kind
        })
        .collect();
    let resumed = kinds.iter().filter(|kind| **kind == HandshakeKind::Resumed).count();
    assert!(resumed >= SESSIONS / 2, "{kinds:?}");
}
