//! What an API asks of its clients: which credentials it accepts, and how they are looked at.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::{is_default, is_true, yes};

/// How clients of an API prove who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Authentication {
    /// The forms of credentials that are accepted. None: the API is open, and credentials are the endpoint's business.
    ///
    /// They are looked for in the order `bearer`, `query_token`, `api_key`, `subprotocol`, `basic`, `cookie`,
    /// `personal_access_token`, `client_certificate`. The first that is there decides; the others are not looked at.
    #[serde(skip_serializing_if = "is_default")]
    pub accept: Vec<CredentialForm>,
    /// Names of the issuers whose tokens are accepted. None: every issuer's.
    #[serde(skip_serializing_if = "is_default")]
    pub issuers: Vec<String>,
    /// Whether the client's application must have subscribed to the API.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub require_subscription: bool,
    /// The header of bearer tokens and Basic credentials.
    #[serde(skip_serializing_if = "is_authorization_header")]
    pub authorization_header: String,
    /// The header, and query parameter, of API keys.
    #[serde(skip_serializing_if = "is_api_key_name")]
    pub api_key_name: String,
    /// The cookie of tokens.
    #[serde(skip_serializing_if = "is_cookie_name")]
    pub cookie_name: String,
    /// Whether the credential is passed on to the endpoint. A token of the query goes as a header.
    #[serde(skip_serializing_if = "is_default")]
    pub forward_credentials: bool,
    /// The code with which a session is closed when its credential runs out or is revoked: 1008, 3000, or of the range
    /// 4000 to 4999; WSO2 says 4001.
    #[serde(skip_serializing_if = "is_close_code")]
    #[schemars(schema_with = "close_code_schema")]
    pub close_code: u16,
    /// What becomes of a live session when its token must be asked about again and nobody answers.
    #[serde(skip_serializing_if = "is_default")]
    pub when_unreachable: WhenUnreachable,
    /// The name of the assertion that tells the endpoint who the client is. None: nothing is told.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(with = "String")]
    pub assertion: Option<String>,
}

const AUTHORIZATION_HEADER: &str = "Authorization";
const API_KEY_NAME: &str = "apikey";
const COOKIE_NAME: &str = "apimlAuthenticationToken";
const CLOSE_CODE: u16 = 1008;

fn is_authorization_header(name: &str) -> bool {
    name == AUTHORIZATION_HEADER
}

fn is_api_key_name(name: &str) -> bool {
    name == API_KEY_NAME
}

fn is_cookie_name(name: &str) -> bool {
    name == COOKIE_NAME
}

fn is_close_code(code: &u16) -> bool {
    *code == CLOSE_CODE
}

fn close_code_schema(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "integer",
        "anyOf": [{ "enum": [1008, 3000] }, { "minimum": 4000, "maximum": 4999 }],
        "description": "1008, 3000, or a code from 4000 to 4999."
    })
}

impl Default for Authentication {
    fn default() -> Self {
        Self {
            accept: Vec::new(),
            issuers: Vec::new(),
            require_subscription: true,
            authorization_header: AUTHORIZATION_HEADER.into(),
            api_key_name: API_KEY_NAME.into(),
            cookie_name: COOKIE_NAME.into(),
            forward_credentials: false,
            close_code: CLOSE_CODE,
            when_unreachable: WhenUnreachable::default(),
            assertion: None,
        }
    }
}

impl Authentication {
    /// Whether anybody may come in without saying who they are.
    pub fn is_open(&self) -> bool {
        self.accept.is_empty()
    }
}

/// A form of credentials, in the order in which they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialForm {
    /// A token in the authorization header, RFC 6750 §2.1.
    Bearer,
    /// A token in the query parameter `access_token`, RFC 6750 §2.3.
    QueryToken,
    /// An API key in a header or query parameter.
    ApiKey,
    /// A token among the offered subprotocols, for browsers, which can send no header: `bearer.TOKEN`, or Kubernetes'
    /// `base64url.bearer.authorization.k8s.io.BASE64URL`.
    Subprotocol,
    /// A user's name and password, RFC 7617.
    Basic,
    /// A token in a cookie.
    Cookie,
    /// A token or API key in the header `PRIVATE-TOKEN` or the cookie `personalAccessToken`.
    PersonalAccessToken,
    /// The certificate of the TLS connection.
    ClientCertificate,
}

impl CredentialForm {
    /// Every form, in the order in which they are looked for.
    pub const ALL: [Self; 8] = [
        Self::Bearer,
        Self::QueryToken,
        Self::ApiKey,
        Self::Subprotocol,
        Self::Basic,
        Self::Cookie,
        Self::PersonalAccessToken,
        Self::ClientCertificate,
    ];

    /// Whether it may hold a token of an issuer.
    pub const fn has_tokens(self) -> bool {
        matches!(self, Self::Bearer | Self::QueryToken | Self::Subprotocol | Self::Cookie | Self::PersonalAccessToken)
    }

    /// Its word, as it is configured, logged and counted.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::QueryToken => "query_token",
            Self::ApiKey => "api_key",
            Self::Subprotocol => "subprotocol",
            Self::Basic => "basic",
            Self::Cookie => "cookie",
            Self::PersonalAccessToken => "personal_access_token",
            Self::ClientCertificate => "client_certificate",
        }
    }

    /// Whether browsers send it by themselves, whichever page asks: then the page's origin must be looked at.
    pub const fn is_ambient(self) -> bool {
        matches!(self, Self::Basic | Self::Cookie | Self::PersonalAccessToken | Self::ClientCertificate)
    }
}

/// What becomes of a session when its token cannot be asked about again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenUnreachable {
    /// It stays, until the end of the token that was last heard of.
    #[default]
    Keep,
    /// It is closed.
    Close,
}
