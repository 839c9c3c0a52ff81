//! RFC 9112: request and response heads, and the shapes that smuggle.

use proto::http::{BodyLength, HeadFault, RequestHead, RequestScan, ResponseHead};
use proto::limits::{CONNECTION_OPTIONS_MAX, HEAD_BYTES_MAX, HEADERS_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX};
use proto::parse::Parse;

fn request(bytes: &[u8]) -> Result<Parse<RequestHead>, HeadFault> {
    RequestHead::parse(bytes)
}

fn complete(bytes: &[u8]) -> RequestHead {
    match request(bytes) {
        Ok(Parse::Complete(head, used)) => {
            assert_eq!(used, head.length());
            head
        }
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

#[test]
fn a_request_is_read_in_parts() {
    let bytes = b"\r\nGET /chat/1.0/room?a=1&b=%zz?c HTTP/1.1\r\nHost: Example.com:81\r\nX-List: a\r\nx-list:\t b\xff \r\nEmpty:\r\n\r\nmore";
    let head = complete(bytes);
    assert_eq!(&bytes[head.length()..], b"more");
    let view = head.view(bytes);
    assert_eq!(view.method(), "GET");
    assert_eq!(view.target(), "/chat/1.0/room?a=1&b=%zz?c");
    assert_eq!(view.path(), "/chat/1.0/room");
    assert_eq!(view.query(), Some("a=1&b=%zz?c"));
    assert_eq!(view.minor(), 1);
    assert_eq!(view.header("HOST"), Some(b"Example.com:81".as_slice()));
    assert_eq!(view.header_str("host"), Some("Example.com:81"));
    assert_eq!(view.header_values("x-list").collect::<Vec<_>>(), [b"a".as_slice(), b"b\xff"]);
    assert_eq!(view.header("empty"), Some(b"".as_slice()));
    assert_eq!(view.header("absent"), None);
    assert_eq!(view.headers().count(), 4);
    let host = view.host().unwrap();
    assert_eq!((host.name.as_str(), host.port), ("example.com", Some(81)));
}

#[test]
fn targets_in_absolute_form_name_their_host() {
    for (target, path, query, host) in [
        ("http://Other.example:8080/chat?x", "/chat", Some("x"), "other.example"),
        ("HTTP://other.example", "/", None, "other.example"),
        ("https://other.example?x", "/", Some("x"), "other.example"),
        ("/chat", "/chat", None, "asked.example"),
        ("/%63hat", "/%63hat", None, "asked.example"),
        ("/?", "/", Some(""), "asked.example"),
        ("/http://x".replace("//", "/").as_str(), "/http:/x", None, "asked.example"),
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: asked.example\r\n\r\n");
        let head = complete(bytes.as_bytes());
        let view = head.view(bytes.as_bytes());
        assert_eq!((view.path(), view.query()), (path, query), "{target}");
        assert_eq!(view.host().unwrap().name, host, "{target}");
        assert!(view.authority().to_ascii_lowercase().starts_with(host), "{target}");
        assert_eq!(view.route_path(), path.replace("%63", "c"));
    }
}

#[test]
fn hosts_that_are_missing_doubled_or_malformed_are_no_hosts() {
    for fields in ["", "Host: a\r\nHost: a\r\n", "Host: \r\n", "Host: a b\r\n", "Host: a, b\r\n", "Host: u@a\r\n"] {
        let bytes = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        assert!(complete(bytes.as_bytes()).view(bytes.as_bytes()).host().is_err(), "{fields:?}");
    }
    let bytes = b"GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(complete(bytes).view(bytes).host().is_err());
}

#[test]
fn malformed_requests_are_refused() {
    for bytes in [
        // Not HTTP at all, and seen at once.
        b"\x16\x03\x01".as_slice(),
        b"\0",
        b" ",
        b"\n",
        b"\r\r",
        b"\r\n\r\n",
        b"GET\t",
        b"G\xc3\xa9",
        b"GET  /",
        b"GET / HTTP/1.1 ",
        b"GET / FTP",
        b"GET / http/1.1",
        b"GET /\r\n",
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/11",
        // Targets.
        b"GET /\xc3\xa9",
        b"GET /\x7f",
        b"GET /a#b",
        b"GET /a\tb",
        b"GET * HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"GET chat HTTP/1.1\r\n\r\n",
        b"GET ftp://a/ HTTP/1.1\r\n\r\n",
        b"GET /chat/../admin HTTP/1.1\r\n\r\n",
        b"GET /%2e%2e/admin HTTP/1.1\r\n\r\n",
        b"GET //admin HTTP/1.1\r\n\r\n",
        b"GET http://a/../b HTTP/1.1\r\n\r\n",
        b"GET /a%00 HTTP/1.1\r\n\r\n",
        // Lines.
        b"GET / HTTP/1.1\r\nA: b\n",
        b"GET / HTTP/1.1\r\nA: b\rC",
        b"GET / HTTP/1.1\r\nA: b\0",
        b"GET / HTTP/1.1\r\nA: b\x01",
        b"GET / HTTP/1.1\r\nA: b\x7f",
        b"GET / HTTP/1.1\r\nA: b\r\n c",
        b"GET / HTTP/1.1\r\nA: b\r\n\tc",
        b"GET / HTTP/1.1\r\n A: b",
        b"GET / HTTP/1.1\r\nA : b",
        b"GET / HTTP/1.1\r\nA\tB",
        b"GET / HTTP/1.1\r\n: b",
        b"GET / HTTP/1.1\r\nA(b: c",
        b"GET / HTTP/1.1\r\nA\r\n",
        b"GET / HTTP/1.1\r\n\n",
        b"GET / HTTP/1.1\r\n\rx",
        // Lengths.
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length:\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert_eq!(request(bytes), Err(HeadFault::Malformed), "{}", bytes.escape_ascii());
    }
}

#[test]
fn other_versions_are_told_apart_from_garbage() {
    for bytes in ["PRI * HTTP/2", "GET / HTTP/0", "GET / HTTP/1.2", "GET / HTTP/3.0\r\n"] {
        assert_eq!(request(bytes.as_bytes()), Err(HeadFault::Version), "{bytes}");
    }
    assert_eq!(complete(b"GET / HTTP/1.0\r\n\r\n").view(b"GET / HTTP/1.0\r\n\r\n").minor(), 0);
}

#[test]
fn every_ceiling_of_a_head_holds_exactly() {
    let sized = |bytes: usize| {
        let frame = "GET / HTTP/1.1\r\nA: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(bytes - frame))
    };
    complete(sized(HEAD_BYTES_MAX).as_bytes());
    assert_eq!(request(sized(HEAD_BYTES_MAX + 1).as_bytes()), Err(HeadFault::TooLarge));
    assert_eq!(request(&sized(HEAD_BYTES_MAX + 1).as_bytes()[..HEAD_BYTES_MAX]), Err(HeadFault::TooLarge));

    let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
    complete(fields(HEADERS_MAX).as_bytes());
    assert_eq!(request(fields(HEADERS_MAX + 1).as_bytes()), Err(HeadFault::TooLarge));

    let target = |length: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(length - 1));
    complete(target(TARGET_BYTES_MAX).as_bytes());
    assert_eq!(request(target(TARGET_BYTES_MAX + 1).as_bytes()), Err(HeadFault::TargetTooLong));

    let method = |length: usize| format!("{} / HTTP/1.1\r\n\r\n", "X".repeat(length));
    complete(method(METHOD_BYTES_MAX).as_bytes());
    assert_eq!(request(method(METHOD_BYTES_MAX + 1).as_bytes()), Err(HeadFault::Malformed));

    let options = |count: usize| format!("GET / HTTP/1.1\r\nConnection: {}\r\n\r\n", "a,".repeat(count));
    complete(options(CONNECTION_OPTIONS_MAX).as_bytes());
    assert_eq!(request(options(CONNECTION_OPTIONS_MAX + 1).as_bytes()), Err(HeadFault::TooLarge));
}

#[test]
fn a_head_in_single_bytes_is_scanned_once() {
    // Sixteen thousand calls over a growing buffer: quadratic work would be a hundred million steps and show.
    let bytes = format!("GET / HTTP/1.1\r\n{}\r\n", format!("A: {}\r\n", "x".repeat(150)).repeat(99));
    let mut scan = RequestScan::new();
    for end in 0..bytes.len() {
        match scan.feed(&bytes.as_bytes()[..end]) {
            Ok(Parse::Partial { need }) => assert!(need > end && need <= bytes.len()),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(scan.feed(bytes.as_bytes()), Ok(Parse::Complete(_, used)) if used == bytes.len()));
}

#[test]
fn a_response_is_read_in_parts_behind_its_interim_ones() {
    let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not  Found\r\nA: b\r\nContent-Length: 3\r\n\r\nabc";
    let Ok(Parse::Complete(head, used)) = ResponseHead::parse(bytes) else { panic!() };
    assert_eq!(&bytes[used..], b"abc");
    let view = head.view(bytes);
    assert_eq!((view.status(), view.reason(), view.minor()), (404, "Not  Found", 1));
    assert_eq!(view.headers().collect::<Vec<_>>(), [("A", b"b".as_slice()), ("Content-Length", b"3")]);
    assert_eq!(view.header("link"), None);
}

#[test]
fn bodies_of_responses_are_framed() {
    for (head, body) in [
        ("200 OK\r\n", BodyLength::UntilClose),
        ("200\r\n", BodyLength::UntilClose),
        ("200 \r\nContent-Length: 0\r\n", BodyLength::Known(0)),
        ("200 OK\r\nContent-Length: 18446744073709551615\r\n", BodyLength::Known(u64::MAX)),
        ("200 OK\r\nTransfer-Encoding: Chunked\r\n", BodyLength::Chunked),
        ("204 No Content\r\nContent-Length: 5\r\n", BodyLength::None),
        ("304 Not Modified\r\nTransfer-Encoding: chunked\r\n", BodyLength::None),
        ("101 Switching Protocols\r\n", BodyLength::None),
    ] {
        let bytes = format!("HTTP/1.1 {head}\r\n");
        let Ok(Parse::Complete(parsed, _)) = ResponseHead::parse(bytes.as_bytes()) else { panic!("{head}") };
        assert_eq!(parsed.body_length(), body, "{head}");
    }
}

#[test]
fn malformed_responses_are_refused() {
    for bytes in [
        b"\x16".as_slice(),
        b"HTTP 200",
        b"http/1.1",
        b"HTTP/1.1  200",
        b"HTTP/1.1 2OO",
        b"HTTP/1.1 2000",
        b"HTTP/1.1 200\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 099 X\r\n\r\n",
        b"HTTP/1.1 600 X\r\n\r\n",
        b"HTTP/1.1 200 O\0",
        b"HTTP/1.1 200 OK\r\nA: b\n",
        b"HTTP/1.1 200 OK\r\nA : b",
        b"HTTP/1.1 200 OK\r\n folded",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 103 X\r\n\r\nnonsense",
    ] {
        assert_eq!(ResponseHead::parse(bytes), Err(HeadFault::Malformed), "{}", bytes.escape_ascii());
    }
    assert_eq!(ResponseHead::parse(b"HTTP/2"), Err(HeadFault::Version));
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    assert_eq!(ResponseHead::parse(endless.as_bytes()), Err(HeadFault::TooLarge));
}
