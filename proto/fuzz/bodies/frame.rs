//! A frame header: the answer does not depend on what follows it, and what is read is written the same.

use proto::ws::frame::{Parse, parse};
use proto::ws::{ClosePayload, Sender, mask};

/// First byte: who sends, and whether RSV1 has a meaning. The rest: the stream.
pub fn run(bytes: &[u8]) {
    let Some((&choice, stream)) = bytes.split_first() else { return };
    let sender = if choice & 1 == 0 { Sender::Client } else { Sender::Server };
    let rsv1_allowed = choice & 2 != 0;
    let whole = parse(stream, sender, rsv1_allowed);
    for cut in 0..stream.len().min(16) {
        match parse(&stream[..cut], sender, rsv1_allowed) {
            Ok(Parse::Partial { need }) => assert!(need > cut),
            answer => assert_eq!(answer, whole, "cut at {cut}"),
        }
    }
    let Ok(Parse::Complete(header, used)) = whole else { return };
    let (encoded, length) = header.encode();
    assert_eq!(&encoded[..length], &stream[..used]);
    let mut payload = stream[used..].to_vec();
    payload.truncate(usize::try_from(header.length).unwrap_or(usize::MAX));
    if let Some(key) = header.mask {
        let masked = payload.clone();
        mask::apply(&mut payload, key, usize::from(choice));
        let mut again = payload.clone();
        mask::apply_bytewise(&mut again, key, usize::from(choice));
        assert_eq!(again, masked, "masking twice is the identity");
    }
    if let Ok(ClosePayload::Code(code, _)) = ClosePayload::parse(&payload) {
        assert!(code.may_be_sent());
    }
}
