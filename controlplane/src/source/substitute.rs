//! Environment variables in values: `${NAME}`, `${NAME:-default}`, and `$$` for a dollar.
//!
//! Works on the parsed tree, so that a variable's content is a value and never structure, and never on keys. A plain
//! scalar that is one substitution and nothing else becomes what its text would have been in YAML: `true`, `false` and
//! whole numbers are those, everything else is text. In quotes, or beside other text, it stays text.

use std::borrow::Cow;

use super::tree::{Node, Place, Text, Value};

/// Asks the environment.
pub type Lookup<'e> = &'e dyn Fn(&str) -> Option<String>;

/// A substitution that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    /// Where the value begins.
    pub place: Place,
    /// What is wrong. Never holds a variable's content.
    pub message: String,
}

/// Replaces every substitution in the tree; whatever cannot be replaced is told, all of it.
pub fn substitute(node: &mut Node, environment: Lookup<'_>, unresolved: &mut Vec<Unresolved>) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| substitute(item, environment, unresolved)),
        Value::Map(entries) => {
            entries.iter_mut().for_each(|entry| substitute(&mut entry.value, environment, unresolved));
        }
        Value::Text(text) if text.text.contains('$') => match expand(text, environment) {
            Ok(value) => node.value = value,
            Err(message) => unresolved.push(Unresolved { place: node.place, message }),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {}
    }
}

fn expand(text: &Text, environment: Lookup<'_>) -> Result<Value, String> {
    let mut pieces = Vec::new();
    let mut rest = text.text.as_str();
    while !rest.is_empty() {
        let (piece, after) = next_piece(rest)?;
        pieces.push(piece);
        rest = after;
    }
    if let ([Piece::Variable { name, default }], true) = (pieces.as_slice(), text.plain) {
        return Ok(typed(resolve(name, *default, environment)?));
    }
    let mut whole = String::new();
    for piece in pieces {
        match piece {
            Piece::Literal(literal) => whole.push_str(literal),
            Piece::Variable { name, default } => whole.push_str(&resolve(name, default, environment)?),
        }
    }
    Ok(Value::Text(Text { text: whole, plain: text.plain }))
}

enum Piece<'t> {
    Literal(&'t str),
    Variable { name: &'t str, default: Option<&'t str> },
}

/// The first piece of a text that is not empty, and what follows it.
fn next_piece(text: &str) -> Result<(Piece<'_>, &str), String> {
    let Some(after_dollar) = text.strip_prefix('$') else {
        let end = text.find('$').unwrap_or(text.len());
        return Ok((Piece::Literal(&text[..end]), &text[end..]));
    };
    if let Some(rest) = after_dollar.strip_prefix('$') {
        return Ok((Piece::Literal("$"), rest));
    }
    let inside = after_dollar
        .strip_prefix('{')
        .ok_or("a dollar begins ${NAME}; a dollar that is meant as such is written $$")?;
    let (inside, rest) = inside.split_once('}').ok_or("${ has no closing brace")?;
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(is_name) || name.as_bytes()[0].is_ascii_digit() {
        return Err("between ${ and } stands the name of a variable, or NAME:-default".into());
    }
    Ok((Piece::Variable { name, default }, rest))
}

/// As in a shell, the default also stands in for a variable that is empty.
fn resolve<'t>(name: &str, default: Option<&'t str>, environment: Lookup<'_>) -> Result<Cow<'t, str>, String> {
    match (environment(name), default) {
        (Some(value), None) => Ok(Cow::Owned(value)),
        (Some(value), Some(_)) if !value.is_empty() => Ok(Cow::Owned(value)),
        (_, Some(default)) => Ok(Cow::Borrowed(default)),
        (None, None) => {
            Err(format!("the environment variable {name} is not set; set it, or give a default: ${{{name}:-…}}"))
        }
    }
}

fn typed(text: Cow<'_, str>) -> Value {
    let digits = text.strip_prefix('-').unwrap_or(&text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match text.as_ref() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        number if is_number => match (number.parse::<u64>(), number.parse::<i64>()) {
            (Ok(number), _) => Value::Number(number.into()),
            (_, Ok(number)) => Value::Number(number.into()),
            _ => Value::Text(Text { text: text.into_owned(), plain: true }),
        },
        _ => Value::Text(Text { text: text.into_owned(), plain: true }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tree::parse;
    use super::*;

    fn environment(name: &str) -> Option<String> {
        let value = match name {
            "PORT" => "9001",
            "HOST" => "chat.internal",
            "ON" => "true",
            "EMPTY" => "",
            "TRICK" => "x\nversion: 2",
            _ => return None,
        };
        Some(value.into())
    }

    fn read(text: &str) -> (serde_json::Value, Vec<String>) {
        let mut tree = parse(text, 0).unwrap();
        let mut unresolved = Vec::new();
        substitute(&mut tree, &environment, &mut unresolved);
        let told = unresolved.into_iter().map(|one| format!("{}:{}", one.place.line, one.message)).collect();
        (tree.to_json(), told)
    }

    #[test]
    fn a_value_is_text_unless_a_plain_scalar_is_one_substitution() {
        for (text, value) in [
            ("a: ${PORT}", json!(9001)),
            ("a: \"${PORT}\"", json!("9001")),
            ("a: '${PORT}'", json!("9001")),
            ("a: ws://${HOST}:${PORT}/", json!("ws://chat.internal:9001/")),
            ("a: 0${PORT}", json!("09001")),
            ("a: ${ON}", json!(true)),
            ("a: ${NOT_SET:-64}", json!(64)),
            ("a: ${NOT_SET:-ws://[::1]:80/}", json!("ws://[::1]:80/")),
            ("a: ${EMPTY:-5}", json!(5)),
            ("a: ${EMPTY}", json!("")),
            ("a: ${NOT_SET:-}", json!("")),
            ("a: $${PORT}", json!("${PORT}")),
            ("a: cost$$", json!("cost$")),
            ("a: [\"${HOST}\", x]", json!(["chat.internal", "x"])),
        ] {
            assert_eq!(read(text), (json!({ "a": value }), vec![]), "{text}");
        }
    }

    #[test]
    fn a_variable_never_changes_the_structure() {
        assert_eq!(read("a: ${TRICK}").0, json!({"a": "x\nversion: 2"}));
        assert_eq!(read("${PORT}: 1").0, json!({"${PORT}": 1}));
    }

    #[test]
    fn what_cannot_be_replaced_is_told_with_its_line_all_at_once() {
        let (_, told) = read("a: ${NOT_SET}\nb: ${HOST\nc: $HOST\nd: ${}\ne: ${1X}\nf: ok\n");
        let lines: Vec<_> = told.iter().map(|one| one.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["1", "2", "3", "4", "5"]);
        assert!(told[0].contains("NOT_SET is not set"), "{told:?}");
    }
}
