//! The resolver with a scripted name server on loopback, asked from a monoio worker and from plain threads.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;
use std::time::SystemTime;

use super::super::{Bridge, Parts};
use super::*;
use crate::health::Health;
use crate::record::{Log, LogTarget, Record};

const MINUTE: Duration = Duration::from_secs(60);

/// A name server that knows `found.test` (one A, one AAAA, TTL 60) and `v4.test`, says that `absent.test` does not
/// exist, is slow about `slow.test`, and says nothing at all while it is mute or about any other name.
struct NameServer {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    mute: Arc<AtomicBool>,
}

impl NameServer {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = Self { address: socket.local_addr().unwrap(), asked: Arc::default(), mute: Arc::default() };
        let (asked, mute) = (Arc::clone(&server.asked), Arc::clone(&server.mute));
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                asked.fetch_add(1, Relaxed);
                if mute.load(Relaxed) {
                    continue;
                }
                if let Some(answer) = answer(&buffer[..length]) {
                    socket.send_to(&answer, peer).unwrap();
                }
            }
        });
        server
    }
}

/// RFC 1035 §4.1: header, question, answers; names in answers point at the question.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..end].to_ascii_lowercase()).unwrap());
        at = end;
    }
    let (record_type, end) = (query[at + 2], at + 5);
    let (code, answers): (u8, Vec<Vec<u8>>) = match (labels.join(".").as_str(), record_type) {
        ("found.test", 28) => (0, vec![[vec![0; 15], vec![1]].concat()]),
        ("found.test" | "v4.test" | "slow.test", 1) => {
            if labels[0] == "slow" {
                thread::sleep(Duration::from_millis(300));
            }
            (0, vec![vec![10, 0, 0, 1]])
        }
        ("v4.test" | "slow.test", _) => (0, vec![]),
        ("absent.test", _) => (3, vec![]),
        _ => return None,
    };
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, answers.len() as u8, 0, 0, 0, 0]);
    reply.extend(&query[12..end]);
    for data in answers {
        reply.extend([0xc0, 12, 0, record_type, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        reply.extend(data);
    }
    Some(reply)
}

fn bridge(server: &NameServer, hosts: &str) -> (Bridge, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("hosts"), hosts).unwrap();
    let bridge = Bridge::start(Parts {
        operator: None,
        operator_hosts: Vec::new(),
        node: "edge-1".into(),
        record: Record::new(1, 10),
        health: Arc::new(Health::new(Instant::now(), SystemTime::now())),
        log: Log::open(LogTarget::Off).unwrap().0,
        name_servers: NameServers {
            servers: vec![server.address],
            resolv_conf: directory.path().join("resolv.conf"),
            hosts: directory.path().join("hosts"),
        },
    });
    (bridge.unwrap(), directory)
}

/// Asks from a worker's runtime, with a timer ticking beside: neither may block the other.
fn ask(resolver: &Resolver, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
    let mut runtime =
        monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().with_entries(32).build().unwrap();
    runtime.block_on(async { resolver.resolve(name, MINUTE).await.map(|addresses| addresses.to_vec()) })
}

fn v4() -> Vec<IpAddr> {
    vec![[10, 0, 0, 1].into()]
}

#[test]
fn both_families_are_asked_and_the_answer_is_kept() {
    let server = NameServer::start();
    let (bridge, _directory) = bridge(&server, "");
    let both = [v4(), vec!["::1".parse().unwrap()]].concat();
    assert_eq!(ask(&bridge.resolver(), "Found.Test."), Ok(both.clone()));
    let asked = server.asked.load(Relaxed);
    assert_eq!(ask(&bridge.resolver(), "found.test"), Ok(both));
    assert_eq!(server.asked.load(Relaxed), asked);
    assert_eq!(ask(&bridge.resolver(), "v4.test"), Ok(v4()));
    assert_eq!(bridge.resolver().counts().by_outcome()[0], ("found", 2));
    assert_eq!(bridge.resolver().counts().names(), 2);
    bridge.stop();
}

#[test]
fn absence_is_told_and_remembered() {
    let server = NameServer::start();
    let (bridge, _directory) = bridge(&server, "");
    assert_eq!(ask(&bridge.resolver(), "absent.test"), Err(ResolveError::Absent));
    let asked = server.asked.load(Relaxed);
    assert_eq!(ask(&bridge.resolver(), "absent.test"), Err(ResolveError::Absent));
    assert_eq!(server.asked.load(Relaxed), asked);
    bridge.stop();
}

#[test]
fn addresses_and_the_hosts_file_need_no_name_server() {
    let server = NameServer::start();
    let (bridge, directory) = bridge(&server, "192.0.2.7 box\n");
    assert_eq!(ask(&bridge.resolver(), "127.0.0.1"), Ok(vec![[127, 0, 0, 1].into()]));
    assert_eq!(ask(&bridge.resolver(), "::1"), Ok(vec!["::1".parse().unwrap()]));
    assert_eq!(ask(&bridge.resolver(), "BOX"), Ok(vec![[192, 0, 2, 7].into()]));
    assert_eq!(server.asked.load(Relaxed), 0);
    drop(directory);
    bridge.stop();
}

#[test]
fn the_systems_own_hosts_file_is_understood() {
    let names = NameServers::default();
    let text = std::fs::read_to_string(names.hosts).unwrap_or_default();
    if text.split_ascii_whitespace().any(|word| word == "localhost") {
        let bridge = Bridge::start(Parts {
            operator: None,
            operator_hosts: Vec::new(),
            node: "edge-1".into(),
            record: Record::new(1, 10),
            health: Arc::new(Health::new(Instant::now(), SystemTime::now())),
            log: Log::open(LogTarget::Off).unwrap().0,
            name_servers: NameServers::default(),
        })
        .unwrap();
        assert!(ask(&bridge.resolver(), "localhost").unwrap().iter().all(IpAddr::is_loopback));
        bridge.stop();
    }
}

#[test]
fn many_who_ask_for_one_name_are_one_question() {
    let server = NameServer::start();
    let (bridge, _directory) = bridge(&server, "");
    let askers: Vec<_> = (0..8)
        .map(|_| {
            let resolver = bridge.resolver();
            thread::spawn(move || ask(&resolver, "slow.test"))
        })
        .collect();
    for asker in askers {
        assert_eq!(asker.join().unwrap(), Ok(v4()));
    }
    assert_eq!(bridge.resolver().counts().by_outcome()[0], ("found", 1));
    bridge.stop();
}

#[test]
fn a_name_server_that_is_mute_costs_at_most_the_deadline_and_a_stale_answer_serves() {
    let server = NameServer::start();
    let (bridge, _directory) = bridge(&server, "");
    let resolver = bridge.resolver();
    assert_eq!(ask(&resolver, "v4.test"), Ok(v4()));
    server.mute.store(true, Relaxed);
    let begun = Instant::now();
    assert_eq!(ask(&resolver, "other.test"), Err(ResolveError::Failed));
    assert!(begun.elapsed() < lookup::LOOKUP_DEADLINE + Duration::from_secs(2), "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(ask(&resolver, "other.test"), Err(ResolveError::Failed));
    assert!(begun.elapsed() < Duration::from_secs(1), "the failure is remembered for a while");
    // Two seconds have passed at least; an asker who accepts one is given the last answer, for lack of a better.
    let mut runtime =
        monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().with_entries(32).build().unwrap();
    let stale = runtime.block_on(resolver.resolve("v4.test", Duration::from_secs(1)));
    assert_eq!(stale.unwrap().to_vec(), v4());
    assert_eq!(resolver.counts().by_outcome()[2], ("failed", 2));
    bridge.stop();
}

#[test]
fn who_asks_when_the_bridge_has_stopped_is_told_at_once() {
    let server = NameServer::start();
    let (bridge, _directory) = bridge(&server, "");
    let resolver = bridge.resolver();
    bridge.stop();
    assert_eq!(ask(&resolver, "v4.test"), Err(ResolveError::Away));
}
