//! What holds for the whole gateway.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Admission, Duration, is_default};

/// Settings of the whole gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Over how long sessions are closed, with code 1012 and jitter, when the gateway stops or an API goes away.
    #[serde(skip_serializing_if = "is_default_drain")]
    pub drain_window: Duration,
    /// The response and request header that carries the request id.
    #[serde(skip_serializing_if = "is_default_id_header")]
    pub request_id_header: String,
    /// Origins (RFC 6454) that browsers may connect from, of APIs that name none of their own. None: not checked.
    #[serde(skip_serializing_if = "is_default")]
    pub origins: Vec<String>,
    /// Query parameters whose values never reach a log, beside `access_token` and `apikey`.
    #[serde(skip_serializing_if = "is_default")]
    pub secret_query_parameters: Vec<String>,
    /// How long before a certificate runs out the gateway begins to warn; 0: it does not.
    #[serde(skip_serializing_if = "is_default_expiry_warning")]
    pub certificate_expiry_warning: Duration,
    /// The plan of clients without a credential, each address for itself, at APIs that name none. Empty: no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub unauthenticated_plan: String,
    /// How many sessions the whole gateway lets in.
    #[serde(skip_serializing_if = "is_default")]
    pub admission: Admission,
}

const DRAIN_WINDOW: Duration = Duration::from_secs(60);
const REQUEST_ID_HEADER: &str = "X-Request-Id";
/// Renewal is usually due at 30 days: what is still there at 21 has been missed.
const CERTIFICATE_EXPIRY_WARNING: Duration = Duration::from_secs(21 * 86_400);

fn is_default_drain(window: &Duration) -> bool {
    *window == DRAIN_WINDOW
}

fn is_default_id_header(name: &str) -> bool {
    name == REQUEST_ID_HEADER
}

fn is_default_expiry_warning(warning: &Duration) -> bool {
    *warning == CERTIFICATE_EXPIRY_WARNING
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            drain_window: DRAIN_WINDOW,
            request_id_header: REQUEST_ID_HEADER.into(),
            origins: Vec::new(),
            secret_query_parameters: Vec::new(),
            certificate_expiry_warning: CERTIFICATE_EXPIRY_WARNING,
            unauthenticated_plan: String::new(),
            admission: Admission::default(),
        }
    }
}
