//! The workers together: starting them, giving them a generation, draining them.
//!
//! A generation is prepared whole before anything changes: what can fail (the terms of TLS, binding a listener) fails
//! first, as a rejection that names every reason. Then the tables are swapped once and every worker follows.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use proto::control::message::Generation;
use proto::snapshot::{Listener, Snapshot};

use crate::balance::Places;
use crate::bridge::{Credentials, ForwardAuth, Resolver};
use crate::choice::Choice;
use crate::inbox::{Inbox, Order};
use crate::listen::Bound;
use crate::record::{Log, Record};
use crate::shard::Shared;
use crate::tables::Tables;
use crate::throttle::Meters;
use crate::worker::Worker;

/// Descriptors that are not for connections: what the process itself and each worker hold.
const PROCESS_DESCRIPTORS: u64 = 64;
const WORKER_DESCRIPTORS: u64 = 16;
/// How long workers may take to follow a new generation before that is said in the log; they follow all the same.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether the workers have ended.
const STOP_LOOK: Duration = Duration::from_millis(2);

/// How long a process that serves nothing yet waits for an address: its predecessor may have been killed just now.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(3);
/// How long one that serves waits: a worker may still be giving a listener up that the generation before took away.
const BIND_PATIENCE: Duration = Duration::from_millis(200);

/// What the workers need to know before any snapshot.
pub struct Setting {
    /// What runs them, and what moves their bytes.
    pub choice: Choice,
    /// A CPU for each worker, or none for a worker that is not pinned; at least one worker.
    pub cpus: Vec<Option<usize>>,
    /// Open files that the process may have.
    pub descriptors_max: u64,
    /// Name resolution.
    pub resolver: Resolver,
    /// Questions to services that decide for policies.
    pub forward_auth: ForwardAuth,
    /// Credentials that workers cannot judge by themselves.
    pub credentials: Credentials,
    /// The session log.
    pub log: Log,
    /// Counters, with a shard for each worker.
    pub record: Record,
    /// How much has passed, by whose it is.
    pub meters: Arc<Meters>,
}

/// The workers and what they serve.
pub struct Gateway {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Also keeps generations apart: one is applied at a time.
    bound: Mutex<Bound>,
}

impl Gateway {
    /// Starts the workers. They serve nothing yet.
    pub fn start(setting: Setting) -> io::Result<Self> {
        let count = setting.cpus.len() as u64;
        let reserve = (PROCESS_DESCRIPTORS + WORKER_DESCRIPTORS * count).min(setting.descriptors_max / 2);
        let shared = Arc::new(Shared {
            tables: ArcSwap::from_pointee(None),
            draining: AtomicBool::new(false),
            // Two descriptors each, and a reserve.
            places: Places::new(setting.cpus.len(), ((setting.descriptors_max - reserve) / 2) as usize),
            inboxes: setting.cpus.iter().map(|_| Inbox::new().map(Arc::new)).collect::<io::Result<_>>()?,
            resolver: setting.resolver,
            forward_auth: setting.forward_auth,
            credentials: setting.credentials,
            log: setting.log,
            epoch: setting.meters.epoch(),
            meters: setting.meters,
            seats: Arc::default(),
        });
        shared.credentials.introspector.tell(&shared.inboxes);
        let start = |(number, cpu): (usize, &Option<usize>)| {
            Worker::start(number, *cpu, setting.choice, Arc::clone(&shared), setting.record.shard(number))
        };
        let workers = setting.cpus.iter().enumerate().map(start).collect::<io::Result<Vec<_>>>()?;
        Ok(Self { shared, workers, bound: Mutex::default() })
    }

    /// Serves this generation from now on, or says every reason why not and changes nothing.
    pub fn apply(&self, generation: &Generation, snapshot: &Snapshot) -> Result<(), Vec<String>> {
        let mut bound = self.bound();
        if self.is_draining() {
            return Err(vec!["this node is draining and takes no new configuration".into()]);
        }
        let listeners = snapshot.listeners();
        let before = self.tables();
        let tables = Arc::new(Tables::build(generation.clone(), snapshot, before.as_deref())?);
        let patience = if before.is_some() { BIND_PATIENCE } else { PREDECESSOR_PATIENCE };
        let prepared = bound.prepare(listeners, self.workers.len(), patience)?;
        self.shared.tables.store(Arc::new(Some(Arc::clone(&tables))));
        self.shared.credentials.introspector.follow(tables.issuers());
        let mut sockets = bound.commit(prepared, listeners);
        let listeners: Vec<Arc<Listener>> = listeners.iter().cloned().map(Arc::new).collect();
        self.order_all(|number, done| Order::Listen(listeners.clone(), std::mem::take(&mut sockets[number]), done));
        if let Some(before) = before {
            self.order_all(|_, done| Order::Adopt(Arc::clone(&before), Arc::clone(&tables), done));
        }
        Ok(())
    }

    /// The tables that are served.
    pub fn tables(&self) -> Option<Arc<Tables>> {
        Option::clone(&self.shared.tables.load())
    }

    /// Takes nobody in any more, and ends every session within the window (none: the snapshot's), which is returned.
    pub fn drain(&self, window: Option<Duration>) -> Duration {
        let mut bound = self.bound();
        self.shared.draining.store(true, Ordering::SeqCst);
        let configured = self.tables().map(|tables| Duration::from(tables.settings().drain_window));
        let window = window.or(configured).unwrap_or(Duration::ZERO);
        self.order_all(|_, done| Order::Drain(window, done));
        bound.close();
        window
    }

    /// Whether [`drain`](Self::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::SeqCst)
    }

    /// Connections of all workers, handshakes included.
    pub fn connections(&self) -> usize {
        self.shared.places.connections()
    }

    /// Whether every worker's thread still runs; one that does not is a fault of ours that nothing here can mend.
    pub fn is_alive(&self) -> bool {
        self.workers.iter().all(Worker::is_alive)
    }

    /// Ends every session and every worker now.
    pub fn stop(&self) {
        for worker in &self.workers {
            worker.order(Order::Stop);
        }
        let deadline = Instant::now() + FOLLOW_PATIENCE;
        while self.workers.iter().any(Worker::is_alive) {
            if Instant::now() > deadline {
                return tracing::error!("a worker does not end");
            }
            std::thread::sleep(STOP_LOOK);
        }
    }

    /// Gives each worker an order and waits until all have carried it out.
    fn order_all(&self, order: impl FnMut(usize, Sender<()>) -> Order) {
        if !self.carry_out(order, FOLLOW_PATIENCE) {
            tracing::warn!("a worker is slow to follow");
        }
    }

    /// Whether every worker carries out an order within this time; for a watchdog.
    pub fn answers(&self, patience: Duration) -> bool {
        self.carry_out(|_, done| Order::Answer(done), patience)
    }

    fn carry_out(&self, mut order: impl FnMut(usize, Sender<()>) -> Order, patience: Duration) -> bool {
        let (done, carried_out) = channel();
        for (number, worker) in self.workers.iter().enumerate() {
            worker.order(order(number, done.clone()));
        }
        drop(done);
        // Nothing is ever sent: the channel closes when the last order is done with.
        carried_out.recv_timeout(patience) != Err(RecvTimeoutError::Timeout)
    }

    fn bound(&self) -> MutexGuard<'_, Bound> {
        // What is bound is sound between any two of its calls.
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
