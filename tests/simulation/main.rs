//! Do two ends and a bad network agree? A real session between two scripted peers, in memory, on a virtual clock.
//!
//! Every run is made from one number: the options of the route, what the peers say, how their bytes are cut, who stops
//! reading, who vanishes at which byte, and how time passes. A shadow model knows every frame that each side sent, and
//! the verdict compares it with every byte that the other side received. A failure prints its number;
//! `FRAMEGATE_SEED` repeats it, `FRAMEGATE_SIMULATION_SEEDS` runs so many.

#[path = "../kit/mod.rs"]
mod kit;

mod engine;
mod network;
mod peer;
mod splits;
mod verdict;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::SystemTime;

use world::World;

/// Runs of an ordinary test: a second or two in a debug build.
const RUNS: u64 = 1000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn two_peers_and_a_bad_network_agree_about_every_session() {
    let first = number("FRAMEGATE_SEED");
    let runs = number("FRAMEGATE_SIMULATION_SEEDS").unwrap_or(if first.is_some() { 1 } else { RUNS });
    let first = first.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        now.subsec_nanos().into()
    });
    let mut tally = verdict::Tally::default();
    for seed in first..first + runs {
        let run = catch_unwind(AssertUnwindSafe(|| World::new(seed).run(&mut tally)));
        assert!(run.is_ok(), "repeat it with FRAMEGATE_SEED={seed}");
    }
    println!("{runs} sessions from seed {first}: {tally:?}");
    if runs >= RUNS {
        tally.check_that_everything_happened();
    }
}
