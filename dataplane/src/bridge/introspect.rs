//! Opaque tokens: their issuers are asked, RFC 7662, without a worker waiting for it, and asked again for as long as
//! sessions live by the answer.
//!
//! ```text
//! worker: known? ─▶ answer      otherwise an inquiry and a one-shot channel
//! bridge: one question for all who ask about the same token ─▶ known ─▶ everybody's channel
//!         every now and then, of tokens that sessions live by: the same question, and workers are told what changed
//! ```
//!
//! What an answer grants is decided in [`authenticate`](crate::authenticate); what becomes of sessions in
//! [`standing`](crate::standing).

mod call;
mod known;
mod lanes;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use proto::limits::{INQUIRIES_MAX, INQUIRIES_WAITING_MAX};
use proto::snapshot::SecretHash;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinSet};

use super::callers::Callers;
use super::resolve::Resolver;
use crate::identity::{Claims, Grant};
use crate::inbox::{Inbox, Order};
use crate::issuers::{Believed, Issuers};

use call::CallError;
use known::Known;
use lanes::{Lanes, News, Turn};

/// How often it is looked whose turn it is to be asked about again, and workers are told what was heard.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What an issuer said of a token.
#[derive(Debug, Clone)]
pub enum Heard {
    /// It is good, and says this.
    Active(Arc<Claims>),
    /// It is not, or not any more.
    Inactive,
}

/// Nothing was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the issuer cannot be asked about the token")]
pub struct Silence;

/// A token of an issuer: the issuer's name, and the token's SHA-256.
pub type TokenName = (Arc<str>, SecretHash);

/// Opaque tokens, for workers.
#[derive(Debug, Clone)]
pub struct Introspector {
    shared: Arc<Shared>,
    ask: mpsc::Sender<Inquiry>,
}

struct Shared {
    known: Mutex<Known>,
    counts: Arc<IntrospectionCounts>,
    /// Who is told when something was heard of tokens that sessions live by.
    inboxes: OnceLock<Box<[Arc<Inbox>]>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Shared {
    /// Sound between any two calls, so a panic elsewhere does not spoil it.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question to the bridge. Has no `Debug`, because it would show the token.
struct Inquiry {
    about: About,
    answer: Answer,
}

#[derive(Clone)]
struct About {
    issuer: Arc<Believed>,
    hash: SecretHash,
    token: Arc<str>,
}

impl About {
    fn name(&self) -> TokenName {
        (Arc::clone(&self.issuer.name), self.hash)
    }
}

type Answer = oneshot::Sender<Result<Heard, Silence>>;

/// Questions on their way to the bridge.
pub(super) struct Inquiries {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Inquiry>,
}

/// What came of introspections since start.
#[derive(Debug, Default)]
pub struct IntrospectionCounts {
    active: AtomicU64,
    inactive: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    tokens: AtomicU64,
}

impl IntrospectionCounts {
    /// By their outcome's label.
    pub fn by_outcome(&self) -> [(&'static str, u64); 4] {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        [
            ("active", count(&self.active)),
            ("inactive", count(&self.inactive)),
            ("failed", count(&self.failed)),
            ("refused", count(&self.refused)),
        ]
    }

    /// Tokens of which something is known.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Relaxed)
    }
}

impl Introspector {
    pub(super) fn new() -> (Self, Inquiries) {
        let (ask, queue) = mpsc::channel(INQUIRIES_WAITING_MAX);
        let shared = Arc::new(Shared { known: Mutex::default(), counts: Arc::default(), inboxes: OnceLock::new() });
        (Self { shared: Arc::clone(&shared), ask }, Inquiries { shared, queue })
    }

    pub(super) fn counts(&self) -> Arc<IntrospectionCounts> {
        Arc::clone(&self.shared.counts)
    }

    /// Workers that are to be told, once they are there.
    pub fn tell(&self, inboxes: &[Arc<Inbox>]) {
        // The first gateway of the process is its only one.
        let _ = self.shared.inboxes.set(inboxes.into());
    }

    /// From now on issuers are asked as these say.
    pub fn follow(&self, issuers: &Issuers) {
        self.shared.known().follow(issuers);
    }

    /// What the issuer said of a token not long ago; asked without waiting.
    pub fn known(&self, issuer: &Arc<Believed>, hash: SecretHash, now: Instant) -> Option<Heard> {
        self.shared.known().look(issuer, hash, now)
    }

    /// Has the bridge ask the issuer. The answer comes within twice the time that is configured for it: a token waits as long
    /// for its turn as the issuer may take.
    pub async fn inquire(&self, issuer: Arc<Believed>, hash: SecretHash, token: Arc<str>) -> Result<Heard, Silence> {
        let (answer, reply) = oneshot::channel();
        let about = About { issuer, hash, token };
        if self.ask.try_send(Inquiry { about, answer }).is_err() {
            self.shared.counts.refused.fetch_add(1, Relaxed);
            return Err(Silence);
        }
        reply.await.unwrap_or(Err(Silence))
    }

    /// The grant of an active token that sessions share, so that all of them hear what is heard of it: this one, or one
    /// that says the same. `None` where it could not be asked about again.
    pub fn share(&self, name: &TokenName, grant: Grant) -> Option<Arc<Grant>> {
        self.shared.known().share(name, grant)
    }
}

/// Answers questions until the last handle is gone, and asks again about what sessions live by.
pub(super) async fn serve(inquiries: &mut Inquiries, resolver: &Resolver) {
    let mut desk = Desk {
        shared: Arc::clone(&inquiries.shared),
        callers: Callers::new(resolver.clone()),
        waiting: HashMap::new(),
        lanes: Lanes::default(),
        under_way: JoinSet::new(),
        asked: HashMap::new(),
        has_news: false,
    };
    let mut clock = tokio::time::interval(LOOK_EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            inquiry = inquiries.queue.recv() => match inquiry {
                Some(inquiry) => desk.take(inquiry),
                None => return,
            },
            Some(finished) = desk.under_way.join_next_with_id() => match finished {
                Ok((id, heard)) => desk.answered(id, heard),
                Err(error) => {
                    tracing::error!(%error, "an introspection failed");
                    desk.answered(error.id(), Err(CallError::NoAnswer));
                }
            },
            _ = clock.tick() => desk.look_around(Instant::now()),
        }
        desk.begin();
    }
}

/// Questions that are under way, and who waits for their answers.
struct Desk {
    shared: Arc<Shared>,
    callers: Callers,
    waiting: HashMap<TokenName, Vec<Answer>>,
    lanes: Lanes,
    under_way: JoinSet<Result<Heard, CallError>>,
    asked: HashMap<Id, About>,
    has_news: bool,
}

impl Desk {
    fn take(&mut self, inquiry: Inquiry) {
        let Inquiry { about, answer } = inquiry;
        // Somebody else's answer may have arrived since the worker looked.
        if let Some(heard) = self.shared.known().look(&about.issuer, about.hash, Instant::now()) {
            _ = answer.send(Ok(heard));
            return;
        }
        let name = about.name();
        let waits = self.waiting.get_mut(&name);
        match waits {
            Some(waiting) if waiting.len() < INQUIRIES_WAITING_MAX => waiting.push(answer),
            None if self.lanes.push(about, Instant::now()) => {
                self.waiting.insert(name, vec![answer]);
            }
            _ => {
                self.shared.counts.refused.fetch_add(1, Relaxed);
                _ = answer.send(Err(Silence));
            }
        }
    }

    fn begin(&mut self) {
        while let Some(turn) = self.lanes.next(Instant::now()) {
            let about = match turn {
                Turn::Ask(about) => about,
                Turn::Late(about) => {
                    self.finish(&about, Err(Silence));
                    continue;
                }
            };
            let client = about.issuer.tls.as_ref().map(|tls| self.callers.of(tls));
            let asked = about.clone();
            let task = self.under_way.spawn(async move {
                match client {
                    Some(Ok(client)) => call::ask(&about.issuer, &about.token, &client).await,
                    Some(Err(error)) => Err(error.into()),
                    None => Err(CallError::NoEndpoint),
                }
            });
            self.asked.insert(task.id(), asked);
        }
    }

    fn answered(&mut self, id: Id, heard: Result<Heard, CallError>) {
        let Some(about) = self.asked.remove(&id) else { return };
        let issuer = &*about.issuer.name;
        // Once, and not for each token: strangers can present as many as they like.
        match (self.lanes.finished(issuer, heard.is_ok()), &heard) {
            (Some(News::FellSilent), Err(error)) => {
                tracing::warn!(issuer, "the issuer cannot be asked about tokens: {error}");
            }
            (Some(News::Spoke), _) => tracing::info!(issuer, "the issuer can be asked about tokens again"),
            _ => {}
        }
        self.finish(&about, heard.map_err(|_| Silence));
    }

    fn finish(&mut self, about: &About, heard: Result<Heard, Silence>) {
        let counts = &self.shared.counts;
        let counter = match &heard {
            Ok(Heard::Active(_)) => &counts.active,
            Ok(Heard::Inactive) => &counts.inactive,
            Err(Silence) => &counts.failed,
        };
        counter.fetch_add(1, Relaxed);
        self.has_news |= self.shared.known().keep(about, &heard, Instant::now());
        for answer in self.waiting.remove(&about.name()).into_iter().flatten() {
            // Who asked may have given up.
            let _ = answer.send(heard.clone());
        }
    }

    /// Asks again where it is time, forgets what nobody needs, and tells workers what has changed, once for all of it.
    fn look_around(&mut self, now: Instant) {
        let mut known = self.shared.known();
        let due = known.due(now, INQUIRIES_MAX);
        let count = known.len() as u64;
        drop(known);
        self.shared.counts.tokens.store(count, Relaxed);
        for about in due {
            if let Entry::Vacant(place) = self.waiting.entry(about.name()) {
                // One that has no place now is due again after its time.
                if self.lanes.push_again(about) {
                    place.insert(Vec::new());
                }
            }
        }
        if std::mem::take(&mut self.has_news) {
            for inbox in self.shared.inboxes.get().into_iter().flatten() {
                inbox.give(Order::LookAgain);
            }
        }
    }
}

#[cfg(test)]
mod tests;
