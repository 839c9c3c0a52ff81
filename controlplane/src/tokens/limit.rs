//! What somebody does, counted: who fails, or revokes, too often waits.
//!
//! A window of a fixed length for each that is counted; all others cost nothing. The clock is an argument, and the caller
//! says what is counted under what.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Failed attempts in one window.
pub const FAILURES_MAX: u32 = 10;
/// The window.
pub const WINDOW: Duration = Duration::from_secs(60);
/// How many are remembered at one time. When there are more, those of the oldest windows are forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// Who has done it, how often, and since when.
#[derive(Debug)]
pub struct Counts<K> {
    /// As often as this in one window, and then no more.
    most: u32,
    counts: HashMap<K, (Instant, u32)>,
}

impl<K: Hash + Eq + Clone> Counts<K> {
    /// Nobody has done anything yet; each may do it so often in one window.
    pub fn new(most: u32) -> Self {
        Self { most, counts: HashMap::new() }
    }

    /// How long this one has to wait before the next time; nothing: it may.
    pub fn wait(&self, who: &K, now: Instant) -> Option<Duration> {
        let (since, count) = self.counts.get(who)?;
        let left = (*since + WINDOW).checked_duration_since(now)?;
        (*count >= self.most && !left.is_zero()).then_some(left)
    }

    /// It did it so many times more.
    pub fn add(&mut self, who: K, times: u32, now: Instant) {
        if self.counts.len() >= REMEMBERED_MAX && !self.counts.contains_key(&who) {
            self.make_room(now);
        }
        let entry = self.counts.entry(who).or_insert((now, 0));
        if now.saturating_duration_since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 = entry.1.saturating_add(times);
    }

    /// It does it so many times more, all or none; the error is how long it has to wait. What is more than there is room
    /// for in an empty window has one for itself.
    pub fn reserve(&mut self, who: K, times: u32, now: Instant) -> Result<(), Duration> {
        if let Some((since, count)) = self.counts.get(&who)
            && let Some(left) = (*since + WINDOW).checked_duration_since(now).filter(|left| !left.is_zero())
            && *count > 0
            && count.saturating_add(times) > self.most
        {
            return Err(left);
        }
        self.add(who, times, now);
        Ok(())
    }

    /// It has not done what was reserved then, unless that window is over.
    pub fn give_back(&mut self, who: &K, times: u32, reserved: Instant) {
        if let Some((since, count)) = self.counts.get_mut(who)
            && *since <= reserved
        {
            *count = count.saturating_sub(times);
        }
    }

    /// What is over is forgotten; if nothing is, the older half.
    fn make_room(&mut self, now: Instant) {
        self.counts.retain(|_, (since, _)| now.saturating_duration_since(*since) < WINDOW);
        if self.counts.len() < REMEMBERED_MAX {
            return;
        }
        let mut begun: Vec<Instant> = self.counts.values().map(|(since, _)| *since).collect();
        begun.sort_unstable();
        let middle = begun[begun.len() / 2];
        let mut room = REMEMBERED_MAX / 2;
        self.counts.retain(|_, (since, _)| {
            let goes = *since <= middle && room > 0;
            room -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_too_often_waits_for_the_rest_of_the_window() {
        let start = Instant::now();
        let mut failures = Counts::new(FAILURES_MAX);
        for attempt in 0..FAILURES_MAX {
            assert_eq!(failures.wait(&"alice", start), None, "{attempt}");
            failures.add("alice", 1, start);
        }
        let later = start + Duration::from_secs(20);
        assert_eq!(failures.wait(&"alice", later), Some(Duration::from_secs(40)));
        assert_eq!(failures.wait(&"bob", later), None);
        assert_eq!(failures.wait(&"alice", start + WINDOW), None);
        failures.add("alice", 1, start + WINDOW);
        assert_eq!(failures.wait(&"alice", start + WINDOW), None, "a new window begins with one");
    }

    #[test]
    fn what_is_reserved_is_never_more_than_may_be_and_is_given_back() {
        let start = Instant::now();
        let later = start + Duration::from_secs(20);
        let mut counts = Counts::new(10);
        counts.reserve("shop", 9, start).unwrap();
        assert_eq!(counts.reserve("shop", 2, later), Err(Duration::from_secs(40)));
        counts.reserve("shop", 1, later).unwrap();
        assert_eq!(counts.reserve("shop", 1, later), Err(Duration::from_secs(40)));
        counts.give_back(&"shop", 9, start);
        counts.reserve("shop", 9, later).unwrap();
        counts.reserve("bar", 11, later).unwrap();
        assert!(counts.reserve("bar", 1, later).is_err(), "what is too much for any window has one for itself");

        counts.reserve("shop", 10, start + WINDOW).unwrap();
        counts.give_back(&"shop", 9, later);
        assert!(counts.reserve("shop", 1, start + WINDOW).is_err(), "the window is another");
        counts.give_back(&"nobody", 1, start);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut failures = Counts::new(FAILURES_MAX);
        for who in 0..3 * REMEMBERED_MAX {
            failures.add(who, 1, start);
            assert!(failures.counts.len() <= REMEMBERED_MAX);
        }
    }
}
