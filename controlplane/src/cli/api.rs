//! `api`: the published APIs, one version each.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::calling::{CallError, Writing};
use super::nouns::{Changing, Listing, Noun, Showing, document, object, origin, some_list, switched, text};

const NOUN: Noun = Noun {
    noun: "API",
    family: "apis",
    heading: &["API", "CONTEXT", "ENDPOINTS", "ACCEPTS", "ENABLED", "ORIGIN"],
    row,
};

/// Options of `api`.
#[derive(Debug, clap::Args)]
#[command(after_help = super::HELP)]
pub struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List APIs
    List {
        /// Only those that are switched on, or off
        #[arg(long, value_name = "SWITCH")]
        enabled: Option<bool>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one
    Show {
        /// NAME:VERSION, or the name of one without versions
        api: String,
        #[command(flatten)]
        showing: Showing,
    },
    /// Publish one
    Create {
        /// NAME:VERSION, or the name of one without versions
        api: String,
        #[command(flatten)]
        fields: Fields,
        #[command(flatten)]
        writing: Writing,
    },
    /// Change some of one
    Set {
        /// NAME:VERSION, or the name of one without versions
        api: String,
        #[command(flatten)]
        fields: Fields,
        #[command(flatten)]
        changing: Changing,
    },
    /// Unpublish one; its sessions are closed
    Delete {
        /// NAME:VERSION, or the name of one without versions
        api: String,
        /// The subscriptions to it as well
        #[arg(long)]
        cascade: bool,
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
    /// The path under which it is reached, such as /chat
    #[arg(long, value_name = "PATH")]
    context: Option<String>,
    /// The production endpoint: ws://HOST/PATH, wss://HOST/PATH
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The sandbox endpoint
    #[arg(long, value_name = "URL")]
    sandbox: Option<String>,
    /// A credential that it accepts: bearer, api_key, basic and others; once for each
    #[arg(long, value_name = "FORM")]
    accept: Vec<String>,
    /// Whether an application must subscribe to it
    #[arg(long, value_name = "SWITCH")]
    require_subscription: Option<bool>,
    /// The plan of everybody together at this API version
    #[arg(long, value_name = "PLAN")]
    plan: Option<String>,
    /// The policy that chooses a plan, of limit_policies of the configuration
    #[arg(long, value_name = "NAME")]
    limit_policy: Option<String>,
    /// Whether it also answers where the path names no version
    #[arg(long, value_name = "SWITCH")]
    default_version: Option<bool>,
    /// Whether it is served
    #[arg(long, value_name = "SWITCH")]
    enabled: Option<bool>,
}

impl Fields {
    fn object(&self) -> Result<Map<String, Value>, CallError> {
        let mut all = self.from.as_ref().map(document).transpose()?.unwrap_or_default();
        let url = |url: &String| json!({ "url": url });
        let endpoints =
            object([("production", self.to.as_ref().map(url)), ("sandbox", self.sandbox.as_ref().map(url))]);
        let authentication = object([
            ("accept", some_list(&self.accept)),
            ("require_subscription", self.require_subscription.map(Value::from)),
        ]);
        for (block, members) in [("endpoints", endpoints), ("authentication", authentication)] {
            if members.is_empty() {
                continue;
            }
            match all.entry(block).or_insert_with(|| json!({})) {
                Value::Object(present) => present.extend(members),
                _ => return Err(CallError::Said(format!("{block} in the file is no mapping"))),
            }
        }
        all.extend(object([
            ("context", self.context.clone().map(Value::from)),
            ("plan", self.plan.clone().map(Value::from)),
            ("limit_policy", self.limit_policy.clone().map(Value::from)),
            ("default_version", self.default_version.map(Value::from)),
            ("enabled", self.enabled.map(Value::from)),
        ]));
        Ok(all)
    }

    fn new_object(&self, api: &str) -> Result<Value, CallError> {
        let mut all = self.object()?;
        let (name, version) = api.split_once(':').unwrap_or((api, ""));
        all.insert("name".into(), json!(name));
        if !version.is_empty() {
            all.insert("version".into(), json!(version));
        }
        Ok(Value::Object(all))
    }
}

/// Does what is asked.
pub fn run(options: Options) -> ExitCode {
    match options.verb {
        Verb::List { enabled, listing } => NOUN.list(&listing, vec![("enabled", enabled.map(|one| one.to_string()))]),
        Verb::Show { api, showing } => NOUN.show(&showing, &[&api]),
        Verb::Create { api, fields, writing } => NOUN.create(&writing, fields.new_object(&api), |_| String::new()),
        Verb::Set { api, fields, changing } => NOUN.set(&changing, &[&api], fields.object().map(Value::Object)),
        Verb::Delete { api, cascade, changing } => NOUN.delete(&changing, &[&api], cascade),
    }
}

fn row(api: &Value) -> Vec<String> {
    let (name, version) = (text(&api["name"]), api["version"].as_str().unwrap_or_default());
    let label = if version.is_empty() { name } else { format!("{name}:{version}") };
    let endpoint = |environment: &str| {
        let one = &api["endpoints"][environment];
        one["url"].as_str().or(one["upstream"].as_str()).map(str::to_owned)
    };
    let endpoints: Vec<String> = ["production", "sandbox"].into_iter().filter_map(endpoint).collect();
    let accepts = text(&api["authentication"]["accept"]);
    vec![label, text(&api["context"]), endpoints.join(" "), accepts, switched(api), origin(api)]
}
