//! A nonblocking stream socket under monoio: readiness from the runtime, bytes by direct system calls.
//!
//! What can be done at once is done without the runtime, which hears of a socket at its first wait: a client whose request
//! is there when it is accepted is never watched before its session is.
//!
//! Waiting for readiness may be dropped at any time and loses nothing, on io_uring and on epoll alike; a read that the
//! kernel has been given may not. So nobody here gives the kernel a read: who waits, waits for readiness.

use std::cell::{Cell, OnceCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;

use monoio::net::TcpStream;
use socket2::{Domain, SockAddr, Type};

/// A connected, or connecting, stream socket (TCP or Unix) of this worker.
pub struct Socket {
    /// Ours while there is no poller; -1 if the runtime has not taken it over, and closed it.
    fd: Cell<RawFd>,
    /// From the first wait on, and the owner of the descriptor then. monoio's wrapper only waits for readiness, so any
    /// descriptor that can be polled may stand in it.
    poller: OnceCell<TcpStream>,
}

impl Socket {
    /// Takes over a nonblocking descriptor. The runtime watches it from the first wait on.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd: Cell::new(fd.into_raw_fd()), poller: OnceCell::new() }
    }

    /// Takes over a nonblocking descriptor that is going to be waited for. The runtime watches it from now on.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let this = Self::new(fd);
        this.poller()?;
        Ok(this)
    }

    /// Connects over TCP; awaits the outcome. May be dropped.
    pub async fn connect_tcp(address: SocketAddr, nodelay: bool) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
        if nodelay {
            socket.set_tcp_nodelay(true)?;
        }
        Self::connect(socket, &address.into()).await
    }

    /// Connects to a Unix socket. The kernel answers at once; a full accept queue is an error.
    pub async fn connect_unix(path: &Path) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        Self::connect(socket, &SockAddr::unix(path)?).await
    }

    async fn connect(socket: socket2::Socket, address: &SockAddr) -> io::Result<Self> {
        let this = Self::new(socket.into());
        let mut asked = 0;
        loop {
            // Asked again, the kernel says how it stands, errors included. On the same host it is there the second time.
            // SAFETY: the descriptor is open for as long as `this`, and the borrow does not outlive this line.
            let outcome = socket2::SockRef::from(&unsafe { BorrowedFd::borrow_raw(this.fd.get()) }).connect(address);
            match outcome.map_err(|error| (error.raw_os_error(), error)) {
                Ok(()) | Err((Some(libc::EISCONN), _)) => return Ok(this),
                Err((Some(libc::EINPROGRESS | libc::EALREADY), _)) if asked == 0 => {}
                Err((Some(libc::EINPROGRESS | libc::EALREADY), _)) => this.writable().await?,
                Err((_, error)) => return Err(error),
            }
            asked += 1;
        }
    }

    fn poller(&self) -> io::Result<&TcpStream> {
        if let Some(poller) = self.poller.get() {
            return Ok(poller);
        }
        // What the runtime does not take over it closes.
        let fd = self.fd.replace(-1);
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: the descriptor is ours, and not any more from this line on.
        let poller = TcpStream::from_std(unsafe { std::net::TcpStream::from_raw_fd(fd) })?;
        self.fd.set(fd);
        Ok(self.poller.get_or_init(|| poller))
    }

    /// Waits until something can be received, the end of the stream and errors included.
    pub async fn readable(&self) -> io::Result<()> {
        self.poller()?.readable(false).await
    }

    /// Waits until something can be sent.
    pub async fn writable(&self) -> io::Result<()> {
        self.poller()?.writable(false).await
    }

    /// Receives what is there, waiting for it if need be. 0: the peer ended its stream. May be dropped.
    pub async fn receive(&self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match receive(self.fd.get(), room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                outcome => return outcome,
            }
        }
    }

    /// Receives what comes next, where it is known that nothing is there yet.
    pub async fn receive_later(&self, room: &mut [u8]) -> io::Result<usize> {
        self.readable().await?;
        self.receive(room).await
    }

    /// Receives what is there, waiting for it if need be, and throws it away; into room that nobody keeps while waiting.
    pub async fn discard(&self) -> io::Result<usize> {
        loop {
            match discard(self.fd.get()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                outcome => return outcome,
            }
        }
    }

    /// Sends all of it. Dropped in between, a part may have been sent.
    pub async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match send(self.fd.get(), bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what is taken without waiting.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        send(self.fd.get(), bytes)
    }

    /// Whether the other end has ended its stream, or the connection; what it sent before that may still be there.
    pub fn is_hung_up(&self) -> bool {
        is_hung_up(self.fd.get())
    }

    /// Says that nothing more will be sent.
    pub fn shutdown(&self) {
        shutdown(self.fd.get());
    }

    /// Gives the descriptor up. Nobody may be waiting on this socket.
    pub fn into_fd(mut self) -> OwnedFd {
        let fd = self.fd.replace(-1);
        if let Some(poller) = self.poller.take() {
            let _ = poller.into_raw_fd();
        }
        assert!(fd >= 0, "a socket that the runtime has not taken over is given up by nobody");
        // SAFETY: if there was a poller it has given the descriptor up without closing it; nobody else owns it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A poller closes by itself, when the last wait that was begun on it has ended.
        if self.poller.get().is_none() && self.fd.get() >= 0 {
            // SAFETY: the descriptor is ours, and nobody uses it after this.
            drop(unsafe { OwnedFd::from_raw_fd(self.fd.get()) });
        }
    }
}

/// Whether the other end has ended its stream, or the connection; what it sent before that may still be there.
pub fn is_hung_up(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: `poll` is one pollfd, valid for the call; a timeout of 0 does not block.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

/// Receives without waiting. 0: the peer ended its stream.
pub fn receive(fd: RawFd, room: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: `room` is valid for writes of its length for the duration of the call.
        let received = unsafe { libc::recv(fd, room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) };
        match usize::try_from(received) {
            Ok(received) => return Ok(received),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Receives without waiting, and throws it away. 0: the peer ended its stream.
pub fn discard(fd: RawFd) -> io::Result<usize> {
    receive(fd, &mut [0; 4096])
}

/// Sends what the socket takes without waiting, and without SIGPIPE.
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `bytes` is valid for reads of its length for the duration of the call.
        let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
        match usize::try_from(sent) {
            Ok(sent) => return Ok(sent),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Ends the sending direction; a socket that is gone already is as good.
pub fn shutdown(fd: RawFd) {
    // SAFETY: a plain system call on a descriptor.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Bytes that the kernel still holds for the peer: sent by us, not yet taken (TCP: not yet acknowledged).
pub fn unsent_bytes(fd: RawFd) -> u32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ) writes one int, which `bytes` is.
    let outcome = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut bytes) };
    if outcome == 0 { u32::try_from(bytes).unwrap_or(0) } else { 0 }
}
