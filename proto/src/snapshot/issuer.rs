//! Whose tokens are believed, and the gateway's own: issuers, its token endpoint, and its assertions to backends.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{Bind, Duration, ListenerTls, Pem, is_default};

/// The name of the issuer that the gateway's own token endpoint is.
pub const OWN_ISSUER: &str = "framegate";

/// Somebody whose tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The issuer's name here, unique; APIs, revocations and logs refer to it. `framegate` is the gateway's own.
    pub name: String,
    /// The `iss` claim of its tokens, RFC 7519 §4.1.1; compared whole.
    pub issuer: String,
    /// Its public keys (RFC 7517): an `https://` or `http://` URL, a file, or the JSON text of a set. None: its tokens
    /// are opaque, and need `introspection`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "Jwks")]
    pub jwks: Option<Jwks>,
    /// How often the keys are fetched again, where they are fetched. An unknown key fetches them sooner.
    #[serde(default = "refresh", skip_serializing_if = "is_refresh")]
    pub refresh: Duration,
    /// The `aud` of its tokens must have one of these. None: it is not looked at.
    #[serde(default, skip_serializing_if = "is_default")]
    pub audiences: Vec<String>,
    /// How far its clock may be wrong: `nbf` may be so much ahead, `exp` so much behind. A session ends then, too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub clock_skew: Duration,
    /// Under which names its tokens say what is asked of them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub claims: ClaimNames,
    /// Whom to ask about tokens that are not JWTs, RFC 7662.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "Introspection")]
    pub introspection: Option<Introspection>,
}

const REFRESH: Duration = Duration::from_secs(300);

fn refresh() -> Duration {
    REFRESH
}

fn is_refresh(every: &Duration) -> bool {
    *every == REFRESH
}

/// Names of claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimNames {
    /// The OAuth2 client; the first of these that is there. An application that has this client is the token's.
    #[serde(skip_serializing_if = "is_client_claims")]
    pub client: Vec<String>,
    /// The user.
    #[serde(skip_serializing_if = "is_user_claim")]
    pub user: String,
    /// The scopes: words in a text, or a list.
    #[serde(skip_serializing_if = "is_scope_claim")]
    pub scope: String,
    /// The key type: `PRODUCTION` or `SANDBOX`. Where a token does not say, its client does.
    #[serde(skip_serializing_if = "is_environment_claim")]
    pub environment: String,
}

fn is_client_claims(names: &[String]) -> bool {
    names == ClaimNames::default().client
}

fn is_user_claim(name: &str) -> bool {
    name == "sub"
}

fn is_scope_claim(name: &str) -> bool {
    name == "scope"
}

fn is_environment_claim(name: &str) -> bool {
    name == "keytype"
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            client: vec!["client_id".into(), "azp".into()],
            user: "sub".into(),
            scope: "scope".into(),
            environment: "keytype".into(),
        }
    }
}

/// A JSON Web Key Set, or where it is. In a push it is always the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jwks {
    /// Fetched, and fetched again, by the control plane.
    Url(String),
    /// Read by the control plane; relative to the file that names it.
    File(PathBuf),
    /// The JSON text.
    Text(String),
}

impl Jwks {
    /// Of what an operator wrote.
    pub fn new(text: String) -> Self {
        let trimmed = text.trim();
        if trimmed.starts_with('{') {
            Self::Text(text)
        } else if trimmed.starts_with("https://") || trimmed.starts_with("http://") {
            Self::Url(trimmed.into())
        } else {
            Self::File(trimmed.into())
        }
    }

    /// The set, if it is here.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Url(_) | Self::File(_) => None,
        }
    }
}

impl Serialize for Jwks {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Url(text) | Self::Text(text) => serializer.serialize_str(text),
            Self::File(path) => path.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Jwks {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)? {
            text if text.trim().is_empty() => Err(serde::de::Error::custom("a URL, a file, or JSON text is needed")),
            text => Ok(Self::new(text)),
        }
    }
}

impl JsonSchema for Jwks {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Jwks".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "description": "A URL, the path of a file, or JSON text." })
    }
}

/// A secret that must be sent as it is. `Debug` does not show it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// How to ask about a token, RFC 7662. Data planes ask by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Introspection {
    /// The endpoint: `https://` or `http://`.
    pub url: String,
    /// With whose credentials (HTTP Basic) it is asked; empty: with none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_id: String,
    /// That client's secret.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_secret: Secret,
    /// Authorities of the endpoint's certificate; empty: the operating system's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub authorities: String,
    /// How long an answer may take.
    #[serde(default = "introspection_timeout", skip_serializing_if = "is_introspection_timeout")]
    pub timeout: Duration,
    /// How long "active" is believed, at most until the token's end. Live sessions are asked about again as often.
    #[serde(default = "positive_ttl", skip_serializing_if = "is_positive_ttl")]
    pub cache: Duration,
    /// How long "not active" is believed.
    #[serde(default = "negative_ttl", skip_serializing_if = "is_negative_ttl")]
    pub negative_cache: Duration,
}

const INTROSPECTION_TIMEOUT: Duration = Duration::from_secs(2);
const POSITIVE_TTL: Duration = Duration::from_secs(30);
const NEGATIVE_TTL: Duration = Duration::from_secs(10);

fn introspection_timeout() -> Duration {
    INTROSPECTION_TIMEOUT
}

fn is_introspection_timeout(timeout: &Duration) -> bool {
    *timeout == INTROSPECTION_TIMEOUT
}

fn positive_ttl() -> Duration {
    POSITIVE_TTL
}

fn is_positive_ttl(ttl: &Duration) -> bool {
    *ttl == POSITIVE_TTL
}

fn negative_ttl() -> Duration {
    NEGATIVE_TTL
}

fn is_negative_ttl(ttl: &Duration) -> bool {
    *ttl == NEGATIVE_TTL
}

/// The gateway's own token endpoint, which the control plane serves. It is not part of what is pushed to data planes; its
/// public keys are, as the issuer `framegate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenEndpoint {
    /// Where it listens.
    pub bind: Bind,
    /// The `iss` of its tokens, and the base of its addresses: `https://gateway.example.com`.
    pub issuer: String,
    /// How TLS is spoken there; none: plain HTTP, which RFC 6749 allows nowhere but on loopback.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "ListenerTls")]
    pub tls: Option<ListenerTls>,
    /// The `aud` of its tokens. None: the issuer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub audiences: Vec<String>,
    /// How its tokens are signed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub algorithm: SigningAlgorithm,
    /// The private key to sign with. None: the gateway makes its own and changes it, which it cannot with RS256.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "Pem")]
    pub signing_key: Option<Pem>,
    /// How often a key of the gateway's own making is replaced. Each is published as long as its tokens last.
    #[serde(default = "rotation", skip_serializing_if = "is_rotation")]
    pub rotate_every: Duration,
    /// How long an access token lasts.
    #[serde(default = "access_lifetime", skip_serializing_if = "is_access_lifetime")]
    pub access_token_lifetime: Duration,
    /// How long a refresh token lasts; 0: none is given.
    #[serde(default = "refresh_lifetime", skip_serializing_if = "is_refresh_lifetime")]
    pub refresh_token_lifetime: Duration,
}

const ROTATION: Duration = Duration::from_secs(30 * 86_400);
const ACCESS_LIFETIME: Duration = Duration::from_secs(3600);
const REFRESH_LIFETIME: Duration = Duration::from_secs(86_400);

fn rotation() -> Duration {
    ROTATION
}

fn is_rotation(every: &Duration) -> bool {
    *every == ROTATION
}

fn access_lifetime() -> Duration {
    ACCESS_LIFETIME
}

fn is_access_lifetime(lifetime: &Duration) -> bool {
    *lifetime == ACCESS_LIFETIME
}

fn refresh_lifetime() -> Duration {
    REFRESH_LIFETIME
}

fn is_refresh_lifetime(lifetime: &Duration) -> bool {
    *lifetime == REFRESH_LIFETIME
}

/// How tokens are signed, RFC 7518 §3.1 and RFC 8037.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SigningAlgorithm {
    /// Ed25519.
    #[default]
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// ECDSA with P-256 and SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
}

/// Signs, for backends, who a client is: a short-lived JWT in a header of the upgrade request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Assertion {
    /// Its name, unique; APIs refer to it.
    pub name: String,
    /// The `iss` of the assertion.
    pub issuer: String,
    /// The private key (Ed25519, EC P-256, or RSA): a PEM file, or the PEM text itself. Its kind decides the algorithm.
    pub key: Pem,
    /// The `kid` of the assertion; empty: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key_id: String,
    /// The header.
    #[serde(default = "assertion_header", skip_serializing_if = "is_assertion_header")]
    pub header: String,
    /// How long it lasts.
    #[serde(default = "assertion_lifetime", skip_serializing_if = "is_assertion_lifetime")]
    pub lifetime: Duration,
}

const ASSERTION_HEADER: &str = "X-JWT-Assertion";
const ASSERTION_LIFETIME: Duration = Duration::from_secs(60);

fn assertion_header() -> String {
    ASSERTION_HEADER.into()
}

fn is_assertion_header(name: &str) -> bool {
    name == ASSERTION_HEADER
}

fn assertion_lifetime() -> Duration {
    ASSERTION_LIFETIME
}

fn is_assertion_lifetime(lifetime: &Duration) -> bool {
    *lifetime == ASSERTION_LIFETIME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_keys_is_text_a_place_to_fetch_it_or_a_file() {
        let new = |text: &str| Jwks::new(text.into());
        assert_eq!(new(" {\"keys\":[]}").text(), Some(" {\"keys\":[]}"));
        assert_eq!(new("https://idp.example/jwks"), Jwks::Url("https://idp.example/jwks".into()));
        assert_eq!(new("keys/idp.json"), Jwks::File("keys/idp.json".into()));
        assert!(serde_json::from_value::<Jwks>(" ".into()).is_err());
    }

    #[test]
    fn secrets_that_must_be_sent_are_not_shown() {
        assert_eq!(format!("{:?}", Secret("s3cret".into())), "Secret");
    }

    #[test]
    fn algorithms_have_their_registered_names() {
        let names = [SigningAlgorithm::EdDsa, SigningAlgorithm::Es256, SigningAlgorithm::Rs256];
        assert_eq!(serde_json::to_value(names).unwrap(), serde_json::json!(["EdDSA", "ES256", "RS256"]));
    }
}
