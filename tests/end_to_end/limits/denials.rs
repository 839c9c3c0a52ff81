//! Denials: whose messages do not pass, on live sessions as at the door.

use std::time::Duration;

use super::{applied, done, passes, session_with};
use crate::kit::people::People;
use crate::kit::{Frame, Gateway, Peer, RawUpstream, Setup, Upgrade, Variant, on_both_drivers};

on_both_drivers!(
    a_denial_ends_the_live_sessions_that_it_names_and_lets_nobody_in,
    a_denial_silences_live_sessions_as_long_as_it_stands,
);

/// A gateway where alice and bob come by the application `mobile`, and carol by `desk`.
fn peopled(variant: Variant) -> (Gateway, RawUpstream) {
    let upstream = RawUpstream::listen();
    let people = People::new()
        .application("mobile", "")
        .application("desk", "")
        .subscriptions("mobile", &["chat:v1", "news"])
        .subscriptions("desk", &["chat:v1", "news"])
        .key("alice", "mobile", "alice-key", "user: alice")
        .key("bob", "mobile", "bob-key", "user: bob")
        .key("carol", "desk", "carol-key", "user: carol");
    let asked = "authentication: { accept: [api_key] }";
    let setup = Setup::new(variant).people(people);
    let setup = setup.api_to("chat", &upstream.url("/"), &format!("version: v1, {asked}"));
    (setup.api_to("news", &upstream.url("/"), asked).start(), upstream)
}

/// Those who have sessions, and where.
const ALL: [(&str, &str); 5] = [
    ("alice-key", "/chat/v1"),
    ("alice-key", "/news"),
    ("bob-key", "/chat/v1"),
    ("carol-key", "/chat/v1"),
    ("carol-key", "/news"),
];

fn sessions(gateway: &Gateway, upstream: &RawUpstream) -> Vec<(Peer, Peer)> {
    ALL.iter().map(|(key, target)| session_with(gateway, upstream, target, &[("apikey", key)])).collect()
}

fn a_denial_ends_the_live_sessions_that_it_names_and_lets_nobody_in(variant: Variant) {
    let (mut gateway, upstream) = peopled(variant);
    let mut refused = 0;
    for (words, meant) in [
        (&["--user", "alice"][..], [true, true, false, false, false]),
        (&["--application", "mobile"], [true, true, true, false, false]),
        (&["--application", "mobile", "--api", "chat:v1"], [true, false, true, false, false]),
        (&["--api", "news"], [false, true, false, false, true]),
        (&["--api", "chat", "--user", "alice"], [true, false, false, false, false]),
        (&["--address", "127.0.0.0/8", "--user", "carol"], [false, false, false, true, true]),
        (&["--address", "10.0.0.0/8"], [false; 5]),
        (&["--user", "nobody-yet", "--api", "no-such-api"], [false; 5]),
    ] {
        let mut live = sessions(&gateway, &upstream);
        done(&gateway, &[&["deny", "create", "d", "--wait"], words].concat());
        for (((key, target), both), is_meant) in ALL.iter().zip(&mut live).zip(meant) {
            if is_meant {
                assert_eq!(both.0.expect_close(1008), "denied", "{words:?} {key} {target}");
                assert_eq!(both.1.expect_close(1008), "denied");
                let mut late = gateway.connect();
                late.send(&Upgrade::to(target).with("apikey", key).encode());
                assert_eq!(late.refused().status, 403, "{words:?}");
                refused += 1;
            } else {
                passes(both, 4);
            }
        }
        done(&gateway, &["deny", "delete", "d", "--wait"]);
    }
    let line = gateway.logged("close", "chat");
    assert_eq!((&line["reason"], &line["side"]), (&"denied".into(), &"gateway".into()), "{line}");
    assert_eq!(gateway.metric("framegate_refusals_total", &[("reason", "denied")]), f64::from(refused));
    let line = gateway.logged("refused", "chat");
    assert_eq!((&line["reason"], &line["detail"]), (&"denied".into(), &"the denial d".into()), "{line}");
    // What is switched off has no effect.
    let mut live = sessions(&gateway, &upstream);
    let off = "denials: [{ name: d, user: alice, enabled: false }]\n";
    applied(&gateway, &format!("{}{off}", gateway.setup().yaml()));
    live.iter_mut().for_each(|both| passes(both, 4));
    gateway.probe();
}

fn a_denial_silences_live_sessions_as_long_as_it_stands(variant: Variant) {
    let (mut gateway, upstream) = peopled(variant);
    let mut alice = session_with(&gateway, &upstream, "/chat/v1", &[("apikey", "alice-key")]);
    let mut bob = session_with(&gateway, &upstream, "/chat/v1", &[("apikey", "bob-key")]);
    passes(&mut alice, 2);
    done(&gateway, &["deny", "create", "d", "--user", "alice", "--drop", "--wait"]);
    for _ in 0..3 {
        alice.0.send_frame(&Frame::text("unheard"));
        alice.1.send_frame(&Frame::text("unheard"));
    }
    alice.0.expect_silence(Duration::from_millis(50));
    alice.1.expect_silence(Duration::from_millis(50));
    passes(&mut bob, 4);
    let mut late = gateway.connect();
    late.send(&Upgrade::to("/chat/v1").with("apikey", "alice-key").encode());
    assert_eq!(late.refused().status, 403);
    let labels = [("api", "chat"), ("level", "denial"), ("outcome", "drop")];
    assert_eq!(gateway.metric("framegate_throttled_messages_total", &labels), 6.0);
    done(&gateway, &["deny", "delete", "d", "--wait"]);
    passes(&mut alice, 4);
    alice.0.send_frame(&Frame::close(1000, ""));
    alice.1.expect_close(1000);
    alice.1.send_frame(&Frame::close(1000, ""));
    let line = gateway.logged("close", "chat");
    assert_eq!((&line["messages_throttled"], &line["throttled_by"]), (&6.into(), &"denial".into()), "{line}");
    gateway.probe();
}
