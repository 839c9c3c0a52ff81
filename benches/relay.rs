//! What the gateway adds to an echo over loopback: time and CPU per message, beside the same echo without a gateway.
//!
//! `cargo bench --bench relay`. The gateway is the executable with one worker on CPU 0; generator and backend share
//! CPU 1. One connection with one message in flight measures mostly how the machine wakes a process that sleeps.

#[path = "../tests/kit/mod.rs"]
mod kit;
mod load;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};

use kit::{Gateway, Setup, Variant};
use load::client::Round;
use load::{Client, Echo, machine};

const SIZES: [usize; 4] = [64, 1024, 16 * 1024, 256 * 1024];
/// Connections, and messages in flight on each.
const MIXES: [(usize, usize); 3] = [(1, 1), (1, 16), (64, 1)];
/// Larger messages than these do not fit a socket that nobody reads, which many connections at a time need.
const SIZE_MAX_OF_MANY: usize = 16 * 1024;

/// What waits and what moves the bytes, by the flags that ask for it.
const WAYS: [(&str, &[&str]); 4] = [
    ("automatic", &[]),
    ("copying", &["--splice", "off"]),
    ("readiness", &["--engine", "readiness"]),
    ("epoll", &["--driver", "epoll"]),
];

/// Where a gateway says what it waits with and what moves its bytes.
const MANNER: &str = "framegate_driver_info{";

/// One way from the client to the echo.
struct Way {
    name: &'static str,
    address: SocketAddr,
    target: &'static str,
    gateway: Option<Gateway>,
}

/// What a cell of the table took in all.
#[derive(Default, Clone, Copy)]
struct Spent {
    messages: u64,
    time: Duration,
    cpu: Duration,
}

fn main() {
    machine::raise_open_files();
    let apart = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    let ours = apart.then_some(1);
    let echo = Echo::start(ours);
    let mut ways = vec![Way { name: "direct", address: echo.address(), target: "/", gateway: None }];
    for (name, flags) in WAYS {
        let gateway = Setup::new(Variant::Automatic).flags(flags).cpus("0").api_to("echo", &echo.url(), "").start();
        ways.push(Way { name, address: gateway.address(), target: "/echo", gateway: Some(gateway) });
    }
    if let Some(cpu) = ours {
        machine::pin(cpu);
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1200))
        .sample_size(20)
        .configure_from_args();
    let table = RefCell::new(BTreeMap::new());
    for size in SIZES {
        for mix in MIXES.into_iter().filter(|(connections, _)| *connections == 1 || size <= SIZE_MAX_OF_MANY) {
            cell(&mut criterion, &ways, size, mix, &table);
        }
    }
    criterion.final_summary();
    print(&ways, &table.into_inner(), apart);
}

type Table = BTreeMap<(usize, (usize, usize), &'static str), Spent>;

fn cell(criterion: &mut Criterion, ways: &[Way], size: usize, mix: (usize, usize), table: &RefCell<Table>) {
    let (connections, depth) = mix;
    let messages = (connections * depth) as u64;
    let mut group = criterion.benchmark_group(format!("echo of {size} bytes"));
    group.throughput(Throughput::Elements(messages));
    for way in ways {
        let mut clients: Vec<_> = (0..connections).map(|_| Client::connect(way.address, way.target)).collect();
        let mut round = Round::new(depth, size);
        let pid = way.gateway.as_ref().map(Gateway::pid);
        let cpu = || pid.map_or(Duration::ZERO, machine::cpu_time);
        group.bench_function(BenchmarkId::new(way.name, format!("{connections} x {depth} in flight")), |bencher| {
            bencher.iter_custom(|rounds| {
                let (cpu_before, start) = (cpu(), Instant::now());
                for _ in 0..rounds {
                    match &mut clients[..] {
                        [client] => client.play(&mut round),
                        clients => Client::play_all(clients, &mut round),
                    }
                }
                let (time, cpu) = (start.elapsed(), cpu().saturating_sub(cpu_before));
                let mut table = table.borrow_mut();
                let spent: &mut Spent = table.entry((size, mix, way.name)).or_default();
                spent.messages += rounds * messages;
                spent.time += time;
                spent.cpu += cpu;
                time
            });
        });
    }
    group.finish();
}

/// The table: microseconds per message, and their ratio to the echo without a gateway.
fn print(ways: &[Way], table: &Table, apart: bool) {
    let place = if apart { "gateway on CPU 0, generator and echo on CPU 1" } else { "everything on the same CPUs" };
    println!("\nrelay over loopback, 1 worker, {place}; cN dM: N connections, M messages in flight on each");
    println!("{}", machine::describe());
    for way in ways {
        let metrics = way.gateway.as_ref().and_then(|gateway| gateway.ask("/metrics"));
        let line = metrics.iter().flat_map(|(_, text)| text.lines()).find(|line| line.starts_with(MANNER));
        if let Some((labels, _)) = line.and_then(|line| line[MANNER.len()..].split_once('}')) {
            println!("{}: {}", way.name, labels.replace(',', ", "));
        }
    }
    println!("microseconds per echoed message: wall time (ratio to direct), the gateway's CPU time");
    for size in SIZES {
        for mix in MIXES {
            let Some(direct) = table.get(&(size, mix, "direct")) else { continue };
            let per_message = |time: Duration, spent: &Spent| time.as_secs_f64() * 1e6 / spent.messages as f64;
            let base = per_message(direct.time, direct);
            let mut row = format!("{size:>7} B  c{:<2} d{:<2}  direct {base:>8.2}", mix.0, mix.1);
            for way in &ways[1..] {
                let Some(spent) = table.get(&(size, mix, way.name)) else { continue };
                let (wall, cpu) = (per_message(spent.time, spent), per_message(spent.cpu, spent));
                row += &format!("  {} {wall:>8.2} ({:.2}x) cpu {cpu:>7.2}", way.name, wall / base);
            }
            println!("{row}");
        }
    }
}
