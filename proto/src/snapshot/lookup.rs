//! Looking one entry of a family up in a snapshot: its bucket, then a binary search. Nothing is built for it.

use super::section::{bucket, bucket_of};
use super::{
    ApiKey, Application, Assertion, Issuer, Revocation, RevokedKind, SecretHash, Section, SectionName, Snapshot,
    Subscription, User,
};

impl Snapshot {
    /// An application by its name.
    pub fn application(&self, name: &str) -> Option<&Application> {
        let Some(Section::Applications(all)) = self.section(SectionName::Applications(bucket(name))) else {
            return None;
        };
        all.binary_search_by(|one| one.name.as_str().cmp(name)).ok().map(|at| &all[at])
    }

    /// An application's subscription to an API, by `name` or `name:version`.
    pub fn subscription(&self, application: &str, api: &str) -> Option<&Subscription> {
        let name = SectionName::Subscriptions(bucket(application));
        let Some(Section::Subscriptions(all)) = self.section(name) else { return None };
        let found = all.binary_search_by(|one| (one.application.as_str(), one.api.as_str()).cmp(&(application, api)));
        found.ok().map(|at| &all[at])
    }

    /// An API key by its hash.
    pub fn key(&self, hash: &SecretHash) -> Option<&ApiKey> {
        let Some(Section::Keys(all)) = self.section(SectionName::Keys(hash.0[0])) else { return None };
        all.binary_search_by(|one| one.sha256.cmp(hash)).ok().map(|at| &all[at])
    }

    /// A user by name.
    pub fn user(&self, name: &str) -> Option<&User> {
        let Some(Section::Users(all)) = self.section(SectionName::Users(bucket(name))) else { return None };
        all.binary_search_by(|one| one.name.as_str().cmp(name)).ok().map(|at| &all[at])
    }

    /// A revocation by what it names.
    pub fn revocation(&self, kind: RevokedKind, subject: &str) -> Option<&Revocation> {
        let name = SectionName::Revocations(bucket_of(subject.as_bytes()));
        let Some(Section::Revocations(all)) = self.section(name) else { return None };
        let wanted = (kind.word(), subject);
        let found = all.binary_search_by(|one| (one.revoked.kind.word(), &*one.revoked.subject).cmp(&wanted));
        found.ok().map(|at| &all[at])
    }

    /// Whether anything is revoked.
    pub fn has_revocations(&self) -> bool {
        let every = SectionName::Revocations(0)..=SectionName::Revocations(u8::MAX);
        self.sections().range(every).next().is_some()
    }

    /// The issuers, in the order of their names.
    pub fn issuers(&self) -> &[Issuer] {
        match self.section(SectionName::Issuers) {
            Some(Section::Issuers(all)) => all,
            _ => &[],
        }
    }

    /// The assertions, in the order of their names.
    pub fn assertions(&self) -> &[Assertion] {
        match self.section(SectionName::Assertions) {
            Some(Section::Assertions(all)) => all,
            _ => &[],
        }
    }

    /// The applications.
    pub fn applications(&self) -> impl Iterator<Item = &Application> {
        self.sections().values().flat_map(|(_, section)| match &**section {
            Section::Applications(all) => all.as_slice(),
            _ => &[],
        })
    }

    /// The subscriptions.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        self.sections().values().flat_map(|(_, section)| match &**section {
            Section::Subscriptions(all) => all.as_slice(),
            _ => &[],
        })
    }

    /// The API keys.
    pub fn keys(&self) -> impl Iterator<Item = &ApiKey> {
        self.sections().values().flat_map(|(_, section)| match &**section {
            Section::Keys(all) => all.as_slice(),
            _ => &[],
        })
    }

    /// The users.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.sections().values().flat_map(|(_, section)| match &**section {
            Section::Users(all) => all.as_slice(),
            _ => &[],
        })
    }

    /// The revocations.
    pub fn revocations(&self) -> impl Iterator<Item = &Revocation> {
        self.sections().values().flat_map(|(_, section)| match &**section {
            Section::Revocations(all) => all.as_slice(),
            _ => &[],
        })
    }
}
