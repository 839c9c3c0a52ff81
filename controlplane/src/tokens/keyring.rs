//! Which signing keys there are, which of them signs, and when the next takes its place.
//!
//! A key is published before it signs, so that whoever checks tokens has it by then, and stays published after it has
//! signed its last token, until that has run out. Clock and randomness are arguments; where keys are kept is `ledger`'s.
//!
//! ```text
//!            made             signs             the next one signs       its last token has run out
//!   one key   |--- ahead ------|==== rotate_every ====|------ lifetime ------|
//!   the next                             |--- ahead --|==== rotate_every ====|
//! ```

use std::sync::Arc;

use proto::limits::JWKS_KEYS_MAX;
use proto::snapshot::SigningAlgorithm;
use ring::rand::SecureRandom;

use super::jwks::KeySet;
use super::jws::{Jwk, SigningKey};

/// How long before it signs a key is published, at most; at least half of the time between two keys is left.
const AHEAD_MS_MAX: u64 = 300_000;
/// How long a key is published beyond its last token's end: a second is not cut in two.
const BEYOND_MS: u64 = 1000;

/// A key in its place.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its public half.
    pub public: Jwk,
    /// Its algorithm.
    pub algorithm: SigningAlgorithm,
    /// Its private half, as far as it is here: an operator's own key that has been replaced is not.
    pub private: Option<Arc<SigningKey>>,
    /// The same as PKCS#8, where it is kept here.
    pub pkcs8: Option<Arc<[u8]>>,
    /// From when on it signs, milliseconds since 1970.
    pub signs_from_ms: u64,
    /// Until when it is published, once another one signs.
    pub published_until_ms: Option<u64>,
}

impl Held {
    /// Its name.
    pub fn kid(&self) -> &str {
        self.public.kid.as_deref().unwrap_or_default()
    }
}

/// What is wanted of the keys.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The algorithm.
    pub algorithm: SigningAlgorithm,
    /// An operator's key, which is not replaced by time.
    pub given: Option<Arc<SigningKey>>,
    /// How often a key is replaced.
    pub every_ms: u64,
    /// How long tokens last.
    pub lifetime_ms: u64,
}

impl Rotation {
    /// How long before it signs a key is published.
    pub fn ahead_ms(&self) -> u64 {
        (self.every_ms / 2).min(AHEAD_MS_MAX)
    }
}

/// The keys, in the order in which they sign.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    keys: Vec<Held>,
}

/// What a step has come to.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// The keys are others, or stand otherwise.
    pub has_changed: bool,
    /// When the next step is due, milliseconds since 1970; none: never, as things are.
    pub again_ms: Option<u64>,
}

/// No key can be made.
#[derive(Debug, thiserror::Error)]
#[error("a signing key cannot be made; is there randomness?")]
pub struct MakeError;

/// Why no other key takes over when somebody asks for it.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// An operator's key is replaced by its operator.
    #[error(
        "the configuration names the key (token_endpoint.signing_key); replace that file, and the next key takes over"
    )]
    Given,
    /// Each is published until the last token that it signed has run out.
    #[error("{0} keys are published, and there may not be more; wait until tokens of the oldest have run out")]
    TooMany(usize),
    /// There is none.
    #[error(transparent)]
    Make(#[from] MakeError),
}

impl Keyring {
    /// Of kept keys.
    pub fn new(mut keys: Vec<Held>) -> Self {
        keys.sort_by_key(|key| key.signs_from_ms);
        Self { keys }
    }

    /// The keys.
    pub fn keys(&self) -> &[Held] {
        &self.keys
    }

    /// The key that signs now.
    pub fn signing(&self, now_ms: u64) -> Option<&Held> {
        let able = || self.keys.iter().filter(|key| key.private.is_some());
        // With a clock that has been set back no key may have come to its time; the first will do.
        able().rfind(|key| key.signs_from_ms <= now_ms).or_else(|| able().next())
    }

    /// The public halves.
    pub fn published(&self) -> KeySet {
        KeySet::of(self.keys.iter().map(|key| key.public.clone()).collect())
    }

    /// Brings the keys to where they should be at this time.
    pub fn step(&mut self, wanted: &Rotation, now_ms: u64, random: &dyn SecureRandom) -> Result<Step, MakeError> {
        self.arm(wanted);
        let mut has_changed = false;
        if self.lacks_one(wanted, now_ms) && self.keys.len() < JWKS_KEYS_MAX {
            let first = self.signing(now_ms).is_none();
            let soonest = self.keys.last().map_or(0, |newest| newest.signs_from_ms + 1);
            let signs_from_ms = if first { now_ms } else { now_ms + wanted.ahead_ms() }.max(soonest);
            let made = make(wanted, signs_from_ms, random)?;
            // An operator's key that comes back takes the place that it had.
            self.keys.retain(|key| key.kid() != made.kid());
            self.keys.push(made);
            has_changed = true;
        }
        has_changed |= self.retire(wanted, now_ms);
        let again_ms = self.again_ms(wanted, now_ms);
        Ok(Step { has_changed, again_ms })
    }

    /// Makes the next key before its time, unless there is one already that does not sign yet; whether it did. It is
    /// published before it signs as any is.
    pub fn replace(&mut self, wanted: &Rotation, now_ms: u64, random: &dyn SecureRandom) -> Result<bool, ReplaceError> {
        if wanted.given.is_some() {
            return Err(ReplaceError::Given);
        }
        let is_there = self.keys.last().is_some_and(|newest| newest.signs_from_ms > now_ms);
        if is_there && !self.lacks_one(wanted, now_ms) {
            return Ok(false);
        }
        if self.keys.len() >= JWKS_KEYS_MAX {
            return Err(ReplaceError::TooMany(self.keys.len()));
        }
        let soonest =
            self.keys.last().map_or(now_ms, |newest| (newest.signs_from_ms + 1).max(now_ms + wanted.ahead_ms()));
        self.keys.push(make(wanted, soonest, random)?);
        Ok(true)
    }

    /// The newest key signs from now on, also before others whose time has not come. Those before it are not let go by
    /// this: they sign until the keys are used as they stand here, and the step after that sets their end.
    pub fn sign_with_newest(&mut self, now_ms: u64) {
        let mut next_ms = now_ms.saturating_add(1);
        for key in self.keys.iter_mut().rev() {
            key.signs_from_ms = key.signs_from_ms.min(next_ms.saturating_sub(1));
            next_ms = key.signs_from_ms;
        }
    }

    /// Gives an operator's key its private half, which is not kept. One that is replaced signs until the next one does.
    fn arm(&mut self, wanted: &Rotation) {
        let Some(given) = &wanted.given else { return };
        let own = self.keys.iter_mut().filter(|key| key.kid() == given.kid());
        own.for_each(|key| key.private = Some(Arc::clone(given)));
    }

    /// Whether the newest key is not what is wanted, or its time comes to an end.
    fn lacks_one(&self, wanted: &Rotation, now_ms: u64) -> bool {
        let Some(newest) = self.keys.last() else { return true };
        if let Some(given) = &wanted.given {
            return Some(given.kid()) != newest.public.kid.as_deref();
        }
        let is_ours = newest.pkcs8.is_some() && newest.algorithm == wanted.algorithm;
        !is_ours || newest.signs_from_ms + wanted.every_ms <= now_ms + wanted.ahead_ms()
    }

    /// Sets the end of keys that sign no more, and lets go of those whose end has come.
    fn retire(&mut self, wanted: &Rotation, now_ms: u64) -> bool {
        let mut has_changed = false;
        let Some(signing) = self.signing(now_ms).map(|key| key.kid().to_owned()) else { return false };
        let place = self.keys.iter().position(|key| key.kid() == signing).unwrap_or(0);
        for key in self.keys.iter_mut().take(place).filter(|key| key.published_until_ms.is_none()) {
            key.published_until_ms = Some(now_ms + wanted.lifetime_ms + BEYOND_MS);
            has_changed = true;
        }
        let before = self.keys.len();
        self.keys.retain(|key| key.published_until_ms.is_none_or(|until| until > now_ms));
        has_changed || self.keys.len() != before
    }

    fn again_ms(&self, wanted: &Rotation, now_ms: u64) -> Option<u64> {
        let begins = self.keys.iter().map(|key| key.signs_from_ms);
        let ends = self.keys.iter().filter_map(|key| key.published_until_ms);
        let newest = self.keys.last().filter(|_| wanted.given.is_none());
        let replaced = newest.map(|key| (key.signs_from_ms + wanted.every_ms).saturating_sub(wanted.ahead_ms()));
        begins.chain(ends).chain(replaced).filter(|at| *at > now_ms).min()
    }
}

fn make(wanted: &Rotation, signs_from_ms: u64, random: &dyn SecureRandom) -> Result<Held, MakeError> {
    let (private, pkcs8) = match &wanted.given {
        Some(given) => (Arc::clone(given), None),
        None => {
            let pkcs8 = SigningKey::generate(wanted.algorithm, random).ok_or(MakeError)?;
            let key = SigningKey::of_pkcs8(wanted.algorithm, &pkcs8).map_err(|_| MakeError)?;
            (Arc::new(key), Some(pkcs8.into()))
        }
    };
    Ok(Held {
        public: private.public().clone(),
        algorithm: wanted.algorithm,
        private: Some(private),
        pkcs8,
        signs_from_ms,
        published_until_ms: None,
    })
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;

    const T0: u64 = 1_000_000_000;

    fn wanted(algorithm: SigningAlgorithm) -> Rotation {
        Rotation { algorithm, given: None, every_ms: 100_000, lifetime_ms: 30_000 }
    }

    fn step(ring: &mut Keyring, wanted: &Rotation, at: u64) -> Step {
        ring.step(wanted, T0 + at, &SystemRandom::new()).unwrap()
    }

    fn kids(ring: &Keyring) -> Vec<String> {
        ring.keys().iter().map(|key| key.kid().to_owned()).collect()
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_after() {
        let wanted = wanted(SigningAlgorithm::EdDsa);
        let mut ring = Keyring::default();
        assert_eq!(step(&mut ring, &wanted, 0), Step { has_changed: true, again_ms: Some(T0 + 50_000) });
        let first = kids(&ring);
        assert_eq!(ring.signing(T0).unwrap().kid(), first[0], "the first one has nobody to wait for");
        assert!(!step(&mut ring, &wanted, 49_999).has_changed);

        assert_eq!(step(&mut ring, &wanted, 50_000), Step { has_changed: true, again_ms: Some(T0 + 100_000) });
        let both = kids(&ring);
        assert_eq!(both[0], first[0]);
        assert_eq!(ring.published().keys.len(), 2);
        assert_eq!(ring.signing(T0 + 99_999).unwrap().kid(), both[0]);
        assert_eq!(ring.signing(T0 + 100_000).unwrap().kid(), both[1]);

        let step_ = step(&mut ring, &wanted, 100_000);
        assert_eq!(step_, Step { has_changed: true, again_ms: Some(T0 + 131_000) }, "until the last token has run out");
        assert!(!step(&mut ring, &wanted, 130_999).has_changed);
        assert!(step(&mut ring, &wanted, 131_000).has_changed);
        assert_eq!(kids(&ring), both[1..]);
    }

    #[test]
    fn after_a_long_absence_the_key_that_was_there_signs_until_the_next_is_known() {
        let wanted = wanted(SigningAlgorithm::Es256);
        let mut ring = Keyring::default();
        step(&mut ring, &wanted, 0);
        let first = kids(&ring);
        step(&mut ring, &wanted, 10_000_000);
        assert_eq!(ring.signing(T0 + 10_000_000).unwrap().kid(), first[0]);
        assert_eq!(ring.signing(T0 + 10_050_000).unwrap().kid(), kids(&ring)[1]);
    }

    #[test]
    fn another_algorithm_or_an_operators_key_takes_over_in_the_same_way() {
        let mut ring = Keyring::default();
        let eddsa = wanted(SigningAlgorithm::EdDsa);
        step(&mut ring, &eddsa, 0);
        let es256 = wanted(SigningAlgorithm::Es256);
        step(&mut ring, &es256, 10);
        assert_eq!(ring.signing(T0 + 20).unwrap().algorithm, SigningAlgorithm::EdDsa);
        assert_eq!(ring.signing(T0 + 50_010).unwrap().algorithm, SigningAlgorithm::Es256);
        step(&mut ring, &es256, 50_010);

        let pkcs8 = SigningKey::generate(SigningAlgorithm::EdDsa, &SystemRandom::new()).unwrap();
        let given = Arc::new(SigningKey::of_pkcs8(SigningAlgorithm::EdDsa, &pkcs8).unwrap());
        let theirs = Rotation { given: Some(Arc::clone(&given)), ..eddsa.clone() };
        assert_eq!(step(&mut ring, &theirs, 60_000).again_ms, Some(T0 + 81_010));
        assert_eq!(ring.signing(T0 + 110_000).unwrap().kid(), given.kid());
        step(&mut ring, &theirs, 110_000);
        assert_eq!(step(&mut ring, &theirs, 900_000).again_ms, None, "it is not replaced by time");
        assert_eq!(kids(&ring), [given.kid()]);

        // As the store has it: without the private half, until the operator's file has been read again.
        let mut kept = ring.keys().to_vec();
        kept[0].private = None;
        let mut ring = Keyring::new(kept);
        assert!(ring.signing(T0 + 900_000).is_none());
        let mut again = ring.clone();
        assert!(!step(&mut again, &theirs, 900_000).has_changed);
        assert_eq!(again.signing(T0 + 900_000).unwrap().kid(), given.kid());

        step(&mut ring, &eddsa, 900_000);
        assert_ne!(ring.signing(T0 + 900_000).unwrap().kid(), given.kid(), "who cannot sign is not waited for");
        assert_eq!(ring.published().keys.len(), 2, "what it has signed is still good");
    }

    #[test]
    fn a_key_is_replaced_before_its_time_with_the_same_overlap_or_at_once() {
        let wanted = wanted(SigningAlgorithm::EdDsa);
        let random = SystemRandom::new();
        let mut ring = Keyring::default();
        step(&mut ring, &wanted, 0);
        let first = kids(&ring);
        assert!(ring.replace(&wanted, T0 + 10_000, &random).unwrap());
        let both = kids(&ring);
        assert_eq!((both.len(), &both[0]), (2, &first[0]));
        assert_eq!(ring.signing(T0 + 59_999).unwrap().kid(), first[0]);
        assert_eq!(ring.signing(T0 + 60_000).unwrap().kid(), both[1]);
        assert_eq!(step(&mut ring, &wanted, 10_000), Step { has_changed: false, again_ms: Some(T0 + 60_000) });
        assert!(!ring.replace(&wanted, T0 + 20_000, &random).unwrap());
        assert_eq!(kids(&ring), both, "it is under way");
        assert!(!ring.replace(&wanted, T0 + 30_000, &random).unwrap());
        ring.sign_with_newest(T0 + 30_000);
        assert_eq!(kids(&ring), both);
        assert_eq!(ring.signing(T0 + 30_000).unwrap().kid(), both[1]);
        let retired = step(&mut ring, &wanted, 30_000);
        assert_eq!(
            retired,
            Step { has_changed: true, again_ms: Some(T0 + 61_000) },
            "the old one stays for its tokens"
        );
        assert_eq!(ring.published().keys.len(), 2);

        for at in 2..JWKS_KEYS_MAX as u64 {
            assert!(ring.replace(&wanted, T0 + 30_000 + at, &random).unwrap());
            ring.sign_with_newest(T0 + 30_000 + at);
        }
        let refused = ring.replace(&wanted, T0 + 40_000, &random);
        assert!(matches!(refused, Err(ReplaceError::TooMany(JWKS_KEYS_MAX))));
        let given = Arc::clone(ring.keys()[0].private.as_ref().unwrap());
        let theirs = Rotation { given: Some(given), ..wanted };
        assert!(matches!(ring.replace(&theirs, T0, &random), Err(ReplaceError::Given)));
    }

    #[test]
    fn a_key_that_signs_at_once_does_not_wait_for_another_whose_time_has_not_come() {
        let eddsa = wanted(SigningAlgorithm::EdDsa);
        let es256 = wanted(SigningAlgorithm::Es256);
        let random = SystemRandom::new();
        let mut ring = Keyring::default();
        step(&mut ring, &eddsa, 0);
        assert!(ring.replace(&eddsa, T0 + 10, &random).unwrap());
        // The algorithm has changed while that one waits.
        assert!(ring.replace(&es256, T0 + 20, &random).unwrap());
        let all = kids(&ring);
        assert_eq!(all.len(), 3);
        ring.sign_with_newest(T0 + 30);
        assert_eq!(ring.keys()[2].signs_from_ms, T0 + 30);
        // As the store has it, too, and when the time of the one between has come.
        let again = Keyring::new(ring.keys().to_vec());
        for at in [30, 31, 60_000] {
            assert_eq!(again.signing(T0 + at).unwrap().kid(), all[2], "{at}");
        }
        assert!(ring.keys().iter().all(|key| key.published_until_ms.is_none()), "when the last use is, is not known");
        assert_eq!(step(&mut ring, &es256, 2_000), Step { has_changed: true, again_ms: Some(T0 + 33_000) });
        assert_eq!(kids(&ring), all);
        step(&mut ring, &es256, 33_000);
        assert_eq!(kids(&ring), all[2..]);
    }

    #[test]
    fn a_clock_that_is_set_back_stops_nothing() {
        let wanted = wanted(SigningAlgorithm::EdDsa);
        let mut ring = Keyring::default();
        step(&mut ring, &wanted, 0);
        let step = ring.step(&wanted, T0 - 500_000, &SystemRandom::new()).unwrap();
        assert!(!step.has_changed);
        assert!(ring.signing(T0 - 500_000).is_some());
    }
}
