//! What a session asks of every message: whether it may pass, at all levels at once, or where it was stopped.
//!
//! Budget: no allocation, no system call, no lock while there is something in hand; a few nanoseconds for each limit.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::snapshot::{Counted, Limit, Notice, OnLimit, Outcome, Plan, Unit};
use proto::throttle::{Answer, Now, Terms, Window};
use proto::ws::{CloseCode, FrameHeader, Opcode};

use super::Held;
use super::waiting::Waiting;
use crate::record::{Cause, Direction};

/// Notices of one session that wait.
const NOTICES_WAITING_MAX: usize = 128;
/// For how long a message waits at most before it is looked at again: an operator may have given more.
pub const WAIT_MS_MAX: u64 = 1000;

/// It is not worth trying again, unless an operator gives more.
pub const NEVER_MS: u64 = u64::MAX;

/// Milliseconds by which the wall clock is ahead of a worker's, read once a second for all of its sessions: a decision
/// asks no clock.
#[derive(Debug, Default)]
pub struct WallOffset(Cell<u64>);

impl WallOffset {
    /// Both clocks show this now.
    pub fn set(&self, now_ms: u64, wall_ms: u64) {
        self.0.set(wall_ms.wrapping_sub(now_ms));
    }

    /// The time by both clocks.
    pub fn now(&self, now_ms: u64) -> Now {
        Now { mono_ns: now_ms.saturating_mul(1_000_000), wall_ms: now_ms.wrapping_add(self.0.get()) }
    }
}

/// Which level of limits something is of: a label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LevelKind {
    /// One user of one application.
    Application,
    /// One application at one API version.
    Subscription,
    /// Everybody at one API version.
    Api,
    /// Everybody at one topic.
    Topic,
    /// One address without a credential.
    Unauthenticated,
    /// A limit by a key of the operator's own.
    Keyed,
    /// One session: a limit by a key that has the session in it.
    Session,
    /// Nothing passes: a denial that leaves messages out.
    Denial,
}

impl LevelKind {
    /// All of them, in the order of [`LevelKind::index`].
    pub const ALL: [Self; 8] = [
        Self::Application,
        Self::Subscription,
        Self::Api,
        Self::Topic,
        Self::Unauthenticated,
        Self::Keyed,
        Self::Session,
        Self::Denial,
    ];

    /// Its place in [`LevelKind::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// As logs, metrics and notices call it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Subscription => "subscription",
            Self::Api => "api",
            Self::Topic => "topic",
            Self::Unauthenticated => "unauthenticated",
            Self::Keyed => "keyed",
            Self::Session => "session",
            Self::Denial => "denial",
        }
    }
}

/// A plan in the form in which it is asked. Made when tables are built.
#[derive(Debug)]
pub struct Compiled {
    /// Its place among all that this process has made: of two with one name the later one holds. No part of what it says.
    pub(super) made: u64,
    /// The plan's name.
    pub name: Arc<str>,
    /// Its limits.
    pub limits: Box<[Rule]>,
    /// Whose messages count.
    pub direction: Counted,
    /// What happens to a message that is too much.
    pub on_limit: OnLimit,
    /// At which part of a quota a warning is logged, in percent.
    pub warn_at: Box<[u8]>,
    /// Live sessions of whoever has the plan; 0: any number.
    pub sessions_max: u32,
}

impl Compiled {
    /// Of a plan as it is written.
    pub fn of(plan: &Plan) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let rule = |limit: &Limit| Some(Rule { unit: limit.count, terms: limit.terms()?, stops: limit.stop });
        Self {
            made: MADE.fetch_add(1, Ordering::Relaxed),
            name: plan.name.as_str().into(),
            limits: plan.limits.iter().filter_map(rule).collect(),
            direction: plan.direction,
            on_limit: plan.on_limit.clone(),
            warn_at: plan.warn_at.as_slice().into(),
            sessions_max: plan.sessions_max,
        }
    }

    /// What tells its limits apart, in their order.
    pub fn ids(&self) -> impl Iterator<Item = RuleId> {
        self.limits.iter().enumerate().map(|(at, rule)| {
            let same = self.limits[..at].iter().filter(|before| before.sort() == rule.sort()).count();
            let (unit, window) = rule.sort();
            // A plan has few limits: proto::limits says how many.
            RuleId { unit, window, nth: u8::try_from(same).unwrap_or(u8::MAX) }
        })
    }

    /// The limit of that name, if the plan has it.
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.ids().zip(&self.limits).find_map(|(one, rule)| (one == id).then_some(rule))
    }
}

impl PartialEq for Compiled {
    fn eq(&self, other: &Self) -> bool {
        let Self { made: _, name, limits, direction, on_limit, warn_at, sessions_max } = self;
        *name == other.name
            && *limits == other.limits
            && *direction == other.direction
            && *on_limit == other.on_limit
            && *warn_at == other.warn_at
            && *sessions_max == other.sessions_max
    }
}

impl Eq for Compiled {}

/// One limit of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// What is counted.
    pub unit: Unit,
    /// How much.
    pub terms: Terms,
    /// A message that is too much is stopped; else it passes, and is counted.
    pub stops: bool,
}

/// What tells the limits of one plan apart, wherever in it they stand: what was used follows a limit when others are put
/// before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RuleId {
    /// What is counted.
    pub unit: Unit,
    /// Over which windows; none: a bucket.
    pub window: Option<Window>,
    /// How many such limits stand before it.
    pub nth: u8,
}

/// One level of a session's limits.
#[derive(Debug, Clone)]
pub struct Level {
    /// Which it is.
    pub kind: LevelKind,
    /// The name of a keyed limit; else the word of its kind.
    pub name: Arc<str>,
    /// Its plan.
    pub plan: Arc<Compiled>,
    /// The meters of the plan's limits, in their order.
    pub meters: Box<[Rc<Held>]>,
}

/// What a message asks of one limit, in the form in which it is asked most quickly: what is there twice is there so that a
/// decision follows no more pointers than to what this shard has in hand.
struct Ask {
    held: Rc<Held>,
    /// The directions whose messages it counts, and those whose messages it stops, a bit each.
    counts: u8,
    stops: u8,
    is_of_bytes: bool,
    /// Nothing at all may pass, not even what is empty.
    is_of_nothing: bool,
}

impl Ask {
    #[inline]
    fn need(&self, frame_bytes: u64) -> u64 {
        if self.is_of_bytes { frame_bytes } else { 1 }
    }

    /// Whether this shard needs nobody for the message.
    #[inline]
    fn is_in_hand(&self, bit: u8, frame_bytes: u64, now: Now) -> bool {
        let need = self.need(frame_bytes);
        self.stops & bit == 0 || self.held.is_in_hand(need, now) || need == 0 && !self.is_of_nothing
    }

    #[inline]
    fn spend(&self, frame_bytes: u64, now: Now) {
        let tokens = self.need(frame_bytes);
        if self.stops != 0 {
            self.held.spend(tokens, now);
        } else {
            self.held.record(tokens, now);
        }
    }
}

/// A direction in a set of them.
#[inline]
fn bit(direction: Direction) -> u8 {
    1 << direction.index()
}

/// What a session may send and receive.
pub struct Guard {
    levels: Box<[Level]>,
    /// What a message asks of all of them, one behind the other.
    asks: Box<[Ask]>,
    /// The directions of which messages count, a bit each.
    counts: u8,
    wall: Rc<WallOffset>,
    /// Notices that may be said at once, in thousandths, and when that was so.
    notices_milli: u64,
    noticed_ms: u64,
    /// Messages of each direction in a row that were too much.
    stopped_in_a_row: [u32; 2],
    /// Notices that are not said yet: they wait for the end of a message, or for a client that does not read.
    notices: VecDeque<Box<[u8]>>,
    /// What waits of each direction.
    waiting: [Waiting; 2],
    /// What is left out of each direction.
    drops: [Drops; 2],
    /// When the current frame of each direction was counted; none: it was not, or elsewhere.
    counted_ms: [Option<u64>; 2],
    throttled: Throttled,
}

/// What a session was not let say, for its closing line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttled {
    /// Messages of both sides that were left out.
    pub messages: u64,
    /// The level that stopped the last of them.
    pub by: Option<LevelKind>,
}

/// What is left out of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Drops {
    /// Nothing.
    #[default]
    Nothing,
    /// The current message.
    Message,
    /// The current message, and all that follow.
    Everything,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes, and has been counted at every level.
    Pass,
    /// It was too much at one level, and counts at none.
    Stop(Stopped),
}

/// Where a message was stopped, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Which level.
    pub kind: LevelKind,
    /// Its place among the session's.
    pub at: usize,
    /// What becomes of the message, and of the session.
    pub outcome: Outcome,
    /// When it is worth trying again: milliseconds from now; `u64::MAX`: never.
    pub wait_ms: u64,
    /// It was not stopped before, and waited since.
    pub is_new: bool,
}

impl Guard {
    /// Of a session's levels; `None`: nothing limits it.
    pub fn new(levels: Vec<Level>, wall: Rc<WallOffset>) -> Option<Self> {
        let levels: Box<[Level]> = levels.into_iter().filter(|level| !level.meters.is_empty()).collect();
        let asks: Box<[Ask]> = levels.iter().flat_map(Level::asks).collect();
        (!levels.is_empty()).then(|| Self {
            counts: asks.iter().fold(0, |counts, ask| counts | ask.counts),
            asks,
            levels,
            wall,
            notices_milli: u64::MAX,
            noticed_ms: 0,
            stopped_in_a_row: [0; 2],
            notices: VecDeque::new(),
            waiting: Default::default(),
            drops: Default::default(),
            counted_ms: [None; 2],
            throttled: Throttled::default(),
        })
    }

    /// Other levels from the next message on, or none. What waits is looked at again at once; how much was said to the
    /// client is not forgotten.
    pub fn adopt(&mut self, other: Option<Box<Self>>) {
        (self.levels, self.asks, self.counts) =
            other.map(|other| (other.levels, other.asks, other.counts)).unwrap_or_default();
        // What was counted was counted at those before.
        self.counted_ms = [None; 2];
        self.waiting.iter_mut().for_each(Waiting::hurry);
    }

    /// A frame begins of which nothing is counted.
    pub fn not_counted(&mut self, direction: Direction) {
        self.counted_ms[direction.index()] = None;
    }

    /// The time by both clocks.
    pub fn now(&self, now_ms: u64) -> Now {
        self.wall.now(now_ms)
    }

    /// What waits of a direction.
    pub fn waiting(&self, direction: Direction) -> &Waiting {
        &self.waiting[direction.index()]
    }

    /// What waits of a direction.
    pub fn waiting_mut(&mut self, direction: Direction) -> &mut Waiting {
        &mut self.waiting[direction.index()]
    }

    /// Whether the current message of this direction is left out.
    #[inline]
    pub fn drops(&self, direction: Direction) -> bool {
        self.drops[direction.index()] != Drops::Nothing
    }

    /// The message that has begun is left out, or all of them from it on.
    pub fn leave_out(&mut self, direction: Direction, what: Drops) {
        self.drops[direction.index()] = what;
    }

    /// The message that was left out has ended.
    pub fn message_ended(&mut self, direction: Direction) {
        let drops = &mut self.drops[direction.index()];
        if *drops == Drops::Message {
            *drops = Drops::Nothing;
        }
    }

    /// A message was left out.
    pub fn left_out(&mut self, stopped: &Stopped) {
        self.throttled.messages += 1;
        self.throttled.by = Some(stopped.kind);
    }

    /// What was left out so far, whichever levels there were.
    pub fn throttled(&self) -> Throttled {
        self.throttled
    }

    /// The session's levels.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Whether messages may be left out on their way: then no compression context may span two of them.
    pub fn may_drop(&self) -> bool {
        let may = |plan: &Compiled| {
            matches!(plan.on_limit.action, Outcome::Notify | Outcome::Drop) && plan.limits.iter().any(|rule| rule.stops)
        };
        self.levels.iter().any(|level| may(&level.plan))
    }

    /// A message begins, with a frame of so many bytes of payload: whether it passes. If it does, it has been counted.
    pub fn message(&mut self, direction: Direction, frame_bytes: u64, now_ms: u64) -> Verdict {
        let now = self.wall.now(now_ms);
        let bit = bit(direction);
        debug_assert!(i64::try_from(frame_bytes).is_ok(), "the codec lets no longer frame through");
        let is_in_hand = self.asks.iter().all(|ask| ask.is_in_hand(bit, frame_bytes, now));
        if !is_in_hand && let Some(stopped) = self.too_much(direction, frame_bytes, now_ms, now) {
            return Verdict::Stop(stopped);
        }
        self.asks.iter().filter(|ask| ask.counts & bit != 0).for_each(|ask| ask.spend(frame_bytes, now));
        if self.counts & bit != 0 {
            self.stopped_in_a_row[direction.index()] = 0;
            self.counted_ms[direction.index()] = Some(now_ms);
        }
        self.waiting[direction.index()].end();
        Verdict::Pass
    }

    /// Something is not in hand: where the message is stopped; none: it was to be had.
    #[cold]
    #[inline(never)]
    fn too_much(&mut self, direction: Direction, frame_bytes: u64, now_ms: u64, now: Now) -> Option<Stopped> {
        let (at, wait_ms, held) = self.tightest(direction, frame_bytes, now)?;
        let stopped = self.stop(at, wait_ms, &held, direction, now_ms);
        if stopped.is_new {
            held.stopped_one(now);
        }
        Some(stopped)
    }

    /// Every limit that may stop a message, with its level's place and how much it is asked for.
    fn asked(&self, direction: Direction, frame_bytes: u64) -> impl Iterator<Item = (usize, &Rule, &Rc<Held>, u64)> {
        let levels = self.levels.iter().enumerate().filter(move |(_, level)| level.counts(direction));
        levels.flat_map(move |(at, level)| {
            let limits = level.plan.limits.iter().zip(&level.meters);
            limits.filter_map(move |(rule, held)| Some((at, rule, held, rule.asks(frame_bytes)?)))
        })
    }

    /// A denial, or the level that lets a message through last, of those that stop it; in how many milliseconds, and by which
    /// of its limits. None: all let it through, and have it in hand.
    #[cold]
    #[inline(never)]
    fn tightest(&self, direction: Direction, frame_bytes: u64, now: Now) -> Option<(usize, u64, Rc<Held>)> {
        let asked = || self.asked(direction, frame_bytes);
        // Where one is known to stop it, the others take nothing that would only lie there.
        let mut is_stopped = asked().any(|(_, _, held, need)| held.answer(need, now) == Answer::No);
        let mut tightest: Option<(usize, u64, &Rc<Held>)> = None;
        for (at, rule, held, need) in asked() {
            let wait_ns = match held.answer(need, now) {
                Answer::Yes => 0,
                Answer::Ask if !is_stopped && held.refill(need, now) => 0,
                Answer::Ask | Answer::No => held.wait_ns(need, &rule.terms, now),
            };
            if wait_ns > 0 {
                is_stopped = true;
                let wait_ms = if rule.ever_lets_more() { wait_ns.div_ceil(1_000_000) } else { NEVER_MS };
                let is_denial = |at: usize| self.levels[at].kind == LevelKind::Denial;
                if tightest.is_none_or(|(held, longest_ms, _)| (is_denial(at), wait_ms) > (is_denial(held), longest_ms))
                {
                    tightest = Some((at, wait_ms, held));
                }
            }
        }
        let (at, wait_ms, held) = tightest?;
        asked().for_each(|(_, _, held, _)| held.give_back_idle(now));
        Some((at, wait_ms, Rc::clone(held)))
    }

    /// A message that was let in goes on with a frame of so many bytes of payload: what is not there is owed.
    pub fn more(&mut self, direction: Direction, frame_bytes: u64, now_ms: u64) {
        let now = self.wall.now(now_ms);
        self.counted_ms[direction.index()] = Some(now_ms);
        for level in self.levels.iter().filter(|level| level.counts(direction)) {
            for (rule, held) in level.plan.limits.iter().zip(&level.meters) {
                match rule.unit {
                    Unit::Messages => {}
                    Unit::Frames => rule.spend(held, 1, now),
                    Unit::Bytes => rule.spend(held, frame_bytes, now),
                }
            }
        }
    }

    /// So many bytes of the current frame will not come: if they were counted, they are given back.
    pub fn refund(&mut self, direction: Direction, bytes: u64, now_ms: u64) {
        let Some(counted_ms) = self.counted_ms[direction.index()] else { return };
        let (now, counted) = (self.wall.now(now_ms), self.wall.now(counted_ms));
        for level in self.levels.iter().filter(|level| level.counts(direction)) {
            let of_bytes = level.plan.limits.iter().zip(&level.meters).filter(|(rule, _)| rule.unit == Unit::Bytes);
            of_bytes.for_each(|(_, held)| held.refund(bytes, counted.wall_ms, now));
        }
    }

    fn stop(&mut self, at: usize, wait_ms: u64, held: &Rc<Held>, direction: Direction, now_ms: u64) -> Stopped {
        let level = &self.levels[at];
        let (kind, on_limit) = (level.kind, &level.plan.on_limit);
        let waiting = &mut self.waiting[direction.index()];
        if on_limit.action == Outcome::Delay {
            let is_new = waiting.begin(now_ms.saturating_add(wait_ms.min(WAIT_MS_MAX)), Rc::clone(held));
            return Stopped { kind, at, outcome: Outcome::Delay, wait_ms, is_new };
        }
        waiting.end();
        let in_a_row = &mut self.stopped_in_a_row[direction.index()];
        *in_a_row = in_a_row.saturating_add(1);
        let is_enough = on_limit.close_after != 0 && *in_a_row >= on_limit.close_after;
        let outcome = if is_enough { Outcome::Close } else { on_limit.action };
        Stopped { kind, at, outcome, wait_ms, is_new: true }
    }

    /// With which code and reason the session is closed, and why.
    pub fn farewell(&self, stopped: &Stopped) -> (CloseCode, &str, Cause) {
        if stopped.kind == LevelKind::Denial {
            return (CloseCode::POLICY, Cause::Denied.word(), Cause::Denied);
        }
        let on_limit = &self.levels[stopped.at].plan.on_limit;
        (CloseCode(on_limit.code), &on_limit.reason, Cause::Throttled)
    }

    /// Has the client told, unless it has been told too often.
    pub fn owe_notice(&mut self, stopped: &Stopped, now_ms: u64) -> bool {
        let level = &self.levels[stopped.at];
        let OnLimit { notices, notices_per_second, .. } = level.plan.on_limit;
        let ceiling = u64::from(notices) * 1000;
        let flown_in = now_ms.saturating_sub(self.noticed_ms).saturating_mul(notices_per_second.into());
        let there = self.notices_milli.saturating_add(flown_in).min(ceiling);
        (self.notices_milli, self.noticed_ms) = (there, now_ms);
        let is_said = there >= 1000 && self.notices.len() < NOTICES_WAITING_MAX;
        if is_said {
            self.notices_milli -= 1000;
            self.notices.push_back(text_frame(&level.notice(stopped.wait_ms)));
        }
        is_said
    }

    /// Whether the client is still to be told of something.
    pub fn owes_notices(&self) -> bool {
        !self.notices.is_empty()
    }

    /// The next frame that tells it: a whole text message.
    pub fn next_notice(&mut self) -> Option<Box<[u8]>> {
        self.notices.pop_front()
    }
}

impl Level {
    fn asks(&self) -> impl Iterator<Item = Ask> {
        let directions = [Direction::ToUpstream, Direction::ToClient].into_iter();
        let counts = directions.filter(|&direction| self.counts(direction)).fold(0, |bits, one| bits | bit(one));
        self.plan.limits.iter().zip(&self.meters).map(move |(rule, held)| Ask {
            held: Rc::clone(held),
            counts,
            stops: if rule.stops { counts } else { 0 },
            is_of_bytes: rule.unit == Unit::Bytes,
            is_of_nothing: rule.terms.capacity() == 0,
        })
    }

    fn counts(&self, direction: Direction) -> bool {
        matches!(
            (self.plan.direction, direction),
            (Counted::Both, _) | (Counted::Client, Direction::ToUpstream) | (Counted::Server, Direction::ToClient)
        )
    }

    /// What the client reads in place of a message.
    fn notice(&self, wait_ms: u64) -> String {
        let code = THROTTLED_OUT;
        let wait_ms = (wait_ms != NEVER_MS).then_some(wait_ms);
        match &self.plan.on_limit.notice {
            Notice::Wso2 => format!("Error code: {code} reason: Websocket frame throttled out"),
            Notice::Wso2Short => "Websocket frame throttled out".into(),
            Notice::Json => serde_json::json!({
                "error": {
                    "code": code,
                    "message": "throttled out",
                    "level": &*self.name,
                    "plan": &*self.plan.name,
                    "retry_after_ms": wait_ms,
                },
            })
            .to_string(),
            Notice::Text(text) => {
                let (code, wait_ms) = (code.to_string(), wait_ms.map_or("never".into(), |wait_ms| wait_ms.to_string()));
                let values = [
                    ("{level}", &*self.name),
                    ("{plan}", &*self.plan.name),
                    ("{code}", code.as_str()),
                    ("{retry_after_ms}", wait_ms.as_str()),
                ];
                values.into_iter().fold(text.clone(), |text, (name, value)| text.replace(name, value))
            }
        }
    }
}

/// The code of WSO2 API Manager for a message that was throttled out.
const THROTTLED_OUT: u16 = 4003;

impl Rule {
    fn sort(&self) -> (Unit, Option<Window>) {
        (self.unit, self.terms.window())
    }

    #[inline]
    fn spend(&self, held: &Held, tokens: u64, now: Now) {
        if self.stops {
            held.spend(tokens, now);
        } else {
            held.record(tokens, now);
        }
    }

    /// Whether anything will pass that does not now.
    fn ever_lets_more(&self) -> bool {
        let (Terms::Bucket { amount, .. } | Terms::Quota { amount, .. }) = self.terms;
        amount > 0 && self.terms.capacity() > 0
    }

    /// How much it is asked for by a message; none: it does not stop it.
    #[inline]
    fn asks(&self, frame_bytes: u64) -> Option<u64> {
        let need = self.of_message(frame_bytes);
        // An empty message has bytes enough, unless nothing at all may pass.
        (self.stops && (need > 0 || self.terms.capacity() == 0)).then_some(need)
    }

    #[inline]
    fn of_message(&self, frame_bytes: u64) -> u64 {
        match self.unit {
            Unit::Messages | Unit::Frames => 1,
            Unit::Bytes => frame_bytes,
        }
    }
}

/// A text message to a client, whole.
fn text_frame(text: &str) -> Box<[u8]> {
    let header = FrameHeader { fin: true, rsv1: false, opcode: Opcode::Text, mask: None, length: text.len() as u64 };
    let (bytes, length) = header.encode();
    [&bytes[..length], text.as_bytes()].concat().into()
}
