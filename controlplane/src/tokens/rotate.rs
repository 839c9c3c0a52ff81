//! Keeps the signing keys where they should be: made in time or when an operator asks, kept, published, used, and let go.
//!
//! The order matters: a key is on the disk before anybody hears of it, and published before it signs. Which key comes when
//! is the keyring's to say.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::errors::with_sources;
use ring::rand::SystemRandom;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::board::Board;
use super::desk::Desk;
use super::keyring::{Keyring, ReplaceError, Rotation};
use super::{Terms, ledger};
use crate::compile::Tokens;
use crate::office::Office;
use crate::store::Store;

/// The longest sleep before a look at the clock, which may be set.
const NAP: Duration = Duration::from_secs(60);
/// How long a new key waits for nodes that do not answer.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// When what has failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Operators whose request waits, and how long each does.
const WAITING_MAX: usize = 8;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The key that takes over next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// Its name.
    pub kid: String,
    /// From when on it signs.
    pub signs_from: SystemTime,
    /// The key that has signed until now.
    pub replaces: Option<String>,
    /// How many keys are published.
    pub keys: usize,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// Nothing is signed here.
    #[error("no tokens are issued here; the configuration has no token_endpoint")]
    NoEndpoint,
    /// The keys stand against it.
    #[error(transparent)]
    Replace(ReplaceError),
    /// What is in the log.
    #[error("the signing key cannot be replaced now; the control plane's log says why")]
    Unable,
}

/// Where operators ask for another key, and where that is heard.
pub struct Rotations {
    asking: mpsc::Sender<Asked>,
    asked: Mutex<mpsc::Receiver<Asked>>,
}

struct Asked {
    at_once: bool,
    told: oneshot::Sender<Result<Successor, RotateError>>,
}

impl Default for Rotations {
    fn default() -> Self {
        let (asking, asked) = mpsc::channel(WAITING_MAX);
        Self { asking, asked: Mutex::new(asked) }
    }
}

impl Rotations {
    /// Has the next key made and published; it takes over in its time, or at once.
    pub async fn ask(&self, at_once: bool) -> Result<Successor, RotateError> {
        let (told, answer) = oneshot::channel();
        let asking = async {
            self.asking.send(Asked { at_once, told }).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(ANSWER_WITHIN, asking).await.ok().flatten().unwrap_or(Err(RotateError::Unable))
    }
}

/// Works for as long as the control plane runs.
pub async fn follow(
    desk: Arc<Desk>,
    store: Arc<Store>,
    office: Arc<Office>,
    board: Arc<Board>,
    mut tokens: watch::Receiver<Arc<Tokens>>,
) {
    let keeper = Keeper { desk, store, office: Arc::clone(&office), board };
    let mut asked = office.rotations().asked.lock().await;
    loop {
        let terms = tokens.borrow_and_update().terms.clone();
        let wait = match &terms {
            None => None,
            Some(terms) => Some(keeper.step(terms, None).await.unwrap_or(AGAIN)),
        };
        tokio::select! {
            changed = tokens.changed() => if changed.is_err() { return },
            Some(Asked { at_once, told }) = asked.recv() => {
                let outcome = match &terms {
                    None => Err(RotateError::NoEndpoint),
                    Some(terms) => keeper.replace(terms, at_once).await,
                };
                // Whoever asked may have gone.
                let _ = told.send(outcome);
            }
            () = sleep(wait) => {}
        }
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait.min(NAP)).await,
        None => std::future::pending().await,
    }
}

/// Who keeps the keys.
struct Keeper {
    desk: Arc<Desk>,
    store: Arc<Store>,
    office: Arc<Office>,
    board: Arc<Board>,
}

impl Keeper {
    /// Has the next key made, published and, in its time, used.
    async fn replace(&self, terms: &Terms, at_once: bool) -> Result<Successor, RotateError> {
        let replaces = self.desk.keyring().signing(milliseconds(SystemTime::now())).map(|key| key.kid().to_owned());
        self.step(terms, Some(at_once)).await?;
        let ring = self.desk.keyring();
        let newest = ring.keys().last().ok_or(RotateError::Unable)?;
        let signs_from = UNIX_EPOCH + Duration::from_millis(newest.signs_from_ms);
        Ok(Successor { kid: newest.kid().to_owned(), signs_from, replaces, keys: ring.keys().len() })
    }

    /// Brings the keys to where they should be, with another one where that was asked for (at once or not); how long until
    /// the next time.
    async fn step(&self, terms: &Terms, asked: Option<bool>) -> Result<Duration, RotateError> {
        let rotation = match terms.rotation() {
            Ok(rotation) => rotation,
            Err(fault) => {
                // It was found good when the configuration was read.
                tracing::error!(fault, "the token endpoint's signing key cannot be used; the old one stays");
                return if asked.is_some() { Err(RotateError::Unable) } else { Ok(NAP) };
            }
        };
        let before = self.desk.keyring();
        let now_ms = milliseconds(SystemTime::now());
        let mut ring = Keyring::clone(&before);
        if let Some(at_once) = asked {
            let replaced = ring.replace(&rotation, at_once, now_ms, &SystemRandom::new());
            replaced.map_err(RotateError::Replace)?;
        }
        let again_ms = match renewed(&mut ring, &rotation, now_ms, &self.store, asked.is_some()).await {
            Ok(again_ms) => again_ms,
            Err(fault) => {
                tracing::error!(fault, "the signing keys cannot be renewed; those that are there stay");
                return Err(RotateError::Unable);
            }
        };
        tell(&before, &ring, now_ms);
        let text = ring.published().text();
        if self.office.keys().own.as_ref() != Some(&text) {
            self.office.change_keys(|keys| keys.own = Some(text), "the gateway's own keys have changed").await;
            known_to_nodes(&self.office).await;
        }
        let time = |ms: u64| UNIX_EPOCH + Duration::from_millis(ms);
        let signing = ring.signing(now_ms).map(|key| key.kid().to_owned());
        self.board.keys(ring.keys().len() as u64, signing, again_ms.map(time));
        self.desk.use_keyring(ring);
        Ok(again_ms.map_or(NAP, |at| Duration::from_millis(at.saturating_sub(now_ms) + 1)))
    }
}

/// Waits until the nodes that are there have what is published: the first key of all has no other time to wait.
async fn known_to_nodes(office: &Office) {
    let publisher = office.publisher();
    let Some(current) = publisher.current() else { return };
    let nodes = publisher.nodes();
    publisher.outcomes(&nodes, &current.generation, Instant::now() + KNOWN_WITHIN).await;
}

/// Steps, and keeps what has changed.
async fn renewed(
    ring: &mut Keyring,
    rotation: &Rotation,
    now_ms: u64,
    store: &Arc<Store>,
    has_another: bool,
) -> Result<Option<u64>, String> {
    let step = ring.step(rotation, now_ms, &SystemRandom::new()).map_err(|error| error.to_string())?;
    if step.has_changed || has_another {
        let (store, kept) = (Arc::clone(store), ring.clone());
        let keeping = tokio::task::spawn_blocking(move || ledger::keep_keyring(&store, &kept)).await;
        keeping.map_err(|error| error.to_string())?.map_err(|error| with_sources(&error))?;
    }
    Ok(step.again_ms)
}

fn tell(before: &Keyring, after: &Keyring, now_ms: u64) {
    let has = |ring: &Keyring, kid: &str| ring.keys().iter().any(|key| key.kid() == kid);
    for key in after.keys().iter().filter(|key| !has(before, key.kid())) {
        let signs_in_s = key.signs_from_ms.saturating_sub(now_ms) / 1000;
        tracing::info!(kid = key.kid(), signs_in_s, "a new signing key is published");
    }
    for key in before.keys().iter().filter(|key| !has(after, key.kid())) {
        tracing::info!(kid = key.kid(), "a signing key is withdrawn: its last token has run out");
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
