//! Key stores and trust stores of other programs: PKCS#12 (RFC 7292) and Java's JKS, as keys, chains and authorities.
//!
//! Takes bytes and passwords; files and what is said to people are the verb's.

mod ec;
mod jks;

use std::sync::Arc;

use p12_keystore::Pkcs12Archive;
use p12_keystore::error::Error as Pkcs12Error;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Larger files are no key stores.
pub const FILE_BYTES_MAX: usize = 16 << 20;
/// More certificates or keys are no key store either.
const ENTRIES_MAX: usize = 10_000;

/// Why a store cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// Neither form.
    #[error("it is neither PKCS#12 nor JKS")]
    Unknown,
    /// The store's password is another one, or the store has been altered.
    #[error("the password is wrong, or the file is damaged")]
    Password,
    /// A key has a password of its own.
    #[error("the key {0:?} has another password than the store; --key-password-file names it")]
    KeyPassword(String),
    /// It breaks off, or says what cannot be.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It uses something that is not understood.
    #[error("it cannot be read")]
    Pkcs12(#[source] Pkcs12Error),
    /// A private key of a kind that TLS is not spoken with here.
    #[error("the key {alias:?} is of no use: EC P-256 and P-384, Ed25519, and RSA of 2048 bits or more are")]
    Key {
        /// Which.
        alias: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// No certificate of the store is for the key.
    #[error("the store has no certificate for the key {0:?}")]
    NoCertificate(String),
}

/// What is in a store.
#[derive(Debug, Default)]
pub struct Keystore {
    /// Private keys with their chains.
    pub keys: Vec<KeyEntry>,
    /// Certificates that are in nobody's chain, each once.
    pub authorities: Vec<Authority>,
}

/// A private key and the certificates that go with it.
pub struct KeyEntry {
    /// What the store calls it.
    pub alias: String,
    /// PKCS#8.
    pub key: PrivatePkcs8KeyDer<'static>,
    /// The key's own certificate first; without the authority that signs itself.
    pub chain: Vec<CertificateDer<'static>>,
}

impl std::fmt::Debug for KeyEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyEntry").field("alias", &self.alias).finish_non_exhaustive()
    }
}

/// A certificate that others are believed by.
#[derive(Debug)]
pub struct Authority {
    /// What the store calls it.
    pub alias: String,
    /// The certificate.
    pub certificate: CertificateDer<'static>,
}

impl Keystore {
    /// Reads a store of either form. Keys may have a password of their own in a JKS.
    pub fn read(bytes: &[u8], password: &str, key_password: &str) -> Result<Self, KeystoreError> {
        let contents = match bytes {
            [0xfe, 0xed, 0xfe, 0xed, ..] => jks::read(bytes, password, key_password)?,
            [0x30, ..] => pkcs12(bytes, password)?,
            _ => return Err(KeystoreError::Unknown),
        };
        contents.sorted()
    }
}

/// Keys and certificates as they stand in a store, related by nothing but what they are.
#[derive(Default)]
struct Contents {
    keys: Vec<(String, Vec<u8>)>,
    certificates: Vec<(String, Vec<u8>)>,
}

fn pkcs12(bytes: &[u8], password: &str) -> Result<Contents, KeystoreError> {
    // Not by the policies of the library: one of them leaves out trust stores that openssl has made.
    let archive = Pkcs12Archive::from_pkcs12(bytes, password).map_err(|error| match error {
        Pkcs12Error::MacError(_) | Pkcs12Error::Pkcs5Error(_) | Pkcs12Error::UnpadError => KeystoreError::Password,
        other => KeystoreError::Pkcs12(other),
    })?;
    let named =
        |name: Option<String>, what: &str, index: usize| name.unwrap_or_else(|| format!("{what}-{}", index + 1));
    let keys = archive.keys.into_iter().enumerate();
    let certificates = archive.certs.into_iter().enumerate();
    Ok(Contents {
        keys: keys.map(|(at, bag)| (named(bag.friendly_name, "key", at), bag.key.as_der().to_vec())).collect(),
        certificates: certificates
            .map(|(at, bag)| (named(bag.friendly_name, "certificate", at), bag.cert.as_der().to_vec()))
            .collect(),
    })
}

impl Contents {
    /// Finds each key's certificate by its public key, and those above it by their names.
    fn sorted(self) -> Result<Keystore, KeystoreError> {
        if self.keys.len() + self.certificates.len() > ENTRIES_MAX {
            return Err(KeystoreError::Damaged("it has too many entries"));
        }
        let mut parsed = Vec::with_capacity(self.certificates.len());
        for (_, der) in &self.certificates {
            let (_, one) =
                X509Certificate::from_der(der).map_err(|_| KeystoreError::Damaged("a certificate is none"))?;
            parsed.push(one);
        }
        let mut in_a_chain = vec![false; parsed.len()];
        let mut keys: Vec<KeyEntry> = Vec::new();
        for (alias, der) in &self.keys {
            let key = PrivatePkcs8KeyDer::from(ec::completed(der, &parsed).unwrap_or_else(|| der.clone()));
            let spki = public_key(&key).map_err(|source| KeystoreError::Key { alias: alias.clone(), source })?;
            let own = parsed.iter().position(|one| Some(one.public_key().raw) == spki.as_deref());
            let mut at = own.ok_or_else(|| KeystoreError::NoCertificate(alias.clone()))?;
            let mut chain = Vec::new();
            loop {
                in_a_chain[at] = true;
                chain.push(at);
                let issuer = parsed[at].issuer().as_raw();
                let above = parsed.iter().position(|one| one.subject().as_raw() == issuer);
                match above {
                    Some(above) if !is_self_signed(&parsed[above]) && !chain.contains(&above) => at = above,
                    _ => break,
                }
            }
            let chain = chain.into_iter().map(|at| self.certificates[at].1.clone().into()).collect();
            keys.push(KeyEntry { alias: alias.clone(), key, chain });
        }
        let mut authorities: Vec<Authority> = Vec::new();
        for ((alias, der), in_a_chain) in self.certificates.iter().zip(in_a_chain) {
            let known = keys.iter().flat_map(|key| &key.chain).any(|one| one.as_ref() == der)
                || authorities.iter().any(|one| one.certificate.as_ref() == der);
            if !in_a_chain && !known {
                authorities.push(Authority { alias: alias.clone(), certificate: der.clone().into() });
            }
        }
        Ok(Keystore { keys, authorities })
    }
}

fn is_self_signed(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}

/// The `SubjectPublicKeyInfo` that belongs to a private key.
fn public_key(key: &PrivatePkcs8KeyDer<'static>) -> Result<Option<Vec<u8>>, rustls::Error> {
    let key: Arc<dyn SigningKey> =
        rustls::crypto::ring::sign::any_supported_type(&PrivateKeyDer::Pkcs8(key.clone_key()))?;
    Ok(key.public_key().map(|spki| spki.as_ref().to_vec()))
}

#[cfg(test)]
mod tests;
