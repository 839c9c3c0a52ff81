//! The catalogue at the office: what is declared and what is stored are one configuration, changed all or nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use controlplane::catalogue::{Change, ChangeError, Changed, Condition, Filter, Kind, Origin};
use controlplane::office::Office;
use proptest::prelude::*;
use proto::snapshot::{Config, RevokedKind, SecretHash, Snapshot, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const FILE: &str = "\
version: 1
listeners: [{name: public, bind: \"127.0.0.1:8080\"}]
upstreams: [{name: chat, endpoints: [{url: \"ws://127.0.0.1:9001/\"}]}]
apis:
  - {name: chat, version: v1, context: /chat, endpoints: {production: {upstream: chat}}}
applications:
  - name: declared
    clients: [{id: declared-client, secret: \"0000000000000000000000000000000000000000000000000000000000000000\"}]
keys:
  - {name: declared-key, application: declared, sha256: \"1111111111111111111111111111111111111111111111111111111111111111\"}
users: [{name: dora, certificates: [\"CN=dora\"]}]
subscriptions: [{application: declared, api: \"chat:v1\"}]
";

struct House {
    runtime: Runtime,
    office: Arc<Office>,
    directory: TempDir,
}

impl House {
    fn new() -> Self {
        Self::with(FILE)
    }

    fn with(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("gateway.yaml"), text).unwrap();
        Self::in_directory(directory)
    }

    fn in_directory(directory: TempDir) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (file, state) = (directory.path().join("gateway.yaml"), directory.path().join("state"));
        let office = Arc::new(Office::new(file, state, "run".into(), Instant::now()).unwrap());
        runtime.block_on(office.reload("start"));
        Self { runtime, office, directory }
    }

    /// The same after the control plane has ended and started.
    fn again(self) -> Self {
        let Self { runtime, office, directory } = self;
        drop(office);
        drop(runtime);
        Self::in_directory(directory)
    }

    fn rewrite(&self, from: &str, to: &str) -> Vec<String> {
        let path: PathBuf = self.directory.path().join("gateway.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let applied = self.runtime.block_on(self.office.reload("a test"));
        let prefix = format!("{}/", self.directory.path().display());
        applied.diagnostics.iter().map(|one| one.to_string().replace(&prefix, "")).collect()
    }

    fn change(&self, changes: Vec<Change>) -> Result<Changed, ChangeError> {
        self.runtime.block_on(self.office.change(changes, None))
    }

    fn put(&self, kind: Kind, id: &str, value: Value) -> Result<Changed, ChangeError> {
        self.change(vec![put(kind, id, value)])
    }

    fn delete(&self, kind: Kind, id: &str) -> Result<Changed, ChangeError> {
        self.change(vec![delete(kind, id, false)])
    }

    fn ids(&self, kind: Kind, filter: Filter) -> Vec<String> {
        let page = self.runtime.block_on(self.office.list(kind, filter, None, 100)).unwrap();
        page.items.into_iter().map(|one| one.id).collect()
    }

    fn snapshot(&self) -> Snapshot {
        self.office.publisher().current().unwrap().snapshot.clone()
    }

    fn number(&self) -> u64 {
        self.office.publisher().current().map_or(0, |current| current.generation.number)
    }
}

fn put(kind: Kind, id: &str, value: Value) -> Change {
    Change::Put { kind, id: id.into(), value, condition: Condition::Any }
}

fn delete(kind: Kind, id: &str, cascade: bool) -> Change {
    Change::Delete { kind, id: id.into(), condition: Condition::Any, cascade }
}

fn application(name: &str) -> Change {
    let clients = json!([{ "id": format!("{name}-client"), "secret": SecretHash::of(name).to_string() }]);
    put(Kind::Application, name, json!({ "name": name, "clients": clients }))
}

fn key(name: &str, application: &str) -> Change {
    let sha256 = SecretHash::of(name).to_string();
    put(Kind::Key, name, json!({ "name": name, "application": application, "sha256": sha256 }))
}

fn api(name: &str, context: &str) -> Change {
    let endpoints = json!({ "production": { "upstream": "chat" } });
    put(Kind::Api, name, json!({ "name": name, "context": context, "endpoints": endpoints }))
}

fn subscription(application: &str, api: &str) -> Change {
    let id = format!("{application}/{api}");
    put(Kind::Subscription, &id, json!({ "application": application, "api": api }))
}

/// The problems, as `place: message`.
fn wrong(outcome: Result<Changed, ChangeError>) -> Vec<String> {
    match outcome.unwrap_err() {
        ChangeError::Invalid(problems) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn every_kind_is_created_found_listed_published_and_there_after_a_restart() {
    let house = House::new();
    let changed = house
        .change(vec![
            api("live", "/live"),
            application("mobile"),
            subscription("mobile", "live"),
            subscription("mobile", "chat:v1"),
            key("k1", "mobile"),
            put(Kind::User, "alice", json!({ "name": "alice", "application": "mobile" })),
            put(Kind::Revocation, "user:bob", json!({ "revoked": "user:bob" })),
        ])
        .unwrap();
    assert_eq!(changed.objects.len(), 7);
    assert_eq!(changed.generation.unwrap().number, 2);
    let look = |house: &House| {
        let snapshot = house.snapshot();
        assert!(snapshot.api("live").is_some() && snapshot.api("chat:v1").is_some());
        assert!(snapshot.application("mobile").is_some() && snapshot.application("declared").is_some());
        assert!(snapshot.subscription("mobile", "live").is_some());
        assert_eq!(&*snapshot.key(&SecretHash::of("k1")).unwrap().name, "k1");
        assert!(snapshot.user("alice").is_some());
        assert!(snapshot.revocation(RevokedKind::User, "bob").is_some());
        assert_eq!(house.ids(Kind::Api, Filter::default()), ["chat:v1", "live"]);
        assert_eq!(house.ids(Kind::Key, Filter::default()), ["declared-key", "k1"]);
        let of = |application: &str| Filter { application: Some(application.into()), ..Filter::default() };
        assert_eq!(house.ids(Kind::Key, of("mobile")), ["k1"]);
        assert_eq!(house.ids(Kind::Subscription, of("mobile")), ["mobile/chat:v1", "mobile/live"]);
        assert_eq!(house.ids(Kind::Subscription, of("declared")), ["declared/chat:v1"]);
        let text = Filter { text: Some("clar".into()), ..Filter::default() };
        assert_eq!(house.ids(Kind::Application, text), ["declared"]);
        let client = house.runtime.block_on(house.office.client("mobile-client")).unwrap().unwrap();
        assert_eq!((client.0.name.as_str(), client.1.secret), ("mobile", Some(SecretHash::of("mobile"))));
        assert!(house.runtime.block_on(house.office.client("declared-client")).unwrap().is_some());
        assert!(house.runtime.block_on(house.office.client("nobody")).unwrap().is_none());
        snapshot.checksum()
    };
    let before = look(&house);
    let house = house.again();
    assert_eq!(look(&house), before, "the same is published");
    // What is put together bucket by bucket is what checking the whole gives.
    let whole = Snapshot::check(house.snapshot().to_config()).unwrap();
    assert_eq!(whole.list(), house.snapshot().list());
}

#[test]
fn what_the_file_declares_is_read_only_and_says_where_it_stands() {
    let house = House::new();
    let found = house.runtime.block_on(house.office.find(Kind::Key, "declared-key")).unwrap().unwrap();
    assert!(matches!(&found.origin, Origin::Declared { file } if file.ends_with("gateway.yaml")), "{found:?}");
    assert!(found.shown().get("sha256").is_none());
    for outcome in [house.change(vec![key("declared-key", "declared")]), house.delete(Kind::Key, "declared-key")] {
        let error = outcome.unwrap_err();
        assert!(matches!(&error, ChangeError::Declared { .. }), "{error:?}");
        assert!(error.to_string().contains("gateway.yaml"), "{error}");
    }
}

#[test]
fn a_call_is_all_or_nothing_and_a_change_that_changes_nothing_publishes_nothing() {
    let house = House::new();
    let number = house.number();
    let told = wrong(house.change(vec![application("mobile"), key("k1", "nobody"), key("k2", "mobile")]));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("/1/application: there is no application \"nobody\""), "{told:?}");
    assert_eq!(house.ids(Kind::Application, Filter::default()), ["declared"]);
    assert_eq!(house.number(), number);
    house.change(vec![application("mobile")]).unwrap();
    house.change(vec![application("mobile")]).unwrap();
    assert_eq!(house.number(), number + 1);
    let told = wrong(house.change(vec![key("k", "mobile"), key("k", "mobile")]));
    assert!(told[0].contains("changed twice"), "{told:?}");
    let told = wrong(house.put(Kind::User, "alice", json!({ "name": "bob" })));
    assert!(told[0].contains("\"bob\""), "{told:?}");
    let told = wrong(house.put(Kind::User, "alice", json!({ "name": "alice", "pasword": "x" })));
    assert!(told[0].starts_with("/0: unknown field `pasword`"), "{told:?}");
}

#[test]
fn conditions_are_kept() {
    let house = House::new();
    let with = |condition: Condition| Change::Put {
        kind: Kind::User,
        id: "alice".into(),
        value: json!({ "name": "alice", "scopes": ["a"] }),
        condition,
    };
    let missing = house.change(vec![with(Condition::MustExist)]).unwrap_err();
    assert!(matches!(missing, ChangeError::NotFound { .. }));
    let first = house.put(Kind::User, "alice", json!({ "name": "alice" })).unwrap().objects.remove(0);
    assert!(matches!(house.change(vec![with(Condition::MustBeNew)]).unwrap_err(), ChangeError::Exists { .. }));
    let second = house.change(vec![with(Condition::MustMatch(first.etag.clone()))]).unwrap().objects.remove(0);
    assert_ne!(first.etag, second.etag);
    let found = house.runtime.block_on(house.office.find(Kind::User, "alice")).unwrap().unwrap();
    assert_eq!(found, second);
    let stale = house.change(vec![with(Condition::MustMatch(first.etag))]).unwrap_err();
    assert!(matches!(&stale, ChangeError::Stale { etag, .. } if *etag == second.etag));
    assert!(matches!(house.delete(Kind::User, "nobody").unwrap_err(), ChangeError::NotFound { .. }));
}

#[test]
fn clashes_name_both_and_say_where_each_comes_from() {
    let house = House::new();
    house.change(vec![application("mobile"), key("k1", "mobile"), api("live", "/live")]).unwrap();
    house.put(Kind::User, "alice", json!({ "name": "alice", "certificates": ["CN=alice"] })).unwrap();
    let same_key =
        |name: &str, of: &str| put(Kind::Key, name, json!({ "name": name, "application": "mobile", "sha256": of }));
    let client = |id: &str| put(Kind::Application, "web", json!({ "name": "web", "clients": [{ "id": id }] }));
    let user = |subject: &str| put(Kind::User, "carl", json!({ "name": "carl", "certificates": [subject] }));
    for (change, place, named, origin) in [
        (same_key("k2", &SecretHash::of("k1").to_string()), "/0/sha256", "\"k1\"", "stored in the catalogue"),
        (same_key("k2", &"1".repeat(64)), "/0/sha256", "\"declared-key\"", "declared in"),
        (client("mobile-client"), "/0/clients/0/id", "\"mobile\"", "stored in the catalogue"),
        (client("declared-client"), "/0/clients/0/id", "\"declared\"", "declared in"),
        (user("CN=alice"), "/0/certificates/0", "\"alice\"", "stored in the catalogue"),
        (user("CN=dora"), "/0/certificates/0", "\"dora\"", "declared in"),
        (api("other", "/live"), "/0/context", "\"live\"", "stored in the catalogue"),
        (api("other", "/chat/v1"), "/0/context", "\"chat:v1\"", "declared in"),
    ] {
        let told = wrong(house.change(vec![change]));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&format!("{place}: ")), "{told:?}");
        assert!(told[0].contains(named) && told[0].contains(origin), "{told:?} should say {named} {origin}");
    }
    let told = wrong(house.change(vec![same_key("k2", &"2".repeat(64)), same_key("k3", &"2".repeat(64))]));
    assert!(told[0].starts_with("/1/sha256: this is the key \"k2\" (change 0 of this call)"), "{told:?}");
}

#[test]
fn a_client_and_a_user_of_one_name_are_refused_in_either_order() {
    let house = House::new();
    let client = |id: &str| put(Kind::Application, "web", json!({ "name": "web", "clients": [{ "id": id }] }));
    let user = |name: &str| put(Kind::User, name, json!({ "name": name }));
    house.change(vec![user("alice")]).unwrap();
    for (name, origin) in [("alice", "stored in the catalogue"), ("dora", "declared in")] {
        let told = wrong(house.change(vec![client(name)]));
        assert!(told.len() == 1 && told[0].starts_with("/0: "), "{told:?}");
        for word in [&format!("{name:?}"), origin, "\"web\"", "change 0 of this call"] {
            assert!(told[0].contains(word), "{told:?} should say {word}");
        }
    }
    let told = wrong(house.change(vec![user("bob"), client("bob")]));
    assert!(told.len() == 1 && told[0].starts_with("/0/name: "), "{told:?}");
    house.change(vec![client("carl")]).unwrap();
    let told = wrong(house.change(vec![user("carl")]));
    assert!(told.len() == 1 && told[0].starts_with("/0/name: "), "{told:?}");
    // The name goes from the one to the other.
    house.change(vec![delete(Kind::User, "alice", false), client("alice"), user("carl")]).unwrap();
    assert!(house.again().office.publisher().current().is_some());
}

const ISSUERS: &str = "\
issuers:
  - {name: corp, issuer: \"https://login.example.com/\", jwks: \"https://login.example.com/jwks\"}
";

#[test]
fn a_client_of_an_issuer_stands_in_nobodys_way() {
    let bound = "    clients: [{id: trading-web, issuer: corp}]\n";
    for (file, stored) in [
        (
            FILE.replace("applications:\n", &format!("{ISSUERS}applications:\n  - name: trading\n{bound}")),
            key("k1", "trading"),
        ),
        (
            format!("{FILE}{ISSUERS}"),
            put(
                Kind::Application,
                "trading",
                json!({ "name": "trading", "clients": [{ "id": "trading-web", "issuer": "corp" }] }),
            ),
        ),
    ] {
        let house = House::with(&file);
        house.change(vec![stored]).unwrap();
        assert_eq!(house.rewrite("CN=dora", "CN=dora,O=Example"), Vec::<String>::new());
        assert_eq!(house.snapshot().users().next().unwrap().certificates, ["CN=dora,O=Example"]);
        let house = house.again();
        assert_eq!(house.snapshot().application("trading").unwrap().clients[0].issuer, "corp");
        house.change(vec![key("k2", "trading")]).unwrap();
    }
}

#[test]
fn an_issuer_does_not_go_while_a_stored_client_is_bound_to_it() {
    let house = House::with(&format!("{FILE}{ISSUERS}"));
    let kiosk = json!({ "name": "kiosk", "clients": [{ "id": "kiosk-web", "issuer": "corp" }] });
    house.put(Kind::Application, "kiosk", kiosk).unwrap();
    let number = house.number();
    let named = |told: &[String]| {
        assert_eq!(told.len(), 1, "{told:?}");
        for word in ["\"kiosk\"", "\"kiosk-web\"", "\"corp\"", "state/catalogue.db"] {
            assert!(told[0].contains(word), "{told:?} should say {word}");
        }
    };
    named(&house.rewrite(ISSUERS, ""));
    named(&house.rewrite("CN=dora", "CN=dora,O=Example"));
    assert_eq!(house.number(), number, "what ran runs on");
    let house = house.again();
    assert!(house.office.publisher().current().is_none(), "as little as after a restart");
    house.delete(Kind::Application, "kiosk").unwrap();
    house.runtime.block_on(house.office.refresh("it is time"));
    assert!(house.snapshot().issuers().is_empty());
}

/// More than the problems that are told one by one.
const MANY: usize = 1001;

#[test]
fn what_is_wrong_is_found_among_any_number_of_changes() {
    let house = House::with(&format!("{FILE}{ISSUERS}"));
    let bound = |at: usize| {
        let clients = json!([{ "id": format!("client-{at}"), "issuer": "corp" }]);
        put(Kind::Application, &format!("app-{at}"), json!({ "name": format!("app-{at}"), "clients": clients }))
    };
    house.change((0..MANY).map(bound).collect()).unwrap();
    let mut changes: Vec<_> = (0..MANY).map(|at| subscription(&format!("app-{at}"), "chat:v1")).collect();
    changes.push(key("k1", "nobody"));
    let told = wrong(house.change(changes));
    assert!(told.len() == 1 && told[0].contains("there is no application \"nobody\""), "{told:?}");

    house.change((0..MANY).map(|at| key(&format!("key-{at}"), "app-0")).collect()).unwrap();
    let same = |at: usize| {
        let sha256 = SecretHash::of(&format!("key-{at}")).to_string();
        let name = format!("copy-{at}");
        put(Kind::Key, &name, json!({ "name": name, "application": "declared", "sha256": sha256 }))
    };
    let told = wrong(house.change((0..MANY).map(same).collect()));
    assert_eq!(told.len(), MANY, "each up to the ceiling, and the rest counted");
    assert!(told[0].starts_with("/0/sha256: ") && told[MANY - 1].contains("1 more problem"), "{told:?}");
    let kept = house.snapshot();
    assert_eq!(house.again().snapshot().list(), kept.list());
}

/// A change among few names, so that many clash: its kind, its name, and what it refers to.
type Drawn = (u8, usize, usize, usize);

/// None: it deletes what is not there.
fn drawn((what, name, a, b): Drawn, present: &BTreeMap<(Kind, String), Value>) -> Option<Change> {
    let names = ["ann", "bob", "carl", "dora"];
    let application = ["ann", "bob", "declared", "nobody"][a];
    let name = names[name];
    let change = match what {
        0 | 1 => {
            let issuer = ["", "corp", "framegate", "strange"][b];
            put(Kind::Application, name, json!({ "name": name, "clients": [{ "id": names[a], "issuer": issuer }] }))
        }
        2 | 3 => {
            let mut user = json!({ "name": name, "certificates": [format!("CN={}", names[b])] });
            if a > 0 {
                user["application"] = application.into();
            }
            put(Kind::User, name, user)
        }
        4 | 5 => {
            let sha256 = SecretHash::of(names[b]).to_string();
            put(Kind::Key, name, json!({ "name": name, "application": application, "sha256": sha256 }))
        }
        6 => subscription(application, ["chat:v1", "ann", "bob", "none"][b]),
        7 => api(name, &format!("/of/{name}")),
        _ => {
            let kind = [Kind::Application, Kind::User, Kind::Key, Kind::Api][a];
            present.get(&(kind, name.to_owned()))?;
            delete(kind, name, b % 2 == 0)
        }
    };
    Some(change)
}

impl House {
    /// Everything that there is, declared or stored, as it would stand in one file.
    fn objects(&self) -> BTreeMap<(Kind, String), Value> {
        let of = |kind| {
            let page = self.runtime.block_on(self.office.list(kind, Filter::default(), None, 100)).unwrap();
            page.items.into_iter().map(move |one| ((kind, one.id), one.value))
        };
        Kind::ALL.into_iter().flat_map(of).collect()
    }

    fn is_sound(&self, objects: &BTreeMap<(Kind, String), Value>) -> bool {
        let mut document = json!({ "version": 1, "listeners": [] });
        for kind in Kind::ALL {
            let family = objects.iter().filter(|((one, _), _)| *one == kind).map(|(_, value)| value.clone());
            document[kind.family()] = family.collect();
        }
        let mut config: Config = serde_json::from_value(document).unwrap();
        config.issuers = self.snapshot().issuers().to_vec();
        Snapshot::check_identity(&config).is_ok()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Of a few changes only their neighbourhood is looked at; what it says is what a look at everything says.
    #[test]
    fn what_is_said_of_a_few_changes_is_what_would_be_said_of_the_whole(
        calls in prop::collection::vec(prop::collection::vec((0..10_u8, 0..4_usize, 0..4_usize, 0..4_usize), 1..6), 1..12)
    ) {
        let house = House::with(&format!("{FILE}{ISSUERS}"));
        for call in calls {
            let mut after = house.objects();
            let mut changes: BTreeMap<(Kind, String), Change> = BTreeMap::new();
            for change in call.into_iter().filter_map(|one| drawn(one, &after)) {
                let target = match &change {
                    Change::Put { kind, id, .. } | Change::Delete { kind, id, .. } => (*kind, id.clone()),
                };
                changes.insert(target, change);
            }
            for (target, change) in &changes {
                match change {
                    Change::Put { value, .. } => after.insert(target.clone(), value.clone()),
                    Change::Delete { .. } => after.remove(target),
                };
            }
            match house.change(changes.into_values().collect()) {
                Ok(_) => prop_assert!(house.is_sound(&house.objects()), "{:?}", house.objects()),
                Err(ChangeError::Invalid(problems)) => {
                    prop_assert!(!house.is_sound(&after), "{problems:?} are told of {after:?}");
                }
                Err(ChangeError::InUse { .. } | ChangeError::Declared { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        let kept = house.snapshot();
        prop_assert_eq!(house.again().snapshot().list(), kept.list(), "and so it is after a restart");
    }
}

#[test]
fn a_file_that_collides_with_the_catalogue_is_refused_and_adopted_once_that_is_resolved() {
    let house = House::new();
    house.change(vec![application("mobile"), key("k1", "mobile"), api("live", "/live")]).unwrap();
    let number = house.number();
    let told = house.rewrite("applications:\n", "applications:\n  - {name: mobile}\n");
    assert_eq!(told.len(), 1, "{told:?}");
    let said = "state/catalogue.db: the stored application \"mobile\": there is another application \"mobile\" (declared in gateway.yaml:7); rename one";
    assert_eq!(told[0], said);
    let told = house.rewrite("  - {name: mobile}\n", "");
    assert_eq!(told, Vec::<String>::new());
    let told = house.rewrite("context: /chat", "context: /live, default_version: true");
    assert!(
        told[0].contains("\"live\"") && told[0].contains("\"chat:v1\"") && told[0].contains("gateway.yaml:5"),
        "{told:?}"
    );
    assert_eq!(house.number(), number + 1, "what ran runs on");
    // The catalogue gives way.
    house.delete(Kind::Api, "live").unwrap();
    let again = house.office.watched().borrow().again;
    assert!(again.is_some(), "the file is looked at again");
    house.runtime.block_on(house.office.refresh("it is time"));
    assert_eq!(house.snapshot().api("chat:v1").unwrap().context, "/live");
}

#[test]
fn what_is_used_is_not_taken_away() {
    let house = House::new();
    house.change(vec![api("live", "/live"), application("mobile"), subscription("mobile", "live")]).unwrap();
    house.change(vec![subscription("mobile", "chat:v1"), key("k1", "mobile")]).unwrap();
    house.put(Kind::User, "alice", json!({ "name": "alice", "application": "mobile" })).unwrap();
    match house.delete(Kind::Application, "mobile").unwrap_err() {
        ChangeError::InUse { by, .. } => assert_eq!(
            by.iter().map(|(kind, id)| format!("{kind} {id}")).collect::<Vec<_>>(),
            ["key k1", "subscription mobile/chat:v1", "subscription mobile/live", "user alice"]
        ),
        other => panic!("{other}"),
    }
    assert!(matches!(house.delete(Kind::Api, "live").unwrap_err(), ChangeError::InUse { .. }));
    // A file may not take it away either.
    let told = house.rewrite("version: v1, ", "version: v2, ").join("\n");
    assert!(told.contains("\"chat:v1\""), "{told}");
    house.rewrite("version: v2, ", "version: v1, ");
    let kept = house.change(vec![delete(Kind::Application, "mobile", true)]).unwrap_err();
    assert!(matches!(&kept, ChangeError::InUse { by, .. } if *by == [("user", "alice".to_owned())]), "{kept:?}");
    // With a user who is put elsewhere in the same call it goes, and takes what is its own along.
    let moved = put(Kind::User, "alice", json!({ "name": "alice" }));
    let changed = house.change(vec![delete(Kind::Application, "mobile", true), moved]).unwrap();
    assert_eq!(changed.removed.len(), 4, "{changed:?}");
    assert!(house.snapshot().key(&SecretHash::of("k1")).is_none());
    assert_eq!(house.snapshot().subscriptions().count(), 1);
    assert!(house.runtime.block_on(house.office.client("mobile-client")).unwrap().is_none());
    house.delete(Kind::Api, "live").unwrap();
    assert!(house.snapshot().api("live").is_none());
}

#[test]
fn keys_change_places_and_a_declared_change_reaches_the_stored() {
    let house = House::new();
    house.change(vec![application("mobile"), key("k1", "mobile"), key("k2", "mobile")]).unwrap();
    let with = |name: &str, of: &str| {
        let sha256 = SecretHash::of(of).to_string();
        put(Kind::Key, name, json!({ "name": name, "application": "mobile", "sha256": sha256 }))
    };
    house.change(vec![with("k1", "k2"), with("k2", "k1")]).unwrap();
    assert_eq!(&*house.snapshot().key(&SecretHash::of("k1")).unwrap().name, "k2");
    assert_eq!(house.snapshot().keys().count(), 3);
    // People of the file change: the stored ones are put together with them anew.
    house.rewrite("name: dora", "name: doris");
    assert!(house.snapshot().user("doris").is_some() && house.snapshot().user("dora").is_none());
    assert_eq!(house.snapshot().keys().count(), 3);
    let told = house.rewrite("sha256: \"1111", "sha256: \"2222");
    assert_eq!(told, Vec::<String>::new());
    let hash = SecretHash::of("k1").to_string();
    let told = house.rewrite(&format!("sha256: \"2222{}\"", "1".repeat(60)), &format!("sha256: \"{hash}\""));
    assert!(told[0].contains("the stored key \"k2\"") && told[0].contains("\"declared-key\""), "{told:?}");
}

#[test]
fn a_key_knows_when_it_was_made_and_a_page_ends_where_the_next_begins() {
    let house = House::new();
    house.change(vec![application("mobile")]).unwrap();
    let made = house.change((0..25).map(|at| key(&format!("k{at:02}"), "mobile")).collect()).unwrap();
    assert!(made.objects[0].value["created"].is_string(), "{:?}", made.objects[0]);
    let again = house.change(vec![key("k00", "mobile")]).unwrap();
    assert_eq!(again.objects[0].value["created"], made.objects[0].value["created"]);
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = house.runtime.block_on(house.office.list(Kind::Key, Filter::default(), after, 10)).unwrap();
        assert!(page.items.len() <= 10);
        seen.extend(page.items.into_iter().map(|one| one.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 26);
    assert!(seen.is_sorted());
}

#[test]
fn revocations_that_have_run_out_are_forgotten() {
    let house = House::new();
    let until = |subject: &str, expires: &str| {
        put(Kind::Revocation, subject, json!({ "revoked": subject, "expires": expires }))
    };
    house
        .change(vec![
            until("token:corp/1", "2026-01-01T00:00:00Z"),
            until("token:corp/2", "2027-01-01T00:00:00Z"),
            put(Kind::Revocation, "user:bob", json!({ "revoked": "user:bob" })),
        ])
        .unwrap();
    let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
    assert_eq!(house.runtime.block_on(house.office.forget(now)).unwrap(), 1);
    assert_eq!(house.runtime.block_on(house.office.forget(now)).unwrap(), 0);
    assert_eq!(house.ids(Kind::Revocation, Filter::default()), ["token:corp/2", "user:bob"]);
    assert!(house.snapshot().revocation(RevokedKind::Token, "corp/1").is_none());
}

#[test]
fn with_a_broken_file_things_can_be_deleted_and_not_added() {
    let house = House::new();
    house.change(vec![application("mobile")]).unwrap();
    house.rewrite("applications:\n", "applications:\n  - {name: mobile}\n");
    let house = house.again();
    assert!(house.office.publisher().current().is_none(), "nothing is published from a file that collides");
    assert!(matches!(house.change(vec![application("web")]).unwrap_err(), ChangeError::Unready));
    let changed = house.delete(Kind::Application, "mobile").unwrap();
    assert_eq!(changed.generation, None);
    house.runtime.block_on(house.office.refresh("it is time"));
    assert!(house.snapshot().application("mobile").is_some(), "the declared one");
}

#[test]
fn a_change_that_nobody_waits_for_is_made_all_the_same() {
    let house = House::new();
    house.runtime.block_on(async {
        for at in 0..20 {
            let change = house.office.change(vec![application(&format!("a{at}"))], Some(Duration::from_secs(5)));
            let _ = tokio::time::timeout(Duration::from_micros(at * 50), change).await;
        }
    });
    // Whatever was begun is done, and what is done is published.
    house.change(vec![application("last")]).unwrap();
    let mut stored = house.ids(Kind::Application, Filter::default());
    let mut published: Vec<_> = house.snapshot().applications().map(|one| one.name.clone()).collect();
    stored.sort();
    published.sort();
    assert_eq!(stored, published);
}

fn plan(name: &str, rate: &str) -> Change {
    put(Kind::Plan, name, json!({ "name": name, "limits": [{ "rate": rate }] }))
}

#[test]
fn plans_and_denials_are_stored_published_and_there_after_a_restart() {
    let house = House::new();
    let with_plan = json!({ "name": "mobile", "plan": "gold" });
    let told = wrong(house.put(Kind::Application, "mobile", with_plan.clone()));
    assert!(told[0].starts_with("/0/plan: there is no plan \"gold\""), "{told:?}");
    let live = json!({
        "name": "live", "context": "/live", "plan": "gold", "endpoints": { "production": { "upstream": "chat" } },
    });
    house
        .change(vec![
            put(Kind::Application, "mobile", with_plan),
            put(Kind::Api, "live", live.clone()),
            plan("gold", "100/s"),
            put(Kind::Denial, "mallory", json!({ "name": "mallory", "user": "mallory", "application": "mobile" })),
        ])
        .unwrap();
    let look = |house: &House| {
        let snapshot = house.snapshot();
        assert!(snapshot.has_plan("gold") && snapshot.denials()[0].name == "mallory");
        assert_eq!(snapshot.application("mobile").unwrap().plan, "gold");
        assert_eq!(Snapshot::check(snapshot.to_config()).unwrap().list(), snapshot.list());
        let of = |application: &str| Filter { application: Some(application.into()), ..Filter::default() };
        assert_eq!(house.ids(Kind::Denial, of("mobile")), ["mallory"]);
        assert_eq!(house.ids(Kind::Denial, of("declared")), [""; 0]);
        snapshot.checksum()
    };
    let before = look(&house);
    let house = house.again();
    assert_eq!(look(&house), before, "the same is published");

    // What is wrong is told at the change, and what it clashes with by where it is.
    let told = wrong(
        house.change(vec![application("desk"), put(Kind::Plan, "odd", json!({ "name": "odd", "limits": [{}] }))]),
    );
    assert!(told[0].starts_with("/1/limits/0: this limits nothing"), "{told:?}");
    let told = wrong(house.put(Kind::Denial, "all", json!({ "name": "all" })));
    assert!(told[0].starts_with("/0: this denies everybody everything"), "{told:?}");
    let error = house.rewrite("users: [", "plans: [{name: gold}]\nusers: [").join("\n");
    assert!(error.contains("the stored plan \"gold\": there is another plan \"gold\" (declared in "), "{error}");
    house.rewrite("plans: [{name: gold}]\nusers: [", "users: [");

    // A denial may name what is not there, and keeps nothing in its place.
    let bare = json!({ "name": "mobile" });
    house.put(Kind::Application, "mobile", bare).unwrap();
    house.delete(Kind::Application, "mobile").unwrap();
    house.delete(Kind::Denial, "mallory").unwrap();
    assert!(house.snapshot().denials().is_empty());
}

#[test]
fn a_plan_that_is_in_use_is_not_taken_away_and_says_by_whom() {
    let house = House::new();
    house.change(vec![plan("gold", "100/s"), plan("silver", "10/s")]).unwrap();
    house.change(vec![put(Kind::Application, "mobile", json!({ "name": "mobile", "plan": "gold" }))]).unwrap();
    let subscribe = |plan: &str| {
        let value = json!({ "application": "mobile", "api": "chat:v1", "plan": plan });
        put(Kind::Subscription, "mobile/chat:v1", value)
    };
    house.change(vec![subscribe("gold")]).unwrap();
    let live = |plan: &str| {
        let topics = json!([{ "topic": "/a", "plan": plan }]);
        let endpoints = json!({ "production": { "upstream": "chat" } });
        put(Kind::Api, "live", json!({ "name": "live", "context": "/live", "topics": topics, "endpoints": endpoints }))
    };
    house.change(vec![live("gold")]).unwrap();
    let error = house.delete(Kind::Plan, "gold").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the plan \"gold\" is used by api \"live\", application \"mobile\", subscription \"mobile/chat:v1\"; give those \
         another first"
    );
    // Whoever is changed in the same call says for itself.
    let mobile = put(Kind::Application, "mobile", json!({ "name": "mobile" }));
    let changes = vec![delete(Kind::Plan, "gold", false), subscribe("gold"), live("silver"), mobile.clone()];
    let told = wrong(house.change(changes));
    assert!(told[0].starts_with("/1/plan: there is no plan \"gold\""), "{told:?}");
    house.change(vec![delete(Kind::Plan, "gold", false), subscribe("silver"), live("silver"), mobile]).unwrap();
    assert!(!house.snapshot().has_plan("gold"));

    // A file names what it declares, so that it stands without the database.
    let told = house.rewrite("users: [", "limit_policies: [{name: all, plan: silver}]\nusers: [");
    assert!(told.len() == 1 && told[0].contains("there is no plan \"silver\""), "{told:?}");
}

#[test]
fn the_plans_that_the_gateway_brings_are_there_can_be_replaced_and_come_back() {
    let house = House::new();
    let five = ["AsyncBronze", "AsyncGold", "AsyncSilver", "AsyncUnlimited", "Unauthenticated"];
    assert_eq!(house.ids(Kind::Plan, Filter::default()), five);
    let found = |house: &House| house.runtime.block_on(house.office.find(Kind::Plan, "AsyncGold")).unwrap().unwrap();
    assert_eq!(found(&house).origin, Origin::BuiltIn);
    assert_eq!(found(&house).value["limits"], json!([{ "quota": "50000/day" }]));
    let error = house.delete(Kind::Plan, "AsyncGold").unwrap_err();
    assert!(matches!(error, ChangeError::BuiltIn { .. }), "{error}");

    house.change(vec![plan("AsyncGold", "7/s"), plan("B", "1/s")]).unwrap();
    assert_eq!(found(&house).origin, Origin::Stored);
    let mut six = [five.as_slice(), &["B"]].concat();
    six.sort_unstable();
    assert_eq!(house.ids(Kind::Plan, Filter::default()), six);
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = house.runtime.block_on(house.office.list(Kind::Plan, Filter::default(), after, 2)).unwrap();
        pages.extend(page.items.into_iter().map(|one| one.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, house.ids(Kind::Plan, Filter::default()), "page by page it is the same");
    // Its users keep it from nothing: it is there again.
    house.put(Kind::Application, "mobile", json!({ "name": "mobile", "plan": "AsyncGold" })).unwrap();
    house.delete(Kind::Plan, "AsyncGold").unwrap();
    assert_eq!(found(&house).origin, Origin::BuiltIn);
    assert!(house.snapshot().plans().iter().all(|plan| plan.name != "AsyncGold"));
}
