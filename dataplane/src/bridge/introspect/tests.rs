//! What is known of tokens, by the clock and at its bounds; the questions themselves are asked in `authenticate`'s tests.

use proto::limits::{TOKENS_HEARD_MAX, TOKENS_REFUSED_MAX};
use proto::snapshot::{CredentialForm, Issuer};
use serde_json::{Map, json};

use super::*;
use crate::throttle::testing;
use crate::tls::Terms;

fn issuer() -> Arc<Believed> {
    let introspection = json!({"url": "http://issuer/", "cache": "30s", "negative_cache": "10s"});
    let issuer: Issuer =
        serde_json::from_value(json!({"name": "i", "issuer": "https://i", "introspection": introspection})).unwrap();
    Arc::new(Believed::new(issuer, &Terms::default()))
}

fn about(issuer: &Arc<Believed>, token: &str) -> About {
    About { issuer: Arc::clone(issuer), hash: SecretHash::of(token), token: token.into() }
}

fn active() -> Result<Heard, Silence> {
    Ok(Heard::Active(Arc::new(Claims(Map::new()))))
}

fn grant(user: &str) -> Grant {
    Grant { form: CredentialForm::Bearer, application: None, ..testing::grant("", user) }
}

#[test]
fn answers_are_believed_for_their_time_and_of_their_issuer() {
    let (issuer, now) = (issuer(), Instant::now());
    let mut known = Known::default();
    let (good, bad) = (about(&issuer, "good"), about(&issuer, "bad"));
    known.keep(&good, &active(), now);
    known.keep(&bad, &Ok(Heard::Inactive), now);
    let look = |known: &Known, about: &About, after: u64| {
        known.look(&issuer, about.hash, now + Duration::from_secs(after)).map(|heard| matches!(heard, Heard::Active(_)))
    };
    assert_eq!((look(&known, &good, 29), look(&known, &good, 30)), (Some(true), None));
    assert_eq!((look(&known, &bad, 9), look(&known, &bad, 10)), (Some(false), None));
    let other = self::issuer();
    assert!(known.look(&other, good.hash, now).is_none(), "it says something else now");
    assert!(known.look(&other, bad.hash, now).is_none());
    known.keep(&good, &Ok(Heard::Inactive), now);
    assert_eq!(look(&known, &good, 0), Some(false));
    known.keep(&good, &active(), now);
    assert_eq!(look(&known, &good, 0), Some(true), "the last word counts");
}

#[test]
fn only_tokens_that_somebody_lives_by_are_asked_about_again() {
    let (issuer, now) = (issuer(), Instant::now());
    let after = |seconds| now + Duration::from_secs(seconds);
    let mut known = Known::default();
    let (lived_by, idle) = (about(&issuer, "lived by"), about(&issuer, "idle"));
    known.keep(&lived_by, &active(), now);
    known.keep(&idle, &active(), now);
    let alice = known.share(&lived_by.name(), grant("alice")).unwrap();
    let again = known.share(&lived_by.name(), grant("alice")).unwrap();
    assert!(Arc::ptr_eq(&alice, &again));
    let renamed = known.share(&lived_by.name(), grant("bob")).unwrap();
    assert!(!Arc::ptr_eq(&alice, &renamed), "it says something else");
    assert!(known.share(&about(&issuer, "unheard of").name(), grant("x")).is_none());
    assert_eq!(known.due(after(29), 10).len(), 0);
    let due = known.due(after(30), 10);
    assert_eq!(due.iter().map(|about| &*about.token).collect::<Vec<_>>(), ["lived by"]);
    assert_eq!(known.len(), 1, "nobody needs the other");
    assert_eq!(known.due(after(31), 10).len(), 0, "it is being asked about");
    assert_eq!(known.due(after(60), 10).len(), 1, "and again");
    assert!(known.keep(&lived_by, &Err(Silence), after(60)), "that is news");
    assert!(!known.keep(&lived_by, &Err(Silence), after(61)), "that is none");
    assert!(alice.word.is_silent() && renamed.word.is_silent());
    assert!(known.keep(&lived_by, &Ok(Heard::Inactive), after(62)));
    assert!(alice.word.is_withdrawn() && renamed.word.is_withdrawn());
    drop((alice, again, renamed));
    assert_eq!(known.due(after(100), 10).len(), 0);
    assert_eq!(known.len(), 0);
}

#[test]
fn what_is_known_stays_within_its_bounds() {
    let (issuer, now) = (issuer(), Instant::now());
    let mut known = Known::default();
    for number in 0..TOKENS_HEARD_MAX + 10 {
        known.keep(&about(&issuer, &number.to_string()), &active(), now);
    }
    assert_eq!(known.len(), TOKENS_HEARD_MAX);
    assert!(known.share(&about(&issuer, &TOKENS_HEARD_MAX.to_string()).name(), grant("x")).is_none());
    for number in 0..3 * TOKENS_REFUSED_MAX {
        known.keep(&about(&issuer, &format!("bad {number}")), &Ok(Heard::Inactive), now);
        assert!(known.len() <= TOKENS_HEARD_MAX + TOKENS_REFUSED_MAX);
    }
    assert!(known.look(&issuer, SecretHash::of("0"), now).is_some(), "bad ones push no good one out");
}
