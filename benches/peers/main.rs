//! Framegate beside nginx, haproxy, envoy and pingora in one run: CPU for each message, throughput, latency, memory.
//!
//! `just peers`, or `benches/peers/run`, which installs the peers first. Each target has one CPU and one worker, the load
//! generator and the echo have another CPU, and the rounds of the targets take turns. How to read what it prints stands in
//! docs/benchmarks.md.

mod cells;
mod certificates;
#[path = "../../tests/kit/mod.rs"]
mod kit;
#[path = "../load/mod.rs"]
mod load;
mod processes;
mod report;
mod rounds;
mod targets;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;

use cells::{CELLS, Cell, Tls, Work};
use certificates::{Certificates, Key};
use load::{Echo, machine, tls};
use processes::Tree;
use report::Table;
use targets::{Programs, Running, Surroundings, TARGETS, Target};

const TARGET_CPU: usize = 0;
const LOAD_CPU: usize = 1;
/// Memory repeats: more rounds of it say nothing new.
const IDLE_ROUNDS_MAX: usize = 2;

/// What is measured, and where it goes.
#[derive(Parser)]
struct Options {
    /// Measures; without it there is only a hint, because `cargo bench` runs every suite
    #[arg(long)]
    measure: bool,
    /// A few cells, two rounds
    #[arg(long)]
    quick: bool,
    /// Only cells in which TLS is spoken
    #[arg(long)]
    tls: bool,
    /// Only cells with these names, and those whose names begin so: 64B-c64-d1,handshake
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    cells: Vec<String>,
    /// Only these targets: nginx,framegate
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    targets: Vec<String>,
    /// Rounds of each cell [default: 5; 2 with --quick]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Length of a round
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// Whether targets write a line for each session: on or off
    #[arg(long, value_name = "SWITCH", default_value = "on", value_parser = ["on", "off"])]
    logging: String,
    /// The samples, for scripts
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Adds what is printed to this file
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Stands beside the results
    #[arg(long, value_name = "TEXT", default_value = "unknown")]
    commit: String,
    /// Shows the names of cells and targets
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    programs: Programs,
    /// Plays the echo, on this Unix socket and on a port that it tells
    #[arg(long, hide = true, value_name = "PATH")]
    echo: Option<PathBuf>,
    /// Where the echo's certificates are; it speaks TLS on another port, which it tells
    #[arg(long, hide = true, value_name = "DIRECTORY")]
    certificates: Option<PathBuf>,
    /// Given by Cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(path) = &options.echo {
        machine::raise_open_files();
        let secure = options.certificates.as_deref().map(|directory| {
            let made = Certificates::in_directory(directory);
            tls::server_config(&made.chain(Key::EcdsaP256), &made.key(Key::EcdsaP256)).expect("certificates are there")
        });
        Echo::serve(path, secure, |address, secure| {
            println!("{address} {}", secure.map(|address| address.to_string()).unwrap_or_default());
        });
    }
    if options.list {
        println!("cells:\n{}", CELLS.map(|cell| format!("  {:<22} {}\n", cell.name, cell.describe())).concat());
        println!("targets:\n{}", TARGETS.map(|target| format!("  {}\n", target.name)).concat());
        return ExitCode::SUCCESS;
    }
    if !options.measure {
        println!("a comparison with other programs, up to half an hour: benches/peers/run, or with --quick");
        return ExitCode::SUCCESS;
    }
    match compare(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The whole run.
fn compare(options: &Options) -> Result<(), String> {
    machine::raise_open_files();
    let apart = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > LOAD_CPU);
    let directory = tempfile::Builder::new().prefix("framegate-echo-").tempdir().map_err(|error| error.to_string())?;
    let certificates = Certificates::make(directory.path());
    if let Err(error) = &certificates {
        eprintln!("peers: SKIPPED everything with TLS: {error}");
    }
    let (_echo, echo, echo_tls) = start_echo(directory.path(), certificates.is_ok(), apart.then_some(LOAD_CPU))?;
    let around = Surroundings {
        echo,
        echo_unix: unix_path(directory.path()),
        tls: certificates.ok().zip(echo_tls),
        logging: options.logging == "on",
        cpu: apart.then_some(TARGET_CPU),
        programs: options.programs.clone(),
    };
    if apart {
        machine::pin(LOAD_CPU);
    }
    let possible = |cell: &&Cell| cell.tls.is_none() || around.tls.is_some();
    let cells: Vec<_> = CELLS.iter().filter(|cell| options.wants_cell(cell)).filter(possible).collect();
    let (targets, versions) = available(options, &around);
    if cells.is_empty() || targets.is_empty() {
        return Err("nothing is left to be measured; --list shows the names".into());
    }
    let mut out = Output { file: options.results.clone(), text: String::new() };
    out.say(&heading(options, &versions, apart));
    let mut table = Table::default();
    for cell in &cells {
        measure(options, cell, &targets, &around, &mut table, &mut out);
        out.say(&table.cell(cell, &targets.iter().map(|target| target.name).collect::<Vec<_>>()));
    }
    let is_ours = |target: &&Target| target.name.starts_with("framegate");
    let peers: Vec<_> = targets.iter().filter(|target| !is_ours(target) && target.name != "direct").collect();
    let peers: Vec<_> = peers.into_iter().map(|target| target.name).filter(|name| !name.ends_with("-unix")).collect();
    for ours in targets.iter().filter(is_ours) {
        if let Some(text) = table.bars(&cells, ours.name, &peers) {
            out.say(&text);
        }
    }
    if let Some(path) = &options.json {
        let document = serde_json::json!({
            "machine": machine::describe(), "commit": options.commit, "logging": options.logging,
            "seconds": options.seconds, "versions": versions, "rows": table.json(),
        });
        std::fs::write(path, format!("{document:#}\n")).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    out.keep()
}

impl Options {
    fn wants_cell(&self, cell: &Cell) -> bool {
        let named = self.cells.iter().any(|name| cell.name == name || cell.name.starts_with(&format!("{name}-")));
        // Fewer idle sessions are for the quick table.
        let usual = if self.quick { cell.quick } else { cell.name != "idle-1000" };
        (if self.cells.is_empty() { usual } else { named }) && (cell.tls.is_some() || !self.tls)
    }

    fn rounds(&self, cell: &Cell) -> usize {
        let rounds = self.rounds.unwrap_or(if self.quick { 2 } else { 5 }).max(1);
        if matches!(cell.work, Work::Idle { .. }) { rounds.min(IDLE_ROUNDS_MAX) } else { rounds }
    }
}

/// The echo has a process of its own, because descriptors are counted by process. Where it listens, without TLS and with.
fn start_echo(
    directory: &Path,
    has_certificates: bool,
    cpu: Option<usize>,
) -> Result<(Tree, SocketAddr, Option<SocketAddr>), String> {
    let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
    command.arg("--echo").arg(unix_path(directory)).stdin(Stdio::null()).stdout(Stdio::piped());
    if has_certificates {
        command.arg("--certificates").arg(directory);
    }
    let mut tree = Tree::start(command, cpu, libc::SIGKILL).map_err(|error| format!("no echo: {error}"))?;
    let mut line = String::new();
    BufReader::new(tree.output()).read_line(&mut line).map_err(|error| error.to_string())?;
    let mut addresses = line.split_whitespace().map(str::parse);
    let address = addresses.next().and_then(Result::ok).ok_or(format!("the echo does not start: {line}"))?;
    Ok((tree, address, addresses.next().and_then(Result::ok)))
}

fn unix_path(directory: &Path) -> PathBuf {
    directory.join("echo.sock")
}

/// The targets that are asked for and there, and what they say they are; what is not there is named aloud.
fn available(options: &Options, around: &Surroundings) -> (Vec<Target>, Vec<String>) {
    let wanted =
        |target: &&Target| options.targets.is_empty() || options.targets.iter().any(|name| name == target.name);
    let (mut targets, mut versions) = (Vec::new(), Vec::new());
    for target in TARGETS.iter().filter(wanted) {
        let Some(version) = target.version(&around.programs) else {
            eprintln!("peers: SKIPPED {}: the program is not here", target.name);
            continue;
        };
        let tls = options.tls.then_some(Tls { key: Key::EcdsaP256, upstream_too: false, resumed: false });
        if tls.is_some() && !target.speaks_tls {
            continue;
        }
        match target.start(around, tls) {
            Ok(running) => {
                let manner = running.manner().map(|manner| format!("{}: {manner}", target.name));
                versions.extend([(target.name != "direct").then_some(version), manner].into_iter().flatten());
            }
            Err(error) => {
                eprintln!("peers: SKIPPED {}: {}", target.name, error.lines().next().unwrap_or_default());
                error.lines().skip(1).take(5).for_each(|line| eprintln!("    {line}"));
                continue;
            }
        }
        targets.push(*target);
    }
    let mut seen = HashSet::new();
    versions.retain(|version| seen.insert(version.clone()));
    (targets, versions)
}

fn heading(options: &Options, versions: &[String], apart: bool) -> String {
    let place = match apart {
        true => format!("targets on CPU {TARGET_CPU}, generator and echo on CPU {LOAD_CPU}"),
        false => "EVERYTHING ON ONE CPU: no figure here means anything".into(),
    };
    let log = if options.logging == "on" { "a line for each session in a file" } else { "no logs" };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "peers; commit {}; {}\n{place}; one worker each; {log}; rounds of {} s; load average {}\n{}\n\
         CPU: user and system time of all threads of all processes of a target, its control plane or master included; \
         RSS: of the process that has the sessions\nmedian (smallest-largest); every echoed byte was compared\n",
        options.commit,
        machine::describe(),
        options.seconds,
        load.split(' ').take(3).collect::<Vec<_>>().join(" "),
        versions.join("\n"),
    )
}

/// All rounds of one cell: targets take turns, and each round begins with another one.
fn measure(
    options: &Options,
    cell: &Cell,
    targets: &[Target],
    around: &Surroundings,
    table: &mut Table,
    out: &mut Output,
) {
    let fresh = matches!(cell.work, Work::Idle { .. });
    let mut running: Vec<Option<Running>> = targets.iter().map(|_| None).collect();
    let mut failed = vec![false; targets.len()];
    let rounds = options.rounds(cell);
    for round in 0..rounds {
        for turn in 0..targets.len() {
            let index = (turn + round) % targets.len();
            let target = &targets[index];
            if failed[index] || !cell.admits(target) {
                continue;
            }
            progress(&format!("{}, round {} of {rounds}, {}", cell.name, round + 1, target.name));
            let mut one = || {
                if running[index].is_none() {
                    running[index] = Some(target.start(around, cell.tls)?);
                }
                let here = running[index].as_ref().ok_or("it does not run")?;
                rounds::play(cell, here, Duration::from_secs_f64(options.seconds))
            };
            match one() {
                Ok(sample) => table.add(cell, target.name, sample),
                Err(error) => {
                    failed[index] = true;
                    out.say(&format!("{}: {} FAILED: {}\n", cell.name, target.name, error));
                }
            }
            if fresh || failed[index] {
                running[index] = None;
            }
        }
    }
    progress("");
}

/// One line that changes, where somebody looks.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
        let _ = std::io::stderr().flush();
    }
}

/// What is printed, and kept.
struct Output {
    file: Option<PathBuf>,
    text: String,
}

impl Output {
    fn say(&mut self, text: &str) {
        println!("{text}");
        self.text += text;
        self.text += "\n";
    }

    fn keep(&self) -> Result<(), String> {
        let Some(path) = &self.file else { return Ok(()) };
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(self.text.as_bytes()))
            .map_err(|error| format!("{}: {error}", path.display()))
    }
}
