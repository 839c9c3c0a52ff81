//! Two child processes, kept alive: a control plane and a data plane.
//!
//! The data plane is the one that matters: its end is the end, its exit code is the exit code, and nothing that happens
//! to the control plane touches it. What to start is told; what a child is like inside is not known here.

mod backoff;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use backoff::Backoff;

/// How long the control plane may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(2);
/// How long a child has after a second signal before it is killed.
const HARD_STOP_AFTER: Duration = Duration::from_millis(500);
/// A child's exit code that says that starting it again would not help.
const USAGE: i32 = 2;

/// A program to keep alive.
#[derive(Debug, Clone)]
pub struct Program {
    /// For messages.
    pub name: &'static str,
    /// The executable.
    pub executable: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Environment variables that it gets beside ours.
    pub environment: Vec<(&'static str, OsString)>,
    /// The signal that it gets when we die.
    pub when_orphaned: libc::c_int,
}

/// What the supervisor tells of, as it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The first SIGTERM or SIGINT.
    Stopping,
    /// SIGHUP, which has been passed to the control plane.
    Reloading,
}

/// Keeps both alive until the data plane ends, by our order or its own; the code to exit with.
///
/// Must be called on the thread that lives as long as the process: children are told when that thread ends.
pub async fn supervise(control: Program, data: Program, notice: impl Fn(Notice)) -> io::Result<u8> {
    let mut signals = Signals::new()?;
    // The data plane first: with a stored snapshot it serves before the control plane has read its file.
    let data = Kept::start(data)?;
    let control = Kept::start(control)?;
    let mut planes = Planes { control, data, stops: 0 };
    let code = loop {
        let end = tokio::select! {
            turn = planes.data.turn() => planes.data_turned(turn),
            turn = planes.control.turn() => planes.control_turned(turn).await,
            asked = signals.next() => planes.asked(asked, &notice).await,
        };
        if let Some(code) = end {
            break code;
        }
    };
    planes.control.signal(libc::SIGTERM);
    planes.control.finish(if planes.stops > 1 { HARD_STOP_AFTER } else { STOPS_WITHIN }).await;
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Both, and how often we were told to stop. Each method answers with the code to end with, if it is the end.
struct Planes {
    control: Kept,
    data: Kept,
    stops: u32,
}

impl Planes {
    /// A data plane that ends well ends all: it was drained. One that cannot do what it was asked to would not the next
    /// time either.
    fn data_turned(&mut self, turn: Turn) -> Option<i32> {
        match turn {
            Turn::Ended(code) if self.stops > 0 || code == 0 => return Some(code),
            Turn::Ended(USAGE) if self.data.is_first_life() => return Some(USAGE),
            Turn::Ended(code) => self.data.bury(&how_it_ended(code)),
            Turn::Due => self.data.restart(),
        }
        None
    }

    async fn control_turned(&mut self, turn: Turn) -> Option<i32> {
        match turn {
            Turn::Ended(USAGE) if self.control.is_first_life() && self.stops == 0 => {
                self.data.signal(libc::SIGTERM);
                self.data.finish(STOPS_WITHIN).await;
                return Some(USAGE);
            }
            Turn::Ended(code) => self.control.bury(&how_it_ended(code)),
            Turn::Due => self.control.restart(),
        }
        None
    }

    async fn asked(&mut self, asked: Asked, notice: &impl Fn(Notice)) -> Option<i32> {
        match asked {
            Asked::Stop => {
                self.stops += 1;
                if self.stops == 1 {
                    notice(Notice::Stopping);
                }
                let is_alive = self.data.signal(libc::SIGTERM);
                match (is_alive, self.stops) {
                    (false, _) => return Some(0),
                    (true, 1) => {}
                    (true, _) => return Some(self.data.finish(HARD_STOP_AFTER).await),
                }
            }
            Asked::Reload => {
                self.control.signal(libc::SIGHUP);
                notice(Notice::Reloading);
            }
            Asked::Reopen => {
                self.data.signal(libc::SIGUSR1);
            }
        }
        None
    }
}

/// What happens to a program that is kept.
enum Turn {
    /// Its life ended, with this exit code.
    Ended(i32),
    /// The next one is due.
    Due,
}

/// A program and its present life, if it has one.
struct Kept {
    program: Program,
    child: Option<Child>,
    started: Instant,
    lives: u64,
    backoff: Backoff,
    restart_at: Instant,
}

impl Kept {
    fn start(program: Program) -> io::Result<Self> {
        let child = spawn(&program)?;
        let now = Instant::now();
        Ok(Self { program, child: Some(child), started: now, lives: 1, backoff: Backoff::default(), restart_at: now })
    }

    /// Waits for the end of the present life, or for the beginning of the next. May be dropped while it waits.
    async fn turn(&mut self) -> Turn {
        match &mut self.child {
            Some(child) => Turn::Ended(child.wait().await.map_or(1, code)),
            None => {
                tokio::time::sleep_until(self.restart_at.into()).await;
                Turn::Due
            }
        }
    }

    fn is_first_life(&self) -> bool {
        self.lives == 1
    }

    /// The present life has ended; when the next begins depends on how long it was.
    fn bury(&mut self, how: &str) {
        self.child = None;
        let delay = self.backoff.died_after(self.started.elapsed());
        self.restart_at = Instant::now() + delay;
        say(&format!("the {} {how}; it is started again in {} ms", self.program.name, delay.as_millis()));
    }

    fn restart(&mut self) {
        self.started = Instant::now();
        self.lives += 1;
        match spawn(&self.program) {
            Ok(child) => self.child = Some(child),
            Err(error) => self.bury(&format!("cannot be started: {error}")),
        }
    }

    /// Sends a signal to the present life; whether there is one.
    fn signal(&self, signal: libc::c_int) -> bool {
        let Some(pid) = self.child.as_ref().and_then(Child::id).and_then(|pid| i32::try_from(pid).ok()) else {
            return false;
        };
        // SAFETY: kill takes no pointers; the pid is of a child that has not been waited for, so it is nobody else's.
        unsafe { libc::kill(pid, signal) == 0 }
    }

    /// Waits for the end, and makes one when the time is up; the exit code.
    async fn finish(&mut self, within: Duration) -> i32 {
        let Some(child) = &mut self.child else { return 0 };
        if let Ok(Ok(status)) = tokio::time::timeout(within, child.wait()).await {
            return code(status);
        }
        let _ = child.start_kill();
        child.wait().await.map_or(1, code)
    }
}

/// Starts a program in a process group of its own: a terminal's Ctrl-C is for us to pass on, once.
fn spawn(program: &Program) -> io::Result<Child> {
    let mut command = Command::new(&program.executable);
    command.args(&program.arguments).stdin(Stdio::null()).process_group(0);
    command.envs(program.environment.iter().map(|(name, value)| (name, value)));
    // systemd is told by us, the process that it started.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
    let (parent, when_orphaned) = (std::process::id(), program.when_orphaned);
    // SAFETY: between fork and exec only async-signal-safe calls are made (prctl, getppid), and nothing is allocated:
    // both error values are built from plain numbers.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, when_orphaned) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above: then nobody will tell.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
    command.spawn().map_err(|error| {
        io::Error::new(error.kind(), format!("{} {}: {error}", program.executable.display(), program.name))
    })
}

/// As a shell says it: a signal is 128 and its number.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn how_it_ended(code: i32) -> String {
    if code > 128 { format!("was ended by signal {}", code - 128) } else { format!("ended with exit code {code}") }
}

fn say(message: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr().lock(), "framegate: {message}");
}

enum Asked {
    Stop,
    Reload,
    Reopen,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.user1.recv() => Asked::Reopen,
        }
    }
}
