//! Is the kit right? Its frames, its echo and its scripted peers, against each other and against a client of others.

use std::net::TcpStream;

use tungstenite::Message;

use crate::kit::frame::LengthForm;
use crate::kit::{EchoBackend, Frame, Opcode, Peer, Random, RawUpstream, until};

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
