//! `reload`: the control plane reads its source again and publishes it.

use std::process::ExitCode;

use proto::control::message::Request;

use super::{Asking, apply};

/// Options of `reload`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 every connected data plane serves it, 1 the file is not sound or a data plane \
    refused it or did not answer, 2 the control plane cannot be reached.")]
pub struct Options {
    #[command(flatten)]
    asking: Asking,
}

/// Reloads.
pub fn run(options: Options) -> ExitCode {
    options.asking.ask(Request::Reload, apply::show, apply::judge)
}
