//! Whose certificate is believed: clients' by a listener's authorities, endpoints' by an upstream's.
//!
//! Where there are revocation lists, they must settle the whole chain below its root, and must not be past their next
//! update: what is not known to be good is refused, as nginx and HAProxy do. Signatures, chains, dates and names are
//! webpki's business.

use std::fmt;
use std::sync::Arc;

use proto::snapshot::Pin;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use super::material::{PROVIDER, Trust};
use super::peer;

/// Who judges clients' certificates, and whether they must show any.
pub(super) fn of_clients(
    roots: &Arc<RootCertStore>,
    revocations: &[CertificateRevocationListDer<'static>],
    required: bool,
) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&PROVIDER))
        .with_crls(revocations.iter().cloned())
        .enforce_revocation_expiration();
    if required { builder.build() } else { builder.allow_unauthenticated().build() }
}

/// Who judges endpoints' chains and names.
pub(super) fn of_endpoints(
    roots: &Arc<RootCertStore>,
    revocations: &[CertificateRevocationListDer<'static>],
) -> Result<Arc<WebPkiServerVerifier>, VerifierBuilderError> {
    WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&PROVIDER))
        .with_crls(revocations.iter().cloned())
        .enforce_revocation_expiration()
        .build()
}

/// Who judges the certificates of an upstream's endpoints.
#[derive(Debug)]
pub(super) struct OfEndpoints {
    chains: Chains,
    pins: Vec<Pin>,
}

#[derive(Debug)]
enum Chains {
    /// They lead to an authority, hold now, and cover the name.
    Trusted(Arc<WebPkiServerVerifier>),
    /// They are not looked at.
    Unseen,
    /// None will do: no endpoint of the upstream is to be verified, so no roots were read.
    Refused,
}

impl OfEndpoints {
    /// By authorities.
    pub(super) fn trusting(trust: &Trust, pins: &[Pin]) -> Self {
        Self { chains: Chains::Trusted(Arc::clone(trust.of_endpoints())), pins: pins.to_vec() }
    }

    /// By pins at most: whoever has the key of the certificate that it shows is believed.
    pub(super) fn unseen(pins: &[Pin]) -> Self {
        Self { chains: Chains::Unseen, pins: pins.to_vec() }
    }

    pub(super) fn refusing() -> Self {
        Self { chains: Chains::Refused, pins: Vec::new() }
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        match &self.chains {
            Chains::Trusted(chains) => {
                chains.verify_server_cert(end_entity, intermediates, server_name, &[], now)?;
            }
            Chains::Unseen => {}
            Chains::Refused => return Err(CertificateError::UnknownIssuer.into()),
        }
        if self.pins.is_empty() {
            return Ok(());
        }
        let key = ParsedCertificate::try_from(end_entity)?.subject_public_key_info();
        let digest = ring::digest::digest(&ring::digest::SHA256, &key);
        if self.pins.iter().any(|pin| pin.0 == digest.as_ref()) {
            return Ok(());
        }
        Err(CertificateError::Other(OtherError(Arc::new(NotPinned))).into())
    }
}

/// An endpoint's certificate was refused: which, and why.
#[derive(Debug)]
pub(super) struct Refused {
    /// Subject, issuer and names.
    certificate: String,
    pub(super) why: rustls::Error,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the certificate {} is refused: {}", self.certificate, self.why)
    }
}

impl std::error::Error for Refused {}

/// The certificate is good, and its key is none of those that the configuration names.
#[derive(Debug, thiserror::Error)]
#[error("its public key is not pinned")]
pub(super) struct NotPinned;

impl ServerCertVerifier for OfEndpoints {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.judge(end_entity, intermediates, server_name, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            // rustls gives errors on, but not the certificate that they are about.
            Err(why) => {
                let refused = Refused { certificate: peer::in_words(end_entity), why };
                Err(CertificateError::Other(OtherError(Arc::new(refused))).into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &PROVIDER.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &PROVIDER.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}
