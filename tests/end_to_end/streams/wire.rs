//! A stream of any length without keeping it: what stands at each offset is known to its sender and to its receiver.

use std::io::ErrorKind;

use crate::kit::{Frame, Peer, Random};

/// Bytes of one system call of a stream's ends.
pub const PIECE_BYTES: usize = 256 * 1024;
/// Bytes after which a stream repeats itself: a prime number, so that no power of two of bytes could be lost unseen.
const PERIOD_BYTES: usize = 1_048_573;
/// Payload of a fragment.
const FRAGMENT_BYTES: usize = 64 * 1024;
/// Frames after which a stream of frames repeats itself; no two neighbours have one key.
const FRAMES: u64 = 16;

/// Bytes on the wire: a beginning, a body that repeats a block, an end.
pub struct Wire {
    head: Vec<u8>,
    block: Vec<u8>,
    body_bytes: u64,
    tail: Vec<u8>,
}

impl Wire {
    /// One message of so many payload bytes in one frame. What stands on the wire is random, masked or not.
    pub fn one_frame(masked: bool, payload_bytes: u64) -> Self {
        let mask_bit = u8::from(masked) << 7;
        let mut head = vec![0x82, mask_bit | 127];
        head.extend_from_slice(&payload_bytes.to_be_bytes());
        if masked {
            head.extend_from_slice(&[5, 6, 7, 8]);
        }
        let block = Random::fixed(payload_bytes).bytes(PERIOD_BYTES);
        Self { head, block, body_bytes: payload_bytes, tail: Vec::new() }
    }

    /// One message of so many payload bytes in fragments.
    pub fn fragments(masked: bool, payload_bytes: u64) -> Self {
        let dress = |frame: Frame, key: u8| if masked { frame.masked([key, 1, 2, 3]) } else { frame };
        let mut random = Random::fixed(payload_bytes);
        let fragment = |key| dress(Frame::continuation(random.bytes(FRAGMENT_BYTES)).unfinished(), key).encode();
        let block: Vec<u8> = (1..=FRAMES as u8).flat_map(fragment).collect();
        Self {
            head: dress(Frame::binary("").unfinished(), 100).encode(),
            body_bytes: payload_bytes / FRAGMENT_BYTES as u64 * (block.len() as u64 / FRAMES),
            block,
            tail: dress(Frame::continuation(""), 101).encode(),
        }
    }

    /// Messages of 64 KiB without end, for those who stop somewhere.
    pub fn frames(masked: bool, seed: u64) -> Self {
        let mut random = Random::fixed(seed);
        let frame = |key| {
            let frame = Frame::binary(random.bytes(FRAGMENT_BYTES));
            if masked { frame.masked([key, 9, 9, 9]) } else { frame }.encode()
        };
        let block = (1..=FRAMES as u8).flat_map(frame).collect();
        Self { head: Vec::new(), block, body_bytes: u64::MAX / 2, tail: Vec::new() }
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.head.len() as u64 + self.body_bytes + self.tail.len() as u64
    }

    /// The end of the frame in which this offset lies, for a stream of [`frames`](Self::frames).
    pub fn frame_end(&self, offset: u64) -> u64 {
        offset.next_multiple_of(self.block.len() as u64 / FRAMES)
    }

    /// Some bytes at an offset: at least one, unless the stream is over there.
    pub fn at(&self, offset: u64) -> &[u8] {
        let Some(in_body) = offset.checked_sub(self.head.len() as u64) else { return &self.head[offset as usize..] };
        match in_body.checked_sub(self.body_bytes) {
            Some(in_tail) => &self.tail[in_tail as usize..],
            None => {
                let start = (in_body % self.block.len() as u64) as usize;
                let left = usize::try_from(self.body_bytes - in_body).unwrap_or(usize::MAX);
                &self.block[start..self.block.len().min(start.saturating_add(left))]
            }
        }
    }

    /// Whether these bytes are those at this offset.
    pub fn has(&self, mut offset: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let expected = self.at(offset);
            let count = expected.len().min(bytes.len());
            if count == 0 || expected[..count] != bytes[..count] {
                return false;
            }
            offset += count as u64;
            bytes = &bytes[count..];
        }
        true
    }
}

/// Sends once, at most [`PIECE_BYTES`] from this offset. Returns how many bytes went; 0: the socket takes nothing now.
#[track_caller]
pub fn send_some(peer: &Peer, wire: &Wire, offset: u64, end: u64) -> usize {
    let bytes = wire.at(offset);
    let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
    match peer.write_directly(&bytes[..bytes.len().min(PIECE_BYTES).min(left)]) {
        Ok(sent) => sent,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("cannot send at {offset}: {error}"),
    }
}

/// Receives once, and compares with what must stand at this offset. Returns how many bytes came; 0: nothing is there.
#[track_caller]
pub fn receive_some(peer: &Peer, wire: &Wire, offset: u64, room: &mut [u8]) -> usize {
    match peer.read_directly(room) {
        Ok(0) => panic!("the stream ended at {offset}"),
        Ok(count) => {
            assert!(
                wire.has(offset, &room[..count]),
                "other bytes than were sent, between {offset} and {count} further"
            );
            count
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("cannot receive at {offset}: {error}"),
    }
}
