//! A backend that says back what it hears, good for thousands of connections, and counts.
//!
//! Frames are echoed as they arrive, in pieces where they are large, so that a message of any length takes no memory.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::frame::Opcode;
use super::peer::{Head, switching};
use super::tls;
use super::variant::{self, Variant};

/// What has happened so far.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    live: AtomicUsize,
    messages: AtomicUsize,
}

/// An echo server on a thread of its own; ends when it is dropped, and its connections with it.
#[derive(Debug)]
pub struct EchoBackend {
    address: SocketAddr,
    is_secure: bool,
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl EchoBackend {
    /// Starts on a free port of the loopback interface; over TLS where the story's variant wants it.
    pub fn start() -> Self {
        Self::start_on(variant::told())
    }

    /// The same on a variant that is named.
    pub fn start_on(variant: Variant) -> Self {
        let acceptor = variant.is_secure_out().then(|| TlsAcceptor::from(tls::service().config()));
        let is_secure = acceptor.is_some();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket need not block");
        let address = listener.local_addr().expect("an address");
        let counts = Arc::<Counts>::default();
        let (stop, stopped) = oneshot::channel();
        let serving = serve(listener, acceptor, counts.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! { () = serving => {}, _ = stopped => {} }
            });
        });
        Self { address, is_secure, counts, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As an endpoint of a configuration.
    pub fn url(&self, target: &str) -> String {
        format!("{}://{}{target}", if self.is_secure { "wss" } else { "ws" }, self.address)
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    pub fn live(&self) -> usize {
        self.counts.live.load(Ordering::Relaxed)
    }

    /// Messages that were echoed whole.
    pub fn messages(&self) -> usize {
        self.counts.messages.load(Ordering::Relaxed)
    }
}

impl Drop for EchoBackend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, acceptor: Option<TlsAcceptor>, counts: Arc<Counts>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let (counts, acceptor) = (counts.clone(), acceptor.clone());
        counts.connections.fetch_add(1, Ordering::Relaxed);
        counts.live.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let _ = socket.set_nodelay(true);
            let _ = match acceptor {
                Some(acceptor) => match acceptor.accept(socket).await {
                    Ok(stream) => converse(stream, &counts).await,
                    Err(error) => Err(error),
                },
                None => converse(socket, &counts).await,
            };
            counts.live.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, counts: &Counts) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    socket.write_all(switching(&Head { bytes: head }, "").as_bytes()).await?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let first = socket.read_u8().await?;
        let second = socket.read_u8().await?;
        let length = match second & 0x7f {
            126 => u64::from(socket.read_u16().await?),
            127 => socket.read_u64().await?,
            length => u64::from(length),
        };
        let mut key = [0; 4];
        socket.read_exact(&mut key).await?;
        let opcode = Opcode(first & 15);
        if opcode == Opcode::PONG {
            discard(&mut socket, length, &mut buffer).await?;
            continue;
        }
        let answer = if opcode == Opcode::PING { first & 0xf0 | Opcode::PONG.0 } else { first };
        echo(&mut socket, answer, length, key, &mut buffer).await?;
        if opcode == Opcode::CLOSE {
            return socket.shutdown().await;
        }
        if first & 0x80 != 0 && opcode.0 < 8 {
            counts.messages.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Says the frame back unmasked. Header and payload leave in one write where they fit the buffer.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    first: u8,
    length: u64,
    key: [u8; 4],
    buffer: &mut [u8],
) -> io::Result<()> {
    let mut at = 0;
    let mut header = vec![first];
    match length {
        0..=125 => header.push(length as u8),
        126..=0xffff => {
            header.push(126);
            header.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            header.push(127);
            header.extend_from_slice(&length.to_be_bytes());
        }
    }
    buffer[..header.len()].copy_from_slice(&header);
    at += header.len();
    let (mut left, mut phase) = (length, 0);
    loop {
        let end = buffer.len().min(at + usize::try_from(left).unwrap_or(usize::MAX / 2));
        let count = if left == 0 { 0 } else { socket.read(&mut buffer[at..end]).await? };
        if count == 0 && left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for byte in &mut buffer[at..at + count] {
            *byte ^= key[phase];
            phase = (phase + 1) % 4;
        }
        left -= count as u64;
        at += count;
        if left == 0 || at == buffer.len() {
            socket.write_all(&buffer[..at]).await?;
            at = 0;
        }
        if left == 0 {
            return Ok(());
        }
    }
}

async fn discard(socket: &mut (impl AsyncRead + Unpin), mut left: u64, buffer: &mut [u8]) -> io::Result<()> {
    while left > 0 {
        let end = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = socket.read(&mut buffer[..end]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= count as u64;
    }
    Ok(())
}
