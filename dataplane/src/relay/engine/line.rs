//! Sessions of which a message waits for room (the outcome `delay` of a limit): in which order they are looked at again.
//!
//! Who waits is not read, and its bytes stay where they are. At each meter of this shard sessions stand in a line,
//! and as long as anybody stands there nobody else has anything: so a large message has its turn beside small ones, and
//! nobody comes before who came later. Only the first of each line asks, when the meter said that there may be room; whose
//! message passed goes to the end. A look copies nothing, and costs no system call but one a second, for who may have gone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use super::wire::Key;
use super::{Engine, Entry, Leg};
use crate::socket;
use crate::throttle::{Held, Standing, Stash, WAIT_MS_MAX};

/// First ones looked at in one go: then all else has its turn.
const FIRST_LOOKS_MAX: u32 = 256;
/// Others looked at in one go, whether they are still there.
const OTHER_LOOKS_MAX: u32 = 64;

/// Legs of which something waits, by when they are looked at. A note that is not the stash's own any more is passed over.
#[derive(Default)]
pub(super) struct Line {
    firsts: Notes,
    others: Notes,
    /// A go that was cut short is not followed by another before this.
    rests_ms: u64,
}

/// When, and the leg's key in bits.
type Notes = BinaryHeap<Reverse<(u64, u64)>>;

impl Line {
    /// When the first of them is to be looked at; `u64::MAX`: nobody waits.
    pub(super) fn due_ms(&self) -> u64 {
        let due_ms = |notes: &Notes| notes.peek().map_or(u64::MAX, |Reverse((due_ms, _))| *due_ms);
        let first_ms = due_ms(&self.firsts).min(due_ms(&self.others));
        if first_ms == u64::MAX { first_ms } else { first_ms.max(self.rests_ms) }
    }

    /// Gives a leg its place, if something of it waits, and notes when it is to be looked at.
    pub(super) fn stand(&mut self, entry: &mut Entry, key: Key, now_ms: u64) {
        if !entry.session.keeps(key.leg) {
            return;
        }
        // Who could not be let through now keeps nobody from anything.
        let is_clogged = entry.wire(key.leg.other()).is_clogged();
        let at = entry.session.waits_at(key.leg).filter(|_| !is_clogged).cloned();
        let now = entry.session.guard().map(|guard| guard.now(now_ms));
        let (looks_ms, gives_up_ms) = (entry.looks_ms(key.leg), entry.gives_up_ms(key.leg));
        let Some(stash) = entry.session.stash(key.leg) else { return };
        let is_there = match (&stash.standing, &at) {
            (Some(standing), Some(at)) => Rc::ptr_eq(standing.held(), at),
            (None, None) => true,
            _ => false,
        };
        if !is_there {
            self.leave(stash.standing.take(), now_ms);
            stash.standing = at.zip(now).map(|(at, now)| Standing::at(&at, key.pack(0), now));
        }
        let is_first = stash.standing.as_ref().is_none_or(Standing::is_first);
        let due_ms = if is_first { looks_ms } else { gives_up_ms.min(now_ms.saturating_add(WAIT_MS_MAX)) };
        let noted_ms = if is_first { &mut stash.noted_ms.0 } else { &mut stash.noted_ms.1 };
        if due_ms != u64::MAX && noted_ms.is_none_or(|noted_ms| due_ms < noted_ms) {
            *noted_ms = Some(due_ms);
            let notes = if is_first { &mut self.firsts } else { &mut self.others };
            notes.push(Reverse((due_ms, key.pack(0))));
        }
    }

    /// A leg waits no more where it stood: whoever stood behind it is looked at.
    pub(super) fn leave(&mut self, standing: Option<Standing>, now_ms: u64) {
        let Some(standing) = standing else { return };
        let (held, was_first) = (Rc::clone(standing.held()), standing.is_first());
        drop(standing);
        if was_first && let Some(next) = held.first() {
            self.firsts.push(Reverse((now_ms, next)));
        }
    }
}

fn next(notes: &mut Notes, now_ms: u64) -> Option<(u64, Key)> {
    let Reverse((due_ms, _)) = notes.peek()?;
    if *due_ms > now_ms {
        return None;
    }
    notes.pop().map(|Reverse((due_ms, bits))| (due_ms, Key::unpack(bits).0))
}

impl Engine {
    /// Looks at those who wait and whose time has come, in bounded goes.
    pub fn resume_line(&mut self, now_ms: u64) {
        for _ in 0..FIRST_LOOKS_MAX {
            let Some((due_ms, key)) = next(&mut self.line.firsts, now_ms) else { break };
            self.look(key, |stash| stash.noted_ms.0.take_if(|noted_ms| *noted_ms == due_ms), now_ms);
        }
        for _ in 0..OTHER_LOOKS_MAX {
            let Some((due_ms, key)) = next(&mut self.line.others, now_ms) else { break };
            self.look(key, |stash| stash.noted_ms.1.take_if(|noted_ms| *noted_ms == due_ms), now_ms);
        }
        self.line.rests_ms = now_ms + 1;
        self.source.submit();
    }

    fn look(&mut self, key: Key, strike: impl FnOnce(&mut Stash) -> Option<u64>, now_ms: u64) {
        if self.is_current(key) {
            self.with_entry(key.index, |_, entry| entry.session.stash(key.leg).and_then(strike));
            self.settle(key.index, now_ms);
        }
    }

    /// Looks again at what waits of a leg, if its time and its turn have come and what passes of it would be taken.
    pub(super) fn resume(&mut self, entry: &mut Entry, key: Key, now_ms: u64) {
        let leg = key.leg;
        if !entry.session.keeps(leg) {
            return;
        }
        if entry.gives_up_ms(leg) <= now_ms {
            return entry.give_up(leg, self, now_ms);
        }
        entry.look_for_its_end(leg, self, now_ms);
        if entry.looks_ms(leg) > now_ms || !entry.is_its_turn(leg) {
            return;
        }
        let at = entry.session.waits_at(leg).map(Rc::clone);
        let Some(mut rest) = entry.session.resume(leg) else { return };
        at.iter().for_each(|held| held.open());
        let passed = self.walk(entry, leg, &mut rest.bytes[rest.at..], now_ms);
        rest.at += passed;
        self.record.unbuffered(passed as u64);
        let (mut is_last, mut standing) = (false, None);
        if let Some(stash) = entry.session.stash(leg) {
            is_last = stash.is_last;
            // Whose message passed stands behind the others again.
            standing = stash.standing.take_if(|_| passed > 0);
        }
        entry.with_facts(self, now_ms, |session, facts| session.resumed(leg, rest, passed > 0, facts));
        self.line.leave(standing, now_ms);
        entry.close(at, now_ms);
        if entry.session.keeps(leg) {
            return;
        }
        if is_last {
            entry.over(leg, self, now_ms);
        } else if entry.may_read(leg) {
            self.come_back(entry, key);
        }
    }

    /// Forgets what waits of a leg, and lets those have their turn who stand behind it. Returns how many bytes that was.
    pub(super) fn forget_stash(&mut self, entry: &mut Entry, leg: Leg, now_ms: u64) {
        let standing = entry.session.stash(leg).and_then(|stash| stash.standing.take());
        self.line.leave(standing, now_ms);
        self.record.unbuffered(entry.session.forget_stash(leg) as u64);
    }
}

impl Entry {
    /// When what waits of a leg may pass. If the other one takes nothing that is when it does, of which the kernel tells, or
    /// when nobody is there any more who waits.
    fn looks_ms(&mut self, leg: Leg) -> u64 {
        let is_clogged = self.wire(leg.other()).is_clogged();
        let room_ms = if is_clogged { u64::MAX } else { self.session.resumes_ms(leg) };
        room_ms.min(self.gives_up_ms(leg))
    }

    fn gives_up_ms(&mut self, leg: Leg) -> u64 {
        self.session.stash(leg).map_or(u64::MAX, |stash| stash.gives_up_ms())
    }

    /// Whether nobody who waits for the same came before.
    fn is_its_turn(&mut self, leg: Leg) -> bool {
        let Some(at) = self.session.waits_at(leg).map(Rc::clone) else { return true };
        let standing = self.session.stash(leg).and_then(|stash| stash.standing.as_ref());
        standing.is_some_and(|standing| Rc::ptr_eq(standing.held(), &at) && standing.is_first())
    }

    fn close(&mut self, at: Option<Rc<Held>>, now_ms: u64) {
        if let (Some(held), Some(guard)) = (at, self.session.guard()) {
            held.close(guard.now(now_ms));
        }
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
        engine.forget_stash(self, leg, now_ms);
        self.ended(leg, engine, now_ms);
    }
}
