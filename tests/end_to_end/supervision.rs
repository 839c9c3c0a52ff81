//! `framegate run FILE`: both planes are kept alive, and the death of one is not the death of the other.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::kit::gateway::{FRAMEGATE, ask_control_plane, die_with_parent, http_get, send_signal};
use crate::kit::people::sha256;
use crate::kit::{Admin, EchoBackend, Opcode, Peer, Port, Upgrade, Variant, on_both_drivers, until, until_some};

on_both_drivers!(
    a_control_plane_that_dies_is_started_again_and_no_session_hears_of_it,
    a_data_plane_that_dies_is_started_again_and_serves_the_stored_snapshot,
    when_the_supervisor_is_killed_its_children_end,
    sigterm_drains_and_leaves_nobody_behind,
    sighup_and_an_edit_are_picked_up_and_a_bad_edit_changes_nothing,
);

fn a_control_plane_that_dies_is_started_again_and_no_session_hears_of_it(variant: Variant) {
    let run = Run::start(variant);
    let before = run.pids();
    let mut client = run.session();
    for round in 0..3 {
        let pid = run.pids().control;
        send_signal(pid, libc::SIGKILL);
        until("the control plane has died", || has_ended(pid));
        talk(&mut client, &format!("nobody home, round {round}"));
        until("status works again", || run.try_pids().is_some_and(|pids| pids.control != pid));
        talk(&mut client, &format!("somebody home, round {round}"));
        talk(&mut run.session(), "new sessions work");
    }
    assert_eq!(run.pids().data, before.data, "the data plane was restarted");
    assert!(run.said().contains("was ended by signal 9; it is started again"), "{}", run.said());
}

fn a_data_plane_that_dies_is_started_again_and_serves_the_stored_snapshot(variant: Variant) {
    let run = Run::start(variant);
    let mut client = run.session();
    let before = run.pids();
    // A control plane that is stopped cannot push: what is served then was stored.
    send_signal(before.control, libc::SIGSTOP);
    send_signal(before.data, libc::SIGKILL);
    client.expect_end();
    until("the data plane serves again", || run.is_ready());
    talk(&mut run.session(), "from the store");
    send_signal(before.control, libc::SIGCONT);
    let after = until_some("the control plane has the new data plane", || {
        run.try_pids().filter(|pids| pids.data != before.data)
    });
    assert_eq!(after.control, before.control);
    talk(&mut run.session(), "with a control plane");
}

fn when_the_supervisor_is_killed_its_children_end(variant: Variant) {
    let mut run = Run::start(variant);
    let mut client = run.session();
    let pids = run.pids();
    send_signal(run.pid(), libc::SIGKILL);
    assert_eq!(run.ended().signal(), Some(libc::SIGKILL));
    // The data plane drains: nobody is cut off without a word.
    client.expect_close(1012);
    drop(client);
    until("the control plane has ended", || has_ended(pids.control));
    until("the data plane has ended", || has_ended(pids.data));
}

fn sigterm_drains_and_leaves_nobody_behind(variant: Variant) {
    let mut run = Run::start(variant);
    let mut client = run.session();
    let pids = run.pids();
    send_signal(run.pid(), libc::SIGTERM);
    client.expect_close(1012);
    client.send_frame(&crate::kit::Frame::close(1012, ""));
    client.expect_end();
    assert_eq!(run.ended().code(), Some(0), "{}", run.said());
    assert!(has_ended(pids.control) && has_ended(pids.data), "children are left behind");
}

fn sighup_and_an_edit_are_picked_up_and_a_bad_edit_changes_nothing(variant: Variant) {
    let run = Run::start(variant);
    let mut client = run.session();
    let pids = run.pids();
    let number = |status: &Value| status["control_plane"]["generation"]["number"].as_u64();
    let before = number(&run.status()).expect("a generation");
    send_signal(run.pid(), libc::SIGHUP);
    until("the source is published again", || number(&run.status()) == Some(before + 1));

    run.write(&run.yaml("second"));
    until("the edit is picked up", || run.answers("/second") == 101);
    assert_eq!(run.answers("/first"), 404);

    run.write(&run.yaml("third").replace("context: /third", "contxt: /third"));
    let status = until_some("status says what is wrong", || {
        Some(run.status()).filter(|status| status["control_plane"]["diagnostics"].get(0).is_some())
    });
    let diagnostics = status["control_plane"]["diagnostics"].as_array().expect("a list");
    let here = |one: &Value| one["file"].as_str() == run.file().to_str() && one["line"] == 6;
    assert!(diagnostics.iter().all(here), "{diagnostics:?}");
    assert!(diagnostics.iter().any(|one| one.to_string().contains("contxt")), "{diagnostics:?}");
    let for_people = ask_control_plane(&run.control(), "status", &[]);
    assert!(for_people.stdout.contains("the source is not sound as it stands"), "{}", for_people.stdout);
    assert_eq!((run.answers("/second"), run.answers("/third")), (101, 404));
    talk(&mut client, "still here");

    run.write(&run.yaml("fourth"));
    until("the repaired file is served", || run.answers("/fourth") == 101);
    assert_eq!(run.status()["control_plane"]["diagnostics"], serde_json::json!([]));
    talk(&mut client, "and here");
    assert_eq!((run.pids().control, run.pids().data), (pids.control, pids.data), "a plane was restarted");
}

#[test]
fn a_data_plane_chooses_what_it_may_under_its_supervisor_too() {
    if Variant::Forbidden.is_available() {
        let run = Run::start(Variant::Forbidden);
        talk(&mut run.session(), "over epoll");
        let said = run.said();
        assert_eq!(
            said.matches("io_uring is not permitted (EPERM): epoll and the readiness engine").count(),
            1,
            "{said}"
        );
    }
}

#[test]
fn the_admin_api_has_the_doors_that_run_was_told() {
    let (directory, port) = (tempfile::tempdir().expect("a directory"), Port::free());
    let path = |name: &str| directory.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let (socket, tokens) = (path("elsewhere.sock"), path("tokens"));
    std::fs::write(&tokens, format!("read_only {} board\n", sha256("board"))).expect("a file can be written");
    let address = port.address().to_string();
    let doors = ["--admin", &socket, "--admin-tcp", &address, "--admin-tokens", &tokens, "--admin-host", "gw.test"];
    let run = Run::start_with(Variant::Automatic, &doors);
    let local = Admin::socket(std::path::Path::new(&socket));
    assert_eq!(local.post("/applications", &serde_json::json!({ "name": "mobile" })).status, 201);
    let board = Admin::port(port.address()).token("board");
    let named = board.ask("GET", "/applications/mobile", &[("Host", "gw.test")], None);
    assert_eq!((named.status, board.delete("/applications/mobile").status), (200, 403), "{}", run.said());
    assert!(!run.control().with_file_name("admin.sock").exists());
}

/// `framegate run FILE`, as an operator starts it, with its files in a directory of its own.
struct Run {
    child: Option<Child>,
    directory: tempfile::TempDir,
    public: Port,
    operator: Port,
    echo: EchoBackend,
}

struct Pids {
    control: u32,
    data: u32,
}

impl Run {
    fn start(variant: Variant) -> Self {
        Self::start_with(variant, &[])
    }

    fn start_with(variant: Variant, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut run =
            Self { child: None, directory, public: Port::free(), operator: Port::free(), echo: EchoBackend::start() };
        run.write(&run.yaml("first"));
        let mut command = Command::new(FRAMEGATE);
        command.arg("run").arg(run.file()).args(["--node", "test", "--workers", "1"]).args(variant.flags());
        command.args(["--operator", &run.operator.address().to_string()]).args(flags);
        command.arg("--control").arg(run.control()).arg("--state-dir").arg(run.directory.path().join("state"));
        command.arg("--log").arg(run.directory.path().join("sessions.log"));
        let log = File::create(run.directory.path().join("said")).expect("a file");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second descriptor")).stderr(log);
        die_with_parent(&mut command);
        variant.confine(&mut command);
        run.child = Some(command.spawn().expect("the executable runs"));
        until("the gateway is ready", || run.is_ready());
        until("both planes are up", || run.try_pids().is_some());
        run
    }

    /// An API that stays, and one of this name.
    fn yaml(&self, name: &str) -> String {
        let (public, url) = (self.public.address(), self.echo.url("/"));
        let api = |name| {
            format!("  - {{ name: {name}, context: /{name}, endpoints: {{ production: {{ url: \"{url}\" }} }} }}\n")
        };
        format!(
            "version: 1\nsettings: {{ drain_window: 200ms }}\nlisteners: [{{ name: public, bind: \"{public}\" }}]\n\
             apis:\n{}{}",
            api("echo"),
            api(name)
        )
    }

    /// As editors do it: the new file takes the old one's place.
    fn write(&self, text: &str) {
        let aside = self.directory.path().join("new");
        std::fs::write(&aside, text).expect("a file can be written");
        std::fs::rename(aside, self.file()).expect("a file can be renamed");
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("gateway.yaml")
    }

    fn control(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("said")).expect("a log")
    }

    fn is_ready(&self) -> bool {
        http_get(self.operator.address(), "/ready").is_some_and(|(status, _)| status == 200)
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("it was started").id()
    }

    #[track_caller]
    fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it was started");
        until_some("it ends", || child.try_wait().expect("a child can be asked"))
    }

    #[track_caller]
    fn session(&self) -> Peer {
        let mut client = Peer::connect(self.public.address());
        client.upgrade("/echo");
        talk(&mut client, "hello");
        client
    }

    /// The status with which an upgrade is answered.
    fn answers(&self, target: &str) -> u16 {
        let mut client = Peer::connect(self.public.address());
        client.send(&Upgrade::to(target).encode());
        client.head().status()
    }

    #[track_caller]
    fn status(&self) -> Value {
        let outcome = ask_control_plane(&self.control(), "status", &["--json"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        outcome.json()
    }

    /// Who runs now; none while the control plane is away, or has no data plane.
    fn try_pids(&self) -> Option<Pids> {
        let outcome = ask_control_plane(&self.control(), "status", &["--json"]);
        let status: Value = serde_json::from_str(&outcome.stdout).ok()?;
        let pid = |value: &Value| value["pid"].as_u64().map(|pid| pid as u32);
        Some(Pids { control: pid(&status["control_plane"])?, data: pid(status["nodes"].as_array()?.last()?)? })
    }

    #[track_caller]
    fn pids(&self) -> Pids {
        self.try_pids().expect("both planes run")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // A second signal ends at once; the children follow their parent anyhow.
        for _ in 0..2 {
            send_signal(child.id(), libc::SIGTERM);
        }
        let _ = child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        } else {
            assert!(!self.said().contains("panicked at"), "{}", self.said());
        }
    }
}

#[track_caller]
fn talk(client: &mut Peer, text: &str) {
    client.send_frame(&crate::kit::Frame::text(text));
    client.expect(Opcode::TEXT, text.as_bytes());
}

/// Gone, or dead and not yet waited for by whoever inherited it.
fn has_ended(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}
