//! Which API version answers at which host, path and listener: exactly one.
//!
//! Overlaps are wanted and have an order (host before wildcard, longer context before shorter); only what stands at the
//! very same place is a clash. An API that is switched off keeps its place.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::{Names, Problems};
use crate::limits::{LISTENERS_MAX, ROUTES_MAX};
use crate::snapshot::Api;
use crate::snapshot::path::context_problem;

/// A set of listeners, by their index in the snapshot's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerSet([u64; LISTENERS_MAX / 64]);

impl ListenerSet {
    /// Every listener.
    pub const ALL: Self = Self([u64::MAX; LISTENERS_MAX / 64]);
    /// No listener.
    pub const NONE: Self = Self([0; LISTENERS_MAX / 64]);

    /// Adds a listener; an index that no snapshot can have is left out.
    pub fn insert(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    /// Whether the listener is in the set.
    pub fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// Whether the two have a listener in common.
    pub fn intersects(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(one, other)| one & other != 0)
    }
}

/// One API's claim on one host and path.
struct Claim {
    api: usize,
    listeners: ListenerSet,
}

/// The claims on one host and path, nearly always one. Those that clash are not kept, so the kept ones have disjoint
/// listeners and are at most as many, plus one of no listener.
struct Claims {
    first: Claim,
    others: Vec<Claim>,
}

impl Claims {
    /// The API whose claim this one takes a listener from.
    fn against(&self, claim: &Claim) -> Option<usize> {
        let mut held = std::iter::once(&self.first).chain(&self.others);
        held.find(|held| held.api != claim.api && held.listeners.intersects(&claim.listeners)).map(|held| held.api)
    }
}

pub(super) fn clashes(apis: &[&Api], names: &Names<'_>, problems: &mut Problems) {
    let paths: Vec<_> = apis.iter().map(|api| paths(api)).collect();
    let hosts = |api: &Api| api.hosts.len().max(1);
    let routes = apis.iter().zip(&paths).map(|(api, paths)| hosts(api) * paths.iter().flatten().count()).sum::<usize>();
    if routes > ROUTES_MAX {
        let message = format!("all APIs together have {routes} pairs of host and path; {ROUTES_MAX} are allowed");
        problems.add("/apis", message);
        return;
    }
    let mut claims: HashMap<(&str, &str), Claims> = HashMap::with_capacity(routes);
    let mut told = HashSet::new();
    for (index, api) in apis.iter().enumerate() {
        let listeners = listeners_of(api, names);
        for path in paths[index].iter().flatten() {
            for host in hosts_of(api) {
                let claim = Claim { api: index, listeners };
                let held = match claims.entry((host, path)) {
                    Entry::Vacant(place) => {
                        place.insert(Claims { first: claim, others: Vec::new() });
                        continue;
                    }
                    Entry::Occupied(place) => place.into_mut(),
                };
                match held.against(&claim) {
                    Some(holder) if told.insert((holder, index)) => {
                        let (spot, message) = clash(apis, holder, index, host, path, problems);
                        problems.add(format_args!("{spot}/context"), message);
                    }
                    Some(_) => {}
                    None if listeners == ListenerSet::NONE => {} // all of them unknown, which is told elsewhere
                    None => held.others.push(claim),
                }
            }
        }
    }
}

fn clash<'a>(
    apis: &[&'a Api],
    holder: usize,
    index: usize,
    host: &str,
    path: &str,
    problems: &Problems,
) -> (super::Spot<'a>, String) {
    let (held, api) = (apis[holder], apis[index]);
    let spot = problems.spot("apis", index, &api.name, &api.version);
    let holder = problems.spot("apis", holder, &held.name, &held.version);
    let host = if host.is_empty() { "every host".into() } else { format!("host {host}") };
    let (held, api) = (held.label(), api.label());
    let message = format!(
        "{path} on {host} would lead to both {held:?} ({holder}) and {api:?}; give one of them another context, version, host or listener"
    );
    (spot, message)
}

/// The paths at which an API answers; none where its context is not sound, which is told elsewhere.
fn paths(api: &Api) -> [Option<String>; 2] {
    if context_problem(&api.context, &api.version).is_some() {
        return [None, None];
    }
    [Some(api.path()), api.default_path()]
}

/// An API's hosts; the empty one stands for every host.
fn hosts_of(api: &Api) -> impl Iterator<Item = &str> {
    let every = api.hosts.is_empty().then_some("");
    every.into_iter().chain(api.hosts.iter().map(String::as_str))
}

fn listeners_of(api: &Api, names: &Names<'_>) -> ListenerSet {
    if api.listeners.is_empty() {
        return ListenerSet::ALL;
    }
    let mut set = ListenerSet::NONE;
    for index in api.listeners.iter().filter_map(|name| names.listeners.get(name.as_str())) {
        set.insert(*index);
    }
    set
}
