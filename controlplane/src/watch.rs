//! Tells when a file that the configuration consists of has changed, or the time has come to look at it again.
//!
//! Watches directories, because editors and Kubernetes replace files by renaming; what a change means is
//! [`office`](crate::office)'s business.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::office::Office;

/// How long after a change the file is read: a save is often several changes.
const SETTLES_WITHIN: Duration = Duration::from_millis(200);
/// The longest sleep before a look at the clock, which may be set.
const NAP: Duration = Duration::from_secs(60);

/// What is watched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// The files of the configuration.
    pub files: Vec<PathBuf>,
    /// The directories in which they stand, and in which further ones may appear.
    pub directories: BTreeSet<PathBuf>,
    /// When to read them again although nothing has changed.
    pub again: Option<SystemTime>,
}

/// Refreshes the office's source whenever it changes on disk. Without the kernel's help it says so, and ends.
pub async fn follow(office: Arc<Office>) {
    let mut watched = office.watched();
    // One token is enough: it says that something has changed since the last look.
    let (changed, mut changes) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
            let _ = changed.try_send(());
        }
    });
    let mut watcher = match watcher {
        Ok(watcher) => watcher,
        Err(error) => return tracing::warn!(%error, "files cannot be watched; SIGHUP and reload still work"),
    };
    let mut directories = BTreeSet::new();
    let mut seen = Vec::new();
    loop {
        let now = watched.borrow_and_update().clone();
        aim(&mut watcher, &mut directories, &now.directories);
        // The directory may hold much that is nobody's configuration. What is compared is taken before the file is
        // read, so that a change during the reading is seen at the next look.
        let print = fingerprint(&now);
        if print != seen {
            seen = print;
            office.refresh("it changed on disk").await;
        }
        tokio::select! {
            result = watched.changed() => if result.is_err() { return },
            Some(()) = changes.recv() => {
                tokio::time::sleep(SETTLES_WITHIN).await;
                while changes.try_recv().is_ok() {}
            }
            () = come(now.again) => office.refresh("the time has come").await,
        }
    }
}

/// Waits for a time of the wall clock, or for ever.
async fn come(time: Option<SystemTime>) {
    let Some(time) = time else { return std::future::pending().await };
    while let Ok(left) = time.duration_since(SystemTime::now()) {
        // A certificate counts whole seconds; a moment later it is valid for sure.
        tokio::time::sleep((left + Duration::from_millis(10)).min(NAP)).await;
    }
}

fn aim(watcher: &mut RecommendedWatcher, present: &mut BTreeSet<PathBuf>, wanted: &BTreeSet<PathBuf>) {
    for gone in present.difference(wanted) {
        let _ = watcher.unwatch(gone);
    }
    let mut watching = BTreeSet::new();
    for directory in wanted {
        let is_watched = present.contains(directory) || {
            let result = watcher.watch(directory, RecursiveMode::NonRecursive);
            result.inspect_err(|error| tracing::warn!(%error, "a directory cannot be watched")).is_ok()
        };
        if is_watched {
            watching.insert(directory.clone());
        }
    }
    *present = watching;
}

/// Device, inode, time of change in seconds and nanoseconds, and length; none of what is only a name, or is not there.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

/// What changes when a file is written or replaced, through symbolic links, and the names in the directories.
fn fingerprint(watched: &Watched) -> Vec<(PathBuf, Stamp)> {
    let stamp = |path: &Path| {
        let metadata = path.metadata().ok()?;
        Some((metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
    };
    let names = watched.directories.iter().filter_map(|directory| directory.read_dir().ok()).flatten();
    let names = names.filter_map(|entry| Some((entry.ok()?.path(), None)));
    let mut print: Vec<_> = watched.files.iter().map(|file| (file.clone(), stamp(file))).chain(names).collect();
    print.sort();
    print
}
