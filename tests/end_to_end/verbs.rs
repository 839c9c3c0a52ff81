//! The operator's verbs against a running pair: what people read, what programs read, and the exit codes.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};

use crate::kit::gateway::framegate;
use crate::kit::{Gateway, Opcode, Outcome, Port, Setup, Variant, on_both_drivers, until};

on_both_drivers!(
    diff_says_what_changes_and_how_many_live_sessions_that_touches,
    apply_and_reload_say_what_became_of_it_on_each_node,
    drain_empties_a_node_and_says_when_there_is_none,
);

fn diff_says_what_changes_and_how_many_live_sessions_that_touches(variant: Variant) {
    let gateway = with_chat(variant);
    let clients = [sitting(&gateway), sitting(&gateway)];
    let base = gateway.setup().yaml();
    let same = verb(&gateway, "diff", &base, false);
    assert_eq!((same.code, same.stdout.contains("no differences")), (0, true), "{same:?}");
    assert_eq!(verb(&gateway, "diff", &base, true).json()["equal"], true);

    let without: Vec<&str> = base.lines().filter(|line| !line.contains("chat")).collect();
    let limited = base.replace("context: /chat,", "context: /chat, limits: { max_message: 2MiB },");
    let moved = base.replace("context: /chat,", "context: /talk,");
    let listener = Port::free();
    let more = gateway.setup().yaml_with(&[format!("name: more, bind: \"{}\"", listener.address())], &[], &[]);
    let cases = [
        (without.join("\n"), "- api chat", "2 live sessions: closed with 1012", Some("drained")),
        (limited, "~ api chat", "2 live sessions: the new limits hold", Some("limits_from_next_message")),
        (moved, "context: \"/chat\" -> \"/talk\"", "2 live sessions: untouched", Some("untouched")),
        (more, "+ listener more", "+ listener more", None),
    ];
    for (yaml, change, sessions, effect) in cases {
        let told = verb(&gateway, "diff", &yaml, false);
        assert_eq!(told.code, 1, "{told:?}");
        assert!(told.stdout.contains(change) && told.stdout.contains(sessions), "{change}, {sessions}: {told:?}");
        let told = verb(&gateway, "diff", &yaml, true);
        let touched = effect.map(|effect| json!({ "api": "chat", "sessions": 2, "effect": effect }));
        assert_eq!((told.code, &told.json()["sessions"]), (1, &json!(Vec::from_iter(touched))), "{told:?}");
    }
    let bad = verb(&gateway, "diff", &base.replace("context: /chat", "contxt: /chat"), false);
    assert_eq!((bad.code, bad.stdout.contains("nothing was compared")), (2, true), "{bad:?}");
    // Asking changes nothing.
    for mut client in clients {
        client.send_frame(&crate::kit::Frame::text("still here"));
        client.expect(Opcode::TEXT, b"still here");
    }
    assert_eq!(status(&gateway)["control_plane"]["generation"]["number"], 1);
}

fn apply_and_reload_say_what_became_of_it_on_each_node(variant: Variant) {
    let mut gateway = with_chat(variant);
    let mut client = sitting(&gateway);
    let base = gateway.setup().yaml();

    let limited = base.replace("context: /chat,", "context: /chat, limits: { max_message: 2MiB },");
    let done = verb(&gateway, "apply", &limited, false);
    assert_eq!((done.code, done.stdout.contains("applied in")), (0, true), "{done:?}");
    assert_eq!(status(&gateway)["control_plane"]["generation"]["number"], 2);

    let bad = limited.replace("context: /chat", "contxt: /chat").replace("context: /probe", "context: probe");
    let said = verb(&gateway, "apply", &bad, false);
    assert_eq!(
        (said.code, said.stdout.contains("contxt"), said.stdout.contains("what runs, runs on")),
        (1, true, true)
    );
    let said = verb(&gateway, "apply", &bad, true);
    assert_eq!((said.code, said.json()["ok"].as_bool(), said.json()["generation"].is_null()), (1, Some(false), true));
    assert!(said.json()["diagnostics"].as_array().is_some_and(|all| all.len() >= 2), "all errors at once: {said:?}");

    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    let unbindable = gateway.setup().yaml_with(&[format!("name: taken, bind: \"{address}\"")], &[], &[]);
    let said = verb(&gateway, "apply", &unbindable, false);
    let reason = format!("listener taken: cannot bind {address}");
    assert_eq!((said.code, said.stdout.contains("rejected; it serves what it served")), (1, true), "{said:?}");
    assert!(said.stdout.contains(&reason), "{said:?}");
    let said = gateway.verb("status", &[]);
    assert!(said.stdout.contains("rejected the last") && said.stdout.contains(&reason), "{said:?}");
    let node = &status(&gateway)["nodes"][0];
    assert_eq!((&node["generation"]["number"], &node["last_reject"]["generation"]["number"]), (&json!(2), &json!(3)));
    gateway.probe();

    // What was in the way has gone: the same again is enough.
    drop(taken);
    let done = gateway.verb("reload", &[]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(gateway.verb("reload", &["--json"]).json()["nodes"][0]["outcome"], "applied");
    assert!(status(&gateway)["nodes"][0]["last_reject"].is_null());

    // An API that goes takes its sessions along, in good order.
    let without: Vec<&str> = base.lines().filter(|line| !line.contains("chat")).collect();
    assert_eq!(verb(&gateway, "apply", &without.join("\n"), false).code, 0);
    client.expect_close(1012);
    let said = gateway.verb("status", &["--json"]).json();
    assert!(said["control_plane"]["started_with"].is_string(), "{said}");
}

fn drain_empties_a_node_and_says_when_there_is_none(variant: Variant) {
    let mut gateway = with_chat(variant);
    let mut client = sitting(&gateway);
    let said = gateway.verb("drain", &["--node", "another"]);
    assert_eq!((said.code, said.stdout.contains("no such data plane is connected")), (1, true), "{said:?}");
    let said = gateway.verb("drain", &["--node", "test", "--window", "0", "--json"]);
    assert_eq!((said.code, &said.json()["nodes"]), (0, &json!([["test", gateway.pid()]])), "{said:?}");
    client.expect_close(1012);
    drop(client);
    assert_eq!(gateway.ended().code(), Some(0));
    until("the node has gone from the roster", || status(&gateway)["nodes"] == json!([]));
    assert_eq!(gateway.verb("drain", &[]).code, 1);
    let said = gateway.verb("status", &[]);
    assert_eq!((said.code, said.stdout.contains("no data plane is connected")), (0, true), "{said:?}");
}

#[test]
fn validate_and_version_ask_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let (good, bad, missing) = (path("good.yaml"), path("bad.yaml"), path("missing.yaml"));
    let text = "version: 1\nlisteners: [{ name: public, bind: \"127.0.0.1:8080\" }]\n";
    std::fs::write(&good, text).expect("a file can be written");
    std::fs::write(&bad, format!("{text}lisen: []\napis: [{{ name: x }}]\n")).expect("a file can be written");

    let sound = framegate(&["validate", &good]);
    assert_eq!((sound.code, sound.stdout.contains("sound (1 listener, 0 upstreams, 0 APIs)")), (0, true), "{sound:?}");
    assert_eq!(framegate(&["validate", &good, "--json"]).json()["ok"], true);
    let unsound = framegate(&["validate", &bad]);
    assert_eq!((unsound.code, unsound.stdout.contains(&format!("{bad}:3:1: "))), (1, true), "{unsound:?}");
    assert!(unsound.stdout.contains("lisen") && unsound.stdout.contains(&format!("{bad}:4:")), "{unsound:?}");
    let unsound = framegate(&["validate", &bad, "--json"]).json();
    assert_eq!((&unsound["ok"], &unsound["diagnostics"][0]["line"]), (&json!(false), &json!(3)), "{unsound}");
    let absent = framegate(&["validate", &missing]);
    assert_eq!((absent.code, absent.stderr.contains(&missing)), (2, true), "{absent:?}");
    assert!(framegate(&["validate", &missing, "--json"]).json()["error"].is_string());

    let version = framegate(&["version"]);
    assert_eq!((version.code, version.stdout.starts_with("framegate ")), (0, true), "{version:?}");
    assert_eq!(framegate(&["version", "--json"]).json()["control_protocol"], 1);
    assert_eq!(framegate(&["vresion"]).code, 2);

    // What is not sound is not started, and says the same.
    let state = path("state");
    let places = ["--control", &path("control.sock"), "--state-dir", &state, "--operator"];
    let operator = Port::free();
    let started = framegate(&[&["run", &bad][..], &places, &[&operator.address().to_string()]].concat());
    assert_eq!((started.code, started.stderr.contains("nothing was started")), (1, true), "{started:?}");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let started = framegate(&[&["run", &good][..], &places, &[&address]].concat());
    assert_eq!((started.code, started.stderr.contains("is taken by another program")), (2, true), "{started:?}");
    assert!(!Path::new(&state).exists(), "something was started");
}

#[test]
fn where_nobody_answers_every_verb_says_so_and_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let (control, file) = (path("control.sock"), path("gateway.yaml"));
    std::fs::write(&file, "version: 1\n").expect("a file can be written");
    let verbs: [&[&str]; 5] = [&["status"], &["reload"], &["drain"], &["apply", &file], &["diff", &file]];
    // No socket at all, and one that somebody left behind.
    for is_left_behind in [false, true] {
        if is_left_behind {
            drop(std::os::unix::net::UnixListener::bind(&control).expect("a free path"));
        }
        for verb in verbs {
            let said = framegate(&[verb, &["--control", &control]].concat());
            assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
            assert!(said.stderr.contains(&control) && said.stderr.contains("framegate run"), "{said:?}");
            let said = framegate(&[verb, &["--json", "--control", &control]].concat());
            assert_eq!((said.code, said.stderr.as_str()), (2, ""), "{said:?}");
            assert!(said.json()["error"].as_str().is_some_and(|error| error.contains(&control)), "{said:?}");
        }
    }
}

fn with_chat(variant: Variant) -> Gateway {
    let setup = Setup::new(variant).settings("drain_window: 100ms");
    let url = setup.probe_url();
    setup.api_to("chat", &url, "").start()
}

/// A session that stays.
#[track_caller]
fn sitting(gateway: &Gateway) -> crate::kit::Peer {
    let mut client = gateway.connect();
    client.upgrade("/chat");
    client
}

/// A verb that takes a file: a new one each time, because the one that was applied last is watched.
fn verb(gateway: &Gateway, verb: &str, yaml: &str, is_json: bool) -> Outcome {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile_in(gateway.setup().directory()).expect("a file");
    file.write_all(yaml.as_bytes()).expect("a file can be written");
    let (_, path) = file.keep().expect("a file can stay");
    let path = path.to_str().expect("a path in UTF-8");
    if is_json { gateway.verb(verb, &[path, "--json"]) } else { gateway.verb(verb, &[path]) }
}

#[track_caller]
fn status(gateway: &Gateway) -> Value {
    let outcome = gateway.verb("status", &["--json"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome.json()
}
