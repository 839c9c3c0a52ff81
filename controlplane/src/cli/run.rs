//! `run [FILE]`: both planes on one host, supervised; without a file the embedded default, with its own echo backend.

mod probe;
mod quickstart;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use sd_notify::NotifyState;

use super::controlplane::{monotonic_now, notify};
use super::doors::AdminDoors;
use super::{absolute, cannot, complain, default_control, default_state_directory, print};
use crate::compile::{compile, process_environment};
use crate::office::{effective_file, remembered_certificates};
use crate::supervise::{Notice, Program, supervise};
use crate::tokens::KeySets;
use quickstart::{Invitation, Quickstart};

/// Options of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Two processes are started and kept alive: a control plane, which reads the file, and a data \
    plane, which serves. SIGTERM or SIGINT drains and ends both, a second one ends at once. SIGHUP reads the file \
    again, SIGUSR1 reopens the log.\n\n\
    Exit codes: that of the data plane (0 after a drain), 1 the file is not sound, 2 something that was asked for \
    cannot be had, such as an address.")]
pub struct Options {
    /// The configuration; without it an echo API is served on loopback, to try
    file: Option<PathBuf>,
    /// Without a file: where clients connect
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", conflicts_with = "file")]
    listen: SocketAddr,
    /// Without a file: where tokens are issued
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9902", conflicts_with = "file")]
    tokens: SocketAddr,
    /// Where /health, /ready and /metrics are
    #[arg(long, env = "FRAMEGATE_OPERATOR", value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    operator: SocketAddr,
    /// The control socket [default: /run/framegate/control.sock, or one in XDG_RUNTIME_DIR for an ordinary user]
    #[arg(long, env = "FRAMEGATE_CONTROL", value_name = "PATH")]
    control: Option<PathBuf>,
    /// Where both planes keep what outlives them [default: /var/lib/framegate, or one in XDG_STATE_HOME]
    #[arg(long, env = "FRAMEGATE_STATE_DIR", value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    /// The data plane's name
    #[arg(long, env = "FRAMEGATE_NODE", value_name = "NAME")]
    node: Option<String>,
    /// How many workers [default: one for each CPU]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// The CPUs that workers are pinned to, such as 0-3,6
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,
    /// How the data plane talks to the kernel: auto, uring, uring-plain or epoll
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    /// What moves the bytes of sessions: auto, uring or readiness
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// Whether large frames are moved inside the kernel: on or off
    #[arg(long, value_name = "SWITCH")]
    splice: Option<String>,
    /// Whether private keys are stored with the last good snapshot: on or off
    #[arg(long, value_name = "SWITCH")]
    store_keys: Option<String>,
    /// Where session records go: a file, or - for standard output
    #[arg(long, value_name = "FILE")]
    log: Option<String>,
    #[command(flatten)]
    admin: AdminDoors,
}

/// Runs until it is told to stop.
pub fn run(options: Options) -> ExitCode {
    // One thread: children are told of our death when the thread that started them ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(start(options)),
        Err(error) => cannot(false, &format!("the runtime cannot be started: {error}")),
    }
}

async fn start(options: Options) -> ExitCode {
    let operator_help = "choose another with --operator";
    if let Err(message) = probe::is_free(options.operator, "the operator listener", operator_help) {
        return cannot(false, &message);
    }
    match &options.file {
        Some(file) => {
            let state_directory = options.state_dir.clone().unwrap_or_else(default_state_directory);
            if let Err(code) = check(&effective_file(&absolute(file), &state_directory), &state_directory) {
                return code;
            }
            let control = options.control.clone().unwrap_or_else(default_control);
            let places = Places { file: &absolute(file), control: &control, state_directory: &state_directory };
            keep(&options, places, Vec::new(), None).await
        }
        None => {
            if let Err(message) = probe::is_free(options.listen, "clients", "choose another with --listen") {
                return cannot(false, &message);
            }
            if let Err(message) = probe::is_free(options.tokens, "the token endpoint", "choose another with --tokens") {
                return cannot(false, &message);
            }
            let quickstart = match Quickstart::new() {
                Ok(quickstart) => quickstart,
                Err(error) => return cannot(false, &format!("the embedded default cannot be set up: {error}")),
            };
            let control = options.control.clone().unwrap_or_else(|| quickstart.control());
            let state_directory = options.state_dir.clone().unwrap_or_else(|| quickstart.state_directory());
            let environment = [quickstart.environment(options.listen, options.tokens), Quickstart::quiet()].concat();
            // As it was typed: a newcomer has it in no PATH.
            let command = std::env::args().next().unwrap_or_else(|| "framegate".into());
            let banner = quickstart.banner(&Invitation {
                command: &command,
                listen: options.listen,
                tokens: options.tokens,
                operator: options.operator,
                control: &control,
            });
            let places = Places { file: &quickstart.file(), control: &control, state_directory: &state_directory };
            keep(&options, places, environment, Some(banner)).await
        }
    }
}

/// A file that is not sound is told before anything is started.
fn check(file: &Path, state_directory: &Path) -> Result<(), ExitCode> {
    let known = remembered_certificates(state_directory);
    let compiled = compile(file, &process_environment, &known, &KeySets::default(), SystemTime::now());
    let Err(diagnostics) = compiled.outcome else { return Ok(()) };
    diagnostics.iter().for_each(|one| complain(&one.to_string()));
    complain(&format!("{} is not sound; nothing was started", file.display()));
    Err(ExitCode::from(1))
}

/// What both planes are told.
#[derive(Clone, Copy)]
struct Places<'p> {
    file: &'p Path,
    control: &'p Path,
    state_directory: &'p Path,
}

async fn keep(
    options: &Options,
    Places { file, control, state_directory }: Places<'_>,
    environment: Vec<(&'static str, OsString)>,
    banner: Option<String>,
) -> ExitCode {
    let executable = match std::env::current_exe() {
        Ok(executable) => executable,
        Err(error) => return cannot(false, &format!("the path of this program is not known: {error}")),
    };
    let shared = |verb: &str| -> Vec<OsString> {
        let words: [&std::ffi::OsStr; 5] =
            [verb.as_ref(), "--control".as_ref(), control.as_ref(), "--state-dir".as_ref(), state_directory.as_ref()];
        words.into_iter().map(OsString::from).collect()
    };
    let mut control_arguments = shared("controlplane");
    control_arguments.extend(options.admin.passed_on());
    control_arguments.extend(["--".into(), file.into()]);
    let control_plane = Program {
        name: "control plane",
        executable: executable.clone(),
        arguments: control_arguments,
        environment: environment.clone(),
        when_orphaned: libc::SIGKILL,
    };
    let mut data_arguments = shared("dataplane");
    data_arguments.extend(passed_on(options));
    let data_plane = Program {
        name: "data plane",
        executable,
        arguments: data_arguments,
        environment,
        when_orphaned: libc::SIGTERM,
    };
    let operator = options.operator;
    let announcing = tokio::spawn(announce(operator, banner));
    let ended = supervise(control_plane, data_plane, |notice| tell_systemd(notice, operator)).await;
    announcing.abort();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => cannot(false, &error.to_string()),
    }
}

/// The options that are the data plane's.
fn passed_on(options: &Options) -> Vec<OsString> {
    let operator = Some(options.operator.to_string());
    let flags = [
        ("--operator", &operator),
        ("--node", &options.node),
        ("--workers", &options.workers),
        ("--cpus", &options.cpus),
        ("--driver", &options.driver),
        ("--engine", &options.engine),
        ("--splice", &options.splice),
        ("--store-keys", &options.store_keys),
        ("--log", &options.log),
    ];
    let given = flags.into_iter().filter_map(|(flag, value)| Some([flag.into(), value.as_ref()?.into()]));
    given.flatten().collect()
}

/// Waits until the data plane is ready, says so, and from then on keeps systemd's watchdog quiet while it is healthy.
async fn announce(operator: SocketAddr, banner: Option<String>) {
    while probe::status(operator, "/ready").await != Some(200) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    notify(&[NotifyState::Ready]);
    match banner {
        Some(banner) => print(&banner),
        None => complain(&format!("ready; metrics on http://{operator}/metrics")),
    }
    let Some(every) = sd_notify::watchdog_enabled() else { return };
    loop {
        if probe::status(operator, "/health").await == Some(200) {
            notify(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(every / 2).await;
    }
}

fn tell_systemd(notice: Notice, operator: SocketAddr) {
    match notice {
        Notice::Stopping => notify(&[NotifyState::Stopping]),
        Notice::Reloading => {
            notify(&[NotifyState::Reloading, monotonic_now()]);
            tokio::spawn(async move {
                // What runs, runs on while the file is read: ready is what the data plane says.
                while probe::status(operator, "/ready").await != Some(200) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                notify(&[NotifyState::Ready]);
            });
        }
    }
}
