//! What is told of use is what was sent: over the admin API's HTTP and by the verb, whole and narrowed down.

use serde_json::Value;

use super::{NOTICE, is_stopped, passes, session_with};
use crate::kit::people::People;
use crate::kit::{
    Admin, Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Variant, on_both_drivers, on_variant, until, until_some,
};

on_both_drivers!(
    what_is_told_of_use_is_what_was_sent,
    what_a_limit_lets_pass_for_the_bill_is_recorded_to_the_last_message,
);
// It takes a while, and is not the drivers'.
on_variant!(automatic_silence, Automatic, a_data_plane_that_does_not_answer_is_named);

const PLANS: &str = r#"plans:
  - { name: person, limits: [{ quota: 10/year }] }
  - { name: team, limits: [{ quota: 40/year }, { count: frames, quota: 100/year }] }
  - { name: everybody, limits: [{ count: bytes, quota: 1MiB/year, stop: false }] }
"#;

/// The rows that the admin API tells, once what workers have in hand is given back.
struct Told<'a>(&'a Gateway, Admin);

impl Told<'_> {
    fn document(&self, query: &str) -> Value {
        let reply = self.1.get(&format!("/usage{query}"));
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.header("content-type").is_some_and(|kind| kind.starts_with("application/json")), "{reply:?}");
        reply.json()
    }

    fn rows(&self, query: &str) -> Vec<Value> {
        self.document(query)["rows"].as_array().cloned().expect("rows")
    }

    /// Level, key and limit of all rows, sorted.
    fn names(&self, query: &str) -> Vec<String> {
        let word = |row: &Value, name: &str| row[name].as_str().expect("a word").to_owned();
        let name = |row: &Value| ["level", "key", "limit"].map(|name| word(row, name)).join(" ");
        let mut names: Vec<String> = self.rows(query).iter().map(name).collect();
        names.sort();
        names
    }

    #[track_caller]
    fn expect(&self, level: &str, key: &str, limit: &str, [used, left, stopped, sessions]: [u64; 4]) {
        let row = until_some(&format!("{used} of {limit} are used by {level} {key}"), || {
            let rows = self.rows("");
            let is_it = |row: &&Value| row["level"] == level && row["key"] == key && row["limit"] == limit;
            let row = rows.iter().find(is_it);
            row.filter(|row| row["used"] == used).cloned()
        });
        let numbers = ["used", "left", "stopped", "sessions"].map(|name| row[name].as_u64());
        assert_eq!(numbers, [used, left, stopped, sessions].map(Some), "{row}");
        assert!(row["amount"] == used + left || left == 0, "{row}");
        assert_eq!((&row["node"], &row["pid"]), (&"test".into(), &self.0.pid().into()), "{row}");
        assert!(row["resets"].as_str().is_some_and(|at| at.ends_with("-01-01T00:00:00Z")), "{row}");
    }
}

/// Messages of both sides, of these many bytes and this many fragments.
fn says((client, backend): &mut (Peer, Peer), messages: usize, bytes: usize, fragments: usize) {
    for at in 0..messages {
        let (from, to) = if at % 2 == 0 { (&mut *client, &mut *backend) } else { (&mut *backend, &mut *client) };
        for piece in 0..fragments {
            let opcode = if piece == 0 { Opcode::BINARY } else { Opcode::CONTINUATION };
            from.send_frame(&Frame { fin: piece + 1 == fragments, ..Frame::new(opcode, vec![0; bytes / fragments]) });
        }
        assert_eq!(to.message().1.len(), bytes);
    }
}

fn what_is_told_of_use_is_what_was_sent(variant: Variant) {
    let upstream = RawUpstream::listen();
    let people = People::new()
        .application("trader", "plan: person")
        .application("desk", "")
        .entry("subscriptions", "application: trader, api: \"stock:v1\", plan: team".into())
        .subscriptions("desk", &["stock:v1"])
        .key("alice", "trader", "alice-key", "user: alice")
        .key("bob", "trader", "bob-key", "user: bob")
        .key("machine", "trader", "machine-key", "")
        .key("dora", "desk", "dora-key", "user: dora");
    let asked = "version: v1, authentication: { accept: [api_key] }, plan: everybody";
    let setup = Setup::new(variant).workers(2).people(people).document(PLANS);
    let mut gateway = setup.api_to("stock", &upstream.url("/"), asked).start();
    let told = Told(&gateway, Admin::of(&gateway));
    assert_eq!(told.document(""), serde_json::json!({ "rows": [], "total": 0, "silent": [] }), "nothing is used yet");

    let open = |key: &str| session_with(&gateway, &upstream, "/stock/v1", &[("apikey", key)]);
    let (mut alice, mut again, mut bob) = (open("alice-key"), open("alice-key"), open("bob-key"));
    let (mut machine, mut dora) = (open("machine-key"), open("dora-key"));
    says(&mut alice, 5, 300, 3);
    says(&mut again, 5, 1000, 1);
    is_stopped(&mut alice, NOTICE);
    says(&mut bob, 4, 200, 2);
    passes(&mut machine, 2);
    says(&mut dora, 3, 5000, 1);
    told.expect("application", "alice of trader", "10/year", [10, 0, 2, 2]);
    told.expect("application", "bob of trader", "10/year", [4, 6, 0, 1]);
    told.expect("application", "trader", "10/year", [2, 8, 0, 1]);
    told.expect("subscription", "trader at stock:v1", "40/year", [16, 24, 0, 4]);
    told.expect("subscription", "trader at stock:v1", "100/year", [15 + 5 + 8 + 2, 70, 0, 4]);
    let bytes = 5 * 300 + 5 * 1000 + 4 * 200 + 2 + 3 * 5000;
    told.expect("api", "stock:v1", "1MiB/year", [bytes, 1_048_576 - bytes, 0, 5]);

    // Each filter, and several together.
    let of_team = ["subscription trader at stock:v1 100/year", "subscription trader at stock:v1 40/year"];
    let of_person =
        ["application alice of trader 10/year", "application bob of trader 10/year", "application trader 10/year"];
    let of_all = ["api stock:v1 1MiB/year"];
    for query in ["?api=stock", "?api=stock:v1", "?api=stock%3Av1"] {
        assert_eq!(told.names(query), [&of_all[..], &of_team].concat(), "{query}");
    }
    assert_eq!(told.names("?application=trader"), [&of_person[..], &of_team].concat());
    assert_eq!(told.names("?plan=person"), of_person);
    assert_eq!(told.names("?application=trader&plan=team&api=stock"), of_team);
    for nothing in ["?application=nobody", "?plan=Person", "?api=stock:v2", "?api=stoc", "?application=desk"] {
        assert!(told.names(nothing).is_empty(), "{nothing}");
    }
    let first = told.document("?top=1");
    assert_eq!((&first["total"], first["rows"].as_array().map(Vec::len)), (&6.into(), Some(1)));
    assert_eq!(first["rows"][0]["key"], "alice of trader", "of which the largest part is used comes first");
    let parts: Vec<f64> = told.rows("").iter().map(part).collect();
    assert!(parts.is_sorted_by(|one, next| one >= next), "{parts:?}");
    for wrong in ["?top=0", "?top=1001", "?top=x", "?user=alice"] {
        assert_eq!(Admin::of(&gateway).get(&format!("/usage{wrong}")).status, 400, "{wrong}");
    }

    // The verb says the same.
    let asked = [&["--application", "trader", "--plan", "team"][..], &["--api", "stock:v1"], &["--top", "2"], &[]];
    for (words, query) in asked.iter().zip(["?application=trader&plan=team", "?api=stock:v1", "?top=2", ""]) {
        let outcome = gateway.verb("usage", &[words, &["--json"][..]].concat());
        assert_eq!((outcome.code, outcome.json()), (0, told.document(query)), "{words:?}");
    }
    let table = gateway.verb("usage", &["--top", "2"]);
    let lines: Vec<Vec<&str>> = table.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let heading = "LEVEL KEY PLAN LIMIT COUNTS USED LEFT PART RESETS STOPPED SESSIONS NODE";
    assert_eq!(lines[0].join(" "), heading, "{table:?}");
    let year = told.rows("?top=1")[0]["resets"].as_str().expect("when").to_owned();
    let row = format!("application alice of trader person 10/year messages 10 0 100% {year} 2 2 test");
    assert_eq!(lines[1].join(" "), row, "{table:?}");
    assert_eq!(lines[2][6..10], ["messages", "4", "6", "40%"], "{table:?}");
    assert_eq!(lines[3].join(" "), "4 more; --api, --application and --plan narrow it down");

    // Nobody is there any more: what is used stays.
    drop((alice, again, bob, machine, dora));
    until("all are gone", || gateway.metric("framegate_sessions_active", &[("api", "stock")]) == 0.0);
    told.expect("application", "alice of trader", "10/year", [10, 0, 2, 0]);
    told.expect("api", "stock:v1", "1MiB/year", [bytes, 1_048_576 - bytes, 0, 0]);
    gateway.probe();
}

fn what_a_limit_lets_pass_for_the_bill_is_recorded_to_the_last_message(variant: Variant) {
    let plan = "limits: [{ quota: 20/year, stop: false }, { count: bytes, quota: 50/year, stop: false }]";
    let (mut gateway, upstream) = super::limited(variant, plan, "");
    let mut both = gateway.session("/chat", &upstream);
    says(&mut both, 50, 7, 1);
    let told = Told(&gateway, Admin::of(&gateway));
    told.expect("api", "chat", "20/year", [50, 0, 0, 1]);
    told.expect("api", "chat", "50/year", [350, 0, 0, 1]);
    let table = gateway.verb("usage", &[]).stdout;
    assert!(table.contains(" 700% ") && table.contains(" 250% "), "{table}");
    until("the log warns", || gateway.said("dataplane").matches("a quota is used so far").count() >= 2);
    assert!(!gateway.said("dataplane").contains("a limit stops messages"));
    gateway.probe();
}

fn a_data_plane_that_does_not_answer_is_named(variant: Variant) {
    let (mut gateway, upstream) = super::limited(variant, "limits: [{ quota: 20/year }]", "");
    let mut both = gateway.session("/chat", &upstream);
    passes(&mut both, 3);
    gateway.signal(libc::SIGSTOP);
    let outcome = gateway.verb("usage", &["--json"]);
    let silent = serde_json::json!({ "rows": [], "total": 0, "silent": [["test", gateway.pid()]] });
    let table = gateway.verb("usage", &[]);
    gateway.signal(libc::SIGCONT);
    assert_eq!((outcome.code, outcome.json()), (1, silent));
    assert!(table.code == 1 && table.stdout.contains("has not answered"), "{table:?}");
    until("it answers again", || gateway.verb("usage", &[]).code == 0);
    gateway.probe();
}

fn part(row: &Value) -> f64 {
    row["used"].as_f64().expect("a number") / row["amount"].as_f64().expect("a number")
}
