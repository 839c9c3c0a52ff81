//! `schema`: the JSON Schema of the configuration, for editors.

use std::process::ExitCode;

use super::{Verdict, print};

/// Options of `schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Editors that know YAML schemas complete and check with it, for instance after a first line\n\
    # yaml-language-server: $schema=/path/to/config.schema.json\n\nExit codes: 0.")]
pub struct Options {}

/// Prints it.
pub fn run(Options {}: Options) -> ExitCode {
    print(&crate::schema::text());
    Verdict::Yes.into()
}
