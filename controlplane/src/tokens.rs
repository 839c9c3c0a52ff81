//! Tokens: the gateway's own, which its token endpoint issues, and the keys of others whose tokens are believed.
//!
//! What a credential opens is the data planes' to decide; they have the public keys, and everything else that it takes,
//! from the snapshot.

pub mod jwks;
pub mod jws;
pub mod keyring;
pub mod ledger;
pub mod limit;
pub mod terms;

use std::collections::HashMap;
use std::time::Duration;

use proto::snapshot::{Application, Config, Issuer, Jwks, OAuthClient, OWN_ISSUER, Revocation, RevokedKind, User};

pub use terms::Terms;

/// Sets of public keys that stand in no file, in their plain form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySets {
    /// The gateway's own.
    pub own: Option<String>,
    /// What was fetched, by URL.
    pub fetched: HashMap<String, String>,
}

impl KeySets {
    /// The set of an issuer whose keys are fetched; before that has succeeded once, one without keys.
    pub fn of_url(&self, url: &str) -> &str {
        self.fetched.get(url).map_or(jwks::EMPTY, String::as_str)
    }

    /// The gateway itself as an issuer, if it issues tokens.
    pub fn own_issuer(&self, config: &Config) -> Option<Issuer> {
        let endpoint = config.token_endpoint.as_ref()?;
        let audiences = match endpoint.audiences.as_slice() {
            [] => vec![endpoint.issuer.clone()],
            audiences => audiences.to_vec(),
        };
        Some(Issuer {
            name: OWN_ISSUER.into(),
            issuer: endpoint.issuer.clone(),
            jwks: Some(Jwks::Text(self.own.clone().unwrap_or_else(|| jwks::EMPTY.into()))),
            refresh: endpoint.rotate_every,
            audiences,
            clock_skew: proto::snapshot::Duration::default(),
            claims: proto::snapshot::ClaimNames::default(),
            introspection: None,
        })
    }
}

/// A set of keys that is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// The name of the issuer whose it is.
    pub issuer: String,
    /// From where.
    pub url: String,
    /// How often.
    pub every: Duration,
}

/// A client of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The name of its application.
    pub application: String,
    /// What it is, with its secret's hash.
    pub client: OAuthClient,
}

/// Clients by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clients(HashMap<String, Client>);

impl Clients {
    /// Those of a configuration to whom tokens may be issued.
    pub fn of(config: &Config) -> Self {
        let of_application = |application: &Application| {
            let name = application.name.clone();
            let issued = application.clients.clone().into_iter().filter(|client| client.secret.is_some());
            issued.map(move |client| (client.id.clone(), Client { application: name.clone(), client }))
        };
        Self(config.applications.iter().flat_map(of_application).collect())
    }

    /// The one with this id.
    pub fn find(&self, id: &str) -> Option<&Client> {
        self.0.get(id)
    }
}

/// What the token endpoint asks of the rest of the control plane. Calls may block.
pub trait Catalogue: Send + Sync {
    /// A client to whom tokens may be issued.
    fn client(&self, id: &str) -> Option<Client>;
    /// Whether an application is there and enabled.
    fn is_enabled(&self, application: &str) -> bool;
    /// A user.
    fn user(&self, name: &str) -> Option<User>;
    /// What has been revoked, if it has.
    fn revocation(&self, kind: RevokedKind, subject: &str) -> Option<Revocation>;
    /// Revokes. Once this returns it holds.
    fn revoke(&self, revocations: Vec<Revocation>) -> Result<(), RevokeError>;
}

/// A revocation could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("a revocation cannot be kept")]
pub struct RevokeError(#[source] pub Box<dyn std::error::Error + Send + Sync>);
