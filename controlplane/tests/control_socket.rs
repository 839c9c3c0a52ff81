//! The control socket, driven from both sides with plain blocking streams: as a data plane and as an operator.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use controlplane::answer::{Applied, Diff, Drained, Outcome, Status, Used};
use controlplane::client::{self, Control};
use controlplane::office::Office;
use controlplane::server::{Server, SocketError};
use proto::control::message::{Ack, Generation, Hello, Push, Reject, Report, Request, Usage, UsageAsked, UsageRow};
use proto::control::{Message, PROTOCOL_VERSION};
use proto::snapshot::Digest;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(10);

/// A control plane in this process, on a socket of its own.
struct Plane {
    directory: TempDir,
    runtime: tokio::runtime::Runtime,
    office: Arc<Office>,
}

impl Plane {
    fn start(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("gateway.yaml"), text).unwrap();
        Self::start_in(directory, "run-1")
    }

    fn start_in(directory: TempDir, run: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let file = directory.path().join("gateway.yaml");
        let state = directory.path().join("state");
        let socket = directory.path().join("run/control.sock");
        let office = Arc::new(Office::new(file, state, run.into(), Instant::now()).unwrap());
        runtime.block_on(async {
            let server = Server::open(&socket).unwrap();
            office.reload("start").await;
            let office = Arc::clone(&office);
            tokio::spawn(async move { server.serve(office).await });
        });
        Self { directory, runtime, office }
    }

    fn stop(self) -> TempDir {
        self.runtime.shutdown_timeout(PATIENCE);
        self.directory
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("run/control.sock")
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, request: Request) -> (bool, T) {
        let response = client::ask(&Control::Unix(self.socket()), request).unwrap();
        (response.ok, serde_json::from_str(&response.json).unwrap())
    }

    fn node(&self, applied: Option<Generation>, sections: Vec<Digest>) -> Node {
        Node::connect(&self.socket(), applied, sections)
    }

    /// Asks while a node is busy answering.
    fn ask_beside<T: serde::de::DeserializeOwned + Send + 'static>(
        &self,
        request: Request,
    ) -> std::thread::JoinHandle<(bool, T)> {
        let socket = self.socket();
        std::thread::spawn(move || {
            let response = client::ask(&Control::Unix(socket), request).unwrap();
            (response.ok, serde_json::from_str(&response.json).unwrap())
        })
    }
}

/// A data plane of a few lines.
struct Node {
    stream: UnixStream,
}

impl Node {
    fn connect(socket: &Path, applied: Option<Generation>, sections: Vec<Digest>) -> Self {
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            node: "edge".into(),
            software: "9.9".into(),
            pid: 77,
            applied,
            sections,
        };
        let mut node = Self::raw(socket);
        node.send(&Message::Hello(hello));
        assert!(matches!(node.receive(), Some(Message::Welcome(welcome)) if welcome.protocol == PROTOCOL_VERSION));
        node
    }

    fn raw(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    fn send(&mut self, message: &Message) {
        self.stream.write_all(&message.encode().unwrap()).unwrap();
    }

    fn receive(&mut self) -> Option<Message> {
        let mut prefix = [0; 4];
        if self.stream.read(&mut prefix[..1]).unwrap() == 0 {
            return None;
        }
        self.stream.read_exact(&mut prefix[1..]).unwrap();
        let mut bytes = vec![0; u32::from_be_bytes(prefix) as usize];
        self.stream.read_exact(&mut bytes).unwrap();
        Some(Message::decode(&bytes).unwrap())
    }

    /// The next push; a question on the way is answered.
    fn push(&mut self) -> Push {
        loop {
            match self.receive() {
                Some(Message::Push(push)) => return push,
                Some(Message::Ask(ask)) => {
                    self.send(&Message::Report(Report { ticket: ask.ticket, ..Report::default() }))
                }
                other => panic!("expected a push, got {other:?}"),
            }
        }
    }

    fn ack(&mut self, push: &Push) {
        self.send(&Message::Ack(Ack { generation: push.generation.clone(), micros: 1500 }));
    }

    fn reject(&mut self, push: &Push, reason: &str) {
        let reasons = vec![reason.to_owned()];
        self.send(&Message::Reject(Reject { generation: push.generation.clone(), reasons }));
    }

    fn is_silent(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let is_silent = self.stream.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        is_silent
    }
}

fn config(apis: &[&str]) -> String {
    let mut text = String::from("version: 1\nlisteners: [{name: public, bind: \"127.0.0.1:8080\"}]\napis:\n");
    for api in apis {
        text.push_str(&format!(
            "  - {{name: {api}, context: /{api}, endpoints: {{production: {{url: \"ws://127.0.0.1:9001/\"}}}}}}\n"
        ));
    }
    text
}

fn sorted_bodies(push: &Push) -> Vec<String> {
    push.bodies.iter().map(|body| body.name.to_string()).collect()
}

#[test]
fn a_node_is_welcomed_and_gets_the_current_generation_and_its_answer_is_remembered() {
    let plane = Plane::start(&config(&["a"]));
    let mut node = plane.node(None, vec![]);
    let push = node.push();
    assert_eq!(push.generation, Generation { source: "run-1".into(), number: 1 });
    let (generation, snapshot) = push.assemble(None).unwrap();
    assert_eq!(generation.number, 1);
    assert_eq!(snapshot.apis().count(), 1);
    node.ack(&push);
    let status = std::thread::scope(|scope| {
        let asking = scope.spawn(|| plane.ask::<Status>(Request::Status).1);
        let Some(Message::Ask(ask)) = node.receive() else { panic!("expected a question") };
        let sessions_by_api = [("a".to_owned(), 5)].into();
        let report =
            Report { ticket: ask.ticket, sessions: 5, sessions_by_api, driver: "epoll".into(), ..Report::default() };
        node.send(&Message::Report(report));
        asking.join().unwrap()
    });
    assert_eq!(status.control_plane.generation.unwrap().number, 1);
    let [one] = status.nodes.as_slice() else { panic!("one node") };
    assert_eq!((one.node.as_str(), one.pid, one.software.as_str()), ("edge", 77, "9.9"));
    assert_eq!((one.generation.as_ref().unwrap().number, one.sessions, one.driver.as_str()), (1, 5, "epoll"));
}

#[test]
fn apply_waits_for_every_nodes_word_and_says_what_each_said() {
    let plane = Plane::start(&config(&["a"]));
    // One after the other: they answer in the order in which they came.
    let mut nodes = [(); 2].map(|()| {
        let mut node = plane.node(None, vec![]);
        let push = node.push();
        node.ack(&push);
        node
    });
    let file = plane.write("next.yaml", &config(&["a", "b"]));
    let applying = plane.ask_beside::<Applied>(Request::Apply { file: file.clone() });
    let pushes = nodes.each_mut().map(Node::push);
    let [first, second] = &mut nodes;
    first.ack(&pushes[0]);
    second.reject(&pushes[1], "/listeners/public/bind: taken");
    let (ok, applied) = applying.join().unwrap();
    assert!(!ok && !applied.ok);
    let outcomes: Vec<_> = applied.nodes.iter().map(|node| (node.outcome, node.micros, node.reasons.len())).collect();
    assert_eq!(outcomes, [(Outcome::Applied, Some(1500), 0), (Outcome::Rejected, None, 1)]);

    // A node that refused is asked again by reload, as a new generation, and may change its mind.
    let reloading = plane.ask_beside::<Applied>(Request::Reload);
    for node in [first, second] {
        let push = node.push();
        assert_eq!(push.generation.number, 3);
        node.ack(&push);
    }
    let (ok, applied) = reloading.join().unwrap();
    assert!(ok && applied.file == file, "{applied:?}");
}

#[test]
fn sections_that_the_node_holds_are_not_sent_again() {
    let plane = Plane::start(&config(&["a"]));
    let mut node = plane.node(None, vec![]);
    let first = node.push();
    assert_eq!(sorted_bodies(&first).len(), first.sections.len());
    node.ack(&first);

    let applying = plane.ask_beside::<Applied>(Request::Apply { file: plane.write("b.yaml", &config(&["a", "b"])) });
    let second = node.push();
    assert_eq!(second.sections.len(), first.sections.len() + 1);
    assert_eq!(second.bodies.len(), 1, "only the bucket of the new API");
    node.reject(&second, "no");
    assert!(!applying.join().unwrap().0);

    // What was refused is not held: it comes again.
    let reloading = plane.ask_beside::<Applied>(Request::Reload);
    let third = node.push();
    assert_eq!(sorted_bodies(&third), sorted_bodies(&second));
    node.ack(&third);
    assert!(reloading.join().unwrap().0);

    // A node that comes back says what it holds, and what it serves.
    let held: Vec<Digest> = third.sections.iter().map(|(_, digest)| *digest).collect();
    drop(node);
    let mut node = plane.node(Some(third.generation.clone()), held.clone());
    assert!(node.is_silent(), "it already serves the current generation");
    drop(node);
    let elsewhere = Generation { source: "another run".into(), number: 99 };
    let mut node = plane.node(Some(elsewhere), held);
    assert_eq!(node.push().bodies, [], "the list alone says it all");
}

#[test]
fn one_push_is_in_flight_and_the_newest_generation_wins() {
    let plane = Plane::start(&config(&["a"]));
    let mut node = plane.node(None, vec![]);
    let first = node.push();
    // Three more while the first is not answered.
    for apis in [&["a", "b"][..], &["a", "c"], &["a", "d"]] {
        std::fs::write(plane.path("gateway.yaml"), config(apis)).unwrap();
        plane.runtime.block_on(plane.office.refresh("the test"));
    }
    assert!(node.is_silent(), "one at a time");
    node.ack(&first);
    let newest = node.push();
    assert_eq!(newest.generation.number, 4);
    node.ack(&newest);
    assert!(node.is_silent(), "those between were never wanted again");
}

#[test]
fn an_unsound_file_leaves_the_old_generation_and_says_why() {
    let plane = Plane::start(&config(&["a"]));
    let mut node = plane.node(None, vec![]);
    let push = node.push();
    node.ack(&push);
    let file = plane.write("bad.yaml", &format!("{}colour: blue\n", config(&["a"])));
    let (ok, applied) = plane.ask::<Applied>(Request::Apply { file });
    assert!(!ok && applied.generation.is_none() && applied.diagnostics.len() == 1, "{applied:?}");
    assert!(applied.diagnostics[0].message.contains("colour"));
    assert!(node.is_silent());

    std::fs::write(plane.path("gateway.yaml"), "version: 1\napis: 7\n").unwrap();
    let (ok, applied) = plane.ask::<Applied>(Request::Reload);
    assert!(!ok && !applied.diagnostics.is_empty());
    assert!(node.is_silent());
    let status = plane.ask::<Status>(Request::Status).1;
    assert_eq!(status.control_plane.generation.unwrap().number, 1);
    assert_eq!(status.control_plane.diagnostics, applied.diagnostics);
}

#[test]
fn an_applied_file_outlives_the_control_plane_until_the_first_is_applied_again() {
    let plane = Plane::start(&config(&["a"]));
    let file = plane.write("next.yaml", &config(&["b"]));
    assert!(plane.ask::<Applied>(Request::Apply { file: file.clone() }).0);
    let plane = Plane::start_in(plane.stop(), "run-2");
    let status = plane.ask::<Status>(Request::Status).1;
    assert_eq!(status.control_plane.file, file);
    assert!(status.control_plane.started_with.unwrap().ends_with("gateway.yaml"));
    let first = plane.path("gateway.yaml").display().to_string();
    assert!(plane.ask::<Applied>(Request::Apply { file: first.clone() }).0);
    let plane = Plane::start_in(plane.stop(), "run-3");
    let status = plane.ask::<Status>(Request::Status).1;
    assert_eq!((status.control_plane.file, status.control_plane.started_with), (first, None));
}

#[test]
fn diff_counts_the_live_sessions_that_a_change_touches() {
    let plane = Plane::start(&config(&["a", "b"]));
    let mut node = plane.node(None, vec![]);
    let push = node.push();
    node.ack(&push);
    let file = plane.write("next.yaml", &config(&["a"]));
    let asking = plane.ask_beside::<Diff>(Request::Diff { file });
    let Some(Message::Ask(ask)) = node.receive() else { panic!("expected a question") };
    let sessions_by_api = [("a".to_owned(), 5), ("b".to_owned(), 3)].into();
    node.send(&Message::Report(Report { ticket: ask.ticket, sessions_by_api, ..Report::default() }));
    let (ok, diff) = asking.join().unwrap();
    assert!(ok && !diff.equal);
    let touched: Vec<_> = diff.sessions.iter().map(|touched| (touched.api.as_str(), touched.sessions)).collect();
    assert_eq!(touched, [("b", 3)]);
    assert!(node.is_silent(), "nothing was published");
}

#[test]
fn usage_is_what_every_node_says_and_who_does_not_know_the_question_or_does_not_answer_is_named() {
    let plane = Plane::start(&config(&["a"]));
    let mut nodes = [(); 3].map(|()| {
        let mut node = plane.node(None, vec![]);
        let push = node.push();
        node.ack(&push);
        node
    });
    let asked = UsageAsked { application: Some("mobile".into()), rows_max: 2, ..UsageAsked::default() };
    let asking = plane.ask_beside::<Used>(Request::Usage(asked.clone()));
    let tickets = nodes.each_mut().map(|node| match node.receive() {
        Some(Message::Ask(ask)) => {
            assert_eq!(ask.usage.as_ref(), Some(&asked));
            ask.ticket
        }
        other => panic!("expected a question, got {other:?}"),
    });
    let row = |key: &str, used| UsageRow { key: key.into(), used, amount: 10, resets_ms: 1500, ..UsageRow::default() };
    let say = |node: &mut Node, ticket, rows: Vec<UsageRow>| {
        node.send(&Message::Usage(Usage { ticket, total: 5, rows }));
    };
    // What answers another question is nobody's.
    say(&mut nodes[0], tickets[0] + 100, vec![row("nobody", 10)]);
    say(&mut nodes[0], tickets[0], vec![row("half", 5), row("little", 1)]);
    say(&mut nodes[1], tickets[1], vec![row("much", 9)]);
    // An older node.
    nodes[2].send(&Message::Report(Report { ticket: tickets[2], ..Report::default() }));
    let (ok, used) = asking.join().unwrap();
    assert!(ok);
    let keys: Vec<_> = used.rows.iter().map(|row| row.key.as_str()).collect();
    assert_eq!((keys.as_slice(), used.total), (["much", "half"].as_slice(), 10));
    assert_eq!(used.rows[0].resets.unwrap().to_string(), "1970-01-01T00:00:02Z");
    assert_eq!(used.silent, [("edge".to_owned(), 77)]);

    // A node that goes is not waited for.
    let asking = plane.ask_beside::<Used>(Request::Usage(UsageAsked::default()));
    let begun = Instant::now();
    for node in &mut nodes {
        assert!(matches!(node.receive(), Some(Message::Ask(_))));
    }
    drop(nodes);
    let (_, used) = asking.join().unwrap();
    assert!(used.rows.is_empty() && used.silent.len() == 3 && begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn drain_reaches_the_nodes_that_are_meant() {
    let plane = Plane::start(&config(&["a"]));
    let mut node = plane.node(None, vec![]);
    let push = node.push();
    node.ack(&push);
    let drain = |node: &str| Request::Drain { node: Some(node.into()), window_ms: Some(100) };
    let (ok, drained) = plane.ask::<Drained>(drain("nobody"));
    assert!(!ok && drained.nodes.is_empty());
    let (ok, drained) = plane.ask::<Drained>(drain("edge"));
    assert!(ok && drained.nodes == [("edge".to_owned(), 77)]);
    assert!(matches!(node.receive(), Some(Message::Drain(drain)) if drain.window_ms == Some(100)));
}

#[test]
fn a_node_that_leaves_in_the_middle_of_a_push_is_gone_and_not_waited_for() {
    let plane = Plane::start(&config(&["a"]));
    let mut node = plane.node(None, vec![]);
    let push = node.push();
    node.ack(&push);
    let file = plane.write("next.yaml", &config(&["b"]));
    let begun = Instant::now();
    let applying = plane.ask_beside::<Applied>(Request::Apply { file });
    node.push();
    drop(node);
    let (ok, applied) = applying.join().unwrap();
    assert!(!ok && applied.nodes[0].outcome == Outcome::Gone, "{applied:?}");
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn what_is_not_the_protocol_ends_that_connection_and_no_other() {
    let plane = Plane::start(&config(&["a"]));
    let mut good = plane.node(None, vec![]);
    let push = good.push();
    for bytes in [
        &[0, 0, 0, 0][..],            // a length of nothing
        &[0xff, 0xff, 0xff, 0xff],    // over the ceiling
        &[0x0f, 0xff, 0xff, 0xff, 1], // over the ceiling of what is not a push
        &[0, 0, 0, 2, 99, 0x80],      // a kind nobody knows
        &[0, 0, 0, 2, 1, 0xc1],       // no MessagePack
        &[0, 0, 0, 2, 7, 0x80],       // an Ask, which is not a node's to send
        &Message::Ack(Ack { generation: push.generation.clone(), micros: 0 }).encode().unwrap(),
    ] {
        let mut bad = Node::raw(&plane.socket());
        bad.stream.write_all(bytes).unwrap();
        assert_eq!(bad.receive(), None, "{bytes:?}");
    }
    // An answer to a push that was never sent.
    let mut bad = plane.node(None, vec![]);
    let mut other = bad.push();
    other.generation.number += 1;
    bad.ack(&other);
    assert_eq!(bad.receive(), None);
    // Another protocol version: welcomed, so that it learns ours, and ended.
    let mut old = Node::raw(&plane.socket());
    let hello =
        Hello { protocol: 7, node: "old".into(), software: "0".into(), pid: 1, applied: None, sections: vec![] };
    old.send(&Message::Hello(hello));
    assert!(matches!(old.receive(), Some(Message::Welcome(welcome)) if welcome.protocol == PROTOCOL_VERSION));
    assert_eq!(old.receive(), None);
    good.ack(&push);
    assert!(good.is_silent());
}

#[test]
fn a_second_control_plane_is_refused_and_a_stale_socket_is_not() {
    use std::os::unix::fs::PermissionsExt;
    let plane = Plane::start(&config(&["a"]));
    let socket = plane.socket();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    let _runtime = plane.runtime.enter();
    assert!(matches!(Server::open(&socket), Err(SocketError::Taken { .. })));
    let stale = plane.path("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    drop(Server::open(&stale).unwrap());
    assert!(!stale.exists(), "and it goes with the server");
    let file = plane.path("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(Server::open(&file), Err(SocketError::NotASocket { .. })));
    assert!(file.exists());
}

#[test]
fn a_directory_that_is_replaced_again_and_again_is_watched_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let part = |api: &str| config(&[api]).replace("listeners: [{name: public, bind: \"127.0.0.1:8080\"}]\n", "");
    // The parts stand where nobody watches what is around them.
    let parts = directory.path().join("deep/conf.d");
    std::fs::create_dir_all(&parts).unwrap();
    std::fs::write(parts.join("part.yaml"), part("b")).unwrap();
    let text = format!("include: deep/conf.d\n{}", config(&["a"]));
    std::fs::write(directory.path().join("gateway.yaml"), text).unwrap();
    let plane = Plane::start_in(directory, "run-1");
    plane.runtime.spawn(controlplane::watch::follow(Arc::clone(&plane.office)));
    let mut node = plane.node(None, vec![]);
    let push = node.push();
    node.ack(&push);
    // The watch may not be set up yet: it looks once when it is.
    for (number, api) in [(2, "c"), (3, "d"), (4, "e")] {
        let new = plane.path("deep/new");
        std::fs::create_dir(&new).unwrap();
        std::fs::write(new.join("part.yaml"), part(api)).unwrap();
        std::fs::rename(&parts, plane.path(&format!("deep/old-{number}"))).unwrap();
        std::fs::rename(new, &parts).unwrap();
        let push = node.push();
        assert_eq!(push.generation.number, number);
        node.ack(&push);
    }
}

#[test]
fn a_change_on_disk_is_published_also_when_an_editor_renames_and_in_an_included_directory() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("conf.d")).unwrap();
    let text = format!("include: conf.d\n{}", config(&["a"]));
    std::fs::write(directory.path().join("gateway.yaml"), &text).unwrap();
    let plane = Plane::start_in(directory, "run-1");
    plane.runtime.spawn(controlplane::watch::follow(Arc::clone(&plane.office)));
    let mut node = plane.node(None, vec![]);
    let push = node.push();
    node.ack(&push);
    // The watch may not be set up yet: it looks once when it is.
    std::fs::write(plane.path("new"), text.replace("/a,", "/b,")).unwrap();
    std::fs::rename(plane.path("new"), plane.path("gateway.yaml")).unwrap();
    let push = node.push();
    assert_eq!(push.generation.number, 2);
    node.ack(&push);
    let part = config(&["c"]).replace("listeners: [{name: public, bind: \"127.0.0.1:8080\"}]\n", "");
    std::fs::write(plane.path("conf.d/c.yaml"), part).unwrap();
    let push = node.push();
    assert_eq!(push.generation.number, 3);
    node.ack(&push);
    std::fs::write(plane.path("unrelated.txt"), "nothing").unwrap();
    assert!(node.is_silent());
}
