//! What becomes of a peer that breaks a rule, and of the other one.

use proto::ws::{CloseCode, FrameHeader, Opcode, Violation};

use super::bench::{Bench, KEY, close, keyed, of, size, text};
use crate::record::{Cause, Side};
use crate::relay::session::{Ending, Leg, LegState};

/// A frame's first two bytes, and what follows them.
fn raw(leg: Leg, first: u8, length: u8, rest: &[u8]) -> Vec<u8> {
    let mask = if leg == Leg::Client { 0x80 } else { 0 };
    [&[first, mask | length], rest].concat()
}

/// Bytes that break the rule, behind whole frames that keep it.
fn breach(violation: Violation, leg: Leg) -> Option<Vec<u8>> {
    let begun = of(leg, Opcode::Binary, false, "ab");
    Some(match violation {
        Violation::ReservedBit => raw(leg, 0xc1, 0, b""),
        Violation::ReservedOpcode => raw(leg, 0x83, 0, b""),
        Violation::Unmasked if leg == Leg::Client => keyed(None, Opcode::Text, true, "x"),
        Violation::Masked if leg == Leg::Upstream => keyed(Some(KEY), Opcode::Text, true, "x"),
        Violation::Unmasked | Violation::Masked => return None,
        Violation::FragmentedControl => raw(leg, 0x09, 0, b""),
        Violation::LongControl => raw(leg, 0x89, 126, &[0, 126]),
        Violation::BadLength => raw(leg, 0x82, 126, &[0, 125]),
        Violation::UnexpectedContinuation => of(leg, Opcode::Continuation, true, "x"),
        Violation::ExpectedContinuation => [begun, text(leg, "x")].concat(),
        Violation::BadClosePayload => of(leg, Opcode::Close, true, "x"),
        Violation::BadCloseCode => close(leg, 1005, ""),
        Violation::NotUtf8 => of(leg, Opcode::Text, true, b"ok \xff"),
        Violation::FrameTooLarge => of(leg, Opcode::Binary, true, [0; 21]),
        Violation::MessageTooLarge => {
            [of(leg, Opcode::Binary, false, [0; 20]), of(leg, Opcode::Continuation, true, [0; 11])].concat()
        }
        Violation::TooManyFragments => {
            [begun, of(leg, Opcode::Continuation, false, ""), of(leg, Opcode::Continuation, false, "")].concat()
        }
        Violation::ControlFlood => of(leg, Opcode::Pong, true, "").repeat(6),
    })
}

fn strict() -> Bench {
    Bench::with(|options, limits, _| {
        options.validate_utf8 = true;
        limits.max_frame = size(20);
        limits.max_message = size(30);
        limits.max_fragments = 2;
        limits.control_frames_per_second = 5;
    })
}

fn blame(leg: Leg) -> &'static str {
    match leg {
        Leg::Client => "close 1011 client violated the protocol",
        Leg::Upstream => "close 1011 service violated the protocol",
    }
}

#[test]
fn every_breach_closes_the_offender_with_its_code_and_the_other_with_1011() {
    for leg in Leg::BOTH {
        for violation in Violation::ALL {
            let Some(bytes) = breach(violation, leg) else { continue };
            for one_by_one in [false, true] {
                let mut bench = strict();
                bench.feed(leg, text(leg, "before"));
                if one_by_one {
                    bench.trickle(leg, &bytes)
                } else {
                    bench.feed(leg, &bytes)
                }
                bench.feed(leg, text(leg, "after"));
                let verdict = format!("close {} {}", violation.code().0, violation.reason());
                let other = bench.saw(leg.other());
                assert_eq!(other.first().unwrap(), "text before");
                if one_by_one && violation == Violation::NotUtf8 {
                    // The start of the frame has been sent on: no close frame may stand there.
                    assert_eq!(other[1..], ["3 of 4"]);
                    assert_eq!(bench.session.leg(leg.other()), LegState::Severed);
                    bench.assert_saw(leg, &[&verdict]);
                } else {
                    assert_eq!(other.last().unwrap(), blame(leg), "{violation:?} of the {leg:?}");
                    assert!(!other.iter().any(|word| word.contains("after")));
                    assert_eq!(bench.session.leg(leg.other()), LegState::Open, "it owes its answer");
                    bench.assert_saw(leg, &[]);
                    bench.feed(leg.other(), text(leg.other(), "to what came before"));
                    bench.feed(leg.other(), close(leg.other(), 1011, ""));
                    assert_eq!(bench.session.leg(leg.other()), LegState::Finished);
                    bench.assert_saw(leg, &["text to what came before", &verdict]);
                }
                assert_eq!(bench.session.leg(leg), LegState::Finished);
                let (side, direction) = match leg {
                    Leg::Client => (Side::Client, "direction=\"to_upstream\""),
                    Leg::Upstream => (Side::Upstream, "direction=\"to_client\""),
                };
                let ending = Ending { code: violation.code(), side, cause: Cause::Violation(violation) };
                assert_eq!(bench.session.ending(), Some(ending));
                assert_eq!(bench.metric("framegate_violations_total", &[violation.word(), direction]), 1.0);
            }
        }
    }
}

#[test]
fn what_came_before_a_breach_in_the_same_read_is_relayed() {
    for leg in Leg::BOTH {
        let mut bench = strict();
        bench.feed(leg, [text(leg, "one"), text(leg, "two"), of(leg, Opcode::Text, true, b"bad \xc0")].concat());
        bench.assert_saw(leg.other(), &["text one", "text two", blame(leg)]);
        bench.feed(leg.other(), close(leg.other(), 1011, ""));
        bench.assert_saw(leg, &["close 1007 not UTF-8"]);
    }
}

#[test]
fn a_breach_inside_a_frame_that_was_partly_sent_cuts_the_other_leg() {
    for leg in Leg::BOTH {
        let mut bench = strict();
        let frame = of(leg, Opcode::Text, true, b"well begun\xff...");
        bench.feed(leg, &frame[..frame.len() - 8]);
        bench.feed(leg, &frame[frame.len() - 8..]);
        bench.assert_saw(leg.other(), &["6 of 14"]);
        bench.assert_saw(leg, &["close 1007 not UTF-8"]);
        assert_eq!(bench.session.leg(leg.other()), LegState::Severed);
        assert_eq!(bench.session.leg(leg), LegState::Finished);
    }
}

#[test]
fn when_both_directions_are_inside_a_frame_a_breach_cuts_both() {
    let mut bench = strict();
    let (text, blob) =
        (of(Leg::Client, Opcode::Text, true, b"a\xff"), of(Leg::Upstream, Opcode::Binary, true, [7; 20]));
    bench.feed(Leg::Upstream, &blob[..10]);
    bench.feed(Leg::Client, &text[..7]);
    bench.feed(Leg::Client, &text[7..]);
    for leg in Leg::BOTH {
        assert_eq!(bench.session.leg(leg), LegState::Severed, "{leg:?}");
    }
}

#[test]
fn the_offender_is_told_when_the_frame_that_it_is_being_sent_has_ended() {
    let mut bench = strict();
    let blob = of(Leg::Upstream, Opcode::Binary, true, [7; 20]);
    bench.feed(Leg::Upstream, &blob[..10]);
    bench.feed(Leg::Client, breach(Violation::ReservedBit, Leg::Client).unwrap());
    bench.assert_saw(Leg::Upstream, &[blame(Leg::Client)]);
    assert_eq!(bench.raw(Leg::Client), &blob[..10]);
    bench
        .feed(Leg::Upstream, [&blob[10..], &close(Leg::Upstream, 1011, ""), &text(Leg::Upstream, "too late")].concat());
    let close = bench.raw(Leg::Client);
    assert_eq!(&close[..12], &blob[10..]);
    assert_eq!(&close[12..16], b"\x88\x12\x03\xea", "a close frame with 1002 and nothing in between");
}

#[test]
fn an_offender_that_ends_its_stream_still_hears_why() {
    let mut bench = strict();
    let blob = of(Leg::Upstream, Opcode::Binary, true, [7; 20]);
    bench.feed(Leg::Upstream, &blob[..10]);
    bench.feed(Leg::Client, [0xff]);
    bench.end_of_stream(Leg::Client);
    assert_eq!(bench.session.leg(Leg::Client), LegState::Open);
    bench.feed(Leg::Upstream, [&blob[10..], &close(Leg::Upstream, 1011, "")].concat());
    bench.assert_saw(Leg::Client, &["binary \\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07", "close 1002 reserved bit set"]);
    assert_eq!(bench.session.leg(Leg::Client), LegState::Finished);
}

#[test]
fn nothing_counts_that_comes_after_a_breach() {
    let mut bench = strict();
    bench.feed(Leg::Client, [breach(Violation::ReservedOpcode, Leg::Client).unwrap(), text(Leg::Client, "x")].concat());
    bench.feed(Leg::Client, close(Leg::Client, 1000, ""));
    bench.feed(Leg::Client, [0xff, 0xff]);
    assert_eq!(bench.session.ending().unwrap().code, CloseCode::PROTOCOL_ERROR);
    assert_eq!(bench.session.totals(Leg::Client).messages, 0);
    bench.assert_saw(Leg::Upstream, &[blame(Leg::Client)]);
    bench.feed(Leg::Upstream, close(Leg::Upstream, 1011, ""));
    bench.assert_saw(Leg::Client, &["close 1002 reserved opcode"]);
}

#[test]
fn an_offender_is_told_at_last_though_the_other_peer_never_answers() {
    for leg in Leg::BOTH {
        let mut bench = strict();
        bench.feed(leg, breach(Violation::ReservedOpcode, leg).unwrap());
        bench.assert_saw(leg.other(), &[blame(leg)]);
        bench.after(999);
        bench.assert_saw(leg, &[]);
        bench.after(1);
        bench.drain();
        bench.assert_saw(leg, &["close 1002 reserved opcode"]);
        assert_eq!(bench.after(1000), None);
    }
}

#[test]
fn an_offender_is_told_at_once_when_the_other_peer_is_gone() {
    for leg in Leg::BOTH {
        let mut bench = strict();
        bench.feed(leg, breach(Violation::ReservedOpcode, leg).unwrap());
        bench.lose(leg.other());
        bench.assert_saw(leg, &["close 1002 reserved opcode"]);
        assert_eq!(bench.session.leg(leg), LegState::Finished);
    }
}

#[test]
fn a_breach_after_a_close_was_sent_changes_neither_codes_nor_ending() {
    let mut bench = strict();
    bench.facts(|session, facts| session.close(CloseCode::RESTART, Cause::Drain, "service restart", facts));
    bench.drain();
    bench.feed(Leg::Client, [0xff]);
    for leg in Leg::BOTH {
        bench.assert_saw(leg, &["close 1012 service restart"]);
    }
    assert_eq!(bench.session.ending().unwrap().cause, Cause::Drain);
    assert_eq!(bench.session.leg(Leg::Client), LegState::Finished);
}

#[test]
fn a_length_near_the_ends_of_its_range_is_refused_on_the_header() {
    for (length, violation) in [
        (u64::MAX, Violation::BadLength),
        (1 << 63, Violation::BadLength),
        ((1 << 63) - 1, Violation::FrameTooLarge),
        (u64::from(u32::MAX) + 1, Violation::FrameTooLarge),
    ] {
        let mut bench = strict();
        let (mut header, end) =
            FrameHeader { fin: true, rsv1: false, opcode: Opcode::Binary, mask: Some(KEY), length: 1 << 20 }.encode();
        header[2..10].copy_from_slice(&length.to_be_bytes());
        bench.feed(Leg::Client, &header[..end]);
        assert_eq!(bench.session.ending().unwrap().cause, Cause::Violation(violation), "{length:x}");
        bench.assert_saw(Leg::Upstream, &[blame(Leg::Client)]);
    }
}

#[test]
fn a_frame_without_a_ceiling_may_announce_the_longest_payload_without_memory() {
    let mut bench = Bench::with(|_, limits, _| (limits.max_frame, limits.max_message) = (size(0), size(0)));
    let header = FrameHeader { fin: false, rsv1: false, opcode: Opcode::Binary, mask: None, length: i64::MAX as u64 };
    let (bytes, end) = header.encode();
    bench.feed(Leg::Upstream, &bytes[..end]);
    bench.feed(Leg::Upstream, [0; 1000]);
    assert_eq!(bench.session.unseen(Leg::Upstream), i64::MAX as u64 - 1000);
    assert_eq!(bench.session.ending(), None);
}
