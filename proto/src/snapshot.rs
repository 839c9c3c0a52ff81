//! The configuration, whole: the model that operators write, and the [`Snapshot`] that is valid by construction.
//!
//! One set of serde types for YAML, JSON and MessagePack. Every struct refuses unknown fields, and a field at its
//! default is not sent, so that an older node reads a newer snapshot that uses nothing new and rejects one that does.
//! What the fields *mean together* is decided in `check`; how a snapshot travels is in `section`.

/// Serde for a type that travels as its `Display` text and is read by its `FromStr`; with a format and a description,
/// its JSON Schema too. A reader that knows the format can say what `FromStr` says, at the value's place.
macro_rules! text_form {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
    ($type:ty, $format:literal, $description:literal) => {
        $crate::snapshot::text_form!($type);

        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "format": $format, "description": $description })
            }
        }
    };
}
use text_form;

mod api;
mod authentication;
mod check;
mod edit;
mod identity;
mod issuer;
mod listener;
mod lookup;
mod path;
mod plan;
mod policy;
mod section;
mod settings;
mod template;
mod tls;
mod units;
mod upstream;

pub use api::{
    Api, Compression, ContextMatch, Endpoints, Environment, IdleBy, LegPings, MessageLimits, PeerPings, Pings,
    SessionOptions, Target, Topic,
};
pub use authentication::{Authentication, CredentialForm, WhenUnreachable};
pub use check::{ListenerSet, Problem, Snapshot, http_url_problem};
pub use edit::Edit;
pub use identity::{
    ApiKey, Application, GrantType, KeyRestrictions, OAuthClient, PasswordHash, Revocation, Revoked, RevokedKind,
    SecretHash, Subscription, Timestamp, UNLIMITED_PLAN, User,
};
pub use issuer::{
    Assertion, ClaimNames, Introspection, Issuer, Jwks, OWN_ISSUER, Secret, SigningAlgorithm, TokenEndpoint,
};
pub use listener::{Bind, Cidr, Listener};
pub use path::{Captures, Mapping, Pattern, has_dot_segment};
pub use plan::{
    AMOUNT_MAX, Admission, Amount, ConditionGroup, Counted, Denial, DenialAction, KeyPart, KeyedLimit, Limit,
    LimitPolicy, Notice, OnLimit, Outcome, Plan, Quota, Rate, UNAUTHENTICATED_PLAN, Unit,
};
pub use policy::{Conditions, ForwardAuth, Match, RenameHeader, Router, Routing, SetHeader, Step, TargetTemplate};
pub(crate) use section::checksum as list_checksum;
pub use section::{Digest, Section, SectionList, SectionName, Sections, bucket};
pub use settings::Settings;
pub use template::{Glob, MadeTarget, Template, Variable};
pub use tls::{
    Authorities, Certificate, CipherSuite, ClientCertificateMode, ClientCertificates, ListenerTls, Pem, Pin,
    TlsVersion, UpstreamTls,
};
pub use units::{Duration, Size};
pub use upstream::{Balance, Endpoint, EndpointUrl, Mask, Place, Upstream};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The configuration document: what `framegate run FILE` reads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of this document's form. Always 1.
    pub version: u32,
    /// What holds for the whole gateway.
    #[serde(default, skip_serializing_if = "is_default")]
    pub settings: Settings,
    /// Certificates with their private keys, for listeners and upstreams to refer to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// Certification authorities, for listeners and upstreams to refer to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authorities: Vec<Authorities>,
    /// Where clients connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Listener>,
    /// Named groups of backend endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<Upstream>,
    /// The published APIs, one entry for each version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apis: Vec<Api>,
    /// Who subscribes to APIs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applications: Vec<Application>,
    /// Which application may use which API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscriptions: Vec<Subscription>,
    /// API keys of applications.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<ApiKey>,
    /// Who proves who they are by a password or a certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    /// What is not good any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocations: Vec<Revocation>,
    /// Whose tokens are believed, beside the gateway's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<Issuer>,
    /// Who tells backends, signed, who a client is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assertions: Vec<Assertion>,
    /// How much may pass: named, for others to refer to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plans: Vec<Plan>,
    /// Which plan holds for whom: named, for APIs and topics to refer to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limit_policies: Vec<LimitPolicy>,
    /// Limits by keys of your own, beside those of applications, subscriptions and APIs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<KeyedLimit>,
    /// Whose messages do not pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denials: Vec<Denial>,
    /// Where the gateway itself issues tokens. Left out: it issues none.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "TokenEndpoint")]
    pub token_endpoint: Option<TokenEndpoint>,
}

/// For `skip_serializing_if`: a field at its default is not sent.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// For `skip_serializing_if` on switches that are on by default.
fn is_true(value: &bool) -> bool {
    *value
}

/// For `default` on switches that are on by default.
fn yes() -> bool {
    true
}
