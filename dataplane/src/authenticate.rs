//! Who is it? Finds the credential that the request carries, in the order and among the forms that the API accepts, and
//! has it verified. The first that is there decides.
//!
//! ```text
//! forms ─┬─ signed token ── cache, or: jws ── issuers ── token ─┐
//!        ├─ opaque token ── known, or: the bridge asks issuers ─┤
//!        ├─ key ─────────── a look-up in the snapshot           ├─► standing ─► scopes
//!        ├─ password ────── known, or: the bridge compares      ┤
//!        └─ certificate ─── a look-up in `people`               ┘
//! ```
//!
//! Nothing here waits, except where the bridge must be asked; only then is anything allocated for waiting. What a grant
//! is stands in [`identity`](crate::identity), whether it still stands in [`standing`].

pub mod cache;
pub mod challenge;
pub mod forms;
pub mod jws;
mod key;
mod question;
#[cfg(test)]
mod tests;
mod token;

use std::cell::RefCell;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::http::RequestView;
use proto::snapshot::{CredentialForm, SecretHash, User};

use crate::bridge::{Credentials, Heard};
use crate::handshake::{Downstream, Request, Stop, while_waited_for};
use crate::identity::{Claims, Fault, Grant, Identity, Proof, Word};
use crate::issuers::Believed;
use crate::onward::Onward;
use crate::record::ShardRecord;
use crate::relay::wall_clock_ms;
use crate::route::Place;
use crate::shard::Shard;
use crate::standing;
use crate::tables::Tables;
use crate::tls::ClientCertificate;

use cache::{Entry, Verified};
use challenge::Failed;
use forms::{Login, Places, Presented};
pub use jws::Jws;
use question::Question;
pub use token::of_jwt as grant_of_jwt;

/// How long the bridge may take in all, whatever is configured for each that it asks.
const PATIENCE: Duration = Duration::from_secs(120);

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
    let mut onward = Onward::default();
    let (form, step) = Room::new(shard, tables, place, downstream).look(
        request.view(),
        &request.upgrade.offer.subprotocols,
        &mut onward,
    );
    let outcome = match step {
        Step::Done(outcome) => outcome,
        // Not every handshake's, and so not part of every handshake's task.
        Step::Ask(question) => {
            let answering = Box::pin(async {
                let answer = pin!(question.answer(&shard.shared.credentials, tables));
                while_waited_for(&downstream.stream, PATIENCE, answer).await
            });
            answering.await?.unwrap_or(Err(Fault::Unavailable))
        }
    };
    let outcome =
        outcome.and_then(|identity| Room::new(shard, tables, place, downstream).stands(&identity).map(|()| identity));
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

/// What a look at a credential comes to.
enum Step {
    /// It is known what it is good for.
    Done(Result<Identity, Fault>),
    /// The bridge must be asked.
    Ask(Box<Question>),
}

impl From<Result<Identity, Fault>> for Step {
    fn from(outcome: Result<Identity, Fault>) -> Self {
        Self::Done(outcome)
    }
}

impl From<Fault> for Step {
    fn from(fault: Fault) -> Self {
        Self::Done(Err(fault))
    }
}

/// What credentials are judged with.
struct Room<'a> {
    credentials: &'a Credentials,
    record: &'a ShardRecord,
    verified: &'a RefCell<Verified>,
    tables: &'a Tables,
    place: &'a Place,
    /// Where the client is.
    client: Option<IpAddr>,
    /// Its certificate, which was found good.
    certificate: Option<&'a ClientCertificate>,
    now_ms: u64,
}

impl<'a> Room<'a> {
    fn new(shard: &'a Shard, tables: &'a Tables, place: &'a Place, downstream: &'a Downstream) -> Self {
        Self {
            credentials: &shard.shared.credentials,
            record: &shard.record,
            verified: &shard.verified,
            tables,
            place,
            client: downstream.seen.client.map(|client| client.ip()),
            certificate: downstream.tls.as_ref().and_then(|tls| tls.client.as_deref()),
            now_ms: wall_clock_ms(),
        }
    }

    /// The form of the credential that decides, and what it is good for.
    fn look(
        &self,
        view: RequestView<'_>,
        subprotocols: &[String],
        onward: &mut Onward,
    ) -> (Option<CredentialForm>, Step) {
        let places = Places {
            view,
            subprotocols,
            has_certificate: self.certificate.is_some(),
            asked: &self.place.api.api.authentication,
        };
        let found = places.find();
        places.strip(found.as_ref(), onward);
        match found {
            None => (None, Fault::Absent.into()),
            Some((form, Err(forms::Malformed))) => (Some(form), Fault::Malformed.into()),
            Some((form, Ok(presented))) => (Some(form), self.judge(form, presented, &view)),
        }
    }

    fn judge(&self, form: CredentialForm, presented: Presented<'_>, view: &RequestView<'_>) -> Step {
        match presented {
            Presented::Token(token) => match jws::is_jwt(&token).then(|| self.jwt(form, &token)) {
                Some(Ok(identity)) => Ok(identity).into(),
                Some(Err(NoJwt::Fault(fault))) => fault.into(),
                Some(Err(NoJwt::OnlyItsIssuerKnows(issuer))) => self.opaque(form, &token, vec![issuer]),
                None => self.opaque(form, &token, self.askable().cloned().collect()),
            },
            Presented::Key(key) => {
                key::grant(self.tables.snapshot(), form, &key, self.client, view).map(identity).into()
            }
            Presented::Password(login) => self.password(login),
            Presented::Certificate => self.certificate_grant().map(identity).into(),
        }
    }

    /// A signed token: what it granted the last time, or what its issuer's signature makes of it now.
    fn jwt(&self, form: CredentialForm, token: &str) -> Result<Identity, NoJwt> {
        let key = (SecretHash::of(token), form);
        let remembered = self.remembered(&key);
        self.record.token_looked_up(remembered.is_some());
        if let Some(identity) = remembered {
            return Ok(identity);
        }
        let jws = Jws::read(token)?;
        let said = jws.claims.get("iss").ok_or(Fault::Issuer)?.as_str().ok_or(Fault::Malformed)?;
        let issuer = self.tables.issuers().saying(said).filter(|issuer| self.accepts(issuer)).ok_or(Fault::Issuer)?;
        if issuer.config.jwks.is_none() {
            return Err(NoJwt::OnlyItsIssuerKnows(Arc::clone(issuer)));
        }
        jws.verify(issuer)?;
        let people = self.tables.people();
        let grant = token::of_jwt(issuer, &jws.claims, form, people, self.now_ms)?;
        let client = token::client_of(&grant, people)?.cloned();
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
            && token::client_of(grant, self.tables.people()) == Ok(entry.client.as_ref())
            && self.now_ms < grant.expires_ms;
        if !is_same {
            verified.forget(key);
            return None;
        }
        self.accepts(&entry.issuer).then(|| entry.identity.clone())
    }

    /// A token that only its issuer can read: what it said not long ago, or what it says now.
    fn opaque(&self, form: CredentialForm, token: &str, issuers: Vec<Arc<Believed>>) -> Step {
        if issuers.is_empty() {
            return Fault::Malformed.into();
        }
        let hash = SecretHash::of(token);
        let now = Instant::now();
        for issuer in &issuers {
            match self.credentials.introspector.known(issuer, hash, now) {
                Some(Heard::Active(claims)) => {
                    let heard = question::Active { issuer, hash, form, claims };
                    return heard.identity(&self.credentials.introspector, self.tables, self.now_ms).into();
                }
                Some(Heard::Inactive) => {}
                None => return Step::Ask(Box::new(Question::Token { issuers, hash, form, token: token.into() })),
            }
        }
        Fault::Unknown.into()
    }

    /// Issuers that can be asked about tokens, of those that the API accepts.
    fn askable(&self) -> impl Iterator<Item = &Arc<Believed>> {
        self.tables.issuers().iter().filter(|one| one.config.introspection.is_some() && self.accepts(one))
    }

    /// A name and a password: what is known of them, or what the bridge finds.
    fn password(&self, login: Login) -> Step {
        let stored = self.tables.snapshot().user(&login.user).and_then(|user| user.password.as_ref());
        let passwords = &self.credentials.passwords;
        let fingerprint = passwords.fingerprint(&login.user, &login.password, stored);
        match passwords.known(&fingerprint, Instant::now()) {
            Some(is_good) => {
                question::of_password(self.tables.snapshot(), &login.user, is_good, self.now_ms).map(identity).into()
            }
            None => Step::Ask(Box::new(Question::Password { login, fingerprint, stored: stored.cloned() })),
        }
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
        let expires_ms = expires_s.map_or(u64::MAX, |seconds| seconds.saturating_mul(1000));
        let proof = Proof::Certificate { subject: certificate.subject.as_str().into() };
        Ok(of_user(user, CredentialForm::ClientCertificate, proof, expires_ms, self.now_ms))
    }

    /// Whether a credential that is good is good here and now.
    fn stands(&self, identity: &Identity) -> Result<(), Fault> {
        let grant = identity.grant.as_deref().ok_or(Fault::Absent)?;
        standing::check(self.tables, &self.place.api, grant, self.now_ms / 1000)?;
        let wanted = &self.place.scopes;
        let has = |scope: &String| grant.scopes.iter().any(|own| **own == **scope);
        if !wanted.is_empty() && !wanted.iter().any(has) {
            return Err(Fault::Scope);
        }
        // The route follows from it; it is asked here, too, so that it is counted and explained like any other fault.
        if grant.environment.is_some_and(|environment| !self.place.leads_in(environment)) {
            return Err(Fault::KeyType);
        }
        Ok(())
    }
}

/// What a user's own credential grants. It counts as issued at its handshake, which is now.
fn of_user(user: &User, form: CredentialForm, proof: Proof, expires_ms: u64, now_ms: u64) -> Grant {
    Grant {
        form,
        proof,
        client: None,
        application: user.application.as_deref().map(Into::into),
        user: Some(user.name.as_str().into()),
        environment: Some(user.environment),
        scopes: user.scopes.iter().map(|scope| scope.as_str().into()).collect(),
        issued_s: now_ms / 1000,
        expires_ms,
        word: Word::default(),
    }
}

/// Why a token that looks like a JWT is not taken for one.
enum NoJwt {
    Fault(Fault),
    /// Its issuer has published no keys.
    OnlyItsIssuerKnows(Arc<Believed>),
}

impl From<Fault> for NoJwt {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

fn identity(grant: Grant) -> Identity {
    Identity { grant: Some(Arc::new(grant)), claims: None }
}
