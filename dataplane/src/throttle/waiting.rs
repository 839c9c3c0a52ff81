//! What waits of one direction: a message for which there was no room, and all that came behind it.
//!
//! Bytes stay where they were put and are looked at again from where they stand. When that is, the engine sees to; what
//! passes then, the guard says.

use std::rc::Rc;

use super::Held;
use super::held::Standing;

/// What waits of one direction of a session.
#[derive(Debug, Default)]
pub struct Waiting {
    until_ms: Option<u64>,
    /// What has no room for it.
    at: Option<Rc<Held>>,
    /// The message in front was too much before: it has been counted.
    is_known: bool,
    stash: Option<Box<Stash>>,
}

/// Bytes that a peer sent and that are not let through yet.
#[derive(Debug, Default)]
pub struct Stash {
    rest: Rest,
    /// The peer's stream has ended, or its connection failed, behind these bytes.
    pub is_last: bool,
    /// The peer says no more: since when, and when what it said is given up, milliseconds on the worker's clock.
    gone: Option<Gone>,
    /// When somebody looked last whether the peer has gone; 0: nobody has.
    seen_ms: u64,
    /// Its place among those who wait at the same meter.
    pub standing: Option<Standing>,
    /// The times for which the engine has noted it: as the first there, and as one of those behind.
    pub noted_ms: (Option<u64>, Option<u64>),
}

/// The bytes from `at` on, the start of a frame first.
#[derive(Debug, Default)]
pub struct Rest {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Those before have been dealt with.
    pub at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Gone {
    since_ms: u64,
    until_ms: u64,
}

impl Waiting {
    /// When the message in front is looked at again; none: it does not wait.
    pub fn until_ms(&self) -> Option<u64> {
        self.until_ms
    }

    /// The message in front is too much for a meter until then. Whether that is new.
    pub fn begin(&mut self, until_ms: u64, at: Rc<Held>) -> bool {
        (self.until_ms, self.at) = (Some(until_ms), Some(at));
        !std::mem::replace(&mut self.is_known, true)
    }

    /// The message in front waits no more.
    #[inline]
    pub fn end(&mut self) {
        self.is_known = false;
    }

    /// It is looked at again at once, if it waits, whoever else does: the limits are others.
    pub fn hurry(&mut self) {
        self.at = None;
        if let Some(until_ms) = &mut self.until_ms {
            *until_ms = 0;
        }
    }

    /// What has no room for the message in front.
    pub fn at(&self) -> Option<&Rc<Held>> {
        self.at.as_ref()
    }

    /// Keeps what comes behind a message that waits, or its own beginning.
    pub fn keep(&mut self, bytes: &[u8]) {
        let Rest { bytes: kept, at } = &mut self.stash.get_or_insert_default().rest;
        kept.drain(..std::mem::take(at));
        // Exactly, or a second portion could keep twice the budget.
        kept.reserve_exact(bytes.len());
        kept.extend_from_slice(bytes);
    }

    /// What is kept.
    pub fn stash(&mut self) -> Option<&mut Stash> {
        self.stash.as_deref_mut()
    }

    /// Whether anything is kept.
    pub fn is_kept(&self) -> bool {
        self.stash.is_some()
    }

    /// Lends what is kept, to be looked at again: [`Waiting::put_back`] is to follow.
    pub fn take(&mut self) -> Option<Rest> {
        (self.until_ms, self.at) = (None, None);
        self.stash.as_mut().map(|stash| std::mem::take(&mut stash.rest))
    }

    /// What is left of it; with nothing left, nothing is kept any more. `passed`: the peer may have gone, and has so many
    /// milliseconds more.
    pub fn put_back(&mut self, rest: Rest, passed: bool, now_ms: u64, patience: Patience) {
        let Some(stash) = &mut self.stash else { return };
        if rest.at == rest.bytes.len() {
            self.stash = None;
            return;
        }
        stash.rest = rest;
        if passed && let Some(gone) = &mut stash.gone {
            gone.until_ms = patience.until_ms(gone.since_ms, now_ms);
        }
    }

    /// Forgets what is kept. Returns how many bytes that was.
    pub fn forget(&mut self) -> usize {
        (self.until_ms, self.at) = (None, None);
        self.stash.take().map_or(0, |stash| stash.rest.bytes.len() - stash.rest.at)
    }
}

/// How long what a peer has said is let through after it has gone: as long as some of it passes within each `each_ms`,
/// and for `all_ms` in all.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Milliseconds.
    pub each_ms: u64,
    /// Milliseconds.
    pub all_ms: u64,
}

impl Patience {
    fn until_ms(self, since_ms: u64, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.each_ms).min(since_ms.saturating_add(self.all_ms))
    }
}

impl Stash {
    /// The peer says no more.
    pub fn has_gone(&mut self, now_ms: u64, patience: Patience) {
        let until_ms = patience.until_ms(now_ms, now_ms);
        self.gone.get_or_insert(Gone { since_ms: now_ms, until_ms });
    }

    /// Whether it is time to look whether the peer has gone, which is not known: every so many milliseconds.
    pub fn is_to_be_seen(&mut self, now_ms: u64, every_ms: u64) -> bool {
        let is_time = now_ms.saturating_sub(self.seen_ms) >= every_ms;
        let is_first = self.seen_ms == 0;
        if is_time {
            self.seen_ms = now_ms;
        }
        is_time && !is_first && self.gone.is_none()
    }

    /// When what is kept of a peer that has gone is given up; `u64::MAX`: it has not.
    pub fn gives_up_ms(&self) -> u64 {
        self.gone.map_or(u64::MAX, |gone| gone.until_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::throttle::{Meter, Now, Terms};

    use super::*;
    use crate::throttle::Metered;

    const PATIENCE: Patience = Patience { each_ms: 10, all_ms: 25 };

    #[test]
    fn what_is_kept_is_looked_at_from_where_it_stands() {
        let mut waiting = Waiting::default();
        let terms = Terms::Bucket { amount: 1, per_ns: 1, burst: 1 };
        let held =
            Rc::new(Held::new(Arc::new(Metered::new(Meter::new(terms, Now { mono_ns: 0, wall_ms: 0 }))), (0, 1)));
        let mut begin = |until_ms| waiting.begin(until_ms, Rc::clone(&held));
        assert!(begin(5) && !begin(6), "it is new once");
        waiting.keep(b"abc");
        waiting.keep(b"def");
        let mut rest = waiting.take().unwrap();
        assert_eq!((waiting.until_ms(), waiting.is_kept()), (None, true));
        let place = rest.bytes.as_ptr();
        rest.at = 4;
        waiting.put_back(rest, true, 6, PATIENCE);
        let rest = waiting.take().unwrap();
        assert_eq!(rest.bytes.as_ptr(), place, "nothing is copied for a look");
        waiting.put_back(rest, false, 6, PATIENCE);
        waiting.keep(b"gh");
        let mut rest = waiting.take().unwrap();
        assert_eq!(&rest.bytes[rest.at..], b"efgh");
        rest.at = rest.bytes.len();
        waiting.put_back(rest, true, 7, PATIENCE);
        assert!(!waiting.is_kept() && waiting.forget() == 0);
        waiting.keep(b"xyz");
        assert_eq!(waiting.forget(), 3);
    }

    #[test]
    fn what_a_peer_said_that_has_gone_is_given_up_when_nothing_of_it_passes() {
        let mut waiting = Waiting::default();
        waiting.keep(b"abcdef");
        let stash = waiting.stash().unwrap();
        assert_eq!(stash.gives_up_ms(), u64::MAX);
        assert_eq!(
            [50, 59, 60, 61, 70].map(|now_ms| stash.is_to_be_seen(now_ms, 10)),
            [false, false, true, false, true]
        );
        stash.has_gone(100, PATIENCE);
        stash.has_gone(105, PATIENCE);
        assert_eq!(stash.gives_up_ms(), 110);
        let mut again = |passed, now_ms| {
            let mut rest = waiting.take().unwrap();
            rest.at += usize::from(passed);
            waiting.put_back(rest, passed, now_ms, PATIENCE);
            waiting.stash().unwrap().gives_up_ms()
        };
        assert_eq!(again(false, 108), 110);
        assert_eq!(again(true, 109), 119);
        assert_eq!(again(true, 118), 125, "and not for ever");
    }
}
