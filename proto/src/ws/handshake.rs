//! Opening handshake, RFC 6455 §4, on both sides: as server to the client, as client to the upstream.
//!
//! ```text
//! client's request ─► check_upgrade ─► Upgrade ─► write_upgrade_request ─► upstream
//! client ◄─ write_switch ◄─ Agreed ◄─ check_switch ◄─ upstream's response
//! ```
//!
//! Decides and writes; it does not read sockets and knows no routes. What the client may agree to with the upstream is
//! exactly what was offered onwards, so the 101 that the client reads says what the upstream's said.

mod switch;
mod upgrade;

pub use switch::{Agreed, SwitchFault, check_switch, write_switch};
pub use upgrade::{
    FORWARDING, Upgrade, UpgradeFault, UpgradeRequest, check_upgrade, end_to_end, write_upgrade_request,
};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use sha1::Digest as _;

use super::extension::Deflate;
pub use crate::http::answer::{reason_phrase, write_refusal, write_relayed_head};

/// What a client offers, and what is offered onwards: never more than the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// Subprotocols in the client's order, without doubles.
    pub subprotocols: Vec<String>,
    /// permessage-deflate as often as it is offered, with sound parameters, in the client's order.
    pub deflate: Vec<Deflate>,
}

/// A `Sec-WebSocket-Key`: 16 bytes in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 24]);

// Trailing bits are not checked: the very example of RFC 6455 §4.1 has some.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

impl Key {
    /// From 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        let mut key = [0; 24];
        let written = BASE64.encode_slice(bytes, &mut key);
        debug_assert_eq!(written, Ok(24), "16 bytes are 24 characters");
        Self(key)
    }

    /// Reads the value of the field; `None` if it is not 16 bytes in base64.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let key: [u8; 24] = value.try_into().ok()?;
        // `decode_slice` wants room for the estimate, three bytes for each four characters.
        let mut bytes = [0; 18];
        (BASE64.decode_slice(key, &mut bytes) == Ok(16)).then_some(Self(key))
    }

    /// As the field's value.
    pub fn as_bytes(&self) -> &[u8; 24] {
        &self.0
    }

    /// The `Sec-WebSocket-Accept` that answers it.
    pub fn accept(&self) -> [u8; 28] {
        accept_key(&self.0)
    }
}

/// The `Sec-WebSocket-Accept` for a key, RFC 6455 §4.2.2: base64 of SHA-1 of the key and a fixed text.
pub fn accept_key(key: &[u8; 24]) -> [u8; 28] {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest: [u8; 20] = sha1::Sha1::new().chain_update(key).chain_update(GUID).finalize().into();
    let mut accept = [0; 28];
    let written = BASE64.encode_slice(digest, &mut accept);
    debug_assert_eq!(written, Ok(28), "20 bytes are 28 characters");
    accept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6455_accept_key() {
        assert_eq!(&accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(Key::from_random(*b"the sample nonce").as_bytes(), b"dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn keys_are_sixteen_bytes_in_base64() {
        assert!(Key::parse(b"AQIDBAUGBwgJCgsMDQ4PEC==").is_some(), "the example of RFC 6455 4.1");
        for key in [
            "",
            "AQIDBAUGBwgJCgsMDQ4PEC=",
            "AQIDBAUGBwgJCgsMDQ4PEC",
            "AQIDBAUGBwgJCgsMDQ4PECAB",
            "AQIDBAUGBwgJCgsMDQ4PECA=",
            "AQIDBAUGBwgJCgsMDQ4P=C==",
            "AQID AUGBwgJCgsMDQ4PEC==",
            "AQIDBAUGBwgJCgsMDQ4_EC==",
            "========================",
        ] {
            assert_eq!(Key::parse(key.as_bytes()), None, "{key:?}");
        }
    }
}
