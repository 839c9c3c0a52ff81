//! Is the kit right? Its frames, its echo and its scripted peers, against each other and against a client of others.

use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use tungstenite::Message;

use crate::kit::frame::LengthForm;
use crate::kit::line::End;
use crate::kit::pki::{self, Authority, Key, Leaf, Valid};
use crate::kit::tls::{self, Agreed};
use crate::kit::tokens::{Algorithm, Signer, Token};
use crate::kit::{EchoBackend, Frame, Opcode, Peer, Random, RawUpstream, Secrets, Variant, until};

#[test]
fn frames_are_read_as_they_were_built() {
    let mut random = Random::announced("frames_are_read_as_they_were_built");
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
        for mask in [None, Some(random.key())] {
            let frame = Frame { mask, ..Frame::binary(random.bytes(length)).unfinished().reserved(4) };
            let bytes = frame.encode();
            assert_eq!(Frame::decode(&bytes), Some((frame, bytes.len())), "{length}");
            assert_eq!(Frame::decode(&bytes[..bytes.len() - 1]), None, "{length}");
        }
    }
    let long = Frame::text("x").length_form(LengthForm::Eight).encode();
    assert_eq!(Frame::decode(&long).map(|(frame, _)| frame.length), Some(LengthForm::Eight));
}

#[test]
fn the_echo_says_back_what_a_client_of_others_sends() {
    let echo = EchoBackend::start();
    let stream = TcpStream::connect(echo.address()).unwrap();
    let (mut socket, _) = tungstenite::client(echo.url("/"), stream).unwrap();
    let mut random = Random::announced("the_echo_says_back_what_a_client_of_others_sends");
    for length in [0, 1, 125, 126, 16_384, 65_536, 1 << 20] {
        let message = Message::binary(random.bytes(length));
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message, "{length}");
    }
    socket.send(Message::Ping("x".into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong("x".into()));
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    until("the echo has let go", || echo.live() == 0);
    assert_eq!((echo.connections(), echo.messages()), (1, 7));
}

#[test]
fn scripted_peers_understand_each_other() {
    let upstream = RawUpstream::listen();
    let mut client = Peer::connect(upstream.address());
    client.send(&crate::kit::Upgrade::to("/chat?x=1").with("X-More", "yes").encode());
    let mut backend = upstream.accept();
    let head = backend.agree();
    assert_eq!((head.target(), head.header("x-more")), ("/chat?x=1".into(), Some("yes")));
    client.upgraded();
    client.send_frame(&Frame::text("hello"));
    backend.expect(Opcode::TEXT, b"hello");
    backend.send_frame(&Frame::text("one ").unfinished());
    backend.send_frame(&Frame::continuation("two"));
    assert_eq!(client.message(), (Opcode::TEXT, b"one two".to_vec()));
    backend.send_frame(&Frame::close(4001, "enough"));
    assert_eq!(client.expect_close(4001), "enough");
    drop(client);
    backend.expect_end();
}

/// The client of a scripted upstream that speaks TLS, and the upstream.
fn securely() -> (Peer, Peer) {
    let upstream = RawUpstream::listen_securely(tls::service());
    let connecting = std::thread::spawn({
        let address = upstream.address();
        move || tls::Terms::default().name(Some("service.test")).client().connect(address)
    });
    let mut backend = upstream.accept();
    assert!(!backend.has_heard());
    backend.line().handshake().unwrap();
    (connecting.join().unwrap(), backend)
}

#[test]
fn over_tls_scripted_peers_say_and_hear_the_same() {
    if !pki::is_available() {
        return;
    }
    let (mut client, mut backend) = securely();
    client.send(&crate::kit::Upgrade::to("/chat").encode());
    backend.agree();
    client.upgraded();
    client.send_in_pieces(&Frame::text("a byte at a time").masked([1; 4]).encode(), 1);
    backend.expect(Opcode::TEXT, b"a byte at a time");
    let large = Frame::binary(Random::fixed(1).bytes(5 << 20));
    let wire = large.encode();
    let taken = backend.send_until_stuck(&wire, Duration::from_millis(50));
    assert!(taken < wire.len(), "a reader that does not read stops the writer");
    let mut second = backend.second_end();
    std::thread::scope(|scope| {
        scope.spawn(|| second.send(&wire[taken..]));
        assert!(client.frame() == large);
        client.send_frame(&Frame::text("meanwhile"));
    });
    backend.expect(Opcode::TEXT, b"meanwhile");
    client.expect_silence(Duration::from_millis(10));
    let agreed = Agreed::on(&client);
    assert!(agreed.shows(&pki::shared().service) && agreed.kind == rustls::HandshakeKind::Full, "{agreed:?}");
    assert_eq!(Agreed::on(&backend).server_name.as_deref(), Some("service.test"));
    client.finish();
    backend.expect_notified_end();
    backend.send_frame(&Frame::text("only one direction has ended"));
    client.expect(Opcode::TEXT, b"only one direction has ended");
    drop((backend, second));
    client.expect_notified_end();
}

#[test]
fn over_tls_what_was_taken_goes_by_itself_and_ends_are_told_apart() {
    if !pki::is_available() {
        return;
    }
    let (mut client, mut backend) = securely();
    let flood = vec![b'x'; 64 << 20];
    let taken = backend.send_until_stuck(&flood, Duration::from_millis(100));
    assert!(taken < flood.len());
    let mut heard = 0;
    while heard < taken {
        assert!(client.hear());
        heard += client.take_unread().len();
    }
    assert_eq!(heard, taken);
    client.line().be_silent();
    drop(client);
    backend.expect_end();
    assert_eq!(backend.line().end(), Some(End::Truncated));
    let (client, mut backend) = securely();
    client.reset();
    backend.expect_end();
    let upstream = RawUpstream::listen_securely(tls::service());
    let stranger = tls::Terms::default().name(Some("else.test")).client();
    let connecting = std::thread::spawn({
        let address = upstream.address();
        move || stranger.try_connect(address).map(|_| ()).unwrap_err().to_string()
    });
    let backend = upstream.accept();
    let _ = backend.line().handshake();
    let why = connecting.join().unwrap();
    assert!(why.contains("not valid for name") || why.contains("NotValidForName"), "{why}");
}

#[test]
fn the_echo_says_it_back_over_tls() {
    if !pki::is_available() {
        return;
    }
    let echo = EchoBackend::start_on(Variant::SecureOut);
    let address = echo.address();
    let mut client =
        tls::Terms::default().name(Some("localhost")).version(&rustls::version::TLS12).client().connect(address);
    client.upgrade("/");
    client.send_frame(&Frame::text("hello"));
    client.expect(Opcode::TEXT, b"hello");
    client.send_frame(&Frame::close(1000, ""));
    client.expect_close(1000);
    client.expect_notified_end();
}

#[test]
fn authorities_sign_refuse_and_revoke() {
    if !pki::is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::root(directory.path(), "own");
    let now = |name: &str, key| authority.issue(&Leaf::new(name).names(&["DNS:own.test"]).key(key));
    let identities = [("p256", Key::P256), ("p384", Key::P384), ("ed25519", Key::Ed25519), ("rsa", Key::Rsa2048)]
        .map(|(name, key)| now(name, key));
    let refusal = |identity: &pki::Identity| {
        let upstream = RawUpstream::listen_securely(&tls::Service::new(identity, None));
        let terms = tls::Terms::default().name(Some("own.test")).roots(&authority.certificate());
        let address = upstream.address();
        let connecting =
            std::thread::spawn(move || terms.client().try_connect(address).err().map(|error| error.to_string()));
        let _ = upstream.accept().line().handshake();
        connecting.join().unwrap()
    };
    for identity in &identities {
        assert_eq!(refusal(identity), None, "{identity:?}");
        assert!(identity.pin().starts_with("sha256/") && identity.pin().len() == 51, "{}", identity.pin());
    }
    let leaf = |name, valid| authority.issue(&Leaf::new(name).names(&["DNS:own.test"]).valid(valid));
    for (identity, why) in [
        (leaf("expired", Valid::Expired), "expired"),
        (leaf("later", Valid::Later), "not valid yet"),
        (pki::self_signed(directory.path(), &Leaf::new("self").names(&["DNS:own.test"])), "UnknownIssuer"),
        (pki::shared().service.clone(), "UnknownIssuer"),
    ] {
        let refused = refusal(&identity).expect("a refusal");
        assert!(refused.contains(why), "{refused}");
    }
    let before = std::fs::read_to_string(authority.revocations()).unwrap();
    authority.revoke(&identities[0]);
    assert_ne!(std::fs::read_to_string(authority.revocations()).unwrap(), before);
    assert!(std::fs::metadata(authority.ocsp(&identities[1])).unwrap().len() > 100);
}

/// What is planted in every way in which somebody could write it by accident is found; and nothing where there is nothing.
#[test]
fn secrets_are_found_however_they_are_written() {
    let secret = "s3cret: of+the/gate\"way\\?\u{fc}~";
    let mut secrets = Secrets::new();
    secrets.add("planted", secret);
    let percent = |is_plain: fn(u8) -> bool| -> String {
        let each = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        secret.bytes().map(each).collect()
    };
    let all = percent(|_| false);
    let mut planted = vec![
        ("as it is", secret.to_owned()),
        ("reserved characters", percent(|byte| byte.is_ascii_alphanumeric())),
        ("as a query", percent(|byte| byte.is_ascii_graphic())),
        ("in small digits", all.to_lowercase()),
        ("twice", all.replace('%', "%25")),
        ("a form", percent(|byte| byte.is_ascii_alphanumeric() || byte == b' ').replace(' ', "+")),
        ("all of it", all),
        ("digits", secret.bytes().map(|byte| format!("{byte:02x}")).collect()),
        ("capitals", secret.bytes().map(|byte| format!("{byte:02X}")).collect()),
        ("Debug of bytes", format!("{:?}", secret.as_bytes())),
        ("Debug of a header", secret.as_bytes().escape_ascii().to_string()),
        ("Debug of that", format!("{:?}", secret.as_bytes().escape_ascii().to_string())),
        ("Debug of a text", format!("{secret:?}")),
        ("JSON", serde_json::to_string(secret).unwrap()),
        ("bytes in JSON", serde_json::to_string(secret.as_bytes()).unwrap()),
    ];
    for (before, after) in (0..3).flat_map(|before| (0..3).map(move |after| (before, after))) {
        let whole = [&b"xyz"[..before], secret.as_bytes(), &b"uvw"[..after]].concat();
        for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
            let text = engine.encode(&whole);
            planted.push(("Base64 in a query", text.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D")));
            let lines: Vec<_> = text.as_bytes().chunks(16).map(|line| str::from_utf8(line).unwrap()).collect();
            planted.push(("PEM", lines.join("\n")));
            planted.push(("PEM in JSON", lines.join("\\n")));
            planted.push(("Base64", text));
        }
    }
    let mut random = Random::announced("secrets_are_found_however_they_are_written");
    for (way, text) in &planted {
        let around = [random.bytes(300), random.bytes(300)];
        let found = secrets.find(&[&around[0], text.as_bytes(), &around[1]].concat());
        assert!(found.as_ref().is_some_and(|found| found.what == "planted"), "{way}: {text}: {found:?}");
        assert_eq!(secrets.except(|what| what == "planted").find(text.as_bytes()), None);
    }
    assert_eq!(secrets.find(&random.bytes(1 << 20)), None);
    assert_eq!(secrets.find(secret.replace('t', "T").as_bytes()), None, "another secret is another's business");
}

#[test]
fn private_keys_are_found_and_public_ones_may_be_seen() {
    for algorithm in Algorithm::ALL {
        let signer = Signer::new(algorithm, "planted");
        let mut secrets = Secrets::new();
        secrets.add_private_key("planted", signer.private_pkcs8());
        let der = signer.private_pkcs8();
        for (way, text) in [
            ("PEM", signer.private_pem().into_bytes()),
            ("PEM in JSON", signer.private_pem().replace('\n', "\\n").into_bytes()),
            ("DER", der.to_vec()),
            ("a list", format!("{der:?}").into_bytes()),
            // RFC 8037 §2, RFC 7518 §6.2.2: its private number.
            ("JWK", format!("{{\"d\":\"{}\"}}", URL_SAFE_NO_PAD.encode(private_number(der))).into_bytes()),
        ] {
            assert!(secrets.find(&text).is_some(), "{algorithm:?}: {way}");
        }
        for public in [signer.jwk().to_string(), format!("{signer:?}"), Token::of("x").sign(&signer)] {
            assert_eq!(secrets.find(public.as_bytes()), None, "{algorithm:?}");
        }
    }
}

fn private_number(pkcs8: &[u8]) -> &[u8] {
    match pkcs8.len() {
        138 => &pkcs8[36..68],
        length if length > 1000 => &pkcs8[length - 900..],
        _ => &pkcs8[16..48],
    }
}
