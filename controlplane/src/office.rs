//! The control plane at work: which file is the source, when it is read again, and what comes of it.
//!
//! Whoever asks (a signal, the file watch, an operator) asks here; one at a time is served. Sockets are
//! [`server`](crate::server)'s, the roster is [`publish`](crate::publish)'s, what a snapshot is made of is the
//! [`catalogue`](crate::catalogue)'s.

mod objects;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use proto::control::message::{Ask, UsageAsked};
use proto::control::{Message, PROTOCOL_VERSION};
use proto::snapshot::{Digest, Snapshot};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, watch};

use crate::answer::{Applied, Diagnostic, Diff, Outcome, Standing, Status, Used};
use crate::catalogue::{Books, Clients, Declared};
use crate::compile::{Compiled, Tokens, compile, process_environment};
use crate::material::Known;
use crate::publish::{NodeId, Published, Publisher};
use crate::store::{Store, StoreError};
use crate::tokens::KeySets;
use crate::tokens::board::Board;
use crate::tokens::rotate::Rotations;
use crate::watch::Watched;
use crate::{diff, expiry};

/// How long `apply` waits for the nodes' answers.
const OUTCOMES_WITHIN: Duration = Duration::from_secs(5);
/// How long `status` and `diff` wait for fresh reports.
const REPORTS_WITHIN: Duration = Duration::from_millis(500);
/// How long `usage` waits for what nodes say: one may look through a million keys.
const USAGE_WITHIN: Duration = Duration::from_secs(3);
/// The file in the state directory that remembers what was applied.
const MEMORY: &str = "controlplane-source.json";

/// The file in the state directory that remembers, by digests, which certificates were published.
const CERTIFICATES: &str = "controlplane-certificates.json";
/// How often what runs out is told again.
const REMINDS_EVERY: Duration = Duration::from_secs(86_400);

/// The control plane at work.
pub struct Office {
    publisher: Arc<Publisher>,
    source: tokio::sync::Mutex<Source>,
    store: Arc<Store>,
    /// What the snapshot is made of. Who waits for both locks has that of the source first.
    books: Arc<tokio::sync::Mutex<Books>>,
    clients: Clients,
    declared: watch::Sender<Option<Arc<Declared>>>,
    /// What was found when the source was last read; apart from the source so that `status` never waits for a read.
    last: Mutex<Last>,
    watched: watch::Sender<Watched>,
    /// Which certificates are published, or were when the last run ended.
    known: Mutex<Known>,
    /// What of issuers' keys stands in no file.
    keys: Mutex<KeySets>,
    /// What the published configuration says about tokens.
    tokens: watch::Sender<Arc<Tokens>>,
    /// How tokens stand.
    board: Arc<Board>,
    /// Where another signing key is asked for.
    rotations: Rotations,
    state_directory: PathBuf,
    started: Instant,
    tickets: AtomicU64,
}

/// Which file is read.
#[derive(Debug, Clone)]
struct Source {
    /// The file that the control plane was started with.
    argument: PathBuf,
    /// The file that `apply` put in its place.
    applied: Option<PathBuf>,
}

impl Source {
    fn file(&self) -> &Path {
        self.applied.as_deref().unwrap_or(&self.argument)
    }
}

#[derive(Default)]
struct Last {
    file: PathBuf,
    started_with: Option<PathBuf>,
    diagnostics: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    /// What is wrong is wrong only together with what is stored.
    is_clash: bool,
}

/// What was read, and the books, which nobody changes until it is decided what becomes of it.
struct Read {
    /// With the snapshot of the declared and the stored together.
    compiled: Compiled,
    /// The snapshot of the declared alone.
    alone: Option<Snapshot>,
    books: OwnedMutexGuard<Books>,
}

impl Read {
    fn new(mut compiled: Compiled, books: OwnedMutexGuard<Books>) -> Self {
        let mut alone = None;
        if let (Ok(snapshot), Some(declared)) = (&compiled.outcome, &compiled.declared) {
            alone = Some(snapshot.clone());
            compiled.outcome = books.merged(declared, snapshot);
        }
        Self { compiled, alone, books }
    }
}

/// What came of a reading, before the nodes have spoken.
struct Adopted {
    file: String,
    diagnostics: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    published: Option<(Arc<Published>, Vec<NodeId>)>,
}

/// What is remembered between runs: that this file was applied over that argument.
#[derive(Serialize, Deserialize)]
struct Memory {
    argument: PathBuf,
    applied: PathBuf,
}

impl Office {
    /// For a control plane that was started with this file; continues with the file that was last applied over it.
    /// `run` names this run among all others. Blocks.
    pub fn new(argument: PathBuf, state_directory: PathBuf, run: String, now: Instant) -> Result<Self, StoreError> {
        let store = Arc::new(Store::open(&state_directory)?);
        let books = Books::open(Arc::clone(&store))?;
        let keys = KeySets::kept(&store)?;
        let applied = remembered(&argument, &state_directory);
        if let Some(applied) = &applied {
            tracing::warn!(
                started_with = %argument.display(),
                continues_with = %applied.display(),
                "continuing with the file that was last applied; apply the other to return to it"
            );
        }
        Ok(Self {
            publisher: Arc::new(Publisher::new(run)),
            source: tokio::sync::Mutex::new(Source { argument, applied }),
            store,
            clients: books.clients(),
            books: Arc::new(tokio::sync::Mutex::new(books)),
            declared: watch::Sender::new(None),
            last: Mutex::default(),
            watched: watch::Sender::new(Watched::default()),
            known: Mutex::new(remembered_certificates(&state_directory)),
            keys: Mutex::new(keys),
            tokens: watch::Sender::default(),
            board: Arc::default(),
            rotations: Rotations::default(),
            state_directory,
            started: now,
            tickets: AtomicU64::new(1),
        })
    }

    /// The current generation and the roster.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// What is to be watched for changes, as it changes itself.
    pub fn watched(&self) -> watch::Receiver<Watched> {
        self.watched.subscribe()
    }

    /// What the published configuration says about tokens, as it changes.
    pub fn tokens(&self) -> watch::Receiver<Arc<Tokens>> {
        self.tokens.subscribe()
    }

    /// What of issuers' keys stands in no file.
    pub fn keys(&self) -> KeySets {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How tokens stand.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Where another signing key is asked for.
    pub fn rotations(&self) -> &Rotations {
        &self.rotations
    }

    /// Changes what of issuers' keys stands in no file, and publishes what comes of it.
    pub async fn change_keys(&self, change: impl FnOnce(&mut KeySets), why: &str) {
        change(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner));
        self.refresh(why).await;
    }

    /// Publishes these public keys as the gateway's own, beside whatever else is published: a file that is not sound now
    /// keeps them from nobody. Whether they are published; where no tokens are issued they are not.
    pub async fn publish_own_keys(&self, text: String) -> bool {
        // Whoever is reading the source has read the keys of before, and publishes those first.
        let _source = self.source.lock().await;
        let mut books = self.books.lock().await;
        let Some(snapshot) = books.adopt_own_keys(&text) else { return false };
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).own = Some(text);
        let nodes = self.publisher.nodes().len();
        let number = self.publisher.publish(snapshot).generation.number;
        tracing::info!(generation = number, nodes, why = "the gateway's own keys have changed", "published");
        true
    }

    /// Reads the source again and publishes it, changed or not: whoever asks may want a node to try again. Waits for
    /// the nodes' answers.
    pub async fn reload(&self, why: &str) -> Applied {
        let source = self.source.lock().await;
        let read = self.read(source.file()).await;
        let adopted = self.adopt(&source, read, why);
        drop(source);
        self.outcome(adopted).await
    }

    /// Reads the source again and publishes it if it says something new. Waits for nobody.
    pub async fn refresh(&self, why: &str) {
        let source = self.source.lock().await;
        let mut read = self.read(source.file()).await;
        let current = self.publisher.current().map(|current| current.snapshot.checksum());
        let is_news = match &read.compiled.outcome {
            Ok(snapshot) => current != Some(snapshot.checksum()),
            Err(_) => {
                let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                last.diagnostics != diagnostics(&read.compiled)
            }
        };
        if is_news {
            self.adopt(&source, read, why);
        } else {
            self.note(&source, &read.compiled, diagnostics(&read.compiled));
            // What is not pushed may be new: a line, the secret of a client, the token endpoint.
            self.declare(&mut read);
        }
    }

    /// Makes this file the source, if it is sound, and publishes it. Waits for the nodes' answers.
    pub async fn apply(&self, file: PathBuf) -> Applied {
        let why = "an operator applied it";
        let mut source = self.source.lock().await;
        let read = self.read(&file).await;
        if read.compiled.outcome.is_err() {
            let diagnostics = diagnostics(&read.compiled);
            tell(&file, &diagnostics, why);
            let warnings = told(&read.compiled.warnings);
            return Applied {
                ok: false,
                file: name(&file),
                generation: None,
                diagnostics,
                warnings,
                nodes: Vec::new(),
            };
        }
        source.applied = (file != source.argument).then(|| file.clone());
        if let Err(error) = remember(&source, &self.state_directory) {
            tracing::error!(%error, "the applied file cannot be remembered; a restart returns to the one before");
        }
        let adopted = self.adopt(&source, read, why);
        drop(source);
        self.outcome(adopted).await
    }

    /// What publishing this file would change.
    pub async fn diff(&self, file: PathBuf) -> Diff {
        let compiled = self.read(&file).await.compiled;
        self.ask_for_reports().await;
        let current = self.publisher.current();
        let generation = current.as_ref().map(|current| current.generation.clone());
        let (diagnostics, warnings) = (diagnostics(&compiled), told(&compiled.warnings));
        let (changes, sessions) = match &compiled.outcome {
            Ok(snapshot) => {
                let before = current.as_ref().map(|current| &current.snapshot);
                diff::compare(before, snapshot, &self.publisher.sessions_by_api())
            }
            Err(_) => Default::default(),
        };
        let equal = diagnostics.is_empty() && changes.is_empty();
        Diff { file: name(&file), equal, generation, diagnostics, warnings, changes, sessions }
    }

    /// How everything stands.
    pub async fn status(&self) -> Status {
        self.ask_for_reports().await;
        let current = self.publisher.current();
        let objects = match &current {
            Some(current) => self.count(&current.snapshot).await,
            None => Vec::new(),
        };
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let control_plane = Standing {
            software: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL_VERSION,
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            file: name(&last.file),
            started_with: last.started_with.as_deref().map(name),
            generation: current.as_ref().map(|current| current.generation.clone()),
            checksum: current.as_ref().map(|current| current.snapshot.checksum().to_string()),
            diagnostics: last.diagnostics.clone(),
            warnings: last.warnings.clone(),
        };
        drop(last);
        let now = SystemTime::now();
        let snapshot = current.as_ref().map(|current| &current.snapshot);
        Status {
            control_plane,
            objects,
            nodes: self.publisher.status(Instant::now()),
            certificates: snapshot.map(|one| expiry::certificate_standings(one, now)).unwrap_or_default(),
            authorities: snapshot.map(|one| expiry::authorities_standings(one, now)).unwrap_or_default(),
            issuers: snapshot.map(|one| self.board.issuers(one, &self.tokens.borrow().fetches)).unwrap_or_default(),
            token_endpoint: self.tokens.borrow().terms.is_some().then(|| self.board.endpoint_standing()),
        }
    }

    /// What is used of limits, as the data planes say.
    pub async fn usage(&self, asked: UsageAsked) -> Used {
        let rows_max = asked.rows_max;
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let answers = self.publisher.usage(asked, ticket, Instant::now() + USAGE_WITHIN).await;
        Used::of(answers, rows_max)
    }

    /// Publishes what was read, or says what is wrong with it; the old generation runs on then.
    fn adopt(&self, source: &Source, mut read: Read, why: &str) -> Adopted {
        let file = source.file();
        let (diagnostics, warnings) = (diagnostics(&read.compiled), told(&read.compiled.warnings));
        self.declare(&mut read);
        // The books stay held until what they say is published.
        let Read { compiled, books: _books, .. } = read;
        self.note(source, &compiled, diagnostics.clone());
        let published = match compiled.outcome {
            Ok(snapshot) => {
                // Whoever connects from here on gets it as its first push, and is not waited for.
                let nodes = self.publisher.nodes();
                let published = self.publisher.publish(snapshot);
                let number = published.generation.number;
                tracing::info!(file = %file.display(), generation = number, nodes = nodes.len(), why, "published");
                compiled.warnings.iter().for_each(|one| tracing::warn!("{one}"));
                self.remember_certificates(Known::of(&published.snapshot));
                Some((published, nodes))
            }
            Err(_) => {
                tell(file, &diagnostics, why);
                None
            }
        };
        Adopted { file: name(file), diagnostics, warnings, published }
    }

    /// What has been read and is sound is what the catalogue goes on with.
    fn declare(&self, read: &mut Read) {
        let Ok(merged) = &read.compiled.outcome else { return };
        if let (Some(declared), Some(alone)) = (read.compiled.declared.take(), read.alone.take()) {
            read.books.adopt(Arc::clone(&declared), alone, merged.clone());
            self.declared.send_replace(Some(declared));
            self.tokens.send_replace(Arc::new(std::mem::take(&mut read.compiled.tokens)));
        }
    }

    /// Waits for what the nodes say.
    async fn outcome(&self, Adopted { file, diagnostics, warnings, published }: Adopted) -> Applied {
        let Some((published, nodes)) = published else {
            return Applied { ok: false, file, generation: None, diagnostics, warnings, nodes: Vec::new() };
        };
        let until = Instant::now() + OUTCOMES_WITHIN;
        let nodes = self.publisher.outcomes(&nodes, &published.generation, until).await;
        let ok = nodes.iter().all(|node| matches!(node.outcome, Outcome::Applied | Outcome::Superseded));
        Applied { ok, file, generation: Some(published.generation.clone()), diagnostics, warnings, nodes }
    }

    fn note(&self, source: &Source, compiled: &Compiled, diagnostics: Vec<Diagnostic>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.file = source.file().to_owned();
        last.started_with = source.applied.is_some().then(|| source.argument.clone());
        last.diagnostics = diagnostics;
        last.warnings = told(&compiled.warnings);
        last.is_clash = compiled.outcome.is_err() && compiled.declared.is_some();
        drop(last);
        let (files, directories) = (compiled.files.clone(), compiled.directories.clone());
        let watched = Watched { files, directories, again: compiled.again };
        self.watched.send_if_modified(|present| {
            let is_news = *present != watched;
            *present = watched;
            is_news
        });
    }

    /// A file, and what it is together with what is stored. Off the runtime's threads: a large file takes a while, and a
    /// file may stand on a slow disk.
    async fn read(&self, file: &Path) -> Read {
        let file = file.to_owned();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let keys = self.keys();
        let compiling = move || compile(&file, &process_environment, &known, &keys, SystemTime::now());
        let compiled = blocking(compiling).await;
        let books = Arc::clone(&self.books).lock_owned().await;
        blocking(move || Read::new(compiled, books)).await
    }

    fn remember_certificates(&self, now_known: Known) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == now_known {
            return;
        }
        *known = now_known;
        let mut digests: Vec<_> = known.0.iter().collect();
        digests.sort();
        if let Err(error) = write(&self.state_directory, CERTIFICATES, &digests) {
            tracing::error!(%error, "the published certificates cannot be remembered; after a restart those that have run out are refused");
        }
    }

    /// Says once a day which certificates run out, for as long as they do.
    pub async fn remind(&self) {
        loop {
            tokio::time::sleep(REMINDS_EVERY).await;
            if let Some(current) = self.publisher.current() {
                let warnings = expiry::warnings(&current.snapshot, SystemTime::now());
                warnings.iter().for_each(|one| tracing::warn!("{one}"));
            }
        }
    }

    async fn ask_for_reports(&self) {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let asked = self.publisher.tell(&Message::Ask(Ask { ticket, usage: None }), |_| true);
        let nodes: Vec<NodeId> = asked.into_iter().map(|(id, _, _)| id).collect();
        self.publisher.reports(&nodes, ticket, Instant::now() + REPORTS_WITHIN).await;
    }
}

/// The file that a control plane with this argument and state directory would read.
pub fn effective_file(argument: &Path, state_directory: &Path) -> PathBuf {
    remembered(argument, state_directory).unwrap_or_else(|| argument.to_owned())
}

/// The certificates that a control plane with this state directory published last.
pub fn remembered_certificates(state_directory: &Path) -> Known {
    let text = std::fs::read_to_string(state_directory.join(CERTIFICATES)).unwrap_or_default();
    Known(serde_json::from_str::<Vec<Digest>>(&text).unwrap_or_default().into_iter().collect())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.expect("what the office does does not panic, and the runtime outlives it")
}

fn diagnostics(compiled: &Compiled) -> Vec<Diagnostic> {
    told(compiled.outcome.as_ref().err().map_or(&[], Vec::as_slice))
}

fn told(diagnostics: &[crate::source::Diagnostic]) -> Vec<Diagnostic> {
    diagnostics.iter().map(Diagnostic::from).collect()
}

fn tell(file: &Path, diagnostics: &[Diagnostic], why: &str) {
    tracing::error!(file = %file.display(), errors = diagnostics.len(), why, "the file is not sound; what runs, runs on");
    diagnostics.iter().for_each(|one| tracing::error!("{one}"));
}

fn name(file: &Path) -> String {
    file.display().to_string()
}

fn remembered(argument: &Path, state_directory: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(state_directory.join(MEMORY)).ok()?;
    let memory: Memory = serde_json::from_str(&text).ok()?;
    (memory.argument == argument).then_some(memory.applied)
}

fn remember(source: &Source, state_directory: &Path) -> io::Result<()> {
    let path = state_directory.join(MEMORY);
    let Some(applied) = &source.applied else {
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    write(state_directory, MEMORY, &Memory { argument: source.argument.clone(), applied: applied.clone() })
}

/// Puts a document into the state directory, whole or not at all.
fn write(state_directory: &Path, name: &str, document: &impl Serialize) -> io::Result<()> {
    std::fs::create_dir_all(state_directory)?;
    let path = state_directory.join(name);
    let aside = path.with_extension("new");
    std::fs::write(&aside, serde_json::to_vec_pretty(document)?)?;
    std::fs::rename(&aside, &path)
}
