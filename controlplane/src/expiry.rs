//! How long the certificates of a snapshot will last, who uses them, and whom to warn.
//!
//! Plain functions of a snapshot and a time; when somebody asks, and where it is said, is decided elsewhere.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use proto::snapshot::{Pem, Snapshot};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::answer::{AuthoritiesStanding, CertificateStanding};
use crate::material::certificate::{certificates, name, names, not_after};
use crate::material::{Moment, within};

/// Every certificate of the snapshot, in the order of names.
pub fn certificate_standings(snapshot: &Snapshot, now: SystemTime) -> Vec<CertificateStanding> {
    let mut users = users_of_certificates(snapshot);
    let standing = |one: &proto::snapshot::Certificate| {
        let chain = contents(&one.chain);
        let chain: Vec<_> = chain.iter().filter_map(|bytes| parsed(bytes)).collect();
        let leaf = chain.first()?;
        let end = chain.iter().map(not_after).min()?;
        Some(CertificateStanding {
            name: one.name.clone(),
            server_names: names(leaf),
            subject: name(leaf.subject()),
            issuer: name(leaf.issuer()),
            not_after: Moment(end).to_string(),
            days_left: days(now, end),
            used_by: users.remove(one.name.as_str()).unwrap_or_default(),
        })
    };
    let mut standings: Vec<_> = snapshot.certificates().filter_map(standing).collect();
    standings.sort_by(|one, other| one.name.cmp(&other.name));
    standings
}

/// Every group of authorities of the snapshot, in the order of names.
pub fn authorities_standings(snapshot: &Snapshot, now: SystemTime) -> Vec<AuthoritiesStanding> {
    let mut users = users_of_authorities(snapshot);
    let standing = |one: &proto::snapshot::Authorities| {
        let contents = contents(&one.certificates);
        let all: Vec<_> = contents.iter().filter_map(|bytes| parsed(bytes)).collect();
        let first = all.iter().min_by_key(|certificate| not_after(certificate))?;
        Some(AuthoritiesStanding {
            name: one.name.clone(),
            certificates: all.len() as u64,
            revocation_lists: one.revocations.len() as u64,
            first_to_end: name(first.subject()),
            not_after: Moment(not_after(first)).to_string(),
            days_left: days(now, not_after(first)),
            used_by: users.remove(one.name.as_str()).unwrap_or_default(),
        })
    };
    snapshot.authorities().iter().filter_map(standing).collect()
}

/// One sentence for each certificate that has run out, or will within the time that the settings say.
pub fn warnings(snapshot: &Snapshot, now: SystemTime) -> Vec<String> {
    let limit = Duration::from_millis(snapshot.settings().certificate_expiry_warning.as_ms());
    if limit.is_zero() {
        return Vec::new();
    }
    let certificates = snapshot.certificates().map(|one| (format!("certificate {:?}", one.name), &one.chain));
    let authorities = snapshot.authorities().iter();
    let authorities = authorities.map(|one| (format!("authorities {:?}", one.name), &one.certificates));
    let mut sentences = Vec::new();
    for (owner, pem) in certificates.chain(authorities) {
        for bytes in contents(pem) {
            let Some(certificate) = parsed(&bytes) else { continue };
            let (subject, end) = (name(certificate.subject()), not_after(&certificate));
            if end < now {
                sentences.push(format!("{owner}: {subject} ran out at {}", Moment(end)));
            } else if let Some(days) = within(now, end, limit) {
                sentences.push(format!("{owner}: {subject} runs out at {}, {days}", Moment(end)));
            }
        }
    }
    sentences.sort();
    sentences
}

/// Whose the first certificate of a content is, and until when.
pub fn first(pem: &Pem) -> Option<String> {
    let contents = contents(pem);
    let first = parsed(contents.first()?)?;
    Some(format!("{} until {}", name(first.subject()), Moment(not_after(&first))))
}

/// `listener NAME` and `upstream NAME`, by what they name.
type Users<'s> = HashMap<&'s str, Vec<String>>;

fn users_of_certificates(snapshot: &Snapshot) -> Users<'_> {
    let shown = snapshot.listeners().iter().filter_map(|listener| Some((listener, listener.tls.as_ref()?)));
    let shown = shown.flat_map(|(listener, tls)| tls.certificates.iter().map(move |name| (name.as_str(), listener)));
    let shown = shown.map(|(name, listener)| (name, format!("listener {}", listener.name)));
    let used = snapshot.upstreams().filter_map(|one| Some((one.tls.certificate.as_deref()?, one)));
    gathered(shown.chain(used.map(|(name, one)| (name, format!("upstream {}", one.name)))))
}

fn users_of_authorities(snapshot: &Snapshot) -> Users<'_> {
    let asking = snapshot.listeners().iter().filter_map(|listener| {
        let name = listener.tls.as_ref()?.client_certificates.authorities.as_deref()?;
        Some((name, format!("listener {}", listener.name)))
    });
    let used = snapshot.upstreams().filter_map(|one| Some((one.tls.authorities.as_deref()?, one)));
    gathered(asking.chain(used.map(|(name, one)| (name, format!("upstream {}", one.name)))))
}

fn gathered<'s>(pairs: impl Iterator<Item = (&'s str, String)>) -> Users<'s> {
    let mut users = Users::new();
    for (name, user) in pairs {
        users.entry(name).or_default().push(user);
    }
    users
}

fn contents(pem: &Pem) -> Vec<Vec<u8>> {
    pem.text().and_then(|text| certificates(text.as_bytes()).ok()).unwrap_or_default()
}

fn parsed(bytes: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(bytes).ok().map(|(_, certificate)| certificate)
}

/// Whole days from now on; negative once it has passed.
fn days(now: SystemTime, end: SystemTime) -> i64 {
    let days = |duration: Duration| i64::try_from(duration.as_secs() / 86_400).unwrap_or(i64::MAX);
    match end.duration_since(now) {
        Ok(left) => days(left),
        Err(error) => -1 - days(error.duration()),
    }
}
