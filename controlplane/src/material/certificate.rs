//! A certificate's chain and key: whether they can be read, belong together, and hold at this time.
//!
//! Whether a client will trust the chain is the client's to say.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{X509Name, X509Version};

use super::pem::{self, Block};
use super::{Findings, moment, within};

/// The label of a certificate, RFC 7468 §5.
pub const CERTIFICATE: &str = "CERTIFICATE";

/// The certificates of a text in their order, as bytes; the error is a sentence.
pub fn certificates(content: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let text = match std::str::from_utf8(content) {
        Ok(text) if !content.starts_with(&[0x30]) => text,
        _ => {
            return Err(
                "it is not PEM text; `openssl x509 -inform DER -in FILE -out FILE.pem` turns DER into it".into()
            );
        }
    };
    let blocks = pem::blocks(text)?;
    let certificates: Vec<_> = blocks.into_iter().filter(|block| block.label == CERTIFICATE).collect();
    if certificates.is_empty() {
        return Err("it holds no certificate: no block begins with -----BEGIN CERTIFICATE-----".into());
    }
    Ok(certificates.into_iter().map(|block| block.bytes).collect())
}

/// The certificates as a push carries them.
pub fn text(certificates: &[Vec<u8>]) -> String {
    certificates.iter().map(|bytes| pem::text(CERTIFICATE, bytes)).collect()
}

/// The private key of a text; the error is a sentence that holds nothing of it.
pub fn private_key(content: &[u8]) -> Result<Block, String> {
    let Ok(text) = std::str::from_utf8(content) else {
        return Err("it is not PEM text; `openssl pkey -inform DER -in FILE -out FILE.pem` turns DER into it".into());
    };
    let blocks = pem::blocks(text)?;
    let has_certificate = blocks.iter().any(|block| block.label == CERTIFICATE);
    let mut keys: Vec<_> = blocks.into_iter().filter(|block| block.label.ends_with("PRIVATE KEY")).collect();
    let Some(key) = keys.pop() else {
        return Err(if has_certificate {
            "it holds a certificate and no private key; have chain and key been exchanged?".into()
        } else {
            "it holds no private key: no block begins with -----BEGIN PRIVATE KEY-----".into()
        });
    };
    if !keys.is_empty() {
        return Err(format!("it holds {} private keys; leave the one of the certificate", keys.len() + 1));
    }
    if key.has_headers || key.label == "ENCRYPTED PRIVATE KEY" {
        return Err("the private key has a passphrase, and nobody is there to type it; `openssl pkey -in FILE -out \
            FILE.plain` takes it away"
            .into());
    }
    Ok(key)
}

/// Looks at every certificate of a chain: its form, the order, the dates. `is_known` chains have passed before, and are
/// spared the arithmetic.
pub fn check_chain(chain: &[Vec<u8>], is_known: bool, found: &mut Findings<'_>) {
    let mut before: Option<X509Certificate<'_>> = None;
    for (at, bytes) in chain.iter().enumerate() {
        let number = at + 1;
        let certificate = match parse(bytes) {
            Ok(certificate) => certificate,
            Err(fault) => return found.error(format!("certificate {number} of the chain {fault}")),
        };
        check_dates(&certificate, &format!("certificate {number} of the chain"), found);
        if let Some(before) = &before
            && !is_known
            && !signed(before, &certificate)
        {
            let (subject, issuer) = (name(certificate.subject()), name(before.issuer()));
            found.error(format!(
                "certificate {number} of the chain ({subject}) has not signed the one before it, whose issuer is \
                 {issuer}; put behind each certificate the one that signed it, and leave out others"
            ));
        } else if at > 0 && !certificate.is_ca() {
            let subject = name(certificate.subject());
            found.error(format!("certificate {number} of the chain ({subject}) is not an authority's; leave it out"));
        }
        before = Some(certificate);
    }
}

/// Looks at the certificate itself, as one that a listener shows.
pub fn check_as_server(chain: &[Vec<u8>], found: &mut Findings<'_>) {
    let Some(Ok(certificate)) = chain.first().map(|bytes| parse(bytes)) else { return };
    if names(&certificate).is_empty() {
        found.warning("it covers no server name (its subjectAltName is empty); clients will refuse it".into());
    }
    if certificate.is_ca() {
        found.warning("it is an authority's certificate (CA:TRUE); many clients refuse such a one of a server".into());
    }
    let usage = certificate.extended_key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.any && !usage.value.server_auth) {
        found.warning(
            "it is not meant for servers (its extendedKeyUsage lacks serverAuth); clients will refuse it".into(),
        );
    }
}

/// Looks at a key by itself: whether it signs JWTs in a way that every backend knows.
pub fn check_signs_tokens(key: &Block, found: &mut Findings<'_>) {
    let Some(signing) = signing_key(key, found) else { return };
    let known = [SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PKCS1_SHA256];
    if signing.choose_scheme(&known).is_none() {
        found.error("a key of this kind signs no assertions; use Ed25519, EC on P-256, or RSA".into());
    }
}

/// A key that can sign; what is wrong with it is told.
fn signing_key(key: &Block, found: &mut Findings<'_>) -> Option<Arc<dyn SigningKey>> {
    let der = match key.label.as_str() {
        "PRIVATE KEY" => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.bytes.as_slice())),
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(key.bytes.as_slice())),
        "EC PRIVATE KEY" => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(key.bytes.as_slice())),
        other => {
            found.error(format!("a key of the form {other} cannot be used; `openssl pkey` writes PRIVATE KEY"));
            return None;
        }
    };
    let signing = any_supported_type(&der);
    if signing.is_err() {
        found.error(
            "the private key is damaged or of a kind that cannot be used; EC on P-256 or P-384, Ed25519, and RSA of \
             2048 to 4096 bits can"
                .into(),
        );
    }
    signing.ok()
}

/// Looks at the key, and whether it is that of the chain's first certificate, where there is a chain.
pub fn check_key(key: &Block, chain: Option<&[Vec<u8>]>, found: &mut Findings<'_>) {
    let Some(signing) = signing_key(key, found) else { return };
    let Some(chain) = chain else { return };
    let chain: Vec<_> = chain.iter().map(|bytes| CertificateDer::from(bytes.clone())).collect();
    match CertifiedKey::new(chain, signing).keys_match() {
        Ok(()) => {}
        Err(rustls::Error::InconsistentKeys(_)) => found.error(
            "the private key is not that of the certificate; are both new? While files are being replaced this heals \
             by itself"
                .into(),
        ),
        Err(error) => found.error(format!("the certificate cannot be used: {error}")),
    }
}

/// Not yet, no longer, or not for long.
pub fn check_dates(certificate: &X509Certificate<'_>, which: &str, found: &mut Findings<'_>) {
    let subject = name(certificate.subject());
    let validity = certificate.validity();
    let (from, until) = (moment(validity.not_before), moment(validity.not_after));
    if from.0 > found.now {
        let message = format!("{which} ({subject}) is not valid before {from}; is the clock right?");
        found.early(from.0, message);
    } else if until.0 < found.now {
        found.date(format!("{which} ({subject}) ran out at {until}; put a renewed one in its place"));
    } else if let Some(days) = within(found.now, until.0, found.warn_within) {
        found.warning(format!("{which} ({subject}) runs out at {until}, {days}; put a renewed one in its place"));
    }
}

/// One certificate of version 3 and nothing behind it; the error completes "the certificate …".
pub fn parse(bytes: &[u8]) -> Result<X509Certificate<'_>, String> {
    match X509Certificate::from_der(bytes) {
        Ok(([], certificate)) if certificate.version() == X509Version::V3 => Ok(certificate),
        Ok(([], certificate)) => Err(format!("({}) is not of version 3", name(certificate.subject()))),
        Ok(_) => Err("has bytes behind its end".into()),
        Err(_) => Err("is damaged, or no certificate".into()),
    }
}

/// Whether the key of the first certificate of a text is an RSA key.
pub fn is_rsa(text: &str) -> Option<bool> {
    let chain = certificates(text.as_bytes()).ok()?;
    let leaf = parse(chain.first()?).ok()?;
    Some(leaf.public_key().algorithm.algorithm == OID_PKCS1_RSAENCRYPTION)
}

/// The server names that a certificate covers.
pub fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        })
        .collect()
}

/// A distinguished name as people write it.
pub fn name(name: &X509Name<'_>) -> String {
    let text = name.to_string();
    if text.is_empty() { "no subject".into() } else { text }
}

/// The time, if it can be said.
pub fn not_after(certificate: &X509Certificate<'_>) -> SystemTime {
    moment(certificate.validity().not_after).0
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// A signature of an algorithm that is not known here is left for clients to judge.
fn signed(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == issuer.subject().as_raw()
        && matches!(
            certificate.verify_signature(Some(issuer.public_key())),
            Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm)
        )
}
