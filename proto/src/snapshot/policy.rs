//! The on-upgrade policy of an API: what is decided between routing and connecting, in the operator's order.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cidr, Duration, EndpointUrl, is_default};

/// One step of an on-upgrade policy. Steps are taken in their order; the first that refuses ends the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Whom these conditions fit is let pass by every later `deny`.
    Allow(Conditions),
    /// Whom these conditions fit is refused (403). Without conditions: everybody.
    Deny(Conditions),
    /// Sets a header of the upgrade request to the endpoint, in place of what the client sent.
    SetHeader(SetHeader),
    /// Removes headers of the upgrade request to the endpoint.
    RemoveHeaders(Vec<String>),
    /// Gives a header of the client another name towards the endpoint.
    RenameHeader(RenameHeader),
    /// Leads to another upstream, always or by what the client says.
    Route(Routing),
    /// Asks an HTTP endpoint whether the client may come in.
    ForwardAuth(ForwardAuth),
}

/// What a client must be like. All that are said must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    /// Its address is in one of these ranges.
    #[serde(skip_serializing_if = "is_default")]
    pub addresses: Vec<Cidr>,
    /// Its request has these headers.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<Match>,
    /// Its request has these query parameters.
    #[serde(skip_serializing_if = "is_default")]
    pub queries: Vec<Match>,
    /// Its credential has these claims.
    #[serde(skip_serializing_if = "is_default")]
    pub claims: Vec<Match>,
    /// Its certificate has a subject, RFC 4514, like one of these; `*` stands for any characters.
    #[serde(skip_serializing_if = "is_default")]
    pub certificates: Vec<String>,
    /// Turns it round: whom the conditions do not fit.
    #[serde(skip_serializing_if = "is_default")]
    pub not: bool,
}

/// A name, and what its value must be like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The header, the parameter, or the claim; `a.b` is the member `b` of the claim `a`.
    pub name: String,
    /// One of these; `*` stands for any characters. None: it is enough that it is there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub values: Vec<String>,
}

/// A header and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetHeader {
    /// The header.
    pub name: String,
    /// Its value, in which `{user}`, `{application}`, `{client_address}`, `{host}`, `{header.NAME}`, `{claim.NAME}` and
    /// `{topic.PARAMETER}` stand for what they say. What is not there is empty; an empty value sets no header.
    pub value: String,
}

/// A header and its new name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameHeader {
    /// What the client calls it.
    pub from: String,
    /// What the endpoint is told.
    pub to: String,
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// This upstream.
    Upstream(String),
    /// The upstream that a value stands for.
    By(Router),
    /// An endpoint whose URL is made of what the client says, if it is among those that are allowed.
    Target(TargetTemplate),
}

/// A dynamic router: a value chooses the upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// A template, as in `set_header`: `{header.X-Region}`, `{claim.tenant}`, `{host}`.
    pub value: String,
    /// Names of upstreams, by the value that leads there.
    pub upstreams: std::collections::BTreeMap<String, String>,
    /// The upstream of every other value. None: they are refused (403).
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "String")]
    pub otherwise: Option<String>,
}

/// An endpoint by template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetTemplate {
    /// A template, as in `set_header`, that makes a `ws://` or `wss://` URL.
    pub url: String,
    /// The endpoints that it may make: compared by scheme, host and port; the path begins with theirs. At least one.
    pub allowed: Vec<EndpointUrl>,
}

/// An HTTP endpoint that decides. It is asked with a GET that has the client's headers, less those of the WebSocket
/// handshake, and says yes with 200 to 299.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardAuth {
    /// The endpoint: `http://` or `https://`.
    pub url: String,
    /// The headers of the client that it is told. None: all but those of the handshake.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_headers: Vec<String>,
    /// Headers of a yes that go to the endpoint, in place of what the client sent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub response_headers: Vec<String>,
    /// Names of the authorities of its certificate; empty: the operating system's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub authorities: String,
    /// How long it may take.
    #[serde(default = "timeout", skip_serializing_if = "is_timeout")]
    pub timeout: Duration,
    /// Whether clients are let in while it cannot be asked. Off: they are refused (503).
    #[serde(default, skip_serializing_if = "is_default")]
    pub fail_open: bool,
}

const TIMEOUT: Duration = Duration::from_secs(2);

fn timeout() -> Duration {
    TIMEOUT
}

fn is_timeout(timeout: &Duration) -> bool {
    *timeout == TIMEOUT
}
