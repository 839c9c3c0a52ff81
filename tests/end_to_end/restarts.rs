//! A data plane that starts again with no control plane at all: it serves what it stored, or says why it cannot.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::drills::load::{Door, Load};
use crate::drills::{raise_descriptors, until_stored};
use crate::kit::gateway::ask_control_plane;
use crate::kit::{EchoBackend, Gateway, Setup, Upgrade, Variant, aloud, on_every_variant, until};

on_every_variant!(
    after_a_restart_with_no_control_plane_new_sessions_work_at_once,
    a_successor_waits_until_the_kernel_has_taken_the_killed_one_apart,
);

fn after_a_restart_with_no_control_plane_new_sessions_work_at_once(variant: Variant) {
    raise_descriptors();
    let echo = EchoBackend::start();
    let mut gateway = Setup::new(variant).api_to("chat", &echo.url("/"), "").start();
    until_stored(&gateway);
    gateway.kill_control_plane();
    // Once without warning, once as it should be.
    for is_killed in [true, false] {
        if is_killed {
            gateway.kill_data_plane();
        } else {
            gateway.signal(libc::SIGTERM);
            assert!(gateway.ended().success());
        }
        let begun = Instant::now();
        gateway.start_data_plane();
        let ready = begun.elapsed();
        let load = Load::start(vec![Door::of(&gateway, "/chat"); 300], 7);
        load.go_on_for(600);
        let tally = load.finish();
        aloud(&format!("{}: ready {ready:.0?} after its start, then {} messages", variant.word(), tally.messages));
        assert_eq!(gateway.metric("framegate_control_connected", &[]), 0.0);
        assert_eq!(gateway.metric("framegate_refusals_total", &[]), 0.0);
    }
}

/// The sockets of a process that was killed live on for a moment, more so with io_uring.
fn a_successor_waits_until_the_kernel_has_taken_the_killed_one_apart(variant: Variant) {
    let mut gateway = Setup::new(variant).start();
    until_stored(&gateway);
    gateway.kill_control_plane();
    for _ in 0..8 {
        let idle: Vec<_> = (0..20).map(|_| gateway.connect()).collect();
        gateway.probe();
        gateway.kill_data_plane();
        drop(idle);
        gateway.start_data_plane();
        gateway.probe();
    }
}

/// So many APIs that a save takes long enough to be caught in the act; all of them differ from round to round.
const APIS: usize = 150;
const ROUNDS: usize = 3;

#[test]
fn a_data_plane_that_is_killed_in_the_midst_of_a_save_has_the_old_snapshot_or_the_new() {
    let mut gateway = Setup::new(Variant::Automatic).start();
    assert_eq!(gateway.apply(&large(gateway.setup(), 0)).code, 0);
    until_stored(&gateway);
    let mut caught = 0;
    for round in 1..=ROUNDS {
        let path = gateway.setup().directory().join("large.yaml");
        fs::write(&path, large(gateway.setup(), round)).expect("a file can be written");
        let control = gateway.setup().control_path();
        let applying = std::thread::spawn(move || {
            ask_control_plane(&control, "apply", &[path.to_str().expect("a path in UTF-8")]);
        });
        // Early in the save, late in it, and at the change from one to the other.
        caught += usize::from(is_caught_saving(&state(&gateway), round % 3));
        gateway.kill_data_plane();
        gateway.kill_control_plane();
        applying.join().expect("the verb ends, whatever becomes of it");

        gateway.start_data_plane();
        gateway.probe();
        let served: Vec<usize> = [round - 1, round].into_iter().filter(|round| is_served(&gateway, *round)).collect();
        assert_eq!(served.len(), 1, "round {round}: {served:?} is served\n{}", gateway.log_tail());
        assert!(!state(&gateway).join("unusable").exists(), "{}", gateway.log_tail());
        gateway.start_control_plane();
        until_stored(&gateway);
        assert!(is_served(&gateway, round), "round {round}\n{}", gateway.log_tail());
        assert_eq!(leftovers(&state(&gateway)), 0, "what the killed save left behind");
    }
    aloud(&format!("{caught} of {ROUNDS} data planes were caught in the midst of a save"));
}

/// A configuration whose API `/round-N` says which it is.
fn large(setup: &Setup, round: usize) -> String {
    let url = setup.probe_url();
    let api = |name: &str, seconds: usize| {
        format!(
            "name: {name}, context: /{name}, endpoints: {{ production: {{ url: \"{url}\" }} }}, \
             session: {{ idle_timeout: {seconds}s }}"
        )
    };
    let mut apis: Vec<String> = (0..APIS).map(|index| api(&format!("api-{index}"), 1000 + round)).collect();
    apis.push(api(&format!("round-{round}"), 1000));
    setup.yaml_with(&[], &[], &apis)
}

/// Waits until the store shows that a save is under way; whether it did before the save was over.
fn is_caught_saving(state: &Path, phase: usize) -> bool {
    let current = fs::read(state.join("current")).expect("there is a stored snapshot");
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let is_seen = match phase {
            0 => leftovers(state) > 0,
            1 => leftovers(state) > 30,
            _ => state.join("current.tmp").exists(),
        };
        if is_seen {
            return true;
        }
        if fs::read(state.join("current")).is_ok_and(|now| now != current) {
            return false;
        }
    }
    panic!("nothing is saved");
}

/// Files that are not yet what they will be.
fn leftovers(state: &Path) -> usize {
    let Ok(entries) = fs::read_dir(state.join("sections")) else { return 0 };
    entries.flatten().filter(|entry| entry.path().extension().is_some()).count()
}

fn is_served(gateway: &Gateway, round: usize) -> bool {
    let mut client = gateway.connect();
    client.send(&Upgrade::to(&format!("/round-{round}")).encode());
    client.head().status() == 101
}

fn state(gateway: &Gateway) -> PathBuf {
    gateway.setup().directory().join("state-dataplane")
}

#[test]
fn a_damaged_store_is_set_aside_and_the_data_plane_waits_for_its_control_plane() {
    let mut gateway = Setup::new(Variant::Automatic).start();
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("a byte of a section", |state| {
            let section = any_section(state);
            let length = section.metadata().expect("a section").len();
            let file = fs::File::options().read(true).write(true).open(section).expect("a section");
            let mut byte = [0];
            file.read_exact_at(&mut byte, length - 1).expect("a byte");
            file.write_all_at(&[byte[0] ^ 1], length - 1).expect("another byte");
        }),
        ("a section that is gone", |state| fs::remove_file(any_section(state)).expect("a section")),
        ("half a list", |state| {
            let current = state.join("current");
            let text = fs::read(&current).expect("a list");
            fs::write(current, &text[..text.len() / 2]).expect("half of it");
        }),
        ("an empty list", |state| fs::write(state.join("current"), "").expect("nothing")),
    ];
    until_stored(&gateway);
    for (damage, inflict) in damages {
        gateway.kill_control_plane();
        gateway.kill_data_plane();
        fs::remove_file(gateway.setup().directory().join("dataplane")).expect("a log");
        inflict(&state(&gateway));
        gateway.launch_data_plane();
        let complaint = "the stored snapshot cannot be used and was moved to";
        until("the data plane says what it found", || gateway.log_tail().contains(complaint));
        let (status, why) = gateway.ask("/ready").expect("an answer");
        assert_eq!((status, why.contains("no snapshot")), (503, true), "{damage}: {why}");
        let said = gateway.log_tail();
        assert!(state(&gateway).join("unusable/current").exists(), "{damage}: {said}");
        assert!(!state(&gateway).join("current").exists(), "{damage}");

        gateway.start_control_plane();
        until("the data plane is ready", || gateway.ask("/ready").is_some_and(|(status, _)| status == 200));
        gateway.probe();
        until_stored(&gateway);
    }
}

fn any_section(state: &Path) -> PathBuf {
    let entries = fs::read_dir(state.join("sections")).expect("a directory").flatten().map(|entry| entry.path());
    entries.min().expect("a section")
}
