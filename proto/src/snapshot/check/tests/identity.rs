//! The rows of identity: applications, subscriptions, keys, users, revocations; issuers, assertions, the token endpoint;
//! and what APIs ask of their clients.

use super::{finds, sound, topic};
use crate::limits::{CIDRS_MAX, CLIENTS_MAX, JWKS_BYTES_MAX, SCOPES_MAX, SUBJECT_BYTES_MAX, WORD_BYTES_MAX};
use crate::snapshot::{
    ApiKey, Application, Assertion, ClaimNames, Config, CredentialForm, Duration, GrantType, Introspection, Issuer,
    Jwks, KeyRestrictions, OAuthClient, PasswordHash, Pem, Revocation, Secret, SecretHash, SigningAlgorithm, Snapshot,
    Subscription, TokenEndpoint, User,
};

fn client(id: &str) -> OAuthClient {
    OAuthClient {
        id: id.into(),
        secret: Some(SecretHash::of(id)),
        issuer: String::new(),
        environment: Default::default(),
        grants: vec![GrantType::ClientCredentials, GrantType::RefreshToken],
        scopes: vec!["chat.read".into()],
    }
}

fn application(name: &str, clients: &[&str]) -> Application {
    let clients = clients.iter().map(|id| client(id)).collect();
    Application { name: name.into(), owner: "team@example.com".into(), enabled: true, clients, ..Application::new("") }
}

fn subscription(application: &str, api: &str) -> Subscription {
    Subscription { application: application.into(), api: api.into(), plan: "AsyncUnlimited".into(), enabled: true }
}

fn key(name: &str) -> ApiKey {
    let restrictions = KeyRestrictions {
        addresses: vec!["192.0.2.0/24".parse().unwrap()],
        referrers: vec!["https://app.example.com/*".into()],
        scopes: vec!["chat.read".into()],
    };
    ApiKey {
        name: name.into(),
        application: "mobile".into(),
        sha256: SecretHash::of(name),
        user: Some("alice".into()),
        environment: Default::default(),
        enabled: true,
        created: None,
        expires: None,
        restrictions: Some(Box::new(restrictions)),
    }
}

fn user(name: &str, subject: &str) -> User {
    User {
        name: name.into(),
        password: Some(PasswordHash("$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaA".into())),
        certificates: vec![subject.into()],
        application: Some("mobile".into()),
        environment: Default::default(),
        scopes: vec!["chat.read".into()],
        enabled: true,
    }
}

fn revocation(revoked: &str) -> Revocation {
    Revocation { revoked: revoked.parse().unwrap(), issued_before: None, expires: None, reason: "lost".into() }
}

fn issuer(name: &str, iss: &str) -> Issuer {
    Issuer {
        name: name.into(),
        issuer: iss.into(),
        jwks: Some(Jwks::Url("https://login.example.com/keys".into())),
        refresh: Duration::from_secs(300),
        audiences: vec!["framegate".into()],
        clock_skew: Duration::from_secs(5),
        claims: ClaimNames::default(),
        introspection: Some(Introspection {
            url: "https://login.example.com/introspect".into(),
            client_id: "framegate".into(),
            client_secret: Secret("hunter2".into()),
            authorities: String::new(),
            timeout: Duration::from_secs(2),
            cache: Duration::from_secs(30),
            negative_cache: Duration::from_secs(0),
        }),
    }
}

fn known() -> Config {
    let mut config = sound();
    config.applications = vec![application("mobile", &["m1", "m2"]), application("web", &["w1"])];
    config.subscriptions = vec![subscription("mobile", "chat:v1"), subscription("mobile", "echo")];
    config.keys = vec![key("k1"), key("k2")];
    config.users = vec![user("alice", "CN=alice"), user("bob@example.com", "CN=bob")];
    config.revocations = vec![revocation("user:carl"), revocation("token:corp/7")];
    config.issuers = vec![issuer("corp", "https://corp/"), issuer("partner", "https://partner/")];
    config.assertions = vec![Assertion {
        name: "backend".into(),
        issuer: "https://gateway/".into(),
        key: Pem::Text("-----BEGIN PRIVATE KEY-----".into()),
        key_id: "2026".into(),
        header: "X-JWT-Assertion".into(),
        lifetime: Duration::from_secs(60),
    }];
    config.token_endpoint = Some(TokenEndpoint {
        bind: "127.0.0.1:8090".parse().unwrap(),
        issuer: "https://gateway.example.com".into(),
        tls: None,
        audiences: Vec::new(),
        algorithm: SigningAlgorithm::EdDsa,
        signing_key: None,
        rotate_every: Duration::from_secs(86_400),
        access_token_lifetime: Duration::from_secs(3600),
        refresh_token_lifetime: Duration::from_secs(0),
    });
    let asked = &mut config.apis[0].authentication;
    asked.accept = vec![CredentialForm::Bearer, CredentialForm::ApiKey];
    asked.issuers = vec!["corp".into(), "framegate".into()];
    asked.assertion = Some("backend".into());
    config.apis[0].topics[0].scopes = vec!["chat.read".into()];
    config
}

fn restrictions(config: &mut Config) -> &mut KeyRestrictions {
    config.keys[0].restrictions.as_mut().unwrap()
}

fn endpoint(config: &mut Config) -> &mut TokenEndpoint {
    config.token_endpoint.as_mut().unwrap()
}

fn introspection(config: &mut Config) -> &mut Introspection {
    config.issuers[0].introspection.as_mut().unwrap()
}

#[test]
fn everything_of_applications_that_can_be_wrong_is_found_where_it_is() {
    finds(
        known,
        &[
            (|c| c.applications[1].name = "a b".into(), "/applications/1/name", "rename"),
            (
                |c| c.applications.push(application("web", &[])),
                "/applications/2/name",
                "another application \"web\" (/applications/1)",
            ),
            (|c| c.applications[0].owner = "a\u{7}".into(), "/applications/0/owner", "control characters"),
            (|c| c.applications[0].clients[1].id = "a b".into(), "/applications/0/clients/1/id", "not a client's id"),
            (|c| c.applications[0].clients[1].id = String::new(), "/applications/0/clients/1/id", "not a client's id"),
            (
                |c| c.applications[1].clients[0].id = "m2".into(),
                "/applications/1/clients/0/id",
                "\"m2\" is one of application \"mobile\" (/applications/0)",
            ),
            (
                |c| c.applications[0].clients[0].issuer = "nobody".into(),
                "/applications/0/clients/0/issuer",
                "no issuer \"nobody\"",
            ),
            (
                |c| c.applications[0].clients = (0..=CLIENTS_MAX).map(|at| client(&format!("c{at}"))).collect(),
                "/applications/0/clients",
                "at most",
            ),
            (
                |c| c.applications[0].clients[0].grants = vec![GrantType::RefreshToken],
                "/applications/0/clients/0/grants",
                "gets no first token",
            ),
            (
                |c| c.applications[0].clients[0].scopes = vec!["a b".into()],
                "/applications/0/clients/0/scopes/0",
                "not a scope",
            ),
            (
                |c| c.applications[0].clients[0].scopes = vec!["a".into(), "a".into()],
                "/applications/0/clients/0/scopes/1",
                "twice",
            ),
        ],
    );
}

#[test]
fn everything_of_people_that_can_be_wrong_is_found_where_it_is() {
    finds(
        known,
        &[
            (
                |c| c.subscriptions[1].application = "nobody".into(),
                "/subscriptions/1/application",
                "no application \"nobody\"",
            ),
            (|c| c.subscriptions[1].api = "chat".into(), "/subscriptions/1/api", "no API \"chat\""),
            (|c| c.subscriptions[1].api = "chat:v9".into(), "/subscriptions/1/api", "no API \"chat:v9\""),
            (
                |c| c.subscriptions[1].api = "chat:v1".into(),
                "/subscriptions/1/api",
                "\"mobile\" has another subscription to \"chat:v1\" (/subscriptions/0)",
            ),
            (|c| c.subscriptions[1].plan = "Gold".into(), "/subscriptions/1/plan", "no plan \"Gold\""),
            (|c| c.keys[1].name = "a/b".into(), "/keys/1/name", "rename"),
            (|c| c.keys[1].name = "k1".into(), "/keys/1/name", "another key \"k1\" (/keys/0)"),
            (|c| c.keys[1].application = "nobody".into(), "/keys/1/application", "no application \"nobody\""),
            (|c| c.keys[1].sha256 = SecretHash::of("k1"), "/keys/1/sha256", "the key \"k1\" (/keys/0)"),
            (|c| c.keys[1].user = Some("a:b".into()), "/keys/1/user", "colon"),
            (
                |c| restrictions(c).addresses = vec!["192.0.2.0/24".parse().unwrap(); CIDRS_MAX + 1],
                "/keys/0/restrictions/addresses",
                "at most",
            ),
            (
                |c| restrictions(c).referrers = vec!["a".into(); SCOPES_MAX + 1],
                "/keys/0/restrictions/referrers",
                "at most",
            ),
            (
                |c| restrictions(c).referrers = vec!["a\n".into()],
                "/keys/0/restrictions/referrers/0",
                "control characters",
            ),
            (|c| restrictions(c).scopes = vec!["\"".into()], "/keys/0/restrictions/scopes/0", "not a scope"),
            (
                |c| c.users[0].name = "m2".into(),
                "/users/0/name",
                "a client of application \"mobile\" (/applications/0) has the id \"m2\"",
            ),
            (|c| c.users[1].name = "a:b".into(), "/users/1/name", "colon"),
            (|c| c.users[1].name = String::new(), "/users/1/name", "empty"),
            (|c| c.users[1].name = "alice".into(), "/users/1/name", "another user \"alice\" (/users/0)"),
            (|c| c.users[1].application = Some("no".into()), "/users/1/application", "no application \"no\""),
            (|c| c.users[1].password = Some(PasswordHash("hunter2".into())), "/users/1/password", "no Argon2 hash"),
            (|c| c.users[1].scopes = vec!["\\".into()], "/users/1/scopes/0", "not a scope"),
            (
                |c| c.users[1].certificates = vec!["CN=alice".into()],
                "/users/1/certificates/0",
                "the user \"alice\" (/users/0)",
            ),
            (
                |c| c.users[1].certificates = vec!["a".repeat(WORD_BYTES_MAX + 1)],
                "/users/1/certificates/0",
                "are allowed",
            ),
            (
                |c| c.revocations[1].revoked = "user:carl".parse().unwrap(),
                "/revocations/1/revoked",
                "another entry (/revocations/0) revokes user:carl too",
            ),
            (
                |c| c.revocations[1].revoked.subject = format!("a/{}", "b".repeat(SUBJECT_BYTES_MAX)).into(),
                "/revocations/1/revoked",
                "at most",
            ),
            (|c| c.revocations[0].reason = "\u{1b}[2J".into(), "/revocations/0/reason", "control characters"),
        ],
    );
}

#[test]
fn everything_of_issuers_and_tokens_that_can_be_wrong_is_found_where_it_is() {
    finds(
        known,
        &[
            (|c| c.issuers[1].name = "a b".into(), "/issuers/1/name", "rename"),
            (|c| c.issuers[1].name = "corp".into(), "/issuers/1/name", "another issuer \"corp\" (/issuers/0)"),
            (
                |c| c.issuers[1].issuer = "https://corp/".into(),
                "/issuers/1/issuer",
                "the issuer \"corp\" has the same iss",
            ),
            (|c| c.issuers[1].issuer = String::new(), "/issuers/1/issuer", "1 to"),
            (
                |c| (c.issuers[1].jwks, c.issuers[1].introspection) = (None, None),
                "/issuers/1/jwks",
                "without jwks and introspection",
            ),
            (|c| c.issuers[1].jwks = Some(Jwks::Url("ftp://a/".into())), "/issuers/1/jwks", "neither https://"),
            (
                |c| c.issuers[1].jwks = Some(Jwks::Text("x".repeat(JWKS_BYTES_MAX + 1))),
                "/issuers/1/jwks",
                "are allowed",
            ),
            (|c| c.issuers[1].refresh = Duration::from_ms(10), "/issuers/1/refresh", "longer"),
            (|c| c.issuers[1].clock_skew = Duration::from_secs(3601), "/issuers/1/clock_skew", "at most 1h"),
            (|c| c.issuers[1].audiences = vec!["a".into(); SCOPES_MAX + 1], "/issuers/1/audiences", "at most"),
            (|c| c.issuers[1].claims.client = vec![String::new()], "/issuers/1/claims/client", "empty"),
            (|c| c.issuers[1].claims.user = "\n".into(), "/issuers/1/claims/user", "control characters"),
            (|c| introspection(c).url = "a".into(), "/issuers/0/introspection/url", "neither https://"),
            (
                |c| introspection(c).authorities = "nobody".into(),
                "/issuers/0/introspection/authorities",
                "no authorities \"nobody\"",
            ),
            (|c| introspection(c).timeout = Duration::from_ms(0), "/issuers/0/introspection/timeout", "longer"),
            (|c| introspection(c).timeout = Duration::from_secs(61), "/issuers/0/introspection/timeout", "at most 1m"),
            (|c| introspection(c).cache = Duration::from_ms(1), "/issuers/0/introspection/cache", "longer"),
            (
                |c| c.assertions.push(c.assertions[0].clone()),
                "/assertions/1/name",
                "another assertion \"backend\" (/assertions/0)",
            ),
            (|c| c.assertions[0].header = "Host".into(), "/assertions/0/header", "Host"),
            (|c| c.assertions[0].issuer = "\n".into(), "/assertions/0/issuer", "control characters"),
            (|c| c.assertions[0].key_id = "\n".into(), "/assertions/0/key_id", "control characters"),
            (|c| c.assertions[0].lifetime = Duration::from_ms(10), "/assertions/0/lifetime", "longer"),
            (|c| endpoint(c).issuer = "gateway".into(), "/token_endpoint/issuer", "neither https://"),
            (|c| endpoint(c).issuer = "https://corp/".into(), "/token_endpoint/issuer", "the gateway's own"),
            (|c| endpoint(c).bind = c.listeners[0].bind.clone(), "/token_endpoint/bind", "\"public\" already takes"),
            (|c| endpoint(c).algorithm = SigningAlgorithm::Rs256, "/token_endpoint/signing_key", "RSA key of yours"),
            (|c| endpoint(c).rotate_every = Duration::from_secs(60), "/token_endpoint/rotate_every", "less often"),
            (
                |c| endpoint(c).access_token_lifetime = Duration::from_ms(0),
                "/token_endpoint/access_token_lifetime",
                "longer",
            ),
        ],
    );
}

#[test]
fn everything_that_an_api_asks_that_can_be_wrong_is_found_where_it_is() {
    finds(
        known,
        &[
            (
                |c| c.apis[0].authentication.accept.push(CredentialForm::Bearer),
                "/apis/0/authentication/accept/2",
                "twice",
            ),
            (
                |c| c.apis[0].authentication.issuers[0] = "nobody".into(),
                "/apis/0/authentication/issuers/0",
                "no issuer \"nobody\"",
            ),
            (
                |c| c.apis[0].authentication.authorization_header = "Upgrade".into(),
                "/apis/0/authentication/authorization_header",
                "Upgrade",
            ),
            (|c| c.apis[0].authentication.api_key_name = "a b".into(), "/apis/0/authentication/api_key_name", "a b"),
            (|c| c.apis[0].authentication.cookie_name = "a;b".into(), "/apis/0/authentication/cookie_name", "a;b"),
            (|c| c.apis[0].authentication.close_code = 1000, "/apis/0/authentication/close_code", "1008, 3000"),
            (|c| c.apis[0].authentication.close_code = 5000, "/apis/0/authentication/close_code", "1008, 3000"),
            (
                |c| c.apis[0].authentication.assertion = Some("no".into()),
                "/apis/0/authentication/assertion",
                "no assertion \"no\"",
            ),
            (|c| c.apis[0].topics[0].scopes = vec!["a b".into()], "/apis/0/topics/0/scopes/0", "not a scope"),
            (
                |c| {
                    c.apis[2].topics = vec![topic("/a", None)];
                    c.apis[2].topics[0].scopes = vec!["a".into()];
                },
                "/apis/2/topics/0/scopes",
                "which the API accepts",
            ),
        ],
    );
}

#[test]
fn what_the_rows_of_identity_spoil_is_sound_and_reaches_the_sections_without_the_secrets_of_clients() {
    let snapshot = Snapshot::check(known()).unwrap();
    assert!(snapshot.applications().flat_map(|one| &one.clients).all(|client| client.secret.is_none()));
    assert!(snapshot.to_config().token_endpoint.is_none());
    assert_eq!(Snapshot::check(snapshot.to_config()).unwrap().list(), snapshot.list());
    assert_eq!(Snapshot::check_identity(&known()).err(), None);
}
