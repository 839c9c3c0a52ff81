//! API keys: the one that has this hash, and from where, and on which pages, it may be used.
//!
//! A look-up in the snapshot. Whether the key, its application and its subscription are switched on is `standing`'s.

use std::net::IpAddr;

use proto::http::RequestView;
use proto::snapshot::{CredentialForm, Glob, KeyRestrictions, SecretHash, Snapshot};

use crate::identity::{Fault, Grant, Proof, Word};

/// What an API key grants to a client at this address.
pub fn grant(
    snapshot: &Snapshot,
    form: CredentialForm,
    key: &str,
    client: Option<IpAddr>,
    request: &RequestView<'_>,
) -> Result<Grant, Fault> {
    let hash = SecretHash::of(key);
    let key = snapshot.key(&hash).ok_or(Fault::Unknown)?;
    let restrictions = key.restrictions.as_deref();
    if let Some(restrictions) = restrictions {
        check(restrictions, client, request)?;
    }
    Ok(Grant {
        form,
        proof: Proof::Key(hash),
        client: None,
        application: Some(key.application.clone()),
        user: key.user.clone(),
        environment: Some(key.environment),
        scopes: restrictions.map_or(&[][..], |one| &one.scopes).iter().map(|scope| scope.as_str().into()).collect(),
        // Of a key that does not say when it was made every revocation is later.
        issued_s: key.created.map_or(0, |created| created.as_secs()),
        expires_ms: key.expires.map_or(u64::MAX, |expires| expires.as_ms()),
        word: Word::default(),
    })
}

fn check(restrictions: &KeyRestrictions, client: Option<IpAddr>, request: &RequestView<'_>) -> Result<(), Fault> {
    let addresses = &restrictions.addresses;
    let is_near = |address: IpAddr| addresses.iter().any(|range| range.contains(address));
    if !addresses.is_empty() && !client.is_some_and(is_near) {
        return Err(Fault::Address);
    }
    let patterns = &restrictions.referrers;
    if patterns.is_empty() {
        return Ok(());
    }
    let only = |name| request.fields().only(name).map_err(|_| Fault::Referrer);
    let page = match only("referer")? {
        Some(page) => Some(page),
        None => only("origin")?,
    };
    let page = page.ok_or(Fault::Referrer)?;
    let page = String::from_utf8_lossy(page);
    if patterns.iter().any(|pattern| Glob::matches_pattern(pattern, &page)) { Ok(()) } else { Err(Fault::Referrer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_anchored_at_both_ends() {
        for (pattern, text, fits) in [
            ("https://a.example/*", "https://a.example/", true),
            ("https://a.example/*", "https://a.example/page?x=1", true),
            ("https://a.example/*", "https://a.example.evil/page", false),
            ("https://a.example/*", "x https://a.example/page", false),
            ("https://*.example/*", "https://b.c.example/page", true),
            ("https://*.example/*", "https://example/page", false),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://a.example/", false),
            ("*", "", true),
            ("*", "anything", true),
            ("**", "anything", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("*b", "abab", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(Glob::matches_pattern(pattern, text), fits, "{pattern} {text}");
        }
    }
}
