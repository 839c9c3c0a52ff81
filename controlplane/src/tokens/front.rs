//! The token endpoint over HTTP: paths, methods, sizes and statuses around what the desk says.
//!
//! Connections are `door`'s. Everything that blocks is done off the runtime's threads, and Argon2 by few at a time.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Terms;
use super::desk::{Asked, Desk, Now};
use super::form::Form;
use super::refusal::{Refusal, Word};

/// Bytes of a form: a token of the longest kind, percent-encoded, and room beside it.
const FORM_BYTES_MAX: usize = 32 * 1024;
/// How long a form may take to arrive.
const FORM_WITHIN: Duration = Duration::from_secs(10);
/// Passwords that are checked at one time, and that wait for it. A check takes 19 MB, and a core for some 20 ms.
const PASSWORDS_AT_ONCE: usize = 2;
const PASSWORDS_WAITING_MAX: usize = 64;
/// Requests that are decided at one time. Each takes a thread, and may need a second one to look something up: together far
/// fewer than the runtime has.
const DECISIONS_AT_ONCE: usize = 64;
/// How long one waits for either.
const PLACE_WITHIN: Duration = Duration::from_secs(5);
/// When to come back, when everybody is busy.
const BUSY: Duration = Duration::from_secs(1);

/// Paths behind the issuer's own.
const TOKEN: &str = "/oauth2/token";
const JWKS: &str = "/oauth2/jwks";
const REVOKE: &str = "/oauth2/revoke";
const INTROSPECT: &str = "/oauth2/introspect";
const METADATA: &str = "/.well-known/oauth-authorization-server";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Token,
    Jwks,
    Revoke,
    Introspect,
    Metadata,
}

impl Page {
    /// Of a path. A proxy in front may leave the issuer's own path there or take it away; RFC 8414 §3.1 puts it behind.
    fn of(path: &str, base: &str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix(METADATA) {
            return (rest.is_empty() || rest == base).then_some(Self::Metadata);
        }
        match path.strip_prefix(base).filter(|rest| rest.starts_with('/')).unwrap_or(path) {
            TOKEN => Some(Self::Token),
            JWKS => Some(Self::Jwks),
            REVOKE => Some(Self::Revoke),
            INTROSPECT => Some(Self::Introspect),
            METADATA => Some(Self::Metadata),
            _ => None,
        }
    }

    const fn is_read(self) -> bool {
        matches!(self, Self::Jwks | Self::Metadata)
    }
}

/// The endpoint, to all of its connections.
pub struct Front {
    desk: Arc<Desk>,
    terms: RwLock<Option<Arc<Terms>>>,
    decisions: Arc<Semaphore>,
    passwords: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Front {
    /// Without terms yet.
    pub fn new(desk: Arc<Desk>) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        let (decisions, passwords) = (places(DECISIONS_AT_ONCE), places(PASSWORDS_AT_ONCE));
        Self { desk, terms: RwLock::default(), decisions, passwords, waiting: Semaphore::new(PASSWORDS_WAITING_MAX) }
    }

    /// Works by these terms from now on.
    pub fn use_terms(&self, terms: Option<Arc<Terms>>) {
        *self.terms.write().unwrap_or_else(PoisonError::into_inner) = terms;
    }

    fn terms(&self) -> Option<Arc<Terms>> {
        self.terms.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers one request. `source` is where it comes from.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>, source: String) -> Response<Body> {
        let Some(terms) = self.terms() else {
            let gone = Refusal::wait(Word::TemporarilyUnavailable, "no tokens are issued here any more", BUSY);
            return refused(&gone);
        };
        let Some(page) = Page::of(request.uri().path(), base_path(&terms.endpoint.issuer)) else {
            return plain(StatusCode::NOT_FOUND, "there is no such page");
        };
        match (page.is_read(), request.method()) {
            (true, &Method::GET | &Method::HEAD) | (false, &Method::POST) => {}
            (is_read, _) => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "the method is not for this page");
                let allowed = if is_read { "GET, HEAD" } else { "POST" };
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
                return response;
            }
        }
        match page {
            Page::Jwks => {
                let age_s = terms.rotation().map_or(0, |rotation| rotation.ahead_ms() / 1000);
                let set = serde_json::to_value(self.desk.keyring().published()).unwrap_or_default();
                cached(set, "application/jwk-set+json", age_s)
            }
            Page::Metadata => cached(metadata(&terms), "application/json", 3600),
            Page::Token | Page::Revoke | Page::Introspect => match asked(request, source).await {
                Ok(asked) => self.at_the_desk(page, asked, terms).await,
                Err(refusal) => refused(&refusal),
            },
        }
    }

    /// The places that a decision takes; none, where nobody leaves one in time.
    async fn places(&self, has_password: bool) -> Option<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)> {
        let soon = |places: &Arc<Semaphore>| tokio::time::timeout(PLACE_WITHIN, Arc::clone(places).acquire_owned());
        let password = if has_password {
            let _waiting = self.waiting.try_acquire().ok()?;
            Some(soon(&self.passwords).await.ok()?.ok()?)
        } else {
            None
        };
        Some((soon(&self.decisions).await.ok()?.ok()?, password))
    }

    async fn at_the_desk(self: Arc<Self>, page: Page, asked: Asked, terms: Arc<Terms>) -> Response<Body> {
        let has_password = page == Page::Token && asked.form.value("grant_type") == Some("password");
        let Some(places) = self.places(has_password).await else {
            return refused(&Refusal::wait(Word::TemporarilyUnavailable, "too much is asked for at one time", BUSY));
        };
        let desk = Arc::clone(&self.desk);
        let deciding = tokio::task::spawn_blocking(move || {
            // Whoever goes away leaves a decision that is still being made: it keeps its places until then.
            let _places = places;
            let now = Now::read();
            match page {
                Page::Token => desk.token(&asked, &terms, now).map(Some),
                Page::Introspect => desk.introspect(&asked, &terms, now).map(Some),
                _ => desk.revoke(&asked, &terms, now).map(|()| None),
            }
        });
        match deciding.await {
            Ok(Ok(Some(answer))) => no_store(json_response(StatusCode::OK, &answer, "application/json")),
            Ok(Ok(None)) => no_store(Response::new(Body::empty())),
            Ok(Err(refusal)) => refused(&refusal),
            Err(error) => {
                tracing::error!(%error, "a request to the token endpoint could not be answered");
                refused(&Refusal::new(Word::ServerError, "the gateway cannot do it now; its log says why"))
            }
        }
    }
}

/// What a client has posted.
async fn asked(request: Request<Incoming>, source: String) -> Result<Asked, Refusal> {
    let invalid = |description| Refusal::new(Word::InvalidRequest, description);
    if request.uri().query().is_some_and(|query| !query.is_empty()) {
        return Err(invalid("parameters belong into the body: an address ends up in logs"));
    }
    let (head, body) = request.into_parts();
    let kind = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(invalid("the body is not application/x-www-form-urlencoded"));
    }
    let mut authorization = head.headers.get_all(AUTHORIZATION).into_iter();
    let first = authorization.next().map(|value| value.as_bytes().to_vec());
    if authorization.next().is_some() {
        return Err(invalid("Authorization is given twice"));
    }
    let reading = tokio::time::timeout(FORM_WITHIN, to_bytes(Body::new(body), FORM_BYTES_MAX));
    let body = match reading.await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return Err(invalid("the body is cut off, or too long")),
        Err(_) => return Err(invalid("the body did not arrive in time")),
    };
    let form = Form::parse(&body).map_err(invalid)?;
    Ok(Asked { form, authorization: first, source })
}

/// RFC 8414 §2.
fn metadata(terms: &Terms) -> Value {
    let issuer = terms.endpoint.issuer.as_str();
    let base = issuer.trim_end_matches('/');
    let methods = ["client_secret_basic", "client_secret_post"];
    json!({
        "issuer": issuer,
        "token_endpoint": format!("{base}{TOKEN}"),
        "jwks_uri": format!("{base}{JWKS}"),
        "revocation_endpoint": format!("{base}{REVOKE}"),
        "introspection_endpoint": format!("{base}{INTROSPECT}"),
        "grant_types_supported": ["client_credentials", "refresh_token", "password"],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_methods_supported": methods,
    })
}

/// The path of an issuer's URL, without a slash at its end.
fn base_path(issuer: &str) -> &str {
    let rest = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
    rest.find('/').map_or("", |at| rest[at..].trim_end_matches('/'))
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let status = StatusCode::from_u16(refusal.word.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = no_store(json_response(status, &refusal.body(), "application/json"));
    if refusal.word == Word::InvalidClient {
        let challenge = HeaderValue::from_static("Basic realm=\"framegate\", charset=\"UTF-8\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    if let Some(wait) = refusal.retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json_response(status: StatusCode, answer: &Value, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(NO_SNIFF.0, HeaderValue::from_static(NO_SNIFF.1));
    response
}

const NO_SNIFF: (HeaderName, &str) = (HeaderName::from_static("x-content-type-options"), "nosniff");

fn no_store(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

fn cached(answer: Value, kind: &'static str, age_s: u64) -> Response<Body> {
    let mut response = json_response(StatusCode::OK, &answer, kind);
    let age = HeaderValue::from_str(&format!("public, max-age={age_s}"));
    response.headers_mut().insert(CACHE_CONTROL, age.unwrap_or(HeaderValue::from_static("no-cache")));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_with_and_without_the_issuers_own_path() {
        let rows = [
            ("/oauth2/token", "", Some(Page::Token)),
            ("/oauth2/jwks", "", Some(Page::Jwks)),
            ("/auth/oauth2/revoke", "/auth", Some(Page::Revoke)),
            ("/oauth2/introspect", "/auth", Some(Page::Introspect)),
            ("/authoauth2/token", "/auth", None),
            ("/.well-known/oauth-authorization-server", "/auth", Some(Page::Metadata)),
            ("/.well-known/oauth-authorization-server/auth", "/auth", Some(Page::Metadata)),
            ("/auth/.well-known/oauth-authorization-server", "/auth", Some(Page::Metadata)),
            ("/.well-known/oauth-authorization-server/x", "/auth", None),
            ("/.well-known/openid-configuration", "", None),
            ("/", "", None),
            ("/oauth2/token/", "", None),
        ];
        for (path, base, page) in rows {
            assert_eq!(Page::of(path, base), page, "{path} behind {base:?}");
        }
        assert_eq!(base_path("https://gateway.example.com"), "");
        assert_eq!(base_path("https://gateway.example.com/"), "");
        assert_eq!(base_path("https://gateway.example.com/auth/"), "/auth");
    }
}
