//! Messages on many connections at a time, a number of them in flight on each: one thread, one epoll set.
//!
//! A frame carries a fresh masking key and, in its payload, who sent it and its number. The payload is what stands on
//! the wire, as in [`super::client`]; every byte of an echo is compared, and so is the order.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::door::{Door, Entered};
use super::histogram::Histogram;
use super::poll::{self, Poll, STALL, receive, send, send_both};
use super::tls::Channel;
use crate::kit::Frame;

/// Bytes read at a time.
const ROOM_BYTES: usize = 512 * 1024;
/// Sender and number, at the start of every payload.
const STAMP_BYTES: usize = 8;
/// Up to this size all frames that may be sent are sent by one call, from one copy.
const COPIED_PAYLOAD_MAX: usize = 4096;
/// Connections opened at a time: fewer than any listener's backlog.
const CONNECT_BATCH: usize = 64;
/// Bytes of a large message that are sealed before they are sent: they are in the cache still.
const SEALED_BYTES_MAX: usize = 64 << 10;
/// Key of the clock in the epoll set.
const CLOCK: u64 = u64::MAX;

/// What a failed round says.
pub type Outcome<T> = Result<T, String>;

/// Established sessions and what is in flight on them.
pub struct Traffic {
    poll: Poll,
    connections: Vec<Connection>,
    depth: usize,
    frames: Frames,
    room: Vec<u8>,
    start: Instant,
    sending: bool,
    /// Round trips since the last [`Traffic::forget`].
    pub round_trips: Histogram,
    /// Echoes since the last [`Traffic::forget`].
    pub echoes: u64,
}

struct Connection {
    stream: TcpStream,
    channel: Option<Box<Channel>>,
    id: u32,
    /// Number of the message that is sent next.
    next: u32,
    /// Number of the message whose echo comes next, and bytes of it that have come.
    expected: u32,
    expected_at: usize,
    /// When the messages in flight were sent, in nanoseconds.
    sent_at: VecDeque<u64>,
    /// What the socket did not take of small messages, or of records.
    unsent: Vec<u8>,
    /// Large messages that are to be sent, the first of them perhaps in part.
    waiting: usize,
    head: Vec<u8>,
    head_at: usize,
}

/// Frames of one size.
struct Frames {
    /// A client's header without its key, and the echo's.
    header: Vec<u8>,
    echo_header: Vec<u8>,
    /// The payload behind its stamp.
    tail: Vec<u8>,
    key: u32,
    copy: Vec<u8>,
    sealed: Vec<u8>,
}

impl Traffic {
    /// Opens sessions of one kind.
    pub fn open(door: &Door, count: usize, depth: usize, payload_bytes: usize) -> Outcome<Self> {
        let poll = Poll::new();
        let mut connections = Vec::with_capacity(count);
        for (id, entered) in upgraded(door, count)?.into_iter().enumerate() {
            poll.add_edges(entered.stream.as_raw_fd(), id as u64);
            connections.push(Connection::new(entered, id as u32));
        }
        Ok(Self {
            poll,
            connections,
            depth,
            frames: Frames::new(payload_bytes),
            room: vec![0; ROOM_BYTES],
            start: Instant::now(),
            sending: false,
            round_trips: Histogram::new(),
            echoes: 0,
        })
    }

    /// Puts the first messages in flight; from now on each echo is followed by another message.
    pub fn begin(&mut self) -> Outcome<()> {
        self.sending = true;
        for index in 0..self.connections.len() {
            let now = self.now();
            self.connections[index].offer(self.depth, &mut self.frames, now)?;
        }
        Ok(())
    }

    /// Lets messages go round for so long. Returns how long it was.
    pub fn drive(&mut self, time: Duration) -> Outcome<Duration> {
        let serve = |this: &mut Self, index, readable| this.serve(index as usize, readable);
        poll::drive(self, time, "echo", |this| &this.poll, serve)
    }

    /// Sends one message on each connection in turn, so many a second, for so long.
    pub fn drive_at(&mut self, messages_per_second: u32, time: Duration) -> Outcome<()> {
        let clock = self.poll.add_clock(Duration::from_secs(1) / messages_per_second, CLOCK);
        let (start, mut turn, mut ready) = (Instant::now(), 0, Vec::new());
        while start.elapsed() < time {
            self.poll.wait(&mut ready, STALL);
            for (index, readable) in ready.drain(..) {
                if index == CLOCK {
                    clock.acknowledge();
                    let now = self.now();
                    let count = self.connections.len();
                    self.connections[turn % count].offer(1, &mut self.frames, now)?;
                    turn += 1;
                } else {
                    self.serve(index as usize, readable)?;
                }
            }
        }
        Ok(())
    }

    /// Sends nothing new and awaits what is in flight.
    pub fn settle(&mut self) -> Outcome<()> {
        self.sending = false;
        let start = Instant::now();
        while self.connections.iter().any(|connection| !connection.sent_at.is_empty()) {
            self.drive(Duration::from_millis(1))?;
            if start.elapsed() > STALL {
                return Err("messages in flight are not answered".into());
            }
        }
        Ok(())
    }

    /// One message on each session, and its echo.
    pub fn once_each(&mut self) -> Outcome<()> {
        for index in 0..self.connections.len() {
            let now = self.now();
            self.connections[index].offer(1, &mut self.frames, now)?;
            if index % CONNECT_BATCH == 0 {
                self.settle()?;
            }
        }
        self.settle()
    }

    /// Forgets what was measured.
    pub fn forget(&mut self) {
        self.round_trips.clear();
        self.echoes = 0;
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn serve(&mut self, index: usize, readable: bool) -> Outcome<()> {
        let connection = &mut self.connections[index];
        if connection.is_clogged() {
            connection.flush(&mut self.frames)?;
        }
        if !readable {
            return Ok(());
        }
        loop {
            let lead = connection.channel.as_mut().map_or(0, |channel| channel.lead(&mut self.room));
            let Some(count) = receive(connection.stream.as_raw_fd(), &mut self.room[lead..])? else {
                connection.keep(&self.room[..lead]);
                return Ok(());
            };
            let count = lead + count;
            let now = self.start.elapsed().as_nanos() as u64;
            let done = connection.take(&mut self.room[..count], &self.frames, now, &mut self.round_trips)?;
            self.echoes += done as u64;
            if done > 0 && self.sending {
                connection.offer(done, &mut self.frames, now)?;
            }
            // A short read has emptied the socket.
            if count < self.room.len() {
                return Ok(());
            }
        }
    }
}

impl Connection {
    fn new(entered: Entered, id: u32) -> Self {
        Self {
            stream: entered.stream,
            channel: entered.channel,
            id,
            next: 0,
            expected: 0,
            expected_at: 0,
            sent_at: VecDeque::new(),
            unsent: Vec::new(),
            waiting: 0,
            head: Vec::new(),
            head_at: 0,
        }
    }

    fn is_clogged(&self) -> bool {
        !self.unsent.is_empty() || self.waiting > 0
    }

    /// Puts so many more messages in flight.
    fn offer(&mut self, count: usize, frames: &mut Frames, now: u64) -> Outcome<()> {
        self.sent_at.extend(std::iter::repeat_n(now, count));
        if frames.are_copied() {
            frames.copy.clear();
            for _ in 0..count {
                let (stamp, key) = (stamp(self.id, self.next), frames.fresh_key());
                self.next = self.next.wrapping_add(1);
                for part in [&frames.header[..], &key, &stamp, &frames.tail] {
                    frames.copy.extend_from_slice(part);
                }
            }
            let bytes = match &mut self.channel {
                Some(channel) => {
                    frames.sealed.clear();
                    channel.seal([&frames.copy, &[]], &mut frames.sealed);
                    &frames.sealed
                }
                None => &frames.copy,
            };
            let sent = if self.unsent.is_empty() { send(self.stream.as_raw_fd(), bytes)? } else { 0 };
            self.unsent.extend_from_slice(&bytes[sent..]);
            return Ok(());
        }
        self.waiting += count;
        if self.waiting == count { self.flush(frames) } else { Ok(()) }
    }

    /// Sends what waits, as far as the socket takes it.
    fn flush(&mut self, frames: &mut Frames) -> Outcome<()> {
        let fd = self.stream.as_raw_fd();
        if !self.unsent.is_empty() {
            let sent = send(fd, &self.unsent)?;
            self.unsent.drain(..sent);
        }
        while self.waiting > 0 && self.unsent.is_empty() {
            if self.head_at == 0 {
                self.head.clear();
                let (stamp, key) = (stamp(self.id, self.next), frames.fresh_key());
                for part in [&frames.header[..], &key, &stamp] {
                    self.head.extend_from_slice(part);
                }
                self.next = self.next.wrapping_add(1);
            }
            let head = &self.head[self.head_at.min(self.head.len())..];
            let tail = &frames.tail[self.head_at.saturating_sub(self.head.len())..];
            let left = head.len() + tail.len();
            let sent = match &mut self.channel {
                Some(channel) => {
                    let tail = &tail[..tail.len().min(SEALED_BYTES_MAX - head.len())];
                    frames.sealed.clear();
                    channel.seal([head, tail], &mut frames.sealed);
                    let sent = send(fd, &frames.sealed)?;
                    self.unsent.extend_from_slice(&frames.sealed[sent..]);
                    // What is sealed is on its way.
                    head.len() + tail.len()
                }
                None => send_both(fd, head, tail)?,
            };
            let whole = sent == left;
            if whole {
                self.waiting -= 1;
                self.head_at = 0;
            } else {
                // Nothing of a frame may have gone, and its number has been given out: it is not begun again.
                self.head_at += sent;
                if self.head_at == 0 {
                    self.next = self.next.wrapping_sub(1);
                }
                if self.channel.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes what came, out of its records if it came in some. Returns how many echoes it completed.
    fn take(&mut self, bytes: &mut [u8], frames: &Frames, now: u64, round_trips: &mut Histogram) -> Outcome<usize> {
        let Some(mut channel) = self.channel.take() else { return self.compare(bytes, frames, now, round_trips) };
        let (mut at, mut done) = (0, 0);
        while let Some(opened) = channel.open(&mut bytes[at..])? {
            let data = &bytes[at + opened.data.start..at + opened.data.end];
            done += self.compare(data, frames, now, round_trips)?;
            at += opened.record_bytes;
            if opened.last {
                return Err("the session ended".into());
            }
        }
        channel.keep(&bytes[at..]);
        self.channel = Some(channel);
        Ok(done)
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(channel) = &mut self.channel {
            channel.keep(bytes);
        }
    }

    /// Compares what came with what must come. Returns how many echoes it completed.
    fn compare(&mut self, mut bytes: &[u8], frames: &Frames, now: u64, round_trips: &mut Histogram) -> Outcome<usize> {
        let mut done = 0;
        while !bytes.is_empty() {
            let stamp = stamp(self.id, self.expected);
            let mut at = self.expected_at;
            let mut same = true;
            for part in [&frames.echo_header[..], &stamp, &frames.tail] {
                if at >= part.len() {
                    at -= part.len();
                    continue;
                }
                let count = bytes.len().min(part.len() - at);
                same &= bytes[..count] == part[at..at + count];
                bytes = &bytes[count..];
                self.expected_at += count;
                at = 0;
            }
            let sent_at = self.sent_at.front();
            let Some(sent_at) = sent_at.filter(|_| same) else {
                return Err(format!("an echo of connection {} was altered near byte {}", self.id, self.expected_at));
            };
            if self.expected_at == frames.echo_bytes() {
                round_trips.record(now.saturating_sub(*sent_at));
                self.sent_at.pop_front();
                self.expected = self.expected.wrapping_add(1);
                self.expected_at = 0;
                done += 1;
            }
        }
        Ok(done)
    }
}

impl Frames {
    fn new(payload_bytes: usize) -> Self {
        assert!(payload_bytes >= STAMP_BYTES, "a payload carries its stamp");
        let payload: Vec<u8> = (0..payload_bytes).map(|index| (index * 7 + index / 251) as u8).collect();
        let echo = Frame::binary(payload.clone()).encode();
        let client = Frame::binary(payload.clone()).masked([0; 4]).encode();
        Self {
            header: client[..client.len() - payload_bytes - 4].to_vec(),
            echo_header: echo[..echo.len() - payload_bytes].to_vec(),
            tail: payload[STAMP_BYTES..].to_vec(),
            key: 1,
            copy: Vec::new(),
            sealed: Vec::new(),
        }
    }

    fn are_copied(&self) -> bool {
        self.tail.len() <= COPIED_PAYLOAD_MAX
    }

    fn echo_bytes(&self) -> usize {
        self.echo_header.len() + STAMP_BYTES + self.tail.len()
    }

    /// Never twice the same running.
    fn fresh_key(&mut self) -> [u8; 4] {
        self.key = self.key.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
        self.key.to_be_bytes()
    }
}

fn stamp(id: u32, number: u32) -> [u8; STAMP_BYTES] {
    (u64::from(id) << 32 | u64::from(number)).to_be_bytes()
}

/// Connections that have been answered with 101.
fn upgraded(door: &Door, count: usize) -> Outcome<Vec<Entered>> {
    let request = door.request();
    let mut all: Vec<Entered> = Vec::with_capacity(count);
    while all.len() < count {
        let from = all.len();
        for _ in from..count.min(from + CONNECT_BATCH) {
            let mut entered = door.enter()?;
            entered.send(&request)?;
            all.push(entered);
        }
        all[from..].iter_mut().try_for_each(Entered::expect_switch)?;
    }
    Ok(all)
}
