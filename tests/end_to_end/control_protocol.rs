//! A stranger plays the control plane: plain Python that was written from docs/control-protocol.md alone.
//!
//! After each of its pushes the gateway is asked whether it serves what it should.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::kit::gateway::{die_with_parent, kill};
use crate::kit::{Gateway, Setup, Upgrade, Variant, aloud, on_both_drivers};

on_both_drivers!(a_stranger_pushes_good_and_bad_generations_and_hears_why_the_bad_ones_are_rejected);

fn a_stranger_pushes_good_and_bad_generations_and_hears_why_the_bad_ones_are_rejected(variant: Variant) {
    if Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var("STRANGERS").as_deref() != Ok("require"), "python3 is not installed");
        return aloud("skipped: python3 is not installed");
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = (taken.local_addr().expect("an address").to_string(), taken);
    let setup = Setup::new(variant).without_control_plane();
    let public = setup.public_address().to_string();
    let mut stranger = Stranger::start(&setup, &[&public, &taken.0, &setup.probe_url()]);
    let mut gateway = setup.start();

    assert_eq!(stranger.hear(), "ack");
    let bad: [(&str, &[&str]); 5] = [
        ("an endpoint that leads nowhere", &["apis/", "endpoints/production", "nobody"]),
        ("a field from the future", &["apis/", "teleport"]),
        ("a wrong checksum", &["the checksum is"]),
        ("a listener that cannot be bound", &["listener second: cannot bind", &taken.0]),
        ("a body that was not sent", &["/apis/", "not held"]),
    ];
    for (what, words) in bad {
        serves(&mut gateway, false, 1);
        let answer = stranger.next();
        assert!(answer.starts_with("reject "), "{what}: {answer}");
        for word in words {
            assert!(answer.contains(word), "{what}: {word} is not in {answer}");
        }
    }
    serves(&mut gateway, false, 1);
    // The stranger hangs up, and the node comes back to it.
    assert_eq!(stranger.next(), "ack");
    serves(&mut gateway, true, 7);
}

/// A session works, the API that the bad generations had as well is there or not, and the number is the right one.
#[track_caller]
fn serves(gateway: &mut Gateway, new: bool, generation: u64) {
    gateway.probe();
    let mut client = gateway.connect();
    if new {
        client.upgrade("/new");
    } else {
        client.send(&Upgrade::to("/new").encode());
        assert_eq!(client.refused().status, 404);
    }
    assert_eq!(gateway.metric("framegate_generation_info", &[("source", "a stranger")]), generation as f64);
    assert_eq!(gateway.metric("framegate_snapshot_store_failures_total", &[]), 0.0);
}

struct Stranger {
    child: Option<Child>,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Stranger {
    fn start(setup: &Setup, addresses: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/strangers/control_plane.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(setup.control_path()).args(addresses).stdin(Stdio::piped()).stdout(Stdio::piped());
        die_with_parent(&mut command);
        let mut child = command.spawn().expect("python3 runs");
        let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Self { child: Some(child), to, from: BufReader::new(from) }
    }

    /// What it says to the push that is under way; its complaints are on standard error.
    #[track_caller]
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("text");
        assert!(!line.is_empty(), "the stranger has ended");
        line.trim_end().to_owned()
    }

    /// Lets it go on, and hears what comes of its next push.
    #[track_caller]
    fn next(&mut self) -> String {
        self.to.write_all(b"\n").expect("the stranger listens");
        self.hear()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        kill(self.child.take());
    }
}
