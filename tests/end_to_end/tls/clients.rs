//! Certificates of clients: who must show one, which are good, and what the upstream is told of them.

use rustls::{AlertDescription, SupportedProtocolVersion, version};

use super::{expect_alert, expect_failures, expect_service};
use crate::kit::pki::{self, Authority, Identity, Leaf, Valid};
use crate::kit::tls::{Client, Terms};
use crate::kit::{Head, Peer, Port, RawUpstream, Setup, Upgrade, Variant, on_both_drivers_securely};

on_both_drivers_securely!(
    whoever_must_show_a_certificate_shows_a_good_one,
    whoever_may_show_a_certificate_shows_none_or_a_good_one,
    where_there_are_revocation_lists_they_must_settle_it,
    the_upstream_is_told_who_the_client_is,
);

/// Certificates of clients, by an authority of the story's own, and by nobody.
struct Cast {
    authority: Authority,
    good: Identity,
    bad: [(Identity, AlertDescription, &'static str); 5],
}

impl Cast {
    fn new(setup: &Setup) -> Self {
        let authority = Authority::root(setup.directory(), "clients");
        let issue = |leaf: Leaf| authority.issue(&leaf);
        let (good, revoked) = (issue(Leaf::new("good")), issue(Leaf::new("revoked")));
        authority.revoke(&revoked);
        let bad = [
            (
                issue(Leaf::new("expired").valid(Valid::Expired)),
                AlertDescription::CertificateExpired,
                "certificate_expired",
            ),
            (
                issue(Leaf::new("later").valid(Valid::Later)),
                AlertDescription::CertificateExpired,
                "certificate_not_yet_valid",
            ),
            (revoked, AlertDescription::CertificateRevoked, "certificate_revoked"),
            (pki::shared().client.clone(), AlertDescription::UnknownCA, "certificate_unknown_authority"),
            (
                pki::self_signed(setup.directory(), &Leaf::new("self")),
                AlertDescription::UnknownCA,
                "certificate_unknown_authority",
            ),
        ];
        Self { authority, good, bad }
    }

    /// A listener that asks for certificates of this authority.
    fn asked(&self, setup: Setup, mode: &str) -> Setup {
        let list = self.authority.revocations();
        setup
            .authorities(&format!("{}, revocations: [\"{}\"]", self.authority.entry("clients"), list.display()))
            .tls(&format!("certificates: [edge], client_certificates: {{ mode: {mode}, authorities: clients }}"))
    }
}

fn client(identity: Option<&Identity>, version: &'static SupportedProtocolVersion) -> Client {
    let terms = Terms::default().version(version);
    identity.into_iter().fold(terms, Terms::identity).client()
}

fn whoever_must_show_a_certificate_shows_a_good_one(variant: Variant) {
    let setup = Setup::new(variant);
    let cast = Cast::new(&setup);
    let gateway = cast.asked(setup, "required").start();
    for version in [&version::TLS13, &version::TLS12] {
        expect_service(client(Some(&cast.good), version).connect(gateway.address()));
        expect_alert(client(None, version).refusal(gateway.address()), AlertDescription::CertificateRequired);
        for (identity, alert, _) in &cast.bad {
            expect_alert(client(Some(identity), version).refusal(gateway.address()), *alert);
        }
    }
    expect_failures(&gateway, "certificate_required", 2);
    for (reason, count) in [
        ("certificate_expired", 2),
        ("certificate_not_yet_valid", 2),
        ("certificate_revoked", 2),
        ("certificate_unknown_authority", 4),
    ] {
        expect_failures(&gateway, reason, count);
    }
}

fn whoever_may_show_a_certificate_shows_none_or_a_good_one(variant: Variant) {
    let setup = Setup::new(variant);
    let cast = Cast::new(&setup);
    let gateway = cast.asked(setup, "optional").start();
    for version in [&version::TLS13, &version::TLS12] {
        expect_service(client(Some(&cast.good), version).connect(gateway.address()));
        expect_service(client(None, version).connect(gateway.address()));
        for (identity, alert, _) in &cast.bad {
            expect_alert(client(Some(identity), version).refusal(gateway.address()), *alert);
        }
    }
}

/// Nothing is assumed of what no list speaks of: an authority between a client and the root, of which there is no list.
fn where_there_are_revocation_lists_they_must_settle_it(variant: Variant) {
    let setup = Setup::new(variant);
    let root = Authority::root(setup.directory(), "root");
    let between = root.intermediate("between");
    let identity = between.issue(&Leaf::new("below"));
    let start = |setup: Setup, lists: &str| {
        setup
            .authorities(&format!("{}{lists}", root.entry("clients")))
            .tls("certificates: [edge], client_certificates: { mode: required, authorities: clients }")
            .start()
    };
    let of_root = root.revocations();
    let gateway = start(setup, &format!(", revocations: [\"{}\"]", of_root.display()));
    let end = client(Some(&identity), &version::TLS13).refusal(gateway.address());
    assert!(matches!(end, crate::kit::line::End::Alert(_)), "{end:?}");
    expect_failures(&gateway, "certificate_revocation_unknown", 1);
    let of_both = format!(", revocations: [\"{}\", \"{}\"]", of_root.display(), between.revocations().display());
    for lists in [of_both.as_str(), ""] {
        let gateway = start(Setup::new(variant), lists);
        expect_service(client(Some(&identity), &version::TLS13).connect(gateway.address()));
    }
}

const FORGED: &str = "Hash=00;Subject=\"CN=the boss\"";

/// What the upstream is asked on behalf of a client that claims to be another.
fn asked(mut client: Peer, upstream: &RawUpstream) -> Head {
    client.send(
        &Upgrade::to("/chat").with("X-Forwarded-Client-Cert", FORGED).with("X_Forwarded_Client_Cert", FORGED).encode(),
    );
    let mut backend = upstream.accept();
    let head = backend.agree();
    client.upgraded();
    assert!(!head.to_string().contains("the boss"), "{head}");
    head
}

fn the_upstream_is_told_who_the_client_is(variant: Variant) {
    let (setup, upstream, plain) = (Setup::new(variant), RawUpstream::listen(), Port::free());
    let authority = Authority::root(setup.directory(), "clients");
    let leaf = Leaf::new("device 7").names(&["DNS:seven.test", "URI:spiffe://test/device/7", "DNS:eight.test"]);
    let identity = authority.issue(&leaf);
    let members = "certificates: [edge], client_certificates: { mode: optional, authorities: clients }";
    let gateway = setup
        .authorities(&authority.entry("clients"))
        .tls(members)
        .another_listener(&format!("name: plain, bind: \"{}\"", plain.address()))
        .api_to("chat", &upstream.url("/"), "")
        .start();

    let head = asked(client(Some(&identity), &version::TLS13).connect(gateway.address()), &upstream);
    let told = head.header("X-Forwarded-Client-Cert").expect("who it is");
    assert!(told.starts_with(&format!("Hash={}", identity.fingerprint())), "{told}");
    assert!(told.contains("Subject=\"CN=device 7,O=Framegate\""), "{told}");
    for name in ["URI=spiffe://test/device/7", "DNS=seven.test", "DNS=eight.test"] {
        assert!(told.split(';').any(|part| part == name), "{name}: {told}");
    }
    assert_eq!(head.header("X-Forwarded-Proto"), Some("https"), "{head}");
    assert!(head.header("Forwarded").is_some_and(|value| value.contains("proto=https")), "{head}");

    for (client, proto) in
        [(client(None, &version::TLS12).connect(gateway.address()), "https"), (Peer::connect(plain.address()), "http")]
    {
        let head = asked(client, &upstream);
        assert_eq!(head.header("X-Forwarded-Client-Cert"), None, "{head}");
        assert_eq!(head.header("X-Forwarded-Proto"), Some(proto), "{head}");
    }
}
