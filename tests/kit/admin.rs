//! The admin API as a stranger speaks to it: HTTP by hand, over the socket, a port, or TLS.
//!
//! Sends what it is told to, right or wrong, one request a connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::gateway::Gateway;
use super::tls;
use super::wait::DEADLINE;

/// Where the admin API is, and who we are there.
#[derive(Debug, Clone)]
pub struct Admin {
    door: Door,
    token: Option<String>,
}

#[derive(Debug, Clone)]
enum Door {
    Socket(PathBuf),
    Port(SocketAddr),
    Tls(SocketAddr, tls::Client),
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    /// The body as JSON; null where there is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// A field of the head.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The status, and the last word of the problem's type.
    pub fn problem(&self) -> (u16, String) {
        let kind = self.json()["type"].as_str().unwrap_or_default().to_owned();
        (self.status, kind.rsplit(':').next().unwrap_or_default().to_owned())
    }
}

impl Admin {
    /// The socket of this gateway.
    pub fn of(gateway: &Gateway) -> Self {
        Self::socket(&gateway.setup().directory().join("admin.sock"))
    }

    pub fn socket(path: &Path) -> Self {
        Self { door: Door::Socket(path.to_owned()), token: None }
    }

    pub fn port(address: SocketAddr) -> Self {
        Self { door: Door::Port(address), token: None }
    }

    pub fn tls(address: SocketAddr, client: tls::Client) -> Self {
        Self { door: Door::Tls(address, client), token: None }
    }

    /// With a bearer token.
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.into());
        self
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, &[], None)
    }

    /// A JSON body, and further fields of the head.
    #[track_caller]
    pub fn send(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &Value) -> Reply {
        let media_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        self.ask(method, target, &[&[("Content-Type", media_type)], fields].concat(), Some(&body.to_string()))
    }

    #[track_caller]
    pub fn post(&self, target: &str, body: &Value) -> Reply {
        self.send("POST", target, &[], body)
    }

    #[track_caller]
    pub fn delete(&self, target: &str) -> Reply {
        self.ask("DELETE", target, &[], None)
    }

    #[track_caller]
    pub fn ask(&self, method: &str, target: &str, fields: &[(&str, &str)], body: Option<&str>) -> Reply {
        let mut head = format!("{method} /api/v1{target} HTTP/1.1\r\nConnection: close\r\n");
        if !fields.iter().any(|(name, _)| *name == "Host") {
            head.push_str("Host: localhost\r\n");
        }
        if let Some(token) = &self.token {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        fields.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        if let Some(body) = body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        self.raw(&format!("{head}\r\n{}", body.unwrap_or_default()))
            .unwrap_or_else(|| panic!("no answer to {method} {target}"))
    }

    /// Whatever is sent, and what comes back until the other end is done.
    pub fn raw(&self, request: &str) -> Option<Reply> {
        let mut stream = self.connect().ok()?;
        // Whoever is refused half-way may not be read to the end.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.flush();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Reply { status, head: head.to_owned(), body: body.to_owned() })
    }

    /// A connection, for whoever wants to be slow on it.
    pub fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let tcp = |address: &SocketAddr| {
            let stream = TcpStream::connect_timeout(address, DEADLINE)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            Ok::<_, std::io::Error>(stream)
        };
        Ok(match &self.door {
            Door::Socket(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                Box::new(stream)
            }
            Door::Port(address) => Box::new(tcp(address)?),
            Door::Tls(address, client) => Box::new(rustls::StreamOwned::new(client.connection(), tcp(address)?)),
        })
    }
}

/// Something to read from and write to.
pub trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}
