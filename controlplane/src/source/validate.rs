//! The form of a document against the JSON Schema: every error at once, each at its key or value, in an operator's
//! words.
//!
//! A value never appears in a message: it may have come from the environment and be a secret. Keys do.

use jsonschema::Validator;
use jsonschema::error::{TypeKind, ValidationError, ValidationErrorKind};
use jsonschema::types::JsonType;
use serde_json::Value as Json;

use super::tree::{Node, Place, Value};
use crate::schema;

/// Something wrong with a document's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// JSON Pointer of the value, or of the mapping that a key is missing from.
    pub pointer: String,
    /// The key in that mapping that is missing, or that nobody knows.
    pub key: Option<String>,
    /// A sentence.
    pub message: String,
}

impl Fault {
    /// JSON Pointer of the value, or of the key that is missing or that nobody knows, RFC 6901.
    pub fn member(self) -> String {
        match self.key {
            None => self.pointer,
            Some(key) => format!("{}/{}", self.pointer, key.replace('~', "~0").replace('/', "~1")),
        }
    }
}

/// A schema made ready, with the document to look explanations up in.
pub struct Form {
    schema: Json,
    validator: Validator,
}

impl Form {
    /// Of a main document.
    pub fn main() -> Self {
        Self::new(schema::document())
    }

    /// Of an included document.
    pub fn included() -> Self {
        Self::new(schema::included_document())
    }

    fn new(schema: Json) -> Self {
        let options = schema::FORMATS.into_iter().fold(jsonschema::options(), |options, format| {
            options.with_format(format, move |text| schema::complaint(format, text).is_none())
        });
        let validator = options
            .should_validate_formats(true)
            .build(&schema)
            .expect("the schema is generated from our own types and a test builds it");
        Self { schema, validator }
    }

    /// Every fault of the document, in the order of the text.
    pub fn faults(&self, tree: &Node) -> Vec<Fault> {
        let json = tree.to_json();
        let mut faults = Vec::new();
        for error in self.validator.iter_errors(&json) {
            self.explain(&error, tree, &mut faults);
        }
        faults.sort_by_key(|fault| (fault.place.line, fault.place.column));
        // A pattern and a format speak of the same text, and the first says enough.
        faults.dedup_by(|second, first| first.place == second.place && first.message == second.message);
        faults
    }

    fn explain(&self, error: &ValidationError<'_>, tree: &Node, faults: &mut Vec<Fault>) {
        let pointer = error.instance_path().as_str();
        let node = tree.nearest(pointer);
        let mut tell = |place: Place, key: Option<&str>, message: String| {
            faults.push(Fault { place, pointer: pointer.to_owned(), key: key.map(str::to_owned), message });
        };
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                let known = keys(self.around(error).get("properties"));
                for key in unexpected {
                    let place = node.member(key).map_or(node.place, |entry| entry.key_place);
                    tell(place, Some(key), unknown_key(key, &known, pointer));
                }
            }
            ValidationErrorKind::Required { property } => {
                let key = property.as_str().unwrap_or_default();
                tell(node.place, Some(key), format!("the key {key:?} is missing here"));
            }
            ValidationErrorKind::OneOfNotValid { context } => self.explain_branches(context, error, tree, faults),
            _ => tell(node.place, None, self.sentence(error, node)),
        }
    }

    /// A choice: of words, or of mappings with one key each (an externally tagged enum).
    fn explain_branches(
        &self,
        context: &[Vec<ValidationError<'static>>],
        error: &ValidationError<'_>,
        tree: &Node,
        faults: &mut Vec<Fault>,
    ) {
        let pointer = error.instance_path().as_str();
        let node = tree.nearest(pointer);
        let branches = self.around(error).get("oneOf").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        let words: Vec<&str> = branches.iter().filter_map(|branch| branch.get("const")?.as_str()).collect();
        let names: Vec<&str> = branches.iter().filter_map(|branch| branch.get("required")?.get(0)?.as_str()).collect();
        let chosen = names.iter().position(|name| node.member(name).is_some());
        let message = match (&node.value, chosen) {
            (Value::Map(entries), Some(chosen)) if entries.len() == 1 => {
                return context.get(chosen).into_iter().flatten().for_each(|error| self.explain(error, tree, faults));
            }
            (Value::Text(text), _) if !words.is_empty() => match closest(&text.text, &words) {
                Some(word) => format!("expected {}; did you mean {word:?}?", choice(&words)),
                None => format!("expected {}", choice(&words)),
            },
            (Value::Map(entries), _) if chosen.is_none() && !names.is_empty() => {
                return entries.iter().for_each(|entry| {
                    let message = unknown_key(&entry.key, &names, pointer);
                    let key = Some(entry.key.clone());
                    faults.push(Fault { place: entry.key_place, pointer: pointer.to_owned(), key, message });
                });
            }
            _ if !words.is_empty() => format!("expected {}, found {}", choice(&words), kind_word(node)),
            _ => format!("expected a mapping with exactly one of the keys {}", choice(&names)),
        };
        faults.push(Fault { place: node.place, pointer: pointer.to_owned(), key: None, message });
    }

    fn sentence(&self, error: &ValidationError<'_>, node: &Node) -> String {
        let around = self.around(error);
        if let Some(format) = around.get("format").and_then(Json::as_str)
            && let Some(complaint) = schema::complaint(format, &scalar(node))
        {
            return complaint.to_owned();
        }
        match error.kind() {
            ValidationErrorKind::Type { kind } => {
                let expected = match kind {
                    TypeKind::Single(kind) => type_word(*kind).to_owned(),
                    TypeKind::Multiple(kinds) => kinds.iter().map(type_word).collect::<Vec<_>>().join(" or "),
                };
                let odd_boolean = matches!(&node.value, Value::Text(text) if is_odd_boolean(&text.text));
                let hint = if odd_boolean { "; booleans are written true and false" } else { "" };
                format!("expected {expected}, found {}{hint}", kind_word(node))
            }
            ValidationErrorKind::Minimum { limit } => format!("must be at least {limit}"),
            ValidationErrorKind::Maximum { limit } => format!("must be at most {limit}"),
            ValidationErrorKind::Constant { expected_value } => format!("must be {expected_value}"),
            ValidationErrorKind::Enum { options } => format!("must be one of {options}"),
            ValidationErrorKind::MinItems { limit } => format!("needs at least {limit} entries"),
            ValidationErrorKind::MaxItems { limit } => format!("may have at most {limit} entries"),
            _ => error.masked_with("the value").to_string(),
        }
    }

    /// The schema object in which the keyword of an error stands.
    fn around(&self, error: &ValidationError<'_>) -> &Json {
        let path = error.schema_path().as_str();
        let parent = path.rfind('/').map_or("", |end| &path[..end]);
        self.schema.pointer(parent).unwrap_or(&Json::Null)
    }
}

/// What to say of a key that nobody knows.
pub fn unknown_key(key: &str, known: &[&str], pointer: &str) -> String {
    if pointer.is_empty() && key == "settings" {
        return "settings stand in the main file, not in an included one".into();
    }
    if pointer.is_empty() && key == "include" {
        return "an included file includes nothing itself".into();
    }
    match closest(key, known) {
        Some(close) => format!("unknown key {key:?}; did you mean {close:?}?"),
        None => format!("unknown key {key:?}; known here: {}", known.join(", ")),
    }
}

fn closest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let likeness = |one: &str| strsim::jaro_winkler(one, word);
    let close = known.iter().copied().max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
    (likeness(close) >= ALIKE).then_some(close)
}

/// From how much Jaro-Winkler likeness on a word is offered: `lisen` is `listeners`, `colour` is nothing here.
const ALIKE: f64 = 0.8;

fn keys(properties: Option<&Json>) -> Vec<&str> {
    properties.and_then(Json::as_object).into_iter().flat_map(|object| object.keys().map(String::as_str)).collect()
}

fn choice(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

fn scalar(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => text.text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => String::new(),
    }
}

fn is_odd_boolean(text: &str) -> bool {
    ["yes", "no", "on", "off", "y", "n"].iter().any(|odd| text.eq_ignore_ascii_case(odd))
}

fn kind_word(node: &Node) -> &'static str {
    match &node.value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::Text(_) => "text",
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
    }
}

fn type_word(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Array => "a list",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Null => "nothing",
        JsonType::Number => "a number",
        JsonType::Object => "a mapping",
        JsonType::String => "text",
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::parse;
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let tree = parse(text, 0).unwrap();
        let faults = Form::main().faults(&tree);
        faults.iter().map(|fault| format!("{}:{}: {}", fault.place.line, fault.place.column, fault.message)).collect()
    }

    #[test]
    fn each_mistake_is_told_once_at_its_place() {
        for (line, expected) in [
            ("lisen: 3", "3:1: unknown key \"lisen\"; did you mean \"listeners\"?"),
            (
                "colour: 3",
                "3:1: unknown key \"colour\"; known here: apis, applications, assertions, authorities, certificates, denials, include, issuers, keys, limit_policies, \
                 limits, listeners, plans, revocations, settings, subscriptions, token_endpoint, upstreams, users, version",
            ),
            ("settings: 5", "3:11: expected a mapping, found a number"),
            ("settings: {drain_window: 10}", "3:26: a duration is a whole number and a unit: 250ms, 10s, 5m, 1h, 2d"),
            ("listeners: [{name: a}]", "3:13: the key \"bind\" is missing here"),
            (
                "listeners: [{name: a, bind: \"localhost:80\"}]",
                "3:29: an address is IP:PORT, [IPv6]:PORT, or unix:/PATH; names are not resolved here",
            ),
            (
                "listeners: [{name: a, bind: \"1.1.1.1:80\", tcp_nodelay: yes}]",
                "3:56: expected true or false, found text; booleans are written true and false",
            ),
            ("listeners: [{name: a, bind: \"1.1.1.1:80\", backlog: 9999999999}]", "3:52: must be at most 4294967295"),
            ("listeners: [{name: a, bind: \"1.1.1.1:80\", backlog: -1}]", "3:52: must be at least 0"),
            ("listeners: [{name: 5, bind: \"1.1.1.1:80\"}]", "3:20: expected text, found a number"),
            (
                "listeners: [{name: a, bind: \"1.1.1.1:80\", trusted_proxies: [x]}]",
                "3:61: an address or a CIDR range is needed, such as 10.0.0.0/8 or ::1",
            ),
            (
                "upstreams: [{name: a, endpoints: [], balance: least_session}]",
                "3:47: expected round_robin or least_sessions; did you mean \"least_sessions\"?",
            ),
            (
                "apis: [{name: a, context: /a, endpoints: {production: {urll: x}}}]",
                "3:56: unknown key \"urll\"; did you mean \"url\"?",
            ),
            (
                "apis: [{name: a, context: /a, endpoints: {production: {url: \"http://x/\"}}}]",
                "3:61: an endpoint is ws://HOST[:PORT]/PATH, wss://HOST[:PORT]/PATH or ws+unix:/SOCKET:/PATH",
            ),
            (
                "apis: [{name: a, context: /a, endpoints: {production: {url: \"ws://x/\", upstream: b}}}]",
                "3:55: expected a mapping with exactly one of the keys url or upstream",
            ),
            (
                "apis: [{name: a, context: /a, endpoints: {sandbox: ~}}]",
                "3:52: expected a mapping with exactly one of the keys url or upstream",
            ),
        ] {
            assert_eq!(told(&format!("# first\nversion: 1\n{line}\n")), [expected], "{line}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once_in_the_order_of_the_text() {
        let told = told("version: 2\nsettings: {drain_windw: 1s}\napis:\n  - name: a\n    contxt: /\n");
        let places: Vec<_> = told.iter().map(|one| one.split(": ").next().unwrap()).collect();
        assert_eq!(places, ["1:10", "2:12", "4:5", "4:5", "5:5"], "{told:?}");
    }

    #[test]
    fn no_message_holds_a_value() {
        let text = "version: hunter2\nsettings: {drain_window: hunter2}\nlisteners: [{name: {hunter: hunter2}, bind: hunter2}]\n";
        let told = told(text);
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|one| !one.contains("hunter2")), "{told:?}");
    }

    #[test]
    fn included_files_have_lists_only() {
        let tree = parse("settings: {}\ninclude: x\nversion: 1\nlisteners: []\n", 0).unwrap();
        let faults = Form::included().faults(&tree);
        let messages: Vec<_> = faults.iter().map(|fault| fault.message.as_str()).collect();
        assert_eq!(
            messages,
            ["settings stand in the main file, not in an included one", "an included file includes nothing itself"]
        );
    }
}
