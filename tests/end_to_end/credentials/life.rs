//! For how long: silent sessions end with their credentials to the second, and when those are taken back, on every data
//! plane that is connected and on those that come back.
//!
//! How late the latest was is printed.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::cluster::Cluster;
use super::{Carrier, Keys, token};
use crate::kit::flock::{At, Ended, Flock};
use crate::kit::people::timestamp;
use crate::kit::tokens::{Token, now_s};
use crate::kit::{
    EchoBackend, Frame, Gateway, Opcode, Peer, People, RawUpstream, Setup, Upgrade, Variant, aloud, on_both_drivers,
    until,
};

on_both_drivers!(
    silent_sessions_end_with_their_credentials_to_the_second,
    what_is_revoked_takes_its_sessions_along_on_every_data_plane,
    what_is_switched_off_or_removed_takes_its_sessions_along,
    a_revocation_reaches_what_was_issued_before_it,
    sessions_in_the_middle_of_a_frame_are_closed_properly,
);

const SESSIONS: usize = 1000;
/// How long after its credential's end, or after it was revoked, a session may live.
const LATE_S_MAX: f64 = 1.0;

fn bearer(target: &str, token: &str) -> Upgrade {
    Carrier::Bearer.request(target, token)
}

fn wall_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64()
}

/// Median and largest.
fn spread(mut late: Vec<f64>) -> (f64, f64) {
    late.sort_by(f64::total_cmp);
    (late[late.len() / 2], *late.last().expect("somebody was late"))
}

fn silent_sessions_end_with_their_credentials_to_the_second(variant: Variant) {
    let keys = Keys::new();
    let backend = EchoBackend::start();
    // The kinds: tokens, tokens on an API with a code of its own, keys.
    let begin = now_s() + 12;
    let ends: Vec<u64> = (0..SESSIONS).map(|at| begin + at as u64 % 3).collect();
    let is_key = |at: usize| at.is_multiple_of(5);
    let people = keys.people().application("subscribed", "").subscriptions("subscribed", &["plain", "wso2"]);
    let people = (0..SESSIONS).filter(|at| is_key(*at)).fold(people, |people, at| {
        let expires = format!("expires: \"{}\"", timestamp(ends[at]));
        people.key(&format!("key-{at}"), "subscribed", &format!("secret-{at}"), &expires)
    });
    let gateway = Setup::new(variant)
        .api_to("plain", &backend.url("/"), "authentication: { accept: [bearer, api_key] }")
        .api_to("wso2", &backend.url("/"), "authentication: { accept: [bearer, api_key], close_code: 4001 }")
        .people(people)
        .start();
    let target = |at: usize| if at.is_multiple_of(2) { "/plain" } else { "/wso2" };
    let request = |at: usize| {
        if is_key(at) {
            Upgrade::to(target(at)).with("apikey", &format!("secret-{at}"))
        } else {
            bearer(target(at), &token("subscribed").claim("exp", ends[at]).sign(&keys.ed))
        }
    };
    let flock = Flock::open(gateway.address(), &(0..SESSIONS).map(request).collect::<Vec<_>>());
    assert!(now_s() < begin, "this machine opens {SESSIONS} sessions too slowly");
    flock.expect_ended(SESSIONS);
    let mut late = Vec::new();
    for (at, ended) in flock.ended().into_iter().enumerate() {
        let ended = ended.expect("it was waited for");
        let code = if at.is_multiple_of(2) { 1008 } else { 4001 };
        assert_eq!(ended.close, Some((code, "credential expired".into())), "session {at}");
        let after_s = ended.after_s(ends[at]);
        assert!((0.0..=LATE_S_MAX).contains(&after_s), "session {at} ended {after_s} s after its credential");
        late.push(after_s);
    }
    let (median, most) = spread(late);
    aloud(&format!("{variant:?}: {SESSIONS} sessions ended {median:.3} s (most {most:.3} s) after their credentials"));
    until("the log says why", || {
        let lines = gateway.log_lines();
        lines.iter().filter(|line| line["reason"] == "credential_expired").count() == SESSIONS
    });
}

/// What a session of the crowd is of: each has something that no other has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Token,
    User,
    Key,
    Application,
    Subscription,
    Client,
}

const OWN: [Own; 6] = [Own::Token, Own::User, Own::Key, Own::Application, Own::Subscription, Own::Client];

/// A crowd of sessions that differ in what they are of.
struct Crowd {
    keys: Keys,
    people: People,
}

impl Crowd {
    fn new() -> Self {
        let keys = Keys::new();
        let mut people = keys.people().application("subscribed", "").subscriptions("subscribed", &["chat"]);
        for at in 0..SESSIONS {
            people = match own(at) {
                Own::Token | Own::User => people,
                Own::Key => people.key(&format!("key-{at}"), "subscribed", &format!("secret-{at}"), ""),
                Own::Application | Own::Subscription | Own::Client => {
                    let name = format!("app-{at}");
                    people.application(&name, "").subscriptions(&name, &["chat"])
                }
            };
        }
        Self { keys, people }
    }

    fn request(&self, at: usize) -> Upgrade {
        let token = match own(at) {
            Own::Token => token("subscribed").claim("jti", format!("jti-{at}")),
            Own::User => token("subscribed").claim("sub", format!("user-{at}")),
            Own::Key => return Upgrade::to("/chat").with("apikey", &format!("secret-{at}")),
            Own::Application | Own::Subscription | Own::Client => token(&format!("app-{at}")),
        };
        bearer("/chat", &token.sign(&self.keys.ed))
    }

    /// How a revocation names what no other session has.
    fn name(at: usize) -> String {
        match own(at) {
            Own::Token => format!("token:test/jti-{at}"),
            Own::User => format!("user:user-{at}"),
            Own::Key => format!("key:key-{at}"),
            Own::Application => format!("application:app-{at}"),
            Own::Subscription => format!("subscription:app-{at}/chat"),
            Own::Client => format!("client:app-{at}-client"),
        }
    }

    /// With these revoked.
    fn without(&self, revoked: impl Iterator<Item = usize>) -> People {
        revoked.fold(self.people.clone(), |people, at| people.revoked(&Self::name(at), ""))
    }
}

fn own(at: usize) -> Own {
    OWN[at % OWN.len()]
}

/// Which round of revocations takes a session; none: it stays.
fn round_of(at: usize) -> Option<usize> {
    // Every kind is in every round, on both nodes.
    match at / OWN.len() % 10 {
        group @ 0..8 => Some(group / 2),
        _ => None,
    }
}

/// The round that is revoked in the admin API; the others are in the file.
const ROUND_OF_API: usize = 2;

fn what_is_revoked_takes_its_sessions_along_on_every_data_plane(variant: Variant) {
    let backend = EchoBackend::start();
    let crowd = Crowd::new();
    let setup = Setup::new(variant).api_to("chat", &backend.url("/"), "authentication: { accept: [bearer, api_key] }");
    let mut cluster = Cluster::start(setup, &crowd.people);
    let node_of = |at: usize| at / OWN.len() % 2;
    let members = [0, 1].map(|node| (0..SESSIONS).filter(|at| node_of(*at) == node).collect::<Vec<_>>());
    let flocks = [0, 1].map(|node| {
        let requests: Vec<_> = members[node].iter().map(|at| crowd.request(*at)).collect();
        Flock::open(At::Unix(cluster.socket(node).to_owned()), &requests)
    });
    let ended = || -> Vec<Option<Ended>> {
        let mut all = vec![None; SESSIONS];
        for (members, flock) in members.iter().zip(&flocks) {
            members.iter().zip(flock.ended()).for_each(|(at, ended)| all[*at] = ended);
        }
        all
    };
    let revoked_until = |round: usize| {
        let is_meant = move |one: usize| one <= round && one != ROUND_OF_API;
        (0..SESSIONS).filter(move |at| round_of(*at).is_some_and(is_meant))
    };
    // Checks who has ended: exactly those of the rounds until now on these nodes, and those of this one in time.
    let check_each = |round: usize, nodes: &[usize], begun_s: &dyn Fn(usize) -> f64, what: &str| {
        let is_meant =
            |at: usize| round_of(at).is_some_and(|one| one < round || one == round && nodes.contains(&node_of(at)));
        let count = (0..SESSIONS).filter(|at| is_meant(*at)).count();
        until(&format!("{count} sessions have ended"), || ended().iter().flatten().count() >= count);
        let mut late = Vec::new();
        for (at, ended) in ended().into_iter().enumerate() {
            assert_eq!(ended.is_some(), is_meant(at), "{what}: session {at} of {:?}: {ended:?}", own(at));
            let Some(ended) = ended else { continue };
            assert_eq!(ended.close, Some((1008, "credential revoked".into())), "session {at} of {:?}", own(at));
            // The moment was read off a file that is looked at now and then: a little too late at most.
            if round_of(at) == Some(round) && nodes.contains(&node_of(at)) && begun_s(at) < f64::MAX {
                late.push((ended.at.as_secs_f64() - begun_s(at)).max(0.0));
            }
        }
        assert!(late.len() > 50, "{what}: {} sessions", late.len());
        let (count, (median, most)) = (late.len(), spread(late));
        aloud(&format!("{variant:?}: {what}: {count} sessions ended after {median:.3} s (most {most:.3} s)"));
        assert!(most <= LATE_S_MAX, "{what}: {most} s");
    };

    let check = |round: usize, nodes: &[usize], begun_s: f64, what: &str| check_each(round, nodes, &|_| begun_s, what);

    let begun_s = cluster.publish(&crowd.without(revoked_until(0)));
    check(0, &[0, 1], begun_s, "revoked on two data planes");
    cluster.applied();

    // A data plane that hears nothing for a while hears it when it comes to itself.
    cluster.signal(1, libc::SIGSTOP);
    let begun_s = cluster.publish(&crowd.without(revoked_until(1)));
    check(1, &[0], begun_s, "revoked while the other data plane stands still");
    let begun_s = wall_s();
    cluster.signal(1, libc::SIGCONT);
    check_each(1, &[0, 1], &|at| if node_of(at) == 1 { begun_s } else { f64::MAX }, "on the one that stood still");
    cluster.applied();

    // Some one by one, each told to everybody before the next; the others at once.
    let meant: Vec<usize> = (0..SESSIONS).filter(|at| round_of(*at) == Some(ROUND_OF_API)).collect();
    let (singly, together) = meant.split_at(4 * OWN.len());
    let mut begun = vec![f64::MAX; SESSIONS];
    for at in singly {
        begun[*at] = wall_s();
        let revocation = format!("{{\"revoked\": \"{}\"}}", Crowd::name(*at));
        let answer = cluster.post("/api/v1/revocations?wait=applied", &revocation);
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    }
    together.iter().for_each(|at| begun[*at] = wall_s());
    let change = |at: &usize| format!(r#"{{"kind": "revocation", "put": {{"revoked": "{}"}}}}"#, Crowd::name(*at));
    let changes: Vec<_> = together.iter().map(change).collect();
    let answer = cluster.post("/api/v1/batch", &format!("{{\"changes\": [{}]}}", changes.join(", ")));
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    check_each(ROUND_OF_API, &[0, 1], &|at| begun[at], "revoked in the admin API");

    // Both are cut off; what happened meanwhile is in the first generation that they are told of.
    cluster.stop_control_plane();
    std::thread::sleep(Duration::from_millis(1500));
    cluster.start_control_plane(&crowd.without(revoked_until(3)));
    let begun_s = cluster.told_again_s();
    check(3, &[0, 1], begun_s, "on reconnection");

    for at in 0..OWN.len() * 2 {
        let mut client = Peer::connect_unix(cluster.socket(at % 2));
        client.send(&crowd.request(at).encode());
        let answer = client.refused();
        assert_eq!((answer.status, answer.body.trim_end()), (401, "Invalid credentials."), "{:?}", own(at));
    }
}

fn what_is_switched_off_or_removed_takes_its_sessions_along(variant: Variant) {
    let keys = Keys::new();
    let backend = EchoBackend::start();
    // Each name is of one session, and of what is done to it.
    let off = |is_off: bool, members: &str| if is_off { format!("{members}enabled: false") } else { String::new() };
    let people = |is_done: bool| {
        let mut people = keys
            .people()
            .issuer("passing", "https://passing.test", &crate::kit::tokens::key_set(&[&keys.ed]), "")
            .application("subscribed", "")
            .subscriptions("subscribed", &["chat"])
            .application("app-off", &off(is_done, ""))
            .subscriptions("app-off", &["chat"])
            .application("unsubscribed", "")
            .key("key-off", "subscribed", "secret-off", &off(is_done, ""))
            .user("user-off", &format!("application: subscribed{}", off(is_done, ", ")))
            .key("stays", "subscribed", "secret-stays", "")
            .user("stays", "application: subscribed")
            .entry("subscriptions", {
                let members = off(is_done, ", ");
                format!("application: unsubscribed, api: chat{members}")
            });
        if !is_done {
            people = people
                .key("key-gone", "subscribed", "secret-gone", "")
                .user("user-gone", "application: subscribed")
                .application("app-gone", "")
                .subscriptions("app-gone", &["chat"]);
        }
        people
    };
    let accept = "authentication: { accept: [bearer, api_key, basic] }";
    let gateway = Setup::new(variant).api_to("chat", &backend.url("/"), accept).people(people(false)).start();
    let with_password = |name: &str| Carrier::Basic.request("/chat", &super::name_and_password(name));
    let with_key = |key: &str| Upgrade::to("/chat").with("apikey", key);
    let with_token = |token: Token| bearer("/chat", &token.sign(&keys.ed));
    let ending = [
        ("an application is off", with_token(token("app-off"))),
        ("a subscription is off", with_token(token("unsubscribed"))),
        ("a key is off", with_key("secret-off")),
        ("a user with a password is off", with_password("user-off")),
        ("a user with a token is off", with_token(token("subscribed").claim("sub", "user-off"))),
        ("a key is gone", with_key("secret-gone")),
        ("a user is gone", with_password("user-gone")),
        ("an application is gone", with_token(token("app-gone"))),
    ];
    let staying =
        [with_key("secret-stays"), with_password("stays"), with_token(token("subscribed").claim("sub", "stays"))];
    let requests: Vec<_> = ending.iter().map(|(_, request)| request.clone()).chain(staying).collect();
    let flock = Flock::open(gateway.address(), &requests);
    let begun_s = wall_s();
    let applied = gateway.apply(&gateway.setup().yaml_with_people(&people(true)));
    assert_eq!(applied.code, 0, "{applied:?}");
    flock.expect_ended(ending.len());
    std::thread::sleep(Duration::from_millis(300));
    for ((what, _), ended) in ending.iter().zip(flock.ended()) {
        let ended = ended.unwrap_or_else(|| panic!("{what}: the session lives"));
        assert_eq!(ended.close, Some((1008, "credential revoked".into())), "{what}");
        assert!(ended.at.as_secs_f64() - begun_s <= LATE_S_MAX, "{what}: {}", ended.at.as_secs_f64() - begun_s);
    }
    assert!(flock.ended()[ending.len()..].iter().all(Option::is_none), "{:?}", flock.ended());
}

fn a_revocation_reaches_what_was_issued_before_it(variant: Variant) {
    let keys = Keys::new();
    let backend = EchoBackend::start();
    let moment = now_s() - 10;
    let created = |at: u64| format!("created: \"{}\"", timestamp(at));
    let people = || {
        keys.people()
            .application("subscribed", "")
            .subscriptions("subscribed", &["chat"])
            .user("alice", "application: subscribed")
            .key("old", "subscribed", "old-key", &created(moment - 1))
            .key("new", "subscribed", "new-key", &created(moment + 1))
    };
    let accept = "authentication: { accept: [bearer, api_key, basic] }";
    let gateway = Setup::new(variant).api_to("chat", &backend.url("/"), accept).people(people()).start();
    let alices =
        |issued: u64| bearer("/chat", &token("subscribed").claim("sub", "alice").claim("iat", issued).sign(&keys.ed));
    let requests = [
        alices(moment - 1),
        alices(moment),
        alices(moment + 1),
        Upgrade::to("/chat").with("apikey", "old-key"),
        Upgrade::to("/chat").with("apikey", "new-key"),
        // Let in by a password: as if issued at the handshake, which is after that moment.
        Carrier::Basic.request("/chat", &super::name_and_password("alice")),
    ];
    let flock = Flock::open(gateway.address(), &requests);
    let before = format!("issued_before: \"{}\"", timestamp(moment));
    let revoked = people().revoked("user:alice", &before).revoked("key:old", &before).revoked("key:new", &before);
    let applied = gateway.apply(&gateway.setup().yaml_with_people(&revoked));
    assert_eq!(applied.code, 0, "{applied:?}");
    flock.expect_ended(3);
    std::thread::sleep(Duration::from_millis(300));
    let ended: Vec<bool> = flock.ended().iter().map(Option::is_some).collect();
    assert_eq!(ended, [true, true, false, true, false, false], "{:?}", flock.ended());
    // Who comes now is asked the same.
    for (request, live) in requests.iter().zip(ended.iter().map(|ended| !ended)) {
        let mut client = gateway.connect();
        client.send(&request.encode());
        assert_eq!(client.head().status(), if live { 101 } else { 401 });
    }
}

fn sessions_in_the_middle_of_a_frame_are_closed_properly(variant: Variant) {
    let keys = Keys::new();
    let upstream = RawUpstream::listen();
    let people = || keys.people().application("subscribed", "").subscriptions("subscribed", &["chat"]);
    let members = "authentication: { accept: [bearer] }, session: { close_timeout: 700ms }";
    let gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), members).people(people()).start();
    let open = |name: &str| -> (Peer, Peer) {
        let mut client = gateway.connect();
        client.send(&bearer("/chat", &token("subscribed").claim("sub", name).sign(&keys.ed)).encode());
        let mut backend = upstream.accept();
        backend.agree();
        client.upgraded();
        (client, backend)
    };
    let frame = Frame::binary(vec![7; 100_000]).encode();
    let begin = |peer: &mut Peer, reader: &mut Peer| {
        peer.send(&frame[..60_000]);
        let seen = reader.received().len();
        until("the beginning is through", || reader.has_heard() && reader.received().len() > seen + 50_000);
    };
    // One whose endpoint finishes its frame, and one whose endpoint does not.
    let mut ends = ["finishes", "hangs"].map(&open);
    for (client, backend) in &mut ends {
        begin(backend, client);
    }
    // And one that speaks without a pause, in whole frames.
    let (mut busy, mut busy_backend) = open("busy");
    let talking = std::thread::spawn(move || {
        let line = busy.dressed(&Frame::text("on and on")).encode();
        let mut said = 0;
        while busy.try_send(&line) && !busy.hear_within(Duration::from_millis(1)) {
            said += 1;
        }
        (said, busy.expect_close(1008))
    });
    let revoked =
        ["finishes", "hangs", "busy"].iter().fold(people(), |people, name| people.revoked(&format!("user:{name}"), ""));
    let start = Instant::now();
    let applied = gateway.apply(&gateway.setup().yaml_with_people(&revoked));
    assert_eq!(applied.code, 0, "{applied:?}");
    let (said, reason) = talking.join().expect("somebody who talks");
    assert_eq!((said > 0, reason.as_str()), (true, "credential revoked"));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    until("the endpoint of the busy one hears of it", || {
        let frame = busy_backend.frame();
        frame.opcode == Opcode::CLOSE && frame.close_code().is_some_and(|(code, _)| code == 1008)
    });
    let [(mut client, mut backend), (mut hanging, _silent)] = ends;
    // Nothing stands within a frame; at its end the goodbye does.
    backend.send(&frame[60_000..]);
    let whole = client.frame();
    assert_eq!((whole.opcode, whole.payload.len()), (Opcode::BINARY, 100_000));
    assert_eq!(client.expect_close(1008), "credential revoked");
    // Who does not end its frame is not waited for: the connection is cut, and no close frame stands in the middle.
    let rest = hanging.rest();
    assert!(hanging.received().len() < 100_000 + 1000 && !rest.is_empty(), "{}", hanging.received().len());
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    expect_causes(&gateway, 3);
}

#[track_caller]
fn expect_causes(gateway: &Gateway, count: usize) {
    until("the log says why", || {
        gateway.log_lines().iter().filter(|line| line["reason"] == "credential_revoked").count() == count
    });
}
