//! Who a client is: what its credential granted, and why a credential grants nothing.
//!
//! How a credential is read and verified is [`authenticate`](crate::authenticate)'s; whether a grant still stands, at
//! the handshake and for as long as the session lives, is [`standing`](crate::standing)'s.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use proto::snapshot::{CredentialForm, Environment, SecretHash};
use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// What a credential that was verified grants. A session keeps it for its whole life; sessions of one token share it.
#[derive(Debug)]
pub struct Grant {
    /// In which form the credential came.
    pub form: CredentialForm,
    /// What it was.
    pub proof: Proof,
    /// The OAuth2 client of a token.
    pub client: Option<Box<str>>,
    /// The application that it counts for.
    pub application: Option<Box<str>>,
    /// The user.
    pub user: Option<Box<str>>,
    /// The key type, where it is said.
    pub environment: Option<Environment>,
    /// The scopes.
    pub scopes: Box<[Box<str>]>,
    /// When the credential was issued, seconds since 1970; a password or a certificate is proof anew at each handshake.
    pub issued_s: u64,
    /// When it runs out, milliseconds since 1970; `u64::MAX`: never.
    pub expires_ms: u64,
    /// What was heard of it since, where somebody is asked again and again.
    pub word: Word,
}

/// What a credential was, as far as it can be named without showing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A JWT of this issuer (its name here), with `ISSUER/JTI` where it has a `jti`.
    Token {
        /// The issuer's name.
        issuer: Arc<str>,
        /// As revocations name it.
        id: Option<Box<str>>,
    },
    /// An opaque token of this issuer.
    Opaque {
        /// The issuer's name.
        issuer: Arc<str>,
        /// Its SHA-256.
        hash: SecretHash,
    },
    /// An API key.
    Key(SecretHash),
    /// A password.
    Password,
    /// A client certificate.
    Certificate {
        /// Its subject, as RFC 4514 writes it.
        subject: Box<str>,
    },
}

impl Proof {
    /// The name of the issuer that vouched for it, if one did.
    pub fn issuer(&self) -> Option<&str> {
        match self {
            Self::Token { issuer, .. } | Self::Opaque { issuer, .. } => Some(issuer),
            Self::Key(_) | Self::Password | Self::Certificate { .. } => None,
        }
    }
}

/// The last word on a token that is asked about again. Written by the bridge, read by workers.
#[derive(Debug, Default)]
pub struct Word(AtomicU8);

impl Word {
    const GOOD: u8 = 0;
    const WITHDRAWN: u8 = 1;
    const SILENCE: u8 = 2;

    /// It is not active any more. There is no way back.
    pub fn withdraw(&self) {
        self.0.store(Self::WITHDRAWN, Ordering::Release);
    }

    /// Nobody can be asked, or somebody can be asked again.
    pub fn set_silence(&self, is_silent: bool) {
        let (from, to) = if is_silent { (Self::GOOD, Self::SILENCE) } else { (Self::SILENCE, Self::GOOD) };
        let _ = self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Whether it was withdrawn.
    pub fn is_withdrawn(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::WITHDRAWN
    }

    /// Whether nobody could be asked the last time.
    pub fn is_silent(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::SILENCE
    }
}

/// Who a client is, for the rooms behind authentication.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// What its credential granted; none: the API is open.
    pub grant: Option<Arc<Grant>>,
    /// What its token says beyond that; for policies, templates and assertions.
    pub claims: Option<Arc<Claims>>,
}

/// The claims of a token, RFC 7519 §4. `Debug` shows their names only.
pub struct Claims(pub Map<String, Value>);

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why a credential grants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// There is none, of those that the API accepts.
    Absent,
    /// It has not the form that it should have.
    Malformed,
    /// It has run out.
    Expired,
    /// It is not good yet.
    NotYetValid,
    /// It is for somebody else.
    Audience,
    /// Its issuer is not known here, not accepted by the API, or not that of the client that it names.
    Issuer,
    /// Its signature is wrong.
    Signature,
    /// It is not signed, or in a way that its key is not for.
    Algorithm,
    /// The key that it names is not among its issuer's.
    UnknownKeyId,
    /// No such key, user or token is known.
    Unknown,
    /// The password is wrong.
    Password,
    /// It, its application or its user is switched off.
    Disabled,
    /// It was revoked.
    Revoked,
    /// A key that may not be used from this address.
    Address,
    /// A key that may not be used by this page.
    Referrer,
    /// It has none of the topic's scopes.
    Scope,
    /// The API has no endpoint for its key type.
    KeyType,
    /// Its application has not subscribed to the API.
    NotSubscribed,
    /// It could not be found out.
    Unavailable,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 19] = [
        Self::Absent,
        Self::Malformed,
        Self::Expired,
        Self::NotYetValid,
        Self::Audience,
        Self::Issuer,
        Self::Signature,
        Self::Algorithm,
        Self::UnknownKeyId,
        Self::Unknown,
        Self::Password,
        Self::Disabled,
        Self::Revoked,
        Self::Address,
        Self::Referrer,
        Self::Scope,
        Self::KeyType,
        Self::NotSubscribed,
        Self::Unavailable,
    ];

    /// The word for logs and metrics. What a client reads is the refusal's sentence, which says less.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Malformed => "malformed",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Audience => "audience",
            Self::Issuer => "issuer",
            Self::Signature => "signature",
            Self::Algorithm => "algorithm",
            Self::UnknownKeyId => "unknown_key_id",
            Self::Unknown => "unknown",
            Self::Password => "password",
            Self::Disabled => "disabled",
            Self::Revoked => "revoked",
            Self::Address => "address",
            Self::Referrer => "referrer",
            Self::Scope => "scope",
            Self::KeyType => "key_type",
            Self::NotSubscribed => "not_subscribed",
            Self::Unavailable => "unavailable",
        }
    }

    /// For arrays with a place for each.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// What the client is told.
    pub const fn refusal(self) -> Refusal {
        match self {
            Self::Absent => Refusal::NoCredentials,
            Self::Scope => Refusal::Scope,
            Self::KeyType => Refusal::KeyType,
            Self::NotSubscribed => Refusal::NotSubscribed,
            Self::Unavailable => Refusal::CredentialsUnverified,
            _ => Refusal::BadCredentials,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_stand_in_their_places_with_words_of_their_own() {
        for (at, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault.index(), at);
            assert!(Fault::ALL[..at].iter().all(|other| other.word() != fault.word()));
        }
    }

    #[test]
    fn a_token_that_was_withdrawn_stays_so() {
        let word = Word::default();
        word.set_silence(true);
        assert!(word.is_silent() && !word.is_withdrawn());
        word.set_silence(false);
        assert!(!word.is_silent());
        word.withdraw();
        word.set_silence(true);
        word.set_silence(false);
        assert!(word.is_withdrawn() && !word.is_silent());
    }

    #[test]
    fn claims_are_not_shown() {
        let claims = Claims(Map::from_iter([("email".to_owned(), Value::from("alice@example.com"))]));
        assert_eq!(format!("{claims:?}"), "{\"email\"}");
    }
}
