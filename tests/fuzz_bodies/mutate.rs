//! Inputs that are nearly right: seeds with bytes flipped, cut, doubled, exchanged, and words of the protocols put in.
//!
//! Deterministic: the same seed gives the same inputs. It learns nothing from a run; that is the fuzzer's.

/// Words that a blind change of bytes would not find.
const WORDS: [&[u8]; 36] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b"\0",
    b": ",
    b", ",
    b"; ",
    b"=",
    b"\"",
    b"\\",
    b"..",
    b"/",
    b"//",
    b"%2e",
    b"%2f",
    b"?",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: ",
    b"Upgrade: h2c\r\n",
    b"Host: a\r\n",
    b"Sec-WebSocket-Protocol: chat\r\n",
    b"Sec-WebSocket-Extensions: ",
    b"permessage-deflate",
    b"server_max_window_bits",
    b"client_max_window_bits",
    b"X-Forwarded-For",
    b"0\r\n\r\n",
    b"\xff\xff",
    b"\x7f",
    b"\xf0\x90\x8d\x88",
    b"\xed\xa0\x80",
];

/// Bytes of the longest input: over every ceiling that a stream of bytes can reach.
const INPUT_BYTES_MAX: usize = 20 * 1024;

/// A source of inputs.
pub struct Mutator {
    state: u64,
    seeds: Vec<Vec<u8>>,
    input: Vec<u8>,
}

impl Mutator {
    /// `seeds` are not empty.
    pub fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        // xorshift stands still at 0.
        Self { state: seed | 1 << 63, seeds, input: Vec::new() }
    }

    /// The next input. One in sixteen is noise; the others begin as a seed, or as the last input.
    pub fn next(&mut self) -> &[u8] {
        match self.below(16) {
            0 => {
                let length = self.below(64);
                self.input = (0..length).map(|_| self.random() as u8).collect();
            }
            1..=7 if !self.input.is_empty() => {}
            _ => self.input = self.seed(),
        }
        for _ in 0..=self.below(4) {
            self.change();
        }
        self.input.truncate(INPUT_BYTES_MAX);
        &self.input
    }

    fn change(&mut self) {
        let length = self.input.len();
        let at = self.below(length + 1);
        let until = at + self.below((length - at).min(64) + 1);
        match self.below(8) {
            0 if at < length => self.input[at] = self.random() as u8,
            1 if at < length => self.input[at] ^= 1 << self.below(8),
            2 => drop(self.input.drain(at..until)),
            3 => {
                let copy = self.input[at..until].to_vec();
                let times = if self.below(16) == 0 { 200 } else { 1 };
                let to = self.below(length + 1);
                self.input.splice(to..to, copy.repeat(times));
            }
            4 => {
                let other = self.seed();
                let from = self.below(other.len() + 1);
                self.input.truncate(at);
                self.input.extend_from_slice(&other[from..]);
            }
            5 => self.input.truncate(at),
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                let over = until.min(at + self.below(2) * word.len());
                self.input.splice(at..over, word.iter().copied());
            }
        }
    }

    fn seed(&mut self) -> Vec<u8> {
        let at = self.below(self.seeds.len());
        self.seeds[at].clone()
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random() % bound as u64) as usize
    }

    /// xorshift64*.
    fn random(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
