//! Whose messages do not pass: asked at every handshake, and of live sessions when the denials have changed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use proto::snapshot::{Denial, DenialAction, Limit, OnLimit, Outcome, Plan, Quota};
use proto::throttle::{Meter, Now, Window, WindowUnit};

use super::guard::{Compiled, Level, LevelKind};
use super::held::{Held, Metered};
use super::ledger::Ledger;
use crate::identity::Grant;
use crate::tables::ApiEntry;

/// The denials of one generation that have effect, by the narrowest of what each names.
#[derive(Debug, Default)]
pub struct Denials {
    by_user: HashMap<Box<str>, Vec<Denial>>,
    by_application: HashMap<Box<str>, Vec<Denial>>,
    by_api: HashMap<Box<str>, Vec<Denial>>,
    by_address: Vec<Denial>,
}

impl Denials {
    pub(super) fn new(all: &[Denial]) -> Self {
        let mut denials = Self::default();
        for one in all.iter().filter(|one| one.enabled) {
            let place = match one {
                Denial { user: Some(user), .. } => denials.by_user.entry(user.as_str().into()).or_default(),
                Denial { application: Some(name), .. } => {
                    denials.by_application.entry(name.as_str().into()).or_default()
                }
                Denial { api: Some(api), .. } => denials.by_api.entry(api.as_str().into()).or_default(),
                _ => &mut denials.by_address,
            };
            place.push(one.clone());
        }
        denials
    }

    /// The denial that is meant for a client, if there is one; one that closes before one that leaves messages out.
    pub fn find(&self, api: &ApiEntry, grant: Option<&Grant>, address: Option<IpAddr>) -> Option<&Denial> {
        let user = grant.and_then(|grant| grant.user.as_deref());
        let application = grant.and_then(|grant| grant.application.as_deref());
        let is_meant = |one: &&Denial| {
            let by_api = one.api.as_deref().is_none_or(|wanted| wanted == api.api.name || wanted == &*api.label);
            let by_application = one.application.as_deref().is_none_or(|wanted| application == Some(wanted));
            let by_user = one.user.as_deref().is_none_or(|wanted| user == Some(wanted));
            let is_in = |address| one.addresses.iter().any(|range| range.contains(address));
            by_api && by_application && by_user && (one.addresses.is_empty() || address.is_some_and(is_in))
        };
        fn of<'d>(map: &'d HashMap<Box<str>, Vec<Denial>>, name: &str) -> &'d [Denial] {
            map.get(name).map_or(&[], |all| all)
        }
        let label = Some(&*api.label).filter(|label| *label != api.api.name);
        let meant = user.map_or(&[][..], |name| of(&self.by_user, name)).iter();
        let meant = meant.chain(application.map_or(&[][..], |name| of(&self.by_application, name)));
        let meant = meant.chain(of(&self.by_api, &api.api.name));
        let meant = meant.chain(label.map_or(&[][..], |label| of(&self.by_api, label))).chain(&self.by_address);
        meant.filter(is_meant).min_by_key(|one| one.action == DenialAction::Drop)
    }
}

/// The level that leaves every message out, as a denial wants it.
pub fn level(denial: &Denial, ledger: &Ledger) -> Level {
    let nothing = Limit { quota: Some(Quota { amount: 0, window: Window::one(WindowUnit::Year) }), ..Limit::default() };
    let on_limit = OnLimit { action: Outcome::Drop, ..OnLimit::default() };
    let plan = Compiled::of(&Plan { on_limit, warn_at: Vec::new(), ..Plan::new(&denial.name, vec![nothing]) });
    let (name, terms) = (Arc::clone(&plan.name), plan.limits[0].terms);
    // It is never filled, so that its clocks do not matter.
    let meter = Meter::new(terms, Now { mono_ns: 0, wall_ms: 0 });
    let held = Rc::new(Held::new(Arc::new(Metered::new(meter)), ledger.place()));
    Level { kind: LevelKind::Denial, name, plan: Arc::new(plan), meters: [held].into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::testing::grant;

    #[test]
    fn all_that_a_denial_says_must_fit() {
        let tables = crate::throttle::testing::tables(|_| {});
        let api = tables.api("chat", "v1").unwrap();
        let denial = |text: &str| serde_json::from_str::<Denial>(text).unwrap();
        let found = |text: &str| {
            let denials = Denials::new(&[denial(text)]);
            let alice = grant("mobile", "alice");
            let near = Some("10.1.2.3".parse().unwrap());
            [
                denials.find(api, Some(&alice), near).is_some(),
                denials.find(api, None, near).is_some(),
                denials.find(api, Some(&alice), None).is_some(),
            ]
        };
        for (text, expected) in [
            (r#"{"name": "d", "user": "alice"}"#, [true, false, true]),
            (r#"{"name": "d", "user": "alice", "application": "mobile"}"#, [true, false, true]),
            (r#"{"name": "d", "user": "alice", "application": "other"}"#, [false; 3]),
            (r#"{"name": "d", "application": "mobile", "api": "chat:v1"}"#, [true, false, true]),
            (r#"{"name": "d", "application": "mobile", "api": "chat:v2"}"#, [false; 3]),
            (r#"{"name": "d", "api": "chat"}"#, [true; 3]),
            (r#"{"name": "d", "api": "chat:v1"}"#, [true; 3]),
            (r#"{"name": "d", "addresses": ["10.0.0.0/8"]}"#, [true, true, false]),
            (r#"{"name": "d", "addresses": ["11.0.0.0/8"]}"#, [false; 3]),
            (r#"{"name": "d", "user": "alice", "enabled": false}"#, [false; 3]),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
    }

    #[test]
    fn of_two_denials_the_one_that_closes_is_meant() {
        let tables = crate::throttle::testing::tables(|_| {});
        let denials: Vec<Denial> =
            serde_json::from_str(r#"[{"name": "a", "user": "alice", "action": "drop"}, {"name": "b", "api": "chat"}]"#)
                .unwrap();
        let denials = Denials::new(&denials);
        let alice = grant("mobile", "alice");
        let found = denials.find(tables.api("chat", "v1").unwrap(), Some(&alice), None);
        assert_eq!(found.map(|one| &*one.name), Some("b"));
    }
}
