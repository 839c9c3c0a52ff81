//! examples/limits.yaml at work: the levels of WSO2 API Manager, one after the other, each side's messages added up.

use super::NOTICE;
use crate::kit::people::People;
use crate::kit::{Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, until};

on_both_drivers!(the_levels_of_the_example_stop_what_they_say_and_charge_nothing_elsewhere);

const EXAMPLE: &str = include_str!("../../../examples/limits.yaml");
/// What the API has room for in the test, and what it says then.
const API_NOTICE: &str =
    r#"{"error":{"code":4003,"level":"api","message":"throttled out","plan":"Exchange","retry_after_ms":"#;

/// The example with windows that do not end while the test runs, an address of its own, and keys to come in with.
fn document(gateway: &Gateway, upstream: &RawUpstream) -> String {
    let people = People::new()
        .key("alice", "trader", "alice-key", "user: alice")
        .key("bob", "trader", "bob-key", "user: bob")
        .key("mallory", "trader", "mallory-key", "user: mallory")
        .key("dora", "desk", "dora-key", "user: dora");
    let mut yaml = EXAMPLE.to_owned();
    for (from, to) in [
        ("0.0.0.0:8080", gateway.address().to_string().as_str()),
        ("ws://10.0.0.5:9001/", &upstream.url("/")),
        (", { url: \"ws://10.0.0.6:9001/\" }", ""),
        ("quota: 20/minute", "quota: 20/year"),
        ("quota: 50000/day", "quota: 30/year"),
        ("count: messages, rate: 5000/s", "count: messages, quota: 35/year"),
        ("connects_per_address: 5/s", "connects_per_address: 500/s"),
        ("applications:\n", "applications:\n  - { name: desk }\n"),
        ("subscriptions:\n", "subscriptions:\n  - { application: desk, api: \"stock:v1\" }\n"),
    ] {
        assert!(yaml.contains(from), "the example has {from}");
        yaml = yaml.replace(from, to);
    }
    yaml + &people.yaml()
}

fn session(gateway: &Gateway, upstream: &RawUpstream, target: &str, key: &str) -> (Peer, Peer) {
    let mut client = gateway.connect();
    client.send(&Upgrade::to(target).with("apikey", key).encode());
    let mut backend = upstream.accept();
    backend.agree();
    client.upgraded();
    (client, backend)
}

/// So many messages to and fro, which all pass.
fn passes((client, backend): &mut (Peer, Peer), messages: usize) {
    for at in 0..messages {
        let text = at.to_string();
        if at % 2 == 0 {
            client.send_frame(&Frame::text(&text));
            backend.expect(Opcode::TEXT, text.as_bytes());
        } else {
            backend.send_frame(&Frame::text(&text));
            client.expect(Opcode::TEXT, text.as_bytes());
        }
    }
}

/// One more of either side does not; the client reads a notice that begins like this.
#[track_caller]
fn is_stopped((client, backend): &mut (Peer, Peer), notice: &str) {
    for is_clients in [true, false] {
        let sender = if is_clients { &mut *client } else { &mut *backend };
        sender.send_frame(&Frame::text("one more"));
        let (opcode, payload) = client.message();
        let text = String::from_utf8_lossy(&payload).into_owned();
        assert!(opcode == Opcode::TEXT && text.starts_with(notice), "{text}");
    }
}

fn the_levels_of_the_example_stop_what_they_say_and_charge_nothing_elsewhere(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).workers(1).start();
    let outcome = gateway.apply(&document(&gateway, &upstream));
    assert_eq!(outcome.code, 0, "{outcome:?}");

    // Application level: one user of an application has 20, whichever side says them, on whichever session.
    let open = |key: &str| session(&gateway, &upstream, "/stock/v1", &format!("{key}-key"));
    let mut alice = open("alice");
    passes(&mut alice, 20);
    is_stopped(&mut alice, NOTICE);
    is_stopped(&mut open("alice"), NOTICE);
    // Subscription level: all users of the application together have 30.
    let mut bob = open("bob");
    passes(&mut bob, 10);
    is_stopped(&mut bob, NOTICE);
    // API level: everybody has 35. What was stopped before was not charged here.
    let mut dora = open("dora");
    passes(&mut dora, 5);
    is_stopped(&mut dora, API_NOTICE);
    for (level, stopped) in [("application", 4.0), ("subscription", 2.0), ("api", 2.0)] {
        let labels = [("api", "stock"), ("level", level), ("outcome", "notify")];
        assert_eq!(gateway.metric("framegate_throttled_messages_total", &labels), stopped, "{level}");
    }
    // Everybody's use is told, of each by the level that it is of.
    let used = |filter: [&str; 2]| -> serde_json::Value {
        let outcome = gateway.verb("usage", &[filter.as_slice(), &["--json"]].concat());
        assert_eq!(outcome.code, 0, "{outcome:?}");
        outcome.json()
    };
    let is_bobs = |row: &serde_json::Value| row["key"].as_str().is_some_and(|key| key.contains("bob"));
    until("what a worker has in hand and does not use is given back", || {
        let rows = used(["--application", "trader"])["rows"].take();
        rows.as_array().is_some_and(|rows| rows.iter().any(|row| is_bobs(row) && row["used"] == 10))
    });
    let all = used(["--top", "1000"]);
    let rows = all["rows"].as_array().expect("rows");
    assert_eq!(all["total"], rows.len());
    for (level, name, limit, used, stopped) in [
        ("application", "alice", "20/year", 20, 4),
        ("application", "bob", "20/year", 10, 0),
        ("subscription", "trader", "30/year", 30, 2),
        ("api", "stock:v1", "35/year", 35, 2),
    ] {
        let is_it = |row: &&serde_json::Value| {
            row["level"] == level && row["limit"] == limit && row["key"].as_str().is_some_and(|key| key.contains(name))
        };
        let row = rows.iter().find(is_it).unwrap_or_else(|| panic!("{level} of {name}: {all}"));
        assert_eq!((&row["used"], &row["stopped"]), (&used.into(), &stopped.into()), "{row}");
        assert!(row["resets"].as_str().is_some_and(|at| at.ends_with("-01-01T00:00:00Z")), "{row}");
    }
    let of_trader = used(["--application", "trader"]);
    let is_traders = |row: &serde_json::Value| row["application"] == "trader";
    assert!(of_trader["rows"].as_array().is_some_and(|rows| !rows.is_empty() && rows.iter().all(is_traders)));
    assert_eq!(used(["--plan", "Exchange"])["rows"][0]["plan"], "Exchange");
    assert_eq!(used(["--api", "news"])["total"], 0);

    // Whom a denial names does not come in.
    let mut mallory = gateway.connect();
    mallory.send(&Upgrade::to("/stock/v1").with("apikey", "mallory-key").encode());
    assert_eq!(mallory.refused().status, 403);
    // A topic for the office: who is not there is closed by the first message.
    let (mut client, mut backend) = gateway.session("/prices/office/a", &upstream);
    client.send_frame(&Frame::text("let me in"));
    assert_eq!(client.expect_close(1008), "not from here");
    assert_eq!(backend.expect_close(1008), "not from here");
    gateway.apply(&gateway.setup().yaml());
    gateway.probe();
}
