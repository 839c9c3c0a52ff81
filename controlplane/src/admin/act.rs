//! What is done for each route: the query read, the catalogue asked, the answer written.
//!
//! Changes are in `writing`; what an object looks like from outside is in `objects`.

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, ETAG, LINK};
use axum::response::{IntoResponse, Response};
use proto::control::message::UsageAsked;
use proto::limits::USAGE_ROWS_MAX;
use serde_json::{Value, json};

use super::conditions::{Condition, quoted};
use super::objects::{self, Kind, Noun};
use super::openapi;
use super::problem::{Fault, Problem};
use super::query::{Query, encode};
use super::routes::{Action, BASE, Call, Desk};
use super::{shelf, writing};
use crate::catalogue::PAGE_MAX;
use crate::material::Moment;
use crate::tokens::rotate::RotateError;

/// Objects in a page when nobody says.
const PAGE: usize = 100;

/// Does it.
pub async fn act(desk: &Desk, action: Action, call: Call) -> Result<Response, Problem> {
    let names: Vec<&str> = openapi::query(action).into_iter().map(|parameter| parameter.name).collect();
    let query = Query::parse(call.query.as_deref(), &names)?;
    match action {
        Action::List(kind) => list(desk, kind, &query).await,
        Action::Show(kind) => show(desk, kind, call).await,
        Action::Create(kind) => writing::create(desk, kind, call, &query).await,
        Action::Put(kind) => writing::put(desk, kind, call, &query).await,
        Action::Patch(kind) => writing::patch(desk, kind, call, &query).await,
        Action::Delete(kind) => writing::delete(desk, kind, call, &query).await,
        Action::Batch => writing::batch(desk, call, &query).await,
        Action::CreateClient => writing::create_client(desk, call, &query).await,
        Action::ShowClient => show_client(desk, call).await,
        Action::DeleteClient => writing::delete_client(desk, call, &query).await,
        Action::RotateSigningKey => rotate(desk, call, &query).await,
        Action::Status => Ok(document(StatusCode::OK, &as_value(&desk.office.status().await)?)),
        Action::Usage => usage(desk, &query).await,
        Action::Generation => Ok(document(StatusCode::OK, &generation(desk))),
        Action::OpenApi => Ok(document(StatusCode::OK, openapi::document())),
    }
}

/// A JSON document as an answer.
pub fn document(status: StatusCode, value: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], Body::from(value.to_string() + "\n")).into_response()
}

/// Anything of ours as JSON.
pub fn as_value<T: serde::Serialize>(thing: &T) -> Result<Value, Problem> {
    serde_json::to_value(thing).map_err(|_| Problem::new(Fault::Internal, "the answer cannot be written as JSON"))
}

/// The URL of one object.
pub fn location(kind: Kind, id: &str) -> String {
    let segments: Vec<String> = kind.segments(id).into_iter().map(encode).collect();
    format!("{BASE}/{}/{}", kind.family(), segments.join("/"))
}

async fn list(desk: &Desk, kind: Kind, query: &Query) -> Result<Response, Problem> {
    let limit = query.parsed::<usize>("limit", "a whole number")?.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Problem::new(Fault::BadRequest, format!("limit is 1 to {PAGE_MAX}")));
    }
    let after = query.value("after").map(str::to_owned);
    let page = shelf::list(desk, kind, objects::filter(query)?, after, limit).await?;
    let items: Vec<Value> = page.items.iter().map(objects::present).collect();
    let mut response = document(StatusCode::OK, &json!({ "items": items, "next": page.next }));
    if let Some(next) = &page.next {
        let mut target = format!("{BASE}/{}?after={}&limit={limit}", kind.family(), encode(next));
        for parameter in openapi::filters(kind) {
            if let Some(value) = query.value(parameter.name) {
                target.push_str(&format!("&{}={}", parameter.name, encode(value)));
            }
        }
        if let Ok(link) = format!("<{target}>; rel=\"next\"").parse() {
            response.headers_mut().insert(LINK, link);
        }
    }
    Ok(response)
}

async fn show(desk: &Desk, kind: Kind, call: Call) -> Result<Response, Problem> {
    let object = shelf::one(desk, kind, &call.id()).await?;
    let etag = quoted(&object.etag);
    if Condition::of(&call.headers)?.is_known(&object.etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let mut response = document(StatusCode::OK, &objects::present(&object));
    if let Ok(etag) = etag.parse() {
        response.headers_mut().insert(ETAG, etag);
    }
    Ok(response)
}

async fn show_client(desk: &Desk, call: Call) -> Result<Response, Problem> {
    let [name, client] = call.parameters.as_slice() else { return Err(objects::nothing("client", "")) };
    let application = shelf::one(desk, Kind::Application, name).await?.shown();
    let clients = application["clients"].as_array();
    let found = clients.into_iter().flatten().find(|one| one["id"] == client.as_str());
    found.map(|one| document(StatusCode::OK, one)).ok_or_else(|| objects::nothing("client", client))
}

async fn rotate(desk: &Desk, call: Call, query: &Query) -> Result<Response, Problem> {
    let at_once = query.parsed("now", "true or false")?.unwrap_or(false);
    let next = desk.office.rotations().ask(at_once).await.map_err(|error| {
        let fault = match error {
            RotateError::NoEndpoint | RotateError::Replace(_) => Fault::Conflict,
            RotateError::Unable => Fault::Unavailable,
        };
        Problem::new(fault, error.to_string())
    })?;
    let (who, role, kid) = (&call.caller.name, call.caller.role.word(), &next.kid);
    tracing::info!(who, role, kid, at_once, "admin: rotate signing key");
    let signs_from = Moment(next.signs_from).to_string();
    let answer = json!({ "kid": kid, "signs_from": signs_from, "replaces": next.replaces, "keys": next.keys });
    Ok(document(StatusCode::OK, &answer))
}

async fn usage(desk: &Desk, query: &Query) -> Result<Response, Problem> {
    let text = |name: &str| query.value(name).map(str::to_owned);
    let top = query.parsed::<u32>("top", "a whole number")?;
    if top.is_some_and(|top| top == 0 || top as usize > USAGE_ROWS_MAX) {
        return Err(Problem::new(Fault::BadRequest, format!("top is 1 to {USAGE_ROWS_MAX}")));
    }
    let (api, application, plan) = (text("api"), text("application"), text("plan"));
    let used = desk.office.usage(UsageAsked { api, application, plan, rows_max: top.unwrap_or(0) }).await;
    Ok(document(StatusCode::OK, &as_value(&used)?))
}

fn generation(desk: &Desk) -> Value {
    match desk.office.publisher().current() {
        None => json!({ "generation": null }),
        Some(current) => json!({
            "generation": { "source": current.generation.source, "number": current.generation.number },
            "checksum": current.snapshot.checksum().to_string(),
        }),
    }
}
