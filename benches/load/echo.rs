//! A WebSocket echo on one thread: any number of connections, one buffer.
//!
//! A payload goes back as it stood on the wire, still masked under its client's key, which the client expects: neither
//! end spends time on masking. A close frame is answered in kind and ends the connection; so does anything else. One of
//! its listeners may speak TLS.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use socket2::{Domain, SockAddr, Socket, Type};
use tungstenite::handshake::derive_accept_key;

use super::machine;
use super::tls::{self, Channel, Shaking};

/// Bytes read at a time.
const BUFFER_BYTES: usize = 512 * 1024;
/// The longest header of a client's frame.
const HEADER_MAX: usize = 14;
/// A later frame of a read is moved down to close the gap of its key, unless it is longer than this.
const MOVED_PAYLOAD_MAX: usize = 4096;
const BACKLOG: i32 = 4096;
const CLOSE: u8 = 8;
const CONTROL_PAYLOAD_MAX: u64 = 125;

/// A listening echo; it serves until the process ends.
pub struct Echo {
    address: SocketAddr,
}

impl Echo {
    /// Starts on a free port of the loopback interface, and on this CPU if one is named.
    pub fn start(cpu: Option<usize>) -> Self {
        let (listener, address) = Self::listen();
        std::thread::spawn(move || {
            if let Some(cpu) = cpu {
                machine::pin(cpu);
            }
            Server::new(vec![listener], None).serve()
        });
        Self { address }
    }

    /// Serves here, on a free port of the loopback interface, on a Unix socket of this path, and with TLS on another
    /// port; the addresses are told.
    pub fn serve(
        unix: &Path,
        secure: Option<Arc<ServerConfig>>,
        tell: impl FnOnce(SocketAddr, Option<SocketAddr>),
    ) -> ! {
        let (listener, address) = Self::listen();
        let beside = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        beside.bind(&SockAddr::unix(unix).expect("a socket path")).expect("a path that is free");
        beside.listen(BACKLOG).expect("a socket listens");
        let mut listeners = vec![listener, beside];
        let secure = secure.map(|config| {
            let (listener, address) = Self::listen();
            listeners.push(listener);
            (config, address)
        });
        tell(address, secure.as_ref().map(|(_, address)| *address));
        Server::new(listeners, secure.map(|(config, _)| config)).serve()
    }

    fn listen() -> (Socket, SocketAddr) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        listener.listen(BACKLOG).expect("a socket listens");
        let address = listener.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
        (listener, address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As an endpoint of a configuration.
    pub fn url(&self) -> String {
        format!("ws://{}/", self.address)
    }
}

struct Server {
    listeners: Vec<Socket>,
    /// The last listener speaks TLS.
    secure: Option<Arc<ServerConfig>>,
    epoll: i32,
    connections: Vec<Option<Connection>>,
    buffer: Vec<u8>,
}

struct Connection {
    stream: Socket,
    dress: Dress,
    /// The request head as far as it has come; `None` once it is answered.
    head: Option<Vec<u8>>,
    /// The start of a frame header.
    held: Vec<u8>,
    /// Payload bytes of the current frame that are still to come.
    remaining: u64,
    /// What the socket would not take; nothing is read before that has gone.
    unsent: Vec<u8>,
}

/// What is between the connection's words and the wire.
enum Dress {
    Plain,
    Shaking(Box<Shaking<UnbufferedServerConnection>>),
    Sealed(Box<Channel>),
}

thread_local! {
    /// What is about to be sent: one buffer for all connections.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Server {
    fn new(listeners: Vec<Socket>, secure: Option<Arc<ServerConfig>>) -> Self {
        // SAFETY: a plain system call; the outcome is checked.
        let epoll = unsafe { libc::epoll_create1(0) };
        assert!(epoll >= 0, "{}", std::io::Error::last_os_error());
        let buffer = vec![0; HEADER_MAX + BUFFER_BYTES];
        let mut this = Self { listeners, secure, epoll, connections: Vec::new(), buffer };
        for index in 0..this.listeners.len() {
            this.listeners[index].set_nonblocking(true).expect("a socket need not block");
            this.watch(libc::EPOLL_CTL_ADD, this.listeners[index].as_raw_fd(), libc::EPOLLIN);
        }
        this
    }

    fn watch(&mut self, operation: i32, fd: i32, events: i32) {
        let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
        // SAFETY: `event` is valid for the duration of the call.
        let outcome = unsafe { libc::epoll_ctl(self.epoll, operation, fd, &mut event) };
        assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
    }

    fn serve(mut self) -> ! {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        loop {
            // SAFETY: `events` has room for as many as the call is told.
            let count = unsafe { libc::epoll_wait(self.epoll, events.as_mut_ptr(), events.len() as i32, -1) };
            for event in &events[..usize::try_from(count).unwrap_or(0)] {
                let fd = event.u64 as i32;
                match self.listeners.iter().position(|listener| listener.as_raw_fd() == fd) {
                    Some(index) => self.accept(index),
                    None => self.handle(fd),
                }
            }
        }
    }

    fn accept(&mut self, index: usize) {
        while let Ok((stream, _)) = self.listeners[index].accept() {
            stream.set_nonblocking(true).expect("a socket need not block");
            // Fails on Unix sockets, which have nothing to delay.
            let _ = stream.set_tcp_nodelay(true);
            let fd = stream.as_raw_fd();
            let dress = match &self.secure {
                Some(config) if index + 1 == self.listeners.len() => {
                    Dress::Shaking(Box::new(tls::accept(config).expect("a server's terms are good")))
                }
                _ => Dress::Plain,
            };
            let (head, held, unsent) = (Some(Vec::new()), Vec::new(), Vec::new());
            let connection = Connection { stream, dress, head, held, remaining: 0, unsent };
            let place = fd as usize;
            if self.connections.len() <= place {
                self.connections.resize_with(place + 1, || None);
            }
            self.connections[place] = Some(connection);
            self.watch(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN);
        }
    }

    fn handle(&mut self, fd: i32) {
        let Some(connection) = self.connections[fd as usize].as_mut() else { return };
        let clogged = !connection.unsent.is_empty();
        let alive = if clogged { connection.flush() } else { connection.converse(&mut self.buffer) };
        let clogged_now = !connection.unsent.is_empty();
        if !alive {
            self.connections[fd as usize] = None;
        } else if clogged != clogged_now {
            self.watch(libc::EPOLL_CTL_MOD, fd, if clogged_now { libc::EPOLLOUT } else { libc::EPOLLIN });
        }
    }
}

impl Connection {
    /// Reads once and answers. `false`: the connection is over.
    fn converse(&mut self, buffer: &mut [u8]) -> bool {
        let start = HEADER_MAX - self.held.len();
        buffer[start..HEADER_MAX].copy_from_slice(&self.held);
        self.held.clear();
        match self.receive(&mut buffer[HEADER_MAX..]) {
            Some(count) => match &mut self.head {
                Some(head) => {
                    head.extend_from_slice(&buffer[HEADER_MAX..HEADER_MAX + count]);
                    self.switch()
                }
                None => self.turn_round(buffer, start, HEADER_MAX + count),
            },
            None => false,
        }
    }

    /// Reads once. Returns the plain bytes that are in the room then, perhaps none; `None`: there will be no more.
    fn receive(&mut self, room: &mut [u8]) -> Option<usize> {
        let lead = if let Dress::Sealed(channel) = &mut self.dress { channel.lead(room) } else { 0 };
        let count = match self.stream.read(&mut room[lead..]) {
            Ok(0) => return None,
            Ok(count) => lead + count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => lead,
            Err(_) => return None,
        };
        match std::mem::replace(&mut self.dress, Dress::Plain) {
            Dress::Plain => Some(count),
            Dress::Shaking(mut shaking) => {
                let done = shaking.advance(&room[..count]).ok()?;
                let to_send = std::mem::take(&mut shaking.to_send);
                if !self.send(&to_send) {
                    return None;
                }
                if !done {
                    self.dress = Dress::Shaking(shaking);
                    return Some(0);
                }
                let shaken = shaking.finish().ok()?;
                self.dress = Dress::Sealed(Box::new(shaken.channel));
                room[..shaken.plain.len()].copy_from_slice(&shaken.plain);
                Some(shaken.plain.len())
            }
            Dress::Sealed(mut channel) => {
                let (mut at, mut plain) = (0, 0);
                while let Some(opened) = channel.open(&mut room[at..count]).ok()? {
                    if opened.last {
                        return None;
                    }
                    room.copy_within(at + opened.data.start..at + opened.data.end, plain);
                    plain += opened.data.len();
                    at += opened.record_bytes;
                }
                channel.keep(&room[at..count]);
                self.dress = Dress::Sealed(channel);
                Some(plain)
            }
        }
    }

    /// Answers the request once its head is whole. Nothing may follow it before the answer.
    fn switch(&mut self) -> bool {
        let Some(head) = self.head.take_if(|head| head.ends_with(b"\r\n\r\n")) else { return true };
        let text = String::from_utf8(head).expect("a head in UTF-8");
        let fields = text.lines().filter_map(|line| line.split_once(": "));
        let key = fields.filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key")).map(|(_, key)| key).next();
        let accept = derive_accept_key(key.expect("a key").as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.send(answer.as_bytes())
    }

    /// Makes answers of the frames at `at..end`, in place, and sends them. `false`: the connection is over.
    ///
    /// An answer's header is four bytes shorter. The first header moves up to its payload; later frames move down, and
    /// large ones begin another send.
    fn turn_round(&mut self, buffer: &mut [u8], mut at: usize, end: usize) -> bool {
        let mut start = at;
        let mut out = at;
        loop {
            let payload = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(end - at);
            if out != at {
                buffer.copy_within(at..at + payload, out);
            }
            self.remaining -= payload as u64;
            at += payload;
            out += payload;
            let (header, length) = match header(&buffer[at..end]) {
                Some(found) if self.remaining == 0 => found,
                _ => {
                    self.held.extend_from_slice(&buffer[at..end]);
                    return self.send(&buffer[start..out]);
                }
            };
            if buffer[at] & 0x0f == CLOSE && length <= CONTROL_PAYLOAD_MAX {
                return self.send(&buffer[start..out]) && self.part(&buffer[at..end], header, length);
            }
            if buffer[at] & 0x0f > 2 {
                return false;
            }
            if out != start && length > MOVED_PAYLOAD_MAX as u64 {
                if !self.send(&buffer[start..out]) {
                    return false;
                }
                start = at;
                out = at;
            }
            if out == start {
                start = at + 4;
                out = start;
            }
            buffer.copy_within(at..at + header - 4, out);
            buffer[out + 1] &= 0x7f;
            at += header;
            out += header - 4;
            self.remaining = length;
        }
    }

    /// Answers a close frame with its own code. Always `false`: the connection is over.
    fn part(&mut self, frame: &[u8], header: usize, length: u64) -> bool {
        if let Some(payload) = frame.get(header..header + length as usize) {
            let key = &frame[header - 4..header];
            let plain = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
            let answer: Vec<_> = [frame[0], length as u8].into_iter().chain(plain).collect();
            self.send(&answer);
            if let Dress::Sealed(channel) = &mut self.dress {
                let mut farewell = Vec::new();
                channel.seal_close_notify(&mut farewell);
                self.send_now(&farewell);
            }
        }
        false
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        SEALED.with_borrow_mut(|sealed| match &mut self.dress {
            Dress::Sealed(channel) => {
                sealed.clear();
                channel.seal([bytes, &[]], sealed);
                self.send_now(sealed)
            }
            _ => self.send_now(bytes),
        })
    }

    /// As it stands on the wire.
    fn send_now(&mut self, mut bytes: &[u8]) -> bool {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return true;
        }
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.unsent.extend_from_slice(bytes);
                    return true;
                }
                Err(_) => return false,
            }
        }
        true
    }

    fn flush(&mut self) -> bool {
        let unsent = std::mem::take(&mut self.unsent);
        self.send_now(&unsent)
    }
}

/// Length of a masked header and of its payload, once the header is whole.
fn header(bytes: &[u8]) -> Option<(usize, u64)> {
    let (header, length) = match bytes.get(1)? & 0x7f {
        126 => (8, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (14, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        length => (6, u64::from(length)),
    };
    (bytes.len() >= header).then_some((header, length))
}
