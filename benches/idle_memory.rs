//! What an idle session costs in user memory: the data plane's anonymous memory with thousands of sessions that have
//! each echoed a message, against before, divided. And whether the process rests while they do.
//!
//! `cargo bench --bench idle_memory`. The kernel's socket buffers are not in it; the session log is written.

#[path = "../tests/kit/mod.rs"]
mod kit;
mod load;

use std::time::Duration;

use kit::{Setup, Variant};
use load::client::Round;
use load::{Client, Echo, machine};

/// Sessions: two descriptors each in the gateway, and two here, at both their ends; so they fit below a limit of 20,000.
const SESSIONS: u64 = 9000;
/// What an idle session may cost.
const BYTES_MAX: u64 = 1000;
/// CPU that all of them together may cost in a second.
const CPU_MAX: Duration = Duration::from_millis(2);
/// Descriptors that are not sessions'.
const RESERVE: u64 = 200;
/// How long the process is watched while nothing happens.
const REST: Duration = Duration::from_secs(2);

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("a measurement, no test: cargo bench --bench idle_memory");
        return;
    }
    let sessions = SESSIONS.min(machine::raise_open_files().saturating_sub(RESERVE) / 2);
    println!("idle memory: {}", machine::describe());
    let dear: Vec<_> =
        [("automatic", &[][..]), ("readiness", &["--engine", "readiness"]), ("epoll", &["--driver", "epoll"])]
            .into_iter()
            .map(|(name, flags)| measure(name, flags, sessions))
            .filter(|(bytes, cpu)| *bytes > BYTES_MAX || *cpu > CPU_MAX)
            .collect();
    assert!(
        dear.is_empty(),
        "idle sessions cost {dear:?}; {BYTES_MAX} bytes each and {CPU_MAX:?} in a second are allowed"
    );
}

/// Opens the sessions and prints their row. Returns the bytes of one, and the CPU that all of them need in a second.
fn measure(name: &str, flags: &[&str], sessions: u64) -> (u64, Duration) {
    let descriptors = machine::open_descriptors();
    let echo = Echo::start(None);
    let mut gateway = Setup::new(Variant::Automatic).flags(flags).api_to("echo", &echo.url(), "").start();
    gateway.probe();
    let mut round = Round::new(1, 1024);
    let open = |round: &mut Round| {
        let mut client = Client::connect(gateway.address(), "/echo");
        client.play(round);
        client
    };
    let first = open(&mut round);
    std::thread::sleep(REST);
    let before = machine::anonymous_bytes(gateway.pid());
    let mut clients: Vec<_> = (0..sessions / 2).map(|_| open(&mut round)).collect();
    // What the allocator gives back it gives back within a moment.
    std::thread::sleep(REST);
    let half = machine::anonymous_bytes(gateway.pid());
    clients.extend((sessions / 2..sessions).map(|_| open(&mut round)));
    std::thread::sleep(REST);
    let after = machine::anonymous_bytes(gateway.pid());
    let cpu_before = machine::cpu_time(gateway.pid());
    std::thread::sleep(REST);
    let cpu = machine::cpu_time(gateway.pid()).saturating_sub(cpu_before);
    let bytes = after.saturating_sub(before) / sessions;
    println!(
        "{name:<9} {sessions} idle sessions: {bytes} bytes each, {} in the second half ({} KiB before, {} KiB with them); \
         {} us of CPU in {REST:?}",
        after.saturating_sub(half) / (sessions - sessions / 2),
        before / 1024,
        after / 1024,
        cpu.as_micros(),
    );
    drop((first, clients, gateway));
    // The echo's ends of them are this process's too, and the next row needs as many.
    kit::until("the echo has let go of its connections", || machine::open_descriptors() < descriptors + RESERVE);
    (bytes, cpu.div_f64(REST.as_secs_f64()))
}
