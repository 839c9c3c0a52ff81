//! Failed attempts, counted: who fails too often waits.
//!
//! A window of a fixed length for each that fails; those who never failed cost nothing. The clock is an argument, and the
//! caller says what one attempt is counted under.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Failures in one window.
pub const FAILURES_MAX: u32 = 10;
/// The window.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Whose failures are remembered at one time. When there are more, those of the oldest windows are forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// Who has failed, how often, and since when.
#[derive(Debug)]
pub struct Failures<K> {
    counts: HashMap<K, (Instant, u32)>,
}

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self { counts: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone> Failures<K> {
    /// How long this one has to wait before the next attempt; nothing: it may try.
    pub fn wait(&self, who: &K, now: Instant) -> Option<Duration> {
        let (since, count) = self.counts.get(who)?;
        let left = (*since + WINDOW).checked_duration_since(now)?;
        (*count >= FAILURES_MAX && !left.is_zero()).then_some(left)
    }

    /// One more failure.
    pub fn failed(&mut self, who: K, now: Instant) {
        if self.counts.len() >= REMEMBERED_MAX && !self.counts.contains_key(&who) {
            self.make_room(now);
        }
        let entry = self.counts.entry(who).or_insert((now, 0));
        if now.saturating_duration_since(entry.0) >= WINDOW {
            *entry = (now, 0);
        }
        entry.1 += 1;
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
        let mut failures = Failures::default();
        for attempt in 0..FAILURES_MAX {
            assert_eq!(failures.wait(&"alice", start), None, "{attempt}");
            failures.failed("alice", start);
        }
        let later = start + Duration::from_secs(20);
        assert_eq!(failures.wait(&"alice", later), Some(Duration::from_secs(40)));
        assert_eq!(failures.wait(&"bob", later), None);
        assert_eq!(failures.wait(&"alice", start + WINDOW), None);
        failures.failed("alice", start + WINDOW);
        assert_eq!(failures.wait(&"alice", start + WINDOW), None, "a new window begins with one");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let mut failures = Failures::default();
        for who in 0..3 * REMEMBERED_MAX {
            failures.failed(who, start);
            assert!(failures.counts.len() <= REMEMBERED_MAX);
        }
    }
}
