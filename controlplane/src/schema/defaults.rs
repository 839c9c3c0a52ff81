//! What a key stands for when it is left out, for editors and for the reference.
//!
//! serde knows the defaults as functions and leaves default values out of what it writes, so the schema cannot be given
//! them by itself. A test reads each one back through the model: with the default written out and with the key left
//! out, the same value must come.

use serde_json::{Value, json};

/// A struct of the model by its name in the schema, a key of it, and what the key is when it is left out.
type Default = (&'static str, &'static str, Value);

/// The defaults of the whole model.
pub fn defaults() -> Vec<Default> {
    let mut all = vec![
        ("Settings", "drain_window", json!("60s")),
        ("Settings", "request_id_header", json!("X-Request-Id")),
        ("Settings", "certificate_expiry_warning", json!("21d")),
        ("Settings", "unauthenticated_plan", json!("")),
        ("Listener", "backlog", json!(4096)),
        ("Listener", "tcp_nodelay", json!(true)),
        ("Listener", "handshake_timeout", json!("10s")),
        ("Listener", "environment", json!("production")),
        ("ListenerTls", "strict_server_names", json!(false)),
        ("ListenerTls", "resumption", json!(true)),
        ("ClientCertificates", "mode", json!("off")),
        ("Endpoint", "verify_certificate", json!(true)),
        ("Upstream", "balance", json!("round_robin")),
        ("Upstream", "connect_timeout", json!("5s")),
        ("Upstream", "handshake_timeout", json!("10s")),
        ("Upstream", "resolve_ttl_max", json!("5m")),
        ("Upstream", "mask", json!("keep")),
        ("Upstream", "preserve_host", json!(false)),
        ("Upstream", "sessions_per_endpoint_max", json!(0)),
        ("Api", "version", json!("")),
        ("Api", "default_version", json!(false)),
        ("Api", "enabled", json!(true)),
        ("Api", "match", json!("longest")),
        ("Api", "compression", json!("pass")),
        ("Api", "plan", json!("")),
        ("Api", "limit_policy", json!("")),
        ("Api", "unauthenticated_plan", json!("")),
        ("Topic", "plan", json!("")),
        ("Topic", "limit_policy", json!("")),
        ("SessionOptions", "idle_timeout", json!("10m")),
        ("SessionOptions", "idle_by", json!("data")),
        ("SessionOptions", "lifetime", json!(0)),
        ("SessionOptions", "lifetime_jitter_percent", json!(10)),
        ("SessionOptions", "close_timeout", json!("1s")),
        ("SessionOptions", "peer_pings", json!("forward")),
        ("SessionOptions", "validate_utf8", json!(false)),
        ("Pings", "client", json!({ "interval": "30s", "timeout": "10s" })),
        ("Pings", "upstream", json!({ "interval": 0, "timeout": "10s" })),
        ("LegPings", "timeout", json!("10s")),
        ("MessageLimits", "max_frame", json!("1MiB")),
        ("MessageLimits", "max_message", json!("1MiB")),
        ("MessageLimits", "max_fragments", json!(0)),
        ("MessageLimits", "control_frames_per_second", json!(1000)),
        ("MessageLimits", "send_budget", json!("256KiB")),
        ("Authentication", "require_subscription", json!(true)),
        ("Authentication", "authorization_header", json!("Authorization")),
        ("Authentication", "api_key_name", json!("apikey")),
        ("Authentication", "cookie_name", json!("apimlAuthenticationToken")),
        ("Authentication", "forward_credentials", json!(false)),
        ("Authentication", "close_code", json!(1008)),
        ("Authentication", "when_unreachable", json!("keep")),
        ("Conditions", "not", json!(false)),
        ("ForwardAuth", "authorities", json!("")),
        ("ForwardAuth", "timeout", json!("2s")),
        ("ForwardAuth", "fail_open", json!(false)),
        ("Application", "owner", json!("")),
        ("Application", "enabled", json!(true)),
        ("Application", "plan", json!("AsyncUnlimited")),
        ("OAuthClient", "issuer", json!("")),
        ("OAuthClient", "environment", json!("production")),
        ("Subscription", "plan", json!("AsyncUnlimited")),
        ("Subscription", "enabled", json!(true)),
        ("ApiKey", "environment", json!("production")),
        ("ApiKey", "enabled", json!(true)),
        ("User", "environment", json!("production")),
        ("User", "enabled", json!(true)),
        ("Revocation", "reason", json!("")),
        ("Issuer", "refresh", json!("5m")),
        ("Issuer", "clock_skew", json!(0)),
        ("ClaimNames", "client", json!(["client_id", "azp"])),
        ("ClaimNames", "user", json!("sub")),
        ("ClaimNames", "scope", json!("scope")),
        ("ClaimNames", "environment", json!("keytype")),
        ("Introspection", "client_id", json!("")),
        ("Introspection", "client_secret", json!("")),
        ("Introspection", "authorities", json!("")),
        ("Introspection", "timeout", json!("2s")),
        ("Introspection", "cache", json!("30s")),
        ("Introspection", "negative_cache", json!("10s")),
        ("Assertion", "key_id", json!("")),
        ("Assertion", "header", json!("X-JWT-Assertion")),
        ("Assertion", "lifetime", json!("1m")),
        ("TokenEndpoint", "algorithm", json!("EdDSA")),
        ("TokenEndpoint", "rotate_every", json!("30d")),
        ("TokenEndpoint", "access_token_lifetime", json!("1h")),
        ("TokenEndpoint", "refresh_token_lifetime", json!("1d")),
    ];
    all.extend(of_limits());
    all
}

fn of_limits() -> Vec<Default> {
    vec![
        ("Plan", "direction", json!("both")),
        ("Plan", "warn_at", json!([80, 95])),
        ("Plan", "sessions_max", json!(0)),
        ("Limit", "count", json!("messages")),
        ("Limit", "stop", json!(true)),
        ("OnLimit", "action", json!("notify")),
        ("OnLimit", "notice", json!("wso2")),
        ("OnLimit", "notices", json!(100)),
        ("OnLimit", "notices_per_second", json!(10)),
        ("OnLimit", "close_after", json!(0)),
        ("OnLimit", "code", json!(1008)),
        ("OnLimit", "reason", json!("throttled out")),
        ("LimitPolicy", "plan", json!("")),
        ("Denial", "action", json!("close")),
        ("Denial", "enabled", json!(true)),
        ("Admission", "sessions_max", json!(0)),
        ("Admission", "sessions_per_user_max", json!(0)),
        ("Admission", "sessions_per_application_max", json!(0)),
        ("Admission", "sessions_per_address_max", json!(0)),
        ("Admission", "address_prefix_v4", json!(32)),
        ("Admission", "address_prefix_v6", json!(64)),
    ]
}

#[cfg(test)]
mod tests {
    use proto::snapshot::{
        Admission, Api, ApiKey, Application, Assertion, Authentication, ClaimNames, ClientCertificates, Conditions,
        Denial, Endpoint, ForwardAuth, Introspection, Issuer, LegPings, Limit, LimitPolicy, Listener, ListenerTls,
        MessageLimits, OAuthClient, OnLimit, Pings, Plan, Revocation, SessionOptions, Settings, Subscription,
        TokenEndpoint, Topic, Upstream, User,
    };
    use serde::de::DeserializeOwned;

    use super::*;

    /// The least that each struct can be read from.
    const LEAST: [(&str, &str); 32] = [
        ("Settings", "{}"),
        ("Listener", r#"{"name": "a", "bind": "127.0.0.1:80"}"#),
        ("ListenerTls", r#"{"certificates": ["a"]}"#),
        ("ClientCertificates", "{}"),
        ("Endpoint", r#"{"url": "wss://a/"}"#),
        ("Upstream", r#"{"name": "a", "endpoints": []}"#),
        ("Api", r#"{"name": "a", "context": "/a", "endpoints": {}}"#),
        ("SessionOptions", "{}"),
        ("Pings", "{}"),
        ("LegPings", r#"{"interval": "1s"}"#),
        ("MessageLimits", "{}"),
        ("Authentication", "{}"),
        ("Conditions", "{}"),
        ("ForwardAuth", r#"{"url": "http://a/"}"#),
        ("Application", r#"{"name": "a"}"#),
        ("OAuthClient", r#"{"id": "a"}"#),
        ("Subscription", r#"{"application": "a", "api": "a"}"#),
        (
            "ApiKey",
            r#"{"name": "a", "application": "a", "sha256": "0000000000000000000000000000000000000000000000000000000000000000"}"#,
        ),
        ("User", r#"{"name": "a"}"#),
        ("Revocation", r#"{"revoked": "user:a"}"#),
        ("Issuer", r#"{"name": "a", "issuer": "a"}"#),
        ("ClaimNames", "{}"),
        ("Introspection", r#"{"url": "http://a/"}"#),
        ("Assertion", r#"{"name": "a", "issuer": "a", "key": "a.pem"}"#),
        ("Topic", r#"{"topic": "/a"}"#),
        ("Plan", r#"{"name": "a"}"#),
        ("Limit", "{}"),
        ("OnLimit", "{}"),
        ("LimitPolicy", r#"{"name": "a"}"#),
        ("Denial", r#"{"name": "a"}"#),
        ("Admission", "{}"),
        ("TokenEndpoint", r#"{"bind": "127.0.0.1:80", "issuer": "http://a/"}"#),
    ];

    fn is_default<T: DeserializeOwned + PartialEq>(least: &str, key: &str, default: &Value) -> bool {
        let least: Value = serde_json::from_str(least).unwrap();
        let mut written = least.clone();
        written[key] = default.clone();
        serde_json::from_value::<T>(written).unwrap() == serde_json::from_value::<T>(least).unwrap()
    }

    #[test]
    fn a_default_written_out_means_the_same_as_the_key_left_out() {
        for (name, key, default) in defaults() {
            let (_, least) = LEAST.iter().find(|(one, _)| *one == name).unwrap();
            let is_same = match name {
                "Settings" => is_default::<Settings>(least, key, &default),
                "Listener" => is_default::<Listener>(least, key, &default),
                "ListenerTls" => is_default::<ListenerTls>(least, key, &default),
                "ClientCertificates" => is_default::<ClientCertificates>(least, key, &default),
                "Endpoint" => is_default::<Endpoint>(least, key, &default),
                "Upstream" => is_default::<Upstream>(least, key, &default),
                "Api" => is_default::<Api>(least, key, &default),
                "SessionOptions" => is_default::<SessionOptions>(least, key, &default),
                "Pings" => is_default::<Pings>(least, key, &default),
                "LegPings" => is_default::<LegPings>(least, key, &default),
                "MessageLimits" => is_default::<MessageLimits>(least, key, &default),
                "Authentication" => is_default::<Authentication>(least, key, &default),
                "Conditions" => is_default::<Conditions>(least, key, &default),
                "ForwardAuth" => is_default::<ForwardAuth>(least, key, &default),
                "Application" => is_default::<Application>(least, key, &default),
                "OAuthClient" => is_default::<OAuthClient>(least, key, &default),
                "Subscription" => is_default::<Subscription>(least, key, &default),
                "ApiKey" => is_default::<ApiKey>(least, key, &default),
                "User" => is_default::<User>(least, key, &default),
                "Revocation" => is_default::<Revocation>(least, key, &default),
                "Issuer" => is_default::<Issuer>(least, key, &default),
                "ClaimNames" => is_default::<ClaimNames>(least, key, &default),
                "Introspection" => is_default::<Introspection>(least, key, &default),
                "Assertion" => is_default::<Assertion>(least, key, &default),
                "Topic" => is_default::<Topic>(least, key, &default),
                "Plan" => is_default::<Plan>(least, key, &default),
                "Limit" => is_default::<Limit>(least, key, &default),
                "OnLimit" => is_default::<OnLimit>(least, key, &default),
                "LimitPolicy" => is_default::<LimitPolicy>(least, key, &default),
                "Denial" => is_default::<Denial>(least, key, &default),
                "Admission" => is_default::<Admission>(least, key, &default),
                "TokenEndpoint" => is_default::<TokenEndpoint>(least, key, &default),
                other => panic!("{other} is not a struct of the model"),
            };
            assert!(is_same, "{name}.{key} is not {default}");
        }
    }

    #[test]
    fn every_key_that_may_be_left_out_has_a_default_or_stands_for_nothing() {
        let nothing = [
            "api",
            "application",
            "assertion",
            "authorities",
            "burst",
            "certificate",
            "connects",
            "connects_burst",
            "connects_per_address",
            "created",
            "environment_header",
            "expires",
            "issued_before",
            "jwks",
            "mapping",
            "ocsp_response",
            "otherwise",
            "password",
            "production",
            "quota",
            "rate",
            "sandbox",
            "secret",
            "server_name",
            "signing_key",
            "user",
        ];
        let schema = crate::schema::document();
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            let Some(properties) = definition.get("properties").and_then(Value::as_object) else { continue };
            let required: Vec<_> = definition["required"].as_array().into_iter().flatten().collect();
            for (key, property) in properties {
                let reference = property["$ref"].as_str().and_then(|path| schema.pointer(&path[1..]));
                let is_struct = reference.is_some_and(|target| target["type"] == "object");
                let is_told = property.get("default").is_some();
                let is_optional = !required.iter().any(|one| *one == key);
                let needs_none = is_struct || nothing.contains(&key.as_str());
                assert!(!is_optional || is_told || needs_none, "{name}.{key} has no default");
            }
        }
    }
}
