//! What is used of long quotas outlives the data plane: all of it where it is stopped, all but the last seconds' where it
//! is killed, and nothing where the file is damaged, which is said.

use std::time::{Duration, Instant};

use super::{NOTICE, is_stopped, passes};
use crate::kit::{Gateway, Opcode, RawUpstream, Setup, Variant, on_both_drivers, on_variant, until, until_some};

on_both_drivers!(
    what_is_used_is_there_to_the_last_message_after_a_stop,
    a_damaged_file_counts_for_nothing_and_that_is_said,
);
// It takes a while, and is not the drivers'.
on_variant!(automatic_kill, Automatic, a_data_plane_that_is_killed_forgets_the_last_seconds_at_most);

const WORKERS: usize = 4;

/// A gateway with a long quota, one of a minute, and a bucket.
fn gateway(variant: Variant, upstream: &RawUpstream, amount: u32) -> Gateway {
    let plan = format!(
        "plans:\n  - {{ name: p, limits: [{{ quota: {amount}/year }}, {{ quota: 5000/minute }}, {{ rate: 5000/s }}] }}\n"
    );
    Setup::new(variant).workers(WORKERS).document(&plan).api_to("chat", &upstream.url("/"), "plan: p").start()
}

/// What is used of a limit; none: nobody knows of it.
fn used(gateway: &Gateway, limit: &str) -> Option<u64> {
    let rows = gateway.verb("usage", &["--json"]).json()["rows"].take();
    let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["limit"] == limit))?;
    row["used"].as_u64()
}

fn what_is_used_is_there_to_the_last_message_after_a_stop(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = gateway(variant, &upstream, 200);
    // What workers have in hand when they are stopped is given back.
    let mut sessions = [0; 16].map(|_| gateway.session("/chat", &upstream));
    sessions.iter_mut().for_each(|both| passes(both, 6));
    gateway.signal(libc::SIGTERM);
    for (client, backend) in &mut sessions {
        client.expect_close(1012);
        backend.expect_close(1012);
    }
    drop(sessions);
    assert!(gateway.ended().success());
    gateway.start_data_plane();
    assert_eq!(used(&gateway, "200/year"), Some(96));
    assert_eq!(used(&gateway, "5000/s"), None, "short windows and buckets begin anew");
    assert_eq!(used(&gateway, "5000/minute"), None);
    let mut both = gateway.session("/chat", &upstream);
    passes(&mut both, 104);
    is_stopped(&mut both, NOTICE);
    gateway.probe();
}

fn a_data_plane_that_is_killed_forgets_the_last_seconds_at_most(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = gateway(variant, &upstream, 1000);
    let mut both = gateway.session("/chat", &upstream);
    // Ten messages a second, so that what is missing says how old the file was.
    let mut sent = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        passes(&mut both, 1);
        sent.push(Instant::now());
        std::thread::sleep(Duration::from_millis(100));
    }
    let killed = Instant::now();
    gateway.kill_data_plane();
    gateway.start_data_plane();
    let found = until_some("what is used is told", || used(&gateway, "1000/year"));
    let must = sent.iter().filter(|at| killed - **at > Duration::from_millis(6500)).count() as u64;
    assert!(must > 0 && found >= must, "{found} of {} are known, and {must} are older than the file", sent.len());
    assert!(found <= sent.len() as u64 + 50, "{found}, of {} that were sent", sent.len());
    let said = gateway.said("dataplane");
    assert!(said.contains("quotas go on where they were"), "{said}");
    gateway.probe();
}

fn a_damaged_file_counts_for_nothing_and_that_is_said(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = gateway(variant, &upstream, 5);
    let mut both = gateway.session("/chat", &upstream);
    passes(&mut both, 5);
    is_stopped(&mut both, NOTICE);
    drop(both);
    gateway.signal(libc::SIGTERM);
    assert!(gateway.ended().success());
    let file = gateway.setup().directory().join("state-dataplane").join("limits");
    let whole = std::fs::read_to_string(&file).expect("the file of limits");
    assert!(whole.contains("\"used\":5"), "{whole}");
    std::fs::write(&file, whole.replace("\"used\":5", "\"used\":4")).expect("a file can be written");
    gateway.start_data_plane();
    assert_eq!(used(&gateway, "5/year"), None);
    let warning = "what was used of quotas cannot be read; they begin anew";
    until("the damage is said", || gateway.said("dataplane").contains(warning));
    let said = gateway.said("dataplane");
    let line = said.lines().find(|line| line.contains(warning)).expect("the line");
    assert!(line.contains(" WARN ") && line.contains("limits") && line.contains("not whole"), "{line}");
    let mut both = gateway.session("/chat", &upstream);
    passes(&mut both, 5);
    both.0.send_frame(&crate::kit::Frame::text("six"));
    both.0.expect(Opcode::TEXT, NOTICE.as_bytes());
    gateway.probe();
}
