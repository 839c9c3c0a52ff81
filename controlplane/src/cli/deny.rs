//! `deny`: whose messages do not pass, from now on.

use std::process::ExitCode;

use proto::snapshot::Cidr;
use serde_json::{Value, json};

use super::calling::Writing;
use super::nouns::{Changing, Listing, Noun, Showing, object, origin, some_list, switched, text};

const NOUN: Noun = Noun {
    noun: "denial",
    family: "denials",
    heading: &["DENIAL", "API", "APPLICATION", "USER", "ADDRESSES", "LIVE SESSIONS", "ENABLED", "ORIGIN"],
    row,
};

/// Options of `deny`.
#[derive(Debug, clap::Args)]
#[command(after_help = super::HELP)]
pub struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List denials
    List {
        /// Only those of this API: NAME:VERSION, or the name of one without versions
        #[arg(long, value_name = "API")]
        api: Option<String>,
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
    /// Show one
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        showing: Showing,
    },
    /// Deny whoever all of this fits: new sessions are refused, live ones closed
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        writing: Writing,
    },
    /// Take a denial back
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        changing: Changing,
    },
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Whom")]
struct Whom {
    /// At this API: NAME:VERSION, or NAME for all its versions
    #[arg(long, value_name = "API")]
    api: Option<String>,
    /// This application; with --api its subscription
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// This user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// From this address or range, such as 198.51.100.0/24; once for each
    #[arg(long, value_name = "RANGE")]
    address: Vec<Cidr>,
    /// Do not close live sessions; leave their messages out, as long as the denial stands
    #[arg(long)]
    drop: bool,
}

/// Does what is asked.
pub fn run(options: Options) -> ExitCode {
    match options.verb {
        Verb::List { api, application, user, enabled, listing } => {
            let enabled = enabled.map(|one| one.to_string());
            let filters = vec![("api", api), ("application", application), ("user", user), ("enabled", enabled)];
            NOUN.list(&listing, filters)
        }
        Verb::Show { name, showing } => NOUN.show(&showing, &[&name]),
        Verb::Create { name, whom, writing } => {
            let addresses: Vec<String> = whom.address.iter().map(ToString::to_string).collect();
            let body = object([
                ("name", Some(json!(name))),
                ("api", whom.api.map(Value::from)),
                ("application", whom.application.map(Value::from)),
                ("user", whom.user.map(Value::from)),
                ("addresses", some_list(&addresses)),
                ("action", whom.drop.then(|| json!("drop"))),
            ]);
            NOUN.create(&writing, Ok(Value::Object(body)), |_| String::new())
        }
        Verb::Delete { name, changing } => NOUN.delete(&changing, &[&name], false),
    }
}

fn row(one: &Value) -> Vec<String> {
    let action = if one["action"] == "drop" { "drop" } else { "close" };
    vec![
        text(&one["name"]),
        text(&one["api"]),
        text(&one["application"]),
        text(&one["user"]),
        text(&one["addresses"]),
        action.into(),
        switched(one),
        origin(one),
    ]
}
