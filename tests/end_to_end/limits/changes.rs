//! Other conditions for live sessions: they hold from the next message on, whoever changes them and whatever is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::exact::{Storm, expect_sessions_on_every_worker};
use super::{applied, done, is_stopped, passes, session_with};
use crate::kit::{Admin, Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, until};

on_both_drivers!(
    a_subscription_and_an_application_are_moved_to_other_plans_while_they_are_used,
    a_subscription_that_is_switched_off_or_deleted_stops_at_once,
    what_the_file_says_of_limits_changes_for_live_sessions,
    plans_that_change_under_a_storm_never_let_more_pass_and_in_the_end_everybody_has_the_last_one,
);

/// Plans whose notices say which level it was, and which plan.
const PLANS: &str = r#"plans:
  - { name: two, limits: [{ quota: 2/year }], on_limit: { notice: { text: "{level} {plan}" } } }
  - { name: four, limits: [{ quota: 4/year }], on_limit: { notice: { text: "{level} {plan}" } } }
"#;

/// A gateway with a stored application `trader` that is subscribed to the API `chat`, and a live session of it.
fn trading(variant: Variant) -> (Gateway, RawUpstream, String) {
    let upstream = RawUpstream::listen();
    let setup = Setup::new(variant).document(PLANS);
    let gateway = setup.api_to("chat", &upstream.url("/"), "authentication: { accept: [api_key] }").start();
    done(&gateway, &["app", "create", "trader"]);
    done(&gateway, &["subscription", "create", "trader", "chat", "--plan", "two"]);
    let made = gateway.verb("key", &["create", "k", "--application", "trader", "--wait", "--json"]);
    assert_eq!(made.code, 0, "{made:?}");
    let key = made.json()["key"].as_str().expect("a key is told once").to_owned();
    (gateway, upstream, key)
}

fn a_subscription_and_an_application_are_moved_to_other_plans_while_they_are_used(variant: Variant) {
    let (mut gateway, upstream, key) = trading(variant);
    let mut live = session_with(&gateway, &upstream, "/chat", &[("apikey", &key)]);
    let subscription =
        |plan: &str| done(&gateway, &["subscription", "set", "trader", "chat", "--plan", plan, "--wait"]);
    let application = |plan: &str| done(&gateway, &["app", "set", "trader", "--plan", plan, "--wait"]);
    passes(&mut live, 2);
    is_stopped(&mut live, "subscription two");
    // Under another plan it begins anew, and back under the first one it is where it was.
    subscription("four");
    passes(&mut live, 4);
    is_stopped(&mut live, "subscription four");
    subscription("two");
    is_stopped(&mut live, "subscription two");
    subscription("AsyncUnlimited");
    application("two");
    passes(&mut live, 2);
    is_stopped(&mut live, "application two");
    application("four");
    passes(&mut live, 4);
    is_stopped(&mut live, "application four");
    // A plan that is itself changed goes on with what was used of it.
    done(&gateway, &["plan", "create", "spot", "--quota", "1/year"]);
    application("spot");
    passes(&mut live, 1);
    is_stopped(&mut live, "Error code: 4003");
    let admin = Admin::of(&gateway);
    let quota = |quota: &str| {
        let reply = admin.send("PATCH", "/plans/spot?wait=applied", &[], &json!({ "limits": [{ "quota": quota }] }));
        assert_eq!(reply.status, 200, "{reply:?}");
    };
    quota("3/year");
    passes(&mut live, 2);
    is_stopped(&mut live, "Error code: 4003");
    quota("0/year");
    is_stopped(&mut live, "Error code: 4003");
    application("AsyncUnlimited");
    passes(&mut live, 50);
    gateway.probe();
}

fn a_subscription_that_is_switched_off_or_deleted_stops_at_once(variant: Variant) {
    let (mut gateway, upstream, key) = trading(variant);
    done(&gateway, &["subscription", "set", "trader", "chat", "--plan", "AsyncUnlimited", "--wait"]);
    for end in [&["set", "trader", "chat", "--enabled", "false", "--wait"][..], &["delete", "trader", "chat", "--wait"]]
    {
        let (client, mut backend) = session_with(&gateway, &upstream, "/chat", &[("apikey", &key)]);
        let mut talker = client.second_end();
        let stop = Arc::<AtomicBool>::default();
        let is_over = Arc::clone(&stop);
        let talking = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                talker.try_send(&Frame::text("x").masked([1, 2, 3, 4]).encode());
                thread::sleep(Duration::from_micros(500));
            }
        });
        backend.expect(Opcode::TEXT, b"x");
        done(&gateway, &[&["subscription"], end].concat());
        let ended = Instant::now();
        // What stood in the sockets already comes before the close frame, and nothing behind it.
        let close = loop {
            let frame = backend.frame();
            assert!(ended.elapsed() < Duration::from_secs(1), "messages still pass {:?} later", ended.elapsed());
            if frame.opcode == Opcode::CLOSE {
                break frame.close_code();
            }
        };
        assert_eq!(close.map(|(code, _)| code), Some(1008), "{end:?}");
        assert!(backend.take_unread().is_empty());
        let line = gateway.logged("close", "chat");
        assert_eq!(line["reason"], "credential_revoked", "{line}");
        stop.store(true, Ordering::Relaxed);
        talking.join().expect("the client");
        drop((client, backend));
        let mut late = gateway.connect();
        late.send(&Upgrade::to("/chat").with("apikey", &key).encode());
        assert_eq!(late.refused().status, 403, "{end:?}");
        if end[0] == "set" {
            done(&gateway, &["subscription", "set", "trader", "chat", "--enabled", "true", "--wait"]);
        }
    }
    gateway.probe();
}

fn what_the_file_says_of_limits_changes_for_live_sessions(variant: Variant) {
    let upstream = RawUpstream::listen();
    let nothing = "enabled: true";
    let mut gateway = Setup::new(variant).document(PLANS).api_to("chat", &upstream.url("/"), nothing).start();
    let open = gateway.setup().yaml();
    // What stands at the API, in the settings, and beside them.
    let change = |api: &str, settings: &str, rest: &str| {
        let settings = format!("settings: {{ drain_window: 1s{settings} }}");
        let yaml = open.replace(nothing, api).replace("settings: { drain_window: 1s }", &settings);
        applied(&gateway, &format!("{yaml}{rest}"));
    };
    let mut live = session_with(&gateway, &upstream, "/chat", &[("X-Tenant", "acme")]);
    let everybody = |plan: &str| format!(", unauthenticated_plan: {plan}");
    change(nothing, &everybody("two"), "");
    passes(&mut live, 2);
    is_stopped(&mut live, "unauthenticated two");
    change("unauthenticated_plan: four", &everybody("two"), "");
    passes(&mut live, 4);
    is_stopped(&mut live, "unauthenticated four");
    change(nothing, &everybody("two"), "");
    is_stopped(&mut live, "unauthenticated two");
    // Another range of addresses is another count.
    change(nothing, &format!("{}, admission: {{ address_prefix_v4: 8 }}", everybody("two")), "");
    passes(&mut live, 2);
    is_stopped(&mut live, "unauthenticated two");

    let policy = |addresses: &str, plan: &str, rest: &str| {
        let group = format!("{{ when: [{{ addresses: [{addresses}] }}], plan: {plan} }}");
        change("limit_policy: by", "", &format!("limit_policies: [{{ name: by, groups: [{group}], plan: {rest} }}]\n"));
    };
    policy("127.0.0.0/8", "two", "AsyncUnlimited");
    passes(&mut live, 2);
    is_stopped(&mut live, "api two");
    policy("127.0.0.0/8", "four", "AsyncUnlimited");
    passes(&mut live, 4);
    is_stopped(&mut live, "api four");
    // It is in no group any more: those who are left have a count of their own.
    policy("10.0.0.0/8", "four", "two");
    passes(&mut live, 2);
    is_stopped(&mut live, "api two");

    let keyed = |key: &str, plan: &str| {
        change(nothing, "", &format!("limits: [{{ name: per-key, key: [{key}], plan: {plan} }}]\n"));
    };
    keyed("address", "two");
    passes(&mut live, 2);
    is_stopped(&mut live, "per-key two");
    keyed("address", "four");
    passes(&mut live, 4);
    is_stopped(&mut live, "per-key four");
    // The headers of a session that has begun are not known any more: those who come now are limited by them.
    keyed("\"header:X-Tenant\"", "two");
    passes(&mut live, 10);
    let mut later = session_with(&gateway, &upstream, "/chat", &[("X-Tenant", "acme")]);
    passes(&mut later, 2);
    is_stopped(&mut later, "per-key two");
    keyed("\"header:X-Tenant\"", "four");
    passes(&mut later, 4);
    is_stopped(&mut later, "per-key four");
    change(nothing, "", "");
    passes(&mut later, 10);
    gateway.probe();
}

/// Opens silent sessions one after the other, each upstream taking its time, until it is told to stop.
fn opening(gateway: &Gateway, upstream: RawUpstream, stop: &Arc<AtomicBool>) -> thread::JoinHandle<Vec<(Peer, Peer)>> {
    let (address, stop) = (gateway.address(), Arc::clone(stop));
    thread::spawn(move || {
        let (mut clients, mut waiting, mut backends) = (Vec::new(), Vec::new(), Vec::new());
        while !stop.load(Ordering::Relaxed) || backends.len() < clients.len() {
            if !stop.load(Ordering::Relaxed) {
                let mut client = Peer::connect(address);
                client.send(&Upgrade::to(&format!("/late?at={}", clients.len())).encode());
                clients.push(client);
            }
            waiting.extend(upstream.try_accept().map(|peer| (Instant::now(), peer)));
            while waiting.first().is_some_and(|(since, _)| since.elapsed() > Duration::from_millis(150)) {
                let (_, mut peer) = waiting.remove(0);
                let target = peer.agree().target();
                let at: usize = target.split_once("at=").expect("the query").1.parse().expect("a number");
                backends.push((at, peer));
            }
            thread::sleep(Duration::from_millis(15));
        }
        clients.iter_mut().for_each(|client| drop(client.upgraded()));
        // Several workers dial in an order of their own.
        backends.sort_by_key(|(at, _)| *at);
        clients.into_iter().zip(backends.into_iter().map(|(_, peer)| peer)).collect()
    })
}

fn plans_that_change_under_a_storm_never_let_more_pass_and_in_the_end_everybody_has_the_last_one(variant: Variant) {
    let (busy, slow) = (RawUpstream::listen(), RawUpstream::listen());
    let plans = r#"plans:
  - { name: wide, limits: [{ rate: 1000/s, burst: 100 }], on_limit: { action: drop } }
  - { name: narrow, limits: [{ rate: 200/s, burst: 50 }], on_limit: { action: drop } }
  - { name: shut, limits: [{ quota: 0/year }], on_limit: { notices: 2, notices_per_second: 1, notice: { text: "{level} {plan}" } } }
"#;
    let setup = Setup::new(variant).workers(4).document(plans).api_to("storm", &busy.url("/"), "plan: wide");
    let mut gateway = setup.api_to("late", &slow.url("/"), "plan: wide").start();
    let first = gateway.setup().yaml();
    let storm = Storm::begin(&gateway, &busy, "/storm", 32, |_| vec![Frame::binary(*b"x")]);
    expect_sessions_on_every_worker(&gateway, [0.0; 4]);
    let stop = Arc::<AtomicBool>::default();
    let late = opening(&gateway, slow, &stop);
    let narrow = first.replace("plan: wide", "plan: narrow");
    // The same plan, which says something else.
    let changed = first.replace("rate: 1000/s, burst: 100", "rate: 200/s, burst: 50");
    // A phase lasts from before its plan is asked for until the next one's has been taken; until then the one before may hold.
    let mut most = 100.0 + 1000.0 * storm.lasts().as_secs_f64();
    for (yaml, before, rate, burst) in
        [(&narrow, 1000.0, 200.0, 50.0), (&first, 200.0, 1000.0, 100.0), (&changed, 1000.0, 200.0, 50.0)]
    {
        let begun = Instant::now();
        applied(&gateway, yaml);
        most += before * begun.elapsed().as_secs_f64() + burst;
        thread::sleep(Duration::from_millis(1500));
        most += rate * begun.elapsed().as_secs_f64();
    }
    let (passed, _, _) = storm.so_far();
    assert!(passed as f64 <= most && passed as f64 >= most * 0.8, "{passed} of at most {most}");

    applied(&gateway, &first.replace("plan: wide", "plan: shut"));
    stop.store(true, Ordering::Relaxed);
    let mut late = late.join().expect("who opens sessions");
    assert!(late.len() >= 100, "{} sessions began meanwhile", late.len());
    for one in &mut late {
        is_stopped(one, "api shut");
    }
    thread::sleep(Duration::from_millis(300));
    let (before, _, _) = storm.so_far();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(storm.so_far().0, before, "nothing passes any more");
    let rows = gateway.verb("usage", &["--json"]).json()["rows"].take();
    let rows = rows.as_array().expect("rows");
    for row in rows {
        let expected = match (row["plan"].as_str(), row["api"].as_str()) {
            (Some("shut"), Some("storm")) => 32,
            (Some("shut"), Some("late")) => late.len(),
            _ => 0,
        };
        assert_eq!(row["sessions"], expected, "{row}");
    }
    drop((storm, late));
    until("all are gone", || gateway.metric("framegate_sessions_active", &[]) == 0.0);
    gateway.probe();
}
