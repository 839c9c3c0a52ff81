//! A document as a tree in which every key and every value knows where it stands.
//!
//! Reads one text; what its keys mean, and what `${…}` stands for, is decided elsewhere.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

/// Where something stands: the file's index among the files read, line and column from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Index into the list of files.
    pub file: usize,
    /// From 1; 0 where it is not known.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where the value begins.
    pub place: Place,
    /// The value.
    pub value: Value,
}

/// What stands there.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, `null` or `~`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(serde_json::Number),
    /// Any other scalar.
    Text(Text),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the text.
    Map(Vec<Entry>),
}

/// A scalar that is a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Written without quotes and not as a block: what replaces it may be a number.
    pub plain: bool,
}

/// One key of a mapping, and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key begins.
    pub key_place: Place,
    /// The value.
    pub value: Node,
}

/// Why a text is no tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Where.
    pub place: Place,
    /// What is wrong. Says nothing of the neighbouring lines: secrets may stand there.
    pub message: String,
}

/// Nesting of one document; the model needs a dozen, and each level costs the reader some KiB of its stack.
const DEPTH_MAX: usize = 32;
/// Nodes of one document, replayed aliases included: room for the largest snapshot with all its options.
const NODES_MAX: usize = 4_000_000;
/// Events that aliases may replay in one document; anchors save typing, they do not generate configurations.
const ALIAS_EVENTS_MAX: usize = 100_000;

/// Reads a YAML or JSON text; `file` goes into every place.
pub fn parse(text: &str, file: usize) -> Result<Node, Malformed> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: NODES_MAX, max_events: 3 * NODES_MAX, max_depth: DEPTH_MAX },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIAS_EVENTS_MAX },
        strict_booleans: true,
        no_schema: true,
        with_snippet: false,
    };
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let location = error.location().unwrap_or(Location::UNKNOWN);
        let place = Place { file, line: location.line().max(1), column: location.column().max(1) };
        Malformed { place, message: message(&error) }
    })?;
    Ok(Reader { text, file }.node(raw))
}

/// The library's sentence without the place, which is said apart, and without advice that is for programmers.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text[..end].trim_end_matches([' ', ',', ':']).lines().next().unwrap_or("not a YAML document").to_owned()
}

/// Turns what serde gave into nodes.
struct Reader<'t> {
    text: &'t str,
    file: usize,
}

impl Reader<'_> {
    fn node(&self, raw: Spanned<Raw>) -> Node {
        let place = self.place(&raw.referenced);
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Bool(value) => Value::Bool(value),
            Raw::Number(value) => Value::Number(value),
            Raw::Text(text) => Value::Text(Text { text, plain: self.is_plain(&raw.defined) }),
            Raw::List(list) => Value::List(list.into_iter().map(|item| self.node(item)).collect()),
            Raw::Map(map) => Value::Map(
                map.into_iter()
                    .map(|(key, value)| Entry {
                        key_place: self.place(&key.referenced),
                        key: key.value,
                        value: self.node(value),
                    })
                    .collect(),
            ),
        };
        Node { place, value }
    }

    fn place(&self, location: &Location) -> Place {
        Place { file: self.file, line: location.line(), column: location.column() }
    }

    fn is_plain(&self, location: &Location) -> bool {
        let at = location.span().byte_offset().and_then(|offset| usize::try_from(offset).ok());
        let first = at.and_then(|at| self.text.as_bytes().get(at));
        !matches!(first, None | Some(b'"' | b'\'' | b'|' | b'>' | b'!' | b'&'))
    }
}

impl Node {
    /// The value of a key, where this is a mapping that has it.
    pub fn member(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The node that a JSON Pointer names, or the closest around it.
    pub fn nearest(&self, pointer: &str) -> &Node {
        let mut node = self;
        for token in pointer.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            let next = match &node.value {
                Value::List(items) => token.parse::<usize>().ok().and_then(|index| items.get(index)),
                Value::Map(_) => node.member(&token).map(|entry| &entry.value),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    /// The same value without places.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(value) => value.clone().into(),
            Value::Text(text) => text.text.clone().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect(),
        }
    }
}

/// What serde sees, before the places are put in order.
enum Raw {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        serde_json::Number::from_f64(value).map(Raw::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_value_knows_its_place() {
        let tree = parse("version: 1\nlisteners:\n  - name: public\n    bind: \"127.0.0.1:80\"\n", 3).unwrap();
        let entry = tree.member("listeners").unwrap();
        assert_eq!(entry.key_place, Place { file: 3, line: 2, column: 1 });
        let bind = tree.nearest("/listeners/0/bind");
        assert_eq!(bind.place, Place { file: 3, line: 4, column: 11 });
        assert_eq!(bind.value, Value::Text(Text { text: "127.0.0.1:80".into(), plain: false }));
        assert_eq!(tree.nearest("/listeners/0/name").value, Value::Text(Text { text: "public".into(), plain: true }));
        assert_eq!(tree.nearest("/listeners/0/nothing/here").place.line, 3);
    }

    #[test]
    fn json_is_read_too() {
        let tree = parse("{\n  \"version\": 1,\n  \"apis\": [{\"default_version\": true}]\n}", 0).unwrap();
        assert_eq!(tree.to_json(), serde_json::json!({"version": 1, "apis": [{"default_version": true}]}));
        assert_eq!(tree.nearest("/version").place, Place { file: 0, line: 2, column: 14 });
    }

    #[test]
    fn what_is_not_yaml_is_refused_with_its_place_and_without_its_neighbours() {
        for (text, line) in [
            ("password: hunter2\nversion: [1\n", 2),
            ("password: hunter2\nversion: 1\nversion: 2\n", 3),
            ("a: &a [hunter2]\nb: *c\n", 2),
            ("password: hunter2\n}\n", 2),
        ] {
            let malformed = parse(text, 0).unwrap_err();
            assert!(!malformed.message.contains("hunter2"), "{malformed:?}");
            assert!(!malformed.message.contains("line "), "{malformed:?}");
            assert_eq!(malformed.place.line, line, "{malformed:?}");
        }
    }

    #[test]
    fn a_document_is_nested_so_deep_at_most() {
        let nested = |levels: usize| format!("a: {}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&nested(20), 0).is_ok());
        for levels in [40, 1_000, 100_000] {
            assert!(parse(&nested(levels), 0).is_err(), "{levels}");
        }
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let alias = format!("*a{}", level - 1);
            let list = [alias.as_str(); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        assert!(parse(&text, 0).is_err());
    }

    #[test]
    fn odd_booleans_stay_text() {
        let tree = parse("on: yes\nb: true\n", 0).unwrap();
        assert_eq!(tree.to_json(), serde_json::json!({"on": "yes", "b": true}));
    }
}
