//! Whose tokens are believed: the issuers of one generation, with their public keys ready to verify by.
//!
//! Built with the tables; an issuer that still says the same is the same entry, so that a token that was verified is
//! known by the entry it was verified with. A key that cannot be used is left out and said in the log: its tokens are
//! refused, and everybody else's are not. What a token says is read in [`authenticate`](crate::authenticate).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto::limits::JWKS_KEYS_MAX;
use proto::snapshot::{Issuer, Snapshot};
use ring::signature::{self, UnparsedPublicKey};
use rustls::ClientConfig;
use serde::Deserialize;
use serde_json::Value;

use crate::identity::Fault;
use crate::tls::{self, Terms};

/// How a token may be signed: RFC 7518 §3.1, RFC 8037. No key that two sides know is among them, and not "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// ECDSA with P-384 and SHA-384.
    Es384,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
}

impl Algorithm {
    /// Of its name in a header or a key.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            // RFC 9864 gives the same algorithm a name of its own.
            "EdDSA" | "Ed25519" => Self::EdDsa,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            _ => return None,
        })
    }
}

/// The issuers of one generation, in the order of their names.
#[derive(Debug, Default)]
pub struct Issuers(Vec<Arc<Believed>>);

/// An issuer with its keys.
#[derive(Debug)]
pub struct Believed {
    /// Its name here.
    pub name: Arc<str>,
    /// What the operator wrote.
    pub config: Issuer,
    /// How TLS is spoken where it is asked about tokens; none where it cannot be asked.
    pub tls: Option<Arc<ClientConfig>>,
    keys: Vec<Key>,
}

/// A public key, and what it is for.
#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// What the set says that it is for; none: whatever its kind can do.
    algorithm: Option<Algorithm>,
    public: Public,
}

#[derive(Debug)]
enum Public {
    Ed25519(Vec<u8>),
    P256(Vec<u8>),
    P384(Vec<u8>),
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
}

impl Issuers {
    /// Of a snapshot and its terms of TLS, with the entries before it that still say the same.
    pub fn build(snapshot: &Snapshot, terms: &Terms, previous: Option<&Self>) -> Self {
        let build = |issuer: &Issuer| {
            let held = previous.and_then(|issuers| {
                let is_same = |held: &&Arc<Believed>| {
                    let tls = tls_of(issuer, terms);
                    held.config == *issuer && held.tls.as_ref().map(Arc::as_ptr) == tls.as_ref().map(Arc::as_ptr)
                };
                issuers.named(&issuer.name).filter(is_same)
            });
            held.map_or_else(|| Arc::new(Believed::new(issuer.clone(), terms)), Arc::clone)
        };
        Self(snapshot.issuers().iter().map(build).collect())
    }

    /// An issuer by its name here.
    pub fn named(&self, name: &str) -> Option<&Arc<Believed>> {
        self.0.binary_search_by(|one| one.config.name.as_str().cmp(name)).ok().map(|at| &self.0[at])
    }

    /// The issuer whose tokens say this, RFC 7519 §4.1.1.
    pub fn saying(&self, iss: &str) -> Option<&Arc<Believed>> {
        self.0.iter().find(|one| one.config.issuer == iss)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Believed>> {
        self.0.iter()
    }

    /// Whether this very entry is still among them.
    pub fn holds(&self, believed: &Arc<Believed>) -> bool {
        self.named(&believed.name).is_some_and(|one| Arc::ptr_eq(one, believed))
    }
}

/// With whom its authorities vouch for; where nothing is sealed, nobody needs to.
fn tls_of(issuer: &Issuer, terms: &Terms) -> Option<Arc<ClientConfig>> {
    let asked = issuer.introspection.as_ref()?;
    if asked.url.starts_with("https:") {
        terms.caller(&asked.authorities).cloned()
    } else {
        Some(Arc::clone(tls::nobody_trusted()))
    }
}

impl Believed {
    /// An issuer as it was written, with what can be used of its keys.
    pub fn new(config: Issuer, terms: &Terms) -> Self {
        if config.audiences.is_empty() {
            tracing::warn!(
                issuer = config.name,
                "this issuer has no audiences: tokens that it made for others are believed, too"
            );
        }
        let keys = match config.jwks.as_ref().map(|jwks| jwks.text()) {
            None => Vec::new(),
            Some(None) => {
                tracing::warn!(issuer = config.name, "the keys of this issuer are not here: its JWTs are refused");
                Vec::new()
            }
            Some(Some(text)) => keys(&config.name, text),
        };
        let tls = tls_of(&config, terms);
        Self { name: config.name.as_str().into(), tls, config, keys }
    }

    /// Whether `signed` has this signature of the key that a token names; of the only one that fits, where it names
    /// none. The algorithm must be the key's: a token does not choose how it is verified.
    pub fn verify(
        &self,
        key_id: Option<&str>,
        algorithm: Algorithm,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), Fault> {
        let is_meant = |key: &&Key| key_id.is_none_or(|id| key.id.as_deref() == Some(id));
        let mut meant = self.keys.iter().filter(is_meant).peekable();
        if meant.peek().is_none() {
            return Err(Fault::UnknownKeyId);
        }
        let mut fitting = meant.filter(|key| key.is_for(algorithm));
        let key = fitting.next().ok_or(Fault::Algorithm)?;
        if fitting.next().is_some() {
            return Err(Fault::UnknownKeyId);
        }
        if key.public.verifies(algorithm, signed, signature) { Ok(()) } else { Err(Fault::Signature) }
    }
}

impl Key {
    fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|own| own == algorithm) && self.public.can(algorithm)
    }
}

impl Public {
    fn can(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match self {
            Self::Ed25519(_) => algorithm == EdDsa,
            Self::P256(_) => algorithm == Es256,
            Self::P384(_) => algorithm == Es384,
            Self::Rsa { .. } => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
        }
    }

    /// False, too, where the algorithm is none of this key.
    fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let plain = |how: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(how, key).verify(signed, signature).is_ok()
        };
        match (self, algorithm) {
            (Self::Ed25519(key), Algorithm::EdDsa) => plain(&signature::ED25519, key),
            (Self::P256(key), Algorithm::Es256) => plain(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Self::P384(key), Algorithm::Es384) => plain(&signature::ECDSA_P384_SHA384_FIXED, key),
            (Self::Rsa { modulus, exponent }, algorithm) => {
                let key = signature::RsaPublicKeyComponents { n: modulus, e: exponent };
                rsa(algorithm).is_some_and(|how| key.verify(how, signed, signature).is_ok())
            }
            _ => false,
        }
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static signature::RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        Algorithm::EdDsa | Algorithm::Es256 | Algorithm::Es384 => return None,
    })
}

/// A set of keys, RFC 7517 §5. Each is read for itself: one that is odd does not take the others with it.
#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

fn keys(issuer: &str, text: &str) -> Vec<Key> {
    let set: Set = match serde_json::from_str(text) {
        Ok(set) => set,
        Err(error) => {
            tracing::warn!(issuer, %error, "the keys of this issuer are no key set: its JWTs are refused");
            return Vec::new();
        }
    };
    if set.keys.len() > JWKS_KEYS_MAX {
        tracing::warn!(issuer, "of the {} keys of this issuer only {JWKS_KEYS_MAX} are used", set.keys.len());
    }
    let mut keys = Vec::new();
    for (at, value) in set.keys.into_iter().take(JWKS_KEYS_MAX).enumerate() {
        match serde_json::from_value(value).map_err(|_| "it is no JWK").and_then(key) {
            Ok(key) => keys.push(key),
            Err(why) => tracing::warn!(issuer, "key {at} of this issuer is not used: {why}"),
        }
    }
    keys
}

/// A key that signatures of tokens can be verified by, or why it is none.
fn key(jwk: Jwk) -> Result<Key, &'static str> {
    if jwk.usage.is_some_and(|usage| usage != "sig")
        || jwk.key_ops.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify"))
    {
        return Err("it is not for signatures");
    }
    let octets = |text: Option<String>| {
        let text = text.ok_or("it is not complete")?;
        URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| "it is not in base64url")
    };
    let sized = |text, bytes: usize| {
        let octets = octets(text)?;
        if octets.len() == bytes { Ok(octets) } else { Err("it has not the length of its curve") }
    };
    let point = |bytes| Ok::<_, &str>([vec![4], sized(jwk.x.clone(), bytes)?, sized(jwk.y.clone(), bytes)?].concat());
    let public = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("OKP", Some("Ed25519")) => Public::Ed25519(sized(jwk.x.clone(), 32)?),
        ("EC", Some("P-256")) => Public::P256(point(32)?),
        ("EC", Some("P-384")) => Public::P384(point(48)?),
        ("RSA", _) => {
            let (modulus, exponent) = (without_zeros(octets(jwk.n)?), without_zeros(octets(jwk.e)?));
            if !(256..=1024).contains(&modulus.len()) || exponent.is_empty() {
                return Err("an RSA key has 2048 to 8192 bits here");
            }
            Public::Rsa { modulus, exponent }
        }
        ("oct", _) => return Err("a secret that both sides know is no public key"),
        _ => return Err("keys of its kind or curve are not known here"),
    };
    let algorithm = match jwk.alg {
        Some(name) => Some(Algorithm::named(&name).ok_or("its algorithm is not known here")?),
        None => None,
    };
    if algorithm.is_some_and(|algorithm| !public.can(algorithm)) {
        return Err("its algorithm is none of its kind");
    }
    Ok(Key { id: jwk.kid, algorithm, public })
}

/// Some write the sign octet of ASN.1 with it.
fn without_zeros(mut number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|octet| **octet == 0).count();
    number.drain(..zeros);
    number
}
