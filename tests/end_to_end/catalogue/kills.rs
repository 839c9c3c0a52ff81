//! The control plane is killed in the midst of writes: what it has acknowledged is there, and the database is whole.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::kit::{DEADLINE, Gateway, Random, Setup, Variant, aloud, until_some};

const KILLS: usize = 24;
const WRITERS: usize = 4;
/// A control plane is killed at most so long after its admin socket answers; now and then at once.
const LIVES_MS_MAX: usize = 250;

/// What an object may be after a kill: what was acknowledged last, or what was being written. `None`: not there.
#[derive(Debug, Clone, Default)]
struct Fate {
    acknowledged: Option<u64>,
    attempted: Option<Option<u64>>,
}

/// The fate of every object that a writer has ever touched, by kind and id.
type Fates = BTreeMap<(&'static str, String), Fate>;

/// A connection to the admin API.
struct Admin(BufReader<UnixStream>);

impl Admin {
    fn connect(socket: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        Some(Self(BufReader::new(stream)))
    }

    /// Waits until a control plane has published something.
    fn ready(socket: &Path) -> Self {
        until_some("the admin socket answers", || {
            let mut admin = Self::connect(socket)?;
            admin.ask("GET", "/generation", None).filter(|(status, _)| *status == 200)?;
            Some(admin)
        })
    }

    /// Status and body; `None` where the answer did not come whole.
    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all((head + &body).as_bytes()).ok()?;
        let mut line = String::new();
        self.0.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).ok().filter(|read| *read > 0)?;
            match line.trim_end().split_once(':') {
                None => break,
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().ok()?
                }
                Some(_) => {}
            }
        }
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).ok()?;
        Some((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }
}

/// One writer's life: until the control plane is gone.
fn write(socket: &Path, writer: usize, mut random: Random, mut fates: Fates) -> Fates {
    let Some(mut admin) = Admin::connect(socket) else { return fates };
    loop {
        let version = random.number() >> 1;
        let number = random.below(40);
        let user = format!("w{writer}-{number}");
        let outcome = match random.below(10) {
            0..=4 => put(&mut admin, &mut fates, user, version),
            5..=6 => delete(&mut admin, &mut fates, user),
            7 => revoke(&mut admin, &mut fates, format!("user:w{writer}-{version}")),
            _ => together(&mut admin, &mut fates, &format!("w{writer}-{version}")),
        };
        if outcome.is_none() {
            return fates;
        }
    }
}

fn put(admin: &mut Admin, fates: &mut Fates, user: String, version: u64) -> Option<()> {
    let fate = fates.entry(("user", user.clone())).or_default();
    fate.attempted = Some(Some(version));
    let body = json!({ "name": user, "scopes": [format!("v{version}")] });
    let (status, answer) = admin.ask("PUT", &format!("/users/{user}"), Some(&body))?;
    assert!(matches!(status, 200 | 201), "{status} {answer}");
    *fate = Fate { acknowledged: Some(version), attempted: None };
    Some(())
}

fn delete(admin: &mut Admin, fates: &mut Fates, user: String) -> Option<()> {
    let fate = fates.entry(("user", user.clone())).or_default();
    let may_be_absent = fate.acknowledged.is_none() || fate.attempted == Some(None);
    fate.attempted = Some(None);
    let (status, answer) = admin.ask("DELETE", &format!("/users/{user}"), None)?;
    assert!(matches!(status, 200 | 204) || status == 404 && may_be_absent, "{user}: {status} {answer}");
    *fate = Fate::default();
    Some(())
}

fn revoke(admin: &mut Admin, fates: &mut Fates, revoked: String) -> Option<()> {
    let fate = fates.entry(("revocation", revoked.clone())).or_default();
    fate.attempted = Some(Some(0));
    let (status, answer) = admin.ask("POST", "/revocations", Some(&json!({ "revoked": revoked })))?;
    assert_eq!(status, 201, "{answer}");
    *fate = Fate { acknowledged: Some(0), attempted: None };
    Some(())
}

/// An application, its subscription and its key: all or none.
fn together(admin: &mut Admin, fates: &mut Fates, name: &str) -> Option<()> {
    let objects =
        [("application", name.to_owned()), ("subscription", format!("{name}/probe")), ("key", name.to_owned())];
    for object in &objects {
        fates.entry(object.clone()).or_default().attempted = Some(Some(0));
    }
    let batch = json!({ "changes": [
        { "kind": "application", "put": { "name": name } },
        { "kind": "subscription", "put": { "application": name, "api": "probe" } },
        { "kind": "key", "put": { "name": name, "application": name } },
    ] });
    let (status, answer) = admin.ask("POST", "/batch", Some(&batch))?;
    assert_eq!(status, 200, "{answer}");
    for object in objects {
        fates.insert(object, Fate { acknowledged: Some(0), attempted: None });
    }
    Some(())
}

/// Opens the database that a killed control plane left, as the next one would, and compares it with what was told.
fn inspect(database: &Path, fates: &[Fates]) {
    let connection = Connection::open(database).expect("the database can be opened");
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a verdict");
    assert_eq!(verdict, "ok");
    let mut statement = connection.prepare("SELECT kind, id, value FROM objects").expect("the table is there");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("rows");
    let found: BTreeMap<(String, String), String> =
        rows.map(|row| row.expect("a row")).map(|(kind, id, value)| ((kind, id), value)).collect();
    for ((kind, id), fate) in fates.iter().flatten() {
        let value = found.get(&((*kind).to_owned(), id.clone())).map(|text| {
            let value: Value = serde_json::from_str(text).expect("what is stored is JSON");
            let version = value["scopes"][0].as_str().and_then(|scope| scope.strip_prefix('v')?.parse().ok());
            version.unwrap_or(0)
        });
        let may_be = value == fate.acknowledged || fate.attempted.is_some_and(|attempted| value == attempted);
        assert!(may_be, "{kind} {id} is {value:?}, and was to be {fate:?}");
    }
    for (_, name) in found.keys().filter(|(kind, _)| kind == "application") {
        let is_there = |kind: &str, id: String| found.contains_key(&(kind.to_owned(), id));
        assert!(
            is_there("key", name.clone()) && is_there("subscription", format!("{name}/probe")),
            "{name} came in part"
        );
    }
    let fates = fates.iter().flatten().count();
    assert!(found.len() <= fates, "{} objects, of {fates} that were ever written", found.len());
}

/// What the attempts came to is known once the control plane is there again.
fn settle(admin: &mut Admin, fates: &mut Fates) {
    for ((kind, id), fate) in fates.iter_mut().filter(|(_, fate)| fate.attempted.is_some()) {
        let path = match *kind {
            "subscription" => format!("/subscriptions/{id}"),
            kind => format!("/{kind}s/{id}"),
        };
        let (status, answer) = admin.ask("GET", &path, None).expect("the control plane answers");
        let value = match status {
            404 => None,
            200 => Some(answer["scopes"][0].as_str().and_then(|scope| scope[1..].parse().ok()).unwrap_or(0)),
            other => panic!("{path}: {other} {answer}"),
        };
        assert!(value == fate.acknowledged || Some(value) == fate.attempted, "{kind} {id} is {value:?}, not {fate:?}");
        *fate = Fate { acknowledged: value, attempted: None };
    }
}

fn admin_of(gateway: &Gateway) -> PathBuf {
    gateway.setup().control_path().with_file_name("admin.sock")
}

#[test]
fn a_control_plane_that_is_killed_in_the_midst_of_writes_loses_nothing_that_it_has_acknowledged() {
    let mut random = Random::announced("kills");
    let mut gateway = Setup::new(Variant::Automatic).start();
    let socket = admin_of(&gateway);
    let database = gateway.setup().directory().join("state-controlplane/catalogue.db");
    let mut fates = vec![Fates::new(); WRITERS];
    for kill in 0..KILLS {
        let mut admin = Admin::ready(&socket);
        fates.iter_mut().for_each(|fates| settle(&mut admin, fates));
        let writers: Vec<_> = std::mem::take(&mut fates)
            .into_iter()
            .enumerate()
            .map(|(writer, fates)| {
                let (socket, random) = (socket.clone(), Random::fixed(random.number()));
                std::thread::spawn(move || write(&socket, writer, random, fates))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(random.below(LIVES_MS_MAX) as u64));
        gateway.kill_control_plane();
        fates = writers.into_iter().map(|writer| writer.join().expect("what was acknowledged is there")).collect();
        // Otherwise the next control plane is the first to open it.
        if kill % 2 == 0 {
            inspect(&database, &fates);
        }
        gateway.start_control_plane();
    }
    let mut admin = Admin::ready(&socket);
    fates.iter_mut().for_each(|fates| settle(&mut admin, fates));
    let known = fates.iter().flatten().filter(|(_, fate)| fate.acknowledged.is_some()).count();
    let written = fates.iter().map(Fates::len).sum::<usize>();
    // What is published is what is stored.
    let status = gateway.verb("status", &["--json"]).json();
    let stored: u64 = status["objects"].as_array().into_iter().flatten().filter_map(|one| one["stored"].as_u64()).sum();
    let total: u64 = status["objects"].as_array().into_iter().flatten().filter_map(|one| one["total"].as_u64()).sum();
    assert_eq!((stored, total), (known as u64, known as u64 + 1), "and the API of the probe: {status}");
    gateway.kill_control_plane();
    inspect(&database, &fates);
    aloud(&format!("{KILLS} kills amid {WRITERS} writers: {written} objects written, {known} there, none lost"));
    assert!(known > 100, "so few writes prove nothing");
}
