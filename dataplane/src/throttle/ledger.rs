//! What one shard has of the process's meters: each once, however many of its sessions hang on it.
//!
//! A lease that lies unused is given back after a tenth of a second, and at once when the last session that needs it ends.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::snapshot::Outcome;
use proto::throttle::Now;

use super::guard::{Compiled, WallOffset};
use super::held::{Held, Metered};
use super::meters::{Event, LimitId, Meters, News};
use crate::alarm::Alarm;
use crate::record::ShardRecord;

/// How often a shard looks for what it does not use, while it has something in hand.
const TICK: Duration = Duration::from_millis(100);
/// How often it looks at the clock of the wall at least.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// How long a lease may lie unused.
const UNUSED_NS: u64 = 100_000_000;
/// Leases looked at in one go, and how soon the next are where there are more.
const LOOKED_AT_MAX: usize = 4096;
const NEXT_GO: Duration = Duration::from_millis(20);

/// What one shard has of the process's meters.
#[derive(Debug)]
pub struct Ledger {
    meters: Arc<Meters>,
    place: (u16, u16),
    epoch: Instant,
    wall: Rc<WallOffset>,
    held: RefCell<HashMap<LimitId, Weak<Held>>>,
    /// Those that had something in hand when they were looked at last, or took it since.
    out: RefCell<VecDeque<Weak<Held>>>,
    /// Rings when something is in hand after nothing was.
    alarm: Alarm,
    record: Arc<ShardRecord>,
}

impl Ledger {
    /// Of shard `place.0` of `place.1`, whose clock began when that of the meters did.
    pub fn new(meters: Arc<Meters>, place: (u16, u16), record: Arc<ShardRecord>) -> Rc<Self> {
        let epoch = meters.epoch();
        let ledger = Self {
            meters,
            place,
            epoch,
            wall: Rc::default(),
            held: RefCell::default(),
            out: RefCell::default(),
            alarm: Alarm::default(),
            record,
        };
        ledger.look_at_clocks();
        Rc::new(ledger)
    }

    /// By how much the wall clock is ahead of the shard's, for its guards.
    pub fn wall(&self) -> &Rc<WallOffset> {
        &self.wall
    }

    /// Which shard of how many.
    pub fn place(&self) -> (u16, u16) {
        self.place
    }

    /// The process's meters.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// The time by both clocks, read now.
    pub fn now(&self) -> Now {
        self.wall.now(self.now_ms())
    }

    /// The meter of a plan's limit, as this shard has it.
    pub fn held(self: &Rc<Self>, id: &LimitId, plan: &Arc<Compiled>) -> Rc<Held> {
        let now = self.now();
        if let Some(held) = self.known(id) {
            let is_followed = held.meter().plan().is_some_and(|known| Arc::ptr_eq(&known, plan));
            if !is_followed {
                // What was granted under other terms is not spent under these.
                held.give_back(now);
                held.meter().follow(plan, now);
                held.ask_again();
                held.set_waits(plan.on_limit.action == Outcome::Delay);
            }
            return held;
        }
        let metered = self.meters.find(id, plan, now);
        // One of those for whom there is no room has another's.
        if let Some(held) = metered.id().and_then(|id| self.known(id)) {
            return held;
        }
        let id = metered.id().unwrap_or(id).clone();
        let held = Held::at(self, metered);
        held.set_waits(plan.on_limit.action == Outcome::Delay);
        self.held.borrow_mut().insert(id, Rc::downgrade(&held));
        held
    }

    /// Looks at the clocks and gives back what lies unused, again and again.
    pub async fn keep(&self) {
        loop {
            self.look_at_clocks();
            let next = self.tick(self.now());
            self.alarm.sleep_until(self.now_ms() + next.as_millis() as u64, next).await;
        }
    }

    /// Gives back what lies unused; says when to come again.
    pub fn tick(&self, now: Now) -> Duration {
        let listed = self.out.borrow().len();
        for _ in 0..listed.min(LOOKED_AT_MAX) {
            let Some(next) = self.out.borrow_mut().pop_front() else { break };
            let Some(held) = next.upgrade() else { continue };
            if held.give_back_older(UNUSED_NS, now) {
                self.out.borrow_mut().push_back(next);
            }
        }
        match self.out.borrow().len() {
            _ if listed > LOOKED_AT_MAX => NEXT_GO,
            0 => IDLE_TICK,
            _ => TICK,
        }
    }

    /// Gives back everything: the terms of meters may change.
    pub fn give_back_all(&self) {
        let now = self.now();
        let all: Vec<_> = self.out.borrow().iter().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|held| {
            held.give_back(now);
            held.ask_again();
        });
    }

    /// How many meters this shard has.
    pub fn keys(&self) -> usize {
        self.held.borrow().len()
    }

    fn known(&self, id: &LimitId) -> Option<Rc<Held>> {
        self.held.borrow().get(id).and_then(Weak::upgrade)
    }

    fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64 + 1
    }

    fn look_at_clocks(&self) {
        let wall_ms = crate::relay::wall_clock_ms();
        self.wall.set(self.now_ms(), wall_ms);
    }

    pub(super) fn list(&self, held: Weak<Held>) {
        let mut out = self.out.borrow_mut();
        if out.is_empty() {
            self.alarm.ring();
        }
        out.push_back(held);
    }

    pub(super) fn forget(&self, id: &LimitId) {
        self.held.borrow_mut().remove(id);
    }

    pub(super) fn refilled(&self, is_there: bool) {
        self.record.lease_asked(is_there);
    }

    pub(super) fn tell(&self, of: &Arc<Metered>, news: News) {
        self.meters.tell(Event { of: Arc::clone(of), news });
    }
}
