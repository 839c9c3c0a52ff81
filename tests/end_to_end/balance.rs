//! Has every worker its share, however long sessions stay, and is nobody lost who goes from one worker to another?

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::drills::raise_descriptors;
use crate::kit::gateway::{http_get, series};
use crate::kit::{
    EchoBackend, Frame, Gateway, Opcode, Peer, Port, Random, Setup, Upgrade, Variant, on_both_drivers, until,
};

on_both_drivers!(
    the_fullest_worker_is_near_the_mean_after_most_have_come_anew,
    a_listener_that_goes_and_a_drain_lose_nobody_who_was_handed_over,
    configurations_that_change_lose_nobody_who_is_being_handed_over,
);

/// Live sessions by worker.
#[track_caller]
fn sessions(gateway: &Gateway) -> BTreeMap<String, usize> {
    let (status, text) = gateway.ask("/metrics").expect("the operator's listener answers");
    assert_eq!(status, 200, "{text}");
    let series = series(&text).into_iter();
    series
        .filter(|(name, _)| name.starts_with("framegate_worker_sessions{"))
        .map(|(name, value)| (name, value as usize))
        .collect()
}

#[track_caller]
fn until_sessions(gateway: &Gateway, count: usize) {
    until(&format!("{count} sessions are open"), || sessions(gateway).values().sum::<usize>() == count);
}

fn handed_over(gateway: &Gateway, listener: &str) -> f64 {
    gateway.metric("framegate_connections_handed_over_total", &[("listener", listener)])
}

fn open(gateway: &Gateway) -> Peer {
    let mut client = gateway.connect();
    client.upgrade("/chat");
    client
}

#[track_caller]
fn expect_echo(client: &mut Peer, word: &str) {
    client.send_frame(&Frame::text(word));
    client.expect(Opcode::TEXT, word.as_bytes());
}

fn the_fullest_worker_is_near_the_mean_after_most_have_come_anew(variant: Variant) {
    const WORKERS: usize = 8;
    const SESSIONS: usize = 1000;
    const RENEWED: usize = 900;
    raise_descriptors();
    let mut random = Random::announced("the fullest worker");
    let echo = EchoBackend::start();
    let mut gateway = Setup::new(variant).workers(WORKERS).api_to("chat", &echo.url("/"), "").start();
    let mut clients: Vec<_> = (0..SESSIONS).map(|_| open(&gateway)).collect();
    until_sessions(&gateway, SESSIONS);
    let expect_even = |gateway: &Gateway| {
        let shares = sessions(gateway);
        assert_eq!(shares.len(), WORKERS);
        let fullest = shares.values().max().expect("there are workers");
        assert!(fullest * WORKERS * 10 <= SESSIONS * 11, "{shares:?}");
        println!("{shares:?}");
    };
    expect_even(&gateway);
    for _ in 0..RENEWED {
        clients.swap_remove(random.below(clients.len()));
    }
    until_sessions(&gateway, SESSIONS - RENEWED);
    clients.extend((0..RENEWED).map(|_| open(&gateway)));
    until_sessions(&gateway, SESSIONS);
    expect_even(&gateway);
    println!("{} of {} were handed over", handed_over(&gateway, "public"), SESSIONS + RENEWED);
    clients.iter_mut().for_each(|client| expect_echo(client, "where am I?"));
    gateway.probe();
}

/// Two workers, of which one has so many more sessions that it hands over what it accepts: twenty, and nobody.
fn lopsided(variant: Variant, listener: &str) -> (Gateway, EchoBackend, Vec<Peer>) {
    const SURPLUS: usize = 24;
    let echo = EchoBackend::start();
    let setup = Setup::new(variant).workers(2).another_listener(listener).api_to("chat", &echo.url("/"), "");
    let gateway = setup.start();
    let mut by_worker = BTreeMap::<String, Vec<Peer>>::new();
    let mut before = sessions(&gateway);
    // Each is asked for by itself: so it shows whose it is.
    while by_worker.values().map(Vec::len).max().unwrap_or(0) < SURPLUS {
        let client = open(&gateway);
        let mut mine = None;
        until("it is counted", || {
            let now = sessions(&gateway);
            mine = now.iter().find(|(worker, count)| before[*worker] < **count).map(|(worker, _)| worker.clone());
            before = now;
            mine.is_some()
        });
        by_worker.entry(mine.expect("a worker")).or_default().push(client);
    }
    let fullest = by_worker.into_values().find(|clients| clients.len() == SURPLUS).expect("one is the fullest");
    until_sessions(&gateway, SURPLUS);
    (gateway, echo, fullest)
}

/// Clients that have been accepted, and have not said much yet.
#[track_caller]
fn in_the_door(gateway: &Gateway, listener: &str, connect: impl Fn() -> Peer) -> Vec<Peer> {
    const COUNT: usize = 24;
    let accepted = || gateway.metric("framegate_connections_accepted_total", &[("listener", listener)]) as usize;
    let (accepted_before, handed_before) = (accepted(), handed_over(gateway, listener));
    let mut waiting: Vec<_> = (0..COUNT).map(|_| connect()).collect();
    for client in &mut waiting {
        client.send(b"G");
    }
    until("all are accepted", || accepted() == accepted_before + COUNT);
    assert!(handed_over(gateway, listener) > handed_before, "nobody was handed over");
    waiting
}

fn a_listener_that_goes_and_a_drain_lose_nobody_who_was_handed_over(variant: Variant) {
    let side = Port::free();
    let (mut gateway, _echo, mut sessions) = lopsided(variant, &format!("name: side, bind: \"{}\"", side.address()));
    let mut waiting = in_the_door(&gateway, "side", || Peer::connect(side.address()));
    let yaml = gateway.setup().yaml();
    let without: String =
        yaml.lines().filter(|line| !line.contains("name: side")).map(|line| format!("{line}\n")).collect();
    let applied = gateway.apply(&without);
    assert_eq!(applied.code, 0, "{}{}", applied.stdout, applied.stderr);
    until("the door is closed", || std::net::TcpStream::connect(side.address()).is_err());
    let rest = &Upgrade::to("/chat").encode()[1..];
    for client in &mut waiting {
        client.send(rest);
        client.upgraded();
        expect_echo(client, "what door?");
    }
    // They have evened out what was lopsided.
    drop(waiting);
    until_sessions(&gateway, sessions.len());
    let mut waiting = in_the_door(&gateway, "public", || gateway.connect());
    gateway.signal(libc::SIGTERM);
    until("it drains", || gateway.ask("/ready").is_some_and(|(status, _)| status == 503));
    for client in &mut waiting {
        client.send(rest);
        assert_eq!(client.refused().status, 503);
    }
    for client in &mut sessions {
        client.expect_close(1012);
    }
    drop((sessions, waiting));
    assert_eq!(gateway.ended().code(), Some(0));
}

fn configurations_that_change_lose_nobody_who_is_being_handed_over(variant: Variant) {
    const ROUNDS: usize = 12;
    let side = Port::free();
    let (mut gateway, _echo, sessions) = lopsided(variant, &format!("name: side, bind: \"{}\"", side.address()));
    let yaml = gateway.setup().yaml();
    let renamed: String = yaml
        .lines()
        .filter(|line| !line.contains("name: side"))
        .map(|line| format!("{}\n", line.replace("name: public", "name: front")))
        .collect();
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let crowd: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let mut client = open(&gateway);
                        expect_echo(&mut client, "is anybody there?");
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for round in 0..ROUNDS {
            let applied = gateway.apply(if round % 2 == 0 { &renamed } else { &yaml });
            assert_eq!(applied.code, 0, "{}{}", applied.stdout, applied.stderr);
            let target = served.load(Ordering::Relaxed) + 20;
            until("they are served", || {
                served.load(Ordering::Relaxed) >= target || crowd.iter().any(thread::ScopedJoinHandle::is_finished)
            });
        }
        done.store(true, Ordering::Relaxed);
    });
    let handed_over = handed_over(&gateway, "public") + handed_over(&gateway, "front");
    println!("{handed_over} of {} were handed over", served.load(Ordering::Relaxed));
    assert!(handed_over > 20.0, "{handed_over}");
    assert_eq!(http_get(gateway.address(), "/health").expect("an answer").0, 200);
    drop(sessions);
    gateway.probe();
}
