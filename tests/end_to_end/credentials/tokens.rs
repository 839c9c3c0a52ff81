//! What a token may say, and how: algorithms, odd shapes, clocks, and which of its claims decide where it leads.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{AUDIENCE, ISSUER, Keys, name_and_password, token};
use crate::kit::tokens::{Signer, Token, base64url, key_set, now_s, signature};
use crate::kit::{EchoBackend, Gateway, People, RawUpstream, Setup, Upgrade, Variant, on_both_drivers};

on_both_drivers!(
    each_algorithm_is_verified_with_its_key,
    tokens_of_odd_shape_are_refused,
    a_clock_may_be_wrong_by_so_much,
    claims_have_the_names_that_the_issuer_gives_them,
    any_of_a_topics_scopes_is_enough,
    the_key_type_chooses_the_endpoint,
);

fn bearer(target: &str, token: &str) -> Upgrade {
    Upgrade::to(target).with("Authorization", &format!("Bearer {token}"))
}

/// The status with which a request is answered.
#[track_caller]
fn status(gateway: &Gateway, request: &Upgrade) -> u16 {
    let mut client = gateway.connect();
    client.send(&request.encode());
    client.head().status()
}

/// One API, `chat`, that accepts tokens of every issuer.
fn chat(variant: Variant, people: People) -> (Gateway, EchoBackend) {
    let backend = EchoBackend::start();
    let people = people.application("subscribed", "").subscriptions("subscribed", &["chat"]);
    let setup = Setup::new(variant).api_to("chat", &backend.url("/"), "authentication: { accept: [bearer] }");
    (setup.people(people).start(), backend)
}

fn each_algorithm_is_verified_with_its_key(variant: Variant) {
    let keys = Keys::new();
    let (gateway, _backend) = chat(variant, keys.people());
    let signers = [&keys.ed, &keys.es, &keys.rs];
    for signer in signers {
        let good = token("subscribed").sign(signer);
        assert_eq!(status(&gateway, &bearer("/chat", &good)), 101, "{signer:?}");
        // Again, when its signature is known already.
        assert_eq!(status(&gateway, &bearer("/chat", &good)), 101, "{signer:?}");
        // The same words under somebody else's signature, although the first was believed a moment ago.
        for other in signers.into_iter().filter(|other| other.key_id != signer.key_id) {
            let (message, _) = good.rsplit_once('.').expect("a token");
            let swapped = format!("{message}.{}", signature(&token("subscribed").sign(other)));
            assert_eq!(status(&gateway, &bearer("/chat", &swapped)), 401, "{signer:?} signed by {other:?}");
            // And what it says of its algorithm and its key does not fit.
            let mixed = token("subscribed").header("kid", other.key_id.as_str()).sign(signer);
            assert_eq!(status(&gateway, &bearer("/chat", &mixed)), 401, "{signer:?} as {other:?}");
        }
    }
}

fn tokens_of_odd_shape_are_refused(variant: Variant) {
    let keys = Keys::new();
    let (mut gateway, _backend) = chat(variant, keys.people());
    let good = token("subscribed").sign(&keys.ed);
    let [header, payload, signed]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().expect("three parts");
    let twice =
        base64url(format!(r#"{{"iss":"{ISSUER}","iss":"{ISSUER}","aud":"{AUDIENCE}","exp":{}}}"#, now_s() + 60));
    let deep = base64url(format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500)));
    let signed_with = |change: fn(Token) -> Token| change(token("subscribed")).sign(&keys.ed);
    let odd = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}.{signed}."),
        format!("{header}.{payload}.{signed}.{signed}.{signed}"),
        format!("{header}.{payload}.{signed}="),
        format!("{header}.{payload}.{}", &signed[1..]),
        format!("{header}.{payload}.{signed}{signed}"),
        format!("{header}..{signed}"),
        format!(".{payload}.{signed}"),
        format!("{}.{payload}.{signed}", base64url("[]")),
        format!("{}.{payload}.{signed}", base64url("{}")),
        format!("{}.{payload}.{signed}", base64url(r#"{"alg":7}"#)),
        format!("{}.{payload}.{signed}", base64url(r#"{"alg":"EdDSA","kid":7}"#)),
        format!("{}.{payload}.{signed}", base64url(r#"{"alg":"none"}"#)),
        format!("{}.{payload}.{signed}", base64url("\u{feff}{}")),
        format!("{header}.{}.{signed}", base64url("null")),
        format!("{header}.{}.{signed}", base64url("{")),
        format!("{header}.{twice}.{signed}"),
        format!("{header}.{deep}.{signed}"),
        signed_with(|token| token.header("crit", json!(["b64"])).header("b64", false)),
        signed_with(|token| token.without("exp")),
        signed_with(|token| token.claim("exp", "tomorrow")),
        signed_with(|token| token.claim("exp", json!(null))),
        signed_with(|token| token.claim("exp", -1)),
        signed_with(|token| token.claim("nbf", "now")),
        signed_with(|token| token.claim("iat", now_s() + 600)),
        signed_with(|token| token.without("iss")),
        signed_with(|token| token.claim("iss", json!([ISSUER]))),
        signed_with(|token| token.without("aud")),
        signed_with(|token| token.claim("aud", json!([]))),
        signed_with(|token| token.claim("aud", json!({ "0": AUDIENCE }))),
        signed_with(|token| token.claim("client_id", 7)),
        signed_with(|token| token.claim("sub", json!(["alice"]))),
        signed_with(|token| token.claim("jti", 7)),
        signed_with(|token| token.claim("scope", json!([7]))),
        signed_with(|token| token.claim("keytype", "STAGING")),
    ];
    for token in &odd {
        assert_eq!(status(&gateway, &bearer("/chat", token)), 401, "{token}");
    }
    for scheme in ["bearer", "BEARER"] {
        let request = Upgrade::to("/chat").with("Authorization", &format!("{scheme} {good}"));
        assert_eq!(status(&gateway, &request), 101, "the scheme is compared without case, RFC 9110 §11.1");
    }
    for value in [format!("Token {good}"), good.clone(), "Bearer".into(), format!("Bearer {good} {good}")] {
        let request = Upgrade::to("/chat").with("Authorization", &value);
        assert_eq!(status(&gateway, &request), 401, "{value}");
    }
    let twice = bearer("/chat", &good).with("Authorization", &format!("Bearer {good}"));
    assert_eq!(status(&gateway, &twice), 401, "two headers are none");
    gateway.probe();
}

fn a_clock_may_be_wrong_by_so_much(variant: Variant) {
    let keys = Keys::new();
    let set = key_set(&[&keys.ed]);
    let people = People::new().issuer("strict", "https://strict.test", &set, "").issuer(
        "lenient",
        "https://lenient.test",
        &set,
        "clock_skew: 30s",
    );
    let (gateway, _backend) = chat(variant, people);
    let of = |issuer: &str| Token::of(issuer).claim("client_id", "subscribed-client");
    for (token, strict, lenient) in [
        (of as fn(&str) -> Token, 101, 101),
        (|issuer| Token::of(issuer).claim("client_id", "subscribed-client").claim("exp", now_s() - 10), 401, 101),
        (|issuer| Token::of(issuer).claim("client_id", "subscribed-client").claim("exp", now_s() - 31), 401, 401),
        (|issuer| Token::of(issuer).claim("client_id", "subscribed-client").claim("nbf", now_s() + 20), 401, 101),
        (|issuer| Token::of(issuer).claim("client_id", "subscribed-client").claim("nbf", now_s() + 60), 401, 401),
    ] {
        for (issuer, expected) in [("https://strict.test", strict), ("https://lenient.test", lenient)] {
            let token = token(issuer);
            assert_eq!(status(&gateway, &bearer("/chat", &token.sign(&keys.ed))), expected, "{issuer}: {token:?}");
        }
    }
}

fn claims_have_the_names_that_the_issuer_gives_them(variant: Variant) {
    let keys = Keys::new();
    let names = "claims: { client: [appid, azp], user: preferred_username, scope: roles, environment: stage }";
    let people = keys.people().issuer("renaming", "https://renaming.test", &key_set(&[&keys.ed]), names);
    let upstream = RawUpstream::listen();
    let topics = "topics: [{ topic: /admin, scopes: [admin] }]";
    let people = people.application("subscribed", "").subscriptions("subscribed", &["chat"]);
    let gateway = Setup::new(variant)
        .api_to("chat", &upstream.url("/"), &format!("authentication: {{ accept: [bearer] }}, {topics}"))
        .people(people)
        .start();
    let base = |issuer: &str| Token::of(issuer).claim("aud", json!(["another", AUDIENCE]));
    let renamed = base("https://renaming.test").claim("preferred_username", "alice").claim("roles", json!(["admin"]));
    for (name, token) in [
        ("the first name", renamed.clone().claim("appid", "subscribed-client")),
        ("the second name", renamed.clone().claim("azp", "subscribed-client")),
        ("the usual names", base(ISSUER).claim("azp", "subscribed-client").claim("scope", "admin read")),
        ("a list of scopes", base(ISSUER).claim("client_id", "subscribed-client").claim("scope", json!(["admin"]))),
    ] {
        let mut client = gateway.connect();
        client.send(&bearer("/chat/admin", &token.sign(&keys.ed)).with("X-Request-Id", name).encode());
        upstream.accept().agree();
        client.upgraded();
    }
    for (name, token) in [
        ("the usual name where it has another", renamed.clone().claim("client_id", "subscribed-client")),
        (
            "scopes under the usual name",
            renamed.claim("appid", "subscribed-client").without("roles").claim("scope", "admin"),
        ),
    ] {
        assert_eq!(status(&gateway, &bearer("/chat/admin", &token.sign(&keys.ed))), 403, "{name}");
    }
    let opened = gateway.logged("open", "chat");
    assert_eq!((&opened["user"], &opened["application"]), (&json!("alice"), &json!("subscribed")), "{opened}");
}

fn any_of_a_topics_scopes_is_enough(variant: Variant) {
    let keys = Keys::new();
    let backend = EchoBackend::start();
    let topics = "topics: [{ topic: /open }, { topic: /rooms/*, scopes: [rooms.read, rooms.write] }]";
    let people = keys
        .people()
        .application("subscribed", "")
        .subscriptions("subscribed", &["chat"])
        .key("plain", "subscribed", "key-without-scopes", "")
        .key("scoped", "subscribed", "key-with-scopes", "restrictions: { scopes: [rooms.write] }")
        .user("plain", "application: subscribed")
        .user("scoped", "application: subscribed, scopes: [rooms.read]");
    let gateway = Setup::new(variant)
        .api_to("chat", &backend.url("/"), &format!("authentication: {{ accept: [bearer, api_key, basic] }}, {topics}"))
        .people(people)
        .start();
    let with_scope =
        |target: &str, scope: &str| bearer(target, &token("subscribed").claim("scope", scope).sign(&keys.ed));
    let with_key = |target: &str, key: &str| Upgrade::to(target).with("apikey", key);
    let with_password = |target: &str, name: &str| {
        Upgrade::to(target).with("Authorization", &format!("Basic {}", STANDARD.encode(name_and_password(name))))
    };
    for (request, expected) in [
        (with_scope("/chat/open", ""), 101),
        (with_scope("/chat/rooms/1", ""), 403),
        (with_scope("/chat/rooms/1", "rooms.read"), 101),
        (with_scope("/chat/rooms/1", "other rooms.write"), 101),
        (with_scope("/chat/rooms/1", "rooms.reader rooms rooms.READ"), 403),
        (with_scope("/chat/rooms/1", "rooms.read,rooms.write"), 403),
        (with_key("/chat/open", "key-without-scopes"), 101),
        (with_key("/chat/rooms/1", "key-without-scopes"), 403),
        (with_key("/chat/rooms/1", "key-with-scopes"), 101),
        (with_password("/chat/open", "plain"), 101),
        (with_password("/chat/rooms/1", "plain"), 403),
        (with_password("/chat/rooms/1", "scoped"), 101),
    ] {
        assert_eq!(status(&gateway, &request), expected, "{}", request.encode().escape_ascii());
    }
}

fn the_key_type_chooses_the_endpoint(variant: Variant) {
    let keys = Keys::new();
    let (production, sandbox) = (RawUpstream::listen(), RawUpstream::listen());
    let endpoints = format!(
        "endpoints: {{ production: {{ url: \"{}\" }}, sandbox: {{ url: \"{}\" }} }}",
        production.url("/"),
        sandbox.url("/")
    );
    let people = keys
        .people()
        .application("subscribed", "")
        .entry("applications", "name: trying, clients: [{ id: trying-client, environment: sandbox }]".into())
        .subscriptions("subscribed", &["chat"])
        .subscriptions("trying", &["chat"])
        .key("live", "subscribed", "live-key", "")
        .key("trial", "subscribed", "trial-key", "environment: sandbox")
        .user("live", "application: subscribed")
        .user("trial", "application: subscribed, environment: sandbox");
    let gateway = Setup::new(variant)
        .api(&format!(
            "name: chat, context: /chat, {endpoints}, authentication: {{ accept: [bearer, api_key, basic] }}"
        ))
        .listener("environment_header: X-Environment")
        .people(people)
        .start();
    let of = |signer: &Signer, token: Token| bearer("/chat", &token.sign(signer));
    let basic = |name: &str| format!("Basic {}", STANDARD.encode(name_and_password(name)));
    let (live, trial) = ("the production endpoint", "the sandbox endpoint");
    for (request, expected) in [
        (of(&keys.ed, token("subscribed")), live),
        (of(&keys.ed, token("subscribed").claim("keytype", "PRODUCTION")), live),
        (of(&keys.ed, token("subscribed").claim("keytype", "SANDBOX")), trial),
        // What the token does not say, its client does; what it says counts more.
        (of(&keys.ed, token("trying")), trial),
        (of(&keys.ed, token("trying").claim("keytype", "PRODUCTION")), live),
        (Upgrade::to("/chat").with("apikey", "live-key"), live),
        (Upgrade::to("/chat").with("apikey", "trial-key"), trial),
        (Upgrade::to("/chat").with("Authorization", &basic("live")), live),
        (Upgrade::to("/chat").with("Authorization", &basic("trial")), trial),
        // Who has a key of one type cannot ask for the other.
        (Upgrade::to("/chat").with("apikey", "live-key").with("X-Environment", "sandbox"), live),
        (Upgrade::to("/chat").with("apikey", "trial-key").with("X-Environment", "production"), trial),
    ] {
        let mut client = gateway.connect();
        client.send(&request.encode());
        let reached = if expected == live { &production } else { &sandbox };
        reached.accept().agree();
        client.upgraded();
    }
}
