//! What passes, what stays, and under which keys.

use proto::ws::Opcode;

use super::bench::{Bench, KEY, close, keyed, of, size, text, under};
use crate::record::Cause;
use crate::relay::session::{CONTROL_FRAME_MAX, Leg, Totals};
use proto::snapshot::PeerPings;
use proto::ws::Violation;

#[test]
fn frames_that_keep_the_rules_pass_byte_for_byte() {
    for leg in Leg::BOTH {
        let mut bench = Bench::new();
        let mut key = 0;
        let mut frame = |opcode, fin, payload: &[u8]| {
            key += 1;
            keyed((leg == Leg::Client).then_some([key, 9, 9, 9]), opcode, fin, payload)
        };
        let stream = [
            frame(Opcode::Text, true, b"Hello"),
            frame(Opcode::Binary, false, &[1; 200]),
            frame(Opcode::Ping, true, b"p"),
            frame(Opcode::Continuation, false, b""),
            frame(Opcode::Pong, true, b""),
            frame(Opcode::Continuation, true, &[2; 70_000]),
            frame(Opcode::Text, true, b""),
        ]
        .concat();
        bench.feed(leg, &stream);
        assert!(bench.raw(leg.other()) == stream, "{leg:?}");
        assert_eq!(bench.session.totals(leg), Totals { messages: 3, bytes: 5 + 200 + 70_000 });
        assert_eq!(bench.session.totals(leg.other()), Totals::default());
    }
}

#[test]
fn a_frame_flows_through_in_pieces_and_only_its_start_is_held() {
    for leg in Leg::BOTH {
        let mut bench = Bench::new();
        let frame = of(leg, Opcode::Binary, true, [5; 300]);
        let header = frame.len() - 300;
        for (at, byte) in frame.iter().enumerate() {
            bench.feed(leg, [*byte]);
            let sent = bench.raw(leg.other());
            match at + 1 {
                sofar if sofar < header => assert!(sent.is_empty()),
                sofar if sofar == header => assert_eq!(sent, frame[..header]),
                _ => assert_eq!(sent, [*byte]),
            }
        }
    }
}

#[test]
fn a_control_frame_is_held_until_it_is_whole() {
    let mut bench = Bench::new();
    let ping = of(Leg::Client, Opcode::Ping, true, [7; 125]);
    bench.trickle(Leg::Client, &ping[..ping.len() - 1]);
    assert!(bench.raw(Leg::Upstream).is_empty());
    let mut room = [0; CONTROL_FRAME_MAX];
    let held = bench.session.take_held(Leg::Client, &mut room);
    assert_eq!(room[CONTROL_FRAME_MAX - held..], ping[..ping.len() - 1]);
    assert_eq!(bench.session.take_held(Leg::Client, &mut room), 0, "it is taken once");
    bench.feed(Leg::Client, &ping);
    assert_eq!(bench.raw(Leg::Upstream), ping);
}

#[test]
fn keys_that_are_zero_or_repeated_are_replaced_and_no_others() {
    let mut bench = Bench::new();
    let zero = |opcode, fin, payload: &str| keyed(Some([0; 4]), opcode, fin, payload);
    bench.feed(
        Leg::Client,
        [
            under(1, Opcode::Text, "kept"),
            under(2, Opcode::Text, "kept too"),
            under(2, Opcode::Text, "repeated"),
            under(2, Opcode::Ping, "again"),
            under(3, Opcode::Ping, "kept"),
            zero(Opcode::Text, false, "zero in two "),
            zero(Opcode::Ping, true, "between"),
            zero(Opcode::Continuation, true, "fragments"),
            under(3, Opcode::Text, ""),
            under(3, Opcode::Text, "empty before"),
        ]
        .concat(),
    );
    bench.assert_saw(
        Leg::Upstream,
        &[
            "text kept",
            "text kept too",
            "text repeated",
            "ping again",
            "ping kept",
            "text... zero in two ",
            "ping between",
            "more fragments",
            "text",
            "text empty before",
        ]
        .map(str::trim_end),
    );
    let keys = &bench.keys_seen;
    assert_eq!((keys[0][0], keys[1][0], keys[4][0], keys[8][0]), (1, 2, 3, 3));
    assert!(keys.iter().all(|key| *key != [0; 4]));
    assert!(keys.windows(2).all(|two| two[0] != two[1]), "{keys:x?}");
    // Of the ten, the gateway has replaced the repeated and the zero ones.
    let kept = |key: &[u8; 4]| key[1..] == [1, 2, 3];
    assert_eq!(keys.iter().filter(|key| kept(key)).count(), 4);
}

#[test]
fn a_replaced_key_holds_for_every_piece_of_its_frame() {
    let payload: Vec<u8> = (0..=255).collect();
    let frame = keyed(Some([0; 4]), Opcode::Binary, true, &payload);
    for cut in 0..frame.len() {
        let mut bench = Bench::new();
        if cut > 0 {
            bench.feed(Leg::Client, &frame[..cut]);
        }
        bench.feed(Leg::Client, &frame[cut..]);
        bench.assert_saw(Leg::Upstream, &["binary 256 bytes"]);
        let mut sent = Bench::new();
        sent.feed(Leg::Client, &frame);
        let raw = sent.raw(Leg::Upstream);
        assert!(raw[8..] != payload[..]);
        let key: [u8; 4] = raw[4..8].try_into().unwrap();
        assert!(raw[8..].iter().zip(&payload).enumerate().all(|(at, (sent, plain))| sent ^ plain == key[at % 4]));
    }
}

#[test]
fn on_an_upstream_that_asks_for_it_every_key_is_fresh() {
    let mut bench = Bench::with(|_, _, birth| birth.fresh_mask = true);
    bench.feed(
        Leg::Client,
        [under(1, Opcode::Text, "a"), under(2, Opcode::Ping, "b"), close(Leg::Client, 1000, "c")].concat(),
    );
    bench.assert_saw(Leg::Upstream, &["text a", "ping b", "close 1000 c"]);
    assert!(bench.keys_seen.iter().all(|key| key[1..] != [1, 2, 3] && *key != KEY));
}

#[test]
fn text_is_checked_across_fragments_control_frames_and_reads() {
    let (euro, kosme) = ("€".as_bytes(), "κόσμε".as_bytes());
    for leg in Leg::BOTH {
        let stream = [
            of(leg, Opcode::Text, false, &euro[..1]),
            of(leg, Opcode::Ping, true, [0xff]),
            of(leg, Opcode::Continuation, false, ""),
            of(leg, Opcode::Continuation, true, [&euro[1..], kosme].concat()),
            of(leg, Opcode::Binary, true, [0xff]),
            of(leg, Opcode::Text, true, kosme),
        ]
        .concat();
        let mut bench = Bench::with(|options, _, _| options.validate_utf8 = true);
        bench.feed(leg, &stream);
        let whole = bench.saw(leg.other());
        assert_eq!((whole.len(), bench.session.ending()), (6, None));
        let mut bench = Bench::with(|options, _, _| options.validate_utf8 = true);
        bench.trickle(leg, &stream);
        assert_eq!(bench.saw(leg.other()), whole);
    }
}

#[test]
fn a_text_message_does_not_end_inside_a_character() {
    for leg in Leg::BOTH {
        let mut bench = Bench::with(|options, _, _| options.validate_utf8 = true);
        bench.feed(leg, of(leg, Opcode::Text, false, [0xe2, 0x82]));
        bench.feed(leg, of(leg, Opcode::Continuation, true, ""));
        assert_eq!(bench.session.ending().unwrap().cause, Cause::Violation(Violation::NotUtf8));
        let saw = bench.saw(leg.other());
        assert_eq!(saw.len(), 2, "the fragment, and a close frame behind it: {saw:?}");
    }
}

#[test]
fn text_is_not_checked_where_nobody_asks_or_where_it_is_compressed() {
    let mut bench = Bench::new();
    bench.feed(Leg::Client, of(Leg::Client, Opcode::Text, true, [0xff]));
    assert_eq!(bench.session.ending(), None);
    let mut bench = Bench::with(|options, _, birth| (options.validate_utf8, birth.rsv1) = (true, true));
    bench.feed(Leg::Upstream, [0xc1, 1, 0xff]);
    bench.feed(Leg::Upstream, [0x41, 1, 0xff]);
    bench.feed(Leg::Upstream, [0x80, 1, 0xff]);
    assert_eq!(bench.session.ending(), None);
    bench.feed(Leg::Upstream, [0x81, 1, 0xff]);
    assert_eq!(bench.session.ending().unwrap().cause, Cause::Violation(Violation::NotUtf8));
}

#[test]
fn ceilings_are_those_of_the_moment_at_which_a_message_begins() {
    let mut bench = Bench::new();
    bench.feed(Leg::Client, of(Leg::Client, Opcode::Binary, false, [1; 50]));
    bench.adopt(|limits| limits.max_message = size(60));
    bench.feed(Leg::Client, of(Leg::Client, Opcode::Continuation, true, [1; 50]));
    assert_eq!(bench.session.ending(), None, "the message had begun");
    bench.feed(Leg::Client, of(Leg::Client, Opcode::Binary, false, [1; 50]));
    bench.adopt(|limits| limits.max_message = size(1000));
    bench.feed(Leg::Client, of(Leg::Client, Opcode::Continuation, true, [1; 50]));
    assert_eq!(bench.session.ending().unwrap().cause, Cause::Violation(Violation::MessageTooLarge));
}

#[test]
fn zero_is_no_ceiling() {
    let mut bench = Bench::with(|_, limits, _| {
        (limits.max_frame, limits.max_message) = (size(0), size(0));
        (limits.max_fragments, limits.control_frames_per_second) = (0, 0);
    });
    bench.feed(Leg::Client, of(Leg::Client, Opcode::Binary, false, vec![0; 3 << 20]));
    for _ in 0..3000 {
        bench.feed(Leg::Client, of(Leg::Client, Opcode::Continuation, false, ""));
        bench.feed(Leg::Client, of(Leg::Client, Opcode::Pong, true, ""));
    }
    assert_eq!(bench.session.ending(), None);
}

#[test]
fn control_frames_are_counted_by_the_second() {
    let mut bench = Bench::with(|_, limits, _| limits.control_frames_per_second = 3);
    let pings = of(Leg::Client, Opcode::Ping, true, "").repeat(3);
    bench.feed(Leg::Client, &pings);
    bench.now_ms += 1000;
    bench.feed(Leg::Client, &pings);
    bench.feed(Leg::Upstream, of(Leg::Upstream, Opcode::Pong, true, "").repeat(3));
    assert_eq!(bench.session.ending(), None);
    bench.feed(Leg::Client, of(Leg::Client, Opcode::Pong, true, ""));
    assert_eq!(bench.session.ending().unwrap().cause, Cause::Violation(Violation::ControlFlood));
}

#[test]
fn pings_are_answered_here_by_choice_between_fragments_at_once() {
    for leg in Leg::BOTH {
        let mut bench = Bench::with(|options, _, _| options.peer_pings = PeerPings::Answer);
        bench.feed(leg, [of(leg, Opcode::Text, false, "a"), of(leg, Opcode::Ping, true, "are you there?")].concat());
        bench.assert_saw(leg, &["pong are you there?"]);
        bench.feed(
            leg,
            [of(leg, Opcode::Pong, true, "nobody asked"), of(leg, Opcode::Continuation, true, "b")].concat(),
        );
        bench.assert_saw(leg, &[]);
        bench.assert_saw(leg.other(), &["text... a", "more b"]);
    }
}

#[test]
fn a_peer_that_does_not_read_is_answered_its_newest_ping_only() {
    let mut bench = Bench::with(|options, _, _| options.peer_pings = PeerPings::Answer);
    bench.clogged[Leg::Client as usize] = true;
    for number in 0..100 {
        bench.feed(Leg::Client, of(Leg::Client, Opcode::Ping, true, number.to_string()));
    }
    bench.assert_saw(Leg::Client, &[]);
    bench.clogged = [false; 2];
    bench.drain();
    bench.assert_saw(Leg::Client, &["pong 99"]);
}

#[test]
fn an_answer_waits_for_the_end_of_the_frame_that_is_being_sent() {
    let mut bench = Bench::with(|options, _, _| options.peer_pings = PeerPings::Answer);
    let long = of(Leg::Upstream, Opcode::Binary, true, [3; 1000]);
    bench.feed(Leg::Upstream, &long[..500]);
    bench.feed(Leg::Client, of(Leg::Client, Opcode::Ping, true, "x"));
    assert_eq!(bench.raw(Leg::Client), long[..500]);
    bench.feed(Leg::Upstream, [&long[500..], &text(Leg::Upstream, "next")].concat());
    let rest = bench.raw(Leg::Client);
    assert_eq!(rest, [&long[500..], b"\x8a\x01x", &text(Leg::Upstream, "next")].concat());
}

#[test]
fn payload_passes_unseen_unless_it_is_checked_remasked_or_discarded() {
    let begin = |bench: &mut Bench, key| {
        let frame = keyed(Some(key), Opcode::Text, true, [b'a'; 100]);
        bench.feed(Leg::Client, &frame[..10]);
        bench.session.unseen(Leg::Client)
    };
    assert_eq!(begin(&mut Bench::new(), KEY), 96);
    assert_eq!(begin(&mut Bench::new(), [0; 4]), 0);
    assert_eq!(begin(&mut Bench::with(|options, _, _| options.validate_utf8 = true), KEY), 0);
    let mut bench = Bench::new();
    bench.lose(Leg::Upstream);
    assert_eq!(begin(&mut bench, KEY), 0);
}
