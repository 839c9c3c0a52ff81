//! What the gateway itself says to a peer: answers, pings, and a close frame.
//!
//! Keeps what is owed; where it may stand is the session's to say.

use std::borrow::Cow;
use std::num::NonZeroU64;

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

/// What the gateway itself says to a peer: a frame, whole.
#[derive(Debug)]
pub enum Said {
    /// A control frame.
    Control(ControlFrame),
    /// A text message to the client in place of one that was too much.
    Notice(Box<[u8]>),
}

impl Said {
    /// The frame, header and payload.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Control(frame) => frame.as_bytes(),
            Self::Notice(frame) => frame,
        }
    }
}

impl From<ControlFrame> for Said {
    fn from(frame: ControlFrame) -> Self {
        Self::Control(frame)
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
    pub(super) said: Option<Box<(CloseCode, Cow<'static, str>)>>,
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
    /// When it was sent, times two, and one more while its pong is awaited: in one word, because every session has it.
    stamp: NonZeroU64,
}

impl Ping {
    pub(super) fn after(last: Option<Self>, keys: &mut Keys, now_ms: u64) -> Self {
        let mut payload: [u8; PING_BYTES] = keys.next_octets();
        if let Some(last) = last {
            payload[..PING_BYTES / 2].copy_from_slice(&last.payload[..PING_BYTES / 2]);
        }
        Self { payload, stamp: NonZeroU64::MIN | now_ms << 1 }
    }

    /// When it was sent.
    pub(super) fn sent_ms(&self) -> u64 {
        self.stamp.get() >> 1
    }

    /// Whether its pong is awaited.
    pub(super) fn is_awaited(&self) -> bool {
        self.stamp.get() & 1 == 1
    }

    /// Its pong is not awaited any more; whether it was.
    pub(super) fn forgive(&mut self) -> bool {
        let was_awaited = self.is_awaited();
        // A ping of the worker's first millisecond is as good as one of the second.
        self.stamp = NonZeroU64::new(self.stamp.get() & !1).unwrap_or(NonZeroU64::MIN.saturating_add(1));
        was_awaited
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

    /// Nothing of the gateway's own may follow a close frame.
    pub(super) fn fall_silent(&mut self) {
        self.pong = None;
        self.ping_owed = false;
    }

    pub(super) fn owe_close(&mut self, code: CloseCode, reason: impl Into<Cow<'static, str>>) {
        if self.close == CloseState::Open {
            self.close = CloseState::Owed;
            self.said = Some(Box::new((code, reason.into())));
        }
        self.owe_deferred();
    }

    pub(super) fn defer_close(&mut self, code: CloseCode, reason: &'static str) {
        if self.close == CloseState::Open {
            self.close = CloseState::Deferred;
            self.said = Some(Box::new((code, reason.into())));
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
