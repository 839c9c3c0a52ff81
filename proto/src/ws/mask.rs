//! Masking, RFC 6455 §5.3: octet i of the payload is XORed with octet i mod 4 of the key.

/// XORs `payload` in place with `key`, `phase` being the payload's offset within its frame, modulo 4.
/// Returns the phase of the octet that follows. The plain form is [`apply_bytewise`]; a property says they agree.
pub fn apply(payload: &mut [u8], key: [u8; 4], phase: usize) -> usize {
    let key = rotated(key, phase);
    // Sixteen octets at a time: wide enough for the compiler to use vectors, aligned to the key by construction.
    let wide = u128::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3], key[0], key[1],
        key[2], key[3],
    ]);
    let mut chunks = payload.chunks_exact_mut(16);
    for chunk in &mut chunks {
        let mut octets = [0; 16];
        octets.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u128::from_ne_bytes(octets) ^ wide).to_ne_bytes());
    }
    for (octet, key) in chunks.into_remainder().iter_mut().zip(key.into_iter().cycle()) {
        *octet ^= key;
    }
    (phase + payload.len()) % 4
}

/// The key as seen by a payload that begins at `phase`.
pub fn rotated(key: [u8; 4], phase: usize) -> [u8; 4] {
    std::array::from_fn(|index| key[(phase + index) % 4])
}

/// The specification's sentence as code: the plain form of [`apply`].
pub fn apply_bytewise(payload: &mut [u8], key: [u8; 4], phase: usize) -> usize {
    for (index, octet) in payload.iter_mut().enumerate() {
        *octet ^= key[(phase + index) % 4];
    }
    (phase + payload.len()) % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6455_example_is_unmasked() {
        let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply(&mut payload, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&payload, b"Hello");
    }

    #[test]
    fn the_wide_form_agrees_with_the_plain_one_at_every_length_and_phase() {
        for length in 0..70 {
            for phase in 0..4 {
                let mut wide: Vec<u8> = (0..length).map(|octet| octet as u8 * 3).collect();
                let mut plain = wide.clone();
                let key = [1, 2, 0xff, 0x80];
                assert_eq!(apply(&mut wide, key, phase), apply_bytewise(&mut plain, key, phase));
                assert_eq!(wide, plain, "{length} octets at phase {phase}");
            }
        }
    }
}
