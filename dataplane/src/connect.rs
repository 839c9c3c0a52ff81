//! The way to the endpoint: choosing one, connecting, and the opening handshake as its client.
//!
//! An endpoint that cannot be connected is passed over for the next; once a request has been sent there is no second
//! try. Anything but a validated 101 is relayed as a plain answer, and the connection to the endpoint ends with it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::http::{BodyLength, ChunkTracker, Chunked, ResponseHead, ResponseScan, write_relayed_head};
use proto::parse::Parse;
use proto::snapshot::{Balance, Compression, Place};
use proto::ws::handshake::{Agreed, Key, Offer, SwitchFault, UpgradeRequest, check_switch, write_upgrade_request};
use rustls::AlertDescription;

use crate::forwarding::{self, Told};
use crate::handshake::{Downstream, Request, Stop, while_waited_for};
use crate::onward::Onward;
use crate::refusal::Refusal;
use crate::relay::LiveSession;
use crate::route::{self, Route};
use crate::shard::Shard;
use crate::socket::Socket;
use crate::stream::Stream;
use crate::tables::{EndpointEntry, Tables, UpstreamEntry};
use crate::tls;
use crate::tls::failure::{self, Reason};
use crate::tls::handshake::Fault;
use crate::tls::records::End;

/// Endpoints that are tried for one client before it is told that the service cannot be reached.
const ENDPOINTS_TRIED_MAX: usize = 4;
/// Addresses of one name that are tried.
const ADDRESSES_TRIED_MAX: usize = 4;
/// Connect timeouts that all attempts for one client may take together.
const CONNECT_TIMEOUTS_MAX: u32 = 3;
/// Bytes read at a time: of a head, which mostly fits, and of a body that is relayed.
const HEAD_READ_BYTES: usize = 1024;
const READ_BYTES: usize = 4096;
/// Bytes of a body that are relayed before everybody else has a turn: neither side need ever be waited for.
const BODY_TURN_BYTES: usize = 256 * 1024;
/// The shortest rest that the clock knows.
const BODY_REST: Duration = Duration::from_millis(1);

/// The endpoint's side of a session whose handshake is complete.
pub struct Upstream {
    /// The connection, under TLS or not.
    pub stream: Stream,
    /// What was sent behind the 101.
    pub early: Vec<u8>,
    /// The session's place among the endpoint's.
    pub live: LiveSession,
    agreed: Agreed,
}

impl Upstream {
    /// What the endpoint agreed to.
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }
}

/// Connects to an endpoint of the route's upstream and agrees with it on a session.
pub async fn open(
    shard: &Rc<Shard>,
    tables: &Tables,
    route: &Route,
    request: &Request,
    onward: &Onward,
    downstream: &mut Downstream,
) -> Result<Upstream, Stop> {
    let patience = Duration::from(route.upstream.config.connect_timeout) * CONNECT_TIMEOUTS_MAX;
    let (stream, live, endpoint) = {
        let connecting = pin!(connect(shard, &route.upstream, downstream));
        let connected = while_waited_for(&downstream.stream, patience, connecting).await?;
        connected.ok_or(Refusal::UpstreamConnectTimeout)??
    };
    downstream.seen.endpoint = Some(Arc::clone(&endpoint));
    let offer = offer(route, request, onward);
    let key = Key::from_random(shard.keys.borrow_mut().next_octets());
    let head = upgrade_request(tables, route, request, onward, downstream, &endpoint, &key, &offer)?;
    let timeout = Duration::from(route.upstream.config.handshake_timeout);
    let (response, mut bytes) = {
        let asking = pin!(async {
            stream.send_all(&head).await.map_err(|_| Refusal::UpstreamClosed)?;
            read_response(&stream).await
        });
        let answer = while_waited_for(&downstream.stream, timeout, asking).await?;
        let answer = answer.ok_or(Refusal::UpstreamHandshakeTimeout)?;
        answer
            .map_err(|refusal| why_without_an_answer(shard, route, &endpoint, &stream, downstream).unwrap_or(refusal))?
    };
    drop(head);
    match check_switch(&response.view(&bytes), &key, &offer) {
        Ok(mut agreed) => {
            if onward.gives_up_contexts() {
                agreed.give_up_contexts();
            }
            let early = bytes.split_off(response.length());
            Ok(Upstream { stream, early, live, agreed })
        }
        Err(SwitchFault::Status) => {
            let status = response.status();
            // Seldom, and so not part of every handshake's task.
            let relayed = Box::pin(relay_answer(&response, &bytes, &stream, downstream, tables));
            match monoio::time::timeout(timeout, relayed).await {
                Ok(Ok(())) => Err(Stop::Answered(status)),
                Ok(Err(stop)) => Err(stop),
                Err(_) => Err(Stop::Gone),
            }
        }
        Err(SwitchFault::NotOffered) => Err(Refusal::UpstreamNotOffered.into()),
        Err(_) => Err(Refusal::UpstreamBadAccept.into()),
    }
}

/// The first endpoint, in the order of the balance, that accepts a connection.
async fn connect(
    shard: &Rc<Shard>,
    upstream: &Arc<UpstreamEntry>,
    downstream: &Downstream,
) -> Result<(Stream, LiveSession, Arc<EndpointEntry>), Stop> {
    let mut refusal = Refusal::UpstreamFull;
    let sessions_max = upstream.config.sessions_per_endpoint_max;
    let turn = upstream.turn();
    let mut tried = [usize::MAX; ENDPOINTS_TRIED_MAX];
    for attempt in 0..ENDPOINTS_TRIED_MAX {
        let Some(index) = next_endpoint(upstream, turn, &tried[..attempt]) else { break };
        tried[attempt] = index;
        let endpoint = &upstream.endpoints[index];
        // Counted while it is being dialled, so that a burst of clients does not choose the same one.
        let Some(live) = LiveSession::within(endpoint, sessions_max) else { continue };
        let dialled = match dial(shard, upstream, endpoint, downstream.listener.tcp_nodelay).await {
            Ok(socket) if endpoint.url.secure => {
                Box::pin(agree_on_tls(shard, upstream, index, socket, downstream)).await
            }
            Ok(socket) => Ok(Stream::new(socket)),
            Err(fault) => Err(fault),
        };
        match dialled {
            Ok(stream) => return Ok((stream, live, Arc::clone(endpoint))),
            Err(Refusal::Full) => return Err(Refusal::Full.into()),
            // Nobody is dialled for a client that has gone.
            Err(_) if downstream.stream.is_hung_up() => return Err(Stop::Gone),
            Err(fault) => {
                let (endpoint, reason) = (&endpoint.name, fault.row().word);
                tracing::debug!(upstream = upstream.config.name, endpoint, reason, "endpoint passed over");
                refusal = fault;
            }
        }
    }
    Err(refusal.into())
}

/// The endpoint to try next, if there is one that has room and has not been tried; from `turn` on, or, among those that have least to
/// do, the first from there on. Mostly the first that is asked for is the only one.
fn next_endpoint(upstream: &UpstreamEntry, turn: usize, tried: &[usize]) -> Option<usize> {
    let count = upstream.endpoints.len();
    let max = u64::from(upstream.config.sessions_per_endpoint_max);
    let has_room = |index: &usize| max == 0 || upstream.endpoints[*index].live.load(Ordering::Relaxed) < max;
    let order = (0..count).map(|step| (turn + step) % count);
    let mut left = order.filter(|index| !tried.contains(index) && has_room(index));
    match upstream.config.balance {
        Balance::RoundRobin => left.next(),
        Balance::LeastSessions => left.min_by_key(|index| upstream.endpoints[*index].live.load(Ordering::Relaxed)),
    }
}

async fn dial(
    shard: &Rc<Shard>,
    upstream: &UpstreamEntry,
    endpoint: &EndpointEntry,
    nodelay: bool,
) -> Result<Socket, Refusal> {
    let timeout = Duration::from(upstream.config.connect_timeout);
    let (host, port) = match &endpoint.url.place {
        Place::Tcp { host, port } => (host, *port),
        Place::Unix(path) => {
            return outcome(monoio::time::timeout(timeout, Socket::connect_unix(Path::new(path))).await);
        }
    };
    if let Ok(address) = host.parse::<IpAddr>() {
        let connecting = Socket::connect_tcp(SocketAddr::new(address, port), nodelay);
        return outcome(monoio::time::timeout(timeout, connecting).await);
    }
    let addresses = shard.shared.resolver.resolve(host, upstream.config.resolve_ttl_max.into());
    let addresses = match monoio::time::timeout(timeout, addresses).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(_)) => return Err(Refusal::UpstreamName),
        Err(_) => return Err(Refusal::UpstreamConnectTimeout),
    };
    let mut refusal = Refusal::UpstreamUnreachable;
    for address in addresses.iter().take(ADDRESSES_TRIED_MAX) {
        let connecting = Socket::connect_tcp(SocketAddr::new(*address, port), nodelay);
        match outcome(monoio::time::timeout(timeout, connecting).await) {
            Ok(socket) => return Ok(socket),
            Err(Refusal::Full) => return Err(Refusal::Full),
            Err(fault) => refusal = fault,
        }
    }
    Err(refusal)
}

/// The TLS handshake with an endpoint that is connected. It may take as long as connecting.
async fn agree_on_tls(
    shard: &Shard,
    upstream: &UpstreamEntry,
    index: usize,
    socket: Socket,
    downstream: &Downstream,
) -> Result<Stream, Refusal> {
    let endpoint = &upstream.endpoints[index];
    let Place::Tcp { host, .. } = &endpoint.url.place else { return Err(Refusal::Internal) };
    let Some(terms) = &upstream.terms else { return Err(Refusal::Internal) };
    let name = terms.server_name(host).map_err(|_| Refusal::Internal)?;
    // An upstream of a bare URL has no options, and verifies.
    let verified = upstream.config.endpoints.get(index).is_none_or(|endpoint| endpoint.verify_certificate);
    let agreeing = tls::handshake::connect(&socket, terms.config(verified), name);
    let (reason, detail) = match monoio::time::timeout(upstream.config.connect_timeout.into(), agreeing).await {
        Ok(Ok((secure, agreed))) => {
            downstream.seen.upstream_tls.set(Some(tls::version(agreed.version)));
            let stream = Stream::new(socket);
            stream.secure(secure);
            return Ok(stream);
        }
        Ok(Err(Fault::Tls(error))) => (failure::upstream(&error), failure::describe(&error)),
        Ok(Err(Fault::TooLong)) => (Reason::BadRecord, "its TLS handshake is too long".into()),
        Ok(Err(Fault::PlainHttp)) => (Reason::PlainHttp, "it speaks HTTP, and not TLS".into()),
        Ok(Err(Fault::Gone)) => (Reason::Abandoned, "it ended its TLS handshake".into()),
        Err(_) => (Reason::Timeout, "its TLS handshake was not over in time".into()),
    };
    Err(tell_failure(shard, upstream, endpoint, downstream, reason, &detail))
}

/// With TLS 1.3 an endpoint judges the gateway's certificate when the gateway's side is over: its refusal comes where its
/// answer was awaited.
fn why_without_an_answer(
    shard: &Shard,
    route: &Route,
    endpoint: &EndpointEntry,
    stream: &Stream,
    downstream: &Downstream,
) -> Option<Refusal> {
    let (reason, detail) = match stream.end()? {
        End::Closed => return None,
        End::GivenUp(alert) => {
            let alert = AlertDescription::from(alert);
            (failure::alerted(alert), format!("it ended the TLS session with the alert {alert:?}"))
        }
        End::Broken(alert) => (Reason::BadRecord, format!("its TLS records are not in order ({alert:?})")),
    };
    Some(tell_failure(shard, &route.upstream, endpoint, downstream, reason, &detail))
}

fn tell_failure(
    shard: &Shard,
    upstream: &UpstreamEntry,
    endpoint: &EndpointEntry,
    downstream: &Downstream,
    reason: Reason,
    detail: &str,
) -> Refusal {
    shard.record.upstream_tls_failed(&upstream.config.name, reason);
    tracing::debug!(upstream = upstream.config.name, reason = reason.word(), detail, "there is no TLS session");
    downstream.seen.because(format!("{}: {detail}", endpoint.name));
    Refusal::UpstreamTls
}

/// What an attempt to connect came to, if it came to anything in time.
fn outcome(connected: Result<io::Result<Socket>, monoio::time::error::Elapsed>) -> Result<Socket, Refusal> {
    match connected {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => Err(Refusal::Full),
        Ok(Err(_)) => Err(Refusal::UpstreamUnreachable),
        Err(_) => Err(Refusal::UpstreamConnectTimeout),
    }
}

/// What is offered onwards: the client's offer, without compression where the API has it off, and without a credential.
/// Where messages may be left out on their way, no compression context spans two of them.
fn offer(route: &Route, request: &Request, onward: &Onward) -> Offer {
    let mut offer = request.upgrade.offer.clone();
    offer.subprotocols.retain(|name| !onward.is_carrier(name));
    if route.api.api.compression == Compression::Off {
        offer.deflate.clear();
    }
    if onward.gives_up_contexts() {
        offer.deflate.iter_mut().for_each(|one| one.server_no_context_takeover = true);
    }
    offer
}

#[expect(clippy::too_many_arguments, reason = "each is one part of what the endpoint reads")]
fn upgrade_request(
    tables: &Tables,
    route: &Route,
    request: &Request,
    onward: &Onward,
    downstream: &Downstream,
    endpoint: &EndpointEntry,
    key: &Key,
    offer: &Offer,
) -> Result<Vec<u8>, Refusal> {
    let view = request.view();
    let told = Told::of(tables, request, downstream);
    let extra: Vec<(&str, &str)> = told.fields().chain(onward.headers()).collect();
    let withheld = forwarding::withheld(downstream, onward);
    let target = route::resource(&endpoint.url, route.suffix.as_deref(), onward.query(view.query()));
    let mut head = Vec::with_capacity(1024);
    let written = write_upgrade_request(
        &mut head,
        &UpgradeRequest {
            client: view,
            target: &target,
            host: if route.upstream.config.preserve_host { view.authority() } else { &endpoint.authority },
            key,
            offer,
            extra: &extra,
            withheld: &withheld,
        },
    );
    written.map_err(|_| Refusal::Internal)?;
    Ok(head)
}

async fn read_response(stream: &Stream) -> Result<(ResponseHead, Vec<u8>), Refusal> {
    let mut scan = ResponseScan::new();
    let mut bytes = Vec::new();
    loop {
        let length = bytes.len();
        bytes.resize(length + HEAD_READ_BYTES, 0);
        // No endpoint has answered while it was being asked.
        let received = stream.receive_later(&mut bytes[length..]).await;
        bytes.truncate(length + received.as_ref().map_or(0, |received| *received));
        match received {
            Ok(0) | Err(_) => return Err(Refusal::UpstreamClosed),
            Ok(_) => {}
        }
        match scan.feed(&bytes) {
            Ok(Parse::Complete(head, _)) => return Ok((head, bytes)),
            Ok(Parse::Partial { .. }) => {}
            Err(_) => return Err(Refusal::UpstreamBadHead),
        }
    }
}

/// Gives the client the endpoint's answer as a plain HTTP response that ends its connection. No tunnel comes of it.
async fn relay_answer(
    response: &ResponseHead,
    bytes: &[u8],
    stream: &Stream,
    downstream: &Downstream,
    tables: &Tables,
) -> Result<(), Stop> {
    let mut head = Vec::with_capacity(512);
    let extra = [(tables.settings().request_id_header.as_str(), downstream.seen.request_id.as_str())];
    let body = write_relayed_head(&mut head, &response.view(bytes), &extra).map_err(|_| Refusal::UpstreamBadHead)?;
    let client = &downstream.stream;
    client.send_all(&head).await.map_err(|_| Stop::Gone)?;
    let mut body = Body::new(body);
    let mut piece = bytes[response.length()..].to_vec();
    let mut turn = 0;
    loop {
        let belongs = body.take(&piece).map_err(|_| Stop::Gone)?;
        client.send_all(&piece[..belongs]).await.map_err(|_| Stop::Gone)?;
        if body.is_over() {
            return Ok(());
        }
        turn += belongs;
        if turn >= BODY_TURN_BYTES {
            turn = 0;
            monoio::time::sleep(BODY_REST).await;
        }
        piece.resize(READ_BYTES, 0);
        match stream.receive(&mut piece).await {
            Ok(0) if body.ends_with_connection() => return Ok(()),
            Ok(0) | Err(_) => return Err(Stop::Gone),
            Ok(received) => piece.truncate(received),
        }
    }
}

/// How much of an answer's body is still to come.
enum Body {
    Known(u64),
    Chunked(ChunkTracker, bool),
    UntilClose,
}

impl Body {
    fn new(length: BodyLength) -> Self {
        match length {
            BodyLength::None => Self::Known(0),
            BodyLength::Known(length) => Self::Known(length),
            BodyLength::Chunked => Self::Chunked(ChunkTracker::new(), false),
            BodyLength::UntilClose => Self::UntilClose,
        }
    }

    /// How many bytes of the piece belong to the body.
    fn take(&mut self, piece: &[u8]) -> Result<usize, proto::http::ChunkFault> {
        Ok(match self {
            Self::Known(left) => {
                let belongs = usize::try_from(*left).map_or(piece.len(), |left| left.min(piece.len()));
                *left -= belongs as u64;
                belongs
            }
            Self::Chunked(tracker, over) => match tracker.feed(piece)? {
                Chunked::More => piece.len(),
                Chunked::Ended(belongs) => {
                    *over = true;
                    belongs
                }
            },
            Self::UntilClose => piece.len(),
        })
    }

    fn is_over(&self) -> bool {
        matches!(self, Self::Known(0) | Self::Chunked(_, true))
    }

    fn ends_with_connection(&self) -> bool {
        matches!(self, Self::UntilClose)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use proto::control::message::Generation;
    use proto::snapshot::{Config, Snapshot, Upstream as Group};

    use super::*;

    fn group(balance: Balance, ports: std::ops::Range<u16>) -> Arc<UpstreamEntry> {
        let urls = ports.map(|port| format!("ws://127.0.0.1:{port}/").parse().unwrap()).collect();
        let group = Group { balance, ..Group::new("many", urls) };
        let snapshot = Snapshot::check(Config { version: 1, upstreams: vec![group], ..Config::default() }).unwrap();
        Arc::clone(
            Tables::build(Generation { source: "test".into(), number: 1 }, &snapshot, None)
                .unwrap()
                .upstream("many")
                .unwrap(),
        )
    }

    fn in_order(upstream: &UpstreamEntry, turn: usize) -> Vec<usize> {
        let mut tried = Vec::new();
        while let Some(index) = next_endpoint(upstream, turn, &tried) {
            tried.push(index);
        }
        tried
    }

    #[test]
    fn endpoints_are_tried_in_turn_or_by_their_sessions_and_in_turn_among_equals() {
        assert_eq!(in_order(&group(Balance::RoundRobin, 1..5), 2), [2, 3, 0, 1]);
        let least = group(Balance::LeastSessions, 1..5);
        for (endpoint, live) in least.endpoints.iter().zip([7, 3, 3, 3]) {
            endpoint.live.store(live, Ordering::Relaxed);
        }
        assert_eq!(in_order(&least, 2), [2, 3, 1, 0]);
        assert_eq!(in_order(&group(Balance::LeastSessions, 1..2), 0), [0]);
    }

    /// A worker that sorts by numbers which change meanwhile finds no order, and the standard library panics.
    #[test]
    fn endpoints_are_chosen_while_other_workers_count() {
        let upstream = &group(Balance::LeastSessions, 9000..9064);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = 1_u64;
                while !done.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    upstream.endpoints[(random >> 58) as usize].live.store(random >> 32 & 63, Ordering::Relaxed);
                }
            });
            for _ in 0..20_000 {
                let turn = upstream.turn();
                let mut tried = Vec::new();
                while tried.len() < ENDPOINTS_TRIED_MAX {
                    let index = next_endpoint(upstream, turn, &tried).expect("there are more endpoints than that");
                    assert!(!tried.contains(&index));
                    tried.push(index);
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
