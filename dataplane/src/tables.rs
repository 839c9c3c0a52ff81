//! Tables: a snapshot in the form in which a worker asks it questions.
//!
//! Built whole beside the tables in use and swapped in at once. A [`Snapshot`] is sound, so building fails only where the
//! terms of TLS cannot be made of what it holds, and before anything has changed.
//! What has not changed is the same entry in both, so live sessions, their counts and the endpoints' turns go on.
//! Which API a request reaches is decided in [`route`](crate::route); which endpoint is dialled, where connecting is.

use std::borrow::Borrow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use proto::control::message::Generation;
use proto::snapshot::{
    Api, Authentication, Captures, Digest, EndpointUrl, Environment, Listener, ListenerSet, Mapping, MessageLimits,
    Pattern, Section, SectionName, Settings, Snapshot, Target, Topic, Upstream,
};

use crate::issuers::Issuers;
use crate::people::People;
use crate::policy::{Plan, Signers};
use crate::throttle::{Limits, Paces};
use crate::tls::{ClientTerms, ServerTerms, Terms};

/// One generation, ready to serve.
#[derive(Debug)]
pub struct Tables {
    generation: Generation,
    snapshot: Snapshot,
    listeners: HashMap<String, usize>,
    published: Vec<Published>,
    by_label: HashMap<Arc<str>, usize>,
    /// Where the APIs of a section stand among the published ones.
    ranges: HashMap<SectionName, Range<usize>>,
    upstreams: HashMap<String, Arc<UpstreamEntry>>,
    addresses: HashSet<Address>,
    pub(crate) hosts: Hosts,
    terms: Terms,
    people: People,
    signers: Signers,
    secret_names: Vec<String>,
    secret_headers: Vec<String>,
    issuers: Issuers,
    limits: Limits,
}

/// An API in its place: what it leads to in this generation, and where it is seen.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) api: Arc<ApiEntry>,
    production: Option<Arc<UpstreamEntry>>,
    sandbox: Option<Arc<UpstreamEntry>>,
    pub(crate) listeners: ListenerSet,
}

impl Published {
    pub(crate) fn upstream(&self, environment: Environment) -> Option<&Arc<UpstreamEntry>> {
        match environment {
            Environment::Production => self.production.as_ref(),
            Environment::Sandbox => self.sandbox.as_ref(),
        }
    }
}

/// One API version, compiled. A session is pinned to the entry under which it was admitted.
#[derive(Debug)]
pub struct ApiEntry {
    /// What the operator wrote.
    pub api: Api,
    /// `name` or `name:version`.
    pub label: Arc<str>,
    /// The ceilings under which sessions begin; a later generation may give a live session others, see [`Fate`].
    pub limits: Arc<MessageLimits>,
    pub(crate) topics: Arc<Topics>,
    /// What is decided when a client asks for the upgrade, if anything.
    pub(crate) plan: Option<Arc<Plan>>,
    /// The paths it answers at, `/` as the empty path.
    paths: Vec<Arc<str>>,
    /// Which of its topics have a plan or a policy of their own, by template.
    limited_topics: HashMap<Box<str>, usize>,
    /// How fast handshakes may come.
    pub(crate) paces: Paces,
}

impl ApiEntry {
    /// A topic that has a plan or a policy of its own, by its template.
    pub fn limited_topic(&self, template: &str) -> Option<&Topic> {
        self.limited_topics.get(template).map(|&at| &self.api.topics[at])
    }
}

/// A named group of endpoints, or the one endpoint that an API names by its URL.
#[derive(Debug)]
pub struct UpstreamEntry {
    /// What the operator wrote. An upstream without a name of its own is called by its endpoint's URL, less the query.
    pub config: Upstream,
    /// The endpoints, in the order of the configuration; at least one.
    pub endpoints: Vec<Arc<EndpointEntry>>,
    /// How TLS is spoken with those endpoints whose URL says so; none if no endpoint's does.
    pub terms: Option<Arc<ClientTerms>>,
    /// Whose turn it is.
    pub cursor: AtomicUsize,
}

impl UpstreamEntry {
    /// Takes a turn: the index of the endpoint to try first.
    pub fn turn(&self) -> usize {
        self.cursor.fetch_add(1, Ordering::Relaxed) % self.endpoints.len()
    }
}

/// One address. Upstreams that name the same URL share it, and so does the next generation.
#[derive(Debug)]
pub struct EndpointEntry {
    /// Where it is and what is asked for there.
    pub url: EndpointUrl,
    /// For logs: the URL without its query, which may hold a credential.
    pub name: String,
    /// The value of its `Host` header.
    pub authority: String,
    /// Live sessions of this data plane.
    pub live: AtomicU64,
}

/// An endpoint in the set that is asked by URL.
#[derive(Debug, Clone)]
struct Address {
    endpoint: Arc<EndpointEntry>,
    /// The upstream of this endpoint alone, with default options, where an API names it by a bare URL.
    alone: Option<Arc<UpstreamEntry>>,
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.endpoint.url == other.endpoint.url
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.endpoint.url.hash(state);
    }
}

impl Borrow<EndpointUrl> for Address {
    fn borrow(&self) -> &EndpointUrl {
        &self.endpoint.url
    }
}

impl Tables {
    /// The tables of a snapshot, with every entry of the previous ones that still says the same; or every reason why there
    /// are none.
    pub fn build(generation: Generation, snapshot: &Snapshot, previous: Option<&Self>) -> Result<Self, Vec<String>> {
        let terms = Terms::build(snapshot, previous.map(|tables| (&tables.snapshot, &tables.terms)))?;
        let signers = Signers::build(snapshot, previous.map(|tables| &tables.signers))?;
        let people = People::build(snapshot, previous.map(|tables| (&tables.snapshot, &tables.people)));
        let issuers = Issuers::build(snapshot, &terms, previous.map(|tables| &tables.issuers));
        let mut tables = Self {
            generation,
            snapshot: snapshot.clone(),
            listeners: snapshot.listeners().iter().enumerate().map(|(at, one)| (one.name.clone(), at)).collect(),
            published: Vec::with_capacity(snapshot.apis().count()),
            by_label: HashMap::new(),
            ranges: HashMap::new(),
            upstreams: HashMap::new(),
            addresses: HashSet::with_capacity(previous.map_or(0, |tables| tables.addresses.len())),
            hosts: Hosts::default(),
            terms,
            people,
            signers,
            secret_names: secret_names(snapshot),
            secret_headers: secret_headers(snapshot),
            issuers,
            limits: Limits::build(snapshot, previous.map(|tables| (&tables.snapshot, &tables.limits))),
        };
        for upstream in snapshot.upstreams() {
            let entry = tables.upstream_entry(upstream, previous);
            tables.upstreams.insert(upstream.name.clone(), entry);
        }
        tables.by_label.reserve(tables.published.capacity());
        for (name, (digest, section)) in snapshot.sections() {
            let Section::Apis(apis) = &**section else { continue };
            let begin = tables.published.len();
            match previous.and_then(|tables| tables.section(name, digest)) {
                Some(held) => held.iter().for_each(|held| tables.publish(held.api.clone(), previous)),
                None => apis.iter().for_each(|api| tables.publish(api_entry(api, previous), previous)),
            }
            tables.ranges.insert(*name, begin..tables.published.len());
        }
        Ok(tables)
    }

    /// The generation's name.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// What the tables were built from.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What holds for the whole gateway.
    pub fn settings(&self) -> &Settings {
        self.snapshot.settings()
    }

    /// The listeners, in the order of their names.
    pub fn listeners(&self) -> &[Listener] {
        self.snapshot.listeners()
    }

    /// A listener by name.
    pub fn listener(&self, name: &str) -> Option<&Listener> {
        self.listeners().get(*self.listeners.get(name)?)
    }

    /// An API version; the version is empty for an API without versions.
    pub fn api(&self, name: &str, version: &str) -> Option<&Arc<ApiEntry>> {
        if version.is_empty() { self.api_labelled(name) } else { self.api_labelled(&format!("{name}:{version}")) }
    }

    /// An API version by `name` or `name:version`.
    pub fn api_labelled(&self, label: &str) -> Option<&Arc<ApiEntry>> {
        self.by_label.get(label).map(|&at| &self.published[at].api)
    }

    /// Every API version.
    pub fn apis(&self) -> impl Iterator<Item = &Arc<ApiEntry>> {
        self.published.iter().map(|published| &published.api)
    }

    /// A named upstream.
    pub fn upstream(&self, name: &str) -> Option<&Arc<UpstreamEntry>> {
        self.upstreams.get(name)
    }

    /// The upstream of one endpoint that an API names by a bare URL, or that a policy may lead to.
    pub fn alone(&self, url: &EndpointUrl) -> Option<&Arc<UpstreamEntry>> {
        self.addresses.get(url).and_then(|address| address.alone.as_ref())
    }

    /// How TLS is spoken on a listener; none where it is not.
    pub fn server_terms(&self, listener: &str) -> Option<&Arc<ServerTerms>> {
        self.terms.server(listener)
    }

    /// How TLS is spoken everywhere.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Query parameters whose values never reach a log, beside those that never do: the settings', and those of API keys.
    pub fn secret_names(&self) -> &[String] {
        &self.secret_names
    }

    /// Headers whose values are never shown, beside those that never are and [`Tables::secret_names`]: those in which some
    /// API looks for tokens.
    pub fn secret_headers(&self) -> &[String] {
        &self.secret_headers
    }

    /// Who signs for backends.
    pub fn signers(&self) -> &Signers {
        &self.signers
    }

    /// Whose OAuth2 clients and certificates are.
    pub fn people(&self) -> &People {
        &self.people
    }

    /// Whose tokens are believed.
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// How much may pass.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Endpoints that are spoken to whoever answers there, with their upstreams.
    pub fn unverified(&self) -> impl Iterator<Item = (&str, &EndpointEntry)> {
        self.upstreams.values().flat_map(|upstream| {
            let endpoints = upstream.config.endpoints.iter().zip(&upstream.endpoints);
            let unverified = endpoints.filter(|(config, _)| config.url.secure && !config.verify_certificate);
            unverified.map(|(_, endpoint)| (upstream.config.name.as_str(), &**endpoint))
        })
    }

    /// Every endpoint, named or not, each once.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<EndpointEntry>> {
        self.addresses.iter().map(|address| &address.endpoint)
    }

    /// What the step from these tables to the next means for live sessions.
    pub fn changes<'a>(&self, next: &'a Self) -> Changes<'a> {
        let differ = |wanted: fn(SectionName) -> bool| self.digests(wanted).ne(next.digests(wanted));
        let apis = differ(|name| matches!(name, SectionName::Apis(_)));
        let people = differ(SectionName::is_of_identity);
        // What an API, an application or a subscription is limited by stands with it.
        let limits = apis || people || differ(SectionName::is_of_limits) || self.settings() != next.settings();
        Changes { next, apis, people, limits }
    }

    /// What these tables, being newer, say about a session that was admitted under this entry and now lives under these
    /// limits, which are not the entry's own when an earlier step has changed them.
    ///
    /// One look-up by label, and pointers where nothing changed. Also right for a session whose handshake began under
    /// older tables and ends under these.
    pub fn fate(&self, admitted: &ApiEntry, limits: &Arc<MessageLimits>) -> Fate {
        match self.api_labelled(&admitted.label) {
            None => Fate::Retired,
            Some(entry) if !entry.api.enabled => Fate::Retired,
            Some(entry) if Arc::ptr_eq(&entry.limits, limits) || entry.limits == *limits => Fate::Untouched,
            Some(entry) => Fate::Limits(entry.limits.clone()),
        }
    }

    /// The sections that are wanted, by name and digest.
    fn digests(&self, wanted: fn(SectionName) -> bool) -> impl Iterator<Item = (&SectionName, &Digest)> {
        let sections = self.snapshot.sections().iter().filter(move |(name, _)| wanted(**name));
        sections.map(|(name, (digest, _))| (name, digest))
    }

    pub(crate) fn listener_index(&self, name: &str) -> Option<usize> {
        self.listeners.get(name).copied()
    }

    pub(crate) fn published(&self, at: usize) -> &Published {
        &self.published[at]
    }

    /// What is published of a section, if these are the bytes it had.
    fn section(&self, name: &SectionName, digest: &Digest) -> Option<&[Published]> {
        let (held, _) = self.snapshot.sections().get(name)?;
        (held == digest).then(|| &self.published[self.ranges[name].clone()])
    }

    fn publish(&mut self, entry: Arc<ApiEntry>, previous: Option<&Self>) {
        let index = self.published.len();
        for path in &entry.paths {
            self.hosts.insert(&entry.api.hosts, path, index);
        }
        self.by_label.insert(entry.label.clone(), index);
        let names = &entry.api.listeners;
        let mut listeners = if names.is_empty() { ListenerSet::ALL } else { ListenerSet::NONE };
        for at in names.iter().filter_map(|name| self.listener_index(name)) {
            listeners.insert(at);
        }
        let mut led_to = |target: &Option<Target>| match target {
            Some(Target::Upstream(name)) => self.upstreams.get(name).cloned(),
            Some(Target::Url(url)) => Some(self.implicit_upstream(url, previous)),
            None => None,
        };
        let production = led_to(&entry.api.endpoints.production);
        let sandbox = led_to(&entry.api.endpoints.sandbox);
        if entry.plan.is_some() {
            for url in entry.api.bare_urls() {
                self.implicit_upstream(url, previous);
            }
        }
        self.published.push(Published { api: entry, production, sandbox, listeners });
    }

    fn upstream_entry(&mut self, upstream: &Upstream, previous: Option<&Self>) -> Arc<UpstreamEntry> {
        let endpoints =
            upstream.endpoints.iter().map(|endpoint| self.endpoint_entry(&endpoint.url, previous)).collect();
        let held = previous.and_then(|tables| tables.upstreams.get(&upstream.name));
        let terms = self.terms.client(&upstream.name).cloned();
        if let Some(held) = held.filter(|held| held.config == *upstream && same_terms(held, terms.as_ref())) {
            return held.clone();
        }
        let cursor = AtomicUsize::new(held.map_or(0, |held| held.cursor.load(Ordering::Relaxed)));
        Arc::new(UpstreamEntry { config: upstream.clone(), endpoints, terms, cursor })
    }

    fn implicit_upstream(&mut self, url: &EndpointUrl, previous: Option<&Self>) -> Arc<UpstreamEntry> {
        let here = self.addresses.get(url);
        if let Some(entry) = here.and_then(|address| address.alone.clone()) {
            return entry;
        }
        let before = previous.and_then(|tables| tables.addresses.get(url));
        let terms = self.terms.bare().filter(|_| url.secure).cloned();
        let held = before.and_then(|address| address.alone.clone()).filter(|held| same_terms(held, terms.as_ref()));
        let entry = held.unwrap_or_else(|| {
            let name = url.without_query();
            let endpoint = here.or(before).map_or_else(|| new_endpoint(url), |address| address.endpoint.clone());
            let config = Upstream::new(name, vec![url.clone()]);
            Arc::new(UpstreamEntry { config, endpoints: vec![endpoint], terms, cursor: AtomicUsize::new(0) })
        });
        self.addresses.replace(Address { endpoint: entry.endpoints[0].clone(), alone: Some(entry.clone()) });
        entry
    }

    fn endpoint_entry(&mut self, url: &EndpointUrl, previous: Option<&Self>) -> Arc<EndpointEntry> {
        if let Some(address) = self.addresses.get(url) {
            return address.endpoint.clone();
        }
        let before = previous.and_then(|tables| tables.addresses.get(url));
        let endpoint = before.map_or_else(|| new_endpoint(url), |address| address.endpoint.clone());
        self.addresses.insert(Address { endpoint: endpoint.clone(), alone: None });
        endpoint
    }
}

/// Of every API: a key may be sent to the wrong one, or to none.
fn secret_names(snapshot: &Snapshot) -> Vec<String> {
    let of_settings = snapshot.settings().secret_query_parameters.iter();
    let of_apis = snapshot.apis().map(|api| &api.authentication.api_key_name);
    let usual = Authentication::default().api_key_name;
    let names: BTreeSet<&String> = of_settings.chain(of_apis).filter(|name| **name != usual).collect();
    names.into_iter().cloned().collect()
}

/// Of every API, as above.
fn secret_headers(snapshot: &Snapshot) -> Vec<String> {
    let of_apis = snapshot.apis().map(|api| &api.authentication.authorization_header);
    let usual = Authentication::default().authorization_header;
    let names: BTreeSet<&String> = of_apis.filter(|name| **name != usual).collect();
    names.into_iter().cloned().collect()
}

fn same_terms(entry: &UpstreamEntry, terms: Option<&Arc<ClientTerms>>) -> bool {
    entry.terms.as_ref().map(Arc::as_ptr) == terms.map(Arc::as_ptr)
}

fn new_endpoint(url: &EndpointUrl) -> Arc<EndpointEntry> {
    Arc::new(EndpointEntry {
        name: url.without_query(),
        authority: url.authority(),
        url: url.clone(),
        live: AtomicU64::new(0),
    })
}

fn api_entry(api: &Api, previous: Option<&Tables>) -> Arc<ApiEntry> {
    let label: Arc<str> = api.label().into();
    let held = previous.and_then(|tables| tables.api_labelled(&label));
    match held {
        Some(held) if held.api == *api => held.clone(),
        _ => {
            // Equal limits stay the same limits, so that a session sees at one glance that nothing has changed.
            let limits = held.map(|held| &held.limits).filter(|limits| ***limits == api.limits).cloned();
            let path = |path: String| if path == "/" { "".into() } else { path.into() };
            Arc::new(ApiEntry {
                label,
                limits: limits.unwrap_or_else(|| Arc::new(api.limits.clone())),
                topics: Topics::compile(&api.topics),
                plan: Plan::compile(api).map(Arc::new),
                paths: std::iter::once(api.path()).chain(api.default_path()).map(path).collect(),
                limited_topics: limited_topics(&api.topics),
                paces: Paces::new(&api.admission, &api.label()),
                api: api.clone(),
            })
        }
    }
}

fn limited_topics(topics: &[Topic]) -> HashMap<Box<str>, usize> {
    let is_limited = |topic: &Topic| !topic.plan.is_empty() || !topic.limit_policy.is_empty();
    let limited = topics.iter().enumerate().filter(|(_, topic)| is_limited(topic));
    limited.map(|(at, topic)| (topic.topic.as_str().into(), at)).collect()
}

/// The step from one generation to the next, as live sessions see it.
#[derive(Debug, Clone, Copy)]
pub struct Changes<'a> {
    next: &'a Tables,
    apis: bool,
    people: bool,
    limits: bool,
}

/// What becomes of a live session when the tables change.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// Nothing that concerns it has changed, or nothing that reaches live sessions.
    Untouched,
    /// These ceilings hold from its next message on.
    Limits(Arc<MessageLimits>),
    /// Its API has been removed or switched off: it is drained.
    Retired,
}

impl Changes<'_> {
    /// Every fate is [`Fate::Untouched`]; no session needs to be asked. Costs a comparison of digests.
    pub fn is_empty(&self) -> bool {
        !self.apis && !self.people && !self.limits
    }

    /// As [`Tables::fate`] of the next tables.
    pub fn fate(&self, admitted: &ApiEntry, limits: &Arc<MessageLimits>) -> Fate {
        if self.apis { self.next.fate(admitted, limits) } else { Fate::Untouched }
    }

    /// Whether the limits of sessions must be looked at again.
    pub fn reach_limits(&self) -> bool {
        self.limits
    }

    /// Whether what was granted to a session must be looked at again.
    pub fn reach_grants(&self) -> bool {
        self.people
    }
}

/// The topics of an API, ready to be asked.
#[derive(Debug)]
pub(crate) struct Topics {
    /// Topics without parameters and `*`, by what follows the context.
    exact: HashMap<String, CompiledTopic>,
    /// The others, in the order in which they are tried.
    variable: Vec<CompiledTopic>,
}

#[derive(Debug)]
pub(crate) struct CompiledTopic {
    pub(crate) template: Arc<str>,
    /// Of which a client must have one; none: any client may.
    pub(crate) scopes: Arc<[String]>,
    pattern: Pattern,
    mapping: Option<Mapping>,
}

impl CompiledTopic {
    /// What a parameter stood for.
    pub(crate) fn parameter<'p>(&self, captures: &Captures<'p>, name: &str) -> Option<&'p str> {
        self.pattern.parameter(name).and_then(|at| captures.parameters.get(at).copied())
    }

    /// What is appended to the endpoint's path, if anything.
    pub(crate) fn suffix(&self, captures: &Captures<'_>) -> Option<String> {
        self.mapping.as_ref().map(|mapping| mapping.fill(captures)).filter(|suffix| !suffix.is_empty())
    }
}

/// What an API without topics has: `/*`.
static ANY_TOPIC: LazyLock<Arc<Topics>> = LazyLock::new(|| {
    Arc::new(Topics::of(&[Topic { topic: "/*".into(), mapping: None, scopes: Vec::new(), ..Topic::default() }]))
});

impl Topics {
    fn compile(topics: &[Topic]) -> Arc<Self> {
        if topics.is_empty() { ANY_TOPIC.clone() } else { Arc::new(Self::of(topics)) }
    }

    fn of(topics: &[Topic]) -> Self {
        let mut compiled = Self { exact: HashMap::new(), variable: Vec::new() };
        for topic in topics {
            let pattern = Pattern::parse(&topic.topic).expect("a snapshot's topics are sound");
            let mapping = topic
                .mapping
                .as_ref()
                .map(|mapping| Mapping::parse(mapping, &pattern).expect("a snapshot's mappings are sound"));
            let literal = pattern.literal();
            let topic = CompiledTopic {
                template: topic.topic.as_str().into(),
                scopes: topic.scopes.clone().into(),
                pattern,
                mapping,
            };
            match literal {
                Some(path) => {
                    compiled.exact.insert(path, topic);
                }
                None => compiled.variable.push(topic),
            }
        }
        compiled.variable.sort_by(|one, other| one.pattern.precedence(&other.pattern));
        compiled
    }

    /// The topic of what follows the context: exact before parameters before the longest `*`. Exact ones cost one
    /// look-up, the others a comparison each; they are at most [`TOPICS_MAX`](proto::limits::TOPICS_MAX).
    pub(crate) fn choose<'p>(&self, path: &'p str) -> Option<(&CompiledTopic, Captures<'p>)> {
        if let Some(topic) = self.exact.get(path) {
            return Some((topic, Captures::default()));
        }
        self.variable.iter().find_map(|topic| topic.pattern.matches(path).map(|captures| (topic, captures)))
    }
}

/// Places by host.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    /// Exact hosts.
    pub(crate) exact: HashMap<String, Paths>,
    /// Wildcards, without their `*.`.
    pub(crate) wildcard: HashMap<String, Paths>,
    /// APIs that are served for every host.
    pub(crate) every: Paths,
}

/// One place: the published APIs there, nearly always one, else of disjoint listeners.
#[derive(Debug)]
struct Place {
    first: usize,
    others: Vec<usize>,
}

/// Places below one host, by path.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    places: HashMap<Arc<str>, Place>,
    /// Segments of the longest path here: longer prefixes of a request's path are not looked up.
    pub(crate) depth: usize,
}

impl Hosts {
    fn insert(&mut self, hosts: &[String], path: &Arc<str>, index: usize) {
        if hosts.is_empty() {
            self.every.insert(path, index);
        }
        for host in hosts {
            let paths = match host.strip_prefix("*.") {
                Some(suffix) => self.wildcard.entry(suffix.into()),
                None => self.exact.entry(host.clone()),
            };
            paths.or_default().insert(path, index);
        }
    }
}

impl Paths {
    fn insert(&mut self, path: &Arc<str>, index: usize) {
        self.depth = self.depth.max(path.bytes().filter(|&byte| byte == b'/').count());
        match self.places.entry(path.clone()) {
            Entry::Vacant(place) => {
                place.insert(Place { first: index, others: Vec::new() });
            }
            Entry::Occupied(mut place) => place.get_mut().others.push(index),
        }
    }

    /// The APIs whose place is exactly this path.
    pub(crate) fn at(&self, path: &str) -> impl Iterator<Item = usize> {
        let place = self.places.get(path);
        place.into_iter().flat_map(|place| std::iter::once(place.first).chain(place.others.iter().copied()))
    }
}

#[cfg(test)]
mod tests {
    use proto::snapshot::{Balance, Config, Size};

    use super::*;

    fn generation(number: u64) -> Generation {
        Generation { source: "test".into(), number }
    }

    fn config() -> Config {
        let url = |text: &str| text.parse::<EndpointUrl>().unwrap();
        Config {
            version: 1,
            listeners: vec![Listener::new("public", "0.0.0.0:80".parse().unwrap())],
            upstreams: vec![
                Upstream::new("one", vec![url("ws://a/"), url("ws://b/")]),
                Upstream::new("two", vec![url("ws://b/"), url("ws://c/")]),
            ],
            apis: vec![
                Api::new("x", "", "/x", Target::Upstream("one".into())),
                Api::new("y", "v1", "/y", Target::Url(url("ws://d/?key=1"))),
                Api::new("z", "v1", "/z", Target::Url(url("ws://d/?key=1"))),
            ],
            ..Config::default()
        }
    }

    fn build(change: impl FnOnce(&mut Config), previous: Option<&Tables>) -> Tables {
        let mut config = config();
        change(&mut config);
        let number = previous.map_or(1, |tables| tables.generation().number + 1);
        Tables::build(generation(number), &Snapshot::check(config).unwrap(), previous).unwrap()
    }

    fn led_to(tables: &Tables, label: &str) -> Arc<UpstreamEntry> {
        tables.published[tables.by_label[label]].production.clone().unwrap()
    }

    #[test]
    fn entries_are_found_by_name() {
        let tables = build(|_| {}, None);
        assert_eq!(tables.generation(), &generation(1));
        assert_eq!(tables.listener("public").unwrap().name, "public");
        assert!(tables.listener("other").is_none());
        assert_eq!(&*tables.api("y", "v1").unwrap().label, "y:v1");
        assert!(tables.api("y", "").is_none());
        assert_eq!(tables.apis().count(), 3);
        assert_eq!(tables.endpoints().count(), 4);
        let implicit = led_to(&tables, "y:v1");
        assert_eq!(implicit.config.name, "ws://d/", "no query: it may hold a key");
        assert!(Arc::ptr_eq(&implicit, &led_to(&tables, "z:v1")));
    }

    #[test]
    fn what_has_not_changed_is_the_same_entry() {
        let before = build(|_| {}, None);
        led_to(&before, "x").endpoints[0].live.store(7, Ordering::Relaxed);
        let after = build(
            |config| {
                config.apis[1].context = "/moved".into();
                config.upstreams[0].balance = Balance::LeastSessions;
            },
            Some(&before),
        );
        let same = |label| Arc::ptr_eq(before.api_labelled(label).unwrap(), after.api_labelled(label).unwrap());
        assert!(same("x") && same("z:v1") && !same("y:v1"));
        assert!(Arc::ptr_eq(&before.api("y", "v1").unwrap().limits, &after.api("y", "v1").unwrap().limits));
        assert!(Arc::ptr_eq(&led_to(&before, "y:v1"), &led_to(&after, "y:v1")));
        assert!(Arc::ptr_eq(before.upstream("two").unwrap(), after.upstream("two").unwrap()));

        let (one, other) = (led_to(&before, "x"), led_to(&after, "x"));
        assert!(!Arc::ptr_eq(&one, &other));
        assert_eq!(other.config.balance, Balance::LeastSessions);
        assert!(one.endpoints.iter().zip(&other.endpoints).all(|(one, other)| Arc::ptr_eq(one, other)));
        assert_eq!(other.endpoints[0].live.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn an_endpoint_is_shared_by_all_that_name_it_and_goes_with_the_last() {
        let before = build(|_| {}, None);
        let (one, two) = (before.upstream("one").unwrap(), before.upstream("two").unwrap());
        assert!(Arc::ptr_eq(&one.endpoints[1], &two.endpoints[0]));
        let after = build(|config| config.upstreams.truncate(1), Some(&before));
        assert!(after.endpoints().any(|endpoint| Arc::ptr_eq(endpoint, &one.endpoints[1])));
        assert!(!after.endpoints().any(|endpoint| endpoint.authority == "c"));
    }

    #[test]
    fn turns_go_on_when_an_upstream_changes() {
        let before = build(|_| {}, None);
        assert_eq!([0; 3].map(|_| before.upstream("one").unwrap().turn()), [0, 1, 0]);
        let after = build(|config| config.upstreams[0].preserve_host = true, Some(&before));
        assert_eq!(after.upstream("one").unwrap().turn(), 1);
    }

    #[test]
    fn live_sessions_are_told_only_of_what_reaches_them() {
        type Change = fn(&mut Config);
        let limits = MessageLimits { max_message: Size::from_bytes(9), ..MessageLimits::default() };
        let rows: &[(Change, Fate)] = &[
            (|_| {}, Fate::Untouched),
            (|config| config.apis[2].enabled = false, Fate::Untouched),
            (|config| config.apis[0].context = "/moved".into(), Fate::Untouched),
            (|config| config.apis[0].origins = vec!["https://a".into()], Fate::Untouched),
            (|config| config.upstreams[0].preserve_host = true, Fate::Untouched),
            (|config| config.listeners[0].backlog = 1, Fate::Untouched),
            (|config| config.apis[0].limits.max_message = Size::from_bytes(9), Fate::Limits(Arc::new(limits))),
            (|config| config.apis[0].enabled = false, Fate::Retired),
            (|config| config.apis[0].version = "v1".into(), Fate::Retired),
            (
                |config| {
                    config.apis.remove(0);
                },
                Fate::Retired,
            ),
        ];
        for (at, (change, fate)) in rows.iter().enumerate() {
            let before = build(|_| {}, None);
            let after = build(change, Some(&before));
            let entry = before.api("x", "").unwrap();
            assert_eq!(before.changes(&after).fate(entry, &entry.limits), *fate, "row {at}");
        }
    }

    #[test]
    fn a_step_that_leaves_the_apis_alone_is_empty() {
        let before = build(|_| {}, None);
        assert!(before.changes(&build(|config| config.upstreams[0].preserve_host = true, Some(&before))).is_empty());
        let after = build(|config| config.apis[0].enabled = false, Some(&before));
        let changes = before.changes(&after);
        assert!(!changes.is_empty() && !changes.reach_grants());
    }

    #[test]
    fn a_step_that_says_who_may_come_in_reaches_what_was_granted() {
        let before = build(|_| {}, None);
        let after = build(|config| config.revocations.push(revocation("user:alice")), Some(&before));
        assert!(before.changes(&after).reach_grants());
        assert!(
            !after
                .changes(&build(|config| config.revocations.push(revocation("user:alice")), Some(&after)))
                .reach_grants()
        );
    }

    fn revocation(what: &str) -> proto::snapshot::Revocation {
        proto::snapshot::Revocation {
            revoked: what.parse().unwrap(),
            issued_before: None,
            expires: None,
            reason: String::new(),
        }
    }

    #[test]
    fn limits_that_were_changed_and_changed_back_reach_the_session_both_times() {
        let first = build(|_| {}, None);
        let second = build(|config| config.apis[0].limits.max_fragments = 5, Some(&first));
        let third = build(|_| {}, Some(&second));
        let admitted = first.api("x", "").unwrap();
        let Fate::Limits(now) = first.changes(&second).fate(admitted, &admitted.limits) else { panic!("untouched") };
        assert_eq!(now.max_fragments, 5);
        let Fate::Limits(now) = second.changes(&third).fate(admitted, &now) else { panic!("untouched") };
        assert_eq!(now.max_fragments, 0);
    }
}
