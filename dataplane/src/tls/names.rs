//! Which certificate a client is shown: by the server name that it asks for (RFC 6066 §3), and by what it can verify.
//!
//! Built once for a listener; a handshake costs one or two look-ups. rustls gives server names in lower case.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::material::Identity;

/// Every scheme by which a key of ours could sign.
const SCHEMES: [SignatureScheme; 9] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

/// The certificates of a listener, by name.
#[derive(Debug)]
pub struct ByName {
    /// In the order of the configuration; at least one.
    shown: Vec<Shown>,
    /// Whole names, and behind `*.` what follows it: indices of `shown`, in its order.
    exact: HashMap<String, Vec<usize>>,
    wildcard: HashMap<String, Vec<usize>>,
    strict: bool,
}

#[derive(Debug)]
struct Shown {
    certified: Arc<CertifiedKey>,
    schemes: Vec<SignatureScheme>,
}

impl ByName {
    /// Of these certificates, the first of which is shown where no name decides, unless `strict`.
    pub fn new(identities: &[Arc<Identity>], strict: bool) -> Self {
        let mut names = Self { shown: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new(), strict };
        for (at, identity) in identities.iter().enumerate() {
            let key = &identity.certified.key;
            let schemes = SCHEMES.into_iter().filter(|scheme| key.choose_scheme(&[*scheme]).is_some()).collect();
            names.shown.push(Shown { certified: Arc::clone(&identity.certified), schemes });
            for name in &identity.names {
                let places = match name.strip_prefix("*.") {
                    Some(parent) => names.wildcard.entry(parent.into()),
                    None => names.exact.entry(name.clone()),
                };
                let places = places.or_default();
                if !places.contains(&at) {
                    places.push(at);
                }
            }
        }
        names
    }

    fn choose(&self, server_name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let covering = server_name.and_then(|name| {
            let parent = || name.split_once('.').map(|(_, parent)| parent);
            self.exact.get(name).or_else(|| self.wildcard.get(parent()?))
        });
        match covering {
            Some(places) => self.first_of(places.iter().copied(), schemes),
            None if self.strict => None,
            None => self.first_of(0..self.shown.len(), schemes),
        }
    }

    /// The first that the client can verify; if there is none, the first, and rustls says what is not in common.
    fn first_of(
        &self,
        mut places: impl Iterator<Item = usize> + Clone,
        schemes: &[SignatureScheme],
    ) -> Option<&Arc<CertifiedKey>> {
        let verifiable = |at: &usize| self.shown[*at].schemes.iter().any(|scheme| schemes.contains(scheme));
        let at = places.clone().find(verifiable).or_else(|| places.next())?;
        Some(&self.shown[at].certified)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes()).cloned()
    }
}
