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
use super::keyring::{Held, Keyring, ReplaceError, Rotation};
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
            Some(terms) => Some(keeper.step(terms).await.unwrap_or(AGAIN)),
        };
        tokio::select! {
            changed = tokens.changed() => if changed.is_err() { return },
            Some(Asked { at_once, told }) = next(&mut asked) => {
                let outcome = match &terms {
                    None => Err(RotateError::NoEndpoint),
                    Some(terms) => keeper.replace(terms, at_once).await,
                };
                if let Err(Ok(successor)) = told.send(outcome) {
                    let kid = successor.kid;
                    tracing::warn!(kid, "the signing key has been replaced, too late for whoever asked for it");
                }
            }
            () = sleep(wait) => {}
        }
    }
}

/// The next request of somebody who still waits: to others it has been said that nothing comes of theirs.
async fn next(asked: &mut mpsc::Receiver<Asked>) -> Option<Asked> {
    loop {
        let next = asked.recv().await?;
        if !next.told.is_closed() {
            return Some(next);
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
    /// Has the next key made and published; it signs in its time, or as soon as the nodes have it.
    async fn replace(&self, terms: &Terms, at_once: bool) -> Result<Successor, RotateError> {
        let rotation = terms.rotation().map_err(unusable)?;
        let before = self.desk.keyring();
        let now_ms = milliseconds(SystemTime::now());
        let replaces = before.signing(now_ms).map(|key| key.kid().to_owned());
        let mut ring = Keyring::clone(&before);
        let is_made = ring.replace(&rotation, now_ms, &SystemRandom::new()).map_err(RotateError::Replace)?;
        self.settle(ring, is_made, &rotation).await?;
        if at_once {
            if !is_made {
                // It was published for an earlier request; who was away then has another chance.
                known_to_nodes(&self.office).await;
            }
            self.switch(&rotation).await?;
        }
        let ring = self.desk.keyring();
        let newest = ring.keys().last().ok_or(RotateError::Unable)?;
        let signs_from = UNIX_EPOCH + Duration::from_millis(newest.signs_from_ms);
        Ok(Successor { kid: newest.kid().to_owned(), signs_from, replaces, keys: ring.keys().len() })
    }

    /// Has the newest key, which is published, sign from now on.
    async fn switch(&self, rotation: &Rotation) -> Result<(), RotateError> {
        let mut ring = Keyring::clone(&self.desk.keyring());
        ring.sign_with_newest(milliseconds(SystemTime::now()));
        self.keep(&ring).await?;
        tracing::info!(kid = ring.keys().last().map(Held::kid), "the newest signing key signs from now on");
        self.desk.use_keyring(ring.clone());
        // The key before it has signed its last token by now, and not earlier: its end counts from here. What fails of this
        // has been told, and is done by the next step.
        let _ = self.settle(ring, false, rotation).await;
        Ok(())
    }

    /// Brings the keys to where they should be; how long until the next time.
    async fn step(&self, terms: &Terms) -> Result<Duration, RotateError> {
        match terms.rotation() {
            Ok(rotation) => self.settle(Keyring::clone(&self.desk.keyring()), false, &rotation).await,
            Err(fault) => {
                unusable(fault);
                Ok(NAP)
            }
        }
    }

    /// Brings these keys to where they should be; has them kept, if they are others than before, published, and used.
    async fn settle(&self, mut ring: Keyring, is_other: bool, rotation: &Rotation) -> Result<Duration, RotateError> {
        let now_ms = milliseconds(SystemTime::now());
        let step = ring.step(rotation, now_ms, &SystemRandom::new()).map_err(|error| {
            tracing::error!(%error, "the signing keys cannot be renewed; those that are there stay");
            RotateError::Unable
        })?;
        if step.has_changed || is_other {
            self.keep(&ring).await?;
        }
        self.publish(&ring).await?;
        tell(&self.desk.keyring(), &ring, now_ms);
        let time = |ms: u64| UNIX_EPOCH + Duration::from_millis(ms);
        let signing = ring.signing(now_ms).map(|key| key.kid().to_owned());
        self.board.keys(ring.keys().len() as u64, signing, step.again_ms.map(time));
        self.desk.use_keyring(ring);
        Ok(step.again_ms.map_or(NAP, |at| Duration::from_millis(at.saturating_sub(now_ms) + 1)))
    }

    async fn keep(&self, ring: &Keyring) -> Result<(), RotateError> {
        let (store, ring) = (Arc::clone(&self.store), ring.clone());
        let keeping = tokio::task::spawn_blocking(move || ledger::keep_keyring(&store, &ring)).await;
        let kept =
            keeping.map_err(|error| error.to_string()).and_then(|kept| kept.map_err(|error| with_sources(&error)));
        kept.map_err(|error| {
            tracing::error!(error, "the signing keys cannot be kept; those that are there stay");
            RotateError::Unable
        })
    }

    /// Has the nodes know these keys, as far as they answer, before one of them signs.
    async fn publish(&self, ring: &Keyring) -> Result<(), RotateError> {
        let text = ring.published().text();
        if self.office.keys().own.as_ref() == Some(&text) {
            return Ok(());
        }
        if !self.office.publish_own_keys(text).await {
            tracing::warn!("the signing keys are not published, for no tokens are issued any more; the old ones stay");
            return Err(RotateError::Unable);
        }
        known_to_nodes(&self.office).await;
        Ok(())
    }
}

/// The operator's key was found good when the configuration was read.
fn unusable(fault: String) -> RotateError {
    tracing::error!(fault, "the token endpoint's signing key cannot be used; the old one stays");
    RotateError::Unable
}

/// Waits until the nodes that are there have what is published: the first key of all has no other time to wait.
async fn known_to_nodes(office: &Office) {
    let publisher = office.publisher();
    let Some(current) = publisher.current() else { return };
    let nodes = publisher.nodes();
    publisher.outcomes(&nodes, &current.generation, Instant::now() + KNOWN_WITHIN).await;
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

#[cfg(test)]
mod tests {
    use proto::snapshot::{Jwks, OWN_ISSUER, SigningAlgorithm};

    use super::super::office::Shelf;
    use super::*;
    use crate::catalogue::{Change, Condition, Kind};

    /// A control plane that issues tokens, as far as keys go, with a file that a test spoils.
    struct House {
        office: Arc<Office>,
        desk: Arc<Desk>,
        file: std::path::PathBuf,
        _directory: tempfile::TempDir,
    }

    const FILE: &str = "version: 1\ntoken_endpoint: { bind: \"127.0.0.1:1\", issuer: \"http://127.0.0.1:1\" }\n";

    async fn house() -> House {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.yaml");
        std::fs::write(&file, FILE).unwrap();
        let office = Office::new(file.clone(), directory.path().join("state"), "run".into(), Instant::now()).unwrap();
        let office = Arc::new(office);
        assert!(office.reload("a test").await.diagnostics.is_empty());
        let (store, board) = (Arc::clone(office.store()), Arc::clone(office.board()));
        let shelf = Arc::new(Shelf::new(Arc::clone(&office)));
        let desk = Arc::new(Desk::new(shelf, Arc::clone(&store), ledger::keyring(&store).unwrap()));
        tokio::spawn(follow(Arc::clone(&desk), store, Arc::clone(&office), board, office.tokens()));
        while desk.keyring().keys().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        House { office, desk, file, _directory: directory }
    }

    impl House {
        fn signing(&self) -> String {
            self.desk.keyring().signing(milliseconds(SystemTime::now())).unwrap().kid().to_owned()
        }

        /// Whether the data planes are told of this key.
        fn has(&self, kid: &str) -> bool {
            let current = self.office.publisher().current().unwrap();
            let own = current.snapshot.issuers().iter().find(|one| one.name == OWN_ISSUER).unwrap();
            matches!(&own.jwks, Some(Jwks::Text(text)) if text.contains(kid))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_key_signs_only_where_it_is_published_also_while_the_file_is_not_sound() {
        let house = house().await;
        let first = house.signing();
        assert!(house.has(&first));
        std::fs::write(&house.file, "version: 1\napis: [{ name: broken }]\n").unwrap();
        house.office.refresh("a test").await;
        for at_once in [false, true] {
            let next = house.office.rotations().ask(at_once).await.unwrap();
            assert!(house.has(&next.kid), "at once: {at_once}");
            assert_eq!(house.signing() == next.kid, at_once);
        }
        let second = house.signing();
        assert!(second != first && house.has(&first), "its tokens are good");
        // Neither a change of an API nor the mended file brings the keys of before back.
        let value = serde_json::json!({
            "name": "quotes", "context": "/quotes", "endpoints": { "production": { "url": "ws://127.0.0.1:2/" } }
        });
        let id = "quotes".to_owned();
        let api = Change::Put { kind: Kind::Api, id, value, condition: Condition::Any };
        house.office.change(vec![api], None).await.unwrap();
        assert!(house.has(&second));
        std::fs::write(&house.file, format!("{FILE}listeners: []\n")).unwrap();
        assert!(house.office.reload("a test").await.diagnostics.is_empty());
        assert!(house.has(&second));
        std::fs::write(&house.file, "version: 1\n").unwrap();
        assert!(house.office.reload("a test").await.diagnostics.is_empty());
        assert!(!house.office.publish_own_keys("{}".into()).await, "no tokens are issued any more");
        // The keeper of the keys hears of it in its own time.
        let begun = Instant::now();
        while !matches!(house.office.rotations().ask(true).await, Err(RotateError::NoEndpoint)) {
            assert!(begun.elapsed() < Duration::from_secs(10), "there is no endpoint any more");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_key_that_is_replaced_at_once_stays_until_its_last_token_has_run_out() {
        let house = house().await;
        let first = house.signing();
        // A node that does not answer is waited for, and the old key signs all the while.
        let hello = proto::control::message::Hello {
            protocol: proto::control::PROTOCOL_VERSION,
            node: "edge".into(),
            software: "test".into(),
            pid: 1,
            applied: None,
            sections: Vec::new(),
        };
        house.office.publisher().connected(hello, mpsc::channel(1).0, Instant::now());
        let signs = async {
            let mut last_ms = 0;
            loop {
                let now_ms = milliseconds(SystemTime::now());
                if house.signing() != first {
                    return last_ms;
                }
                last_ms = now_ms;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let (last_ms, next) = tokio::join!(signs, house.office.rotations().ask(true));
        assert_eq!(house.signing(), next.unwrap().kid);
        let ring = house.desk.keyring();
        let until_ms = ring.keys()[0].published_until_ms.unwrap();
        assert!(until_ms >= last_ms + 3_600_000 + 1000, "{until_ms} is too early: it has signed at {last_ms}");
        assert!(until_ms < last_ms + 3_600_000 + 30_000);
        let kept = ledger::keyring(house.office.store()).unwrap();
        assert_eq!(kept.keys()[0].published_until_ms, Some(until_ms));
        assert_eq!(kept.keys()[1].signs_from_ms, ring.keys()[1].signs_from_ms);
        assert_eq!(kept.keys()[1].algorithm, SigningAlgorithm::EdDsa);
    }

    #[tokio::test]
    async fn what_was_refused_because_it_took_too_long_does_not_happen() {
        let rotations = Rotations::default();
        for _ in 1..WAITING_MAX {
            let gone = tokio::time::timeout(Duration::from_millis(1), rotations.ask(true)).await;
            assert!(gone.is_err(), "nobody hears it");
        }
        let asked = &mut *rotations.asked.lock().await;
        let hear = async {
            let Asked { at_once, told } = next(asked).await.unwrap();
            assert!(!at_once, "the only one who still waits has not asked for that");
            assert!(told.send(Err(RotateError::NoEndpoint)).is_ok());
        };
        let (answer, ()) = tokio::join!(rotations.ask(false), hear);
        assert!(matches!(answer, Err(RotateError::NoEndpoint)));
    }
}
