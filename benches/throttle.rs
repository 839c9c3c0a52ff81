//! What limits cost on one shard: a decision while there is something in hand, a lease when there is not, and finding a
//! session's meters among a million.
//!
//! `cargo bench --bench throttle`

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

fn decisions(criterion: &mut Criterion) {
    let bucket = Terms::Bucket { amount: PLENTY, per_ns: 1_000_000_000, burst: PLENTY };
    let quota = Terms::Quota { amount: PLENTY, window: Window::one(WindowUnit::Day) };
    let levels = vec![
        level(LevelKind::Application, quota),
        level(LevelKind::Subscription, bucket),
        level(LevelKind::Api, bucket),
    ];
    let wall = Rc::new(WallOffset::default());
    wall.set(0, WALL_MS);
    let mut guard = Guard::new(levels, wall).expect("it is limited");
    criterion.bench_function("decision/three_levels", |bencher| {
        bencher.iter(|| {
            let verdict = guard.message(black_box(Direction::ToUpstream), black_box(64), black_box(1));
            assert_eq!(verdict, Verdict::Pass);
        });
    });
}

fn leases(criterion: &mut Criterion) {
    let bucket = Terms::Bucket { amount: PLENTY, per_ns: 1_000_000_000, burst: PLENTY };
    let quota = Terms::Quota { amount: PLENTY, window: Window::one(WindowUnit::Day) };
    for (name, terms) in [("lease/bucket", bucket), ("lease/quota", quota)] {
        let meters = Arc::new(Meters::default());
        let ledger = Ledger::new(meters, (0, 4), Record::new(1, 1).shard(0));
        let scope =
            Arc::new(Scope { kind: Some(LevelKind::Api), name: LevelKind::Api.word().into(), plan: "gold".into() });
        let plan = plan(&[terms]);
        let rule = plan.ids().next().expect("it has one");
        let held = ledger.held(&LimitId { scope, key: "chat:v1".into(), rule }, &plan);
        let now = ledger.now();
        // What was in hand is given back each time, so that each asks the shared meter for a lease.
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                assert!(held.has(black_box(1), now));
                held.give_back(now);
            });
        });
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

criterion_group!(benches, decisions, leases, handshakes);
criterion_main!(benches);
