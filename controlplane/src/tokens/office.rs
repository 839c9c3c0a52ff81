//! The office as the token endpoint sees it: clients, users, what is revoked, and revoking.
//!
//! Called off the runtime's threads, as the desk is; what the office does there and then is waited for.

use std::sync::Arc;

use proto::errors::with_sources;
use proto::snapshot::{Revocation, RevokedKind, User};
use tokio::runtime::Handle;

use super::{Catalogue, Client, RevokeError};
use crate::catalogue::{CHANGES_MAX, Change, ChangeError, Condition, Kind};
use crate::office::Office;
use crate::publish::Published;

/// The office, and the runtime on which it works.
pub struct Shelf {
    office: Arc<Office>,
    runtime: Handle,
}

impl Shelf {
    /// On the runtime of whoever makes it.
    pub fn new(office: Arc<Office>) -> Self {
        Self { office, runtime: Handle::current() }
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
                        return Err(RevokeError(Box::new(error)));
                    }
                }
            }
        }
        Ok(())
    }
}

fn put(revocation: &Revocation) -> Result<Change, RevokeError> {
    let value = serde_json::to_value(revocation).map_err(|error| RevokeError(error.into()))?;
    Ok(Change::Put { kind: Kind::Revocation, id: revocation.revoked.to_string(), value, condition: Condition::Any })
}
