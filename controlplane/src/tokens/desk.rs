//! The desk of the token endpoint: who gets which token, what becomes of one that is shown again, and what it is worth.
//!
//! RFC 6749 (grants), RFC 9068 (what an access token says), RFC 7009 (revocation), RFC 7662 (introspection). Knows forms
//! and answers and no HTTP; calls block, for the catalogue, the store and Argon2 do.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use proto::errors::with_sources;
use proto::limits::{REVOCATIONS_PER_MINUTE_MAX, TOKEN_BYTES_MAX};
use proto::snapshot::{
    Environment, GrantType, OAuthClient, OWN_ISSUER, Revocation, Revoked, RevokedKind, SecretHash, Timestamp, User,
};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value, json};

use super::form::{Credentials, Form, NoCredentials};
use super::jws::Jws;
use super::keyring::Keyring;
use super::ledger::{self, AccessToken, Ceilings, RefreshToken, Rotated, Shown};
use super::limit::{Counts, FAILURES_MAX};
use super::refusal::{Refusal, Word};
use super::{Catalogue, Client, RevokeError, Terms};
use crate::store::Store;

/// The type of an access token, RFC 9068 §2.1.
const ACCESS_TOKEN: &str = "at+jwt";
/// Begins a refresh token, so that people and programs that look for lost secrets know one.
const REFRESH_TOKEN: &str = "fgr_";
/// When to come back, where the list of what is revoked has no room: by then some of it has run out.
const FULL: Duration = Duration::from_secs(60);
/// Bytes of randomness in a token's id, and in a family's.
const ID_BYTES: usize = 16;

/// A moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// What people's clocks show.
    pub wall: SystemTime,
    /// What measures time.
    pub steady: Instant,
}

impl Now {
    /// Both clocks.
    pub fn read() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }

    fn ms(self) -> u64 {
        let since = self.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn secs(self) -> u64 {
        self.ms() / 1000
    }
}

/// What a client has sent.
#[derive(Debug)]
pub struct Asked {
    /// The form.
    pub form: Form,
    /// The header `Authorization`.
    pub authorization: Option<Vec<u8>>,
    /// Where it comes from, as far as failures are counted by it.
    pub source: String,
}

/// The desk.
pub struct Desk {
    catalogue: Arc<dyn Catalogue>,
    store: Arc<Store>,
    /// The keys, in an `Arc` so that whoever signs holds no lock.
    keyring: RwLock<Arc<Keyring>>,
    /// Failed attempts, by the SHA-256 of who has failed and where: a name of any length takes the same room.
    failures: Mutex<Counts<SecretHash>>,
    /// Revocations, by the SHA-256 of why and of whose: the client, and its user where a token was used twice.
    revocations: Mutex<Counts<SecretHash>>,
}

/// Why access tokens are as good as before.
#[derive(Debug)]
enum NotRevoked {
    /// Whoever revokes has revoked as much as it may; how long that lasts.
    TooMuch(Duration),
    /// The list has no room for those of clients.
    Full,
    /// What the log says.
    Broken(Refusal),
}

/// An answer's body, or a refusal.
pub type Answer = Result<Value, Refusal>;

impl Desk {
    /// With these keys.
    pub fn new(catalogue: Arc<dyn Catalogue>, store: Arc<Store>, keyring: Keyring) -> Self {
        let counts = |most| Mutex::new(Counts::new(most));
        let (failures, revocations) = (counts(FAILURES_MAX), counts(REVOCATIONS_PER_MINUTE_MAX));
        Self { catalogue, store, keyring: RwLock::new(Arc::new(keyring)), failures, revocations }
    }

    /// The keys.
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Signs with these keys from now on.
    pub fn use_keyring(&self, keyring: Keyring) {
        *self.keyring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keyring);
    }

    /// Issues a token, RFC 6749 §5.
    pub fn token(&self, asked: &Asked, terms: &Terms, now: Now) -> Answer {
        let client = self.authenticated(asked, now)?;
        let form = &asked.form;
        let grant = match form.value("grant_type") {
            None => return Err(Refusal::new(Word::InvalidRequest, "grant_type is missing")),
            Some("client_credentials") => GrantType::ClientCredentials,
            Some("refresh_token") => GrantType::RefreshToken,
            Some("password") => GrantType::Password,
            Some(_) => {
                let known = "the grants here are client_credentials, refresh_token and password";
                return Err(Refusal::new(Word::UnsupportedGrantType, known));
            }
        };
        if !may(&client.client, grant) {
            return Err(Refusal::new(Word::UnauthorizedClient, "the client may not use this grant"));
        }
        self.check_standing(&client, now)?;
        match grant {
            GrantType::ClientCredentials => {
                let allowed = client.client.scopes.iter().map(String::as_str).collect();
                let scope = scope(form.value("scope"), &allowed)?;
                // RFC 6749 §4.4.3 would rather have no refresh token here: the client can ask again. Who wants one says so.
                let wants_refresh = client.client.grants.contains(&GrantType::RefreshToken);
                self.issue(&client, None, &scope, wants_refresh, terms, now)
            }
            GrantType::Password => {
                let user = self.user_of_password(&client, form, now)?;
                let scope = scope(form.value("scope"), &allowed(&client.client, Some(&user)))?;
                let wants_refresh = may(&client.client, GrantType::RefreshToken);
                self.issue(&client, Some(&user.name), &scope, wants_refresh, terms, now)
            }
            GrantType::RefreshToken => self.refresh(&client, form, terms, now),
        }
    }

    /// Takes a token back, RFC 7009 §2.1. A token that is not known here is as good as taken back.
    pub fn revoke(&self, asked: &Asked, terms: &Terms, now: Now) -> Result<(), Refusal> {
        let client = self.authenticated(asked, now)?;
        let token = asked.form.value("token").ok_or(Refusal::new(Word::InvalidRequest, "token is missing"))?;
        let is_anothers = Refusal::new(Word::InvalidGrant, "the token was issued to another client");
        if token.starts_with(REFRESH_TOKEN) {
            let shown = ledger::shown(&self.store, &SecretHash::of(token), now.secs()).map_err(broken)?;
            let (Shown::Fresh(known) | Shown::Used(known)) = shown else { return Ok(()) };
            if known.client != client.client.id {
                return Err(is_anothers);
            }
            let who = counted("revoke", &[&client.client.id]);
            return self.revoke_family(&known.family, "the client revoked its refresh token", who, now);
        }
        let Some(claims) = self.own_claims(token, terms) else { return Ok(()) };
        if text(&claims, "client_id") != Some(&client.client.id) {
            return Err(is_anothers);
        }
        let (Some(id), Some(expires_s)) = (text(&claims, "jti"), claims.get("exp").and_then(Value::as_u64)) else {
            return Ok(());
        };
        let is_over = expires_s <= now.secs();
        if is_over || self.catalogue.revocation(RevokedKind::Token, &format!("{OWN_ISSUER}/{id}")).is_some() {
            return Ok(());
        }
        let who = counted("revoke", &[&client.client.id]);
        let token = AccessToken { id: id.into(), expires_s };
        self.revoke_access(vec![token], "the client revoked it", who, now).map_err(|error| match error {
            NotRevoked::TooMuch(left) => {
                let description = "the client revokes too much in one minute; the token is still good, try again";
                Refusal::wait(Word::SlowDown, description, left)
            }
            NotRevoked::Full => {
                let description = "as much is revoked as clients may revoke; the token is still good, try again";
                Refusal::wait(Word::TemporarilyUnavailable, description, FULL)
            }
            NotRevoked::Broken(refusal) => refusal,
        })
    }

    /// Says what a token is worth, RFC 7662 §2.2, to any client that proves who it is.
    pub fn introspect(&self, asked: &Asked, terms: &Terms, now: Now) -> Answer {
        let client = self.authenticated(asked, now)?;
        self.check_standing(&client, now)?;
        let token = asked.form.value("token").ok_or(Refusal::new(Word::InvalidRequest, "token is missing"))?;
        let found = if token.starts_with(REFRESH_TOKEN) {
            self.introspect_refresh(token, &client, terms, now)?
        } else {
            self.introspect_access(token, terms, now)
        };
        Ok(found.unwrap_or_else(|| json!({ "active": false })))
    }

    fn introspect_access(&self, token: &str, terms: &Terms, now: Now) -> Option<Value> {
        let mut claims = self.own_claims(token, terms)?;
        let number = |name: &str| claims.get(name).and_then(Value::as_u64);
        let (expires_s, issued_s) = (number("exp")?, number("iat")?);
        let (id, client, subject) = (text(&claims, "jti")?, text(&claims, "client_id")?, text(&claims, "sub")?);
        let is_users = subject != client;
        let known = self.catalogue.client(client)?;
        let is_good = expires_s > now.secs()
            && !self.is_revoked(RevokedKind::Token, &format!("{OWN_ISSUER}/{id}"), issued_s, now)
            && self.stands(&known, issued_s, now)
            && (!is_users || self.user_stands(subject, issued_s, now).is_some());
        if !is_good {
            return None;
        }
        let user = is_users.then(|| Value::from(subject));
        claims.insert("active".into(), true.into());
        claims.insert("token_type".into(), "Bearer".into());
        claims.extend(user.map(|user| ("username".to_owned(), user)));
        Some(Value::Object(claims))
    }

    /// A refresh token is its client's secret: nobody else is told of it.
    fn introspect_refresh(
        &self,
        token: &str,
        client: &Client,
        terms: &Terms,
        now: Now,
    ) -> Result<Option<Value>, Refusal> {
        let shown = ledger::shown(&self.store, &SecretHash::of(token), now.secs()).map_err(broken)?;
        let Shown::Fresh(known) = shown else { return Ok(None) };
        let stands = known.client == client.client.id
            && self.stands(client, known.issued_s, now)
            && known.user.as_ref().is_none_or(|user| self.user_stands(user, known.issued_s, now).is_some());
        let described = || {
            let mut answer = json!({
                "active": true,
                "token_type": "refresh_token",
                "iss": terms.endpoint.issuer,
                "client_id": known.client,
                "scope": known.scope,
                "iat": known.issued_s,
                "exp": known.expires_s,
                "sub": known.user.as_ref().unwrap_or(&known.client),
            });
            if let Some(user) = &known.user {
                answer["username"] = user.as_str().into();
            }
            answer
        };
        Ok(stands.then(described))
    }

    /// The client that has proved who it is, RFC 6749 §2.3.1.
    fn authenticated(&self, asked: &Asked, now: Now) -> Result<Client, Refusal> {
        let invalid = |description| Err(Refusal::new(Word::InvalidClient, description));
        let credentials = match Credentials::of(asked.authorization.as_deref(), &asked.form) {
            Ok(credentials) => credentials,
            Err(NoCredentials::Absent) => return invalid("a client id and its secret are needed"),
            Err(NoCredentials::Unreadable) => return invalid("Authorization holds no credentials of the scheme Basic"),
            Err(NoCredentials::Two) => {
                let twice = "the client says who it is in two ways";
                return Err(Refusal::new(Word::InvalidRequest, twice));
            }
        };
        let who = counted("client", &[&credentials.id, &asked.source]);
        self.check_failures(&who, now)?;
        let known = self.catalogue.client(&credentials.id);
        // Somebody may have put the secret into the id's place: only an id that there is may be told.
        let told = known.as_ref().map(|client| client.client.id.clone());
        // Hashes of what nobody can guess: how long they are equal tells nothing that helps to guess it.
        let is_right = |client: &Client| client.client.secret == Some(SecretHash::of(&credentials.secret));
        if let Some(client) = known.filter(is_right) {
            return Ok(client);
        }
        tracing::debug!(client = told, source = asked.source, "a client's id or secret is wrong");
        self.failures().add(who, 1, now.steady);
        invalid("the client's id or its secret is wrong")
    }

    fn check_failures(&self, who: &SecretHash, now: Now) -> Result<(), Refusal> {
        match self.failures().wait(who, now.steady) {
            None => Ok(()),
            Some(left) => {
                let left = Duration::from_secs(left.as_secs() + 1);
                Err(Refusal::wait(Word::SlowDown, "there were too many failed attempts; wait", left))
            }
        }
    }

    /// Whether anything may be issued to the client at all.
    fn check_standing(&self, client: &Client, now: Now) -> Result<(), Refusal> {
        if !self.stands(client, now.secs(), now) {
            let description = "the client or its application is disabled or revoked";
            return Err(Refusal::new(Word::UnauthorizedClient, description));
        }
        Ok(())
    }

    /// Whether what was issued to the client then is still good.
    fn stands(&self, client: &Client, issued_s: u64, now: Now) -> bool {
        self.catalogue.is_enabled(&client.application)
            && !self.is_revoked(RevokedKind::Client, &client.client.id, issued_s, now)
            && !self.is_revoked(RevokedKind::Application, &client.application, issued_s, now)
    }

    /// The user, if what was issued for him or her then is still good.
    fn user_stands(&self, name: &str, issued_s: u64, now: Now) -> Option<User> {
        let user = self.catalogue.user(name).filter(|user| user.enabled)?;
        (!self.is_revoked(RevokedKind::User, name, issued_s, now)).then_some(user)
    }

    fn is_revoked(&self, kind: RevokedKind, subject: &str, issued_s: u64, now: Now) -> bool {
        self.catalogue.revocation(kind, subject).is_some_and(|one| one.reaches(issued_s, now.secs()))
    }

    /// The user whose password this is, RFC 6749 §4.3.
    fn user_of_password(&self, client: &Client, form: &Form, now: Now) -> Result<User, Refusal> {
        let (Some(name), Some(password)) = (form.value("username"), form.value("password")) else {
            return Err(Refusal::new(Word::InvalidRequest, "username or password is missing"));
        };
        let who = counted("user", &[name, &client.client.id]);
        self.check_failures(&who, now)?;
        let user = self.catalogue.user(name);
        let hash = user.as_ref().and_then(|user| user.password.as_ref()).map(|hash| hash.0.as_str());
        // Who does not exist takes as long as who does.
        let is_right = is_password(password, hash.unwrap_or(&NOBODY)) && hash.is_some();
        match user.filter(|_| is_right) {
            Some(user) if self.user_stands(name, now.secs(), now).is_some() => Ok(user),
            _ => {
                self.failures().add(who, 1, now.steady);
                tracing::debug!(client = client.client.id, "a user's name or password is wrong");
                Err(Refusal::new(Word::InvalidGrant, "the user's name or password is wrong"))
            }
        }
    }

    /// A new pair of tokens for an old one, RFC 6749 §6. One that was used before is in two hands: nobody keeps it.
    fn refresh(&self, client: &Client, form: &Form, terms: &Terms, now: Now) -> Answer {
        let missing = Refusal::new(Word::InvalidRequest, "refresh_token is missing");
        let token = form.value("refresh_token").ok_or(missing)?;
        let invalid = Refusal::new(Word::InvalidGrant, "the refresh token is not known, has run out, or was revoked");
        let hash = SecretHash::of(token);
        let known = match ledger::shown(&self.store, &hash, now.secs()).map_err(broken)? {
            Shown::Fresh(known) | Shown::Used(known) if known.client != client.client.id => {
                tracing::warn!(
                    client = client.client.id,
                    of = known.client,
                    "a client has shown another's refresh token"
                );
                return Err(Refusal::new(Word::InvalidGrant, "the refresh token was issued to another client"));
            }
            Shown::Fresh(known) => known,
            Shown::Used(known) => return Err(self.reused(&known, now)),
            Shown::Unknown => return Err(invalid),
        };
        let user = match &known.user {
            None => None,
            Some(name) => Some(self.user_stands(name, known.issued_s, now).ok_or(invalid.clone())?),
        };
        if !self.stands(client, known.issued_s, now) {
            return Err(invalid);
        }
        // What client and user may no longer have is gone; what is asked for beside that was never given.
        let allowed = allowed(&client.client, user.as_ref());
        let granted: BTreeSet<&str> = known.scope.split(' ').filter(|one| allowed.contains(one)).collect();
        let scope = scope(form.value("scope"), &granted)?;
        let (access, answer) = self.access_token(client, known.user.as_deref(), &scope, terms, now)?;
        let next = RefreshToken { access, ..known.clone() };
        let (text, next_hash) = new_refresh_token()?;
        let ceilings = Ceilings::default();
        match ledger::rotate(&self.store, &hash, (&next_hash, &next), ceilings, now.secs()).map_err(broken)? {
            Rotated::Done => Ok(with_refresh(answer, text)),
            Rotated::Lost => Err(self.reused(&known, now)),
            Rotated::TooMany(until_s) => {
                let left = Duration::from_secs(until_s.saturating_sub(now.secs()).max(1));
                let description = "the grant has as many good access tokens as it may have; use them, or wait";
                Err(Refusal::wait(Word::SlowDown, description, left))
            }
        }
    }

    fn reused(&self, known: &RefreshToken, now: Now) -> Refusal {
        tracing::warn!(
            client = known.client,
            user = known.user,
            "a refresh token was used twice; all of its family are revoked"
        );
        // Each second use fills the list of what is revoked. One user's leave room for those of others.
        let who = counted("reuse", &[&known.client, known.user.as_deref().unwrap_or_default()]);
        match self.revoke_family(&known.family, "a refresh token of its family was used twice", who, now) {
            Ok(()) => {
                Refusal::new(Word::InvalidGrant, "the refresh token was used before; all that came of it is revoked")
            }
            Err(refusal) => refusal,
        }
    }

    /// Ends a grant. Where its access tokens cannot be taken back now, nothing more comes of it all the same.
    fn revoke_family(&self, family: &[u8; ID_BYTES], why: &str, who: SecretHash, now: Now) -> Result<(), Refusal> {
        // First nobody gets anything more; only then is it counted what they have.
        let access = ledger::close_family(&self.store, family, now.secs()).map_err(broken)?;
        self.revoke_access(access, why, who, now).map_err(|error| match error {
            NotRevoked::TooMuch(left) => {
                let description = "the grant has ended and its access tokens are still good: too much was revoked in one \
                                   minute; try again with the same token";
                Refusal::wait(Word::SlowDown, description, left)
            }
            NotRevoked::Full => {
                let description = "the grant has ended and its access tokens are still good: as much is revoked as \
                                   clients may revoke; try again with the same token";
                Refusal::wait(Word::TemporarilyUnavailable, description, FULL)
            }
            NotRevoked::Broken(refusal) => refusal,
        })?;
        ledger::forget_family(&self.store, family).map_err(broken)
    }

    /// Revokes all of these tokens or none.
    fn revoke_access(&self, tokens: Vec<AccessToken>, why: &str, who: SecretHash, now: Now) -> Result<(), NotRevoked> {
        if tokens.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let reserved = self.revocations().reserve(who, count, now.steady);
        reserved.map_err(|left| NotRevoked::TooMuch(Duration::from_secs(left.as_secs() + 1)))?;
        let revocations = tokens.into_iter().map(|token| Revocation {
            revoked: Revoked { kind: RevokedKind::Token, subject: format!("{OWN_ISSUER}/{}", token.id).into() },
            issued_before: None,
            expires: Some(Timestamp::from_secs(token.expires_s)),
            reason: why.into(),
        });
        self.catalogue.revoke(revocations.collect()).map_err(|error| {
            self.revocations().give_back(&who, count, now.steady);
            match error {
                RevokeError::Full => NotRevoked::Full,
                error @ RevokeError::Broken(_) => NotRevoked::Broken(broken(error)),
            }
        })
    }

    fn issue(
        &self,
        client: &Client,
        user: Option<&str>,
        scope: &str,
        wants_refresh: bool,
        terms: &Terms,
        now: Now,
    ) -> Answer {
        let (access, answer) = self.access_token(client, user, scope, terms, now)?;
        let lifetime_s = terms.endpoint.refresh_token_lifetime.as_ms() / 1000;
        if !wants_refresh || lifetime_s == 0 {
            return Ok(answer);
        }
        let (text, hash) = new_refresh_token()?;
        let token = RefreshToken {
            family: random()?,
            client: client.client.id.clone(),
            user: user.map(str::to_owned),
            scope: scope.into(),
            issued_s: now.secs(),
            expires_s: now.secs() + lifetime_s,
            access,
        };
        ledger::keep_refresh(&self.store, &hash, &token, Ceilings::default(), now.secs()).map_err(broken)?;
        Ok(with_refresh(answer, text))
    }

    /// A signed token, RFC 9068 §2.2, in the answer that gives it.
    fn access_token(
        &self,
        client: &Client,
        user: Option<&str>,
        scope: &str,
        terms: &Terms,
        now: Now,
    ) -> Result<(AccessToken, Value), Refusal> {
        let keyring = self.keyring();
        let key = keyring.signing(now.ms()).and_then(|held| held.private.as_ref());
        let later =
            Refusal::wait(Word::TemporarilyUnavailable, "there is no key to sign with yet", Duration::from_secs(1));
        let key = key.ok_or(later)?;
        let issued_s = now.secs();
        let lifetime_s = (terms.endpoint.access_token_lifetime.as_ms() / 1000).max(1);
        let expires_s = issued_s + lifetime_s;
        let id = BASE64.encode(random::<ID_BYTES>()?);
        let audience = match terms.audiences() {
            [one] => json!(one),
            several => json!(several),
        };
        let claims = json!({
            "iss": terms.endpoint.issuer,
            "sub": user.unwrap_or(&client.client.id),
            "aud": audience,
            "exp": expires_s,
            "iat": issued_s,
            "jti": id,
            "client_id": client.client.id,
            "scope": scope,
            "keytype": key_type(client.client.environment),
            "application": client.application,
        });
        let token = key.sign(ACCESS_TOKEN, &claims).map_err(broken)?;
        if token.len() > TOKEN_BYTES_MAX {
            // No data plane would look at it.
            let description = "the token would be too long; ask for fewer scopes";
            return Err(Refusal::new(Word::InvalidScope, description));
        }
        let answer = json!({ "access_token": token, "token_type": "Bearer", "expires_in": lifetime_s, "scope": scope });
        Ok((AccessToken { id, expires_s }, answer))
    }

    /// The claims of an access token of ours, whatever has become of it since.
    fn own_claims(&self, token: &str, terms: &Terms) -> Option<Map<String, Value>> {
        let jws = Jws::read(token)?;
        let is_ours = jws.said("typ") == Some(ACCESS_TOKEN)
            && jws.is_signed_by(&self.keyring().published().keys)
            && text(&jws.claims, "iss") == Some(&terms.endpoint.issuer);
        is_ours.then_some(jws.claims)
    }

    fn failures(&self) -> MutexGuard<'_, Counts<SecretHash>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn revocations(&self) -> MutexGuard<'_, Counts<SecretHash>> {
        self.revocations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is right, as nobody's password hash; it takes as long to check as any.
static NOBODY: LazyLock<String> = LazyLock::new(|| {
    let hash = Argon2::default().hash_password(b"nobody").expect("Argon2 with its defaults hashes, given randomness");
    hash.to_string()
});

fn is_password(password: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

/// Under what failures of these words are counted.
fn counted(kind: &str, words: &[&str]) -> SecretHash {
    SecretHash::of(&format!("{kind}\0{}", words.join("\0")))
}

fn may(client: &OAuthClient, grant: GrantType) -> bool {
    match client.grants.as_slice() {
        [] => grant != GrantType::Password,
        grants => grants.contains(&grant),
    }
}

/// The scopes that both may have.
fn allowed<'a>(client: &'a OAuthClient, user: Option<&'a User>) -> BTreeSet<&'a str> {
    let is_users = |scope: &&String| user.is_none_or(|user| user.scopes.contains(scope));
    client.scopes.iter().filter(is_users).map(String::as_str).collect()
}

/// What is asked for, if it may be had; all of what may be had, if nothing is said (RFC 6749 §3.3).
fn scope(asked: Option<&str>, allowed: &BTreeSet<&str>) -> Result<String, Refusal> {
    let words: BTreeSet<&str> = match asked {
        None => allowed.clone(),
        Some(text) => text.split(' ').filter(|word| !word.is_empty()).collect(),
    };
    if !words.is_subset(allowed) {
        return Err(Refusal::new(Word::InvalidScope, "the client or the user may not have one of the scopes"));
    }
    Ok(words.into_iter().collect::<Vec<_>>().join(" "))
}

fn key_type(environment: Environment) -> &'static str {
    match environment {
        Environment::Production => "PRODUCTION",
        Environment::Sandbox => "SANDBOX",
    }
}

fn text<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c str> {
    claims.get(name)?.as_str()
}

fn new_refresh_token() -> Result<(String, SecretHash), Refusal> {
    let text = format!("{REFRESH_TOKEN}{}", BASE64.encode(random::<32>()?));
    let hash = SecretHash::of(&text);
    Ok((text, hash))
}

fn with_refresh(mut answer: Value, token: String) -> Value {
    answer["refresh_token"] = token.into();
    answer
}

fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| UNABLE)?;
    Ok(bytes)
}

const UNABLE: Refusal = Refusal::new(Word::ServerError, "the gateway cannot do it now; its log says why");

fn broken(error: impl std::error::Error + 'static) -> Refusal {
    tracing::error!(error = with_sources(&error), "the token endpoint cannot do what was asked");
    UNABLE
}

#[cfg(test)]
mod tests;
