//! The clock of the wall as one meter believes it, while shards do not agree what it shows.
//!
//! Windows are [`super::Window`]'s, and what is used of them the meter's.

use super::Now;

/// By how much clocks may differ that count as the same. Two that differ from a third by no more differ by no more than a
/// second from each other: the shortest window, before which a meter does not go back.
const SAME_MS: u64 = 500;
/// For how long nobody is believed who says something else: longer than it takes until each shard has looked at its clock.
const BELIEVED_NS: u64 = 2_000_000_000;

/// A clock of the wall that was set is believed from the first who says so; those who do not know of it yet are put right.
/// A window would be begun anew by each of them otherwise, and all of it would pass again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// By how many milliseconds it is ahead of the one that only rises, modulo 2^64.
    ahead_ms: u64,
    until_ns: u64,
}

impl Clock {
    /// As this shows it; whoever says something else next is believed.
    pub(super) fn new(now: Now) -> Self {
        Self { ahead_ms: ahead_ms(now), until_ns: 0 }
    }

    /// What it shows: milliseconds since 1970.
    pub(super) fn wall_ms(&mut self, now: Now) -> u64 {
        let says_ms = ahead_ms(now);
        if says_ms.wrapping_sub(self.ahead_ms).cast_signed().unsigned_abs() > SAME_MS {
            if now.mono_ns < self.until_ns {
                return (now.mono_ns / 1_000_000).wrapping_add(self.ahead_ms);
            }
            *self = Self { ahead_ms: says_ms, until_ns: now.mono_ns.saturating_add(BELIEVED_NS) };
        }
        now.wall_ms
    }
}

fn ahead_ms(now: Now) -> u64 {
    now.wall_ms.wrapping_sub(now.mono_ns / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, ahead_ms: u64) -> Now {
        Now { mono_ns: ms * 1_000_000, wall_ms: ms + ahead_ms }
    }

    #[test]
    fn who_does_not_know_yet_that_a_clock_was_set_is_put_right() {
        for set_ms in [700_000, 100_000] {
            let mut clock = Clock::new(at(0, 600_000));
            assert_eq!(clock.wall_ms(at(10_000, 600_000)), 610_000);
            assert_eq!(clock.wall_ms(at(10_001, set_ms)), 10_001 + set_ms);
            assert_eq!(clock.wall_ms(at(10_002, 600_000)), 10_002 + set_ms);
            assert_eq!(clock.wall_ms(at(12_000, 600_000)), 12_000 + set_ms);
            assert_eq!(clock.wall_ms(at(12_001, 600_000)), 612_001, "it was set again");
        }
    }

    #[test]
    fn a_clock_that_is_slewed_is_the_same_clock() {
        let mut clock = Clock::new(at(0, 600_000));
        for step in 0..10_000 {
            assert_eq!(clock.wall_ms(at(10 * step, 600_000 + step)), 600_000 + 11 * step);
        }
    }
}
