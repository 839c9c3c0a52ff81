//! A few changed entries with everything that they refer to or may clash with: enough to say whether they are sound.
//!
//! A whole configuration of a million keys is not checked anew for one of them. What is not a neighbour of a change was
//! sound before and is sound after it.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, HashSet};

use proto::limits::{API_KEYS_MAX, APPLICATIONS_MAX, REVOKED_MAX, SUBSCRIPTIONS_MAX, USERS_MAX};
use proto::snapshot::{Config, OAuthClient, Problem, Section, Snapshot};

use super::told::{part, retell};
use super::{Declared, Entry, Kind};

/// The entries of one call.
pub(super) struct Neighbourhood<'a> {
    /// What was published before the call, with the APIs, plans and denials of after it.
    pub before: &'a Snapshot,
    pub declared: &'a Declared,
    /// The application of each stored client.
    pub clients: &'a HashMap<String, String>,
    /// What is put, with the index of the change.
    pub puts: Vec<(usize, &'a Entry)>,
    /// What is put or taken away: not as it was before.
    pub touched: HashSet<(Kind, String)>,
}

/// Who stands at a place of the small configuration.
enum Who {
    Change(usize),
    Neighbour(Kind, String),
}

impl Neighbourhood<'_> {
    /// Everything that is wrong with what is put. Places are `/CHANGE/pointer`.
    pub fn check(&self) -> Result<(), Vec<Problem>> {
        // APIs are those of after the call, touched or not.
        let people = self.puts.iter().filter(|(_, entry)| entry.kind().is_of_people());
        let apis: BTreeSet<&str> = people.filter_map(|(_, entry)| entry.api()).collect();
        let apis = apis.into_iter().filter_map(|label| self.before.api(label)).cloned().collect();
        let mut config = Config { apis, ..Config::default() };
        let mut who = HashMap::new();
        // Neighbours first: what clashes is told at the later one, which is the change.
        for neighbour in self.neighbours() {
            let at = neighbour.join(&mut config);
            who.insert((neighbour.kind(), at), Who::Neighbour(neighbour.kind(), neighbour.id()));
        }
        for (change, entry) in self.puts.iter().filter(|(_, entry)| entry.kind().is_of_people()) {
            let at = entry.join(&mut config);
            who.insert((entry.kind(), at), Who::Change(*change));
        }
        if config.applications.iter().flat_map(|one| &one.clients).any(OAuthClient::is_bound) {
            config.issuers = self.before.issuers().to_vec();
        }
        let plans: HashSet<&str> = (config.applications.iter().map(|one| one.plan.as_str()))
            .chain(config.subscriptions.iter().map(|one| one.plan.as_str()))
            .collect();
        config.plans = self.before.plans().iter().filter(|plan| plans.contains(plan.name.as_str())).cloned().collect();
        let mut problems = self.ceilings();
        let found = Snapshot::check_identity(&config).err().unwrap_or_default();
        problems.extend(found.into_iter().map(|problem| self.retold(problem, &who)));
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// What the puts refer to and may clash with, with what those refer to, each once: together they lack nothing.
    fn neighbours(&self) -> Vec<Entry> {
        let mut found: HashMap<(Kind, String), Entry> = HashMap::new();
        let meet = |found: &mut HashMap<_, _>, entry: Option<Entry>| {
            if let Some(entry) = entry {
                let name = (entry.kind(), entry.id());
                if !self.touched.contains(&name) {
                    found.insert(name, entry);
                }
            }
        };
        let mut subjects: HashSet<&str> = HashSet::new();
        for (_, entry) in self.puts.iter().filter(|(_, entry)| entry.kind().is_of_people()) {
            if let Some(application) = entry.application() {
                meet(&mut found, self.before.application(application).cloned().map(Entry::Application));
            }
            match entry {
                Entry::Application(one) => {
                    for client in &one.clients {
                        meet(&mut found, self.owner(&client.id));
                        meet(&mut found, self.before.user(&client.id).cloned().map(Entry::User));
                    }
                }
                Entry::Key(one) => meet(&mut found, self.before.key(&one.sha256).cloned().map(Entry::Key)),
                Entry::User(one) => {
                    meet(&mut found, self.owner(&one.name));
                    subjects.extend(one.certificates.iter().map(String::as_str));
                }
                Entry::Api(_) | Entry::Subscription(_) | Entry::Revocation(_) => {}
                Entry::Plan(_) | Entry::Denial(_) => {}
            }
        }
        if !subjects.is_empty() {
            let clash = |subject: &String| subjects.contains(subject.as_str());
            let users = self.before.users().filter(|user| user.certificates.iter().any(clash));
            users.for_each(|user| meet(&mut found, Some(Entry::User(user.clone()))));
        }
        let named: BTreeSet<String> = found.values().filter_map(Entry::application).map(Into::into).collect();
        for application in named {
            meet(&mut found, self.before.application(&application).cloned().map(Entry::Application));
        }
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found.into_iter().map(|(_, entry)| entry).collect()
    }

    /// The application whose client this is.
    fn owner(&self, client: &str) -> Option<Entry> {
        let declared = self.declared.client(client).map(|(owner, _)| owner.name.as_str());
        let owner = declared.or_else(|| self.clients.get(client).map(String::as_str))?;
        self.before.application(owner).cloned().map(Entry::Application)
    }

    /// A problem as the caller is told of it. The neighbours were sound, so whatever is wrong is wrong by a change: where it
    /// is told at a neighbour, the message names the change, which then is the place.
    fn retold(&self, problem: Problem, who: &HashMap<(Kind, usize), Who>) -> Problem {
        let named = Cell::new(None);
        let message = retell(&problem.message, |kind, index| match who.get(&(kind, index))? {
            Who::Change(change) => {
                named.set(Some(*change));
                Some(format!("change {change} of this call"))
            }
            Who::Neighbour(kind, id) => Some(origin(self.declared, *kind, id)),
        });
        let at = part(&problem.place).and_then(|(kind, index, rest)| Some((who.get(&(kind, index))?, rest)));
        match at {
            Some((Who::Change(change), rest)) => Problem { place: format!("/{change}{rest}"), message },
            Some((Who::Neighbour(kind, id), _)) => {
                let place = named.get().map_or_else(String::new, |change| format!("/{change}"));
                let origin = origin(self.declared, *kind, id);
                Problem { place, message: format!("the {kind} {id:?} ({origin}): {message}") }
            }
            None => Problem { place: String::new(), message },
        }
    }

    /// How many there would be. What is replaced is counted twice, which nobody notices below the ceiling.
    fn ceilings(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (kind, ceiling) in [
            (Kind::Application, APPLICATIONS_MAX),
            (Kind::Subscription, SUBSCRIPTIONS_MAX),
            (Kind::Key, API_KEYS_MAX),
            (Kind::User, USERS_MAX),
            (Kind::Revocation, REVOKED_MAX),
        ] {
            let more = self.puts.iter().filter(|(_, entry)| entry.kind() == kind).count();
            if more > 0 && count(self.before, kind) + more > ceiling {
                let message = format!("there would be more than {ceiling} {}; delete some", kind.family());
                problems.push(Problem { place: String::new(), message });
            }
        }
        problems
    }
}

/// Where an object that is no part of the call comes from, as a message has it.
pub(super) fn origin(declared: &Declared, kind: Kind, id: &str) -> String {
    match declared.position(kind, id) {
        Some(at) => format!("declared in {}", declared.place_of(kind, at)),
        None => "stored in the catalogue".into(),
    }
}

/// How many of a kind a snapshot has.
pub(crate) fn count(snapshot: &Snapshot, kind: Kind) -> usize {
    let of_section = |section: &Section| match (kind, section) {
        (Kind::Api, Section::Apis(all)) => all.len(),
        (Kind::Application, Section::Applications(all)) => all.len(),
        (Kind::Subscription, Section::Subscriptions(all)) => all.len(),
        (Kind::Key, Section::Keys(all)) => all.len(),
        (Kind::User, Section::Users(all)) => all.len(),
        (Kind::Revocation, Section::Revocations(all)) => all.len(),
        (Kind::Plan, Section::Plans(all)) => all.len(),
        (Kind::Denial, Section::Denials(all)) => all.len(),
        _ => 0,
    };
    snapshot.sections().values().map(|(_, section)| of_section(section)).sum()
}
