//! The peers' configurations, one worker each, with one line a session in an access log unless logging is off.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DESCRIPTORS_MAX, Recipe, Surroundings, Tuning, Upstream};
use crate::cells::Tls;
use crate::certificates::{Certificates, Key};
use crate::load::tls::{SERVER_NAME, SUITE};

/// Where a target listens, what it leads to, and where its files are.
pub struct Setting<'s> {
    pub around: &'s Surroundings,
    pub upstream: Upstream,
    pub listen: SocketAddr,
    pub directory: &'s Path,
    pub tls: Option<TlsSetting<'s>>,
}

/// TLS, the files for it, and where the echo speaks it.
#[derive(Clone, Copy)]
pub struct TlsSetting<'s> {
    pub tls: Tls,
    pub files: &'s Certificates,
    pub echo: SocketAddr,
}

impl TlsSetting<'_> {
    /// Of the echo, whose certificate is always of this kind.
    pub fn upstream_authority(&self) -> Option<PathBuf> {
        self.tls.upstream_too.then(|| self.files.authority(Key::EcdsaP256))
    }
}

impl Setting<'_> {
    /// Where the echo is, on TCP.
    pub fn echo(&self) -> SocketAddr {
        match self.tls {
            Some(setting) if setting.tls.upstream_too => setting.echo,
            _ => self.around.echo,
        }
    }

    pub fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.directory.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

pub fn nginx(setting: &Setting<'_>, tuning: Tuning) -> io::Result<Recipe> {
    let directory = setting.directory.display();
    let server = match setting.upstream {
        Upstream::Tcp => setting.echo().to_string(),
        Upstream::Unix => format!("unix:{}", setting.around.echo_unix.display()),
    };
    let log = if setting.around.logging { format!("{directory}/access.log") } else { "off".into() };
    let buffers = match tuning {
        Tuning::Default => "",
        Tuning::Large => "proxy_buffer_size 64k; proxy_buffers 4 64k; proxy_busy_buffers_size 128k;",
    };
    let (mut listen, mut scheme, mut tls) = ("", "http", String::new());
    if let Some(TlsSetting { tls: Tls { key, .. }, files, .. }) = setting.tls {
        listen = "ssl";
        let (chain, key) = (files.chain(key), files.key(key));
        let _ = write!(
            tls,
            "ssl_certificate {};\n  ssl_certificate_key {};\n  ssl_protocols TLSv1.3;\n  \
             ssl_conf_command Ciphersuites {SUITE};\n",
            chain.display(),
            key.display(),
        );
    }
    if let Some(authority) = setting.tls.and_then(|tls| tls.upstream_authority()) {
        scheme = "https";
        let _ = write!(
            tls,
            "  proxy_ssl_protocols TLSv1.3;\n  proxy_ssl_conf_command Ciphersuites {SUITE};\n  \
             proxy_ssl_verify on;\n  proxy_ssl_trusted_certificate {};\n  proxy_ssl_server_name on;\n  \
             proxy_ssl_name {SERVER_NAME};\n",
            authority.display(),
        );
    }
    // SAFETY: a plain system call.
    let user = if unsafe { libc::geteuid() } == 0 { "user root;" } else { "" };
    let mut text = format!("{user}\nworker_processes 1;\nworker_rlimit_nofile {DESCRIPTORS_MAX};\n");
    let _ = write!(
        text,
        "pid {directory}/nginx.pid;\n\
         error_log {directory}/error.log crit;\n\
         events {{ worker_connections {}; }}\n\
         http {{\n\
           access_log {log};\n\
           client_body_temp_path {directory}/body;\n  proxy_temp_path {directory}/proxy;\n  \
           fastcgi_temp_path {directory}/fastcgi;\n  uwsgi_temp_path {directory}/uwsgi;\n  \
           scgi_temp_path {directory}/scgi;\n\
           upstream echo {{ server {server}; }}\n\
           server {{\n\
             listen {} {listen} backlog=4096;\n\
             {tls}\
             location / {{\n\
               proxy_pass {scheme}://echo;\n\
               proxy_http_version 1.1;\n\
               proxy_set_header Host $host;\n\
               proxy_set_header Upgrade $http_upgrade;\n\
               proxy_set_header Connection \"upgrade\";\n\
               proxy_read_timeout 1h;\n\
               proxy_send_timeout 1h;\n\
               {buffers}\n\
             }}\n\
           }}\n\
         }}\n",
        DESCRIPTORS_MAX - 100,
        setting.listen,
    );
    let file = setting.write("nginx.conf", &text)?;
    let mut command = Command::new(&setting.around.programs.nginx);
    command.arg("-e").arg(setting.directory.join("error.log")).arg("-p").arg(setting.directory).arg("-c").arg(file);
    command.args(["-g", "daemon off;"]);
    // The master takes its worker along.
    Ok(Recipe { command, last_word: libc::SIGTERM, operator: None })
}

pub fn haproxy(setting: &Setting<'_>, tuning: Tuning) -> io::Result<Recipe> {
    // Standard output is a file: a line is one write, as with the others.
    let log = if setting.around.logging { "  log stdout format raw local0\n" } else { "" };
    let (buffers, splice) = match tuning {
        Tuning::Default => ("", ""),
        Tuning::Large => ("  tune.bufsize 65536\n", "  option splice-auto\n"),
    };
    let (mut front, mut back, mut suites) = (String::new(), String::new(), String::new());
    if let Some(TlsSetting { tls: Tls { key, .. }, files, .. }) = setting.tls {
        front = format!(" ssl crt {} ssl-min-ver TLSv1.3", files.both(key).display());
        suites = format!("  ssl-default-bind-ciphersuites {SUITE}\n  ssl-default-server-ciphersuites {SUITE}\n");
    }
    if let Some(authority) = setting.tls.and_then(|tls| tls.upstream_authority()) {
        let authority = authority.display();
        back = format!(
            " ssl verify required ca-file {authority} sni str({SERVER_NAME}) verifyhost {SERVER_NAME} ssl-min-ver TLSv1.3"
        );
    }
    let text = format!(
        "global\n  maxconn {}\n  nbthread 1\n  maxpipes 100\n{suites}{log}{buffers}\
         defaults\n  mode http\n  log global\n  option httplog\n{splice}  \
         timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  timeout tunnel 1h\n\
         frontend public\n  bind {}{front} backlog 4096\n  default_backend echo\n\
         backend echo\n  server echo {}{back}\n",
        DESCRIPTORS_MAX / 2 - 300,
        setting.listen,
        setting.echo(),
    );
    let file = setting.write("haproxy.cfg", &text)?;
    let mut command = Command::new(&setting.around.programs.haproxy);
    command.arg("-db").arg("-f").arg(file);
    Ok(Recipe { command, last_word: libc::SIGKILL, operator: None })
}

pub fn envoy(setting: &Setting<'_>) -> io::Result<Recipe> {
    let address = |address: SocketAddr| serde_json::json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let type_url = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let log = serde_json::json!([{ "name": "file", "typed_config": {
        "@type": type_url("access_loggers.file.v3.FileAccessLog"),
        "path": setting.directory.join("access.log").to_str(),
    } }]);
    let manager = serde_json::json!({
        "@type": type_url("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "public",
        "access_log": if setting.around.logging { log } else { serde_json::json!([]) },
        // A closed connection would otherwise be kept for a second.
        "delayed_close_timeout": "0s",
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "http_filters": [{ "name": "router", "typed_config": { "@type": type_url("filters.http.router.v3.Router") } }],
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
            { "match": { "prefix": "/" }, "route": { "cluster": "echo", "timeout": "0s" } }
        ] }] },
    });
    let room = serde_json::json!({
        "max_connections": DESCRIPTORS_MAX, "max_pending_requests": DESCRIPTORS_MAX, "max_requests": DESCRIPTORS_MAX,
    });
    let configuration = serde_json::json!({ "static_resources": {
        "listeners": [{
            "name": "public",
            "address": address(setting.listen),
            "tcp_backlog_size": 4096,
            "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
        }],
        "clusters": [{
            "name": "echo",
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": { "thresholds": [room] },
            "load_assignment": { "cluster_name": "echo", "endpoints": [{ "lb_endpoints": [
                { "endpoint": { "address": address(setting.around.echo) } }
            ] }] },
        }],
    } });
    let file = setting.write("envoy.json", &configuration.to_string())?;
    let mut command = Command::new(&setting.around.programs.envoy);
    command.arg("-c").arg(file).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]);
    Ok(Recipe { command, last_word: libc::SIGKILL, operator: None })
}

pub fn pingora(setting: &Setting<'_>) -> Recipe {
    let mut command = Command::new(&setting.around.programs.pingora);
    command.arg(setting.listen.to_string()).arg(setting.around.echo.to_string());
    if setting.around.logging {
        command.arg(setting.directory.join("access.log"));
    }
    Recipe { command, last_word: libc::SIGKILL, operator: None }
}
