//! One question to one issuer, RFC 7662 §2: a form is posted, JSON comes back.
//!
//! Within a deadline and a ceiling of bytes; who calls is one of `callers`. What went wrong is said without the token, and without the client's secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::errors::with_sources;
use proto::limits::ANSWER_BYTES_MAX;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Client, StatusCode};

use super::Heard;
use crate::authenticate::jws;
use crate::identity::Claims;
use crate::issuers::Believed;

/// Why nothing was heard.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("it has no introspection endpoint")]
    NoEndpoint,
    #[error("{}", with_sources(.0))]
    Http(#[from] reqwest::Error),
    #[error("the gateway made a mistake while it asked")]
    NoAnswer,
    #[error("it answered with the status {0}; 200 is expected")]
    Status(StatusCode),
    #[error("its answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    #[error("its answer is no JSON object with a member \"active\" that is true or false")]
    Form,
}

/// Asks an issuer about a token.
pub async fn ask(issuer: &Believed, token: &str, client: &Client) -> Result<Heard, CallError> {
    let terms = issuer.config.introspection.as_ref().ok_or(CallError::NoEndpoint)?;
    let mut request = client
        .post(&terms.url)
        .timeout(terms.timeout.into())
        .header(ACCEPT, "application/json")
        .form(&[("token", token), ("token_type_hint", "access_token")]);
    if !terms.client_id.is_empty() {
        request = request.header(AUTHORIZATION, basic(&terms.client_id, &terms.client_secret.0));
    }
    // An error names the address that was called, which is not a secret but may be long.
    let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
    if response.status() != StatusCode::OK {
        return Err(CallError::Status(response.status()));
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(CallError::TooLong);
        }
        body.extend_from_slice(&piece);
    }
    let claims = jws::parse(&body).ok_or(CallError::Form)?;
    match claims.get("active").and_then(serde_json::Value::as_bool) {
        Some(true) => Ok(Heard::Active(std::sync::Arc::new(Claims(claims)))),
        Some(false) => Ok(Heard::Inactive),
        None => Err(CallError::Form),
    }
}

/// RFC 6749 §2.3.1: each is encoded as in a form before HTTP Basic joins them.
fn basic(id: &str, secret: &str) -> HeaderValue {
    let text = format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret))));
    let mut value = HeaderValue::try_from(text).expect("base64 is visible ASCII");
    value.set_sensitive(true);
    value
}

fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else if byte == b' ' {
            encoded.push('+');
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_named_as_in_a_form_and_its_secret_is_not_shown() {
        let value = basic("a b", "c:d/é");
        assert_eq!(value.to_str().unwrap(), format!("Basic {}", STANDARD.encode("a+b:c%3Ad%2F%C3%A9")));
        assert_eq!(format!("{value:?}"), "Sensitive");
    }
}
