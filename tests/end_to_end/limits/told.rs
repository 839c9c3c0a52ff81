//! What is said of limits: to clients, byte for byte and not too often, and to the operator in the diagnostic log.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{applied, limited, passes, session_with};
use crate::kit::{
    Frame, Gateway, Opcode, Peer, RawUpstream, Secrets, Setup, Variant, on_both_drivers, on_variant, until,
};

on_both_drivers!(
    a_notice_has_the_bytes_that_the_plan_says,
    a_session_is_told_so_often_and_no_more,
    what_is_secret_of_a_key_is_written_nowhere,
);
// They take a while, and are not the drivers'.
on_variant!(automatic_windows, Automatic, the_log_has_one_warning_for_each_mark_in_each_window messages_in_a_row_that_were_too_much_close_a_session_and_one_that_passes_begins_anew);

/// The bytes of a text frame of the gateway's.
fn text_frame(text: &str) -> Vec<u8> {
    Frame::text(text).encode()
}

/// Reads so many bytes, whatever they are.
#[track_caller]
fn raw(peer: &mut Peer, count: usize) -> Vec<u8> {
    let mut bytes = peer.take_unread();
    while bytes.len() < count {
        assert!(peer.hear(), "the connection ended after {}", bytes.escape_ascii());
        bytes.extend(peer.take_unread());
    }
    bytes
}

fn a_notice_has_the_bytes_that_the_plan_says(variant: Variant) {
    const NOTICES: [(&str, &str); 5] = [
        ("wso2", "Error code: 4003 reason: Websocket frame throttled out"),
        ("wso2_short", "Websocket frame throttled out"),
        ("json", r#"{"error":{"code":4003,"level":"api","message":"throttled out","plan":"p","retry_after_ms":WAIT}}"#),
        (
            r#"{ text: "Grüße: {level} {plan} {code} {retry_after_ms} {level} {other}" }"#,
            "Grüße: api p 4003 WAIT api {other}",
        ),
        (r#"{ text: "" }"#, ""),
    ];
    for (notice, expected) in NOTICES {
        let plan = format!("limits: [{{ rate: 1/h, burst: 1 }}], on_limit: {{ notice: {notice} }}");
        let (mut gateway, upstream) = limited(variant, &plan, "");
        let mut both = gateway.session("/chat", &upstream);
        passes(&mut both, 1);
        let (client, backend) = &mut both;
        for sender in [true, false] {
            if sender { &mut *client } else { &mut *backend }.send_frame(&Frame::binary(*b"too much"));
            // So long as the wait has seven digits all of this is known but them.
            let bytes = raw(client, text_frame(&expected.replace("WAIT", "3599999")).len());
            let (frame, length) = Frame::decode(&bytes).expect("a frame");
            assert_eq!(length, bytes.len(), "{}", bytes.escape_ascii());
            let said = String::from_utf8(frame.payload).expect("UTF-8");
            let (before, behind) = expected.split_once("WAIT").unwrap_or((expected, ""));
            let wait = said
                .strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(behind))
                .unwrap_or_else(|| panic!("{said}"));
            assert_eq!(bytes, text_frame(&expected.replace("WAIT", wait)), "{said}");
            if expected.contains("WAIT") {
                let wait_ms: u64 = wait.parse().unwrap_or_else(|_| panic!("{said}"));
                assert!((3_500_000..=3_600_000).contains(&wait_ms), "{said}");
            }
        }
        backend.expect_silence(Duration::from_millis(20));
        gateway.probe();
    }
}

fn a_session_is_told_so_often_and_no_more(variant: Variant) {
    let plan = "limits: [{ quota: 0/year }], on_limit: { notices: 3, notices_per_second: 2 }";
    let (mut gateway, upstream) = limited(variant, plan, "");
    let (mut client, _backend) = gateway.session("/chat", &upstream);
    let ask = |client: &mut Peer, messages: usize| -> usize {
        (0..messages).for_each(|_| client.send_frame(&Frame::text("x")));
        // A ping of ours is answered behind all that was said of those before it.
        let mut told = 0;
        while let Some(frame) = client.frame_within(Duration::from_millis(200)) {
            assert_eq!((frame.opcode, frame.payload.as_slice()), (Opcode::TEXT, super::NOTICE.as_bytes()));
            told += 1;
        }
        told
    };
    assert_eq!(ask(&mut client, 20), 3);
    // Another session has its own.
    let (mut other, _its_backend) = gateway.session("/chat", &upstream);
    assert_eq!(ask(&mut other, 5), 3);
    thread::sleep(Duration::from_millis(1700));
    assert_eq!(ask(&mut client, 20), 3, "not more than at the beginning");
    thread::sleep(Duration::from_millis(500));
    let told = ask(&mut client, 20);
    assert!((1..=2).contains(&told), "two in a second, and {told} in 0.7 s");
    let notices =
        |outcome| gateway.metric("framegate_throttle_notices_total", &[("api", "chat"), ("outcome", outcome)]);
    assert_eq!((notices("said"), notices("suppressed")), (9.0 + told as f64, 56.0 - told as f64));
    // Nobody is told where no notice is to be said.
    applied(&gateway, &gateway.setup().yaml().replace("notices: 3", "notices: 0"));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(ask(&mut client, 5), 0);
    gateway.probe();
}

fn messages_in_a_row_that_were_too_much_close_a_session_and_one_that_passes_begins_anew(variant: Variant) {
    let plan = "limits: [{ quota: 3/4 seconds }], on_limit: { close_after: 3, code: 4029, reason: enough }";
    let (mut gateway, upstream) = limited(variant, plan, "");
    begin_of_window(4);
    let mut both = gateway.session("/chat", &upstream);
    for window in 0..2 {
        passes(&mut both, 3);
        let (client, backend) = &mut both;
        // The other side has a row of its own.
        for (of_client, text) in [(true, "one"), (false, "aside"), (true, "two"), (false, "aside")] {
            if of_client { &mut *client } else { &mut *backend }.send_frame(&Frame::text(text));
            client.expect(Opcode::TEXT, super::NOTICE.as_bytes());
        }
        if window == 0 {
            begin_of_window(4);
        }
    }
    let (client, backend) = &mut both;
    client.send_frame(&Frame::text("three"));
    assert_eq!(client.expect_close(4029), "enough");
    assert_eq!(backend.expect_close(4029), "enough");
    let line = gateway.logged("close", "chat");
    assert_eq!((&line["messages_throttled"], &line["throttled_by"]), (&9.into(), &"api".into()), "{line}");
    assert_eq!((&line["reason"], &line["termination"]), (&"throttled".into(), &"GT".into()), "{line}");
    gateway.probe();
}

/// Waits until a window of so many seconds begins.
fn begin_of_window(seconds: u64) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64;
    // The workers look at the wall clock once a second.
    thread::sleep(Duration::from_millis(seconds * 1000 - since % (seconds * 1000) + 50));
}

/// So many messages, so slowly that the worker takes no more of the quota in hand than it needs: that counts as used.
fn slowly(both: &mut (Peer, Peer), messages: usize) {
    for _ in 0..messages {
        passes(both, 1);
        thread::sleep(Duration::from_millis(21));
    }
}

/// The lines of the diagnostic log that have all of these.
fn lines(gateway: &Gateway, words: &[&str]) -> Vec<String> {
    let said = gateway.said("dataplane");
    said.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
}

fn the_log_has_one_warning_for_each_mark_in_each_window(variant: Variant) {
    const WARNING: &str = "a quota is used so far";
    let plan = "warn_at: [50, 90], limits: [{ quota: 100/6 seconds }], on_limit: { action: drop }";
    let (mut gateway, upstream) = limited(variant, plan, "");
    let mut both = gateway.session("/chat", &upstream);
    let all = [" WARN ", WARNING, "level=\"api\"", "plan=\"p\"", "key=\"chat\"", "amount=100"];
    let warned = |percent: &str| lines(&gateway, &[&all[..], &[percent]].concat()).len();
    begin_of_window(6);
    slowly(&mut both, 40);
    thread::sleep(Duration::from_millis(1100));
    assert_eq!((warned("percent=50 "), warned("percent=90 ")), (0, 0), "forty are less than half");
    slowly(&mut both, 11);
    until("the first mark is said", || warned("percent=50 ") == 1);
    assert_eq!(warned("percent=90 "), 0);
    passes(&mut both, 49);
    until("the second mark is said", || warned("percent=90 ") == 1);
    for _ in 0..5 {
        both.0.send_frame(&Frame::text("too much"));
    }
    until("it is said that the limit stops messages", || !lines(&gateway, &["a limit stops messages"]).is_empty());
    begin_of_window(6);
    // What passes both marks at once is one warning.
    passes(&mut both, 100);
    until("the next window is warned of", || warned("percent=90 ") == 2);
    both.0.send_frame(&Frame::text("too much"));
    thread::sleep(Duration::from_millis(1500));
    let said = (warned("percent=50 "), warned("percent=90 "));
    assert!(said == (1, 2) || said == (2, 2), "{said:?}: {}", gateway.log_tail());
    let stops = lines(&gateway, &["a limit stops messages"]);
    assert_eq!(stops.len(), 1, "said once: {stops:?}");
    for word in [" INFO ", "level=\"api\"", "plan=\"p\"", "key=\"chat\""] {
        assert!(stops[0].contains(word), "{word}: {}", stops[0]);
    }
    assert_eq!(lines(&gateway, &[WARNING]).len(), said.0 + said.1, "{}", gateway.log_tail());
    gateway.probe();
}

fn what_is_secret_of_a_key_is_written_nowhere(variant: Variant) {
    let upstream = RawUpstream::listen();
    let limit = |name: &str, key: &str| format!("  - {{ name: {name}, key: [\"{key}\"], plan: few }}\n");
    let limits = [
        ("by-authorization", "header:Authorization"),
        ("by-cookie", "header:Cookie"),
        ("by-api-key", "query:apikey"),
        ("by-ticket", "query:ticket"),
        ("by-private-token", "header:private-token"),
        ("by-own-header", "header:X-Own-Authorization"),
        ("by-own-key", "header:x-own-key"),
        ("by-tenant", "header:X-Tenant"),
    ]
    .map(|(name, key)| limit(name, key));
    let own = "authentication: { accept: [bearer, api_key], authorization_header: X-Own-Authorization, api_key_name: X-Own-Key }";
    let plan = "plans:\n  - { name: few, warn_at: [20], limits: [{ quota: 5/year }], on_limit: { notice: json } }\n";
    let mut gateway = Setup::new(variant)
        .settings("drain_window: 1s, secret_query_parameters: [ticket]")
        .document(&format!("{plan}limits:\n{}", limits.concat()))
        .api_to("chat", &upstream.url("/"), "")
        .api_to("own", &upstream.url("/"), own)
        .start();
    let mut secrets = Secrets::new();
    // What another API takes for a credential is one here too: it may be sent to the wrong one.
    let fields = [
        ("Authorization", "Bearer geheim-4711"),
        ("Cookie", "sid=keks-0815"),
        ("PRIVATE-TOKEN", "fgk-privat-2718"),
        ("X-Own-Authorization", "Bearer eigen-3141"),
        ("X-Own-Key", "fgk-schluessel-5"),
        ("X-Tenant", "acme corp"),
    ];
    fields[..5].iter().for_each(|(name, value)| secrets.add(name, value));
    [("apikey", "fgk-anruf-112"), ("ticket", "karte-99xy")].iter().for_each(|(name, value)| secrets.add(name, value));
    for (at, target) in ["/chat?apikey=fgk-anruf-112", "/chat?ticket=karte-99xy", "/chat"].into_iter().enumerate() {
        let mut both = session_with(&gateway, &upstream, target, if at < 2 { &[] } else { &fields });
        passes(&mut both, 5);
        both.0.send_frame(&Frame::text("too much"));
        let (_, notice) = both.0.message();
        secrets.expect_none("a notice", &notice);
    }
    until("each that has stopped something has said so", || lines(&gateway, &["a limit stops messages"]).len() == 3);
    until("warnings of all keys", || {
        let of = |name: &str| lines(&gateway, &["a quota is used so far", "level=\"keyed\"", name]).len();
        let secret = ["authorization", "cookie", "api-key", "ticket", "private-token", "own-header", "own-key"];
        secret.iter().all(|name| of(&format!("by-{name}: sha256:")) == 1) && of(r"by-tenant: acme\\ corp") == 1
    });
    let usage = gateway.verb("usage", &[]);
    assert!(usage.stdout.matches("sha256:").count() == 7 && usage.stdout.contains("acme"), "{usage:?}");
    secrets.expect_none("framegate usage", usage.stdout.as_bytes());
    for plane in ["dataplane", "controlplane", "sessions.log"] {
        secrets.expect_none(plane, gateway.said(plane).as_bytes());
    }
    let (_, metrics) = gateway.ask("/metrics").expect("metrics");
    secrets.expect_none("metrics", metrics.as_bytes());
    gateway.probe();
    gateway.signal(libc::SIGTERM);
    assert!(gateway.ended().success());
    let kept = gateway.said("state-dataplane/limits");
    assert!(kept.matches("sha256:").count() == 7 && kept.contains("acme"), "{kept}");
    secrets.expect_none("what is kept", kept.as_bytes());
}
