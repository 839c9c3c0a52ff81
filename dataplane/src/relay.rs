//! The room where a session lives: from the two answered handshakes until both connections have ended.
//!
//! [`session`] decides, [`engine`] moves the bytes; neither knows how the session came to be. The corridor hands a
//! pair of sockets over and its task ends: an established session is an entry of the worker's engine.

pub mod engine;
pub mod keys;
pub mod pipes;
pub mod session;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

pub use engine::Engine;
pub use keys::Keys;
pub use session::{Birth, Ending, Leg, Session, Totals};

use proto::snapshot::{Mask, SessionOptions};
use proto::ws::CloseCode;

use crate::admit::Permit;
use crate::balance::ConnectionCount;
use crate::connect::Upstream;
use crate::handshake::{Downstream, Request};
use crate::identity::Fault;
use crate::record::{ApiCounters, Cause, Closed, Direction, Line, Log, SessionRecord};
use crate::route::Route;
use crate::shard::Shard;
use crate::standing;
use crate::stream::Parts;
use crate::tables::{ApiEntry, EndpointEntry, Fate, Tables};
use crate::throttle::levels::{self, Again};
use crate::throttle::{Guard, Ledger, Party};

/// Which engine moves the bytes of a worker's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// A ring of its own, into which the kernel receives.
    Uring,
    /// Readiness, and a system call for each step.
    Readiness,
}

impl EngineKind {
    /// As a word for flags, logs and reports.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Readiness => "readiness",
        }
    }
}

/// How a worker's bytes are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Means {
    /// What moves them.
    pub engine: EngineKind,
    /// What is left of a large frame stays in the kernel.
    pub splice: bool,
    /// The engine's own ring may defer its task work, as the driver's does.
    pub deferred: bool,
}

/// The evidence of a whole journey: both handshakes are complete.
pub struct Established {
    /// The tables under which it was made.
    pub tables: Arc<Tables>,
    /// Where it led.
    pub route: Route,
    /// That it may.
    pub permit: Permit,
    /// The endpoint's side.
    pub upstream: Upstream,
    /// The client's side.
    pub request: Request,
}

/// Makes a session of a journey and gives it to the worker's engine.
pub fn hand_over(shard: &Shard, downstream: Downstream, established: Established) {
    let Established { tables, route, permit, upstream, request } = established;
    let now_ms = shard.now_ms();
    let api = route.api;
    let record = shard.shared.log.is_on().then(|| downstream.record(shard, upstream.agreed(), tables.secret_names()));
    let counters = shard.record.api(&api.api.name, &api.api.version);
    counters.session_opened();
    shard.record.handshake_accepted(downstream.seen.accepted.elapsed());
    if let Some(record) = &record {
        shard.shared.log.write(Line::Opened(Box::new(record.clone())));
    }
    let (party, guard) = permit.into_parts();
    let birth = Birth {
        limits: Arc::clone(&api.limits),
        rsv1: upstream.agreed().deflate.is_some(),
        contexts: upstream.agreed().has_contexts(),
        guard,
        fresh_mask: route.upstream.config.mask == Mask::Fresh,
        expires_ms: expires_ms(&api.api.session, now_ms, &mut shard.keys.borrow_mut()),
        now_ms,
    };
    let mut resident = Resident {
        counters,
        endpoint: upstream.live,
        connection: downstream.connection,
        record,
        log: shard.shared.log.clone(),
        began_ms: now_ms,
        party,
        api,
    };
    let mut session = Session::new(birth);
    catch_up(shard, &tables, &mut resident, &mut session, now_ms);
    let client = downstream.stream.into_parts().behind(request.into_early());
    let upstream = upstream.stream.into_parts().behind(upstream.early);
    let handover = Handover { session, client, upstream, resident };
    let mut engine = shard.engine.borrow_mut();
    engine.begin(handover, now_ms);
    shard.alarm.ring_if_earlier(engine.wakes_ms());
}

/// What has changed between the route and now reached the live sessions, but not this one yet.
fn catch_up(shard: &Shard, tables: &Tables, resident: &mut Resident, session: &mut Session, now_ms: u64) {
    let window_ms = tables.settings().drain_window.as_ms();
    let at_ms = || now_ms + shard.keys.borrow_mut().below(window_ms + 1);
    if shard.is_draining() {
        session.drain_at(at_ms(), Cause::Drain);
    }
    let current = shard.shared.tables.load();
    let current = current.as_ref().as_ref();
    // Also under the same tables: what was heard of a token meanwhile was told to the sessions that were there.
    resident.look_again(current.map_or(tables, |current| current), session, Moment::now(shard));
    let Some(current) = current.filter(|current| !std::ptr::eq(&***current, tables)) else { return };
    resident.follow_limits(&shard.ledger, current, session, now_ms);
    match current.fate(&resident.api, session.limits()) {
        Fate::Untouched => {}
        Fate::Limits(limits) => session.adopt_limits(&limits),
        Fate::Retired => session.drain_at(at_ms(), Cause::Unpublished),
    }
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// Milliseconds on the worker's clock.
    pub now_ms: u64,
}

impl Moment {
    /// Now. The wall clock is read first: what passes in between makes what is computed of it later, never earlier.
    pub fn now(shard: &Shard) -> Self {
        let wall_ms = wall_clock_ms();
        Self { wall_ms, now_ms: shard.now_ms() }
    }

    /// When the wall clock shows this, on the worker's clock, and not before; both are read in whole milliseconds.
    fn on_worker_clock(self, wall_ms: u64) -> u64 {
        if wall_ms == u64::MAX {
            u64::MAX
        } else {
            self.now_ms.saturating_add(wall_ms.saturating_sub(self.wall_ms) + 1)
        }
    }
}

/// When the lifetime is over: shortened by a random part, so that sessions that began together do not end together.
fn expires_ms(options: &SessionOptions, now_ms: u64, keys: &mut Keys) -> u64 {
    let lifetime_ms = options.lifetime.as_ms();
    if lifetime_ms == 0 {
        return u64::MAX;
    }
    let jitter_ms = lifetime_ms / 100 * u64::from(options.lifetime_jitter_percent.min(100));
    now_ms + lifetime_ms - keys.below(jitter_ms + 1)
}

/// Everything that an engine needs to drive a session.
pub struct Handover {
    /// The session.
    pub session: Session,
    /// The client's side, with what came behind its request.
    pub client: Parts,
    /// The endpoint's side, with what came behind its 101.
    pub upstream: Parts,
    /// What stays with the session.
    pub resident: Resident,
}

/// What stays with a session while it lives: what it was admitted under, and what its closing line needs.
pub struct Resident {
    /// The API version, as it was at admission.
    pub api: Arc<ApiEntry>,
    /// Where its frames are counted.
    pub counters: Arc<ApiCounters>,
    /// Its place among the endpoint's live sessions.
    pub endpoint: LiveSession,
    /// Its place among the process's connections.
    pub connection: ConnectionCount,
    /// Who and where, if there is a log.
    pub record: Option<SessionRecord>,
    /// Where the closing line goes.
    pub log: Log,
    /// When it began, on the worker's clock.
    pub began_ms: u64,
    /// Who it is, as far as that is asked again.
    pub party: Box<Party>,
}

/// Counts a session towards its endpoint for as long as it lives.
pub struct LiveSession {
    endpoint: Arc<EndpointEntry>,
}

impl LiveSession {
    /// One more, unless there are so many already; 0: any number.
    pub fn within(endpoint: &Arc<EndpointEntry>, max: u32) -> Option<Self> {
        let before = endpoint.live.fetch_add(1, Ordering::Relaxed);
        let live = Self { endpoint: Arc::clone(endpoint) };
        (max == 0 || before < u64::from(max)).then_some(live)
    }

    /// One more.
    pub fn on(endpoint: &Arc<EndpointEntry>) -> Self {
        endpoint.live.fetch_add(1, Ordering::Relaxed);
        Self { endpoint: Arc::clone(endpoint) }
    }
}

impl Drop for LiveSession {
    fn drop(&mut self) {
        self.endpoint.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Resident {
    /// Closes the session at once if what let it in does not stand any more, and else when it ends.
    pub fn look_again(&self, tables: &Tables, session: &mut Session, moment: Moment) {
        let Some(grant) = &self.party.grant else { return };
        let code = CloseCode(self.api.api.authentication.close_code);
        let cause = match standing::check(tables, &self.api, grant, moment.wall_ms / 1000) {
            // It may end sooner than it did when it was let in.
            Ok(ends_ms) => {
                return session.end_at(moment.on_worker_clock(ends_ms), Cause::CredentialExpired, code);
            }
            Err(Fault::Expired) => Cause::CredentialExpired,
            Err(Fault::Unavailable) => Cause::CredentialUnverified,
            Err(_) => Cause::CredentialRevoked,
        };
        session.end_at(moment.now_ms, cause, code);
    }

    /// The session has the limits of these tables from its next message on, and ends at once if it is denied.
    pub fn follow_limits(&mut self, ledger: &Rc<Ledger>, tables: &Tables, session: &mut Session, now_ms: u64) {
        let levels = session.guard().map_or(&[][..], Guard::levels);
        match levels::again(&mut self.party, ledger, tables, &self.api, levels) {
            Again::Same => {}
            Again::Guard(guard) => session.set_guard(guard),
            Again::Denied => session.end_at(now_ms, Cause::Denied, CloseCode::POLICY),
        }
    }

    /// The session is over: counts and writes it down.
    fn ended(self, session: &Session, ending: Ending, now_ms: u64) {
        let duration = Duration::from_millis(now_ms.saturating_sub(self.began_ms));
        self.counters.session_closed(ending.code.0, ending.side, duration);
        let Some(record) = self.record else { return };
        let mut messages = [0; 2];
        let mut bytes = [0; 2];
        for (direction, leg) in [(Direction::ToUpstream, Leg::Client), (Direction::ToClient, Leg::Upstream)] {
            let totals = session.totals(leg);
            messages[direction.index()] = totals.messages;
            bytes[direction.index()] = totals.bytes;
        }
        self.log.write(Line::Closed(Box::new(Closed {
            record,
            time_ms: wall_clock_ms(),
            duration,
            messages,
            bytes,
            throttled: session.throttled(),
            code: ending.code.0,
            side: ending.side,
            cause: ending.cause,
        })));
    }
}

/// Milliseconds since 1970.
pub fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
