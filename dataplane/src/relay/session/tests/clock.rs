//! What the clock decides.

use proto::snapshot::{Duration, IdleBy, LegPings, PeerPings};
use proto::ws::{CloseCode, Opcode};

use super::bench::{BEGIN_MS, Bench, close, of, text};
use crate::record::{Cause, Side};
use crate::relay::session::{Ending, Leg, LegState, LegView};

const UNREAD: LegView = LegView { unread: true, clogged: false, draining: false };
const DRAINING: LegView = LegView { unread: false, clogged: true, draining: true };

/// Pings on one leg after 10 s, answered within 3 s; never idle.
fn pinging(leg: Leg) -> Bench {
    Bench::with(|options, _, _| {
        let off = LegPings { interval: Duration::ZERO, timeout: Duration::from_secs(3) };
        let on = LegPings { interval: Duration::from_secs(10), ..off.clone() };
        (options.ping.client, options.ping.upstream) = if leg == Leg::Client { (on, off) } else { (off, on) };
        options.idle_timeout = Duration::ZERO;
    })
}

/// Only data keeps it from being idle, for 5 s; no pings.
fn idling(by: IdleBy) -> Bench {
    Bench::with(|options, _, _| {
        options.ping.client.interval = Duration::ZERO;
        options.idle_timeout = Duration::from_secs(5);
        options.idle_by = by;
    })
}

/// The payload of the one ping that a leg was sent.
#[track_caller]
fn ping(bench: &mut Bench, leg: Leg) -> Vec<u8> {
    let raw = bench.raw(leg);
    let (header, key) = if leg == Leg::Client { (2, [0; 4]) } else { (6, raw[2..6].try_into().unwrap()) };
    assert_eq!((raw[0], raw.len()), (0x89, header + 8), "one ping and nothing else");
    raw[header..].iter().enumerate().map(|(at, octet)| octet ^ key[at % 4]).collect()
}

#[test]
fn a_quiet_peer_is_pinged_and_its_pong_stays_here() {
    for leg in Leg::BOTH {
        let mut bench = pinging(leg);
        assert_eq!(bench.after(0), Some(10_000));
        assert_eq!(bench.after(9_999), Some(10_000));
        assert!(bench.raw(leg).is_empty());
        assert_eq!(bench.after(1), Some(13_000));
        let payload = ping(&mut bench, leg);
        bench.now_ms += 40;
        bench.feed(leg, of(leg, Opcode::Pong, true, payload));
        bench.assert_saw(leg.other(), &[]);
        assert_eq!(bench.after(0), Some(20_040));
        let direction = if leg == Leg::Client { "\"to_client\"" } else { "\"to_upstream\"" };
        assert_eq!(bench.metric("framegate_ping_rtt_seconds_count", &[direction]), 1.0);
        assert_eq!(bench.metric("framegate_ping_rtt_seconds_sum", &[direction]), 0.04);
    }
}

#[test]
fn a_peer_that_speaks_is_not_pinged() {
    let mut bench = pinging(Leg::Client);
    for _ in 0..5 {
        bench.now_ms += 9_000;
        bench.feed(Leg::Client, text(Leg::Client, "hi"));
        bench.after(0);
        bench.assert_saw(Leg::Client, &[]);
    }
}

#[test]
fn a_peer_that_answers_with_nothing_is_dead() {
    for leg in Leg::BOTH {
        let mut bench = pinging(leg);
        bench.after(10_000);
        ping(&mut bench, leg);
        assert_eq!(bench.after(2_999), Some(13_000));
        assert_eq!(bench.session.ending(), None);
        bench.after(1);
        let side = if leg == Leg::Client { Side::Client } else { Side::Upstream };
        let ending = Ending { code: CloseCode::ABNORMAL, side, cause: Cause::PingTimeout };
        assert_eq!(bench.session.ending(), Some(ending));
        assert_eq!(bench.session.leg(leg), LegState::Gone);
        let reason = if leg == Leg::Client { "client connection lost" } else { "service connection lost" };
        bench.assert_saw(leg.other(), &[&format!("close 1011 {reason}")]);
    }
}

#[test]
fn anything_from_the_peer_proves_that_it_lives_and_its_late_pong_still_stays_here() {
    let mut bench = pinging(Leg::Client);
    bench.after(10_000);
    let first = ping(&mut bench, Leg::Client);
    bench.now_ms += 1;
    bench.feed(Leg::Client, text(Leg::Client, "busy"));
    assert_eq!(bench.after(2_999), Some(20_001));
    assert_eq!(bench.session.ending(), None);
    bench.after(8_000);
    let second = ping(&mut bench, Leg::Client);
    assert_ne!(first, second);
    bench.feed(
        Leg::Client,
        [of(Leg::Client, Opcode::Pong, true, &first), of(Leg::Client, Opcode::Pong, true, &second)].concat(),
    );
    bench.feed(Leg::Client, of(Leg::Client, Opcode::Pong, true, &second));
    bench.assert_saw(Leg::Upstream, &["text busy"]);
}

#[test]
fn pongs_to_others_pass_while_a_ping_is_out() {
    let mut bench = pinging(Leg::Client);
    bench.after(10_000);
    ping(&mut bench, Leg::Client);
    bench.feed(Leg::Client, of(Leg::Client, Opcode::Pong, true, "theirs"));
    bench.assert_saw(Leg::Upstream, &["pong theirs"]);
}

#[test]
fn a_leg_that_is_not_read_or_does_not_read_is_not_judged() {
    for view in [UNREAD, DRAINING] {
        let mut bench = pinging(Leg::Client);
        bench.after(10_000);
        let payload = ping(&mut bench, Leg::Client);
        assert_eq!(bench.after_seen(3_000, [view, LegView::default()]), Some(23_000));
        assert_eq!(bench.session.ending(), None);
        bench.feed(Leg::Client, of(Leg::Client, Opcode::Pong, true, payload));
        bench.assert_saw(Leg::Upstream, &[]);
    }
}

#[test]
fn data_keeps_a_session_from_being_idle() {
    for leg in Leg::BOTH {
        let mut bench = idling(IdleBy::Data);
        assert_eq!(bench.after(0), Some(5_000));
        bench.now_ms += 4_000;
        let frame = of(leg, Opcode::Binary, true, [0; 10]);
        bench.feed(leg, &frame[..frame.len() - 1]);
        bench.now_ms += 4_000;
        bench.feed(leg, &frame[frame.len() - 1..]);
        assert_eq!(bench.after(0), Some(13_000), "a piece of a frame counts");
        bench.saw(leg.other());
        bench.after(5_000);
        let ending = Ending { code: CloseCode::GOING_AWAY, side: Side::Gateway, cause: Cause::Idle };
        assert_eq!(bench.session.ending(), Some(ending));
        for leg in Leg::BOTH {
            bench.assert_saw(leg, &["close 1001 idle"]);
        }
    }
}

#[test]
fn control_frames_count_as_activity_where_the_route_says_so() {
    for (by, alive) in [(IdleBy::Data, false), (IdleBy::Frame, true)] {
        for peer_pings in [PeerPings::Forward, PeerPings::Answer] {
            let mut bench = idling(by);
            bench.options.peer_pings = peer_pings;
            bench.now_ms += 3_000;
            bench.feed(Leg::Client, of(Leg::Client, Opcode::Ping, true, ""));
            bench.after(3_000);
            assert_eq!(bench.session.ending().is_none(), alive, "{by:?}");
        }
    }
}

#[test]
fn a_lifetime_ends_a_busy_session() {
    let mut bench = Bench::with(|_, _, birth| birth.expires_ms = BEGIN_MS + 2_000);
    assert_eq!(bench.after(0), Some(2_000));
    bench.feed(Leg::Client, text(Leg::Client, "busy"));
    bench.saw(Leg::Upstream);
    bench.after(2_000);
    for leg in Leg::BOTH {
        bench.assert_saw(leg, &["close 1001 session lifetime reached"]);
    }
    assert_eq!(bench.session.ending().unwrap().cause, Cause::Lifetime);
}

#[test]
fn of_several_drains_the_earliest_counts() {
    let mut bench = Bench::new();
    bench.session.drain_at(BEGIN_MS + 3_000, Cause::Unpublished);
    bench.session.drain_at(BEGIN_MS + 1_000, Cause::Drain);
    bench.session.drain_at(BEGIN_MS + 2_000, Cause::Unpublished);
    assert_eq!(bench.after(0), Some(1_000));
    bench.after(1_000);
    for leg in Leg::BOTH {
        bench.assert_saw(leg, &["close 1012 service restart"]);
    }
    let ending = Ending { code: CloseCode::RESTART, side: Side::Gateway, cause: Cause::Drain };
    assert_eq!(bench.session.ending(), Some(ending));
}

#[test]
fn what_lets_a_session_in_ends_it_when_it_ends_though_nobody_speaks() {
    for (cause, reason) in [
        (Cause::CredentialExpired, "credential expired"),
        (Cause::CredentialRevoked, "credential revoked"),
        (Cause::CredentialUnverified, "credential cannot be verified"),
    ] {
        let mut bench = Bench::with(|_, _, birth| birth.expires_ms = BEGIN_MS + 9_000);
        bench.session.end_at(BEGIN_MS + 5_000, Cause::CredentialExpired, CloseCode(4001));
        bench.session.end_at(BEGIN_MS + 3_000, cause, CloseCode(4001));
        bench.session.end_at(BEGIN_MS + 4_000, Cause::CredentialRevoked, CloseCode::POLICY);
        assert_eq!(bench.after(2_999), Some(3_000));
        bench.after(1);
        for leg in Leg::BOTH {
            bench.assert_saw(leg, &[&format!("close 4001 {reason}")]);
        }
        let ending = Ending { code: CloseCode(4001), side: Side::Gateway, cause };
        assert_eq!(bench.session.ending(), Some(ending));
    }
}

#[test]
fn a_peer_that_does_not_answer_a_close_frame_is_answered_for_and_then_dropped() {
    for leg in Leg::BOTH {
        let mut bench = Bench::new();
        bench.feed(leg, close(leg, 1000, "bye"));
        assert_eq!(bench.after(999), Some(1_000));
        assert_eq!(bench.after(1), Some(2_000));
        bench.assert_saw(leg, &["close 1000"]);
        assert_eq!((bench.session.leg(leg), bench.session.leg(leg.other())), (LegState::Finished, LegState::Open));
        assert_eq!(bench.after(1_000), None);
    }
}

#[test]
fn a_close_that_waits_for_the_end_of_a_frame_does_not_wait_for_ever() {
    let mut bench = Bench::new();
    let frame = of(Leg::Client, Opcode::Binary, true, [0; 100]);
    bench.feed(Leg::Client, &frame[..50]);
    bench.facts(|session, facts| session.close(CloseCode::RESTART, Cause::Drain, "", facts));
    bench.drain();
    assert_eq!(bench.after(1_000), None);
    bench.assert_saw(Leg::Upstream, &["44 of 100"]);
}

#[test]
fn a_closing_handshake_that_makes_progress_has_time_but_not_for_ever() {
    let mut bench = Bench::new();
    bench.feed(Leg::Upstream, close(Leg::Upstream, 1000, ""));
    let mut looks = 0;
    while bench.after_seen(1_000, [DRAINING, LegView::default()]).is_some() {
        looks += 1;
    }
    assert!((28..=31).contains(&looks), "{looks}");
    let mut bench = Bench::new();
    bench.feed(Leg::Upstream, close(Leg::Upstream, 1000, ""));
    assert!(bench.after_seen(1_000, [DRAINING, LegView::default()]).is_some());
    bench.after(1_000);
    bench.assert_saw(Leg::Upstream, &["close 1000"]);
    assert_eq!(bench.after(1_000), None, "no progress any more");
}

#[test]
fn a_closing_session_is_neither_pinged_nor_idle_nor_drained() {
    let mut bench = pinging(Leg::Client);
    bench.options.idle_timeout = Duration::from_ms(10);
    bench.session.drain_at(BEGIN_MS + 10, Cause::Drain);
    bench.feed(Leg::Client, close(Leg::Client, 1000, ""));
    bench.after(900);
    bench.assert_saw(Leg::Client, &[]);
    assert_eq!(bench.session.ending().unwrap().cause, Cause::Closed);
}
