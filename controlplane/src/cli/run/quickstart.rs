//! The embedded default: a private directory, the configuration in it, and an echo backend inside this process.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::probe::reachable;
use crate::admin::secrets::{self, Made};
use crate::echo::{self, MESSAGE_BYTES_MAX};

/// What `framegate run` serves without a file.
const CONFIGURATION: &str = include_str!("../../../../examples/quickstart.yaml");

/// The default's directory, which goes with it, its backend, and the secrets of its example, which are new in every run.
pub struct Quickstart {
    directory: PathBuf,
    echo: SocketAddr,
    key: Made,
    client_secret: Made,
}

/// Where a newcomer finds what, as it is printed.
pub struct Invitation<'i> {
    /// The program, as it was typed.
    pub command: &'i str,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where tokens are issued.
    pub tokens: SocketAddr,
    /// Where /metrics is.
    pub operator: SocketAddr,
    /// The control socket.
    pub control: &'i Path,
}

impl Quickstart {
    /// Makes the directory and starts the backend.
    pub fn new() -> io::Result<Self> {
        let echo = start_echo()?;
        let (key, client_secret) = (secrets::api_key(), secrets::client_secret());
        let (key, client_secret) = (key.map_err(io::Error::other)?, client_secret.map_err(io::Error::other)?);
        let runtime_directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
        let base = runtime_directory.unwrap_or_else(std::env::temp_dir);
        let directory = base.join(format!("framegate-run-{}", std::process::id()));
        // Fails when it is there: nobody else can have put anything into it.
        std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let quickstart = Self { directory, echo, key, client_secret };
        std::fs::write(quickstart.file(), CONFIGURATION)?;
        Ok(quickstart)
    }

    /// The configuration.
    pub fn file(&self) -> PathBuf {
        self.directory.join("quickstart.yaml")
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Where the planes keep what outlives them, which here does not.
    pub fn state_directory(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// What the configuration asks the environment for.
    pub fn environment(&self, listen: SocketAddr, tokens: SocketAddr) -> Vec<(&'static str, OsString)> {
        vec![
            ("FRAMEGATE_LISTEN", listen.to_string().into()),
            ("FRAMEGATE_TOKENS", tokens.to_string().into()),
            ("FRAMEGATE_ECHO", self.echo.to_string().into()),
            ("FRAMEGATE_EXAMPLE_KEY", self.key.hash.to_string().into()),
            ("FRAMEGATE_EXAMPLE_SECRET", self.client_secret.hash.to_string().into()),
        ]
    }

    /// How much both planes say, unless the environment asks for it: a newcomer wants to see the gateway, not its notes.
    pub fn quiet() -> Vec<(&'static str, OsString)> {
        let is_asked = std::env::var_os("FRAMEGATE_LOG_LEVEL").is_some();
        if is_asked { Vec::new() } else { vec![("FRAMEGATE_LOG_LEVEL", "warn".into())] }
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The backend has a thread of its own, so that supervision never waits for it.
fn start_echo() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("echo".into()).spawn(move || {
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => echo::serve(listener, MESSAGE_BYTES_MAX).await,
                Err(error) => super::complain(&format!("the echo backend cannot be started: {error}")),
            }
        });
    })?;
    Ok(address)
}

impl Quickstart {
    /// What to say once it is ready. The one place where the example's key and secret are shown.
    pub fn banner(&self, Invitation { command, listen, tokens, operator, control }: &Invitation<'_>) -> String {
        let [listen, tokens, operator] = [listen, tokens, operator].map(|address| reachable(*address));
        let url = format!("ws://{listen}/echo");
        let members = format!("ws://{listen}/members");
        let (key, secret) = (&self.key.secret, &self.client_secret.secret);
        format!(
            "\
Framegate is ready. The echo API is at {url}

Say something to it, with whatever is at hand; it comes back:
  python3 -m websockets {url}        (pip install websockets)
  npx wscat -c {url}
  websocat {url}

The same for members only, with the key of the example application, or with a token of it:
  npx wscat -c '{members}?apikey={key}'
  TOKEN=$(FRAMEGATE_CLIENT_SECRET={secret} \\
    {command} token get --client example --endpoint http://{tokens})
  npx wscat -c {members} -H \"Authorization: Bearer $TOKEN\"

Look at it:
  curl http://{operator}/metrics
  {command} status --control {control}

Put it before your own server:
  {command} run examples/minimal.yaml
Ctrl-C stops it.
",
            control = control.display(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::compile::compile;
    use crate::material::Known;
    use crate::tokens::KeySets;

    #[test]
    fn the_embedded_default_is_sound_with_its_environment_and_without() {
        let quickstart = Quickstart::new().unwrap();
        let listen = "127.0.0.1:18080".parse().unwrap();
        let tokens = "127.0.0.1:19902".parse().unwrap();
        let environment = quickstart.environment(listen, tokens);
        let lookup = |name: &str| {
            let found = environment.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_str().unwrap().to_owned())
        };
        let snapshot = compile(&quickstart.file(), &lookup, &Known::default(), &KeySets::default(), SystemTime::now())
            .outcome
            .unwrap();
        assert_eq!(snapshot.listeners()[0].bind.to_string(), "127.0.0.1:18080");
        let plain = compile(&quickstart.file(), &|_| None, &Known::default(), &KeySets::default(), SystemTime::now())
            .outcome
            .unwrap();
        assert_eq!(plain.listeners()[0].bind.to_string(), "127.0.0.1:8080");
        assert!(snapshot.key(&quickstart.key.hash).is_some() && plain.key(&quickstart.key.hash).is_none());
        let banner = quickstart.banner(&Invitation {
            command: "framegate",
            listen,
            tokens,
            operator: "127.0.0.1:9901".parse().unwrap(),
            control: Path::new("/run/control.sock"),
        });
        assert!(banner.contains(&format!("ws://127.0.0.1:18080/members?apikey={}", quickstart.key.secret)), "{banner}");
        let directory = quickstart.directory.clone();
        drop(quickstart);
        assert!(!directory.exists());
    }
}
