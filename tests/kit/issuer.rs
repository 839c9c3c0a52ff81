//! An issuer's HTTP server that does what its test says: sets of keys, and answers about tokens (RFC 7662); and counts.
//!
//! It knows nothing of TLS and of connections that are used twice; an issuer can be slow, broken, or away.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;

/// How requests are answered, whatever they ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Manner {
    /// As they should be.
    #[default]
    Good,
    /// Only after so long.
    Slow(Duration),
    /// With this status and no use.
    Status(u16),
    /// With something that is no JSON.
    Nonsense,
    /// Connections end without a word.
    Away,
    /// With a head, and then with bytes for as long as somebody reads them.
    Endless,
    /// With a head, and then with a byte now and then, which never come to an end.
    Dripping,
    /// With these bytes.
    Verbatim(String),
}

#[derive(Debug, Default)]
struct Script {
    keys: String,
    tokens: BTreeMap<String, Value>,
    manner: Manner,
    asked: BTreeMap<String, usize>,
    fetched: usize,
    authorization: Option<String>,
}

/// The server; its thread ends with the process.
#[derive(Debug, Clone)]
pub struct IssuerServer {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl IssuerServer {
    /// Starts on a free port of the loopback interface, with no keys, and knows no token.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server = Self { address, script: Arc::default() };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let one = serving.clone();
                std::thread::spawn(move || one.serve(stream));
            }
        });
        server
    }

    /// Where the keys are.
    pub fn keys_url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// Where tokens are asked about.
    pub fn introspection_url(&self) -> String {
        format!("http://{}/introspect", self.address)
    }

    /// From now on these are the keys.
    pub fn set_keys(&self, keys: &str) {
        self.script().keys = keys.into();
    }

    /// From now on the token is active, with these members of the answer; what is not known is not active.
    pub fn set_active(&self, token: &str, mut answer: Value) {
        answer["active"] = true.into();
        self.script().tokens.insert(token.into(), answer);
    }

    /// From now on the token is active no more.
    pub fn set_inactive(&self, token: &str) {
        self.script().tokens.remove(token);
    }

    /// From now on everybody is answered in this manner.
    pub fn set_manner(&self, manner: Manner) {
        self.script().manner = manner;
    }

    /// How often this token has been asked about.
    pub fn asked(&self, token: &str) -> usize {
        self.script().asked.get(token).copied().unwrap_or_default()
    }

    /// How often the keys have been fetched.
    pub fn fetched(&self) -> usize {
        self.script().fetched
    }

    /// What the last request for a token's state had in its `Authorization` header.
    pub fn authorization(&self) -> Option<String> {
        self.script().authorization.clone()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("nobody panics with the script")
    }

    fn serve(&self, mut stream: TcpStream) {
        let Some((head, body)) = request(&mut stream) else { return };
        let manner = {
            let mut script = self.script();
            if head.starts_with("POST /introspect ") {
                let token = form_value(&body, "token").unwrap_or_default();
                *script.asked.entry(token).or_default() += 1;
                script.authorization = header(&head, "authorization");
            } else {
                script.fetched += 1;
            }
            script.manner.clone()
        };
        match manner.clone() {
            Manner::Away => return,
            Manner::Slow(time) => std::thread::sleep(time),
            Manner::Endless => return go_on(&mut stream, &[b' '; 64 * 1024], Duration::ZERO),
            Manner::Dripping => return go_on(&mut stream, b" ", Duration::from_millis(20)),
            Manner::Verbatim(text) => {
                let _ = stream.write_all(text.as_bytes());
                return;
            }
            Manner::Good | Manner::Status(_) | Manner::Nonsense => {}
        }
        let answer = match manner {
            Manner::Status(status) => (status, "{}".into()),
            Manner::Nonsense => (200, "<html>".into()),
            _ => self.answer(&head, &body),
        };
        let (status, text) = answer;
        let _ = write!(
            stream,
            "HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{text}",
            text.len()
        );
    }

    fn answer(&self, head: &str, body: &str) -> (u16, String) {
        let script = self.script();
        if head.starts_with("GET /keys ") {
            (200, script.keys.clone())
        } else if head.starts_with("POST /introspect ") {
            let token = form_value(body, "token").unwrap_or_default();
            let answer = script.tokens.get(&token).map(Value::to_string);
            (200, answer.unwrap_or_else(|| r#"{"active":false}"#.into()))
        } else {
            (404, "{}".into())
        }
    }
}

/// Says something again and again until nobody listens.
fn go_on(stream: &mut TcpStream, bytes: &[u8], pause: Duration) {
    let _ = stream.set_write_timeout(Some(super::DEADLINE));
    let mut next = &b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"[..];
    while stream.write_all(next).is_ok() {
        next = bytes;
        std::thread::sleep(pause);
    }
}

fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    stream.set_read_timeout(Some(super::DEADLINE)).ok()?;
    let mut bytes = Vec::new();
    let mut room = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = header(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                return Some((head.to_owned(), body.to_owned()));
            }
        }
        match stream.read(&mut room) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&room[..count]),
            _ => return None,
        }
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut found = fields.filter(|(found, _)| found.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim().to_owned())
}

/// A value of `application/x-www-form-urlencoded`.
fn form_value(body: &str, name: &str) -> Option<String> {
    let (_, value) = body.split('&').filter_map(|pair| pair.split_once('=')).find(|(found, _)| *found == name)?;
    let (mut bytes, mut rest) = (Vec::new(), value.as_bytes());
    while let [first, after @ ..] = rest {
        let (byte, next) = match first {
            b'+' => (b' ', after),
            b'%' => {
                let digits = std::str::from_utf8(after.get(..2)?).ok()?;
                (u8::from_str_radix(digits, 16).ok()?, &after[2..])
            }
            _ => (*first, after),
        };
        bytes.push(byte);
        rest = next;
    }
    String::from_utf8(bytes).ok()
}
