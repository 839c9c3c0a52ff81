//! What one worker owns, and the little that it shares: everything that the rooms of one core ask for.
//!
//! A shard belongs to one thread. Other threads reach it through its worker's inbox, and read its counters.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::admit::seats::Seats;
use crate::alarm::Alarm;
use crate::authenticate::cache::Verified;
use crate::balance::Places;
use crate::bridge::{Credentials, ForwardAuth, Resolver};
use crate::inbox::Inbox;
use crate::record::{Log, Names, ShardRecord};
use crate::relay::{Engine, Keys};
use crate::tables::Tables;
use crate::throttle::{Ledger, Meters};

/// What all workers share: read often, written seldom.
pub struct Shared {
    /// The runnable configuration; `None` before the first snapshot.
    pub tables: ArcSwap<Option<Arc<Tables>>>,
    /// The gateway takes no new sessions.
    pub draining: AtomicBool,
    /// How many connections there are and may be, and how they are spread over the workers.
    pub places: Places,
    /// By which each worker is reached.
    pub inboxes: Box<[Arc<Inbox>]>,
    /// Name resolution, on the bridge thread.
    pub resolver: Resolver,
    /// Questions to services that decide for policies, on the bridge thread.
    pub forward_auth: ForwardAuth,
    /// Credentials that workers cannot judge by themselves, on the bridge thread.
    pub credentials: Credentials,
    /// The session log.
    pub log: Log,
    /// How much has passed, by whose it is.
    pub meters: Arc<Meters>,
    /// How many live sessions there are of whom.
    pub seats: Arc<Seats>,
    /// When the clock of all workers began.
    pub epoch: Instant,
}

/// What one worker owns.
pub struct Shard {
    /// Number of the worker, from 0.
    pub number: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// The sessions that are established.
    pub engine: RefCell<Engine>,
    /// Rings when the engine's next deadline moves nearer.
    pub alarm: Alarm,
    /// Random octets.
    pub keys: RefCell<Keys>,
    /// Counters.
    pub record: Arc<ShardRecord>,
    /// What the records of many sessions have in common.
    pub names: RefCell<Names>,
    /// Tokens that were verified here.
    pub verified: RefCell<Verified>,
    /// A descriptor given up to accept, and refuse, a connection when there is no other.
    pub spare: Cell<Option<OwnedFd>>,
    /// Handshakes under way.
    pub handshakes: Cell<usize>,
    /// What this shard has of the process's meters.
    pub ledger: Rc<Ledger>,
}

impl Shard {
    /// Milliseconds on this worker's clock, at least 1.
    pub fn now_ms(&self) -> u64 {
        self.shared.epoch.elapsed().as_millis() as u64 + 1
    }

    /// The current tables.
    pub fn tables(&self) -> Option<Arc<Tables>> {
        Option::clone(&self.shared.tables.load())
    }

    /// Whether the gateway takes no new sessions.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }
}

/// Counts a handshake while it is under way.
pub struct HandshakeCount {
    shard: Rc<Shard>,
}

impl HandshakeCount {
    /// One more.
    pub fn take(shard: &Rc<Shard>) -> Self {
        shard.handshakes.set(shard.handshakes.get() + 1);
        shard.record.handshake_begun();
        Self { shard: Rc::clone(shard) }
    }
}

impl Drop for HandshakeCount {
    fn drop(&mut self) {
        self.shard.handshakes.set(self.shard.handshakes.get() - 1);
        self.shard.record.handshake_ended();
    }
}
