//! What limits cost a relayed message: the same echo, by the same gateway and worker, with no level of limits and with
//! three (application, subscription, API), none of which is ever reached.
//!
//! `cargo bench --bench limits`. Rounds take turns, so that what the machine does besides falls on both; one gateway with
//! one worker on CPU 0, generator and echo on CPU 1.

#[path = "../tests/kit/mod.rs"]
mod kit;
mod load;

use std::time::{Duration, Instant};

use kit::people::People;
use kit::{Gateway, Setup, Upgrade, Variant};
use load::client::Round;
use load::{Client, Echo, machine};

const ROUNDS: usize = 15;
const ROUND_TIME: Duration = Duration::from_millis(600);
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

fn main() {
    machine::raise_open_files();
    let apart = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    let ours = apart.then_some(1);
    let echo = Echo::start(ours);
    let gateway = gateway(&echo);
    if let Some(cpu) = ours {
        machine::pin(cpu);
    }
    println!("{}", machine::describe());
    println!("microseconds per echoed message (two decisions), medians of {ROUNDS} rounds that take turns");
    for (bytes, connections, depth) in CELLS {
        let open = |api: &str| -> Vec<Client> {
            let request = Upgrade::to(&format!("/{api}")).with("apikey", &format!("key-of-{api}"));
            (0..connections).map(|_| Client::ask(gateway.address(), &request)).collect()
        };
        let mut ways = [open("free"), open("limited")];
        let mut round = Round::new(depth, bytes);
        let mut spent = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (clients, spent) in ways.iter_mut().zip(&mut spent) {
                spent.push(play(&gateway, clients, &mut round, (connections * depth) as u64));
            }
        }
        let [free, limited] = spent.map(|rounds| {
            let median = |of: fn(&Spent) -> f64| {
                let mut all: Vec<f64> = rounds.iter().map(of).collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            };
            Spent { wall_us: median(|one| one.wall_us), cpu_us: median(|one| one.cpu_us) }
        });
        let throughput = free.wall_us / limited.wall_us;
        let verdict = if throughput >= BAR { "holds" } else { "falls short" };
        println!(
            "{bytes:>6} B  c{connections:<3} d{depth:<3}  free {:.2} cpu {:.2}  limited {:.2} cpu {:.2}  \
             throughput {throughput:.3} of free (bar {BAR}: {verdict}), cpu {:.3}",
            free.wall_us,
            free.cpu_us,
            limited.wall_us,
            limited.cpu_us,
            limited.cpu_us / free.cpu_us,
        );
    }
}

/// One gateway with two APIs that differ in their plans only: both ask for a key of the same application.
fn gateway(echo: &Echo) -> Gateway {
    let plan = "{ limits: [{ rate: 100000000/s, burst: 1000000000 }, { quota: 1000000000000/day }] }";
    let plans =
        ["of-application", "of-subscription", "of-api"].map(|name| plan.replacen('{', &format!("{{ name: {name},"), 1));
    // An application has one plan at all APIs, so there are two of them, each with a key.
    let people = People::new()
        .application("free", "")
        .application("mobile", "plan: of-application")
        .subscriptions("free", &["free"])
        .entry("subscriptions", "application: mobile, api: limited, plan: of-subscription".into())
        .key("k1", "free", "key-of-free", "")
        .key("k2", "mobile", "key-of-limited", "");
    let asked = "authentication: { accept: [api_key] }";
    Setup::new(Variant::Automatic)
        .cpus("0")
        .people(people)
        .document(&format!("plans: [{}]\n", plans.join(", ")))
        .api_to("free", &echo.url(), asked)
        .api_to("limited", &echo.url(), &format!("{asked}, plan: of-api"))
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
