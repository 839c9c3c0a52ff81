//! The gateway as an operator has it: processes, files, ports. What it writes is kept; what it leaves is killed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::echo::EchoBackend;
use super::peer::Peer;
use super::people::People;
use super::pki;
use super::ports::Port;
use super::tls;
use super::upstream::RawUpstream;
use super::variant::Variant;
use super::wait::{DEADLINE, until_some};

/// The executable under test.
pub const FRAMEGATE: &str = env!("CARGO_BIN_EXE_framegate");

/// What a gateway is started with.
#[derive(Debug)]
pub struct Setup {
    variant: Variant,
    program: Option<PathBuf>,
    flags: Vec<String>,
    workers: usize,
    cpus: Option<String>,
    control_plane: bool,
    descriptors: Option<u64>,
    user: Option<u32>,
    environment: Vec<(&'static str, &'static str, String)>,
    settings: String,
    certificates: Vec<String>,
    authorities: Vec<String>,
    tls: Option<String>,
    listener: String,
    listeners: Vec<String>,
    upstreams: Vec<String>,
    apis: Vec<String>,
    people: People,
    document: String,
    directory: TempDir,
    public: Port,
    operator: Port,
    probe: EchoBackend,
}

impl Setup {
    /// One worker, one listener on a free port, and an API `probe` that leads to an echo backend.
    ///
    /// Where the variant has TLS to clients, the listener `public` shows the shared PKI's certificate `edge`; where it has
    /// TLS to upstreams, the data plane's host trusts the shared PKI.
    pub fn new(variant: Variant) -> Self {
        let mut setup = Self {
            variant,
            program: None,
            flags: Vec::new(),
            workers: 1,
            cpus: None,
            control_plane: true,
            descriptors: None,
            user: None,
            environment: Vec::new(),
            settings: "drain_window: 1s".into(),
            certificates: Vec::new(),
            authorities: Vec::new(),
            tls: variant.is_secure_in().then(|| "certificates: [edge]".into()),
            listener: String::new(),
            listeners: Vec::new(),
            upstreams: Vec::new(),
            apis: Vec::new(),
            people: People::new(),
            document: String::new(),
            directory: tempfile::Builder::new().prefix("framegate-").tempdir().expect("a directory"),
            public: Port::free(),
            operator: Port::free(),
            probe: EchoBackend::start_on(variant),
        };
        if variant.is_secure_in() {
            setup = setup.certificate(&pki::shared().edge.entry("edge"));
        }
        if variant.is_secure_out() {
            let roots = pki::shared().root.to_str().expect("a path in UTF-8");
            setup = setup.environment("dataplane", "SSL_CERT_FILE", roots);
        }
        setup
    }

    /// The variant that it is on.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Another executable than the one of this build.
    pub fn program_at(mut self, path: &Path) -> Self {
        self.program = Some(path.into());
        self
    }

    /// More flags of the data plane.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// The CPUs of the workers, as the flag has them.
    pub fn cpus(mut self, cpus: &str) -> Self {
        self.cpus = Some(cpus.into());
        self
    }

    /// No control plane: whoever the test starts at [`Setup::control_path`] is the control plane.
    pub fn without_control_plane(mut self) -> Self {
        self.control_plane = false;
        self
    }

    /// The ceiling of open descriptors, soft and hard.
    pub fn descriptors(mut self, max: u64) -> Self {
        self.descriptors = Some(max);
        self
    }

    /// The user that both planes run as; only root can have it so.
    pub fn user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// An environment variable of the plane `controlplane` or `dataplane`.
    pub fn environment(mut self, plane: &'static str, name: &'static str, value: &str) -> Self {
        self.environment.push((plane, name, value.into()));
        self
    }

    /// The members of `settings`, as a YAML flow mapping without its braces.
    pub fn settings(mut self, members: &str) -> Self {
        self.settings = members.into();
        self
    }

    /// One more certificate, as a YAML flow mapping without its braces.
    pub fn certificate(mut self, members: &str) -> Self {
        self.certificates.push(members.into());
        self
    }

    /// One more entry of `authorities`, as a YAML flow mapping without its braces.
    pub fn authorities(mut self, members: &str) -> Self {
        self.authorities.push(members.into());
        self
    }

    /// The members of `tls` of the listener `public`, as a YAML flow mapping without its braces.
    pub fn tls(mut self, members: &str) -> Self {
        assert!(self.variant.is_secure_in(), "only a variant with TLS to clients has a listener that speaks it");
        self.tls = Some(members.into());
        self
    }

    /// More members of the listener `public`, as a YAML flow mapping without its braces.
    pub fn listener(mut self, members: &str) -> Self {
        self.listener = members.into();
        self
    }

    /// Another listener, as a YAML flow mapping without its braces.
    pub fn another_listener(mut self, members: &str) -> Self {
        self.listeners.push(members.into());
        self
    }

    /// One more upstream, as a YAML flow mapping without its braces.
    pub fn upstream(mut self, members: &str) -> Self {
        self.upstreams.push(members.into());
        self
    }

    /// One more API, as a YAML flow mapping without its braces.
    pub fn api(mut self, members: &str) -> Self {
        self.apis.push(members.into());
        self
    }

    /// An API of this name at the context of the same name, leading to one endpoint; `members` may be empty.
    pub fn api_to(self, name: &str, url: &str, members: &str) -> Self {
        let comma = if members.is_empty() { "" } else { ", " };
        self.api(&format!(
            "name: {name}, context: /{name}, endpoints: {{ production: {{ url: \"{url}\" }} }}{comma}{members}"
        ))
    }

    /// More top-level members of the configuration, as lines of YAML.
    pub fn document(mut self, lines: &str) -> Self {
        self.document.push_str(lines);
        self
    }

    /// Who may come in.
    pub fn people(mut self, people: People) -> Self {
        self.people = people;
        self
    }

    /// A directory that lives as long as the gateway.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where the control plane listens.
    pub fn control_path(&self) -> PathBuf {
        self.directory().join("control.sock")
    }

    /// Where the operator's listener is.
    pub fn operator_address(&self) -> SocketAddr {
        self.operator.address()
    }

    /// Where clients connect.
    pub fn public_address(&self) -> SocketAddr {
        self.public.address()
    }

    fn program(&self) -> PathBuf {
        match &self.program {
            _ if self.user.is_some() => self.directory().join("framegate"),
            Some(program) => program.clone(),
            None => FRAMEGATE.into(),
        }
    }

    /// The backend of the API `probe`, as an endpoint of a configuration.
    pub fn probe_url(&self) -> String {
        self.probe.url("/")
    }

    /// The whole configuration.
    pub fn yaml(&self) -> String {
        self.yaml_with(&[], &[], &[])
    }

    /// The whole configuration, with other people.
    pub fn yaml_with_people(&self, people: &People) -> String {
        self.written(&[], &[], &[], people)
    }

    /// The whole configuration, and these listeners, upstreams and APIs.
    pub fn yaml_with(&self, listeners: &[String], upstreams: &[String], apis: &[String]) -> String {
        self.written(listeners, upstreams, apis, &self.people)
    }

    fn written(&self, listeners: &[String], upstreams: &[String], apis: &[String], people: &People) -> String {
        let comma = if self.listener.is_empty() { "" } else { ", " };
        let tls = self.tls.as_ref().map(|members| format!(", tls: {{ {members} }}")).unwrap_or_default();
        let public = format!("name: public, bind: \"{}\"{comma}{}{tls}", self.public.address(), self.listener);
        let probe =
            format!("name: probe, context: /probe, endpoints: {{ production: {{ url: \"{}\" }} }}", self.probe_url());
        let list = |items: &mut dyn Iterator<Item = &String>| {
            items.map(|item| format!("\n  - {{ {item} }}")).collect::<String>()
        };
        let upstreams: Vec<_> = self.upstreams.iter().chain(upstreams).collect();
        let section = |name: &str, items: &[String]| {
            if items.is_empty() { String::new() } else { format!("{name}:{}\n", list(&mut items.iter())) }
        };
        format!(
            "version: 1\nsettings: {{ {} }}\n{}{}listeners:{}\nupstreams:{}\napis:{}\n{}",
            self.settings,
            section("certificates", &self.certificates),
            section("authorities", &self.authorities),
            list(&mut [&public].into_iter().chain(&self.listeners).chain(listeners)),
            if upstreams.is_empty() { " []".into() } else { list(&mut upstreams.into_iter()) },
            list(&mut [&probe].into_iter().chain(&self.apis).chain(apis)),
            people.yaml() + &self.document,
        )
    }

    /// Starts the planes, and waits until the gateway is ready (without a control plane: until it is alive).
    #[track_caller]
    pub fn start(self) -> Gateway {
        let config = self.directory().join("config.yaml");
        std::fs::write(&config, self.yaml()).expect("the configuration can be written");
        if self.user.is_some() {
            // Where the tests are built another user may see nothing.
            std::fs::copy(FRAMEGATE, self.program()).expect("the executable can be copied");
            std::os::unix::fs::chown(self.directory(), self.user, self.user).expect("root may give a directory away");
        }
        let mut gateway = Gateway { setup: self, config, control_plane: None, data_plane: None, probes: 0 };
        if gateway.setup.control_plane {
            gateway.start_control_plane();
        }
        gateway.start_data_plane();
        gateway
    }
}

/// What a verb of the command line came to.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// What `--json` put on standard output.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// A running gateway. Ends with its value, at once.
#[derive(Debug)]
pub struct Gateway {
    setup: Setup,
    config: PathBuf,
    control_plane: Option<Child>,
    data_plane: Option<Child>,
    probes: u64,
}

impl Gateway {
    /// What it was started with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.setup.public.address()
    }

    /// Where the operator's listener is.
    pub fn operator(&self) -> SocketAddr {
        self.setup.operator.address()
    }

    /// Connects a scripted client; over TLS, its handshake done, where the variant has it.
    #[track_caller]
    pub fn connect(&self) -> Peer {
        if self.setup.variant.is_secure_in() {
            tls::client().connect(self.address())
        } else {
            Peer::connect(self.address())
        }
    }

    /// Opens a session from a scripted client to a scripted upstream: client first.
    #[track_caller]
    pub fn session(&self, target: &str, upstream: &RawUpstream) -> (Peer, Peer) {
        let mut client = self.connect();
        client.send(&super::peer::Upgrade::to(target).encode());
        let mut backend = upstream.accept();
        backend.agree();
        client.upgraded();
        (client, backend)
    }

    /// A client that nobody here wrote connects, gets its echo, and says goodbye: the gateway is well.
    #[track_caller]
    pub fn probe(&mut self) {
        self.probes += 1;
        let stream = TcpStream::connect(self.address()).expect("the gateway accepts connections");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        if self.setup.variant.is_secure_in() {
            self.probe_through(rustls::StreamOwned::new(tls::client().connection(), stream));
        } else {
            self.probe_through(stream);
        }
    }

    #[track_caller]
    fn probe_through(&self, stream: impl Read + Write) {
        let (mut socket, _) = tungstenite::client(format!("ws://{}/probe", self.address()), stream)
            .unwrap_or_else(|error| panic!("the probe is refused: {error}\n{}", self.log_tail()));
        let word = tungstenite::Message::text(format!("are you well? {}", self.probes));
        socket.send(word.clone()).expect("the probe can send");
        assert_eq!(socket.read().expect("the probe is answered"), word);
        socket.close(None).expect("the probe can close");
        while socket.read().is_ok() {}
    }

    // --- The operator ---

    /// Runs a verb against this gateway's control plane; the arguments follow the verb.
    pub fn verb(&self, verb: &str, arguments: &[&str]) -> Outcome {
        ask_control_plane(&self.setup.control_path(), verb, arguments)
    }

    /// Applies another configuration with the operator's verb.
    pub fn apply(&self, yaml: &str) -> Outcome {
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile_in(self.setup.directory()).expect("a file");
        file.write_all(yaml.as_bytes()).expect("a file can be written");
        let (_, path) = file.keep().expect("a file can stay");
        self.verb("apply", &[path.to_str().expect("a path in UTF-8")])
    }

    /// Asks the operator's listener; status and body.
    pub fn ask(&self, target: &str) -> Option<(u16, String)> {
        http_get(self.operator(), target)
    }

    /// The sum of a metric over all series that carry these labels; 0 where there is none.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let (status, text) = self.ask("/metrics").expect("the operator's listener answers");
        assert_eq!(status, 200, "{text}");
        let wanted: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        let matching = series.filter(|(series, _)| {
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            found == name && wanted.iter().all(|label| rest.trim_end_matches('}').split(',').any(|one| one == label))
        });
        matching.map(|(_, value)| value.parse::<f64>().expect("a number")).sum()
    }

    /// The access log so far: one JSON value a line.
    pub fn log_lines(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.setup.directory().join("sessions.log")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
    }

    /// Waits for a line of the session log: of this event, about this API (empty: about none).
    #[track_caller]
    pub fn logged(&self, event: &str, api: &str) -> serde_json::Value {
        let is_it = |line: &serde_json::Value| {
            line["event"].as_str() == Some(event) && line["api"].as_str().unwrap_or_default() == api
        };
        until_some(&format!("the log has a line {event} about {api}"), || self.log_lines().into_iter().find(is_it))
    }

    /// Everything that a plane wrote for people.
    pub fn said(&self, plane: &str) -> String {
        std::fs::read_to_string(self.setup.directory().join(plane)).unwrap_or_default()
    }

    /// What the planes wrote for people.
    pub fn log_tail(&self) -> String {
        ["controlplane", "dataplane"]
            .map(|plane| {
                let text = self.said(plane);
                let lines: Vec<_> = text.lines().collect();
                let panicked = lines.iter().position(|line| line.contains("panicked at"));
                let panic = panicked.map_or(&[][..], |at| &lines[at..lines.len().min(at + 40)]);
                let tail = &lines[lines.len().saturating_sub(40)..];
                format!("--- {plane} ---\n{}\n{}\n", panic.join("\n"), tail.join("\n"))
            })
            .concat()
    }

    // --- Processes ---

    #[track_caller]
    pub fn start_control_plane(&mut self) {
        let mut command = self.plane("controlplane");
        command.arg(&self.config);
        self.control_plane = Some(self.spawn(command, "controlplane"));
    }

    /// Starts the data plane and waits until it is ready, or only alive where there is no control plane.
    #[track_caller]
    pub fn start_data_plane(&mut self) {
        let target = if self.setup.control_plane { "/ready" } else { "/health" };
        self.launch_data_plane();
        let operator = self.operator();
        let deadline = std::time::Instant::now() + DEADLINE;
        while http_get(operator, target).is_none_or(|(status, _)| status != 200) {
            let ended = self.data_plane.as_mut().and_then(|child| child.try_wait().expect("a child can be asked"));
            assert!(ended.is_none(), "the data plane ended with {ended:?}\n{}", self.log_tail());
            assert!(std::time::Instant::now() < deadline, "the gateway does not get ready\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the data plane and waits for nothing.
    pub fn launch_data_plane(&mut self) {
        let mut command = self.plane("dataplane");
        command.args(["--operator", &self.operator().to_string(), "--node", "test"]);
        command.args(self.setup.variant.flags()).args(&self.setup.flags);
        command.args(["--workers", &self.setup.workers.to_string()]);
        if let Some(cpus) = &self.setup.cpus {
            command.args(["--cpus", cpus]);
        }
        command.arg("--log").arg(self.setup.directory().join("sessions.log"));
        if let Some(max) = self.setup.descriptors {
            let limit = libc::rlimit { rlim_cur: max, rlim_max: max };
            // SAFETY: setrlimit(2) is async-signal-safe, and the closure touches nothing but its own copy of the limit.
            unsafe {
                command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                });
            }
        }
        self.data_plane = Some(self.spawn(command, "dataplane"));
    }

    fn plane(&self, verb: &str) -> Command {
        let mut command = Command::new(self.setup.program());
        let state = self.setup.directory().join(format!("state-{verb}"));
        std::fs::create_dir_all(&state).expect("a directory can be made");
        if let Some(user) = self.setup.user {
            std::os::unix::fs::chown(&state, Some(user), Some(user)).expect("root may give a directory away");
            command.uid(user).gid(user);
        }
        command.arg(verb).arg("--control").arg(self.setup.control_path()).arg("--state-dir").arg(state);
        command
    }

    fn spawn(&self, mut command: Command, name: &str) -> Child {
        let log = File::options().create(true).append(true).open(self.setup.directory().join(name)).expect("a log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second descriptor")).stderr(log);
        let variables = self.setup.environment.iter().filter(|(plane, ..)| *plane == name);
        command.envs(variables.map(|(_, name, value)| (name, value)));
        die_with_parent(&mut command);
        self.setup.variant.confine(&mut command);
        command.spawn().expect("the executable runs")
    }

    /// Ends the control plane without warning.
    pub fn kill_control_plane(&mut self) {
        kill(self.control_plane.take());
    }

    /// Ends the data plane without warning.
    pub fn kill_data_plane(&mut self) {
        kill(self.data_plane.take());
    }

    /// Sends the data plane a signal.
    pub fn signal(&self, signal: i32) {
        send_signal(self.pid(), signal);
    }

    /// Sends the control plane a signal.
    pub fn signal_control_plane(&self, signal: i32) {
        send_signal(self.control_plane.as_ref().expect("a control plane that was started").id(), signal);
    }

    /// Waits until the data plane has ended by itself.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.data_plane.take().expect("a data plane that was started");
        until_some("the data plane ends", || child.try_wait().expect("a child can be asked"))
    }

    /// Whether the data plane runs.
    pub fn is_alive(&mut self) -> bool {
        self.data_plane.as_mut().is_some_and(|child| child.try_wait().expect("a child can be asked").is_none())
    }

    /// The data plane's process id.
    pub fn pid(&self) -> u32 {
        self.data_plane.as_ref().expect("a data plane that was started").id()
    }

    /// The control plane's process id.
    pub fn control_plane_pid(&self) -> u32 {
        self.control_plane.as_ref().expect("a control plane that was started").id()
    }

    /// Memory of the data plane that belongs to no file: what peers could make grow.
    #[track_caller]
    pub fn rss_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib * 1024
    }

    /// Open descriptors of the data plane.
    #[track_caller]
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a process has descriptors").count()
    }

    /// Processor time that the data plane has used.
    #[track_caller]
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("a process has a stat");
        let (_, rest) = stat.rsplit_once(')').expect("a process has a name");
        let fields: Vec<_> = rest.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Waits until every session has gone, and checks that the data plane holds no more descriptors than before.
    #[track_caller]
    pub fn expect_descriptors_back_to(&self, before: usize) {
        let mut now = 0;
        let start = std::time::Instant::now();
        while start.elapsed() < DEADLINE {
            now = self.descriptors();
            if now <= before {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{now} descriptors are open; {before} were before");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        kill(self.data_plane.take());
        kill(self.control_plane.take());
        let said = self.log_tail();
        if std::thread::panicking() {
            eprintln!("{said}");
        } else {
            assert!(!said.contains("panicked at"), "a plane panicked\n{said}");
        }
    }
}

/// Sends a signal to a child that has not been waited for, so that its id is still its own.
pub fn send_signal(pid: u32, signal: i32) {
    // SAFETY: kill(2) takes two numbers.
    let sent = unsafe { libc::kill(pid as i32, signal) };
    assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
}

/// Runs the executable to its end.
pub fn framegate(arguments: &[&str]) -> Outcome {
    let output = Command::new(FRAMEGATE).args(arguments).stdin(Stdio::null()).output().expect("the executable runs");
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("output in UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("output in UTF-8"),
    }
}

/// Runs a verb against the control plane on this socket; the arguments follow the verb.
pub fn ask_control_plane(control: &Path, verb: &str, arguments: &[&str]) -> Outcome {
    let control = control.to_str().expect("a path in UTF-8");
    framegate(&[&[verb], arguments, &["--control", control]].concat())
}

/// Ends a child and forgets it.
pub fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A test that is killed takes its children along.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl(2) is async-signal-safe and takes two numbers.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// A plain HTTP request; `None` where nobody answers.
pub fn http_get(address: SocketAddr, target: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// The series of a Prometheus text, by name and labels.
pub fn series(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let pairs = lines.filter_map(|line| line.rsplit_once(' '));
    pairs.map(|(series, value)| (series.to_owned(), value.parse().expect("a number"))).collect()
}
