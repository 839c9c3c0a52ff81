//! Do the documents say what the code does? Words, verbs, flags, links and examples in them are those of this build.
//!
//! What a sentence claims no test can read; what it names, this one can.

#![cfg(test)]

mod markdown;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use dataplane::record::{Cause, Side};
use dataplane::refusal::Refusal;
use proto::snapshot::Snapshot;
use proto::ws::Violation;

use markdown::{Page, pages};

fn page(path: &str) -> Page {
    pages().into_iter().find(|page| page.path == path).unwrap_or_else(|| panic!("{path} is missing"))
}

#[track_caller]
fn none(found: Vec<String>, why: &str) {
    assert!(found.is_empty(), "{why}\n{}", found.join("\n"));
}

/// The cells of every table row of the page, without the marks of code.
fn rows(page: &Page) -> Vec<Vec<String>> {
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect();
    page.text.lines().filter(|line| line.starts_with('|')).map(cells).collect()
}

#[test]
fn the_index_names_every_page_of_the_manual() {
    let index = page("docs/README.md");
    let links: BTreeSet<_> = index.links().into_iter().map(|target| index.beside(&target)).collect();
    let forgotten = pages().into_iter().map(|page| page.path).filter(|path| path.starts_with("docs/"));
    none(forgotten.filter(|path| *path != index.path && !links.contains(path)).collect(), "docs/README.md lacks pages");
}

#[test]
fn every_refusal_has_a_row_with_its_status_and_blame() {
    let rows = rows(&page("docs/close-codes.md"));
    let missing = Refusal::ALL.into_iter().filter(|refusal| {
        let row = refusal.row();
        let wanted = [row.word, &row.status.to_string(), row.blame.word()];
        !rows.iter().any(|cells| cells.len() == 4 && cells.iter().zip(wanted).all(|(cell, wanted)| cell == wanted))
    });
    none(missing.map(|refusal| format!("{:?}", refusal.row())).collect(), "docs/close-codes.md lacks refusals");
}

#[test]
fn every_violation_has_a_row_with_its_code_and_reason() {
    let rows = rows(&page("docs/close-codes.md"));
    let missing = Violation::ALL.into_iter().filter(|violation| {
        let wanted = [violation.word(), &violation.code().0.to_string(), violation.reason()];
        !rows.iter().any(|cells| cells.len() == 4 && cells.iter().zip(wanted).all(|(cell, wanted)| cell == wanted))
    });
    none(missing.map(|violation| format!("{:?}", violation.row())).collect(), "docs/close-codes.md lacks violations");
}

/// Every cause but the violations, which have a test of their own. A new one does not compile before it stands here.
fn causes() -> Vec<Cause> {
    let next = |cause: Cause| match cause {
        Cause::Closed => Some(Cause::Lost),
        Cause::Lost => Some(Cause::Idle),
        Cause::Idle => Some(Cause::Lifetime),
        Cause::Lifetime => Some(Cause::PingTimeout),
        Cause::PingTimeout => Some(Cause::Drain),
        Cause::Drain => Some(Cause::Unpublished),
        Cause::Unpublished => Some(Cause::Killed),
        Cause::Killed => Some(Cause::CredentialExpired),
        Cause::CredentialExpired => Some(Cause::CredentialRevoked),
        Cause::CredentialRevoked => Some(Cause::CredentialUnverified),
        Cause::CredentialUnverified => Some(Cause::Throttled),
        Cause::Throttled => Some(Cause::Denied),
        Cause::Denied | Cause::Violation(_) => None,
    };
    std::iter::successors(Some(Cause::Closed), |cause| next(*cause)).collect()
}

#[test]
fn every_way_to_end_is_in_the_manual() {
    let text = page("docs/close-codes.md").text;
    let words = causes().into_iter().map(Cause::word).chain(Side::ALL.map(Side::word));
    let missing = words.filter(|word| !text.contains(&format!("`{word}`")) && !text.contains(&format!("| {word} |")));
    none(missing.map(str::to_owned).collect(), "docs/close-codes.md lacks words of the session log");
}

#[test]
fn relative_links_lead_somewhere() {
    let pages = pages();
    let mut broken = Vec::new();
    for page in &pages {
        for target in page.links() {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() { page.path.clone() } else { page.beside(file) };
            let exists = Path::new(env!("CARGO_MANIFEST_DIR")).join(&path).exists();
            let heading = || pages.iter().any(|page| page.path == path && page.anchors().contains(anchor));
            if !exists || (!anchor.is_empty() && !heading()) {
                broken.push(format!("{}: {target}", page.path));
            }
        }
    }
    none(broken, "links that lead nowhere");
}

/// What `framegate VERB --help` prints; `None` where there is no such verb.
fn help(verb: &str) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_framegate")).args([verb, "--help"]).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// The verbs that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let lines = lines
        .take_while(|line| !line.trim().is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let verbs = lines.filter_map(|line| line.split_whitespace().next().map(str::to_owned));
    verbs.filter(|verb| verb != "help").collect()
}

/// The help of a verb and of all verbs below it.
fn helps(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_framegate")).args(words).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let below = listed(&text).iter().map(|verb| helps(&[words, &[verb.as_str()]].concat())).collect::<String>();
    text + &below
}

fn operators_pages() -> impl Iterator<Item = Page> {
    pages().into_iter().filter(|page| page.path == "README.md" || page.path.starts_with("docs/"))
}

#[test]
fn verbs_and_flags_that_are_mentioned_exist() {
    let mut verbs = BTreeSet::new();
    let mut found = Vec::new();
    for page in operators_pages() {
        for verb in page.commands("framegate") {
            if verbs.insert(verb.clone()) && help(&verb).is_none() {
                found.push(format!("{}: framegate {verb}", page.path));
            }
        }
    }
    assert!(verbs.contains("run") && verbs.contains("drain"), "the documents mention verbs: {verbs:?}");
    let helps: String = verbs.iter().map(|verb| helps(&[verb])).collect();
    let known = |flag: &str| helps.split(|c: char| !c.is_alphanumeric() && c != '-').any(|word| word == flag);
    for page in ["docs/running.md", "docs/dataplane.md", "docs/troubleshooting.md", "docs/security.md"].map(page) {
        let flags = page.spans().filter_map(|span| span.split([' ', '=']).next().map(str::to_owned));
        let unknown = flags.filter(|word| word.starts_with("--") && !known(word));
        found.extend(unknown.map(|flag| format!("{}: {flag}", page.path)));
    }
    none(found, "verbs and flags that do not exist");
}

#[test]
fn every_verb_and_every_option_of_both_planes_is_in_the_manual() {
    let text = page("docs/running.md").text;
    let output = Command::new(env!("CARGO_BIN_EXE_framegate")).arg("--help").output().unwrap();
    let overview = String::from_utf8(output.stdout).unwrap();
    let listed = overview.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let verbs = listed.take_while(|line| !line.trim().is_empty()).filter_map(|line| line.split_whitespace().next());
    let mut missing: Vec<_> = verbs.filter(|verb| !text.contains(&format!("`framegate {verb}"))).collect();
    let (run, dataplane) = (help("run").unwrap(), help("dataplane").unwrap());
    let nouns = ["api", "app", "subscription", "key", "user", "revoke"].map(|noun| helps(&[noun]));
    let words = [&run, &dataplane]
        .into_iter()
        .chain(&nouns)
        .flat_map(|help| help.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_'));
    let options = words.filter(|word| word.starts_with("--") && *word != "--help" || word.starts_with("FRAMEGATE_"));
    missing.extend(options.filter(|option| option.len() > 2 && !text.contains(&format!("`{option}"))));
    none(missing.into_iter().map(str::to_owned).collect(), "docs/running.md lacks verbs or options");
}

#[test]
fn metrics_that_are_mentioned_exist() {
    let known = page("docs/metrics.md").text;
    let mut unknown = Vec::new();
    for page in operators_pages().filter(|page| page.path != "docs/metrics.md") {
        let names = page.spans().filter(|span| span.starts_with("framegate_"));
        let missing =
            names.filter(|name| !known.contains(&format!("`{}`", name.split('{').next().unwrap_or_default())));
        unknown.extend(missing.map(|name| format!("{}: {name}", page.path)));
    }
    none(unknown, "metrics that docs/metrics.md does not have");
}

/// A fragment stands for a document: what it leaves out is filled in.
fn completed(block: &str) -> String {
    let has = |key: &str| block.lines().any(|line| line.starts_with(key));
    let mut document = String::new();
    if !has("version:") {
        document.push_str("version: 1\n");
    }
    if !has("listeners:") {
        document.push_str("listeners: [{ name: public, bind: 127.0.0.1:8080 }]\n");
    }
    document + block
}

#[test]
fn every_yaml_block_is_a_sound_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let mut faults = Vec::new();
    let mut blocks = 0;
    for page in operators_pages() {
        for (number, block) in page.blocks("yaml").into_iter().enumerate() {
            let file = directory.path().join("block.yaml");
            fs::write(&file, completed(&block)).unwrap();
            let checked = controlplane::source::read(&file, &|_| None).outcome.and_then(|document| {
                Snapshot::check(document.config.clone()).map_err(|problems| document.diagnose(&problems))
            });
            let told = checked.err().into_iter().flatten();
            faults.extend(told.map(|fault| format!("{}, yaml block {}: {fault}", page.path, number + 1)));
            blocks += 1;
        }
    }
    assert!(blocks > 0, "the documents have examples");
    none(faults, "examples that the gateway would not take");
}

#[test]
fn the_readme_shows_the_minimal_example_as_it_is() {
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/minimal.yaml")).unwrap();
    assert_eq!(page("README.md").blocks("yaml"), [example]);
}
