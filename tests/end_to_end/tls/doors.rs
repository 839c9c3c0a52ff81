//! The door: TLS beside listeners in clear, those who speak the wrong language at it, and those who do not come through.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{expect_echo, expect_failures, expect_service};
use crate::kit::gateway::http_get;
use crate::kit::pki::{Authority, Leaf};
use crate::kit::tls::{Agreed, Client, Terms};
use crate::kit::{DEADLINE, Gateway, Opcode, Peer, Port, Setup, Upgrade, Variant, on_both_drivers_securely, until};

on_both_drivers_securely!(
    tls_and_clear_stand_side_by_side,
    http_in_clear_is_told_that_this_is_tls,
    a_hello_in_pieces_is_a_hello,
    a_handshake_has_one_deadline,
    garbage_is_no_hello,
    thousands_of_half_handshakes_cost_little,
    a_listener_takes_up_tls_and_lays_it_down,
);

fn tls_and_clear_stand_side_by_side(variant: Variant) {
    let (clear, second) = (Port::free(), Port::free());
    let setup = Setup::new(variant).workers(2);
    let authority = Authority::root(setup.directory(), "own");
    let own = authority.issue(&Leaf::new("own").names(&["DNS:own.test"]));
    let mut gateway = setup
        .certificate(&own.entry("own"))
        .another_listener(&format!("name: clear, bind: \"{}\"", clear.address()))
        .another_listener(&format!("name: second, bind: \"{}\", tls: {{ certificates: [own] }}", second.address()))
        .start();
    let other = Terms::default().roots(&authority.certificate()).name(Some("own.test")).client();
    let mut clients: Vec<_> = (0..8)
        .flat_map(|_| [gateway.connect(), Peer::connect(clear.address()), other.connect(second.address())])
        .collect();
    for client in &mut clients {
        client.upgrade("/probe");
    }
    for round in 0..3 {
        clients.iter_mut().for_each(|client| expect_echo(client, &format!("round {round}")));
    }
    assert!(clients.iter().skip(2).step_by(3).all(|client| Agreed::on(client).shows(&own)));
    for listener in ["public", "clear", "second"] {
        assert_eq!(
            gateway.metric("framegate_connections_accepted_total", &[("listener", listener)]),
            8.0,
            "{listener}"
        );
    }
    gateway.probe();
}

fn http_in_clear_is_told_that_this_is_tls(variant: Variant) {
    let mut gateway = Setup::new(variant).start();
    let (status, body) = http_get(gateway.address(), "/probe").expect("an answer");
    assert_eq!(status, 400);
    assert!(body.contains("TLS"), "{body}");
    let mut client = Peer::connect(gateway.address());
    client.send(&Upgrade::to("/probe").encode());
    let refused = client.refused();
    assert_eq!(refused.status, 400, "{}", refused.head);
    // A byte at a time, and with something behind it.
    let mut client = Peer::connect(gateway.address());
    for byte in Upgrade::to("/probe").encode() {
        if !client.try_send(&[byte]) {
            break;
        }
    }
    let answer = client.rest();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 "), "{}", answer.escape_ascii());
    expect_failures(&gateway, "plain_http", 3);
    gateway.probe();
}

/// What a client says first, on its way to nobody.
fn hello(client: &Client) -> Vec<u8> {
    let mut connection = client.connection();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("a ClientHello");
    hello
}

/// Puts bytes between a client and the gateway, in pieces of a size.
fn in_pieces(gateway: &Gateway, piece: usize) {
    let mut connection = crate::kit::tls::client().connection();
    let mut socket = TcpStream::connect(gateway.address()).expect("the gateway accepts connections");
    socket.set_nodelay(true).expect("an option");
    socket.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
    let mut flight = Vec::new();
    while connection.is_handshaking() {
        flight.clear();
        while connection.wants_write() {
            connection.write_tls(&mut flight).expect("a buffer takes everything");
        }
        for piece in flight.chunks(piece) {
            std::io::Write::write_all(&mut socket, piece).expect("the gateway takes it");
        }
        if connection.is_handshaking() {
            assert_ne!(connection.read_tls(&mut socket).expect("an answer"), 0, "the handshake ended");
            connection.process_new_packets().expect("an answer in order");
        }
    }
    flight.clear();
    connection.write_tls(&mut flight).expect("a buffer takes everything");
    flight.chunks(piece).for_each(|piece| {
        std::io::Write::write_all(&mut socket, piece).expect("the gateway takes it");
    });
    // What was cut before is no reason to lose what comes behind it.
    let (mut socket, _) = tungstenite::client("ws://gateway.test/probe", rustls::StreamOwned::new(connection, socket))
        .expect("a session");
    let word = tungstenite::Message::text("cut and whole");
    socket.send(word.clone()).expect("a message can be sent");
    assert_eq!(socket.read().expect("an echo"), word);
}

fn a_hello_in_pieces_is_a_hello(variant: Variant) {
    let gateway = Setup::new(variant).start();
    for piece in [1, 2, 5, 6, 100] {
        in_pieces(&gateway, piece);
    }
}

fn a_handshake_has_one_deadline(variant: Variant) {
    let mut gateway = Setup::new(variant).listener("handshake_timeout: 600ms").start();
    let before = gateway.descriptors();
    let hello = hello(crate::kit::tls::client());
    let start = Instant::now();
    // Half a hello; one that comes a byte at a time; one whose answer is never answered.
    let mut half = Peer::connect(gateway.address());
    half.send(&hello[..hello.len() / 2]);
    let mut deaf = Peer::connect(gateway.address());
    deaf.send(&hello);
    let mut done = gateway.connect();
    let mut slow = Peer::connect(gateway.address());
    for byte in &hello {
        if start.elapsed() > Duration::from_millis(900) || !slow.try_send(&[*byte]) {
            break;
        }
        std::thread::sleep(Duration::from_millis(15));
    }
    for client in [&mut half, &mut deaf, &mut slow] {
        client.rest();
    }
    // Its handshake is over, and its request is what does not come.
    assert_eq!(done.refused().status, 408);
    let taken = start.elapsed();
    assert!((Duration::from_millis(590)..Duration::from_secs(3)).contains(&taken), "{taken:?}");
    drop((half, deaf, done, slow));
    expect_failures(&gateway, "timeout", 3);
    until("nothing is under way", || gateway.metric("framegate_handshakes_active", &[]) == 0.0);
    gateway.expect_descriptors_back_to(before);
    gateway.probe();
}

fn garbage_is_no_hello(variant: Variant) {
    let mut gateway = Setup::new(variant).start();
    let before = gateway.descriptors();
    let mut random = crate::kit::Random::announced("garbage_is_no_hello");
    let mut garbage: Vec<Vec<u8>> = (0..40).map(|_| random.bytes(300)).collect();
    for start in [
        // A record of a handshake, of 64 KiB; of 16 KiB and one byte; of nothing, over and over; of another version.
        &[22, 3, 1, 0xff, 0xff][..],
        &[22, 3, 1, 0x40, 0x01],
        &[22, 3, 1, 0, 0, 22, 3, 1, 0, 0, 22, 3, 1, 0, 0],
        &[22, 9, 9, 0, 5, 1, 0, 0, 1, 0],
        // A message of 16 MiB; a ServerHello; alerts, a change of ciphers, data before any key.
        &[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff],
        &[22, 3, 3, 0, 4, 2, 0, 0, 0],
        &[21, 3, 3, 0, 2, 1, 90],
        &[20, 3, 3, 0, 1, 1],
        &[23, 3, 3, 0, 1, 0],
        // Two bytes that say how long an SSLv2 hello is; a PROXY header; a preface of HTTP/2.
        &[0x80, 0x2e, 1, 3, 1],
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        garbage.push([start, &random.bytes(200)].concat());
    }
    for bytes in &garbage {
        let mut client = Peer::connect(gateway.address());
        client.try_send(bytes);
        client.finish();
        let answer = client.rest();
        assert!(answer.len() < 1000, "{} bytes came for {}", answer.len(), bytes[..20].escape_ascii());
    }
    gateway.expect_descriptors_back_to(before);
    gateway.probe();
}

fn thousands_of_half_handshakes_cost_little(variant: Variant) {
    const AT_ONCE: usize = 500;
    const ROUNDS: usize = 6;
    /// What one that waits may hold: what it has sent, what it was answered, and the state of its handshake.
    const EACH_BYTES_MAX: u64 = 48 * 1024;
    crate::drills::raise_descriptors();
    let mut gateway = Setup::new(variant).listener("handshake_timeout: 2s").start();
    gateway.probe();
    let (before, memory) = (gateway.descriptors(), gateway.rss_bytes());
    let hello = hello(crate::kit::tls::client());
    for round in 0..ROUNDS {
        let crowd: Vec<_> = (0..AT_ONCE)
            .map(|at| {
                let mut peer = Peer::connect(gateway.address());
                // Some have not said everything, others do not listen.
                peer.send(if at % 2 == 0 { &hello } else { &hello[..hello.len() - 1] });
                peer
            })
            .collect();
        // In their midst others are served.
        gateway.probe();
        let grown = gateway.rss_bytes().saturating_sub(memory);
        assert!(grown < AT_ONCE as u64 * EACH_BYTES_MAX, "{grown} bytes for {AT_ONCE} half handshakes");
        if round % 2 == 0 {
            // They go by themselves, or are cut.
            drop(crowd);
        } else {
            for mut peer in crowd {
                peer.rest();
            }
        }
        gateway.expect_descriptors_back_to(before);
    }
    until("nothing is under way", || gateway.metric("framegate_handshakes_active", &[]) == 0.0);
    gateway.probe();
}

/// One listener, in clear, then with TLS, then in clear: who is in stays as he came.
fn a_listener_takes_up_tls_and_lays_it_down(variant: Variant) {
    let gateway = Setup::new(variant).start();
    let with_tls = gateway.setup().yaml();
    let in_clear = with_tls.replace(", tls: { certificates: [edge] }", "");
    assert_ne!(with_tls, in_clear);
    let address: SocketAddr = gateway.address();
    let mut sessions = Vec::new();
    for yaml in [&in_clear, &with_tls, &in_clear, &with_tls] {
        let applied = gateway.apply(yaml);
        assert_eq!(applied.code, 0, "{applied:?}");
        let mut client = if yaml == &in_clear { Peer::connect(address) } else { gateway.connect() };
        client.upgrade("/probe");
        sessions.push(client);
        for client in &mut sessions {
            expect_echo(client, "as I came");
        }
    }
    expect_service(gateway.connect());
    let mut stream = TcpStream::connect(address).expect("the gateway accepts connections");
    stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    sessions[0].send_frame(&crate::kit::Frame::close(1000, ""));
    sessions[0].expect(Opcode::CLOSE, &1000_u16.to_be_bytes());
}
