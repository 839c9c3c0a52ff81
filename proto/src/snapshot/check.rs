//! What the fields of a configuration mean together: [`Snapshot`] exists only when all of it is sound.
//!
//! Everything that is wrong is found at once. Reading the text of a configuration, and turning a snapshot into what
//! serves it, are the planes' business.

mod api;
mod entry;
mod identity;
mod limits;
mod policy;
mod reach;
mod tls;
mod words;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

pub use reach::ListenerSet;
pub use words::http_url_problem;

use super::path::Label;
use super::section::{self, SectionList, Sections};
use super::{
    Api, Assertion, Authorities, Certificate, Config, Digest, Issuer, Listener, Section, SectionName, Settings,
    Upstream,
};
use crate::limits::{
    APIS_MAX, ASSERTIONS_MAX, AUTHORITIES_MAX, CERTIFICATES_MAX, DURATION_MS_MAX, ISSUERS_MAX, LISTENERS_MAX,
    PROBLEMS_MAX, UPSTREAMS_MAX,
};

/// The version of the document's form that this build reads.
const CONFIG_VERSION: u32 = 1;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Problem {
    /// JSON Pointer (RFC 6901) into the document, such as `/apis/3/context`. Where there is no document, only the
    /// sections of a push, an entry stands under its name instead of its index: `/apis/chat:v1/context`; and what
    /// concerns a section as a whole, under the section's name: `/apis/1f`.
    pub place: String,
    /// A sentence: what is wrong, and what would be right.
    pub message: String,
}

/// A whole configuration that is sound.
///
/// Upstreams, APIs and listeners are in the order of their names, whatever order they were written in, so equal
/// configurations are equal snapshots with equal digests.
#[derive(Debug, Clone)]
pub struct Snapshot {
    sections: Sections,
}

impl Snapshot {
    /// Checks a configuration document. Places in the problems are JSON Pointers into it.
    pub fn check(config: Config) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::new(Places::Indices);
        if config.version != CONFIG_VERSION {
            let found = config.version;
            problems.add("/version", format!("the version is {found}; this build reads version {CONFIG_VERSION}"));
        }
        let parts = Parts {
            settings: &config.settings,
            certificates: config.certificates.iter().collect(),
            authorities: config.authorities.iter().collect(),
            listeners: config.listeners.iter().collect(),
            upstreams: config.upstreams.iter().collect(),
            apis: config.apis.iter().collect(),
            issuers: config.issuers.iter().collect(),
            assertions: config.assertions.iter().collect(),
            limits: limits::Limits::of(&config),
        };
        parts.check(&mut problems);
        identity::People::of(&config).check(&config, &mut problems);
        identity::token_endpoint(&config, &mut problems);
        problems.into_result()?;
        Ok(Self { sections: section::split(config) })
    }

    /// Checks applications, subscriptions, keys, users and revocations against each other and the APIs and issuers that are there,
    /// and looks at nothing else of the configuration: for a few entries with what they refer to and may clash with.
    pub fn check_identity(config: &Config) -> Result<(), Vec<Problem>> {
        let mut problems = Problems::new(Places::Indices);
        identity::People::of(config).check(config, &mut problems);
        problems.into_result()
    }

    /// Checks the sections of a push, each of which has been decoded from bytes of its digest.
    ///
    /// Beside everything that [`check`](Self::check) looks at, every section must hold what its name says, in the
    /// order that [`SectionName`] gives, and settings and listeners must be there. What applications, subscriptions, keys,
    /// users and revocations refer to is not looked for: there may be a million of them, and what refers to nothing opens
    /// nothing.
    ///
    /// Sections that are shared with `before`, which is sound, are not looked at by themselves once more; and if nothing but
    /// applications, subscriptions, keys, users and revocations is other than there, neither is the rest as a whole. So the
    /// cost of a changed key follows its bucket, and not the million keys beside it.
    pub fn from_sections(sections: Sections, before: Option<&Self>) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::new(Places::Names);
        for name in [SectionName::Settings, SectionName::Listeners] {
            if !sections.contains_key(&name) {
                problems.add(format_args!("/{name}"), format!("the section {name} is missing; it is always sent"));
            }
        }
        let was = |name: &SectionName| before.and_then(|before| before.sections.get(name)).map(|(_, section)| section);
        for (name, (_, section)) in &sections {
            if was(name).is_some_and(|before| Arc::ptr_eq(before, section)) {
                continue;
            }
            if let Err(problem) = section.belongs_in(*name) {
                problems.push(problem);
            }
        }
        problems.into_result()?;

        let snapshot = Self { sections };
        if before.is_some_and(|before| snapshot.has_frame_of(before)) {
            return Ok(snapshot);
        }
        let mut problems = Problems::new(Places::Names);
        let parts = Parts {
            settings: snapshot.settings(),
            certificates: snapshot.certificates().collect(),
            authorities: snapshot.authorities().iter().collect(),
            listeners: snapshot.listeners().iter().collect(),
            upstreams: snapshot.upstreams().collect(),
            apis: snapshot.apis().collect(),
            issuers: snapshot.issuers().iter().collect(),
            assertions: snapshot.assertions().iter().collect(),
            limits: limits::Limits::of_snapshot(&snapshot),
        };
        parts.check(&mut problems);
        problems.into_result()?;
        Ok(snapshot)
    }

    /// The section of this name, if it has this digest.
    pub fn held(&self, name: SectionName, digest: &Digest) -> Option<Arc<Section>> {
        self.sections.get(&name).filter(|(held, _)| held == digest).map(|(_, section)| Arc::clone(section))
    }

    /// The bytes of this digest, if a section of whatever name has them.
    pub fn bytes(&self, digest: &Digest) -> Option<Vec<u8>> {
        let (_, section) = self.sections.values().find(|(held, _)| held == digest)?;
        Some(section.encode()).filter(|bytes| Digest::of(bytes) == *digest)
    }

    /// Whether everything but people is shared with that snapshot.
    fn has_frame_of(&self, other: &Self) -> bool {
        // A shared section has one address.
        fn frame(snapshot: &Snapshot) -> impl Iterator<Item = (&SectionName, *const Section)> {
            let all = snapshot.sections.iter().filter(|(name, _)| !name.is_of_people());
            all.map(|(name, (_, section))| (name, Arc::as_ptr(section)))
        }
        frame(self).eq(frame(other))
    }

    /// What holds for the whole gateway.
    pub fn settings(&self) -> &Settings {
        match self.section(SectionName::Settings) {
            Some(Section::Settings(settings)) => settings,
            _ => unreachable!("a snapshot has settings"),
        }
    }

    /// Where clients connect, in the order of names.
    pub fn listeners(&self) -> &[Listener] {
        match self.section(SectionName::Listeners) {
            Some(Section::Listeners(listeners)) => listeners,
            _ => unreachable!("a snapshot has listeners"),
        }
    }

    /// The certificates with their keys.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.sections.values().flat_map(|(_, section)| match &**section {
            Section::Certificates(certificates) => certificates.as_slice(),
            _ => &[],
        })
    }

    /// Whom listeners and upstreams may trust, in the order of names.
    pub fn authorities(&self) -> &[Authorities] {
        match self.section(SectionName::Authorities) {
            Some(Section::Authorities(authorities)) => authorities,
            _ => &[],
        }
    }

    /// The named upstreams.
    pub fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.sections.values().flat_map(|(_, section)| match &**section {
            Section::Upstreams(upstreams) => upstreams.as_slice(),
            _ => &[],
        })
    }

    /// The published APIs.
    pub fn apis(&self) -> impl Iterator<Item = &Api> {
        self.sections.values().flat_map(|(_, section)| match &**section {
            Section::Apis(apis) => apis.as_slice(),
            _ => &[],
        })
    }

    /// The sections, decoded, with the digests of their bytes.
    pub fn sections(&self) -> &Sections {
        &self.sections
    }

    /// The sections' names and digests, in order.
    pub fn list(&self) -> SectionList {
        self.sections.iter().map(|(name, (digest, _))| (*name, *digest)).collect()
    }

    /// The digest of the whole: equal configurations, equal checksums.
    pub fn checksum(&self) -> Digest {
        section::checksum(&self.list())
    }

    /// The document that says the same, its entries in the order of their names.
    pub fn to_config(&self) -> Config {
        let mut config = Config {
            version: CONFIG_VERSION,
            settings: self.settings().clone(),
            certificates: self.certificates().cloned().collect(),
            authorities: self.authorities().to_vec(),
            listeners: self.listeners().to_vec(),
            upstreams: self.upstreams().cloned().collect(),
            apis: self.apis().cloned().collect(),
            applications: self.applications().cloned().collect(),
            subscriptions: self.subscriptions().cloned().collect(),
            keys: self.keys().cloned().collect(),
            users: self.users().cloned().collect(),
            revocations: self.revocations().cloned().collect(),
            issuers: self.issuers().to_vec(),
            assertions: self.assertions().to_vec(),
            plans: self.plans().to_vec(),
            limit_policies: self.limit_policies().to_vec(),
            limits: self.limits().to_vec(),
            denials: self.denials().to_vec(),
            token_endpoint: None,
        };
        section::sort(&mut config);
        config
    }

    /// The same with other sections in some places, or with none there: for families whose entries do not depend on each
    /// other, of which a few buckets have changed among many. What is given must be what its name says.
    pub fn with(
        &self,
        changes: impl IntoIterator<Item = (SectionName, Option<(Digest, Arc<Section>)>)>,
    ) -> Result<Self, Problem> {
        let mut sections = self.sections.clone();
        for (name, change) in changes {
            match change {
                Some((digest, section)) => {
                    section.belongs_in(name)?;
                    sections.insert(name, (digest, section));
                }
                None => {
                    sections.remove(&name);
                }
            }
        }
        Ok(Self { sections })
    }

    /// Of sections that were sound together, or do not depend on each other.
    pub(super) fn of_sound(sections: Sections) -> Self {
        Self { sections }
    }

    pub(super) fn section(&self, name: SectionName) -> Option<&Section> {
        self.sections.get(&name).map(|(_, section)| &**section)
    }
}

/// The whole configuration, borrowed from wherever it stands.
struct Parts<'a> {
    settings: &'a Settings,
    certificates: Vec<&'a Certificate>,
    authorities: Vec<&'a Authorities>,
    listeners: Vec<&'a Listener>,
    upstreams: Vec<&'a Upstream>,
    apis: Vec<&'a Api>,
    issuers: Vec<&'a Issuer>,
    assertions: Vec<&'a Assertion>,
    limits: limits::Limits<'a>,
}

/// What entries refer to by name.
#[derive(Default)]
struct Names<'a> {
    certificates: HashSet<&'a str>,
    authorities: HashSet<&'a str>,
    listeners: HashMap<&'a str, usize>,
    upstreams: HashSet<&'a str>,
    issuers: HashSet<&'a str>,
    assertions: HashSet<&'a str>,
    plans: limits::PlanNames<'a>,
    request_id_header: &'a str,
}

impl Parts<'_> {
    fn check(&self, problems: &mut Problems) {
        self.counts(problems);
        let names = Names {
            certificates: self.certificates.iter().map(|certificate| certificate.name.as_str()).collect(),
            authorities: self.authorities.iter().map(|authorities| authorities.name.as_str()).collect(),
            listeners: self.listeners.iter().enumerate().map(|(at, listener)| (listener.name.as_str(), at)).collect(),
            upstreams: self.upstreams.iter().map(|upstream| upstream.name.as_str()).collect(),
            issuers: self.issuers.iter().map(|issuer| issuer.name.as_str()).collect(),
            assertions: self.assertions.iter().map(|assertion| assertion.name.as_str()).collect(),
            plans: self.limits.names(),
            request_id_header: &self.settings.request_id_header,
        };
        entry::settings(self.settings, &names, problems);
        tls::material(&self.certificates, &self.authorities, problems);
        entry::listeners(&self.listeners, self.settings, &names, problems);
        entry::upstreams(&self.upstreams, &names, problems);
        identity::issuers(&self.issuers, &names, problems);
        identity::assertions(&self.assertions, &names, problems);
        self.limits.check(&self.apis, problems);
        api::apis(&self.apis, &names, problems);
        reach::clashes(&self.apis, &names, problems);
    }

    fn counts(&self, problems: &mut Problems) {
        for (family, count, ceiling) in [
            ("certificates", self.certificates.len(), CERTIFICATES_MAX),
            ("authorities", self.authorities.len(), AUTHORITIES_MAX),
            ("listeners", self.listeners.len(), LISTENERS_MAX),
            ("upstreams", self.upstreams.len(), UPSTREAMS_MAX),
            ("apis", self.apis.len(), APIS_MAX),
            ("issuers", self.issuers.len(), ISSUERS_MAX),
            ("assertions", self.assertions.len(), ASSERTIONS_MAX),
        ] {
            problems.ceiling(format_args!("/{family}"), family, count, ceiling);
        }
    }
}

/// How entries are named in places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Places {
    /// By their index in the document.
    Indices,
    /// By their names; a push has no document.
    Names,
}

/// One entry's place, made into text only when something is wrong there.
#[derive(Clone, Copy)]
struct Spot<'a> {
    places: Places,
    family: &'static str,
    index: usize,
    label: (&'a str, &'a str),
}

impl fmt::Display for Spot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.family)?;
        match self.places {
            Places::Indices => write!(f, "{}", self.index),
            Places::Names => {
                let label = Label(self.label.0, self.label.1).to_string();
                f.write_str(&label.replace('~', "~0").replace('/', "~1"))
            }
        }
    }
}

/// Everything that is wrong, up to [`PROBLEMS_MAX`]; what is beyond is counted.
struct Problems {
    places: Places,
    found: Vec<Problem>,
    beyond: usize,
}

impl Problems {
    fn new(places: Places) -> Self {
        Self { places, found: Vec::new(), beyond: 0 }
    }

    fn spot<'a>(&self, family: &'static str, index: usize, name: &'a str, version: &'a str) -> Spot<'a> {
        Spot { places: self.places, family, index, label: (name, version) }
    }

    fn add(&mut self, place: impl fmt::Display, message: impl Into<String>) {
        self.push(Problem { place: place.to_string(), message: message.into() });
    }

    fn add_if(&mut self, place: impl fmt::Display, problem: Option<String>) {
        if let Some(message) = problem {
            self.add(place, message);
        }
    }

    fn push(&mut self, problem: Problem) {
        if self.found.len() < PROBLEMS_MAX {
            self.found.push(problem);
        } else {
            self.beyond += 1;
        }
    }

    /// At most so many of something.
    fn ceiling(&mut self, place: impl fmt::Display, what: &str, count: usize, ceiling: usize) {
        if count > ceiling {
            self.add(place, format!("there are {count} {what}; at most {ceiling} are allowed"));
        }
    }

    /// A duration within its bounds; `floor_ms` is 1 where zero would not mean "off".
    fn duration(&mut self, place: impl fmt::Display, duration: super::Duration, floor_ms: u64) {
        self.duration_up_to(place, duration, floor_ms, DURATION_MS_MAX);
    }

    fn duration_up_to(&mut self, place: impl fmt::Display, duration: super::Duration, floor_ms: u64, ceiling_ms: u64) {
        if duration.as_ms() < floor_ms {
            self.add(place, "this must be longer than 0");
        } else if duration.as_ms() > ceiling_ms {
            let ceiling = super::Duration::from_ms(ceiling_ms);
            self.add(place, format!("{duration} is too long; at most {ceiling} is allowed"));
        }
    }

    fn into_result(mut self) -> Result<(), Vec<Problem>> {
        if self.beyond > 0 {
            let message = format!("there are {} more problems; correct these first", self.beyond);
            self.found.push(Problem { place: String::new(), message });
        }
        if self.found.is_empty() { Ok(()) } else { Err(self.found) }
    }
}

#[cfg(test)]
mod tests;
