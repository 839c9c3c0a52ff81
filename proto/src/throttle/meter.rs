//! The one count that a limit has in a process.

use super::clock::Clock;
use super::turns::Turns;
use super::{Now, Window};

/// What a limit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terms {
    /// A token bucket: `amount` tokens flow in every `per_ns` nanoseconds, and it holds `burst` of them.
    Bucket {
        /// Tokens. None flow in: what is in hand is all there ever is.
        amount: u64,
        /// Nanoseconds, at least 1.
        per_ns: u64,
        /// Tokens.
        burst: u64,
    },
    /// So much in every window of the calendar.
    Quota {
        /// Tokens.
        amount: u64,
        /// The windows.
        window: Window,
    },
}

impl Terms {
    /// The most that can pass at once.
    pub fn capacity(&self) -> u64 {
        match *self {
            Self::Bucket { burst, .. } => burst,
            Self::Quota { amount, .. } => amount,
        }
    }

    /// The windows, where it is a quota.
    pub fn window(&self) -> Option<Window> {
        match *self {
            Self::Bucket { .. } => None,
            Self::Quota { window, .. } => Some(window),
        }
    }

    /// In how many nanoseconds so many more flow in; none of a quota does before its window ends.
    pub(super) fn flow_ns(&self, tokens: u64) -> u64 {
        match *self {
            Self::Bucket { amount, per_ns, .. } if tokens > 0 => time_for(tokens_in_level(tokens, per_ns), amount),
            _ => 0,
        }
    }
}

/// What is used of a limit, and what is left, in its own unit. What shards have in hand counts as used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Used of the window, or missing from the full bucket. More than there is, where a message ran over.
    pub used: u64,
    /// What may still pass.
    pub left: u64,
    /// When nothing of it will be used any more if nobody comes: milliseconds since 1970; `u64::MAX`: never.
    pub resets_ms: u64,
}

/// A limit's count: a token bucket or a quota, of which shards take leases.
///
/// Whatever shards do, at most `amount × t / per + burst` passes of a bucket in any stretch of time t, and at most the
/// amount of a quota in each of its windows: what is out on lease counts against the burst, and a lease ends with its
/// window. Beside that, the rest of a message that was let in runs over, and is paid back first.
#[derive(Debug)]
pub struct Meter {
    terms: Terms,
    count: Count,
    /// Counts that came before this one: windows that are over, and other terms. A lease has it too, so that what is left
    /// of one goes back to the count that it is of, or nowhere.
    number: u64,
}

#[derive(Debug)]
enum Count {
    Bucket {
        /// Tokens that are nobody's, times `per_ns`; below zero: debt.
        level: i128,
        /// When it was so.
        at_ns: u64,
        /// Tokens out on lease, spent or not. Together with the level they are never more than the burst.
        out: u64,
        /// There from the first shard that was sent away until nobody waits.
        turns: Option<Box<Turns>>,
    },
    Quota {
        /// Tokens taken in this window.
        used: u64,
        start_ms: u64,
        end_ms: u64,
        clock: Clock,
    },
}

/// What a shard is told that asks for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lease {
    Granted(Loan),
    /// None; in so many nanoseconds it is worth asking again.
    Dry {
        wait_ns: u64,
    },
}

/// Tokens on lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loan {
    pub(super) tokens: u64,
    /// So many of them are spent later; the others were asked for, and are as good as spent.
    pub(super) later: u64,
    /// They may be spent while the clock shows this or later: milliseconds since 1970.
    pub(super) from_ms: u64,
    /// And before this.
    pub(super) until_ms: u64,
    /// Of which count they are.
    pub(super) number: u64,
}

impl Meter {
    /// A full bucket, or a window of which nothing is used.
    pub fn new(terms: Terms, now: Now) -> Self {
        let count = match terms {
            Terms::Bucket { per_ns, burst, .. } => {
                let level = tokens_in_level(burst, per_ns);
                Count::Bucket { level, at_ns: now.mono_ns, out: 0, turns: None }
            }
            Terms::Quota { window, .. } => {
                let (start_ms, end_ms) = window.around(now.wall_ms);
                Count::Quota { used: 0, start_ms, end_ms, clock: Clock::new(now) }
            }
        };
        Self { terms, count, number: 0 }
    }

    /// A window of which this much is used already, if it is still the same window.
    pub fn restored(terms: Terms, used: u64, start_ms: u64, now: Now) -> Self {
        let mut meter = Self::new(terms, now);
        if let Count::Quota { used: new, start_ms: new_start_ms, .. } = &mut meter.count
            && *new_start_ms == start_ms
        {
            *new = used;
        }
        meter
    }

    /// The terms it has.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Other terms. Of a bucket what is in it stays in it, as far as there is room, and a full one is full; of a quota with
    /// the same windows what was taken in this one stays taken. Anything else is another count. Leases that are out are
    /// kept by who has them.
    pub fn set(&mut self, terms: Terms, now: Now) {
        if terms == self.terms {
            return;
        }
        self.advance(now);
        match (&mut self.count, self.terms, terms) {
            (
                Count::Bucket { level, .. },
                Terms::Bucket { per_ns: old_per_ns, burst: old, .. },
                Terms::Bucket { per_ns, burst, .. },
            ) => {
                let is_full = *level >= tokens_in_level(old, old_per_ns);
                let there = level.div_euclid(i128::from(old_per_ns.max(1)));
                *level = if is_full { tokens_in_level(burst, per_ns) } else { there * i128::from(per_ns.max(1)) };
            }
            (Count::Quota { .. }, Terms::Quota { window: old, .. }, Terms::Quota { window, .. }) if old == window => {}
            _ => *self = Self { number: self.number + 1, ..Self::new(terms, now) },
        }
        self.terms = terms;
        self.advance(now);
    }

    /// What is used and left.
    pub fn usage(&mut self, now: Now) -> Usage {
        self.advance(now);
        match (&self.count, self.terms) {
            (Count::Bucket { level, .. }, Terms::Bucket { amount, per_ns, burst }) => {
                let missing = tokens_in_level(burst, per_ns).saturating_sub(*level);
                let used = missing.max(0).div_euclid(i128::from(per_ns.max(1)));
                let resets_ms = match (missing.max(0), amount) {
                    (0, _) => now.wall_ms,
                    (_, 0) => u64::MAX,
                    (missing, amount) => {
                        let ms = missing / i128::from(amount) / 1_000_000;
                        now.wall_ms.saturating_add(u64::try_from(ms).unwrap_or(u64::MAX))
                    }
                };
                let left = whole_tokens(*level, per_ns);
                Usage { used: u64::try_from(used).unwrap_or(u64::MAX), left, resets_ms }
            }
            (Count::Quota { used, end_ms, .. }, Terms::Quota { amount, .. }) => {
                Usage { used: *used, left: amount.saturating_sub(*used), resets_ms: *end_ms }
            }
            // Terms and count are made together.
            _ => Usage { used: 0, left: 0, resets_ms: u64::MAX },
        }
    }

    /// In how many nanoseconds so many tokens can be there, if nobody else takes them; `u64::MAX`: never.
    pub fn wait_ns(&mut self, need: u64, now: Now) -> u64 {
        self.advance(now);
        let need = need.min(self.terms.capacity()).max(1);
        match (&mut self.count, self.terms) {
            (Count::Bucket { level, .. }, Terms::Bucket { amount, per_ns, .. }) => {
                time_for(tokens_in_level(need, per_ns).saturating_sub(*level), amount)
            }
            (Count::Quota { used, end_ms, clock, .. }, Terms::Quota { amount, .. }) => {
                let is_there = amount.saturating_sub(*used) >= need;
                if is_there { 0 } else { end_ms.saturating_sub(clock.wall_ms(now)).saturating_mul(1_000_000) }
            }
            _ => u64::MAX,
        }
    }

    /// Of a quota: what is used of which window (its start, milliseconds since 1970), to be told to [`Meter::restored`]
    /// after a restart.
    pub fn in_window(&self) -> Option<(u64, u64)> {
        match self.count {
            Count::Quota { used, start_ms, .. } => Some((used, start_ms)),
            Count::Bucket { .. } => None,
        }
    }

    /// Whether it is as good as new: nothing is used and nothing is out, so that it may be forgotten.
    pub fn is_idle(&mut self, now: Now) -> bool {
        self.advance(now);
        match (&self.count, self.terms) {
            (Count::Bucket { level, out, .. }, Terms::Bucket { per_ns, burst, .. }) => {
                *out == 0 && *level >= tokens_in_level(burst, per_ns)
            }
            (Count::Quota { used, .. }, _) => *used == 0,
            _ => true,
        }
    }

    /// Tokens for a shard: at least `need` of them, or all there can be where that is less; at best `want`. Who `waits` comes
    /// back when it was told to: until then others have only what is beyond that.
    pub(super) fn lease(&mut self, (shard, shards): (u16, u16), need: u64, want: u64, waits: bool, now: Now) -> Lease {
        self.advance(now);
        let need = need.min(self.terms.capacity()).max(1);
        let tokens = match (&mut self.count, self.terms) {
            (Count::Bucket { level, turns, .. }, Terms::Bucket { amount, per_ns, burst }) => {
                let there = whole_tokens(*level, per_ns);
                // Who was sent away and does not come for it shall not keep much from the others.
                let ample = 1 + burst / 64;
                let kept = turns.as_mut().map_or(0, |turns| turns.kept_from(shard, ample, now.mono_ns));
                let asked = need.saturating_add(kept);
                if there < asked {
                    let wait_ns = time_for(tokens_in_level(asked, per_ns).saturating_sub(*level), amount);
                    let back_in_ns = waits.then(|| wait_ns.min(BACK_IN_NS_MAX));
                    let turns = turns.get_or_insert_with(|| Box::new(Turns::new(shards)));
                    turns.refused(shard, need, back_in_ns, now.mono_ns);
                    return Lease::Dry { wait_ns };
                }
                let mut tokens = portion(there, shards, need, want);
                if let Some(waiting) = turns {
                    if waiting.others_wait(shard, now.mono_ns) {
                        tokens = tokens.min(waiting.behind(shard)).max(need);
                    }
                    waiting.given(shard, tokens);
                    if !waiting.others_are_here(shard, now.mono_ns) {
                        *turns = None;
                    }
                }
                tokens
            }
            (Count::Quota { used, end_ms, clock, .. }, Terms::Quota { amount, .. }) => {
                let there = amount.saturating_sub(*used);
                if there < need {
                    return Lease::Dry { wait_ns: end_ms.saturating_sub(clock.wall_ms(now)).saturating_mul(1_000_000) };
                }
                portion(there, shards, need, want)
            }
            _ => return Lease::Dry { wait_ns: u64::MAX },
        };
        Lease::Granted(self.lend(tokens, need))
    }

    /// Tokens for a shard where the limit stops nothing: as many as of one that does, and what is wanted where fewer are
    /// left than are needed.
    pub(super) fn lease_beyond(&mut self, shards: u16, need: u64, want: u64, now: Now) -> Loan {
        self.advance(now);
        let there = match (&self.count, self.terms) {
            (Count::Bucket { level, .. }, Terms::Bucket { per_ns, .. }) => whole_tokens(*level, per_ns),
            (Count::Quota { used, .. }, _) => self.terms.capacity().saturating_sub(*used),
            (Count::Bucket { .. }, Terms::Quota { .. }) => 0,
        };
        let tokens = if there < need { want.max(need) } else { portion(there, shards, need, want) };
        self.lend(tokens.min(LOAN_MAX), need)
    }

    /// What is needed has room for what flows in at once; what is only wanted, when the shard has said that it is spent.
    fn lend(&mut self, tokens: u64, need: u64) -> Loan {
        let later = tokens.saturating_sub(need);
        let (from_ms, until_ms) = match (&mut self.count, self.terms) {
            (Count::Bucket { level, out, .. }, Terms::Bucket { per_ns, .. }) => {
                *level = level.saturating_sub(tokens_in_level(tokens, per_ns));
                *out = out.saturating_add(later);
                (0, u64::MAX)
            }
            (Count::Quota { used, start_ms, end_ms, .. }, _) => {
                *used = used.saturating_add(tokens);
                (still_from_ms(*start_ms, *end_ms), *end_ms)
            }
            (Count::Bucket { .. }, Terms::Quota { .. }) => (0, 0),
        };
        Loan { tokens, later, from_ms, until_ms, number: self.number }
    }

    /// Back from a shard: it was to spend so many `later` of that count, and this is left of all; below zero it owes. It
    /// spent the rest at the latest at `spent_ns`, and from then on what flowed in had room.
    pub(super) fn settle(&mut self, number: u64, later: u64, left: i64, spent_ns: u64, now: Now) {
        // A bucket while all of it still counts as out. Of two clocks a quota hears what both showed in one moment.
        let is_bucket = matches!(self.count, Count::Bucket { .. });
        self.advance(Now { mono_ns: if is_bucket { spent_ns.min(now.mono_ns) } else { now.mono_ns }, ..now });
        // What is left of a window that is over, or of other terms, is nothing; what is owed is owed.
        let (later, left) = if number == self.number { (later, left) } else { (0, left.min(0)) };
        match (&mut self.count, self.terms) {
            (Count::Bucket { level, out, .. }, Terms::Bucket { per_ns, .. }) => {
                let kept = left.max(0).unsigned_abs();
                *out = out.saturating_sub(later.saturating_sub(kept));
                *level = level.saturating_sub(tokens_in_level(left.min(0).unsigned_abs(), per_ns));
                self.advance(now);
                if let Count::Bucket { level, out, .. } = &mut self.count {
                    *out = out.saturating_sub(kept.min(later));
                    *level = level.saturating_add(tokens_in_level(kept, per_ns));
                }
            }
            (Count::Quota { used, .. }, _) => *used = used.saturating_add_signed(left.saturating_neg()),
            (Count::Bucket { .. }, Terms::Quota { .. }) => {}
        }
        self.advance(now);
    }

    /// So many tokens that were spent are not needed after all. They were spent when the clock showed `spent_ms`: of a
    /// window that is over nothing comes back.
    pub fn refund(&mut self, tokens: u64, spent_ms: u64, now: Now) {
        self.advance(now);
        match (&mut self.count, self.terms) {
            (Count::Bucket { level, .. }, Terms::Bucket { per_ns, .. }) => {
                *level = level.saturating_add(tokens_in_level(tokens, per_ns));
            }
            (Count::Quota { used, start_ms, .. }, _) if spent_ms >= *start_ms => *used = used.saturating_sub(tokens),
            _ => {}
        }
        self.advance(now);
    }

    /// Lets time pass. Clocks that go backwards fill nothing.
    fn advance(&mut self, now: Now) {
        match (&mut self.count, self.terms) {
            (Count::Bucket { level, at_ns, out, .. }, Terms::Bucket { amount, per_ns, burst }) => {
                let elapsed_ns = now.mono_ns.saturating_sub(*at_ns);
                *at_ns = now.mono_ns.max(*at_ns);
                let brim = tokens_in_level(burst, per_ns).saturating_sub(tokens_in_level(*out, per_ns));
                *level = level.saturating_add(i128::from(elapsed_ns).saturating_mul(i128::from(amount))).min(brim);
            }
            (Count::Quota { used, start_ms, end_ms, clock }, Terms::Quota { window, .. }) => {
                let wall_ms = clock.wall_ms(now);
                if wall_ms >= *end_ms || wall_ms < still_from_ms(*start_ms, *end_ms) {
                    (*start_ms, *end_ms) = window.around(wall_ms);
                    *used = 0;
                    self.number += 1;
                }
            }
            _ => {}
        }
    }
}

/// For how long it is believed that who waits comes back: who waits longer is told so again.
const BACK_IN_NS_MAX: u64 = 1_000_000_000;
/// The most tokens of one lease.
const LOAN_MAX: u64 = i64::MAX.unsigned_abs();

/// How many of those that are there a shard is granted: never so many that the others find nothing.
fn portion(there: u64, shards: u16, need: u64, want: u64) -> u64 {
    want.min(there / (2 * u64::from(shards.max(1)))).max(need).min(LOAN_MAX)
}

/// From when on a window is still the one that counts. A clock that is put back a little does not give the same window
/// twice; one that was far wrong does not close the gate until its time has come.
fn still_from_ms(start_ms: u64, end_ms: u64) -> u64 {
    start_ms.saturating_sub(end_ms - start_ms)
}

/// A level is in tokens times `per_ns`, so that one nanosecond adds `amount` to it and nothing is rounded.
fn tokens_in_level(tokens: u64, per_ns: u64) -> i128 {
    i128::from(tokens).saturating_mul(i128::from(per_ns.max(1)))
}

fn whole_tokens(level: i128, per_ns: u64) -> u64 {
    u64::try_from(level.max(0) / i128::from(per_ns.max(1))).unwrap_or(u64::MAX)
}

/// Nanoseconds until so much has flowed in.
fn time_for(missing: i128, amount: u64) -> u64 {
    if amount == 0 {
        return u64::MAX;
    }
    let amount = i128::from(amount);
    u64::try_from((missing.max(0) + amount - 1) / amount).unwrap_or(u64::MAX)
}
