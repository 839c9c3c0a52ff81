//! Look-ups that a snapshot's sections do not answer by themselves: which application an OAuth2 client is of, and which
//! user a certificate's subject is.
//!
//! Built with the tables, and shared between generations in which those sections are the same.

use std::collections::HashMap;
use std::sync::Arc;

use proto::snapshot::{Digest, Environment, OWN_ISSUER, SectionName, Snapshot};

use crate::identity::Fault;

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
    /// The name of the issuer whose tokens may be this client's; empty: any but the gateway's own.
    issuer: Box<str>,
}

impl Client {
    fn is_of(&self, issuer: &str) -> bool {
        if self.issuer.is_empty() { issuer != OWN_ISSUER } else { *self.issuer == *issuer }
    }
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

    /// The OAuth2 client that a token of this issuer names: none, if it is not known here. No issuer speaks for the
    /// client of another, and the gateway knows all of its own.
    pub fn client(&self, id: &str, issuer: &str) -> Result<Option<&Client>, Fault> {
        match self.clients.get(id) {
            Some(client) if client.is_of(issuer) => Ok(Some(client)),
            Some(_) => Err(Fault::Issuer),
            None if issuer == OWN_ISSUER => Err(Fault::Unknown),
            None => Ok(None),
        }
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
            let (application, issuer) = (application.name.as_str().into(), client.issuer.as_str().into());
            (client.id.as_str().into(), Client { application, environment: client.environment, issuer })
        };
        application.clients.iter().map(of)
    });
    all.collect()
}

fn subjects(snapshot: &Snapshot) -> HashMap<Box<str>, Box<str>> {
    let all = snapshot.users().flat_map(|user| user.certificates.iter().map(|one| (one, &user.name)));
    all.map(|(subject, name)| (subject.as_str().into(), name.as_str().into())).collect()
}
