//! The control plane is killed amid what clients do at the token endpoint: what was answered holds afterwards.

use std::net::SocketAddr;
use std::time::Duration;

use rusqlite::Connection;

use super::{Answer, CLIENT, House, basic, post, secret, try_exchange};
use crate::kit::people::{People, sha256};
use crate::kit::{Random, Setup, Variant, aloud};

const KILLS: usize = 16;
const WRITERS: [&str; 3] = ["first", "second", "third"];
/// A control plane is killed at most so long after its token endpoint answers; now and then at once.
const LIVES_MS_MAX: usize = 300;
/// Grants of one writer: fewer than the ceiling, at which the oldest would go.
const GRANTS_MAX: usize = 40;

/// What came of one grant and is good, as far as it was answered.
#[derive(Debug, Default)]
struct Grant {
    /// Its refresh token; none, where a request with it had no answer.
    refresh: Option<String>,
    access: Vec<String>,
}

/// What one writer was told.
#[derive(Debug, Default)]
struct Told {
    grants: Vec<Grant>,
    /// Tokens that are good no more: revoked, or used.
    gone: Vec<String>,
    answers: usize,
}

/// A whole answer that is a yes; none, where the control plane has gone before it had come.
fn ask(address: SocketAddr, page: &str, client: &str, form: &str) -> Option<Answer> {
    let answer = try_exchange(address, &post(page, Some(&basic(client, &secret(client))), form))?;
    let length: usize = answer.header("content-length")?.parse().ok()?;
    (answer.body.len() == length).then_some(())?;
    assert_eq!(answer.status, 200, "{page}: {answer:?}");
    Some(answer)
}

fn tokens(answer: &Answer) -> (String, String) {
    let answer = answer.json();
    let text = |member: &str| answer[member].as_str().expect("a token").to_owned();
    (text("access_token"), text("refresh_token"))
}

/// One writer's life: until the control plane is gone.
fn write(address: SocketAddr, client: &str, mut random: Random, mut told: Told) -> Told {
    loop {
        let at = random.below(told.grants.len().max(1));
        let has_room = told.grants.len() < GRANTS_MAX;
        let done = match random.below(10) {
            0..=3 if has_room => issue(address, client, &mut told),
            0..=6 => refresh(address, client, &mut told, at),
            7..=8 => revoke_access(address, client, &mut told, at),
            _ => revoke_grant(address, client, &mut told, at),
        };
        match done {
            None => return told,
            Some(()) => told.answers += 1,
        }
    }
}

fn issue(address: SocketAddr, client: &str, told: &mut Told) -> Option<()> {
    let (access, refresh) = tokens(&ask(address, "token", client, CLIENT)?);
    told.grants.push(Grant { refresh: Some(refresh), access: vec![access] });
    Some(())
}

fn refresh(address: SocketAddr, client: &str, told: &mut Told, at: usize) -> Option<()> {
    let Some(grant) = told.grants.get_mut(at) else { return issue(address, client, told) };
    // Without an answer it may have been used, or not.
    let Some(old) = grant.refresh.take() else { return revoke_access(address, client, told, at) };
    let answer = ask(address, "token", client, &format!("grant_type=refresh_token&refresh_token={old}"))?;
    let (access, refresh) = tokens(&answer);
    grant.access.push(access);
    grant.refresh = Some(refresh);
    told.gone.push(old);
    Some(())
}

fn revoke_access(address: SocketAddr, client: &str, told: &mut Told, at: usize) -> Option<()> {
    let token = told.grants.get_mut(at).and_then(|grant| grant.access.pop());
    let Some(token) = token else { return revoke_grant(address, client, told, at) };
    ask(address, "revoke", client, &format!("token={token}"))?;
    told.gone.push(token);
    Some(())
}

fn revoke_grant(address: SocketAddr, client: &str, told: &mut Told, at: usize) -> Option<()> {
    if told.grants.len() <= at {
        return issue(address, client, told);
    }
    let grant = told.grants.swap_remove(at);
    let Some(refresh) = grant.refresh else { return Some(()) };
    ask(address, "revoke", client, &format!("token={refresh}"))?;
    told.gone.extend(grant.access);
    told.gone.push(refresh);
    Some(())
}

/// Compares what was told with what is so.
fn verify(house: &House, client: &str, told: &Told, gone_from: usize) {
    let is_active = |token: &String| {
        let answer = ask(house.address(), "introspect", client, &format!("token={token}")).expect("an answer");
        answer.json()["active"].as_bool().expect("a truth")
    };
    for grant in &told.grants {
        let lost: Vec<_> = grant.refresh.iter().chain(&grant.access).filter(|token| !is_active(token)).collect();
        assert!(lost.is_empty(), "{client}: of {grant:?} these are lost: {lost:?}");
    }
    let risen: Vec<_> = told.gone[gone_from..].iter().filter(|token| is_active(token)).collect();
    assert!(risen.is_empty(), "{client}: revoked or used, and good again: {risen:?}");
}

#[test]
fn a_control_plane_that_is_killed_amid_tokens_keeps_what_it_has_answered() {
    let mut random = Random::announced("token kills");
    let grants = "scopes: [read], grants: [client_credentials, refresh_token]";
    let clients = WRITERS.map(|id| format!("{{ id: {id}, secret: {}, {grants} }}", sha256(&secret(id))));
    let people = People::new().entry("applications", format!("name: shop, clients: [{}]", clients.join(", ")));
    let mut house = House::with(Setup::new(Variant::Automatic).people(people), "");
    let database = house.gateway.setup().directory().join("state-controlplane/catalogue.db");
    let mut told: Vec<_> = WRITERS.iter().map(|_| Told::default()).collect();
    for _ in 0..KILLS {
        let before: Vec<_> = told.iter().map(|told| told.gone.len()).collect();
        let address = house.address();
        let writers: Vec<_> = std::mem::take(&mut told)
            .into_iter()
            .zip(WRITERS)
            .map(|(told, client)| {
                let random = Random::fixed(random.number());
                std::thread::spawn(move || write(address, client, random, told))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(random.below(LIVES_MS_MAX) as u64));
        house.gateway.kill_control_plane();
        told = writers.into_iter().map(|writer| writer.join().expect("what was answered holds")).collect();
        house.gateway.start_control_plane();
        house.wait();
        for ((client, told), gone_from) in WRITERS.into_iter().zip(&told).zip(before) {
            verify(&house, client, told, gone_from);
        }
    }
    WRITERS.into_iter().zip(&told).for_each(|(client, told)| verify(&house, client, told, 0));
    house.gateway.kill_control_plane();
    let connection = Connection::open(database).expect("the database can be opened");
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a verdict");
    assert_eq!(verdict, "ok");
    // What is counted of each client is what is there.
    let wrong = "SELECT count(*) FROM (SELECT client, count(*) AS fresh FROM refresh_tokens WHERE is_used = 0
         GROUP BY client) AS counted FULL JOIN refresh_token_counts AS told USING (client)
         WHERE counted.fresh IS NOT told.fresh";
    assert_eq!(connection.query_row(wrong, [], |row| row.get::<_, i64>(0)).expect("a number"), 0);
    let (answers, gone): (usize, usize) =
        (told.iter().map(|one| one.answers).sum(), told.iter().map(|one| one.gone.len()).sum());
    aloud(&format!("{KILLS} kills amid {} clients: {answers} answers, {gone} tokens ended, none lost", WRITERS.len()));
    assert!(answers > 100 && gone > 30, "so few requests prove nothing: {answers}, {gone}");
}
