//! What limits cost on one shard: a decision while there is something in hand, a lease when there is not, and finding a
//! session's meters among a million.
//!
//! `cargo bench --bench throttle`. Criterion's figures are wall time. Under them stand the bars, in time of this thread's CPU,
//! which others of the machine lengthen less; and a decision in instructions, which nobody lengthens: more than the ceiling
//! fails the bench.

#[expect(dead_code, reason = "the load of the other benches uses more of it")]
#[path = "load/machine.rs"]
mod machine;
#[path = "load/steps.rs"]
mod steps;

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use dataplane::record::{Direction, Record};
use dataplane::throttle::{
    Compiled, Guard, Held, Ledger, Level, LevelKind, LimitId, Metered, Meters, Rule, Scope, Verdict, WallOffset,
};
use proto::snapshot::{Plan, Unit};
use proto::throttle::{Meter, Now, Terms, Window, WindowUnit};

const KEYS: usize = 1_000_000;
const WALL_MS: u64 = 1_800_000_000_000;
/// The bars: nanoseconds of a decision at three levels, and of a lease.
const DECISION_NS_MAX: f64 = 10.0;
const LEASE_NS_MAX: f64 = 200.0;
/// Instructions of a decision at three levels, in a release build.
const DECISION_INSTRUCTIONS_MAX: f64 = 230.0;
/// Rounds of which the middle one counts, and how often something is done in each.
const ROUNDS: usize = 31;
const TURNS: u64 = 1_000_000;

fn plan(terms: &[Terms]) -> Arc<Compiled> {
    let mut plan = Compiled::of(&Plan::new("gold", Vec::new()));
    plan.limits = terms.iter().map(|&terms| Rule { unit: Unit::Messages, terms, stops: true }).collect();
    Arc::new(plan)
}

fn level(kind: LevelKind, terms: Terms) -> Level {
    let meter = Metered::new(Meter::new(terms, now(1)));
    let held = Rc::new(Held::new(Arc::new(meter), (0, 4)));
    Level { kind, name: kind.word().into(), plan: plan(&[terms]), meters: [held].into() }
}

fn now(now_ms: u64) -> Now {
    Now { mono_ns: now_ms * 1_000_000, wall_ms: WALL_MS + now_ms }
}

/// Plenty, so that a decision mostly finds something in hand: a lease is some millions.
const PLENTY: u64 = 1 << 50;

/// Three levels of which there is always something in hand.
fn warm_guard() -> Guard {
    let bucket = Terms::Bucket { amount: PLENTY, per_ns: 1_000_000_000, burst: PLENTY };
    let quota = Terms::Quota { amount: PLENTY, window: Window::one(WindowUnit::Day) };
    let levels = vec![
        level(LevelKind::Application, quota),
        level(LevelKind::Subscription, bucket),
        level(LevelKind::Api, bucket),
    ];
    let wall = Rc::new(WallOffset::default());
    wall.set(0, WALL_MS);
    Guard::new(levels, wall).expect("it is limited")
}

fn decide(guard: &mut Guard) {
    let verdict = guard.message(black_box(Direction::ToUpstream), black_box(64), black_box(1));
    assert_eq!(verdict, Verdict::Pass);
}

fn decisions(criterion: &mut Criterion) {
    let mut guard = warm_guard();
    criterion.bench_function("decision/three_levels", |bencher| bencher.iter(|| decide(&mut guard)));
}

/// A bucket and a quota with plenty, as a shard has them.
fn plenty() -> [(&'static str, Rc<Ledger>, Rc<Held>); 2] {
    let bucket = Terms::Bucket { amount: PLENTY, per_ns: 1_000_000_000, burst: PLENTY };
    let quota = Terms::Quota { amount: PLENTY, window: Window::one(WindowUnit::Day) };
    [("bucket", bucket), ("quota", quota)].map(|(name, terms)| {
        let ledger = Ledger::new(Arc::default(), (0, 4), Record::new(1, 1).shard(0));
        let scope =
            Arc::new(Scope { kind: Some(LevelKind::Api), name: LevelKind::Api.word().into(), plan: "gold".into() });
        let plan = plan(&[terms]);
        let rule = plan.ids().next().expect("it has one");
        let held = ledger.held(&LimitId { scope, key: "chat:v1".into(), rule }, &plan);
        (name, ledger, held)
    })
}

/// What was in hand is given back each time, so that each asks the shared meter for a lease.
fn lease(held: &Held, now: Now) {
    assert!(held.has(black_box(1), now));
    held.give_back(now);
}

fn leases(criterion: &mut Criterion) {
    for (name, ledger, held) in plenty() {
        let now = ledger.now();
        criterion.bench_function(&format!("lease/{name}"), |bencher| bencher.iter(|| lease(&held, now)));
    }
}

fn handshakes(criterion: &mut Criterion) {
    let meters = Arc::new(Meters::default());
    let ledger = Ledger::new(Arc::clone(&meters), (0, 4), Record::new(1, 1).shard(0));
    let quota = Terms::Quota { amount: 50_000, window: Window::one(WindowUnit::Day) };
    let plan = plan(&[quota]);
    let kind = LevelKind::Application;
    let scope = Arc::new(Scope { kind: Some(kind), name: kind.word().into(), plan: "gold".into() });
    let rule = plan.ids().next().expect("it has one");
    let id = |at: usize| LimitId { scope: Arc::clone(&scope), key: format!("mobile/user-{at}").into(), rule };
    let before = resident_kib();
    (0..KEYS).for_each(|at| drop(meters.find(&id(at), &plan, ledger.now())));
    println!("{KEYS} keys: {} bytes each", (resident_kib() - before) * 1024 / KEYS);
    let turn = Cell::new(0_usize);
    criterion.bench_function("handshake/one_level_of_a_million_keys", |bencher| {
        bencher.iter(|| {
            let at = turn.get().wrapping_add(7919) % KEYS;
            turn.set(at);
            ledger.held(&id(at), &plan)
        });
    });
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Says which bars hold, and fails where instructions, which are the same every time, are too many.
fn bars(_: &mut Criterion) {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("\n{}", machine::describe());
    println!("nanoseconds of CPU, the least, the median and the most of {ROUNDS} rounds of {TURNS}");
    let mut guard = warm_guard();
    say("decision at three levels", DECISION_NS_MAX, || decide(&mut guard));
    for (name, ledger, held) in plenty() {
        let now = ledger.now();
        say(&format!("lease of a {name}, and back"), LEASE_NS_MAX, || lease(&held, now));
    }
    let Some(instructions) = steps::of(|turns| (0..turns).for_each(|_| decide(&mut guard))) else {
        return println!("instructions are not counted here: this process may not trace its child");
    };
    let verdict = if instructions <= DECISION_INSTRUCTIONS_MAX { "holds" } else { "falls short" };
    println!(
        "decision at three levels: {instructions:.1} instructions (ceiling {DECISION_INSTRUCTIONS_MAX}: {verdict})"
    );
    assert!(instructions <= DECISION_INSTRUCTIONS_MAX, "a decision takes {instructions:.1} instructions");
}

fn say(what: &str, ns_max: f64, mut work: impl FnMut()) {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let before = machine::thread_cpu_time();
            (0..TURNS).for_each(|_| work());
            (machine::thread_cpu_time() - before).as_secs_f64() * 1e9 / TURNS as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    let [least, median, most] = [0, ROUNDS / 2, ROUNDS - 1].map(|at| rounds[at]);
    let verdict = if median <= ns_max { "holds" } else { "falls short" };
    println!("{what:<28} {least:>6.1} {median:>6.1} {most:>6.1}  (bar {ns_max}: {verdict})");
}

criterion_group!(benches, decisions, leases, handshakes, bars);
criterion_main!(benches);
