//! Which worker serves a connection: the one that has accepted it, unless it has more than its share.
//!
//! The kernel spreads connections over the workers by a hash of their addresses (SO_REUSEPORT), and knows nothing of how
//! long they stay: among long-lived sessions chance adds up, and a worker that has more than the others is a CPU that has
//! more to do. Here is the decision and the counts that it is made by; the connection is carried over by `doors`.
//!
//! Cost: who has few connections, or not more than its share, reads one number that all workers write, and hands nobody
//! over. So small numbers, and what the hash spreads well enough, stay where the kernel has put them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

/// Connections above the mean that no worker gives away, however few there are.
const SLACK_MIN: usize = 8;
/// And the part of the mean that none gives away: one in so many.
const SLACK_DIVISOR: usize = 20;

/// The connections of a process, and how they are spread over its workers.
pub struct Places {
    all: Arc<CachePadded<AtomicUsize>>,
    /// For each worker. Written by that worker, and by one that hands it a connection.
    each: Box<[Arc<Place>]>,
    connections_max: usize,
}

/// One worker's share.
struct Place {
    connections: CachePadded<AtomicUsize>,
    all: Arc<CachePadded<AtomicUsize>>,
}

/// Counts a connection towards its worker, from accept to its end; a session holds it.
pub struct ConnectionCount {
    place: Arc<Place>,
}

impl Places {
    /// For so many workers, and so many connections of all of them.
    pub fn new(workers: usize, connections_max: usize) -> Self {
        let all = Arc::<CachePadded<AtomicUsize>>::default();
        let place = |_| Arc::new(Place { connections: CachePadded::default(), all: Arc::clone(&all) });
        Self { each: (0..workers).map(place).collect(), all, connections_max }
    }

    /// Connections of all workers, from accept to end.
    pub fn connections(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// The worker that is to serve what `acceptor` has accepted just now: mostly itself, or the one that has least.
    pub fn choose(&self, acceptor: usize) -> usize {
        let own = self.count(acceptor);
        if own < SLACK_MIN || !is_above_share(own, self.connections(), self.each.len()) {
            return acceptor;
        }
        // From the next one on, so that several who give away at the same time do not all find the same.
        let others = (1..self.each.len()).map(|step| (acceptor + step) % self.each.len());
        others.min_by_key(|worker| self.count(*worker)).unwrap_or(acceptor)
    }

    /// One more for this worker, or `None` at the ceiling of all.
    pub fn take(&self, worker: usize) -> Option<ConnectionCount> {
        let place = Arc::clone(&self.each[worker]);
        place.connections.fetch_add(1, Ordering::Relaxed);
        let before = self.all.fetch_add(1, Ordering::Relaxed);
        let count = ConnectionCount { place };
        (before < self.connections_max).then_some(count)
    }

    fn count(&self, worker: usize) -> usize {
        self.each[worker].connections.load(Ordering::Relaxed)
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.place.connections.fetch_sub(1, Ordering::Relaxed);
        self.place.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a worker that has `own` of `all` connections is to give the next one away.
fn is_above_share(own: usize, all: usize, workers: usize) -> bool {
    let mean = all / workers;
    own >= mean + SLACK_MIN.max(mean / SLACK_DIVISOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a place for each of these connections, accepted where `hash` says.
    fn fill(places: &Places, held: &mut Vec<ConnectionCount>, count: usize, mut hash: impl FnMut() -> usize) -> usize {
        let mut moved = 0;
        for _ in 0..count {
            let acceptor = hash();
            let worker = places.choose(acceptor);
            moved += usize::from(worker != acceptor);
            held.push(places.take(worker).unwrap());
        }
        moved
    }

    fn random() -> impl FnMut(usize) -> usize {
        let mut state = 7_u64;
        move |bound| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % bound
        }
    }

    fn fullest_by_mean(places: &Places) -> f64 {
        let counts: Vec<_> = (0..places.each.len()).map(|worker| places.count(worker)).collect();
        assert_eq!(counts.iter().sum::<usize>(), places.connections());
        *counts.iter().max().unwrap() as f64 * counts.len() as f64 / places.connections() as f64
    }

    #[test]
    fn the_fullest_worker_stays_near_the_mean_whatever_closes() {
        let mut random = random();
        let places = Places::new(8, usize::MAX);
        let mut held = Vec::new();
        fill(&places, &mut held, 1000, || random(8));
        for _ in 0..20 {
            for _ in 0..900 {
                held.swap_remove(random(held.len()));
            }
            fill(&places, &mut held, 900, || random(8));
            assert!(fullest_by_mean(&places) <= 1.1, "{}", fullest_by_mean(&places));
        }
    }

    #[test]
    fn even_one_door_for_all_is_spread() {
        let places = Places::new(4, usize::MAX);
        let mut held = Vec::new();
        fill(&places, &mut held, 1000, || 2);
        assert!(fullest_by_mean(&places) <= 1.1, "{}", fullest_by_mean(&places));
    }

    #[test]
    fn few_connections_and_those_that_are_spread_stay_where_they_are() {
        let mut held = Vec::new();
        assert_eq!(fill(&Places::new(2, usize::MAX), &mut held, 8, || 0), 0);
        assert_eq!(fill(&Places::new(1, usize::MAX), &mut held, 1000, || 0), 0);
        let mut turn = 0;
        let in_turn = || {
            turn += 1;
            turn % 8
        };
        assert_eq!(fill(&Places::new(8, usize::MAX), &mut held, 1000, in_turn), 0);
        // Ten thousand that a hash has spread: one in a hundred moves.
        let mut random = random();
        let moved = fill(&Places::new(2, usize::MAX), &mut held, 10_000, || random(2));
        assert!(moved < 100, "{moved}");
    }

    #[test]
    fn the_ceiling_holds_for_all_workers_together_and_a_place_is_given_back() {
        let places = Places::new(2, 3);
        let held: Vec<_> = [0, 1, 1].map(|worker| places.take(worker).unwrap()).into();
        assert!(places.take(0).is_none());
        assert_eq!((places.connections(), places.count(0), places.count(1)), (3, 1, 2));
        drop(held);
        assert_eq!((places.connections(), places.count(0), places.count(1)), (0, 0, 0));
    }
}
