//! A session under a list of operations: whatever peers and engine do, what it sends keeps RFC 6455, it holds no more
//! than a control frame, the first reason of its end stays, and time does not stand still.

use std::cell::Cell;
use std::sync::Arc;

use dataplane::record::{ApiCounters, Cause, Record};
use dataplane::relay::session::{CONTROL_FRAME_MAX, Facts, LegState, LegView};
use dataplane::relay::{Birth, Ending, Keys, Leg, Session};
use proto::snapshot::{Duration, IdleBy, MessageLimits, PeerPings, SessionOptions, Size};
use proto::ws::{CloseCode, ClosePayload, FrameHeader, Opcode, Parse, Sender, frame, mask};

/// First two bytes: the options. The rest: operations, a byte each, with their arguments behind them.
pub fn run(bytes: &[u8]) {
    let [choices, more, operations @ ..] = bytes else { return };
    let mut bench = Bench::new(*choices, *more);
    let mut rest = operations;
    while let Some(operation) = take(&mut rest) {
        bench.operate(operation, &mut rest);
        bench.check();
        if bench.over {
            return;
        }
    }
}

fn take(rest: &mut &[u8]) -> Option<u8> {
    let (&first, after) = rest.split_first()?;
    *rest = after;
    Some(first)
}

fn argument(rest: &mut &[u8]) -> u8 {
    take(rest).unwrap_or(0)
}

fn take_many<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, after) = rest.split_at(count.min(rest.len()));
    *rest = after;
    taken
}

struct Bench {
    session: Session,
    options: SessionOptions,
    counters: Arc<ApiCounters>,
    keys: Keys,
    now_ms: u64,
    clogged: [bool; 2],
    wires: [Wire; 2],
    ending: Option<Ending>,
    over: bool,
}

impl Bench {
    fn new(choices: u8, more: u8) -> Self {
        let chosen = |bit: u8| choices & (1 << bit) != 0;
        let mut limits = MessageLimits::default();
        if chosen(5) {
            (limits.max_frame, limits.max_message) = (Size::from_bytes(100), Size::from_bytes(150));
            (limits.max_fragments, limits.control_frames_per_second) = (4, 8);
        }
        let mut options = SessionOptions {
            peer_pings: if chosen(0) { PeerPings::Answer } else { PeerPings::Forward },
            validate_utf8: chosen(1),
            idle_by: if chosen(4) { IdleBy::Frame } else { IdleBy::Data },
            idle_timeout: Duration::from_ms(u64::from(more) * 100),
            ..SessionOptions::default()
        };
        if chosen(6) {
            options.ping.upstream.interval = Duration::from_secs(1);
            options.ping.client.interval = Duration::from_secs(2);
        }
        let expires_ms = if chosen(7) { 20_000 } else { u64::MAX };
        let birth = Birth {
            limits: Arc::new(limits),
            rsv1: chosen(2),
            contexts: false,
            guard: None,
            fresh_mask: chosen(3),
            expires_ms,
            now_ms: 1,
        };
        KEY.set(0);
        Self {
            session: Session::new(birth),
            options,
            counters: Record::new(1, 1).shard(0).api("fuzzed", ""),
            keys: Keys::new(count_up),
            now_ms: 1,
            clogged: [false; 2],
            wires: Leg::BOTH.map(|leg| Wire::new(leg, chosen(2))),
            ending: None,
            over: false,
        }
    }

    fn facts<T>(&mut self, work: impl FnOnce(&mut Session, &mut Facts<'_>) -> T) -> T {
        let mut facts =
            Facts { now_ms: self.now_ms, options: &self.options, counters: &self.counters, keys: &mut self.keys };
        work(&mut self.session, &mut facts)
    }

    fn operate(&mut self, operation: u8, rest: &mut &[u8]) {
        let leg = Leg::BOTH[usize::from(operation & 1)];
        match operation >> 1 & 0x0f {
            0..=2 => {
                let count = usize::from(argument(rest)) + 1;
                let bytes = take_many(rest, count).to_vec();
                self.read(leg, &bytes);
            }
            3..=8 => {
                let bytes = well_formed(leg, rest);
                self.read(leg, &bytes);
            }
            9 => {
                let bytes = well_formed(leg, rest);
                let cut = usize::from(argument(rest)).min(bytes.len());
                self.read(leg, &bytes[..cut]);
                self.read(leg, &bytes[cut..]);
            }
            10 => self.tick(rest),
            11 => self.clogged[leg as usize] = argument(rest) & 1 != 0,
            12 => self.facts(|session, facts| session.end_of_stream(leg, facts)),
            13 => self.facts(|session, facts| session.lost(leg, facts)),
            14 => {
                let size = Size::from_bytes(argument(rest).into());
                let limits = MessageLimits { max_frame: size, max_message: size, ..MessageLimits::default() };
                self.session.adopt_limits(&Arc::new(limits));
            }
            _ if operation & 1 == 0 => self.session.drain_at(self.now_ms + u64::from(argument(rest)), Cause::Drain),
            _ => self.facts(|session, facts| session.close(CloseCode::POLICY, Cause::Unpublished, "closed", facts)),
        }
        self.drain();
    }

    fn read(&mut self, from: Leg, bytes: &[u8]) {
        if bytes.is_empty() || self.session.leg(from) == LegState::Gone {
            return;
        }
        let mut buffer = vec![0; CONTROL_FRAME_MAX];
        buffer.extend_from_slice(bytes);
        let held = self.session.take_held(from, &mut buffer[..CONTROL_FRAME_MAX]);
        assert!(held < CONTROL_FRAME_MAX);
        let mut at = CONTROL_FRAME_MAX - held;
        while at < buffer.len() {
            let step = self.facts(|session, facts| session.receive(from, &mut buffer[at..], facts));
            assert!(0 < step.consumed && step.send <= step.consumed && step.consumed <= buffer.len() - at);
            self.wires[from.other() as usize].sent(&buffer[at..at + step.send]);
            self.drain();
            at += step.consumed;
        }
    }

    fn tick(&mut self, rest: &mut &[u8]) {
        self.now_ms += u64::from(argument(rest)) * 16;
        let seen = argument(rest);
        let views = [0, 1].map(|leg: usize| LegView {
            unread: self.clogged[1 - leg],
            clogged: self.clogged[leg],
            draining: seen & (1 << leg) != 0,
        });
        match self.facts(|session, facts| session.tick(views, facts)) {
            Some(due_ms) => assert!(due_ms > self.now_ms),
            None => self.over = true,
        }
    }

    fn drain(&mut self) {
        for leg in Leg::BOTH {
            let clogged = self.clogged[leg as usize];
            while let Some(frame) = self.facts(|session, facts| session.output(leg, clogged, facts)) {
                self.wires[leg as usize].sent(frame.as_bytes());
            }
        }
    }

    fn check(&mut self) {
        if self.ending.is_some() {
            assert_eq!(self.session.ending(), self.ending, "the first reason stays");
        }
        self.ending = self.session.ending();
        for leg in Leg::BOTH {
            let wire = &self.wires[leg as usize];
            if self.session.leg(leg) == LegState::Finished {
                assert!(wire.closed, "nobody is finished without a close frame");
            }
            assert!(!wire.closed || self.ending.is_some());
        }
    }
}

thread_local! {
    static KEY: Cell<u32> = const { Cell::new(0) };
}

/// Octets of which no four are zero or come again soon.
fn count_up(octets: &mut [u8]) {
    for four in octets.chunks_mut(4) {
        KEY.set(KEY.get().wrapping_add(0x0101_0103));
        four.copy_from_slice(&KEY.get().to_le_bytes()[..four.len()]);
    }
}

/// A frame with a header that fits its payload, from a first byte, a key and a length.
fn well_formed(leg: Leg, rest: &mut &[u8]) -> Vec<u8> {
    let (first, key, length) = (argument(rest), argument(rest), argument(rest));
    let length = if length == 255 { 300 } else { usize::from(length) };
    let mut payload = take_many(rest, length).to_vec();
    let mask = (leg == Leg::Client).then_some([key, key, 0, key]);
    let header = FrameHeader { fin: true, rsv1: false, opcode: Opcode::Text, mask, length: payload.len() as u64 };
    let (mut bytes, end) = header.encode();
    bytes[0] = first;
    mask::apply(&mut payload, mask.unwrap_or_default(), 0);
    [&bytes[..end], &payload].concat()
}

/// What a leg was sent, judged as it comes.
struct Wire {
    leg: Leg,
    rsv1: bool,
    start: Vec<u8>,
    remaining: u64,
    in_message: bool,
    closed: bool,
    last_key: Option<[u8; 4]>,
}

impl Wire {
    fn new(leg: Leg, rsv1: bool) -> Self {
        let (start, last_key) = (Vec::new(), None);
        Self { leg, rsv1, start, remaining: 0, in_message: false, closed: false, last_key }
    }

    fn sent(&mut self, bytes: &[u8]) {
        assert!(bytes.is_empty() || !self.closed, "nothing follows a close frame");
        let mut bytes = bytes;
        while !bytes.is_empty() {
            if self.remaining > 0 {
                let passed = bytes.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
                self.remaining -= passed as u64;
                bytes = &bytes[passed..];
            } else {
                self.start.push(bytes[0]);
                bytes = &bytes[1..];
                self.header();
            }
        }
        assert!(self.start.is_empty(), "headers and control frames are sent whole");
    }

    fn header(&mut self) {
        let sender = if self.leg == Leg::Client { Sender::Server } else { Sender::Client };
        let parsed = frame::parse(&self.start, sender, self.rsv1).expect("what is sent keeps the rules");
        let Parse::Complete(header, length) = parsed else { return };
        if header.opcode.is_control() {
            if self.start.len() < length + header.length as usize {
                return;
            }
            self.control(&header, length);
        } else {
            assert_eq!(header.opcode == Opcode::Continuation, self.in_message, "fragments follow each other");
            self.in_message = !header.fin;
            self.remaining = header.length;
        }
        if let Some(key) = header.mask {
            assert!(key != [0; 4] && self.last_key.replace(key) != Some(key), "keys cannot be predicted");
        }
        self.start.clear();
    }

    fn control(&mut self, header: &FrameHeader, at: usize) {
        if header.opcode == Opcode::Close {
            let mut payload = self.start[at..].to_vec();
            mask::apply(&mut payload, header.mask.unwrap_or_default(), 0);
            ClosePayload::parse(&payload).expect("a close frame says what may be said");
            self.closed = true;
        }
    }
}
