//! The control socket: who may connect, and what each connection turns out to be.
//!
//! A data plane begins with Hello and stays; an operator begins with Request and is answered once. The rest of both
//! conversations is in `node` and `operator`; the same over TCP begins in `secure`.

mod node;
mod operator;
mod secure;
mod wire;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::control::Message;
use proto::errors::with_sources;
use proto::limits::NAME_BYTES_MAX;
use tokio::sync::Semaphore;

use crate::credentials::Identity;
use crate::door::Door;
pub use crate::door::SocketError;
use crate::office::Office;
pub use secure::{PortError, SecureServer};
use wire::{Reader, Writer};

/// Connections at once, data planes and operators together.
const CONNECTIONS_MAX: usize = 1024;
/// How long a connection may take to say what it is.
const FIRST_MESSAGE_WITHIN: Duration = Duration::from_secs(5);

/// The open control socket.
pub struct Server {
    door: Door,
}

impl Server {
    /// Opens the socket. Needs a tokio runtime around it.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        Ok(Self { door: Door::open(path, "control socket", "--control")? })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.door.path()
    }

    /// Serves connections until it is dropped.
    pub async fn serve(&self, office: Arc<Office>) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
            match self.door.admit().await {
                Ok((stream, _)) => {
                    let office = Arc::clone(&office);
                    tokio::spawn(async move {
                        let (reader, writer) = stream.into_split();
                        let (reader, writer) = (Reader::new(Box::new(reader)), Writer::new(Box::new(writer)));
                        converse(reader, writer, Peer::Local, &office).await;
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
