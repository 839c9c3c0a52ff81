//! Are we still who we say? Directions, homes, first lines, and other promises that no compiler keeps.
//!
//! Each rule is one test with the sentence that says why; it reads text, and it knows nothing of Rust's grammar.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the project: its path from the root, and its content.
struct Text {
    path: String,
    content: String,
}

/// Every text file, but for what is generated, fetched or hidden.
fn texts() -> Vec<Text> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let generated = ["target", "node_modules", "__pycache__", "corpus", "artifacts", "Cargo.lock", ".git"];
            if generated.contains(&name) || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(content) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push(Text { path, content });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn rust() -> impl Iterator<Item = Text> {
    texts().into_iter().filter(|text| text.path.ends_with(".rs"))
}

/// `path:line` of every line of these files that the rule objects to, comments left out.
fn lines_of_code(files: impl Iterator<Item = Text>, objects: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for text in files {
        for (index, line) in text.content.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if objects(code) {
                found.push(format!("{}:{}: {}", text.path, index + 1, line.trim()));
            }
        }
    }
    found
}

#[track_caller]
fn none(found: Vec<String>, why: &str) {
    assert!(found.is_empty(), "{why}\n{}", found.join("\n"));
}

/// Whether the code names the crate: in a path or a `use`.
fn names_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let mut rest = code;
    while let Some(at) = rest.find(&path) {
        let before = rest[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            return true;
        }
        rest = &rest[at + path.len()..];
    }
    let code = code.trim();
    code == format!("use {name};") || code.starts_with(&format!("extern crate {name}"))
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.starts_with("benches/")
}

#[test]
fn dependencies_point_one_way() {
    for (member, stranger) in [
        ("dataplane", "controlplane"),
        ("controlplane", "dataplane"),
        ("proto", "dataplane"),
        ("proto", "controlplane"),
    ] {
        let why = format!("{member} may not know {stranger}: the two planes meet only in proto, which knows neither");
        let folder = format!("{member}/");
        none(
            lines_of_code(rust().filter(|text| text.path.starts_with(&folder)), |code| names_crate(code, stranger)),
            &why,
        );
        let manifest = fs::read_to_string(format!("{}/{member}/Cargo.toml", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let declared = manifest.lines().any(|line| line.starts_with(stranger));
        assert!(!declared, "{member}/Cargo.toml: {why}");
    }
}

#[test]
fn monoio_lives_in_the_data_plane_only() {
    let elsewhere = rust().filter(|text| !text.path.starts_with("dataplane/") && !is_test(&text.path));
    none(
        lines_of_code(elsewhere, |code| names_crate(code, "monoio")),
        "monoio moves bytes, and bytes move in dataplane",
    );
}

#[test]
fn tokio_lives_in_the_control_plane_and_on_the_bridge() {
    let home = ["controlplane/", "dataplane/src/bridge/", "dataplane/src/bridge.rs"];
    let elsewhere = rust().filter(|text| !home.iter().any(|home| text.path.starts_with(home)) && !is_test(&text.path));
    none(
        lines_of_code(elsewhere, |code| names_crate(code, "tokio")),
        "a worker never waits for tokio; the bridge does",
    );
}

#[test]
fn proto_has_no_clock_socket_thread_file_or_randomness() {
    let banned = [
        "Instant::now",
        "SystemTime::now",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "UnixListener",
        "std::thread",
        "std::fs",
        "std::env",
        "std::process",
        "SystemRandom",
    ];
    let proto = rust().filter(|text| text.path.starts_with("proto/src/"));
    let why = "proto is sans-IO: time, randomness and configuration are arguments";
    none(lines_of_code(proto, |code| banned.iter().any(|word| code.contains(word))), why);
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent = rust().filter(|text| !text.content.lines().take(3).any(|line| line.starts_with("//!")));
    none(silent.map(|text| text.path).collect(), "a module opens with what it is for, and what it leaves to others");
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled apart, so that this file keeps its own rule.
    let later = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[ig", "nore")];
    none(
        lines_of_code(rust(), |code| later.iter().any(|word| code.contains(word))),
        "what cannot be finished is left out",
    );
    let owed = concat!("TO", "DO");
    let orphans = texts().into_iter().flat_map(|text| {
        let lines = text.content.lines().enumerate();
        let orphans = lines.filter(|(_, line)| line.contains(owed) && !line.contains(&format!("{owed}(")));
        orphans.map(|(index, line)| format!("{}:{}: {}", text.path, index + 1, line.trim())).collect::<Vec<_>>()
    });
    none(orphans.collect(), "what is owed names who owes it, in parentheses");
}

#[test]
fn files_are_of_a_size_that_can_be_read() {
    const LINES_MAX: usize = 900;
    let long = rust().filter(|text| text.content.lines().count() > LINES_MAX);
    none(long.map(|text| text.path).collect(), "over 900 lines, a file is two files");
}

#[test]
fn relaxed_lints_say_why() {
    let mut found = Vec::new();
    for text in rust() {
        for (at, _) in text.content.match_indices("allow(").chain(text.content.match_indices("expect(")) {
            let before = text.content[..at].trim_end_matches(|c: char| c.is_whitespace());
            let attribute = before.ends_with("#[") || before.ends_with("#![");
            let whole = &text.content[at..at + text.content[at..].find(")]").map_or(0, |end| end)];
            if attribute && !whole.contains("reason") {
                found.push(format!("{}: {whole})]", text.path));
            }
        }
    }
    none(found, "a relaxation carries its reason");
}

#[test]
fn versions_stand_in_the_workspace_table_only() {
    // A workspace of its own has no part in the table.
    let manifests = texts().into_iter().filter(|text| {
        text.path.ends_with("/Cargo.toml") && !text.content.lines().any(|line| line.trim() == "[workspace]")
    });
    let mut found = Vec::new();
    for text in manifests {
        let mut dependencies = false;
        for line in text.content.lines().map(str::trim) {
            if line.starts_with('[') {
                dependencies = line.ends_with("dependencies]");
            } else if dependencies && line.contains('=') && !line.contains("workspace = true") {
                found.push(format!("{}: {line}", text.path));
            }
        }
    }
    none(found, "one table holds every version and feature, once");
}

#[test]
fn no_file_names_a_machine_or_a_registry() {
    // Spelled apart, so that this file keeps its own rule.
    let banned = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("npm", "js."),
        concat!("deb", ".debian.org"),
        concat!("pythonhosted", ".org"),
    ];
    let mut found = Vec::new();
    for text in texts() {
        for word in banned.iter().filter(|word| text.content.contains(**word)) {
            found.push(format!("{}: {word}", text.path));
        }
    }
    none(found, "the project builds on any machine, from whichever registry its client is set up for");
}

#[test]
fn the_changelog_has_a_place_for_what_comes_next() {
    let changelog = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/CHANGELOG.md")).unwrap();
    assert!(changelog.lines().any(|line| line.starts_with("## ") && line.contains("Unreleased")));
}

#[test]
fn every_example_is_shown_or_run_somewhere() {
    let (examples, others): (Vec<_>, Vec<_>) = texts().into_iter().partition(|text| text.path.starts_with("examples/"));
    let readers: Vec<_> = others
        .iter()
        .filter(|text| text.path == "README.md" || text.path.starts_with("docs/") || text.path.starts_with("tests/"))
        .filter(|text| text.path != "tests/tidy/main.rs")
        .collect();
    let forgotten = examples.iter().filter(|example| {
        let name = example.path.rsplit('/').next().unwrap();
        let whole = readers
            .iter()
            .any(|reader| reader.content.contains("CARGO_MANIFEST_DIR") && reader.content.contains("\"examples\""));
        name.ends_with(".yaml") && !whole && !readers.iter().any(|reader| reader.content.contains(name))
    });
    none(forgotten.map(|example| example.path.clone()).collect(), "an example that nobody runs is a rumour");
}

#[test]
fn every_refusal_and_violation_has_a_test_for_what_peers_see() {
    for (source, name, tests) in [
        ("dataplane/src/refusal.rs", "Refusal", "tests/end_to_end/refusals.rs"),
        ("proto/src/ws/violation.rs", "Violation", "tests/end_to_end/violations.rs"),
    ] {
        let read = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let (source, tests) = (read(source), read(tests));
        let start = source.find(&format!("pub enum {name} {{")).unwrap();
        let body = &source[start..start + source[start..].find("\n}").unwrap()];
        let variants: Vec<_> = body.lines().filter_map(|line| line.trim().strip_suffix(',')).collect();
        assert!(variants.len() > 10, "{name} has variants: {variants:?}");
        // Once in the table of statuses or codes, and once where somebody brings it about.
        let untested = variants.iter().filter(|variant| tests.matches(&format!("\"{variant}\"")).count() < 2);
        let excused = ["Internal", "NoSnapshot"];
        let untested = untested.filter(|variant| !excused.contains(*variant) || !tests.contains(**variant));
        none(untested.map(|variant| format!("{name}::{variant}")).collect(), "a no that nobody heard is not tested");
    }
}
