//! A meter as one shard has it: shared by all of its sessions that the meter limits.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use proto::throttle::{Answer, Meter, Now, Share};

/// The one meter of a key in this process, behind its lock: shards come here when what they have in hand is spent.
#[derive(Debug)]
pub struct Metered {
    meter: Mutex<Meter>,
    /// Messages that it stopped.
    stopped: AtomicU64,
}

impl Metered {
    /// A meter for all shards.
    pub fn new(meter: Meter) -> Self {
        Self { meter: Mutex::new(meter), stopped: AtomicU64::new(0) }
    }

    /// Does something with the meter. The lock is held for some tens of nanoseconds: nothing waits, allocates much or
    /// calls the system within it.
    pub fn with<T>(&self, work: impl FnOnce(&mut Meter) -> T) -> T {
        work(&mut self.meter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Messages that it stopped so far.
    pub fn stopped(&self) -> u64 {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn stopped_one(&self) {
        self.stopped.fetch_add(1, Ordering::Relaxed);
    }
}

/// A meter as one shard has it, with what the shard has in hand.
#[derive(Debug)]
pub struct Held {
    meter: Arc<Metered>,
    share: RefCell<Share>,
    /// Which shard of how many.
    place: (u16, u16),
}

impl Held {
    /// Nothing in hand yet.
    pub fn new(meter: Arc<Metered>, place: (u16, u16)) -> Self {
        Self { meter, share: RefCell::default(), place }
    }

    /// The meter that it is of.
    pub fn meter(&self) -> &Arc<Metered> {
        &self.meter
    }

    /// Whether so many tokens, or as many as can be in hand at all, may be spent now.
    #[inline]
    pub fn has(&self, need: u64, now: Now) -> bool {
        let mut share = self.share.borrow_mut();
        match share.has(need, now) {
            Answer::Yes => true,
            Answer::No => false,
            Answer::Ask => self.meter.with(|meter| share.refill(meter, self.place, need, now)),
        }
    }

    /// Spends so many; what is not there is owed, and the meter is told at once.
    #[inline]
    pub fn spend(&self, tokens: u64, now: Now) {
        let mut share = self.share.borrow_mut();
        if share.spend(tokens, now) {
            self.meter.with(|meter| share.give_back(meter, now));
        }
    }

    /// When it may be worth asking again for so many: milliseconds from now, at least one.
    pub fn wait_ms(&self, need: u64, now: Now) -> u64 {
        self.meter.with(|meter| meter.wait_ns(need, now)).div_ceil(1_000_000).max(1)
    }

    /// Gives back what is left, or pays what is owed.
    pub fn give_back(&self, now: Now) {
        let mut share = self.share.borrow_mut();
        if share.is_held() {
            self.meter.with(|meter| share.give_back(meter, now));
        }
    }

    /// Gives back what has lain here for longer than this, in nanoseconds. Returns whether there is something left.
    pub fn give_back_older(&self, than_ns: u64, now: Now) -> bool {
        let mut share = self.share.borrow_mut();
        if share.is_held() && now.mono_ns.saturating_sub(share.touched_ns()) >= than_ns {
            self.meter.with(|meter| share.give_back(meter, now));
        }
        share.is_held()
    }

    /// The meter has other terms: what it said before does not count.
    pub fn ask_again(&self) {
        self.share.borrow_mut().ask_again();
    }
}
