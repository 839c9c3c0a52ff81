//! Why a TLS handshake failed: a small closed set for metrics, and words for the log.
//!
//! rustls says precisely what went wrong, and sends the alert; here its many errors become the few that an operator
//! acts on.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::verify::{NotPinned, Refused};

/// Why a handshake failed, on either leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The peer speaks no version that is spoken here.
    NoCommonVersion,
    /// It has no cipher suite, key exchange or signature scheme that is spoken here.
    NoCommonSuite,
    /// It offers protocols to speak inside (ALPN), and HTTP/1.1 is not among them.
    NoCommonProtocol,
    /// It asked for a server name that no certificate covers, where that is refused.
    UnknownServerName,
    /// It showed no certificate where one is required.
    CertificateRequired,
    /// Its certificate has expired, or one above it.
    CertificateExpired,
    /// Its certificate does not hold yet.
    CertificateNotYetValid,
    /// Its certificate does not lead to an authority that is trusted.
    CertificateUnknownAuthority,
    /// Its certificate has been revoked.
    CertificateRevoked,
    /// No revocation list settles whether its certificate is still good, or that list is too old.
    CertificateRevocationUnknown,
    /// Its certificate does not cover the name that was asked for.
    CertificateWrongName,
    /// The key of its certificate is not pinned.
    CertificateNotPinned,
    /// Its certificate is no good for another reason.
    CertificateBad,
    /// It refused our certificate, or asked for one that we do not have.
    CertificateRefusedByPeer,
    /// It ended the handshake with another alert.
    Alert,
    /// What it sent breaks TLS.
    BadRecord,
    /// It spoke HTTP where TLS is spoken.
    PlainHttp,
    /// The handshake was not over in time.
    Timeout,
    /// It went away.
    Abandoned,
    /// Anything else.
    Other,
}

impl Reason {
    /// Every reason, for metrics.
    pub const ALL: [Self; 20] = [
        Self::NoCommonVersion,
        Self::NoCommonSuite,
        Self::NoCommonProtocol,
        Self::UnknownServerName,
        Self::CertificateRequired,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::CertificateUnknownAuthority,
        Self::CertificateRevoked,
        Self::CertificateRevocationUnknown,
        Self::CertificateWrongName,
        Self::CertificateNotPinned,
        Self::CertificateBad,
        Self::CertificateRefusedByPeer,
        Self::Alert,
        Self::BadRecord,
        Self::PlainHttp,
        Self::Timeout,
        Self::Abandoned,
        Self::Other,
    ];

    /// The metric label and log word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoCommonVersion => "no_common_version",
            Self::NoCommonSuite => "no_common_suite",
            Self::NoCommonProtocol => "no_common_protocol",
            Self::UnknownServerName => "unknown_server_name",
            Self::CertificateRequired => "certificate_required",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::CertificateUnknownAuthority => "certificate_unknown_authority",
            Self::CertificateRevoked => "certificate_revoked",
            Self::CertificateRevocationUnknown => "certificate_revocation_unknown",
            Self::CertificateWrongName => "certificate_wrong_name",
            Self::CertificateNotPinned => "certificate_not_pinned",
            Self::CertificateBad => "certificate_bad",
            Self::CertificateRefusedByPeer => "certificate_refused_by_peer",
            Self::Alert => "alert",
            Self::BadRecord => "bad_record",
            Self::PlainHttp => "plain_http",
            Self::Timeout => "timeout",
            Self::Abandoned => "abandoned",
            Self::Other => "other",
        }
    }
}

/// Why a handshake with a client failed.
pub fn client(error: &Error) -> Reason {
    match error {
        // Nothing else ends in these words: the resolver of certificates has found none, because names are strict.
        Error::General(text) if text == "no server certificate chain resolved" => Reason::UnknownServerName,
        error => reason(error),
    }
}

/// Why a handshake with an endpoint failed.
pub fn upstream(error: &Error) -> Reason {
    reason(error)
}

/// For the log: which certificate, if it is about one, and why; in rustls's words.
pub fn describe(error: &Error) -> String {
    match refused(error) {
        Some(refused) => refused.to_string(),
        None => error.to_string(),
    }
}

fn reason(error: &Error) -> Reason {
    match error {
        Error::NoCertificatesPresented => Reason::CertificateRequired,
        Error::InvalidCertificate(_) => match refused(error) {
            Some(refused) => reason(&refused.why),
            None => certificate(error),
        },
        Error::InvalidCertRevocationList(_) => Reason::CertificateRevocationUnknown,
        Error::PeerIncompatible(fault) => incompatible(fault),
        Error::NoApplicationProtocol => Reason::NoCommonProtocol,
        Error::AlertReceived(alert) => alerted(*alert),
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::InvalidMessage(_)
        | Error::DecryptError
        | Error::PeerSentOversizedRecord
        | Error::PeerMisbehaved(_) => Reason::BadRecord,
        _ => Reason::Other,
    }
}

fn certificate(error: &Error) -> Reason {
    let Error::InvalidCertificate(fault) = error else { return Reason::Other };
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Reason::CertificateExpired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Reason::CertificateNotYetValid,
        // The signature is bad where an authority of the same name has another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Reason::CertificateUnknownAuthority,
        CertificateError::Revoked => Reason::CertificateRevoked,
        CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => Reason::CertificateRevocationUnknown,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Reason::CertificateWrongName
        }
        CertificateError::Other(other) if other.0.is::<NotPinned>() => Reason::CertificateNotPinned,
        _ => Reason::CertificateBad,
    }
}

fn incompatible(fault: &PeerIncompatible) -> Reason {
    match fault {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => Reason::NoCommonVersion,
        _ => Reason::NoCommonSuite,
    }
}

/// Why a handshake failed, by the alert of the peer.
pub fn alerted(alert: AlertDescription) -> Reason {
    match alert {
        AlertDescription::ProtocolVersion => Reason::NoCommonVersion,
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => Reason::NoCommonSuite,
        AlertDescription::NoApplicationProtocol => Reason::NoCommonProtocol,
        AlertDescription::UnrecognisedName => Reason::UnknownServerName,
        AlertDescription::NoCertificate
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::CertificateRequired => Reason::CertificateRefusedByPeer,
        _ => Reason::Alert,
    }
}

fn refused(error: &Error) -> Option<&Refused> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_explains_every_reason_and_no_other() {
        let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/close-codes.md")).unwrap();
        let (_, section) = manual.split_once("## Why a TLS handshake fails").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let listed = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(word, _)| word));
        assert_eq!(listed.collect::<Vec<_>>(), Reason::ALL.map(Reason::word));
    }

    #[test]
    fn every_reason_has_its_own_word() {
        let mut words: Vec<_> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
