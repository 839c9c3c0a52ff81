//! Which certificate is a client shown? By the name that it asks for, or the first; and what is stapled to it.

use std::process::{Command, Stdio};

use rustls::{AlertDescription, version};

use super::{expect_alert, expect_failures, expect_service};
use crate::kit::pki::{Authority, Identity, Key, Leaf};
use crate::kit::tls::{Agreed, Client, Terms};
use crate::kit::{Gateway, Setup, Variant, on_both_drivers_securely};

on_both_drivers_securely!(
    the_certificate_is_that_of_the_name,
    an_exact_name_is_nearer_than_a_wildcard,
    strict_names_are_known_names,
    every_kind_of_key_serves_both_versions,
    what_the_responder_says_is_stapled,
    protocols_are_agreed_on_or_not_at_all,
);

/// A listener with these certificates, the first of them being the first.
fn with(setup: Setup, identities: &[(&str, &Identity)], members: &str) -> Gateway {
    let names: Vec<_> = identities.iter().map(|(name, _)| *name).collect();
    let setup = identities.iter().fold(setup, |setup, (name, identity)| setup.certificate(&identity.entry(name)));
    setup.tls(&format!("certificates: [{}]{members}", names.join(", "))).start()
}

/// What a client that asks for this name, and believes anybody, is shown.
#[track_caller]
fn shown(gateway: &Gateway, name: Option<&'static str>) -> Agreed {
    let peer = Client::credulous(&Terms::default().name(name)).connect(gateway.address());
    let agreed = Agreed::on(&peer);
    expect_service(peer);
    agreed
}

fn the_certificate_is_that_of_the_name(variant: Variant) {
    let setup = Setup::new(variant);
    let authority = Authority::root(setup.directory(), "own");
    let issue = |name: &str, names: &[&str]| authority.issue(&Leaf::new(name).names(names));
    let first = issue("first", &["DNS:first.test", "IP:127.0.0.1"]);
    let chat = issue("chat", &["DNS:chat.test", "DNS:talk.test"]);
    let wild = issue("wild", &["DNS:*.wild.test"]);
    let gateway = with(setup, &[("first", &first), ("chat", &chat), ("wild", &wild)], "");
    // Names that are covered: whoever believes the authority is content.
    for (name, identity) in [
        (Some("first.test"), &first),
        (Some("chat.test"), &chat),
        (Some("talk.test"), &chat),
        (Some("a.wild.test"), &wild),
        (Some("b.wild.test"), &wild),
        (None, &first),
    ] {
        let peer = Terms::default().roots(&authority.certificate()).name(name).client().connect(gateway.address());
        assert!(Agreed::on(&peer).shows(identity), "{name:?}");
        expect_service(peer);
    }
    // And those that are not: the first.
    for name in ["wild.test", "a.b.wild.test", "else.test", "chat.test.else.test", "xchat.test"] {
        assert!(shown(&gateway, Some(name)).shows(&first), "{name}");
        let strict = Terms::default().roots(&authority.certificate()).name(Some(name)).client();
        let refused = strict.try_connect(gateway.address()).expect_err("a client that looks at names");
        assert!(refused.to_string().contains("not valid for name"), "{name}: {refused}");
    }
}

fn an_exact_name_is_nearer_than_a_wildcard(variant: Variant) {
    let setup = Setup::new(variant);
    let authority = Authority::root(setup.directory(), "own");
    let wild = authority.issue(&Leaf::new("wild").names(&["DNS:*.own.test"]));
    let exact = authority.issue(&Leaf::new("exact").names(&["DNS:exact.own.test"]));
    let gateway = with(setup, &[("wild", &wild), ("exact", &exact)], "");
    assert!(shown(&gateway, Some("exact.own.test")).shows(&exact));
    assert!(shown(&gateway, Some("other.own.test")).shows(&wild));
}

fn strict_names_are_known_names(variant: Variant) {
    let setup = Setup::new(variant);
    let authority = Authority::root(setup.directory(), "own");
    let own = authority.issue(&Leaf::new("own").names(&["DNS:own.test", "DNS:*.wild.test", "IP:127.0.0.1"]));
    let gateway = with(setup, &[("own", &own)], ", strict_server_names: true");
    for name in ["own.test", "a.wild.test"] {
        assert!(shown(&gateway, Some(name)).shows(&own), "{name}");
    }
    for name in [Some("else.test"), Some("a.b.wild.test"), None] {
        for version in [&version::TLS12, &version::TLS13] {
            let end = Client::credulous(&Terms::default().name(name).version(version)).refusal(gateway.address());
            expect_alert(end, AlertDescription::AccessDenied);
        }
    }
    expect_failures(&gateway, "unknown_server_name", 6);
}

fn every_kind_of_key_serves_both_versions(variant: Variant) {
    let setup = Setup::new(variant);
    let authority = Authority::root(setup.directory(), "own").intermediate("between");
    let kinds = [("p256", Key::P256), ("p384", Key::P384), ("ed25519", Key::Ed25519), ("rsa", Key::Rsa2048)];
    let identities =
        kinds.map(|(name, key)| authority.issue(&Leaf::new(name).key(key).names(&[&format!("DNS:{name}.test")])));
    let root = setup.directory().join("own/ca.pem");
    let named: Vec<_> = kinds.iter().map(|(name, _)| *name).zip(&identities).collect();
    let gateway = with(setup, &named, "");
    for version in [&version::TLS12, &version::TLS13] {
        for (name, identity) in ["p256.test", "p384.test", "ed25519.test", "rsa.test"].into_iter().zip(&identities) {
            let terms = Terms::default().roots(&root).name(Some(name)).version(version);
            let peer = terms.client().connect(gateway.address());
            assert!(Agreed::on(&peer).shows(identity), "{name}");
            println!("{name} over {:?}", version.version);
            expect_service(peer);
        }
    }
}

fn what_the_responder_says_is_stapled(variant: Variant) {
    let setup = Setup::new(variant);
    let authority = Authority::root(setup.directory(), "own");
    let stapled = authority.issue(&Leaf::new("stapled").names(&["DNS:stapled.test"]));
    let bare = authority.issue(&Leaf::new("bare").names(&["DNS:bare.test"]));
    let ocsp = authority.ocsp(&stapled);
    let gateway = setup
        .certificate(&format!("{}, ocsp_response: \"{}\"", stapled.entry("stapled"), ocsp.display()))
        .certificate(&bare.entry("bare"))
        .tls("certificates: [stapled, bare]")
        .start();
    let asked = |name: &str| {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", &gateway.address().to_string(), "-servername", name, "-status"]);
        openssl.args(["-CAfile", authority.certificate().to_str().expect("a path in UTF-8"), "-verify_return_error"]);
        let output = openssl.stdin(Stdio::null()).output().expect("openssl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = asked("stapled.test");
    assert!(said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good"), "{said}");
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    let said = asked("bare.test");
    assert!(said.contains("OCSP response: no response sent"), "{said}");
}

fn protocols_are_agreed_on_or_not_at_all(variant: Variant) {
    let gateway = Setup::new(variant).start();
    let offering = |protocols: &[&str]| protocols.iter().fold(Terms::default(), |terms, one| terms.alpn(one)).client();
    for protocols in [&["http/1.1"][..], &["h2", "http/1.1"]] {
        let peer = offering(protocols).connect(gateway.address());
        assert_eq!(Agreed::on(&peer).alpn.as_deref(), Some("http/1.1"), "{protocols:?}");
        expect_service(peer);
    }
    expect_service(offering(&[]).connect(gateway.address()));
    expect_alert(offering(&["h2"]).refusal(gateway.address()), AlertDescription::NoApplicationProtocol);
    expect_failures(&gateway, "no_common_protocol", 1);
}
