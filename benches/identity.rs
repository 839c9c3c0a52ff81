//! What it costs to know who somebody is: reading and verifying tokens, looking keys up among a million, asking whether a
//! grant still stands, and taking over a generation in which one key of a million is another. And what a million keys weigh.
//!
//! `cargo bench --bench identity`. The last table is of the executable: resident memory of both planes with a million keys
//! in the database.

#[path = "../tests/kit/mod.rs"]
mod kit;
mod load;

use std::collections::HashSet;
use std::hint::black_box;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use dataplane::authenticate::{Jws, grant_of_jwt};
use dataplane::identity::{Grant, Proof, Word};
use dataplane::issuers::Believed;
use dataplane::people::People;
use dataplane::standing;
use dataplane::tables::Tables;
use dataplane::tls::Terms;
use proto::control::Message;
use proto::control::envelope::PREFIX_BYTES;
use proto::control::message::{Generation, Push};
use proto::snapshot::{
    Api, ApiKey, Application, Config, CredentialForm, Environment, Issuer, Jwks, Listener, SecretHash, Snapshot,
    Subscription, Target,
};

use kit::tokens::{Algorithm, Signer, Token, key_set, now_s};
use kit::{Setup, Variant, until};
use load::machine;

const KEYS: usize = 1_000_000;
const APPLICATIONS: usize = 1000;
const ISSUER: &str = "https://issuer.test";

fn main() {
    let is_measured = std::env::args().any(|argument| argument == "--bench");
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    tokens(&mut criterion);
    if !is_measured {
        println!("a million keys are for a measurement: cargo bench --bench identity");
        return;
    }
    keys(&mut criterion);
    criterion.final_summary();
    weigh();
}

/// The room's own way from the text of a token to its grant.
fn tokens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("token");
    for algorithm in Algorithm::ALL {
        let signer = Signer::new(algorithm, "bench");
        let issuer = Believed::new(issuer(&key_set(&[&signer])), &Terms::default());
        let people = People::default();
        let claims = Token::of(ISSUER).claim("aud", "bench").claim("client_id", "app-client").claim("sub", "alice");
        let token = claims.claim("scope", "rooms.read rooms.write").claim("keytype", "PRODUCTION").sign(&signer);
        let now_ms = now_s() * 1000;
        group.bench_function(BenchmarkId::new("read, verify, grant", algorithm.word()), |bencher| {
            bencher.iter(|| {
                let jws = Jws::read(black_box(&token)).expect("a sound token");
                jws.verify(&issuer).expect("a right signature");
                grant_of_jwt(&issuer, &jws.claims, CredentialForm::Bearer, &people, now_ms).expect("a grant")
            });
        });
        group.bench_function(BenchmarkId::new("read", algorithm.word()), |bencher| {
            bencher.iter(|| Jws::read(black_box(&token)).expect("a sound token"));
        });
        group.bench_function(BenchmarkId::new("know again: its hash", algorithm.word()), |bencher| {
            bencher.iter(|| SecretHash::of(black_box(&token)));
        });
    }
    group.finish();
}

fn issuer(keys: &str) -> Issuer {
    let text = serde_json::json!({ "name": "bench", "issuer": ISSUER, "audiences": ["bench"] });
    Issuer { jwks: Some(Jwks::Text(keys.into())), ..serde_json::from_value(text).expect("an issuer") }
}

fn secret(at: usize) -> String {
    format!("fgk_bench_{at:032x}")
}

fn key(at: usize) -> ApiKey {
    let value = serde_json::json!({
        "name": format!("key-{at}"),
        "application": format!("app-{}", at % APPLICATIONS),
        "sha256": SecretHash::of(&secret(at)).to_string(),
    });
    serde_json::from_value(value).expect("a key")
}

fn config() -> Config {
    let target = Target::Url("ws://10.0.0.1:9000/".parse().expect("a URL"));
    let mut api = Api::new("chat", "v1", "/chat", target);
    api.authentication.accept = vec![CredentialForm::ApiKey];
    let application = |at| Application::new(format!("app-{at}"));
    let subscription = |at| Subscription {
        application: format!("app-{at}"),
        api: "chat:v1".into(),
        plan: "AsyncUnlimited".into(),
        enabled: true,
    };
    Config {
        version: 1,
        listeners: vec![Listener::new("public", "127.0.0.1:8080".parse().expect("an address"))],
        apis: vec![api],
        applications: (0..APPLICATIONS).map(application).collect(),
        subscriptions: (0..APPLICATIONS).map(subscription).collect(),
        keys: (0..KEYS).map(key).collect(),
        ..Config::default()
    }
}

fn generation(number: u64) -> Generation {
    Generation { source: "bench".into(), number }
}

fn keys(criterion: &mut Criterion) {
    let first = Snapshot::check(config()).expect("the bench's configuration is sound");
    let mut group = criterion.benchmark_group("a million keys");
    group.sample_size(20);
    let hashes: Vec<SecretHash> = (0..KEYS).step_by(997).map(|at| SecretHash::of(&secret(at))).collect();
    let mut next = 0;
    group.bench_function("look one up", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % hashes.len();
            black_box(first.key(&hashes[next]).is_some())
        });
    });
    let unknown = SecretHash::of("nobody's");
    group.bench_function("look up what is not there", |bencher| {
        bencher.iter(|| first.key(black_box(&unknown)).is_none())
    });
    let current = Tables::build(generation(1), &first, None).expect("nothing here speaks TLS");
    let entry = current.api("chat", "v1").expect("the API is published").clone();
    let grants: Vec<Grant> = (0..KEYS).step_by(997).map(grant).collect();
    group.bench_function("whether a grant stands", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % grants.len();
            standing::check(&current, &entry, black_box(&grants[next]), now_of_bench()).expect("it stands")
        });
    });
    let mut config = first.to_config();
    config.keys[KEYS / 2].enabled = false;
    let second = Snapshot::check(config).expect("sound");
    let digests: HashSet<_> = first.list().into_iter().map(|(_, digest)| digest).collect();
    let delta = Message::Push(Push::new(generation(2), &second, &digests)).encode().expect("a push fits an envelope");
    drop(second);
    println!("one key of {KEYS} changed: a push of {} bytes", delta.len());
    group.bench_function("take over a generation with one changed", |bencher| {
        bencher.iter_with_large_drop(|| {
            let Ok(Message::Push(push)) = Message::decode(&delta[PREFIX_BYTES..]) else { panic!("not a push") };
            let (_, snapshot) = push.assemble(Some(&first)).expect("the push is sound");
            let tables = Tables::build(generation(2), &snapshot, Some(&current)).expect("nothing here speaks TLS");
            (snapshot, tables)
        });
    });
    group.finish();
}

fn now_of_bench() -> u64 {
    1_800_000_000
}

fn grant(at: usize) -> Grant {
    Grant {
        form: CredentialForm::ApiKey,
        proof: Proof::Key(SecretHash::of(&secret(at))),
        client: None,
        application: Some(format!("app-{}", at % APPLICATIONS).into()),
        user: None,
        environment: Some(Environment::Production),
        scopes: Box::default(),
        issued_s: 0,
        expires_ms: u64::MAX,
        word: Word::default(),
    }
}

/// Both planes of the executable, without keys and with a million of them in the database.
fn weigh() {
    let mut gateway = Setup::new(Variant::Automatic).start();
    let resident = |pid: u32| machine::anonymous_bytes(pid) as f64 / (1 << 20) as f64;
    let state = gateway.setup().directory().join("state-controlplane");
    std::thread::sleep(Duration::from_secs(1));
    let before = [gateway.pid(), gateway.control_plane_pid()].map(resident);
    gateway.kill_data_plane();
    gateway.kill_control_plane();
    fill(&state);
    let begun = Instant::now();
    gateway.start_control_plane();
    gateway.start_data_plane();
    until("the data plane has the keys", || gateway.verb("status", &["--json"]).code == 0);
    let started = begun.elapsed();
    std::thread::sleep(Duration::from_secs(2));
    let after = [gateway.pid(), gateway.control_plane_pid()].map(resident);
    println!("{KEYS} keys in the database; both planes serve them {:.1} s after their start", started.as_secs_f64());
    for (plane, before, after) in [("data plane", before[0], after[0]), ("control plane", before[1], after[1])] {
        let each = (after - before) * f64::from(1 << 20) / KEYS as f64;
        println!("{plane:<14} {before:>8.1} MiB without, {after:>8.1} MiB with: {each:.0} bytes a key");
    }
}

/// Writes the keys, and the applications that they are of, as rows.
fn fill(state: &std::path::Path) {
    let database = state.join("catalogue.db");
    let mut connection = rusqlite::Connection::open(database).expect("the database is there");
    let transaction = connection.transaction().expect("nobody else writes");
    let sql = "INSERT INTO objects (kind, id, application, secret, enabled, created_s, updated_s, value)
        VALUES (?1, ?2, ?3, ?4, 1, 0, 0, ?5)";
    {
        let mut statement = transaction.prepare(sql).expect("a statement");
        for at in 0..APPLICATIONS {
            let name = format!("app-{at}");
            let value = serde_json::json!({ "name": name }).to_string();
            statement
                .execute(rusqlite::params!["application", name, None::<String>, None::<Vec<u8>>, value])
                .expect("a row");
        }
        for at in 0..KEYS {
            let key = key(at);
            let value = serde_json::to_string(&key).expect("JSON");
            let application = Some(key.application.to_string());
            let hash = Some(key.sha256.0.to_vec());
            statement.execute(rusqlite::params!["key", &*key.name, application, hash, value]).expect("a row");
        }
    }
    transaction.commit().expect("the rows are kept");
}
