//! Tokens of every kind, right and wrong ones, and the sets of keys that they are verified with: RFC 7515, 7517, 7519.
//!
//! Made with ring alone, so that what the gateway verifies with is not what it is tried with. What a token says is the
//! story's business: headers and claims are whatever it wants.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use ring::{hmac, rsa};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Map, Value, json};

use super::pki;

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

/// As JOSE has it: base64url without padding.
pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// How tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    EdDsa,
    Es256,
    Rs256,
}

impl Algorithm {
    pub const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    /// As headers have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// A key that tokens are signed with, and its name.
pub struct Signer {
    pub key_id: String,
    algorithm: Algorithm,
    key: Key,
    private: Vec<u8>,
}

enum Key {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.algorithm.word(), self.key_id)
    }
}

impl Signer {
    /// A new key; of RSA there is one for a build directory, because making one takes long.
    pub fn new(algorithm: Algorithm, key_id: &str) -> Self {
        let random = SystemRandom::new();
        let private = match algorithm {
            Algorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&random).expect("a key").as_ref().to_vec(),
            Algorithm::Es256 => {
                let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
                made.expect("a key").as_ref().to_vec()
            }
            Algorithm::Rs256 => rsa_key().to_vec(),
        };
        let key = match algorithm {
            Algorithm::EdDsa => Key::Ed25519(Ed25519KeyPair::from_pkcs8(&private).expect("a key")),
            Algorithm::Es256 => {
                Key::P256(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &private, &random).expect("a key"))
            }
            Algorithm::Rs256 => Key::Rsa(Box::new(RsaKeyPair::from_pkcs8(&private).expect("a key"))),
        };
        Self { key_id: key_id.into(), algorithm, key, private }
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The private key as PKCS #8.
    pub fn private_pkcs8(&self) -> &[u8] {
        &self.private
    }

    /// The private key as PKCS #8, in PEM.
    pub fn private_pem(&self) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(&self.private);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }

    /// The public key as it stands in a set, RFC 7517 §4.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Key::Ed25519(key) => json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(key.public_key()) }),
            Key::P256(key) => {
                // An uncompressed point: 4, x, y.
                let point = key.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..]) })
            }
            Key::Rsa(key) => {
                let parts = rsa::PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({ "kty": "RSA", "n": base64url(parts.n), "e": base64url(parts.e) })
            }
        };
        jwk["kid"] = self.key_id.as_str().into();
        jwk["use"] = "sig".into();
        jwk["alg"] = self.algorithm.word().into();
        jwk
    }

    /// The bytes of the public key, as a confused verifier could take them for a secret: for RSA, its PEM.
    fn public_bytes(&self) -> Vec<u8> {
        match &self.key {
            Key::Ed25519(key) => key.public_key().as_ref().to_vec(),
            Key::P256(key) => key.public_key().as_ref().to_vec(),
            Key::Rsa(_) => rsa_public_pem().as_bytes().to_vec(),
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Key::P256(key) => key.sign(&random, message).expect("a signature").as_ref().to_vec(),
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("a signature");
                signature
            }
        }
    }
}

/// A set of public keys as text.
pub fn key_set(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }).to_string()
}

/// What a token says; right until something is changed about it.
#[derive(Debug, Clone)]
pub struct Token {
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl Token {
    /// Of this issuer, good from a minute ago for an hour, with a `jti` that no other has.
    pub fn of(issuer: &str) -> Self {
        let mut identity = [0; 16];
        ring::rand::SecureRandom::fill(&SystemRandom::new(), &mut identity).expect("randomness");
        let token = Self { header: Map::new(), claims: Map::new() };
        token
            .header("typ", "at+jwt")
            .claim("iss", issuer)
            .claim("iat", now_s() - 60)
            .claim("exp", now_s() + 3600)
            .claim("jti", base64url(identity))
    }

    /// Another value of a claim.
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }

    /// Without the claim.
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Another value in the header.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.into(), value.into());
        self
    }

    /// The value of a claim that is a text.
    #[track_caller]
    pub fn text(&self, name: &str) -> &str {
        self.claims[name].as_str().expect("a text")
    }

    /// Signed, with the algorithm and the key's name in the header unless the story has put others there.
    pub fn sign(&self, signer: &Signer) -> String {
        let message = self.message(Some(signer), signer.algorithm.word());
        let signature = signer.sign(message.as_bytes());
        format!("{message}.{}", base64url(signature))
    }

    /// Not signed, and says so.
    pub fn unsigned(&self, key_id: &str) -> String {
        format!("{}.", self.clone().header("kid", key_id).message(None, "none"))
    }

    /// Signed with the public key of somebody, as if that were a secret that both ends share: the oldest of the tricks.
    pub fn sign_with_public_key(&self, signer: &Signer) -> String {
        let message = self.message(Some(signer), "HS256");
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &signer.public_bytes()), message.as_bytes());
        format!("{message}.{}", base64url(tag))
    }

    fn message(&self, signer: Option<&Signer>, algorithm: &str) -> String {
        let mut header = self.header.clone();
        header.entry("alg").or_insert_with(|| algorithm.into());
        if let Some(signer) = signer {
            header.entry("kid").or_insert_with(|| signer.key_id.as_str().into());
        }
        let parts = [Value::Object(header), Value::Object(self.claims.clone())];
        parts.map(|part| base64url(part.to_string())).join(".")
    }
}

/// The same token with another bit in its signature: of the first byte, which no encoder may leave out.
pub fn tampered(token: &str) -> String {
    let (message, signature) = token.rsplit_once('.').expect("a token has three parts");
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    bytes[0] ^= 1;
    format!("{message}.{}", base64url(bytes))
}

/// The part of a token that must never be seen anywhere.
pub fn signature(token: &str) -> &str {
    token.rsplit_once('.').expect("a token has three parts").1
}

fn rsa_key() -> &'static [u8] {
    static KEY: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let key = PrivatePkcs8KeyDer::from_pem_file(rsa_file()).expect("a key in PEM");
        key.secret_pkcs8_der().to_vec()
    });
    &KEY
}

fn rsa_public_pem() -> &'static str {
    static PEM: LazyLock<String> = LazyLock::new(|| pki::public_pem(rsa_file()));
    &PEM
}

fn rsa_file() -> &'static Path {
    static FILE: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("token-signer.key");
        fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).expect("a directory can be made");
        let lock = File::create(file.with_extension("lock")).expect("a lock file can be made");
        lock.lock().expect("a file can be locked");
        if !file.exists() {
            let unfinished = file.with_extension("unfinished");
            pki::make_key(pki::Key::Rsa2048, &unfinished);
            fs::rename(&unfinished, &file).expect("a file can be renamed");
        }
        file
    });
    &FILE
}
