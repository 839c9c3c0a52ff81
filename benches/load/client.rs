//! A client that keeps a number of messages of one size in flight on one connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use crate::kit::{Frame, Upgrade};

/// Bytes read at a time.
const ROOM_BYTES: usize = 512 * 1024;

/// One established connection.
pub struct Client {
    stream: TcpStream,
}

/// What a client sends in a round, and what must come back.
pub struct Round {
    sent: Vec<u8>,
    /// Where each frame's key stands.
    keys: Vec<usize>,
    answers: Vec<u8>,
    room: Vec<u8>,
    key: u32,
}

impl Round {
    /// So many messages with so many payload bytes, in one write.
    pub fn new(messages: usize, payload_bytes: usize) -> Self {
        let payload: Vec<u8> = (0..payload_bytes).map(|index| (index * 7 + index / 251) as u8).collect();
        let answer = Frame::binary(payload.clone()).encode();
        let header = answer.len() - payload_bytes;
        // The payload is what stands on the wire: a key of zero leaves it so, and the real key is written over it.
        let frame = Frame::binary(payload).masked([0; 4]).encode();
        Self {
            keys: (0..messages).map(|index| index * frame.len() + header).collect(),
            sent: frame.repeat(messages),
            answers: answer.repeat(messages),
            room: vec![0; ROOM_BYTES],
            key: 1,
        }
    }

    /// A fresh key for every frame: one that repeats is replaced, at a cost that no honest client causes.
    fn refresh_keys(&mut self) {
        for at in &self.keys {
            // Odd steps: never twice the same running, and zero once in four thousand million.
            self.key = self.key.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
            self.sent[*at..at + 4].copy_from_slice(&self.key.to_be_bytes());
        }
    }
}

impl Client {
    /// Connects and upgrades.
    pub fn connect(address: SocketAddr, target: &str) -> Self {
        Self::ask(address, &Upgrade::to(target))
    }

    /// Connects and makes this request.
    pub fn ask(address: SocketAddr, request: &Upgrade) -> Self {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.write_all(&request.encode()).expect("a request is taken");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut room = [0; 1024];
            let count = stream.read(&mut room).expect("an answer");
            assert_ne!(count, 0, "no answer: {}", head.escape_ascii());
            head.extend_from_slice(&room[..count]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
        Self { stream }
    }

    /// The connection, for whoever has something else to say.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Sends the round's messages and receives their answers.
    pub fn play(&mut self, round: &mut Round) {
        round.refresh_keys();
        self.finish(round, 0);
    }

    /// One round on each of many connections: all send, then all receive. A round is small enough for a socket.
    pub fn play_all(clients: &mut [Self], round: &mut Round) {
        for client in &mut *clients {
            round.refresh_keys();
            assert_eq!(client.send_now(&round.sent), round.sent.len(), "a socket does not take a round");
        }
        for client in clients {
            client.finish(round, round.sent.len());
        }
    }

    /// Sends what has not been sent yet, and receives the answers.
    fn finish(&mut self, round: &mut Round, mut sent: usize) {
        let mut received = 0;
        while received < round.answers.len() {
            if sent < round.sent.len() {
                sent += self.send_now(&round.sent[sent..]);
                if sent < round.sent.len() {
                    self.wait();
                }
            }
            let flags = if sent < round.sent.len() { libc::MSG_DONTWAIT } else { 0 };
            let count = self.receive(&mut round.room, flags);
            assert!(round.room[..count] == round.answers[received..received + count], "an echo was altered");
            received += count;
        }
    }

    /// Sends what the socket takes at once.
    fn send_now(&self, bytes: &[u8]) -> usize {
        // SAFETY: `bytes` is valid for reads of its length for the duration of the call.
        let sent =
            unsafe { libc::send(self.stream.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) };
        usize::try_from(sent).unwrap_or_else(|_| would_block())
    }

    fn receive(&self, room: &mut [u8], flags: i32) -> usize {
        // SAFETY: `room` is valid for writes of its length for the duration of the call.
        let count = unsafe { libc::recv(self.stream.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), flags) };
        assert_ne!(count, 0, "the session ended");
        usize::try_from(count).unwrap_or_else(|_| would_block())
    }

    /// Until something can be sent or received.
    fn wait(&self) {
        let mut watched =
            libc::pollfd { fd: self.stream.as_raw_fd(), events: libc::POLLIN | libc::POLLOUT, revents: 0 };
        // SAFETY: `watched` is one valid pollfd for the duration of the call.
        unsafe { libc::poll(&mut watched, 1, -1) };
    }
}

fn would_block() -> usize {
    let error = std::io::Error::last_os_error();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    0
}
