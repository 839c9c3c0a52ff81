//! Authorities and their revocation lists: whether a verifier can be made of them.
//!
//! Which certificates they have signed is found out when one is shown.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::error::X509Error;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};
use x509_parser::x509::X509Version;

use super::certificate::{check_dates, name};
use super::{Findings, moment, pem};

/// The label of a revocation list, RFC 7468 §6.
pub const LIST: &str = "X509 CRL";

/// The revocation lists of a text, or the one that is DER; the error is a sentence.
pub fn lists(content: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if content.starts_with(&[0x30]) {
        return Ok(vec![content.to_vec()]);
    }
    let text = std::str::from_utf8(content).map_err(|_| "it is neither PEM text nor DER")?;
    let blocks = pem::blocks(text)?;
    let lists: Vec<_> = blocks.into_iter().filter(|block| block.label == LIST).map(|block| block.bytes).collect();
    if lists.is_empty() {
        return Err("it holds no revocation list: no block begins with -----BEGIN X509 CRL-----".into());
    }
    Ok(lists)
}

/// Looks at each authority by itself, and adds it to the store.
pub fn check_certificates(certificates: &[Vec<u8>], store: &mut RootCertStore, found: &mut Findings<'_>) {
    for (at, bytes) in certificates.iter().enumerate() {
        let number = at + 1;
        let Ok(([], certificate)) = X509Certificate::from_der(bytes) else {
            found.error(format!("certificate {number} is damaged, or no certificate"));
            continue;
        };
        let subject = name(certificate.subject());
        if !is_authority(&certificate) {
            found.error(format!(
                "certificate {number} ({subject}) is not an authority's (CA:TRUE and, if keyUsage is there, \
                 keyCertSign are needed); put there what has signed it"
            ));
            continue;
        }
        check_dates(&certificate, &format!("certificate {number}"), found);
        if let Err(error) = store.add(CertificateDer::from(bytes.as_slice()).into_owned()) {
            found.error(format!("certificate {number} ({subject}) cannot be used: {error}"));
        }
    }
}

/// Looks at one file's revocation lists; those that can be used, for [`check_together`].
pub fn check_lists(
    lists: &[Vec<u8>],
    authorities: &[Vec<u8>],
    found: &mut Findings<'_>,
) -> Vec<CertificateRevocationListDer<'static>> {
    let mut sound = Vec::new();
    for bytes in lists {
        let Ok(([], list)) = CertificateRevocationList::from_der(bytes) else {
            found.error("the revocation list is damaged, or none".into());
            continue;
        };
        let issuer = name(list.issuer());
        let signers = authorities.iter().filter_map(|bytes| X509Certificate::from_der(bytes).ok());
        let mut signers = signers.filter(|(_, one)| one.subject().as_raw() == list.issuer().as_raw()).peekable();
        let is_ours = signers.peek().is_some();
        let is_signed = |signer: &X509Certificate<'_>| {
            matches!(list.verify_signature(signer.public_key()), Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm))
        };
        if is_ours && !signers.any(|(_, signer)| is_signed(&signer)) {
            found.error(format!("the revocation list of {issuer} is not signed with that authority's key"));
            continue;
        }
        if let Some(next) = list.next_update().map(moment).filter(|next| next.0 < found.now) {
            found.warning(format!(
                "the revocation list of {issuer} ran out at {next}; until a newer one is in its place, certificates of \
                 that issuer are refused"
            ));
        }
        sound.push(CertificateRevocationListDer::from(bytes.clone()));
    }
    sound
}

/// Makes a verifier of all of it, as the data plane will.
pub fn check_together(
    store: RootCertStore,
    lists: Vec<CertificateRevocationListDer<'static>>,
    found: &mut Findings<'_>,
) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).with_crls(lists).build();
    match verifier {
        Ok(_) => {}
        Err(VerifierBuilderError::InvalidCrl(error)) => {
            found.error(format!("one of the revocation lists cannot be used: {error:?}"));
        }
        Err(error) => found.error(format!("no verifier can be made of them: {error}")),
    }
}

/// Version 1 has no extensions to say it with.
fn is_authority(certificate: &X509Certificate<'_>) -> bool {
    if certificate.version() == X509Version::V1 {
        return certificate.subject().as_raw() == certificate.issuer().as_raw();
    }
    let may_sign = certificate.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    certificate.is_ca() && may_sign
}
