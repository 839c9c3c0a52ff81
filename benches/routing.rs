//! What finding a route costs among 10, 1,000 and 100,000 APIs: it must not grow with their number.
//!
//! Every API has two versions, one of them the default; a tenth is bound to a host, and topics have a parameter.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use dataplane::route::{RouteRequest, select};
use dataplane::tables::Tables;
use proto::control::message::Generation;
use proto::snapshot::{Api, Config, Environment, Listener, Snapshot, Target, Topic};

fn tables(count: usize) -> Tables {
    let api = |at: usize| {
        let target = Target::Url(format!("ws://10.0.{}.{}:9000/app", at / 250 % 250, at % 250).parse().expect("a URL"));
        let mut api =
            Api::new(format!("api{}", at / 2), format!("v{}", at % 2), format!("/api{}/live", at / 2), target);
        api.default_version = at.is_multiple_of(2);
        if at % 20 < 2 {
            api.hosts = vec![format!("h{}.example.com", at % 500), "*.example.org".into()];
        }
        api.topics = vec![
            Topic { topic: "/".into(), mapping: None, scopes: Vec::new(), ..Topic::default() },
            Topic { topic: "/rooms/{room}".into(), mapping: Some("/r/{room}".into()), ..Topic::default() },
            Topic { topic: "/*".into(), mapping: None, scopes: Vec::new(), ..Topic::default() },
        ];
        api
    };
    let listeners = vec![Listener::new("public", "0.0.0.0:8080".parse().expect("an address"))];
    let config = Config { version: 1, listeners, apis: (0..count).map(api).collect(), ..Config::default() };
    let snapshot = Snapshot::check(config).expect("the bench's configuration is sound");
    Tables::build(Generation { source: "bench".into(), number: 1 }, &snapshot, None).expect("nothing here speaks TLS")
}

fn routing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for count in [10, 1000, 100_000] {
        let tables = tables(count);
        let last = count / 2 - 1;
        for (what, path) in [
            ("version", format!("/api{last}/live/v1")),
            ("default and parameter", format!("/api{last}/live/rooms/42")),
            ("nothing", format!("/api{last}x/live/v1")),
            ("hostile", "/a".repeat(4000)),
        ] {
            let request = RouteRequest {
                listener: "public",
                host: "gateway.example.net",
                path: &path,
                environment: Environment::Production,
            };
            group.bench_function(BenchmarkId::new(what, count), |bencher| {
                bencher.iter(|| black_box(select(&tables, black_box(&request))));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = routing
}
criterion_main!(benches);
