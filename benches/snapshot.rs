//! What a snapshot of 10,000 APIs costs on its way: check, encode, assemble, build, swap; sizes are printed.
//!
//! The steps of a node that applies a push are assemble, build and swap: together they must stay under 50 ms.

use std::collections::HashSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use dataplane::tables::Tables;
use proto::control::Message;
use proto::control::envelope::PREFIX_BYTES;
use proto::control::message::{Generation, Push};
use proto::snapshot::{Api, Config, Listener, Snapshot, Target, Topic, Upstream};

const APIS: usize = 10_000;

fn config() -> Config {
    let url = |at: usize| format!("ws://10.0.{}.{}:9000/app", at / 250 % 250, at % 250).parse().expect("a URL");
    let api = |at: usize| {
        let target =
            if at.is_multiple_of(2) { Target::Url(url(at)) } else { Target::Upstream(format!("upstream{}", at / 20)) };
        let mut api = Api::new(format!("api{at}"), "v1", format!("/api{at}/live"), target);
        api.default_version = true;
        api.origins = vec!["https://app.example.com".into()];
        if at.is_multiple_of(4) {
            api.topics = vec![
                Topic { topic: "/rooms/{room}".into(), mapping: Some("/r/{room}".into()), ..Topic::default() },
                Topic { topic: "/*".into(), mapping: None, scopes: Vec::new(), ..Topic::default() },
            ];
        }
        api
    };
    Config {
        version: 1,
        listeners: vec![Listener::new("public", "0.0.0.0:8080".parse().expect("an address"))],
        upstreams: (0..APIS / 20)
            .map(|at| Upstream::new(format!("upstream{at}"), vec![url(at), url(at + 1)]))
            .collect(),
        apis: (0..APIS).map(api).collect(),
        ..Config::default()
    }
}

fn generation(number: u64) -> Generation {
    Generation { source: "bench".into(), number }
}

fn sound(config: Config) -> Snapshot {
    Snapshot::check(config).expect("the bench's configuration is sound")
}

fn read(envelope: &[u8]) -> Push {
    match Message::decode(&envelope[PREFIX_BYTES..]) {
        Ok(Message::Push(push)) => push,
        other => panic!("not a push: {other:?}"),
    }
}

fn snapshots(criterion: &mut Criterion) {
    let before = config();
    let mut after = before.clone();
    after.apis[APIS / 2].limits.max_fragments = 7;
    let (first, second) = (sound(before.clone()), sound(after));
    let digests: HashSet<_> = first.list().into_iter().map(|(_, digest)| digest).collect();
    let full = Push::new(generation(1), &first, &HashSet::new());
    let delta = Push::new(generation(2), &second, &digests);
    let bytes = Message::Push(full.clone()).encode().expect("a push fits an envelope");
    let delta_bytes = Message::Push(delta.clone()).encode().expect("a push fits an envelope");
    println!(
        "{APIS} APIs: {} sections, full push {} bytes, push of one changed API {} bytes in {} body",
        full.sections.len(),
        bytes.len(),
        delta_bytes.len(),
        delta.bodies.len()
    );

    let mut group = criterion.benchmark_group("snapshot");
    group.sample_size(20);
    group.bench_function("check", |bencher| {
        bencher.iter_batched(|| before.clone(), Snapshot::check, BatchSize::PerIteration);
    });
    group.bench_function("check sections", |bencher| {
        let check = |sections| Snapshot::from_sections(sections, None);
        bencher.iter_batched(|| first.sections().clone(), check, BatchSize::PerIteration);
    });
    group.bench_function("encode full push", |bencher| {
        bencher.iter(|| {
            Message::Push(Push::new(generation(1), &first, &HashSet::new())).encode().expect("a push fits an envelope")
        });
    });
    group.bench_function("decode and assemble full push", |bencher| {
        bencher.iter(|| {
            let push = read(black_box(&bytes));
            push.assemble(None).expect("the push is sound")
        });
    });
    group.bench_function("decode and assemble one changed", |bencher| {
        bencher.iter(|| {
            let push = read(black_box(&delta_bytes));
            push.assemble(Some(&first)).expect("the push is sound")
        });
    });
    group.bench_function("build from nothing", |bencher| {
        bencher.iter_with_large_drop(|| Tables::build(generation(1), &first, None).expect("nothing here speaks TLS"));
    });
    let (_, assembled) = delta.assemble(Some(&first)).expect("the push is sound");
    let current = Arc::new(Tables::build(generation(1), &first, None).expect("nothing here speaks TLS"));
    group.bench_function("build one changed", |bencher| {
        bencher.iter_with_large_drop(|| {
            Tables::build(generation(2), &assembled, Some(&current)).expect("nothing here speaks TLS")
        });
    });
    let next = Arc::new(Tables::build(generation(2), &assembled, Some(&current)).expect("nothing here speaks TLS"));
    let slot = ArcSwap::new(current.clone());
    group.bench_function("swap", |bencher| {
        bencher.iter(|| {
            drop(slot.swap(next.clone()));
            drop(slot.swap(current.clone()));
        });
    });
    group.bench_function("fate of one session", |bencher| {
        let entry = current.api("api1", "v1").expect("the API is published");
        let changes = current.changes(&next);
        bencher.iter(|| black_box(changes.fate(black_box(entry), &entry.limits)));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = snapshots
}
criterion_main!(benches);
