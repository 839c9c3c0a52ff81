//! The readiness engine: moves the bytes of this worker's established sessions with one edge-triggered epoll set.
//!
//! A session has no task, no timer and, while nothing happens, no buffer. When a socket becomes readable the engine
//! receives into the worker's one shared buffer, lets the session look at it, and sends the same bytes on at once. Only
//! what the other socket would not take is copied, and its source is not read again until that has gone:
//! back-pressure is the absence of a read.
//!
//! Per frame that arrives alone: one `recv`, one `send`, and a share of one `epoll_wait`; no copy in user space beyond
//! the two that the sockets make; no allocation. The epoll set's descriptor is awaited through monoio
//! ([`Engine::descriptor`]), and each wake runs one bounded [`Engine::turn`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use proto::ws::CloseCode;

use super::session::{CONTROL_FRAME_MAX, Facts, Leg, LegState, LegView, Session};
use super::{Handover, Means, Resident};
use crate::record::{Cause, ShardRecord};
use crate::relay::keys::Keys;
use crate::socket;

/// Bytes received at a time: one frame of almost any size in one system call (measured: smaller costs more from 16 KiB).
const BUFFER_BYTES: usize = 256 * 1024;
/// Room in front of what is received, for what a session held back.
const HEADROOM_BYTES: usize = CONTROL_FRAME_MAX;
/// Events taken from the kernel in one turn.
const EVENTS_MAX: usize = 256;
/// Bytes that one leg may receive in one turn before the others have theirs.
const TURN_BYTES: usize = 1024 * 1024;

// What came with a head, on either leg, is looked at in one piece.
const _: () = assert!(2 * proto::limits::HEAD_BYTES_MAX <= BUFFER_BYTES);
const _: () = assert!(proto::limits::SEND_BUDGET_MAX <= BUFFER_BYTES as u64);

/// The sessions of one worker.
pub struct Engine {
    epoll: OwnedFd,
    entries: Vec<Slot>,
    free: Vec<u32>,
    live: usize,
    buffer: Box<[u8]>,
    /// Legs that had more to read when their turn was over.
    unfinished: VecDeque<Key>,
    keys: Keys,
    record: Arc<ShardRecord>,
    /// When [`Engine::sweep`] has something to do; `u64::MAX`: never.
    due_ms: u64,
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

/// One leg's socket.
struct Wire {
    fd: Option<OwnedFd>,
    backlog: Backlog,
    /// The kernel said so, and no short read has said otherwise.
    readable: bool,
    /// The peer's end of stream, or an error, waits behind what can be read.
    hung_up: bool,
    ended: bool,
    shut: bool,
    /// It takes nothing any more; what its peer has sent is still read.
    broken: bool,
    /// It stands among the unfinished.
    noted: bool,
    /// Bytes that were to be sent to the peer, modulo 2^32.
    given_bytes: u32,
    /// Those of them that the peer had taken at the last look, modulo 2^32.
    taken_bytes: u32,
}

// What an idle session costs beside its two sockets; the texts of its record come on top.
const _: () = assert!(size_of::<Entry>() <= 700 && size_of::<Slot>() <= 24);

impl Wire {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd: Some(fd),
            backlog: Backlog::default(),
            readable: false,
            hung_up: false,
            ended: false,
            shut: false,
            broken: false,
            noted: false,
            given_bytes: 0,
            taken_bytes: 0,
        }
    }

    /// Whether the peer has taken something since the last look, though not all. What it took before the first look
    /// counts for that.
    fn drains(&mut self) -> bool {
        let unsent = self.fd.as_ref().map_or(0, |fd| socket::unsent_bytes(fd.as_raw_fd()));
        let waiting_bytes = unsent.saturating_add(self.backlog.rest().len() as u32);
        let taken_bytes = self.given_bytes.wrapping_sub(waiting_bytes);
        let before = std::mem::replace(&mut self.taken_bytes, taken_bytes);
        waiting_bytes > 0 && taken_bytes.wrapping_sub(before) as i32 > 0
    }
}

/// Bytes that a socket would not take; allocated only while there are any.
#[derive(Default)]
struct Backlog {
    bytes: Vec<u8>,
    sent: u32,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.sent as usize..]
    }

    fn push(&mut self, bytes: &[u8]) {
        // Exactly, or a second push could keep twice the budget.
        self.bytes.reserve_exact(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Gives up what is kept; returns how much that was.
    fn clear(&mut self) -> u64 {
        let given_up = self.rest().len() as u64;
        *self = Self::default();
        given_up
    }

    fn advance(&mut self, sent: usize) {
        self.sent += sent as u32;
        if self.sent as usize == self.bytes.len() {
            *self = Self::default();
        }
    }
}

/// Names one leg of one session, in 64 bits that the kernel gives back with its events.
#[derive(Clone, Copy)]
struct Key {
    index: u32,
    epoch: u32,
    leg: Leg,
}

impl Key {
    fn pack(self) -> u64 {
        u64::from(self.epoch) << 32 | u64::from(self.index) << 1 | self.leg as u64
    }

    fn unpack(bits: u64) -> Self {
        let leg = if bits & 1 == 0 { Leg::Client } else { Leg::Upstream };
        Self { index: (bits as u32) >> 1, epoch: (bits >> 32) as u32, leg }
    }
}

impl Engine {
    /// An engine without sessions.
    pub fn new(means: Means, keys: Keys, record: Arc<ShardRecord>) -> io::Result<Self> {
        means.engine.check()?;
        // SAFETY: a plain system call; the outcome is checked.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            // SAFETY: the descriptor is fresh and nobody else's.
            epoll: unsafe { OwnedFd::from_raw_fd(epoll) },
            entries: Vec::new(),
            free: Vec::new(),
            live: 0,
            buffer: vec![0; HEADROOM_BYTES + BUFFER_BYTES].into_boxed_slice(),
            unfinished: VecDeque::new(),
            keys,
            record,
            due_ms: u64::MAX,
        })
    }

    /// A second descriptor of the epoll set: readable when a turn has something to do.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.epoll.try_clone()
    }

    /// Live sessions.
    pub fn sessions(&self) -> usize {
        self.live
    }

    /// When [`sweep`](Self::sweep) has something to do; `u64::MAX`: never.
    pub fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// Takes over a session whose handshakes are complete, with what has already come from both peers.
    pub fn begin(&mut self, handover: Handover, now_ms: u64) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Slot { epoch: 0, due_ms: 0, entry: None });
            u32::try_from(self.entries.len() - 1).expect("descriptors run out long before indices")
        });
        let Handover { session, client, upstream, client_early, upstream_early, resident } = handover;
        let legs = [Wire::new(client), Wire::new(upstream)];
        let slot = &mut self.entries[index as usize];
        slot.entry = Some(Box::new(Entry { session, legs, resident }));
        let epoch = slot.epoch;
        self.live += 1;
        for leg in Leg::BOTH {
            self.watch(Key { index, epoch, leg }, now_ms);
        }
        for (leg, early) in [(Leg::Client, client_early), (Leg::Upstream, upstream_early)] {
            if !early.is_empty() {
                self.buffer[HEADROOM_BYTES..HEADROOM_BYTES + early.len()].copy_from_slice(&early);
                self.with_entry(index, |engine, entry| engine.process(entry, leg, early.len(), now_ms));
            }
        }
        self.judge(index, now_ms);
    }

    fn watch(&mut self, key: Key, now_ms: u64) {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: events as u32, u64: key.pack() };
        let epoll = self.epoll.as_raw_fd();
        self.with_entry(key.index, |engine, entry| {
            let Some(fd) = entry.fd(key.leg) else { return };
            // SAFETY: `event` is valid for the duration of the call.
            let outcome = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event) };
            if outcome < 0 {
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
                self.with_entry(key.index, |_, entry| entry.legs[key.leg as usize].noted = false);
                self.pump(key, now_ms);
                self.settle(key.index, now_ms);
            }
        }
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        // SAFETY: `events` has room for EVENTS_MAX; a timeout of 0 does not block.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS_MAX as i32, 0) };
        let count = usize::try_from(count).unwrap_or(0);
        for event in &events[..count] {
            let (bits, key) = (event.events as i32, Key::unpack(event.u64));
            if self.is_current(key) {
                self.handle(key, bits, now_ms);
                self.settle(key.index, now_ms);
            }
        }
        count == EVENTS_MAX || !self.unfinished.is_empty()
    }

    fn is_current(&self, key: Key) -> bool {
        self.entries.get(key.index as usize).is_some_and(|slot| slot.epoch == key.epoch && slot.entry.is_some())
    }

    fn handle(&mut self, key: Key, bits: i32, now_ms: u64) {
        const ENDS: i32 = libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;
        let Some(entry) = self.entries[key.index as usize].entry.as_mut() else { return };
        let wire = &mut entry.legs[key.leg as usize];
        wire.readable |= bits & (libc::EPOLLIN | ENDS) != 0;
        wire.hung_up |= bits & ENDS != 0;
        if bits & libc::EPOLLOUT != 0 && !wire.backlog.is_empty() {
            self.with_entry(key.index, |engine, entry| entry.flush(key.leg, engine, now_ms));
            self.pump(Key { leg: key.leg.other(), ..key }, now_ms);
        }
        if bits & (libc::EPOLLIN | ENDS) != 0 {
            self.pump(key, now_ms);
        }
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
                left = left.saturating_sub(engine.read(entry, key.leg, now_ms));
            }
        });
    }

    /// Notes that a leg has more to read; once, however often that is found out.
    fn come_back(&mut self, entry: &mut Entry, key: Key) {
        if !std::mem::replace(&mut entry.legs[key.leg as usize].noted, true) {
            self.unfinished.push_back(key);
        }
    }

    /// One `recv`, and all that follows from it. Returns the bytes received.
    fn read(&mut self, entry: &mut Entry, from: Leg, now_ms: u64) -> usize {
        let Some(fd) = entry.fd(from) else { return 0 };
        let budget = entry.session.limits().send_budget.as_bytes() as usize;
        let room = budget.clamp(1, BUFFER_BYTES);
        let wire = &mut entry.legs[from as usize];
        match socket::receive(fd, &mut self.buffer[HEADROOM_BYTES..HEADROOM_BYTES + room]) {
            Ok(0) => {
                wire.readable = false;
                wire.ended = true;
                let broken = wire.broken;
                entry.with_facts(self, now_ms, |session, facts| match broken {
                    true => session.lost(from, facts),
                    false => session.end_of_stream(from, facts),
                });
                entry.drain(from.other(), self, now_ms);
                0
            }
            Ok(received) => {
                // A short read has emptied the socket, unless the end of the stream waits behind it.
                wire.readable = received == room || wire.hung_up;
                self.process(entry, from, received, now_ms);
                received
            }
            Err(error) => {
                wire.readable = false;
                if error.kind() != io::ErrorKind::WouldBlock {
                    entry.lost(from, self, now_ms);
                }
                0
            }
        }
    }

    /// Lets the session look at what stands in the buffer, and does what it says.
    fn process(&mut self, entry: &mut Entry, from: Leg, received: usize, now_ms: u64) {
        let to = from.other();
        let held = entry.session.take_held(from, &mut self.buffer[..HEADROOM_BYTES]);
        let mut at = HEADROOM_BYTES - held;
        let end = HEADROOM_BYTES + received;
        // The buffer is lent out for the length of this call, so that what is sent can stand in it.
        let mut buffer = std::mem::take(&mut self.buffer);
        while at < end {
            let step =
                entry.with_facts(self, now_ms, |session, facts| session.receive(from, &mut buffer[at..end], facts));
            if step.send > 0 {
                entry.send(to, &buffer[at..at + step.send], self, now_ms);
            }
            entry.drain(to, self, now_ms);
            entry.drain(from, self, now_ms);
            at += step.consumed;
        }
        self.buffer = buffer;
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
                Leg::BOTH.into_iter().for_each(|leg| entry.drain(leg, engine, now_ms));
            });
            self.end(index, now_ms);
        }
    }

    /// After anything has happened to a session: its legs end as it says, and it itself when both have.
    fn settle(&mut self, index: u32, now_ms: u64) {
        let epoch = self.entries[index as usize].epoch;
        let over = self.with_entry(index, |engine, entry| {
            for leg in Leg::BOTH {
                let state = entry.session.leg(leg);
                let wire = &mut entry.legs[leg as usize];
                let Some(fd) = wire.fd.as_ref().map(AsRawFd::as_raw_fd) else { continue };
                match state {
                    LegState::Severed if !wire.backlog.is_empty() => {}
                    LegState::Severed | LegState::Gone => {
                        wire.fd = None;
                        // Whoever waited for this leg to take something waits no more.
                        engine.come_back(entry, Key { index, epoch, leg: leg.other() });
                    }
                    LegState::Finished if wire.backlog.is_empty() && wire.ended => wire.fd = None,
                    // The server ends the connection first (RFC 6455 §7.1.1): towards the client that is us.
                    LegState::Finished if wire.backlog.is_empty() && leg == Leg::Client && !wire.shut => {
                        socket::shutdown(fd);
                        wire.shut = true;
                    }
                    LegState::Finished | LegState::Open => {}
                }
            }
            let close_by_ms = entry.session.close_by_ms().unwrap_or(u64::MAX);
            (entry.legs.iter().all(|wire| wire.fd.is_none()), close_by_ms)
        });
        match over {
            Some((true, _)) => self.end(index, now_ms),
            Some((false, close_by_ms)) => {
                let slot = &mut self.entries[index as usize];
                slot.due_ms = slot.due_ms.min(close_by_ms);
                self.due_ms = self.due_ms.min(slot.due_ms);
            }
            None => {}
        }
    }

    fn end(&mut self, index: u32, now_ms: u64) {
        let slot = &mut self.entries[index as usize];
        let Some(entry) = slot.entry.take() else { return };
        slot.epoch = slot.epoch.wrapping_add(1);
        self.free.push(index);
        self.live -= 1;
        let Entry { session, resident, mut legs, .. } = *entry;
        self.record.unbuffered(legs.iter_mut().map(|wire| wire.backlog.clear()).sum());
        drop(legs);
        let ending = session.ending().expect("a session is over when its end has begun");
        resident.ended(ending, session.totals(Leg::Client), session.totals(Leg::Upstream), now_ms);
    }

    /// Runs `work` with the entry taken out of its place, so that the engine's other parts can be used beside it.
    fn with_entry<T>(&mut self, index: u32, work: impl FnOnce(&mut Self, &mut Entry) -> T) -> Option<T> {
        let mut entry = self.entries[index as usize].entry.take()?;
        let outcome = work(self, &mut entry);
        self.entries[index as usize].entry = Some(entry);
        Some(outcome)
    }
}

impl Entry {
    fn fd(&self, leg: Leg) -> Option<RawFd> {
        self.legs[leg as usize].fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Whether this leg has something that can be dealt with now.
    fn may_read(&self, from: Leg) -> bool {
        let wire = &self.legs[from as usize];
        let other = &self.legs[from.other() as usize];
        wire.readable && wire.fd.is_some() && (other.backlog.is_empty() || other.fd.is_none())
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

    fn lost(&mut self, leg: Leg, engine: &mut Engine, now_ms: u64) {
        self.with_facts(engine, now_ms, |session, facts| session.lost(leg, facts));
        self.drain(leg.other(), engine, now_ms);
    }

    /// Sends what the session itself has to say to a leg.
    fn drain(&mut self, to: Leg, engine: &mut Engine, now_ms: u64) {
        while self.session.has_output(to) {
            let clogged = !self.legs[to as usize].backlog.is_empty();
            let frame = self.with_facts(engine, now_ms, |session, facts| session.output(to, clogged, facts));
            let Some(frame) = frame else { return };
            self.send(to, frame.as_bytes(), engine, now_ms);
        }
    }

    /// Sends at once what the socket takes, and keeps the rest behind what is kept already.
    fn send(&mut self, to: Leg, mut bytes: &[u8], engine: &mut Engine, now_ms: u64) {
        let Some(fd) = self.fd(to) else { return };
        let wire = &mut self.legs[to as usize];
        if wire.broken {
            return;
        }
        wire.given_bytes = wire.given_bytes.wrapping_add(bytes.len() as u32);
        if wire.backlog.is_empty() {
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
            self.legs[to as usize].backlog.push(bytes);
        }
    }

    /// Sends what was kept, until it has gone or the socket is full again.
    fn flush(&mut self, to: Leg, engine: &mut Engine, now_ms: u64) {
        let Some(fd) = self.fd(to) else { return };
        let backlog = &mut self.legs[to as usize].backlog;
        while !backlog.is_empty() {
            match socket::send(fd, backlog.rest()) {
                Ok(sent) => {
                    backlog.advance(sent);
                    engine.record.unbuffered(sent as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.broke(to, engine, now_ms),
            }
        }
        self.drain(to, engine, now_ms);
    }

    /// A leg takes nothing any more. What its peer sent before that may still wait to be read, a close frame perhaps, so
    /// it is lost only at the end of that, of which the kernel tells like of any other.
    fn broke(&mut self, leg: Leg, engine: &mut Engine, now_ms: u64) {
        let wire = &mut self.legs[leg as usize];
        wire.broken = true;
        engine.record.unbuffered(wire.backlog.clear());
        if wire.ended {
            self.lost(leg, engine, now_ms);
        }
    }

    /// How the legs stand. The kernel is asked only while it matters: in a closing handshake.
    fn views(&mut self) -> [LegView; 2] {
        let closing = self.session.close_by_ms().is_some();
        let clogged = [0, 1].map(|leg| !self.legs[leg].backlog.is_empty());
        [0, 1].map(|leg: usize| LegView {
            unread: clogged[1 - leg],
            clogged: clogged[leg],
            draining: closing && self.legs[leg].drains(),
        })
    }
}
