//! Who is it? Finds the credential that the request carries, in the order and among the forms that the API accepts, and
//! has it verified. The first that is there decides.
//!
//! ```text
//! forms ─┬─ token ── jws ── issuers ── token ── cache (a token that was verified before)
//!        ├─ key ─── a look-up in the snapshot
//!        └─ certificate ── a look-up in `people`          all ──► standing ──► scopes
//! ```
//!
//! Nothing here waits, except where somebody else must be asked; only then is anything allocated for waiting. What a
//! grant is stands in [`identity`](crate::identity), whether it still stands in [`standing`](crate::standing).

pub mod cache;
pub mod challenge;
mod forms;
mod jws;
mod key;
#[cfg(test)]
mod tests;
mod token;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use proto::http::RequestView;
use proto::snapshot::{CredentialForm, SecretHash};

use crate::handshake::{Downstream, Request, Stop};
use crate::identity::{Claims, Fault, Grant, Identity, Proof, Word};
use crate::issuers::Believed;
use crate::onward::Onward;
use crate::relay::wall_clock_ms;
use crate::route::Place;
use crate::shard::Shard;
use crate::standing::{self, Moments};
use crate::tables::Tables;
use crate::tls::ClientCertificate;

use cache::{Entry, Verified};
use challenge::Failed;
use forms::{Places, Presented};
pub use jws::Jws;
pub use token::of_jwt as grant_of_jwt;

/// Who the client is; and what its request says onwards no more.
pub async fn client(
    shard: &Rc<Shard>,
    tables: &Tables,
    place: &Place,
    request: &Request,
    downstream: &Downstream,
) -> Result<(Identity, Onward), Stop> {
    if place.api.api.authentication.is_open() {
        return Ok((Identity::default(), Onward::default()));
    }
    let room = Room {
        verified: &shard.verified,
        tables,
        place,
        client: downstream.seen.client.map(|client| client.ip()),
        certificate: downstream.tls.as_ref().and_then(|tls| tls.client.as_deref()),
        now_ms: wall_clock_ms(),
    };
    let mut onward = Onward::default();
    let (form, outcome) = room.look(request.view(), &request.upgrade.offer.subprotocols, &mut onward);
    let outcome = outcome.and_then(|identity| room.stands(&identity).map(|()| identity));
    shard.record.authenticated(form, outcome.as_ref().err().copied());
    match outcome {
        Ok(identity) => Ok((identity, onward)),
        Err(fault) => {
            downstream.seen.refused(Failed { form, scopes: place.scopes.clone() });
            downstream.seen.because(challenge::for_the_log(fault));
            Err(fault.refusal().into())
        }
    }
}

/// What credentials are judged with.
struct Room<'a> {
    verified: &'a RefCell<Verified>,
    tables: &'a Tables,
    place: &'a Place,
    /// Where the client is.
    client: Option<IpAddr>,
    /// Its certificate, which was found good.
    certificate: Option<&'a ClientCertificate>,
    now_ms: u64,
}

impl Room<'_> {
    /// The form of the credential that decides, and what it is good for.
    fn look(
        &self,
        view: RequestView<'_>,
        subprotocols: &[String],
        onward: &mut Onward,
    ) -> (Option<CredentialForm>, Result<Identity, Fault>) {
        let places = Places {
            view,
            subprotocols,
            has_certificate: self.certificate.is_some(),
            asked: &self.place.api.api.authentication,
        };
        let found = places.find();
        places.strip(found.as_ref(), onward);
        match found {
            None => (None, Err(Fault::Absent)),
            Some((form, Err(forms::Malformed))) => (Some(form), Err(Fault::Malformed)),
            Some((form, Ok(presented))) => (Some(form), self.judge(form, &presented, &view)),
        }
    }

    fn judge(
        &self,
        form: CredentialForm,
        presented: &Presented<'_>,
        view: &RequestView<'_>,
    ) -> Result<Identity, Fault> {
        match presented {
            Presented::Token(token) if jws::is_jwt(token) => self.jwt(form, token),
            Presented::Token(_) => Err(Fault::Malformed),
            Presented::Key(key) => key::grant(self.tables.snapshot(), form, key, self.client, view).map(identity),
            Presented::Password(_) => Err(Fault::Unavailable),
            Presented::Certificate => self.certificate_grant().map(identity),
        }
    }

    /// A signed token: what it granted the last time, or what its issuer's signature makes of it now.
    fn jwt(&self, form: CredentialForm, token: &str) -> Result<Identity, Fault> {
        let key = (SecretHash::of(token), form);
        if let Some(identity) = self.remembered(&key) {
            return Ok(identity);
        }
        let jws = Jws::read(token)?;
        let said = jws.claims.get("iss").ok_or(Fault::Issuer)?.as_str().ok_or(Fault::Malformed)?;
        let issuer = self.tables.issuers().saying(said).filter(|issuer| self.accepts(issuer)).ok_or(Fault::Issuer)?;
        jws.verify(issuer)?;
        let people = self.tables.people();
        let grant = token::of_jwt(issuer, &jws.claims, form, people, self.now_ms)?;
        let client = token::client_of(&grant, people).cloned();
        let identity = Identity { grant: Some(Arc::new(grant)), claims: Some(Arc::new(Claims(jws.claims))) };
        let entry = Entry { identity: identity.clone(), issuer: Arc::clone(issuer), client };
        self.verified.borrow_mut().keep(key, entry, token.len());
        Ok(identity)
    }

    /// A token that was verified before: by keys that its issuer still has, and for a client that is still whose it was.
    fn remembered(&self, key: &cache::TokenKey) -> Option<Identity> {
        let mut verified = self.verified.borrow_mut();
        let entry = verified.find(key)?;
        let grant = entry.identity.grant.as_ref()?;
        let is_same = self.tables.issuers().holds(&entry.issuer)
            && token::client_of(grant, self.tables.people()) == entry.client.as_ref()
            && self.now_ms < grant.expires_ms;
        if !is_same {
            verified.forget(key);
            return None;
        }
        self.accepts(&entry.issuer).then(|| entry.identity.clone())
    }

    fn accepts(&self, issuer: &Believed) -> bool {
        let accepted = &self.place.api.api.authentication.issuers;
        accepted.is_empty() || accepted.contains(&issuer.config.name)
    }

    /// What the user may whose certificate this is; until it expires.
    fn certificate_grant(&self) -> Result<Grant, Fault> {
        let certificate = self.certificate.filter(|certificate| !certificate.subject.is_empty());
        let certificate = certificate.ok_or(Fault::Unknown)?;
        let name = self.tables.people().user_by_subject(&certificate.subject).ok_or(Fault::Unknown)?;
        let user = self.tables.snapshot().user(name).ok_or(Fault::Unknown)?;
        let expires_s = u64::try_from(certificate.not_after).ok().filter(|seconds| *seconds > 0);
        Ok(Grant {
            form: CredentialForm::ClientCertificate,
            proof: Proof::Certificate,
            client: None,
            application: user.application.as_deref().map(Into::into),
            user: Some(name.into()),
            environment: Some(user.environment),
            scopes: user.scopes.iter().map(|scope| scope.as_str().into()).collect(),
            issued_s: None,
            expires_ms: expires_s.map_or(u64::MAX, |seconds| seconds.saturating_mul(1000)),
            word: Word::default(),
        })
    }

    /// Whether a credential that is good is good here and now.
    fn stands(&self, identity: &Identity) -> Result<(), Fault> {
        let grant = identity.grant.as_deref().ok_or(Fault::Absent)?;
        standing::check(self.tables, &self.place.api, grant, Moments::now(self.now_ms / 1000))?;
        let wanted = &self.place.scopes;
        let has = |scope: &String| grant.scopes.iter().any(|own| **own == **scope);
        if wanted.is_empty() || wanted.iter().any(has) { Ok(()) } else { Err(Fault::Scope) }
    }
}

fn identity(grant: Grant) -> Identity {
    Identity { grant: Some(Arc::new(grant)), claims: None }
}
