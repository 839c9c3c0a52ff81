//! Plans, policies of limits, limits by keys, denials, and who is let in.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::policy::conditions;
use super::words::{claim_problem, header_name_problem, text_problem};
use super::{Names, Problems, Spot};
use crate::limits::{
    DENIALS_MAX, KEYED_LIMITS_MAX, LIMIT_POLICIES_MAX, PLAN_LIMITS_MAX, PLANS_MAX, STEP_ENTRIES_MAX, TEMPLATE_BYTES_MAX,
};
use crate::snapshot::{
    Admission, Api, ConditionGroup, Conditions, Config, Denial, KeyPart, KeyedLimit, Limit, LimitPolicy, Notice,
    OnLimit, Plan, Snapshot,
};

/// Parts of one key, and condition groups' conditions.
const PARTS_MAX: usize = 8;
/// Warnings of one plan.
const WARNINGS_MAX: usize = 8;
/// RFC 6455 §5.5: a control frame has 125 bytes, of which the code takes two.
const REASON_BYTES_MAX: usize = 123;

/// What limits of a configuration there are.
#[derive(Clone, Copy)]
pub(super) struct Limits<'a> {
    pub(super) plans: &'a [Plan],
    pub(super) policies: &'a [LimitPolicy],
    pub(super) keyed: &'a [KeyedLimit],
    pub(super) denials: &'a [Denial],
}

impl<'a> Limits<'a> {
    pub(super) fn of(config: &'a Config) -> Self {
        let Config { plans, limit_policies, limits, denials, .. } = config;
        Self { plans, policies: limit_policies, keyed: limits, denials }
    }

    pub(super) fn of_snapshot(snapshot: &'a Snapshot) -> Self {
        Self {
            plans: snapshot.plans(),
            policies: snapshot.limit_policies(),
            keyed: snapshot.limits(),
            denials: snapshot.denials(),
        }
    }

    /// The plans that there are, those that the gateway brings among them.
    pub(super) fn names(&self) -> PlanNames<'a> {
        PlanNames {
            plans: self.plans.iter().map(|plan| plan.name.as_str()).chain(Plan::BUILT_IN).collect(),
            policies: self.policies.iter().map(|policy| policy.name.as_str()).collect(),
        }
    }

    pub(super) fn check(&self, apis: &[&Api], problems: &mut Problems) {
        for (family, count, ceiling) in [
            ("plans", self.plans.len(), PLANS_MAX),
            ("limit_policies", self.policies.len(), LIMIT_POLICIES_MAX),
            ("limits", self.keyed.len(), KEYED_LIMITS_MAX),
            ("denials", self.denials.len(), DENIALS_MAX),
        ] {
            problems.ceiling(format_args!("/{family}"), family, count, ceiling);
        }
        let names = self.names();
        let mut known = HashMap::new();
        for (at, one) in self.plans.iter().enumerate() {
            let spot = problems.spot("plans", at, &one.name, "");
            super::entry::unique_name(&mut known, "plan", &one.name, spot, problems);
            plan(one, spot, problems);
        }
        let mut known = HashMap::new();
        for (at, one) in self.policies.iter().enumerate() {
            let spot = problems.spot("limit_policies", at, &one.name, "");
            super::entry::unique_name(&mut known, "policy of limits", &one.name, spot, problems);
            problems.ceiling(format_args!("{spot}/groups"), "groups", one.groups.len(), LIMIT_POLICIES_MAX);
            for (index, ConditionGroup { when, plan }) in one.groups.iter().enumerate() {
                let place = format_args!("{spot}/groups/{index}");
                if when.is_empty() {
                    problems
                        .add(format_args!("{place}/when"), "this fits everybody; write its plan as the policy's own");
                }
                all_of(when, place, problems);
                names.known(plan, format_args!("{place}/plan"), problems);
            }
            if !one.plan.is_empty() {
                names.known(&one.plan, format_args!("{spot}/plan"), problems);
            }
        }
        self.keyed(apis, &names, problems);
        self.denials(problems);
    }

    fn keyed(&self, apis: &[&Api], names: &PlanNames<'_>, problems: &mut Problems) {
        let mut known = HashMap::new();
        for (at, one) in self.keyed.iter().enumerate() {
            let spot = problems.spot("limits", at, &one.name, "");
            super::entry::unique_name(&mut known, "limit", &one.name, spot, problems);
            if one.key.is_empty() {
                problems.add(format_args!("{spot}/key"), "without a key it is nobody's; name what tells clients apart");
            }
            problems.ceiling(format_args!("{spot}/key"), "parts", one.key.len(), PARTS_MAX);
            for (index, part) in one.key.iter().enumerate() {
                let problem = match part {
                    KeyPart::Header(name) => header_name_problem(name),
                    KeyPart::Claim(name) => claim_problem(name),
                    KeyPart::Query(name) => text_problem("a parameter", name),
                    _ => None,
                };
                problems.add_if(format_args!("{spot}/key/{index}"), problem);
            }
            names.known(&one.plan, format_args!("{spot}/plan"), problems);
            for (index, wanted) in one.apis.iter().enumerate() {
                let is_known = apis.iter().any(|api| api.name == *wanted || api.label() == *wanted);
                let problem = (!is_known).then(|| format!("there is no API {wanted:?}; correct the name"));
                problems.add_if(format_args!("{spot}/apis/{index}"), problem);
            }
            all_of(&one.when, format_args!("{spot}"), problems);
        }
    }

    fn denials(&self, problems: &mut Problems) {
        let mut known = HashMap::new();
        for (at, one) in self.denials.iter().enumerate() {
            let spot = problems.spot("denials", at, &one.name, "");
            super::entry::unique_name(&mut known, "denial", &one.name, spot, problems);
            let Denial { api, application, user, addresses, .. } = one;
            if api.is_none() && application.is_none() && user.is_none() && addresses.is_empty() {
                let message = "this denies everybody everything; say whom or what: api, application, user, addresses";
                problems.add(format_args!("{spot}"), message);
            }
            problems.ceiling(format_args!("{spot}/addresses"), "address ranges", addresses.len(), STEP_ENTRIES_MAX);
            for (field, word) in [("api", api), ("application", application), ("user", user)] {
                let problem = word.as_deref().and_then(|word| text_problem("the name", word));
                problems.add_if(format_args!("{spot}/{field}"), problem);
            }
        }
    }
}

/// What others refer to.
#[derive(Default)]
pub(super) struct PlanNames<'a> {
    plans: HashSet<&'a str>,
    policies: HashSet<&'a str>,
}

impl PlanNames<'_> {
    pub(super) fn known(&self, plan: &str, place: impl fmt::Display, problems: &mut Problems) {
        if !self.plans.contains(plan) {
            let message = format!("there is no plan {plan:?}; correct the name, or add it under plans");
            problems.add(place, message);
        }
    }

    /// What limits an API or a topic: a plan, a policy, or nothing.
    fn chosen(&self, plan: &str, policy: &str, place: impl fmt::Display, problems: &mut Problems) {
        if !plan.is_empty() {
            self.known(plan, format_args!("{place}/plan"), problems);
        }
        if !policy.is_empty() && !self.policies.contains(policy) {
            let message = format!("there is no policy {policy:?}; correct the name, or add it under limit_policies");
            problems.add(format_args!("{place}/limit_policy"), message);
        }
        if !plan.is_empty() && !policy.is_empty() {
            let message = "a plan is written here, too; keep one of them";
            problems.add(format_args!("{place}/limit_policy"), message);
        }
    }
}

/// What an API is limited by.
pub(super) fn of_api(api: &Api, names: &Names<'_>, spot: Spot<'_>, problems: &mut Problems) {
    names.plans.chosen(&api.plan, &api.limit_policy, spot, problems);
    let is_limited = !api.plan.is_empty() || !api.limit_policy.is_empty();
    for (at, topic) in api.topics.iter().enumerate() {
        let place = format_args!("{spot}/topics/{at}");
        names.plans.chosen(&topic.plan, &topic.limit_policy, place, problems);
        if is_limited && !(topic.plan.is_empty() && topic.limit_policy.is_empty()) {
            let message = "the API has a plan or a policy, and then those of topics do not count; leave one out";
            problems.add(place, message);
        }
    }
    if !api.unauthenticated_plan.is_empty() {
        names.plans.known(&api.unauthenticated_plan, format_args!("{spot}/unauthenticated_plan"), problems);
    }
    admission(&api.admission, format_args!("{spot}/admission"), problems);
}

/// Who is let in.
pub(super) fn admission(asked: &Admission, place: impl fmt::Display + Copy, problems: &mut Problems) {
    for (field, bits, most) in
        [("address_prefix_v4", asked.address_prefix_v4, 32), ("address_prefix_v6", asked.address_prefix_v6, 128)]
    {
        let problem = (bits > most).then(|| format!("{bits} bits are more than an address has; use 0 to {most}"));
        problems.add_if(format_args!("{place}/{field}"), problem);
    }
    for (field, rate) in [("connects", asked.connects), ("connects_per_address", asked.connects_per_address)] {
        let is_shut = rate.is_some_and(|rate| rate.amount == 0);
        let message = || "nobody would be let in any more; leave it out for any number".to_owned();
        problems.add_if(format_args!("{place}/{field}"), is_shut.then(message));
    }
    if asked.connects_burst == Some(0) {
        let message = "nobody would be let in any more; use 1 or more, or leave it out for as many as in a second";
        problems.add(format_args!("{place}/connects_burst"), message);
    }
    if asked.connects_burst.is_some() && asked.connects.is_none() && asked.connects_per_address.is_none() {
        let message = "a burst of what? say how fast handshakes may come: connects, or connects_per_address";
        problems.add(format_args!("{place}/connects_burst"), message);
    }
}

fn plan(plan: &Plan, spot: Spot<'_>, problems: &mut Problems) {
    problems.ceiling(format_args!("{spot}/limits"), "limits", plan.limits.len(), PLAN_LIMITS_MAX);
    for (at, limit) in plan.limits.iter().enumerate() {
        problems.add_if(format_args!("{spot}/limits/{at}"), limit_problem(limit));
    }
    problems.ceiling(format_args!("{spot}/warn_at"), "warnings", plan.warn_at.len(), WARNINGS_MAX);
    for (at, percent) in plan.warn_at.iter().enumerate().filter(|(_, percent)| !(1..=100).contains(*percent)) {
        problems.add(format_args!("{spot}/warn_at/{at}"), format!("{percent} is no percentage; use 1 to 100"));
    }
    let OnLimit { notice, code, reason, .. } = &plan.on_limit;
    let place = format_args!("{spot}/on_limit");
    if !matches!(code, 1008 | 1013 | 3000 | 4000..=4999) {
        let message = format!("{code} is not a code for this; use 1008, 1013, 3000, or 4000 to 4999");
        problems.add(format_args!("{place}/code"), message);
    }
    if reason.len() > REASON_BYTES_MAX {
        let message = format!("the reason has {} bytes; a close frame has room for {REASON_BYTES_MAX}", reason.len());
        problems.add(format_args!("{place}/reason"), message);
    }
    if let Notice::Text(text) = notice {
        let is_long = text.len() > TEMPLATE_BYTES_MAX;
        let long = || format!("the notice has {} bytes; {TEMPLATE_BYTES_MAX} are allowed", text.len());
        problems.add_if(format_args!("{place}/notice/text"), is_long.then(long));
    }
}

fn limit_problem(limit: &Limit) -> Option<String> {
    match (limit.rate, limit.quota) {
        (None, None) => Some("this limits nothing; write a rate (100/s) or a quota (50000/day)".into()),
        (Some(_), Some(_)) => Some("a rate and a quota are two limits; write two entries".into()),
        (None, Some(_)) if limit.burst.is_some() => {
            Some("a burst is a rate's; write a rate, or leave the burst out".into())
        }
        (Some(rate), None) if rate.amount > 0 && limit.burst.is_some_and(|burst| burst.0 == 0) => Some(
            "with a burst of 0 nothing ever passes; leave it out for what flows in during a second, or, if nothing \
                  shall pass, write quota: 0/day"
                .into(),
        ),
        _ => None,
    }
}

fn all_of(when: &[Conditions], place: impl fmt::Display + Copy, problems: &mut Problems) {
    problems.ceiling(format_args!("{place}/when"), "conditions", when.len(), PARTS_MAX);
    for (at, one) in when.iter().enumerate() {
        conditions(one, None, format_args!("{place}/when/{at}"), problems);
    }
}
