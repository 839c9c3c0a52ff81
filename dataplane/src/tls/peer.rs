//! Who the client is by its certificate, in the words that headers and logs use.

/// A client's certificate that has been found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject, as RFC 4514 writes it.
    pub subject: String,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
}
