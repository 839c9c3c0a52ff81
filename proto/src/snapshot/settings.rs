//! What holds for the whole gateway.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, is_default};

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
    /// Query parameters whose values never reach a log, beside `access_token` and `apikey`.
    #[serde(skip_serializing_if = "is_default")]
    pub secret_query_parameters: Vec<String>,
}

const DRAIN_WINDOW: Duration = Duration::from_secs(60);
const REQUEST_ID_HEADER: &str = "X-Request-Id";

fn is_default_drain(window: &Duration) -> bool {
    *window == DRAIN_WINDOW
}

fn is_default_id_header(name: &str) -> bool {
    name == REQUEST_ID_HEADER
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            drain_window: DRAIN_WINDOW,
            request_id_header: REQUEST_ID_HEADER.into(),
            secret_query_parameters: Vec::new(),
        }
    }
}
