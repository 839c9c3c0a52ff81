//! From a file to a [`Snapshot`]: the source and the files that it names, read and checked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use proto::snapshot::Snapshot;

use crate::material::{self, Known};
use crate::source::{self, Diagnostic, Document, Lookup};

/// What came of a file.
#[derive(Debug)]
pub struct Compiled {
    /// Every file that was read or should have been, the main file first.
    pub files: Vec<PathBuf>,
    /// Every directory in which a change may change the configuration.
    pub directories: BTreeSet<PathBuf>,
    /// The snapshot, or everything that is wrong.
    pub outcome: Result<Snapshot, Vec<Diagnostic>>,
    /// What is no error, and should be looked after.
    pub warnings: Vec<Diagnostic>,
    /// When some of what is wrong will be right by itself.
    pub again: Option<SystemTime>,
}

/// Reads the file, what it includes, and the certificates and keys that they name, and checks all of it. `known` is what
/// has been published before.
pub fn compile(file: &Path, environment: Lookup<'_>, known: &Known, now: SystemTime) -> Compiled {
    let source::Reading { mut files, mut directories, outcome } = source::read(file, environment);
    let document = match outcome {
        Ok(document) => document,
        Err(diagnostics) => {
            return Compiled { files, directories, outcome: Err(diagnostics), warnings: Vec::new(), again: None };
        }
    };
    let material = material::load(&document, known, now);
    files.extend(material.files);
    directories.extend(material.directories);
    let warnings = document.diagnose(&material.warnings);
    let outcome = check(&document, material.config, material.problems);
    Compiled { files, directories, outcome, warnings, again: material.again }
}

fn check(
    document: &Document,
    config: proto::snapshot::Config,
    mut problems: Vec<proto::snapshot::Problem>,
) -> Result<Snapshot, Vec<Diagnostic>> {
    match Snapshot::check(config) {
        Ok(snapshot) if problems.is_empty() => return Ok(snapshot),
        Ok(_) => {}
        Err(further) => problems.extend(further),
    }
    Err(document.diagnose(&problems))
}

/// The environment of this process, for [`compile`].
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
