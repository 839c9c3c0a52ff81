//! The office as the token endpoint sees it: clients, users, what is revoked, and revoking.
//!
//! Called off the runtime's threads, as the desk is; what the office does there and then is waited for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::errors::with_sources;
use proto::limits::{REVOKED_MAX, REVOKED_RESERVE};
use proto::snapshot::{Revocation, RevokedKind, User};
use tokio::runtime::Handle;

use super::{Catalogue, Client, RevokeError};
use crate::catalogue::{CHANGES_MAX, Change, ChangeError, Condition, Kind, count};
use crate::office::Office;
use crate::publish::Published;

/// How often it is told that clients can revoke nothing.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The office, and the runtime on which it works.
pub struct Shelf {
    office: Arc<Office>,
    runtime: Handle,
    /// How many revocations there may be before those of clients are refused.
    room: usize,
    /// Held while clients revoke, so that two do not take the same room; when it was last told that there is none.
    told: Mutex<Option<Instant>>,
}

impl Shelf {
    /// On the runtime of whoever makes it.
    pub fn new(office: Arc<Office>) -> Self {
        Self { office, runtime: Handle::current(), room: REVOKED_MAX - REVOKED_RESERVE, told: Mutex::default() }
    }

    fn published(&self) -> Option<Arc<Published>> {
        self.office.publisher().current()
    }
}

impl Catalogue for Shelf {
    fn client(&self, id: &str) -> Option<Client> {
        match self.runtime.block_on(self.office.client(id)) {
            Ok(found) => found.map(|(application, client)| Client { application: application.name, client }),
            Err(error) => {
                tracing::error!(error = with_sources(&error), "a client cannot be looked up");
                None
            }
        }
    }

    fn is_enabled(&self, application: &str) -> bool {
        let published = self.published();
        published.as_ref().and_then(|one| one.snapshot.application(application)).is_some_and(|one| one.enabled)
    }

    fn user(&self, name: &str) -> Option<User> {
        self.published()?.snapshot.user(name).cloned()
    }

    fn revocation(&self, kind: RevokedKind, subject: &str) -> Option<Revocation> {
        self.published()?.snapshot.revocation(kind, subject).cloned()
    }

    fn revoke(&self, mut revocations: Vec<Revocation>) -> Result<(), RevokeError> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.published().map_or(0, |published| count(&published.snapshot, Kind::Revocation));
        if known + revocations.len() > self.room {
            if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                *told = Some(Instant::now());
                tracing::error!(known, "clients can revoke no more tokens; what is left of the list is for operators");
            }
            return Err(RevokeError::Full);
        }
        while !revocations.is_empty() {
            // All of one call or none of it, and one generation.
            let count = revocations.len();
            let changes = revocations.iter().take(CHANGES_MAX).map(put).collect::<Result<_, _>>()?;
            match self.runtime.block_on(self.office.change(changes, None)) {
                Ok(_) => _ = revocations.drain(..count.min(CHANGES_MAX)),
                Err(error) => {
                    // What the configuration declares is revoked already.
                    if let ChangeError::Declared { id, .. } = &error {
                        revocations.retain(|one| one.revoked.to_string() != *id);
                    }
                    if revocations.len() == count {
                        return Err(RevokeError::Broken(Box::new(error)));
                    }
                }
            }
        }
        Ok(())
    }
}

fn put(revocation: &Revocation) -> Result<Change, RevokeError> {
    let value = serde_json::to_value(revocation).map_err(|error| RevokeError::Broken(error.into()))?;
    Ok(Change::Put { kind: Kind::Revocation, id: revocation.revoked.to_string(), value, condition: Condition::Any })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_clients_cannot_fill_is_left_to_operators() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.yaml");
        std::fs::write(&file, "version: 1\nrevocations: [{ revoked: \"token:framegate/declared\" }]\n").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let office = Office::new(file, directory.path().join("state"), "run".into(), Instant::now()).unwrap();
        let office = Arc::new(office);
        assert!(runtime.block_on(office.reload("a test")).diagnostics.is_empty());
        let shelf = {
            let _inside = runtime.enter();
            Shelf { room: 3, ..Shelf::new(Arc::clone(&office)) }
        };
        let token = |id: &str| -> Revocation {
            serde_json::from_value(json!({ "revoked": format!("token:framegate/{id}") })).unwrap()
        };
        assert!(matches!(shelf.revoke(vec![token("a"), token("b"), token("c")]), Err(RevokeError::Full)));
        assert!(shelf.revocation(RevokedKind::Token, "framegate/a").is_none(), "all of them or none");
        shelf.revoke(vec![token("a"), token("b")]).unwrap();
        assert!(matches!(shelf.revoke(vec![token("c")]), Err(RevokeError::Full)));
        let operators = put(&token("c")).unwrap();
        runtime.block_on(office.change(vec![operators], None)).unwrap();
        assert!(shelf.revocation(RevokedKind::Token, "framegate/c").is_some());
        let gone = |id: &str| Change::Delete {
            kind: Kind::Revocation,
            id: format!("token:framegate/{id}"),
            condition: Condition::Any,
            cascade: false,
        };
        runtime.block_on(office.change(vec![gone("a"), gone("b")], None)).unwrap();
        shelf.revoke(vec![token("d")]).unwrap();
    }
}
