//! The system calls of the load: an epoll set, a clock in it, and sends and receives that do not wait.

use std::io::{Error, ErrorKind};
use std::time::{Duration, Instant};

use super::traffic::Outcome;

/// Nothing has come for so long: something is broken.
pub const STALL: Duration = Duration::from_secs(10);
/// Events taken at a time.
const EVENTS_MAX: usize = 256;

/// An epoll set; what is in it has a key.
pub struct Poll {
    epoll: i32,
}

/// A timer in an epoll set.
pub struct Clock {
    fd: i32,
}

/// Serves what becomes ready in a set of somebody's for so long. Returns how long it was; an error if nothing happens in
/// between, which is put down to the lack of what is `awaited`.
pub fn drive<T>(
    whose: &mut T,
    time: Duration,
    awaited: &str,
    poll: impl Fn(&T) -> &Poll,
    mut serve: impl FnMut(&mut T, u64, bool) -> Outcome<()>,
) -> Outcome<Duration> {
    let (start, mut last) = (Instant::now(), Instant::now());
    let mut ready = Vec::new();
    loop {
        let left = time.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(start.elapsed());
        }
        poll(whose).wait(&mut ready, left.min(STALL));
        if !ready.is_empty() {
            last = Instant::now();
        } else if last.elapsed() >= STALL {
            return Err(format!("no {awaited} within {STALL:?}"));
        }
        for (key, readable) in ready.drain(..) {
            serve(whose, key, readable)?;
        }
    }
}

impl Poll {
    pub fn new() -> Self {
        // SAFETY: a plain system call.
        Self { epoll: checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }) }
    }

    /// Reports both directions when they become ready, once each time.
    pub fn add_edges(&self, fd: i32, key: u64) {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET, key);
    }

    /// Reports these events for as long as they last.
    pub fn add(&self, fd: i32, events: i32, key: u64) {
        self.control(libc::EPOLL_CTL_ADD, fd, events, key);
    }

    /// Reports other events from now on.
    pub fn change(&self, fd: i32, events: i32, key: u64) {
        self.control(libc::EPOLL_CTL_MOD, fd, events, key);
    }

    fn control(&self, operation: i32, fd: i32, events: i32, key: u64) {
        let mut event = libc::epoll_event { events: events as u32, u64: key };
        // SAFETY: `event` is valid for the duration of the call.
        checked(unsafe { libc::epoll_ctl(self.epoll, operation, fd, &mut event) });
    }

    /// A timer that is ready every so often.
    pub fn add_clock(&self, interval: Duration, key: u64) -> Clock {
        let each = libc::timespec { tv_sec: interval.as_secs() as i64, tv_nsec: i64::from(interval.subsec_nanos()) };
        let times = libc::itimerspec { it_interval: each, it_value: each };
        // SAFETY: plain system calls; `times` is valid for reads, and no old value is asked for.
        let fd = unsafe {
            let fd = checked(libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC));
            checked(libc::timerfd_settime(fd, 0, &raw const times, std::ptr::null_mut()));
            fd
        };
        self.add(fd, libc::EPOLLIN, key);
        Clock { fd }
    }

    /// Keys of what is ready, and whether something can be read there, an end included.
    pub fn wait(&self, ready: &mut Vec<(u64, bool)>, time: Duration) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        let milliseconds = i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        // SAFETY: `events` has room for as many as the call is told.
        let count = unsafe { libc::epoll_wait(self.epoll, events.as_mut_ptr(), EVENTS_MAX as i32, milliseconds) };
        let readable = (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR | libc::EPOLLRDHUP) as u32;
        ready.extend(
            events[..usize::try_from(count).unwrap_or(0)].iter().map(|event| (event.u64, event.events & readable != 0)),
        );
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's own.
        unsafe { libc::close(self.epoll) };
    }
}

impl Clock {
    /// Until the next time.
    pub fn acknowledge(&self) {
        let mut count = 0_u64;
        // SAFETY: `count` is valid for writes of its eight bytes.
        unsafe { libc::read(self.fd, (&raw mut count).cast(), size_of::<u64>()) };
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this value's own.
        unsafe { libc::close(self.fd) };
    }
}

/// Sends what the socket takes at once.
pub fn send(fd: i32, bytes: &[u8]) -> Result<usize, String> {
    // SAFETY: `bytes` is valid for reads of its length for the duration of the call.
    let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    usize::try_from(sent).or_else(|_| would_block("sent"))
}

/// The same of two pieces, one behind the other.
pub fn send_both(fd: i32, first: &[u8], second: &[u8]) -> Result<usize, String> {
    let piece = |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut pieces = [piece(first), piece(second)];
    // SAFETY: a msghdr is plain numbers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len();
    // SAFETY: the message names two pieces, both valid for reads for the duration of the call.
    let sent = unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    usize::try_from(sent).or_else(|_| would_block("sent"))
}

/// Receives what is there: `None` for nothing yet. The end is an error here: nobody expects it.
pub fn receive(fd: i32, room: &mut [u8]) -> Result<Option<usize>, String> {
    match receive_or_end(fd, room)? {
        Some(0) => Err("the session ended".into()),
        count => Ok(count),
    }
}

/// Receives what is there: `None` for nothing yet, zero for the end.
pub fn receive_or_end(fd: i32, room: &mut [u8]) -> Result<Option<usize>, String> {
    // SAFETY: `room` is valid for writes of its length for the duration of the call.
    let count = unsafe { libc::recv(fd, room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) };
    match usize::try_from(count) {
        Ok(count) => Ok(Some(count)),
        Err(_) => would_block("received").map(|_| None),
    }
}

fn would_block(what: &str) -> Result<usize, String> {
    let error = Error::last_os_error();
    if error.kind() == ErrorKind::WouldBlock { Ok(0) } else { Err(format!("nothing can be {what}: {error}")) }
}

fn checked(outcome: i32) -> i32 {
    assert!(outcome >= 0, "{}", Error::last_os_error());
    outcome
}
