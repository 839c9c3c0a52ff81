//! The backend assertion: a short-lived JWT (RFC 7519) that tells the endpoint, signed, who the client is and where it
//! came in.
//!
//! It is signed for every handshake and kept nowhere. Names of its claims are those that WSO2's backend JWT has behind its
//! dialect; how a backend verifies it is in docs/policies.md. Measured in a build without optimisation, the whole
//! assertion, the best of 300: Ed25519 91 µs, ES256 35 µs, RS256 with 2048 bits 565 µs.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto::errors::with_sources;
use proto::snapshot::{Assertion, Environment, Snapshot, UNLIMITED_PLAN};
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::SigningKey;
use serde::Serialize;

use super::Client;
use crate::identity::Grant;
use crate::route::Route;

/// Bytes of each of the two numbers of an ECDSA signature on P-256.
const P256_BYTES: usize = 32;

/// Everybody who signs for backends, by name.
#[derive(Debug, Default)]
pub struct Signers(HashMap<String, Arc<Signer>>);

/// Signs assertions with one key.
pub struct Signer {
    config: Assertion,
    key: Arc<dyn SigningKey>,
    scheme: SignatureScheme,
    /// The header of the JWT, encoded.
    head: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("name", &self.config.name).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
enum SignerError {
    #[error("its key is a path, and not the content of a file")]
    Path,
    #[error("its key is no PEM text of a private key")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("its key is damaged, or of a kind that cannot be used")]
    Key(#[source] rustls::Error),
    #[error("its key is of a kind that signs no JWT; use Ed25519, EC on P-256, or RSA")]
    Kind,
}

/// The header of a JWT, RFC 7515 §4.1.
#[derive(Serialize)]
struct Head<'a> {
    typ: &'static str,
    alg: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    kid: &'a str,
}

/// What is asserted.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<&'a str>,
    apiname: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    apicontext: String,
    topic: &'a str,
    keytype: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
}

impl Signers {
    /// Of a snapshot, with those of the one before that say the same; or every reason why they cannot sign.
    pub fn build(snapshot: &Snapshot, previous: Option<&Self>) -> Result<Self, Vec<String>> {
        let (mut signers, mut reasons) = (HashMap::new(), Vec::new());
        for assertion in snapshot.assertions() {
            let held = previous.and_then(|signers| signers.0.get(&assertion.name));
            let signer = match held.filter(|held| held.config == *assertion) {
                Some(held) => Ok(Arc::clone(held)),
                None => Signer::of(assertion).map(Arc::new),
            };
            match signer {
                Ok(signer) => _ = signers.insert(assertion.name.clone(), signer),
                Err(fault) => reasons.push(format!("assertion {:?}: {}", assertion.name, with_sources(&fault))),
            }
        }
        if reasons.is_empty() { Ok(Self(signers)) } else { Err(reasons) }
    }

    /// One by its name.
    pub fn signer(&self, name: &str) -> Option<&Arc<Signer>> {
        self.0.get(name)
    }
}

impl Signer {
    fn of(assertion: &Assertion) -> Result<Self, SignerError> {
        let pem = assertion.key.text().ok_or(SignerError::Path)?;
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(SignerError::Pem)?;
        let key = any_supported_type(&der).map_err(SignerError::Key)?;
        let (scheme, alg) = [
            (SignatureScheme::ED25519, "EdDSA"),
            (SignatureScheme::ECDSA_NISTP256_SHA256, "ES256"),
            (SignatureScheme::RSA_PKCS1_SHA256, "RS256"),
        ]
        .into_iter()
        .find(|(scheme, _)| key.choose_scheme(&[*scheme]).is_some())
        .ok_or(SignerError::Kind)?;
        let head = encoded(&Head { typ: "JWT", alg, kid: &assertion.key_id });
        Ok(Self { config: assertion.clone(), key, scheme, head })
    }

    /// The header that carries it.
    pub(super) fn header(&self) -> &str {
        &self.config.header
    }

    /// The assertion of a client on its way to the endpoint; nothing if it could not be signed.
    pub(super) fn sign(&self, client: &Client<'_>, route: &Route, now_s: u64, id: [u8; 16]) -> Option<String> {
        let grant = client.identity.grant.as_deref();
        let application = grant.and_then(|grant| grant.application.as_deref());
        let snapshot = client.tables.snapshot();
        let subscription = application.and_then(|name| snapshot.subscription(name, &route.api.label));
        let plan = subscription.map(|one| one.plan.as_str());
        self.jws(&Claims {
            iss: &self.config.issuer,
            iat: now_s,
            exp: now_s + self.config.lifetime.as_ms().div_ceil(1000),
            jti: format!("{:032x}", u128::from_be_bytes(id)),
            sub: grant.and_then(subject),
            client_id: grant.and_then(|grant| grant.client.as_deref()),
            application,
            tier: plan.filter(|plan| *plan != UNLIMITED_PLAN),
            apiname: &route.api.api.name,
            version: &route.api.api.version,
            apicontext: route.api.api.path(),
            topic: &route.topic,
            keytype: match route.environment {
                Environment::Production => "PRODUCTION",
                Environment::Sandbox => "SANDBOX",
            },
            scope: grant.map(|grant| grant.scopes.join(" ")).unwrap_or_default(),
        })
    }

    fn jws(&self, claims: &Claims<'_>) -> Option<String> {
        let mut jws = format!("{}.{}", self.head, encoded(claims));
        let signer = self.key.choose_scheme(&[self.scheme])?;
        let mut signature = signer.sign(jws.as_bytes()).ok()?;
        if self.scheme == SignatureScheme::ECDSA_NISTP256_SHA256 {
            signature = fixed(&signature)?;
        }
        jws.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut jws);
        Some(jws)
    }
}

/// The user; where there is none the client, and where there is none of those the application.
fn subject(grant: &Grant) -> Option<&str> {
    grant.user.as_deref().or(grant.client.as_deref()).or(grant.application.as_deref())
}

fn encoded(value: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).expect("plain fields can be written as JSON"))
}

/// RFC 7518 §3.4 wants the two numbers one after the other; TLS has them in DER: a sequence of two integers.
fn fixed(der: &[u8]) -> Option<Vec<u8>> {
    let [0x30, length, numbers @ ..] = der else { return None };
    if numbers.len() != usize::from(*length) {
        return None;
    }
    let (r, rest) = integer(numbers)?;
    let (s, rest) = integer(rest)?;
    if !rest.is_empty() {
        return None;
    }
    let mut signature = vec![0; 2 * P256_BYTES];
    for (number, end) in [(r, P256_BYTES), (s, 2 * P256_BYTES)] {
        signature[end - number.len()..end].copy_from_slice(number);
    }
    Some(signature)
}

/// A positive integer of at most 32 bytes, without the zeros before it; and what follows.
fn integer(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let [0x02, length, rest @ ..] = der else { return None };
    let (number, rest) = rest.split_at_checked(usize::from(*length))?;
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = &number[zeros..];
    (number.len() <= P256_BYTES).then_some((number, rest))
}

#[cfg(test)]
mod tests {
    use proto::snapshot::{Duration, Pem};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData};
    use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};

    use super::*;

    fn assertion(key: &str) -> Assertion {
        Assertion {
            name: "backends".into(),
            issuer: "https://gateway".into(),
            key: Pem::new(key.into()),
            key_id: "k1".into(),
            header: "X-JWT-Assertion".into(),
            lifetime: Duration::from_secs(60),
        }
    }

    fn claims() -> Claims<'static> {
        Claims {
            iss: "https://gateway",
            iat: 1,
            exp: 61,
            jti: "1".into(),
            sub: Some("alice"),
            client_id: None,
            application: Some("app"),
            tier: None,
            apiname: "chat",
            version: "v1",
            apicontext: "/chat/v1".into(),
            topic: "/*",
            keytype: "PRODUCTION",
            scope: "a b".into(),
        }
    }

    #[test]
    fn assertions_are_signed_as_their_keys_are() {
        for (kind, alg) in [(&PKCS_ED25519, "EdDSA"), (&PKCS_ECDSA_P256_SHA256, "ES256")] {
            let pair = KeyPair::generate_for(kind).unwrap();
            let signer = Signer::of(&assertion(&pair.serialize_pem())).unwrap();
            // Numbers that begin with zeros are seldom, and come among so many.
            for _ in 0..300 {
                let jws = signer.jws(&claims()).unwrap();
                let (signed, signature) = jws.rsplit_once('.').unwrap();
                let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
                let verified = if alg == "ES256" {
                    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.der_bytes())
                        .verify(signed.as_bytes(), &signature)
                } else {
                    UnparsedPublicKey::new(&ED25519, pair.der_bytes()).verify(signed.as_bytes(), &signature)
                };
                assert!(verified.is_ok(), "{alg}");
            }
            let jws = signer.jws(&claims()).unwrap();
            let head = URL_SAFE_NO_PAD.decode(jws.split('.').next().unwrap()).unwrap();
            let head: serde_json::Value = serde_json::from_slice(&head).unwrap();
            assert_eq!(head, serde_json::json!({ "typ": "JWT", "alg": alg, "kid": "k1" }));
        }
    }

    #[test]
    fn keys_that_sign_no_jwt_are_refused() {
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        assert!(matches!(Signer::of(&assertion(&p384)), Err(SignerError::Kind)));
        assert!(matches!(Signer::of(&assertion("/a/path")), Err(SignerError::Path)));
        let damaged = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(matches!(Signer::of(&assertion(damaged)), Err(SignerError::Key(_))));
        assert!(matches!(Signer::of(&assertion("-----BEGIN X-----\n")), Err(SignerError::Pem(_))));
    }

    #[test]
    fn a_signer_shows_no_key() {
        let pem = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem();
        let shown = format!("{:?}", Signer::of(&assertion(&pem)).unwrap());
        assert_eq!(shown, "Signer { name: \"backends\", .. }");
    }

    #[test]
    fn signatures_that_are_no_pair_of_numbers_are_none() {
        for der in
            [&[][..], &[0x30, 0], &[0x30, 3, 2, 1], &[0x30, 6, 2, 1, 1, 2, 2, 1], &[0x30, 7, 2, 1, 1, 2, 1, 1, 0]]
        {
            assert_eq!(fixed(der), None, "{der:?}");
        }
        let small = fixed(&[0x30, 6, 2, 1, 1, 2, 1, 2]).unwrap();
        assert_eq!((small[31], small[63], small.iter().filter(|byte| **byte != 0).count()), (1, 2, 2));
    }
}
