//! Schemas of what is not of the model: what is told of objects, problems, batches, and how the gateway stands.

use serde_json::{Map, Value, json};

use super::{HOME, Kind, META, flag, nullable_secret, reference, with};
use crate::admin::problem::Fault;
use crate::schema;

/// Schemas of what is not of the model.
pub(super) fn schemas() -> Map<String, Value> {
    let nodes =
        json!({ "type": "array", "items": reference("NodeOutcome"), "description": "What became of it on each node." });
    let generation = json!({ "type": ["integer", "null"], "description": "The generation with the change in it; null: nothing is published yet." });
    let applied = flag("Whether every connected node serves it; there if it was waited for.");
    let meta = json!({
        "type": "object",
        "description": "What is told of an object beside what it says. Ignored when it is sent back.",
        "properties": {
            "origin": {
                "enum": ["declared", "stored", "built_in"],
                "description": "Whether a file declares it, it was created here, or the gateway brings it.",
            },
            "file": string("Of a declared object: the file."),
            "etag": string("Its entity tag, without quotes."),
            "created": string("When it was stored: RFC 3339."),
            "updated": string("When it was stored last: RFC 3339."),
            "kind": string("Its kind, in the answer to a batch."),
            "generation": generation.clone(), "applied": applied.clone(), "nodes": nodes.clone(),
        },
    });
    let done = json!({
        "type": "object",
        "properties": { "generation": generation, "applied": applied, "nodes": nodes, "application": string("The client's application.") },
    });
    let removed = json!({
        "type": "array",
        "items": { "type": "object", "properties": { "kind": string("What."), "id": string("Which.") } },
    });
    let all = json!({
        "Meta": meta,
        "ClientMeta": done.clone(),
        "ClientWrite": client_write(),
        "Problem": problem(),
        "NodeOutcome": {
            "type": "object",
            "required": ["node", "pid", "outcome"],
            "properties": {
                "node": string("The node's name."),
                "pid": whole("Its process id."),
                "outcome": { "enum": ["applied", "rejected", "superseded", "silent", "gone"] },
                "micros": whole("How long the node needed, in microseconds."),
                "reasons": { "type": "array", "items": { "type": "string" }, "description": "Why it refused." },
            },
        },
        "Removed": { "type": "object", "properties": { "removed": removed.clone(), META: done.clone() } },
        "Batch": batch(),
        "BatchDone": {
            "type": "object",
            "required": ["items", "removed"],
            "properties": {
                "items": { "type": "array", "items": { "type": "object" }, "description": "What was put, in the order of the changes, as POST answers it." },
                "removed": removed, META: done,
            },
        },
        "Published": {
            "type": "object",
            "properties": {
                "generation": {
                    "type": ["object", "null"],
                    "description": "null: nothing is published yet.",
                    "properties": { "source": string("The run of the control plane."), "number": whole("Counted from 1 in each run.") },
                },
                "checksum": string("The checksum of the whole."),
            },
        },
        "SigningKey": {
            "type": "object",
            "required": ["kid", "signs_from", "replaces", "keys"],
            "properties": {
                "kid": string("The new key's name."),
                "signs_from": string("From when on it signs: RFC 3339."),
                "replaces": {
                    "type": ["string", "null"],
                    "description": "The key that has signed until now. It is published until the last token that it signs has run out.",
                },
                "keys": whole("How many keys are published."),
            },
        },
        "Usage": usage(),
        "Status": {
            "type": "object",
            "description": "As `framegate status --json` prints it.",
            "properties": { "control_plane": { "type": "object" }, "nodes": { "type": "array", "items": { "type": "object" } } },
        },
    });
    match all {
        Value::Object(all) => all,
        _ => Map::new(),
    }
}

/// What is used of limits.
fn usage() -> Value {
    let row = json!({
        "type": "object",
        "required": ["node", "pid", "level", "key", "plan", "limit", "count", "amount", "used", "left", "stopped", "sessions"],
        "properties": {
            "node": string("The data plane's name: each counts for itself."),
            "pid": whole("Its process id."),
            "level": { "enum": ["application", "subscription", "api", "topic", "unauthenticated", "keyed", "session"] },
            "key": string("Whose count it is, as people read it: `alice of mobile`, `mobile at chat:v1`."),
            "api": string("The API that the key has; empty: none."),
            "application": string("The application that the key has; empty: none."),
            "plan": string("The plan."),
            "limit": string("The limit as it is written: `100/s`, `50000/day`."),
            "count": { "enum": ["messages", "frames", "bytes"], "description": "What is counted." },
            "amount": whole("The most that can pass at once: a bucket's burst, a quota's amount."),
            "used": whole("Used of the window, or missing from the full bucket; more than there is where a message ran over."),
            "left": whole("What may still pass."),
            "resets": {
                "type": ["string", "null"],
                "description": "When nothing of it will be used any more if nobody comes: RFC 3339; null: never.",
            },
            "sessions": whole("Live sessions of the key."),
            "stopped": whole("Messages that this limit stopped, as long as the data plane has known the key."),
        },
    });
    json!({
        "type": "object",
        "required": ["rows", "total", "silent"],
        "properties": {
            "rows": { "type": "array", "items": row, "description": "Those of which the largest part is used first." },
            "total": whole("How many rows fit, those that were left out among them."),
            "silent": {
                "type": "array",
                "items": { "type": "array", "prefixItems": [{ "type": "string" }, { "type": "integer" }] },
                "description": "The data planes that have not answered, by name and process id.",
            },
        },
    })
}

/// What went wrong, RFC 9457.
fn problem() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail", "instance"],
        "properties": {
            "type": { "type": "string", "enum": Fault::ALL.map(Fault::uri) },
            "title": string("The kind of problem, in a few words."),
            "status": whole("The status of the answer."),
            "detail": string("What it is this time, and what would be right."),
            "instance": string("The path that was asked for."),
            "file": string("The file that declares the object."),
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["pointer", "detail"],
                    "properties": { "pointer": string("JSON Pointer (RFC 6901) into the body."), "detail": string("What is wrong there.") },
                },
            },
        },
    })
}

/// What a batch is made of.
fn batch() -> Value {
    let kind = json!({ "enum": Kind::ALL.map(Kind::word) });
    let if_match = string("`*`, or the entity tag that it must have. Left out: what is put must be new.");
    json!({
        "type": "object",
        "required": ["changes"],
        "properties": { "changes": { "type": "array", "minItems": 1, "maxItems": crate::catalogue::CHANGES_MAX, "items": {
            "oneOf": [
                {
                    "type": "object", "required": ["kind", "put"], "additionalProperties": false,
                    "properties": { "kind": kind.clone(), "put": { "type": "object", "description": "The object, as POST takes it." }, "if_match": if_match.clone() },
                },
                {
                    "type": "object", "required": ["kind", "delete"], "additionalProperties": false,
                    "properties": { "kind": kind, "delete": string("The object's id."), "if_match": if_match },
                },
            ],
        } } },
    })
}

fn string(about: &str) -> Value {
    json!({ "type": "string", "description": about })
}

fn whole(about: &str) -> Value {
    json!({ "type": "integer", "description": about })
}

fn client_write() -> Value {
    let client = schema::definitions(HOME).remove("OAuthClient").unwrap_or_default();
    with(with(client, "secret", nullable_secret()), "has_secret", flag("Ignored."))
}
