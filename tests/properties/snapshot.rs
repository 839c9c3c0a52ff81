//! Snapshots, pushes, tables and routes: what holds for every sound configuration.
//!
//! Routing is compared with a shadow that reads the list of APIs from one end to the other and does nothing clever.

use std::cmp::Reverse;
use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dataplane::refusal::Refusal;
use dataplane::route::{RouteRequest, select};
use dataplane::tables::Tables;
use proptest::prelude::*;
use proto::control::Message;
use proto::control::message::{Generation, Push};
use proto::snapshot::{
    Api, Config, ContextMatch, Edit, Environment, Section, SectionName, Snapshot, Topic, has_dot_segment,
};
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;

use crate::config::{
    config, people, populated, request_host, request_listener, request_path, whole_config, with_people,
};
use crate::secrets::Secrets;

fn generation() -> Generation {
    Generation { source: "properties".into(), number: 1 }
}

fn snapshot(config: &Config) -> Snapshot {
    Snapshot::check(config.clone()).unwrap()
}

/// What routing answers, as text: API, topic, what is appended, and whose endpoint.
type Answer = Result<(String, String, Option<String>), Refusal>;

fn routed(tables: &Tables, request: &RouteRequest<'_>) -> Answer {
    select(tables, request).map(|route| (route.api.label.to_string(), route.topic.to_string(), route.suffix))
}

proptest! {
    #[test]
    fn a_configuration_survives_every_encoding(config in whole_config()) {
        let json = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Config>(&json).unwrap(), &config);
        let bytes = rmp_serde::to_vec_named(&config).unwrap();
        prop_assert_eq!(&rmp_serde::from_slice::<Config>(&bytes).unwrap(), &config);
    }

    #[test]
    fn a_push_becomes_the_snapshot_it_was_made_of(config in whole_config()) {
        let snapshot = snapshot(&config);
        let message = Message::Push(Push::new(generation(), &snapshot, &HashSet::new()));
        let bytes = message.encode().unwrap();
        let Message::Push(push) = Message::decode(&bytes[4..]).unwrap() else { panic!("another kind") };
        let (_, assembled) = push.assemble(None).unwrap();
        prop_assert_eq!(assembled.list(), snapshot.list());
        for key in &config.keys {
            prop_assert_eq!(assembled.key(&key.sha256), Some(key));
        }
        for one in &config.subscriptions {
            prop_assert_eq!(assembled.subscription(&one.application, &one.api), Some(one));
        }
        for one in &config.users {
            prop_assert_eq!(assembled.user(&one.name), Some(one));
        }
        for one in &config.revocations {
            prop_assert_eq!(assembled.revocation(one.revoked.kind, &one.revoked.subject), Some(one));
        }
        prop_assert_eq!(assembled.to_config(), snapshot.to_config());
    }

    #[test]
    fn equal_configurations_have_equal_checksums_in_whatever_order(config in whole_config(), turn in 0_usize..24) {
        let mut turned = config.clone();
        let middle = turn.min(turned.apis.len());
        turned.apis.rotate_left(middle);
        turned.upstreams.reverse();
        turned.listeners.reverse();
        turned.certificates.reverse();
        turned.authorities.reverse();
        turned.applications.reverse();
        turned.subscriptions.reverse();
        turned.keys.reverse();
        turned.users.reverse();
        turned.revocations.reverse();
        turned.issuers.reverse();
        prop_assert_eq!(snapshot(&config).checksum(), snapshot(&turned).checksum());
    }

    #[test]
    fn one_changed_api_is_one_body(config in whole_config(), at in any::<prop::sample::Index>()) {
        prop_assume!(!config.apis.is_empty());
        let before = snapshot(&config);
        let mut changed = config.clone();
        let api = &mut changed.apis[at.index(config.apis.len())];
        api.limits.max_fragments ^= 1;
        let after = snapshot(&changed);
        prop_assert_ne!(before.checksum(), after.checksum());
        let push = Push::new(generation(), &after, &before.list().into_iter().map(|(_, digest)| digest).collect());
        prop_assert_eq!(push.bodies.len(), 1);
        let (_, assembled) = push.assemble(Some(&before)).unwrap();
        prop_assert_eq!(assembled.to_config(), after.to_config());
    }

    #[test]
    fn edits_of_people_make_what_checking_the_whole_makes(
        config in populated(config()),
        others in people(),
    ) {
        let edited = with_people(config.clone(), others);
        let kept = |hash| edited.keys.iter().any(|key| key.sha256 == hash);
        let gone = config.keys.iter().map(|key| key.sha256).filter(|hash| !kept(*hash)).map(Edit::NoKey);
        // All of the others go, whether they come again or not.
        let gone = gone
            .chain(config.applications.iter().map(|one| Edit::NoApplication(one.name.clone())))
            .chain(config.subscriptions.iter().map(|one| Edit::NoSubscription(one.application.clone(), one.api.clone())))
            .chain(config.users.iter().map(|one| Edit::NoUser(one.name.clone())))
            .chain(config.revocations.iter().map(|one| Edit::NoRevocation(one.revoked.clone())));
        let come = (edited.applications.iter().cloned().map(Edit::Application))
            .chain(edited.subscriptions.iter().cloned().map(Edit::Subscription))
            .chain(edited.keys.iter().cloned().map(Edit::Key))
            .chain(edited.users.iter().cloned().map(Edit::User))
            .chain(edited.revocations.iter().cloned().map(Edit::Revocation));
        let (before, after) = (snapshot(&config), snapshot(&edited));
        prop_assert_eq!(before.edited(gone.chain(come)).unwrap().list(), after.list());
        prop_assert_eq!(before.with_people_of(&after).list(), after.list());
        prop_assert_eq!(before.has_people_of(&after), before.list() == after.list());
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_push_is_noticed(config in whole_config(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut push = Push::new(generation(), &snapshot(&config), &HashSet::new());
        let body = at.index(push.bodies.len());
        let byte = at.index(push.bodies[body].bytes.len());
        push.bodies[body].bytes[byte] ^= 1 << bit;
        prop_assert!(push.assemble(None).is_err());
    }

    #[test]
    fn bytes_that_are_no_section_are_refused_quietly(bytes in prop::collection::vec(any::<u8>(), 0..200), bucket in any::<u8>()) {
        let whole = [
            SectionName::Settings,
            SectionName::Listeners,
            SectionName::Authorities,
            SectionName::Issuers,
            SectionName::Assertions,
            SectionName::Plans,
            SectionName::LimitPolicies,
            SectionName::Limits,
            SectionName::Denials,
        ];
        let buckets = [
            SectionName::Upstreams(bucket),
            SectionName::Apis(bucket),
            SectionName::Certificates(bucket),
            SectionName::Applications(bucket),
            SectionName::Subscriptions(bucket),
            SectionName::Keys(bucket),
            SectionName::Users(bucket),
            SectionName::Revocations(bucket),
        ];
        for name in whole.into_iter().chain(buckets) {
            if let Ok(section) = Section::decode(name, &bytes) {
                prop_assert_eq!(Section::decode(name, &section.encode()), Ok(section));
            }
        }
    }

    #[test]
    fn routing_agrees_with_reading_the_whole_list(
        config in config(),
        requests in prop::collection::vec((request_listener(), request_host(), request_path(), any::<bool>()), 40),
    ) {
        let tables = Tables::build(generation(), &snapshot(&config), None).unwrap();
        for (listener, host, path, sandbox) in &requests {
            let environment = if *sandbox { Environment::Sandbox } else { Environment::Production };
            let request = RouteRequest { listener, host, path, environment };
            prop_assert_eq!(routed(&tables, &request), shadow(&config, &request), "{:?}", request);
        }
    }

    #[test]
    fn tables_built_on_others_answer_as_if_built_from_nothing(
        configs in prop::collection::vec(config(), 3),
        requests in prop::collection::vec((request_listener(), request_host(), request_path()), 20),
    ) {
        let mut tables: Option<Tables> = None;
        for config in &configs {
            let snapshot = snapshot(config);
            let fresh = Tables::build(generation(), &snapshot, None).unwrap();
            let next = Tables::build(generation(), &snapshot, tables.as_ref()).unwrap();
            for (listener, host, path) in &requests {
                let request = RouteRequest { listener, host, path, environment: Environment::Production };
                prop_assert_eq!(routed(&next, &request), routed(&fresh, &request));
            }
            let labels = |tables: &Tables| tables.apis().map(|entry| entry.api.clone()).collect::<Vec<_>>();
            prop_assert_eq!(labels(&next), labels(&fresh));
            prop_assert_eq!(next.endpoints().count(), fresh.endpoints().count());
            tables = Some(next);
        }
    }
}

/// The rules of resolution, said once more: every API is looked at, the best place wins.
fn shadow(config: &Config, request: &RouteRequest<'_>) -> Answer {
    // A listener that is not known was closed a moment ago: it still leads to what every listener leads to.
    if !request.path.starts_with('/') || has_dot_segment(request.path) {
        return Err(Refusal::NoApi);
    }
    let path = segments(request.path.strip_suffix('/').unwrap_or(request.path));
    let mut best: Option<((usize, usize), &Api)> = None;
    for api in &config.apis {
        if !api.listeners.is_empty() && !api.listeners.iter().any(|name| name == request.listener) {
            continue;
        }
        let Some(host) = host_rank(api, request.host) else { continue };
        for context in std::iter::once(api.path()).chain(api.default_path()) {
            let context = if context == "/" { Vec::new() } else { segments(&context) };
            let reached = match api.context_match {
                ContextMatch::Longest => path.starts_with(&context),
                ContextMatch::Exact => path == context,
            };
            let rank = (host, context.len());
            if reached && best.is_none_or(|(held, _)| rank > held) {
                best = Some((rank, api));
            }
        }
    }
    let ((_, depth), api) = best.ok_or(Refusal::NoApi)?;
    if !api.enabled {
        return Err(Refusal::NoApi);
    }
    let (topic, suffix) = topic(api, &path[depth..]).ok_or(Refusal::NoTopic)?;
    let target = match request.environment {
        Environment::Production => &api.endpoints.production,
        Environment::Sandbox => &api.endpoints.sandbox,
    };
    target.as_ref().ok_or(Refusal::NoEnvironment)?;
    Ok((api.label(), topic, suffix))
}

/// What stands behind each slash.
fn segments(path: &str) -> Vec<String> {
    path.split('/').skip(1).map(Into::into).collect()
}

/// How narrowly an API names a host: not at all, by a wildcard of some length, or exactly.
fn host_rank(api: &Api, host: &str) -> Option<usize> {
    if api.hosts.is_empty() {
        return Some(0);
    }
    let rank = |name: &String| match name.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix).then_some(suffix.len()),
        None => (name == host).then_some(usize::MAX),
    };
    api.hosts.iter().filter_map(rank).max()
}

/// The best topic for these segments and what its mapping makes of them.
fn topic(api: &Api, rest: &[String]) -> Option<(String, Option<String>)> {
    if api.topics.is_empty() {
        return Some(("/*".into(), None));
    }
    let matching = api.topics.iter().filter_map(|topic| match_topic(topic, rest));
    let (_, topic, suffix) = matching.min_by(|(one, ..), (other, ..)| one.cmp(other))?;
    Some((topic, suffix))
}

/// Exact, parameters, `*`; longer `*` first; earlier literals first.
type Rank = (u8, Reverse<usize>, Vec<bool>);

fn match_topic(topic: &Topic, rest: &[String]) -> Option<(Rank, String, Option<String>)> {
    let mut words = if topic.topic == "/" { Vec::new() } else { segments(&topic.topic) };
    let open = words.last().is_some_and(|word| word == "*");
    if open {
        words.pop();
    }
    if rest.len() < words.len() || !open && rest.len() > words.len() {
        return None;
    }
    let mut suffix = topic.mapping.clone();
    let mut variable = Vec::new();
    for (word, value) in words.iter().zip(rest) {
        variable.push(word.starts_with('{'));
        if word.starts_with('{') && !value.is_empty() {
            suffix = suffix.map(|suffix| suffix.replace(word, value));
        } else if word != value {
            return None;
        }
    }
    let left = rest[words.len()..].join("/");
    suffix = suffix.map(|suffix| match suffix.strip_suffix("/*") {
        Some(fixed) if left.is_empty() => fixed.to_owned(),
        Some(fixed) => format!("{fixed}/{left}"),
        None => suffix,
    });
    let class = if open { 2 } else { u8::from(variable.contains(&true)) };
    let length = if open { words.len() } else { 0 };
    Some(((class, Reverse(length), variable), topic.topic.clone(), suffix))
}

/// Whatever is written for developers, at whichever level of the log: none of it shows what was to be kept.
#[test]
fn debug_shows_no_secret() {
    let hashes = ["key", "client"].map(proto::snapshot::SecretHash::of);
    let [key, client] = hashes.map(|hash| hash.to_string());
    let [introspection, password] = ["the-secret-of-introspection", "the-hash-of-a-password"];
    let mut secrets = Secrets::new();
    for secret in [introspection, password, &key, &client] {
        secrets.add(secret, secret);
    }
    hashes.iter().for_each(|hash| secrets.add_bytes("a hash", &hash.0));
    let mut private_key = || {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        secrets.add_private_key("a private key", key.as_ref());
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(key))
    };
    let value = serde_json::json!({
        "version": 1,
        "listeners": [{ "name": "public", "bind": "127.0.0.1:8080" }],
        "apis": [{
            "name": "chat", "context": "/chat", "endpoints": { "production": { "url": "ws://127.0.0.1:9001/" } },
            "authentication": { "accept": ["bearer"], "assertion": "backend" },
        }],
        "applications": [{ "name": "app", "clients": [{ "id": "web", "secret": client }] }],
        "keys": [{ "name": "one", "application": "app", "sha256": key }],
        "users": [{ "name": "alice", "password": format!("$argon2id$v=19$m=64,t=1,p=1${password}$x") }],
        "issuers": [{
            "name": "opaque", "issuer": "https://opaque.test",
            "introspection": { "url": "https://opaque.test/", "client_id": "gateway", "client_secret": introspection },
        }],
        "assertions": [{ "name": "backend", "issuer": "https://gateway.test", "key": private_key() }],
        "token_endpoint": { "bind": "127.0.0.1:8090", "issuer": "http://127.0.0.1:8090", "signing_key": private_key() },
    });
    let config: Config = serde_json::from_value(value).unwrap();
    let snapshot = snapshot(&config);
    let push = Push::new(generation(), &snapshot, &HashSet::new());
    let (sections, decoded) = (format!("{:?}", snapshot.sections()), format!("{:?}", snapshot.to_config()));
    let message = format!("{:?}", Message::Push(push));
    let tables = Tables::build(generation(), &snapshot, None).unwrap();
    for (what, shown) in [
        ("config", format!("{config:?}")),
        ("snapshot", format!("{snapshot:?}")),
        ("sections", sections),
        ("decoded", decoded),
        ("push", message),
        ("tables", format!("{tables:?}")),
    ] {
        secrets.expect_none(what, shown.as_bytes());
    }
}
