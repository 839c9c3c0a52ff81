//! Changes: an object from outside checked and handed to the catalogue, and what became of it told.
//!
//! What is sound, and what stands against a change, is the catalogue's to say; it is asked once, and whoever was
//! overtaken by another between reading and writing tries again.

use std::time::Duration;

use axum::http::header::{ETAG, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use proto::limits::{ADMIN_BATCH_BYTES_MAX, ADMIN_BODY_BYTES_MAX};
use proto::snapshot::{OWN_ISSUER, Timestamp};
use serde_json::{Map, Value, json};

use super::act::{as_value, document, location};
use super::conditions::{Condition, quoted};
use super::merge::merge;
use super::objects::{self, Kind, META, Noun, Object, Origin};
use super::problem::{Fault, Problem};
use super::query::{Query, encode};
use super::routes::{Call, Desk};
use super::secrets::{self, NoSecret, PASSWORD_BYTES_MAX};
use super::shelf;
use crate::answer::Outcome;
use crate::catalogue::{self, CHANGES_MAX, Change, Changed};

const JSON: &[&str] = &["application/json"];
const PATCH: &[&str] = &["application/merge-patch+json", "application/json"];
/// How long `wait=applied` waits when nobody says, and at most.
const WAIT: Duration = Duration::from_secs(5);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Passwords in clear in one batch: to hash each takes some 20 ms.
const BATCH_PASSWORDS_MAX: usize = 100;
/// How often a change is tried that others overtake.
const TRIES_MAX: usize = 8;

/// The header that says in which generation a change is.
const GENERATION: &str = "framegate-generation";

/// `POST /things`.
pub async fn create(desk: &Desk, kind: Kind, mut call: Call, query: &Query) -> Result<Response, Problem> {
    let wait = Wait::of(query)?;
    let mut body = objects::members(call.json(JSON, ADMIN_BODY_BYTES_MAX).await?)?;
    let made = complete(desk, kind, &mut body).await?;
    let change = put_of(kind, None, body, None, catalogue::Condition::MustBeNew)?;
    let changed = shelf::change(desk, vec![change], wait.within).await?;
    let Some(object) = changed.objects.first() else { return Err(lost()) };
    tell(&call, "create", kind, &object.id, &changed);
    let mut answer = objects::present(object);
    answer.as_object_mut().into_iter().for_each(|answer| answer.extend(made.clone()));
    wait.note(&changed, &mut answer)?;
    answer_with(StatusCode::CREATED, &answer, &changed, Some(location(kind, &object.id)))
}

/// `PUT /things/ID`.
pub async fn put(desk: &Desk, kind: Kind, mut call: Call, query: &Query) -> Result<Response, Problem> {
    let wait = Wait::of(query)?;
    let condition = Condition::of(&call.headers)?;
    let id = call.id();
    let mut body = objects::members(call.json(JSON, ADMIN_BODY_BYTES_MAX).await?)?;
    new_password(desk, kind, &mut body).await?;
    for _ in 0..TRIES_MAX {
        let before = shelf::find(desk, kind, &id).await?;
        check(&condition, before.as_ref())?;
        // What was not shown is kept of what was there: so that must still be there when it is written.
        let (still, kept) = (still(before.as_ref()), before.as_ref().map(|object| &object.value));
        let change = put_of(kind, Some(&id), body.clone(), kept, still)?;
        match shelf::change(desk, vec![change], wait.within).await {
            Ok(changed) => {
                tell(&call, "put", kind, &id, &changed);
                let Some(object) = changed.objects.first() else { return Err(lost()) };
                let mut answer = objects::present(object);
                wait.note(&changed, &mut answer)?;
                let (status, place) = match before.filter(|object| object.origin != Origin::BuiltIn) {
                    None => (StatusCode::CREATED, Some(location(kind, &id))),
                    Some(_) => (StatusCode::OK, None),
                };
                return answer_with(status, &answer, &changed, place);
            }
            Err(problem) if was_overtaken(&problem) => {}
            Err(problem) => return Err(problem),
        }
    }
    Err(overtaken())
}

/// `PATCH /things/ID`.
pub async fn patch(desk: &Desk, kind: Kind, mut call: Call, query: &Query) -> Result<Response, Problem> {
    let wait = Wait::of(query)?;
    let condition = Condition::of(&call.headers)?;
    let id = call.id();
    let mut body = objects::members(call.json(PATCH, ADMIN_BODY_BYTES_MAX).await?)?;
    new_password(desk, kind, &mut body).await?;
    let changed = amend(desk, kind, &id, &condition, &wait, |before| {
        let mut after = before.clone();
        merge(&mut after, Value::Object(body.clone()));
        // A list is put in place whole, and the clients with it: what is not shown of them stays.
        if let Some(after) = after.as_object_mut().filter(|_| body.contains_key("clients")) {
            objects::keep_hidden(kind, after, Some(before));
        }
        Ok(after)
    })
    .await?;
    tell(&call, "patch", kind, &id, &changed);
    let Some(object) = changed.objects.first() else { return Err(lost()) };
    let mut answer = objects::present(object);
    wait.note(&changed, &mut answer)?;
    answer_with(StatusCode::OK, &answer, &changed, None)
}

/// `DELETE /things/ID`.
pub async fn delete(desk: &Desk, kind: Kind, call: Call, query: &Query) -> Result<Response, Problem> {
    let wait = Wait::of(query)?;
    let condition = Condition::of(&call.headers)?;
    let cascade = query.parsed("cascade", "true or false")?.unwrap_or(false);
    let id = call.id();
    for _ in 0..TRIES_MAX {
        let still = if condition.is_empty() {
            catalogue::Condition::Any
        } else {
            let before = shelf::one(desk, kind, &id).await?;
            check(&condition, Some(&before))?;
            catalogue::Condition::MustMatch(before.etag)
        };
        let change = Change::Delete { kind, id: id.clone(), condition: still, cascade };
        match shelf::change(desk, vec![change], wait.within).await {
            Ok(changed) => {
                tell(&call, "delete", kind, &id, &changed);
                return gone(&wait, &changed);
            }
            Err(problem) if was_overtaken(&problem) => {}
            Err(problem) => return Err(problem),
        }
    }
    Err(overtaken())
}

/// `POST /batch`: all of it, or none.
pub async fn batch(desk: &Desk, mut call: Call, query: &Query) -> Result<Response, Problem> {
    let wait = Wait::of(query)?;
    let mut body = call.json(JSON, ADMIN_BATCH_BYTES_MAX).await?;
    let Some(Value::Array(list)) = body.get_mut("changes").map(Value::take) else {
        let detail =
            "write {\"changes\": [{\"kind\": \"key\", \"put\": {...}}, {\"kind\": \"key\", \"delete\": \"NAME\"}]}";
        return Err(Problem::invalid(vec![("/changes".into(), detail.into())]));
    };
    if list.is_empty() || list.len() > CHANGES_MAX {
        let detail = format!("a batch has 1 to {CHANGES_MAX} changes");
        return Err(Problem::invalid(vec![("/changes".into(), detail)]));
    }
    let passwords = list.iter().filter(|one| one["put"].get("new_password").is_some()).count();
    if passwords > BATCH_PASSWORDS_MAX {
        let detail = format!("a batch has at most {BATCH_PASSWORDS_MAX} new passwords; send hashes, or more batches");
        return Err(Problem::new(Fault::Invalid, detail));
    }
    let (mut changes, mut made, mut errors) = (Vec::with_capacity(list.len()), Vec::new(), Vec::new());
    for (at, one) in list.into_iter().enumerate() {
        match one_of_batch(desk, one).await {
            Ok((change, secrets)) => {
                if matches!(change, Change::Put { .. }) {
                    made.push(secrets);
                }
                changes.push(change);
            }
            Err(problem) if problem.fault == Fault::Invalid => {
                errors.extend(problem.inside(&format!("/changes/{at}")).errors);
            }
            Err(problem) => return Err(problem),
        }
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let count = changes.len();
    let changed = shelf::change_many(desk, changes, wait.within).await?;
    let (who, role) = (&call.caller.name, call.caller.role.word());
    let generation = changed.generation.as_ref().map(|one| one.number);
    tracing::info!(who, role, changes = count, generation, "admin: batch");
    let items = changed.objects.iter().zip(made).map(|(object, secrets)| {
        let mut shown = objects::present(object);
        shown[META]["kind"] = json!(object.kind.word());
        shown.as_object_mut().into_iter().for_each(|shown| shown.extend(secrets.clone()));
        shown
    });
    let removed = changed.removed.iter().map(|(kind, id)| json!({ "kind": kind.word(), "id": id }));
    let mut answer = json!({ "items": items.collect::<Vec<_>>(), "removed": removed.collect::<Vec<_>>(), META: {} });
    wait.note(&changed, &mut answer)?;
    let mut response = document(StatusCode::OK, &answer);
    name_generation(response.headers_mut(), &changed);
    Ok(response)
}

/// One change of a batch, and what was made for it.
async fn one_of_batch(desk: &Desk, one: Value) -> Result<(Change, Map<String, Value>), Problem> {
    let wrong = |place: &str, what: &str| Problem::invalid(vec![(place.into(), what.into())]);
    let form = |place: &str| wrong(place, "a change is {kind, put} or {kind, delete}, and may have if_match");
    let Value::Object(mut one) = one else { return Err(form("")) };
    let kind = one.remove("kind");
    let kind = kind.as_ref().and_then(Value::as_str).unwrap_or_default().parse::<Kind>();
    let kind = kind.map_err(|what| wrong("/kind", what))?;
    let condition = match one.remove("if_match") {
        None => None,
        Some(Value::String(tag)) if tag == "*" => Some(catalogue::Condition::MustExist),
        Some(Value::String(tag)) => Some(catalogue::Condition::MustMatch(tag.trim_matches('"').to_owned())),
        Some(_) => return Err(form("/if_match")),
    };
    match (one.remove("put"), one.remove("delete"), one.is_empty()) {
        (Some(value), None, true) => {
            let inside = |problem: Problem| problem.inside("/put");
            let mut body = objects::members(value).map_err(inside)?;
            let made = complete(desk, kind, &mut body).await.map_err(inside)?;
            let condition = condition.unwrap_or(catalogue::Condition::MustBeNew);
            Ok((put_of(kind, None, body, None, condition).map_err(inside)?, made))
        }
        (None, Some(Value::String(id)), true) => {
            let condition = condition.unwrap_or_default();
            Ok((Change::Delete { kind, id, condition, cascade: false }, Map::new()))
        }
        (None, Some(_), true) => Err(wrong("/delete", "the object's id is text")),
        _ => Err(form("")),
    }
}

/// `POST /applications/NAME/clients`: what is left out is made, the secret is told once.
pub async fn create_client(desk: &Desk, mut call: Call, query: &Query) -> Result<Response, Problem> {
    let wait = Wait::of(query)?;
    let condition = Condition::of(&call.headers)?;
    let name = call.parameters.first().cloned().unwrap_or_default();
    let mut body = objects::members(call.json(JSON, ADMIN_BODY_BYTES_MAX).await?)?;
    let mut made = Map::new();
    if !body.contains_key("id") {
        body.insert("id".into(), json!(secrets::client_id().map_err(no_secret)?));
    }
    let has_other_issuer =
        body.get("issuer").and_then(Value::as_str).is_some_and(|one| !["", OWN_ISSUER].contains(&one));
    match body.get("secret") {
        // Somebody else issues its tokens.
        Some(Value::Null) => {
            body.remove("secret");
        }
        Some(_) => {}
        None if has_other_issuer => {}
        None => {
            let secret = secrets::client_secret().map_err(no_secret)?;
            body.insert("secret".into(), json!(secret.hash.to_string()));
            made.insert("client_secret".into(), json!(secret.secret));
        }
    }
    let id = body.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let client = Value::Object(body);
    check_client(&client)?;
    let changed = amend(desk, Kind::Application, &name, &condition, &wait, |before| {
        let mut after = before.clone();
        let clients = after["clients"].as_array().cloned().unwrap_or_default();
        if clients.iter().any(|one| one["id"] == id.as_str()) {
            let detail = format!("the application has a client {id:?} already; choose another id");
            return Err(Problem::new(Fault::Exists, detail));
        }
        after["clients"] = clients.into_iter().chain([client.clone()]).collect();
        Ok(after)
    })
    .await
    .map_err(of_client)?;
    tell(&call, "create client of", Kind::Application, &format!("{name}/{id}"), &changed);
    let mut answer = client;
    if let Some(answer) = answer.as_object_mut() {
        let has_secret = answer.remove("secret").is_some();
        answer.insert("has_secret".into(), has_secret.into());
        answer.extend(made);
        answer.insert(META.into(), json!({ "application": name }));
    }
    wait.note(&changed, &mut answer)?;
    let place = format!("{}/clients/{}", location(Kind::Application, &name), encode(&id));
    answer_with(StatusCode::CREATED, &answer, &changed, Some(place))
}

/// `DELETE /applications/NAME/clients/ID`.
pub async fn delete_client(desk: &Desk, call: Call, query: &Query) -> Result<Response, Problem> {
    let wait = Wait::of(query)?;
    let condition = Condition::of(&call.headers)?;
    let [name, client] = call.parameters.as_slice() else { return Err(objects::nothing("client", "")) };
    let changed = amend(desk, Kind::Application, name, &condition, &wait, |before| {
        let mut after = before.clone();
        let clients = after["clients"].as_array().cloned().unwrap_or_default();
        let left: Vec<Value> = clients.iter().filter(|one| one["id"] != client.as_str()).cloned().collect();
        if left.len() == clients.len() {
            return Err(objects::nothing("client", client));
        }
        after["clients"] = left.into();
        Ok(after)
    })
    .await?;
    tell(&call, "delete client of", Kind::Application, &format!("{name}/{client}"), &changed);
    gone(&wait, &changed)
}

/// Reads an object, changes it, and writes it back, again if somebody else was faster and the condition still holds.
async fn amend(
    desk: &Desk,
    kind: Kind,
    id: &str,
    condition: &Condition,
    wait: &Wait,
    change: impl Fn(&Value) -> Result<Value, Problem>,
) -> Result<Changed, Problem> {
    for _ in 0..TRIES_MAX {
        let before = shelf::one(desk, kind, id).await?;
        check(condition, Some(&before))?;
        shelf::is_ours(&before)?;
        let after = objects::members(change(&before.value)?)?;
        let change = put_of(kind, Some(id), after, None, still(Some(&before)))?;
        match shelf::change(desk, vec![change], wait.within).await {
            Ok(changed) => return Ok(changed),
            Err(problem) if was_overtaken(&problem) => {}
            Err(problem) => return Err(problem),
        }
    }
    Err(overtaken())
}

/// What must still be so when an object is put that was found like this. What the gateway brings is not in the catalogue.
fn still(before: Option<&Object>) -> catalogue::Condition {
    match before.filter(|object| object.origin != Origin::BuiltIn) {
        None => catalogue::Condition::MustBeNew,
        Some(object) => catalogue::Condition::MustMatch(object.etag.clone()),
    }
}

/// A change that puts this object in place, once its form is right and it says the id that it is called by.
fn put_of(
    kind: Kind,
    id: Option<&str>,
    mut body: Map<String, Value>,
    kept: Option<&Value>,
    condition: catalogue::Condition,
) -> Result<Change, Problem> {
    objects::keep_hidden(kind, &mut body, kept);
    let value = Value::Object(body);
    objects::check_form(kind, &value)?;
    let own = kind.id_of(&value);
    match id {
        Some(id) if id != own => {
            let noun = kind.noun();
            let detail =
                format!("the path says {id:?} and the object {own:?}; a name cannot be changed, make another {noun}");
            Err(Problem::invalid(vec![(format!("/{}", kind.id_member()), detail)]))
        }
        _ => Ok(Change::Put { kind, id: own, value, condition }),
    }
}

fn was_overtaken(problem: &Problem) -> bool {
    problem.is_race
}

fn overtaken() -> Problem {
    Problem::new(Fault::Conflict, "others change this at the same time, again and again; try later")
}

fn lost() -> Problem {
    Problem::new(Fault::Internal, "the catalogue does not say what it has stored")
}

fn check(condition: &Condition, object: Option<&Object>) -> Result<(), Problem> {
    if condition.holds(object.map(|object| object.etag.as_str())) {
        return Ok(());
    }
    let detail = match object {
        Some(object) => format!("it has been changed meanwhile; read it again (its etag is \"{}\" now)", object.etag),
        None => "there is no such thing that could match".into(),
    };
    Err(Problem::new(Fault::PreconditionFailed, detail))
}

/// Makes what a new object needs and does not have; what is to be told once.
async fn complete(desk: &Desk, kind: Kind, body: &mut Map<String, Value>) -> Result<Map<String, Value>, Problem> {
    let mut made = Map::new();
    if kind == Kind::Key {
        if !body.contains_key("sha256") {
            let key = secrets::api_key().map_err(no_secret)?;
            body.insert("sha256".into(), json!(key.hash.to_string()));
            made.insert("key".into(), json!(key.secret));
        }
        if !body.contains_key("created") {
            body.insert("created".into(), json!(now().to_string()));
        }
    }
    new_password(desk, kind, body).await?;
    Ok(made)
}

/// A password in clear becomes its hash before anything else looks at the body.
async fn new_password(desk: &Desk, kind: Kind, body: &mut Map<String, Value>) -> Result<(), Problem> {
    if kind != Kind::User {
        return Ok(());
    }
    let Some(password) = body.remove("new_password") else { return Ok(()) };
    let fault = |detail: &str| Err(Problem::invalid(vec![("/new_password".into(), detail.into())]));
    let Value::String(password) = password else { return fault("a password is text") };
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        return fault(&format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes"));
    }
    if password.contains(char::is_control) {
        return fault("a password has no control characters: Basic cannot carry them (RFC 7617 §2)");
    }
    if body.get("password").is_some_and(|hash| !hash.is_null()) {
        return fault("either a new password or the hash of one, not both");
    }
    let hash = desk.hashing.hash(password).await.map_err(no_secret)?;
    body.insert("password".into(), json!(hash.0));
    Ok(())
}

/// Whether the form of a client from outside is right. It is looked at as one of an application's, and told of without
/// the way to it.
fn check_client(client: &Value) -> Result<(), Problem> {
    let around = json!({ "name": "x", "clients": [client] });
    objects::check_form(Kind::Application, &around).map_err(of_client)
}

/// The problem of an application as one of the client that was sent.
fn of_client(mut problem: Problem) -> Problem {
    for (pointer, _) in &mut problem.errors {
        if let Some(behind) = pointer.strip_prefix("/clients/") {
            *pointer = behind.find('/').map_or_else(String::new, |at| behind[at..].to_owned());
        }
    }
    problem
}

fn no_secret(error: NoSecret) -> Problem {
    Problem::new(Fault::Unavailable, error.to_string())
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_secs(since.map_or(0, |since| since.as_secs()))
}

/// One line for each change: who, what, which, in which generation. Never what stands in it.
fn tell(call: &Call, what: &str, kind: Kind, id: &str, changed: &Changed) {
    let generation = changed.generation.as_ref().map(|one| one.number);
    let (who, role) = (&call.caller.name, call.caller.role.word());
    tracing::info!(who, role, id, generation, "admin: {what} {}", kind.noun());
}

fn gone(wait: &Wait, changed: &Changed) -> Result<Response, Problem> {
    if wait.within.is_none() {
        let mut response = StatusCode::NO_CONTENT.into_response();
        name_generation(response.headers_mut(), changed);
        return Ok(response);
    }
    let removed = changed.removed.iter().map(|(kind, id)| json!({ "kind": kind.word(), "id": id }));
    let mut answer = json!({ "removed": removed.collect::<Vec<_>>(), META: {} });
    wait.note(changed, &mut answer)?;
    let mut response = document(StatusCode::OK, &answer);
    name_generation(response.headers_mut(), changed);
    Ok(response)
}

fn answer_with(
    status: StatusCode,
    answer: &Value,
    changed: &Changed,
    place: Option<String>,
) -> Result<Response, Problem> {
    let mut response = document(status, answer);
    let headers = response.headers_mut();
    if let Some(place) = place.and_then(|place| place.parse().ok()) {
        headers.insert(LOCATION, place);
    }
    if let Some(etag) = changed.objects.first().and_then(|object| quoted(&object.etag).parse().ok()) {
        headers.insert(ETAG, etag);
    }
    name_generation(headers, changed);
    Ok(response)
}

fn name_generation(headers: &mut HeaderMap, changed: &Changed) {
    if let Some(generation) = &changed.generation {
        headers.insert(GENERATION, generation.number.into());
    }
}

/// Whether, and for how long, a caller waits until the nodes serve what was changed.
struct Wait {
    within: Option<Duration>,
}

impl Wait {
    fn of(query: &Query) -> Result<Self, Problem> {
        let within = query.parsed::<proto::snapshot::Duration>("timeout", "a duration, such as 5s")?;
        let within = within.map_or(WAIT, |within| Duration::from_millis(within.as_ms()));
        if within > WAIT_MAX {
            let detail = format!("timeout is at most {} s", WAIT_MAX.as_secs());
            return Err(Problem::new(Fault::BadRequest, detail));
        }
        match query.value("wait") {
            None => Ok(Self { within: None }),
            Some("applied") => Ok(Self { within: Some(within) }),
            Some(_) => Err(Problem::new(Fault::BadRequest, "wait is applied, or left out")),
        }
    }

    /// Puts into the answer which generation it is, and, where the caller waited, what became of it on each node.
    fn note(&self, changed: &Changed, answer: &mut Value) -> Result<(), Problem> {
        answer[META]["generation"] = json!(changed.generation.as_ref().map(|one| one.number));
        if self.within.is_some() {
            let is_applied =
                changed.nodes.iter().all(|one| matches!(one.outcome, Outcome::Applied | Outcome::Superseded));
            answer[META]["applied"] = json!(is_applied && changed.generation.is_some());
            answer[META]["nodes"] = as_value(&changed.nodes)?;
        }
        Ok(())
    }
}
