//! Large and awkward streams: payloads are intact, and the gateway's memory does not notice their size.

use std::io::{Read, Write};

use socket2::Socket;

use crate::kit::frame::LengthForm;
use crate::kit::{Driver, EchoBackend, Frame, Opcode, Random, RawUpstream, Setup, on_both_drivers};

on_both_drivers!(
    a_gibibyte_in_one_frame,
    a_message_of_large_fragments_comes_back_from_an_echo,
    frames_of_every_length_form_share_their_reads,
    both_directions_at_once,
);

const GIBIBYTE: usize = 1 << 30;
/// What the gateway may take for a stream of any length.
const STREAM_BYTES_MAX: u64 = 4 << 20;
const NO_CEILINGS: &str = "limits: { max_frame: 0, max_message: 0 }";

/// The same block again and again, so that the test spends its time in the kernel and not in comparing.
struct Blocks {
    block: Vec<u8>,
}

impl Blocks {
    fn new() -> Self {
        Self { block: Random::fixed(11).bytes(1 << 20) }
    }

    fn write(&self, mut socket: &Socket, total: usize) {
        for _ in 0..total / self.block.len() {
            socket.write_all(&self.block).expect("a stream is taken");
        }
    }

    fn expect(&self, mut socket: &Socket, total: usize) {
        let mut block = vec![0; self.block.len()];
        for index in 0..total / self.block.len() {
            socket.read_exact(&mut block).expect("a stream comes");
            assert!(block == self.block, "block {index} was altered");
        }
    }
}

fn a_gibibyte_in_one_frame(driver: Driver) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(driver).api_to("chat", &upstream.url("/"), NO_CEILINGS).start();
    for to_upstream in [true, false] {
        let (client, backend) = gateway.session("/chat", &upstream);
        let (mut from, mut to) = if to_upstream { (client, backend) } else { (backend, client) };
        let memory = gateway.rss_bytes();
        let header = Frame::binary("").length_form(LengthForm::Claimed(GIBIBYTE as u64));
        from.send_frame(&header);
        let blocks = Blocks::new();
        let mut grown = 0;
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut header = [0; 14];
                let length = if to_upstream { 14 } else { 10 };
                to.socket().set_read_timeout(Some(crate::kit::DEADLINE)).expect("a read timeout");
                let mut socket: &Socket = to.socket();
                socket.read_exact(&mut header[..length]).expect("a header comes");
                assert_eq!(header[..2], [0x82, if to_upstream { 0xff } else { 0x7f }]);
                // The payload passes under the mask that the client chose, so its bytes are those that were sent.
                blocks.expect(to.socket(), GIBIBYTE);
            });
            for _ in 0..4 {
                blocks.write(from.socket(), GIBIBYTE / 4);
                grown = grown.max(gateway.rss_bytes().saturating_sub(memory));
            }
            reader.join().expect("the stream arrives");
        });
        assert!(grown < STREAM_BYTES_MAX, "memory grew by {grown} bytes");
        // The session is as good as before.
        from.send_frame(&Frame::text("was that all?"));
        to.expect(Opcode::TEXT, b"was that all?");
        gateway.probe();
    }
}

fn a_message_of_large_fragments_comes_back_from_an_echo(driver: Driver) {
    let echo = EchoBackend::start();
    let mut gateway = Setup::new(driver).api_to("echo", &echo.url("/"), NO_CEILINGS).start();
    let memory = gateway.rss_bytes();
    let mut client = gateway.connect();
    client.upgrade("/echo");
    const FRAGMENTS: usize = 64;
    let blocks = Blocks::new();
    let mut masked = blocks.block.clone();
    crate::kit::frame::mask(&mut masked, [9, 8, 7, 6]);
    let masked = Blocks { block: masked };
    std::thread::scope(|scope| {
        let socket = client.socket();
        scope.spawn(move || {
            let mut socket: &Socket = socket;
            for index in 0..FRAGMENTS {
                let opcode = if index == 0 { Opcode::BINARY } else { Opcode::CONTINUATION };
                let claimed = LengthForm::Claimed(masked.block.len() as u64);
                let frame = Frame { fin: index + 1 == FRAGMENTS, ..Frame::new(opcode, "") };
                socket.write_all(&frame.length_form(claimed).masked([9, 8, 7, 6]).encode()).expect("a header is taken");
                masked.write(socket, masked.block.len());
            }
        });
        let mut socket: &Socket = client.socket();
        for index in 0..FRAGMENTS {
            let mut header = [0; 10];
            socket.read_exact(&mut header).expect("a header comes");
            let first = u8::from(index + 1 == FRAGMENTS) << 7 | if index == 0 { 2 } else { 0 };
            assert_eq!(header[..2], [first, 127], "fragment {index}");
            blocks.expect(socket, blocks.block.len());
        }
    });
    let grown = gateway.rss_bytes().saturating_sub(memory);
    assert!(grown < STREAM_BYTES_MAX, "memory grew by {grown} bytes");
    gateway.probe();
}

fn frames_of_every_length_form_share_their_reads(driver: Driver) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(driver).api_to("chat", &upstream.url("/"), "").start();
    let mut random = Random::announced("frames_of_every_length_form_share_their_reads");
    let mut frames = Vec::new();
    for _ in 0..200 {
        let length = match random.below(4) {
            0 => random.below(126),
            1 => 126 + random.below(1000),
            2 => 65_000 + random.below(1000),
            _ => random.below(3),
        };
        frames.push(Frame::binary(random.bytes(length)));
    }
    for to_upstream in [true, false] {
        let (client, backend) = gateway.session("/chat", &upstream);
        let (mut from, mut to) = if to_upstream { (client, backend) } else { (backend, client) };
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| from.dressed(frame).encode()).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut at = 0;
                while at < bytes.len() {
                    let piece = (1 + random.below(40_000)).min(bytes.len() - at);
                    from.send(&bytes[at..at + piece]);
                    at += piece;
                }
            });
            for (index, frame) in frames.iter().enumerate() {
                assert!(to.frame().payload == frame.payload, "frame {index} of {} bytes", frame.payload.len());
            }
        });
    }
    gateway.probe();
}

fn both_directions_at_once(driver: Driver) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(driver).api_to("chat", &upstream.url("/"), "").start();
    let (client, backend) = gateway.session("/chat", &upstream);
    let frame = Frame::binary(Random::fixed(5).bytes(100_000));
    let count = 300;
    std::thread::scope(|scope| {
        for mut peer in [client, backend] {
            let frame = &frame;
            scope.spawn(move || {
                let bytes = peer.dressed(frame).encode();
                let socket = peer.socket().try_clone().expect("a second handle");
                let writer = std::thread::spawn(move || {
                    let mut socket: &Socket = &socket;
                    (0..count).for_each(|_| socket.write_all(&bytes).expect("a frame is taken"));
                });
                for index in 0..count {
                    assert!(peer.frame().payload == frame.payload, "frame {index}");
                }
                writer.join().expect("everything was taken");
            });
        }
    });
    gateway.probe();
}
