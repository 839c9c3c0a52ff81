//! Does everybody leave in good order: when the gateway stops, when an API goes away, when only its limits change?

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::kit::{
    EchoBackend, Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Upgrade, Variant, on_every_variant, on_single_legs,
    until,
};

on_every_variant!(
    sigterm_spreads_goodbyes_over_the_window,
    a_second_signal_ends_at_once,
    the_verb_drains_the_node_that_is_meant,
    a_shorter_window_overtakes_a_longer_one,
    an_api_that_goes_away_takes_its_own_sessions_along,
    new_limits_hold_from_the_next_message_on,
);

on_single_legs!(
    sigterm_spreads_goodbyes_over_the_window,
    a_second_signal_ends_at_once,
    an_api_that_goes_away_takes_its_own_sessions_along,
);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Talks until it is told to go, and answers that politely: when, with which code and reason.
fn talk_until_closed(mut client: Peer) -> thread::JoinHandle<(Instant, u16, String)> {
    thread::spawn(move || {
        let mut said = 0;
        loop {
            let word = format!("word {said}");
            let text = client.dressed(&Frame::text(&word)).encode();
            // It may cross the close frame.
            client.try_send(&text);
            let frame = client.frame();
            if frame.opcode == Opcode::CLOSE {
                let now = Instant::now();
                let (code, reason) = frame.close_code().expect("a code");
                client.send_frame(&Frame::close(code, ""));
                client.expect_end();
                return (now, code, reason);
            }
            assert_eq!(
                (frame.opcode, frame.payload),
                (Opcode::TEXT, word.into_bytes()),
                "nothing is lost on the way out"
            );
            said += 1;
            thread::sleep(ms(20));
        }
    })
}

fn is_refused(gateway: &Gateway) -> bool {
    TcpStream::connect(gateway.address()).is_err()
}

fn sigterm_spreads_goodbyes_over_the_window(variant: Variant) {
    const SESSIONS: usize = 16;
    let echo = EchoBackend::start();
    let setup = Setup::new(variant).workers(2).settings("drain_window: 1200ms");
    let mut gateway = setup.api_to("chat", &echo.url("/"), "").start();
    let talkers: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let mut client = gateway.connect();
            client.upgrade("/chat");
            talk_until_closed(client)
        })
        .collect();
    let mut late = gateway.connect();
    until("the latecomer is accepted", || {
        gateway.metric("framegate_connections_accepted_total", &[]) >= (SESSIONS + 1) as f64
    });
    assert_eq!(gateway.ask("/ready").expect("an answer").0, 200);
    let start = Instant::now();
    gateway.signal(libc::SIGTERM);
    until("it says that it drains", || gateway.ask("/ready") == Some((503, "draining\n".into())));
    assert_eq!(gateway.ask("/health").expect("an answer").0, 200, "a process that drains is healthy");
    assert_eq!(gateway.metric("framegate_draining", &[]), 1.0);
    until("new connections are refused", || is_refused(&gateway));
    // Who was in the door is told, and not reset.
    late.send(&Upgrade::to("/chat").encode());
    let refused = late.refused();
    assert_eq!((refused.status, refused.head.header("Retry-After")), (503, Some("5")), "{}", refused.body);
    let ends: Vec<_> = talkers.into_iter().map(|talker| talker.join().expect("a talker")).collect();
    assert!(ends.iter().all(|(_, code, reason)| (*code, reason.as_str()) == (1012, "service restart")), "{ends:?}");
    let times: Vec<_> = ends.iter().map(|(at, ..)| at.duration_since(start)).collect();
    let (first, last) = (times.iter().min().expect("some"), times.iter().max().expect("some"));
    assert!(*last - *first > ms(200) && *last < ms(3500), "goodbyes between {first:?} and {last:?}");
    assert_eq!(gateway.ended().code(), Some(0));
    let closed: Vec<_> = gateway.log_lines().into_iter().filter(|line| line["event"] == "close").collect();
    assert_eq!(closed.len(), SESSIONS, "every session is written down before the process ends");
    for line in closed {
        assert_eq!((&line["code"], &line["reason"]), (&1012.into(), &"drain".into()), "{line}");
        // An echo may come after the goodbye; nothing is an echo of nothing.
        assert!(line["messages_to_upstream"].as_u64() >= line["messages_to_client"].as_u64(), "{line}");
    }
}

fn a_second_signal_ends_at_once(variant: Variant) {
    let upstream = RawUpstream::listen();
    let setup = Setup::new(variant).settings("drain_window: 10m");
    let mut gateway = setup.api_to("chat", &upstream.url("/"), "").start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    gateway.signal(libc::SIGTERM);
    until("it drains", || gateway.ask("/ready").is_some_and(|(status, _)| status == 503));
    client.send_frame(&Frame::text("not yet"));
    backend.expect(Opcode::TEXT, b"not yet");
    let start = Instant::now();
    gateway.signal(libc::SIGINT);
    for peer in [&mut client, &mut backend] {
        assert_eq!(peer.expect_close(1012), "service restart");
        peer.expect_end();
    }
    assert_eq!(gateway.ended().code(), Some(0));
    assert!(start.elapsed() < ms(3000), "{:?}", start.elapsed());
    let line = gateway.logged("close", "chat");
    assert_eq!((&line["reason"], &line["side"]), (&"killed".into(), &"gateway".into()), "{line}");
}

fn the_verb_drains_the_node_that_is_meant(variant: Variant) {
    let upstream = RawUpstream::listen();
    let setup = Setup::new(variant).settings("drain_window: 10m");
    let mut gateway = setup.api_to("chat", &upstream.url("/"), "").start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let other = gateway.verb("drain", &["--node", "elsewhere"]);
    assert_eq!(other.code, 1, "{}{}", other.stdout, other.stderr);
    gateway.probe();
    let drain = gateway.verb("drain", &["--node", "test", "--window", "200ms"]);
    assert_eq!(drain.code, 0, "{}{}", drain.stdout, drain.stderr);
    assert!(drain.stdout.contains("draining"), "{}", drain.stdout);
    for peer in [&mut client, &mut backend] {
        assert_eq!(peer.expect_close(1012), "service restart");
        peer.send_frame(&Frame::close(1012, ""));
    }
    client.expect_end();
    assert_eq!(gateway.ended().code(), Some(0), "{}", gateway.log_tail());
}

/// An operator drains at leisure; then the service manager wants to stop the process.
fn a_shorter_window_overtakes_a_longer_one(variant: Variant) {
    let upstream = RawUpstream::listen();
    let setup = Setup::new(variant).settings("drain_window: 100ms");
    let mut gateway = setup.api_to("chat", &upstream.url("/"), "").start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    assert_eq!(gateway.verb("drain", &["--window", "1h"]).code, 0);
    until("it drains", || gateway.ask("/ready").is_some_and(|(status, _)| status == 503));
    client.send_frame(&Frame::text("an hour left"));
    backend.expect(Opcode::TEXT, b"an hour left");
    gateway.signal(libc::SIGTERM);
    for peer in [&mut client, &mut backend] {
        assert_eq!(peer.expect_close(1012), "service restart");
        peer.send_frame(&Frame::close(1012, ""));
    }
    drop((client, backend));
    assert_eq!(gateway.ended().code(), Some(0));
    assert_eq!(gateway.logged("close", "chat")["reason"], "drain");
}

/// The configuration without the lines that hold this word.
fn without(yaml: &str, word: &str) -> String {
    yaml.lines().filter(|line| !line.contains(word)).map(|line| format!("{line}\n")).collect()
}

fn an_api_that_goes_away_takes_its_own_sessions_along(variant: Variant) {
    let upstream = RawUpstream::listen();
    let version = |version: &str| format!("version: {version}");
    let mut gateway = Setup::new(variant)
        .settings("drain_window: 300ms")
        .api_to("removed", &upstream.url("/"), "")
        .api_to("disabled", &upstream.url("/"), "enabled: true")
        .api_to("versioned", &upstream.url("/"), &version("v1"))
        .api_to("versioned", &upstream.url("/"), &version("v2"))
        .api_to("kept", &upstream.url("/"), "")
        .start();
    let going = ["/removed", "/disabled", "/versioned/v1"].map(|target| gateway.session(target, &upstream));
    let mut staying = ["/versioned/v2", "/kept"].map(|target| gateway.session(target, &upstream));
    let yaml = without(&without(&gateway.setup().yaml(), "name: removed"), "version: v1");
    let applied = gateway.apply(&yaml.replace("enabled: true", "enabled: false"));
    assert_eq!(applied.code, 0, "{}{}", applied.stdout, applied.stderr);
    for (mut client, mut backend) in going {
        for peer in [&mut client, &mut backend] {
            assert_eq!(peer.expect_close(1012), "service restart");
            peer.send_frame(&Frame::close(1012, ""));
        }
        client.expect_end();
    }
    for target in ["/removed", "/disabled", "/versioned/v1"] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to(target).encode());
        assert_eq!(client.refused().status, 404, "{target}");
    }
    for (client, backend) in &mut staying {
        client.expect_silence(ms(50));
        client.send_frame(&Frame::text("as if nothing had happened"));
        backend.expect(Opcode::TEXT, b"as if nothing had happened");
        backend.send_frame(&Frame::text("what was that?"));
        client.expect(Opcode::TEXT, b"what was that?");
    }
    let line = gateway.logged("close", "disabled");
    assert_eq!((&line["reason"], &line["code"]), (&"unpublished".into(), &1012.into()), "{line}");
    until("the others have gone", || gateway.metric("framegate_sessions_active", &[]) == 2.0);
    gateway.probe();
}

fn new_limits_hold_from_the_next_message_on(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant)
        .api_to("chat", &upstream.url("/"), "limits: { max_message: 1000 }")
        .api_to("other", &upstream.url("/"), "")
        .start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let (mut other, mut other_backend) = gateway.session("/other", &upstream);
    // A message has begun, under the old limit.
    client.send_frame(&Frame::text(&"a".repeat(300)).unfinished());
    backend.expect(Opcode::TEXT, "a".repeat(300).as_bytes());
    let applied = gateway.apply(&gateway.setup().yaml().replace("max_message: 1000", "max_message: 500"));
    assert_eq!(applied.code, 0, "{}{}", applied.stdout, applied.stderr);
    client.send_frame(&Frame::continuation("b".repeat(700)));
    backend.expect(Opcode::CONTINUATION, "b".repeat(700).as_bytes());
    client.send_frame(&Frame::text(&"c".repeat(500)));
    backend.expect(Opcode::TEXT, "c".repeat(500).as_bytes());
    // Wider again, and the session has lived through both.
    let applied = gateway.apply(&gateway.setup().yaml().replace("max_message: 1000", "max_message: 600"));
    assert_eq!(applied.code, 0, "{}{}", applied.stdout, applied.stderr);
    backend.send_frame(&Frame::text(&"d".repeat(600)));
    client.expect(Opcode::TEXT, "d".repeat(600).as_bytes());
    backend.send_frame(&Frame::text(&"e".repeat(601)));
    assert_eq!(backend.expect_close(1009), "message too large");
    client.expect_close(1011);
    other.send_frame(&Frame::text(&"f".repeat(5000)));
    other_backend.expect(Opcode::TEXT, "f".repeat(5000).as_bytes());
    gateway.probe();
}
