//! Whoever connects over TCP and is not known yet: few of one source at a time, and no flood of lines about them.
//!
//! Who is known, and how, is decided by whoever asks here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Refusals are told once in so long, with how many were not.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How many connections there are with each source.
#[derive(Default)]
pub struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// A connection that counts for its source until this is dropped.
pub struct Place {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    /// A place, if the source has fewer than so many.
    pub fn admit(self: &Arc<Self>, from: IpAddr, max: usize) -> Option<Place> {
        let source = source(from);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place { sources: Arc::clone(self), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

/// What counts as one source: whoever has an address of IPv6 has a whole network of them.
pub fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (!0 << 64)).into()),
        address => address,
    }
}

/// Refusals of strangers, told without letting them fill the log.
pub struct Refusals {
    /// Where they knock.
    at: &'static str,
    told: Mutex<(Option<Instant>, u64)>,
}

impl Refusals {
    /// Of whoever knocks there.
    pub fn of(at: &'static str) -> Self {
        Self { at, told: Mutex::default() }
    }

    /// Tells one, unless another was told just now.
    pub fn tell(&self, from: SocketAddr, reason: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, untold) = &mut *told;
        if last.is_some_and(|last| last.elapsed() < TELL_EVERY) {
            *untold += 1;
            return;
        }
        let others = std::mem::take(untold);
        *last = Some(Instant::now());
        tracing::warn!(%from, reason, others, "a connection to {} is refused", self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_has_few_connections_and_takes_no_place_of_others() {
        const MOST: usize = 8;
        let sources = Arc::<Sources>::default();
        let admit = |address: &str| sources.admit(address.parse().unwrap(), MOST);
        let mut places: Vec<_> = (0..MOST).map(|_| admit("192.0.2.1").unwrap()).collect();
        assert!(admit("192.0.2.1").is_none() && admit("::ffff:192.0.2.1").is_none());
        assert!(admit("192.0.2.2").is_some());
        places.extend((0..MOST).map(|host| admit(&format!("2001:db8::{host:x}")).unwrap()));
        assert!(admit("2001:db8::ffff:1").is_none(), "the same network");
        assert!(admit("2001:db8:0:1::1").is_some());
        places.remove(0);
        assert!(admit("192.0.2.1").is_some(), "one has come to its end");
        places.clear();
        assert!(sources.0.lock().unwrap().is_empty(), "and nothing is remembered");
    }
}
