//! May this connection become a session? What is decided here needs nothing but the request and the tables.
//!
//! The connection itself was counted when it was accepted; limits by application and plan will stand here too.

use std::sync::Arc;

use crate::handshake::{Downstream, Request};
use crate::identity::{Fault, Identity};
use crate::refusal::Refusal;
use crate::route::{Place, Route};
use crate::shard::Shard;
use crate::tables::Tables;

/// The evidence that a connection was admitted, and who it is.
pub struct Permit {
    identity: Identity,
}

impl Permit {
    /// Who is admitted.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// The tables to route by, unless the gateway takes nobody in.
pub fn tables(shard: &Shard) -> Result<Arc<Tables>, Refusal> {
    if shard.is_draining() {
        return Err(Refusal::Draining);
    }
    shard.tables().ok_or(Refusal::NoSnapshot)
}

/// Where the place leads: in the environment of the client's key type, and, where that is not said, in the listener's.
pub fn environment(place: Place, request: &Request, identity: &Identity) -> Result<Route, Refusal> {
    match identity.grant.as_ref().and_then(|grant| grant.environment) {
        Some(environment) => place.lead(environment).ok_or(Fault::KeyType.refusal()),
        None => place.lead(request.environment()).ok_or(Refusal::NoEnvironment),
    }
}

/// Checks where a browser says it comes from, RFC 6455 §10.2.
pub fn connection(
    _tables: &Tables,
    route: &Route,
    request: &Request,
    identity: Identity,
    _downstream: &Downstream,
) -> Result<Permit, Refusal> {
    let mut origins = request.view().header_values("origin");
    let (first, second) = (origins.next(), origins.next());
    let allowed = match (first, second) {
        _ if route.api.api.origins.is_empty() => true,
        // Only browsers send an origin, and they send one.
        (None, _) => true,
        (Some(origin), None) => {
            std::str::from_utf8(origin).is_ok_and(|origin| is_allowed(origin, &route.api.api.origins))
        }
        (Some(_), Some(_)) => false,
    };
    if allowed { Ok(Permit { identity }) } else { Err(Refusal::Origin) }
}

/// Scheme, host and port are compared whole; `*.` stands for one or more labels of the host. `null` is nobody's.
fn is_allowed(origin: &str, allowed: &[String]) -> bool {
    let origin = origin.to_ascii_lowercase();
    allowed.iter().any(|pattern| match pattern.split_once("*.") {
        None => *pattern == origin,
        Some((scheme, domain)) => {
            let host = origin.strip_prefix(scheme).and_then(|rest| rest.strip_suffix(domain));
            host.and_then(|labels| labels.strip_suffix('.')).is_some_and(|labels| {
                !labels.is_empty()
                    && labels.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_whole() {
        let allowed = ["https://app.example.com".to_owned(), "https://*.example.org:8443".to_owned()];
        for origin in [
            "https://app.example.com",
            "https://APP.example.com",
            "https://a.example.org:8443",
            "https://a.b.example.org:8443",
        ] {
            assert!(is_allowed(origin, &allowed), "{origin}");
        }
        for origin in [
            "null",
            "",
            "http://app.example.com",
            "https://app.example.com:444",
            "https://app.example.com.evil.net",
            "https://evil-app.example.com",
            "https://example.org:8443",
            "https://.example.org:8443",
            "https://a.example.org",
            "https://evil.net/.example.org:8443",
            "https://evil.net?.example.org:8443",
            "https://evil.net#.example.org:8443",
            "https://user@a.example.org:8443",
            "https://aexample.org:8443",
        ] {
            assert!(!is_allowed(origin, &allowed), "{origin}");
        }
    }
}
