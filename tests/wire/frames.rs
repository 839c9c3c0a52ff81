//! RFC 6455 §5: the specification's own frames first, then every way to break a header.

use proto::ws::Sender::{self, Client, Server};
use proto::ws::frame::parse;
use proto::ws::{FrameHeader, Opcode, Parse, Violation, mask};

/// The header means this, is written the same, and its payload unmasks to this.
fn check(sender: Sender, bytes: &[u8], opcode: Opcode, fin: bool, payload: &[u8]) {
    let Ok(Parse::Complete(header, used)) = parse(bytes, sender, false) else { panic!("{bytes:x?}") };
    assert_eq!((header.opcode, header.fin, header.length), (opcode, fin, payload.len() as u64), "{bytes:x?}");
    let (encoded, length) = header.encode();
    assert_eq!(encoded[..length], bytes[..used], "{bytes:x?}");
    let mut got = bytes[used..].to_vec();
    if let Some(key) = header.mask {
        mask::apply(&mut got, key, 0);
    }
    assert_eq!(got, payload, "{bytes:x?}");
}

#[test]
fn rfc_6455_5_7_examples() {
    check(Server, b"\x81\x05Hello", Opcode::Text, true, b"Hello");
    check(Client, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", Opcode::Text, true, b"Hello");
    check(Server, b"\x01\x03Hel", Opcode::Text, false, b"Hel");
    check(Server, b"\x80\x02lo", Opcode::Continuation, true, b"lo");
    check(Server, b"\x89\x05Hello", Opcode::Ping, true, b"Hello");
    check(Client, b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", Opcode::Pong, true, b"Hello");
    let binary = [b"\x82\x7e\x01\x00".as_slice(), &[7; 256]].concat();
    check(Server, &binary, Opcode::Binary, true, &[7; 256]);
    let binary = [b"\x82\x7f\0\0\0\0\0\x01\0\0".as_slice(), &[7; 65536]].concat();
    check(Server, &binary, Opcode::Binary, true, &[7; 65536]);
}

#[test]
fn lengths_at_their_borders() {
    for (bytes, length) in [
        (b"\x82\x00".as_slice(), 0),
        (b"\x82\x7d", 125),
        (b"\x82\x7e\x00\x7e", 126),
        (b"\x82\x7e\xff\xff", 65535),
        (b"\x82\x7f\0\0\0\0\0\x01\0\0", 65536),
        (b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX as u64),
    ] {
        let header = FrameHeader { fin: true, rsv1: false, opcode: Opcode::Binary, mask: None, length };
        assert_eq!(parse(bytes, Server, false), Ok(Parse::Complete(header, bytes.len())));
        let (encoded, used) = header.encode();
        assert_eq!(&encoded[..used], bytes);
    }
}

#[test]
fn headers_that_break_a_rule_are_refused_as_soon_as_it_shows() {
    for (sender, bytes, violation) in [
        (Client, b"\xc1".as_slice(), Violation::ReservedBit),
        (Client, b"\xa1", Violation::ReservedBit),
        (Client, b"\x91", Violation::ReservedBit),
        (Client, b"\x83", Violation::ReservedOpcode),
        (Client, b"\x87", Violation::ReservedOpcode),
        (Client, b"\x8b", Violation::ReservedOpcode),
        (Client, b"\x8f", Violation::ReservedOpcode),
        (Client, b"\x09", Violation::FragmentedControl),
        (Client, b"\x08", Violation::FragmentedControl),
        (Client, b"\x81\x05", Violation::Unmasked),
        (Server, b"\x81\x85", Violation::Masked),
        (Client, b"\x89\xfe", Violation::LongControl),
        (Server, b"\x88\x7e", Violation::LongControl),
        (Server, b"\x88\x7f", Violation::LongControl),
        (Server, b"\x82\x7e\x00\x7d", Violation::BadLength),
        (Server, b"\x82\x7f\0\0\0\0\0\0\xff\xff", Violation::BadLength),
        (Server, b"\x82\x7f\x80\0\0\0\0\0\0\0", Violation::BadLength),
        (Server, b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", Violation::BadLength),
    ] {
        assert_eq!(parse(bytes, sender, false), Err(violation), "{bytes:x?}");
    }
}

#[test]
fn the_compression_bit_stands_on_first_data_fragments_only() {
    assert!(matches!(parse(b"\xc1\x05", Server, true), Ok(Parse::Complete(FrameHeader { rsv1: true, .. }, 2))));
    for bytes in [b"\xc0\x05".as_slice(), b"\xc9\x05", b"\xc8\x00"] {
        assert_eq!(parse(bytes, Server, true), Err(Violation::ReservedBit), "{bytes:x?}");
    }
}
