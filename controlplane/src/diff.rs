//! What separates two snapshots, and what becomes of live sessions when one replaces the other.
//!
//! A plain function of its arguments; how many sessions there are is told to it.

mod limits;

use std::collections::BTreeMap;

use proto::snapshot::{
    Api, ApiKey, Application, Assertion, Authorities, Certificate, Denial, Digest, Issuer, KeyedLimit, LimitPolicy,
    Listener, Pem, Plan, Revocation, Section, Settings, Snapshot, Subscription, Upstream, User,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::answer::{Action, Change, Effect, Field, Kind, Touched};
use crate::expiry;

/// Fields that are told to differ, and not shown.
const HIDDEN: [&str; 4] = ["sha256", "password", "introspection.client_secret", "key"];

/// The differences, and the live sessions that they touch.
pub fn compare(
    before: Option<&Snapshot>,
    after: &Snapshot,
    sessions_by_api: &BTreeMap<String, u64>,
) -> (Vec<Change>, Vec<Touched>) {
    let mut changes = Vec::new();
    let settings = before.map_or_else(Settings::default, |before| before.settings().clone());
    let fields = differing(&settings, after.settings());
    if !fields.is_empty() {
        changes.push(Change { kind: Kind::Settings, name: String::new(), change: Action::Changed, fields });
    }
    let name_of = |one: &Value| one["name"].as_str().unwrap_or_default().to_owned();
    let shown = |one: &Snapshot| one.certificates().map(shown_certificate).collect::<Vec<_>>();
    things(Kind::Certificate, &before.map(shown).unwrap_or_default(), &shown(after), name_of, &mut changes);
    let shown = |one: &Snapshot| one.authorities().iter().map(shown_authorities).collect::<Vec<_>>();
    things(Kind::Authorities, &before.map(shown).unwrap_or_default(), &shown(after), name_of, &mut changes);
    macro_rules! family {
        ($section:ident, $entry:ty, $kind:ident, $name:expr) => {{
            fn of(section: &Section) -> &[$entry] {
                match section {
                    Section::$section(all) => all.as_slice(),
                    _ => &[],
                }
            }
            let (old, new) = match before {
                Some(before) => (apart(before, after, of), apart(after, before, of)),
                None => (Vec::new(), all(after, of)),
            };
            let name: fn(&$entry) -> String = $name;
            things(Kind::$kind, &old, &new, |one| name(one), &mut changes);
        }};
    }
    family!(Listeners, Listener, Listener, |one| one.name.clone());
    family!(Upstreams, Upstream, Upstream, |one| one.name.clone());
    family!(Apis, Api, Api, api_name);
    family!(Plans, Plan, Plan, |one| one.name.clone());
    family!(LimitPolicies, LimitPolicy, LimitPolicy, |one| one.name.clone());
    family!(Limits, KeyedLimit, Limit, |one| one.name.clone());
    family!(Denials, Denial, Denial, |one| one.name.clone());
    family!(Issuers, Issuer, Issuer, |one| one.name.clone());
    family!(Assertions, Assertion, Assertion, |one| one.name.clone());
    family!(Applications, Application, Application, |one| one.name.clone());
    family!(Subscriptions, Subscription, Subscription, |one| format!("{}/{}", one.application, one.api));
    family!(Keys, ApiKey, Key, |one| one.name.to_string());
    family!(Users, User, User, |one| one.name.clone());
    family!(Revocations, Revocation, Revocation, |one| one.revoked.to_string());
    let mut touched = touched(&changes, sessions_by_api);
    if let Some(before) = before {
        for api in limits::reached(before, after, &changes, sessions_by_api) {
            let effect = Effect::LimitsFromNextMessage;
            match touched.iter_mut().find(|one| one.api == api) {
                Some(one) => one.effect = one.effect.max(effect),
                None => touched.push(Touched { api: api.to_owned(), sessions: sessions_by_api[api], effect }),
            }
        }
        touched.sort_by(|a, b| a.api.cmp(&b.api));
    }
    (changes, touched)
}

/// The entries of a family in the sections that the other snapshot does not have just so: of a million keys, those of a
/// few buckets.
fn apart<'s, T>(one: &'s Snapshot, other: &Snapshot, of: fn(&Section) -> &[T]) -> Vec<&'s T> {
    let sections = one
        .sections()
        .iter()
        .filter(|(name, (digest, _))| other.sections().get(name).is_none_or(|(theirs, _)| theirs != digest));
    sections.flat_map(|(_, (_, section))| of(section)).collect()
}

/// Every entry of a family.
fn all<T>(one: &Snapshot, of: fn(&Section) -> &[T]) -> Vec<&T> {
    one.sections().values().flat_map(|(_, section)| of(section)).collect()
}

/// As reports name an API: its name, and its version where it has one.
pub fn api_name(api: &Api) -> String {
    if api.version.is_empty() { api.name.clone() } else { format!("{}:{}", api.name, api.version) }
}

fn things<T: Serialize>(kind: Kind, before: &[T], after: &[T], name: impl Fn(&T) -> String, changes: &mut Vec<Change>) {
    let old: BTreeMap<String, &T> = before.iter().map(|one| (name(one), one)).collect();
    let new: BTreeMap<String, &T> = after.iter().map(|one| (name(one), one)).collect();
    let change = |name: &String, change: Action, fields| Change { kind, name: name.clone(), change, fields };
    for (name, one) in &old {
        match new.get(name) {
            None => changes.push(change(name, Action::Removed, Vec::new())),
            Some(other) => {
                let fields = hidden(kind, differing(one, other));
                if !fields.is_empty() {
                    changes.push(change(name, Action::Changed, fields));
                }
            }
        }
    }
    for name in new.keys().filter(|name| !old.contains_key(*name)) {
        changes.push(change(name, Action::Added, Vec::new()));
    }
}

/// Of what nobody should see only that it differs.
fn hidden(kind: Kind, mut fields: Vec<Field>) -> Vec<Field> {
    let may_be_shown = matches!(kind, Kind::Certificate | Kind::Authorities);
    for field in fields.iter_mut().filter(|field| !may_be_shown && HIDDEN.contains(&field.field.as_str())) {
        for value in [&mut field.before, &mut field.after].into_iter().flatten() {
            *value = "(hidden)".into();
        }
    }
    fields
}

/// A certificate as it may be shown: what it is, and nothing of its key.
fn shown_certificate(one: &Certificate) -> Value {
    let mut shown = json!({ "name": one.name, "chain": summary(&one.chain), "key": print(&one.key) });
    if let Some(response) = &one.ocsp_response {
        shown["ocsp_response"] = print(response).into();
    }
    shown
}

fn shown_authorities(one: &Authorities) -> Value {
    let mut shown = json!({ "name": one.name, "certificates": summary(&one.certificates) });
    if !one.revocations.is_empty() {
        shown["revocations"] = one.revocations.iter().map(print).collect();
    }
    shown
}

/// Enough of a content's SHA-256 to tell it from another.
fn print(pem: &Pem) -> String {
    match pem {
        Pem::File(path) => path.display().to_string(),
        Pem::Text(text) => format!("sha256:{}", &Digest::of(text.as_bytes()).to_string()[..16]),
    }
}

/// What the first certificate of a content is, and a print of the whole.
fn summary(pem: &Pem) -> String {
    match expiry::first(pem) {
        Some(first) => format!("{first}, {}", print(pem)),
        None => print(pem),
    }
}

/// The fields whose values differ, by their path. A field at its default is absent, as everywhere in the model.
fn differing<T: Serialize>(before: &T, after: &T) -> Vec<Field> {
    let json = |value| serde_json::to_value(value).expect("the model is plain data with text keys");
    let mut fields = Vec::new();
    walk("", Some(&json(before)), Some(&json(after)), &mut fields);
    fields
}

fn walk(path: &str, before: Option<&Value>, after: Option<&Value>, fields: &mut Vec<Field>) {
    if before == after {
        return;
    }
    let empty = serde_json::Map::new();
    let object = |value: Option<&Value>| value.is_none_or(Value::is_object);
    if !(object(before) && object(after)) {
        fields.push(Field { field: path.to_owned(), before: before.cloned(), after: after.cloned() });
        return;
    }
    let before = before.and_then(Value::as_object).unwrap_or(&empty);
    let after = after.and_then(Value::as_object).unwrap_or(&empty);
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        walk(&path, before.get(key), after.get(key), fields);
    }
}

/// What a swap does to live sessions: removed and disabled APIs are drained, limits hold from the next message,
/// whatever else changes is for new sessions.
fn touched(changes: &[Change], sessions_by_api: &BTreeMap<String, u64>) -> Vec<Touched> {
    let effect = |change: &Change| match change.change {
        Action::Added => Effect::Untouched,
        Action::Removed => Effect::Drained,
        Action::Changed => {
            let disabled = |field: &Field| field.field == "enabled" && field.after == Some(Value::Bool(false));
            let limits = |field: &Field| match field.field.as_str() {
                "plan" | "limit_policy" | "unauthenticated_plan" => true,
                "topics" => topic_limits(field.before.as_ref()) != topic_limits(field.after.as_ref()),
                field => field.starts_with("limits"),
            };
            if change.fields.iter().any(disabled) {
                Effect::Drained
            } else if change.fields.iter().any(limits) {
                Effect::LimitsFromNextMessage
            } else {
                Effect::Untouched
            }
        }
    };
    let apis = changes.iter().filter(|change| change.kind == Kind::Api);
    apis.filter_map(|change| {
        let sessions = *sessions_by_api.get(&change.name)?;
        Some(Touched { api: change.name.clone(), sessions, effect: effect(change) })
    })
    .collect()
}

/// What limits each of an API's topics.
fn topic_limits(topics: Option<&Value>) -> BTreeMap<String, [&Value; 2]> {
    let topics = topics.and_then(Value::as_array).into_iter().flatten();
    let limited = topics.map(|topic| (topic["topic"].to_string(), [&topic["plan"], &topic["limit_policy"]]));
    limited.filter(|(_, chosen)| chosen.iter().any(|one| !one.is_null())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::snapshot::Config;

    fn snapshot(text: &str) -> Snapshot {
        let config: Config = serde_saphyr::from_str(text).unwrap();
        Snapshot::check(config).unwrap()
    }

    const BASE: &str = "
version: 1
listeners: [{name: public, bind: \"127.0.0.1:8080\"}]
upstreams: [{name: chat, endpoints: [{url: \"ws://127.0.0.1:9001/\"}]}]
apis:
  - {name: chat, version: v1, context: /chat, endpoints: {production: {upstream: chat}}}
  - {name: echo, context: /echo, endpoints: {production: {upstream: chat}}}
";

    fn told(after: &str) -> (Vec<String>, Vec<Touched>) {
        let sessions = BTreeMap::from([("chat:v1".to_owned(), 7), ("echo".to_owned(), 3)]);
        let (changes, touched) = compare(Some(&snapshot(BASE)), &snapshot(after), &sessions);
        let told = changes.iter().map(|change| {
            let fields: Vec<_> = change.fields.iter().map(|field| field.field.as_str()).collect();
            format!("{:?} {:?} {} {}", change.change, change.kind, change.name, fields.join(","))
        });
        (told.collect(), touched)
    }

    #[test]
    fn equal_documents_have_no_differences() {
        assert_eq!(told(BASE), (vec![], vec![]));
    }

    #[test]
    fn each_change_is_named_and_says_what_becomes_of_live_sessions() {
        let (changes, touched) = told(&BASE.replace("context: /echo,", "context: /echo, limits: {max_message: 2MiB},"));
        assert_eq!(changes, ["Changed Api echo limits.max_message"]);
        assert_eq!(touched, [Touched { api: "echo".into(), sessions: 3, effect: Effect::LimitsFromNextMessage }]);

        let (changes, touched) = told(&BASE.replace("version: v1,", "version: v2,"));
        assert_eq!(changes, ["Removed Api chat:v1 ", "Added Api chat:v2 "]);
        assert_eq!(touched, [Touched { api: "chat:v1".into(), sessions: 7, effect: Effect::Drained }]);

        let (_, touched) = told(&BASE.replace("version: v1,", "version: v1, enabled: false,"));
        assert_eq!(touched[0].effect, Effect::Drained);

        let (changes, touched) = told(&BASE.replace("9001", "9002").replace(":8080", ":8081"));
        assert_eq!(changes, ["Changed Listener public bind", "Changed Upstream chat endpoints"]);
        assert_eq!(touched, []);

        let (changes, _) = told(&format!("settings: {{drain_window: 5s}}{BASE}"));
        assert_eq!(changes, ["Changed Settings  drain_window"]);
    }

    #[test]
    fn people_differ_by_their_names_and_no_secret_is_shown() {
        let one = "0".repeat(64);
        let people = format!(
            "{BASE}applications: [{{name: mobile}}, {{name: web, clients: [{{id: w, secret: \"{one}\"}}]}}]
keys:
  - {{name: k1, application: mobile, sha256: \"{one}\"}}
  - {{name: k2, application: mobile, sha256: \"{}\"}}
users: [{{name: alice, password: $argon2id$one}}]
subscriptions: [{{application: mobile, api: echo}}]
revocations: [{{revoked: \"user:bob\"}}]
issuers: [{{name: corp, issuer: corp, introspection: {{url: \"http://a/\", client_secret: hunter2}}}}]
assertions: [{{name: backend, issuer: us, key: \"-----BEGIN PRIVATE KEY-----\"}}]
",
            "2".repeat(64)
        );
        let told = |before: &str, after: &str| {
            let (changes, _) = compare(Some(&snapshot(before)), &snapshot(after), &BTreeMap::new());
            let told = changes.iter().map(|change| {
                let fields: Vec<_> = change.fields.iter().map(|field| field.field.as_str()).collect();
                format!("{:?} {:?} {} {}", change.change, change.kind, change.name, fields.join(","))
            });
            let json = serde_json::to_string(&changes).unwrap();
            for secret in ["hunter2", "hunter3", "argon2", "000000", "PRIVATE"] {
                assert!(!json.contains(secret), "{json}");
            }
            told.collect::<Vec<_>>()
        };
        assert_eq!(
            told(BASE, &people),
            [
                "Added Issuer corp ",
                "Added Assertion backend ",
                "Added Application mobile ",
                "Added Application web ",
                "Added Subscription mobile/echo ",
                "Added Key k1 ",
                "Added Key k2 ",
                "Added User alice ",
                "Added Revocation user:bob ",
            ]
        );
        let other = people
            .replace("name: k1, application: mobile, sha256: \"000", "name: k1, application: web, sha256: \"001")
            .replace("$argon2id$one", "$argon2id$two")
            .replace("hunter2", "hunter3")
            .replace("BEGIN PRIVATE KEY", "BEGIN EC PRIVATE KEY")
            .replace("api: echo", "api: echo, enabled: false")
            .replace("user:bob", "user:carl");
        assert_eq!(
            told(&people, &other),
            [
                "Changed Issuer corp introspection.client_secret",
                "Changed Assertion backend key",
                "Changed Subscription mobile/echo enabled",
                "Changed Key k1 application,sha256",
                "Changed User alice password",
                "Removed Revocation user:bob ",
                "Added Revocation user:carl ",
            ]
        );
        assert_eq!(told(&people, &people), Vec::<String>::new());
    }

    #[test]
    fn other_limits_reach_the_live_sessions_of_whom_they_are_for() {
        let base = format!(
            "{BASE}plans: [{{name: gold, limits: [{{rate: 100/s}}]}}, {{name: idle, limits: [{{rate: 1/s}}]}}]
applications: [{{name: mobile}}]
subscriptions: [{{application: mobile, api: echo, plan: gold}}]
limit_policies: [{{name: offices, plan: idle}}]
limits: [{{name: tenants, key: [\"header:tenant\"], plan: idle, apis: [chat]}}]
denials: [{{name: mallory, user: mallory, api: echo}}]
"
        );
        let sessions = BTreeMap::from([("chat:v1".to_owned(), 7), ("echo".to_owned(), 3)]);
        for (from, to, kind, reached) in [
            ("rate: 100/s", "rate: 200/s", Kind::Plan, "echo"),
            ("rate: 1/s", "rate: 2/s", Kind::Plan, "chat:v1"),
            ("api: echo, plan: gold", "api: echo, plan: idle", Kind::Subscription, "echo"),
            ("{name: mobile}", "{name: mobile, plan: gold}", Kind::Application, "echo"),
            ("plan: idle, apis", "plan: gold, apis", Kind::Limit, "chat:v1"),
            ("limits: [{name: tenants", "limits: [{name: others", Kind::Limit, "chat:v1"),
            ("user: mallory, api: echo", "user: mallory", Kind::Denial, "chat:v1 echo"),
            ("denials: [{name: mallory, user: mallory, api: echo}]", "", Kind::Denial, "echo"),
            ("name: chat, version", "plan: gold, name: chat, version", Kind::Api, "chat:v1"),
            ("name: offices, plan: idle", "name: offices, plan: gold", Kind::LimitPolicy, ""),
            ("version: 1\n", "version: 1\nsettings: {unauthenticated_plan: gold}\n", Kind::Settings, "chat:v1 echo"),
            ("plans: [", "plans: [{name: AsyncUnlimited, limits: [{rate: 9/s}]}, ", Kind::Plan, "echo"),
        ] {
            assert!(base.contains(from), "{from}");
            let (changes, touched) = compare(Some(&snapshot(&base)), &snapshot(&base.replacen(from, to, 1)), &sessions);
            assert!(changes.iter().any(|change| change.kind == kind), "{to}: {changes:?}");
            assert!(touched.iter().all(|one| one.effect == Effect::LimitsFromNextMessage), "{to}: {touched:?}");
            let apis: Vec<_> = touched.iter().map(|one| one.api.as_str()).collect();
            assert_eq!(apis.join(" "), reached, "{to}");
        }
    }

    #[test]
    fn other_ranges_of_addresses_reach_those_who_are_limited_by_their_address() {
        let sessions = BTreeMap::from([("chat:v1".to_owned(), 7), ("echo".to_owned(), 3)]);
        let reached = |plan: &str, admission: &str| {
            let settings =
                |more: &str| BASE.replacen("version: 1\n", &format!("version: 1\nsettings: {{{more}{plan}}}\n"), 1);
            let file = |more: &str| {
                settings(more).replace("name: chat, version", "name: chat, unauthenticated_plan: AsyncGold, version")
            };
            let (_, touched) = compare(Some(&snapshot(&file(""))), &snapshot(&file(admission)), &sessions);
            assert!(touched.iter().all(|one| one.effect == Effect::LimitsFromNextMessage), "{touched:?}");
            touched.iter().map(|one| one.api.as_str()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(reached("", "admission: {address_prefix_v4: 24}"), "chat:v1");
        assert_eq!(reached("unauthenticated_plan: AsyncGold", "admission: {address_prefix_v6: 48}, "), "chat:v1 echo");
        assert_eq!(reached("unauthenticated_plan: AsyncGold", "admission: {sessions_max: 5}, "), "");
    }

    #[test]
    fn a_topics_plan_is_a_limit_and_its_mapping_is_not() {
        let with =
            |topics: &str| snapshot(&BASE.replace("context: /echo,", &format!("context: /echo, topics: [{topics}],")));
        let sessions = BTreeMap::from([("echo".to_owned(), 3)]);
        let effect = |before: &str, after: &str| compare(Some(&with(before)), &with(after), &sessions).1[0].effect;
        let plain = "{topic: /a}";
        assert_eq!(effect(plain, "{topic: /a, plan: AsyncGold}"), Effect::LimitsFromNextMessage);
        assert_eq!(effect(plain, "{topic: /a, mapping: /b}"), Effect::Untouched);
        assert_eq!(effect(plain, "{topic: /a}, {topic: /b}"), Effect::Untouched);
    }

    #[test]
    fn against_nothing_everything_is_added() {
        let (changes, touched) = compare(None, &snapshot(BASE), &BTreeMap::new());
        assert_eq!(changes.len(), 4);
        assert!(changes.iter().all(|change| change.change == Action::Added));
        assert_eq!(touched, []);
    }
}
