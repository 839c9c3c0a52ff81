//! How a snapshot travels: a list of sections, each named by the SHA-256 of its bytes.
//!
//! Sections are `settings`, `listeners`, `authorities`, and up to [`BUCKETS`](crate::limits::BUCKETS) buckets each of
//! `upstreams`, `apis` and `certificates`, an entry's bucket being the first byte of the SHA-256 of its name. A section's
//! bytes are the MessagePack, with named fields, of its part of the model. Two nodes that hold a section of the same name
//! and digest hold the same bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize as _, Serialize};
use sha2::Digest as _;

use super::path::Label;
use super::{Api, Authorities, Certificate, Config, Listener, Problem, Settings, Upstream};
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
/// `authorities`, `certificates/00`.
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
}

impl SectionName {
    /// Whether a section of this name holds what must not be read by others.
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::Certificates(_))
    }
}

impl fmt::Display for SectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings => f.write_str("settings"),
            Self::Listeners => f.write_str("listeners"),
            Self::Upstreams(bucket) => write!(f, "upstreams/{bucket:02x}"),
            Self::Apis(bucket) => write!(f, "apis/{bucket:02x}"),
            Self::Authorities => f.write_str("authorities"),
            Self::Certificates(bucket) => write!(f, "certificates/{bucket:02x}"),
        }
    }
}

impl FromStr for SectionName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a section is settings, listeners, authorities, upstreams/HH, apis/HH or certificates/HH";
        let (family, bucket) = text.split_once('/').unwrap_or((text, ""));
        let bucket = || match bucket.len() {
            2 => u8::from_str_radix(bucket, 16).map_err(|_| FORM),
            _ => Err(FORM),
        };
        match family {
            "settings" if text == family => Ok(Self::Settings),
            "listeners" if text == family => Ok(Self::Listeners),
            "upstreams" => bucket().map(Self::Upstreams),
            "apis" => bucket().map(Self::Apis),
            "authorities" if text == family => Ok(Self::Authorities),
            "certificates" => bucket().map(Self::Certificates),
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
            _ => false,
        };
        if !kind {
            return Err(misplaced(name, "holds another kind of entries than its name says".into()));
        }
        let mut before = None;
        for at in 0.. {
            let Some(entry) = self.entry(at) else { break };
            if let Some(before) = before.filter(|before| *before >= entry) {
                let [before, entry] = [before, entry].map(|(name, version)| Label(name, version).to_string());
                let fault = format!("holds {before:?} before {entry:?}; entries rise by name, then version");
                return Err(misplaced(name, fault));
            }
            before = Some(entry);
        }
        match (name, self.entry(0)) {
            (SectionName::Settings | SectionName::Listeners, None) => Ok(()),
            (_, None) => Err(misplaced(name, "is empty; an empty section is left out".into())),
            (_, Some(first)) => in_bucket(name, first.0),
        }
    }

    fn is_of_one_bucket(&self, name: SectionName) -> Result<(), Problem> {
        (1..).map_while(|at| self.entry(at)).try_for_each(|(entry, _)| in_bucket(name, entry))
    }

    /// Name and version of an entry.
    fn entry(&self, at: usize) -> Option<(&str, &str)> {
        match self {
            Self::Settings(_) => None,
            Self::Listeners(listeners) => listeners.get(at).map(|listener| (listener.name.as_str(), "")),
            Self::Upstreams(upstreams) => upstreams.get(at).map(|upstream| (upstream.name.as_str(), "")),
            Self::Apis(apis) => apis.get(at).map(|api| (api.name.as_str(), api.version.as_str())),
            Self::Authorities(all) => all.get(at).map(|one| (one.name.as_str(), "")),
            Self::Certificates(all) => all.get(at).map(|one| (one.name.as_str(), "")),
        }
    }
}

fn in_bucket(name: SectionName, entry: &str) -> Result<(), Problem> {
    match name {
        SectionName::Upstreams(wanted) | SectionName::Apis(wanted) | SectionName::Certificates(wanted)
            if bucket(entry) != wanted =>
        {
            let right = bucket(entry);
            Err(misplaced(name, format!("holds {entry:?}, which belongs in bucket {right:02x}")))
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

/// The sections of a configuration, each list in its order. An empty bucket is no section.
pub(super) fn split(mut config: Config) -> Sections {
    sort(&mut config);
    let Config { settings, listeners, authorities, .. } = config;
    let authorities = Some(authorities).filter(|all| !all.is_empty());
    let upstreams = buckets(config.upstreams, |upstream| &upstream.name);
    let apis = buckets(config.apis, |api| &api.name);
    let certificates = buckets(config.certificates, |certificate| &certificate.name);
    [(SectionName::Settings, Section::Settings(settings)), (SectionName::Listeners, Section::Listeners(listeners))]
        .into_iter()
        .chain(upstreams.map(|(at, list)| (SectionName::Upstreams(at), Section::Upstreams(list))))
        .chain(apis.map(|(at, list)| (SectionName::Apis(at), Section::Apis(list))))
        .chain(authorities.map(|all| (SectionName::Authorities, Section::Authorities(all))))
        .chain(certificates.map(|(at, list)| (SectionName::Certificates(at), Section::Certificates(list))))
        .map(|(name, section)| (name, (Digest::of(&section.encode()), Arc::new(section))))
        .collect()
}

fn buckets<T>(entries: Vec<T>, name: impl Fn(&T) -> &str) -> impl Iterator<Item = (u8, Vec<T>)> {
    let mut buckets: BTreeMap<u8, Vec<T>> = BTreeMap::new();
    for entry in entries {
        buckets.entry(bucket(name(&entry))).or_default().push(entry);
    }
    buckets.into_iter()
}

/// Puts every list into the order that sections have.
pub(super) fn sort(config: &mut Config) {
    config.certificates.sort_by(|a, b| a.name.cmp(&b.name));
    config.authorities.sort_by(|a, b| a.name.cmp(&b.name));
    config.listeners.sort_by(|a, b| a.name.cmp(&b.name));
    config.upstreams.sort_by(|a, b| a.name.cmp(&b.name));
    config.apis.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
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
    Digest::of(name.as_bytes()).0[0]
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
            api.topics = vec![crate::snapshot::Topic { topic: "/a".into(), mapping: None }];
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
            let problems = Snapshot::from_sections(sections).unwrap_err();
            assert_eq!(problems[0].place, format!("/{missing}"));
        }
        let mut sections = whole.clone();
        let moved = sections.remove(&SectionName::Apis(bucket("chat"))).unwrap();
        sections.insert(SectionName::Upstreams(3), moved);
        let problems = Snapshot::from_sections(sections).unwrap_err();
        assert!(problems[0].message.contains("another kind"), "{problems:?}");
    }
}
