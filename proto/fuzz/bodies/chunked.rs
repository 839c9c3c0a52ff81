//! A chunked body: cut anywhere it ends at the same byte, where a plain reading of the grammar ends too.

use proto::http::{ChunkTracker, Chunked};

/// First byte: the length of the pieces. The rest: the body, and what follows it.
pub fn run(bytes: &[u8]) {
    let Some((&step, body)) = bytes.split_first() else { return };
    let whole = ChunkTracker::new().feed(body);
    let mut tracker = ChunkTracker::new();
    let mut before = 0;
    let mut in_pieces = Ok(Chunked::More);
    for piece in body.chunks(usize::from(step) + 1) {
        in_pieces = tracker.feed(piece);
        match in_pieces {
            Ok(Chunked::More) => before += piece.len(),
            Ok(Chunked::Ended(used)) => {
                assert_eq!(tracker.feed(b"more"), Ok(Chunked::Ended(0)));
                in_pieces = Ok(Chunked::Ended(before + used));
                break;
            }
            Err(_) => break,
        }
    }
    assert_eq!(in_pieces, whole);
    if let Ok(Chunked::Ended(end)) = whole {
        assert_eq!(plain(body), Some(end));
    }
}

/// The grammar as a sentence: chunks until one of size zero, then lines until an empty one.
fn plain(body: &[u8]) -> Option<usize> {
    let line_end = |from: usize| body[from..].windows(2).position(|pair| pair == b"\r\n").map(|at| from + at);
    let mut at = 0;
    loop {
        let end = line_end(at)?;
        let digits = body[at..end].split(|byte| *byte == b';').next()?;
        let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        at = end + 2;
        if size == 0 {
            break;
        }
        at = at.checked_add(usize::try_from(size).ok()?)?.checked_add(2)?;
    }
    loop {
        let end = line_end(at)?;
        if end == at {
            return Some(end + 2);
        }
        at = end + 2;
    }
}
