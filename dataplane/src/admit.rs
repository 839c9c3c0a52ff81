//! May this connection become a session, and what may it send and receive then? What is decided here needs nothing but
//! the request, the tables and what this process has counted.

pub mod seats;

use std::sync::{Arc, LazyLock};

use proto::http::Host;
use proto::snapshot::Admission;

use crate::forwarding;
use crate::handshake::{Downstream, Request};
use crate::identity::{Fault, Identity};
use crate::refusal::Refusal;
use crate::route::{Place, Route};
use crate::shard::Shard;
use crate::tables::{ApiEntry, Tables};
use crate::throttle::levels::{Crowd, range_of};
use crate::throttle::{Guard, LimitId, Pace, Party};
use crate::visitor::Visitor;
use seats::{Row, RowKind, Seat};

/// Who is refused for want of a seat comes back after so many seconds at the earliest.
const SEAT_RETRY_S: u64 = 5;
/// And so many more at most, by chance: who was sent away together does not come back together.
const RETRY_SPREAD_S: u64 = 10;

/// The evidence that a connection was admitted, who it is, and what limits it has.
pub struct Permit {
    identity: Identity,
    party: Box<Party>,
    guard: Option<Box<Guard>>,
}

impl Permit {
    /// Who is admitted.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether its messages may be left out on their way.
    pub fn may_drop(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.may_drop())
    }

    /// What stays with the session.
    pub fn into_parts(self) -> (Box<Party>, Option<Box<Guard>>) {
        (self.party, self.guard)
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

/// Whether handshakes may come this fast: one address before everybody, and one API before all, so that who comes too fast
/// does not use up what others need.
pub fn pace(shard: &Shard, tables: &Tables, api: &ApiEntry, downstream: &Downstream) -> Result<(), Refusal> {
    let address = downstream.seen.client.map(|client| client.ip().to_canonical());
    let of_all = (tables.limits().paces(), &tables.settings().admission);
    let of_api = (&api.paces, &api.api.admission);
    for (paces, admission) in [of_all, of_api] {
        if let Some(pace) = &paces.per_address {
            let key = range_of(address, admission);
            keep_pace(shard, pace, &key, downstream, Refusal::ConnectsOfAddress)?;
        }
    }
    for (paces, _) in [of_api, of_all] {
        if let Some(pace) = &paces.all {
            keep_pace(shard, pace, ALL, downstream, Refusal::Connects)?;
        }
    }
    Ok(())
}

/// The key of a pace that everybody shares.
const ALL: &str = "all";

fn keep_pace(shard: &Shard, pace: &Pace, key: &str, downstream: &Downstream, refusal: Refusal) -> Result<(), Refusal> {
    let now = shard.ledger.now();
    let rule = pace.plan.ids().next().expect("a pace is a plan of one limit");
    let id = LimitId { scope: Arc::clone(&pace.scope), key: key.into(), rule };
    shard.shared.meters.find(&id, &pace.plan, now).take(1, now).map_err(|wait_ns| {
        retry_after(shard, downstream, wait_ns.div_ceil(1_000_000_000).max(1));
        refusal
    })
}

fn retry_after(shard: &Shard, downstream: &Downstream, least_s: u64) {
    let spread_s = shard.keys.borrow_mut().below(RETRY_SPREAD_S + 1);
    downstream.seen.retry_after_s.set(u32::try_from(least_s.saturating_add(spread_s)).unwrap_or(u32::MAX));
}

/// A seat in every row in which its kind has a ceiling, or the first in which there is none.
fn seats(shard: &Shard, tables: &Tables, api: &ApiEntry, party: &Party) -> Result<Vec<Seat>, Refusal> {
    let (grant, address) = (party.grant.as_deref(), party.address());
    let mut seats = Vec::new();
    let mut take = |max: u32, row: Row, refusal| {
        seats.push(shard.shared.seats.take(row, max).ok_or(refusal)?);
        Ok::<_, Refusal>(())
    };
    let user = grant.and_then(|grant| grant.user.as_deref());
    let application = grant.and_then(|grant| grant.application.as_deref());
    static EVERYWHERE: LazyLock<Arc<str>> = LazyLock::new(|| "".into());
    for (label, admission) in [(&*EVERYWHERE, &tables.settings().admission), (&api.label, &api.api.admission)] {
        let Admission { sessions_max, sessions_per_user_max, sessions_per_application_max, .. } = *admission;
        let row = |kind, key: &str| Row { kind, api: Arc::clone(label), key: key.into() };
        if sessions_max > 0 {
            take(sessions_max, row(RowKind::All, ""), Refusal::Sessions)?;
        }
        if let Some(user) = user.filter(|_| sessions_per_user_max > 0) {
            take(sessions_per_user_max, row(RowKind::User, user), Refusal::SessionsOfUser)?;
        }
        if let Some(name) = application.filter(|_| sessions_per_application_max > 0) {
            take(sessions_per_application_max, row(RowKind::Application, name), Refusal::SessionsOfApplication)?;
        }
        if admission.sessions_per_address_max > 0 {
            let row = row(RowKind::Address, &range_of(address, admission));
            take(admission.sessions_per_address_max, row, Refusal::SessionsOfAddress)?;
        }
    }
    let mut outcome = Ok(());
    party.crowds(tables, api, |crowd, max| {
        let Crowd { scope, key } = crowd;
        if let (Ok(()), Some(kind)) = (outcome, scope.kind) {
            let label = Arc::clone(&scope.name);
            outcome = take(max, Row { kind: RowKind::Plan(kind), api: label, key }, Refusal::SessionsOfPlan);
        }
    });
    outcome.map(|()| seats)
}

/// Checks where it comes from and whether it is denied, gives it its seats, and finds its limits.
pub fn connection(
    shard: &Shard,
    tables: &Tables,
    route: &Route,
    request: &Request,
    identity: Identity,
    downstream: &Downstream,
) -> Result<Permit, Refusal> {
    if !comes_from_a_good_page(tables, route, request, &identity, downstream) {
        return Err(Refusal::Origin);
    }
    let visitor = Visitor::new(request, &identity, downstream);
    if let Some(denial) = tables.limits().denials().find(&route.api, identity.grant.as_deref(), visitor.address) {
        downstream.seen.because(format!("the denial {}", denial.name));
        return Err(Refusal::Denied);
    }
    let mut party = Box::new(Party::new(tables, &route.api, &identity, &route.topic, &visitor));
    let seats = seats(shard, tables, &route.api, &party);
    party.sit(seats.inspect_err(|_| retry_after(shard, downstream, SEAT_RETRY_S))?);
    let guard = party.guard(&shard.ledger, tables, &route.api).map(Box::new);
    Ok(Permit { identity, party, guard })
}

/// Checks where a browser says it comes from, RFC 6455 §10.2: against the API's list, or that of the settings. Where there
/// is neither, and browsers send the credential whichever page asks, the page must be of this very host.
fn comes_from_a_good_page(
    tables: &Tables,
    route: &Route,
    request: &Request,
    identity: &Identity,
    downstream: &Downstream,
) -> bool {
    let own = &route.api.api.origins;
    let list = if own.is_empty() { &tables.settings().origins } else { own };
    let is_ambient = || identity.grant.as_ref().is_some_and(|grant| grant.form.is_ambient());
    if list.is_empty() && !is_ambient() {
        return true;
    }
    let view = request.view();
    let mut origins = view.header_values("origin");
    match (origins.next(), origins.next()) {
        // Only browsers send an origin, and they send one.
        (None, _) => true,
        (Some(origin), None) => std::str::from_utf8(origin).is_ok_and(|origin| match list.as_slice() {
            [] => is_same(origin, forwarding::scheme(&view, downstream), &request.upgrade.host),
            list => is_allowed(origin, list),
        }),
        (Some(_), Some(_)) => false,
    }
}

/// Whether a page of this origin is one of the host that is asked, by the scheme that it is asked by.
fn is_same(origin: &str, scheme: &str, host: &Host) -> bool {
    let port =
        |scheme: &str, port: Option<u16>| port.unwrap_or(if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 });
    origin.split_once("://").is_some_and(|(of_page, authority)| {
        of_page.eq_ignore_ascii_case(scheme)
            && Host::parse(authority.as_bytes())
                .is_ok_and(|page| page.name == host.name && port(of_page, page.port) == port(scheme, host.port))
    })
}

/// Scheme, host and port are compared whole; `*.` stands for one or more labels of the host, and `*` alone for every
/// origin. `null` is nobody's.
fn is_allowed(origin: &str, allowed: &[String]) -> bool {
    if origin == "null" {
        return false;
    }
    if allowed == ["*"] {
        return true;
    }
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

    #[test]
    fn every_origin_is_not_none() {
        let every = ["*".to_owned()];
        assert!(is_allowed("https://anywhere.example", &every) && is_allowed("chrome-extension://abc", &every));
        assert!(!is_allowed("null", &every));
    }

    #[test]
    fn a_page_of_the_host_itself_has_its_scheme_name_and_port() {
        let host = |text: &str| Host::parse(text.as_bytes()).unwrap();
        for (origin, scheme, asked) in [
            ("https://chat.example", "https", "chat.example"),
            ("https://chat.example", "https", "CHAT.example:443"),
            ("https://chat.example:443", "HTTPS", "chat.example"),
            ("http://chat.example:8080", "http", "chat.example:8080"),
            ("http://[::1]", "http", "[::1]:80"),
        ] {
            assert!(is_same(origin, scheme, &host(asked)), "{origin} {asked}");
        }
        for (origin, scheme, asked) in [
            ("null", "https", "null"),
            ("", "https", "chat.example"),
            ("http://chat.example", "https", "chat.example"),
            ("https://chat.example", "http", "chat.example"),
            ("https://chat.example:80", "http", "chat.example:80"),
            ("https://chat.example:8443", "https", "chat.example"),
            ("https://evil.chat.example", "https", "chat.example"),
            ("https://chat.example.evil", "https", "chat.example"),
            ("https://chat.example/", "https", "chat.example"),
            ("https://user@chat.example", "https", "chat.example"),
            ("https://chat.example#", "https", "chat.example"),
        ] {
            assert!(!is_same(origin, scheme, &host(asked)), "{origin} {asked}");
        }
    }
}
