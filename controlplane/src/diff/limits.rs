//! Whom other limits reach: the APIs whose live sessions have another plan, policy, limit by key or denial than before.

use std::collections::{BTreeMap, HashMap, HashSet};

use proto::snapshot::{Api, Application, Denial, KeyedLimit, LimitPolicy, Section, Snapshot, Subscription};

use super::{all, apart};
use crate::answer::{Change, Kind};

/// Those of the APIs with sessions that other limits reach.
pub(super) fn reached<'a>(
    before: &Snapshot,
    after: &Snapshot,
    changes: &[Change],
    sessions_by_api: &'a BTreeMap<String, u64>,
) -> HashSet<&'a str> {
    let named = |kind: Kind| -> HashSet<&str> {
        changes.iter().filter(|change| change.kind == kind).map(|change| change.name.as_str()).collect()
    };
    let news = News::new(named, before, after, changes);
    let mut reached = HashSet::new();
    if news.is_none() {
        return reached;
    }
    let subscribed = news.subscribed();
    for label in sessions_by_api.keys() {
        if after.api(label).is_some_and(|api| news.reach(api, label) || subscribed.contains(label.as_str())) {
            reached.insert(label.as_str());
        }
    }
    reached
}

/// What of the limits is new.
struct News<'s> {
    before: &'s Snapshot,
    after: &'s Snapshot,
    plans: HashSet<&'s str>,
    policies: HashSet<&'s str>,
    keyed: Vec<&'s KeyedLimit>,
    denials: Vec<&'s Denial>,
    /// Applications whose users have another plan.
    applications: HashSet<&'s str>,
    /// Those without a credential have another plan, unless their API says which.
    is_unauthenticated: bool,
    /// They are other ranges of addresses, so that each begins anew.
    is_range: bool,
}

impl<'s> News<'s> {
    fn new(
        named: impl Fn(Kind) -> HashSet<&'s str>,
        before: &'s Snapshot,
        after: &'s Snapshot,
        changes: &[Change],
    ) -> Self {
        let plans = named(Kind::Plan);
        let mut policies = named(Kind::LimitPolicy);
        let leads_to = |policy: &&LimitPolicy| {
            let mut groups = policy.groups.iter().map(|group| &group.plan);
            plans.contains(policy.plan.as_str()) || groups.any(|plan| plans.contains(plan.as_str()))
        };
        policies.extend(after.limit_policies().iter().filter(leads_to).map(|policy| policy.name.as_str()));
        let changed = named(Kind::Limit);
        let both = before.limits().iter().chain(after.limits());
        let keyed = both.filter(|one| changed.contains(one.name.as_str()) || plans.contains(one.plan.as_str()));
        let changed = named(Kind::Denial);
        let both = before.denials().iter().chain(after.denials());
        let denials = both.filter(|one| changed.contains(one.name.as_str()));
        let settings = changes.iter().filter(|change| change.kind == Kind::Settings);
        let is_set = |name| settings.clone().flat_map(|change| &change.fields).any(|field| field.field == name);
        let is_unauthenticated =
            is_set("unauthenticated_plan") || plans.contains(after.settings().unauthenticated_plan.as_str());
        Self {
            keyed: keyed.collect(),
            denials: denials.collect(),
            applications: applications(before, after, &plans),
            before,
            after,
            plans,
            policies,
            is_unauthenticated,
            is_range: is_set("admission.address_prefix_v4") || is_set("admission.address_prefix_v6"),
        }
    }

    fn is_none(&self) -> bool {
        let Self { plans, policies, keyed, denials, applications, is_unauthenticated, is_range, .. } = self;
        let are_none = plans.is_empty() && policies.is_empty() && keyed.is_empty() && denials.is_empty();
        are_none && applications.is_empty() && !is_unauthenticated && !is_range && self.moved().next().is_none()
    }

    /// Whether an API's own limits, or those for whoever comes to it, are other ones.
    fn reach(&self, api: &Api, label: &str) -> bool {
        let chosen = |plan: &str, policy: &str| self.plans.contains(plan) || self.policies.contains(policy);
        let is_it = |wanted: &str| wanted == api.name || wanted == label;
        let is_open = api.authentication.is_open();
        let has_plan_of_addresses =
            !(api.unauthenticated_plan.is_empty() && self.after.settings().unauthenticated_plan.is_empty());
        chosen(&api.plan, &api.limit_policy)
            || api.topics.iter().any(|topic| chosen(&topic.plan, &topic.limit_policy))
            || self.plans.contains(api.unauthenticated_plan.as_str())
            || self.is_unauthenticated && api.unauthenticated_plan.is_empty()
            || self.is_range && has_plan_of_addresses
            || self.keyed.iter().any(|one| one.apis.is_empty() || one.apis.iter().any(|wanted| is_it(wanted)))
            || self.denials.iter().any(|one| one.api.as_deref().is_none_or(is_it))
            || !self.applications.is_empty() && !is_open && !api.authentication.require_subscription
    }

    /// The subscriptions that were moved to another plan: the API of each.
    fn moved(&self) -> impl Iterator<Item = &'s str> {
        fn of(section: &Section) -> &[Subscription] {
            match section {
                Section::Subscriptions(all) => all.as_slice(),
                _ => &[],
            }
        }
        let before = self.before;
        apart(self.after, before, of).into_iter().filter_map(move |one| {
            let old = before.subscription(&one.application, &one.api)?;
            (old.plan != one.plan).then_some(one.api.as_str())
        })
    }

    /// The APIs of subscriptions that have another plan, or whose application has.
    fn subscribed(&self) -> HashSet<&'s str> {
        let mut apis: HashSet<&str> = self.moved().collect();
        if !self.plans.is_empty() || !self.applications.is_empty() {
            let is_new =
                |plan: &str, application: &str| self.plans.contains(plan) || self.applications.contains(application);
            let subscriptions = self.after.subscriptions().filter(|one| is_new(&one.plan, &one.application));
            apis.extend(subscriptions.map(|one| one.api.as_str()));
        }
        apis
    }
}

/// The applications that have another plan.
fn applications<'s>(before: &'s Snapshot, after: &'s Snapshot, plans: &HashSet<&str>) -> HashSet<&'s str> {
    fn of(section: &Section) -> &[Application] {
        match section {
            Section::Applications(all) => all.as_slice(),
            _ => &[],
        }
    }
    let old: HashMap<&str, &str> =
        apart(before, after, of).into_iter().map(|one| (one.name.as_str(), one.plan.as_str())).collect();
    let moved = apart(after, before, of);
    let moved = moved.into_iter().filter(|one| old.get(one.name.as_str()).is_some_and(|plan| *plan != one.plan));
    let mut names: HashSet<&str> = moved.map(|one| one.name.as_str()).collect();
    if !plans.is_empty() {
        let limited = all(after, of).into_iter().filter(|one| plans.contains(one.plan.as_str()));
        names.extend(limited.map(|one| one.name.as_str()));
    }
    names
}
