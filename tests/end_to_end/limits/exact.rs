//! As exact as the plan says, whatever clients do on however many workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{NOTICE, limited};
use crate::kit::{Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Variant, aloud, on_both_drivers, until};

on_both_drivers!(
    sixty_four_saturating_connections_have_what_the_plan_says_and_no_more,
    bytes_of_mixed_messages_are_counted_exactly,
    both_directions_add_up_and_fragments_count_once,
);

/// Connections that send as much as they can, and what comes out behind the gateway.
struct Storm {
    stop: Arc<AtomicBool>,
    arrived_bytes: Arc<AtomicU64>,
    arrived_frames: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
    begun: Instant,
}

impl Storm {
    /// So many connections on four threads, each sending what `next` says, again and again.
    fn begin(gateway: &Gateway, upstream: &RawUpstream, connections: usize, next: fn(usize) -> Vec<u8>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (arrived_bytes, arrived_frames) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let pairs: Vec<(Peer, Peer)> = (0..connections).map(|_| gateway.session("/chat", upstream)).collect();
        let (mut clients, mut backends): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let mut threads = Vec::new();
        let begun = Instant::now();
        for backend in backends.drain(..) {
            let (stop, bytes, frames) = (Arc::clone(&stop), Arc::clone(&arrived_bytes), Arc::clone(&arrived_frames));
            threads.push(thread::spawn(move || count(backend, &stop, &bytes, &frames)));
        }
        while !clients.is_empty() {
            let mut some = clients.split_off(clients.len().saturating_sub(connections.div_ceil(4)));
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    for client in &mut some {
                        let frame = client.dressed(&Frame::binary(next(round)));
                        client.try_send(&frame.encode());
                    }
                    thread::sleep(Duration::from_millis(2));
                }
            }));
        }
        Self { stop, arrived_bytes, arrived_frames, threads, begun }
    }

    /// After so much time: messages and bytes that came out, and how long it took them.
    fn after(self, time: Duration) -> (u64, u64, Duration) {
        thread::sleep(time.saturating_sub(self.begun.elapsed()));
        let seen = (self.arrived_frames.load(Ordering::Relaxed), self.arrived_bytes.load(Ordering::Relaxed));
        let took = self.begun.elapsed();
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a thread of the storm"));
        (seen.0, seen.1, took)
    }
}

/// Counts frames and payload bytes until it is over.
fn count(mut backend: Peer, stop: &AtomicBool, bytes: &AtomicU64, frames: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        while let Some(frame) = backend.frame_within(Duration::from_millis(50)) {
            frames.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(frame.payload.len() as u64, Ordering::Relaxed);
        }
    }
}

fn sixty_four_saturating_connections_have_what_the_plan_says_and_no_more(variant: Variant) {
    let upstream = RawUpstream::listen();
    let plan = "plans:\n  - { name: p, limits: [{ rate: 1000/s, burst: 500 }], on_limit: { action: drop } }\n";
    let setup = Setup::new(variant).workers(4).document(plan);
    let gateway = setup.api_to("chat", &upstream.url("/"), "plan: p").start();
    let storm = Storm::begin(&gateway, &upstream, 64, |_| b"x".to_vec());
    let (messages, _, took) = storm.after(Duration::from_secs(10));
    let most = 500.0 + 1000.0 * took.as_secs_f64();
    aloud(&format!("{messages} messages of at most {most:.0} in {took:.2?}"));
    assert!(messages as f64 <= most && messages as f64 >= most * 0.99, "{messages} of {most}");
}

fn bytes_of_mixed_messages_are_counted_exactly(variant: Variant) {
    let upstream = RawUpstream::listen();
    let limit = "{ count: bytes, rate: 1000000/s, burst: 200000 }";
    let plan = format!("plans:\n  - {{ name: p, limits: [{limit}], on_limit: {{ action: drop }} }}\n");
    let setup = Setup::new(variant).workers(4).document(&plan);
    let gateway = setup.api_to("chat", &upstream.url("/"), "plan: p").start();
    let storm = Storm::begin(&gateway, &upstream, 16, |round| vec![b'x'; [10, 700, 3000, 60, 1200][round % 5]]);
    let (_, bytes, took) = storm.after(Duration::from_secs(5));
    let most = 200_000.0 + 1_000_000.0 * took.as_secs_f64();
    aloud(&format!("{bytes} bytes of at most {most:.0} in {took:.2?}"));
    assert!(bytes as f64 <= most && bytes as f64 >= most * 0.99, "{bytes} of {most}");
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
