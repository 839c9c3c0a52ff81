//! Who stands at the door, as conditions ask: where a client comes from, what its request says, who it is.
//!
//! Conditions are compiled once, when tables are built, and asked at handshakes only.

use std::borrow::Cow;
use std::net::IpAddr;

use proto::http::{RequestView, percent};
use proto::snapshot::{Cidr, Conditions, Glob, Match};
use serde_json::{Map, Value};

use crate::handshake::{Downstream, Request};
use crate::identity::{Claims, Identity};
use crate::record::SessionId;

/// Whom something is for: conditions in the form in which they are asked.
#[derive(Debug)]
pub struct Who {
    addresses: Box<[Cidr]>,
    headers: Box<[Wanted]>,
    queries: Box<[Wanted]>,
    claims: Box<[Wanted]>,
    certificates: Box<[Glob]>,
    not: bool,
}

/// A name, and what its value must be like; no patterns: it is enough that it is there.
#[derive(Debug)]
struct Wanted {
    name: Box<str>,
    values: Box<[Glob]>,
}

/// What is known of a client whose request has been read.
#[derive(Clone, Copy)]
pub struct Visitor<'a> {
    view: RequestView<'a>,
    claims: Option<&'a Claims>,
    /// Its address; none on a Unix socket that says none.
    pub address: Option<IpAddr>,
    /// The subject of its certificate, RFC 4514.
    pub certificate: Option<&'a str>,
    /// What its session is called, if it comes to one.
    pub session: SessionId,
}

impl<'a> Visitor<'a> {
    /// Of its request, who it is, and its connection.
    pub fn new(request: &'a Request, identity: &'a Identity, downstream: &'a Downstream) -> Self {
        Self {
            view: request.view(),
            claims: identity.claims.as_deref(),
            address: downstream.seen.client.map(|client| client.ip().to_canonical()),
            certificate: downstream.tls.as_ref().and_then(|tls| tls.client.as_deref()).map(|one| &*one.subject),
            session: downstream.seen.session,
        }
    }

    /// Whether all of the conditions fit, or, turned round, not all of them.
    pub fn is_one_of(&self, who: &Who) -> bool {
        let by_address = who.addresses.is_empty()
            || self.address.is_some_and(|address| who.addresses.iter().any(|range| range.contains(address)));
        let by_certificate = who.certificates.is_empty()
            || self.certificate.is_some_and(|subject| who.certificates.iter().any(|pattern| pattern.matches(subject)));
        let is_one = by_address
            && by_certificate
            && who.headers.iter().all(|wanted| {
                self.view.header_values(&wanted.name).any(|value| wanted.fits(&String::from_utf8_lossy(value)))
            })
            && who.queries.iter().all(|wanted| self.queries(&wanted.name).any(|value| wanted.fits(&value)))
            && who.claims.iter().all(|wanted| self.claims.is_some_and(|claims| wanted.fits_claim(&claims.0)));
        is_one != who.not
    }

    /// The values of a header, as text.
    pub fn headers(&self, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        self.view.header_values(name).map(String::from_utf8_lossy)
    }

    /// The values of a query parameter, decoded; a broken escape stands for itself.
    pub fn queries(&self, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        let pairs = self.view.query().into_iter().flat_map(|query| query.split('&'));
        pairs.filter_map(move |pair| {
            let (own, value) = pair.split_once('=').unwrap_or((pair, ""));
            (text(own) == name).then(|| text(value))
        })
    }

    /// A claim as text: a text, a number or a truth.
    pub fn claim(&self, name: &str) -> Option<String> {
        claim(&self.claims?.0, name).and_then(text_of)
    }
}

fn text(encoded: &str) -> Cow<'_, str> {
    match percent::decode_leniently(encoded.as_bytes()) {
        Cow::Borrowed(_) => encoded.into(),
        Cow::Owned(octets) => String::from_utf8_lossy(&octets).into_owned().into(),
    }
}

impl Who {
    /// Of conditions as they are written.
    pub fn of(conditions: &Conditions) -> Self {
        let wanted = |all: &[Match]| all.iter().map(Wanted::of).collect();
        Self {
            addresses: conditions.addresses.as_slice().into(),
            headers: wanted(&conditions.headers),
            queries: wanted(&conditions.queries),
            claims: wanted(&conditions.claims),
            certificates: conditions.certificates.iter().map(|pattern| Glob::new(pattern)).collect(),
            not: conditions.not,
        }
    }
}

impl Who {
    /// Whether a client at this address is meant; none: that is not all that is asked.
    pub fn is_at(&self, address: Option<IpAddr>) -> Option<bool> {
        let asks_more = [&self.headers, &self.queries, &self.claims].iter().any(|wanted| !wanted.is_empty());
        if asks_more || !self.certificates.is_empty() {
            return None;
        }
        let is_in = |address| self.addresses.iter().any(|range| range.contains(address));
        Some((self.addresses.is_empty() || address.is_some_and(is_in)) != self.not)
    }
}

impl Wanted {
    fn of(one: &Match) -> Self {
        Self { name: one.name.as_str().into(), values: one.values.iter().map(|value| Glob::new(value)).collect() }
    }

    /// Whether a value is like one of the patterns.
    fn fits(&self, value: &str) -> bool {
        self.values.is_empty() || self.values.iter().any(|pattern| pattern.matches(value))
    }

    /// Whether a claim is there and like one of the patterns: itself, or, of a list, one of its entries.
    fn fits_claim(&self, claims: &Map<String, Value>) -> bool {
        claim(claims, &self.name).is_some_and(|value| match value {
            Value::Array(entries) => entries.iter().any(|entry| self.fits_value(entry)),
            value => self.fits_value(value),
        })
    }

    fn fits_value(&self, value: &Value) -> bool {
        match value {
            Value::Null => false,
            value => text_of(value).map_or(self.values.is_empty(), |text| self.fits(&text)),
        }
    }
}

/// A claim by its name; where there is none of the whole name, the member of a claim that is an object. So
/// `https://example.com/role` is found although it has a dot.
pub fn claim<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    name.match_indices('.').find_map(|(at, _)| match claims.get(&name[..at]) {
        Some(Value::Object(members)) => claim(members, &name[at + 1..]),
        _ => None,
    })
}

/// What is not an object or a list, as text.
pub fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_by_name_or_by_path_and_lists_by_their_entries() {
        let claims = json!({
            "role": "admin", "roles": ["user", "ops", 7], "level": 3, "vip": true, "none": null, "empty": [],
            "org": { "unit": { "name": "eu" }, "a.b": "dotted" }, "https://example.com/role": "x", "x.y": "whole",
            "x": { "y": "nested" },
        });
        let Value::Object(claims) = claims else { unreachable!() };
        let fits = |name: &str, values: &[&str]| {
            Wanted::of(&Match { name: name.into(), values: values.iter().map(|&value| value.into()).collect() })
                .fits_claim(&claims)
        };
        for (name, values) in [
            ("role", &["admin"][..]),
            ("role", &["x", "adm*"]),
            ("role", &[]),
            ("roles", &["ops"]),
            ("roles", &["7"]),
            ("level", &["3"]),
            ("vip", &["true"]),
            ("org.unit.name", &["eu"]),
            ("org.a.b", &["dotted"]),
            ("org", &[]),
            ("org.unit", &[]),
            ("https://example.com/role", &["x"]),
            ("x.y", &["whole"]),
        ] {
            assert!(fits(name, values), "{name} {values:?}");
        }
        for (name, values) in [
            ("role", &["user"][..]),
            ("roles", &["user,ops"]),
            ("org", &["*"]),
            ("org.unit.other", &[]),
            ("none", &[]),
            ("empty", &[]),
            ("absent", &[]),
            ("role.x", &[]),
            ("x.y", &["nested"]),
        ] {
            assert!(!fits(name, values), "{name} {values:?}");
        }
    }
}
