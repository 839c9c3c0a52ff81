//! What the data plane must know before any snapshot: flags, each of them also an environment variable.
//!
//! Only words are read here; what they name (addresses, files, CPUs) is tried by whoever uses it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::{fs, io};

use clap::{Args, ValueEnum};
use proto::control::Address;
use proto::limits::{METRIC_APIS_MAX, NAME_BYTES_MAX};

use crate::choice::Asked;
use crate::control_link::{Control, Credentials};
use crate::record::LogTarget;

/// CPUs that a kernel of this build can name.
const CPUS_MAX: usize = libc::CPU_SETSIZE as usize;

/// Flags of `framegate dataplane`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Name of this node, as the control plane, logs and operators know it [default: the host's name]
    #[arg(long, env = "FRAMEGATE_NODE", value_name = "NAME", value_parser = node_name)]
    pub node: Option<String>,

    /// Where the control plane is: a Unix socket, or tls://HOST:PORT. Without a control plane the stored snapshot of the
    /// state directory is served; it is tried again for as long as the process lives
    #[arg(long, env = "FRAMEGATE_CONTROL", value_name = "PATH|URL")]
    pub control: Option<Address>,

    /// This node's certificate for a control plane at tls://HOST:PORT, and what is between it and an authority: a PEM
    /// file. It must be for the node's name. Read again at each connection, like the other two
    #[arg(long, env = "FRAMEGATE_CONTROL_CERTIFICATE", value_name = "FILE")]
    pub control_certificate: Option<PathBuf>,

    /// The private key of that certificate: a PEM file
    #[arg(long, env = "FRAMEGATE_CONTROL_KEY", value_name = "FILE")]
    pub control_key: Option<PathBuf>,

    /// The authorities, of which one must have signed the control plane's certificate: a PEM file
    #[arg(long, env = "FRAMEGATE_CONTROL_AUTHORITIES", value_name = "FILE")]
    pub control_authorities: Option<PathBuf>,

    /// Directory for the last good snapshot, so that a restart without a control plane serves at once. Made if need be,
    /// and used by one data plane only. Without it nothing is stored
    #[arg(long, env = "FRAMEGATE_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Whether private keys, users and issuers are stored with the snapshot, readable by this user only. Without them a
    /// snapshot that has any is of no use to a restart: the node then waits for its control plane
    #[arg(long, env = "FRAMEGATE_STORE_KEYS", value_name = "SWITCH", default_value = "on")]
    pub store_keys: Switch,

    /// Workers, each on a CPU of its own [default: as many as the process may use CPUs]
    #[arg(long, env = "FRAMEGATE_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    /// CPUs that workers are pinned to, in this order: numbers and ranges, such as 0-3,8 [default: all that are allowed]
    #[arg(long, env = "FRAMEGATE_CPUS", value_name = "LIST")]
    pub cpus: Option<CpuList>,

    /// How workers wait for sockets: io_uring, io_uring without deferred task work, epoll, or the first of these that
    /// the kernel allows
    #[arg(long, env = "FRAMEGATE_DRIVER", value_name = "DRIVER", default_value = "auto")]
    pub driver: DriverChoice,

    /// What moves the bytes of sessions: a ring of its own, readiness and plain system calls, or the ring where driver
    /// and kernel have it
    #[arg(long, env = "FRAMEGATE_ENGINE", value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineChoice,

    /// Whether what is left of a large frame is moved inside the kernel, by splice(2), and not copied
    #[arg(long, env = "FRAMEGATE_SPLICE", value_name = "SWITCH", default_value = "on")]
    pub splice: Switch,

    /// Address of the operator listener with /health, /ready and /metrics, or off. It is up before any snapshot
    #[arg(long, env = "FRAMEGATE_OPERATOR", value_name = "ADDR", default_value = "127.0.0.1:9901")]
    pub operator: OperatorAddress,

    /// Host name under which the operator listener may be called, beside addresses, localhost and the node's name.
    /// May be given several times, or as a list with commas
    #[arg(long = "operator-host", env = "FRAMEGATE_OPERATOR_HOSTS", value_name = "NAME", value_delimiter = ',')]
    pub operator_hosts: Vec<String>,

    /// Where the session log goes: - for standard output, a file (opened again on SIGUSR1), or off
    #[arg(long = "log", env = "FRAMEGATE_LOG", value_name = "TARGET", default_value = "-")]
    pub log: LogTarget,

    /// Limit of open files, and so of connections (a session has two) [default: the hard limit]
    #[arg(long, env = "FRAMEGATE_NOFILE", value_name = "N", value_parser = clap::value_parser!(u64).range(64..))]
    pub nofile: Option<u64>,

    /// Name server to ask for upstreams' names, ADDR:PORT, instead of those of /etc/resolv.conf. May be given several
    /// times, or as a list with commas
    #[arg(long = "name-server", env = "FRAMEGATE_NAME_SERVERS", value_name = "ADDR", value_delimiter = ',')]
    pub name_servers: Vec<SocketAddr>,

    /// APIs that may have metric series of their own; those that come later share one
    #[arg(long, env = "FRAMEGATE_METRIC_APIS", value_name = "N", default_value_t = 1000, value_parser = metric_apis)]
    pub metric_apis: usize,
}

impl Options {
    /// The node's name: the one that was given, or the host's.
    pub fn node_name(&self) -> io::Result<String> {
        match &self.node {
            Some(name) => Ok(name.clone()),
            None => {
                let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
                Ok(node_name(name.trim()).unwrap_or_else(|_| "node".into()))
            }
        }
    }

    /// Where the control plane is, with what is needed there. The error is a sentence for the operator.
    pub fn control(&self) -> Result<Control, String> {
        let files = (&self.control_certificate, &self.control_key, &self.control_authorities);
        match (&self.control, files) {
            (None, _) => Err("no control plane is named".into()),
            (Some(Address::Unix(path)), _) => Ok(Control::Unix(path.clone())),
            (Some(Address::Tls { host, port }), (Some(certificate), Some(key), Some(authorities))) => {
                let credentials = Credentials {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    authorities: authorities.clone(),
                };
                Ok(Control::Tls { host: host.clone(), port: *port, credentials })
            }
            (Some(address @ Address::Tls { .. }), _) => Err(format!(
                "the control plane at {address} wants --control-certificate, --control-key and --control-authorities"
            )),
        }
    }

    /// What was asked for of drivers and engines.
    pub fn asked(&self) -> Asked {
        Asked { driver: self.driver, engine: self.engine, splice: self.splice == Switch::On }
    }

    /// The CPU of each worker; workers beyond the CPUs share them. The error is a sentence for the operator.
    pub fn worker_cpus(&self) -> Result<Vec<usize>, String> {
        assign(
            self.workers.map(usize::from),
            self.cpus.as_ref(),
            &allowed_cpus()
                .map_err(|error| format!("the CPUs that the process may use cannot be found out: {error}"))?,
        )
    }
}

/// How workers wait for sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DriverChoice {
    /// io_uring where the kernel allows it, epoll elsewhere.
    Auto,
    /// io_uring, with deferred task work where the kernel has it, or an error.
    Uring,
    /// io_uring without deferred task work, or an error.
    UringPlain,
    /// epoll.
    Epoll,
}

/// What moves the bytes of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// The uring engine where driver and kernel have it, the readiness engine elsewhere.
    Auto,
    /// The uring engine, or an error.
    Uring,
    /// The readiness engine.
    Readiness,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "each variant is its name")]
pub enum Switch {
    On,
    Off,
}

/// Where operators call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperatorAddress(pub Option<SocketAddr>);

impl FromStr for OperatorAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self(None)),
            address => {
                address.parse().map(|address| Self(Some(address))).map_err(|_| "it is IP:PORT, [IPv6]:PORT or off")
            }
        }
    }
}

/// CPUs in the order in which they were written, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

impl FromStr for CpuList {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "it is a list of CPU numbers and ranges, such as 0-3,8, each CPU once";
        let number = |text: &str| text.parse::<usize>().ok().filter(|cpu| *cpu < CPUS_MAX).ok_or(FORM);
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(FORM);
            }
            cpus.extend(first..=last);
        }
        let each_once = cpus.iter().collect::<BTreeSet<_>>().len() == cpus.len();
        if each_once { Ok(Self(cpus)) } else { Err(FORM) }
    }
}

fn node_name(text: &str) -> Result<String, &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain) {
        Ok(text.into())
    } else {
        Err("a node's name has 1 to 128 letters, digits, dots, hyphens and underscores")
    }
}

fn metric_apis(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number <= METRIC_APIS_MAX);
    number.ok_or_else(|| format!("it is a number up to {METRIC_APIS_MAX}"))
}

/// The CPUs in the process's affinity mask, which a container's cpuset has narrowed already.
fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: a cpu_set_t is plain bits, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for writes of its own size, which is what the call is told.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every number is below CPU_SETSIZE.
    Ok((0..CPUS_MAX).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

fn assign(workers: Option<usize>, wanted: Option<&CpuList>, allowed: &[usize]) -> Result<Vec<usize>, String> {
    let cpus = match wanted {
        Some(CpuList(cpus)) => cpus.as_slice(),
        None => allowed,
    };
    if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        return Err(format!("CPU {cpu} of --cpus is not one that this process may use"));
    }
    if cpus.is_empty() {
        return Err("there is no CPU that this process may use".into());
    }
    let workers = workers.unwrap_or(cpus.len());
    Ok(cpus.iter().copied().cycle().take(workers).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        let all = ["framegate"].iter().chain(arguments);
        Command::try_parse_from(all).map(|command| command.options).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_one_host() {
        let options = parse(&[]).unwrap();
        assert_eq!(options.operator, OperatorAddress(Some("127.0.0.1:9901".parse().unwrap())));
        assert_eq!((options.driver, options.log.clone()), (DriverChoice::Auto, LogTarget::Stdout));
        assert_eq!((options.engine, options.splice), (EngineChoice::Auto, Switch::On));
        assert_eq!(options.store_keys, Switch::On);
        assert_eq!((options.control.clone(), options.state_dir.clone(), options.metric_apis), (None, None, 1000));
        assert!(!options.node_name().unwrap().is_empty());
        assert!(!options.worker_cpus().unwrap().is_empty());
    }

    #[test]
    fn every_flag_is_read() {
        let options = parse(&[
            "--node=edge-1",
            "--control=tls://office:9902",
            "--control-certificate=/etc/f/node.pem",
            "--control-key=/etc/f/node.key",
            "--control-authorities=/etc/f/ca.pem",
            "--state-dir=/var/lib/f",
            "--workers=3",
            "--cpus=0",
            "--driver=uring-plain",
            "--engine=readiness",
            "--splice=off",
            "--store-keys=off",
            "--operator=off",
            "--operator-host=a.example,b.example",
            "--operator-host=c.example",
            "--log=/var/log/f",
            "--nofile=1024",
            "--name-server=10.0.0.2:53,[::1]:5353",
            "--metric-apis=5",
        ])
        .unwrap();
        assert_eq!(options.node_name().unwrap(), "edge-1");
        assert_eq!((options.driver, options.engine), (DriverChoice::UringPlain, EngineChoice::Readiness));
        assert_eq!((options.splice, options.store_keys), (Switch::Off, Switch::Off));
        assert_eq!(options.operator, OperatorAddress(None));
        assert_eq!(options.operator_hosts, ["a.example", "b.example", "c.example"]);
        assert_eq!(options.log, LogTarget::File("/var/log/f".into()));
        assert_eq!(options.name_servers.len(), 2);
        assert_eq!((options.nofile, options.metric_apis), (Some(1024), 5));
        let Control::Tls { host, port, credentials } = options.control().unwrap() else { panic!("it is not TLS") };
        assert_eq!((host.as_str(), port), ("office", 9902));
        assert_eq!(credentials.key, PathBuf::from("/etc/f/node.key"));
    }

    #[test]
    fn mistakes_are_explained() {
        for (arguments, hint) in [
            (["--node=a b"], "letters, digits"),
            (["--cpus=0-"], "such as 0-3,8"),
            (["--cpus=3-1"], "such as 0-3,8"),
            (["--cpus=1,0-2"], "each CPU once"),
            (["--cpus=5000"], "such as 0-3,8"),
            (["--operator=localhost:80"], "IP:PORT"),
            (["--workers=0"], "1..=1024"),
            (["--driver=kqueue"], "uring-plain"),
            (["--engine=steam"], "readiness"),
            (["--splice=maybe"], "off"),
            (["--name-server=10.0.0.2"], "invalid socket address"),
            (["--metric-apis=99999999"], "10000"),
            (["--control=tcp://office:9902"], "TLS only"),
        ] {
            let error = parse(&arguments).unwrap_err();
            assert!(error.contains(hint), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn a_control_plane_elsewhere_wants_certificates() {
        let options = parse(&["--control=tls://office:9902", "--control-key=/etc/f/node.key"]).unwrap();
        assert!(options.control().unwrap_err().contains("--control-certificate"));
        assert!(matches!(parse(&["--control=/run/c.sock"]).unwrap().control(), Ok(Control::Unix(_))));
    }

    #[test]
    fn workers_get_cpus_in_the_order_of_the_list() {
        let list = |text: &str| Some(text.parse::<CpuList>().unwrap());
        let assigned = |workers, cpus: Option<CpuList>| assign(workers, cpus.as_ref(), &[0, 1, 2, 8]);
        assert_eq!(assigned(None, None), Ok(vec![0, 1, 2, 8]));
        assert_eq!(assigned(Some(2), None), Ok(vec![0, 1]));
        assert_eq!(assigned(None, list("8,0-1")), Ok(vec![8, 0, 1]));
        assert_eq!(assigned(Some(3), list("2,8")), Ok(vec![2, 8, 2]));
        assert!(assigned(None, list("3")).unwrap_err().contains("CPU 3"));
    }
}
