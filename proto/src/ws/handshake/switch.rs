//! The 101: what the upstream's must be, RFC 6455 §4.1, and the one that the client reads, §4.2.2.
//!
//! A response of another status is no fault and no business of this file: it is relayed as plain HTTP.

use super::upgrade::upgrades_to_websocket;
use super::{Key, Offer};
use crate::http::ResponseView;
use crate::http::head::{BadField, all_or_nothing, write_field};
use crate::ws::extension::{self, Deflate, Extension};

/// What makes a response no switch to WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SwitchFault {
    /// Another status than 101. The caller relays such a response instead of asking.
    #[error("the status is not 101")]
    Status,
    /// Another version than HTTP/1.1.
    #[error("the version is not HTTP/1.1")]
    HttpVersion,
    /// `Upgrade` is not `websocket`, or `Connection` does not list it.
    #[error("the response is no upgrade to websocket")]
    Upgrade,
    /// `Sec-WebSocket-Accept` is missing, doubled, or not the answer to our key.
    #[error("the accept value is wrong")]
    Accept,
    /// A 101 with a body, RFC 9110 §15.2 has none.
    #[error("the response announces a body")]
    Body,
    /// A subprotocol or an extension that was not offered, or not like this.
    #[error("the response agrees to what was not offered")]
    NotOffered,
}

/// What client and upstream agreed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agreed {
    /// The subprotocol, one of those offered.
    pub subprotocol: Option<String>,
    /// The value of `Sec-WebSocket-Extensions` for the client.
    pub extensions: Option<String>,
    /// permessage-deflate, if it is on, so that RSV1 has a meaning.
    pub deflate: Option<Deflate>,
}

impl Agreed {
    /// Tells the client that it does not carry its window over either, as a server may in any answer (RFC 7692 §7.1.1.2).
    pub fn give_up_contexts(&mut self) {
        if let Some(deflate) = &mut self.deflate {
            deflate.client_no_context_takeover = true;
            self.extensions = Some(deflate.to_string());
        }
    }

    /// Whether a compressed message may lean on those before it.
    pub fn has_contexts(&self) -> bool {
        let leans = |one: &Deflate| !(one.server_no_context_takeover && one.client_no_context_takeover);
        self.deflate.as_ref().is_some_and(leans)
    }
}

/// Checks the upstream's 101 against the key and the offer that it was sent.
pub fn check_switch(response: &ResponseView<'_>, key: &Key, sent: &Offer) -> Result<Agreed, SwitchFault> {
    if response.status() != 101 {
        return Err(SwitchFault::Status);
    }
    if response.minor() != 1 {
        return Err(SwitchFault::HttpVersion);
    }
    let fields = response.fields();
    if !upgrades_to_websocket(&fields) {
        return Err(SwitchFault::Upgrade);
    }
    if fields.only("sec-websocket-accept") != Ok(Some(&key.accept())) {
        return Err(SwitchFault::Accept);
    }
    if response.announces_body() {
        return Err(SwitchFault::Body);
    }
    let subprotocol = match fields.only("sec-websocket-protocol") {
        Ok(None) => None,
        Ok(Some(chosen)) => {
            let offered = sent.subprotocols.iter().find(|name| name.as_bytes() == chosen);
            Some(offered.ok_or(SwitchFault::NotOffered)?.clone())
        }
        Err(_) => return Err(SwitchFault::NotOffered),
    };
    let extensions =
        extension::parse(fields.values("sec-websocket-extensions")).map_err(|_| SwitchFault::NotOffered)?;
    let deflate = match extensions[..] {
        [] => None,
        [Extension::Deflate(deflate)] if sent.deflate.iter().any(|offer| deflate.answers(offer)) => Some(deflate),
        _ => return Err(SwitchFault::NotOffered),
    };
    Ok(Agreed { subprotocol, extensions: deflate.map(|deflate| deflate.to_string()), deflate })
}

/// Appends the 101 that the client reads: `accept` answers the client's key. Nothing is appended on a fault.
pub fn write_switch(
    out: &mut Vec<u8>,
    accept: &[u8; 28],
    agreed: &Agreed,
    extra: &[(&str, &str)],
) -> Result<(), BadField> {
    all_or_nothing(out, |out| {
        out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
        write_field(out, "Sec-WebSocket-Accept", accept)?;
        if let Some(subprotocol) = &agreed.subprotocol {
            write_field(out, "Sec-WebSocket-Protocol", subprotocol.as_bytes())?;
        }
        if let Some(extensions) = &agreed.extensions {
            write_field(out, "Sec-WebSocket-Extensions", extensions.as_bytes())?;
        }
        for (name, value) in extra {
            write_field(out, name, value.as_bytes())?;
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    })
}
