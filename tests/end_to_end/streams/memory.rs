//! What streams cost the data plane while they pass: giants, readers that stop, and floods, each with its bound.

use std::time::{Duration, Instant};

use super::wire::{PIECE_BYTES, Wire, receive_some, send_some};
use crate::kit::frame::LengthForm;
use crate::kit::{
    DEADLINE, Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Variant, on_every_variant, on_single_legs, until,
};

on_every_variant![
    a_giant_in_one_frame_costs_no_memory,
    a_giant_in_fragments_costs_no_memory,
    readers_that_stop_cost_their_budget_and_disturb_nobody,
    a_flood_of_pings_that_are_answered_here_costs_no_memory,
    a_flood_of_pings_to_a_reader_that_stopped_costs_no_memory,
    a_flood_of_fragments_costs_no_memory,
    announced_lengths_cost_no_memory,
];

on_single_legs![
    a_giant_in_one_frame_costs_no_memory,
    readers_that_stop_cost_their_budget_and_disturb_nobody,
    a_flood_of_pings_that_are_answered_here_costs_no_memory,
    a_flood_of_fragments_costs_no_memory,
];

/// What a stream, or a flood, may cost beside what is held for a reader that stopped.
const GROWTH_MAX_BYTES: u64 = 4 << 20;
/// Payload of a giant, and of one that is enciphered and deciphered twice on its way.
const GIANT_BYTES: u64 = 1 << 30;
const SECURE_GIANT_BYTES: u64 = 1 << 27;
const NO_CEILINGS: &str = "limits: { max_frame: 0, max_message: 0, control_frames_per_second: 0 }";

/// Watches the data plane's memory against what it was at first.
struct Watch<'a> {
    gateway: &'a Gateway,
    before_bytes: u64,
    growth_max_bytes: u64,
}

impl<'a> Watch<'a> {
    fn new(gateway: &'a Gateway, growth_max_bytes: u64) -> Self {
        Self { gateway, before_bytes: gateway.rss_bytes(), growth_max_bytes }
    }

    #[track_caller]
    fn look(&self) -> u64 {
        let growth = self.gateway.rss_bytes().saturating_sub(self.before_bytes);
        let max = self.growth_max_bytes;
        assert!(growth <= max, "{growth} bytes more than the {} before; {max} are allowed", self.before_bytes);
        growth
    }
}

// --- Giants ---

fn a_giant_in_one_frame_costs_no_memory(variant: Variant) {
    giants(variant, Wire::one_frame);
}

fn a_giant_in_fragments_costs_no_memory(variant: Variant) {
    giants(variant, Wire::fragments);
}

/// A giant from the client, then one from the upstream.
fn giants(variant: Variant, make: fn(bool, u64) -> Wire) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("giant", &upstream.url("/"), NO_CEILINGS).start();
    gateway.probe();
    let (mut client, mut backend) = gateway.session("/giant", &upstream);
    let bytes = if variant.is_secure() { SECURE_GIANT_BYTES } else { GIANT_BYTES };
    stream(&gateway, &client, &backend, &make(true, bytes));
    stream(&gateway, &backend, &client, &make(false, bytes));
    // The session is as good as before.
    client.send_frame(&Frame::text("still here"));
    backend.expect(Opcode::TEXT, b"still here");
    backend.send_frame(&Frame::text("so am I"));
    client.expect(Opcode::TEXT, b"so am I");
    gateway.probe();
}

fn stream(gateway: &Gateway, from: &Peer, to: &Peer, wire: &Wire) {
    let watch = Watch::new(gateway, GROWTH_MAX_BYTES);
    to.socket().set_read_timeout(Some(DEADLINE)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sent = 0;
            while sent < wire.bytes() {
                let count = send_some(from, wire, sent, wire.bytes());
                assert_ne!(count, 0, "nothing more is taken after {sent} bytes");
                sent += count as u64;
            }
        });
        let mut room = vec![0; PIECE_BYTES];
        let (mut received, mut looks) = (0, 0);
        while received < wire.bytes() {
            let count = receive_some(to, wire, received, &mut room);
            assert_ne!(count, 0, "nothing more comes after {received} bytes");
            received += count as u64;
            if received >> 24 > looks {
                looks = received >> 24;
                watch.look();
            }
        }
    });
}

// --- Readers that stop ---

/// One direction of a session: a sender and a receiver of one stream.
struct Flow<'a> {
    from: &'a Peer,
    to: &'a Peer,
    wire: Wire,
    sent: u64,
    received: u64,
}

fn readers_that_stop_cost_their_budget_and_disturb_nobody(variant: Variant) {
    const SESSIONS: usize = 20;
    const SEND_BUDGET_BYTES: u64 = 256 << 10;
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("slow", &upstream.url("/"), NO_CEILINGS).start();
    gateway.probe();
    let (mut client, mut backend) = gateway.session("/slow", &upstream);
    let peers: Vec<_> = (0..SESSIONS).map(|_| gateway.session("/slow", &upstream)).collect();
    for peer in peers.iter().flat_map(|(client, backend)| [client, backend]) {
        peer.socket().set_nonblocking(true).unwrap();
        peer.socket().set_send_buffer_size(64 << 10).unwrap();
        peer.socket().set_recv_buffer_size(64 << 10).unwrap();
    }
    let directions = peers.iter().flat_map(|(client, backend)| [(client, backend, true), (backend, client, false)]);
    let mut flows: Vec<_> = directions
        .enumerate()
        .map(|(seed, (from, to, masked))| Flow {
            from,
            to,
            wire: Wire::frames(masked, seed as u64),
            sent: 0,
            received: 0,
        })
        .collect();

    let watch = Watch::new(&gateway, SESSIONS as u64 * 2 * SEND_BUDGET_BYTES + GROWTH_MAX_BYTES);
    send_until_all_are_stuck(&mut flows);
    let growth = watch.look();
    let held = gateway.metric("framegate_buffered_bytes", &[]);
    println!("{} flows are stuck: {growth} bytes more, {held} are held", flows.len());
    assert!(held > 0.0 && held <= (SESSIONS as u64 * 2 * SEND_BUDGET_BYTES) as f64, "{held} bytes are held");

    // Whoever reads is served as ever.
    let start = Instant::now();
    for round in 0..200 {
        client.send_frame(&Frame::text(&format!("there {round}")));
        backend.expect(Opcode::TEXT, format!("there {round}").as_bytes());
        backend.send_frame(&Frame::text(&format!("back {round}")));
        client.expect(Opcode::TEXT, format!("back {round}").as_bytes());
    }
    assert!(start.elapsed() < Duration::from_secs(2), "200 round trips took {:?}", start.elapsed());
    watch.look();

    finish(&mut flows, &watch);
    until("nothing is held", || gateway.metric("framegate_buffered_bytes", &[]) == 0.0);
    gateway.probe();
}

/// Sends on every flow until none has moved for a while.
fn send_until_all_are_stuck(flows: &mut [Flow<'_>]) {
    const PATIENCE: Duration = Duration::from_millis(300);
    let start = Instant::now();
    let mut moved = start;
    while moved.elapsed() < PATIENCE {
        for flow in &mut *flows {
            let count = send_some(flow.from, &flow.wire, flow.sent, flow.wire.bytes());
            if count > 0 {
                flow.sent += count as u64;
                moved = Instant::now();
            }
        }
        assert!(start.elapsed() < 2 * DEADLINE, "senders are not stopped");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The readers read again: each frame that was begun is sent to its end, and everything arrives as it was sent.
fn finish(flows: &mut [Flow<'_>], watch: &Watch<'_>) {
    let mut room = vec![0; PIECE_BYTES];
    let mut moved = Instant::now();
    loop {
        let mut left = 0;
        for flow in &mut *flows {
            let end = flow.wire.frame_end(flow.sent);
            let sent = if flow.sent < end { send_some(flow.from, &flow.wire, flow.sent, end) } else { 0 };
            let received = receive_some(flow.to, &flow.wire, flow.received, &mut room);
            flow.sent += sent as u64;
            flow.received += received as u64;
            left += end - flow.received;
            if sent + received > 0 {
                moved = Instant::now();
            }
        }
        if left == 0 {
            break;
        }
        assert!(moved.elapsed() < DEADLINE, "{left} bytes do not arrive");
    }
    watch.look();
}

// --- Floods ---

/// Sends a block over and over for as long as the gateway takes it, at most so many bytes; watches the memory.
fn flood(watch: &Watch<'_>, peer: &mut Peer, block: &[u8], bytes_max: usize) -> usize {
    let mut sent = 0;
    while sent < bytes_max {
        let taken = peer.send_until_stuck(block, Duration::from_millis(300));
        sent += taken;
        watch.look();
        if taken < block.len() {
            break;
        }
    }
    sent
}

fn pings(keyed: impl Fn(Frame, u8) -> Frame) -> Vec<u8> {
    (0..=255).flat_map(|number| keyed(Frame::ping(vec![number; 125]), number | 1).encode()).collect()
}

/// The pongs are read by nobody: only the newest is kept.
fn a_flood_of_pings_that_are_answered_here_costs_no_memory(variant: Variant) {
    let upstream = RawUpstream::listen();
    let members = format!("session: {{ peer_pings: answer }}, {NO_CEILINGS}");
    let mut gateway = Setup::new(variant).api_to("pings", &upstream.url("/"), &members).start();
    gateway.probe();
    let watch = Watch::new(&gateway, GROWTH_MAX_BYTES);
    let (mut client, mut backend) = gateway.session("/pings", &upstream);
    let from_client = pings(|frame, key| frame.masked([key, 1, 1, 1]));
    let from_upstream = pings(|frame, _| frame);
    println!("{} bytes of pings from the client", flood(&watch, &mut client, &from_client, 64 << 20));
    println!("{} bytes of pings from the upstream", flood(&watch, &mut backend, &from_upstream, 64 << 20));
    drop((client, backend));
    gateway.probe();
}

/// The pings are passed on, and back-pressure stops them like anything else.
fn a_flood_of_pings_to_a_reader_that_stopped_costs_no_memory(variant: Variant) {
    const BYTES_MAX: usize = 256 << 20;
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("pings", &upstream.url("/"), NO_CEILINGS).start();
    gateway.probe();
    let watch = Watch::new(&gateway, GROWTH_MAX_BYTES);
    let (mut client, mut backend) = gateway.session("/pings", &upstream);
    let from_client = pings(|frame, key| frame.masked([key, 1, 1, 1]));
    let from_upstream = pings(|frame, _| frame);
    assert!(flood(&watch, &mut client, &from_client, BYTES_MAX) < BYTES_MAX, "the client was not stopped");
    assert!(flood(&watch, &mut backend, &from_upstream, BYTES_MAX) < BYTES_MAX, "the upstream was not stopped");
    drop((client, backend));
    gateway.probe();
}

/// 131,072 fragments of one byte, of one message, in each direction.
fn a_flood_of_fragments_costs_no_memory(variant: Variant) {
    const FRAGMENTS: usize = 131_072;
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("fragments", &upstream.url("/"), "").start();
    gateway.probe();
    let watch = Watch::new(&gateway, GROWTH_MAX_BYTES);
    let (mut client, mut backend) = gateway.session("/fragments", &upstream);
    for masked in [true, false] {
        let dress = |frame: Frame, key| if masked { frame.masked([key, 2, 2, 2]) } else { frame };
        let mut bytes = dress(Frame::binary("").unfinished(), 99).encode();
        for index in 0..FRAGMENTS {
            bytes.extend(dress(Frame::continuation([index as u8]).unfinished(), (index % 97) as u8).encode());
        }
        bytes.extend(dress(Frame::continuation(""), 98).encode());
        let (from, to) = if masked { (&mut client, &mut backend) } else { (&mut backend, &mut client) };
        let heard_before = to.received().len();
        std::thread::scope(|scope| {
            scope.spawn(|| from.send(&bytes));
            while to.received().len() - heard_before < bytes.len() {
                assert!(to.hear());
                watch.look();
            }
        });
        assert!(to.take_unread() == bytes, "the fragments did not arrive as they were sent");
    }
    gateway.probe();
}

/// Headers that announce almost everything there can be, on many sessions, in both directions; one byte follows each.
fn announced_lengths_cost_no_memory(variant: Variant) {
    const SESSIONS: usize = 100;
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("announced", &upstream.url("/"), NO_CEILINGS).start();
    gateway.probe();
    let watch = Watch::new(&gateway, GROWTH_MAX_BYTES);
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let (mut client, mut backend) = gateway.session("/announced", &upstream);
        let frame = Frame::binary("x").length_form(LengthForm::Claimed(i64::MAX as u64));
        client.send_frame(&frame);
        backend.send_frame(&frame);
        sessions.push((client, backend));
    }
    for (client, backend) in &mut sessions {
        for (peer, length) in [(client, 10 + 1), (backend, 14 + 1)] {
            let mut heard = peer.take_unread();
            while heard.len() < length {
                assert!(peer.hear(), "the announcement ended the session");
                heard.extend(peer.take_unread());
            }
            assert_eq!(heard.len(), length);
        }
    }
    watch.look();
    drop(sessions);
    until("the sessions are gone", || gateway.metric("framegate_sessions_active", &[]) == 0.0);
    gateway.probe();
}
