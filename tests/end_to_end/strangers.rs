//! Clients that other people wrote talk to `framegate run` as it comes: no configuration, the embedded echo. (And over TLS:
//! `tls/strangers`.)
//!
//! A stranger that is not installed is skipped aloud; with STRANGERS=require, as in CI, that is a failure.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::kit::gateway::{FRAMEGATE, die_with_parent, kill};
use crate::kit::{Port, Random, Variant, aloud, on_both_drivers, until_some};

on_both_drivers!(python_websockets, node_ws, a_browser, tungstenite_in_rust);

/// The time a stranger has for its whole conversation.
const PATIENCE: Duration = Duration::from_secs(60);

fn python_websockets(variant: Variant) {
    let Some(mut client) = python_client() else { return };
    let gateway = Running::start(variant);
    converse(client.arg(&gateway.url));
}

/// Without its URL; `None`, said aloud, where it is not installed.
pub fn python_client() -> Option<Command> {
    python("client.py", &["websockets"])
}

/// A script that needs these modules, without its arguments; `None`, said aloud, where one is not installed.
pub fn python(name: &str, modules: &[&str]) -> Option<Command> {
    let venv = strangers_home().join("venv/bin/python");
    let python = if venv.exists() { venv } else { "python3".into() };
    if !succeeds(Command::new(&python).args(["-c", &format!("import {}", modules.join(", "))])) {
        skip(&format!("One of Python's {}", modules.join(", ")), "tests/strangers/install.sh");
        return None;
    }
    let mut command = Command::new(python);
    command.arg(script(name));
    Some(command)
}

fn node_ws(variant: Variant) {
    let Some(mut client) = node_client() else { return };
    let gateway = Running::start(variant);
    converse(client.arg(&gateway.url));
}

/// Without its URL; `None`, said aloud, where it is not installed.
pub fn node_client() -> Option<Command> {
    let modules = strangers_home().join("node_modules");
    if !succeeds(Command::new("node").args(["-e", "require('ws')"]).env("NODE_PATH", &modules)) {
        skip("Node ws", "npm install ws");
        return None;
    }
    let mut command = Command::new("node");
    command.arg(script("client.js")).env("NODE_PATH", modules);
    Some(command)
}

fn a_browser(variant: Variant) {
    let Some(browser) = browser() else { return };
    let gateway = Running::start(variant);
    browse(browser, &gateway.url, &[]);
}

/// `None`, said aloud, where none is installed.
pub fn browser() -> Option<Command> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let Some(browser) = names.into_iter().find(|name| succeeds(Command::new(name).arg("--version"))) else {
        skip("Chromium", "apt-get install chromium");
        return None;
    };
    Some(Command::new(browser))
}

/// Shows a browser, with more flags, the page that talks to this URL, and checks that the page was content.
#[track_caller]
pub fn browse(mut command: Command, url: &str, flags: &[&str]) {
    let page = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let profile = tempfile::tempdir().expect("a directory");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]).args(flags);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("http://{}/#{url}", page.local_addr().expect("an address")));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    die_with_parent(&mut command);
    let browser = command.spawn().expect("a browser starts");
    let verdict = serve_page_until_verdict(&page);
    kill(Some(browser));
    assert_eq!(verdict.as_deref(), Some("passed"));
}

fn tungstenite_in_rust(variant: Variant) {
    use tungstenite::protocol::frame::coding::{Data, OpCode};
    use tungstenite::protocol::frame::{CloseFrame, Frame};
    use tungstenite::{Bytes, Message};

    let gateway = Running::start(variant);
    let (mut socket, _) = tungstenite::connect(&gateway.url).expect("an upgrade");
    for message in [
        Message::text("Grüße, 世界"),
        Message::text(""),
        Message::binary(vec![0, 255, 1, 254]),
        Message::binary(Random::fixed(1).bytes(1 << 20)),
    ] {
        socket.send(message.clone()).expect("a message can be sent");
        assert_eq!(socket.read().expect("an echo"), message);
    }
    let fragment =
        |text, opcode, last| Message::Frame(Frame::message(Bytes::from_static(text), OpCode::Data(opcode), last));
    socket.send(fragment(b"one ", Data::Text, false)).expect("a fragment can be sent");
    socket.send(fragment(b"two", Data::Continue, true)).expect("a fragment can be sent");
    assert_eq!(socket.read().expect("an echo"), Message::text("one two"));
    socket.send(Message::Ping(Bytes::from_static(b"are you there?"))).expect("a ping can be sent");
    assert_eq!(socket.read().expect("a pong"), Message::Pong(Bytes::from_static(b"are you there?")));
    let goodbye = CloseFrame { code: 4001.into(), reason: "enough said".into() };
    socket.close(Some(goodbye.clone())).expect("a close can be sent");
    assert_eq!(socket.read().expect("a close"), Message::Close(Some(goodbye)));
}

/// `framegate run`, as a newcomer starts it, with its files in a directory of its own.
struct Running {
    child: Option<Child>,
    /// The address that it invites one to try.
    url: String,
    _directory: tempfile::TempDir,
    _ports: [Port; 3],
}

impl Running {
    fn start(variant: Variant) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (public, operator, tokens) = (Port::free(), Port::free(), Port::free());
        let mut command = Command::new(FRAMEGATE);
        command.args(["run", "--operator", &operator.address().to_string()]).args(variant.flags());
        command.args(["--listen", &public.address().to_string(), "--tokens", &tokens.address().to_string()]);
        command.arg("--control").arg(directory.path().join("control.sock"));
        command.arg("--state-dir").arg(directory.path().join("state"));
        let said = directory.path().join("said");
        let log = File::create(&said).expect("a file");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second descriptor")).stderr(log);
        die_with_parent(&mut command);
        variant.confine(&mut command);
        let child = command.spawn().expect("the executable runs");
        let url = until_some("the gateway says what to try", || first_url(&said));
        until_some("the gateway is ready", || {
            crate::kit::gateway::http_get(operator.address(), "/ready").filter(|(status, _)| *status == 200)
        });
        Self { child: Some(child), url, _directory: directory, _ports: [public, operator, tokens] }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // SAFETY: kill(2) takes two numbers; the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        kill(Some(child));
    }
}

fn first_url(said: &Path) -> Option<String> {
    let text = std::fs::read_to_string(said).ok()?;
    let start = text.find("ws://")?;
    let end = text[start..].find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`'))?;
    Some(text[start..start + end].to_owned())
}

/// Runs a stranger to its end; what it said is shown if it was not content.
pub fn converse(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    die_with_parent(command);
    let mut child = command.spawn().expect("a stranger starts");
    let start = Instant::now();
    while start.elapsed() < PATIENCE && child.try_wait().expect("a child can be asked").is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let output = child.wait_with_output().expect("a stranger ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// Serves the page to the browser until the page posts its verdict.
fn serve_page_until_verdict(listener: &TcpListener) -> Option<String> {
    let start = Instant::now();
    listener.set_nonblocking(true).expect("a socket need not block");
    while start.elapsed() < PATIENCE {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Some(verdict) = answer(stream) {
                    return Some(verdict);
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    None
}

/// Answers one request; a POST holds the verdict.
fn answer(stream: TcpStream) -> Option<String> {
    stream.set_nonblocking(false).ok()?;
    // A browser opens connections on suspicion; one that says nothing must not hold up the next.
    stream.set_read_timeout(Some(Duration::from_millis(300))).ok()?;
    let mut reader = BufReader::new(stream);
    let (mut request, mut length, mut line) = (String::new(), 0, String::new());
    while reader.read_line(&mut line).ok()? > 2 {
        if request.is_empty() {
            request.clone_from(&line);
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let page = if request.starts_with("GET / ") { include_str!("../strangers/page.html") } else { "" };
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\nContent-Length:";
    write!(reader.get_mut(), "{head} {}\r\n\r\n{page}", page.len()).ok()?;
    request.starts_with("POST").then(|| String::from_utf8_lossy(&body).into_owned())
}

pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

pub fn skip(stranger: &str, remedy: &str) {
    let sentence = format!("{stranger} is not installed ({remedy})");
    assert!(std::env::var("STRANGERS").as_deref() != Ok("require"), "{sentence}");
    aloud(&format!("skipped: {sentence}"));
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/strangers").join(name)
}

/// Where install.sh puts them.
pub fn strangers_home() -> PathBuf {
    let target = std::env::var("CARGO_TARGET_DIR")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    target.join("strangers")
}
