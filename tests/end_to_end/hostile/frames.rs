//! Lies and rudeness behind the handshake: lengths, masks, codes, ends.

use std::time::{Duration, Instant};

use crate::kit::frame::LengthForm;
use crate::kit::{
    Frame, Gateway, Opcode, Peer, Random, RawUpstream, Setup, Upgrade, Variant, on_every_variant, on_single_legs,
};

on_every_variant!(
    lengths_near_the_end_of_the_number_line,
    announced_lengths_are_not_allocated,
    a_reserved_opcode_is_refused_before_its_payload,
    wrong_frames_of_the_upstream_reach_no_client,
    close_codes_and_reasons_are_checked_in_both_directions,
    close_codes_that_may_be_sent_pass_unchanged,
    predictable_masks_are_replaced,
    compressed_messages_pass_as_they_are,
    compression_parameters_out_of_range_are_not_negotiated,
    a_client_that_resets_releases_the_upstream,
    an_upstream_that_resets_releases_the_client,
    a_close_that_is_never_answered_ends_on_time,
    frames_cut_at_every_offset_are_the_same_frames,
);

on_single_legs!(
    close_codes_and_reasons_are_checked_in_both_directions,
    a_client_that_resets_releases_the_upstream,
    an_upstream_that_resets_releases_the_client,
    frames_cut_at_every_offset_are_the_same_frames,
);

fn chat(variant: Variant, members: &str) -> (Gateway, RawUpstream) {
    let upstream = RawUpstream::listen();
    let gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), members).start();
    (gateway, upstream)
}

/// Both ways round: first the client is the offender, then the upstream.
fn both_ways(gateway: &Gateway, upstream: &RawUpstream) -> [(Peer, Peer); 2] {
    let (client, backend) = gateway.session("/chat", upstream);
    let (other_client, other_backend) = gateway.session("/chat", upstream);
    [(client, backend), (other_backend, other_client)]
}

/// The other peer hears that its partner failed, and answers; then the offender hears why.
#[track_caller]
fn expect_verdict(offender: &mut Peer, other: &mut Peer, code: u16) {
    other.expect_close(1011);
    other.send_frame(&Frame::close(1011, ""));
    offender.expect_close(code);
}

const NO_CEILINGS: &str = "limits: { max_frame: 0, max_message: 0, control_frames_per_second: 0 }";

fn lengths_near_the_end_of_the_number_line(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, NO_CEILINGS);
    for length in [1 << 63, u64::MAX, u64::MAX - 13, (1 << 63) + 1] {
        for (mut offender, mut other) in both_ways(&gateway, &upstream) {
            let frame = Frame::binary("xy").length_form(LengthForm::Claimed(length));
            offender.send_frame(&frame);
            expect_verdict(&mut offender, &mut other, 1002);
        }
        gateway.probe();
    }
    // The largest that the RFC allows is a length like any other, even in two fragments that no number can add up.
    for (mut offender, mut other) in both_ways(&gateway, &upstream) {
        let largest = Frame::binary("xy").length_form(LengthForm::Claimed((1 << 63) - 1));
        let largest = offender.dressed(&largest);
        offender.send(&largest.encode());
        other.hear();
        offender.reset();
        other.rest();
        gateway.probe();
    }
}

fn announced_lengths_are_not_allocated(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, NO_CEILINGS);
    let mut sessions: Vec<_> = (0..50).map(|_| gateway.session("/chat", &upstream)).collect();
    let memory = gateway.rss_bytes();
    for (index, (client, backend)) in sessions.iter_mut().enumerate() {
        let terabyte = Frame::binary("").length_form(LengthForm::Claimed(1 << 40));
        if index % 2 == 0 { client.send_frame(&terabyte) } else { backend.send_frame(&terabyte) }
    }
    for (index, (client, backend)) in sessions.iter_mut().enumerate() {
        // The header alone may be passed on or kept; a byte of payload brings it out.
        let (from, to) = if index % 2 == 0 { (client, backend) } else { (backend, client) };
        from.send(b"x");
        to.hear();
    }
    let grown = gateway.rss_bytes().saturating_sub(memory);
    assert!(grown < 4 << 20, "{grown} bytes for 50 announced terabytes");
    gateway.probe();
}

fn a_reserved_opcode_is_refused_before_its_payload(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, NO_CEILINGS);
    for opcode in [3, 7, 11, 15] {
        for (mut offender, mut other) in both_ways(&gateway, &upstream) {
            offender.send_frame(&Frame::new(Opcode(opcode), "").length_form(LengthForm::Claimed(1 << 40)));
            expect_verdict(&mut offender, &mut other, 1002);
        }
        gateway.probe();
    }
}

fn wrong_frames_of_the_upstream_reach_no_client(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "");
    for frame in [
        Frame::text("masked").masked([1, 2, 3, 4]),
        Frame::text("reserved").reserved(4),
        Frame::new(Opcode(3), "opcode"),
        Frame::ping("fragmented").unfinished(),
        Frame::ping(vec![b'x'; 126]),
        Frame::continuation("of nothing"),
        Frame::text("long form").length_form(LengthForm::Eight),
    ] {
        let (mut client, mut backend) = gateway.session("/chat", &upstream);
        let head = client.received().len();
        backend.send(&frame.encode());
        assert_eq!(client.frame().close_code().map(|(code, _)| code), Some(1011));
        client.send_frame(&Frame::close(1011, ""));
        client.expect_end();
        // A close frame, and nothing else, has reached the client behind the 101.
        let behind = &client.received()[head..];
        assert_eq!(behind[0], 0x88, "{}", behind.escape_ascii());
        assert_eq!(behind.len(), 2 + usize::from(behind[1]), "{}", behind.escape_ascii());
        backend.expect_close(1002);
        gateway.probe();
    }
}

fn close_codes_and_reasons_are_checked_in_both_directions(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "");
    let wrong = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
        .map(|code| (Frame::close(code, ""), 1002))
        .into_iter()
        .chain([
            (Frame::new(Opcode::CLOSE, "x"), 1002),
            (
                Frame::new(Opcode::CLOSE, b"\x03\xe8\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80".to_vec()),
                1007,
            ),
            (Frame::new(Opcode::CLOSE, b"\x03\xe8\xff".to_vec()), 1007),
        ]);
    for (frame, code) in wrong {
        for (mut offender, mut other) in both_ways(&gateway, &upstream) {
            offender.send_frame(&frame);
            expect_verdict(&mut offender, &mut other, code);
        }
    }
    gateway.probe();
}

fn close_codes_that_may_be_sent_pass_unchanged(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "");
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        for (mut first, mut second) in both_ways(&gateway, &upstream) {
            first.send_frame(&Frame::close(code, "because"));
            assert_eq!(second.expect_close(code), "because");
            second.send_frame(&Frame::close(code, "then so be it"));
            assert_eq!(first.expect_close(code), "then so be it");
            first.finish();
            second.finish();
            first.expect_end();
            second.expect_end();
        }
    }
    // An empty close stays empty: 1005 is never on the wire.
    for (mut first, mut second) in both_ways(&gateway, &upstream) {
        first.send_frame(&Frame::new(Opcode::CLOSE, ""));
        second.expect(Opcode::CLOSE, b"");
        second.send_frame(&Frame::new(Opcode::CLOSE, ""));
        first.expect(Opcode::CLOSE, b"");
        first.expect_end();
        second.expect_end();
    }
    gateway.probe();
}

fn predictable_masks_are_replaced(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "");
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    let mut random = Random::announced("predictable_masks_are_replaced");
    let (one, two) = (random.key(), random.key());
    let mut previous = None;
    for (index, key) in [[0; 4], [0; 4], one, one, one, two, one, [0; 4], two].into_iter().enumerate() {
        let payload = random.bytes(random.clone().below(3000));
        client.send(&Frame::binary(payload.clone()).masked(key).encode());
        let heard = backend.frame();
        assert!(heard.payload == payload, "payload {index} was altered");
        let sent = heard.mask.expect("the upstream leg is masked");
        assert_ne!(sent, [0; 4], "frame {index}");
        assert_ne!(Some(sent), previous, "frame {index} repeats the key");
        let fresh = key == [0; 4] || (index > 0 && index < 5 && index != 2);
        if !fresh {
            assert_eq!(sent, key, "frame {index} had a key that was good");
        }
        previous = Some(sent);
    }
    // Control frames are no way around it.
    client.send(&Frame::ping("ping").masked([0; 4]).encode());
    let ping = backend.frame();
    assert_eq!((ping.opcode, ping.payload.as_slice()), (Opcode::PING, &b"ping"[..]));
    assert_ne!(ping.mask, Some([0; 4]));
    gateway.probe();

    let upstream = RawUpstream::listen();
    let setup = Setup::new(variant)
        .upstream(&format!("name: distrusted, endpoints: [{{ url: \"{}\" }}], mask: fresh", upstream.url("/")))
        .api("name: chat, context: /chat, endpoints: { production: { upstream: distrusted } }");
    let gateway = setup.start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    for length in [0, 1, 125, 5000, 100_000] {
        let (key, payload) = (random.key(), random.bytes(length));
        client.send(&Frame::binary(payload.clone()).masked(key).encode());
        let heard = backend.frame();
        assert!(heard.payload == payload, "payload of {length} was altered");
        assert_ne!(heard.mask, Some(key), "{length}");
    }
}

/// A message that inflates about a thousandfold, to 1 MiB of zeros: raw deflate behind RSV1 (RFC 7692 §7.2.1), one block
/// of fixed Huffman codes (RFC 1951 §3.2.6) written by hand, without the empty block that ends it.
fn bomb() -> Frame {
    let mut bits = vec![0, 1, 0];
    let code = |bits: &mut Vec<u8>, value: u32, length: u32| {
        bits.extend((0..length).rev().map(|bit| (value >> bit & 1) as u8))
    };
    code(&mut bits, 0b0011_0000, 8); // a zero
    for _ in 0..4064 {
        code(&mut bits, 0b1100_0101, 8); // the same again, 258 times
        code(&mut bits, 0, 5); // at distance 1
    }
    code(&mut bits, 0, 7); // the end of the block
    let bytes: Vec<u8> = bits.chunks(8).map(|byte| byte.iter().enumerate().map(|(at, bit)| bit << at).sum()).collect();
    Frame::new(Opcode::BINARY, bytes).reserved(4)
}

fn compressed_messages_pass_as_they_are(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "limits: { max_frame: 16KiB, max_message: 16KiB }");
    let memory = gateway.rss_bytes();
    let mut client = gateway.connect();
    client.send(
        &Upgrade::to("/chat").with("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits").encode(),
    );
    let mut backend = upstream.accept();
    let offer = backend.agree_with("Sec-WebSocket-Extensions: permessage-deflate\r\n");
    assert!(
        offer.header("Sec-WebSocket-Extensions").is_some_and(|value| value.starts_with("permessage-deflate")),
        "{offer}"
    );
    let answer = client.upgraded();
    assert_eq!(answer.header("Sec-WebSocket-Extensions"), Some("permessage-deflate"));
    let bomb = bomb();
    for _ in 0..100 {
        client.send_frame(&bomb);
        let heard = backend.frame();
        assert_eq!((heard.reserved, &heard.payload), (4, &bomb.payload));
        backend.send_frame(&bomb);
        assert_eq!(client.frame().payload, bomb.payload);
    }
    assert!(gateway.rss_bytes() < memory + (4 << 20));
    // The other reserved bits, and RSV1 inside a message or on a control frame, still have no meaning.
    client.send_frame(&Frame::ping("x").reserved(4));
    client.expect_close(1002);
    gateway.probe();
}

fn compression_parameters_out_of_range_are_not_negotiated(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "");
    for offer in [
        "server_max_window_bits=99",
        "client_max_window_bits=7",
        "server_max_window_bits=08",
        "what=1",
        "server_max_window_bits",
    ] {
        let mut client = gateway.connect();
        client.send(
            &Upgrade::to("/chat").with("Sec-WebSocket-Extensions", &format!("permessage-deflate; {offer}")).encode(),
        );
        let head = upstream.accept().agree();
        assert_eq!(head.header("Sec-WebSocket-Extensions"), None, "{offer}");
        assert_eq!(client.upgraded().header("Sec-WebSocket-Extensions"), None, "{offer}");
    }
    for answer in ["server_max_window_bits=99", "client_max_window_bits", "what=1", "server_no_context_takeover=1"] {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/chat").with("Sec-WebSocket-Extensions", "permessage-deflate").encode());
        let mut backend = upstream.accept();
        backend.agree_with(&format!("Sec-WebSocket-Extensions: permessage-deflate; {answer}\r\n"));
        assert_eq!(client.refused().status, 502, "{answer}");
    }
    gateway.probe();
}

fn a_client_that_resets_releases_the_upstream(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "");
    let before = gateway.descriptors();
    for inside in [false, true] {
        let (mut client, mut backend) = gateway.session("/chat", &upstream);
        if inside {
            client.send(&Frame::binary(vec![0; 100]).masked([1; 4]).encode()[..50]);
            backend.hear();
            backend.take_unread();
        }
        client.reset();
        if !inside {
            backend.expect_close(1011);
            backend.send_frame(&Frame::close(1011, ""));
        }
        backend.rest();
        drop(backend);
        gateway.expect_descriptors_back_to(before);
        gateway.probe();
    }
}

fn an_upstream_that_resets_releases_the_client(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "");
    let before = gateway.descriptors();
    for inside in [false, true] {
        let (mut client, mut backend) = gateway.session("/chat", &upstream);
        if inside {
            backend.send(&Frame::binary(vec![0; 100]).encode()[..50]);
            client.hear();
            client.take_unread();
        }
        backend.reset();
        if !inside {
            client.expect_close(1011);
            client.send_frame(&Frame::close(1011, ""));
        }
        client.rest();
        drop(client);
        gateway.expect_descriptors_back_to(before);
        gateway.probe();
    }
}

fn a_close_that_is_never_answered_ends_on_time(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "session: { close_timeout: 500ms }");
    let before = gateway.descriptors();
    for (mut first, mut second) in both_ways(&gateway, &upstream) {
        let start = Instant::now();
        first.send_frame(&Frame::close(1000, "bye"));
        second.expect_close(1000);
        // The other peer says nothing. The first still hears a close, and both connections end.
        first.expect_close(1000);
        first.expect_end();
        second.expect_end();
        let taken = start.elapsed();
        assert!(taken >= Duration::from_millis(450) && taken < Duration::from_millis(2500), "{taken:?}");
    }
    gateway.expect_descriptors_back_to(before);
    gateway.probe();
}

fn frames_cut_at_every_offset_are_the_same_frames(variant: Variant) {
    let (mut gateway, upstream) = chat(variant, "session: { validate_utf8: true }");
    let frames = [
        Frame::text("h\u{e9}llo \u{4e16}\u{754c}").unfinished(),
        Frame::ping("between"),
        Frame::continuation("and on".repeat(30)),
        Frame::binary(""),
        Frame::pong(""),
    ];
    for (mut from, mut to) in both_ways(&gateway, &upstream) {
        let mut random = Random::fixed(3);
        let keys: Vec<_> = frames.iter().map(|_| random.key()).collect();
        let dressed = |from: &mut Peer, frame: &Frame, key| {
            if from.dressed(frame).mask.is_some() { frame.clone().masked(key) } else { frame.clone() }
        };
        let bytes: Vec<u8> =
            frames.iter().zip(&keys).flat_map(|(frame, key)| dressed(&mut from, frame, *key).encode()).collect();
        for cut in 1..bytes.len() {
            let head = to.received().len();
            from.send(&bytes[..cut]);
            // Long enough for the two halves to be read apart, mostly; the outcome is the same if they are not.
            std::thread::sleep(Duration::from_millis(1));
            from.send(&bytes[cut..]);
            for frame in &frames {
                let heard = to.frame();
                assert_eq!((heard.fin, heard.opcode), (frame.fin, frame.opcode), "cut at {cut}");
                assert_eq!(heard.payload, frame.payload, "cut at {cut}");
            }
            assert_eq!(to.received().len() - head, bytes.len(), "cut at {cut}");
        }
        from.send_in_pieces(&bytes, 1);
        for frame in &frames {
            assert_eq!(to.frame().payload, frame.payload);
        }
    }
    gateway.probe();
}
