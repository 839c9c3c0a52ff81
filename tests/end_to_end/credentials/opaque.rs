//! Tokens that only their issuer can read: who is asked about them, how often, and what becomes of a session when the
//! answer changes or nobody answers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Carrier, Keys, token};
use crate::kit::issuer::Manner;
use crate::kit::people::{sha256, timestamp};
use crate::kit::tokens::now_s;
use crate::kit::{Admin, EchoBackend, Gateway, IssuerServer, Peer, Setup, Upgrade, Variant, on_both_drivers, until};

on_both_drivers!(
    an_opaque_token_is_asked_about_and_the_answer_is_believed_for_a_while,
    what_the_answer_says_counts_as_much_as_a_token,
    a_signed_token_of_an_issuer_without_keys_is_asked_about_at_that_issuer_alone,
    where_nobody_answers_nobody_comes_in,
    an_answer_that_is_none_lets_nobody_in_and_keeps_nobody_waiting,
    what_happens_while_the_issuer_thinks_is_heeded,
    strangers_with_tokens_keep_nobody_waiting_whose_token_is_known,
    a_token_that_is_withdrawn_takes_its_sessions_along,
    a_token_that_is_revoked_here_is_good_no_more_whatever_its_issuer_says,
    where_nobody_can_be_asked_again_the_api_says_what_becomes_of_its_sessions,
);

const OPAQUE_ISSUER: &str = "https://opaque.test";

fn bearer(target: &str, token: &str) -> Upgrade {
    Upgrade::to(target).with("Authorization", &format!("Bearer {token}"))
}

#[track_caller]
fn status(gateway: &Gateway, request: &Upgrade) -> u16 {
    let mut client = gateway.connect();
    client.send(&request.encode());
    client.head().status()
}

#[track_caller]
fn session(gateway: &Gateway, request: &Upgrade) -> Peer {
    let mut client = gateway.connect();
    client.send(&request.encode());
    client.upgraded();
    client
}

fn good() -> Value {
    json!({ "client_id": "subscribed-client", "sub": "alice", "exp": now_s() + 3600, "scope": "read" })
}

/// Two APIs, which differ in what they do when nobody can be asked.
fn started(variant: Variant, issuer: &IssuerServer, members: &str) -> (Gateway, EchoBackend) {
    let backend = EchoBackend::start();
    let people = Keys::new()
        .people()
        .introspecting_issuer("opaque", OPAQUE_ISSUER, &issuer.introspection_url(), members)
        .application("subscribed", "")
        .application("stranger", "")
        .subscriptions("subscribed", &["keep", "close"]);
    let gateway = Setup::new(variant)
        .api_to("keep", &backend.url("/"), "authentication: { accept: [bearer, query_token] }")
        .api_to("close", &backend.url("/"), "authentication: { accept: [bearer], when_unreachable: close }")
        .people(people)
        .start();
    (gateway, backend)
}

fn an_opaque_token_is_asked_about_and_the_answer_is_believed_for_a_while(variant: Variant) {
    let issuer = IssuerServer::start();
    let members = "cache: 2s, negative_cache: 1s, client_id: gateway, client_secret: \"s3cret: of the gateway\"";
    let (gateway, _backend) = started(variant, &issuer, members);
    issuer.set_active("good", good());
    for _ in 0..5 {
        assert_eq!(status(&gateway, &bearer("/keep", "good")), 101);
        assert_eq!(status(&gateway, &bearer("/keep", "bad")), 401);
    }
    // Each form has its own grant, and no answer of its own.
    assert_eq!(status(&gateway, &Upgrade::to("/keep?access_token=good")), 101);
    assert_eq!((issuer.asked("good"), issuer.asked("bad")), (1, 1));
    // RFC 6749 §2.3.1: both parts are encoded as in a form before they are put into base64.
    let expected = "Basic Z2F0ZXdheTpzM2NyZXQlM0Erb2YrdGhlK2dhdGV3YXk=";
    assert_eq!(issuer.authorization().as_deref(), Some(expected));
    // What was bad may become good once the answer has grown old.
    issuer.set_active("bad", good());
    until("the bad token is asked about again", || status(&gateway, &bearer("/keep", "bad")) == 101);
    assert_eq!(issuer.asked("bad"), 2);
    until("the good token is asked about again", || {
        status(&gateway, &bearer("/keep", "good"));
        issuer.asked("good") >= 2
    });
}

fn what_the_answer_says_counts_as_much_as_a_token(variant: Variant) {
    let issuer = IssuerServer::start();
    let (gateway, _backend) = started(variant, &issuer, "");
    for (token, change, expected) in [
        ("plain", json!({}), 101),
        ("run-out", json!({ "exp": now_s() - 1 }), 401),
        ("too-early", json!({ "nbf": now_s() + 600 }), 401),
        ("strangers", json!({ "client_id": "stranger-client" }), 403),
        ("odd", json!({ "exp": "tomorrow" }), 401),
        ("another-issuer", json!({ "iss": "https://somebody.test" }), 401),
        ("same-issuer", json!({ "iss": OPAQUE_ISSUER }), 101),
    ] {
        let mut answer = good();
        for (name, value) in change.as_object().expect("an object") {
            answer[name] = value.clone();
        }
        issuer.set_active(token, answer);
        assert_eq!(status(&gateway, &bearer("/keep", token)), expected, "{token}");
    }
    // A JWT is not asked about.
    let signed = token("subscribed").sign(&Keys::new().ed);
    assert_eq!(status(&gateway, &bearer("/keep", &signed)), 401);
    assert_eq!(issuer.asked(&signed), 0);
}

fn a_signed_token_of_an_issuer_without_keys_is_asked_about_at_that_issuer_alone(variant: Variant) {
    let issuer = IssuerServer::start();
    let (gateway, _backend) = started(variant, &issuer, "");
    let keys = Keys::new();
    let of = |issuer: &str| token("subscribed").claim("iss", issuer).sign(&keys.ed);
    let (theirs, withdrawn, unsigned, signed, strangers) = (
        of(OPAQUE_ISSUER),
        of(OPAQUE_ISSUER),
        token("subscribed").claim("iss", OPAQUE_ISSUER).unsigned("ed"),
        of(super::ISSUER),
        of("https://unheard-of.test"),
    );
    [&theirs, &unsigned, &signed, &strangers].iter().for_each(|token| issuer.set_active(token, good()));
    for (what, token, expected, asked) in [
        ("its issuer says yes", &theirs, 101, 1),
        ("its issuer says no", &withdrawn, 401, 1),
        ("nobody has signed it, which needs no question", &unsigned, 401, 0),
        ("its issuer has keys, and has not signed it", &signed, 401, 0),
        ("its issuer is not known", &strangers, 401, 0),
    ] {
        assert_eq!(status(&gateway, &bearer("/keep", token)), expected, "{what}");
        assert_eq!(issuer.asked(token), asked, "{what}");
    }
}

fn where_nobody_answers_nobody_comes_in(variant: Variant) {
    let issuer = IssuerServer::start();
    let (mut gateway, _backend) = started(variant, &issuer, "timeout: 500ms");
    issuer.set_active("good", good());
    for manner in [Manner::Away, Manner::Status(500), Manner::Nonsense, Manner::Slow(Duration::from_secs(3))] {
        issuer.set_manner(manner.clone());
        let start = Instant::now();
        let mut client = gateway.connect();
        client.send(&bearer("/keep", "good").encode());
        let answer = client.refused();
        assert_eq!(
            (answer.status, answer.body.trim_end()),
            (401, "Unclassified authentication failure."),
            "{manner:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(3), "{manner:?}: {:?}", start.elapsed());
    }
    // And that is not remembered as an answer.
    issuer.set_manner(Manner::Good);
    until("somebody answers", || status(&gateway, &bearer("/keep", "good")) == 101);
    gateway.probe();
}

fn an_answer_that_is_none_lets_nobody_in_and_keeps_nobody_waiting(variant: Variant) {
    let issuer = IssuerServer::start();
    let (mut gateway, _backend) = started(variant, &issuer, "timeout: 500ms, negative_cache: 1s");
    issuer.set_active("good", good());
    let json = |body: &str| {
        let length = body.len();
        Manner::Verbatim(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    };
    let said = good().to_string();
    let with_active = |value: &str| format!("{{\"active\":{value},{}", &said[1..]);
    let (long, deep) = (" ".repeat(70_000), format!("{}1{}", "[".repeat(9000), "]".repeat(9000)));
    let manners = [
        Manner::Endless,
        Manner::Dripping,
        json(""),
        json("[]"),
        json("true"),
        json(&said),
        json(&with_active("\"true\"")),
        json(&with_active("1")),
        json(&with_active("null")),
        json(&with_active("true,\"active\":false")),
        json(&with_active(&format!("true,\"more\":{deep}"))),
        json(&format!("{}{}", with_active("true"), with_active("true"))),
        json(&format!("\u{feff}{}", with_active("true"))),
        json(&format!("{long}{}", with_active("true"))),
        Manner::Verbatim(format!("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{}", with_active("true"))),
        Manner::Verbatim(format!("HTTP/1.1 200 OK\r\nX: {long}{long}{long}{long}{long}{long}{long}\r\n\r\n")),
        Manner::Verbatim("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n".into()),
        Manner::Verbatim("HTTP/1.1 100 Continue\r\n\r\n".repeat(5000)),
        Manner::Verbatim(format!(
            "HTTP/1.1 307 Elsewhere\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
            issuer.introspection_url()
        )),
        Manner::Verbatim("\0\u{1}\u{2}".into()),
    ];
    let before = gateway.rss_bytes();
    for (at, manner) in manners.into_iter().enumerate() {
        issuer.set_manner(manner);
        let start = Instant::now();
        let mut client = gateway.connect();
        client.send(&bearer("/keep", "good").encode());
        let answer = client.refused();
        assert_eq!((answer.status, &*answer.body), (401, "Unclassified authentication failure.\n"), "manner {at}");
        assert!(start.elapsed() < Duration::from_secs(2), "manner {at}: {:?}", start.elapsed());
    }
    let grown = gateway.rss_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes");
    assert_eq!(gateway.metric("framegate_introspections_total", &[("outcome", "failed")]), 20.0);
    issuer.set_manner(Manner::Good);
    assert_eq!(status(&gateway, &bearer("/keep", "good")), 101);
    gateway.probe();
}

fn what_happens_while_the_issuer_thinks_is_heeded(variant: Variant) {
    let issuer = IssuerServer::start();
    let (mut gateway, _backend) = started(variant, &issuer, "timeout: 5s");
    let waiting = |gateway: &Gateway, token: &str| {
        issuer.set_active(token, good());
        issuer.set_manner(Manner::Slow(Duration::from_millis(700)));
        let mut client = gateway.connect();
        client.send(&bearer("/keep", token).encode());
        until("the issuer is asked", || issuer.asked(token) > 0);
        client
    };
    // Revoked here before its issuer has said that it is good: whoever came in meanwhile goes at once.
    let mut revoked = waiting(&gateway, "revoked");
    let revocation = json!({ "revoked": format!("opaque:{}", sha256("revoked")) });
    let answer = Admin::of(&gateway).post("/revocations?wait=applied", &revocation);
    assert_eq!(answer.status, 201, "{answer:?}");
    match revoked.head().status() {
        101 => assert_eq!(revoked.expect_close(1008), "credential revoked"),
        status => assert_eq!(status, 401),
    }
    // The control plane has no part in it.
    let mut alone = waiting(&gateway, "alone");
    gateway.kill_control_plane();
    alone.upgraded();
    // Who does not wait for the answer leaves nothing behind, and the next one has it.
    drop(waiting(&gateway, "impatient"));
    until("it is known without anybody", || {
        gateway.metric("framegate_introspections_total", &[("outcome", "active")]) == 3.0
    });
    assert_eq!((status(&gateway, &bearer("/keep", "impatient")), issuer.asked("impatient")), (101, 1));
    // A data plane that dies forgets; the next one asks.
    let mut cut = waiting(&gateway, "cut");
    gateway.kill_data_plane();
    assert!(cut.rest().is_empty(), "nobody is let in by half an answer");
    gateway.start_data_plane();
    issuer.set_manner(Manner::Good);
    assert_eq!((status(&gateway, &bearer("/keep", "cut")), issuer.asked("cut")), (101, 2));
    assert_eq!(status(&gateway, &bearer("/keep", "revoked")), 401, "what is stored knows of the revocation");
    gateway.start_control_plane();
    gateway.probe();
}

fn strangers_with_tokens_keep_nobody_waiting_whose_token_is_known(variant: Variant) {
    const STRANGERS: usize = 600;
    let issuer = IssuerServer::start();
    let (mut gateway, _backend) = started(variant, &issuer, "timeout: 1s, cache: 60s");
    issuer.set_active("known", good());
    let mut known = session(&gateway, &bearer("/keep", "known"));
    issuer.set_manner(Manner::Slow(Duration::from_secs(2)));
    let mut strangers: Vec<Peer> = (0..STRANGERS)
        .map(|at| {
            let mut client = gateway.connect();
            client.send(&bearer("/keep", &format!("stranger-{at}")).encode());
            client
        })
        .collect();
    // Those who are known come in meanwhile, without anybody being asked.
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(status(&gateway, &bearer("/keep", "known")), 101);
    }
    gateway.probe();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    // Nobody waits longer than for the turn and the answer, and nobody is told anything else.
    for stranger in &mut strangers {
        let answer = stranger.refused();
        assert_eq!((answer.status, &*answer.body), (401, "Unclassified authentication failure.\n"));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let asked = (0..STRANGERS).filter(|at| issuer.asked(&format!("stranger-{at}")) > 0).count();
    println!("{asked} of {STRANGERS} strangers were asked about");
    assert!(asked <= 100, "{asked}: as many as the issuer may be asked at a time, and as many again");
    known.expect_silence(Duration::from_millis(100));
    issuer.set_manner(Manner::Good);
    until("the issuer has recovered", || {
        issuer.set_active("late", good());
        status(&gateway, &bearer("/keep", "late")) == 101
    });
}

fn a_token_that_is_withdrawn_takes_its_sessions_along(variant: Variant) {
    let issuer = IssuerServer::start();
    let (gateway, _backend) = started(variant, &issuer, "cache: 1s");
    issuer.set_active("taken", good());
    issuer.set_active("kept", good());
    let mut taken = [(); 2].map(|()| session(&gateway, &bearer("/keep", "taken")));
    let mut kept = session(&gateway, &bearer("/keep", "kept"));
    kept.expect_silence(Duration::from_millis(1500));
    issuer.set_inactive("taken");
    let start = Instant::now();
    for client in &mut taken {
        assert_eq!(client.expect_close(1008), "credential revoked");
    }
    // The interval, and a second.
    let elapsed = start.elapsed();
    println!("a withdrawn token closed its sessions after {elapsed:?}");
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
    kept.expect_silence(Duration::from_millis(500));
    assert_eq!(status(&gateway, &bearer("/keep", "taken")), 401);
}

/// The forms that can hold a token that is no JWT.
const CARRIERS: [Carrier; 5] =
    [Carrier::Bearer, Carrier::QueryToken, Carrier::Subprotocol, Carrier::SubprotocolOfKubernetes, Carrier::Cookie];

fn a_token_that_is_revoked_here_is_good_no_more_whatever_its_issuer_says(variant: Variant) {
    let (issuer, backend) = (IssuerServer::start(), EchoBackend::start());
    let people = Keys::new()
        .people()
        .introspecting_issuer("opaque", OPAQUE_ISSUER, &issuer.introspection_url(), "")
        .application("subscribed", "")
        .subscriptions("subscribed", &["chat"]);
    let gateway = Setup::new(variant)
        .api_to("chat", &backend.url("/"), "authentication: { accept: [bearer, query_token, subprotocol, cookie] }")
        .people(people)
        .start();
    ["kept", "taken", "early", "late"].iter().for_each(|token| issuer.set_active(token, good()));
    let revocation_s = now_s() - 100;
    for (token, issued_s) in [("early", revocation_s - 1), ("late", revocation_s + 1)] {
        let mut answer = good();
        answer["iat"] = issued_s.into();
        issuer.set_active(token, answer);
    }
    let request = |carrier: Carrier, token: &str| carrier.request("/chat", token);
    let mut kept = CARRIERS.map(|carrier| session(&gateway, &request(carrier, "kept")));
    let mut taken = CARRIERS.map(|carrier| session(&gateway, &request(carrier, "taken")));
    let [mut early, mut late] = ["early", "late"].map(|token| session(&gateway, &request(Carrier::Bearer, token)));
    let admin = Admin::of(&gateway);
    let start = Instant::now();
    let change = |token: &str, member: Value| {
        let mut revocation = json!({ "revoked": format!("opaque:{}", sha256(token)), "reason": "lost" });
        revocation["issued_before"] = member;
        json!({ "kind": "revocation", "put": revocation })
    };
    let mut whole = change("taken", Value::Null);
    whole["put"].as_object_mut().expect("an object").remove("issued_before");
    let before = Value::from(timestamp(revocation_s));
    let changes = json!({ "changes": [whole, change("early", before.clone()), change("late", before)] });
    let answer = admin.post("/batch?wait=applied", &changes);
    assert!((200..300).contains(&answer.status), "{answer:?}");
    for client in taken.iter_mut().chain([&mut early]) {
        assert_eq!(client.expect_close(1008), "credential revoked");
    }
    let elapsed = start.elapsed();
    println!("a revoked opaque token closed its sessions after {elapsed:?}");
    assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    // The issuer is not asked again, and would say that it is good.
    for carrier in CARRIERS {
        let mut client = gateway.connect();
        client.send(&request(carrier, "taken").encode());
        let refused = client.refused();
        assert_eq!((refused.status, &*refused.body), (401, "Invalid credentials.\n"), "{carrier:?}");
    }
    assert_eq!((issuer.asked("taken"), issuer.asked("early")), (1, 1));
    assert_eq!(status(&gateway, &request(Carrier::Bearer, "early")), 401);
    late.expect_silence(Duration::from_millis(300));
    kept.iter_mut().for_each(|client| client.expect_silence(Duration::from_millis(10)));
    assert_eq!(status(&gateway, &request(Carrier::Bearer, "late")), 101);
    // What is taken back is the revocation: then the issuer's word counts again.
    let answer = admin.delete(&format!("/revocations/opaque:{}?wait=applied", sha256("taken")));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(status(&gateway, &request(Carrier::Bearer, "taken")), 101);
}

fn where_nobody_can_be_asked_again_the_api_says_what_becomes_of_its_sessions(variant: Variant) {
    let issuer = IssuerServer::start();
    let (gateway, _backend) = started(variant, &issuer, "cache: 1s, timeout: 500ms");
    issuer.set_active("good", good());
    let mut ending = good();
    ending["exp"] = (now_s() + 6).into();
    issuer.set_active("ending", ending.clone());
    let mut keeps = session(&gateway, &bearer("/keep", "good"));
    let mut closes = session(&gateway, &bearer("/close", "good"));
    let mut ends = session(&gateway, &bearer("/keep", "ending"));
    issuer.set_manner(Manner::Away);
    let start = Instant::now();
    assert_eq!(closes.expect_close(1008), "credential cannot be verified");
    let elapsed = start.elapsed();
    println!("a session whose token cannot be verified was closed after {elapsed:?}");
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    // What is kept is kept until the token's last known end, and not longer.
    assert_eq!(ends.expect_close(1008), "credential expired");
    let late = now_s() as f64 - ending["exp"].as_f64().expect("a number");
    assert!((0.0..=1.0).contains(&late), "{late}");
    keeps.expect_silence(Duration::from_millis(300));
    // It is asked again when somebody answers again, and then the answer counts.
    issuer.set_inactive("good");
    issuer.set_manner(Manner::Good);
    assert_eq!(keeps.expect_close(1008), "credential revoked");
}
