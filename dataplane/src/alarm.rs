//! Waiting for a deadline that may move nearer, and giving way to the kernel.
//!
//! Both are for tasks of one worker, under either driver of monoio.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::socket::Socket;

/// A deadline on the worker's clock that others may move nearer while one task sleeps until it.
#[derive(Debug, Default)]
pub struct Alarm {
    rung: Cell<bool>,
    sleeper: RefCell<Option<Waker>>,
    until_ms: Cell<u64>,
}

impl Alarm {
    /// Wakes the sleeper.
    pub fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.sleeper.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Wakes the sleeper if it would sleep past `due_ms`.
    pub fn ring_if_earlier(&self, due_ms: u64) {
        if due_ms < self.until_ms.get() {
            self.ring();
        }
    }

    /// Waits until somebody rings.
    pub async fn rung(&self) {
        poll_fn(|context| {
            if self.rung.take() {
                return Poll::Ready(());
            }
            *self.sleeper.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Sleeps for this long, which ends at `until_ms`, or until somebody rings.
    pub async fn sleep_until(&self, until_ms: u64, duration: Duration) {
        self.until_ms.set(until_ms);
        // Rung or not, it is time to look again.
        let _ = monoio::time::timeout(duration, self.rung()).await;
        self.until_ms.set(0);
    }
}

/// Lets the driver look at the kernel before the task goes on. monoio runs a task that wakes itself before any I/O, and
/// a wait for something that is ready already does not go through the driver on epoll; so this waits for an event that
/// it causes only once it waits.
pub struct Turnstile {
    event: Socket,
    fd: RawFd,
}

impl Turnstile {
    /// One for the calling worker.
    pub fn new() -> io::Result<Self> {
        let event = event_fd()?;
        let fd = event.as_raw_fd();
        Ok(Self { event: Socket::from_fd(event)?, fd })
    }

    /// Everybody else first.
    pub async fn pass(&self) {
        read_event(self.fd);
        let mut readable = pin!(self.event.readable());
        let mut waiting = false;
        poll_fn(|context| {
            let outcome = readable.as_mut().poll(context);
            if outcome.is_pending() && !std::mem::replace(&mut waiting, true) {
                write_event(self.fd);
            }
            outcome.map(drop)
        })
        .await;
    }
}

/// What the future comes to, and whether it had to wait for that. Who did not wait has not been to the driver, and
/// nobody else has had a turn.
pub async fn waited<T>(future: impl Future<Output = T>) -> (bool, T) {
    let mut future = pin!(future);
    let mut waited = false;
    poll_fn(|context| {
        let outcome = future.as_mut().poll(context);
        waited |= outcome.is_pending();
        outcome.map(|output| (waited, output))
    })
    .await
}

/// A nonblocking eventfd.
pub fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the outcome is checked, and the descriptor is nobody else's.
    unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Makes an eventfd readable.
pub fn write_event(fd: RawFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight bytes are read from `one`. A full counter is as readable as can be.
    unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
}

/// Makes an eventfd unreadable.
pub fn read_event(fd: RawFd) {
    let mut count = [0; 8];
    // SAFETY: eight bytes are written to `count`. An empty counter answers EAGAIN.
    unsafe { libc::read(fd, count.as_mut_ptr().cast(), count.len()) };
}
