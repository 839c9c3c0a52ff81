//! `validate FILE`: is this file sound? Asks nobody; reads what `run` would read.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use serde_json::json;

use super::table::count;
use super::{Verdict, cannot, complain, print};
use crate::compile::{compile, process_environment};
use crate::material::Known;
use crate::tokens::KeySets;

/// Options of `validate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The certificates and keys that it names are read and checked too.\n\n\
    Exit codes: 0 the file is sound, 1 it is not, 2 it cannot be read.")]
pub struct Options {
    /// The configuration
    file: PathBuf,
    /// Print {"ok", "file", "diagnostics", "warnings"} as JSON
    #[arg(long)]
    json: bool,
}

/// Checks the file.
pub fn run(options: Options) -> ExitCode {
    if let Err(error) = std::fs::File::open(&options.file) {
        return cannot(options.json, &format!("{} cannot be opened: {error}", options.file.display()));
    }
    let compiled =
        compile(&options.file, &process_environment, &Known::default(), &KeySets::default(), SystemTime::now());
    let (outcome, warnings) = (compiled.outcome, compiled.warnings);
    let file = options.file.display().to_string();
    if options.json {
        let diagnostics = outcome.as_ref().err().map_or(&[][..], Vec::as_slice);
        print(&format!(
            "{}\n",
            json!({ "ok": outcome.is_ok(), "file": file, "diagnostics": diagnostics, "warnings": warnings })
        ));
    } else {
        warnings.iter().for_each(|one| print(&format!("warning: {one}\n")));
        match &outcome {
            Ok(snapshot) => {
                let listeners = count(snapshot.listeners().len() as u64, "listener");
                let upstreams = count(snapshot.upstreams().count() as u64, "upstream");
                let apis = count(snapshot.apis().count() as u64, "API");
                print(&format!("{file}: sound ({listeners}, {upstreams}, {apis})\n"));
            }
            Err(diagnostics) => {
                diagnostics.iter().for_each(|one| print(&format!("{one}\n")));
                complain(&format!("{file} has {}", count(diagnostics.len() as u64, "error")));
            }
        }
    }
    Verdict::of(outcome.is_ok()).into()
}
