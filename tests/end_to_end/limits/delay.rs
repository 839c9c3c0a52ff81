//! Messages that wait for room: at the pace of the plan, in their order, none lost, and nobody taken for dead or kept for
//! ever.

use std::thread;
use std::time::{Duration, Instant};

use super::limited;
use crate::kit::{Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Variant, aloud, on_every_variant, until};

on_every_variant!(
    what_waits_is_not_lost_and_nobody_is_taken_for_dead,
    what_an_endpoint_says_waits_too_and_a_close_waits_behind_it,
    sessions_that_share_a_small_bucket_have_all_of_it,
    who_waits_and_has_gone_is_not_kept,
);

fn what_waits_is_not_lost_and_nobody_is_taken_for_dead(variant: Variant) {
    let plan = "limits: [{ rate: 100/s, burst: 10 }], on_limit: { action: delay }";
    let pings = "session: { ping: { client: { interval: 150ms, timeout: 100ms }, upstream: { interval: 150ms, timeout: 100ms } } }";
    let (mut gateway, upstream) = limited(variant, plan, pings);
    let (client, mut backend) = gateway.session("/chat", &upstream);
    const MESSAGES: usize = 160;
    let begun = Instant::now();
    let mut writer = client.second_end();
    let sender = thread::spawn(move || {
        for at in 0..MESSAGES {
            writer.send_frame(&Frame::text(&format!("message {at}")));
        }
        writer
    });
    // The client answers no ping while its pongs stand behind what waits; the server answers its own.
    for at in 0..MESSAGES {
        let text = loop {
            let frame = backend.frame();
            if frame.opcode == Opcode::PING {
                let pong = backend.dressed(&Frame::pong(frame.payload));
                backend.send(&pong.encode());
            } else {
                break frame.payload;
            }
        };
        assert_eq!(text, format!("message {at}").as_bytes());
    }
    let took = begun.elapsed();
    let wanted = Duration::from_millis((MESSAGES as u64 - 10) * 10);
    assert!(took >= wanted && took < wanted * 2, "{MESSAGES} messages took {took:?}, and should have {wanted:?}");
    let mut writer = sender.join().expect("the client could write");
    writer.send_frame(&Frame::close(1000, "bye"));
    loop {
        let frame = backend.frame();
        if frame.opcode == Opcode::CLOSE {
            break;
        }
    }
    drop((client, writer));
    gateway.probe();
}

fn what_an_endpoint_says_waits_too_and_a_close_waits_behind_it(variant: Variant) {
    let plan = "limits: [{ rate: 100/s, burst: 10 }], direction: server, on_limit: { action: delay }";
    let (mut gateway, upstream) = limited(variant, plan, "");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    const MESSAGES: usize = 60;
    let begun = Instant::now();
    for at in 0..MESSAGES {
        backend.send_frame(&Frame::text(&format!("message {at}")));
    }
    backend.send_frame(&Frame::close(1000, "done"));
    // The other direction is not held up.
    client.send_frame(&Frame::text("at once"));
    backend.expect(Opcode::TEXT, b"at once");
    for at in 0..MESSAGES {
        client.expect(Opcode::TEXT, format!("message {at}").as_bytes());
    }
    assert!(begun.elapsed() >= Duration::from_millis((MESSAGES as u64 - 10) * 10), "{:?}", begun.elapsed());
    assert_eq!(client.expect_close(1000), "done");
    client.send_frame(&Frame::close(1000, "done"));
    assert_eq!(backend.expect_close(1000), "done");
    let labels = [("api", "chat"), ("level", "api"), ("outcome", "delay")];
    let waited = gateway.metric("framegate_throttled_messages_total", &labels);
    assert!((1.0..=50.0).contains(&waited), "each that waited counts once, however often it was looked at: {waited}");
    gateway.probe();
}

/// A bucket that holds 10 ms worth of messages: whoever looks late loses what did not fit. So the best of some rounds
/// counts: a machine that is busy with other tests looks late.
fn sessions_that_share_a_small_bucket_have_all_of_it(variant: Variant) {
    const SESSIONS: usize = 4;
    const MESSAGES: usize = 150;
    const ROUNDS: usize = 6;
    let upstream = RawUpstream::listen();
    let plan = "plans:\n  - { name: p, limits: [{ rate: 500/s, burst: 5 }], on_limit: { action: delay } }\n";
    let mut gateway = Setup::new(variant).document(plan).api_to("chat", &upstream.url("/"), "plan: p").start();
    let wanted = Duration::from_secs_f64((SESSIONS * MESSAGES - 5) as f64 / 500.0);
    let is_good = (0..ROUNDS).any(|_| {
        let pairs: Vec<(Peer, Peer)> = (0..SESSIONS).map(|_| gateway.session("/chat", &upstream)).collect();
        let begun = Instant::now();
        let parts: Vec<_> = pairs.into_iter().map(|pair| thread::spawn(move || play(pair, MESSAGES, begun))).collect();
        let took: Vec<Duration> = parts.into_iter().map(|part| part.join().expect("nothing is lost")).collect();
        let (first, last) = (took.iter().min().expect("some"), took.iter().max().expect("some"));
        aloud(&format!("{SESSIONS} times {MESSAGES} messages at 500/s took {last:.2?}, the first {first:.2?}"));
        assert!(*last >= wanted.mul_f64(0.95), "{last:?} instead of {wanted:?}");
        // They take turns, or the first would be done after a quarter of the time.
        *last <= wanted.mul_f64(1.15) && *first >= last.mul_f64(0.7)
    });
    assert!(is_good, "never near {wanted:?}");
    gateway.probe();
}

/// Says so many messages at once, and hears them on the other side. How long that took.
fn play((mut client, mut backend): (Peer, Peer), messages: usize, begun: Instant) -> Duration {
    let text = |at: usize| format!("message {at}");
    let said: Vec<u8> = (0..messages).flat_map(|at| client.dressed(&Frame::text(&text(at))).encode()).collect();
    client.send(&said);
    (0..messages).for_each(|at| backend.expect(Opcode::TEXT, text(at).as_bytes()));
    begun.elapsed()
}

fn who_waits_and_has_gone_is_not_kept(variant: Variant) {
    let session = "session: { close_timeout: 1s }";
    let (mut gateway, upstream) = limited(variant, "limits: [{ quota: 1/day }], on_limit: { action: delay }", session);
    let is_alone = |gateway: &Gateway| gateway.metric("framegate_sessions_active", &[("api", "chat")]) == 0.0;
    let gone: [fn(Peer); 2] = [|mut peer| peer.finish(), Peer::reset];
    for (round, go) in gone.into_iter().enumerate() {
        let (mut client, mut backend) = gateway.session("/chat", &upstream);
        client.send_frame(&Frame::text("a"));
        if round == 0 {
            backend.expect(Opcode::TEXT, b"a");
        }
        client.send_frame(&Frame::text("b"));
        backend.expect_silence(Duration::from_millis(1500));
        assert!(!is_alone(&gateway), "who is there may wait");
        // Its connection outlives the call where only its direction ends.
        let second = client.second_end();
        go(client);
        if round > 0 {
            drop(second);
        }
        until("it is given up", || is_alone(&gateway));
        assert_eq!(backend.expect_close(1011), "client connection lost");
    }
    until("nothing is kept", || gateway.metric("framegate_buffered_bytes", &[]) == 0.0);
    gateway.probe();
}
