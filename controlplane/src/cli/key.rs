//! `key`: API keys of applications. A key is told once, by the verb that makes it.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use proto::snapshot::Environment;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::calling::{CallError, Client, If, Writing, as_json};
use super::nouns::{
    Changing, Listing, Moment, Noun, Progress, Showing, environment, is_applied, nodes, now, object, origin, some_list,
    switched, text,
};
use super::{Verdict, print};
use crate::admin::secrets;

const NOUN: Noun = Noun {
    noun: "key",
    family: "keys",
    heading: &["KEY", "APPLICATION", "USER", "ENVIRONMENT", "EXPIRES", "ENABLED", "ORIGIN"],
    row,
};

/// Keys of one batch that `import` sends.
const BATCH: usize = 1000;
/// Bytes of a line of a file that is imported.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Options of `key`.
#[derive(Debug, clap::Args)]
#[command(after_help = super::HELP)]
pub struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List keys
    List {
        /// Only those of this application
        #[arg(long, value_name = "NAME")]
        application: Option<String>,
        /// Only those of this user
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Only those that are switched on, or off
        #[arg(long, value_name = "SWITCH")]
        enabled: Option<bool>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one; the key itself is told nobody
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        showing: Showing,
    },
    /// Make a key; it is told once
    Create {
        /// Its name
        name: String,
        /// The application whose key it is
        #[arg(long, value_name = "NAME")]
        application: String,
        #[command(flatten)]
        fields: Fields,
        /// It leads to the sandbox endpoint
        #[arg(long)]
        sandbox: bool,
        /// Ask nobody: print the key, and the entry for the configuration
        #[arg(long)]
        offline: bool,
        #[command(flatten)]
        writing: Writing,
    },
    /// Change some of one; the key stays
    Set {
        /// Its name
        name: String,
        #[command(flatten)]
        fields: Fields,
        /// Off: it is not accepted, and its live sessions are closed
        #[arg(long, value_name = "SWITCH")]
        enabled: Option<bool>,
        /// Which endpoint it leads to: production or sandbox
        #[arg(long, value_name = "ENVIRONMENT", value_parser = environment_of)]
        environment: Option<Environment>,
        #[command(flatten)]
        changing: Changing,
    },
    /// Delete one; its sessions are closed
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        changing: Changing,
    },
    /// Create many: a file with one object in JSON on each line, as POST /keys takes it
    Import {
        /// The file; - for standard input
        file: PathBuf,
        #[command(flatten)]
        writing: Writing,
    },
}

#[derive(Debug, clap::Args)]
struct Fields {
    /// The user on whose behalf it is used
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// When it ends: 90d from now, or a time such as 2027-01-31T12:00:00Z
    #[arg(long, value_name = "MOMENT")]
    expires: Option<Moment>,
    /// A range of addresses from which it may be used; once for each
    #[arg(long = "address", value_name = "CIDR")]
    addresses: Vec<String>,
    /// What Referer, or else Origin, must be, * for any characters; once for each
    #[arg(long = "referrer", value_name = "PATTERN")]
    referrers: Vec<String>,
    /// A scope that it has; once for each
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
}

impl Fields {
    fn object(&self) -> Map<String, Value> {
        let restrictions = object([
            ("addresses", some_list(&self.addresses)),
            ("referrers", some_list(&self.referrers)),
            ("scopes", some_list(&self.scopes)),
        ]);
        object([
            ("user", self.user.clone().map(Value::from)),
            ("expires", self.expires.map(|moment| moment.value(now()))),
            ("restrictions", (!restrictions.is_empty()).then_some(Value::Object(restrictions))),
        ])
    }
}

/// Does what is asked.
pub fn run(options: Options) -> ExitCode {
    match options.verb {
        Verb::List { application, user, enabled, listing } => {
            let enabled = enabled.map(|one| one.to_string());
            NOUN.list(&listing, vec![("application", application), ("user", user), ("enabled", enabled)])
        }
        Verb::Show { name, showing } => NOUN.show(&showing, &[&name]),
        Verb::Create { name, application, fields, sandbox, offline: is_offline, writing } => {
            let mut body = object([("name", Some(json!(name))), ("application", Some(json!(application)))]);
            body.extend(fields.object());
            body.extend(object([("environment", sandbox.then(|| json!("sandbox")))]));
            if is_offline {
                return offline(body, &writing);
            }
            NOUN.create(&writing, Ok(Value::Object(body)), |answer| {
                format!("{}\nThe key is not told again.\n", text(&answer["key"]))
            })
        }
        Verb::Set { name, fields, enabled, environment, changing } => {
            let mut patch = fields.object();
            patch.extend(object([
                ("enabled", enabled.map(Value::from)),
                ("environment", environment.map(|one| json!(one))),
            ]));
            NOUN.set(&changing, &[&name], Ok(Value::Object(patch)))
        }
        Verb::Delete { name, changing } => NOUN.delete(&changing, &[&name], false),
        Verb::Import { file, writing } => import(&file, &writing),
    }
}

fn environment_of(word: &str) -> Result<Environment, &'static str> {
    serde_json::from_value(json!(word)).map_err(|_| "it is production or sandbox")
}

fn row(key: &Value) -> Vec<String> {
    vec![
        text(&key["name"]),
        text(&key["application"]),
        text(&key["user"]),
        environment(key),
        text(&key["expires"]),
        switched(key),
        origin(key),
    ]
}

/// Makes a key for a configuration file.
fn offline(mut entry: Map<String, Value>, writing: &Writing) -> ExitCode {
    let made = match secrets::api_key() {
        Ok(made) => made,
        Err(error) => return writing.calling.failed(&CallError::Said(error.to_string())),
    };
    entry.insert("sha256".into(), json!(made.hash.to_string()));
    entry.insert("created".into(), json!(now().to_string()));
    if writing.calling.is_json() {
        print(&as_json(&json!({ "key": made.secret, "entry": entry })));
    } else {
        let fields: Vec<_> = entry.iter().map(|(field, value)| format!("{field}: {value}")).collect();
        print(&format!("{}\n\nkeys:\n  - {{ {} }}\n", made.secret, fields.join(", ")));
    }
    Verdict::Yes.into()
}

/// One line of a file that is imported.
struct Line {
    number: usize,
    object: Value,
}

/// What came of an import.
#[derive(Default)]
struct Imported {
    count: usize,
    /// The keys that were made, by name.
    keys: Vec<(String, String)>,
    failed: BTreeMap<usize, String>,
    last: Value,
}

fn import(file: &Path, writing: &Writing) -> ExitCode {
    let (query, is_json) = (writing.query(), writing.calling.is_json());
    let mut done = Imported::default();
    let lines = match read(file, &mut done) {
        Ok(lines) => lines,
        Err(error) => return writing.calling.failed(&error),
    };
    writing.calling.run(|client| async move {
        let mut progress = Progress::new(&format!("of {} keys", lines.len()));
        let mut lines = lines.into_iter().peekable();
        while lines.peek().is_some() {
            let batch: Vec<Line> = lines.by_ref().take(BATCH).collect();
            done.send(&client, batch, &query).await?;
            progress.at(done.count);
        }
        drop(progress);
        let is_yes = done.failed.is_empty() && is_applied(&done.last);
        Ok((if is_json { as_json(&done.json()) } else { done.text() }, is_yes))
    })
}

/// The objects of the file; lines that hold none are told with the rest.
fn read(file: &Path, done: &mut Imported) -> Result<Vec<Line>, CallError> {
    let failed = |error| CallError::File(file.to_owned(), error);
    let source: Box<dyn BufRead> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::io::BufReader::new(std::fs::File::open(file).map_err(failed)?)),
    };
    let mut all = Vec::new();
    for (at, line) in source.lines().enumerate() {
        let (number, line) = (at + 1, line.map_err(failed)?);
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Value>(&line) {
            _ if line.len() > LINE_BYTES_MAX => {
                done.failed.insert(number, format!("a line has at most {LINE_BYTES_MAX} bytes"));
            }
            Ok(object) if object.is_object() => all.push(Line { number, object }),
            _ => drop(done.failed.insert(number, "this is no JSON object".into())),
        }
    }
    Ok(all)
}

impl Imported {
    /// Sends a batch, again without those that are not sound: a batch is taken whole or not at all.
    async fn send(
        &mut self,
        client: &Client,
        mut batch: Vec<Line>,
        query: &[(&'static str, String)],
    ) -> Result<(), CallError> {
        while !batch.is_empty() {
            let changes: Vec<_> = batch.iter().map(|line| json!({ "kind": "key", "put": line.object })).collect();
            let body = json!({ "changes": changes });
            let problem = match client.ask(Method::POST, &["batch"], query, If::Always, Some(&body)).await {
                Ok(answer) => {
                    for one in answer.body["items"].as_array().into_iter().flatten() {
                        self.count += 1;
                        let made = one["key"].as_str().map(|key| (text(&one["name"]), key.to_owned()));
                        self.keys.extend(made);
                    }
                    self.last = answer.body;
                    return Ok(());
                }
                Err(CallError::Problem(problem)) => problem,
                Err(error) => return Err(error),
            };
            let mut wrong: BTreeMap<usize, String> = BTreeMap::new();
            for error in problem["errors"].as_array().into_iter().flatten() {
                let place = error["pointer"].as_str().and_then(|pointer| pointer.strip_prefix("/changes/"));
                let (at, rest) = place.map(|place| place.split_once('/').unwrap_or((place, ""))).unwrap_or_default();
                let Ok(at) = at.parse::<usize>() else { continue };
                let detail = error["detail"].as_str().unwrap_or_default();
                let told = wrong.entry(at).or_default();
                let semicolon = if told.is_empty() { "" } else { "; " };
                let colon = if rest.is_empty() { "" } else { ": " };
                told.push_str(&format!("{semicolon}{rest}{colon}{detail}"));
            }
            wrong.retain(|at, _| *at < batch.len());
            if wrong.is_empty() {
                return Err(CallError::Problem(problem));
            }
            let mut at = 0;
            batch.retain(|line| {
                let told = wrong.remove(&at);
                at += 1;
                told.map(|told| self.failed.insert(line.number, told)).is_none()
            });
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let keys: Vec<_> = self.keys.iter().map(|(name, key)| json!({ "name": name, "key": key })).collect();
        let failed: Vec<_> = self.failed.iter().map(|(line, why)| json!({ "line": line, "detail": why })).collect();
        json!({ "imported": self.count, "failed": failed, "keys": keys, "_meta": self.last["_meta"] })
    }

    fn text(&self) -> String {
        let mut said: String = self.keys.iter().map(|(name, key)| format!("{name}  {key}\n")).collect();
        if !self.keys.is_empty() {
            said.push_str("These keys are not told again.\n");
        }
        self.failed.iter().for_each(|(line, why)| said.push_str(&format!("line {line}: {why}\n")));
        said + &format!("{} imported, {} refused\n{}", self.count, self.failed.len(), nodes(&self.last))
    }
}
