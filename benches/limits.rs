//! What limits cost a relayed message: the same echo, by the same gateway and worker, with no level of limits, with three
//! (application, subscription, API) of one limit each, and with three of two limits each; none is ever reached.
//!
//! `cargo bench --bench limits`. Rounds take turns, so that what the machine does besides falls on all; one worker on CPU 0,
//! generator and echo on CPU 1. `BESIDE=PATH` has the executable of another build take its turns too, without limits.

#[path = "../tests/kit/mod.rs"]
mod kit;
mod load;

use std::path::Path;
use std::time::{Duration, Instant};

use kit::people::People;
use kit::{Gateway, Setup, Upgrade, Variant};
use load::client::Round;
use load::{Client, Echo, machine};

const ROUNDS: usize = 31;
const ROUND_TIME: Duration = Duration::from_millis(300);
/// Message bytes, connections, and messages in flight on each.
const CELLS: [(usize, usize, usize); 4] = [(64, 1, 16), (64, 64, 1), (64, 64, 8), (16 * 1024, 16, 1)];
/// The bar: throughput with limits, of that without.
const BAR: f64 = 0.97;

/// What one way came to in one round.
#[derive(Clone, Copy)]
struct Spent {
    /// Microseconds of wall time for an echoed message.
    wall_us: f64,
    /// Microseconds of the gateway's CPU.
    cpu_us: f64,
}

/// One way from the client to the echo.
struct Way<'g> {
    name: &'static str,
    gateway: &'g Gateway,
    api: &'static str,
}

fn main() {
    machine::raise_open_files();
    let apart = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    let ours = apart.then_some(1);
    let echo = Echo::start(ours);
    let gateway = gateway(&echo, None);
    let beside = std::env::var("BESIDE").ok().map(|program| self::gateway(&echo, Some(Path::new(&program))));
    if let Some(cpu) = ours {
        machine::pin(cpu);
    }
    let mut ways = vec![
        Way { name: "free", gateway: &gateway, api: "free" },
        Way { name: "limited", gateway: &gateway, api: "limited" },
        Way { name: "twofold", gateway: &gateway, api: "twofold" },
    ];
    ways.extend(beside.as_ref().map(|gateway| Way { name: "beside", gateway, api: "free" }));
    println!("{}", machine::describe());
    println!(
        "microseconds per echoed message (two decisions), medians of {ROUNDS} rounds that take turns; free of all limits,"
    );
    println!(
        "limited at three levels, and by two limits at each; parts of free are medians of the rounds' own parts, with their quartiles"
    );
    let mut falls_short = false;
    for cell in CELLS {
        let spent = measure(&ways, cell);
        let median_us = |of: fn(&Spent) -> f64, way: usize| median(spent[way].iter().map(of).collect())[1];
        let (bytes, connections, depth) = cell;
        println!("{bytes:>6} B  c{connections:<3} d{depth:<3}");
        for (at, way) in ways.iter().enumerate() {
            let (wall_us, cpu_us) = (median_us(|one| one.wall_us, at), median_us(|one| one.cpu_us, at));
            let mut row = format!("    {:<8} wall {wall_us:>7.2}  cpu {cpu_us:>7.2}", way.name);
            if at > 0 {
                let [low, throughput, high] = part(&spent[0], &spent[at], |one| one.wall_us);
                let [cpu_low, cpu, cpu_high] = part(&spent[at], &spent[0], |one| one.cpu_us);
                row += &format!("  throughput {throughput:.3} of free ({low:.3} to {high:.3})");
                row += &format!("  cpu {cpu:.3} ({cpu_low:.3} to {cpu_high:.3})");
                if way.name == "limited" {
                    falls_short |= throughput < BAR;
                    row += &format!("  bar {BAR}: {}", if throughput >= BAR { "holds" } else { "falls short" });
                }
            }
            println!("{row}");
        }
    }
    println!("{}", if falls_short { "the bar falls short in some cell" } else { "the bar holds in every cell" });
}

/// What each way came to in each round. Each round begins with another way.
fn measure(ways: &[Way<'_>], (bytes, connections, depth): (usize, usize, usize)) -> Vec<Vec<Spent>> {
    let open = |way: &Way<'_>| -> Vec<Client> {
        let request = Upgrade::to(&format!("/{}", way.api)).with("apikey", &format!("key-of-{}", way.api));
        (0..connections).map(|_| Client::ask(way.gateway.address(), &request)).collect()
    };
    let mut clients: Vec<_> = ways.iter().map(open).collect();
    let mut round = Round::new(depth, bytes);
    let mut spent = vec![Vec::with_capacity(ROUNDS); ways.len()];
    for turn in 0..ROUNDS {
        for place in 0..ways.len() {
            let at = (turn + place) % ways.len();
            let spent_now = play(ways[at].gateway, &mut clients[at], &mut round, (connections * depth) as u64);
            spent[at].push(spent_now);
        }
    }
    spent
}

/// One way's figure as a part of another's, round by round.
fn part(of: &[Spent], to: &[Spent], figure: fn(&Spent) -> f64) -> [f64; 3] {
    median(of.iter().zip(to).map(|(one, other)| figure(one) / figure(other)).collect())
}

/// The lower quartile, the median, the upper quartile.
fn median(mut all: Vec<f64>) -> [f64; 3] {
    all.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| all[(all.len() - 1) * quarter / 4])
}

/// One gateway with APIs that differ in their plans only.
fn gateway(echo: &Echo, program: Option<&Path>) -> Gateway {
    let asked = "authentication: { accept: [api_key] }";
    let setup = Setup::new(Variant::Automatic).cpus("0");
    if let Some(program) = program {
        // It may know nothing of limits.
        let people =
            People::new().application("free", "").subscriptions("free", &["free"]).key("k1", "free", "key-of-free", "");
        return setup.program_at(program).people(people).api_to("free", &echo.url(), asked).start();
    }
    let (rate, quota) = ("{ rate: 100000000/s, burst: 1000000000 }", "{ quota: 1000000000000/day }");
    let plans = [("one", rate.to_owned()), ("two", format!("{rate}, {quota}"))].map(|(many, limits)| {
        ["application", "subscription", "api"]
            .map(|of| format!("{{ name: {many}-of-{of}, limits: [{limits}] }}"))
            .join(", ")
    });
    // An application has one plan at all APIs, so there is one for each, with a key.
    let subscription = |api: &str, many: &str| format!("application: {api}, api: {api}, plan: {many}-of-subscription");
    let people = People::new()
        .application("free", "")
        .application("limited", "plan: one-of-application")
        .application("twofold", "plan: two-of-application")
        .subscriptions("free", &["free"])
        .entry("subscriptions", subscription("limited", "one"))
        .entry("subscriptions", subscription("twofold", "two"))
        .key("k1", "free", "key-of-free", "")
        .key("k2", "limited", "key-of-limited", "")
        .key("k3", "twofold", "key-of-twofold", "");
    setup
        .people(people)
        .document(&format!("plans: [{}]\n", plans.join(", ")))
        .api_to("free", &echo.url(), asked)
        .api_to("limited", &echo.url(), &format!("{asked}, plan: one-of-api"))
        .api_to("twofold", &echo.url(), &format!("{asked}, plan: two-of-api"))
        .start()
}

fn play(gateway: &Gateway, clients: &mut [Client], round: &mut Round, messages: u64) -> Spent {
    let (cpu_before, begun) = (machine::cpu_time(gateway.pid()), Instant::now());
    let mut played = 0;
    while begun.elapsed() < ROUND_TIME {
        match &mut *clients {
            [client] => client.play(round),
            clients => Client::play_all(clients, round),
        }
        played += messages;
    }
    let (wall, cpu) = (begun.elapsed(), machine::cpu_time(gateway.pid()).saturating_sub(cpu_before));
    let each = |time: Duration| time.as_secs_f64() * 1e6 / played as f64;
    Spent { wall_us: each(wall), cpu_us: each(cpu) }
}
