//! How long does a session live, and what ends it? Slow handshakes, silence, age, dead peers, unfinished goodbyes.

use std::thread;
use std::time::{Duration, Instant};

use crate::kit::{
    EchoBackend, Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Upgrade, Variant, on_every_variant, on_single_legs,
    on_variants_in_clear, until,
};

on_every_variant!(
    a_request_that_comes_a_byte_at_a_time_has_one_deadline,
    a_session_without_data_is_idle,
    any_frame_keeps_a_session_awake_where_that_is_asked,
    a_lifetime_ends_a_busy_session_at_an_age_of_its_own,
    pings_of_the_gateway_are_answered_to_the_gateway,
    a_peer_that_answers_no_ping_is_dead,
    pings_of_the_peers_travel_or_are_answered_here,
    a_goodbye_without_an_answer_does_not_last,
    a_flood_of_control_frames_is_a_breach,
);

on_single_legs!(a_goodbye_without_an_answer_does_not_last, a_peer_that_answers_no_ping_is_dead);

// Its ends are Unix sockets, over which upstreams speak no TLS.
on_variants_in_clear!(a_leg_that_cannot_answer_is_not_judged);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A gateway with an API `chat` that leads to a scripted upstream.
fn chat(variant: Variant, members: &str) -> (Gateway, RawUpstream) {
    let upstream = RawUpstream::listen();
    (Setup::new(variant).api_to("chat", &upstream.url("/"), members).start(), upstream)
}

/// Code, side and reason of the closing line.
fn ending(gateway: &Gateway) -> (u64, String, String) {
    let line = gateway.logged("close", "chat");
    let word = |name: &str| line[name].as_str().expect("a word").to_owned();
    (line["code"].as_u64().expect("a code"), word("side"), word("reason"))
}

/// The first frame that is not a ping; pings are answered.
fn frame_behind_pings(peer: &mut Peer) -> Frame {
    loop {
        let frame = peer.frame();
        if frame.opcode != Opcode::PING {
            return frame;
        }
        // The other end may have gone, with something left to read.
        let pong = peer.dressed(&Frame::pong(frame.payload));
        peer.try_send(&pong.encode());
    }
}

fn a_request_that_comes_a_byte_at_a_time_has_one_deadline(variant: Variant) {
    let upstream = RawUpstream::listen();
    let setup = Setup::new(variant).listener("handshake_timeout: 500ms");
    let mut gateway = setup.api_to("chat", &upstream.url("/"), "").start();
    let mut slow = gateway.connect();
    let mut silent = gateway.connect();
    let start = Instant::now();
    for byte in Upgrade::to("/chat").with("X-Slow", &"x".repeat(200)).encode() {
        if start.elapsed() > ms(900) || !slow.try_send(&[byte]) {
            break;
        }
        thread::sleep(ms(20));
    }
    for client in [&mut slow, &mut silent] {
        assert_eq!(client.refused().status, 408);
    }
    until("both are written down", || gateway.log_lines().len() == 2);
    for line in gateway.log_lines() {
        assert_eq!(line["reason"], "handshake_timeout", "{line}");
        let handshake_ms = line["handshake_ms"].as_f64().expect("a number");
        assert!((499.0..1500.0).contains(&handshake_ms), "a byte moved the deadline: {line}");
    }
    assert_eq!(gateway.metric("framegate_refusals_total", &[("reason", "handshake_timeout")]), 2.0);
    drop((slow, silent));
    until("nothing is under way", || gateway.metric("framegate_handshakes_active", &[]) == 0.0);
    upstream.expect_no_connection(ms(1));
    gateway.probe();
}

fn a_session_without_data_is_idle(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "session: { idle_timeout: 700ms }");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let start = Instant::now();
    for _ in 0..5 {
        client.send_frame(&Frame::text("here I am"));
        backend.expect(Opcode::TEXT, b"here I am");
        thread::sleep(ms(100));
        backend.send_frame(&Frame::text("so am I"));
        client.expect(Opcode::TEXT, b"so am I");
        thread::sleep(ms(100));
    }
    let spoken = start.elapsed();
    // Data of either side counted, or it would be over by now; pings of either side do not.
    let mut heard = Vec::new();
    while heard.last() != Some(&Opcode::CLOSE) {
        client.send_frame(&Frame::ping("?"));
        heard.push(backend.frame().opcode);
        thread::sleep(ms(100));
    }
    assert!(heard.len() > 3 && heard[..heard.len() - 1].iter().all(|opcode| *opcode == Opcode::PING), "{heard:?}");
    assert_eq!(client.expect_close(1001), "idle");
    client.send_frame(&Frame::close(1001, ""));
    backend.send_frame(&Frame::close(1001, ""));
    client.expect_end();
    assert_eq!(ending(&gateway), (1001, "gateway".into(), "idle".into()));
    let duration_ms = gateway.logged("close", "chat")["duration_ms"].as_u64().expect("a number");
    assert!(duration_ms >= spoken.as_millis() as u64 + 500, "{duration_ms} ms, of which {spoken:?} with data");
    gateway.probe();
}

fn any_frame_keeps_a_session_awake_where_that_is_asked(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "session: { idle_timeout: 700ms, idle_by: frame }");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let start = Instant::now();
    while start.elapsed() < ms(1200) {
        client.send_frame(&Frame::ping("?"));
        backend.expect(Opcode::PING, b"?");
        thread::sleep(ms(100));
    }
    client.send_frame(&Frame::text("still here"));
    backend.expect(Opcode::TEXT, b"still here");
    assert_eq!(client.expect_close(1001), "idle");
    assert_eq!(backend.expect_close(1001), "idle");
    client.send_frame(&Frame::close(1001, ""));
    backend.send_frame(&Frame::close(1001, ""));
    client.expect_end();
    gateway.probe();
}

fn a_lifetime_ends_a_busy_session_at_an_age_of_its_own(variant: Variant) {
    const SESSIONS: usize = 12;
    let echo = EchoBackend::start();
    let session = "session: { lifetime: 900ms, lifetime_jitter_percent: 50 }";
    let mut gateway = Setup::new(variant).api_to("chat", &echo.url("/"), session).start();
    let busy = |mut client: Peer| {
        let start = Instant::now();
        loop {
            // It may cross the close frame.
            let hello = client.dressed(&Frame::text("busy")).encode();
            client.try_send(&hello);
            let frame = client.frame();
            if frame.opcode == Opcode::CLOSE {
                client.send_frame(&Frame::close(1001, ""));
                return (start.elapsed(), frame.close_code());
            }
            thread::sleep(ms(15));
        }
    };
    let ends: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let mut client = gateway.connect();
            client.upgrade("/chat");
            thread::spawn(move || busy(client))
        })
        .collect();
    let ends: Vec<_> = ends.into_iter().map(|end| end.join().expect("a busy client")).collect();
    assert!(ends.iter().all(|(_, why)| *why == Some((1001, "session lifetime reached".into()))), "{ends:?}");
    let (first, last) = (ends.iter().map(|end| end.0).min().unwrap(), ends.iter().map(|end| end.0).max().unwrap());
    assert!(last - first > ms(40) && last < ms(2400), "they began together and end between {first:?} and {last:?}");
    let closed = || gateway.log_lines().into_iter().filter(|line| line["event"] == "close").collect::<Vec<_>>();
    until("all are written down", || closed().len() == SESSIONS);
    for line in closed() {
        assert_eq!((&line["reason"], &line["side"]), (&"lifetime".into(), &"gateway".into()), "{line}");
        assert!(line["duration_ms"].as_u64().expect("a number") >= 450, "no more than half is jitter: {line}");
    }
    gateway.probe();
}

fn pings_of_the_gateway_are_answered_to_the_gateway(variant: Variant) {
    const ROUNDS: usize = 4;
    let pings = "{ interval: 80ms, timeout: 5s }";
    let (mut gateway, upstream) =
        chat(variant, &format!("session: {{ ping: {{ client: {pings}, upstream: {pings} }} }}"));
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    for peer in [&mut client, &mut backend] {
        for _ in 0..ROUNDS {
            let ping = peer.frame();
            assert_eq!((ping.opcode, ping.payload.len()), (Opcode::PING, 8), "{ping:?}");
            peer.send_frame(&Frame::pong(ping.payload));
        }
    }
    // Had a pong of one peer travelled to the other, it would be heard before these.
    client.send_frame(&Frame::pong("mine"));
    client.send_frame(&Frame::text("up"));
    backend.send_frame(&Frame::text("down"));
    for (peer, expected) in [(&mut backend, vec!["mine", "up"]), (&mut client, vec!["down"])] {
        for payload in expected {
            assert_eq!(frame_behind_pings(peer).payload, payload.as_bytes());
        }
    }
    let rounds = ROUNDS as f64;
    for direction in ["to_client", "to_upstream"] {
        let labels = [("api", "chat"), ("direction", direction)];
        assert!(gateway.metric("framegate_pings_sent_total", &labels) >= rounds, "{direction}");
        assert!(gateway.metric("framegate_ping_rtt_seconds_count", &labels) >= rounds, "{direction}");
    }
    gateway.probe();
}

fn a_peer_that_answers_no_ping_is_dead(variant: Variant) {
    for (leg, side) in [("client", "client"), ("upstream", "upstream")] {
        let off = if leg == "client" { "upstream: { interval: 0ms }" } else { "client: { interval: 0ms }" };
        let pings = format!("session: {{ ping: {{ {leg}: {{ interval: 100ms, timeout: 300ms }}, {off} }} }}");
        let (mut gateway, upstream) = chat(variant, &pings);
        let (client, backend) = gateway.session("/chat", &upstream);
        let (mut dead, mut other) = if leg == "client" { (client, backend) } else { (backend, client) };
        let service = if leg == "client" { "client" } else { "service" };
        assert_eq!(other.expect_close(1011), format!("{service} connection lost"));
        other.send_frame(&Frame::close(1011, ""));
        other.expect_end();
        let ping = dead.frame();
        assert_eq!((ping.opcode, ping.payload.len()), (Opcode::PING, 8), "{ping:?}");
        dead.expect_end();
        drop(other);
        assert_eq!(ending(&gateway), (1006, side.into(), "ping_timeout".into()));
        gateway.probe();
    }
}

/// Data flows one way until nothing more fits anywhere: its sender is not read, its reader does not read, and neither
/// can be asked whether it lives. Both are there when it flows again.
fn a_leg_that_cannot_answer_is_not_judged(variant: Variant) {
    let pings = "{ interval: 100ms, timeout: 1s }";
    let members = format!("session: {{ close_timeout: 10s, ping: {{ client: {pings}, upstream: {pings} }} }}");
    // Over Unix sockets, whose buffers do not grow with what flows.
    let setup = Setup::new(variant);
    let (door, service) = (setup.directory().join("door.sock"), setup.directory().join("service.sock"));
    let upstream = RawUpstream::listen_unix(service);
    let local = format!("name: local, bind: \"unix:{}\"", door.display());
    let mut gateway = setup.another_listener(&local).api_to("chat", &upstream.url("/"), &members).start();
    let session = || {
        let mut client = Peer::connect_unix(&door);
        client.send(&Upgrade::to("/chat").encode());
        let mut backend = upstream.accept();
        backend.agree();
        client.upgraded();
        (client, backend)
    };
    let ((client, backend), (other_client, other_backend)) = (session(), session());
    let flows = [(client, backend), (other_backend, other_client)].map(|(mut sender, reader)| {
        let kept = || gateway.metric("framegate_buffered_bytes", &[]);
        let (before, mut last, mut sent) = (kept(), 0.0, 0);
        let all = sender.dressed(&Frame::binary(payload())).encode().repeat(FLOW_MESSAGES);
        until("nothing more fits anywhere", || {
            let more = sender.send_until_stuck(&all[sent..], ms(100));
            sent += more;
            let (stuck, now) = (more == 0, kept());
            stuck && now > before && std::mem::replace(&mut last, now) == now
        });
        (sender, reader, all[sent..].to_vec())
    });
    // Longer than a living peer may take.
    thread::sleep(ms(1400));
    let flows = flows.map(|(sender, reader, rest)| {
        [thread::spawn(move || end_flow(sender, &rest)), thread::spawn(move || expect_flow(reader))]
    });
    flows.into_iter().flatten().for_each(|end| end.join().expect("one end of a flow"));
    gateway.probe();
}

const FLOW_MESSAGES: usize = 12;

fn payload() -> Vec<u8> {
    (0..1 << 17).map(|at: u32| (at % 251) as u8).collect()
}

fn end_flow(mut sender: Peer, rest: &[u8]) {
    sender.send(rest);
    sender.send_frame(&Frame::close(1000, "that was all"));
    let close = frame_behind_pings(&mut sender);
    assert_eq!(close.close_code(), Some((1000, "indeed".into())));
}

fn expect_flow(mut reader: Peer) {
    for at in 0..FLOW_MESSAGES {
        let frame = frame_behind_pings(&mut reader);
        assert!(frame.payload == payload(), "message {at} is not what was sent: {:?}", frame.opcode);
    }
    let close = frame_behind_pings(&mut reader);
    assert_eq!(close.close_code(), Some((1000, "that was all".into())));
    reader.send_frame(&Frame::close(1000, "indeed"));
}

fn pings_of_the_peers_travel_or_are_answered_here(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant)
        .api_to("forward", &upstream.url("/"), "session: { peer_pings: forward }")
        .api_to("answer", &upstream.url("/"), "session: { peer_pings: answer }")
        .start();
    let (mut client, mut backend) = gateway.session("/forward", &upstream);
    client.send_frame(&Frame::ping("there?"));
    backend.expect(Opcode::PING, b"there?");
    backend.send_frame(&Frame::pong("there?"));
    client.expect(Opcode::PONG, b"there?");
    backend.send_frame(&Frame::ping("and you?"));
    client.expect(Opcode::PING, b"and you?");
    client.send_frame(&Frame::pong("and you?"));
    backend.expect(Opcode::PONG, b"and you?");

    let (mut client, mut backend) = gateway.session("/answer", &upstream);
    for (from, to) in [(0, 1), (1, 0)] {
        let ends = [&mut client, &mut backend];
        ends[from].send_frame(&Frame::ping("there?"));
        ends[from].expect(Opcode::PONG, b"there?");
        // Nobody asked for this one.
        ends[from].send_frame(&Frame::pong("unasked"));
        ends[from].send_frame(&Frame::text("data"));
        // Neither of the two came here.
        ends[to].expect(Opcode::TEXT, b"data");
    }
    gateway.probe();
}

fn a_goodbye_without_an_answer_does_not_last(variant: Variant) {
    for leg in ["client", "upstream"] {
        let (mut gateway, upstream) = chat(variant, "session: { close_timeout: 300ms }");
        let (client, backend) = gateway.session("/chat", &upstream);
        let (mut polite, mut rude) = if leg == "client" { (client, backend) } else { (backend, client) };
        let start = Instant::now();
        polite.send_frame(&Frame::close(4001, "bye"));
        assert_eq!(rude.expect_close(4001), "bye");
        polite.expect_close(4001);
        assert!(start.elapsed() >= ms(290), "the answer was not waited for: {:?}", start.elapsed());
        polite.expect_end();
        rude.expect_end();
        assert!(start.elapsed() < ms(2500), "{:?}", start.elapsed());
        assert_eq!(ending(&gateway), (4001, leg.into(), "closed".into()));
        gateway.probe();
    }
    // The gateway's own goodbye, to two who do not answer.
    let (gateway, upstream) = chat(variant, "session: { close_timeout: 300ms, idle_timeout: 200ms }");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    for peer in [&mut client, &mut backend] {
        assert_eq!(peer.expect_close(1001), "idle");
        peer.expect_end();
    }
    assert_eq!(ending(&gateway), (1001, "gateway".into(), "idle".into()));
}

fn a_flood_of_control_frames_is_a_breach(variant: Variant) {
    for leg in ["client", "upstream"] {
        let (mut gateway, upstream) = chat(variant, "limits: { control_frames_per_second: 20 }");
        let (client, backend) = gateway.session("/chat", &upstream);
        let (mut flooder, mut other) = if leg == "client" { (client, backend) } else { (backend, client) };
        for _ in 0..100 {
            let ping = flooder.dressed(&Frame::ping("!")).encode();
            flooder.try_send(&ping);
        }
        assert_eq!(flooder.expect_close(1008), "too many control frames");
        let mut pings = 0;
        let close = loop {
            let frame = other.frame();
            if frame.opcode != Opcode::PING {
                break frame;
            }
            pings += 1;
        };
        // The flood may lie across the border of two seconds.
        assert!((20..=40).contains(&pings), "{pings} of 20 passed");
        assert_eq!(close.close_code().expect("a code").0, 1011);
        drop((flooder, other));
        assert_eq!(ending(&gateway), (1008, leg.into(), "control_flood".into()));
        gateway.probe();
    }
}
