//! What the published snapshot is made of: the declared and the stored.
//!
//! Puts the two together and keeps the result in step with the database; a change of people touches the buckets of its
//! entries only. Calls block. Publishing is the [`office`](crate::office)'s business.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use proto::snapshot::{Config, Edit, Jwks, OWN_ISSUER, Problem, SectionName, Snapshot, Timestamp};
use rusqlite::Connection;

use super::entry::subscription_id;
use super::neighbourhood::{Neighbourhood, origin};
use super::plans::users_of;
use super::stored::Stored;
use super::told::{part, retell};
use super::{
    CHANGES_MAX, Change, ChangeError, Condition, Declared, Entry, Kind, Object, Origin, PAGE_MAX, declared, plans, rows,
};
use crate::compile::with_issuers;
use crate::source::Diagnostic;
use crate::store::{Store, StoreError};
use proto::errors::with_sources;

/// The application of each client that is stored, for whoever wants to know without waiting.
pub(crate) type Clients = Arc<RwLock<HashMap<String, String>>>;

/// See the module.
pub struct Books {
    store: Arc<Store>,
    declared: Option<Arc<Declared>>,
    /// The declared alone, to see whether a reload changes its people.
    alone: Option<Snapshot>,
    stored: Stored,
    clients: Clients,
    current: Option<Snapshot>,
}

/// What a call did.
pub(crate) struct Done {
    pub objects: Vec<Object>,
    pub removed: Vec<(Kind, String)>,
    /// What is to be published now, if anything is new.
    pub snapshot: Option<Snapshot>,
}

/// What a call is going to do: everything has been looked up, nothing has been done.
#[derive(Default)]
struct Plan {
    puts: Vec<Put>,
    /// What goes, with what it was.
    deletes: Vec<Entry>,
}

struct Put {
    change: usize,
    entry: Entry,
    before: Option<Entry>,
    created: Timestamp,
}

impl Books {
    /// With what the database has.
    pub fn open(store: Arc<Store>) -> Result<Self, StoreError> {
        let (stored, applications) =
            store.read(|connection| Ok((Stored::read(connection)?, rows::all(connection, Kind::Application)?)))?;
        let clients = applications.iter().flat_map(clients_of).collect();
        Ok(Self { store, declared: None, alone: None, stored, clients: Arc::new(RwLock::new(clients)), current: None })
    }

    /// See [`Clients`].
    pub(crate) fn clients(&self) -> Clients {
        Arc::clone(&self.clients)
    }

    /// What this configuration file and the stored objects are together. `alone` is the file's own snapshot.
    pub fn merged(&self, declared: &Declared, alone: &Snapshot) -> Result<Snapshot, Vec<Diagnostic>> {
        let frame = if self.stored.is_empty() { alone.clone() } else { self.frame(declared, alone)? };
        let people = match (&self.current, &self.alone) {
            (Some(current), Some(before)) if before.has_people_of(alone) => {
                self.without_what_they_name(current, &frame)?;
                Ok(frame.with_people_of(current))
            }
            _ => self.with_stored_people(declared, alone, &frame)?,
        };
        people.map_err(|problem| vec![self.diagnostic(&problem.message)])
    }

    /// Goes on with this file, whose snapshot with the stored objects is `merged`.
    pub fn adopt(&mut self, declared: Arc<Declared>, alone: Snapshot, merged: Snapshot) {
        (self.declared, self.alone, self.current) = (Some(declared), Some(alone), Some(merged));
    }

    /// Goes on with these public keys as the gateway's own, whatever the file says now; nothing, where it is no issuer.
    pub(crate) fn adopt_own_keys(&mut self, text: &str) -> Option<Snapshot> {
        let mut issuers = self.current.as_ref()?.issuers().to_vec();
        issuers.iter_mut().find(|one| one.name == OWN_ISSUER)?.jwks = Some(Jwks::Text(text.to_owned()));
        let with_keys = |snapshot: &Snapshot| with_issuers(snapshot, issuers.clone());
        self.alone = self.alone.as_ref().map(with_keys);
        self.current = self.current.as_ref().map(with_keys);
        self.current.clone()
    }

    /// Makes the changes, all or none. When this returns `Ok` they are on the disk.
    pub(crate) fn change(&mut self, changes: Vec<Change>, now: Timestamp) -> Result<Done, ChangeError> {
        let plan = self.store.read(|connection| Ok(self.plan(connection, changes, now)))??;
        let stored = plan.touches_stored().then(|| plan.stored(&self.stored));
        let next = match (&self.declared, &self.alone, &self.current) {
            (Some(declared), Some(alone), Some(current)) => {
                let base = self.base(&plan, stored.as_ref(), declared, alone, current)?;
                Some(self.outcome(&plan, declared, base)?)
            }
            _ => None,
        };
        let objects = plan.puts.iter().map(|put| put.object(now)).collect();
        let removed = plan.deletes.iter().map(|entry| (entry.kind(), entry.id())).collect();
        if !plan.is_news() {
            return Ok(Done { objects, removed, snapshot: None });
        }
        self.store.write(|transaction| {
            plan.deletes.iter().try_for_each(|entry| rows::delete(transaction, entry.kind(), &entry.id()))?;
            // Two keys may change places, and the hash of each is unique all the while.
            let moved = plan.puts.iter().filter(|put| put.moves());
            moved.clone().try_for_each(|put| rows::delete(transaction, put.entry.kind(), &put.entry.id()))?;
            plan.puts.iter().try_for_each(|put| rows::put(transaction, &put.entry, put.created, now))
        })?;
        self.remember_clients(&plan);
        self.stored = stored.unwrap_or_else(|| std::mem::take(&mut self.stored));
        self.current = next.clone();
        Ok(Done { objects, removed, snapshot: next })
    }

    /// Looks everything up that a call speaks of, and whether it may.
    fn plan(&self, connection: &Connection, changes: Vec<Change>, now: Timestamp) -> Result<Plan, ChangeError> {
        if changes.len() > CHANGES_MAX {
            let message = format!("there are {} changes; at most {CHANGES_MAX} go in one call", changes.len());
            return Err(ChangeError::Invalid(vec![Problem { place: String::new(), message }]));
        }
        let mut plan = Plan::default();
        let (mut problems, mut seen, mut goes) = (Vec::new(), HashSet::new(), Vec::new());
        for (at, change) in changes.into_iter().enumerate() {
            let (kind, id) = change.target();
            let id = id.to_owned();
            if let Some(file) = self.declared.as_ref().and_then(|declared| declared.file_of(kind, &id)) {
                return Err(ChangeError::Declared { kind, id, file });
            }
            let mut wrong = |place: &str, message| problems.push(Problem { place: format!("/{at}{place}"), message });
            if !seen.insert((kind, id.clone())) {
                wrong("", format!("the {kind} {id:?} is changed twice in this call; change it once"));
                continue;
            }
            let before = rows::find(connection, kind, &id)?;
            meets(change.condition(), before.as_ref(), kind, &id)?;
            let created = before.as_ref().and_then(|before| before.created).unwrap_or(now);
            let before = before.map(|before| readable(kind, before.value)).transpose()?;
            match change {
                Change::Delete { cascade, .. } => {
                    let before = before.ok_or_else(|| match plans::built_in(&id).filter(|_| kind == Kind::Plan) {
                        Some(_) => ChangeError::BuiltIn { kind, id: id.clone() },
                        None => ChangeError::NotFound { kind, id: id.clone() },
                    })?;
                    goes.push((kind, id, cascade));
                    plan.deletes.push(before);
                }
                Change::Put { .. } if self.current.is_none() => return Err(ChangeError::Unready),
                Change::Put { value, .. } => match Entry::read(kind, value) {
                    Err(message) => wrong("", message),
                    Ok(entry) if entry.id() != id => {
                        wrong("", format!("the value is of the {kind} {:?}, not of {id:?}", entry.id()));
                    }
                    Ok(mut entry) => {
                        entry.date(before.as_ref(), now);
                        plan.puts.push(Put { change: at, entry, before, created });
                    }
                },
            }
        }
        if !problems.is_empty() {
            return Err(ChangeError::Invalid(problems));
        }
        for (kind, id, cascade) in goes {
            match (kind, &self.current) {
                (Kind::Plan, Some(current)) => plan.stays_without(current, &id)?,
                _ => plan.take_users_of(connection, kind, id, cascade)?,
            }
        }
        Ok(plan)
    }

    /// What is published now, with the APIs, plans and denials of after the call.
    fn base(
        &self,
        plan: &Plan,
        stored: Option<&Stored>,
        declared: &Declared,
        alone: &Snapshot,
        current: &Snapshot,
    ) -> Result<Snapshot, ChangeError> {
        let Some(stored) = stored else { return Ok(current.clone()) };
        let frame = check_frame(declared, alone, stored);
        let frame = frame.map_err(|problems| ChangeError::Invalid(plan.retold(problems, declared, stored)))?;
        Ok(frame.with_people_of(current))
    }

    /// The snapshot after a call, if that is sound.
    fn outcome(&self, plan: &Plan, declared: &Declared, base: Snapshot) -> Result<Snapshot, ChangeError> {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        let neighbourhood = Neighbourhood {
            before: &base,
            declared,
            clients: &clients,
            puts: plan.puts.iter().map(|put| (put.change, &put.entry)).collect(),
            touched: plan.touched(),
        };
        neighbourhood.check().map_err(ChangeError::Invalid)?;
        base.edited(plan.edits()).map_err(|problem| ChangeError::Invalid(vec![problem]))
    }

    /// Everything but people, of the declared and the stored.
    fn frame(&self, declared: &Declared, alone: &Snapshot) -> Result<Snapshot, Vec<Diagnostic>> {
        let frame = check_frame(declared, alone, &self.stored);
        frame.map_err(|problems| self.diagnose(declared, &self.stored.ids(), problems))
    }

    /// Whether everything of the frame that people refer to is still there. The declared are sound with their own file, so
    /// who lacks something is stored.
    fn without_what_they_name(&self, people: &Snapshot, frame: &Snapshot) -> Result<(), Vec<Diagnostic>> {
        let subscriptions = people.subscriptions().filter(|one| frame.api(&one.api).is_none());
        let subscriptions = subscriptions.map(|one| {
            let (id, api) = (subscription_id(&one.application, &one.api), &one.api);
            format!("the stored subscription {id:?}: there is no API {api:?} any more; delete it first")
        });
        let issuers: HashSet<&str> = frame.issuers().iter().map(|one| one.name.as_str()).chain([OWN_ISSUER]).collect();
        let clients = people.applications().flat_map(|one| one.clients.iter().map(move |client| (&one.name, client)));
        let clients = clients.filter(|(_, client)| client.is_bound() && !issuers.contains(client.issuer.as_str()));
        let clients = clients.map(|(application, client)| {
            let (id, issuer) = (&client.id, &client.issuer);
            format!(
                "the stored application {application:?}: there is no issuer {issuer:?} any more, whose tokens the client \
                 {id:?} is to have; change or delete the client first"
            )
        });
        let is_plan = |plan: &str| frame.has_plan(plan);
        let of_applications = people.applications().filter(|one| !is_plan(&one.plan));
        let of_applications = of_applications.map(|one| (format!("application {:?}", one.name), &one.plan));
        let of_subscriptions = people.subscriptions().filter(|one| !is_plan(&one.plan));
        let of_subscriptions = of_subscriptions
            .map(|one| (format!("subscription {:?}", subscription_id(&one.application, &one.api)), &one.plan));
        let plans = of_applications.chain(of_subscriptions).map(|(who, plan)| {
            format!("the stored {who}: there is no plan {plan:?} any more; change or delete it first")
        });
        let told: Vec<_> =
            subscriptions.chain(clients).chain(plans).take(PAGE_MAX).map(|one| self.diagnostic(&one)).collect();
        if told.is_empty() { Ok(()) } else { Err(told) }
    }

    /// The frame with the people of the file and those of the database.
    fn with_stored_people(
        &self,
        declared: &Declared,
        alone: &Snapshot,
        frame: &Snapshot,
    ) -> Result<Result<Snapshot, Problem>, Vec<Diagnostic>> {
        let stored = self.stored_people().map_err(|error| vec![self.diagnostic(&with_sources(&error))])?;
        if stored.is_empty() {
            return Ok(Ok(frame.with_people_of(alone)));
        }
        let (apis, plans) = (frame.apis().cloned().collect(), frame.plans().to_vec());
        let mut config = Config { apis, plans, ..people_of(&declared.config) };
        let mut ids: HashMap<Kind, Vec<String>> = HashMap::new();
        for entry in &stored {
            entry.join(&mut config);
            ids.entry(entry.kind()).or_default().push(entry.id());
        }
        Snapshot::check_identity(&config).map_err(|problems| self.diagnose(declared, &ids, problems))?;
        drop(config);
        let edits = stored.iter().filter_map(Entry::put);
        Ok(frame.with_people_of(alone).edited(edits))
    }

    fn stored_people(&self) -> Result<Vec<Entry>, StoreError> {
        self.store.read(|connection| {
            let mut all = Vec::new();
            if rows::has_people(connection)? {
                for kind in Kind::ALL.into_iter().filter(|kind| kind.is_of_people()) {
                    all.extend(rows::all(connection, kind)?);
                }
            }
            Ok(all)
        })
    }

    fn remember_clients(&self, plan: &Plan) {
        let mut clients = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        let gone = plan.deletes.iter().chain(plan.puts.iter().filter_map(|put| put.before.as_ref()));
        gone.flat_map(clients_of).for_each(|(client, _)| {
            clients.remove(&client);
        });
        clients.extend(plan.puts.iter().flat_map(|put| clients_of(&put.entry)));
    }

    /// Problems of the declared with the stored behind it, of which `stored` has the ids.
    fn diagnose(
        &self,
        declared: &Declared,
        stored: &HashMap<Kind, Vec<String>>,
        problems: Vec<Problem>,
    ) -> Vec<Diagnostic> {
        let stored_id = |kind: Kind, index: usize| {
            let behind = index.checked_sub(declared::len(&declared.config, kind))?;
            stored.get(&kind)?.get(behind)
        };
        let told = |problem: Problem| {
            let message = retell(&problem.message, |kind, index| match stored_id(kind, index) {
                Some(_) => Some("stored in the catalogue".into()),
                None => Some(format!("declared in {}", declared.place_of(kind, index))),
            });
            match part(&problem.place).and_then(|(kind, index, _)| Some((kind, stored_id(kind, index)?))) {
                Some((kind, id)) => vec![self.diagnostic(&format!("the stored {kind} {id:?}: {message}"))],
                None => declared.diagnose(&[Problem { message, ..problem }]),
            }
        };
        problems.into_iter().flat_map(told).collect()
    }

    fn diagnostic(&self, message: &str) -> Diagnostic {
        let file = self.store.path().display().to_string();
        Diagnostic { file, line: 0, column: 0, place: String::new(), message: message.to_owned() }
    }
}

impl Plan {
    /// What refers to something that goes must go as well.
    fn take_users_of(
        &mut self,
        connection: &Connection,
        kind: Kind,
        id: String,
        cascade: bool,
    ) -> Result<(), ChangeError> {
        let mut by = rows::users_of(connection, kind, &id, usize::MAX >> 1)?;
        let stays = |one: &(Kind, String)| {
            let is_it = |entry: &Entry| (entry.kind(), entry.id()) == *one;
            // One that is put says for itself whom it refers to now.
            !self.deletes.iter().any(is_it) && !self.puts.iter().any(|put| is_it(&put.entry))
        };
        by.retain(stays);
        if cascade {
            for (kind, id) in by.extract_if(.., |(kind, _)| *kind != Kind::User) {
                if let Some(object) = rows::find(connection, kind, &id)? {
                    self.deletes.push(readable(kind, object.value)?);
                }
            }
        }
        by.truncate(PAGE_MAX);
        let by: Vec<_> = by.into_iter().map(|(kind, id)| (kind.word(), id)).collect();
        if by.is_empty() { Ok(()) } else { Err(ChangeError::InUse { kind, id, by }) }
    }

    /// Whether nobody who stays as they are names this plan, which goes. One that the gateway brings is there again then.
    fn stays_without(&self, current: &Snapshot, plan: &str) -> Result<(), ChangeError> {
        if plans::built_in(plan).is_some() {
            return Ok(());
        }
        let mut changed: HashSet<(&str, String)> =
            self.deletes.iter().map(|entry| (entry.kind().word(), entry.id())).collect();
        changed.extend(self.puts.iter().map(|put| (put.entry.kind().word(), put.entry.id())));
        let mut by = users_of(current, plan);
        by.retain(|one| !changed.contains(one));
        by.truncate(PAGE_MAX);
        if by.is_empty() { Ok(()) } else { Err(ChangeError::InUse { kind: Kind::Plan, id: plan.to_owned(), by }) }
    }

    fn is_news(&self) -> bool {
        !self.deletes.is_empty() || self.puts.iter().any(|put| put.before.as_ref() != Some(&put.entry))
    }

    fn touches_stored(&self) -> bool {
        let mut entries = self.deletes.iter().chain(self.puts.iter().map(|put| &put.entry));
        entries.any(|entry| !entry.kind().is_of_people())
    }

    /// The stored APIs, plans and denials after the call.
    fn stored(&self, before: &Stored) -> Stored {
        let mut stored = before.clone();
        self.deletes.iter().for_each(|entry| stored.take(entry.kind(), &entry.id()));
        self.puts.iter().for_each(|put| stored.put(put.entry.clone()));
        stored
    }

    fn touched(&self) -> HashSet<(Kind, String)> {
        let entries = self.deletes.iter().chain(self.puts.iter().map(|put| &put.entry));
        entries.map(|entry| (entry.kind(), entry.id())).collect()
    }

    /// What goes, what was elsewhere, then what comes.
    fn edits(&self) -> impl Iterator<Item = Edit> + '_ {
        let moved = self.puts.iter().filter(|put| put.moves()).filter_map(|put| put.before.as_ref());
        let gone = self.deletes.iter().chain(moved).filter_map(Entry::take);
        gone.chain(self.puts.iter().filter_map(|put| put.entry.put()))
    }

    /// Problems of the frame, whose places are of the declared and then the stored.
    fn retold(&self, problems: Vec<Problem>, declared: &Declared, stored: &Stored) -> Vec<Problem> {
        let change = |kind: Kind, id: &str| {
            let mut puts = self.puts.iter().filter(|put| put.entry.kind() == kind);
            puts.find(|put| put.entry.id() == id).map(|put| put.change)
        };
        let told = |problem: Problem| {
            let message = retell(&problem.message, |kind, index| {
                let (id, _) = stored.id_at(&declared.config, kind, index)?;
                Some(match change(kind, &id) {
                    Some(change) => format!("change {change} of this call"),
                    None => origin(declared, kind, &id),
                })
            });
            let of_change = part(&problem.place).and_then(|(kind, index, rest)| {
                let (id, _) = stored.id_at(&declared.config, kind, index).filter(|(_, is_stored)| *is_stored)?;
                Some((change(kind, &id)?, rest))
            });
            let place = of_change.map_or_else(String::new, |(change, rest)| format!("/{change}{rest}"));
            Problem { place, message }
        };
        problems.into_iter().map(told).collect()
    }
}

impl Put {
    /// Whether it leaves another place in the snapshot: a key whose hash is another.
    fn moves(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.secret() != self.entry.secret())
    }

    fn object(&self, now: Timestamp) -> Object {
        let mut object = Object::new(self.entry.kind(), self.entry.id(), self.entry.value(), Origin::Stored);
        (object.created, object.updated) = (Some(self.created), Some(now));
        object
    }
}

impl Entry {
    /// A key that does not say when it was made was made when its hash came.
    fn date(&mut self, before: Option<&Self>, now: Timestamp) {
        if let Self::Key(key) = self
            && key.created.is_none()
        {
            let same = before.and_then(|before| match before {
                Self::Key(before) if before.sha256 == key.sha256 => before.created,
                _ => None,
            });
            key.created = same.or(Some(now));
        }
    }
}

/// Whether what is there is what the caller thinks.
fn meets(condition: &Condition, before: Option<&Object>, kind: Kind, id: &str) -> Result<(), ChangeError> {
    let id = || id.to_owned();
    match (condition, before) {
        (Condition::MustBeNew, Some(_)) => Err(ChangeError::Exists { kind, id: id() }),
        (Condition::MustExist | Condition::MustMatch(_), None) => Err(ChangeError::NotFound { kind, id: id() }),
        (Condition::MustMatch(etag), Some(before)) if *etag != before.etag => {
            Err(ChangeError::Stale { kind, id: id(), etag: before.etag.clone() })
        }
        _ => Ok(()),
    }
}

/// What the database holds was written by a program like this one.
fn readable(kind: Kind, value: serde_json::Value) -> Result<Entry, StoreError> {
    Entry::read(kind, value).map_err(rows::not_readable)
}

/// Everything but people, of the declared and these. The gateway itself comes among the issuers behind the check, so
/// they are those of the file's own snapshot.
fn check_frame(declared: &Declared, alone: &Snapshot, stored: &Stored) -> Result<Snapshot, Vec<Problem>> {
    let mut config = frame_of(&declared.config);
    stored.join(&mut config);
    let issuers = alone.sections().get(&SectionName::Issuers).cloned();
    Snapshot::check(config)?.with([(SectionName::Issuers, issuers)]).map_err(|problem| vec![problem])
}

/// A configuration without its people.
fn frame_of(config: &Config) -> Config {
    Config {
        version: config.version,
        settings: config.settings.clone(),
        certificates: config.certificates.clone(),
        authorities: config.authorities.clone(),
        listeners: config.listeners.clone(),
        upstreams: config.upstreams.clone(),
        apis: config.apis.clone(),
        issuers: config.issuers.clone(),
        assertions: config.assertions.clone(),
        plans: config.plans.clone(),
        limit_policies: config.limit_policies.clone(),
        limits: config.limits.clone(),
        denials: config.denials.clone(),
        token_endpoint: config.token_endpoint.clone(),
        ..Config::default()
    }
}

/// The people of a configuration with what they refer to, but for APIs: of those there are stored ones, too.
fn people_of(config: &Config) -> Config {
    Config {
        issuers: config.issuers.clone(),
        plans: config.plans.clone(),
        applications: config.applications.clone(),
        subscriptions: config.subscriptions.clone(),
        keys: config.keys.clone(),
        users: config.users.clone(),
        revocations: config.revocations.clone(),
        ..Config::default()
    }
}

fn clients_of(entry: &Entry) -> Vec<(String, String)> {
    match entry {
        Entry::Application(one) => one.clients.iter().map(|client| (client.id.clone(), one.name.clone())).collect(),
        _ => Vec::new(),
    }
}
