//! Looks for secrets in what was written: as they are, and in every way in which a program writes bytes by accident.
//!
//! What is looked for is made of the secret (Base64 in both alphabets at each of its three alignments, hexadecimal, lists
//! of numbers); what is looked in is also read with its escapes taken back and its lines joined. It does not know who may
//! have which secret: that is the story's business.

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// As many bytes of anything must be at hand to look for it: fewer are found by chance.
const HEAD: usize = 8;

/// Everything that must not be found, each with what it is.
#[derive(Default)]
pub struct Secrets {
    /// What it is, in which form, and the bytes.
    needles: Vec<(String, &'static str, Vec<u8>)>,
    /// Needles by their first bytes.
    by_head: HashMap<[u8; HEAD], Vec<usize>>,
    /// The first two bytes of any needle: most places are none.
    begins: Vec<bool>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} needles", self.needles.len())
    }
}

/// What was found, where in the bytes, and around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub what: String,
    /// How the secret was written, and how the place was read.
    pub form: String,
    pub around: String,
}

impl Secrets {
    pub fn new() -> Self {
        Self { begins: vec![false; 1 << 16], ..Self::default() }
    }

    /// A text that nobody may read.
    pub fn add(&mut self, what: &str, secret: &str) {
        self.add_bytes(what, secret.as_bytes());
    }

    /// Bytes that nobody may read.
    pub fn add_bytes(&mut self, what: &str, secret: &[u8]) {
        assert!(secret.len() >= 10, "{what} is too short to be looked for");
        self.put(what, "as it is", secret.to_vec());
        for (form, engine) in [("in Base64", &STANDARD), ("in base64url", &URL_SAFE)] {
            for shift in 0..3 {
                self.put(what, form, aligned(&engine.encode([&vec![0; shift], secret].concat()), shift, secret.len()));
            }
        }
        let joined = |each: fn(&u8) -> String, between: &str| -> Vec<u8> {
            secret.iter().map(each).collect::<Vec<_>>().join(between).into_bytes()
        };
        self.put(what, "in hexadecimal digits", joined(|byte| format!("{byte:02x}"), ""));
        self.put(what, "in hexadecimal capitals", joined(|byte| format!("{byte:02X}"), ""));
        self.put(what, "as a list of numbers", joined(u8::to_string, ", "));
        self.put(what, "as a list of numbers without blanks", joined(u8::to_string, ","));
    }

    /// A token, and its signature alone: that is what makes it one.
    pub fn add_token(&mut self, what: &str, token: &str) {
        self.add(what, token);
        if let [_, _, signature] = token.split('.').collect::<Vec<_>>()[..]
            && !signature.is_empty()
        {
            self.add(&format!("the signature of {what}"), signature);
        }
    }

    /// The private half of a key as PKCS #8: what of it is nowhere in the public half.
    pub fn add_private_key(&mut self, what: &str, pkcs8: &[u8]) {
        let parts: Vec<&[u8]> = match pkcs8.len() {
            // RFC 8410 §7: the seed of Ed25519, without or with the public key behind it.
            48..=85 => vec![&pkcs8[16..48]],
            // RFC 5915 §3: the number of P-256, before the public key.
            138 => vec![&pkcs8[36..68]],
            // RFC 8017 §A.1.2: behind the modulus come only numbers that nobody else may have.
            length => {
                assert!(length > 1000, "{what} is of no kind that is known here: {length} bytes");
                pkcs8[320..].chunks_exact(32).collect()
            }
        };
        parts.iter().for_each(|part| self.add_bytes(what, part));
    }

    fn put(&mut self, what: &str, form: &'static str, needle: Vec<u8>) {
        let head: [u8; HEAD] = needle[..HEAD].try_into().expect("as many bytes as asked for");
        self.begins[usize::from(u16::from_be_bytes([head[0], head[1]]))] = true;
        self.by_head.entry(head).or_default().push(self.needles.len());
        self.needles.push((what.into(), form, needle));
    }

    /// The same but for those that this place has by its nature.
    pub fn except(&self, is_meant: impl Fn(&str) -> bool) -> Self {
        let mut others = Self::new();
        for (what, form, needle) in self.needles.iter().filter(|(what, ..)| !is_meant(what)) {
            others.put(what, form, needle.clone());
        }
        others
    }

    /// The first secret that stands in these bytes.
    pub fn find(&self, bytes: &[u8]) -> Option<Found> {
        self.find_all(bytes).into_iter().next()
    }

    /// Every secret that stands in these bytes, once each.
    pub fn find_all(&self, bytes: &[u8]) -> Vec<Found> {
        let mut all = Vec::new();
        for (reading, bytes) in readings(bytes) {
            self.find_plain(reading, &bytes, &mut all);
        }
        all
    }

    fn find_plain(&self, reading: &str, bytes: &[u8], all: &mut Vec<Found>) {
        for (at, head) in bytes.array_windows::<HEAD>().enumerate() {
            if !self.begins[usize::from(u16::from_be_bytes([head[0], head[1]]))] {
                continue;
            }
            let needles = self.by_head.get(head).into_iter().flatten().map(|needle| &self.needles[*needle]);
            for (what, form, _) in needles.filter(|(.., needle)| bytes[at..].starts_with(needle)) {
                if all.iter().all(|found| found.what != *what) {
                    let around = &bytes[at.saturating_sub(200)..(at + 80).min(bytes.len())];
                    let (form, around) = (format!("{form}, {reading}"), around.escape_ascii().to_string());
                    all.push(Found { what: what.clone(), form, around });
                }
            }
        }
    }

    /// Panics with what was found, and where.
    #[track_caller]
    pub fn expect_none(&self, place: &str, bytes: &[u8]) {
        if let Some(Found { what, form, around }) = self.find(bytes) {
            panic!("{place} holds {what} ({form}): {around}");
        }
    }
}

/// The characters of a Base64 text that depend on `length` bytes behind the first `shift` alone.
fn aligned(text: &str, shift: usize, length: usize) -> Vec<u8> {
    let (start, end) = ((shift * 8).div_ceil(6), (shift + length) * 8 / 6);
    text.as_bytes()[start..end].to_vec()
}

/// The bytes, and what they are to somebody who takes escapes back or does not mind the ends of lines.
fn readings(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut readings = vec![("plainly", bytes.to_vec())];
    let (percent, bare) = (unescaped(bytes, b"%", false), without_backslashes(bytes));
    for (reading, text) in [
        ("with percent signs taken back", percent.clone()),
        ("with percent signs taken back twice", unescaped(&percent, b"%", false)),
        ("as a form", unescaped(bytes, b"%", true)),
        ("with backslashes taken back", unescaped(&bare, b"\\x", false)),
        ("with backslashes taken back twice", unescaped(&without_backslashes(&bare), b"\\x", false)),
        ("with lines joined", without_line_ends(bytes)),
    ] {
        if readings.iter().all(|(_, other)| *other != text) {
            readings.push((reading, text));
        }
    }
    readings
}

/// With two hexadecimal digits behind `mark` as the byte that they mean; in a form a plus sign is a blank.
fn unescaped(bytes: &[u8], mark: &[u8], is_form: bool) -> Vec<u8> {
    let (mut text, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let [first, after @ ..] = rest {
        let digits = rest.strip_prefix(mark).and_then(|rest| rest.get(..2));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                text.push(byte);
                rest = &rest[mark.len() + 2..];
            }
            None => {
                text.push(if is_form && *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    text
}

/// Without those backslashes that only say that the next character is itself.
fn without_backslashes(bytes: &[u8]) -> Vec<u8> {
    let (mut text, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let [first, after @ ..] = rest {
        rest = match rest {
            [b'\\', next @ (b'\\' | b'"' | b'\'' | b'/'), after @ ..] => {
                text.push(*next);
                after
            }
            _ => {
                text.push(*first);
                after
            }
        };
    }
    text
}

/// As PEM and JSON have them: ends of lines, and ends of lines that are escaped.
fn without_line_ends(bytes: &[u8]) -> Vec<u8> {
    let (mut text, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let [first, after @ ..] = rest {
        rest = match rest {
            [b'\\', b'n' | b'r', after @ ..] => after,
            _ => {
                if !matches!(first, b'\n' | b'\r') {
                    text.push(*first);
                }
                after
            }
        };
    }
    text
}
