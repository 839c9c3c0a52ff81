//! Tokens: the gateway's own, which its token endpoint issues, and the keys of others whose tokens are believed.
//!
//! What a credential opens is the data planes' to decide; they have the public keys, and everything else that it takes,
//! from the snapshot.

pub mod board;
pub mod desk;
mod door;
mod fetch;
pub mod form;
mod front;
pub mod jwks;
pub mod jws;
pub mod keyring;
pub mod ledger;
pub mod limit;
mod office;
pub mod outgoing;
pub mod refusal;
pub mod rotate;
pub mod terms;

use std::collections::HashMap;
use std::time::Duration;

use proto::snapshot::{Config, Issuer, Jwks, OAuthClient, OWN_ISSUER, Revocation, RevokedKind, User};

use std::sync::Arc;

use crate::office::Office;
use crate::store::{Store, StoreError};
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
    /// Those that an earlier run has left.
    pub fn kept(store: &Store) -> Result<Self, StoreError> {
        let own = ledger::keyring(store)?.published().text();
        let fetched = ledger::fetched(store)?.into_iter().map(|(url, (text, _))| (url, text)).collect();
        Ok(Self { own: Some(own), fetched })
    }

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

/// A client, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The name of its application.
    pub application: String,
    /// What it is, with its secret's hash.
    pub client: OAuthClient,
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
pub enum RevokeError {
    /// There is room for those of operators only.
    #[error("there are as many revocations as clients may fill the list with")]
    Full,
    /// The catalogue does not take it.
    #[error("a revocation cannot be kept")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Issues tokens, keeps the keys, and fetches those of others, for as long as the control plane runs.
pub async fn serve(office: Arc<Office>) -> Result<(), StoreError> {
    let store = Arc::clone(office.store());
    let keyring = ledger::keyring(&store)?;
    let catalogue = Arc::new(office::Shelf::new(Arc::clone(&office)));
    let desk = Arc::new(desk::Desk::new(catalogue, Arc::clone(&store), keyring));
    let front = Arc::new(front::Front::new(Arc::clone(&desk)));
    let board = Arc::clone(office.board());
    tokio::join!(
        door::serve(front, office.tokens(), Arc::clone(&board)),
        rotate::follow(desk, Arc::clone(&store), Arc::clone(&office), Arc::clone(&board), office.tokens()),
        fetch::follow(store, Arc::clone(&office), board, office.tokens()),
    );
    Ok(())
}
