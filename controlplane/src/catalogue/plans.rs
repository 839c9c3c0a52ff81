//! The plans that the gateway brings, as objects; and who uses a plan.

use proto::snapshot::{Api, Plan, Snapshot};

use super::entry::subscription_id;
use super::{Entry, Filter, Kind, Object, Origin};

/// A plan that the gateway brings, whatever stands in its place.
pub(crate) fn built_in(id: &str) -> Option<Object> {
    Plan::built_in().find(|plan| plan.name == id).map(object)
}

/// Those that are wanted and whose ids come behind `after`.
pub(crate) fn built_in_list(filter: &Filter, after: &str) -> Vec<Object> {
    let wanted = |plan: &Plan| {
        let name = plan.name.as_str();
        name > after && filter.wants(name, &Entry::Plan(plan.clone()))
    };
    let mut all: Vec<_> = Plan::built_in().filter(wanted).map(object).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

fn object(plan: Plan) -> Object {
    let entry = Entry::Plan(plan);
    Object::new(Kind::Plan, entry.id(), entry.value(), Origin::BuiltIn)
}

/// Every API, application and subscription that names this plan: what it is, and its id. A file's own policies and settings
/// name what stands in the file, or what the gateway brings.
pub(super) fn users_of(snapshot: &Snapshot, plan: &str) -> Vec<(&'static str, String)> {
    let names = |api: &&Api| {
        api.plan == plan || api.unauthenticated_plan == plan || api.topics.iter().any(|topic| topic.plan == plan)
    };
    let mut users: Vec<_> = snapshot.apis().filter(names).map(|api| (Kind::Api.word(), api.label())).collect();
    let applications = snapshot.applications().filter(|one| one.plan == plan);
    users.extend(applications.map(|one| (Kind::Application.word(), one.name.clone())));
    let subscriptions = snapshot.subscriptions().filter(|one| one.plan == plan);
    users.extend(subscriptions.map(|one| (Kind::Subscription.word(), subscription_id(&one.application, &one.api))));
    users
}
