//! Supervision with children of a line of shell each.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::path::Path;
use std::time::{Duration, Instant};

use controlplane::supervise::{Program, supervise};

fn shell(name: &'static str, script: &str, directory: &Path) -> Program {
    Program {
        name,
        executable: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: vec![("AT", directory.as_os_str().to_owned())],
        when_orphaned: libc::SIGKILL,
    }
}

fn run(control: &str, data: &str) -> (u8, Duration, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let control = shell("control plane", control, directory.path());
    let data = shell("data plane", data, directory.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begun = Instant::now();
    let code = runtime.block_on(supervise(control, data, |_| ())).unwrap();
    (code, begun.elapsed(), directory)
}

fn lives(directory: &Path, name: &str) -> usize {
    std::fs::read_to_string(directory.join(name)).unwrap_or_default().lines().count()
}

const UNTIL_TWO_CONTROL_PLANES_DIED: &str =
    "echo born >>$AT/data; until [ \"$(wc -l <$AT/control 2>/dev/null)\" -ge 3 ] 2>/dev/null; do sleep 0.02; done";

#[test]
fn a_control_plane_that_dies_is_started_again_and_the_data_plane_does_not_notice() {
    let (code, took, directory) = run("echo born >>$AT/control; kill -9 $$", UNTIL_TWO_CONTROL_PLANES_DIED);
    assert_eq!(code, 0);
    assert_eq!(lives(directory.path(), "data"), 1, "one life");
    assert!(took >= Duration::from_millis(300), "100 ms, then 200 ms: {took:?}");
}

#[test]
fn a_data_plane_that_dies_is_started_again_and_one_that_ends_well_ends_all() {
    let data = "echo born >>$AT/data; [ \"$(wc -l <$AT/data)\" -ge 3 ] && exit 0; exit 7";
    let (code, _, directory) = run("exec sleep 60", data);
    assert_eq!((code, lives(directory.path(), "data")), (0, 3));
}

#[test]
fn what_cannot_be_had_at_the_start_is_the_end_and_not_tried_for_ever() {
    let (code, took, _directory) = run("exec sleep 60", "exit 2");
    assert_eq!(code, 2);
    let (code, _, _directory) = run("exit 2", "trap 'exit 0' TERM; while :; do sleep 0.02; done");
    assert_eq!(code, 2);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_control_plane_that_does_not_stop_is_ended() {
    let (code, took, _directory) = run("trap '' TERM; while :; do sleep 0.05; done", "sleep 0.3");
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(10), "{took:?}");
}
