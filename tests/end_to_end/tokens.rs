//! The token endpoint of a running control plane, and the keys of issuers elsewhere: what clients of either see.
//!
//! What a token opens at a data plane is told elsewhere; here the stories end with the token, or with its revocation. Drivers
//! and engines have no part in them: each is told once.

mod door;
mod fetched;
mod keys;
mod kills;
mod sessions;
mod strangers;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::kit::people::{self, People};
use crate::kit::{DEADLINE, Gateway, Port, Setup, Variant, until};

/// An application with clients of every kind, users, and a token endpoint; `more` are members of that.
struct House {
    gateway: Gateway,
    endpoint: Port,
}

fn people() -> People {
    let client = |id: &str, members: &str| {
        let secret = people::sha256(&secret(id));
        format!("{{ id: {id}, secret: {secret}{members} }}")
    };
    let every = ", scopes: [read, write], grants: [client_credentials, refresh_token, password]";
    let clients = [
        client("every", every),
        client("other", every),
        client("plain", ", scopes: [read], environment: sandbox"),
        "{ id: theirs }".into(),
    ];
    People::new()
        .entry("applications", format!("name: shop, clients: [{}]", clients.join(", ")))
        .entry("applications", format!("name: closed, enabled: false, clients: [{}]", client("idle", "")))
        .user("alice", "scopes: [read, admin]")
        .user("mallory", "enabled: false")
}

fn secret(id: &str) -> String {
    format!("secret of {id}")
}

/// The lines of a configuration that open a token endpoint there.
fn endpoint(bind: &str, base: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!("token_endpoint: {{ bind: \"{bind}\", issuer: \"{base}\"{comma}{more} }}\n")
}

impl House {
    fn start(more: &str) -> Self {
        Self::with(Setup::new(Variant::Automatic).people(people()), more)
    }

    fn with(setup: Setup, more: &str) -> Self {
        let port = Port::free();
        let base = format!("http://{}", port.address());
        let gateway = setup.document(&endpoint(&port.address().to_string(), &base, more)).start();
        let house = Self { gateway, endpoint: port };
        house.wait();
        house
    }

    /// Waits until the endpoint has a key to sign with.
    #[track_caller]
    fn wait(&self) {
        until("the token endpoint has its key", || {
            try_exchange(self.address(), &get("/oauth2/jwks")).is_some_and(|answer| answer.json()["keys"] != json!([]))
        });
    }

    fn address(&self) -> SocketAddr {
        self.endpoint.address()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    #[track_caller]
    fn post(&self, page: &str, id: &str, form: &str) -> Answer {
        exchange(self.address(), &post(page, Some(&basic(id, &secret(id))), form))
    }

    /// The answer to a request for a token that is granted.
    #[track_caller]
    fn token(&self, id: &str, form: &str) -> Value {
        let answer = self.post("token", id, form);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    #[track_caller]
    fn is_active(&self, token: &Value) -> bool {
        let answer = self.post("introspect", "plain", &format!("token={}", token.as_str().unwrap()));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["active"].as_bool().unwrap()
    }

    #[track_caller]
    fn keys(&self) -> Vec<String> {
        let set = exchange(self.address(), &get("/oauth2/jwks")).json();
        set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    #[track_caller]
    fn status(&self) -> Value {
        self.gateway.verb("status", &["--json"]).json()
    }
}

/// An HTTP answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The status and the word of a refusal.
    #[track_caller]
    fn refusal(&self) -> (u16, String) {
        (self.status, self.json()["error"].as_str().unwrap_or_default().to_owned())
    }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

fn basic(id: &str, secret: &str) -> String {
    let encoded = |text: &str| text.replace('%', "%25").replace(':', "%3A").replace(' ', "+");
    format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret))))
}

fn post(page: &str, authorization: Option<&str>, form: &str) -> String {
    let authorization = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
    format!(
        "POST /oauth2/{page} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    )
}

#[track_caller]
fn exchange(address: SocketAddr, request: &str) -> Answer {
    try_exchange(address, request).expect("the endpoint answers")
}

fn try_exchange(address: SocketAddr, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    // Who is refused early may not have been read to the end.
    let _ = stream.write_all(request.as_bytes());
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8(text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.into(), body: body.into() })
}

/// A part of a token, which is not checked.
#[track_caller]
fn part(token: &Value, at: usize) -> Value {
    let part = token.as_str().unwrap().split('.').nth(at).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

const CLIENT: &str = "grant_type=client_credentials";
const PASSWORD: &str = "grant_type=password&username=alice&password=correct+horse%3A+battery";

#[test]
fn every_grant_gives_a_token_of_rfc_9068() {
    let house = House::start("audiences: [\"wss://one.test\", \"wss://two.test\"]");
    let answer = house.post("token", "plain", CLIENT);
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let answer = answer.json();
    assert_eq!(answer["expires_in"], 3600);
    let header = part(&answer["access_token"], 0);
    assert_eq!((&header["typ"], &header["alg"]), (&json!("at+jwt"), &json!("EdDSA")));
    assert_eq!(house.keys(), [header["kid"].as_str().unwrap()]);
    let claims = part(&answer["access_token"], 1);
    let expected = [
        ("iss", json!(house.url())),
        ("sub", json!("plain")),
        ("aud", json!(["wss://one.test", "wss://two.test"])),
        ("client_id", json!("plain")),
        ("scope", json!("read")),
        ("keytype", json!("SANDBOX")),
        ("application", json!("shop")),
    ];
    for (name, value) in expected {
        assert_eq!(claims[name], value, "{name}");
    }
    assert_eq!(claims["exp"].as_u64().unwrap(), claims["iat"].as_u64().unwrap() + 3600);

    let form = format!("client_id=every&client_secret=secret+of+every&scope=read&{PASSWORD}");
    let answer = exchange(house.address(), &post("token", None, &form)).json();
    let claims = part(&answer["access_token"], 1);
    assert_eq!((&claims["sub"], &claims["scope"]), (&json!("alice"), &json!("read")));
    assert_eq!(claims["keytype"], "PRODUCTION");

    let refresh = answer["refresh_token"].as_str().unwrap();
    let next = house.token("every", &format!("grant_type=refresh_token&refresh_token={refresh}"));
    assert_eq!(part(&next["access_token"], 1)["sub"], "alice");
    let again = house.post("token", "every", &format!("grant_type=refresh_token&refresh_token={refresh}"));
    assert_eq!(again.refusal(), (400, "invalid_grant".into()));
    assert!(!house.is_active(&next["access_token"]), "who used it twice has nothing left of it");
    assert!(!house.is_active(&answer["access_token"]));
}

#[test]
fn every_error_of_rfc_6749_has_its_status_and_its_word() {
    let house = House::start("");
    let basic_of = |id: &str| basic(id, &secret(id));
    let every = basic_of("every");
    let rows: &[(Option<&str>, &str, u16, &str)] = &[
        (Some(&every), "", 400, "invalid_request"),
        (Some(&every), "grant_type=client_credentials&grant_type=password", 400, "invalid_request"),
        (Some(&every), "grant_type=%zz", 400, "invalid_request"),
        (Some(&every), "grant_type=password&username=alice", 400, "invalid_request"),
        (Some(&every), "grant_type=refresh_token", 400, "invalid_request"),
        (Some(&every), "grant_type=client_credentials&client_secret=x", 400, "invalid_request"),
        (Some(&every), "grant_type=client_credentials&client_id=other", 400, "invalid_request"),
        (None, CLIENT, 401, "invalid_client"),
        (None, "grant_type=client_credentials&client_id=every", 401, "invalid_client"),
        (None, "grant_type=client_credentials&client_id=every&client_secret=no", 401, "invalid_client"),
        (Some(&basic("every", "no")), CLIENT, 401, "invalid_client"),
        (Some(&basic_of("nobody")), CLIENT, 401, "invalid_client"),
        (Some(&basic_of("theirs")), CLIENT, 401, "invalid_client"),
        (Some("Bearer x"), CLIENT, 401, "invalid_client"),
        (Some("Basic !"), CLIENT, 401, "invalid_client"),
        (Some(&every), "grant_type=password&username=alice&password=no", 400, "invalid_grant"),
        (Some(&every), "grant_type=password&username=nobody&password=no", 400, "invalid_grant"),
        (Some(&every), &PASSWORD.replace("alice", "mallory"), 400, "invalid_grant"),
        (Some(&every), "grant_type=refresh_token&refresh_token=fgr_x", 400, "invalid_grant"),
        (Some(&basic_of("plain")), PASSWORD, 400, "unauthorized_client"),
        (Some(&basic_of("idle")), CLIENT, 400, "unauthorized_client"),
        (Some(&every), "grant_type=authorization_code", 400, "unsupported_grant_type"),
        (Some(&every), "grant_type=client_credentials&scope=root", 400, "invalid_scope"),
        (Some(&every), &format!("{PASSWORD}&scope=write"), 400, "invalid_scope"),
    ];
    for (authorization, form, status, word) in rows {
        let answer = exchange(house.address(), &post("token", *authorization, form));
        assert_eq!(answer.refusal(), (*status, (*word).to_owned()), "{form}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{form}");
        assert_eq!(answer.header("www-authenticate").is_some(), *status == 401, "{form}");
    }
    let address = exchange(house.address(), &post("token?client_id=every", Some(&every), CLIENT));
    assert_eq!(address.refusal(), (400, "invalid_request".into()));
    let form = post("token", Some(&every), CLIENT).replace("application/x-www-form-urlencoded", "application/json");
    assert_eq!(exchange(house.address(), &form).refusal(), (400, "invalid_request".into()));
    for (target, status, allow) in
        [("/oauth2/token", 405, Some("POST")), ("/oauth2/nothing", 404, None), ("/", 404, None)]
    {
        let answer = exchange(house.address(), &get(target));
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{target}");
    }
    assert_eq!(exchange(house.address(), &post("jwks", None, "")).status, 405);
    // None of the secrets that were shown stands in the log.
    let said = house.gateway.said("controlplane");
    for hidden in ["secret of", "correct horse", "fgr_x"] {
        assert!(!said.contains(hidden), "{said}");
    }
}

#[test]
fn who_guesses_is_told_to_wait() {
    let house = House::start("");
    let wrong = "grant_type=password&username=alice&password=guess";
    let words: Vec<_> = (0..11).map(|_| house.post("token", "every", wrong).refusal()).collect();
    assert_eq!(words[9], (400, "invalid_grant".into()));
    assert_eq!(words[10], (429, "slow_down".into()));
    let right = house.post("token", "every", PASSWORD);
    assert_eq!(right.status, 429, "also for who is right");
    assert!(
        right.header("retry-after").is_some_and(|seconds| (1..=61).contains(&seconds.parse().unwrap())),
        "{right:?}"
    );
    house.token("other", PASSWORD);
    house.token("every", CLIENT);
}

#[test]
fn what_is_switched_off_gets_nothing_more() {
    let house = House::start("");
    let first = house.token("every", PASSWORD);
    assert!(house.is_active(&first["access_token"]));
    let refresh = format!("grant_type=refresh_token&refresh_token={}", first["refresh_token"].as_str().unwrap());

    let yaml = house.gateway.setup().yaml();
    let without_alice = yaml.replace("name: alice,", "name: alice, enabled: false,");
    assert_eq!(house.gateway.apply(&without_alice).code, 0);
    assert_eq!(house.post("token", "every", PASSWORD).refusal(), (400, "invalid_grant".into()));
    assert_eq!(house.post("token", "every", &refresh).refusal(), (400, "invalid_grant".into()));
    assert!(!house.is_active(&first["access_token"]));

    assert_eq!(house.gateway.apply(&yaml.replace("name: shop,", "name: shop, enabled: false,")).code, 0);
    assert_eq!(house.post("token", "every", CLIENT).refusal(), (400, "unauthorized_client".into()));
    let fewer = yaml.replace("scopes: [read, admin]", "scopes: [admin]");
    assert_eq!(house.gateway.apply(&fewer).code, 0);
    assert_eq!(house.token("every", &refresh)["scope"], "", "alice may read no more");
}

#[test]
fn a_revoked_token_is_worth_nothing_also_after_the_control_plane_was_killed() {
    let mut house = House::start("");
    let (one, two) = (house.token("every", PASSWORD), house.token("every", CLIENT));
    let form = |token: &Value| format!("token={}", token.as_str().unwrap());
    let another = house.post("revoke", "other", &form(&one["access_token"]));
    assert_eq!(another.refusal(), (400, "invalid_grant".into()));
    let revoked = house.post("revoke", "every", &form(&one["access_token"]));
    assert_eq!((revoked.status, revoked.body.as_str()), (200, ""), "{revoked:?}");
    assert!(!house.is_active(&one["access_token"]) && house.is_active(&two["access_token"]));
    for unknown in ["token=x", "token=a.b.c", "token=fgr_none&token_type_hint=refresh_token"] {
        assert_eq!(house.post("revoke", "every", unknown).status, 200, "{unknown}");
    }
    assert_eq!(house.post("revoke", "every", "").refusal(), (400, "invalid_request".into()));

    let kid = house.keys();
    house.gateway.kill_control_plane();
    house.gateway.start_control_plane();
    house.wait();
    assert_eq!(house.keys(), kid, "the key outlives the process");
    assert!(!house.is_active(&one["access_token"]) && house.is_active(&two["access_token"]));
    let refresh = format!("grant_type=refresh_token&refresh_token={}", one["refresh_token"].as_str().unwrap());
    house.token("every", &refresh);
}

#[test]
fn metadata_says_where_everything_is() {
    let house = House::start("");
    let metadata = exchange(house.address(), &get("/.well-known/oauth-authorization-server")).json();
    assert_eq!(metadata["issuer"], house.url());
    for (member, path) in [
        ("token_endpoint", "token"),
        ("jwks_uri", "jwks"),
        ("revocation_endpoint", "revoke"),
        ("introspection_endpoint", "introspect"),
    ] {
        assert_eq!(metadata[member], format!("{}/oauth2/{path}", house.url()), "{member}");
    }
    assert_eq!(exchange(house.address(), &get("/.well-known/openid-configuration")).status, 404);
}
