//! What the clock decides about a session: pings, dead peers, idle and absolute timeouts, drains, the end of a closing
//! handshake.
//!
//! A session has no timer: it says when it is to be looked at again, and whoever drives it comes back then.

use proto::snapshot::LegPings;
use proto::ws::CloseCode;

use super::outbound::CloseState;
use super::{Ending, Facts, Leg, LegView, Session};
use crate::record::Cause;

/// A closing handshake that makes progress may take this many close timeouts in all.
pub(super) const CLOSE_TIMEOUTS_MAX: u64 = 30;

impl Session {
    /// When a closing session is dropped at the latest, unless it comes a step further.
    pub fn close_by_ms(&self) -> Option<u64> {
        self.ending.map(|_| self.close_by_ms)
    }

    /// Whether its end has come, and nothing more is to be passed on.
    pub fn is_due(&self, now_ms: u64) -> bool {
        self.ends_at_ms <= now_ms
    }

    fn is_closing(&self) -> bool {
        self.ending.is_some()
    }

    /// What the clock decides: pings, dead peers, idle and absolute timeouts, drains, the end of a closing handshake.
    /// Returns when to look again at the latest, or `None` when the session is over and both legs are to be dropped.
    pub fn tick(&mut self, views: [LegView; 2], facts: &mut Facts<'_>) -> Option<u64> {
        if self.is_closing() {
            return self.tick_closing(views, facts);
        }
        let now_ms = facts.now_ms;
        let mut due_ms = self.ends_at_ms;
        if now_ms >= self.ends_at_ms {
            let reason = match self.ends_cause {
                Cause::Lifetime => "session lifetime reached",
                Cause::CredentialExpired => "credential expired",
                Cause::CredentialRevoked => "credential revoked",
                Cause::CredentialUnverified => "credential cannot be verified",
                Cause::Denied => "denied",
                _ => "service restart",
            };
            self.close(self.ends_code, self.ends_cause, reason, facts);
        } else if !facts.options.idle_timeout.is_zero() {
            if Leg::BOTH.into_iter().any(|leg| self.waits(leg)) {
                // Somebody has said something; it is only not let through yet.
                self.active_ms = now_ms;
            }
            let idle_at_ms = self.active_ms + facts.options.idle_timeout.as_ms();
            if now_ms >= idle_at_ms {
                self.close(CloseCode::GOING_AWAY, Cause::Idle, "idle", facts);
            }
            due_ms = due_ms.min(idle_at_ms);
        }
        for leg in Leg::BOTH {
            due_ms = due_ms.min(self.tick_pings(leg, views[leg as usize], facts));
        }
        Some(if self.is_closing() { self.close_by_ms } else { due_ms })
    }

    fn tick_pings(&mut self, leg: Leg, view: LegView, facts: &Facts<'_>) -> u64 {
        let pings: &LegPings = match leg {
            Leg::Client => &facts.options.ping.client,
            Leg::Upstream => &facts.options.ping.upstream,
        };
        if pings.interval.is_zero() || self.is_closing() {
            return u64::MAX;
        }
        let (interval_ms, timeout_ms, now_ms) = (pings.interval.as_ms(), pings.timeout.as_ms(), facts.now_ms);
        let waits = self.keeps(leg);
        let inbound = &mut self.inbound[leg as usize];
        let outbound = &mut self.outbound[leg as usize];
        if view.unread || view.clogged {
            // Who is not read, or does not read, is not judged by pongs that cannot arrive.
            inbound.heard_ms = now_ms;
            outbound.ping_owed = false;
            if let Some(ping) = &mut outbound.ping {
                ping.forgive();
            }
            // But who waits is pinged, perhaps for hours: TCP finds out whether it is still there.
            let is_time = outbound.ping.is_none_or(|ping| now_ms >= ping.sent_ms() + interval_ms);
            outbound.ping_owed = waits && !view.clogged && is_time;
            return now_ms + interval_ms;
        }
        if let Some(ping) = outbound.ping.as_mut().filter(|ping| ping.is_awaited()) {
            if inbound.heard_ms > ping.sent_ms() {
                ping.forgive();
            } else if now_ms >= ping.sent_ms() + timeout_ms {
                let ending = Ending { code: CloseCode::ABNORMAL, side: leg.side(), cause: Cause::PingTimeout };
                self.end(ending, facts);
                self.lost(leg, facts);
                return u64::MAX;
            } else {
                return (ping.sent_ms() + timeout_ms).min(now_ms + interval_ms);
            }
        }
        if now_ms >= inbound.heard_ms + interval_ms {
            outbound.ping_owed = true;
            // Looked at again after the interval too: the pong may have come by then, and the next ping be due.
            return now_ms + timeout_ms.min(interval_ms);
        }
        inbound.heard_ms + interval_ms
    }

    fn tick_closing(&mut self, views: [LegView; 2], facts: &mut Facts<'_>) -> Option<u64> {
        if views.iter().any(|view| view.draining) {
            self.progress(facts);
        }
        if facts.now_ms < self.close_by_ms {
            return Some(self.close_by_ms);
        }
        // The answer that one peer owes did not come: the other still hears a close frame, if one may stand there.
        let mut answered = false;
        for leg in Leg::BOTH {
            if self.inbound[leg as usize].closed && self.outbound[leg as usize].close == CloseState::Open {
                self.owe_answer(leg);
                answered = true;
            }
            answered |= self.outbound[leg as usize].owe_deferred();
        }
        if answered && facts.now_ms < self.closing_ms + CLOSE_TIMEOUTS_MAX * facts.options.close_timeout.as_ms() {
            self.progress(facts);
            return Some(self.close_by_ms);
        }
        None
    }

    /// A closing handshake has come a step further: its deadline begins again, up to a ceiling.
    pub(super) fn progress(&mut self, facts: &Facts<'_>) {
        let timeout_ms = facts.options.close_timeout.as_ms();
        self.close_by_ms = (facts.now_ms + timeout_ms).min(self.closing_ms + CLOSE_TIMEOUTS_MAX * timeout_ms);
    }
}
