//! One pinned thread: its runtime, its engine, and the orders that reach it; its accept loops are `doors`.
//!
//! ```text
//! process ── Order ──► inbox ─┬─ Listen: accept loops begin, change or end ──► serve::connection, a task each
//!                             ├─ Adopt, Drain, Stop: every session is looked at
//! other workers ───────► inbox ─ Arrive: serve::connection
//! descriptor of the engine ────┴─ turn · its next deadline ─ sweep
//! ```

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::alarm::{self, Alarm, Turnstile};
use crate::choice::Choice;
use crate::doors::Doors;
use crate::inbox::{Inbox, Order};
use crate::listen;
use crate::record::{Cause, ShardRecord};
use crate::relay::{Engine, Keys, Means, Moment, Resident, Session};
use crate::shard::{Shard, Shared};
use crate::socket::Socket;
use crate::tables::{Fate, Tables};
use crate::throttle::Ledger;

/// Turns of the engine before everybody else has one.
const TURNS_MAX: u32 = 4;
/// Orders carried out before everybody else has one.
const ORDERS_MAX: u32 = 64;
/// Sessions are judged by the clock at most this often.
const SWEEP_EVERY: Duration = Duration::from_millis(20);
/// And looked for at least this often.
const SWEEP_AT_LEAST: Duration = Duration::from_secs(60);
/// Those who wait for room are looked at at most this often: what flows into a limit is there to the millisecond.
const LINE_EVERY: Duration = Duration::from_millis(1);

/// Which of monoio's drivers runs a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// io_uring with deferred task work: the cheapest.
    UringDeferred,
    /// io_uring as any kernel that has it offers it.
    Uring,
    /// epoll.
    Epoll,
}

impl Driver {
    /// As a word for logs and reports.
    pub const fn word(self) -> &'static str {
        match self {
            Self::UringDeferred => "io_uring",
            Self::Uring => "io_uring_plain",
            Self::Epoll => "epoll",
        }
    }

    /// Tries whether this kernel, and this container, lets a worker have it.
    pub fn attempt(self) -> io::Result<()> {
        let outcome = std::thread::spawn(move || match self {
            Self::UringDeferred => uring(true).build().map(drop),
            Self::Uring => uring(false).build().map(drop),
            Self::Epoll => Ok(()),
        });
        outcome.join().unwrap_or_else(|_| Err(io::Error::other("the driver cannot be built")))
    }
}

/// A running worker, as the process sees it.
pub struct Worker {
    inbox: Arc<Inbox>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts worker `number` on a CPU, if one is given. Returns when its runtime and engine stand.
    pub fn start(
        number: usize,
        cpu: Option<usize>,
        choice: Choice,
        shared: Arc<Shared>,
        record: Arc<ShardRecord>,
    ) -> io::Result<Self> {
        let inbox = Arc::clone(&shared.inboxes[number]);
        let (started, outcome) = std::sync::mpsc::channel();
        let for_thread = Arc::clone(&inbox);
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            if let Some(cpu) = cpu {
                pin(cpu);
            }
            let main = run(number, choice.means, shared, record, for_thread, started.clone());
            let built = match choice.driver {
                Driver::UringDeferred => uring(true).build().map(|mut runtime| runtime.block_on(main)),
                Driver::Uring => uring(false).build().map(|mut runtime| runtime.block_on(main)),
                Driver::Epoll => epoll().build().map(|mut runtime| runtime.block_on(main)),
            };
            if let Err(error) = built {
                // Whoever waits for the start hears of it; later nobody does.
                let _ = started.send(Err(error));
            }
        })?;
        match outcome.recv() {
            Ok(Ok(())) => Ok(Self { inbox, thread }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the worker's thread ended")),
        }
    }

    /// Gives an order.
    pub fn order(&self, order: Order) {
        self.inbox.give(order);
    }

    /// Whether its thread still runs.
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }
}

fn uring(deferred: bool) -> monoio::RuntimeBuilder<monoio::time::TimeDriver<monoio::IoUringDriver>> {
    let mut ring = io_uring_06::IoUring::builder();
    if deferred {
        ring.setup_single_issuer().setup_defer_taskrun();
    }
    monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().uring_builder(ring).enable_timer()
}

fn epoll() -> monoio::RuntimeBuilder<monoio::time::TimeDriver<monoio::LegacyDriver>> {
    monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer()
}

fn pin(cpu: usize) {
    if let Err(error) = monoio::utils::bind_to_cpu_set([cpu]) {
        tracing::warn!(cpu, %error, "the worker cannot be pinned");
    }
}

/// The worker's main task: sets the shard up, then carries out orders until it is told to stop.
async fn run(
    number: usize,
    means: Means,
    shared: Arc<Shared>,
    record: Arc<ShardRecord>,
    inbox: Arc<Inbox>,
    started: Sender<io::Result<()>>,
) {
    let parts = prepare(number, means, shared, record, &inbox);
    let (shard, orders, events, turnstiles) = match parts {
        Ok(parts) => parts,
        Err(error) => {
            // Whoever waits for the start hears of it; nobody else can be waiting.
            let _ = started.send(Err(error));
            return;
        }
    };
    let [turnstile, for_orders] = turnstiles;
    monoio::spawn(turn(Rc::clone(&shard), events, turnstile));
    monoio::spawn(sweep(Rc::clone(&shard)));
    monoio::spawn(keep_ledger(Rc::clone(&shard.ledger)));
    let _ = started.send(Ok(()));
    let mut doors = Doors::new(&shard);
    let mut taken = 0_u32;
    loop {
        inbox.quiet();
        while let Some(order) = inbox.take() {
            match order {
                Order::Listen(listeners, sockets, done) => {
                    doors.set(listeners, sockets);
                    drop(done);
                }
                Order::Adopt(before, tables, done) => {
                    adopt(&shard, &before, &tables);
                    drop(done);
                }
                Order::LookAgain => look_again(&shard),
                Order::Drain(window, done) => {
                    doors.set(Vec::new(), HashMap::new());
                    drain(&shard, window);
                    drop(done);
                }
                Order::Answer(done) => drop(done),
                Order::Stop => {
                    doors.set(Vec::new(), HashMap::new());
                    shard.engine.borrow_mut().drop_all(shard.now_ms());
                    return;
                }
                Order::Arrive(arrival) => doors.take_in(arrival),
            }
            taken = taken.wrapping_add(1);
            if taken.is_multiple_of(ORDERS_MAX) {
                for_orders.pass().await;
            }
        }
        if orders.readable().await.is_err() {
            return;
        }
    }
}

type Parts = (Rc<Shard>, Socket, Socket, [Turnstile; 2]);

fn prepare(
    number: usize,
    means: Means,
    shared: Arc<Shared>,
    record: Arc<ShardRecord>,
    inbox: &Inbox,
) -> io::Result<Parts> {
    let place = (number as u16, shared.inboxes.len() as u16);
    let ledger = Ledger::new(Arc::clone(&shared.meters), place, Arc::clone(&record));
    let engine = Engine::new(means, Keys::from_system(), Arc::clone(&record))?;
    let events = Socket::from_fd(engine.descriptor()?)?;
    let orders = Socket::from_fd(inbox.descriptor()?)?;
    let shard = Rc::new(Shard {
        number,
        shared,
        engine: RefCell::new(engine),
        alarm: Alarm::default(),
        keys: RefCell::new(Keys::from_system()),
        record,
        names: RefCell::default(),
        verified: RefCell::default(),
        spare: Cell::new(Some(listen::spare_descriptor()?)),
        handshakes: Cell::new(0),
        ledger,
    });
    Ok((shard, orders, events, [Turnstile::new()?, Turnstile::new()?]))
}

/// Runs the engine whenever the kernel has something for it.
async fn turn(shard: Rc<Shard>, events: Socket, turnstile: Turnstile) {
    let mut turns = 0;
    loop {
        let (waited, ready) = alarm::waited(events.readable()).await;
        if let Err(error) = ready {
            tracing::error!(%error, "the engine cannot be awaited");
            return;
        }
        turns = if waited { 1 } else { turns + 1 };
        while shard.engine.borrow_mut().turn(shard.now_ms()) {
            turnstile.pass().await;
            turns = 1;
        }
        // A session may have begun its end, or to wait for room, and with it a nearer deadline.
        shard.alarm.ring_if_earlier(shard.engine.borrow().wakes_ms());
        if turns >= TURNS_MAX {
            // Busy sessions may always have something ready; handshakes, orders and timers want their turn too.
            turnstile.pass().await;
            turns = 0;
        }
    }
}

/// Judges sessions by the clock, when the first of them is due.
async fn sweep(shard: Rc<Shard>) {
    let turnstile = match Turnstile::new() {
        Ok(turnstile) => turnstile,
        Err(error) => return tracing::error!(%error, "sessions cannot be judged by the clock"),
    };
    loop {
        let until = |due_ms: u64| Duration::from_millis(due_ms.saturating_sub(shard.now_ms()));
        let sweep_in = until(shard.engine.borrow().due_ms()).clamp(SWEEP_EVERY, SWEEP_AT_LEAST);
        let wait = until(shard.engine.borrow().line_due_ms()).clamp(LINE_EVERY, sweep_in);
        shard.alarm.sleep_until(shard.now_ms() + wait.as_millis() as u64, wait).await;
        let now_ms = shard.now_ms();
        if shard.engine.borrow().line_due_ms() <= now_ms {
            shard.engine.borrow_mut().resume_line(now_ms);
        }
        if shard.engine.borrow().due_ms() <= now_ms {
            shard.engine.borrow_mut().sweep(now_ms);
        }
        // What a sweep, or an order before it, has left behind: the kernel will not tell of it.
        while shard.engine.borrow().has_unfinished() {
            turnstile.pass().await;
            shard.engine.borrow_mut().turn(shard.now_ms());
        }
    }
}

/// What this shard has in hand of limits, and does not use, goes back.
async fn keep_ledger(ledger: Rc<Ledger>) {
    ledger.keep().await;
}

/// Live sessions follow a change of the tables.
fn adopt(shard: &Shard, before: &Tables, tables: &Tables) {
    let changes = before.changes(tables);
    if changes.is_empty() {
        return;
    }
    let moment = Moment::now(shard);
    let now_ms = moment.now_ms;
    if changes.reach_limits() {
        // What was granted under other terms is not spent under these.
        shard.ledger.give_back_all();
    }
    let window_ms = tables.settings().drain_window.as_ms();
    shard.engine.borrow_mut().for_each(now_ms, |session: &mut Session, resident: &mut Resident, keys| {
        if changes.reach_grants() {
            resident.look_again(tables, session, moment);
        }
        if changes.reach_limits() {
            resident.follow_limits(&shard.ledger, tables, session, now_ms);
        }
        match changes.fate(&resident.api, session.limits()) {
            Fate::Untouched => {}
            Fate::Limits(limits) => session.adopt_limits(&limits),
            Fate::Retired => session.drain_at(now_ms + keys.below(window_ms + 1), Cause::Unpublished),
        }
    });
    shard.alarm.ring();
}

/// Something was heard of tokens: sessions that live by them are looked at.
fn look_again(shard: &Shard) {
    let Some(tables) = shard.tables() else { return };
    let moment = Moment::now(shard);
    shard.engine.borrow_mut().for_each(moment.now_ms, |session: &mut Session, resident: &mut Resident, _| {
        resident.look_again(&tables, session, moment);
    });
    shard.alarm.ring();
}

/// Every session ends at its own time within the window.
fn drain(shard: &Shard, window: Duration) {
    let now_ms = shard.now_ms();
    let window_ms = window.as_millis() as u64;
    shard.engine.borrow_mut().for_each(now_ms, |session, _, keys| {
        session.drain_at(now_ms + keys.below(window_ms + 1), Cause::Drain);
    });
    shard.alarm.ring();
}
