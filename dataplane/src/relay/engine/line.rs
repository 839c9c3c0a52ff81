//! Sessions of which a message waits for room (the outcome `delay` of a limit): in which order they are looked at again.
//!
//! Who waits is not read, and its bytes stay where they are. Sessions stand in one line, by the time at which there may be
//! room and then by how long they have stood there; whose message passed goes to the end. So those who wait for one limit
//! take turns, and a look that finds no room costs no copy and no system call.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::wire::Key;
use super::{Engine, Entry, Leg};
use crate::socket;
use crate::throttle::WAIT_MS_MAX;

/// Looks of one go: then the others have their turn.
const LOOKS_MAX: u32 = 256;
/// Looks in a row that find no room: then whoever stands behind is looked at a moment later.
const FRUITLESS_MAX: u32 = 64;

/// Legs of which something waits.
#[derive(Default)]
pub(super) struct Line {
    /// When, who was there first, and the leg's key in bits. A place that is not the stash's own any more is passed over.
    places: BinaryHeap<Reverse<(u64, u64, u64)>>,
    tickets: u64,
    /// A go that was cut short is not followed by another before this.
    rests_ms: u64,
}

impl Line {
    /// When the first of them is to be looked at; `u64::MAX`: nobody waits.
    pub(super) fn due_ms(&self) -> u64 {
        self.places.peek().map_or(u64::MAX, |Reverse((due_ms, ..))| (*due_ms).max(self.rests_ms))
    }

    /// Gives a leg a place, if something of it waits and it has none that is as early.
    pub(super) fn stand(&mut self, entry: &mut Entry, key: Key) {
        if !entry.session.keeps(key.leg) {
            return;
        }
        let due_ms = entry.resumes_ms(key.leg);
        let Some(stash) = entry.session.stash(key.leg) else { return };
        let place = &mut stash.place;
        if due_ms == u64::MAX || place.due_ms.is_some_and(|known_ms| known_ms <= due_ms) {
            return;
        }
        if place.ticket == 0 {
            self.tickets += 1;
            place.ticket = self.tickets;
        }
        place.due_ms = Some(due_ms);
        self.places.push(Reverse((due_ms, place.ticket, key.pack(0))));
    }

    fn next(&mut self, now_ms: u64) -> Option<(u64, Key)> {
        let Reverse((due_ms, ..)) = self.places.peek()?;
        if *due_ms > now_ms {
            return None;
        }
        self.places.pop().map(|Reverse((due_ms, _, bits))| (due_ms, Key::unpack(bits).0))
    }
}

impl Engine {
    /// Looks at those who wait and whose time has come, in their order, in a bounded go.
    pub fn resume_line(&mut self, now_ms: u64) {
        let mut fruitless = 0;
        for _ in 0..LOOKS_MAX {
            if fruitless == FRUITLESS_MAX {
                break;
            }
            let Some((due_ms, key)) = self.line.next(now_ms) else { break };
            if !self.is_current(key) {
                continue;
            }
            let has_passed = self.with_entry(key.index, |engine, entry| {
                let stash = entry.session.stash(key.leg).filter(|stash| stash.place.due_ms == Some(due_ms));
                if let Some(stash) = stash {
                    stash.place.due_ms = None;
                }
                engine.resume(entry, key, now_ms)
            });
            fruitless = if has_passed == Some(true) { 0 } else { fruitless + 1 };
            self.settle(key.index, now_ms);
        }
        self.line.rests_ms = now_ms + 1;
        self.source.submit();
    }

    /// Looks again at what waits of a leg, if its time has come and what passes of it would be taken. Whether anything came
    /// of it.
    pub(super) fn resume(&mut self, entry: &mut Entry, key: Key, now_ms: u64) -> bool {
        let leg = key.leg;
        if !entry.session.keeps(leg) || entry.resumes_ms(leg) > now_ms {
            return false;
        }
        if entry.gives_up_ms(leg) <= now_ms {
            entry.give_up(leg, self, now_ms);
            return true;
        }
        let Some(mut rest) = entry.session.resume(leg) else { return false };
        let passed = self.walk(entry, leg, &mut rest.bytes[rest.at..], now_ms);
        rest.at += passed;
        self.record.unbuffered(passed as u64);
        let is_last = entry.session.stash(leg).is_some_and(|stash| stash.is_last);
        entry.with_facts(self, now_ms, |session, facts| session.resumed(leg, rest, passed > 0, facts));
        if entry.session.keeps(leg) {
            entry.look_for_its_end(leg, self, now_ms);
        } else if is_last {
            entry.over(leg, self, now_ms);
        } else if entry.may_read(leg) {
            self.come_back(entry, key);
        }
        passed > 0
    }
}

impl Entry {
    /// When what waits of a leg is looked at again. If the other one takes nothing that is when it does, of which the kernel
    /// tells, or when nobody is there any more who waits.
    fn resumes_ms(&mut self, leg: Leg) -> u64 {
        let is_clogged = self.wire(leg.other()).is_clogged();
        let room_ms = if is_clogged { u64::MAX } else { self.session.resumes_ms(leg) };
        room_ms.min(self.gives_up_ms(leg))
    }

    fn gives_up_ms(&mut self, leg: Leg) -> u64 {
        self.session.stash(leg).map_or(u64::MAX, |stash| stash.gives_up_ms())
    }

    /// Who waits is not read, so nothing else would find out that it has gone. What it said before is let through for as
    /// long as a closing handshake may take.
    fn look_for_its_end(&mut self, leg: Leg, engine: &mut Engine, now_ms: u64) {
        let is_time = self.session.stash(leg).is_some_and(|stash| stash.is_to_be_seen(now_ms, WAIT_MS_MAX));
        if is_time && self.fd(leg).is_some_and(socket::is_hung_up) {
            self.with_facts(engine, now_ms, |session, facts| session.outlives(leg, false, facts));
        }
    }

    /// A peer has gone and nothing of what it said is let through: that is given up, and the leg is over.
    fn give_up(&mut self, leg: Leg, engine: &mut Engine, now_ms: u64) {
        engine.record.unbuffered(self.session.forget_stash(leg) as u64);
        self.ended(leg, engine, now_ms);
    }
}
