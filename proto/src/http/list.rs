//! Tokens and comma-separated lists, RFC 9110 §5.6.
//!
//! Byte rules that every header of the handshake shares; what an element means is its header's business.

/// The elements of a list value, without the whitespace around them. Empty ones are passed over, as §5.6.1.2 asks.
/// A comma in a quoted string divides too: for lists of tokens.
pub fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|element| !element.is_empty())
}

/// Without the spaces and tabs at both ends.
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether it is a token, §5.6.2: not empty, and of these characters only.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

/// Whether a token may contain it.
pub const fn is_token_byte(byte: u8) -> bool {
    const TOKEN: [bool; 256] = token_table();
    TOKEN[byte as usize]
}

const fn token_table() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(
            byte as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
                | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
        );
        byte += 1;
    }
    table
}
