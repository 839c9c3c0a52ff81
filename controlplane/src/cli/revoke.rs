//! `revoke`: what was good and is so no more.

use std::process::ExitCode;

use proto::snapshot::Revoked;
use serde_json::{Value, json};

use super::calling::Writing;
use super::nouns::{Changing, Listing, Moment, Noun, Showing, now, object, origin, text};

const NOUN: Noun = Noun {
    noun: "revocation of",
    family: "revocations",
    heading: &["REVOKED", "ISSUED BEFORE", "EXPIRES", "REASON", "ORIGIN"],
    row,
};

/// Options of `revoke`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = super::HELP
)]
pub struct Options {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// What: token:ISSUER/ID, opaque:SHA256, key:NAME, client:ID, user:NAME, application:NAME or
    /// subscription:APPLICATION/API
    #[arg(required = true)]
    revoked: Option<Revoked>,
    /// Why; for people
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only what was issued before: now, or a time such as 2027-01-31T12:00:00Z
    #[arg(long, value_name = "MOMENT")]
    issued_before: Option<Moment>,
    /// When this may be forgotten: 90d from now, or a time
    #[arg(long, value_name = "MOMENT")]
    expires: Option<Moment>,
    #[command(flatten)]
    writing: Writing,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List what is revoked
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one revocation
    Show {
        /// What is revoked
        revoked: Revoked,
        #[command(flatten)]
        showing: Showing,
    },
    /// Take a revocation back: what it names is good again
    Delete {
        /// What is revoked
        revoked: Revoked,
        #[command(flatten)]
        changing: Changing,
    },
}

/// Does what is asked.
pub fn run(options: Options) -> ExitCode {
    match (options.verb, options.revoked) {
        (Some(Verb::List { listing }), _) => NOUN.list(&listing, Vec::new()),
        (Some(Verb::Show { revoked, showing }), _) => NOUN.show(&showing, &[&revoked.to_string()]),
        (Some(Verb::Delete { revoked, changing }), _) => NOUN.delete(&changing, &[&revoked.to_string()], false),
        (None, Some(revoked)) => {
            let id = revoked.to_string();
            let moment = |moment: Option<Moment>| moment.map(|moment| moment.value(now()));
            let body = object([
                ("revoked", Some(json!(id))),
                ("reason", options.reason.map(Value::from)),
                ("issued_before", moment(options.issued_before)),
                ("expires", moment(options.expires)),
            ]);
            // To revoke what is revoked already is no mistake.
            NOUN.put(&options.writing, &[&id], Ok(Value::Object(body)), "in force")
        }
        // The parser wants one of them.
        (None, None) => super::cannot(false, "say what to revoke"),
    }
}

fn row(one: &Value) -> Vec<String> {
    let (before, expires) = (text(&one["issued_before"]), text(&one["expires"]));
    vec![text(&one["revoked"]), before, expires, text(&one["reason"]), origin(one)]
}
