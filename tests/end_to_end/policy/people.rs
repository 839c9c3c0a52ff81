//! Policies about who a client is: claims, users and origins; and what the endpoint is told of them, signed.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::{Value, json};

use crate::kit::people::People;
use crate::kit::tokens::{Algorithm, Signer, Token, key_set, now_s};
use crate::kit::{Gateway, RawUpstream, Setup, Upgrade, Variant, on_both_drivers};
use crate::strangers::{converse, python};

use super::{opened, refused};

on_both_drivers!(
    steps_ask_for_claims_and_templates_tell_them,
    origins_are_the_api_s_or_the_settings_and_ambient_credentials_want_one,
    an_endpoint_is_told_who_the_client_is_and_can_verify_it,
);

const ISSUER: &str = "https://issuer.test";
const GATEWAY: &str = "https://gateway.test";
const TOKENS: &str = "authentication: { accept: [bearer, cookie], require_subscription: false }";

fn people(signer: &Signer) -> People {
    People::new().issuer("test", ISSUER, &key_set(&[signer]), "")
}

fn bearing(target: &str, token: &str) -> Upgrade {
    Upgrade::to(target).with("Authorization", &format!("Bearer {token}"))
}

fn steps_ask_for_claims_and_templates_tell_them(variant: Variant) {
    let upstream = RawUpstream::listen();
    let signer = Signer::new(Algorithm::EdDsa, "k1");
    let steps = "on_upgrade: [{ deny: { claims: [{ name: realm.roles, values: ['chat-*'] }, { name: level, values: ['3'] }], not: true } }, \
                 { set_header: { name: X-Who, value: '{user} {claim.realm.roles} {claim.none}{header.Authorization}' } }, \
                 { rename_header: { from: Authorization, to: X-Leak } }]";
    let mut gateway = Setup::new(variant)
        .api_to("a", &upstream.url("/"), &format!("{TOKENS}, {steps}"))
        .people(people(&signer))
        .start();
    let token = Token::of(ISSUER).claim("sub", "alice");
    let roles = |token: &Token, roles: Value, level: Value| {
        token.clone().claim("realm", json!({ "roles": roles })).claim("level", level)
    };
    let good = roles(&token, json!(["x", "chat-user"]), json!(3)).sign(&signer);
    let head = opened(&gateway, &upstream, &bearing("/a", &good));
    assert_eq!(head.headers("X-Who"), ["alice x,chat-user"], "{head}");
    for name in ["X-Leak", "Authorization"] {
        assert_eq!(head.headers(name), [""; 0], "{head}");
    }
    for bad in [
        token.clone(),
        roles(&token, json!([]), json!(3)),
        roles(&token, json!("user"), json!(3)),
        roles(&token, json!("chat-x"), json!(33)),
        roles(&token, json!({ "chat-x": 1 }), json!(3)),
        // Who is called so that it would end the header's line.
        roles(&token, json!("chat-x"), json!(3)).claim("sub", "a\r\nX-Admin: yes"),
    ] {
        refused(&gateway, &bearing("/a", &bad.sign(&signer)), 403);
    }
    upstream.expect_no_connection(Duration::ZERO);
    gateway.probe();
}

fn origins_are_the_api_s_or_the_settings_and_ambient_credentials_want_one(variant: Variant) {
    let upstream = RawUpstream::listen();
    let signer = Signer::new(Algorithm::EdDsa, "k1");
    let (listed, every) = ("origins: ['https://own.test:8443']", "origins: ['*']");
    let url = upstream.url("/");
    let build = |settings: &str| {
        Setup::new(variant)
            .settings(settings)
            .listener("trusted_proxies: [127.0.0.0/8]")
            .api_to("inherits", &url, "")
            .api_to("listed", &url, listed)
            .api_to("every", &url, every)
            .api_to("cookie", &url, TOKENS)
            .api_to("cookie-every", &url, &format!("{TOKENS}, {every}"))
            .people(people(&signer))
            .start()
    };
    let token = Token::of(ISSUER).claim("sub", "alice").sign(&signer);
    let from = |api: &str, origin: &str| {
        let request = Upgrade::to(&format!("/{api}")).with("X-Forwarded-Proto", "https");
        if origin.is_empty() { request } else { request.with("Origin", origin) }
    };
    let cookie =
        |api: &str, origin: &str| from(api, origin).with("Cookie", &format!("apimlAuthenticationToken={token}"));
    let bearer = |api: &str, origin: &str| from(api, origin).with("Authorization", &format!("Bearer {token}"));

    let mut gateway = build("");
    for (request, is_allowed) in [
        (from("inherits", "https://anywhere.test"), true),
        (from("inherits", "null"), true),
        (from("listed", ""), true),
        (from("listed", "https://own.test:8443"), true),
        (from("listed", "https://own.test"), false),
        (from("listed", "https://own.test:8443").with("Origin", "https://own.test:8443"), false),
        (from("every", "https://anywhere.test"), true),
        (from("every", "null"), false),
        // The page must be of the host that is asked: gateway.test, over https as the trusted proxy says.
        (cookie("cookie", ""), true),
        (cookie("cookie", "https://gateway.test"), true),
        (cookie("cookie", "https://gateway.test:443"), true),
        (cookie("cookie", "http://gateway.test"), false),
        (cookie("cookie", "https://gateway.test:8443"), false),
        (cookie("cookie", "https://gateway.test.evil.test"), false),
        (cookie("cookie", "https://evil.test"), false),
        (cookie("cookie", "null"), false),
        (cookie("cookie-every", "https://evil.test"), true),
        (cookie("cookie-every", "null"), false),
        // What a page must put there itself tells that it may.
        (bearer("cookie", "https://evil.test"), true),
    ] {
        match is_allowed {
            true => _ = opened(&gateway, &upstream, &request),
            false => assert_eq!(refused(&gateway, &request, 403), "Connections from this origin are not allowed.\n"),
        }
    }
    gateway.probe();
    drop(gateway);

    let mut gateway = build("origins: ['https://*.shop.test']");
    for (request, is_allowed) in [
        (from("inherits", "https://www.shop.test"), true),
        (from("inherits", "https://shop.test"), false),
        (from("inherits", "https://www.shop.test.evil.test"), false),
        (from("inherits", "null"), false),
        (from("inherits", ""), true),
        // A list of its own stands in place of it.
        (from("listed", "https://www.shop.test"), false),
        (from("every", "https://anywhere.test"), true),
        (cookie("cookie", "https://www.shop.test"), true),
        (cookie("cookie", "https://gateway.test"), false),
    ] {
        match is_allowed {
            true => _ = opened(&gateway, &upstream, &request),
            false => _ = refused(&gateway, &request, 403),
        }
    }
    upstream.expect_no_connection(Duration::ZERO);
    gateway.probe();
}

/// A gateway that tells an endpoint who its clients are, once with each kind of key; and somebody to tell of.
struct Telling {
    gateway: Gateway,
    upstream: RawUpstream,
    keys: BTreeMap<&'static str, Signer>,
    token: String,
}

impl Telling {
    fn start(variant: Variant) -> Self {
        let upstream = RawUpstream::listen();
        let signer = Signer::new(Algorithm::EdDsa, "k1");
        let kinds = [("eddsa", Algorithm::EdDsa), ("es256", Algorithm::Es256), ("rs256", Algorithm::Rs256)];
        let keys: BTreeMap<&str, Signer> = kinds.map(|(name, kind)| (name, Signer::new(kind, name))).into();
        let apis = ["eddsa:v1", "es256:v1", "rs256:v1"];
        let mut people = people(&signer).application("shop", "").subscriptions("shop", &apis);
        let mut setup = Setup::new(variant);
        for (name, key) in &keys {
            let file = setup.directory().join(format!("{name}.pem"));
            std::fs::write(&file, key.private_pem()).expect("a file can be written");
            let key = format!("key: {}, key_id: {name}", file.display());
            let entry = format!("name: {name}, issuer: '{GATEWAY}', {key}, header: X-Told, lifetime: 30s");
            people = people.entry("assertions", entry);
            setup = setup.api(&format!(
                "name: {name}, version: v1, context: /{name}, endpoints: {{ production: {{ url: \"{}\" }} }}, \
                 authentication: {{ accept: [bearer], assertion: {name} }}, \
                 on_upgrade: [{{ remove_headers: [X-Told] }}, {{ set_header: {{ name: X-A, value: b }} }}]",
                upstream.url("/")
            ));
        }
        let claims = [("sub", "alice"), ("client_id", "shop-client"), ("scope", "read write")];
        let token = claims.into_iter().fold(Token::of(ISSUER), |token, (name, value)| token.claim(name, value));
        Self { gateway: setup.people(people).start(), upstream, keys, token: token.sign(&signer) }
    }

    /// What an endpoint of this API is told, whatever its client says of itself.
    fn told(&self, api: &str) -> String {
        let request =
            bearing(&format!("/{api}/v1/room"), &self.token).with("X-Told", "forged").with("x-told", "forged");
        let head = opened(&self.gateway, &self.upstream, &request);
        head.header("X-Told").unwrap_or_else(|| panic!("no assertion in {head}")).to_owned()
    }
}

fn an_endpoint_is_told_who_the_client_is_and_can_verify_it(variant: Variant) {
    let mut telling = Telling::start(variant);
    for (name, key) in &telling.keys {
        let [one, other] = [(); 2].map(|()| verified(key, &telling.told(name)));
        assert_ne!(one["jti"], other["jti"], "each has its own");
        let (now, issued) = (now_s(), one["iat"].as_u64().expect("a number"));
        assert!(issued <= now && now - issued < 20 && one["exp"] == issued + 30, "{one}");
        let expected = json!({
            "iss": GATEWAY, "sub": "alice", "client_id": "shop-client", "application": "shop",
            "apiname": name, "version": "v1", "apicontext": format!("/{name}/v1"), "topic": "/*",
            "keytype": "PRODUCTION", "scope": "read write",
            "iat": one["iat"], "exp": one["exp"], "jti": one["jti"],
        });
        assert_eq!(one, expected);
    }
    refused(&telling.gateway, &Upgrade::to("/eddsa/v1"), 401);
    telling.gateway.probe();
}

#[test]
fn pyjwt_verifies_what_an_endpoint_is_told() {
    let Some(mut stranger) = python("assertion_reader.py", &["jwt", "cryptography"]) else { return };
    let telling = Telling::start(Variant::Automatic);
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("a file");
    write("keys.json", &key_set(&telling.keys.values().collect::<Vec<_>>()));
    for name in telling.keys.keys() {
        write(&format!("{name}.jwt"), &telling.told(name));
    }
    converse(stranger.arg(directory.path()).arg(GATEWAY));
}

/// The claims of an assertion, once its signature is found good.
#[track_caller]
fn verified(key: &Signer, told: &str) -> Value {
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).expect("base64url");
    let (signed, signature) = told.rsplit_once('.').expect("a signature");
    let signature = decoded(signature);
    let jwk = key.jwk();
    let number = |member: &str| decoded(jwk[member].as_str().expect("a text"));
    let good = match key.algorithm() {
        Algorithm::EdDsa => UnparsedPublicKey::new(&ED25519, number("x")).verify(signed.as_bytes(), &signature),
        Algorithm::Es256 => {
            let point = [&[4][..], &number("x"), &number("y")].concat();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &signature)
        }
        Algorithm::Rs256 => RsaPublicKeyComponents { n: number("n"), e: number("e") }.verify(
            &RSA_PKCS1_2048_8192_SHA256,
            signed.as_bytes(),
            &signature,
        ),
    };
    assert!(good.is_ok(), "{told}");
    let (head, claims) = signed.split_once('.').expect("two parts");
    let head: Value = serde_json::from_slice(&decoded(head)).expect("JSON");
    assert_eq!(head, json!({ "typ": "JWT", "alg": key.algorithm().word(), "kid": key.key_id }));
    serde_json::from_slice(&decoded(claims)).expect("JSON")
}
