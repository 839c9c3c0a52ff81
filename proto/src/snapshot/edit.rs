//! Changing a few entries of the families of identity without building everything anew.
//!
//! An edit touches the buckets of its entries and leaves all others as they are, digests included. Whether the entries
//! are sound together is asked before, of [`Snapshot::check_identity`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::section::{bucket, bucket_of, without_secrets};
use super::{
    ApiKey, Application, Digest, Problem, Revocation, Revoked, SecretHash, Section, SectionName, Snapshot,
    Subscription, User,
};

/// One entry put in its place, or taken from there. Putting replaces the entry of the same name, hash or subject.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Puts an application.
    Application(Application),
    /// Puts a subscription.
    Subscription(Subscription),
    /// Puts a key. One of the same name with another hash is not touched.
    Key(ApiKey),
    /// Puts a user.
    User(User),
    /// Puts a revocation.
    Revocation(Revocation),
    /// Takes the application of this name away.
    NoApplication(String),
    /// Takes the subscription of this application to this API away.
    NoSubscription(String, String),
    /// Takes the key of this hash away.
    NoKey(SecretHash),
    /// Takes the user of this name away.
    NoUser(String),
    /// Takes the revocation of this subject away.
    NoRevocation(Revoked),
}

impl Edit {
    /// The section that it changes.
    fn section(&self) -> SectionName {
        match self {
            Self::Application(Application { name, .. }) | Self::NoApplication(name) => {
                SectionName::Applications(bucket(name))
            }
            Self::Subscription(Subscription { application, .. }) | Self::NoSubscription(application, _) => {
                SectionName::Subscriptions(bucket(application))
            }
            Self::Key(ApiKey { sha256, .. }) | Self::NoKey(sha256) => SectionName::Keys(sha256.0[0]),
            Self::User(User { name, .. }) | Self::NoUser(name) => SectionName::Users(bucket(name)),
            Self::Revocation(Revocation { revoked, .. }) | Self::NoRevocation(revoked) => {
                SectionName::Revocations(bucket_of(revoked.subject.as_bytes()))
            }
        }
    }

    fn apply(self, section: &mut Section) {
        match (self, section) {
            (Self::Application(one), Section::Applications(all)) => {
                put(all, without_secrets(one), |a, b| a.name.cmp(&b.name));
            }
            (Self::Subscription(one), Section::Subscriptions(all)) => {
                put(all, one, |a, b| (&a.application, &a.api).cmp(&(&b.application, &b.api)));
            }
            (Self::Key(one), Section::Keys(all)) => put(all, one, |a, b| a.sha256.cmp(&b.sha256)),
            (Self::User(one), Section::Users(all)) => put(all, one, |a, b| a.name.cmp(&b.name)),
            (Self::Revocation(one), Section::Revocations(all)) => put(all, one, |a, b| a.revoked.cmp(&b.revoked)),
            (Self::NoApplication(name), Section::Applications(all)) => all.retain(|one| one.name != name),
            (Self::NoSubscription(application, api), Section::Subscriptions(all)) => {
                all.retain(|one| (&one.application, &one.api) != (&application, &api));
            }
            (Self::NoKey(hash), Section::Keys(all)) => all.retain(|one| one.sha256 != hash),
            (Self::NoUser(name), Section::Users(all)) => all.retain(|one| one.name != name),
            (Self::NoRevocation(revoked), Section::Revocations(all)) => all.retain(|one| one.revoked != revoked),
            _ => unreachable!("an edit is applied to the section that it names"),
        }
    }
}

impl Snapshot {
    /// The same with these entries in place, in order. Costs a copy, an encoding and a digest of each bucket touched.
    pub fn edited(&self, edits: impl IntoIterator<Item = Edit>) -> Result<Self, Problem> {
        let mut touched: BTreeMap<SectionName, Section> = BTreeMap::new();
        for edit in edits {
            let name = edit.section();
            let present = || self.section(name).cloned().unwrap_or_else(|| empty(name));
            edit.apply(touched.entry(name).or_insert_with(present));
        }
        self.with(touched.into_iter().map(|(name, section)| {
            let is_empty = section == empty(name);
            (name, (!is_empty).then(|| (Digest::of(&section.encode()), Arc::new(section))))
        }))
    }

    /// The same with the families of identity of another snapshot in place of its own.
    pub fn with_people_of(&self, other: &Self) -> Self {
        let ours = self.sections().iter().filter(|(name, _)| !name.is_of_people());
        let theirs = other.sections().iter().filter(|(name, _)| name.is_of_people());
        // Each is in its place in a snapshot that is sound: a million keys need not be looked at again.
        Self::of_sound(ours.chain(theirs).map(|(name, entry)| (*name, entry.clone())).collect())
    }

    /// Whether both have the same applications, subscriptions, keys, users and revocations.
    pub fn has_people_of(&self, other: &Self) -> bool {
        fn people(one: &Snapshot) -> impl Iterator<Item = (SectionName, Digest)> {
            let all = one.sections().iter().filter(|(name, _)| name.is_of_people());
            all.map(|(name, (digest, _))| (*name, *digest))
        }
        people(self).eq(people(other))
    }
}

fn put<T>(all: &mut Vec<T>, one: T, order: impl Fn(&T, &T) -> std::cmp::Ordering) {
    match all.binary_search_by(|other| order(other, &one)) {
        Ok(at) => all[at] = one,
        Err(at) => all.insert(at, one),
    }
}

fn empty(name: SectionName) -> Section {
    match name {
        SectionName::Applications(_) => Section::Applications(Vec::new()),
        SectionName::Subscriptions(_) => Section::Subscriptions(Vec::new()),
        SectionName::Keys(_) => Section::Keys(Vec::new()),
        SectionName::Users(_) => Section::Users(Vec::new()),
        SectionName::Revocations(_) => Section::Revocations(Vec::new()),
        _ => unreachable!("an edit names a section of people"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Config, Listener, OAuthClient};

    fn key(name: &str) -> ApiKey {
        ApiKey {
            name: name.into(),
            application: "mobile".into(),
            sha256: SecretHash::of(name),
            user: None,
            environment: Default::default(),
            enabled: true,
            created: None,
            expires: None,
            restrictions: None,
        }
    }

    fn application(name: &str) -> Application {
        let client = OAuthClient {
            id: format!("{name}-client"),
            secret: Some(SecretHash::of(name)),
            issuer: String::new(),
            environment: Default::default(),
            grants: Vec::new(),
            scopes: Vec::new(),
        };
        Application {
            name: name.into(),
            owner: String::new(),
            enabled: true,
            clients: vec![client],
            ..Application::new("")
        }
    }

    fn revocation(subject: &str) -> Revocation {
        let revoked = subject.parse().unwrap();
        Revocation { revoked, issued_before: None, expires: None, reason: String::new() }
    }

    fn config(keys: usize) -> Config {
        Config {
            version: 1,
            listeners: vec![Listener::new("public", "0.0.0.0:8080".parse().unwrap())],
            applications: vec![application("mobile")],
            keys: (0..keys).map(|at| key(&format!("k{at}"))).collect(),
            revocations: vec![revocation("user:alice")],
            ..Config::default()
        }
    }

    #[test]
    fn an_edited_snapshot_is_what_checking_the_edited_document_gives() {
        let before = Snapshot::check(config(1000)).unwrap();
        let mut after = config(1001);
        after.keys.remove(3);
        after.keys[7].enabled = false;
        after.applications.push(application("kiosk"));
        after.revocations = vec![revocation("application:kiosk")];
        let edits = vec![
            Edit::NoKey(SecretHash::of("k3")),
            Edit::Key(after.keys[7].clone()),
            Edit::Key(key("k1000")),
            Edit::Application(application("kiosk")),
            Edit::NoRevocation("user:alice".parse().unwrap()),
            Edit::Revocation(revocation("application:kiosk")),
            Edit::NoUser("nobody".into()),
            Edit::NoSubscription("mobile".into(), "nothing".into()),
        ];
        let edited = before.edited(edits).unwrap();
        assert_eq!(edited.list(), Snapshot::check(after).unwrap().list());
        let untouched = edited.list().into_iter().filter(|entry| before.list().contains(entry)).count();
        assert!(untouched > 240, "{untouched} sections are as they were");
    }

    #[test]
    fn the_secret_of_a_client_is_in_no_section() {
        let snapshot = Snapshot::check(config(0)).unwrap().edited([Edit::Application(application("kiosk"))]).unwrap();
        assert_eq!(snapshot.applications().count(), 2);
        assert!(snapshot.applications().flat_map(|one| &one.clients).all(|client| client.secret.is_none()));
    }

    #[test]
    fn people_move_from_one_snapshot_to_another() {
        let (some, none) = (Snapshot::check(config(10)).unwrap(), Snapshot::check(config(0)).unwrap());
        assert!(!none.has_people_of(&some));
        let moved = none.with_people_of(&some);
        assert!(moved.has_people_of(&some));
        assert_eq!(moved.list(), some.list());
        assert_eq!(some.with_people_of(&none).list(), none.list());
    }
}
