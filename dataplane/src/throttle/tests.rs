//! What a session's limits let pass, with the meters that other shards have too: which limit is whose, which of several
//! stops a message, what each of them is left with, and what the log hears.

use std::rc::Rc;
use std::sync::Arc;

use proto::snapshot::{Outcome, Plan};

use super::meters::News;
use super::{Compiled, Guard, Ledger, Level, LevelKind, LimitId, Meters, Scope, Stopped, Verdict};
use crate::record::{Direction, Record};

/// Noon of some day.
const WALL_MS: u64 = 1_795_262_400_000;
/// When tests begin, on the workers' clock: long after that has begun, which is real.
const BEGIN_MS: u64 = 3_600_000;
const TO: Direction = Direction::ToUpstream;

fn plan(text: &str) -> Arc<Compiled> {
    Arc::new(Compiled::of(&serde_json::from_str::<Plan>(text).unwrap()))
}

/// A plan of these limits.
fn of(limits: &str) -> Arc<Compiled> {
    plan(&format!(r#"{{"name": "p", "limits": [{limits}]}}"#))
}

fn shards<const N: usize>(meters: &Arc<Meters>) -> [Rc<Ledger>; N] {
    std::array::from_fn(|at| {
        let ledger = Ledger::new(Arc::clone(meters), (at as u16, N as u16), Record::new(1, 1).shard(0));
        ledger.wall().set(0, WALL_MS);
        ledger
    })
}

fn shard() -> Rc<Ledger> {
    let [ledger] = shards(&Arc::default());
    ledger
}

fn level(ledger: &Rc<Ledger>, kind: LevelKind, plan: &Arc<Compiled>) -> Level {
    let scope = Arc::new(Scope { kind: Some(kind), name: kind.word().into(), plan: Arc::clone(&plan.name) });
    let id = |rule| LimitId { scope: Arc::clone(&scope), key: "everybody".into(), rule };
    let meters = plan.ids().map(|rule| ledger.held(&id(rule), plan)).collect();
    Level { kind, name: kind.word().into(), plan: Arc::clone(plan), meters }
}

/// A session whose levels have these plans.
fn session(ledger: &Rc<Ledger>, plans: &[&Arc<Compiled>]) -> Guard {
    let kinds = [LevelKind::Application, LevelKind::Subscription, LevelKind::Api];
    let levels = kinds.into_iter().zip(plans).map(|(kind, plan)| level(ledger, kind, plan)).collect();
    Guard::new(levels, Rc::clone(ledger.wall())).unwrap()
}

/// How many of so many messages of this size pass at that time.
fn passed(guard: &mut Guard, messages: usize, bytes: u64, now_ms: u64) -> usize {
    (0..messages).filter(|_| guard.message(TO, bytes, now_ms) == Verdict::Pass).count()
}

fn stopped(guard: &mut Guard, bytes: u64, now_ms: u64) -> Stopped {
    match guard.message(TO, bytes, now_ms) {
        Verdict::Stop(stopped) => stopped,
        Verdict::Pass => panic!("it passed"),
    }
}

/// What is used of each limit of the first level.
fn used(guard: &Guard, now_ms: u64) -> Vec<u64> {
    let now = proto::throttle::Now { mono_ns: now_ms * 1_000_000, wall_ms: WALL_MS + now_ms };
    let used = |held: &Rc<super::Held>| {
        held.give_back(now);
        held.meter().with(|meter| meter.usage(now).used)
    };
    guard.levels()[0].meters.iter().map(used).collect()
}

#[test]
fn what_was_used_follows_a_limit_wherever_in_its_plan_it_stands() {
    let ledger = shard();
    let now_ms = BEGIN_MS;
    let mut guard = session(&ledger, &[&of(r#"{"quota": "10/day"}"#)]);
    assert_eq!(passed(&mut guard, 6, 1, now_ms), 6);
    let mut guard = session(&ledger, &[&of(r#"{"rate": "100/s"}, {"quota": "10/day"}"#)]);
    assert_eq!(passed(&mut guard, 1, 1, now_ms), 1);
    assert_eq!(used(&guard, now_ms), [1, 7]);
    let more =
        r#"{"quota": "50/hour"}, {"count": "bytes", "quota": "1000/day"}, {"quota": "10/day"}, {"rate": "100/s"}"#;
    let mut guard = session(&ledger, &[&of(more)]);
    assert_eq!(used(&guard, now_ms), [0, 0, 7, 1]);
    assert_eq!(passed(&mut guard, 5, 1, now_ms), 3);
    assert_eq!(used(&guard, now_ms), [3, 3, 10, 4]);
    let twice = session(&ledger, &[&of(r#"{"quota": "10/day"}, {"quota": "20/day"}"#)]);
    assert_eq!(used(&twice, now_ms), [10, 0], "two of one sort are two limits");
    drop(guard);
    drop(twice);
    let mut back = session(&ledger, &[&of(r#"{"quota": "10/day"}"#)]);
    assert_eq!(passed(&mut back, 5, 1, now_ms), 0, "nothing of that is forgotten while the day lasts");
}

#[test]
fn where_nothing_may_pass_an_empty_message_does_not() {
    for nothing in [r#"{"count": "bytes", "quota": "0/second"}"#, r#"{"quota": "0/year"}"#, r#"{"rate": "0/s"}"#] {
        let mut guard = session(&shard(), &[&of(nothing)]);
        assert_eq!(passed(&mut guard, 3, 0, BEGIN_MS), 0, "{nothing}");
        assert_eq!(passed(&mut guard, 3, 1, BEGIN_MS + 5000), 0, "{nothing}");
    }
    let mut guard = session(&shard(), &[&of(r#"{"count": "bytes", "quota": "1/day"}"#)]);
    assert_eq!(passed(&mut guard, 1, 1, BEGIN_MS), 1);
    assert_eq!(passed(&mut guard, 3, 0, BEGIN_MS), 3, "where bytes may pass at all, none of them are always there");
}

#[test]
fn what_was_taken_for_a_message_that_does_not_pass_goes_back_at_once() {
    let meters = Arc::default();
    let [one, other] = shards(&meters);
    let bytes = of(r#"{"count": "bytes", "quota": "1000/day"}"#);
    let mut stopped_later = session(&one, &[&bytes, &of(r#"{"quota": "0/day"}"#)]);
    let mut free = session(&other, &[&bytes]);
    assert_eq!(passed(&mut stopped_later, 3, 900, BEGIN_MS), 0);
    assert_eq!(passed(&mut free, 1, 1000, BEGIN_MS), 1);
}

#[test]
fn the_level_that_lets_a_message_through_last_is_the_one_that_stops_it() {
    let second = plan(r#"{"name": "s", "limits": [{"quota": "1/second"}], "on_limit": {"action": "drop"}}"#);
    let day = plan(r#"{"name": "d", "limits": [{"quota": "1/day"}], "on_limit": {"action": "close"}}"#);
    let mut guard = session(&shard(), &[&second, &day, &day]);
    assert_eq!(passed(&mut guard, 1, 1, BEGIN_MS), 1);
    for later_ms in [0, 1, 4, 5, 100, 999] {
        let stopped = stopped(&mut guard, 1, BEGIN_MS + later_ms);
        assert_eq!((stopped.kind, stopped.at, stopped.outcome), (LevelKind::Subscription, 1, Outcome::Close));
        assert_eq!(stopped.wait_ms, 12 * 3_600_000 - BEGIN_MS - later_ms);
    }
    // Whoever is stopped by one asks the others too, and is charged by none.
    let ledger = shard();
    let mut spent = session(&ledger, &[&second]);
    assert_eq!(passed(&mut spent, 2, 1, BEGIN_MS), 1);
    let two = of(r#"{"quota": "2/day"}"#);
    let mut guard = session(&ledger, &[&second, &two]);
    assert_eq!(stopped(&mut guard, 1, BEGIN_MS).at, 0);
    assert_eq!(passed(&mut guard, 1, 1, BEGIN_MS + 1000), 1);
    assert_eq!(stopped(&mut guard, 1, BEGIN_MS + 1000).at, 0, "one is left of the day");
    assert_eq!(passed(&mut guard, 1, 1, BEGIN_MS + 2000), 1);
    let stopped = stopped(&mut guard, 1, BEGIN_MS + 2000);
    assert_eq!((stopped.at, stopped.outcome), (1, Outcome::Notify));
}

#[test]
fn a_message_that_is_refused_again_takes_no_lock() {
    let ledger = shard();
    let bytes = of(r#"{"count": "bytes", "rate": "1000/s"}"#);
    let mut guard = session(&ledger, &[&of(r#"{"quota": "1000000/day"}"#), &bytes]);
    assert_eq!(passed(&mut guard, 1, 1000, BEGIN_MS), 1);
    assert_eq!(stopped(&mut guard, 100, BEGIN_MS).wait_ms, 100);
    let meters: Vec<_> = guard.levels().iter().map(|level| Arc::clone(level.meters[0].meter())).collect();
    // Who took one of them here would wait for ever.
    meters[0].with(|_| {
        meters[1].with(|_| {
            for (bytes, wait_ms) in [(100, 98), (200, 198), (1000, 998), (1 << 40, 998)] {
                assert_eq!(stopped(&mut guard, bytes, BEGIN_MS + 2).wait_ms, wait_ms, "{bytes} bytes");
            }
        });
    });
    assert_eq!(meters[1].stopped(), 5);
}

#[test]
fn what_stops_nothing_is_counted_exactly_and_warns() {
    let meters = Arc::default();
    let [one, other] = shards(&meters);
    for limit in [r#""quota": "1000/day""#, r#""rate": "1/m", "burst": 1000"#] {
        let recorded = plan(&format!(
            r#"{{"name": "bill {}", "limits": [{{"count": "bytes", {limit}, "stop": false}}], "warn_at": [50, 100]}}"#,
            limit.len()
        ));
        let mut guards = [&one, &other].map(|ledger| session(ledger, &[&recorded]));
        for turn in 0..500 {
            assert_eq!(passed(&mut guards[turn % 2], 1, 7, BEGIN_MS), 1);
        }
        let meter = Arc::clone(guards[0].levels()[0].meters[0].meter());
        // With something in hand, it is spent as that of others is.
        meter.with(|_| assert_eq!(passed(&mut guards[0], 1, 7, BEGIN_MS), 1));
        guards[1].more(TO, 1_000_000, BEGIN_MS);
        guards.iter().for_each(|guard| drop(used(guard, BEGIN_MS)));
        assert_eq!(used(&guards[0], BEGIN_MS), [501 * 7 + 1_000_000], "{limit}");
    }
    let told: Vec<u8> = std::iter::from_fn(|| meters.told())
        .map(|event| match event.news {
            News::Reached(reached) => reached.percent,
            News::Stopped(_) => 0,
        })
        .collect();
    assert_eq!(told, [50, 100]);
}

#[test]
fn what_a_message_that_was_let_in_runs_over_is_warned_of_at_once() {
    let meters = Arc::default();
    let [ledger] = shards(&meters);
    let bytes = plan(r#"{"name": "p", "limits": [{"count": "bytes", "quota": "1000/day"}], "warn_at": [90]}"#);
    let mut guard = session(&ledger, &[&bytes]);
    assert_eq!(passed(&mut guard, 1, 100, BEGIN_MS), 1);
    guard.more(TO, 5000, BEGIN_MS);
    let News::Reached(reached) = meters.told().unwrap().news else { panic!("nothing was stopped") };
    assert_eq!((reached.percent, reached.used), (90, 5100));
}

#[test]
fn the_log_hears_once_a_minute_of_a_limit_that_goes_on_stopping() {
    let meters = Arc::default();
    let [one, other] = shards(&meters);
    let nothing = of(r#"{"quota": "0/day"}"#);
    let mut guards = [&one, &other].map(|ledger| session(ledger, &[&nothing]));
    for second in 0..180 {
        guards.iter_mut().for_each(|guard| assert_eq!(passed(guard, 5, 1, BEGIN_MS + second * 1000), 0));
    }
    let told: Vec<News> = std::iter::from_fn(|| meters.told()).map(|event| event.news).collect();
    assert_eq!(told, [News::Stopped(1), News::Stopped(600), News::Stopped(600)]);
}

#[test]
fn what_lies_unused_on_one_shard_is_anothers_a_tenth_of_a_second_later() {
    let meters = Arc::default();
    let [one, other] = shards(&meters);
    let now = |now_ms: u64| one.wall().now(now_ms);
    let small = of(r#"{"quota": "64/day"}"#);
    let [mut busy, mut later] = [&one, &other].map(|ledger| session(ledger, &[&small]));
    assert_eq!(one.tick(now(BEGIN_MS)).as_millis(), 1000, "nothing is in hand");
    assert_eq!(passed(&mut busy, 20, 1, BEGIN_MS), 20);
    let lies = 44 - passed(&mut later, 64, 1, BEGIN_MS);
    assert!(lies > 0, "the first still has something");
    assert_eq!(one.tick(now(BEGIN_MS + 99)).as_millis(), 100);
    assert_eq!(passed(&mut later, 64, 1, BEGIN_MS + 99), 0);
    assert_eq!(one.tick(now(BEGIN_MS + 100)).as_millis(), 1000);
    assert_eq!(passed(&mut later, 64, 1, BEGIN_MS + 104), lies);
}
