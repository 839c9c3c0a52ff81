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
    where_nobody_answers_nobody_comes_in,
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
