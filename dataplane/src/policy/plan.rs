//! A policy in its compiled form: templates read, patterns split, names in the form in which they are compared.
//!
//! Made once for each API, when tables are built; what a snapshot lets through can always be compiled. Upstreams stay
//! names, which the tables of each generation answer.

use std::collections::HashMap;

use proto::snapshot::{Api, EndpointUrl, Routing, Step, Template};

use super::forward_auth::Asked;
use crate::visitor::Who;

/// The steps of one API, in their order.
#[derive(Debug)]
pub struct Plan {
    pub(super) rules: Box<[Rule]>,
}

#[derive(Debug)]
pub(super) enum Rule {
    Allow(Who),
    Deny(Who),
    Set { name: Box<str>, value: Template },
    Remove(Box<[String]>),
    Rename { from: Box<str>, to: Box<str> },
    Lead(Box<str>),
    LeadBy { value: Template, upstreams: HashMap<Box<str>, Box<str>>, otherwise: Option<Box<str>> },
    LeadTo { url: Template, allowed: Box<[EndpointUrl]> },
    Ask(Asked),
}

impl Rule {
    /// As the step is called in a configuration.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Allow(_) => "allow",
            Self::Deny(_) => "deny",
            Self::Set { .. } => "set_header",
            Self::Remove(_) => "remove_headers",
            Self::Rename { .. } => "rename_header",
            Self::Lead(_) | Self::LeadBy { .. } | Self::LeadTo { .. } => "route",
            Self::Ask(_) => "forward_auth",
        }
    }
}

impl Plan {
    /// The policy of an API; none if it has no steps.
    pub fn compile(api: &Api) -> Option<Self> {
        let rules: Box<[Rule]> = api.on_upgrade.iter().map(rule).collect();
        (!rules.is_empty()).then_some(Self { rules })
    }
}

fn rule(step: &Step) -> Rule {
    match step {
        Step::Allow(who) => Rule::Allow(Who::of(who)),
        Step::Deny(who) => Rule::Deny(Who::of(who)),
        Step::SetHeader(set) => Rule::Set { name: set.name.as_str().into(), value: template(&set.value) },
        Step::RemoveHeaders(names) => Rule::Remove(names.as_slice().into()),
        Step::RenameHeader(rename) => Rule::Rename { from: rename.from.as_str().into(), to: rename.to.as_str().into() },
        Step::Route(Routing::Upstream(name)) => Rule::Lead(name.as_str().into()),
        Step::Route(Routing::By(router)) => Rule::LeadBy {
            value: template(&router.value),
            upstreams: router
                .upstreams
                .iter()
                .map(|(value, name)| (value.as_str().into(), name.as_str().into()))
                .collect(),
            otherwise: router.otherwise.as_deref().map(Into::into),
        },
        Step::Route(Routing::Target(target)) => {
            Rule::LeadTo { url: template(&target.url), allowed: target.allowed.as_slice().into() }
        }
        Step::ForwardAuth(asked) => Rule::Ask(Asked::of(asked)),
    }
}

fn template(text: &str) -> Template {
    Template::parse(text).expect("a snapshot's templates are sound")
}
