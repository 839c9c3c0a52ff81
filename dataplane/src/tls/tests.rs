//! The terms of real snapshots, spoken by rustls on both ends in memory.

use std::sync::{Arc, LazyLock};

use proto::control::message::Generation;
use proto::snapshot::{
    Api, Authorities, Certificate, CipherSuite, ClientCertificateMode, ClientCertificates, Config, Listener,
    ListenerTls, Pem, Pin, Snapshot, Target, TlsVersion, Upstream, UpstreamTls,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, Error, HandshakeKind, RootCertStore, ServerConfig, ServerConnection};

use super::failure::{self, Reason};
use super::{ClientTerms, Terms};
use crate::tables::Tables;

/// A certification authority.
struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Leaf {
    chain: String,
    key: String,
    serial: u64,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issues(&self, names: &[&str]) -> Leaf {
        self.issues_with(names, KeyPair::generate().unwrap(), |_| {})
    }

    fn issues_with(&self, names: &[&str], key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        static SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1000);
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut params =
            CertificateParams::new(names.iter().map(|name| (*name).into()).collect::<Vec<String>>()).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.distinguished_name.push(DnType::CommonName, format!("leaf {serial}"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let issuer: &Issuer<'_, KeyPair> = &self.0;
        let certificate = params.signed_by(&key, issuer).unwrap();
        Leaf { chain: certificate.pem(), key: key.serialize_pem(), serial }
    }

    fn revokes(&self, leaves: &[&Leaf], next_update_year: i32) -> Pem {
        let revoked = leaves.iter().map(|leaf| RevokedCertParams {
            serial_number: SerialNumber::from(leaf.serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(next_update_year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Pem::new(params.signed_by(&self.0).unwrap().pem().unwrap())
    }

    fn authorities(&self, name: &str) -> Authorities {
        Authorities { name: name.into(), certificates: Pem::new(self.0.pem()), revocations: Vec::new() }
    }
}

impl Leaf {
    fn certificate(&self, name: &str) -> Certificate {
        let (chain, key) = (Pem::new(self.chain.clone()), Pem::new(self.key.clone()));
        Certificate { name: name.into(), chain, key, ocsp_response: None }
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()
    }
}

/// ring makes no RSA keys, so openssl does; once, because it takes its time.
fn rsa_key() -> KeyPair {
    static PEM: LazyLock<String> = LazyLock::new(|| {
        let options = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
        let made = std::process::Command::new("openssl").args(options).output().expect("openssl is installed");
        String::from_utf8(made.stdout).unwrap()
    });
    KeyPair::from_pem(&PEM).unwrap()
}

static CA: LazyLock<Ca> = LazyLock::new(|| Ca::new("Servers"));
static CLIENTS: LazyLock<Ca> = LazyLock::new(|| Ca::new("Clients"));

/// One listener `public` with these certificates, and one upstream `chat` at `wss://chat.test/`; both trust their CAs.
fn config(certificates: Vec<Certificate>) -> Config {
    let mut listener = Listener::new("public", "0.0.0.0:443".parse().unwrap());
    listener.tls = Some(ListenerTls::new(certificates.iter().map(|one| one.name.clone()).collect()));
    let mut upstream = Upstream::new("chat", vec!["wss://chat.test/".parse().unwrap()]);
    upstream.tls.authorities = Some("servers".into());
    Config {
        version: 1,
        certificates,
        authorities: vec![CA.authorities("servers"), CLIENTS.authorities("clients")],
        listeners: vec![listener],
        upstreams: vec![upstream],
        ..Config::default()
    }
}

fn one(names: &[&str]) -> Config {
    config(vec![CA.issues(names).certificate("edge")])
}

impl Change for Config {}

trait Change: Sized {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

fn listener_tls(config: &mut Config) -> &mut ListenerTls {
    config.listeners[0].tls.as_mut().unwrap()
}

fn upstream_tls(config: &mut Config) -> &mut UpstreamTls {
    &mut config.upstreams[0].tls
}

fn asks_for_certificates(config: &mut Config, mode: ClientCertificateMode) {
    listener_tls(config).client_certificates = ClientCertificates { mode, authorities: Some("clients".into()) };
}

fn tables_of(config: Config, previous: Option<&Tables>) -> Result<Tables, Vec<String>> {
    let number = previous.map_or(1, |tables| tables.generation().number + 1);
    Tables::build(Generation { source: "test".into(), number }, &Snapshot::check(config).unwrap(), previous)
}

fn tables(config: &Config) -> Tables {
    tables_of(config.clone(), None).unwrap()
}

fn server(tables: &Tables) -> Arc<ServerConfig> {
    Arc::clone(tables.server_terms("public").unwrap().config())
}

fn chat(tables: &Tables) -> &ClientTerms {
    tables.upstream("chat").unwrap().terms.as_ref().unwrap()
}

/// A client that trusts the servers' CA, and shows this certificate if it is asked.
fn client(shown: Option<&Leaf>, change: impl FnOnce(&mut ClientConfig)) -> Arc<ClientConfig> {
    client_of(ring::default_provider(), shown, change)
}

fn client_of(
    provider: rustls::crypto::CryptoProvider,
    shown: Option<&Leaf>,
    change: impl FnOnce(&mut ClientConfig),
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CA.0.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
    let builder = builder.unwrap().with_root_certificates(roots);
    let mut config = match shown {
        Some(leaf) => {
            let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![leaf.der()], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    change(&mut config);
    Arc::new(config)
}

/// A server that shows this certificate, as an endpoint would.
fn endpoint(leaf: &Leaf) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    Arc::new(builder.with_single_cert(vec![leaf.der()], key).unwrap())
}

/// What both ends know when the handshake is over, its tickets included; or who failed, and how.
#[derive(Debug)]
enum Met {
    Agreed(Box<(ClientConnection, ServerConnection)>),
    ClientRefused(Error),
    ServerRefused(Error),
}

impl Met {
    fn agreed(self) -> (ClientConnection, ServerConnection) {
        match self {
            Self::Agreed(both) => *both,
            other => panic!("{other:?}"),
        }
    }

    fn client_refused(self) -> Error {
        match self {
            Self::ClientRefused(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn server_refused(self) -> Error {
        match self {
            Self::ServerRefused(error) => error,
            other => panic!("{other:?}"),
        }
    }
}

fn meet(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &str) -> Met {
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    loop {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut left = &bytes[..];
        while !left.is_empty() {
            server.read_tls(&mut left).unwrap();
            if let Err(error) = server.process_new_packets() {
                return Met::ServerRefused(error);
            }
        }
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        let mut left = &answer[..];
        while !left.is_empty() {
            client.read_tls(&mut left).unwrap();
            if let Err(error) = client.process_new_packets() {
                return Met::ClientRefused(error);
            }
        }
        if bytes.is_empty() && answer.is_empty() {
            assert!(!client.is_handshaking() && !server.is_handshaking());
            return Met::Agreed(Box::new((client, server)));
        }
    }
}

/// The certificate that a client is shown for a name.
fn shown(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &str) -> CertificateDer<'static> {
    meet(client, server, name).agreed().0.peer_certificates().unwrap()[0].clone().into_owned()
}

/// A client that believes anybody, so that it can be seen what it is shown.
fn credulous(sni: bool) -> Arc<ClientConfig> {
    let snapshot = one(&["x.test"]).with(|config| config.upstreams[0].endpoints[0].verify_certificate = false);
    let tables = tables(&snapshot);
    let mut config = ClientConfig::clone(chat(&tables).config(false));
    config.enable_sni = sni;
    Arc::new(config)
}

#[test]
fn certificates_are_chosen_by_exact_name_then_wildcard_then_the_first() {
    let leaves = [CA.issues(&["first.test"]), CA.issues(&["*.wild.test"]), CA.issues(&["A.wild.test", "b.test"])];
    let config = config(leaves.iter().enumerate().map(|(at, leaf)| leaf.certificate(&format!("c{at}"))).collect());
    let (server, client) = (server(&tables(&config)), credulous(true));
    for (name, leaf) in [
        ("first.test", 0),
        ("a.wild.test", 2),
        ("A.WILD.test", 2),
        ("x.wild.test", 1),
        ("b.test", 2),
        // A wildcard is one label.
        ("x.y.wild.test", 0),
        ("wild.test", 0),
        ("unknown.test", 0),
        // No name is sent for an address.
        ("192.0.2.1", 0),
    ] {
        assert_eq!(shown(&client, &server, name), leaves[leaf].der(), "{name}");
    }
    assert_eq!(shown(&credulous(false), &server, "b.test"), leaves[0].der(), "no name");
}

#[test]
fn strict_names_refuse_a_name_that_nobody_covers_and_none_at_all() {
    let config = one(&["a.test"]).with(|config| listener_tls(config).strict_server_names = true);
    let server = server(&tables(&config));
    meet(&credulous(true), &server, "a.test").agreed();
    for (client, name) in [(credulous(true), "b.test"), (credulous(false), "a.test"), (credulous(true), "192.0.2.1")] {
        let error = meet(&client, &server, name).server_refused();
        assert_eq!(failure::client(&error), Reason::UnknownServerName, "{name}: {error}");
    }
}

#[test]
fn of_two_certificates_for_a_name_the_one_that_the_client_can_verify_is_shown() {
    let (ec, rsa) = (CA.issues(&["a.test"]), CA.issues_with(&["a.test"], rsa_key(), |_| {}));
    let both = config(vec![ec.certificate("ec"), rsa.certificate("rsa")]);
    let server = server(&tables(&both));
    assert_eq!(shown(&client(None, |_| {}), &server, "a.test"), ec.der());
    use ring::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
    let only_rsa = rustls::crypto::CryptoProvider {
        cipher_suites: vec![TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256],
        ..ring::default_provider()
    };
    assert_eq!(shown(&client_of(only_rsa, None, |_| {}), &server, "a.test"), rsa.der());
}

#[test]
fn a_certificate_without_alternative_names_answers_for_its_common_name() {
    let by_common_name = CA.issues_with(&[], KeyPair::generate().unwrap(), |params| {
        params.distinguished_name.push(DnType::CommonName, "Old.test");
    });
    let config = config(vec![CA.issues(&["first.test"]).certificate("a"), by_common_name.certificate("b")]);
    assert_eq!(shown(&credulous(true), &server(&tables(&config)), "old.test"), by_common_name.der());
}

#[test]
fn the_ocsp_response_is_stapled() {
    #[derive(Debug)]
    struct Sees(std::sync::Mutex<Vec<u8>>, Vec<rustls::SignatureScheme>);
    impl rustls::client::danger::ServerCertVerifier for Sees {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            ocsp_response: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, Error> {
            *self.0.lock().unwrap() = ocsp_response.to_vec();
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.1.clone()
        }
    }
    let mut certificate = CA.issues(&["a.test"]).certificate("edge");
    certificate.ocsp_response =
        Some(Pem::new("-----BEGIN OCSP RESPONSE-----\nZ29vZA==\n-----END OCSP RESPONSE-----\n".into()));
    let server = server(&tables(&config(vec![certificate])));
    let schemes = ring::default_provider().signature_verification_algorithms.supported_schemes();
    let sees = Arc::new(Sees(std::sync::Mutex::default(), schemes));
    let client = client(None, |config| config.dangerous().set_certificate_verifier(sees.clone()));
    meet(&client, &server, "a.test").agreed();
    assert_eq!(*sees.0.lock().unwrap(), b"good");
}

#[test]
fn clients_without_a_good_certificate_are_refused_where_one_is_required() {
    let good = CLIENTS.issues(&["client.test"]);
    let expired = CLIENTS.issues_with(&["client.test"], KeyPair::generate().unwrap(), |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let early = CLIENTS.issues_with(&["client.test"], KeyPair::generate().unwrap(), |params| {
        params.not_before = date_time_ymd(2999, 1, 1);
    });
    let revoked = CLIENTS.issues(&["client.test"]);
    let stranger = Ca::new("Strangers").issues(&["client.test"]);
    let required = one(&["a.test"]).with(|config| {
        asks_for_certificates(config, ClientCertificateMode::Required);
        config.authorities[1].revocations = vec![CLIENTS.revokes(&[&revoked], 2999)];
    });
    let optional = required.clone().with(|config| asks_for_certificates(config, ClientCertificateMode::Optional));
    for (config, mode) in [(&required, "required"), (&optional, "optional")] {
        let server = server(&tables(config));
        let (_, server_end) = meet(&client(Some(&good), |_| {}), &server, "a.test").agreed();
        assert_eq!(server_end.peer_certificates().unwrap()[0], good.der());
        for (leaf, reason) in [
            (&expired, Reason::CertificateExpired),
            (&early, Reason::CertificateNotYetValid),
            (&revoked, Reason::CertificateRevoked),
            (&stranger, Reason::CertificateUnknownAuthority),
        ] {
            let error = meet(&client(Some(leaf), |_| {}), &server, "a.test").server_refused();
            assert_eq!(failure::client(&error), reason, "{mode}: {error}");
        }
        let anonymous = meet(&client(None, |_| {}), &server, "a.test");
        if mode == "optional" {
            assert!(anonymous.agreed().1.peer_certificates().is_none());
        } else {
            assert_eq!(failure::client(&anonymous.server_refused()), Reason::CertificateRequired);
        }
    }
}

#[test]
fn a_revocation_list_that_settles_nothing_refuses_everybody() {
    let good = CLIENTS.issues(&["client.test"]);
    let another = Ca::new("Another");
    for (list, what) in [(CLIENTS.revokes(&[], 2025), "too old"), (another.revokes(&[], 2999), "of somebody else")] {
        let config = one(&["a.test"]).with(|config| {
            asks_for_certificates(config, ClientCertificateMode::Required);
            config.authorities[1].revocations = vec![list];
        });
        let error = meet(&client(Some(&good), |_| {}), &server(&tables(&config)), "a.test").server_refused();
        assert_eq!(failure::client(&error), Reason::CertificateRevocationUnknown, "{what}: {error}");
    }
}

#[test]
fn endpoints_are_verified_by_chain_dates_name_and_revocation() {
    let good = CA.issues(&["chat.test"]);
    let expired = CA.issues_with(&["chat.test"], KeyPair::generate().unwrap(), |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    let revoked = CA.issues(&["chat.test"]);
    let wrong_name = CA.issues(&["other.test"]);
    let stranger = Ca::new("Servers").issues(&["chat.test"]);
    let config =
        one(&["a.test"]).with(|config| config.authorities[0].revocations = vec![CA.revokes(&[&revoked], 2999)]);
    let tables = tables(&config);
    let client = chat(&tables).config(true);
    assert_eq!(chat(&tables).server_name("chat.test").unwrap().to_str(), "chat.test");
    meet(client, &endpoint(&good), "chat.test").agreed();
    for (leaf, reason, words) in [
        (&expired, Reason::CertificateExpired, "expired"),
        (&revoked, Reason::CertificateRevoked, "Revoked"),
        (&wrong_name, Reason::CertificateWrongName, "not valid for name"),
        (&stranger, Reason::CertificateUnknownAuthority, "BadSignature"),
    ] {
        let error = meet(client, &endpoint(leaf), "chat.test").client_refused();
        assert_eq!(failure::upstream(&error), reason, "{error}");
        let told = failure::describe(&error);
        assert!(told.contains(&format!("of \"CN=leaf {}\" by \"CN=Servers\" for", leaf.serial)), "{told}");
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn an_endpoint_that_is_not_verified_may_be_anybody() {
    let stranger = Ca::new("Servers").issues(&["other.test"]);
    let config = one(&["a.test"]).with(|config| config.upstreams[0].endpoints[0].verify_certificate = false);
    let tables = tables(&config);
    assert_eq!(
        tables.unverified().map(|(name, endpoint)| (name, &*endpoint.name)).collect::<Vec<_>>(),
        [("chat", "wss://chat.test/")]
    );
    meet(chat(&tables).config(false), &endpoint(&stranger), "chat.test").agreed();
    // The other endpoints of the same upstream are not infected.
    meet(chat(&tables).config(true), &endpoint(&stranger), "chat.test").client_refused();
}

#[test]
fn pins_hold_beside_the_chain_and_without_it() {
    let pinned = CA.issues(&["chat.test"]);
    let key = rustls::server::ParsedCertificate::try_from(&pinned.der()).unwrap().subject_public_key_info();
    let digest = ::ring::digest::digest(&::ring::digest::SHA256, &key);
    let config =
        one(&["a.test"]).with(|config| upstream_tls(config).pins = vec![Pin(digest.as_ref().try_into().unwrap())]);
    let tables = tables(&config);
    for verified in [true, false] {
        let client = chat(&tables).config(verified);
        meet(client, &endpoint(&pinned), "chat.test").agreed();
        let error = meet(client, &endpoint(&CA.issues(&["chat.test"])), "chat.test").client_refused();
        assert_eq!(failure::upstream(&error), Reason::CertificateNotPinned, "{error}");
    }
}

#[test]
fn the_gateway_shows_its_own_certificate_to_an_endpoint_that_asks() {
    let gateway = CLIENTS.issues(&["gateway.test"]);
    let front = one(&["chat.test"]).with(|config| asks_for_certificates(config, ClientCertificateMode::Required));
    let back = one(&["a.test"]).with(|config| {
        config.certificates.push(gateway.certificate("gateway"));
        upstream_tls(config).certificate = Some("gateway".into());
    });
    let (front, back) = (tables(&front), tables(&back));
    let (_, server) = meet(chat(&back).config(true), &server(&front), "chat.test").agreed();
    assert_eq!(server.peer_certificates().unwrap()[0], gateway.der());
}

#[test]
fn only_the_chosen_versions_and_suites_are_spoken() {
    let config = one(&["a.test"]).with(|config| {
        listener_tls(config).versions = vec![TlsVersion::Tls12];
        listener_tls(config).cipher_suites =
            vec![CipherSuite::TlsEcdheEcdsaWithChacha20Poly1305Sha256, CipherSuite::TlsEcdheEcdsaWithAes128GcmSha256];
    });
    let server_12 = server(&tables(&config));
    let (client_end, _) = meet(&client(None, |_| {}), &server_12, "a.test").agreed();
    assert_eq!(client_end.protocol_version().map(super::version), Some("tls1.2"));
    let suite = client_end.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(super::suite(suite), "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "our order decides");
    assert_eq!(client_end.alpn_protocol(), None, "the client asked for none");

    let only_13 = one(&["a.test"]).with(|config| upstream_tls(config).versions = vec![TlsVersion::Tls13]);
    let error = meet(chat(&tables(&only_13)).config(true), &server_12, "a.test").server_refused();
    assert_eq!(failure::client(&error), Reason::NoCommonVersion, "{error}");
    let h2 = client(None, |config| config.alpn_protocols = vec![b"h2".to_vec()]);
    let error = meet(&h2, &server_12, "a.test").server_refused();
    assert_eq!(failure::client(&error), Reason::NoCommonProtocol, "{error}");
}

#[test]
fn what_cannot_be_made_says_why_and_of_whom() {
    let leaf = CA.issues(&["a.test"]);
    let other = CA.issues(&["a.test"]);
    type Breaks = Box<dyn Fn(&mut Config)>;
    let rows: Vec<(Breaks, &str)> = vec![
        (
            Box::new(move |config| config.certificates[0].key = Pem::new(other.key.clone())),
            r#"certificate "edge": its key"#,
        ),
        (
            Box::new(|config| config.certificates[0].chain = Pem::new("-----BEGIN X-----\n".into())),
            r#"certificate "edge": its chain"#,
        ),
        (
            Box::new(|config| config.certificates[0].key = config.certificates[0].chain.clone()),
            r#"certificate "edge": its key has nothing that is PEM"#,
        ),
        (
            Box::new(|config| config.authorities[0].revocations = vec![config.authorities[0].certificates.clone()]),
            r#"authorities "servers": its revocation list"#,
        ),
        (
            Box::new(|config| {
                let list = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
                config.authorities[0].revocations = vec![Pem::new(list.into())];
            }),
            r#"authorities "servers": they cannot be judged by: "#,
        ),
        (
            Box::new(|config| {
                listener_tls(config).cipher_suites = vec![CipherSuite::TlsEcdheRsaWithAes128GcmSha256];
            }),
            r#"listener "public": none of its cipher suites can be used with the keys"#,
        ),
    ];
    let first = tables(&config(vec![leaf.certificate("edge")]));
    for (breaks, reason) in rows {
        let broken = config(vec![leaf.certificate("edge")]).with(|config| breaks(config));
        let reasons = tables_of(broken, Some(&first)).err().unwrap_or_default();
        assert!(reasons.iter().any(|told| told.starts_with(reason)), "{reason}: {reasons:?}");
        assert!(!reasons.iter().any(|told| told.contains("PRIVATE")), "{reasons:?}");
    }
}

#[test]
fn bare_urls_share_the_terms_of_the_hosts_roots() {
    let config = one(&["a.test"]).with(|config| {
        for (name, url) in [("x", "wss://x.test/"), ("y", "wss://y.test/"), ("z", "ws://z.test/")] {
            config.apis.push(Api::new(name, "", format!("/{name}"), Target::Url(url.parse().unwrap())));
        }
    });
    // A host without roots cannot serve such a generation, and says so.
    match Terms::build(&Snapshot::check(config).unwrap(), None) {
        Ok(terms) => assert!(terms.bare().is_some()),
        Err(reasons) => {
            assert!(reasons[0].starts_with("upstream wss://x.test/: the roots of this host"), "{reasons:?}")
        }
    }
}

mod resumption {
    use super::*;

    /// Comes in once for tickets, and says how it comes in the second time.
    fn again(client: &Arc<ClientConfig>, first: &Arc<ServerConfig>, second: &Arc<ServerConfig>) -> HandshakeKind {
        meet(client, first, "a.test").agreed();
        meet(client, second, "a.test").agreed().1.handshake_kind().unwrap()
    }

    fn versions() -> [(Arc<ClientConfig>, &'static str); 2] {
        let with = |versions: &[TlsVersion]| {
            let config = one(&["x.test"]).with(|config| upstream_tls(config).versions = versions.to_vec());
            Arc::clone(chat(&tables(&config)).config(true))
        };
        [(with(&[TlsVersion::Tls12]), "1.2"), (with(&[TlsVersion::Tls13]), "1.3")]
    }

    #[test]
    fn tickets_outlive_a_generation_and_a_renewed_certificate() {
        let first = tables(&one(&["a.test"]));
        let renewed = tables_of(one(&["a.test"]), Some(&first)).unwrap();
        assert!(!Arc::ptr_eq(&server(&first), &server(&renewed)));
        for (client, version) in versions() {
            assert_eq!(again(&client, &server(&first), &server(&renewed)), HandshakeKind::Resumed, "{version}");
        }
    }

    #[test]
    fn what_has_not_changed_is_the_same_terms() {
        let config = one(&["a.test"]);
        let first = tables(&config);
        let second = tables_of(config.clone().with(|config| config.upstreams[0].preserve_host = true), Some(&first));
        let second = second.unwrap();
        assert!(Arc::ptr_eq(&server(&first), &server(&second)));
        assert!(Arc::ptr_eq(chat(&first).config(true), chat(&second).config(true)));
        let renewed = config.with(|config| config.authorities[0] = CLIENTS.authorities("servers"));
        let third = tables_of(renewed, Some(&second)).unwrap();
        assert!(Arc::ptr_eq(&server(&second), &server(&third)), "it does not ask for certificates");
        assert!(!Arc::ptr_eq(chat(&second).config(true), chat(&third).config(true)));
        assert!(!Arc::ptr_eq(second.upstream("chat").unwrap(), third.upstream("chat").unwrap()));
    }

    #[test]
    fn a_ticket_is_worth_nothing_at_another_listener() {
        let config = one(&["a.test"]).with(|config| {
            let other =
                Listener { name: "other".into(), bind: "0.0.0.0:444".parse().unwrap(), ..config.listeners[0].clone() };
            config.listeners.push(other);
        });
        let tables = tables(&config);
        let other = Arc::clone(tables.server_terms("other").unwrap().config());
        for (client, version) in versions() {
            assert_eq!(again(&client, &server(&tables), &other), HandshakeKind::Full, "{version}");
        }
    }

    #[test]
    fn a_ticket_is_worth_nothing_once_the_rules_for_clients_have_changed() {
        let shown = CLIENTS.issues(&["client.test"]);
        let off = one(&["a.test"]);
        let optional = off.clone().with(|config| asks_for_certificates(config, ClientCertificateMode::Optional));
        let required = off.clone().with(|config| asks_for_certificates(config, ClientCertificateMode::Required));
        let listed =
            required.clone().with(|config| config.authorities[1].revocations = vec![CLIENTS.revokes(&[], 2999)]);
        let others = required.clone().with(|config| {
            let both = format!("{}{}", CLIENTS.0.pem(), Ca::new("More").0.pem());
            config.authorities[1].certificates = Pem::new(both);
        });
        for (before, after) in [(&off, &optional), (&optional, &required), (&required, &listed), (&required, &others)] {
            let before = tables(before);
            let after = tables_of(after.clone(), Some(&before)).unwrap();
            let client = client(Some(&shown), |_| {});
            assert_eq!(again(&client, &server(&before), &server(&before)), HandshakeKind::Resumed);
            assert_eq!(again(&client, &server(&before), &server(&after)), HandshakeKind::Full);
        }
    }

    #[test]
    fn a_resumed_session_is_asked_whether_its_certificate_is_still_good() {
        let good = CLIENTS.issues(&["client.test"]);
        let expired = CLIENTS.issues_with(&["client.test"], KeyPair::generate().unwrap(), |params| {
            params.not_after = date_time_ymd(2020, 1, 1);
        });
        let config = one(&["a.test"]).with(|config| asks_for_certificates(config, ClientCertificateMode::Required));
        let required = tables(&config);
        let terms = required.server_terms("public").unwrap();
        let client = client(Some(&good), |_| {});
        meet(&client, terms.config(), "a.test").agreed();
        let (_, resumed) = meet(&client, terms.config(), "a.test").agreed();
        assert_eq!(resumed.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(terms.still_trusts(resumed.peer_certificates().unwrap()), Ok(()));
        let fault = terms.still_trusts(&[expired.der()]).unwrap_err();
        assert_eq!(failure::client(&fault), Reason::CertificateExpired);
        assert_eq!(failure::client(&terms.still_trusts(&[]).unwrap_err()), Reason::CertificateRequired);
        let off = tables(&one(&["a.test"]));
        assert_eq!(off.server_terms("public").unwrap().still_trusts(&[]), Ok(()));
    }

    #[test]
    fn without_resumption_there_are_no_tickets() {
        let tables = tables(&one(&["a.test"]).with(|config| listener_tls(config).resumption = false));
        for (client, version) in versions() {
            assert_eq!(again(&client, &server(&tables), &server(&tables)), HandshakeKind::Full, "{version}");
        }
    }
}
