//! What both peers see when one of them breaks a rule: the offender its close code and why, the other one 1011, and
//! neither of them a byte of what was wrong.
//!
//! The table is written down here a second time on purpose: who changes what peers see changes it twice.

use crate::kit::frame::LengthForm;
use crate::kit::{Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Variant, on_every_variant, on_single_legs, until};

on_every_variant!(
    a_client_that_breaks_a_rule,
    an_upstream_that_breaks_a_rule,
    a_violation_behind_good_frames_does_not_take_them_along,
    what_the_other_peer_has_to_say_still_arrives,
    a_violation_inside_a_frame_that_is_under_way_cuts_the_other_leg,
    a_header_is_judged_before_its_payload_comes,
    the_other_peer_may_take_its_time_to_close_but_not_for_ever,
);

on_single_legs!(
    what_the_other_peer_has_to_say_still_arrives,
    a_violation_inside_a_frame_that_is_under_way_cuts_the_other_leg,
    the_other_peer_may_take_its_time_to_close_but_not_for_ever,
);

/// Name, close code, word.
const TABLE: [(&str, u16, &str); 16] = [
    ("ReservedBit", 1002, "reserved_bit"),
    ("ReservedOpcode", 1002, "reserved_opcode"),
    ("Unmasked", 1002, "unmasked"),
    ("Masked", 1002, "masked"),
    ("FragmentedControl", 1002, "fragmented_control"),
    ("LongControl", 1002, "long_control"),
    ("BadLength", 1002, "bad_length"),
    ("UnexpectedContinuation", 1002, "unexpected_continuation"),
    ("ExpectedContinuation", 1002, "expected_continuation"),
    ("BadClosePayload", 1002, "bad_close_payload"),
    ("BadCloseCode", 1002, "bad_close_code"),
    ("NotUtf8", 1007, "not_utf8"),
    ("FrameTooLarge", 1009, "frame_too_large"),
    ("MessageTooLarge", 1009, "message_too_large"),
    ("TooManyFragments", 1008, "too_many_fragments"),
    ("ControlFlood", 1008, "control_flood"),
];

/// Ceilings that a short script can reach.
const LOW: &str = "limits: { max_frame: 1000, max_message: 2000, max_fragments: 3, control_frames_per_second: 5 }, \
                   session: { validate_utf8: true, close_timeout: 500ms }";

/// As in [`LOW`].
const PINGS_PER_SECOND: usize = 5;

/// Frames that are in order, and the one that breaks a rule behind them.
type Offence = (&'static str, Vec<Frame>, Frame);

/// Every offence that either side can commit.
fn offences() -> Vec<Offence> {
    let start = || Frame::text("a").unfinished();
    let more = || Frame::continuation("b").unfinished();
    let mut offences = vec![
        ("FragmentedControl", vec![], Frame::ping("x").unfinished()),
        ("FragmentedControl", vec![start()], Frame::close(1000, "").unfinished()),
        ("LongControl", vec![], Frame::ping(vec![b'x'; 126])),
        ("LongControl", vec![], Frame::pong(vec![b'x'; 70_000])),
        ("BadLength", vec![], Frame::text("short").length_form(LengthForm::Two)),
        ("BadLength", vec![], Frame::text("short").length_form(LengthForm::Eight)),
        ("BadLength", vec![], Frame::binary(vec![0; 300]).length_form(LengthForm::Eight)),
        ("BadLength", vec![], Frame::binary("").length_form(LengthForm::Claimed(1 << 63))),
        ("BadLength", vec![], Frame::binary("").length_form(LengthForm::Claimed(u64::MAX))),
        ("UnexpectedContinuation", vec![], Frame::continuation("x")),
        ("UnexpectedContinuation", vec![Frame::text("whole")], Frame::continuation("x").unfinished()),
        ("ExpectedContinuation", vec![start()], Frame::text("x")),
        ("ExpectedContinuation", vec![start(), more()], Frame::binary("x").unfinished()),
        ("BadClosePayload", vec![], Frame::new(Opcode::CLOSE, "x")),
        ("NotUtf8", vec![], Frame::new(Opcode::TEXT, b"\xff".to_vec())),
        ("NotUtf8", vec![], Frame::new(Opcode::TEXT, b"half \xe4\xb8".to_vec())),
        ("NotUtf8", vec![start()], Frame::continuation(b"\xc0\x80".to_vec())),
        ("NotUtf8", vec![], Frame::new(Opcode::CLOSE, b"\x03\xe8\xff".to_vec())),
        ("FrameTooLarge", vec![], Frame::binary(vec![0; 1001])),
        ("FrameTooLarge", vec![], Frame::binary("").length_form(LengthForm::Claimed((1 << 63) - 1))),
        ("TooManyFragments", vec![start(), more(), more()], Frame::continuation("")),
    ];
    // Twice 1000 is the ceiling exactly; one more is over it.
    let full = vec![Frame::binary(vec![0; 1000]).unfinished(), Frame::continuation(vec![0; 1000]).unfinished()];
    offences.push(("MessageTooLarge", full, Frame::continuation("x")));
    for bits in [1, 2, 4, 7] {
        offences.push(("ReservedBit", vec![], Frame::text("x").reserved(bits)));
        offences.push(("ReservedBit", vec![], Frame::ping("x").reserved(bits)));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        offences.push(("ReservedOpcode", vec![], Frame::new(Opcode(opcode), "x")));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        offences.push(("BadCloseCode", vec![], Frame::close(code, "x")));
    }
    offences
}

fn a_client_that_breaks_a_rule(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), LOW).start();
    for offence in offences() {
        let (client, backend) = gateway.session("/chat", &upstream);
        commit(&mut gateway, client, backend, &offence, "to_upstream");
    }
    let (client, backend) = gateway.session("/chat", &upstream);
    flood(&mut gateway, client, backend, "to_upstream");
    let (client, backend) = gateway.session("/chat", &upstream);
    commit_bytes(&mut gateway, client, backend, ("Unmasked", &[], &Frame::text("bare").encode()), "to_upstream");
    gateway.probe();
}

fn an_upstream_that_breaks_a_rule(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), LOW).start();
    for offence in offences() {
        let (client, backend) = gateway.session("/chat", &upstream);
        commit(&mut gateway, backend, client, &offence, "to_client");
    }
    let (client, backend) = gateway.session("/chat", &upstream);
    flood(&mut gateway, backend, client, "to_client");
    let (client, backend) = gateway.session("/chat", &upstream);
    let masked = Frame::text("hidden").masked([1, 2, 3, 4]).encode();
    commit_bytes(&mut gateway, backend, client, ("Masked", &[], &masked), "to_client");
    gateway.probe();
}

#[track_caller]
fn commit(gateway: &mut Gateway, mut offender: Peer, other: Peer, offence: &Offence, direction: &str) {
    let (violation, before, frame) = offence;
    let wrong = offender.dressed(frame).encode();
    commit_bytes(gateway, offender, other, (violation, before, &wrong), direction);
}

/// Pings that are too many even if the gateway's second ends among them.
#[track_caller]
fn flood(gateway: &mut Gateway, mut offender: Peer, other: Peer, direction: &str) {
    let pings: Vec<u8> = (0..=2 * PINGS_PER_SECOND).flat_map(|_| offender.dressed(&Frame::ping("")).encode()).collect();
    commit_bytes(gateway, offender, other, ("ControlFlood", &[], &pings), direction);
}

/// Sends good frames and then wrong bytes, and checks what each peer sees, what is counted and what is logged.
#[track_caller]
fn commit_bytes(
    gateway: &mut Gateway,
    mut offender: Peer,
    mut other: Peer,
    (violation, before, wrong): (&str, &[Frame], &[u8]),
    direction: &str,
) {
    let (_, code, word) = TABLE.into_iter().find(|row| row.0 == violation).expect("a violation of the table");
    let what = format!("{violation} {direction}: {}", wrong[..wrong.len().min(40)].escape_ascii());
    println!("{what}");
    let labels = [("api", "chat"), ("direction", direction), ("reason", word)];
    let counted = gateway.metric("framegate_violations_total", &labels);
    let logged = gateway.log_lines().len();

    for frame in before {
        offender.send_frame(frame);
        let heard = other.frame();
        let wanted = (frame.fin, frame.reserved, frame.opcode, &frame.payload);
        assert_eq!((heard.fin, heard.reserved, heard.opcode, &heard.payload), wanted, "{what}");
    }
    offender.try_send(wrong);

    // Nobody's clock but the gateway's says which of a flood came in time.
    let pings = if violation == "ControlFlood" { PINGS_PER_SECOND..=2 * PINGS_PER_SECOND } else { 0..=0 };
    let mut passed = 0;
    let last = loop {
        match other.frame() {
            frame if frame.opcode == Opcode::PING && passed < *pings.end() => passed += 1,
            frame => break frame,
        }
    };
    assert!(pings.contains(&passed), "{what}: {passed} passed");
    assert_eq!((last.opcode, &last.payload[..2]), (Opcode::CLOSE, &1011_u16.to_be_bytes()[..]), "{what}: {last:?}");
    other.send_frame(&Frame::close(1011, ""));
    let reason = offender.expect_close(code);
    assert!(!reason.is_empty(), "{what}");
    // Both have what they need; neither waits for the other to hang up first.
    other.finish();
    offender.finish();
    other.expect_end();
    offender.expect_end();

    assert_eq!(gateway.metric("framegate_violations_total", &labels), counted + 1.0, "{what}");
    let side = if direction == "to_upstream" { "client" } else { "upstream" };
    until("the end of the session is in the log", || {
        let lines = gateway.log_lines();
        lines[logged..].iter().any(|line| {
            line["event"] == "close" && line["reason"] == word && line["side"] == side && line["code"] == code
        })
    });
}

fn a_violation_behind_good_frames_does_not_take_them_along(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), LOW).start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    // One segment: two good frames, a wrong one, and a good one that no longer counts.
    let frames = [Frame::text("one"), Frame::text("two"), Frame::new(Opcode(3), "three"), Frame::text("four")];
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| client.dressed(frame).encode()).collect();
    client.send(&bytes);
    backend.expect(Opcode::TEXT, b"one");
    backend.expect(Opcode::TEXT, b"two");
    backend.expect_close(1011);
    client.expect_close(1002);
    client.expect_end();
    drop(backend);
    gateway.probe();
}

fn what_the_other_peer_has_to_say_still_arrives(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), LOW).start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let bytes = [Frame::text("question"), Frame::new(Opcode(3), "wrong")].map(|frame| client.dressed(&frame).encode());
    client.send(&bytes.concat());
    backend.expect(Opcode::TEXT, b"question");
    backend.expect_close(1011);
    // The answer was on its way; the offender reads it, and then why it is closed.
    backend.send_frame(&Frame::text("answer"));
    backend.send_frame(&Frame::close(1011, ""));
    client.expect(Opcode::TEXT, b"answer");
    client.expect_close(1002);
    client.expect_end();
    gateway.probe();
}

fn a_violation_inside_a_frame_that_is_under_way_cuts_the_other_leg(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), LOW).start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    // Half a frame has reached the upstream when the other half turns out not to be UTF-8: no close frame can stand
    // inside a frame, so the upstream sees the connection end.
    let frame = Frame::text(&"x".repeat(800)).masked([1, 2, 3, 4]).encode();
    client.send(&frame[..400]);
    assert!(backend.hear(), "what has come of a frame is passed on");
    client.send(&[0xff ^ 1; 100]);
    client.expect_close(1007);
    let rest = backend.rest();
    assert!(rest.len() < 800, "{} bytes", rest.len());
    client.expect_end();
    gateway.probe();
}

fn a_header_is_judged_before_its_payload_comes(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), LOW).start();
    // Only the header is sent, never a byte of the payload that it announces: the verdict does not wait for one.
    for (length, code) in [(1001, 1009), (1 << 40, 1009), (1 << 63, 1002)] {
        let (mut client, mut backend) = gateway.session("/chat", &upstream);
        let form = if length == 1001 { LengthForm::Shortest } else { LengthForm::Claimed(length) };
        let payload = if length == 1001 { vec![0; 1001] } else { Vec::new() };
        let header = Frame::binary(payload).length_form(form).masked([5; 4]).encode();
        client.send(&header[..if length == 1001 { 8 } else { 14 }]);
        client.expect_close(code);
        backend.expect_close(1011);
    }
    gateway.probe();
}

fn the_other_peer_may_take_its_time_to_close_but_not_for_ever(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), LOW).start();
    let before = gateway.descriptors();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    client.send(&Frame::text("bare").encode());
    client.expect_close(1002);
    backend.expect_close(1011);
    // It never answers: after the close timeout it is let go, and nothing is left behind.
    backend.expect_end();
    drop((client, backend));
    gateway.expect_descriptors_back_to(before);
    gateway.probe();
}
