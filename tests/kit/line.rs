//! What a scripted peer speaks through: a socket, or TLS over one.
//!
//! Reading and writing mean what read(2) and write(2) mean, so a peer need not know which it is: the socket's options
//! (its time-outs, whether it blocks, its buffers) hold for both. Two threads may use a line, one for each direction.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};
use std::time::Duration;

use rustls::{AlertDescription, Connection};
use socket2::Socket;

/// What one record carries at most.
const RECORD_BYTES: usize = 1 << 14;

/// A line; its clones are the same line.
#[derive(Debug, Clone)]
pub struct Line(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: Socket,
    secure: Option<Secure>,
}

#[derive(Debug)]
struct Secure {
    /// Taken after `outgoing` by whoever needs both.
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
    /// It goes without a close_notify.
    is_silent: AtomicBool,
}

#[derive(Debug)]
struct Incoming {
    connection: Connection,
    /// Deciphered and not read yet.
    heard: VecDeque<u8>,
    end: Option<End>,
}

/// Records, or the rest of one, for which the socket had no room.
#[derive(Debug, Default)]
struct Outgoing {
    bytes: Vec<u8>,
    is_being_sent: bool,
}

/// How the other end of a secure line ended its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a close_notify, as it should be.
    Notified,
    /// Without a word.
    Truncated,
    /// With a fatal alert.
    Alert(AlertDescription),
}

impl Line {
    /// Over a socket that is connected; in clear where there is no TLS to speak.
    pub fn new(socket: Socket, tls: Option<Connection>) -> Self {
        let secure = tls.map(|mut connection| {
            connection.set_buffer_limit(None);
            Secure {
                incoming: Mutex::new(Incoming { connection, heard: VecDeque::new(), end: None }),
                outgoing: Mutex::default(),
                is_silent: AtomicBool::new(false),
            }
        });
        Self(Arc::new(Inner { socket, secure }))
    }

    /// The socket itself, for its options, and for bytes that no TLS has touched.
    pub fn socket(&self) -> &Socket {
        &self.0.socket
    }

    /// Whether it speaks TLS.
    pub fn is_secure(&self) -> bool {
        self.0.secure.is_some()
    }

    /// Asks the TLS connection something, or tells it something; what it wants to say is sent.
    pub fn with_tls<T>(&self, ask: impl FnOnce(&mut Connection) -> T) -> T {
        let secure = self.0.secure.as_ref().expect("a line with TLS");
        let answer = ask(&mut secure.incoming().connection);
        let _ = self.flush(secure);
        answer
    }

    /// How the other end ended its direction, if it has; `None` in clear.
    pub fn end(&self) -> Option<End> {
        self.0.secure.as_ref().and_then(|secure| secure.incoming().end)
    }

    /// Reads until the handshake is over.
    pub fn handshake(&self) -> io::Result<()> {
        let Some(secure) = &self.0.secure else { return Ok(()) };
        self.flush(secure)?;
        while secure.incoming().connection.is_handshaking() {
            self.take_in(secure)?;
            if secure.incoming().end.is_some() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Reads what has come, and waits for it as the socket does; 0 where the other end has ended.
    pub fn read(&self, room: &mut [u8]) -> io::Result<usize> {
        let Some(secure) = &self.0.secure else { return (&self.0.socket).read(room) };
        loop {
            let mut incoming = secure.incoming();
            if !incoming.heard.is_empty() || incoming.end.is_some() {
                return incoming.heard.read(room);
            }
            drop(incoming);
            self.take_in(secure)?;
        }
    }

    /// Reads the socket once and deciphers what came.
    fn take_in(&self, secure: &Secure) -> io::Result<()> {
        let mut room = [0; RECORD_BYTES];
        let count = (&self.0.socket).read(&mut room)?;
        let outcome = secure.incoming().take(&room[..count]);
        self.flush_unless_busy(secure)?;
        outcome
    }

    /// Writes what the socket takes, at most one record; waits for room as the socket does. The rest of a record for
    /// which there was no room is taken too, and goes as soon as there is some, as from a kernel's buffer.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(secure) = &self.0.secure else { return (&self.0.socket).write(bytes) };
        self.handshake()?;
        let mut outgoing = secure.outgoing.lock().expect("no thread panicked");
        self.send(&mut outgoing)?;
        let record = &bytes[..bytes.len().min(RECORD_BYTES)];
        let mut incoming = secure.incoming();
        incoming.connection.writer().write_all(record)?;
        outgoing.fill(&mut incoming.connection);
        drop(incoming);
        match self.send(&mut outgoing) {
            Err(error) if is_no_room(&error) => self.send_later(&mut outgoing),
            other => other?,
        }
        Ok(record.len())
    }

    /// Writes everything.
    pub fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the sending direction, behind all that has been written.
    pub fn finish(&self) {
        if let Some(secure) = &self.0.secure {
            secure.incoming().connection.send_close_notify();
            let _ = self.flush(secure);
        }
        let _ = self.0.socket.shutdown(Shutdown::Write);
    }

    /// From now on it ends without a close_notify.
    pub fn be_silent(&self) {
        if let Some(secure) = &self.0.secure {
            secure.is_silent.store(true, Ordering::Relaxed);
        }
    }

    /// Sends what the connection has to say by itself: handshakes, alerts, new keys.
    fn flush(&self, secure: &Secure) -> io::Result<()> {
        let mut outgoing = secure.outgoing.lock().expect("no thread panicked");
        outgoing.fill(&mut secure.incoming().connection);
        self.send(&mut outgoing)
    }

    /// The same, unless another thread is writing and will send it.
    fn flush_unless_busy(&self, secure: &Secure) -> io::Result<()> {
        match secure.outgoing.try_lock() {
            Ok(mut outgoing) => {
                outgoing.fill(&mut secure.incoming().connection);
                if outgoing.bytes.is_empty() || outgoing.is_being_sent { Ok(()) } else { self.send(&mut outgoing) }
            }
            Err(TryLockError::WouldBlock) => Ok(()),
            Err(TryLockError::Poisoned(_)) => panic!("a thread panicked"),
        }
    }

    fn send(&self, outgoing: &mut Outgoing) -> io::Result<()> {
        while !outgoing.bytes.is_empty() {
            match (&self.0.socket).write(&outgoing.bytes) {
                Ok(count) => drop(outgoing.bytes.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Has a thread wait for room. It does not keep the line from ending.
    fn send_later(&self, outgoing: &mut Outgoing) {
        if !std::mem::replace(&mut outgoing.is_being_sent, true) {
            let line = Arc::downgrade(&self.0);
            std::thread::spawn(move || {
                while is_being_sent(&line) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
    }
}

/// Sends what there is room for; whether something is left, of a line that is still there.
fn is_being_sent(line: &Weak<Inner>) -> bool {
    let Some(inner) = line.upgrade() else { return false };
    let secure = inner.secure.as_ref().expect("a line with TLS");
    // Whoever writes at this moment sends it.
    let Ok(mut outgoing) = secure.outgoing.try_lock() else { return true };
    match inner.socket.send_with_flags(&outgoing.bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
        Ok(count) => drop(outgoing.bytes.drain(..count)),
        Err(error) if is_no_room(&error) => {}
        Err(_) => outgoing.bytes.clear(),
    }
    outgoing.is_being_sent = !outgoing.bytes.is_empty();
    outgoing.is_being_sent
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Secure {
    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.incoming.lock().expect("no thread panicked")
    }
}

impl Incoming {
    /// Deciphers bytes; none stand for the end of the connection.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            self.end.get_or_insert(End::Truncated);
        }
        while !bytes.is_empty() {
            self.connection.read_tls(&mut bytes)?;
            let state = match self.connection.process_new_packets() {
                Ok(state) => state,
                Err(rustls::Error::AlertReceived(alert)) => {
                    self.end.get_or_insert(End::Alert(alert));
                    return Ok(());
                }
                Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error)),
            };
            let start = self.heard.len();
            self.heard.resize(start + state.plaintext_bytes_to_read(), 0);
            let (_, room) = self.heard.make_contiguous().split_at_mut(start);
            self.connection.reader().read_exact(room)?;
            if state.peer_has_closed() {
                self.end.get_or_insert(End::Notified);
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Outgoing {
    fn fill(&mut self, connection: &mut Connection) {
        while connection.wants_write() {
            connection.write_tls(&mut self.bytes).expect("a buffer takes everything");
        }
    }
}

impl Drop for Inner {
    /// Who goes says so, if there is room for it.
    fn drop(&mut self) {
        let Some(secure) = &mut self.secure else { return };
        let (Ok(incoming), Ok(outgoing)) = (secure.incoming.get_mut(), secure.outgoing.get_mut()) else { return };
        if !secure.is_silent.load(Ordering::Relaxed) && outgoing.bytes.is_empty() {
            incoming.connection.send_close_notify();
            outgoing.fill(&mut incoming.connection);
            let _ = self.socket.send_with_flags(&outgoing.bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        }
    }
}
