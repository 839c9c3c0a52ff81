//! Large frames, which the gateway may hand on inside the kernel: no byte is lost, added or miscounted for that.
//!
//! Frames of all sizes around what is worth it, cut anywhere; readers and senders that stop or go in their midst. Over TLS
//! they are like any others: whether bytes are spliced is a question in clear only.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::wire::Wire;
use super::{Local, on_the_wire};
use crate::kit::gateway::{die_with_parent, kill};
use crate::kit::{
    Frame, Gateway, Opcode, Peer, Random, RawUpstream, Setup, Variant, aloud, on_every_variant, on_single_legs,
    on_variants_in_clear, until,
};

on_variants_in_clear![
    a_large_frame_is_moved_inside_the_kernel_where_splice_is_on,
    an_ordinary_user_splices_for_as_long_as_the_kernel_gives_it_pipes,
];

on_single_legs![
    large_frames_keep_their_place_among_small_ones_however_they_are_cut,
    a_sender_that_ends_within_a_large_frame_leaves_what_it_sent,
    peers_that_vanish_within_large_frames_leave_nothing_behind,
    a_goodbye_waits_for_the_end_of_a_large_frame,
];

on_every_variant![
    large_frames_keep_their_place_among_small_ones_however_they_are_cut,
    a_reader_that_stops_within_a_large_frame_costs_its_budget_and_no_time,
    a_sender_that_ends_within_a_large_frame_leaves_what_it_sent,
    peers_that_vanish_within_large_frames_leave_nothing_behind,
    a_goodbye_waits_for_the_end_of_a_large_frame,
    ceilings_count_the_bytes_of_large_frames,
];

const NO_CEILINGS: &str = "limits: { max_frame: 0, max_message: 0, control_frames_per_second: 0 }";
/// Payload of a frame that is large in any case.
const LARGE_BYTES: usize = 8 << 20;
const MIB: usize = 1 << 20;
/// Descriptors of the empty pipes that a worker may keep.
const PIPES: usize = 2 * 4;

fn large(variant: Variant, members: &str) -> (Gateway, RawUpstream) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("large", &upstream.url("/"), members).start();
    gateway.probe();
    (gateway, upstream)
}

/// The bytes of one large frame as a client sends it (masked), or as an endpoint does.
fn frame(masked: bool, payload_bytes: usize) -> Vec<u8> {
    let wire = Wire::one_frame(masked, payload_bytes as u64);
    let mut bytes = Vec::with_capacity(payload_bytes + 14);
    while (bytes.len() as u64) < wire.bytes() {
        bytes.extend_from_slice(wire.at(bytes.len() as u64));
    }
    bytes
}

/// Reads until so many bytes have come, which must be these.
#[track_caller]
fn expect_bytes(peer: &mut Peer, bytes: &[u8]) {
    let mut heard = peer.take_unread();
    while heard.len() < bytes.len() {
        assert!(peer.hear(), "the connection ended after {} bytes of {}", heard.len(), bytes.len());
        heard.extend(peer.take_unread());
    }
    if heard != bytes {
        let at = heard.iter().zip(bytes).position(|(one, other)| one != other);
        panic!("{} bytes came for {}; they differ at {at:?}", heard.len(), bytes.len());
    }
}

// --- Where the bytes go ---

fn a_large_frame_is_moved_inside_the_kernel_where_splice_is_on(variant: Variant) {
    let (mut gateway, upstream) = large(variant, NO_CEILINGS);
    carry(&gateway, &upstream, 64 * MIB, splices(&gateway));
    gateway.probe();
}

/// Whether the gateway says that it splices.
fn splices(gateway: &Gateway) -> bool {
    gateway.metric("framegate_driver_info", &[("splice", "on")]) == 1.0
}

/// The first large frames of a gateway, one in each direction: most of them is spliced, or nothing.
#[track_caller]
fn carry(gateway: &Gateway, upstream: &RawUpstream, bytes_each: usize, is_spliced: bool) {
    let (mut client, mut backend) = gateway.session("/large", upstream);
    let spliced = || gateway.metric("framegate_spliced_bytes_total", &[]);
    let mut before = spliced();
    assert_eq!(before, 0.0);
    for (direction, to_upstream) in [("to_upstream", true), ("to_client", false)] {
        let (from, to) = if to_upstream { (&mut client, &mut backend) } else { (&mut backend, &mut client) };
        let bytes = frame(to_upstream, bytes_each);
        std::thread::scope(|scope| {
            scope.spawn(|| from.send(&bytes));
            expect_bytes(to, &bytes);
        });
        let labels = [("api", "large"), ("direction", direction)];
        assert_eq!(gateway.metric("framegate_payload_bytes_total", &labels), bytes_each as f64, "{direction}");
        assert_eq!(gateway.metric("framegate_messages_total", &labels), 1.0, "{direction}");
        if is_spliced {
            until("most of it is counted as spliced", || spliced() - before > (bytes_each / 2) as f64);
            assert!(spliced() - before <= bytes_each as f64, "{direction}: more than there was");
        } else {
            assert_eq!(spliced(), 0.0, "{direction}");
        }
        before = spliced();
    }
}

/// The kernel gives a user without privileges so many pages for pipes, and pipes of two pages from then on.
fn an_ordinary_user_splices_for_as_long_as_the_kernel_gives_it_pipes(variant: Variant) {
    static STORIES: AtomicU32 = AtomicU32::new(0);
    // Pages are counted by user, so each telling has one of its own.
    let user = 100_000 + std::process::id() % 100_000 * 10 + STORIES.fetch_add(1, Relaxed);
    // SAFETY: geteuid(2) takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return aloud("skipped: only root can start a gateway as another user");
    }
    let start = || {
        let upstream = RawUpstream::listen();
        let setup = Setup::new(variant).user(user).api_to("large", &upstream.url("/"), NO_CEILINGS);
        (setup.start(), upstream)
    };
    let (gateway, upstream) = start();
    carry(&gateway, &upstream, LARGE_BYTES, splices(&gateway));
    drop(gateway);
    let Ok(_hog) = Hog::start(user) else { return aloud("skipped: users may have any number of pipes here") };
    let (mut gateway, upstream) = start();
    carry(&gateway, &upstream, LARGE_BYTES, false);
    gateway.probe();
}

/// A process that has all the pipes of its user.
struct Hog(Option<Child>);

impl Hog {
    fn start(user: u32) -> std::io::Result<Self> {
        let mut command = Command::new("sleep");
        command.arg("1000").uid(user).gid(user);
        die_with_parent(&mut command);
        // SAFETY: the closure makes async-signal-safe system calls on numbers of its own.
        unsafe {
            command.pre_exec(|| {
                for _ in 0..100 {
                    let mut ends = [-1; 2];
                    if libc::pipe(ends.as_mut_ptr()) != 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                    if libc::fcntl(ends[0], libc::F_GETPIPE_SZ) < 64 << 10 {
                        return Ok(());
                    }
                    libc::fcntl(ends[0], libc::F_SETPIPE_SZ, 1 << 20);
                }
                Err(std::io::ErrorKind::Unsupported.into())
            });
        }
        command.spawn().map(|child| Self(Some(child)))
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        kill(self.0.take());
    }
}

// --- Order ---

/// Both directions at once, over TCP and over Unix sockets: what arrives is, byte by byte, what was sent.
fn large_frames_keep_their_place_among_small_ones_however_they_are_cut(variant: Variant) {
    let (mut gateway, upstream) = large(variant, NO_CEILINGS);
    let local = Local::start_with(variant, "", NO_CEILINGS);
    let (client, backend) = gateway.session("/large", &upstream);
    for (name, [client, backend]) in [("tcp", [client, backend]), ("unix", local.session())] {
        let random = Random::announced(&format!("large_frames_keep_their_place, {name}"));
        let streams = [&client, &backend].map(|_| random.clone().number());
        std::thread::scope(|scope| {
            for (from, to, masked, seed) in
                [(&client, &backend, true, streams[0]), (&backend, &client, false, !streams[1])]
            {
                let script = script(&mut Random::fixed(seed), masked);
                let (mut from, mut to) = (from.second_end(), to.second_end());
                let (bytes, mut random) = (script.clone(), Random::fixed(seed ^ 1));
                scope.spawn(move || {
                    let mut at = 0;
                    while at < bytes.len() {
                        let most = [100, 5_000, 70_000, 400_000][random.below(4)];
                        let piece = (1 + random.below(most)).min(bytes.len() - at);
                        from.send(&bytes[at..at + piece]);
                        at += piece;
                    }
                });
                scope.spawn(move || expect_bytes(&mut to, &script));
            }
        });
        // It is the same session as before, and whole.
        let (mut client, mut backend) = (client, backend);
        client.send_frame(&Frame::text("still here"));
        backend.expect(Opcode::TEXT, b"still here");
        backend.send_frame(&Frame::text("so am I"));
        client.expect(Opcode::TEXT, b"so am I");
    }
    gateway.probe();
}

/// Messages and pings in any order, with the sizes at which something changes.
fn script(random: &mut Random, masked: bool) -> Vec<u8> {
    const SIZES: [usize; 16] = [
        0,
        1,
        125,
        126,
        4_096,
        65_535,
        65_536,
        100_000,
        (128 << 10) - 1,
        128 << 10,
        (128 << 10) + 1,
        200_000,
        (256 << 10) - 14,
        256 << 10,
        (512 << 10) + 7,
        3 << 20,
    ];
    let mut frames = Vec::new();
    for _ in 0..40 {
        let fragments = if random.below(3) == 0 { 1 + random.below(4) } else { 1 };
        for index in 0..fragments {
            let size = SIZES[random.below(SIZES.len())];
            let mut frame = Frame::binary(random.bytes(size));
            if index > 0 {
                frame.opcode = Opcode::CONTINUATION;
            }
            frames.push(if index + 1 < fragments { frame.unfinished() } else { frame });
            if random.below(3) == 0 {
                let length = random.below(126);
                frames.push(Frame::ping(random.bytes(length)));
            }
        }
    }
    if masked {
        frames.iter_mut().for_each(|frame| frame.mask = Some(random.key()));
    }
    on_the_wire(&frames)
}

// --- Back-pressure ---

fn a_reader_that_stops_within_a_large_frame_costs_its_budget_and_no_time(variant: Variant) {
    /// Four directions of 256 KiB each, and what allocators do.
    const GROWTH_MAX_BYTES: u64 = 5 << 20;
    /// More than the kernel's buffers on the way hold: twice 32 MiB to receive and twice 4 MiB to send on some machines.
    const FRAME_BYTES: usize = 128 * MIB;
    const TAKEN_MAX_BYTES: usize = 80 * MIB;
    let (mut gateway, upstream) = large(variant, NO_CEILINGS);
    let mut sessions = [gateway.session("/large", &upstream), gateway.session("/large", &upstream)];
    let (mut client, mut backend) = gateway.session("/large", &upstream);
    let before_bytes = gateway.rss_bytes();
    let (from_client, from_upstream) = (frame(true, FRAME_BYTES), frame(false, FRAME_BYTES));
    let mut taken = Vec::new();
    for (one, other) in &mut sessions {
        let patience = Duration::from_millis(300);
        taken.push((one.send_until_stuck(&from_client, patience), other.send_until_stuck(&from_upstream, patience)));
    }
    assert!(taken.iter().all(|(one, other)| (*one).max(*other) < TAKEN_MAX_BYTES), "{taken:?} bytes were taken");
    let growth = gateway.rss_bytes().saturating_sub(before_bytes);
    assert!(growth <= GROWTH_MAX_BYTES, "{growth} bytes more than the {before_bytes} before");

    // Nobody spins, and whoever reads is served.
    let cpu_before = gateway.cpu_time();
    std::thread::sleep(Duration::from_millis(500));
    let cpu = gateway.cpu_time().saturating_sub(cpu_before);
    assert!(cpu <= Duration::from_millis(50), "{cpu:?} of CPU while four directions are stuck");
    client.send_frame(&Frame::text("there"));
    backend.expect(Opcode::TEXT, b"there");

    for ((one, other), (from_one, from_other)) in sessions.iter_mut().zip(taken) {
        std::thread::scope(|scope| {
            let (mut first, mut second) = (one.second_end(), other.second_end());
            let (from_client, from_upstream) = (&from_client, &from_upstream);
            scope.spawn(move || first.send(&from_client[from_one..]));
            scope.spawn(move || second.send(&from_upstream[from_other..]));
            let (mut first, mut second) = (one.second_end(), other.second_end());
            scope.spawn(move || expect_bytes(&mut second, from_client));
            scope.spawn(move || expect_bytes(&mut first, from_upstream));
        });
    }
    until("nothing is held", || gateway.metric("framegate_buffered_bytes", &[]) == 0.0);
    gateway.probe();
}

// --- Ends ---

fn a_sender_that_ends_within_a_large_frame_leaves_what_it_sent(variant: Variant) {
    let (mut gateway, upstream) = large(variant, NO_CEILINGS);
    let descriptors = gateway.descriptors();
    for to_upstream in [true, false].repeat(4) {
        let (client, backend) = gateway.session("/large", &upstream);
        let (mut from, mut to) = if to_upstream { (client, backend) } else { (backend, client) };
        let bytes = frame(to_upstream, LARGE_BYTES);
        // Not all of it, and more than any buffer on the way has room for: the end is behind what waits.
        let cut = bytes.len() - 777;
        let sent = from.send_until_stuck(&bytes[..cut], Duration::from_millis(200));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                from.send(&bytes[sent..cut]);
                from.finish();
            });
            let heard = to.rest();
            assert!(heard == bytes[..cut], "{} bytes came of {cut}", heard.len());
        });
    }
    gateway.expect_descriptors_back_to(descriptors + PIPES);
    let closed = |line: &serde_json::Value| line["event"] == "close" && line["api"] == "large";
    until("every end is written down", || gateway.log_lines().into_iter().filter(closed).count() == 8);
    assert!(gateway.log_lines().iter().filter(|line| closed(line)).all(|line| line["reason"] == "lost"));
    gateway.probe();
}

/// Resets and ends, of the sender and of the receiver, while the other waits.
fn peers_that_vanish_within_large_frames_leave_nothing_behind(variant: Variant) {
    let (mut gateway, upstream) = large(variant, NO_CEILINGS);
    let descriptors = gateway.descriptors();
    for round in 0..2 {
        for (to_upstream, sender_goes) in [(true, true), (true, false), (false, true), (false, false)] {
            let (client, backend) = gateway.session("/large", &upstream);
            let (mut from, mut to) = if to_upstream { (client, backend) } else { (backend, client) };
            from.send_until_stuck(&frame(to_upstream, LARGE_BYTES), Duration::from_millis(50));
            assert!(to.hear());
            if round == 0 {
                drop(if sender_goes { from } else { to });
            } else if sender_goes {
                from.reset();
                to.rest();
            } else {
                to.reset();
                from.rest();
            }
        }
    }
    gateway.expect_descriptors_back_to(descriptors + PIPES);
    until("nothing is held", || gateway.metric("framegate_buffered_bytes", &[]) == 0.0);
    assert_eq!(gateway.metric("framegate_sessions_active", &[]), 0.0);
    gateway.probe();
}

/// The gateway's close frame may not stand in the midst of another.
fn a_goodbye_waits_for_the_end_of_a_large_frame(variant: Variant) {
    let upstream = RawUpstream::listen();
    let members = format!("session: {{ close_timeout: 10s }}, {NO_CEILINGS}");
    let setup = Setup::new(variant).settings("drain_window: 1ms").api_to("large", &upstream.url("/"), &members);
    let mut gateway = setup.start();
    let (mut client, mut backend) = gateway.session("/large", &upstream);
    let bytes = frame(false, LARGE_BYTES);
    let half = LARGE_BYTES / 2;
    backend.send(&bytes[..half]);
    expect_bytes(&mut client, &bytes[..half]);
    gateway.signal(libc::SIGTERM);
    // The other direction is between two frames: its goodbye comes at once.
    backend.expect_close(1012);
    client.expect_silence(Duration::from_millis(100));
    backend.send(&bytes[half..]);
    expect_bytes(&mut client, &[&bytes[half..], &Frame::close(1012, "service restart").encode()].concat());
    backend.send_frame(&Frame::close(1012, ""));
    client.send_frame(&Frame::close(1012, ""));
    drop((client, backend));
    assert_eq!(gateway.ended().code(), Some(0));
    let line = gateway.logged("close", "large");
    assert_eq!((&line["reason"], &line["bytes_to_client"]), (&"drain".into(), &LARGE_BYTES.into()), "{line}");
}

// --- Counting ---

fn ceilings_count_the_bytes_of_large_frames(variant: Variant) {
    const BYTES: usize = 2 * MIB;
    let limits = format!("limits: {{ max_frame: {BYTES}, max_message: {} }}", 2 * BYTES);
    let (mut gateway, upstream) = large(variant, &limits);
    let fits = [Frame::binary(vec![1; BYTES]).unfinished(), Frame::continuation(vec![2; BYTES])];
    let too_much = [fits[0].clone(), fits[1].clone().unfinished(), Frame::continuation("x")];
    for (direction, to_upstream) in [("to_upstream", true), ("to_client", false)] {
        let (client, backend) = gateway.session("/large", &upstream);
        let (mut from, mut to) = if to_upstream { (client, backend) } else { (backend, client) };
        for (frames, is_whole) in [(&fits[..], true), (&too_much[..], false)] {
            let bytes = on_the_wire(&frames.iter().map(|frame| from.dressed(frame)).collect::<Vec<_>>());
            // Of what breaks the ceiling not even the header is passed on.
            let passes = if is_whole { bytes.len() } else { bytes.len() - 3 - if to_upstream { 4 } else { 0 } };
            std::thread::scope(|scope| {
                scope.spawn(|| from.send(&bytes));
                let mut heard = Vec::new();
                while heard.len() < passes {
                    assert!(to.hear(), "the connection ended after {} bytes of {passes}", heard.len());
                    heard.extend(to.take_unread());
                }
                assert!(heard[..passes] == bytes[..passes], "the bytes differ");
            });
        }
        from.expect_close(1009);
        let passed = gateway.metric("framegate_payload_bytes_total", &[("api", "large"), ("direction", direction)]);
        assert_eq!(passed, (4 * BYTES) as f64, "{direction}");
        let whole = gateway.metric("framegate_messages_total", &[("api", "large"), ("direction", direction)]);
        assert_eq!(whole, 1.0, "{direction}");
    }
    gateway.probe();
}
