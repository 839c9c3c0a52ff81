//! All meters of the process, by whose they are: looked up when a session begins, never for a message.
//!
//! A meter is kept for as long as a session hangs on it, or anything of it is used; then it is forgotten, because a new
//! one is as good. What stops or fills a meter is [`proto::throttle`]'s.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam::queue::ArrayQueue;
use proto::limits::LIMIT_KEYS_MAX;
use proto::throttle::{Meter, Now};

use super::guard::{Compiled, LevelKind, RuleId};
use super::held::{Metered, Reached};

/// Parts of the map that have a lock each: a handshake meets another in one of so many.
const PIECES: usize = 256;
/// Things to be said in the log that wait for it; what comes on top is dropped, and counted.
const EVENTS_MAX: usize = 1024;
/// Whose meter everybody shares for whom there is no room: nobody has this key, because keys are shown, and what shows
/// nothing is escaped in them.
pub(super) const OTHERS: &str = "\0";

/// Which limits a meter is one of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The level; none: how fast handshakes may come.
    pub kind: Option<LevelKind>,
    /// What tells limits of one level apart that have the same plan: a keyed limit's name, a policy's group.
    pub name: Arc<str>,
    /// The plan's name.
    pub plan: Arc<str>,
}

/// Whose meter it is. It outlives generations: what is used stays used.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LimitId {
    /// Which limits.
    pub scope: Arc<Scope>,
    /// Whom they hold for, as people read it.
    pub key: Arc<str>,
    /// Which limit of the plan.
    pub rule: RuleId,
}

/// Something that an operator wants to read in the log.
#[derive(Debug)]
pub struct Event {
    /// Of which meter.
    pub of: Arc<Metered>,
    /// What there is to tell.
    pub news: News,
}

/// What an operator wants to read of a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Part of a quota was reached.
    Reached(Reached),
    /// It stopped so many messages since that was told last.
    Stopped(u64),
}

/// All meters of the process.
#[derive(Debug)]
pub struct Meters {
    pieces: Box<[Mutex<Piece>]>,
    hasher: RandomState,
    keys: AtomicUsize,
    keys_max: usize,
    /// Each scope of which there are keys once, whoever asks for it, and how many.
    scopes: Mutex<HashMap<Arc<Scope>, usize>>,
    /// Keys for which there was no room.
    overflown: AtomicU64,
    events: ArrayQueue<Event>,
    events_dropped: AtomicU64,
    epoch: Instant,
}

type Piece = HashMap<LimitId, Arc<Metered>>;

impl Default for Meters {
    fn default() -> Self {
        Self::new(LIMIT_KEYS_MAX)
    }
}

impl Meters {
    /// None yet, and never more than this many, nor more than half of them of one scope, but for one of each plan's limits.
    pub fn new(keys_max: usize) -> Self {
        Self {
            pieces: (0..PIECES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            keys: AtomicUsize::new(0),
            keys_max,
            scopes: Mutex::default(),
            overflown: AtomicU64::new(0),
            events: ArrayQueue::new(EVENTS_MAX),
            events_dropped: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }

    /// The meter of a limit of this plan, made if there is none. At a ceiling of keys, new ones share one: that may stop
    /// who would not have been stopped, and never lets pass more.
    pub fn find(&self, id: &LimitId, plan: &Arc<Compiled>, now: Now) -> Arc<Metered> {
        let terms = plan.rule(id.rule).expect("a limit is looked for by a plan that has it").terms;
        let (metered, is_new) = self.piece_of(id, |piece| {
            if let Some(metered) = piece.get(id) {
                return (Some(Arc::clone(metered)), false);
            }
            let Some(id) = self.enter(id) else { return (None, false) };
            let new = Arc::new(Metered::of(Some(id.clone()), Meter::new(terms, now), Some(Arc::clone(plan))));
            piece.insert(id, Arc::clone(&new));
            (Some(new), true)
        });
        let Some(metered) = metered else {
            self.overflown.fetch_add(1, Ordering::Relaxed);
            return self.find(&LimitId { key: OTHERS.into(), ..id.clone() }, plan, now);
        };
        if !is_new {
            metered.follow(plan, now);
        }
        metered
    }

    /// A meter as it was before a restart.
    pub fn restore(&self, id: LimitId, meter: Meter) {
        self.piece_of(&id, |piece| {
            if !piece.contains_key(&id)
                && let Some(id) = self.enter(&id)
            {
                piece.insert(id.clone(), Arc::new(Metered::of(Some(id), meter, None)));
            }
        });
    }

    /// Counts a new key, if there is room for it; its scope is the one that all others have.
    fn enter(&self, id: &LimitId) -> Option<LimitId> {
        let is_bound = *id.key != *OTHERS;
        if is_bound && self.keys.load(Ordering::Relaxed) >= self.keys_max {
            return None;
        }
        let scope = match lock(&self.scopes).entry(Arc::clone(&id.scope)) {
            // Those of whom anybody can be as many as he likes, such as addresses, leave room for others.
            Entry::Occupied(known) if is_bound && *known.get() >= self.keys_max.div_ceil(2) => return None,
            Entry::Occupied(mut known) => {
                *known.get_mut() += 1;
                Arc::clone(known.key())
            }
            Entry::Vacant(new) => {
                let scope = Arc::clone(new.key());
                new.insert(1);
                scope
            }
        };
        self.keys.fetch_add(1, Ordering::Relaxed);
        Some(LimitId { scope, ..id.clone() })
    }

    /// When the clock began by which all buckets fill.
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// The time by both clocks, read now.
    pub fn now(&self) -> Now {
        let now_ms = self.epoch.elapsed().as_millis() as u64 + 1;
        Now { mono_ns: now_ms.saturating_mul(1_000_000), wall_ms: crate::relay::wall_clock_ms() }
    }

    /// How many there are.
    pub fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Keys for which there was no room, so far.
    pub fn overflown(&self) -> u64 {
        self.overflown.load(Ordering::Relaxed)
    }

    /// In how many parts [`Meters::forget_idle`] and [`Meters::each`] go.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Forgets the meters of one part that nobody uses and of which nothing is used.
    pub fn forget_idle(&self, piece: usize, now: Now) {
        let mut piece = lock(&self.pieces[piece % PIECES]);
        let before = piece.len();
        // Who is the only one to have it has it for good while the piece is locked. A session does not come again.
        let is_over = |id: &LimitId| id.scope.kind == Some(LevelKind::Session);
        let mut gone: HashMap<Arc<Scope>, usize> = HashMap::new();
        piece.retain(|id, metered| {
            let stays = Arc::strong_count(metered) > 1 || !(is_over(id) || metered.with(|meter| meter.is_idle(now)));
            if !stays {
                *gone.entry(Arc::clone(&id.scope)).or_default() += 1;
            }
            stays
        });
        let left = piece.len();
        // What a crowd needed once is not kept for ever.
        if piece.capacity() > 64 && left < piece.capacity() / 4 {
            piece.shrink_to(2 * left);
        }
        drop(piece);
        self.keys.fetch_sub(before - left, Ordering::Relaxed);
        let mut scopes = lock(&self.scopes);
        for (scope, gone) in gone {
            if let Entry::Occupied(mut known) = scopes.entry(scope) {
                *known.get_mut() -= gone;
                if *known.get() == 0 {
                    known.remove();
                }
            }
        }
    }

    /// Shows the meters of one part, as it is now: handshakes find meters there meanwhile, whatever is done with them.
    pub fn each(&self, piece: usize, mut show: impl FnMut(&LimitId, &Arc<Metered>)) {
        let all: Vec<_> = lock(&self.pieces[piece % PIECES]).values().cloned().collect();
        all.iter().filter_map(|metered| Some((metered.id()?, metered))).for_each(|(id, metered)| show(id, metered));
    }

    /// Leaves something to be said in the log.
    pub(super) fn tell(&self, event: Event) {
        if self.events.push(event).is_err() {
            self.events_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is to be said, oldest first.
    pub fn told(&self) -> Option<Event> {
        self.events.pop()
    }

    /// How much was not told, since it was asked last.
    pub fn take_untold(&self) -> u64 {
        self.events_dropped.swap(0, Ordering::Relaxed)
    }

    fn piece_of<T>(&self, id: &LimitId, work: impl FnOnce(&mut Piece) -> T) -> T {
        let at = self.hasher.hash_one(id) as usize % PIECES;
        work(&mut lock(&self.pieces[at]))
    }
}

/// Whole between any two of its calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proto::snapshot::{Plan, Unit};
    use proto::throttle::{Share, Terms, Window, WindowUnit};

    use super::*;
    use crate::throttle::Rule;

    const NOW: Now = Now { mono_ns: 1_000_000_000, wall_ms: 1_800_000_000_000 };

    fn plan(terms: Terms) -> Arc<Compiled> {
        let mut plan = Compiled::of(&Plan::new("p", Vec::new()));
        plan.limits = [Rule { unit: Unit::Messages, terms, stops: true }].into();
        Arc::new(plan)
    }

    fn id(scope: &Arc<Scope>, key: &str, plan: &Compiled) -> LimitId {
        LimitId { scope: Arc::clone(scope), key: key.into(), rule: plan.ids().next().unwrap() }
    }

    fn scope() -> Arc<Scope> {
        Arc::new(Scope { kind: Some(LevelKind::Application), name: "application".into(), plan: "p".into() })
    }

    fn take(metered: &Metered, tokens: u64, now: Now) -> bool {
        metered.with(|meter| {
            let mut share = Share::default();
            let is_there = share.refill(meter, (0, 1), tokens, now);
            share.spend(tokens, now);
            share.give_back(meter, now);
            is_there
        })
    }

    #[test]
    fn a_meter_is_forgotten_when_nobody_has_it_and_nothing_is_used() {
        let meters = Meters::default();
        let plan = plan(Terms::Quota { amount: 5, window: Window::one(WindowUnit::Second) });
        let scope = scope();
        let used = meters.find(&id(&scope, "used", &plan), &plan, NOW);
        assert!(take(&used, 3, NOW));
        drop(used);
        let held = meters.find(&id(&scope, "held", &plan), &plan, NOW);
        drop(meters.find(&id(&scope, "idle", &plan), &plan, NOW));
        let forget = |now| (0..meters.pieces()).for_each(|piece| meters.forget_idle(piece, now));
        forget(NOW);
        assert_eq!(meters.keys(), 2);
        forget(Now { wall_ms: NOW.wall_ms + 1000, ..NOW });
        assert_eq!(meters.keys(), 1);
        assert!(Arc::ptr_eq(&held, &meters.find(&id(&scope, "held", &plan), &plan, NOW)));
    }

    #[test]
    fn a_meter_is_found_while_all_of_them_are_shown() {
        let meters = Meters::default();
        let plan = plan(Terms::Bucket { amount: 1, per_ns: 1_000_000_000, burst: 1 });
        let held = meters.find(&id(&scope(), "a", &plan), &plan, NOW);
        let mut shown = 0;
        for piece in 0..meters.pieces() {
            meters.each(piece, |id, metered| {
                shown += 1;
                assert!(Arc::ptr_eq(metered, &held) && Arc::ptr_eq(metered, &meters.find(id, &plan, NOW)));
            });
        }
        assert_eq!(shown, 1);
    }

    #[test]
    fn past_half_the_ceiling_new_keys_of_a_scope_share_a_meter_and_past_all_of_it_those_of_any() {
        let meters = Meters::new(4);
        let plan = plan(Terms::Bucket { amount: 1, per_ns: 1_000_000_000, burst: 1 });
        let find = |scope: &Arc<Scope>, key: &str| meters.find(&id(scope, key, &plan), &plan, NOW);
        let addresses = scope();
        let found: Vec<_> = ["a", "b", "c", "", "d", "a"].iter().map(|key| find(&addresses, key)).collect();
        assert!(Arc::ptr_eq(&found[0], &found[5]) && Arc::ptr_eq(&found[2], &found[4]));
        assert!(Arc::ptr_eq(&found[2], &found[3]), "an empty key is one like others");
        assert!(!Arc::ptr_eq(&found[1], &found[2]));
        assert_eq!((meters.keys(), meters.overflown()), (3, 3));
        let users = Arc::new(Scope { name: "users".into(), ..(*addresses).clone() });
        let others: Vec<_> = ["a", "b", "c"].iter().map(|key| find(&users, key)).collect();
        assert!(others.iter().all(|other| found.iter().all(|one| !Arc::ptr_eq(one, other))));
        assert!(!Arc::ptr_eq(&others[0], &others[1]), "there was room for one more");
        assert!(Arc::ptr_eq(&others[1], &others[2]));
        assert_eq!((meters.keys(), meters.overflown()), (5, 5));
        drop((found, others));
        (0..meters.pieces()).for_each(|piece| meters.forget_idle(piece, NOW));
        let again: Vec<_> = ["x", "y"].iter().map(|key| find(&addresses, key)).collect();
        assert!(!Arc::ptr_eq(&again[0], &again[1]), "those who have gone leave room");
        assert_eq!((meters.keys(), meters.overflown(), lock(&meters.scopes).len()), (2, 5, 1));
    }

    #[test]
    fn nobody_who_is_told_to_have_no_key_is_one_of_those_without_room() {
        let meters = Meters::new(0);
        let plan = plan(Terms::Bucket { amount: 1, per_ns: 1_000_000_000, burst: 1 });
        let found = meters.find(&id(&scope(), "", &plan), &plan, NOW);
        assert_eq!((&*found.id().unwrap().key, meters.overflown()), (OTHERS, 1));
        assert!(OTHERS.chars().all(char::is_control), "keys have no such characters");
    }

    /// What the manual says of memory: about 0.4 KB for a key, in the map that all shards share.
    #[test]
    fn a_million_keys_work_and_go() {
        let meters = Meters::default();
        let plan = plan(Terms::Bucket { amount: 1, per_ns: 1_000_000_000, burst: 5 });
        let scope = scope();
        let begun = std::time::Instant::now();
        for key in 0..1_000_000 {
            let found = meters.find(&id(&scope, &format!("mobile/user-{key}"), &plan), &plan, NOW);
            assert!(key % 2 == 0 || take(&found, 1, NOW));
        }
        assert_eq!(meters.keys(), 1_000_000);
        let made = begun.elapsed();
        let later = Now { mono_ns: NOW.mono_ns + 500_000_000, ..NOW };
        (0..meters.pieces()).for_each(|piece| meters.forget_idle(piece, later));
        assert_eq!(meters.keys(), 500_000, "half of them are full");
        let later = Now { mono_ns: NOW.mono_ns + 5_000_000_000, ..NOW };
        let begun = std::time::Instant::now();
        (0..meters.pieces()).for_each(|piece| meters.forget_idle(piece, later));
        assert_eq!(meters.keys(), 0);
        println!("made in {made:?}, the last half forgotten in {:?}", begun.elapsed());
    }

    /// Of each: what the allocator is asked for, and of the map, which grows by doubling, two places at worst. A scope is
    /// there once, whoever made it.
    #[test]
    fn what_a_key_costs_is_known() {
        let meters = Meters::default();
        let plan = plan(Terms::Bucket { amount: 1, per_ns: 1_000_000_000, burst: 1 });
        let [one, two] = ["a", "b"].map(|key| meters.find(&id(&scope(), key, &plan), &plan, NOW));
        assert!(Arc::ptr_eq(&one.id().unwrap().scope, &two.id().unwrap().scope));
        let counts = 2 * size_of::<usize>();
        let of_map = 2 * (size_of::<(LimitId, Arc<Metered>)>() + 1);
        let bytes = counts + size_of::<Metered>() + of_map;
        let text = counts;
        assert!(bytes + text <= 400, "{bytes} + {text}");
        println!("{bytes} + {text} bytes and the text");
    }
}
