//! Who may come in, for properties: people, issuers and assertions that go with a configuration's APIs.

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use proto::snapshot::{
    ApiKey, Application, Assertion, ClaimNames, ConditionGroup, Conditions, Config, CredentialForm, Denial,
    DenialAction, Duration, Environment, GrantType, Introspection, Issuer, Jwks, KeyRestrictions, KeyedLimit, Limit,
    LimitPolicy, OAuthClient, OWN_ISSUER, OnLimit, PasswordHash, Pem, Plan, Revocation, Secret, SecretHash,
    Subscription, Timestamp, User, WhenUnreachable,
};

const APPLICATIONS: [&str; 4] = ["mobile", "web", "kiosk", "robots"];
const USERS: [&str; 4] = ["alice", "bob@example.com", "Çelik", "d"];
const SCOPES: [&str; 3] = ["chat.read", "chat.write", "admin"];
const ISSUERS: [&str; 2] = ["corp", "partner"];
const REVOKED: [&str; 6] = [
    "user:alice",
    "application:kiosk",
    "key:k1",
    "token:corp/7",
    "subscription:mobile/x:v1",
    "opaque:ab5df625bc76dbd4e163bed2dd888df828f90159bb93556525c31821b6541d46",
];

/// The same configuration, with people in it, and APIs that ask who they are.
pub fn populated(config: impl Strategy<Value = Config>) -> impl Strategy<Value = Config> {
    (config, people(), issuers(), vec(authentication(), 24), limits()).prop_map(
        |(config, people, issuers, asked, limits)| {
            let mut config = with_people(config, people);
            limits.put(&mut config);
            config.issuers = issuers;
            config.assertions = vec![Assertion {
                name: "backend".into(),
                issuer: "https://gateway/".into(),
                key: Pem::Text("-----BEGIN PRIVATE KEY-----\nAAAA".into()),
                key_id: String::new(),
                header: "X-JWT-Assertion".into(),
                lifetime: Duration::from_secs(60),
            }];
            let issuers: Vec<&str> = config.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
            for (api, (forms, is_strict, code, unreachable)) in config.apis.iter_mut().zip(asked) {
                let asked = &mut api.authentication;
                asked.assertion = (is_strict && !forms.is_empty()).then(|| "backend".into());
                asked.accept = forms;
                asked.require_subscription = is_strict;
                asked.close_code = code;
                asked.when_unreachable = unreachable;
                asked.issuers = issuers.iter().map(|name| (*name).to_owned()).collect();
            }
            config
        },
    )
}

/// People, apart from any configuration.
#[derive(Debug, Clone)]
pub struct People {
    applications: Vec<Application>,
    subscriptions: Vec<(Index, Index, bool)>,
    keys: Vec<ApiKey>,
    users: Vec<User>,
    revocations: Vec<Revocation>,
}

/// The same configuration with these people in place of its own.
pub fn with_people(mut config: Config, people: People) -> Config {
    let People { applications, subscriptions, mut keys, mut users, revocations } = people;
    let names: Vec<String> = applications.iter().map(|one| one.name.clone()).collect();
    let is_known = |name: &str| names.iter().any(|one| one == name);
    keys.retain(|key| is_known(&key.application));
    for user in &mut users {
        user.application = user.application.take().filter(|name| is_known(name));
    }
    config.subscriptions = Vec::new();
    if !names.is_empty() && !config.apis.is_empty() {
        for (application, api, enabled) in subscriptions {
            let application = names[application.index(names.len())].clone();
            let api = config.apis[api.index(config.apis.len())].label();
            if !config.subscriptions.iter().any(|one| (&one.application, &one.api) == (&application, &api)) {
                let plan = "AsyncUnlimited".into();
                config.subscriptions.push(Subscription { application, api, plan, enabled });
            }
        }
    }
    Config { applications, keys, users, revocations, ..config }
}

/// See [`People`].
pub fn people() -> impl Strategy<Value = People> {
    let subscriptions = vec((any::<Index>(), any::<Index>(), any::<bool>()), 0..12);
    (applications(), subscriptions, keys(), users(), revocations()).prop_map(
        |(applications, subscriptions, keys, users, revocations)| People {
            applications,
            subscriptions,
            keys,
            users,
            revocations,
        },
    )
}

fn scopes() -> impl Strategy<Value = Vec<String>> {
    subsequence(SCOPES.to_vec(), 0..=3).prop_map(|all| all.into_iter().map(Into::into).collect())
}

fn environment() -> impl Strategy<Value = Environment> {
    any::<bool>().prop_map(|sandbox| if sandbox { Environment::Sandbox } else { Environment::Production })
}

fn timestamp() -> impl Strategy<Value = Option<Timestamp>> {
    option::of((1_u64..4_000_000_000).prop_map(Timestamp::from_secs))
}

/// What a client is made of: its secret's number, its key type, its grants, its scopes.
type DrawnClient = (Option<u32>, Environment, Vec<GrantType>, Vec<String>);

fn applications() -> impl Strategy<Value = Vec<Application>> {
    let grants = vec![GrantType::ClientCredentials, GrantType::Password];
    let client = (option::of(any::<u32>()), environment(), subsequence(grants, 0..=2), scopes());
    let options = (any::<bool>(), option::of(client));
    (subsequence(APPLICATIONS.to_vec(), 0..=4), vec(options, 4)).prop_map(|(names, options)| {
        let one = |(name, (enabled, client)): (&str, (bool, Option<DrawnClient>))| {
            let clients = client.into_iter().map(|(secret, environment, grants, scopes)| {
                let secret = secret.map(|secret| SecretHash::of(&secret.to_string()));
                let issuer = if scopes.is_empty() { String::new() } else { OWN_ISSUER.into() };
                OAuthClient { id: format!("{name}-client"), secret, issuer, environment, grants, scopes }
            });
            Application {
                name: name.into(),
                owner: String::new(),
                enabled,
                clients: clients.collect(),
                ..Application::new("")
            }
        };
        names.into_iter().zip(options).map(one).collect()
    })
}

fn keys() -> impl Strategy<Value = Vec<ApiKey>> {
    let restrictions = (any::<bool>(), scopes()).prop_map(|(inside, scopes)| KeyRestrictions {
        addresses: if inside { vec!["10.0.0.0/8".parse().unwrap()] } else { Vec::new() },
        referrers: if inside { Vec::new() } else { vec!["https://*.example.com/*".into()] },
        scopes,
    });
    let options = (select(APPLICATIONS.to_vec()), environment(), any::<bool>(), timestamp(), option::of(restrictions));
    (btree_set(0_u16..200, 0..40), vec(options, 40)).prop_map(|(numbers, options)| {
        let one = |(number, (application, environment, enabled, expires, restrictions)): (
            u16,
            (&str, _, bool, _, Option<KeyRestrictions>),
        )| {
            let name = format!("k{number}");
            ApiKey {
                application: application.into(),
                sha256: SecretHash::of(&name),
                name: name.into(),
                user: enabled.then(|| "alice".into()),
                environment,
                enabled,
                created: expires,
                expires,
                restrictions: restrictions.map(Box::new),
            }
        };
        numbers.into_iter().zip(options).map(one).collect()
    })
}

fn users() -> impl Strategy<Value = Vec<User>> {
    let options = (any::<[bool; 3]>(), option::of(select(APPLICATIONS.to_vec())), environment(), scopes());
    (subsequence(USERS.to_vec(), 0..=4), vec(options, 4)).prop_map(|(names, options)| {
        let one = |(name, ([password, certificate, enabled], application, environment, scopes)): (
            &str,
            ([bool; 3], Option<&str>, _, _),
        )| {
            let certificates = if certificate { vec![format!("CN={name}")] } else { Vec::new() };
            User {
                name: name.into(),
                password: bool::then(password, || PasswordHash("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA".into())),
                certificates,
                application: application.map(Into::into),
                environment,
                scopes,
                enabled,
            }
        };
        names.into_iter().zip(options).map(one).collect()
    })
}

fn revocations() -> impl Strategy<Value = Vec<Revocation>> {
    (subsequence(REVOKED.to_vec(), 0..=6), vec((timestamp(), timestamp()), 6)).prop_map(|(subjects, times)| {
        let one = |(subject, (issued_before, expires)): (&str, _)| {
            let revoked = subject.parse().unwrap();
            Revocation { revoked, issued_before, expires, reason: String::new() }
        };
        subjects.into_iter().zip(times).map(one).collect()
    })
}

fn issuers() -> impl Strategy<Value = Vec<Issuer>> {
    let options = (any::<[bool; 2]>(), 1000_u64..1 << 30, 0_u64..3_600_000);
    (subsequence(ISSUERS.to_vec(), 0..=2), vec(options, 2)).prop_map(|(names, options)| {
        let one = |(name, ([is_opaque, is_remote], refresh, skew)): (&str, ([bool; 2], _, _))| {
            let introspection = Introspection {
                url: format!("https://{name}.example.com/introspect"),
                client_id: "framegate".into(),
                client_secret: Secret("change-me".into()),
                authorities: String::new(),
                timeout: Duration::from_secs(2),
                cache: Duration::from_secs(30),
                negative_cache: Duration::from_secs(10),
            };
            let jwks = if is_remote {
                Jwks::Url(format!("https://{name}.example.com/keys"))
            } else {
                Jwks::Text("{\"keys\":[]}".into())
            };
            Issuer {
                name: name.into(),
                issuer: format!("https://{name}.example.com/"),
                jwks: Some(jwks),
                refresh: Duration::from_ms(refresh),
                audiences: if is_opaque { Vec::new() } else { vec!["framegate".into()] },
                clock_skew: Duration::from_ms(skew),
                claims: ClaimNames {
                    user: if is_opaque { "sub".into() } else { "email".into() },
                    ..ClaimNames::default()
                },
                introspection: is_opaque.then_some(introspection),
            }
        };
        names.into_iter().zip(options).map(one).collect()
    })
}

fn authentication() -> impl Strategy<Value = (Vec<CredentialForm>, bool, u16, WhenUnreachable)> {
    let unreachable = select(vec![WhenUnreachable::Keep, WhenUnreachable::Close]);
    let forms = subsequence(CredentialForm::ALL.to_vec(), 0..=8);
    (forms, any::<bool>(), select(vec![1008, 3000, 4001]), unreachable)
}

/// Plans and what refers to them, apart from any configuration.
#[derive(Debug, Clone)]
struct Limits {
    plans: Vec<Plan>,
    has_policy: bool,
    is_denied: bool,
}

impl Limits {
    fn put(self, config: &mut Config) {
        let Self { plans, has_policy, is_denied } = self;
        let name = |at: usize| plans.get(at).map_or("AsyncGold", |plan| &*plan.name).to_owned();
        if has_policy {
            let office =
                Conditions { addresses: vec!["192.0.2.0/24".parse().unwrap()], not: true, ..Conditions::default() };
            let group = ConditionGroup { when: vec![office], plan: name(0) };
            config.limit_policies = vec![LimitPolicy { name: "offices".into(), groups: vec![group], plan: name(1) }];
            let key = vec!["address/24".parse().unwrap(), "header:X-Tenant".parse().unwrap()];
            let keyed = KeyedLimit { name: "tenants".into(), key, plan: name(0), apis: Vec::new(), when: Vec::new() };
            config.limits = vec![keyed];
        }
        for (at, api) in config.apis.iter_mut().enumerate() {
            match at % 3 {
                0 if has_policy => api.limit_policy = "offices".into(),
                1 => api.plan = name(at % 2),
                _ => api.topics.iter_mut().for_each(|topic| topic.plan = name(at % 2)),
            }
        }
        config.applications.iter_mut().for_each(|one| one.plan = name(0));
        config.subscriptions.iter_mut().for_each(|one| one.plan = name(1));
        if is_denied {
            let user = Some("mallory".into());
            let denial = Denial {
                name: "mallory".into(),
                api: None,
                application: None,
                user,
                addresses: Vec::new(),
                action: DenialAction::Drop,
                enabled: true,
            };
            config.denials = vec![denial];
        }
        config.plans = plans;
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    let limit = select(vec![
        r#"{"rate": "100/s"}"#,
        r#"{"rate": "2MiB/s", "burst": "64KiB", "count": "bytes"}"#,
        r#"{"quota": "50000/day", "stop": false}"#,
        r#"{"quota": "0/15 minutes", "count": "frames"}"#,
    ]);
    let limit = limit.prop_map(|text| serde_json::from_str::<Limit>(text).unwrap());
    let plan = (subsequence(vec!["gold", "silver"], 0..=2), vec(vec(limit, 0..3), 2), any::<u8>());
    (plan, any::<bool>(), any::<bool>()).prop_map(|((names, limits, odd), has_policy, is_denied)| {
        let plans = names.into_iter().zip(limits).map(|(name, limits)| {
            let on_limit = OnLimit { notices: u32::from(odd), ..OnLimit::default() };
            Plan { on_limit, sessions_max: u32::from(odd % 3), ..Plan::new(name, limits) }
        });
        Limits { plans: plans.collect(), has_policy, is_denied }
    })
}
