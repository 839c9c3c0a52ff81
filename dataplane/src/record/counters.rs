//! Counters with one writer each: the worker that owns the shard. Whoever reads sums over the shards.
//!
//! A step is a relaxed load and a relaxed store, an ordinary addition in memory; no cache line is written by two
//! workers. Which series exist, and what they are called on the outside, is the business of `prometheus`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::utils::CachePadded;
use proto::control::message::Report;
use proto::limits::{LISTENER_SERIES_MAX, METRIC_APIS_MAX, UPSTREAM_SERIES_MAX};
use proto::snapshot::{CredentialForm, Outcome};
use proto::ws::{Opcode, Violation};

use super::each::Each;
use super::{Direction, Side};
use crate::identity::Fault;
use crate::refusal::Refusal;
use crate::throttle::LevelKind;
use crate::tls::VERSIONS;
use crate::tls::failure::Reason;

/// The label of everything that came after a ceiling was reached.
const OVERFLOW: &str = "_other";

/// A number that only one thread changes.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn subtract(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).saturating_sub(n), Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counts of values up to each bound, and their sum; the last bucket has no bound.
#[derive(Debug)]
pub(super) struct Histogram<const BUCKETS: usize> {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl<const BUCKETS: usize> Default for Histogram<BUCKETS> {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    #[inline]
    fn observe(&self, bucket: usize, value: u64) {
        self.buckets[bucket].add(1);
        self.sum.add(value);
    }

    /// Counts by bucket (not cumulative), and the sum in the unit that was observed.
    pub(super) fn values(&self) -> ([u64; BUCKETS], u64) {
        (std::array::from_fn(|bucket| self.buckets[bucket].value()), self.sum.value())
    }
}

/// Bounds of the histogram of message bytes: powers of four from 64 bytes to 16 MiB.
pub(super) const MESSAGE_BOUNDS: [u64; 10] =
    [64, 256, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24];
const MESSAGE_BUCKETS: usize = MESSAGE_BOUNDS.len() + 1;

/// Bounds of the histogram of session seconds.
pub(super) const SESSION_BOUNDS_S: [u64; 9] = [1, 10, 60, 300, 900, 3_600, 14_400, 43_200, 86_400];
const SESSION_BUCKETS: usize = SESSION_BOUNDS_S.len() + 1;

/// Bounds of the histograms of handshakes and of pongs, in microseconds.
pub(super) const LATENCY_BOUNDS_US: [u64; 13] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000];
const LATENCY_BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;

/// The bucket of [`MESSAGE_BOUNDS`] by arithmetic, because it is asked once for each message.
#[inline]
fn message_bucket(bytes: u64) -> usize {
    let bits = u64::BITS - bytes.saturating_sub(1).leading_zeros();
    (bits.saturating_sub(6).div_ceil(2) as usize).min(MESSAGE_BUCKETS - 1)
}

fn bucket(bounds: &[u64], value: u64) -> usize {
    bounds.partition_point(|bound| *bound < value)
}

/// Close codes that have a series of their own are 1000 to 1015; the others share three.
pub(super) const CLOSE_SLOTS: usize = 16 + 3;

fn close_slot(code: u16) -> usize {
    match code {
        1000..=1015 => usize::from(code - 1000),
        3000..=3999 => 16,
        4000..=4999 => 17,
        _ => 18,
    }
}

/// The label of a slot: peers choose their codes, so the series must not be theirs to multiply.
pub(super) fn close_label(slot: usize) -> String {
    match slot {
        0..16 => (1000 + slot).to_string(),
        16 => "3xxx".into(),
        17 => "4xxx".into(),
        _ => "other".into(),
    }
}

/// What one worker counts about one version of an API. Written by that worker only.
#[derive(Debug)]
pub struct ApiCounters {
    name: Box<str>,
    version: Box<str>,
    pub(super) counts: CachePadded<ApiCounts>,
}

#[derive(Debug, Default)]
pub(super) struct ApiCounts {
    pub(super) opened: Counter,
    pub(super) closed: Counter,
    pub(super) frames: [[Counter; 6]; 2],
    pub(super) bytes: [Counter; 2],
    /// By direction, then binary and text.
    pub(super) messages: [[Counter; 2]; 2],
    pub(super) message_bytes: [Histogram<MESSAGE_BUCKETS>; 2],
    pub(super) session_seconds: Histogram<SESSION_BUCKETS>,
    pub(super) closes: [[Counter; CLOSE_SLOTS]; 3],
    pub(super) violations: [[Counter; Violation::ALL.len()]; 2],
    /// By level, then by outcome.
    pub(super) throttled: [[Counter; THROTTLED.len()]; LevelKind::ALL.len()],
    /// Said, and left unsaid.
    pub(super) notices: [Counter; 2],
    pub(super) pings_sent: [Counter; 2],
    pub(super) pong_rtt_us: [Histogram<LATENCY_BUCKETS>; 2],
}

/// What can become of a message that is too much, in the order of the counters.
pub(super) const THROTTLED: [(Outcome, &str); 4] =
    [(Outcome::Notify, "notify"), (Outcome::Drop, "drop"), (Outcome::Delay, "delay"), (Outcome::Close, "close")];

/// The opcodes in the order of their counters.
pub(super) const OPCODES: [(Opcode, &str); 6] = [
    (Opcode::Continuation, "continuation"),
    (Opcode::Text, "text"),
    (Opcode::Binary, "binary"),
    (Opcode::Close, "close"),
    (Opcode::Ping, "ping"),
    (Opcode::Pong, "pong"),
];

#[inline]
fn opcode_slot(opcode: Opcode) -> usize {
    let bits = opcode.bits() as usize;
    if bits < 8 { bits } else { bits - 5 }
}

impl ApiCounters {
    fn new(name: &str, version: &str) -> Self {
        Self { name: name.into(), version: version.into(), counts: CachePadded::default() }
    }

    /// A frame's header was read and is relayed, or taken, by the gateway.
    #[inline]
    pub fn frame(&self, direction: Direction, opcode: Opcode) {
        self.counts.frames[direction.index()][opcode_slot(opcode)].add(1);
    }

    /// Payload bytes of data frames were relayed.
    #[inline]
    pub fn bytes(&self, direction: Direction, n: u64) {
        self.counts.bytes[direction.index()].add(n);
    }

    /// A data message has ended; `bytes` is its whole payload.
    #[inline]
    pub fn message(&self, direction: Direction, text: bool, bytes: u64) {
        self.counts.messages[direction.index()][usize::from(text)].add(1);
        self.counts.message_bytes[direction.index()].observe(message_bucket(bytes), bytes);
    }

    /// A session has begun: its 101 is on the wire.
    pub fn session_opened(&self) {
        self.counts.opened.add(1);
    }

    /// A session is over: with which code (1005 and 1006 as in RFC 6455 §7.1.5), because of whom, after how long.
    pub fn session_closed(&self, code: u16, side: Side, duration: Duration) {
        self.counts.closed.add(1);
        self.counts.closes[side.index()][close_slot(code)].add(1);
        let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.counts.session_seconds.observe(bucket(&SESSION_BOUNDS_S.map(|bound| bound * 1000), ms), ms);
    }

    /// What came in this direction broke a rule.
    pub fn violation(&self, violation: Violation, direction: Direction) {
        let slot = Violation::ALL.iter().position(|other| *other == violation).expect("ALL has every violation");
        self.counts.violations[direction.index()][slot].add(1);
    }

    /// A message was too much at a level, and this became of it. One that is delayed counts once, however often it is
    /// looked whether it may pass.
    pub fn throttled(&self, level: LevelKind, outcome: Outcome) {
        self.counts.throttled[level.index()][outcome as usize].add(1);
    }

    /// The client was told that a message was left out; or not, because it had been told too often.
    pub fn notice(&self, was_said: bool) {
        self.counts.notices[usize::from(!was_said)].add(1);
    }

    /// The gateway sent a ping of its own this way.
    pub fn ping_sent(&self, direction: Direction) {
        self.counts.pings_sent[direction.index()].add(1);
    }

    /// The pong to a ping that was sent this way came back after `rtt`.
    pub fn pong(&self, direction: Direction, rtt: Duration) {
        let us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        self.counts.pong_rtt_us[direction.index()].observe(bucket(&LATENCY_BOUNDS_US, us), us);
    }

    /// Sessions of this shard that are open now.
    pub fn sessions(&self) -> u64 {
        self.counts.opened.value().saturating_sub(self.counts.closed.value())
    }
}

/// What one worker counts about one listener.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    counts: CachePadded<ListenerCounts>,
}

#[derive(Debug, Default)]
struct ListenerCounts {
    accepted: Counter,
    shed: Counter,
    handed_over: Counter,
    /// By version, then whether a session was resumed.
    tls_handshakes: [[Counter; 2]; VERSIONS.len()],
    tls_failures: TlsFailures,
}

type TlsFailures = [Counter; Reason::ALL.len()];

fn count_failure(failures: &TlsFailures, reason: Reason) {
    let slot = Reason::ALL.iter().position(|other| *other == reason).expect("ALL has every reason");
    failures[slot].add(1);
}

impl ListenerCounters {
    /// A connection was accepted.
    pub fn accepted(&self) {
        self.counts.accepted.add(1);
    }

    /// A connection that was accepted was given to another worker, which has fewer.
    pub fn handed_over(&self) {
        self.counts.handed_over.add(1);
    }

    /// A connection was turned away at the door, because descriptors or places have run out.
    pub fn shed(&self) {
        self.counts.shed.add(1);
    }

    /// A TLS handshake is complete, in this version as the log writes it.
    pub fn tls_handshake(&self, version: &str, resumed: bool) {
        let slot = VERSIONS.iter().position(|other| *other == version).expect("no other version is spoken");
        self.counts.tls_handshakes[slot][usize::from(resumed)].add(1);
    }

    /// A TLS handshake failed.
    pub fn tls_failed(&self, reason: Reason) {
        count_failure(&self.counts.tls_failures, reason);
    }
}

/// Everything that one worker counts. Made by [`Record::new`]; written by that worker only.
#[derive(Debug)]
pub struct ShardRecord {
    counts: CachePadded<ShardCounts>,
    apis: Mutex<CountersByApi>,
    listeners: Mutex<HashMap<Box<str>, Arc<ListenerCounters>>>,
    /// Only of upstreams with which a TLS handshake has failed.
    upstreams: Mutex<HashMap<Box<str>, TlsFailures>>,
    admitted: Arc<Admitted>,
}

/// Forms of credentials, and none.
pub(super) const FORMS: usize = CredentialForm::ALL.len() + 1;
/// Faults of credentials, and none.
pub(super) const OUTCOMES: usize = Fault::ALL.len() + 1;

#[derive(Debug, Default)]
struct ShardCounts {
    refusals: Each<Counter, { Refusal::ALL.len() }>,
    /// By form, and none of them; then by fault, and last those that were granted.
    authentications: Each<Each<Counter, OUTCOMES>, FORMS>,
    /// Signed tokens that had to be verified, and that had been.
    token_lookups: [Counter; 2],
    /// By the hundred of the status, 1xx to 5xx.
    upstream_answers: [Counter; 5],
    abandoned: Counter,
    handshakes_begun: Counter,
    handshakes_ended: Counter,
    handshake_us: Histogram<LATENCY_BUCKETS>,
    buffered_bytes: Counter,
    spliced_bytes: Counter,
    tls_broken: Counter,
    ring_starved: Counter,
    ring_overflown: Counter,
    /// Leases of limits that were refused, and granted.
    leases: [Counter; 2],
}

type ApiName = (Box<str>, Box<str>);
/// By name, then by version: so a look-up needs neither as its own.
type CountersByApi = HashMap<Box<str>, HashMap<Box<str>, Arc<ApiCounters>>>;

/// The series that exist, for the whole process, so that the ceilings hold for the sum of the shards.
#[derive(Debug)]
struct Admitted {
    apis_max: usize,
    apis: Mutex<HashSet<ApiName>>,
    listeners: Mutex<HashSet<Box<str>>>,
    upstreams: Mutex<HashSet<Box<str>>>,
}

impl ShardRecord {
    fn new(admitted: Arc<Admitted>) -> Self {
        Self {
            counts: CachePadded::default(),
            apis: Mutex::default(),
            listeners: Mutex::default(),
            upstreams: Mutex::default(),
            admitted,
        }
    }

    /// The counters of a version of an API. Asked once for each session; takes a lock that only scrapers share.
    ///
    /// Past the ceiling of series, APIs that were never seen before share the label `_other`.
    pub fn api(&self, name: &str, version: &str) -> Arc<ApiCounters> {
        let mut apis = lock(&self.apis);
        if let Some(counters) = apis.get(name).and_then(|versions| versions.get(version)) {
            return Arc::clone(counters);
        }
        let key: ApiName = (name.into(), version.into());
        let (name, version) =
            if admit(&self.admitted.apis, self.admitted.apis_max, &key) { key } else { (OVERFLOW.into(), "".into()) };
        let new = Arc::new(ApiCounters::new(&name, &version));
        Arc::clone(apis.entry(name).or_default().entry(version).or_insert(new))
    }

    /// The counters of a listener. Asked when the listener is bound, and for each TLS handshake.
    pub fn listener(&self, name: &str) -> Arc<ListenerCounters> {
        if let Some(counters) = lock(&self.listeners).get(name) {
            return Arc::clone(counters);
        }
        let key: Box<str> = name.into();
        let key = if admit(&self.admitted.listeners, LISTENER_SERIES_MAX, &key) { key } else { OVERFLOW.into() };
        Arc::clone(lock(&self.listeners).entry(key).or_default())
    }

    /// A TLS handshake with an endpoint of this upstream failed.
    pub fn upstream_tls_failed(&self, upstream: &str, reason: Reason) {
        let key: Box<str> = upstream.into();
        let key = if admit(&self.admitted.upstreams, UPSTREAM_SERIES_MAX, &key) { key } else { OVERFLOW.into() };
        let mut upstreams = lock(&self.upstreams);
        count_failure(upstreams.entry(key).or_insert_with(|| std::array::from_fn(|_| Counter::default())), reason);
    }

    /// A connection waits for its opening handshake.
    pub fn handshake_begun(&self) {
        self.counts.handshakes_begun.add(1);
    }

    /// The opening handshake of a connection is over, in whatever way.
    pub fn handshake_ended(&self) {
        self.counts.handshakes_ended.add(1);
    }

    /// An opening handshake led to a 101, this long after the connection was accepted.
    pub fn handshake_accepted(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.counts.handshake_us.observe(bucket(&LATENCY_BOUNDS_US, us), us);
    }

    /// An opening handshake was refused.
    pub fn refused(&self, refusal: Refusal) {
        let slot = Refusal::ALL.iter().position(|other| *other == refusal).expect("ALL has every refusal");
        self.counts.refusals[slot].add(1);
    }

    /// A credential of this form was granted, or not; without a form: there was none.
    pub fn authenticated(&self, form: Option<CredentialForm>, fault: Option<Fault>) {
        let form = form.map_or(FORMS - 1, |form| form as usize);
        let outcome = fault.map_or(OUTCOMES - 1, Fault::index);
        self.counts.authentications[form][outcome].add(1);
    }

    /// A signed token was looked up among those that were verified before.
    pub fn token_looked_up(&self, was_there: bool) {
        self.counts.token_lookups[usize::from(was_there)].add(1);
    }

    /// The upstream answered an upgrade with another status than 101, and the client was given that answer.
    pub fn answered_by_upstream(&self, status: u16) {
        let hundred = usize::from(status / 100).clamp(1, 5);
        self.counts.upstream_answers[hundred - 1].add(1);
    }

    /// The client went away before its handshake was answered.
    pub fn abandoned(&self) {
        self.counts.abandoned.add(1);
    }

    /// Bytes were put aside for a peer that reads slowly.
    pub fn buffered(&self, bytes: u64) {
        self.counts.buffered_bytes.add(bytes);
    }

    /// Bytes that were put aside have gone, or their session has.
    pub fn unbuffered(&self, bytes: u64) {
        self.counts.buffered_bytes.subtract(bytes);
    }

    /// A peer of an established session broke a rule of TLS, or its records were tampered with.
    pub fn tls_broken(&self) {
        self.counts.tls_broken.add(1);
    }

    /// Bytes of a large frame were handed on inside the kernel.
    #[inline]
    pub fn spliced(&self, bytes: u64) {
        self.counts.spliced_bytes.add(bytes);
    }

    /// A receive of the engine's ring found all buffers in use, and was asked for again.
    pub fn ring_starved(&self) {
        self.counts.ring_starved.add(1);
    }

    /// More completions waited than the engine's ring has room for; the kernel kept them.
    pub fn ring_overflown(&self) {
        self.counts.ring_overflown.add(1);
    }

    /// A meter was asked for more, because nothing was in hand, and gave some or had none.
    pub fn lease_asked(&self, was_granted: bool) {
        self.counts.leases[usize::from(was_granted)].add(1);
    }

    /// Live sessions of this shard.
    pub fn sessions(&self) -> u64 {
        lock(&self.apis).values().flat_map(HashMap::values).map(|api| api.sessions()).sum()
    }
}

/// Whether `key` has a series, or may still have one.
fn admit<K: Clone + Eq + std::hash::Hash>(admitted: &Mutex<HashSet<K>>, ceiling: usize, key: &K) -> bool {
    let mut admitted = lock(admitted);
    admitted.contains(key) || (admitted.len() < ceiling && admitted.insert(key.clone()))
}

/// Counters stay true when a holder of the lock panicked: each is a number by itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All shards of the process.
#[derive(Debug, Clone)]
pub struct Record {
    shards: Arc<[Arc<ShardRecord>]>,
}

impl Record {
    /// For this many workers, with series for at most `apis_max` APIs (at most [`METRIC_APIS_MAX`]).
    pub fn new(workers: usize, apis_max: usize) -> Self {
        let admitted = Arc::new(Admitted {
            apis_max: apis_max.min(METRIC_APIS_MAX),
            apis: Mutex::default(),
            listeners: Mutex::default(),
            upstreams: Mutex::default(),
        });
        Self { shards: (0..workers).map(|_| Arc::new(ShardRecord::new(Arc::clone(&admitted)))).collect() }
    }

    /// The shard of one worker, counted from 0.
    pub fn shard(&self, worker: usize) -> Arc<ShardRecord> {
        Arc::clone(&self.shards[worker])
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.shards.len()
    }

    /// Everything, summed now.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in self.shards.iter() {
            totals.add_shard(shard);
        }
        totals
    }

    /// The part of a control plane's report that the counters know.
    pub fn report(&self) -> Report {
        let totals = self.totals();
        let label = |name: &str, version: &str| match version {
            "" => name.to_owned(),
            version => format!("{name}:{version}"),
        };
        Report {
            workers: self.shards.len() as u32,
            sessions: totals.sessions(),
            sessions_by_api: totals
                .apis
                .iter()
                .filter(|(_, api)| api.sessions() > 0)
                .map(|((name, version), api)| (label(name, version), api.sessions()))
                .collect(),
            sessions_total: totals.apis.values().map(|api| api.opened).sum(),
            refusals_total: totals.refusals.iter().sum(),
            messages_total: totals.apis.values().flat_map(|api| api.messages.as_flattened()).sum(),
            bytes_total: totals.apis.values().flat_map(|api| api.bytes).sum(),
            unknown_keys_total: totals.authentications.iter().map(|of| of[Fault::UnknownKeyId.index()]).sum(),
            ..Report::default()
        }
    }
}

/// A histogram's counts by bucket, and the sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tally<const BUCKETS: usize> {
    pub(super) counts: [u64; BUCKETS],
    pub(super) sum: u64,
}

impl<const BUCKETS: usize> Default for Tally<BUCKETS> {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], sum: 0 }
    }
}

impl<const BUCKETS: usize> Tally<BUCKETS> {
    fn add(&mut self, histogram: &Histogram<BUCKETS>) {
        let (counts, sum) = histogram.values();
        add_all(&mut self.counts, &counts);
        self.sum = self.sum.wrapping_add(sum);
    }
}

fn add_all(sums: &mut [u64], values: &[u64]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = sum.wrapping_add(*value);
    }
}

/// The sums over all shards at one moment.
#[derive(Debug, Default)]
pub struct Totals {
    pub(super) refusals: Each<u64, { Refusal::ALL.len() }>,
    pub(super) authentications: Each<Each<u64, OUTCOMES>, FORMS>,
    pub(super) token_lookups: [u64; 2],
    pub(super) upstream_answers: [u64; 5],
    pub(super) abandoned: u64,
    pub(super) handshakes_active: u64,
    pub(super) handshake_us: Tally<LATENCY_BUCKETS>,
    pub(crate) buffered_bytes: u64,
    pub(crate) spliced_bytes: u64,
    pub(crate) tls_broken: u64,
    pub(crate) ring_starved: u64,
    pub(crate) ring_overflown: u64,
    /// Refused, and granted.
    pub(super) leases: [u64; 2],
    /// By listener: accepted, shed, handed over.
    pub(super) listeners: BTreeMap<Box<str>, [u64; 3]>,
    /// By listener: handshakes by version and whether resumed, then failures by reason.
    pub(super) tls: BTreeMap<Box<str>, TlsTotals>,
    /// By upstream: failures by reason.
    pub(super) upstream_tls: BTreeMap<Box<str>, [u64; Reason::ALL.len()]>,
    /// Live sessions of each worker.
    pub(super) workers: Vec<u64>,
    /// By name and version.
    pub(super) apis: BTreeMap<ApiName, ApiTotals>,
}

/// What TLS came to on one listener.
#[derive(Debug, Default)]
pub(super) struct TlsTotals {
    pub(super) handshakes: [[u64; 2]; VERSIONS.len()],
    pub(super) failures: [u64; Reason::ALL.len()],
}

impl Totals {
    /// Live sessions.
    pub fn sessions(&self) -> u64 {
        self.apis.values().map(ApiTotals::sessions).sum()
    }

    /// How often handshakes were refused for this reason.
    pub fn refusals(&self, refusal: Refusal) -> u64 {
        Refusal::ALL.iter().position(|other| *other == refusal).map_or(0, |slot| self.refusals[slot])
    }

    /// The sums of one version of an API; `None` if it never had a session.
    pub fn api(&self, name: &str, version: &str) -> Option<&ApiTotals> {
        self.apis.get(&(name.into(), version.into()))
    }

    fn add_shard(&mut self, shard: &ShardRecord) {
        let counts = &shard.counts;
        add_all(&mut *self.refusals, &values(&counts.refusals));
        for (sums, counters) in self.authentications.iter_mut().zip(counts.authentications.iter()) {
            add_all(&mut **sums, &values(counters));
        }
        add_all(&mut self.token_lookups, &values(&counts.token_lookups));
        add_all(&mut self.upstream_answers, &values(&counts.upstream_answers));
        self.abandoned += counts.abandoned.value();
        // The end is read first: a handshake that ends between the two reads counts as active, never as minus one.
        let ended = counts.handshakes_ended.value();
        self.handshakes_active += counts.handshakes_begun.value().saturating_sub(ended);
        self.handshake_us.add(&counts.handshake_us);
        self.buffered_bytes += counts.buffered_bytes.value();
        self.spliced_bytes += counts.spliced_bytes.value();
        self.tls_broken += counts.tls_broken.value();
        self.ring_starved += counts.ring_starved.value();
        self.ring_overflown += counts.ring_overflown.value();
        add_all(&mut self.leases, &values(&counts.leases));
        for (name, listener) in lock(&shard.listeners).iter() {
            let sums = self.listeners.entry(name.clone()).or_default();
            let counts = &listener.counts;
            add_all(sums, &[&counts.accepted, &counts.shed, &counts.handed_over].map(Counter::value));
            let tls = self.tls.entry(name.clone()).or_default();
            for (sums, counters) in tls.handshakes.iter_mut().zip(&counts.tls_handshakes) {
                add_all(sums, &values(counters));
            }
            add_all(&mut tls.failures, &values(&counts.tls_failures));
        }
        for (name, failures) in lock(&shard.upstreams).iter() {
            let sums = self.upstream_tls.entry(name.clone()).or_insert([0; Reason::ALL.len()]);
            add_all(sums, &values(failures));
        }
        let apis: Vec<_> = lock(&shard.apis).values().flat_map(HashMap::values).cloned().collect();
        self.workers.push(apis.iter().map(|api| api.sessions()).sum());
        for api in apis {
            self.apis.entry((api.name.clone(), api.version.clone())).or_default().add(&api.counts);
        }
    }
}

/// The sums of one version of an API over all shards.
#[derive(Debug, Default)]
pub struct ApiTotals {
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) frames: [[u64; 6]; 2],
    pub(super) bytes: [u64; 2],
    pub(super) messages: [[u64; 2]; 2],
    pub(super) message_bytes: [Tally<MESSAGE_BUCKETS>; 2],
    pub(super) session_ms: Tally<SESSION_BUCKETS>,
    pub(super) closes: [[u64; CLOSE_SLOTS]; 3],
    pub(super) violations: [[u64; Violation::ALL.len()]; 2],
    pub(super) throttled: [[u64; THROTTLED.len()]; LevelKind::ALL.len()],
    pub(super) notices: [u64; 2],
    pub(super) pings_sent: [u64; 2],
    pub(super) pong_rtt_us: [Tally<LATENCY_BUCKETS>; 2],
}

impl ApiTotals {
    /// Live sessions.
    pub fn sessions(&self) -> u64 {
        self.opened.saturating_sub(self.closed)
    }

    /// Data messages that were relayed in a direction.
    pub fn messages(&self, direction: Direction) -> u64 {
        self.messages[direction.index()].iter().sum()
    }

    /// Payload bytes that were relayed in a direction.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.bytes[direction.index()]
    }

    fn add(&mut self, counts: &ApiCounts) {
        self.closed += counts.closed.value();
        self.opened += counts.opened.value();
        for direction in 0..2 {
            add_all(&mut self.frames[direction], &values(&counts.frames[direction]));
            add_all(&mut self.messages[direction], &values(&counts.messages[direction]));
            add_all(&mut self.violations[direction], &values(&counts.violations[direction]));
            self.message_bytes[direction].add(&counts.message_bytes[direction]);
            self.pong_rtt_us[direction].add(&counts.pong_rtt_us[direction]);
        }
        add_all(&mut self.bytes, &values(&counts.bytes));
        add_all(&mut self.pings_sent, &values(&counts.pings_sent));
        add_all(&mut self.notices, &values(&counts.notices));
        for (sums, counters) in self.throttled.iter_mut().zip(&counts.throttled) {
            add_all(sums, &values(counters));
        }
        self.session_ms.add(&counts.session_seconds);
        for side in 0..3 {
            add_all(&mut self.closes[side], &values(&counts.closes[side]));
        }
    }
}

fn values<const N: usize>(counters: &[Counter; N]) -> [u64; N] {
    std::array::from_fn(|index| counters[index].value())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_bucket_by_arithmetic_is_the_one_by_search() {
        let around = MESSAGE_BOUNDS.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]);
        for bytes in around.chain([0, 1, 2, 63, 1 << 30, u64::MAX - 1, u64::MAX]) {
            assert_eq!(message_bucket(bytes), bucket(&MESSAGE_BOUNDS, bytes), "{bytes}");
        }
    }

    #[test]
    fn every_outcome_has_its_slot() {
        for (slot, (outcome, _)) in THROTTLED.into_iter().enumerate() {
            assert_eq!(outcome as usize, slot);
        }
    }

    #[test]
    fn every_opcode_has_its_slot() {
        for (slot, (opcode, _)) in OPCODES.iter().enumerate() {
            assert_eq!(opcode_slot(*opcode), slot);
        }
    }

    #[test]
    fn shards_are_summed() {
        let record = Record::new(2, 10);
        for worker in 0..2 {
            let shard = record.shard(worker);
            let api = shard.api("chat", "v1");
            api.session_opened();
            api.message(Direction::ToUpstream, true, 100);
            api.bytes(Direction::ToUpstream, 100);
            shard.refused(Refusal::NoApi);
            shard.authenticated(Some(CredentialForm::Bearer), Some(Fault::UnknownKeyId));
        }
        record.shard(1).api("chat", "v1").session_closed(1000, Side::Client, Duration::from_secs(3));
        let totals = record.totals();
        let api = totals.api("chat", "v1").unwrap();
        assert_eq!(
            (api.sessions(), api.messages(Direction::ToUpstream), api.bytes(Direction::ToUpstream)),
            (1, 2, 200)
        );
        assert_eq!(totals.refusals(Refusal::NoApi), 2);
        let report = record.report();
        assert_eq!((report.sessions, report.sessions_total, report.refusals_total), (1, 2, 2));
        assert_eq!((report.messages_total, report.bytes_total, report.workers), (2, 200, 2));
        assert_eq!(report.sessions_by_api.get("chat:v1"), Some(&1));
        assert_eq!(report.unknown_keys_total, 2);
    }

    #[test]
    fn past_the_ceiling_new_apis_share_a_series_and_known_ones_keep_theirs() {
        let record = Record::new(2, 2);
        for name in ["a", "b", "c", "d"] {
            record.shard(0).api(name, "").session_opened();
        }
        record.shard(1).api("a", "").session_opened();
        record.shard(1).api("c", "").session_opened();
        let totals = record.totals();
        let sessions = |name| totals.api(name, "").map(ApiTotals::sessions);
        assert_eq!(
            (sessions("a"), sessions("b"), sessions("c"), sessions(OVERFLOW)),
            (Some(2), Some(1), None, Some(3))
        );
    }

    #[test]
    fn close_codes_of_peers_cannot_multiply_series() {
        let labels: std::collections::BTreeSet<_> = (0..=u16::MAX).map(|code| close_label(close_slot(code))).collect();
        assert_eq!(labels.len(), CLOSE_SLOTS);
    }
}
