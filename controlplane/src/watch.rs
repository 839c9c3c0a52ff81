//! Tells when a file that the configuration consists of has changed, or the time has come to look at it again.
//!
//! Watches directories, because editors and Kubernetes replace files by renaming; what a change means is
//! [`office`](crate::office)'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::office::Office;

/// For how long nothing may have changed before the files are read: a save is often several changes.
const QUIET: Duration = Duration::from_millis(200);
/// When they are read at the latest, though they go on changing.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);
/// How often they are looked at in that time.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// When a directory that was not there is looked for again.
const MISSED_AGAIN: Duration = Duration::from_secs(1);
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
    let mut directories = BTreeMap::new();
    let mut seen = Vec::new();
    loop {
        let now = watched.borrow_and_update().clone();
        aim(&mut watcher, &mut directories, &now.directories);
        let misses_some = directories.values().any(Option::is_none);
        // The directory may hold much that is nobody's configuration. What is compared is taken before the file is
        // read, so that a change during the reading is seen at the next look.
        let print = fingerprint(&now);
        if print != seen {
            seen = print;
            office.refresh("it changed on disk").await;
        }
        tokio::select! {
            result = watched.changed() => if result.is_err() { return },
            Some(()) = changes.recv() => settle(&mut changes, &now).await,
            () = tokio::time::sleep(MISSED_AGAIN), if misses_some => {}
            () = come(now.again) => office.refresh("the time has come").await,
        }
    }
}

/// Waits until nothing changes any more. Who writes beside the configuration, such as into a log, does not prolong it.
async fn settle(changes: &mut mpsc::Receiver<()>, watched: &Watched) {
    let begun = Instant::now();
    let (mut print, mut changed) = (fingerprint(watched), begun);
    while changed.elapsed() < QUIET && begun.elapsed() < SETTLES_WITHIN {
        tokio::time::sleep(LOOK_EVERY).await;
        if changes.try_recv().is_ok() {
            let now = fingerprint(watched);
            if now != print {
                (print, changed) = (now, Instant::now());
            }
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

/// Which directory stands under a path: device, inode, and when it was made, for inodes are used again. `None` where
/// none could be watched.
type Place = Option<(u64, u64, Option<SystemTime>)>;

/// Watches what is wanted and nothing else. A directory that another one has replaced is watched anew: the kernel watches
/// what had the name, wherever it is now.
fn aim(watcher: &mut RecommendedWatcher, present: &mut BTreeMap<PathBuf, Place>, wanted: &BTreeSet<PathBuf>) {
    present.retain(|path, _| {
        let stays = wanted.contains(path);
        if !stays {
            let _ = watcher.unwatch(path);
        }
        stays
    });
    for path in wanted {
        // Before it is watched, so that a replacement in between is seen as one at the next look.
        let place = path.metadata().ok().map(|found| (found.dev(), found.ino(), found.created().ok()));
        let before = present.get(path).copied();
        if place.is_some() && before == Some(place) {
            continue;
        }
        if before.is_some() {
            let _ = watcher.unwatch(path);
        }
        let is_watched = match watcher.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => place.is_some(),
            Err(error) => {
                // Once, and not at each look.
                if before != Some(None) {
                    tracing::warn!(%error, "a directory cannot be watched");
                }
                false
            }
        };
        present.insert(path.clone(), place.filter(|_| is_watched));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it takes to settle while something is written into this file, one more byte every 50 ms, so many times.
    fn settling(name: &str, times: usize) -> Duration {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("gateway.yaml");
        let beside = directory.path().join("gateway.log");
        std::fs::write(&own, "").unwrap();
        std::fs::write(&beside, "").unwrap();
        let watched =
            Watched { files: vec![own], directories: BTreeSet::from([directory.path().to_owned()]), again: None };
        let written = directory.path().join(name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (changed, mut changes) = mpsc::channel(1);
            let writing = tokio::spawn(async move {
                for length in 1..=times {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    std::fs::write(&written, "x".repeat(length)).unwrap();
                    let _ = changed.try_send(());
                }
                // Nobody who watches goes away.
                std::future::pending::<()>().await;
            });
            let begun = Instant::now();
            settle(&mut changes, &watched).await;
            writing.abort();
            begun.elapsed()
        })
    }

    #[test]
    fn files_are_read_when_they_have_been_left_alone_for_a_while_or_after_a_second() {
        let alone = settling("gateway.yaml", 0);
        assert!(alone >= QUIET && alone < SETTLES_WITHIN, "{alone:?}");
        let saved = settling("gateway.yaml", 8);
        assert!(saved >= Duration::from_millis(400) + QUIET, "{saved:?}");
        let endless = settling("gateway.yaml", 60);
        assert!(endless >= SETTLES_WITHIN && endless < 2 * SETTLES_WITHIN, "{endless:?}");
        let beside = settling("gateway.log", 60);
        assert!(beside < SETTLES_WITHIN, "a log beside it prolongs nothing: {beside:?}");
    }
}
