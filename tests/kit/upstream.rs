//! A backend that does exactly what its test says, in clear or over TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::line::Line;
use super::peer::{Peer, Side};
use super::tls::{self, Service};
use super::variant;
use super::wait::until_some;

/// A listening socket; each connection that the gateway opens to it becomes a [`Peer`] in the hands of the test.
#[derive(Debug)]
pub struct RawUpstream {
    listener: Socket,
    address: Option<SocketAddr>,
    path: Option<PathBuf>,
    tls: Option<Service>,
}

impl RawUpstream {
    /// Listens on a free port of the loopback interface; over TLS where the story's variant wants it.
    pub fn listen() -> Self {
        Self::listen_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Listens on a free port of the loopback interface, over TLS on these terms.
    pub fn listen_securely(service: &Service) -> Self {
        Self { tls: Some(service.clone()), ..Self::listen() }
    }

    /// Listens at an address; port 0 stands for a free one.
    pub fn listen_at(address: SocketAddr) -> Self {
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        listener.bind(&address.into()).unwrap_or_else(|error| panic!("cannot listen at {address}: {error}"));
        let address = listener.local_addr().expect("an address").as_socket();
        Self {
            tls: variant::told().is_secure_out().then(|| tls::service().clone()),
            ..Self::on(listener, address, None)
        }
    }

    /// Listens on a Unix socket.
    pub fn listen_unix(path: PathBuf) -> Self {
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        listener.bind(&SockAddr::unix(&path).expect("a socket path")).expect("a free path");
        Self::on(listener, None, Some(path))
    }

    fn on(listener: Socket, address: Option<SocketAddr>, path: Option<PathBuf>) -> Self {
        listener.listen(128).expect("a socket can listen");
        listener.set_nonblocking(true).expect("a socket need not block");
        Self { listener, address, path, tls: None }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("an upstream with an address")
    }

    /// As an endpoint of a configuration.
    pub fn url(&self, target: &str) -> String {
        match (&self.address, &self.path) {
            (Some(address), _) if self.tls.is_some() => format!("wss://{address}{target}"),
            (Some(address), _) => format!("ws://{address}{target}"),
            (None, Some(path)) => format!("ws+unix:{}:{target}", path.display()),
            (None, None) => unreachable!("an upstream listens somewhere"),
        }
    }

    /// The next connection that the gateway opens.
    #[track_caller]
    pub fn accept(&self) -> Peer {
        until_some("the gateway connects to its upstream", || self.try_accept())
    }

    /// Checks that the gateway opens no connection for so long.
    #[track_caller]
    pub fn expect_no_connection(&self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            assert!(self.try_accept().is_none(), "the gateway connected to its upstream");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The next connection that the gateway has opened, if there is one.
    pub fn try_accept(&self) -> Option<Peer> {
        let (socket, _) = self.listener.accept().ok()?;
        // The handshake, over TLS, is done when something is first said or heard.
        let tls = self.tls.as_ref().map(|service| service.connection().into());
        Some(Peer::on(Line::new(socket, tls), Side::Upstream))
    }
}
