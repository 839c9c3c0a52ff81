//! The data plane's end of the control link: dial, say who we are, take pushes, answer each with one Ack or Reject.
//!
//! A plain thread with a blocking socket, because nothing here is anybody's session. What a push means is decided in
//! proto, what serves it is behind [`Apply`]. Losing the control plane changes nothing but a gauge.
//!
//! ```text
//! dial ─▶ Hello ─▶ Welcome ─▶ ┌ Push ─▶ assemble ─▶ apply ─▶ Ack, and to disk
//!   ▲  back-off                │              └─ faults ─┴─▶ Reject
//!   └──────── end, or fault ◀──┴ Drain, Ask ─▶ Report (also by the clock), Usage
//! ```

mod dial;
mod incoming;
mod keeper;

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use proto::control::message::{Ack, Ask, Drain, Generation, Hello, Push, Reject, Report, Usage, UsageAsked, Welcome};
use proto::control::{EnvelopeError, Message, PROTOCOL_VERSION};
use proto::errors::with_sources;
use proto::limits::PROBLEMS_MAX;
use proto::snapshot::{Digest, Snapshot};

use crate::health::Health;
use crate::store::Store;
pub use dial::{Control, Credentials};
use dial::{CredentialsError, Cut, Stream};
use incoming::{Envelope, Incoming};
use keeper::Keeper;

/// The first pause after a connection failed or ended; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A connection that lived this long was a good one: the next pause is the first again.
const GOOD_AFTER: Duration = Duration::from_secs(5);
/// A control plane that is not there yet so soon after our start is no trouble.
const START_PATIENCE: Duration = Duration::from_secs(2);
/// How long the control plane may take for its Welcome, and we for any write.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// An envelope that has begun may pause for at most this long.
const STALL_MAX: Duration = Duration::from_secs(30);
/// The same trouble is told again after this.
const REMIND_AFTER: Duration = Duration::from_secs(60);
/// Reports are not sent more often than this, whatever a control plane asks for.
const REPORT_EVERY_MIN: Duration = Duration::from_millis(100);
/// Bytes of one reason in a Reject.
const REASON_BYTES_MAX: usize = 1024;

/// What serves: the side of the process that the control plane talks to.
pub trait Apply: Send + Sync {
    /// Serves this snapshot from now on, or explains, completely, why not, and then nothing has changed.
    fn apply(&self, generation: &Generation, snapshot: &Snapshot) -> Result<(), Vec<String>>;

    /// How the process stands. The ticket is filled in by the caller.
    fn report(&self) -> Report;

    /// What is used of limits. The ticket is filled in by the caller.
    fn usage(&self, asked: &UsageAsked) -> Usage;

    /// Stops accepting and closes sessions over `window`, or over the snapshot's own window.
    fn drain(&self, window: Option<Duration>);
}

/// What the link is made of.
pub struct Parts {
    /// Where the control plane is.
    pub control: Control,
    /// The node's name.
    pub node: String,
    /// Who serves.
    pub apply: Arc<dyn Apply>,
    /// Where good snapshots are kept; `None` if they are not.
    pub store: Option<Store>,
    /// What is being served already, from the store.
    pub serving: Option<(Generation, Snapshot)>,
    /// Told of connections and generations.
    pub health: Arc<Health>,
}

/// The running link.
#[derive(Debug)]
pub struct ControlLink {
    switch: Arc<Switch>,
    thread: JoinHandle<()>,
}

/// Reaches the thread where it waits: in a read, or in a pause.
#[derive(Debug, Default)]
struct Switch {
    stop: AtomicBool,
    connection: Mutex<Option<Cut>>,
}

impl ControlLink {
    /// Starts the thread.
    pub fn start(parts: Parts) -> io::Result<Self> {
        let switch = Arc::new(Switch::default());
        let link = Link::new(parts, Arc::clone(&switch))?;
        let thread = thread::Builder::new().name("control".into()).spawn(move || link.run())?;
        Ok(Self { switch, thread })
    }

    /// Cuts the connection, and ends the thread when what is served is stored.
    pub fn stop(self) {
        self.switch.stop.store(true, Ordering::SeqCst);
        if let Some(connection) = self.switch.connection().take() {
            connection.now();
        }
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the control thread panicked");
        }
    }
}

impl Switch {
    fn is_off(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// It holds one connection or none, whoever panicked.
    fn connection(&self) -> MutexGuard<'_, Option<Cut>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the control socket {0} cannot be reached")]
    Dial(String, #[source] io::Error),
    #[error("the certificates for the control plane are of no use")]
    Credentials(#[from] Box<CredentialsError>),
    #[error("the TLS handshake with the control plane {control} failed")]
    Handshake { control: String, source: io::Error },
    #[error("the control plane refuses this node: {0}")]
    Refused(String),
    #[error("the control socket {path} belongs to user {uid}; only our own user and root are believed")]
    Stranger { path: PathBuf, uid: u32 },
    #[error("the connection to the control plane failed")]
    Connection(#[source] io::Error),
    #[error("the control plane closed the connection")]
    Ended,
    #[error("the control plane did not answer in time")]
    Silent,
    #[error("the control plane sent what cannot be understood")]
    Malformed(#[from] EnvelopeError),
    #[error("the control plane speaks version {0} of the protocol, this data plane version {PROTOCOL_VERSION}")]
    Version(u32),
    #[error("the control plane sent a message of kind {0} where it has no place")]
    OutOfPlace(u8),
}

struct Link {
    control: Control,
    node: String,
    apply: Arc<dyn Apply>,
    keeper: Option<Keeper>,
    health: Arc<Health>,
    switch: Arc<Switch>,
    /// What is served: a push need not carry those of its sections that are in there.
    serving: Option<(Generation, Snapshot)>,
}

impl Link {
    fn new(parts: Parts, switch: Arc<Switch>) -> io::Result<Self> {
        let Parts { control, node, apply, store, serving, health } = parts;
        let keeper = store.map(|store| Keeper::start(store, Arc::clone(&health))).transpose()?;
        Ok(Self { control, node, apply, keeper, health, switch, serving })
    }

    fn run(mut self) {
        self.converse();
        if let Some(keeper) = self.keeper {
            keeper.finish();
        }
    }

    /// One connection after the other.
    fn converse(&mut self) {
        let mut pause = PAUSE_MIN;
        let mut told = Told::default();
        let started = Instant::now();
        while !self.switch.is_off() {
            let begun = Instant::now();
            let trouble = match self.session(&mut told) {
                Ok(never) => match never {},
                Err(trouble) => trouble,
            };
            self.health.control_connected.store(false, Ordering::Relaxed);
            self.switch.connection().take();
            if self.switch.is_off() {
                return;
            }
            // Both planes are often started together, and the control plane is the slower one.
            let expected = matches!(trouble, Trouble::Dial(..)) && started.elapsed() < START_PATIENCE;
            if !expected {
                told.tell(&trouble, Instant::now());
            }
            if begun.elapsed() >= GOOD_AFTER {
                pause = PAUSE_MIN;
            }
            thread::park_timeout(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One connection, from dialling to whatever ends it.
    fn session(&mut self, told: &mut Told) -> Result<std::convert::Infallible, Trouble> {
        let stream = Stream::open(&self.control, |cut| {
            *self.switch.connection() = Some(cut);
            // Whoever stops us has either seen the connection, or is seen here.
            if self.switch.is_off()
                && let Some(cut) = self.switch.connection().take()
            {
                cut.now();
            }
        })?;
        let mut wire = Wire { incoming: Incoming::default(), stream };
        wire.send(&Message::Hello(self.hello()))?;
        let welcome = wire.welcome()?;
        self.health.control_connected.store(true, Ordering::Relaxed);
        tracing::info!(control = %self.control, software = %welcome.software, "connected to the control plane");
        told.forget();

        let every = match welcome.report_every_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms).max(REPORT_EVERY_MIN)),
        };
        let mut due = every.map(|every| Instant::now() + every);
        loop {
            let envelope = wire.receive(due)?;
            if let (Some(every), Some(at)) = (every, due)
                && Instant::now() >= at
            {
                self.report(&mut wire, 0)?;
                due = Some(Instant::now() + every);
            }
            if let Some(envelope) = envelope {
                self.take(&envelope, &mut wire)?;
            }
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL_VERSION,
            node: self.node.clone(),
            software: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            applied: self.serving.as_ref().map(|(generation, _)| generation.clone()),
            sections: self.serving.iter().flat_map(|(_, snapshot)| digests(snapshot)).collect(),
        }
    }

    fn take(&mut self, envelope: &Envelope, wire: &mut Wire) -> Result<(), Trouble> {
        let message = match envelope.decode() {
            Ok(message) => message,
            Err(error) => {
                // A push that says at least which generation it is gets the one answer that every push gets.
                let Some(generation) = envelope.generation() else { return Err(error.into()) };
                let reasons = vec![with_sources(&error)];
                return self.reject(generation, reasons, wire);
            }
        };
        match message {
            Message::Push(push) => self.push(push, wire),
            Message::Drain(Drain { window_ms }) => {
                tracing::info!(?window_ms, "the control plane asks for a drain");
                self.apply.drain(window_ms.map(Duration::from_millis));
                Ok(())
            }
            Message::Ask(Ask { ticket, usage: Some(asked) }) => {
                wire.send(&Message::Usage(Usage { ticket, ..self.apply.usage(&asked) }))
            }
            Message::Ask(ask) => self.report(wire, ask.ticket),
            other => Err(Trouble::OutOfPlace(other.kind())),
        }
    }

    fn push(&mut self, push: Push, wire: &mut Wire) -> Result<(), Trouble> {
        let begun = Instant::now();
        let assembled = push.assemble(self.serving.as_ref().map(|(_, snapshot)| snapshot));
        let (generation, snapshot) = match assembled {
            Ok(assembled) => assembled,
            Err((generation, reasons)) => return self.reject(generation, reasons, wire),
        };
        // A panic is a fault of ours, but one bad push must not cost the link to the control plane for good.
        let applied = catch_unwind(AssertUnwindSafe(|| self.apply.apply(&generation, &snapshot)));
        match applied {
            Ok(Ok(())) => {}
            Ok(Err(reasons)) => return self.reject(generation, reasons, wire),
            Err(_) => return self.reject(generation, vec!["the data plane made a mistake".into()], wire),
        }
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.health.serving(generation.clone());
        tracing::info!(source = generation.source, number = generation.number, micros, "a generation is applied");
        self.serving = Some((generation.clone(), snapshot.clone()));
        // The Ack says that it is served. Nobody who waits for that waits for the disk as well.
        let acknowledged = wire.send(&Message::Ack(Ack { generation: generation.clone(), micros }));
        if let Some(keeper) = &self.keeper {
            keeper.keep(generation, snapshot, push.bodies);
        }
        acknowledged
    }

    fn reject(&self, generation: Generation, reasons: Vec<String>, wire: &mut Wire) -> Result<(), Trouble> {
        self.health.rejected();
        let reasons = bounded(reasons);
        tracing::warn!(source = generation.source, number = generation.number, ?reasons, "a push is rejected");
        wire.send(&Message::Reject(Reject { generation, reasons }))
    }

    fn report(&self, wire: &mut Wire, ticket: u64) -> Result<(), Trouble> {
        wire.send(&Message::Report(Report { ticket, ..self.apply.report() }))
    }
}

fn digests(snapshot: &Snapshot) -> impl Iterator<Item = Digest> {
    snapshot.sections().values().map(|(digest, _)| *digest)
}

/// Reasons may quote what a control plane sent, so their size is not ours.
fn bounded(mut reasons: Vec<String>) -> Vec<String> {
    reasons.truncate(PROBLEMS_MAX);
    for reason in &mut reasons {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    }
    reasons
}

/// The socket, one envelope at a time.
struct Wire {
    incoming: Incoming,
    stream: Stream,
}

impl Wire {
    fn send(&mut self, message: &Message) -> Result<(), Trouble> {
        let bytes = message.encode()?;
        self.stream.write_all(&bytes).map_err(Trouble::Connection)
    }

    fn welcome(&mut self) -> Result<Welcome, Trouble> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let envelope = self.receive(Some(deadline))?.ok_or(Trouble::Silent)?;
        match envelope.decode()? {
            Message::Welcome(Welcome { refused: Some(reason), .. }) => {
                Err(Trouble::Refused(bounded(vec![reason]).concat()))
            }
            Message::Welcome(welcome) if welcome.protocol == PROTOCOL_VERSION => Ok(welcome),
            Message::Welcome(welcome) => Err(Trouble::Version(welcome.protocol)),
            other => Err(Trouble::OutOfPlace(other.kind())),
        }
    }

    /// The next envelope; or `None` at `until`, when what has arrived of one is kept.
    fn receive(&mut self, until: Option<Instant>) -> Result<Option<Envelope>, Trouble> {
        loop {
            let now = Instant::now();
            let stalled = self.incoming.begun().map(|at| at + STALL_MAX);
            let wait = match (until, stalled) {
                (Some(at), _) if now >= at => return Ok(None),
                (_, Some(at)) if now >= at => return Err(Trouble::Silent),
                (until, stalled) => until.into_iter().chain(stalled).min().map(|at| at - now),
            };
            // Zero would mean for ever.
            let wait = wait.map(|wait| wait.max(Duration::from_millis(1)));
            self.stream.set_read_timeout(wait).map_err(Trouble::Connection)?;
            match self.incoming.read(&mut self.stream, now) {
                Ok(incoming::Read::Whole(envelope)) => return Ok(Some(envelope)),
                Ok(incoming::Read::Part) => {}
                Ok(incoming::Read::End) => return Err(Trouble::Ended),
                Err(incoming::ReadError::Envelope(error)) => return Err(error.into()),
                Err(incoming::ReadError::Io(error)) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    // Over TLS: ended without a word, between two messages.
                    io::ErrorKind::UnexpectedEof if self.incoming.begun().is_none() => return Err(Trouble::Ended),
                    _ => return Err(Trouble::Connection(error)),
                },
            }
        }
    }
}

/// What was told last, so that a control plane that stays away does not fill the log.
#[derive(Default)]
struct Told {
    last: Option<(String, Instant)>,
}

impl Told {
    fn tell(&mut self, trouble: &Trouble, now: Instant) {
        let text = with_sources(trouble);
        if self.is_news(&text, now) {
            tracing::warn!("{text}; what is served stays, and the connection is tried again");
            self.last = Some((text, now));
        }
    }

    fn is_news(&self, text: &str, now: Instant) -> bool {
        self.last.as_ref().is_none_or(|(last, at)| last != text || now.duration_since(*at) >= REMIND_AFTER)
    }

    fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests;
