//! The verdict: what each side saw, compared with what the other said and with how the session says it ended.

use std::collections::BTreeMap;

use dataplane::record::{Cause, Side};
use dataplane::relay::{Ending, Leg, Totals};
use proto::snapshot::PeerPings;

use crate::kit::frame::{LengthForm, mask};
use crate::kit::{Frame, Opcode};
use crate::peer::{Finale, MARK, Peer, Said, Temper};
use crate::world::World;

/// What happened in all runs, so that a simulation that simulates nothing is noticed.
#[derive(Debug, Default)]
pub struct Tally {
    causes: BTreeMap<&'static str, u32>,
    frames_relayed: u64,
    cuts: u32,
    pings: u32,
    answers: u32,
    keys_replaced: u32,
    unseen_bytes: u64,
    resumed: u64,
}

impl Tally {
    pub fn check_that_everything_happened(&self) {
        for cause in ["closed", "lost", "idle", "lifetime", "ping_timeout", "drain", "reserved_bit", "not_utf8"] {
            assert!(self.causes.contains_key(cause), "no session ended by {cause}: {self:?}");
        }
        let counts = [self.frames_relayed as u32, self.cuts, self.pings, self.answers, self.keys_replaced];
        assert!(counts.iter().all(|count| *count > 0) && self.unseen_bytes > 0 && self.resumed > 0, "{self:?}");
    }
}

/// Panics when anything is not as it must be.
pub fn judge(world: &World, tally: &mut Tally) {
    let (ending, totals) = world.engine.outcome().expect("the session is over");
    *tally.causes.entry(ending.cause.word()).or_default() += 1;
    tally.unseen_bytes += world.engine.unseen_bytes;
    tally.resumed += world.engine.resumed;
    check_ending(world, ending);
    for leg in Leg::BOTH {
        let flow = Flow::new(world, leg);
        let delivered = flow.check_what_was_seen(tally);
        flow.check_that_nothing_is_missing(ending, delivered);
        flow.check_totals(ending, totals[leg as usize], delivered);
        check_close(world, leg, ending);
    }
    check_keys(world, tally);
}

fn peer(world: &World, leg: Leg) -> &Peer {
    &world.peers[leg as usize]
}

fn side(leg: Leg) -> Side {
    if leg == Leg::Client { Side::Client } else { Side::Upstream }
}

/// The code of a close frame's payload, 1005 for none.
fn code(payload: &[u8]) -> u16 {
    payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))
}

/// The reason that the session gives is true.
fn check_ending(world: &World, ending: Ending) {
    let options = &world.engine.options;
    let Some(leg) = Leg::BOTH.into_iter().find(|leg| side(*leg) == ending.side) else {
        let expected = match ending.cause {
            Cause::Idle => 1001,
            Cause::Lifetime => 1001,
            Cause::Drain => 1012,
            cause => panic!("the gateway does not end a session by {cause:?}"),
        };
        assert_eq!(ending.code.0, expected, "{ending:?}");
        return;
    };
    let peer = peer(world, leg);
    match ending.cause {
        Cause::Closed => {
            let payload = peer.close_said.as_ref().expect("whose close frame ended the session has said one");
            assert_eq!(ending.code.0, code(payload));
        }
        Cause::Lost => assert!(peer.vanished && ending.code.0 == 1006, "{ending:?}"),
        Cause::PingTimeout => {
            let pings = if leg == Leg::Client { &options.ping.client } else { &options.ping.upstream };
            assert!(!pings.interval.is_zero() && ending.code.0 == 1006, "{ending:?}");
            assert_ne!(peer.temper, Temper::Attentive, "who answers is not dead");
        }
        Cause::Violation(violation) => {
            let Finale::Breach(breach) = peer.finale else { panic!("{violation:?} of a peer that keeps the rules") };
            assert!(peer.has_breached());
            assert_eq!(ending.code.0, breach.code(), "{breach:?} was taken for {violation:?}");
        }
        cause => panic!("a peer does not end a session by {cause:?}"),
    }
}

/// One direction: what may arrive, and what did.
struct Flow<'a> {
    world: &'a World,
    from: &'a Peer,
    to: &'a Peer,
    /// What passes, in order, and whether all of it was written.
    expected: Vec<(&'a Frame, bool)>,
    breach: Option<&'a Frame>,
}

impl<'a> Flow<'a> {
    fn new(world: &'a World, leg: Leg) -> Self {
        let (from, to) = (peer(world, leg), peer(world, leg.other()));
        let forward = world.engine.options.peer_pings == PeerPings::Forward;
        let (mut expected, mut breach) = (Vec::new(), None);
        for (said, end) in &from.said {
            let frame = match said {
                Said::Frame(frame) => frame,
                Said::Breach(frame) => {
                    breach = Some(frame);
                    break;
                }
            };
            let passes = match frame.opcode {
                Opcode::PING | Opcode::PONG => forward && frame.payload.starts_with(MARK),
                _ => true,
            };
            if passes {
                expected.push((frame, *end <= from.written));
            }
        }
        Self { world, from, to, expected, breach }
    }

    /// Every frame that arrived is the next one of the other side, or one that the gateway may say here. Returns how
    /// many of the other side's arrived whole.
    fn check_what_was_seen(&self, tally: &mut Tally) -> usize {
        let mut arrived = 0;
        let mut answered = 0;
        for (at, frame) in self.to.seen.iter().enumerate() {
            self.check_form(frame);
            let plain = Frame { mask: None, ..frame.clone() };
            if self.expected.get(arrived).is_some_and(|(expected, _)| **expected == plain) {
                arrived += 1;
                tally.frames_relayed += 1;
            } else {
                match plain.opcode {
                    Opcode::PING => {
                        assert_eq!(plain.payload.len(), 8, "not the gateway's ping: {plain:?}");
                        tally.pings += 1;
                    }
                    Opcode::PONG => {
                        answered = self.check_answer(&plain, answered);
                        tally.answers += 1;
                    }
                    Opcode::CLOSE => {}
                    _ => panic!("{:?} saw {} instead of {}", self.to.leg, brief(&plain), self.next(arrived)),
                }
            }
            if plain.opcode == Opcode::CLOSE {
                assert_eq!(at + 1, self.to.seen.len(), "nothing follows a close frame");
                assert!(self.to.rest.is_empty(), "nothing follows a close frame");
            }
        }
        self.check_rest(arrived, tally);
        arrived
    }

    fn next(&self, arrived: usize) -> String {
        self.expected.get(arrived).map_or("nothing".into(), |(frame, _)| brief(frame))
    }

    fn check_form(&self, frame: &Frame) {
        assert_eq!(frame.mask.is_some(), self.to.leg == Leg::Upstream, "{frame:?}");
        assert_eq!((frame.reserved, frame.length), (0, LengthForm::Shortest), "{frame:?}");
        if frame.opcode.0 >= 8 {
            assert!(frame.fin && frame.payload.len() <= 125, "{frame:?}");
        }
    }

    /// The gateway answers pings in their order, and may leave some out. Returns how many are behind it.
    fn check_answer(&self, pong: &Frame, behind: usize) -> usize {
        assert_eq!(self.world.engine.options.peer_pings, PeerPings::Answer, "{pong:?}");
        let said = self.to.said.iter().skip(behind);
        let fits = |said: &Said| matches!(said, Said::Frame(ping) if ping.opcode == Opcode::PING && ping.payload == pong.payload);
        let place = said.into_iter().position(|(said, _)| fits(said));
        behind + place.expect("a pong answers a ping") + 1
    }

    /// A part of a frame at the end is a part of the frame that was to come, or of one of the gateway's own.
    fn check_rest(&self, arrived: usize, tally: &mut Tally) {
        let rest = &self.to.rest;
        if rest.is_empty() {
            return;
        }
        tally.cuts += 1;
        let next = self.expected.get(arrived).map(|(frame, _)| *frame).or(self.breach);
        let own = rest[0] & 0x08 != 0;
        let fits = own || next.is_some_and(|next| is_part(rest, next, self.to.leg));
        assert!(
            fits,
            "{} bytes that begin with {:x?} instead of {}",
            rest.len(),
            &rest[..rest.len().min(20)],
            self.next(arrived)
        );
    }

    /// Whoever was there to read has got all that the one who ended the session said before.
    fn check_that_nothing_is_missing(&self, ending: Ending, arrived: usize) {
        let listens = self.to.temper == Temper::Attentive && !self.to.vanished && !self.to.has_breached();
        let heard_out = matches!(ending.cause, Cause::Closed | Cause::Lost | Cause::Violation(_));
        let is_given_up = self.world.engine.given_up[self.from.leg as usize] > 0;
        if !listens || !heard_out || is_given_up || ending.side != side(self.from.leg) {
            return;
        }
        let whole = self.expected.iter().filter(|(_, whole)| *whole).count();
        assert_eq!(arrived, whole, "frames that the {:?} saw; then {}; {ending:?}", self.to.leg, self.next(arrived));
    }

    fn check_totals(&self, ending: Ending, totals: Totals, arrived: usize) {
        let data = |frames: &[(&Frame, bool)]| {
            let data = frames.iter().filter(|(frame, _)| frame.opcode.0 < 8);
            data.fold(Totals::default(), |sum, (frame, _)| Totals {
                messages: sum.messages + u64::from(frame.fin),
                bytes: sum.bytes + frame.payload.len() as u64,
            })
        };
        let seen = data(&self.expected[..arrived]);
        assert!(totals.messages >= seen.messages && totals.bytes >= seen.bytes, "{totals:?} {seen:?}");
        if ending.cause == Cause::Closed && ending.side == side(self.from.leg) {
            assert_eq!(totals, data(&self.expected), "all that was said before the close frame was counted");
        }
    }
}

/// A frame in a line.
fn brief(frame: &Frame) -> String {
    let start = &frame.payload[..frame.payload.len().min(20)];
    format!("{:?} fin {} of {} bytes: {:x?}", frame.opcode, frame.fin, frame.payload.len(), start)
}

/// Whether these bytes are the start of this frame, sent to this leg under whatever key.
fn is_part(bytes: &[u8], frame: &Frame, to: Leg) -> bool {
    let bare = Frame { mask: None, ..frame.clone() }.encode();
    let header = bare.len() - frame.payload.len();
    if to == Leg::Client {
        return bare.starts_with(bytes);
    }
    let mut plain = bytes.to_vec();
    plain.iter_mut().skip(1).take(1).for_each(|second| *second &= 0x7f);
    if plain.len() > header + 4 {
        let key = [plain[header], plain[header + 1], plain[header + 2], plain[header + 3]];
        mask(&mut plain[header + 4..], key);
    }
    let key_end = plain.len().min(header + 4);
    plain.drain(header.min(key_end)..key_end);
    bare.starts_with(&plain)
}

/// Who was there to read has read a close frame with the right code, unless it was cut inside a frame.
fn check_close(world: &World, leg: Leg, ending: Ending) {
    let (me, other) = (peer(world, leg), peer(world, leg.other()));
    if me.temper != Temper::Attentive || me.vanished || (!me.rest.is_empty() && !me.close_seen()) {
        return;
    }
    let Some(close) = me.seen.last().filter(|frame| frame.opcode == Opcode::CLOSE) else {
        panic!("the {leg:?} was not told: {:?}", ending)
    };
    if other.close_said.as_ref() == Some(&close.payload) {
        return;
    }
    let expected = match ending.cause {
        Cause::Closed if ending.side == side(leg) => ending.code.0,
        Cause::Closed => panic!("the {leg:?} did not get the other's close frame but {close:?}"),
        Cause::Violation(_) if ending.side == side(leg) => ending.code.0,
        Cause::Violation(_) | Cause::Lost | Cause::PingTimeout => 1011,
        _ => ending.code.0,
    };
    assert_eq!(code(&close.payload), expected, "{ending:?}");
}

/// No key towards the endpoint is zero, and none comes twice running; nothing of a client's own good key is lost.
fn check_keys(world: &World, tally: &mut Tally) {
    let keys: Vec<[u8; 4]> = peer(world, Leg::Upstream).seen.iter().filter_map(|frame| frame.mask).collect();
    assert!(keys.iter().all(|key| *key != [0; 4]), "{keys:x?}");
    assert!(keys.windows(2).all(|two| two[0] != two[1]), "{keys:x?}");
    // The peers' good keys are odd.
    tally.keys_replaced += keys.iter().filter(|key| key[0] % 2 == 0).count() as u32;
}
