//! What the service manager and the operator's terminal hear of the process: systemd's notify protocol, and diagnostics.
//!
//! Both are silent where nobody listens: no `NOTIFY_SOCKET`, no messages. Sessions have a log of their own, `record`.

use std::time::Duration;
use std::{env, io, thread};

use sd_notify::NotifyState;
use tracing_subscriber::EnvFilter;

/// The environment variable with the level of diagnostics, such as `debug` or `warn,dataplane=debug`.
pub const LOG_LEVEL: &str = "FRAMEGATE_LOG_LEVEL";

/// Sends the process's own diagnostics to standard error, one line each, at `info` unless the environment says otherwise.
///
/// Does nothing if the process has a subscriber already. Times are left out under systemd, which adds its own.
pub fn diagnostics() {
    let (filter, complaint) = match env::var(LOG_LEVEL) {
        Ok(text) => match EnvFilter::builder().parse(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new("info"), Some(error)),
        },
        Err(_) => (EnvFilter::new("info"), None),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    let set = match env::var_os("JOURNAL_STREAM") {
        Some(_) => builder.without_time().try_init(),
        None => builder.try_init(),
    };
    if let (Ok(()), Some(error)) = (set, complaint) {
        tracing::warn!(%error, "{LOG_LEVEL} cannot be read and is taken for info");
    }
}

/// Listeners are bound and a snapshot is served; or everything is up that can be without one.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line on how the process stands, shown by `systemctl status`.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// The process drains, and wants to be left alone for as long as `window`.
pub fn stopping(window: Duration, status: &str) {
    let window_us = u32::try_from(window.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(window_us), NotifyState::Status(status)]);
}

/// Feeds systemd's watchdog, if it is on, for as long as `is_alive` says so; asked at half the watchdog's time.
///
/// The question must be about the workers: a thread that feeds the dog while they hang would defeat it.
pub fn watchdog(is_alive: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
    let Some(patience) = sd_notify::watchdog_enabled() else { return Ok(()) };
    thread::Builder::new().name("watchdog".into()).spawn(move || {
        loop {
            thread::sleep(patience / 2);
            if is_alive() {
                send(&[NotifyState::Watchdog]);
            } else {
                tracing::error!("a worker does not answer; the watchdog is not fed");
            }
        }
    })?;
    Ok(())
}

fn send(states: &[NotifyState<'_>]) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be notified");
    }
}
