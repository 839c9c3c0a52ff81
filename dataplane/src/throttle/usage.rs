//! What is used of limits, by key: the answer to an operator's question.
//!
//! Every meter is looked at once, in parts that are locked one after the other; a row is made only of those that may be
//! among the ones of which most is used.

use std::sync::Arc;

use proto::control::message::{Usage, UsageAsked, UsageRow};
use proto::limits::USAGE_ROWS_MAX;
use proto::snapshot::{Duration, Quota, Rate, Unit};
use proto::throttle::{Now, Terms};

use super::guard::LevelKind;
use super::held::Metered;
use super::meters::{LimitId, Meters, OTHERS};

/// What those are called for whom there was no room.
const ALL_OTHERS: &str = "(all others)";

/// The rows of which the largest part is used, that first.
pub fn usage(meters: &Meters, asked: &UsageAsked, now: Now) -> Usage {
    let wanted = match asked.rows_max as usize {
        0 => USAGE_ROWS_MAX,
        rows => rows.min(USAGE_ROWS_MAX),
    };
    let mut answer = Usage::default();
    // The least part that may still be among those wanted.
    let mut least = f64::NEG_INFINITY;
    for piece in 0..meters.pieces() {
        meters.each(piece, |id, metered| {
            let Some(kind) = id.scope.kind else { return };
            let key = Key::of(kind, id);
            if !key.is_asked(id, asked) {
                return;
            }
            answer.total += 1;
            let (terms, usage) = metered.with(|meter| (*meter.terms(), meter.usage(now)));
            if part(usage.used, terms.capacity()) >= least {
                answer.rows.push(row(kind, id, metered, &key, terms, usage));
            }
        });
        if answer.rows.len() > 2 * wanted || piece + 1 == meters.pieces() {
            answer.rows.sort_by(UsageRow::order);
            answer.rows.truncate(wanted);
            if answer.rows.len() == wanted {
                least = answer.rows.last().map_or(least, |last| part(last.used, last.amount));
            }
        }
    }
    answer
}

/// Nothing of nothing is all of it.
fn part(used: u64, amount: u64) -> f64 {
    let used = if amount == 0 { used.max(1) } else { used };
    used as f64 / amount.max(1) as f64
}

/// What a key is made of.
struct Key<'k> {
    application: &'k str,
    api: &'k str,
    rest: &'k str,
}

impl<'k> Key<'k> {
    fn of(kind: LevelKind, id: &'k LimitId) -> Self {
        let key = &*id.key;
        let (first, rest) = key.split_once('/').unwrap_or((key, ""));
        match kind {
            LevelKind::Application => Self { application: first, api: "", rest },
            LevelKind::Subscription => Self { application: first, api: rest, rest: "" },
            LevelKind::Api => Self { application: "", api: key, rest: "" },
            LevelKind::Topic => Self { application: "", api: first, rest: key },
            LevelKind::Unauthenticated | LevelKind::Keyed | LevelKind::Session | LevelKind::Denial => {
                Self { application: "", api: "", rest: key }
            }
        }
    }

    fn is_asked(&self, id: &LimitId, asked: &UsageAsked) -> bool {
        let name = self.api.split_once(':').map_or(self.api, |(name, _)| name);
        asked.api.as_deref().is_none_or(|wanted| wanted == self.api || wanted == name)
            && asked.application.as_deref().is_none_or(|wanted| wanted == self.application)
            && asked.plan.as_deref().is_none_or(|wanted| wanted == &*id.scope.plan)
    }

    /// As people read it.
    fn shown(&self, kind: LevelKind, id: &LimitId) -> String {
        let key = &*id.key;
        match kind {
            _ if key == OTHERS => ALL_OTHERS.into(),
            LevelKind::Application if !self.rest.is_empty() => format!("{} of {}", self.rest, self.application),
            LevelKind::Subscription => format!("{} at {}", self.application, self.api),
            LevelKind::Keyed | LevelKind::Session => format!("{}: {key}", id.scope.name),
            _ => key.into(),
        }
    }
}

fn row(
    kind: LevelKind,
    id: &LimitId,
    metered: &Arc<Metered>,
    key: &Key<'_>,
    terms: Terms,
    usage: proto::throttle::Usage,
) -> UsageRow {
    UsageRow {
        level: kind.word().into(),
        key: key.shown(kind, id),
        api: key.api.into(),
        application: key.application.into(),
        plan: String::from(&*id.scope.plan),
        limit: written(terms, id.rule.unit),
        count: id.rule.unit,
        amount: terms.capacity(),
        used: usage.used,
        left: usage.left,
        resets_ms: usage.resets_ms,
        stopped: metered.stopped(),
        sessions: metered.sessions(),
    }
}

/// As an operator writes it: only bytes are counted in MiB.
fn written(terms: Terms, unit: Unit) -> String {
    let (amount, text) = match terms {
        Terms::Bucket { amount, per_ns, .. } => {
            (amount, Rate { amount, per: Duration::from_ms(per_ns / 1_000_000) }.to_string())
        }
        Terms::Quota { amount, window } => (amount, Quota { amount, window }.to_string()),
    };
    match (unit, text.split_once('/')) {
        (Unit::Messages | Unit::Frames, Some((_, per))) => format!("{amount}/{per}"),
        _ => text,
    }
}

/// A key as people read it, for the log.
pub(super) fn shown(id: &LimitId) -> String {
    id.scope.kind.map_or_else(|| id.key.to_string(), |kind| Key::of(kind, id).shown(kind, id))
}

#[cfg(test)]
mod tests {
    use proto::snapshot::Unit;
    use proto::throttle::{Meter, Window, WindowUnit};

    use super::*;
    use crate::throttle::{RuleId, Scope};

    const NOW: Now = Now { mono_ns: 0, wall_ms: 1_800_000_000_000 };

    fn meters(used: &[(LevelKind, &str, u64)]) -> Meters {
        let meters = Meters::default();
        let window = Window::one(WindowUnit::Day);
        for &(kind, key, used) in used {
            let scope = Arc::new(Scope { kind: Some(kind), name: "per-office".into(), plan: "gold".into() });
            let terms = Terms::Quota { amount: 10, window };
            let meter = Meter::restored(terms, used, window.around(NOW.wall_ms).0, NOW);
            let rule = RuleId { unit: Unit::Messages, window: Some(window), nth: 0 };
            meters.restore(LimitId { scope, key: key.into(), rule }, meter);
        }
        meters
    }

    #[test]
    fn rows_are_sorted_named_and_chosen() {
        let meters = meters(&[
            (LevelKind::Application, "mobile/alice", 3),
            (LevelKind::Application, "mobile", 1),
            (LevelKind::Subscription, "mobile/chat:v1", 9),
            (LevelKind::Api, "chat:v1", 12),
            (LevelKind::Topic, "chat:v1/rooms/{room}", 2),
            (LevelKind::Keyed, "10.0.0.0/24", 5),
        ]);
        let keys = |asked: UsageAsked| -> Vec<String> {
            usage(&meters, &asked, NOW).rows.into_iter().map(|row| row.key).collect()
        };
        let expected = [
            "chat:v1",
            "mobile at chat:v1",
            "per-office: 10.0.0.0/24",
            "alice of mobile",
            "chat:v1/rooms/{room}",
            "mobile",
        ];
        assert_eq!(keys(UsageAsked::default()), expected);
        assert_eq!(keys(UsageAsked { rows_max: 2, ..UsageAsked::default() }), expected[..2]);
        let of_chat = UsageAsked { api: Some("chat".into()), ..UsageAsked::default() };
        assert_eq!(keys(of_chat), ["chat:v1", "mobile at chat:v1", "chat:v1/rooms/{room}"]);
        let of_mobile = UsageAsked { application: Some("mobile".into()), ..UsageAsked::default() };
        assert_eq!(keys(of_mobile), ["mobile at chat:v1", "alice of mobile", "mobile"]);
        assert!(keys(UsageAsked { plan: Some("silver".into()), ..UsageAsked::default() }).is_empty());
        let first = &usage(&meters, &UsageAsked::default(), NOW).rows[0];
        assert_eq!((&*first.level, &*first.plan, &*first.limit), ("api", "gold", "10/day"));
        assert_eq!((first.used, first.left, first.amount), (12, 0, 10));
    }

    #[test]
    fn a_limit_is_written_in_units_of_bytes_only_where_bytes_are_counted() {
        let quota = Terms::Quota { amount: 2 << 20, window: Window::one(WindowUnit::Day) };
        let bucket = Terms::Bucket { amount: 1 << 20, per_ns: 1_000_000_000, burst: 5 };
        for (unit, of_quota, of_bucket) in [
            (Unit::Messages, "2097152/day", "1048576/s"),
            (Unit::Frames, "2097152/day", "1048576/s"),
            (Unit::Bytes, "2MiB/day", "1MiB/s"),
        ] {
            assert_eq!((&*written(quota, unit), &*written(bucket, unit)), (of_quota, of_bucket));
        }
    }

    #[test]
    fn of_many_keys_those_come_of_which_most_is_used() {
        let names: Vec<String> = (0..5000).map(|at| format!("app/u{at}")).collect();
        let used: Vec<_> =
            names.iter().enumerate().map(|(at, name)| (LevelKind::Application, &**name, at as u64)).collect();
        let answer = usage(&meters(&used), &UsageAsked { rows_max: 100, ..UsageAsked::default() }, NOW);
        assert_eq!(answer.total, 5000);
        let found: Vec<u64> = answer.rows.iter().map(|row| row.used).collect();
        assert_eq!(found, (4900..5000).rev().collect::<Vec<u64>>());
    }
}
