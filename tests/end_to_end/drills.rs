//! The great drill: a thousand sessions talk while configurations come and go and control planes are shot.
//!
//! Not one session closes, not one message is lost, reordered or altered.

pub mod changes;
pub mod load;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use changes::Changes;
use load::{Door, Load, Tally};

use crate::kit::gateway::ask_control_plane;
use crate::kit::{
    EchoBackend, Gateway, Outcome, Peer, Random, Setup, Upgrade, Variant, aloud, on_every_variant, until,
};

on_every_variant!(a_thousand_sessions_do_not_notice_what_happens_to_the_configuration);

/// Descriptors of this process for a thousand sessions, in each of two stories at a time: a client's and a backend's each, and
/// room for the rest.
const DESCRIPTORS: u64 = 8192;

/// How much of it: all where the gateway is as an operator starts it.
struct Size {
    sessions: usize,
    configurations: usize,
    kills: usize,
}

impl Size {
    fn on(variant: Variant) -> Self {
        if variant == Variant::Automatic {
            Self { sessions: 1000, configurations: 200, kills: 10 }
        } else {
            Self { sessions: 250, configurations: 40, kills: 3 }
        }
    }
}

fn a_thousand_sessions_do_not_notice_what_happens_to_the_configuration(variant: Variant) {
    let size = Size::on(variant);
    raise_descriptors();
    let random = Random::announced("a_thousand_sessions_do_not_notice_what_happens_to_the_configuration");
    let echo = EchoBackend::start();
    let mut changes = Changes::new(random.clone(), echo.url("/"));
    let mut gateway = Setup::new(variant).workers(2).api_to("stable", &echo.url("/"), "").start();
    let mut drill = Drill::default();
    drill.apply(&gateway, &changes.next(gateway.setup()));

    let public = |target| Door::of(&gateway, target);
    let doors = [public("/stable"), public("/changing-1/v1"), Door::in_clear(changes.leaving(), "/stable")];
    let doors = (0..size.sessions).map(|number| doors[[0, 0, 0, 1, 1, 2][number % 6]].clone()).collect();
    let load = Load::start(doors, random.clone().number());
    for round in 0..size.configurations {
        let kill = round % (size.configurations / size.kills) == 3;
        if kill && drill.kills % 2 == 1 {
            drill.shoot_in_the_midst_of_an_apply(&mut gateway, &mut changes, &load);
        } else if kill {
            drill.shoot(&mut gateway, &load);
        }
        let yaml = changes.next(gateway.setup());
        drill.apply(&gateway, &yaml);
        load.check();
        if round % 4 == 0 {
            let (yaml, reason) = changes.next_invalid(gateway.setup());
            refused(&drill.run(&gateway, &yaml), &reason);
        }
        if round % 10 == 0 {
            newcomers_get_the_new(&gateway, &changes);
        }
    }
    load.go_on_for(size.sessions);
    assert_eq!(gateway.metric("framegate_session_closes_total", &[("api", "stable")]), 0.0);
    assert_eq!(gateway.metric("framegate_violations_total", &[]), 0.0);
    gateway.probe();
    let tally = load.finish();
    drill.report(variant, &size, &tally);
    the_log_agrees(&gateway, &size, &tally);
}

#[derive(Default)]
struct Drill {
    applied_micros: Vec<u32>,
    verb_micros: Vec<u32>,
    kills: usize,
}

impl Drill {
    /// Applies a configuration that must be taken.
    #[track_caller]
    fn apply(&mut self, gateway: &Gateway, yaml: &str) {
        let begun = Instant::now();
        let outcome = self.run(gateway, yaml);
        self.verb_micros.push(begun.elapsed().as_micros() as u32);
        let nodes = &outcome.json()["nodes"];
        assert_eq!((outcome.code, nodes[0]["outcome"].as_str()), (0, Some("applied")), "{outcome:?}\n{yaml}");
        self.applied_micros.push(nodes[0]["micros"].as_u64().expect("a time") as u32);
    }

    /// The files stay: a control plane that starts again reads the one that was applied last.
    fn run(&self, gateway: &Gateway, yaml: &str) -> Outcome {
        let path = written(gateway, yaml);
        gateway.verb("apply", &["--json", path.to_str().expect("a path in UTF-8")])
    }

    /// The control plane dies, stays dead while everybody talks on, and is started again.
    fn shoot(&mut self, gateway: &mut Gateway, load: &Load) {
        gateway.kill_control_plane();
        until("the data plane notices", || gateway.metric("framegate_control_connected", &[]) == 0.0);
        load.go_on_for(500);
        self.revive(gateway);
    }

    fn shoot_in_the_midst_of_an_apply(&mut self, gateway: &mut Gateway, changes: &mut Changes, load: &Load) {
        let path = written(gateway, &changes.next(gateway.setup()));
        let control = gateway.setup().control_path();
        let applying = std::thread::spawn(move || {
            ask_control_plane(&control, "apply", &[path.to_str().expect("a path in UTF-8")])
        });
        std::thread::sleep(Duration::from_millis(40));
        gateway.kill_control_plane();
        applying.join().expect("the verb ends, whatever becomes of it");
        load.go_on_for(500);
        self.revive(gateway);
    }

    fn revive(&mut self, gateway: &mut Gateway) {
        gateway.start_control_plane();
        self.kills += 1;
        until("the data plane has found the control plane", || {
            has_settled(gateway, |status| !status["nodes"][0]["last_reject"].is_null() || serves_current(status))
        });
    }

    fn report(mut self, variant: Variant, size: &Size, tally: &Tally) {
        self.applied_micros.sort_unstable();
        self.verb_micros.sort_unstable();
        aloud(&format!(
            "drill on {}: {} sessions, {} messages of {} KiB in all, {} generations applied, {} control planes shot\n\
             applied at the node after ms {}; the verb took ms {}\n\
             from a message to its echo ms {}",
            variant.word(),
            size.sessions,
            tally.messages,
            tally.bytes / 1024,
            self.applied_micros.len(),
            self.kills,
            spread(&self.applied_micros),
            spread(&self.verb_micros),
            spread(&tally.micros),
        ));
    }
}

/// Waits until the data plane serves, and has stored, what its control plane has published last.
#[track_caller]
pub fn until_stored(gateway: &Gateway) {
    until("the newest generation is served and stored", || {
        has_settled(gateway, |status| serves_current(status) && stores(gateway, &status["nodes"][0]["generation"]))
    });
}

/// Whether this generation is on the data plane's disk, which is behind the Ack, and nothing of an earlier one.
fn stores(gateway: &Gateway, generation: &serde_json::Value) -> bool {
    let state = gateway.setup().directory().join("state-dataplane");
    let Ok(text) = std::fs::read_to_string(state.join("current")) else { return false };
    let line = text.lines().next().unwrap_or_default();
    let Ok(current) = serde_json::from_str::<serde_json::Value>(line) else { return false };
    let mut files = std::fs::read_dir(state.join("sections")).expect("a data plane makes it").flatten();
    current["generation"] == *generation
        && files.all(|file| file.file_name().to_str().is_some_and(|digest| line.contains(digest)))
}

/// Whether the control plane answers, no push is under way, and what it says is as wanted.
fn has_settled(gateway: &Gateway, is_wanted: impl Fn(&serde_json::Value) -> bool) -> bool {
    let outcome = gateway.verb("status", &["--json"]);
    outcome.code == 0 && {
        let status = outcome.json();
        status["nodes"][0]["in_flight"].is_null() && is_wanted(&status)
    }
}

fn serves_current(status: &serde_json::Value) -> bool {
    let current = &status["control_plane"]["generation"];
    !current.is_null() && status["nodes"][0]["generation"] == *current
}

fn written(gateway: &Gateway, yaml: &str) -> PathBuf {
    let directory = gateway.setup().directory().join("configurations");
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile_in(directory).expect("a file");
    std::io::Write::write_all(&mut file, yaml.as_bytes()).expect("a file can be written");
    file.keep().expect("a file can stay").1
}

#[track_caller]
fn refused(outcome: &Outcome, reason: &str) {
    assert_eq!(outcome.code, 1, "{reason}: {outcome:?}");
    assert!(outcome.stdout.contains(reason), "{reason}: {outcome:?}");
}

/// What was added answers, and what was removed does not.
fn newcomers_get_the_new(gateway: &Gateway, changes: &Changes) {
    let newest = (1..=changes.round()).rev().find(|round| {
        let mut client = gateway.connect();
        client.send(&Upgrade::to(&format!("/round-{round}")).encode());
        client.head().status() == 101
    });
    // The last configuration of all may have been an invalid one.
    assert!(newest.is_some_and(|round| round + 1 >= changes.round()), "{newest:?} of {}", changes.round());
    let mut client: Peer = gateway.connect();
    client.send(&Upgrade::to("/changing-1/v1").encode());
    assert_eq!(client.refused().status, 404);
}

/// Every session has its closing line, with code 1000, and the lines know of every message, both ways.
fn the_log_agrees(gateway: &Gateway, size: &Size, tally: &Tally) {
    let closes = || {
        let lines = gateway.log_lines();
        let ours = |line: &serde_json::Value| {
            line["event"] == "close" && (line["api"] == "stable" || line["api"] == "changing")
        };
        lines.into_iter().filter(ours).collect::<Vec<_>>()
    };
    until("every session has its closing line", || closes().len() >= size.sessions);
    let closes = closes();
    assert_eq!(closes.len(), size.sessions);
    assert!(closes.iter().all(|line| line["code"] == 1000), "not every session closed with 1000");
    let sum = |field: &str| closes.iter().map(|line| line[field].as_u64().unwrap_or(0) as usize).sum::<usize>();
    assert_eq!((sum("messages_to_upstream"), sum("messages_to_client")), (tally.messages, tally.messages));
    assert_eq!((sum("bytes_to_upstream"), sum("bytes_to_client")), (tally.bytes, tally.bytes));
}

/// Median, 99th percentile and the longest, in milliseconds.
fn spread(micros: &[u32]) -> String {
    let at = |part: f64| f64::from(micros[((micros.len() - 1) as f64 * part) as usize]) / 1000.0;
    format!("{:.1} (median), {:.1} (99 %), {:.1} (longest)", at(0.5), at(0.99), at(1.0))
}

/// The soft limit of open files is what a shell gives; a thousand sessions want more.
pub fn raise_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write one struct rlimit that lives through them.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_cur.max(DESCRIPTORS.min(limit.rlim_max));
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}
