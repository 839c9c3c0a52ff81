//! `drain`: data planes stop accepting, and close their sessions over a window.

use std::fmt::Write;
use std::process::ExitCode;

use proto::control::message::Request;
use proto::snapshot::Duration;

use super::{Asking, Verdict};
use crate::answer::Drained;

/// Options of `drain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 every data plane that was meant has been told, 1 there is none, 2 the control \
    plane cannot be reached.")]
pub struct Options {
    /// Only the data plane of this name
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Over how long sessions are closed, such as 30s [default: the configuration's drain_window]
    #[arg(long, value_name = "DURATION")]
    window: Option<Duration>,
    #[command(flatten)]
    asking: Asking,
}

/// Drains.
pub fn run(options: Options) -> ExitCode {
    let request = Request::Drain { node: options.node, window_ms: options.window.map(Duration::as_ms) };
    options.asking.ask(request, show, |drained: &Drained| Verdict::of(drained.ok))
}

fn show(drained: &Drained, text: &mut String) {
    if drained.nodes.is_empty() {
        let _ = writeln!(text, "no such data plane is connected");
    }
    for (node, pid) in &drained.nodes {
        let _ = writeln!(text, "{node} (pid {pid}): draining; `framegate status` shows how many sessions are left");
    }
}
