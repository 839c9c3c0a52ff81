//! Listening sockets: bound before a snapshot is accepted, shared out to the workers, and accepted from in batches.
//!
//! Each worker has its own TCP socket (SO_REUSEPORT), so the kernel spreads clients over the cores; a Unix socket is one
//! that all workers share. At the descriptor ceiling a connection is accepted on a descriptor kept for that, refused and
//! closed: the accept loop never spins on a queue that it cannot shorten.
//!
//! The kernel keeps a TCP connection back until its first bytes are there (TCP_DEFER_ACCEPT), but for no longer than about a
//! second: who connects and says nothing is accepted then, and its time begins to run. So most requests are there when
//! their connection is, and whoever connects only to see whether somebody is listening costs no worker anything.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use proto::snapshot::{self, Bind, Listener};
use socket2::{Domain, SockAddr, Socket, Type};

/// How long after an address was found in use it is tried again.
const BIND_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// How long the kernel waits for a client's first bytes; the least that it can be told.
const DEFER_S: libc::c_int = 1;
/// A listener of less patience than this has every connection at once: the kernel's second would be too much of it.
const DEFER_FROM: snapshot::Duration = snapshot::Duration::from_secs(2);

/// The listening sockets of the process, by what they are bound to: one descriptor for each worker.
#[derive(Default)]
pub struct Bound {
    sockets: HashMap<Bind, Vec<OwnedFd>>,
}

/// Sockets that are ready to be served, but are not yet.
pub struct Prepared {
    fresh: HashMap<Bind, Vec<OwnedFd>>,
    /// For each worker a second descriptor of each fresh socket.
    handed: Vec<HashMap<Bind, OwnedFd>>,
}

impl Bound {
    /// Binds what these listeners need and what is not bound yet. An address that is in use may be let go within
    /// `patience`. Every failure is named; then nothing has changed.
    pub fn prepare(&self, listeners: &[Listener], workers: usize, patience: Duration) -> Result<Prepared, Vec<String>> {
        let until = Instant::now() + patience;
        let mut fresh = HashMap::new();
        let mut handed: Vec<HashMap<Bind, OwnedFd>> = (0..workers).map(|_| HashMap::new()).collect();
        let mut reasons = Vec::new();
        for listener in listeners.iter().filter(|listener| !self.sockets.contains_key(&listener.bind)) {
            let bound = self.bind_patiently(listener, workers, until).and_then(|sockets| {
                let handed: io::Result<Vec<OwnedFd>> = sockets.iter().map(OwnedFd::try_clone).collect();
                Ok((sockets, handed?))
            });
            match bound {
                Ok((sockets, clones)) => {
                    fresh.insert(listener.bind.clone(), sockets);
                    for (handed, clone) in handed.iter_mut().zip(clones) {
                        handed.insert(listener.bind.clone(), clone);
                    }
                }
                Err(error) => {
                    reasons.push(format!("listener {}: cannot bind {}: {error}", listener.name, listener.bind));
                }
            }
        }
        if reasons.is_empty() {
            return Ok(Prepared { fresh, handed });
        }
        discard(fresh);
        Err(reasons)
    }

    /// Takes the prepared sockets in, gives up those that no listener needs, sets the options of the others anew, and
    /// returns what each worker has to be given.
    pub fn commit(&mut self, prepared: Prepared, listeners: &[Listener]) -> Vec<HashMap<Bind, OwnedFd>> {
        self.sockets.extend(prepared.fresh);
        let wanted = |bind: &Bind| listeners.iter().any(|listener| listener.bind == *bind);
        let (kept, given_up) = std::mem::take(&mut self.sockets).into_iter().partition(|(bind, _)| wanted(bind));
        self.sockets = kept;
        discard(given_up);
        for listener in listeners {
            for socket in self.sockets.get(&listener.bind).into_iter().flatten() {
                // The backlog may have changed; listening again sets it and loses nothing.
                // SAFETY: a plain system call on a descriptor that is open.
                unsafe { libc::listen(socket.as_raw_fd(), backlog(listener)) };
                set_options(socket, listener);
            }
        }
        prepared.handed
    }

    /// Gives all sockets up.
    pub fn close(&mut self) {
        discard(std::mem::take(&mut self.sockets));
    }

    /// A socket outlives the process that was killed with it: the kernel takes an io_uring, and what it watches, apart
    /// some time after whoever waits for the process has been told.
    fn bind_patiently(&self, listener: &Listener, workers: usize, until: Instant) -> io::Result<Vec<OwnedFd>> {
        loop {
            match self.bind(listener, workers) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                    std::thread::sleep(BIND_AGAIN_AFTER);
                }
                outcome => return outcome,
            }
        }
    }

    fn bind(&self, listener: &Listener, workers: usize) -> io::Result<Vec<OwnedFd>> {
        match &listener.bind {
            Bind::Tcp(address) => {
                let ours =
                    self.sockets.keys().any(|bind| matches!(bind, Bind::Tcp(held) if held.port() == address.port()));
                if !ours {
                    probe(*address)?;
                }
                // Port 0: the first socket's choice holds for all.
                let first = bind_tcp(*address, listener)?;
                let address = socket2::SockRef::from(&first).local_addr()?.as_socket().unwrap_or(*address);
                let others = (1..workers).map(|_| bind_tcp(address, listener));
                std::iter::once(Ok(first)).chain(others).collect()
            }
            Bind::Unix(path) => {
                let socket = bind_unix(path, listener)?;
                (0..workers).map(|_| socket.try_clone()).collect()
            }
        }
    }
}

fn discard(sockets: HashMap<Bind, Vec<OwnedFd>>) {
    for (bind, sockets) in sockets {
        drop(sockets);
        if let Bind::Unix(path) = bind {
            // Gone already is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// SO_REUSEPORT would let a second gateway share the port silently; a socket without it says whether somebody is there.
fn probe(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(1)
}

fn bind_tcp(address: SocketAddr, listener: &Listener) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog(listener))?;
    let socket = OwnedFd::from(socket);
    set_options(&socket, listener);
    Ok(socket)
}

/// What a configuration may change while the socket is bound.
fn set_options(socket: &OwnedFd, listener: &Listener) {
    if matches!(listener.bind, Bind::Unix(_)) {
        return;
    }
    // Accepted sockets inherit it.
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_nodelay(listener.tcp_nodelay) {
        tracing::warn!(listener = listener.name, %error, "TCP_NODELAY cannot be set");
    }
    let seconds = if listener.handshake_timeout >= DEFER_FROM { DEFER_S } else { 0 };
    // SAFETY: one int is read from `seconds`, which outlives the call.
    let outcome = unsafe {
        let (value, length) = ((&raw const seconds).cast(), size_of_val(&seconds) as libc::socklen_t);
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, value, length)
    };
    if outcome < 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(listener = listener.name, %error, "TCP_DEFER_ACCEPT cannot be set");
    }
}

fn backlog(listener: &Listener) -> i32 {
    i32::try_from(listener.backlog).unwrap_or(i32::MAX)
}

fn bind_unix(path: &Path, listener: &Listener) -> io::Result<OwnedFd> {
    let address = SockAddr::unix(path)?;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket {
        let asker = Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
        match asker.connect(&address) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            _ => return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody serves this socket")),
        }
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&address)?;
    socket.listen(backlog(listener))?;
    Ok(socket.into())
}

/// What `accept` found.
pub enum Accepted {
    /// A connection, and where it comes from (`None`: a Unix socket).
    Connection(OwnedFd, Option<SocketAddr>),
    /// Nobody is waiting.
    Nobody,
    /// There is no descriptor to accept with.
    NoDescriptors,
    /// A connection that is gone already, or a passing fault of the network.
    Passing,
}

/// Accepts one connection without waiting: nonblocking and close-on-exec.
pub fn accept(listener: RawFd) -> Accepted {
    let mut storage = socket2::SockAddrStorage::zeroed();
    let mut length = storage.size_of();
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `storage` is a sockaddr_storage of `length` bytes, and both outlive the call.
    let fd = unsafe { libc::accept4(listener, (&raw mut storage).cast(), &mut length, flags) };
    if fd >= 0 {
        // SAFETY: the kernel has written `length` bytes of a valid address.
        let peer = unsafe { SockAddr::new(storage, length) };
        // SAFETY: the descriptor is fresh and nobody else's.
        return Accepted::Connection(unsafe { OwnedFd::from_raw_fd(fd) }, peer.as_socket());
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Accepted::Nobody,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Accepted::NoDescriptors,
        _ => Accepted::Passing,
    }
}

/// A descriptor to hold in reserve.
pub fn spare_descriptor() -> io::Result<OwnedFd> {
    crate::alarm::event_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_waited_for_as_long_as_was_said() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let listeners = [Listener::new("public", Bind::Tcp(address))];
        let bound = Bound::default();
        let Err(reasons) = bound.prepare(&listeners, 1, Duration::ZERO) else { panic!("the address is taken") };
        assert!(reasons[0].starts_with(&format!("listener public: cannot bind {address}: ")), "{reasons:?}");
        let letting_go = std::thread::spawn(move || {
            std::thread::sleep(BIND_AGAIN_AFTER * 3);
            drop(holder);
        });
        assert!(bound.prepare(&listeners, 1, Duration::from_secs(10)).is_ok());
        letting_go.join().unwrap();
    }
}
