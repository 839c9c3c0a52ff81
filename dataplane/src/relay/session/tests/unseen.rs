//! What an engine moves past user memory leaves the session as if it had seen it.

use proptest::collection::vec;
use proptest::prelude::*;
use proto::snapshot::{IdleBy, PeerPings};
use proto::ws::Opcode;

use super::bench::{Bench, KEY, close, keyed, of, size, text};
use crate::relay::session::{Leg, Totals};

#[test]
fn payload_that_passed_unseen_is_counted_and_the_next_frame_is_seen() {
    for leg in Leg::BOTH {
        let mut bench = Bench::new();
        let long = of(leg, Opcode::Text, true, vec![b'a'; 100_000]);
        bench.feed(leg, &long[..20]);
        let unseen = bench.session.unseen(leg);
        bench.now_ms += 700;
        bench.pass_unseen(leg, &long[20..20 + unseen as usize - 1]);
        assert_eq!(bench.session.unseen(leg), 1);
        assert_eq!(bench.session.totals(leg), Totals { messages: 0, bytes: 99_999 });
        bench.pass_unseen(leg, &long[long.len() - 1..]);
        assert_eq!(bench.session.totals(leg), Totals { messages: 1, bytes: 100_000 });
        assert_eq!(bench.session.unseen(leg), 0);
        bench.feed(leg, text(leg, "next"));
        bench.assert_saw(leg.other(), &["text 100000 bytes", "text next"]);
        assert_eq!(bench.session.totals(leg), Totals { messages: 2, bytes: 100_004 });
    }
}

#[test]
fn an_answer_waits_for_the_end_of_a_frame_that_passes_unseen() {
    let mut bench = Bench::with(|options, _, _| options.peer_pings = PeerPings::Answer);
    let long = of(Leg::Upstream, Opcode::Binary, true, [3; 1000]);
    bench.feed(Leg::Upstream, &long[..4]);
    bench.feed(Leg::Client, of(Leg::Client, Opcode::Ping, true, "x"));
    bench.pass_unseen(Leg::Upstream, &long[4..1000]);
    assert_eq!(bench.raw(Leg::Client), long[..1000]);
    bench.pass_unseen(Leg::Upstream, &long[1000..]);
    assert_eq!(bench.raw(Leg::Client), [&long[1000..], b"\x8a\x01x"].concat());
}

#[test]
fn a_connection_that_is_lost_inside_what_passes_unseen_cuts_the_other() {
    let mut bench = Bench::new();
    let long = of(Leg::Client, Opcode::Binary, true, [3; 1000]);
    bench.feed(Leg::Client, &long[..20]);
    bench.pass_unseen(Leg::Client, &long[20..900]);
    bench.lose(Leg::Client);
    assert_eq!(bench.session.unseen(Leg::Client), 0);
    bench.assert_saw(Leg::Upstream, &["892 of 1000"]);
}

#[test]
#[should_panic(expected = "needs no look")]
fn what_must_be_seen_does_not_pass_unseen() {
    let mut bench = Bench::with(|options, _, _| options.validate_utf8 = true);
    let long = text(Leg::Upstream, &"a".repeat(100));
    bench.feed(Leg::Upstream, &long[..10]);
    bench.pass_unseen(Leg::Upstream, &long[10..]);
}

/// One thing that a leg says.
#[derive(Debug, Clone)]
enum Said {
    Message { text: bool, fragments: Vec<usize>, key: u8 },
    Control { ping: bool, key: u8 },
    Close,
    Breach,
}

impl Said {
    fn any() -> impl Strategy<Value = Self> {
        let length = prop_oneof![0..4usize, 4..100usize, 100..3_000usize];
        prop_oneof![
            8 => (any::<bool>(), vec(length, 1..4), 0..4u8)
                .prop_map(|(text, fragments, key)| Self::Message { text, fragments, key }),
            3 => (any::<bool>(), 0..4u8).prop_map(|(ping, key)| Self::Control { ping, key }),
            1 => Just(Self::Close),
            1 => Just(Self::Breach),
        ]
    }

    fn encode(&self, leg: Leg) -> Vec<u8> {
        // Zero is a key that is replaced, and so is one that repeats.
        let keyed = |key: u8, opcode, fin, payload: &[u8]| {
            let key = if key == 0 { [0; 4] } else { [key, KEY[1], KEY[2], KEY[3]] };
            keyed((leg == Leg::Client).then_some(key), opcode, fin, payload)
        };
        match self {
            Self::Message { text, fragments, key } => {
                let mut bytes = Vec::new();
                for (at, length) in fragments.iter().enumerate() {
                    let opcode = match (at, text) {
                        (0, true) => Opcode::Text,
                        (0, false) => Opcode::Binary,
                        _ => Opcode::Continuation,
                    };
                    bytes.extend(keyed(*key, opcode, at + 1 == fragments.len(), &vec![b'x'; *length]));
                }
                bytes
            }
            Self::Control { ping, key } => keyed(*key, if *ping { Opcode::Ping } else { Opcode::Pong }, true, b"?"),
            Self::Close => close(leg, 1000, "enough"),
            Self::Breach => vec![0x8f, 0],
        }
    }
}

/// A read of one leg: how long after the last, how much, and how much of that may pass unseen.
#[derive(Debug, Clone)]
struct Read {
    leg: Leg,
    after_ms: u64,
    bytes: usize,
    unseen_most: usize,
}

impl Read {
    fn any() -> impl Strategy<Value = Self> {
        let leg = prop_oneof![Just(Leg::Client), Just(Leg::Upstream)];
        let most = prop_oneof![Just(usize::MAX), Just(0), 1..50usize];
        (leg, 0..400u64, prop_oneof![1..10usize, 10..5_000usize], most)
            .prop_map(|(leg, after_ms, bytes, unseen_most)| Self { leg, after_ms, bytes, unseen_most })
    }
}

fn assert_alike(seen: &mut Bench, unseen: &mut Bench) {
    for leg in Leg::BOTH {
        assert_eq!(seen.raw(leg), unseen.raw(leg), "what the {leg:?} was sent");
        assert_eq!(seen.session.totals(leg), unseen.session.totals(leg));
        assert_eq!(seen.session.unseen(leg), unseen.session.unseen(leg));
        assert_eq!(seen.session.leg(leg), unseen.session.leg(leg));
        assert_eq!(seen.session.has_output(leg), unseen.session.has_output(leg));
    }
    assert_eq!(seen.session.ending(), unseen.session.ending());
    assert_eq!(seen.session.close_by_ms(), unseen.session.close_by_ms());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn seen_or_unseen_is_the_same_to_everybody(
        said in [vec(Said::any(), 0..12), vec(Said::any(), 0..12)],
        reads in vec(Read::any(), 1..60),
        (utf8, answered, by_frame, fresh) in any::<(bool, bool, bool, bool)>(),
        lost in any::<bool>(),
    ) {
        let bench = || Bench::with(|options, limits, birth| {
            options.validate_utf8 = utf8;
            options.peer_pings = if answered { PeerPings::Answer } else { PeerPings::Forward };
            options.idle_by = if by_frame { IdleBy::Frame } else { IdleBy::Data };
            options.idle_timeout = proto::snapshot::Duration::from_ms(2_000);
            options.ping.client.interval = proto::snapshot::Duration::from_ms(500);
            limits.max_message = size(7_000);
            birth.fresh_mask = fresh;
        });
        let (mut seen, mut unseen) = (bench(), bench());
        let mut streams = Leg::BOTH.map(|leg| {
            said[leg as usize].iter().flat_map(|said| said.encode(leg)).collect::<Vec<u8>>()
        });
        for Read { leg, after_ms, bytes, unseen_most } in reads {
            assert_eq!(seen.after(after_ms), unseen.after(after_ms), "when it is to be looked at again");
            let stream = &mut streams[leg as usize];
            let piece: Vec<u8> = stream.drain(..bytes.min(stream.len())).collect();
            if piece.is_empty() {
                continue;
            }
            seen.feed(leg, &piece);
            let most = usize::try_from(unseen.session.unseen(leg)).unwrap().min(unseen_most).min(piece.len());
            unseen.pass_unseen(leg, &piece[..most]);
            if most < piece.len() {
                unseen.feed(leg, &piece[most..]);
            }
            assert_alike(&mut seen, &mut unseen);
        }
        for bench in [&mut seen, &mut unseen] {
            if lost { bench.lose(Leg::Client) } else { bench.end_of_stream(Leg::Upstream) }
        }
        assert_alike(&mut seen, &mut unseen);
        assert_eq!(seen.after(10_000), unseen.after(10_000));
        assert_alike(&mut seen, &mut unseen);
        let of_the_api = |bench: &Bench| {
            bench.metrics().lines().filter(|line| line.contains("api=\"chat\"")).map(str::to_owned).collect::<Vec<_>>()
        };
        let counted = of_the_api(&seen);
        assert!(!counted.is_empty());
        assert_eq!(counted, of_the_api(&unseen));
    }
}
