//! UTF-8 across the frames and reads of one message, RFC 6455 §8.1.
//!
//! Fails at the first octet that nothing can make whole again, not at the end of the message. Keeps at most the three
//! octets of a character that is not complete.

use super::violation::Violation;

/// The check of one text message. Feed it the unmasked payload in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Utf8 {
    /// The octets of a character that has begun.
    begun: [u8; 3],
    /// How many of them there are.
    length: u8,
}

impl Utf8 {
    /// Before the first octet.
    pub const fn new() -> Self {
        Self { begun: [0; 3], length: 0 }
    }

    /// Checks the next piece.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Violation> {
        let mut rest = piece;
        while self.length > 0 {
            let Some((&octet, tail)) = rest.split_first() else { return Ok(()) };
            self.continue_with(octet)?;
            rest = tail;
        }
        match simdutf8::compat::from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(Violation::NotUtf8),
            Err(error) => {
                let begun = &rest[error.valid_up_to()..];
                self.begun[..begun.len()].copy_from_slice(begun);
                self.length = begun.len() as u8;
                Ok(())
            }
        }
    }

    /// Checks that the message does not end inside a character, and makes ready for the next one.
    pub fn finish(&mut self) -> Result<(), Violation> {
        let whole = self.length == 0;
        *self = Self::new();
        if whole { Ok(()) } else { Err(Violation::NotUtf8) }
    }

    fn continue_with(&mut self, octet: u8) -> Result<(), Violation> {
        let length = usize::from(self.length);
        let mut character = [0; 4];
        character[..length].copy_from_slice(&self.begun[..length]);
        character[length] = octet;
        match std::str::from_utf8(&character[..=length]) {
            Ok(_) => self.length = 0,
            Err(error) if error.error_len().is_some() => return Err(Violation::NotUtf8),
            Err(_) => {
                // Four octets are a character or an error, so one that is still incomplete has at most three.
                self.begun[length] = octet;
                self.length += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_may_be_cut_anywhere() {
        let text = "κόσμε 𐍈 €".as_bytes();
        for cut in 0..=text.len() {
            let mut check = Utf8::new();
            assert_eq!(check.feed(&text[..cut]), Ok(()));
            assert_eq!(check.feed(&text[cut..]), Ok(()));
            assert_eq!(check.finish(), Ok(()));
        }
    }

    #[test]
    fn the_first_octet_that_cannot_be_continued_fails() {
        for (sound, bad) in [
            (b"\xce\xba\xf4".as_slice(), 0x90), // above U+10FFFF, Autobahn 6.4
            (b"\xed", 0xa0),                    // a surrogate
            (b"\xe0", 0x80),                    // overlong
            (b"\xf0", 0x80),
            (b"", 0xff),
            (b"", 0xc0),
            (b"\xe2\x82", b'a'),
        ] {
            let mut check = Utf8::new();
            assert_eq!(check.feed(sound), Ok(()), "{sound:x?}");
            assert_eq!(check.feed(&[bad]), Err(Violation::NotUtf8), "{sound:x?} {bad:x}");
        }
    }

    #[test]
    fn a_message_does_not_end_inside_a_character() {
        let mut check = Utf8::new();
        assert_eq!(check.feed(b"\xe2\x82"), Ok(()));
        assert_eq!(check.finish(), Err(Violation::NotUtf8));
        assert_eq!(check.feed(b"next"), Ok(()));
        assert_eq!(check.finish(), Ok(()));
    }
}
