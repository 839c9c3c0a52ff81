//! On-upgrade policies: each step by itself, and against the names and the API it refers to.
//!
//! What is sound here can be compiled by a data plane without another question.

use std::fmt;

use super::entry::url_problem;
use super::words::{claim_problem, free_header_problem, header_name_problem, http_url_problem, text_problem};
use super::{Names, Problems, Spot, identity, tls};
use crate::limits::{STEP_ENTRIES_MAX, STEPS_MAX, TEMPLATE_BYTES_MAX};
use crate::snapshot::path::{Pattern, has_dot_segment};
use crate::snapshot::template::url_template_problem;
use crate::snapshot::{Api, Conditions, ForwardAuth, Match, Place, Routing, Step, TargetTemplate, Template, Variable};

/// Longest wait for an answer of a service that decides, in milliseconds.
const TIMEOUT_MS_MAX: u64 = 60_000;

pub(super) fn steps(api: &Api, names: &Names<'_>, spot: Spot<'_>, problems: &mut Problems) {
    if api.on_upgrade.is_empty() {
        return;
    }
    problems.ceiling(format_args!("{spot}/on_upgrade"), "steps", api.on_upgrade.len(), STEPS_MAX);
    for (at, step) in api.on_upgrade.iter().take(STEPS_MAX).enumerate() {
        let place = format_args!("{spot}/on_upgrade/{at}");
        match step {
            Step::Allow(who) => conditions(who, Some(api), format_args!("{place}/allow"), problems),
            Step::Deny(who) => conditions(who, Some(api), format_args!("{place}/deny"), problems),
            Step::SetHeader(set) => {
                let place = format_args!("{place}/set_header");
                problems.add_if(format_args!("{place}/name"), written_header_problem(&set.name, names));
                template(&set.value, api, format_args!("{place}/value"), problems);
            }
            Step::RemoveHeaders(headers) => {
                let place = format_args!("{place}/remove_headers");
                if headers.is_empty() {
                    problems.add(place, "no header is named; name one, or leave the step out");
                }
                problems.ceiling(place, "headers", headers.len(), STEP_ENTRIES_MAX);
                super::api::words(headers, place, free_header_problem, problems);
            }
            Step::RenameHeader(rename) => {
                let place = format_args!("{place}/rename_header");
                problems.add_if(format_args!("{place}/from"), free_header_problem(&rename.from));
                problems.add_if(format_args!("{place}/to"), written_header_problem(&rename.to, names));
            }
            Step::Route(to) => routing(to, api, names, format_args!("{place}/route"), problems),
            Step::ForwardAuth(asked) => forward_auth(asked, names, format_args!("{place}/forward_auth"), problems),
        }
    }
}

/// What a client must be like; of an API, if it is one API's condition.
pub(super) fn conditions(
    who: &Conditions,
    api: Option<&Api>,
    place: impl fmt::Display + Copy,
    problems: &mut Problems,
) {
    let Conditions { addresses, headers, queries, claims, certificates, not } = who;
    let lists = [headers.len(), queries.len(), claims.len(), certificates.len(), addresses.len()];
    if *not && lists.iter().all(|length| *length == 0) {
        problems.add(format_args!("{place}/not"), "without conditions nobody is left; add some, or leave the step out");
    }
    problems.ceiling(format_args!("{place}/addresses"), "address ranges", addresses.len(), STEP_ENTRIES_MAX);
    matches(headers, header_name_problem, format_args!("{place}/headers"), problems);
    matches(queries, |name| text_problem("the parameter", name), format_args!("{place}/queries"), problems);
    matches(claims, claim_problem, format_args!("{place}/claims"), problems);
    if !claims.is_empty() && api.is_some_and(|api| api.authentication.is_open()) {
        problems.add(format_args!("{place}/claims"), OPEN);
    }
    patterns(certificates, format_args!("{place}/certificates"), problems);
}

const OPEN: &str =
    "an API that is open to everybody knows no claims and users: say under authentication which credentials it accepts";

fn matches(
    all: &[Match],
    name_problem: fn(&str) -> Option<String>,
    place: impl fmt::Display + Copy,
    problems: &mut Problems,
) {
    problems.ceiling(place, "conditions", all.len(), STEP_ENTRIES_MAX);
    for (at, one) in all.iter().take(STEP_ENTRIES_MAX).enumerate() {
        problems.add_if(format_args!("{place}/{at}/name"), name_problem(&one.name));
        patterns(&one.values, format_args!("{place}/{at}/values"), problems);
    }
}

fn patterns(all: &[String], place: impl fmt::Display + Copy, problems: &mut Problems) {
    problems.ceiling(place, "values", all.len(), STEP_ENTRIES_MAX);
    super::api::words(all, place, |pattern| text_problem("a value", pattern), problems);
}

/// A header that the gateway writes: not twice, so none that it writes anyway.
pub(super) fn written_header_problem(name: &str, names: &Names<'_>) -> Option<String> {
    let is_ours = name.eq_ignore_ascii_case(names.request_id_header);
    let ours = || is_ours.then(|| format!("the header {name} carries the request id already; choose another"));
    free_header_problem(name).or_else(ours)
}

fn template(text: &str, api: &Api, place: impl fmt::Display, problems: &mut Problems) -> Option<Template> {
    match Template::parse(text) {
        Ok(template) => {
            problems.add_if(place, template.variables().find_map(|variable| variable_problem(variable, api)));
            Some(template)
        }
        Err(fault) => {
            problems.add(place, fault);
            None
        }
    }
}

fn variable_problem(variable: &Variable, api: &Api) -> Option<String> {
    match variable {
        Variable::User | Variable::Application | Variable::Claim(_) if api.authentication.is_open() => {
            Some(OPEN.into())
        }
        Variable::Topic(name) => {
            let has = |topic: &str| Pattern::parse(topic).is_ok_and(|pattern| pattern.parameter(name).is_some());
            let known = api.topics.iter().any(|topic| has(&topic.topic));
            let message = || format!("no topic of the API has the parameter {{{name}}}; correct the name");
            (!known).then(message)
        }
        _ => None,
    }
}

fn routing(to: &Routing, api: &Api, names: &Names<'_>, place: impl fmt::Display + Copy, problems: &mut Problems) {
    let known = |name: &str| {
        let is_known = names.upstreams.contains(name);
        (!is_known).then(|| format!("there is no upstream {name:?}; correct the name, or add it under upstreams"))
    };
    match to {
        Routing::Upstream(name) => problems.add_if(format_args!("{place}/upstream"), known(name)),
        Routing::By(router) => {
            let place = format_args!("{place}/by");
            template(&router.value, api, format_args!("{place}/value"), problems);
            let upstreams = &router.upstreams;
            if upstreams.is_empty() {
                problems.add(format_args!("{place}/upstreams"), "no value leads anywhere; name the upstream of one");
            }
            problems.ceiling(format_args!("{place}/upstreams"), "upstreams", upstreams.len(), STEP_ENTRIES_MAX);
            for (value, name) in upstreams.iter().take(STEP_ENTRIES_MAX) {
                let fault = text_problem("a value", value).or_else(|| known(name));
                let value = value.replace('~', "~0").replace('/', "~1");
                problems.add_if(format_args!("{place}/upstreams/{value}"), fault);
            }
            problems.add_if(format_args!("{place}/otherwise"), router.otherwise.as_deref().and_then(known));
        }
        Routing::Target(target) => made_target(target, api, format_args!("{place}/target"), problems),
    }
}

fn made_target(target: &TargetTemplate, api: &Api, place: impl fmt::Display + Copy, problems: &mut Problems) {
    if let Some(template) = template(&target.url, api, format_args!("{place}/url"), problems) {
        problems.add_if(format_args!("{place}/url"), url_template_problem(&template));
    }
    let place = format_args!("{place}/allowed");
    if target.allowed.is_empty() {
        problems.add(place, "no endpoint is allowed; add the URLs that the template may lead to");
    }
    problems.ceiling(place, "endpoints", target.allowed.len(), STEP_ENTRIES_MAX);
    for (at, url) in target.allowed.iter().take(STEP_ENTRIES_MAX).enumerate() {
        let fault = if matches!(url.place, Place::Unix(_)) {
            Some("a template leads to hosts only; use ws:// or wss://".into())
        } else if url.query.is_some() {
            Some("queries are not compared; leave it out".into())
        } else if has_dot_segment(&url.path) {
            Some("the path has a segment that is . or ..; write the path that is meant".into())
        } else {
            url_problem(url).or_else(|| tls::url_problem(url, None))
        };
        problems.add_if(format_args!("{place}/{at}"), fault);
    }
}

fn forward_auth(asked: &ForwardAuth, names: &Names<'_>, place: impl fmt::Display + Copy, problems: &mut Problems) {
    problems.add_if(format_args!("{place}/url"), http_url_problem(&asked.url));
    let of_request = format_args!("{place}/request_headers");
    problems.ceiling(of_request, "headers", asked.request_headers.len(), STEP_ENTRIES_MAX);
    super::api::words(&asked.request_headers, of_request, free_header_problem, problems);
    let of_response = format_args!("{place}/response_headers");
    problems.ceiling(of_response, "headers", asked.response_headers.len(), STEP_ENTRIES_MAX);
    let written = |name: &str| written_header_problem(name, names);
    super::api::words(&asked.response_headers, of_response, written, problems);
    identity::authorities(&asked.authorities, names, format_args!("{place}/authorities"), problems);
    problems.duration_up_to(format_args!("{place}/timeout"), asked.timeout, 1, TIMEOUT_MS_MAX);
}

const _: () = assert!(crate::limits::WORD_BYTES_MAX <= TEMPLATE_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{
        Authorities, Config, CredentialForm, Duration, Issuer, Jwks, Listener, Pem, RenameHeader, Router, SetHeader,
        Snapshot, Target, Topic, Upstream,
    };

    fn config(steps: Vec<Step>) -> Config {
        let url = "ws://a/".parse().unwrap();
        let mut api = Api::new("a", "", "/a", Target::Upstream("u".into()));
        api.topics = vec![Topic { topic: "/rooms/{room}".into(), ..crate::snapshot::Topic::default() }];
        api.authentication.accept = vec![CredentialForm::Bearer];
        api.on_upgrade = steps;
        Config {
            version: 1,
            listeners: vec![Listener::new("public", "0.0.0.0:80".parse().unwrap())],
            upstreams: vec![Upstream::new("u", vec![url])],
            apis: vec![api],
            ..Config::default()
        }
    }

    fn set(name: &str, value: &str) -> Step {
        Step::SetHeader(SetHeader { name: name.into(), value: value.into() })
    }

    fn rename(from: &str, to: &str) -> Step {
        Step::RenameHeader(RenameHeader { from: from.into(), to: to.into() })
    }

    fn target(url: &str, allowed: &[&str]) -> Step {
        let allowed = allowed.iter().map(|url| url.parse().unwrap()).collect();
        Step::Route(Routing::Target(TargetTemplate { url: url.into(), allowed }))
    }

    fn by(value: &str, upstreams: &[(&str, &str)], otherwise: Option<&str>) -> Step {
        let upstreams = upstreams.iter().map(|(value, name)| ((*value).into(), (*name).into())).collect();
        Step::Route(Routing::By(Router { value: value.into(), upstreams, otherwise: otherwise.map(Into::into) }))
    }

    fn asked(change: impl FnOnce(&mut ForwardAuth)) -> Step {
        let mut asked = ForwardAuth {
            url: "http://127.0.0.1:9100/check".into(),
            request_headers: vec!["Authorization".into(), "Cookie".into()],
            response_headers: vec!["X-User".into()],
            authorities: String::new(),
            timeout: Duration::from_secs(2),
            fail_open: false,
        };
        change(&mut asked);
        Step::ForwardAuth(asked)
    }

    fn one(name: &str, values: &[&str]) -> Match {
        Match { name: name.into(), values: values.iter().map(|&value| value.into()).collect() }
    }

    fn claims(name: &str) -> Conditions {
        Conditions { claims: vec![one(name, &["*"])], ..Conditions::default() }
    }

    fn headers(name: &str, values: &[&str]) -> Conditions {
        Conditions { headers: vec![one(name, values)], ..Conditions::default() }
    }

    #[test]
    fn steps_that_are_sound_are_accepted() {
        let everybody = Conditions::default();
        let steps = vec![
            Step::Allow(Conditions { addresses: vec!["10.0.0.0/8".parse().unwrap()], ..everybody.clone() }),
            Step::Deny(headers("User-Agent", &["curl/*", ""])),
            Step::Deny(headers("Host", &["x"])),
            Step::Deny(Conditions { certificates: vec!["CN=*,O=Acme".into()], not: true, ..everybody.clone() }),
            Step::Deny(claims("https://example.com/roles.admin")),
            set("X-User", "{user} {application} {claim.a.b} {topic.room} {{"),
            set("Authorization", "Basic abc"),
            set("X-Real-IP", "{client_address}"),
            Step::RemoveHeaders(vec!["Cookie".into(), "X-Debug".into()]),
            rename("X-A", "X-B"),
            Step::Route(Routing::Upstream("u".into())),
            by("{header.X-Region}", &[("eu", "u"), ("a/b", "u")], Some("u")),
            target("ws://{claim.tenant}.internal/{topic.room}", &["ws://a.internal", "wss://b.internal/x"]),
            asked(|_| {}),
            asked(|asked| asked.authorities = "own".into()),
            Step::Deny(everybody),
        ];
        let mut config = config(steps);
        config.authorities = vec![Authorities {
            name: "own".into(),
            certificates: Pem::new("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----".into()),
            revocations: Vec::new(),
        }];
        assert_eq!(Snapshot::check(config).err(), None);
    }

    #[test]
    fn each_thing_that_is_wrong_has_its_place_and_its_sentence() {
        let everybody = Conditions::default();
        let many = || vec!["10.0.0.0/8".parse().unwrap(); STEP_ENTRIES_MAX + 1];
        let rows = [
            (Step::Deny(Conditions { not: true, ..everybody.clone() }), "deny/not", "nobody"),
            (Step::Allow(Conditions { addresses: many(), ..everybody.clone() }), "allow/addresses", "at most 1024"),
            (Step::Deny(headers("a b", &[])), "deny/headers/0/name", "not a header name"),
            (Step::Deny(headers("", &[])), "deny/headers/0/name", "not a header name"),
            (Step::Deny(headers("A", &["x", "x"])), "deny/headers/0/values/1", "twice"),
            (Step::Deny(headers("A", &["\u{7}"])), "deny/headers/0/values/0", ""),
            (Step::Deny(claims("")), "deny/claims/0/name", "empty"),
            (
                Step::Deny(Conditions { certificates: vec!["a\nb".into()], ..everybody.clone() }),
                "deny/certificates/0",
                "",
            ),
            (set("Upgrade", "x"), "set_header/name", "the gateway itself uses"),
            (set("Sec-WebSocket-Key", "x"), "set_header/name", "the gateway itself uses"),
            (set("Connection", "close"), "set_header/name", "the gateway itself uses"),
            (set("Content-Length", "1"), "set_header/name", "the gateway itself uses"),
            (set("Proxy-Authorization", "x"), "set_header/name", "the gateway itself uses"),
            (set("X-Forwarded-Client-Cert", "x"), "set_header/name", "the gateway itself uses"),
            (set("HTTP2-Settings", "x"), "set_header/name", "the gateway itself uses"),
            (set("x-request-id", "x"), "set_header/name", "request id"),
            (set("X-A", "{nobody}"), "set_header/value", "stands for nothing"),
            (set("X-A", "a\r\nX-B: c"), "set_header/value", "cannot be seen"),
            (set("X-A", "{topic.rooms}"), "set_header/value", "no topic"),
            (Step::RemoveHeaders(Vec::new()), "remove_headers", "no header is named"),
            (Step::RemoveHeaders(vec!["Host".into()]), "remove_headers/0", "the gateway itself uses"),
            (Step::RemoveHeaders(vec!["A".into(), "A".into()]), "remove_headers/1", "twice"),
            (rename("Sec-WebSocket-Protocol", "X-A"), "rename_header/from", "the gateway itself uses"),
            (rename("X-A", "Transfer-Encoding"), "rename_header/to", "the gateway itself uses"),
            (rename("X-A", "X-Request-ID"), "rename_header/to", "request id"),
            (Step::Route(Routing::Upstream("v".into())), "route/upstream", "no upstream \"v\""),
            (by("{user}", &[], Some("u")), "route/by/upstreams", "leads anywhere"),
            (by("{", &[("a", "u")], None), "route/by/value", "without its }"),
            (by("{user}", &[("a/b", "v")], None), "route/by/upstreams/a~1b", "no upstream"),
            (by("{user}", &[("a", "u")], Some("v")), "route/by/otherwise", "no upstream"),
            (target("{user}", &["ws://a"]), "route/target/url", "begins with ws://"),
            (target("ws://a/{users}", &["ws://a"]), "route/target/url", "stands for nothing"),
            (target("ws://a/../{user}", &["ws://a"]), "route/target/url", "segment"),
            (target("ws://a/", &[]), "route/target/allowed", "no endpoint is allowed"),
            (target("ws://a/", &["ws+unix:/run/s"]), "route/target/allowed/0", "ws://"),
            (target("ws://a/", &["ws://a/?b"]), "route/target/allowed/0", "not compared"),
            (target("ws://a/", &["ws://a/x/../b"]), "route/target/allowed/0", "the path"),
            (asked(|asked| asked.url = "ws://a/".into()), "forward_auth/url", "http"),
            (asked(|asked| asked.url = "http://a:b@c/".into()), "forward_auth/url", "password"),
            (asked(|asked| asked.request_headers = vec!["Upgrade".into()]), "forward_auth/request_headers/0", "uses"),
            (asked(|asked| asked.response_headers = vec!["TE".into()]), "forward_auth/response_headers/0", "uses"),
            (asked(|asked| asked.authorities = "own".into()), "forward_auth/authorities", "no authorities"),
            (asked(|asked| asked.timeout = Duration::ZERO), "forward_auth/timeout", "longer than 0"),
            (asked(|asked| asked.timeout = Duration::from_secs(61)), "forward_auth/timeout", "too long"),
        ];
        for (step, place, sentence) in rows {
            let problems = Snapshot::check(config(vec![step.clone()])).expect_err(&format!("{step:?}"));
            let place = format!("/apis/0/on_upgrade/0/{place}");
            let found = problems.iter().find(|problem| problem.place == place);
            let found = found.unwrap_or_else(|| panic!("{place}: {problems:?}"));
            assert!(found.message.contains(sentence), "{found}");
        }
    }

    #[test]
    fn steps_have_a_ceiling() {
        let step = Step::Deny(Conditions::default());
        let problems = Snapshot::check(config(vec![step; STEPS_MAX + 1])).unwrap_err();
        assert_eq!(problems[0].place, "/apis/0/on_upgrade");
    }

    #[test]
    fn an_open_api_knows_no_claims_and_users() {
        let steps = [
            Step::Deny(claims("a")),
            set("X", "{user}"),
            by("{claim.a}", &[("a", "u")], None),
            set("X", "{application}"),
        ];
        for step in steps {
            let mut config = config(vec![step.clone()]);
            config.apis[0].authentication.accept.clear();
            let problems = Snapshot::check(config).expect_err(&format!("{step:?}"));
            assert!(problems[0].message.contains("open to everybody"), "{problems:?}");
        }
    }

    #[test]
    fn an_assertion_tells_of_somebody() {
        let mut config = config(Vec::new());
        config.issuers = vec![Issuer {
            jwks: Some(Jwks::Text("{}".into())),
            ..serde_json::from_str(r#"{"name":"x","issuer":"https://x"}"#).unwrap()
        }];
        config.assertions =
            vec![serde_json::from_str(r#"{"name":"backends","issuer":"https://gateway","key":"/k.pem"}"#).unwrap()];
        config.apis[0].authentication.assertion = Some("backends".into());
        config.apis[0].authentication.accept.clear();
        let problems = Snapshot::check(config).unwrap_err();
        let place = "/apis/0/authentication/assertion";
        assert!(problems.iter().any(|problem| problem.place == place), "{problems:?}");
    }
}
