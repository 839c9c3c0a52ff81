//! A response head: split anywhere it reads the same, and what is relayed of it is a sound head again.

use proto::http::{BodyLength, ResponseHead, ResponseScan, write_relayed_head};
use proto::parse::Parse;

/// First byte: where the stream is cut. The rest: the stream.
pub fn run(bytes: &[u8]) {
    let Some((&step, stream)) = bytes.split_first() else { return };
    let whole = ResponseHead::parse(stream);
    let mut scan = ResponseScan::new();
    let mut end = 0;
    let in_pieces = loop {
        end = (end + usize::from(step) + 1).min(stream.len());
        match scan.feed(&stream[..end]) {
            Ok(Parse::Partial { need }) if end < stream.len() => assert!(need > end),
            answer => break answer,
        }
    };
    assert_eq!(in_pieces, whole);
    let Ok(Parse::Complete(head, _)) = whole else { return };
    let view = head.view(stream);
    if view.status() == 101 {
        return;
    }
    let mut out = Vec::new();
    let body = write_relayed_head(&mut out, &view, &[("x-ours", "1")]).expect("a sound head is written");
    // A head that barely fits may not fit with our own fields.
    let Ok(Parse::Complete(relayed, length)) = ResponseHead::parse(&out) else {
        assert!(head.length() + 128 > proto::limits::HEAD_BYTES_MAX || view.headers().count() + 4 > 100);
        return;
    };
    assert_eq!((length, relayed.status()), (out.len(), view.status()));
    let relayed = relayed.view(&out);
    assert_eq!(relayed.body_length(), if body == BodyLength::None { relayed.body_length() } else { body });
    assert_eq!(relayed.header_values("x-ours").collect::<Vec<_>>(), [b"1"]);
    assert_eq!(relayed.header_values("connection").count(), 1);
    assert!(relayed.fields().lists("connection", "close"));
    assert!(relayed.header("keep-alive").is_none() && relayed.header("sec-websocket-accept").is_none());
}
