//! The oracle: a bucket or a window that one thread asks, one message at a time.

use proto::throttle::Terms;

/// What a limit is without shards.
pub enum Plain {
    /// A token bucket.
    Bucket(Bucket),
    /// One window of a quota.
    Window {
        /// Taken of it.
        used: u64,
        /// The most that it was of, if that has changed.
        amount: u64,
    },
}

/// A token bucket; its level is in token-nanoseconds, so that nothing is rounded.
pub struct Bucket {
    amount: i128,
    per_ns: i128,
    burst: i128,
    level: i128,
    at_ns: u64,
}

impl Plain {
    /// Full, or unused.
    pub fn new(terms: Terms, mono_ns: u64) -> Self {
        match terms {
            Terms::Bucket { amount, per_ns, burst } => {
                let (amount, per_ns, burst) = (amount.into(), per_ns.into(), burst.into());
                Self::Bucket(Bucket { amount, per_ns, burst, level: burst * per_ns, at_ns: mono_ns })
            }
            Terms::Quota { amount, .. } => Self::Window { used: 0, amount },
        }
    }

    /// How many tokens more there would have to be for so many to pass; what is larger than all of it passes when it is
    /// full. They are taken.
    pub fn take(&mut self, tokens: u64, mono_ns: u64) -> u64 {
        match self {
            _ if tokens == 0 => 0,
            Self::Bucket(bucket) => {
                bucket.advance(mono_ns);
                let need = i128::from(tokens).min(bucket.burst) * bucket.per_ns;
                let missing = (need - bucket.level + bucket.per_ns - 1).div_euclid(bucket.per_ns);
                bucket.level -= i128::from(tokens) * bucket.per_ns;
                u64::try_from(missing).unwrap_or(0)
            }
            Self::Window { used, amount } => {
                let missing = (*used + tokens.min(*amount)).saturating_sub(*amount);
                *used += tokens;
                missing
            }
        }
    }

    /// Other terms of the same kind; so many tokens are in somebody's hand, and stay there.
    pub fn set(&mut self, terms: Terms, in_hand: u64, mono_ns: u64) {
        match (self, terms) {
            (Self::Bucket(bucket), Terms::Bucket { amount, per_ns, burst }) => {
                bucket.advance(mono_ns);
                let is_full = bucket.level >= bucket.burst * bucket.per_ns;
                let old_per_ns = std::mem::replace(&mut bucket.per_ns, per_ns.into());
                (bucket.amount, bucket.burst) = (amount.into(), burst.into());
                let there = (bucket.level * bucket.per_ns + old_per_ns - 1).div_euclid(old_per_ns);
                let brim = bucket.burst.max(in_hand.into()) * bucket.per_ns;
                bucket.level = if is_full { brim } else { there.min(brim) };
            }
            (Self::Window { amount, .. }, Terms::Quota { amount: new, .. }) => *amount = new.max(*amount),
            _ => {}
        }
    }

    /// Tokens taken: of the window, or missing from the full bucket.
    pub fn used(&mut self, mono_ns: u64) -> u64 {
        match self {
            Self::Bucket(bucket) => {
                bucket.advance(mono_ns);
                let missing = bucket.burst * bucket.per_ns - bucket.level;
                u64::try_from(missing.div_euclid(bucket.per_ns)).unwrap_or(0)
            }
            Self::Window { used, .. } => *used,
        }
    }
}

impl Bucket {
    fn advance(&mut self, mono_ns: u64) {
        let elapsed_ns = i128::from(mono_ns.saturating_sub(self.at_ns));
        self.at_ns = self.at_ns.max(mono_ns);
        // What is above the brim because the terms were others stays, and nothing flows in on top.
        let brim = (self.burst * self.per_ns).max(self.level);
        self.level = (self.level + elapsed_ns * self.amount).min(brim);
    }
}
