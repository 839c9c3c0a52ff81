//! One control plane and two data planes on one host. Two cannot share a port, and their configuration is one: the listener
//! is a Unix socket, which each has in its own working directory.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::kit::gateway::{FRAMEGATE, die_with_parent, http_get, kill, send_signal};
use crate::kit::{DEADLINE, People, Port, Setup, until};

const SOCKET: &str = "public.sock";

/// The planes; they end with their value.
pub struct Cluster {
    setup: Setup,
    control_plane: Option<Child>,
    applying: Option<Child>,
    nodes: Vec<Node>,
}

struct Node {
    process: Option<Child>,
    log: PathBuf,
    operator: Port,
    socket: PathBuf,
}

impl Cluster {
    /// Starts all three with these people, and waits until both data planes serve.
    #[track_caller]
    pub fn start(setup: Setup, people: &People) -> Self {
        let mut cluster = Self { setup, control_plane: None, applying: None, nodes: Vec::new() };
        cluster.start_control_plane(people);
        cluster.nodes = (0..2).map(|at| cluster.node(at)).collect();
        cluster
    }

    /// Where clients of a node connect.
    pub fn socket(&self, node: usize) -> &Path {
        &self.nodes[node].socket
    }

    /// Publishes other people; says when that was done, in seconds since 1970. Nobody is waited for: the verb waits for
    /// nodes that stand still.
    #[track_caller]
    pub fn publish(&mut self, people: &People) -> f64 {
        self.write("next.yaml", people);
        let published = || self.said("controlplane").matches(" published ").count();
        let before = published();
        let mut command = Command::new(FRAMEGATE);
        command.arg("apply").arg(self.path("next.yaml")).arg("--control").arg(self.setup.control_path());
        let applying = self.spawn(command, "apply");
        until("it is published", || published() > before);
        self.applying = Some(applying);
        now_s()
    }

    /// Waits until what was published last has been told to everybody, or given up.
    pub fn applied(&mut self) {
        if let Some(mut applying) = self.applying.take() {
            applying.wait().expect("a child can be waited for");
        }
    }

    /// Sends the admin API a document; its answer as it came.
    #[track_caller]
    pub fn post(&self, target: &str, json: &str) -> String {
        let mut stream = UnixStream::connect(self.path("admin.sock")).expect("the admin API is there");
        write!(
            stream,
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{json}",
            json.len()
        )
        .expect("the admin API reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the admin API answers");
        answer
    }

    /// Sends a node a signal.
    pub fn signal(&self, node: usize, signal: i32) {
        send_signal(self.nodes[node].process.as_ref().expect("a node that runs").id(), signal);
    }

    /// Ends the control plane without warning.
    pub fn stop_control_plane(&mut self) {
        kill(self.control_plane.take());
    }

    /// Starts it with these people.
    pub fn start_control_plane(&mut self, people: &People) {
        // A control plane goes on with what was applied last.
        ["config.yaml", "next.yaml"].iter().for_each(|name| self.write(name, people));
        let mut command = Command::new(FRAMEGATE);
        command.arg("controlplane").arg(self.path("config.yaml")).arg("--control").arg(self.setup.control_path());
        command.arg("--state-dir").arg(self.path("state-controlplane"));
        self.control_plane = Some(self.spawn(command, "controlplane"));
    }

    /// Waits until a node has been told of something by a control plane that it came back to; says when that was, in
    /// seconds since 1970.
    pub fn told_again_s(&self) -> f64 {
        until("a node has come back", || {
            let back = |node: &Node| node.said().matches("connected to the control plane").count() > 1;
            self.nodes.iter().any(back)
        });
        now_s()
    }

    fn said(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn node(&self, at: usize) -> Node {
        let (name, operator) = (format!("node-{at}"), Port::free());
        let home = self.path(&format!("home-{at}"));
        std::fs::create_dir_all(&home).expect("a directory can be made");
        let mut command = Command::new(FRAMEGATE);
        command.args(["dataplane", "--node", &name, "--workers", "1"]).args(self.setup.variant().flags());
        command.args(["--operator", &operator.address().to_string()]);
        command
            .arg("--control")
            .arg(self.setup.control_path())
            .arg("--state-dir")
            .arg(self.path(&format!("state-{at}")));
        command.arg("--log").arg(self.path(&format!("sessions-{at}.log")));
        command.current_dir(&home);
        let child = self.spawn(command, &name);
        let start = Instant::now();
        while http_get(operator.address(), "/ready").is_none_or(|(status, _)| status != 200) {
            let said = || std::fs::read_to_string(self.path(&name)).unwrap_or_default();
            assert!(start.elapsed() < DEADLINE, "{name} does not get ready\n{}", said());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let socket = home.join(SOCKET);
        Node { log: self.path(&name), process: Some(child), operator, socket }
    }

    fn spawn(&self, mut command: Command, name: &str) -> Child {
        let log = File::options().create(true).append(true).open(self.path(name)).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second descriptor")).stderr(log);
        die_with_parent(&mut command);
        self.setup.variant().confine(&mut command);
        command.spawn().expect("the executable runs")
    }

    /// The configuration of the setup, with the listener where each node has its own.
    fn write(&self, name: &str, people: &People) {
        let yaml = self.setup.yaml_with_people(people);
        let public = format!("bind: \"{}\"", self.setup.public_address());
        assert!(yaml.contains(&public), "{yaml}");
        let own = format!("bind: \"unix:/proc/self/cwd/{SOCKET}\"");
        std::fs::write(self.path(name), yaml.replace(&public, &own)).expect("a file can be written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.setup.directory().join(name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        kill(self.applying.take());
        kill(self.control_plane.take());
        for node in &mut self.nodes {
            kill(node.process.take());
            if std::thread::panicking() {
                eprintln!("--- {} at {}\n{}", node.log.display(), node.operator.address(), node.said());
            }
        }
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.path("controlplane")).unwrap_or_default());
        }
    }
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64()
}

impl Node {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}
