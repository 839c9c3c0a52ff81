//! What a session makes of its limits: which messages pass, what becomes of those that are too much, and what waits.
//!
//! What is asked, and where, is the [`Guard`]'s; a session without one has nothing of this.

use proto::snapshot::Outcome;
use proto::ws::{FrameHeader, Opcode};

use super::{Facts, Leg, Session};
use crate::record::Cause;
use crate::throttle::{Guard, Stash, Stopped, Verdict};

impl Session {
    /// What may pass from the next message on; none: everything. What waits is looked at again at once.
    pub fn set_guard(&mut self, guard: Option<Box<Guard>>) {
        match (&mut self.guard, guard) {
            (Some(before), guard) => before.adopt(guard),
            (none, guard) => *none = guard,
        }
    }

    /// What may pass.
    pub fn guard(&self) -> Option<&Guard> {
        self.guard.as_deref()
    }

    /// Whether the next message of this leg waits until there is room for it: until then its bytes are not given again,
    /// and no others.
    pub fn waits(&self, from: Leg) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.waits(from.direction()).is_some())
    }

    /// Keeps what comes behind a message that waits.
    pub fn keep(&mut self, from: Leg, bytes: &[u8]) {
        let guard = self.guard.as_mut().expect("nothing waits where nothing is limited");
        guard.stash(from.direction()).bytes.extend_from_slice(bytes);
    }

    /// Whether something is kept because it waits.
    pub fn keeps(&self, from: Leg) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.keeps(from.direction()))
    }

    /// What waits, if there is anything.
    pub fn stash(&mut self, from: Leg) -> Option<&mut Stash> {
        self.guard.as_mut()?.kept(from.direction())
    }

    /// What waits is given again now: takes it.
    pub fn resume(&mut self, from: Leg) -> Option<Box<Stash>> {
        self.guard.as_mut()?.resume(from.direction())
    }

    /// When what waits is to be given again; `u64::MAX`: nothing waits. A session that ends waits for nothing.
    pub fn resumes_ms(&self, from: Leg) -> u64 {
        match self.guard.as_ref().and_then(|guard| guard.waits(from.direction())) {
            None => u64::MAX,
            Some(_) if self.ending.is_some() => 0,
            Some(until_ms) => until_ms,
        }
    }

    /// Whether a message may pass that begins with this frame; one that was let in goes on.
    pub(super) fn ask(&mut self, from: Leg, header: &FrameHeader, facts: &Facts<'_>) -> Verdict {
        let inbound = &self.inbound[from as usize];
        let Some(guard) = self.guard.as_mut().filter(|_| self.ending.is_none()) else { return Verdict::Pass };
        match (header.opcode, inbound.in_message) {
            (Opcode::Text | Opcode::Binary, false) => {}
            (Opcode::Continuation, true) if !guard.drops(from.direction()) => {
                guard.more(from.direction(), header.length, facts.now_ms);
                return Verdict::Pass;
            }
            // A rule is broken, or it is left out already.
            _ => return Verdict::Pass,
        }
        match guard.message(from.direction(), header.length, facts.now_ms) {
            // Without it the other side could not read what follows.
            Verdict::Stop(stopped)
                if header.rsv1 && self.contexts && matches!(stopped.outcome, Outcome::Notify | Outcome::Drop) =>
            {
                Verdict::Stop(Stopped { outcome: Outcome::Close, ..stopped })
            }
            verdict => verdict,
        }
    }

    /// The message that has just begun is too much.
    pub(super) fn stop(&mut self, from: Leg, stopped: Stopped, facts: &Facts<'_>) {
        self.inbound[from as usize].checked = false;
        facts.counters.throttled(stopped.kind, stopped.outcome);
        let Some(guard) = &mut self.guard else { return };
        guard.set_drops(from.direction(), true);
        match stopped.outcome {
            Outcome::Drop | Outcome::Delay => {}
            Outcome::Notify => {
                let is_said = guard.owe_notice(&stopped, facts.now_ms);
                facts.counters.notice(is_said);
            }
            Outcome::Close => {
                let (code, reason) = guard.farewell(&stopped);
                let reason = reason.to_owned();
                self.close(code, Cause::Throttled, reason, facts);
            }
        }
    }

    /// What was announced of a frame and will not come is given back: it was counted when its header came.
    pub fn refund(&mut self, from: Leg, now_ms: u64) {
        let bytes = self.inbound[from as usize].remaining;
        if let Some(guard) = self.guard.as_mut().filter(|guard| bytes > 0 && !guard.drops(from.direction())) {
            guard.refund(from.direction(), bytes, now_ms);
        }
    }

    /// Payload of a message that is left out.
    pub(super) fn drop_payload(&mut self, from: Leg, bytes: u64, facts: &Facts<'_>) {
        self.active_ms = facts.now_ms;
        let inbound = &mut self.inbound[from as usize];
        inbound.remaining -= bytes;
        if inbound.remaining == 0 && inbound.fin {
            inbound.in_message = false;
            if let Some(guard) = &mut self.guard {
                guard.set_drops(from.direction(), false);
            }
        }
    }

    /// Whether the current message of this leg is left out.
    pub(super) fn drops(&self, from: Leg) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.drops(from.direction()))
    }

    /// Whether the other leg has had the start of a frame of this leg, and not its end.
    pub(super) fn is_inside_frame(&self, from: Leg) -> bool {
        self.inbound[from as usize].remaining > 0 && !self.drops(from)
    }

    /// Whether the other leg has had the start of a message of this leg, and not its end.
    pub(super) fn is_inside_message(&self, from: Leg) -> bool {
        self.inbound[from as usize].in_message && !self.drops(from)
    }

    /// Whether the client is still to be told of something.
    pub(super) fn owes_notices(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.owes_notices())
    }
}
