//! Raw requests against a running bridge: what comes back is read to the end of the connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::SystemTime;

use proto::control::message::Generation;

use super::super::{Bridge, NameServers, Parts};
use super::*;
use crate::record::LogTarget;

struct Bench {
    bridge: Bridge,
    address: SocketAddr,
    health: Arc<Health>,
}

fn bench() -> Bench {
    let operator = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = operator.local_addr().unwrap();
    let health = Arc::new(Health::new(Instant::now(), SystemTime::now()));
    let bridge = Bridge::start(Parts {
        operator: Some(operator),
        operator_hosts: vec!["metrics.example.com".into()],
        node: "edge-1".into(),
        record: Record::new(1, 10),
        health: Arc::clone(&health),
        log: Log::open(LogTarget::Off).unwrap().0,
        name_servers: NameServers::default(),
    });
    Bench { bridge: bridge.unwrap(), address, health }
}

impl Bench {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Status, and everything else.
    fn send(&self, request: &str) -> (u16, String) {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, answer)
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address))
    }
}

#[test]
fn it_is_up_before_any_snapshot_and_ready_with_one_and_not_while_draining() {
    let bench = bench();
    assert_eq!(bench.get("/health").0, 200);
    let (status, answer) = bench.get("/ready");
    assert!(status == 503 && answer.ends_with("no snapshot has been applied yet\n"), "{answer}");
    bench.health.serving(Generation { source: "s".into(), number: 1 });
    assert_eq!(bench.get("/ready").0, 200);
    bench.health.drain();
    let (status, answer) = bench.get("/ready");
    assert!(status == 503 && answer.ends_with("draining\n"), "{answer}");
    assert_eq!(bench.get("/health").0, 200);
    bench.bridge.stop();
}

#[test]
fn metrics_are_prometheus_text() {
    let bench = bench();
    let (status, answer) = bench.get("/metrics");
    assert_eq!(status, 200);
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nframegate_ready 0\n"), "{answer}");
    bench.bridge.stop();
}

#[test]
fn other_pages_and_methods_do_not_exist() {
    let bench = bench();
    assert_eq!(bench.get("/").0, 404);
    assert_eq!(bench.get("/health/").0, 404);
    assert_eq!(bench.send("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").0, 405);
    assert_eq!(bench.send("nonsense\r\n\r\n").0, 400);
    let (status, answer) = bench.send("HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(status == 200 && answer.ends_with("\r\n\r\n"), "{answer}");
    bench.bridge.stop();
}

#[test]
fn only_hosts_that_nobody_else_can_name_are_answered() {
    let bench = bench();
    for (head, status) in [
        ("Host: localhost:9901", 200),
        ("Host: LOCALHOST", 200),
        ("Host: 192.0.2.1:9901", 200),
        ("Host: [::1]:9901", 200),
        ("Host: edge-1:9901", 200),
        ("Host: metrics.example.com", 200),
        ("Host: evil.example.com:9901", 403),
        ("Host: localhost.evil.example.com", 403),
        ("Host: metrics.example.com.evil", 403),
        ("Host: ", 403),
        ("Host: localhost\r\nHost: evil.example.com", 400),
        ("X: y", 400),
        ("Host: localhost\r\nOrigin: http://localhost", 200),
        ("Host: localhost:9901\r\nOrigin: http://localhost:9901", 200),
        ("Host: localhost:9901\r\nOrigin: http://localhost:3000", 403),
        ("Host: localhost\r\nOrigin: https://localhost", 403),
        ("Host: localhost\r\nOrigin: null", 403),
        ("Host: localhost\r\nOrigin: http://evil.example.com", 403),
    ] {
        let (found, answer) = bench.send(&format!("GET /metrics HTTP/1.1\r\n{head}\r\n\r\n"));
        assert_eq!(found, status, "{head}: {answer}");
    }
    assert_eq!(bench.send("GET http://evil.example.com/health HTTP/1.1\r\nHost: localhost\r\n\r\n").0, 403);
    assert_eq!(bench.send("GET /health HTTP/1.0\r\n\r\n").0, 200, "a simple health check");
    bench.bridge.stop();
}

#[test]
fn a_caller_who_says_nothing_is_cut_and_others_are_served() {
    let bench = bench();
    let begun = Instant::now();
    let mut silent: Vec<_> = (0..OPERATOR_CONNECTIONS_MAX).map(|_| bench.connect()).collect();
    silent[0].write_all(b"GET /health HT").unwrap();
    // All places are taken; when the silent ones are cut, this one has its turn.
    assert_eq!(bench.get("/health").0, 200);
    assert!(begun.elapsed() < HEAD_TIMEOUT * 2, "{:?}", begun.elapsed());
    for stream in &mut silent {
        let mut rest = Vec::new();
        // An answer or none, an end or a reset: what matters is that it is over.
        let _ = stream.read_to_end(&mut rest);
    }
    bench.bridge.stop();
}

#[test]
fn a_port_that_is_taken_is_an_error_that_says_what_to_do() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = bind(taken.local_addr().unwrap()).unwrap_err();
    assert!(error.to_string().contains("--operator off"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}
