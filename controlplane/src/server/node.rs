//! One data plane's connection: Welcome, then one push at a time, the newest first.
//!
//! ```text
//! Hello ──▶ idle ── a generation it does not serve ──▶ in flight ── Ack, Reject ──▶ idle
//!                                                          └── no answer in time ──▶ ended
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::control::message::{Generation, Hello, Push, Welcome};
use proto::control::{Message, PROTOCOL_VERSION};
use proto::snapshot::Digest;
use tokio::sync::mpsc;

use proto::errors::with_sources;

use super::wire::{Reader, WireError, Writer};
use crate::office::Office;
use crate::publish::{NodeId, Published, Publisher};

/// How often a report is wanted.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// How long a node may take to answer a push. Building tables of the largest snapshot takes well under a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// A remote node from which nothing has come for so long has gone: its host may have had no time to say so.
pub const SILENT_MAX: Duration = Duration::from_secs(30);
/// Messages that wait for a node that is not reading; when they are more it is not told.
const COMMANDS_MAX: usize = 16;

/// Why a node's connection is ended by us.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the connection to the node is lost")]
    Wire(#[from] WireError),
    #[error("the node has not answered a push within {} s", ANSWER_WITHIN.as_secs())]
    Silent,
    #[error("nothing has come from the node for {} s", SILENT_MAX.as_secs())]
    Gone,
    #[error("the node sent a message of kind {0}, which is not a node's to send now")]
    OutOfTurn(u8),
}

/// Tells a node why it is not served.
pub async fn refuse(reason: String, writer: &mut Writer) {
    if let Err(error) = writer.message(&welcome(Some(reason))).await {
        tracing::debug!(error = with_sources(&error), "a node did not wait to hear why it is refused");
    }
}

fn welcome(refused: Option<String>) -> Message {
    Message::Welcome(Welcome {
        protocol: PROTOCOL_VERSION,
        software: env!("CARGO_PKG_VERSION").into(),
        report_every_ms: REPORT_EVERY.as_millis() as u64,
        refused,
    })
}

/// Serves the node until either side ends the connection, or until nothing has come from it for longer than `silent_max`.
pub async fn serve(hello: Hello, reader: Reader, writer: &mut Writer, office: &Office, silent_max: Option<Duration>) {
    let (node, pid) = (hello.node.clone(), hello.pid);
    if let Err(error) = writer.message(&welcome(None)).await {
        return tracing::warn!(node, pid, error = with_sources(&error), "a node left before it was welcomed");
    }
    if hello.protocol != PROTOCOL_VERSION {
        let (theirs, ours) = (hello.protocol, PROTOCOL_VERSION);
        return tracing::warn!(node, pid, theirs, ours, "a node of another protocol version is refused");
    }
    let (commands, received) = mpsc::channel(COMMANDS_MAX);
    let publisher = office.publisher();
    let conversation = Conversation {
        writer,
        held: hello.sections.iter().copied().collect(),
        served: hello.applied.clone(),
        in_flight: None,
        silent_max,
        id: publisher.connected(hello, commands, Instant::now()),
        publisher,
    };
    tracing::info!(node, pid, "a node has connected");
    let id = conversation.id;
    match conversation.hold(reader, received).await {
        Ok(()) => tracing::info!(node, pid, "a node has disconnected"),
        Err(error) => tracing::warn!(node, pid, error = with_sources(&error), "a node's connection is ended"),
    }
    publisher.disconnected(id);
}

struct Conversation<'p> {
    publisher: &'p Publisher,
    id: NodeId,
    writer: &'p mut Writer,
    /// Sections that the node holds: those of Hello, then those of the last push it acknowledged.
    held: HashSet<Digest>,
    /// The generation that was last answered, either way: it is not sent again.
    served: Option<Generation>,
    in_flight: Option<InFlight>,
    silent_max: Option<Duration>,
}

struct InFlight {
    published: Arc<Published>,
    answer_by: Instant,
}

impl Conversation<'_> {
    async fn hold(mut self, mut reader: Reader, mut commands: mpsc::Receiver<Message>) -> Result<(), Ended> {
        // A read must not be dropped half-way, so it has a task of its own and is heard through a channel.
        let (heard, mut messages) = mpsc::channel(1);
        let reading = tokio::spawn(async move {
            loop {
                let message = reader.message().await;
                let is_last = !matches!(message, Ok(Some(_)));
                if heard.send(message).await.is_err() || is_last {
                    return;
                }
            }
        });
        let _stopped = AbortOnDrop(reading);
        let mut generations = self.publisher.watch();
        let mut heard_at = Instant::now();
        loop {
            let newest = generations.borrow_and_update().clone();
            if let Some(newest) = newest.filter(|newest| self.wants(newest)) {
                self.push(newest).await?;
            }
            let answer_by = self.in_flight.as_ref().map(|in_flight| in_flight.answer_by);
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Ok(Some(message))) => {
                        heard_at = Instant::now();
                        self.hear(message)?;
                    }
                    Some(Ok(None)) | None => return Ok(()),
                    Some(Err(error)) => return Err(error.into()),
                },
                Some(command) = commands.recv() => self.writer.message(&command).await?,
                _ = generations.changed() => {}
                () = until(answer_by) => return Err(Ended::Silent),
                () = until(self.silent_max.map(|most| heard_at + most)) => return Err(Ended::Gone),
            }
        }
    }

    /// Whether the node is to be sent this generation now.
    fn wants(&self, newest: &Published) -> bool {
        self.in_flight.is_none() && self.served.as_ref() != Some(&newest.generation)
    }

    async fn push(&mut self, published: Arc<Published>) -> Result<(), Ended> {
        let push = Push::new(published.generation.clone(), &published.snapshot, &self.held);
        let (sections, bodies) = (push.sections.len(), push.bodies.len());
        tracing::debug!(generation = published.generation.number, sections, bodies, "a push");
        self.publisher.pushed(self.id, &published.generation);
        self.writer.message(&Message::Push(push)).await?;
        self.in_flight = Some(InFlight { published, answer_by: Instant::now() + ANSWER_WITHIN });
        Ok(())
    }

    fn hear(&mut self, message: Message) -> Result<(), Ended> {
        let kind = message.kind();
        match message {
            Message::Report(report) => self.publisher.reported(self.id, report),
            Message::Usage(usage) => self.publisher.used(self.id, usage),
            Message::Ack(ack) => {
                let published = self.answered(&ack.generation, kind)?;
                self.held = published.snapshot.list().into_iter().map(|(_, digest)| digest).collect();
                tracing::info!(generation = ack.generation.number, micros = ack.micros, "a node serves the generation");
                self.publisher.acknowledged(self.id, ack);
            }
            Message::Reject(reject) => {
                self.answered(&reject.generation, kind)?;
                let reasons = reject.reasons.join("; ");
                tracing::error!(generation = reject.generation.number, reasons, "a node rejects the generation");
                self.publisher.rejected(self.id, reject);
            }
            _ => return Err(Ended::OutOfTurn(kind)),
        }
        Ok(())
    }

    /// Takes the push that is answered, which must be the one in flight.
    fn answered(&mut self, generation: &Generation, kind: u8) -> Result<Arc<Published>, Ended> {
        let in_flight = self.in_flight.take().filter(|in_flight| in_flight.published.generation == *generation);
        let in_flight = in_flight.ok_or(Ended::OutOfTurn(kind))?;
        self.served = Some(generation.clone());
        Ok(in_flight.published)
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The reading task ends with the conversation.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
