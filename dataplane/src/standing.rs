//! Whether what a credential granted still stands: asked at the handshake, and of live sessions whenever something has
//! changed that says who may come in.
//!
//! A plain function of the tables and the time. It looks a handful of names up and allocates at most two short texts.

use proto::snapshot::{Revocation, RevokedKind, Snapshot, WhenUnreachable};

use crate::identity::{Fault, Grant, Proof};
use crate::tables::{ApiEntry, Tables};

/// A moment of a session, seconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    /// Now.
    pub now_s: u64,
    /// When the session's handshake was, which for a handshake is now.
    pub admitted_s: u64,
}

impl Moments {
    /// Of a handshake.
    pub const fn now(now_s: u64) -> Self {
        Self { now_s, admitted_s: now_s }
    }
}

/// Whether these tables let a grant use an API, which is the entry that the session was admitted under.
pub fn check(tables: &Tables, api: &ApiEntry, grant: &Grant, moments: Moments) -> Result<(), Fault> {
    if moments.now_s.saturating_mul(1000) >= grant.expires_ms {
        return Err(Fault::Expired);
    }
    if grant.word.is_withdrawn() {
        return Err(Fault::Revoked);
    }
    if grant.word.is_silent() && api.api.authentication.when_unreachable == WhenUnreachable::Close {
        return Err(Fault::Unavailable);
    }
    let snapshot = tables.snapshot();
    proof(tables, grant)?;
    user(snapshot, grant)?;
    application(tables, api, grant)?;
    if snapshot.has_revocations() && is_revoked(snapshot, api, grant, moments) {
        return Err(Fault::Revoked);
    }
    Ok(())
}

fn proof(tables: &Tables, grant: &Grant) -> Result<(), Fault> {
    match &grant.proof {
        Proof::Key(hash) => {
            let key = tables.snapshot().key(hash).ok_or(Fault::Unknown)?;
            let is_same = grant.application.as_deref() == Some(&*key.application);
            if !is_same {
                Err(Fault::Unknown)
            } else if !key.enabled {
                Err(Fault::Disabled)
            } else {
                Ok(())
            }
        }
        Proof::Token { issuer, .. } | Proof::Opaque { issuer, .. } => {
            let is_known = tables.snapshot().issuers().iter().any(|one| *one.name == **issuer);
            if is_known { Ok(()) } else { Err(Fault::Issuer) }
        }
        Proof::Password | Proof::Certificate => {
            let user = grant.user.as_deref().and_then(|name| tables.snapshot().user(name));
            user.map(|_| ()).ok_or(Fault::Unknown)
        }
    }
}

/// An issuer's users need not be known here; those that are can be switched off.
fn user(snapshot: &Snapshot, grant: &Grant) -> Result<(), Fault> {
    let known = grant.user.as_deref().and_then(|name| snapshot.user(name));
    if known.is_some_and(|user| !user.enabled) { Err(Fault::Disabled) } else { Ok(()) }
}

fn application(tables: &Tables, api: &ApiEntry, grant: &Grant) -> Result<(), Fault> {
    if let Some(client) = &grant.client {
        let of = tables.people().client(client).map(|client| &*client.application);
        if of != grant.application.as_deref() {
            return Err(Fault::Unknown);
        }
    }
    let snapshot = tables.snapshot();
    if let Some(name) = grant.application.as_deref() {
        match snapshot.application(name) {
            None => return Err(Fault::Unknown),
            Some(application) if !application.enabled => return Err(Fault::Disabled),
            Some(_) => {}
        }
    }
    if !api.api.authentication.require_subscription {
        return Ok(());
    }
    let subscription = grant.application.as_deref().and_then(|name| snapshot.subscription(name, &api.label));
    if subscription.is_some_and(|one| one.enabled) { Ok(()) } else { Err(Fault::NotSubscribed) }
}

fn is_revoked(snapshot: &Snapshot, api: &ApiEntry, grant: &Grant, moments: Moments) -> bool {
    let issued_s = grant.issued_s.unwrap_or(moments.admitted_s);
    let hits = |kind, subject: &str| snapshot.revocation(kind, subject).is_some_and(|one| applies(one, issued_s));
    let by_name = |kind, name: &Option<Box<str>>| name.as_deref().is_some_and(|name| hits(kind, name));
    let by_proof = match &grant.proof {
        Proof::Token { id, .. } => by_name(RevokedKind::Token, id),
        Proof::Opaque { hash, .. } => hits(RevokedKind::Opaque, &hash.to_string()),
        Proof::Key(hash) => snapshot.key(hash).is_some_and(|key| hits(RevokedKind::Key, &key.name)),
        Proof::Password | Proof::Certificate => false,
    };
    by_proof
        || by_name(RevokedKind::Client, &grant.client)
        || by_name(RevokedKind::User, &grant.user)
        || by_name(RevokedKind::Application, &grant.application)
        || grant
            .application
            .as_deref()
            .is_some_and(|name| hits(RevokedKind::Subscription, &format!("{name}/{}", api.label)))
}

/// A revocation of what was issued before a second also reaches what was issued within it: seconds are all that a token
/// says.
fn applies(revocation: &Revocation, issued_s: u64) -> bool {
    revocation.issued_before.is_none_or(|before| issued_s <= before.as_secs())
}
