//! What is stored of everything but people: APIs, plans and denials, which are checked together with the whole file.

use std::collections::{BTreeMap, HashMap};

use proto::snapshot::{Api, Config, Denial, Plan};
use rusqlite::Connection;

use super::{Entry, Kind, declared, rows};
use crate::store::StoreError;

/// See the module. By their ids, in the order in which they are checked behind the declared ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    apis: BTreeMap<String, Api>,
    plans: BTreeMap<String, Plan>,
    denials: BTreeMap<String, Denial>,
}

impl Stored {
    /// What the database has.
    pub fn read(connection: &Connection) -> Result<Self, StoreError> {
        let mut stored = Self::default();
        for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_of_people()) {
            rows::all(connection, kind)?.into_iter().for_each(|entry| stored.put(entry));
        }
        Ok(stored)
    }

    pub fn is_empty(&self) -> bool {
        let Self { apis, plans, denials } = self;
        apis.is_empty() && plans.is_empty() && denials.is_empty()
    }

    /// Puts an entry in its place; one of people is not for here.
    pub fn put(&mut self, entry: Entry) {
        let id = entry.id();
        match entry {
            Entry::Api(one) => drop(self.apis.insert(id, *one)),
            Entry::Plan(one) => drop(self.plans.insert(id, one)),
            Entry::Denial(one) => drop(self.denials.insert(id, one)),
            _ => {}
        }
    }

    /// Takes an entry away.
    pub fn take(&mut self, kind: Kind, id: &str) {
        match kind {
            Kind::Api => drop(self.apis.remove(id)),
            Kind::Plan => drop(self.plans.remove(id)),
            Kind::Denial => drop(self.denials.remove(id)),
            _ => {}
        }
    }

    /// Appends all of it to a configuration.
    pub fn join(&self, config: &mut Config) {
        config.apis.extend(self.apis.values().cloned());
        config.plans.extend(self.plans.values().cloned());
        config.denials.extend(self.denials.values().cloned());
    }

    /// The ids, in the order in which they are joined.
    pub fn ids(&self) -> HashMap<Kind, Vec<String>> {
        HashMap::from([
            (Kind::Api, self.apis.keys().cloned().collect()),
            (Kind::Plan, self.plans.keys().cloned().collect()),
            (Kind::Denial, self.denials.keys().cloned().collect()),
        ])
    }

    /// The id of what stands at this index of a configuration of the declared and the stored; of a declared one, too.
    pub fn id_at(&self, declared: &Config, kind: Kind, index: usize) -> Option<(String, bool)> {
        let declared_count = declared::len(declared, kind);
        if index < declared_count {
            return Some((declared::id(declared, kind, index), false));
        }
        let at = index - declared_count;
        let id = match kind {
            Kind::Api => self.apis.keys().nth(at),
            Kind::Plan => self.plans.keys().nth(at),
            Kind::Denial => self.denials.keys().nth(at),
            _ => None,
        };
        Some((id?.clone(), true))
    }
}
