//! Do bytes survive the journey, however they are cut and packed? And what do streams cost while they pass?
//!
//! Cuts are made over Unix sockets, where a sender can see that everything so far has been read: each cut is then one
//! between two reads of the gateway, and no accident of timing. Over TLS, which has no Unix sockets towards upstreams, it is
//! TCP, the kernel's table says what has been read, and a cut lies between two records. Packing and one-byte writes go over
//! TCP anyway.

mod large;
mod memory;
mod wire;

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Instant;

use crate::kit::{
    DEADLINE, Frame, Gateway, Opcode, Peer, Random, RawUpstream, Setup, Variant, on_every_variant, on_single_legs,
};

on_every_variant![
    a_session_cut_at_any_byte_is_the_same_session,
    a_close_frame_cut_at_any_byte_is_the_same_close,
    long_frames_may_be_cut_in_headers_and_payloads,
    keys_are_replaced_wherever_frames_are_cut,
    one_byte_at_a_time_is_fast_enough_to_understand,
    many_frames_in_one_write_stay_apart_and_in_order,
    frames_of_every_length_form_share_their_reads,
    both_directions_at_once,
];

on_single_legs![
    a_session_cut_at_any_byte_is_the_same_session,
    a_close_frame_cut_at_any_byte_is_the_same_close,
    long_frames_may_be_cut_in_headers_and_payloads,
    keys_are_replaced_wherever_frames_are_cut,
    one_byte_at_a_time_is_fast_enough_to_understand,
    many_frames_in_one_write_stay_apart_and_in_order,
    frames_of_every_length_form_share_their_reads,
    both_directions_at_once,
];

/// Control frames come as fast as the test can send them, and none from the gateway, however long it takes.
const LIMITS: &str = "limits: { control_frames_per_second: 0 }, \
                      session: { ping: { client: { interval: 0ms }, upstream: { interval: 0ms } } }";

/// A gateway with Unix sockets on both sides, or where there is TLS on a side with TCP.
struct Local {
    gateway: Gateway,
    /// Unless clients come over TCP.
    public: Option<PathBuf>,
    upstream: RawUpstream,
}

impl Local {
    /// With more members of the upstream, as a YAML flow mapping without its braces.
    fn start(variant: Variant, upstream_members: &str) -> Self {
        Self::start_with(variant, upstream_members, LIMITS)
    }

    /// With members of the API besides.
    fn start_with(variant: Variant, upstream_members: &str, members: &str) -> Self {
        let setup = Setup::new(variant);
        let public = (!variant.is_secure_in()).then(|| setup.directory().join("public.sock"));
        let upstream = if variant.is_secure_out() {
            RawUpstream::listen()
        } else {
            RawUpstream::listen_unix(setup.directory().join("upstream.sock"))
        };
        let url = upstream.url("/");
        let local = public.iter().map(|path| format!("name: local, bind: \"unix:{}\"", path.display()));
        let gateway = local
            .fold(setup, |setup, local| setup.another_listener(&local))
            .upstream(&format!("name: there, endpoints: [{{ url: \"{url}\" }}]{upstream_members}"))
            .api(&format!("name: cut, context: /cut, endpoints: {{ production: {{ upstream: there }} }}, {members}"))
            .start();
        Self { gateway, public, upstream }
    }

    /// A session: client, then upstream.
    #[track_caller]
    fn session(&self) -> [Peer; 2] {
        let mut client = self.public.as_ref().map_or_else(|| self.gateway.connect(), |path| Peer::connect_unix(path));
        client.send(&crate::kit::Upgrade::to("/cut").encode());
        let mut backend = self.upstream.accept();
        backend.agree();
        client.upgraded();
        [client, backend]
    }
}

/// Sends the bytes with a cut: what follows it is sent when the gateway has read what stands before it.
#[track_caller]
fn send_cut(speaker: &mut Peer, bytes: &[u8], cut: usize) {
    speaker.send(&bytes[..cut]);
    let start = Instant::now();
    while unread_bytes(speaker) > 0 {
        assert!(start.elapsed() < DEADLINE, "the gateway does not read");
        std::thread::yield_now();
    }
    speaker.send(&bytes[cut..]);
}

/// Bytes that the other end has not read yet.
fn unread_bytes(peer: &Peer) -> i32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int, which `bytes` is.
    let outcome = unsafe { libc::ioctl(peer.socket().as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
    match peer.socket().local_addr().expect("an address").as_socket() {
        // On its way, or there and not read.
        Some(here) if bytes == 0 => waiting_bytes(peer.socket().peer_addr().expect("an address").as_socket(), here),
        _ => bytes,
    }
}

/// Bytes that wait in the queue of the other end of a connection over IPv4, as the kernel's table has it.
fn waiting_bytes(there: Option<SocketAddr>, here: SocketAddr) -> i32 {
    let written = |address: SocketAddr| match address {
        SocketAddr::V4(address) => format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port()),
        SocketAddr::V6(_) => panic!("{address} is not of IPv4"),
    };
    let ends = format!(" {} {} ", written(there.expect("an address")), written(here));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel has a table");
    let line = table.lines().find(|line| line.contains(&ends)).expect("a connection that is in the table");
    let queues = line.split_whitespace().nth(4).expect("the queues");
    let (_, waiting) = queues.split_once(':').expect("two of them");
    i32::from_str_radix(waiting, 16).expect("a number")
}

/// What one side says: every kind of frame that may pass, at the edge of the one-byte lengths too.
fn transcript() -> Vec<Frame> {
    let mut random = Random::fixed(42);
    vec![
        Frame::text("one, two, κόσμε"),
        Frame::binary(random.bytes(33)),
        Frame::text("first, ").unfinished(),
        Frame::ping("between"),
        Frame::continuation("second, ").unfinished(),
        Frame::pong(""),
        Frame::continuation(""),
        Frame::binary(""),
        Frame::binary(random.bytes(125)),
        Frame::ping(random.bytes(125)),
        Frame::binary(random.bytes(126)),
        Frame::text("last"),
    ]
}

fn on_the_wire(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(Frame::encode).collect()
}

/// Two sides, each of them speaking once: the speaker's place among the peers, and the hearer's.
const DIRECTIONS: [(usize, usize); 2] = [(0, 1), (1, 0)];

fn a_session_cut_at_any_byte_is_the_same_session(variant: Variant) {
    let mut local = Local::start(variant, "");
    let mut peers = local.session();
    for (speaker, hearer) in DIRECTIONS {
        let length =
            on_the_wire(&transcript().iter().map(|frame| peers[speaker].dressed(frame)).collect::<Vec<_>>()).len();
        for cut in 1..length {
            let frames: Vec<_> = transcript().iter().map(|frame| peers[speaker].dressed(frame)).collect();
            send_cut(&mut peers[speaker], &on_the_wire(&frames), cut);
            for frame in &frames {
                // The client's own key is part of what is compared.
                assert_eq!(peers[hearer].frame(), *frame, "cut at {cut}, from peer {speaker}");
            }
        }
    }
    local.gateway.probe();
}

fn a_close_frame_cut_at_any_byte_is_the_same_close(variant: Variant) {
    let mut local = Local::start(variant, "");
    for (speaker, hearer) in DIRECTIONS {
        let farewell = [Frame::text("and"), Frame::close(4321, "that is all")];
        let length = on_the_wire(&farewell).len() + if speaker == 0 { 8 } else { 0 };
        for cut in 1..length {
            let mut peers = local.session();
            let farewell = farewell.each_ref().map(|frame| peers[speaker].dressed(frame));
            send_cut(&mut peers[speaker], &on_the_wire(&farewell), cut);
            peers[hearer].expect(Opcode::TEXT, b"and");
            assert_eq!(peers[hearer].expect_close(4321), "that is all", "cut at {cut}");
            peers[hearer].send_frame(&Frame::close(4321, ""));
            peers[speaker].expect_close(4321);
        }
    }
    local.gateway.probe();
}

fn long_frames_may_be_cut_in_headers_and_payloads(variant: Variant) {
    let mut local = Local::start(variant, "");
    let mut peers = local.session();
    let mut random = Random::fixed(1);
    for (speaker, hearer) in DIRECTIONS {
        for payload in [125, 126, 65_535, 65_536].map(|length| random.bytes(length)) {
            let length = peers[speaker].dressed(&Frame::binary(payload.clone())).encode().len();
            // Everywhere near the ends; inside the payload at steps that meet every phase of the key.
            let near_ends = |cut: &usize| *cut < 20 || *cut > length - 6;
            for cut in (1..length).filter(|cut| near_ends(cut) || cut.is_multiple_of(4093)) {
                let frame = peers[speaker].dressed(&Frame::binary(payload.clone()));
                send_cut(&mut peers[speaker], &frame.encode(), cut);
                let heard = peers[hearer].frame();
                assert!(heard == frame, "{} bytes, cut at {cut}, from peer {speaker}", payload.len());
            }
        }
    }
    local.gateway.probe();
}

fn keys_are_replaced_wherever_frames_are_cut(variant: Variant) {
    let chosen: [fn(&mut Random) -> [u8; 4]; 3] = [|_| [0; 4], |_| [1, 2, 3, 4], Random::key];
    let mut plain = Local::start(variant, "");
    let mut fresh = Local::start(variant, ", mask: fresh");
    let mut random = Random::fixed(3);
    for (local, choose) in [(&plain, chosen[0]), (&plain, chosen[1]), (&fresh, chosen[2])] {
        let [mut client, mut backend] = local.session();
        client.send_frame(&Frame::text("x").masked([1, 2, 3, 4]));
        backend.expect(Opcode::TEXT, b"x");
        let keyed = |random: &mut Random| {
            transcript().into_iter().map(|frame| frame.masked(choose(random))).collect::<Vec<_>>()
        };
        let length = on_the_wire(&keyed(&mut random)).len();
        for cut in 1..length {
            let frames = keyed(&mut random);
            send_cut(&mut client, &on_the_wire(&frames), cut);
            for frame in frames {
                let heard = backend.frame();
                if frame.opcode.0 < 8 {
                    assert_ne!(heard.mask, frame.mask, "cut at {cut}: {heard:?}");
                }
                assert_eq!(Frame { mask: None, ..heard }, Frame { mask: None, ..frame }, "cut at {cut}");
            }
        }
    }
    plain.gateway.probe();
    fresh.gateway.probe();
}

fn one_byte_at_a_time_is_fast_enough_to_understand(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("bytes", &upstream.url("/"), LIMITS).start();
    let (client, backend) = gateway.session("/bytes", &upstream);
    let mut peers = [client, backend];
    let mut random = Random::fixed(2);
    let frames = [transcript(), vec![Frame::binary(random.bytes(5000)), Frame::text("end")]].concat();
    for (speaker, hearer) in DIRECTIONS {
        let frames: Vec<_> = frames.iter().map(|frame| peers[speaker].dressed(frame)).collect();
        peers[speaker].send_in_pieces(&on_the_wire(&frames), 1);
        for frame in &frames {
            assert_eq!(peers[hearer].frame(), *frame, "from peer {speaker}");
        }
    }
    gateway.probe();
}

fn many_frames_in_one_write_stay_apart_and_in_order(variant: Variant) {
    const WRITES: usize = 40;
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("packed", &upstream.url("/"), LIMITS).start();
    let (client, backend) = gateway.session("/packed", &upstream);
    let mut peers = [client, backend];
    let mut random = Random::announced("many_frames_in_one_write_stay_apart_and_in_order");
    for (speaker, hearer) in DIRECTIONS {
        for pack in [2, 16] {
            for write in 0..WRITES {
                let length = |random: &mut Random| [0, 1, 125, 126, 700, 4000][random.below(6)];
                let frames: Vec<_> = (0..pack)
                    .map(|_| {
                        let length = length(&mut random);
                        let payload = random.bytes(length);
                        let frame = if random.below(8) == 0 && length < 126 {
                            Frame::ping(payload)
                        } else {
                            Frame::binary(payload)
                        };
                        peers[speaker].dressed(&frame)
                    })
                    .collect();
                peers[speaker].send(&on_the_wire(&frames));
                for frame in &frames {
                    assert_eq!(peers[hearer].frame(), *frame, "write {write} of {pack} frames from peer {speaker}");
                }
            }
        }
    }
    gateway.probe();
}

fn frames_of_every_length_form_share_their_reads(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
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

fn both_directions_at_once(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    let (client, backend) = gateway.session("/chat", &upstream);
    let frame = Frame::binary(Random::fixed(5).bytes(100_000));
    let count = 300;
    std::thread::scope(|scope| {
        for mut peer in [client, backend] {
            let frame = &frame;
            scope.spawn(move || {
                let bytes = peer.dressed(frame).encode();
                let mut second = peer.second_end();
                let writer = std::thread::spawn(move || (0..count).for_each(|_| second.send(&bytes)));
                for index in 0..count {
                    assert!(peer.frame().payload == frame.payload, "frame {index}");
                }
                writer.join().expect("everything was taken");
            });
        }
    });
    gateway.probe();
}
