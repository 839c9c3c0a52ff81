//! The server name that a client asks for, read from its ClientHello for the log: rustls does not tell it.
//!
//! Nothing is decided by it. What rustls accepts is sound; what is not is `None` here.

/// The name in the first server_name extension of a ClientHello, its record headers included (RFC 8446 §4.1.2, RFC 6066
/// §3).
pub fn server_name(records: &[u8]) -> Option<Box<str>> {
    let mut hello = Vec::with_capacity(records.len());
    let mut left = records;
    while let [22, _, _, a, b, rest @ ..] = left {
        let (fragment, behind) = rest.split_at_checked(usize::from(u16::from_be_bytes([*a, *b])))?;
        hello.extend_from_slice(fragment);
        left = behind;
    }
    let mut reader = Reader(&hello);
    // Kind and length of the message, version, random.
    reader.take(1 + 3 + 2 + 32)?;
    reader.vector(1)?; // session id
    reader.vector(2)?; // cipher suites
    reader.vector(1)?; // compression methods
    let mut extensions = Reader(reader.vector(2)?);
    loop {
        let kind = extensions.number(2)?;
        let content = extensions.vector(2)?;
        if kind == 0 {
            let mut names = Reader(Reader(content).vector(2)?);
            // The only kind of name that there is.
            let name = (names.number(1)? == 0).then(|| names.vector(2))??;
            return std::str::from_utf8(name).ok().map(str::to_ascii_lowercase).map(Into::into);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What stands behind its length, which takes so many bytes.
    fn vector(&mut self, length_bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(length_bytes)?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found_wherever_the_records_end() {
        let mut extensions = vec![0, 10, 0, 2, 0, 0];
        extensions.extend_from_slice(&[0, 0, 0, 14, 0, 12, 0, 0, 9]);
        extensions.extend_from_slice(b"Chat.test");
        let mut hello = vec![1, 0, 0, 0, 3, 3];
        hello.extend_from_slice(&[7; 32]);
        hello.extend_from_slice(&[1, 0, 0, 2, 0x13, 1, 1, 0, 0, extensions.len() as u8]);
        hello.extend_from_slice(&extensions);
        for cut in 1..hello.len() {
            let mut records = Vec::new();
            for fragment in [&hello[..cut], &hello[cut..]] {
                records.extend_from_slice(&[22, 3, 1, 0, fragment.len() as u8]);
                records.extend_from_slice(fragment);
            }
            assert_eq!(server_name(&records).as_deref(), Some("chat.test"), "{cut}");
            for end in 0..records.len() {
                let _ = server_name(&records[..end]);
            }
        }
        assert_eq!(server_name(b"GET / HTTP/1.1"), None);
    }
}
