//! An engine in memory, with the contract of the data plane's engines: what it reads it lets the session look at and
//! sends on at once, what does not go out is kept, and who waits for it is not read. In half of the runs it moves a part
//! of the payload past the session, as splice(2) does.

use std::sync::Arc;

use dataplane::record::{ApiCounters, Record};
use dataplane::relay::session::{CONTROL_FRAME_MAX, Facts, LegState, LegView};
use dataplane::relay::{Ending, Keys, Leg, Session, Totals};
use proto::snapshot::SessionOptions;

use crate::kit::Random;
use crate::network::{Found, Socket};

pub struct Engine {
    pub session: Session,
    pub options: SessionOptions,
    pub due_ms: u64,
    /// Payload bytes that the session was only told of.
    pub unseen_bytes: u64,
    /// How often something that waited was looked at again.
    pub resumed: u64,
    /// Bytes of peers that had gone and of whom nothing passed for too long.
    pub given_up: [u64; 2],
    splices: bool,
    counters: Arc<ApiCounters>,
    keys: Keys,
    wires: [Wire; 2],
}

#[derive(Default)]
struct Wire {
    dropped: bool,
    backlog: Vec<u8>,
    ended: bool,
    shut: bool,
    broken: bool,
    given_bytes: u64,
    taken_bytes: u64,
}

impl Engine {
    pub fn new(session: Session, options: SessionOptions, keys: Keys, splices: bool, now_ms: u64) -> Self {
        let counters = Record::new(1, 1).shard(0).api("simulated", "");
        Self {
            session,
            options,
            due_ms: now_ms,
            unseen_bytes: 0,
            resumed: 0,
            given_up: [0; 2],
            splices,
            counters,
            keys,
            wires: Default::default(),
        }
    }

    /// The first thing that began the end, and what passed; once both connections are dropped.
    pub fn outcome(&self) -> Option<(Ending, [Totals; 2])> {
        let over = self.wires.iter().all(|wire| wire.dropped);
        over.then(|| {
            let ending = self.session.ending().expect("a session that is over has ended for a reason");
            (ending, Leg::BOTH.map(|leg| self.session.totals(leg)))
        })
    }

    /// Whether the kernel would have something to tell about this leg.
    pub fn has_news(&self, leg: Leg, sockets: &[Socket; 2]) -> bool {
        let (wire, socket) = (&self.wires[leg as usize], &sockets[leg as usize]);
        let readable = self.may_read(leg) && !wire.ended && socket.to_gateway.has_news();
        !wire.dropped && (readable || (!wire.backlog.is_empty() && socket.from_gateway.has_room()))
    }

    fn may_read(&self, from: Leg) -> bool {
        !self.wires[from as usize].dropped && self.may_send(from.other()) && !self.session.keeps(from)
    }

    fn may_send(&self, to: Leg) -> bool {
        let wire = &self.wires[to as usize];
        wire.backlog.is_empty() || wire.dropped
    }

    /// The kernel has something to tell about this leg.
    pub fn wake(&mut self, leg: Leg, sockets: &mut [Socket; 2], now_ms: u64, random: &mut Random) {
        self.flush(leg, sockets, now_ms);
        if self.may_read(leg) && !self.wires[leg as usize].ended {
            self.read(leg, sockets, now_ms, random);
        }
        self.settle(sockets, now_ms);
    }

    fn read(&mut self, from: Leg, sockets: &mut [Socket; 2], now_ms: u64, random: &mut Random) {
        let room = self.session.limits().send_budget.as_bytes() as usize;
        let most = if random.below(4) == 0 { 1 + random.below(40) } else { room };
        let unseen = if self.splices && random.below(2) == 0 { self.session.unseen(from) as usize } else { 0 };
        let most = most.min(room).min(if unseen > 0 { unseen } else { usize::MAX });
        match sockets[from as usize].to_gateway.read(most) {
            Found::Nothing => {}
            Found::Bytes(bytes) if unseen > 0 => self.pass(from, &bytes, sockets, now_ms),
            Found::Bytes(bytes) => self.process(from, &bytes, sockets, now_ms),
            Found::End => {
                self.wires[from as usize].ended = true;
                self.over(from, sockets, now_ms);
            }
            Found::Torn => self.lost(from, sockets, now_ms),
        }
    }

    /// Nothing more comes from this leg's peer. What it said before may wait: then it is over behind that.
    fn over(&mut self, from: Leg, sockets: &mut [Socket; 2], now_ms: u64) {
        let broken = self.wires[from as usize].broken;
        self.with_facts(now_ms, |session, facts| match broken {
            _ if session.outlives(from, true, facts) => {}
            true => session.lost(from, facts),
            false => session.end_of_stream(from, facts),
        });
        self.drain(from.other(), sockets, now_ms);
    }

    /// What waited for room is looked at again when its time has come and the other side takes what passes of it.
    fn resume(&mut self, from: Leg, sockets: &mut [Socket; 2], now_ms: u64) {
        if !self.session.keeps(from) || self.resumes_ms(from) > now_ms {
            return;
        }
        if self.session.stash(from).is_some_and(|stash| stash.gives_up_ms() <= now_ms) {
            self.given_up[from as usize] += self.session.forget_stash(from) as u64;
            self.wires[from as usize].ended = true;
            return self.over(from, sockets, now_ms);
        }
        let Some(mut rest) = self.session.resume(from) else { return };
        self.resumed += 1;
        let passed = self.walk(from, &mut rest.bytes[rest.at..], sockets, now_ms);
        rest.at += passed;
        let is_last = self.session.stash(from).is_some_and(|stash| stash.is_last);
        self.with_facts(now_ms, |session, facts| session.resumed(from, rest, passed > 0, facts));
        if is_last && !self.session.keeps(from) {
            self.over(from, sockets, now_ms);
        }
    }

    fn resumes_ms(&mut self, from: Leg) -> u64 {
        let room_ms = if self.may_send(from.other()) { self.session.resumes_ms(from) } else { u64::MAX };
        room_ms.min(self.session.stash(from).map_or(u64::MAX, |stash| stash.gives_up_ms()))
    }

    /// Payload goes from the one socket to the other, and the session is told how much.
    fn pass(&mut self, from: Leg, bytes: &[u8], sockets: &mut [Socket; 2], now_ms: u64) {
        self.unseen_bytes += bytes.len() as u64;
        self.with_facts(now_ms, |session, facts| session.pass_unseen(from, bytes.len() as u64, facts));
        self.send(from.other(), bytes, sockets, now_ms);
        self.drain(from.other(), sockets, now_ms);
        self.drain(from, sockets, now_ms);
    }

    fn process(&mut self, from: Leg, bytes: &[u8], sockets: &mut [Socket; 2], now_ms: u64) {
        let mut buffer = vec![0; CONTROL_FRAME_MAX];
        buffer.extend_from_slice(bytes);
        let held = self.session.take_held(from, &mut buffer[..CONTROL_FRAME_MAX]);
        assert!(held < CONTROL_FRAME_MAX, "what is held is less than the longest control frame");
        let bytes = &mut buffer[CONTROL_FRAME_MAX - held..];
        let taken = self.walk(from, bytes, sockets, now_ms);
        if taken < bytes.len() {
            self.session.keep(from, &bytes[taken..]);
        }
    }

    fn walk(&mut self, from: Leg, buffer: &mut [u8], sockets: &mut [Socket; 2], now_ms: u64) -> usize {
        let to = from.other();
        let mut at = 0;
        while at < buffer.len() && !self.session.waits(from) {
            let step = self.with_facts(now_ms, |session, facts| session.receive(from, &mut buffer[at..], facts));
            let is_progress = 0 < step.consumed || self.session.waits(from);
            assert!(is_progress && step.send <= step.consumed && step.consumed <= buffer.len() - at, "{step:?}");
            let sent: Vec<u8> = buffer[at..at + step.send].to_vec();
            self.send(to, &sent, sockets, now_ms);
            self.drain(to, sockets, now_ms);
            self.drain(from, sockets, now_ms);
            at += step.consumed;
        }
        at
    }

    /// Looks at the clock.
    pub fn tick(&mut self, sockets: &mut [Socket; 2], now_ms: u64) {
        let views = self.views(sockets);
        let due_ms = self.with_facts(now_ms, |session, facts| session.tick(views, facts));
        for leg in Leg::BOTH {
            self.drain(leg, sockets, now_ms);
        }
        match due_ms {
            None => Leg::BOTH.into_iter().for_each(|leg| self.drop_leg(leg, sockets)),
            Some(due_ms) => {
                assert!(due_ms > now_ms, "a look at the clock asks for another in the future");
                self.due_ms = due_ms;
            }
        }
        self.settle(sockets, now_ms);
    }

    /// The configuration changes underneath.
    pub fn change(&mut self, sockets: &mut [Socket; 2], now_ms: u64, change: impl FnOnce(&mut Session)) {
        change(&mut self.session);
        self.tick(sockets, now_ms);
    }

    fn with_facts<T>(&mut self, now_ms: u64, work: impl FnOnce(&mut Session, &mut Facts<'_>) -> T) -> T {
        let mut facts = Facts { now_ms, options: &self.options, counters: &self.counters, keys: &mut self.keys };
        work(&mut self.session, &mut facts)
    }

    fn lost(&mut self, leg: Leg, sockets: &mut [Socket; 2], now_ms: u64) {
        self.wires[leg as usize].ended = true;
        self.broke(leg, sockets, now_ms);
    }

    fn drain(&mut self, to: Leg, sockets: &mut [Socket; 2], now_ms: u64) {
        while self.session.has_output(to) {
            let clogged = !self.wires[to as usize].backlog.is_empty();
            let frame = self.with_facts(now_ms, |session, facts| session.output(to, clogged, facts));
            let Some(frame) = frame else { return };
            self.send(to, frame.as_bytes(), sockets, now_ms);
        }
    }

    fn send(&mut self, to: Leg, bytes: &[u8], sockets: &mut [Socket; 2], now_ms: u64) {
        let wire = &mut self.wires[to as usize];
        if wire.dropped || wire.broken || bytes.is_empty() {
            return;
        }
        wire.given_bytes += bytes.len() as u64;
        let mut sent = 0;
        if wire.backlog.is_empty() {
            match sockets[to as usize].from_gateway.write(bytes) {
                Ok(taken) => sent = taken,
                Err(_) => return self.broke(to, sockets, now_ms),
            }
        }
        wire.backlog.extend_from_slice(&bytes[sent..]);
        let budget = self.session.limits().send_budget.as_bytes() as usize;
        assert!(wire.backlog.len() <= budget + 4 * CONTROL_FRAME_MAX, "the send budget holds");
    }

    fn flush(&mut self, to: Leg, sockets: &mut [Socket; 2], now_ms: u64) {
        let wire = &mut self.wires[to as usize];
        if wire.dropped || wire.backlog.is_empty() {
            return;
        }
        match sockets[to as usize].from_gateway.write(&wire.backlog) {
            Ok(sent) => drop(wire.backlog.drain(..sent)),
            Err(_) => return self.broke(to, sockets, now_ms),
        }
        if wire.backlog.is_empty() {
            self.drain(to, sockets, now_ms);
        }
    }

    fn broke(&mut self, leg: Leg, sockets: &mut [Socket; 2], now_ms: u64) {
        let wire = &mut self.wires[leg as usize];
        wire.broken = true;
        wire.backlog.clear();
        if wire.ended {
            self.over(leg, sockets, now_ms);
        }
    }

    fn views(&mut self, sockets: &[Socket; 2]) -> [LegView; 2] {
        let clogged = [0, 1].map(|leg| !self.wires[leg].backlog.is_empty());
        [0, 1].map(|leg: usize| {
            let wire = &mut self.wires[leg];
            let waiting = (wire.backlog.len() + sockets[leg].from_gateway.len()) as u64;
            let taken_bytes = wire.given_bytes.saturating_sub(waiting);
            let before = std::mem::replace(&mut wire.taken_bytes, taken_bytes);
            let unread = clogged[1 - leg] || self.session.keeps(Leg::BOTH[leg]);
            LegView { unread, clogged: clogged[leg], draining: waiting > 0 && taken_bytes > before }
        })
    }

    fn settle(&mut self, sockets: &mut [Socket; 2], now_ms: u64) {
        for leg in Leg::BOTH {
            self.resume(leg, sockets, now_ms);
        }
        for leg in Leg::BOTH {
            let wire = &mut self.wires[leg as usize];
            let sent = wire.backlog.is_empty();
            match self.session.leg(leg) {
                _ if wire.dropped => {}
                LegState::Severed if !sent => {}
                LegState::Severed | LegState::Gone => self.drop_leg(leg, sockets),
                LegState::Finished if sent && wire.ended => self.drop_leg(leg, sockets),
                LegState::Finished if sent && leg == Leg::Client && !wire.shut => {
                    wire.shut = true;
                    sockets[leg as usize].from_gateway.end();
                }
                LegState::Finished | LegState::Open => {}
            }
        }
        for leg in Leg::BOTH {
            if self.session.keeps(leg) {
                self.due_ms = self.due_ms.min(self.resumes_ms(leg).max(now_ms + 1));
            }
        }
        if let Some(close_by_ms) = self.session.close_by_ms() {
            self.due_ms = self.due_ms.min(close_by_ms);
        }
    }

    fn drop_leg(&mut self, leg: Leg, sockets: &mut [Socket; 2]) {
        let wire = &mut self.wires[leg as usize];
        if !std::mem::replace(&mut wire.dropped, true) {
            wire.backlog.clear();
            self.session.forget_stash(leg);
            sockets[leg as usize].drop_by_gateway();
        }
    }
}
