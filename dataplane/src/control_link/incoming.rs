//! One envelope, as its bytes arrive: over any number of reads, with time-outs between them.
//!
//! Memory follows the bytes that have come, not the length that was announced; the ceilings are proto's.

use std::io;
use std::time::Instant;

use proto::control::envelope::{self, PREFIX_BYTES};
use proto::control::message::Generation;
use proto::control::{EnvelopeError, Message};

/// Bytes that are asked for at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Kind and payload of one message.
#[derive(Debug)]
pub(super) struct Envelope(Vec<u8>);

impl Envelope {
    pub(super) fn decode(&self) -> Result<Message, EnvelopeError> {
        Message::decode(&self.0)
    }

    /// Which generation a push is that cannot be read as a whole.
    pub(super) fn generation(&self) -> Option<Generation> {
        envelope::generation_of_push(&self.0)
    }
}

/// An envelope that has partly arrived.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    prefix: [u8; PREFIX_BYTES],
    prefix_filled: usize,
    /// Kind and payload, as far as they have come.
    body: Vec<u8>,
    /// When the last byte of an unfinished envelope came.
    last: Option<Instant>,
}

/// What one read brought.
#[derive(Debug)]
pub(super) enum Read {
    Whole(Envelope),
    Part,
    End,
}

#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    Envelope(EnvelopeError),
}

impl Incoming {
    /// When the last byte of an envelope came that is not complete yet.
    pub(super) fn begun(&self) -> Option<Instant> {
        self.last
    }

    /// Bytes that are set aside for the body.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.body.capacity()
    }

    /// Reads once.
    pub(super) fn read(&mut self, source: &mut impl io::Read, now: Instant) -> Result<Read, ReadError> {
        let n = if self.prefix_filled < PREFIX_BYTES {
            let n = source.read(&mut self.prefix[self.prefix_filled..]).map_err(ReadError::Io)?;
            self.prefix_filled += n;
            n
        } else {
            let want = (self.length()? - self.body.len()).min(CHUNK_BYTES);
            let filled = self.body.len();
            self.body.resize(filled + want, 0);
            let result = source.read(&mut self.body[filled..]);
            self.body.truncate(filled + result.as_ref().map_or(0, |n| *n));
            result.map_err(ReadError::Io)?
        };
        if n == 0 {
            return Ok(Read::End);
        }
        self.last = Some(now);
        if self.prefix_filled < PREFIX_BYTES || self.body.len() < self.length()? {
            return Ok(Read::Part);
        }
        let Self { body, .. } = std::mem::take(self);
        Ok(Read::Whole(Envelope(body)))
    }

    /// The announced length, checked, once the kind is known against the kind's own ceiling.
    fn length(&self) -> Result<usize, ReadError> {
        let length = envelope::length(self.prefix).map_err(ReadError::Envelope)?;
        match self.body.first() {
            Some(kind) => envelope::length_of_kind(length, *kind).map_err(ReadError::Envelope),
            None => Ok(length),
        }
    }
}
