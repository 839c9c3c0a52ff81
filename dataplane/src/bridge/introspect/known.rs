//! What is known of opaque tokens, for how long, and who lives by it.
//!
//! A plain table: time is an argument, asking is somebody else's. Tokens that were good and those that were not are kept
//! apart, so that nobody can push the good ones out with others.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use proto::limits::{TOKENS_HEARD_MAX, TOKENS_REFUSED_MAX};
use proto::snapshot::{Introspection, SecretHash};

use super::{About, Heard, Silence, TokenName};
use crate::identity::{Claims, Grant};
use crate::issuers::{Believed, Issuers};

/// What was heard of tokens.
#[derive(Default)]
pub struct Known {
    active: HashMap<TokenName, Active>,
    refused: HashMap<TokenName, (Arc<Believed>, Instant)>,
}

/// A token that was good when it was last asked about.
struct Active {
    about: About,
    claims: Arc<Claims>,
    fresh_until: Instant,
    /// When it is asked about again, if anybody lives by it.
    due: Instant,
    grants: Vec<Weak<Grant>>,
}

impl Active {
    fn living(&self) -> impl Iterator<Item = Arc<Grant>> {
        self.grants.iter().filter_map(Weak::upgrade)
    }

    fn is_lived_by(&self) -> bool {
        self.grants.iter().any(|grant| grant.strong_count() > 0)
    }
}

impl Known {
    /// Tokens of which something is known.
    pub fn len(&self) -> usize {
        self.active.len() + self.refused.len()
    }

    /// What was heard of a token, if it can still be believed.
    pub fn look(&self, issuer: &Arc<Believed>, hash: SecretHash, now: Instant) -> Option<Heard> {
        let name = (Arc::clone(&issuer.name), hash);
        if let Some(active) = self.active.get(&name) {
            let is_good = now < active.fresh_until && Arc::ptr_eq(&active.about.issuer, issuer);
            return is_good.then(|| Heard::Active(Arc::clone(&active.claims)));
        }
        let (by, until) = self.refused.get(&name)?;
        (now < *until && Arc::ptr_eq(by, issuer)).then_some(Heard::Inactive)
    }

    /// Keeps an answer, or that there was none. Whether sessions that live by it should look again.
    pub fn keep(&mut self, about: &About, heard: &Result<Heard, Silence>, now: Instant) -> bool {
        let Some(terms) = &about.issuer.config.introspection else { return false };
        match heard {
            Ok(Heard::Active(claims)) => {
                self.keep_active(about, claims, terms, now);
                false
            }
            Ok(Heard::Inactive) => self.withdraw(about, terms, now),
            Err(Silence) => self.fall_silent(&about.name()),
        }
    }

    fn keep_active(&mut self, about: &About, claims: &Arc<Claims>, terms: &Introspection, now: Instant) {
        let name = about.name();
        self.refused.remove(&name);
        let every = Duration::from(terms.cache);
        let (fresh_until, due) = (now + every, now + every);
        if let Some(active) = self.active.get_mut(&name) {
            active.living().for_each(|grant| grant.word.set_silence(false));
            (active.about, active.claims) = (about.clone(), Arc::clone(claims));
            (active.fresh_until, active.due) = (fresh_until, due);
            return;
        }
        // What does not fit is not kept: its session could not be watched over, and so does not begin.
        if self.active.len() < TOKENS_HEARD_MAX {
            let (about, claims) = (about.clone(), Arc::clone(claims));
            self.active.insert(name, Active { about, claims, fresh_until, due, grants: Vec::new() });
        }
    }

    fn withdraw(&mut self, about: &About, terms: &Introspection, now: Instant) -> bool {
        let name = about.name();
        let before = self.active.remove(&name);
        if self.refused.len() >= TOKENS_REFUSED_MAX {
            self.refused.retain(|_, (_, until)| now < *until);
            if self.refused.len() >= TOKENS_REFUSED_MAX {
                self.refused.clear();
            }
        }
        self.refused.insert(name, (Arc::clone(&about.issuer), now + Duration::from(terms.negative_cache)));
        let grants: Vec<_> = before.iter().flat_map(Active::living).collect();
        grants.iter().for_each(|grant| grant.word.withdraw());
        !grants.is_empty()
    }

    fn fall_silent(&mut self, name: &TokenName) -> bool {
        let grants: Vec<_> = self.active.get(name).into_iter().flat_map(Active::living).collect();
        let is_news = grants.iter().any(|grant| !grant.word.is_silent());
        grants.iter().for_each(|grant| grant.word.set_silence(true));
        is_news
    }

    /// A grant that says the same and lives, or this one from now on.
    pub fn share(&mut self, name: &TokenName, grant: Grant) -> Option<Arc<Grant>> {
        let active = self.active.get_mut(name)?;
        if let Some(same) = active.living().find(|other| says_the_same(other, &grant)) {
            return Some(same);
        }
        active.grants.retain(|grant| grant.strong_count() > 0);
        let grant = Arc::new(grant);
        active.grants.push(Arc::downgrade(&grant));
        Some(grant)
    }

    /// Tokens that are to be asked about again now, so many at most; and forgets those that nobody needs.
    pub fn due(&mut self, now: Instant, room: usize) -> Vec<About> {
        self.refused.retain(|_, (_, until)| now < *until);
        self.active.retain(|_, active| now < active.fresh_until || active.is_lived_by());
        let is_due = |active: &&mut Active| active.due <= now && active.is_lived_by();
        let due = self.active.values_mut().filter(is_due).take(room).map(|active| {
            let terms = active.about.issuer.config.introspection.as_ref();
            active.due = now + terms.map_or(Duration::MAX / 2, |terms| terms.cache.into()).min(YEAR);
            active.about.clone()
        });
        due.collect()
    }

    /// Issuers that say something else now are asked as they say.
    pub fn follow(&mut self, issuers: &Issuers) {
        for active in self.active.values_mut() {
            if let Some(issuer) = issuers.named(&active.about.issuer.name) {
                active.about.issuer = Arc::clone(issuer);
            }
        }
    }
}

const YEAR: Duration = Duration::from_secs(366 * 86_400);

/// Whether sessions of these two are told apart by nothing.
fn says_the_same(one: &Grant, other: &Grant) -> bool {
    one.form == other.form
        && one.client == other.client
        && one.application == other.application
        && one.user == other.user
        && one.environment == other.environment
        && one.scopes == other.scopes
        && (one.issued_s, one.expires_ms) == (other.issued_s, other.expires_ms)
        && !one.word.is_withdrawn()
}
