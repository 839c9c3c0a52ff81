//! Whose turn it is, once a bucket is dry: shards that ask as often as they can get equal parts of what flows in.
//!
//! There is nothing of this while a bucket has tokens. It begins when a shard finds it empty, and ends when nobody has
//! been waiting for a while.

/// How long a shard that was sent away counts as waiting, in nanoseconds: who has not come back by then wanted little.
const WAITING_NS: u64 = 20_000_000;

/// What each shard got since the bucket ran dry, and who was sent away last.
#[derive(Debug)]
pub(super) struct Turns(Vec<Turn>);

#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    /// Tokens, since the first shard was sent away.
    taken: u64,
    /// When it asked last.
    asked_ns: u64,
    /// It was sent away then.
    is_refused: bool,
}

impl Turn {
    fn is_here(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.asked_ns) < WAITING_NS
    }

    fn is_waiting(&self, now_ns: u64) -> bool {
        self.is_refused && self.is_here(now_ns)
    }
}

impl Turns {
    pub(super) fn new(shards: u16) -> Self {
        Self(vec![Turn::default(); usize::from(shards.max(1))])
    }

    /// Whether nobody else waits who has had less. Nobody saves up turns by staying away: who comes back stands where the
    /// least of those who are here stands.
    pub(super) fn is_turn_of(&mut self, shard: u16, now_ns: u64) -> bool {
        let least = self.0.iter().filter(|turn| turn.is_here(now_ns)).map(|turn| turn.taken).min();
        let Some(mine) = self.0.get_mut(usize::from(shard)) else { return true };
        if !mine.is_here(now_ns) {
            mine.taken = mine.taken.max(least.unwrap_or(0));
        }
        mine.asked_ns = now_ns;
        let taken = mine.taken;
        !self.others(shard, now_ns).any(|turn| turn.taken < taken)
    }

    /// What came of the asking.
    pub(super) fn told(&mut self, shard: u16, tokens: u64, now_ns: u64) {
        if let Some(turn) = self.0.get_mut(usize::from(shard)) {
            turn.asked_ns = now_ns;
            turn.taken = turn.taken.saturating_add(tokens);
            turn.is_refused = tokens == 0;
        }
    }

    /// How much less a shard has had than the one that had most.
    pub(super) fn behind(&self, shard: u16) -> u64 {
        let most = self.0.iter().map(|turn| turn.taken).max().unwrap_or(0);
        self.0.get(usize::from(shard)).map_or(0, |turn| most - turn.taken)
    }

    /// Whether somebody else waits.
    pub(super) fn others_wait(&self, shard: u16, now_ns: u64) -> bool {
        self.others(shard, now_ns).next().is_some()
    }

    fn others(&self, shard: u16, now_ns: u64) -> impl Iterator<Item = &Turn> {
        let all = self.0.iter().enumerate();
        all.filter(move |(at, turn)| *at != usize::from(shard) && turn.is_waiting(now_ns)).map(|(_, turn)| turn)
    }
}
