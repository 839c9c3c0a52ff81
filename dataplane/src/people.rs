//! Look-ups that a snapshot's sections do not answer by themselves: which application an OAuth2 client is of, and which
//! user a certificate's subject is.
//!
//! Built with the tables, and shared between generations in which those sections are the same.

use std::collections::HashMap;
use std::sync::Arc;

use proto::snapshot::{Digest, Environment, SectionName, Snapshot};

/// Clients and subjects of one generation.
#[derive(Debug, Default)]
pub struct People {
    clients: Arc<HashMap<Box<str>, Client>>,
    subjects: Arc<HashMap<Box<str>, Box<str>>>,
}

/// Whose an OAuth2 client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The application's name.
    pub application: Box<str>,
    /// The key type of its tokens, where they do not say.
    pub environment: Environment,
}

impl People {
    /// Of a snapshot, and of the one before it with what was built of that.
    pub fn build(snapshot: &Snapshot, previous: Option<(&Snapshot, &Self)>) -> Self {
        let held = |family: fn(u8) -> SectionName| {
            previous
                .filter(|(before, _)| digests(before, family).eq(digests(snapshot, family)))
                .map(|(_, people)| people)
        };
        let clients =
            held(SectionName::Applications).map_or_else(|| Arc::new(clients(snapshot)), |one| one.clients.clone());
        let subjects =
            held(SectionName::Users).map_or_else(|| Arc::new(subjects(snapshot)), |one| one.subjects.clone());
        Self { clients, subjects }
    }

    /// The application of an OAuth2 client.
    pub fn client(&self, id: &str) -> Option<&Client> {
        self.clients.get(id)
    }

    /// The user whose certificates have this subject.
    pub fn user_by_subject(&self, subject: &str) -> Option<&str> {
        self.subjects.get(subject).map(|name| &**name)
    }
}

fn digests(snapshot: &Snapshot, family: fn(u8) -> SectionName) -> impl Iterator<Item = (&SectionName, &Digest)> {
    snapshot.sections().range(family(0)..=family(u8::MAX)).map(|(name, (digest, _))| (name, digest))
}

fn clients(snapshot: &Snapshot) -> HashMap<Box<str>, Client> {
    let all = snapshot.applications().flat_map(|application| {
        let of = |client: &proto::snapshot::OAuthClient| {
            let environment = client.environment;
            (client.id.as_str().into(), Client { application: application.name.as_str().into(), environment })
        };
        application.clients.iter().map(of)
    });
    all.collect()
}

fn subjects(snapshot: &Snapshot) -> HashMap<Box<str>, Box<str>> {
    let all = snapshot.users().flat_map(|user| user.certificates.iter().map(|one| (one, &user.name)));
    all.map(|(subject, name)| (subject.as_str().into(), name.as_str().into())).collect()
}
