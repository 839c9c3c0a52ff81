//! Named groups of backend endpoints, and how one is reached.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, UpstreamTls, is_default, is_true, yes};

/// A named group of endpoints that serve the same thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// The upstream's name, unique.
    pub name: String,
    /// The addresses, at least one.
    pub endpoints: Vec<Endpoint>,
    /// How an endpoint is chosen for a new session.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balance: Balance,
    /// How long one connection attempt may take; then another address or endpoint is tried.
    #[serde(default = "connect_timeout", skip_serializing_if = "is_connect_timeout")]
    pub connect_timeout: Duration,
    /// From the upgrade request until the endpoint's complete answer; later is a 504.
    #[serde(default = "handshake_timeout", skip_serializing_if = "is_handshake_timeout")]
    pub handshake_timeout: Duration,
    /// The longest time an address that was found by name is used without asking again; shorter answers are honoured.
    #[serde(default = "resolve_ttl_max", skip_serializing_if = "is_resolve_ttl_max")]
    pub resolve_ttl_max: Duration,
    /// Whether client frames keep the masking key that the client chose.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mask: Mask,
    /// Send the client's `Host` instead of the endpoint's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub preserve_host: bool,
    /// Live sessions of one endpoint, at most; 0: any number. An endpoint that is full is not chosen; where all are, 503.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sessions_per_endpoint_max: u32,
    /// How TLS is spoken with those endpoints whose URL says `wss://`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls: UpstreamTls,
}

impl Upstream {
    /// An upstream of these endpoints, everything else at its default.
    pub fn new(name: impl Into<String>, endpoints: Vec<EndpointUrl>) -> Self {
        Self {
            name: name.into(),
            endpoints: endpoints.into_iter().map(|url| Endpoint { url, verify_certificate: true }).collect(),
            balance: Balance::default(),
            connect_timeout: connect_timeout(),
            handshake_timeout: handshake_timeout(),
            resolve_ttl_max: resolve_ttl_max(),
            mask: Mask::default(),
            preserve_host: false,
            sessions_per_endpoint_max: 0,
            tls: UpstreamTls::default(),
        }
    }
}

fn connect_timeout() -> Duration {
    Duration::from_secs(5)
}

fn is_connect_timeout(timeout: &Duration) -> bool {
    *timeout == connect_timeout()
}

fn handshake_timeout() -> Duration {
    Duration::from_secs(10)
}

fn is_handshake_timeout(timeout: &Duration) -> bool {
    *timeout == handshake_timeout()
}

fn resolve_ttl_max() -> Duration {
    Duration::from_secs(300)
}

fn is_resolve_ttl_max(ttl: &Duration) -> bool {
    *ttl == resolve_ttl_max()
}

/// How an endpoint is chosen for a new session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The one with the fewest live sessions of this data plane; among equals, in turn.
    LeastSessions,
}

/// What happens to the masking key of client frames, RFC 6455 §5.3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// Frames pass under the key that the client chose; a key that is zero or repeated is replaced by a fresh one.
    #[default]
    Keep,
    /// Every frame gets a fresh key: for links with intermediaries that may be confused (RFC 6455 §10.3).
    Fresh,
}

/// One address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// `ws://HOST[:PORT][/PATH][?QUERY]`, the same with `wss://`, or `ws+unix:/SOCKET[:/PATH[?QUERY]]`.
    pub url: EndpointUrl,
    /// Refuse an endpoint whose certificate is not good. Switched off, anybody on the way can read and change
    /// everything: for tests only, and warned about for as long as it is off.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub verify_certificate: bool,
}

/// Where a backend is and which resource is asked for there, RFC 6455 §3.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointUrl {
    /// TLS is spoken there (`wss`).
    pub secure: bool,
    /// Host and port, or socket path.
    pub place: Place,
    /// Path, beginning with `/`.
    pub path: String,
    /// Query without its `?`.
    pub query: Option<String>,
}

/// The part of an endpoint's URL that says where to connect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// A name or an IP address (IPv6 without brackets), and a port.
    Tcp {
        /// Host name or address.
        host: String,
        /// Port; 80 where the URL had none, and 443 with `wss`.
        port: u16,
    },
    /// Path of a Unix stream socket.
    Unix(String),
}

impl EndpointUrl {
    /// For logs: without its query, which may hold a credential.
    pub fn without_query(&self) -> String {
        Self { query: None, ..self.clone() }.to_string()
    }

    /// The value of the `Host` header for this endpoint.
    pub fn authority(&self) -> String {
        match &self.place {
            Place::Tcp { host, port } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                if *port == default_port(self.secure) { host } else { format!("{host}:{port}") }
            }
            Place::Unix(_) => "localhost".into(),
        }
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp { .. } if self.secure => write!(f, "wss://{}{}", self.authority(), self.path)?,
            Place::Tcp { .. } => write!(f, "ws://{}{}", self.authority(), self.path)?,
            Place::Unix(socket) => write!(f, "ws+unix:{socket}:{}", self.path)?,
        }
        self.query.iter().try_for_each(|query| write!(f, "?{query}"))
    }
}

impl FromStr for EndpointUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('#') {
            return Err("a WebSocket URL has no fragment (RFC 6455 §3)");
        }
        if text.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
            return Err("a URL has only visible ASCII characters; write others percent-encoded");
        }
        let secure = text.starts_with("wss://");
        let (place, rest) = if let Some(rest) = text.strip_prefix("ws+unix:") {
            let (socket, rest) = rest.split_once(':').unwrap_or((rest, ""));
            if !socket.starts_with('/') || socket.len() > 107 {
                return Err("ws+unix: is followed by an absolute path of at most 107 bytes, then :/PATH");
            }
            (Place::Unix(socket.into()), rest)
        } else if let Some(rest) = text.strip_prefix("ws://").or(text.strip_prefix("wss://")) {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            (authority_place(authority, default_port(secure))?, rest)
        } else {
            return Err("an endpoint is ws://HOST[:PORT]/PATH, wss://HOST[:PORT]/PATH or ws+unix:/SOCKET:/PATH");
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (rest, None),
        };
        if !path.is_empty() && !path.starts_with('/') {
            return Err("the path of an endpoint begins with /");
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { secure, place, path: path.into(), query })
    }
}

super::text_form!(
    EndpointUrl,
    "framegate-endpoint",
    "ws://HOST[:PORT]/PATH, wss://HOST[:PORT]/PATH or ws+unix:/SOCKET:/PATH."
);

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

fn authority_place(authority: &str, default_port: u16) -> Result<Place, &'static str> {
    if authority.contains('@') {
        return Err("credentials do not belong in an endpoint's URL");
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("an IPv6 address stands in brackets: ws://[::1]:8080")?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| "between brackets stands an IPv6 address")?;
        let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or("after ] comes :PORT")?) };
        (host, port)
    } else {
        let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
            return Err("a host is a name of at most 253 letters, digits, dots and hyphens, or an address");
        }
        (host, port)
    };
    let port = port.map_or(Some(default_port), |port| port.parse().ok());
    let port = port.filter(|port| *port != 0).ok_or("a port is a number from 1 to 65535")?;
    Ok(Place::Tcp { host: host.into(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown() {
        for (text, shown) in [
            ("ws://127.0.0.1:9001", "ws://127.0.0.1:9001/"),
            ("ws://chat.internal/socket?x=1", "ws://chat.internal/socket?x=1"),
            ("ws://[::1]:8080/a", "ws://[::1]:8080/a"),
            ("ws://[::1]", "ws://[::1]/"),
            ("ws://host?q", "ws://host/?q"),
            ("wss://host:443/a", "wss://host/a"),
            ("wss://[::1]", "wss://[::1]/"),
            ("ws://host:443", "ws://host:443/"),
            ("wss://host:80", "wss://host:80/"),
            ("ws+unix:/run/app.sock", "ws+unix:/run/app.sock:/"),
            ("ws+unix:/run/app.sock:/chat?y", "ws+unix:/run/app.sock:/chat?y"),
        ] {
            let url: EndpointUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(url.to_string().parse::<EndpointUrl>().unwrap(), url);
            assert_eq!(url.without_query(), shown.split('?').next().unwrap());
        }
    }

    #[test]
    fn urls_that_are_not_endpoints_are_refused() {
        for text in [
            "",
            "ws://",
            "http://a/",
            "wss:a/",
            "wss+unix:/s",
            "ws://a:0/",
            "ws://a:70000/",
            "ws://u:p@a/",
            "ws://a/#f",
            "ws://a b/",
            "ws://[::1/",
            "ws://[nonsense]/",
            "ws+unix:relative",
            "ws+unix:/s:chat",
            "ws://a\r\nX: y/",
        ] {
            assert!(text.parse::<EndpointUrl>().is_err(), "{text:?}");
        }
    }
}
