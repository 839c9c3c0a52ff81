//! docs/configuration.md, from the JSON Schema: every key, its type, its default, its sentence.

use std::fmt::Write;

use serde_json::{Map, Value};

const INTRODUCTION: &str = include_str!("introduction.md");

/// The structs in the order in which an operator meets them.
const ORDER: [&str; 51] = [
    "Settings",
    "Certificate",
    "Authorities",
    "Listener",
    "ListenerTls",
    "ClientCertificates",
    "Upstream",
    "Endpoint",
    "UpstreamTls",
    "CipherSuite",
    "Api",
    "Topic",
    "Endpoints",
    "Target",
    "SessionOptions",
    "Pings",
    "LegPings",
    "MessageLimits",
    "Authentication",
    "CredentialForm",
    "Step",
    "Conditions",
    "Match",
    "SetHeader",
    "RenameHeader",
    "Routing",
    "Router",
    "TargetTemplate",
    "ForwardAuth",
    "Application",
    "OAuthClient",
    "Subscription",
    "ApiKey",
    "KeyRestrictions",
    "User",
    "Revocation",
    "Plan",
    "Limit",
    "OnLimit",
    "Notice",
    "LimitPolicy",
    "ConditionGroup",
    "KeyedLimit",
    "Denial",
    "Admission",
    "Issuer",
    "ClaimNames",
    "Introspection",
    "Assertion",
    "TokenEndpoint",
    "Duration and Size",
];

/// What is told in one section together.
const UNITS: [&str; 3] = ["Duration", "Size", "Amount"];

/// The whole page.
pub fn page(schema: &Value) -> String {
    let mut page = String::from(INTRODUCTION);
    let _ = write!(page, "\n## The document\n\n");
    table(schema, schema, &mut page);
    for name in ORDER {
        match schema["$defs"].get(name) {
            Some(definition) if is_long(definition) => choice(name, definition, &mut page),
            Some(definition) => section(name, definition, schema, &mut page),
            None => units(schema, &mut page),
        }
    }
    let told: Vec<&str> = ORDER.into_iter().chain(UNITS).collect();
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        let is_told = told.contains(&name.as_str()) || words(definition).is_some() || is_text(definition);
        assert!(is_told, "{name} has no place in the reference");
    }
    page
}

fn section(name: &str, definition: &Value, schema: &Value, page: &mut String) {
    let _ = write!(page, "\n## {name}\n\n{}\n\n", text(definition));
    if let Some(branches) = definition["oneOf"].as_array() {
        let (plain, branches): (Vec<&Value>, Vec<&Value>) =
            branches.iter().partition(|branch| branch.get("const").is_some());
        for word in &plain {
            let _ = writeln!(page, "- `{}`: {}", word["const"].as_str().unwrap(), text(word));
        }
        let or = if plain.is_empty() { "Exactly one" } else { "\nOr exactly one" };
        let _ = write!(page, "{or} of these keys:\n\n");
        let mut merged = Map::new();
        branches.iter().filter_map(|one| one["properties"].as_object()).for_each(|one| merged.extend(one.clone()));
        let merged = serde_json::json!({ "properties": merged, "oneOf": branches });
        table(&with_branch_texts(merged, &branches), schema, page);
    } else {
        table(definition, schema, page);
    }
}

/// A choice of so many words that they stand in a section of their own.
fn is_long(definition: &Value) -> bool {
    words(definition).is_some_and(|words| words.len() > 4)
}

fn choice(name: &str, definition: &Value, page: &mut String) {
    let _ = write!(page, "\n## {name}\n\n{}\n\n", text(definition));
    for (word, meaning) in words(definition).unwrap_or_default() {
        let meaning = if meaning.is_empty() { meaning } else { format!(": {meaning}") };
        let _ = writeln!(page, "- `{word}`{meaning}");
    }
}

/// A branch's sentence is that of its one key.
fn with_branch_texts(mut merged: Value, branches: &[&Value]) -> Value {
    for branch in branches {
        let key = branch["required"][0].as_str().unwrap();
        merged["properties"][key]["description"] = branch["description"].clone();
    }
    merged
}

fn table(definition: &Value, schema: &Value, page: &mut String) {
    let required: Vec<_> = definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let _ = write!(page, "| Key | Type | Default | Meaning |\n|---|---|---|---|\n");
    let mut choices = String::new();
    // What must be there first, then by the alphabet.
    let mut properties: Vec<_> = definition["properties"].as_object().unwrap().iter().collect();
    properties.sort_by_key(|(key, _)| !required.contains(&key.as_str()));
    for (key, property) in properties {
        let is_choice = definition.get("oneOf").is_some();
        let default = match property.get("default") {
            _ if required.contains(&key.as_str()) => "required".into(),
            Some(Value::Array(list)) if list.is_empty() => "none".into(),
            Some(default @ Value::Object(_)) => {
                format!("`{}`", default.to_string().replace('"', "").replace(':', ": ").replace(',', ", "))
            }
            Some(Value::String(default)) if default.is_empty() => "empty".into(),
            Some(Value::String(default)) => format!("`{default}`"),
            Some(default) => format!("`{default}`"),
            None if is_choice => "–".into(),
            None if target(property, schema).is_some_and(|(_, target)| target["type"] == "object") => {
                "see there".into()
            }
            None => "none".into(),
        };
        let meaning = text(property).replace('|', "\\|");
        let _ = writeln!(page, "| `{key}` | {} | {default} | {meaning} |", kind(property, schema));
        let of_list = property.get("items").and_then(|items| target(items, schema));
        let chosen = target(property, schema).or(of_list).filter(|(_, target)| !is_long(target));
        if let Some(words) = chosen.and_then(|(_, target)| words(target)) {
            let _ = write!(choices, "\n`{key}` is one of:\n\n");
            for (word, meaning) in words {
                let _ = writeln!(choices, "- `{word}`: {meaning}");
            }
        }
    }
    page.push_str(&choices);
}

fn units(schema: &Value, page: &mut String) {
    let _ = write!(page, "\n## Durations, sizes and amounts\n\n");
    for name in UNITS {
        let _ = writeln!(page, "- {}", text(&schema["$defs"][name]));
    }
}

fn kind(property: &Value, schema: &Value) -> String {
    if let Some((name, target)) = target(property, schema) {
        return match name {
            "Duration" | "Size" | "Amount" => format!("[{}](#durations-sizes-and-amounts)", name.to_lowercase()),
            _ if is_text(target) => "text".into(),
            _ => match words(target) {
                Some(words) if !is_long(target) => {
                    words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ")
                }
                _ => format!("[{name}](#{})", name.to_lowercase()),
            },
        };
    }
    let range = match (property["minimum"].as_u64(), property["maximum"].as_u64()) {
        (Some(least), Some(most)) if most < u64::from(u32::MAX) => format!(", {least} to {most}"),
        _ => String::new(),
    };
    match &property["type"] {
        Value::String(name) if name == "array" => format!("list of {}", kind(&property["items"], schema)),
        Value::String(name) if name == "integer" => format!("whole number{range}"),
        Value::String(name) if name == "boolean" => "`true` or `false`".into(),
        Value::String(name) if name == "string" => "text".into(),
        Value::String(name) if name == "object" && property.get("additionalProperties").is_some() => {
            format!("mapping of names to {}", kind(&property["additionalProperties"], schema))
        }
        Value::Array(_) => "text, or a list of text".into(),
        _ if property.get("const").is_some() => format!("`{}`", property["const"]),
        other => panic!("the reference has no word for {other}"),
    }
}

/// A text with a name of its own in the model.
fn is_text(definition: &Value) -> bool {
    definition["type"] == "string" && definition.get("enum").is_none()
}

fn target<'s>(property: &'s Value, schema: &'s Value) -> Option<(&'s str, &'s Value)> {
    let name = property["$ref"].as_str()?.rsplit('/').next()?;
    Some((name, &schema["$defs"][name]))
}

/// The words of a choice of words, with their meanings where they have any.
fn words(definition: &Value) -> Option<Vec<(&str, String)>> {
    if let Some(words) = definition["enum"].as_array() {
        return words.iter().map(|word| Some((word.as_str()?, String::new()))).collect();
    }
    let branches = definition["oneOf"].as_array()?;
    branches.iter().map(|branch| Some((branch["const"].as_str()?, text(branch)))).collect()
}

fn text(value: &Value) -> String {
    value["description"].as_str().unwrap_or_default().replace('\n', " ")
}
