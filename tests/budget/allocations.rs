//! Allocations of a worker, in this process: the data plane's own threads, counted by an allocator that knows whose
//! they are.
//!
//! The clients and the echo are other threads, so what they allocate is not in it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, AtomicUsize};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use dataplane::bridge::{Bridge, NameServers, Parts};
use dataplane::gateway::{Gateway, Setting};
use dataplane::health::Health;
use dataplane::record::{Log, LogTarget, LogThread, Record};
use proto::control::message::Generation;
use proto::snapshot::{
    Api, ApiKey, Certificate, Config, CredentialForm, Issuer, Listener, ListenerTls, Mask, PeerPings, Pem, Plan,
    Snapshot, Target, Upstream,
};

use serde_json::json;

use crate::Way;
use crate::kit::tokens::{self, Algorithm, Signer, Token};
use crate::kit::{EchoBackend, Frame, Opcode, Peer, Port, Upgrade, people, pki, tls, until, until_some};
use crate::load::client::Round;
use crate::load::{Client, Echo};

/// Threads that are told from each other; later ones share the last place.
const THREADS_MAX: usize = 512;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

/// What one thread has allocated.
struct Tally {
    thread: AtomicI32,
    allocations: AtomicU64,
    /// Allocated, less what this thread has freed.
    bytes: AtomicI64,
}

static TALLIES: [Tally; THREADS_MAX] =
    [const { Tally { thread: AtomicI32::new(0), allocations: AtomicU64::new(0), bytes: AtomicI64::new(0) } };
        THREADS_MAX];
static TALLIES_USED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn mine() -> Option<&'static Tally> {
    let place = MINE.try_with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(TALLIES_USED.fetch_add(1, Relaxed).min(THREADS_MAX - 1));
            // SAFETY: a plain system call.
            TALLIES[mine.get()].thread.store(unsafe { libc::gettid() }, Relaxed);
        }
        mine.get()
    });
    place.ok().map(|place| &TALLIES[place])
}

fn note(allocations: u64, bytes: i64) {
    if let Some(tally) = mine() {
        tally.allocations.fetch_add(allocations, Relaxed);
        tally.bytes.fetch_add(bytes, Relaxed);
    }
}

// SAFETY: everything is the system's allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as i64);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        note(0, -(layout.size() as i64));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as i64);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(1, bytes as i64 - layout.size() as i64);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(place, layout, bytes) }
    }
}

/// A data plane within this process: one worker, the bridge, the session log.
struct DataPlane {
    gateway: Gateway,
    bridge: Bridge,
    log: LogThread,
    port: Port,
    /// Where TLS is spoken.
    secure: Port,
    _backend: EchoBackend,
    worker: &'static Tally,
    all: Vec<&'static Tally>,
}

impl DataPlane {
    /// Bytes on the heap for each of so many sessions that `open` has opened and that are idle; at most so many, once
    /// handshakes have given back what they had: buffers go when their tasks do. What the process makes once, whenever
    /// it comes to it, is not a session's: where there is too much, more sessions are opened and only those count.
    fn heap_of_idle(&self, sessions: i64, bytes_max: i64, mut open: impl FnMut() -> Client) -> i64 {
        let mut opened: Vec<Client> = (0..50).map(|_| open()).collect();
        let mut before = self.bytes();
        opened.extend((0..sessions).map(|_| open()));
        let mut since = Instant::now();
        let mut each = 0;
        until("an idle session is within its budget", || {
            if since.elapsed() > Duration::from_secs(4) {
                println!("{each} bytes for an idle session: measured again");
                before = self.bytes();
                opened.extend((0..sessions).map(|_| open()));
                since = Instant::now();
            }
            each = (self.bytes() - before) / sessions;
            each <= bytes_max
        });
        drop(opened);
        self.rest();
        each
    }

    /// `None` where this machine cannot have it.
    fn start(way: Way, directory: &Path) -> Option<Self> {
        let choice = way.choice()?;
        let record = Record::new(1, 10);
        let health = Arc::new(Health::new(Instant::now(), SystemTime::now()));
        let (log, log_thread) = Log::open(LogTarget::File(directory.join("sessions.log"))).expect("a log");
        let bridge = Bridge::start(Parts {
            operator: None,
            operator_hosts: Vec::new(),
            node: "budget".into(),
            record: record.clone(),
            health,
            log: log.clone(),
            name_servers: NameServers::default(),
        })
        .expect("a bridge");
        let gateway = Gateway::start(Setting {
            choice,
            cpus: vec![None],
            descriptors_max: 4096,
            resolver: bridge.resolver(),
            forward_auth: bridge.forward_auth(),
            credentials: bridge.credentials(),
            log,
            record,
            meters: Arc::default(),
        })
        .expect("a worker");
        let (port, secure) = (Port::free(), Port::free());
        let (echo, backend) = (Echo::start(None), EchoBackend::start());
        let snapshot = Snapshot::check(config([&port, &secure], &echo, &backend)).expect("a sound configuration");
        gateway
            .apply(&Generation { source: "budget".into(), number: 1 }, &snapshot)
            .expect("a generation that is taken");
        let (worker, others) = until_some("the threads have their names", threads);
        Some(Self {
            gateway,
            bridge,
            log: log_thread,
            port,
            secure,
            _backend: backend,
            worker,
            all: [vec![worker], others].concat(),
        })
    }

    fn connect(&self, target: &str) -> Client {
        self.ask(&Upgrade::to(target))
    }

    fn ask(&self, request: &Upgrade) -> Client {
        Client::ask(self.port.address(), request)
    }

    /// A session under TLS.
    fn connect_secure(&self, target: &str) -> Peer {
        let mut peer = tls::client().connect(self.secure.address());
        peer.upgrade(target);
        peer
    }

    /// Allocations of the worker while something is done.
    fn allocations(&self, work: impl FnOnce()) -> u64 {
        let before = self.worker.allocations.load(Relaxed);
        work();
        self.worker.allocations.load(Relaxed) - before
    }

    /// Bytes that the data plane's threads hold.
    fn bytes(&self) -> i64 {
        self.all.iter().map(|tally| tally.bytes.load(Relaxed)).sum()
    }

    fn rest(&self) {
        until("every session has ended", || self.gateway.connections() == 0);
    }

    fn stop(self) {
        self.gateway.stop();
        self.bridge.stop();
        assert!(self.log.finish(Duration::from_secs(5)));
    }
}

/// The tally of this process's worker, and those of what else belongs to a data plane, once all of them are there.
fn threads() -> Option<(&'static Tally, Vec<&'static Tally>)> {
    let named = |names: &[&str]| -> Vec<&'static Tally> {
        let used = TALLIES_USED.load(Relaxed).min(THREADS_MAX - 1);
        let is_one = |tally: &&Tally| {
            let name = std::fs::read_to_string(format!("/proc/self/task/{}/comm", tally.thread.load(Relaxed)));
            name.is_ok_and(|name| names.contains(&name.trim_end()))
        };
        TALLIES[..used].iter().filter(is_one).collect()
    };
    match (&named(&["worker-0"])[..], named(&["session-log", "bridge"])) {
        ([worker], others) if others.len() == 2 => Some((worker, others)),
        _ => None,
    }
}

fn config(ports: [&Port; 2], echo: &Echo, backend: &EchoBackend) -> Config {
    let url = |text: String| text.parse().expect("a URL");
    let keep = Api::new("keep", "", "/keep", Target::Url(url(echo.url())));
    let plain = Api::new("plain", "", "/plain", Target::Url(url(backend.url("/"))));
    let mut checked = Api::new("checked", "", "/checked", Target::Url(url(backend.url("/"))));
    checked.session.validate_utf8 = true;
    checked.session.peer_pings = PeerPings::Answer;
    let mut fresh = Api::new("fresh", "", "/fresh", Target::Upstream("fresh".into()));
    // Whose messages count at three levels, and never are too much; and two where every message is.
    let mut limited = Api::new("limited", "", "/limited", Target::Url(url(echo.url())));
    limited.authentication.accept = vec![CredentialForm::ApiKey];
    let mut dropping = Api::new("dropping", "", "/dropping", Target::Url(url(backend.url("/"))));
    let noticing = Api::new("noticing", "", "/noticing", Target::Url(url(backend.url("/"))));
    for api in [&mut checked, &mut fresh, &mut dropping] {
        api.limits.control_frames_per_second = 0;
    }
    let apis_of_plans = [(limited, "of-api"), (dropping, "left-out"), (noticing, "noticed")];
    let limited_apis = apis_of_plans.map(|(api, plan)| Api { plan: plan.into(), ..api });
    let [public, mut secure] = [("public", ports[0]), ("secure", ports[1])]
        .map(|(name, port)| Listener::new(name, port.address().to_string().parse().expect("an address")));
    let text = |path: &Path| Pem::new(std::fs::read_to_string(path).expect("a file"));
    let edge = &pki::shared().edge;
    secure.tls = Some(ListenerTls::new(vec!["edge".into()]));
    let mut asking = Api::new("asking", "", "/asking", Target::Url(url(echo.url())));
    asking.authentication.accept = vec![CredentialForm::Bearer, CredentialForm::ApiKey];
    let read = |value| serde_json::from_value(value).expect("an entry of a configuration");
    let subscription = |value| serde_json::from_value(value).expect("a subscription");
    let issuer: Issuer = serde_json::from_value(json!({
        "name": "budget", "issuer": ISSUER, "jwks": tokens::key_set(&[signer()]),
    }))
    .expect("an issuer");
    let key = |name: &str, application: &str, key: &str| -> ApiKey {
        let key = json!({ "name": name, "application": application, "sha256": people::sha256(key) });
        serde_json::from_value(key).expect("a key")
    };
    let plenty = json!([{ "rate": "100000000/s", "burst": 1_000_000_000 }, { "quota": "1000000000000/day" }]);
    let nothing = json!([{ "quota": "0/day" }]);
    let plan = |name: &str, limits: &serde_json::Value, on_limit: serde_json::Value| -> Plan {
        let plan = json!({ "name": name, "limits": limits, "on_limit": on_limit });
        serde_json::from_value(plan).expect("a plan")
    };
    Config {
        version: 1,
        plans: vec![
            plan("of-application", &plenty, json!({})),
            plan("of-subscription", &plenty, json!({})),
            plan("of-api", &plenty, json!({})),
            plan("left-out", &nothing, json!({ "action": "drop" })),
            plan("noticed", &nothing, json!({ "notices": 1_000_000 })),
        ],
        applications: vec![
            read(json!({ "name": "app", "clients": [{ "id": "app-client" }] })),
            read(json!({ "name": "mobile", "plan": "of-application" })),
        ],
        subscriptions: vec![
            subscription(json!({ "application": "app", "api": "asking" })),
            subscription(json!({ "application": "mobile", "api": "limited", "plan": "of-subscription" })),
        ],
        keys: vec![key("budget", "app", KEY), key("limited", "mobile", LIMITED_KEY)],
        issuers: vec![issuer],
        certificates: vec![Certificate {
            name: "edge".into(),
            chain: text(&edge.chain),
            key: text(&edge.key),
            ocsp_response: None,
        }],
        listeners: vec![public, secure],
        upstreams: vec![Upstream { mask: Mask::Fresh, ..Upstream::new("fresh", vec![url(backend.url("/"))]) }],
        apis: [keep, plain, checked, fresh, asking].into_iter().chain(limited_apis).collect(),
        ..Config::default()
    }
}

const ISSUER: &str = "https://issuer.test";
const KEY: &str = "fgk_budget_Xb2mQ7";
const LIMITED_KEY: &str = "fgk_budget_8sTz1c";

fn signer() -> &'static Signer {
    static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::new(Algorithm::EdDsa, "budget"));
    &SIGNER
}

/// Requests to an API that asks for credentials: with a key, and with a token that is the same every time.
fn requests_with_credentials() -> [(&'static str, Upgrade); 2] {
    let token = Token::of(ISSUER).claim("client_id", "app-client").claim("sub", "alice").sign(signer());
    [
        ("a key", Upgrade::to("/asking").with("apikey", KEY)),
        ("a token that was seen before", Upgrade::to("/asking").with("Authorization", &format!("Bearer {token}"))),
    ]
}

/// A request for a session that counts at three levels: application, subscription, API.
fn limited() -> Upgrade {
    Upgrade::to("/limited").with("apikey", LIMITED_KEY)
}

/// Threads are found by their names, so there is one data plane at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn on(way: Way, work: impl FnOnce(&DataPlane)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().expect("a directory");
    let Some(plane) = DataPlane::start(way, directory.path()) else { return };
    work(&plane);
    plane.stop();
}

/// A message that is never more than a socket takes.
const SMALL_BYTES: usize = 16 * 1024;
/// Of larger ones, now and then some bytes wait, or a table that had room for all until now grows.
const GROWTH_MAX: u64 = 10;
/// Messages that are counted, after some that are not.
const MESSAGES: usize = 1000;
const MESSAGES_BEFORE: usize = 200;

fn a_frame_allocates_nothing(way: Way) {
    frames_allocate_nothing(way, &Upgrade::to("/keep"));
}

/// Six limits are asked, and charged; leases are taken, and given back when a second has gone by.
fn a_frame_under_three_levels_allocates_nothing(way: Way) {
    frames_allocate_nothing(way, &limited());
}

fn frames_allocate_nothing(way: Way, request: &Upgrade) {
    on(way, |plane| {
        for (depth, size) in [(1, 64), (10, 64), (1, 1024), (1, 16 * 1024), (1, 64 * 1024), (1, 256 * 1024)] {
            let mut client = plane.ask(request);
            let mut round = Round::new(depth, size);
            let mut play = |messages: usize| (0..messages / depth).for_each(|_| client.play(&mut round));
            play(MESSAGES_BEFORE);
            let allocations = plane.allocations(|| play(MESSAGES));
            println!("{way:?}: {allocations} in {MESSAGES} messages of {size} bytes, {depth} in flight");
            let most = if size > SMALL_BYTES { GROWTH_MAX } else { 0 };
            assert!(allocations <= most, "{allocations} in {MESSAGES} messages of {size} bytes, {depth} in flight");
        }
    });
}

/// What is left out is no more than a question.
fn a_message_that_is_left_out_allocates_nothing(way: Way) {
    on(way, |plane| {
        for size in [64, SMALL_BYTES] {
            let mut client = plane.connect("/dropping").into_stream();
            let frame = Frame::binary(vec![7; size]);
            let mut play = |messages: usize| {
                for number in 0..messages {
                    client.write_all(&frame.clone().masked(key_of(number)).encode()).expect("a frame is taken");
                }
                // What is heard next is the answer to this: of all that came before nothing came back.
                client.write_all(&Frame::ping("now").masked(key_of(messages)).encode()).expect("a ping is taken");
                hear(&mut client, &Frame::pong("now").encode());
            };
            play(MESSAGES_BEFORE);
            let allocations = plane.allocations(|| play(MESSAGES));
            println!("{way:?}: {allocations} in {MESSAGES} messages of {size} bytes that are left out");
            assert_eq!(allocations, 0, "in {MESSAGES} messages of {size} bytes that are left out");
        }
    });
}

/// Allocations for a notice: its text, and the frame of that.
const NOTICE_ALLOCATIONS_MAX: u64 = 2;

fn a_notice_keeps_its_budget(way: Way) {
    on(way, |plane| {
        let mut client = plane.connect("/noticing").into_stream();
        let frame = Frame::binary(vec![7; 64]);
        let notice = Frame::text("Error code: 4003 reason: Websocket frame throttled out").encode();
        let mut play = |messages: usize| {
            for number in 0..messages {
                client.write_all(&frame.clone().masked(key_of(number)).encode()).expect("a frame is taken");
                hear(&mut client, &notice);
            }
        };
        play(MESSAGES_BEFORE);
        let allocations = plane.allocations(|| play(MESSAGES));
        println!("{way:?}: {allocations} in {MESSAGES} notices");
        assert!(allocations <= NOTICE_ALLOCATIONS_MAX * MESSAGES as u64, "{allocations} in {MESSAGES} notices");
    });
}

/// A key that is not the one before.
fn key_of(number: usize) -> [u8; 4] {
    (2 * number as u32 + 1).to_be_bytes()
}

fn hear(client: &mut TcpStream, answer: &[u8]) {
    let mut heard = vec![0; answer.len()];
    client.read_exact(&mut heard).expect("an answer");
    assert!(heard == answer, "another answer: {}", heard.escape_ascii());
}

/// Payload bytes of a message under TLS that is one record and comes whole.
const RECORD_BYTES: usize = 16 * 1024 - 14;

/// Records are opened where they stand and sealed into the worker's scratch. Of a message of several records one or two may
/// come in pieces, and each is kept until it is whole.
fn a_frame_under_tls_allocates_nothing(way: Way) {
    on(way, |plane| {
        for (size, most) in [(64, 0.05), (1024, 0.05), (RECORD_BYTES, 0.25), (256 * 1024, 2.0)] {
            let mut peer = plane.connect_secure("/plain");
            let frame = Frame::binary(vec![7; size]);
            let mut play = |messages: usize| {
                for _ in 0..messages {
                    peer.send_frame(&frame);
                    peer.expect(Opcode::BINARY, &frame.payload);
                }
            };
            play(MESSAGES_BEFORE);
            let allocations = plane.allocations(|| play(MESSAGES));
            println!("{way:?}: {allocations} in {MESSAGES} messages of {size} bytes under TLS");
            assert!(allocations as f64 <= most * MESSAGES as f64, "{allocations} in {MESSAGES} of {size} bytes");
        }
    });
}

/// Bytes on the heap for a session whose client's leg is under TLS 1.3: what a plain one has, its keys, and what rustls keeps
/// for making the next.
const IDLE_SECURE_BYTES_MAX: i64 = 2900;

fn an_idle_session_under_tls_keeps_its_budget(way: Way) {
    const SESSIONS: i64 = 100;
    on(way, |plane| {
        let open = |count: i64| -> Vec<Peer> {
            let open_one = |_| {
                let mut peer = plane.connect_secure("/plain");
                peer.send_frame(&Frame::text("once"));
                peer.expect(Opcode::TEXT, b"once");
                peer
            };
            (0..count).map(open_one).collect()
        };
        let first = open(20);
        let before = plane.bytes();
        let second = open(SESSIONS);
        let mut each = 0;
        until("handshakes have given back what they had", || {
            each = (plane.bytes() - before) / SESSIONS;
            each <= IDLE_SECURE_BYTES_MAX
        });
        println!("{way:?}: {each} bytes on the heap for an idle session under TLS");
        drop((first, second));
        plane.rest();
    });
}

/// Frames that the session must look into or change, and frames that are not data. Only the payload of a ping that the
/// gateway answers itself is kept until the answer has its place.
fn a_frame_that_is_looked_at_keeps_its_budget(way: Way) {
    let payload = "ein Zeichen für jeden, κόσμε ".repeat(100);
    let frames = [Frame::text("hello"), Frame::text(&payload), Frame::binary(payload.as_bytes()), Frame::ping("now")];
    on(way, |plane| {
        for target in ["/checked", "/fresh"] {
            let mut client = plane.connect(target).into_stream();
            for frame in &frames {
                let answer = match frame.opcode {
                    Opcode::PING => Frame::pong("now").encode(),
                    _ => frame.encode(),
                };
                let mut play = |messages: usize| {
                    for number in 0..messages {
                        client.write_all(&frame.clone().masked(key_of(number)).encode()).expect("a frame is taken");
                        hear(&mut client, &answer);
                    }
                };
                play(MESSAGES_BEFORE);
                let allocations = plane.allocations(|| play(MESSAGES));
                let answered_here = target == "/checked" && frame.opcode == Opcode::PING;
                let most = if answered_here { MESSAGES as u64 } else { 0 };
                assert!(allocations <= most, "{allocations} in {MESSAGES} of {:?} to {target}", frame.opcode);
            }
        }
    });
}

/// Allocations of a worker from accept to the last line of a session that relays one message.
const HANDSHAKE_ALLOCATIONS_MAX: u64 = 39;
/// What a round of ended sessions may seem to leave behind: its last lines may not be written yet.
const LEFT_BYTES_MAX: i64 = 2048;
/// Bytes on the heap for a session that has relayed a message and is idle.
const IDLE_BYTES_MAX: i64 = 750;

fn a_handshake_keeps_its_budget_and_leaves_nothing(way: Way) {
    const JOURNEYS: u64 = 500;
    on(way, |plane| {
        let mut round = Round::new(1, 1024);
        let mut journeys = |count: u64| {
            for _ in 0..count {
                plane.connect("/keep").play(&mut round);
                plane.rest();
            }
        };
        journeys(50);
        let allocations = plane.allocations(|| journeys(JOURNEYS));
        println!("{way:?}: {:.2} allocations a handshake", allocations as f64 / JOURNEYS as f64);
        assert!(allocations <= HANDSHAKE_ALLOCATIONS_MAX * JOURNEYS, "{allocations} in {JOURNEYS} handshakes");
        // Tables and buffers may grow once; what sessions leave behind they leave every time.
        until("a round of sessions leaves nothing behind", || {
            let before = plane.bytes();
            journeys(JOURNEYS);
            let left = plane.bytes() - before;
            left <= LEFT_BYTES_MAX
        });
    });
}

/// What a credential adds to the allocations of a handshake: what is withheld from the endpoint, and for a key the grant.
const CREDENTIAL_ALLOCATIONS_MAX: u64 = 5;
/// What a credential adds to an idle session: a grant of its own where it came by a key. Sessions of one token share theirs.
const CREDENTIAL_BYTES_MAX: i64 = 250;

fn a_credential_keeps_its_budget(way: Way) {
    const JOURNEYS: u64 = 300;
    const SESSIONS: i64 = 100;
    on(way, |plane| {
        let mut round = Round::new(1, 1024);
        for (what, request) in requests_with_credentials() {
            let mut journeys = |count: u64| {
                for _ in 0..count {
                    plane.ask(&request).play(&mut round);
                    plane.rest();
                }
            };
            journeys(50);
            let allocations = plane.allocations(|| journeys(JOURNEYS));
            println!("{way:?}: {:.2} allocations a handshake with {what}", allocations as f64 / JOURNEYS as f64);
            let most = HANDSHAKE_ALLOCATIONS_MAX + CREDENTIAL_ALLOCATIONS_MAX;
            assert!(allocations <= most * JOURNEYS, "{allocations} in {JOURNEYS} handshakes with {what}");
            let each = plane.heap_of_idle(SESSIONS, IDLE_BYTES_MAX + CREDENTIAL_BYTES_MAX, || {
                let mut client = plane.ask(&request);
                client.play(&mut round);
                client
            });
            println!("{way:?}: {each} bytes on the heap for an idle session with {what}");
        }
    });
}

fn an_idle_session_keeps_its_budget(way: Way) {
    const SESSIONS: i64 = 200;
    on(way, |plane| {
        let mut round = Round::new(1, 1024);
        let each = plane.heap_of_idle(SESSIONS, IDLE_BYTES_MAX, || {
            let mut client = plane.connect("/keep");
            client.play(&mut round);
            client
        });
        println!("{way:?}: {each} bytes on the heap for an idle session");
    });
}

/// What three levels of two limits each add to an idle session with a key: its guard, and by which meters it is counted.
/// What its meters cost they cost once for each key, not for each session.
const THREE_LEVELS_BYTES_MAX: i64 = 600;

fn an_idle_session_under_three_levels_keeps_its_budget(way: Way) {
    const SESSIONS: i64 = 100;
    on(way, |plane| {
        let mut round = Round::new(1, 1024);
        let request = limited();
        let each = plane.heap_of_idle(SESSIONS, IDLE_BYTES_MAX + CREDENTIAL_BYTES_MAX + THREE_LEVELS_BYTES_MAX, || {
            let mut client = plane.ask(&request);
            client.play(&mut round);
            client
        });
        println!("{way:?}: {each} bytes on the heap for an idle session under three levels");
    });
}

crate::on_every_way!(
    a_frame_allocates_nothing,
    a_frame_under_three_levels_allocates_nothing,
    a_message_that_is_left_out_allocates_nothing,
    a_notice_keeps_its_budget,
    an_idle_session_under_three_levels_keeps_its_budget,
    a_frame_that_is_looked_at_keeps_its_budget,
    a_handshake_keeps_its_budget_and_leaves_nothing,
    a_credential_keeps_its_budget,
    an_idle_session_keeps_its_budget,
    a_frame_under_tls_allocates_nothing,
    an_idle_session_under_tls_keeps_its_budget,
);
