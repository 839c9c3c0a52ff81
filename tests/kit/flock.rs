//! Many silent sessions on one thread: each is opened, says nothing, and tells when and how it was ended.
//!
//! In clear only. When a session ends is read off the wall clock, because credentials end by it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, oneshot};

use super::frame::{Frame, Opcode};
use super::peer::Upgrade;
use super::wait::until;

/// How many sessions are opened at a time.
const OPENING_MAX: usize = 32;

/// Where sessions are opened.
#[derive(Debug, Clone)]
pub enum At {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl From<SocketAddr> for At {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// How a session was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Since 1970.
    pub at: Duration,
    /// Code and reason of the close frame; none: the connection ended without one.
    pub close: Option<(u16, String)>,
}

impl Ended {
    /// How long after a second of the wall clock; negative: before it.
    pub fn after_s(&self, second: u64) -> f64 {
        self.at.as_secs_f64() - second as f64
    }

    /// The code, or 1006.
    pub fn code(&self) -> u16 {
        self.close.as_ref().map_or(1006, |(code, _)| *code)
    }
}

#[derive(Debug, Clone)]
enum State {
    Opening,
    Open,
    Refused(String),
    Ended(Ended),
}

/// The sessions, in the order of their requests. They end with their value.
#[derive(Debug)]
pub struct Flock {
    states: Arc<Mutex<Vec<State>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Flock {
    /// Opens a session for each request, and waits until all are open.
    #[track_caller]
    pub fn open(at: impl Into<At>, requests: &[Upgrade]) -> Self {
        let door = at.into();
        let states = Arc::new(Mutex::new(vec![State::Opening; requests.len()]));
        let requests: Vec<_> = requests.iter().map(Upgrade::encode).collect();
        let (stop, stopped) = oneshot::channel();
        let told = states.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async {
                let places = Arc::new(Semaphore::new(OPENING_MAX));
                for (at, request) in requests.into_iter().enumerate() {
                    tokio::task::spawn_local(live(door.clone(), request, places.clone(), told.clone(), at));
                }
                let _ = stopped.await;
            });
        });
        let flock = Self { states, stop: Some(stop), thread: Some(thread) };
        until("every session of the flock is open", || {
            let states = flock.states.lock().expect("nobody panics with the states");
            for (at, state) in states.iter().enumerate() {
                assert!(!matches!(state, State::Refused(_)), "session {at}: {state:?}");
            }
            states.iter().all(|state| !matches!(state, State::Opening))
        });
        flock
    }

    /// How each ended, if it has.
    pub fn ended(&self) -> Vec<Option<Ended>> {
        let states = self.states.lock().expect("nobody panics with the states");
        let ended = |state: &State| match state {
            State::Ended(ended) => Some(ended.clone()),
            _ => None,
        };
        states.iter().map(ended).collect()
    }

    /// Waits until so many have ended.
    #[track_caller]
    pub fn expect_ended(&self, count: usize) {
        until(&format!("{count} sessions have ended"), || self.ended().iter().flatten().count() >= count);
    }
}

impl Drop for Flock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn live(door: At, request: Vec<u8>, places: Arc<Semaphore>, states: Arc<Mutex<Vec<State>>>, at: usize) {
    let tell = |state| states.lock().expect("nobody panics with the states")[at] = state;
    let opened = {
        let _place = places.acquire().await;
        open(&door, &request).await
    };
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(why) => return tell(State::Refused(why)),
    };
    tell(State::Open);
    let (mut bytes, mut room) = (Vec::new(), [0; 256]);
    let close = loop {
        match stream.read(&mut room).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&room[..count]),
            _ => break None,
        }
        if let Some((frame, _)) = Frame::decode(&bytes) {
            assert_eq!(frame.opcode, Opcode::CLOSE, "a silent session heard {frame:?}");
            break frame.close_code();
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    tell(State::Ended(Ended { at: now, close: close.clone() }));
    if let Some((code, _)) = close {
        let _ = stream.write_all(&Frame::close(code, "").masked([1, 2, 3, 4]).encode()).await;
    }
}

async fn open(door: &At, request: &[u8]) -> Result<Box<dyn Stream>, String> {
    let mut stream: Box<dyn Stream> = match door {
        At::Tcp(address) => Box::new(TcpStream::connect(address).await.map_err(|error| error.to_string())?),
        At::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(|error| error.to_string())?),
    };
    stream.write_all(request).await.map_err(|error| error.to_string())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await.map_err(|error| error.to_string())?;
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.starts_with("HTTP/1.1 101 ") { Ok(stream) } else { Err(head) }
}
