//! The UTF-8 check: wherever it is cut it agrees with the standard library, and fails no later than it could.

use proto::ws::{Utf8, Violation};

/// First byte: the length of the pieces. The rest: the message.
pub fn run(bytes: &[u8]) {
    let Some((&step, message)) = bytes.split_first() else { return };
    let whole = std::str::from_utf8(message);
    let mut check = Utf8::new();
    let mut sound = 0;
    for piece in message.chunks(usize::from(step) + 1) {
        // A prefix is hopeless when its own error is not just that it ends too early.
        let hopeless =
            std::str::from_utf8(&message[..sound + piece.len()]).is_err_and(|error| error.error_len().is_some());
        assert_eq!(check.feed(piece), if hopeless { Err(Violation::NotUtf8) } else { Ok(()) });
        if hopeless {
            assert!(whole.is_err());
            return;
        }
        sound += piece.len();
    }
    assert_eq!(check.finish().is_ok(), whole.is_ok());
    assert_eq!(check, Utf8::new());
}
