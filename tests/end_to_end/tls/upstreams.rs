//! Whom the gateway believes among its upstreams, what it shows them, and what it says where it does not believe one.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustls::{CipherSuite, ProtocolVersion, version};

use super::expect_echo;
use crate::kit::pki::{self, Authority, Identity, Leaf, Valid};
use crate::kit::tls::{Agreed, Service};
use crate::kit::{Gateway, Peer, RawUpstream, Setup, Upgrade, Variant, on_both_drivers_securely, until};

on_both_drivers_securely!(
    an_endpoint_that_is_not_believed_is_a_502_that_says_why,
    an_endpoint_that_need_not_be_believed_is_served_aloud,
    pins_are_kept,
    the_gateway_shows_its_own_certificate,
    the_name_that_is_asked_for_is_the_hosts_or_the_upstreams,
    versions_and_suites_are_those_of_the_upstream,
    an_endpoint_that_speaks_no_tls_or_not_in_time,
);

/// A setup whose API `/NAME` leads to one endpoint, with these members of the upstream's `tls`.
fn leading_to(setup: Setup, name: &str, endpoint: &str, tls: &str) -> Setup {
    setup
        .upstream(&format!("name: {name}, endpoints: [{{ {endpoint} }}], tls: {{ {tls} }}"))
        .api(&format!("name: {name}, context: /{name}, endpoints: {{ production: {{ upstream: {name} }} }}"))
}

fn ask(gateway: &Gateway, name: &str) -> Peer {
    let mut client = gateway.connect();
    client.send(&Upgrade::to(&format!("/{name}")).encode());
    client
}

/// Opens a session to an upstream, whose handshake is expected to succeed; the upstream's end.
#[track_caller]
fn expect_session(gateway: &Gateway, name: &str, upstream: &RawUpstream) -> Peer {
    let mut client = ask(gateway, name);
    let mut backend = upstream.accept();
    backend.agree();
    client.upgraded();
    client.send_frame(&crate::kit::Frame::text("well?"));
    backend.expect(crate::kit::Opcode::TEXT, b"well?");
    backend
}

/// Asks for a session that the upstream's handshake prevents; the line of the log.
#[track_caller]
fn expect_failure(gateway: &Gateway, name: &str, upstream: &RawUpstream) -> String {
    let mut client = ask(gateway, name);
    let backend = upstream.accept();
    let _ = backend.line().handshake();
    assert_eq!(client.refused().status, 502, "{name}");
    gateway.logged("refused", name).to_string()
}

fn an_endpoint_that_is_not_believed_is_a_502_that_says_why(variant: Variant) {
    let setup = Setup::new(variant);
    let authority = Authority::root(setup.directory(), "own");
    let here = |name: &str| Leaf::new(name).names(&["IP:127.0.0.1"]);
    let revoked = authority.issue(&here("revoked"));
    authority.revoke(&revoked);
    let cases: [(&str, Identity, &str); 6] = [
        ("expired", authority.issue(&here("expired").valid(Valid::Expired)), "expired"),
        ("later", authority.issue(&here("later").valid(Valid::Later)), "not valid yet"),
        ("elsewhere", authority.issue(&Leaf::new("elsewhere").names(&["DNS:else.test"])), "not valid for"),
        ("stranger", pki::shared().service.clone(), "UnknownIssuer"),
        ("self", pki::self_signed(setup.directory(), &here("self")), "UnknownIssuer"),
        ("revoked", revoked, "Revoked"),
    ];
    let good = RawUpstream::listen_securely(&Service::new(&authority.issue(&here("good")), None));
    let upstreams =
        cases.each_ref().map(|(_, identity, _)| RawUpstream::listen_securely(&Service::new(identity, None)));
    let list = authority.revocations();
    let setup = setup.authorities(&format!("{}, revocations: [\"{}\"]", authority.entry("own"), list.display()));
    let setup = leading_to(setup, "good", &format!("url: \"{}\"", good.url("/")), "authorities: own");
    let mut gateway = cases
        .iter()
        .zip(&upstreams)
        .fold(setup, |setup, ((name, ..), upstream)| {
            leading_to(setup, name, &format!("url: \"{}\"", upstream.url("/")), "authorities: own")
        })
        .start();
    expect_session(&gateway, "good", &good);
    for ((name, _, why), upstream) in cases.iter().zip(&upstreams) {
        let line = expect_failure(&gateway, name, upstream);
        assert!(line.contains(why), "{name}: {line}");
        // Which certificate: the stranger's is the shared PKI's.
        let subject = if *name == "stranger" { "CN=service" } else { &format!("CN={name}") };
        assert!(line.contains(subject), "{name}: {line}");
        assert!(line.contains("upstream_tls"), "{name}: {line}");
    }
    gateway.probe();
}

fn an_endpoint_that_need_not_be_believed_is_served_aloud(variant: Variant) {
    let setup = Setup::new(variant);
    let upstream = RawUpstream::listen_securely(&Service::new(
        &pki::self_signed(setup.directory(), &Leaf::new("self").valid(Valid::Now)),
        None,
    ));
    let endpoint = format!("url: \"{}\", verify_certificate: false", upstream.url("/"));
    let gateway = leading_to(setup, "loud", &endpoint, "").start();
    expect_session(&gateway, "loud", &upstream);
    assert!(gateway.said("dataplane").contains("IS NOT VERIFIED"), "{}", gateway.log_tail());
    until("the control plane warns", || {
        let warns = |line: &str| line.contains("WARN") && line.contains("loud") && line.contains("is believed");
        gateway.said("controlplane").lines().any(warns)
    });
}

fn pins_are_kept(variant: Variant) {
    let setup = Setup::new(variant);
    let (identity, other) = (&pki::shared().service, &pki::shared().edge);
    let upstream = RawUpstream::listen_securely(&Service::new(identity, None));
    let url = format!("url: \"{}\"", upstream.url("/"));
    let unseen = format!("{url}, verify_certificate: false");
    let (right, wrong) = (format!("pins: [{}]", identity.pin()), format!("pins: [{}]", other.pin()));
    let either = format!("pins: [{}, {}]", other.pin(), identity.pin());
    let setup = leading_to(setup, "right", &url, &right);
    let setup = leading_to(leading_to(setup, "either", &url, &either), "wrong", &url, &wrong);
    let setup = leading_to(leading_to(setup, "unseen-right", &unseen, &right), "unseen-wrong", &unseen, &wrong);
    let gateway = setup.start();
    for name in ["right", "either", "unseen-right"] {
        expect_session(&gateway, name, &upstream);
    }
    for name in ["wrong", "unseen-wrong"] {
        let line = expect_failure(&gateway, name, &upstream);
        assert!(line.to_lowercase().contains("pinned") && line.contains("CN=service"), "{line}");
    }
}

fn the_gateway_shows_its_own_certificate(variant: Variant) {
    let setup = Setup::new(variant);
    let authority = Authority::root(setup.directory(), "clients");
    let identity = authority.issue(&Leaf::new("gateway"));
    let upstream = RawUpstream::listen_securely(&Service::new(&pki::shared().service, Some(&authority.certificate())));
    let url = format!("url: \"{}\"", upstream.url("/"));
    let setup = setup.certificate(&identity.entry("gateway"));
    let setup = leading_to(leading_to(setup, "shown", &url, "certificate: gateway"), "hidden", &url, "");
    let setup = leading_to(setup, "wrong", &url, "certificate: edge");
    let mut gateway = setup.start();
    let backend = expect_session(&gateway, "shown", &upstream);
    assert!(Agreed::on(&backend).shows(&identity));
    for name in ["hidden", "wrong"] {
        let line = expect_failure(&gateway, name, &upstream);
        assert!(line.contains("upstream_tls") && line.contains("alert"), "{line}");
        let labels = [("upstream", name), ("reason", "certificate_refused_by_peer")];
        assert_eq!(gateway.metric("framegate_upstream_tls_failures_total", &labels), 1.0, "{line}");
    }
    gateway.probe();
}

fn the_name_that_is_asked_for_is_the_hosts_or_the_upstreams(variant: Variant) {
    let upstream = RawUpstream::listen();
    let port = upstream.address().port();
    let host = format!("url: \"wss://localhost:{port}/\"");
    let address = format!("url: \"{}\"", upstream.url("/"));
    let setup = leading_to(Setup::new(variant), "host", &host, "");
    let setup = leading_to(leading_to(setup, "address", &address, ""), "named", &address, "server_name: service.test");
    let gateway = setup.start();
    for (name, asked) in [("host", Some("localhost")), ("address", None), ("named", Some("service.test"))] {
        let backend = expect_session(&gateway, name, &upstream);
        let agreed = Agreed::on(&backend);
        assert_eq!(agreed.server_name.as_deref(), asked, "{name}");
    }
    // A URL that stands in an API has the same rules.
    let gateway = Setup::new(variant).api_to("bare", &format!("wss://localhost:{port}/"), "").start();
    let backend = expect_session(&gateway, "bare", &upstream);
    assert_eq!(Agreed::on(&backend).server_name.as_deref(), Some("localhost"));
}

fn versions_and_suites_are_those_of_the_upstream(variant: Variant) {
    let old = RawUpstream::listen_securely(&Service::with(&pki::shared().service, None, &[&version::TLS12], &[]));
    let new = RawUpstream::listen();
    let url = |upstream: &RawUpstream| format!("url: \"{}\"", upstream.url("/"));
    let setup = leading_to(Setup::new(variant), "old", &url(&old), "");
    let setup = leading_to(setup, "too-old", &url(&old), "versions: [tls1.3]");
    let chosen = "versions: [tls1.3], cipher_suites: [TLS_CHACHA20_POLY1305_SHA256]";
    let setup = leading_to(setup, "chosen", &url(&new), chosen);
    let gateway = leading_to(setup, "twelve", &url(&new), "versions: [tls1.2]").start();
    for (name, upstream, version) in [
        ("old", &old, ProtocolVersion::TLSv1_2),
        ("twelve", &new, ProtocolVersion::TLSv1_2),
        ("chosen", &new, ProtocolVersion::TLSv1_3),
    ] {
        let agreed = Agreed::on(&expect_session(&gateway, name, upstream));
        assert_eq!(agreed.version, version, "{name}");
        assert_eq!(agreed.suite == CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, name == "chosen", "{agreed:?}");
    }
    let line = expect_failure(&gateway, "too-old", &old);
    assert!(line.contains("upstream_tls"), "{line}");
}

fn an_endpoint_that_speaks_no_tls_or_not_in_time(variant: Variant) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let setup = Setup::new(variant)
        .upstream(&format!("name: deaf, endpoints: [{{ url: \"wss://{address}/\" }}], connect_timeout: 500ms"))
        .api("name: deaf, context: /deaf, endpoints: { production: { upstream: deaf } }");
    let mut gateway = setup.start();
    let accept = || Peer::new(listener.accept().expect("a connection").0.into(), crate::kit::peer::Side::Upstream);
    for answer in [&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], &[22, 3, 3, 0xff, 0xff, 1], b""] {
        let mut client = ask(&gateway, "deaf");
        let mut backend = accept();
        assert!(backend.hear(), "a ClientHello");
        backend.send(answer);
        backend.finish();
        assert_eq!(client.refused().status, 502, "{}", answer.escape_ascii());
    }
    let start = Instant::now();
    let mut client = ask(&gateway, "deaf");
    let backend = accept();
    assert_eq!(client.refused().status, 502);
    until("it is written down", || {
        let said = |line: &serde_json::Value| line["detail"].as_str().is_some_and(|detail| detail.contains("in time"));
        gateway.log_lines().iter().any(said)
    });
    assert!((Duration::from_millis(490)..Duration::from_secs(3)).contains(&start.elapsed()), "{:?}", start.elapsed());
    drop(backend);
    gateway.probe();
    let mut client = gateway.connect();
    client.upgrade("/probe");
    expect_echo(&mut client, "nothing happened");
}
