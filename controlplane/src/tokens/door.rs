//! Where the token endpoint listens: opened, moved and closed as the configuration says, and what a connection may take.
//!
//! A connection that is there when the terms change gets its answer under those it began with, and is closed after it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::errors::with_sources;
use proto::limits::{HEAD_BYTES_MAX, HEADERS_MAX};
use proto::snapshot::Bind;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::Terms;
use super::board::Board;
use super::front::Front;
use crate::compile::Tokens;
use crate::door::clear;
use crate::newcomers::{Sources, source};

/// Connections at one time, and how many of them from one address; of IPv6, from one network of 64 bits.
const CONNECTIONS_MAX: usize = 1024;
const CONNECTIONS_PER_SOURCE_MAX: usize = 256;
/// How long a TLS handshake may take, and how long a head.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection is used at most, and how long its last answer may then take.
const LIFE_MAX: Duration = Duration::from_secs(60);
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// When an address that could not be had is tried again.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// How long no connection is accepted when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves for as long as the control plane runs.
pub async fn serve(front: Arc<Front>, mut tokens: watch::Receiver<Arc<Tokens>>, board: Arc<Board>) {
    let mut door = Door::new(front, board);
    loop {
        let terms = tokens.borrow_and_update().terms.clone();
        door.work_by(terms);
        let retries = door.wanted().is_some();
        tokio::select! {
            changed = tokens.changed() => if changed.is_err() { return },
            () = door.accept() => {}
            () = tokio::time::sleep(OPEN_AGAIN), if retries => {}
        }
    }
}

struct Door {
    front: Arc<Front>,
    board: Arc<Board>,
    terms: Option<Arc<Terms>>,
    /// How TLS is spoken there, if it is.
    acceptor: Option<TlsAcceptor>,
    open: Option<(Bind, Listening)>,
    /// The address that was last told not to be had, so that it is told once.
    refused: Option<Bind>,
    connections: Arc<Semaphore>,
    sources: Arc<Sources>,
    /// Steps when those who are there are to leave.
    leave: watch::Sender<u64>,
}

impl Door {
    fn new(front: Arc<Front>, board: Arc<Board>) -> Self {
        Self {
            front,
            board,
            terms: None,
            acceptor: None,
            open: None,
            refused: None,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            sources: Arc::default(),
            leave: watch::Sender::new(0),
        }
    }

    /// Where it should listen and does not.
    fn wanted(&self) -> Option<&Bind> {
        let wanted = &self.terms.as_ref()?.endpoint.bind;
        let has_it = self.open.as_ref().is_some_and(|(bind, _)| bind == wanted);
        (!has_it).then_some(wanted)
    }

    fn work_by(&mut self, terms: Option<Terms>) {
        if self.terms.as_deref() != terms.as_ref() {
            self.adopt(terms);
        }
        let Some(bind) = self.wanted().cloned() else { return };
        match Listening::open(&bind) {
            Ok(listening) => {
                let is_secure = self.acceptor.is_some();
                tracing::info!(%bind, tls = is_secure, "the token endpoint is open");
                self.board.endpoint(Some(bind.to_string()), None);
                self.open = Some((bind, listening));
                self.refused = None;
            }
            Err(error) if self.refused.as_ref() != Some(&bind) => {
                let fault = with_sources(&*error);
                tracing::error!(%bind, error = fault, "the token endpoint cannot be opened; it is tried again");
                self.board.endpoint(None, Some(format!("{bind} cannot be opened: {fault}")));
                self.refused = Some(bind);
            }
            Err(_) => {}
        }
    }

    /// Other terms: those who are there leave after their answer. An address that is not wanted any more is closed.
    fn adopt(&mut self, terms: Option<Terms>) {
        let acceptor = match terms.as_ref().map(Terms::tls) {
            None | Some(Ok(None)) => None,
            Some(Ok(Some(config))) => Some(TlsAcceptor::from(Arc::new(config))),
            Some(Err(fault)) => {
                // They were found good when the configuration was read.
                tracing::error!(fault, "TLS cannot be spoken at the token endpoint; the old terms stay");
                return;
            }
        };
        self.acceptor = acceptor;
        self.terms = terms.map(Arc::new);
        self.front.use_terms(self.terms.clone());
        self.leave.send_modify(|step| *step = step.wrapping_add(1));
        let bind = self.terms.as_ref().map(|terms| &terms.endpoint.bind);
        if self.open.as_ref().is_some_and(|(open, _)| Some(open) != bind) {
            self.open = None;
        }
        if self.terms.is_none() {
            self.board.endpoint(None, None);
        }
    }

    /// Takes one connection; without an open door, waits for ever.
    async fn accept(&self) {
        let Some((_, listening)) = &self.open else { return std::future::pending().await };
        let permit = Arc::clone(&self.connections).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, from) = match listening.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: waiting is all that helps.
                tracing::warn!(%error, "a connection to the token endpoint cannot be accepted");
                return tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        };
        let visit = Visit {
            front: Arc::clone(&self.front),
            acceptor: self.acceptor.clone(),
            leave: self.leave.subscribe(),
            permit,
        };
        match (stream, from) {
            (Stream::Tcp(stream), Some(from)) => {
                let Some(place) = self.sources.admit(from, CONNECTIONS_PER_SOURCE_MAX) else { return };
                let _ = stream.set_nodelay(true);
                let source = source(from).to_string();
                tokio::spawn(async move {
                    visit.serve(stream, source).await;
                    drop(place);
                });
            }
            (Stream::Unix(stream), _) => {
                tokio::spawn(visit.serve(stream, "a Unix socket".into()));
            }
            (Stream::Tcp(_), None) => {}
        }
    }
}

/// One connection, and what it holds.
struct Visit {
    front: Arc<Front>,
    acceptor: Option<TlsAcceptor>,
    leave: watch::Receiver<u64>,
    permit: OwnedSemaphorePermit,
}

impl Visit {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, source: String) {
        let Self { front, acceptor, leave, permit } = self;
        match acceptor {
            None => converse(stream, front, leave, source).await,
            Some(acceptor) => match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => converse(stream, front, leave, source).await,
                Ok(Err(error)) => tracing::debug!(%error, source, "a TLS handshake with the token endpoint has failed"),
                Err(_) => tracing::debug!(source, "a TLS handshake with the token endpoint took too long"),
            },
        }
        drop(permit);
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    front: Arc<Front>,
    mut leave: watch::Receiver<u64>,
    source: String,
) {
    let (asked, mut was_asked) = watch::channel(false);
    let service = service_fn(move |request| {
        asked.send_replace(true);
        let answering = Arc::clone(&front).answer(request, source.clone());
        async move { Ok::<_, std::convert::Infallible>(answering.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // What goes wrong on a connection concerns its client only, and it sees it.
    tokio::select! {
        _ = &mut connection => return,
        _ = leave.changed() => {}
        () = tokio::time::sleep(LIFE_MAX) => {}
    }
    if !*was_asked.borrow() {
        // A connection on which nothing has been read is closed by the shutdown, and its first request may be on the way.
        tokio::select! {
            _ = &mut connection => return,
            _ = was_asked.changed() => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LAST_ANSWER_WITHIN, connection).await;
}

enum Listening {
    Tcp(TcpListener),
    Unix { listener: UnixListener, path: PathBuf, inode: u64 },
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

type OpenError = Box<dyn std::error::Error + Send + Sync>;

impl Listening {
    /// A socket that nobody answers on is replaced, as those of listeners are.
    fn open(bind: &Bind) -> Result<Self, OpenError> {
        match bind {
            Bind::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(TcpListener::from_std(listener)?))
            }
            Bind::Unix(path) => {
                clear(path, "token endpoint", "token_endpoint.bind")?;
                let listener = UnixListener::bind(path)?;
                let inode = path.metadata()?.ino();
                Ok(Self::Unix { listener, path: path.clone(), inode })
            }
        }
    }

    async fn accept(&self) -> io::Result<(Stream, Option<std::net::IpAddr>)> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, from)| (Stream::Tcp(stream), Some(from.ip()))),
            Self::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| (Stream::Unix(stream), None)),
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let Self::Unix { path, inode, .. } = self else { return };
        // Another one may already have put its own socket there.
        if path.metadata().is_ok_and(|metadata| metadata.ino() == *inode) {
            let _ = std::fs::remove_file(path);
        }
    }
}
