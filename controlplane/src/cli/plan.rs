//! `plan`: how much may pass, and what becomes of the rest.

use std::path::PathBuf;
use std::process::ExitCode;

use proto::snapshot::{Amount, Quota, Rate};
use serde_json::{Map, Value, json};

use super::calling::{CallError, Writing};
use super::nouns::{Changing, Listing, Noun, Showing, document, object, origin, text};

const NOUN: Noun = Noun {
    noun: "plan",
    family: "plans",
    heading: &["PLAN", "LIMITS", "DIRECTION", "ON LIMIT", "SESSIONS", "ORIGIN"],
    row,
};

/// Options of `plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = super::HELP)]
pub struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List plans, those that the gateway brings among them
    List {
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
    /// Create one; one of the same name as the gateway's takes its place
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        fields: Fields,
        #[command(flatten)]
        writing: Writing,
    },
    /// Change some of one; live sessions have it from their next message
    Update {
        /// Its name
        name: String,
        #[command(flatten)]
        fields: Fields,
        #[command(flatten)]
        changing: Changing,
    },
    /// Delete one that nobody uses
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        changing: Changing,
    },
}

#[derive(Debug, clap::Args)]
struct Fields {
    /// The rest of it, as the configuration would have it: a file in YAML or JSON, - for standard input. Other options
    /// are put over it
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// So many flow in, such as 100/s, 6000/m or, with --count bytes, 512KiB/s. With --quota as well, both hold
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// How many may come at once, such as 200 or 1MiB [default: as many as flow in during a second]
    #[arg(long, value_name = "AMOUNT", requires = "rate")]
    burst: Option<Amount>,
    /// So many in each window of the calendar, such as 50000/day or 1GiB/month
    #[arg(long, value_name = "QUOTA")]
    quota: Option<Quota>,
    /// What --rate and --quota count [default: messages]
    #[arg(long, value_name = "UNIT", value_parser = ["messages", "frames", "bytes"])]
    count: Option<String>,
    /// Whose messages count [default: both]
    #[arg(long, value_parser = ["both", "client", "server"])]
    direction: Option<String>,
    /// What happens to a message that is too much [default: notify]
    #[arg(long, value_name = "OUTCOME", value_parser = ["notify", "drop", "delay", "close"])]
    on_limit: Option<String>,
    /// Live sessions of whoever has the plan; 0: any number
    #[arg(long, value_name = "N")]
    sessions_max: Option<u32>,
}

impl Fields {
    /// What they say; a file's members are kept where they do not.
    fn object(&self) -> Result<Map<String, Value>, CallError> {
        let mut all = self.from.as_ref().map(document).transpose()?.unwrap_or_default();
        let count = || self.count.clone().map(Value::from);
        let rate = self.rate.map(|rate| {
            let burst = self.burst.map(|burst| json!(burst));
            Value::Object(object([("rate", Some(json!(rate))), ("burst", burst), ("count", count())]))
        });
        let quota = self.quota.map(|quota| Value::Object(object([("quota", Some(json!(quota))), ("count", count())])));
        let limits: Vec<Value> = rate.into_iter().chain(quota).collect();
        if limits.is_empty() && self.count.is_some() {
            return Err(CallError::Said("--count is of --rate and --quota; say one of them, too".into()));
        }
        all.extend(object([
            ("limits", (!limits.is_empty()).then_some(Value::Array(limits))),
            ("direction", self.direction.clone().map(Value::from)),
            ("sessions_max", self.sessions_max.map(Value::from)),
        ]));
        if let Some(action) = &self.on_limit {
            match all.entry("on_limit").or_insert_with(|| json!({})) {
                Value::Object(present) => present.insert("action".into(), json!(action)),
                _ => return Err(CallError::Said("on_limit in the file is no mapping".into())),
            };
        }
        Ok(all)
    }

    fn new_object(&self, name: &str) -> Result<Value, CallError> {
        let mut all = self.object()?;
        all.insert("name".into(), json!(name));
        Ok(Value::Object(all))
    }
}

/// Does what is asked.
pub fn run(options: Options) -> ExitCode {
    match options.verb {
        Verb::List { listing } => NOUN.list(&listing, Vec::new()),
        Verb::Show { name, showing } => NOUN.show(&showing, &[&name]),
        Verb::Create { name, fields, writing } => NOUN.create(&writing, fields.new_object(&name), |_| String::new()),
        Verb::Update { name, fields, changing } => NOUN.set(&changing, &[&name], fields.object().map(Value::Object)),
        Verb::Delete { name, changing } => NOUN.delete(&changing, &[&name], false),
    }
}

fn row(plan: &Value) -> Vec<String> {
    let limits = plan["limits"].as_array().into_iter().flatten().map(limit).collect::<Vec<_>>();
    let limits = if limits.is_empty() { "none".into() } else { limits.join(", ") };
    let word = |value: &Value, default: &str| value.as_str().unwrap_or(default).to_owned();
    let sessions = plan["sessions_max"].as_u64().filter(|most| *most > 0).map_or("any".into(), |most| most.to_string());
    let (direction, action) = (word(&plan["direction"], "both"), word(&plan["on_limit"]["action"], "notify"));
    vec![text(&plan["name"]), limits, direction, action, sessions, origin(plan)]
}

/// `100/s burst 200`, `1GiB/month bytes recorded`.
fn limit(limit: &Value) -> String {
    let mut told = text(if limit["rate"].is_null() { &limit["quota"] } else { &limit["rate"] });
    if !limit["burst"].is_null() {
        told.push_str(&format!(" burst {}", text(&limit["burst"])));
    }
    if let Some(count) = limit["count"].as_str().filter(|count| *count != "messages") {
        told.push_str(&format!(" {count}"));
    }
    if limit["stop"] == false {
        told.push_str(" recorded");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_the_plan_limits() {
        let plan = json!({
            "name": "gold", "_meta": { "origin": "built_in" },
            "limits": [
                { "rate": "100/s", "burst": 200 },
                { "quota": "1GiB/month", "count": "bytes", "stop": false },
            ],
        });
        let limits = "100/s burst 200, 1GiB/month bytes recorded";
        assert_eq!(row(&plan), ["gold", limits, "both", "notify", "any", "built_in"]);
        assert_eq!(row(&json!({ "name": "none", "sessions_max": 3 }))[1..5], ["none", "both", "notify", "3"]);
    }
}
