//! What the token endpoint answers when it says no: the words of RFC 6749 §5.2 and RFC 7009 §2.2.1, and their statuses.
//!
//! A refusal says what the client can do about it and nothing of what it has shown.

use std::time::Duration;

use serde_json::{Value, json};

/// The word of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words are those of RFC 6749, and say it")]
pub enum Word {
    InvalidRequest,
    InvalidClient,
    InvalidGrant,
    UnauthorizedClient,
    UnsupportedGrantType,
    InvalidScope,
    /// Too many failed attempts, after RFC 8628 §3.5.
    SlowDown,
    /// Of RFC 6749 §4.1.2.1; everybody is busy.
    TemporarilyUnavailable,
    /// Of RFC 6749 §4.1.2.1; something here is broken.
    ServerError,
}

impl Word {
    /// As it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope => "invalid_scope",
            Self::SlowDown => "slow_down",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
            Self::ServerError => "server_error",
        }
    }

    /// The status of HTTP.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidClient => 401,
            Self::SlowDown => 429,
            Self::ServerError => 500,
            Self::TemporarilyUnavailable => 503,
            _ => 400,
        }
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its word.
    pub word: Word,
    /// What is wrong, for people.
    pub description: &'static str,
    /// When another attempt makes sense.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// With nothing to wait for.
    pub const fn new(word: Word, description: &'static str) -> Self {
        Self { word, description, retry_after: None }
    }

    /// With a time to wait.
    pub const fn wait(word: Word, description: &'static str, retry_after: Duration) -> Self {
        Self { word, description, retry_after: Some(retry_after) }
    }

    /// The body.
    pub fn body(&self) -> Value {
        json!({ "error": self.word.text(), "error_description": self.description })
    }
}
