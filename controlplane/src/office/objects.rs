//! The catalogue at the office: looking objects up, changing them, and publishing what comes of it.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::snapshot::{Application, OAuthClient, Snapshot, Timestamp};
use tokio::sync::watch;

use super::{Office, blocking};
use crate::answer::Counted;
use crate::catalogue::{
    Change, ChangeError, Changed, Condition, Declared, Entry, Filter, Kind, Object, PAGE_MAX, Page, built_in,
    built_in_list, count, counts, expired, find, list,
};
use crate::publish::Published;
use crate::store::{Store, StoreError};

/// How often it is looked whether a revocation may be forgotten.
const PRUNES_EVERY: Duration = Duration::from_secs(10);

impl Office {
    /// The control plane's database.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The configuration file as it is in force, whenever another one is. It has what is not pushed: the token endpoint,
    /// and the secrets of clients.
    pub fn declared(&self) -> watch::Receiver<Option<Arc<Declared>>> {
        self.declared.subscribe()
    }

    /// Some objects of a kind, declared and stored ones, in the order of their ids: those behind `after`, at most `limit`
    /// and [`PAGE_MAX`].
    pub async fn list(
        &self,
        kind: Kind,
        filter: Filter,
        after: Option<String>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (store, declared) = (Arc::clone(&self.store), self.declared.borrow().clone());
        let limit = limit.clamp(1, PAGE_MAX);
        blocking(move || {
            let after = after.unwrap_or_default();
            let mut items = store.read(|connection| list(connection, kind, &filter, &after, limit + 1))?;
            if let Some(declared) = declared {
                // What is stored under a name that the file now declares is not in force; the file is refused then.
                let declared = declared.list(kind, &filter, &after, limit + 1);
                items.retain(|stored| declared.binary_search_by(|one| one.id.cmp(&stored.id)).is_err());
                items.extend(declared);
                items.sort_by(|a, b| a.id.cmp(&b.id));
            }
            if kind == Kind::Plan {
                let mut ours = built_in_list(&filter, &after);
                ours.retain(|one| items.binary_search_by(|other| other.id.cmp(&one.id)).is_err());
                items.extend(ours);
                items.sort_by(|a, b| a.id.cmp(&b.id));
            }
            let more = items.len() > limit;
            items.truncate(limit);
            let next = items.last().filter(|_| more).map(|last| last.id.clone());
            Ok(Page { items, next })
        })
        .await
    }

    /// One object.
    pub async fn find(&self, kind: Kind, id: &str) -> Result<Option<Object>, StoreError> {
        let declared = self.declared.borrow().as_ref().and_then(|declared| declared.find(kind, id));
        if declared.is_some() {
            return Ok(declared);
        }
        let (store, id) = (Arc::clone(&self.store), id.to_owned());
        blocking(move || {
            let stored = store.read(|connection| find(connection, kind, &id))?;
            Ok(stored.or_else(|| built_in(&id).filter(|_| kind == Kind::Plan)))
        })
        .await
    }

    /// An OAuth2 client, with the hash of its secret, and its application.
    pub async fn client(&self, id: &str) -> Result<Option<(Application, OAuthClient)>, StoreError> {
        let declared = self.declared.borrow().clone();
        if let Some((application, client)) = declared.as_ref().and_then(|declared| declared.client(id)) {
            return Ok(Some((application.clone(), client.clone())));
        }
        let owner = self.clients.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let Some(owner) = owner else { return Ok(None) };
        let Some(object) = self.find(Kind::Application, &owner).await? else { return Ok(None) };
        let Ok(Entry::Application(application)) = Entry::read(Kind::Application, object.value) else { return Ok(None) };
        let client = application.clients.iter().find(|client| client.id == id).cloned();
        Ok(client.map(|client| (application, client)))
    }

    /// Makes all of these changes or none. They are on the disk and published when this returns; with `wait`, the nodes
    /// have had so much time to answer. What has begun is finished though nobody waits for it any more.
    pub async fn change(&self, changes: Vec<Change>, wait: Option<Duration>) -> Result<Changed, ChangeError> {
        let count = changes.len();
        let mut books = Arc::clone(&self.books).lock_owned().await;
        let publisher = Arc::clone(&self.publisher);
        let now = timestamp(SystemTime::now());
        let (done, nodes, published) = blocking(move || {
            let mut done = books.change(changes, now)?;
            // Whoever connects from here on gets it as its first push, and is not waited for.
            let nodes = publisher.nodes();
            let published = match done.snapshot.take() {
                Some(snapshot) => {
                    let published = publisher.publish(snapshot);
                    let (number, nodes) = (published.generation.number, nodes.len());
                    tracing::info!(
                        generation = number,
                        changes = count,
                        nodes,
                        why = "the catalogue changed",
                        "published"
                    );
                    Some(published)
                }
                None => publisher.current(),
            };
            Ok::<_, ChangeError>((done, nodes, published))
        })
        .await?;
        self.look_again();
        let generation = published.as_ref().map(|published: &Arc<Published>| published.generation.clone());
        let nodes = match (&generation, wait) {
            (Some(generation), Some(wait)) => self.publisher.outcomes(&nodes, generation, Instant::now() + wait).await,
            _ => Vec::new(),
        };
        Ok(Changed { objects: done.objects, removed: done.removed, generation, nodes })
    }

    /// How many objects a snapshot has, and how many are stored.
    pub(super) async fn count(&self, snapshot: &Snapshot) -> Vec<Counted> {
        let store = Arc::clone(&self.store);
        let stored = blocking(move || store.read(counts)).await.unwrap_or_default();
        let counted = |kind: Kind| Counted {
            kind: kind.word().into(),
            total: count(snapshot, kind) as u64,
            stored: stored.get(&kind).copied().unwrap_or_default(),
        };
        Kind::ALL.into_iter().map(counted).filter(|one| one.total > 0).collect()
    }

    /// Forgets revocations whose time is over, for as long as it runs.
    pub async fn prune(&self) {
        loop {
            let now = timestamp(SystemTime::now());
            match self.forget(now).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "revocations that have run out are forgotten"),
                Err(error) => {
                    let error = proto::errors::with_sources(&error);
                    tracing::warn!(error, "revocations that have run out cannot be forgotten");
                }
            }
            tokio::time::sleep(PRUNES_EVERY).await;
        }
    }

    /// Forgets the revocations that have run out by now; how many.
    pub async fn forget(&self, now: Timestamp) -> Result<usize, ChangeError> {
        let mut count = 0;
        loop {
            let store = Arc::clone(&self.store);
            let gone = blocking(move || store.read(|connection| expired(connection, now, PAGE_MAX))).await?;
            if gone.is_empty() {
                return Ok(count);
            }
            count += gone.len();
            let delete = |id| Change::Delete { kind: Kind::Revocation, id, condition: Condition::Any, cascade: false };
            match self.change(gone.into_iter().map(delete).collect(), None).await {
                // Somebody else has deleted one of them meanwhile: what is left is looked for again.
                Ok(_) | Err(ChangeError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A file that was refused may be sound now that the catalogue has changed.
    fn look_again(&self) {
        if self.last.lock().unwrap_or_else(PoisonError::into_inner).is_clash {
            self.watched.send_modify(|watched| watched.again = Some(SystemTime::now()));
        }
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::from_secs(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
