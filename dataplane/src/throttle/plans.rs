//! Plans, policies of limits, limits by keys and denials of one generation, in the form in which handshakes ask them.
//!
//! Built with the tables. What says the same as before is the same entry, so that a live session sees at one glance that
//! its limits have not changed.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use proto::snapshot::{
    Admission, Amount, ConditionGroup, Conditions, KeyPart, KeyedLimit, Limit, LimitPolicy, Plan, Rate, SectionName,
    Snapshot,
};

use super::denials::Denials;
use super::guard::{Compiled, LevelKind};
use super::meters::Scope;
use crate::visitor::Who;

/// What limits there are in one generation.
#[derive(Debug, Default)]
pub struct Limits {
    plans: HashMap<Box<str>, Arc<Planned>>,
    policies: HashMap<Box<str>, Arc<Policy>>,
    keyed: Box<[Arc<Keyed>]>,
    denials: Arc<Denials>,
    paces: Paces,
}

/// How fast handshakes may come.
#[derive(Debug, Default)]
pub struct Paces {
    /// Everybody's together.
    pub all: Option<Pace>,
    /// Those of one range of addresses.
    pub per_address: Option<Pace>,
}

/// A rate of handshakes.
#[derive(Debug)]
pub struct Pace {
    /// As a plan of one limit.
    pub plan: Arc<Compiled>,
    /// What its meters are called.
    pub scope: Arc<Scope>,
}

/// A plan, and what its meters are called at each level.
#[derive(Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Arc<Compiled>,
    scopes: Box<[Arc<Scope>]>,
}

/// A policy of limits.
#[derive(Debug)]
pub struct Policy {
    /// What the operator wrote.
    pub written: LimitPolicy,
    /// In which order they are asked.
    pub groups: Box<[Group]>,
    /// The plan of everybody else.
    pub rest: Option<Arc<Planned>>,
}

/// Whom a policy gives a plan.
#[derive(Debug)]
pub struct Group {
    /// All of these must fit.
    pub when: Box<[Who]>,
    /// Their plan.
    pub plan: Arc<Planned>,
}

/// A limit by a key of the operator's own.
#[derive(Debug)]
pub struct Keyed {
    /// What the operator wrote.
    pub written: KeyedLimit,
    /// Its name, as levels have it.
    pub name: Arc<str>,
    /// All of these must fit.
    pub when: Box<[Who]>,
    /// The plan.
    pub plan: Arc<Planned>,
}

impl Limits {
    /// Of a snapshot, and of the one before it with what was built of that.
    pub fn build(snapshot: &Snapshot, previous: Option<(&Snapshot, &Self)>) -> Self {
        let before = previous.map(|(_, limits)| limits);
        let plans = plans(snapshot, before);
        let plan = |name: &str| plans.get(name).cloned();
        let policy = |written: &LimitPolicy| {
            let new = policy(written, &plan)?;
            let held = before.and_then(|limits| limits.policies.get(&*written.name));
            Some(held.filter(|held| held.is_same(&new)).cloned().unwrap_or_else(|| Arc::new(new)))
        };
        let policies = snapshot.limit_policies().iter();
        let policies = policies.filter_map(|one| Some((one.name.as_str().into(), policy(one)?))).collect();
        let keyed = |written: &KeyedLimit| {
            let plan = plan(&written.plan)?;
            let held = before.and_then(|limits| limits.keyed.iter().find(|held| held.written.name == written.name));
            let held = held.filter(|held| held.written == *written && Arc::ptr_eq(&held.plan, &plan));
            Some(held.cloned().unwrap_or_else(|| Arc::new(Keyed::new(written, plan))))
        };
        let keyed = snapshot.limits().iter().filter_map(keyed).collect();
        let is_same = |name| previous.is_some_and(|(before, _)| section(before, name) == section(snapshot, name));
        let denials = before
            .filter(|_| is_same(SectionName::Denials))
            .map_or_else(|| Arc::new(Denials::new(snapshot.denials())), |limits| Arc::clone(&limits.denials));
        let paces = Paces::new(&snapshot.settings().admission, "");
        Self { policies, keyed, denials, plans, paces }
    }

    /// A plan by name; one that limits nothing is none.
    pub fn plan(&self, name: &str) -> Option<&Arc<Planned>> {
        self.plans.get(name)
    }

    /// A policy by name.
    pub fn policy(&self, name: &str) -> Option<&Arc<Policy>> {
        self.policies.get(name)
    }

    /// Limits by keys.
    pub fn keyed(&self) -> &[Arc<Keyed>] {
        &self.keyed
    }

    /// How fast handshakes may come to the whole gateway.
    pub fn paces(&self) -> &Paces {
        &self.paces
    }

    /// Whose messages do not pass.
    pub fn denials(&self) -> &Denials {
        &self.denials
    }
}

impl Paces {
    /// Of the gateway (an empty label), or of an API version.
    pub fn new(admission: &Admission, label: &str) -> Self {
        let pace = |rate: Option<Rate>, what: &str| {
            let burst = admission.connects_burst.map(|burst| Amount(burst.into()));
            let limit = Limit { rate: Some(rate?), burst, ..Limit::default() };
            let plan = Arc::new(Compiled::of(&Plan::new(what, vec![limit])));
            let scope = Arc::new(Scope { kind: None, name: label.into(), plan: Arc::clone(&plan.name) });
            Some(Pace { plan, scope })
        };
        Self {
            all: pace(admission.connects, "connects"),
            per_address: pace(admission.connects_per_address, "connects_per_address"),
        }
    }
}

/// The bytes of a section, as far as they can be told apart.
fn section(snapshot: &Snapshot, name: SectionName) -> Option<&[u8]> {
    snapshot.sections().get(&name).map(|(digest, _)| &digest.0[..])
}

/// The operator's plans, and those of the gateway whose names are not among them.
fn plans(snapshot: &Snapshot, before: Option<&Limits>) -> HashMap<Box<str>, Arc<Planned>> {
    let built_in: Vec<Plan> = Plan::built_in().collect();
    let mut plans = HashMap::with_capacity(built_in.len() + snapshot.plans().len());
    for plan in built_in.iter().chain(snapshot.plans()) {
        let held = before.and_then(|limits| limits.plans.get(plan.name.as_str()));
        let compiled = Compiled::of(plan);
        let planned = held.filter(|held| *held.plan == compiled).cloned();
        plans.insert(plan.name.as_str().into(), planned.unwrap_or_else(|| Arc::new(Planned::new(compiled))));
    }
    plans
}

impl Planned {
    fn new(plan: Compiled) -> Self {
        let scope = |kind: LevelKind| {
            Arc::new(Scope { kind: Some(kind), name: Arc::clone(word(kind)), plan: Arc::clone(&plan.name) })
        };
        Self { scopes: LevelKind::ALL.into_iter().map(scope).collect(), plan: Arc::new(plan) }
    }

    /// What its meters are called at a level.
    pub fn scope(&self, kind: LevelKind) -> &Arc<Scope> {
        &self.scopes[kind.index()]
    }

    /// The same where it is chosen by something that has a name: a group of a policy, a limit by a key.
    pub fn scope_named(&self, kind: LevelKind, name: Arc<str>) -> Arc<Scope> {
        Arc::new(Scope { kind: Some(kind), name, plan: Arc::clone(&self.plan.name) })
    }
}

/// The words of levels, each once.
pub fn word(kind: LevelKind) -> &'static Arc<str> {
    static WORDS: LazyLock<[Arc<str>; LevelKind::ALL.len()]> =
        LazyLock::new(|| LevelKind::ALL.map(|kind| kind.word().into()));
    &WORDS[kind.index()]
}

fn policy(written: &LimitPolicy, plan: &impl Fn(&str) -> Option<Arc<Planned>>) -> Option<Policy> {
    let group = |ConditionGroup { when, plan: name }: &ConditionGroup| {
        Some(Group { when: when.iter().map(Who::of).collect(), plan: plan(name)? })
    };
    // Names of a snapshot lead somewhere.
    let groups = written.groups.iter().map(group).collect::<Option<_>>()?;
    Some(Policy { groups, rest: plan(&written.plan), written: written.clone() })
}

impl Policy {
    fn is_same(&self, other: &Self) -> bool {
        let plans = |policy: &Self| -> Vec<_> {
            policy.groups.iter().map(|group| &group.plan).chain(&policy.rest).map(Arc::as_ptr).collect()
        };
        self.written == other.written && plans(self) == plans(other)
    }

    /// What the meters of a group are called at a level; none: those of everybody else.
    pub fn scope(&self, kind: LevelKind, group: Option<u16>, plan: &Planned) -> Arc<Scope> {
        let name = match group {
            Some(at) => format!("{}/{at}", self.written.name),
            None => self.written.name.clone(),
        };
        plan.scope_named(kind, name.into())
    }

    /// Whether both put everybody into the same groups, whatever plans those have.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        fn conditions(policy: &Policy) -> impl Iterator<Item = &[Conditions]> {
            policy.written.groups.iter().map(|group| &*group.when)
        }
        self.written.name == other.written.name && conditions(self).eq(conditions(other))
    }
}

impl Keyed {
    fn new(written: &KeyedLimit, plan: Arc<Planned>) -> Self {
        Self {
            name: written.name.as_str().into(),
            when: written.when.iter().map(Who::of).collect(),
            plan,
            written: written.clone(),
        }
    }

    /// Whether it is for an API version.
    pub fn is_for(&self, name: &str, label: &str) -> bool {
        self.written.apis.is_empty() || self.written.apis.iter().any(|api| api == name || api == label)
    }

    /// Which level it is of.
    pub fn kind(&self) -> LevelKind {
        if self.written.key.contains(&KeyPart::Session) { LevelKind::Session } else { LevelKind::Keyed }
    }

    /// Whether both give everybody the same key, whatever plans they have.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        let (one, other) = (&self.written, &other.written);
        one.name == other.name && one.key == other.key && one.when == other.when && one.apis == other.apis
    }
}
