//! The rows of limits: plans, policies of limits, limits by key, denials, and how many sessions are let in.

use super::{finds, sound};
use crate::limits::{
    DENIALS_MAX, KEYED_LIMITS_MAX, LIMIT_POLICIES_MAX, PLAN_LIMITS_MAX, PLANS_MAX, STEP_ENTRIES_MAX, TEMPLATE_BYTES_MAX,
};
use crate::snapshot::{
    Admission, Application, Cidr, ConditionGroup, Conditions, Config, Denial, DenialAction, KeyPart, KeyedLimit, Limit,
    LimitPolicy, Match, Notice, Plan, Snapshot, Subscription,
};

fn limit(text: &str) -> Limit {
    serde_json::from_str(text).unwrap()
}

fn admission(text: &str) -> Admission {
    serde_json::from_str(text).unwrap()
}

fn plan(name: &str) -> Plan {
    Plan::new(name, vec![limit(r#"{"rate": "100/s", "burst": 200}"#), limit(r#"{"quota": "5/day"}"#)])
}

fn from(range: &str) -> Conditions {
    Conditions { addresses: vec![range.parse::<Cidr>().unwrap()], not: true, ..Conditions::default() }
}

fn policy(name: &str) -> LimitPolicy {
    let group = ConditionGroup { when: vec![from("192.0.2.0/24")], plan: "gold".into() };
    LimitPolicy { name: name.into(), groups: vec![group], plan: "AsyncGold".into() }
}

fn keyed(name: &str) -> KeyedLimit {
    KeyedLimit {
        name: name.into(),
        key: vec![KeyPart::Header("X-Tenant".into()), KeyPart::User],
        plan: "silver".into(),
        apis: vec!["chat".into(), "chat:v1".into(), "echo".into()],
        when: vec![from("192.0.2.0/24")],
    }
}

fn denial(name: &str) -> Denial {
    Denial {
        name: name.into(),
        api: None,
        application: None,
        user: Some("mallory".into()),
        addresses: Vec::new(),
        action: DenialAction::Close,
        enabled: true,
    }
}

fn limited() -> Config {
    let mut config = sound();
    config.plans = vec![plan("gold"), plan("silver"), plan("AsyncBronze")];
    config.limit_policies = vec![policy("offices"), policy("others")];
    config.limits = vec![keyed("tenants"), keyed("people")];
    config.denials = vec![denial("mallory"), denial("trudy")];
    config.settings.unauthenticated_plan = "Unauthenticated".into();
    config.apis[0].plan = "gold".into();
    config.apis[0].unauthenticated_plan = "silver".into();
    config.apis[1].topics = config.apis[0].topics.clone();
    config.apis[1].topics[0].plan = "gold".into();
    config.apis[1].topics[1].limit_policy = "offices".into();
    config.apis[2].limit_policy = "offices".into();
    config.applications = vec![Application { plan: "AsyncSilver".into(), ..Application::new("mobile") }];
    config.subscriptions =
        vec![Subscription { application: "mobile".into(), api: "chat:v1".into(), plan: "gold".into(), enabled: true }];
    config
}

#[test]
fn everything_of_plans_that_can_be_wrong_is_found_where_it_is() {
    finds(
        limited,
        &[
            (|c| c.plans[2].name = "a b".into(), "/plans/2/name", "rename"),
            (|c| c.plans.push(plan("silver")), "/plans/3/name", "another plan \"silver\" (/plans/1)"),
            (|c| c.plans.extend((0..PLANS_MAX).map(|at| plan(&format!("p{at}")))), "/plans", "at most"),
            (
                |c| c.plans[0].limits = vec![limit(r#"{"quota": "5/day"}"#); PLAN_LIMITS_MAX + 1],
                "/plans/0/limits",
                "at most",
            ),
            (|c| c.plans[0].limits[1] = limit("{}"), "/plans/0/limits/1", "limits nothing"),
            (|c| c.plans[0].limits[1] = limit(r#"{"stop": false}"#), "/plans/0/limits/1", "limits nothing"),
            (
                |c| c.plans[0].limits[0].quota = limit(r#"{"quota": "5/day"}"#).quota,
                "/plans/0/limits/0",
                "two limits; write two entries",
            ),
            (
                |c| c.plans[0].limits[1].burst = limit(r#"{"burst": 5}"#).burst,
                "/plans/0/limits/1",
                "a burst is a rate's",
            ),
            (
                |c| c.plans[0].limits[0] = limit(r#"{"rate": "100/s", "burst": 0}"#),
                "/plans/0/limits/0",
                "nothing ever passes; leave it out",
            ),
            (|c| c.plans[0].warn_at = vec![80, 0], "/plans/0/warn_at/1", "0 is no percentage"),
            (|c| c.plans[0].warn_at = vec![101], "/plans/0/warn_at/0", "101 is no percentage"),
            (|c| c.plans[0].warn_at = vec![80; 9], "/plans/0/warn_at", "at most 8"),
            (|c| c.plans[0].on_limit.code = 1000, "/plans/0/on_limit/code", "1000 is not a code for this"),
            (|c| c.plans[0].on_limit.code = 5000, "/plans/0/on_limit/code", "1008, 1013, 3000, or 4000 to 4999"),
            (|c| c.plans[0].on_limit.reason = "a".repeat(124), "/plans/0/on_limit/reason", "124 bytes"),
            (
                |c| c.plans[0].on_limit.notice = Notice::Text("a".repeat(TEMPLATE_BYTES_MAX + 1)),
                "/plans/0/on_limit/notice/text",
                "are allowed",
            ),
        ],
    );
}

#[test]
fn everything_that_chooses_a_plan_that_can_be_wrong_is_found_where_it_is() {
    finds(
        limited,
        &[
            // Policies.
            (|c| c.limit_policies[1].name = "a/b".into(), "/limit_policies/1/name", "rename"),
            (
                |c| c.limit_policies.push(policy("others")),
                "/limit_policies/2/name",
                "another policy of limits \"others\" (/limit_policies/1)",
            ),
            (
                |c| c.limit_policies.extend((0..LIMIT_POLICIES_MAX).map(|at| policy(&format!("p{at}")))),
                "/limit_policies",
                "at most",
            ),
            (
                |c| c.limit_policies[0].groups = vec![policy("").groups[0].clone(); LIMIT_POLICIES_MAX + 1],
                "/limit_policies/0/groups",
                "at most",
            ),
            (|c| c.limit_policies[0].plan = "nobody".into(), "/limit_policies/0/plan", "no plan \"nobody\""),
            (|c| c.limit_policies[0].groups[0].plan = String::new(), "/limit_policies/0/groups/0/plan", "no plan \"\""),
            (
                |c| c.limit_policies[0].groups[0].when.clear(),
                "/limit_policies/0/groups/0/when",
                "write its plan as the policy's own",
            ),
            (
                |c| c.limit_policies[0].groups[0].when = vec![from("192.0.2.0/24"); 9],
                "/limit_policies/0/groups/0/when",
                "at most 8",
            ),
            (
                |c| c.limit_policies[0].groups[0].when[0].addresses.clear(),
                "/limit_policies/0/groups/0/when/0/not",
                "without conditions nobody is left",
            ),
            (
                |c| {
                    let queries = vec![Match { name: "a\u{7}".into(), values: Vec::new() }];
                    c.limit_policies[0].groups[0].when[0] = Conditions { queries, ..Conditions::default() };
                },
                "/limit_policies/0/groups/0/when/0/queries/0/name",
                "control characters",
            ),
            // Those who are given one.
            (|c| c.settings.unauthenticated_plan = "no".into(), "/settings/unauthenticated_plan", "no plan \"no\""),
            (|c| c.apis[0].plan = "no".into(), "/apis/0/plan", "add it under plans"),
            (|c| c.apis[0].unauthenticated_plan = "no".into(), "/apis/0/unauthenticated_plan", "no plan \"no\""),
            (|c| c.apis[2].limit_policy = "no".into(), "/apis/2/limit_policy", "add it under limit_policies"),
            (|c| c.apis[2].plan = "gold".into(), "/apis/2/limit_policy", "keep one of them"),
            (|c| c.apis[1].topics[0].plan = "no".into(), "/apis/1/topics/0/plan", "no plan \"no\""),
            (|c| c.apis[1].topics[1].limit_policy = "no".into(), "/apis/1/topics/1/limit_policy", "no policy \"no\""),
            (|c| c.apis[1].topics[1].plan = "gold".into(), "/apis/1/topics/1/limit_policy", "keep one of them"),
            (|c| c.apis[0].topics[1].plan = "gold".into(), "/apis/0/topics/1", "those of topics do not count"),
            (|c| c.applications[0].plan = "no".into(), "/applications/0/plan", "no plan \"no\""),
            (|c| c.subscriptions[0].plan = "no".into(), "/subscriptions/0/plan", "no plan \"no\""),
        ],
    );
}

#[test]
fn everything_of_keys_denials_and_admission_that_can_be_wrong_is_found_where_it_is() {
    finds(
        limited,
        &[
            // Limits by key.
            (|c| c.limits[0].name = String::new(), "/limits/0/name", "empty"),
            (|c| c.limits[1].name = "tenants".into(), "/limits/1/name", "another limit \"tenants\" (/limits/0)"),
            (|c| c.limits.extend((0..KEYED_LIMITS_MAX).map(|at| keyed(&format!("k{at}")))), "/limits", "at most"),
            (|c| c.limits[0].key.clear(), "/limits/0/key", "without a key it is nobody's"),
            (|c| c.limits[0].key = vec![KeyPart::User; 9], "/limits/0/key", "at most 8"),
            (|c| c.limits[0].key[0] = KeyPart::Header("a b".into()), "/limits/0/key/0", "a b"),
            (|c| c.limits[0].key[1] = KeyPart::Claim(String::new()), "/limits/0/key/1", "claim"),
            (|c| c.limits[0].key[1] = KeyPart::Query("a\n".into()), "/limits/0/key/1", "control characters"),
            (|c| c.limits[0].plan = String::new(), "/limits/0/plan", "no plan \"\""),
            (|c| c.limits[0].apis[1] = "chat:v9".into(), "/limits/0/apis/1", "no API \"chat:v9\""),
            (|c| c.limits[0].when = vec![from("::/0"); 9], "/limits/0/when", "at most 8"),
            (|c| c.limits[0].when[0].addresses.clear(), "/limits/0/when/0/not", "nobody is left"),
            // Denials. What they name need not be there: it may come.
            (|c| c.denials[1].name = "mallory".into(), "/denials/1/name", "another denial \"mallory\" (/denials/0)"),
            (|c| c.denials.extend((0..DENIALS_MAX).map(|at| denial(&format!("d{at}")))), "/denials", "at most"),
            (|c| c.denials[0].user = None, "/denials/0", "this denies everybody everything"),
            (|c| c.denials[0].user = Some("a\u{7}".into()), "/denials/0/user", "control characters"),
            (|c| c.denials[0].application = Some("a\u{7}".into()), "/denials/0/application", "control characters"),
            (|c| c.denials[0].api = Some("a\u{7}".into()), "/denials/0/api", "control characters"),
            (
                |c| c.denials[0].addresses = vec!["::/0".parse().unwrap(); STEP_ENTRIES_MAX + 1],
                "/denials/0/addresses",
                "at most",
            ),
            // Admission.
            (|c| c.settings.admission.address_prefix_v4 = 33, "/settings/admission/address_prefix_v4", "0 to 32"),
            (|c| c.apis[0].admission.address_prefix_v6 = 129, "/apis/0/admission/address_prefix_v6", "0 to 128"),
            (|c| c.apis[0].admission.connects_burst = Some(5), "/apis/0/admission/connects_burst", "a burst of what?"),
            (
                |c| c.settings.admission = admission(r#"{"connects": "0/s"}"#),
                "/settings/admission/connects",
                "leave it out for any number",
            ),
            (
                |c| c.apis[0].admission = admission(r#"{"connects_per_address": "0/m"}"#),
                "/apis/0/admission/connects_per_address",
                "leave it out for any number",
            ),
            (
                |c| c.settings.admission = admission(r#"{"connects": "5/s", "connects_burst": 0}"#),
                "/settings/admission/connects_burst",
                "use 1 or more",
            ),
        ],
    );
}

/// What says that nothing may pass, and is meant so.
#[test]
fn a_plan_may_let_nothing_pass() {
    for nothing in [r#"{"quota": "0/day"}"#, r#"{"rate": "0/s"}"#, r#"{"rate": "0/s", "burst": 0}"#] {
        let mut config = limited();
        config.plans[0].limits[0] = limit(nothing);
        assert_eq!(Snapshot::check(config).err(), None, "{nothing}");
    }
}

#[test]
fn what_the_rows_of_limits_spoil_is_sound_and_comes_back_from_its_sections() {
    let snapshot = Snapshot::check(limited()).unwrap();
    assert_eq!(Snapshot::check(snapshot.to_config()).unwrap().list(), snapshot.list());
    let names: Vec<_> = snapshot.plans().iter().map(|plan| plan.name.as_str()).collect();
    assert_eq!(names, ["AsyncBronze", "gold", "silver"], "those that the gateway brings stay at home");
    assert_eq!(Snapshot::check_identity(&limited()).err(), None);
}

#[test]
fn the_plans_that_the_gateway_brings_are_sound_and_can_be_replaced() {
    let names: Vec<_> = Plan::built_in().map(|plan| plan.name).collect();
    assert_eq!(names, Plan::BUILT_IN);
    let mut config = limited();
    config.plans.retain(|plan| plan.name != "AsyncBronze");
    config.plans.extend(Plan::built_in());
    assert_eq!(Snapshot::check(config).err(), None);
}
