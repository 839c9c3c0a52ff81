//! Fresh masking keys and other small random octets, drawn from the kernel in batches.
//!
//! RFC 6455 §5.3 wants keys that cannot be predicted. The source is an argument, so that simulations can be repeated.

/// Octets drawn at a time: one system call for 256 keys.
const BATCH_BYTES: usize = 1024;

/// A supply of random octets; no octet is used twice.
pub struct Keys {
    pool: Box<[u8; BATCH_BYTES]>,
    at: usize,
    fill: fn(&mut [u8]),
}

impl Keys {
    /// A supply that draws from `fill`.
    pub fn new(fill: fn(&mut [u8])) -> Self {
        Self { pool: Box::new([0; BATCH_BYTES]), at: BATCH_BYTES, fill }
    }

    /// From the operating system's generator.
    pub fn from_system() -> Self {
        use ring::rand::SecureRandom as _;
        Self::new(|octets| {
            ring::rand::SystemRandom::new().fill(octets).expect("the kernel's generator is ready once it has booted");
        })
    }

    /// A masking key that is not zero.
    pub fn next_key(&mut self) -> [u8; 4] {
        loop {
            let key = self.next_octets();
            if key != [0; 4] {
                return key;
            }
        }
    }

    /// `N` octets, at most a batch.
    pub fn next_octets<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= BATCH_BYTES) };
        if self.at + N > BATCH_BYTES {
            (self.fill)(&mut self.pool[..]);
            self.at = 0;
        }
        let mut octets = [0; N];
        octets.copy_from_slice(&self.pool[self.at..self.at + N]);
        // What has been given out is forgotten.
        self.pool[self.at..self.at + N].fill(0);
        self.at += N;
        octets
    }

    /// A number below `bound`, which is at least 1; slightly uneven for bounds near 2^64, which no caller has.
    pub fn below(&mut self, bound: u64) -> u64 {
        u64::from_le_bytes(self.next_octets()) % bound.max(1)
    }
}
