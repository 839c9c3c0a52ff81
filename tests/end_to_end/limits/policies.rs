//! Whose plan is which: policies that choose by who comes, and limits by keys that a handshake makes.

use serde_json::json;

use super::session_with;
use crate::kit::people::People;
use crate::kit::pki::{self, Authority, Identity, Leaf};
use crate::kit::tokens::{Algorithm, Signer, Token, key_set};
use crate::kit::{Frame, Gateway, Opcode, Peer, Port, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, tls};

on_both_drivers!(
    each_level_is_of_those_whom_the_manual_names,
    of_two_levels_that_stop_a_message_the_tightest_says_what_becomes_of_it,
    the_first_group_that_fits_decides_and_has_one_count,
    a_limit_by_a_key_counts_for_each_key_and_not_for_who_lacks_a_part,
    a_certificate_makes_a_key_and_is_a_condition,
);

const ISSUER: &str = "https://issuer.test";
const ACCEPT: &str = "authentication: { accept: [bearer], require_subscription: false }";

/// Plans of one to four messages whose notices are their names.
const PLANS: &str = r#"plans:
  - { name: rest, limits: [{ quota: 1/year }], on_limit: { notice: { text: "{level} {plan}" } } }
  - { name: office, limits: [{ quota: 2/year }], on_limit: { notice: { text: "{level} {plan}" } } }
  - { name: trial, limits: [{ quota: 3/year }], on_limit: { notice: { text: "{level} {plan}" } } }
  - { name: gold, limits: [{ quota: 4/year }], on_limit: { notice: { text: "{level} {plan}" } } }
"#;

/// Says messages until one does not pass: how many did, and what the client was told.
fn says_until_stopped((client, backend): &mut (Peer, Peer)) -> (usize, String) {
    for passed in 0..10 {
        client.send_frame(&Frame::text("x"));
        client.send_frame(&Frame::ping(""));
        // The ping is behind the message, whether that passed or not.
        let (mut has_passed, mut is_behind) = (false, false);
        while !is_behind {
            let frame = backend.frame();
            has_passed |= frame.opcode == Opcode::TEXT;
            is_behind = frame.opcode == Opcode::PING;
        }
        if !has_passed {
            return (passed, String::from_utf8(client.message().1).expect("UTF-8"));
        }
    }
    (10, String::new())
}

fn each_level_is_of_those_whom_the_manual_names(variant: Variant) {
    let upstream = RawUpstream::listen();
    let people = People::new()
        .application("mobile", "plan: gold")
        .application("desk", "")
        .subscriptions("mobile", &["chat:v1", "news", "rooms"])
        .entry("subscriptions", "application: desk, api: \"chat:v1\", plan: trial".into())
        .subscriptions("desk", &["chat:v2", "news", "rooms"])
        .key("alice", "mobile", "alice", "user: alice")
        .key("bob", "mobile", "bob", "user: bob")
        .key("machine-1", "mobile", "machine-1", "")
        .key("machine-2", "mobile", "machine-2", "")
        .key("carol", "desk", "carol", "user: carol")
        .key("dave", "desk", "dave", "user: dave");
    let api = |name: &str, members: &str| {
        let endpoints = format!("endpoints: {{ production: {{ url: \"{}\" }} }}", upstream.url("/"));
        format!("name: {name}, context: /{name}, {endpoints}, authentication: {{ accept: [api_key] }}, {members}")
    };
    let topics = "topics: [{ topic: \"/live/{room}\", plan: office }, { topic: /quiet, plan: rest }, { topic: /* }]";
    let mut gateway = Setup::new(variant)
        .people(people)
        .document(PLANS)
        .api(&api("chat", "version: v1"))
        .api(&api("chat", "version: v2, plan: office"))
        .api(&api("news", "enabled: true"))
        .api(&api("rooms", topics))
        .start();
    let says = |key: &str, target: &str| {
        says_until_stopped(&mut session_with(&gateway, &upstream, target, &[("apikey", key)]))
    };
    for (key, target, passed, told) in [
        // One user of one application, over all APIs.
        ("alice", "/news", 4, "application gold"),
        ("alice", "/chat/v1", 0, "application gold"),
        ("bob", "/chat/v1", 4, "application gold"),
        // Those without a user are one.
        ("machine-1", "/news", 4, "application gold"),
        ("machine-2", "/chat/v1", 0, "application gold"),
        // Everybody of one application at one API version.
        ("carol", "/chat/v1", 3, "subscription trial"),
        ("dave", "/chat/v1", 0, "subscription trial"),
        ("dave", "/news", 10, ""),
        // Everybody at one API version, and nobody at another.
        ("carol", "/chat/v2", 2, "api office"),
        ("dave", "/chat/v2", 0, "api office"),
        // Everybody at one topic, whatever it is called this time.
        ("carol", "/rooms/live/red", 2, "topic office"),
        ("dave", "/rooms/live/blue", 0, "topic office"),
        ("dave", "/rooms/quiet", 1, "topic rest"),
        ("dave", "/rooms/else", 10, ""),
    ] {
        assert_eq!(says(key, target), (passed, told.to_owned()), "{key} at {target}");
    }
    gateway.probe();
}

fn the_first_group_that_fits_decides_and_has_one_count(variant: Variant) {
    let (upstream, door, signer) = (RawUpstream::listen(), Port::free(), Signer::new(Algorithm::EdDsa, "k1"));
    let policy = r#"limit_policies:
  - name: by-origin
    groups:
      - when:
          - { addresses: [192.0.2.0/24, 203.0.113.7] }
          - { headers: [{ name: User-Agent, values: ["*bot*"] }], not: true }
        plan: office
      - { when: [{ queries: [{ name: trial }] }], plan: trial }
      - { when: [{ claims: [{ name: account.tier, values: [gold] }] }], plan: gold }
    plan: rest
"#;
    let mut gateway = Setup::new(variant)
        .another_listener(&format!("name: far, bind: \"{}\", proxy_protocol_from: [127.0.0.0/8]", door.address()))
        .people(People::new().issuer("test", ISSUER, &key_set(&[&signer]), ""))
        .document(&format!("{PLANS}{policy}"))
        .api_to("news", &upstream.url("/"), &format!("{ACCEPT}, limit_policy: by-origin"))
        .start();
    let open = |address: &str, agent: &str, query: &str, tier: &str| {
        let token = Token::of(ISSUER).claim("sub", "alice").claim("account", json!({ "tier": tier })).sign(&signer);
        let mut client = Peer::connect(door.address());
        client.send(format!("PROXY TCP4 {address} 198.51.100.1 40001 443\r\n").as_bytes());
        let request = Upgrade::to(&format!("/news{query}")).with("Authorization", &format!("Bearer {token}"));
        let request = if agent.is_empty() { request } else { request.with("User-Agent", agent) };
        client.send(&request.encode());
        let mut backend = upstream.accept();
        backend.agree();
        client.upgraded();
        (client, backend)
    };
    for (address, agent, query, tier, expected) in [
        ("192.0.2.9", "Mozilla/5.0", "?trial", "gold", (2, "api office")),
        // Everybody in a group shares its count.
        ("203.0.113.7", "", "", "", (0, "api office")),
        ("192.0.2.9", "a bot of theirs", "", "silver", (1, "api rest")),
        ("203.0.113.8", "", "", "", (0, "api rest")),
        ("203.0.113.8", "", "?trial=1", "gold", (3, "api trial")),
        ("203.0.113.8", "", "?trials=1", "gold", (4, "api gold")),
        ("192.0.2.9", "bot", "", "gold", (0, "api gold")),
        ("10.0.0.1", "", "?a=b&trial=", "", (0, "api trial")),
    ] {
        let (passed, told) = says_until_stopped(&mut open(address, agent, query, tier));
        assert_eq!((passed, told.as_str()), expected, "{address} {agent} {query} {tier}");
    }
    gateway.probe();
}

fn a_limit_by_a_key_counts_for_each_key_and_not_for_who_lacks_a_part(variant: Variant) {
    let (upstream, signer) = (RawUpstream::listen(), Signer::new(Algorithm::EdDsa, "k1"));
    let limit = "limits:\n  - { name: per-org, key: [\"claim:org.id\", \"query:room\", api, user], plan: office, \
                 apis: [news, \"chat:v1\"], when: [{ headers: [{ name: X-Mode, values: [free] }] }] }\n";
    let chat = |version: &str| {
        format!(
            "name: chat, version: {version}, context: /chat, endpoints: {{ production: {{ url: \"{}\" }} }}, {ACCEPT}",
            upstream.url("/")
        )
    };
    let mut gateway = Setup::new(variant)
        .people(People::new().issuer("test", ISSUER, &key_set(&[&signer]), ""))
        .document(&format!("{PLANS}{limit}"))
        .api_to("news", &upstream.url("/"), ACCEPT)
        .api(&chat("v1"))
        .api(&chat("v2"))
        .start();
    let open = |gateway: &Gateway, target: &str, user: &str, org: serde_json::Value, mode: &str| {
        let token = Token::of(ISSUER).claim("sub", user).claim("org", org).sign(&signer);
        session_with(gateway, &upstream, target, &[("Authorization", &format!("Bearer {token}")), ("X-Mode", mode)])
    };
    let acme = || json!({ "id": "acme" });
    let (limited, free) = ((2, "per-org office"), (10, ""));
    for (target, user, org, mode, expected) in [
        ("/news?room=1", "alice", acme(), "free", limited),
        ("/news?room=1", "alice", acme(), "free", (0, "per-org office")),
        // Each part tells one count from another.
        ("/news?room=2", "alice", acme(), "free", limited),
        ("/news?room=1", "bob", acme(), "free", limited),
        ("/news?room=1", "alice", json!({ "id": "umbrella" }), "free", limited),
        ("/chat/v1?room=1", "alice", acme(), "free", limited),
        // Who lacks one, is elsewhere, or is not meant, is not limited.
        ("/news?room=1", "alice", json!({ "name": "acme" }), "free", free),
        ("/news", "alice", acme(), "free", free),
        ("/chat/v2?room=1", "alice", acme(), "free", free),
        ("/news?room=1", "alice", acme(), "paid", free),
    ] {
        let (passed, told) = says_until_stopped(&mut open(&gateway, target, user, org.clone(), mode));
        assert_eq!((passed, told.as_str()), expected, "{target} {user} {org} {mode}");
    }
    gateway.probe();
}

fn a_certificate_makes_a_key_and_is_a_condition(variant: Variant) {
    if !pki::is_available() {
        return;
    }
    let (upstream, door, setup) = (RawUpstream::listen(), Port::free(), Setup::new(variant));
    let authority = Authority::root(setup.directory(), "clients");
    let [press, guest] = ["press", "guest"].map(|name| authority.issue(&Leaf::new(name)));
    let limits = r#"limits:
  - { name: by-badge, key: [certificate], plan: office, apis: [badges] }
limit_policies:
  - { name: badged, groups: [{ when: [{ certificates: ["CN=press,*"] }], plan: trial }], plan: gold }
"#;
    let clients = "certificates: [edge], client_certificates: { mode: optional, authorities: clients }";
    let mut gateway = setup
        .certificate(&pki::shared().edge.entry("edge"))
        .authorities(&authority.entry("clients"))
        .another_listener(&format!("name: secure, bind: \"{}\", tls: {{ {clients} }}", door.address()))
        .document(&format!("{PLANS}{limits}"))
        .api_to("badges", &upstream.url("/"), "")
        .api_to("news", &upstream.url("/"), "limit_policy: badged")
        .start();
    let says = |target: &str, identity: Option<&Identity>| {
        let terms = identity.into_iter().fold(tls::Terms::default(), tls::Terms::identity);
        let mut client = terms.client().connect(door.address());
        client.send(&Upgrade::to(target).encode());
        let mut backend = upstream.accept();
        backend.agree();
        client.upgraded();
        says_until_stopped(&mut (client, backend))
    };
    for (target, identity, passed, told) in [
        ("/badges", Some(&press), 2, "by-badge office"),
        ("/badges", Some(&press), 0, "by-badge office"),
        ("/badges", Some(&guest), 2, "by-badge office"),
        ("/badges", None, 10, ""),
        ("/news", Some(&press), 3, "api trial"),
        ("/news", Some(&guest), 4, "api gold"),
        ("/news", Some(&press), 0, "api trial"),
        ("/news", None, 0, "api gold"),
    ] {
        assert_eq!(says(target, identity), (passed, told.to_owned()), "{target} {}", identity.is_some());
    }
    let usage = gateway.verb("usage", &["--plan", "office"]);
    assert!(usage.stdout.contains("by-badge: CN=press,O=Framegate"), "{usage:?}");
    gateway.probe();
}

fn of_two_levels_that_stop_a_message_the_tightest_says_what_becomes_of_it(variant: Variant) {
    let upstream = RawUpstream::listen();
    let plans = r#"plans:
  - { name: short, limits: [{ rate: 1/2s, burst: 1 }], on_limit: { notice: { text: "{level} {plan}" } } }
  - { name: long, limits: [{ quota: 2/year }], on_limit: { action: close, code: 4001, reason: over } }
"#;
    let people = People::new().application("mobile", "plan: short").subscriptions("mobile", &["chat"]).key(
        "alice",
        "mobile",
        "alice",
        "user: alice",
    );
    let api = "authentication: { accept: [api_key] }, plan: long";
    let mut gateway =
        Setup::new(variant).people(people).document(plans).api_to("chat", &upstream.url("/"), api).start();
    let mut both = session_with(&gateway, &upstream, "/chat", &[("apikey", "alice")]);
    for last in [false, true] {
        let (client, backend) = &mut both;
        client.send_frame(&Frame::text("passes"));
        backend.expect(Opcode::TEXT, b"passes");
        // A moment later there is room again at one level; at the other there is none left at the end.
        client.send_frame(&Frame::text("too soon"));
        if last {
            assert_eq!(client.expect_close(4001), "over");
            assert_eq!(backend.expect_close(4001), "over");
        } else {
            client.expect(Opcode::TEXT, b"application short");
            std::thread::sleep(std::time::Duration::from_millis(2100));
        }
    }
    let line = gateway.logged("close", "chat");
    assert_eq!((&line["messages_throttled"], &line["throttled_by"]), (&2.into(), &"api".into()), "{line}");
    gateway.probe();
}
