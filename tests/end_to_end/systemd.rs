//! Does systemd hear what it asks for? Its notify protocol on a real socket, with `Type=notify`.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use crate::kit::gateway::{FRAMEGATE, die_with_parent, kill, send_signal};
use crate::kit::{DEADLINE, EchoBackend, Frame, Opcode, Peer, Setup, Variant, until_some};

/// The manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn listen(setup: &Setup) -> Self {
        let path = setup.directory().join("notify.sock");
        let socket = UnixDatagram::bind(&path).expect("a free path");
        socket.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        Self { socket, path: path.to_str().expect("a path in UTF-8").into() }
    }

    /// The assignments of the next message.
    #[track_caller]
    fn next(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("the manager is told something");
        let text = std::str::from_utf8(&message[..length]).expect("a message in UTF-8");
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for a message with this assignment.
    #[track_caller]
    fn expect(&self, assignment: &str) -> Vec<String> {
        until_some(&format!("the manager is told {assignment}"), || {
            let message = self.next();
            message.iter().any(|one| one == assignment).then_some(message)
        })
    }
}

#[track_caller]
fn value<'m>(message: &'m [String], name: &str) -> &'m str {
    let value = message.iter().find_map(|one| one.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {message:?}"))
}

#[test]
fn a_data_plane_says_how_it_stands() {
    let setup = Setup::new(Variant::Automatic).settings("drain_window: 400ms");
    let manager = Manager::listen(&setup);
    let mut gateway = setup
        .environment("dataplane", "NOTIFY_SOCKET", &manager.path)
        .environment("dataplane", "WATCHDOG_USEC", "200000")
        .start();
    let mut told = Vec::new();
    while told.len() < 2 {
        let message = manager.next();
        told.extend(message.iter().find(|one| *one == "READY=1").cloned());
        let status = message.iter().find(|one| one.starts_with("STATUS=serving generation 1 of ")).cloned();
        told.extend(
            status.or_else(|| message.contains(&"STATUS=serving the stored snapshot".into()).then(String::new)),
        );
    }
    for _ in 0..3 {
        manager.expect("WATCHDOG=1");
    }
    let mut client = gateway.connect();
    client.upgrade("/probe");
    gateway.signal(libc::SIGTERM);
    let stopping = manager.expect("STOPPING=1");
    assert_eq!(value(&stopping, "STATUS"), "draining");
    let extended: u64 = value(&stopping, "EXTEND_TIMEOUT_USEC").parse().expect("a number");
    assert!(extended >= 400_000, "{extended} µs for a window of 400 ms");
    client.expect_close(1012);
    client.send_frame(&Frame::close(1012, ""));
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_control_plane_says_when_it_reads_its_file_again() {
    let setup = Setup::new(Variant::Automatic);
    let manager = Manager::listen(&setup);
    let mut gateway = setup.environment("controlplane", "NOTIFY_SOCKET", &manager.path).start();
    manager.expect("READY=1");
    gateway.signal_control_plane(libc::SIGHUP);
    let reloading = manager.expect("RELOADING=1");
    assert!(value(&reloading, "MONOTONIC_USEC").parse::<u64>().is_ok(), "{reloading:?}");
    manager.expect("READY=1");
    gateway.signal_control_plane(libc::SIGTERM);
    manager.expect("STOPPING=1");
    gateway.probe();
}

/// Both planes under one supervisor; ends with its value.
struct Run(Option<Child>);

impl Drop for Run {
    fn drop(&mut self) {
        kill(self.0.take());
    }
}

#[test]
fn the_supervisor_speaks_for_both_planes() {
    let echo = EchoBackend::start();
    let setup = Setup::new(Variant::Automatic).settings("drain_window: 200ms").api_to("chat", &echo.url("/"), "");
    let manager = Manager::listen(&setup);
    let file = setup.directory().join("config.yaml");
    std::fs::write(&file, setup.yaml()).expect("a file can be written");
    let mut command = Command::new(FRAMEGATE);
    command.arg("run").arg(&file).arg("--control").arg(setup.control_path());
    command.arg("--state-dir").arg(setup.directory().join("state"));
    command.args(["--operator", &setup.operator_address().to_string(), "--node", "test", "--workers", "1"]);
    command.arg("--log").arg(setup.directory().join("sessions.log"));
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "300000");
    let log = std::fs::File::create(setup.directory().join("run")).expect("a log");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second descriptor")).stderr(log);
    die_with_parent(&mut command);
    let mut run = Run(Some(command.spawn().expect("the executable runs")));
    let pid = run.0.as_ref().expect("a child").id();

    assert_eq!(manager.next(), ["READY=1"], "the first that it hears, and nothing of the planes");
    let mut client = Peer::connect(setup.public_address());
    client.upgrade("/chat");
    manager.expect("WATCHDOG=1");
    send_signal(pid, libc::SIGHUP);
    manager.expect("RELOADING=1");
    manager.expect("READY=1");
    client.send_frame(&Frame::text("untouched"));
    client.expect(Opcode::TEXT, b"untouched");
    send_signal(pid, libc::SIGTERM);
    manager.expect("STOPPING=1");
    client.expect_close(1012);
    client.send_frame(&Frame::close(1012, ""));
    let mut child = run.0.take().expect("a child");
    let status = until_some("it ends", || child.try_wait().expect("a child can be asked"));
    assert_eq!(status.code(), Some(0));
}
