//! `version`: what this is.

use std::process::ExitCode;

use serde_json::json;

use super::{Verdict, print};

/// Options of `version`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0.")]
pub struct Options {
    /// Print {"software", "control_protocol", "configuration"} as JSON
    #[arg(long)]
    json: bool,
}

/// Says it.
pub fn run(options: Options) -> ExitCode {
    let (software, protocol) = (env!("CARGO_PKG_VERSION"), proto::control::PROTOCOL_VERSION);
    if options.json {
        let version = json!({ "software": software, "control_protocol": protocol, "configuration": 1 });
        print(&format!("{version}\n"));
    } else {
        print(&format!("framegate {software} (control protocol {protocol}, configuration 1)\n"));
    }
    Verdict::Yes.into()
}
