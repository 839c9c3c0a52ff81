//! An established session as a value: which bytes pass, which stay, what the gateway says itself, and when it ends.
//!
//! Sans-IO. It sees every frame header of both directions and no payload that it does not have to; the engine moves the
//! bytes, and says when a leg is lost, clogged or not being read. Feed, drain, feed:
//!
//! ```text
//! let held = session.take_held(from, ..);          // the start of a frame that was not whole last time goes in front
//! while at < bytes.len() {
//!     let step = session.receive(from, &mut bytes[at..], facts);
//!     send(other, &bytes[at..at + step.send]);      // as it now stands: a key may have been replaced in place
//!     while let Some(frame) = session.output(other) { send(other, frame) }
//!     at += step.consumed;
//! }
//! while let Some(frame) = session.output(from) { send(from, frame) }
//! ```
//!
//! Payload that needs no look need not come here: where [`Session::unseen`] allows it, an engine may move so many bytes
//! past user memory and only say so ([`Session::pass_unseen`]).
//!
//! Budget per frame on the pass-through path: no allocation, no copy, one look at the header. Masking: client frames
//! keep the key their client chose (RFC 6455 §10.3 wants bytes on the wire that no script can choose: a browser's key
//! is unpredictable to its scripts, and nobody new learns it here); a key that is zero or repeated is replaced.

mod clock;
mod limits;
mod outbound;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use proto::limits::{CONTROL_PAYLOAD_MAX, FRAME_HEADER_MAX};
use proto::snapshot::{IdleBy, MessageLimits, Outcome, PeerPings, SessionOptions};
use proto::ws::utf8::Utf8;
use proto::ws::{CloseCode, ClosePayload, FrameHeader, Opcode, Parse, Sender, Violation, frame, mask};

use outbound::{CloseState, ControlPayload, Outbound, Ping};
pub use outbound::{ControlFrame, Said};

use super::keys::Keys;
use crate::record::{ApiCounters, Cause, Direction, Side};
use crate::throttle::{Guard, Stopped, Verdict};

/// Bytes of the longest control frame, and so of what a session may hold back.
pub const CONTROL_FRAME_MAX: usize = FRAME_HEADER_MAX + CONTROL_PAYLOAD_MAX;
/// Bytes of payload that are unmasked at a time for the UTF-8 check.
const UTF8_CHUNK_BYTES: usize = 4096;

/// One of the two connections of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leg {
    /// To the client; the gateway is the server.
    Client,
    /// To the endpoint; the gateway is the client.
    Upstream,
}

impl Leg {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Upstream];

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }

    /// What flows when this leg sends.
    const fn direction(self) -> Direction {
        match self {
            Self::Client => Direction::ToUpstream,
            Self::Upstream => Direction::ToClient,
        }
    }

    const fn side(self) -> Side {
        match self {
            Self::Client => Side::Client,
            Self::Upstream => Side::Upstream,
        }
    }

    const fn sender(self) -> Sender {
        match self {
            Self::Client => Sender::Client,
            Self::Upstream => Sender::Server,
        }
    }
}

/// What the session is told with every call.
pub struct Facts<'a> {
    /// Milliseconds on the worker's clock.
    pub now_ms: u64,
    /// The options under which the session was admitted.
    pub options: &'a SessionOptions,
    /// Where frames are counted.
    pub counters: &'a ApiCounters,
    /// Where fresh masking keys come from.
    pub keys: &'a mut Keys,
}

/// What became of the bytes that were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The first so many go to the other leg as they now stand.
    pub send: usize,
    /// So many have been dealt with; at least `send`. The rest is given again, after the output has been drained.
    pub consumed: usize,
}

/// How a session ended: the first thing that began its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Close code: the one that was sent, 1005 for a close frame without one, 1006 for a lost connection.
    pub code: CloseCode,
    /// Who began it.
    pub side: Side,
    /// Why.
    pub cause: Cause,
}

/// Messages and payload bytes of one leg that were relayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Data messages, counted at their end.
    pub messages: u64,
    /// Payload bytes of data frames.
    pub bytes: u64,
}

/// How a leg's connection stands, as far as the session knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegState {
    /// Both ways are of use.
    Open,
    /// Both close frames have passed: what has been sent is flushed, then the connection ends.
    Finished,
    /// It stands inside a frame of which the rest will not come: what has been sent is flushed, then it is dropped.
    Severed,
    /// The peer is gone: drop it.
    Gone,
}

/// What the engine knows about a leg, for judging it by the clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LegView {
    /// It is not being read, because the other leg does not take what it sends.
    pub unread: bool,
    /// Bytes are waiting to be sent to it.
    pub clogged: bool,
    /// Bytes have been taken by it since the last look, though some are still waiting in the kernel.
    pub draining: bool,
}

/// A WebSocket session between a client and an endpoint.
pub struct Session {
    inbound: [Inbound; 2],
    outbound: [Outbound; 2],
    limits: Arc<MessageLimits>,
    totals: [Totals; 2],
    rsv1: bool,
    /// Compressed messages lean on those before them (RFC 7692 §7.1), so that none may be left out.
    contexts: bool,
    fresh_mask: bool,
    /// What may pass; none: everything.
    guard: Option<Box<Guard>>,
    /// When it is closed at the latest, busy or not: the first of its lifetime, its credential's, and a drain; `u64::MAX`:
    /// never.
    ends_at_ms: u64,
    ends_cause: Cause,
    ends_code: CloseCode,
    active_ms: u64,
    /// When the closing handshake began; 0: it has not.
    closing_ms: u64,
    /// When a closing handshake that makes no progress ends.
    close_by_ms: u64,
    ending: Option<Ending>,
}

/// What comes from one peer.
#[derive(Default)]
struct Inbound {
    /// Payload bytes of the current data frame that are still to come.
    remaining: u64,
    /// Payload bytes of the current message that have been announced.
    message_bytes: u64,
    fragments: u32,
    in_message: bool,
    text: bool,
    /// Text that is being checked.
    checked: bool,
    /// The current frame ends its message.
    fin: bool,
    /// A close frame has come: what follows it does not count (RFC 6455 §5.5.1).
    closed: bool,
    /// The peer broke a rule: nothing more from it counts.
    ignored: bool,
    lost: bool,
    /// The key of the last frame, to see one that repeats.
    last_key: Option<[u8; 4]>,
    key: [u8; 4],
    /// What replaces the client's key, when it must be replaced: old XOR new.
    remask: Option<[u8; 4]>,
    /// Where in the key's four octets the next byte of payload stands.
    phase: u8,
    utf8: Utf8,
    control_second: u32,
    control_frames: u32,
    heard_ms: u64,
    held: Option<Box<Held>>,
    /// The ceilings that hold for the current message; newer ones begin with the next.
    limits: Option<Arc<MessageLimits>>,
}

/// The start of a frame that is not whole yet: a header, or a control frame.
struct Held {
    bytes: [u8; CONTROL_FRAME_MAX],
    length: usize,
}

/// What a new session is born with.
pub struct Birth {
    /// Ceilings of its messages.
    pub limits: Arc<MessageLimits>,
    /// permessage-deflate is agreed, so RSV1 has a meaning.
    pub rsv1: bool,
    /// Compressed messages may lean on those before them.
    pub contexts: bool,
    /// Every client frame gets a fresh key.
    pub fresh_mask: bool,
    /// What may pass; none: everything.
    pub guard: Option<Box<Guard>>,
    /// When its lifetime is over, milliseconds on the worker's clock; `u64::MAX`: never.
    pub expires_ms: u64,
    /// Now.
    pub now_ms: u64,
}

impl Birth {
    /// A session of these ceilings that is born now, everything else as it is without compression and limits.
    pub fn new(limits: Arc<MessageLimits>, now_ms: u64) -> Self {
        Self { limits, rsv1: false, contexts: false, fresh_mask: false, guard: None, expires_ms: u64::MAX, now_ms }
    }
}

impl Session {
    /// A session whose handshakes are complete.
    pub fn new(birth: Birth) -> Self {
        let inbound = || Inbound { heard_ms: birth.now_ms, ..Inbound::default() };
        Self {
            inbound: [inbound(), inbound()],
            outbound: [Outbound::default(), Outbound::default()],
            limits: birth.limits,
            totals: [Totals::default(); 2],
            rsv1: birth.rsv1,
            contexts: birth.contexts,
            guard: birth.guard,
            fresh_mask: birth.fresh_mask,
            ends_at_ms: birth.expires_ms,
            ends_cause: Cause::Lifetime,
            ends_code: CloseCode::GOING_AWAY,
            active_ms: birth.now_ms,
            closing_ms: 0,
            close_by_ms: 0,
            ending: None,
        }
    }

    /// Messages and bytes of this leg that were relayed.
    pub fn totals(&self, from: Leg) -> Totals {
        self.totals[from as usize]
    }

    /// How it ended, once it began to.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// Ceilings that hold from the next message on.
    pub fn adopt_limits(&mut self, limits: &Arc<MessageLimits>) {
        self.limits = Arc::clone(limits);
    }

    /// The ceilings for new messages.
    pub fn limits(&self) -> &Arc<MessageLimits> {
        &self.limits
    }

    /// Closes with 1012 at this time, unless it ends before.
    pub fn drain_at(&mut self, at_ms: u64, cause: Cause) {
        self.end_at(at_ms, cause, CloseCode::RESTART);
    }

    /// Closes with this code at this time, unless it ends before.
    pub fn end_at(&mut self, at_ms: u64, cause: Cause, code: CloseCode) {
        if at_ms < self.ends_at_ms {
            self.ends_at_ms = at_ms;
            self.ends_cause = cause;
            self.ends_code = code;
        }
    }

    /// Whether the start of a frame of this leg is held back until its rest has come.
    pub fn holds(&self, from: Leg) -> bool {
        self.inbound[from as usize].held.is_some()
    }

    /// Moves what is held from this leg to the end of `room`, which is at least [`CONTROL_FRAME_MAX`] long, and returns its
    /// length.
    pub fn take_held(&mut self, from: Leg, room: &mut [u8]) -> usize {
        let Some(held) = self.inbound[from as usize].held.take() else { return 0 };
        let at = room.len() - held.length;
        room[at..].copy_from_slice(&held.bytes[..held.length]);
        held.length
    }

    /// How many of the next bytes of this leg would pass unseen: payload that needs no look and no new key.
    pub fn unseen(&self, from: Leg) -> u64 {
        let inbound = &self.inbound[from as usize];
        let seen = inbound.checked
            || inbound.remask.is_some()
            || self.drops(from)
            || inbound.ignored
            || inbound.lost
            || self.discards(from);
        if seen { 0 } else { inbound.remaining }
    }

    /// So many bytes of this leg, at most [`unseen`](Self::unseen), have left its socket for the other leg without ever
    /// being here. Afterwards everything is as if [`receive`](Self::receive) had seen them: what [`output`](Self::output)
    /// now has for the other leg goes behind them.
    pub fn pass_unseen(&mut self, from: Leg, bytes: u64, facts: &mut Facts<'_>) {
        assert!(bytes <= self.unseen(from), "what passes unseen is payload that needs no look");
        if bytes == 0 {
            return;
        }
        self.inbound[from as usize].heard_ms = facts.now_ms;
        self.count_payload(from, bytes, facts);
        if self.inbound[from as usize].remaining == 0 {
            self.frame_end(from, facts).expect("only text that is checked can end badly, and that is seen");
        }
    }

    /// Looks at bytes that came from a leg; see the module's example. `bytes` is not empty.
    pub fn receive(&mut self, from: Leg, bytes: &mut [u8], facts: &mut Facts<'_>) -> Step {
        let to = from.other();
        self.inbound[from as usize].heard_ms = facts.now_ms;
        let discards = self.discards(from);
        // As it was before these bytes: a close frame among them still goes out.
        let sent = |bytes| if discards { 0 } else { bytes };
        let mut at = 0;
        // Where the frame began that is being looked at, if it began in these bytes.
        let mut frame_at = None;
        while at < bytes.len() {
            let inbound = &self.inbound[from as usize];
            if inbound.ignored || inbound.closed || inbound.lost {
                return Step { send: sent(at), consumed: bytes.len() };
            }
            if inbound.remaining == 0 {
                match self.frame_start(from, bytes, at, facts) {
                    Ok(Start::Payload { header }) => {
                        frame_at = Some(at);
                        at += header;
                    }
                    Ok(Start::Pass { length }) => {
                        at += length;
                    }
                    Ok(Start::Keep { length }) => {
                        return Step { send: sent(at), consumed: at + length };
                    }
                    Ok(Start::Drop { header }) => {
                        self.drop_payload(from, 0, facts);
                        return Step { send: sent(at), consumed: at + header };
                    }
                    Ok(Start::Wait) => return Step { send: sent(at), consumed: at },
                    Ok(Start::Hold) => {
                        self.hold(from, &bytes[at..]);
                        return Step { send: sent(at), consumed: bytes.len() };
                    }
                    Err(violation) => {
                        self.violate(from, violation, false, facts);
                        return Step { send: sent(at), consumed: bytes.len() };
                    }
                }
            }
            if self.inbound[from as usize].remaining > 0 {
                let end = payload_end(at, self.inbound[from as usize].remaining, bytes.len());
                if self.drops(from) {
                    // Its header was the last of an earlier step, so nothing stands before it.
                    self.drop_payload(from, (end - at) as u64, facts);
                    return Step { send: sent(at), consumed: end };
                }
                if let Err(violation) = self.payload(from, &mut bytes[at..end], facts) {
                    // What began in these bytes has not been sent: then the other leg is still at a frame's boundary.
                    self.violate(from, violation, frame_at.is_none(), facts);
                    return Step { send: sent(frame_at.unwrap_or(0)), consumed: bytes.len() };
                }
                at = end;
            }
            if self.inbound[from as usize].remaining == 0 {
                if let Err(violation) = self.frame_end(from, facts) {
                    self.violate(from, violation, frame_at.is_none(), facts);
                    return Step { send: sent(frame_at.unwrap_or(0)), consumed: bytes.len() };
                }
                frame_at = None;
                if self.has_output(to) {
                    break;
                }
            }
        }
        Step { send: sent(at), consumed: at }
    }

    /// Whether what this leg sends goes nowhere any more.
    fn discards(&self, from: Leg) -> bool {
        let to = from.other();
        let outbound = &self.outbound[to as usize];
        outbound.close == CloseState::Sent || outbound.cut || self.inbound[to as usize].lost
    }

    /// Keeps the start of a frame until the rest of it has come.
    fn hold(&mut self, from: Leg, start: &[u8]) {
        let mut bytes = [0; CONTROL_FRAME_MAX];
        bytes[..start.len()].copy_from_slice(start);
        self.inbound[from as usize].held = Some(Box::new(Held { bytes, length: start.len() }));
    }

    /// Reads the header at `bytes[at..]`, and the whole frame if it is a control frame.
    fn frame_start(
        &mut self,
        from: Leg,
        bytes: &mut [u8],
        at: usize,
        facts: &mut Facts<'_>,
    ) -> Result<Start, Violation> {
        let rsv1 = self.rsv1;
        let (header, length) = match frame::parse(&bytes[at..], from.sender(), rsv1)? {
            Parse::Complete(header, length) => (header, length),
            Parse::Partial { .. } => return Ok(Start::Hold),
        };
        if header.opcode.is_control() {
            let end = at + length + header.length as usize;
            if end > bytes.len() {
                return Ok(Start::Hold);
            }
            return self.control(from, &header, &mut bytes[at..end], length, facts);
        }
        self.check_data_frame(from, &header)?;
        let stopped = match self.ask(from, &header, facts) {
            Verdict::Pass => None,
            Verdict::Stop(Stopped { outcome: Outcome::Delay, kind, is_new, .. }) => {
                if is_new {
                    facts.counters.throttled(kind, Outcome::Delay);
                }
                return Ok(Start::Wait);
            }
            Verdict::Stop(stopped) => Some(stopped),
        };
        self.data_frame(from, &header, facts);
        if let Some(stopped) = stopped {
            self.stop(from, stopped, facts);
        }
        if self.drops(from) {
            return Ok(Start::Drop { header: length });
        }
        if from == Leg::Client {
            self.choose_key(&header, &mut bytes[at + length - 4..at + length], facts.keys);
        }
        Ok(Start::Payload { header: length })
    }

    /// The rules of RFC 6455 §5.4 and the ceilings, on a data frame's header. Nothing is noted: what breaks a rule is
    /// nobody's to pay for.
    fn check_data_frame(&self, from: Leg, header: &FrameHeader) -> Result<(), Violation> {
        let inbound = &self.inbound[from as usize];
        let begins = match (header.opcode, inbound.in_message) {
            (Opcode::Continuation, false) => return Err(Violation::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, true) => return Err(Violation::ExpectedContinuation),
            (opcode, _) => opcode != Opcode::Continuation,
        };
        let pinned = inbound.limits.as_ref().filter(|_| !begins);
        let limits = pinned.unwrap_or(&self.limits);
        let (message_bytes, fragments) = if begins { (0, 0) } else { (inbound.message_bytes, inbound.fragments) };
        let over = |ceiling: u64, bytes: u64| ceiling != 0 && bytes > ceiling;
        if over(limits.max_frame.as_bytes(), header.length) {
            Err(Violation::FrameTooLarge)
        } else if over(limits.max_message.as_bytes(), message_bytes.saturating_add(header.length)) {
            Err(Violation::MessageTooLarge)
        } else if over(limits.max_fragments.into(), u64::from(fragments) + 1) {
            Err(Violation::TooManyFragments)
        } else {
            Ok(())
        }
    }

    /// Notes a data frame that has been checked.
    fn data_frame(&mut self, from: Leg, header: &FrameHeader, facts: &mut Facts<'_>) {
        let inbound = &mut self.inbound[from as usize];
        if header.opcode != Opcode::Continuation {
            inbound.in_message = true;
            inbound.text = header.opcode == Opcode::Text;
            inbound.checked = facts.options.validate_utf8 && inbound.text && !header.rsv1;
            inbound.message_bytes = 0;
            inbound.fragments = 0;
            if !inbound.limits.as_ref().is_some_and(|limits| Arc::ptr_eq(limits, &self.limits)) {
                inbound.limits = Some(Arc::clone(&self.limits));
            }
        }
        inbound.message_bytes = inbound.message_bytes.saturating_add(header.length);
        inbound.fragments = inbound.fragments.saturating_add(1);
        inbound.remaining = header.length;
        inbound.fin = header.fin;
        self.active_ms = facts.now_ms;
        facts.counters.frame(from.direction(), header.opcode);
    }

    /// Keeps the client's key, or replaces one that can be predicted. `place` is where the key stands.
    fn choose_key(&mut self, header: &FrameHeader, place: &mut [u8], keys: &mut Keys) {
        let inbound = &mut self.inbound[Leg::Client as usize];
        let key = header.mask.expect("a client's frame without a mask is a violation");
        let predictable = key == [0; 4] || inbound.last_key == Some(key);
        inbound.last_key = Some(key);
        inbound.key = key;
        inbound.phase = 0;
        inbound.remask = (self.fresh_mask || predictable).then(|| {
            let fresh = keys.next_key();
            place.copy_from_slice(&fresh);
            std::array::from_fn(|index| key[index] ^ fresh[index])
        });
    }

    /// Payload of a data frame.
    fn payload(&mut self, from: Leg, bytes: &mut [u8], facts: &mut Facts<'_>) -> Result<(), Violation> {
        let phase = self.count_payload(from, bytes.len() as u64, facts);
        let inbound = &mut self.inbound[from as usize];
        if inbound.checked {
            match from {
                Leg::Client => check_masked(&mut inbound.utf8, bytes, inbound.key, phase)?,
                Leg::Upstream => inbound.utf8.feed(bytes)?,
            }
        }
        if let Some(remask) = inbound.remask {
            mask::apply(bytes, remask, phase);
        }
        Ok(())
    }

    /// Counts payload of a data frame, seen or unseen. Returns where in the key's four octets it begins.
    fn count_payload(&mut self, from: Leg, bytes: u64, facts: &Facts<'_>) -> usize {
        if !self.discards(from) {
            self.totals[from as usize].bytes += bytes;
            facts.counters.bytes(from.direction(), bytes);
        }
        self.active_ms = facts.now_ms;
        let inbound = &mut self.inbound[from as usize];
        inbound.remaining -= bytes;
        let phase = usize::from(inbound.phase);
        inbound.phase = ((phase as u64 + bytes % 4) % 4) as u8;
        phase
    }

    /// The last byte of a data frame has been seen.
    fn frame_end(&mut self, from: Leg, facts: &mut Facts<'_>) -> Result<(), Violation> {
        let discards = self.discards(from);
        let inbound = &mut self.inbound[from as usize];
        if !inbound.fin || !inbound.in_message {
            return Ok(());
        }
        if inbound.checked {
            inbound.utf8.finish()?;
        }
        inbound.in_message = false;
        inbound.checked = false;
        inbound.remask = None;
        if !discards {
            self.totals[from as usize].messages += 1;
            facts.counters.message(from.direction(), inbound.text, inbound.message_bytes);
        }
        Ok(())
    }

    /// A whole control frame: `frame` is its header of `header_length` bytes and its payload.
    fn control(
        &mut self,
        from: Leg,
        header: &FrameHeader,
        frame: &mut [u8],
        header_length: usize,
        facts: &mut Facts<'_>,
    ) -> Result<Start, Violation> {
        let length = frame.len();
        self.count_control(from, facts)?;
        facts.counters.frame(from.direction(), header.opcode);
        if facts.options.idle_by == IdleBy::Frame {
            self.active_ms = facts.now_ms;
        }
        let mut payload = [0; CONTROL_PAYLOAD_MAX];
        let payload = &mut payload[..length - header_length];
        payload.copy_from_slice(&frame[header_length..]);
        if let Some(key) = header.mask {
            mask::apply(payload, key, 0);
        }
        let passes = match header.opcode {
            Opcode::Ping => self.ping(from, payload, facts.options),
            Opcode::Pong => self.pong(from, payload, facts),
            _ => self.peer_close(from, payload, facts)?,
        };
        if !passes {
            return Ok(Start::Keep { length });
        }
        if from == Leg::Client {
            // The key of a control frame is judged like any other.
            self.choose_key(header, &mut frame[header_length - 4..header_length], facts.keys);
            if let Some(remask) = self.inbound[from as usize].remask.take() {
                mask::apply(&mut frame[header_length..], remask, 0);
            }
        }
        Ok(Start::Pass { length })
    }

    fn count_control(&mut self, from: Leg, facts: &Facts<'_>) -> Result<(), Violation> {
        let ceiling = self.limits.control_frames_per_second;
        let inbound = &mut self.inbound[from as usize];
        let second = (facts.now_ms / 1000) as u32;
        if inbound.control_second != second {
            inbound.control_second = second;
            inbound.control_frames = 0;
        }
        inbound.control_frames = inbound.control_frames.saturating_add(1);
        if ceiling != 0 && inbound.control_frames > ceiling { Err(Violation::ControlFlood) } else { Ok(()) }
    }

    /// A peer's ping: whether it passes.
    fn ping(&mut self, from: Leg, payload: &[u8], options: &SessionOptions) -> bool {
        match options.peer_pings {
            PeerPings::Forward => true,
            PeerPings::Answer => {
                // Only the newest is answered when several wait (RFC 6455 §5.5.3): a flood cannot grow a queue.
                let outbound = &mut self.outbound[from as usize];
                if outbound.close != CloseState::Sent {
                    outbound.pong = Some(Box::new(ControlPayload::new(payload)));
                }
                false
            }
        }
    }

    /// A peer's pong: whether it passes. The answer to the gateway's own ping stays here.
    fn pong(&mut self, from: Leg, payload: &[u8], facts: &Facts<'_>) -> bool {
        match &mut self.outbound[from as usize].ping {
            Some(ping) if ping.is_answered_by(payload) => {
                if ping.forgive() && payload == ping.payload {
                    let rtt = Duration::from_millis(facts.now_ms.saturating_sub(ping.sent_ms()));
                    facts.counters.pong(from.other().direction(), rtt);
                }
                false
            }
            _ => facts.options.peer_pings == PeerPings::Forward,
        }
    }

    /// A peer's close frame: whether it passes.
    fn peer_close(&mut self, from: Leg, payload: &[u8], facts: &Facts<'_>) -> Result<bool, Violation> {
        let close = ClosePayload::parse(payload)?;
        let to = from.other();
        self.inbound[from as usize].closed = true;
        self.end(Ending { code: close.code(), side: from.side(), cause: Cause::Closed }, facts);
        self.progress(facts);
        if self.discards(from) || self.outbound[to as usize].owe_deferred() {
            return Ok(false);
        }
        self.outbound[to as usize].close = CloseState::Sent;
        self.outbound[to as usize].fall_silent();
        Ok(true)
    }

    /// Ends the session for a rule that a peer broke; `inside` a frame that has partly been sent on.
    ///
    /// The offender is told when the other peer has answered its own close frame, or can no more: what that peer had to
    /// say to all that came before the violation still arrives, as it would have without a gateway between them.
    fn violate(&mut self, from: Leg, violation: Violation, inside: bool, facts: &Facts<'_>) {
        let to = from.other();
        facts.counters.violation(violation, from.direction());
        self.end(Ending { code: violation.code(), side: from.side(), cause: Cause::Violation(violation) }, facts);
        let inbound = &mut self.inbound[from as usize];
        inbound.ignored = true;
        if inside && self.outbound[to as usize].close != CloseState::Sent {
            self.outbound[from as usize].owe_close(violation.code(), violation.reason());
            self.cut(to);
            return;
        }
        self.refund(from, facts.now_ms);
        self.inbound[from as usize].remaining = 0;
        let other = &self.inbound[to as usize];
        if other.closed || other.ignored || other.lost || self.outbound[to as usize].cut {
            self.outbound[from as usize].owe_close(violation.code(), violation.reason());
        } else {
            self.outbound[from as usize].defer_close(violation.code(), violation.reason());
        }
        self.owe_news(to, blame(from));
    }

    /// The leg's peer has ended its stream. After its close frame that is in order, and it may still be sent to; after
    /// a violation it is as good.
    pub fn end_of_stream(&mut self, from: Leg, facts: &Facts<'_>) {
        let inbound = &self.inbound[from as usize];
        if !inbound.closed && !inbound.ignored {
            self.lost(from, facts);
        }
    }

    /// The leg's connection has failed: nothing comes from it, and nothing can be sent to it.
    pub fn lost(&mut self, from: Leg, facts: &Facts<'_>) {
        let to = from.other();
        let drops = self.drops(from);
        let inbound = &mut self.inbound[from as usize];
        if std::mem::replace(&mut inbound.lost, true) {
            return;
        }
        inbound.held = None;
        if inbound.closed {
            return;
        }
        let inside = inbound.remaining > 0 && !inbound.ignored && !drops;
        self.end(Ending { code: CloseCode::ABNORMAL, side: from.side(), cause: Cause::Lost }, facts);
        if inside && self.outbound[to as usize].close != CloseState::Sent {
            self.cut(to);
        } else {
            self.owe_news(to, loss(from));
        }
    }

    /// Gives a leg up that is inside a frame of which the rest will not come. What its own peer was saying has no end
    /// then either.
    fn cut(&mut self, leg: Leg) {
        let other = leg.other();
        self.outbound[leg as usize].cut = true;
        if self.is_inside_frame(leg) && self.outbound[other as usize].close != CloseState::Sent {
            self.outbound[other as usize].cut = true;
        }
    }

    /// Tells a leg what became of the other one; a peer that has begun to close gets the answer to its close frame
    /// instead, as it would have from the other.
    fn owe_news(&mut self, to: Leg, reason: &'static str) {
        if self.inbound[to as usize].closed {
            self.owe_answer(to);
        } else {
            self.outbound[to as usize].owe_close(CloseCode::INTERNAL, reason);
        }
    }

    /// Answers a close frame with its own code (RFC 6455 §5.5.1).
    fn owe_answer(&mut self, to: Leg) {
        let code = match self.ending {
            Some(Ending { code, cause: Cause::Closed, .. }) => code,
            _ => CloseCode::NORMAL,
        };
        self.outbound[to as usize].owe_close(code, "");
    }

    /// Closes both legs for a reason of the gateway's.
    pub fn close(&mut self, code: CloseCode, cause: Cause, reason: impl Into<Cow<'static, str>>, facts: &Facts<'_>) {
        let reason = reason.into();
        self.end(Ending { code, side: Side::Gateway, cause }, facts);
        for leg in Leg::BOTH {
            self.outbound[leg as usize].owe_close(code, reason.clone());
        }
    }

    fn end(&mut self, ending: Ending, facts: &Facts<'_>) {
        if self.ending.is_none() {
            self.ending = Some(ending);
            self.closing_ms = facts.now_ms;
            self.close_by_ms = facts.now_ms + facts.options.close_timeout.as_ms();
        }
    }

    /// Whether anything is to be said to this leg; cheap.
    pub fn has_output(&self, to: Leg) -> bool {
        self.outbound[to as usize].wants() || to == Leg::Client && self.owes_notices()
    }

    /// The next frame of the gateway's own for this leg, where one may stand. While the leg is `clogged` only a close is worth
    /// queueing: a ping proves nothing then, and the newest pong will do.
    pub fn output(&mut self, to: Leg, clogged: bool, facts: &mut Facts<'_>) -> Option<Said> {
        let (inside, inside_message) = (self.is_inside_frame(to.other()), self.is_inside_message(to.other()));
        let lost = self.inbound[to as usize].lost;
        let (wanted, is_noticed) = (self.has_output(to), to == Leg::Client && self.owes_notices());
        let waits = self.keeps(to);
        let outbound = &mut self.outbound[to as usize];
        if !wanted || outbound.cut || inside || lost || outbound.close == CloseState::Sent {
            return None;
        }
        let key = |keys: &mut Keys| (to == Leg::Upstream).then(|| keys.next_key());
        if !clogged {
            if let Some(payload) = outbound.pong.take() {
                return Some(ControlFrame::new(Opcode::Pong, payload.as_bytes(), key(facts.keys)).into());
            }
            if std::mem::take(&mut outbound.ping_owed) {
                let mut ping = Ping::after(outbound.ping, facts.keys, facts.now_ms);
                if waits {
                    // Its pong stands behind what waits.
                    ping.forgive();
                }
                outbound.ping = Some(ping);
                facts.counters.ping_sent(to.other().direction());
                return Some(ControlFrame::new(Opcode::Ping, &ping.payload, key(facts.keys)).into());
            }
        }
        if is_noticed && !clogged && !inside_message && outbound.close == CloseState::Open {
            return self.guard.as_mut().and_then(|guard| guard.next_notice()).map(Said::Notice);
        }
        if outbound.close != CloseState::Owed {
            return None;
        }
        outbound.close = CloseState::Sent;
        let said = outbound.said.take().expect("what is owed stands beside it");
        let (code, reason) = *said;
        outbound.fall_silent();
        let frame = ControlFrame::close(code, &reason, key(facts.keys));
        self.progress(facts);
        Some(frame.into())
    }

    /// Whether the leg's peer has sent its close frame, behind which nothing counts (RFC 6455 §5.5.1).
    pub fn has_said_goodbye(&self, leg: Leg) -> bool {
        self.inbound[leg as usize].closed
    }

    /// How the leg's connection stands.
    pub fn leg(&self, leg: Leg) -> LegState {
        let (inbound, outbound) = (&self.inbound[leg as usize], &self.outbound[leg as usize]);
        if inbound.lost {
            LegState::Gone
        } else if outbound.cut {
            LegState::Severed
        } else if outbound.close == CloseState::Sent && (inbound.closed || inbound.ignored) {
            LegState::Finished
        } else {
            LegState::Open
        }
    }
}

/// What stands at the start of a frame.
enum Start {
    /// A data frame's header of so many bytes; its payload follows.
    Payload { header: usize },
    /// A whole control frame that passes.
    Pass { length: usize },
    /// A whole control frame that stays here.
    Keep { length: usize },
    /// A data frame's header of so many bytes that stays here, as does its payload.
    Drop { header: usize },
    /// The start of a message for which there is no room yet.
    Wait,
    /// Not enough to say.
    Hold,
}

fn payload_end(at: usize, remaining: u64, end: usize) -> usize {
    usize::try_from(remaining).map_or(end, |remaining| end.min(at.saturating_add(remaining)))
}

/// Feeds masked payload to the check without changing it.
fn check_masked(utf8: &mut Utf8, bytes: &[u8], key: [u8; 4], mut phase: usize) -> Result<(), Violation> {
    let mut scratch = [0; UTF8_CHUNK_BYTES];
    for chunk in bytes.chunks(UTF8_CHUNK_BYTES) {
        let plain = &mut scratch[..chunk.len()];
        plain.copy_from_slice(chunk);
        phase = mask::apply(plain, key, phase);
        utf8.feed(plain)?;
    }
    Ok(())
}

/// The reason that the other leg reads when this one broke a rule.
const fn blame(from: Leg) -> &'static str {
    match from {
        Leg::Client => "client violated the protocol",
        Leg::Upstream => "service violated the protocol",
    }
}

/// The reason that the other leg reads when this one was lost.
const fn loss(from: Leg) -> &'static str {
    match from {
        Leg::Client => "client connection lost",
        Leg::Upstream => "service connection lost",
    }
}
