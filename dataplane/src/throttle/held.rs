//! A meter as one shard has it: shared by all of its sessions that the meter limits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use proto::throttle::{Answer, Meter, Now, Share, Terms};

use super::guard::Compiled;
use super::ledger::Ledger;
use super::meters::{LimitId, News};

/// How often the log hears of a meter that goes on stopping messages.
const TOLD_EVERY_NS: u64 = 60_000_000_000;

/// The one meter of a key in this process, behind its lock: shards come here when what they have in hand is spent.
#[derive(Debug)]
pub struct Metered {
    state: Mutex<State>,
    /// Messages that it stopped, and how many of them the log has heard of.
    stopped: AtomicU64,
    told: AtomicU64,
    /// When it heard of them last, on the clock of [`Now::mono_ns`]; 0: never.
    told_ns: AtomicU64,
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
        Self::of(None, meter, None)
    }

    pub(super) fn of(id: Option<LimitId>, meter: Meter, plan: Option<Arc<Compiled>>) -> Self {
        Self {
            state: Mutex::new(State { meter, plan, warned: (0, 0) }),
            stopped: AtomicU64::new(0),
            told: AtomicU64::new(0),
            told_ns: AtomicU64::new(0),
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
        let Some(rule) = self.id.as_ref().and_then(|id| plan.rule(id.rule)) else { return };
        self.with_state(|state| {
            // A handshake that began under older tables brings nothing back.
            if state.plan.as_ref().is_some_and(|held| held.made >= plan.made) {
                return;
            }
            state.plan = Some(Arc::clone(plan));
            state.meter.set(rule.terms, now);
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
    /// Who waits here, the first first. Nobody else has anything meanwhile.
    #[expect(clippy::box_collection, reason = "nobody waits at most of them: one word instead of four")]
    line: RefCell<Option<Box<VecDeque<u64>>>>,
    is_kept: Cell<bool>,
    /// Which shard of how many.
    place: (u16, u16),
    /// The ledger in which it stands; none in a test, and for what nobody else shares.
    home: Option<Home>,
}

#[derive(Debug)]
struct Home {
    ledger: Rc<Ledger>,
    me: Weak<Held>,
    /// It is among those that the ledger looks at.
    is_listed: Cell<bool>,
}

impl Held {
    /// Nothing in hand yet.
    pub fn new(meter: Arc<Metered>, place: (u16, u16)) -> Self {
        Self::with_home(meter, place, None)
    }

    fn with_home(meter: Arc<Metered>, place: (u16, u16), home: Option<Home>) -> Self {
        Self { meter, share: RefCell::default(), line: RefCell::default(), is_kept: Cell::default(), place, home }
    }

    pub(super) fn at(ledger: &Rc<Ledger>, meter: Arc<Metered>) -> Rc<Self> {
        Rc::new_cyclic(|me| {
            let home = Home { ledger: Rc::clone(ledger), me: Weak::clone(me), is_listed: Cell::new(false) };
            Self::with_home(meter, ledger.place(), Some(home))
        })
    }

    /// The meter that it is of.
    pub fn meter(&self) -> &Arc<Metered> {
        &self.meter
    }

    /// Whether so many tokens, or as many as can be in hand at all, may be spent now.
    #[inline]
    pub fn has(&self, need: u64, now: Now) -> bool {
        match self.answer(need, now) {
            Answer::Yes => true,
            Answer::No => false,
            Answer::Ask => self.refill(need, now),
        }
    }

    /// Whether so many tokens are in this shard's hand.
    #[inline]
    pub fn is_in_hand(&self, need: u64, now: Now) -> bool {
        !self.is_kept.get() && self.share.borrow().is_in_hand(need, now)
    }

    /// What the shard knows of that by itself.
    #[inline]
    pub fn answer(&self, need: u64, now: Now) -> Answer {
        if self.is_kept.get() { Answer::No } else { self.share.borrow().has(need, now) }
    }

    /// Spends so many; what is not there is owed, and the meter is told at once.
    #[inline]
    pub fn spend(&self, tokens: u64, now: Now) {
        if self.share.borrow_mut().spend(tokens, now) {
            self.with(move |share, meter| share.give_back(meter, now));
        }
    }

    /// Counts so many of a limit that stops nothing.
    #[inline(never)]
    pub fn record(&self, tokens: u64, now: Now) {
        if tokens > 0 && self.answer(tokens, now) != Answer::Yes {
            self.with(|share, meter| share.refill_beyond(meter, self.place.1, tokens, now));
            self.was_asked(true);
        }
        self.spend(tokens, now);
    }

    /// So many that were spent, when the clock showed `spent_ms`, are not needed.
    pub fn refund(&self, tokens: u64, spent_ms: u64, now: Now) {
        self.with(|share, meter| {
            // What is in hand and spent has no room for them.
            share.give_back(meter, now);
            meter.refund(tokens, spent_ms, now);
        });
    }

    /// Asks the meter for so many: whether they, or as many as can be in hand at all, may be spent now.
    #[cold]
    pub fn refill(&self, need: u64, now: Now) -> bool {
        let is_there = self.with(|share, meter| share.refill(meter, self.place, need, now));
        self.was_asked(is_there);
        is_there
    }

    /// Does something that may use up more of the meter.
    #[cold]
    #[inline(never)]
    fn with<T>(&self, work: impl FnOnce(&mut Share, &mut Meter) -> T) -> T {
        let mut share = self.share.borrow_mut();
        let (outcome, reached) = self.meter.with_state(|state| (work(&mut share, &mut state.meter), state.reached()));
        if let (Some(home), Some(reached)) = (&self.home, reached) {
            home.ledger.tell(&self.meter, News::Reached(reached));
        }
        outcome
    }

    fn was_asked(&self, is_there: bool) {
        let Some(home) = &self.home else { return };
        home.ledger.refilled(is_there);
        if is_there && !home.is_listed.replace(true) {
            home.ledger.list(Weak::clone(&home.me));
        }
    }

    /// A message was too much for it, and was left out, or its session closed.
    pub fn stopped_one(&self, now: Now) {
        let stopped = self.meter.stopped.fetch_add(1, Ordering::Relaxed) + 1;
        let told_ns = self.meter.told_ns.load(Ordering::Relaxed);
        if told_ns != 0 && now.mono_ns.saturating_sub(told_ns) < TOLD_EVERY_NS {
            return;
        }
        let told =
            self.meter.told_ns.compare_exchange(told_ns, now.mono_ns.max(1), Ordering::Relaxed, Ordering::Relaxed);
        if let (Some(home), Ok(_)) = (&self.home, told) {
            // Another shard may have stopped one more meanwhile: it is among the next.
            let before = self.meter.told.swap(stopped, Ordering::Relaxed);
            home.ledger.tell(&self.meter, News::Stopped(stopped.saturating_sub(before)));
        }
    }

    /// When it may be worth asking again for so many: nanoseconds from now; 0: it is now. `terms` are the limit's. What the
    /// meter said a moment ago is believed.
    pub fn wait_ns(&self, need: u64, terms: &Terms, now: Now) -> u64 {
        let mut share = self.share.borrow_mut();
        let wait_ns = match share.wait_ns(need, terms, now) {
            Some(wait_ns) => wait_ns,
            None => self.meter.with(|meter| share.look(meter, need, now)),
        };
        // What there is is for those who were here before.
        wait_ns.max(u64::from(self.is_kept.get()))
    }

    /// Whether those that it stops wait for room.
    pub fn set_waits(&self, waits: bool) {
        self.share.borrow_mut().set_waits(waits);
    }

    /// Who has waited here for longest.
    pub fn first(&self) -> Option<u64> {
        self.line.borrow().as_ref()?.front().copied()
    }

    /// Lets the first of those who wait ask.
    pub fn open(&self) {
        self.is_kept.set(false);
    }

    /// It has asked: what there is now is for the others who wait, if there are any.
    pub fn close(&self, now: Now) {
        let is_kept = self.line.borrow().is_some();
        self.is_kept.set(is_kept);
        if is_kept {
            self.give_back(now);
        }
    }

    /// Gives back what was taken for a message that did not pass.
    pub fn give_back_idle(&self, now: Now) {
        let mut share = self.share.borrow_mut();
        if share.is_idle() {
            self.meter.with(|meter| share.give_back_idle(meter, now));
        }
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

/// A place among those who wait at a meter, for as long as this is held.
#[derive(Debug)]
pub struct Standing {
    at: Rc<Held>,
    who: u64,
}

impl Standing {
    /// Behind those who wait there already.
    pub fn at(held: &Rc<Held>, who: u64, now: Now) -> Self {
        held.line.borrow_mut().get_or_insert_default().push_back(who);
        held.close(now);
        Self { at: Rc::clone(held), who }
    }

    /// Where.
    pub fn held(&self) -> &Rc<Held> {
        &self.at
    }

    /// Whether nobody has waited there for longer.
    pub fn is_first(&self) -> bool {
        self.at.first() == Some(self.who)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let mut line = self.at.line.borrow_mut();
        if let Some(waiting) = line.as_mut() {
            // The first, as a rule.
            if let Some(place) = waiting.iter().position(|one| *one == self.who) {
                waiting.remove(place);
            }
            if waiting.is_empty() {
                *line = None;
            }
        }
        self.at.is_kept.set(line.is_some());
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
