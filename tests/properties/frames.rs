//! Frame headers and masking.

use proptest::prelude::*;
use proto::limits::{CONTROL_PAYLOAD_MAX, FRAME_PAYLOAD_MAX};
use proto::ws::frame::{parse, write_control};
use proto::ws::{FrameHeader, Opcode, Parse, Sender, mask};

fn opcodes() -> impl Strategy<Value = Opcode> {
    use Opcode::*;
    prop::sample::select(vec![Continuation, Text, Binary, Close, Ping, Pong])
}

prop_compose! {
    /// A header that its sender may send.
    fn headers()(
        opcode in opcodes(),
        fin in any::<bool>(),
        rsv1 in any::<bool>(),
        mask in any::<Option<[u8; 4]>>(),
        length in prop_oneof![0..=130_u64, 65_530..=65_540_u64, 0..=FRAME_PAYLOAD_MAX],
    ) -> FrameHeader {
        let control = opcode.is_control();
        FrameHeader {
            fin: fin || control,
            rsv1: rsv1 && matches!(opcode, Opcode::Text | Opcode::Binary),
            opcode,
            mask,
            length: if control { length % (CONTROL_PAYLOAD_MAX as u64 + 1) } else { length },
        }
    }
}

fn sender(header: &FrameHeader) -> Sender {
    if header.mask.is_some() { Sender::Client } else { Sender::Server }
}

proptest! {
    #[test]
    fn a_header_that_is_written_is_read_the_same(header in headers(), behind in any::<[u8; 4]>()) {
        let (encoded, length) = header.encode();
        let bytes = [&encoded[..length], &behind].concat();
        prop_assert_eq!(parse(&bytes, sender(&header), true), Ok(Parse::Complete(header, length)));
        for cut in 0..length {
            let partial = matches!(
                parse(&bytes[..cut], sender(&header), true),
                Ok(Parse::Partial { need }) if need > cut && need <= length
            );
            prop_assert!(partial, "cut at {}", cut);
        }
    }

    #[test]
    fn whatever_the_bytes_a_cut_changes_no_answer(
        bytes in prop::collection::vec(any::<u8>(), 0..20),
        server in any::<bool>(),
        rsv1_allowed in any::<bool>(),
    ) {
        let sender = if server { Sender::Server } else { Sender::Client };
        let whole = parse(&bytes, sender, rsv1_allowed);
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut], sender, rsv1_allowed) {
                Ok(Parse::Partial { need }) => prop_assert!(need > cut),
                answer => prop_assert_eq!(answer, whole),
            }
        }
    }

    #[test]
    fn masking_twice_is_the_identity_and_agrees_with_the_plain_form(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        key in any::<[u8; 4]>(),
        phase in 0..8_usize,
    ) {
        let (mut wide, mut plain) = (payload.clone(), payload.clone());
        let next = mask::apply(&mut wide, key, phase);
        prop_assert_eq!(next, mask::apply_bytewise(&mut plain, key, phase));
        prop_assert_eq!(next, (phase + payload.len()) % 4);
        prop_assert_eq!(&wide, &plain);
        mask::apply(&mut wide, key, phase);
        prop_assert_eq!(wide, payload);
    }

    #[test]
    fn masking_in_pieces_is_masking_at_once(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        key in any::<[u8; 4]>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut at_once = payload.clone();
        mask::apply(&mut at_once, key, 0);
        let mut in_pieces = payload;
        let cut = cut.index(in_pieces.len() + 1);
        let (first, second) = in_pieces.split_at_mut(cut);
        let phase = mask::apply(first, key, 0);
        mask::apply(second, key, phase);
        prop_assert_eq!(in_pieces, at_once);
    }

    #[test]
    fn control_frames_are_written_whole(
        payload in prop::collection::vec(any::<u8>(), 0..=CONTROL_PAYLOAD_MAX),
        mask in any::<Option<[u8; 4]>>(),
    ) {
        let mut out = b"before".to_vec();
        write_control(&mut out, Opcode::Ping, &payload, mask);
        let header = FrameHeader::control(Opcode::Ping, mask, payload.len());
        let Ok(Parse::Complete(read, used)) = parse(&out[6..], sender(&header), false) else { panic!() };
        prop_assert_eq!(read, header);
        let mut got = out[6 + used..].to_vec();
        if let Some(key) = mask {
            mask::apply(&mut got, key, 0);
        }
        prop_assert_eq!(got, payload);
    }
}
