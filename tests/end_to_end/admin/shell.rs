//! The nouns of the command line: tables for people, JSON for scripts, exit codes; and what the manual shows, run.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::kit::gateway::{FRAMEGATE, framegate};
use crate::kit::people::sha256;
use crate::kit::{Admin, Gateway, Outcome, Port, Setup, Variant, aloud};

use super::gateway;

/// A verb with something on its standard input.
fn told(gateway: &Gateway, words: &[&str], input: &str) -> Outcome {
    let mut command = Command::new(FRAMEGATE);
    command.args(words).env("FRAMEGATE_CONTROL", gateway.setup().control_path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the executable runs");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it listens");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output in UTF-8");
    Outcome { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A verb that says yes; what it prints.
#[track_caller]
fn yes(gateway: &Gateway, words: &[&str]) -> String {
    let said = told(gateway, words, "");
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{words:?}: {said:?}");
    said.stdout
}

#[track_caller]
fn no(gateway: &Gateway, words: &[&str], expected: &str) {
    let said = told(gateway, words, "");
    assert!(said.code == 1 && said.stdout.is_empty() && said.stderr.contains(expected), "{words:?}: {said:?}");
    let said = told(gateway, &[words, &["--json"]].concat(), "");
    assert!(said.code == 1 && said.json()["status"].as_u64().is_some(), "{words:?}: {said:?}");
}

fn json_of(gateway: &Gateway, words: &[&str]) -> Value {
    let said = yes(gateway, &[words, &["--json"]].concat());
    serde_json::from_str(&said).expect("one JSON document")
}

#[test]
fn every_noun_does_what_it_says() {
    let gateway = gateway();
    let g = &gateway;
    let said = yes(
        g,
        &[
            "api",
            "create",
            "chat:v1",
            "--context",
            "/chat",
            "--to",
            "ws://127.0.0.1:9/",
            "--accept",
            "api_key",
            "--wait",
        ],
    );
    assert!(said.starts_with("API chat:v1 is created (generation ") && said.contains("applied in"), "{said}");
    let said = yes(g, &["api", "list"]);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("API") && lines[1].starts_with("chat:v1   /chat"), "{said}");
    assert!(lines[2].contains("config.yaml") && lines[1].ends_with("stored"), "{said}");
    yes(g, &["api", "set", "chat:v1", "--enabled", "false", "--sandbox", "ws://127.0.0.1:10/"]);
    let api = json_of(g, &["api", "show", "chat:v1"]);
    assert_eq!((&api["enabled"], &api["endpoints"]["sandbox"]["url"]), (&json!(false), &json!("ws://127.0.0.1:10/")));
    assert_eq!(api["endpoints"]["production"]["url"], "ws://127.0.0.1:9/", "what was not said stays");
    yes(g, &["api", "set", "chat:v1", "--enabled", "true"]);
    let file = gateway.setup().directory().join("room.yaml");
    std::fs::write(
        &file,
        "context: /room\nendpoints: { production: { url: ws://127.0.0.1:9/ } }\ntopics: [{ topic: /a }]\n",
    )
    .expect("a file");
    yes(g, &["api", "create", "room", "--from", file.to_str().expect("a path in UTF-8")]);
    assert_eq!(json_of(g, &["api", "show", "room"])["topics"][0]["topic"], "/a");

    assert!(yes(g, &["app", "create", "mobile", "--owner", "ann"]).starts_with("application mobile is created"));
    no(g, &["app", "create", "mobile"], "there is an application \"mobile\" already");
    yes(g, &["app", "set", "mobile", "--owner", "ben"]);
    assert_eq!(json_of(g, &["app", "show", "mobile"])["owner"], "ben");
    no(g, &["app", "set", "filed", "--owner", "x"], "config.yaml");
    no(g, &["app", "show", "nobody"], "there is no application \"nobody\"");
    let client = json_of(g, &["app", "client", "create", "mobile", "--sandbox", "--scope", "chat:read"]);
    assert!(client["client_secret"].as_str().is_some_and(|secret| secret.starts_with("fgs_")));
    let id = client["id"].as_str().expect("an id");
    assert!(yes(g, &["app", "client", "list", "mobile"]).contains(id));
    yes(g, &["app", "client", "delete", "mobile", id]);

    yes(g, &["subscription", "create", "mobile", "chat:v1"]);
    assert!(
        yes(g, &["subscription", "list", "--application", "mobile"]).contains("mobile/chat:v1  AsyncUnlimited  on")
    );
    let limits = ["--rate", "100/s", "--burst", "200", "--quota", "50000/day", "--on-limit", "drop"];
    let made = [&["plan", "create", "gold"], limits.as_slice()].concat();
    assert!(yes(g, &made).starts_with("plan gold is created"));
    assert!(yes(g, &["plan", "list"]).contains("100/s burst 200, 50000/day"));
    assert!(yes(g, &["plan", "list"]).contains("AsyncGold        50000/day"), "{}", yes(g, &["plan", "list"]));
    yes(g, &["subscription", "set", "mobile", "chat:v1", "--plan", "gold"]);
    yes(g, &["app", "set", "mobile", "--plan", "gold"]);
    no(g, &["app", "set", "mobile", "--plan", "platinum"], "there is no plan \"platinum\"");
    yes(g, &["plan", "update", "gold", "--quota", "1GiB/month", "--count", "bytes", "--wait"]);
    assert_eq!(json_of(g, &["plan", "show", "gold"])["limits"], json!([{ "quota": "1GiB/month", "count": "bytes" }]));
    assert_eq!(json_of(g, &["plan", "show", "gold"])["on_limit"]["action"], "drop");
    no(g, &["plan", "delete", "gold"], "is used by application \"mobile\", subscription \"mobile/chat:v1\"");
    no(g, &["plan", "delete", "AsyncGold"], "it can be replaced, and not deleted");
    no(g, &["plan", "update", "filed", "--sessions-max", "3"], "config.yaml");
    for plan in [["app", "set", "mobile"].as_slice(), &["subscription", "set", "mobile", "chat:v1"]] {
        yes(g, &[plan, &["--plan", "AsyncUnlimited"]].concat());
    }
    yes(g, &["plan", "delete", "gold"]);

    yes(
        g,
        &["deny", "create", "bad-net", "--address", "198.51.100.0/24", "--application", "mobile", "--drop", "--wait"],
    );
    assert!(yes(g, &["deny", "list", "--application", "mobile"]).contains("198.51.100.0/24  drop"));
    assert_eq!(yes(g, &["deny", "list", "--user", "mallory"]), "there are no denials\n");
    no(g, &["deny", "create", "everybody"], "this denies everybody everything");
    yes(g, &["deny", "delete", "bad-net"]);

    yes(g, &["subscription", "set", "mobile", "chat:v1", "--enabled", "false"]);
    assert_eq!(json_of(g, &["subscription", "show", "mobile", "chat:v1"])["enabled"], false);

    let said =
        yes(g, &["key", "create", "m1", "--application", "mobile", "--expires", "90d", "--address", "10.0.0.0/8"]);
    let key = said.lines().find(|line| line.starts_with("fgk_")).expect("the key").to_owned();
    let shown = json_of(g, &["key", "show", "m1"]);
    assert_eq!(shown["restrictions"]["addresses"], json!(["10.0.0.0/8"]));
    assert!(shown["expires"].as_str().is_some_and(|at| at.ends_with('Z')) && !shown.to_string().contains(&key));
    no(g, &["key", "create", "m2", "--application", "nobody"], "application: there is no application \"nobody\"");
    let etag = shown["_meta"]["etag"].as_str().expect("an etag");
    yes(g, &["key", "set", "m1", "--environment", "sandbox", "--if-match", etag]);
    no(g, &["key", "set", "m1", "--environment", "production", "--if-match", etag], "changed meanwhile");

    assert!(yes(g, &["revoke", "key:m1", "--reason", "lost"]).starts_with("revocation of key:m1 is in force"));
    yes(g, &["revoke", "key:m1", "--issued-before", "now", "--expires", "30d"]);
    assert!(yes(g, &["revoke", "list"]).contains("key:m1"));
    yes(g, &["revoke", "delete", "key:m1"]);
    no(g, &["revoke", "show", "key:m1"], "there is no revocation");

    no(g, &["app", "delete", "mobile"], "is used by");
    yes(g, &["app", "delete", "mobile", "--cascade", "--wait"]);
    assert_eq!(yes(g, &["key", "list", "--application", "mobile"]), "there are no keys\n");
    assert_eq!(json_of(g, &["key", "list", "--application", "mobile"]), json!({ "items": [] }));
    yes(g, &["api", "delete", "chat:v1"]);
    assert_eq!(told(g, &["app", "set", "filed"], "").code, 2, "nothing to change");
    assert_eq!(told(g, &["revoke", "everybody"], "").code, 2);
}

#[test]
fn a_password_comes_by_standard_input_or_a_file_and_is_shown_nowhere() {
    let gateway = gateway();
    let created = told(&gateway, &["user", "create", "alice", "--scope", "chat:read"], "open sesame\n");
    assert_eq!(created.code, 0, "{created:?}");
    let file = gateway.setup().directory().join("password");
    std::fs::write(&file, "second thoughts\n").expect("a file can be written");
    let file = file.to_str().expect("a path in UTF-8");
    let before = json_of(&gateway, &["user", "show", "alice"]);
    assert_eq!((&before["has_password"], before.get("password")), (&json!(true), None));
    yes(&gateway, &["user", "set", "alice", "--password-file", file]);
    let after = json_of(&gateway, &["user", "show", "alice"]);
    assert_ne!(after["_meta"]["etag"], before["_meta"]["etag"]);
    assert_eq!(after["scopes"], json!(["chat:read"]));
    yes(&gateway, &["user", "set", "alice", "--no-password"]);
    assert!(yes(&gateway, &["user", "list"]).lines().any(|line| line.starts_with("alice") && line.contains("  no  ")));
    let empty = told(&gateway, &["user", "create", "ben"], "\n");
    assert_eq!((empty.code, empty.stderr.contains("the password is empty")), (2, true), "{empty:?}");

    // What `hash` makes is a line of a configuration, which is sound with it.
    let hash = told(&gateway, &["user", "hash"], "open sesame\n");
    assert!(hash.code == 0 && hash.stdout.starts_with("password: \"$$argon2id$$"), "{hash:?}");
    let yaml = gateway.setup().directory().join("users.yaml");
    let text = format!("version: 1\nlisteners: []\nusers: [{{ name: x, {} }}]\n", hash.stdout.trim());
    std::fs::write(&yaml, text).expect("a file can be written");
    let checked = framegate(&["validate", yaml.to_str().expect("a path in UTF-8")]);
    assert_eq!(checked.code, 0, "{checked:?}");
    let said = gateway.said("controlplane");
    assert!(!said.contains("sesame") && !said.contains("thoughts") && !said.contains("argon2id"), "{said}");
}

#[test]
fn a_key_can_be_made_without_a_server() {
    let made =
        framegate(&["key", "create", "k1", "--application", "a", "--expires", "2030-01-01T00:00:00Z", "--offline"]);
    let key = made.stdout.lines().next().expect("a line").to_owned();
    assert!(made.code == 0 && key.starts_with("fgk_") && made.stdout.contains(&sha256(&key)), "{made:?}");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("gateway.yaml");
    let entry = made.stdout.split_once("\n\n").expect("an entry").1;
    std::fs::write(&path, format!("version: 1\nlisteners: []\napplications: [{{ name: a }}]\n{entry}"))
        .expect("a file");
    let checked = framegate(&["validate", path.to_str().expect("a path in UTF-8")]);
    assert_eq!(checked.code, 0, "{checked:?}");
    let made = framegate(&["key", "create", "k1", "--application", "a", "--offline", "--json"]).json();
    assert_eq!(made["entry"]["sha256"], sha256(made["key"].as_str().expect("a key")));
}

#[test]
fn many_keys_are_imported_and_those_that_are_not_sound_are_told() {
    let gateway = gateway();
    yes(&gateway, &["app", "create", "mobile"]);
    let mut lines = String::new();
    for number in 0..1500 {
        let line = match number {
            700 => json!({ "name": "m700", "application": "nobody" }).to_string(),
            900 => "not JSON".into(),
            1200 => json!({ "name": "m5", "application": "mobile" }).to_string(),
            1300 => json!({ "name": "m1300", "application": "mobile", "sha256": sha256("m1300") }).to_string(),
            _ => json!({ "name": format!("m{number}"), "application": "mobile" }).to_string(),
        };
        lines.push_str(&line);
        lines.push('\n');
    }
    let done = told(&gateway, &["key", "import", "-", "--json"], &lines);
    let summary = done.json();
    let failed: Vec<_> = summary["failed"].as_array().expect("a list").iter().map(|one| one["line"].clone()).collect();
    assert_eq!(
        (done.code, &summary["imported"], failed),
        (1, &json!(1497), vec![json!(701), json!(901), json!(1201)]),
        "{:?}",
        &summary["failed"]
    );
    assert_eq!(summary["keys"].as_array().map(Vec::len), Some(1496), "one came with its hash");
    assert_eq!(
        json_of(&gateway, &["key", "list", "--application", "mobile"])["items"].as_array().map(Vec::len),
        Some(1497)
    );
    assert_eq!(json_of(&gateway, &["key", "list", "--limit", "3"])["items"].as_array().map(Vec::len), Some(3));
}

#[test]
fn nobody_who_answers_and_nobody_who_is_let_in_are_told_apart() {
    let directory = tempfile::tempdir().expect("a directory");
    let nowhere = directory.path().join("admin.sock");
    let nowhere = nowhere.to_str().expect("a path in UTF-8");
    for words in [&["app", "list"][..], &["key", "create", "x", "--application", "y"], &["revoke", "user:x"]] {
        let said = framegate(&[words, &["--admin", nowhere]].concat());
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
        assert!(said.stderr.contains(nowhere) && said.stderr.contains("framegate run"), "{said:?}");
        let said = framegate(&[words, &["--json", "--admin", nowhere]].concat());
        assert!(
            said.code == 2 && said.json()["error"].as_str().is_some_and(|error| error.contains(nowhere)),
            "{said:?}"
        );
    }
    let port = Port::free();
    let setup = Setup::new(Variant::Automatic);
    let file = setup.directory().join("tokens");
    std::fs::write(&file, format!("operator {} ann\n", sha256("let me in"))).expect("a file can be written");
    let token = setup.directory().join("token");
    std::fs::write(&token, "let me in\n").expect("a file can be written");
    let gateway = setup
        .environment("controlplane", "FRAMEGATE_ADMIN_TCP", &port.address().to_string())
        .environment("controlplane", "FRAMEGATE_ADMIN_TOKENS", file.to_str().expect("a path in UTF-8"))
        .start();
    let url = format!("http://{}", port.address());
    let refused = framegate(&["app", "list", "--admin", &url]);
    assert_eq!((refused.code, refused.stderr.contains("bearer token")), (2, true), "{refused:?}");
    let token = token.to_str().expect("a path in UTF-8");
    assert_eq!(framegate(&["app", "create", "x", "--admin", &url, "--admin-token-file", token]).code, 0);
    assert_eq!(Admin::of(&gateway).get("/applications/x").status, 200);
    let far = framegate(&["app", "list", "--admin", "http://192.0.2.1:1", "--admin-token-file", token]);
    assert_eq!((far.code, far.stderr.contains("https://")), (2, true), "{far:?}");
}

/// Runs the lines in a shell, which ends at the first that fails.
fn shell(lines: &str, gateway: &Gateway) -> std::process::Output {
    let bin = Path::new(FRAMEGATE).parent().expect("a directory");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("bash");
    command.args([
        "-euo",
        "pipefail",
        "-c",
        &format!("curl() {{ command curl --silent --show-error --fail-with-body \"$@\"; }}\n{lines}"),
    ]);
    command.env("PATH", path).env("ADMIN", gateway.setup().directory().join("admin.sock"));
    command.env("FRAMEGATE_CONTROL", gateway.setup().control_path()).current_dir(gateway.setup().directory());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a shell");
    // A password, for whoever asks.
    let _ = child.stdin.take().expect("a pipe").write_all(b"open sesame\n");
    child.wait_with_output().expect("it ends")
}

/// The blocks of this kind in a page.
fn blocks(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page)).expect("a page");
    text.split("```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next().map(str::to_owned)).collect()
}

#[test]
fn what_the_manual_shows_runs_as_it_is_shown() {
    if !Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success()) {
        aloud("skipped: curl is not installed (apt-get install curl)");
        return;
    }
    let gateway = gateway();
    let tour: Vec<_> =
        blocks("admin-api.md").into_iter().filter(|block| block.contains("curl --unix-socket")).collect();
    assert_eq!(tour.len(), 2);
    for block in &tour {
        let output = shell(block, &gateway);
        assert!(output.status.success(), "{block}\n{output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!said.contains("urn:framegate:problem") && said.contains("\"_meta\""), "{said}");
    }
    let tokens: Vec<_> = blocks("admin-api.md").into_iter().filter(|block| block.contains("admin-tokens")).collect();
    assert!(shell(&tokens.concat(), &gateway).status.success());
    let line = std::fs::read_to_string(gateway.setup().directory().join("admin-tokens")).expect("a file");
    assert!(line.starts_with("read_only ") && line.split(' ').nth(1).is_some_and(|hash| hash.len() == 64), "{line}");
}

#[test]
fn the_verbs_that_the_manual_shows_run_as_they_are_shown() {
    let gateway = gateway();
    let shown: Vec<_> =
        blocks("running.md").into_iter().filter(|block| block.contains("framegate app create")).collect();
    assert_eq!(shown.len(), 1);
    let output = shell(&shown[0], &gateway);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("fgk_"), "{output:?}");
}
