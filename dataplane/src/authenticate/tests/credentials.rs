//! API keys and certificates: what they grant, and where they are good.

use CredentialForm::{ApiKey as Key, Bearer, ClientCertificate as Certificate};

use super::*;

#[test]
fn a_key_grants_what_it_says_until_it_expires() {
    let mut world = World::new(&[Bearer, Key], Vec::new());
    world.key(
        "secret",
        json!({"user": "alice", "environment": "sandbox", "created": "2027-01-01T00:00:00Z",
        "expires": "2027-01-15T08:00:01Z", "restrictions": {"scopes": ["read"]}}),
    );
    let tables = world.tables(None);
    let looked = ask_simply(&tables, "/chat/v1/x", &["apikey: secret"]);
    let said = grant(&looked);
    assert_eq!((looked.0, said.form, &said.proof), (Some(Key), Key, &Proof::Key(SecretHash::of("secret"))));
    assert_eq!((said.application.as_deref(), said.user.as_deref()), (Some("mobile"), Some("alice")));
    assert_eq!((said.environment, said.expires_ms), (Some(Environment::Sandbox), (NOW_S + 1) * 1000));
    assert_eq!((said.issued_s, said.scopes.len()), (1_798_761_600, 1));
    let verified = RefCell::default();
    let later = Caller { now_s: NOW_S + 1, ..somebody(&verified) };
    assert_eq!(ask(&tables, &later, "/chat/v1/x", &["apikey: secret"], &[]).1.unwrap_err(), Fault::Expired);
    assert_eq!(ask_simply(&tables, "/chat/v1/x", &["apikey: other"]).1.unwrap_err(), Fault::Unknown);
    assert_eq!(ask_simply(&tables, "/chat/v1/x", &[]).1.unwrap_err(), Fault::Absent);
}

#[test]
fn a_key_that_does_not_say_when_it_was_made_is_reached_by_every_revocation() {
    let mut world = World::new(&[Key], Vec::new());
    world.key("secret", json!({}));
    let revocation = json!({"revoked": "key:k", "issued_before": "2000-01-01T00:00:00Z"});
    world.config.revocations = vec![serde_json::from_value(revocation).unwrap()];
    let looked = ask_simply(&world.tables(None), "/chat/v1/x", &["apikey: secret"]);
    assert_eq!(looked.1.unwrap_err(), Fault::Revoked);
}

#[test]
fn a_key_is_good_where_it_may_be_used() {
    let mut world = World::new(&[Key], Vec::new());
    let restrictions =
        json!({"addresses": ["192.0.2.0/24"], "referrers": ["https://app.example/*", "https://x.example"]});
    world.key("secret", json!({ "restrictions": restrictions }));
    let tables = world.tables(None);
    let verified = RefCell::default();
    for (address, lines, expected) in [
        ("192.0.2.7", &["Referer: https://app.example/page"][..], Ok(())),
        ("::ffff:192.0.2.7", &["Referer: https://app.example/page"], Ok(())),
        ("192.0.3.7", &["Referer: https://app.example/page"], Err(Fault::Address)),
        ("192.0.2.7", &["Origin: https://x.example"], Ok(())),
        ("192.0.2.7", &["Origin: https://x.example.evil"], Err(Fault::Referrer)),
        ("192.0.2.7", &["Referer: https://evil/?https://app.example/"], Err(Fault::Referrer)),
        ("192.0.2.7", &["Referer: https://evil/", "Origin: https://x.example"], Err(Fault::Referrer)),
        ("192.0.2.7", &["Origin: https://x.example", "Origin: https://x.example"], Err(Fault::Referrer)),
        ("192.0.2.7", &[], Err(Fault::Referrer)),
    ] {
        let caller = Caller { address: address.parse().unwrap(), ..somebody(&verified) };
        let lines = [lines, &["apikey: secret"]].concat();
        let outcome = ask(&tables, &caller, "/chat/v1/x", &lines, &[]).1;
        assert_eq!(outcome.map(|_| ()), expected, "{address} {lines:?}");
    }
}

#[test]
fn a_certificate_is_whose_subject_it_has_until_it_expires() {
    let mut world = World::new(&[Certificate], Vec::new());
    let subject = "CN=alice,O=Example";
    world.user(json!({"name": "alice", "certificates": [subject], "application": "mobile", "scopes": ["read"]}));
    let tables = world.tables(None);
    let verified = RefCell::default();
    let outcome = |subject: &str, now_s: u64| {
        let certificate =
            ClientCertificate { subject: subject.into(), not_after: NOW_S as i64 + 60, ..Default::default() };
        let caller = Caller { certificate: Some(&certificate), now_s, ..somebody(&verified) };
        ask(&tables, &caller, "/chat/v1/x", &[], &[])
    };
    let looked = outcome(subject, NOW_S);
    let said = grant(&looked);
    let proof = Proof::Certificate { subject: subject.into() };
    assert_eq!((said.form, &said.proof, said.user.as_deref()), (Certificate, &proof, Some("alice")));
    assert_eq!((said.issued_s, said.expires_ms), (NOW_S, (NOW_S + 60) * 1000));
    assert_eq!(outcome(subject, NOW_S + 60).1.unwrap_err(), Fault::Expired);
    assert_eq!(outcome("CN=alice", NOW_S).1.unwrap_err(), Fault::Unknown);
    assert_eq!(outcome("", NOW_S).1.unwrap_err(), Fault::Unknown);
    assert_eq!(ask_simply(&tables, "/chat/v1/x", &[]).1.unwrap_err(), Fault::Absent);
}

#[test]
fn what_is_off_or_not_subscribed_is_let_in_nowhere() {
    let mut world = World::new(&[Key], Vec::new());
    world.key("secret", json!({}));
    let outcome = |world: &World| ask_simply(&world.tables(None), "/chat/v1/x", &["apikey: secret"]).1.map(|_| ());
    assert_eq!(outcome(&world), Ok(()));
    world.config.subscriptions.clear();
    assert_eq!(outcome(&world), Err(Fault::NotSubscribed));
    world.asked().require_subscription = false;
    assert_eq!(outcome(&world), Ok(()));
    world.config.keys[0].environment = Environment::Sandbox;
    assert_eq!(outcome(&world), Ok(()));
    let sandbox = world.config.apis[0].endpoints.sandbox.take();
    assert_eq!(outcome(&world), Err(Fault::KeyType));
    world.config.apis[0].endpoints.sandbox = sandbox;
    world.config.applications[0].enabled = false;
    assert_eq!(outcome(&world), Err(Fault::Disabled));
    world.config.applications[0].enabled = true;
    world.config.keys[0].enabled = false;
    assert_eq!(outcome(&world), Err(Fault::Disabled));
}

#[test]
fn challenges_say_what_could_be_presented_and_what_was_wrong() {
    use crate::refusal::Refusal;
    let failed = |form| Failed { form, scopes: vec!["admin".to_owned(), "root".to_owned()].into() };
    let of = |accept: &[CredentialForm], refusal, form| {
        let tables = World::new(accept, Vec::new()).tables(None);
        let api = tables.api("chat", "v1").unwrap();
        challenge::challenges(api, refusal, Some(&failed(form))).join(" | ")
    };
    let basic = r#"Basic realm="chat:v1", charset="UTF-8""#;
    let bearer = r#"Bearer realm="chat:v1""#;
    let both = [Bearer, CredentialForm::Basic];
    for (accept, refusal, form, expected) in [
        (&[Bearer][..], Refusal::NoCredentials, None, bearer.to_owned()),
        (&[Bearer], Refusal::BadCredentials, Some(Bearer), format!(r#"{bearer}, error="invalid_token""#)),
        (&[Bearer], Refusal::KeyType, Some(Bearer), format!(r#"{bearer}, error="invalid_token""#)),
        (&[Bearer], Refusal::CredentialsUnverified, Some(Bearer), bearer.to_owned()),
        (
            &[Bearer],
            Refusal::Scope,
            Some(Bearer),
            format!(r#"{bearer}, error="insufficient_scope", scope="admin root""#),
        ),
        (&[Bearer], Refusal::NotSubscribed, Some(Bearer), String::new()),
        (&[Bearer], Refusal::NoApi, None, String::new()),
        (&[CredentialForm::Basic], Refusal::NoCredentials, None, basic.to_owned()),
        (&both, Refusal::NoCredentials, None, format!("{bearer} | {basic}")),
        (&both, Refusal::BadCredentials, Some(CredentialForm::Basic), format!("{bearer} | {basic}")),
        (&both, Refusal::BadCredentials, Some(Bearer), format!(r#"{bearer}, error="invalid_token" | {basic}"#)),
        (&[], Refusal::BadCredentials, None, String::new()),
    ] {
        assert_eq!(of(accept, refusal, form), expected, "{accept:?} {refusal:?}");
    }
}

#[test]
fn the_cache_of_tokens_stays_within_its_bounds_and_keeps_what_is_used() {
    use proto::limits::{VERIFIED_TOKENS_BYTES_MAX, VERIFIED_TOKENS_MAX};
    let believed = Arc::new(Believed::new(issuer("test", ISSUER, &[]), &crate::tls::Terms::default()));
    let entry = || Entry { identity: Identity::default(), issuer: Arc::clone(&believed), client: None };
    let key = |number: usize| (SecretHash::of(&number.to_string()), Bearer);
    let mut verified = Verified::default();
    for number in 0..VERIFIED_TOKENS_MAX + 5000 {
        verified.keep(key(number), entry(), 600);
        assert!(verified.find(&key(0)).is_some(), "what is used stays: {number}");
    }
    let count = |verified: &mut Verified, numbers: usize| {
        (0..numbers).filter(|number| verified.find(&key(*number)).is_some()).count()
    };
    assert_eq!(count(&mut verified, VERIFIED_TOKENS_MAX + 5000), VERIFIED_TOKENS_MAX);
    for number in 0..VERIFIED_TOKENS_MAX {
        verified.keep(key(number), entry(), 8 * 1024);
    }
    assert!(count(&mut verified, VERIFIED_TOKENS_MAX) <= VERIFIED_TOKENS_BYTES_MAX / (4 * 8 * 1024));
    let last = key(VERIFIED_TOKENS_MAX - 1);
    assert!(verified.find(&last).is_some());
    verified.forget(&last);
    verified.forget(&last);
    assert!(verified.find(&last).is_none());
}
