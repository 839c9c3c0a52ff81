//! What one shard has in hand of a meter.

use super::meter::{Lease, Loan, Meter};
use super::{Now, Terms};

/// A lease that was spent faster than this is followed by one twice as large.
const SPENT_FAST_NS: u64 = 2_000_000;
/// One that lasted longer than this, by one half as large; and of one that was not spent of for so long the rest goes back
/// first, so that what flows in has room where something was spent.
const SPENT_SLOWLY_NS: u64 = 20_000_000;
/// The largest lease that is asked for, in tokens.
const CHUNK_MAX: u64 = 1 << 32;
/// For how long a shard believes what it was told without asking again, at most: somebody may give something back, and an
/// operator may give more.
const BELIEVED_NS: u64 = 5_000_000;

/// What one shard has in hand of a meter. As long as it lasts, nothing that others touch is touched.
#[derive(Debug)]
pub struct Share {
    /// Tokens; below zero: owed.
    left: i64,
    /// From when on what is left may be spent, and for how long: milliseconds since 1970, and milliseconds.
    from_ms: u64,
    for_ms: u64,
    /// Tokens that the meter has given and not heard of again, and of which of its counts they are.
    granted: u64,
    number: u64,
    /// So many of them it was to spend later.
    later: u64,
    /// Tokens that the next lease should have.
    chunk: u64,
    granted_at_ns: u64,
    /// Until when it is believed to be in use: [`SPENT_SLOWLY_NS`] after it was granted or spent of last.
    stale_ns: u64,
    /// Who is sent away comes back.
    waits: bool,
    /// It was sent away.
    dry: Word,
    /// It only asked when it would be worth coming.
    seen: Word,
}

/// What the meter said of so many tokens.
#[derive(Debug, Clone, Copy)]
struct Word {
    need: u64,
    /// Until then it is believed.
    until_ns: u64,
    /// When they may be there; 0: they were.
    worth_ns: u64,
}

impl Word {
    const NONE: Self = Self { need: u64::MAX, until_ns: 0, worth_ns: 0 };

    /// In how many nanoseconds so many may be there, as far as it says so.
    fn wait_ns(&self, need: u64, terms: &Terms, now: Now) -> Option<u64> {
        let says = if self.worth_ns == 0 { need <= self.need } else { need >= self.need };
        (says && now.mono_ns < self.until_ns).then(|| {
            let capped = |tokens: u64| tokens.min(terms.capacity());
            let more_ns = terms.flow_ns(capped(need).saturating_sub(capped(self.need)));
            self.worth_ns.saturating_sub(now.mono_ns).saturating_add(more_ns)
        })
    }
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

/// Nobody asks for more: a frame's length has 63 bits (RFC 6455 §5.2).
#[inline]
fn signed(tokens: u64) -> i64 {
    debug_assert!(i64::try_from(tokens).is_ok());
    tokens as i64
}

impl Default for Share {
    fn default() -> Self {
        Self {
            left: 0,
            from_ms: 0,
            for_ms: 0,
            granted: 0,
            number: 0,
            later: 0,
            chunk: 1,
            granted_at_ns: 0,
            stale_ns: 0,
            waits: false,
            dry: Word::NONE,
            seen: Word::NONE,
        }
    }
}

impl Share {
    /// Whether so many tokens are there, and may be spent now.
    #[inline]
    pub fn is_in_hand(&self, need: u64, now: Now) -> bool {
        let is_valid = now.wall_ms.wrapping_sub(self.from_ms) < self.for_ms;
        let is_fresh = now.mono_ns <= self.stale_ns;
        self.left >= signed(need) && is_valid && is_fresh
    }

    /// Whether so many tokens may be spent.
    #[inline]
    pub fn has(&self, need: u64, now: Now) -> Answer {
        if self.is_in_hand(need, now) {
            Answer::Yes
        } else if need >= self.dry.need && now.mono_ns < self.dry.until_ns {
            Answer::No
        } else {
            Answer::Ask
        }
    }

    /// Spends so many; more than there are is owed, and is to be told to the meter soon. Whether it is so.
    #[inline]
    pub fn spend(&mut self, tokens: u64, now: Now) -> bool {
        // What is owed is paid at once, so there are some, or none.
        debug_assert!(self.left >= 0);
        self.left -= signed(tokens);
        self.touch(now);
        self.left < 0
    }

    #[inline]
    fn touch(&mut self, now: Now) {
        self.stale_ns = now.mono_ns.saturating_add(SPENT_SLOWLY_NS);
    }

    /// Gives everything back and takes what there is: whether so many tokens, or as many as can ever be in hand, are
    /// there now. `place` is which shard this is of how many.
    pub fn refill(&mut self, meter: &mut Meter, place: (u16, u16), need: u64, now: Now) -> bool {
        self.give_back(meter, now);
        match meter.lease(place, need, self.chunk.max(need), self.waits, now) {
            Lease::Granted(loan) => {
                self.take(loan, now);
                true
            }
            Lease::Dry { wait_ns } => {
                let until_ns = now.mono_ns.saturating_add(wait_ns.min(BELIEVED_NS));
                self.dry = Word { need, until_ns, worth_ns: now.mono_ns.saturating_add(wait_ns) };
                false
            }
        }
    }

    /// The same of a limit that stops nothing: so many tokens are there then, whatever was left.
    pub fn refill_beyond(&mut self, meter: &mut Meter, shards: u16, need: u64, now: Now) {
        self.give_back(meter, now);
        let loan = meter.lease_beyond(shards, need, self.chunk.max(need), now);
        self.take(loan, now);
    }

    fn take(&mut self, loan: Loan, now: Now) {
        self.left = i64::try_from(loan.tokens).unwrap_or(i64::MAX);
        (self.from_ms, self.for_ms) = (loan.from_ms, loan.until_ms.saturating_sub(loan.from_ms));
        (self.granted, self.number, self.later) = (loan.tokens, loan.number, loan.later);
        self.granted_at_ns = now.mono_ns;
        self.touch(now);
        self.ask_again();
    }

    /// Whether a shard that is sent away comes back when it was told to: its messages wait.
    pub fn set_waits(&mut self, waits: bool) {
        self.waits = waits;
    }

    /// Gives back what is left, or pays what is owed.
    pub fn give_back(&mut self, meter: &mut Meter, now: Now) {
        if self.granted > 0 {
            let lasted_ns = now.mono_ns.saturating_sub(self.granted_at_ns);
            let is_spent = self.left < 0 || self.left.unsigned_abs() <= self.granted / 2;
            if lasted_ns > SPENT_SLOWLY_NS {
                self.chunk = (self.chunk / 2).max(1);
            } else if lasted_ns < SPENT_FAST_NS && is_spent {
                // Of what was granted, not of what was wanted: near the end of a limit that is less and less.
                self.chunk = self.chunk.max(1).min(self.granted).saturating_mul(2).min(CHUNK_MAX);
            }
        }
        if self.granted > 0 || self.left < 0 {
            meter.settle(self.number, self.later, self.left, self.touched_ns(), now);
        }
        (self.granted, self.later, self.left, self.from_ms, self.for_ms) = (0, 0, 0, 0, 0);
    }

    /// Gives back what was taken for something that did not pass, and knows for a moment that it is there.
    pub fn give_back_idle(&mut self, meter: &mut Meter, now: Now) {
        let need = self.in_hand();
        self.give_back(meter, now);
        self.seen = Word { need, until_ns: now.mono_ns.saturating_add(BELIEVED_NS), worth_ns: 0 };
    }

    /// Forgets that it was sent away: the terms are others now.
    pub fn ask_again(&mut self) {
        (self.dry, self.seen) = (Word::NONE, Word::NONE);
    }

    /// In how many nanoseconds so many tokens may be there, as the meter said a moment ago; 0: they are. None: it must be
    /// asked, by [`Share::look`].
    pub fn wait_ns(&self, need: u64, terms: &Terms, now: Now) -> Option<u64> {
        self.dry.wait_ns(need, terms, now).or_else(|| self.seen.wait_ns(need, terms, now))
    }

    /// Asks the meter for that, and takes nothing.
    pub fn look(&mut self, meter: &mut Meter, need: u64, now: Now) -> u64 {
        let wait_ns = meter.wait_ns(need, now);
        let worth_ns = if wait_ns == 0 { 0 } else { now.mono_ns.saturating_add(wait_ns) };
        self.seen = Word { need, until_ns: now.mono_ns.saturating_add(BELIEVED_NS), worth_ns };
        wait_ns
    }

    /// Whether there is anything to give back, or to pay.
    pub fn is_held(&self) -> bool {
        self.granted > 0 || self.left != 0
    }

    /// Whether nothing of what it has in hand was spent, or it has more than it usually takes: for something that then did
    /// not pass.
    pub fn is_idle(&self) -> bool {
        let left = self.left.max(0).unsigned_abs();
        left > 0 && (left == self.granted || left > self.chunk)
    }

    /// Tokens that it may still spend.
    pub fn in_hand(&self) -> u64 {
        self.left.max(0).unsigned_abs()
    }

    /// Of which of the meter's counts its tokens are.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When what it has in hand ends: milliseconds since 1970; `u64::MAX`: it does not.
    pub fn ends_ms(&self) -> u64 {
        self.from_ms.saturating_add(self.for_ms)
    }

    /// When it was last granted or spent something, on the clock of [`Now::mono_ns`].
    pub fn touched_ns(&self) -> u64 {
        self.stale_ns.saturating_sub(SPENT_SLOWLY_NS)
    }
}
