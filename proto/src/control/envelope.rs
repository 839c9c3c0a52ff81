//! Framing: length, kind, payload. The ceiling is checked, from both sides, before anything grows.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Message;
use super::message::Generation;
use crate::limits::{ENVELOPE_BYTES_MAX, SMALL_ENVELOPE_BYTES_MAX};

/// Bytes of the length prefix.
pub const PREFIX_BYTES: usize = 4;

/// Why an envelope cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The length is 0, or over the ceiling.
    #[error("an envelope of {length} bytes is outside 1..={ceiling}")]
    Length {
        /// What the prefix says.
        length: usize,
        /// [`ENVELOPE_BYTES_MAX`], or [`SMALL_ENVELOPE_BYTES_MAX`] for a kind that is not a push.
        ceiling: usize,
    },
    /// The kind is not one of this protocol version. The connection ends: a side that sends it speaks another version.
    #[error("message kind {0} is not known")]
    Kind(u8),
    /// The payload is not MessagePack of the kind's form.
    #[error("message kind {kind} is malformed")]
    Payload {
        /// The kind.
        kind: u8,
        /// What is wrong with it.
        #[source]
        source: rmp_serde::decode::Error,
    },
    /// A message could not be written; a fault of ours.
    #[error("a message cannot be written")]
    Encode(#[from] rmp_serde::encode::Error),
}

/// Reads the length prefix: how many bytes, kind included, follow. Call before allocating for them.
pub fn length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, EnvelopeError> {
    bounded(u32::from_be_bytes(prefix) as usize, ENVELOPE_BYTES_MAX)
}

/// Checks the length again when the kind is known. Call it before growing beyond the first byte.
pub fn length_of_kind(length: usize, kind: u8) -> Result<usize, EnvelopeError> {
    bounded(length, ceiling(kind))
}

fn bounded(length: usize, ceiling: usize) -> Result<usize, EnvelopeError> {
    if length == 0 || length > ceiling { Err(EnvelopeError::Length { length, ceiling }) } else { Ok(length) }
}

impl Message {
    /// The kind byte.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Welcome(_) => 2,
            Self::Push(_) => 3,
            Self::Ack(_) => 4,
            Self::Reject(_) => 5,
            Self::Drain(_) => 6,
            Self::Ask(_) => 7,
            Self::Report(_) => 8,
            Self::Usage(_) => 9,
            Self::Request(_) => 64,
            Self::Response(_) => 65,
        }
    }

    /// The whole envelope: length, kind, payload.
    pub fn encode(&self) -> Result<Vec<u8>, EnvelopeError> {
        let mut bytes = vec![0; PREFIX_BYTES];
        bytes.push(self.kind());
        match self {
            Self::Hello(hello) => named(&mut bytes, hello),
            Self::Welcome(welcome) => named(&mut bytes, welcome),
            Self::Push(push) => named(&mut bytes, push),
            Self::Ack(ack) => named(&mut bytes, ack),
            Self::Reject(reject) => named(&mut bytes, reject),
            Self::Drain(drain) => named(&mut bytes, drain),
            Self::Ask(ask) => named(&mut bytes, ask),
            Self::Report(report) => named(&mut bytes, report),
            Self::Usage(usage) => named(&mut bytes, usage),
            Self::Request(request) => named(&mut bytes, request),
            Self::Response(response) => named(&mut bytes, response),
        }?;
        let length = bounded(bytes.len() - PREFIX_BYTES, ceiling(self.kind()))?;
        bytes[..PREFIX_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
        Ok(bytes)
    }

    /// Reads what follows the length prefix: kind and payload.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let (&kind, payload) =
            bytes.split_first().ok_or(EnvelopeError::Length { length: 0, ceiling: ENVELOPE_BYTES_MAX })?;
        bounded(bytes.len(), ceiling(kind))?;
        Ok(match kind {
            1 => Self::Hello(read(kind, payload)?),
            2 => Self::Welcome(read(kind, payload)?),
            3 => Self::Push(read(kind, payload)?),
            4 => Self::Ack(read(kind, payload)?),
            5 => Self::Reject(read(kind, payload)?),
            6 => Self::Drain(read(kind, payload)?),
            7 => Self::Ask(read(kind, payload)?),
            8 => Self::Report(read(kind, payload)?),
            9 => Self::Usage(read(kind, payload)?),
            64 => Self::Request(read(kind, payload)?),
            65 => Self::Response(read(kind, payload)?),
            _ => return Err(EnvelopeError::Kind(kind)),
        })
    }
}

/// The generation of a push (kind and payload) that cannot be read as a whole: it can still be answered with a Reject.
pub fn generation_of_push(bytes: &[u8]) -> Option<Generation> {
    #[derive(Deserialize)]
    struct Only {
        generation: Generation,
    }
    match bytes.split_first() {
        Some((3, payload)) => rmp_serde::from_slice(payload).ok().map(|only: Only| only.generation),
        _ => None,
    }
}

/// The ceiling of one kind: only a push may be large.
const fn ceiling(kind: u8) -> usize {
    if kind == 3 { ENVELOPE_BYTES_MAX } else { SMALL_ENVELOPE_BYTES_MAX }
}

fn named<T: Serialize>(bytes: &mut Vec<u8>, message: &T) -> Result<(), EnvelopeError> {
    message.serialize(&mut rmp_serde::Serializer::new(bytes).with_struct_map()).map_err(EnvelopeError::Encode)
}

fn read<T: DeserializeOwned>(kind: u8, payload: &[u8]) -> Result<T, EnvelopeError> {
    rmp_serde::from_slice(payload).map_err(|source| EnvelopeError::Payload { kind, source })
}
