//! The rows of TLS: certificates, authorities, and who refers to them.

use super::{finds, sound, url};
use crate::limits::{AUTHORITIES_BYTES_MAX, CHAIN_BYTES_MAX, KEY_BYTES_MAX, PINS_MAX, REVOCATIONS_MAX};
use crate::snapshot::check::{Snapshot, section};
use crate::snapshot::{
    Authorities, Certificate, CipherSuite, ClientCertificateMode, ClientCertificates, Config, Endpoint, ListenerTls,
    Pem, Pin, Target, TlsVersion, Upstream, UpstreamTls,
};

fn text(bytes: usize) -> Pem {
    Pem::Text(format!("-----BEGIN {}", "A".repeat(bytes - 11)))
}

fn secure() -> Config {
    let mut config = sound();
    let certificate =
        |name: &str| Certificate { name: name.into(), chain: text(40), key: text(40), ocsp_response: None };
    config.certificates = vec![certificate("edge"), certificate("gateway")];
    config.certificates[0].ocsp_response = Some(text(40));
    config.authorities = vec![
        Authorities { name: "clients".into(), certificates: text(40), revocations: vec![text(40)] },
        Authorities { name: "internal".into(), certificates: text(40), revocations: Vec::new() },
    ];
    for listener in &mut config.listeners {
        let mut tls = ListenerTls::new(vec!["edge".into(), "gateway".into()]);
        let authorities = Some("clients".into());
        tls.client_certificates = ClientCertificates { mode: ClientCertificateMode::Optional, authorities };
        tls.versions = vec![TlsVersion::Tls12, TlsVersion::Tls13];
        tls.cipher_suites = vec![CipherSuite::TlsAes128GcmSha256, CipherSuite::TlsEcdheRsaWithAes128GcmSha256];
        listener.tls = Some(tls);
    }
    let mut secure = Upstream::new("secure", vec![url("wss://chat.internal/"), url("ws://a/")]);
    secure.endpoints[0].verify_certificate = false;
    secure.tls = UpstreamTls {
        authorities: Some("internal".into()),
        certificate: Some("gateway".into()),
        server_name: Some("chat.internal".into()),
        pins: vec![Pin([1; 32]), Pin([2; 32])],
        versions: vec![TlsVersion::Tls13],
        cipher_suites: vec![CipherSuite::TlsAes256GcmSha384],
    };
    config.upstreams.push(secure);
    config.apis[2].endpoints.production = Some(Target::Url(url("wss://127.0.0.1:9001/")));
    config
}

fn tls(config: &mut Config) -> &mut ListenerTls {
    config.listeners[0].tls.as_mut().unwrap()
}

#[test]
fn everything_of_certificates_and_tls_listeners_that_can_be_wrong_is_found_where_it_is() {
    finds(
        secure,
        &[
            (
                |c| c.settings.certificate_expiry_warning = u64_max(),
                "/settings/certificate_expiry_warning",
                "at most 366d",
            ),
            // Certificates and authorities.
            (
                |c| c.certificates.push(c.certificates[0].clone()),
                "/certificates/2/name",
                "another certificate \"edge\"",
            ),
            (
                |c| c.certificates.push(Certificate { name: "a/b".into(), ..c.certificates[0].clone() }),
                "/certificates/2/name",
                "rename",
            ),
            (|c| c.certificates[0].chain = text(CHAIN_BYTES_MAX + 1), "/certificates/0/chain", "are allowed"),
            (|c| c.certificates[0].key = text(KEY_BYTES_MAX + 1), "/certificates/0/key", "are allowed"),
            (|c| c.certificates[0].key = Pem::Text("edge.key".into()), "/certificates/0/key", "-----BEGIN"),
            (|c| c.certificates[0].ocsp_response = Some(text(1 << 20)), "/certificates/0/ocsp_response", "are allowed"),
            (|c| c.authorities.push(c.authorities[0].clone()), "/authorities/2/name", "another group of authorities"),
            (
                |c| c.authorities[1].certificates = text(AUTHORITIES_BYTES_MAX + 1),
                "/authorities/1/certificates",
                "are allowed",
            ),
            (
                |c| c.authorities[0].revocations = vec![text(40); REVOCATIONS_MAX + 1],
                "/authorities/0/revocations",
                "at most 64",
            ),
            (
                |c| c.authorities[0].revocations[0] = Pem::Text(String::new()),
                "/authorities/0/revocations/0",
                "-----BEGIN",
            ),
            (|c| c.authorities[0].revocations = vec![text(16 << 20); 9], "", "are allowed"),
            // Listeners.
            (|c| tls(c).certificates.clear(), "/listeners/0/tls/certificates", "at least one"),
            (
                |c| tls(c).certificates[1] = "nobody".into(),
                "/listeners/0/tls/certificates/1",
                "no certificate \"nobody\"",
            ),
            (|c| tls(c).certificates[1] = "edge".into(), "/listeners/0/tls/certificates/1", "twice"),
            (
                |c| tls(c).client_certificates.authorities = None,
                "/listeners/0/tls/client_certificates/authorities",
                "is not said",
            ),
            (
                |c| tls(c).client_certificates.authorities = Some("nobody".into()),
                "/listeners/0/tls/client_certificates/authorities",
                "no authorities \"nobody\"",
            ),
            (|c| tls(c).versions.push(TlsVersion::Tls13), "/listeners/0/tls/versions/2", "twice"),
            (
                |c| tls(c).cipher_suites.push(CipherSuite::TlsAes128GcmSha256),
                "/listeners/0/tls/cipher_suites/2",
                "twice",
            ),
            (
                |c| tls(c).versions = vec![TlsVersion::Tls12],
                "/listeners/0/tls/cipher_suites/0",
                "a suite of tls1.3, which is not among versions",
            ),
            (|c| tls(c).cipher_suites.truncate(1), "/listeners/0/tls/versions/0", "is one of tls1.2"),
        ],
    );
}

#[test]
fn everything_of_tls_upstreams_that_can_be_wrong_is_found_where_it_is() {
    finds(
        secure,
        &[
            (
                |c| c.upstreams[1].tls.authorities = Some("edge".into()),
                "/upstreams/1/tls/authorities",
                "no authorities \"edge\"",
            ),
            (
                |c| c.upstreams[1].tls.certificate = Some("clients".into()),
                "/upstreams/1/tls/certificate",
                "no certificate",
            ),
            (
                |c| c.upstreams[1].tls.server_name = Some("*.internal".into()),
                "/upstreams/1/tls/server_name",
                "DNS name",
            ),
            (|c| c.upstreams[1].tls.pins[1] = Pin([1; 32]), "/upstreams/1/tls/pins/1", "twice"),
            (
                |c| c.upstreams[1].tls.pins = (0..=PINS_MAX as u8).map(|at| Pin([at; 32])).collect(),
                "/upstreams/1/tls/pins",
                "at most 64",
            ),
            (|c| c.upstreams[1].tls.versions = vec![TlsVersion::Tls13; 2], "/upstreams/1/tls/versions/1", "twice"),
            (
                |c| c.upstreams[1].endpoints[1].verify_certificate = false,
                "/upstreams/1/endpoints/1/verify_certificate",
                "no TLS",
            ),
            (
                |c| {
                    c.upstreams[1].tls.server_name = None;
                    c.upstreams[1].endpoints[0].url = url("wss://chat-/");
                },
                "/upstreams/1/endpoints/0/url",
                "tls.server_name",
            ),
            (
                |c| c.upstreams[0].tls.server_name = Some("a".into()),
                "/upstreams/0/tls",
                "no endpoint of this upstream speaks TLS",
            ),
            (
                |c| c.apis[2].endpoints.production = Some(Target::Url(url("wss://a.7/"))),
                "/apis/2/endpoints/production/url",
                "tls.server_name",
            ),
        ],
    );
}

fn u64_max() -> crate::snapshot::Duration {
    crate::snapshot::Duration::from_ms(u64::MAX)
}

#[test]
fn what_needs_no_more_than_its_defaults_is_sound() {
    let rows: &[fn(&mut Config)] = &[
        |_| {},
        |c| tls(c).client_certificates.mode = ClientCertificateMode::Off,
        |c| tls(c).client_certificates = ClientCertificates::default(),
        |c| tls(c).versions.clear(),
        |c| {
            tls(c).versions.clear();
            tls(c).cipher_suites.pop();
        },
        |c| c.upstreams[1].tls = UpstreamTls::default(),
        |c| c.upstreams[1].endpoints = vec![Endpoint { url: url("wss://[::1]/"), verify_certificate: true }],
        |c| c.certificates[0].key = Pem::File("edge.key".into()),
        |c| c.certificates[0].key = Pem::Text("\n  -----BEGIN PRIVATE KEY-----".into()),
    ];
    for (at, change) in rows.iter().enumerate() {
        let mut config = secure();
        change(&mut config);
        assert_eq!(Snapshot::check(config).err(), None, "row {at}");
    }
}

#[test]
fn a_push_has_no_paths() {
    let mut config = secure();
    config.certificates[1].key = Pem::File("/etc/key.pem".into());
    config.authorities[0].revocations[0] = Pem::File("/etc/list.crl".into());
    let problems = Snapshot::from_sections(section::split(config), None).unwrap_err();
    let places: Vec<_> = problems.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(places, ["/certificates/gateway/key", "/authorities/clients/revocations/0"]);
    assert!(problems[0].message.contains("read by the control plane"), "{problems:?}");
    assert!(Snapshot::from_sections(section::split(secure()), None).is_ok());
}
