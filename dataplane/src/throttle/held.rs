//! A meter as one shard has it: shared by all of its sessions that the meter limits.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use proto::snapshot::Unit;
use proto::throttle::{Answer, Meter, Now, Share, Terms};

use super::guard::Compiled;
use super::ledger::Ledger;
use super::meters::LimitId;

/// The one meter of a key in this process, behind its lock: shards come here when what they have in hand is spent.
#[derive(Debug)]
pub struct Metered {
    state: Mutex<State>,
    /// Messages that it stopped.
    stopped: AtomicU64,
    /// Live sessions that hang on it.
    sessions: AtomicU32,
    /// Whose it is; none in a test, and for what nobody else shares.
    id: Option<LimitId>,
}

#[derive(Debug)]
struct State {
    meter: Meter,
    /// The plan that it is of, as far as that is known.
    plan: Option<Arc<Compiled>>,
    unit: Unit,
    /// The window of which a warning was given, and at how many percent.
    warned: (u64, u8),
}

/// A part of a quota that was just reached, in percent, and of how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The warning's mark.
    pub percent: u8,
    /// Used of the window, what shards have in hand included.
    pub used: u64,
    /// The quota.
    pub amount: u64,
}

impl Metered {
    /// A meter for all shards, of nobody in particular.
    pub fn new(meter: Meter) -> Self {
        Self::of(None, meter, None, Unit::Messages)
    }

    pub(super) fn of(id: Option<LimitId>, meter: Meter, plan: Option<Arc<Compiled>>, unit: Unit) -> Self {
        Self {
            state: Mutex::new(State { meter, plan, unit, warned: (0, 0) }),
            stopped: AtomicU64::new(0),
            sessions: AtomicU32::new(0),
            id,
        }
    }

    /// Does something with the meter. The lock is held for some tens of nanoseconds: nothing waits, allocates much or
    /// calls the system within it.
    pub fn with<T>(&self, work: impl FnOnce(&mut Meter) -> T) -> T {
        self.with_state(|state| work(&mut state.meter))
    }

    fn with_state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes so many tokens at once, with no lease; or says in how many nanoseconds it is worth coming again.
    pub fn take(&self, tokens: u64, now: Now) -> Result<(), u64> {
        self.with(|meter| {
            // As the only shard there is: nobody here waits for a turn.
            let mut share = Share::default();
            if !share.refill(meter, (0, 1), tokens, now) {
                return Err(meter.wait_ns(tokens, now));
            }
            share.spend(tokens, now);
            share.give_back(meter, now);
            Ok(())
        })
    }

    /// Whose it is.
    pub fn id(&self) -> Option<&LimitId> {
        self.id.as_ref()
    }

    /// The plan that it is of, if a session has asked since the process began.
    pub fn plan(&self) -> Option<Arc<Compiled>> {
        self.with_state(|state| state.plan.clone())
    }

    /// What it counts.
    pub fn unit(&self) -> Unit {
        self.with_state(|state| state.unit)
    }

    /// Live sessions that hang on it, and handshakes that may become one.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Messages that it stopped so far.
    pub fn stopped(&self) -> u64 {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Follows a plan that may have changed. What was used stays used, as [`Meter::set`] has it.
    pub(super) fn follow(&self, plan: &Arc<Compiled>, now: Now) {
        let Some(rule) = self.id.as_ref().and_then(|id| plan.limits.get(usize::from(id.index))) else { return };
        self.with_state(|state| {
            // A handshake that began under older tables brings nothing back.
            if state.plan.as_ref().is_some_and(|held| held.made >= plan.made) {
                return;
            }
            state.plan = Some(Arc::clone(plan));
            if state.unit == rule.unit {
                state.meter.set(rule.terms, now);
            } else {
                // So many bytes are not so many messages.
                state.unit = rule.unit;
                state.meter = Meter::new(rule.terms, now);
            }
        });
    }
}

/// Counts a session at all of its meters, for as long as it has them.
#[derive(Debug, Default)]
pub struct Counted(Box<[Arc<Metered>]>);

impl Counted {
    /// A session that has these.
    pub fn at(meters: impl Iterator<Item = Arc<Metered>>) -> Self {
        let counted = meters.inspect(|meter| {
            meter.sessions.fetch_add(1, Ordering::Relaxed);
        });
        Self(counted.collect())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.iter().for_each(|meter| {
            meter.sessions.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

impl State {
    /// The highest mark of the plan that was reached since the last time.
    fn reached(&mut self) -> Option<Reached> {
        let (used, start_ms) = self.meter.in_window()?;
        let Terms::Quota { amount, .. } = *self.meter.terms() else { return None };
        let plan = self.plan.as_ref()?;
        if self.warned.0 != start_ms {
            self.warned = (start_ms, 0);
        }
        let is_reached = |percent: u8| u128::from(used) * 100 >= u128::from(amount) * u128::from(percent);
        let above = self.warned.1;
        let marks = plan.warn_at.iter().copied();
        let percent = marks.filter(|&percent| percent > above && amount > 0 && is_reached(percent)).max()?;
        self.warned.1 = percent;
        Some(Reached { percent, used, amount })
    }
}

/// A meter as one shard has it, with what the shard has in hand.
#[derive(Debug)]
pub struct Held {
    meter: Arc<Metered>,
    share: RefCell<Share>,
    /// Which shard of how many.
    place: (u16, u16),
    /// The ledger in which it stands; none in a test, and for what nobody else shares.
    home: Option<Home>,
}

#[derive(Debug)]
struct Home {
    ledger: Rc<Ledger>,
    me: Weak<Held>,
    /// It is among those that the ledger looks at every second.
    is_listed: Cell<bool>,
}

impl Held {
    /// Nothing in hand yet.
    pub fn new(meter: Arc<Metered>, place: (u16, u16)) -> Self {
        Self { meter, share: RefCell::default(), place, home: None }
    }

    pub(super) fn at(ledger: &Rc<Ledger>, meter: Arc<Metered>) -> Rc<Self> {
        Rc::new_cyclic(|me| {
            let home = Home { ledger: Rc::clone(ledger), me: Weak::clone(me), is_listed: Cell::new(false) };
            Self { meter, share: RefCell::default(), place: ledger.place(), home: Some(home) }
        })
    }

    /// The meter that it is of.
    pub fn meter(&self) -> &Arc<Metered> {
        &self.meter
    }

    /// Whether so many tokens, or as many as can be in hand at all, may be spent now.
    #[inline]
    pub fn has(&self, need: u64, now: Now) -> bool {
        let answer = self.share.borrow().has(need, now);
        match answer {
            Answer::Yes => true,
            Answer::No => false,
            Answer::Ask => self.refill(need, now),
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

    /// So many that were spent are not needed.
    pub fn refund(&self, tokens: u64, now: Now) {
        self.meter.with(|meter| meter.refund(tokens, now));
    }

    #[cold]
    fn refill(&self, need: u64, now: Now) -> bool {
        let mut share = self.share.borrow_mut();
        let (is_there, reached) = self.meter.with_state(|state| {
            let is_there = share.refill(&mut state.meter, self.place, need, now);
            (is_there, state.reached())
        });
        if let Some(home) = &self.home {
            home.ledger.refilled(is_there);
            if !home.is_listed.replace(true) {
                home.ledger.list(Weak::clone(&home.me));
            }
            if let Some(reached) = reached {
                home.ledger.reached(&self.meter, reached);
            }
        }
        is_there
    }

    /// A message was too much for it, and was left out, or its session closed.
    pub fn stopped_one(&self) {
        if self.meter.stopped.fetch_add(1, Ordering::Relaxed) == 0
            && let Some(home) = &self.home
        {
            home.ledger.first_stopped(&self.meter);
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
        let is_held = share.is_held();
        if !is_held && let Some(home) = &self.home {
            home.is_listed.set(false);
        }
        is_held
    }

    /// The meter has other terms: what it said before does not count.
    pub fn ask_again(&self) {
        self.share.borrow_mut().ask_again();
    }
}

/// The last session of the shard that it limited has ended.
impl Drop for Held {
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        self.give_back(home.ledger.now());
        if let Some(id) = self.meter.id() {
            home.ledger.forget(id);
        }
    }
}
