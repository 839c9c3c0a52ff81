//! Which limits a session has: found out at its handshake, and again when a generation has changed what limits there are.
//!
//! Of the handshake only so much stays with a session as must be known later: its address, the group into which a policy
//! has put it, and the keys that it has made.

use std::fmt::Write as _;
use std::iter;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;
use proto::snapshot::{Admission, DenialAction, Digest, KeyPart};

use super::denials;
use super::guard::{Guard, Level, LevelKind};
use super::held::Counted;
use super::ledger::Ledger;
use super::meters::{LimitId, Scope};
use super::plans::{Keyed, Limits, Planned, Policy, word};
use crate::admit::seats::Seat;
use crate::authenticate::forms::PRIVATE_TOKEN;
use crate::identity::{Grant, Identity};
use crate::record::{SECRET_NAMES, SessionId};
use crate::tables::{ApiEntry, Tables};
use crate::visitor::Visitor;

/// Bytes of a key's text; of a longer one there is the beginning and a digest.
const KEY_BYTES_MAX: usize = 160;
const KEY_BEGINNING_BYTES: usize = 96;
/// Digits of the digest of what must not be read, or is too long.
const DIGEST_DIGITS: usize = 32;
/// The key of those who come by a Unix socket that names no address.
const NO_ADDRESS: &str = "local";
/// Headers whose values are never shown, whatever the configuration says.
const SECRET_HEADERS: [&str; 5] =
    ["authorization", "proxy-authorization", "cookie", "sec-websocket-protocol", PRIVATE_TOKEN];

/// What limits ask of a session for as long as it lives.
#[derive(Debug, Default)]
pub struct Party {
    /// What its credential granted; none where the API is open.
    pub grant: Option<Arc<Grant>>,
    address: Option<IpAddr>,
    session: SessionId,
    topic: Option<Arc<str>>,
    /// How many leading bits of its address it shares a limit with, as the settings had it; none: it has a credential.
    range_bits: Option<u8>,
    /// What only those have whom something limits.
    bonds: Option<Box<Bonds>>,
}

#[derive(Debug, Default)]
struct Bonds {
    /// Its places among those who are counted.
    seats: Box<[Seat]>,
    /// It is counted at its meters.
    counted: Counted,
    /// The policy of its API or topic, and the group that it is in; none: everybody else's.
    group: Option<InGroup>,
    /// What it has made of the limits by keys that are for its API; none: the limit is not for it.
    keyed: Box<[Made]>,
}

type InGroup = (Arc<Policy>, Option<u16>);

/// A limit by a key, and the key.
type Made = (Arc<Keyed>, Option<Arc<str>>);

/// Who a session is.
#[derive(Clone, Copy)]
struct Who<'a> {
    /// The API version, as the tables have it that are asked.
    api: &'a ApiEntry,
    /// What its credential granted.
    grant: Option<&'a Grant>,
    /// What it is called.
    session: SessionId,
}

impl Party {
    /// Of a client whose request has been read.
    pub fn new(tables: &Tables, api: &ApiEntry, identity: &Identity, topic: &Arc<str>, visitor: &Visitor<'_>) -> Self {
        let who = Who { api, grant: identity.grant.as_deref(), session: visitor.session };
        let limits = tables.limits();
        let policy = policy_of(limits, who.api, topic);
        let group = policy.map(|policy| {
            let is_in = |when: &[crate::visitor::Who]| when.iter().all(|one| visitor.is_one_of(one));
            (Arc::clone(policy), position(policy, is_in))
        });
        let key = |keyed: &Arc<Keyed>| {
            let is_meant = keyed.when.iter().all(|one| visitor.is_one_of(one));
            let key = is_meant.then(|| key_of(tables, keyed, who, visitor.address, Some(visitor))).flatten();
            (Arc::clone(keyed), key)
        };
        let keyed = for_api(limits, who.api).map(key).collect();
        let grant = identity.grant.clone();
        let topic = Some(Arc::clone(topic));
        let range_bits = range_bits(tables, grant.as_deref(), visitor.address);
        let session = visitor.session;
        let mut party = Self { grant, address: visitor.address, session, topic, range_bits, bonds: None };
        party.bind(group, keyed);
        party
    }

    /// Its places among those who are counted, for as long as it lives.
    pub fn sit(&mut self, seats: Vec<Seat>) {
        if !seats.is_empty() {
            self.bonds.get_or_insert_default().seats = seats.into();
        }
    }

    fn bind(&mut self, group: Option<InGroup>, keyed: Box<[Made]>) {
        if self.bonds.is_some() || group.is_some() || !keyed.is_empty() {
            let bonds = self.bonds.get_or_insert_default();
            (bonds.group, bonds.keyed) = (group, keyed);
        }
    }

    fn group(&self) -> Option<&InGroup> {
        self.bonds.as_ref()?.group.as_ref()
    }

    fn keyed(&self) -> &[Made] {
        self.bonds.as_ref().map_or(&[], |bonds| &bonds.keyed)
    }

    /// The client's address.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Follows other tables. What they ask of the handshake as those before did is known; where they ask something else,
    /// only the address, the user and the application can still be asked: a group that asks for more takes no session
    /// that has begun, and a limit whose key or condition has more does not hold for it.
    fn follow(&mut self, tables: &Tables, api: &ApiEntry) {
        let grant = self.grant.clone();
        let who = Who { api, grant: grant.as_deref(), session: self.session };
        let limits = tables.limits();
        self.range_bits = range_bits(tables, who.grant, self.address);
        let policy = self.topic.as_ref().and_then(|topic| policy_of(limits, who.api, topic));
        let group = policy.map(|policy| match self.group() {
            Some((before, group)) if Arc::ptr_eq(before, policy) || before.asks_the_same(policy) => {
                (Arc::clone(policy), *group)
            }
            _ => {
                let address = self.address;
                let is_in = |when: &[crate::visitor::Who]| when.iter().all(|one| one.is_at(address).unwrap_or(false));
                (Arc::clone(policy), position(policy, is_in))
            }
        });
        let known = |keyed: &Arc<Keyed>| {
            let is_it = |(held, _): &&Made| Arc::ptr_eq(held, keyed) || held.asks_the_same(keyed);
            self.keyed().iter().find(is_it)
        };
        let key = |keyed: &Arc<Keyed>| match known(keyed) {
            Some((_, key)) => key.clone(),
            None => {
                let is_meant = keyed.when.iter().all(|one| one.is_at(self.address).unwrap_or(false));
                is_meant.then(|| key_of(tables, keyed, who, self.address, None)).flatten()
            }
        };
        let keyed = for_api(limits, who.api).map(|keyed| (Arc::clone(keyed), key(keyed))).collect();
        self.bind(group, keyed);
    }

    /// What [`Party::has`] does not look at: two tables that differ in it give a session different keys.
    fn followed(&self) -> (Option<(*const Policy, Option<u16>)>, Option<u8>) {
        (self.group().map(|(policy, group)| (Arc::as_ptr(policy), *group)), self.range_bits)
    }

    /// What a session may send and receive under these tables, from now on; none: it is not limited.
    pub fn guard(&mut self, ledger: &Rc<Ledger>, tables: &Tables, api: &ApiEntry) -> Option<Guard> {
        let levels = self.levels(ledger, tables, api);
        let meters = levels.iter().flat_map(|level| &level.meters);
        let counted = Counted::at(meters.map(|held| Arc::clone(held.meter())));
        if self.bonds.is_some() || !levels.is_empty() {
            self.bonds.get_or_insert_default().counted = counted;
        }
        Guard::new(levels, Rc::clone(ledger.wall()))
    }

    /// The levels of a session's limits.
    pub fn levels(&self, ledger: &Rc<Ledger>, tables: &Tables, api: &ApiEntry) -> Vec<Level> {
        let who = Who { api, grant: self.grant.as_deref(), session: self.session };
        let mut levels = Vec::new();
        self.each_that_limits(tables, who, |one| {
            let Chosen { kind, name, plan, .. } = one;
            let (scope, key) = (one.scope(), self.key(tables, who, &one));
            let meter = |rule| ledger.held(&LimitId { scope: scope.clone(), key: key.clone(), rule }, &plan.plan);
            let meters = plan.plan.ids().map(meter).collect();
            levels.push(Level { kind, name: Arc::clone(name), plan: Arc::clone(&plan.plan), meters });
        });
        levels
    }

    /// Whether a session has these very levels, its keys being what they were.
    fn has(&self, tables: &Tables, api: &ApiEntry, levels: &[Level]) -> bool {
        let who = Who { api, grant: self.grant.as_deref(), session: self.session };
        let mut left = levels.iter();
        let mut is_same = true;
        self.each_that_limits(tables, who, |one| {
            is_same &= left.next().is_some_and(|level| {
                level.kind == one.kind && Arc::ptr_eq(&level.name, one.name) && Arc::ptr_eq(&level.plan, &one.plan.plan)
            });
        });
        is_same && left.next().is_none()
    }

    /// Shows who its session is counted as, at each level whose plan has room for only so many sessions, and for how many.
    pub fn crowds(&self, tables: &Tables, api: &ApiEntry, mut show: impl FnMut(Crowd, u32)) {
        let who = Who { api, grant: self.grant.as_deref(), session: self.session };
        self.each(tables, who, |one| {
            let max = one.plan.plan.sessions_max;
            if max > 0 {
                show(Crowd { scope: one.scope(), key: self.key(tables, who, &one) }, max);
            }
        });
    }

    /// Shows what is chosen for a session and limits its messages, in the order in which it is asked.
    fn each_that_limits<'t>(&'t self, tables: &'t Tables, who: Who<'t>, mut show: impl FnMut(Chosen<'t>)) {
        self.each(tables, who, |one| {
            if !one.plan.plan.limits.is_empty() {
                show(one);
            }
        });
    }

    /// Shows what is chosen for a session.
    fn each<'t>(&'t self, tables: &'t Tables, who: Who<'t>, mut show: impl FnMut(Chosen<'t>)) {
        let limits = tables.limits();
        let mut level = |kind, name: &'t Arc<str>, plan: Option<&'t Arc<Planned>>, of: Of<'t>| {
            if let Some(plan) = plan {
                show(Chosen { kind, name, plan, of });
            }
        };
        let plain = |kind, plan| (kind, word(kind), plan, Of::Level);
        let mut pass = |(kind, name, plan, of): (_, _, _, _)| level(kind, name, plan, of);
        if let Some(application) = who.grant.and_then(|grant| grant.application.as_deref()) {
            let plan = tables.snapshot().application(application).and_then(|one| limits.plan(&one.plan));
            pass(plain(LevelKind::Application, plan));
            let subscription = tables.snapshot().subscription(application, &who.api.label);
            pass(plain(LevelKind::Subscription, subscription.and_then(|one| limits.plan(&one.plan))));
        }
        if who.grant.is_none() {
            let own = &who.api.api.unauthenticated_plan;
            let name = if own.is_empty() { &tables.settings().unauthenticated_plan } else { own };
            pass(plain(LevelKind::Unauthenticated, limits.plan(name)));
        }
        if let Some(topic) = &self.topic {
            let (kind, name) = plan_name(who.api, topic);
            pass(plain(kind, limits.plan(name)));
            if let Some((policy, group)) = self.group() {
                let plan = group.and_then(|at| policy.groups.get(usize::from(at))).map(|group| &group.plan);
                let plan = if group.is_some() { plan } else { policy.rest.as_ref() };
                pass((kind, word(kind), plan, Of::Group(policy, *group)));
            }
        }
        for (keyed, key) in self.keyed() {
            let Some(key) = key else { continue };
            pass((keyed.kind(), &keyed.name, Some(&keyed.plan), Of::Key(key)));
        }
    }

    fn key(&self, tables: &Tables, who: Who<'_>, one: &Chosen<'_>) -> Arc<str> {
        let grant = who.grant;
        let application = grant.and_then(|grant| grant.application.as_deref()).unwrap_or_default();
        match (one.kind, one.of) {
            (LevelKind::Application, _) => key_of_user(application, grant),
            (LevelKind::Subscription, _) => format!("{application}/{}", who.api.label).into(),
            (LevelKind::Topic, _) => format!("{}{}", who.api.label, self.topic.as_deref().unwrap_or_default()).into(),
            (LevelKind::Unauthenticated, _) => range_of(self.address, &tables.settings().admission).into(),
            (_, Of::Key(key)) => Arc::clone(key),
            _ => Arc::clone(&who.api.label),
        }
    }
}

/// All who share the count of a plan at a level.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Crowd {
    /// Which plan, and at which level.
    pub scope: Arc<Scope>,
    /// Who they are.
    pub key: Arc<str>,
}

/// A limit that is chosen for a session.
#[derive(Clone, Copy)]
struct Chosen<'t> {
    kind: LevelKind,
    name: &'t Arc<str>,
    plan: &'t Arc<Planned>,
    of: Of<'t>,
}

/// By what it is chosen.
#[derive(Clone, Copy)]
enum Of<'t> {
    Level,
    Group(&'t Policy, Option<u16>),
    Key(&'t Arc<str>),
}

impl Chosen<'_> {
    /// What its meters are called.
    fn scope(&self) -> Arc<Scope> {
        match self.of {
            Of::Level => Arc::clone(self.plan.scope(self.kind)),
            Of::Group(policy, group) => policy.scope(self.kind, group, self.plan),
            Of::Key(_) => self.plan.scope_named(self.kind, Arc::clone(self.name)),
        }
    }
}

/// What live sessions learn of other limits.
pub enum Again {
    /// They are as they were.
    Same,
    /// These hold from the next message on.
    Guard(Option<Box<Guard>>),
    /// A denial of this name is meant for it: it is closed.
    Denied,
}

/// Looks at a session's limits again. `own` is its API as it was when the session began, `levels` are those that it has.
pub fn again(party: &mut Party, ledger: &Rc<Ledger>, tables: &Tables, own: &ApiEntry, levels: &[Level]) -> Again {
    let others = without_denial(levels);
    // A denial needs no more of an API than its name, so that it also reaches those whose API is gone.
    match tables.limits().denials().find(own, party.grant.as_deref(), party.address) {
        Some(denial) if denial.action == DenialAction::Close => return Again::Denied,
        Some(denial) => {
            let is_known = levels.len() > others.len() && *levels[0].name == *denial.name;
            if is_known {
                return Again::Same;
            }
            // What it had stays behind that: it is charged for what was let in, and has it again when the denial is lifted.
            let levels = iter::once(denials::level(denial, ledger)).chain(others.iter().cloned()).collect();
            return Again::Guard(Guard::new(levels, Rc::clone(ledger.wall())).map(Box::new));
        }
        None => {}
    }
    let Some(api) = tables.api_labelled(&own.label) else {
        // Its API is gone: it has what it had until it is drained.
        let is_same = others.len() == levels.len();
        return if is_same {
            Again::Same
        } else {
            Again::Guard(Guard::new(others.to_vec(), Rc::clone(ledger.wall())).map(Box::new))
        };
    };
    let before = party.followed();
    party.follow(tables, api);
    if before == party.followed() && party.has(tables, api, levels) {
        return Again::Same;
    }
    Again::Guard(party.guard(ledger, tables, api).map(Box::new))
}

/// The levels behind a denial that leaves every message out.
fn without_denial(levels: &[Level]) -> &[Level] {
    match levels {
        [first, others @ ..] if first.kind == LevelKind::Denial => others,
        all => all,
    }
}

/// A user of an application, or, without a user, the application as one.
fn key_of_user(application: &str, grant: Option<&Grant>) -> Arc<str> {
    match grant.and_then(|grant| grant.user.as_deref()) {
        Some(user) => {
            let mut text = format!("{application}/");
            user.chars().for_each(|character| push_readable(&mut text, character));
            shown(&text).into()
        }
        None => application.into(),
    }
}

/// How many leading bits of an address make the key of those who have no credential; none: there is one, or no address.
fn range_bits(tables: &Tables, grant: Option<&Grant>, address: Option<IpAddr>) -> Option<u8> {
    let Admission { address_prefix_v4, address_prefix_v6, .. } = tables.settings().admission;
    let address = address.filter(|_| grant.is_none())?;
    Some(if address.is_ipv4() { address_prefix_v4 } else { address_prefix_v6 })
}

/// The range that an address is in, by so many leading bits.
pub fn range_of(address: Option<IpAddr>, admission: &Admission) -> String {
    range(address, admission.address_prefix_v4, admission.address_prefix_v6)
}

fn range(address: Option<IpAddr>, v4: u8, v6: u8) -> String {
    let Some(address) = address else { return NO_ADDRESS.into() };
    let (bits, all) = if address.is_ipv4() { (v4, 32) } else { (v6, 128) };
    match IpNet::new(address, bits) {
        Ok(range) if bits < all => range.trunc().to_string(),
        _ => address.to_string(),
    }
}

/// Which plan limits everybody at an API or topic together, if none is chosen by a policy.
fn plan_name<'a>(api: &'a ApiEntry, topic: &str) -> (LevelKind, &'a str) {
    if api.api.plan.is_empty() && api.api.limit_policy.is_empty() {
        (LevelKind::Topic, api.limited_topic(topic).map_or("", |topic| &topic.plan))
    } else {
        (LevelKind::Api, &api.api.plan)
    }
}

fn policy_of<'l>(limits: &'l Limits, api: &ApiEntry, topic: &str) -> Option<&'l Arc<Policy>> {
    if api.api.plan.is_empty() && api.api.limit_policy.is_empty() {
        api.limited_topic(topic).and_then(|topic| limits.policy(&topic.limit_policy))
    } else {
        limits.policy(&api.api.limit_policy)
    }
}

fn position(policy: &Policy, is_in: impl Fn(&[crate::visitor::Who]) -> bool) -> Option<u16> {
    policy.groups.iter().position(|group| is_in(&group.when)).and_then(|at| u16::try_from(at).ok())
}

fn for_api<'l>(limits: &'l Limits, api: &ApiEntry) -> impl Iterator<Item = &'l Arc<Keyed>> {
    limits.keyed().iter().filter(|keyed| keyed.is_for(&api.api.name, &api.label))
}

/// The key that a limit makes of a client; none: it lacks a part. Without a visitor only some parts are known.
fn key_of(
    tables: &Tables,
    keyed: &Keyed,
    who: Who<'_>,
    address: Option<IpAddr>,
    visitor: Option<&Visitor<'_>>,
) -> Option<Arc<str>> {
    let mut text = String::new();
    for (at, part) in keyed.written.key.iter().enumerate() {
        if at > 0 {
            text.push(' ');
        }
        match part {
            KeyPart::Address { v4, v6 } => text.push_str(&range(Some(address?), *v4, *v6)),
            KeyPart::User => push(&mut text, who.grant?.user.as_deref()?, false),
            KeyPart::Application => text.push_str(who.grant?.application.as_deref()?),
            KeyPart::Api => text.push_str(&who.api.label),
            KeyPart::Session => write!(text, "{}", who.session).expect("writing to a string does not fail"),
            KeyPart::Certificate => push(&mut text, visitor?.certificate?, false),
            KeyPart::Claim(name) => push(&mut text, &visitor?.claim(name)?, false),
            KeyPart::Header(name) => {
                push(&mut text, &visitor?.headers(name).next()?, is_secret_header(tables, name));
            }
            KeyPart::Query(name) => push(&mut text, &visitor?.queries(name).next()?, is_secret_name(tables, name)),
        }
    }
    Some(shown(&text).into())
}

fn is_secret_header(tables: &Tables, name: &str) -> bool {
    let mut names = SECRET_HEADERS.iter().copied().chain(tables.secret_headers().iter().map(String::as_str));
    names.any(|secret| secret.eq_ignore_ascii_case(name)) || is_secret_name(tables, name)
}

fn is_secret_name(tables: &Tables, name: &str) -> bool {
    let mut names = SECRET_NAMES.iter().copied().chain(tables.secret_names().iter().map(String::as_str));
    names.any(|secret| secret.eq_ignore_ascii_case(name))
}

/// One part of a key. A space ends a part, so that no two lists of parts make the same text; what must not be read is a
/// digest.
fn push(text: &mut String, part: &str, is_secret: bool) {
    if is_secret {
        text.push_str(&digest(part));
        return;
    }
    for character in part.chars() {
        match character {
            ' ' => text.push_str("\\ "),
            other => push_readable(text, other),
        }
    }
}

/// As people read it: what would command their terminal is spelt out, and no two texts become the same.
fn push_readable(text: &mut String, character: char) {
    match character {
        '\\' => text.push_str(r"\\"),
        other if other.is_control() => text.extend(other.escape_default()),
        other => text.push(other),
    }
}

fn digest(text: &str) -> String {
    let mut digest = Digest::of(text.as_bytes()).to_string();
    digest.truncate(DIGEST_DIGITS);
    format!("sha256:{digest}")
}

/// A text that is not too long to be shown and kept.
fn shown(text: &str) -> String {
    if text.len() <= KEY_BYTES_MAX {
        return text.into();
    }
    let mut shown = text[..text.floor_char_boundary(KEY_BEGINNING_BYTES)].to_owned();
    write!(shown, "...{}", digest(text)).expect("writing to a string does not fail");
    shown
}

#[cfg(test)]
mod tests {
    use proto::snapshot::{Api, Application, Config, Denial, KeyedLimit, LimitPolicy, Plan, Subscription, Topic};

    use super::*;
    use crate::record::{Direction, Record};
    use crate::throttle::testing::{self, next_tables, tables};
    use crate::throttle::{Meters, Verdict};

    fn ledger(meters: &Arc<Meters>, shard: u16) -> Rc<Ledger> {
        Ledger::new(Arc::clone(meters), (shard, 2), Record::new(1, 1).shard(0))
    }

    fn plan(text: &str) -> Plan {
        serde_json::from_str(text).unwrap()
    }

    fn limited(config: &mut Config) {
        config.plans = vec![
            plan(r#"{"name": "two", "limits": [{"quota": "2/year"}]}"#),
            plan(r#"{"name": "three", "limits": [{"quota": "3/year"}, {"rate": "100/s"}]}"#),
            plan(r#"{"name": "none", "limits": [{"quota": "0/year"}]}"#),
        ];
        config.applications = vec![Application { plan: "two".into(), ..Application::new("mobile") }];
        config.subscriptions = vec![Subscription {
            application: "mobile".into(),
            api: "chat:v1".into(),
            plan: "three".into(),
            enabled: true,
        }];
        config.apis[0].plan = "AsyncGold".into();
        config.apis[0].unauthenticated_plan = "Unauthenticated".into();
    }

    fn grant(user: &str) -> Option<Arc<Grant>> {
        Some(Arc::new(testing::grant("mobile", user)))
    }

    fn party(tables: &Tables, grant: Option<Arc<Grant>>, address: &str) -> Party {
        let mut party =
            Party { grant, address: Some(address.parse().unwrap()), topic: Some("/*".into()), ..Party::default() };
        party.follow(tables, tables.api("chat", "v1").unwrap());
        party
    }

    fn shown(party: &Party, ledger: &Rc<Ledger>, tables: &Tables) -> Vec<String> {
        let levels = party.levels(ledger, tables, tables.api("chat", "v1").unwrap());
        let key = |level: &Level| level.meters[0].meter().id().unwrap().key.to_string();
        levels.iter().map(|level| format!("{} {} {}", level.name, level.plan.name, key(level))).collect()
    }

    fn admitted(party: &mut Party, ledger: &Rc<Ledger>, tables: &Tables, asked: usize) -> usize {
        let mut guard = party.guard(ledger, tables, tables.api("chat", "v1").unwrap()).unwrap();
        let now_ms = 1;
        (0..asked).filter(|_| guard.message(Direction::ToUpstream, 10, now_ms) == Verdict::Pass).count()
    }

    #[test]
    fn a_session_has_the_levels_of_who_it_is() {
        let tables = tables(limited);
        let ledger = ledger(&Arc::default(), 0);
        let known = party(&tables, grant("alice"), "10.0.0.1");
        let expected = ["application two mobile/alice", "subscription three mobile/chat:v1", "api AsyncGold chat:v1"];
        assert_eq!(shown(&known, &ledger, &tables), expected);
        let unknown = party(&tables, None, "2001:db8::1");
        let expected = ["unauthenticated Unauthenticated 2001:db8::/64", "api AsyncGold chat:v1"];
        assert_eq!(shown(&unknown, &ledger, &tables), expected);
    }

    #[test]
    fn topics_are_limited_where_their_api_is_not() {
        let ledger = ledger(&Arc::default(), 0);
        let by_topic = tables(|config| {
            limited(config);
            config.apis[0].plan = String::new();
            config.apis[0].topics = vec![Topic { topic: "/*".into(), plan: "two".into(), ..Topic::default() }];
        });
        let expected = ["topic two chat:v1/*"];
        assert_eq!(shown(&party(&by_topic, grant("alice"), "10.0.0.1"), &ledger, &by_topic)[2..], expected);
    }

    #[test]
    fn the_first_group_that_fits_decides_and_its_members_have_one_count() {
        let with_policy = |config: &mut Config| {
            limited(config);
            let policy = r#"{"name": "tiers", "plan": "none", "groups": [
                {"when": [{"addresses": ["10.0.0.0/8"]}], "plan": "two"},
                {"when": [{"addresses": ["10.1.0.0/16", "11.0.0.0/8"]}], "plan": "two"}]}"#;
            config.limit_policies = vec![serde_json::from_str::<LimitPolicy>(policy).unwrap()];
            config.apis[0].plan = String::new();
            config.apis[0].limit_policy = "tiers".into();
            config.apis[0].unauthenticated_plan = String::new();
        };
        let tables = tables(with_policy);
        let ledger = ledger(&Arc::default(), 0);
        let at = |address: &str| party(&tables, None, address);
        let passed: Vec<usize> = ["10.1.0.1", "10.2.0.1", "11.0.0.1", "12.0.0.1"]
            .iter()
            .map(|address| admitted(&mut at(address), &ledger, &tables, 5))
            .collect();
        assert_eq!(passed, [2, 0, 2, 0], "the second is of the first's group, the third of another, the last of none");
    }

    #[test]
    fn keys_are_made_of_what_is_known_and_who_lacks_a_part_is_not_limited() {
        let keyed = |config: &mut Config| {
            limited(config);
            let limit = r#"{"name": "per-office", "key": ["address/24", "user"], "plan": "two"}"#;
            config.limits = vec![serde_json::from_str::<KeyedLimit>(limit).unwrap()];
        };
        let tables = tables(keyed);
        let ledger = ledger(&Arc::default(), 0);
        let last = |party: &Party| shown(party, &ledger, &tables).pop().unwrap();
        assert_eq!(last(&party(&tables, grant("a b"), "10.0.0.77")), r"per-office two 10.0.0.0/24 a\ b");
        assert_eq!(last(&party(&tables, None, "10.0.0.77")), "api AsyncGold chat:v1");
    }

    #[test]
    fn no_key_says_anything_to_a_terminal() {
        let keyed = |config: &mut Config| {
            limited(config);
            let limit = r#"{"name": "each", "key": ["user"], "plan": "two"}"#;
            config.limits = vec![serde_json::from_str::<KeyedLimit>(limit).unwrap()];
        };
        let tables = tables(keyed);
        let ledger = ledger(&Arc::default(), 0);
        let of = |user: &str| shown(&party(&tables, grant(user), "10.0.0.1"), &ledger, &tables);
        let keys = of("al\u{1b}[2Jice\u{9b}\r\n\u{7f}");
        assert_eq!(keys[0], r"application two mobile/al\u{1b}[2Jice\u{9b}\r\n\u{7f}");
        assert_eq!(keys[3], r"each two al\u{1b}[2Jice\u{9b}\r\n\u{7f}");
        assert_ne!(of("a\n")[0], of(r"a\n")[0], "no two users make the same key");
        assert_eq!(of("Ann Ä. O'Neill")[0], "application two mobile/Ann Ä. O'Neill");
    }

    #[test]
    fn what_is_used_stays_used_when_a_generation_changes_the_plan() {
        let before = tables(limited);
        let meters = Arc::default();
        let ledger = ledger(&meters, 0);
        let mut alice = party(&before, grant("alice"), "10.0.0.1");
        assert_eq!(admitted(&mut alice, &ledger, &before, 5), 2);
        let api = |tables: &Tables| Arc::clone(tables.api("chat", "v1").unwrap());
        let levels = alice.levels(&ledger, &before, &api(&before));
        let same = next_tables(Some(&before), limited);
        assert!(matches!(again(&mut alice, &ledger, &same, &api(&same), &levels), Again::Same));
        let more = next_tables(Some(&same), |config| {
            limited(config);
            config.plans[0] = plan(r#"{"name": "two", "limits": [{"quota": "3/year"}]}"#);
        });
        let Again::Guard(Some(mut guard)) = again(&mut alice, &ledger, &more, &api(&more), &levels) else {
            panic!("the plan is another");
        };
        let verdicts = [0; 3].map(|_| guard.message(Direction::ToClient, 1, 1) == Verdict::Pass);
        assert_eq!(verdicts, [true, false, false], "two were used of what are three now");
        let sessions = |levels: &[Level]| levels[0].meters[0].meter().sessions();
        assert_eq!(sessions(guard.levels()), 1);
        drop((levels, guard));
        assert_eq!(ledger.keys(), 0, "nobody is there");
        let other = self::ledger(&meters, 1);
        assert_eq!(admitted(&mut alice, &other, &more, 5), 0, "and the process remembers");
    }

    #[test]
    fn a_denial_reaches_live_sessions() {
        let before = tables(limited);
        let ledger = ledger(&Arc::default(), 0);
        let mut alice = party(&before, grant("alice"), "10.0.0.1");
        let denied = |text: &str| {
            let denial: Denial = serde_json::from_str(text).unwrap();
            tables(|config| {
                limited(config);
                config.denials = vec![denial];
            })
        };
        let closes = denied(r#"{"name": "d", "user": "alice"}"#);
        let found = again(&mut alice, &ledger, &closes, closes.api("chat", "v1").unwrap(), &[]);
        assert!(matches!(found, Again::Denied));
        let drops = denied(r#"{"name": "d", "user": "alice", "action": "drop"}"#);
        let api = drops.api("chat", "v1").unwrap();
        let Again::Guard(Some(mut guard)) = again(&mut alice, &ledger, &drops, api, &[]) else { panic!("it drops") };
        let verdict = guard.message(Direction::ToUpstream, 0, 1);
        assert!(matches!(verdict, Verdict::Stop(stopped) if stopped.kind == LevelKind::Denial));
        assert!(matches!(again(&mut alice, &ledger, &drops, api, guard.levels()), Again::Same));
        let lifted = again(&mut alice, &ledger, &before, before.api("chat", "v1").unwrap(), guard.levels());
        assert!(matches!(lifted, Again::Guard(Some(_))), "its limits are back");
    }

    #[test]
    fn a_live_session_has_the_key_that_the_settings_make_of_its_address() {
        let open = |bits: u8| {
            move |config: &mut Config| {
                limited(config);
                config.apis[0].plan = String::new();
                config.apis[0].unauthenticated_plan = "two".into();
                config.settings.admission.address_prefix_v4 = bits;
            }
        };
        let before = tables(open(32));
        let after = next_tables(Some(&before), open(24));
        let ledger = ledger(&Arc::default(), 0);
        let mut nobody = party(&before, None, "10.0.0.1");
        let mut alice = party(&before, grant("alice"), "10.0.0.1");
        let levels = [&nobody, &alice].map(|party| party.levels(&ledger, &before, before.api("chat", "v1").unwrap()));
        let api = after.api("chat", "v1").unwrap();
        let found = again(&mut nobody, &ledger, &after, api, &levels[0]);
        let Again::Guard(Some(guard)) = found else { panic!("it is in another range") };
        assert_eq!(shown(&nobody, &ledger, &after), ["unauthenticated two 10.0.0.0/24"]);
        assert!(matches!(again(&mut nobody, &ledger, &after, api, guard.levels()), Again::Same));
        assert!(matches!(again(&mut alice, &ledger, &after, api, &levels[1]), Again::Same), "no key of hers has it");
    }

    #[test]
    fn a_session_whose_api_is_gone_keeps_its_limits_and_is_still_denied() {
        let before = tables(limited);
        let gone = |denials: &str| {
            let denials: Vec<Denial> = serde_json::from_str(denials).unwrap();
            next_tables(Some(&before), |config| {
                limited(config);
                (config.plans, config.denials) = (config.plans.split_off(1), denials);
                config.applications[0] = Application::new("mobile");
                config.subscriptions.clear();
                config.apis[0] = Api::new("other", "", "/other", config.apis[0].endpoints.production.take().unwrap());
            })
        };
        let ledger = ledger(&Arc::default(), 0);
        let mut alice = party(&before, grant("alice"), "10.0.0.1");
        let own = Arc::clone(before.api("chat", "v1").unwrap());
        let levels = alice.levels(&ledger, &before, &own);
        let mut again = |tables: &Tables, levels: &[Level]| again(&mut alice, &ledger, tables, &own, levels);
        assert!(matches!(again(&gone("[]"), &levels), Again::Same));
        for whom in [r#""user": "alice""#, r#""application": "mobile""#, r#""addresses": ["10.0.0.0/8"]"#] {
            let denied = |more: &str| gone(&format!(r#"[{{"name": "d", {whom}{more}}}]"#));
            assert!(matches!(again(&denied(""), &levels), Again::Denied), "{whom}");
            let drops = denied(r#", "action": "drop""#);
            let Again::Guard(Some(mut guard)) = again(&drops, &levels) else { panic!("{whom}") };
            let verdict = guard.message(Direction::ToUpstream, 0, 1);
            assert!(matches!(verdict, Verdict::Stop(stopped) if stopped.kind == LevelKind::Denial));
            assert!(matches!(again(&drops, guard.levels()), Again::Same));
            let Again::Guard(Some(lifted)) = again(&gone("[]"), guard.levels()) else { panic!("{whom}") };
            let meters = |levels: &[Level]| -> Vec<_> {
                levels.iter().flat_map(|level| &level.meters).map(Rc::as_ptr).collect()
            };
            assert_eq!(meters(lifted.levels()), meters(&levels), "they are the very ones");
        }
    }

    #[test]
    fn no_two_lists_of_parts_make_the_same_text_and_no_text_is_long() {
        let made = |parts: &[&str]| {
            let mut text = String::new();
            for (at, part) in parts.iter().enumerate() {
                text.push_str(if at > 0 { " " } else { "" });
                push(&mut text, part, false);
            }
            text
        };
        assert_ne!(made(&["a b", "c"]), made(&["a", "b c"]));
        assert_ne!(made(&["a\\", "c"]), made(&["a\\ c"]));
        assert_eq!(made(&["a\nb"]), "a\\nb");
        let long = [super::shown(&"ä".repeat(500)), super::shown(&"ä".repeat(501))];
        assert!(long[0] != long[1] && long.iter().all(|text| text.len() <= KEY_BYTES_MAX), "{long:?}");
        let mut secret = String::new();
        push(&mut secret, "Bearer geheim", true);
        assert!(!secret.contains("geheim") && secret.starts_with("sha256:"));
    }
}
