//! How tokens stand, for `framegate status`: the endpoint, its keys, and the sets of keys that are fetched.
//!
//! Written by those who do the work, read by whoever asks.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use proto::snapshot::{Issuer, Snapshot};

use super::Fetch;
use super::jwks::KeySet;
use crate::answer::{IssuerStanding, TokenEndpointStanding};
use crate::material::Moment;

/// The board.
#[derive(Debug, Default)]
pub struct Board(Mutex<Written>);

#[derive(Debug, Default)]
struct Written {
    endpoint: TokenEndpointStanding,
    fetches: BTreeMap<String, FetchStanding>,
}

/// How the fetching of one set stands.
#[derive(Debug, Clone, Default)]
pub struct FetchStanding {
    /// When it last came.
    pub fetched: Option<SystemTime>,
    /// When it is fetched next.
    pub next: Option<SystemTime>,
    /// Why it did not come when it was last fetched.
    pub fault: Option<String>,
}

impl Board {
    /// Where the endpoint listens, or why it does not.
    pub fn endpoint(&self, address: Option<String>, fault: Option<String>) {
        let mut written = self.written();
        written.endpoint.address = address;
        written.endpoint.fault = fault;
    }

    /// Which keys are published, which of them signs, and when that changes.
    pub fn keys(&self, published: u64, signing: Option<String>, next: Option<SystemTime>) {
        let mut written = self.written();
        written.endpoint.keys = published;
        written.endpoint.signing = signing;
        written.endpoint.next_change = next.map(told);
    }

    /// How the fetching from this URL stands.
    pub fn fetch(&self, url: &str, standing: FetchStanding) {
        self.written().fetches.insert(url.to_owned(), standing);
    }

    /// Forgets what is not fetched any more.
    pub fn forget_but(&self, urls: &[String]) {
        self.written().fetches.retain(|url, _| urls.contains(url));
    }

    /// The endpoint.
    pub fn endpoint_standing(&self) -> TokenEndpointStanding {
        self.written().endpoint.clone()
    }

    /// The issuers of a snapshot, of whose keys these are fetched.
    pub fn issuers(&self, snapshot: &Snapshot, fetches: &[Fetch]) -> Vec<IssuerStanding> {
        let written = self.written();
        let standing = |issuer: &Issuer| {
            let text = issuer.jwks.as_ref().and_then(|jwks| jwks.text());
            let keys = text.and_then(KeySet::parse).map_or(0, |set| set.keys.len() as u64);
            let url = fetches.iter().find(|fetch| fetch.issuer == issuer.name).map(|fetch| fetch.url.clone());
            let fetch = url.as_ref().and_then(|url| written.fetches.get(url)).cloned().unwrap_or_default();
            IssuerStanding {
                name: issuer.name.clone(),
                issuer: issuer.issuer.clone(),
                keys,
                introspection: issuer.introspection.is_some(),
                url,
                fetched: fetch.fetched.map(told),
                next: fetch.next.map(told),
                fault: fetch.fault,
            }
        };
        snapshot.issuers().iter().map(standing).collect()
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(time: SystemTime) -> String {
    Moment(time).to_string()
}
