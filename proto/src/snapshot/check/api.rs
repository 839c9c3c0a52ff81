//! Published APIs, each by itself and against the names it refers to. Which paths they take from each other is in
//! [`reach`](super::reach).

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::entry::url_problem;
use super::words::{host_problem, name_problem, origin_problem};
use super::{Names, Problems, Spot, identity, policy, tls};
use crate::limits::{
    FRAME_PAYLOAD_MAX, HOSTS_MAX, LISTENERS_MAX, ORIGINS_MAX, SEND_BUDGET_MAX, SEND_BUDGET_MIN, TOPICS_MAX,
};
use crate::snapshot::path::{Mapping, Pattern, context_problem};
use crate::snapshot::{Api, ContextMatch, Endpoints, MessageLimits, SessionOptions, Size, Target};

pub(super) fn apis(apis: &[&Api], names: &Names<'_>, problems: &mut Problems) {
    let mut versions = HashMap::with_capacity(apis.len());
    let mut defaults: HashMap<&str, &str> = HashMap::new();
    for (at, api) in apis.iter().enumerate() {
        let spot = problems.spot("apis", at, &api.name, &api.version);
        problems.add_if(format_args!("{spot}/name"), name_problem("the API's name", &api.name));
        if !api.version.is_empty() {
            problems.add_if(format_args!("{spot}/version"), name_problem("the version", &api.version));
        }
        if let Some(index) = versions.insert((api.name.as_str(), api.version.as_str()), at) {
            let (label, other) = (api.label(), Spot { index, ..spot });
            let message = format!("there is another API {label:?} ({other}); change name or version");
            problems.add(format_args!("{spot}/name"), message);
        }
        if api.default_version {
            default_version(api, &mut defaults, spot, problems);
        }
        one(api, names, spot, problems);
    }
}

fn default_version<'a>(
    api: &'a Api,
    defaults: &mut HashMap<&'a str, &'a str>,
    spot: Spot<'_>,
    problems: &mut Problems,
) {
    let place = format_args!("{spot}/default_version");
    if api.version.is_empty() {
        problems.add(place, "an API without a version has no default version; leave default_version out");
    } else if let Some(other) = defaults.insert(&api.name, &api.version) {
        let name = &api.name;
        problems.add(place, format!("version {other:?} is already the default version of {name:?}; keep one"));
    }
}

fn one(api: &Api, names: &Names<'_>, spot: Spot<'_>, problems: &mut Problems) {
    problems.add_if(format_args!("{spot}/context"), context_problem(&api.context, &api.version));

    let place = format_args!("{spot}/hosts");
    problems.ceiling(place, "hosts", api.hosts.len(), HOSTS_MAX);
    words(&api.hosts, place, host_problem, problems);

    let place = format_args!("{spot}/listeners");
    problems.ceiling(place, "listeners", api.listeners.len(), LISTENERS_MAX);
    let known = |name: &str| {
        let missing = !names.listeners.contains_key(name);
        missing.then(|| format!("there is no listener {name:?}; correct the name, or add it under listeners"))
    };
    words(&api.listeners, place, known, problems);

    let place = format_args!("{spot}/origins");
    problems.ceiling(place, "origins", api.origins.len(), ORIGINS_MAX);
    let is_every = api.origins == ["*"];
    words(&api.origins, place, |origin| if is_every { None } else { origin_problem(origin) }, problems);

    identity::authentication(api, names, spot, problems);
    policy::steps(api, names, spot, problems);
    topics(api, spot, problems);
    endpoints(&api.endpoints, names, spot, problems);
    session(&api.session, spot, problems);
    limits(&api.limits, spot, problems);
    super::limits::of_api(api, names, spot, problems);
}

/// Each word sound, and none of them twice.
pub(super) fn words(
    words: &[String],
    place: impl fmt::Display + Copy,
    problem: impl Fn(&str) -> Option<String>,
    problems: &mut Problems,
) {
    let mut seen = HashSet::with_capacity(if words.len() > 1 { words.len() } else { 0 });
    for (at, word) in words.iter().enumerate() {
        let again = words.len() > 1 && !seen.insert(word);
        let twice = again.then(|| format!("{word:?} stands here twice; leave one out"));
        problems.add_if(format_args!("{place}/{at}"), problem(word).or(twice));
    }
}

fn topics(api: &Api, spot: Spot<'_>, problems: &mut Problems) {
    problems.ceiling(format_args!("{spot}/topics"), "topics", api.topics.len(), TOPICS_MAX);
    let mut shapes: HashMap<String, &str> = HashMap::new();
    for (at, topic) in api.topics.iter().enumerate() {
        let place = format_args!("{spot}/topics/{at}/topic");
        let pattern = match Pattern::parse(&topic.topic) {
            Ok(pattern) => pattern,
            Err(fault) => {
                problems.add(place, fault);
                continue;
            }
        };
        if let Some(other) = shapes.insert(pattern.shape(), &topic.topic) {
            let topic = &topic.topic;
            problems.add(place, format!("the topics {other:?} and {topic:?} match the same paths; leave one out"));
        }
        if api.context_match == ContextMatch::Exact && !pattern.matches_the_bare_context() {
            let topic = &topic.topic;
            problems.add(
                place,
                format!("with match: exact nothing reaches the topic {topic:?}; use match: longest, or only / and /*"),
            );
        }
        let fault = topic.mapping.as_ref().and_then(|mapping| Mapping::parse(mapping, &pattern).err());
        problems.add_if(format_args!("{spot}/topics/{at}/mapping"), fault);
    }
}

fn endpoints(endpoints: &Endpoints, names: &Names<'_>, spot: Spot<'_>, problems: &mut Problems) {
    let environments = [("production", &endpoints.production), ("sandbox", &endpoints.sandbox)];
    if environments.iter().all(|(_, target)| target.is_none()) {
        problems.add(format_args!("{spot}/endpoints"), "an API needs a production or a sandbox endpoint; add one");
    }
    for (environment, target) in environments {
        match target {
            Some(Target::Upstream(name)) if !names.upstreams.contains(name.as_str()) => problems.add(
                format_args!("{spot}/endpoints/{environment}/upstream"),
                format!("there is no upstream {name:?}; correct the name, or add it under upstreams"),
            ),
            Some(Target::Url(url)) => {
                let fault = url_problem(url).or_else(|| tls::url_problem(url, None));
                problems.add_if(format_args!("{spot}/endpoints/{environment}/url"), fault);
            }
            _ => {}
        }
    }
}

fn session(session: &SessionOptions, spot: Spot<'_>, problems: &mut Problems) {
    problems.duration(format_args!("{spot}/session/idle_timeout"), session.idle_timeout, 0);
    problems.duration(format_args!("{spot}/session/lifetime"), session.lifetime, 0);
    problems.duration(format_args!("{spot}/session/close_timeout"), session.close_timeout, 1);
    if session.lifetime_jitter_percent > 100 {
        let place = format_args!("{spot}/session/lifetime_jitter_percent");
        problems.add(place, format!("{} percent is too much; use 0 to 100", session.lifetime_jitter_percent));
    }
    for (leg, pings) in [("client", &session.ping.client), ("upstream", &session.ping.upstream)] {
        problems.duration(format_args!("{spot}/session/ping/{leg}/interval"), pings.interval, 0);
        let floor_ms = if pings.interval.is_zero() { 0 } else { 1 };
        problems.duration(format_args!("{spot}/session/ping/{leg}/timeout"), pings.timeout, floor_ms);
    }
}

fn limits(limits: &MessageLimits, spot: Spot<'_>, problems: &mut Problems) {
    for (field, size) in [("max_frame", limits.max_frame), ("max_message", limits.max_message)] {
        if size.as_bytes() > FRAME_PAYLOAD_MAX {
            let message = format!("{size} is more than a frame can announce; use at most {FRAME_PAYLOAD_MAX}, or 0");
            problems.add(format_args!("{spot}/limits/{field}"), message);
        }
    }
    if !(SEND_BUDGET_MIN..=SEND_BUDGET_MAX).contains(&limits.send_budget.as_bytes()) {
        let (least, most) = (Size::from_bytes(SEND_BUDGET_MIN), Size::from_bytes(SEND_BUDGET_MAX));
        let message = format!("a send budget of {} is out of range; use {least} to {most}", limits.send_budget);
        problems.add(format_args!("{spot}/limits/send_budget"), message);
    }
}
