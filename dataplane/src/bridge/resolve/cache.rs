//! What is known about names, and for how long: a map with a clock that is handed in.
//!
//! A found answer is fresh for its TTL and stays usable for [`STALE`] when name servers fail; that a name is absent, or
//! could not be asked for, is remembered for [`NEGATIVE`], so that a storm of handshakes is not a storm of questions.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Addresses, ResolveError};

/// How long it is believed that a name is absent or cannot be resolved.
pub(super) const NEGATIVE: Duration = Duration::from_secs(5);
/// How long beyond its TTL an answer is used while name servers fail.
pub(super) const STALE: Duration = Duration::from_secs(3600);
/// Shorter TTLs are taken for this: otherwise each handshake would be a question.
pub(super) const TTL_MIN: Duration = Duration::from_secs(1);

/// How a look-up ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// At least one address, good for `ttl`.
    Found { addresses: Vec<IpAddr>, ttl: Duration },
    /// The name servers say that there is none.
    Absent,
    /// The name servers say nothing, or nothing of use.
    Failed,
}

/// What the cache says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cached {
    Known(Result<Addresses, ResolveError>),
    Unknown,
}

#[derive(Debug)]
pub(super) struct Cache {
    names_max: usize,
    names: HashMap<Box<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    found: Option<Found>,
    /// Why nobody need be asked before then.
    silent: Option<(ResolveError, Instant)>,
    used: Instant,
}

#[derive(Debug)]
struct Found {
    addresses: Addresses,
    at: Instant,
    ttl: Duration,
}

impl Cache {
    pub(super) fn new(names_max: usize) -> Self {
        Self { names_max, names: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// What is known of `name` at `now` to somebody who accepts answers up to `ttl_max` old.
    pub(super) fn look(&mut self, name: &str, ttl_max: Duration, now: Instant) -> Cached {
        let Some(entry) = self.names.get_mut(name) else { return Cached::Unknown };
        entry.used = now;
        match (&entry.found, entry.silent) {
            (Some(found), _) if now < found.at + found.ttl.min(ttl_max).max(TTL_MIN) => {
                Cached::Known(Ok(Arc::clone(&found.addresses)))
            }
            (_, Some((error, until))) if now < until => Cached::Known(entry.last_resort(error, now)),
            _ => Cached::Unknown,
        }
    }

    /// Takes the outcome of a look-up, and says what those who asked are told.
    pub(super) fn keep(&mut self, name: &str, outcome: &Outcome, now: Instant) -> Result<Addresses, ResolveError> {
        if !self.names.contains_key(name) {
            self.make_room(now);
        }
        let entry = self.names.entry(name.into()).or_insert(Entry { found: None, silent: None, used: now });
        match outcome {
            Outcome::Found { addresses, ttl } => {
                let addresses: Addresses = addresses.as_slice().into();
                entry.found = Some(Found { addresses: Arc::clone(&addresses), at: now, ttl: *ttl });
                entry.silent = None;
                Ok(addresses)
            }
            Outcome::Absent => {
                entry.found = None;
                entry.silent = Some((ResolveError::Absent, now + NEGATIVE));
                Err(ResolveError::Absent)
            }
            Outcome::Failed => {
                entry.silent = Some((ResolveError::Failed, now + NEGATIVE));
                entry.last_resort(ResolveError::Failed, now)
            }
        }
    }

    /// Below the ceiling nothing is forgotten; at it, what is of no use goes, or else the name that was not wanted longest.
    fn make_room(&mut self, now: Instant) {
        if self.names.len() < self.names_max {
            return;
        }
        self.names.retain(|_, entry| entry.is_useful(now));
        while self.names.len() >= self.names_max
            && let Some(name) = self.names.iter().min_by_key(|(_, entry)| entry.used).map(|(name, _)| name.clone())
        {
            self.names.remove(&name);
        }
    }
}

impl Entry {
    /// A stale answer is better than none when the name servers fail, but not when they say that the name is gone.
    fn last_resort(&self, error: ResolveError, now: Instant) -> Result<Addresses, ResolveError> {
        match &self.found {
            Some(found) if error == ResolveError::Failed && now < found.at + found.ttl + STALE => {
                Ok(Arc::clone(&found.addresses))
            }
            _ => Err(error),
        }
    }

    fn is_useful(&self, now: Instant) -> bool {
        self.found.as_ref().is_some_and(|found| now < found.at + found.ttl + STALE)
            || self.silent.is_some_and(|(_, until)| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn found(last: u8, ttl: Duration) -> Outcome {
        Outcome::Found { addresses: vec![[10, 0, 0, last].into()], ttl }
    }

    fn known(last: u8) -> Cached {
        Cached::Known(Ok([IpAddr::from([10, 0, 0, last])].into()))
    }

    #[test]
    fn an_answer_lives_for_its_ttl_or_for_as_long_as_the_asker_accepts() {
        let (mut cache, now) = (Cache::new(10), Instant::now());
        assert_eq!(cache.look("a", MINUTE, now), Cached::Unknown);
        cache.keep("a", &found(1, MINUTE), now).unwrap();
        assert_eq!(cache.look("a", MINUTE * 5, now + MINUTE - Duration::from_millis(1)), known(1));
        assert_eq!(cache.look("a", MINUTE * 5, now + MINUTE), Cached::Unknown);
        assert_eq!(cache.look("a", MINUTE / 2, now + MINUTE / 2), Cached::Unknown);
        assert_eq!(cache.look("a", Duration::ZERO, now + TTL_MIN / 2), known(1));
    }

    #[test]
    fn absence_is_remembered_for_a_while() {
        let (mut cache, now) = (Cache::new(10), Instant::now());
        cache.keep("a", &found(1, MINUTE), now).unwrap();
        let later = now + MINUTE;
        assert_eq!(cache.keep("a", &Outcome::Absent, later), Err(ResolveError::Absent));
        assert_eq!(cache.look("a", MINUTE, later), Cached::Known(Err(ResolveError::Absent)));
        assert_eq!(cache.look("a", MINUTE, later + NEGATIVE), Cached::Unknown);
    }

    #[test]
    fn a_stale_answer_serves_while_name_servers_fail_but_not_for_ever() {
        let (mut cache, now) = (Cache::new(10), Instant::now());
        cache.keep("a", &found(1, MINUTE), now).unwrap();
        let later = now + MINUTE * 2;
        assert!(cache.keep("a", &Outcome::Failed, later).is_ok());
        assert_eq!(cache.look("a", MINUTE, later), known(1));
        assert_eq!(cache.look("a", MINUTE, later + NEGATIVE), Cached::Unknown);
        let at_last = now + MINUTE + STALE;
        assert_eq!(cache.keep("a", &Outcome::Failed, at_last), Err(ResolveError::Failed));
        assert_eq!(cache.keep("b", &Outcome::Failed, at_last), Err(ResolveError::Failed));
    }

    #[test]
    fn at_the_ceiling_the_name_that_was_not_wanted_longest_is_forgotten() {
        let (mut cache, now) = (Cache::new(2), Instant::now());
        cache.keep("a", &found(1, MINUTE), now).unwrap();
        cache.keep("b", &found(2, MINUTE), now).unwrap();
        let later = now + Duration::from_secs(1);
        cache.look("a", MINUTE, later);
        cache.keep("c", &found(3, MINUTE), later).unwrap();
        assert_eq!(cache.len(), 2);
        assert_eq!(cache.look("b", MINUTE, later), Cached::Unknown);
        assert_eq!(cache.look("a", MINUTE, later), known(1));
    }
}
