//! What the token endpoint works by, of a configuration whose files have been read: and how TLS is spoken there.
//!
//! Comparable, so that a configuration which says the same again changes nothing. Sockets are `door`'s.

use std::collections::HashSet;
use std::sync::Arc;

use proto::snapshot::{
    Authorities, Certificate, CipherSuite, ClientCertificateMode, Config, ListenerTls, TlsVersion, TokenEndpoint,
};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::jws::SigningKey;
use super::keyring::Rotation;
use crate::material::{certificate, pem};

/// What is spoken inside, RFC 7301.
const ALPN: &[u8] = b"http/1.1";

/// What the token endpoint works by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// As the operator wrote it, with the signing key's content.
    pub endpoint: TokenEndpoint,
    /// The certificates that it shows, with contents.
    certificates: Vec<Certificate>,
    /// Whom it trusts for the certificates of clients.
    authorities: Option<Authorities>,
}

impl Terms {
    /// Of a configuration with contents in place of paths, if it has a token endpoint.
    pub fn of(config: &Config) -> Option<Self> {
        let endpoint = config.token_endpoint.clone()?;
        let named: &[String] = endpoint.tls.as_ref().map_or(&[], |tls| &tls.certificates);
        let find = |name: &String| config.certificates.iter().find(|one| one.name == *name).cloned();
        let certificates = named.iter().filter_map(find).collect();
        let trusted = endpoint.tls.as_ref().and_then(|tls| tls.client_certificates.authorities.as_ref());
        let authorities = trusted.and_then(|name| config.authorities.iter().find(|one| one.name == *name)).cloned();
        Some(Self { endpoint, certificates, authorities })
    }

    /// What is wanted of the signing keys. The error is a sentence about the operator's key.
    pub fn rotation(&self) -> Result<Rotation, String> {
        let TokenEndpoint { algorithm, signing_key, rotate_every, access_token_lifetime, .. } = &self.endpoint;
        let text = signing_key.as_ref().and_then(|pem| pem.text());
        let given = text.map(|text| SigningKey::of_pem(*algorithm, text).map(Arc::new)).transpose()?;
        let (every_ms, lifetime_ms) = (rotate_every.as_ms(), access_token_lifetime.as_ms());
        Ok(Rotation { algorithm: *algorithm, given, every_ms, lifetime_ms })
    }

    /// The audiences of its tokens.
    pub fn audiences(&self) -> &[String] {
        match self.endpoint.audiences.as_slice() {
            [] => std::slice::from_ref(&self.endpoint.issuer),
            audiences => audiences,
        }
    }

    /// How TLS is spoken; nothing, where it is not. The error is a sentence.
    pub fn tls(&self) -> Result<Option<ServerConfig>, String> {
        let Some(tls) = &self.endpoint.tls else { return Ok(None) };
        let shown = self.certificates.iter().map(Shown::read).collect::<Result<Vec<_>, _>>()?;
        if shown.is_empty() {
            return Err("it has no certificate".into());
        }
        let provider = Arc::new(provider(tls));
        let clients = match tls.client_certificates.mode {
            ClientCertificateMode::Off => Arc::new(NoClientAuth),
            mode => {
                let authorities = self.authorities.as_ref().ok_or("client certificates need authorities")?;
                verifier(authorities, mode == ClientCertificateMode::Required, &provider)?
            }
        };
        let versions: Vec<_> =
            [(TlsVersion::Tls13, &rustls::version::TLS13), (TlsVersion::Tls12, &rustls::version::TLS12)]
                .into_iter()
                .filter(|(version, _)| tls.versions.is_empty() || tls.versions.contains(version))
                .map(|(_, version)| version)
                .collect();
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions);
        let builder = builder.map_err(|error| format!("its versions and suites do not go together: {error}"))?;
        let by_name = Arc::new(ByName { shown, is_strict: tls.strict_server_names });
        let mut config = builder.with_client_cert_verifier(clients).with_cert_resolver(by_name);
        config.alpn_protocols = vec![ALPN.to_vec()];
        if !tls.resumption {
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Some(config))
    }
}

/// ring, with the suites that the operator wants, the preferred ones first.
fn provider(tls: &ListenerTls) -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    if !tls.cipher_suites.is_empty() {
        let all = std::mem::take(&mut provider.cipher_suites);
        // rustls has a name of its own for those of TLS 1.3.
        let name = |suite: &rustls::SupportedCipherSuite| {
            suite.suite().as_str().unwrap_or_default().replacen("TLS13_", "TLS_", 1)
        };
        let find = |wanted: &CipherSuite| {
            let wanted = serde_json::to_value(wanted).unwrap_or_default();
            all.iter().find(|suite| wanted.as_str() == Some(&name(suite))).copied()
        };
        provider.cipher_suites = tls.cipher_suites.iter().filter_map(find).collect();
    }
    provider
}

fn verifier(
    authorities: &Authorities,
    is_required: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let name = &authorities.name;
    let unusable = |error: &dyn std::fmt::Display| format!("authorities {name:?} cannot be used: {error}");
    let text = authorities.certificates.text().unwrap_or_default();
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(text.as_bytes()) {
        roots.add(root.map_err(|error| unusable(&error))?).map_err(|error| unusable(&error))?;
    }
    let mut lists = Vec::new();
    for revocation in authorities.revocations.iter().filter_map(|one| one.text()) {
        let blocks = pem::blocks(revocation)?;
        lists.extend(blocks.into_iter().map(|block| CertificateRevocationListDer::from(block.bytes)));
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).with_crls(lists);
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| unusable(&error))
}

/// A certificate, and the server names that it covers.
#[derive(Debug)]
struct Shown {
    certified: Arc<CertifiedKey>,
    names: HashSet<String>,
}

impl Shown {
    fn read(one: &Certificate) -> Result<Self, String> {
        let unusable = |error: &dyn std::fmt::Display| format!("certificate {:?} cannot be used: {error}", one.name);
        let chain = CertificateDer::pem_slice_iter(one.chain.text().unwrap_or_default().as_bytes());
        let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(|error| unusable(&error))?;
        let key = PrivateKeyDer::from_pem_slice(one.key.text().unwrap_or_default().as_bytes());
        let key = any_supported_type(&key.map_err(|error| unusable(&error))?).map_err(|error| unusable(&error))?;
        let leaf = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
        let names = leaf.map(|(_, leaf)| certificate::names(&leaf)).unwrap_or_default();
        let names = names.into_iter().map(|name| name.to_ascii_lowercase()).collect();
        let mut certified = CertifiedKey::new(chain, key);
        let response = one.ocsp_response.as_ref().and_then(|pem| pem.text()).map(pem::blocks).transpose()?;
        certified.ocsp = response.and_then(|blocks| blocks.into_iter().next()).map(|block| block.bytes);
        Ok(Self { certified: Arc::new(certified), names })
    }

    fn covers(&self, name: &str) -> bool {
        let wildcard = || name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        self.names.contains(name) || wildcard().is_some_and(|name| self.names.contains(&name))
    }
}

/// The certificates, in the operator's order.
#[derive(Debug)]
struct ByName {
    shown: Vec<Shown>,
    is_strict: bool,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        let covering: Vec<&Shown> = match name {
            Some(name) => self.shown.iter().filter(|one| one.covers(name)).collect(),
            None => Vec::new(),
        };
        let candidates = match covering.is_empty() {
            true if self.is_strict => return None,
            true => self.shown.iter().collect(),
            false => covering,
        };
        let schemes = hello.signature_schemes();
        let usable = candidates.iter().find(|one| one.certified.key.choose_scheme(schemes).is_some());
        usable.or(candidates.first()).map(|one| Arc::clone(&one.certified))
    }
}
