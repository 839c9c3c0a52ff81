//! Randomness that can be replayed: every source says its seed, and `FRAMEGATE_SEED` chooses it.

use std::time::SystemTime;

/// SplitMix64: small, fast, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A source whose seed is printed, so that a failing run can be repeated.
    pub fn announced(story: &str) -> Self {
        let seed = match std::env::var("FRAMEGATE_SEED") {
            Ok(text) => text.parse().expect("FRAMEGATE_SEED is a number"),
            Err(_) => {
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").subsec_nanos().into()
            }
        };
        println!("{story}: FRAMEGATE_SEED={seed}");
        Self(seed)
    }

    /// A source that is the same in every run.
    pub fn fixed(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a bound.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// A masking key.
    pub fn key(&mut self) -> [u8; 4] {
        (self.number() as u32 | 1).to_le_bytes()
    }
}
