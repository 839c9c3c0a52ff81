//! What docs/ and examples/ say about the configuration is what the code does.
//!
//! `UPDATE=1 cargo test -p framegate-controlplane --test documents` writes the generated pages anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "kit/authority.rs"]
mod authority;
#[path = "documents/reference.rs"]
mod reference;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use authority::Authority;
use controlplane::compile::compile;
use controlplane::material::Known;
use controlplane::schema;
use controlplane::tokens::KeySets;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Compares a generated page with the one that is checked in, or writes it.
#[track_caller]
fn is_checked_in(path: &str, content: &str) {
    let file = root().join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, content).unwrap();
    }
    let present = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        present == content,
        "{path} is not what the code says; UPDATE=1 cargo test -p framegate-controlplane --test documents writes it"
    );
}

/// What the examples with TLS find where FILES says.
fn certificates(directory: &Path) -> PathBuf {
    let authority = Authority::new(&directory.join("files"), 30);
    for (name, names) in
        [("edge", "DNS:edge.example.com"), ("wildcard", "DNS:*.example.com"), ("gateway", "DNS:gateway.internal")]
    {
        authority.issue(name, names, 20);
    }
    authority.respond("edge", 7);
    authority.list("partners", 7);
    for name in ["partners.pem", "internal.pem"] {
        authority.write(name, &authority.read("ca.pem"));
    }
    authority.path("")
}

/// Whether it names certificates, which must be made first.
fn names_files(example: &Path) -> bool {
    std::fs::read_to_string(example).unwrap().contains("${FILES")
}

fn examples() -> Vec<PathBuf> {
    let entries = root().join("examples").read_dir().unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

#[test]
fn the_schema_in_docs_is_the_one_that_is_generated() {
    is_checked_in("docs/config.schema.json", &schema::text());
}

#[test]
fn the_openapi_document_in_docs_is_the_one_that_is_served() {
    is_checked_in("docs/openapi.json", &controlplane::admin::openapi::text());
}

#[test]
fn the_reference_in_docs_is_the_one_that_is_generated() {
    is_checked_in("docs/configuration.md", &reference::page(&schema::document()));
}

#[test]
fn every_example_is_sound_and_named_in_the_reference() {
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    assert!(examples().len() >= 7);
    let directory = tempfile::tempdir().unwrap();
    let has_files = authority::is_available();
    let files = if has_files { certificates(directory.path()).display().to_string() } else { String::new() };
    for file in examples().into_iter().filter(|file| has_files || !names_files(file)) {
        let environment = |name: &str| (name == "FILES").then(|| files.clone());
        let outcome = compile(&file, &environment, &Known::default(), &KeySets::default(), SystemTime::now()).outcome;
        let told = outcome.err().into_iter().flatten().map(|one| one.to_string()).collect::<Vec<_>>();
        assert!(told.is_empty(), "{told:#?}");
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(page.contains(name), "docs/configuration.md does not name examples/{name}");
    }
}

#[test]
fn the_example_for_ones_own_server_has_ten_lines() {
    let text = std::fs::read_to_string(root().join("examples/minimal.yaml")).unwrap();
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    assert!(lines.count() <= 10);
}

#[test]
fn the_examples_use_every_key_that_the_reference_names() {
    let mut used = std::collections::BTreeSet::new();
    for file in examples() {
        let text = std::fs::read_to_string(file).unwrap();
        for line in text.lines() {
            let words = line.split(['{', ',', '-', ' ']).filter_map(|word| word.strip_suffix(':'));
            used.extend(words.map(str::to_owned));
        }
    }
    let schema = schema::document();
    let mut unused = Vec::new();
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        let properties = definition.get("properties").and_then(Value::as_object).into_iter().flatten();
        unused.extend(properties.filter(|(key, _)| !used.contains(*key)).map(|(key, _)| format!("{name}.{key}")));
    }
    assert_eq!(unused, Vec::<String>::new(), "no example shows these");
}
