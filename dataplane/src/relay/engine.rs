//! The engine: moves the bytes of one worker's established sessions.
//!
//! A session has no task, no timer and, while nothing happens, no buffer: it is an entry here. What the kernel has to
//! tell of a socket comes from one of two sources, chosen when the worker starts: `readiness`, an epoll set, or
//! `uring`, a ring that receives by itself. All else is the same for both: the session looks at the bytes where they
//! stand, and they are sent on from there at once. Only what the other socket would not take is copied, and its source is
//! not read again until that has gone: back-pressure is the absence of a read. What is left of a large frame goes through
//! a pipe by `splice(2)` and never is in this process's memory, under either source.
//!
//! The source's descriptor is awaited through monoio ([`Engine::descriptor`]); each wake runs one bounded
//! [`Engine::turn`].

mod line;
mod readiness;
#[cfg(test)]
mod tests;
mod uring;
mod wire;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use proto::ws::CloseCode;

use self::line::Line;
use super::pipes::Pool;
use super::session::{CONTROL_FRAME_MAX, Facts, Leg, LegState, LegView, Session};
use super::{EngineKind, Handover, Keys, Means, Resident};
use crate::record::{Cause, ShardRecord};
use crate::socket;
use crate::tls::records::{Alert, End, sealed_max};
use uring::Geometry;
use wire::{Asked, Event, Gait, Key, Portion, Wire};

/// Bytes received at a time: one frame of almost any size in one system call (measured: smaller costs more from 16 KiB).
const BUFFER_BYTES: usize = 256 * 1024;
/// Bytes that one leg may receive in one turn before the others have theirs.
const TURN_BYTES: usize = 1024 * 1024;
/// So much of a frame must still be to come for splicing it to be cheaper than copying it (measured).
const SPLICE_MIN: u64 = 64 * 1024;
/// From so many bytes at a time, receiving into the one buffer is cheaper than into a ring's (measured).
const BULK_MIN: usize = 8 * 1024;
/// Bytes that are sealed, and sent, at a time.
const SEAL_BYTES: usize = BUFFER_BYTES;
/// Where large frames follow each other, so much is received at a frame's start, so that the payload is left to splice.
const START_BYTES: usize = 16 * 1024;

// What came with a head, on either leg, is looked at in one piece.
const _: () = assert!(2 * proto::limits::HEAD_BYTES_MAX <= BUFFER_BYTES);
const _: () = assert!(proto::limits::SEND_BUDGET_MAX <= BUFFER_BYTES as u64);

/// The sessions of one worker.
pub struct Engine {
    source: Source,
    /// What the source has told; empty between turns.
    events: Vec<(Key, Event)>,
    entries: Vec<Slot>,
    free: Vec<u32>,
    live: usize,
    buffer: Box<[u8]>,
    /// Where bytes are sealed; there from the first session under TLS on.
    scratch: Box<[u8]>,
    /// Legs that had more to read when their turn was over.
    unfinished: VecDeque<Key>,
    /// Legs of which something waits for room.
    line: Line,
    /// `None`: every byte is copied.
    pipes: Option<Pool>,
    keys: Keys,
    record: Arc<ShardRecord>,
    /// When [`Engine::sweep`] has something to do; `u64::MAX`: never.
    due_ms: u64,
}

/// What tells an engine about its sockets.
enum Source {
    Readiness(readiness::Set),
    Uring(Box<uring::Ring>),
}

/// A place for a session. What a sweep asks of every session stands here, side by side.
struct Slot {
    /// Tells a session from those that had its place before.
    epoch: u32,
    /// When the session is to be judged by the clock.
    due_ms: u64,
    entry: Option<Box<Entry>>,
}

struct Entry {
    session: Session,
    legs: [Wire; 2],
    resident: Resident,
}

// What an idle session costs beside its two sockets; its record comes on top. A class of the allocator ends here.
const _: () = assert!(size_of::<Entry>() <= 512 && size_of::<Slot>() <= 24);

impl EngineKind {
    /// Whether this kernel, and this container, lets a worker have it.
    pub fn is_available(self, deferred: bool) -> bool {
        match self {
            Self::Uring => uring::Ring::is_available(deferred),
            Self::Readiness => true,
        }
    }
}

impl Engine {
    /// An engine without sessions, for the calling thread.
    pub fn new(means: Means, keys: Keys, record: Arc<ShardRecord>) -> io::Result<Self> {
        let source = match means.engine {
            EngineKind::Readiness => Source::Readiness(readiness::Set::new()?),
            EngineKind::Uring => {
                Source::Uring(Box::new(uring::Ring::new(Geometry::WORKER, means.deferred, Arc::clone(&record))?))
            }
        };
        Ok(Self::with_source(source, means.splice, keys, record))
    }

    fn with_source(source: Source, splice: bool, keys: Keys, record: Arc<ShardRecord>) -> Self {
        Self {
            source,
            events: Vec::new(),
            entries: Vec::new(),
            free: Vec::new(),
            live: 0,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            scratch: Box::default(),
            unfinished: VecDeque::new(),
            line: Line::default(),
            pipes: splice.then(Pool::new),
            keys,
            record,
            due_ms: u64::MAX,
        }
    }

    /// A descriptor that is readable when a turn has something to do.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        match &self.source {
            Source::Readiness(set) => set.descriptor(),
            Source::Uring(ring) => ring.descriptor(),
        }
    }

    /// Live sessions.
    pub fn sessions(&self) -> usize {
        self.live
    }

    /// When [`sweep`](Self::sweep) has something to do; `u64::MAX`: never.
    pub fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// When [`resume_line`](Self::resume_line) has something to do; `u64::MAX`: never.
    pub fn line_due_ms(&self) -> u64 {
        self.line.due_ms()
    }

    /// When one of them has.
    pub fn wakes_ms(&self) -> u64 {
        self.due_ms.min(self.line.due_ms())
    }

    /// Takes over a session whose handshakes are complete, with what has already come from both peers.
    pub fn begin(&mut self, handover: Handover, now_ms: u64) {
        let index = self.free.pop().unwrap_or_else(|| {
            assert!(self.entries.len() < Key::INDEX_MAX, "descriptors run out long before places");
            self.entries.push(Slot { epoch: 0, due_ms: 0, entry: None });
            (self.entries.len() - 1) as u32
        });
        let Handover { session, client, upstream, resident } = handover;
        let early = [(Leg::Client, client.early, client.end), (Leg::Upstream, upstream.early, upstream.end)];
        let is_due = session.is_due(now_ms);
        let legs = [Wire::new(client.fd, client.records), Wire::new(upstream.fd, upstream.records)];
        let slot = &mut self.entries[index as usize];
        slot.entry = Some(Box::new(Entry { session, legs, resident }));
        let epoch = slot.epoch;
        self.live += 1;
        for leg in Leg::BOTH {
            self.watch(Key { index, epoch, leg }, now_ms);
        }
        if is_due {
            // What has come from somebody who was denied meanwhile does not pass.
            self.judge(index, now_ms);
        }
        for (leg, mut early, end) in early {
            self.with_entry(index, |engine, entry| {
                engine.process(entry, leg, &mut early, now_ms);
                engine.session_of_tls_ended(entry, leg, end, now_ms);
            });
        }
        self.judge(index, now_ms);
        self.source.submit();
    }

    fn watch(&mut self, key: Key, now_ms: u64) {
        self.with_entry(key.index, |engine, entry| {
            let (Source::Readiness(set), Some(fd)) = (&engine.source, entry.fd(key.leg)) else { return };
            if set.watch(key, fd).is_err() {
                // Only a kernel without memory or watches refuses; the session cannot be driven then.
                entry.lost(key.leg, engine, now_ms);
            }
        });
    }

    /// Deals with what the kernel has to tell, in a bounded turn. Returns whether there is more to do at once.
    pub fn turn(&mut self, now_ms: u64) -> bool {
        for _ in 0..self.unfinished.len() {
            let Some(key) = self.unfinished.pop_front() else { break };
            if self.is_current(key) {
                self.with_entry(key.index, |_, entry| entry.wire(key.leg).noted = false);
                self.pump(key, now_ms);
                self.settle(key.index, now_ms);
            }
        }
        let mut events = std::mem::take(&mut self.events);
        let more = self.source.collect(&mut events);
        for (key, event) in events.drain(..) {
            if self.is_current(key) {
                self.handle(key, event, now_ms);
                self.settle(key.index, now_ms);
            } else if let Event::Received { portion, .. } = event {
                self.source.done_with(portion);
            }
        }
        self.events = events;
        self.source.submit();
        more || !self.unfinished.is_empty()
    }

    fn is_current(&self, key: Key) -> bool {
        self.entries.get(key.index as usize).is_some_and(|slot| slot.epoch == key.epoch && slot.entry.is_some())
    }

    fn handle(&mut self, key: Key, event: Event, now_ms: u64) {
        let Some(entry) = self.entries[key.index as usize].entry.as_mut() else { return };
        let wire = entry.wire(key.leg);
        match event {
            Event::Ready { readable, writable, hung_up } => {
                wire.readable |= readable;
                wire.hung_up |= hung_up;
                if readable {
                    wire.asked = Asked::Nothing;
                }
                if writable {
                    wire.asked_writable = false;
                    if wire.is_clogged() {
                        self.with_entry(key.index, |engine, entry| entry.flush(key.leg, engine, now_ms));
                        self.pump(key.of(key.leg.other()), now_ms);
                    }
                }
                if readable {
                    self.pump(key, now_ms);
                }
            }
            Event::Received { portion, stopped } => {
                if stopped {
                    wire.asked = Asked::Nothing;
                }
                self.received(key, portion, now_ms);
            }
            Event::Stopped => wire.asked = Asked::Nothing,
            Event::Starved => {
                wire.asked = Asked::Nothing;
                self.record.ring_starved();
            }
            Event::Ended => {
                wire.asked = Asked::Nothing;
                self.with_entry(key.index, |engine, entry| entry.ended(key.leg, engine, now_ms));
            }
            Event::Failed => {
                wire.asked = Asked::Nothing;
                self.with_entry(key.index, |engine, entry| entry.lost(key.leg, engine, now_ms));
            }
        }
    }

    /// Bytes that a ring has received for a leg.
    fn received(&mut self, key: Key, portion: Portion, now_ms: u64) {
        let Source::Uring(ring) = &mut self.source else { return };
        let range = ring.range(portion);
        let mut memory = ring.lend();
        self.with_entry(key.index, |engine, entry| {
            // A leg that was given up in the meantime says nothing more.
            if entry.fd(key.leg).is_some() {
                engine.arrived(entry, key.leg, memory.slice(range), now_ms);
                entry.wire(key.leg).gait = engine.gait(entry, key.leg, portion.length as usize);
            }
        });
        if let Source::Uring(ring) = &mut self.source {
            ring.take_back(memory);
        }
        self.source.done_with(portion);
    }

    /// Reads one leg for as long as it has something, the other takes it, and its turn lasts.
    fn pump(&mut self, key: Key, now_ms: u64) {
        let mut left = TURN_BYTES;
        self.with_entry(key.index, |engine, entry| {
            while entry.may_read(key.leg) {
                if left == 0 {
                    engine.come_back(entry, key);
                    return;
                }
                let moved = match entry.splice(key.leg, engine, now_ms) {
                    Some(moved) => moved,
                    None => engine.read(entry, key.leg, now_ms),
                };
                left = left.saturating_sub(moved);
            }
        });
    }

    /// Notes that a leg has more to read; once, however often that is found out.
    fn come_back(&mut self, entry: &mut Entry, key: Key) {
        if !std::mem::replace(&mut entry.wire(key.leg).noted, true) {
            self.unfinished.push_back(key);
        }
    }

    /// One `recv`, and all that follows from it. Returns the bytes received.
    fn read(&mut self, entry: &mut Entry, from: Leg, now_ms: u64) -> usize {
        let Some(fd) = entry.fd(from) else { return 0 };
        let budget = entry.session.limits().send_budget.as_bytes() as usize;
        let wire = entry.wire(from);
        let room = if wire.gait == Gait::Large { START_BYTES.min(budget) } else { budget };
        // The buffer is lent out for the length of this call, so that what is sent can stand in it.
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcome = socket::receive(fd, &mut buffer[..room]);
        let received = *outcome.as_ref().unwrap_or(&0);
        match outcome {
            Ok(0) => entry.ended(from, self, now_ms),
            Ok(received) => {
                // A short read has emptied the socket, unless the end of the stream waits behind it.
                wire.readable = received == room || wire.hung_up;
                self.arrived(entry, from, &mut buffer[..received], now_ms);
                entry.wire(from).gait = self.gait(entry, from, received);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wire.readable = false,
            Err(_) => {
                wire.readable = false;
                entry.lost(from, self, now_ms);
            }
        }
        self.buffer = buffer;
        received
    }

    /// What a leg's last receive says about its next.
    fn gait(&self, entry: &Entry, from: Leg, received: usize) -> Gait {
        if self.pipes.is_some() && entry.is_plain() && entry.session.unseen(from) >= SPLICE_MIN {
            Gait::Large
        } else if received >= BULK_MIN {
            Gait::Bulk
        } else {
            Gait::Small
        }
    }

    /// What a socket has brought: opened where it stands, if the leg is under TLS, and looked at.
    fn arrived(&mut self, entry: &mut Entry, from: Leg, bytes: &mut [u8], now_ms: u64) {
        let Some(records) = &mut entry.wire(from).tls else { return self.process(entry, from, bytes, now_ms) };
        let (whole, taken) = records.complete(bytes);
        if let Some(mut record) = whole {
            self.open(entry, from, &mut record, now_ms);
        }
        self.open(entry, from, &mut bytes[taken..], now_ms);
    }

    /// Opens records, and lets the session look at what was in them.
    fn open(&mut self, entry: &mut Entry, from: Leg, bytes: &mut [u8], now_ms: u64) {
        let wire = entry.wire(from);
        // Behind the end of its stream a peer has nothing to say.
        let Some(records) = wire.tls.as_mut().filter(|_| !wire.ended && wire.fd.is_some()) else { return };
        let opened = records.open(bytes);
        self.process(entry, from, &mut bytes[..opened.plain], now_ms);
        self.session_of_tls_ended(entry, from, opened.end, now_ms);
    }

    /// The peer's side of a TLS session has ended so, if it has.
    fn session_of_tls_ended(&mut self, entry: &mut Entry, from: Leg, end: Option<End>, now_ms: u64) {
        match end {
            None => {}
            Some(End::Closed) => entry.ended(from, self, now_ms),
            Some(End::GivenUp(_)) => entry.lost(from, self, now_ms),
            Some(End::Broken(alert)) => {
                self.record.tls_broken();
                entry.wire(from).say_goodbye(alert);
                entry.lost(from, self, now_ms);
            }
        }
    }

    /// Lets the session look at bytes that have come, and does what it says.
    fn process(&mut self, entry: &mut Entry, from: Leg, mut bytes: &mut [u8], now_ms: u64) {
        while entry.session.holds(from) && !bytes.is_empty() {
            // What was held back is looked at again together with as much as may belong to it.
            let mut joint = [0; 2 * CONTROL_FRAME_MAX];
            let held = entry.session.take_held(from, &mut joint[..CONTROL_FRAME_MAX]);
            let (some, rest) = bytes.split_at_mut(bytes.len().min(CONTROL_FRAME_MAX));
            joint[CONTROL_FRAME_MAX..CONTROL_FRAME_MAX + some.len()].copy_from_slice(some);
            self.walk_and_keep(entry, from, &mut joint[CONTROL_FRAME_MAX - held..][..held + some.len()], now_ms);
            bytes = rest;
        }
        self.walk_and_keep(entry, from, bytes, now_ms);
    }

    fn walk_and_keep(&mut self, entry: &mut Entry, from: Leg, bytes: &mut [u8], now_ms: u64) {
        let taken = self.walk(entry, from, bytes, now_ms);
        if taken < bytes.len() {
            self.record.buffered((bytes.len() - taken) as u64);
            entry.session.keep(from, &bytes[taken..]);
        }
    }

    /// Lets the session look at bytes as far as they may pass. Returns how many of them: the rest waits for room.
    fn walk(&mut self, entry: &mut Entry, from: Leg, bytes: &mut [u8], now_ms: u64) -> usize {
        let to = from.other();
        let mut at = 0;
        while at < bytes.len() && !entry.session.waits(from) {
            let step = entry.with_facts(self, now_ms, |session, facts| session.receive(from, &mut bytes[at..], facts));
            if step.send > 0 {
                entry.send(to, &bytes[at..at + step.send], self, now_ms);
            }
            entry.drain(to, self, now_ms);
            entry.drain(from, self, now_ms);
            at += step.consumed;
        }
        at
    }

    /// Judges every session whose time has come.
    pub fn sweep(&mut self, now_ms: u64) {
        self.due_ms = u64::MAX;
        for index in 0..self.entries.len() as u32 {
            let slot = &self.entries[index as usize];
            match slot.entry {
                None => {}
                Some(_) if slot.due_ms <= now_ms => self.judge(index, now_ms),
                Some(_) => self.due_ms = self.due_ms.min(slot.due_ms),
            }
        }
        self.source.submit();
    }

    /// Judges one session by the clock, and notes when it is to be judged again.
    fn judge(&mut self, index: u32, now_ms: u64) {
        let due_ms = self.with_entry(index, |engine, entry| {
            let views = entry.views();
            let due_ms = entry.with_facts(engine, now_ms, |session, facts| session.tick(views, facts));
            Leg::BOTH.into_iter().for_each(|leg| entry.drain(leg, engine, now_ms));
            due_ms
        });
        match due_ms {
            Some(Some(due_ms)) => {
                self.entries[index as usize].due_ms = due_ms;
                self.settle(index, now_ms);
            }
            Some(None) => self.end(index, now_ms),
            None => {}
        }
    }

    /// Lets `change` look at every session, for a new configuration or a drain. What it makes the session say is sent.
    pub fn for_each(&mut self, now_ms: u64, mut change: impl FnMut(&mut Session, &mut Resident, &mut Keys)) {
        for index in 0..self.entries.len() as u32 {
            self.with_entry(index, |engine, entry| {
                change(&mut entry.session, &mut entry.resident, &mut engine.keys);
            });
            let slot = &mut self.entries[index as usize];
            slot.due_ms = slot.due_ms.min(now_ms);
        }
        self.sweep(now_ms);
    }

    /// Whether a turn has something to do although the kernel has nothing to tell.
    pub fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Drops every session at once, with a close frame where one may stand and is taken without waiting.
    pub fn drop_all(&mut self, now_ms: u64) {
        for index in 0..self.entries.len() as u32 {
            self.with_entry(index, |engine, entry| {
                entry.with_facts(engine, now_ms, |session, facts| {
                    session.close(CloseCode::RESTART, Cause::Killed, "service restart", facts);
                });
                for leg in Leg::BOTH {
                    entry.drain(leg, engine, now_ms);
                    if entry.session.leg(leg) != LegState::Severed {
                        entry.wire(leg).say_goodbye(Alert::CloseNotify);
                    }
                }
            });
            self.end(index, now_ms);
        }
        self.source.submit();
    }

    /// After anything has happened to a session: its legs end as it says, it itself ends when both have, and the source is
    /// asked for what is wanted next.
    fn settle(&mut self, index: u32, now_ms: u64) {
        let epoch = self.entries[index as usize].epoch;
        let over = self.with_entry(index, |engine, entry| {
            for leg in Leg::BOTH {
                engine.resume(entry, Key { index, epoch, leg }, now_ms);
            }
            for leg in Leg::BOTH {
                let key = Key { index, epoch, leg };
                let (state, said_goodbye) = (entry.session.leg(leg), entry.session.has_said_goodbye(leg));
                let wire = entry.wire(leg);
                let Some(fd) = wire.raw() else { continue };
                match state {
                    LegState::Severed if wire.is_clogged() => {}
                    LegState::Severed | LegState::Gone => {
                        // Who ended his direction is told that ours ends; who is cut is not told that all is well.
                        if state == LegState::Gone {
                            wire.say_goodbye(Alert::CloseNotify);
                        }
                        engine.source.forget(key, wire);
                        engine.record.unbuffered(wire.give_up(engine.pipes.as_mut()));
                        engine.forget_stash(entry, leg, now_ms);
                        // Whoever waited for this leg to take something waits no more.
                        engine.come_back(entry, key.of(leg.other()));
                    }
                    // The server ends the connection first (RFC 6455 §7.1.1): towards the client that is us. Behind its
                    // close frame nothing may come that a reset could answer before it has read ours.
                    LegState::Finished if !wire.is_clogged() && (wire.ended || said_goodbye && leg == Leg::Client) => {
                        wire.say_goodbye(Alert::CloseNotify);
                        engine.source.forget(key, wire);
                    }
                    // Who broke a rule may still be sending: it is read from until it ends.
                    LegState::Finished if !wire.is_clogged() && leg == Leg::Client && !wire.shut => {
                        wire.say_goodbye(Alert::CloseNotify);
                        socket::shutdown(fd);
                        wire.shut = true;
                    }
                    LegState::Finished | LegState::Open => {}
                }
            }
            if let Source::Uring(ring) = &mut engine.source {
                let credit = credit(&entry.session);
                for leg in Leg::BOTH {
                    let blocked = entry.is_blocked(leg);
                    ring.attend(Key { index, epoch, leg }, entry.wire(leg), blocked, credit);
                }
            }
            for leg in Leg::BOTH {
                engine.line.stand(entry, Key { index, epoch, leg }, now_ms);
            }
            (entry.legs.iter().all(|wire| wire.fd.is_none()), entry.session.close_by_ms().unwrap_or(u64::MAX))
        });
        match over {
            Some((true, _)) => self.end(index, now_ms),
            Some((false, due_ms)) => {
                let slot = &mut self.entries[index as usize];
                slot.due_ms = slot.due_ms.min(due_ms);
                self.due_ms = self.due_ms.min(slot.due_ms);
            }
            None => {}
        }
    }

    fn end(&mut self, index: u32, now_ms: u64) {
        let slot = &mut self.entries[index as usize];
        let Some(entry) = slot.entry.take() else { return };
        let epoch = slot.epoch;
        slot.epoch = epoch.wrapping_add(1);
        self.free.push(index);
        self.live -= 1;
        let mut entry = *entry;
        for leg in Leg::BOTH {
            self.forget_stash(&mut entry, leg, now_ms);
            entry.session.refund(leg, now_ms);
            let wire = entry.wire(leg);
            self.source.forget(Key { index, epoch, leg }, wire);
            self.record.unbuffered(wire.give_up(self.pipes.as_mut()));
        }
        let Entry { session, resident, legs } = entry;
        drop(legs);
        let ending = session.ending().expect("a session is over when its end has begun");
        resident.ended(&session, ending, now_ms);
    }

    /// Runs `work` with the entry taken out of its place, so that the engine's other parts can be used beside it.
    fn with_entry<T>(&mut self, index: u32, work: impl FnOnce(&mut Self, &mut Entry) -> T) -> Option<T> {
        let mut entry = self.entries[index as usize].entry.take()?;
        let outcome = work(self, &mut entry);
        self.entries[index as usize].entry = Some(entry);
        Some(outcome)
    }
}

impl Source {
    fn collect(&mut self, events: &mut Vec<(Key, Event)>) -> bool {
        match self {
            Self::Readiness(set) => set.collect(events),
            Self::Uring(ring) => ring.collect(events),
        }
    }

    fn submit(&mut self) {
        if let Self::Uring(ring) = self {
            ring.submit();
        }
    }

    /// Closes a leg's descriptor, as soon as nothing that was asked names it.
    fn forget(&mut self, key: Key, wire: &mut Wire) {
        match self {
            Self::Readiness(_) => wire.fd = None,
            Self::Uring(ring) => ring.forget(key, wire),
        }
    }

    fn done_with(&mut self, portion: Portion) {
        if let Self::Uring(ring) = self {
            ring.done_with(portion);
        }
    }
}

/// What a ring may receive of a leg before somebody has looked. A receive that began just below the credit may bring as
/// much again: twice it is the budget.
fn credit(session: &Session) -> u32 {
    (session.limits().send_budget.as_bytes() / 2).clamp(1, BUFFER_BYTES as u64) as u32
}

impl Entry {
    fn wire(&mut self, leg: Leg) -> &mut Wire {
        &mut self.legs[leg as usize]
    }

    fn fd(&self, leg: Leg) -> Option<RawFd> {
        self.legs[leg as usize].raw()
    }

    /// Whether neither leg is under TLS: only then a payload may pass unseen.
    fn is_plain(&self) -> bool {
        self.legs.iter().all(|wire| wire.tls.is_none())
    }

    /// Whether what this leg brings could not be sent on now, or may not.
    fn is_blocked(&self, from: Leg) -> bool {
        let other = &self.legs[from.other() as usize];
        other.is_clogged() && other.fd.is_some() || self.session.keeps(from)
    }

    /// Whether this leg has something that can be dealt with now.
    fn may_read(&self, from: Leg) -> bool {
        let wire = &self.legs[from as usize];
        wire.readable && wire.fd.is_some() && !self.is_blocked(from)
    }

    fn with_facts<T>(
        &mut self,
        engine: &mut Engine,
        now_ms: u64,
        work: impl FnOnce(&mut Session, &mut Facts<'_>) -> T,
    ) -> T {
        let mut facts = Facts {
            now_ms,
            options: &self.resident.api.api.session,
            counters: &self.resident.counters,
            keys: &mut engine.keys,
        };
        work(&mut self.session, &mut facts)
    }

    /// The leg's peer has ended its stream.
    fn ended(&mut self, leg: Leg, engine: &mut Engine, now_ms: u64) {
        let wire = self.wire(leg);
        wire.readable = false;
        wire.ended = true;
        self.over(leg, engine, now_ms);
    }

    /// Nothing can be said to the leg's peer any more, nor heard from it.
    fn lost(&mut self, leg: Leg, engine: &mut Engine, now_ms: u64) {
        let wire = self.wire(leg);
        wire.readable = false;
        wire.ended = true;
        self.broke(leg, engine, now_ms);
    }

    /// Nothing more comes from the leg's peer. What it said before may wait to be let through: then it is over behind that.
    fn over(&mut self, leg: Leg, engine: &mut Engine, now_ms: u64) {
        let broken = self.wire(leg).broken;
        self.with_facts(engine, now_ms, |session, facts| match broken {
            _ if session.outlives(leg, true, facts) => {}
            true => session.lost(leg, facts),
            false => session.end_of_stream(leg, facts),
        });
        self.drain(leg.other(), engine, now_ms);
    }

    /// Moves what is left of a large frame, or some of it, without looking at it. Returns the bytes moved, or `None` if
    /// that is not for splicing.
    fn splice(&mut self, from: Leg, engine: &mut Engine, now_ms: u64) -> Option<usize> {
        let to = from.other();
        let unseen = self.session.unseen(from);
        let (true, true, Some(source), Some(target)) =
            (self.wire(from).gait == Gait::Large, unseen > 0, self.fd(from), self.fd(to))
        else {
            return None;
        };
        if self.wire(to).broken {
            return None;
        }
        let Some(mut pipe) = engine.pipes.as_mut()?.take() else {
            // Then the rest is copied, as much at a time as there is room for.
            self.wire(from).gait = Gait::Bulk;
            return None;
        };
        let budget = self.session.limits().send_budget.as_bytes();
        let moved = match pipe.fill(source, unseen.min(budget) as usize) {
            Ok(moved) if moved > 0 => moved,
            outcome => {
                if let Some(pipes) = &mut engine.pipes {
                    pipes.give_back(pipe);
                }
                // Nothing came. A receive finds out why: splice also stops at urgent data, behind which there is more.
                if outcome.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
                    self.wire(from).gait = Gait::Bulk;
                }
                return None;
            }
        };
        engine.record.spliced(moved as u64);
        self.with_facts(engine, now_ms, |session, facts| session.pass_unseen(from, moved as u64, facts));
        let wire = self.wire(to);
        wire.given_bytes = wire.given_bytes.wrapping_add(moved as u32);
        while !pipe.is_empty() {
            match pipe.drain(target, false) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    engine.record.buffered(pipe.len() as u64);
                    self.wire(to).keep_pipe(pipe);
                    return Some(moved);
                }
                Err(_) => {
                    self.broke(to, engine, now_ms);
                    return Some(moved);
                }
            }
        }
        if let Some(pipes) = &mut engine.pipes {
            pipes.give_back(pipe);
        }
        self.drain(to, engine, now_ms);
        self.drain(from, engine, now_ms);
        Some(moved)
    }

    /// Sends what the session itself has to say to a leg.
    fn drain(&mut self, to: Leg, engine: &mut Engine, now_ms: u64) {
        while self.session.has_output(to) {
            let clogged = self.wire(to).is_clogged();
            let frame = self.with_facts(engine, now_ms, |session, facts| session.output(to, clogged, facts));
            let Some(frame) = frame else { return };
            self.send(to, frame.as_bytes(), engine, now_ms);
        }
    }

    /// Sends what the session says, sealed first if the leg is under TLS.
    fn send(&mut self, to: Leg, bytes: &[u8], engine: &mut Engine, now_ms: u64) {
        if self.wire(to).tls.is_none() {
            return self.send_as_is(to, bytes, engine, now_ms);
        }
        // Lent out for the length of this call, like the buffer.
        let mut scratch = std::mem::take(&mut engine.scratch);
        if scratch.is_empty() {
            scratch = vec![0; sealed_max(SEAL_BYTES)].into_boxed_slice();
        }
        for some in bytes.chunks(SEAL_BYTES) {
            let wire = self.wire(to);
            let Some(records) = wire.tls.as_mut().filter(|_| !wire.broken && wire.fd.is_some()) else { break };
            let sealed = records.seal(some, &mut scratch, now_ms);
            self.send_as_is(to, &scratch[..sealed], engine, now_ms);
        }
        engine.scratch = scratch;
    }

    /// Sends at once what the socket takes, and keeps the rest behind what is kept already.
    fn send_as_is(&mut self, to: Leg, mut bytes: &[u8], engine: &mut Engine, now_ms: u64) {
        let Some(fd) = self.fd(to) else { return };
        let wire = self.wire(to);
        if wire.broken {
            return;
        }
        wire.given_bytes = wire.given_bytes.wrapping_add(bytes.len() as u32);
        if !wire.is_clogged() {
            while !bytes.is_empty() {
                match socket::send(fd, bytes) {
                    Ok(sent) => bytes = &bytes[sent..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => return self.broke(to, engine, now_ms),
                }
            }
        }
        if !bytes.is_empty() {
            engine.record.buffered(bytes.len() as u64);
            self.wire(to).keep(bytes);
        }
    }

    /// Sends what was kept, until it has gone or the socket is full again.
    fn flush(&mut self, to: Leg, engine: &mut Engine, now_ms: u64) {
        while self.fd(to).is_some() && self.wire(to).is_clogged() {
            match self.wire(to).send_kept(engine.pipes.as_mut()) {
                Ok(sent) => engine.record.unbuffered(sent as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.broke(to, engine, now_ms),
            }
        }
        self.drain(to, engine, now_ms);
    }

    /// A leg takes nothing any more. What its peer sent before that may still wait to be read, a close frame perhaps, so
    /// it is lost only at the end of that, of which the kernel tells like of any other.
    fn broke(&mut self, leg: Leg, engine: &mut Engine, now_ms: u64) {
        let wire = self.wire(leg);
        wire.broken = true;
        engine.record.unbuffered(wire.give_up(engine.pipes.as_mut()));
        if wire.ended {
            self.over(leg, engine, now_ms);
        }
    }

    /// How the legs stand. The kernel is asked only while it matters: in a closing handshake.
    fn views(&mut self) -> [LegView; 2] {
        let closing = self.session.close_by_ms().is_some();
        let clogged = [0, 1].map(|leg| self.legs[leg].is_clogged());
        [0, 1].map(|leg: usize| LegView {
            unread: clogged[1 - leg] || self.session.keeps(Leg::BOTH[leg]),
            clogged: clogged[leg],
            draining: closing && self.legs[leg].drains(),
        })
    }
}
