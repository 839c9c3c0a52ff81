//! What a session makes of its limits: which messages pass, what becomes of those that are too much, and what waits.
//!
//! What is asked, and where, is the [`Guard`]'s; a session without one has nothing of this.

use std::rc::Rc;

use proto::snapshot::Outcome;
use proto::ws::FrameHeader;

use super::clock::CLOSE_TIMEOUTS_MAX;
use super::{Facts, Leg, Session};
use crate::throttle::{Drops, Guard, Held, Patience, Rest, Stash, Stopped, Throttled, Verdict};

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

    /// What was left out so far because it was too much.
    pub fn throttled(&self) -> Throttled {
        self.guard.as_ref().map(|guard| guard.throttled()).unwrap_or_default()
    }

    /// Whether the next message of this leg waits until there is room for it: until then its bytes are not given again,
    /// and no others.
    pub fn waits(&self, from: Leg) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.waiting(from.direction()).until_ms().is_some())
    }

    /// Keeps what comes behind a message that waits.
    pub fn keep(&mut self, from: Leg, bytes: &[u8]) {
        let guard = self.guard.as_mut().expect("nothing waits where nothing is limited");
        guard.waiting_mut(from.direction()).keep(bytes);
    }

    /// Whether something is kept because it waits.
    pub fn keeps(&self, from: Leg) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.waiting(from.direction()).is_kept())
    }

    /// What is kept, if there is anything.
    pub fn stash(&mut self, from: Leg) -> Option<&mut Stash> {
        self.guard.as_mut()?.waiting_mut(from.direction()).stash()
    }

    /// Lends what is kept: it is given again now, and [`Session::resumed`] says what is left.
    pub fn resume(&mut self, from: Leg) -> Option<Rest> {
        self.guard.as_mut()?.waiting_mut(from.direction()).take()
    }

    /// What is left of what was lent; `passed`: less than there was. A session that is being closed comes a step further by
    /// that.
    pub fn resumed(&mut self, from: Leg, rest: Rest, passed: bool, facts: &Facts<'_>) {
        if passed && self.ending.is_some() {
            self.progress(facts);
        }
        if let Some(guard) = &mut self.guard {
            guard.waiting_mut(from.direction()).put_back(rest, passed, facts.now_ms, patience(facts));
        }
    }

    /// The leg's peer says no more: what is kept of it is let through for a while yet. Whether there is anything; nothing
    /// comes behind it if it `is_last`.
    pub fn outlives(&mut self, from: Leg, is_last: bool, facts: &Facts<'_>) -> bool {
        let Some(stash) = self.stash(from) else { return false };
        stash.is_last |= is_last;
        stash.has_gone(facts.now_ms, patience(facts));
        true
    }

    /// Forgets what is kept. Returns how many bytes that was.
    pub fn forget_stash(&mut self, from: Leg) -> usize {
        self.guard.as_mut().map_or(0, |guard| guard.waiting_mut(from.direction()).forget())
    }

    /// What has no room for what waits; none: nothing waits, or it goes nowhere, or nobody has said yet.
    pub fn waits_at(&self, from: Leg) -> Option<&Rc<Held>> {
        let waiting = self.guard.as_ref()?.waiting(from.direction());
        waiting.at().filter(|_| waiting.until_ms().is_some() && !self.discards(from))
    }

    /// When what waits is to be given again; `u64::MAX`: nothing waits. What goes nowhere does not wait.
    pub fn resumes_ms(&self, from: Leg) -> u64 {
        match self.guard.as_ref().and_then(|guard| guard.waiting(from.direction()).until_ms()) {
            None => u64::MAX,
            Some(_) if self.discards(from) => 0,
            Some(until_ms) => until_ms,
        }
    }

    /// Whether a message may pass that begins with this frame; one that was let in goes on.
    pub(super) fn ask(&mut self, from: Leg, header: &FrameHeader, facts: &Facts<'_>) -> Verdict {
        if self.guard.is_none() {
            return Verdict::Pass;
        }
        // What goes nowhere is not counted, and once all is left out nobody is asked.
        let is_free = self.discards(from) || self.drops(from);
        let in_message = self.inbound[from as usize].in_message;
        let Some(guard) = &mut self.guard else { return Verdict::Pass };
        if is_free {
            guard.not_counted(from.direction());
            return Verdict::Pass;
        }
        if in_message {
            guard.more(from.direction(), header.length, facts.now_ms);
            return Verdict::Pass;
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
        let is_ending = self.ending.is_some();
        let Some(guard) = &mut self.guard else { return };
        guard.leave_out(from.direction(), Drops::Message);
        guard.left_out(&stopped);
        match stopped.outcome {
            Outcome::Drop | Outcome::Delay => {}
            Outcome::Notify => {
                let is_said = guard.owe_notice(&stopped, facts.now_ms);
                facts.counters.notice(is_said);
            }
            // A close is on its way, and nothing that comes behind is worth another.
            Outcome::Close if is_ending => guard.leave_out(from.direction(), Drops::Everything),
            Outcome::Close => {
                let (code, reason, cause) = guard.farewell(&stopped);
                let reason = reason.to_owned();
                self.close(code, cause, reason, facts);
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
                guard.message_ended(from.direction());
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

/// How long what a peer has said is let through after it has gone: as long as a closing handshake may take.
fn patience(facts: &Facts<'_>) -> Patience {
    let each_ms = facts.options.close_timeout.as_ms();
    Patience { each_ms, all_ms: CLOSE_TIMEOUTS_MAX * each_ms }
}
