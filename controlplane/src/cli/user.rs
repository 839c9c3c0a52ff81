//! `user`: who proves who they are by a password or a certificate. A password is never an argument.

use std::process::ExitCode;

use proto::snapshot::Environment;
use serde_json::{Map, Value, json};

use super::calling::{CallError, Writing, as_json};
use super::nouns::{Changing, Listing, Noun, Showing, environment, object, origin, some_list, switched, text};
use super::secret::PasswordSource;
use super::{Verdict, cannot, print};
use crate::admin::secrets;

const NOUN: Noun = Noun {
    noun: "user",
    family: "users",
    heading: &["USER", "APPLICATION", "SCOPES", "ENVIRONMENT", "PASSWORD", "ENABLED", "ORIGIN"],
    row,
};

/// Options of `user`.
#[derive(Debug, clap::Args)]
#[command(after_help = super::HELP)]
pub struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List users
    List {
        /// Only those who count for this application
        #[arg(long, value_name = "NAME")]
        application: Option<String>,
        /// Only those that are switched on, or off
        #[arg(long, value_name = "SWITCH")]
        enabled: Option<bool>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one
    Show {
        /// The name
        name: String,
        #[command(flatten)]
        showing: Showing,
    },
    /// Create one; the password is asked for, or read from standard input
    Create {
        /// The name
        name: String,
        #[command(flatten)]
        password: PasswordSource,
        /// No password is good: a certificate, or tokens only
        #[arg(long, conflicts_with = "password_file")]
        no_password: bool,
        #[command(flatten)]
        fields: Fields,
        #[command(flatten)]
        writing: Writing,
    },
    /// Change some of one
    Set {
        /// The name
        name: String,
        /// Another password, which is asked for, or read from standard input
        #[arg(long)]
        password: bool,
        #[command(flatten)]
        source: PasswordSource,
        /// No password is good any more
        #[arg(long, conflicts_with_all = ["password_file", "password"])]
        no_password: bool,
        #[command(flatten)]
        fields: Fields,
        /// Off: nothing of the user's is accepted, and live sessions are closed
        #[arg(long, value_name = "SWITCH")]
        enabled: Option<bool>,
        #[command(flatten)]
        changing: Changing,
    },
    /// Delete one; the user's sessions are closed
    Delete {
        /// The name
        name: String,
        #[command(flatten)]
        changing: Changing,
    },
    /// Make the hash of a password, as a line for the configuration; asks no server
    Hash {
        #[command(flatten)]
        password: PasswordSource,
        /// Print the answer as one JSON document
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Fields {
    /// The application that the user's own credentials count for
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// A scope of the user's; once for each
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// The subject of a client certificate of the user's, such as CN=alice,O=Example; once for each
    #[arg(long = "certificate", value_name = "SUBJECT")]
    certificates: Vec<String>,
    /// Which endpoint the user's own credentials lead to: production or sandbox
    #[arg(long, value_name = "ENVIRONMENT", value_parser = environment_of)]
    environment: Option<Environment>,
}

impl Fields {
    fn object(&self) -> Map<String, Value> {
        object([
            ("application", self.application.clone().map(Value::from)),
            ("scopes", some_list(&self.scopes)),
            ("certificates", some_list(&self.certificates)),
            ("environment", self.environment.map(|one| json!(one))),
        ])
    }
}

/// Does what is asked.
pub fn run(options: Options) -> ExitCode {
    match options.verb {
        Verb::List { application, enabled, listing } => {
            let enabled = enabled.map(|one| one.to_string());
            NOUN.list(&listing, vec![("application", application), ("enabled", enabled)])
        }
        Verb::Show { name, showing } => NOUN.show(&showing, &[&name]),
        Verb::Create { name, password, no_password, fields, writing } => {
            let mut body = object([("name", Some(json!(name)))]);
            body.extend(fields.object());
            let body = match no_password {
                true => Ok(body),
                false => password.read(&name).map(|password| with(body, "new_password", json!(password))),
            };
            NOUN.create(&writing, body.map(Value::Object), |_| String::new())
        }
        Verb::Set { name, password, source, no_password, fields, enabled, changing } => {
            let mut patch = fields.object();
            patch.extend(object([
                ("enabled", enabled.map(Value::from)),
                ("password", no_password.then_some(Value::Null)),
            ]));
            let patch = match password || source.is_named() {
                false => Ok(patch),
                true => source.read(&name).map(|password| with(patch, "new_password", json!(password))),
            };
            NOUN.set(&changing, &[&name], patch.map(Value::Object))
        }
        Verb::Delete { name, changing } => NOUN.delete(&changing, &[&name], false),
        Verb::Hash { password, json: is_json } => hash(&password, is_json),
    }
}

fn environment_of(word: &str) -> Result<Environment, &'static str> {
    serde_json::from_value(json!(word)).map_err(|_| "it is production or sandbox")
}

fn with(mut body: Map<String, Value>, field: &str, value: Value) -> Map<String, Value> {
    body.insert(field.into(), value);
    body
}

fn hash(password: &PasswordSource, is_json: bool) -> ExitCode {
    let made = password
        .read("the user")
        .and_then(|password| secrets::password_hash(&password).map_err(|error| CallError::Said(error.to_string())));
    match made {
        Ok(hash) if is_json => print(&as_json(&json!({ "password": hash.0 }))),
        // In a configuration a dollar that is meant as such is written twice.
        Ok(hash) => print(&format!("password: \"{}\"\n", hash.0.replace('$', "$$"))),
        Err(error) => return cannot(is_json, &proto::errors::with_sources(&error)),
    }
    Verdict::Yes.into()
}

fn row(user: &Value) -> Vec<String> {
    let password = if user["has_password"] == true { "yes" } else { "no" };
    vec![
        text(&user["name"]),
        text(&user["application"]),
        text(&user["scopes"]),
        environment(user),
        password.into(),
        switched(user),
        origin(user),
    ]
}
