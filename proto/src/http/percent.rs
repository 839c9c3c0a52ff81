//! Percent-encoding, RFC 3986 §2.1: an octet as `%` and two hexadecimal digits.
//!
//! Which characters need it, and what a `+` means, depends on the place: the callers say.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The octets that a text stands for; `None` where a `%` is not followed by two digits.
pub fn decode(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    read(text, false)
}

/// The octets that a text stands for; what is no escape stands for itself.
pub fn decode_leniently(text: &[u8]) -> Cow<'_, [u8]> {
    read(text, true).unwrap_or(Cow::Borrowed(text))
}

/// A value of a form or query (`application/x-www-form-urlencoded`), in which `+` is a blank; `None` where it is no text.
pub fn decode_form(text: &[u8]) -> Option<String> {
    let blanks: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    String::from_utf8(decode(&blanks)?.into_owned()).ok()
}

/// Escapes all but the unreserved characters of RFC 3986 §2.3 and those that are to be `kept`.
pub fn encode(octets: &[u8], kept: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(octets.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || kept.contains(byte) {
            encoded.push(char::from(*byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

fn read(text: &[u8], is_lenient: bool) -> Option<Cow<'_, [u8]>> {
    if !text.contains(&b'%') {
        return Some(Cow::Borrowed(text));
    }
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        rest = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                octets.push((high * 16 + low) as u8);
                &after[2..]
            }
            (b'%', ..) if !is_lenient => return None,
            _ => {
                octets.push(first);
                after
            }
        };
    }
    Some(Cow::Owned(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_strictly_or_leniently() {
        for (text, strict, lenient) in [
            ("", Some(""), ""),
            ("a+b", Some("a+b"), "a+b"),
            ("%41%2b%2B", Some("A++"), "A++"),
            ("%", None, "%"),
            ("a%4", None, "a%4"),
            ("%4g", None, "%4g"),
            ("%%41", None, "%A"),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), strict.map(str::as_bytes), "{text}");
            assert_eq!(&*decode_leniently(text.as_bytes()), lenient.as_bytes(), "{text}");
        }
    }

    #[test]
    fn a_form_has_blanks_and_is_text() {
        assert_eq!(decode_form(b"a+b%2B%C3%BC").as_deref(), Some("a b+\u{fc}"));
        assert_eq!((decode_form(b"%ff"), decode_form(b"%")), (None, None));
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(encode(&every, b"").as_bytes()).as_deref(), Some(&every[..]));
        assert_eq!(encode(b"a-._~:/\n", b":"), "a-._~:%2F%0A");
    }
}
