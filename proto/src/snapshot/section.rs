//! How a snapshot travels: a list of sections, each named by the SHA-256 of its bytes.
//!
//! Sections are `settings`, `listeners`, `authorities`, `issuers`, `assertions`, `plans`, `limit_policies`, `limits`, `denials`, and up to [`BUCKETS`](crate::limits::BUCKETS) buckets each of
//! `upstreams`, `apis`, `certificates` and the families of identity, an entry's bucket being the first byte of the SHA-256
//! of its name; of a key, that of its hash. A section's bytes are the MessagePack, with named fields, of its part of the model. Two nodes that hold a section of the same name
//! and digest hold the same bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize as _, Serialize};
use sha2::Digest as _;

use super::path::Label;
use super::{
    Api, ApiKey, Application, Assertion, Authorities, Certificate, Config, Denial, Issuer, KeyedLimit, LimitPolicy,
    Listener, OWN_ISSUER, Plan, Problem, Revocation, Settings, Subscription, Upstream, User,
};
use crate::limits::SECTION_DEPTH_MAX;

/// SHA-256 of a section's bytes. Travels as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a digest is 64 lower-case hexadecimal digits";
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(FORM);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| FORM)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| FORM)?;
        }
        Ok(Self(bytes))
    }
}

super::text_form!(Digest);

/// Which part of the configuration a section is. Travels as `settings`, `listeners`, `upstreams/00`, `apis/ff`,
/// `authorities`, `certificates/00`, `applications/00`, `keys/00`, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SectionName {
    /// [`Settings`].
    Settings,
    /// A list of [`Listener`], in the order of their names.
    Listeners,
    /// A list of [`Upstream`] whose names fall in this bucket, in the order of their names.
    Upstreams(u8),
    /// A list of [`Api`] whose names fall in this bucket, in the order of (name, version).
    Apis(u8),
    /// A list of [`Authorities`], in the order of their names. Not sent if there are none.
    Authorities,
    /// A list of [`Certificate`] whose names fall in this bucket, in the order of their names. Holds private keys.
    Certificates(u8),
    /// A list of [`Application`] whose names fall in this bucket, in the order of their names.
    Applications(u8),
    /// A list of [`Subscription`] whose applications' names fall in this bucket, in the order of (application, api).
    Subscriptions(u8),
    /// A list of [`ApiKey`] whose hashes begin with this byte, in the order of their hashes.
    Keys(u8),
    /// A list of [`User`] whose names fall in this bucket, in the order of their names. Holds password hashes.
    Users(u8),
    /// A list of [`Revocation`] whose subjects fall in this bucket, in the order of (kind, subject).
    Revocations(u8),
    /// A list of [`Issuer`], in the order of their names. Not sent if there are none. May hold clients' secrets.
    Issuers,
    /// A list of [`Assertion`], in the order of their names. Not sent if there are none. Holds private keys.
    Assertions,
    /// A list of [`Plan`], in the order of their names. Not sent if there are none.
    Plans,
    /// A list of [`LimitPolicy`], in the order of their names. Not sent if there are none.
    LimitPolicies,
    /// A list of [`KeyedLimit`], in the order of their names. Not sent if there are none.
    Limits,
    /// A list of [`Denial`], in the order of their names. Not sent if there are none.
    Denials,
}

/// The families of sections and their words: one section each, or a bucket each.
const SINGLE: [(&str, SectionName); 9] = [
    ("settings", SectionName::Settings),
    ("listeners", SectionName::Listeners),
    ("authorities", SectionName::Authorities),
    ("issuers", SectionName::Issuers),
    ("assertions", SectionName::Assertions),
    ("plans", SectionName::Plans),
    ("limit_policies", SectionName::LimitPolicies),
    ("limits", SectionName::Limits),
    ("denials", SectionName::Denials),
];
type OfBucket = fn(u8) -> SectionName;
const BUCKETED: [(&str, OfBucket); 8] = [
    ("upstreams", SectionName::Upstreams),
    ("apis", SectionName::Apis),
    ("certificates", SectionName::Certificates),
    ("applications", SectionName::Applications),
    ("subscriptions", SectionName::Subscriptions),
    ("keys", SectionName::Keys),
    ("users", SectionName::Users),
    ("revocations", SectionName::Revocations),
];

impl SectionName {
    /// Whether a section of this name holds what must not be read by others.
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::Certificates(_) | Self::Users(_) | Self::Issuers | Self::Assertions)
    }

    /// Whether a section of this name says who may come in, and so reaches live sessions.
    pub const fn is_of_identity(self) -> bool {
        matches!(
            self,
            Self::Applications(_)
                | Self::Subscriptions(_)
                | Self::Keys(_)
                | Self::Users(_)
                | Self::Revocations(_)
                | Self::Issuers
        )
    }

    /// Whether a section of this name says how much may pass, and so reaches live sessions.
    pub const fn is_of_limits(self) -> bool {
        matches!(self, Self::Plans | Self::LimitPolicies | Self::Limits | Self::Denials)
    }

    /// Whether a section of this name holds entries that come and go one by one, and depend on no other section.
    pub const fn is_of_people(self) -> bool {
        self.is_of_identity() && !matches!(self, Self::Issuers)
    }

    /// The family's word, and the bucket.
    const fn parts(self) -> (&'static str, Option<u8>) {
        match self {
            Self::Settings => ("settings", None),
            Self::Listeners => ("listeners", None),
            Self::Upstreams(bucket) => ("upstreams", Some(bucket)),
            Self::Apis(bucket) => ("apis", Some(bucket)),
            Self::Authorities => ("authorities", None),
            Self::Certificates(bucket) => ("certificates", Some(bucket)),
            Self::Applications(bucket) => ("applications", Some(bucket)),
            Self::Subscriptions(bucket) => ("subscriptions", Some(bucket)),
            Self::Keys(bucket) => ("keys", Some(bucket)),
            Self::Users(bucket) => ("users", Some(bucket)),
            Self::Revocations(bucket) => ("revocations", Some(bucket)),
            Self::Issuers => ("issuers", None),
            Self::Assertions => ("assertions", None),
            Self::Plans => ("plans", None),
            Self::LimitPolicies => ("limit_policies", None),
            Self::Limits => ("limits", None),
            Self::Denials => ("denials", None),
        }
    }
}

impl fmt::Display for SectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            (family, None) => f.write_str(family),
            (family, Some(bucket)) => write!(f, "{family}/{bucket:02x}"),
        }
    }
}

impl FromStr for SectionName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a section is settings, listeners, authorities, issuers, assertions, plans, limit_policies, limits, denials, \
            or one of upstreams/HH, \
            apis/HH, certificates/HH, applications/HH, subscriptions/HH, keys/HH, users/HH and revocations/HH";
        let Some((family, bucket)) = text.split_once('/') else {
            return SINGLE.into_iter().find(|(word, _)| *word == text).map(|(_, name)| name).ok_or(FORM);
        };
        let (_, name) = BUCKETED.into_iter().find(|(word, _)| *word == family).ok_or(FORM)?;
        match bucket.len() {
            2 => u8::from_str_radix(bucket, 16).map(name).map_err(|_| FORM),
            _ => Err(FORM),
        }
    }
}

super::text_form!(SectionName);

/// The sections of one generation in order, by name and digest.
pub type SectionList = Vec<(SectionName, Digest)>;

/// One section, decoded. Shared between generations whose bytes are the same.
#[derive(Debug, Clone, PartialEq)]
pub enum Section {
    /// See [`SectionName::Settings`].
    Settings(Settings),
    /// See [`SectionName::Listeners`].
    Listeners(Vec<Listener>),
    /// See [`SectionName::Upstreams`].
    Upstreams(Vec<Upstream>),
    /// See [`SectionName::Apis`].
    Apis(Vec<Api>),
    /// See [`SectionName::Authorities`].
    Authorities(Vec<Authorities>),
    /// See [`SectionName::Certificates`].
    Certificates(Vec<Certificate>),
    /// See [`SectionName::Applications`].
    Applications(Vec<Application>),
    /// See [`SectionName::Subscriptions`].
    Subscriptions(Vec<Subscription>),
    /// See [`SectionName::Keys`].
    Keys(Vec<ApiKey>),
    /// See [`SectionName::Users`].
    Users(Vec<User>),
    /// See [`SectionName::Revocations`].
    Revocations(Vec<Revocation>),
    /// See [`SectionName::Issuers`].
    Issuers(Vec<Issuer>),
    /// See [`SectionName::Assertions`].
    Assertions(Vec<Assertion>),
    /// See [`SectionName::Plans`].
    Plans(Vec<Plan>),
    /// See [`SectionName::LimitPolicies`].
    LimitPolicies(Vec<LimitPolicy>),
    /// See [`SectionName::Limits`].
    Limits(Vec<KeyedLimit>),
    /// See [`SectionName::Denials`].
    Denials(Vec<Denial>),
}

/// Sections of a generation, by name: digest and decoded content.
pub type Sections = BTreeMap<SectionName, (Digest, Arc<Section>)>;

impl Section {
    /// The bytes that travel. Equal sections have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Settings(settings) => named(settings),
            Self::Listeners(listeners) => named(listeners),
            Self::Upstreams(upstreams) => named(upstreams),
            Self::Apis(apis) => named(apis),
            Self::Authorities(authorities) => named(authorities),
            Self::Certificates(certificates) => named(certificates),
            Self::Applications(all) => named(all),
            Self::Subscriptions(all) => named(all),
            Self::Keys(all) => named(all),
            Self::Users(all) => named(all),
            Self::Revocations(all) => named(all),
            Self::Issuers(all) => named(all),
            Self::Assertions(all) => named(all),
            Self::Plans(all) => named(all),
            Self::LimitPolicies(all) => named(all),
            Self::Limits(all) => named(all),
            Self::Denials(all) => named(all),
        }
    }

    /// Reads the bytes of the section of this name. A field that this build does not know is a problem that names it:
    /// it may be a rule that must not be skipped.
    pub fn decode(name: SectionName, bytes: &[u8]) -> Result<Self, Problem> {
        let section = match name {
            SectionName::Settings => read(bytes).map(Self::Settings),
            SectionName::Listeners => read(bytes).map(Self::Listeners),
            SectionName::Upstreams(_) => read(bytes).map(Self::Upstreams),
            SectionName::Apis(_) => read(bytes).map(Self::Apis),
            SectionName::Authorities => read(bytes).map(Self::Authorities),
            SectionName::Certificates(_) => read(bytes).map(Self::Certificates),
            SectionName::Applications(_) => read(bytes).map(Self::Applications),
            SectionName::Subscriptions(_) => read(bytes).map(Self::Subscriptions),
            SectionName::Keys(_) => read(bytes).map(Self::Keys),
            SectionName::Users(_) => read(bytes).map(Self::Users),
            SectionName::Revocations(_) => read(bytes).map(Self::Revocations),
            SectionName::Issuers => read(bytes).map(Self::Issuers),
            SectionName::Assertions => read(bytes).map(Self::Assertions),
            SectionName::Plans => read(bytes).map(Self::Plans),
            SectionName::LimitPolicies => read(bytes).map(Self::LimitPolicies),
            SectionName::Limits => read(bytes).map(Self::Limits),
            SectionName::Denials => read(bytes).map(Self::Denials),
        };
        let section = section.map_err(|fault| {
            // What a reader says of a value that it did not expect holds the value, which may be a key.
            let may_be_told =
                !name.is_secret() || fault.starts_with("unknown field") || fault.starts_with("missing field");
            let fault = if may_be_told { fault } else { "its form is not what this build reads".into() };
            Problem { place: format!("/{name}"), message: format!("the section {name} cannot be read: {fault}") }
        })?;
        section.belongs_in(name)?;
        section.is_of_one_bucket(name)?;
        Ok(section)
    }

    /// Whether this is what a section of that name holds: the kind, the order, no empty bucket, and the bucket of the
    /// first entry. That all entries are of one bucket was seen when they were decoded.
    pub(super) fn belongs_in(&self, name: SectionName) -> Result<(), Problem> {
        let kind = match (self, name) {
            (Self::Settings(_), SectionName::Settings) => return Ok(()),
            (Self::Listeners(_), SectionName::Listeners) => true,
            (Self::Upstreams(_), SectionName::Upstreams(_)) => true,
            (Self::Apis(_), SectionName::Apis(_)) => true,
            (Self::Authorities(_), SectionName::Authorities) => true,
            (Self::Certificates(_), SectionName::Certificates(_)) => true,
            (Self::Applications(_), SectionName::Applications(_)) => true,
            (Self::Subscriptions(_), SectionName::Subscriptions(_)) => true,
            (Self::Keys(_), SectionName::Keys(_)) => true,
            (Self::Users(_), SectionName::Users(_)) => true,
            (Self::Revocations(_), SectionName::Revocations(_)) => true,
            (Self::Issuers(_), SectionName::Issuers) => true,
            (Self::Assertions(_), SectionName::Assertions) => true,
            (Self::Plans(_), SectionName::Plans) => true,
            (Self::LimitPolicies(_), SectionName::LimitPolicies) => true,
            (Self::Limits(_), SectionName::Limits) => true,
            (Self::Denials(_), SectionName::Denials) => true,
            _ => false,
        };
        if !kind {
            return Err(misplaced(name, "holds another kind of entries than its name says".into()));
        }
        let mut before = None;
        for at in 0.. {
            let Some(entry) = self.entry(at) else { break };
            if let Some(before) = before.filter(|before| *before >= entry) {
                let [before, entry] = [before, entry].map(called);
                let fault = format!("holds {before:?} before {entry:?}; entries rise by name, then version");
                return Err(misplaced(name, fault));
            }
            before = Some(entry);
        }
        match (name, self.entry(0)) {
            (SectionName::Settings | SectionName::Listeners, None) => Ok(()),
            (_, None) => Err(misplaced(name, "is empty; an empty section is left out".into())),
            (_, Some(first)) => in_bucket(name, first),
        }
    }

    fn is_of_one_bucket(&self, name: SectionName) -> Result<(), Problem> {
        (1..).map_while(|at| self.entry(at)).try_for_each(|entry| in_bucket(name, entry))
    }

    /// By what an entry is found: name and version, or what stands for them.
    fn entry(&self, at: usize) -> Option<Key<'_>> {
        fn plain(name: &str) -> Key<'_> {
            (name.as_bytes(), b"")
        }
        match self {
            Self::Settings(_) => None,
            Self::Listeners(all) => all.get(at).map(|one| plain(&one.name)),
            Self::Upstreams(all) => all.get(at).map(|one| plain(&one.name)),
            Self::Apis(all) => all.get(at).map(|one| (one.name.as_bytes(), one.version.as_bytes())),
            Self::Authorities(all) => all.get(at).map(|one| plain(&one.name)),
            Self::Certificates(all) => all.get(at).map(|one| plain(&one.name)),
            Self::Applications(all) => all.get(at).map(|one| plain(&one.name)),
            Self::Subscriptions(all) => all.get(at).map(|one| (one.application.as_bytes(), one.api.as_bytes())),
            Self::Keys(all) => all.get(at).map(|one| (one.sha256.0.as_slice(), b"".as_slice())),
            Self::Users(all) => all.get(at).map(|one| plain(&one.name)),
            Self::Revocations(all) => {
                all.get(at).map(|one| (one.revoked.kind.word().as_bytes(), one.revoked.subject.as_bytes()))
            }
            Self::Issuers(all) => all.get(at).map(|one| plain(&one.name)),
            Self::Assertions(all) => all.get(at).map(|one| plain(&one.name)),
            Self::Plans(all) => all.get(at).map(|one| plain(&one.name)),
            Self::LimitPolicies(all) => all.get(at).map(|one| plain(&one.name)),
            Self::Limits(all) => all.get(at).map(|one| plain(&one.name)),
            Self::Denials(all) => all.get(at).map(|one| plain(&one.name)),
        }
    }
}

/// By what entries of a section are told apart and ordered.
type Key<'a> = (&'a [u8], &'a [u8]);

/// A key for people. That of an API key is a hash, which is no name.
fn called((first, second): Key<'_>) -> String {
    match [first, second].map(std::str::from_utf8) {
        [Ok(first), Ok(second)] => Label(first, second).to_string(),
        _ => "an API key".into(),
    }
}

fn in_bucket(name: SectionName, key: Key<'_>) -> Result<(), Problem> {
    let (first, second) = key;
    let right = match name {
        SectionName::Keys(_) => first.first().copied().unwrap_or_default(),
        SectionName::Revocations(_) => bucket_of(second),
        _ => bucket_of(first),
    };
    match name.parts() {
        (_, Some(wanted)) if right != wanted => {
            Err(misplaced(name, format!("holds {:?}, which belongs in bucket {right:02x}", called(key))))
        }
        _ => Ok(()),
    }
}

fn misplaced(name: SectionName, fault: String) -> Problem {
    Problem { place: format!("/{name}"), message: format!("the section {name} {fault}") }
}

fn named<T: Serialize>(part: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(part).expect("the model has only what MessagePack can say, and memory does not fail")
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(SECTION_DEPTH_MAX);
    let part = T::deserialize(&mut reader).map_err(|fault| fault.to_string())?;
    // The reader does not say how far it came, but only at the end it finds no further marker.
    match IgnoredAny::deserialize(&mut reader) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(part),
        _ => Err("there are bytes behind its end".into()),
    }
}

/// The sections of a configuration, each list in its order. An empty bucket is no section. The token endpoint is the
/// control plane's own, and so are the secrets of its clients.
pub(super) fn split(mut config: Config) -> Sections {
    sort(&mut config);
    config.applications = config.applications.into_iter().map(without_secrets).collect();
    let single = [
        (SectionName::Settings, Section::Settings(config.settings)),
        (SectionName::Listeners, Section::Listeners(config.listeners)),
        (SectionName::Authorities, Section::Authorities(config.authorities)),
        (SectionName::Issuers, Section::Issuers(config.issuers)),
        (SectionName::Assertions, Section::Assertions(config.assertions)),
        (SectionName::Plans, Section::Plans(config.plans)),
        (SectionName::LimitPolicies, Section::LimitPolicies(config.limit_policies)),
        (SectionName::Limits, Section::Limits(config.limits)),
        (SectionName::Denials, Section::Denials(config.denials)),
    ];
    let is_sent = |(name, section): &(SectionName, Section)| {
        matches!(name, SectionName::Settings | SectionName::Listeners) || section.entry(0).is_some()
    };
    single
        .into_iter()
        .filter(is_sent)
        .chain(family(config.upstreams, |one| bucket(&one.name), SectionName::Upstreams, Section::Upstreams))
        .chain(family(config.apis, |one| bucket(&one.name), SectionName::Apis, Section::Apis))
        .chain(family(config.certificates, |one| bucket(&one.name), SectionName::Certificates, Section::Certificates))
        .chain(family(config.applications, |one| bucket(&one.name), SectionName::Applications, Section::Applications))
        .chain(family(
            config.subscriptions,
            |one| bucket(&one.application),
            SectionName::Subscriptions,
            Section::Subscriptions,
        ))
        .chain(family(config.keys, |one| one.sha256.0[0], SectionName::Keys, Section::Keys))
        .chain(family(config.users, |one| bucket(&one.name), SectionName::Users, Section::Users))
        .chain(family(
            config.revocations,
            |one| bucket(&one.revoked.subject),
            SectionName::Revocations,
            Section::Revocations,
        ))
        .map(|(name, section)| (name, (Digest::of(&section.encode()), Arc::new(section))))
        .collect()
}

/// An application as data planes know it: of a client's secret they need to know only whose tokens it leads to.
pub(super) fn without_secrets(mut application: Application) -> Application {
    for client in &mut application.clients {
        if client.secret.take().is_some() {
            client.issuer = OWN_ISSUER.into();
        }
    }
    application
}

/// Entries that are in order, in their buckets.
fn family<T>(
    entries: Vec<T>,
    bucket: impl Fn(&T) -> u8,
    name: fn(u8) -> SectionName,
    section: fn(Vec<T>) -> Section,
) -> impl Iterator<Item = (SectionName, Section)> {
    let mut buckets: BTreeMap<u8, Vec<T>> = BTreeMap::new();
    for entry in entries {
        buckets.entry(bucket(&entry)).or_default().push(entry);
    }
    buckets.into_iter().map(move |(at, entries)| (name(at), section(entries)))
}

/// Puts every list into the order that sections have.
pub(super) fn sort(config: &mut Config) {
    config.certificates.sort_by(|a, b| a.name.cmp(&b.name));
    config.authorities.sort_by(|a, b| a.name.cmp(&b.name));
    config.listeners.sort_by(|a, b| a.name.cmp(&b.name));
    config.upstreams.sort_by(|a, b| a.name.cmp(&b.name));
    config.apis.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    config.applications.sort_by(|a, b| a.name.cmp(&b.name));
    config.subscriptions.sort_by(|a, b| (&a.application, &a.api).cmp(&(&b.application, &b.api)));
    config.keys.sort_by_key(|key| key.sha256);
    config.users.sort_by(|a, b| a.name.cmp(&b.name));
    config.revocations.sort_by(|a, b| a.revoked.cmp(&b.revoked));
    config.issuers.sort_by(|a, b| a.name.cmp(&b.name));
    config.assertions.sort_by(|a, b| a.name.cmp(&b.name));
    config.plans.sort_by(|a, b| a.name.cmp(&b.name));
    config.limit_policies.sort_by(|a, b| a.name.cmp(&b.name));
    config.limits.sort_by(|a, b| a.name.cmp(&b.name));
    config.denials.sort_by(|a, b| a.name.cmp(&b.name));
}

/// SHA-256 over the list: each section's name, a space, its digest and a line feed.
pub(crate) fn checksum(list: &[(SectionName, Digest)]) -> Digest {
    let mut text = String::with_capacity(list.len() * 80);
    for (name, digest) in list {
        text.push_str(&format!("{name} {digest}\n"));
    }
    Digest::of(text.as_bytes())
}

/// The bucket of an API or upstream of this name.
pub fn bucket(name: &str) -> u8 {
    bucket_of(name.as_bytes())
}

pub(super) fn bucket_of(name: &[u8]) -> u8 {
    Digest::of(name).0[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Snapshot, Target};

    fn config() -> Config {
        Config {
            version: 1,
            listeners: vec![Listener::new("public", "0.0.0.0:8080".parse().unwrap())],
            upstreams: vec![Upstream::new("chat", vec!["ws://a/".parse().unwrap()])],
            apis: vec![
                Api::new("chat", "v1", "/chat", Target::Upstream("chat".into())),
                Api::new("echo", "", "/echo", Target::Url("ws://b:9/".parse().unwrap())),
            ],
            ..Config::default()
        }
    }

    fn apis() -> (SectionName, Vec<Api>) {
        let apis = vec![config().apis.remove(0)];
        (SectionName::Apis(bucket("chat")), apis)
    }

    #[test]
    fn sections_are_read_back_from_their_bytes() {
        let snapshot = Snapshot::check(config()).unwrap();
        assert_eq!(snapshot.sections().len(), 5);
        for (name, (digest, section)) in snapshot.sections() {
            let bytes = section.encode();
            assert_eq!(Digest::of(&bytes), *digest, "{name}");
            assert_eq!(Section::decode(*name, &bytes).unwrap(), **section, "{name}");
        }
    }

    #[test]
    fn a_field_at_its_default_is_not_sent() {
        let (_, apis) = apis();
        let bytes = Section::Apis(apis).encode();
        let value: serde_json::Value = rmp_serde::from_slice(&bytes).unwrap();
        let expected = serde_json::json!([{
            "name": "chat", "version": "v1", "context": "/chat", "endpoints": { "production": { "upstream": "chat" } }
        }]);
        assert_eq!(value, expected);
    }

    #[test]
    fn a_field_from_the_future_is_named_wherever_it_stands() {
        let (name, apis) = apis();
        for pointer in ["/0", "/0/endpoints", "/0/limits", "/0/session", "/0/session/ping/client", "/0/topics/0"] {
            let mut api = apis[0].clone();
            api.limits.max_fragments = 9;
            api.session.validate_utf8 = true;
            api.session.ping.client.interval = super::super::Duration::from_secs(7);
            api.topics = vec![crate::snapshot::Topic {
                topic: "/a".into(),
                mapping: None,
                scopes: Vec::new(),
                ..crate::snapshot::Topic::default()
            }];
            let mut value = serde_json::to_value([api]).unwrap();
            let at = value.pointer_mut(pointer).expect(pointer);
            at["deny_everything"] = true.into();
            let problem = Section::decode(name, &rmp_serde::to_vec_named(&value).unwrap()).unwrap_err();
            assert_eq!(problem.place, format!("/{name}"));
            assert!(problem.message.contains("deny_everything"), "{problem}");
        }
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_repeated() {
        let name = SectionName::Certificates(bucket("edge"));
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0";
        for value in [
            serde_json::json!([{ "name": "edge", "chain": "a", "key": "b", "ocsp_response": [key] }]),
            serde_json::json!([key]),
            serde_json::json!(key),
            serde_json::json!([{ "name": "edge", "chain": "a", "key": key, "keys": key }]),
        ] {
            let problem = Section::decode(name, &rmp_serde::to_vec_named(&value).unwrap()).unwrap_err();
            assert!(!problem.message.contains("c2VjcmV0"), "{problem}");
        }
    }

    #[test]
    fn durations_and_sizes_travel_as_text_or_number() {
        for (value, ms) in [(serde_json::json!("90s"), 90_000), (serde_json::json!(0), 0)] {
            let value = serde_json::json!({ "drain_window": value });
            let section = Section::decode(SectionName::Settings, &rmp_serde::to_vec_named(&value).unwrap()).unwrap();
            let Section::Settings(settings) = section else { panic!("{section:?}") };
            assert_eq!(settings.drain_window.as_ms(), ms);
        }
    }

    #[test]
    fn bytes_that_are_no_section_are_problems() {
        let (name, apis) = apis();
        let good = Section::Apis(apis.clone()).encode();
        let other = SectionName::Apis(bucket("chat").wrapping_add(1));
        let turned = {
            let mut second = apis[0].clone();
            second.version = "v0".into();
            Section::Apis(vec![apis[0].clone(), second]).encode()
        };
        let doubled = Section::Apis(vec![apis[0].clone(), apis[0].clone()]).encode();
        let trailing = [good.as_slice(), &[0xc0]].concat();
        let cut_behind = [good.as_slice(), &[0xd9]].concat();
        let deep = vec![0x91; 10_000];
        for (name, bytes, fault) in [
            (name, &good[..good.len() - 1], "cannot be read"),
            (name, &[], "cannot be read"),
            (name, &trailing, "behind its end"),
            (name, &cut_behind, "behind its end"),
            (name, &deep, "cannot be read"),
            (name, &[0x90], "is empty"),
            (other, &good, "belongs in bucket"),
            (name, &turned, "entries rise"),
            (name, &doubled, "entries rise"),
            (SectionName::Settings, &good, "cannot be read"),
        ] {
            let problem = Section::decode(name, bytes).expect_err(fault);
            assert!(problem.message.contains(fault), "{problem} should say {fault:?}");
        }
    }

    #[test]
    fn a_snapshot_needs_its_fixed_sections_and_each_in_its_place() {
        let whole = split(config());
        for missing in [SectionName::Settings, SectionName::Listeners] {
            let mut sections = whole.clone();
            sections.remove(&missing);
            let problems = Snapshot::from_sections(sections, None).unwrap_err();
            assert_eq!(problems[0].place, format!("/{missing}"));
        }
        let mut sections = whole.clone();
        let moved = sections.remove(&SectionName::Apis(bucket("chat"))).unwrap();
        sections.insert(SectionName::Upstreams(3), moved);
        let problems = Snapshot::from_sections(sections, None).unwrap_err();
        assert!(problems[0].message.contains("another kind"), "{problems:?}");
    }
}
