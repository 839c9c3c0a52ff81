//! How many live sessions there are of whom: counted only where a ceiling is set, and given back when a session ends or its
//! handshake fails.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::throttle::LevelKind;

/// Parts of the map that have a lock each.
const PIECES: usize = 64;

/// Of whom there may be so many sessions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Row {
    /// What is counted.
    pub kind: RowKind,
    /// Where: an API version's label; empty: at the whole gateway. Of a plan: at which level.
    pub api: Arc<str>,
    /// Of whom.
    pub key: Arc<str>,
}

/// What sessions are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowKind {
    /// All of them.
    All,
    /// By user.
    User,
    /// By application.
    Application,
    /// By range of addresses.
    Address,
    /// By who shares the count of a plan, where the plan says so.
    Plan(LevelKind),
}

/// All that are counted, in the whole process.
#[derive(Debug)]
pub struct Seats {
    pieces: Box<[Mutex<HashMap<Row, u32>>]>,
    hasher: RandomState,
}

impl Default for Seats {
    fn default() -> Self {
        Self { pieces: (0..PIECES).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }
}

/// A session's place in a row, for as long as this is held.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    row: Row,
}

impl Seats {
    /// One more in this row, if there are fewer than so many.
    pub fn take(self: &Arc<Self>, row: Row, max: u32) -> Option<Seat> {
        {
            let mut piece = self.piece(&row);
            match piece.get_mut(&row) {
                Some(taken) if *taken >= max => return None,
                Some(taken) => *taken += 1,
                None if max == 0 => return None,
                None => {
                    piece.insert(row.clone(), 1);
                }
            }
        }
        Some(Seat { seats: Arc::clone(self), row })
    }

    fn piece(&self, row: &Row) -> MutexGuard<'_, HashMap<Row, u32>> {
        let at = self.hasher.hash_one(row) as usize % PIECES;
        // A count is whole between any two steps.
        self.pieces[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut piece = self.seats.piece(&self.row);
        if let Some(taken) = piece.get_mut(&self.row) {
            *taken -= 1;
            if *taken == 0 {
                piece.remove(&self.row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_seats_and_who_leaves_makes_room() {
        let seats = Arc::new(Seats::default());
        let row = |key: &str| Row { kind: RowKind::User, api: "".into(), key: key.into() };
        let first = seats.take(row("alice"), 2);
        let _second = seats.take(row("alice"), 2).unwrap();
        assert!(first.is_some() && seats.take(row("alice"), 2).is_none() && seats.take(row("bob"), 2).is_some());
        drop(first);
        assert!(seats.take(row("alice"), 2).is_some());
    }

    #[test]
    fn who_has_left_is_forgotten_and_threads_agree() {
        let seats = Arc::new(Seats::default());
        let row = || Row { kind: RowKind::All, api: "".into(), key: "".into() };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let one = seats.take(row(), 3);
                        let another = seats.take(row(), 3);
                        drop((one, another));
                    }
                });
            }
        });
        assert!(seats.pieces.iter().all(|piece| piece.lock().unwrap().is_empty()));
    }
}
