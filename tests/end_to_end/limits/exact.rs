//! As exact as the plan says, whatever clients do on however many workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{NOTICE, limited};
use crate::kit::{Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Variant, aloud, on_both_drivers, until};

on_both_drivers!(
    sixty_four_saturating_connections_have_what_the_plan_says_and_no_more,
    what_a_message_owes_is_paid_before_the_next_one_passes,
    both_directions_add_up_and_fragments_count_once,
);

/// Connections of each storm, and the workers that they must all be spread over.
const CONNECTIONS: usize = 64;
const WORKERS: usize = 4;

/// Connections that send as much as they can, and what comes out behind the gateway.
pub(super) struct Storm {
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
    threads: Vec<thread::JoinHandle<()>>,
    begun: Instant,
}

/// What has come out so far.
#[derive(Default)]
struct Seen {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Storm {
    /// So many connections to an API on two threads, each sending what `next` says, again and again.
    pub(super) fn begin(
        gateway: &Gateway,
        upstream: &RawUpstream,
        target: &str,
        connections: usize,
        next: fn(usize) -> Vec<Frame>,
    ) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Seen>::default());
        let pairs: Vec<(Peer, Peer)> = (0..connections).map(|_| gateway.session(target, upstream)).collect();
        let (mut clients, backends): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let mut threads = Vec::new();
        let begun = Instant::now();
        for backend in backends {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            threads.push(thread::spawn(move || seen.count(backend, &stop)));
        }
        while !clients.is_empty() {
            let mut some = clients.split_off(clients.len().saturating_sub(connections.div_ceil(2)));
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                for round in 0.. {
                    for client in &mut some {
                        let said: Vec<u8> = next(round).iter().flat_map(|one| client.dressed(one).encode()).collect();
                        client.try_send(&said);
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    thread::sleep(Duration::from_millis(4));
                }
            }));
        }
        Self { stop, seen, threads, begun }
    }

    /// For how long it has been going on.
    pub(super) fn lasts(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Messages and bytes that have come out, and how long that took them.
    pub(super) fn so_far(&self) -> (u64, u64, Duration) {
        let seen = (self.seen.messages.load(Ordering::Relaxed), self.seen.bytes.load(Ordering::Relaxed));
        (seen.0, seen.1, self.lasts())
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.drain(..).map(thread::JoinHandle::join);
        assert!(ended.filter(Result::is_err).count() == 0 || thread::panicking(), "a thread of the storm has panicked");
    }
}

impl Seen {
    /// Counts messages at their end, and payload bytes, until it is over.
    fn count(&self, mut backend: Peer, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            while let Some(frame) = backend.frame_within(Duration::from_millis(50)) {
                self.messages.fetch_add(u64::from(frame.fin), Ordering::Relaxed);
                self.bytes.fetch_add(frame.payload.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

/// Every worker has more sessions than before the storm: what is exact is exact across them. Says how many.
#[track_caller]
pub(super) fn expect_sessions_on_every_worker<const WORKERS: usize>(
    gateway: &Gateway,
    before: [f64; WORKERS],
) -> [f64; WORKERS] {
    let sessions = |worker: usize| gateway.metric("framegate_worker_sessions", &[("worker", &worker.to_string())]);
    until("every worker has sessions", || (0..WORKERS).all(|worker| sessions(worker) >= before[worker] + 1.0));
    let now = std::array::from_fn(sessions);
    aloud(&format!("sessions of the workers: {now:?}"));
    now
}

/// What a message of the bytes' storm says after its first frame.
const REST_BYTES: usize = 90;

/// Whole messages of mixed sizes, and now and then one in three fragments.
fn mixed(round: usize) -> Vec<Frame> {
    let piece = |fin, opcode, bytes: usize| Frame { fin, ..Frame::new(opcode, vec![b'x'; bytes]) };
    match [10, 700, 3000, 60, 1200, 0][round % 6] {
        0 => vec![
            piece(false, Opcode::BINARY, 400),
            piece(false, Opcode::CONTINUATION, REST_BYTES / 2),
            piece(true, Opcode::CONTINUATION, REST_BYTES / 2),
        ],
        bytes => vec![Frame::binary(vec![b'x'; bytes])],
    }
}

/// Messages on one API and bytes on another, at the same time: each its own plan.
fn sixty_four_saturating_connections_have_what_the_plan_says_and_no_more(variant: Variant) {
    let upstream = RawUpstream::listen();
    let plans = "plans:\n\
                 \x20 - { name: messages, limits: [{ rate: 1000/s, burst: 500 }], on_limit: { action: drop } }\n\
                 \x20 - { name: bytes, limits: [{ count: bytes, rate: 1000000/s, burst: 200000 }], on_limit: { action: drop } }\n";
    let setup = Setup::new(variant).workers(WORKERS).document(plans);
    let setup = setup.api_to("messages", &upstream.url("/"), "plan: messages");
    let gateway = setup.api_to("bytes", &upstream.url("/"), "plan: bytes").start();
    let of_messages = Storm::begin(&gateway, &upstream, "/messages", CONNECTIONS, |_| vec![Frame::binary(*b"x")]);
    let before = expect_sessions_on_every_worker(&gateway, [0.0; WORKERS]);
    let of_bytes = Storm::begin(&gateway, &upstream, "/bytes", CONNECTIONS, mixed);
    expect_sessions_on_every_worker(&gateway, before);
    thread::sleep(Duration::from_secs(10));

    let (messages, _, took) = of_messages.so_far();
    let most = 500.0 + 1000.0 * took.as_secs_f64();
    aloud(&format!("{messages} messages of at most {most:.0} in {took:.2?}"));
    assert!(messages as f64 <= most && messages as f64 >= most * 0.99, "{messages} of {most}");

    let (_, bytes, took) = of_bytes.so_far();
    let most = 200_000.0 + 1_000_000.0 * took.as_secs_f64();
    // On each connection one message may have begun when there was room for its first frame only.
    let carried = (CONNECTIONS * REST_BYTES) as f64;
    aloud(&format!("{bytes} bytes of at most {most:.0} in {took:.2?}"));
    assert!(bytes as f64 <= most + carried && bytes as f64 >= most * 0.99, "{bytes} of {most}");
    assert_eq!(gateway.metric("framegate_sessions_active", &[]), 2.0 * CONNECTIONS as f64, "nobody was closed");
}

/// A thousand bytes a second, a thousand at once; one message of three thousand owes two seconds, on every session and in
/// both directions: one that trips half-way, and one whose only frame is larger than the bucket.
fn what_a_message_owes_is_paid_before_the_next_one_passes(variant: Variant) {
    let plan = "limits: [{ count: bytes, rate: 1000/s, burst: 1000 }], on_limit: { action: drop }";
    for frames in [&[500, 1500, 1000][..], &[3000]] {
        let (mut gateway, upstream) = limited(variant, plan, "");
        let (mut client, mut backend) = gateway.session("/chat", &upstream);
        let (mut other, mut its_backend) = gateway.session("/chat", &upstream);
        let begun = Instant::now();
        for (at, bytes) in frames.iter().enumerate() {
            let opcode = if at == 0 { Opcode::BINARY } else { Opcode::CONTINUATION };
            client.send_frame(&Frame { fin: at + 1 == frames.len(), ..Frame::new(opcode, vec![b'x'; *bytes]) });
        }
        assert_eq!(backend.message(), (Opcode::BINARY, vec![b'x'; 3000]), "what has begun is finished");
        // Whoever asks meanwhile is left out, at no cost.
        let first = |heard: &mut Peer| heard.hear_within(Duration::from_millis(1)).then(|| heard.frame().payload);
        let (paid, heard) = loop {
            assert!(begun.elapsed() < Duration::from_secs(6), "what is owed is paid at some time");
            client.send_frame(&Frame::text("c"));
            backend.send_frame(&Frame::text("b"));
            other.send_frame(&Frame::text("o"));
            its_backend.send_frame(&Frame::text("i"));
            let heard = [&mut backend, &mut client, &mut its_backend, &mut other].into_iter().find_map(first);
            if let Some(heard) = heard {
                break (begun.elapsed(), heard);
            }
            thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(heard.len(), 1);
        // Full at the beginning, and 2001 bytes missing for the next one.
        let owed = Duration::from_millis(2001);
        assert!(paid >= owed && paid < owed + Duration::from_secs(1), "{frames:?} are paid after {paid:?}");
        gateway.probe();
    }
}

fn both_directions_add_up_and_fragments_count_once(variant: Variant) {
    let (mut gateway, upstream) = limited(variant, "limits: [{ quota: 6/day }]", "");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let piece = |fin, opcode, text: &str| Frame { fin, ..Frame::new(opcode, text) };
    for _ in 0..3 {
        for frame in [
            piece(false, Opcode::TEXT, "a"),
            piece(false, Opcode::CONTINUATION, "b"),
            piece(true, Opcode::CONTINUATION, "c"),
        ] {
            client.send_frame(&frame);
        }
        assert_eq!(backend.message(), (Opcode::TEXT, b"abc".to_vec()));
        backend.send_frame(&Frame::binary(vec![0; 10]));
        client.expect(Opcode::BINARY, &[0; 10]);
    }
    client.send_frame(&Frame::text("the seventh"));
    client.expect(Opcode::TEXT, NOTICE.as_bytes());
    until("it is counted", || gateway.metric("framegate_throttled_messages_total", &[("api", "chat")]) == 1.0);
    gateway.probe();
}
