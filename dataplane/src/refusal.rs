//! Every reason to say no before a session exists: one table from reason to status, blame, label and sentence.
//!
//! A refusal is precise and quiet: the client reads one status and one sentence, the log one word, and neither holds a
//! secret. Whatever happens after the 101 is a `proto::ws::Violation` or an `relay::Ending`, not a refusal.

/// Whose doing a refusal is; decides what an operator looks at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The client's request.
    Client,
    /// The endpoint, or the way to it.
    Upstream,
    /// This gateway: full, draining, or without a configuration.
    Gateway,
}

impl Blame {
    /// As a metric label and a log word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Gateway => "gateway",
        }
    }
}

/// A reason to refuse a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The head is not HTTP/1.1 as RFC 9112 has it, or has one of the smuggling shapes.
    BadHead,
    /// The PROXY header is missing or malformed on a listener that expects one. Nothing is answered.
    BadProxyHeader,
    /// Plain HTTP where TLS is spoken.
    PlainHttp,
    /// There is no TLS session with the client. Nothing is answered but the alert.
    TlsFailed,
    /// HTTP/1.0 or another version than 1.1.
    HttpVersion,
    /// The upgrade request announces a body.
    BodyOnUpgrade,
    /// `Host` is missing, doubled or malformed.
    BadHost,
    /// `Sec-WebSocket-Key` is missing, doubled, or not 16 bytes in base64.
    BadKey,
    /// A list header of the handshake breaks its grammar.
    BadOffer,
    /// Another method than GET.
    Method,
    /// The target is longer than its ceiling.
    TargetTooLong,
    /// The head is larger than its ceiling, or has too many fields.
    HeadTooLarge,
    /// Not an upgrade to `websocket`.
    NotWebSocket,
    /// `Sec-WebSocket-Version` is not 13.
    Version,
    /// The head was not complete in time.
    HandshakeTimeout,
    /// No API is published at this host and path, or it is switched off.
    NoApi,
    /// The API has no such topic.
    NoTopic,
    /// The API has no endpoint for this environment.
    NoEnvironment,
    /// The `Origin` is not on the API's list.
    Origin,
    /// No credential of a form that the API accepts.
    NoCredentials,
    /// The credential is not good; the log says why.
    BadCredentials,
    /// The credential could not be verified, because nobody could be asked.
    CredentialsUnverified,
    /// The credential has none of the topic's scopes.
    Scope,
    /// The API has no endpoint for the credential's key type.
    KeyType,
    /// The credential's application has not subscribed to the API.
    NotSubscribed,
    /// A denial is meant for the client.
    Denied,
    /// There are as many sessions as are allowed.
    Sessions,
    /// The user has as many sessions as are allowed.
    SessionsOfUser,
    /// So has the application.
    SessionsOfApplication,
    /// So has the client's range of addresses.
    SessionsOfAddress,
    /// There are as many sessions as one of the plans allows.
    SessionsOfPlan,
    /// Handshakes come too fast.
    Connects,
    /// Handshakes of one range of addresses come too fast.
    ConnectsOfAddress,
    /// The API's policy says no.
    Policy,
    /// Who decides for the API's policy could not be asked.
    PolicyUnavailable,
    /// No snapshot has been applied yet.
    NoSnapshot,
    /// The gateway is draining.
    Draining,
    /// The descriptor or connection ceiling is reached.
    Full,
    /// Every endpoint of the upstream has as many sessions as it may.
    UpstreamFull,
    /// No endpoint of the upstream could be connected.
    UpstreamUnreachable,
    /// The upstream's name could not be resolved.
    UpstreamName,
    /// Connecting took too long.
    UpstreamConnectTimeout,
    /// There is no TLS session with the endpoint: its certificate is not good, or the two do not agree.
    UpstreamTls,
    /// The endpoint did not answer the upgrade in time.
    UpstreamHandshakeTimeout,
    /// The endpoint closed instead of answering.
    UpstreamClosed,
    /// The endpoint's answer is not an HTTP/1.1 head, or too large.
    UpstreamBadHead,
    /// The endpoint's 101 lacks what RFC 6455 §4.1 asks for, or its accept value is wrong.
    UpstreamBadAccept,
    /// The endpoint agreed to a subprotocol or extension that was not offered.
    UpstreamNotOffered,
    /// A fault of this gateway.
    Internal,
}

/// A row of the table: what a refusal means on the wire and in the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// HTTP status.
    pub status: u16,
    /// The metric label and log word.
    pub word: &'static str,
    /// Whose doing.
    pub blame: Blame,
    /// The body: one sentence for the person at the other end.
    pub sentence: &'static str,
}

impl Refusal {
    /// Every refusal, for tables, metrics and tests.
    pub const ALL: [Self; 49] = [
        Self::BadHead,
        Self::BadProxyHeader,
        Self::PlainHttp,
        Self::TlsFailed,
        Self::HttpVersion,
        Self::BodyOnUpgrade,
        Self::BadHost,
        Self::BadKey,
        Self::BadOffer,
        Self::Method,
        Self::TargetTooLong,
        Self::HeadTooLarge,
        Self::NotWebSocket,
        Self::Version,
        Self::HandshakeTimeout,
        Self::NoApi,
        Self::NoTopic,
        Self::NoEnvironment,
        Self::Origin,
        Self::NoCredentials,
        Self::BadCredentials,
        Self::CredentialsUnverified,
        Self::Scope,
        Self::KeyType,
        Self::NotSubscribed,
        Self::Denied,
        Self::Sessions,
        Self::SessionsOfUser,
        Self::SessionsOfApplication,
        Self::SessionsOfAddress,
        Self::SessionsOfPlan,
        Self::Connects,
        Self::ConnectsOfAddress,
        Self::Policy,
        Self::PolicyUnavailable,
        Self::NoSnapshot,
        Self::Draining,
        Self::Full,
        Self::UpstreamFull,
        Self::UpstreamUnreachable,
        Self::UpstreamName,
        Self::UpstreamConnectTimeout,
        Self::UpstreamTls,
        Self::UpstreamHandshakeTimeout,
        Self::UpstreamClosed,
        Self::UpstreamBadHead,
        Self::UpstreamBadAccept,
        Self::UpstreamNotOffered,
        Self::Internal,
    ];

    /// This refusal's row.
    pub const fn row(self) -> Row {
        use Blame::{Client, Gateway, Upstream};
        let (status, word, blame, sentence) = match self {
            Self::BadHead => (400, "bad_head", Client, "The request head is malformed."),
            Self::BadProxyHeader => (400, "bad_proxy_header", Client, "A PROXY protocol header was expected."),
            Self::PlainHttp => (400, "plain_http", Client, "This port speaks TLS: connect with wss:// or https://."),
            Self::TlsFailed => (400, "tls_failed", Client, "There is no TLS session."),
            Self::HttpVersion => (400, "http_version", Client, "A WebSocket handshake needs HTTP/1.1."),
            Self::BodyOnUpgrade => (400, "body_on_upgrade", Client, "A WebSocket handshake has no body."),
            Self::BadHost => (400, "bad_host", Client, "The Host header is missing or malformed."),
            Self::BadKey => (400, "bad_key", Client, "Sec-WebSocket-Key must be 16 bytes in base64."),
            Self::BadOffer => (400, "bad_offer", Client, "A Sec-WebSocket header is malformed."),
            Self::Method => (405, "method", Client, "A WebSocket handshake is a GET request."),
            Self::TargetTooLong => (414, "target_too_long", Client, "The request target is too long."),
            Self::HeadTooLarge => (431, "head_too_large", Client, "The request head is too large."),
            Self::NotWebSocket => {
                (426, "not_websocket", Client, "This address speaks WebSocket: connect with a WebSocket client.")
            }
            Self::Version => (426, "version", Client, "Only version 13 of the WebSocket protocol is spoken here."),
            Self::HandshakeTimeout => (408, "handshake_timeout", Client, "The request head did not arrive in time."),
            Self::NoApi => (404, "no_api", Client, "No API is published at this address."),
            Self::NoTopic => (404, "no_topic", Client, "The API at this address has no such topic."),
            Self::NoEnvironment => (404, "no_environment", Client, "The API has no endpoint for this environment."),
            Self::Origin => (403, "origin", Client, "Connections from this origin are not allowed."),
            Self::NoCredentials => {
                (401, "no_credentials", Client, "No authorization header, access_token or apikey was found.")
            }
            Self::BadCredentials => (401, "bad_credentials", Client, "Invalid credentials."),
            Self::CredentialsUnverified => {
                (401, "credentials_unverified", Gateway, "Unclassified authentication failure.")
            }
            Self::Scope => (403, "scope", Client, "The credentials do not allow this topic."),
            Self::KeyType => {
                (401, "key_type", Client, "Invalid credentials: the API has no endpoint for their key type.")
            }
            Self::NotSubscribed => (403, "not_subscribed", Client, "The application has not subscribed to this API."),
            Self::Denied => (403, "denied", Client, "This is not allowed."),
            Self::Sessions => (503, "sessions", Gateway, "There are too many sessions now; try again later."),
            Self::SessionsOfUser => (429, "sessions_of_user", Client, "You have too many sessions."),
            Self::SessionsOfApplication => {
                (429, "sessions_of_application", Client, "The application has too many sessions.")
            }
            Self::SessionsOfAddress => {
                (429, "sessions_of_address", Client, "There are too many sessions from your address.")
            }
            Self::SessionsOfPlan => (429, "sessions_of_plan", Client, "There are more sessions than the plan allows."),
            Self::Connects => (503, "connects", Gateway, "Too many connect at once; try again later."),
            Self::ConnectsOfAddress => (429, "connects_of_address", Client, "You connect too often."),
            Self::Policy => (403, "policy", Client, "The API's policy does not allow this."),
            Self::PolicyUnavailable => (503, "policy_unavailable", Gateway, "The API's policy cannot be decided now."),
            Self::NoSnapshot => (503, "no_snapshot", Gateway, "The gateway has no configuration yet."),
            Self::Draining => (503, "draining", Gateway, "The gateway is shutting down; connect again."),
            Self::Full => (503, "full", Gateway, "The gateway is full; try again later."),
            Self::UpstreamFull => (503, "upstream_full", Upstream, "The service is full; try again later."),
            Self::UpstreamUnreachable => (502, "upstream_unreachable", Upstream, "The service cannot be reached."),
            Self::UpstreamName => (502, "upstream_name", Upstream, "The service's name cannot be resolved."),
            Self::UpstreamConnectTimeout => {
                (504, "upstream_connect_timeout", Upstream, "The service did not accept a connection in time.")
            }
            Self::UpstreamTls => (502, "upstream_tls", Upstream, "No secure connection to the service is possible."),
            Self::UpstreamHandshakeTimeout => {
                (504, "upstream_handshake_timeout", Upstream, "The service did not answer in time.")
            }
            Self::UpstreamClosed => (502, "upstream_closed", Upstream, "The service closed the connection."),
            Self::UpstreamBadHead => (502, "upstream_bad_head", Upstream, "The service's answer is malformed."),
            Self::UpstreamBadAccept => (502, "upstream_bad_accept", Upstream, "The service's handshake is wrong."),
            Self::UpstreamNotOffered => {
                (502, "upstream_not_offered", Upstream, "The service agreed to something that was not offered.")
            }
            Self::Internal => (500, "internal", Gateway, "The gateway made a mistake."),
        };
        Row { status, word, blame, sentence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_own_word() {
        let mut words: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.row().word).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Refusal::ALL.len());
    }
}
