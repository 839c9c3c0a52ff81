//! A nonblocking stream socket under monoio: readiness from the runtime, bytes by direct system calls.
//!
//! Waiting for readiness may be dropped at any time and loses nothing, on io_uring and on epoll alike; a read that the
//! kernel has been given may not. So nobody here gives the kernel a read: who waits, waits for readiness.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;

use monoio::net::TcpStream;
use socket2::{Domain, SockAddr, Type};

/// A connected, or connecting, stream socket (TCP or Unix) of this worker.
pub struct Socket {
    // monoio's wrapper only waits for readiness, so any descriptor that can be polled may stand in it.
    poller: TcpStream,
}

impl Socket {
    /// Takes over a nonblocking descriptor.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let poller = TcpStream::from_std(std::net::TcpStream::from(fd))?;
        Ok(Self { poller })
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
        let pending = match socket.connect(address) {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => true,
            Err(error) => return Err(error),
        };
        let this = Self::from_fd(socket.into())?;
        if pending {
            this.writable().await?;
            if let Some(error) = this.take_error()? {
                return Err(error);
            }
        }
        Ok(this)
    }

    /// Waits until something can be received, the end of the stream and errors included.
    pub async fn readable(&self) -> io::Result<()> {
        self.poller.readable(false).await
    }

    /// Waits until something can be sent.
    pub async fn writable(&self) -> io::Result<()> {
        self.poller.writable(false).await
    }

    /// Receives what is there, waiting for it if need be. 0: the peer ended its stream. May be dropped.
    pub async fn receive(&self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match receive(self.poller.as_raw_fd(), room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                outcome => return outcome,
            }
        }
    }

    /// Sends all of it. Dropped in between, a part may have been sent.
    pub async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match send(self.poller.as_raw_fd(), bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the other end has ended its stream, or the connection; what it sent before that may still be there.
    pub fn is_hung_up(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.poller.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: `poll` is one pollfd, valid for the call; a timeout of 0 does not block.
        unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
    }

    /// Says that nothing more will be sent.
    pub fn shutdown(&self) {
        shutdown(self.poller.as_raw_fd());
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        // SAFETY: the descriptor is open for as long as `self`, and the borrow does not outlive this call.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.poller.as_raw_fd()) };
        socket2::SockRef::from(&fd).take_error()
    }

    /// Gives the descriptor up. Nobody may be waiting on this socket.
    pub fn into_fd(self) -> OwnedFd {
        let fd = self.poller.into_raw_fd();
        // SAFETY: monoio gave the descriptor up without closing it, and nobody else owns it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }
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
