//! A session under a list of operations: whatever peers and engine do, and however it is limited, what it sends keeps
//! RFC 6455 and is a sequence of whole messages of those that it was sent, it holds no more than a control frame, the first
//! reason of its end stays, and time does not stand still.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use dataplane::record::{ApiCounters, Cause, Record};
use dataplane::relay::session::{CONTROL_FRAME_MAX, Facts, LegState, LegView};
use dataplane::relay::{Birth, Ending, Keys, Leg, Session};
use dataplane::throttle::{Compiled, Guard, Held, Level, LevelKind, Metered, WallOffset};
use proto::snapshot::{
    Amount, Counted, Duration, IdleBy, Limit, MessageLimits, Notice, OnLimit, Outcome, PeerPings, Plan, Quota, Rate,
    SessionOptions, Size, Unit,
};
use proto::throttle::{Meter, Window, WindowUnit};
use proto::ws::{CloseCode, ClosePayload, FrameHeader, Opcode, Parse, Sender, Violation, frame, mask};

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
    wall: Rc<WallOffset>,
    /// What each peer has sent, and what it sent that is not read yet because something of it waits.
    spoken: [Reader; 2],
    unread: [Vec<u8>; 2],
    /// Nothing more comes from a peer; nothing is taken by it either.
    ended: [bool; 2],
    broken: [bool; 2],
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
            contexts: chosen(2) && more & 1 == 1,
            guard: None,
            fresh_mask: chosen(3),
            expires_ms,
            now_ms: 1,
        };
        KEY.set(0);
        let contexts = birth.contexts;
        let wall = Rc::new(WallOffset::default());
        wall.set(1, WALL_MS);
        Self {
            wall,
            spoken: Leg::BOTH.map(|leg| Reader::new(sender(leg), chosen(2))),
            unread: [Vec::new(), Vec::new()],
            ended: [false; 2],
            broken: [false; 2],
            session: Session::new(birth),
            options,
            counters: Record::new(1, 1).shard(0).api("fuzzed", ""),
            keys: Keys::new(count_up),
            now_ms: 1,
            clogged: [false; 2],
            wires: Leg::BOTH.map(|leg| Wire::new(leg, chosen(2), contexts)),
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
            12 => self.end(leg),
            13 => {
                self.broken[leg as usize] = true;
                self.end(leg);
            }
            14 if leg == Leg::Upstream => self.set_guard(rest),
            14 => {
                let size = Size::from_bytes(argument(rest).into());
                let limits = MessageLimits { max_frame: size, max_message: size, ..MessageLimits::default() };
                self.session.adopt_limits(&Arc::new(limits));
            }
            _ if operation & 1 == 0 => self.session.drain_at(self.now_ms + u64::from(argument(rest)), Cause::Drain),
            _ => self.facts(|session, facts| session.close(CloseCode::POLICY, Cause::Unpublished, "closed", facts)),
        }
        self.drain();
        self.settle();
        for leg in Leg::BOTH {
            self.resume(leg);
        }
        self.settle();
    }

    /// One read, unless nobody reads: the peer has ended, or something of it waits.
    fn read(&mut self, from: Leg, bytes: &[u8]) {
        if bytes.is_empty() || self.session.leg(from) == LegState::Gone || self.ended[from as usize] {
            return;
        }
        if self.session.keeps(from) {
            return self.unread[from as usize].extend_from_slice(bytes);
        }
        // Who breaks a rule says nothing more that counts.
        self.spoken[from as usize].read(bytes, |_, _| {}).ok();
        let mut buffer = vec![0; CONTROL_FRAME_MAX];
        buffer.extend_from_slice(bytes);
        let held = self.session.take_held(from, &mut buffer[..CONTROL_FRAME_MAX]);
        assert!(held < CONTROL_FRAME_MAX);
        let bytes = &mut buffer[CONTROL_FRAME_MAX - held..];
        let taken = self.walk(from, bytes);
        if taken < bytes.len() {
            self.session.keep(from, &bytes[taken..]);
        }
    }

    /// Has the session look at bytes as far as they may pass. Returns how many of them.
    fn walk(&mut self, from: Leg, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !self.session.waits(from) {
            let step = self.facts(|session, facts| session.receive(from, &mut bytes[at..], facts));
            assert!(0 < step.consumed || self.session.waits(from), "it goes on, or waits");
            assert!(step.send <= step.consumed && step.consumed <= bytes.len() - at);
            self.wires[from.other() as usize].sent(&bytes[at..at + step.send]);
            self.drain();
            at += step.consumed;
        }
        at
    }

    /// Looks again at what waits of a leg, if its time has come and the other leg takes what passes.
    fn resume(&mut self, leg: Leg) {
        for _ in 0..4 {
            let now_ms = self.now_ms;
            let gives_up_ms = self.session.stash(leg).map_or(u64::MAX, |stash| stash.gives_up_ms());
            if gives_up_ms <= now_ms {
                self.session.forget_stash(leg);
                return self.end(leg);
            }
            if self.clogged[leg.other() as usize] || self.session.resumes_ms(leg) > now_ms {
                return;
            }
            let Some(mut rest) = self.session.resume(leg) else { return };
            let passed = self.walk(leg, &mut rest.bytes[rest.at..]);
            rest.at += passed;
            let is_last = self.session.stash(leg).is_some_and(|stash| stash.is_last);
            self.facts(|session, facts| session.resumed(leg, rest, passed > 0, facts));
            if !self.session.keeps(leg) {
                if is_last {
                    self.end(leg);
                } else {
                    let unread = std::mem::take(&mut self.unread[leg as usize]);
                    self.read(leg, &unread);
                }
            }
        }
        assert!(self.session.resumes_ms(leg) > self.now_ms, "what waits waits for something");
    }

    /// Nothing more comes from this peer. What it said before may wait to be let through.
    fn end(&mut self, leg: Leg) {
        self.ended[leg as usize] = true;
        self.unread[leg as usize].clear();
        let is_broken = self.broken[leg as usize];
        self.facts(|session, facts| match is_broken {
            _ if session.outlives(leg, true, facts) => {}
            true => session.lost(leg, facts),
            false => session.end_of_stream(leg, facts),
        });
        self.drain();
    }

    /// Of a leg that is dropped nothing is kept.
    fn settle(&mut self) {
        for leg in Leg::BOTH {
            if matches!(self.session.leg(leg), LegState::Gone | LegState::Severed) {
                self.session.forget_stash(leg);
                self.unread[leg as usize].clear();
            }
        }
    }

    /// Other limits from the next message on: so many levels, three bytes each.
    fn set_guard(&mut self, rest: &mut &[u8]) {
        let levels: Vec<Level> =
            (0..argument(rest) % 4).map(|_| self.level([argument(rest), argument(rest), argument(rest)])).collect();
        let is_left_out = levels.iter().any(|level| level.plan.on_limit.action != Outcome::Delay);
        self.wires.iter_mut().for_each(|wire| wire.may_lack |= is_left_out);
        self.session.set_guard(Guard::new(levels, Rc::clone(&self.wall)).map(Box::new));
    }

    fn level(&self, [form, amount, more]: [u8; 3]) -> Level {
        let amount = u64::from(amount);
        let unit = if more & 1 == 0 { WindowUnit::Second } else { WindowUnit::Minute };
        let count = [Unit::Messages, Unit::Frames, Unit::Bytes, Unit::Bytes][usize::from(form >> 2 & 3)];
        let limit = Limit { count, stop: form & 0x80 == 0, ..Limit::default() };
        let limit = if form & 0x40 == 0 {
            let rate = Rate { amount: amount.max(1), per: Duration::from_ms(250) };
            Limit { rate: Some(rate), burst: Some(Amount(amount.max(1))), ..limit }
        } else {
            Limit { quota: Some(Quota { amount, window: Window::one(unit) }), ..limit }
        };
        let on_limit = OnLimit {
            action: [Outcome::Notify, Outcome::Drop, Outcome::Delay, Outcome::Close][usize::from(form & 3)],
            notice: [Notice::Wso2, Notice::Wso2Short, Notice::Json, Notice::Text(OWN_NOTICE.into())]
                [usize::from(more >> 1 & 3)]
            .clone(),
            close_after: u32::from(more >> 3 & 3),
            notices: u32::from(more >> 5),
            ..OnLimit::default()
        };
        let direction = [Counted::Both, Counted::Client, Counted::Server, Counted::Both][usize::from(form >> 4 & 3)];
        let plan = Compiled::of(&Plan { direction, on_limit, ..Plan::new("fuzzed", vec![limit]) });
        let now = self.wall.now(self.now_ms);
        let held = |terms| Rc::new(Held::new(Arc::new(Metered::new(Meter::new(terms, now))), (0, 1)));
        let meters = plan.limits.iter().map(|rule| held(rule.terms)).collect();
        Level { kind: LevelKind::Api, name: LevelKind::Api.word().into(), plan: Arc::new(plan), meters }
    }

    fn tick(&mut self, rest: &mut &[u8]) {
        self.now_ms += u64::from(argument(rest)) * 16;
        let seen = argument(rest);
        for leg in Leg::BOTH {
            // The kernel says that a peer has gone of whom something waits.
            if seen & (4 << leg as u8) != 0 {
                self.facts(|session, facts| session.outlives(leg, false, facts));
            }
        }
        let views = Leg::BOTH.map(|leg| LegView {
            unread: self.clogged[leg.other() as usize] || self.session.keeps(leg),
            clogged: self.clogged[leg as usize],
            draining: seen & (1 << leg as u8) != 0,
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
        if let Some(Ending { cause: Cause::Violation(violation), .. }) = self.ending
            && BREACHES_OF_FRAMING.contains(&violation)
        {
            let is_seen = self.spoken.iter().any(|reader| reader.broken == Some(violation));
            assert!(is_seen, "nobody's frames are {violation:?}: bytes were lost on their way to the session");
        }
        for leg in Leg::BOTH {
            self.wires[leg as usize].compare(&self.spoken[leg.other() as usize].messages);
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

/// The time at which everything begins.
const WALL_MS: u64 = 1_800_000_000_000;
/// A notice of an operator's own.
const OWN_NOTICE: &str = "too much at {level}, {retry_after_ms} ms";
/// What notices begin with.
const NOTICES: [&[u8]; 4] =
    [b"Error code: 4003 ", b"Websocket frame throttled out", b"{\"error\":", b"too much at api, "];

/// What is wrong with frames by themselves.
const BREACHES_OF_FRAMING: [Violation; 9] = [
    Violation::ReservedBit,
    Violation::ReservedOpcode,
    Violation::Unmasked,
    Violation::Masked,
    Violation::FragmentedControl,
    Violation::LongControl,
    Violation::BadLength,
    Violation::UnexpectedContinuation,
    Violation::ExpectedContinuation,
];

/// Who sends what is read from a leg.
fn sender(from: Leg) -> Sender {
    if from == Leg::Client { Sender::Client } else { Sender::Server }
}

/// A data message, as far as it has come.
#[derive(PartialEq, Eq, Debug)]
struct Message {
    opcode: Opcode,
    rsv1: bool,
    payload: Vec<u8>,
    whole: bool,
}

impl Message {
    /// Whether it is what has come of another so far, or all of it.
    fn is_of(&self, sent: &Self) -> bool {
        let is_like = self.opcode == sent.opcode && self.rsv1 == sent.rsv1 && self.whole <= sent.whole;
        is_like && if self.whole { self.payload == sent.payload } else { sent.payload.starts_with(&self.payload) }
    }

    fn is_notice(&self) -> bool {
        let is_text = self.opcode == Opcode::Text && !self.rsv1 && self.whole;
        is_text && NOTICES.iter().any(|notice| self.payload.starts_with(notice))
    }
}

/// A stream of frames, read as it comes.
struct Reader {
    sender: Sender,
    rsv1: bool,
    start: Vec<u8>,
    remaining: u64,
    key: [u8; 4],
    phase: usize,
    fin: bool,
    in_message: bool,
    broken: Option<Violation>,
    messages: Vec<Message>,
}

impl Reader {
    fn new(sender: Sender, rsv1: bool) -> Self {
        let (start, messages) = (Vec::new(), Vec::new());
        let (remaining, key, phase, fin, in_message, broken) = (0, [0; 4], 0, true, false, None);
        Self { sender, rsv1, start, remaining, key, phase, fin, in_message, broken, messages }
    }

    /// Shows every header, and what stands in a control frame.
    fn read(&mut self, mut bytes: &[u8], mut show: impl FnMut(&FrameHeader, &[u8])) -> Result<(), Violation> {
        while !bytes.is_empty() {
            if let Some(violation) = self.broken {
                return Err(violation);
            }
            if self.remaining > 0 {
                let passed = bytes.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
                self.payload(&bytes[..passed]);
                bytes = &bytes[passed..];
            } else {
                self.start.push(bytes[0]);
                bytes = &bytes[1..];
                self.broken = self.header(&mut show).err();
            }
        }
        self.broken.map_or(Ok(()), Err)
    }

    fn header(&mut self, show: &mut impl FnMut(&FrameHeader, &[u8])) -> Result<(), Violation> {
        let Parse::Complete(header, length) = frame::parse(&self.start, self.sender, self.rsv1)? else { return Ok(()) };
        let key = header.mask.unwrap_or_default();
        if header.opcode.is_control() {
            if self.start.len() < length + header.length as usize {
                return Ok(());
            }
            mask::apply(&mut self.start[length..], key, 0);
            show(&header, &self.start[length..]);
        } else {
            match (header.opcode == Opcode::Continuation, self.in_message) {
                (true, false) => return Err(Violation::UnexpectedContinuation),
                (false, true) => return Err(Violation::ExpectedContinuation),
                (true, true) => {}
                (false, false) => {
                    let Self { messages, .. } = self;
                    let (opcode, rsv1) = (header.opcode, header.rsv1);
                    messages.push(Message { opcode, rsv1, payload: Vec::new(), whole: false });
                }
            }
            show(&header, &[]);
            (self.in_message, self.fin, self.remaining) = (true, header.fin, header.length);
            (self.key, self.phase) = (key, 0);
            self.frame_end();
        }
        self.start.clear();
        Ok(())
    }

    fn payload(&mut self, bytes: &[u8]) {
        let message = self.messages.last_mut().expect("payload is of a message");
        let at = message.payload.len();
        message.payload.extend_from_slice(bytes);
        mask::apply(&mut message.payload[at..], self.key, self.phase);
        self.phase = (self.phase + bytes.len()) % 4;
        self.remaining -= bytes.len() as u64;
        self.frame_end();
    }

    fn frame_end(&mut self) {
        if self.remaining == 0 && self.fin {
            self.in_message = false;
            self.messages.last_mut().expect("a frame is of a message").whole = true;
        }
    }
}

/// What a leg was sent, judged as it comes.
struct Wire {
    leg: Leg,
    reader: Reader,
    closed: bool,
    last_key: Option<[u8; 4]>,
    /// Messages may have been left out, and the client been told.
    may_lack: bool,
    /// No compressed message may be left out before another that passes.
    contexts: bool,
    lacks_compressed: bool,
    /// Messages that have been compared, and how many of the other peer's were dealt with by then.
    compared: usize,
    dealt_with: usize,
}

impl Wire {
    fn new(leg: Leg, rsv1: bool, contexts: bool) -> Self {
        let reader = Reader::new(sender(leg.other()), rsv1);
        let (closed, last_key, may_lack, lacks_compressed, compared, dealt_with) = (false, None, false, false, 0, 0);
        Self { leg, reader, closed, last_key, may_lack, contexts, lacks_compressed, compared, dealt_with }
    }

    fn sent(&mut self, bytes: &[u8]) {
        assert!(bytes.is_empty() || !self.closed, "nothing follows a close frame");
        let (mut closed, mut last_key) = (self.closed, self.last_key);
        let read = self.reader.read(bytes, |header, payload| {
            assert!(!closed, "nothing follows a close frame");
            if header.opcode == Opcode::Close {
                ClosePayload::parse(payload).expect("a close frame says what may be said");
                closed = true;
            }
            if let Some(key) = header.mask {
                assert!(key != [0; 4] && last_key.replace(key) != Some(key), "keys cannot be predicted");
            }
        });
        read.expect("what is sent keeps the rules");
        assert!(self.reader.start.is_empty(), "headers and control frames are sent whole");
        (self.closed, self.last_key) = (closed, last_key);
    }

    /// What passed is what was sent: every message of it, or, where messages may be left out, whole ones and in their order.
    fn compare(&mut self, spoken: &[Message]) {
        while let Some(message) = self.reader.messages.get(self.compared) {
            let left = &spoken[self.dealt_with..];
            let is_next = left.first().is_some_and(|next| message.is_of(next));
            if !is_next && self.may_lack && self.leg == Leg::Client && message.is_notice() {
                self.compared += 1;
                continue;
            }
            let skipped = if self.may_lack { left.iter().position(|next| message.is_of(next)) } else { None };
            let skipped = if is_next { Some(0) } else { skipped };
            let skipped = skipped.unwrap_or_else(|| panic!("nobody said {message:?} to the {:?}", self.leg));
            let lacks_compressed = self.lacks_compressed || left[..skipped].iter().any(|next| next.rsv1);
            assert!(!(self.contexts && message.rsv1 && lacks_compressed), "it cannot be inflated");
            if !message.whole {
                break;
            }
            self.lacks_compressed = lacks_compressed;
            self.dealt_with += skipped + 1;
            self.compared += 1;
        }
    }
}
