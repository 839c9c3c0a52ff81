//! The client's side of the opening handshake: reading the request, saying 101, and everything else that is answered.
//!
//! Nothing is said to the client before the endpoint has agreed, so every "no" is an HTTP status. What the client sends
//! behind its request stays in its socket, or here if it came with the head, until the 101; a refused connection is
//! closed, and what follows on it is never parsed.
//!
//! Budget of a handshake that is accepted, its endpoint on this host, its request there when the connection is. Eleven
//! system calls on io_uring, and fifteen on epoll; `(e)` are epoll's own:
//!
//! | Room | System calls |
//! |---|---|
//! | accept (`doors`) | `accept4` and a share of the wait for it; every eighth time, or in a crowd, until nobody is there |
//! | read | `recv` |
//! | connect | `socket`, `setsockopt(TCP_NODELAY)`, `connect`, `connect` (asked again: it is there), `send` |
//! | the answer | a wait: `io_uring_enter`, or (e) `epoll_ctl`, `epoll_wait`, `poll`; `recv` |
//! | accept | `send`; (e) `epoll_ctl` |
//! | relay | two watches of the engine |
//!
//! An endpoint that is farther away costs one more wait and one more `connect`; a client that is slow a `recv` that
//! finds nothing and a wait. The client's socket is not watched by the driver unless it is waited for. Nothing of this is
//! left when the session begins: the task (about 4.5 KiB), both heads (2 KiB and 1 KiB) and the texts of [`Seen`] are freed.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::http::forwarding::{self, TraceParent};
use proto::http::{HeadFault, RequestHead, RequestScan, RequestView};
use proto::limits::HEAD_BYTES_MAX;
use proto::parse::Parse;
use proto::snapshot::{Environment, Listener};
use proto::ws::handshake::{Agreed, Upgrade, UpgradeFault, check_upgrade, write_refusal, write_switch};

use crate::authenticate::challenge::{self, Failed};
use crate::balance::ConnectionCount;
use crate::identity::{Grant, Identity};
use crate::proxy_protocol::{self, ProxyHeader};
use crate::record::{Line, Peer, Refused, SessionId, SessionParts, SessionRecord};
use crate::refusal::Refusal;
use crate::relay::wall_clock_ms;
use crate::route::{Place, Route, RouteRequest};
use crate::shard::Shard;
use crate::socket::Socket;
use crate::stream::Stream;
use crate::tables::{ApiEntry, EndpointEntry, Tables, UpstreamEntry};
use crate::tls::failure::{self, Reason};
use crate::tls::handshake::Fault;
use crate::tls::records::Alert;
use crate::tls::{self, Facts, ServerTerms};

/// Bytes asked of the socket at a time; most heads fit.
const READ_BYTES: usize = 2048;
/// How long a refused client may take to read its answer and go.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are read, and thrown away, of a refused client.
const LINGER_BYTES_MAX: usize = 64 * 1024;
/// What a client that is refused for want of room is told: to wait, in seconds.
pub const RETRY_AFTER: (&str, &str) = ("Retry-After", "5");
/// How often it is looked whether the client still waits.
const CLIENT_LOOKED_AT_EVERY: Duration = Duration::from_millis(250);
/// Characters of a request id that is taken over from the client.
const REQUEST_ID_CHARS_MAX: usize = 128;

/// A connection as it was accepted.
pub struct Arrival {
    /// Nonblocking.
    pub fd: OwnedFd,
    /// Where it comes from; `None`: a Unix socket.
    pub address: Option<SocketAddr>,
    /// On which listener.
    pub listener: Arc<Listener>,
    /// When.
    pub accepted: Instant,
    /// Its place among the process's connections.
    pub connection: ConnectionCount,
}

/// The client's connection during its handshake.
pub struct Downstream {
    /// The connection, under TLS or not.
    pub stream: Stream,
    /// The listener, as it was when the connection was accepted.
    pub listener: Arc<Listener>,
    /// Its place among the process's connections.
    pub connection: ConnectionCount,
    /// What is known for the records.
    pub seen: Seen,
    /// What the TLS handshake came to; none where TLS is not spoken, or not yet.
    pub tls: Option<Box<Facts>>,
    /// The address of the socket's other end, or what its PROXY header says.
    peer: Option<SocketAddr>,
    proxy_header: bool,
    bytes: Vec<u8>,
}

/// What is known about a connection for its log line.
pub struct Seen {
    /// When it was accepted.
    pub accepted: Instant,
    /// The session's name.
    pub session: SessionId,
    /// The trace it belongs to, with this gateway's span.
    pub trace: Option<TraceParent>,
    /// Whether that trace is the client's.
    pub continues_trace: bool,
    /// The request id, taken over or made.
    pub request_id: String,
    /// The client: the peer, or whom a trusted proxy names.
    pub client: Option<SocketAddr>,
    host: String,
    target: String,
    api: Option<Arc<ApiEntry>>,
    upstream: Option<Arc<UpstreamEntry>>,
    environment: Environment,
    grant: Option<Arc<Grant>>,
    /// The endpoint that was connected.
    pub endpoint: Option<Arc<EndpointEntry>>,
    /// When a refused client may come again, in seconds; 0: the usual.
    pub retry_after_s: Cell<u32>,
    /// The version of TLS that is spoken with it.
    pub upstream_tls: Cell<Option<&'static str>>,
    /// What else there is to say about a refusal.
    detail: Cell<Option<Box<str>>>,
    /// Which credential was refused.
    failed: Cell<Option<Box<Failed>>>,
}

/// An opening handshake that is sound.
pub struct Request {
    bytes: Vec<u8>,
    head: RequestHead,
    /// Host, key and offer.
    pub upgrade: Upgrade,
    environment: Environment,
}

/// Why a journey ends before its session begins.
pub enum Stop {
    /// An answer of the table.
    Refused(Refusal),
    /// The health page was asked for.
    Healthy,
    /// The endpoint answered with another status, and the client has been given that answer.
    Answered(u16),
    /// A service that was asked says no, in its own words.
    Relayed(Box<Relayed>),
    /// The client went away.
    Gone,
}

/// What a service that was asked says to the client.
pub struct Relayed {
    /// What it is counted as.
    pub refusal: Refusal,
    /// The status.
    pub status: u16,
    /// The whole answer.
    pub bytes: Vec<u8>,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Downstream {
    /// A connection that was accepted just now.
    pub fn new(arrival: Arrival) -> Self {
        let peer = arrival.address;
        let trusts =
            |address: SocketAddr| arrival.listener.proxy_protocol_from.iter().any(|cidr| cidr.contains(address.ip()));
        Self {
            stream: Stream::new(Socket::new(arrival.fd)),
            proxy_header: peer.is_some_and(trusts),
            listener: arrival.listener,
            connection: arrival.connection,
            seen: Seen::new(peer, arrival.accepted),
            tls: None,
            peer,
            bytes: Vec::new(),
        }
    }

    /// Whether the socket's other end is a proxy whose forwarding headers are believed.
    pub fn is_trusted(&self) -> bool {
        self.peer.is_some_and(|peer| self.trusts(peer.ip()))
    }

    /// The address of the socket's other end.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// For the session log.
    pub fn record(&self, shard: &Shard, agreed: &Agreed, secrets: &[String]) -> SessionRecord {
        let seen = &self.seen;
        let api = seen.api.as_ref().map(|entry| &entry.api);
        let grant = seen.grant.as_deref();
        let parts = SessionParts {
            session: seen.session,
            trace_id: seen.trace.as_ref().map_or([0; 16], |trace| trace.trace_id),
            request_id: &seen.request_id,
            client: seen.client.map_or(Peer::Unix, Peer::Ip),
            listener: &self.listener.name,
            tls: self.tls.as_deref(),
            host: &seen.host,
            target: &seen.target,
            api: api.map_or("", |api| &api.name),
            version: api.map_or("", |api| &api.version),
            environment: seen.environment,
            application: grant.and_then(|grant| grant.application.as_deref()).unwrap_or_default(),
            user: grant.and_then(|grant| grant.user.as_deref()).unwrap_or_default(),
            credential: grant.map_or("", |grant| grant.form.word()),
            subprotocol: agreed.subprotocol.as_deref().unwrap_or(""),
            extensions: agreed.extensions.as_deref().unwrap_or(""),
            upstream: seen.upstream.as_ref().map_or("", |entry| &entry.config.name),
            endpoint: seen.endpoint.as_ref().map_or("", |entry| &entry.name),
            upstream_tls: seen.upstream_tls.get(),
            time_ms: wall_clock_ms(),
            handshake: seen.accepted.elapsed(),
        };
        SessionRecord::new(&parts, &mut shard.names.borrow_mut(), secrets)
    }

    fn trusts(&self, address: std::net::IpAddr) -> bool {
        self.listener.trusted_proxies.iter().any(|cidr| cidr.contains(address))
    }
}

impl Seen {
    fn new(client: Option<SocketAddr>, accepted: Instant) -> Self {
        Self {
            accepted,
            session: SessionId(0),
            trace: None,
            continues_trace: false,
            request_id: String::new(),
            client,
            host: String::new(),
            target: String::new(),
            api: None,
            upstream: None,
            environment: Environment::default(),
            grant: None,
            endpoint: None,
            upstream_tls: Cell::default(),
            detail: Cell::default(),
            retry_after_s: Cell::default(),
            failed: Cell::default(),
        }
    }

    /// Notes what is to be said about a refusal, beside its word; the last that is noted is said.
    pub fn because(&self, detail: impl Into<Box<str>>) {
        self.detail.set(Some(detail.into()));
    }

    /// Notes which credential was refused.
    pub fn refused(&self, failed: Failed) {
        self.failed.set(Some(Box::new(failed)));
    }

    /// Notes what the request is for.
    pub fn place(&mut self, place: &Place) {
        self.api = Some(Arc::clone(&place.api));
    }

    /// Notes who asks.
    pub fn identity(&mut self, identity: &Identity) {
        self.grant = identity.grant.clone();
    }

    /// Notes where the request leads.
    pub fn route(&mut self, route: &Route) {
        self.upstream = Some(Arc::clone(&route.upstream));
        self.environment = route.environment;
    }
}

impl Request {
    /// The head, to read from.
    pub fn view(&self) -> RequestView<'_> {
        self.head.view(&self.bytes)
    }

    /// Production or sandbox, where the client's credential does not say.
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// What the route is chosen by. `path` is [`RequestView::route_path`].
    pub fn wanted<'a>(&'a self, downstream: &'a Downstream, path: &'a str) -> RouteRequest<'a> {
        let (listener, host) = (&downstream.listener.name, &self.upgrade.host.name);
        RouteRequest { listener, host, path, environment: self.environment }
    }

    /// What the client sent behind its head.
    pub fn into_early(mut self) -> Vec<u8> {
        self.bytes.split_off(self.head.length())
    }
}

/// What comes before the request, where the listener has it: a PROXY header, and the TLS handshake. Within the listener's
/// handshake timeout.
pub async fn greet(shard: &Shard, downstream: &mut Downstream) -> Result<(), Stop> {
    let speaks_tls = downstream.listener.tls.is_some();
    if !downstream.proxy_header && !speaks_tls {
        return Ok(());
    }
    let deadline = time_left(downstream);
    // Not every connection's, and so not part of every handshake's task.
    let greeting = Box::pin(async {
        if downstream.proxy_header {
            read_proxy_header(downstream).await?;
        }
        if speaks_tls { agree_on_tls(shard, downstream).await } else { Ok(()) }
    });
    match monoio::time::timeout(deadline, greeting).await {
        Ok(outcome) => outcome,
        // Who has not agreed on TLS could not read an answer.
        Err(_) if speaks_tls => {
            downstream.seen.because("the TLS handshake was not over in time");
            tell_failure(shard, downstream, Reason::Timeout);
            Err(Refusal::TlsFailed.into())
        }
        Err(_) => Err(Refusal::HandshakeTimeout.into()),
    }
}

async fn agree_on_tls(shard: &Shard, downstream: &mut Downstream) -> Result<(), Stop> {
    let terms = shard.tables().and_then(|tables| tables.server_terms(&downstream.listener.name).cloned());
    let Some(terms) = terms else {
        downstream.seen.because("the listener speaks TLS no more");
        return Err(Refusal::TlsFailed.into());
    };
    let received = std::mem::take(&mut downstream.bytes);
    match shake(&terms, &downstream.stream, received).await {
        Ok(facts) => {
            shard.record.listener(&downstream.listener.name).tls_handshake(facts.version, facts.resumed);
            downstream.tls = Some(Box::new(facts));
            Ok(())
        }
        Err(fault) => {
            let (reason, stop) = match fault {
                Fault::PlainHttp => (Reason::PlainHttp, Refusal::PlainHttp.into()),
                Fault::Gone => (Reason::Abandoned, Stop::Gone),
                Fault::TooLong => {
                    downstream.seen.because("the TLS handshake is too long");
                    (Reason::BadRecord, Refusal::TlsFailed.into())
                }
                Fault::Tls(error) => {
                    downstream.seen.because(failure::describe(&error));
                    (failure::client(&error), Refusal::TlsFailed.into())
                }
            };
            tell_failure(shard, downstream, reason);
            Err(stop)
        }
    }
}

/// The handshake, and what it came to. From then on the stream is under TLS.
async fn shake(terms: &ServerTerms, stream: &Stream, received: Vec<u8>) -> Result<Facts, Fault> {
    let (secure, agreed) = tls::handshake::accept(stream.socket(), terms.config(), received).await?;
    // A ticket says that its bearer was let in once, and not that it would be today.
    if agreed.resumed
        && let Err(error) = terms.still_trusts(&agreed.chain)
    {
        let farewell = secure.refuse(Alert::AccessDenied);
        let _ = stream.socket().send_all(farewell.as_bytes()).await;
        return Err(error.into());
    }
    stream.secure(secure);
    Ok(Facts::from(agreed))
}

fn tell_failure(shard: &Shard, downstream: &Downstream, reason: Reason) {
    shard.record.listener(&downstream.listener.name).tls_failed(reason);
    tracing::debug!(listener = downstream.listener.name, reason = reason.word(), "there is no TLS session");
}

fn time_left(downstream: &Downstream) -> Duration {
    Duration::from(downstream.listener.handshake_timeout).saturating_sub(downstream.seen.accepted.elapsed())
}

/// Reads the request within the listener's handshake timeout.
pub async fn read(shard: &Shard, downstream: &mut Downstream) -> Result<Request, Stop> {
    let head = match monoio::time::timeout(time_left(downstream), read_head(downstream)).await {
        Ok(head) => head?,
        Err(_) => return Err(Refusal::HandshakeTimeout.into()),
    };
    let bytes = std::mem::take(&mut downstream.bytes);
    let view = head.view(&bytes);
    note(shard, downstream, &view);
    if asks_for_health(&view) {
        return Err(Stop::Healthy);
    }
    let upgrade = check_upgrade(&view).map_err(refusal_for)?;
    let environment = environment(&view, &downstream.listener);
    Ok(Request { upgrade, environment, head, bytes })
}

async fn read_head(downstream: &mut Downstream) -> Result<RequestHead, Stop> {
    let mut scan = RequestScan::new();
    loop {
        if !downstream.bytes.is_empty() {
            match scan.feed(&downstream.bytes) {
                Ok(Parse::Complete(head, _)) => return Ok(head),
                Ok(Parse::Partial { .. }) => {}
                Err(HeadFault::Malformed) => return Err(Refusal::BadHead.into()),
                Err(HeadFault::TooLarge) => return Err(Refusal::HeadTooLarge.into()),
                Err(HeadFault::TargetTooLong) => return Err(Refusal::TargetTooLong.into()),
                Err(HeadFault::Version) => return Err(Refusal::HttpVersion.into()),
            }
        }
        read_more(downstream).await?;
    }
}

async fn read_proxy_header(downstream: &mut Downstream) -> Result<(), Stop> {
    loop {
        match proxy_protocol::parse(&downstream.bytes) {
            ProxyHeader::Complete(length, client) => {
                downstream.bytes.drain(..length);
                if client.is_some() {
                    downstream.peer = client;
                    downstream.seen.client = client;
                }
                return Ok(());
            }
            ProxyHeader::Partial => read_more(downstream).await?,
            ProxyHeader::Malformed => return Err(Refusal::BadProxyHeader.into()),
        }
    }
}

/// Receives a little more; the scan refuses a head before it can grow past its ceiling.
async fn read_more(downstream: &mut Downstream) -> Result<(), Stop> {
    let length = downstream.bytes.len();
    let room = READ_BYTES.min((HEAD_BYTES_MAX + 1).saturating_sub(length).max(1));
    downstream.bytes.resize(length + room, 0);
    let received = downstream.stream.receive(&mut downstream.bytes[length..]).await;
    downstream.bytes.truncate(length + received.as_ref().map_or(0, |received| *received));
    match received {
        Ok(0) | Err(_) => Err(Stop::Gone),
        Ok(_) => Ok(()),
    }
}

/// Notes what the records will want to know, whatever becomes of the request.
fn note(shard: &Shard, downstream: &mut Downstream, view: &RequestView<'_>) {
    let mut keys = shard.keys.borrow_mut();
    let client = downstream.peer.map(|peer| {
        let hops = view.header_values("x-forwarded-for");
        let address = forwarding::client_address(peer.ip(), hops, |address| downstream.trusts(address));
        // A header names an address without its port.
        if address == peer.ip().to_canonical() { peer } else { SocketAddr::new(address, 0) }
    });
    let tables = shard.shared.tables.load();
    let id_header = tables.as_ref().as_ref().map(|tables| tables.settings().request_id_header.as_str());
    let given = id_header.and_then(|name| view.header_str(name)).filter(|id| is_request_id(id));
    let seen = &mut downstream.seen;
    seen.session = SessionId(u64::from_le_bytes(keys.next_octets()));
    let parent = trace_parent(view);
    seen.continues_trace = parent.is_some();
    seen.trace = Some(match parent {
        Some(parent) => parent.child(keys.next_octets()),
        None => TraceParent::new(keys.next_octets(), keys.next_octets()),
    });
    seen.request_id = given.map_or_else(|| format!("{:032x}", u128::from_le_bytes(keys.next_octets())), str::to_owned);
    seen.client = client;
    seen.target = view.target().to_owned();
    seen.host = view.authority().to_owned();
}

/// The client's trace. Of two that contradict each other neither is continued, as W3C Trace Context has it.
fn trace_parent(view: &RequestView<'_>) -> Option<TraceParent> {
    let value = view.fields().only("traceparent").ok().flatten()?;
    std::str::from_utf8(value).ok().and_then(forwarding::parse_traceparent)
}

/// Visible characters that need no quoting anywhere.
fn is_request_id(id: &str) -> bool {
    let plain = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'+' | b'/' | b'=' | b'@')
    };
    !id.is_empty() && id.len() <= REQUEST_ID_CHARS_MAX && id.bytes().all(plain)
}

/// Probes are plain requests, often of HTTP/1.0 and without a host.
fn asks_for_health(view: &RequestView<'_>) -> bool {
    view.method() == "GET" && view.path() == "/health" && view.header("upgrade").is_none() && !view.has_body()
}

fn environment(view: &RequestView<'_>, listener: &Listener) -> Environment {
    let chosen = listener.environment_header.as_deref().and_then(|name| view.header_str(name));
    match chosen {
        Some(value) if value.eq_ignore_ascii_case("sandbox") => Environment::Sandbox,
        Some(value) if value.eq_ignore_ascii_case("production") => Environment::Production,
        _ => listener.environment,
    }
}

fn refusal_for(fault: UpgradeFault) -> Refusal {
    match fault {
        UpgradeFault::Method => Refusal::Method,
        UpgradeFault::HttpVersion => Refusal::HttpVersion,
        UpgradeFault::BadHost => Refusal::BadHost,
        UpgradeFault::NotWebSocket => Refusal::NotWebSocket,
        UpgradeFault::BodyOnUpgrade => Refusal::BodyOnUpgrade,
        UpgradeFault::Version => Refusal::Version,
        UpgradeFault::BadKey => Refusal::BadKey,
        UpgradeFault::BadOffer => Refusal::BadOffer,
    }
}

/// Does the work for as long as the client is there, and patience lasts: an endpoint is not kept busy for nobody.
///
/// The client is looked at now and then, because what it sends early stays unread, and its socket readable, until the 101.
/// The work is pinned by the caller: an argument that is a future would have its place in the task twice.
pub async fn while_waited_for<T>(
    client: &Stream,
    patience: Duration,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<Option<T>, Stop> {
    let begun = Instant::now();
    loop {
        let left = patience.saturating_sub(begun.elapsed());
        match monoio::time::timeout(left.min(CLIENT_LOOKED_AT_EVERY), work.as_mut()).await {
            Ok(done) => return Ok(Some(done)),
            Err(_) if client.is_hung_up() => return Err(Stop::Gone),
            Err(_) if begun.elapsed() >= patience => return Ok(None),
            Err(_) => {}
        }
    }
}

/// Says 101, with what the endpoint agreed to.
pub async fn accept(
    tables: &Tables,
    downstream: &mut Downstream,
    request: &Request,
    agreed: &Agreed,
) -> Result<(), Stop> {
    let mut answer = Vec::with_capacity(256);
    let extra = [(tables.settings().request_id_header.as_str(), downstream.seen.request_id.as_str())];
    write_switch(&mut answer, &request.upgrade.key.accept(), agreed, &extra).map_err(|_| Refusal::Internal)?;
    let timeout = Duration::from(downstream.listener.handshake_timeout);
    match monoio::time::timeout(timeout, downstream.stream.send_all(&answer)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Stop::Gone),
    }
}

/// Answers a connection whose journey has ended, closes it, and writes that down.
pub async fn dismiss(shard: &Rc<Shard>, downstream: Downstream, stop: Stop) {
    let tables = shard.tables();
    match stop {
        Stop::Gone => shard.record.abandoned(),
        Stop::Healthy => say(&downstream, 200, &[], "ok").await,
        Stop::Refused(refusal) => {
            shard.record.refused(refusal);
            // What was said of an endpoint is no reason for what came after another was found.
            let detail = downstream.seen.detail.take().filter(|_| has_detail(refusal));
            log(shard, &downstream, |record| Refused::new(record, refusal).with_detail(detail));
            if refusal == Refusal::TlsFailed {
                // The alert has been sent; it is read, if nothing of ours resets the connection.
                linger(&downstream).await;
            } else if refusal != Refusal::BadProxyHeader {
                let row = refusal.row();
                let failed = downstream.seen.failed.take();
                let api = downstream.seen.api.as_deref();
                let challenges = api.map(|api| challenge::challenges(api, refusal, failed.as_deref()));
                let challenges = challenges.unwrap_or_default();
                let mut extra: Vec<_> = challenges.iter().map(|value| ("WWW-Authenticate", value.as_str())).collect();
                let seconds = match downstream.seen.retry_after_s.get() {
                    0 => RETRY_AFTER.1.to_owned(),
                    seconds => seconds.to_string(),
                };
                if matches!(row.status, 429 | 503) {
                    extra.push((RETRY_AFTER.0, &seconds));
                }
                if let (Some(tables), false) = (&tables, downstream.seen.request_id.is_empty()) {
                    extra.push((tables.settings().request_id_header.as_str(), &downstream.seen.request_id));
                }
                say(&downstream, row.status, &extra, row.sentence).await;
            }
        }
        Stop::Relayed(relayed) => {
            shard.record.refused(relayed.refusal);
            let detail = downstream.seen.detail.take();
            let Relayed { refusal, status, bytes } = *relayed;
            log(shard, &downstream, |record| Refused::new(record, refusal).with_status(status).with_detail(detail));
            answer(&downstream, &bytes).await;
        }
        Stop::Answered(status) => {
            shard.record.answered_by_upstream(status);
            log(shard, &downstream, |record| Refused::by_upstream(record, status));
            linger(&downstream).await;
        }
    }
}

/// Whether a refusal is one of those that something is noted for before they are answered.
fn has_detail(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::TlsFailed | Refusal::UpstreamTls | Refusal::Policy | Refusal::PolicyUnavailable)
        || matches!(refusal.row().status, 401)
        || matches!(refusal, Refusal::Scope | Refusal::NotSubscribed | Refusal::Denied)
}

/// Writes down that a journey has ended; where there is no log, nothing is made for it.
fn log(shard: &Shard, downstream: &Downstream, refused: impl FnOnce(SessionRecord) -> Refused) {
    if !shard.shared.log.is_on() {
        return;
    }
    let tables = shard.tables();
    let secrets = tables.as_ref().map_or(&[][..], |tables| tables.secret_names());
    let record = downstream.record(shard, &Agreed::default(), secrets);
    shard.shared.log.write(Line::Refused(Box::new(refused(record))));
}

async fn say(downstream: &Downstream, status: u16, extra: &[(&str, &str)], body: &str) {
    let mut answer = Vec::with_capacity(256);
    if write_refusal(&mut answer, status, extra, body).is_err() {
        return;
    }
    self::answer(downstream, &answer).await;
}

/// Sends a whole answer, and ends the connection.
async fn answer(downstream: &Downstream, answer: &[u8]) {
    let sent = monoio::time::timeout(LINGER, downstream.stream.send_all(answer)).await;
    if matches!(sent, Ok(Ok(()))) {
        linger(downstream).await;
    }
}

/// Ends our direction, and reads away a bounded part of what still comes, so that the answer is not lost to a reset.
async fn linger(downstream: &Downstream) {
    downstream.stream.shutdown();
    let mut left = LINGER_BYTES_MAX;
    let drained = async {
        while left > 0 {
            match downstream.stream.discard().await {
                Ok(0) | Err(_) => return,
                Ok(received) => left = left.saturating_sub(received),
            }
        }
    };
    // Whether it went by itself or not, it is dropped now.
    let _ = monoio::time::timeout(LINGER, drained).await;
}
