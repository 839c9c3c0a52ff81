//! Readiness: one edge-triggered epoll set tells an engine which of its sockets can be received from or sent to.
//!
//! Needs nothing but epoll, so it serves hosts and containers that forbid io_uring. The set's own descriptor is readable
//! when it has something to tell, which is what the worker awaits.
//!
//! Budget of a frame that comes alone and is taken: one `recv`, one `send`, one `epoll_wait` and one wait of the driver; no
//! copy, no allocation. Frames that come together share all four. Asserted by `tests/budget`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::wire::{Event, Key};

/// Events taken from the kernel at a time.
const EVENTS_MAX: usize = 256;
const ENDS: i32 = libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;

pub(super) struct Set {
    epoll: OwnedFd,
    room: Box<[libc::epoll_event; EVENTS_MAX]>,
}

impl Set {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a plain system call; the outcome is checked.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is fresh and nobody else's.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        Ok(Self { epoll, room: Box::new([libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX]) })
    }

    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.epoll.try_clone()
    }

    /// Tells of this leg from now on, until its descriptor is closed.
    pub(super) fn watch(&self, key: Key, fd: RawFd) -> io::Result<()> {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: events as u32, u64: key.pack(0) };
        // SAFETY: `event` is valid for the duration of the call.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// What there is to tell. Returns whether there may be more.
    pub(super) fn collect(&mut self, events: &mut Vec<(Key, Event)>) -> bool {
        let (room, room_max) = (self.room.as_mut_ptr(), EVENTS_MAX as i32);
        // SAFETY: `room` is an array of EVENTS_MAX events; a timeout of 0 does not block.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), room, room_max, 0) };
        let count = usize::try_from(count).unwrap_or(0);
        for event in &self.room[..count] {
            let bits = event.events as i32;
            let hung_up = bits & ENDS != 0;
            let readable = hung_up || bits & libc::EPOLLIN != 0;
            let ready = Event::Ready { readable, writable: bits & libc::EPOLLOUT != 0, hung_up };
            events.push((Key::unpack(event.u64).0, ready));
        }
        count == EVENTS_MAX
    }
}
