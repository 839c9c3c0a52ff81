//! One row for each thing that can be wrong, over a configuration that is sound.

mod identity;
mod limits;
mod tls;

use super::*;
use crate::limits::{CIDRS_MAX, ENDPOINTS_MAX, HOSTS_MAX, ORIGINS_MAX, PATH_BYTES_MAX, SEND_BUDGET_MAX, TOPICS_MAX};
use crate::snapshot::{ContextMatch, Duration, Endpoint, EndpointUrl, Place, Size, Target, Topic};

fn url(text: &str) -> EndpointUrl {
    text.parse().unwrap()
}

fn topic(topic: &str, mapping: Option<&str>) -> Topic {
    Topic { topic: topic.into(), mapping: mapping.map(Into::into), scopes: Vec::new(), ..Topic::default() }
}

fn sound() -> Config {
    let mut rooms = Api::new("chat", "v1", "/chat", Target::Upstream("chat".into()));
    rooms.default_version = true;
    rooms.hosts = vec!["chat.example.com".into(), "*.example.org".into()];
    rooms.listeners = vec!["public".into()];
    rooms.origins = vec!["https://*.example.com".into()];
    rooms.topics = vec![topic("/", None), topic("/rooms/{room}", Some("/r/{room}")), topic("/*", Some("/x/*"))];
    Config {
        version: 1,
        settings: Settings::default(),
        listeners: vec![
            Listener::new("public", "0.0.0.0:8080".parse().unwrap()),
            Listener::new("local", "unix:/run/framegate.sock".parse().unwrap()),
        ],
        upstreams: vec![Upstream::new("chat", vec![url("ws://a/"), url("ws://b/")])],
        apis: vec![
            rooms,
            Api::new("chat", "v2", "/chat", Target::Upstream("chat".into())),
            Api::new("echo", "", "/echo", Target::Url(url("ws://127.0.0.1:9001/"))),
        ],
        ..Config::default()
    }
}

type Spoil = fn(&mut Config);

/// What to spoil; where the problem must be; what its sentence must have.
const ROWS: &[(Spoil, &str, &str)] = &[
    (|c| c.version = 2, "/version", "reads version 1"),
    // Settings.
    (|c| c.settings.drain_window = Duration::from_secs(86_401), "/settings/drain_window", "at most 1d"),
    (|c| c.settings.request_id_header = "Host".into(), "/settings/request_id_header", "choose another"),
    (|c| c.settings.request_id_header = "a b".into(), "/settings/request_id_header", "not a header name"),
    (|c| c.settings.secret_query_parameters = vec!["a=b".into()], "/settings/secret_query_parameters/0", "parameter"),
    (
        |c| c.settings.secret_query_parameters = vec!["a".into(); 257],
        "/settings/secret_query_parameters",
        "at most 256",
    ),
    // Listeners.
    (|c| c.listeners[1].name = "a b".into(), "/listeners/1/name", "rename"),
    (|c| c.listeners[1].name = "public".into(), "/listeners/1/name", "another listener"),
    (|c| c.listeners[1].bind = c.listeners[0].bind.clone(), "/listeners/1/bind", "\"public\" already takes"),
    (|c| c.listeners[1].bind = "127.0.0.1:8080".parse().unwrap(), "/listeners/1/bind", "already takes"),
    (|c| c.listeners[0].bind = "127.0.0.1:0".parse().unwrap(), "/listeners/0/bind", "port 0"),
    (
        |c| c.listeners[0].bind = "unix:/run/framegate.sock".parse().unwrap(),
        "/listeners/1/bind",
        "\"public\" already takes",
    ),
    (|c| c.listeners[0].backlog = 0, "/listeners/0/backlog", "1 to 65535"),
    (|c| c.listeners[0].backlog = 65_536, "/listeners/0/backlog", "1 to 65535"),
    (|c| c.listeners[0].handshake_timeout = Duration::ZERO, "/listeners/0/handshake_timeout", "longer than 0"),
    (
        |c| c.listeners[0].trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(); CIDRS_MAX + 1],
        "/listeners/0/trusted_proxies",
        "at most",
    ),
    (|c| c.listeners[0].environment_header = Some("Upgrade".into()), "/listeners/0/environment_header", "uses"),
    (
        |c| c.listeners[0].environment_header = Some("x-request-id".into()),
        "/listeners/0/environment_header",
        "request id",
    ),
    // Upstreams.
    (|c| c.upstreams.push(Upstream::new("", vec![url("ws://a/")])), "/upstreams/1/name", "empty"),
    (|c| c.upstreams.push(c.upstreams[0].clone()), "/upstreams/1/name", "another upstream"),
    (|c| c.upstreams[0].endpoints.clear(), "/upstreams/0/endpoints", "at least one"),
    (
        |c| {
            let endpoint = |at| Endpoint { url: url(&format!("ws://a/{at}")), verify_certificate: true };
            c.upstreams[0].endpoints = (0..=ENDPOINTS_MAX).map(endpoint).collect();
        },
        "/upstreams/0/endpoints",
        "at most 1024",
    ),
    (|c| c.upstreams[0].endpoints[1].url = url("ws://a:80"), "/upstreams/0/endpoints/1/url", "already an endpoint"),
    (|c| c.upstreams[0].endpoints[1].url.path = "/a\r\nb".into(), "/upstreams/0/endpoints/1/url", "visible"),
    (
        |c| c.upstreams[0].endpoints[1].url.path = format!("/{}", "a".repeat(PATH_BYTES_MAX)),
        "/upstreams/0/endpoints/1/url",
        "shorten",
    ),
    (
        |c| c.upstreams[0].endpoints[1].url.place = Place::Tcp { host: "x/y".into(), port: 80 },
        "/upstreams/0/endpoints/1/url",
        "read back",
    ),
    (|c| c.upstreams[0].connect_timeout = Duration::ZERO, "/upstreams/0/connect_timeout", "longer than 0"),
    (|c| c.upstreams[0].handshake_timeout = Duration::ZERO, "/upstreams/0/handshake_timeout", "longer than 0"),
    (|c| c.upstreams[0].resolve_ttl_max = Duration::from_ms(u64::MAX), "/upstreams/0/resolve_ttl_max", "366d"),
    // APIs.
    (|c| c.apis[2].name = "a/b".into(), "/apis/2/name", "rename"),
    (|c| c.apis[0].version = "v/1".into(), "/apis/0/version", "rename"),
    (|c| c.apis[2].name = "x".repeat(129), "/apis/2/name", "128 are allowed"),
    (
        |c| {
            let mut again = c.apis[2].clone();
            again.context = "/elsewhere".into();
            c.apis.push(again);
        },
        "/apis/3/name",
        "another API \"echo\"",
    ),
    (|c| c.apis[2].default_version = true, "/apis/2/default_version", "leave default_version out"),
    (
        |c| {
            c.apis[1].default_version = true;
            c.apis[1].context = "/elsewhere".into();
        },
        "/apis/1/default_version",
        "\"v1\" is already",
    ),
    (|c| c.apis[2].context = "echo".into(), "/apis/2/context", "begin with /"),
    (|c| c.apis[2].context = "/echo/".into(), "/apis/2/context", "ends with /"),
    (|c| c.apis[2].context = "/a//b".into(), "/apis/2/context", "empty segment"),
    (|c| c.apis[2].context = "/a/%2E./b".into(), "/apis/2/context", ". or .."),
    (|c| c.apis[2].context = "/a?b".into(), "/apis/2/context", "query"),
    (|c| c.apis[2].context = "/a#b".into(), "/apis/2/context", "fragment"),
    (|c| c.apis[2].context = "/a b".into(), "/apis/2/context", "percent-encoded"),
    (|c| c.apis[2].context = "/a%2".into(), "/apis/2/context", "hexadecimal"),
    (|c| c.apis[2].context = "/a/*".into(), "/apis/2/context", "has a *"),
    (|c| c.apis[2].context = "/v-{version}".into(), "/apis/2/context", "brace"),
    (|c| c.apis[2].context = "/{version}".into(), "/apis/2/context", "no version"),
    (|c| c.apis[1].context = "/{version}/{version}".into(), "/apis/1/context", "more than once"),
    (|c| c.apis[2].context = format!("/{}", "a".repeat(PATH_BYTES_MAX)), "/apis/2/context", "shorten"),
    (|c| c.apis[0].hosts[0] = "Chat.example.com".into(), "/apis/0/hosts/0", "lower case"),
    (|c| c.apis[0].hosts[1] = "chat.example.com".into(), "/apis/0/hosts/1", "twice"),
    (|c| c.apis[0].hosts = (0..=HOSTS_MAX).map(|at| format!("h{at}")).collect(), "/apis/0/hosts", "at most"),
    (|c| c.apis[0].listeners[0] = "nobody".into(), "/apis/0/listeners/0", "no listener \"nobody\""),
    (|c| c.apis[0].listeners.push("public".into()), "/apis/0/listeners/1", "twice"),
    (|c| c.apis[0].origins[0] = "null".into(), "/apis/0/origins/0", "anybody"),
    (|c| c.apis[0].origins.push("https://*.example.com".into()), "/apis/0/origins/1", "twice"),
    (
        |c| c.apis[0].origins = (0..=ORIGINS_MAX).map(|at| format!("https://h{at}")).collect(),
        "/apis/0/origins",
        "at most",
    ),
    (|c| c.apis[0].topics[1] = topic("rooms", None), "/apis/0/topics/1/topic", "begin with /"),
    (|c| c.apis[0].topics[1] = topic("/rooms/", None), "/apis/0/topics/1/topic", "ends with /"),
    (|c| c.apis[0].topics[1] = topic("/a/*/b", None), "/apis/0/topics/1/topic", "whole last segment"),
    (|c| c.apis[0].topics[1] = topic("/a*", None), "/apis/0/topics/1/topic", "whole last segment"),
    (|c| c.apis[0].topics[1] = topic("/a{b}", None), "/apis/0/topics/1/topic", "whole segment"),
    (|c| c.apis[0].topics[1] = topic("/{a}/{a}", None), "/apis/0/topics/1/topic", "two parameters"),
    (|c| c.apis[0].topics[1] = topic("/{}", None), "/apis/0/topics/1/topic", "whose name"),
    (|c| c.apis[0].topics.push(topic("/rooms/{other}", None)), "/apis/0/topics/3/topic", "match the same paths"),
    (
        |c| c.apis[0].topics = (0..=TOPICS_MAX).map(|at| topic(&format!("/{at}"), None)).collect(),
        "/apis/0/topics",
        "at most",
    ),
    (|c| c.apis[0].context_match = ContextMatch::Exact, "/apis/0/topics/1/topic", "match: exact"),
    (|c| c.apis[0].topics[1] = topic("/a", Some("b")), "/apis/0/topics/1/mapping", "begin with /"),
    (|c| c.apis[0].topics[1] = topic("/a", Some("/*")), "/apis/0/topics/1/mapping", "does not end with /*"),
    (|c| c.apis[0].topics[1] = topic("/{a}", Some("/{b}")), "/apis/0/topics/1/mapping", "{b}"),
    (|c| c.apis[0].topics[1] = topic("/{a}", Some("/{a")), "/apis/0/topics/1/mapping", "without its }"),
    (|c| c.apis[0].topics[1] = topic("/{a}", Some("/..{a}")), "/apis/0/topics/1/mapping", "may become one"),
    (|c| c.apis[0].topics[1] = topic("/a", Some("/b?c")), "/apis/0/topics/1/mapping", "query"),
    (|c| c.apis[2].endpoints.production = None, "/apis/2/endpoints", "production or a sandbox"),
    (
        |c| c.apis[1].endpoints.sandbox = Some(Target::Upstream("nobody".into())),
        "/apis/1/endpoints/sandbox/upstream",
        "no upstream \"nobody\"",
    ),
    (
        |c| {
            let broken = EndpointUrl { query: Some("a#b".into()), ..url("ws://a/") };
            c.apis[2].endpoints.production = Some(Target::Url(broken));
        },
        "/apis/2/endpoints/production/url",
        "fragment",
    ),
    (
        |c| c.apis[2].session.idle_timeout = Duration::from_secs(400 * 86_400),
        "/apis/2/session/idle_timeout",
        "at most 366d",
    ),
    (|c| c.apis[2].session.lifetime = Duration::from_ms(u64::MAX), "/apis/2/session/lifetime", "at most 366d"),
    (|c| c.apis[2].session.close_timeout = Duration::ZERO, "/apis/2/session/close_timeout", "longer than 0"),
    (|c| c.apis[2].session.lifetime_jitter_percent = 101, "/apis/2/session/lifetime_jitter_percent", "use 0 to 100"),
    (
        |c| c.apis[2].session.ping.client.interval = Duration::from_ms(u64::MAX),
        "/apis/2/session/ping/client/interval",
        "at most 366d",
    ),
    (
        |c| c.apis[2].session.ping.client.timeout = Duration::ZERO,
        "/apis/2/session/ping/client/timeout",
        "longer than 0",
    ),
    (|c| c.apis[2].limits.max_frame = Size::from_bytes(1 << 63), "/apis/2/limits/max_frame", "announce"),
    (|c| c.apis[2].limits.max_message = Size::from_bytes(u64::MAX), "/apis/2/limits/max_message", "announce"),
    (|c| c.apis[2].limits.send_budget = Size::from_bytes(0), "/apis/2/limits/send_budget", "4KiB to 256KiB"),
    (
        |c| c.apis[2].limits.send_budget = Size::from_bytes(SEND_BUDGET_MAX + 1),
        "/apis/2/limits/send_budget",
        "4KiB to 256KiB",
    ),
    // What APIs take from each other.
    (|c| c.apis[2].context = "/chat/v2".into(), "/apis/2/context", "both \"chat:v2\" (/apis/1) and \"echo\""),
    (
        |c| {
            c.apis[2].context = "/chat".into();
            c.apis[2].hosts = vec!["*.example.org".into()];
        },
        "/apis/2/context",
        "/chat on host *.example.org would lead to both \"chat:v1\"",
    ),
    (
        |c| {
            c.apis[2].enabled = false;
            c.apis[2].context = "/chat/v2".into();
            c.apis[2].listeners = vec!["local".into()];
        },
        "/apis/2/context",
        "every host",
    ),
];

#[test]
fn everything_that_can_be_wrong_is_found_where_it_is() {
    finds(sound, ROWS);
}

/// Each row spoils what is sound, and what it spoils is all that is found.
#[track_caller]
fn finds(sound: fn() -> Config, rows: &[(Spoil, &str, &str)]) {
    let mut wrong = Vec::new();
    for (spoil, place, sentence) in rows {
        let mut config = sound();
        spoil(&mut config);
        let problems = Snapshot::check(config).err().unwrap_or_default();
        match problems.as_slice() {
            [problem] if problem.place == *place && problem.message.contains(sentence) => {}
            found => wrong.push(format!("{place} should say {sentence:?}, found {found:#?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_configuration_that_the_rows_spoil_is_sound() {
    assert_eq!(Snapshot::check(sound()).err(), None);
}

#[test]
fn neighbours_that_do_not_clash_are_sound() {
    let rows: &[Spoil] = &[
        |c| c.listeners[1].bind = "[::]:8080".parse().unwrap(),
        |c| c.listeners[1].bind = "127.0.0.1:8081".parse().unwrap(),
        |c| c.apis[2].context = "/".into(),
        |c| c.apis[2].context = "/chat".into(),
        |c| {
            c.apis[1].listeners = vec!["public".into()];
            c.apis[2].listeners = vec!["local".into()];
            c.apis[2].context = "/chat/v2".into();
        },
        |c| c.apis[1].limits.max_frame = Size::from_bytes(0),
        |c| c.apis[1].session.ping.upstream.timeout = Duration::ZERO,
    ];
    for (at, change) in rows.iter().enumerate() {
        let mut config = sound();
        change(&mut config);
        assert_eq!(Snapshot::check(config).err(), None, "row {at}");
    }
}

#[test]
fn all_problems_are_told_at_once_and_their_number_is_bounded() {
    let mut config = sound();
    config.version = 7;
    config.listeners[0].backlog = 0;
    config.apis[2].context = "echo".into();
    assert_eq!(Snapshot::check(config).unwrap_err().len(), 3);

    let mut config = sound();
    config.apis = (0..PROBLEMS_MAX + 5)
        .map(|at| Api::new(format!("a{at}"), "", "no-slash", Target::Upstream("chat".into())))
        .collect();
    let problems = Snapshot::check(config).unwrap_err();
    assert_eq!(problems.len(), PROBLEMS_MAX + 1);
    assert!(problems[PROBLEMS_MAX].message.contains("5 more"));
}

#[test]
fn without_a_document_an_entry_is_named() {
    let mut config = sound();
    config.apis[0].limits.send_budget = Size::from_bytes(0);
    let problems = Snapshot::from_sections(section::split(config), None).unwrap_err();
    assert_eq!(problems[0].place, "/apis/chat:v1/limits/send_budget");
}

#[test]
fn order_of_writing_does_not_matter() {
    let mut turned = sound();
    turned.apis.reverse();
    turned.listeners.reverse();
    let (one, other) = (Snapshot::check(sound()).unwrap(), Snapshot::check(turned).unwrap());
    assert_eq!(one.checksum(), other.checksum());
    assert_eq!(one.to_config(), other.to_config());
    let names: Vec<_> = one.to_config().apis.iter().map(Api::label).collect();
    assert_eq!(names, ["chat:v1", "chat:v2", "echo"]);
    assert_eq!(Snapshot::check(one.to_config()).unwrap().checksum(), one.checksum());
}
