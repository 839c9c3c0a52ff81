//! A connection while its handshakes are under way: a socket, and where configured the TLS session on it.
//!
//! Speaks like a [`Socket`]: what is received is plain and what is sent is sealed. An established session is the engine's,
//! which takes the socket and the session's [`Records`] and does the same in the worker's buffers.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use crate::socket::Socket;
use crate::tls::records::{Alert, End, Farewell, Records, sealed_max};

/// Bytes received at a time from a TLS session: most heads, and no more than is worth having for a moment.
const READ_BYTES: usize = 4096;

/// A connection, plain or under TLS.
pub struct Stream {
    socket: Socket,
    secure: RefCell<Option<Box<Secure>>>,
}

/// A TLS session on a socket.
pub struct Secure {
    records: Box<Records>,
    /// Opened, and not taken yet.
    plain: Vec<u8>,
    /// Sealed, and going with the next that is sent.
    unsent: Vec<u8>,
    /// How the peer's side ended.
    end: Option<End>,
}

/// What an engine takes over from a stream.
pub struct Parts {
    /// The socket.
    pub fd: OwnedFd,
    /// The TLS session on it.
    pub records: Option<Box<Records>>,
    /// What has come, plain, and has not been taken.
    pub early: Vec<u8>,
    /// How the peer's side has ended behind that, if it has.
    pub end: Option<End>,
}

impl Parts {
    /// A plain connection from which nothing has come.
    pub fn plain(fd: OwnedFd) -> Self {
        Self { fd, records: None, early: Vec::new(), end: None }
    }

    /// With what had been taken before, which comes first.
    pub fn behind(self, mut taken: Vec<u8>) -> Self {
        taken.extend_from_slice(&self.early);
        Self { early: taken, ..self }
    }
}

impl Secure {
    /// A session whose handshake is complete; `unsent` goes with the first bytes, and `received` came behind the handshake.
    pub fn new(records: Records, unsent: Vec<u8>, mut received: Vec<u8>) -> Self {
        let mut this = Self { records: Box::new(records), plain: Vec::new(), unsent, end: None };
        this.open(&mut received);
        this
    }

    /// The session is over before it has begun: the alert to send, and nothing else.
    pub fn refuse(mut self, alert: Alert) -> Farewell {
        self.records.goodbye(alert)
    }

    fn open(&mut self, bytes: &mut [u8]) {
        let (mut whole, taken) = self.records.complete(bytes);
        for bytes in whole.as_deref_mut().into_iter().chain([&mut bytes[taken..]]) {
            if self.end.is_none() {
                let opened = self.records.open(bytes);
                self.plain.extend_from_slice(&bytes[..opened.plain]);
                self.end = opened.end;
            }
        }
    }

    fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut sealed = std::mem::take(&mut self.unsent);
        let begin = sealed.len();
        sealed.resize(begin + sealed_max(bytes.len()), 0);
        // Heads are short, and the first that is sent: it is no matter what time it is.
        let length = self.records.seal(bytes, &mut sealed[begin..], 0);
        sealed.truncate(begin + length);
        sealed
    }

    /// What is there to take: 0 bytes at the end, nothing if it has not come.
    fn take(&mut self, room: &mut [u8]) -> Option<io::Result<usize>> {
        if self.plain.is_empty() {
            return match self.end? {
                End::Closed => Some(Ok(0)),
                End::GivenUp(_) | End::Broken(_) => Some(Err(io::ErrorKind::InvalidData.into())),
            };
        }
        let count = room.len().min(self.plain.len());
        room[..count].copy_from_slice(&self.plain[..count]);
        self.plain.drain(..count);
        Some(Ok(count))
    }
}

impl Stream {
    /// A connection that is plain so far.
    pub fn new(socket: Socket) -> Self {
        Self { socket, secure: RefCell::default() }
    }

    /// The socket, as long as nothing else has been agreed on it.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// From now on everything is under this session.
    pub fn secure(&self, secure: Secure) {
        *self.secure.borrow_mut() = Some(Box::new(secure));
    }

    /// Receives what is there, waiting for it if need be. 0: the peer ended its stream. May be dropped.
    pub async fn receive(&self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            let taken = self.secure.borrow_mut().as_mut().map(|secure| secure.take(room));
            match taken {
                None => return self.socket.receive(room).await,
                Some(Some(taken)) => return taken,
                Some(None) => {}
            }
            let mut bytes = vec![0; READ_BYTES];
            let received = self.socket.receive(&mut bytes).await?;
            if received == 0 {
                // Who ends a TLS session says so first; all else may be somebody on the way (RFC 8446 §6.1).
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(secure) = self.secure.borrow_mut().as_mut() {
                secure.open(&mut bytes[..received]);
            }
        }
    }

    /// Receives what comes next, where it is known that nothing is there yet.
    pub async fn receive_later(&self, room: &mut [u8]) -> io::Result<usize> {
        if self.secure.borrow().is_none() {
            self.socket.readable().await?;
        }
        self.receive(room).await
    }

    /// Receives what is there, waiting for it if need be, and throws it away unopened.
    pub async fn discard(&self) -> io::Result<usize> {
        self.socket.discard().await
    }

    /// Sends all of it. Dropped in between, a part may have been sent, and nothing more can be.
    pub async fn send_all(&self, bytes: &[u8]) -> io::Result<()> {
        let sealed = self.secure.borrow_mut().as_mut().map(|secure| secure.seal(bytes));
        self.socket.send_all(sealed.as_deref().unwrap_or(bytes)).await
    }

    /// How the peer has ended the TLS session, if it has.
    pub fn end(&self) -> Option<End> {
        self.secure.borrow().as_ref().and_then(|secure| secure.end)
    }

    /// Whether the other end has ended its stream, or the connection; what it sent before that may still be there.
    pub fn is_hung_up(&self) -> bool {
        self.socket.is_hung_up()
    }

    /// Says that nothing more will be sent.
    pub fn shutdown(&self) {
        if let Some(secure) = self.secure.borrow_mut().as_mut() {
            let mut last = std::mem::take(&mut secure.unsent);
            last.extend_from_slice(secure.records.goodbye(Alert::CloseNotify).as_bytes());
            // Who cannot be told in one go is not waited for.
            let _ = self.socket.send_now(&last);
        }
        self.socket.shutdown();
    }

    /// Gives everything up. Nobody may be waiting on this stream, and something must have been sent since its handshake.
    pub fn into_parts(self) -> Parts {
        let fd = self.socket.into_fd();
        match self.secure.into_inner() {
            None => Parts::plain(fd),
            Some(secure) => {
                debug_assert!(secure.unsent.is_empty(), "it goes with what is sent first");
                Parts { fd, records: Some(secure.records), early: secure.plain, end: secure.end }
            }
        }
    }
}
