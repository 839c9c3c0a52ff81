//! Options that say where the admin API is to be had; those of the control plane, and of whoever starts one.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::admin::{Doors, Port};
use crate::credentials::ServerFiles;

/// The name of the admin socket, beside the control socket.
pub const SOCKET: &str = "admin.sock";

/// Where the admin API is to be had.
#[derive(Debug, Clone, clap::Args)]
pub struct AdminDoors {
    /// The admin socket, or off [default: admin.sock beside the control socket]
    #[arg(long, env = "FRAMEGATE_ADMIN", value_name = "PATH")]
    admin: Option<PathBuf>,
    /// Answer the admin API on this TCP port too: in clear on loopback only, else with TLS; to whoever has a token or a
    /// client certificate
    #[arg(long, env = "FRAMEGATE_ADMIN_TCP", value_name = "ADDR")]
    admin_tcp: Option<SocketAddr>,
    /// Bearer tokens of the admin port: lines of ROLE SHA256 NAME, ROLE being operator or read_only. Read again when it
    /// changes
    #[arg(long, env = "FRAMEGATE_ADMIN_TOKENS", value_name = "FILE")]
    admin_tokens: Option<PathBuf>,
    /// The admin port's certificate, and what is between it and an authority: a PEM file. Read again when it changes
    #[arg(long, env = "FRAMEGATE_ADMIN_CERTIFICATE", value_name = "FILE")]
    admin_certificate: Option<PathBuf>,
    /// The private key of that certificate: a PEM file
    #[arg(long, env = "FRAMEGATE_ADMIN_KEY", value_name = "FILE")]
    admin_key: Option<PathBuf>,
    /// The authorities, of which one must have signed an operator's certificate: a PEM file
    #[arg(long, env = "FRAMEGATE_ADMIN_AUTHORITIES", value_name = "FILE")]
    admin_authorities: Option<PathBuf>,
    /// A further host name under which the admin port may be called, beside those of its certificate
    #[arg(long, env = "FRAMEGATE_ADMIN_HOSTS", value_name = "NAME", value_delimiter = ',')]
    admin_host: Vec<String>,
}

impl AdminDoors {
    /// The doors, beside this control socket where nothing else is said. The error is a sentence for the operator.
    pub fn doors(&self, control: &Path) -> Result<Doors, &'static str> {
        let socket = match &self.admin {
            None => Some(control.with_file_name(SOCKET)),
            Some(path) if path.as_os_str() == "off" => None,
            Some(path) if path.to_string_lossy().contains("://") => {
                return Err("--admin of a control plane is the path of a socket, or off; a port is --admin-tcp");
            }
            Some(path) => Some(path.clone()),
        };
        let files = match (&self.admin_certificate, &self.admin_key, &self.admin_authorities) {
            (Some(certificate), Some(key), authorities) => Some(ServerFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                authorities: authorities.clone(),
                wants_certificate: self.admin_tokens.is_none(),
            }),
            (None, None, None) => None,
            _ => return Err("--admin-certificate and --admin-key belong together, and --admin-authorities to both"),
        };
        let (tokens, hosts) = (self.admin_tokens.clone(), self.admin_host.clone());
        let port = self.admin_tcp.map(|address| Port { address, tokens, files, hosts });
        if port.is_none() && (self.admin_tokens.is_some() || self.admin_certificate.is_some()) {
            return Err("--admin-tokens and --admin-certificate are for the admin port; say which with --admin-tcp");
        }
        Ok(Doors { socket, port })
    }

    /// The same options again, for a process that is started.
    pub fn passed_on(&self) -> Vec<OsString> {
        let path = |path: &Option<PathBuf>| path.clone().map(OsString::from);
        let address = self.admin_tcp.map(|address| address.to_string().into());
        let single = [
            ("--admin", path(&self.admin)),
            ("--admin-tcp", address),
            ("--admin-tokens", path(&self.admin_tokens)),
            ("--admin-certificate", path(&self.admin_certificate)),
            ("--admin-key", path(&self.admin_key)),
            ("--admin-authorities", path(&self.admin_authorities)),
        ];
        let hosts = self.admin_host.iter().map(|host| ("--admin-host", Some(OsString::from(host))));
        let given = single.into_iter().chain(hosts).filter_map(|(flag, value)| Some([flag.into(), value?]));
        given.flatten().collect()
    }
}
