//! What is created through the control plane reaches the data planes at once, and is not lost.

mod kills;

use std::sync::Arc;
use std::time::{Duration, Instant};

use controlplane::answer::Outcome;
use controlplane::catalogue::{Change, Changed, Condition, Filter, Kind};
use controlplane::office::Office;
use controlplane::server::Server;
use proto::snapshot::SecretHash;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::kit::{Gateway, Setup, Variant, aloud, until};

/// From the commit of a change to the data plane's Ack.
const REACHES_WITHIN: Duration = Duration::from_millis(100);
/// Changes of each kind that are measured.
const ROUNDS: usize = 20;
/// Keys that are there already.
const KEYS: usize = 100_000;
/// Changes of one call.
const BATCH: usize = 10_000;

/// A control plane in this process, for the data plane of a gateway.
struct House {
    office: Arc<Office>,
    runtime: Runtime,
    _gateway: Gateway,
}

impl House {
    /// With so many keys, which are there when the data plane comes.
    fn new(keys: usize) -> Self {
        let gateway = Setup::new(Variant::Automatic).without_control_plane().start();
        let (directory, control) = (gateway.setup().directory().to_owned(), gateway.setup().control_path());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("one");
        let state = directory.join("controlplane-state");
        let office = Office::new(directory.join("config.yaml"), state, "in-a-test".into(), Instant::now());
        let office = Arc::new(office.expect("the database can be opened"));
        runtime.block_on(async {
            office.reload("a test").await;
            let application = put(Kind::Application, "mobile", json!({ "name": "mobile" }));
            office.change(vec![application], None).await.expect("the application is stored");
            for batch in 0..keys.div_ceil(BATCH) {
                let changes = (0..BATCH).map(|at| key(&format!("key-{batch}-{at}"))).collect();
                office.change(changes, None).await.expect("the keys are stored");
            }
            let server = Server::open(&control).expect("the control socket is free");
            let office = Arc::clone(&office);
            tokio::spawn(async move { server.serve(office).await });
        });
        let house = Self { office, runtime, _gateway: gateway };
        until("the data plane comes", || !house.office.publisher().nodes().is_empty());
        // Its first push, however large.
        house.change(vec![put(Kind::User, "first", json!({ "name": "first" }))]);
        house
    }

    /// Makes changes, and waits until the data plane serves them.
    fn change(&self, changes: Vec<Change>) -> Changed {
        let changed = self.runtime.block_on(self.office.change(changes, Some(Duration::from_secs(60))));
        let changed = changed.unwrap_or_else(|error| panic!("{error}"));
        assert!(changed.nodes.iter().all(|node| node.outcome == Outcome::Applied), "{:?}", changed.nodes);
        assert_eq!(changed.nodes.len(), 1);
        changed
    }

    /// How long it takes from the call to the Ack, commit included.
    fn measure(&self, what: &str, changes: impl Fn(usize) -> Vec<Change>) {
        let mut took: Vec<Duration> = (0..ROUNDS)
            .map(|round| {
                let begun = Instant::now();
                self.change(changes(round));
                begun.elapsed()
            })
            .collect();
        took.sort();
        let (median, worst) = (took[ROUNDS / 2], took[ROUNDS - 1]);
        aloud(&format!("{what}: from the call to the Ack {median:.1?} in the middle, {worst:.1?} at worst"));
        assert!(median < REACHES_WITHIN, "{what}: {median:?}");
    }
}

fn put(kind: Kind, id: &str, value: Value) -> Change {
    Change::Put { kind, id: id.into(), value, condition: Condition::Any }
}

fn key(name: &str) -> Change {
    let sha256 = SecretHash::of(name).to_string();
    put(Kind::Key, name, json!({ "name": name, "application": "mobile", "sha256": sha256 }))
}

fn each_kind(house: &House, so_far: &str) {
    house.measure(&format!("an API, {so_far}"), |round| {
        let (name, endpoints) = (format!("api{round}"), json!({ "production": { "url": "ws://127.0.0.1:9/" } }));
        let api = json!({ "name": name, "context": format!("/of/{name}"), "endpoints": endpoints });
        vec![put(Kind::Api, &name, api)]
    });
    house.measure(&format!("an application, {so_far}"), |round| {
        let name = format!("app{round}");
        let client = json!({ "id": format!("{name}-client"), "secret": SecretHash::of(&name).to_string() });
        vec![put(Kind::Application, &name, json!({ "name": name, "clients": [client] }))]
    });
    house.measure(&format!("a subscription, {so_far}"), |round| {
        let api = format!("api{round}");
        vec![put(Kind::Subscription, &format!("mobile/{api}"), json!({ "application": "mobile", "api": api }))]
    });
    house.measure(&format!("a key, {so_far}"), |round| vec![key(&format!("one-more-{round}"))]);
    house.measure(&format!("a user, {so_far}"), |round| {
        let name = format!("user{round}");
        vec![put(Kind::User, &name, json!({ "name": name, "certificates": [format!("CN={name}")] }))]
    });
    house.measure(&format!("a revocation, {so_far}"), |round| {
        let subject = format!("token:corp/{round}");
        vec![put(Kind::Revocation, &subject, json!({ "revoked": subject }))]
    });
    house.measure(&format!("a key that goes, {so_far}"), |round| {
        let id = format!("one-more-{round}");
        vec![Change::Delete { kind: Kind::Key, id, condition: Condition::Any, cascade: false }]
    });
    house.measure(&format!("an API that goes with its subscription, {so_far}"), |round| {
        let id = format!("api{round}");
        vec![Change::Delete { kind: Kind::Api, id, condition: Condition::Any, cascade: true }]
    });
}

#[test]
fn every_kind_of_change_reaches_the_data_plane_within_100_ms_of_its_commit() {
    each_kind(&House::new(0), "nothing else stored");
}

#[test]
fn among_100_000_keys_every_kind_of_change_reaches_the_data_plane_within_100_ms_too() {
    let house = House::new(KEYS);
    each_kind(&house, &format!("{KEYS} keys stored"));
    let filter = Filter { text: Some("key-9-9999".into()), ..Filter::default() };
    let page = house.runtime.block_on(house.office.list(Kind::Key, filter, None, 10)).expect("a page");
    assert_eq!(page.items.len(), 1);
}
