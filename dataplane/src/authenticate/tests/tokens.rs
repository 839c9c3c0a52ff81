//! Tokens: every algorithm, every fault, what they grant, and what is remembered of them.

use CredentialForm::{Bearer, QueryToken};

use super::*;

fn header(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn fault(tables: &Tables, token: &str) -> Fault {
    let (form, outcome, _) = ask_simply(tables, "/chat/v1/x", &[&header(token)]);
    assert_eq!(form, Some(Bearer));
    match outcome {
        Ok(identity) => panic!("{token} grants {identity:?}"),
        Err(fault) => fault,
    }
}

#[test]
fn every_algorithm_is_verified_by_a_key_of_its_kind() {
    let signers = [Signer::ed(), Signer::ec("P-256"), Signer::ec("P-384"), Signer::rsa()];
    let ids = ["ed", "p256", "p384", "rsa"];
    let keys: Vec<Value> = signers.iter().zip(ids).map(|(signer, id)| named(signer, id)).collect();
    let tables = World::new(&[Bearer], vec![issuer("test", ISSUER, &keys)]).tables(None);
    for (at, algorithms) in
        [&["EdDSA", "Ed25519"][..], &["ES256"], &["ES384"], &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]]
            .into_iter()
            .enumerate()
    {
        for algorithm in algorithms {
            let token = signers[at].token(algorithm, &json!({"kid": ids[at]}), &claims());
            let looked = ask_simply(&tables, "/chat/v1/x", &[&header(&token)]);
            assert_eq!(grant(&looked).user.as_deref(), Some("alice"), "{algorithm}");
            // The same token with another algorithm's name, and with a signature that is not its own.
            for other in
                ["EdDSA", "ES256", "ES384", "RS256", "PS512"].iter().filter(|other| !algorithms.contains(other))
            {
                let swapped = signers[at].token(other, &json!({"kid": ids[at]}), &claims());
                assert_eq!(fault(&tables, &swapped), Fault::Algorithm, "{algorithm} as {other}");
            }
            let (message, signature) = token.rsplit_once('.').unwrap();
            let mut octets = URL_SAFE_NO_PAD.decode(signature).unwrap();
            octets[7] ^= 1;
            assert_eq!(fault(&tables, &format!("{message}.{}", base64url(&octets))), Fault::Signature);
            assert_eq!(fault(&tables, &format!("{message}.{}", base64url(&octets[1..]))), Fault::Signature);
            assert_eq!(fault(&tables, &format!("{message}.")), Fault::Signature);
        }
    }
}

#[test]
fn the_key_that_a_token_names_is_the_one_that_counts() {
    let (first, second, rsa) = (Signer::ed(), Signer::ed(), Signer::rsa());
    let restricted = {
        let mut jwk = named(&rsa, "only-ps384");
        jwk["alg"] = "PS384".into();
        jwk
    };
    let keys = [named(&first, "1"), named(&second, "2"), restricted];
    let lonely = issuer("lonely", "https://lonely.example", &[first.jwk()]);
    let keyless = issuer("keyless", "https://keyless.example", &[]);
    let tables = World::new(&[Bearer], vec![issuer("test", ISSUER, &keys), lonely, keyless]).tables(None);
    assert_eq!(fault(&tables, &first.token("EdDSA", &json!({"kid": "2"}), &claims())), Fault::Signature);
    assert_eq!(fault(&tables, &first.token("EdDSA", &json!({"kid": "3"}), &claims())), Fault::UnknownKeyId);
    assert_eq!(fault(&tables, &first.token("EdDSA", &json!({"kid": ""}), &claims())), Fault::UnknownKeyId);
    assert_eq!(fault(&tables, &first.token("EdDSA", &json!({}), &claims())), Fault::UnknownKeyId, "one of two");
    assert_eq!(fault(&tables, &first.token("ES256", &json!({}), &claims())), Fault::Algorithm, "none fits");
    assert_eq!(fault(&tables, &rsa.token("RS256", &json!({"kid": "only-ps384"}), &claims())), Fault::Algorithm);
    let alone = |iss: &str| {
        let mut claims = claims();
        claims["iss"] = iss.into();
        first.token("EdDSA", &json!({}), &claims)
    };
    let token = alone("https://lonely.example");
    assert!(ask_simply(&tables, "/chat/v1/x", &[&header(&token)]).1.is_ok(), "the only one fits");
    assert_eq!(fault(&tables, &alone("https://keyless.example")), Fault::UnknownKeyId);
    assert_eq!(fault(&tables, &alone("https://lonely.example/")), Fault::Issuer, "compared whole");
    let alone = rsa.token("PS384", &json!({"kid": "only-ps384"}), &claims());
    assert!(ask_simply(&tables, "/chat/v1/x", &[&header(&alone)]).1.is_ok());
}

#[test]
fn keys_that_cannot_be_used_do_not_take_others_with_them() {
    let good = Signer::ec("P-256");
    let with = |mut jwk: Value, name: &str, value: Value| {
        jwk[name] = value;
        jwk
    };
    let keys = [
        json!(7),
        json!({}),
        json!({"kty": "oct", "k": "c2VjcmV0", "kid": "x"}),
        json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", "kid": "x"}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "x"}),
        with(named(&good, "x"), "x", "not base64!".into()),
        with(named(&good, "x"), "use", "enc".into()),
        with(named(&good, "x"), "key_ops", json!(["encrypt"])),
        with(named(&good, "x"), "alg", "RS256".into()),
        with(named(&good, "x"), "alg", "HS256".into()),
        with(named(&good, "good"), "use", "sig".into()),
    ];
    let tables = World::new(&[Bearer], vec![issuer("test", ISSUER, &keys)]).tables(None);
    let token = |id: &str| good.token("ES256", &json!({"kid": id}), &claims());
    assert_eq!(fault(&tables, &token("x")), Fault::UnknownKeyId);
    assert!(ask_simply(&tables, "/chat/v1/x", &[&header(&token("good"))]).1.is_ok());
    let broken = World::new(
        &[Bearer],
        vec![Issuer { jwks: Some(Jwks::Text("{\"keys\": 7}".into())), ..issuer("test", ISSUER, &[]) }],
    );
    assert_eq!(fault(&broken.tables(None), &token("good")), Fault::UnknownKeyId, "fails closed");
}

#[test]
fn what_is_no_token_is_malformed() {
    let signer = Signer::ed();
    let tables = World::new(&[Bearer], vec![issuer("test", ISSUER, &[named(&signer, "1")])]).tables(None);
    let raw = |header: &str, payload: &str| {
        let message = format!("{}.{}", base64url(header), base64url(payload));
        let signature = signer.sign("EdDSA", message.as_bytes());
        format!("{message}.{}", base64url(signature))
    };
    let head = r#"{"alg":"EdDSA","kid":"1"}"#;
    let good = claims().to_string();
    let sound = raw(head, &good);
    assert!(ask_simply(&tables, "/chat/v1/x", &[&header(&sound)]).1.is_ok());
    let deep = format!(r#"{{"iss":"{ISSUER}","x":{}1{}}}"#, "[".repeat(100), "]".repeat(100));
    let deep_header = format!(r#"{{"alg":"EdDSA","x":{}1{}}}"#, "[".repeat(20), "]".repeat(20));
    let long = format!(r#"{{"iss":"{ISSUER}","x":"{}"}}"#, "y".repeat(8 * 1024));
    let twice = good.replacen('{', r#"{"sub":"mallory","#, 1);
    let nested = good.replacen('{', r#"{"act":{"a":1,"a":2},"#, 1);
    let (message, signature) = sound.rsplit_once('.').unwrap();
    for (token, fault_of) in [
        ("x".to_owned(), Fault::Malformed),
        ("a.b".to_owned(), Fault::Malformed),
        ("..".to_owned(), Fault::Malformed),
        ("a.b.c".to_owned(), Fault::Malformed),
        (format!("{sound}.x"), Fault::Malformed),
        (format!("{message}.{signature}="), Fault::Malformed),
        (format!("{message}.{signature}+"), Fault::Malformed),
        (format!(".{}.{signature}", base64url(&good)), Fault::Malformed),
        (raw("null", &good), Fault::Malformed),
        (raw("[]", &good), Fault::Malformed),
        (raw("{}", &good), Fault::Malformed),
        (raw(r#"{"alg":7}"#, &good), Fault::Malformed),
        (raw(r#"{"alg":"EdDSA"} x"#, &good), Fault::Malformed),
        (raw(r#"{"alg":"EdDSA","kid":7}"#, &good), Fault::Malformed),
        (raw(r#"{"alg":"none","alg":"EdDSA","kid":"1"}"#, &good), Fault::Malformed),
        (raw(r#"{"alg":"EdDSA","kid":"1","crit":["exp"]}"#, &good), Fault::Malformed),
        (raw(r#"{"alg":"EdDSA","kid":"1","crit":[]}"#, &good), Fault::Malformed),
        (raw(r#"{"alg":"EdDSA","enc":"A128GCM"}"#, &good), Fault::Malformed),
        (raw(&deep_header, &good), Fault::Malformed),
        (raw(head, "{"), Fault::Malformed),
        (raw(head, "7"), Fault::Malformed),
        (raw(head, &deep), Fault::Malformed),
        (raw(head, &long), Fault::Malformed),
        (raw(head, &twice), Fault::Malformed),
        (raw(head, &nested), Fault::Malformed),
        (raw(r#"{"alg":"none"}"#, &good), Fault::Algorithm),
        (raw(r#"{"alg":"NONE"}"#, &good), Fault::Algorithm),
        (raw(r#"{"alg":"eddsa","kid":"1"}"#, &good), Fault::Algorithm),
        (raw(r#"{"alg":"","kid":"1"}"#, &good), Fault::Algorithm),
        (raw(r#"{"alg":"HS256","kid":"1"}"#, &good), Fault::Algorithm),
        (raw(head, "{}"), Fault::Issuer),
        (raw(head, r#"{"iss":"https://other.example"}"#), Fault::Issuer),
        (raw(head, r#"{"iss":["x"]}"#), Fault::Malformed),
        (raw(head, &format!(r#"{{"iss":"{ISSUER}"}}"#)), Fault::Malformed),
    ] {
        assert_eq!(fault(&tables, &token), fault_of, "{token}");
    }
    let (message, _) =
        raw(r#"{"alg":"none"}"#, &good).rsplit_once('.').map(|(one, two)| (one.to_owned(), two.to_owned())).unwrap();
    assert_eq!(fault(&tables, &format!("{message}.")), Fault::Algorithm, "unsecured, as RFC 7515 §A.5 has it");
}

#[test]
fn a_public_key_is_nobodys_secret() {
    let signer = Signer::rsa();
    let jwk = named(&signer, "1");
    let tables = World::new(&[Bearer], vec![issuer("test", ISSUER, std::slice::from_ref(&jwk))]).tables(None);
    let Signer::Rsa(pair) = &signer else { unreachable!() };
    for secret in [jwk.to_string().into_bytes(), pair.public().as_ref().to_vec()] {
        let head = json!({"alg": "HS256", "kid": "1"}).to_string();
        let message = format!("{}.{}", base64url(head), base64url(claims().to_string()));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
        let tag = ring::hmac::sign(&key, message.as_bytes());
        assert_eq!(fault(&tables, &format!("{message}.{}", base64url(tag))), Fault::Algorithm);
    }
}

#[test]
fn claims_decide_when_for_whom_and_for_what() {
    let signer = Signer::ed();
    let mut strict = issuer("test", ISSUER, &[named(&signer, "1")]);
    strict.audiences = vec!["us".into(), "us-too".into()];
    strict.clock_skew = proto::snapshot::Duration::from_secs(10);
    let tables = World::new(&[Bearer], vec![strict]).tables(None);
    let outcome = |changes: Value| {
        let mut claims = claims();
        claims["aud"] = "us".into();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => _ = claims.as_object_mut().unwrap().remove(name),
                value => claims[name] = value.clone(),
            }
        }
        let token = signer.token("EdDSA", &json!({"kid": "1"}), &claims);
        ask_simply(&tables, "/chat/v1/x", &[&header(&token)]).1.map(|_| ())
    };
    for (changes, expected) in [
        (json!({}), Ok(())),
        (json!({"exp": NOW_S - 9}), Ok(())),
        (json!({"exp": NOW_S - 10}), Err(Fault::Expired)),
        (json!({"exp": 0}), Err(Fault::Expired)),
        (json!({"exp": -1}), Err(Fault::Expired)),
        (json!({"exp": NOW_S as f64 + 0.5}), Ok(())),
        (json!({"exp": u64::MAX}), Ok(())),
        (json!({"exp": 1e300}), Ok(())),
        (json!({"exp": null}), Err(Fault::Malformed)),
        (json!({"exp": "1800000600"}), Err(Fault::Malformed)),
        (json!({"exp": [NOW_S + 1]}), Err(Fault::Malformed)),
        (json!({"nbf": NOW_S + 10}), Ok(())),
        (json!({"nbf": NOW_S + 11}), Err(Fault::NotYetValid)),
        (json!({"nbf": "soon"}), Err(Fault::Malformed)),
        (json!({"iat": NOW_S + 11}), Err(Fault::NotYetValid)),
        (json!({"iat": null}), Ok(())),
        (json!({"iat": true}), Err(Fault::Malformed)),
        (json!({"aud": "us-too"}), Ok(())),
        (json!({"aud": ["them", "us"]}), Ok(())),
        (json!({"aud": ["them"]}), Err(Fault::Audience)),
        (json!({"aud": []}), Err(Fault::Audience)),
        (json!({"aud": "US"}), Err(Fault::Audience)),
        (json!({"aud": null}), Err(Fault::Audience)),
        (json!({"aud": 7}), Err(Fault::Malformed)),
        (json!({"sub": 7}), Err(Fault::Malformed)),
        (json!({"sub": "x".repeat(1025)}), Err(Fault::Malformed)),
        (json!({"jti": 7}), Err(Fault::Malformed)),
        (json!({"client_id": ["x"]}), Err(Fault::Malformed)),
        (json!({"client_id": "unknown-client"}), Err(Fault::NotSubscribed)),
        (json!({"client_id": null, "azp": "mobile-client"}), Ok(())),
        (json!({"client_id": null}), Err(Fault::NotSubscribed)),
        (json!({"keytype": "sandbox"}), Ok(())),
        (json!({"keytype": "STAGING"}), Err(Fault::Malformed)),
        (json!({"scope": 7}), Err(Fault::Malformed)),
        (json!({"scope": ["a", 7]}), Err(Fault::Malformed)),
    ] {
        assert_eq!(outcome(changes.clone()), expected, "{changes}");
    }
}

#[test]
fn a_grant_says_what_the_token_said() {
    let signer = Signer::ed();
    let mut own = issuer("framegate", ISSUER, &[named(&signer, "1")]);
    own.clock_skew = proto::snapshot::Duration::from_secs(3);
    let mut world = World::new(&[Bearer], vec![own]);
    world.user(json!({"name": "alice"}));
    world.config.applications[0].clients[0].secret = Some(SecretHash::of("the client's"));
    let tables = world.tables(None);
    let token = |changes: Value| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        signer.token("EdDSA", &json!({"kid": "1"}), &claims)
    };
    let look = |changes: Value| ask_simply(&tables, "/chat/v1/x", &[&header(&token(changes))]);
    let looked = look(json!({"jti": "7/x", "scope": " read  write "}));
    let said = grant(&looked);
    assert_eq!(said.proof, Proof::Token { issuer: "framegate".into(), id: Some("framegate/7/x".into()) });
    assert_eq!((said.client.as_deref(), said.application.as_deref()), (Some("mobile-client"), Some("mobile")));
    assert_eq!((said.user.as_deref(), said.form), (Some("alice"), Bearer));
    assert_eq!((said.issued_s, said.expires_ms), (NOW_S - 5, (NOW_S + 603) * 1000));
    assert_eq!(said.environment, Some(Environment::Sandbox), "its client's");
    assert_eq!(said.scopes.iter().map(|one| &**one).collect::<Vec<_>>(), ["read", "write"]);
    let identity = looked.1.unwrap();
    assert_eq!(identity.claims.unwrap().0["scope"], " read  write ");
    let looked = look(json!({"sub": "mobile-client"}));
    assert_eq!(grant(&looked).user, None, "a client that has a token for itself is no user");
    let looked = look(json!({"keytype": "PRODUCTION", "scp": ["a", "b"]}));
    assert_eq!(grant(&looked).environment, Some(Environment::Production), "its own");
    assert_eq!(grant(&looked).scopes.len(), 2);
    assert_eq!(look(json!({"client_id": "removed-client"})).1.unwrap_err(), Fault::Unknown, "we gave it to nobody");
}

#[test]
fn only_issuers_that_the_api_accepts_are_believed() {
    let (ours, theirs) = (Signer::ed(), Signer::ed());
    let issuers =
        vec![issuer("ours", ISSUER, &[ours.jwk()]), issuer("theirs", "https://theirs.example", &[theirs.jwk()])];
    let mut world = World::new(&[Bearer], issuers);
    world.asked().issuers = vec!["ours".into()];
    let tables = world.tables(None);
    let mut claims = claims();
    assert!(ask_simply(&tables, "/chat/v1/x", &[&header(&ours.token("EdDSA", &json!({}), &claims))]).1.is_ok());
    claims["iss"] = "https://theirs.example".into();
    assert_eq!(fault(&tables, &theirs.token("EdDSA", &json!({}), &claims)), Fault::Issuer);
}

#[test]
fn no_issuer_speaks_for_the_client_of_another() {
    let (ours, theirs) = (Signer::ed(), Signer::ed());
    let issuers =
        vec![issuer("ours", ISSUER, &[ours.jwk()]), issuer("theirs", "https://theirs.example", &[theirs.jwk()])];
    let mut world = World::new(&[Bearer], issuers);
    let from = |signer: &Signer, iss: &str| {
        let mut claims = claims();
        claims["iss"] = iss.into();
        header(&signer.token("EdDSA", &json!({}), &claims))
    };
    let both = [from(&ours, ISSUER), from(&theirs, "https://theirs.example")];
    let asked = |tables: &Tables| both.each_ref().map(|token| ask_simply(tables, "/chat/v1/x", &[token]).1.map(|_| ()));
    assert_eq!(asked(&world.tables(None)), [Ok(()), Ok(())], "nobody says whose the client is");
    world.config.applications[0].clients[0].issuer = "theirs".into();
    assert_eq!(asked(&world.tables(None)), [Err(Fault::Issuer), Ok(())]);
    world.config.applications[0].clients[0].issuer = String::new();
    world.config.applications[0].clients[0].secret = Some(SecretHash::of("the client's"));
    assert_eq!(asked(&world.tables(None)), [Err(Fault::Issuer), Err(Fault::Issuer)], "the gateway issues it tokens");
}

#[test]
fn the_topics_scopes_are_asked_of_the_token() {
    let signer = Signer::ed();
    let mut world = World::new(&[Bearer], vec![issuer("test", ISSUER, &[signer.jwk()])]);
    world.scopes(&["admin", "root"]);
    let tables = world.tables(None);
    for (scope, expected) in
        [("admin", Ok(())), ("x root", Ok(())), ("", Err(Fault::Scope)), ("administrator Admin", Err(Fault::Scope))]
    {
        let mut claims = claims();
        claims["scope"] = scope.into();
        let token = signer.token("EdDSA", &json!({}), &claims);
        assert_eq!(ask_simply(&tables, "/chat/v1/x", &[&header(&token)]).1.map(|_| ()), expected, "{scope:?}");
    }
}

#[test]
fn a_token_that_was_verified_is_remembered_as_long_as_its_issuer_and_client_are_the_same() {
    let signer = Signer::ed();
    let mut world = World::new(&[Bearer, QueryToken], vec![issuer("test", ISSUER, &[signer.jwk()])]);
    let tables = world.tables(None);
    let token = signer.token("EdDSA", &json!({}), &claims());
    let verified = RefCell::default();
    let look = |tables: &Tables, now_s: u64| {
        ask(tables, &Caller { now_s, ..somebody(&verified) }, "/chat/v1/x", &[&header(&token)], &[]).1
    };
    let same =
        |one: &Identity, other: &Identity| Arc::ptr_eq(one.grant.as_ref().unwrap(), other.grant.as_ref().unwrap());
    let first = look(&tables, NOW_S).unwrap();
    assert!(same(&first, &look(&tables, NOW_S + 1).unwrap()), "sessions of one token share a grant");
    let other_form = format!("/chat/v1/x?access_token={token}");
    let queried = ask(&tables, &somebody(&verified), &other_form, &[], &[]).1.unwrap();
    assert_eq!(queried.grant.as_ref().unwrap().form, QueryToken, "a grant says in which form it came");
    assert_eq!(look(&tables, NOW_S + 600).unwrap_err(), Fault::Expired);

    let unchanged = world.tables(Some(&tables));
    let again = look(&unchanged, NOW_S).unwrap();
    assert!(same(&again, &look(&tables, NOW_S).unwrap()), "an issuer that says the same is the same");

    world.config.applications[0].clients[0].environment = Environment::Production;
    let moved = world.tables(Some(&unchanged));
    let followed = look(&moved, NOW_S).unwrap();
    assert_eq!(followed.grant.as_ref().unwrap().environment, Some(Environment::Production));
    assert!(!same(&again, &followed));

    world.asked().issuers = vec!["other".into()];
    world.config.issuers.push(issuer("other", "https://other.example", &[]));
    assert_eq!(look(&world.tables(Some(&moved)), NOW_S).unwrap_err(), Fault::Issuer, "no more at this API");
    world.asked().issuers.clear();

    world.config.revocations = vec![serde_json::from_value(json!({"revoked": "user:alice"})).unwrap()];
    assert_eq!(look(&world.tables(Some(&moved)), NOW_S).unwrap_err(), Fault::Revoked);
    world.config.revocations.clear();

    world.config.issuers[0] = issuer("test", ISSUER, &[Signer::ed().jwk()]);
    assert_eq!(look(&world.tables(Some(&moved)), NOW_S).unwrap_err(), Fault::Signature, "the key is gone");
    world.config.issuers.remove(0);
    assert_eq!(look(&world.tables(Some(&moved)), NOW_S).unwrap_err(), Fault::Issuer, "the issuer is gone");
}
