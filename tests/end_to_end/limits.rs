//! Limits of messages and bytes on live sessions: what passes, what each side sees of what does not, and that it is
//! exact across workers.

mod admission;
mod changes;
mod delay;
mod denials;
mod exact;
mod example;
mod policies;
mod restarts;
mod told;
mod usage;

use std::thread;
use std::time::Duration;

use crate::kit::{
    Frame, Gateway, Opcode, Peer, Port, RawUpstream, Setup, Upgrade, Variant, on_every_variant, on_variants_in_clear,
    until,
};
use crate::strangers::{converse, python};

on_every_variant!(
    what_is_too_much_is_left_out_and_the_client_is_told,
    what_is_dropped_leaves_no_trace_and_a_close_says_why,
    a_notice_never_stands_inside_a_message_of_a_busy_server,
    another_plan_holds_from_the_next_message_on,
    each_session_has_a_count_of_its_own_where_its_key_says_so,
);
on_variants_in_clear!(what_passes_of_compressed_messages_still_inflates);

/// Strangers on both sides, who agree on compression between them.
fn what_passes_of_compressed_messages_still_inflates(variant: Variant) {
    for (action, notice) in [("notify", Some(NOTICE)), ("drop", None)] {
        let Some(mut both) = python("limited.py", &["websockets"]) else { return };
        let port = Port::free();
        let plan = format!(
            "plans:\n  - {{ name: p, limits: [{{ rate: 50/s, burst: 60 }}], on_limit: {{ action: {action} }} }}\n"
        );
        let url = format!("ws://127.0.0.1:{}/", port.address().port());
        let gateway = Setup::new(variant).document(&plan).api_to("chat", &url, "plan: p").start();
        both.args([port.address().port().to_string(), format!("ws://{}/chat", gateway.address())]).args(notice);
        converse(&mut both);
    }
}

const NOTICE: &str = "Error code: 4003 reason: Websocket frame throttled out";

/// A gateway with an API `chat` under a plan `p` of these members.
fn limited(variant: Variant, plan: &str, members: &str) -> (Gateway, RawUpstream) {
    let upstream = RawUpstream::listen();
    let comma = if members.is_empty() { "" } else { ", " };
    let setup = Setup::new(variant).document(&format!("plans:\n  - {{ name: p, {plan} }}\n"));
    (setup.api_to("chat", &upstream.url("/"), &format!("plan: p{comma}{members}")).start(), upstream)
}

/// A session of somebody whose request has these fields besides.
#[track_caller]
fn session_with(gateway: &Gateway, upstream: &RawUpstream, target: &str, fields: &[(&str, &str)]) -> (Peer, Peer) {
    let mut client = gateway.connect();
    client.send(&fields.iter().fold(Upgrade::to(target), |request, (name, value)| request.with(name, value)).encode());
    let mut backend = upstream.accept();
    backend.agree();
    client.upgraded();
    (client, backend)
}

/// So many messages to and fro, which all pass.
#[track_caller]
fn passes((client, backend): &mut (Peer, Peer), messages: usize) {
    for at in 0..messages {
        let text = at.to_string();
        let (from, to) = if at % 2 == 0 { (&mut *client, &mut *backend) } else { (&mut *backend, &mut *client) };
        from.send_frame(&Frame::text(&text));
        to.expect(Opcode::TEXT, text.as_bytes());
    }
}

/// One more of either side does not; the client reads a notice that begins like this.
#[track_caller]
fn is_stopped((client, backend): &mut (Peer, Peer), notice: &str) {
    for is_clients in [true, false] {
        let sender = if is_clients { &mut *client } else { &mut *backend };
        sender.send_frame(&Frame::text("one more"));
        let (opcode, payload) = client.message();
        let text = String::from_utf8_lossy(&payload).into_owned();
        assert!(opcode == Opcode::TEXT && text.starts_with(notice), "{text:?} is not {notice:?}");
    }
}

/// A verb that says yes.
#[track_caller]
fn done(gateway: &Gateway, words: &[&str]) {
    let outcome = gateway.verb(words[0], &words[1..]);
    assert_eq!(outcome.code, 0, "{words:?}: {outcome:?}");
}

/// Another configuration, which is taken.
#[track_caller]
fn applied(gateway: &Gateway, yaml: &str) {
    let outcome = gateway.apply(yaml);
    assert_eq!(outcome.code, 0, "{outcome:?}\n{yaml}");
}

fn what_is_too_much_is_left_out_and_the_client_is_told(variant: Variant) {
    let (mut gateway, upstream) = limited(variant, "limits: [{ rate: 1/h, burst: 3 }]", "");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    for text in ["a", "b"] {
        client.send_frame(&Frame::text(text));
        backend.expect(Opcode::TEXT, text.as_bytes());
    }
    backend.send_frame(&Frame::text("c"));
    client.expect(Opcode::TEXT, b"c");
    for _ in 0..3 {
        client.send_frame(&Frame::text("too much"));
        client.expect(Opcode::TEXT, NOTICE.as_bytes());
    }
    backend.send_frame(&Frame::text("too much of the server's"));
    client.expect(Opcode::TEXT, NOTICE.as_bytes());
    client.send_frame(&Frame::ping("control frames are free"));
    backend.expect(Opcode::PING, b"control frames are free");
    let labels = [("api", "chat"), ("level", "api"), ("outcome", "notify")];
    assert_eq!(gateway.metric("framegate_throttled_messages_total", &labels), 4.0);
    gateway.probe();
}

fn what_is_dropped_leaves_no_trace_and_a_close_says_why(variant: Variant) {
    let plan =
        "limits: [{ rate: 1/h, burst: 2 }], on_limit: { action: drop, close_after: 4, code: 4029, reason: slower }";
    let (mut gateway, upstream) = limited(variant, plan, "");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    for text in ["a", "b", "c", "d", "e"] {
        client.send_frame(&Frame::text(text));
    }
    backend.expect(Opcode::TEXT, b"a");
    backend.expect(Opcode::TEXT, b"b");
    backend.expect_silence(Duration::from_millis(100));
    client.send_frame(&Frame::text("the fourth in a row"));
    assert_eq!(client.expect_close(4029), "slower");
    assert_eq!(backend.expect_close(4029), "slower");
    let line = gateway.logged("close", "chat");
    assert_eq!((line["reason"].as_str(), line["side"].as_str()), (Some("throttled"), Some("gateway")), "{line}");
    assert_eq!((line["messages_to_upstream"].as_u64(), line["messages_throttled"].as_u64()), (Some(2), Some(4)));
    assert_eq!(line["throttled_by"], "api");
    // Of a session of which nothing was left out nothing is said.
    gateway.probe();
    let line = gateway.logged("close", "probe");
    assert!(line.get("messages_throttled").is_none() && line.get("throttled_by").is_none(), "{line}");
    gateway.probe();
}

fn a_notice_never_stands_inside_a_message_of_a_busy_server(variant: Variant) {
    let plan =
        "limits: [{ rate: 1/h, burst: 1 }], direction: client, on_limit: { notices: 1000, notices_per_second: 1000 }";
    let (mut gateway, upstream) = limited(variant, plan, "");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    client.send_frame(&Frame::text("the one that passes"));
    backend.expect(Opcode::TEXT, b"the one that passes");
    const MESSAGES: usize = 200;
    let busy = thread::spawn(move || {
        for at in 0..MESSAGES {
            let piece = |fin, opcode, text: String| Frame { fin, ..Frame::new(opcode, text) };
            backend.send_frame(&piece(false, Opcode::TEXT, format!("{at}:")));
            if at % 20 == 0 {
                thread::sleep(Duration::from_millis(3));
            }
            backend.send_frame(&piece(false, Opcode::CONTINUATION, "x".repeat(at * 37 % 3000)));
            backend.send_frame(&piece(true, Opcode::CONTINUATION, ".".into()));
        }
        backend
    });
    let mut writer = client.second_end();
    let chatter = thread::spawn(move || {
        for _ in 0..MESSAGES {
            writer.send_frame(&Frame::text("too much"));
            thread::sleep(Duration::from_micros(200));
        }
    });
    let (mut of_server, mut notices) = (0, 0);
    while of_server < MESSAGES || notices < MESSAGES {
        let (opcode, payload) = client.message();
        assert_eq!(opcode, Opcode::TEXT);
        if payload == NOTICE.as_bytes() {
            notices += 1;
        } else {
            let begins = format!("{of_server}:");
            assert!(payload.starts_with(begins.as_bytes()) && payload.ends_with(b"."), "{of_server}: {payload:?}");
            assert_eq!(payload.len(), begins.len() + of_server * 37 % 3000 + 1);
            of_server += 1;
        }
    }
    chatter.join().expect("the client could write");
    drop(busy.join().expect("the server could write"));
    gateway.probe();
}

fn another_plan_holds_from_the_next_message_on(variant: Variant) {
    let (mut gateway, upstream) = limited(variant, "limits: [{ quota: 2/day }]", "");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    for text in ["a", "b"] {
        client.send_frame(&Frame::text(text));
        backend.expect(Opcode::TEXT, text.as_bytes());
    }
    client.send_frame(&Frame::text("c"));
    client.expect(Opcode::TEXT, NOTICE.as_bytes());
    let more = gateway.setup().yaml().replace("quota: 2/day", "quota: 4/day");
    assert_eq!(gateway.apply(&more).code, 0);
    for text in ["d", "e"] {
        client.send_frame(&Frame::text(text));
        backend.expect(Opcode::TEXT, text.as_bytes());
    }
    client.send_frame(&Frame::text("f"));
    client.expect(Opcode::TEXT, NOTICE.as_bytes());
    let none = gateway.setup().yaml().replace("plan: p, ", "").replace(", plan: p", "");
    assert_eq!(gateway.apply(&none).code, 0);
    client.send_frame(&Frame::text("g"));
    backend.expect(Opcode::TEXT, b"g");
    gateway.probe();
}

fn each_session_has_a_count_of_its_own_where_its_key_says_so(variant: Variant) {
    let upstream = RawUpstream::listen();
    let limits = "limits:\n  - { name: each, key: [session], plan: p }\n";
    let plans = "plans:\n  - { name: p, limits: [{ quota: 3/day }] }\n";
    let setup = Setup::new(variant).document(plans).document(limits);
    let mut gateway = setup.api_to("chat", &upstream.url("/"), "").start();
    let mut pairs: Vec<_> = (0..3).map(|_| gateway.session("/chat", &upstream)).collect();
    for (client, backend) in &mut pairs {
        for text in ["a", "b", "c"] {
            client.send_frame(&Frame::text(text));
            backend.expect(Opcode::TEXT, text.as_bytes());
        }
        client.send_frame(&Frame::text("d"));
        client.expect(Opcode::TEXT, NOTICE.as_bytes());
    }
    let labels = [("api", "chat"), ("level", "session"), ("outcome", "notify")];
    assert_eq!(gateway.metric("framegate_throttled_messages_total", &labels), 3.0);
    let line = gateway.logged("open", "chat");
    let session = line["session"].as_str().expect("a session");
    let usage = gateway.verb("usage", &[]).stdout;
    assert!(usage.contains(&format!("each: {session}")), "{usage}");
    // A count of a session goes with it, though its day is not over.
    drop(pairs);
    until("it is forgotten", || gateway.metric("framegate_limit_keys", &[]) == 0.0);
    gateway.probe();
}
