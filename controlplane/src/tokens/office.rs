//! The office as the token endpoint sees it: clients, users, what is revoked, and revoking.
//!
//! Called off the runtime's threads, as the desk is; what the office does there and then is waited for.

use std::sync::Arc;

use proto::errors::with_sources;
use proto::snapshot::{Revocation, RevokedKind, User};
use tokio::runtime::Handle;

use super::{Catalogue, Client, RevokeError};
use crate::catalogue::{Change, ChangeError, Condition, Kind};
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

    fn revoke(&self, revocations: Vec<Revocation>) -> Result<(), RevokeError> {
        for one in revocations {
            let value = serde_json::to_value(&one).map_err(|error| RevokeError(error.into()))?;
            let id = one.revoked.to_string();
            let change = Change::Put { kind: Kind::Revocation, id, value, condition: Condition::Any };
            match self.runtime.block_on(self.office.change(vec![change], None)) {
                // What the configuration declares is revoked already.
                Ok(_) | Err(ChangeError::Declared { .. }) => {}
                Err(error) => return Err(RevokeError(Box::new(error))),
            }
        }
        Ok(())
    }
}
