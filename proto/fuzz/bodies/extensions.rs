//! A list of extensions: within its ceilings, and what is read is written the same.

use proto::limits::EXTENSIONS_MAX;
use proto::ws::extension::{Extension, parse};

/// The values, one on each line.
pub fn run(bytes: &[u8]) {
    let Ok(extensions) = parse(bytes.split(|byte| *byte == b'\n')) else { return };
    assert!(!extensions.is_empty() && extensions.len() <= EXTENSIONS_MAX);
    for extension in &extensions {
        let Extension::Deflate(deflate) = extension else { continue };
        let written = deflate.to_string();
        assert_eq!(parse(std::iter::once(written.as_bytes())), Ok(vec![extension.clone()]), "{written}");
        if deflate.client_max_window_bits != Some(None) {
            assert!(deflate.answers(deflate), "{written}");
        }
    }
}
