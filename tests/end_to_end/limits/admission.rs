//! Who is let in, how fast, and who is told to come back when: each ceiling by its own, and what frees a place.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::session_with;
use crate::kit::people::People;
use crate::kit::{
    EchoBackend, Gateway, Peer, Port, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, on_variant, until,
};

on_both_drivers!(
    there_are_so_many_sessions_everywhere_and_at_one_api,
    users_applications_and_plans_have_so_many_sessions,
    a_range_of_addresses_has_so_many_sessions,
    whoever_does_not_get_in_leaves_no_place_taken,
    an_endpoint_that_is_full_is_not_dialled,
    ceilings_hold_to_the_last_place_when_everybody_comes_at_once,
    one_address_that_comes_too_fast_takes_nothing_from_the_others,
    a_crowd_that_is_sent_away_does_not_come_back_all_at_once,
);
// It takes a while, and is not the drivers'.
on_variant!(automatic_pace, Automatic, handshakes_come_as_fast_as_they_may_and_no_faster);

/// A client that is refused: status, the refusal's word as the metrics have it, and for how many seconds.
#[track_caller]
fn refused(client: &mut Peer, request: &Upgrade) -> (u16, Option<u64>) {
    client.send(&request.encode());
    let answer = client.refused();
    (answer.status, answer.head.header("Retry-After").map(|value| value.parse().expect("seconds")))
}

/// There is no seat: with which status, and when to come back.
#[track_caller]
fn expect_no_seat(gateway: &Gateway, request: &Upgrade, status: u16, reason: &str) {
    let count = || gateway.metric("framegate_refusals_total", &[("reason", reason)]);
    let before = count();
    let (found, seconds) = refused(&mut gateway.connect(), request);
    assert!(
        found == status && seconds.is_some_and(|seconds| (5..=15).contains(&seconds)),
        "{found}, after {seconds:?} s"
    );
    assert_eq!(count(), before + 1.0, "{reason}");
}

fn until_there_are(gateway: &Gateway, sessions: usize) {
    let what = format!("there are {sessions} sessions");
    until(&what, || gateway.metric("framegate_sessions_active", &[]) == sessions as f64);
}

fn there_are_so_many_sessions_everywhere_and_at_one_api(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant)
        .workers(2)
        .settings("drain_window: 1s, admission: { sessions_max: 4 }")
        .api_to("chat", &upstream.url("/"), "admission: { sessions_max: 2 }")
        .api_to("news", &upstream.url("/"), "admission: { sessions_max: 3 }")
        .start();
    let (chat, news) = (Upgrade::to("/chat"), Upgrade::to("/news"));
    let mut first = vec![gateway.session("/chat", &upstream), gateway.session("/chat", &upstream)];
    expect_no_seat(&gateway, &chat, 503, "sessions");
    let second = vec![gateway.session("/news", &upstream), gateway.session("/news", &upstream)];
    // Four everywhere, though one more would find a seat at that API.
    expect_no_seat(&gateway, &news, 503, "sessions");
    first.pop();
    until_there_are(&gateway, 3);
    let third = gateway.session("/news", &upstream);
    expect_no_seat(&gateway, &chat, 503, "sessions");
    drop((first, second, third));
    until_there_are(&gateway, 0);
    gateway.probe();
}

/// A gateway at which alice and bob come by the application `mobile`, and carol by `desk`; everybody by a key.
fn peopled(variant: Variant, upstream: &RawUpstream, settings: &str, api: &str, mobile: &str, rest: &str) -> Gateway {
    let people = People::new()
        .application("mobile", mobile)
        .application("desk", "")
        .entry("subscriptions", format!("application: mobile, api: chat{rest}"))
        .subscriptions("mobile", &["news"])
        .subscriptions("desk", &["chat", "news"])
        .key("alice", "mobile", "alice-key", "user: alice")
        .key("bob", "mobile", "bob-key", "user: bob")
        .key("carol", "desk", "carol-key", "user: carol");
    let plans =
        "plans:\n  - { name: few, sessions_max: 2 }\n  - { name: three, sessions_max: 3, limits: [{ rate: 100/s }] }\n";
    let asked = "authentication: { accept: [api_key] }";
    Setup::new(variant)
        .workers(2)
        .settings(&format!("drain_window: 1s{settings}"))
        .people(people)
        .document(plans)
        .api_to("chat", &upstream.url("/"), &format!("{asked}{api}"))
        .api_to("news", &upstream.url("/"), asked)
        .api_to("open", &upstream.url("/"), "unauthenticated_plan: few")
        .start()
}

fn users_applications_and_plans_have_so_many_sessions(variant: Variant) {
    let upstream = RawUpstream::listen();
    let settings = |members: &str| format!(", admission: {{ {members} }}");
    let api = |members: &str| format!(", admission: {{ {members} }}");
    type Case<'a> =
        (&'a str, [String; 4], &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)]);
    let none = String::new;
    // Who comes in, who does not any more, and who still does.
    let cases: [Case<'_>; 8] = [
        (
            "sessions_of_user",
            [settings("sessions_per_user_max: 2"), none(), none(), none()],
            &[("alice", "/chat"), ("alice", "/news")],
            &[("alice", "/chat"), ("alice", "/news")],
            &[("bob", "/chat"), ("carol", "/chat")],
        ),
        (
            "sessions_of_user",
            [none(), api("sessions_per_user_max: 1"), none(), none()],
            &[("alice", "/chat"), ("alice", "/news")],
            &[("alice", "/chat")],
            &[("alice", "/news"), ("bob", "/chat")],
        ),
        (
            "sessions_of_application",
            [settings("sessions_per_application_max: 2"), none(), none(), none()],
            &[("alice", "/chat"), ("bob", "/news")],
            &[("alice", "/chat"), ("bob", "/news")],
            &[("carol", "/chat")],
        ),
        (
            "sessions_of_application",
            [none(), api("sessions_per_application_max: 1"), none(), none()],
            &[("alice", "/chat")],
            &[("bob", "/chat")],
            &[("bob", "/news"), ("carol", "/chat")],
        ),
        // A plan: each user of the application, everywhere.
        (
            "sessions_of_plan",
            [none(), none(), "plan: few".into(), none()],
            &[("alice", "/chat"), ("alice", "/news")],
            &[("alice", "/chat"), ("alice", "/news")],
            &[("bob", "/chat"), ("carol", "/chat")],
        ),
        // All users of the application at that API.
        (
            "sessions_of_plan",
            [none(), none(), none(), ", plan: few".into()],
            &[("alice", "/chat"), ("bob", "/chat")],
            &[("alice", "/chat"), ("bob", "/chat")],
            &[("alice", "/news"), ("carol", "/chat")],
        ),
        // Everybody at the API.
        (
            "sessions_of_plan",
            [none(), ", plan: three".into(), none(), none()],
            &[("alice", "/chat"), ("bob", "/chat"), ("carol", "/chat")],
            &[("alice", "/chat"), ("carol", "/chat")],
            &[("alice", "/news")],
        ),
        // Every address without a credential.
        (
            "sessions_of_plan",
            [none(), none(), none(), none()],
            &[("nobody", "/open"), ("nobody", "/open")],
            &[("nobody", "/open")],
            &[("alice", "/chat")],
        ),
    ];
    for (reason, [settings, api, mobile, rest], come, do_not, still) in cases {
        let mut gateway = peopled(variant, &upstream, &settings, &api, &mobile, &rest);
        let open = |(key, target): &(&str, &str)| {
            session_with(&gateway, &upstream, target, &[("apikey", &format!("{key}-key"))])
        };
        let mut live: Vec<_> = come.iter().map(open).collect();
        for (key, target) in do_not {
            expect_no_seat(&gateway, &Upgrade::to(target).with("apikey", &format!("{key}-key")), 429, reason);
        }
        let others: Vec<_> = still.iter().map(open).collect();
        // Whoever leaves makes room.
        live.remove(0);
        until_there_are(&gateway, come.len() - 1 + others.len());
        live.push(open(&come[0]));
        gateway.probe();
    }
}

/// A gateway with a door at which the client says which address it has.
struct Addressed {
    gateway: Gateway,
    door: Port,
    upstream: RawUpstream,
}

impl Addressed {
    fn start(variant: Variant, settings: &str, api: &str) -> Self {
        let (upstream, door) = (RawUpstream::listen(), Port::free());
        let gateway = Setup::new(variant)
            .workers(2)
            .settings(&format!("drain_window: 1s, admission: {{ {settings} }}"))
            .another_listener(&format!("name: far, bind: \"{}\", proxy_protocol_from: [127.0.0.0/8]", door.address()))
            .api_to("chat", &upstream.url("/"), &format!("admission: {{ {api} }}"))
            .api_to("news", &upstream.url("/"), "")
            .start();
        Self { gateway, door, upstream }
    }

    fn client(&self, address: &str) -> Peer {
        let (family, own) = if address.contains(':') { ("TCP6", "2001:db8::1") } else { ("TCP4", "198.51.100.1") };
        let mut client = Peer::connect(self.door.address());
        client.send(format!("PROXY {family} {address} {own} 40001 443\r\n").as_bytes());
        client
    }

    #[track_caller]
    fn comes_in(&self, address: &str, target: &str) -> (Peer, Peer) {
        let mut client = self.client(address);
        client.send(&Upgrade::to(target).encode());
        let mut backend = self.upstream.accept();
        backend.agree();
        client.upgraded();
        (client, backend)
    }

    #[track_caller]
    fn is_refused(&self, address: &str, target: &str) -> (u16, Option<u64>) {
        refused(&mut self.client(address), &Upgrade::to(target))
    }
}

fn a_range_of_addresses_has_so_many_sessions(variant: Variant) {
    let ranges = "address_prefix_v4: 24, address_prefix_v6: 48";
    let mut place =
        Addressed::start(variant, &format!("sessions_per_address_max: 3, {ranges}"), "sessions_per_address_max: 1");
    // At the API each address has one session, and each /64; everywhere each /24 and each /48 has three.
    let mut live = vec![place.comes_in("192.0.2.1", "/chat")];
    assert_eq!(place.is_refused("192.0.2.1", "/chat").0, 429);
    live.push(place.comes_in("192.0.2.2", "/chat"));
    live.push(place.comes_in("192.0.2.3", "/news"));
    for target in ["/chat", "/news"] {
        let (status, seconds) = place.is_refused("192.0.2.200", target);
        assert!(status == 429 && seconds.is_some_and(|seconds| (5..=15).contains(&seconds)), "{status} {seconds:?}");
    }
    live.push(place.comes_in("192.0.3.1", "/chat"));
    live.push(place.comes_in("2001:db8:0:1::1", "/chat"));
    assert_eq!(place.is_refused("2001:db8:0:1::2", "/chat").0, 429);
    live.push(place.comes_in("2001:db8:0:2::1", "/chat"));
    live.push(place.comes_in("2001:db8:0:3::1", "/chat"));
    assert_eq!(place.is_refused("2001:db8:0:4::1", "/news").0, 429);
    live.push(place.comes_in("2001:db8:1::1", "/news"));
    // An IPv4 address is one, in whichever form it comes.
    assert_eq!(place.is_refused("::ffff:192.0.2.77", "/news").0, 429);
    let reason = [("reason", "sessions_of_address")];
    assert_eq!(place.gateway.metric("framegate_refusals_total", &reason), 6.0);
    drop(live);
    until_there_are(&place.gateway, 0);
    let _again = place.comes_in("192.0.2.200", "/chat");
    place.gateway.probe();
}

/// One seat of each kind; every way in which a handshake fails behind the door gives all of them back.
fn whoever_does_not_get_in_leaves_no_place_taken(variant: Variant) {
    let upstream = RawUpstream::listen();
    let one = "admission: { sessions_max: 1, sessions_per_user_max: 1, sessions_per_application_max: 1, sessions_per_address_max: 1 }";
    let people = People::new()
        .application("mobile", "plan: single")
        .entry("subscriptions", "application: mobile, api: chat, plan: single".into())
        .key("alice", "mobile", "alice-key", "user: alice");
    let group = format!(
        "name: group, sessions_per_endpoint_max: 1, handshake_timeout: 300ms, endpoints: [{{ url: '{}' }}]",
        upstream.url("/")
    );
    let api = "name: chat, context: /chat, endpoints: { production: { upstream: group } }, authentication: { accept: [api_key] }";
    let mut gateway = Setup::new(variant)
        .people(people)
        .document("plans: [{ name: single, sessions_max: 1 }]\n")
        .upstream(&group)
        .api(&format!("{api}, {one}"))
        .start();
    let request = Upgrade::to("/chat").with("apikey", "alice-key");
    let ask = || {
        let mut client = gateway.connect();
        client.send(&request.encode());
        client
    };
    // The endpoint goes away, says no, is no WebSocket server, says nothing; the client goes away.
    let mut client = ask();
    drop(upstream.accept());
    assert_eq!(client.refused().status, 502);
    for (answer, status) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
            502,
        ),
        ("SSH-2.0\r\n\r\n", 502),
    ] {
        let mut client = ask();
        let mut backend = upstream.accept();
        backend.head();
        backend.send(answer.as_bytes());
        assert_eq!(client.refused().status, status, "{answer}");
    }
    let mut client = ask();
    let silent = upstream.accept();
    assert_eq!(client.refused().status, 504);
    drop(silent);
    let client = ask();
    let mut deserted = upstream.accept();
    deserted.head();
    client.reset();
    deserted.rest();
    drop(deserted);

    let mut both = session_with(&gateway, &upstream, "/chat", &[("apikey", "alice-key")]);
    expect_no_seat(&gateway, &request, 503, "sessions");
    both.0.send_frame(&crate::kit::Frame::close(1000, ""));
    both.1.expect_close(1000);
    both.1.send_frame(&crate::kit::Frame::close(1000, ""));
    both.0.expect_close(1000);
    until_there_are(&gateway, 0);
    let both = session_with(&gateway, &upstream, "/chat", &[("apikey", "alice-key")]);
    both.1.reset();
    drop(both.0);
    until_there_are(&gateway, 0);
    let _last = session_with(&gateway, &upstream, "/chat", &[("apikey", "alice-key")]);
    // Whoever was there before a ceiling was set is not counted towards it.
    let more = gateway.setup().yaml().replace(
        "sessions_max: 1, sessions_per_user_max: 1, sessions_per_application_max: 1, sessions_per_address_max: 1",
        "sessions_max: 9",
    );
    super::applied(
        &gateway,
        &more
            .replace("sessions_per_endpoint_max: 1", "sessions_per_endpoint_max: 0")
            .replace("plan: single", "plan: AsyncGold"),
    );
    let _more = session_with(&gateway, &upstream, "/chat", &[("apikey", "alice-key")]);
    gateway.probe();
}

fn an_endpoint_that_is_full_is_not_dialled(variant: Variant) {
    let upstreams = [RawUpstream::listen(), RawUpstream::listen()];
    let [one, other] = [0, 1].map(|at: usize| format!("{{ url: '{}' }}", upstreams[at].url("/")));
    let group = format!("name: group, sessions_per_endpoint_max: 1, endpoints: [{one}, {other}]");
    let mut gateway = Setup::new(variant)
        .upstream(&group)
        .api("name: chat, context: /chat, endpoints: { production: { upstream: group } }")
        .api("name: news, context: /news, endpoints: { production: { upstream: group } }")
        .start();
    // Whichever endpoint is dialled.
    let open = |target: &str| {
        let mut client = gateway.connect();
        client.send(&Upgrade::to(target).encode());
        let mut at = 0;
        let mut backend = crate::kit::until_some("an endpoint is dialled", || {
            at = (at + 1) % 2;
            upstreams[at].try_accept()
        });
        backend.agree();
        client.upgraded();
        (client, backend, at)
    };
    let mut live = vec![open("/chat"), open("/news")];
    assert_ne!(live[0].2, live[1].2, "each has one");
    for target in ["/chat", "/news"] {
        assert_eq!(refused(&mut gateway.connect(), &Upgrade::to(target)).0, 503);
    }
    assert_eq!(gateway.metric("framegate_refusals_total", &[("reason", "upstream_full")]), 2.0);
    upstreams.iter().for_each(|upstream| upstream.expect_no_connection(Duration::ZERO));
    // The one that is free again is the one that is chosen, whosever turn it is.
    for _ in 0..4 {
        let left = live.remove(0).2;
        until_there_are(&gateway, 1);
        live.push(open("/chat"));
        assert_eq!(live[1].2, left);
    }
    gateway.probe();
}

fn handshakes_come_as_fast_as_they_may_and_no_faster(variant: Variant) {
    // The key, where it stands, and what who is refused is told.
    for (settings, api, status, reason) in [
        ("connects: 2/s, connects_burst: 3", "", 503, "connects"),
        ("", "connects: 2/s, connects_burst: 3", 503, "connects"),
        ("connects_per_address: 2/s, connects_burst: 3", "", 429, "connects_of_address"),
        ("", "connects_per_address: 2/s, connects_burst: 3", 429, "connects_of_address"),
    ] {
        let mut place = Addressed::start(variant, settings, api);
        let begun = Instant::now();
        let mut live: Vec<_> = (0..3).map(|_| place.comes_in("192.0.2.1", "/chat")).collect();
        // Whoever is refused takes nothing.
        let mut sent_away = 0;
        while begun.elapsed() < Duration::from_millis(400) {
            let (found, seconds) = place.is_refused("192.0.2.1", "/chat");
            assert!(
                found == status && seconds.is_some_and(|seconds| (1..=11).contains(&seconds)),
                "{found} {seconds:?}"
            );
            sent_away += 1;
        }
        assert!(sent_away >= 3, "{sent_away}");
        assert!(place.gateway.metric("framegate_refusals_total", &[("reason", reason)]) >= f64::from(sent_away));
        if settings.is_empty() {
            live.push(place.comes_in("192.0.2.1", "/news"));
        } else {
            assert_eq!(place.is_refused("192.0.2.1", "/news").0, status);
        }
        thread::sleep(Duration::from_millis(600));
        live.push(place.comes_in("192.0.2.1", "/chat"));
        thread::sleep(Duration::from_millis(1000));
        place.gateway.probe();
    }
    // As many at once as in a second, unless it is said.
    let mut place = Addressed::start(variant, "connects: 4/s", "");
    let _live: Vec<_> = (0..4).map(|_| place.comes_in("192.0.2.1", "/chat")).collect();
    assert_eq!(place.is_refused("192.0.2.1", "/chat").0, 503);
    thread::sleep(Duration::from_millis(400));
    place.gateway.probe();
}

fn one_address_that_comes_too_fast_takes_nothing_from_the_others(variant: Variant) {
    let all = "connects: 1/h, connects_per_address: 1/h, connects_burst: 4, address_prefix_v4: 24";
    let mut place = Addressed::start(variant, all, "connects: 1/h, connects_burst: 2");
    let mut live = vec![place.comes_in("192.0.2.1", "/chat"), place.comes_in("192.0.2.2", "/chat")];
    // Whoever comes to an API that has had enough uses up neither the gateway's pace ...
    for at in 3..=4 {
        let (status, seconds) = place.is_refused(&format!("192.0.2.{at}"), "/chat");
        assert!(
            status == 503 && seconds.is_some_and(|seconds| (3500..=3610).contains(&seconds)),
            "{status} {seconds:?}"
        );
    }
    // ... and whoever has had enough of it nobody else's: 192.0.2.0/24 has.
    for _ in 0..5 {
        assert_eq!(place.is_refused("192.0.2.5", "/news").0, 429);
    }
    live.push(place.comes_in("192.0.3.1", "/news"));
    live.push(place.comes_in("192.0.4.1", "/news"));
    assert_eq!(place.is_refused("192.0.5.1", "/news").0, 503, "four, at the whole gateway");
    super::applied(&place.gateway, &place.gateway.setup().yaml().replace(all, "sessions_max: 9"));
    place.gateway.probe();
}

fn a_crowd_that_is_sent_away_does_not_come_back_all_at_once(variant: Variant) {
    let upstream = RawUpstream::listen();
    let admission = "admission: { connects: 1/h, connects_burst: 1 }";
    let mut gateway = Setup::new(variant).workers(2).api_to("chat", &upstream.url("/"), admission).start();
    let _one = gateway.session("/chat", &upstream);
    let address = gateway.address();
    let crowd: Vec<_> = (0..4)
        .map(|_| thread::spawn(move || [0; 50].map(|_| refused(&mut Peer::connect(address), &Upgrade::to("/chat")))))
        .collect();
    let told: Vec<_> = crowd.into_iter().flat_map(|some| some.join().expect("a part of the crowd")).collect();
    assert!(told.iter().all(|(status, _)| *status == 503), "{told:?}");
    let seconds: Vec<u64> = told.iter().map(|(_, seconds)| seconds.expect("when to come back")).collect();
    let (least, most) = (*seconds.iter().min().expect("some"), *seconds.iter().max().expect("some"));
    assert!(least >= 3500 && most <= 3610 && most - least >= 8, "{least} to {most}");
    let different = seconds.iter().collect::<BTreeSet<_>>();
    let busiest = different.iter().map(|one| seconds.iter().filter(|other| other == one).count()).max();
    assert!(different.len() >= 8 && busiest.is_some_and(|busiest| busiest <= 50), "{seconds:?}");
    gateway.probe();
}

fn ceilings_hold_to_the_last_place_when_everybody_comes_at_once(variant: Variant) {
    const ROOM: usize = 20;
    let backend = EchoBackend::start();
    for (admission, group, is_free_again) in [
        ("sessions_max: 20", "", true),
        ("sessions_per_address_max: 20", "", true),
        ("", "sessions_per_endpoint_max: 20, ", true),
        ("connects: 1/h, connects_burst: 20", "", false),
    ] {
        let endpoint = format!("name: group, {group}endpoints: [{{ url: \"{}\" }}]", backend.url("/"));
        let api = "name: chat, context: /chat, endpoints: { production: { upstream: group } }";
        let setup = Setup::new(variant).workers(4).upstream(&endpoint);
        let mut gateway = setup.api(&format!("{api}, admission: {{ {admission} }}")).start();
        let address = gateway.address();
        let crowd = || -> Vec<Peer> {
            let come = move || {
                let mut clients: Vec<_> = (0..40).map(|_| Peer::connect(address)).collect();
                clients.iter_mut().for_each(|client| client.send(&Upgrade::to("/chat").encode()));
                clients.retain_mut(|client| client.head().status() == 101);
                clients
            };
            let some: Vec<_> = (0..4).map(|_| thread::spawn(come)).collect();
            some.into_iter().flat_map(|some| some.join().expect("a part of the crowd")).collect()
        };
        let live = crowd();
        assert_eq!(live.len(), ROOM, "{admission}{group}");
        assert_eq!(crowd().len(), 0, "{admission}{group}");
        drop(live);
        until_there_are(&gateway, 0);
        assert_eq!(crowd().len(), if is_free_again { ROOM } else { 0 }, "{admission}{group}");
        gateway.probe();
    }
}
