//! The accept loops of a worker: they open, change and close with the listeners, and what they accept begins its journey.
//!
//! A connection of which this worker has enough (`balance`) goes to the inbox of another; it takes its listener, and its
//! place among the connections, along, so that whatever happens to the listener, or to the worker's own doors, meanwhile
//! happens to it as to any other connection that was accepted before. How sockets are bound is the business of `listen`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::snapshot::{Bind, Listener};

use crate::alarm::{self, Alarm, Turnstile};
use crate::handshake::{Arrival, RETRY_AFTER};
use crate::inbox::Order;
use crate::listen::{self, Accepted};
use crate::record::ListenerCounters;
use crate::refusal::Refusal;
use crate::serve;
use crate::shard::Shard;
use crate::socket::{self, Socket};

/// Connections accepted before everybody else has a turn.
const ACCEPTS_MAX: usize = 64;
/// At a door where one comes at a time it is looked for a second one only at every so many wakes: to find nobody costs about
/// as much as to accept.
const LOOK_EVERY: u32 = 8;
/// How long an accept loop rests when even the spare descriptor does not help.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The accept loops of a worker, by what they are bound to.
pub struct Doors {
    shard: Rc<Shard>,
    open: HashMap<Bind, Rc<Door>>,
}

/// One listening socket of this worker.
struct Door {
    /// Its options, as they are now.
    listener: RefCell<Arc<Listener>>,
    counters: RefCell<Arc<ListenerCounters>>,
    crowd: Crowd,
    closed: Cell<bool>,
    closing: Alarm,
}

impl Doors {
    /// None are open.
    pub fn new(shard: &Rc<Shard>) -> Self {
        Self { shard: Rc::clone(shard), open: HashMap::new() }
    }

    /// What another worker has accepted begins its journey here.
    pub fn take_in(&self, arrival: Arrival) {
        monoio::spawn(serve::connection(Rc::clone(&self.shard), arrival));
    }

    /// Opens, changes and closes, so that exactly these are open.
    pub fn set(&mut self, listeners: Vec<Arc<Listener>>, mut sockets: HashMap<Bind, OwnedFd>) {
        let mut before = std::mem::take(&mut self.open);
        for listener in listeners {
            let counters = self.shard.record.listener(&listener.name);
            let door = match before.remove(&listener.bind) {
                Some(door) => {
                    *door.listener.borrow_mut() = Arc::clone(&listener);
                    *door.counters.borrow_mut() = counters;
                    door
                }
                None => match sockets.remove(&listener.bind) {
                    Some(socket) => self.open(&listener, socket, counters),
                    None => {
                        tracing::error!(listener = listener.name, "a listener without a socket");
                        continue;
                    }
                },
            };
            self.open.insert(listener.bind.clone(), door);
        }
        for door in before.into_values() {
            door.closed.set(true);
            door.closing.ring();
        }
    }

    fn open(&self, listener: &Arc<Listener>, socket: OwnedFd, counters: Arc<ListenerCounters>) -> Rc<Door> {
        let door = Rc::new(Door {
            listener: RefCell::new(Arc::clone(listener)),
            counters: RefCell::new(counters),
            crowd: Crowd::default(),
            closed: Cell::new(false),
            closing: Alarm::default(),
        });
        monoio::spawn(accept_loop(Rc::clone(&self.shard), Rc::clone(&door), socket));
        door
    }
}

async fn accept_loop(shard: Rc<Shard>, door: Rc<Door>, socket: OwnedFd) {
    let fd = socket.as_raw_fd();
    let (socket, turnstile) = match Socket::from_fd(socket).and_then(|socket| Ok((socket, Turnstile::new()?))) {
        Ok(both) => both,
        Err(error) => return tracing::error!(%error, "a listener cannot be watched"),
    };
    while !door.closed.get() {
        let (waited, ready) = alarm::waited(async {
            monoio::select! {
                ready = socket.readable() => ready,
                () = door.closing.rung() => Ok(()),
            }
        })
        .await;
        if let Err(error) = ready {
            tracing::error!(%error, "a listener cannot be awaited");
            return;
        }
        if !waited {
            turnstile.pass().await;
        }
        while accept_batch(&shard, &door, fd).await {
            turnstile.pass().await;
        }
    }
    // Whoever connected before the door closed is let in, or told why not, and not reset.
    while accept_batch(&shard, &door, fd).await {
        turnstile.pass().await;
    }
}

/// Whether several come at a time.
#[derive(Default)]
struct Crowd {
    several: Cell<bool>,
    wakes: Cell<u32>,
}

impl Crowd {
    /// How many are to be accepted before it is waited for more.
    fn accepts_max(&self) -> usize {
        let wakes = self.wakes.get().wrapping_add(1);
        self.wakes.set(wakes);
        if self.several.get() || wakes.is_multiple_of(LOOK_EVERY) { ACCEPTS_MAX } else { 1 }
    }

    /// So many came, and then nobody.
    fn came(&self, count: usize) {
        self.several.set(count > 1);
    }
}

/// Accepts what waits, up to a batch. Returns whether more may be waiting of which the kernel does not tell.
async fn accept_batch(shard: &Rc<Shard>, door: &Door, fd: RawFd) -> bool {
    let accepts_max = if door.closed.get() { ACCEPTS_MAX } else { door.crowd.accepts_max() };
    for accepted in 0..accepts_max {
        match listen::accept(fd) {
            Accepted::Connection(connection, address) => {
                keep_spare(shard);
                let worker = shard.shared.places.choose(shard.number);
                let Some(count) = shard.shared.places.take(worker) else {
                    shed(shard, door, connection);
                    continue;
                };
                let counters = door.counters.borrow();
                counters.accepted();
                let listener = Arc::clone(&door.listener.borrow());
                let arrival =
                    Arrival { fd: connection, address, listener, accepted: Instant::now(), connection: count };
                if worker == shard.number {
                    monoio::spawn(serve::connection(Rc::clone(shard), arrival));
                } else {
                    counters.handed_over();
                    shard.shared.inboxes[worker].give(Order::Arrive(arrival));
                }
            }
            Accepted::Nobody => {
                door.crowd.came(accepted);
                return false;
            }
            Accepted::Passing => {}
            Accepted::NoDescriptors => {
                // The queue can only be shortened with a descriptor; one is kept for that.
                drop(shard.spare.take());
                let outcome = listen::accept(fd);
                let rests = matches!(outcome, Accepted::NoDescriptors);
                // Without a descriptor the kernel does not say that the queue is empty; it says so now.
                let is_over = matches!(outcome, Accepted::Nobody);
                if let Accepted::Connection(connection, _) = outcome {
                    shed(shard, door, connection);
                }
                keep_spare(shard);
                if is_over {
                    return false;
                }
                if rests {
                    monoio::time::sleep(ACCEPT_REST).await;
                    return true;
                }
            }
        }
    }
    if accepts_max > 1 {
        door.crowd.came(accepts_max);
    }
    accepts_max > 1
}

/// Somebody else may have taken the descriptor while the spare one was given up; it is had back when there are some.
fn keep_spare(shard: &Shard) {
    shard.spare.set(shard.spare.take().or_else(|| listen::spare_descriptor().ok()));
}

/// Turns a connection away for want of room, with a 503 if its socket takes one.
fn shed(shard: &Shard, door: &Door, connection: OwnedFd) {
    door.counters.borrow().shed();
    shard.record.refused(Refusal::Full);
    let row = Refusal::Full.row();
    let mut answer = Vec::with_capacity(256);
    if proto::ws::handshake::write_refusal(&mut answer, row.status, &[RETRY_AFTER], row.sentence).is_ok() {
        let fd = connection.as_raw_fd();
        // What the client has sent already is read, or closing would reset the connection before it reads our answer.
        let _ = socket::discard(fd);
        let _ = socket::send(fd, &answer);
        socket::shutdown(fd);
    }
}
