//! examples/limits.yaml at work: the levels of WSO2 API Manager, one after the other, each side's messages added up.

use std::time::{Duration, Instant};

use super::{NOTICE, applied, is_stopped, passes, session_with};
use crate::kit::people::People;
use crate::kit::{Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, until};

on_both_drivers!(
    the_levels_of_the_example_stop_what_they_say_and_charge_nothing_elsewhere,
    bandwidth_in_the_example_is_of_what_servers_send_and_nothing_is_lost,
    a_trial_in_the_example_ends_for_who_will_not_hear,
);

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

fn the_levels_of_the_example_stop_what_they_say_and_charge_nothing_elsewhere(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).workers(1).start();
    let outcome = gateway.apply(&document(&gateway, &upstream));
    assert_eq!(outcome.code, 0, "{outcome:?}");

    // Application level: one user of an application has 20, whichever side says them, on whichever session.
    let open = |key: &str| session_with(&gateway, &upstream, "/stock/v1", &[("apikey", &format!("{key}-key"))]);
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

/// The example with a bandwidth that a test can wait for: 20 KiB at once, and 64 KiB in a second.
fn narrow(gateway: &Gateway, upstream: &RawUpstream) -> String {
    let whole = "rate: 10MiB/s, burst: 20MiB";
    let yaml = document(gateway, upstream);
    assert!(yaml.contains(whole));
    yaml.replace(whole, "rate: 64KiB/s, burst: 20KiB")
}

const KIB: usize = 1024;
/// What 64 KiB take on that: 20 are there at once.
const TAKES: Duration = Duration::from_millis(44 * 1000 / 64);

/// So many messages of 8 KiB, as fast as the socket takes them.
fn sends(backend: &mut Peer, messages: usize) {
    (0..messages).for_each(|at| backend.send_frame(&Frame::binary(vec![at as u8; 8 * KIB])));
}

/// All of them come, in their order.
#[track_caller]
fn hears(client: &mut Peer, messages: usize) {
    for at in 0..messages {
        assert_eq!(client.message(), (Opcode::BINARY, vec![at as u8; 8 * KIB]));
    }
}

fn bandwidth_in_the_example_is_of_what_servers_send_and_nothing_is_lost(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).workers(1).start();
    applied(&gateway, &narrow(&gateway, &upstream));

    // Topic by topic: what the server sends at this one.
    let (mut client, mut backend) = gateway.session("/prices/live/ACME", &upstream);
    let begun = Instant::now();
    sends(&mut backend, 8);
    // What the client sends is not of it, and does not wait.
    client.send_frame(&Frame::binary(vec![0; 64 * KIB]));
    assert_eq!(backend.message().1.len(), 64 * KIB);
    assert!(begun.elapsed() < TAKES, "{:?}", begun.elapsed());
    hears(&mut client, 8);
    let took = begun.elapsed();
    assert!(took >= TAKES && took < TAKES * 3, "{took:?}, and not {TAKES:?}");
    drop((client, backend));

    // By a key: all of one tenant in one network together, and no other tenant.
    let open = |tenant: &str, key: &str| {
        let own = [("apikey", key), ("X-Tenant", tenant)];
        session_with(&gateway, &upstream, "/stock/v1", if tenant.is_empty() { &own[..1] } else { &own })
    };
    let (mut one, mut another) = (open("acme", "alice-key"), open("acme", "bob-key"));
    let (mut other, mut nobody) = (open("umbrella", "alice-key"), open("", "bob-key"));
    let begun = Instant::now();
    sends(&mut one.1, 4);
    sends(&mut another.1, 4);
    sends(&mut other.1, 2);
    sends(&mut nobody.1, 6);
    hears(&mut other.0, 2);
    hears(&mut nobody.0, 6);
    assert!(begun.elapsed() < TAKES, "who is not of the tenant waits for nothing: {:?}", begun.elapsed());
    hears(&mut one.0, 4);
    hears(&mut another.0, 4);
    let took = begun.elapsed();
    assert!(took >= TAKES && took < TAKES * 3, "{took:?}, and not {TAKES:?}");
    let usage = gateway.verb("usage", &["--plan", "Stream", "--json"]).json();
    let rows = usage["rows"].as_array().expect("rows");
    for key in ["tenant-network: acme 127.0.0.0/24", "tenant-network: umbrella 127.0.0.0/24"] {
        let row = rows.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("{key}: {usage}"));
        assert_eq!(
            (&row["level"], &row["limit"], &row["count"]),
            (&"keyed".into(), &"65536/s".into(), &"bytes".into())
        );
    }
    applied(&gateway, &gateway.setup().yaml());
    gateway.probe();
}

fn a_trial_in_the_example_ends_for_who_will_not_hear(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).workers(1).start();
    let frames = "{ count: frames, rate: 10/s }";
    let yaml = document(&gateway, &upstream);
    assert!(yaml.contains(frames));
    applied(&gateway, &yaml.replace(frames, "{ count: frames, rate: 1/h, burst: 10 }"));
    // Nobody asks for a credential here: each address has a trial, whatever its sessions are.
    let mut first = gateway.session("/prices/x", &upstream);
    passes(&mut first, 6);
    let mut second = gateway.session("/prices/y", &upstream);
    // Ten frames, of which a message may have several.
    let (client, backend) = &mut second;
    client.send_frame(&Frame::text("t").unfinished());
    client.send_frame(&Frame::continuation("w").unfinished());
    client.send_frame(&Frame::continuation("o"));
    assert_eq!(backend.message(), (Opcode::TEXT, b"two".to_vec()));
    passes(&mut first, 1);
    const NOTICE: &str = "unauthenticated limit of Trial: try again in ";
    for _ in 0..4 {
        is_stopped(&mut second, NOTICE);
    }
    is_stopped(&mut first, NOTICE);
    let (client, backend) = &mut second;
    backend.send_frame(&Frame::text("the fifth of the other side"));
    let (_, text) = client.message();
    let text = String::from_utf8(text).expect("UTF-8");
    let wait = text.strip_prefix(NOTICE).and_then(|rest| rest.strip_suffix(" ms")).expect("a notice");
    assert!((3_500_000..=3_600_000).contains(&wait.parse().expect("milliseconds")), "{text}");
    for at in 5..10 {
        client.send_frame(&Frame::text(&format!("{at} of ten")));
        assert!(client.message().1.starts_with(NOTICE.as_bytes()));
    }
    client.send_frame(&Frame::text("the tenth"));
    assert_eq!(client.expect_close(4003), "too many messages");
    assert_eq!(backend.expect_close(4003), "too many messages");
    let line = gateway.logged("close", "prices");
    assert_eq!((&line["messages_throttled"], &line["throttled_by"]), (&15.into(), &"unauthenticated".into()), "{line}");
    // The other session of that address goes on, and is told.
    is_stopped(&mut first, NOTICE);
    applied(&gateway, &gateway.setup().yaml());
    gateway.probe();
}
