//! The admin API: HTTP over a Unix socket, and over TCP where it is asked for, in front of the [`office`](crate::office).
//!
//! Opens its doors, bounds every connection, and lets nobody past who is not known; what can be asked is in `routes`, what
//! comes of it is the catalogue's. Nothing here is on the path of a client of the gateway.

mod act;
mod caller;
mod conditions;
mod merge;
mod objects;
pub mod openapi;
pub mod problem;
pub mod query;
mod routes;
pub mod secrets;
mod shelf;
mod site;
mod tokens;
mod writing;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use proto::limits::{ADMIN_CONNECTIONS_MAX, HEADERS_MAX};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::credentials::{CredentialsError, Identity, ServerFiles, Terms};
use crate::door::{Door, SocketError};
use crate::newcomers::{Refusals, Sources};
use crate::office::Office;
use caller::Peer;
use proto::errors::with_sources;
use routes::Desk;
use site::Site;
use tokens::{Tokens, TokensError};

/// How long a request's head may take, and how long a connection may be silent between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// After so long a connection ends behind the answer that it is waiting for, and after so much more in any case.
const CONNECTION_WITHIN: Duration = Duration::from_secs(600);
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(90);
/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Connections over TCP of one address; of IPv6, of one network of 64 bits.
const CONNECTIONS_PER_SOURCE_MAX: usize = 32;
/// How long no connection is accepted when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the admin API is to be had.
#[derive(Debug, Clone, Default)]
pub struct Doors {
    /// The Unix socket, if there is to be one.
    pub socket: Option<PathBuf>,
    /// The TCP port, if there is to be one.
    pub port: Option<Port>,
}

/// A TCP port of the admin API.
#[derive(Debug, Clone)]
pub struct Port {
    /// Where.
    pub address: SocketAddr,
    /// A file of bearer tokens.
    pub tokens: Option<PathBuf>,
    /// For TLS.
    pub files: Option<ServerFiles>,
    /// Further names under which it may be called.
    pub hosts: Vec<String>,
}

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The Unix socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The certificates of the port.
    #[error("the admin port cannot be opened without its certificates")]
    Credentials(#[from] CredentialsError),
    /// The tokens of the port.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// Passwords in clear over a network.
    #[error(
        "the admin port {0} is not on loopback, so it needs TLS: give it --admin-certificate and --admin-key, or an \
         address such as 127.0.0.1:9903"
    )]
    InClear(SocketAddr),
    /// Nobody could be let in.
    #[error(
        "the admin port {0} needs to know somebody: give it --admin-tokens, or --admin-authorities beside its certificate"
    )]
    NobodyKnown(SocketAddr),
    /// The system refuses.
    #[error("the admin port {address} cannot be opened; choose another with --admin-tcp")]
    Io {
        /// The port.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The open doors of the admin API.
pub struct Admin {
    door: Option<Door>,
    port: Option<OpenPort>,
}

struct OpenPort {
    listener: TcpListener,
    address: SocketAddr,
    terms: Option<Terms>,
    tokens: Option<Tokens>,
    site: Site,
}

impl Admin {
    /// Opens the doors. Needs a tokio runtime around it.
    pub async fn open(doors: Doors) -> Result<Self, AdminError> {
        let door = doors.socket.map(|path| Door::open(&path, "admin socket", "--admin")).transpose()?;
        let port = match doors.port {
            Some(port) => Some(OpenPort::open(port).await?),
            None => None,
        };
        Ok(Self { door, port })
    }

    /// Where the TCP port is.
    pub fn address(&self) -> Option<SocketAddr> {
        self.port.as_ref().map(|port| port.address)
    }

    /// Where the Unix socket is.
    pub fn path(&self) -> Option<&std::path::Path> {
        self.door.as_ref().map(Door::path)
    }

    /// Serves until it is dropped.
    pub async fn serve(self, office: Arc<Office>) {
        let hashing = Arc::default();
        let local = async {
            let Some(door) = self.door else { return std::future::pending().await };
            let site = Site::new(Vec::new(), false);
            let desk = Desk::new(Arc::clone(&office), Arc::clone(&hashing), site, None);
            serve_socket(&door, routes::router(desk)).await;
        };
        let remote = async {
            let Some(port) = self.port else { return std::future::pending().await };
            let desk = Desk::new(Arc::clone(&office), Arc::clone(&hashing), port.site, port.tokens);
            serve_port(&port.listener, port.terms, routes::router(desk)).await;
        };
        tokio::join!(local, remote);
    }
}

impl OpenPort {
    async fn open(Port { address, tokens, files, hosts }: Port) -> Result<Self, AdminError> {
        if files.is_none() && !address.ip().is_loopback() {
            return Err(AdminError::InClear(address));
        }
        let wants_certificate = files.as_ref().is_some_and(|files| files.authorities.is_some());
        if tokens.is_none() && !wants_certificate {
            return Err(AdminError::NobodyKnown(address));
        }
        let mut names = hosts;
        names.extend(files.iter().flat_map(ServerFiles::server_names));
        let site = Site::new(names, files.is_some());
        let terms = match files {
            Some(files) => Some(Terms::read("the admin port", files.paths(), move || files.server_config())?),
            None => None,
        };
        let tokens = tokens.as_deref().map(Tokens::open).transpose()?;
        let failed = |source| AdminError::Io { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, terms, tokens, site })
    }
}

async fn serve_socket(door: &Door, router: Router) {
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        match door.admit().await {
            Ok((stream, uid)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    converse(stream, Peer::Local { uid }, router).await;
                    drop(place);
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn serve_port(listener: &TcpListener, mut terms: Option<Terms>, router: Router) {
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    let sources = Arc::<Sources>::default();
    let refusals = Arc::new(Refusals::of("the admin port"));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let Some(share) = sources.admit(from.ip(), CONNECTIONS_PER_SOURCE_MAX) else {
            refusals.tell(from, "too many connections of its address are open");
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (router, refusals) = (router.clone(), Arc::clone(&refusals));
        let acceptor = terms.as_mut().map(|terms| TlsAcceptor::from(terms.current()));
        tokio::spawn(async move {
            match acceptor {
                None => converse(stream, Peer::Remote { from, identity: None }, router).await,
                Some(acceptor) => match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                        let identity = shown.map(Identity::of);
                        converse(stream, Peer::Remote { from, identity }, router).await;
                    }
                    Ok(Err(error)) => refusals.tell(from, &with_sources(&error)),
                    Err(_) => refusals.tell(from, "the TLS handshake did not come to an end in time"),
                },
            }
            drop((place, share));
        });
    }
}

/// One connection: any number of requests, one after the other.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer, router: Router) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        TowerToHyperService::new(router.clone()).call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // What goes wrong on such a connection concerns its caller only, who sees it.
    if tokio::time::timeout(CONNECTION_WITHIN, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST_ANSWER_WITHIN, connection).await;
    }
}

async fn pause(error: &io::Error) {
    // Out of descriptors, most likely: waiting is all that helps.
    tracing::warn!(%error, "a connection to the admin API cannot be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
