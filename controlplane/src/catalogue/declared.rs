//! What the configuration file declares, ready to be found by name.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use proto::snapshot::{Application, Config, OAuthClient, Problem};

use super::entry::Entry;
use super::{Filter, Kind, Object, Origin};
use crate::source::{Diagnostic, Document};

/// A configuration file that is sound by itself.
#[derive(Debug)]
pub struct Declared {
    /// What it says, with contents in place of paths.
    pub config: Config,
    document: Document,
    by_id: BTreeMap<Kind, BTreeMap<String, usize>>,
    clients: HashMap<String, usize>,
}

impl Declared {
    /// Of a document, and its configuration with contents in place of paths.
    pub fn new(document: Document, config: Config) -> Self {
        let by_id = Kind::ALL.into_iter().map(|kind| {
            let ids = (0..len(&config, kind)).map(|at| (id(&config, kind, at), at)).collect();
            (kind, ids)
        });
        let by_id = by_id.collect();
        let owned = |(at, application): (usize, &Application)| {
            application.clients.iter().map(move |client| (client.id.clone(), at)).collect::<Vec<_>>()
        };
        let clients = config.applications.iter().enumerate().flat_map(owned).collect();
        Self { config, document, by_id, clients }
    }

    /// An object.
    pub fn find(&self, kind: Kind, id: &str) -> Option<Object> {
        Some(self.object(kind, self.position(kind, id)?))
    }

    /// The file in which an object stands.
    pub fn file_of(&self, kind: Kind, id: &str) -> Option<String> {
        Some(self.file_at(kind, self.position(kind, id)?))
    }

    /// Where in its family an object stands.
    pub(super) fn position(&self, kind: Kind, id: &str) -> Option<usize> {
        self.by_id.get(&kind)?.get(id).copied()
    }

    /// The objects that are wanted, at most so many, whose ids come behind `after`.
    pub fn list(&self, kind: Kind, filter: &Filter, after: &str, limit: usize) -> Vec<Object> {
        let Some(ids) = self.by_id.get(&kind) else { return Vec::new() };
        let behind = ids.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        let wanted = behind.filter(|(id, at)| filter.wants(id, &self.entry(kind, **at)));
        wanted.take(limit).map(|(_, at)| self.object(kind, *at)).collect()
    }

    /// An OAuth2 client and its application.
    pub fn client(&self, id: &str) -> Option<(&Application, &OAuthClient)> {
        let application = &self.config.applications[*self.clients.get(id)?];
        Some((application, application.clients.iter().find(|client| client.id == id)?))
    }

    /// Problems whose places are pointers into the configuration, where they stand in the files.
    pub(super) fn diagnose(&self, problems: &[Problem]) -> Vec<Diagnostic> {
        self.document.diagnose(problems)
    }

    /// The file and the line of an entry.
    pub(super) fn place_of(&self, kind: Kind, at: usize) -> String {
        let place = format!("/{}/{at}", kind.family());
        self.document.place_of(&place)
    }

    pub(super) fn entry(&self, kind: Kind, at: usize) -> Entry {
        entry(&self.config, kind, at)
    }

    fn object(&self, kind: Kind, at: usize) -> Object {
        let entry = self.entry(kind, at);
        let origin = Origin::Declared { file: self.file_at(kind, at) };
        Object::new(kind, entry.id(), entry.value(), origin)
    }

    fn file_at(&self, kind: Kind, at: usize) -> String {
        self.document.file_of(&format!("/{}/{at}", kind.family())).to_owned()
    }
}

impl Filter {
    pub(super) fn wants(&self, id: &str, entry: &Entry) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
        is(&self.application, entry.application())
            && is(&self.api, entry.api())
            && is(&self.user, entry.user())
            && self.enabled.is_none_or(|enabled| enabled == entry.is_enabled())
            && self.text.as_ref().is_none_or(|text| id.contains(text.as_str()))
    }
}

pub(super) fn len(config: &Config, kind: Kind) -> usize {
    match kind {
        Kind::Api => config.apis.len(),
        Kind::Application => config.applications.len(),
        Kind::Subscription => config.subscriptions.len(),
        Kind::Key => config.keys.len(),
        Kind::User => config.users.len(),
        Kind::Revocation => config.revocations.len(),
        Kind::Plan => config.plans.len(),
        Kind::Denial => config.denials.len(),
    }
}

fn entry(config: &Config, kind: Kind, at: usize) -> Entry {
    match kind {
        Kind::Api => Entry::Api(Box::new(config.apis[at].clone())),
        Kind::Application => Entry::Application(config.applications[at].clone()),
        Kind::Subscription => Entry::Subscription(config.subscriptions[at].clone()),
        Kind::Key => Entry::Key(config.keys[at].clone()),
        Kind::User => Entry::User(config.users[at].clone()),
        Kind::Revocation => Entry::Revocation(config.revocations[at].clone()),
        Kind::Plan => Entry::Plan(config.plans[at].clone()),
        Kind::Denial => Entry::Denial(config.denials[at].clone()),
    }
}

pub(super) fn id(config: &Config, kind: Kind, at: usize) -> String {
    entry(config, kind, at).id()
}
