//! The verbs of the command line that are the control plane's: one module each, with its options and its exit codes.
//!
//! Exit codes everywhere: 0 yes, 1 the answer is no, 2 the question could not be asked. What a verb prints for people
//! goes to standard output, what went wrong to standard error; `--json` puts one JSON document on standard output.

pub mod apply;
pub mod controlplane;
pub mod convert;
pub mod diff;
pub mod drain;
pub mod echo;
pub mod reload;
pub mod run;
pub mod schema;
pub mod status;
pub mod token;
pub mod usage;
pub mod validate;
pub mod version;

pub mod api;
pub mod app;
pub mod deny;
pub mod key;
pub mod plan;
pub mod revoke;
pub mod subscription;
pub mod user;

mod calling;
mod doors;
mod nouns;
mod secret;
mod table;

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use proto::control::Address;
use proto::control::message::{Request, Response};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::client::{self, ClientError, Control};
use crate::credentials::Files;
use proto::errors::with_sources;

/// What the nouns say of their exit codes.
const HELP: &str = "Exit codes: 0 done, 1 the answer is no (there is none, there is one already, it is not sound, or a \
    data plane did not take it), 2 the admin API cannot be asked.";

/// What a verb found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Done, valid, equal.
    Yes,
    /// Invalid, rejected, different.
    No,
    /// It could not be found out.
    Unknown,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Yes => Self::SUCCESS,
            Verdict::No => Self::from(1),
            Verdict::Unknown => Self::from(2),
        }
    }
}

impl Verdict {
    fn of(is_yes: bool) -> Self {
        if is_yes { Self::Yes } else { Self::No }
    }
}

/// Options of the verbs that ask a control plane.
#[derive(Debug, Clone, clap::Args)]
pub struct Asking {
    /// Where the control plane is: a Unix socket, or tls://HOST:PORT [default: /run/framegate/control.sock, or one in
    /// XDG_RUNTIME_DIR for an ordinary user]
    #[arg(long, env = "FRAMEGATE_CONTROL", value_name = "PATH|URL")]
    control: Option<Address>,
    /// The operator's certificate for tls://HOST:PORT, with the URI name framegate:operator: a PEM file
    #[arg(long, env = "FRAMEGATE_CONTROL_CERTIFICATE", value_name = "FILE")]
    control_certificate: Option<PathBuf>,
    /// The private key of that certificate: a PEM file
    #[arg(long, env = "FRAMEGATE_CONTROL_KEY", value_name = "FILE")]
    control_key: Option<PathBuf>,
    /// The authorities, of which one must have signed the control plane's certificate: a PEM file
    #[arg(long, env = "FRAMEGATE_CONTROL_AUTHORITIES", value_name = "FILE")]
    control_authorities: Option<PathBuf>,
    /// Print the answer as one JSON document
    #[arg(long)]
    json: bool,
}

impl Asking {
    fn control(&self) -> Result<Control, ClientError> {
        let address = self.control.clone().unwrap_or_else(|| Address::Unix(default_control()));
        let files = Files::of_options([&self.control_certificate, &self.control_key, &self.control_authorities]);
        match (address, files) {
            (Address::Unix(path), _) => Ok(Control::Unix(path)),
            (Address::Tls { host, port }, Some(files)) => Ok(Control::Tls { host, port, files }),
            (address, _) => Err(ClientError::NoCertificates(address.to_string())),
        }
    }

    /// Asks, and shows the answer as JSON or as `show` writes it; the verdict is that of `judge`.
    fn ask<T: DeserializeOwned>(
        &self,
        request: Request,
        show: impl FnOnce(&T, &mut String),
        judge: impl FnOnce(&T) -> Verdict,
    ) -> ExitCode {
        let answered =
            self.control().and_then(|control| client::ask(&control, request)).and_then(|Response { json, .. }| {
                let answer = serde_json::from_str(&json).map_err(|_| ClientError::Kind(65))?;
                Ok((json, answer))
            });
        match answered {
            Ok((json, answer)) => {
                let mut text = json + "\n";
                if !self.json {
                    text.clear();
                    show(&answer, &mut text);
                }
                print(&text);
                judge(&answer).into()
            }
            Err(error) => cannot(self.json, &with_sources(&error)),
        }
    }
}

/// Where the control socket is when nobody says.
pub fn default_control() -> PathBuf {
    let owner = |path: &str| Path::new(path).metadata().ok().map(|metadata| metadata.uid());
    let runtime_directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let system_owner = owner(proto::control::SYSTEM_DIRECTORY);
    proto::control::default_path(user(), system_owner, runtime_directory.as_deref())
}

/// Where state is kept when nobody says.
fn default_state_directory() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = variable("STATE_DIRECTORY") {
        return directory; // systemd's StateDirectory=
    }
    if user() == 0 {
        return "/var/lib/framegate".into();
    }
    let home = || variable("HOME").unwrap_or_else(|| "/".into()).join(".local/state");
    variable("XDG_STATE_HOME").unwrap_or_else(home).join("framegate")
}

/// The effective user of this process.
fn user() -> u32 {
    Path::new("/proc/self").metadata().map_or(u32::MAX, |metadata| metadata.uid())
}

/// A path as the control plane, which works elsewhere, can use it.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Says why the question could not be asked.
fn cannot(as_json: bool, message: &str) -> ExitCode {
    if as_json {
        print(&format!("{}\n", json!({ "error": message })));
    } else {
        complain(message);
    }
    Verdict::Unknown.into()
}

/// To standard output; a reader that went away is no reason to panic.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// To standard error.
fn complain(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "framegate: {message}");
}
