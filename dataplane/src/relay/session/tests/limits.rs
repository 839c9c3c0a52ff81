//! Messages that are too much: what is left out, who is told where, what waits, and that nothing else notices.

use std::rc::Rc;
use std::sync::Arc;

use proto::snapshot::{Counted, Limit, Notice, OnLimit, Outcome, Plan};
use proto::throttle::Meter;
use proto::ws::{CloseCode, Opcode};

use super::bench::{BEGIN_MS, Bench, close, of, text};
use crate::record::Cause;
use crate::relay::session::{Leg, LegView};
use crate::throttle::{Compiled, Guard, Held, Level, LevelKind, Metered, WallOffset};

const WALL_MS: u64 = 1_795_305_600_000;

/// A level with one limit.
fn level(kind: LevelKind, limit: &str, change: impl FnOnce(&mut Compiled)) -> Level {
    let limit: Limit = serde_json::from_str(limit).unwrap();
    let mut plan = Compiled::of(&Plan { warn_at: Vec::new(), ..Plan::new("AsyncGold", vec![limit]) });
    let terms = plan.limits[0].terms;
    change(&mut plan);
    let held = Held::new(Arc::new(Metered::new(Meter::new(terms, wall().now(BEGIN_MS)))), (0, 1));
    Level { kind, name: kind.word().into(), plan: Arc::new(plan), meters: [Rc::new(held)].into() }
}

fn wall() -> WallOffset {
    let wall = WallOffset::default();
    wall.set(BEGIN_MS, WALL_MS);
    wall
}

fn guarded(levels: Vec<Level>) -> Bench {
    Bench::with(|_, _, birth| birth.guard = Guard::new(levels, Rc::new(wall())).map(Box::new))
}

/// A session that may say two messages, and one more each second.
fn two(change: impl FnOnce(&mut OnLimit)) -> Bench {
    guarded(vec![level(LevelKind::Subscription, r#"{"rate": "1/s", "burst": 2}"#, |plan| change(&mut plan.on_limit))])
}

#[test]
fn what_is_too_much_is_left_out_and_the_client_is_told() {
    let mut bench = two(|_| {});
    let said = ["a", "b", "c", "d"].map(|one| text(Leg::Client, one)).concat();
    bench.feed(Leg::Client, said);
    bench.assert_saw(Leg::Upstream, &["text a", "text b"]);
    assert_eq!(bench.raw(Leg::Client), b"\x81\x36Error code: 4003 reason: Websocket frame throttled out".repeat(2));
    bench.now_ms += 1000;
    bench.feed(Leg::Upstream, [text(Leg::Upstream, "e"), text(Leg::Upstream, "f")].concat());
    bench.assert_saw(Leg::Client, &["text e", "text 54 bytes"]);
    assert_eq!(bench.session.totals(Leg::Client).messages, 2);
    assert_eq!(bench.session.totals(Leg::Upstream).messages, 1);
    let labels = ["level=\"subscription\"", "outcome=\"notify\""];
    assert_eq!(bench.metric("framegate_throttled_messages_total", &labels), 3.0);
}

#[test]
fn a_notice_has_the_form_that_the_plan_says() {
    let told = |limit: &str, notice: Notice| {
        let mut bench = guarded(vec![level(LevelKind::Subscription, limit, |plan| plan.on_limit.notice = notice)]);
        bench.feed(Leg::Client, ["a", "b", "c"].map(|one| text(Leg::Client, one)).concat());
        let raw = bench.raw(Leg::Client);
        let (start, length) = match raw[1] {
            126 => (4, usize::from(u16::from_be_bytes([raw[2], raw[3]]))),
            short => (2, usize::from(short)),
        };
        String::from_utf8(raw[start..start + length].to_vec()).unwrap()
    };
    let text_of = |notice: Notice| told(r#"{"rate": "1/s", "burst": 2}"#, notice);
    assert_eq!(text_of(Notice::Wso2Short), "Websocket frame throttled out");
    let json = r#"{"error":{"code":4003,"level":"subscription","message":"throttled out","plan":"AsyncGold","retry_after_ms":1000}}"#;
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&text_of(Notice::Json)).unwrap(),
        serde_json::from_str::<serde_json::Value>(json).unwrap()
    );
    let own = Notice::Text("{level} of {plan}: {code}, try in {retry_after_ms} ms".into());
    assert_eq!(text_of(own), "subscription of AsyncGold: 4003, try in 1000 ms");
    for limit in [r#"{"quota": "0/day"}"#, r#"{"rate": "0/s"}"#, r#"{"rate": "0/s", "burst": 2}"#] {
        let json = serde_json::from_str::<serde_json::Value>(&told(limit, Notice::Json)).unwrap();
        assert_eq!(json["error"].get("retry_after_ms"), Some(&serde_json::Value::Null), "{limit}: {json}");
        assert_eq!(told(limit, Notice::Text("again: {retry_after_ms}".into())), "again: never", "{limit}");
    }
}

#[test]
fn a_message_is_left_out_with_all_its_fragments_and_what_stands_between_them_passes() {
    for is_trickled in [false, true] {
        let mut bench = two(|on_limit| on_limit.action = Outcome::Drop);
        let leg = Leg::Client;
        let said = [
            text(leg, "a"),
            of(leg, Opcode::Text, false, "b"),
            of(leg, Opcode::Continuation, true, "b"),
            of(leg, Opcode::Text, false, "c"),
            of(leg, Opcode::Ping, true, "p"),
            of(leg, Opcode::Continuation, false, ""),
            of(leg, Opcode::Continuation, true, "c"),
            text(leg, ""),
            of(leg, Opcode::Pong, true, "q"),
            close(leg, 1000, "bye"),
        ]
        .concat();
        if is_trickled {
            bench.trickle(leg, said)
        } else {
            bench.feed(leg, said)
        }
        bench.assert_saw(Leg::Upstream, &["text a", "text... b", "more b", "ping p", "pong q", "close 1000 bye"]);
        bench.assert_saw(Leg::Client, &[]);
        assert_eq!(bench.session.totals(leg).messages, 2, "trickled: {is_trickled}");
    }
}

#[test]
fn a_notice_stands_between_messages_of_the_server_and_never_inside_of_one() {
    let mut bench = two(|_| {});
    bench.feed(Leg::Upstream, of(Leg::Upstream, Opcode::Text, false, "begins"));
    bench.feed(Leg::Client, ["b", "c"].map(|one| text(Leg::Client, one)).concat());
    bench.assert_saw(Leg::Upstream, &["text b"]);
    bench.feed(Leg::Upstream, of(Leg::Upstream, Opcode::Continuation, false, "goes on"));
    bench.feed(Leg::Upstream, of(Leg::Upstream, Opcode::Ping, true, "p"));
    bench.assert_saw(Leg::Client, &["text... begins", "more... goes on", "ping p"]);
    let rest = [of(Leg::Upstream, Opcode::Continuation, true, "ends"), of(Leg::Upstream, Opcode::Ping, true, "q")];
    bench.feed(Leg::Upstream, rest.concat());
    bench.assert_saw(Leg::Client, &["more ends", "text 54 bytes", "ping q"]);
}

#[test]
fn notices_are_bounded_and_what_is_beyond_is_counted() {
    let mut bench = two(|on_limit| (on_limit.notices, on_limit.notices_per_second) = (3, 2));
    let flood = |bench: &mut Bench| {
        bench.feed(Leg::Client, text(Leg::Client, "x").repeat(20));
        bench.saw(Leg::Client).len()
    };
    assert_eq!(flood(&mut bench), 3);
    bench.now_ms += 500;
    assert_eq!(flood(&mut bench), 1);
    bench.now_ms += 100_000;
    assert_eq!(flood(&mut bench), 3);
}

#[test]
fn a_clogged_client_is_told_when_it_reads_again() {
    let mut bench = two(|_| {});
    bench.clogged[Leg::Client as usize] = true;
    bench.feed(Leg::Client, text(Leg::Client, "x").repeat(300));
    bench.assert_saw(Leg::Client, &[]);
    bench.clogged[Leg::Client as usize] = false;
    bench.drain();
    assert_eq!(bench.saw(Leg::Client).len(), 100, "as many as may be said at once");
}

#[test]
fn a_plan_that_closes_says_why_and_the_message_does_not_pass() {
    let mut bench = two(|on_limit| {
        on_limit.action = Outcome::Close;
        on_limit.code = 4029;
        on_limit.reason = "slower".into();
    });
    bench.feed(Leg::Client, ["a", "b", "c", "d"].map(|one| text(Leg::Client, one)).concat());
    bench.assert_saw(Leg::Upstream, &["text a", "text b", "close 4029 slower"]);
    bench.assert_saw(Leg::Client, &["close 4029 slower"]);
    assert_eq!(bench.session.ending().unwrap().cause.word(), "throttled");
}

#[test]
fn after_so_many_refusals_in_a_row_the_session_is_closed() {
    let mut bench = two(|on_limit| on_limit.close_after = 3);
    bench.feed(Leg::Client, ["a", "b", "c", "d"].map(|one| text(Leg::Client, one)).concat());
    bench.assert_saw(Leg::Client, &["text 54 bytes", "text 54 bytes"]);
    bench.now_ms += 1000;
    bench.feed(Leg::Client, ["e", "f", "g"].map(|one| text(Leg::Client, one)).concat());
    assert!(bench.session.ending().is_none(), "one passed in between");
    bench.feed(Leg::Client, text(Leg::Client, "h"));
    assert_eq!(bench.saw(Leg::Client).last().unwrap(), "close 1008 throttled out");
}

#[test]
fn what_waits_passes_in_its_order_when_there_is_room() {
    let mut bench = two(|on_limit| on_limit.action = Outcome::Delay);
    let said = ["a", "b", "c", "d"].map(|one| text(Leg::Client, one)).concat();
    bench.feed(Leg::Client, [said, of(Leg::Client, Opcode::Ping, true, "p")].concat());
    bench.assert_saw(Leg::Upstream, &["text a", "text b"]);
    assert_eq!(bench.resume(Leg::Client), Some(1000));
    bench.now_ms += 999;
    assert_eq!(bench.resume(Leg::Client), Some(1000));
    bench.assert_saw(Leg::Upstream, &[]);
    bench.now_ms += 1;
    assert_eq!(bench.resume(Leg::Client), Some(2000));
    bench.assert_saw(Leg::Upstream, &["text c"]);
    bench.feed(Leg::Upstream, of(Leg::Upstream, Opcode::Ping, true, "control frames are free"));
    bench.assert_saw(Leg::Client, &["ping control frames are free"]);
    bench.now_ms += 1000;
    assert_eq!(bench.resume(Leg::Client), None);
    bench.assert_saw(Leg::Upstream, &["text d", "ping p"]);
    bench.assert_saw(Leg::Client, &[]);
}

#[test]
fn who_waits_is_neither_idle_nor_dead() {
    let mut bench = guarded(vec![level(LevelKind::Api, r#"{"quota": "1/day"}"#, |plan| {
        plan.on_limit.action = Outcome::Delay;
    })]);
    bench.feed(Leg::Client, ["a", "b"].map(|one| text(Leg::Client, one)).concat());
    for _ in 0..100 {
        let views = [LegView { unread: true, ..LegView::default() }, LegView::default()];
        assert!(bench.after_seen(60_000, views).is_some());
        bench.feed(Leg::Upstream, of(Leg::Upstream, Opcode::Pong, true, ""));
        bench.resume(Leg::Client);
    }
    assert!(bench.session.ending().is_none());
    let pings = bench.saw(Leg::Client);
    assert!(
        pings.len() >= 100 && pings.iter().all(|word| word.starts_with("p")),
        "it is pinged all the same: {pings:?}"
    );
    assert_eq!(bench.metric("framegate_throttled_messages_total", &["delay"]), 1.0, "it was counted once");
    bench.facts(|session, facts| session.close(proto::ws::CloseCode::RESTART, crate::record::Cause::Drain, "x", facts));
    bench.drain();
    assert_eq!(bench.session.resumes_ms(Leg::Client), 0, "what goes nowhere waits for nothing");
}

#[test]
fn what_another_plan_lets_pass_passes_at_once() {
    let mut bench = two(|on_limit| on_limit.action = Outcome::Delay);
    bench.feed(Leg::Client, ["a", "b", "c"].map(|one| text(Leg::Client, one)).concat());
    bench.session.set_guard(None);
    assert_eq!(bench.resume(Leg::Client), None);
    bench.assert_saw(Leg::Upstream, &["text a", "text b", "text c"]);
    let strict = level(LevelKind::Api, r#"{"quota": "0/day"}"#, |_| {});
    bench.session.set_guard(Guard::new(vec![strict], Rc::new(wall())).map(Box::new));
    bench.feed(Leg::Client, text(Leg::Client, "d"));
    bench.assert_saw(Leg::Upstream, &[]);
    bench.assert_saw(Leg::Client, &["text 54 bytes"]);
    bench.session.set_guard(None);
    bench.feed(Leg::Client, text(Leg::Client, "e"));
    bench.assert_saw(Leg::Upstream, &["text e"]);
}

#[test]
fn every_message_that_waits_is_counted_once() {
    let mut bench = two(|on_limit| on_limit.action = Outcome::Delay);
    bench.feed(Leg::Client, text(Leg::Client, "x").repeat(5));
    for _ in 0..40 {
        bench.now_ms += 100;
        bench.resume(Leg::Client);
    }
    assert_eq!(bench.saw(Leg::Upstream).len(), 5);
    assert_eq!(
        bench.metric("framegate_throttled_messages_total", &["level=\"subscription\"", "outcome=\"delay\""]),
        3.0
    );
}

#[test]
fn what_is_said_behind_a_close_frame_of_the_other_side_is_limited_too() {
    for action in [Outcome::Notify, Outcome::Drop, Outcome::Close, Outcome::Delay] {
        let mut bench = two(|on_limit| on_limit.action = action);
        bench.feed(Leg::Client, close(Leg::Client, 1000, "bye"));
        bench.assert_saw(Leg::Upstream, &["close 1000 bye"]);
        bench.feed(Leg::Upstream, text(Leg::Upstream, "x").repeat(50));
        assert_eq!(bench.saw(Leg::Client).iter().filter(|word| *word == "text x").count(), 2, "{action:?}");
        if action != Outcome::Delay {
            bench.feed(Leg::Upstream, close(Leg::Upstream, 1000, "bye"));
            bench.assert_saw(Leg::Client, &["close 1000 bye"]);
        }
        assert_eq!(bench.session.ending().unwrap().cause.word(), "closed");
    }
}

#[test]
fn what_goes_nowhere_is_not_counted() {
    let api = level(LevelKind::Api, r#"{"quota": "10/day"}"#, |_| {});
    let held = Rc::clone(&api.meters[0]);
    let mut bench = guarded(vec![api]);
    bench.feed(Leg::Client, text(Leg::Client, "x"));
    bench.lose(Leg::Upstream);
    bench.feed(Leg::Client, text(Leg::Client, "x").repeat(50));
    assert_eq!(used(&held), 1);
}

#[test]
fn a_message_that_is_too_much_at_one_level_costs_nothing_at_the_others() {
    let api = level(LevelKind::Api, r#"{"quota": "10/day"}"#, |_| {});
    let application = level(LevelKind::Application, r#"{"quota": "2/day"}"#, |_| {});
    let held = Rc::clone(&api.meters[0]);
    let mut bench = guarded(vec![api, application]);
    bench.feed(Leg::Client, text(Leg::Client, "x").repeat(9));
    assert_eq!(bench.saw(Leg::Upstream).len(), 2);
    assert_eq!(used(&held), 2);
    assert_eq!(bench.metric("framegate_throttled_messages_total", &["level=\"application\""]), 7.0);
}

#[test]
fn bytes_are_asked_for_by_the_first_frame_and_the_rest_is_owed() {
    let limit = r#"{"rate": "100/s", "burst": 100, "count": "bytes"}"#;
    let mut bench = guarded(vec![level(LevelKind::Api, limit, |plan| plan.on_limit.action = Outcome::Drop)]);
    let leg = Leg::Client;
    bench.feed(leg, of(leg, Opcode::Binary, false, [1; 60]));
    bench.feed(leg, of(leg, Opcode::Continuation, true, [2; 240]));
    assert_eq!(bench.saw(Leg::Upstream).len(), 2, "a message that has begun is finished");
    bench.now_ms += 1999;
    bench.feed(leg, text(leg, "x"));
    bench.assert_saw(Leg::Upstream, &[]);
    bench.now_ms += 11;
    bench.feed(leg, text(leg, "x"));
    bench.assert_saw(Leg::Upstream, &["text x"]);
}

#[test]
fn a_plan_may_count_one_direction_and_frames_instead_of_messages() {
    let limit = r#"{"quota": "4/day", "count": "frames"}"#;
    let mut bench = guarded(vec![level(LevelKind::Api, limit, |plan| plan.direction = Counted::Server)]);
    bench.feed(Leg::Client, text(Leg::Client, "x").repeat(50));
    assert_eq!(bench.saw(Leg::Upstream).len(), 50);
    let leg = Leg::Upstream;
    let message = [of(leg, Opcode::Text, false, "a"), of(leg, Opcode::Continuation, true, "b")].concat();
    bench.feed(leg, message.repeat(3));
    bench.assert_saw(Leg::Client, &["text... a", "more b", "text... a", "more b", "text 54 bytes"]);
}

#[test]
fn a_limit_that_does_not_stop_is_only_counted() {
    let api = level(LevelKind::Api, r#"{"quota": "3/day", "stop": false}"#, |_| {});
    let held = Rc::clone(&api.meters[0]);
    let mut bench = guarded(vec![api]);
    bench.feed(Leg::Client, text(Leg::Client, "x").repeat(10));
    assert_eq!(bench.saw(Leg::Upstream).len(), 10);
    assert_eq!(used(&held), 10);
}

#[test]
fn a_compressed_message_that_others_lean_on_is_not_left_out() {
    let with = |contexts| {
        Bench::with(|_, _, birth| {
            birth.rsv1 = true;
            birth.contexts = contexts;
            let none = level(LevelKind::Api, r#"{"quota": "0/day"}"#, |plan| plan.on_limit.action = Outcome::Drop);
            birth.guard = Guard::new(vec![none], Rc::new(wall())).map(Box::new);
        })
    };
    let mut compressed = text(Leg::Client, "x");
    compressed[0] |= 0x40;
    let mut bench = with(true);
    bench.feed(Leg::Client, text(Leg::Client, "plain"));
    assert!(bench.session.ending().is_none(), "nobody leans on it");
    bench.feed(Leg::Client, &compressed);
    assert_eq!(bench.session.ending().unwrap().cause.word(), "throttled");
    let mut bench = with(false);
    bench.feed(Leg::Client, &compressed);
    assert!(bench.session.ending().is_none());
    bench.assert_saw(Leg::Upstream, &[]);
}

#[test]
fn payload_that_is_left_out_is_never_passed_unseen_and_its_loss_cuts_nobody() {
    let mut bench = two(|on_limit| on_limit.action = Outcome::Drop);
    bench.feed(Leg::Client, ["a", "b"].map(|one| text(Leg::Client, one)).concat());
    let whole = of(Leg::Client, Opcode::Binary, true, vec![7; 70_000]);
    bench.feed(Leg::Client, &whole[..1000]);
    assert_eq!(bench.session.unseen(Leg::Client), 0);
    bench.saw(Leg::Upstream);
    bench.lose(Leg::Client);
    bench.assert_saw(Leg::Upstream, &["close 1011 client connection lost"]);
}

/// What is used of a limit, once what is in hand is back.
fn used(held: &Held) -> u64 {
    held.give_back(wall().now(BEGIN_MS));
    held.meter().with(|meter| meter.usage(wall().now(BEGIN_MS))).used
}

#[test]
fn nobody_pays_for_bytes_that_do_not_come() {
    let limit = r#"{"quota": "1000000/day", "count": "bytes"}"#;
    let leg = Leg::Client;
    let begin = || {
        let api = level(LevelKind::Api, limit, |_| {});
        let held = Rc::clone(&api.meters[0]);
        let mut bench = guarded(vec![api]);
        bench.feed(leg, of(leg, Opcode::Binary, false, [1; 60]));
        (bench, held)
    };
    // A frame that breaks a ceiling is a violation, and no debt.
    let (mut bench, held) = begin();
    let mut huge = vec![0x80, 0xff];
    huge.extend_from_slice(&(1_u64 << 62).to_be_bytes());
    huge.extend_from_slice(&[1, 2, 3, 4]);
    bench.feed(leg, huge);
    assert_eq!(bench.session.ending().unwrap().cause.word(), "frame_too_large");
    assert_eq!(used(&held), 60);
    // What is announced is counted, and given back when its sender is gone.
    let (mut bench, held) = begin();
    let whole = of(leg, Opcode::Continuation, true, vec![2; 50_000]);
    bench.feed(leg, &whole[..1008]);
    assert_eq!(used(&held), 50_060);
    bench.lose(leg);
    bench.session.refund(leg, BEGIN_MS);
    assert_eq!(used(&held), 1060);
}

#[test]
fn nothing_is_given_back_that_was_not_counted() {
    let limit = r#"{"quota": "1000000/day", "count": "bytes"}"#;
    let leg = Leg::Client;
    let begun = of(leg, Opcode::Binary, true, vec![2; 900_000]);
    let begun = &begun[..14];
    // A frame that goes nowhere, because the gateway has closed the other side, is not counted.
    let api = level(LevelKind::Api, limit, |_| {});
    let held = Rc::clone(&api.meters[0]);
    let mut bench = guarded(vec![api]);
    bench.feed(leg, of(leg, Opcode::Binary, true, vec![1; 900_000]));
    bench.facts(|session, facts| session.close(CloseCode::GOING_AWAY, Cause::Idle, "idle", facts));
    bench.drain();
    bench.feed(leg, begun);
    bench.lose(leg);
    bench.session.refund(leg, BEGIN_MS);
    assert_eq!(used(&held), 900_000);
    // One that began under another plan was counted there.
    let (before, after) = (level(LevelKind::Api, limit, |_| {}), level(LevelKind::Api, limit, |_| {}));
    let held = Rc::clone(&after.meters[0]);
    held.refill(900_000, wall().now(BEGIN_MS));
    held.spend(900_000, wall().now(BEGIN_MS));
    let mut bench = guarded(vec![before]);
    bench.feed(leg, begun);
    bench.session.set_guard(Guard::new(vec![after], Rc::new(wall())).map(Box::new));
    bench.lose(leg);
    bench.session.refund(leg, BEGIN_MS);
    assert_eq!(used(&held), 900_000);
}

#[test]
fn what_waits_when_the_other_side_closes_still_passes() {
    let slow = level(LevelKind::Api, r#"{"rate": "10/s", "burst": 1}"#, |plan| plan.on_limit.action = Outcome::Delay);
    let mut bench = guarded(vec![slow]);
    bench.feed(Leg::Upstream, text(Leg::Upstream, "x").repeat(100));
    bench.feed(Leg::Upstream, close(Leg::Upstream, 1000, "done"));
    bench.feed(Leg::Client, close(Leg::Client, 1000, "bye"));
    for _ in 0..150 {
        bench.now_ms += 100;
        bench.resume(Leg::Upstream);
        let views = [LegView::default(), LegView { unread: true, ..LegView::default() }];
        bench.after_seen(0, views);
    }
    let seen = bench.saw(Leg::Client);
    assert_eq!((seen.len(), seen.last().unwrap().as_str()), (101, "close 1000 done"));
}

#[test]
fn a_denial_that_drops_comes_before_whatever_else_says() {
    let denial = level(LevelKind::Denial, r#"{"quota": "0/year"}"#, |plan| plan.on_limit.action = Outcome::Drop);
    for others in [r#"{"rate": "0/s"}"#, r#"{"quota": "0/10 years"}"#] {
        let other = level(LevelKind::Api, others, |plan| plan.on_limit.action = Outcome::Close);
        for levels in [vec![denial.clone(), other.clone()], vec![other, denial.clone()]] {
            let mut bench = guarded(levels);
            bench.feed(Leg::Client, text(Leg::Client, "x").repeat(3));
            assert!(bench.session.ending().is_none(), "{others}");
            assert_eq!(bench.session.throttled().by, Some(LevelKind::Denial), "{others}");
            bench.assert_saw(Leg::Upstream, &[]);
        }
    }
}

#[test]
fn whom_a_denial_closes_because_others_lean_on_the_message_is_told_of_a_denial() {
    let mut bench = Bench::with(|_, _, birth| {
        (birth.rsv1, birth.contexts) = (true, true);
        let denial = level(LevelKind::Denial, r#"{"quota": "0/year"}"#, |plan| plan.on_limit.action = Outcome::Drop);
        birth.guard = Guard::new(vec![denial], Rc::new(wall())).map(Box::new);
    });
    let mut compressed = text(Leg::Client, "x");
    compressed[0] |= 0x40;
    bench.feed(Leg::Client, &compressed);
    bench.assert_saw(Leg::Client, &["close 1008 denied"]);
    bench.assert_saw(Leg::Upstream, &["close 1008 denied"]);
    assert_eq!(bench.session.ending().unwrap().cause.word(), "denied");
}

#[test]
fn each_side_has_its_own_row_of_messages_that_were_too_much() {
    let limited = || {
        let of_client = level(LevelKind::Api, r#"{"quota": "0/day"}"#, |plan| {
            plan.direction = Counted::Client;
            (plan.on_limit.close_after, plan.on_limit.action) = (5, Outcome::Drop);
        });
        let of_all = level(LevelKind::Application, r#"{"quota": "100000/day"}"#, |_| {});
        guarded(vec![of_client, of_all])
    };
    let mut bench = limited();
    for at in 1..=5 {
        assert!(bench.session.ending().is_none(), "after {}", at - 1);
        bench.feed(Leg::Client, text(Leg::Client, "too much"));
        bench.feed(Leg::Upstream, text(Leg::Upstream, "passes"));
    }
    assert!(bench.session.ending().is_some(), "what the other side says is no end of the row");
    let mut bench = two(|on_limit| on_limit.close_after = 3);
    bench.feed(Leg::Client, ["a", "b"].map(|one| text(Leg::Client, one)).concat());
    for leg in [Leg::Client, Leg::Upstream, Leg::Client, Leg::Upstream] {
        bench.feed(leg, text(leg, "too much"));
    }
    assert!(bench.session.ending().is_none(), "two of each are not three");
    bench.feed(Leg::Upstream, text(Leg::Upstream, "too much"));
    assert!(bench.session.ending().is_some());
}
