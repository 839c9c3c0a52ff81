//! Keys of issuers elsewhere: fetched, fetched again, kept when they cannot be, and refused when they are of no use.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::issuer::{IssuerServer, Manner};
use crate::kit::people::People;
use crate::kit::tokens::{Algorithm, Signer, Token, base64url, key_set};
use crate::kit::{Gateway, Setup, Upgrade, Variant, until};

fn standing(gateway: &Gateway) -> Value {
    let status = gateway.verb("status", &["--json"]).json();
    // A control plane that is starting says nothing of them yet.
    let issuers = status["issuers"].as_array().into_iter().flatten();
    issuers.into_iter().find(|one| one["name"] == "corporate").cloned().unwrap_or_default()
}

fn gateway(jwks: &str) -> Gateway {
    let issuer = format!("name: corporate, issuer: \"https://login.test\", jwks: \"{jwks}\", refresh: 1s");
    Setup::new(Variant::Automatic).people(People::new().entry("issuers", issuer)).start()
}

#[test]
fn keys_are_fetched_and_the_last_good_ones_stay() {
    let (one, two) = (Signer::new(Algorithm::EdDsa, "one"), Signer::new(Algorithm::Es256, "two"));
    let server = IssuerServer::start();
    server.set_manner(Manner::Away);
    let mut gateway = gateway(&server.keys_url());
    until("it is known that the keys cannot be fetched", || standing(&gateway)["fault"].is_string());
    assert_eq!(standing(&gateway)["keys"], 0);
    assert_eq!(standing(&gateway)["fetched"], Value::Null);

    server.set_keys(&key_set(&[&one]));
    server.set_manner(Manner::Good);
    until("the keys are there", || standing(&gateway)["keys"] == 1);
    until("and nothing is wrong", || standing(&gateway)["fault"].is_null());
    server.set_keys(&key_set(&[&one, &two]));
    until("the new key is there too", || standing(&gateway)["keys"] == 2);

    let private = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","d":"AA"}]}"#;
    for (manner, keys, word) in [
        (Manner::Status(500), "", "500"),
        (Manner::Status(302), "", "302"),
        (Manner::Nonsense, "", "JSON"),
        (Manner::Good, r#"{"keys":[]}"#, "no key"),
        (Manner::Good, r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#, "shared secret"),
        (Manner::Good, private, "private key"),
    ] {
        server.set_keys(keys);
        server.set_manner(manner);
        until(word, || standing(&gateway)["fault"].as_str().is_some_and(|fault| fault.contains(word)));
        assert_eq!(standing(&gateway)["keys"], 2, "{word}");
    }
    let told = gateway.verb("status", &[]).stdout;
    assert!(told.contains("corporate: http://") && told.contains("private key"), "{told}");

    gateway.kill_control_plane();
    server.set_manner(Manner::Away);
    gateway.start_control_plane();
    until("a control plane that starts alone has them still", || standing(&gateway)["keys"] == 2);
    until("and says since when", || standing(&gateway)["fetched"].is_string());
}

#[test]
fn a_token_whose_key_is_not_known_has_the_keys_fetched_sooner() {
    let (one, two) = (Signer::new(Algorithm::EdDsa, "one"), Signer::new(Algorithm::Es256, "two"));
    let server = IssuerServer::start();
    server.set_keys(&key_set(&[&one]));
    let issuer =
        format!("name: corporate, issuer: \"https://login.test\", jwks: \"{}\", refresh: 1h", server.keys_url());
    let setup = Setup::new(Variant::Automatic);
    let url = setup.probe_url();
    let people = super::people().subscriptions("shop", &["guarded"]).entry("issuers", issuer);
    let gateway = setup.people(people).api_to("guarded", &url, "authentication: { accept: [bearer] }").start();
    let status = |signer: &Signer| {
        let token = Token::of("https://login.test").claim("sub", "x").claim("client_id", "theirs").sign(signer);
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/guarded").with("Authorization", &format!("Bearer {token}")).encode());
        client.head().status()
    };
    until("the first key is known", || status(&one) == 101);
    server.set_keys(&key_set(&[&one, &two]));
    assert_eq!(status(&two), 401);
    until("the second one is fetched", || standing(&gateway)["keys"] == 2);
    until("and known", || status(&two) == 101);
    assert_eq!(server.fetched(), 2, "nobody has it fetched more often than that");
}

#[test]
fn keys_of_odd_kinds_spoil_nothing() {
    let (good, twin) = (Signer::new(Algorithm::EdDsa, "good"), Signer::new(Algorithm::EdDsa, "twin"));
    let server = IssuerServer::start();
    let zeros = |bytes: usize| base64url(vec![0; bytes]);
    let high = |bytes: usize| base64url(vec![0xff; bytes]);
    let mut second = Signer::new(Algorithm::EdDsa, "twin").jwk();
    second["use"] = Value::Null;
    let odd = [
        // Points that are on no curve, and numbers that are no key's.
        json!({ "kty": "EC", "crv": "P-256", "x": zeros(32), "y": zeros(32), "kid": "origin" }),
        json!({ "kty": "EC", "crv": "P-256", "x": high(32), "y": high(32), "kid": "off" }),
        json!({ "kty": "EC", "crv": "P-384", "x": high(48), "y": zeros(48), "kid": "off-384" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": high(32), "kid": "no-point" }),
        json!({ "kty": "RSA", "n": high(256), "e": "AQAB", "kid": "no-product" }),
        json!({ "kty": "RSA", "n": format!("{}{}", high(255), "AA"), "e": "Aw", "kid": "even" }),
        json!({ "kty": "RSA", "n": high(1024), "e": high(4), "kid": "large" }),
        // Names that others have, too, or that are none.
        second,
        json!({ "kty": "OKP", "crv": "Ed25519", "x": zeros(32), "kid": "" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": zeros(32), "kid": "\u{1b}[2J\u{0}\n\u{202e}" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": zeros(32), "kid": 7 }),
        json!({ "kty": ["OKP"], "crv": "Ed25519", "x": zeros(32) }),
        json!({ "kty": "OKP", "crv": "Ed448", "x": zeros(57), "kid": "unheard-of" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": format!("{}=", zeros(32)), "kid": "padded" }),
        json!("no key"),
        json!({}),
    ];
    let issuer =
        format!("name: corporate, issuer: \"https://login.test\", jwks: \"{}\", refresh: 1s", server.keys_url());
    let keys: Vec<Value> = odd.into_iter().chain([twin.jwk(), good.jwk()]).collect();
    server.set_keys(&json!({ "keys": keys }).to_string());
    let setup = Setup::new(Variant::Automatic);
    let url = setup.probe_url();
    let people = super::people().subscriptions("shop", &["guarded"]).entry("issuers", issuer);
    let mut gateway = setup.people(people).api_to("guarded", &url, "authentication: { accept: [bearer] }").start();
    let status = |gateway: &Gateway, signer: &Signer, kid: &str| {
        let token = Token::of("https://login.test").claim("sub", "x").claim("client_id", "theirs").header("kid", kid);
        let mut client = gateway.connect();
        let token = token.sign(signer);
        client.send(&Upgrade::to("/guarded").with("Authorization", &format!("Bearer {token}")).encode());
        client.head().status()
    };
    until("the good key is known", || status(&gateway, &good, "good") == 101);
    for kid in ["origin", "off", "off-384", "no-point", "no-product", "even", "large", "", "unheard-of"] {
        assert_eq!(status(&gateway, &good, kid), 401, "{kid}");
    }
    let told = [gateway.verb("status", &[]).stdout, gateway.said("controlplane"), gateway.said("dataplane")].concat();
    assert!(!told.contains(['\u{1b}', '\u{0}', '\u{202e}']), "{told}");
    // The next generation is served like any other.
    let applied = gateway.apply(&gateway.setup().yaml().replace("drain_window: 1s", "drain_window: 2s"));
    assert_eq!(applied.code, 0, "{applied:?}");
    assert_eq!(status(&gateway, &good, "good"), 101);
    gateway.probe();
}

#[test]
fn a_set_that_is_too_much_is_none() {
    let good = Signer::new(Algorithm::EdDsa, "good");
    let server = IssuerServer::start();
    server.set_keys(&key_set(&[&good]));
    let gateway = gateway(&server.keys_url());
    until("the key is there", || standing(&gateway)["keys"] == 1);
    let many = |count: usize| {
        let keys: Vec<Value> = (0..count)
            .map(|at| {
                let mut key = good.jwk();
                key["kid"] = at.to_string().into();
                key
            })
            .collect();
        json!({ "keys": keys }).to_string()
    };
    let rss = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.control_plane_pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap().trim().to_owned();
        line.trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = rss();
    for (what, manner, keys, word) in [
        ("one more than may be", Manner::Good, many(101), "101 keys"),
        ("spaces", Manner::Good, format!("{}{}", " ".repeat(300 * 1024), key_set(&[&good])), "bytes"),
        ("as deep as it is long", Manner::Good, format!("{{\"keys\":{}", "[".repeat(200_000)), "JSON"),
        ("without an end", Manner::Endless, String::new(), "bytes"),
        ("never whole", Manner::Dripping, String::new(), "10 seconds"),
    ] {
        server.set_keys(&keys);
        server.set_manner(manner);
        let is_told = || standing(&gateway)["fault"].as_str().is_some_and(|fault| fault.contains(word));
        let start = std::time::Instant::now();
        while !is_told() {
            assert!(start.elapsed() < Duration::from_secs(40), "{what}: {}", standing(&gateway));
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(standing(&gateway)["keys"], 1, "{what}");
    }
    let grown = rss().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB");
    server.set_keys(&many(100));
    server.set_manner(Manner::Good);
    let start = std::time::Instant::now();
    while standing(&gateway)["keys"] != 100 {
        assert!(start.elapsed() < Duration::from_secs(40), "{}", standing(&gateway));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_file_of_keys_is_read_and_watched() {
    let (one, two) = (Signer::new(Algorithm::EdDsa, "one"), Signer::new(Algorithm::Es256, "two"));
    let setup = Setup::new(Variant::Automatic);
    let file = setup.directory().join("keys.json");
    std::fs::write(&file, key_set(&[&one])).unwrap();
    let issuer = "name: corporate, issuer: \"https://login.test\", jwks: keys.json";
    let gateway = setup.people(People::new().entry("issuers", issuer.into())).start();
    assert_eq!(standing(&gateway)["keys"], 1);
    std::fs::write(&file, key_set(&[&one, &two])).unwrap();
    until("the file has been read again", || standing(&gateway)["keys"] == 2);
    std::fs::write(&file, "{\"keys\":[{\"kty\":\"oct\",\"k\":\"c2VjcmV0\"}]}").unwrap();
    until("what is of no use is told", || {
        let status = gateway.verb("status", &["--json"]).json();
        status["control_plane"]["diagnostics"].to_string().contains("shared secret")
    });
    assert_eq!(standing(&gateway)["keys"], 2, "and what runs, runs on");
}
