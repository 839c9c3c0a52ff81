//! Limits across shards: whatever order shards come in and however they use what they hold, what passes is what a plain
//! bucket, asked by one, would let pass; and hardly less of it.
//!
//! Time is virtual. Each shard may be late: it acts on a time that it read some while ago.

mod levels;
mod plain;
mod terms;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::throttle::{Answer, Meter, Now, Share, Terms, Window, WindowUnit};

const SECOND_NS: u64 = 1_000_000_000;
const STEP_NS: u64 = 300_000;
/// Some Saturday, 30 ms before the end of a second, a minute, an hour.
const START_MS: u64 = 1_795_305_600_000 - 30;

/// Draws that a seed decides: SplitMix64.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// Shards with one meter.
struct World {
    meter: Meter,
    shares: Vec<Share>,
    mono_ns: u64,
    /// What passed: when by the clock of its shard, which shard, how much.
    passed: Vec<(Now, usize, u64)>,
    /// What was spent of each window of a quota, by its end.
    windows: BTreeMap<u64, u64>,
}

impl World {
    fn new(terms: Terms, shards: usize) -> Self {
        let meter = Meter::new(terms, at(0));
        Self {
            meter,
            shares: (0..shards).map(|_| Share::default()).collect(),
            mono_ns: 0,
            passed: Vec::new(),
            windows: BTreeMap::new(),
        }
    }

    /// One message of so many tokens at a shard, whose clock is late by so much.
    fn message(&mut self, shard: usize, tokens: u64, late_ns: u64) -> bool {
        let now = at(self.mono_ns.saturating_sub(late_ns));
        let place = (shard as u16, self.shares.len() as u16);
        let share = &mut self.shares[shard];
        let is_through = is_there(share, &mut self.meter, place, tokens, now);
        if is_through {
            assert!(now.wall_ms < share.ends_ms(), "nothing is spent after its window");
            *self.windows.entry(share.ends_ms()).or_default() += tokens;
            if share.spend(tokens, now) {
                share.give_back(&mut self.meter, now);
            }
            self.passed.push((now, shard, tokens));
        }
        is_through
    }

    /// The rest of a message that was let in.
    fn rest(&mut self, shard: usize, tokens: u64) {
        let now = at(self.mono_ns);
        if self.shares[shard].spend(tokens, now) {
            self.shares[shard].give_back(&mut self.meter, now);
        }
        self.passed.push((at(self.mono_ns), shard, tokens));
    }

    fn total(&self) -> u64 {
        self.passed.iter().map(|(_, _, tokens)| tokens).sum()
    }

    fn by_shard(&self) -> Vec<u64> {
        let mut sums = vec![0; self.shares.len()];
        self.passed.iter().for_each(|(_, shard, tokens)| sums[*shard] += tokens);
        sums
    }
}

/// Whether a shard may spend so many tokens, whom it has to ask for them.
fn is_there(share: &mut Share, meter: &mut Meter, place: (u16, u16), tokens: u64, now: Now) -> bool {
    match share.has(tokens, now) {
        Answer::Yes => true,
        Answer::No => false,
        Answer::Ask => share.refill(meter, place, tokens, now),
    }
}

fn at(mono_ns: u64) -> Now {
    Now { mono_ns, wall_ms: START_MS + mono_ns / 1_000_000 }
}

/// The plain bucket: what a single one would have had to lend, at worst, for all this to pass. In token-nanoseconds, so
/// that nothing is rounded.
fn overdraft_of_plain_bucket(passed: &[(Now, usize, u64)], amount: u64, per_ns: u64, burst: u64) -> i128 {
    let (amount, per_ns, burst) = (i128::from(amount), i128::from(per_ns), i128::from(burst));
    let mut level = burst * per_ns;
    let mut last_ns = 0;
    let mut worst = 0;
    for (now, _, tokens) in passed {
        let elapsed_ns = now.mono_ns.saturating_sub(last_ns);
        last_ns = last_ns.max(now.mono_ns);
        level = (level + i128::from(elapsed_ns) * amount).min(burst * per_ns) - i128::from(*tokens) * per_ns;
        worst = worst.max(-level);
    }
    (worst + per_ns - 1) / per_ns
}

fn bucket(amount: u64, per_ns: u64, burst: u64) -> Terms {
    Terms::Bucket { amount, per_ns, burst }
}

/// What shards do: bursts by some, silence by others, holding on to what they have, giving it back, being late.
fn do_anything(world: &mut World, seed: u64, steps: u64, tokens_max: u64, late_max_ns: u64) {
    let mut draws = Draws(seed);
    let shards = world.shares.len() as u64;
    for _ in 0..steps {
        let shard = match draws.below(4) {
            0 => 0,
            1 => draws.below(shards.min(3)),
            _ => draws.below(shards),
        } as usize;
        match draws.below(16) {
            0 => world.mono_ns += draws.below(50 * STEP_NS),
            1..=5 => world.mono_ns += draws.below(STEP_NS),
            6 => {
                let now = at(world.mono_ns);
                world.shares[shard].give_back(&mut world.meter, now);
            }
            _ => {
                let (tokens, late_ns) = (1 + draws.below(tokens_max), draws.below(late_max_ns));
                for _ in 0..draws.below(20) {
                    world.message(shard, tokens, late_ns);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_bucket_lets_no_more_pass_than_a_plain_one(
        seed: u64, shards in 1_usize..=64, amount in 1_u64..5000, burst in 1_u64..5000, tokens_max in 1_u64..40,
        per_ns in prop_oneof![Just(SECOND_NS), Just(60 * SECOND_NS), 1_u64..SECOND_NS],
    ) {
        let mut world = World::new(bucket(amount, per_ns, burst), shards);
        do_anything(&mut world, seed, 2000, tokens_max.min(burst), STEP_NS);
        // A shard that is late by one step has spent what it spent that much earlier.
        let slack = i128::from(amount) * i128::from(STEP_NS) / i128::from(per_ns) + 1;
        let overdraft = overdraft_of_plain_bucket(&world.passed, amount, per_ns, burst);
        prop_assert!(overdraft <= slack, "{overdraft} more than {slack}");
    }

    #[test]
    fn without_late_clocks_it_is_exact(
        seed: u64, shards in 1_usize..=64, amount in 1_u64..5000, burst in 1_u64..5000,
    ) {
        let mut world = World::new(bucket(amount, SECOND_NS, burst), shards);
        let mut draws = Draws(seed);
        for _ in 0..5000 {
            world.mono_ns += draws.below(200_000);
            let shard = draws.below(shards as u64) as usize;
            if draws.below(50) == 0 {
                let now = at(world.mono_ns);
                world.shares[shard].give_back(&mut world.meter, now);
            }
            world.message(shard, 1 + draws.below(3).min(burst - 1), 0);
        }
        prop_assert_eq!(overdraft_of_plain_bucket(&world.passed, amount, SECOND_NS, burst), 0);
    }

    #[test]
    fn a_quota_lets_no_more_pass_in_any_window_than_its_amount(
        seed: u64, shards in 1_usize..=64, amount in 1_u64..5000, tokens_max in 1_u64..40,
        window in prop_oneof![
            Just(Window::one(WindowUnit::Second)), Just(Window::one(WindowUnit::Minute)), Just(Window::one(WindowUnit::Hour)),
        ],
    ) {
        let mut world = World::new(Terms::Quota { amount, window }, shards);
        do_anything(&mut world, seed, 3000, tokens_max.min(amount), 10 * STEP_NS);
        for (end_ms, sum) in &world.windows {
            prop_assert!(*sum <= amount, "{sum} of {amount} in the window to {end_ms}");
        }
        // And by what the clocks said, where nobody's was late.
        let mut world = World::new(Terms::Quota { amount, window }, shards);
        do_anything(&mut world, seed, 3000, tokens_max.min(amount), 0);
        let mut sums = BTreeMap::<u64, u64>::new();
        for (now, _, tokens) in &world.passed {
            *sums.entry(window.around(now.wall_ms).0).or_default() += tokens;
        }
        prop_assert!(sums.values().all(|sum| *sum <= amount), "{sums:?}");
    }

    #[test]
    fn what_ran_over_is_paid_back(
        seed: u64, shards in 1_usize..=16, amount in 1000_u64..100_000, burst in 1000_u64..100_000,
    ) {
        // Bytes: a message's first frame is asked for, the rest of it runs over.
        let mut world = World::new(bucket(amount, SECOND_NS, burst), shards);
        let mut draws = Draws(seed);
        let rest_max = 4000;
        let mut open = 0;
        for _ in 0..3000 {
            world.mono_ns += draws.below(3_000_000);
            let shard = draws.below(shards as u64) as usize;
            if world.message(shard, 1 + draws.below(900), 0) {
                open += 1;
                world.rest(shard, draws.below(rest_max));
            }
        }
        // One rest for each shard can be unpaid at a time: nobody with debts lets anything in.
        let overdraft = overdraft_of_plain_bucket(&world.passed, amount, SECOND_NS, burst);
        prop_assert!(open > 0 && overdraft <= i128::from(rest_max) * shards as i128, "{overdraft}");
        let flowed = u128::from(burst) + u128::from(amount) * u128::from(world.mono_ns) / u128::from(SECOND_NS);
        let most = flowed + u128::from(rest_max) * shards as u128;
        prop_assert!(u128::from(world.total()) <= most, "{} of {most}", world.total());
    }

    #[test]
    fn under_saturation_all_of_it_passes_and_every_shard_has_its_part(
        seed: u64, shards in 1_usize..=64, amount in 200_u64..20_000, burst_ms in 20_u64..3000, skew in 1_u64..20,
    ) {
        let burst = (amount * burst_ms / 1000).max(2);
        let mut world = World::new(bucket(amount, SECOND_NS, burst), shards);
        let mut draws = Draws(seed);
        // Four times the rate is offered; the first shards come `skew` times as often as the last.
        let mean_ns = SECOND_NS / (amount * 4);
        while world.mono_ns < 3 * SECOND_NS {
            world.mono_ns += draws.below(mean_ns * 2);
            let favourite = draws.below(skew) != 0;
            let shard = if favourite { draws.below(shards.div_ceil(2) as u64) } else { draws.below(shards as u64) };
            world.message(shard as usize, 1, 0);
        }
        let most = u128::from(burst) + u128::from(amount) * u128::from(world.mono_ns) / u128::from(SECOND_NS);
        let total = u128::from(world.total());
        prop_assert!(total <= most && total * 100 >= most * 99, "{total} of {most}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn shards_that_saturate_a_bucket_have_equal_parts_however_much_each_wants(
        seed: u64, weights in prop::collection::vec(1_u64..=9, 2..=64), each in 20_u64..=100, burst_ms in 20_u64..1000,
    ) {
        let shards = weights.len() as u64;
        let amount = shards * each;
        // Each comes every few milliseconds: who stays away for long does not saturate anything.
        saturate(&Saturated { amount, burst: (amount * burst_ms / 1000).max(2), seconds: 3, seed }, &weights, 400 * shards);
    }
}

/// Shards that all want more than their part: each has the same within a tenth, once the burst is gone.
#[test]
fn shards_that_saturate_a_bucket_have_equal_parts() {
    for (shards, amount, burst, weights) in [
        (2, 1000, 100, [1, 1]),
        (2, 1000, 100, [1, 9]),
        (64, 3000, 500, [1, 1]),
        (64, 3000, 1000, [1, 5]),
        (7, 3000, 3000, [2, 3]),
        (16, 5000, 1000, [1, 4]),
    ] {
        let weights: Vec<u64> = weights.into_iter().cycle().take(shards).collect();
        // Even the rarest comes three times as often as its part flows in.
        saturate(&Saturated { amount, burst, seconds: 5, seed: 7 }, &weights, amount * 3 * weights[1] * 2);
    }
}

/// A bucket of which more is wanted than there is.
struct Saturated {
    amount: u64,
    burst: u64,
    seconds: u64,
    seed: u64,
}

/// Shards come so many times a second in all, at random, each with as many messages as its weight says.
fn saturate(&Saturated { amount, burst, seconds, seed }: &Saturated, weights: &[u64], polls: u64) {
    let shards = weights.len();
    let mut world = World::new(bucket(amount, SECOND_NS, burst), shards);
    let mut draws = Draws(seed);
    let pause_ns = (SECOND_NS / polls).max(1);
    let mut burst_is_gone = None;
    while world.mono_ns < seconds * SECOND_NS {
        world.mono_ns += draws.below(pause_ns * 2);
        let shard = draws.below(shards as u64) as usize;
        for _ in 0..weights[shard] {
            if !world.message(shard, 1, 0) && burst_is_gone.is_none() && world.mono_ns > SECOND_NS / 10 {
                burst_is_gone = Some(world.by_shard());
            }
        }
    }
    let before = burst_is_gone.expect("the bucket ran dry");
    let parts: Vec<u64> = world.by_shard().iter().zip(before).map(|(all, before)| all - before).collect();
    let mean = parts.iter().sum::<u64>() as f64 / shards as f64;
    for (shard, part) in parts.iter().enumerate() {
        let off = (*part as f64 - mean).abs() / mean;
        assert!(off <= 0.1, "{shards} shards, {weights:?}: shard {shard} had {part}, the mean is {mean:.0}");
    }
    let most = burst + amount * world.mono_ns / SECOND_NS;
    assert!(world.total() <= most && world.total() * 100 >= most * 99, "{} of {most}", world.total());
}

#[test]
fn shards_that_saturate_a_quota_use_all_of_it_in_every_window() {
    let window = Window::one(WindowUnit::Second);
    for (shards, amount) in [(1, 1000), (8, 1000), (64, 6400)] {
        let mut world = World::new(Terms::Quota { amount, window }, shards);
        let mut draws = Draws(11);
        let mut next = 0;
        let pause_ns = (SECOND_NS / (amount * 3)).max(1);
        while world.mono_ns < 3 * SECOND_NS {
            world.mono_ns += draws.below(pause_ns * 2);
            world.message(next % shards, 1, 0);
            next += 1;
        }
        let sums: Vec<u64> = world.windows.values().copied().collect();
        assert!(sums.iter().all(|sum| *sum <= amount), "{shards} shards: {sums:?} of {amount}");
        // The first window has 30 ms, and the last is cut off.
        let whole = &sums[1..sums.len() - 1];
        assert!(whole.len() == 2 && whole.iter().all(|sum| sum * 100 >= amount * 99), "{shards} shards: {sums:?}");
        let parts = world.by_shard();
        let mean = parts.iter().sum::<u64>() as f64 / shards as f64;
        assert!(parts.iter().all(|part| (*part as f64 - mean).abs() / mean <= 0.1), "{parts:?}");
    }
}

#[test]
fn what_idle_shards_hold_is_not_lost_to_those_who_saturate() {
    let window = Window::one(WindowUnit::Minute);
    let amount = 60_000;
    let mut world = World::new(Terms::Quota { amount, window }, 64);
    world.mono_ns = 40_000_000; // in a new minute
    for shard in 0..64 {
        for _ in 0..100 {
            world.mono_ns += 1000;
            world.message(shard, 1, 0);
        }
    }
    let start_ns = world.mono_ns;
    while world.mono_ns < start_ns + 50 * SECOND_NS {
        world.mono_ns += 100_000;
        world.message(0, 1, 0);
        if world.mono_ns % SECOND_NS < 100_000 {
            let now = at(world.mono_ns);
            world.shares[1..].iter_mut().for_each(|share| share.give_back(&mut world.meter, now));
        }
    }
    assert!(world.total() <= amount && world.total() * 100 >= amount * 99, "{} of {amount}", world.total());
}

/// A shard that comes back after a while finds what flowed in meanwhile, as with a plain bucket.
#[test]
fn what_is_spent_and_not_settled_keeps_nothing_from_flowing_in() {
    let mut world = World::new(bucket(100, SECOND_NS, 100), 4);
    for round in 1..10 {
        let sent = [37, 50, 75, 99, 100][round % 5];
        for _ in 0..sent {
            assert!(world.message(1, 1, 0), "round {round}");
        }
        world.mono_ns += SECOND_NS;
    }
}

/// A shard whose messages are large and wait beside one whose small ones saturate: both have their part.
#[test]
fn large_messages_that_wait_have_their_part_beside_small_ones() {
    for (burst, large) in [(1_u64 << 20, 256 << 10), (1 << 20, 20 << 10), (64 << 10, 32 << 10), (64 << 10, 64 << 10)] {
        let mut world = World::new(bucket(1 << 20, SECOND_NS, burst), 2);
        world.shares[1].set_waits(true);
        let (mut of_large, mut of_small, mut again_ns) = (0_u64, 0_u64, 0);
        while world.mono_ns < 20 * SECOND_NS {
            world.mono_ns += 1_000_000;
            of_small += (0..4).filter(|_| world.message(0, 1024, 0)).count() as u64 * 1024;
            // It comes back when it was told to, and not before.
            if world.mono_ns >= again_ns {
                if world.message(1, large, 0) {
                    of_large += large;
                } else {
                    let (terms, now) = (*world.meter.terms(), at(world.mono_ns));
                    again_ns = world.mono_ns
                        + world.shares[1].wait_ns(large, &terms, now).expect("it was told").min(SECOND_NS);
                }
            }
        }
        let most = burst + 20 * (1 << 20);
        assert!(
            of_large + of_small <= most && (of_large + of_small) * 100 >= most * 97,
            "{of_large} {of_small} of {most}"
        );
        assert!(
            of_large * 10 >= of_small * 8 && of_small * 10 >= of_large * 8,
            "{large} of {burst}: {of_large} {of_small}"
        );
    }
}
