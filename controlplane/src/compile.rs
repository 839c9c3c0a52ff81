//! From a file to a [`Snapshot`]: the source, read and checked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proto::snapshot::Snapshot;

use crate::source::{self, Diagnostic, Lookup};

/// What came of a file.
#[derive(Debug)]
pub struct Compiled {
    /// Every file that was read or should have been, the main file first.
    pub files: Vec<PathBuf>,
    /// Every directory in which a change may change the configuration.
    pub directories: BTreeSet<PathBuf>,
    /// The snapshot, or everything that is wrong.
    pub outcome: Result<Snapshot, Vec<Diagnostic>>,
}

/// Reads the file, and what it includes, and checks it.
pub fn compile(file: &Path, environment: Lookup<'_>) -> Compiled {
    let reading = source::read(file, environment);
    let outcome = reading
        .outcome
        .and_then(|document| Snapshot::check(document.config.clone()).map_err(|problems| document.diagnose(&problems)));
    Compiled { files: reading.files, directories: reading.directories, outcome }
}

/// The environment of this process, for [`compile`].
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
