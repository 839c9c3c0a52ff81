//! Split anywhere, same answer: how bytes are cut into reads changes nothing of what is sent on.

use std::sync::Arc;

use dataplane::record::{ApiCounters, Record};
use dataplane::relay::session::{CONTROL_FRAME_MAX, Facts};
use dataplane::relay::{Birth, Ending, Keys, Leg, Session, Totals};
use proto::snapshot::{MessageLimits, PeerPings, SessionOptions};

use crate::kit::{Frame, Opcode};

/// What one leg says, frame by frame: every form of length, fragments, control frames between them, keys to be replaced.
fn transcript(leg: Leg, last: &Frame) -> Vec<Vec<u8>> {
    let euro = "€uro".as_bytes();
    let frames = [
        (Frame::text("Hello"), 1),
        (Frame::binary([7; 126]), 2),
        (Frame::binary(""), 3),
        (Frame::new(Opcode::TEXT, &euro[..1]).unfinished(), 0),
        (Frame::ping("between"), 0),
        (Frame::continuation(&euro[1..2]).unfinished(), 0),
        (Frame::pong(""), 4),
        (Frame::continuation(&euro[2..]), 4),
        (Frame::ping([9; 125]), 5),
        (Frame::binary([8; 300]), 5),
        (Frame::text("κόσμε"), 6),
        (last.clone(), 7),
        (Frame::text("too late"), 8),
    ];
    let encode = |(frame, key): (Frame, u8)| match (leg, key) {
        (Leg::Upstream, _) => frame.encode(),
        (Leg::Client, 0) => frame.masked([0; 4]).encode(),
        (Leg::Client, key) => frame.masked([key, 0x21, 0xfe, 3]).encode(),
    };
    frames.into_iter().map(encode).collect()
}

/// What came of it: the bytes for each leg, and what the session says about it.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    sent: [Vec<u8>; 2],
    ending: Option<Ending>,
    totals: Totals,
}

fn relay<'a>(leg: Leg, options: &SessionOptions, reads: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let limits = Arc::new(MessageLimits::default());
    let mut session = Session::new(Birth::new(limits, 1));
    let counters: Arc<ApiCounters> = Record::new(1, 1).shard(0).api("split", "");
    let mut keys = Keys::new(|octets| octets.iter_mut().enumerate().for_each(|(at, octet)| *octet = at as u8 | 1));
    let mut facts = Facts { now_ms: 1, options, counters: &counters, keys: &mut keys };
    let mut sent = [Vec::new(), Vec::new()];
    for read in reads.filter(|read| !read.is_empty()) {
        let mut buffer = vec![0; CONTROL_FRAME_MAX];
        buffer.extend_from_slice(read);
        let mut at = CONTROL_FRAME_MAX - session.take_held(leg, &mut buffer[..CONTROL_FRAME_MAX]);
        while at < buffer.len() {
            let step = session.receive(leg, &mut buffer[at..], &mut facts);
            sent[leg.other() as usize].extend_from_slice(&buffer[at..at + step.send]);
            for to in [leg.other(), leg] {
                while let Some(frame) = session.output(to, false, &mut facts) {
                    sent[to as usize].extend_from_slice(frame.as_bytes());
                }
            }
            at += step.consumed;
        }
    }
    Outcome { sent, ending: session.ending(), totals: session.totals(leg) }
}

fn check(last: Frame) {
    for leg in Leg::BOTH {
        for (peer_pings, validate_utf8) in [(PeerPings::Forward, false), (PeerPings::Answer, true)] {
            let options = SessionOptions { peer_pings, validate_utf8, ..SessionOptions::default() };
            let frames = transcript(leg, &last);
            let bytes = frames.concat();
            let by_frames = relay(leg, &options, frames.iter().map(Vec::as_slice));
            assert!(by_frames.ending.is_some() && by_frames.totals.messages >= 6);
            let check = |how: &str, outcome: Outcome| {
                assert!(outcome == by_frames, "{leg:?} {peer_pings:?} {how}: {outcome:x?}\ninstead of {by_frames:x?}");
            };
            check("in one read", relay(leg, &options, [bytes.as_slice()].into_iter()));
            for size in 1..20 {
                check(&format!("{size} bytes at a time"), relay(leg, &options, bytes.chunks(size)));
            }
            let pairs: Vec<Vec<u8>> = frames.chunks(2).map(<[_]>::concat).collect();
            check("two frames per read", relay(leg, &options, pairs.iter().map(Vec::as_slice)));
            for cut in 0..=bytes.len() {
                let (one, two) = bytes.split_at(cut);
                check(&format!("cut at {cut}"), relay(leg, &options, [one, two].into_iter()));
            }
        }
    }
}

#[test]
fn a_transcript_that_ends_in_a_close_frame_is_the_same_however_it_is_cut() {
    check(Frame::close(1000, "done"));
}

#[test]
fn a_transcript_that_ends_in_a_violation_is_the_same_however_it_is_cut() {
    check(Frame::binary("").reserved(4));
    check(Frame::close(1006, ""));
    check(Frame::continuation("no message has begun"));
}
