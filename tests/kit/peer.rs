//! One end of one connection, scripted byte by byte: a client of the gateway, or an upstream behind it.
//!
//! In clear or over TLS (`line`): what a script says and hears is the same.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use tungstenite::handshake::derive_accept_key;

use super::frame::{Frame, Opcode};
use super::line::{End, Line};
use super::random::Random;
use super::wait::DEADLINE;

/// The nonce of RFC 6455 §1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Which end of a WebSocket connection a peer plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It masks, and the gateway must not.
    Client,
    /// It does not, and the gateway must.
    Upstream,
}

/// A connection to the gateway, or one from it. Every wait has a deadline; what does not come is a panic that says so.
#[derive(Debug)]
pub struct Peer {
    line: Line,
    side: Side,
    unread: Vec<u8>,
    received: Vec<u8>,
    ended: bool,
    random: Random,
}

impl Peer {
    /// Connects to a listener as a client.
    pub fn connect(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.connect(&address.into()).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        Self::new(socket, Side::Client)
    }

    /// Connects to a listener on a Unix socket as a client.
    pub fn connect_unix(path: &Path) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        let address = SockAddr::unix(path).expect("a socket path");
        socket.connect(&address).unwrap_or_else(|error| panic!("cannot connect to {}: {error}", path.display()));
        Self::new(socket, Side::Client)
    }

    /// Plays one end of a connection that exists, in clear.
    pub fn new(socket: Socket, side: Side) -> Self {
        Self::on(Line::new(socket, None), side)
    }

    /// Plays one end of a line.
    pub fn on(line: Line, side: Side) -> Self {
        let socket = line.socket();
        // Fails on Unix sockets, which have nothing to delay.
        let _ = socket.set_tcp_nodelay(true);
        socket.set_nonblocking(false).expect("a socket can block");
        socket.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
        Self { line, side, unread: Vec::new(), received: Vec::new(), ended: false, random: Random::fixed(7) }
    }

    /// The same end, for another thread: one reads, the other writes.
    pub fn second_end(&self) -> Self {
        Self::on(self.line.clone(), self.side)
    }

    /// The socket itself, for its options.
    pub fn socket(&self) -> &Socket {
        self.line.socket()
    }

    /// What it speaks through.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Reads once, as the socket's options have it, past everything that the peer itself reads and keeps.
    pub fn read_directly(&self, room: &mut [u8]) -> io::Result<usize> {
        self.line.read(room)
    }

    /// Writes once, as the socket's options have it.
    pub fn write_directly(&self, bytes: &[u8]) -> io::Result<usize> {
        self.line.write(bytes)
    }

    /// Which end it plays.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Every byte that came, whether it has been looked at or not.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    // --- Saying things ---

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.line.write_all(bytes).unwrap_or_else(|error| panic!("{:?} cannot send: {error}", self.side));
    }

    /// Sends what the other end still takes; says whether it took everything.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.line.write_all(bytes).is_ok()
    }

    /// Sends bytes in pieces of this size, each in a segment of its own (and a record of its own, over TLS).
    #[track_caller]
    pub fn send_in_pieces(&mut self, bytes: &[u8], piece: usize) {
        bytes.chunks(piece).for_each(|piece| self.send(piece));
    }

    /// Sends until the other end has taken nothing for a while; says how many bytes it took.
    pub fn send_until_stuck(&mut self, bytes: &[u8], patience: Duration) -> usize {
        self.socket().set_write_timeout(Some(patience)).expect("a write timeout");
        let mut taken = 0;
        while taken < bytes.len() {
            match self.line.write(&bytes[taken..]) {
                Ok(count) => taken += count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{:?} cannot send after {taken} bytes: {error}", self.side),
            }
        }
        self.socket().set_write_timeout(Some(DEADLINE)).expect("a write timeout");
        taken
    }

    /// Sends a frame: masked with a random key by a client, unless it has one already.
    #[track_caller]
    pub fn send_frame(&mut self, frame: &Frame) {
        let frame = self.dressed(frame);
        self.send(&frame.encode());
    }

    /// As this side sends it when it keeps to the rules.
    pub fn dressed(&mut self, frame: &Frame) -> Frame {
        match (self.side, frame.mask) {
            (Side::Client, None) => frame.clone().masked(self.random.key()),
            _ => frame.clone(),
        }
    }

    /// As a client: asks for an upgrade and gets it.
    #[track_caller]
    pub fn upgrade(&mut self, target: &str) -> Head {
        self.send(&Upgrade::to(target).encode());
        self.upgraded()
    }

    /// As a client: reads the 101 that answers an upgrade which was asked for with [`KEY`].
    #[track_caller]
    pub fn upgraded(&mut self) -> Head {
        let head = self.head();
        assert_eq!(head.status(), 101, "{head}");
        assert_eq!(head.header("Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        assert!(head.header("Upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")), "{head}");
        assert!(head.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")), "{head}");
        head
    }

    /// As an upstream: reads the upgrade request and agrees to it.
    #[track_caller]
    pub fn agree(&mut self) -> Head {
        self.agree_with("")
    }

    /// As an upstream: reads the upgrade request and agrees to it, with more header lines (each ending in CR LF).
    #[track_caller]
    pub fn agree_with(&mut self, lines: &str) -> Head {
        let head = self.head();
        self.send(switching(&head, lines).as_bytes());
        head
    }

    /// Ends the sending direction; over TLS with a close_notify.
    pub fn finish(&mut self) {
        self.line.finish();
    }

    /// Goes away without a word: the other end sees a reset.
    pub fn reset(self) {
        self.line.be_silent();
        self.socket().set_linger(Some(Duration::ZERO)).expect("linger");
    }

    // --- Hearing things ---

    /// Reads a head up to its blank line.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        let end = loop {
            match self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(start) => break start + 4,
                None => self.need("a head"),
            }
        };
        Head { bytes: self.unread.drain(..end).collect() }
    }

    /// Reads one frame, and checks that it is masked exactly where it must be.
    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        loop {
            if let Some((frame, taken)) = Frame::decode(&self.unread) {
                self.unread.drain(..taken);
                assert_eq!(frame.mask.is_some(), self.side == Side::Upstream, "{:?} got {frame:?}", self.side);
                return frame;
            }
            self.need("a frame");
        }
    }

    /// A frame, if a whole one has come or its next bytes come within so long.
    pub fn frame_within(&mut self, time: Duration) -> Option<Frame> {
        loop {
            if let Some((frame, taken)) = Frame::decode(&self.unread) {
                self.unread.drain(..taken);
                return Some(frame);
            }
            if !self.read_some(time) {
                return None;
            }
        }
    }

    /// Reads frames until a data message is complete; control frames are not expected.
    #[track_caller]
    pub fn message(&mut self) -> (Opcode, Vec<u8>) {
        let first = self.frame();
        assert!(matches!(first.opcode, Opcode::TEXT | Opcode::BINARY), "{first:?}");
        let (mut payload, mut fin) = (first.payload, first.fin);
        while !fin {
            let next = self.frame();
            assert_eq!(next.opcode, Opcode::CONTINUATION, "{next:?}");
            payload.extend_from_slice(&next.payload);
            fin = next.fin;
        }
        (first.opcode, payload)
    }

    /// Reads a frame and checks what it carries.
    #[track_caller]
    pub fn expect(&mut self, opcode: Opcode, payload: &[u8]) {
        let frame = self.frame();
        assert_eq!((frame.opcode, frame.payload.as_slice()), (opcode, payload), "{frame:?}");
    }

    /// Reads a close frame with this code; returns its reason. The gateway's TCP end is not waited for.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) -> String {
        let frame = self.frame();
        assert_eq!(frame.opcode, Opcode::CLOSE, "{frame:?}");
        let (found, reason) = frame.close_code().expect("a close frame with a code");
        assert_eq!(found, code, "{reason}");
        reason
    }

    /// Waits for the end of the connection, and checks that nothing comes before it.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "{:?} got before the end: {}", self.side, rest.escape_ascii());
    }

    /// Waits for the end of a connection over TLS, and checks that it is one that a close_notify announces.
    #[track_caller]
    pub fn expect_notified_end(&mut self) {
        self.expect_end();
        assert_eq!(self.line.end(), Some(End::Notified), "{:?}", self.side);
    }

    /// Everything that comes until the connection ends, in whichever way.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let start = Instant::now();
        while self.read_some(DEADLINE.saturating_sub(start.elapsed())) {
            assert!(start.elapsed() < DEADLINE, "the connection does not end");
        }
        assert!(self.ended, "{:?} waited in vain for the end of the connection", self.side);
        std::mem::take(&mut self.unread)
    }

    /// Checks that nothing comes, and the connection does not end, for so long.
    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        let heard = !self.unread.is_empty() || self.read_some(time);
        assert!(!heard && !self.ended, "{:?} expected silence: {}", self.side, self.unread.escape_ascii());
    }

    /// Reads at least one byte more, whatever it is; `false` at the end of the connection.
    #[track_caller]
    pub fn hear(&mut self) -> bool {
        let heard = self.read_some(DEADLINE);
        assert!(heard || self.ended, "{:?} waited in vain for a byte", self.side);
        heard
    }

    /// Whether a byte, or the end, comes within so long.
    pub fn hear_within(&mut self, time: Duration) -> bool {
        !self.unread.is_empty() || self.read_some(time) || self.ended
    }

    /// Whether a byte, or the end, has come already; does not wait.
    pub fn has_heard(&mut self) -> bool {
        self.socket().set_nonblocking(true).expect("a socket need not block");
        let heard = self.hear_within(DEADLINE);
        self.socket().set_nonblocking(false).expect("a socket can block");
        heard
    }

    /// What came and has not been looked at.
    pub fn take_unread(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unread)
    }

    /// Reads an HTTP answer that refuses an upgrade, and checks that it leaves no tunnel behind: it says
    /// `Connection: close`, its body is as long as announced, and the connection ends with it.
    #[track_caller]
    pub fn refused(&mut self) -> Refused {
        let head = self.head();
        let length = head.header("Content-Length").unwrap_or_else(|| panic!("no Content-Length: {head}"));
        let length: usize = length.parse().expect("a Content-Length");
        let closes =
            head.header("Connection").is_some_and(|value| value.split(',').any(|option| option.trim() == "close"));
        assert!(closes, "{head}");
        let body = self.rest();
        assert_eq!(body.len(), length, "{head}{}", body.escape_ascii());
        Refused { status: head.status(), body: String::from_utf8(body).expect("a body in UTF-8"), head }
    }

    #[track_caller]
    fn need(&mut self, what: &str) {
        let more = self.read_some(DEADLINE);
        let (side, unread) = (self.side, self.unread.escape_ascii());
        assert!(!self.ended, "{side:?} waited for {what} and the connection ended after: {unread}");
        assert!(more, "{side:?} waited in vain for {what}; what came: {unread}");
    }

    /// Reads once, for at most so long; whether a byte came.
    fn read_some(&mut self, time: Duration) -> bool {
        if self.ended || time.is_zero() {
            return false;
        }
        self.socket().set_read_timeout(Some(time)).expect("a read timeout");
        let mut bytes = [0; 64 * 1024];
        loop {
            match self.line.read(&mut bytes) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.unread.extend_from_slice(&bytes[..count]);
                    self.received.extend_from_slice(&bytes[..count]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    self.ended = true;
                }
                Err(error) => panic!("{:?} cannot read: {error}", self.side),
            }
            return false;
        }
    }
}

/// The 101 that agrees to a request, with more header lines (each ending in CR LF).
pub fn switching(request: &Head, lines: &str) -> String {
    let key = request.header("Sec-WebSocket-Key").unwrap_or_else(|| panic!("no key in {request}"));
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{lines}\r\n"
    )
}

/// An HTTP answer that is not a 101, and the end of its connection.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    pub head: Head,
    pub body: String,
}

/// A request or response head as it came.
#[derive(Debug, Clone)]
pub struct Head {
    pub bytes: Vec<u8>,
}

impl Head {
    /// The first line.
    pub fn start_line(&self) -> String {
        self.lines().next().expect("a head has a first line")
    }

    /// Of a response.
    #[track_caller]
    pub fn status(&self) -> u16 {
        let line = self.start_line();
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        status.and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("not a status line: {line}"))
    }

    /// The target of a request.
    pub fn target(&self) -> String {
        self.start_line().split(' ').nth(1).expect("a request line").to_owned()
    }

    /// The value of a field that occurs once at most.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.headers(name);
        assert!(values.len() < 2, "{name} occurs {} times in {self}", values.len());
        values.first().copied()
    }

    /// The values of a field, in order.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let text = std::str::from_utf8(&self.bytes).expect("a head in UTF-8");
        let fields = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        self.bytes.split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line).trim_end().to_owned())
    }
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.bytes))
    }
}

/// An upgrade request, right until something is changed about it.
#[derive(Debug, Clone)]
pub struct Upgrade {
    line: String,
    fields: Vec<Vec<u8>>,
}

impl Upgrade {
    /// A request that is as it should be.
    pub fn to(target: &str) -> Self {
        let request = Self { line: format!("GET {target} HTTP/1.1"), fields: Vec::new() };
        request
            .with("Host", "gateway.test")
            .with("Upgrade", "websocket")
            .with("Connection", "Upgrade")
            .with("Sec-WebSocket-Key", KEY)
            .with("Sec-WebSocket-Version", "13")
    }

    /// Another request line.
    pub fn line(mut self, line: &str) -> Self {
        self.line = line.to_owned();
        self
    }

    /// One more field, whether it is there already or not.
    pub fn with(self, name: &str, value: &str) -> Self {
        self.with_bytes(format!("{name}: {value}"))
    }

    /// One more line in the place of a field.
    pub fn with_bytes(mut self, line: impl Into<Vec<u8>>) -> Self {
        self.fields.push(line.into());
        self
    }

    /// Without the field.
    pub fn without(mut self, name: &str) -> Self {
        let start = format!("{name}:").into_bytes();
        self.fields.retain(|line| !line.starts_with(&start));
        self
    }

    /// With what another request has beside what every request has: its query, and its fields.
    pub fn merged(mut self, other: &Self) -> Self {
        let query = |line: &str| {
            line.split(' ').nth(1).and_then(|target| target.split_once('?')).map(|(_, query)| query.to_owned())
        };
        if let Some(more) = query(&other.line) {
            let mark = if query(&self.line).is_some() { '&' } else { '?' };
            let (target, version) = self.line.rsplit_once(' ').expect("a request line");
            self.line = format!("{target}{mark}{more} {version}");
        }
        let own = other.fields.iter().filter(|line| !self.fields.contains(line)).cloned().collect::<Vec<_>>();
        self.fields.extend(own);
        self
    }

    /// With another value of the field, in its place.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        let start = format!("{name}:").into_bytes();
        for line in self.fields.iter_mut().filter(|line| line.starts_with(&start)) {
            *line = format!("{name}: {value}").into_bytes();
        }
        self
    }

    /// On the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [self.line.as_bytes(), b"\r\n"].concat();
        self.fields.iter().for_each(|line| bytes.extend([line, &b"\r\n"[..]].concat()));
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}
