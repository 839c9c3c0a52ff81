//! Signing keys over time: nobody ever sees a token whose key was not published before, nor a key that is gone too early.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{CLIENT, House, part, people};
use crate::kit::pki::{self, Key};
use crate::kit::{Setup, Upgrade, Variant, until};

#[test]
fn a_key_is_published_before_it_signs_and_until_its_last_token_has_run_out() {
    let house = House::start("rotate_every: 3s, access_token_lifetime: 2s");
    let mut published: HashSet<String> = house.keys().into_iter().collect();
    let mut last_token: HashMap<String, Instant> = HashMap::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(11) {
        let token = house.token("plain", CLIENT);
        let kid = part(&token["access_token"], 0)["kid"].as_str().unwrap().to_owned();
        assert!(published.contains(&kid), "{kid} signs, and was not published at the look before");
        last_token.insert(kid, Instant::now());
        published = house.keys().into_iter().collect();
        for (kid, at) in &last_token {
            let is_needed = at.elapsed() < Duration::from_millis(1500);
            assert!(!is_needed || published.contains(kid), "{kid} is gone, and its token is good");
        }
        assert!(house.is_active(&token["access_token"]));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(last_token.len() >= 3, "several keys have signed: {last_token:?}");
    until("keys that sign no more go away", || house.keys().len() <= 2);
    let standing = &house.status()["token_endpoint"];
    assert!(standing["next_change"].is_string() && standing["signing"].is_string(), "{standing}");
    // The data plane has what is published.
    let pushed = house.status()["issuers"].as_array().unwrap().iter().find(|one| one["name"] == "framegate").cloned();
    assert!(pushed.is_some_and(|issuer| issuer["keys"].as_u64() >= Some(1)));
}

#[test]
fn an_operator_has_the_key_replaced_and_what_the_old_one_signed_stays_good() {
    let setup = Setup::new(Variant::Automatic);
    let url = setup.probe_url();
    let people = people().subscriptions("shop", &["guarded"]);
    let house = House::with(setup.people(people).api_to("guarded", &url, "authentication: { accept: [bearer] }"), "");
    let kid = |token: &Value| part(&token["access_token"], 0)["kid"].as_str().unwrap().to_owned();
    let opens = |token: &Value| {
        let bearer = format!("Bearer {}", token["access_token"].as_str().unwrap());
        let mut client = house.gateway.connect();
        client.send(&Upgrade::to("/guarded").with("Authorization", &bearer).encode());
        client.head().status() == 101
    };
    let before = house.token("every", CLIENT);
    let old = kid(&before);

    // As in its time: published now, and signing when others have had the time to read it.
    let announced = house.gateway.verb("token", &["rotate", "--json"]);
    assert_eq!(announced.code, 0, "{announced:?}");
    let announced = announced.json();
    let new = announced["kid"].as_str().unwrap().to_owned();
    assert_eq!((&announced["replaces"], &announced["keys"]), (&json!(old), &json!(2)), "{announced}");
    assert_eq!(HashSet::from_iter(house.keys()), HashSet::from([old.clone(), new.clone()]));
    assert_eq!(kid(&house.token("every", CLIENT)), old);
    let again = house.gateway.verb("token", &["rotate", "--json"]).json();
    assert_eq!((&again["kid"], &again["signs_from"]), (&announced["kid"], &announced["signs_from"]));

    let told = house.gateway.verb("token", &["rotate", "--now"]);
    assert!(told.code == 0 && told.stdout.contains(&new) && told.stdout.contains(&old), "{told:?}");
    let after = house.token("every", CLIENT);
    assert_eq!(kid(&after), new);
    assert_eq!(HashSet::from_iter(house.keys()), HashSet::from([old.clone(), new.clone()]));
    for token in [&before, &after] {
        assert!(opens(token) && house.is_active(&token["access_token"]), "{token}");
    }
    // A second one, at once: whoever holds a token notices nothing.
    let third = house.gateway.verb("token", &["rotate", "--now", "--json"]).json();
    assert_eq!((&third["replaces"], &third["keys"]), (&json!(new), &json!(3)), "{third}");
    let last = house.token("every", CLIENT);
    assert_eq!(kid(&last), third["kid"].as_str().unwrap());
    for token in [&before, &after, &last] {
        assert!(opens(token), "{token}");
    }
    let standing = &house.status()["token_endpoint"];
    assert_eq!((&standing["signing"], &standing["keys"]), (&third["kid"], &json!(3)), "{standing}");
    let log = house.gateway.said("controlplane");
    assert!(log.contains("admin: rotate signing key"), "{log}");

    let yaml = house.gateway.setup().yaml();
    let without = &yaml[..yaml.find("token_endpoint").unwrap()];
    assert_eq!(house.gateway.apply(without).code, 0);
    let refused = house.gateway.verb("token", &["rotate"]);
    assert!(refused.code == 1 && refused.stderr.contains("token_endpoint"), "{refused:?}");
}

#[test]
fn a_key_of_the_operators_signs_and_is_replaced_with_its_file() {
    if !pki::is_available() {
        return;
    }
    for (algorithm, key) in [("RS256", Key::Rsa2048), ("ES256", Key::P256), ("EdDSA", Key::Ed25519)] {
        let setup = Setup::new(Variant::Automatic).people(people());
        let file = setup.directory().join("signing.pem");
        pki::make_key(key, &file);
        let more = format!(
            "algorithm: {algorithm}, signing_key: \"{}\", rotate_every: 2s, access_token_lifetime: 2s",
            file.display()
        );
        let house = House::with(setup, &more);
        let token = house.token("plain", CLIENT);
        assert_eq!(part(&token["access_token"], 0)["alg"], algorithm);
        assert!(house.is_active(&token["access_token"]));
        let before = house.keys();
        assert_eq!(before.len(), 1);
        let refused = house.gateway.verb("token", &["rotate", "--now"]);
        assert!(refused.code == 1 && refused.stderr.contains("signing_key"), "{refused:?}");

        pki::make_key(key, &file);
        until("the new key is published beside the old one", || house.keys().len() == 2);
        until("and signs", || {
            let token = house.token("plain", CLIENT);
            part(&token["access_token"], 0)["kid"].as_str() != Some(&before[0])
        });
        until("and the old one goes", || house.keys().len() == 1 && house.keys() != before);
    }
}

#[test]
fn a_key_that_cannot_be_used_is_an_error_at_its_line() {
    let setup = Setup::new(Variant::Automatic);
    let file = setup.directory().join("signing.pem");
    std::fs::write(&file, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
    let house = House::start("");
    let bind = house.address();
    let more = format!(
        "token_endpoint: {{ bind: \"{bind}\", issuer: \"http://{bind}\", signing_key: \"{}\" }}\n",
        file.display()
    );
    let yaml = house.gateway.setup().yaml();
    let start = yaml.find("token_endpoint").unwrap();
    let told = house.gateway.apply(&(yaml[..start].to_owned() + &more));
    assert_eq!(told.code, 1, "{told:?}");
    let said = format!("{}{}", told.stdout, told.stderr);
    assert!(said.contains("Ed25519") && !said.contains("AAAA"), "{said}");
    house.token("plain", CLIENT);
}
