//! What the control plane answers to an operator, as the JSON that travels and as the values behind it.
//!
//! Both ends share these types: the server writes them, the command line shows them as tables. A reader skips fields
//! that it does not know.

use std::collections::BTreeMap;

use proto::control::message::{Generation, Usage, UsageRow};
use proto::limits::USAGE_ROWS_MAX;
use proto::snapshot::{Timestamp, Unit};
use serde::{Deserialize, Serialize};

/// One thing that is wrong with a file. The answer's form of a [`Diagnostic`](crate::source::Diagnostic).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The file.
    pub file: String,
    /// From 1; 0 where the file as a whole is meant.
    pub line: u64,
    /// From 1; 0 where the file as a whole is meant.
    pub column: u64,
    /// JSON Pointer of the value.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

impl From<&crate::source::Diagnostic> for Diagnostic {
    fn from(one: &crate::source::Diagnostic) -> Self {
        let crate::source::Diagnostic { file, line, column, place, message } = one.clone();
        Self { file, line, column, place, message }
    }
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, line, column, place, message } = self.clone();
        crate::source::Diagnostic { file, line, column, place, message }.fmt(f)
    }
}

/// The answer to `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The control plane itself.
    pub control_plane: Standing,
    /// How many objects the generation has, kind by kind; kinds of which there are none are left out.
    #[serde(default)]
    pub objects: Vec<Counted>,
    /// The data planes that are connected, in the order in which they came.
    pub nodes: Vec<NodeStatus>,
    /// The certificates of the generation, in the order of names.
    #[serde(default)]
    pub certificates: Vec<CertificateStanding>,
    /// The groups of authorities of the generation, in the order of names.
    #[serde(default)]
    pub authorities: Vec<AuthoritiesStanding>,
    /// The issuers of the generation, in the order of names.
    #[serde(default)]
    pub issuers: Vec<IssuerStanding>,
    /// The gateway's own token endpoint, if it has one.
    #[serde(default)]
    pub token_endpoint: Option<TokenEndpointStanding>,
}

/// How an issuer stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerStanding {
    /// Its name in the configuration; `framegate` is the gateway's own.
    pub name: String,
    /// The `iss` of its tokens.
    pub issuer: String,
    /// How many keys the data planes have of it.
    pub keys: u64,
    /// Whether its tokens can be asked about.
    pub introspection: bool,
    /// From where its keys are fetched, if they are.
    #[serde(default)]
    pub url: Option<String>,
    /// When they last came: RFC 3339.
    #[serde(default)]
    pub fetched: Option<String>,
    /// When they are fetched next.
    #[serde(default)]
    pub next: Option<String>,
    /// Why they did not come when they were last fetched.
    #[serde(default)]
    pub fault: Option<String>,
}

/// How the token endpoint stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenEndpointStanding {
    /// Where it listens; none: it does not.
    pub address: Option<String>,
    /// Why it does not.
    #[serde(default)]
    pub fault: Option<String>,
    /// How many keys are published.
    pub keys: u64,
    /// The name of the key that signs.
    pub signing: Option<String>,
    /// When the keys are next changed: RFC 3339.
    #[serde(default)]
    pub next_change: Option<String>,
}

/// How many objects of a kind there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// `api`, `application`, `subscription`, `key`, `user` or `revocation`.
    pub kind: String,
    /// All of them.
    pub total: u64,
    /// Those of them that are stored in the catalogue; the others are declared in the file.
    pub stored: u64,
}

/// How a certificate stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStanding {
    /// Its name in the configuration.
    pub name: String,
    /// The server names that it covers.
    pub server_names: Vec<String>,
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// When it, or one of its chain, runs out: RFC 3339.
    pub not_after: String,
    /// Whole days until then; negative once it has passed.
    pub days_left: i64,
    /// `listener NAME` and `upstream NAME` of all that use it.
    pub used_by: Vec<String>,
}

/// How a group of authorities stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthoritiesStanding {
    /// Its name in the configuration.
    pub name: String,
    /// How many certificates it has.
    pub certificates: u64,
    /// How many files of revocation lists it has.
    pub revocation_lists: u64,
    /// Which of them runs out first.
    pub first_to_end: String,
    /// When: RFC 3339.
    pub not_after: String,
    /// Whole days until then; negative once it has passed.
    pub days_left: i64,
    /// `listener NAME` and `upstream NAME` of all that trust them.
    pub used_by: Vec<String>,
}

/// How the control plane stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Its software version.
    pub software: String,
    /// The version of the control protocol that it speaks.
    pub protocol: u32,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The file that is its source.
    pub file: String,
    /// Where `apply` has replaced the file that it was started with: that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_with: Option<String>,
    /// What it publishes; none before the first file that is sound.
    pub generation: Option<Generation>,
    /// The checksum of what it publishes.
    pub checksum: Option<String>,
    /// What is wrong with the file as it was last read; empty when it was published.
    #[serde(default)]
    pub diagnostics: Vec<Diagnostic>,
    /// What is no error in it, and should be looked after.
    #[serde(default)]
    pub warnings: Vec<Diagnostic>,
}

/// How a data plane stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// Its process id.
    pub pid: u32,
    /// Its software version.
    pub software: String,
    /// Seconds since it connected.
    pub connected_s: u64,
    /// What it serves.
    pub generation: Option<Generation>,
    /// A push that it has not answered.
    pub in_flight: Option<Generation>,
    /// The last push that it refused, until it accepts one.
    pub last_reject: Option<Rejected>,
    /// `io_uring`, `io_uring_plain` or `epoll`; empty before its first report, as are the counts.
    pub driver: String,
    /// `uring` or `readiness`; empty before its first report.
    pub engine: String,
    /// Whether large frames are spliced.
    pub splice: bool,
    /// Workers.
    pub workers: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Whether it is draining.
    pub draining: bool,
    /// Live sessions.
    pub sessions: u64,
    /// Live sessions by API.
    pub sessions_by_api: BTreeMap<String, u64>,
    /// Sessions since it started.
    pub sessions_total: u64,
    /// Handshakes refused since it started.
    pub refusals_total: u64,
    /// Data messages relayed since it started.
    pub messages_total: u64,
    /// Payload bytes relayed since it started.
    pub bytes_total: u64,
}

/// A push that a node refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Which.
    pub generation: Generation,
    /// Every reason.
    pub reasons: Vec<String>,
}

/// The answer to `apply` and `reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Whether the file is sound and every connected node serves it.
    pub ok: bool,
    /// The file.
    pub file: String,
    /// The generation that was made of it; none when it is not sound.
    pub generation: Option<Generation>,
    /// What is wrong with it.
    pub diagnostics: Vec<Diagnostic>,
    /// What is no error, and should be looked after.
    #[serde(default)]
    pub warnings: Vec<Diagnostic>,
    /// What became of it on each node.
    pub nodes: Vec<NodeOutcome>,
}

/// What became of a generation on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeOutcome {
    /// The node's name.
    pub node: String,
    /// Its process id.
    pub pid: u32,
    /// In a word.
    pub outcome: Outcome,
    /// How long the node needed, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micros: Option<u64>,
    /// Why it refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// What became of a generation on one node, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The node serves it.
    Applied,
    /// The node refused it and serves what it served.
    Rejected,
    /// A later generation has taken its place.
    Superseded,
    /// The node has not answered in time; it may yet.
    Silent,
    /// The node's connection has ended.
    Gone,
}

/// The answer to `diff`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// The file.
    pub file: String,
    /// Whether it says what runs now.
    pub equal: bool,
    /// What it is compared with; none when nothing runs.
    pub generation: Option<Generation>,
    /// What is wrong with the file; then nothing was compared.
    #[serde(default)]
    pub diagnostics: Vec<Diagnostic>,
    /// What is no error, and should be looked after.
    #[serde(default)]
    pub warnings: Vec<Diagnostic>,
    /// Every difference.
    pub changes: Vec<Change>,
    /// Live sessions by what the changes do to them; sessions of APIs that are not touched are not counted.
    pub sessions: Vec<Touched>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What kind of thing differs.
    pub kind: Kind,
    /// Its name; `name:version` of an API with versions, empty for the settings.
    pub name: String,
    /// Added, removed or changed.
    pub change: Action,
    /// The fields that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
}

/// What kind of thing differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the model's part of its name")]
pub enum Kind {
    Settings,
    Certificate,
    Authorities,
    Listener,
    Upstream,
    Api,
    Plan,
    LimitPolicy,
    Limit,
    Denial,
    Issuer,
    Assertion,
    Application,
    Subscription,
    Key,
    User,
    Revocation,
}

/// What happened to a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words say it")]
pub enum Action {
    Added,
    Removed,
    Changed,
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// Its path within the thing, such as `session.idle_timeout`.
    pub field: String,
    /// Its value now; none where it is at its default.
    #[serde(default)]
    pub before: Option<serde_json::Value>,
    /// Its value in the file; none where it is at its default.
    #[serde(default)]
    pub after: Option<serde_json::Value>,
}

/// Live sessions of one API that a change touches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// The API, `name` or `name:version`.
    pub api: String,
    /// How many, over all nodes.
    pub sessions: u64,
    /// What becomes of them.
    pub effect: Effect,
}

/// What becomes of live sessions, the mildest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// They keep what they have; new sessions get the new.
    Untouched,
    /// The new limits and denials hold from their next message.
    LimitsFromNextMessage,
    /// They are closed with 1012 over the drain window.
    Drained,
}

/// The answer to `drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Whether any node was told.
    pub ok: bool,
    /// The nodes that were told, by name and process id.
    pub nodes: Vec<(String, u32)>,
}

/// The answer to `usage`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// One for each limit of each key on each data plane; those of which the largest part is used, that first.
    pub rows: Vec<UsedRow>,
    /// How many rows there are that fit, those that were left out among them.
    pub total: u64,
    /// The data planes that have not said anything, by name and process id.
    #[serde(default)]
    pub silent: Vec<(String, u32)>,
}

/// What one key has used of one limit of its plan, on one data plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedRow {
    /// The data plane's name: each counts for itself.
    pub node: String,
    /// Its process id.
    pub pid: u32,
    /// `application`, `subscription`, `api`, `topic`, `unauthenticated`, `keyed` or `session`.
    pub level: String,
    /// The key, as people read it.
    pub key: String,
    /// The API that the key has; empty: none.
    #[serde(default)]
    pub api: String,
    /// The application that the key has; empty: none.
    #[serde(default)]
    pub application: String,
    /// The plan's name.
    pub plan: String,
    /// The limit, as it is written.
    pub limit: String,
    /// What is counted.
    pub count: Unit,
    /// The most that can pass at once.
    pub amount: u64,
    /// Used of the window, or missing from the full bucket.
    pub used: u64,
    /// What may still pass.
    pub left: u64,
    /// When nothing of it will be used any more if nobody comes: RFC 3339, rounded up to a second; none: never.
    #[serde(default)]
    pub resets: Option<Timestamp>,
    /// Messages that this limit stopped, as long as the key has been known.
    pub stopped: u64,
    /// Live sessions of the key.
    pub sessions: u32,
}

impl Used {
    /// Of what the nodes said, by name and process id: at most so many rows; 0: [`USAGE_ROWS_MAX`].
    pub fn of(answers: Vec<(String, u32, Option<Usage>)>, rows_max: u32) -> Self {
        let mut used = Self::default();
        let mut rows: Vec<(String, u32, UsageRow)> = Vec::new();
        for (node, pid, usage) in answers {
            let Some(usage) = usage else {
                used.silent.push((node, pid));
                continue;
            };
            used.total = used.total.saturating_add(usage.total);
            rows.extend(usage.rows.into_iter().map(|row| (node.clone(), pid, row)));
        }
        rows.sort_by(|(a_node, a_pid, a), (b_node, b_pid, b)| a.order(b).then((a_node, a_pid).cmp(&(b_node, b_pid))));
        let wanted = if rows_max == 0 { USAGE_ROWS_MAX } else { rows_max as usize };
        rows.truncate(wanted.min(USAGE_ROWS_MAX));
        used.rows = rows.into_iter().map(UsedRow::of).collect();
        used
    }
}

impl UsedRow {
    fn of((node, pid, row): (String, u32, UsageRow)) -> Self {
        let UsageRow { level, key, api, application, plan, limit, count, .. } = row;
        let UsageRow { amount, used, left, resets_ms, stopped, sessions, .. } = row;
        let resets = (resets_ms != u64::MAX).then(|| Timestamp::from_secs(resets_ms.div_ceil(1000)));
        Self {
            node,
            pid,
            level,
            key,
            api,
            application,
            plan,
            limit,
            count,
            amount,
            used,
            left,
            resets,
            stopped,
            sessions,
        }
    }
}
