//! UTF-8 across pieces.

use proptest::prelude::*;
use proto::ws::{Utf8, Violation};

/// Octets that make characters of every length, and errors.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        6 => any::<char>().prop_map(|character| character.to_string().into_bytes()),
        2 => "[a-z]{0,100}".prop_map(String::into_bytes),
        1 => prop::collection::vec(prop::sample::select(vec![0x7f, 0x80, 0xbf, 0xc0, 0xc2, 0xe0, 0xed, 0xf0, 0xf4, 0xff]), 1..3),
    ];
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn it_agrees_with_the_standard_library_wherever_it_is_cut(
        message in messages(),
        lengths in prop::collection::vec(0..9_usize, 1..8),
    ) {
        let whole = std::str::from_utf8(&message).map(|_| ()).map_err(|_| Violation::NotUtf8);
        let mut check = Utf8::new();
        let mut rest = message.as_slice();
        let mut lengths = lengths.into_iter().chain([1]).cycle();
        let in_pieces = loop {
            if rest.is_empty() {
                break check.finish();
            }
            let (piece, tail) = rest.split_at(lengths.next().unwrap_or(1).min(rest.len()));
            rest = tail;
            if let Err(violation) = check.feed(piece) {
                break Err(violation);
            }
        };
        prop_assert_eq!(in_pieces, whole);
    }

    #[test]
    fn it_fails_at_the_first_octet_that_cannot_be_continued(message in messages()) {
        let mut check = Utf8::new();
        for (at, octet) in message.iter().enumerate() {
            let hopeless = std::str::from_utf8(&message[..=at]).is_err_and(|error| error.error_len().is_some());
            prop_assert_eq!(check.feed(&[*octet]).is_err(), hopeless, "octet {}", at);
            if hopeless {
                break;
            }
        }
    }
}
