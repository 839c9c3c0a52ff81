//! Whose turn it is, once a bucket is dry: shards that ask as often as they can get equal parts of what flows in.
//!
//! There is nothing of this while a bucket has tokens. It begins when a shard finds it empty, and ends when nobody has
//! been waiting for a while.

/// How long a shard counts as here after it could have come back, in nanoseconds: who has not by then wanted little.
const WAITING_NS: u64 = 20_000_000;

/// What each shard got since the bucket ran dry, and who was sent away last.
#[derive(Debug)]
pub(super) struct Turns(Vec<Turn>);

#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    /// Tokens, since the first shard was sent away.
    taken: u64,
    /// Until then it counts as here.
    until_ns: u64,
    /// What it was sent away without; 0: it was not.
    need: u64,
    /// It comes back for that.
    waits: bool,
}

impl Turn {
    fn is_here(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns
    }

    fn is_waiting(&self, now_ns: u64) -> bool {
        self.need > 0 && self.is_here(now_ns)
    }
}

impl Turns {
    pub(super) fn new(shards: u16) -> Self {
        Self(vec![Turn::default(); usize::from(shards.max(1))])
    }

    /// How much is kept for others before a shard has anything, who have had less: what those want who come back for it, and
    /// `ample` for those who only may. Nobody saves up turns by staying away: who comes back stands where the least of those
    /// who are here stands.
    pub(super) fn kept_from(&mut self, shard: u16, ample: u64, now_ns: u64) -> u64 {
        let least = self.0.iter().filter(|turn| turn.is_here(now_ns)).map(|turn| turn.taken).min();
        let Some(mine) = self.0.get_mut(usize::from(shard)) else { return 0 };
        if !mine.is_here(now_ns) {
            mine.taken = mine.taken.max(least.unwrap_or(0));
        }
        mine.until_ns = now_ns.saturating_add(WAITING_NS);
        let taken = mine.taken;
        let before = self.others(shard, now_ns).filter(|turn| turn.taken < taken);
        let (kept, is_ample) = before.fold((0_u64, false), |(kept, is_ample), turn| match turn.waits {
            true => (kept.saturating_add(turn.need), is_ample),
            false => (kept, true),
        });
        if is_ample { kept.saturating_add(ample) } else { kept }
    }

    /// A shard was given so many tokens.
    pub(super) fn given(&mut self, shard: u16, tokens: u64) {
        if let Some(turn) = self.0.get_mut(usize::from(shard)) {
            turn.taken = turn.taken.saturating_add(tokens);
            turn.need = 0;
        }
    }

    /// A shard was sent away without so many. If it comes back for them that is in so many nanoseconds.
    pub(super) fn refused(&mut self, shard: u16, need: u64, back_in_ns: Option<u64>, now_ns: u64) {
        if let Some(turn) = self.0.get_mut(usize::from(shard)) {
            (turn.need, turn.waits) = (need, back_in_ns.is_some());
            turn.until_ns = now_ns.saturating_add(back_in_ns.unwrap_or(0)).saturating_add(WAITING_NS);
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

    /// Whether somebody else asked a moment ago, whatever came of it.
    pub(super) fn others_are_here(&self, shard: u16, now_ns: u64) -> bool {
        self.0.iter().enumerate().any(|(at, turn)| at != usize::from(shard) && turn.is_here(now_ns))
    }

    fn others(&self, shard: u16, now_ns: u64) -> impl Iterator<Item = &Turn> {
        let all = self.0.iter().enumerate();
        all.filter(move |(at, turn)| *at != usize::from(shard) && turn.is_waiting(now_ns)).map(|(_, turn)| turn)
    }
}
