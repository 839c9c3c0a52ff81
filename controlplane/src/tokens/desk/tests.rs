//! The desk with a catalogue that a test fills, and clocks that it sets.

use std::collections::HashMap;

use argon2::{Algorithm, Params, Version};
use proto::snapshot::{Config, PasswordHash, SigningAlgorithm, TokenEndpoint};

use super::super::keyring::Rotation;
use super::super::limit::{FAILURES_MAX, WINDOW};
use super::super::{Catalogue, RevokeError};
use super::*;

const ISSUER: &str = "https://gateway.test";
/// In November 2026.
const T0: u64 = 1_795_000_000;

#[derive(Default)]
struct Shelf {
    clients: HashMap<String, Client>,
    users: HashMap<String, User>,
    disabled: Mutex<Vec<String>>,
    revoked: Mutex<Vec<Revocation>>,
    is_full: Mutex<bool>,
}

impl Catalogue for Shelf {
    fn client(&self, id: &str) -> Option<Client> {
        self.clients.get(id).cloned()
    }
    fn is_enabled(&self, application: &str) -> bool {
        !self.disabled.lock().unwrap().iter().any(|one| one == application)
    }
    fn user(&self, name: &str) -> Option<User> {
        let mut user = self.users.get(name).cloned()?;
        user.enabled = !self.disabled.lock().unwrap().iter().any(|one| one == name);
        Some(user)
    }
    fn revocation(&self, kind: RevokedKind, subject: &str) -> Option<Revocation> {
        let revoked = Revoked { kind, subject: subject.into() };
        self.revoked.lock().unwrap().iter().find(|one| one.revoked == revoked).cloned()
    }
    fn revoke(&self, revocations: Vec<Revocation>) -> Result<(), RevokeError> {
        if *self.is_full.lock().unwrap() {
            return Err(RevokeError::Full);
        }
        self.revoked.lock().unwrap().extend(revocations);
        Ok(())
    }
}

struct House {
    desk: Desk,
    shelf: Arc<Shelf>,
    terms: Terms,
    start: Instant,
    _directory: tempfile::TempDir,
}

fn client(id: &str, members: &str) -> (String, Client) {
    let hash = SecretHash::of(&format!("{id}-secret"));
    let text = format!("{{\"id\":\"{id}\",\"secret\":\"{hash}\"{members}}}");
    let client = serde_json::from_str(&text).unwrap();
    (id.to_owned(), Client { application: "shop".into(), client })
}

fn house() -> House {
    let all = r#","scopes":["read","write"],"grants":["client_credentials","refresh_token","password"]"#;
    let clients = HashMap::from([
        client("mobile", all),
        client("other", all),
        client("plain", r#","scopes":["read"],"environment":"sandbox""#),
    ]);
    // Of the cheapest kind that there is.
    let cheap = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, None).unwrap());
    let hash = cheap.hash_password(b"wonder").unwrap().to_string();
    let mut alice: User = serde_json::from_str(r#"{"name":"alice","scopes":["read","admin"]}"#).unwrap();
    alice.password = Some(PasswordHash(hash));
    let nobody: User = serde_json::from_str(r#"{"name":"bob"}"#).unwrap();
    let users = HashMap::from([("alice".to_owned(), alice), ("bob".to_owned(), nobody)]);
    let shelf = Arc::new(Shelf { clients, users, ..Shelf::default() });
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(directory.path()).unwrap());
    let endpoint: TokenEndpoint =
        serde_json::from_str(&format!(r#"{{"bind":"127.0.0.1:1","issuer":"{ISSUER}"}}"#)).unwrap();
    let terms = Terms::of(&Config { token_endpoint: Some(endpoint), ..Config::default() }).unwrap();
    let mut ring = Keyring::default();
    ring.step(&terms.rotation().unwrap(), T0 * 1000, &SystemRandom::new()).unwrap();
    let catalogue = Arc::clone(&shelf) as Arc<dyn Catalogue>;
    House { desk: Desk::new(catalogue, store, ring), shelf, terms, start: Instant::now(), _directory: directory }
}

impl House {
    fn now(&self, after_s: u64) -> Now {
        let after = Duration::from_secs(after_s);
        Now { wall: UNIX_EPOCH + Duration::from_secs(T0) + after, steady: self.start + after }
    }

    /// As the client of this id would post it.
    fn asked(id: &str, form: &str) -> Asked {
        let form = format!("client_id={id}&client_secret={id}-secret&{form}");
        Asked { form: Form::parse(form.as_bytes()).unwrap(), authorization: None, source: "192.0.2.1".into() }
    }

    fn token(&self, id: &str, form: &str, after_s: u64) -> Answer {
        self.desk.token(&Self::asked(id, form), &self.terms, self.now(after_s))
    }

    #[track_caller]
    fn refused(&self, id: &str, form: &str, after_s: u64) -> &'static str {
        self.token(id, form, after_s).unwrap_err().word.text()
    }

    fn introspect(&self, id: &str, token: &Value, after_s: u64) -> Value {
        let form = format!("token={}", token.as_str().unwrap());
        self.desk.introspect(&Self::asked(id, &form), &self.terms, self.now(after_s)).unwrap()
    }

    fn is_active(&self, token: &Value, after_s: u64) -> bool {
        self.introspect("mobile", token, after_s)["active"].as_bool().unwrap()
    }

    fn revoke(&self, id: &str, token: &Value) -> Result<(), Refusal> {
        self.revoke_at(id, token, 1)
    }

    fn revoke_at(&self, id: &str, token: &Value, after_s: u64) -> Result<(), Refusal> {
        let form = format!("token={}", token.as_str().unwrap());
        self.desk.revoke(&Self::asked(id, &form), &self.terms, self.now(after_s))
    }
}

/// The form that uses an answer's refresh token.
fn refresh(answer: &Value) -> String {
    format!("grant_type=refresh_token&refresh_token={}", answer["refresh_token"].as_str().unwrap())
}

const PASSWORD: &str = "grant_type=password&username=alice&password=wonder";

#[test]
fn a_token_says_what_rfc_9068_asks_for() {
    let house = house();
    let answer = house.token("plain", "grant_type=client_credentials", 0).unwrap();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["expires_in"], 3600);
    assert!(answer.get("refresh_token").is_none(), "{answer}");
    let jws = Jws::read(answer["access_token"].as_str().unwrap()).unwrap();
    assert_eq!(jws.said("typ"), Some("at+jwt"));
    assert_eq!(jws.said("alg"), Some("EdDSA"));
    assert!(jws.is_signed_by(&house.desk.keyring().published().keys));
    let jti = jws.claims["jti"].as_str().unwrap();
    assert_eq!(jti.len(), 22, "128 bits");
    let wanted = json!({
        "iss": ISSUER, "sub": "plain", "aud": ISSUER, "iat": T0, "exp": T0 + 3600, "jti": jti,
        "client_id": "plain", "scope": "read", "keytype": "SANDBOX", "application": "shop",
    });
    assert_eq!(Value::Object(jws.claims), wanted);
}

#[test]
fn every_algorithm_signs_what_its_public_key_checks() {
    for algorithm in [SigningAlgorithm::EdDsa, SigningAlgorithm::Es256] {
        let house = house();
        let wanted = Rotation { algorithm, given: None, every_ms: 1_000_000, lifetime_ms: 1000 };
        let mut ring = Keyring::default();
        ring.step(&wanted, T0 * 1000, &SystemRandom::new()).unwrap();
        let public = ring.published();
        house.desk.use_keyring(ring);
        let answer = house.token("plain", "grant_type=client_credentials", 0).unwrap();
        let token = answer["access_token"].as_str().unwrap();
        assert!(Jws::read(token).unwrap().is_signed_by(&public.keys), "{algorithm:?}");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let other = BASE64.encode(json!({ "sub": "root" }).to_string());
        let none = BASE64.encode(r#"{"alg":"none"}"#);
        for forged in [
            format!("{header}.{other}.{signature}"),
            format!("{none}.{claims}."),
            format!("{none}.{claims}.{signature}"),
            format!("{header}.{claims}.{}", BASE64.encode([0; 64])),
        ] {
            assert!(!Jws::read(&forged).is_some_and(|jws| jws.is_signed_by(&public.keys)), "{forged}");
            assert!(!house.is_active(&forged.into(), 1));
        }
    }
}

#[test]
fn scopes_are_those_of_the_client_and_of_the_user() {
    let house = house();
    let scope = |form: &str| house.token("mobile", form, 0).map(|answer| answer["scope"].as_str().unwrap().to_owned());
    let client = "grant_type=client_credentials";
    assert_eq!(scope(client).unwrap(), "read write");
    assert_eq!(scope(&format!("{client}&scope=write")).unwrap(), "write");
    assert_eq!(scope(&format!("{client}&scope=write+read+write")).unwrap(), "read write");
    assert_eq!(scope(&format!("{client}&scope=admin")).unwrap_err().word, Word::InvalidScope);
    assert_eq!(scope(PASSWORD).unwrap(), "read", "the client may write, alice may not; alice is admin, the client not");
    for beyond in ["write", "admin", "read+write"] {
        assert_eq!(scope(&format!("{PASSWORD}&scope={beyond}")).unwrap_err().word, Word::InvalidScope);
    }
}

#[test]
fn every_refusal_of_rfc_6749_has_its_case() {
    let house = house();
    let client = "grant_type=client_credentials";
    assert_eq!(house.refused("mobile", "", 0), "invalid_request");
    assert_eq!(house.refused("mobile", "grant_type=password", 0), "invalid_request");
    assert_eq!(house.refused("mobile", "grant_type=refresh_token", 0), "invalid_request");
    assert_eq!(house.refused("mobile", "grant_type=authorization_code", 0), "unsupported_grant_type");
    assert_eq!(house.refused("plain", PASSWORD, 0), "unauthorized_client");
    assert_eq!(house.refused("nobody", client, 0), "invalid_client");
    assert_eq!(house.refused("mobile", "grant_type=refresh_token&refresh_token=fgr_x", 0), "invalid_grant");
    for wrong in ["username=alice&password=x", "username=x&password=wonder", "username=bob&password=nobody"] {
        assert_eq!(house.refused("mobile", &format!("grant_type=password&{wrong}"), 0), "invalid_grant", "{wrong}");
    }
    let form = Form::parse(b"grant_type=client_credentials&client_id=mobile&client_secret=wrong").unwrap();
    let asked = Asked { form, authorization: None, source: String::new() };
    assert_eq!(house.desk.token(&asked, &house.terms, house.now(0)).unwrap_err().word, Word::InvalidClient);
    house.shelf.disabled.lock().unwrap().push("alice".into());
    assert_eq!(house.refused("mobile", PASSWORD, 0), "invalid_grant");
    house.shelf.disabled.lock().unwrap().push("shop".into());
    assert_eq!(house.refused("mobile", client, 0), "unauthorized_client");
}

#[test]
fn who_guesses_too_often_waits_and_nobody_else() {
    let house = house();
    let wrong = "grant_type=password&username=alice&password=x";
    for _ in 0..FAILURES_MAX {
        assert_eq!(house.refused("mobile", wrong, 0), "invalid_grant");
    }
    let refusal = house.token("mobile", PASSWORD, 20).unwrap_err();
    assert_eq!((refusal.word.text(), refusal.word.status()), ("slow_down", 429));
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(41)));
    assert!(house.token("other", PASSWORD, 20).is_ok(), "who proves to be another client is not kept waiting");
    assert!(house.token("mobile", PASSWORD, WINDOW.as_secs()).is_ok());

    for _ in 0..FAILURES_MAX {
        let form = Form::parse(b"client_id=plain&client_secret=x").unwrap();
        let asked = Asked { form, authorization: None, source: "192.0.2.1".into() };
        assert_eq!(house.desk.token(&asked, &house.terms, house.now(0)).unwrap_err().word, Word::InvalidClient);
    }
    let client = "grant_type=client_credentials";
    assert_eq!(house.refused("plain", client, 1), "slow_down");
    let elsewhere = Asked { source: "192.0.2.2".into(), ..House::asked("plain", client) };
    assert!(house.desk.token(&elsewhere, &house.terms, house.now(1)).is_ok());
}

#[test]
fn a_refresh_token_is_replaced_when_it_is_used_and_two_users_of_one_lose_everything() {
    let house = house();
    let first = house.token("mobile", PASSWORD, 0).unwrap();
    assert_eq!(house.refused("other", &refresh(&first), 1), "invalid_grant", "it is another's");
    let second = house.token("mobile", &refresh(&first), 1).unwrap();
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    assert_eq!(second["scope"], "read");
    let claims = Jws::read(second["access_token"].as_str().unwrap()).unwrap().claims;
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("alice"), &json!("mobile")));
    assert_eq!(house.refused("mobile", &format!("{}&scope=write", refresh(&second)), 2), "invalid_scope");
    assert!(house.is_active(&first["access_token"], 3) && house.is_active(&second["access_token"], 3));

    assert_eq!(house.refused("mobile", &refresh(&first), 4), "invalid_grant", "it was used");
    assert_eq!(house.refused("mobile", &refresh(&second), 5), "invalid_grant", "and so the other one is gone too");
    assert!(!house.is_active(&first["access_token"], 6) && !house.is_active(&second["access_token"], 6));
    let revoked = house.shelf.revoked.lock().unwrap();
    assert!(revoked.iter().all(|one| one.revoked.to_string().starts_with("token:framegate/")));
    let last = revoked.iter().filter_map(|one| one.expires).max();
    assert_eq!(last, Some(Timestamp::from_secs(T0 + 3601)), "each until it would have run out");
}

#[test]
fn a_refresh_token_ends_with_its_time_its_user_and_what_is_revoked() {
    let house = house();
    let answer = house.token("mobile", PASSWORD, 0).unwrap();
    let form = refresh(&answer);
    assert_eq!(house.refused("mobile", &form, 86_400), "invalid_grant");
    house.shelf.disabled.lock().unwrap().push("alice".into());
    assert_eq!(house.refused("mobile", &form, 1), "invalid_grant");
    house.shelf.disabled.lock().unwrap().clear();
    let revocation = |text: &str| serde_json::from_str::<Revocation>(text).unwrap();
    let before = Timestamp::from_secs(T0 + 10);
    let text = format!(r#"{{"revoked":"user:alice","issued_before":"{before}"}}"#);
    house.shelf.revoke(vec![revocation(&text)]).unwrap();
    assert_eq!(house.refused("mobile", &form, 20), "invalid_grant");
    assert!(!house.is_active(&answer["access_token"], 20));
    let again = house.token("mobile", PASSWORD, 20).unwrap();
    assert!(house.is_active(&again["access_token"], 20), "what came after is not meant");
    house.shelf.revoke(vec![revocation(r#"{"revoked":"client:mobile"}"#)]).unwrap();
    assert_eq!(house.refused("mobile", PASSWORD, 20), "unauthorized_client");
    assert!(!house.introspect("other", &again["access_token"], 20)["active"].as_bool().unwrap());
}

#[test]
fn a_revoked_token_is_a_revocation_until_it_would_have_run_out() {
    let house = house();
    let answer = house.token("mobile", PASSWORD, 0).unwrap();
    let (access, refresh) = (&answer["access_token"], &answer["refresh_token"]);
    for token in [access, refresh] {
        assert_eq!(house.revoke("other", token).unwrap_err().word, Word::InvalidGrant);
    }
    house.revoke("mobile", access).unwrap();
    assert!(!house.is_active(access, 2));
    assert!(house.is_active(refresh, 2));
    house.revoke("mobile", refresh).unwrap();
    assert!(!house.is_active(refresh, 2));
    for unknown in ["x", "fgr_x", "a.b.c", "e30.e30.AA"] {
        house.revoke("mobile", &unknown.into()).unwrap();
    }
    let revoked = house.shelf.revoked.lock().unwrap().len();
    house.revoke("mobile", refresh).unwrap();
    assert_eq!(house.shelf.revoked.lock().unwrap().len(), revoked);
}

#[test]
fn who_revokes_too_much_waits_and_nobody_else() {
    let house = house();
    let client = "grant_type=client_credentials";
    let token = house.token("mobile", client, 0).unwrap();
    house.revoke("mobile", &token["access_token"]).unwrap();
    // What is revoked already is not counted, nor what was never good.
    for _ in 0..REVOCATIONS_PER_MINUTE_MAX {
        house.revoke("mobile", &token["access_token"]).unwrap();
        house.revoke("mobile", &"x".into()).unwrap();
    }
    for _ in 1..REVOCATIONS_PER_MINUTE_MAX {
        let id = SecretHash::of(&house.shelf.revoked.lock().unwrap().len().to_string()).to_string();
        let who = counted("revoke", &["mobile"]);
        house.desk.revoke_access(vec![AccessToken { id, expires_s: T0 + 9 }], "", who, house.now(1)).unwrap();
    }
    let (one, others) = (house.token("mobile", client, 1).unwrap(), house.token("other", PASSWORD, 1).unwrap());
    for member in ["access_token", "refresh_token"] {
        let refusal = house.revoke("mobile", &one[member]).unwrap_err();
        assert_eq!((refusal.word.text(), refusal.word.status()), ("slow_down", 429));
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(61)));
        assert!(house.is_active(&one["access_token"], 2), "it is still good");
        assert_eq!(refusal.description.contains("the grant has ended"), member == "refresh_token");
        assert_eq!(house.is_active(&one["refresh_token"], 2), member == "access_token");
    }
    house.revoke("other", &others["refresh_token"]).unwrap();
    let another = house.token("mobile", client, 2).unwrap();
    house.token("mobile", &refresh(&another), 2).unwrap();
    house.revoke_at("mobile", &one["refresh_token"], 61).unwrap();
    assert!(!house.is_active(&one["access_token"], 62));
}

#[test]
fn what_a_client_revokes_in_a_minute_is_never_more_than_it_may() {
    let house = house();
    let first = house.token("mobile", PASSWORD, 0).unwrap();
    let second = house.token("mobile", &refresh(&first), 0).unwrap();
    let token = |at: u32| AccessToken { id: at.to_string(), expires_s: T0 + 9 };
    let all_but_one = (1..REVOCATIONS_PER_MINUTE_MAX).map(token).collect();
    house.desk.revoke_access(all_but_one, "", counted("revoke", &["mobile"]), house.now(1)).unwrap();
    let count = || house.shelf.revoked.lock().unwrap().len();
    assert_eq!(house.revoke("mobile", &second["refresh_token"]).unwrap_err().word, Word::SlowDown, "they are two");
    assert_eq!(count(), REVOCATIONS_PER_MINUTE_MAX as usize - 1);
    house.revoke("mobile", &second["access_token"]).unwrap();
    assert_eq!(house.revoke("mobile", &first["access_token"]).unwrap_err().word, Word::SlowDown);
    assert_eq!(count(), REVOCATIONS_PER_MINUTE_MAX as usize);
}

#[test]
fn one_users_refresh_tokens_that_are_used_twice_stop_nobody_elses() {
    let house = house();
    let others = house.token("mobile", PASSWORD, 0).unwrap();
    // The client itself is that user: two grants, of each some three hundred tokens.
    let client = "grant_type=client_credentials";
    let mut last = Value::Null;
    for grant in 0..2 {
        let first = house.token("mobile", client, 0).unwrap();
        last = house.token("mobile", &refresh(&first), 0).unwrap();
        for _ in 2..=REVOCATIONS_PER_MINUTE_MAX / 2 {
            last = house.token("mobile", &refresh(&last), 0).unwrap();
        }
        let refused = house.refused("mobile", &refresh(&first), 1);
        assert_eq!(refused, if grant == 0 { "invalid_grant" } else { "slow_down" });
    }
    assert!(house.is_active(&last["access_token"], 1), "there was no room for it");
    assert_eq!(house.refused("mobile", &refresh(&last), 1), "slow_down", "and nothing more comes of it");
    let fresh = house.token("mobile", client, 1).unwrap();
    house.token("mobile", &refresh(&fresh), 1).unwrap();
    let next = house.token("mobile", &refresh(&others), 1).unwrap();
    assert_eq!(house.refused("mobile", &refresh(&others), 1), "invalid_grant", "it was used, and that is noticed");
    assert!(!house.is_active(&next["access_token"], 1));
    assert_eq!(house.refused("mobile", &refresh(&last), 61), "invalid_grant");
    assert!(!house.is_active(&last["access_token"], 61));
}

#[test]
fn where_the_list_of_the_revoked_is_full_a_client_comes_again() {
    let house = house();
    let first = house.token("mobile", PASSWORD, 0).unwrap();
    let second = house.token("mobile", &refresh(&first), 0).unwrap();
    *house.shelf.is_full.lock().unwrap() = true;
    let refusal = house.revoke("mobile", &first["access_token"]).unwrap_err();
    assert_eq!((refusal.word.status(), refusal.retry_after), (503, Some(Duration::from_secs(60))), "RFC 7009 §2.2.1");
    assert!(refusal.description.contains("the token is still good"));
    // As often as it tries: what is not revoked is not counted.
    for _ in 0..=REVOCATIONS_PER_MINUTE_MAX / 2 {
        let refusal = house.revoke("mobile", &second["refresh_token"]).unwrap_err();
        assert_eq!(refusal.word, Word::TemporarilyUnavailable);
        assert!(refusal.description.contains("the grant has ended"));
    }
    assert!(house.is_active(&second["access_token"], 1), "nobody has said that it is not");
    assert!(house.token("mobile", &refresh(&second), 1).is_err(), "and nothing more comes of the grant");
    *house.shelf.is_full.lock().unwrap() = false;
    house.revoke("mobile", &second["refresh_token"]).unwrap();
    assert!(!house.is_active(&first["access_token"], 2) && !house.is_active(&second["access_token"], 2));
}

#[test]
fn introspection_tells_what_a_token_is_worth() {
    let house = house();
    let answer = house.token("mobile", PASSWORD, 0).unwrap();
    let told = house.introspect("plain", &answer["access_token"], 10);
    for (member, value) in [
        ("active", json!(true)),
        ("username", json!("alice")),
        ("client_id", json!("mobile")),
        ("scope", json!("read")),
        ("token_type", json!("Bearer")),
        ("iss", json!(ISSUER)),
        ("exp", json!(T0 + 3600)),
    ] {
        assert_eq!(told[member], value, "{member}");
    }
    assert_eq!(house.introspect("plain", &answer["access_token"], 3600), json!({ "active": false }));
    let refresh = house.introspect("mobile", &answer["refresh_token"], 10);
    assert_eq!((&refresh["active"], &refresh["username"]), (&json!(true), &json!("alice")));
    assert_eq!(house.introspect("plain", &answer["refresh_token"], 10), json!({ "active": false }));
}
