//! Applications, subscriptions, keys, users, revocations; issuers, assertions and the token endpoint.
//!
//! What people are and refer to is checked where a configuration is written; a data plane looks it up as it is used.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::limits::{Limits, PlanNames};
use super::policy::written_header_problem;
use super::words::{claim_problem, free_header_problem, http_url_problem, scope_problem, text_problem};
use super::{Names, Problems, Spot, tls};
use crate::limits::{
    API_KEYS_MAX, APPLICATIONS_MAX, CIDRS_MAX, CLIENTS_MAX, ISSUERS_MAX, JWKS_BYTES_MAX, JWKS_KEYS_MAX, REVOKED_MAX,
    SCOPES_MAX, SUBJECT_BYTES_MAX, SUBSCRIPTIONS_MAX, USERS_MAX, WORD_BYTES_MAX,
};
use crate::snapshot::{
    Api, ApiKey, Application, Assertion, Config, GrantType, Issuer, Jwks, OAuthClient, OWN_ISSUER, Revocation,
    SecretHash, SigningAlgorithm, Subscription, TokenEndpoint, User,
};

/// Keys that the gateway may have made while one of its tokens lasts: half of what an issuer may have.
const ROTATIONS_MAX: u64 = JWKS_KEYS_MAX as u64 / 2;

/// The families of a document that say who may come in.
pub(super) struct People<'a> {
    pub(super) applications: &'a [Application],
    pub(super) subscriptions: &'a [Subscription],
    pub(super) keys: &'a [ApiKey],
    pub(super) users: &'a [User],
    pub(super) revocations: &'a [Revocation],
}

impl<'a> People<'a> {
    pub(super) fn of(config: &'a Config) -> Self {
        Self {
            applications: &config.applications,
            subscriptions: &config.subscriptions,
            keys: &config.keys,
            users: &config.users,
            revocations: &config.revocations,
        }
    }

    pub(super) fn check(&self, others: &Config, problems: &mut Problems) {
        let plans = Limits::of(others).names();
        for (family, count, ceiling) in [
            ("applications", self.applications.len(), APPLICATIONS_MAX),
            ("subscriptions", self.subscriptions.len(), SUBSCRIPTIONS_MAX),
            ("keys", self.keys.len(), API_KEYS_MAX),
            ("users", self.users.len(), USERS_MAX),
            ("revocations", self.revocations.len(), REVOKED_MAX),
        ] {
            problems.ceiling(format_args!("/{family}"), family, count, ceiling);
        }
        let applications: HashSet<&str> = self.applications.iter().map(|one| one.name.as_str()).collect();
        let clients = self.applications(&others.issuers, &plans, problems);
        self.subscriptions(&applications, &others.apis, &plans, problems);
        self.keys(&applications, problems);
        self.users(&applications, &clients, problems);
        self.revocations(problems);
    }

    /// What there is of clients, each with its application.
    fn applications(
        &self,
        issuers: &[Issuer],
        plans: &PlanNames<'_>,
        problems: &mut Problems,
    ) -> HashMap<&'a str, Spot<'a>> {
        let mut names = HashMap::new();
        let mut clients: HashMap<&str, Spot<'_>> = HashMap::new();
        let issuers: HashSet<&str> = issuers.iter().map(|one| one.name.as_str()).chain([OWN_ISSUER]).collect();
        for (at, application) in self.applications.iter().enumerate() {
            let spot = problems.spot("applications", at, &application.name, "");
            super::entry::unique_name(&mut names, "application", &application.name, spot, problems);
            problems.add_if(format_args!("{spot}/owner"), text_problem("the owner", &application.owner));
            plans.known(&application.plan, format_args!("{spot}/plan"), problems);
            problems.ceiling(format_args!("{spot}/clients"), "clients", application.clients.len(), CLIENTS_MAX);
            for (index, client) in application.clients.iter().enumerate() {
                let place = format_args!("{spot}/clients/{index}");
                problems.add_if(format_args!("{place}/id"), client_problem(&client.id));
                if let Some(other) = clients.insert(&client.id, spot) {
                    let message = format!(
                        "the client {:?} is one of application {:?} ({other}) already; give it another id",
                        client.id, other.label.0
                    );
                    problems.add(format_args!("{place}/id"), message);
                }
                problems.add_if(format_args!("{place}/issuer"), issuer_problem(client, &issuers));
                if client.grants.contains(&GrantType::RefreshToken) && client.grants.len() == 1 {
                    let message = "refresh_token alone gets no first token; add client_credentials or password";
                    problems.add(format_args!("{place}/grants"), message);
                }
                scopes(&client.scopes, format_args!("{place}/scopes"), problems);
            }
        }
        clients
    }

    fn subscriptions(
        &self,
        applications: &HashSet<&str>,
        apis: &[Api],
        plans: &PlanNames<'_>,
        problems: &mut Problems,
    ) {
        let labels: HashSet<String> =
            if self.subscriptions.is_empty() { HashSet::new() } else { apis.iter().map(Api::label).collect() };
        let mut seen = HashMap::with_capacity(self.subscriptions.len());
        for (at, one) in self.subscriptions.iter().enumerate() {
            let spot = problems.spot("subscriptions", at, &one.application, &one.api);
            known_application(Some(&one.application), applications, format_args!("{spot}/application"), problems);
            if !labels.contains(one.api.as_str()) {
                let message = format!(
                    "there is no API {:?}; write name:version, or the name of an API without versions",
                    one.api
                );
                problems.add(format_args!("{spot}/api"), message);
            }
            if let Some(other) = seen.insert((&one.application, &one.api), spot) {
                let message =
                    format!("{:?} has another subscription to {:?} ({other}); keep one", one.application, one.api);
                problems.add(format_args!("{spot}/api"), message);
            }
            plans.known(&one.plan, format_args!("{spot}/plan"), problems);
        }
    }

    fn keys(&self, applications: &HashSet<&str>, problems: &mut Problems) {
        let mut names = HashMap::with_capacity(self.keys.len());
        let mut hashes: HashMap<&SecretHash, usize> = HashMap::with_capacity(self.keys.len());
        for (at, key) in self.keys.iter().enumerate() {
            let spot = problems.spot("keys", at, &key.name, "");
            super::entry::unique_name(&mut names, "key", &key.name, spot, problems);
            known_application(Some(&key.application), applications, format_args!("{spot}/application"), problems);
            if let Some(index) = hashes.insert(&key.sha256, at) {
                let other = problems.spot("keys", index, &self.keys[index].name, "");
                let message = format!("this is the key {:?} ({other}); leave one out", other.label.0);
                problems.add(format_args!("{spot}/sha256"), message);
            }
            let user = key.user.as_deref().and_then(user_problem);
            problems.add_if(format_args!("{spot}/user"), user);
            let Some(restrictions) = &key.restrictions else { continue };
            let place = format_args!("{spot}/restrictions");
            let (addresses, referrers) = (&restrictions.addresses, &restrictions.referrers);
            problems.ceiling(format_args!("{place}/addresses"), "address ranges", addresses.len(), CIDRS_MAX);
            problems.ceiling(format_args!("{place}/referrers"), "referrers", referrers.len(), SCOPES_MAX);
            for (index, referrer) in restrictions.referrers.iter().enumerate() {
                problems.add_if(format_args!("{place}/referrers/{index}"), text_problem("a referrer", referrer));
            }
            scopes(&restrictions.scopes, format_args!("{place}/scopes"), problems);
        }
    }

    fn users(&self, applications: &HashSet<&str>, clients: &HashMap<&str, Spot<'_>>, problems: &mut Problems) {
        let mut names: HashMap<&str, usize> = HashMap::with_capacity(self.users.len());
        let mut subjects: HashMap<&str, Spot<'_>> = HashMap::new();
        for (at, user) in self.users.iter().enumerate() {
            let spot = problems.spot("users", at, &user.name, "");
            problems.add_if(format_args!("{spot}/name"), user_problem(&user.name));
            if let Some(index) = names.insert(&user.name, at) {
                let other = Spot { index, ..spot };
                let message = format!("there is another user {:?} ({other}); rename one", user.name);
                problems.add(format_args!("{spot}/name"), message);
            }
            if let Some(other) = clients.get(user.name.as_str()) {
                // A token whose subject is its client is nobody's but the client's, RFC 9068 §2.2.
                let message = format!(
                    "a client of application {:?} ({other}) has the id {:?}; rename the user, or the client",
                    other.label.0, user.name
                );
                problems.add(format_args!("{spot}/name"), message);
            }
            let application = user.application.as_deref();
            known_application(application, applications, format_args!("{spot}/application"), problems);
            if user.password.as_ref().is_some_and(|hash| !hash.0.starts_with("$argon2")) {
                let message = "this is no Argon2 hash; framegate user hash makes one of a password";
                problems.add(format_args!("{spot}/password"), message);
            }
            scopes(&user.scopes, format_args!("{spot}/scopes"), problems);
            for (index, subject) in user.certificates.iter().enumerate() {
                let place = format_args!("{spot}/certificates/{index}");
                problems.add_if(place, text_problem("a subject", subject));
                if let Some(other) = subjects.insert(subject, spot) {
                    let message =
                        format!("this subject is the user {:?} ({other}) already; leave one out", other.label.0);
                    problems.add(place, message);
                }
            }
        }
    }

    fn revocations(&self, problems: &mut Problems) {
        let mut seen = HashMap::with_capacity(self.revocations.len());
        for (at, one) in self.revocations.iter().enumerate() {
            let spot = problems.spot("revocations", at, "", "");
            problems.add_if(format_args!("{spot}/reason"), text_problem("the reason", &one.reason));
            if one.revoked.subject.len() > SUBJECT_BYTES_MAX {
                let message = format!("what is revoked has at most {SUBJECT_BYTES_MAX} bytes");
                problems.add(format_args!("{spot}/revoked"), message);
            }
            if let Some(other) = seen.insert(&one.revoked, spot) {
                let message = format!("another entry ({other}) revokes {} too; keep one", one.revoked);
                problems.add(format_args!("{spot}/revoked"), message);
            }
        }
    }
}

/// Whose tokens are believed.
pub(super) fn issuers(issuers: &[&Issuer], names: &Names<'_>, problems: &mut Problems) {
    let mut known = HashMap::new();
    let mut identifiers: HashMap<&str, &str> = HashMap::new();
    for (at, issuer) in issuers.iter().enumerate() {
        let spot = problems.spot("issuers", at, &issuer.name, "");
        super::entry::unique_name(&mut known, "issuer", &issuer.name, spot, problems);
        if issuer.issuer.is_empty() || issuer.issuer.len() > WORD_BYTES_MAX {
            let message = format!("the iss of its tokens has 1 to {WORD_BYTES_MAX} bytes; write what they say");
            problems.add(format_args!("{spot}/issuer"), message);
        }
        if let Some(other) = identifiers.insert(&issuer.issuer, &issuer.name) {
            let message = format!("the issuer {other:?} has the same iss, {:?}; leave one out", issuer.issuer);
            problems.add(format_args!("{spot}/issuer"), message);
        }
        match (&issuer.jwks, &issuer.introspection) {
            (None, None) => {
                let message = "without jwks and introspection no token of it can be believed; add one of them";
                problems.add(format_args!("{spot}/jwks"), message);
            }
            (Some(Jwks::Url(url)), _) => problems.add_if(format_args!("{spot}/jwks"), http_url_problem(url)),
            (Some(Jwks::Text(text)), _) if text.len() > JWKS_BYTES_MAX => {
                let message = format!("this set of keys has {} bytes; {JWKS_BYTES_MAX} are allowed", text.len());
                problems.add(format_args!("{spot}/jwks"), message);
            }
            _ => {}
        }
        problems.duration(format_args!("{spot}/refresh"), issuer.refresh, 1000);
        problems.duration_up_to(format_args!("{spot}/clock_skew"), issuer.clock_skew, 0, 3_600_000);
        problems.ceiling(format_args!("{spot}/audiences"), "audiences", issuer.audiences.len(), SCOPES_MAX);
        let claims = &issuer.claims;
        let of_client = claims.client.iter().map(|name| ("client", name));
        let others = [("user", &claims.user), ("scope", &claims.scope), ("environment", &claims.environment)];
        for (field, name) in of_client.chain(others) {
            problems.add_if(format_args!("{spot}/claims/{field}"), claim_problem(name));
        }
        let Some(introspection) = &issuer.introspection else { continue };
        let place = format_args!("{spot}/introspection");
        problems.add_if(format_args!("{place}/url"), http_url_problem(&introspection.url));
        authorities(&introspection.authorities, names, format_args!("{place}/authorities"), problems);
        problems.duration_up_to(format_args!("{place}/timeout"), introspection.timeout, 1, 60_000);
        problems.duration(format_args!("{place}/cache"), introspection.cache, 1000);
        problems.duration(format_args!("{place}/negative_cache"), introspection.negative_cache, 0);
    }
}

/// Who signs for backends.
pub(super) fn assertions(assertions: &[&Assertion], names: &Names<'_>, problems: &mut Problems) {
    let mut known = HashMap::new();
    for (at, assertion) in assertions.iter().enumerate() {
        let spot = problems.spot("assertions", at, &assertion.name, "");
        super::entry::unique_name(&mut known, "assertion", &assertion.name, spot, problems);
        problems.add_if(format_args!("{spot}/header"), written_header_problem(&assertion.header, names));
        problems.add_if(format_args!("{spot}/issuer"), text_problem("the issuer", &assertion.issuer));
        problems.add_if(format_args!("{spot}/key_id"), text_problem("the key's id", &assertion.key_id));
        problems.duration_up_to(format_args!("{spot}/lifetime"), assertion.lifetime, 1000, 86_400_000);
    }
}

/// The gateway's own tokens.
pub(super) fn token_endpoint(config: &Config, problems: &mut Problems) {
    let Some(endpoint) = &config.token_endpoint else { return };
    let TokenEndpoint { issuer, tls, algorithm, signing_key, .. } = endpoint;
    problems.add_if("/token_endpoint/issuer", http_url_problem(issuer));
    if config.issuers.iter().any(|one| one.name == OWN_ISSUER || one.issuer == *issuer) {
        let message = "one of issuers has the name framegate, or this issuer's URL: both are the gateway's own";
        problems.add("/token_endpoint/issuer", message);
    }
    // The gateway is one of them then.
    problems.ceiling("/issuers", "issuers beside the token endpoint", config.issuers.len(), ISSUERS_MAX - 1);
    if let Some(listener) = config.listeners.iter().find(|listener| listener.bind == endpoint.bind) {
        let message = format!("listener {:?} already takes {}; choose another address", listener.name, endpoint.bind);
        problems.add("/token_endpoint/bind", message);
    }
    if *algorithm == SigningAlgorithm::Rs256 && signing_key.is_none() {
        problems.add("/token_endpoint/signing_key", "RS256 needs an RSA key of yours; name its PEM file");
    }
    problems.duration("/token_endpoint/rotate_every", endpoint.rotate_every, 1000);
    // Each key is published as long as its tokens last, and there is room for so many.
    if endpoint.access_token_lifetime.as_ms() / endpoint.rotate_every.as_ms().max(1) > ROTATIONS_MAX {
        let message =
            format!("more than {ROTATIONS_MAX} keys would be made while one token lasts; make them less often");
        problems.add("/token_endpoint/rotate_every", message);
    }
    problems.duration("/token_endpoint/access_token_lifetime", endpoint.access_token_lifetime, 1000);
    problems.duration("/token_endpoint/refresh_token_lifetime", endpoint.refresh_token_lifetime, 0);
    let Some(tls) = tls else { return };
    let names = Names {
        certificates: config.certificates.iter().map(|certificate| certificate.name.as_str()).collect(),
        authorities: config.authorities.iter().map(|authorities| authorities.name.as_str()).collect(),
        ..Names::default()
    };
    tls::spoken_with(tls, &names, "/token_endpoint", problems);
}

/// What an API asks of its clients.
pub(super) fn authentication(api: &Api, names: &Names<'_>, spot: Spot<'_>, problems: &mut Problems) {
    let asked = &api.authentication;
    let place = format_args!("{spot}/authentication");
    for (at, form) in asked.accept.iter().enumerate() {
        if asked.accept[..at].contains(form) {
            problems.add(format_args!("{place}/accept/{at}"), "this stands here twice; leave one out");
        }
    }
    super::api::words(
        &asked.issuers,
        format_args!("{place}/issuers"),
        |name| {
            let is_known = names.issuers.contains(name) || name == OWN_ISSUER;
            (!is_known).then(|| format!("there is no issuer {name:?}; correct the name, or add it under issuers"))
        },
        problems,
    );
    let of_headers = [("authorization_header", &asked.authorization_header), ("api_key_name", &asked.api_key_name)];
    for (field, name) in of_headers {
        let is_usual = name.eq_ignore_ascii_case("authorization");
        let fault = if is_usual { None } else { free_header_problem(name) };
        problems.add_if(format_args!("{place}/{field}"), fault);
    }
    problems.add_if(format_args!("{place}/cookie_name"), free_header_problem(&asked.cookie_name));
    if !matches!(asked.close_code, 1008 | 3000 | 4000..=4999) {
        let message = format!("{} is not a code for this; use 1008, 3000, or 4000 to 4999", asked.close_code);
        problems.add(format_args!("{place}/close_code"), message);
    }
    if let Some(name) = asked.assertion.as_deref().filter(|name| !names.assertions.contains(name)) {
        let message = format!("there is no assertion {name:?}; correct the name, or add it under assertions");
        problems.add(format_args!("{place}/assertion"), message);
    } else if asked.assertion.is_some() && asked.is_open() {
        let message = "an open API knows nobody to tell of: say under authentication which credentials it accepts";
        problems.add(format_args!("{place}/assertion"), message);
    }
    for (at, topic) in api.topics.iter().enumerate().filter(|(_, topic)| !topic.scopes.is_empty()) {
        let place = format_args!("{spot}/topics/{at}/scopes");
        scopes(&topic.scopes, place, problems);
        if asked.is_open() {
            problems.add(place, "scopes are credentials': say under authentication which the API accepts");
        }
    }
}

/// Names of authorities where an empty one means the operating system's.
pub(super) fn authorities(name: &str, names: &Names<'_>, place: impl fmt::Display, problems: &mut Problems) {
    if !name.is_empty() && !names.authorities.contains(name) {
        let message = format!("there are no authorities {name:?}; correct the name, or add them under authorities");
        problems.add(place, message);
    }
}

fn scopes(scopes: &[String], place: impl fmt::Display + Copy, problems: &mut Problems) {
    problems.ceiling(place, "scopes", scopes.len(), SCOPES_MAX);
    super::api::words(scopes, place, scope_problem, problems);
}

fn known_application(
    name: Option<&str>,
    applications: &HashSet<&str>,
    place: impl fmt::Display,
    problems: &mut Problems,
) {
    if let Some(name) = name.filter(|name| !applications.contains(name)) {
        let message = format!("there is no application {name:?}; correct the name, or add it under applications");
        problems.add(place, message);
    }
}

/// Whose tokens may say that they are this client's.
fn issuer_problem(client: &OAuthClient, known: &HashSet<&str>) -> Option<String> {
    let issuer = client.issuer.as_str();
    if issuer.is_empty() {
        None
    } else if !known.contains(issuer) {
        let message = "correct the name, or add it under issuers";
        Some(format!("there is no issuer {issuer:?}, whose tokens the client {:?} is to have; {message}", client.id))
    } else if client.secret.is_some() && issuer != OWN_ISSUER {
        Some(format!("a client with a secret has the gateway's own tokens, not those of {issuer:?}; leave one out"))
    } else {
        None
    }
}

/// `client_id`, RFC 6749 appendix A.1; here without blanks, so that it is one word of a log.
fn client_problem(id: &str) -> Option<String> {
    let is_sound = !id.is_empty() && id.len() <= 256 && id.bytes().all(|byte| byte.is_ascii_graphic());
    (!is_sound).then(|| format!("{id:?} is not a client's id; use 1 to 256 visible ASCII characters without blanks"))
}

/// A user's name is whatever an issuer calls people: no colon (RFC 7617 §2), nothing that cannot be seen.
fn user_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("the user's name is empty".into());
    }
    let fault = name.contains([':', '/']).then(|| format!("the name {name:?} has a colon or a slash; rename the user"));
    fault.or_else(|| text_problem("the name", name))
}
