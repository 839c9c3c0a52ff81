//! The operator listener: `/health`, `/ready` and `/metrics`, up before any snapshot.
//!
//! It is for people and machines that run the gateway, and nothing on it changes anything. Still it trusts no browser:
//! a foreign `Host` (DNS rebinding) or `Origin` is refused, and every connection is short and bounded.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use proto::limits::{HEADERS_MAX, OPERATOR_CONNECTIONS_MAX};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::BridgeCounts;
use crate::health::Health;
use crate::record::{self, Log, Record};

/// From accept until the whole request head has arrived.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// From accept until the answer has been taken.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long no connection is accepted when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The operator listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error(
    "the operator listener cannot be bound to {address}; choose another with --operator, or switch it off with --operator off"
)]
pub struct BindError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Binds the operator listener, at start, so that a failure can still be told to the person who starts the process.
pub fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).map_err(|source| BindError { address, source })
}

/// What the answers are made of.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) hosts: Vec<String>,
    pub(super) node: String,
    pub(super) record: Record,
    pub(super) health: Arc<Health>,
    pub(super) log: Log,
    pub(super) counts: BridgeCounts,
}

/// Serves until something is wrong with the listener itself.
pub(super) async fn serve(listener: tokio::net::TcpListener, desk: &Arc<Desk>) -> io::Result<()> {
    let router = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such page; there are /health, /ready and /metrics\n") })
        .layer(middleware::from_fn_with_state(Arc::clone(desk), same_site))
        .with_state(Arc::clone(desk));
    let places = Arc::new(Semaphore::new(OPERATOR_CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if is_fatal(&error) => return Err(error),
            Err(_) => {
                // Out of descriptors, or the caller has gone: wait for better times rather than spin.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let router = router.clone();
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES_MAX)
                .max_headers(HEADERS_MAX)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            // What goes wrong on such a connection concerns its caller only, and he sees it.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
}

fn is_fatal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP))
}

async fn ready(State(desk): State<Arc<Desk>>) -> (StatusCode, String) {
    match desk.health.ready() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics(State(desk): State<Arc<Desk>>) -> Response {
    // Summing thousands of series takes milliseconds, which names need not wait for.
    let rendering = tokio::task::spawn_blocking(move || {
        record::render(&desk.record, &desk.health, &desk.log, &desk.counts, Instant::now())
    });
    match rendering.await {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Refuses what a web page in somebody's browser could send here.
async fn same_site(State(desk): State<Arc<Desk>>, request: Request<Body>, next: Next) -> Response {
    match desk.check(request.version(), request.uri().authority().map(|a| a.as_str()), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

type Refusal = (StatusCode, &'static str);

impl Desk {
    fn check(&self, version: Version, authority: Option<&str>, headers: &HeaderMap) -> Result<(), Refusal> {
        const BAD_HOST: Refusal = (StatusCode::BAD_REQUEST, "one Host header is needed\n");
        const FOREIGN_HOST: Refusal =
            (StatusCode::FORBIDDEN, "this host name is not known here; allow it with --operator-host\n");
        const FOREIGN_ORIGIN: Refusal = (StatusCode::FORBIDDEN, "requests from other origins are not answered\n");
        let mut hosts = headers.get_all(HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().map_err(|_| BAD_HOST)?,
            // Browsers always send one; simple health checks speak HTTP/1.0 and send none.
            (None, None) if version == Version::HTTP_10 => return no_origin(headers).ok_or(FOREIGN_ORIGIN),
            _ => return Err(BAD_HOST),
        };
        if !self.knows(host) || !authority.is_none_or(|authority| self.knows(authority)) {
            return Err(FOREIGN_HOST);
        }
        let same = |origin: &str| {
            origin.split_once("://").is_some_and(|(scheme, rest)| scheme == "http" && rest.eq_ignore_ascii_case(host))
        };
        let ours = headers.get_all(ORIGIN).iter().all(|origin| origin.to_str().is_ok_and(same));
        if ours { Ok(()) } else { Err(FOREIGN_ORIGIN) }
    }

    /// An address, `localhost`, the node, or a name that was given at start: names that nobody else's DNS can point here.
    fn knows(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let unbracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let is = |known: &str| !known.is_empty() && name.eq_ignore_ascii_case(known);
        unbracketed.parse::<IpAddr>().is_ok()
            || is("localhost")
            || is(&self.node)
            || self.hosts.iter().any(|known| is(known))
    }
}

fn no_origin(headers: &HeaderMap) -> Option<()> {
    (!headers.contains_key(ORIGIN)).then_some(())
}

#[cfg(test)]
mod tests;
