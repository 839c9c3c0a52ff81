//! What the nouns of the command line have in common: list, show, create, change, delete; tables and sentences.
//!
//! What an object of a kind is made of, and which columns its table has, is each noun's.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use proto::snapshot::Timestamp;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::calling::{Answer, CallError, Calling, Client, If, Writing, as_json};
use super::table::table;
use crate::source;

/// A kind of objects, as the command line has it.
#[derive(Clone, Copy)]
pub struct Noun {
    /// One of them, in a sentence.
    pub noun: &'static str,
    /// The family, as the path has it.
    pub family: &'static str,
    /// The heading of its table.
    pub heading: &'static [&'static str],
    /// The cells of one object.
    pub row: fn(&Value) -> Vec<String>,
}

/// Options of `list`.
#[derive(Debug, clap::Args)]
pub struct Listing {
    /// Only those whose id has this in it
    #[arg(long, value_name = "TEXT")]
    contains: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    calling: Calling,
}

/// Options of `show`.
#[derive(Debug, clap::Args)]
pub struct Showing {
    #[command(flatten)]
    pub calling: Calling,
}

/// Options of verbs that change one object that is there.
#[derive(Debug, Clone, clap::Args)]
pub struct Changing {
    /// Only if the object still has this entity tag, as `show --json` tells it
    #[arg(long, value_name = "ETAG")]
    if_match: Option<String>,
    #[command(flatten)]
    pub writing: Writing,
}

impl Changing {
    fn condition(&self) -> If {
        self.if_match.clone().map_or(If::Always, If::Match)
    }
}

/// Objects in a page that is asked for.
const PAGE: usize = 1000;

impl Noun {
    /// Shows all that are wanted.
    pub fn list(self, options: &Listing, filters: Vec<(&'static str, Option<String>)>) -> ExitCode {
        let mut query: Vec<_> = filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        query.extend(options.contains.clone().map(|text| ("contains", text)));
        let is_json = options.calling.is_json();
        options.calling.run(|client| async move {
            let items = self.pages(&client, &query, options.limit).await?;
            if is_json {
                return Ok((as_json(&json!({ "items": items })), true));
            }
            if items.is_empty() {
                return Ok((format!("there are no {}\n", self.family), true));
            }
            let mut rows = vec![self.heading.iter().map(|cell| (*cell).to_owned()).collect()];
            rows.extend(items.iter().map(self.row));
            Ok((table(&rows), true))
        })
    }

    async fn pages(
        self,
        client: &Client,
        query: &[(&'static str, String)],
        limit: Option<usize>,
    ) -> Result<Vec<Value>, CallError> {
        let mut items: Vec<Value> = Vec::new();
        let mut progress = Progress::new(&format!("{} so far", self.family));
        let mut after: Option<String> = None;
        loop {
            let left = limit.unwrap_or(usize::MAX).saturating_sub(items.len());
            if left == 0 {
                return Ok(items);
            }
            let mut query = query.to_vec();
            query.push(("limit", left.min(PAGE).to_string()));
            query.extend(after.take().map(|after| ("after", after)));
            let mut page = client.ask(Method::GET, &[self.family], &query, If::Always, None).await?.body;
            items.extend(page["items"].as_array_mut().map(std::mem::take).unwrap_or_default());
            match page["next"].as_str() {
                None => return Ok(items),
                Some(next) => after = Some(next.to_owned()),
            }
            progress.at(items.len());
        }
    }

    /// Shows one, by the segments of its path.
    pub fn show(self, options: &Showing, id: &[&str]) -> ExitCode {
        let is_json = options.calling.is_json();
        let path: Vec<_> = [&[self.family], id].concat();
        options.calling.run(|client| async move {
            let Answer { body } = client.ask(Method::GET, &path, &[], If::Always, None).await?;
            Ok((if is_json { as_json(&body) } else { told(&body) }, true))
        })
    }

    /// Makes a new one; `more` says what else a person is to hear of the answer.
    pub fn create(
        self,
        writing: &Writing,
        body: Result<Value, CallError>,
        more: impl FnOnce(&Value) -> String,
    ) -> ExitCode {
        self.write(writing, Method::POST, &[], If::Always, body, "created", more)
    }

    /// Changes one by a merge patch.
    pub fn set(self, changing: &Changing, id: &[&str], patch: Result<Value, CallError>) -> ExitCode {
        let patch = patch.and_then(|patch| match patch.as_object().is_some_and(Map::is_empty) {
            true => Err(CallError::Said(format!("say what is to change of the {}; --help has the options", self.noun))),
            false => Ok(patch),
        });
        self.write(&changing.writing, Method::PATCH, id, changing.condition(), patch, "changed", |_| String::new())
    }

    /// Puts one in place, whatever was there.
    pub fn put(self, writing: &Writing, id: &[&str], body: Result<Value, CallError>, done: &str) -> ExitCode {
        self.write(writing, Method::PUT, id, If::Always, body, done, |_| String::new())
    }

    /// Deletes one; with what refers to it, where that is wanted.
    pub fn delete(self, changing: &Changing, id: &[&str], cascade: bool) -> ExitCode {
        let mut query = changing.writing.query();
        query.extend(cascade.then(|| ("cascade", "true".to_owned())));
        let is_json = changing.writing.calling.is_json();
        let path: Vec<_> = [&[self.family], id].concat();
        let name = id.join("/");
        changing.writing.calling.run(|client| async move {
            let answer = client.ask(Method::DELETE, &path, &query, changing.condition(), None).await?;
            let is_yes = is_applied(&answer.body);
            if is_json {
                let said = if answer.body.is_null() { json!({ "deleted": name }) } else { answer.body };
                return Ok((as_json(&said), is_yes));
            }
            Ok((format!("{} {name} is deleted\n{}", self.noun, nodes(&answer.body)), is_yes))
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one request and how its answer is told; each verb says all of it once"
    )]
    fn write(
        self,
        writing: &Writing,
        method: Method,
        id: &[&str],
        condition: If,
        body: Result<Value, CallError>,
        done: &str,
        more: impl FnOnce(&Value) -> String,
    ) -> ExitCode {
        let body = match body {
            Ok(body) => body,
            Err(error) => return writing.calling.failed(&error),
        };
        let path: Vec<_> = [&[self.family], id].concat();
        let (query, is_json) = (writing.query(), writing.calling.is_json());
        writing.calling.run(|client| async move {
            let answer = client.ask(method, &path, &query, condition, Some(&body)).await?.body;
            let is_yes = is_applied(&answer);
            if is_json {
                return Ok((as_json(&answer), is_yes));
            }
            let name = (self.row)(&answer).into_iter().next().unwrap_or_default();
            let generation = in_generation(&answer);
            Ok((format!("{} {name} is {done}{generation}\n{}{}", self.noun, more(&answer), nodes(&answer)), is_yes))
        })
    }
}

/// ` (generation 7)`, where the answer says one.
pub fn in_generation(answer: &Value) -> String {
    answer["_meta"]["generation"].as_u64().map(|number| format!(" (generation {number})")).unwrap_or_default()
}

/// Whether every node serves the change, as far as was waited for.
pub fn is_applied(answer: &Value) -> bool {
    answer["_meta"]["applied"].as_bool().unwrap_or(true)
}

/// What became of a change on each node, where that was waited for.
pub fn nodes(answer: &Value) -> String {
    let nodes = answer["_meta"]["nodes"].as_array();
    let line = |node: &Value| {
        let outcome = node["outcome"].as_str().unwrap_or_default();
        let took = node["micros"].as_f64().map(|micros| format!(" in {:.1} ms", micros / 1000.0)).unwrap_or_default();
        let reasons: String = node["reasons"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(|one| format!("\n    {one}"))
            .collect();
        format!("  {} (pid {}): {outcome}{took}{reasons}\n", text(&node["node"]), node["pid"])
    };
    match nodes {
        Some(nodes) if nodes.is_empty() => "  no data plane is connected; it is sent to each that connects\n".into(),
        nodes => nodes.into_iter().flatten().map(line).collect(),
    }
}

/// An object as lines of `field  value`, and behind it what is told of it.
fn told(object: &Value) -> String {
    let rows = |value: &Value, are_wanted: fn(&str) -> bool| -> Vec<Vec<String>> {
        let fields = value.as_object().into_iter().flatten().filter(|(field, _)| are_wanted(field));
        fields.map(|(field, value)| vec![field.clone(), text(value)]).collect()
    };
    let (own, meta) = (rows(object, |field| field != "_meta"), rows(&object["_meta"], |_| true));
    format!("{}\n{}", table(&own), table(&meta))
}

/// A value in a cell.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.iter().all(|one| one.is_string() || one.is_number()) => match list.is_empty() {
            true => "-".into(),
            false => list.iter().map(text).collect::<Vec<_>>().join(" "),
        },
        other => other.to_string(),
    }
}

/// Whether it is switched on: what is not said is.
pub fn switched(object: &Value) -> String {
    if object["enabled"] == false { "off".into() } else { "on".into() }
}

/// The environment of an object: what is not said is production.
pub fn environment(object: &Value) -> String {
    object["environment"].as_str().unwrap_or("production").to_owned()
}

/// Where an object comes from: `stored`, or its file.
pub fn origin(object: &Value) -> String {
    let meta = &object["_meta"];
    text(if meta["file"].is_string() { &meta["file"] } else { &meta["origin"] })
}

/// A document that is given as a file, in YAML or JSON; `-` is standard input.
pub fn document(path: &PathBuf) -> Result<Map<String, Value>, CallError> {
    let failed = |error| CallError::File(path.clone(), error);
    let text = match path.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()).map_err(failed)?,
        false => std::fs::read_to_string(path).map_err(failed)?,
    };
    match source::value_of(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(CallError::Said(format!("{} holds no object", path.display()))),
        Err(message) => Err(CallError::Said(format!("{}: {message}", path.display()))),
    }
}

/// An object of what the options say: what is not said is left out.
pub fn object(fields: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Map<String, Value> {
    fields.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))).collect()
}

/// A list, if anything is in it.
pub fn some_list(list: &[String]) -> Option<Value> {
    (!list.is_empty()).then(|| json!(list))
}

/// A moment as a person says it: `90d` from now, `now`, or RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// So long from now.
    After(proto::snapshot::Duration),
    /// Then.
    At(Timestamp),
}

impl std::str::FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a moment is a duration from now, such as 90d, now, or a time such as 2027-01-31T12:00:00Z";
        if text == "now" {
            return Ok(Self::After(proto::snapshot::Duration::from_ms(0)));
        }
        let at = text.parse().map(Self::At);
        at.or_else(|_| text.parse().map(Self::After)).map_err(|_| FORM)
    }
}

impl Moment {
    /// As the API wants it, seen from `now`.
    pub fn value(self, now: Timestamp) -> Value {
        let at = match self {
            Self::After(duration) => Timestamp::from_secs(now.as_secs() + duration.as_ms() / 1000),
            Self::At(at) => at,
        };
        json!(at.to_string())
    }
}

/// This moment.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_secs(since.map_or(0, |since| since.as_secs()))
}

/// A line on standard error that says how far something long has come; only where somebody looks.
pub struct Progress {
    what: String,
    is_watched: bool,
    is_shown: bool,
}

impl Progress {
    /// Of something.
    pub fn new(what: &str) -> Self {
        Self { what: what.to_owned(), is_watched: std::io::stderr().is_terminal(), is_shown: false }
    }

    /// So many are done.
    pub fn at(&mut self, count: usize) {
        use std::io::Write;
        if self.is_watched {
            self.is_shown = true;
            let _ = write!(std::io::stderr(), "\r{count} {}\x1b[K", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        use std::io::Write;
        if self.is_shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_said_in_three_ways() {
        let now = Timestamp::from_secs(1_800_000_000);
        for (text, expected) in [
            ("now", "2027-01-15T08:00:00Z"),
            ("90d", "2027-04-15T08:00:00Z"),
            ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00Z"),
        ] {
            assert_eq!(text.parse::<Moment>().unwrap().value(now), expected, "{text}");
        }
        assert!("tomorrow".parse::<Moment>().is_err());
    }

    #[test]
    fn cells_are_what_a_person_reads() {
        for (value, cell) in
            [(json!(null), "-"), (json!(""), "-"), (json!(["a", "b"]), "a b"), (json!([]), "-"), (json!(5), "5")]
        {
            assert_eq!(text(&value), cell);
        }
        assert_eq!(origin(&json!({ "_meta": { "origin": "declared", "file": "gateway.yaml" } })), "gateway.yaml");
        assert_eq!(switched(&json!({})), "on");
    }
}
