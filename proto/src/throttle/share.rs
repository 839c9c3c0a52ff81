//! What one shard has in hand of a meter.

use super::Now;
use super::meter::{Lease, Meter};

/// A lease that was spent faster than this is followed by one twice as large.
const SPENT_FAST_NS: u64 = 2_000_000;
/// One that lasted longer than this, by one half as large.
const SPENT_SLOWLY_NS: u64 = 20_000_000;
/// The largest lease that is asked for, in tokens.
const CHUNK_MAX: u64 = 1 << 32;
/// For how long a shard that was sent away believes it without asking again, at most: somebody may give something back,
/// and an operator may give more.
const BELIEVED_NS: u64 = 5_000_000;

/// What one shard has in hand of a meter. As long as it lasts, nothing that others touch is touched.
#[derive(Debug)]
pub struct Share {
    /// Tokens; below zero: owed.
    left: i64,
    /// Milliseconds since 1970 when what is left ends.
    until_ms: u64,
    /// Tokens that the meter has given and not heard of again.
    granted: u64,
    /// Tokens that the next lease should have.
    chunk: u64,
    granted_at_ns: u64,
    /// When it was spent of last.
    spent_ns: u64,
    /// So many tokens are not to be had before then.
    dry: (u64, u64),
}

/// What a shard knows by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// There is enough in hand.
    Yes,
    /// There is not, nor where it comes from.
    No,
    /// The meter must be asked: [`Share::refill`].
    Ask,
}

impl Default for Share {
    fn default() -> Self {
        Self { left: 0, until_ms: 0, granted: 0, chunk: 1, granted_at_ns: 0, spent_ns: 0, dry: (u64::MAX, 0) }
    }
}

impl Share {
    /// Whether so many tokens may be spent.
    #[inline]
    pub fn has(&self, need: u64, now: Now) -> Answer {
        if self.left >= 0 && self.left.unsigned_abs() >= need && now.wall_ms < self.until_ms {
            Answer::Yes
        } else if need >= self.dry.0 && now.mono_ns < self.dry.1 {
            Answer::No
        } else {
            Answer::Ask
        }
    }

    /// Spends so many; more than there are is owed, and is to be told to the meter soon. Whether it is so.
    #[inline]
    pub fn spend(&mut self, tokens: u64, now: Now) -> bool {
        self.left = self.left.saturating_sub_unsigned(tokens);
        self.spent_ns = now.mono_ns;
        self.left < 0
    }

    /// Gives everything back and takes what there is: whether so many tokens, or as many as can ever be in hand, are
    /// there now.
    pub fn refill(&mut self, meter: &mut Meter, (shard, shards): (u16, u16), need: u64, now: Now) -> bool {
        let lasted_ns = now.mono_ns.saturating_sub(self.granted_at_ns);
        if lasted_ns < SPENT_FAST_NS {
            self.chunk = self.chunk.saturating_mul(2).min(CHUNK_MAX);
        } else if lasted_ns > SPENT_SLOWLY_NS {
            self.chunk = (self.chunk / 2).max(1);
        }
        self.give_back(meter, now);
        match meter.lease(shard, shards, need, self.chunk.max(need), now) {
            Lease::Granted { tokens, until_ms } => {
                self.left = i64::try_from(tokens).unwrap_or(i64::MAX);
                (self.granted, self.until_ms, self.granted_at_ns) = (tokens, until_ms, now.mono_ns);
                self.dry = (u64::MAX, 0);
                true
            }
            Lease::Dry { wait_ns } => {
                self.dry = (need, now.mono_ns.saturating_add(wait_ns.min(BELIEVED_NS)));
                false
            }
        }
    }

    /// Gives back what is left, or pays what is owed.
    pub fn give_back(&mut self, meter: &mut Meter, now: Now) {
        if self.granted > 0 || self.left < 0 {
            meter.settle(self.granted, self.left, self.until_ms, self.spent_ns, now);
        }
        (self.granted, self.left, self.until_ms) = (0, 0, 0);
    }

    /// Forgets that it was sent away: the terms are others now.
    pub fn ask_again(&mut self) {
        self.dry = (u64::MAX, 0);
    }

    /// Whether there is anything to give back, or to pay.
    pub fn is_held(&self) -> bool {
        self.granted > 0 || self.left != 0
    }

    /// When what it has in hand ends: milliseconds since 1970; `u64::MAX`: it does not.
    pub fn ends_ms(&self) -> u64 {
        self.until_ms
    }

    /// When it was last granted or spent something, on the clock of [`Now::mono_ns`].
    pub fn touched_ns(&self) -> u64 {
        self.granted_at_ns.max(self.spent_ns)
    }
}
