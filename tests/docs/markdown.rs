//! As much of Markdown as the documents use: fences, code spans, links, headings.
//!
//! Reads; what should stand in a page is the tests' business.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A document: its path from the root, and its text.
pub struct Page {
    pub path: String,
    pub text: String,
}

/// Every document of the project.
pub fn pages() -> Vec<Page> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["", "docs", "examples", "deploy"] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push(Page { path, text });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

impl Page {
    /// The lines outside fences.
    fn prose(&self) -> impl Iterator<Item = &str> {
        let mut fenced = false;
        self.text.lines().filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        })
    }

    /// The content of the fenced blocks of a language.
    pub fn blocks(&self, language: &str) -> Vec<String> {
        let mut blocks = Vec::new();
        let mut lines = self.text.lines();
        while let Some(line) = lines.next() {
            let Some(found) = line.strip_prefix("```") else { continue };
            let content: String =
                lines.by_ref().take_while(|line| *line != "```").flat_map(|line| [line, "\n"]).collect();
            if found == language {
                blocks.push(content);
            }
        }
        blocks
    }

    /// The code spans. One that is broken over two lines is two halves; the documents have none.
    pub fn spans(&self) -> impl Iterator<Item = String> {
        let text: Vec<String> = self.prose().map(str::to_owned).collect();
        text.into_iter().flat_map(|line| line.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
    }

    /// First arguments that a program is called with, in code spans and in blocks of shell.
    pub fn commands(&self, program: &str) -> BTreeSet<String> {
        let blocks = ["sh", "console"].into_iter().flat_map(|language| self.blocks(language));
        let lines = blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>());
        let calls = self.spans().chain(lines);
        let verbs = calls.filter_map(|call| {
            let call = call.trim_start_matches("$ ").replace("cargo run --release --", program);
            let verb = call.strip_prefix(program)?.strip_prefix(' ')?.split_whitespace().next()?.to_owned();
            verb.bytes().all(|byte| byte.is_ascii_lowercase()).then_some(verb)
        });
        verbs.collect()
    }

    /// The targets of links.
    pub fn links(&self) -> Vec<String> {
        let prose: String = self.prose().flat_map(|line| [line, "\n"]).collect();
        let ends = prose.match_indices("](").map(|(at, _)| at + 2);
        ends.filter_map(|start| prose[start..].split_once(')').map(|(target, _)| target.to_owned())).collect()
    }

    /// The anchors of the headings.
    pub fn anchors(&self) -> BTreeSet<String> {
        let headings = self.prose().filter(|line| line.starts_with('#'));
        headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
    }

    /// The path, from the root, of what stands at this path from here.
    pub fn beside(&self, relative: &str) -> String {
        let mut parts: Vec<&str> = self.path.split('/').collect();
        parts.pop();
        for part in relative.split('/') {
            match part {
                ".." => drop(parts.pop()),
                "." | "" => {}
                part => parts.push(part),
            }
        }
        parts.join("/")
    }
}

/// As repository hosts make them: lower case, no punctuation, spaces as hyphens.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn markdown_is_read_as_far_as_it_is_used() {
    let text =
        "# A `b`: c d\n\nSee [x](y.md#z) and `framegate run FILE`.\n```sh\nframegate status\n```\n`framegate --help`\n";
    let page = Page { path: "docs/p.md".into(), text: text.into() };
    assert_eq!(page.anchors(), BTreeSet::from(["a-b-c-d".to_owned()]));
    assert_eq!(page.links(), ["y.md#z"]);
    assert_eq!(page.commands("framegate"), BTreeSet::from(["run".to_owned(), "status".to_owned()]));
    assert_eq!(page.blocks("sh"), ["framegate status\n"]);
    assert_eq!((page.beside("../README.md"), page.beside("y.md")), ("README.md".to_owned(), "docs/y.md".to_owned()));
}
