//! Terms: under which certificates, versions, suites and rules of trust TLS is spoken, per listener and upstream.
//!
//! Made from a snapshot beside the terms in use, so that whatever cannot be made is a reason to reject it and nothing
//! has changed. What says the same as before is the same terms: ticket keys and remembered sessions go on.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use proto::errors::with_sources;
use proto::snapshot::{
    Api, Certificate, CipherSuite, ClientCertificateMode, Endpoint, ListenerTls, Place, Snapshot, Step, TlsVersion,
    Upstream, UpstreamTls,
};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage, ProducesTickets};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};

use super::material::{Fault, Identity, PROVIDER, Trust};
use super::names::ByName;
use super::{tickets, verify};

/// What is spoken inside (RFC 7301): WebSocket begins as HTTP/1.1.
const ALPN: &[u8] = b"http/1.1";
/// Services under the same authorities whose sessions are remembered.
const SERVICES_REMEMBERED: usize = 32;

/// The terms of one generation.
#[derive(Debug, Default)]
pub struct Terms {
    identities: HashMap<String, Arc<Identity>>,
    trusts: HashMap<String, Arc<Trust>>,
    listeners: HashMap<String, Arc<ServerTerms>>,
    upstreams: HashMap<String, Arc<ClientTerms>>,
    /// Of the endpoints that APIs and their policies name by a bare `wss://` URL, if there are any.
    bare: Option<Arc<ClientTerms>>,
    /// Of HTTP services that the bridge calls, by the name of their authorities; the empty one is the host's.
    callers: HashMap<String, Caller>,
}

/// On whose word a service is believed, and how it is spoken to.
#[derive(Debug)]
struct Caller {
    trust: Arc<Trust>,
    config: Arc<ClientConfig>,
}

/// Why terms cannot be made.
#[derive(Debug, thiserror::Error)]
enum TermsError {
    #[error("there is no certificate {0:?}")]
    NoCertificate(String),
    #[error("there are no authorities {0:?}")]
    NoAuthorities(String),
    #[error("it has no certificate")]
    NoCertificates,
    #[error("client certificates cannot be asked for without authorities")]
    NoClientAuthorities,
    #[error("none of its cipher suites can be used with its versions")]
    Suites(#[source] rustls::Error),
    #[error("none of its cipher suites can be used with the keys of its certificates")]
    Keys,
    #[error(transparent)]
    Material(#[from] Fault),
    #[error("{0:?} is neither a name nor an address that TLS can ask for")]
    ServerName(String),
    #[error("there is no randomness for ticket keys")]
    Tickets(#[source] rustls::Error),
}

impl Terms {
    /// The terms of a snapshot, with all that the previous ones still say; or every reason why they cannot be made.
    pub fn build(snapshot: &Snapshot, previous: Option<(&Snapshot, &Self)>) -> Result<Self, Vec<String>> {
        let mut reasons = Vec::new();
        let mut terms = Self::default();
        terms.read_material(snapshot, previous, &mut reasons);
        if !reasons.is_empty() {
            // What refers to them would fail for want of them.
            return Err(reasons);
        }
        let before = previous.map(|(_, terms)| terms);
        for listener in snapshot.listeners() {
            let Some(tls) = &listener.tls else { continue };
            let held = before.and_then(|terms| terms.listeners.get(&listener.name));
            match terms.of_listener(tls, held) {
                Ok(made) => _ = terms.listeners.insert(listener.name.clone(), made),
                Err(fault) => reasons.push(format!("listener {:?}: {}", listener.name, with_sources(&fault))),
            }
        }
        for upstream in snapshot.upstreams().filter(|upstream| is_secure(upstream)) {
            let held = before.and_then(|terms| terms.upstreams.get(&upstream.name));
            match terms.of_upstream(&upstream.tls, &upstream.endpoints, held) {
                Ok(made) => _ = terms.upstreams.insert(upstream.name.clone(), made),
                Err(fault) => reasons.push(format!("upstream {:?}: {}", upstream.name, with_sources(&fault))),
            }
        }
        if let Err(reason) = terms.make_bare(snapshot, before) {
            reasons.push(reason);
        }
        terms.make_callers(snapshot, before, &mut reasons);
        if reasons.is_empty() { Ok(terms) } else { Err(reasons) }
    }

    /// Of a listener that speaks TLS.
    pub fn server(&self, listener: &str) -> Option<&Arc<ServerTerms>> {
        self.listeners.get(listener)
    }

    /// Of a named upstream that has an endpoint which speaks TLS.
    pub fn client(&self, upstream: &str) -> Option<&Arc<ClientTerms>> {
        self.upstreams.get(upstream)
    }

    /// Of the endpoints that APIs name by a bare `wss://` URL.
    pub fn bare(&self) -> Option<&Arc<ClientTerms>> {
        self.bare.as_ref()
    }

    /// Of an `https` service whose certificate leads to these authorities; the empty name is the host's.
    pub fn caller(&self, authorities: &str) -> Option<&Arc<ClientConfig>> {
        self.callers.get(authorities).map(|caller| &caller.config)
    }

    /// Every certificate: its name, and when it expires, in seconds since 1970.
    pub fn expiries(&self) -> impl Iterator<Item = (&str, i64)> {
        self.identities.values().map(|identity| (identity.name.as_str(), identity.not_after))
    }

    fn read_material(&mut self, snapshot: &Snapshot, previous: Option<(&Snapshot, &Self)>, reasons: &mut Vec<String>) {
        let held: HashMap<&str, &Certificate> = previous
            .into_iter()
            .flat_map(|(snapshot, _)| snapshot.certificates().map(|one| (one.name.as_str(), one)))
            .collect();
        for certificate in snapshot.certificates() {
            let name = &certificate.name;
            let same = held.get(name.as_str()).is_some_and(|held| *held == certificate);
            let same = previous.filter(|_| same).and_then(|(_, terms)| terms.identities.get(name).cloned());
            match same.map_or_else(|| Identity::read(certificate).map(Arc::new), Ok) {
                Ok(identity) => _ = self.identities.insert(name.clone(), identity),
                Err(fault) => reasons.push(format!("certificate {name:?}: {}", with_sources(&fault))),
            }
        }
        for authorities in snapshot.authorities() {
            let name = &authorities.name;
            let same = previous.filter(|(snapshot, _)| snapshot.authorities().contains(authorities));
            let same = same.and_then(|(_, terms)| terms.trusts.get(name).cloned());
            match same.map_or_else(|| Trust::read(authorities).map(Arc::new), Ok) {
                Ok(trust) => _ = self.trusts.insert(name.clone(), trust),
                Err(fault) => reasons.push(format!("authorities {name:?}: {}", with_sources(&fault))),
            }
        }
    }

    fn of_listener(&self, tls: &ListenerTls, held: Option<&Arc<ServerTerms>>) -> Result<Arc<ServerTerms>, TermsError> {
        let identities = tls.certificates.iter().map(|name| self.identity(name)).collect::<Result<Vec<_>, _>>()?;
        let clients = &tls.client_certificates;
        let trust = match (clients.mode, &clients.authorities) {
            (ClientCertificateMode::Off, _) => None,
            (_, Some(name)) => Some(self.trust(name)?),
            (_, None) => return Err(TermsError::NoClientAuthorities),
        };
        if let Some(held) = held
            && held.tls == *tls
            && same_all(&held.identities, &identities)
            && same(held.trust.as_ref(), trust.as_ref())
        {
            return Ok(Arc::clone(held));
        }
        ServerTerms::new(tls, identities, trust, held.map(AsRef::as_ref)).map(Arc::new)
    }

    fn of_upstream(
        &self,
        tls: &UpstreamTls,
        endpoints: &[Endpoint],
        held: Option<&Arc<ClientTerms>>,
    ) -> Result<Arc<ClientTerms>, TermsError> {
        let secure = || endpoints.iter().filter(|endpoint| endpoint.url.secure);
        let identity = tls.certificate.as_ref().map(|name| self.identity(name)).transpose()?;
        let trust = match &tls.authorities {
            Some(name) => Some(self.trust(name)?),
            None if secure().any(|endpoint| endpoint.verify_certificate) => Some(Trust::of_the_host()?),
            None => None,
        };
        let hosts = secure().filter_map(|endpoint| match &endpoint.url.place {
            Place::Tcp { host, .. } => Some(host),
            Place::Unix(_) => None,
        });
        let names =
            hosts.map(|host| name_of(tls.server_name.as_ref().unwrap_or(host))).collect::<Result<Vec<_>, _>>()?;
        if let Some(held) = held
            && held.tls == *tls
            && same(held.identity.as_ref(), identity.as_ref())
            && same(held.trust.as_ref(), trust.as_ref())
        {
            return Ok(Arc::clone(held));
        }
        ClientTerms::new(tls, identity, trust, names.len()).map(Arc::new)
    }

    /// All bare URLs have the same terms, the defaults, and share what is remembered of their sessions.
    fn make_bare(&mut self, snapshot: &Snapshot, before: Option<&Self>) -> Result<(), String> {
        let mut urls = snapshot.apis().flat_map(Api::bare_urls).filter(|url| url.secure);
        let Some(first) = urls.next() else { return Ok(()) };
        let failed = |url, fault: TermsError| format!("upstream {url}: {}", with_sources(&fault));
        for url in urls.chain([first]) {
            let Place::Tcp { host, .. } = &url.place else { continue };
            name_of(host).map_err(|fault| failed(url.without_query(), fault))?;
        }
        let tls = UpstreamTls::default();
        let bare = match before.and_then(|terms| terms.bare.clone()) {
            Some(held) => Ok(held),
            None => Trust::of_the_host().map_err(TermsError::from).and_then(|trust| {
                ClientTerms::new(&tls, None, Some(trust), tickets::REMEMBERED_NAMES_MAX).map(Arc::new)
            }),
        };
        self.bare = Some(bare.map_err(|fault| failed(first.without_query(), fault))?);
        Ok(())
    }

    /// For the services that decide for policies, and those that tell of opaque tokens.
    fn make_callers(&mut self, snapshot: &Snapshot, before: Option<&Self>, reasons: &mut Vec<String>) {
        let deciding = snapshot.apis().flat_map(|api| {
            api.on_upgrade.iter().filter_map(move |step| match step {
                Step::ForwardAuth(asked) => Some((&asked.url, &asked.authorities, "API", &api.name)),
                _ => None,
            })
        });
        let telling = snapshot.issuers().iter().filter_map(|issuer| {
            let asked = issuer.introspection.as_ref()?;
            Some((&asked.url, &asked.authorities, "issuer", &issuer.name))
        });
        for (url, authorities, kind, name) in deciding.chain(telling) {
            // Its query may hold a key.
            let shown = url.split('?').next().unwrap_or_default();
            if let Err(fault) = url.parse::<reqwest::Url>() {
                reasons.push(format!("{kind} {name:?}: {shown} cannot be called: {fault}"));
            }
            if !url.starts_with("https:") || self.callers.contains_key(authorities) {
                continue;
            }
            let trust = if authorities.is_empty() {
                Trust::of_the_host().map_err(TermsError::from)
            } else {
                self.trust(authorities)
            };
            let held = before.and_then(|terms| terms.callers.get(authorities));
            match trust.and_then(|trust| Caller::of(trust, held)) {
                Ok(caller) => _ = self.callers.insert(authorities.clone(), caller),
                Err(fault) => reasons.push(format!("{kind} {name:?}, {shown}: {}", with_sources(&fault))),
            }
        }
    }

    fn identity(&self, name: &str) -> Result<Arc<Identity>, TermsError> {
        self.identities.get(name).cloned().ok_or_else(|| TermsError::NoCertificate(name.into()))
    }

    fn trust(&self, name: &str) -> Result<Arc<Trust>, TermsError> {
        self.trusts.get(name).cloned().ok_or_else(|| TermsError::NoAuthorities(name.into()))
    }
}

impl Caller {
    fn of(trust: Arc<Trust>, held: Option<&Self>) -> Result<Self, TermsError> {
        if let Some(held) = held.filter(|held| Arc::ptr_eq(&held.trust, &trust)) {
            return Ok(Self { trust, config: Arc::clone(&held.config) });
        }
        let verifier = verify::OfEndpoints::trusting(&trust, &[]);
        let config = client_config(&UpstreamTls::default(), None, verifier, tickets::memory(SERVICES_REMEMBERED))?;
        Ok(Self { trust, config: Arc::new(config) })
    }
}

/// For services that are called in clear: whatever speaks TLS is refused.
pub fn nobody_trusted() -> &'static Arc<ClientConfig> {
    static NOBODY: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let config =
            client_config(&UpstreamTls::default(), None, verify::OfEndpoints::refusing(), Resumption::disabled());
        Arc::new(config.expect("the defaults go together"))
    });
    &NOBODY
}

/// How a listener speaks TLS with clients.
pub struct ServerTerms {
    config: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    tickets: Option<Arc<dyn ProducesTickets>>,
    tls: ListenerTls,
    identities: Vec<Arc<Identity>>,
    trust: Option<Arc<Trust>>,
}

impl ServerTerms {
    fn new(
        tls: &ListenerTls,
        identities: Vec<Arc<Identity>>,
        trust: Option<Arc<Trust>>,
        held: Option<&Self>,
    ) -> Result<Self, TermsError> {
        if identities.is_empty() {
            return Err(TermsError::NoCertificates);
        }
        let mode = tls.client_certificates.mode;
        let clients = match &trust {
            Some(trust) => Some(trust.of_clients(mode == ClientCertificateMode::Required)?),
            None => None,
        };
        let tickets = match held {
            _ if !tls.resumption => None,
            // A ticket says that its bearer was let in once; who is let in must not have changed since.
            Some(held) if held.tls.client_certificates.mode == mode && same(held.trust.as_ref(), trust.as_ref()) => {
                held.tickets.clone()
            }
            _ => None,
        };
        let tickets = match tickets {
            None if tls.resumption => Some(tickets::keys().map_err(TermsError::Tickets)?),
            tickets => tickets,
        };
        let config = server_config(tls, &identities, clients.clone(), tickets.clone())?;
        Ok(Self { config: Arc::new(config), clients, tickets, tls: tls.clone(), identities, trust })
    }

    /// For rustls.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Whether a chain that a client showed in the session which is resumed now would still be found good: by the
    /// authorities, dates and revocation lists as they are now.
    pub fn still_trusts(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let Some(clients) = &self.clients else { return Ok(()) };
        match chain.split_first() {
            Some((leaf, rest)) => clients.verify_client_cert(leaf, rest, UnixTime::now()).map(|_| ()),
            None if clients.client_auth_mandatory() => Err(rustls::Error::NoCertificatesPresented),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ServerTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTerms").field("tls", &self.tls).finish_non_exhaustive()
    }
}

fn server_config(
    tls: &ListenerTls,
    identities: &[Arc<Identity>],
    clients: Option<Arc<dyn ClientCertVerifier>>,
    tickets: Option<Arc<dyn ProducesTickets>>,
) -> Result<ServerConfig, TermsError> {
    let provider = provider(&tls.cipher_suites);
    if !any_key_fits(&provider, &tls.versions, identities) {
        return Err(TermsError::Keys);
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(&tls.versions))
        .map_err(TermsError::Suites)?
        .with_client_cert_verifier(clients.unwrap_or_else(|| Arc::new(NoClientAuth)))
        .with_cert_resolver(Arc::new(ByName::new(identities, tls.strict_server_names)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_secret_extraction = true;
    config.ignore_client_order = true;
    config.max_early_data_size = 0;
    // Tickets hold all there is to remember: nothing is stored that workers would share under a lock.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = if tickets.is_some() { tickets::TICKETS_SENT } else { 0 };
    if let Some(tickets) = tickets {
        config.ticketer = tickets;
    }
    Ok(config)
}

/// How an upstream's endpoints are spoken to.
pub struct ClientTerms {
    verified: Arc<ClientConfig>,
    unverified: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    tls: UpstreamTls,
    identity: Option<Arc<Identity>>,
    trust: Option<Arc<Trust>>,
}

impl ClientTerms {
    fn new(
        tls: &UpstreamTls,
        identity: Option<Arc<Identity>>,
        trust: Option<Arc<Trust>>,
        names: usize,
    ) -> Result<Self, TermsError> {
        let verified = match &trust {
            Some(trust) => verify::OfEndpoints::trusting(trust, &tls.pins),
            None => verify::OfEndpoints::refusing(),
        };
        let config = |verifier| client_config(tls, identity.as_deref(), verifier, tickets::memory(names));
        Ok(Self {
            verified: Arc::new(config(verified)?),
            unverified: Arc::new(config(verify::OfEndpoints::unseen(&tls.pins))?),
            server_name: tls.server_name.as_ref().map(|name| name_of(name)).transpose()?,
            tls: tls.clone(),
            identity,
            trust,
        })
    }

    /// For rustls: for an endpoint whose certificate is verified, or for one whose is not.
    pub fn config(&self, verified: bool) -> &Arc<ClientConfig> {
        if verified { &self.verified } else { &self.unverified }
    }

    /// What is asked for, and must be covered, at an endpoint of this host. Hosts were looked at when the terms were
    /// made: an error is a fault of ours.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => ServerName::try_from(host).map(|name| name.to_owned()),
        }
    }
}

impl fmt::Debug for ClientTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTerms").field("tls", &self.tls).finish_non_exhaustive()
    }
}

fn client_config(
    tls: &UpstreamTls,
    identity: Option<&Identity>,
    verifier: verify::OfEndpoints,
    resumption: Resumption,
) -> Result<ClientConfig, TermsError> {
    let builder = ClientConfig::builder_with_provider(provider(&tls.cipher_suites))
        .with_protocol_versions(&versions(&tls.versions))
        .map_err(TermsError::Suites)?
        // What it trusts is decided in `verify`; nothing is skipped that an operator has not switched off by name.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.certified))))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_secret_extraction = true;
    config.resumption = resumption;
    Ok(config)
}

/// Whether any endpoint of the upstream speaks TLS.
pub(crate) fn is_secure(upstream: &Upstream) -> bool {
    upstream.endpoints.iter().any(|endpoint| endpoint.url.secure)
}

/// The listeners' and upstreams' choice of suites, in its order; all of them if they have none.
fn provider(chosen: &[CipherSuite]) -> Arc<CryptoProvider> {
    if chosen.is_empty() {
        return Arc::clone(&PROVIDER);
    }
    Arc::new(CryptoProvider {
        cipher_suites: chosen.iter().map(|suite| supported(*suite)).collect(),
        ..(**PROVIDER).clone()
    })
}

fn supported(suite: CipherSuite) -> SupportedCipherSuite {
    use rustls::crypto::ring::cipher_suite as ring;
    match suite {
        CipherSuite::TlsAes256GcmSha384 => ring::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TlsAes128GcmSha256 => ring::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TlsChacha20Poly1305Sha256 => ring::TLS13_CHACHA20_POLY1305_SHA256,
        CipherSuite::TlsEcdheEcdsaWithAes256GcmSha384 => ring::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::TlsEcdheEcdsaWithAes128GcmSha256 => ring::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TlsEcdheEcdsaWithChacha20Poly1305Sha256 => ring::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::TlsEcdheRsaWithAes256GcmSha384 => ring::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::TlsEcdheRsaWithAes128GcmSha256 => ring::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TlsEcdheRsaWithChacha20Poly1305Sha256 => ring::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn versions(chosen: &[TlsVersion]) -> Vec<&'static SupportedProtocolVersion> {
    if chosen.is_empty() {
        return rustls::ALL_VERSIONS.to_vec();
    }
    let version = |version: &TlsVersion| match version {
        TlsVersion::Tls12 => &rustls::version::TLS12,
        TlsVersion::Tls13 => &rustls::version::TLS13,
    };
    chosen.iter().map(version).collect()
}

/// Suites of TLS 1.2 say what kind of key signs, those of 1.3 do not. Where no suite can be used at all, rustls says so.
fn any_key_fits(provider: &CryptoProvider, chosen: &[TlsVersion], identities: &[Arc<Identity>]) -> bool {
    let enabled = versions(chosen);
    let mut suites = provider.cipher_suites.iter().filter(|suite| enabled.contains(&suite.version())).peekable();
    let fits = |suite: &SupportedCipherSuite| match suite {
        SupportedCipherSuite::Tls12(suite) => {
            identities.iter().any(|one| one.certified.key.choose_scheme(suite.sign).is_some())
        }
        SupportedCipherSuite::Tls13(_) => true,
    };
    suites.peek().is_none() || suites.any(fits)
}

fn name_of(host: &str) -> Result<ServerName<'static>, TermsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TermsError::ServerName(host.into()))
}

fn same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

fn same_all<T>(one: &[Arc<T>], other: &[Arc<T>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other))
}
