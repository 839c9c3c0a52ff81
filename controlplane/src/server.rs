//! The control socket: who may connect, and what each connection turns out to be.
//!
//! A data plane begins with Hello and stays; an operator begins with Request and is answered once. The rest of both
//! conversations is in `node` and `operator`; the same over TCP begins in `secure`.

mod node;
mod operator;
mod secure;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::control::Message;
use proto::errors::with_sources;
use proto::limits::NAME_BYTES_MAX;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::credentials::Identity;
use crate::office::Office;
pub use secure::{PortError, SecureServer};
pub(crate) use secure::{Sources, source};
use wire::{Reader, Writer};

/// Connections at once, data planes and operators together.
const CONNECTIONS_MAX: usize = 1024;
/// How long a connection may take to say what it is.
const FIRST_MESSAGE_WITHIN: Duration = Duration::from_secs(5);

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another control plane answers on {}; stop it, or choose another socket with --control", .0.display())]
    Taken(PathBuf),
    /// Something else stands there.
    #[error("{} exists and is not a socket; remove it, or choose another path with --control", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("the control socket {} cannot be opened; choose a place you may write with --control", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The open control socket.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Who made the socket: who else may use it.
    owner: u32,
    inode: u64,
}

impl Server {
    /// Opens the socket: its directory made (0700) where it is missing, a socket that nobody answers on replaced, mode
    /// 0600. Needs a tokio runtime around it.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Io { path: path.to_owned(), source };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        }
        clear(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let metadata = path.metadata().map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), owner: metadata.uid(), inode: metadata.ino() })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves connections until it is dropped.
    pub async fn serve(&self, office: Arc<Office>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let office = Arc::clone(&office);
                    let owner = self.owner;
                    tokio::spawn(async move {
                        serve_one(stream, owner, &office).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: waiting is all that helps.
                    tracing::warn!(%error, "a connection to the control socket cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Another control plane may already have put its own socket there.
        if self.path.metadata().is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes room at the path: only a socket that nobody answers on is removed.
pub(crate) fn clear(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(SocketError::Taken(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)
            }
            Err(error) => Err(failed(error)),
        },
    }
}

async fn serve_one(stream: UnixStream, owner: u32, office: &Arc<Office>) {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == owner || peer.uid() == 0 => {}
        Ok(peer) => {
            return tracing::warn!(uid = peer.uid(), "a connection of another user to the control socket is refused");
        }
        Err(error) => return tracing::warn!(%error, "a peer of the control socket cannot be identified"),
    }
    let (reader, writer) = stream.into_split();
    converse(Reader::new(Box::new(reader)), Writer::new(Box::new(writer)), Peer::Local, office).await;
}

/// Who is at the other end.
enum Peer {
    /// The owner of the control socket, or root.
    Local,
    /// Whoever has a good certificate.
    Remote { from: SocketAddr, identity: Identity },
}

impl Peer {
    /// Why it may not be this node.
    fn refusal_of_node(&self, node: &str) -> Option<String> {
        match self {
            Self::Local => None,
            Self::Remote { identity, .. } if identity.may_be(node) => None,
            Self::Remote { identity, .. } => {
                let node = &node[..node.floor_char_boundary(NAME_BYTES_MAX)];
                Some(format!("its certificate is for {}, not for {node:?}", identity.nodes()))
            }
        }
    }
}

/// Hears the first message, and what follows from it.
async fn converse(mut reader: Reader, mut writer: Writer, peer: Peer, office: &Arc<Office>) {
    let first = match tokio::time::timeout(FIRST_MESSAGE_WITHIN, reader.message()).await {
        Ok(Ok(Some(message))) => message,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::warn!(error = with_sources(&error), "a control connection is ended"),
        Err(_) => return tracing::warn!("a control connection that said nothing is ended"),
    };
    match (first, &peer) {
        (Message::Hello(hello), _) => match (peer.refusal_of_node(&hello.node), &peer) {
            (Some(reason), _) => {
                tracing::warn!(pid = hello.pid, reason, "a node is refused");
                node::refuse(reason, &mut writer).await;
            }
            (None, Peer::Local) => node::serve(hello, reader, &mut writer, office, None).await,
            (None, Peer::Remote { .. }) => {
                node::serve(hello, reader, &mut writer, office, Some(node::SILENT_MAX)).await;
            }
        },
        (Message::Request(_), Peer::Remote { from, identity }) if !identity.is_operator => {
            let subject = &identity.subject;
            tracing::warn!(%from, subject, "an operator is refused: the certificate has no URI framegate:operator");
        }
        (Message::Request(request), _) => {
            let response = operator::answer(request, office).await;
            if let Err(error) = writer.message(&Message::Response(response)).await {
                tracing::debug!(error = with_sources(&error), "an operator did not wait for the answer");
            }
        }
        (other, _) => tracing::warn!(
            kind = other.kind(),
            "a control connection that began with neither Hello nor Request is ended"
        ),
    }
    writer.end().await;
}
