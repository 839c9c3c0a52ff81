//! Several levels asked together, by the data plane's own guards, on up to 64 shards: what passes was there at every level,
//! what is stopped costs nothing at any, and in the end each level has counted exactly what passed.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use dataplane::record::{Direction, Record};
use dataplane::throttle::{
    Compiled, Guard, Ledger, Level, LevelKind, LimitId, Metered, Meters, Rule, RuleId, Scope, Verdict,
};
use proptest::prelude::*;
use proto::snapshot::{Plan, Unit};
use proto::throttle::{Now, Terms, Window, WindowUnit};

use super::plain::Plain;
use super::{Draws, SECOND_NS, bucket};

/// When the story begins, on the workers' clock: long after the real time that ledgers read when they are made.
const BEGIN_MS: u64 = 3_600_000;
/// One in the morning of some day.
const WALL_MS: u64 = 1_795_222_800_000;
const KINDS: [LevelKind; 3] = [LevelKind::Application, LevelKind::Subscription, LevelKind::Api];

/// A session: its guard, and who it is at each level.
struct Member {
    shard: usize,
    keys: [usize; 3],
    guard: Guard,
}

/// A limit as one bucket or window, and the rest of messages that were let in: nobody asked for it, and as much may lie in
/// hand elsewhere.
struct One {
    rule: Rule,
    plain: Plain,
    over: u64,
}

struct World {
    meters: Arc<Meters>,
    ledgers: Vec<Rc<Ledger>>,
    plans: Vec<Arc<Compiled>>,
    members: Vec<Member>,
    /// Each limit of each key as one bucket or window, by its level and key.
    plain: HashMap<(usize, usize, RuleId), One>,
    now_ms: u64,
    stopped: usize,
}

fn rule(draws: &mut Draws) -> Rule {
    let unit = [Unit::Messages, Unit::Bytes][draws.below(2) as usize];
    let amount = 1 + draws.below(if unit == Unit::Bytes { 20_000 } else { 400 });
    let terms = match draws.below(4) {
        0 => bucket(1 + amount / 4, SECOND_NS, amount),
        // Nothing flows in: exact to the last token.
        1 => bucket(0, SECOND_NS, amount),
        2 => Terms::Quota { amount, window: Window::one(WindowUnit::Day) },
        _ => Terms::Quota { amount: 5 * amount, window: Window::one(WindowUnit::Day) },
    };
    Rule { unit, terms, stops: draws.below(5) != 0 }
}

fn plan(rules: Vec<Rule>) -> Arc<Compiled> {
    let mut plan = Compiled::of(&Plan::new("p", Vec::new()));
    plan.limits = rules.into();
    Arc::new(plan)
}

impl World {
    fn new(draws: &mut Draws, shards: usize) -> Self {
        let meters = Arc::<Meters>::default();
        let ledger = |at| {
            let ledger = Ledger::new(Arc::clone(&meters), (at as u16, shards as u16), Record::new(1, 1).shard(0));
            ledger.wall().set(0, WALL_MS);
            ledger
        };
        let ledgers: Vec<_> = (0..shards).map(ledger).collect();
        let levels = 1 + draws.below(3) as usize;
        let plans = (0..levels).map(|_| plan((0..1 + draws.below(2)).map(|_| rule(draws)).collect())).collect();
        let mut world = Self {
            meters: Arc::clone(&meters),
            ledgers,
            plans,
            members: Vec::new(),
            plain: HashMap::new(),
            now_ms: BEGIN_MS,
            stopped: 0,
        };
        for _ in 0..shards + draws.below(32) as usize {
            let shard = draws.below(shards as u64) as usize;
            let user = draws.below(6) as usize;
            let keys = [user, user / 2, 0];
            let guard = world.guard(shard, keys);
            world.members.push(Member { shard, keys, guard });
        }
        world
    }

    fn guard(&self, shard: usize, keys: [usize; 3]) -> Guard {
        let ledger = &self.ledgers[shard];
        let level = |(at, plan): (usize, &Arc<Compiled>)| {
            let kind = KINDS[at];
            let scope = Arc::new(Scope { kind: Some(kind), name: kind.word().into(), plan: Arc::clone(&plan.name) });
            let id = |rule| LimitId { scope: Arc::clone(&scope), key: keys[at].to_string().into(), rule };
            let meters = plan.ids().map(|rule| ledger.held(&id(rule), plan)).collect();
            Level { kind, name: kind.word().into(), plan: Arc::clone(plan), meters }
        };
        let levels = self.plans.iter().enumerate().map(level).collect();
        Guard::new(levels, Rc::clone(ledger.wall())).expect("it is limited")
    }

    fn now(&self) -> Now {
        self.ledgers[0].wall().now(self.now_ms)
    }

    /// Every limit of a member, as a plain one.
    fn each_plain(&mut self, keys: [usize; 3], mut work: impl FnMut(usize, &mut One)) {
        let mono_ns = self.now_ms * 1_000_000;
        for (at, plan) in self.plans.iter().enumerate() {
            for (id, rule) in plan.ids().zip(&plan.limits) {
                let one = self.plain.entry((at, keys[at], id));
                let new = || One { rule: *rule, plain: Plain::new(rule.terms, mono_ns), over: 0 };
                work(at, one.or_insert_with(new));
            }
        }
    }

    fn message(&mut self, member: usize, bytes: u64, rest: u64) {
        let (now_ms, mono_ns) = (self.now_ms, self.now_ms * 1_000_000);
        let keys = self.members[member].keys;
        let guard = &mut self.members[member].guard;
        match guard.message(Direction::ToUpstream, bytes, now_ms) {
            Verdict::Pass => {
                guard.more(Direction::ToClient, rest, now_ms);
                self.each_plain(keys, |at, One { rule, plain, over }| {
                    let (need, rest) = if rule.unit == Unit::Bytes { (bytes, rest) } else { (1, 0) };
                    let missing = plain.take(need, mono_ns);
                    assert!(
                        !rule.stops || missing <= *over,
                        "level {at}: {missing} of {need} were not there, {rule:?}"
                    );
                    plain.take(rest, mono_ns);
                    *over += rest;
                });
            }
            Verdict::Stop(stopped) => {
                self.stopped += 1;
                let rules = &self.plans[stopped.at].limits;
                assert!(rules.iter().any(|rule| rule.stops) && stopped.wait_ms > 0);
            }
        }
    }

    fn give_back_all(&self) {
        let now = self.now();
        let levels = self.members.iter().flat_map(|member| member.guard.levels());
        levels.flat_map(|level| &level.meters).for_each(|held| held.give_back(now));
    }

    /// Other amounts for all plans, from the next message on.
    fn change(&mut self, draws: &mut Draws) {
        self.give_back_all();
        let mono_ns = self.now_ms * 1_000_000;
        let now = self.now();
        // The ledgers' own clock stands still: what has flowed in until now is under the old terms.
        let look = |_: &LimitId, metered: &Arc<Metered>| metered.with(|meter| _ = meter.usage(now));
        (0..self.meters.pieces()).for_each(|piece| self.meters.each(piece, look));
        for plan in &mut self.plans {
            let other = |rule: &Rule| {
                let mut change = |amount: u64| 1 + amount / 2 + draws.below(amount);
                let terms = match rule.terms {
                    Terms::Bucket { amount, per_ns, burst } => bucket(amount, per_ns, change(burst)),
                    Terms::Quota { amount, window } => Terms::Quota { amount: change(amount), window },
                };
                Rule { terms, ..*rule }
            };
            *plan = self::plan(plan.limits.iter().map(other).collect());
        }
        for ((at, _, id), one) in &mut self.plain {
            one.rule = *self.plans[*at].rule(*id).expect("the same limits");
            one.plain.set(one.rule.terms, 0, mono_ns);
        }
        for member in 0..self.members.len() {
            let Member { shard, keys, .. } = self.members[member];
            self.members[member].guard = self.guard(shard, keys);
        }
    }

    /// What each meter says in the end.
    fn check(&mut self) {
        self.give_back_all();
        let now = self.now();
        for piece in 0..self.meters.pieces() {
            self.meters.each(piece, |id, metered| {
                let at = KINDS.iter().position(|kind| id.scope.kind == Some(*kind)).expect("one of three");
                let key = id.key.parse().expect("keys are numbers");
                let used = metered.with(|meter| meter.usage(now).used);
                let Some(One { rule, plain, .. }) = self.plain.get_mut(&(at, key, id.rule)) else {
                    return assert_eq!(used, 0, "nobody has passed there");
                };
                let expected = plain.used(now.mono_ns);
                let flows_in = matches!(rule.terms, Terms::Bucket { amount, .. } if amount > 0);
                // What flowed in while tokens lay in somebody's hand may have found no room.
                assert!(used == expected || (flows_in && used > expected), "{used}, not {expected}, of {rule:?}");
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_passes_was_there_at_every_level_and_what_is_stopped_costs_nothing(seed: u64, shards in 1_usize..=64) {
        let mut draws = Draws(seed);
        let mut world = World::new(&mut draws, shards);
        // Where nothing runs over, nothing passes that is not there.
        let runs_over = draws.below(2) == 0;
        for _ in 0..1500 {
            let members = world.members.len() as u64;
            let among = if draws.below(2) == 0 { members } else { members.min(3) };
            let member = draws.below(among) as usize;
            match draws.below(40) {
                0 => world.now_ms += draws.below(300),
                1..=8 => world.now_ms += draws.below(4),
                9 => {
                    let ledger = &world.ledgers[world.members[member].shard];
                    ledger.tick(ledger.wall().now(world.now_ms));
                }
                10 if draws.below(10) == 0 => world.change(&mut draws),
                kind => {
                    let most = if kind == 11 { 30_000 } else { 200 };
                    let rest = if runs_over && kind % 4 == 0 { draws.below(most) } else { 0 };
                    let bytes = draws.below(most);
                    (0..draws.below(8)).for_each(|_| world.message(member, bytes, rest));
                }
            }
        }
        world.check();
    }
}
