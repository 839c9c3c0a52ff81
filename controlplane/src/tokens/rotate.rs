//! Keeps the signing keys where they should be: made in time, kept, published, used, and let go.
//!
//! The order matters: a key is on the disk before anybody hears of it, and published before it signs.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::errors::with_sources;
use ring::rand::SystemRandom;
use tokio::sync::watch;

use super::board::Board;
use super::desk::Desk;
use super::keyring::{Keyring, Rotation};
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

/// Works for as long as the control plane runs.
pub async fn follow(
    desk: Arc<Desk>,
    store: Arc<Store>,
    office: Arc<Office>,
    board: Arc<Board>,
    mut tokens: watch::Receiver<Arc<Tokens>>,
) {
    loop {
        let terms = tokens.borrow_and_update().terms.clone();
        let wait = match terms {
            None => None,
            Some(terms) => Some(step(&desk, &store, &office, &board, &terms).await),
        };
        tokio::select! {
            changed = tokens.changed() => if changed.is_err() { return },
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

/// Brings the keys to where they should be; how long until the next time.
async fn step(desk: &Arc<Desk>, store: &Arc<Store>, office: &Office, board: &Board, terms: &Terms) -> Duration {
    let rotation = match terms.rotation() {
        Ok(rotation) => rotation,
        Err(fault) => {
            // It was found good when the configuration was read.
            tracing::error!(fault, "the token endpoint's signing key cannot be used; the old one stays");
            return NAP;
        }
    };
    let before = desk.keyring();
    let now_ms = milliseconds(SystemTime::now());
    let mut ring = Keyring::clone(&before);
    let again_ms = match renewed(&mut ring, &rotation, now_ms, store).await {
        Ok(again_ms) => again_ms,
        Err(fault) => {
            tracing::error!(fault, "the signing keys cannot be renewed; those that are there stay");
            return AGAIN;
        }
    };
    tell(&before, &ring, now_ms);
    let text = ring.published().text();
    if office.keys().own.as_ref() != Some(&text) {
        office.change_keys(|keys| keys.own = Some(text), "the gateway's own keys have changed").await;
        known_to_nodes(office).await;
    }
    let time = |ms: u64| UNIX_EPOCH + Duration::from_millis(ms);
    let signing = ring.signing(now_ms).map(|key| key.kid().to_owned());
    board.keys(ring.keys().len() as u64, signing, again_ms.map(time));
    desk.use_keyring(ring);
    again_ms.map_or(NAP, |at| Duration::from_millis(at.saturating_sub(now_ms) + 1))
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
) -> Result<Option<u64>, String> {
    let step = ring.step(rotation, now_ms, &SystemRandom::new()).map_err(|error| error.to_string())?;
    if step.has_changed {
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
