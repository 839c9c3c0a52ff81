//! The record layer against rustls's own: whatever one seals the other opens, however it is cut.

use std::io::{Read, Write};
use std::sync::Arc;

use proptest::prelude::*;
use rustls::crypto::ring::{self, cipher_suite as suites};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection, SupportedCipherSuite,
};

use super::super::handshake::Shaking;
use super::*;

const SUITES: [SupportedCipherSuite; 6] = [
    suites::TLS13_AES_128_GCM_SHA256,
    suites::TLS13_AES_256_GCM_SHA384,
    suites::TLS13_CHACHA20_POLY1305_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// A session: rustls at the far end, our records at this one.
struct Session {
    far: Connection,
    here: Records,
}

fn configs(suite: SupportedCipherSuite) -> (ClientConfig, ServerConfig) {
    let provider = Arc::new(rustls::crypto::CryptoProvider { cipher_suites: vec![suite], ..ring::default_provider() });
    let version = if suite.tls13().is_some() { &TLS13 } else { &TLS12 };
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[version]).unwrap();
    let mut server = server.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    server.enable_secret_extraction = true;
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.enable_secret_extraction = true;
    (client, server)
}

/// A client far away, and a server here.
fn with_client(suite: SupportedCipherSuite) -> Session {
    let (client, server) = configs(suite);
    let far = ClientConnection::new(Arc::new(client), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut near = UnbufferedServerConnection::new(Arc::new(server)).unwrap();
    let (far, rest) = shake(far.into(), &mut near);
    let (secrets, kernel) = near.dangerous_into_kernel_connection().unwrap();
    Session { far, here: Records::of_server(secrets, kernel).unwrap() }.taking(rest)
}

/// A server far away, and a client here.
fn with_server(suite: SupportedCipherSuite) -> Session {
    let (client, server) = configs(suite);
    let far = ServerConnection::new(Arc::new(server)).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut near = rustls::client::UnbufferedClientConnection::new(Arc::new(client), name).unwrap();
    let (far, rest) = shake(far.into(), &mut near);
    let (secrets, kernel) = near.dangerous_into_kernel_connection().unwrap();
    Session { far, here: Records::of_client(secrets, kernel).unwrap() }.taking(rest)
}

/// Both handshakes, in memory. Returns what the far end has said behind its own.
fn shake(mut far: Connection, near: &mut impl Shaking) -> (Connection, Vec<u8>) {
    let mut incoming = Vec::new();
    let mut given = 0;
    loop {
        let mut outgoing = Vec::new();
        loop {
            let (done, more) = near.process(&mut incoming[..given], &mut outgoing);
            incoming.drain(..done);
            given -= done;
            if !more.unwrap() {
                break;
            }
        }
        let mut left = outgoing.as_slice();
        while !left.is_empty() {
            far.read_tls(&mut left).unwrap();
            far.process_new_packets().unwrap();
        }
        while far.wants_write() {
            far.write_tls(&mut incoming).unwrap();
        }
        if near.is_over() {
            return (far, incoming);
        }
        let header = incoming[given..].first_chunk::<5>().expect("the far end has said something");
        given += 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
    }
}

impl Session {
    /// Opens what came behind the handshake: tickets.
    fn taking(mut self, mut rest: Vec<u8>) -> Self {
        assert_eq!(self.here.open(&mut rest), Opened { plain: 0, end: None });
        self
    }

    /// What the far end sends for these bytes.
    fn far_says(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::new();
        for some in plain.chunks(50_000) {
            self.far.writer().write_all(some).unwrap();
            self.flush(&mut sealed);
        }
        sealed
    }

    fn flush(&mut self, sealed: &mut Vec<u8>) {
        while self.far.wants_write() {
            self.far.write_tls(sealed).unwrap();
        }
    }

    /// What the far end hears.
    fn far_hears(&mut self, mut sealed: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        while !sealed.is_empty() {
            self.far.read_tls(&mut sealed).unwrap();
            self.far.process_new_packets().unwrap();
            let _ = self.far.reader().read_to_end(&mut plain);
        }
        plain
    }

    /// What we hear, if it comes in these pieces.
    fn hear(&mut self, pieces: Vec<Vec<u8>>) -> (Vec<u8>, Option<End>) {
        let mut plain = Vec::new();
        for mut piece in pieces {
            let (whole, taken) = self.here.complete(&piece);
            for mut bytes in whole.into_iter().chain([piece.split_off(taken)]) {
                let opened = self.here.open(&mut bytes);
                plain.extend_from_slice(&bytes[..opened.plain]);
                if opened.end.is_some() {
                    return (plain, opened.end);
                }
            }
        }
        (plain, None)
    }

    fn say(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut room = vec![0; sealed_max(plain.len())];
        let length = self.here.seal(plain, &mut room, 1);
        room.truncate(length);
        room
    }

    fn broken_by(&mut self, bytes: Vec<u8>) -> Alert {
        match self.hear(vec![bytes]) {
            (plain, Some(End::Broken(alert))) if plain.is_empty() => alert,
            other => panic!("{other:?}"),
        }
    }
}

fn all() -> impl Iterator<Item = Session> {
    SUITES.into_iter().flat_map(|suite| [with_client(suite), with_server(suite)])
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn what_one_seals_the_other_opens() {
    for mut session in all() {
        for length in [0, 1, 64, FIRST_RECORDS, 16_383, 16_384, 16_385, 100_000, 262_144] {
            let plain = text(length);
            let sealed = session.far_says(&plain);
            assert!(session.hear(vec![sealed]) == (plain.clone(), None), "{length}");
            let sealed = session.say(&plain);
            assert!(sealed.len() <= sealed_max(length));
            assert!(session.far_hears(&sealed) == plain, "{length}");
        }
    }
}

#[test]
fn records_may_be_cut_anywhere() {
    for mut session in all() {
        for cut in 0.. {
            let mut sealed = session.far_says(b"one");
            sealed.extend(session.far_says(&[b'2'; 40]));
            sealed.extend(session.far_says(b"three"));
            let length = sealed.len();
            let rest = sealed.split_off(cut.min(length));
            let plain = [b"one".as_slice(), &[b'2'; 40], b"three"].concat();
            assert_eq!(session.hear(vec![sealed, rest]), (plain, None), "{cut}");
            if cut > length {
                break;
            }
        }
        let sealed = session.far_says(&text(20_000));
        assert!(session.hear(sealed.iter().map(|byte| vec![*byte]).collect()) == (text(20_000), None));
        assert_eq!(session.here.held.capacity(), 0, "nothing is kept while nothing is half there");
    }
}

#[test]
fn the_first_records_are_small_and_begin_again_after_a_rest() {
    let mut session = with_client(SUITES[0]);
    let records = |sealed: &[u8]| {
        let (mut at, mut lengths) = (0, Vec::new());
        while let Some(header) = sealed[at..].first_chunk::<5>() {
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            lengths.push(length - 17);
            at += 5 + length;
        }
        lengths
    };
    let sealed = session.say(&text(50_000));
    assert_eq!(records(&sealed)[..10], [FIRST_RECORDS; 10]);
    assert_eq!(records(&sealed)[10..], [PLAIN_MAX, PLAIN_MAX, 50_000 - 14_000 - 2 * PLAIN_MAX]);
    assert_eq!(records(&session.say(&text(20_000))), [PLAIN_MAX, 20_000 - PLAIN_MAX]);
    let mut room = vec![0; sealed_max(2000)];
    let length = session.here.seal(&text(2000), &mut room, 1 + u64::from(QUIET_MS));
    assert_eq!(records(&room[..length]), [FIRST_RECORDS, 600]);
}

#[test]
fn whatever_is_changed_on_the_way_is_noticed() {
    for mut session in all() {
        let mut sealed = session.far_says(b"a message");
        let last = sealed.len() - 1;
        sealed[last] ^= 1;
        assert_eq!(session.broken_by(sealed), Alert::BadRecordMac);
    }
    for mut session in all() {
        // Left out, and so the next has another number.
        session.far_says(b"one");
        let sealed = session.far_says(b"two");
        assert_eq!(session.broken_by(sealed), Alert::BadRecordMac);
    }
}

#[test]
fn headers_are_judged_before_their_content_comes() {
    for mut session in all() {
        let expansion_max = if session.here.version == Version::Tls13 { 256 } else { 2048 };
        let over = (PLAIN_MAX + expansion_max + 1) as u16;
        let [a, b] = over.to_be_bytes();
        assert_eq!(session.broken_by(vec![DATA, 3, 3, a, b]), Alert::RecordOverflow);
    }
    for mut session in all() {
        assert_eq!(session.broken_by(vec![DATA, 3, 3, 0, 8]), Alert::BadRecordMac);
    }
    for mut session in all() {
        // A change_cipher_spec, an old version, HTTP.
        assert_eq!(session.broken_by(vec![20, 3, 3, 0, 1, 1]), Alert::UnexpectedMessage);
    }
    for mut session in all() {
        assert_eq!(session.broken_by(b"GET / HTTP/1.1\r\n\r\n".to_vec()), Alert::UnexpectedMessage);
    }
}

#[test]
fn a_peer_may_say_that_it_ends() {
    for mut session in all() {
        let mut sealed = session.far_says(b"last words");
        session.far.send_close_notify();
        session.flush(&mut sealed);
        sealed.extend_from_slice(b"what comes behind is nothing");
        assert_eq!(session.hear(vec![sealed]), (b"last words".to_vec(), Some(End::Closed)));
        let farewell = session.here.goodbye(Alert::CloseNotify);
        session.far_hears(farewell.as_bytes());
        assert!(session.here.goodbye(Alert::CloseNotify).as_bytes().is_empty(), "it is said once");
        let state = session.far.process_new_packets().unwrap();
        assert!(state.peer_has_closed());
    }
}

#[test]
fn keys_are_updated_by_either_side() {
    for mut session in all().filter(|session| session.here.version == Version::Tls13) {
        for round in 0..100 {
            session.far.refresh_traffic_keys().unwrap();
            let sealed = session.far_says(&[round]);
            assert_eq!(session.hear(vec![sealed]), (vec![round], None));
            // It asked for ours, too.
            assert!(session.here.update_due);
            let sealed = session.say(b"under new keys");
            assert_eq!(session.far_hears(&sealed), b"under new keys");
        }
        session.here.sealing.sequence = UPDATE_AFTER;
        // The far end's count is another; what is looked at is that the keys have changed.
        session.say(b"x");
        assert_eq!(session.here.sealing.sequence, 1);
    }
}

#[test]
fn who_only_updates_keys_is_cut() {
    let mut session = with_client(SUITES[0]);
    let mut sealed = Vec::new();
    for _ in 0..=FRUITLESS_MAX {
        session.far.refresh_traffic_keys().unwrap();
        session.flush(&mut sealed);
    }
    assert_eq!(session.broken_by(sealed), Alert::UnexpectedMessage);
}

/// A far end that breaks rules has our own record layer.
fn two(suite: SupportedCipherSuite) -> (Records, Session) {
    let (client, server) = configs(suite);
    let mut near = UnbufferedServerConnection::new(Arc::new(server)).unwrap();
    let mut far =
        rustls::client::UnbufferedClientConnection::new(Arc::new(client), ServerName::try_from("localhost").unwrap())
            .unwrap();
    let (mut to_near, mut to_far) = (Vec::new(), Vec::new());
    while !near.is_over() || !far.is_over() {
        whole(&mut far, &mut to_far, &mut to_near);
        whole(&mut near, &mut to_near, &mut to_far);
    }
    let (secrets, kernel) = far.dangerous_into_kernel_connection().unwrap();
    let far = Records::of_client(secrets, kernel).unwrap();
    let (secrets, kernel) = near.dangerous_into_kernel_connection().unwrap();
    let here = Records::of_server(secrets, kernel).unwrap();
    let unused = with_client(suite).far;
    (far, Session { far: unused, here })
}

fn whole(side: &mut impl Shaking, incoming: &mut Vec<u8>, outgoing: &mut Vec<u8>) {
    loop {
        let (done, more) = side.process(incoming, outgoing);
        incoming.drain(..done);
        if !more.unwrap() {
            return;
        }
    }
}

#[test]
fn records_that_bring_nothing_are_borne_for_a_while() {
    for suite in SUITES {
        let (mut far, mut session) = two(suite);
        for _ in 0..FRUITLESS_MAX {
            let bytes = far.forge(DATA, b"");
            assert_eq!(session.hear(vec![bytes]), (Vec::new(), None));
        }
        let bytes = far.forge(DATA, b"x");
        assert_eq!(session.hear(vec![bytes]), (b"x".to_vec(), None));
        let flood: Vec<u8> = (0..=FRUITLESS_MAX).flat_map(|_| far.forge(DATA, b"")).collect();
        assert_eq!(session.broken_by(flood), Alert::UnexpectedMessage);
    }
}

#[test]
fn messages_that_have_no_place_after_the_handshake_end_it() {
    for suite in SUITES {
        let tls13 = suite.tls13().is_some();
        let renegotiation = if tls13 { Alert::UnexpectedMessage } else { Alert::NoRenegotiation };
        for (kind, content, alert) in [
            // A ClientHello, a KeyUpdate with something behind it, a ticket from a client, one with a wrong value.
            (HANDSHAKE, vec![1, 0, 0, 1, 0], renegotiation),
            (HANDSHAKE, vec![KEY_UPDATE, 0, 0, 1, 0, 1, 0, 0, 0], renegotiation),
            (HANDSHAKE, vec![NEW_SESSION_TICKET, 0, 0, 0], renegotiation),
            (HANDSHAKE, vec![KEY_UPDATE, 0, 0, 1, 2], renegotiation),
            (HANDSHAKE, vec![1], renegotiation),
            (HANDSHAKE, vec![], Alert::UnexpectedMessage),
            (ALERT, vec![1], Alert::DecodeError),
            (ALERT, vec![], Alert::DecodeError),
        ] {
            let (mut far, mut session) = two(suite);
            let bytes = far.forge(kind, &content);
            assert_eq!(session.broken_by(bytes), alert, "{kind} {content:?}");
        }
        let (mut far, mut session) = two(suite);
        let bytes = far.forge(ALERT, &[2, 40]);
        assert_eq!(session.hear(vec![bytes]), (Vec::new(), Some(End::GivenUp(40))));
    }
}

#[test]
fn a_message_may_come_in_pieces_but_not_without_end() {
    let (mut far, mut session) = two(SUITES[0]);
    for byte in [KEY_UPDATE, 0, 0, 1] {
        let bytes = far.forge(HANDSHAKE, &[byte]);
        assert_eq!(session.hear(vec![bytes]), (Vec::new(), None));
    }
    let before = session.here.opening.sequence;
    let bytes = far.forge(HANDSHAKE, &[0]);
    assert_eq!(session.hear(vec![bytes]), (Vec::new(), None));
    assert!(session.here.opening.sequence < before, "the keys are new");
    // No longer than it can be, and with nothing between its parts.
    let (mut far, mut session) = two(SUITES[0]);
    let bytes = far.forge(HANDSHAKE, &[KEY_UPDATE, 0, 255, 255]);
    assert_eq!(session.broken_by(bytes), Alert::DecodeError);
    for (kind, content) in [(DATA, b"x".as_slice()), (DATA, b""), (ALERT, &[1, 0])] {
        let (mut far, mut session) = two(SUITES[0]);
        let bytes = [far.forge(HANDSHAKE, &[KEY_UPDATE, 0]), far.forge(kind, content)].concat();
        assert_eq!(session.broken_by(bytes), Alert::UnexpectedMessage);
    }
}

#[test]
fn padding_counts_towards_the_length_of_a_record() {
    for suite in &SUITES[..3] {
        let (mut far, mut session) = two(*suite);
        // Zeros behind the kind, of which the last zero but one passes for it.
        let bytes = far.forge(0, &[b"x".as_slice(), &[DATA], &vec![0; PLAIN_MAX - 2]].concat());
        assert!(session.hear(vec![bytes]) == (b"x".to_vec(), None));
        let bytes = far.forge(0, &[b"x".as_slice(), &[DATA], &vec![0; PLAIN_MAX - 1]].concat());
        assert_eq!(session.broken_by(bytes), Alert::RecordOverflow);
    }
}

#[test]
fn a_header_alone_commits_no_memory() {
    let mut session = with_client(SUITES[0]);
    assert_eq!(session.hear(vec![vec![DATA, 3, 3, 0x40, 0]]), (Vec::new(), None));
    assert!(session.here.held.capacity() < 64, "{}", session.here.held.capacity());
}

#[test]
fn what_a_session_keeps_is_known() {
    assert!(size_of::<Records>() <= 1280, "{}", size_of::<Records>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_that_mean_nothing_are_borne(bytes in proptest::collection::vec(any::<u8>(), 0..2000), cuts in 1_usize..200) {
        let mut session = with_client(SUITES[1]);
        let _ = session.hear(bytes.chunks(cuts).map(<[u8]>::to_vec).collect());
    }

    #[test]
    fn pieces_of_any_size_say_the_same(lengths in proptest::collection::vec(1_usize..40_000, 1..6), cut in 1_usize..30_000) {
        let mut session = with_server(SUITES[0]);
        let mut sealed = Vec::new();
        let mut plain = Vec::new();
        for length in lengths {
            plain.extend(text(length));
            sealed.extend(session.far_says(&text(length)));
        }
        prop_assert!(session.hear(sealed.chunks(cut).map(<[u8]>::to_vec).collect()) == (plain, None));
    }
}
