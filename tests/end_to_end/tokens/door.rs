//! Where the token endpoint listens, with and without TLS, and what strangers cannot do there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{CLIENT, House, basic, endpoint, exchange, get, people, post, secret, try_exchange};
use crate::kit::gateway::{FRAMEGATE, Outcome};
use crate::kit::pki::{self, Leaf};
use crate::kit::{DEADLINE, Gateway, Port, Setup, Variant, until};

/// `framegate token get` for the client `plain`.
fn token_get(url: &str, authorities: &std::path::Path) -> Outcome {
    let output = std::process::Command::new(FRAMEGATE)
        .args(["token", "get", "--client", "plain", "--endpoint", url, "--authorities"])
        .arg(authorities)
        .env("FRAMEGATE_CLIENT_SECRET", secret("plain"))
        .output()
        .expect("the executable runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output in UTF-8");
    Outcome { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn over_tls_it_shows_the_certificate_of_the_day() {
    if !pki::is_available() {
        return;
    }
    let shared = pki::shared();
    let setup = Setup::new(Variant::Automatic).people(people());
    let edge = shared.edge.clone();
    let (chain, key) = (setup.directory().join("door.pem"), setup.directory().join("door.key"));
    std::fs::copy(&edge.chain, &chain).unwrap();
    std::fs::copy(&edge.key, &key).unwrap();
    let port = Port::free();
    let url = format!("https://{}", port.address());
    let certificate = format!("name: door, chain: \"{}\", key: \"{}\"", chain.display(), key.display());
    let lines = endpoint(&port.address().to_string(), &url, "tls: { certificates: [door], versions: [tls1.3] }");
    let gateway = setup.certificate(&certificate).document(&lines).start();
    until("a token over TLS", || token_get(&url, &shared.root).code == 0);
    let token = token_get(&url, &shared.root);
    assert_eq!(token.stdout.matches('.').count(), 2, "{token:?}");
    let stranger = pki::self_signed(gateway.setup().directory(), &Leaf::new("stranger").names(&["IP:127.0.0.1"]));
    let refused = token_get(&url, &stranger.chain);
    assert_eq!(refused.code, 2, "{refused:?}");

    // Another certificate, which only those who trust it believe.
    std::fs::copy(&stranger.key, &key).unwrap();
    std::fs::copy(&stranger.chain, &chain).unwrap();
    until("the new certificate is shown", || token_get(&url, &stranger.chain).code == 0);
    assert_eq!(token_get(&url, &shared.root).code, 2);
    let clear = try_exchange(port.address(), &get("/oauth2/jwks"));
    assert!(clear.is_none(), "{clear:?}");
}

#[test]
fn it_moves_and_closes_with_the_configuration_and_answers_who_is_there() {
    let house = House::start("");
    let yaml = house.gateway.setup().yaml();
    let mut there = TcpStream::connect(house.address()).unwrap();
    there.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = post("token", Some(&basic("plain", &secret("plain"))), CLIENT);
    let (first, second) = request.split_at(60);
    there.write_all(first.as_bytes()).unwrap();

    let elsewhere = Port::free();
    let moved = yaml.replace(&format!("bind: \"{}\"", house.address()), &format!("bind: \"{}\"", elsewhere.address()));
    assert_eq!(house.gateway.apply(&moved).code, 0);
    until("it is open elsewhere", || try_exchange(elsewhere.address(), &get("/oauth2/jwks")).is_some());
    until("and closed where it was", || TcpStream::connect(house.address()).is_err());
    there.write_all(second.as_bytes()).unwrap();
    let mut answer = String::new();
    there.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "who was there has his answer: {answer}");

    let socket = house.gateway.setup().directory().join("token.sock");
    let local =
        yaml.replace(&format!("bind: \"{}\"", house.address()), &format!("bind: \"unix:{}\"", socket.display()));
    assert_eq!(house.gateway.apply(&local).code, 0);
    until("it is open on a Unix socket", || UnixStream::connect(&socket).is_ok());
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let wanted = yaml.replace(&format!("bind: \"{}\"", house.address()), &format!("bind: \"{address}\""));
    assert_eq!(house.gateway.apply(&wanted).code, 0);
    until("that it cannot be opened is told", || house.status()["token_endpoint"]["fault"].is_string());
    drop(taken);
    until("it is open once the address is free", || try_exchange(address, &get("/oauth2/jwks")).is_some());

    let without = yaml[..yaml.find("token_endpoint").unwrap()].to_owned();
    assert_eq!(house.gateway.apply(&without).code, 0);
    until("it is closed", || TcpStream::connect(address).is_err());
    assert!(house.status()["token_endpoint"].is_null());
    assert!(!socket.exists(), "the socket has gone with it");
}

/// What a connection that sends this gets, until it is closed, and when that was.
fn sent(gateway: &House, bytes: &[u8]) -> (String, Duration) {
    let start = Instant::now();
    let mut stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    (String::from_utf8_lossy(&answer).into_owned(), start.elapsed())
}

#[test]
fn what_strangers_send_is_bounded_in_time_and_size() {
    let house = House::start("");
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let (answer, took) = sent(&house, garbage);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(took < Duration::from_secs(8), "{took:?}");
    }
    let (answer, took) = sent(&house, b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\n");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(10), "half a head: {took:?}");
    let long = format!("GET /oauth2/jwks HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    assert!(sent(&house, long.as_bytes()).0.starts_with("HTTP/1.1 431"));
    let large = post("token", Some(&basic("plain", &secret("plain"))), &format!("{CLIENT}&x={}", "x".repeat(40_000)));
    assert!(sent(&house, large.as_bytes()).0.starts_with("HTTP/1.1 400"));
    let smuggled = format!(
        "{}GET /oauth2/token HTTP/1.1\r\n\r\n",
        post("token", None, "").replace("Connection: close\r\n", "Transfer-Encoding: chunked\r\n")
    );
    let (answer, _) = sent(&house, smuggled.as_bytes());
    assert!(!answer.contains("200 OK"), "{answer}");
    house.token("plain", CLIENT);
    assert_eq!(exchange(house.address(), &get("/oauth2/jwks")).status, 200);
}

#[test]
fn the_command_line_gets_looks_at_and_takes_back() {
    let house = House::start("");
    let run = |arguments: &[&str], input: &str| run(&house.gateway, arguments, input);
    let url = house.url();
    let secret_file = house.gateway.setup().directory().join("secret");
    std::fs::write(&secret_file, secret("every") + "\n").unwrap();
    let secret_file = secret_file.to_str().unwrap();
    let get = ["token", "get", "--endpoint", &url, "--client", "every", "--secret-file"];
    let token = run(&[&get[..], &[secret_file, "--scope", "read"]].concat(), "");
    assert_eq!(token.code, 0, "{token:?}");
    let user = run(
        &[&get[..], &[secret_file, "--user", "alice", "--password-file", "-", "--json"]].concat(),
        "correct horse: battery\n",
    );
    let refresh = user.json()["refresh_token"].as_str().unwrap().to_owned();
    let next = run(&[&get[..], &[secret_file, "--refresh-file", "-"]].concat(), &refresh);
    assert_eq!(next.code, 0, "{next:?}");
    let no = run(&[&get[..], &[secret_file, "--scope", "root"]].concat(), "");
    assert!(no.code == 1 && no.stderr.contains("invalid_scope"), "{no:?}");
    assert!(
        run(&["token", "get", "--endpoint", &url, "--client", "every"], "").stderr.contains("FRAMEGATE_CLIENT_SECRET")
    );

    let shown = run(&["token", "inspect", "--endpoint", &url], &token.stdout);
    assert!(shown.code == 0 && shown.stdout.contains("signature  good") && shown.stdout.contains("every"), "{shown:?}");
    let forged = crate::kit::tokens::tampered(token.stdout.trim());
    let shown = run(&["token", "inspect", "--endpoint", &url, "--json"], &forged);
    assert!(shown.code == 1 && shown.json()["signature"] == "bad", "{shown:?}");
    assert_eq!(run(&["token", "inspect"], "no token").code, 2);

    let revoke = ["token", "revoke", "--endpoint", &url, "--client", "every", "--secret-file", secret_file];
    assert_eq!(run(&revoke, &token.stdout).code, 0);
    assert!(!house.is_active(&token.stdout.trim().into()));
    assert_eq!(
        run(
            &["token", "get", "--endpoint", "http://127.0.0.1:1", "--client", "every", "--secret-file", secret_file],
            ""
        )
        .code,
        2
    );
}

fn run(gateway: &Gateway, arguments: &[&str], input: &str) -> Outcome {
    let mut command = std::process::Command::new(FRAMEGATE);
    command.args(arguments).current_dir(gateway.setup().directory());
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("the executable runs");
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the executable ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output in UTF-8");
    Outcome { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}
