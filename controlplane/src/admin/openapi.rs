//! The OpenAPI 3.1 document of the admin API, made of the table of routes and of the model's own schemas.
//!
//! It is served, and checked in as docs/openapi.json; a test compares it with the routes.

mod fixed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use proto::limits::USAGE_ROWS_MAX;
use serde_json::{Map, Value, json};

use super::objects::{Kind, META, Noun};
use super::problem::{self, Fault};
use super::routes::{Action, routes};
use crate::catalogue::PAGE_MAX;
use crate::schema;

const HOME: &str = "#/components/schemas";

/// A parameter of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    kind: &'static str,
    description: &'static str,
}

const fn parameter(name: &'static str, kind: &'static str, description: &'static str) -> Parameter {
    Parameter { name, kind, description }
}

const WAIT: Parameter =
    parameter("wait", "string", "`applied`: answer when every connected node has said what became of the change.");
const TIMEOUT: Parameter =
    parameter("timeout", "string", "How long to wait for that, such as `5s` (5s unless said; 60s at most).");
const CASCADE: Parameter = parameter(
    "cascade",
    "boolean",
    "Delete what refers to it as well: subscriptions and keys of an application, subscriptions to an API.",
);
const NOW: Parameter = parameter(
    "now",
    "boolean",
    "The new key signs as soon as the connected nodes have it, instead of waiting until others have read it as well.",
);
const LIMIT: Parameter = parameter("limit", "integer", "Objects in the page: 1 to 1000, 100 unless said.");
const AFTER: Parameter = parameter("after", "string", "The `next` of the page before.");
const CONTAINS: Parameter = parameter("contains", "string", "Only those whose id has this in it.");
const ENABLED: Parameter = parameter("enabled", "boolean", "Only those that are switched on, or off.");
const APPLICATION: Parameter = parameter("application", "string", "Only those of this application.");
const API: Parameter = parameter("api", "string", "Only those of this API version: `name:version`, or `name`.");
const USER: Parameter = parameter("user", "string", "Only those of this user.");

const _: () = assert!(PAGE_MAX == 1000, "the sentence about limit says so");

const TOP: Parameter = parameter(
    "top",
    "integer",
    "At most so many rows, those of which the largest part is used: 1 to 1000, 1000 unless said.",
);
const USAGE_API: Parameter =
    parameter("api", "string", "Only those of this API: `name:version`, or `name` for all its versions.");
const PLAN: Parameter = parameter("plan", "string", "Only those of this plan.");

const _: () = assert!(USAGE_ROWS_MAX == 1000, "the sentence about top says so");

/// By what a list can be narrowed.
pub fn filters(kind: Kind) -> Vec<Parameter> {
    match kind {
        Kind::Api | Kind::Application => vec![CONTAINS, ENABLED],
        Kind::Subscription => vec![CONTAINS, ENABLED, APPLICATION, API],
        Kind::Key => vec![CONTAINS, ENABLED, APPLICATION, USER],
        Kind::User => vec![CONTAINS, ENABLED, APPLICATION],
        Kind::Revocation | Kind::Plan => vec![CONTAINS],
        Kind::Denial => vec![CONTAINS, ENABLED, APPLICATION, API, USER],
    }
}

/// Every parameter that the query of a route may have.
pub fn query(action: Action) -> Vec<Parameter> {
    match action {
        Action::List(kind) => [vec![LIMIT, AFTER], filters(kind)].concat(),
        Action::Delete(Kind::Api | Kind::Application) => vec![WAIT, TIMEOUT, CASCADE],
        Action::Create(_) | Action::Put(_) | Action::Patch(_) | Action::Delete(_) => vec![WAIT, TIMEOUT],
        Action::Batch | Action::CreateClient | Action::DeleteClient => vec![WAIT, TIMEOUT],
        Action::RotateSigningKey => vec![NOW],
        Action::Usage => vec![USAGE_API, APPLICATION, PLAN, TOP],
        Action::Show(_) | Action::ShowClient | Action::Status | Action::Generation | Action::OpenApi => Vec::new(),
    }
}

/// The document.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(write);
    &DOCUMENT
}

/// [`document`] as text, as docs/ has it.
pub fn text() -> String {
    let text = serde_json::to_string_pretty(document()).expect("JSON values can be written");
    text + "\n"
}

fn write() -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for route in routes() {
        let method = route.method.as_str().to_lowercase();
        paths.entry(route.path.clone()).or_default().insert(method, operation(&route.path, route.action));
    }
    json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "Framegate admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Publishes APIs, and says who may use them.",
            "description": "On the admin socket everybody who may open it is an operator. On the admin port a bearer token or a \
                client certificate says who calls; the role read_only may use GET and HEAD, the role operator everything. \
                Errors are problem documents (RFC 9457). What a file of the configuration declares can be read here and \
                not changed.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "The admin socket, or the admin port." }],
        "security": [{ "token": [] }, { "certificate": [] }, {}],
        "tags": tags(),
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": responses(),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "A token of --admin-tokens." },
                "certificate": {
                    "type": "mutualTLS",
                    "description": "A certificate with the URI framegate:operator or framegate:read_only.",
                },
            },
        },
    })
}

fn tags() -> Vec<Value> {
    let families = Kind::ALL.map(|kind| {
        let about = match kind {
            Kind::Api => "Published APIs, one object for each version.",
            Kind::Application => "Who subscribes to APIs, with their OAuth2 clients.",
            Kind::Subscription => "Which application may use which API.",
            Kind::Key => "API keys of applications. A key is told once, by the request that makes it.",
            Kind::User => "Who proves who they are by a password or a certificate.",
            Kind::Revocation => "What was good and is so no more.",
            Kind::Plan => {
                "How much may pass, and what becomes of the rest. Those that the gateway brings are among them."
            }
            Kind::Denial => "Whose messages do not pass, from now on.",
        };
        json!({ "name": kind.family(), "description": about })
    });
    let gateway = json!({ "name": "gateway", "description": "How the gateway stands, and changes of several kinds." });
    families.into_iter().chain([gateway]).collect()
}

/// How an action is told: its tag, its name, a sentence.
fn words(action: Action) -> (&'static str, String, String) {
    let of = |kind: Kind, verb: &str, sentence: String| (kind.family(), format!("{verb}{}", kind.schema()), sentence);
    let with = |noun: &str| if noun.starts_with(['a', 'A']) { format!("an {noun}") } else { format!("a {noun}") };
    match action {
        Action::List(kind) => {
            of(kind, "list", format!("List {}, a page at a time, in the order of their ids", kind.family()))
        }
        Action::Create(kind) => of(kind, "create", format!("Create {}", with(kind.noun()))),
        Action::Show(kind) => of(kind, "show", format!("Show {}", with(kind.noun()))),
        Action::Put(kind) => of(kind, "put", format!("Create {}, or replace it", with(kind.noun()))),
        Action::Patch(kind) => {
            of(kind, "patch", format!("Change {} by a JSON merge patch (RFC 7396)", with(kind.noun())))
        }
        Action::Delete(kind) => of(kind, "delete", format!("Delete {}", with(kind.noun()))),
        Action::CreateClient => (
            "applications",
            "createClient".into(),
            "Create an OAuth2 client of an application; its secret is told once".into(),
        ),
        Action::ShowClient => ("applications", "showClient".into(), "Show an OAuth2 client of an application".into()),
        Action::DeleteClient => {
            ("applications", "deleteClient".into(), "Delete an OAuth2 client of an application".into())
        }
        Action::Batch => ("gateway", "batch".into(), "Make many changes, all of them or none".into()),
        Action::RotateSigningKey => (
            "gateway",
            "rotateSigningKey".into(),
            "Make the next signing key of the token endpoint, and publish it, before its time".into(),
        ),
        Action::Status => ("gateway", "status".into(), "How the control plane and its nodes stand".into()),
        Action::Usage => ("gateway", "usage".into(), "What is used of limits, by key, as the data planes say".into()),
        Action::Generation => ("gateway", "generation".into(), "Which generation is published".into()),
        Action::OpenApi => ("gateway", "openApi".into(), "This document".into()),
    }
}

fn operation(path: &str, action: Action) -> Value {
    let (tag, name, summary) = words(action);
    let mut operation = json!({
        "tags": [tag],
        "operationId": name,
        "summary": summary,
        "parameters": parameters(path, action),
        "responses": answers(action),
    });
    if let Some((media_types, schema)) = body(action) {
        let content: Map<_, _> =
            media_types.iter().map(|media_type| ((*media_type).to_owned(), json!({ "schema": schema }))).collect();
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn parameters(path: &str, action: Action) -> Vec<Value> {
    let names = path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let mut all: Vec<_> = names
        .map(|name| {
            let about = match name {
                "api" => "The API version: `name:version`, or `name` of an API without versions.",
                "application" => "The application's name.",
                "client" => "The client's id.",
                "revoked" => "What is revoked, such as `user:alice`; a slash in it is written %2F.",
                _ => "Its name.",
            };
            json!({ "name": name, "in": "path", "required": true, "description": about, "schema": { "type": "string" } })
        })
        .collect();
    all.extend(query(action).iter().map(|one| {
        json!({ "name": one.name, "in": "query", "description": one.description, "schema": { "type": one.kind } })
    }));
    let header = |name: &str, about: &str| json!({ "name": name, "in": "header", "description": about, "schema": { "type": "string" } });
    let if_match = || header("If-Match", "Only if the object still has one of these entity tags, or (`*`) is there.");
    match action {
        Action::Show(_) => all.push(header("If-None-Match", "Answer 304 if it still has one of these entity tags.")),
        Action::Put(_) => {
            all.push(if_match());
            all.push(header("If-None-Match", "`*`: only if there is none yet."));
        }
        Action::Patch(_) | Action::Delete(_) | Action::CreateClient | Action::DeleteClient => all.push(if_match()),
        _ => {}
    }
    all
}

/// What a route wants to be sent.
fn body(action: Action) -> Option<(&'static [&'static str], Value)> {
    const JSON: &[&str] = &["application/json"];
    match action {
        Action::Create(Kind::Key) => Some((JSON, reference("ApiKeyCreate"))),
        Action::Create(kind) | Action::Put(kind) => Some((JSON, reference(&format!("{}Write", kind.schema())))),
        Action::Patch(kind) => {
            let about = format!("A merge patch of {}: members that are null go.", kind.schema());
            let patch = json!({ "type": "object", "description": about });
            Some((&["application/merge-patch+json", "application/json"], patch))
        }
        Action::CreateClient => Some((JSON, reference("ClientCreate"))),
        Action::Batch => Some((JSON, reference("Batch"))),
        _ => None,
    }
}

fn answers(action: Action) -> Map<String, Value> {
    let content = |schema: Value| json!({ "application/json": { "schema": schema } });
    let text = |about: &str| json!({ "description": about, "schema": { "type": "string" } });
    let etag = || text("The object's entity tag.");
    let generation =
        || json!({ "description": "The generation with the change in it.", "schema": { "type": "integer" } });
    let one = |name: &str, about: &str| json!({ "description": about, "content": content(reference(name)) });
    let mut all = Map::new();
    let mut add = |status: &str, answer: Value| all.insert(status.into(), answer);
    let with = |mut answer: Value, headers: Value| {
        answer["headers"] = headers;
        answer
    };
    match action {
        Action::List(kind) => {
            let link = text("The next page, where there is one (RFC 8288).");
            add("200", with(one(&format!("{}Page", kind.schema()), "A page."), json!({ "Link": link })));
        }
        Action::Show(kind) => {
            add("200", with(one(kind.schema(), "The object."), json!({ "ETag": etag() })));
            add("304", json!({ "description": "It has not changed." }));
        }
        Action::ShowClient => drop(add("200", one("Client", "The client."))),
        Action::Create(kind) => {
            let name = if kind == Kind::Key { "ApiKeyCreated" } else { kind.schema() };
            let headers =
                json!({ "ETag": etag(), "Location": text("Where it is."), "Framegate-Generation": generation() });
            add("201", with(one(name, "It is created."), headers));
        }
        Action::CreateClient => {
            let headers =
                json!({ "ETag": etag(), "Location": text("Where it is."), "Framegate-Generation": generation() });
            add("201", with(one("ClientCreated", "It is created."), headers));
        }
        Action::Put(kind) => {
            let headers = json!({ "ETag": etag(), "Framegate-Generation": generation() });
            add("200", with(one(kind.schema(), "It is replaced."), headers.clone()));
            add("201", with(one(kind.schema(), "It is created."), headers));
        }
        Action::Patch(kind) => {
            let headers = json!({ "ETag": etag(), "Framegate-Generation": generation() });
            add("200", with(one(kind.schema(), "It is changed."), headers));
        }
        Action::Delete(_) | Action::DeleteClient => {
            let headers = json!({ "Framegate-Generation": generation() });
            add("200", with(one("Removed", "It is gone, and the nodes were waited for."), headers.clone()));
            add("204", with(json!({ "description": "It is gone." }), headers));
        }
        Action::Batch => {
            let headers = json!({ "Framegate-Generation": generation() });
            add("200", with(one("BatchDone", "All of it is done."), headers));
        }
        Action::RotateSigningKey => drop(add("200", one("SigningKey", "It is published."))),
        Action::Status => drop(add("200", one("Status", "How everything stands."))),
        Action::Usage => drop(add("200", one("Usage", "What is used."))),
        Action::Generation => drop(add("200", one("Published", "What is published."))),
        Action::OpenApi => {
            let any = json!({ "type": "object", "description": "An OpenAPI 3.1 document." });
            add("200", json!({ "description": "The document.", "content": content(any) }));
        }
    }
    let statuses: BTreeSet<u16> = faults(action).into_iter().map(|fault| fault.row().0).collect();
    for status in statuses {
        add(&status.to_string(), json!({ "$ref": format!("#/components/responses/Problem{status}") }));
    }
    all
}

/// How a request for this can fail.
fn faults(action: Action) -> Vec<Fault> {
    use Fault::*;
    let mut all = vec![BadRequest, Unauthenticated, ForbiddenRole, ForeignSite, MethodNotAllowed, Internal];
    if matches!(action, Action::OpenApi | Action::Status | Action::Usage | Action::Generation) {
        return all;
    }
    all.push(Unavailable);
    if action == Action::RotateSigningKey {
        all.push(Conflict);
        return all;
    }
    if !matches!(action, Action::List(_) | Action::Create(_)) {
        all.push(NotFound);
    }
    if body(action).is_some() {
        all.extend([TooLarge, UnsupportedMediaType, Invalid, TooSlow]);
    }
    match action {
        Action::List(_) | Action::Show(_) | Action::ShowClient => {}
        Action::Create(_) => all.extend([Exists, Conflict]),
        _ => all.extend([Exists, Declared, Conflict, PreconditionFailed, Invalid]),
    }
    all
}

fn responses() -> Map<String, Value> {
    let mut all: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for fault in Fault::ALL {
        let (status, word, title) = fault.row();
        all.entry(status).or_default().push(format!("`{word}`: {title}."));
    }
    let response = |(status, sentences): (u16, Vec<String>)| {
        let content = json!({ problem::MEDIA_TYPE: { "schema": reference("Problem") } });
        (format!("Problem{status}"), json!({ "description": sentences.join(" "), "content": content }))
    };
    all.into_iter().map(response).collect()
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{HOME}/{name}") })
}

/// Which of the model's schemas are wanted, with those that are made of them.
fn schemas() -> Map<String, Value> {
    let mut model = schema::definitions(HOME);
    let mut all = Map::new();
    for kind in Kind::ALL {
        let name = kind.schema();
        let written = model.get(name).cloned().unwrap_or_default();
        all.insert(format!("{name}Write"), writable(kind, written.clone()));
        all.insert(name.to_owned(), readable(kind, written));
        all.insert(format!("{name}Page"), page(name));
    }
    let client = model.get("OAuthClient").cloned().unwrap_or_default();
    all.insert("ClientCreate".into(), optional(with(client.clone(), "secret", nullable_secret()), &["id"]));
    let shown = with(without(client, "secret"), "has_secret", flag("Whether the gateway issues it tokens."));
    let told = json!({ "type": "string", "description": "The client's secret, told this once." });
    let created = with(with(shown.clone(), "client_secret", told), META, reference("ClientMeta"));
    all.insert("ClientCreated".into(), created);
    all.insert("Client".into(), shown);
    let key = model.get("ApiKey").cloned().unwrap_or_default();
    all.insert("ApiKeyCreate".into(), optional(with(key, "sha256", hash_of_key()), &["sha256"]));
    let told =
        json!({ "type": "string", "description": "The key itself, told this once; not there where a hash was sent." });
    let made = all.get("ApiKey").cloned().unwrap_or_default();
    all.insert("ApiKeyCreated".into(), with(made, "key", told));
    all.extend(fixed::schemas());
    // What these refer to of the model, and what that refers to.
    let mut wanted = references(&Value::Object(all.clone()));
    while let Some(name) = wanted.pop() {
        if !all.contains_key(&name)
            && let Some(schema) = model.remove(&name)
        {
            wanted.extend(references(&schema));
            all.insert(name, schema);
        }
    }
    all
}

/// The schema of an object as it is shown.
fn readable(kind: Kind, schema: Value) -> Value {
    let schema = with(schema, META, reference("Meta"));
    match kind {
        Kind::User => with(without(schema, "password"), "has_password", flag("Whether the user has a password.")),
        Kind::Key => without(schema, "sha256"),
        Kind::Application => with(schema, "clients", json!({ "type": "array", "items": reference("Client") })),
        Kind::Api | Kind::Subscription | Kind::Revocation | Kind::Plan | Kind::Denial => schema,
    }
}

/// The schema of an object as it is sent: what was only told is ignored, what is not shown may be left out.
fn writable(kind: Kind, schema: Value) -> Value {
    let ignored = json!({ "type": "object", "description": "What was told of the object; ignored." });
    let schema = with(schema, META, ignored);
    match kind {
        Kind::User => {
            let schema = with(schema, "has_password", flag("Ignored."));
            let password = json!({
                "type": "string", "writeOnly": true, "minLength": 1,
                "description": "A new password in clear; kept as its Argon2id hash, and never shown.",
            });
            let hash = json!({
                "type": ["string", "null"], "writeOnly": true,
                "description": "The Argon2 hash of a password. Left out: the one from before stays. null: no password is good.",
            });
            with(with(schema, "new_password", password), "password", hash)
        }
        Kind::Key => optional(with(schema, "sha256", hash_of_key()), &["sha256"]),
        Kind::Application => with(schema, "clients", json!({ "type": "array", "items": reference("ClientWrite") })),
        Kind::Api | Kind::Subscription | Kind::Revocation | Kind::Plan | Kind::Denial => schema,
    }
}

fn hash_of_key() -> Value {
    json!({
        "type": "string", "pattern": "^[0-9a-f]{64}$", "writeOnly": true,
        "description": "The SHA-256 of a key that was made elsewhere. Left out: a new object gets a new key, an old one keeps its own.",
    })
}

fn nullable_secret() -> Value {
    json!({
        "type": ["string", "null"], "pattern": "^[0-9a-f]{64}$", "writeOnly": true,
        "description": "The SHA-256 of a secret that was made elsewhere. Left out: a new client gets a new secret, an old one \
            keeps its own. null: it has none.",
    })
}

fn flag(about: &str) -> Value {
    json!({ "type": "boolean", "description": about })
}

fn page(name: &str) -> Value {
    json!({
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": { "type": "array", "items": reference(name) },
            "next": { "type": ["string", "null"], "description": "What `after` is for the next page; null on the last one." },
        },
    })
}

fn with(mut schema: Value, property: &str, its: Value) -> Value {
    schema["properties"][property] = its;
    schema
}

fn without(mut schema: Value, property: &str) -> Value {
    schema["properties"].as_object_mut().map(|all| all.remove(property));
    optional(schema, &[property])
}

fn optional(mut schema: Value, properties: &[&str]) -> Value {
    let required = schema["required"].as_array_mut();
    required.into_iter().for_each(|all| all.retain(|one| !properties.iter().any(|property| one == property)));
    schema
}

/// The names of the schemas that are referred to.
fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(object) => object
            .iter()
            .flat_map(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(target)) => {
                    target.strip_prefix(HOME).map(|name| name[1..].to_owned()).into_iter().collect()
                }
                _ => references(value),
            })
            .collect(),
        Value::Array(array) => array.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_document_and_every_page_of_the_document_is_a_route() {
        let told: BTreeSet<_> = document()["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
            })
            .collect();
        let known: BTreeSet<_> = routes()
            .into_iter()
            .map(|route| format!("{} {}", route.method.as_str().to_lowercase(), route.path))
            .collect();
        assert_eq!(told, known);
        assert!(known.len() > 40);
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_its_own_name() {
        let document = document();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for name in references(document).into_iter().filter(|name| !name.is_empty()) {
            assert!(schemas.contains_key(&name), "{name}");
        }
        let operations =
            document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
        let names: Vec<_> = operations.map(|one| one["operationId"].as_str().unwrap()).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn no_hash_and_no_password_is_in_what_is_shown() {
        let schemas = &document()["components"]["schemas"];
        for (name, hidden) in
            [("User", "password"), ("User", "new_password"), ("ApiKey", "sha256"), ("Client", "secret")]
        {
            assert!(schemas[name]["properties"].get(hidden).is_none(), "{name}.{hidden}");
        }
    }
}
