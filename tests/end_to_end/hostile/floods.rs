//! Many small things, and peers that do not read: the budget of memory and descriptors, asserted.

use std::time::Duration;

use crate::kit::frame::LengthForm;
use crate::kit::peer::switching;
use crate::kit::{
    EchoBackend, Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Upgrade, Variant, on_every_variant, on_single_legs,
    until,
};

on_every_variant!(
    one_byte_fragments_stream_through,
    empty_fragments_stream_through,
    pings_whose_pongs_nobody_reads,
    pings_that_are_forwarded_to_a_peer_that_does_not_read,
    a_client_that_does_not_read,
    an_upstream_that_does_not_read,
    many_that_do_not_read_cost_their_budgets_at_most,
    compressed_sessions_keep_no_contexts,
    sessions_that_come_and_go_leave_nothing,
    handshakes_that_come_to_nothing_leave_nothing,
);

on_single_legs!(
    one_byte_fragments_stream_through,
    pings_whose_pongs_nobody_reads,
    a_client_that_does_not_read,
    an_upstream_that_does_not_read,
);

/// What any flood may cost.
const FLOOD_BYTES_MAX: u64 = 4 << 20;
/// What a peer that does not read may cost: its send budget.
const SEND_BUDGET: u64 = 256 << 10;

fn chat(variant: Variant, members: &str) -> (Gateway, RawUpstream) {
    let upstream = RawUpstream::listen();
    let gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), members).start();
    (gateway, upstream)
}

#[track_caller]
fn expect_growth_below(gateway: &Gateway, before: u64, max: u64) {
    let grown = gateway.rss_bytes().saturating_sub(before);
    assert!(grown < max, "memory grew by {grown} bytes, over {max}");
}

/// Streams a message of this many fragments of one payload, and checks that it arrives as it was sent.
fn stream_fragments(variant: Variant, payload: &'static [u8], count: usize) {
    let (mut gateway, upstream) = chat(variant, "");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let before = gateway.rss_bytes();
    let reader = std::thread::spawn(move || {
        let first = backend.frame();
        assert!(first.opcode == Opcode::BINARY && !first.fin);
        for _ in 1..count {
            let next = backend.frame();
            assert!(next.opcode == Opcode::CONTINUATION && !next.fin && next.payload == payload);
        }
        let last = backend.frame();
        assert!(last.opcode == Opcode::CONTINUATION && last.fin);
        backend
    });
    let mut batch = Vec::new();
    for index in 0..=count {
        let opcode = if index == 0 { Opcode::BINARY } else { Opcode::CONTINUATION };
        let frame = Frame { fin: index == count, ..Frame::new(opcode, payload) };
        let frame = client.dressed(&frame);
        batch.extend(frame.encode());
        if batch.len() > 8192 || index == count {
            client.send(&batch);
            batch.clear();
            expect_growth_below(&gateway, before, FLOOD_BYTES_MAX);
        }
    }
    let _backend = reader.join().expect("the fragments arrive");
    expect_growth_below(&gateway, before, FLOOD_BYTES_MAX);
    assert_eq!(gateway.metric("framegate_messages_total", &[("api", "chat"), ("direction", "to_upstream")]), 1.0);
    gateway.probe();
}

fn one_byte_fragments_stream_through(variant: Variant) {
    stream_fragments(variant, b"x", 131_000);
}

fn empty_fragments_stream_through(variant: Variant) {
    stream_fragments(variant, b"", 65_536);
}

/// Pings as fast as they are taken, by a peer that reads nothing; returns how many bytes were taken.
fn blast_pings(gateway: &Gateway, pinger: &mut Peer, before: u64) -> usize {
    let mut taken = 0;
    for _ in 0..400 {
        let pings: Vec<u8> = (0..500).flat_map(|_| pinger.dressed(&Frame::ping([b'p'; 125])).encode()).collect();
        let now = pinger.send_until_stuck(&pings, Duration::from_millis(100));
        taken += now;
        expect_growth_below(gateway, before, FLOOD_BYTES_MAX);
        if now < pings.len() {
            break;
        }
    }
    taken
}

fn pings_whose_pongs_nobody_reads(variant: Variant) {
    let rules = "limits: { control_frames_per_second: 0 }, session: { peer_pings: answer }";
    let (mut gateway, upstream) = chat(variant, rules);
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let before = gateway.rss_bytes();
    blast_pings(&gateway, &mut client, before);
    gateway.probe();
    blast_pings(&gateway, &mut backend, before);
    gateway.probe();
    // Nothing of it was forwarded.
    drop(client);
    let heard = backend.rest();
    assert!(Frame::decode(&heard).is_none_or(|(frame, _)| frame.opcode != Opcode::PING));
}

fn pings_that_are_forwarded_to_a_peer_that_does_not_read(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "limits: { control_frames_per_second: 0 }");
    let (mut client, _backend) = gateway.session("/chat", &upstream);
    let before = gateway.rss_bytes();
    blast_pings(&gateway, &mut client, before);
    gateway.probe();
}

/// Sends until nothing is taken any more; what was taken beyond the kernel's own buffers is at most the budget.
fn stall(gateway: &mut Gateway, sender: &mut Peer, before: u64) -> usize {
    let frame = sender.dressed(&Frame::binary(vec![b'x'; 16_000])).encode();
    let flood = frame.repeat(64 * 1024 * 1024 / frame.len());
    let taken = sender.send_until_stuck(&flood, Duration::from_millis(500));
    assert!(taken < flood.len(), "64 MiB were taken for a peer that does not read");
    // The worker's own buffers may have grown to their size for the first time.
    expect_growth_below(gateway, before, SEND_BUDGET + (1 << 20));
    gateway.probe();
    taken
}

fn a_client_that_does_not_read(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let before = gateway.rss_bytes();
    let taken = stall(&mut gateway, &mut backend, before);
    // The other direction is not held up by it.
    client.send_frame(&Frame::text("I hear nothing"));
    backend.expect(Opcode::TEXT, b"I hear nothing");
    // And what was taken comes, when it is read at last.
    let mut heard = 0;
    while heard + 16_004 <= taken {
        assert_eq!(client.frame().payload.len(), 16_000);
        heard += 16_004;
    }
}

fn an_upstream_that_does_not_read(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let before = gateway.rss_bytes();
    let taken = stall(&mut gateway, &mut client, before);
    backend.send_frame(&Frame::text("I hear nothing"));
    client.expect(Opcode::TEXT, b"I hear nothing");
    let mut heard = 0;
    while heard + 16_008 <= taken {
        assert_eq!(backend.frame().payload.len(), 16_000);
        heard += 16_008;
    }
}

fn many_that_do_not_read_cost_their_budgets_at_most(variant: Variant) {
    const STALLED: u64 = 8;
    let (mut gateway, upstream) = chat(variant, "");
    let mut sessions: Vec<_> = (0..STALLED).map(|_| gateway.session("/chat", &upstream)).collect();
    let before = gateway.rss_bytes();
    let frame = Frame::binary(vec![b'x'; 50_000]).encode();
    // More than every buffer of the kernel on the way (tcp_rmem and tcp_wmem allow 36 MiB on some machines).
    let flood = frame.repeat(64 * 1024 * 1024 / frame.len());
    for (client, backend) in &mut sessions {
        // The kernel's own buffers are not what is measured.
        client.socket().set_recv_buffer_size(64 * 1024).expect("a small buffer");
        backend.socket().set_send_buffer_size(64 * 1024).expect("a small buffer");
        let taken = backend.send_until_stuck(&flood, Duration::from_millis(100));
        assert!(taken < flood.len());
    }
    expect_growth_below(&gateway, before, STALLED * SEND_BUDGET + (1 << 20));
    gateway.probe();
    drop(sessions);
    until("the stalled sessions are gone", || gateway.metric("framegate_sessions_active", &[("api", "chat")]) == 0.0);
    assert_eq!(gateway.metric("framegate_buffered_bytes", &[]), 0.0);
}

fn compressed_sessions_keep_no_contexts(variant: Variant) {
    const SESSIONS: u64 = 200;
    let (mut gateway, upstream) = chat(variant, "");
    let before = gateway.rss_bytes();
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/chat").with("Sec-WebSocket-Extensions", "permessage-deflate").encode());
        let mut backend = upstream.accept();
        backend.agree_with("Sec-WebSocket-Extensions: permessage-deflate\r\n");
        client.upgraded();
        let message = Frame::text("compressed, perhaps").reserved(4);
        client.send_frame(&message);
        assert_eq!(backend.frame().reserved, 4);
        backend.send_frame(&message);
        assert_eq!(client.frame().reserved, 4);
        sessions.push((client, backend));
    }
    // A deflate context is 371 KB, an inflate context 46 KB: none of either.
    expect_growth_below(&gateway, before, SESSIONS * 8192 + (1 << 20));
    gateway.probe();
}

fn sessions_that_come_and_go_leave_nothing(variant: Variant) {
    let echo = EchoBackend::start();
    let mut gateway = Setup::new(variant).api_to("echo", &echo.url("/"), "").start();
    let churn = |gateway: &mut Gateway, count: usize| {
        for index in 0..count {
            let mut client = gateway.connect();
            client.upgrade("/echo");
            client.send_frame(&Frame::text("here and gone"));
            client.expect(Opcode::TEXT, b"here and gone");
            match index % 4 {
                0 => client.reset(),
                1 => client.send_frame(&Frame::close(1000, "")),
                2 => client.send_frame(&Frame::new(Opcode(5), "wrong")),
                _ => client.finish(),
            }
        }
        until("all sessions are over", || gateway.metric("framegate_sessions_active", &[("api", "echo")]) == 0.0);
    };
    churn(&mut gateway, 300);
    let (memory, descriptors) = (gateway.rss_bytes(), gateway.descriptors());
    churn(&mut gateway, 1000);
    expect_growth_below(&gateway, memory, 1 << 20);
    gateway.expect_descriptors_back_to(descriptors);
    until("the backend has been let go of", || echo.live() == 0);
    gateway.probe();
}

fn handshakes_that_come_to_nothing_leave_nothing(variant: Variant) {
    let upstream = RawUpstream::listen();
    let setup = Setup::new(variant).listener("handshake_timeout: 500ms").api_to("chat", &upstream.url("/"), "");
    let mut gateway = setup.start();
    let attempts = |gateway: &mut Gateway, count: usize| {
        let mut crowd = Vec::new();
        for index in 0..count {
            let mut client = gateway.connect();
            let head = Upgrade::to("/chat").encode();
            match index % 5 {
                0 => client.send(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
                1 => client.send(&head[..30]),
                2 => {
                    client.send(&head);
                    upstream.accept().reset();
                }
                3 => {
                    client.send(&head);
                    let mut backend = upstream.accept();
                    let request = backend.head();
                    client.reset();
                    backend.try_send(switching(&request, "").as_bytes());
                    continue;
                }
                _ => client.send_frame(&Frame::text("").length_form(LengthForm::Claimed(1 << 62))),
            }
            crowd.push(client);
        }
        crowd.iter_mut().for_each(|client| drop(client.rest()));
        until("no handshake is under way", || gateway.metric("framegate_handshakes_active", &[]) == 0.0);
    };
    attempts(&mut gateway, 300);
    let (mut memory, descriptors) = (gateway.rss_bytes(), gateway.descriptors());
    // Buffers are touched for the first time at some time, and the allocator keeps what a crowd needed for a while; what
    // attempts leave behind they leave every time.
    until("a round of attempts leaves nothing behind", || {
        attempts(&mut gateway, 300);
        let before = std::mem::replace(&mut memory, gateway.rss_bytes());
        memory < before + (1 << 18)
    });
    gateway.expect_descriptors_back_to(descriptors);
    gateway.probe();
}
