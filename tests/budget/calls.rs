//! System calls of a worker, in a real data plane: strace lists them, this counts them.
//!
//! Without strace, or where it may not attach, it is skipped aloud; with STRANGERS=require, as in CI, that is a failure.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Way;
use crate::kit::gateway::{die_with_parent, send_signal};
use crate::kit::people::People;
use crate::kit::{Frame, Gateway, Setup, Upgrade, Variant, aloud, until, until_some};
use crate::load::client::Round;
use crate::load::{Client, Echo};

/// How often each system call was made.
type Calls = BTreeMap<String, u64>;

/// strace, attached to one thread.
struct Strace {
    child: Child,
    list: std::path::PathBuf,
}

impl Strace {
    /// `None`, said aloud, where it cannot be had.
    fn attach(gateway: &Gateway) -> Option<Self> {
        let pid = gateway.pid();
        let thread = worker(pid);
        let list = gateway.setup().directory().join("strace");
        let mut command = Command::new("strace");
        command.args(["-qq", "-s", "0", "-p", &thread.to_string(), "-o"]).arg(&list);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        die_with_parent(&mut command);
        let Ok(mut child) = command.spawn() else {
            skip("strace is not here (apt-get install strace)");
            return None;
        };
        let attached = until_some("strace is attached", || {
            let status =
                std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).expect("a thread has a status");
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).expect("a tracer, or none");
            let ended = child.try_wait().expect("a child can be asked").is_some();
            if ended { Some(false) } else { (tracer.trim() != "0").then_some(true) }
        });
        if !attached {
            skip("strace may not look at another process here");
        }
        attached.then_some(Self { child, list })
    }

    /// Lets go, and counts.
    fn finish(mut self) -> Calls {
        send_signal(self.child.id(), libc::SIGINT);
        self.child.wait().expect("strace ends");
        let mut calls = Calls::new();
        for line in std::fs::read_to_string(&self.list).expect("a list of calls").lines() {
            let name: String =
                line.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect();
            if !name.is_empty() && line[name.len()..].starts_with('(') {
                *calls.entry(name).or_default() += 1;
            }
        }
        calls
    }
}

fn skip(why: &str) {
    assert_ne!(std::env::var("STRANGERS").as_deref(), Ok("require"), "{why}");
    aloud(&format!("skipped: {why}"));
}

/// The thread of the one worker.
fn worker(pid: u32) -> u32 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process has threads");
    let is_worker = |task: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/task/{task}/comm"));
        name.is_ok_and(|name| name.trim_end() == "worker-0")
    };
    let numbers = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    numbers.into_iter().find(is_worker).expect("a worker")
}

/// What one unit of work may cost: so many of each system call. Others, which are rare, share [`RARE`].
type Budget = &'static [(&'static str, f64)];

/// System calls that are not in a budget (a batch of random octets, memory for the allocator), per unit of work.
const RARE: f64 = 0.1;
/// A little on top: a wake-up that had nothing to tell, a segment that came in two.
const TOLERANCE: f64 = 1.1;

/// Messages that are counted, after some that are not.
const MESSAGES: usize = 1000;
const MESSAGES_BEFORE: usize = 200;
const HANDSHAKES: usize = 200;
/// From here on more than a few bytes are moved at a time.
const BULK_BYTES: usize = 16 * 1024;
/// From here on splicing is worth while.
const LARGE_BYTES: usize = 256 * 1024;

/// Of a message and its echo, each alone in its segment.
fn message_budget(way: Way) -> Budget {
    match way {
        // Half of the io_uring_enter are the driver's, which waits for the ring's eventfd; the reads are of that.
        Way::Uring => &[("sendto", 2.0), ("io_uring_enter", 5.0), ("read", 2.5)],
        Way::Readiness => &[("recvfrom", 2.0), ("sendto", 2.0), ("epoll_wait", 2.0), ("io_uring_enter", 2.0)],
        // Some of the time the two wakes of a message meet in one turn, which then lets others have theirs.
        Way::ReadinessOnEpoll => {
            &[("recvfrom", 2.0), ("sendto", 2.0), ("epoll_wait", 4.0), ("poll", 4.0), ("read", 1.0), ("write", 1.0)]
        }
    }
}

/// The same from 8 KiB up, where the uring engine asks for readiness instead of bytes.
fn bulk_message_budget(way: Way) -> Budget {
    match way {
        Way::Uring => &[("recvfrom", 2.0), ("sendto", 2.0), ("io_uring_enter", 6.5), ("read", 2.5)],
        Way::Readiness | Way::ReadinessOnEpoll => message_budget(way),
    }
}

/// Of a message and its echo, of which the most is spliced. A frame comes in as many pieces as the machine's load makes of it:
/// behind each piece a splice brings nothing, and a receive asks why; what it brings in its turn is sent.
fn large_message_budget(way: Way) -> Budget {
    match way {
        Way::Uring => &[("recvfrom", 8.0), ("sendto", 5.0), ("splice", 8.0), ("io_uring_enter", 8.0), ("read", 4.0)],
        Way::Readiness => {
            &[("recvfrom", 8.0), ("sendto", 5.0), ("splice", 8.0), ("epoll_wait", 4.0), ("io_uring_enter", 4.0)]
        }
        Way::ReadinessOnEpoll => &[
            ("recvfrom", 8.0),
            ("sendto", 5.0),
            ("splice", 8.0),
            ("epoll_wait", 6.0),
            ("poll", 6.0),
            ("read", 2.0),
            ("write", 2.0),
        ],
    }
}

/// From accept to the end of a session that relays one message. Of the receives, two may come before what they wait for;
/// fcntl is the standard library's, which looks at what it closes in a debug build.
const JOURNEY: Budget = &[
    ("accept4", 2.0),
    ("socket", 1.0),
    ("setsockopt", 1.0),
    ("connect", 2.0),
    ("sendto", 5.0),
    ("close", 2.0),
    ("fcntl", 2.0),
    ("futex", 2.0),
    ("write", 1.0),
];

/// What comes to [`JOURNEY`].
fn waiting_budget(way: Way) -> Budget {
    match way {
        Way::Uring => &[("recvfrom", 4.0), ("io_uring_enter", 16.0), ("read", 8.0)],
        Way::Readiness => {
            &[("recvfrom", 8.0), ("epoll_ctl", 2.0), ("epoll_wait", 6.0), ("io_uring_enter", 7.0), ("read", 1.0)]
        }
        Way::ReadinessOnEpoll => {
            &[("recvfrom", 8.0), ("epoll_ctl", 4.0), ("epoll_wait", 10.0), ("poll", 12.0), ("read", 1.0)]
        }
    }
}

/// Of a message that is left out.
fn left_out_budget(way: Way) -> Budget {
    match way {
        // The eventfd is told of the work and of what has come of it: where nothing is sent in between, some of the time the
        // driver wakes for each.
        Way::Uring => &[("io_uring_enter", 4.0), ("read", 2.0)],
        Way::Readiness => &[("recvfrom", 1.0), ("epoll_wait", 1.0), ("io_uring_enter", 1.0)],
        Way::ReadinessOnEpoll => {
            &[("recvfrom", 1.0), ("epoll_wait", 2.5), ("poll", 2.5), ("read", 0.5), ("write", 0.5)]
        }
    }
}

/// Of a notice in the stead of a message: half of what goes there and back.
fn notice_budget(way: Way) -> Vec<(&'static str, f64)> {
    message_budget(way).iter().map(|(name, most)| (*name, most / 2.0)).collect()
}

/// A gateway of this kind that leads to an echo: without limits, and with three levels of them that are never reached; and to
/// two where every message is too much. `None`, said aloud, where it cannot be had.
fn start(way: Way) -> Option<Gateway> {
    way.choice()?;
    let echo = Echo::start(None).url();
    let plenty = "{ limits: [{ rate: 100000000/s, burst: 1000000000 }, { quota: 1000000000000/day }] }";
    let plans = ["of-application", "of-subscription", "of-api"].map(|name| plan(name, plenty));
    let nothing = [("left-out", "action: drop"), ("noticed", "notices: 1000000")]
        .map(|(name, on_limit)| plan(name, &format!("{{ limits: [{{ quota: 0/day }}], on_limit: {{ {on_limit} }} }}")));
    let people = People::new()
        .application("mobile", "plan: of-application")
        .entry("subscriptions", "application: mobile, api: limited, plan: of-subscription".into())
        .key("k", "mobile", KEY, "");
    let mut setup = Setup::new(Variant::Automatic)
        .people(people)
        .document(&format!("plans: [{}]\n", [&plans[..], &nothing].concat().join(", ")))
        .api_to("echo", &echo, "")
        .api_to("limited", &echo, "plan: of-api, authentication: { accept: [api_key] }")
        .api_to("dropping", &echo, "plan: left-out")
        .api_to("noticing", &echo, "plan: noticed");
    for (name, value) in way.environment() {
        setup = setup.environment("dataplane", name, value);
    }
    Some(setup.start())
}

const KEY: &str = "key-of-mobile";

fn plan(name: &str, members: &str) -> String {
    members.replacen('{', &format!("{{ name: {name},"), 1)
}

/// Checks what `units` of work have cost.
#[track_caller]
fn check(what: &str, calls: &Calls, units: usize, budget: &[(&str, f64)], share: f64) {
    let each = |count: u64| count as f64 / units as f64;
    let list: Vec<_> = calls.iter().map(|(name, count)| format!("{name} {:.2}", each(*count))).collect();
    println!("{what}: {}", list.join(", "));
    assert!(!calls.is_empty(), "{what}: nothing was seen");
    let mut rare = 0.0;
    for (name, count) in calls {
        match budget.iter().find(|(known, _)| known == name) {
            Some((_, most)) => {
                let most = most * share * TOLERANCE;
                assert!(each(*count) <= most, "{what}: {:.2} {name}, and {most:.2} are allowed", each(*count));
            }
            None => rare += each(*count),
        }
    }
    assert!(rare <= RARE, "{what}: system calls that are in no budget: {}", list.join(", "));
}

fn a_message_keeps_its_budget_of_system_calls(way: Way) {
    messages_keep_their_budget(way, &Upgrade::to("/echo"));
}

/// The very budget of one that nothing limits.
fn a_message_under_three_levels_needs_no_more_system_calls(way: Way) {
    messages_keep_their_budget(way, &Upgrade::to("/limited").with("apikey", KEY));
}

fn messages_keep_their_budget(way: Way, request: &Upgrade) {
    let Some(gateway) = start(way) else { return };
    for (depth, size) in [(1, 64), (20, 64), (1, BULK_BYTES), (1, LARGE_BYTES)] {
        let mut client = Client::ask(gateway.address(), request);
        let mut round = Round::new(depth, size);
        let mut play = |messages: usize| (0..messages / depth).for_each(|_| client.play(&mut round));
        play(MESSAGES_BEFORE);
        let Some(strace) = Strace::attach(&gateway) else { return };
        play(MESSAGES);
        let calls = strace.finish();
        let what = format!("{way:?}, {depth} in flight of {size} bytes");
        let budget = match size {
            LARGE_BYTES.. => large_message_budget(way),
            BULK_BYTES.. => bulk_message_budget(way),
            _ => message_budget(way),
        };
        // Frames that come together are moved together.
        check(&what, &calls, MESSAGES, budget, 1.0 / depth as f64);
    }
}

/// Of so many questions that messages ask of limits, one may go to the counts that all workers share, behind their locks:
/// the rest is answered from what the worker has in hand. That is what it spends in some milliseconds, so it depends on how
/// fast the machine is.
const QUESTIONS_FOR_A_LEASE: u64 = 100;

fn limits_are_asked_in_hand(way: Way) {
    const LIMITS: u64 = 6;
    const DEPTH: usize = 20;
    let Some(gateway) = start(way) else { return };
    let mut client = Client::ask(gateway.address(), &Upgrade::to("/limited").with("apikey", KEY));
    let mut round = Round::new(DEPTH, 64);
    let mut play = |messages: usize| (0..messages).for_each(|_| client.play(&mut round));
    let leases = || {
        let leases = ["granted", "refused"]
            .map(|outcome| gateway.metric("framegate_limit_leases_total", &[("outcome", outcome)]) as u64);
        leases.iter().sum::<u64>()
    };
    play(MESSAGES_BEFORE);
    let before = leases();
    play(MESSAGES);
    let (asked, questions) = (leases() - before, 2 * LIMITS * (DEPTH * MESSAGES) as u64);
    println!("{way:?}: {asked} leases for {questions} questions");
    assert!(asked <= questions / QUESTIONS_FOR_A_LEASE, "{asked} leases for {questions} questions");
}

/// Between two messages that nobody answers, so that each comes alone; not so that anything depends on it.
const APART: Duration = Duration::from_micros(300);

/// It is received, and that is all: nothing is sent to anybody.
fn a_message_that_is_left_out_is_not_sent(way: Way) {
    let Some(gateway) = start(way) else { return };
    let mut client = Client::connect(gateway.address(), "/dropping").into_stream();
    let mut play = |messages: usize| {
        for number in 0..messages {
            client.write_all(&Frame::binary(vec![7; 64]).masked(key_of(number)).encode()).expect("a frame is taken");
            std::thread::sleep(APART);
        }
    };
    let counted =
        || gateway.metric("framegate_throttled_messages_total", &[("level", "api"), ("outcome", "drop")]) as usize;
    play(MESSAGES_BEFORE);
    until("what came first is left out", || counted() == MESSAGES_BEFORE);
    let Some(strace) = Strace::attach(&gateway) else { return };
    play(MESSAGES);
    until("the rest is left out", || counted() == MESSAGES_BEFORE + MESSAGES);
    let calls = strace.finish();
    assert_eq!(calls.get("sendto"), None, "something was sent");
    check(&format!("{way:?}, left out"), &calls, MESSAGES, left_out_budget(way), 1.0);
}

/// It is received, and the notice is sent.
fn a_notice_keeps_its_budget_of_system_calls(way: Way) {
    let Some(gateway) = start(way) else { return };
    let mut client = Client::connect(gateway.address(), "/noticing").into_stream();
    let mut heard = Frame::text("Error code: 4003 reason: Websocket frame throttled out").encode();
    let mut play = |messages: usize| {
        for number in 0..messages {
            client.write_all(&Frame::binary(vec![7; 64]).masked(key_of(number)).encode()).expect("a frame is taken");
            client.read_exact(&mut heard).expect("a notice");
        }
    };
    play(MESSAGES_BEFORE);
    let Some(strace) = Strace::attach(&gateway) else { return };
    play(MESSAGES);
    check(&format!("{way:?}, a notice"), &strace.finish(), MESSAGES, &notice_budget(way), 1.0);
}

/// A key that is not the one before.
fn key_of(number: usize) -> [u8; 4] {
    (2 * number as u32 + 1).to_be_bytes()
}

fn a_handshake_keeps_its_budget_of_system_calls(way: Way) {
    let Some(gateway) = start(way) else { return };
    let before = gateway.descriptors();
    let mut round = Round::new(1, 64);
    let mut journeys = |count: usize| {
        for _ in 0..count {
            Client::connect(gateway.address(), "/echo").play(&mut round);
            until("the session has ended", || gateway.descriptors() <= before);
        }
    };
    journeys(50);
    let Some(strace) = Strace::attach(&gateway) else { return };
    journeys(HANDSHAKES);
    let budget = [JOURNEY, waiting_budget(way)].concat();
    check(&format!("{way:?}, a handshake"), &strace.finish(), HANDSHAKES, &budget, 1.0);
}

/// Nothing happens, so nothing is done.
fn idle_sessions_cost_no_system_calls(way: Way) {
    const SESSIONS: usize = 100;
    /// A deadline of the process's own may fall into the time.
    const CALLS_MAX: u64 = 10;
    let Some(gateway) = start(way) else { return };
    let mut round = Round::new(1, 1024);
    let open = |_| {
        let mut client = Client::connect(gateway.address(), "/echo");
        client.play(&mut round);
        client
    };
    let clients: Vec<Client> = (0..SESSIONS).map(open).collect();
    let Some(strace) = Strace::attach(&gateway) else { return };
    std::thread::sleep(Duration::from_secs(2));
    let calls = strace.finish();
    println!("{way:?}, {SESSIONS} idle sessions for two seconds: {calls:?}");
    assert!(calls.values().sum::<u64>() <= CALLS_MAX, "{calls:?}");
    drop(clients);
}

crate::on_every_way!(
    a_message_keeps_its_budget_of_system_calls,
    a_message_under_three_levels_needs_no_more_system_calls,
    limits_are_asked_in_hand,
    a_message_that_is_left_out_is_not_sent,
    a_notice_keeps_its_budget_of_system_calls,
    a_handshake_keeps_its_budget_of_system_calls,
    idle_sessions_cost_no_system_calls,
);
