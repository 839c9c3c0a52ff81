//! One round of one cell on one target: the load is put on, and what it cost is read.

use std::time::{Duration, Instant};

use crate::cells::{Cell, Work};
use crate::load::handshakes::Handshakes;
use crate::load::traffic::{Outcome, Traffic};
use crate::report::{Measure, Sample};
use crate::targets::Running;

const WARM_UP: Duration = Duration::from_millis(300);
const WARM_UP_MAX: Duration = Duration::from_secs(5);
/// Memory is looked at when it has been quiet for so long.
const QUIET: Duration = Duration::from_secs(2);
/// A sparse round must last longer to see as many messages as its quantiles need.
const SPARSE_ROUNDS: u32 = 3;
const IDLE_PAYLOAD_BYTES: usize = 1024;
const SPARSE_PAYLOAD_BYTES: usize = 64;

/// Plays the round.
pub fn play(cell: &Cell, running: &Running, time: Duration) -> Outcome<Sample> {
    let sample = match cell.work {
        Work::Echo { payload_bytes, connections, depth } => echo(running, payload_bytes, connections, depth, time),
        Work::Handshakes { loops, farewell } => {
            let mut load = Handshakes::begin(&running.door, loops, farewell)?;
            load.drive(WARM_UP)?;
            load.forget();
            let (cpu_before, elapsed) = (running.cpu_time(), load.drive(time)?);
            let cpu = running.cpu_time().saturating_sub(cpu_before);
            let unwanted = if cell.tls.is_some_and(|tls| tls.resumed) { load.full } else { load.resumed };
            if unwanted > 0 {
                return Err(format!("full handshakes: {}, resumed ones: {}", load.full, load.resumed));
            }
            let mut sample = Sample::of_work(cpu, load.count, elapsed)?;
            sample.set_quantiles(&load.lives);
            sample.set_memory(running.memory());
            load.settle()?;
            Ok(sample)
        }
        Work::Idle { sessions } => idle(running, sessions),
        Work::Sparse { connections, messages_per_second } => {
            let mut load = Traffic::open(&running.door, connections, 1, SPARSE_PAYLOAD_BYTES)?;
            load.drive_at(messages_per_second, WARM_UP)?;
            load.forget();
            let (cpu_before, time) = (running.cpu_time(), time * SPARSE_ROUNDS);
            load.drive_at(messages_per_second, time)?;
            let cpu = running.cpu_time().saturating_sub(cpu_before);
            let mut sample = Sample::of_work(cpu, load.echoes, time)?;
            sample.set_quantiles(&load.round_trips);
            sample.set_memory(running.memory());
            load.settle()?;
            Ok(sample)
        }
    };
    running.rest();
    sample
}

fn echo(running: &Running, payload_bytes: usize, connections: usize, depth: usize, time: Duration) -> Outcome<Sample> {
    let mut load = Traffic::open(&running.door, connections, depth, payload_bytes)?;
    if !running.has_sessions(connections) {
        return Err("the sessions are not in its hands".into());
    }
    load.begin()?;
    load.drive(WARM_UP)?;
    // Thousands of connections take their time until each has had its turn.
    let start = Instant::now();
    while load.echoes < connections as u64 && start.elapsed() < WARM_UP_MAX {
        load.drive(WARM_UP)?;
    }
    load.forget();
    let (cpu_before, elapsed) = (running.cpu_time(), load.drive(time)?);
    let cpu = running.cpu_time().saturating_sub(cpu_before);
    let mut sample = Sample::of_work(cpu, load.echoes, elapsed)?;
    sample.set_quantiles(&load.round_trips);
    sample.set_memory(running.memory());
    load.settle()?;
    Ok(sample)
}

/// The target has been started for this round: what it freed of others' sessions would flatter it.
fn idle(running: &Running, sessions: usize) -> Outcome<Sample> {
    std::thread::sleep(QUIET / 2);
    let before = running.memory();
    let mut load = Traffic::open(&running.door, sessions, 1, IDLE_PAYLOAD_BYTES)?;
    if !running.has_sessions(sessions) {
        return Err("the sessions are not in its hands".into());
    }
    load.once_each()?;
    std::thread::sleep(QUIET);
    let after = running.memory();
    let cpu_before = running.cpu_time();
    std::thread::sleep(QUIET);
    let cpu = running.cpu_time().saturating_sub(cpu_before);
    let grown = after.anonymous_bytes.saturating_sub(before.anonymous_bytes);
    let mut sample = Sample::default();
    sample.set(Measure::PerSession, grown as f64 / sessions as f64);
    sample.set_memory(after);
    sample.set(Measure::RestCpu, cpu.as_secs_f64() * 1e6 / QUIET.as_secs_f64());
    Ok(sample)
}
