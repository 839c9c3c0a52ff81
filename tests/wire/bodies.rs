//! RFC 9112 §7.1: where a chunked body ends.

use proto::http::{ChunkFault, ChunkTracker, Chunked};
use proto::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

/// The same at once and in single bytes.
fn check(bytes: &[u8], expected: Result<Chunked, ChunkFault>) {
    assert_eq!(ChunkTracker::new().feed(bytes), expected, "{}", bytes.escape_ascii());
    let mut tracker = ChunkTracker::new();
    let mut answer = Ok(Chunked::More);
    for (at, byte) in bytes.iter().enumerate() {
        answer = tracker.feed(std::slice::from_ref(byte));
        match answer {
            Ok(Chunked::More) => {}
            Ok(Chunked::Ended(used)) => {
                assert_eq!(used, 1);
                answer = Ok(Chunked::Ended(at + 1));
                break;
            }
            Err(_) => break,
        }
    }
    assert_eq!(answer, expected, "in single bytes: {}", bytes.escape_ascii());
}

#[test]
fn bodies_end_with_their_last_chunk() {
    for (bytes, end) in [
        (b"0\r\n\r\n".as_slice(), Some(5)),
        (b"0\r\n\r\nnext", Some(5)),
        (b"5\r\nhello\r\n0\r\n\r\n", Some(15)),
        (b"A;x=\"y z\"\r\n0123456789\r\n000;last\r\nA: b\r\nC:\r\n\r\n", Some(45)),
        (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n!", Some(15)),
        (b"", None),
        (b"5\r\nhello\r\n0\r\n", None),
        (b"ffffffffffffffff\r\nx", None),
    ] {
        check(bytes, Ok(end.map_or(Chunked::More, Chunked::Ended)));
    }
}

#[test]
fn malformed_chunks_are_faults() {
    for bytes in [
        b"x".as_slice(),
        b"\r\n",
        b";",
        b" 5",
        b"5 ",
        b"0x5",
        b"-1",
        b"5\n",
        b"5\r\r",
        b"5\r\nhello\n",
        b"5\r\nhellox",
        b"11111111111111111",
        b"5;\x01",
        b"0\r\n \r\n",
        b"0\r\nA b",
        b"0\r\nA: b\n",
        b"0\r\n\rx",
        b"0\r\n: b",
        b"0\r\nA: \0",
    ] {
        check(bytes, Err(ChunkFault));
    }
}

#[test]
fn ceilings_of_chunk_lines_and_trailers_hold() {
    let line = |length: usize| format!("5;{}\r\nhello\r\n", "x".repeat(length));
    check(line(CHUNK_LINE_BYTES_MAX - 4).as_bytes(), Ok(Chunked::More));
    check(line(CHUNK_LINE_BYTES_MAX).as_bytes(), Err(ChunkFault));
    let trailer = |length: usize| format!("0\r\nA: {}\r\n\r\n", "x".repeat(length));
    check(trailer(TRAILER_BYTES_MAX - 7).as_bytes(), Ok(Chunked::Ended(TRAILER_BYTES_MAX + 3)));
    check(trailer(TRAILER_BYTES_MAX - 6).as_bytes(), Err(ChunkFault));
    check(format!("0\r\n{}", "A: b\r\n".repeat(TRAILER_BYTES_MAX)).as_bytes(), Err(ChunkFault));
    // A long body of small chunks is as long as it likes.
    check(&b"1\r\nx\r\n".repeat(2000), Ok(Chunked::More));
}
