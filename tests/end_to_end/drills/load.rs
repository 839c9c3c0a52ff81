//! Sessions that talk all the time: numbered messages of random sizes, whose echoes must come back whole and in order.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsConnector;

use crate::kit::tls::Client;
use crate::kit::{Frame, Gateway, Opcode, Random, Upgrade, tls, until};

/// Where a session is opened.
#[derive(Debug, Clone)]
pub struct Door {
    pub address: SocketAddr,
    pub target: &'static str,
    /// Who speaks TLS there, if somebody does.
    pub tls: Option<Client>,
}

impl Door {
    /// The gateway's public listener.
    pub fn of(gateway: &Gateway, target: &'static str) -> Self {
        let tls = gateway.setup().variant().is_secure_in().then(|| tls::client().clone());
        Self { address: gateway.address(), target, tls }
    }

    /// A listener in clear.
    pub fn in_clear(address: SocketAddr, target: &'static str) -> Self {
        Self { address, target, tls: None }
    }
}

/// In clear, or over TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
type Reader = ReadHalf<Box<dyn Stream>>;
type Writer = WriteHalf<Box<dyn Stream>>;

/// How many sessions are opened at a time.
const OPENING_MAX: usize = 64;
/// How long an echo may take before the session counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two bursts of a session, in milliseconds.
const PAUSE_MS: (usize, usize) = (200, 800);

/// A crowd of sessions on a thread of its own.
pub struct Load {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: std::thread::JoinHandle<()>,
    size: usize,
}

#[derive(Default)]
struct Shared {
    open: AtomicUsize,
    messages: AtomicUsize,
    bytes: AtomicUsize,
    closed: AtomicUsize,
    failed: AtomicBool,
    complaints: Mutex<Vec<String>>,
    micros: Mutex<Vec<u32>>,
}

/// What the sessions did in their lives.
pub struct Tally {
    pub messages: usize,
    pub bytes: usize,
    /// From a message to its echo, in microseconds, rising.
    pub micros: Vec<u32>,
}

impl Load {
    /// Opens a session at each of these doors, and returns when all are open.
    #[track_caller]
    pub fn start(doors: Vec<Door>, seed: u64) -> Self {
        let (shared, (stop, stopped)) = (Arc::new(Shared::default()), watch::channel(false));
        let size = doors.len();
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || run(doors, seed, &shared, stopped)
        });
        let load = Self { shared, stop, thread, size };
        // Over TLS opening so many takes its time; that it goes on is what counts.
        for part in 1..=10 {
            until("every session is open", || {
                load.check();
                load.shared.open.load(Ordering::Relaxed) >= size * part / 10
            });
        }
        load
    }

    /// Messages that have come back so far.
    pub fn messages(&self) -> usize {
        self.shared.messages.load(Ordering::Relaxed)
    }

    /// Panics if a session has had a reason to complain.
    #[track_caller]
    pub fn check(&self) {
        if self.shared.failed.load(Ordering::Relaxed) {
            let complaints = self.shared.complaints.lock().expect("no thread panicked");
            panic!("{} of {} sessions complain, the first: {}", complaints.len(), self.size, complaints[0]);
        }
    }

    /// Waits until so many more messages have come back.
    #[track_caller]
    pub fn go_on_for(&self, messages: usize) {
        let target = self.messages() + messages;
        until("the sessions go on", || {
            self.check();
            self.messages() >= target
        });
    }

    /// Every session says goodbye, and hears it.
    #[track_caller]
    pub fn finish(self) -> Tally {
        self.check();
        self.stop.send(true).expect("the sessions are there");
        until("every session is closed", || {
            self.check();
            self.shared.closed.load(Ordering::Relaxed) == self.size
        });
        self.thread.join().expect("the load ends");
        let mut micros = std::mem::take(&mut *self.shared.micros.lock().expect("no thread panicked"));
        micros.sort_unstable();
        let [messages, bytes] = [&self.shared.messages, &self.shared.bytes].map(|one| one.load(Ordering::Relaxed));
        Tally { messages, bytes, micros }
    }
}

fn run(doors: Vec<Door>, seed: u64, shared: &Arc<Shared>, stopped: watch::Receiver<bool>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let opening = Arc::new(Semaphore::new(OPENING_MAX));
        let sessions: Vec<_> = doors
            .into_iter()
            .enumerate()
            .map(|(number, door)| {
                let (shared, stopped, opening) = (shared.clone(), stopped.clone(), opening.clone());
                tokio::spawn(async move {
                    let random = Random::fixed(seed ^ (number as u64) << 32);
                    let session = Session { number: number as u32, next: 0, random, unread: Vec::new() };
                    let outcome = session.live(&door, &shared, stopped, &opening).await;
                    if let Err(complaint) = outcome {
                        shared
                            .complaints
                            .lock()
                            .expect("no thread panicked")
                            .push(format!("{number}{}: {complaint}", door.target));
                        shared.failed.store(true, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for session in sessions {
            session.await.expect("a session does not panic");
        }
    });
}

struct Session {
    number: u32,
    /// The number of its next message.
    next: u32,
    random: Random,
    unread: Vec<u8>,
}

impl Session {
    async fn live(
        mut self,
        door: &Door,
        shared: &Shared,
        mut stopped: watch::Receiver<bool>,
        opening: &Semaphore,
    ) -> Result<(), String> {
        let permit = opening.acquire().await.expect("nobody closes it");
        let (mut reader, mut writer) = connect(door).await.map_err(|error| format!("cannot connect: {error}"))?;
        say(&mut writer, &Upgrade::to(door.target).encode()).await?;
        self.upgraded(&mut reader).await?;
        drop(permit);
        shared.open.fetch_add(1, Ordering::Relaxed);
        while !*stopped.borrow() {
            let burst: Vec<Vec<u8>> = (0..1 + self.random.below(3)).map(|_| self.message()).collect();
            let bytes: Vec<u8> = burst.iter().flat_map(|message| self.on_the_wire(message)).collect();
            let begun = Instant::now();
            let (said, heard) = tokio::join!(say(&mut writer, &bytes), self.hear(&burst, &mut reader, begun, shared));
            said.and(heard)?;
            let pause = PAUSE_MS.0 + self.random.below(PAUSE_MS.1 - PAUSE_MS.0);
            let pause = tokio::time::sleep(Duration::from_millis(pause as u64));
            tokio::select! { () = pause => {}, _ = stopped.changed() => {} }
        }
        say(&mut writer, &Frame::close(1000, "goodbye").masked(self.random.key()).encode()).await?;
        let goodbye = self.frame(&mut reader).await?;
        if goodbye.opcode != Opcode::CLOSE || goodbye.close_code() != Some((1000, "goodbye".into())) {
            return Err(format!("instead of a goodbye came {goodbye:?}"));
        }
        match tokio::time::timeout(PATIENCE, reader.read(&mut [0; 1])).await {
            Ok(Ok(0)) => {}
            other => return Err(format!("after the goodbye came {other:?}")),
        }
        shared.closed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Who, which, and then anything: mostly little, sometimes more than one read takes.
    fn message(&mut self) -> Vec<u8> {
        let length = match self.random.below(100) {
            0..80 => self.random.below(400),
            80..98 => self.random.below(4_000),
            _ => self.random.below(80_000),
        };
        let head = [self.number.to_be_bytes(), self.next.to_be_bytes()].concat();
        self.next += 1;
        [head, self.random.bytes(length)].concat()
    }

    /// One message in four is sent in two fragments.
    fn on_the_wire(&mut self, message: &[u8]) -> Vec<u8> {
        let (first, second) = message.split_at(self.random.below(message.len()));
        if self.random.below(4) > 0 {
            return Frame::binary(message).masked(self.random.key()).encode();
        }
        let first = Frame::binary(first).unfinished().masked(self.random.key()).encode();
        [first, Frame::continuation(second).masked(self.random.key()).encode()].concat()
    }

    async fn hear(
        &mut self,
        burst: &[Vec<u8>],
        reader: &mut Reader,
        begun: Instant,
        shared: &Shared,
    ) -> Result<(), String> {
        for message in burst {
            let mut heard = Vec::new();
            loop {
                let frame = self.frame(reader).await?;
                let expected = if heard.is_empty() { Opcode::BINARY } else { Opcode::CONTINUATION };
                // The first fragment may be empty: then its opcode has been seen, and nothing of it remains.
                let is_data = frame.opcode == expected || frame.opcode == Opcode::CONTINUATION;
                if !is_data {
                    return Err(format!("instead of message {} came {:?}", name(message), bounded(&frame)));
                }
                heard.extend_from_slice(&frame.payload);
                if frame.fin {
                    break;
                }
            }
            if heard != *message {
                return Err(format!(
                    "instead of message {} came {} of {} bytes",
                    name(message),
                    name(&heard),
                    heard.len()
                ));
            }
            let micros = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
            shared.micros.lock().expect("no thread panicked").push(micros);
            shared.messages.fetch_add(1, Ordering::Relaxed);
            shared.bytes.fetch_add(message.len(), Ordering::Relaxed);
        }
        Ok(())
    }

    async fn upgraded(&mut self, reader: &mut Reader) -> Result<(), String> {
        let end = loop {
            match self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(start) => break start + 4,
                None => self.more(reader).await?,
            }
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let is_agreed = head.starts_with(b"HTTP/1.1 101 ");
        is_agreed.then_some(()).ok_or_else(|| format!("refused: {}", head.escape_ascii()))
    }

    async fn frame(&mut self, reader: &mut Reader) -> Result<Frame, String> {
        loop {
            if let Some((frame, taken)) = Frame::decode(&self.unread) {
                self.unread.drain(..taken);
                return Ok(frame);
            }
            self.more(reader).await?;
        }
    }

    async fn more(&mut self, reader: &mut Reader) -> Result<(), String> {
        match tokio::time::timeout(PATIENCE, reader.read_buf(&mut self.unread)).await {
            Ok(Ok(0)) => Err(format!("the connection ended before message {}", self.next)),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("cannot read: {error}")),
            Err(_) => Err(format!("waited in vain before message {}", self.next)),
        }
    }
}

async fn connect(door: &Door) -> std::io::Result<(Reader, Writer)> {
    let stream = TcpStream::connect(door.address).await?;
    stream.set_nodelay(true)?;
    let stream: Box<dyn Stream> = match &door.tls {
        Some(client) => {
            let (config, name) = client.parts();
            Box::new(TlsConnector::from(config).connect(name, stream).await?)
        }
        None => Box::new(stream),
    };
    Ok(tokio::io::split(stream))
}

async fn say(writer: &mut Writer, bytes: &[u8]) -> Result<(), String> {
    let said = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    match tokio::time::timeout(PATIENCE, said).await {
        Ok(said) => said.map_err(|error| format!("cannot send: {error}")),
        Err(_) => Err("nothing was taken for a long time".into()),
    }
}

/// Session and number, as they stand in a message.
fn name(message: &[u8]) -> String {
    format!("{:?}", message.get(..8).map(|head| head.escape_ascii().to_string()))
}

fn bounded(frame: &Frame) -> Frame {
    Frame { payload: frame.payload[..frame.payload.len().min(64)].to_vec(), ..frame.clone() }
}
