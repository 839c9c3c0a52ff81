//! What nobody in good faith sends: other sites' pages, bodies that do not end, heads that do not begin, crowds.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::kit::people::sha256;
use crate::kit::{Admin, Port, Setup, Variant};

use super::gateway;

#[test]
fn a_web_page_cannot_drive_it() {
    let mut gateway = gateway();
    let admin = Admin::of(&gateway);
    let json = ("Content-Type", "application/json");
    let body = Some("{\"name\": \"theirs\"}");
    for (fields, status, word) in [
        (vec![("Host", "evil.test"), json], 403, "foreign-site"),
        (vec![("Host", "127.0.0.1.evil.test"), json], 403, "foreign-site"),
        (vec![("Host", "localhost"), ("Host", "localhost"), json], 400, "bad-request"),
        (vec![("Origin", "https://evil.test"), json], 403, "foreign-site"),
        (vec![("Origin", "null"), json], 403, "foreign-site"),
        (vec![("Origin", "http://localhost.evil.test"), json], 403, "foreign-site"),
        (vec![("Origin", "http://localhost:81"), json], 403, "foreign-site"),
        (vec![("Sec-Fetch-Site", "cross-site"), json], 403, "foreign-site"),
        // What a form can send without asking first.
        (vec![("Content-Type", "text/plain")], 415, "unsupported-media-type"),
        (vec![("Content-Type", "application/x-www-form-urlencoded")], 415, "unsupported-media-type"),
        (vec![("Content-Type", "multipart/form-data; boundary=x")], 415, "unsupported-media-type"),
    ] {
        let refused = admin.ask("POST", "/applications", &fields, body);
        assert_eq!(refused.problem(), (status, word.into()), "{fields:?}: {refused:?}");
        assert!(refused.header("access-control-allow-origin").is_none());
    }
    let preflight = admin.ask("OPTIONS", "/applications", &[("Origin", "https://evil.test")], None);
    assert_eq!(preflight.problem().0, 403);
    let own = admin.ask("POST", "/applications", &[("Origin", "http://localhost"), json], body);
    assert_eq!(own.status, 201, "{own:?}");
    let told = admin.get("/applications");
    assert_eq!(
        (told.header("cache-control"), told.header("x-content-type-options")),
        (Some("no-store"), Some("nosniff"))
    );
    gateway.probe();
}

#[test]
fn bodies_and_heads_have_a_ceiling() {
    let mut gateway = gateway();
    let admin = Admin::of(&gateway);
    let head =
        "POST /api/v1/keys HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n";
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(1024 * 1024));
    let announced = admin.raw(&format!("{head}Content-Length: {}\r\n\r\n{large}", large.len()));
    assert!(announced.is_some_and(|reply| reply.problem() == (413, "too-large".into())));
    let chunks: String = (0..40).map(|_| format!("8000\r\n{}\r\n", " ".repeat(0x8000))).collect();
    let chunked = admin.raw(&format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}"));
    assert!(chunked.is_some_and(|reply| reply.problem() == (413, "too-large".into())));
    let both = admin.raw(&format!("{head}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{{}}"));
    assert!(both.is_none_or(|reply| reply.status >= 400), "two lengths");
    let long = admin.raw(&format!("{head}X-Long: {}\r\n\r\n", "x".repeat(20 * 1024)));
    assert!(long.is_none_or(|reply| reply.status == 431), "a head of 20 KiB");
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    assert!(admin.raw(&format!("{head}{many}\r\n")).is_none_or(|reply| reply.status == 431), "200 fields");
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let deep = admin.ask("POST", "/keys", &[("Content-Type", "application/json")], Some(&deep));
    assert_eq!(deep.problem().0, 400, "a nest of lists");
    let nested = format!("{{\"name\": {}1{}}}", "[".repeat(120), "]".repeat(120));
    let nested = admin.ask("POST", "/keys", &[("Content-Type", "application/json")], Some(&nested));
    assert_eq!(nested.problem().0, 400, "{nested:?}");
    let nested = format!("{{\"name\": {}1{}}}", "[".repeat(30), "]".repeat(30));
    let nested = admin.ask("POST", "/keys", &[("Content-Type", "application/json")], Some(&nested));
    assert_eq!(nested.problem().0, 422, "{nested:?}");
    assert_eq!(admin.raw("\x16\x03\x01\x02\x00").map(|reply| reply.status).unwrap_or(400), 400, "TLS to the socket");
    assert_eq!(admin.get("/applications").status, 200);
    gateway.probe();
}

#[test]
fn whoever_is_slow_is_cut_off() {
    let mut gateway = gateway();
    let admin = Admin::of(&gateway);
    let head =
        "POST /api/v1/keys HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n";
    // Nothing at all, a head that trickles, a body that does not end, and silence behind an answer.
    let slow = |request: String, trickle: bool| {
        let mut stream = admin.connect().expect("a connection");
        let begun = Instant::now();
        if trickle {
            for byte in request.bytes() {
                if stream.write_all(&[byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(400));
            }
        } else {
            stream.write_all(request.as_bytes()).expect("it can be sent");
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        (begun.elapsed(), String::from_utf8_lossy(&answer).into_owned())
    };
    let get = "GET /api/v1/generation HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let cases = [
        (String::new(), false, None),
        (get.to_owned(), true, None),
        (head.to_owned() + "{", false, Some("HTTP/1.1 408")),
        (get.to_owned(), false, Some("HTTP/1.1 200")),
    ];
    std::thread::scope(|scope| {
        for (request, trickle, expected) in cases {
            let slow = &slow;
            scope.spawn(move || {
                let (took, answer) = slow(request.clone(), trickle);
                assert!(took > Duration::from_secs(8) && took < Duration::from_secs(19), "{request:?}: {took:?}");
                if let Some(expected) = expected {
                    assert!(answer.starts_with(expected), "{request:?}: {answer:?}");
                }
            });
        }
        // Nobody waits for them.
        assert_eq!(admin.get("/applications").status, 200);
    });
    gateway.probe();
}

#[test]
fn one_address_takes_no_place_of_others_and_one_connection_serves_many_requests() {
    let port = Port::free();
    let setup = Setup::new(Variant::Automatic);
    let file = setup.directory().join("tokens");
    std::fs::write(&file, format!("operator {} ann\n", sha256("t"))).expect("a file can be written");
    let gateway = setup
        .environment("controlplane", "FRAMEGATE_ADMIN_TCP", &port.address().to_string())
        .environment("controlplane", "FRAMEGATE_ADMIN_TOKENS", file.to_str().expect("a path in UTF-8"))
        .start();
    let admin = Admin::port(port.address()).token("t");
    let mut crowd: Vec<_> = (0..40).map(|_| admin.connect().expect("the port accepts")).collect();
    let alive = |stream: &mut Box<dyn crate::kit::admin::Stream>| {
        let _ =
            stream.write_all(b"GET /api/v1/generation HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n\r\n");
        let mut byte = [0];
        matches!(stream.read(&mut byte), Ok(1))
    };
    let served = crowd.iter_mut().map(alive).filter(|is_alive| *is_alive).count();
    assert!((1..=32).contains(&served), "{served} of 40 from one address are served");
    drop(crowd);
    assert!(gateway.said("controlplane").contains("too many connections of its address are open"));
    assert_eq!(Admin::of(&gateway).post("/applications", &json!({ "name": "x" })).status, 201);

    // Whoever is not known keeps no place.
    let refused = Admin::port(port.address()).raw("GET /api/v1/keys HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(refused.is_some_and(|reply| reply.status == 401 && reply.header("connection") == Some("close")));
    let mut stream = crate::kit::until_some("there is room again", || {
        let mut stream = admin.connect().ok()?;
        alive(&mut stream).then_some(stream)
    });
    for _ in 0..20 {
        // One byte of the answer before has been read; the rest ends with its body.
        let request = "GET /api/v1/keys HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("the connection stays");
    }
    let mut answers = String::new();
    let mut piece = [0; 4096];
    while answers.matches("{\"items\":[]").count() < 20 {
        let read = stream.read(&mut piece).expect("answers come");
        assert!(read > 0, "the connection ended: {answers}");
        answers.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
}
