//! Published APIs: what clients ask for, where it leads, and the rules of its sessions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Admission, Authentication, Duration, EndpointUrl, Routing, Size, Step, is_default, is_true, yes};

/// One version of a published WebSocket API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// The API's name. Several versions share it.
    pub name: String,
    /// The version, such as `v1`. Part of the path; empty for an API without versions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub version: String,
    /// The path under which it is reached, such as `/chat`; the version follows, or stands where `{version}` does.
    pub context: String,
    /// This version also answers where the path names none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub default_version: bool,
    /// Off: kept in the configuration, but answered with 404.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
    /// Hosts it is served for: `chat.example.com`, `*.example.com`. None: every host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hosts: Vec<String>,
    /// Names of the listeners it is served on. None: every listener.
    #[serde(default, skip_serializing_if = "is_default")]
    pub listeners: Vec<String>,
    /// Whether longer paths than the context reach it.
    #[serde(default, skip_serializing_if = "is_default", rename = "match")]
    pub context_match: ContextMatch,
    /// Topics (resources) below the context. None: one topic, `/*`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub topics: Vec<Topic>,
    /// Where its sessions lead.
    pub endpoints: Endpoints,
    /// Origins (RFC 6454: scheme, host and port) that browsers may connect from, in place of those of the settings; `*`
    /// alone is every origin. None: those of the settings.
    #[serde(default, skip_serializing_if = "is_default")]
    pub origins: Vec<String>,
    /// How its clients prove who they are. Left out: it is open.
    #[serde(default, skip_serializing_if = "is_default")]
    pub authentication: Authentication,
    /// What is decided when a client asks for the upgrade, step by step.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_upgrade: Vec<Step>,
    /// Whether permessage-deflate is negotiated end to end.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compression: Compression,
    /// The life of a session.
    #[serde(default, skip_serializing_if = "is_default")]
    pub session: SessionOptions,
    /// Ceilings of frames and messages. A change reaches live sessions from their next message.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: MessageLimits,
    /// The plan of everybody together at this API version. With it, or with a policy, those of its topics do not count.
    #[serde(default, skip_serializing_if = "is_default")]
    pub plan: String,
    /// The same by a policy of `limit_policies`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limit_policy: String,
    /// The plan of clients without a credential, each address for itself. Empty: that of the settings.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unauthenticated_plan: String,
    /// How many sessions it lets in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub admission: Admission,
}

impl Api {
    /// An API at a context that leads to one production endpoint, everything else at its default.
    pub fn new(
        name: impl Into<String>,
        version: impl Into<String>,
        context: impl Into<String>,
        production: Target,
    ) -> Self {
        Self {
            name: name.into(),
            version: version.into(),
            context: context.into(),
            default_version: false,
            enabled: true,
            hosts: Vec::new(),
            listeners: Vec::new(),
            context_match: ContextMatch::default(),
            topics: Vec::new(),
            endpoints: Endpoints { production: Some(production), sandbox: None },
            origins: Vec::new(),
            authentication: Authentication::default(),
            on_upgrade: Vec::new(),
            compression: Compression::default(),
            session: SessionOptions::default(),
            limits: MessageLimits::default(),
            plan: String::new(),
            limit_policy: String::new(),
            unauthenticated_plan: String::new(),
            admission: Admission::default(),
        }
    }

    /// The endpoints that it names by their URLs, and those that its policy may lead to.
    pub fn bare_urls(&self) -> impl Iterator<Item = &EndpointUrl> {
        let targets =
            [&self.endpoints.production, &self.endpoints.sandbox].into_iter().filter_map(|target| match target {
                Some(Target::Url(url)) => Some(url),
                _ => None,
            });
        let allowed = self.on_upgrade.iter().flat_map(|step| match step {
            Step::Route(Routing::Target(target)) => target.allowed.as_slice(),
            _ => &[],
        });
        targets.chain(allowed)
    }
}

/// How a context is compared with a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContextMatch {
    /// The longest context that is the path or a whole-segment prefix of it.
    #[default]
    Longest,
    /// Only the context itself.
    Exact,
}

/// One topic (resource) of an API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// What follows the context: `/rooms`, `/rooms/{room}`, `/rooms/*`, or `/*`. Exact wins over parameters, those over `*`.
    pub topic: String,
    /// Appended to the endpoint's URL; may use the topic's parameters and `*` (what the `*` of the topic stood for).
    /// None: the endpoint's URL as configured.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mapping: Option<String>,
    /// Scopes of which a client must have one. None: any client may.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scopes: Vec<String>,
    /// The plan of everybody together at this topic, where the API has neither a plan nor a policy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub plan: String,
    /// The same by a policy of `limit_policies`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limit_policy: String,
}

/// Where an API leads, by environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// For production traffic.
    #[serde(default, skip_serializing_if = "is_default")]
    pub production: Option<Target>,
    /// For sandbox traffic.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sandbox: Option<Target>,
}

/// One thing that an environment of an API leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// One endpoint, with the options of an upstream at their defaults: `{ url: "ws://127.0.0.1:9001/" }`.
    Url(EndpointUrl),
    /// A named upstream: `{ upstream: chat }`.
    Upstream(String),
}

/// Production or sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Environment {
    /// The real endpoint.
    #[default]
    Production,
    /// The pre-production endpoint.
    Sandbox,
}

/// What becomes of permessage-deflate, RFC 7692.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Offered and agreed end to end; compressed messages pass as they are.
    #[default]
    Pass,
    /// Not offered to the endpoint, and so not agreed.
    Off,
}

/// The life of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SessionOptions {
    /// Closed with 1001 after this long without activity; 0: never.
    #[serde(skip_serializing_if = "is_idle_timeout")]
    pub idle_timeout: Duration,
    /// What counts as activity.
    #[serde(skip_serializing_if = "is_default")]
    pub idle_by: IdleBy,
    /// Closed with 1001 this long after it began, busy or not ("connection expire time"); 0: never.
    #[serde(skip_serializing_if = "is_default")]
    pub lifetime: Duration,
    /// Lifetimes are shortened by a random part of at most this many percent, so that sessions do not end together.
    #[serde(skip_serializing_if = "is_lifetime_jitter")]
    #[schemars(range(max = 100))]
    pub lifetime_jitter_percent: u8,
    /// How long a closing handshake may take on one leg before the connection is dropped.
    #[serde(skip_serializing_if = "is_close_timeout")]
    pub close_timeout: Duration,
    /// Pings that the gateway itself sends.
    #[serde(skip_serializing_if = "is_default")]
    pub ping: Pings,
    /// What becomes of the pings that the peers send.
    #[serde(skip_serializing_if = "is_default")]
    pub peer_pings: PeerPings,
    /// Check that text messages are UTF-8 (1007). Compressed messages are not inflated for it.
    #[serde(skip_serializing_if = "is_default")]
    pub validate_utf8: bool,
}

const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
const LIFETIME_JITTER_PERCENT: u8 = 10;
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

fn is_idle_timeout(timeout: &Duration) -> bool {
    *timeout == IDLE_TIMEOUT
}

fn is_lifetime_jitter(percent: &u8) -> bool {
    *percent == LIFETIME_JITTER_PERCENT
}

fn is_close_timeout(timeout: &Duration) -> bool {
    *timeout == CLOSE_TIMEOUT
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            idle_timeout: IDLE_TIMEOUT,
            idle_by: IdleBy::default(),
            lifetime: Duration::ZERO,
            lifetime_jitter_percent: LIFETIME_JITTER_PERCENT,
            close_timeout: CLOSE_TIMEOUT,
            ping: Pings::default(),
            peer_pings: PeerPings::default(),
            validate_utf8: false,
        }
    }
}

/// What keeps a session from being idle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdleBy {
    /// Data frames, in either direction.
    #[default]
    Data,
    /// Any frame of either peer, pings and pongs included; not the gateway's own.
    Frame,
}

/// What becomes of the pings that the peers send, RFC 6455 §5.5.2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeerPings {
    /// They travel to the other peer, and so do its pongs.
    #[default]
    Forward,
    /// The gateway answers them.
    Answer,
}

/// Pings that the gateway sends, by leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pings {
    /// To clients.
    #[serde(skip_serializing_if = "is_client_pings")]
    pub client: LegPings,
    /// To endpoints. Off unless said.
    #[serde(skip_serializing_if = "is_upstream_pings")]
    pub upstream: LegPings,
}

fn is_client_pings(pings: &LegPings) -> bool {
    *pings == Pings::default().client
}

fn is_upstream_pings(pings: &LegPings) -> bool {
    *pings == Pings::default().upstream
}

impl Default for Pings {
    fn default() -> Self {
        Self {
            client: LegPings { interval: Duration::from_secs(30), timeout: Duration::from_secs(10) },
            upstream: LegPings { interval: Duration::ZERO, timeout: Duration::from_secs(10) },
        }
    }
}

/// Pings on one leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LegPings {
    /// Sent after this long without a byte from the peer; 0: never.
    pub interval: Duration,
    /// The peer is dead when this long after a ping nothing has come from it. A leg that is not being read is not judged.
    #[serde(default = "ping_timeout", skip_serializing_if = "is_ping_timeout")]
    pub timeout: Duration,
}

fn ping_timeout() -> Duration {
    Duration::from_secs(10)
}

fn is_ping_timeout(timeout: &Duration) -> bool {
    *timeout == ping_timeout()
}

/// Ceilings of frames and messages, in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MessageLimits {
    /// Payload bytes of one frame; more is 1009. 0: none.
    #[serde(skip_serializing_if = "is_message_max")]
    pub max_frame: Size,
    /// Payload bytes of one message; more is 1009. 0: none.
    #[serde(skip_serializing_if = "is_message_max")]
    pub max_message: Size,
    /// Fragments of one message; more is 1008. 0: none. Real traffic has tens of thousands.
    #[serde(skip_serializing_if = "is_default")]
    pub max_fragments: u32,
    /// Control frames that one peer may send in a second; more is 1008. 0: no limit.
    #[serde(skip_serializing_if = "is_control_rate")]
    pub control_frames_per_second: u32,
    /// Bytes kept for a peer that reads slowly, in each direction; then its sender is not read.
    #[serde(skip_serializing_if = "is_send_budget")]
    pub send_budget: Size,
}

const MESSAGE_MAX: Size = Size::from_bytes(1 << 20);
const CONTROL_RATE: u32 = 1000;
const SEND_BUDGET: Size = Size::from_bytes(256 << 10);

fn is_message_max(size: &Size) -> bool {
    *size == MESSAGE_MAX
}

fn is_control_rate(rate: &u32) -> bool {
    *rate == CONTROL_RATE
}

fn is_send_budget(size: &Size) -> bool {
    *size == SEND_BUDGET
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self {
            max_frame: MESSAGE_MAX,
            max_message: MESSAGE_MAX,
            max_fragments: 0,
            control_frames_per_second: CONTROL_RATE,
            send_budget: SEND_BUDGET,
        }
    }
}
