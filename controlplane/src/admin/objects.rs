//! What the objects of the catalogue look like from outside, and how they are read from outside.
//!
//! Hashes never leave, so whoever writes an object back without them means to keep them. Where objects are kept, and
//! whether they are sound together, is the [`catalogue`](crate::catalogue)'s.

use serde_json::{Map, Value, json};

use super::problem::{Fault, Problem};
use super::query::Query;
pub use crate::catalogue::{Filter, Kind, Object, Origin};
use crate::source;

/// What is told of an object beside what it says.
pub const META: &str = "_meta";

/// What a kind is called in sentences and in the document, and where its objects are.
pub trait Noun: Copy {
    /// One of them, in a sentence.
    fn noun(self) -> &'static str;
    /// The name of its schema.
    fn schema(self) -> &'static str;
    /// The parameters of its path.
    fn id_path(self) -> &'static str;
    /// The parameters of its path, of its id.
    fn segments(self, id: &str) -> Vec<&str>;
    /// The member that has the id, or begins it.
    fn id_member(self) -> &'static str;
    /// The id that an object of this kind says that it has.
    fn id_of(self, value: &Value) -> String;
}

impl Noun for Kind {
    fn noun(self) -> &'static str {
        match self {
            Self::Api => "API",
            other => other.word(),
        }
    }

    fn schema(self) -> &'static str {
        match self {
            Self::Api => "Api",
            Self::Application => "Application",
            Self::Subscription => "Subscription",
            Self::Key => "ApiKey",
            Self::User => "User",
            Self::Revocation => "Revocation",
            Self::Plan => "Plan",
            Self::Denial => "Denial",
        }
    }

    fn id_path(self) -> &'static str {
        match self {
            Self::Api => "{api}",
            Self::Subscription => "{application}/{api}",
            Self::Revocation => "{revoked}",
            Self::Application | Self::Key | Self::User | Self::Plan | Self::Denial => "{name}",
        }
    }

    fn segments(self, id: &str) -> Vec<&str> {
        match self {
            Self::Subscription => id.splitn(2, '/').collect(),
            _ => vec![id],
        }
    }

    fn id_member(self) -> &'static str {
        match self {
            Self::Subscription => "application",
            Self::Revocation => "revoked",
            Self::Api | Self::Application | Self::Key | Self::User | Self::Plan | Self::Denial => "name",
        }
    }

    fn id_of(self, value: &Value) -> String {
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        match self {
            Self::Api if text("version").is_empty() => text("name").to_owned(),
            Self::Api => format!("{}:{}", text("name"), text("version")),
            Self::Subscription => format!("{}/{}", text("application"), text("api")),
            Self::Revocation => text("revoked").to_owned(),
            Self::Application | Self::Key | Self::User | Self::Plan | Self::Denial => text("name").to_owned(),
        }
    }
}

/// An object as it is shown.
pub fn present(object: &Object) -> Value {
    let mut value = object.shown();
    let mut meta = json!({ "etag": object.etag });
    match &object.origin {
        Origin::Declared { file } => {
            meta["origin"] = json!("declared");
            meta["file"] = json!(file);
        }
        Origin::Stored => meta["origin"] = json!("stored"),
        Origin::BuiltIn => meta["origin"] = json!("built_in"),
    }
    for (name, time) in [("created", object.created), ("updated", object.updated)] {
        if let Some(time) = time {
            meta[name] = json!(time.to_string());
        }
    }
    value[META] = meta;
    value
}

/// Whether the form of an object from outside is right; else every place where it is wrong.
pub fn check_form(kind: Kind, value: &Value) -> Result<(), Problem> {
    if !value.is_object() {
        return Err(Problem::new(Fault::Invalid, "the body is a JSON object"));
    }
    // A batch has thousands of them, each a fraction of a millisecond: others are served meanwhile.
    let faults = tokio::task::block_in_place(|| source::faults_of_entry(kind.family(), value));
    if faults.is_empty() { Ok(()) } else { Err(Problem::invalid(faults)) }
}

/// The members of a body, without what was told of the object when it was shown.
pub fn members(body: Value) -> Result<Map<String, Value>, Problem> {
    let Value::Object(mut body) = body else {
        return Err(Problem::new(Fault::Invalid, "the body is a JSON object"));
    };
    body.remove(META);
    body.remove("has_password");
    for client in body.get_mut("clients").and_then(Value::as_array_mut).into_iter().flatten() {
        client.as_object_mut().map(|client| client.remove("has_secret"));
    }
    Ok(body)
}

/// Puts in what is not shown where the body says nothing of it, and takes out what `null` takes away.
pub fn keep_hidden(kind: Kind, body: &mut Map<String, Value>, kept: Option<&Value>) {
    match kind {
        Kind::User => keep(body, "password", kept),
        Kind::Key => keep(body, "sha256", kept),
        Kind::Application => {
            let before = kept.and_then(|kept| kept["clients"].as_array());
            for client in body.get_mut("clients").and_then(Value::as_array_mut).into_iter().flatten() {
                let id = client["id"].clone();
                let same = before.into_iter().flatten().find(|one| one["id"].is_string() && one["id"] == id);
                client.as_object_mut().into_iter().for_each(|client| keep(client, "secret", same));
            }
        }
        Kind::Api | Kind::Subscription | Kind::Revocation | Kind::Plan | Kind::Denial => {}
    }
}

fn keep(body: &mut Map<String, Value>, field: &str, kept: Option<&Value>) {
    match (body.get(field), kept.and_then(|kept| kept.get(field))) {
        (Some(Value::Null), _) => {
            body.remove(field);
        }
        (None, Some(kept)) => {
            body.insert(field.into(), kept.clone());
        }
        _ => {}
    }
}

/// Which objects a query wants.
pub fn filter(query: &Query) -> Result<Filter, Problem> {
    let text = |name: &str| query.value(name).map(str::to_owned);
    Ok(Filter {
        application: text("application"),
        api: text("api"),
        user: text("user"),
        enabled: query.parsed("enabled", "true or false")?,
        text: text("contains"),
    })
}

/// There is none.
pub fn nothing(noun: &str, id: &str) -> Problem {
    Problem::new(Fault::NotFound, format!("there is no {noun} {id:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shown_is_kept_and_null_takes_it_away() {
        let kept = json!({ "name": "mobile", "clients": [{ "id": "a", "secret": "1" }, { "id": "b", "secret": "2" }] });
        let body = json!({
            "name": "mobile", "_meta": { "etag": "x" },
            "clients": [{ "id": "a", "has_secret": true }, { "id": "b", "secret": null }, { "id": "c" }],
        });
        let mut body = members(body).unwrap();
        keep_hidden(Kind::Application, &mut body, Some(&kept));
        let expected =
            json!({ "name": "mobile", "clients": [{ "id": "a", "secret": "1" }, { "id": "b" }, { "id": "c" }] });
        assert_eq!(Value::Object(body), expected);

        let mut body = members(json!({ "name": "alice", "has_password": true })).unwrap();
        keep_hidden(Kind::User, &mut body, Some(&json!({ "name": "alice", "password": "$argon2id$x" })));
        assert_eq!(Value::Object(body), json!({ "name": "alice", "password": "$argon2id$x" }));
    }

    #[test]
    fn an_object_says_its_own_id() {
        for (kind, value, id) in [
            (Kind::Api, json!({ "name": "chat" }), "chat"),
            (Kind::Api, json!({ "name": "chat", "version": "v1" }), "chat:v1"),
            (Kind::Subscription, json!({ "application": "mobile", "api": "chat:v1" }), "mobile/chat:v1"),
            (Kind::Revocation, json!({ "revoked": "token:partner/a/b" }), "token:partner/a/b"),
            (Kind::Key, json!({ "name": 5 }), ""),
        ] {
            assert_eq!(kind.id_of(&value), id);
            assert_eq!(kind.segments(id).join("/"), id);
        }
    }
}
