//! The engine on real sockets, with a ring so small that everything it can run out of does run out.
//!
//! What sessions make of the bytes is the session's tests' question; here it is whether the bytes arrive, whoever stalls.

mod line;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proto::control::message::Generation;
use proto::snapshot::{Api, Config, Listener, Size, Snapshot, Target};

use super::*;
use crate::balance::Places;
use crate::record::{Log, LogTarget, Record};
use crate::relay::session::Birth;
use crate::relay::{LiveSession, Session};
use crate::stream::Parts;
use crate::tables::Tables;
use crate::throttle::Guard;

const PATIENCE: Duration = Duration::from_secs(20);
const SOCKET_BYTES: usize = 128 * 1024;
/// Two pages for everybody, and room for four completions.
const TINY: Geometry = Geometry { submissions: 2, completions: 4, buffers: 2, buffer_bytes: 4096 };

struct Stage {
    engine: Engine,
    tables: Arc<Tables>,
    record: Record,
    places: Places,
    send_budget: u64,
}

/// A session's two far ends.
struct Ends {
    client: TcpStream,
    upstream: TcpStream,
}

impl Stage {
    fn with(source: impl FnOnce(Arc<ShardRecord>) -> Source, splice: bool) -> Self {
        let config = Config {
            version: 1,
            listeners: vec![Listener::new("public", "127.0.0.1:1".parse().unwrap())],
            apis: vec![Api::new("x", "", "/x", Target::Url("ws://127.0.0.1:2/".parse().unwrap()))],
            ..Config::default()
        };
        let generation = Generation { source: "test".into(), number: 1 };
        let tables = Arc::new(Tables::build(generation, &Snapshot::check(config).unwrap(), None).unwrap());
        let record = Record::new(1, 10);
        let engine = Engine::with_source(source(record.shard(0)), splice, Keys::from_system(), record.shard(0));
        Self { engine, tables, record, places: Places::new(1, usize::MAX), send_budget: 64 * 1024 }
    }

    fn uring(geometry: Geometry) -> Self {
        Self::with(|record| Source::Uring(Box::new(uring::Ring::new(geometry, true, record).unwrap())), true)
    }

    fn readiness() -> Self {
        Self::with(|_| Source::Readiness(readiness::Set::new().unwrap()), true)
    }

    fn begin(&mut self) -> Ends {
        self.begin_under(None)
    }

    fn begin_under(&mut self, guard: Option<Guard>) -> Ends {
        let (client, here) = pair();
        let (upstream, there) = pair();
        self.begin_guarded(here, there, guard);
        Ends { client, upstream }
    }

    fn begin_with(&mut self, client: OwnedFd, upstream: OwnedFd) {
        self.begin_guarded(client, upstream, None);
    }

    fn begin_guarded(&mut self, client: OwnedFd, upstream: OwnedFd, guard: Option<Guard>) {
        self.begin_parts([client, upstream].map(Parts::plain), guard, |_| {});
    }

    fn begin_parts(&mut self, parts: [Parts; 2], guard: Option<Guard>, change: impl FnOnce(&mut Session)) {
        let api = Arc::clone(self.tables.api("x", "").unwrap());
        let mut limits = (*api.limits).clone();
        limits.send_budget = Size::from_bytes(self.send_budget);
        limits.max_frame = Size::from_bytes(0);
        limits.max_message = Size::from_bytes(0);
        let birth = Birth { guard: guard.map(Box::new), ..Birth::new(Arc::new(limits), 1) };
        let resident = Resident {
            party: Box::default(),
            counters: self.record.shard(0).api("x", ""),
            endpoint: LiveSession::on(self.tables.endpoints().next().unwrap()),
            connection: self.places.take(0).unwrap(),
            record: None,
            log: Log::open(LogTarget::Off).unwrap().0,
            began_ms: 1,
            api,
        };
        let mut session = Session::new(birth);
        change(&mut session);
        let [client, upstream] = parts;
        self.engine.begin(Handover { session, client, upstream, resident }, 1);
    }

    /// Turns the engine until it is so.
    fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let woken = self.engine.descriptor().unwrap();
        while !done() {
            assert!(Instant::now() < deadline, "never: {what}");
            if !self.engine.turn(2) {
                let mut poll = libc::pollfd { fd: woken.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one valid pollfd.
                unsafe { libc::poll(&raw mut poll, 1, 1) };
            }
        }
    }

    fn sum(&self, name: &str) -> u64 {
        let totals = self.record.totals();
        match name {
            "starved" => totals.ring_starved,
            "overflown" => totals.ring_overflown,
            "spliced" => totals.spliced_bytes,
            _ => totals.buffered_bytes,
        }
    }
}

/// A far end, and the engine's end as a handshake leaves it.
fn pair() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // So small that a reader who stops is noticed soon; accepted sockets inherit it.
    socket2::SockRef::from(&listener).set_recv_buffer_size(SOCKET_BYTES).unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    socket2::SockRef::from(&far).set_recv_buffer_size(SOCKET_BYTES).unwrap();
    far.set_nonblocking(true).unwrap();
    far.set_nodelay(true).unwrap();
    let near = listener.accept().unwrap().0;
    socket2::SockRef::from(&near).set_send_buffer_size(SOCKET_BYTES).unwrap();
    near.set_nonblocking(true).unwrap();
    near.set_nodelay(true).unwrap();
    (far, near.into())
}

/// A masked binary frame; its payload as it stands on the wire.
fn frame(payload: &[u8]) -> Vec<u8> {
    static FRAMES: AtomicU32 = AtomicU32::new(1);
    // Never the same twice running, or the session would replace it.
    let key = FRAMES.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut bytes = vec![0x82];
    match payload.len() {
        0..=125 => bytes.push(0x80 | payload.len() as u8),
        126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((payload.len() as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(key);
    bytes.extend(payload);
    bytes
}

/// Sends what is left, as far as the socket takes it, and receives what is there.
fn exchange(from: &TcpStream, left: &mut &[u8], to: &TcpStream, got: &mut Vec<u8>) {
    if let Ok(sent) = (&*from).write(left) {
        *left = &left[sent..];
    }
    let mut room = [0; 65_536];
    while let Ok(count @ 1..) = (&*to).read(&mut room) {
        got.extend_from_slice(&room[..count]);
    }
}

#[test]
fn with_neither_buffers_nor_room_for_completions_every_byte_arrives() {
    let mut stage = Stage::uring(TINY);
    let sessions: Vec<Ends> = (0..64).map(|_| stage.begin()).collect();
    let sent: Vec<Vec<u8>> = (0..64_u8).map(|number| frame(&vec![number; 3000 + usize::from(number)])).collect();
    for (ends, sent) in sessions.iter().zip(&sent) {
        (&ends.client).write_all(sent).unwrap();
    }
    let mut got = vec![Vec::new(); 64];
    stage.until("all frames are there", || {
        for (ends, got) in sessions.iter().zip(&mut got) {
            exchange(&ends.client, &mut &[][..], &ends.upstream, got);
        }
        got.iter().zip(&sent).all(|(got, sent)| got.len() >= sent.len())
    });
    assert!(got == sent, "altered");
    assert!(stage.sum("starved") > 0, "the buffers never ran out: nothing was tried");
    assert!(stage.sum("overflown") > 0, "the completions never ran over: nothing was tried");
}

#[test]
fn readers_who_stop_pin_no_buffer() {
    let mut stage = Stage::uring(TINY);
    let stopped: Vec<Ends> = (0..8).map(|_| stage.begin()).collect();
    let flood = frame(&vec![7; 16 << 20]);
    let mut left: Vec<&[u8]> = vec![&flood; 8];
    // Until nothing moves any more: both kernels' buffers are full and the gateway has stopped reading.
    let mut quiet = 0;
    stage.until("the floods stand still", || {
        let before: usize = left.iter().map(|left| left.len()).sum();
        for (ends, left) in stopped.iter().zip(&mut left) {
            if let Ok(sent) = (&ends.client).write(left) {
                *left = &left[sent..];
            }
        }
        let after: usize = left.iter().map(|left| left.len()).sum();
        quiet = if after == before { quiet + 1 } else { 0 };
        quiet > 30
    });
    assert!(stage.sum("buffered") > 0, "nobody was slow: nothing was tried");
    assert!(stage.sum("buffered") <= 8 * stage.send_budget, "over the budget: {}", stage.sum("buffered"));
    let busy = stage.begin();
    for round in 0..200_u8 {
        let sent = frame(&[round; 1000]);
        let (mut left, mut got) = (&sent[..], Vec::new());
        stage.until("an echo beside stopped readers", || {
            exchange(&busy.client, &mut left, &busy.upstream, &mut got);
            got.len() >= sent.len()
        });
        assert_eq!(got, sent);
    }
}

#[test]
fn what_was_received_for_a_session_that_is_gone_reaches_nobody() {
    let mut stage = Stage::uring(TINY);
    for round in 0..50_u8 {
        let (client, here) = pair();
        let (_upstream, there) = pair();
        let descriptors = [here.as_raw_fd(), there.as_raw_fd()];
        // It waits in the socket when the ring is asked, so it is received at once, before anybody looks.
        (&client).write_all(&frame(&[0xdd; 500])).unwrap();
        stage.begin_with(here, there);
        stage.engine.drop_all(2);
        assert_eq!(stage.engine.sessions(), 0);
        let (client, here) = pair();
        let (upstream, there) = pair();
        let reused = [here.as_raw_fd(), there.as_raw_fd()];
        assert!(round > 0 || descriptors.iter().any(|fd| reused.contains(fd)), "no descriptor was reused");
        stage.begin_with(here, there);
        let sent = frame(&[round; 100]);
        let (mut left, mut got) = (&sent[..], Vec::new());
        stage.until("the new session's frame", || {
            exchange(&client, &mut left, &upstream, &mut got);
            got.len() >= sent.len()
        });
        assert_eq!(got, sent, "a dead session's bytes came to another");
        stage.engine.drop_all(2);
    }
}

#[test]
fn a_leg_that_is_given_up_lets_its_peer_go() {
    for mut stage in [Stage::uring(Geometry::WORKER), Stage::readiness()] {
        let ends = stage.begin();
        stage.until("both are asked", || true);
        stage.engine.turn(2);
        drop(ends.upstream);
        // The client hears of it, answers, and is let go: its connection ends although a receive was under way.
        let (mut got, mut over, mut answered) = (Vec::new(), false, false);
        stage.until("the client's end of stream", || {
            let mut room = [0; 256];
            match (&ends.client).read(&mut room) {
                Ok(0) => over = true,
                Ok(count) => got.extend_from_slice(&room[..count]),
                Err(_) => {}
            }
            if !got.is_empty() && !answered {
                answered = (&ends.client).write_all(&[0x88, 0x82, 1, 2, 3, 4, 3 ^ 1, 0xe8 ^ 2]).is_ok();
            }
            over
        });
        assert_eq!(got[0], 0x88, "a close frame");
    }
}

#[test]
fn nobody_waits_for_a_flood() {
    for mut stage in [Stage::uring(Geometry::WORKER), Stage::readiness()] {
        let (flooding, small) = (stage.begin(), stage.begin());
        let flood = frame(&vec![9; 8 << 20]);
        let mut left = &flood[..];
        // As much as the sockets hold, before anything is relayed.
        while let Ok(sent) = (&flooding.client).write(left) {
            left = &left[sent..];
        }
        (&small.client).write_all(&frame(b"?")).unwrap();
        let mut room = [0; 64];
        let turns = (1..=4).find(|_| {
            stage.engine.turn(2);
            matches!((&small.upstream).read(&mut room), Ok(1..))
        });
        assert!(turns.is_some(), "the flood had four turns to itself");
    }
}

#[test]
fn large_frames_go_by_pipe_and_keep_their_order_when_the_reader_is_slow() {
    for mut stage in [Stage::uring(Geometry::WORKER), Stage::readiness()] {
        let ends = stage.begin();
        let mut sent = Vec::new();
        for round in 0..6_u8 {
            let payload: Vec<u8> = (0..3_000_000_u32).map(|at| (at >> 3) as u8 ^ round).collect();
            sent.extend(frame(&payload));
            sent.extend(frame(&[round; 10]));
        }
        let (mut left, mut got) = (&sent[..], Vec::new());
        let mut rounds = 0_u32;
        stage.until("all of it", || {
            rounds += 1;
            if let Ok(count) = (&ends.client).write(left) {
                left = &left[count..];
            }
            let mut room = [0; 100_000];
            if rounds.is_multiple_of(3)
                && let Ok(count) = (&ends.upstream).read(&mut room)
            {
                got.extend_from_slice(&room[..count]);
            }
            got.len() >= sent.len()
        });
        assert!(got == sent, "altered");
        assert!(stage.sum("spliced") > 9_000_000, "little was spliced: {}", stage.sum("spliced"));
        assert_eq!(stage.sum("buffered"), 0);
    }
}

#[test]
fn what_was_asked_of_a_descriptor_is_never_asked_of_the_next_one_with_its_number() {
    let mut ring = uring::Ring::new(TINY, true, Record::new(1, 1).shard(0)).unwrap();
    let key = Key { index: 0, epoch: 0, leg: Leg::Client };
    for _ in 0..20 {
        let (_far, near) = pair();
        let number = near.as_raw_fd();
        let mut wire = Wire::new(near, None);
        ring.attend(key, &mut wire, false, 1000);
        ring.forget(key, &mut wire);
        // Between the two and the kernel's hearing of them somebody else opens sockets, this number perhaps among them.
        let others: Vec<(TcpStream, OwnedFd)> = (0..8).map(|_| pair()).collect();
        assert!(others.iter().all(|(far, near)| far.as_raw_fd() != number && near.as_raw_fd() != number));
        others.iter().for_each(|(far, _)| (&*far).write_all(b"for somebody else").unwrap());
        ring.submit();
        ring.collect(&mut Vec::new());
        for (_, near) in others {
            let mut room = [0; 64];
            assert_eq!(socket::receive(near.as_raw_fd(), &mut room).unwrap(), 17, "its bytes were taken");
        }
    }
}

#[test]
fn urgent_data_inside_a_large_frame_stops_nobody() {
    for mut stage in [Stage::uring(Geometry::WORKER), Stage::readiness()] {
        let ends = stage.begin();
        let large = frame(&vec![5; 600_000]);
        let (first, rest) = large.split_at(300_000);
        let (mut left, mut got) = (first, Vec::new());
        stage.until("the first half", || {
            exchange(&ends.client, &mut left, &ends.upstream, &mut got);
            got.len() >= first.len()
        });
        // SAFETY: one byte is read from a static.
        let sent = unsafe { libc::send(ends.client.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(sent, 1);
        let mut left = rest;
        stage.until("the rest", || {
            exchange(&ends.client, &mut left, &ends.upstream, &mut got);
            got.len() >= large.len()
        });
        assert!(got == large, "altered");
        let calls = (0..50).filter(|_| stage.engine.turn(2)).count();
        assert!(calls < 5, "it goes on turning");
    }
}

#[test]
fn who_is_to_end_when_it_begins_says_nothing_more() {
    for mut stage in [Stage::uring(TINY), Stage::readiness()] {
        let (client, here) = pair();
        let (upstream, there) = pair();
        let early = [frame(b"said before"), frame(b"and this")].concat();
        let parts = [Parts::plain(here).behind(early), Parts::plain(there)];
        stage.begin_parts(parts, None, |session| session.end_at(1, Cause::Denied, CloseCode::POLICY));
        let mut got = [Vec::new(), Vec::new()];
        stage.until("both are told", || {
            exchange(&client, &mut &[][..], &client, &mut got[0]);
            exchange(&upstream, &mut &[][..], &upstream, &mut got[1]);
            got.iter().all(|got| !got.is_empty())
        });
        assert_eq!(got[0], b"\x88\x08\x03\xf0denied");
        assert_eq!((got[1][..2].to_vec(), got[1].len()), (b"\x88\x88".to_vec(), 14), "{:?}", got[1]);
    }
}
