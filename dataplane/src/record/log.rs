//! The session log's way out: a bounded ring, and one thread that formats and writes.
//!
//! [`Log::write`] never waits. A ring that is full, or a file that cannot be written, costs lines, never a session;
//! how many is in the metrics.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use proto::limits::LOG_LINES_MAX;

use super::line::Line;

/// Bytes that are formatted before they are written.
const BATCH_BYTES: usize = 64 * 1024;
/// A wake-up that was missed costs at most this.
const NAP: Duration = Duration::from_millis(500);
/// How long lines wait for others: waking the thread for each costs a short session a quarter of its time.
const GATHER: Duration = Duration::from_millis(10);

// What the thread does.
const WRITES: u8 = 0;
const GATHERS: u8 = 1;
const SLEEPS: u8 = 2;

/// Where the session log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// To the end of a file, made if need be, and opened again on request.
    File(PathBuf),
}

impl FromStr for LogTarget {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "off" => Self::Off,
            "-" => Self::Stdout,
            path => Self::File(path.into()),
        })
    }
}

/// The door to the session log, for everybody who has a line.
#[derive(Debug, Clone)]
pub struct Log {
    /// `None` when the log is off.
    ring: Option<Arc<Ring>>,
}

#[derive(Debug)]
struct Ring {
    lines: ArrayQueue<Line>,
    thread: OnceLock<Thread>,
    state: AtomicU8,
    gather: Duration,
    reopen: AtomicBool,
    finish: AtomicBool,
    dropped: AtomicU64,
    written: AtomicU64,
}

/// The log thread; finished at the very end of the process.
#[derive(Debug)]
pub struct LogThread {
    log: Log,
    finished: Option<Receiver<()>>,
}

impl Log {
    /// Opens the target and starts the log thread.
    pub fn open(target: LogTarget) -> io::Result<(Self, LogThread)> {
        let output = match &target {
            LogTarget::Off => {
                let log = Self { ring: None };
                return Ok((log.clone(), LogThread { log, finished: None }));
            }
            LogTarget::Stdout => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            LogTarget::File(path) => append(path)?,
        };
        let path = if let LogTarget::File(path) = target { Some(path) } else { None };
        Self::start(output, path, LOG_LINES_MAX, GATHER)
    }

    fn start(output: File, path: Option<PathBuf>, lines_max: usize, gather: Duration) -> io::Result<(Self, LogThread)> {
        let ring = Arc::new(Ring {
            lines: ArrayQueue::new(lines_max),
            thread: OnceLock::new(),
            state: AtomicU8::new(WRITES),
            gather,
            reopen: AtomicBool::new(false),
            finish: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        let (sender, finished) = sync_channel(1);
        let writer = Writer { ring: Arc::clone(&ring), output, path, batch: Vec::new(), failing: false };
        let handle = thread::Builder::new().name("session-log".into()).spawn(move || writer.run(&sender))?;
        // The cell was empty: this is the only place that fills it.
        let _ = ring.thread.set(handle.thread().clone());
        let log = Self { ring: Some(ring) };
        Ok((log.clone(), LogThread { log, finished: Some(finished) }))
    }

    /// Whether lines go anywhere; where they do not, nobody needs to build them.
    pub fn is_on(&self) -> bool {
        self.ring.is_some()
    }

    /// Hands a line over; drops and counts it if the ring is full.
    pub fn write(&self, line: Line) {
        let Some(ring) = &self.ring else { return };
        if ring.lines.push(line).is_err() {
            ring.dropped.fetch_add(1, Ordering::Relaxed);
        }
        ring.tell();
    }

    /// Opens the file again, before the next line: it has been moved away.
    pub fn reopen(&self) {
        if let Some(ring) = &self.ring {
            ring.reopen.store(true, Ordering::SeqCst);
            ring.urge();
        }
    }

    /// Lines that were dropped since start.
    pub fn dropped(&self) -> u64 {
        self.ring.as_ref().map_or(0, |ring| ring.dropped.load(Ordering::Relaxed))
    }

    /// Lines that were written since start.
    pub fn written(&self) -> u64 {
        self.ring.as_ref().map_or(0, |ring| ring.written.load(Ordering::Relaxed))
    }
}

impl LogThread {
    /// Writes what waits, then ends the thread; gives up after `patience`. Returns whether everything was written.
    pub fn finish(self, patience: Duration) -> bool {
        let (Some(ring), Some(finished)) = (&self.log.ring, &self.finished) else { return true };
        ring.finish.store(true, Ordering::SeqCst);
        ring.urge();
        finished.recv_timeout(patience).is_ok()
    }
}

impl Ring {
    /// A line has come: whoever sleeps begins to gather, and who gathers has enough when the ring is half full.
    fn tell(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        let state = self.state.load(Ordering::Relaxed);
        let enough = state == SLEEPS || (state == GATHERS && self.is_half_full());
        if enough && self.state.swap(WRITES, Ordering::SeqCst) != WRITES {
            self.urge();
        }
    }

    /// Something that does not wait for lines.
    fn urge(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn is_half_full(&self) -> bool {
        self.lines.len() >= self.lines.capacity() / 2
    }

    fn is_urged(&self) -> bool {
        self.finish.load(Ordering::SeqCst) || self.reopen.load(Ordering::SeqCst)
    }

    /// Until there is a line, and then a moment longer.
    fn nap(&self) {
        self.state.store(SLEEPS, Ordering::SeqCst);
        if self.lines.is_empty() && !self.is_urged() {
            thread::park_timeout(NAP);
        }
        self.state.store(GATHERS, Ordering::SeqCst);
        if !self.lines.is_empty() && !self.is_half_full() && !self.is_urged() {
            thread::park_timeout(self.gather);
        }
        self.state.store(WRITES, Ordering::SeqCst);
    }
}

fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

struct Writer {
    ring: Arc<Ring>,
    output: File,
    path: Option<PathBuf>,
    batch: Vec<u8>,
    /// Whether the last write failed: the trouble is told once, not once for each line.
    failing: bool,
}

impl Writer {
    fn run(mut self, finished: &SyncSender<()>) {
        loop {
            // Read before draining: what was written before the request is out before the thread ends.
            let finish = self.ring.finish.load(Ordering::SeqCst);
            if self.ring.reopen.swap(false, Ordering::SeqCst) {
                self.reopen();
            }
            while self.write_batch() {}
            if finish {
                // Nobody listens any more when patience has run out.
                let _ = finished.send(());
                return;
            }
            self.ring.nap();
        }
    }

    /// Writes some lines; `false` when there are none.
    fn write_batch(&mut self) -> bool {
        self.batch.clear();
        let mut lines = 0;
        while self.batch.len() < BATCH_BYTES
            && let Some(line) = self.ring.lines.pop()
        {
            line.write(&mut self.batch);
            lines += 1;
        }
        if lines == 0 {
            return false;
        }
        match self.output.write_all(&self.batch) {
            Ok(()) => {
                self.failing = false;
                self.ring.written.fetch_add(lines, Ordering::Relaxed);
            }
            Err(error) => {
                self.ring.dropped.fetch_add(lines, Ordering::Relaxed);
                if !self.failing {
                    tracing::error!(%error, "the session log cannot be written; its lines are dropped and counted");
                }
                self.failing = true;
            }
        }
        true
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match append(path) {
            Ok(file) => {
                self.output = file;
                self.failing = false;
            }
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "the session log cannot be reopened; the old file is used");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsRawFd, OwnedFd};

    use super::super::session::tests::parts;
    use super::super::{Names, SessionRecord};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn line() -> Line {
        Line::Opened(Box::new(SessionRecord::new(&parts(), &mut Names::default(), &["x"])))
    }

    #[test]
    fn lines_are_in_the_file_when_the_thread_has_finished() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sessions.log");
        let (log, thread) = Log::open(LogTarget::File(path.clone())).unwrap();
        for _ in 0..1000 {
            log.write(line());
        }
        assert!(thread.finish(PATIENCE));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1000);
        assert_eq!((log.written(), log.dropped()), (1000, 0));
    }

    #[test]
    fn a_log_that_was_moved_away_is_reopened() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("sessions.log"), directory.path().join("sessions.log.1"));
        let (log, thread) = Log::open(LogTarget::File(path.clone())).unwrap();
        log.write(line());
        while log.written() < 1 {
            thread::yield_now();
        }
        std::fs::rename(&path, &moved).unwrap();
        log.reopen();
        while !path.exists() {
            thread::yield_now();
        }
        log.write(line());
        assert!(thread.finish(PATIENCE));
        for file in [path, moved] {
            assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), 1);
        }
    }

    #[test]
    fn a_reader_who_stops_costs_lines_and_nobody_waits() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        // The pipe is full before the first line: how fast which thread gets on does not matter.
        // SAFETY: a plain system call on a descriptor that is open.
        let capacity = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) };
        writer.write_all(&vec![b' '; usize::try_from(capacity).unwrap()]).unwrap();
        let (log, thread) = Log::start(File::from(OwnedFd::from(writer)), None, 4, GATHER).unwrap();
        // More than one batch and the ring hold.
        let total = 1000;
        for _ in 0..total {
            log.write(line());
        }
        assert!(log.dropped() > 0);
        assert!(!thread.finish(Duration::from_millis(1)), "the thread hangs in the pipe");
        let reading = thread::spawn(move || {
            let mut text = String::new();
            // The end of the file comes when the log thread, having finished, drops its end.
            reader.read_to_string(&mut text).unwrap();
            text.lines().count() as u64
        });
        assert_eq!(reading.join().unwrap() + log.dropped(), total);
    }

    #[test]
    fn lines_wait_for_others_until_the_ring_is_half_full_or_somebody_is_in_a_hurry() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("sessions.log"), directory.path().join("sessions.log.1"));
        let hour = Duration::from_secs(3600);
        let (log, thread) = Log::start(append(&path).unwrap(), Some(path.clone()), 64, hour).unwrap();
        for count in 1..=4 {
            while log.written() < count * 32 {
                log.write(line());
                thread::yield_now();
            }
        }
        std::fs::rename(&path, &moved).unwrap();
        log.write(line());
        log.reopen();
        while !path.exists() {
            thread::yield_now();
        }
        log.write(line());
        assert!(thread.finish(PATIENCE));
        let text = [path, moved].map(|path| std::fs::read_to_string(path).unwrap()).concat();
        assert_eq!(text.lines().count() as u64, log.written());
    }

    #[test]
    fn a_log_that_is_off_takes_lines_and_says_so() {
        let (log, thread) = Log::open("off".parse().unwrap()).unwrap();
        log.write(line());
        assert!(!log.is_on());
        assert!(thread.finish(PATIENCE));
    }

    #[test]
    fn a_target_that_cannot_be_opened_is_an_error() {
        assert!(Log::open(LogTarget::File("/nonexistent/sessions.log".into())).is_err());
    }
}
