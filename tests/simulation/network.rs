//! Sockets in memory: two pipes of a limited size, which can be ended by either side or torn.

use std::collections::VecDeque;

/// One direction of a connection.
pub struct Pipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// The writer has ended its stream: the reader finds its end behind what is left.
    ended: bool,
    /// The connection was reset: the reader finds an error behind what is left, the writer at once.
    torn: bool,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Bytes(Vec<u8>),
    Nothing,
    End,
    Torn,
}

/// The reader is gone.
pub struct Gone;

impl Pipe {
    fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, ended: false, torn: false }
    }

    /// Takes what there is room for.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Gone> {
        if self.torn || self.ended {
            return Err(Gone);
        }
        let taken = bytes.len().min(self.capacity - self.bytes.len());
        self.bytes.extend(&bytes[..taken]);
        Ok(taken)
    }

    pub fn read(&mut self, most: usize) -> Found {
        match self.bytes.len().min(most) {
            0 if self.torn => Found::Torn,
            0 if self.ended => Found::End,
            0 => Found::Nothing,
            count => Found::Bytes(self.bytes.drain(..count).collect()),
        }
    }

    pub fn has_news(&self) -> bool {
        !self.bytes.is_empty() || self.ended || self.torn
    }

    pub fn has_room(&self) -> bool {
        self.bytes.len() < self.capacity || self.torn
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn end(&mut self) {
        self.ended = true;
    }
}

/// A peer's connection with the gateway.
pub struct Socket {
    pub to_gateway: Pipe,
    pub from_gateway: Pipe,
}

impl Socket {
    pub fn new(capacity: usize) -> Self {
        Self { to_gateway: Pipe::new(capacity), from_gateway: Pipe::new(capacity) }
    }

    /// The peer is gone, or the gateway has dropped it. What was on its way to the other can still be read.
    pub fn tear(&mut self) {
        self.to_gateway.torn = true;
        self.from_gateway.torn = true;
    }

    /// The gateway closes its descriptor: what it sent arrives, what it is sent does not.
    pub fn drop_by_gateway(&mut self) {
        self.from_gateway.ended = true;
        self.to_gateway.torn = true;
    }
}
