//! Does the door hold: several of them, of every kind, behind a proxy, with no descriptors left, and while they change?

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::kit::gateway::http_get;
use crate::kit::{
    EchoBackend, Frame, Gateway, Opcode, Peer, Port, RawUpstream, Setup, Upgrade, Variant, on_both_drivers, until,
};

on_both_drivers!(
    doors_of_every_kind_lead_to_the_same_apis,
    a_proxy_that_is_trusted_names_the_client,
    a_proxy_header_is_demanded_of_whom_is_trusted_and_of_nobody_else,
    who_says_nothing_at_first_is_let_in_all_the_same,
    a_full_gateway_says_so_and_recovers,
    without_descriptors_nobody_spins_and_nobody_suffers,
    a_taken_address_is_a_clear_rejection,
    doors_open_change_and_close_beside_live_sessions,
);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[track_caller]
fn expect_echo(client: &mut Peer, word: &str) {
    client.send_frame(&Frame::text(word));
    client.expect(Opcode::TEXT, word.as_bytes());
}

fn open(address: SocketAddr, target: &str) -> Peer {
    let mut client = Peer::connect(address);
    client.upgrade(target);
    client
}

fn doors_of_every_kind_lead_to_the_same_apis(variant: Variant) {
    let echo = EchoBackend::start();
    let (second, sixth) = (Port::free(), Port::free());
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, sixth.number));
    let setup = Setup::new(variant).workers(2);
    let unix = setup.directory().join("public.sock");
    // What an earlier process left behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&unix).expect("a socket"));
    let mut gateway = setup
        .another_listener(&format!("name: second, bind: \"{}\"", second.address()))
        .another_listener(&format!("name: six, bind: \"{six}\""))
        .another_listener(&format!("name: local, bind: \"unix:{}\"", unix.display()))
        .api_to("chat", &echo.url("/"), "")
        .api_to("inner", &echo.url("/"), "listeners: [local, six]")
        .start();
    let mut local = Peer::connect_unix(&unix);
    local.upgrade("/chat");
    let doors = [("public", gateway.address()), ("second", second.address()), ("six", six)];
    let mut clients: Vec<_> = doors.iter().map(|(_, address)| open(*address, "/chat")).collect();
    clients.push(local);
    for (client, name) in clients.iter_mut().zip(["public", "second", "six", "local"]) {
        expect_echo(client, name);
        assert_eq!(gateway.metric("framegate_connections_accepted_total", &[("listener", name)]), 1.0, "{name}");
    }
    until("all are written down", || gateway.log_lines().len() == 4);
    for line in gateway.log_lines() {
        let client = line["client"].as_str().expect("a client");
        let right = match line["listener"].as_str() {
            Some("local") => client == "unix",
            Some("six") => client.starts_with("[::1]:"),
            _ => client.starts_with("127.0.0.1:"),
        };
        assert!(right, "{line}");
    }
    for (name, address) in doors {
        assert_eq!(http_get(address, "/health").expect("an answer").0, 200, "{name}");
        let mut client = Peer::connect(address);
        client.send(&Upgrade::to("/inner").encode());
        if name == "six" {
            client.upgraded();
        } else {
            assert_eq!(client.refused().status, 404, "{name}");
        }
    }
    gateway.probe();
    gateway.signal(libc::SIGTERM);
    clients.clear();
    assert_eq!(gateway.ended().code(), Some(0));
    assert!(!unix.exists(), "the socket's file goes with the process");
}

/// A PROXY protocol header of version 2: TCP over IPv4, and one type-length-value field that means nothing here.
fn proxy_v2(client: [u8; 4], port: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x10".to_vec();
    header.extend(client);
    header.extend([198, 51, 100, 1]);
    header.extend(port.to_be_bytes());
    header.extend(443_u16.to_be_bytes());
    header.extend([0xe0, 0, 1, 7]);
    header
}

fn a_proxy_that_is_trusted_names_the_client(variant: Variant) {
    let upstream = RawUpstream::listen();
    let port = Port::free();
    let proxied = format!("name: proxied, bind: \"{}\", proxy_protocol_from: [127.0.0.0/8]", port.address());
    let mut gateway = Setup::new(variant).another_listener(&proxied).api_to("chat", &upstream.url("/"), "").start();
    let v1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 40001 443\r\n".to_vec();
    let v6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 40003 443\r\n".to_vec();
    let cases = [
        (v1, Some(("192.0.2.1", "192.0.2.1:40001"))),
        (proxy_v2([203, 0, 113, 9], 40_002), Some(("203.0.113.9", "203.0.113.9:40002"))),
        (v6, Some(("2001:db8::7", "[2001:db8::7]:40003"))),
        // The proxy itself, looking whether we are well.
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
    ];
    for (step, (header, named)) in cases.into_iter().enumerate() {
        let mut client = Peer::connect(port.address());
        let ours = client.socket().local_addr().expect("an address").as_socket().expect("of IP").to_string();
        let (forwarded_for, logged) =
            named.map_or(("127.0.0.1".into(), ours), |(ip, address)| (ip.to_owned(), address.to_owned()));
        // In pieces that know nothing of its parts.
        client.send_in_pieces(&[header, Upgrade::to("/chat").encode()].concat(), 7);
        let mut backend = upstream.accept();
        let head = backend.agree();
        assert_eq!(head.header("X-Forwarded-For"), Some(forwarded_for.as_str()), "{head}");
        client.upgraded();
        client.send_frame(&Frame::text("hello"));
        backend.expect(Opcode::TEXT, b"hello");
        until("it is written down", || {
            gateway.log_lines().iter().filter(|line| line["event"] == "open").count() == step + 1
        });
        let lines = gateway.log_lines();
        let opened = lines.iter().rfind(|line| line["event"] == "open").expect("a line");
        assert_eq!(opened["client"], logged, "{opened}");
    }
    gateway.probe();
}

fn a_proxy_header_is_demanded_of_whom_is_trusted_and_of_nobody_else(variant: Variant) {
    let upstream = RawUpstream::listen();
    let port = Port::free();
    let proxied = format!("name: proxied, bind: \"{}\", proxy_protocol_from: [127.0.0.1]", port.address());
    let mut gateway = Setup::new(variant)
        .listener("proxy_protocol_from: [192.0.2.0/24]")
        .another_listener(&proxied)
        .api_to("chat", &upstream.url("/"), "")
        .start();
    let mut headers: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"PROXY TCP4 192.0.2.1\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.1 70000 443\r\n".to_vec(),
        [b"PROXY TCP4 ".as_slice(), &[b'1'; 200], b"\r\n"].concat(),
    ];
    let mut strange = proxy_v2([203, 0, 113, 9], 40_002);
    strange[12] = 0x31;
    headers.push(strange);
    for header in &headers {
        let mut client = Peer::connect(port.address());
        client.send(&[header.as_slice(), &Upgrade::to("/chat").encode()].concat());
        // Whoever it is, it is not the proxy: nothing is said to it.
        client.expect_end();
    }
    assert_eq!(gateway.metric("framegate_refusals_total", &[("reason", "bad_proxy_header")]), headers.len() as f64);
    // A header from somebody who is not trusted is no header but a broken request.
    for header in [b"PROXY TCP4 192.0.2.1 198.51.100.1 40001 443\r\n".to_vec(), proxy_v2([203, 0, 113, 9], 1)] {
        let mut client = gateway.connect();
        client.send(&[header, Upgrade::to("/chat").encode()].concat());
        assert_eq!(client.refused().status, 400);
    }
    upstream.expect_no_connection(ms(20));
    gateway.probe();
}

/// Asks for a session at a gateway that may have no room; says whether it got one.
fn try_open(gateway: &Gateway) -> Option<Peer> {
    let mut client = gateway.connect();
    client.try_send(&Upgrade::to("/chat").encode());
    let head = client.head();
    if head.status() == 101 {
        return Some(client);
    }
    assert_eq!((head.status(), head.header("Retry-After")), (503, Some("5")), "{head}");
    None
}

/// Connects, and begins a request, so that the kernel keeps it back no longer.
fn knock(gateway: &Gateway) -> Peer {
    let mut client = gateway.connect();
    client.send(b"G");
    client
}

fn who_says_nothing_at_first_is_let_in_all_the_same(variant: Variant) {
    let echo = EchoBackend::start();
    let mut gateway = Setup::new(variant).api_to("chat", &echo.url("/"), "").start();
    let accepted = || gateway.metric("framegate_connections_accepted_total", &[("listener", "public")]);
    // A look whether somebody listens is answered by the kernel.
    for _ in 0..20 {
        gateway.connect().reset();
    }
    let (mut silent, mut polite) = (gateway.connect(), gateway.connect());
    thread::sleep(ms(100));
    assert_eq!(accepted(), 0.0, "no worker has been woken for nothing");
    let mut talkative = open(gateway.address(), "/chat");
    expect_echo(&mut talkative, "first come, first served");
    // Who ends without a word is accepted, and goes.
    polite.finish();
    polite.expect_end();
    until("the kernel has waited long enough", || accepted() == 3.0);
    silent.upgrade("/chat");
    expect_echo(&mut silent, "I was here before");
    gateway.probe();
}

fn a_full_gateway_says_so_and_recovers(variant: Variant) {
    let echo = EchoBackend::start();
    let mut gateway = Setup::new(variant).descriptors(128).api_to("chat", &echo.url("/"), "").start();
    let mut sessions = Vec::new();
    while let Some(client) = try_open(&gateway) {
        sessions.push(client);
    }
    assert!(sessions.len() >= 20, "{} sessions with 128 descriptors", sessions.len());
    let before = gateway.cpu_time();
    let crowd: Vec<_> = (0..100).map(|_| knock(&gateway)).collect();
    for client in &mut sessions {
        expect_echo(client, "does it concern me?");
    }
    thread::sleep(ms(400));
    let busy = gateway.cpu_time() - before;
    assert!(busy < ms(250), "100 connections cost {busy:?}");
    assert!(gateway.metric("framegate_connections_shed_total", &[("listener", "public")]) >= 101.0);
    assert!(gateway.metric("framegate_refusals_total", &[("reason", "full")]) >= 101.0);
    drop(crowd);
    sessions.truncate(10);
    until("there is room again", || try_open(&gateway).is_some());
    for client in &mut sessions {
        expect_echo(client, "still here");
    }
    gateway.probe();
}

/// Sets the ceiling of open descriptors of a process that runs.
fn limit_descriptors(gateway: &Gateway, max: u64) {
    let limit = libc::rlimit { rlim_cur: max, rlim_max: 1024 };
    // SAFETY: prlimit(2) reads one struct rlimit, which outlives the call; the child has not been waited for.
    let outcome = unsafe { libc::prlimit(gateway.pid() as i32, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}

/// The ceiling above which no descriptor is possible, but so that the one in reserve is below it: an event descriptor.
fn just_above_the_reserve(gateway: &Gateway) -> u64 {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("a process has descriptors");
    let events = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let is_event = std::fs::read_link(entry.path()).ok()?.to_str()?.contains("eventfd");
        is_event.then(|| entry.file_name().to_str()?.parse::<u64>().ok()).flatten()
    });
    events.max().expect("an event descriptor") + 1
}

/// Not the gateway's own count, but the kernel says no: other parts of a process need descriptors too.
fn without_descriptors_nobody_spins_and_nobody_suffers(variant: Variant) {
    let echo = EchoBackend::start();
    let mut gateway = Setup::new(variant).descriptors(1024).api_to("chat", &echo.url("/"), "").start();
    let mut sessions: Vec<_> = (0..4).map(|_| open(gateway.address(), "/chat")).collect();
    let settled = gateway.descriptors();
    // From here on no number is left; the one in reserve is of use, so whoever comes is told.
    limit_descriptors(&gateway, just_above_the_reserve(&gateway));
    let mut idle = Vec::new();
    let told = |client: &mut Peer| {
        client.socket().set_read_timeout(Some(ms(50))).expect("a read timeout");
        let mut first = [std::mem::MaybeUninit::uninit(); 1];
        client.socket().peek(&mut first).is_ok()
    };
    until("somebody is turned away", || {
        let mut client = knock(&gateway);
        let turned_away = told(&mut client);
        if turned_away {
            assert_eq!(client.head().status(), 503);
        } else {
            idle.push(client);
        }
        turned_away
    });
    // The kernel asks for a number before it says that the queue is empty: that is no reason to ask again.
    let before = gateway.cpu_time();
    thread::sleep(ms(300));
    let busy = gateway.cpu_time() - before;
    assert!(busy < ms(50), "keeping the last descriptor for 300 ms cost {busy:?}");
    // A number that some passing need of the process had taken may be free again.
    let got_in: Vec<_> = (0..20).filter_map(|_| try_open(&gateway)).collect();
    assert!(got_in.len() < 5, "{} of 20 got in", got_in.len());
    // Now not even that one: whoever comes waits, and nobody runs in circles.
    limit_descriptors(&gateway, 3);
    let before = gateway.cpu_time();
    let mut waiting: Vec<_> = (0..5).map(|_| knock(&gateway)).collect();
    for _ in 0..5 {
        for client in &mut sessions {
            expect_echo(client, "does it concern me?");
        }
        thread::sleep(ms(100));
    }
    let busy = gateway.cpu_time() - before;
    assert!(busy < ms(200), "waiting for descriptors for 500 ms cost {busy:?}");
    limit_descriptors(&gateway, 1024);
    for client in &mut waiting {
        // One of them may have been turned away with the reserve, as those before it.
        client.try_send(&Upgrade::to("/chat").encode()[1..]);
        assert!(matches!(client.head().status(), 101 | 503));
    }
    drop((idle, got_in, waiting));
    gateway.probe();
    gateway.expect_descriptors_back_to(settled);
    // The reserve is there again.
    limit_descriptors(&gateway, just_above_the_reserve(&gateway));
    let mut crowd = Vec::new();
    until("somebody is turned away again", || {
        crowd.push(knock(&gateway));
        crowd.last_mut().is_some_and(told)
    });
    limit_descriptors(&gateway, 1024);
    drop(crowd);
    for client in &mut sessions {
        expect_echo(client, "still here");
    }
    gateway.probe();
}

fn a_taken_address_is_a_clear_rejection(variant: Variant) {
    let echo = EchoBackend::start();
    let mut gateway = Setup::new(variant).api_to("chat", &echo.url("/"), "").start();
    let mut client = open(gateway.address(), "/chat");
    let taken = Port::free();
    let holder = TcpListener::bind(taken.address()).expect("a free port");
    let socket = gateway.setup().directory().join("taken.sock");
    let served = std::os::unix::net::UnixListener::bind(&socket).expect("a free path");
    let yaml = gateway.setup().yaml();
    let more = format!(
        "listeners:\n  - {{ name: taken, bind: \"{}\" }}\n  - {{ name: local, bind: \"unix:{}\" }}\n",
        taken.address(),
        socket.display()
    );
    let changed =
        yaml.replacen("listeners:\n", &more, 1).replace("name: chat, context: /chat", "name: chat, context: /moved");
    let rejected = gateway.apply(&changed);
    assert_eq!(rejected.code, 1, "{}{}", rejected.stdout, rejected.stderr);
    for sentence in [
        format!("listener taken: cannot bind {}: Address already in use", taken.address()),
        format!("listener local: cannot bind unix:{}: somebody serves this socket", socket.display()),
    ] {
        assert!(rejected.stdout.contains(&sentence), "{sentence}\nis not in\n{}", rejected.stdout);
    }
    // Nothing of it was taken over.
    expect_echo(&mut client, "still the old one");
    expect_echo(&mut open(gateway.address(), "/chat"), "and for new ones");
    assert_eq!(gateway.metric("framegate_generations_rejected_total", &[]), 1.0);
    assert_eq!(gateway.metric("framegate_generation_info", &[]), 1.0);
    drop((holder, served));
    // A socket that nobody serves any more is in nobody's way.
    let applied = gateway.apply(&changed);
    assert_eq!(applied.code, 0, "{}{}", applied.stdout, applied.stderr);
    expect_echo(&mut open(taken.address(), "/moved"), "now it is free");
    gateway.probe();
}

fn doors_open_change_and_close_beside_live_sessions(variant: Variant) {
    let echo = EchoBackend::start();
    let (side, late) = (Port::free(), Port::free());
    let setup = Setup::new(variant).workers(2);
    let unix = setup.directory().join("side.sock");
    let mut gateway = setup
        .another_listener(&format!("name: side, bind: \"{}\"", side.address()))
        .another_listener(&format!("name: side-local, bind: \"unix:{}\"", unix.display()))
        .api_to("chat", &echo.url("/"), "")
        .start();
    let mut local = Peer::connect_unix(&unix);
    local.upgrade("/chat");
    let mut sessions = vec![open(gateway.address(), "/chat"), open(side.address(), "/chat"), local];
    let mut in_the_door = Peer::connect(side.address());
    until("it is accepted", || gateway.metric("framegate_connections_accepted_total", &[]) >= 4.0);
    let before = gateway.setup().yaml();
    let public = format!("name: public, bind: \"{}\"", gateway.address());
    // One more door; one has new options.
    let added = before.replace(&public, &format!("{public}, handshake_timeout: 100ms, backlog: 16")).replacen(
        "listeners:\n",
        &format!("listeners:\n  - {{ name: late, bind: \"{}\" }}\n", late.address()),
        1,
    );
    let applied = gateway.apply(&added);
    assert_eq!(applied.code, 0, "{}{}", applied.stdout, applied.stderr);
    sessions.push(open(late.address(), "/chat"));
    let mut slow = gateway.connect();
    assert_eq!(slow.refused().status, 408, "the new options hold for new connections");
    // Two doors are gone, and one answers to another name.
    let removed: String =
        added.lines().filter(|line| !line.contains("name: side")).map(|line| format!("{line}\n")).collect();
    let applied = gateway.apply(&removed.replace("name: late", "name: renamed"));
    assert_eq!(applied.code, 0, "{}{}", applied.stdout, applied.stderr);
    until("the door is closed", || TcpStream::connect(side.address()).is_err());
    until("its file has gone", || !unix.exists());
    // Who was in it when it closed is let in.
    in_the_door.upgrade("/chat");
    sessions.push(in_the_door);
    for client in &mut sessions {
        expect_echo(client, "what door?");
    }
    let earlier = gateway.metric("framegate_connections_accepted_total", &[("listener", "renamed")]);
    expect_echo(&mut open(late.address(), "/chat"), "hello");
    assert_eq!(gateway.metric("framegate_connections_accepted_total", &[("listener", "renamed")]), earlier + 1.0);
    assert_eq!(gateway.metric("framegate_sessions_total", &[("api", "chat")]), 6.0);
    // And back again.
    let applied = gateway.apply(&before);
    assert_eq!(applied.code, 0, "{}{}", applied.stdout, applied.stderr);
    sessions.push(open(side.address(), "/chat"));
    let mut local = Peer::connect_unix(&unix);
    local.upgrade("/chat");
    sessions.push(local);
    for client in &mut sessions {
        expect_echo(client, "still here");
    }
    gateway.probe();
}
