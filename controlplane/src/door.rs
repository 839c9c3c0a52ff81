//! A Unix socket that only its owner and root may use: how it is opened, who comes in, and how it is left behind.
//!
//! What is said to whoever comes in is the caller's.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Why a socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another control plane answers on {}; stop it, or choose another socket with {flag}", path.display())]
    Taken {
        /// The path.
        path: PathBuf,
        /// The option that names another.
        flag: &'static str,
    },
    /// Something else stands there.
    #[error("{} exists and is not a socket; remove it, or choose another path with {flag}", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
        /// The option that names another.
        flag: &'static str,
    },
    /// The system refuses.
    #[error("the {name} {} cannot be opened; choose a place you may write with {flag}", path.display())]
    Io {
        /// What it is for.
        name: &'static str,
        /// The path.
        path: PathBuf,
        /// The option that names another.
        flag: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The open socket. Its file is removed with its value.
pub struct Door {
    listener: UnixListener,
    name: &'static str,
    path: PathBuf,
    /// Who made the socket: who else may use it.
    owner: u32,
    inode: u64,
}

impl Door {
    /// Opens the socket: its directory made (0700) where it is missing, a socket that nobody answers on replaced, mode
    /// 0600. Needs a tokio runtime around it. `name` says in messages what it is for, `flag` which option names another.
    pub fn open(path: &Path, name: &'static str, flag: &'static str) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Io { name, path: path.to_owned(), flag, source };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        }
        clear(path, name, flag)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let metadata = path.metadata().map_err(failed)?;
        Ok(Self { listener, name, path: path.to_owned(), owner: metadata.uid(), inode: metadata.ino() })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection of the owner or of root, with that user's id; others are turned away.
    pub async fn admit(&self) -> io::Result<(UnixStream, u32)> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == self.owner || peer.uid() == 0 => return Ok((stream, peer.uid())),
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid(), "a connection of another user to the {} is refused", self.name);
                }
                Err(error) => tracing::warn!(%error, "a peer of the {} cannot be identified", self.name),
            }
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Another process may already have put its own socket there.
        if self.path.metadata().is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes room at the path: only a socket that nobody answers on is removed.
pub fn clear(path: &Path, name: &'static str, flag: &'static str) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io { name, path: path.to_owned(), flag, source };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(SocketError::NotASocket { path: path.to_owned(), flag })
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(SocketError::Taken { path: path.to_owned(), flag }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        },
    }
}
