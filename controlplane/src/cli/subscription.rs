//! `subscription`: which application may use which API.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::calling::Writing;
use super::nouns::{Changing, Listing, Noun, Showing, object, origin, switched, text};

const NOUN: Noun = Noun {
    noun: "subscription",
    family: "subscriptions",
    heading: &["SUBSCRIPTION", "PLAN", "ENABLED", "ORIGIN"],
    row,
};

/// Options of `subscription`.
#[derive(Debug, clap::Args)]
#[command(after_help = super::HELP)]
pub struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List subscriptions
    List {
        /// Only those of this application
        #[arg(long, value_name = "NAME")]
        application: Option<String>,
        /// Only those to this API
        #[arg(long, value_name = "API")]
        api: Option<String>,
        /// Only those that are switched on, or off
        #[arg(long, value_name = "SWITCH")]
        enabled: Option<bool>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one
    Show {
        #[command(flatten)]
        pair: Pair,
        #[command(flatten)]
        showing: Showing,
    },
    /// Subscribe an application to an API
    Create {
        #[command(flatten)]
        pair: Pair,
        /// The plan [default: AsyncUnlimited]
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
        #[command(flatten)]
        writing: Writing,
    },
    /// Change some of one
    Set {
        #[command(flatten)]
        pair: Pair,
        /// The plan
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
        /// Off: as if it were not there, and its live sessions are closed
        #[arg(long, value_name = "SWITCH")]
        enabled: Option<bool>,
        #[command(flatten)]
        changing: Changing,
    },
    /// End one; its sessions are closed
    Delete {
        #[command(flatten)]
        pair: Pair,
        #[command(flatten)]
        changing: Changing,
    },
}

#[derive(Debug, clap::Args)]
struct Pair {
    /// The application
    application: String,
    /// The API: NAME:VERSION, or the name of one without versions
    api: String,
}

/// Does what is asked.
pub fn run(options: Options) -> ExitCode {
    match options.verb {
        Verb::List { application, api, enabled, listing } => {
            let enabled = enabled.map(|one| one.to_string());
            NOUN.list(&listing, vec![("application", application), ("api", api), ("enabled", enabled)])
        }
        Verb::Show { pair, showing } => NOUN.show(&showing, &[&pair.application, &pair.api]),
        Verb::Create { pair, plan, writing } => {
            let (application, api) = (Some(json!(pair.application)), Some(json!(pair.api)));
            let body = object([("application", application), ("api", api), ("plan", plan.map(Value::from))]);
            NOUN.create(&writing, Ok(Value::Object(body)), |_| String::new())
        }
        Verb::Set { pair, plan, enabled, changing } => {
            let patch = object([("plan", plan.map(Value::from)), ("enabled", enabled.map(Value::from))]);
            NOUN.set(&changing, &[&pair.application, &pair.api], Ok(Value::Object(patch)))
        }
        Verb::Delete { pair, changing } => NOUN.delete(&changing, &[&pair.application, &pair.api], false),
    }
}

fn row(one: &Value) -> Vec<String> {
    let plan = one["plan"].as_str().unwrap_or(proto::snapshot::UNLIMITED_PLAN).to_owned();
    vec![format!("{}/{}", text(&one["application"]), text(&one["api"])), plan, switched(one), origin(one)]
}
