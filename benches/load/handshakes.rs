//! Sessions that live for one message: connect, upgrade, one echo, close; again and again on a number of parallel loops.
//!
//! One thread, one epoll set. Every answer is compared; a loop that is answered wrongly ends the round. Where TLS is spoken
//! it is counted which handshakes resumed an earlier session.

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use rustls::client::UnbufferedClientConnection;

use super::door::Door;
use super::histogram::Histogram;
use super::poll::{self, Poll, STALL, receive_or_end, send};
use super::tls::{Channel, Shaking};
use super::traffic::Outcome;
use crate::kit::{Frame, Opcode};

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
    /// It asks for nothing: when it has made the TLS handshake it says that it leaves, and awaits the end.
    AtOnce,
}

/// The loops and what they have done.
pub struct Handshakes {
    poll: Poll,
    door: Door,
    words: Words,
    /// Requests that are made once each, the next one last.
    fresh: Option<Vec<Vec<u8>>>,
    farewell: Farewell,
    loops: Vec<Loop>,
    stopping: bool,
    key: u32,
    /// Whole lives, from connect to the end, since the last [`Handshakes::forget`].
    pub lives: Histogram,
    /// How many those are.
    pub count: u64,
    /// TLS handshakes in which an earlier session was resumed, since then.
    pub resumed: u64,
    /// Other TLS handshakes.
    pub full: u64,
}

/// What is said and what must be answered.
struct Words {
    request: Vec<u8>,
    echo: Vec<u8>,
    goodbye: Vec<u8>,
}

struct Loop {
    stream: Option<TcpStream>,
    dress: Dress,
    step: Step,
    received: Vec<u8>,
    born: Instant,
}

enum Dress {
    Plain,
    Shaking(Box<Shaking<UnbufferedClientConnection>>),
    Sealed(Box<Channel>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing was asked for: the end comes, with tickets or without.
    Leave,
    Switch,
    Echo,
    End,
}

impl Handshakes {
    /// So many loops, of which each has begun its first session.
    pub fn begin(door: &Door, loops: usize, farewell: Farewell) -> Outcome<Self> {
        Self::begin_with(door, door.request(), None, loops, farewell)
    }

    /// The same with other requests: each of `fresh` once, or where there are none this one again and again.
    pub fn begin_with(
        door: &Door,
        request: Vec<u8>,
        fresh: Option<Vec<Vec<u8>>>,
        loops: usize,
        farewell: Farewell,
    ) -> Outcome<Self> {
        let one = || Loop {
            stream: None,
            dress: Dress::Plain,
            step: Step::Switch,
            received: Vec::new(),
            born: Instant::now(),
        };
        let mut this = Self {
            poll: Poll::new(),
            door: door.clone(),
            words: Words::new(request),
            fresh,
            farewell,
            loops: (0..loops).map(|_| one()).collect(),
            stopping: false,
            key: 1,
            lives: Histogram::new(),
            count: 0,
            resumed: 0,
            full: 0,
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
        (self.count, self.resumed, self.full) = (0, 0, 0);
    }

    fn connect(&mut self, index: usize) -> Outcome<()> {
        let born = Instant::now();
        let stream = TcpStream::connect(self.door.address).map_err(|error| format!("no connection: {error}"))?;
        self.poll.add(stream.as_raw_fd(), libc::EPOLLIN, index as u64);
        if let Some(fresh) = &mut self.fresh {
            self.words.request = fresh.pop().ok_or("there are not enough requests for so long a round")?;
        }
        let one = &mut self.loops[index];
        *one = Loop { stream: Some(stream), dress: Dress::Plain, step: Step::Switch, received: Vec::new(), born };
        if let Some(terms) = &self.door.tls {
            one.dress = Dress::Shaking(Box::new(terms.begin()?));
            return self.shake(index, &[]);
        }
        one.say(&self.words.request)
    }

    /// Goes on with the TLS handshake; once it is done, the request is sent, if there is one.
    fn shake(&mut self, index: usize, bytes: &[u8]) -> Outcome<()> {
        let one = &mut self.loops[index];
        let (Some(stream), Dress::Shaking(shaking)) = (&one.stream, &mut one.dress) else { return Ok(()) };
        let done = shaking.advance(bytes)?;
        let to_send = std::mem::take(&mut shaking.to_send);
        send(stream.as_raw_fd(), &to_send)?;
        if !done {
            return Ok(());
        }
        let Dress::Shaking(shaking) = std::mem::replace(&mut one.dress, Dress::Plain) else { return Ok(()) };
        let shaken = shaking.finish()?;
        *(if shaken.resumed { &mut self.resumed } else { &mut self.full }) += 1;
        one.dress = Dress::Sealed(Box::new(shaken.channel));
        match self.farewell {
            Farewell::AtOnce => {
                one.step = Step::Leave;
                one.leave()
            }
            _ => one.say(&self.words.request),
        }
    }

    /// Takes what came for one loop, and says what follows.
    fn step(&mut self, index: usize) -> Outcome<()> {
        let one = &mut self.loops[index];
        let Some(stream) = &one.stream else { return Ok(()) };
        let said_goodbye = one.step == Step::Leave || one.step == Step::End && one.received == self.words.goodbye;
        let mut room = [0; 40 << 10];
        let lead = if let Dress::Sealed(channel) = &mut one.dress { channel.lead(&mut room) } else { 0 };
        let count = match receive_or_end(stream.as_raw_fd(), &mut room[lead..]) {
            Ok(None) => {
                if let Dress::Sealed(channel) = &mut one.dress {
                    channel.keep(&room[..lead]);
                }
                return Ok(());
            }
            Ok(Some(count)) => count,
            Err(_) if said_goodbye => 0,
            Err(error) => return Err(error),
        };
        if count == 0 {
            return if said_goodbye { self.end(index) } else { Err(unexpected("an early end after", &one.received)) };
        }
        let room = &mut room[..lead + count];
        match &mut one.dress {
            Dress::Plain => one.received.extend_from_slice(room),
            Dress::Shaking(_) => return self.shake(index, room),
            Dress::Sealed(channel) => {
                let mut at = 0;
                while let Some(opened) = channel.open(&mut room[at..])? {
                    one.received.extend_from_slice(&room[at + opened.data.start..at + opened.data.end]);
                    at += opened.record_bytes;
                    if opened.last {
                        let done =
                            one.step == Step::Leave || one.step == Step::End && one.received == self.words.goodbye;
                        return if done { self.end(index) } else { Err(unexpected("a farewell after", &one.received)) };
                    }
                }
                channel.keep(&room[at..]);
            }
        }
        match one.step {
            // haproxy answers with a 400 to those who ask for nothing.
            Step::Leave => Ok(()),
            _ if one.received.is_empty() => Ok(()),
            Step::Switch if !one.received.ends_with(b"\r\n\r\n") => Ok(()),
            Step::Switch if !one.received.starts_with(b"HTTP/1.1 101 ") => Err(unexpected("no 101:", &one.received)),
            Step::Switch => self.advance(index, Step::Echo),
            Step::Echo if one.received == self.words.echo => match self.farewell {
                Farewell::Frame => self.advance(index, Step::End),
                Farewell::None | Farewell::AtOnce => self.end(index),
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
        one.say(&sent)
    }

    /// One life is over; another begins.
    fn end(&mut self, index: usize) -> Outcome<()> {
        let one = &mut self.loops[index];
        if self.farewell == Farewell::Frame {
            // The other side may have gone already.
            let _ = one.leave();
        }
        one.stream = None;
        self.lives.record(one.born.elapsed().as_nanos() as u64);
        self.count += 1;
        if self.stopping { Ok(()) } else { self.connect(index) }
    }
}

impl Loop {
    /// Sends a few bytes, which the socket takes.
    fn say(&mut self, bytes: &[u8]) -> Outcome<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        if let Dress::Sealed(channel) = &mut self.dress {
            let mut sealed = Vec::new();
            channel.seal([bytes, &[]], &mut sealed);
            return send(stream.as_raw_fd(), &sealed).map(|_| ());
        }
        send(stream.as_raw_fd(), bytes).map(|_| ())
    }

    /// Says that nothing more comes, where there is a word for it.
    fn leave(&mut self) -> Outcome<()> {
        let (Some(stream), Dress::Sealed(channel)) = (&self.stream, &mut self.dress) else { return Ok(()) };
        let mut farewell = Vec::new();
        channel.seal_close_notify(&mut farewell);
        send(stream.as_raw_fd(), &farewell).map(|_| ())
    }
}

impl Words {
    fn new(request: Vec<u8>) -> Self {
        Self {
            request,
            echo: Frame::binary(PAYLOAD).encode(),
            goodbye: Frame::new(Opcode::CLOSE, NORMAL_CLOSURE).encode(),
        }
    }
}

fn unexpected(what: &str, received: &[u8]) -> String {
    format!("{what} {}", received.escape_ascii())
}
