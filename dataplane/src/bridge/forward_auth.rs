//! Questions to services that decide for on-upgrade policies: asked with a GET, within a deadline, and so many at a time.
//!
//! What is asked and what an answer means is [`policy`](crate::policy)'s; here it is carried there and back. Without the
//! bridge every question fails at once, which a policy takes for "nobody can be asked".
//!
//! ```text
//! worker: a place among the questions under way ─▶ queue        (none left: busy)
//! bridge: one task for each ─▶ head ─▶ the body of a no, 64 KiB of it at most ─▶ worker
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use proto::limits::{FORWARD_AUTH_BODY_BYTES_MAX, FORWARD_AUTH_CALLS_MAX};
use reqwest::header::HeaderMap;
use reqwest::{Client, Response, Url};
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::callers::Callers;
use super::resolve::Resolver;

/// A question. Its headers hold credentials, so there is no `Debug`.
pub struct Call {
    /// On whose word the service is believed, where its URL says `https`.
    pub tls: Arc<ClientConfig>,
    /// The service.
    pub url: Url,
    /// What it is told.
    pub headers: HeaderMap,
    /// How long all of it may take.
    pub timeout: Duration,
}

/// What a service said.
pub struct Answer {
    /// From 200 to 499.
    pub status: u16,
    /// Its fields.
    pub headers: HeaderMap,
    /// What was taken of its body; nothing of that of a yes.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether it is a yes.
    pub fn is_yes(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// So many questions are under way that no more is asked.
    #[error("too many questions are under way")]
    Busy,
    /// The bridge is being started again.
    #[error("nobody can ask")]
    Away,
    /// There was none in time.
    #[error("there was no answer in time")]
    Late,
    /// No connection, no TLS session, or an answer that is none.
    #[error("the service cannot be reached, or its answer is no HTTP")]
    Failed,
    /// It answered with a status that decides nothing.
    #[error("the service answered with {0}")]
    Status(u16),
}

/// The way to ask, for workers.
#[derive(Debug, Clone)]
pub struct ForwardAuth {
    places: Arc<Semaphore>,
    queue: mpsc::Sender<Question>,
    counts: Arc<ForwardAuthCounts>,
}

struct Question {
    call: Call,
    answer: oneshot::Sender<Result<Answer, CallError>>,
    _place: OwnedSemaphorePermit,
}

/// Questions on their way to the bridge.
pub(super) struct Questions {
    queue: mpsc::Receiver<Question>,
    counts: Arc<ForwardAuthCounts>,
}

/// What services said since start.
#[derive(Debug, Default)]
pub struct ForwardAuthCounts {
    allowed: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    late: AtomicU64,
    busy: AtomicU64,
}

impl ForwardAuthCounts {
    /// Questions by their outcome's label.
    pub fn by_outcome(&self) -> [(&'static str, u64); 5] {
        [
            ("allowed", self.allowed.load(Relaxed)),
            ("refused", self.refused.load(Relaxed)),
            ("failed", self.failed.load(Relaxed)),
            ("late", self.late.load(Relaxed)),
            ("busy", self.busy.load(Relaxed)),
        ]
    }

    fn count(&self, outcome: &Result<Answer, CallError>) {
        let counter = match outcome {
            Ok(answer) if answer.is_yes() => &self.allowed,
            Ok(_) => &self.refused,
            Err(CallError::Busy) => &self.busy,
            Err(CallError::Late) => &self.late,
            Err(CallError::Away | CallError::Failed | CallError::Status(_)) => &self.failed,
        };
        counter.fetch_add(1, Relaxed);
    }
}

impl ForwardAuth {
    pub(super) fn new() -> (Self, Questions) {
        let (sender, queue) = mpsc::channel(FORWARD_AUTH_CALLS_MAX);
        let counts: Arc<ForwardAuthCounts> = Arc::default();
        let places = Arc::new(Semaphore::new(FORWARD_AUTH_CALLS_MAX));
        (Self { places, queue: sender, counts: Arc::clone(&counts) }, Questions { queue, counts })
    }

    pub(super) fn counts(&self) -> Arc<ForwardAuthCounts> {
        Arc::clone(&self.counts)
    }

    /// Asks. May be awaited on any runtime; who stops waiting ends the question.
    pub async fn ask(&self, call: Call) -> Result<Answer, CallError> {
        let failed = |error| {
            let outcome = Err(error);
            self.counts.count(&outcome);
            outcome
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return failed(CallError::Busy) };
        let (answer, reply) = oneshot::channel();
        match self.queue.try_send(Question { call, answer, _place: place }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return failed(CallError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => return failed(CallError::Away),
        }
        match reply.await {
            Ok(outcome) => outcome,
            Err(_) => failed(CallError::Away),
        }
    }
}

/// Carries questions until the last way to ask is gone.
pub(super) async fn serve(questions: &mut Questions, resolver: &Resolver) {
    let mut callers = Callers::new(resolver.clone());
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            question = questions.queue.recv() => match question {
                Some(question) => match callers.of(&question.call.tls) {
                    Ok(client) => _ = calls.spawn(carry(client, question, Arc::clone(&questions.counts))),
                    Err(error) => {
                        tracing::error!(%error, "there is no HTTP client");
                        // Dropped, the question fails.
                    }
                },
                None => return,
            },
            Some(finished) = calls.join_next() => if let Err(error) = finished {
                tracing::error!(%error, "a question to a service failed");
            },
        }
    }
}

async fn carry(client: Client, question: Question, counts: Arc<ForwardAuthCounts>) {
    let Question { call, mut answer, _place } = question;
    let deadline = Instant::now() + call.timeout;
    let (outcome, rest) = tokio::select! {
        heard = hear(client, call, deadline) => heard,
        // Nobody waits any more: the client has gone.
        () = answer.closed() => return,
    };
    counts.count(&outcome);
    let _ = answer.send(outcome);
    if let Some(mut response) = rest {
        // A connection whose answer has been read can be used again.
        take_body(&mut response, deadline).await;
    }
}

/// The answer, and, of a yes, the response whose body nobody waits for.
async fn hear(client: Client, call: Call, deadline: Instant) -> (Result<Answer, CallError>, Option<Response>) {
    let asked = timeout_at(deadline, client.get(call.url).headers(call.headers).send()).await;
    let mut response = match asked {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            // Its URL may have a key in its query.
            let error = error.without_url();
            tracing::debug!(%error, "a service that decides for a policy gave no answer");
            return (Err(CallError::Failed), None);
        }
        Err(_) => return (Err(CallError::Late), None),
    };
    let status = response.status().as_u16();
    if !(200..500).contains(&status) {
        return (Err(CallError::Status(status)), None);
    }
    let mut answer = Answer { status, headers: std::mem::take(response.headers_mut()), body: Vec::new() };
    if answer.is_yes() {
        return (Ok(answer), Some(response));
    }
    answer.body = take_body(&mut response, deadline).await;
    (Ok(answer), None)
}

/// As much of the body as there is room for, and comes in time.
async fn take_body(response: &mut Response, deadline: Instant) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < FORWARD_AUTH_BODY_BYTES_MAX {
        let Ok(Ok(Some(piece))) = timeout_at(deadline, response.chunk()).await else { break };
        let room = FORWARD_AUTH_BODY_BYTES_MAX - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    body
}
