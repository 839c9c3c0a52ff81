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

use proto::http::forwarding::{append_list, forwarded_element};
use proto::http::{BodyLength, ChunkTracker, Chunked, ResponseHead, ResponseScan, write_relayed_head};
use proto::parse::Parse;
use proto::snapshot::{Balance, Compression, Place};
use proto::ws::handshake::{Agreed, Key, Offer, SwitchFault, UpgradeRequest, check_switch, write_upgrade_request};

use crate::handshake::{Downstream, Request, Stop};
use crate::refusal::Refusal;
use crate::relay::LiveSession;
use crate::route::{self, Route};
use crate::shard::Shard;
use crate::socket::Socket;
use crate::tables::{EndpointEntry, Tables, UpstreamEntry};

/// Endpoints that are tried for one client before it is told that the service cannot be reached.
const ENDPOINTS_TRIED_MAX: usize = 4;
/// Addresses of one name that are tried.
const ADDRESSES_TRIED_MAX: usize = 4;
/// Connect timeouts that all attempts for one client may take together.
const CONNECT_TIMEOUTS_MAX: u32 = 3;
/// Bytes read at a time, of heads and of bodies that are relayed.
const READ_BYTES: usize = 4096;
/// How often it is looked whether the client still waits.
const CLIENT_LOOKED_AT_EVERY: Duration = Duration::from_millis(250);
/// Bytes of a body that are relayed before everybody else has a turn: neither side need ever be waited for.
const BODY_TURN_BYTES: usize = 256 * 1024;
/// The shortest rest that the clock knows.
const BODY_REST: Duration = Duration::from_millis(1);

/// The endpoint's side of a session whose handshake is complete.
pub struct Upstream {
    /// The socket.
    pub socket: Socket,
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
    downstream: &mut Downstream,
) -> Result<Upstream, Stop> {
    let patience = Duration::from(route.upstream.config.connect_timeout) * CONNECT_TIMEOUTS_MAX;
    let connecting = monoio::time::timeout(patience, connect(shard, &route.upstream, downstream));
    let (socket, live, endpoint) = match while_waited_for(&downstream.socket, connecting).await? {
        Ok(connected) => connected?,
        Err(_) => return Err(Refusal::UpstreamConnectTimeout.into()),
    };
    downstream.seen.endpoint = endpoint.url.without_query();
    let offer = offer(route, request);
    let key = Key::from_random(shard.keys.borrow_mut().next_octets());
    let head = upgrade_request(tables, route, request, downstream, &endpoint, &key, &offer)?;
    let timeout = Duration::from(route.upstream.config.handshake_timeout);
    let answer = async {
        socket.send_all(&head).await.map_err(|_| Refusal::UpstreamClosed)?;
        read_response(&socket).await
    };
    let answer = monoio::time::timeout(timeout, answer);
    let (response, mut bytes) = match while_waited_for(&downstream.socket, answer).await? {
        Ok(answer) => answer?,
        Err(_) => return Err(Refusal::UpstreamHandshakeTimeout.into()),
    };
    match check_switch(&response.view(&bytes), &key, &offer) {
        Ok(agreed) => {
            let early = bytes.split_off(response.length());
            Ok(Upstream { socket, early, live, agreed })
        }
        Err(SwitchFault::Status) => {
            let status = response.status();
            let relayed = relay_answer(&response, &bytes, &socket, downstream, tables);
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

/// Does the work for as long as the client is there: an endpoint is not kept busy for nobody.
///
/// The client is looked at now and then, because what it sends early stays unread, and its socket readable, until the 101.
async fn while_waited_for<T>(client: &Socket, work: impl Future<Output = T>) -> Result<T, Stop> {
    let mut work = pin!(work);
    loop {
        match monoio::time::timeout(CLIENT_LOOKED_AT_EVERY, work.as_mut()).await {
            Ok(done) => return Ok(done),
            Err(_) if client.is_hung_up() => return Err(Stop::Gone),
            Err(_) => {}
        }
    }
}

/// The first endpoint, in the order of the balance, that accepts a connection.
async fn connect(
    shard: &Rc<Shard>,
    upstream: &Arc<UpstreamEntry>,
    downstream: &Downstream,
) -> Result<(Socket, LiveSession, Arc<EndpointEntry>), Stop> {
    let mut refusal = Refusal::UpstreamUnreachable;
    for index in order(upstream).into_iter().take(ENDPOINTS_TRIED_MAX) {
        let endpoint = &upstream.endpoints[index];
        // Counted while it is being dialled, so that a burst of clients does not choose the same one.
        let live = LiveSession::on(endpoint);
        match dial(shard, upstream, endpoint, downstream.listener.tcp_nodelay).await {
            Ok(socket) => return Ok((socket, live, Arc::clone(endpoint))),
            Err(Refusal::Full) => return Err(Refusal::Full.into()),
            // Nobody is dialled for a client that has gone.
            Err(_) if downstream.socket.is_hung_up() => return Err(Stop::Gone),
            Err(fault) => {
                let (endpoint, reason) = (endpoint.url.without_query(), fault.row().word);
                tracing::debug!(upstream = upstream.config.name, endpoint, reason, "endpoint passed over");
                refusal = fault;
            }
        }
    }
    Err(refusal.into())
}

/// Indices of the endpoints in the order in which they are tried.
fn order(upstream: &UpstreamEntry) -> Vec<usize> {
    let count = upstream.endpoints.len();
    let first = upstream.turn();
    let mut order: Vec<usize> = (0..count).map(|step| (first + step) % count).collect();
    if upstream.config.balance == Balance::LeastSessions {
        // Stable: among equals, in turn. Cached: other workers count at the same time, and an order that changes while
        // it is sorted by is none.
        order.sort_by_cached_key(|index| upstream.endpoints[*index].live.load(Ordering::Relaxed));
    }
    order
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
            return within(timeout, Socket::connect_unix(Path::new(path))).await;
        }
    };
    let addresses = shard.shared.resolver.resolve(host, upstream.config.resolve_ttl_max.into());
    let addresses = match monoio::time::timeout(timeout, addresses).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(_)) => return Err(Refusal::UpstreamName),
        Err(_) => return Err(Refusal::UpstreamConnectTimeout),
    };
    let mut refusal = Refusal::UpstreamUnreachable;
    for address in addresses.iter().take(ADDRESSES_TRIED_MAX) {
        match within(timeout, Socket::connect_tcp(SocketAddr::new(*address, port), nodelay)).await {
            Ok(socket) => return Ok(socket),
            Err(Refusal::Full) => return Err(Refusal::Full),
            Err(fault) => refusal = fault,
        }
    }
    Err(refusal)
}

async fn within(timeout: Duration, connecting: impl Future<Output = io::Result<Socket>>) -> Result<Socket, Refusal> {
    match monoio::time::timeout(timeout, connecting).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => Err(Refusal::Full),
        Ok(Err(_)) => Err(Refusal::UpstreamUnreachable),
        Err(_) => Err(Refusal::UpstreamConnectTimeout),
    }
}

/// What is offered onwards: the client's offer, without compression where the API has it off.
fn offer(route: &Route, request: &Request) -> Offer {
    let mut offer = request.upgrade.offer.clone();
    if route.api.api.compression == Compression::Off {
        offer.deflate.clear();
    }
    offer
}

fn upgrade_request(
    tables: &Tables,
    route: &Route,
    request: &Request,
    downstream: &Downstream,
    endpoint: &EndpointEntry,
    key: &Key,
    offer: &Offer,
) -> Result<Vec<u8>, Refusal> {
    let view = request.view();
    let believed = downstream.is_trusted();
    let client_host = view.authority();
    let peer: Option<IpAddr> = downstream.peer().map(|peer| peer.ip().to_canonical());
    let existing = |name| view.header_values(name).filter(move |_| believed);
    let forwarded_for = peer.map(|peer| append_list(existing("x-forwarded-for"), &peer.to_string()));
    let proto = view.header_str("x-forwarded-proto").filter(|_| believed).unwrap_or("http");
    let host = view.header_str("x-forwarded-host").filter(|_| believed).unwrap_or(client_host);
    let forwarded = append_list(existing("forwarded"), &forwarded_element(peer, Some(client_host), "http"));
    let trace = downstream.seen.trace.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut extra = vec![
        ("X-Forwarded-Proto", proto),
        ("X-Forwarded-Host", host),
        ("Forwarded", &forwarded),
        (tables.settings().request_id_header.as_str(), &downstream.seen.request_id),
        ("traceparent", &trace),
    ];
    if let Some(forwarded_for) = &forwarded_for {
        extra.push(("X-Forwarded-For", forwarded_for));
    }
    let mut withheld: Vec<&str> = downstream.listener.environment_header.as_deref().into_iter().collect();
    if !downstream.seen.continues_trace {
        // It belongs to a trace that ended here.
        withheld.push("tracestate");
    }
    let target = route::resource(&endpoint.url, route.suffix.as_deref(), view.query());
    let mut head = Vec::with_capacity(1024);
    let written = write_upgrade_request(
        &mut head,
        &UpgradeRequest {
            client: view,
            target: &target,
            host: if route.upstream.config.preserve_host { client_host } else { &endpoint.authority },
            key,
            offer,
            extra: &extra,
            withheld: &withheld,
        },
    );
    written.map_err(|_| Refusal::Internal)?;
    Ok(head)
}

async fn read_response(socket: &Socket) -> Result<(ResponseHead, Vec<u8>), Refusal> {
    let mut scan = ResponseScan::new();
    let mut bytes = Vec::new();
    loop {
        let length = bytes.len();
        bytes.resize(length + READ_BYTES, 0);
        let received = socket.receive(&mut bytes[length..]).await;
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
    socket: &Socket,
    downstream: &Downstream,
    tables: &Tables,
) -> Result<(), Stop> {
    let mut head = Vec::with_capacity(512);
    let extra = [(tables.settings().request_id_header.as_str(), downstream.seen.request_id.as_str())];
    let body = write_relayed_head(&mut head, &response.view(bytes), &extra).map_err(|_| Refusal::UpstreamBadHead)?;
    let client = &downstream.socket;
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
        match socket.receive(&mut piece).await {
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

    /// A worker that sorts by numbers which change meanwhile finds no order, and the standard library panics.
    #[test]
    fn endpoints_are_put_in_order_while_other_workers_count() {
        let urls = (0..64).map(|port| format!("ws://127.0.0.1:{}/", 9000 + port).parse().unwrap()).collect();
        let group = Group { balance: Balance::LeastSessions, ..Group::new("many", urls) };
        let snapshot = Snapshot::check(Config { version: 1, upstreams: vec![group], ..Config::default() }).unwrap();
        let tables = Tables::build(Generation { source: "test".into(), number: 1 }, &snapshot, None);
        let upstream = tables.upstream("many").unwrap();
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
                let order = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| order(upstream)));
                if order.is_err() {
                    done.store(true, Ordering::Relaxed);
                }
                assert_eq!(order.unwrap().len(), 64);
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
