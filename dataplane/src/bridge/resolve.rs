//! Names to addresses: a cache that workers read, and the questions that the bridge asks for them.
//!
//! Answers come from the hosts file or over DNS, A before AAAA, and are kept for their TTL. Which address is tried, and
//! for how long, is the business of `connect`.
//!
//! ```text
//! worker: literal? ─▶ address      cache fresh? ─▶ addresses      otherwise a question and a one-shot channel
//! bridge: one look-up for all who ask the same name ─▶ cache ─▶ everybody's channel
//! ```

mod cache;
mod lookup;

pub use lookup::NameServers;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::limits::{RESOLVER_NAMES_MAX, RESOLVER_QUESTIONS_MAX};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinSet};

use cache::{Cache, Cached, Outcome};
use lookup::Names;

/// Addresses of one name, at least one.
pub type Addresses = Arc<[IpAddr]>;

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist, or has no address.
    #[error("the name has no address")]
    Absent,
    /// No name server answered in time, or none with sense.
    #[error("the name could not be resolved")]
    Failed,
    /// Too many names are being asked for.
    #[error("too many names are being resolved")]
    Busy,
    /// The bridge is being started again.
    #[error("the resolver is not running")]
    Away,
}

/// The resolver, for workers.
#[derive(Debug, Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
    ask: mpsc::Sender<Question>,
}

#[derive(Debug)]
struct Shared {
    cache: Mutex<Cache>,
    counts: Arc<ResolverCounts>,
}

impl Shared {
    /// The cache is sound between any two of its calls, so a panic elsewhere does not spoil it.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Question {
    name: Box<str>,
    ttl_max: Duration,
    answer: oneshot::Sender<Result<Addresses, ResolveError>>,
}

/// Questions on their way to the bridge.
#[derive(Debug)]
pub(super) struct Questions {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Question>,
}

/// What the resolver did since start.
#[derive(Debug, Default)]
pub struct ResolverCounts {
    found: AtomicU64,
    absent: AtomicU64,
    failed: AtomicU64,
    names: AtomicU64,
}

impl ResolverCounts {
    /// Look-ups by their outcome's label.
    pub fn by_outcome(&self) -> [(&'static str, u64); 3] {
        [
            ("found", self.found.load(Relaxed)),
            ("absent", self.absent.load(Relaxed)),
            ("failed", self.failed.load(Relaxed)),
        ]
    }

    /// Names in the cache.
    pub fn names(&self) -> u64 {
        self.names.load(Relaxed)
    }

    fn count(&self, outcome: &Outcome, names: usize) {
        let counter = match outcome {
            Outcome::Found { .. } => &self.found,
            Outcome::Absent => &self.absent,
            Outcome::Failed => &self.failed,
        };
        counter.fetch_add(1, Relaxed);
        self.names.store(names as u64, Relaxed);
    }
}

impl Resolver {
    pub(super) fn new() -> (Self, Questions) {
        let (ask, queue) = mpsc::channel(RESOLVER_QUESTIONS_MAX);
        let shared = Arc::new(Shared { cache: Mutex::new(Cache::new(RESOLVER_NAMES_MAX)), counts: Arc::default() });
        (Self { shared: Arc::clone(&shared), ask }, Questions { shared, queue })
    }

    pub(super) fn counts(&self) -> Arc<ResolverCounts> {
        Arc::clone(&self.shared.counts)
    }

    /// The addresses of `host`: an address itself (IPv6 without brackets), or a name.
    ///
    /// An answer is used for as long as its TTL says, but for no longer than `ttl_max`. When the name servers fail, the
    /// last answer is used for up to an hour more. May be awaited on any runtime; the answer, or the error, comes
    /// within about `lookup::LOOKUP_DEADLINE`.
    pub async fn resolve(&self, host: &str, ttl_max: Duration) -> Result<Addresses, ResolveError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok([address].into());
        }
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase().into_boxed_str();
        if let Cached::Known(answer) = self.shared.cache().look(&name, ttl_max, Instant::now()) {
            return answer;
        }
        let (answer, reply) = oneshot::channel();
        self.ask.try_send(Question { name, ttl_max, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ResolveError::Busy,
            mpsc::error::TrySendError::Closed(_) => ResolveError::Away,
        })?;
        reply.await.unwrap_or(Err(ResolveError::Away))
    }
}

/// Answers questions until the resolver's last handle is gone.
pub(super) async fn serve(questions: &mut Questions, name_servers: &NameServers) {
    let mut desk = Desk {
        shared: Arc::clone(&questions.shared),
        names: Names::new(name_servers.clone()),
        waiting: HashMap::new(),
        lookups: JoinSet::new(),
        asked: HashMap::new(),
    };
    loop {
        tokio::select! {
            question = questions.queue.recv() => match question {
                Some(question) => desk.take(question),
                None => return,
            },
            Some(finished) = desk.lookups.join_next_with_id() => match finished {
                Ok((id, outcome)) => desk.finish(id, outcome),
                Err(error) => {
                    tracing::error!(%error, "a look-up failed");
                    desk.finish(error.id(), Outcome::Failed);
                }
            },
        }
    }
}

/// Look-ups that are under way, and who waits for them.
struct Desk {
    shared: Arc<Shared>,
    names: Names,
    waiting: HashMap<Box<str>, Vec<Question>>,
    lookups: JoinSet<Outcome>,
    asked: HashMap<Id, Box<str>>,
}

impl Desk {
    fn take(&mut self, question: Question) {
        if let Some(waiting) = self.waiting.get_mut(&question.name) {
            if waiting.len() < RESOLVER_QUESTIONS_MAX {
                waiting.push(question);
            } else {
                answer(question, Err(ResolveError::Busy));
            }
            return;
        }
        // Somebody else's answer may have arrived since the worker looked.
        let cached = self.shared.cache().look(&question.name, question.ttl_max, Instant::now());
        if let Cached::Known(known) = cached {
            return answer(question, known);
        }
        if self.waiting.len() >= RESOLVER_QUESTIONS_MAX {
            return answer(question, Err(ResolveError::Busy));
        }
        let lookup = self.names.look_up(&question.name);
        let task = self.lookups.spawn(lookup);
        self.asked.insert(task.id(), question.name.clone());
        self.waiting.insert(question.name.clone(), vec![question]);
    }

    fn finish(&mut self, id: Id, outcome: Outcome) {
        let Some(name) = self.asked.remove(&id) else { return };
        let now = Instant::now();
        let result = {
            let mut cache = self.shared.cache();
            let result = cache.keep(&name, &outcome, now);
            self.shared.counts.count(&outcome, cache.len());
            result
        };
        for question in self.waiting.remove(&name).into_iter().flatten() {
            answer(question, result.clone());
        }
    }
}

fn answer(question: Question, result: Result<Addresses, ResolveError>) {
    // Who asked may have given up.
    let _ = question.answer.send(result);
}

#[cfg(test)]
mod tests;
