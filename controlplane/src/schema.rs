//! The JSON Schema of the configuration document, generated from the model.
//!
//! What editors complete with and what [`source`](crate::source) validates with; it describes the form, not what the
//! fields mean together.

mod defaults;

use proto::snapshot::{
    Amount, Bind, Cidr, Config, Duration, EndpointUrl, KeyPart, Pin, Quota, Rate, Revoked, SecretHash, Size, Timestamp,
};
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::{Map, Value, json};

/// The schema of a main document, as it is published.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(Plain);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    schema["title"] = json!("Framegate configuration");
    schema["description"] = json!("The configuration document: what `framegate run FILE` reads.");
    schema["properties"]["version"] =
        json!({ "const": 1, "description": "Version of this document's form. Always 1." });
    schema["properties"]["include"] = json!({
        "type": ["string", "array"],
        "items": { "type": "string" },
        "description": "Files whose lists (certificates, listeners, apis, plans and so on) are appended to this \
            document's: paths, directories (every .yaml, .yml and .json file in them) and patterns with * and ? in the last part, relative to this \
            file. Read in the order of this list, then of the file names. Included files include nothing themselves."
    });
    tell_defaults(&mut schema);
    schema
}

/// [`document`] as text, as `framegate schema` prints it and docs/ has it.
pub fn text() -> String {
    let text = serde_json::to_string_pretty(&document()).expect("JSON values can be written");
    text + "\n"
}

/// The schemas of the model's types, by their names, with references that lead to `home` (`#/components/schemas`).
pub(crate) fn definitions(home: &str) -> Map<String, Value> {
    let here = "#/$defs/";
    let mut schema = document();
    fn lead(value: &mut Value, from: &str, to: &str) {
        match value {
            Value::Object(object) => object.iter_mut().for_each(|(key, value)| match (key.as_str(), &mut *value) {
                ("$ref", Value::String(reference)) if reference.starts_with(from) => {
                    *reference = format!("{to}/{}", &reference[from.len()..]);
                }
                _ => lead(value, from, to),
            }),
            Value::Array(array) => array.iter_mut().for_each(|value| lead(value, from, to)),
            _ => {}
        }
    }
    let Some(Value::Object(mut all)) = schema.get_mut("$defs").map(Value::take) else { return Map::new() };
    all.values_mut().for_each(|value| lead(value, here, home));
    all
}

/// The schema of an included document: lists to append, and nothing that holds for the whole gateway.
pub(crate) fn included_document() -> Value {
    let mut schema = document();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.retain(|key, _| !matches!(key.as_str(), "settings" | "include" | "token_endpoint"));
    }
    schema.as_object_mut().map(|schema| schema.remove("required"));
    schema
}

fn tell_defaults(schema: &mut Value) {
    for (name, key, default) in defaults::defaults() {
        let property = schema.pointer_mut(&format!("/$defs/{name}/properties/{key}"));
        property.and_then(Value::as_object_mut).map(|property| property.insert("default".into(), default));
    }
    let definitions = schema["$defs"].as_object_mut().into_iter().flatten();
    for (_, definition) in definitions {
        let required = definition.get("required").cloned().unwrap_or_default();
        let is_required = |key: &str| required.as_array().is_some_and(|keys| keys.iter().any(|one| one == key));
        let properties = definition.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten();
        for (_, property) in properties.filter(|(key, value)| value["type"] == "array" && !is_required(key)) {
            property["default"] = json!([]);
        }
    }
}

/// What `FromStr` of the type behind a format says about a text; `None` when it is content, or the format is not ours.
pub(crate) fn complaint(format: &str, text: &str) -> Option<&'static str> {
    match format {
        "framegate-bind" => text.parse::<Bind>().err(),
        "framegate-cidr" => text.parse::<Cidr>().err(),
        "framegate-endpoint" => text.parse::<EndpointUrl>().err(),
        "framegate-duration" => text.parse::<Duration>().err(),
        "framegate-size" => text.parse::<Size>().err(),
        "framegate-pin" => text.parse::<Pin>().err(),
        "framegate-time" => text.parse::<Timestamp>().err(),
        "framegate-revoked" => text.parse::<Revoked>().err(),
        "framegate-sha256" => text.parse::<SecretHash>().err(),
        "framegate-amount" => text.parse::<Amount>().err(),
        "framegate-rate" => text.parse::<Rate>().err(),
        "framegate-quota" => text.parse::<Quota>().err(),
        "framegate-key-part" => text.parse::<KeyPart>().err(),
        _ => None,
    }
}

/// The formats that [`complaint`] knows.
pub(crate) const FORMATS: [&str; 13] = [
    "framegate-bind",
    "framegate-cidr",
    "framegate-endpoint",
    "framegate-duration",
    "framegate-size",
    "framegate-pin",
    "framegate-time",
    "framegate-revoked",
    "framegate-sha256",
    "framegate-amount",
    "framegate-rate",
    "framegate-quota",
    "framegate-key-part",
];

/// Takes away what makes errors vague: a block that may be left out need not also allow `null`, and integers say how
/// large they may be.
#[derive(Clone)]
struct Plain;

impl Transform for Plain {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(object) = schema.as_object_mut() {
            unwrap_nullable(object);
            bound_integer(object);
        }
        transform_subschemas(self, schema);
    }
}

fn unwrap_nullable(schema: &mut Map<String, Value>) {
    let null = json!({ "type": "null" });
    if let Some(Value::Array(branches)) = schema.get("anyOf")
        && let [one, other] = branches.as_slice()
        && *other == null
        && let Value::Object(one) = one.clone()
    {
        schema.remove("anyOf");
        one.into_iter().for_each(|(key, value)| {
            schema.entry(key).or_insert(value);
        });
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if schema.get("default") == Some(&Value::Null) {
        schema.remove("default");
    }
}

fn bound_integer(schema: &mut Map<String, Value>) {
    let maximum = match schema.get("format").and_then(Value::as_str) {
        Some("uint8") => u64::from(u8::MAX),
        Some("uint16") => u64::from(u16::MAX),
        Some("uint32") => u64::from(u32::MAX),
        _ => return,
    };
    schema.entry("maximum").or_insert(maximum.into());
    schema.remove("format");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_schema_is_nullable_and_every_struct_is_closed() {
        fn walk(value: &Value, path: &str) {
            match value {
                Value::Object(object) => {
                    assert_ne!(object.get("type"), Some(&json!("null")), "{path}");
                    if object.contains_key("properties") {
                        assert_eq!(object.get("additionalProperties"), Some(&json!(false)), "{path}");
                    }
                    object.iter().for_each(|(key, value)| walk(value, &format!("{path}/{key}")));
                }
                Value::Array(array) => array.iter().for_each(|value| walk(value, path)),
                _ => {}
            }
        }
        walk(&document(), "");
    }

    #[test]
    fn every_format_in_the_schema_is_one_that_is_checked() {
        fn walk(value: &Value) {
            match value {
                Value::Object(object) => {
                    if let Some(Value::String(format)) = object.get("format") {
                        assert!(FORMATS.contains(&format.as_str()), "{format}");
                    }
                    object.values().for_each(walk);
                }
                Value::Array(array) => array.iter().for_each(walk),
                _ => {}
            }
        }
        walk(&document());
    }
}
