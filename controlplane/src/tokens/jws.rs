//! Signed tokens, RFC 7515 in its compact form: keys that sign, and public keys that check.
//!
//! ring does the arithmetic, directly: three ways to sign and a header that is always the same need no library of their
//! own, and no provider that would be the whole process's. What claims mean is the caller's to say.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use proto::snapshot::SigningAlgorithm;
use ring::rand::SecureRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};

use crate::material::certificate;

/// The smallest RSA key that may sign.
const RSA_BITS_MIN: usize = 2048;

/// A public key, RFC 7517, with what is needed to check a signature and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Jwk {
    /// The key's name; tokens say which key signed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// The kind of key: `OKP`, `EC` or `RSA`.
    pub kty: String,
    /// The algorithm; an RSA key may leave it open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// What the key is for: `sig`.
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// The curve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    /// A point's first coordinate, or the whole key of `OKP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// A point's second coordinate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// RSA's modulus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// RSA's exponent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
}

impl Jwk {
    fn new(kty: &str) -> Self {
        let (purpose, kty) = (Some("sig".into()), kty.into());
        Self { kid: None, kty, alg: None, purpose, crv: None, x: None, y: None, n: None, e: None }
    }

    /// Gives it its name: the thumbprint of RFC 7638, so that the same key has the same name everywhere.
    fn named(mut self) -> Self {
        // The required members in the order of their names, without blanks.
        let members = [("crv", &self.crv), ("e", &self.e), ("kty", &Some(self.kty.clone())), ("n", &self.n)];
        let members = members.into_iter().chain([("x", &self.x), ("y", &self.y)]);
        let members = members.filter_map(|(name, value)| Some(format!("\"{name}\":\"{}\"", value.as_ref()?)));
        let text = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
        self.kid = Some(BASE64.encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes())));
        self
    }

    /// Whether the signature is this key's, made by this algorithm.
    pub fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        self.check(algorithm, message, signature).is_some()
    }

    fn check(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Option<()> {
        if self.alg.as_deref().is_some_and(|own| own != algorithm) {
            return None;
        }
        let bytes = |member: &Option<String>| BASE64.decode(member.as_ref()?).ok();
        let point = || Some([vec![4], bytes(&self.x)?, bytes(&self.y)?].concat());
        let crv = self.crv.as_deref();
        let verified = match (algorithm, self.kty.as_str(), crv) {
            ("EdDSA", "OKP", Some("Ed25519")) => {
                UnparsedPublicKey::new(&ED25519, bytes(&self.x)?).verify(message, signature)
            }
            ("ES256", "EC", Some("P-256")) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point()?).verify(message, signature)
            }
            ("ES384", "EC", Some("P-384")) => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point()?).verify(message, signature)
            }
            (_, "RSA", None) => {
                let rule = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return None,
                };
                let key = RsaPublicKeyComponents { n: bytes(&self.n)?, e: bytes(&self.e)? };
                key.verify(rule, message, signature)
            }
            _ => return None,
        };
        verified.ok()
    }
}

/// The name of an algorithm, RFC 7518 §3.1 and RFC 8037.
pub fn name(algorithm: SigningAlgorithm) -> &'static str {
    match algorithm {
        SigningAlgorithm::EdDsa => "EdDSA",
        SigningAlgorithm::Es256 => "ES256",
        SigningAlgorithm::Rs256 => "RS256",
    }
}

/// The algorithm of a name.
pub fn algorithm(name: &str) -> Option<SigningAlgorithm> {
    let all = [SigningAlgorithm::EdDsa, SigningAlgorithm::Es256, SigningAlgorithm::Rs256];
    all.into_iter().find(|one| self::name(*one) == name)
}

/// A private key that signs. `Debug` shows its public half only.
pub struct SigningKey {
    pair: Pair,
    public: Jwk,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// A new key as PKCS#8; none for RSA, whose keys ring does not make, or without randomness.
    pub fn generate(algorithm: SigningAlgorithm, random: &dyn SecureRandom) -> Option<Vec<u8>> {
        let document = match algorithm {
            SigningAlgorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(random),
            SigningAlgorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, random),
            SigningAlgorithm::Rs256 => return None,
        };
        Some(document.ok()?.as_ref().to_vec())
    }

    /// Of a key as PKCS#8; the error is a sentence that holds nothing of it.
    pub fn of_pkcs8(algorithm: SigningAlgorithm, bytes: &[u8]) -> Result<Self, String> {
        let random = ring::rand::SystemRandom::new();
        let pair = match algorithm {
            SigningAlgorithm::EdDsa => {
                // Other tools write no public half.
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes);
                Pair::Ed25519(pair.map_err(|_| "it is not an Ed25519 key, which EdDSA needs")?)
            }
            SigningAlgorithm::Es256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes, &random);
                Pair::P256(pair.map_err(|_| "it is not a whole EC key on P-256, which ES256 needs")?)
            }
            SigningAlgorithm::Rs256 => {
                let pair = RsaKeyPair::from_pkcs8(bytes);
                return Self::of_rsa(pair.map_err(|_| "it is not an RSA key of 2048 to 4096 bits, which RS256 needs")?);
            }
        };
        Ok(Self::with(pair))
    }

    /// Of an operator's PEM text; the error is a sentence that holds nothing of it.
    pub fn of_pem(algorithm: SigningAlgorithm, text: &str) -> Result<Self, String> {
        let key = certificate::private_key(text.as_bytes())?;
        match key.label.as_str() {
            "PRIVATE KEY" => Self::of_pkcs8(algorithm, &key.bytes),
            "RSA PRIVATE KEY" if algorithm == SigningAlgorithm::Rs256 => {
                let pair = RsaKeyPair::from_der(&key.bytes);
                Self::of_rsa(pair.map_err(|_| "it is not an RSA key of 2048 to 4096 bits, which RS256 needs")?)
            }
            other => Err(format!(
                "a key of the form {other} is of no use with {}; `openssl pkey -in FILE -out FILE.pem` writes PRIVATE KEY",
                name(algorithm)
            )),
        }
    }

    fn of_rsa(pair: RsaKeyPair) -> Result<Self, String> {
        if pair.public().modulus_len() * 8 < RSA_BITS_MIN {
            return Err(format!("an RSA key has at least {RSA_BITS_MIN} bits"));
        }
        Ok(Self::with(Pair::Rsa(pair)))
    }

    fn with(pair: Pair) -> Self {
        let public = match &pair {
            Pair::Ed25519(pair) => Jwk {
                crv: Some("Ed25519".into()),
                x: Some(BASE64.encode(pair.public_key())),
                alg: Some("EdDSA".into()),
                ..Jwk::new("OKP")
            },
            Pair::P256(pair) => {
                // Uncompressed: 4, x, y.
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                Jwk {
                    crv: Some("P-256".into()),
                    x: Some(BASE64.encode(x)),
                    y: Some(BASE64.encode(y)),
                    alg: Some("ES256".into()),
                    ..Jwk::new("EC")
                }
            }
            Pair::Rsa(pair) => {
                let PublicKeyComponents::<Vec<u8>> { n, e } = pair.public().into();
                let (n, e) = (Some(BASE64.encode(n)), Some(BASE64.encode(e)));
                Jwk { n, e, alg: Some("RS256".into()), ..Jwk::new("RSA") }
            }
        };
        Self { pair, public: public.named() }
    }

    /// The public half, with its name.
    pub fn public(&self) -> &Jwk {
        &self.public
    }

    /// Its name.
    pub fn kid(&self) -> &str {
        self.public.kid.as_deref().expect("a signing key's public half is named")
    }

    /// A token of this type with these claims.
    pub fn sign(&self, kind: &str, claims: &impl Serialize) -> Result<String, SignError> {
        let algorithm = self.public.alg.as_deref().expect("a signing key's public half has its algorithm");
        let header = serde_json::json!({ "alg": algorithm, "kid": self.kid(), "typ": kind });
        let claims = serde_json::to_vec(claims).map_err(|_| SignError)?;
        let mut token = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims));
        let signature = self.signature(token.as_bytes()).ok_or(SignError)?;
        token.push('.');
        BASE64.encode_string(signature, &mut token);
        Ok(token)
    }

    fn signature(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = ring::rand::SystemRandom::new();
        match &self.pair {
            Pair::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
            Pair::P256(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
                Some(signature)
            }
        }
    }
}

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("the token cannot be signed; is there randomness?")]
pub struct SignError;

/// A token in its parts, of which nothing has been believed yet.
#[derive(Debug)]
pub struct Jws<'t> {
    /// What stands before the signature.
    signed: &'t str,
    /// The header.
    pub header: serde_json::Map<String, serde_json::Value>,
    /// The claims.
    pub claims: serde_json::Map<String, serde_json::Value>,
    signature: Vec<u8>,
}

impl<'t> Jws<'t> {
    /// Takes a token apart; none, if it is not a JWT in compact form.
    pub fn read(token: &'t str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |text: &str| serde_json::from_slice(&BASE64.decode(text).ok()?).ok();
        Some(Self {
            signed,
            header: object(header)?,
            claims: object(claims)?,
            signature: BASE64.decode(signature).ok()?,
        })
    }

    /// A member of the header that is text.
    pub fn said(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.as_str()
    }

    /// Whether one of these keys has signed it: the one that it names, or any where it names none.
    pub fn is_signed_by<'k>(&self, keys: impl IntoIterator<Item = &'k Jwk>) -> bool {
        let Some(algorithm) = self.said("alg") else { return false };
        // What is marked as critical is not understood here, RFC 7515 §4.1.11.
        if self.header.contains_key("crit") {
            return false;
        }
        let kid = self.said("kid");
        let mut named = keys.into_iter().filter(|key| kid.is_none() || key.kid.as_deref() == kid);
        named.any(|key| key.verifies(algorithm, self.signed.as_bytes(), &self.signature))
    }
}
