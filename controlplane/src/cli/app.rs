//! `app`: applications, which subscribe to APIs, and their OAuth2 clients.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};

use super::calling::{Calling, If, Writing, as_json};
use super::nouns::{
    Changing, Listing, Noun, Showing, environment, in_generation, is_applied, nodes, object, origin, some_list,
    switched, text,
};
use super::table::table;

const NOUN: Noun = Noun {
    noun: "application",
    family: "applications",
    heading: &["APPLICATION", "OWNER", "CLIENTS", "PLAN", "ENABLED", "ORIGIN"],
    row,
};

/// Options of `app`.
#[derive(Debug, clap::Args)]
#[command(after_help = super::HELP)]
pub struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List applications
    List {
        /// Only those that are switched on, or off
        #[arg(long, value_name = "SWITCH")]
        enabled: Option<bool>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        showing: Showing,
    },
    /// Create one
    Create {
        /// Its name
        name: String,
        /// Who answers for it
        #[arg(long, value_name = "TEXT")]
        owner: Option<String>,
        /// The plan of each of its users [default: AsyncUnlimited]
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
        #[command(flatten)]
        writing: Writing,
    },
    /// Change some of one
    Set {
        /// Its name
        name: String,
        /// Who answers for it
        #[arg(long, value_name = "TEXT")]
        owner: Option<String>,
        /// The plan of each of its users
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
        /// Off: nothing of it is let in, and its live sessions are closed
        #[arg(long, value_name = "SWITCH")]
        enabled: Option<bool>,
        #[command(flatten)]
        changing: Changing,
    },
    /// Delete one; its sessions are closed
    Delete {
        /// Its name
        name: String,
        /// Its subscriptions and keys as well
        #[arg(long)]
        cascade: bool,
        #[command(flatten)]
        changing: Changing,
    },
    /// Its OAuth2 clients
    Client {
        #[command(subcommand)]
        verb: ClientVerb,
    },
}

#[derive(Debug, clap::Subcommand)]
enum ClientVerb {
    /// List the clients of an application
    List {
        /// The application
        application: String,
        #[command(flatten)]
        calling: Calling,
    },
    /// Create a client; its secret is told once
    Create {
        /// The application
        application: String,
        /// The client's id [default: one is made]
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        /// Its tokens lead to the sandbox endpoint
        #[arg(long)]
        sandbox: bool,
        /// What it may ask the token endpoint for: client_credentials, refresh_token, password; once for each
        #[arg(long = "grant", value_name = "GRANT")]
        grants: Vec<String>,
        /// A scope that it may be given; once for each
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// Somebody else issues its tokens: no secret is made
        #[arg(long)]
        no_secret: bool,
        /// The issuer whose tokens may say that they are this client's: no secret is made
        #[arg(long, value_name = "NAME")]
        issuer: Option<String>,
        #[command(flatten)]
        writing: Writing,
    },
    /// Delete a client
    Delete {
        /// The application
        application: String,
        /// The client's id
        id: String,
        #[command(flatten)]
        writing: Writing,
    },
}

/// Does what is asked.
pub fn run(options: Options) -> ExitCode {
    match options.verb {
        Verb::List { enabled, listing } => NOUN.list(&listing, vec![("enabled", enabled.map(|one| one.to_string()))]),
        Verb::Show { name, showing } => NOUN.show(&showing, &[&name]),
        Verb::Create { name, owner, plan, writing } => {
            let (owner, plan) = (owner.map(Value::from), plan.map(Value::from));
            let body = object([("name", Some(json!(name))), ("owner", owner), ("plan", plan)]);
            NOUN.create(&writing, Ok(Value::Object(body)), |_| String::new())
        }
        Verb::Set { name, owner, plan, enabled, changing } => {
            let (owner, plan) = (owner.map(Value::from), plan.map(Value::from));
            let patch = object([("owner", owner), ("plan", plan), ("enabled", enabled.map(Value::from))]);
            NOUN.set(&changing, &[&name], Ok(Value::Object(patch)))
        }
        Verb::Delete { name, cascade, changing } => NOUN.delete(&changing, &[&name], cascade),
        Verb::Client { verb } => client(verb),
    }
}

fn client(verb: ClientVerb) -> ExitCode {
    match verb {
        ClientVerb::List { application, calling } => {
            let is_json = calling.is_json();
            calling.run(|client| async move {
                let path = [NOUN.family, &application];
                let body = client.ask(Method::GET, &path, &[], If::Always, None).await?.body;
                let clients = body["clients"].as_array().cloned().unwrap_or_default();
                if is_json {
                    return Ok((as_json(&json!({ "items": clients })), true));
                }
                let heading = ["CLIENT", "ENVIRONMENT", "GRANTS", "SCOPES", "SECRET"];
                let mut rows = vec![heading.map(str::to_owned).to_vec()];
                rows.extend(clients.iter().map(|one| {
                    let secret = if one["has_secret"] == true { "yes" } else { "no" };
                    vec![text(&one["id"]), environment(one), text(&one["grants"]), text(&one["scopes"]), secret.into()]
                }));
                Ok((table(&rows), true))
            })
        }
        ClientVerb::Create { application, id, sandbox, grants, scopes, no_secret, issuer, writing } => {
            let mut body = object([
                ("id", id.map(Value::from)),
                ("environment", sandbox.then(|| json!("sandbox"))),
                ("grants", some_list(&grants)),
                ("scopes", some_list(&scopes)),
                ("issuer", issuer.map(Value::from)),
            ]);
            if no_secret {
                body.insert("secret".into(), Value::Null);
            }
            let (query, is_json) = (writing.query(), writing.calling.is_json());
            writing.calling.run(|client| async move {
                let path = [NOUN.family, &application, "clients"];
                let body = Value::Object(body);
                let answer = client.ask(Method::POST, &path, &query, If::Always, Some(&body)).await?.body;
                let is_yes = is_applied(&answer);
                if is_json {
                    return Ok((as_json(&answer), is_yes));
                }
                let generation = in_generation(&answer);
                let mut said =
                    format!("client of {application} is created{generation}\nclient_id      {}\n", text(&answer["id"]));
                if let Some(secret) = answer["client_secret"].as_str() {
                    said.push_str(&format!("client_secret  {secret}\nThe secret is not told again.\n"));
                }
                Ok((said + &nodes(&answer), is_yes))
            })
        }
        ClientVerb::Delete { application, id, writing } => {
            let (query, is_json) = (writing.query(), writing.calling.is_json());
            writing.calling.run(|client| async move {
                let path = [NOUN.family, &application, "clients", &id];
                let answer = client.ask(Method::DELETE, &path, &query, If::Always, None).await?.body;
                let is_yes = is_applied(&answer);
                if is_json {
                    let said = if answer.is_null() { json!({ "deleted": id }) } else { answer };
                    return Ok((as_json(&said), is_yes));
                }
                Ok((format!("client {id} of {application} is deleted\n{}", nodes(&answer)), is_yes))
            })
        }
    }
}

fn row(application: &Value) -> Vec<String> {
    let clients: Vec<Value> =
        application["clients"].as_array().into_iter().flatten().map(|client| client["id"].clone()).collect();
    let (name, owner) = (text(&application["name"]), text(&application["owner"]));
    let plan = application["plan"].as_str().unwrap_or(proto::snapshot::UNLIMITED_PLAN).to_owned();
    vec![name, owner, text(&Value::Array(clients)), plan, switched(application), origin(application)]
}
