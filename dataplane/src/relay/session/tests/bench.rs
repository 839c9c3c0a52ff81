//! A session on a bench: bytes go in at either leg, what each peer is sent is read back as words.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use proto::snapshot::{MessageLimits, SessionOptions, Size};
use proto::ws::{FrameHeader, Opcode, Parse, Sender, frame, mask};

use crate::bridge::BridgeCounts;
use crate::health::Health;
use crate::record::{ApiCounters, Log, LogTarget, Record, render};
use crate::relay::Keys;
use crate::relay::session::{Birth, CONTROL_FRAME_MAX, Facts, Leg, LegView, Session};

/// The key of every client frame that has no other.
pub const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// The time at which every session begins.
pub const BEGIN_MS: u64 = 1_000_000;

pub struct Bench {
    pub session: Session,
    pub options: SessionOptions,
    pub now_ms: u64,
    pub clogged: [bool; 2],
    record: Record,
    counters: Arc<ApiCounters>,
    keys: Keys,
    sent: [Vec<u8>; 2],
    /// Keys of the frames that the endpoint was sent.
    pub keys_seen: Vec<[u8; 4]>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_, _, _| {})
    }

    pub fn with(change: impl FnOnce(&mut SessionOptions, &mut MessageLimits, &mut Birth)) -> Self {
        let mut options = SessionOptions::default();
        let mut limits = MessageLimits::default();
        let mut birth = Birth::new(Arc::new(limits.clone()), BEGIN_MS);
        change(&mut options, &mut limits, &mut birth);
        birth.limits = Arc::new(limits);
        let record = Record::new(1, 10);
        let counters = record.shard(0).api("chat", "v1");
        Self {
            session: Session::new(birth),
            options,
            now_ms: BEGIN_MS,
            clogged: [false; 2],
            record,
            counters,
            keys: Keys::new(|octets| {
                octets.iter_mut().enumerate().for_each(|(at, octet)| *octet = (at * 7 + at / 37) as u8 | 1)
            }),
            sent: Default::default(),
            keys_seen: Vec::new(),
        }
    }

    pub fn facts<T>(&mut self, work: impl FnOnce(&mut Session, &mut Facts<'_>) -> T) -> T {
        let mut facts =
            Facts { now_ms: self.now_ms, options: &self.options, counters: &self.counters, keys: &mut self.keys };
        work(&mut self.session, &mut facts)
    }

    /// One read from a leg, dealt with as the module's example says.
    pub fn feed(&mut self, from: Leg, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let mut buffer = vec![0; CONTROL_FRAME_MAX + bytes.len()];
        buffer[CONTROL_FRAME_MAX..].copy_from_slice(bytes);
        let held = self.session.take_held(from, &mut buffer[..CONTROL_FRAME_MAX]);
        let bytes = &mut buffer[CONTROL_FRAME_MAX - held..];
        let taken = self.walk(from, bytes);
        if taken < bytes.len() {
            self.session.keep(from, &bytes[taken..]);
        }
    }

    fn walk(&mut self, from: Leg, buffer: &mut [u8]) -> usize {
        let mut at = 0;
        while at < buffer.len() && !self.session.waits(from) {
            let step = self.facts(|session, facts| session.receive(from, &mut buffer[at..], facts));
            let is_progress = step.consumed > 0 || self.session.waits(from);
            assert!(step.send <= step.consumed && is_progress, "{step:?}");
            self.sent[from.other() as usize].extend_from_slice(&buffer[at..at + step.send]);
            self.drain();
            at += step.consumed;
        }
        at
    }

    /// Looks again at what waits, as an engine does when its time has come. When that is again, from the beginning.
    pub fn resume(&mut self, from: Leg) -> Option<u64> {
        if self.session.resumes_ms(from) <= self.now_ms
            && let Some(mut rest) = self.session.resume(from)
        {
            let passed = self.walk(from, &mut rest.bytes[rest.at..]);
            rest.at += passed;
            self.facts(|session, facts| session.resumed(from, rest, passed > 0, facts));
        }
        Some(self.session.resumes_ms(from)).filter(|at_ms| *at_ms != u64::MAX).map(|at_ms| at_ms - BEGIN_MS)
    }

    /// Payload that an engine moves past user memory.
    pub fn pass_unseen(&mut self, from: Leg, bytes: &[u8]) {
        self.facts(|session, facts| session.pass_unseen(from, bytes.len() as u64, facts));
        self.sent[from.other() as usize].extend_from_slice(bytes);
        self.drain();
    }

    /// Several reads of one byte.
    pub fn trickle(&mut self, from: Leg, bytes: impl AsRef<[u8]>) {
        bytes.as_ref().iter().for_each(|byte| self.feed(from, [*byte]));
    }

    pub fn drain(&mut self) {
        for leg in Leg::BOTH {
            let clogged = self.clogged[leg as usize];
            while let Some(frame) = self.facts(|session, facts| session.output(leg, clogged, facts)) {
                self.sent[leg as usize].extend_from_slice(frame.as_bytes());
            }
        }
    }

    pub fn lose(&mut self, leg: Leg) {
        self.facts(|session, facts| session.lost(leg, facts));
        self.drain();
    }

    pub fn end_of_stream(&mut self, leg: Leg) {
        self.facts(|session, facts| session.end_of_stream(leg, facts));
        self.drain();
    }

    /// Time passes, and the session is looked at. When it wants to be looked at again, from the beginning.
    pub fn after(&mut self, ms: u64) -> Option<u64> {
        self.after_seen(ms, [LegView::default(); 2])
    }

    pub fn after_seen(&mut self, ms: u64, views: [LegView; 2]) -> Option<u64> {
        self.now_ms += ms;
        let due_ms = self.facts(|session, facts| session.tick(views, facts));
        self.drain();
        due_ms.map(|due_ms| due_ms.saturating_sub(BEGIN_MS))
    }

    pub fn adopt(&mut self, change: impl FnOnce(&mut MessageLimits)) {
        let mut limits = MessageLimits::clone(self.session.limits());
        change(&mut limits);
        self.session.adopt_limits(&Arc::new(limits));
    }

    /// What a leg was sent since the last look, a word for each frame; the last may be a part of one.
    #[track_caller]
    pub fn saw(&mut self, leg: Leg) -> Vec<String> {
        let bytes = std::mem::take(&mut self.sent[leg as usize]);
        let sender = if leg == Leg::Client { Sender::Server } else { Sender::Client };
        let (mut at, mut words) = (0, Vec::new());
        while at < bytes.len() {
            let parsed = frame::parse(&bytes[at..], sender, true).expect("what is sent keeps the rules");
            let Parse::Complete(header, length) = parsed else { panic!("a part of a header was sent: {words:?}") };
            self.keys_seen.extend(header.mask);
            let mut payload = bytes[at + length..].to_vec();
            at += length + payload.len().min(header.length as usize);
            if payload.len() < header.length as usize {
                words.push(format!("{} of {}", payload.len(), header.length));
                continue;
            }
            payload.truncate(header.length as usize);
            mask::apply(&mut payload, header.mask.unwrap_or_default(), 0);
            words.push(word(&header, &payload));
        }
        words
    }

    #[track_caller]
    pub fn assert_saw(&mut self, leg: Leg, words: &[&str]) {
        assert_eq!(self.saw(leg), words, "what the {leg:?} saw");
    }

    /// The raw bytes that a leg was sent since the last look.
    pub fn raw(&mut self, leg: Leg) -> Vec<u8> {
        std::mem::take(&mut self.sent[leg as usize])
    }

    /// The value of a metric whose labels contain these.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let fits = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
        self.metrics().lines().filter(fits).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// All metrics, as an operator reads them.
    pub fn metrics(&self) -> String {
        let now = Instant::now();
        let (log, _) = Log::open(LogTarget::Off).unwrap();
        let health = Health::new(now, SystemTime::now());
        render(&self.record, &health, &log, &BridgeCounts::default(), now)
    }
}

fn word(header: &FrameHeader, payload: &[u8]) -> String {
    let name = match header.opcode {
        Opcode::Continuation => "more",
        Opcode::Text => "text",
        Opcode::Binary => "binary",
        Opcode::Close => "close",
        Opcode::Ping => "ping",
        Opcode::Pong => "pong",
    };
    let dots = if header.fin { "" } else { "..." };
    match payload {
        [high, low, reason @ ..] if header.opcode == Opcode::Close => {
            format!("close {} {}", u16::from_be_bytes([*high, *low]), reason.escape_ascii())
        }
        payload if payload.len() > 40 => format!("{name}{dots} {} bytes", payload.len()),
        payload => format!("{name}{dots} {}", payload.escape_ascii()),
    }
    .trim_end()
    .to_owned()
}

/// A frame as this leg's peer sends it, the client under [`KEY`].
pub fn of(leg: Leg, opcode: Opcode, fin: bool, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let key = (leg == Leg::Client).then_some(KEY);
    keyed(key, opcode, fin, payload)
}

pub fn keyed(key: Option<[u8; 4]>, opcode: Opcode, fin: bool, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let mut payload = payload.as_ref().to_vec();
    let header = FrameHeader { fin, rsv1: false, opcode, mask: key, length: payload.len() as u64 };
    let (bytes, length) = header.encode();
    mask::apply(&mut payload, key.unwrap_or_default(), 0);
    [&bytes[..length], &payload].concat()
}

/// A client's frame under a key of its own.
pub fn under(key: u8, opcode: Opcode, payload: impl AsRef<[u8]>) -> Vec<u8> {
    keyed(Some([key, 1, 2, 3]), opcode, true, payload)
}

pub fn text(leg: Leg, payload: &str) -> Vec<u8> {
    of(leg, Opcode::Text, true, payload)
}

pub fn close(leg: Leg, code: u16, reason: &str) -> Vec<u8> {
    of(leg, Opcode::Close, true, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

pub fn size(bytes: u64) -> Size {
    Size::from_bytes(bytes)
}
