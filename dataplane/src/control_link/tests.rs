//! A scripted control plane on one end of a socket in a temporary directory, the link on the other.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use proto::control::message::{Ask, Usage, UsageAsked};
use proto::snapshot::{Api, Config, Listener, Target};
use serde_json::{Value, json};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// What the link asked of the process.
#[derive(Debug, PartialEq)]
enum Told {
    Applied(u64),
    Drained(Option<Duration>),
}

/// A process that serves whatever it is given, unless an API is called `unbindable` or `fatal`.
struct Process(Mutex<Sender<Told>>);

impl Apply for Process {
    fn apply(&self, generation: &Generation, snapshot: &Snapshot) -> Result<(), Vec<String>> {
        match snapshot.apis().find(|api| ["unbindable", "fatal"].contains(&api.name.as_str())) {
            Some(api) if api.name == "fatal" => panic!("a fault of ours, as the test wants it"),
            Some(_) => Err(vec!["/listeners/0: cannot bind".into(), "x".repeat(2 * REASON_BYTES_MAX)]),
            None => {
                self.0.lock().unwrap().send(Told::Applied(generation.number)).unwrap();
                Ok(())
            }
        }
    }

    fn report(&self) -> Report {
        Report { sessions: 7, ..Report::default() }
    }

    fn usage(&self, asked: &UsageAsked) -> Usage {
        Usage { total: u64::from(asked.rows_max), ..Usage::default() }
    }

    fn drain(&self, window: Option<Duration>) {
        self.0.lock().unwrap().send(Told::Drained(window)).unwrap();
    }
}

struct Bench {
    directory: tempfile::TempDir,
    listener: UnixListener,
    health: Arc<Health>,
    told: Receiver<Told>,
    link: Option<ControlLink>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.stop();
        }
    }
}

/// The control plane's end of one connection.
struct Office(UnixStream);

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (sender, told) = channel();
        let health = Arc::new(Health::new(Instant::now(), std::time::SystemTime::now()));
        let mut store = Store::open(&directory.path().join("state"), true).unwrap();
        let serving = store.load().unwrap();
        let parts = Parts {
            control: Control::Unix(path),
            node: "edge-1".into(),
            apply: Arc::new(Process(Mutex::new(sender))),
            store: Some(store),
            serving,
            health: Arc::clone(&health),
        };
        let link = Some(ControlLink::start(parts).unwrap());
        Self { directory, listener, health, told, link }
    }

    fn accept(&self) -> Office {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Office(stream)
    }

    /// Accepts and exchanges Hello and Welcome.
    fn greet(&self, report_every_ms: u64) -> (Office, Hello) {
        let mut office = self.accept();
        let Message::Hello(hello) = office.receive() else { panic!("a Hello comes first") };
        office.send(&Message::Welcome(Welcome {
            protocol: 1,
            software: "test".into(),
            report_every_ms,
            refused: None,
        }));
        (office, hello)
    }

    fn told(&self) -> Told {
        self.told.recv_timeout(PATIENCE).unwrap()
    }

    /// Whether this generation is what is stored, now or soon: the Ack does not wait for the disk.
    fn stores(&self, number: u64) -> bool {
        let until = Instant::now() + PATIENCE;
        while self.stored() != Some(number) && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        self.stored() == Some(number)
    }

    fn stored(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.directory.path().join("state/current")).ok()?;
        let current: Value = serde_json::from_str(text.lines().next()?).unwrap();
        current["generation"]["number"].as_u64()
    }
}

impl Office {
    fn send(&mut self, message: &Message) {
        self.0.write_all(&message.encode().unwrap()).unwrap();
    }

    fn receive(&mut self) -> Message {
        let mut prefix = [0; 4];
        self.0.read_exact(&mut prefix).unwrap();
        let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
        self.0.read_exact(&mut body).unwrap();
        Message::decode(&body).unwrap()
    }

    fn reject(&mut self) -> Reject {
        match self.receive() {
            Message::Reject(reject) => reject,
            other => panic!("a Reject was expected, not {other:?}"),
        }
    }

    fn ack(&mut self) -> u64 {
        match self.receive() {
            Message::Ack(ack) => ack.generation.number,
            other => panic!("an Ack was expected, not {other:?}"),
        }
    }

    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]), Ok(0))
    }
}

fn generation(number: u64) -> Generation {
    Generation { source: "office".into(), number }
}

fn snapshot(api: &str) -> Snapshot {
    let endpoint = Target::Url("ws://127.0.0.1:9001/".parse().unwrap());
    let config = Config {
        version: 1,
        listeners: vec![Listener::new("public", "127.0.0.1:8080".parse().unwrap())],
        apis: vec![Api::new(api, "", "/api", endpoint)],
        ..Config::default()
    };
    Snapshot::check(config).unwrap()
}

fn push(number: u64, api: &str) -> Push {
    Push::new(generation(number), &snapshot(api), &Default::default())
}

#[test]
fn a_good_push_is_served_stored_and_acknowledged() {
    let bench = Bench::new();
    let (mut office, hello) = bench.greet(0);
    assert_eq!((hello.node.as_str(), hello.applied, hello.sections.len()), ("edge-1", None, 0));
    office.send(&Message::Push(push(1, "a")));
    assert_eq!(office.ack(), 1);
    assert_eq!(bench.told(), Told::Applied(1));
    assert!(bench.stores(1));
    assert_eq!(bench.health.generation(), Some(generation(1)));
}

#[test]
fn a_push_may_leave_out_what_the_node_holds() {
    let bench = Bench::new();
    let (mut office, _) = bench.greet(0);
    office.send(&Message::Push(push(1, "a")));
    assert_eq!(office.ack(), 1);
    let held = snapshot("a").list().into_iter().map(|(_, digest)| digest).collect();
    let second = Push::new(generation(2), &snapshot("b"), &held);
    assert_eq!(second.bodies.len(), 1);
    office.send(&Message::Push(second));
    assert_eq!(office.ack(), 2);
    assert!(bench.stores(2));
}

#[test]
fn what_cannot_be_served_is_rejected_with_every_reason_and_the_old_stays() {
    let bench = Bench::new();
    let (mut office, _) = bench.greet(0);
    office.send(&Message::Push(push(1, "a")));
    assert_eq!(office.ack(), 1);

    office.send(&Message::Push(push(2, "unbindable")));
    let reject = office.reject();
    assert_eq!((reject.generation.number, reject.reasons.len()), (2, 2));
    assert_eq!(reject.reasons[0], "/listeners/0: cannot bind");
    assert_eq!(reject.reasons[1].len(), REASON_BYTES_MAX);

    office.send(&Message::Push(push(3, "fatal")));
    assert_eq!(office.reject().reasons, ["the data plane made a mistake"]);

    let mut wrong_checksum = push(4, "b");
    wrong_checksum.checksum = Digest([0; 32]);
    office.send(&Message::Push(wrong_checksum));
    assert!(office.reject().reasons[0].contains("checksum"));

    let mut without_body = push(5, "b");
    without_body.bodies.clear();
    office.send(&Message::Push(without_body));
    assert!(office.reject().reasons[0].contains("not held"));

    assert_eq!(bench.health.generation(), Some(generation(1)));
    assert!(bench.stores(1));
    office.send(&Message::Push(push(6, "b")));
    assert_eq!(office.ack(), 6);
}

/// An envelope of a kind with a JSON value as its payload's MessagePack.
fn envelope(kind: u8, payload: &Value) -> Vec<u8> {
    let payload = messagepack(payload);
    let mut bytes = (payload.len() as u32 + 1).to_be_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(payload);
    bytes
}

/// Enough of MessagePack to write what our own types refuse to be.
fn messagepack(value: &Value) -> Vec<u8> {
    let head = |fix: u8, wide: u8, length: usize| match length {
        0..16 => vec![fix | length as u8],
        _ => [vec![wide], (length as u16).to_be_bytes().to_vec()].concat(),
    };
    match value {
        Value::Null => vec![0xc0],
        Value::Bool(flag) => vec![0xc2 | u8::from(*flag)],
        Value::Number(number) => [vec![0xcf], number.as_u64().unwrap().to_be_bytes().to_vec()].concat(),
        Value::String(text) => {
            [vec![0xda], (text.len() as u16).to_be_bytes().to_vec(), text.clone().into_bytes()].concat()
        }
        Value::Array(values) => {
            [head(0x90, 0xdc, values.len()), values.iter().flat_map(messagepack).collect()].concat()
        }
        Value::Object(map) => {
            let pairs =
                map.iter().flat_map(|(key, value)| [messagepack(&key.clone().into()), messagepack(value)].concat());
            [head(0x80, 0xde, map.len()), pairs.collect()].concat()
        }
    }
}

#[test]
fn a_field_from_the_future_is_a_reject_that_names_it() {
    let bench = Bench::new();
    let (mut office, _) = bench.greet(0);
    let mut future = push(1, "a");
    let settings = messagepack(&json!({ "deny_everybody": true }));
    let digest = Digest::of(&settings);
    future.sections[0].1 = digest;
    future.bodies[0].bytes = settings;
    let list: String = future.sections.iter().map(|(name, digest)| format!("{name} {digest}\n")).collect();
    future.checksum = Digest::of(list.as_bytes());
    office.send(&Message::Push(future));
    let reject = office.reject();
    assert!(reject.reasons.iter().any(|reason| reason.contains("deny_everybody")), "{reject:?}");
}

#[test]
fn a_push_that_cannot_be_read_is_rejected_if_it_says_its_generation() {
    let bench = Bench::new();
    let (mut office, _) = bench.greet(0);
    let half = json!({ "generation": { "source": "office", "number": 9 }, "checksum": "nonsense" });
    office.0.write_all(&envelope(3, &half)).unwrap();
    assert_eq!(office.reject().generation, generation(9));
    office.send(&Message::Push(push(10, "a")));
    assert_eq!(office.ack(), 10);

    office.0.write_all(&envelope(3, &json!({ "checksum": "nonsense" }))).unwrap();
    assert!(office.is_closed());
    let (_, hello) = bench.greet(0);
    assert_eq!(hello.applied, Some(generation(10)));
    assert_eq!(hello.sections.len(), 3);
}

#[test]
fn the_link_comes_back_after_the_control_plane_went() {
    let bench = Bench::new();
    for number in 1..4 {
        let (mut office, hello) = bench.greet(0);
        assert_eq!(hello.applied, (number > 1).then(|| generation(number - 1)));
        office.send(&Message::Push(push(number, "a")));
        assert_eq!(office.ack(), number);
        assert!(bench.health.control_connected.load(Ordering::Relaxed));
    }
}

#[test]
fn envelopes_that_are_too_long_end_the_connection_before_memory_is_given() {
    let bench = Bench::new();
    let (mut office, _) = bench.greet(0);
    office.0.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert!(office.is_closed());

    // A kind that is small may not announce what only a push may.
    let (mut office, _) = bench.greet(0);
    let length = proto::limits::SMALL_ENVELOPE_BYTES_MAX as u32 + 1;
    office.0.write_all(&[length.to_be_bytes().as_slice(), &[6]].concat()).unwrap();
    assert!(office.is_closed());

    let (mut office, _) = bench.greet(0);
    office.0.write_all(&[0; 4]).unwrap();
    assert!(office.is_closed());
    bench.greet(0);
}

#[test]
fn an_announced_length_costs_no_memory() {
    let mut incoming = Incoming::default();
    let mut bytes = (proto::limits::ENVELOPE_BYTES_MAX as u32).to_be_bytes().to_vec();
    bytes.extend([3; 10]);
    let mut source = bytes.as_slice();
    while !source.is_empty() {
        assert!(matches!(incoming.read(&mut source, Instant::now()), Ok(incoming::Read::Part)));
    }
    assert!(incoming.capacity() <= 128 * 1024, "{}", incoming.capacity());
}

#[test]
fn an_envelope_may_arrive_byte_by_byte() {
    let bench = Bench::new();
    let (mut office, _) = bench.greet(100);
    for byte in Message::Push(push(1, "a")).encode().unwrap() {
        office.0.write_all(&[byte]).unwrap();
    }
    // Reports by the clock may come between; they do not disturb what has arrived.
    let acked = std::iter::from_fn(|| Some(office.receive())).find_map(|message| match message {
        Message::Ack(ack) => Some(ack.generation.number),
        _ => None,
    });
    assert_eq!(acked, Some(1));
}

#[test]
fn reports_come_by_the_clock_and_when_asked() {
    let bench = Bench::new();
    let (mut office, _) = bench.greet(100);
    assert_eq!(office.receive(), Message::Report(Report { sessions: 7, ..Report::default() }));
    office.send(&Message::Ask(Ask { ticket: 42, usage: None }));
    let asked = Message::Report(Report { ticket: 42, sessions: 7, ..Report::default() });
    assert!((0..20).any(|_| office.receive() == asked));
    let wanted = UsageAsked { rows_max: 5, ..UsageAsked::default() };
    office.send(&Message::Ask(Ask { ticket: 43, usage: Some(wanted) }));
    let answer = Message::Usage(Usage { ticket: 43, total: 5, ..Usage::default() });
    assert!((0..20).any(|_| office.receive() == answer));
}

#[test]
fn a_drain_is_passed_on() {
    let bench = Bench::new();
    let (mut office, _) = bench.greet(0);
    office.send(&Message::Drain(Drain { window_ms: Some(500) }));
    office.send(&Message::Drain(Drain { window_ms: None }));
    assert_eq!(bench.told(), Told::Drained(Some(Duration::from_millis(500))));
    assert_eq!(bench.told(), Told::Drained(None));
}

#[test]
fn another_protocol_version_and_messages_out_of_place_end_the_connection() {
    let bench = Bench::new();
    let mut office = bench.accept();
    office.receive();
    office.send(&Message::Welcome(Welcome { protocol: 2, software: "test".into(), report_every_ms: 0, refused: None }));
    assert!(office.is_closed());

    let mut office = bench.accept();
    office.receive();
    office.send(&Message::Push(push(1, "a")));
    assert!(office.is_closed());

    let (mut office, _) = bench.greet(0);
    office.0.write_all(&envelope(200, &json!({}))).unwrap();
    assert!(office.is_closed());
}

#[test]
fn a_link_stops_at_once_wherever_it_waits() {
    for greeted in [true, false] {
        let mut bench = Bench::new();
        let office = greeted.then(|| bench.greet(0));
        let begun = Instant::now();
        bench.link.take().unwrap().stop();
        assert!(begun.elapsed() < Duration::from_secs(5));
        drop(office);
    }
}
