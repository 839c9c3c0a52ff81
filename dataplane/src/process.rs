//! The data plane as a process: what stands before any snapshot, what happens to a push, and how it ends.
//!
//! ```text
//! flags ─► operator listener · bridge · workers ─► stored snapshot ─► control link ⇄ control plane
//! signals ─► drain ─► every session closed ─► exit          second signal ─► exit
//! ```

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use proto::control::message::{Generation, Report, Usage, UsageAsked};
use proto::errors::with_sources;
use proto::snapshot::Snapshot;

use crate::bridge::{self, Bridge, NameServers};
use crate::choice::{self, Choice};
use crate::control_link::{self, Apply, ControlLink};
use crate::gateway::{Gateway, Setting};
use crate::health::Health;
use crate::notify;
use crate::options::{Options, Switch};
use crate::record::{Log, LogThread, Record};
use crate::relay::EngineKind;
use crate::rlimit;
use crate::signals::{OnSignal, SignalThread};
use crate::store::{Store, StoreError};
use crate::throttle::{self, Keeper, Meters};
use crate::worker::Driver;

/// How often a process that drains looks whether everybody has gone, and one that serves whether its workers live.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOK_SELDOM: Duration = Duration::from_secs(1);
/// After the drain window, how long closing handshakes may still take before what is left is dropped.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// How long the session log may take to write its last lines.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// How long a worker may take to answer the watchdog.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Runs the data plane until it is told to stop. Exits with 0 after a drain, with 1 when a fault of ours ended it, and
/// with 2 when it cannot start: then another start would fail the same way.
pub fn run(options: &Options) -> ExitCode {
    notify::diagnostics();
    if let Err(error) = rlimit::refuse_huge_pages() {
        tracing::warn!(%error, "memory may come in huge pages; many small sessions will cost more of it");
    }
    match Process::start(options) {
        Ok(process) => process.serve(),
        Err(reason) => {
            tracing::error!("{reason}");
            ExitCode::from(2)
        }
    }
}

/// Everything that runs, in the order in which it is stopped.
struct Process {
    link: Option<ControlLink>,
    node: Arc<Node>,
    bridge: Bridge,
    keeper: Keeper,
    log: LogThread,
    health: Arc<Health>,
    events: Receiver<Event>,
    _signals: SignalThread,
}

/// What the main thread waits for.
enum Event {
    /// Stop accepting and let sessions end within this time, or within the snapshot's.
    Drain(Option<Duration>),
    /// End now.
    End,
}

/// The serving side, as the control plane sees it.
struct Node {
    gateway: Gateway,
    health: Arc<Health>,
    record: Record,
    meters: Arc<Meters>,
    choice: Choice,
    workers: u32,
    started: Instant,
    events: Sender<Event>,
}

impl Apply for Node {
    fn apply(&self, generation: &Generation, snapshot: &Snapshot) -> Result<(), Vec<String>> {
        self.gateway.apply(generation, snapshot)?;
        let status = format!("serving generation {} of {}", generation.number, generation.source);
        tracing::info!(apis = snapshot.apis().count(), listeners = snapshot.listeners().len(), "{status}");
        notify::status(&status);
        self.tell_of_certificates();
        Ok(())
    }

    fn report(&self) -> Report {
        Report {
            uptime_s: self.started.elapsed().as_secs(),
            workers: self.workers,
            driver: self.choice.driver.word().into(),
            engine: self.choice.means.engine.word().into(),
            splice: self.choice.means.splice,
            draining: self.gateway.is_draining(),
            ..self.record.report()
        }
    }

    fn usage(&self, asked: &UsageAsked) -> Usage {
        throttle::usage(&self.meters, asked, self.meters.now())
    }

    fn drain(&self, window: Option<Duration>) {
        // The main thread is there for as long as the process is.
        let _ = self.events.send(Event::Drain(window));
    }
}

struct Signalled {
    events: Sender<Event>,
    log: Log,
}

impl Node {
    /// When they expire, and which endpoints' are not looked at: said again with every generation, so that nobody
    /// forgets a switch that was for a test.
    fn tell_of_certificates(&self) {
        let Some(tables) = self.gateway.tables() else { return };
        self.health.shows(tables.terms().expiries());
        for (upstream, endpoint) in tables.unverified() {
            tracing::warn!(
                upstream,
                endpoint = endpoint.name,
                "THE CERTIFICATE OF THIS ENDPOINT IS NOT VERIFIED: anybody on the way can read and change everything"
            );
        }
    }
}

impl OnSignal for Signalled {
    fn drain(&self) {
        let _ = self.events.send(Event::Drain(None));
    }

    fn end(&self) {
        let _ = self.events.send(Event::End);
    }

    fn reopen(&self) {
        self.log.reopen();
    }
}

impl Process {
    fn start(options: &Options) -> Result<Self, String> {
        let started = Instant::now();
        let health = Arc::new(Health::new(started, SystemTime::now()));
        let descriptors_max =
            rlimit::raise_open_files(options.nofile).map_err(|error| format!("the limit of open files: {error}"))?;
        let cpus = options.worker_cpus()?;
        let name =
            options.node_name().map_err(|error| format!("the host's name cannot be read; give --node: {error}"))?;
        let choice = choose(options)?;
        health.served_by(choice);
        let mut store = open_store(options)?;
        let (log, log_thread) = Log::open(options.log.clone())
            .map_err(|error| format!("the session log cannot be opened ({:?}): {error}", options.log))?;
        let record = Record::new(cpus.len(), options.metric_apis);
        let (events, received) = channel();
        let signals = SignalThread::start(Signalled { events: events.clone(), log: log.clone() })
            .map_err(|error| format!("signals cannot be received: {error}"))?;
        let bridge = start_bridge(options, &name, &record, &health, &log)?;
        let meters = Arc::new(Meters::default());
        let keeper = Keeper::start(Arc::clone(&meters), Arc::clone(&health), options.state_dir.as_deref())
            .map_err(|error| format!("the thread of limits cannot be started: {error}"))?;
        let gateway = Gateway::start(Setting {
            choice,
            cpus: pinned(options, &cpus),
            descriptors_max,
            resolver: bridge.resolver(),
            forward_auth: bridge.forward_auth(),
            credentials: bridge.credentials(),
            log,
            record: record.clone(),
            meters: Arc::clone(&meters),
        })
        .map_err(|error| format!("the workers cannot be started ({}): {error}", choice.driver.word()))?;
        let workers = cpus.len() as u32;
        tracing::info!(
            node = name,
            workers,
            driver = choice.driver.word(),
            engine = choice.means.engine.word(),
            splice = choice.means.splice,
            descriptors_max,
            "data plane {}",
            env!("CARGO_PKG_VERSION")
        );
        let node =
            Arc::new(Node { gateway, health: Arc::clone(&health), record, meters, choice, workers, started, events });
        let serving = store.as_mut().and_then(|store| resume(store, &node));
        let link = match &options.control {
            Some(_) => Some(start_link(options, &name, &node, store, serving)?),
            None => None,
        };
        watch(&node).map_err(|error| format!("the watchdog cannot be started: {error}"))?;
        notify::ready(if node.gateway.tables().is_some() {
            "serving the stored snapshot"
        } else {
            "waiting for a snapshot"
        });
        Ok(Self { link, node, bridge, keeper, log: log_thread, health, events: received, _signals: signals })
    }

    /// Waits for the end, and brings it about.
    fn serve(self) -> ExitCode {
        let mut outcome = ExitCode::SUCCESS;
        let window = loop {
            match self.events.recv_timeout(LOOK_SELDOM) {
                Ok(Event::Drain(window)) => break window,
                Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => break Some(Duration::ZERO),
                Err(RecvTimeoutError::Timeout) if self.node.gateway.is_alive() => {}
                Err(RecvTimeoutError::Timeout) => {
                    tracing::error!("a worker has died of a fault of ours; draining the others");
                    outcome = ExitCode::FAILURE;
                    break None;
                }
            }
        };
        self.drain(window);
        self.stop();
        outcome
    }

    /// Closes every session within the window; a second signal, or the end of the window, drops what is left.
    fn drain(&self, window: Option<Duration>) {
        self.health.drain();
        let window = self.node.gateway.drain(window);
        notify::stopping(window + DRAIN_GRACE, "draining");
        tracing::info!(connections = self.node.gateway.connections(), ?window, "draining");
        let mut deadline = Instant::now() + window + DRAIN_GRACE;
        while self.node.gateway.connections() > 0 {
            if Instant::now() > deadline {
                tracing::warn!(connections = self.node.gateway.connections(), "dropped at the end of the drain window");
                return;
            }
            match self.events.recv_timeout(LOOK_EVERY) {
                Ok(Event::End) => return,
                // An operator's long drain, and then the service manager's: the window that ends first holds.
                Ok(Event::Drain(window)) => {
                    let window = self.node.gateway.drain(window);
                    tracing::info!(connections = self.node.gateway.connections(), ?window, "draining, asked once more");
                    deadline = deadline.min(Instant::now() + window + DRAIN_GRACE);
                }
                Err(_) => {}
            }
        }
    }

    fn stop(self) {
        if let Some(link) = self.link {
            link.stop();
        }
        self.node.gateway.stop();
        // What the workers gave back is among what is written.
        self.keeper.stop();
        self.bridge.stop();
        if !self.log.finish(LOG_PATIENCE) {
            tracing::warn!("the session log could not be written to its end");
        }
        tracing::info!("stopped");
    }
}

/// What was asked for, or the best that this kernel and container allow; says why where that is less than the best.
fn choose(options: &Options) -> Result<Choice, String> {
    let engine = |deferred| EngineKind::Uring.is_available(deferred);
    let (choice, why) = choice::choose(options.asked(), Driver::attempt, engine)?;
    if let Some(why) = why {
        tracing::info!("{why}");
    }
    Ok(choice)
}

/// Workers that have a CPU each are pinned to it; workers that would share one are left to the scheduler.
fn pinned(options: &Options, cpus: &[usize]) -> Vec<Option<usize>> {
    let shared = cpus.iter().enumerate().any(|(at, cpu)| cpus[..at].contains(cpu));
    cpus.iter().map(|cpu| (options.cpus.is_some() || !shared).then_some(*cpu)).collect()
}

fn open_store(options: &Options) -> Result<Option<Store>, String> {
    let Some(directory) = &options.state_dir else { return Ok(None) };
    Store::open(directory, options.store_keys == Switch::On).map(Some).map_err(|error| with_sources(&error))
}

fn start_bridge(
    options: &Options,
    name: &str,
    record: &Record,
    health: &Arc<Health>,
    log: &Log,
) -> Result<Bridge, String> {
    let operator = options.operator.0.map(bridge::bind).transpose().map_err(|error| with_sources(&error))?;
    let name_servers = NameServers { servers: options.name_servers.clone(), ..NameServers::default() };
    let parts = bridge::Parts {
        operator,
        operator_hosts: options.operator_hosts.clone(),
        node: name.into(),
        record: record.clone(),
        health: Arc::clone(health),
        log: log.clone(),
        name_servers,
    };
    Bridge::start(parts).map_err(|error| format!("the bridge thread cannot be started: {error}"))
}

/// Serves the stored snapshot, if there is a good one.
fn resume(store: &mut Store, node: &Arc<Node>) -> Option<(Generation, Snapshot)> {
    let (generation, snapshot) = match store.load() {
        Ok(stored) => stored?,
        Err(error @ StoreError::Unusable { .. }) => {
            tracing::error!("{}; going on without it", with_sources(&error));
            return None;
        }
        Err(error @ StoreError::WithoutKeys) => {
            tracing::warn!("{error}");
            return None;
        }
        Err(error) => {
            tracing::error!("the stored snapshot cannot be read: {}", with_sources(&error));
            return None;
        }
    };
    match node.apply(&generation, &snapshot) {
        Ok(()) => {
            node.health.serving(generation.clone());
            Some((generation, snapshot))
        }
        Err(reasons) => {
            tracing::error!(?reasons, "the stored snapshot cannot be served");
            None
        }
    }
}

fn start_link(
    options: &Options,
    name: &str,
    node: &Arc<Node>,
    store: Option<Store>,
    serving: Option<(Generation, Snapshot)>,
) -> Result<ControlLink, String> {
    let parts = control_link::Parts {
        control: options.control()?,
        node: name.into(),
        apply: Arc::clone(node) as Arc<dyn Apply>,
        store,
        serving,
        health: Arc::clone(&node.health),
    };
    ControlLink::start(parts).map_err(|error| format!("the control thread cannot be started: {error}"))
}

/// Feeds systemd's watchdog while every worker answers.
fn watch(node: &Arc<Node>) -> std::io::Result<()> {
    let node: Weak<Node> = Arc::downgrade(node);
    notify::watchdog(move || node.upgrade().is_none_or(|node| node.gateway.answers(ANSWER_PATIENCE)))
}
