//! Who asks, and what that allows: by the socket, by a token, or by a certificate.
//!
//! Where tokens and certificates come from is said by `tokens` and [`credentials`](crate::credentials).

use std::net::SocketAddr;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};

use super::problem::{Fault, Problem};
use super::tokens::Tokens;
use crate::credentials::Identity;

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Operator,
    /// Look.
    ReadOnly,
}

impl Role {
    /// By its word.
    pub fn of_word(word: &str) -> Option<Self> {
        match word {
            "operator" => Some(Self::Operator),
            "read_only" => Some(Self::ReadOnly),
            _ => None,
        }
    }

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::ReadOnly => "read_only",
        }
    }

    /// Whether it may use this method.
    pub fn may(self, method: &Method) -> bool {
        self == Self::Operator || matches!(*method, Method::GET | Method::HEAD)
    }
}

/// Somebody who is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What they may do.
    pub role: Role,
    /// How they are called in the log.
    pub name: String,
}

/// Who is at the other end of a connection, as far as the connection says.
#[derive(Debug, Clone)]
pub enum Peer {
    /// On the Unix socket: its owner, or root.
    Local {
        /// The user's id.
        uid: u32,
    },
    /// Over TCP: whoever has shown a certificate of one of our authorities, or nobody yet.
    Remote {
        /// From where.
        from: SocketAddr,
        /// What the certificate says.
        identity: Option<Identity>,
    },
}

impl Peer {
    /// Who it is, by the connection and by what the request presents. A token that is presented decides.
    pub fn caller(&self, headers: &HeaderMap, tokens: Option<&Tokens>) -> Result<Caller, Problem> {
        let identity = match self {
            Self::Local { uid } => return Ok(Caller { role: Role::Operator, name: format!("user {uid}") }),
            Self::Remote { identity, .. } => identity,
        };
        let unknown = |detail: &str| Err(Problem::new(Fault::Unauthenticated, detail));
        let mut presented = headers.get_all(AUTHORIZATION).iter();
        match (presented.next(), presented.next(), tokens) {
            (Some(value), None, Some(tokens)) => {
                let token = value.to_str().ok().and_then(|value| value.split_once(' '));
                let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                let caller = token.and_then(|(_, token)| tokens.caller(token.trim()));
                caller.map_or_else(|| unknown("this token is not known here"), Ok)
            }
            (Some(_), ..) => {
                unknown("one Authorization header with a bearer token is understood, where there are tokens")
            }
            (None, ..) => match identity {
                Some(identity) => {
                    let role = match identity {
                        one if one.is_operator => Role::Operator,
                        one if one.is_reader => Role::ReadOnly,
                        _ => {
                            let detail =
                                "the certificate has neither the URI framegate:operator nor framegate:read_only";
                            return Err(Problem::new(Fault::ForbiddenRole, detail));
                        }
                    };
                    Ok(Caller { role, name: format!("certificate {}", identity.subject) })
                }
                None => unknown("present a bearer token, or a client certificate where authorities are configured"),
            },
        }
    }
}
