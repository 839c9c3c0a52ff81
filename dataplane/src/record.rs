//! What is counted and what is written about sessions: counters of each shard, their Prometheus form, the session log.
//!
//! Nothing here waits: counters have one writer each, and a log line that finds its ring full is dropped and counted.
//! The rooms say what happened; whether it was right is theirs to decide.
//!
//! ```text
//! worker ── ShardRecord ── ApiCounters (one per API and shard) ──┐
//! worker ── ShardRecord ── …                                     ├── Record ── /metrics, Report
//!        └─ Log ── ring ── log thread ── file                    ┘
//! ```

mod counters;
mod each;
mod line;
mod log;
mod prometheus;
mod session;

pub use counters::{ApiCounters, ApiTotals, ListenerCounters, Record, ShardRecord, Totals};
pub use line::{Closed, Line, Refused};
pub use log::{Log, LogTarget, LogThread};
pub use prometheus::render;
pub use session::{Names, Peer, SECRET_NAMES, SessionId, SessionParts, SessionRecord, redact_query};

use proto::ws::Violation;

/// Which way a frame travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client.
    ToUpstream,
    /// To the client.
    ToClient,
}

impl Direction {
    /// Both, in the order of [`Direction::index`].
    pub const ALL: [Self; 2] = [Self::ToUpstream, Self::ToClient];

    /// As a metric label and a log word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ToUpstream => "to_upstream",
            Self::ToClient => "to_client",
        }
    }

    /// For arrays with a place for each direction.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The other way.
    pub const fn reverse(self) -> Self {
        match self {
            Self::ToUpstream => Self::ToClient,
            Self::ToClient => Self::ToUpstream,
        }
    }
}

/// Who ended a session, or which leg is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client.
    Client,
    /// The upstream's endpoint.
    Upstream,
    /// This gateway.
    Gateway,
}

impl Side {
    /// All three, in the order of [`Side::index`].
    pub const ALL: [Self; 3] = [Self::Client, Self::Upstream, Self::Gateway];

    /// As a metric label and a log word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
        }
    }

    /// For arrays with a place for each side.
    pub const fn index(self) -> usize {
        self as usize
    }

    const fn letter(self) -> char {
        match self {
            Self::Client => 'C',
            Self::Upstream => 'U',
            Self::Gateway => 'G',
        }
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A side sent a close frame.
    Closed,
    /// A side's connection ended without a close frame.
    Lost,
    /// A side broke a rule of the protocol or of its route.
    Violation(Violation),
    /// Nothing happened for the idle timeout.
    Idle,
    /// The absolute lifetime is over.
    Lifetime,
    /// A side answered no ping.
    PingTimeout,
    /// The gateway drains.
    Drain,
    /// The API or version is no longer published.
    Unpublished,
    /// The second signal: ended at once.
    Killed,
    /// The credential has run out.
    CredentialExpired,
    /// The credential, or what it is of, was revoked, switched off or removed.
    CredentialRevoked,
    /// Nobody could be asked whether the credential is still good.
    CredentialUnverified,
    /// More was said than a plan lets pass, and the plan closes the session then.
    Throttled,
    /// A denial was set up.
    Denied,
}

impl Cause {
    /// The log word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Lost => "lost",
            Self::Violation(violation) => violation.word(),
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::PingTimeout => "ping_timeout",
            Self::Drain => "drain",
            Self::Unpublished => "unpublished",
            Self::Killed => "killed",
            Self::CredentialExpired => "credential_expired",
            Self::CredentialRevoked => "credential_revoked",
            Self::CredentialUnverified => "credential_unverified",
            Self::Throttled => "throttled",
            Self::Denied => "denied",
        }
    }

    /// The second letter of the termination flag; the first is the side's.
    const fn letter(self) -> char {
        match self {
            Self::Closed => '-',
            Self::Lost => 'X',
            Self::Violation(_) => 'V',
            Self::Idle => 'I',
            Self::Lifetime => 'L',
            Self::PingTimeout => 'P',
            Self::Drain => 'D',
            Self::Unpublished => 'U',
            Self::Killed => 'K',
            Self::CredentialExpired => 'E',
            Self::CredentialRevoked => 'R',
            Self::CredentialUnverified => 'N',
            Self::Throttled => 'T',
            Self::Denied => 'B',
        }
    }
}
