//! What a worker is told, and the queue in which that waits for it: orders of the process, and connections that another
//! worker has accepted.
//!
//! It carries; what an order means is the worker's business.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crossbeam::queue::SegQueue;
use proto::snapshot::{Bind, Listener};

use crate::alarm;
use crate::handshake::Arrival;
use crate::tables::Tables;

/// What a worker is told. Orders are carried out one after the other; a sender is dropped when its order is.
pub enum Order {
    /// These are the listeners now, with this worker's sockets of those that are new.
    Listen(Vec<Arc<Listener>>, HashMap<Bind, OwnedFd>, Sender<()>),
    /// The tables have changed, from these to those: live sessions follow.
    Adopt(Arc<Tables>, Arc<Tables>, Sender<()>),
    /// Something was heard of tokens that sessions live by.
    LookAgain,
    /// No more accepting; sessions end within this time.
    Drain(Duration, Sender<()>),
    /// Nothing: the worker shows that it is there.
    Answer(Sender<()>),
    /// End every session now, and the worker with them.
    Stop,
    /// Another worker, which has more than its share, has accepted this connection: it is this worker's from now on.
    Arrive(Arrival),
}

/// A worker's queue, and the event that says that something is in it. Anybody gives, one takes.
pub struct Inbox {
    orders: SegQueue<Order>,
    event: OwnedFd,
}

impl Inbox {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        Ok(Self { orders: SegQueue::new(), event: alarm::event_fd()? })
    }

    /// Gives an order.
    pub fn give(&self, order: Order) {
        self.orders.push(order);
        alarm::write_event(self.event.as_raw_fd());
    }

    /// The oldest order.
    pub fn take(&self) -> Option<Order> {
        self.orders.pop()
    }

    /// A second descriptor of the event: readable when orders have been given since [`quiet`](Self::quiet).
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.event.try_clone()
    }

    /// What was given until now will be taken.
    pub fn quiet(&self) {
        alarm::read_event(self.event.as_raw_fd());
    }
}
