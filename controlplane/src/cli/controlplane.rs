//! `controlplane FILE`: the control plane as a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::doors::AdminDoors;
use super::{Verdict, absolute, cannot, default_control, default_state_directory};
use crate::admin::Admin;
use crate::credentials::Files;
use crate::office::Office;
use crate::server::{SecureServer, Server};
use crate::{tokens, watch};
use proto::errors::with_sources;

/// Options of `controlplane`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The file is read again when it changes, on SIGHUP, and by `framegate reload`; `framegate apply` \
    puts another in its place. A file that is not sound is told in the log, and what runs, runs on.\n\n\
    Data planes keep serving while the control plane is away.\n\n\
    Exit codes: 0 stopped by SIGTERM or SIGINT, 2 a socket, a port or the state directory's \
    catalogue cannot be opened."
)]
pub struct Options {
    /// The configuration
    file: PathBuf,
    /// The control socket [default: /run/framegate/control.sock, or one in XDG_RUNTIME_DIR for an ordinary user]
    #[arg(long, env = "FRAMEGATE_CONTROL", value_name = "PATH")]
    control: Option<PathBuf>,
    /// Where to remember what was applied [default: /var/lib/framegate, or one in XDG_STATE_HOME]
    #[arg(long, env = "FRAMEGATE_STATE_DIR", value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    /// Listen for data planes of other hosts too, here: TLS 1.3, with certificates on both sides. Needs the three
    /// options below, whose files are read again when they change
    #[arg(long, env = "FRAMEGATE_CONTROL_TCP", value_name = "ADDR")]
    control_tcp: Option<SocketAddr>,
    /// The control plane's certificate, and what is between it and an authority: a PEM file
    #[arg(long, env = "FRAMEGATE_CONTROL_CERTIFICATE", value_name = "FILE")]
    control_certificate: Option<PathBuf>,
    /// The private key of that certificate: a PEM file
    #[arg(long, env = "FRAMEGATE_CONTROL_KEY", value_name = "FILE")]
    control_key: Option<PathBuf>,
    /// The authorities, of which one must have signed a data plane's certificate: a PEM file
    #[arg(long, env = "FRAMEGATE_CONTROL_AUTHORITIES", value_name = "FILE")]
    control_authorities: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminDoors,
}

impl Options {
    /// The control port and its files, if one is wanted. The error is a sentence for the operator.
    fn port(&self) -> Result<Option<(SocketAddr, Files)>, &'static str> {
        let Some(address) = self.control_tcp else { return Ok(None) };
        let files = Files::of_options([&self.control_certificate, &self.control_key, &self.control_authorities]);
        let files =
            files.ok_or("--control-tcp wants --control-certificate, --control-key and --control-authorities")?;
        Ok(Some((address, files)))
    }
}

/// Runs until it is told to stop.
pub fn run(options: Options) -> ExitCode {
    start_log();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(options)),
        Err(error) => cannot(false, &format!("the runtime cannot be started: {error}")),
    }
}

async fn serve(options: Options) -> ExitCode {
    let port = match options.port() {
        Ok(port) => port,
        Err(reason) => return cannot(false, reason),
    };
    let control = options.control.clone().unwrap_or_else(default_control);
    let doors = match options.admin.doors(&control) {
        Ok(doors) => doors,
        Err(reason) => return cannot(false, reason),
    };
    let state_directory = options.state_dir.unwrap_or_else(default_state_directory);
    let signals = [SignalKind::hangup(), SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(mut hangup), Ok(mut terminate), Ok(mut interrupt)] = signals else {
        return cannot(false, "signals cannot be received");
    };
    let server = match Server::open(&control) {
        Ok(server) => server,
        Err(error) => return cannot(false, &with_sources(&error)),
    };
    let secure = match port {
        None => None,
        Some((address, files)) => match SecureServer::open(address, files).await {
            Ok(secure) => Some(secure),
            Err(error) => return cannot(false, &with_sources(&error)),
        },
    };
    let file = absolute(&options.file);
    let opening = move || Office::new(file, state_directory, run_name(), Instant::now());
    let office = match tokio::task::spawn_blocking(opening).await.expect("opening a database does not panic") {
        Ok(office) => Arc::new(office),
        Err(error) => return cannot(false, &with_sources(&error)),
    };
    let admin = match Admin::open(doors).await {
        Ok(admin) => admin,
        Err(error) => return cannot(false, &with_sources(&error)),
    };
    tracing::info!(control = %server.path().display(), pid = std::process::id(), "the control plane is up");
    if let Some(secure) = &secure {
        tracing::info!(address = %secure.address(), "the control port is open");
    }
    if let Some(path) = admin.path() {
        tracing::info!(admin = %path.display(), "the admin socket is open");
    }
    if let Some(address) = admin.address() {
        tracing::info!(%address, "the admin port is open");
    }
    office.reload("the control plane has started").await;
    let following = tokio::spawn(watch::follow(Arc::clone(&office)));
    let reminding = tokio::spawn({
        let office = Arc::clone(&office);
        async move { office.remind().await }
    });
    let pruning = tokio::spawn({
        let office = Arc::clone(&office);
        async move { office.prune().await }
    });
    let issuing = tokio::spawn({
        let office = Arc::clone(&office);
        async move {
            if let Err(error) = tokens::serve(office).await {
                tracing::error!(error = with_sources(&error), "no tokens are issued, and no keys are fetched");
            }
        }
    });
    let serving = server.serve(Arc::clone(&office));
    let serving_elsewhere = async {
        match secure {
            Some(secure) => secure.serve(Arc::clone(&office)).await,
            None => std::future::pending().await,
        }
    };
    let signals = async {
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    notify(&[NotifyState::Reloading, monotonic_now()]);
                    office.reload("SIGHUP").await;
                    notify(&[NotifyState::Ready]);
                }
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
            }
        }
    };
    notify(&[NotifyState::Ready]);
    tokio::select! {
        () = serving => {}
        () = serving_elsewhere => {}
        () = admin.serve(Arc::clone(&office)) => {}
        () = signals => {}
    }
    notify(&[NotifyState::Stopping]);
    following.abort();
    reminding.abort();
    issuing.abort();
    pruning.abort();
    tracing::info!("the control plane stops; data planes keep serving");
    Verdict::Yes.into()
}

/// Logs to standard error, what FRAMEGATE_LOG_LEVEL asks for (`info` unless set).
fn start_log() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("FRAMEGATE_LOG_LEVEL")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A log beside the configuration is among what is watched: a line for each event would be the next event.
    let filter = filter.add_directive("notify=warn".parse().expect("it is a directive"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Names this run among all runs of all control planes: host, process id, nanoseconds since 1970.
fn run_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "host" } else { host.trim() };
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{host}-{}-{nanos}", std::process::id())
}

/// Tells systemd, where it listens.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell, and nothing to do about it.
    let _ = sd_notify::notify(states);
}

pub(super) fn monotonic_now() -> NotifyState<'static> {
    NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Status("reloading"))
}
