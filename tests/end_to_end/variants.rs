//! Does the gateway choose what waits for sockets and what moves bytes as it says? And does it say what it chose?
//!
//! That sessions are the same whatever it chose is what all the other stories tell.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::kit::gateway::{FRAMEGATE, die_with_parent};
use crate::kit::variant::forbid_io_uring;
use crate::kit::{Gateway, Outcome, Setup, Variant, aloud, until_some};

/// Starts a gateway with these flags, has it serve a session, and asks for the driver, the engine and splice; what the
/// three places say of them must agree.
#[track_caller]
fn chosen(variant: Variant, flags: &[&str]) -> (Gateway, [String; 3]) {
    let mut gateway = Setup::new(variant).flags(flags).start();
    gateway.probe();
    let node = until_some("the node has reported", || {
        let status = gateway.verb("status", &["--json"]).json();
        status["nodes"].get(0).filter(|node| node["driver"] != "").cloned()
    });
    let word = |name: &str| node[name].as_str().expect("a word").to_owned();
    let splice = if node["splice"] == Value::Bool(true) { "on" } else { "off" };
    let [driver, engine, splice] = [word("driver"), word("engine"), splice.to_owned()];
    let labels = [("driver", driver.as_str()), ("engine", &engine), ("splice", &splice)];
    assert_eq!(gateway.metric("framegate_driver_info", &labels), 1.0, "{labels:?}");
    let line = format!("driver=\"{driver}\" engine=\"{engine}\" splice={}", splice == "on");
    assert_eq!(gateway.said("dataplane").matches(&line).count(), 1, "{}", gateway.log_tail());
    (gateway, [driver, engine, splice])
}

/// Runs a data plane that cannot start to its end.
fn attempt(flags: &[&str], confine: fn(&mut Command)) -> Outcome {
    let mut command = Command::new(FRAMEGATE);
    command.args(["dataplane", "--operator", "off", "--log", "off", "--workers", "1"]).args(flags);
    command.stdin(Stdio::null());
    die_with_parent(&mut command);
    confine(&mut command);
    let output = command.output().expect("the executable runs");
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("output in UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("output in UTF-8"),
    }
}

#[test]
fn where_io_uring_is_forbidden_the_gateway_serves_without_it_and_says_so_once() {
    if !Variant::Forbidden.is_available() {
        return;
    }
    let (gateway, chosen) = chosen(Variant::Forbidden, &[]);
    assert_eq!(chosen, ["epoll", "readiness", "off"]);
    let said = gateway.said("dataplane");
    let why = "io_uring is not permitted (EPERM): epoll and the readiness engine are used";
    assert_eq!((said.matches(why).count(), said.matches("EPERM").count()), (1, 1), "{said}");
    assert!(!said.contains(" WARN ") && !said.contains(" ERROR "), "{said}");
}

#[test]
fn what_is_asked_for_is_used_and_nothing_is_said_of_it() {
    // Where there is no io_uring, this variant is not available either.
    if !Variant::Copying.is_available() {
        return;
    }
    for (flags, driver, splice) in [
        (&["--driver", "uring", "--engine", "readiness"][..], "io_uring", "on"),
        (&["--driver", "uring-plain", "--engine", "readiness", "--splice", "off"], "io_uring_plain", "off"),
        (&["--driver", "epoll"], "epoll", "on"),
        (&["--driver", "epoll", "--engine", "readiness", "--splice", "off"], "epoll", "off"),
    ] {
        let (gateway, chosen) = chosen(Variant::Automatic, flags);
        assert_eq!(chosen, [driver, "readiness", splice], "{flags:?}");
        let said = gateway.said("dataplane");
        assert!(!said.contains("engine is used") && !said.contains("engine are used"), "{said}");
    }
}

#[test]
fn the_uring_engine_goes_with_both_forms_of_io_uring_or_is_missed_aloud() {
    if !Variant::Copying.is_available() {
        return;
    }
    let (_gateway, [_, engine, splice]) = chosen(Variant::Automatic, &[]);
    assert_eq!(splice, "on");
    if engine == "readiness" {
        aloud("skipped: this kernel does not have what the uring engine needs");
        let outcome = attempt(&["--engine", "uring"], |_| {});
        assert_eq!(outcome.code, 2, "{outcome:?}");
        assert!(outcome.stderr.contains("Linux 6.17"), "{outcome:?}");
        return;
    }
    for (form, driver, splice) in [("uring", "io_uring", "on"), ("uring-plain", "io_uring_plain", "off")] {
        let flags = ["--driver", form, "--engine", "uring", "--splice", splice];
        let (gateway, chosen) = chosen(Variant::Automatic, &flags);
        assert_eq!(chosen, [driver, "uring", splice]);
        assert!(!gateway.said("dataplane").contains("engine is used"), "{}", gateway.log_tail());
    }
}

#[test]
fn what_is_asked_for_and_forbidden_ends_the_start_with_what_to_do() {
    if !Variant::Forbidden.is_available() {
        return;
    }
    for (flags, named) in [
        (&["--engine", "uring"][..], "--engine uring needs it"),
        (&["--driver", "uring"], "--driver uring needs it"),
        (&["--driver", "uring-plain"], "--driver uring-plain needs it"),
        (&["--driver", "uring", "--engine", "readiness"], "--driver uring needs it"),
    ] {
        let outcome = attempt(flags, forbid_io_uring);
        assert_eq!(outcome.code, 2, "{outcome:?}");
        for words in ["io_uring is not permitted (EPERM), and", named, "seccomp", "--driver auto --engine auto"] {
            assert!(outcome.stderr.contains(words), "{words}: {outcome:?}");
        }
    }
    let outcome = attempt(&["--driver", "epoll", "--engine", "uring"], |_| {});
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stderr.contains("--driver epoll does without"), "{outcome:?}");
}
