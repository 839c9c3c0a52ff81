//! Keys of issuers elsewhere: fetched, fetched again, kept when they cannot be, and refused when they are of no use.

use serde_json::Value;

use crate::kit::issuer::{IssuerServer, Manner};
use crate::kit::people::People;
use crate::kit::tokens::{Algorithm, Signer, Token, key_set};
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
