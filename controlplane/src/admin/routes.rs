//! Everything that can be asked, in one table: the router is made of it, and so is the OpenAPI document.
//!
//! What is done for each is in `act`; who may ask is decided here, before any of it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use proto::limits::ADMIN_BODY_DEPTH_MAX;
use serde_json::Value;

use super::act::act;
use super::caller::{Caller, Peer};
use super::objects::{Kind, Noun};
use super::problem::{Fault, Problem};
use super::query::decode;
use super::secrets::Hashing;
use super::site::Site;
use super::tokens::Tokens;
use crate::newcomers::Refusals;
use crate::office::Office;

/// What all paths begin with.
pub const BASE: &str = "/api/v1";
/// How long a request's body may take.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// One thing that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with its parameters in braces: as the router and as OpenAPI want it.
    pub path: String,
    /// What is done.
    pub action: Action,
}

/// What is done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A page of objects.
    List(Kind),
    /// A new object.
    Create(Kind),
    /// One object.
    Show(Kind),
    /// One object, put in place.
    Put(Kind),
    /// One object, changed.
    Patch(Kind),
    /// One object, taken away.
    Delete(Kind),
    /// Many changes, all of them or none.
    Batch,
    /// A new OAuth2 client of an application.
    CreateClient,
    /// One OAuth2 client of an application.
    ShowClient,
    /// One OAuth2 client of an application, taken away.
    DeleteClient,
    /// The next signing key of the token endpoint.
    RotateSigningKey,
    /// How everything stands.
    Status,
    /// What is used of limits.
    Usage,
    /// What is published.
    Generation,
    /// The OpenAPI document.
    OpenApi,
}

/// Every route, in the order of the document.
pub fn routes() -> Vec<Route> {
    let mut all = Vec::new();
    let mut add =
        |method: Method, path: String, action| all.push(Route { method, path: BASE.to_owned() + &path, action });
    for kind in Kind::ALL {
        let (family, one) = (format!("/{}", kind.family()), format!("/{}/{}", kind.family(), kind.id_path()));
        add(Method::GET, family.clone(), Action::List(kind));
        add(Method::POST, family, Action::Create(kind));
        add(Method::GET, one.clone(), Action::Show(kind));
        add(Method::PUT, one.clone(), Action::Put(kind));
        add(Method::PATCH, one.clone(), Action::Patch(kind));
        add(Method::DELETE, one, Action::Delete(kind));
    }
    let clients = "/applications/{name}/clients";
    add(Method::POST, clients.into(), Action::CreateClient);
    add(Method::GET, format!("{clients}/{{client}}"), Action::ShowClient);
    add(Method::DELETE, format!("{clients}/{{client}}"), Action::DeleteClient);
    add(Method::POST, "/batch".into(), Action::Batch);
    add(Method::POST, "/signing-keys/rotate".into(), Action::RotateSigningKey);
    add(Method::GET, "/status".into(), Action::Status);
    add(Method::GET, "/usage".into(), Action::Usage);
    add(Method::GET, "/generation".into(), Action::Generation);
    add(Method::GET, "/openapi.json".into(), Action::OpenApi);
    all
}

/// What the answers are made of, and who may have them.
pub struct Desk {
    /// Who does what is asked.
    pub office: Arc<Office>,
    /// Who makes hashes of passwords.
    pub hashing: Arc<Hashing>,
    site: Site,
    tokens: Option<Tokens>,
    /// Of callers from elsewhere, who could fill the log otherwise.
    refusals: Refusals,
}

impl Desk {
    /// Of one door.
    pub fn new(office: Arc<Office>, hashing: Arc<Hashing>, site: Site, tokens: Option<Tokens>) -> Arc<Self> {
        Arc::new(Self { office, hashing, site, tokens, refusals: Refusals::of("the admin API") })
    }

    /// Who asks, if they may.
    fn admit(&self, request: &Request) -> Result<Caller, Problem> {
        self.site.check(request.uri(), request.headers())?;
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Problem::new(Fault::Internal, "the connection does not say who it is"))?;
        let caller = peer.caller(request.headers(), self.tokens.as_ref())?;
        if !caller.role.may(request.method()) {
            let detail = format!("the role {} may look, and change nothing", caller.role.word());
            return Err(Problem::new(Fault::ForbiddenRole, detail));
        }
        Ok(caller)
    }
}

/// A request as the actions want it.
pub struct Call {
    /// Who asks.
    pub caller: Caller,
    /// The parameters of the path, in its order, in plain.
    pub parameters: Vec<String>,
    /// What stands behind the question mark.
    pub query: Option<String>,
    /// The head's fields.
    pub headers: HeaderMap,
    body: Body,
}

impl Call {
    /// The id of the object that the path names.
    pub fn id(&self) -> String {
        self.parameters.join("/")
    }

    /// The body, which must be JSON by its own account and in fact.
    pub async fn json(&mut self, media_types: &[&str], bytes_max: usize) -> Result<Value, Problem> {
        let declared = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let declared = declared.split(';').next().unwrap_or_default().trim();
        if !media_types.iter().any(|known| declared.eq_ignore_ascii_case(known)) {
            let detail = format!("Content-Type must be {}", media_types.join(" or "));
            return Err(Problem::new(Fault::UnsupportedMediaType, detail));
        }
        let reading = axum::body::to_bytes(std::mem::take(&mut self.body), bytes_max);
        let bytes = match tokio::time::timeout(BODY_WITHIN, reading).await {
            Ok(Ok(bytes)) => bytes,
            // What else can go wrong is that the caller has gone, and hears nothing.
            Ok(Err(_)) => {
                let detail = format!("this body has at most {bytes_max} bytes");
                return Err(Problem::new(Fault::TooLarge, detail));
            }
            Err(_) => {
                let detail = format!("the body has not come within {} s", BODY_WITHIN.as_secs());
                return Err(Problem::new(Fault::TooSlow, detail));
            }
        };
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            // The library's sentence may hold a piece of the body, and that may be a password.
            let detail = format!("the body is no JSON; see line {}, column {}", error.line(), error.column());
            Problem::new(Fault::BadRequest, detail)
        })?;
        // Whatever looks at it next does so by recursion.
        if is_deeper(&value, ADMIN_BODY_DEPTH_MAX) {
            let detail = format!("the body is nested deeper than {ADMIN_BODY_DEPTH_MAX} levels");
            return Err(Problem::new(Fault::BadRequest, detail));
        }
        Ok(value)
    }
}

/// Whether lists and objects stand in each other more often than that. The parser has bounded its own recursion.
fn is_deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(all) => levels == 0 || all.iter().any(|one| is_deeper(one, levels - 1)),
        Value::Object(all) => levels == 0 || all.values().any(|one| is_deeper(one, levels - 1)),
        _ => false,
    }
}

/// The router of one door.
pub fn router(desk: Arc<Desk>) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let filter = MethodFilter::try_from(route.method.clone()).expect("the table has methods of RFC 9110");
        let Route { path, action, .. } = route;
        let pattern = path.clone();
        let handler = move |State(desk): State<Arc<Desk>>, request: Request| async move {
            handle(&desk, action, &pattern, request).await
        };
        router = router.route(&path, on(filter, handler));
    }
    router
        .fallback(|request: Request| async move {
            let detail = format!("there is no such page; {BASE}/openapi.json has all of them");
            Problem::new(Fault::NotFound, detail).answer(request.uri().path())
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let detail = format!("this page has no {}", request.method());
            let allow = Some(allowed(request.uri().path()));
            Problem { allow, ..Problem::new(Fault::MethodNotAllowed, detail) }.answer(request.uri().path())
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&desk), gate))
        .with_state(desk)
}

/// The methods of the page at this path.
fn allowed(path: &str) -> String {
    let mut methods: Vec<_> = routes()
        .into_iter()
        .filter(|route| parameters(&route.path, path).is_some())
        .map(|route| route.method.to_string())
        .collect();
    if methods.iter().any(|method| method == "GET") {
        methods.push("HEAD".into());
    }
    methods.join(", ")
}

/// Lets past who may ask, and says on every answer that it is for nobody else.
async fn gate(State(desk): State<Arc<Desk>>, mut request: Request, next: Next) -> Response {
    let mut response = match desk.admit(&request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => {
            let (_, word, _) = problem.fault.row();
            match request.extensions().get::<Peer>() {
                Some(Peer::Remote { from, .. }) => desk.refusals.tell(*from, word),
                _ => tracing::warn!(path = request.uri().path(), reason = word, "an admin request is refused"),
            }
            let mut response = problem.answer(request.uri().path());
            // Whoever is not let in keeps no place, and what else has been sent is not looked at.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn handle(desk: &Desk, action: Action, pattern: &str, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let caller = request.extensions().get::<Caller>().cloned();
    let (Some(caller), Some(parameters)) = (caller, parameters(pattern, &path)) else {
        return Problem::new(Fault::BadRequest, "the path is not percent-encoded UTF-8").answer(&path);
    };
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().map(str::to_owned);
    let call = Call { caller, parameters, query, headers: parts.headers, body };
    match act(desk, action, call).await {
        Ok(response) => response,
        Err(problem) => {
            if problem.fault == Fault::Internal {
                tracing::error!(path, problem = problem.detail, "an admin request has failed");
            }
            problem.answer(&path)
        }
    }
}

/// What stands in the path in place of the pattern's parameters; `None` where the path is not of the pattern.
fn parameters(pattern: &str, path: &str) -> Option<Vec<String>> {
    let (wanted, found): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
    if wanted.len() != found.len() {
        return None;
    }
    let mut parameters = Vec::new();
    for (wanted, found) in wanted.into_iter().zip(found) {
        if wanted.starts_with('{') {
            parameters.push(decode(found, false)?);
        } else if wanted != found {
            return None;
        }
    }
    Some(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_in_plain() {
        let one = "/api/v1/subscriptions/{application}/{api}";
        assert_eq!(parameters(one, "/api/v1/subscriptions/mobile/chat:v1").unwrap(), ["mobile", "chat:v1"]);
        assert_eq!(parameters(one, "/api/v1/subscriptions/a%2Fb/%C3%BC").unwrap(), ["a/b", "ü"]);
        assert_eq!(parameters(one, "/api/v1/subscriptions/a/%ff"), None);
        assert_eq!(parameters(one, "/api/v1/subscriptions/a"), None);
        assert_eq!(parameters("/api/v1/keys", "/api/v1/users"), None);
    }

    #[test]
    fn a_page_says_which_methods_it_has() {
        assert_eq!(allowed("/api/v1/keys"), "GET, POST, HEAD");
        assert_eq!(allowed("/api/v1/keys/a"), "GET, PUT, PATCH, DELETE, HEAD");
        assert_eq!(allowed("/api/v1/status"), "GET, HEAD");
    }
}
