//! Tokens that a worker has verified: what they granted, so that a signature is checked once and not at every handshake.
//!
//! Known by their SHA-256, so that no token is kept. Bounded by number and by bytes; who was not asked for since the hand
//! last passed makes room. It remembers what was true when it was verified, and nothing else: whether the issuer is
//! still the same, and the grant still stands, is asked at every use.

use std::collections::HashMap;
use std::sync::Arc;

use proto::limits::{VERIFIED_TOKENS_BYTES_MAX, VERIFIED_TOKENS_MAX};
use proto::snapshot::{CredentialForm, SecretHash};

use crate::identity::Identity;
use crate::issuers::Believed;
use crate::people::Client;

/// Bytes of an entry beside what its token held: hash, grant, map and the places of both.
const ENTRY_BYTES: usize = 512;
/// What a claim costs in memory for each byte that it had in the token; a measured mean is 3.
const CLAIMS_FACTOR: usize = 4;

/// A token in the form in which it came: sessions of one token share a grant, which says the form.
pub type TokenKey = (SecretHash, CredentialForm);

/// Verified tokens of one worker.
#[derive(Default)]
pub struct Verified {
    places: HashMap<TokenKey, usize>,
    slots: Vec<Slot>,
    hand: usize,
    bytes: usize,
}

/// What was true when a token was verified.
pub struct Entry {
    /// Who it made of its bearer.
    pub identity: Identity,
    /// Who had signed it.
    pub issuer: Arc<Believed>,
    /// Whose its client was.
    pub client: Option<Client>,
}

struct Slot {
    key: TokenKey,
    entry: Entry,
    bytes: usize,
    is_used: bool,
}

impl Verified {
    /// What is remembered of a token.
    pub fn find(&mut self, key: &TokenKey) -> Option<&Entry> {
        let slot = &mut self.slots[*self.places.get(key)?];
        slot.is_used = true;
        Some(&slot.entry)
    }

    /// Remembers a token of so many bytes.
    pub fn keep(&mut self, key: TokenKey, entry: Entry, token_bytes: usize) {
        self.forget(&key);
        let bytes = ENTRY_BYTES + CLAIMS_FACTOR * token_bytes;
        while self.slots.len() >= VERIFIED_TOKENS_MAX || self.bytes + bytes > VERIFIED_TOKENS_BYTES_MAX {
            self.make_room();
        }
        self.bytes += bytes;
        self.places.insert(key, self.slots.len());
        self.slots.push(Slot { key, entry, bytes, is_used: false });
    }

    /// Forgets a token.
    pub fn forget(&mut self, key: &TokenKey) {
        let Some(at) = self.places.remove(key) else { return };
        self.bytes -= self.slots.swap_remove(at).bytes;
        if let Some(moved) = self.slots.get(at) {
            self.places.insert(moved.key, at);
        }
    }

    /// The hand passes over those that were used, once, and takes the first that was not.
    fn make_room(&mut self) {
        loop {
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[self.hand];
            if !std::mem::take(&mut slot.is_used) {
                let key = slot.key;
                return self.forget(&key);
            }
        }
    }
}
