//! Whether what a credential granted still stands: asked at the handshake, and of live sessions whenever something has
//! changed that says who may come in.
//!
//! A plain function of the tables and the time. It looks a handful of names up and allocates at most two short texts.

use proto::snapshot::{OWN_ISSUER, RevokedKind, Snapshot, WhenUnreachable};

use crate::identity::{Fault, Grant, Proof};
use crate::tables::{ApiEntry, Tables};

/// Whether these tables let a grant use an API, which is the entry that the session was admitted under; and until when,
/// milliseconds since 1970, `u64::MAX`: for ever. `now_s` is in seconds since 1970.
pub fn check(tables: &Tables, api: &ApiEntry, grant: &Grant, now_s: u64) -> Result<u64, Fault> {
    if grant.word.is_withdrawn() {
        return Err(Fault::Revoked);
    }
    if grant.word.is_silent() && api.api.authentication.when_unreachable == WhenUnreachable::Close {
        return Err(Fault::Unavailable);
    }
    let snapshot = tables.snapshot();
    let ends_ms = proof(tables, grant)?.min(grant.expires_ms);
    if now_s.saturating_mul(1000) >= ends_ms {
        return Err(Fault::Expired);
    }
    user(snapshot, grant)?;
    application(tables, api, grant)?;
    if snapshot.has_revocations() && is_revoked(snapshot, api, grant, now_s) {
        return Err(Fault::Revoked);
    }
    Ok(ends_ms)
}

/// What was presented must still be whose it was; and until when it is good, as far as the tables say.
fn proof(tables: &Tables, grant: &Grant) -> Result<u64, Fault> {
    let snapshot = tables.snapshot();
    match &grant.proof {
        Proof::Key(hash) => {
            let key = snapshot.key(hash).ok_or(Fault::Unknown)?;
            let is_same = grant.application.as_deref() == Some(&*key.application)
                && grant.user == key.user
                && grant.environment == Some(key.environment);
            if !is_same {
                Err(Fault::Unknown)
            } else if !key.enabled {
                Err(Fault::Disabled)
            } else {
                Ok(key.expires.map_or(u64::MAX, |at| at.as_ms()))
            }
        }
        Proof::Token { issuer, .. } | Proof::Opaque { issuer, .. } => {
            tables.issuers().named(issuer).map(|_| u64::MAX).ok_or(Fault::Issuer)
        }
        Proof::Password => own_credential(snapshot, grant),
        Proof::Certificate { subject } => {
            let of = tables.people().user_by_subject(subject);
            if of.is_some() && of == grant.user.as_deref() {
                own_credential(snapshot, grant)
            } else {
                Err(Fault::Unknown)
            }
        }
    }
}

/// A user's own credential counts for the application that the user has.
fn own_credential(snapshot: &Snapshot, grant: &Grant) -> Result<u64, Fault> {
    let user = grant.user.as_deref().and_then(|name| snapshot.user(name)).ok_or(Fault::Unknown)?;
    let is_same =
        user.application.as_deref() == grant.application.as_deref() && grant.environment == Some(user.environment);
    if is_same { Ok(u64::MAX) } else { Err(Fault::Unknown) }
}

/// An issuer's users need not be known here, but for the gateway's own; those that are can be switched off.
fn user(snapshot: &Snapshot, grant: &Grant) -> Result<(), Fault> {
    let Some(name) = grant.user.as_deref() else { return Ok(()) };
    match snapshot.user(name) {
        Some(user) if !user.enabled => Err(Fault::Disabled),
        None if is_of_own_issuer(grant) => Err(Fault::Unknown),
        _ => Ok(()),
    }
}

fn is_of_own_issuer(grant: &Grant) -> bool {
    grant.proof.issuer() == Some(OWN_ISSUER)
}

fn application(tables: &Tables, api: &ApiEntry, grant: &Grant) -> Result<(), Fault> {
    if let Some((client, issuer)) = grant.client.as_deref().zip(grant.proof.issuer()) {
        let of = tables.people().client(client, issuer)?.map(|client| &*client.application);
        if of != grant.application.as_deref() {
            return Err(Fault::Unknown);
        }
    }
    let snapshot = tables.snapshot();
    if let Some(name) = grant.application.as_deref() {
        match snapshot.application(name) {
            None => return Err(Fault::Unknown),
            Some(application) if !application.enabled => return Err(Fault::Disabled),
            Some(_) => {}
        }
    }
    if !api.api.authentication.require_subscription {
        return Ok(());
    }
    let subscription = grant.application.as_deref().and_then(|name| snapshot.subscription(name, &api.label));
    if subscription.is_some_and(|one| one.enabled) { Ok(()) } else { Err(Fault::NotSubscribed) }
}

fn is_revoked(snapshot: &Snapshot, api: &ApiEntry, grant: &Grant, now_s: u64) -> bool {
    let hits =
        |kind, subject: &str| snapshot.revocation(kind, subject).is_some_and(|one| one.reaches(grant.issued_s, now_s));
    let by_name = |kind, name: &Option<Box<str>>| name.as_deref().is_some_and(|name| hits(kind, name));
    let by_proof = match &grant.proof {
        Proof::Token { id, .. } => by_name(RevokedKind::Token, id),
        Proof::Opaque { hash, .. } => hits(RevokedKind::Opaque, &hash.to_string()),
        Proof::Key(hash) => snapshot.key(hash).is_some_and(|key| hits(RevokedKind::Key, &key.name)),
        Proof::Password | Proof::Certificate { .. } => false,
    };
    by_proof
        || by_name(RevokedKind::Client, &grant.client)
        || by_name(RevokedKind::User, &grant.user)
        || by_name(RevokedKind::Application, &grant.application)
        || grant
            .application
            .as_deref()
            .is_some_and(|name| hits(RevokedKind::Subscription, &format!("{name}/{}", api.label)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::control::message::Generation;
    use proto::snapshot::{
        Api, ApiKey, Application, Config, CredentialForm, Environment, Issuer, Listener, OAuthClient, Revocation,
        SecretHash, Subscription, Target, Timestamp, User,
    };

    use super::*;
    use crate::identity::Word;

    const NOW_S: u64 = 1_800_000_000;

    fn application(name: &str, client: &str) -> Application {
        let client = OAuthClient {
            id: client.into(),
            secret: None,
            issuer: String::new(),
            environment: Default::default(),
            grants: Vec::new(),
            scopes: Vec::new(),
        };
        Application {
            name: name.into(),
            owner: String::new(),
            enabled: true,
            clients: vec![client],
            ..Application::new("")
        }
    }

    fn config() -> Config {
        let mut api = Api::new("chat", "v1", "/chat", Target::Url("ws://a/".parse().unwrap()));
        api.authentication.accept = vec![CredentialForm::Bearer];
        let key = ApiKey {
            name: "k1".into(),
            application: "mobile".into(),
            sha256: SecretHash::of("secret"),
            user: None,
            environment: Default::default(),
            enabled: true,
            created: None,
            expires: None,
            restrictions: None,
        };
        let user = User {
            name: "alice".into(),
            password: None,
            certificates: Vec::new(),
            application: Some("mobile".into()),
            environment: Default::default(),
            scopes: Vec::new(),
            enabled: true,
        };
        let issuer = Issuer {
            name: "idp".into(),
            issuer: "https://idp.example".into(),
            jwks: Some(proto::snapshot::Jwks::Text("{\"keys\":[]}".into())),
            refresh: proto::snapshot::Duration::from_secs(300),
            audiences: Vec::new(),
            clock_skew: Default::default(),
            claims: Default::default(),
            introspection: None,
        };
        Config {
            version: 1,
            listeners: vec![Listener::new("public", "0.0.0.0:80".parse().unwrap())],
            apis: vec![api],
            applications: vec![application("mobile", "mobile-client"), application("other", "other-client")],
            subscriptions: vec![Subscription {
                application: "mobile".into(),
                api: "chat:v1".into(),
                plan: proto::snapshot::UNLIMITED_PLAN.into(),
                enabled: true,
            }],
            keys: vec![key],
            users: vec![user],
            issuers: vec![issuer],
            ..Config::default()
        }
    }

    fn tables(change: impl FnOnce(&mut Config)) -> Tables {
        let mut config = config();
        change(&mut config);
        let snapshot = Snapshot::check(config).unwrap();
        Tables::build(Generation { source: "test".into(), number: 1 }, &snapshot, None).unwrap()
    }

    fn token() -> Grant {
        Grant {
            form: CredentialForm::Bearer,
            proof: Proof::Token { issuer: Arc::from("idp"), id: Some("idp/j1".into()) },
            client: Some("mobile-client".into()),
            application: Some("mobile".into()),
            user: Some("alice".into()),
            environment: Some(Default::default()),
            scopes: Box::default(),
            issued_s: NOW_S - 100,
            expires_ms: (NOW_S + 100) * 1000,
            word: Word::default(),
        }
    }

    fn key() -> Grant {
        let proof = Proof::Key(SecretHash::of("secret"));
        Grant { proof, client: None, user: None, issued_s: 0, expires_ms: u64::MAX, ..token() }
    }

    fn password() -> Grant {
        Grant { proof: Proof::Password, client: None, issued_s: NOW_S, expires_ms: u64::MAX, ..token() }
    }

    fn standing(grant: &Grant, change: impl FnOnce(&mut Config)) -> Result<(), Fault> {
        standing_at(grant, NOW_S, change)
    }

    fn standing_at(grant: &Grant, now_s: u64, change: impl FnOnce(&mut Config)) -> Result<(), Fault> {
        let admitted = tables(|_| {});
        check(&tables(change), admitted.api("chat", "v1").unwrap(), grant, now_s).map(|_| ())
    }

    fn revoke(what: &str, issued_before_s: Option<u64>) -> impl FnOnce(&mut Config) {
        let revocation = Revocation {
            revoked: what.parse().unwrap(),
            issued_before: issued_before_s.map(Timestamp::from_secs),
            expires: None,
            reason: String::new(),
        };
        |config| config.revocations.push(revocation)
    }

    #[test]
    fn what_nothing_speaks_against_stands() {
        for grant in [token(), key(), password()] {
            assert_eq!(standing(&grant, |_| {}), Ok(()), "{:?}", grant.proof);
        }
    }

    #[test]
    fn a_grant_ends_with_its_last_second() {
        let grant = token();
        let at = |now_s| standing_at(&grant, now_s, |_| {});
        assert_eq!((at(NOW_S + 99), at(NOW_S + 100)), (Ok(()), Err(Fault::Expired)));
    }

    #[test]
    fn whatever_it_leans_on_must_be_there_and_switched_on() {
        type Change = fn(&mut Config);
        type Outcomes = [Result<(), Fault>; 3];
        let cases: [(&str, Change, Outcomes); 9] = [
            ("the application is off", |c| c.applications[0].enabled = false, [Err(Fault::Disabled); 3]),
            (
                "the application is gone",
                |c| {
                    c.applications.remove(0);
                    c.subscriptions.clear();
                    c.keys.clear();
                    c.users[0].application = None;
                },
                [Err(Fault::Unknown); 3],
            ),
            ("the subscription is off", |c| c.subscriptions[0].enabled = false, [Err(Fault::NotSubscribed); 3]),
            ("the subscription is gone", |c| c.subscriptions.clear(), [Err(Fault::NotSubscribed); 3]),
            ("the key is off", |c| c.keys[0].enabled = false, [Ok(()), Err(Fault::Disabled), Ok(())]),
            ("the key is gone", |c| c.keys.clear(), [Ok(()), Err(Fault::Unknown), Ok(())]),
            ("the user is off", |c| c.users[0].enabled = false, [Err(Fault::Disabled), Ok(()), Err(Fault::Disabled)]),
            ("the user is gone", |c| c.users.clear(), [Ok(()), Ok(()), Err(Fault::Unknown)]),
            ("the issuer is gone", |c| c.issuers.clear(), [Err(Fault::Issuer), Ok(()), Ok(())]),
        ];
        for (what, change, expected) in cases {
            let found = [token(), key(), password()].map(|grant| standing(&grant, change));
            assert_eq!(found, expected, "{what}");
        }
        let own = Grant { proof: Proof::Token { issuer: Arc::from(OWN_ISSUER), id: None }, ..token() };
        let own_issuer: Change = |c| {
            c.issuers[0].name = OWN_ISSUER.into();
            c.applications[0].clients[0].secret = Some(SecretHash::of("the client's"));
        };
        assert_eq!(standing(&own, own_issuer), Ok(()));
        let without_secret: Change = |c| c.issuers[0].name = OWN_ISSUER.into();
        assert_eq!(standing(&own, without_secret), Err(Fault::Issuer), "the gateway issues its client no more tokens");
        let bound: Change = |c| c.applications[0].clients[0].secret = Some(SecretHash::of("the client's"));
        assert_eq!(standing(&token(), bound), Err(Fault::Issuer), "its client is the gateway's own now");
        let without: Change = |c| {
            c.issuers[0].name = OWN_ISSUER.into();
            c.users.clear();
        };
        assert_eq!(standing(&own, without), Err(Fault::Unknown), "a user of the gateway's own tokens was removed");
        let moved: Change = |c| c.applications[0].clients[0].id = "another".into();
        assert_eq!(standing(&token(), moved), Err(Fault::Unknown), "its client is no more the application's");
    }

    #[test]
    fn an_api_that_wants_no_subscription_asks_for_none() {
        let mut config = config();
        config.apis[0].authentication.require_subscription = false;
        let admitted = tables(|empty| *empty = config);
        let grant = Grant { application: None, client: None, ..token() };
        let api = admitted.api("chat", "v1").unwrap();
        assert_eq!(check(&admitted, api, &grant, NOW_S), Ok((NOW_S + 100) * 1000));
        assert_eq!(standing(&grant, |_| {}), Err(Fault::NotSubscribed));
    }

    #[test]
    fn a_revocation_reaches_what_it_names_and_nothing_else() {
        let hash = SecretHash::of("opaque").to_string();
        let opaque = Proof::Opaque { issuer: Arc::from("idp"), hash: SecretHash::of("opaque") };
        let opaque = Grant { proof: opaque, ..token() };
        for (what, [token_hit, key_hit, password_hit, opaque_hit]) in [
            ("token:idp/j1", [true, false, false, false]),
            ("token:idp/j2", [false; 4]),
            ("key:k1", [false, true, false, false]),
            ("client:mobile-client", [true, false, false, true]),
            ("user:alice", [true, false, true, true]),
            ("user:bob", [false; 4]),
            ("application:mobile", [true; 4]),
            ("application:other", [false; 4]),
            ("subscription:mobile/chat:v1", [true; 4]),
            ("subscription:mobile/chat:v2", [false; 4]),
            (&*format!("opaque:{hash}"), [false, false, false, true]),
        ] {
            let cases =
                [(token(), token_hit), (key(), key_hit), (password(), password_hit), (opaque.clone(), opaque_hit)];
            for (grant, is_hit) in cases {
                let expected = if is_hit { Err(Fault::Revoked) } else { Ok(()) };
                assert_eq!(standing(&grant, revoke(what, None)), expected, "{what} of {:?}", grant.proof);
            }
        }
    }

    #[test]
    fn what_was_issued_after_a_revocation_is_good_again() {
        let issued = NOW_S - 100;
        let before = |before_s| standing(&token(), revoke("user:alice", Some(before_s)));
        assert_eq!(
            [before(issued - 1), before(issued), before(issued + 1)].map(|one| one.is_ok()),
            [true, false, false]
        );
        // A password is proof anew at each handshake: sessions that were there go, new ones may come.
        let with = |issued_s| standing(&Grant { issued_s, ..password() }, revoke("user:alice", Some(NOW_S - 10)));
        assert_eq!((with(NOW_S - 20), with(NOW_S)), (Err(Fault::Revoked), Ok(())));
    }

    #[test]
    fn a_key_ends_when_the_tables_say_and_is_no_other_persons() {
        let admitted = tables(|_| {});
        let api = admitted.api("chat", "v1").unwrap();
        let shortened = tables(|config| config.keys[0].expires = Some(Timestamp::from_secs(NOW_S + 60)));
        assert_eq!(check(&admitted, api, &key(), NOW_S), Ok(u64::MAX));
        assert_eq!(check(&shortened, api, &key(), NOW_S), Ok((NOW_S + 60) * 1000));
        assert_eq!(check(&shortened, api, &key(), NOW_S + 60), Err(Fault::Expired));
        assert_eq!(standing(&key(), |c| c.keys[0].user = Some("alice".into())), Err(Fault::Unknown));
        assert_eq!(standing(&key(), |c| c.keys[0].environment = Environment::Sandbox), Err(Fault::Unknown));
    }

    #[test]
    fn a_certificate_is_good_while_its_subject_is_the_users() {
        let with_subject = |config: &mut Config| config.users[0].certificates.push("CN=alice".into());
        let grant = Grant { proof: Proof::Certificate { subject: "CN=alice".into() }, ..password() };
        assert_eq!(standing(&grant, with_subject), Ok(()));
        assert_eq!(standing(&grant, |_| {}), Err(Fault::Unknown));
        let another = |config: &mut Config| {
            with_subject(config);
            config.users[0].application = Some("other".into());
        };
        assert_eq!(standing(&grant, another), Err(Fault::Unknown), "the user's application is another now");
    }

    #[test]
    fn what_was_heard_of_a_token_counts() {
        let grant = token();
        grant.word.set_silence(true);
        assert_eq!(standing(&grant, |_| {}), Ok(()), "it is kept unless the API says otherwise");
        let mut strict = config();
        strict.apis[0].authentication.when_unreachable = WhenUnreachable::Close;
        let strict = tables(|config| *config = strict);
        let api = strict.api("chat", "v1").unwrap();
        assert_eq!(check(&strict, api, &grant, NOW_S), Err(Fault::Unavailable));
        grant.word.withdraw();
        assert_eq!(standing(&grant, |_| {}), Err(Fault::Revoked));
    }

    impl Clone for Grant {
        fn clone(&self) -> Self {
            Self {
                proof: self.proof.clone(),
                client: self.client.clone(),
                application: self.application.clone(),
                user: self.user.clone(),
                scopes: self.scopes.clone(),
                word: Word::default(),
                ..*self
            }
        }
    }
}
