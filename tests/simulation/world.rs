//! One run: a session, its two peers, the network between them, and time.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use dataplane::record::Cause;
use dataplane::relay::{Birth, Keys, Leg, Session};
use dataplane::throttle::{Compiled, Guard, Held, Level, LevelKind, Metered, WallOffset};
use proto::snapshot::{
    Amount, Counted, Duration, IdleBy, LegPings, Limit, MessageLimits, OnLimit, Outcome, PeerPings, Plan, Rate,
    SessionOptions, Size,
};
use proto::throttle::Meter;

use crate::engine::Engine;
use crate::kit::Random;
use crate::network::Socket;
use crate::peer::{Breach, Finale, Peer, TOO_LARGE, Temper};
use crate::verdict::{self, Tally};

thread_local! {
    /// The session's supply of keys is a plain function, so its randomness stands here.
    static KEYS: RefCell<Random> = RefCell::new(Random::fixed(0));
}

/// Nothing lives longer: whatever happens, a session ends.
const LIFETIME_MS_MAX: usize = 60_000;
/// Steps of the longest run, by far.
const STEPS_MAX: u64 = 3_000_000;

pub struct World {
    pub engine: Engine,
    pub peers: [Peer; 2],
    pub sockets: [Socket; 2],
    random: Random,
    now_ms: u64,
    drain_at_ms: Option<u64>,
    /// Milliseconds that may pass at a time while somebody is busy.
    haste_ms: usize,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::fixed(seed);
        KEYS.with_borrow_mut(|keys| *keys = Random::fixed(!seed));
        let fast = random.below(2) == 0;
        let mut peers = Leg::BOTH.map(|leg| Peer::new(leg, fast, &mut random));
        let haste_ms = [1, 10][random.below(2)];
        let options = options(haste_ms, &mut random);
        if !options.validate_utf8 {
            peers.iter_mut().filter(|peer| peer.finale == Finale::Breach(Breach::NotUtf8)).for_each(|peer| {
                peer.finale = Finale::Breach(Breach::ReservedBits);
            });
        }
        let budget = if fast { [4096, 256 << 10][random.below(2)] } else { [1, 60, 4096][random.below(3)] };
        let ease = peers.iter().map(|peer| peer.read_most.min(peer.write_most)).fold(budget, usize::min);
        peers.iter_mut().for_each(|peer| peer.write_script(ease));
        let capacities = if fast { [2_000, 10_000, 100_000] } else { [20, 300, 5_000] };
        let sockets = [0; 2].map(|_| Socket::new(capacities[random.below(capacities.len())]));
        let limits = Arc::new(MessageLimits {
            max_frame: Size::from_bytes(TOO_LARGE - 1),
            max_message: Size::from_bytes(TOO_LARGE - 1),
            control_frames_per_second: 0,
            send_budget: Size::from_bytes(budget as u64),
            ..MessageLimits::default()
        });
        let now_ms = 1 + random.below(100_000) as u64;
        peers.iter_mut().for_each(|peer| {
            if let Temper::DeadAt(at_ms) = &mut peer.temper {
                *at_ms += now_ms;
            }
        });
        let session = Session::new(Birth {
            limits,
            rsv1: random.below(2) == 0,
            contexts: false,
            guard: guard(&mut random, now_ms),
            fresh_mask: random.below(4) == 0,
            expires_ms: now_ms + 1 + random.below(LIFETIME_MS_MAX) as u64,
            now_ms,
        });
        let keys = Keys::new(|octets| {
            let drawn = KEYS.with_borrow_mut(|keys| keys.bytes(octets.len()));
            octets.copy_from_slice(&drawn);
        });
        let drain_at_ms = (random.below(5) == 0).then(|| now_ms + random.below(10_000) as u64);
        let engine = Engine::new(session, options, keys, random.below(2) == 0, now_ms);
        Self { engine, peers, sockets, random, now_ms, drain_at_ms, haste_ms }
    }

    /// Runs the session to its end, and compares what each side saw with what the other said.
    pub fn run(mut self, tally: &mut Tally) {
        self.engine.tick(&mut self.sockets, self.now_ms);
        for step in 0.. {
            assert!(step < STEPS_MAX, "the session does not end");
            if self.engine.outcome().is_some() {
                break;
            }
            self.step();
        }
        for leg in Leg::BOTH {
            self.peers[leg as usize].read_the_rest(&mut self.sockets[leg as usize]);
        }
        verdict::judge(&self, tally);
    }

    fn step(&mut self) {
        let leg = Leg::BOTH[self.random.below(2)];
        let acted = match self.random.below(5) {
            0 | 1 => self.peers[leg as usize].act(&mut self.sockets[leg as usize], self.now_ms),
            2 | 3 if self.engine.has_news(leg, &self.sockets) => {
                self.engine.wake(leg, &mut self.sockets, self.now_ms, &mut self.random);
                true
            }
            4 => {
                self.now_ms += self.random.below(self.haste_ms * 3) as u64 / 2;
                true
            }
            _ => true,
        };
        if !acted && self.is_quiet() {
            self.leap();
        }
        if self.drain_at_ms.is_some_and(|at_ms| at_ms <= self.now_ms) {
            self.drain_at_ms = None;
            let at_ms = self.now_ms + self.random.below(2_000) as u64;
            self.engine.change(&mut self.sockets, self.now_ms, |session| session.drain_at(at_ms, Cause::Drain));
        }
        if self.random.below(500) == 0 {
            let limits = Arc::new(MessageLimits::clone(self.engine.session.limits()));
            self.engine.change(&mut self.sockets, self.now_ms, |session| session.adopt_limits(&limits));
        }
        if self.engine.due_ms <= self.now_ms {
            self.engine.tick(&mut self.sockets, self.now_ms);
        }
    }

    /// Whether nobody has anything to do before time passes.
    fn is_quiet(&mut self) -> bool {
        let engine = Leg::BOTH.iter().any(|leg| self.engine.has_news(*leg, &self.sockets));
        !engine
            && Leg::BOTH.iter().all(|leg| !self.peers[*leg as usize].act(&mut self.sockets[*leg as usize], self.now_ms))
    }

    /// To the next time at which something happens.
    fn leap(&mut self) {
        let now_ms = self.now_ms;
        let peers = self.peers.iter().map(|peer| peer.wakes_at_ms(now_ms));
        let due_ms = peers.chain(self.drain_at_ms).fold(self.engine.due_ms, u64::min);
        self.now_ms = self.now_ms.max(due_ms);
    }
}

fn options(haste_ms: usize, random: &mut Random) -> SessionOptions {
    let mut pings = || LegPings {
        interval: Duration::from_ms([0, 500, 5_000][random.below(3)]),
        timeout: Duration::from_ms([100 * haste_ms as u64, 3_000][random.below(2)]),
    };
    let (client, upstream) = (pings(), pings());
    SessionOptions {
        idle_timeout: Duration::from_ms([0, 2_000, 30_000][random.below(3)]),
        idle_by: if random.below(2) == 0 { IdleBy::Data } else { IdleBy::Frame },
        ping: proto::snapshot::Pings { client, upstream },
        peer_pings: if random.below(2) == 0 { PeerPings::Forward } else { PeerPings::Answer },
        validate_utf8: random.below(2) == 0,
        ..SessionOptions::default()
    }
}

/// In a third of the runs messages wait: then nothing is lost, and all else is as without.
fn guard(random: &mut Random, now_ms: u64) -> Option<Box<Guard>> {
    if random.below(3) > 0 {
        return None;
    }
    let limit = Limit {
        rate: Some(Rate { amount: 20 + random.below(5000) as u64, per: Duration::from_secs(1) }),
        burst: Some(Amount(1 + random.below(30) as u64)),
        ..Limit::default()
    };
    let plan = Compiled::of(&Plan {
        direction: [Counted::Both, Counted::Client, Counted::Server][random.below(3)],
        on_limit: OnLimit { action: Outcome::Delay, ..OnLimit::default() },
        ..Plan::new("p", vec![limit])
    });
    let terms = plan.limits[0].terms;
    let wall = WallOffset::default();
    wall.set(now_ms, 1_795_305_600_000);
    let held = Held::new(Arc::new(Metered::new(Meter::new(terms, wall.now(now_ms)))), (0, 1));
    let kind = LevelKind::Api;
    let level = Level { kind, name: kind.word().into(), plan: Arc::new(plan), meters: [Rc::new(held)].into() };
    Guard::new(vec![level], Rc::new(wall)).map(Box::new)
}
