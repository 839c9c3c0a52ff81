//! The programs that are measured: how each is configured, started, and known to be the one that answers.
//!
//! Configurations are as a good operator would write them: one worker, long timeouts, room for every connection.

mod others;
mod ours;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::cells::Tls;
use crate::certificates::Certificates;
use crate::kit::Port;
use crate::kit::gateway::http_get;
use crate::load::Door;
use crate::load::tls::{Terms, Trust};
use crate::load::traffic::{Outcome, Traffic};
use crate::processes::{self, Tree, descriptors, listeners, wait_until};

/// How long a target may take to get ready.
const START_MAX: Duration = Duration::from_secs(20);
/// How long it may take to close all sessions of a round.
const REST_MAX: Duration = Duration::from_secs(10);
/// Descriptors that come and go beside those of sessions.
const DESCRIPTORS_SLACK: usize = 8;
/// Sessions by which a target proves that it serves: more descriptors than anything else makes it open.
const PROOF_SESSIONS: usize = 32;
/// What a client asks every target for.
pub const PATH: &str = "/echo";
/// Connections that every target must have room for, in descriptors: two for each session, and a few more.
pub const DESCRIPTORS_MAX: u64 = 20_000;

/// What a target is started with.
pub struct Surroundings {
    /// The echo, on TCP and on a Unix socket.
    pub echo: SocketAddr,
    pub echo_unix: PathBuf,
    /// Keys and certificates, and where the echo speaks TLS; none where there is no openssl to make them.
    pub tls: Option<(Certificates, SocketAddr)>,
    /// Whether a line is written for each session.
    pub logging: bool,
    /// The one CPU of the target.
    pub cpu: Option<usize>,
    pub programs: Programs,
}

/// Where programs are; what is not there is skipped.
#[derive(Debug, Clone, clap::Args)]
pub struct Programs {
    /// nginx
    #[arg(long, value_name = "PROGRAM", default_value = "nginx")]
    pub nginx: PathBuf,
    /// haproxy
    #[arg(long, value_name = "PROGRAM", default_value = "haproxy")]
    pub haproxy: PathBuf,
    /// envoy
    #[arg(long, value_name = "PROGRAM", default_value = "envoy")]
    pub envoy: PathBuf,
    /// The proxy of benches/peers/pingora
    #[arg(long, value_name = "PROGRAM", default_value = "peer-pingora")]
    pub pingora: PathBuf,
    /// framegate, if it is another than the one that was built with this bench
    #[arg(long, value_name = "PROGRAM", default_value = crate::kit::gateway::FRAMEGATE)]
    pub framegate: PathBuf,
}

/// A kind of target.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    pub name: &'static str,
    program: Program,
    /// Beside its TCP form, or another form of one: measured where the difference shows.
    pub upstream: Upstream,
    /// It has a place in the cells in which TLS is spoken.
    pub speaks_tls: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Program {
    /// No proxy at all.
    Direct,
    /// With these flags.
    Framegate(&'static [&'static str]),
    Nginx(Tuning),
    Haproxy(Tuning),
    Envoy,
    Pingora,
}

/// Buffers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Tuning {
    Default,
    Large,
}

/// How the echo is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Upstream {
    Tcp,
    Unix,
}

/// Every target, in the order of the table.
pub const TARGETS: [Target; 14] = {
    use Program::{Direct, Envoy, Framegate, Haproxy, Nginx, Pingora};
    use Upstream::{Tcp, Unix};
    const fn target(name: &'static str, program: Program, upstream: Upstream) -> Target {
        Target { name, program, upstream, speaks_tls: false }
    }
    const fn secure(name: &'static str, program: Program) -> Target {
        Target { speaks_tls: true, ..target(name, program, Upstream::Tcp) }
    }
    [
        target("direct", Direct, Tcp),
        secure("nginx", Nginx(Tuning::Default)),
        secure("nginx64k", Nginx(Tuning::Large)),
        secure("haproxy", Haproxy(Tuning::Default)),
        secure("haproxy64k", Haproxy(Tuning::Large)),
        target("envoy", Envoy, Tcp),
        target("pingora", Pingora, Tcp),
        secure("framegate", Framegate(&[])),
        secure("framegate-readiness", Framegate(&["--engine", "readiness"])),
        secure("framegate-uring", Framegate(&["--engine", "uring"])),
        target("framegate-nosplice", Framegate(&["--splice", "off"]), Tcp),
        target("framegate-epoll", Framegate(&["--driver", "epoll"]), Tcp),
        target("nginx-unix", Nginx(Tuning::Default), Unix),
        target("framegate-unix", Framegate(&[]), Unix),
    ]
};

/// A target that serves.
pub struct Running {
    pub door: Door,
    /// `None` where there is no proxy.
    tree: Option<Tree>,
    /// The process that has the sessions.
    server: Option<u32>,
    /// Its descriptors while it has no session.
    descriptors_at_rest: usize,
    operator: Option<SocketAddr>,
    _port: Port,
    _directory: TempDir,
}

/// A program to start and how it is told that this process has ended.
struct Recipe {
    command: Command,
    last_word: i32,
    /// Where it tells about itself.
    operator: Option<SocketAddr>,
}

impl Target {
    /// The program that is needed, and what it says its version is; `None` where there is none, or it does not run.
    pub fn version(&self, programs: &Programs) -> Option<String> {
        let (program, argument) = match self.program {
            Program::Direct => return Some("no proxy".into()),
            Program::Framegate(_) => (&programs.framegate, "version"),
            Program::Nginx(_) => (&programs.nginx, "-v"),
            Program::Haproxy(_) => (&programs.haproxy, "-v"),
            Program::Envoy => (&programs.envoy, "--version"),
            Program::Pingora => (&programs.pingora, "--version"),
        };
        let output = Command::new(program).arg(argument).stdin(Stdio::null()).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let line = said.lines().map(str::trim).find(|line| !line.is_empty())?;
        // Where somebody keeps it is nobody's business.
        let name = program.file_name()?.to_string_lossy();
        Some(line.replace(&*program.to_string_lossy(), &name))
    }

    /// Starts it and proves that it is the one that answers.
    pub fn start(&self, around: &Surroundings, tls: Option<Tls>) -> Outcome<Running> {
        let directory = tempfile::Builder::new().prefix("framegate-peers-").tempdir().map_err(say)?;
        let port = Port::free();
        if !listeners(port.number).is_empty() {
            return Err(format!("port {} has a listener already", port.number));
        }
        let Some(recipe) = self.recipe(around, tls, port.address(), directory.path())? else {
            let running = Running {
                door: Door { address: around.echo, target: PATH, tls: None },
                tree: None,
                server: None,
                descriptors_at_rest: 0,
                operator: None,
                _port: port,
                _directory: directory,
            };
            return Ok(running);
        };
        let mut command = recipe.command;
        let log = |name: &str| File::create(directory.path().join(name)).map_err(say);
        command.stdin(Stdio::null()).stdout(log("stdout")?).stderr(log("stderr")?);
        let tree = Tree::start(command, around.cpu, recipe.last_word).map_err(say)?;
        let mut running = Running {
            door: Door { address: port.address(), target: PATH, tls: around.terms(tls, Trust::Signature)? },
            tree: Some(tree),
            server: None,
            descriptors_at_rest: 0,
            operator: recipe.operator,
            _port: port,
            _directory: directory,
        };
        running.prove().map_err(|error| format!("{error}\n{}", running.said()))?;
        running.door.tls = around.terms(tls, Trust::Certificate)?;
        Ok(running)
    }

    fn recipe(
        &self,
        around: &Surroundings,
        tls: Option<Tls>,
        listen: SocketAddr,
        directory: &Path,
    ) -> Outcome<Option<Recipe>> {
        let tls =
            tls.zip(around.tls.as_ref()).map(|(tls, (files, echo))| others::TlsSetting { tls, files, echo: *echo });
        let setting = others::Setting { around, upstream: self.upstream, listen, directory, tls };
        let recipe = match self.program {
            Program::Direct => return Ok(None),
            Program::Framegate(flags) => ours::framegate(&setting, flags),
            Program::Nginx(tuning) => others::nginx(&setting, tuning),
            Program::Haproxy(tuning) => others::haproxy(&setting, tuning),
            Program::Envoy => others::envoy(&setting),
            Program::Pingora => Ok(others::pingora(&setting)),
        };
        recipe.map(Some).map_err(say)
    }
}

impl Surroundings {
    /// How clients speak TLS.
    fn terms(&self, tls: Option<Tls>, trust: Trust) -> Outcome<Option<Terms>> {
        let Some(tls) = tls else { return Ok(None) };
        let (files, _) = self.tls.as_ref().ok_or("there are no certificates")?;
        Terms::new(&files.chain(tls.key), trust, tls.resumed).map(Some)
    }
}

impl Running {
    /// One listener, which is the target's, and sessions that are in its hands on both sides.
    fn prove(&mut self) -> Outcome<()> {
        let Some(tree) = &mut self.tree else { return Ok(()) };
        let port = self.door.address.port();
        let up = wait_until(START_MAX, || !listeners(port).is_empty() || !tree.is_alive());
        if !up || !tree.is_alive() {
            return Err("it does not start".into());
        }
        // The first answers may be refusals, while it is not ready yet.
        let mut last = String::new();
        let ready = wait_until(START_MAX, || {
            let outcome = Traffic::open(&self.door, 1, 1, 64).and_then(|mut one| one.once_each());
            outcome.map_err(|error| last = error).is_ok()
        });
        if !ready {
            return Err(format!("it does not serve: {last}"));
        }
        let listening = listeners(port);
        match &listening[..] {
            [one] if tree.holds(*one) => {}
            [_] => return Err(format!("somebody else listens on port {port}")),
            several => return Err(format!("{} sockets listen on port {port}", several.len())),
        }
        let before: Vec<_> = tree.ids().into_iter().map(|id| (id, descriptors(id))).collect();
        let mut proof = Traffic::open(&self.door, PROOF_SESSIONS, 1, 64)?;
        proof.once_each()?;
        let grown = before.into_iter().find(|(id, before)| descriptors(*id) >= before + 2 * PROOF_SESSIONS - 2);
        let Some((server, at_rest)) = grown else { return Err("the sessions are not in its hands".into()) };
        drop(proof);
        self.server = Some(server);
        // The session that found it ready may have been open still.
        self.descriptors_at_rest = at_rest;
        self.rest();
        Ok(())
    }

    /// Waits until the sessions have gone, or for as long as anybody would.
    pub fn rest(&self) {
        let Some(server) = self.server else { return };
        let mut last = descriptors(server);
        wait_until(REST_MAX, || {
            let now = descriptors(server);
            let still = now == last && now <= self.descriptors_at_rest + DESCRIPTORS_SLACK;
            last = now;
            std::thread::sleep(Duration::from_millis(20));
            still
        });
    }

    /// Whether so many sessions are in its hands: two descriptors each.
    pub fn has_sessions(&self, count: usize) -> bool {
        self.server.is_none_or(|server| descriptors(server) + DESCRIPTORS_SLACK >= self.descriptors_at_rest + 2 * count)
    }

    /// Time on a CPU so far, of all its processes.
    pub fn cpu_time(&self) -> Duration {
        self.tree.as_ref().map_or(Duration::ZERO, Tree::cpu_time)
    }

    /// Memory of the process that has the sessions.
    pub fn memory(&self) -> processes::Memory {
        self.server.map(processes::memory).unwrap_or_default()
    }

    /// What it says that it waits with and moves bytes with, where it says anything.
    pub fn manner(&self) -> Option<String> {
        let (_, metrics) = http_get(self.operator?, "/metrics")?;
        let line = metrics.lines().find_map(|line| line.strip_prefix("framegate_driver_info{"))?;
        line.split_once('}').map(|(labels, _)| labels.replace('"', "").replace(',', ", "))
    }

    /// What it wrote for people.
    fn said(&self) -> String {
        let files = std::fs::read_dir(self._directory.path()).into_iter().flatten().flatten();
        let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        let texts: Vec<_> = texts.filter(|text| text.len() < 4000 && !text.is_empty()).collect();
        texts.concat()
    }
}

fn say(error: std::io::Error) -> String {
    error.to_string()
}
