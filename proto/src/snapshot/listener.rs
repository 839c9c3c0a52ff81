//! Where clients connect.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, Environment, ListenerTls, is_default, is_true, yes};

/// One address on which clients are accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The listener's name, unique; APIs and logs refer to it.
    pub name: String,
    /// Address and port (`0.0.0.0:8080`, `[::]:8080`), or a Unix socket (`unix:/run/framegate/public.sock`).
    pub bind: Bind,
    /// Length of the kernel's accept queue.
    #[serde(default = "backlog", skip_serializing_if = "is_default_backlog")]
    pub backlog: u32,
    /// Send small frames at once (`TCP_NODELAY`) on both legs.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub tcp_nodelay: bool,
    /// From when a connection is accepted until its request head must be complete.
    #[serde(default = "handshake_timeout", skip_serializing_if = "is_default_handshake_timeout")]
    pub handshake_timeout: Duration,
    /// Peers (addresses or CIDR ranges) whose connections begin with a PROXY protocol header, version 1 or 2.
    #[serde(default, skip_serializing_if = "is_default")]
    pub proxy_protocol_from: Vec<Cidr>,
    /// Peers (addresses or CIDR ranges) whose `X-Forwarded-For`, `X-Forwarded-Proto` and `Forwarded` are believed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trusted_proxies: Vec<Cidr>,
    /// Which endpoint of an API this listener leads to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub environment: Environment,
    /// A request header by which a client chooses `production` or `sandbox`. It is not forwarded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub environment_header: Option<String>,
    /// Clients speak TLS (`wss`); none: they do not.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "ListenerTls")]
    pub tls: Option<ListenerTls>,
}

const BACKLOG: u32 = 4096;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

fn backlog() -> u32 {
    BACKLOG
}

fn is_default_backlog(backlog: &u32) -> bool {
    *backlog == BACKLOG
}

fn handshake_timeout() -> Duration {
    HANDSHAKE_TIMEOUT
}

fn is_default_handshake_timeout(timeout: &Duration) -> bool {
    *timeout == HANDSHAKE_TIMEOUT
}

impl Listener {
    /// A listener with every option at its default.
    pub fn new(name: impl Into<String>, bind: Bind) -> Self {
        Self {
            name: name.into(),
            bind,
            backlog: BACKLOG,
            tcp_nodelay: true,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            proxy_protocol_from: Vec::new(),
            trusted_proxies: Vec::new(),
            environment: Environment::default(),
            environment_header: None,
            tls: None,
        }
    }
}

/// What a listener binds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bind {
    /// IPv4 or IPv6 address and port.
    Tcp(SocketAddr),
    /// Path of a Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Bind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            // 107 is what fits sockaddr_un with its NUL.
            return match path.len() {
                1..=107 if path.starts_with('/') && !path.contains('\0') => Ok(Self::Unix(path.into())),
                _ => Err("a Unix socket is unix: and an absolute path of at most 107 bytes"),
            };
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| "an address is IP:PORT, [IPv6]:PORT, or unix:/PATH; names are not resolved here")
    }
}

super::text_form!(Bind, "framegate-bind", "An address and port, or unix: and the path of a socket.");

/// An address range, or one address as a range of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr(pub IpNet);

impl Cidr {
    /// Whether the address is in the range. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
        net.map(Self).map_err(|_| "an address or a CIDR range is needed, such as 10.0.0.0/8 or ::1")
    }
}

super::text_form!(Cidr, "framegate-cidr", "An address or a CIDR range, such as 10.0.0.0/8 or ::1.");
