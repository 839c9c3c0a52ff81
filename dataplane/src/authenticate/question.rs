//! What the bridge is asked when a credential cannot be judged by the worker alone, and what its answer grants.
//!
//! How the bridge finds out is its own business; that it takes long is why this is apart.

use std::sync::Arc;
use std::time::Instant;

use proto::snapshot::{CredentialForm, PasswordHash, SecretHash, Snapshot};

use super::forms::Login;
use super::{identity, of_user, token};
use crate::bridge::{Credentials, Fingerprint, Heard, Introspector, Silence};
use crate::identity::{Claims, Fault, Grant, Identity, Proof};
use crate::issuers::Believed;
use crate::relay::wall_clock_ms;
use crate::tables::Tables;

/// A question to the bridge.
pub enum Question {
    /// Is this the user's password?
    Password {
        /// What was presented.
        login: Login,
        /// What it is known by.
        fingerprint: Fingerprint,
        /// What is stored of the user's.
        stored: Option<PasswordHash>,
    },
    /// Does one of these issuers say that the token is good?
    Token {
        /// In the order in which they are asked.
        issuers: Vec<Arc<Believed>>,
        /// Of the token.
        hash: SecretHash,
        /// In which form it came.
        form: CredentialForm,
        /// The token.
        token: Arc<str>,
    },
}

impl Question {
    /// Waits for the answer.
    pub async fn answer(self, credentials: &Credentials, tables: &Tables) -> Result<Identity, Fault> {
        match self {
            Self::Password { login, fingerprint, stored } => {
                let Login { user, password } = login;
                let is_good = credentials.passwords.check(fingerprint, password, stored).await;
                let is_good = is_good.map_err(|_| Fault::Unavailable)?;
                of_password(tables.snapshot(), &user, is_good, wall_clock_ms()).map(identity)
            }
            Self::Token { issuers, hash, form, token } => {
                let mut is_silent = false;
                for issuer in &issuers {
                    let known = credentials.introspector.known(issuer, hash, Instant::now());
                    let heard = match known {
                        Some(heard) => Ok(heard),
                        None => credentials.introspector.inquire(Arc::clone(issuer), hash, Arc::clone(&token)).await,
                    };
                    match heard {
                        Ok(Heard::Active(claims)) => {
                            let active = Active { issuer, hash, form, claims };
                            return active.identity(&credentials.introspector, tables, wall_clock_ms());
                        }
                        Ok(Heard::Inactive) => {}
                        Err(Silence) => is_silent = true,
                    }
                }
                Err(if is_silent { Fault::Unavailable } else { Fault::Unknown })
            }
        }
    }
}

/// What a password grants that was compared with the user's.
pub fn of_password(snapshot: &Snapshot, user: &str, is_good: bool, now_ms: u64) -> Result<Grant, Fault> {
    let user = snapshot.user(user).ok_or(Fault::Unknown)?;
    if !is_good {
        return Err(Fault::Password);
    }
    Ok(of_user(user, CredentialForm::Basic, Proof::Password, u64::MAX, now_ms))
}

/// A token that its issuer says is good.
pub struct Active<'a> {
    /// Who said so.
    pub issuer: &'a Arc<Believed>,
    /// Of the token.
    pub hash: SecretHash,
    /// In which form it came.
    pub form: CredentialForm,
    /// What was said.
    pub claims: Arc<Claims>,
}

impl Active<'_> {
    /// What it grants, shared by all sessions of the token.
    pub fn identity(self, introspector: &Introspector, tables: &Tables, now_ms: u64) -> Result<Identity, Fault> {
        let Self { issuer, hash, form, claims } = self;
        // RFC 7662 §2.2: where it says whose it is, it must be whose it was taken for.
        if claims.0.get("iss").is_some_and(|said| said.as_str() != Some(&issuer.config.issuer)) {
            return Err(Fault::Issuer);
        }
        let proof = Proof::Opaque { issuer: Arc::clone(&issuer.name), hash };
        let mut grant = token::grant(issuer, &claims.0, form, proof, tables.people(), now_ms)?;
        if grant.user.is_none() {
            grant.user = token::text(&claims.0, "username")?.map(Into::into);
        }
        let name = (Arc::clone(&issuer.name), hash);
        let grant = introspector.share(&name, grant).ok_or(Fault::Unavailable)?;
        Ok(Identity { grant: Some(grant), claims: Some(claims) })
    }
}
