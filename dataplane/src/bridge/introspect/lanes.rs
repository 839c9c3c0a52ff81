//! Whose turn it is among the tokens that issuers are to be asked about.
//!
//! Each issuer has a lane of its own, so that one that hangs keeps its own tokens waiting and nobody else's; and in each lane
//! handshakes come before what is asked again. Asking is somebody else's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::limits::{INQUIRIES_MAX, INQUIRIES_OF_ISSUER_MAX, INQUIRIES_UNDER_WAY_MAX};

use super::About;

/// The lanes of all issuers.
#[derive(Default)]
pub struct Lanes {
    lanes: HashMap<Arc<str>, Lane>,
    under_way: usize,
}

/// What waits for one issuer.
#[derive(Default)]
struct Lane {
    /// Of handshakes, with the moment at which each began to wait.
    first: VecDeque<(About, Instant)>,
    /// Of live sessions.
    again: VecDeque<About>,
    under_way: usize,
    is_silent: bool,
}

/// What is to be done with the next one.
pub enum Turn {
    /// Its issuer is to be asked now.
    Ask(About),
    /// It has waited longer than an answer may take.
    Late(About),
}

/// What became of an issuer, where that is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It does not answer any more.
    FellSilent,
    /// It answers again.
    Spoke,
}

impl Lanes {
    /// A handshake waits for an answer; false: too many do.
    pub fn push(&mut self, about: About, now: Instant) -> bool {
        let lane = self.lanes.entry(Arc::clone(&about.issuer.name)).or_default();
        let has_room = lane.first.len() < INQUIRIES_MAX;
        if has_room {
            lane.first.push_back((about, now));
        }
        has_room
    }

    /// A token of live sessions is to be asked about again; false: too many are.
    pub fn push_again(&mut self, about: About) -> bool {
        let lane = self.lanes.entry(Arc::clone(&about.issuer.name)).or_default();
        let has_room = lane.again.len() < INQUIRIES_MAX;
        if has_room {
            lane.again.push_back(about);
        }
        has_room
    }

    /// The next one, if one may be asked about. One that is to be asked about is under way from now on.
    pub fn next(&mut self, now: Instant) -> Option<Turn> {
        let has_room = self.under_way < INQUIRIES_UNDER_WAY_MAX;
        for lane in self.lanes.values_mut() {
            if lane.first.front().is_some_and(|(about, since)| *since + patience(about) <= now) {
                return lane.first.pop_front().map(|(about, _)| Turn::Late(about));
            }
            if !has_room || lane.under_way >= INQUIRIES_OF_ISSUER_MAX {
                continue;
            }
            if let Some(about) = lane.first.pop_front().map(|(about, _)| about).or_else(|| lane.again.pop_front()) {
                lane.under_way += 1;
                self.under_way += 1;
                return Some(Turn::Ask(about));
            }
        }
        None
    }

    /// One that was under way is not any more, and its issuer has answered or not.
    pub fn finished(&mut self, issuer: &str, has_answered: bool) -> Option<News> {
        let lane = self.lanes.get_mut(issuer)?;
        lane.under_way = lane.under_way.saturating_sub(1);
        self.under_way = self.under_way.saturating_sub(1);
        let was_silent = std::mem::replace(&mut lane.is_silent, !has_answered);
        if lane.under_way == 0 && lane.first.is_empty() && lane.again.is_empty() && !lane.is_silent {
            self.lanes.remove(issuer);
        }
        match (was_silent, has_answered) {
            (false, false) => Some(News::FellSilent),
            (true, true) => Some(News::Spoke),
            _ => None,
        }
    }
}

/// How long an answer may take, and as long a handshake waits for its turn.
fn patience(about: &About) -> Duration {
    about.issuer.config.introspection.as_ref().map_or(Duration::ZERO, |terms| terms.timeout.into())
}

#[cfg(test)]
mod tests {
    use proto::snapshot::{Issuer, SecretHash};
    use serde_json::json;

    use super::*;
    use crate::issuers::Believed;
    use crate::tls::Terms;

    fn issuer(name: &str) -> Arc<Believed> {
        let introspection = json!({"url": "http://issuer/", "timeout": "2s"});
        let issuer: Issuer = serde_json::from_value(
            json!({"name": name, "issuer": format!("https://{name}"), "introspection": introspection}),
        )
        .unwrap();
        Arc::new(Believed::new(issuer, &Terms::default()))
    }

    fn about(issuer: &Arc<Believed>, token: &str) -> About {
        About { issuer: Arc::clone(issuer), hash: SecretHash::of(token), token: token.into() }
    }

    fn asked(lanes: &mut Lanes, now: Instant) -> Vec<String> {
        let turns = std::iter::from_fn(|| lanes.next(now));
        let token = |turn| match turn {
            Turn::Ask(about) => about.token.to_string(),
            Turn::Late(about) => format!("late {}", about.token),
        };
        turns.map(token).collect()
    }

    #[test]
    fn an_issuer_that_hangs_keeps_nobody_elses_tokens_waiting() {
        let (hung, well, now) = (issuer("hung"), issuer("well"), Instant::now());
        let mut lanes = Lanes::default();
        for number in 0..INQUIRIES_MAX {
            assert!(lanes.push_again(about(&hung, &format!("again {number}"))));
        }
        assert!(!lanes.push_again(about(&hung, "too many")));
        assert_eq!(asked(&mut lanes, now).len(), INQUIRIES_OF_ISSUER_MAX);
        assert!(lanes.push(about(&hung, "a handshake"), now), "what is asked again takes no place of a handshake's");
        assert!(lanes.push(about(&well, "another's"), now));
        assert_eq!(asked(&mut lanes, now), ["another's"]);
        lanes.finished("hung", false);
        assert_eq!(asked(&mut lanes, now), ["a handshake"], "it comes before what is asked again");
    }

    #[test]
    fn who_has_waited_as_long_as_an_answer_may_take_is_told_so() {
        let (hung, now) = (issuer("hung"), Instant::now());
        let mut lanes = Lanes::default();
        for number in 0..=INQUIRIES_OF_ISSUER_MAX {
            assert!(lanes.push(about(&hung, &number.to_string()), now));
        }
        assert_eq!(asked(&mut lanes, now).len(), INQUIRIES_OF_ISSUER_MAX);
        assert!(asked(&mut lanes, now + Duration::from_millis(1_999)).is_empty());
        assert_eq!(asked(&mut lanes, now + Duration::from_secs(2)), [format!("late {INQUIRIES_OF_ISSUER_MAX}")]);
    }

    #[test]
    fn silence_is_news_once_and_so_is_its_end() {
        let (issuer, now) = (issuer("i"), Instant::now());
        let mut lanes = Lanes::default();
        let mut round = |has_answered| {
            lanes.push(about(&issuer, "x"), now);
            assert_eq!(asked(&mut lanes, now), ["x"]);
            lanes.finished("i", has_answered)
        };
        assert_eq!([round(true), round(false), round(false)], [None, Some(News::FellSilent), None]);
        assert_eq!([round(true), round(true)], [Some(News::Spoke), None]);
        assert!(lanes.lanes.is_empty() && lanes.under_way == 0);
    }
}
