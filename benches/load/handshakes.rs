//! Sessions that live for one message: connect, upgrade, one echo, close; again and again on a number of parallel loops.
//!
//! One thread, one epoll set. Every answer is compared; a loop that is answered wrongly ends the round.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use super::poll::{self, Poll, STALL, receive_or_end, send};
use super::traffic::Outcome;
use crate::kit::{Frame, Opcode, Upgrade};

const PAYLOAD: &[u8] = b"one message of a short session: connect, upgrade, echo, close ..";
/// Code 1000.
const NORMAL_CLOSURE: [u8; 2] = [0x03, 0xe8];

/// How a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// With a close frame, whose answer and the end of the connection it awaits.
    Frame,
    /// It ends the connection without a word.
    None,
}

/// The loops and what they have done.
pub struct Handshakes {
    poll: Poll,
    address: SocketAddr,
    words: Words,
    farewell: Farewell,
    loops: Vec<Loop>,
    stopping: bool,
    key: u32,
    /// Whole lives, from connect to the end, since the last [`Handshakes::forget`].
    pub lives: Histogram,
    /// How many those are.
    pub count: u64,
}

/// What is said and what must be answered.
struct Words {
    request: Vec<u8>,
    echo: Vec<u8>,
    goodbye: Vec<u8>,
}

struct Loop {
    stream: Option<TcpStream>,
    step: Step,
    received: Vec<u8>,
    born: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Switch,
    Echo,
    End,
}

impl Handshakes {
    /// So many loops, of which each has begun its first session.
    pub fn begin(address: SocketAddr, target: &str, loops: usize, farewell: Farewell) -> Outcome<Self> {
        let one = || Loop { stream: None, step: Step::Switch, received: Vec::new(), born: Instant::now() };
        let mut this = Self {
            poll: Poll::new(),
            address,
            words: Words::new(target),
            farewell,
            loops: (0..loops).map(|_| one()).collect(),
            stopping: false,
            key: 1,
            lives: Histogram::new(),
            count: 0,
        };
        (0..loops).try_for_each(|index| this.connect(index))?;
        Ok(this)
    }

    /// Lets the loops go round for so long. Returns how long it was.
    pub fn drive(&mut self, time: Duration) -> Outcome<Duration> {
        let serve = |this: &mut Self, index, _| this.step(index as usize);
        poll::drive(self, time, "answer", |this| &this.poll, serve)
    }

    /// Begins no session any more and awaits the end of those that live.
    pub fn settle(&mut self) -> Outcome<()> {
        self.stopping = true;
        let start = Instant::now();
        while self.loops.iter().any(|one| one.stream.is_some()) {
            self.drive(Duration::from_millis(1))?;
            if start.elapsed() > STALL {
                return Err("sessions do not end".into());
            }
        }
        Ok(())
    }

    /// Forgets what was measured.
    pub fn forget(&mut self) {
        self.lives.clear();
        self.count = 0;
    }

    fn connect(&mut self, index: usize) -> Outcome<()> {
        let born = Instant::now();
        let stream = TcpStream::connect(self.address).map_err(|error| format!("no connection: {error}"))?;
        send(stream.as_raw_fd(), &self.words.request)?;
        self.poll.add(stream.as_raw_fd(), libc::EPOLLIN, index as u64);
        self.loops[index] = Loop { stream: Some(stream), step: Step::Switch, received: Vec::new(), born };
        Ok(())
    }

    /// Takes what came for one loop, and says what follows.
    fn step(&mut self, index: usize) -> Outcome<()> {
        let one = &mut self.loops[index];
        let Some(stream) = &one.stream else { return Ok(()) };
        let said_goodbye = one.step == Step::End && one.received == self.words.goodbye;
        let mut room = [0; 4096];
        let count = match receive_or_end(stream.as_raw_fd(), &mut room) {
            Ok(None) => return Ok(()),
            Ok(Some(count)) => count,
            Err(_) if said_goodbye => 0,
            Err(error) => return Err(error),
        };
        if count == 0 {
            return if said_goodbye { self.end(index) } else { Err(unexpected("an early end after", &one.received)) };
        }
        one.received.extend_from_slice(&room[..count]);
        match one.step {
            Step::Switch if !one.received.ends_with(b"\r\n\r\n") => Ok(()),
            Step::Switch if !one.received.starts_with(b"HTTP/1.1 101 ") => Err(unexpected("no 101:", &one.received)),
            Step::Switch => self.advance(index, Step::Echo),
            Step::Echo if one.received == self.words.echo => match self.farewell {
                Farewell::Frame => self.advance(index, Step::End),
                Farewell::None => self.end(index),
            },
            Step::Echo if self.words.echo.starts_with(&one.received) => Ok(()),
            Step::End if self.words.goodbye.starts_with(&one.received) => Ok(()),
            Step::Echo | Step::End => Err(unexpected("an altered answer:", &one.received)),
        }
    }

    /// Sends what the step begins with.
    fn advance(&mut self, index: usize, step: Step) -> Outcome<()> {
        self.key = self.key.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
        let key = self.key.to_be_bytes();
        let one = &mut self.loops[index];
        one.step = step;
        one.received.clear();
        let Some(stream) = &one.stream else { return Ok(()) };
        let sent = match step {
            Step::End => Frame::new(Opcode::CLOSE, NORMAL_CLOSURE).masked(key).encode(),
            // The payload is what stands on the wire: a key of zero leaves it so, and the real one is written over it.
            _ => {
                let mut frame = Frame::binary(PAYLOAD).masked([0; 4]).encode();
                let at = frame.len() - PAYLOAD.len() - key.len();
                frame[at..at + key.len()].copy_from_slice(&key);
                frame
            }
        };
        send(stream.as_raw_fd(), &sent).map(|_| ())
    }

    /// One life is over; another begins.
    fn end(&mut self, index: usize) -> Outcome<()> {
        let one = &mut self.loops[index];
        one.stream = None;
        self.lives.record(one.born.elapsed().as_nanos() as u64);
        self.count += 1;
        if self.stopping { Ok(()) } else { self.connect(index) }
    }
}

impl Words {
    fn new(target: &str) -> Self {
        Self {
            request: Upgrade::to(target).encode(),
            echo: Frame::binary(PAYLOAD).encode(),
            goodbye: Frame::new(Opcode::CLOSE, NORMAL_CLOSURE).encode(),
        }
    }
}

fn unexpected(what: &str, received: &[u8]) -> String {
    format!("{what} {}", received.escape_ascii())
}
