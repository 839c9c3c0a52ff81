//! uring: a ring of the engine's own receives into provided buffers, and tells of bytes instead of readiness.
//!
//! Each socket has one multishot receive, which takes its room from a small ring of buffers that the kernel fills bit by
//! bit (`IOU_PBUF_RING_INC`), whoever is heard: a receive costs no system call of its own and an idle socket no memory.
//! Bytes are dealt with in the turn that finds them, so a buffer is the kernel's again at once and no slow reader can pin
//! one: what a socket does not take is copied, like in the readiness engine.
//!
//! How much may come before somebody has looked is bounded by a credit on each multishot receive (Linux 6.17): when it is
//! used up the receive stops, and it is asked for again only if the other leg takes what comes. Where frames are worth
//! splicing, and for sending to a socket that was full, the ring is asked for readiness instead.
//!
//! The ring defers its task work to this thread where the kernel allows it, and signals an eventfd, which is what the
//! worker awaits: the descriptor of such a ring does not wake a poller.
//!
//! Budget of a frame that comes alone and is taken: one `send`, one `io_uring_enter`, one `read` of the eventfd and one wait of
//! the driver; no copy, no allocation. A peer that sends much at a time costs one `recv` and one `io_uring_enter` more. Frames
//! that come together share all of them. Asserted by `tests/budget`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::wire::{Asked, Event, Gait, Key, Portion, Wire};
use crate::alarm;
use crate::record::{Record, ShardRecord};

/// Completions dealt with at a time.
const EVENTS_MAX: usize = 256;
/// Calls in a row that bring nothing although the kernel says that work is deferred. It may say so for ever: it raises the
/// flag after it has queued the work, and so sometimes after that has been done.
const FRUITLESS_MAX: u32 = 4;
const GROUP: u16 = 0;
/// `IOU_PBUF_RING_INC` of the kernel's interface: a buffer is used up bit by bit.
const INCREMENTAL: u16 = 2;
/// Where `optlen` stands in a submission: the total that a multishot receive may bring.
const CREDIT_AT: usize = 44;
const PAGE_BYTES: usize = 4096;
const HUNG_UP: i32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as i32;

// What a request was, in the two bits that a key leaves free.
const BYTES: u64 = 0;
const READABLE: u64 = 1;
const WRITABLE: u64 = 2;
const CANCEL: u64 = 3;

/// The sizes of a ring.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// Submissions that wait to be entered.
    pub submissions: u32,
    /// Completions that wait to be looked at; more are kept by the kernel, at a cost.
    pub completions: u32,
    /// Provided buffers; a power of two.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
}

impl Geometry {
    /// What a worker uses: measured (fewer and smaller buffers cost more sends from 16 KiB up, more cost memory, because
    /// the kernel fills one after the other).
    pub const WORKER: Self = Self { submissions: 512, completions: 4096, buffers: 4, buffer_bytes: 256 * 1024 };
}

pub(super) struct Ring {
    // First, so that it is gone before what it writes to.
    ring: IoUring,
    table: Mapping,
    memory: Option<Mapping>,
    event: OwnedFd,
    geometry: Geometry,
    /// Descriptors to close when the kernel has heard of all that was asked.
    closing: Vec<OwnedFd>,
    /// Requests for which the ring had no room.
    unasked: VecDeque<squeue::Entry>,
    /// Of each buffer, how much the kernel has used.
    used: Box<[u32]>,
    record: Arc<ShardRecord>,
    /// Where in the table the next buffer is given to the kernel.
    tail: u16,
}

impl Ring {
    /// A ring for the calling thread; nobody else may use it if its task work is `deferred`.
    pub(super) fn new(geometry: Geometry, deferred: bool, record: Arc<ShardRecord>) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(geometry.completions).setup_submit_all().setup_taskrun_flag();
        if deferred {
            builder.setup_single_issuer().setup_defer_taskrun();
        } else {
            builder.setup_coop_taskrun();
        }
        let ring: IoUring = builder.build(geometry.submissions)?;
        let count = usize::from(geometry.buffers);
        let table = Mapping::new(count * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(count * geometry.buffer_bytes as usize)?;
        let event = alarm::event_fd()?;
        let submitter = ring.submitter();
        // SAFETY: the table outlives the ring, whose field stands before it, and has an entry for each buffer.
        unsafe { submitter.register_buf_ring_with_flags(table.address(), geometry.buffers, GROUP, INCREMENTAL)? };
        submitter.register_eventfd(event.as_raw_fd())?;
        let used = vec![0; count].into_boxed_slice();
        let mut this = Self {
            ring,
            table,
            memory: Some(memory),
            event,
            geometry,
            closing: Vec::new(),
            unasked: VecDeque::new(),
            used,
            record,
            tail: 0,
        };
        (0..geometry.buffers).for_each(|buffer| this.provide(buffer));
        Ok(this)
    }

    /// Whether the kernel has all that is needed, tried on a pair of sockets.
    pub(super) fn is_available(deferred: bool) -> bool {
        let tried = move || -> io::Result<bool> {
            let mut ring = Self::new(Geometry::WORKER, deferred, Record::new(1, 1).shard(0))?;
            let (one, other) = std::os::unix::net::UnixStream::pair()?;
            io::Write::write_all(&mut &other, b"?")?;
            let key = Key { index: 0, epoch: 0, leg: crate::relay::session::Leg::Client };
            let mut wire = Wire::new(one.into(), None);
            ring.attend(key, &mut wire, false, 1);
            let mut events = Vec::new();
            ring.collect(&mut events);
            // With a credit of one byte, the one byte is the last.
            Ok(matches!(events[..], [(_, Event::Received { portion: Portion { length: 1, .. }, stopped: true })]))
        };
        std::thread::spawn(tried).join().is_ok_and(|outcome| outcome.unwrap_or(false))
    }

    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.event.try_clone()
    }

    /// Asks what there is to ask about a leg now. `blocked`: nothing that it brings could be sent on.
    pub(super) fn attend(&mut self, key: Key, wire: &mut Wire, blocked: bool, credit: u32) {
        let Some(fd) = wire.raw() else { return };
        if wire.is_clogged() && !wire.asked_writable {
            wire.asked_writable = true;
            self.push(opcode::PollAdd::new(Fd(fd), libc::POLLOUT as u32).build().user_data(key.pack(WRITABLE)));
        }
        if wire.asked != Asked::Nothing || wire.readable || wire.ended || blocked {
            return;
        }
        if wire.gait != Gait::Small {
            wire.asked = Asked::Readiness;
            let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
            self.push(opcode::PollAdd::new(Fd(fd), events).build().user_data(key.pack(READABLE)));
        } else {
            wire.asked = Asked::Bytes;
            let receive = opcode::RecvMulti::new(Fd(fd), GROUP).len(credit).build().user_data(key.pack(BYTES));
            self.push(with_credit(receive, credit));
        }
    }

    /// Takes back what was asked about a leg, and closes its descriptor when the kernel has heard of that: a request that is
    /// still on its way names the descriptor by its number, which would be somebody else's by then.
    pub(super) fn forget(&mut self, key: Key, wire: &mut Wire) {
        let Some(fd) = wire.fd.take() else { return };
        let receiving = match wire.asked {
            Asked::Nothing => None,
            Asked::Bytes => Some(BYTES),
            Asked::Readiness => Some(READABLE),
        };
        for tag in receiving.into_iter().chain(wire.asked_writable.then_some(WRITABLE)) {
            let cancel = opcode::AsyncCancel::new(key.pack(tag)).build();
            self.push(cancel.flags(squeue::Flags::SKIP_SUCCESS).user_data(key.pack(CANCEL)));
        }
        if receiving.is_some() || wire.asked_writable {
            self.closing.push(fd);
        }
    }

    /// Has the kernel hear of what was asked since the last time.
    pub(super) fn submit(&mut self) {
        if self.has_unasked() {
            self.enter(EnterFlags::empty());
        }
    }

    /// What there is to tell. Returns whether there may be more.
    pub(super) fn collect(&mut self, events: &mut Vec<(Key, Event)>) -> bool {
        alarm::read_event(self.event.as_raw_fd());
        let mut fruitless = 0;
        loop {
            self.enter(EnterFlags::GETEVENTS);
            let told = self.reap(events);
            fruitless = if told > 0 { 0 } else { fruitless + 1 };
            let submissions = self.ring.submission();
            let overflown = submissions.cq_overflow();
            // One call runs some twenty pieces of deferred work, and the eventfd does not tell of the rest.
            let deferred = submissions.taskrun() && fruitless < FRUITLESS_MAX;
            drop(submissions);
            if overflown {
                self.record.ring_overflown();
            }
            let more = overflown || deferred || self.has_unasked();
            if !more || events.len() >= EVENTS_MAX || fruitless >= FRUITLESS_MAX {
                return more || !self.ring.completion().is_empty();
            }
        }
    }

    /// Looks at what there is room for. Returns how many completions that were, those that say nothing included.
    fn reap(&mut self, events: &mut Vec<(Key, Event)>) -> usize {
        let Self { ring, used, geometry, .. } = self;
        let room = EVENTS_MAX.saturating_sub(events.len());
        let mut told = 0;
        for completion in ring.completion().take(room) {
            told += 1;
            let (key, tag) = Key::unpack(completion.user_data());
            let (result, flags) = (completion.result(), completion.flags());
            let event = match tag {
                BYTES => received(result, flags, used, geometry),
                // Whatever the outcome: who tries will see.
                READABLE => {
                    Event::Ready { readable: true, writable: false, hung_up: result > 0 && result & HUNG_UP != 0 }
                }
                WRITABLE => Event::Ready { readable: false, writable: true, hung_up: false },
                // A cancelled request answers for itself.
                _ => continue,
            };
            events.push((key, event));
        }
        told
    }

    /// The memory that portions stand in, lent out while they are dealt with.
    pub(super) fn lend(&mut self) -> Mapping {
        self.memory.take().expect("one portion is dealt with at a time")
    }

    pub(super) fn range(&self, portion: Portion) -> std::ops::Range<usize> {
        let start = usize::from(portion.buffer) * self.geometry.buffer_bytes as usize + portion.start as usize;
        start..start + portion.length as usize
    }

    pub(super) fn take_back(&mut self, memory: Mapping) {
        self.memory = Some(memory);
    }

    /// Has the kernel use the portion's buffer again, if it was its last.
    pub(super) fn done_with(&mut self, portion: Portion) {
        if portion.last {
            self.provide(portion.buffer);
        }
    }

    fn provide(&mut self, buffer: u16) {
        let memory = self.memory.as_ref().expect("it is not lent out").address();
        self.used[usize::from(buffer)] = 0;
        let slot = usize::from(self.tail & (self.geometry.buffers - 1));
        let table = self.table.pointer().cast::<BufRingEntry>();
        // SAFETY: the table has as many entries as there are buffers, page-aligned, and the kernel leaves this one alone: it has
        // used the buffer up, or has never had it, and learns of it by the tail. The tail stands in the first entry, where no
        // other field is, and is written last.
        unsafe {
            let entry = &mut *table.add(slot);
            entry.set_addr(memory + u64::from(buffer) * u64::from(self.geometry.buffer_bytes));
            entry.set_len(self.geometry.buffer_bytes);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(table).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    fn push(&mut self, request: squeue::Entry) {
        self.unasked.push_back(request);
        self.queue();
        if !self.unasked.is_empty() {
            self.enter(EnterFlags::empty());
        }
    }

    /// Moves as many requests as there is room for to where the kernel finds them.
    fn queue(&mut self) {
        let mut submissions = self.ring.submission();
        while let Some(request) = self.unasked.front() {
            // SAFETY: requests name descriptors, which the kernel checks, and no memory but the registered buffers.
            if unsafe { submissions.push(request) }.is_err() {
                return;
            }
            self.unasked.pop_front();
        }
    }

    /// Whether there is something that the kernel has not heard of.
    fn has_unasked(&mut self) -> bool {
        !self.unasked.is_empty() || !self.ring.submission().is_empty()
    }

    /// A kernel that is out of memory takes the requests at a later call.
    fn enter(&mut self, flags: EnterFlags) {
        self.queue();
        let waiting = self.ring.submission().len() as u32;
        // SAFETY: no argument is passed.
        let enter = || unsafe { self.ring.submitter().enter::<libc::sigset_t>(waiting, 0, flags.bits(), None) };
        let outcome = loop {
            match enter() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome,
            }
        };
        if let Err(error) = outcome {
            // Then it is not known any more which bytes stand where.
            assert_ne!(error.raw_os_error(), Some(libc::EBADR), "the kernel has dropped completions");
        }
        if !self.has_unasked() {
            self.closing.clear();
        }
    }
}

fn received(result: i32, flags: u32, used: &mut [u32], geometry: &Geometry) -> Event {
    let stopped = !cqueue::more(flags);
    match result {
        0 => Event::Ended,
        1.. => {
            let buffer = cqueue::buffer_select(flags).expect("what was received stands in a buffer");
            let length = result as u32;
            let used = &mut used[usize::from(buffer)];
            let start = *used;
            *used += length;
            assert!(*used <= geometry.buffer_bytes, "the kernel fills a buffer to its end and no further");
            let last = !cqueue::buffer_more(flags);
            Event::Received { portion: Portion { buffer, start, length, last }, stopped }
        }
        _ if result == -libc::ENOBUFS => Event::Starved,
        // Taken back, or the kernel was short of something: it may be asked for again.
        _ if matches!(-result, libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ENOMEM) => Event::Stopped,
        _ => Event::Failed,
    }
}

/// The crate does not know this field of a receive yet.
fn with_credit(mut receive: squeue::Entry, bytes: u32) -> squeue::Entry {
    const _: () = assert!(size_of::<squeue::Entry>() == 64);
    // SAFETY: an entry is the 64 plain bytes of the kernel's interface, of which these four are `optlen`.
    unsafe { (&raw mut receive).cast::<u8>().add(CREDIT_AT).cast::<u32>().write(bytes) };
    receive
}

/// Zeroed pages of this process; they become memory when they are first written to.
pub(super) struct Mapping {
    start: std::ptr::NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Self> {
        let bytes = bytes.next_multiple_of(PAGE_BYTES);
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: std::ptr::NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?, bytes })
    }

    fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    fn pointer(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The bytes. The kernel writes to those that it has been given and has not told of.
    pub(super) fn slice(&mut self, range: std::ops::Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.bytes);
        // SAFETY: within the mapping, which is ours alone and as long as `self`; these bytes have been told of, so that the
        // kernel has done with them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(range.start), range.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody borrows from it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
