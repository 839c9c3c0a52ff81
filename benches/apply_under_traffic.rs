//! How long a generation of 10,000 APIs takes to be applied while traffic flows, and what the traffic notices.
//!
//! A whole gateway with one worker, real sessions that echo, and the control plane's own words on how long the node took. One row
//! is printed for each step; nothing is asserted but that no echo failed, because time is not ours to promise here.

#[path = "../tests/kit/mod.rs"]
mod kit;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kit::{EchoBackend, Gateway, Setup, Variant};

/// APIs beside the one that carries the traffic.
const APIS: usize = 10_000;
/// Sessions that echo all the time.
const SESSIONS: usize = 16;
/// Between two echoes of a session: the worker is busy, and not saturated.
const PAUSE: Duration = Duration::from_millis(1);
/// How long the traffic is watched without a change.
const QUIET: Duration = Duration::from_secs(2);

fn main() {
    let backend = EchoBackend::start();
    let setup = Setup::new(Variant::Automatic).workers(1).api_to("traffic", &backend.url("/"), "");
    let yaml = setup.yaml();
    let gateway = setup.start();
    let traffic = Traffic::start(gateway.address());

    println!("{:<34} {:>10} {:>10} {:>10} {:>10} {:>10}", "step", "node ms", "echoes", "p50 us", "p99 us", "max us");
    let ((), quiet) = traffic.during(|| std::thread::sleep(QUIET));
    row("traffic alone", None, &quiet);
    let grown = with_apis(&yaml, &backend, 0);
    let (node_ms, first) = traffic.during(|| apply(&gateway, &grown));
    row("10,000 APIs, all new", Some(node_ms), &first);
    for step in 1..=3 {
        let changed = with_apis(&yaml, &backend, step);
        let (node_ms, changed) = traffic.during(|| apply(&gateway, &changed));
        row("10,000 APIs, one changed", Some(node_ms), &changed);
    }
    let ((), quiet) = traffic.during(|| std::thread::sleep(QUIET));
    row("traffic alone, 10,000 APIs", None, &quiet);
    traffic.stop();
}

/// The configuration with so many more APIs, one of which differs from step to step.
fn with_apis(yaml: &str, backend: &EchoBackend, step: usize) -> String {
    let mut text = yaml.trim_end().to_owned();
    for number in 0..APIS {
        let max = if number == 0 { 1000 + step } else { 1000 };
        write!(
            text,
            "\n  - {{ name: bench-{number}, version: v1, context: /bench/{number}, endpoints: {{ production: {{ url: \"{}\" }} }}, limits: {{ max_fragments: {max} }} }}",
            backend.url("/")
        )
        .expect("a String takes what is written");
    }
    text.push('\n');
    text
}

/// Applies a configuration and returns what the node itself says it took: checking, building and swapping.
fn apply(gateway: &Gateway, yaml: &str) -> f64 {
    let file = gateway.setup().directory().join("bench.yaml");
    std::fs::write(&file, yaml).expect("the file can be written");
    let outcome = gateway.verb("apply", &[file.to_str().expect("a path in UTF-8"), "--json"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let applied: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("apply --json is JSON");
    applied["nodes"][0]["micros"].as_f64().expect("the node said how long it took") / 1000.0
}

fn row(step: &str, node_ms: Option<f64>, echoes: &[Duration]) {
    let mut sorted = echoes.to_vec();
    sorted.sort_unstable();
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part) as usize].as_micros();
    let node = node_ms.map_or("-".into(), |ms| format!("{ms:.1}"));
    println!("{step:<34} {node:>10} {:>10} {:>10} {:>10} {:>10}", sorted.len(), at(0.5), at(0.99), at(1.0));
}

/// Sessions that echo all the time, each on a thread, and tell how long each echo took.
struct Traffic {
    over: Arc<AtomicBool>,
    echoes: Receiver<Duration>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    fn start(gateway: SocketAddr) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (sender, echoes) = channel();
        let threads = (0..SESSIONS)
            .map(|_| {
                let (over, sender) = (Arc::clone(&over), sender.clone());
                std::thread::spawn(move || session(gateway, &over, &sender))
            })
            .collect();
        Self { over, echoes, threads }
    }

    /// What `work` gives, and the echoes that ended while it ran.
    fn during<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<Duration>) {
        self.echoes.try_iter().for_each(drop);
        let outcome = work();
        (outcome, self.echoes.try_iter().collect())
    }

    fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no echo fails");
        }
    }
}

fn session(gateway: SocketAddr, over: &AtomicBool, echoes: &Sender<Duration>) {
    let (mut socket, _) = tungstenite::connect(format!("ws://{gateway}/traffic")).expect("the session begins");
    let mut number = 0_u64;
    while !over.load(Ordering::Relaxed) {
        let message = tungstenite::Message::binary(number.to_be_bytes().repeat(16));
        let begun = Instant::now();
        socket.send(message.clone()).expect("the session lives");
        loop {
            match socket.read().expect("the session lives") {
                tungstenite::Message::Ping(_) => {}
                echo => break assert_eq!(echo, message, "an echo came back changed"),
            }
        }
        // Whoever listens has gone only at the end.
        let _ = echoes.send(begun.elapsed());
        number += 1;
        std::thread::sleep(PAUSE);
    }
    let _ = socket.close(None);
}
