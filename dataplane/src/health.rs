//! How the process stands: what it serves, whether it is draining, whether a control plane is connected.
//!
//! Written by whoever brings a change about, read by `/ready`, `/metrics` and the control link. It decides nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use proto::control::message::Generation;

use crate::choice::Choice;

/// How the process stands. One for the process, behind an `Arc`.
#[derive(Debug)]
pub struct Health {
    /// When the process started, by the clock on the wall.
    pub started_at: SystemTime,
    started: Instant,
    generation: Mutex<Option<Generation>>,
    certificates: Mutex<BTreeMap<String, i64>>,
    choice: OnceLock<Choice>,
    draining: AtomicBool,
    pub(crate) control_connected: AtomicBool,
    pub(crate) generations_applied: AtomicU64,
    pub(crate) generations_rejected: AtomicU64,
    pub(crate) store_failures: AtomicU64,
    pub(crate) bridge_restarts: AtomicU64,
    pub(crate) limit_keys: AtomicU64,
    pub(crate) limit_keys_overflown: AtomicU64,
}

/// Why the process should get no new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReady {
    /// No snapshot has been applied.
    NoSnapshot,
    /// It is shutting down.
    Draining,
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSnapshot => "no snapshot has been applied yet",
            Self::Draining => "draining",
        })
    }
}

impl Health {
    /// Of a process that starts now.
    pub fn new(started: Instant, started_at: SystemTime) -> Self {
        Self {
            started_at,
            started,
            generation: Mutex::default(),
            certificates: Mutex::default(),
            choice: OnceLock::new(),
            draining: AtomicBool::new(false),
            control_connected: AtomicBool::new(false),
            generations_applied: AtomicU64::new(0),
            generations_rejected: AtomicU64::new(0),
            store_failures: AtomicU64::new(0),
            bridge_restarts: AtomicU64::new(0),
            limit_keys: AtomicU64::new(0),
            limit_keys_overflown: AtomicU64::new(0),
        }
    }

    /// How the workers wait for sockets and move bytes has been chosen; the first word holds.
    pub fn served_by(&self, choice: Choice) {
        self.choice.get_or_init(|| choice);
    }

    /// How the workers wait for sockets and move bytes; `None` before that is chosen.
    pub fn choice(&self) -> Option<Choice> {
        self.choice.get().copied()
    }

    /// This generation is being served from now on: pushed, or found in the store at start.
    pub fn serving(&self, generation: Generation) {
        self.generations_applied.fetch_add(1, Relaxed);
        *self.generation_lock() = Some(generation);
    }

    /// What is being served.
    pub fn generation(&self) -> Option<Generation> {
        self.generation_lock().clone()
    }

    /// These are the certificates of what is being served, and when they expire, in seconds since 1970.
    pub fn shows<'a>(&self, certificates: impl Iterator<Item = (&'a str, i64)>) {
        let certificates = certificates.map(|(name, not_after)| (name.to_owned(), not_after)).collect();
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = certificates;
    }

    /// The certificates of what is being served, by name, and when they expire.
    pub fn certificates(&self) -> BTreeMap<String, i64> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A push was rejected; what was served is still served.
    pub fn rejected(&self) {
        self.generations_rejected.fetch_add(1, Relaxed);
    }

    /// No new sessions from now on.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether [`Health::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Whether new connections are welcome, and why not.
    pub fn ready(&self) -> Result<(), NotReady> {
        if self.is_draining() {
            Err(NotReady::Draining)
        } else if self.generation_lock().is_none() {
            Err(NotReady::NoSnapshot)
        } else {
            Ok(())
        }
    }

    /// Whole seconds since the process started.
    pub fn uptime_s(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs()
    }

    /// The value is replaced whole, so it is sound even if a writer panicked.
    fn generation_lock(&self) -> MutexGuard<'_, Option<Generation>> {
        self.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
