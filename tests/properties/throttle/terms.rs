//! One meter whose terms change while leases are out, messages that are larger than all of it, and clocks of the wall that
//! jump: each count of the meter lets pass what the plain one would, and every token belongs to one count.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::throttle::{Meter, Now, Share, Terms, Window, WindowUnit};

use super::plain::Plain;
use super::{Draws, SECOND_NS, START_MS, STEP_NS, bucket, is_there};

struct World {
    terms: Terms,
    meter: Meter,
    shares: Vec<Share>,
    mono_ns: u64,
    /// By how much the wall's clock is ahead of what it should show.
    ahead_ms: i64,
    /// What was spent of each count, by its number, and of what windows it is.
    counts: BTreeMap<u64, (Plain, Option<Window>)>,
}

impl World {
    fn new(terms: Terms, shards: usize) -> Self {
        let shares = (0..shards).map(|_| Share::default()).collect();
        let mut world = Self {
            terms,
            meter: Meter::new(terms, Now { mono_ns: 0, wall_ms: 0 }),
            shares,
            mono_ns: 0,
            ahead_ms: 0,
            counts: BTreeMap::new(),
        };
        world.meter = Meter::new(terms, world.now());
        world
    }

    fn now(&self) -> Now {
        let wall_ms = (START_MS + self.mono_ns / 1_000_000).saturating_add_signed(self.ahead_ms);
        Now { mono_ns: self.mono_ns, wall_ms }
    }

    fn message(&mut self, shard: usize, tokens: u64) {
        let now = self.now();
        let place = (shard as u16, self.shares.len() as u16);
        let share = &mut self.shares[shard];
        let is_through = is_there(share, &mut self.meter, place, tokens, now);
        if !is_through {
            return;
        }
        let (number, terms) = (share.number(), self.terms);
        let count = self.counts.entry(number);
        let (plain, window) = count.or_insert_with(|| (Plain::new(terms, now.mono_ns), terms.window()));
        if let Some(window) = window {
            let (start_ms, end_ms) = window.around(share.ends_ms() - 1);
            assert!(end_ms == share.ends_ms() && now.wall_ms < end_ms, "nothing is spent after its window");
            assert!(now.wall_ms + (end_ms - start_ms) >= start_ms, "nor long before it");
        }
        let missing = plain.take(tokens, now.mono_ns);
        assert_eq!(missing, 0, "{tokens} of count {number} passed, now of {terms:?}");
        if share.spend(tokens, now) {
            share.give_back(&mut self.meter, now);
        }
    }

    fn set(&mut self, terms: Terms) {
        let now = self.now();
        if let Some((number, (plain, _))) = self.counts.iter_mut().next_back() {
            let in_hand = self.shares.iter().filter(|share| share.number() == *number).map(Share::in_hand).sum();
            plain.set(terms, in_hand, now.mono_ns);
        }
        self.meter.set(terms, now);
        self.terms = terms;
    }

    /// Whatever shards, operators and clocks may do.
    fn do_anything(&mut self, draws: &mut Draws, steps: u64, mut change: impl FnMut(&mut Draws) -> Terms, jumps: bool) {
        let shards = self.shares.len() as u64;
        for _ in 0..steps {
            let among = if draws.below(2) == 0 { shards } else { shards.min(3) };
            let shard = draws.below(among) as usize;
            match draws.below(24) {
                0 => self.mono_ns += draws.below(200 * STEP_NS),
                1..=6 => self.mono_ns += draws.below(STEP_NS),
                7 | 8 => {
                    let now = self.now();
                    self.shares[shard].give_back(&mut self.meter, now);
                }
                9 if draws.below(4) == 0 => self.set(change(draws)),
                10 if jumps && draws.below(4) == 0 => {
                    // Until then all shards know of it; what they do meanwhile is told below.
                    self.mono_ns += 2 * SECOND_NS;
                    let most_ms = [500, 2000, 90_000, 10_000_000][draws.below(4) as usize];
                    self.ahead_ms = draws.below(2 * most_ms) as i64 - most_ms as i64;
                }
                kind => {
                    let capacity = self.terms.capacity();
                    // Now and then more than there can ever be.
                    let most = if kind == 11 { 3 * capacity } else { capacity.min(20) };
                    let tokens = 1 + draws.below(most);
                    (0..draws.below(10)).for_each(|_| self.message(shard, tokens));
                }
            }
            let now = self.now();
            assert!(self.meter.usage(now).left <= self.terms.capacity());
        }
    }
}

fn any_bucket(draws: &mut Draws) -> Terms {
    let per_ns = [SECOND_NS, 60 * SECOND_NS, 1 + draws.below(SECOND_NS)][draws.below(3) as usize];
    bucket(draws.below(5000), per_ns, 1 + draws.below(3000))
}

fn any_quota(draws: &mut Draws) -> Terms {
    let unit = [WindowUnit::Second, WindowUnit::Minute, WindowUnit::Hour, WindowUnit::Day][draws.below(4) as usize];
    Terms::Quota { amount: 1 + draws.below(3000), window: Window::one(unit) }
}

fn anything(draws: &mut Draws) -> Terms {
    if draws.below(2) == 0 { any_bucket(draws) } else { any_quota(draws) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_bucket_whose_terms_change_lets_pass_what_a_plain_one_would(seed: u64, shards in 1_usize..=64) {
        let mut draws = Draws(seed);
        let mut world = World::new(any_bucket(&mut draws), shards);
        world.do_anything(&mut draws, 3000, any_bucket, false);
    }

    #[test]
    fn a_limit_that_becomes_another_spends_nothing_twice(seed: u64, shards in 1_usize..=64) {
        let mut draws = Draws(seed);
        let mut world = World::new(anything(&mut draws), shards);
        world.do_anything(&mut draws, 3000, anything, false);
    }

    #[test]
    fn a_lease_is_of_its_window_whatever_the_clock_on_the_wall_does(seed: u64, shards in 1_usize..=64, amount in 1_u64..3000) {
        let mut draws = Draws(seed);
        for unit in [WindowUnit::Second, WindowUnit::Minute] {
            let mut world = World::new(Terms::Quota { amount, window: Window::one(unit) }, shards);
            let same = |draws: &mut Draws| Terms::Quota { amount: 1 + draws.below(3000), window: Window::one(unit) };
            world.do_anything(&mut draws, 2000, same, true);
        }
    }
}

/// An hour and a day may end in the same moment: what is left of a lease of the one is nothing of the other's.
#[test]
fn a_lease_of_another_window_that_ends_in_the_same_moment_goes_back_nowhere() {
    let now = Now { mono_ns: 0, wall_ms: START_MS };
    let quota = |unit| Terms::Quota { amount: 10, window: Window::one(unit) };
    let mut meter = Meter::new(quota(WindowUnit::Minute), now);
    let mut early = Share::default();
    assert!(early.refill(&mut meter, (0, 2), 8, now));
    meter.set(quota(WindowUnit::Hour), now);
    let mut late = Share::default();
    assert!(late.refill(&mut meter, (1, 2), 6, now) && late.ends_ms() == early.ends_ms());
    late.spend(6, now);
    late.give_back(&mut meter, now);
    early.give_back(&mut meter, now);
    assert_eq!(meter.usage(now).used, 6);
}

/// What was counted in a window that is over gives nothing to the next one.
#[test]
fn a_refund_is_of_its_window() {
    let now = Now { mono_ns: 0, wall_ms: START_MS };
    let later = Now { mono_ns: SECOND_NS, wall_ms: START_MS + 1000 };
    let mut meter = Meter::new(Terms::Quota { amount: 10, window: Window::one(WindowUnit::Second) }, now);
    let mut share = Share::default();
    for (at, spent) in [(now, 8), (later, 5)] {
        assert!(share.refill(&mut meter, (0, 1), spent, at));
        share.spend(spent, at);
        share.give_back(&mut meter, at);
    }
    meter.refund(8, now.wall_ms, later);
    assert_eq!(meter.usage(later).used, 5);
    meter.refund(2, later.wall_ms, later);
    assert_eq!(meter.usage(later).used, 3);
}

/// A clock on the wall that was set, of which each shard learns at another time within a second.
#[test]
fn a_quota_passes_once_in_each_window_while_shards_disagree_about_the_time() {
    const AMOUNT: u64 = 1000;
    // How many windows the three seconds before and the three seconds after it touch.
    for (unit, set_ms, windows) in [
        (WindowUnit::Minute, 600_000, 3),
        (WindowUnit::Minute, -600_000, 3),
        (WindowUnit::Second, 10_000, 8),
        (WindowUnit::Second, -10_000, 8),
        (WindowUnit::Hour, -30_000_000, 3),
    ] {
        let now = |ms: u64, ahead_ms: i64| Now {
            mono_ns: ms * 1_000_000,
            wall_ms: (START_MS + ms).saturating_add_signed(ahead_ms),
        };
        let mut meter = Meter::new(Terms::Quota { amount: AMOUNT, window: Window::one(unit) }, now(0, 0));
        let mut shares: [Share; 4] = Default::default();
        let mut passed = 0;
        for ms in 0..6000 {
            for (shard, share) in shares.iter_mut().enumerate() {
                let knows = ms >= 3000 + 300 * shard as u64;
                let now = now(ms, if knows { set_ms } else { 0 });
                for _ in 0..10 {
                    let is_through = is_there(share, &mut meter, (shard as u16, 4), 1, now);
                    passed += u64::from(is_through);
                    if is_through && share.spend(1, now) {
                        share.give_back(&mut meter, now);
                    }
                }
            }
        }
        let most = windows * AMOUNT;
        assert!((most * 99 / 100..=most).contains(&passed), "{passed} of {most}, {unit:?}s, set by {set_ms} ms");
    }
}
