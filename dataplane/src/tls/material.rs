//! What a generation's sections hold, read from their PEM (RFC 7468) into what rustls works with.
//!
//! Each piece is read once and shared by all that name it. Whom a piece is shown to, or who is judged by it, is decided
//! in `names` and `verify`.

use std::sync::{Arc, LazyLock, OnceLock};

use proto::snapshot::{Authorities, Certificate, Pem};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::VerifierBuilderError;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::nom;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::verify;

/// What ring provides: every suite and version that the configuration can name.
pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// The roots of this host, once they were needed and could be read.
static SYSTEM_ROOTS: OnceLock<Arc<Trust>> = OnceLock::new();

/// Why a piece cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("its {0} is the name of a file, and not what the file says")]
    File(&'static str),
    #[error("its {0} is not PEM")]
    Pem(&'static str, #[source] pem::Error),
    #[error("its {0} has nothing that is PEM")]
    Empty(&'static str),
    #[error("its chain holds what is no certificate")]
    Certificate(#[source] X509Error),
    #[error("its key and its chain cannot be used together")]
    Key(#[source] rustls::Error),
    #[error("one of its certificates is no authority")]
    Authority(#[source] rustls::Error),
    #[error("they cannot be judged by")]
    Judge(#[source] VerifierBuilderError),
    #[error("the roots of this host cannot be read{0}")]
    SystemRoots(String),
}

/// A certificate with its key, ready to be shown.
#[derive(Debug)]
pub struct Identity {
    /// The configuration's name for it.
    pub name: String,
    /// Chain, key, and what the authority says about them.
    pub certified: Arc<CertifiedKey>,
    /// The DNS names that it covers, in lower case; some begin with `*.`.
    pub names: Vec<String>,
    /// When it expires, or the first of its chain, in seconds since 1970.
    pub not_after: i64,
}

impl Identity {
    pub(super) fn read(certificate: &Certificate) -> Result<Self, Fault> {
        let chain = certificates(&certificate.chain, "chain")?;
        let leaf = chain.first().ok_or(Fault::Empty("chain"))?;
        let names = covered(&parsed(leaf)?);
        let expiries = chain.iter().map(|one| Ok(parsed(one)?.validity().not_after.timestamp()));
        let not_after = expiries.collect::<Result<Vec<_>, Fault>>()?.into_iter().min().unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(text(&certificate.key, "key")?.as_bytes());
        let key = key.map_err(|fault| match fault {
            pem::Error::NoItemsFound => Fault::Empty("key"),
            fault => Fault::Pem("key", fault),
        })?;
        let mut certified = CertifiedKey::from_der(chain, key, &PROVIDER).map_err(Fault::Key)?;
        certified.ocsp = certificate.ocsp_response.as_ref().map(ocsp_response).transpose()?;
        Ok(Self { name: certificate.name.clone(), certified: Arc::new(certified), names, not_after })
    }
}

/// Authorities, and what they have revoked: as those who judge by them.
///
/// Revocation lists may be large, so all listeners and upstreams share one judge of each kind.
#[derive(Debug)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    revocations: Vec<CertificateRevocationListDer<'static>>,
    of_endpoints: Arc<WebPkiServerVerifier>,
    of_clients: [OnceLock<Arc<dyn ClientCertVerifier>>; 2],
}

impl Trust {
    pub(super) fn read(authorities: &Authorities) -> Result<Self, Fault> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&authorities.certificates, "list of certificates")? {
            roots.add(certificate).map_err(Fault::Authority)?;
        }
        let mut revocations = Vec::new();
        for list in &authorities.revocations {
            let before = revocations.len();
            for list in CertificateRevocationListDer::pem_slice_iter(text(list, "revocation list")?.as_bytes()) {
                revocations.push(list.map_err(|fault| Fault::Pem("revocation list", fault))?);
            }
            if revocations.len() == before {
                return Err(Fault::Empty("revocation list"));
            }
        }
        Self::new(roots, revocations)
    }

    fn new(roots: RootCertStore, revocations: Vec<CertificateRevocationListDer<'static>>) -> Result<Self, Fault> {
        let roots = Arc::new(roots);
        let of_endpoints = verify::of_endpoints(&roots, &revocations).map_err(Fault::Judge)?;
        Ok(Self { roots, revocations, of_endpoints, of_clients: Default::default() })
    }

    /// Who judges endpoints' chains.
    pub(super) fn of_endpoints(&self) -> &Arc<WebPkiServerVerifier> {
        &self.of_endpoints
    }

    /// Who judges clients' certificates, and whether they must show any; made when it is first needed.
    pub(super) fn of_clients(&self, required: bool) -> Result<Arc<dyn ClientCertVerifier>, Fault> {
        let place = &self.of_clients[usize::from(required)];
        if let Some(made) = place.get() {
            return Ok(Arc::clone(made));
        }
        let made = verify::of_clients(&self.roots, &self.revocations, required).map_err(Fault::Judge)?;
        Ok(Arc::clone(place.get_or_init(|| made)))
    }

    /// The roots that this host trusts: read once, when they are first needed.
    pub(super) fn of_the_host() -> Result<Arc<Self>, Fault> {
        if let Some(roots) = SYSTEM_ROOTS.get() {
            return Ok(Arc::clone(roots));
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Hosts have odd old roots among theirs; one that cannot be read vouches for nobody.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map_or_else(String::new, |fault| format!(": {fault}"));
            return Err(Fault::SystemRoots(why));
        }
        let roots = Arc::new(Self::new(roots, Vec::new())?);
        Ok(Arc::clone(SYSTEM_ROOTS.get_or_init(|| roots)))
    }
}

fn text<'a>(pem: &'a Pem, part: &'static str) -> Result<&'a str, Fault> {
    pem.text().ok_or(Fault::File(part))
}

fn certificates(pem: &Pem, part: &'static str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let certificates = CertificateDer::pem_slice_iter(text(pem, part)?.as_bytes()).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|fault| Fault::Pem(part, fault))?;
    if certificates.is_empty() { Err(Fault::Empty(part)) } else { Ok(certificates) }
}

/// There is no agreed word for it between the dashes, so any is taken.
fn ocsp_response(pem: &Pem) -> Result<Vec<u8>, Fault> {
    const PART: &str = "OCSP response";
    let text = text(pem, PART)?;
    let mut found = x509_parser::pem::Pem::iter_from_buffer(text.as_bytes());
    match found.next() {
        Some(Ok(found)) => Ok(found.contents),
        Some(Err(_)) | None => Err(Fault::Empty(PART)),
    }
}

/// The DNS names of a certificate: its alternative names, and the common name where it has none (RFC 9525 §2 knows no
/// common names; certificates that small operators make by hand do).
fn covered(leaf: &X509Certificate<'_>) -> Vec<String> {
    let alternatives = leaf.subject_alternative_name().ok().flatten();
    match alternatives {
        Some(alternatives) => alternatives
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect(),
        None => {
            let common = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            common.map(str::to_ascii_lowercase).take(1).collect()
        }
    }
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Fault> {
    match X509Certificate::from_der(certificate) {
        Ok((_, certificate)) => Ok(certificate),
        Err(nom::Err::Error(fault) | nom::Err::Failure(fault)) => Err(Fault::Certificate(fault)),
        Err(nom::Err::Incomplete(_)) => Err(Fault::Certificate(X509Error::InvalidCertificate)),
    }
}
