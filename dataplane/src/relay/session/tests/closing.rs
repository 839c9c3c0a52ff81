//! The closing handshake in every order, and what becomes of a session whose connections end without one.

use proto::ws::{CloseCode, Opcode};

use super::bench::{Bench, close, of, text};
use crate::record::{Cause, Side};
use crate::relay::session::{Ending, Leg, LegState};
use proto::snapshot::PeerPings;

fn side(leg: Leg) -> Side {
    match leg {
        Leg::Client => Side::Client,
        Leg::Upstream => Side::Upstream,
    }
}

fn loss(leg: Leg) -> &'static str {
    match leg {
        Leg::Client => "close 1011 client connection lost",
        Leg::Upstream => "close 1011 service connection lost",
    }
}

fn ending(bench: &Bench) -> (u16, Side, Cause) {
    let Ending { code, side, cause } = bench.session.ending().unwrap();
    (code.0, side, cause)
}

#[test]
fn a_close_frame_is_relayed_and_so_is_its_answer() {
    for leg in Leg::BOTH {
        let mut bench = Bench::new();
        bench.feed(leg, [text(leg, "bye"), close(leg, 4321, "done"), text(leg, "afterthought")].concat());
        bench.assert_saw(leg.other(), &["text bye", "close 4321 done"]);
        assert_eq!((bench.session.leg(leg), bench.session.leg(leg.other())), (LegState::Open, LegState::Open));
        bench.feed(leg.other(), [text(leg.other(), "wait"), close(leg.other(), 4321, "")].concat());
        bench.assert_saw(leg, &["text wait", "close 4321"]);
        assert_eq!((bench.session.leg(leg), bench.session.leg(leg.other())), (LegState::Finished, LegState::Finished));
        assert_eq!(ending(&bench), (4321, side(leg), Cause::Closed));
        assert_eq!(bench.session.totals(leg).messages, 1, "what follows a close frame does not count");
    }
}

#[test]
fn an_empty_close_frame_stays_empty_and_is_recorded_as_1005() {
    for leg in Leg::BOTH {
        let mut bench = Bench::new();
        bench.feed(leg, of(leg, Opcode::Close, true, ""));
        bench.assert_saw(leg.other(), &["close"]);
        assert_eq!(ending(&bench), (1005, side(leg), Cause::Closed));
        // The other does not answer: the gateway does, and 1005 is never on the wire.
        bench.after(1000);
        bench.assert_saw(leg, &["close"]);
    }
}

#[test]
fn close_frames_that_cross_both_pass() {
    let mut bench = Bench::new();
    bench.feed(Leg::Client, close(Leg::Client, 1000, "mine"));
    bench.feed(Leg::Upstream, close(Leg::Upstream, 1001, "yours"));
    bench.assert_saw(Leg::Upstream, &["close 1000 mine"]);
    bench.assert_saw(Leg::Client, &["close 1001 yours"]);
    assert_eq!(ending(&bench), (1000, Side::Client, Cause::Closed));
}

#[test]
fn a_close_frame_may_stand_between_fragments() {
    let mut bench = Bench::new();
    bench.feed(Leg::Client, [of(Leg::Client, Opcode::Text, false, "a"), close(Leg::Client, 1001, "")].concat());
    bench.assert_saw(Leg::Upstream, &["text... a", "close 1001"]);
}

#[test]
fn a_peer_that_ends_its_stream_behind_its_close_frame_still_gets_the_answer() {
    for leg in Leg::BOTH {
        let mut bench = Bench::new();
        bench.feed(leg, close(leg, 1000, ""));
        bench.end_of_stream(leg);
        assert_eq!(bench.session.leg(leg), LegState::Open);
        bench.feed(leg.other(), [text(leg.other(), "last words"), close(leg.other(), 1000, "")].concat());
        bench.assert_saw(leg, &["text last words", "close 1000"]);
        assert_eq!(bench.session.leg(leg), LegState::Finished);
    }
}

#[test]
fn a_loss_without_a_close_frame_is_told_as_one() {
    for leg in Leg::BOTH {
        for (begun, words) in [
            (vec![], vec![]),
            (text(leg, "whole"), vec!["text whole"]),
            (of(leg, Opcode::Text, false, "half"), vec!["text... half"]),
            // Not whole, and so not sent.
            (text(leg, "x")[..1].to_vec(), vec![]),
            (of(leg, Opcode::Ping, true, "abc")[..4].to_vec(), vec![]),
        ] {
            for by_error in [false, true] {
                let mut bench = Bench::new();
                bench.feed(leg, text(leg, "first"));
                if !begun.is_empty() {
                    bench.feed(leg, &begun);
                }
                if by_error {
                    bench.lose(leg)
                } else {
                    bench.end_of_stream(leg)
                }
                let expected = [vec!["text first"], words.clone(), vec![loss(leg)]].concat();
                bench.assert_saw(leg.other(), &expected);
                bench.assert_saw(leg, &[]);
                assert_eq!(ending(&bench), (1006, side(leg), Cause::Lost));
                assert_eq!(bench.session.leg(leg), LegState::Gone);
                bench.feed(leg.other(), [text(leg.other(), "?"), close(leg.other(), 1011, "")].concat());
                bench.assert_saw(leg, &[]);
                assert_eq!(bench.session.leg(leg.other()), LegState::Finished);
            }
        }
    }
}

#[test]
fn a_loss_inside_a_frame_cuts_the_other_leg() {
    for leg in Leg::BOTH {
        let mut bench = Bench::new();
        let frame = of(leg, Opcode::Binary, true, [0; 10]);
        bench.feed(leg, &frame[..frame.len() - 1]);
        bench.end_of_stream(leg);
        bench.assert_saw(leg.other(), &["9 of 10"]);
        assert_eq!(bench.session.leg(leg.other()), LegState::Severed);
        assert_eq!(ending(&bench), (1006, side(leg), Cause::Lost));
    }
}

#[test]
fn a_peer_whose_close_frame_cannot_be_answered_by_the_other_is_answered_here() {
    for leg in Leg::BOTH {
        let mut bench = Bench::new();
        bench.feed(leg, close(leg, 4000, "bye"));
        bench.lose(leg.other());
        bench.assert_saw(leg, &["close 4000"]);
        assert_eq!(bench.session.leg(leg), LegState::Finished);
        assert_eq!(ending(&bench), (4000, side(leg), Cause::Closed));

        let mut bench = Bench::new();
        bench.feed(leg, close(leg, 4000, "bye"));
        bench.feed(leg.other(), [0xff]);
        bench.assert_saw(leg, &["close 4000"]);
    }
}

#[test]
fn a_loss_behind_a_close_frame_changes_nothing_for_the_other() {
    let mut bench = Bench::new();
    bench.feed(Leg::Upstream, close(Leg::Upstream, 1001, "going"));
    bench.lose(Leg::Upstream);
    bench.feed(Leg::Client, close(Leg::Client, 1001, ""));
    bench.assert_saw(Leg::Client, &["close 1001 going"]);
    bench.assert_saw(Leg::Upstream, &[]);
    assert_eq!(
        (bench.session.leg(Leg::Client), bench.session.leg(Leg::Upstream)),
        (LegState::Finished, LegState::Gone)
    );
    assert_eq!(ending(&bench), (1001, Side::Upstream, Cause::Closed));
}

#[test]
fn a_close_of_the_gateway_goes_to_both_and_their_answers_stay_here() {
    let mut bench = Bench::new();
    bench.facts(|session, facts| session.close(CloseCode::RESTART, Cause::Drain, "service restart", facts));
    bench.drain();
    for leg in Leg::BOTH {
        bench.assert_saw(leg, &["close 1012 service restart"]);
    }
    for leg in Leg::BOTH {
        bench.feed(leg, [text(leg, "was on its way"), close(leg, 1012, "")].concat());
        bench.assert_saw(leg.other(), &[]);
        assert_eq!(bench.session.leg(leg), LegState::Finished);
    }
    assert_eq!(ending(&bench), (1012, Side::Gateway, Cause::Drain));
}

#[test]
fn a_close_of_the_gateway_waits_for_the_end_of_a_frame() {
    for leg in Leg::BOTH {
        let mut bench = Bench::new();
        let frame = of(leg, Opcode::Binary, false, [9; 60]);
        bench.feed(leg, &frame[..20]);
        bench.facts(|session, facts| session.close(CloseCode::GOING_AWAY, Cause::Idle, "idle", facts));
        bench.drain();
        bench.assert_saw(leg, &["close 1001 idle"]);
        bench.feed(leg, [&frame[20..], &of(leg, Opcode::Continuation, true, "rest"), &close(leg, 1001, "")].concat());
        bench.assert_saw(leg.other(), &["binary... 60 bytes", "close 1001 idle"]);
        assert_eq!(bench.session.leg(leg), LegState::Finished);
    }
}

#[test]
fn a_close_frame_goes_out_even_when_the_leg_is_clogged() {
    let mut bench = Bench::with(|options, _, _| options.peer_pings = PeerPings::Answer);
    bench.clogged = [true; 2];
    bench.feed(Leg::Client, of(Leg::Client, Opcode::Ping, true, ""));
    bench.facts(|session, facts| session.close(CloseCode::RESTART, Cause::Drain, "", facts));
    bench.drain();
    bench.assert_saw(Leg::Client, &["close 1012"]);
    bench.clogged = [false; 2];
    bench.drain();
    bench.assert_saw(Leg::Client, &[]);
}

#[test]
fn nothing_of_the_gateways_own_follows_a_close_frame() {
    for leg in Leg::BOTH {
        let mut bench = Bench::with(|options, _, _| options.peer_pings = PeerPings::Answer);
        bench.feed(leg, close(leg, 1000, ""));
        bench.feed(leg.other(), of(leg.other(), Opcode::Ping, true, "still here"));
        bench.assert_saw(leg.other(), &["close 1000"]);
        assert!(!bench.session.has_output(leg.other()), "what cannot be said is not kept");
    }
}
