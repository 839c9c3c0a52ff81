//! Passwords and opaque tokens: the bridge is asked, and an issuer that is played here.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use CredentialForm::{Basic, Bearer, Cookie};

use super::*;
use crate::bridge::{Bridge, NameServers, Parts};
use crate::health::Health;
use crate::record::{Log, LogTarget};

fn bridge() -> Bridge {
    let (log, _) = Log::open(LogTarget::Off).unwrap();
    let parts = Parts {
        operator: None,
        operator_hosts: Vec::new(),
        node: "test".into(),
        record: Record::new(1, 1),
        health: Arc::new(Health::new(Instant::now(), SystemTime::now())),
        log,
        name_servers: NameServers::default(),
    };
    Bridge::start(parts).unwrap()
}

/// An issuer that answers what it is told to, and keeps what it was asked.
struct Issuing {
    url: String,
    answer: Arc<Mutex<String>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Issuing {
    fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/introspect", listener.local_addr().unwrap());
        let (answer, asked) = (Arc::new(Mutex::new(answer.to_owned())), Arc::new(Mutex::new(Vec::new())));
        let (for_thread, to_keep) = (Arc::clone(&answer), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut bytes = vec![0; 16 * 1024];
                let mut length = 0;
                let text = loop {
                    length += stream.read(&mut bytes[length..]).unwrap();
                    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let announced = head
                        .to_lowercase()
                        .split("content-length: ")
                        .nth(1)
                        .map(|rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
                    if body.len() >= announced.unwrap() {
                        break text;
                    }
                };
                to_keep.lock().unwrap().push(text);
                // Written first, so that whoever has the answer finds the question.
                let _ = stream.write_all(for_thread.lock().unwrap().as_bytes());
            }
        });
        Self { url, answer, asked }
    }

    fn says(&self, answer: &str) {
        *self.answer.lock().unwrap() = answer.to_owned();
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn ok(json: &Value) -> String {
    let body = json.to_string();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// An issuer of opaque tokens, which is asked there.
fn opaque(name: &str, iss: &str, url: &str) -> Issuer {
    let introspection = json!({"url": url, "client_id": "gw", "client_secret": "s:x", "cache": "1s", "timeout": "2s"});
    serde_json::from_value(json!({"name": name, "issuer": iss, "introspection": introspection})).unwrap()
}

fn active() -> Value {
    json!({"active": true, "client_id": "mobile-client", "username": "alice", "scope": "read", "exp": u64::MAX / 2000})
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_password_is_compared_by_the_bridge_and_the_user_gets_what_is_the_users() {
    let bridge = bridge();
    let credentials = bridge.credentials();
    let mut world = World::new(&[Basic], Vec::new());
    // With little memory, so that the test is quick.
    let hash = {
        let mut out = [0; 32];
        let params = argon2::Params::new(64, 1, 1, None).unwrap();
        argon2::Argon2::from(params).hash_password_into(b"open sesame", b"somesaltsomesalt", &mut out).unwrap();
        let out = base64::engine::general_purpose::STANDARD_NO_PAD.encode(out);
        format!("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA${out}")
    };
    world.user(json!({"name": "alice", "password": hash, "application": "mobile", "scopes": ["read"]}));
    world.user(json!({"name": "odd", "password": "$argon2id$", "application": "mobile"}));
    world.user(json!({"name": "certified", "application": "mobile"}));
    let tables = world.tables(None);
    let verified = RefCell::default();
    let caller = Caller { credentials: Some(&credentials), ..somebody(&verified) };
    let look = |login: &str| {
        let line = format!("Authorization: Basic {}", base64::engine::general_purpose::STANDARD.encode(login));
        ask(&tables, &caller, "/chat/v1/x", &[&line], &[])
    };
    for _ in 0..2 {
        let looked = look("alice:open sesame");
        let said = grant(&looked);
        assert_eq!((said.form, &said.proof, said.user.as_deref()), (Basic, &Proof::Password, Some("alice")));
        assert_eq!(said.application.as_deref(), Some("mobile"));
        assert!(said.issued_s > 1_700_000_000, "it counts as issued now: {}", said.issued_s);
        assert_eq!(look("alice:close sesame").1.unwrap_err(), Fault::Password);
        assert_eq!(look("certified:anything").1.unwrap_err(), Fault::Password);
        assert_eq!(look("nobody:anything").1.unwrap_err(), Fault::Unknown);
        assert_eq!(look("odd:anything").1.unwrap_err(), Fault::Unavailable);
    }
    bridge.stop();
    assert_eq!(look("alice:something else").1.unwrap_err(), Fault::Unavailable, "nobody compares any more");
    assert!(look("alice:open sesame").1.is_ok(), "what is known is known");
}

#[test]
fn an_opaque_token_is_what_its_issuer_says_and_that_is_believed_for_a_while() {
    let bridge = bridge();
    let credentials = bridge.credentials();
    let issuing = Issuing::start(&ok(&active()));
    let tables = World::new(&[Bearer, Cookie], vec![opaque("ours", ISSUER, &issuing.url)]).tables(None);
    let verified = RefCell::default();
    let caller = Caller { credentials: Some(&credentials), ..somebody(&verified) };
    let look = |token: &str| ask(&tables, &caller, "/chat/v1/x", &[&format!("Authorization: Bearer {token}")], &[]);
    let first = look("good");
    let said = grant(&first);
    assert_eq!(said.proof, Proof::Opaque { issuer: "ours".into(), hash: SecretHash::of("good") });
    assert_eq!((said.user.as_deref(), said.application.as_deref()), (Some("alice"), Some("mobile")));
    let again = look("good");
    assert!(std::ptr::eq(grant(&first), grant(&again)), "sessions of one token share a grant");
    assert_eq!(issuing.asked(), 1);
    let question = issuing.asked.lock().unwrap()[0].clone();
    assert!(question.starts_with("POST /introspect HTTP/1.1\r\n"), "{question}");
    assert!(question.to_lowercase().contains("\r\ncontent-type: application/x-www-form-urlencoded\r\n"), "{question}");
    let login = base64::engine::general_purpose::STANDARD.encode("gw:s%3Ax");
    assert!(question.to_lowercase().contains(&format!("authorization: basic {login}").to_lowercase()), "{question}");
    assert!(question.ends_with("\r\n\r\ntoken=good&token_type_hint=access_token"), "{question}");

    issuing.says(&ok(&json!({"active": false})));
    for _ in 0..2 {
        assert_eq!(look("bad").1.unwrap_err(), Fault::Unknown);
    }
    assert_eq!(issuing.asked(), 2, "what is no good is remembered, too");
    for (answer, fault) in [
        (ok(&json!({"active": true, "exp": NOW_S - 1_000_000_000})), Fault::Expired),
        (ok(&json!({"active": true, "nbf": u64::MAX / 2000})), Fault::NotYetValid),
        (ok(&json!({"active": true, "iss": "https://other.example"})), Fault::Issuer),
        (ok(&json!({"active": true, "sub": 7})), Fault::Malformed),
        (ok(&json!({"active": true})), Fault::NotSubscribed),
        (ok(&json!({"active": "yes"})), Fault::Unavailable),
        (ok(&json!([true])), Fault::Unavailable),
        (ok(&json!({"active": true, "x": "y".repeat(70_000)})), Fault::Unavailable),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nnot JSON!".into(), Fault::Unavailable),
        (
            "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
            Fault::Unavailable,
        ),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(), Fault::Unavailable),
        (String::new(), Fault::Unavailable),
    ] {
        issuing.says(&answer);
        let token = format!("token-{}", issuing.asked());
        assert_eq!(look(&token).1.unwrap_err(), fault, "{}", &answer[..answer.len().min(200)]);
    }
    bridge.stop();
}

#[test]
fn issuers_are_asked_in_their_order_until_one_knows_the_token() {
    let bridge = bridge();
    let credentials = bridge.credentials();
    let (first, second) = (Issuing::start(&ok(&json!({"active": false}))), Issuing::start(&ok(&active())));
    let issuers = vec![opaque("a", "https://a.example", &first.url), opaque("b", "https://b.example", &second.url)];
    let mut world = World::new(&[Bearer], issuers);
    let verified = RefCell::default();
    let caller = Caller { credentials: Some(&credentials), ..somebody(&verified) };
    let look = |tables: &Tables, token: &str| {
        ask(tables, &caller, "/chat/v1/x", &[&format!("Authorization: Bearer {token}")], &[]).1
    };
    let tables = world.tables(None);
    let identity = look(&tables, "x").unwrap();
    assert!(matches!(&identity.grant.unwrap().proof, Proof::Opaque { issuer, .. } if **issuer == *"b"));
    assert_eq!((first.asked(), second.asked()), (1, 1));
    world.asked().issuers = vec!["a".into()];
    assert_eq!(look(&world.tables(None), "y").unwrap_err(), Fault::Unknown);
    assert_eq!(second.asked(), 1, "who is not accepted is not asked");
    first.says("");
    second.says(&ok(&json!({"active": false})));
    assert_eq!(look(&tables, "z").unwrap_err(), Fault::Unavailable, "it may have been the first's");
    // A JWT of an issuer without published keys is one that only it can read.
    second.says(&ok(&active()));
    let mut claims = claims();
    claims["iss"] = "https://b.example".into();
    let token = Signer::ed().token("EdDSA", &json!({}), &claims);
    assert!(look(&tables, &token).is_ok());
    assert_eq!(look(&world.tables(None), &token).unwrap_err(), Fault::Issuer);
    bridge.stop();
    let no_issuer = World::new(&[Bearer], Vec::new()).tables(None);
    assert_eq!(look(&no_issuer, "x").unwrap_err(), Fault::Malformed, "nobody can read it");
}

#[test]
fn tokens_that_sessions_live_by_are_asked_about_again() {
    let bridge = bridge();
    let credentials = bridge.credentials();
    let inbox = Arc::new(crate::inbox::Inbox::new().unwrap());
    credentials.introspector.tell(std::slice::from_ref(&inbox));
    let told =
        || std::iter::from_fn(|| inbox.take()).filter(|one| matches!(one, crate::inbox::Order::LookAgain)).count();
    let issuing = Issuing::start(&ok(&active()));
    let world = World::new(&[Bearer], vec![opaque("ours", ISSUER, &issuing.url)]);
    let tables = world.tables(None);
    let verified = RefCell::default();
    let caller = Caller { credentials: Some(&credentials), ..somebody(&verified) };
    let look = |token: &str| ask(&tables, &caller, "/chat/v1/x", &[&format!("Authorization: Bearer {token}")], &[]).1;
    let session = look("live").unwrap().grant.unwrap();
    drop(look("gone").unwrap());
    assert_eq!(issuing.asked(), 2);
    until("it is asked about again", || issuing.asked() >= 4);
    let of_gone = issuing.asked.lock().unwrap().iter().filter(|text| text.contains("token=gone&")).count();
    assert_eq!(of_gone, 1, "nobody lives by it");
    assert!(!session.word.is_silent() && !session.word.is_withdrawn());
    assert_eq!(told(), 0, "there is no news");

    issuing.says("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    until("silence is noticed", || session.word.is_silent());
    until("workers are told of it", || told() > 0);
    issuing.says(&ok(&active()));
    until("the issuer is back", || !session.word.is_silent());
    assert!(!session.word.is_withdrawn());

    issuing.says(&ok(&json!({"active": false})));
    until("it is withdrawn", || session.word.is_withdrawn());
    until("workers are told of that", || told() > 0);
    assert_eq!(look("live").unwrap_err(), Fault::Unknown);
    bridge.stop();
}
