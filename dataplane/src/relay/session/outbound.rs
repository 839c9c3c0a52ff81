//! What the gateway itself says to a peer: answers, pings, and a close frame.
//!
//! Keeps what is owed; where it may stand is the session's to say.

use proto::limits::CONTROL_PAYLOAD_MAX;
use proto::ws::{CloseCode, FrameHeader, Opcode, mask};

use super::{CONTROL_FRAME_MAX, Keys};

/// Bytes of the gateway's own ping payload.
const PING_BYTES: usize = 8;

/// A control frame that the gateway sends.
#[derive(Debug)]
pub struct ControlFrame {
    bytes: [u8; CONTROL_FRAME_MAX],
    length: usize,
}

impl ControlFrame {
    pub(super) fn new(opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>) -> Self {
        let (header, at) = FrameHeader::control(opcode, key, payload.len()).encode();
        let length = at + payload.len();
        let mut bytes = [0; CONTROL_FRAME_MAX];
        bytes[..at].copy_from_slice(&header[..at]);
        bytes[at..length].copy_from_slice(payload);
        if let Some(key) = key {
            mask::apply(&mut bytes[at..length], key, 0);
        }
        Self { bytes, length }
    }

    /// A close frame; one that says 1005 is empty.
    pub(super) fn close(code: CloseCode, reason: &str, key: Option<[u8; 4]>) -> Self {
        if code == CloseCode::NO_STATUS {
            return Self::new(Opcode::Close, &[], key);
        }
        let reason = &reason.as_bytes()[..reason.len().min(CONTROL_PAYLOAD_MAX - 2)];
        let mut payload = [0; CONTROL_PAYLOAD_MAX];
        payload[..2].copy_from_slice(&code.0.to_be_bytes());
        payload[2..2 + reason.len()].copy_from_slice(reason);
        Self::new(Opcode::Close, &payload[..2 + reason.len()], key)
    }

    /// The frame, header and payload.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The payload of a control frame that is kept.
pub(super) struct ControlPayload {
    bytes: [u8; CONTROL_PAYLOAD_MAX],
    length: u8,
}

impl ControlPayload {
    pub(super) fn new(payload: &[u8]) -> Self {
        let mut bytes = [0; CONTROL_PAYLOAD_MAX];
        bytes[..payload.len()].copy_from_slice(payload);
        Self { bytes, length: payload.len() as u8 }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// What the gateway itself has to say to one peer.
#[derive(Default)]
pub(super) struct Outbound {
    pub(super) close: CloseState,
    /// The code and the reason of a close that is deferred or owed: there only then, because it is seldom and not small.
    pub(super) said: Option<Box<(CloseCode, &'static str)>>,
    /// The payload of the newest ping that has not been answered.
    pub(super) pong: Option<Box<ControlPayload>>,
    pub(super) ping_owed: bool,
    /// The gateway's last ping.
    pub(super) ping: Option<Ping>,
    pub(super) cut: bool,
}

/// A ping of the gateway's own. It is kept when its pong is no longer waited for, because that pong stays here too.
#[derive(Clone, Copy)]
pub(super) struct Ping {
    /// The first half is drawn once for each leg: by it the pong to an older ping is known.
    pub(super) payload: [u8; PING_BYTES],
    pub(super) sent_ms: u64,
    pub(super) awaited: bool,
}

impl Ping {
    pub(super) fn after(last: Option<Self>, keys: &mut Keys, now_ms: u64) -> Self {
        let mut payload: [u8; PING_BYTES] = keys.next_octets();
        if let Some(last) = last {
            payload[..PING_BYTES / 2].copy_from_slice(&last.payload[..PING_BYTES / 2]);
        }
        Self { payload, sent_ms: now_ms, awaited: true }
    }

    /// Whether this is the payload of the pong to it, or to one before it.
    pub(super) fn is_answered_by(&self, payload: &[u8]) -> bool {
        payload.len() == PING_BYTES && payload[..PING_BYTES / 2] == self.payload[..PING_BYTES / 2]
    }
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseState {
    #[default]
    Open,
    /// Owed, but what the other peer still has to say comes first.
    Deferred,
    Owed,
    Sent,
}

impl Outbound {
    pub(super) fn wants(&self) -> bool {
        self.pong.is_some() || self.ping_owed || self.close == CloseState::Owed
    }

    pub(super) fn owe_close(&mut self, code: CloseCode, reason: &'static str) {
        if self.close == CloseState::Open {
            self.close = CloseState::Owed;
            self.said = Some(Box::new((code, reason)));
        }
        self.owe_deferred();
    }

    pub(super) fn defer_close(&mut self, code: CloseCode, reason: &'static str) {
        if self.close == CloseState::Open {
            self.close = CloseState::Deferred;
            self.said = Some(Box::new((code, reason)));
        }
    }

    /// A close that was deferred is owed now; whether there is one.
    pub(super) fn owe_deferred(&mut self) -> bool {
        let deferred = self.close == CloseState::Deferred;
        if deferred {
            self.close = CloseState::Owed;
        }
        deferred
    }
}
