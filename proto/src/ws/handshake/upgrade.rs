//! The request: what a client's must be, RFC 6455 §4.2.1, and the one that the upstream reads, §4.1.
//!
//! Nothing of the client's request reaches the upstream by itself: the request line, `Host`, the upgrade and the offer
//! are written anew, and of the other fields those that are the client's to send.

use super::{Key, Offer};
use crate::http::answer::{Nominated, is_hop_by_hop, starts_with};
use crate::http::head::{BadField, all_or_nothing, write_field};
use crate::http::list::is_token;
use crate::http::{Fields, Host, RequestView};
use crate::limits::SUBPROTOCOLS_MAX;
use crate::ws::extension::{self, Extension};

/// What makes a request no WebSocket handshake. In the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum UpgradeFault {
    /// Another method than GET.
    #[error("the method is not GET")]
    Method,
    /// Another version than HTTP/1.1.
    #[error("the version is not HTTP/1.1")]
    HttpVersion,
    /// `Host` is missing, doubled or malformed.
    #[error("the host is missing or malformed")]
    BadHost,
    /// `Upgrade` is not `websocket` and nothing else, or `Connection` does not list it.
    #[error("the request is no upgrade to websocket")]
    NotWebSocket,
    /// A body is announced.
    #[error("the upgrade has a body")]
    BodyOnUpgrade,
    /// `Sec-WebSocket-Version` is not 13.
    #[error("the WebSocket version is not 13")]
    Version,
    /// `Sec-WebSocket-Key` is missing, doubled, or not 16 bytes in base64.
    #[error("the key is missing or malformed")]
    BadKey,
    /// `Sec-WebSocket-Protocol` or `Sec-WebSocket-Extensions` breaks its grammar or a ceiling, or doubles a subprotocol.
    #[error("the offer is malformed")]
    BadOffer,
}

/// A request that may become a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// The host that is asked for.
    pub host: Host,
    /// The client's key.
    pub key: Key,
    /// What the client offers.
    pub offer: Offer,
}

/// Checks the rules of RFC 6455 §4.2.1.
///
/// `Upgrade` must be `websocket` alone. RFC 9110 would let a server choose from a list, but no WebSocket client sends
/// one; `h2c, websocket` is how requests are smuggled past those who read another part of it than the next server.
pub fn check_upgrade(request: &RequestView<'_>) -> Result<Upgrade, UpgradeFault> {
    if request.method() != "GET" {
        return Err(UpgradeFault::Method);
    }
    if request.minor() != 1 {
        return Err(UpgradeFault::HttpVersion);
    }
    let host = request.host().map_err(|_| UpgradeFault::BadHost)?;
    let fields = request.fields();
    if !upgrades_to_websocket(&fields) {
        return Err(UpgradeFault::NotWebSocket);
    }
    if request.has_body() {
        return Err(UpgradeFault::BodyOnUpgrade);
    }
    if fields.only("sec-websocket-version") != Ok(Some(b"13")) {
        return Err(UpgradeFault::Version);
    }
    let key = fields.only("sec-websocket-key").ok().flatten().and_then(Key::parse).ok_or(UpgradeFault::BadKey)?;
    let offer = Offer { subprotocols: subprotocols(&fields)?, deflate: deflate(&fields)? };
    Ok(Upgrade { host, key, offer })
}

/// Whether `Upgrade` is `websocket` and nothing else, and `Connection` lists `upgrade`.
pub(super) fn upgrades_to_websocket(fields: &Fields<'_>) -> bool {
    let mut protocols = fields.values("upgrade");
    let only = protocols.next().is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    only && protocols.next().is_none() && fields.lists("connection", "upgrade")
}

fn subprotocols(fields: &Fields<'_>) -> Result<Vec<String>, UpgradeFault> {
    let mut offered: Vec<String> = Vec::new();
    for element in fields.list("sec-websocket-protocol") {
        let name = std::str::from_utf8(element).ok().filter(|name| is_token(name.as_bytes()));
        match name {
            Some(name) if offered.len() < SUBPROTOCOLS_MAX && !offered.iter().any(|other| other == name) => {
                offered.push(name.into());
            }
            _ => return Err(UpgradeFault::BadOffer),
        }
    }
    if offered.is_empty() && fields.first("sec-websocket-protocol").is_some() {
        return Err(UpgradeFault::BadOffer);
    }
    Ok(offered)
}

fn deflate(fields: &Fields<'_>) -> Result<Vec<extension::Deflate>, UpgradeFault> {
    let extensions = extension::parse(fields.values("sec-websocket-extensions")).map_err(|_| UpgradeFault::BadOffer)?;
    let deflate = extensions.into_iter().filter_map(|extension| match extension {
        Extension::Deflate(deflate) => Some(deflate),
        Extension::UnsoundDeflate | Extension::Other => None,
    });
    Ok(deflate.collect())
}

/// The request that the upstream reads.
#[derive(Debug, Clone, Copy)]
pub struct UpgradeRequest<'a> {
    /// The client's request: its end-to-end fields are passed on.
    pub client: RequestView<'a>,
    /// Path and query at the upstream.
    pub target: &'a str,
    /// The value of `Host`.
    pub host: &'a str,
    /// The gateway's own key for this connection.
    pub key: &'a Key,
    /// What is offered onwards.
    pub offer: &'a Offer,
    /// Fields that the gateway adds. The client's fields of these names are not passed on.
    pub extra: &'a [(&'a str, &'a str)],
    /// Names of further fields that are not passed on.
    pub withheld: &'a [&'a str],
}

/// Appends the request, or nothing where something that the gateway adds would break a line.
///
/// Of the client's fields these stay behind: those of one connection only and those that `Connection` names, the
/// handshake's own, those that say who the client is ([`FORWARDING`]), names with `_` (which some servers take for `-`),
/// and the withheld. What the gateway writes itself it writes last and nobody nominates it away.
pub fn write_upgrade_request(out: &mut Vec<u8>, request: &UpgradeRequest<'_>) -> Result<(), BadField> {
    let target_is_sound = request.target.starts_with('/')
        && request.target.bytes().all(|byte| matches!(byte, 0x21..=0x7e) && byte != b'#');
    if !target_is_sound {
        return Err(BadField { name: ":path".into() });
    }
    all_or_nothing(out, |out| {
        out.extend_from_slice(b"GET ");
        out.extend_from_slice(request.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        write_field(out, "Host", request.host.as_bytes())?;
        let is = |name: &str, other: &&str| other.eq_ignore_ascii_case(name);
        let is_ours = |name: &str| {
            request.extra.iter().any(|(other, _)| is(name, other))
                || request.withheld.iter().any(|other| is(name, other))
        };
        for (name, value) in end_to_end(request.client, is_ours) {
            write_field(out, name, value)?;
        }
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
        write_field(out, "Sec-WebSocket-Key", request.key.as_bytes())?;
        if !request.offer.subprotocols.is_empty() {
            write_field(out, "Sec-WebSocket-Protocol", request.offer.subprotocols.join(", ").as_bytes())?;
        }
        if !request.offer.deflate.is_empty() {
            let offers: Vec<String> = request.offer.deflate.iter().map(ToString::to_string).collect();
            write_field(out, "Sec-WebSocket-Extensions", offers.join(", ").as_bytes())?;
        }
        for (name, value) in request.extra {
            write_field(out, name, value.as_bytes())?;
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    })
}

/// Fields that say who the client is and how it came: the gateway's to write, whatever the client says.
pub const FORWARDING: [&str; 9] = [
    "forwarded",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "traceparent",
    "via",
];

/// The client's fields that another server may be told: without those of one connection only and those that `Connection`
/// names, the handshake's own, [`FORWARDING`], names with `_`, and those that are ours.
pub fn end_to_end<'a>(
    client: RequestView<'a>,
    is_ours: impl Fn(&str) -> bool,
) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    let fields = client.fields();
    let nominated = Nominated::of(&fields);
    fields.iter().filter(move |(name, _)| {
        let is = |other: &&str| other.eq_ignore_ascii_case(name);
        !(is_hop_by_hop(name)
            || is(&"host")
            || starts_with(name, "sec-websocket-")
            || name.contains('_')
            || FORWARDING.iter().any(is)
            || is_ours(name)
            || nominated.names(name))
    })
}
