//! Routing: which API, topic and upstream a request is for.
//!
//! A look-up for each segment of the path and each label of the host, however many APIs there are; no scan. Who may use
//! what was found, and whether its endpoints answer, is asked in later rooms.
//!
//! Order: an exact host before the longest wildcard before APIs of every host; below a host the longest context first.
//! A host that has no API at the path does not hide what the wider ones have; an API that is switched off does.

use std::sync::Arc;

use proto::snapshot::{Captures, ContextMatch, EndpointUrl, Environment, ListenerSet, has_dot_segment};

use crate::refusal::Refusal;
use crate::tables::{ApiEntry, CompiledTopic, Paths, Published, Tables, UpstreamEntry};

/// The longest name that DNS has, RFC 1035 §2.3.4. A longer host is in no API's list.
const HOST_BYTES_MAX: usize = 253;

/// What a request says about where it wants to go.
#[derive(Debug, Clone, Copy)]
pub struct RouteRequest<'a> {
    /// The name of the listener it came in by.
    pub listener: &'a str,
    /// The host, in lower case, without a port.
    pub host: &'a str,
    /// The path, as it was sent, without the query.
    pub path: &'a str,
    /// Production or sandbox.
    pub environment: Environment,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Route {
    /// The API.
    pub api: Arc<ApiEntry>,
    /// What its environment leads to.
    pub upstream: Arc<UpstreamEntry>,
    /// What the topic's mapping adds to the endpoint's path; begins with `/`.
    pub suffix: Option<String>,
    /// The topic's template, such as `/rooms/{room}`.
    pub topic: Arc<str>,
    /// Production or sandbox.
    pub environment: Environment,
}

/// What a request is for, before it is known who asks, and so which environment it leads to.
#[derive(Debug, Clone)]
pub struct Place {
    /// The API.
    pub api: Arc<ApiEntry>,
    /// The topic's template, such as `/rooms/{room}`.
    pub topic: Arc<str>,
    /// Scopes of which a client must have one; none: any client may.
    pub scopes: Arc<[String]>,
    suffix: Option<String>,
    production: Option<Arc<UpstreamEntry>>,
    sandbox: Option<Arc<UpstreamEntry>>,
}

impl Place {
    /// Whether the API leads anywhere in an environment.
    pub fn leads_in(&self, environment: Environment) -> bool {
        match environment {
            Environment::Production => self.production.is_some(),
            Environment::Sandbox => self.sandbox.is_some(),
        }
    }

    /// The route in an environment, if the API leads anywhere there.
    pub fn lead(self, environment: Environment) -> Option<Route> {
        let upstream = match environment {
            Environment::Production => self.production,
            Environment::Sandbox => self.sandbox,
        };
        Some(Route { api: self.api, upstream: upstream?, suffix: self.suffix, topic: self.topic, environment })
    }
}

/// Finds the API and topic of a request.
///
/// One trailing slash of the path does not count. A path in which some server may find a `.` or `..` segment has no
/// route: what is forwarded must mean the same to everybody.
pub fn find(tables: &Tables, request: &RouteRequest<'_>) -> Result<Place, Refusal> {
    let (published, topic, captures) = locate(tables, request)?;
    Ok(Place {
        api: published.api.clone(),
        topic: topic.template.clone(),
        scopes: topic.scopes.clone(),
        suffix: topic.suffix(&captures),
        production: published.upstream(Environment::Production).cloned(),
        sandbox: published.upstream(Environment::Sandbox).cloned(),
    })
}

/// What a parameter of the request's topic stands for, as it stands in the path. For the few who ask: it costs as much as
/// finding the API did.
pub fn parameter(tables: &Tables, request: &RouteRequest<'_>, name: &str) -> Option<String> {
    let (_, topic, captures) = locate(tables, request).ok()?;
    topic.parameter(&captures, name).map(str::to_owned)
}

fn locate<'t, 'p>(
    tables: &'t Tables,
    request: &RouteRequest<'p>,
) -> Result<(&'t Published, &'t CompiledTopic, Captures<'p>), Refusal> {
    if !request.path.starts_with('/') || has_dot_segment(request.path) {
        return Err(Refusal::NoApi);
    }
    // One that has closed since leads to what every listener leads to.
    let listener = tables.listener_index(request.listener);
    let path = request.path.strip_suffix('/').unwrap_or(request.path);
    let host = request.host.strip_suffix('.').unwrap_or(request.host);
    let (published, rest) =
        candidates(tables, host).find_map(|paths| longest(tables, paths, path, listener)).ok_or(Refusal::NoApi)?;
    if !published.api.api.enabled {
        return Err(Refusal::NoApi);
    }
    let (topic, captures) = published.api.topics.choose(rest).ok_or(Refusal::NoTopic)?;
    Ok((published, topic, captures))
}

/// Finds the route of a request to an API that is open to everybody.
pub fn select(tables: &Tables, request: &RouteRequest<'_>) -> Result<Route, Refusal> {
    find(tables, request)?.lead(request.environment).ok_or(Refusal::NoEnvironment)
}

/// The resource to ask of an endpoint: its own path, what the topic's mapping adds, its own query and the client's.
pub fn resource(endpoint: &EndpointUrl, suffix: Option<&str>, query: Option<&str>) -> String {
    let mut resource = String::with_capacity(endpoint.path.len() + suffix.map_or(0, str::len) + 64);
    match suffix {
        Some(suffix) => {
            resource.push_str(endpoint.path.strip_suffix('/').unwrap_or(&endpoint.path));
            if !suffix.starts_with('/') {
                resource.push('/');
            }
            resource.push_str(suffix);
        }
        None => resource.push_str(&endpoint.path),
    }
    let queries = [endpoint.query.as_deref(), query];
    for (at, query) in queries.into_iter().flatten().filter(|query| !query.is_empty()).enumerate() {
        resource.push(if at == 0 { '?' } else { '&' });
        resource.push_str(query);
    }
    resource
}

/// The places to look at for a host, narrowest first.
fn candidates<'t>(tables: &'t Tables, host: &str) -> impl Iterator<Item = &'t Paths> {
    let hosts = &tables.hosts;
    let known = (!host.is_empty() && host.len() <= HOST_BYTES_MAX).then_some(host);
    let exact = known.and_then(|host| hosts.exact.get(host));
    let parents = known.filter(|_| !hosts.wildcard.is_empty()).into_iter().flat_map(|host| {
        std::iter::successors(host.split_once('.'), |(_, parent)| parent.split_once('.')).map(|(_, parent)| parent)
    });
    let wildcards = parents.filter_map(|parent| hosts.wildcard.get(parent));
    exact.into_iter().chain(wildcards).chain(std::iter::once(&hosts.every))
}

/// The API with the longest context that is the path or a whole-segment prefix of it, and what follows the context.
fn longest<'t, 'p>(
    tables: &'t Tables,
    paths: &Paths,
    path: &'p str,
    listener: Option<usize>,
) -> Option<(&'t Published, &'p str)> {
    let deeper = path.match_indices('/').nth(paths.depth);
    let mut end = deeper.map_or(path.len(), |(at, _)| at);
    loop {
        let (context, rest) = path.split_at(end);
        let visible = |published: &&Published| {
            listener.map_or(published.listeners == ListenerSet::ALL, |listener| published.listeners.contains(listener))
                && (rest.is_empty() || published.api.api.context_match == ContextMatch::Longest)
        };
        if let Some(found) = paths.at(context).map(|at| tables.published(at)).find(visible) {
            return Some((found, rest));
        }
        end = context.rfind('/')?;
    }
}

#[cfg(test)]
mod tests {
    use proto::control::message::Generation;
    use proto::snapshot::{Api, Config, Listener, Snapshot, Target, Topic};

    use super::*;

    fn api(name: &str, version: &str, context: &str, change: impl FnOnce(&mut Api)) -> Api {
        let url = format!("ws://{name}{version}/");
        let mut api = Api::new(name, version, context, Target::Url(url.parse().unwrap()));
        change(&mut api);
        api
    }

    fn topic(topic: &str, mapping: &str) -> Topic {
        Topic {
            topic: topic.into(),
            mapping: (!mapping.is_empty()).then(|| mapping.into()),
            scopes: Vec::new(),
            ..Topic::default()
        }
    }

    fn tables(apis: Vec<Api>) -> Tables {
        let listeners = vec![
            Listener::new("public", "0.0.0.0:80".parse().unwrap()),
            Listener::new("inside", "unix:/run/in.sock".parse().unwrap()),
        ];
        let snapshot = Snapshot::check(Config { version: 1, listeners, apis, ..Config::default() }).unwrap();
        Tables::build(Generation { source: "test".into(), number: 1 }, &snapshot, None).unwrap()
    }

    fn published() -> Tables {
        tables(vec![
            api("chat", "v1", "/chat", |api| api.default_version = true),
            api("chat", "v2", "/chat", |api| {
                api.topics = vec![
                    topic("/", ""),
                    topic("/rooms", "/all"),
                    topic("/rooms/{room}", "/r/{room}"),
                    topic("/rooms/*", "/deep/*"),
                ];
            }),
            api("live", "1.0", "/a/{version}/live", |_| {}),
            api("exact", "", "/a/exact", |api| api.context_match = ContextMatch::Exact),
            api("wide", "", "/a", |_| {}),
            api("off", "", "/a/off", |api| api.enabled = false),
            api("inside", "", "/chat/v1/in", |api| api.listeners = vec!["inside".into()]),
            api("host", "", "/h", |api| api.hosts = vec!["x.example.com".into()]),
            api("star", "", "/h", |api| api.hosts = vec!["*.example.com".into()]),
            api("longstar", "", "/h/s", |api| api.hosts = vec!["*.b.example.com".into()]),
            api("every", "", "/h", |_| {}),
            api("hostonly", "", "/chat/v1/deep", |api| api.hosts = vec!["x.example.com".into()]),
            api("test", "", "/sandboxed", |api| api.endpoints.sandbox = api.endpoints.production.take()),
        ])
    }

    fn request<'a>(listener: &'a str, host: &'a str, path: &'a str) -> RouteRequest<'a> {
        RouteRequest { listener, host, path, environment: Environment::Production }
    }

    #[test]
    fn requests_reach_the_api_they_name() {
        let tables = published();
        for (listener, host, path, found) in [
            // Versions, in the path or by default.
            ("public", "x", "/chat/v1", Ok("chat:v1 /*")),
            ("public", "x", "/chat/v1/", Ok("chat:v1 /*")),
            ("public", "x", "/chat/v1/anything/below", Ok("chat:v1 /*")),
            ("public", "x", "/chat", Ok("chat:v1 /*")),
            ("public", "x", "/chat/v9", Ok("chat:v1 /*")),
            ("public", "x", "/chat/v1x", Ok("chat:v1 /*")),
            ("public", "x", "/chatter", Err(Refusal::NoApi)),
            ("public", "x", "/a/1.0/live/x", Ok("live:1.0 /*")),
            ("public", "x", "/a/live", Ok("wide /*")),
            // Topics.
            ("public", "x", "/chat/v2", Ok("chat:v2 /")),
            ("public", "x", "/chat/v2/", Ok("chat:v2 /")),
            ("public", "x", "/chat/v2/rooms", Ok("chat:v2 /rooms + /all")),
            ("public", "x", "/chat/v2/rooms/", Ok("chat:v2 /rooms + /all")),
            ("public", "x", "/chat/v2/rooms/7", Ok("chat:v2 /rooms/{room} + /r/7")),
            ("public", "x", "/chat/v2/rooms/7/8", Ok("chat:v2 /rooms/* + /deep/7/8")),
            ("public", "x", "/chat/v2/other", Err(Refusal::NoTopic)),
            // Longest and exact contexts; one that is off.
            ("public", "x", "/a/exact", Ok("exact /*")),
            ("public", "x", "/a/exact/more", Ok("wide /*")),
            ("public", "x", "/a/off", Err(Refusal::NoApi)),
            ("public", "x", "/a/off/more", Err(Refusal::NoApi)),
            ("public", "x", "/a/offset", Ok("wide /*")),
            // Listeners.
            ("public", "x", "/chat/v1/in", Ok("chat:v1 /*")),
            ("inside", "x", "/chat/v1/in", Ok("inside /*")),
            ("closed", "x", "/chat/v1", Ok("chat:v1 /*")),
            ("closed", "x", "/chat/v1/in", Ok("chat:v1 /*")),
            // Hosts.
            ("public", "x.example.com", "/h", Ok("host /*")),
            ("public", "x.example.com.", "/h", Ok("host /*")),
            ("public", "y.example.com", "/h", Ok("star /*")),
            ("public", "x.y.example.com", "/h", Ok("star /*")),
            ("public", "example.com", "/h", Ok("every /*")),
            ("public", "", "/h", Ok("every /*")),
            ("public", "x.b.example.com", "/h/s", Ok("longstar /*")),
            ("public", "x.b.example.com", "/h/t", Ok("star /*")),
            ("public", "x.example.com", "/chat/v1/deep", Ok("hostonly /*")),
            ("public", "x.example.com", "/chat/v1", Ok("chat:v1 /*")),
            // What is no path.
            ("public", "x", "/", Err(Refusal::NoApi)),
            ("public", "x", "", Err(Refusal::NoApi)),
            ("public", "x", "chat", Err(Refusal::NoApi)),
            ("public", "x", "//chat", Err(Refusal::NoApi)),
            ("public", "x", "/chat/../a", Err(Refusal::NoApi)),
            ("public", "x", "/chat/%2e%2e/a", Err(Refusal::NoApi)),
            // Environments.
            ("public", "x", "/sandboxed", Err(Refusal::NoEnvironment)),
        ] {
            let route = select(&tables, &request(listener, host, path)).map(|route| {
                let suffix = route.suffix.map_or(String::new(), |suffix| format!(" + {suffix}"));
                format!("{} {}{suffix}", route.api.label, route.topic)
            });
            assert_eq!(route.as_deref().map_err(|refusal| *refusal), found, "{listener} {host} {path}");
        }
    }

    #[test]
    fn parameters_of_the_topic_are_told_as_they_stand_in_the_path() {
        let tables = published();
        for (path, name, value) in [
            ("/chat/v2/rooms/a%20b", "room", Some("a%20b")),
            ("/chat/v2/rooms/7", "other", None),
            ("/chat/v2/rooms", "room", None),
            ("/chat/v2/rooms/7/8", "room", None),
            ("/nowhere", "room", None),
        ] {
            assert_eq!(parameter(&tables, &request("public", "x", path), name).as_deref(), value, "{path} {name}");
        }
    }

    #[test]
    fn the_environment_chooses_the_upstream() {
        let tables = tables(vec![api("a", "", "/a", |api| {
            api.endpoints.sandbox = Some(Target::Url("ws://sandbox/".parse().unwrap()));
        })]);
        for (environment, authority) in [(Environment::Production, "a"), (Environment::Sandbox, "sandbox")] {
            let route = select(&tables, &RouteRequest { environment, ..request("public", "x", "/a") }).unwrap();
            assert_eq!(route.upstream.endpoints[0].authority, authority);
            assert_eq!(route.environment, environment);
        }
    }

    #[test]
    fn an_api_at_the_root_takes_what_nobody_else_takes() {
        let tables =
            tables(vec![api("root", "", "/", |api| api.topics = vec![topic("/*", "/*")]), api("a", "", "/a", |_| {})]);
        for (path, label, suffix) in
            [("/", "root", None), ("/b", "root", Some("/b")), ("/ab/c", "root", Some("/ab/c")), ("/a/b", "a", None)]
        {
            let route = select(&tables, &request("public", "x", path)).unwrap();
            assert_eq!((&*route.api.label, route.suffix.as_deref()), (label, suffix), "{path}");
        }
    }

    #[test]
    fn a_host_or_path_without_end_is_no_work() {
        let tables = published();
        let host = "a.".repeat(4000);
        let path = "/a".repeat(4000);
        assert_eq!(select(&tables, &request("public", &host, &path)).unwrap().api.label.as_ref(), "wide");
    }

    #[test]
    fn the_resource_is_the_endpoints_path_the_mapping_and_both_queries() {
        for (url, suffix, query, expected) in [
            ("ws://a", None, None, "/"),
            ("ws://a/app", None, None, "/app"),
            ("ws://a/app", Some("/x"), None, "/app/x"),
            ("ws://a/app/", Some("/x"), None, "/app/x"),
            ("ws://a/", Some("/x"), None, "/x"),
            ("ws://a/app", Some("/"), None, "/app/"),
            ("ws://a/app/", None, None, "/app/"),
            ("ws://a/app?k=1", None, None, "/app?k=1"),
            ("ws://a/app?k=1", Some("/x"), Some("q=2&r"), "/app/x?k=1&q=2&r"),
            ("ws://a/app", None, Some("q=2"), "/app?q=2"),
            ("ws://a/app?", None, Some(""), "/app"),
        ] {
            let endpoint: EndpointUrl = url.parse().unwrap();
            assert_eq!(resource(&endpoint, suffix, query), expected, "{url} {suffix:?} {query:?}");
        }
    }
}
