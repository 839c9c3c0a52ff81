//! What a token's claims grant, once somebody has vouched for them: its issuer's signature, or its issuer's answer.
//!
//! A plain function of the claims, the issuer and the time. Whether the grant still stands is `standing`'s, as it is of
//! any credential.

use proto::limits::SUBJECT_BYTES_MAX;
use proto::snapshot::{ClaimNames, CredentialForm, Environment};
use serde_json::{Map, Value};

use crate::identity::{Fault, Grant, Proof, Word};
use crate::issuers::Believed;
use crate::people::{Client, People};

type Claimed = Map<String, Value>;

/// What a JWT of this issuer grants.
pub fn of_jwt(
    issuer: &Believed,
    claims: &Claimed,
    form: CredentialForm,
    people: &People,
    now_ms: u64,
) -> Result<Grant, Fault> {
    let id = match text(claims, "jti")? {
        Some(jti) if !jti.is_empty() => Some(format!("{}/{jti}", issuer.name).into()),
        _ => None,
    };
    if !claims.contains_key("exp") {
        return Err(Fault::Malformed);
    }
    grant(issuer, claims, form, Proof::Token { issuer: issuer.name.clone(), id }, people, now_ms)
}

/// What claims of this issuer grant.
pub fn grant(
    issuer: &Believed,
    claims: &Claimed,
    form: CredentialForm,
    proof: Proof,
    people: &People,
    now_ms: u64,
) -> Result<Grant, Fault> {
    let skew_ms = issuer.config.clock_skew.as_ms();
    let expires_ms = date_ms(claims, "exp")?.map_or(u64::MAX, |exp| exp.saturating_add(skew_ms));
    if now_ms >= expires_ms {
        return Err(Fault::Expired);
    }
    let issued_ms = date_ms(claims, "iat")?;
    for begins_ms in [date_ms(claims, "nbf")?, issued_ms].into_iter().flatten() {
        if now_ms.saturating_add(skew_ms) < begins_ms {
            return Err(Fault::NotYetValid);
        }
    }
    if !is_for_us(claims, &issuer.config.audiences)? {
        return Err(Fault::Audience);
    }
    let names = &issuer.config.claims;
    let client = client(claims, names)?;
    let known = match client {
        Some(id) => people.client(id, &issuer.name)?,
        None => None,
    };
    Ok(Grant {
        form,
        proof,
        client: client.map(Into::into),
        application: known.map(|client| client.application.clone()),
        user: user(claims, names, client)?.map(Into::into),
        environment: environment(claims, names)?.or(known.map(|client| client.environment)),
        scopes: scopes(claims, names)?,
        // What does not say when it was issued is reached by every revocation of what was issued before.
        issued_s: issued_ms.map_or(0, |ms| ms / 1000),
        expires_ms,
        word: Word::default(),
    })
}

/// The user that is named. A client that has a token for itself is its subject (RFC 9068 §2.2), and no user: else who may
/// name clients could be whomever they like.
fn user<'c>(claims: &'c Claimed, names: &ClaimNames, client: Option<&str>) -> Result<Option<&'c str>, Fault> {
    Ok(text(claims, &names.user)?.filter(|user| !user.is_empty() && Some(*user) != client))
}

/// The client that is named, and whose it is: what of a grant depends on more than the token and its issuer.
pub fn client_of<'p>(grant: &Grant, people: &'p People) -> Result<Option<&'p Client>, Fault> {
    match (&grant.client, grant.proof.issuer()) {
        (Some(id), Some(issuer)) => people.client(id, issuer),
        _ => Ok(None),
    }
}

/// A claim that is a text if it is there.
pub fn text<'c>(claims: &'c Claimed, name: &str) -> Result<Option<&'c str>, Fault> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= SUBJECT_BYTES_MAX => Ok(Some(text)),
        Some(_) => Err(Fault::Malformed),
    }
}

/// A NumericDate, RFC 7519 §2, in milliseconds.
fn date_ms(claims: &Claimed, name: &str) -> Result<Option<u64>, Fault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    if let Some(seconds) = value.as_u64() {
        return Ok(Some(seconds.saturating_mul(1000)));
    }
    match value.as_f64() {
        // Conversion saturates; what lies before 1970 is 1970.
        Some(seconds) if seconds.is_finite() => Ok(Some((seconds * 1000.0) as u64)),
        _ => Err(Fault::Malformed),
    }
}

fn is_for_us(claims: &Claimed, audiences: &[String]) -> Result<bool, Fault> {
    if audiences.is_empty() {
        return Ok(true);
    }
    let is_ours = |value: &Value| value.as_str().is_some_and(|one| audiences.iter().any(|ours| ours == one));
    match claims.get("aud") {
        None => Ok(false),
        Some(Value::Array(all)) => Ok(all.iter().any(is_ours)),
        Some(one @ Value::String(_)) => Ok(is_ours(one)),
        Some(_) => Err(Fault::Malformed),
    }
}

fn client<'c>(claims: &'c Claimed, names: &ClaimNames) -> Result<Option<&'c str>, Fault> {
    for name in &names.client {
        if let Some(client) = text(claims, name)? {
            return Ok(Some(client).filter(|client| !client.is_empty()));
        }
    }
    Ok(None)
}

fn environment(claims: &Claimed, names: &ClaimNames) -> Result<Option<Environment>, Fault> {
    match text(claims, &names.environment)? {
        None => Ok(None),
        Some(word) if word.eq_ignore_ascii_case("PRODUCTION") => Ok(Some(Environment::Production)),
        Some(word) if word.eq_ignore_ascii_case("SANDBOX") => Ok(Some(Environment::Sandbox)),
        Some(_) => Err(Fault::Malformed),
    }
}

/// Words in a text (RFC 8693 §4.2), or a list; some issuers call it `scp`.
fn scopes(claims: &Claimed, names: &ClaimNames) -> Result<Box<[Box<str>]>, Fault> {
    let value = claims.get(&names.scope).or_else(|| claims.get("scp"));
    match value {
        None | Some(Value::Null) => Ok(Box::default()),
        Some(Value::String(words)) => Ok(words.split(' ').filter(|word| !word.is_empty()).map(Into::into).collect()),
        Some(Value::Array(all)) => {
            all.iter().map(|one| one.as_str().map(Into::into)).collect::<Option<_>>().ok_or(Fault::Malformed)
        }
        Some(_) => Err(Fault::Malformed),
    }
}
