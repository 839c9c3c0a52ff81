//! A policy in its compiled form: templates read, patterns split, names in the form in which they are compared.
//!
//! Made once for each API, when tables are built; what a snapshot lets through can always be compiled. Upstreams stay
//! names, which the tables of each generation answer.

use std::collections::HashMap;

use proto::snapshot::{Api, Cidr, Conditions, EndpointUrl, Glob, Match, Routing, Step, Template};
use serde_json::{Map, Value};

use super::forward_auth::Asked;

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

/// Whom a rule is about.
#[derive(Debug)]
pub(super) struct Who {
    pub(super) addresses: Box<[Cidr]>,
    pub(super) headers: Box<[Wanted]>,
    pub(super) claims: Box<[Wanted]>,
    pub(super) certificates: Box<[Glob]>,
    pub(super) not: bool,
}

/// A name, and what its value must be like; no patterns: it is enough that it is there.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: Box<str>,
    values: Box<[Glob]>,
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

impl Who {
    fn of(conditions: &Conditions) -> Self {
        let wanted = |all: &[Match]| all.iter().map(Wanted::of).collect();
        Self {
            addresses: conditions.addresses.as_slice().into(),
            headers: wanted(&conditions.headers),
            claims: wanted(&conditions.claims),
            certificates: conditions.certificates.iter().map(|pattern| Glob::new(pattern)).collect(),
            not: conditions.not,
        }
    }
}

impl Wanted {
    fn of(one: &Match) -> Self {
        Self { name: one.name.as_str().into(), values: one.values.iter().map(|value| Glob::new(value)).collect() }
    }

    /// Whether a value is like one of the patterns.
    pub(super) fn fits(&self, value: &str) -> bool {
        self.values.is_empty() || self.values.iter().any(|pattern| pattern.matches(value))
    }

    /// Whether a claim is there and like one of the patterns: itself, or, of a list, one of its entries.
    pub(super) fn fits_claim(&self, claims: &Map<String, Value>) -> bool {
        claim(claims, &self.name).is_some_and(|value| match value {
            Value::Array(entries) => entries.iter().any(|entry| self.fits_value(entry)),
            value => self.fits_value(value),
        })
    }

    fn fits_value(&self, value: &Value) -> bool {
        match value {
            Value::Null => false,
            value => text_of(value).map_or(self.values.is_empty(), |text| self.fits(&text)),
        }
    }
}

/// A claim by its name; where there is none of the whole name, the member of a claim that is an object. So
/// `https://example.com/role` is found although it has a dot.
pub(super) fn claim<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    name.match_indices('.').find_map(|(at, _)| match claims.get(&name[..at]) {
        Some(Value::Object(members)) => claim(members, &name[at + 1..]),
        _ => None,
    })
}

/// What is not an object or a list, as text.
pub(super) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_by_name_or_by_path_and_lists_by_their_entries() {
        let claims = json!({
            "role": "admin", "roles": ["user", "ops", 7], "level": 3, "vip": true, "none": null, "empty": [],
            "org": { "unit": { "name": "eu" }, "a.b": "dotted" }, "https://example.com/role": "x", "x.y": "whole",
            "x": { "y": "nested" },
        });
        let Value::Object(claims) = claims else { unreachable!() };
        let fits = |name: &str, values: &[&str]| {
            Wanted::of(&Match { name: name.into(), values: values.iter().map(|&value| value.into()).collect() })
                .fits_claim(&claims)
        };
        for (name, values) in [
            ("role", &["admin"][..]),
            ("role", &["x", "adm*"]),
            ("role", &[]),
            ("roles", &["ops"]),
            ("roles", &["7"]),
            ("level", &["3"]),
            ("vip", &["true"]),
            ("org.unit.name", &["eu"]),
            ("org.a.b", &["dotted"]),
            ("org", &[]),
            ("org.unit", &[]),
            ("https://example.com/role", &["x"]),
            ("x.y", &["whole"]),
        ] {
            assert!(fits(name, values), "{name} {values:?}");
        }
        for (name, values) in [
            ("role", &["user"][..]),
            ("roles", &["user,ops"]),
            ("org", &["*"]),
            ("org.unit.other", &[]),
            ("none", &[]),
            ("empty", &[]),
            ("absent", &[]),
            ("role.x", &[]),
            ("x.y", &["nested"]),
        ] {
            assert!(!fits(name, values), "{name} {values:?}");
        }
    }
}
