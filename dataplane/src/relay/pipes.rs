//! Pooled pipes, through which splice(2) moves payload from one socket to another without a copy in user space.
//!
//! Holds bytes and counts them; which bytes may pass unseen, and when, is the session's and the engine's to say.
//!
//! One direction of a session has a pipe only while bytes stand in it. The order is: [`Pool::take`], [`Pipe::fill`] from
//! the one socket, [`Pipe::drain`] to the other until the pipe is empty or the socket full, and [`Pool::give_back`] once
//! it is empty. `None` from the pool means that the caller copies; it is not a failure.
//!
//! What splice(2) does, as tried on Linux 6.18:
//!
//! - **The sockets themselves must be nonblocking.** `SPLICE_F_NONBLOCK` is about the pipe; a blocking TCP socket waits.
//! - **A fill that brings little has not emptied the socket**: each segment takes at least one page of the pipe, so small
//!   ones fill it early (200 KB in segments of 100 bytes: 3,200 bytes fill 64 KiB). Only `WouldBlock` on an *empty* pipe says
//!   that nothing is there. Behind content it may also mean that the pipe is full, so drain before filling again.
//! - **A pipe may hold more than its capacity**: a page of the socket may be larger than a page of the pipe.
//! - **A drain to a peer that is gone raises SIGPIPE** besides its `EPIPE`; there is no flag against it. Rust's runtime has
//!   the signal ignored before `main`, and nothing here may change that.
//!
//! Of capacities from 64 KiB to 1 MiB, all from 128 KiB up cost the same within the noise for frames of 64 KiB to 1 MiB
//! (64 KiB: twice the drains). 256 KiB is taken, because the kernel lets an unprivileged user have 64 MiB of pipes in all
//! (`fs.pipe-user-pages-soft`): 256 of these, and only 64 of the largest.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::rc::Rc;

/// Capacity that a pipe is to have.
pub const PIPE_BYTES: usize = 256 * 1024;
/// Capacity below which a pipe is not worth its system calls; the kernel gives 8 KiB to a user who has too many.
pub const PIPE_BYTES_MIN: usize = 64 * 1024;
/// Pipes of one worker that are in use at one time: directions whose receiver does not take what has come.
pub const PIPES_IN_USE_MAX: usize = 64;
/// Empty pipes that one worker keeps. A direction whose receiver keeps up needs one only for the length of a turn.
pub const PIPES_IDLE_MAX: usize = 4;
/// Takes that are answered `None` at once after the kernel has refused a pipe.
const TAKES_UNTIL_RETRY: u32 = 256;

const _: () = assert!(PIPES_IDLE_MAX <= PIPES_IN_USE_MAX && PIPE_BYTES_MIN <= PIPE_BYTES);

/// The pipes of one worker, made when they are first wanted.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Vec<Pipe>,
    /// Pipes that are somewhere else.
    in_use: Rc<Cell<usize>>,
    /// Takes that the kernel is not asked for, because it has just refused.
    refrain: u32,
}

impl Pool {
    /// A pool without pipes.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty pipe. `None`: too many are in use, or the kernel has none to give; it is asked again some takes later.
    pub fn take(&mut self) -> Option<Pipe> {
        if self.in_use.get() == PIPES_IN_USE_MAX {
            return None;
        }
        let mut pipe = match self.idle.pop() {
            Some(pipe) => pipe,
            None if self.refrain > 0 => {
                self.refrain -= 1;
                return None;
            }
            None => match Pipe::open() {
                Ok(pipe) if pipe.capacity >= PIPE_BYTES_MIN => pipe,
                Ok(_) | Err(_) => {
                    self.refrain = TAKES_UNTIL_RETRY;
                    return None;
                }
            },
        };
        pipe.seat = Some(Seat::among(&self.in_use));
        Some(pipe)
    }

    /// Takes a pipe back: an empty one is kept if there is room, one with content is closed and its content lost.
    pub fn give_back(&mut self, mut pipe: Pipe) {
        pipe.seat = None;
        if pipe.is_empty() && self.idle.len() < PIPES_IDLE_MAX {
            self.idle.push(pipe);
        }
    }

    /// Pipes that have been taken and neither given back nor dropped.
    pub fn in_use(&self) -> usize {
        self.in_use.get()
    }
}

/// A place among the pipes in use, so that a pipe which is dropped with its session is counted off as well.
#[derive(Debug)]
struct Seat(Rc<Cell<usize>>);

impl Seat {
    fn among(in_use: &Rc<Cell<usize>>) -> Self {
        in_use.set(in_use.get() + 1);
        Self(Rc::clone(in_use))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A pipe, and how much stands in it. Dropped, it is closed with what is in it.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    length: usize,
    seat: Option<Seat>,
}

impl Pipe {
    /// A new pipe, as large as the kernel allows, up to [`PIPE_BYTES`].
    fn open() -> io::Result<Self> {
        let mut ends = [-1; 2];
        // SAFETY: `ends` has room for the two descriptors; the outcome is checked.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both descriptors are fresh and nobody else's.
        let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        // SAFETY: a plain system call on a descriptor that is open.
        let resized = unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES as libc::c_int) };
        let capacity = match usize::try_from(resized) {
            Ok(capacity) => capacity,
            // Not allowed to grow (EPERM) or no memory for it: then it is what it was.
            // SAFETY: as above.
            Err(_) => match usize::try_from(unsafe { libc::fcntl(write.as_raw_fd(), libc::F_GETPIPE_SZ) }) {
                Ok(capacity) => capacity,
                Err(_) => return Err(io::Error::last_os_error()),
            },
        };
        Ok(Self { read, write, capacity, length: 0, seat: None })
    }

    /// Moves at most `bytes_max` bytes from a nonblocking socket into the pipe. 0: the peer has ended its stream.
    /// `WouldBlock`: nothing is there, or, if the pipe is not empty, perhaps no room.
    pub fn fill(&mut self, from: RawFd, bytes_max: usize) -> io::Result<usize> {
        debug_assert!(bytes_max > 0, "nothing is asked for");
        let moved = splice(from, self.write.as_raw_fd(), bytes_max, 0)?;
        self.length += moved;
        Ok(moved)
    }

    /// Moves what stands in the pipe to a nonblocking socket, as far as that takes it. `WouldBlock`: it takes nothing.
    /// With `more` TCP may keep a last, short segment back, up to 200 ms, until more is sent.
    pub fn drain(&mut self, to: RawFd, more: bool) -> io::Result<usize> {
        if self.is_empty() {
            return Ok(0);
        }
        let flags = if more { libc::SPLICE_F_MORE } else { 0 };
        match splice(self.read.as_raw_fd(), to, self.length, flags)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            moved => {
                self.length = self.length.checked_sub(moved).expect("no more comes out of a pipe than went in");
                Ok(moved)
            }
        }
    }

    /// Bytes that stand in the pipe.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing stands in the pipe.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes that one fill of an empty pipe can bring.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// splice(2) without waiting for the pipe, again when a signal came in between.
fn splice(from: RawFd, to: RawFd, bytes_max: usize, flags: libc::c_uint) -> io::Result<usize> {
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE | flags;
    loop {
        // SAFETY: a system call on descriptors; it is given no offsets, so it touches no memory of ours.
        let moved = unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), bytes_max, flags) };
        match usize::try_from(moved) {
            Ok(moved) => return Ok(moved),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests;
