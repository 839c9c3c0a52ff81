//! The last good snapshot on disk, so that a data plane that starts without a control plane serves at once.
//!
//! It stores bytes and gives back a [`Snapshot`] whose every byte was verified, or says why it cannot. Whether what it
//! gives back can still be served (a port may be taken by now) is for the caller to find out.
//!
//! ```text
//! STATE/lock               held for as long as a data plane uses the directory
//! STATE/sections/DIGEST    a section's bytes, under their own SHA-256; those with private keys only if that is wanted
//! STATE/current            one line of JSON (generation, checksum, list of sections), then the SHA-256 of that line
//! STATE/unusable/          what could not be used when it was last loaded, without the sections with private keys
//! ```
//!
//! Sections are written first, then `current` is replaced by a rename, then sections that it does not name are removed:
//! a crash at any point leaves either the old snapshot or the new one.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::control::message::{Body, Generation, Push};
use proto::limits::ENVELOPE_BYTES_MAX;
use proto::snapshot::{Digest, SectionList, SectionName, Snapshot};
use serde::{Deserialize, Serialize};

/// The form of `current` that this build writes and reads.
const FORM: u32 = 1;
/// With more new sections than this, one call for the whole file system is cheaper than one for each.
const FSYNCS_MAX: usize = 8;

/// Why the store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system said no.
    #[error("{doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// Another data plane uses the directory.
    #[error("{0} is in use by another data plane; give each its own --state-dir")]
    InUse(PathBuf),
    /// What is stored is damaged, or of a newer version. It was set aside.
    #[error("the stored snapshot cannot be used and was moved to {aside}: {}", reasons.join("; "))]
    Unusable {
        /// Where it is now.
        aside: PathBuf,
        /// Everything that is wrong with it.
        reasons: Vec<String>,
    },
    /// What is stored is whole but for its private keys, hashes and secrets, which are not stored here, or were not.
    #[error("the stored snapshot is without its secrets (--store-keys off); the control plane has to send it again")]
    WithoutKeys,
    /// The bytes of a section have gone from the disk, and another program than this one had encoded them.
    #[error("the bytes of section {0} are missing")]
    Missing(Digest),
}

/// A state directory that is ours.
pub struct Store {
    directory: PathBuf,
    /// Sections that hold private keys are stored too.
    keeps_keys: bool,
    /// Bytes that a failed save could not bring to disk, and that no later push will carry again.
    unsaved: HashMap<Digest, Vec<u8>>,
    /// Holds the lock until it is closed.
    _lock: File,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bytes have private keys among them.
        let mut shown = f.debug_struct("Store");
        shown.field("directory", &self.directory).field("keeps_keys", &self.keeps_keys);
        shown.field("unsaved", &self.unsaved.keys()).finish_non_exhaustive()
    }
}

/// What `current` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Current {
    form: u32,
    generation: Generation,
    checksum: Digest,
    sections: SectionList,
}

impl Store {
    /// Opens the directory, making it if need be, and keeps other data planes out of it. Without `keeps_keys` no private
    /// key is written there, and those that an earlier run left are removed.
    pub fn open(directory: &Path, keeps_keys: bool) -> Result<Self, StoreError> {
        let sections = directory.join("sections");
        DirBuilder::new().recursive(true).mode(0o700).create(&sections).map_err(io_error("making", &sections))?;
        let mode = sections.metadata().map_err(io_error("reading", &sections))?.mode();
        if mode & 0o077 != 0 {
            let own = fs::Permissions::from_mode(0o700);
            fs::set_permissions(&sections, own).map_err(io_error("closing to others", &sections))?;
        }
        let path = directory.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("opening", &path))?;
        match lock.try_lock() {
            Ok(()) => {
                let aside = directory.join("unusable");
                if !keeps_keys && aside.exists() {
                    // Nobody can say what is in there.
                    fs::remove_dir_all(&aside).map_err(io_error("removing", &aside))?;
                }
                let store = Self { directory: directory.into(), keeps_keys, unsaved: HashMap::new(), _lock: lock };
                if !keeps_keys {
                    // Also what a crash left there under no name that counts.
                    let stored = store.read_current()?.and_then(Result::ok);
                    store.remove_others(&plain_sections(stored.as_ref()));
                }
                Ok(store)
            }
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(directory.into())),
            Err(TryLockError::Error(source)) => Err(StoreError::Io { doing: "locking", path, source }),
        }
    }

    /// The stored snapshot, if there is one. One that cannot be used is set aside, and the store is empty then.
    pub fn load(&mut self) -> Result<Option<(Generation, Snapshot)>, StoreError> {
        let Some(read) = self.read_current()? else { return Ok(None) };
        if let Ok(current) = &read
            && self.lacks_keys(current)
        {
            return Err(StoreError::WithoutKeys);
        }
        let plain = plain_sections(read.as_ref().ok());
        let assembled = match read {
            Ok(current) => match self.bodies(&current)? {
                Ok(bodies) => {
                    let Current { generation, checksum, sections, .. } = current;
                    Push { generation, checksum, sections, bodies }.assemble(None).map_err(|(_, reasons)| reasons)
                }
                Err(reason) => Err(vec![reason]),
            },
            Err(reason) => Err(vec![reason]),
        };
        match assembled {
            Ok(stored) => Ok(Some(stored)),
            Err(reasons) => Err(StoreError::Unusable { aside: self.set_aside(&plain)?, reasons }),
        }
    }

    /// Makes this generation the stored one. `bodies` are the bytes of those of its sections that were not saved before.
    pub fn save(&mut self, generation: &Generation, snapshot: &Snapshot, bodies: Vec<Body>) -> Result<(), StoreError> {
        let stored = snapshot.sections().iter().filter(|(name, _)| self.stores(**name));
        let wanted: HashSet<_> = stored.map(|(_, (digest, _))| *digest).collect();
        self.unsaved.retain(|digest, _| wanted.contains(digest));
        let listed = |body: Body| Some((snapshot.sections().get(&body.name)?.0, body.bytes));
        let bodies = bodies.into_iter().filter_map(listed).filter(|(digest, _)| wanted.contains(digest));
        self.unsaved.extend(bodies);

        self.write_sections(snapshot)?;
        let (generation, checksum) = (generation.clone(), snapshot.checksum());
        let current = Current { form: FORM, generation, checksum, sections: snapshot.list() };
        let path = self.current();
        replace(&path, &current.to_text(&path)?)?;
        sync_directory(&self.directory)?;
        self.unsaved.clear();
        self.remove_others(&wanted);
        Ok(())
    }

    fn stores(&self, name: SectionName) -> bool {
        self.keeps_keys || !name.is_secret()
    }

    /// What `current` says, if it is there; the inner error is one of content.
    fn read_current(&self) -> Result<Option<Result<Current, String>>, StoreError> {
        let path = self.current();
        match fs::read(&path) {
            Ok(text) => Ok(Some(Current::parse(&text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("reading", &path)(error)),
        }
    }

    /// Whether the snapshot has private keys that are not to be had here.
    fn lacks_keys(&self, current: &Current) -> bool {
        let secret = current.sections.iter().filter(|(name, _)| name.is_secret());
        let mut paths = secret.map(|(_, digest)| self.sections().join(digest.to_string())).peekable();
        let has_keys = paths.peek().is_some();
        has_keys && (!self.keeps_keys || paths.all(|path| !path.exists()))
    }

    fn current(&self) -> PathBuf {
        self.directory.join("current")
    }

    fn sections(&self) -> PathBuf {
        self.directory.join("sections")
    }

    /// Reads the listed sections; the inner error is one of content. Digests are checked by whoever assembles them.
    fn bodies(&self, current: &Current) -> Result<Result<Vec<Body>, String>, StoreError> {
        let mut bodies = Vec::with_capacity(current.sections.len());
        for (name, digest) in &current.sections {
            let path = self.sections().join(digest.to_string());
            match read_bounded(&path) {
                Ok(Some(bytes)) => bodies.push(Body { name: *name, bytes }),
                Ok(None) => return Ok(Err(format!("/{name}: {} is too large", path.display()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Err(format!("/{name}: {} is missing", path.display())));
                }
                Err(error) => return Err(io_error("reading", &path)(error)),
            }
        }
        Ok(Ok(bodies))
    }

    fn write_sections(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let directory = self.sections();
        let (mut written, mut seen) = (Vec::new(), HashSet::new());
        for (_, (digest, section)) in snapshot.sections().iter().filter(|(name, _)| self.stores(**name)) {
            // Two sections of the same bytes are one file.
            if !seen.insert(*digest) {
                continue;
            }
            let path = directory.join(digest.to_string());
            if let Some(bytes) = self.unsaved.get(digest) {
                written.push((write(&path, bytes)?, path));
            } else if !path.exists() {
                let bytes = section.encode();
                if Digest::of(&bytes) != *digest {
                    return Err(StoreError::Missing(*digest));
                }
                written.push((write(&path, &bytes)?, path));
            }
        }
        if written.len() > FSYNCS_MAX {
            sync_file_system(&directory)?;
        } else {
            for (file, path) in &written {
                file.sync_all().map_err(io_error("writing", path))?;
            }
        }
        // A section is complete under its own name before anything refers to it.
        for (_, path) in &written {
            fs::rename(temporary(path), path).map_err(io_error("writing", path))?;
        }
        sync_directory(&directory)
    }

    /// Removes all sections but these, with what a crash left. What cannot be removed is in nobody's way and goes next
    /// time; but it may have keys, so it is told.
    fn remove_others(&self, wanted: &HashSet<Digest>) {
        let Ok(entries) = fs::read_dir(self.sections()) else { return };
        for entry in entries.flatten() {
            let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
            if !digest.is_some_and(|digest| wanted.contains(&digest)) {
                let path = entry.path();
                if let Err(error) = fs::remove_file(&path) {
                    tracing::error!(path = %path.display(), %error, "a stored section that is not needed cannot be removed");
                }
            }
        }
    }

    /// Moves what cannot be used to `unusable/`, in place of what was moved there before: of the sections those in which
    /// there is no private key for sure, for nobody tidies up there.
    fn set_aside(&self, plain: &HashSet<Digest>) -> Result<PathBuf, StoreError> {
        self.remove_others(plain);
        let aside = self.directory.join("unusable");
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("removing", &aside)(error)),
            _ => {}
        }
        let make = |path: &Path| DirBuilder::new().mode(0o700).create(path).map_err(io_error("making", path));
        make(&aside)?;
        fs::rename(self.current(), aside.join("current")).map_err(io_error("moving", &self.current()))?;
        fs::rename(self.sections(), aside.join("sections")).map_err(io_error("moving", &self.sections()))?;
        make(&self.sections())?;
        Ok(aside)
    }
}

impl Current {
    fn to_text(&self, path: &Path) -> Result<Vec<u8>, StoreError> {
        let mut text = serde_json::to_vec(self).map_err(|error| io_error("writing", path)(error.into()))?;
        text.push(b'\n');
        let digest = Digest::of(&text);
        text.extend_from_slice(format!("{digest}\n").as_bytes());
        Ok(text)
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        const CUT: &str = "current: it is cut off or damaged";
        let end = text.iter().position(|byte| *byte == b'\n').ok_or(CUT)? + 1;
        let (line, digest) = text.split_at(end);
        if digest != format!("{}\n", Digest::of(line)).as_bytes() {
            return Err(CUT.into());
        }
        let current: Self = serde_json::from_slice(line).map_err(|error| format!("current: {error}"))?;
        match current.form {
            FORM => Ok(current),
            other => Err(format!("current: it has form {other}; this build reads form {FORM}")),
        }
    }
}

/// The sections without private keys; none where nobody can say which they are.
fn plain_sections(current: Option<&Current>) -> HashSet<Digest> {
    let listed = current.into_iter().flat_map(|current| &current.sections);
    listed.filter(|(name, _)| !name.is_secret()).map(|(_, digest)| *digest).collect()
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { doing, path: path.into(), source }
}

fn read_bounded(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(ENVELOPE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= ENVELOPE_BYTES_MAX).then_some(bytes))
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

/// Writes a file's future content beside it.
fn write(path: &Path, bytes: &[u8]) -> Result<File, StoreError> {
    let path = temporary(path);
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    let mut file = open.map_err(io_error("writing", &path))?;
    // What a crash left there keeps its mode when it is opened.
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(io_error("writing", &path))?;
    file.write_all(bytes).map_err(io_error("writing", &path))?;
    Ok(file)
}

/// The file has its old content or its new one, and nothing in between, whenever the power goes.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write(path, bytes)?.sync_all().map_err(io_error("writing", path))?;
    fs::rename(temporary(path), path).map_err(io_error("writing", path))
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error("syncing", path))
}

fn sync_file_system(path: &Path) -> Result<(), StoreError> {
    let directory = File::open(path).map_err(io_error("syncing", path))?;
    // SAFETY: the descriptor is open for the duration of the call, which uses no memory of ours.
    match unsafe { libc::syncfs(directory.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io_error("syncing", path)(io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests;
