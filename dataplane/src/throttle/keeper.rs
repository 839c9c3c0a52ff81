//! What is done beside the traffic: meters that nobody needs are forgotten, quotas are written to disk, and what an
//! operator wants to know is said in the log. A thread of its own; no worker waits for it.
//!
//! ```text
//! STATE/limits    quotas whose window is longer than a minute and of which something is used; a line of JSON each,
//!                 between a line that names the form and one with the SHA-256 of everything before it
//! ```
//!
//! The file is replaced by a rename every five seconds, and when the process ends. So a data plane that is killed forgets
//! what was used in the last seconds, and one that is stopped forgets nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proto::snapshot::{Quota, Unit};
use proto::throttle::{Meter, Now, Terms};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::guard::{LevelKind, RuleId};
use super::meters::{Event, LimitId, Meters, News, Scope};
use super::usage;
use crate::health::Health;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// In so many looks every meter has been looked at.
const LOOKS: usize = 16;
/// How often quotas are written.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Writing takes at most one in so many parts of the time.
const SAVE_REST: u32 = 20;
/// Lines of the log in one look; the rest is counted.
const LINES_MAX: usize = 100;
/// The shortest window that is worth a line, in milliseconds: shorter ones are over when a data plane is back.
const WINDOW_MS_MIN: u64 = 60_001;
/// The form of the file that this build writes and reads.
const FORM: &str = "framegate limits 2";

/// The thread.
pub struct Keeper {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    level: String,
    name: String,
    plan: String,
    key: String,
    count: Unit,
    quota: Quota,
    /// How many limits of the plan that count the same over the same windows stand before it.
    nth: u8,
    used: u64,
    start_ms: u64,
}

impl Keeper {
    /// Takes back what was used before a restart, where there is a directory to keep it in, and starts.
    pub fn start(meters: Arc<Meters>, health: Arc<Health>, directory: Option<&Path>) -> io::Result<Self> {
        let path = directory.map(|directory| directory.join("limits"));
        if let Some(path) = &path {
            match load(path, &meters) {
                Ok(0) => {}
                Ok(rows) => tracing::info!(rows, "quotas go on where they were"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "what was used of quotas cannot be read; they begin anew");
                }
            }
        }
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("limits".into()).spawn(move || {
            let save_at = Instant::now() + SAVE_EVERY;
            let mut work = Work { meters, health, path, looks: 0, save_at, is_failing: false };
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                work.look();
            }
            work.say();
            work.save();
        })?;
        Ok(Self { stop, thread })
    }

    /// Writes everything down, and ends. The workers have given back what they had.
    pub fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the thread of limits has died of a fault of ours");
        }
    }
}

struct Work {
    meters: Arc<Meters>,
    health: Arc<Health>,
    path: Option<PathBuf>,
    looks: usize,
    save_at: Instant,
    is_failing: bool,
}

impl Work {
    fn look(&mut self) {
        self.say();
        let now = self.meters.now();
        let pieces = self.meters.pieces();
        let each = pieces.div_ceil(LOOKS);
        let first = self.looks % LOOKS * each;
        (first..(first + each).min(pieces)).for_each(|piece| self.meters.forget_idle(piece, now));
        self.looks = self.looks.wrapping_add(1);
        self.health.limit_keys.store(self.meters.keys() as u64, Relaxed);
        self.health.limit_keys_overflown.store(self.meters.overflown(), Relaxed);
        if Instant::now() >= self.save_at {
            self.save();
        }
    }

    fn say(&self) {
        let mut said = 0;
        let mut unsaid = self.meters.take_untold();
        while let Some(event) = self.meters.told() {
            if said < LINES_MAX {
                said += 1;
                say(&event);
            } else {
                unsaid += 1;
            }
        }
        if unsaid > 0 {
            tracing::warn!(count = unsaid, "more of limits than is said here: see framegate usage");
        }
    }

    fn save(&mut self) {
        let Some(path) = &self.path else { return };
        let begun = Instant::now();
        match save(path, &self.meters, self.meters.now()) {
            Ok(()) => self.is_failing = false,
            Err(error) if !std::mem::replace(&mut self.is_failing, true) => {
                tracing::error!(path = %path.display(), %error, "what is used of quotas cannot be stored; a restart would forget it");
            }
            Err(_) => {}
        }
        self.save_at = Instant::now() + SAVE_EVERY.max(begun.elapsed() * SAVE_REST);
    }
}

fn say(event: &Event) {
    let Some(id) = event.of.id() else { return };
    let level = id.scope.kind.map_or("connects", LevelKind::word);
    let (plan, key) = (&*id.scope.plan, usage::shown(id));
    match event.news {
        News::Reached(reached) => {
            let (percent, used, amount) = (reached.percent, reached.used, reached.amount);
            tracing::warn!(level, plan, key, percent, used, amount, "a quota is used so far");
        }
        News::Stopped(count) => tracing::info!(level, plan, key, count, "a limit stops messages"),
    }
}

/// Writes the quotas that shall outlive the process.
pub(super) fn save(path: &Path, meters: &Meters, now: Now) -> io::Result<()> {
    let new = path.with_extension("new");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let mut out = Hashed { out: BufWriter::new(file), hash: Sha256::new() };
    writeln!(out, "{FORM}")?;
    let mut lines = Vec::new();
    for piece in 0..meters.pieces() {
        lines.clear();
        meters.each(piece, |id, metered| {
            let Some(row) = row(id, metered, now) else { return };
            if serde_json::to_writer(&mut lines, &row).is_ok() {
                lines.push(b'\n');
            }
        });
        out.write_all(&lines)?;
    }
    let Hashed { mut out, hash } = out;
    writeln!(out, "{}", hex(&hash.finalize()))?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_data()?;
    fs::rename(&new, path)
}

fn row(id: &LimitId, metered: &super::Metered, now: Now) -> Option<Row> {
    // A session does not come again.
    let kind = id.scope.kind.filter(|kind| *kind != LevelKind::Session)?;
    // As it stands now: a window may be over.
    let (terms, used) = metered.with(|meter| {
        let usage = meter.usage(now);
        (*meter.terms(), meter.in_window().map(|(_, start_ms)| (usage.used, start_ms)))
    });
    let (Terms::Quota { amount, window }, Some((used, start_ms))) = (terms, used) else { return None };
    let (_, end_ms) = window.around(start_ms);
    let is_long = end_ms.saturating_sub(start_ms) >= WINDOW_MS_MIN;
    (used > 0 && is_long).then(|| Row {
        level: kind.word().into(),
        name: String::from(&*id.scope.name),
        plan: String::from(&*id.scope.plan),
        key: String::from(&*id.key),
        count: id.rule.unit,
        quota: Quota { amount, window },
        nth: id.rule.nth,
        used,
        start_ms,
    })
}

/// Takes back what was used of windows that are not over. Returns of how many; a file that is damaged counts for nothing.
pub(super) fn load(path: &Path, meters: &Meters) -> io::Result<usize> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut file = BufReader::new(File::open(path)?);
    let mut hash = Sha256::new();
    let mut rows = Vec::new();
    let mut line = String::new();
    let mut is_whole = false;
    for at in 0_usize.. {
        line.clear();
        if file.read_line(&mut line)? == 0 {
            break;
        }
        let text = line.trim_end_matches('\n');
        if at == 0 && text != FORM {
            return Err(damaged("it is of another version"));
        }
        if at > 0 && !text.starts_with('{') {
            is_whole = text == hex(&hash.clone().finalize());
            break;
        }
        if at > 0 {
            rows.push(
                serde_json::from_str::<Row>(text).map_err(|error| damaged(&format!("line {}: {error}", at + 1)))?,
            );
        }
        hash.update(&line);
    }
    if !is_whole {
        return Err(damaged("it is not whole"));
    }
    let now = meters.now();
    Ok(rows.into_iter().filter(|row| restore(row, meters, now)).count())
}

fn restore(row: &Row, meters: &Meters, now: Now) -> bool {
    let Some(kind) = LevelKind::ALL.into_iter().find(|kind| kind.word() == row.level) else { return false };
    let Quota { amount, window } = row.quota;
    let mut meter = Meter::restored(Terms::Quota { amount, window }, row.used, row.start_ms, now);
    if meter.is_idle(now) {
        return false;
    }
    let scope = Scope { kind: Some(kind), name: row.name.as_str().into(), plan: row.plan.as_str().into() };
    let rule = RuleId { unit: row.count, window: Some(window), nth: row.nth };
    meters.restore(LimitId { scope: Arc::new(scope), key: row.key.as_str().into(), rule }, meter);
    true
}

struct Hashed {
    out: BufWriter<File>,
    hash: Sha256,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::throttle::{Window, WindowUnit};

    fn meters(used: u64, unit: WindowUnit) -> Meters {
        let meters = Meters::default();
        let now = meters.now();
        let window = Window::one(unit);
        let scope =
            Arc::new(Scope { kind: Some(LevelKind::Subscription), name: "subscription".into(), plan: "p".into() });
        let meter = Meter::restored(Terms::Quota { amount: 10, window }, used, window.around(now.wall_ms).0, now);
        let rule = RuleId { unit: Unit::Bytes, window: Some(window), nth: 0 };
        meters.restore(LimitId { scope, key: "mobile/chat:v1".into(), rule }, meter);
        meters
    }

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("framegate-limits-{}-{name}", std::process::id()))
    }

    #[test]
    fn quotas_go_on_after_a_restart() {
        let path = path("again");
        let before = meters(7, WindowUnit::Year);
        save(&path, &before, before.now()).unwrap();
        let after = Meters::default();
        assert_eq!(load(&path, &after).unwrap(), 1);
        let answer = usage::usage(&after, &Default::default(), after.now());
        let row = &answer.rows[0];
        assert_eq!((row.used, row.left, row.count, &*row.key), (7, 3, Unit::Bytes, "mobile at chat:v1"));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_unused_or_short_is_not_written() {
        let path = path("short");
        for (used, unit) in [(0, WindowUnit::Year), (7, WindowUnit::Minute)] {
            let before = meters(used, unit);
            save(&path, &before, before.now()).unwrap();
            assert_eq!(load(&path, &Meters::default()).unwrap(), 0);
        }
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_damaged_file_counts_for_nothing() {
        let path = path("damaged");
        let before = meters(7, WindowUnit::Year);
        save(&path, &before, before.now()).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        let cut = &whole[..whole.len() - 3];
        for text in ["", "framegate limits 1\n", cut, &whole.replace("\"used\":7", "\"used\":1")] {
            fs::write(&path, text).unwrap();
            let after = Meters::default();
            assert!(load(&path, &after).is_err(), "{text}");
            assert_eq!(after.keys(), 0);
        }
        fs::remove_file(path).unwrap();
    }
}
