//! The control link over TCP: who comes in by which certificate, and who is told what when they do not.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::kit::gateway::{FRAMEGATE, die_with_parent, framegate, http_get, kill};
use crate::kit::pki::{self, Authority, Identity, Leaf, Valid};
use crate::kit::{Frame, Opcode, Outcome, Peer, Port, Setup, Variant, tls, until};

/// A control plane with a control port, and the authority of its certificates.
struct Office {
    setup: Setup,
    /// Of the listener whose private key the nodes are sent.
    secure: Port,
    authority: Authority,
    own: Identity,
    port: Port,
    process: Option<Child>,
}

/// A data plane.
struct Node {
    process: Option<Child>,
    log: PathBuf,
    operator: Port,
}

impl Office {
    fn open() -> Self {
        let secure = Port::free();
        let setup = Setup::new(Variant::Automatic).certificate(&pki::shared().edge.entry("edge")).another_listener(
            &format!("name: secure, bind: \"{}\", tls: {{ certificates: [edge] }}", secure.address()),
        );
        let authority = Authority::root(setup.directory(), "control");
        let own = authority.issue(&Leaf::new("office").names(&["DNS:localhost"]));
        let mut office = Self { setup, secure, authority, own, port: Port::free(), process: None };
        std::fs::write(office.path("config.yaml"), office.setup.yaml()).expect("a file can be written");
        office.start();
        office
    }

    fn start(&mut self) {
        let mut command = Command::new(FRAMEGATE);
        command.arg("controlplane").arg(self.path("config.yaml"));
        command.arg("--control").arg(self.setup.control_path()).arg("--state-dir").arg(self.path("state-office"));
        command.args(["--control-tcp", &self.port.address().to_string()]);
        command.args(credentials(&self.own, &self.authority.certificate()));
        self.process = Some(spawn(command, &self.path("office.log")));
        until("the control port is open", || self.said().contains("the control port is open"));
    }

    fn stop(&mut self) {
        kill(self.process.take());
        std::fs::rename(self.path("office.log"), self.path("office-before.log")).expect("a log can be put aside");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.setup.directory().join(name)
    }

    fn url(&self) -> String {
        format!("tls://localhost:{}", self.port.number)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.path("office.log")).unwrap_or_default()
    }

    /// A node of this name that shows this certificate, and believes this authority.
    fn node(&self, name: &str, identity: &Identity, authority: &Path) -> Node {
        let (log, operator) = (self.path(&format!("node-{name}.log")), Port::free());
        let mut command = Command::new(FRAMEGATE);
        command.args(["dataplane", "--node", name, "--workers", "1", "--log", "off", "--control", &self.url()]);
        command.args(["--operator", &operator.address().to_string()]);
        command.arg("--state-dir").arg(self.path(&format!("state-{name}")));
        command.args(credentials(identity, authority));
        Node { process: Some(spawn(command, &log)), log, operator }
    }

    /// The node does not come in, and both sides say why.
    #[track_caller]
    fn refuses(&self, name: &str, identity: &Identity, authority: &Path, told_here: &str, told_there: &str) {
        let node = self.node(name, identity, authority);
        until(&format!("the node says: {told_there}"), || node.said().contains(told_there));
        until(&format!("the office says: {told_here}"), || self.said().contains(told_here));
        let ready = http_get(node.operator.address(), "/ready").expect("the operator's listener answers");
        assert_eq!(ready.0, 503, "{}", ready.1);
    }

    fn verb(&self, verb: &str, identity: &Identity) -> Outcome {
        let [a, b, c, d, e, f] = credentials(identity, &self.authority.certificate());
        framegate(&[verb, "--control", &self.url(), &a, &b, &c, &d, &e, &f])
    }
}

impl Node {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn is_ready(&self) -> bool {
        http_get(self.operator.address(), "/ready").is_some_and(|(status, _)| status == 200)
    }

    #[track_caller]
    fn gets_ready(&self) {
        until("the node is ready", || self.is_ready());
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        kill(self.process.take());
        if std::thread::panicking() {
            eprintln!("--- office ---\n{}", self.said());
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        kill(self.process.take());
        if std::thread::panicking() {
            eprintln!("--- node ---\n{}", self.said());
        }
    }
}

fn credentials(identity: &Identity, authority: &Path) -> [String; 6] {
    let path = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    let (certificate, key, authorities) = (path(&identity.chain), path(&identity.key), path(authority));
    let names = ["--control-certificate", "--control-key", "--control-authorities"].map(str::to_owned);
    let [first, second, third] = names;
    [first, certificate, second, key, third, authorities]
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let log = File::create(log).expect("a file can be made");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    die_with_parent(&mut command);
    command.spawn().expect("the executable runs")
}

/// In clear, and with the private key that came over the link.
#[track_caller]
fn serves(office: &Office) {
    let clients = [Peer::connect(office.setup.public_address()), tls::client().connect(office.secure.address())];
    for mut client in clients {
        client.upgrade("/probe");
        client.send_frame(&Frame::text("are you well?"));
        client.expect(Opcode::TEXT, b"are you well?");
    }
}

#[test]
fn nodes_come_in_by_their_certificates_and_again_when_the_control_plane_is_back() {
    if !pki::is_available() {
        return;
    }
    let mut office = Office::open();
    let own = office.authority.certificate();
    // By a DNS name, by a URI, and by the common name where there is no other.
    let leaves = [
        Leaf::new("one").names(&["DNS:edge-1"]),
        Leaf::new("two").names(&["URI:framegate:node:edge-2", "DNS:other"]),
        Leaf::new("edge-3"),
    ];
    let identities = leaves.map(|leaf| office.authority.issue(&leaf));
    let nodes: Vec<_> =
        (1..).zip(&identities).map(|(number, one)| office.node(&format!("edge-{number}"), one, &own)).collect();
    // The others say that its address is taken: all are on this host.
    until("one of the nodes is ready", || nodes.iter().any(Node::is_ready));
    until("the office has them all", || office.said().matches("a node has connected").count() == 3);
    serves(&office);

    let operator = office.authority.issue(&Leaf::new("operator").names(&["URI:framegate:operator"]));
    let status = office.verb("status", &operator);
    assert_eq!(status.code, 0, "{status:?}");
    for name in ["edge-1", "edge-2", "edge-3"] {
        assert!(status.stdout.contains(name), "{status:?}");
    }
    let refused = office.verb("status", &identities[0]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("its log says why"), "{refused:?}");
    until("the office says why", || office.said().contains("no URI framegate:operator"));

    // The control plane comes back with another certificate, and is found again by all.
    office.stop();
    office.own = office.authority.issue(&Leaf::new("office-2").names(&["DNS:localhost"]));
    office.start();
    let connected = |node: &Node| node.said().matches("connected to the control plane").count();
    until("all nodes are back", || nodes.iter().all(|node| connected(node) == 2));
    until("the office has them all", || office.said().matches("a node has connected").count() == 3);
    serves(&office);
}

#[test]
fn whoever_has_not_the_right_certificate_is_told_so_and_both_logs_say_it() {
    if !pki::is_available() {
        return;
    }
    let office = Office::open();
    let own = office.authority.certificate();
    let good = office.authority.issue(&Leaf::new("good").names(&["DNS:edge-1"]));
    let strange = Authority::root(office.setup.directory(), "strange");
    let unknown = strange.issue(&Leaf::new("unknown").names(&["DNS:edge-1"]));
    let expired = office.authority.issue(&Leaf::new("expired").names(&["DNS:edge-1"]).valid(Valid::Expired));

    let name = "its certificate is for edge-1, not for";
    office.refuses("edge-2", &good, &own, name, name);
    office.refuses("by-another-authority", &unknown, &own, "UnknownIssuer", "UnknownCA");
    office.refuses("too-late", &expired, &own, "xpired", "CertificateExpired");
    office.refuses("believes-another", &good, &strange.certificate(), "UnknownCA", "UnknownIssuer");

    // And the one that is right comes in, at once.
    office.node("edge-1", &good, &own).gets_ready();
}

#[test]
fn strangers_at_the_control_port_are_cut_and_keep_nobody_out() {
    if !pki::is_available() {
        return;
    }
    let office = Office::open();
    let own = office.authority.certificate();
    // No TLS at all.
    let mut plain = TcpStream::connect(office.port.address()).expect("the port is open");
    plain.write_all(b"\x00\x00\x00\x05\x01hello").expect("a socket takes it");
    ends(plain, Duration::from_secs(5));
    until("the office says so", || office.said().contains("InvalidContentType") || office.said().contains("corrupt"));
    // TLS without a certificate.
    let output = Command::new("openssl")
        .args(["s_client", "-tls1_3", "-connect", &office.port.address().to_string()])
        .stdin(Stdio::null())
        .output();
    drop(output.expect("openssl runs"));
    std::thread::sleep(Duration::from_secs(1));
    let mut bare = Command::new("openssl");
    bare.args(["s_client", "-quiet", "-tls1_3", "-connect", &office.port.address().to_string()]).stdin(Stdio::null());
    until("the office says so", || {
        let _ = bare.output();
        office.said().contains("sent no certificates")
    });
    // Handshakes that nobody goes on with, more than there may be at a time.
    let begun = Instant::now();
    let silent: Vec<_> =
        (0..80).map(|_| TcpStream::connect(office.port.address()).expect("the port is open")).collect();
    let good = office.authority.issue(&Leaf::new("good").names(&["DNS:edge-1"]));
    office.node("edge-1", &good, &own).gets_ready();
    for stream in silent {
        ends(stream, Duration::from_secs(20).saturating_sub(begun.elapsed()));
    }
    until("the office says so", || office.said().contains("did not come to an end in time"));
}

#[test]
fn silent_strangers_of_one_address_keep_no_other_out() {
    if !pki::is_available() {
        return;
    }
    let office = Office::open();
    let operator = office.authority.issue(&Leaf::new("operator").names(&["URI:framegate:operator"]));
    let begun = Instant::now();
    // More than there may be handshakes at a time; each would keep its place for five seconds.
    let silent: Vec<_> = (0..80).map(|_| connect_from([127, 0, 0, 2], office.port.address())).collect();
    let status = office.verb("status", &operator);
    assert_eq!(status.code, 0, "{status:?}");
    assert!(begun.elapsed() < Duration::from_secs(4), "it waited for the strangers: {:?}", begun.elapsed());
    until("the office says so", || office.said().contains("too many from its address"));
    drop(silent);
}

fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("an address of this host");
    socket.connect(&to.into()).expect("the port is open");
    socket.into()
}

/// The other side ends it in time.
#[track_caller]
fn ends(mut stream: TcpStream, time: Duration) {
    stream.set_read_timeout(Some(time.max(Duration::from_millis(1)))).expect("a read timeout");
    let mut rest = Vec::new();
    // Reset or not: it is over.
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the connection stays");
    }
}
