//! The hexdumps of docs/control-protocol.md are what the code writes, and they read back as what the page says.
//!
//! `UPDATE=1 cargo test -p framegate-controlplane --test protocol_page` writes them anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use proto::control::message::{Ack, Generation, Hello, Push, Reject, Usage, UsageAsked, UsageRow, Welcome};
use proto::control::{Message, PROTOCOL_VERSION, envelope};
use proto::snapshot::{Config, Snapshot};

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/control-protocol.md")
}

/// What stands between a fence with this label and its end.
fn block<'t>(text: &'t str, label: &str) -> &'t str {
    let begin = format!("```{label}\n");
    let start = text.find(&begin).unwrap_or_else(|| panic!("the page has no {label}")) + begin.len();
    &text[start..start + text[start..].find("```").unwrap()]
}

/// Offset, sixteen bytes, the same as text.
fn hexdump(bytes: &[u8]) -> String {
    let mut dump = String::new();
    for (line, chunk) in bytes.chunks(16).enumerate() {
        let mut hex = String::new();
        chunk.iter().for_each(|byte| write!(hex, "{byte:02x} ").unwrap());
        let text: String =
            chunk.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        writeln!(dump, "{:04x}  {hex:<48} {text}", line * 16).unwrap();
    }
    dump
}

fn bytes(dump: &str) -> Vec<u8> {
    let hex = dump.lines().flat_map(|line| line[6..54].split_whitespace());
    hex.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// The messages of the worked example, of the configuration that the page shows.
fn example(page: &str) -> [(&'static str, Message); 5] {
    let config: Config = serde_saphyr::from_str(block(page, "yaml")).unwrap();
    let snapshot = Snapshot::check(config).unwrap();
    let generation = Generation { source: "gateway-1-1700000000".into(), number: 1 };
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        node: "edge".into(),
        software: "0.1.0".into(),
        pid: 4711,
        applied: None,
        sections: Vec::new(),
    };
    let welcome =
        Welcome { protocol: PROTOCOL_VERSION, software: "0.1.0".into(), report_every_ms: 5000, refused: None };
    let push = Push::new(generation.clone(), &snapshot, &HashSet::new());
    let ack = Ack { generation: generation.clone(), micros: 850 };
    let reasons = vec!["listener public: cannot bind 127.0.0.1:8080: Address already in use".to_owned()];
    [
        ("text hello", Message::Hello(hello)),
        ("text welcome", Message::Welcome(welcome)),
        ("text push", Message::Push(push)),
        ("text ack", Message::Ack(ack)),
        ("text reject", Message::Reject(Reject { generation, reasons })),
    ]
}

#[test]
fn the_hexdumps_are_what_the_code_writes_and_reads() {
    let mut text = std::fs::read_to_string(page()).unwrap();
    for (label, message) in example(&text) {
        let dump = hexdump(&message.encode().unwrap());
        if std::env::var_os("UPDATE").is_some() {
            let old = format!("```{label}\n{}```", block(&text, label));
            text = text.replace(&old, &format!("```{label}\n{dump}```"));
            std::fs::write(page(), &text).unwrap();
        }
        assert_eq!(block(&text, label), dump, "{label}; UPDATE=1 writes it anew");
        let read = bytes(block(&text, label));
        let (prefix, rest) = read.split_at(envelope::PREFIX_BYTES);
        assert_eq!(envelope::length(prefix.try_into().unwrap()).unwrap(), rest.len());
        assert_eq!(Message::decode(rest).unwrap(), message);
    }
}

#[test]
fn the_page_names_every_kind_every_field_and_the_ceilings() {
    let text = std::fs::read_to_string(page()).unwrap();
    for (_, message) in example(&text) {
        let name = format!("{message:?}");
        let name = name.split('(').next().unwrap();
        assert!(text.contains(&format!("| {} | {name} |", message.kind())), "{name}");
    }
    let report = ["ticket", "uptime_s", "workers", "driver", "engine", "splice", "draining", "sessions", "bytes_total"];
    for report in report.into_iter().chain(["sessions_by_api"]) {
        assert!(text.contains(&format!("`{report}`")), "{report}");
    }
    let asked = UsageAsked {
        api: Some("chat".into()),
        application: Some("mobile".into()),
        plan: Some("Gold".into()),
        rows_max: 1,
    };
    let usage = Usage { rows: vec![UsageRow::default()], ..Usage::default() };
    assert!(text.contains(&format!("| {} | Usage |", Message::Usage(usage.clone()).kind())));
    let asked = serde_json::to_value(asked).unwrap();
    let usage = serde_json::to_value(usage).unwrap();
    let fields = [&asked, &usage, &usage["rows"][0]].map(|one| one.as_object().unwrap().keys().cloned());
    for field in fields.into_iter().flatten() {
        assert!(text.contains(&format!("| `{field}` |")), "{field}");
    }
    for ceiling in ["16,777,216", "268,435,456"] {
        let bytes: usize = ceiling.replace(',', "").parse().unwrap();
        let known = [proto::limits::SMALL_ENVELOPE_BYTES_MAX, proto::limits::ENVELOPE_BYTES_MAX];
        assert!(text.contains(ceiling) && known.contains(&bytes));
    }
}
