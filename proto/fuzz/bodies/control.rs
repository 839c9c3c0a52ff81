//! A control envelope: what is read is written so that it is read the same, and a push is assembled or refused.

use proto::control::{Message, envelope};

/// A whole envelope.
pub fn run(bytes: &[u8]) {
    let Some((prefix, rest)) = bytes.split_first_chunk() else { return };
    let Ok(length) = envelope::length(*prefix) else { return };
    let Some(envelope) = rest.get(..length) else { return };
    let Ok(message) = Message::decode(envelope) else { return };
    let Ok(written) = message.encode() else { return };
    let again = Message::decode(&written[envelope::PREFIX_BYTES..]).expect("what is written is read");
    assert_eq!(again.encode().ok(), Some(written));
    if let Message::Push(push) = again {
        let _ = push.assemble(None);
    }
}
