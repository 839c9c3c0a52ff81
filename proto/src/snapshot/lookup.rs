//! Looking one entry of a family up in a snapshot: its bucket, then a binary search. Nothing is built for it.

use super::section::{bucket, bucket_of};
use super::{
    Api, ApiKey, Application, Assertion, Denial, Issuer, KeyedLimit, LimitPolicy, Plan, Revocation, RevokedKind,
    SecretHash, Section, SectionName, Snapshot, Subscription, User,
};

impl Snapshot {
    /// An API version by its label: `name` or `name:version`.
    pub fn api(&self, label: &str) -> Option<&Api> {
        let (name, version) = label.split_once(':').unwrap_or((label, ""));
        let Some(Section::Apis(all)) = self.section(SectionName::Apis(bucket(name))) else { return None };
        let found = all.binary_search_by(|one| (one.name.as_str(), one.version.as_str()).cmp(&(name, version)));
        found.ok().map(|at| &all[at])
    }

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

    /// The plans, in the order of their names.
    pub fn plans(&self) -> &[Plan] {
        match self.section(SectionName::Plans) {
            Some(Section::Plans(all)) => all,
            _ => &[],
        }
    }

    /// Whether there is a plan of this name, here or among those that the gateway brings.
    pub fn has_plan(&self, name: &str) -> bool {
        self.plans().binary_search_by(|plan| plan.name.as_str().cmp(name)).is_ok()
            || Plan::built_in().any(|plan| plan.name == name)
    }

    /// The policies of limits, in the order of their names.
    pub fn limit_policies(&self) -> &[LimitPolicy] {
        match self.section(SectionName::LimitPolicies) {
            Some(Section::LimitPolicies(all)) => all,
            _ => &[],
        }
    }

    /// The limits by keys, in the order of their names.
    pub fn limits(&self) -> &[KeyedLimit] {
        match self.section(SectionName::Limits) {
            Some(Section::Limits(all)) => all,
            _ => &[],
        }
    }

    /// The denials, in the order of their names.
    pub fn denials(&self) -> &[Denial] {
        match self.section(SectionName::Denials) {
            Some(Section::Denials(all)) => all,
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Api, Config, Digest, Listener, OAuthClient, OWN_ISSUER, Target};
    use super::*;

    const MANY: usize = 2_000;

    fn config() -> Config {
        let application = |at: usize| Application {
            name: format!("app-{at}"),
            owner: String::new(),
            enabled: true,
            clients: vec![OAuthClient {
                id: format!("client-{at}"),
                secret: Some(SecretHash::of("client's")),
                issuer: String::new(),
                environment: Default::default(),
                grants: Vec::new(),
                scopes: Vec::new(),
            }],
            ..Application::new("")
        };
        let subscription = |at: usize| Subscription {
            application: format!("app-{at}"),
            api: "chat".into(),
            plan: super::super::UNLIMITED_PLAN.into(),
            enabled: true,
        };
        let key = |at: usize| ApiKey {
            name: format!("key-{at}").into(),
            application: format!("app-{at}").into(),
            sha256: SecretHash::of(&format!("secret-{at}")),
            user: None,
            environment: Default::default(),
            enabled: true,
            created: None,
            expires: None,
            restrictions: None,
        };
        let user = |at: usize| User {
            name: format!("user-{at}"),
            password: None,
            certificates: Vec::new(),
            application: None,
            environment: Default::default(),
            scopes: Vec::new(),
            enabled: true,
        };
        let revocation = |at: usize| Revocation {
            revoked: format!("user:user-{at}").parse().unwrap(),
            issued_before: None,
            expires: None,
            reason: String::new(),
        };
        Config {
            version: 1,
            listeners: vec![Listener::new("public", "0.0.0.0:80".parse().unwrap())],
            apis: vec![Api::new("chat", "", "/chat", Target::Url("ws://a/".parse().unwrap()))],
            applications: (0..MANY).map(application).collect(),
            subscriptions: (0..MANY).map(subscription).collect(),
            keys: (0..MANY).map(key).collect(),
            users: (0..MANY).map(user).collect(),
            revocations: (0..MANY).map(revocation).collect(),
            ..Config::default()
        }
    }

    #[test]
    fn every_entry_is_found_where_it_belongs_and_no_other_is() {
        let snapshot = Snapshot::check(config()).unwrap();
        assert!(snapshot.has_revocations());
        for at in 0..MANY {
            assert_eq!(snapshot.application(&format!("app-{at}")).unwrap().name, format!("app-{at}"));
            assert_eq!(snapshot.subscription(&format!("app-{at}"), "chat").unwrap().application, format!("app-{at}"));
            assert_eq!(&*snapshot.key(&SecretHash::of(&format!("secret-{at}"))).unwrap().name, format!("key-{at}"));
            assert_eq!(snapshot.user(&format!("user-{at}")).unwrap().name, format!("user-{at}"));
            assert!(snapshot.revocation(RevokedKind::User, &format!("user-{at}")).is_some());
            assert!(snapshot.revocation(RevokedKind::Key, &format!("user-{at}")).is_none());
            assert!(snapshot.user(&format!("other-{at}")).is_none());
            assert!(snapshot.subscription(&format!("app-{at}"), "other").is_none());
        }
        assert!(snapshot.key(&SecretHash::of("other")).is_none());
    }

    #[test]
    fn the_secrets_of_clients_stay_with_the_control_plane() {
        let snapshot = Snapshot::check(config()).unwrap();
        let mut clients = snapshot.applications().flat_map(|one| &one.clients);
        assert!(clients.all(|client| client.secret.is_none() && client.issuer == OWN_ISSUER));
    }

    #[test]
    fn a_bucket_is_replaced_and_the_others_are_shared() {
        let before = Snapshot::check(config()).unwrap();
        let hash = SecretHash::of("secret-7");
        let name = SectionName::Keys(hash.0[0]);
        let (_, section) = &before.sections()[&name];
        let Section::Keys(keys) = &**section else { panic!("keys are keys") };
        let keys: Vec<_> = keys.iter().filter(|key| key.sha256 != hash).cloned().collect();
        let changed = Section::Keys(keys);
        let digest = Digest::of(&changed.encode());
        let after = before.with([(name, Some((digest, Arc::new(changed.clone()))))]).unwrap();
        assert!(before.key(&hash).is_some() && after.key(&hash).is_none());
        assert!(after.key(&SecretHash::of("secret-8")).is_some());
        let without = after.with([(name, None)]).unwrap();
        assert_eq!(without.sections().len() + 1, after.sections().len());
        let elsewhere = SectionName::Keys(hash.0[0].wrapping_add(1));
        assert!(before.with([(elsewhere, Some((digest, Arc::new(changed))))]).is_err());
    }
}
