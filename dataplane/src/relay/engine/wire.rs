//! One leg as the engine sees it: its socket, what the socket would not take, and what is known about it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::relay::pipes::{Pipe, Pool};
use crate::relay::session::Leg;
use crate::socket;
use crate::tls::records::{Alert, Records};

/// One leg's socket.
pub(super) struct Wire {
    pub(super) fd: Option<OwnedFd>,
    /// The TLS session on the socket.
    pub(super) tls: Option<Box<Records>>,
    /// What the socket would not take; there only while there is something.
    pub(super) waiting: Option<Box<Waiting>>,
    /// The kernel said so, and no short read has said otherwise.
    pub(super) readable: bool,
    /// The peer's end of stream, or an error, waits behind what can be read.
    pub(super) hung_up: bool,
    pub(super) ended: bool,
    pub(super) shut: bool,
    /// It takes nothing any more; what its peer has sent is still read.
    pub(super) broken: bool,
    /// It stands among the unfinished.
    pub(super) noted: bool,
    pub(super) gait: Gait,
    /// What the ring has been asked and has not answered; the readiness engine asks nothing.
    pub(super) asked: Asked,
    pub(super) asked_writable: bool,
    /// Bytes that were to be sent to the peer, modulo 2^32.
    pub(super) given_bytes: u32,
    /// Those of them that the peer had taken at the last look, modulo 2^32.
    taken_bytes: u32,
}

/// How much a peer sends at a time, by what it sent last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gait {
    Small,
    /// So much that receiving it into the one buffer that is in the cache costs less than a ring saves.
    Bulk,
    /// Frames that are worth splicing.
    Large,
}

/// What a ring has been asked about a socket's receiving side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    /// To receive what comes.
    Bytes,
    /// To say when there is something.
    Readiness,
}

impl Wire {
    pub(super) fn new(fd: OwnedFd, tls: Option<Box<Records>>) -> Self {
        Self {
            fd: Some(fd),
            tls,
            waiting: None,
            readable: false,
            hung_up: false,
            ended: false,
            shut: false,
            broken: false,
            noted: false,
            gait: Gait::Small,
            asked: Asked::Nothing,
            asked_writable: false,
            given_bytes: 0,
            taken_bytes: 0,
        }
    }

    pub(super) fn raw(&self) -> Option<RawFd> {
        self.fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    pub(super) fn is_clogged(&self) -> bool {
        self.waiting.is_some()
    }

    /// Says that nothing more is sent, and why, where TLS has a word for that. Who does not take it at once is not told.
    pub(super) fn say_goodbye(&mut self, alert: Alert) {
        let Some(fd) = self.raw().filter(|_| !self.is_clogged() && !self.broken) else { return };
        let Some(farewell) = self.tls.as_mut().map(|records| records.goodbye(alert)) else { return };
        if !farewell.as_bytes().is_empty() {
            self.given_bytes = self.given_bytes.wrapping_add(farewell.as_bytes().len() as u32);
            let _ = socket::send(fd, farewell.as_bytes());
        }
    }

    /// Keeps bytes behind what is kept already.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        let kept = &mut self.waiting.get_or_insert_default().bytes;
        // Exactly, or a second push could keep twice the budget.
        kept.reserve_exact(bytes.len());
        kept.extend_from_slice(bytes);
    }

    /// Keeps what is in a pipe; nothing else is kept yet.
    pub(super) fn keep_pipe(&mut self, pipe: Pipe) {
        self.waiting.get_or_insert_default().pipe = Some(pipe);
    }

    /// Sends some of what is kept. Returns how much that was.
    pub(super) fn send_kept(&mut self, pipes: Option<&mut Pool>) -> io::Result<usize> {
        let (Some(fd), Some(waiting)) = (self.fd.as_ref().map(AsRawFd::as_raw_fd), &mut self.waiting) else {
            return Ok(0);
        };
        let sent = waiting.send(fd)?;
        if waiting.is_empty()
            && let Some(waiting) = self.waiting.take()
        {
            waiting.release(pipes);
        }
        Ok(sent)
    }

    /// Gives up what is kept. Returns how much that was.
    pub(super) fn give_up(&mut self, pipes: Option<&mut Pool>) -> u64 {
        let Some(waiting) = self.waiting.take() else { return 0 };
        let bytes = waiting.length() as u64;
        waiting.release(pipes);
        bytes
    }

    /// Whether the peer has taken something since the last look, though not all. What it took before the first look
    /// counts for that.
    pub(super) fn drains(&mut self) -> bool {
        let unsent = self.raw().map_or(0, socket::unsent_bytes);
        let kept = self.waiting.as_ref().map_or(0, |waiting| waiting.length());
        let waiting_bytes = unsent.saturating_add(kept as u32);
        let taken_bytes = self.given_bytes.wrapping_sub(waiting_bytes);
        let before = std::mem::replace(&mut self.taken_bytes, taken_bytes);
        waiting_bytes > 0 && taken_bytes.wrapping_sub(before) as i32 > 0
    }
}

/// Bytes that a socket would not take: first those in the pipe, then the others.
#[derive(Default)]
pub(super) struct Waiting {
    pipe: Option<Pipe>,
    bytes: Vec<u8>,
    sent: usize,
}

impl Waiting {
    fn length(&self) -> usize {
        self.piped() + self.bytes.len() - self.sent
    }

    fn piped(&self) -> usize {
        self.pipe.as_ref().map_or(0, Pipe::len)
    }

    fn is_empty(&self) -> bool {
        self.length() == 0
    }

    fn send(&mut self, fd: RawFd) -> io::Result<usize> {
        match &mut self.pipe {
            Some(pipe) if !pipe.is_empty() => pipe.drain(fd, false),
            _ => {
                let sent = socket::send(fd, &self.bytes[self.sent..])?;
                self.sent += sent;
                Ok(sent)
            }
        }
    }

    fn release(self, pipes: Option<&mut Pool>) {
        if let (Some(pipe), Some(pipes)) = (self.pipe, pipes) {
            pipes.give_back(pipe);
        }
    }
}

/// Names one leg of one session, in 64 bits that the kernel gives back with its events.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// The place of the session.
    pub(super) index: u32,
    /// Tells it from those that had the place before.
    pub(super) epoch: u32,
    pub(super) leg: Leg,
}

impl Key {
    const LEG_BITS: u32 = 1;
    const TAG_BITS: u32 = 2;
    /// Places that can be named.
    pub(super) const INDEX_MAX: usize = 1 << (u32::BITS - Self::LEG_BITS - Self::TAG_BITS);

    /// `tag` is below 4 and free for use.
    pub(super) fn pack(self, tag: u64) -> u64 {
        let place = u64::from(self.index) << (Self::LEG_BITS + Self::TAG_BITS);
        u64::from(self.epoch) << 32 | place | tag << Self::LEG_BITS | self.leg as u64
    }

    pub(super) fn unpack(bits: u64) -> (Self, u64) {
        let low = bits as u32;
        let leg = if low & 1 == 0 { Leg::Client } else { Leg::Upstream };
        let tag = u64::from(low >> Self::LEG_BITS) & ((1 << Self::TAG_BITS) - 1);
        (Self { index: low >> (Self::LEG_BITS + Self::TAG_BITS), epoch: (bits >> 32) as u32, leg }, tag)
    }

    pub(super) fn of(self, leg: Leg) -> Self {
        Self { leg, ..self }
    }
}

/// What the kernel has to tell about a leg.
#[derive(Clone, Copy)]
pub(super) enum Event {
    /// Something can be received, or sent, or the end is near.
    Ready { readable: bool, writable: bool, hung_up: bool },
    /// Bytes have been received; `stopped`: no more will be, until they are asked for again.
    Received { portion: Portion, stopped: bool },
    /// What was asked is not being waited for any more.
    Stopped,
    /// Nothing was received, for want of a buffer.
    Starved,
    /// The peer ended its stream.
    Ended,
    /// The connection failed.
    Failed,
}

/// Received bytes in a ring's memory.
#[derive(Clone, Copy)]
pub(super) struct Portion {
    pub(super) buffer: u16,
    pub(super) start: u32,
    pub(super) length: u32,
    /// The buffer holds nothing behind it: it goes back to the kernel.
    pub(super) last: bool,
}
