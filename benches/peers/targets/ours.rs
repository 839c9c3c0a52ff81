//! Framegate as an operator has it: `framegate run` with a file, one worker, the session log where others log.

use std::io;
use std::process::Command;

use super::others::{Setting, TlsSetting};
use super::{PATH, Recipe, Upstream};
use crate::cells::Tls;
use crate::kit::Port;
use crate::load::tls::{SERVER_NAME, SUITE};

pub fn framegate(setting: &Setting<'_>, flags: &[&str]) -> io::Result<Recipe> {
    let url = match setting.upstream {
        // The name in the certificate, where there is one.
        Upstream::Tcp if upstream_tls(setting).is_some() => format!("wss://{SERVER_NAME}:{}/", setting.echo().port()),
        Upstream::Tcp => format!("ws://{}/", setting.echo()),
        Upstream::Unix => format!("ws+unix:{}:/", setting.around.echo_unix.display()),
    };
    let (mut sections, mut listener) = (String::new(), String::new());
    let mut upstream = format!("{{ name: echo, endpoints: [{{ url: \"{url}\" }}] }}");
    if let Some(TlsSetting { tls: Tls { key, .. }, files, .. }) = setting.tls {
        let (chain, key) = (files.chain(key), files.key(key));
        sections = format!("certificates:\n  - {{ name: rig, chain: {}, key: {} }}\n", chain.display(), key.display());
        listener = format!(", tls: {{ certificates: [rig], versions: [tls1.3], cipher_suites: [{SUITE}] }}");
    }
    if let Some(authority) = upstream_tls(setting) {
        sections += &format!("authorities:\n  - {{ name: rig, certificates: {} }}\n", authority.display());
        upstream = format!(
            "{{ name: echo, endpoints: [{{ url: \"{url}\" }}], \
             tls: {{ authorities: rig, versions: [tls1.3], cipher_suites: [{SUITE}] }} }}"
        );
    }
    let file = setting.write(
        "gateway.yaml",
        &format!(
            "version: 1\n\
             settings: {{ drain_window: 0s }}\n\
             {sections}\
             listeners:\n  - {{ name: public, bind: \"{}\", backlog: 4096{listener} }}\n\
             upstreams:\n  - {upstream}\n\
             apis:\n  - {{ name: echo, context: {PATH}, endpoints: {{ production: {{ upstream: echo }} }} }}\n",
            setting.listen,
        ),
    )?;
    let mut command = Command::new(&setting.around.programs.framegate);
    // The lock on the operator's port ends here, but this process gives no number out twice.
    let operator = Port::free().address();
    command.arg("run").arg(file).args(["--operator", &operator.to_string(), "--workers", "1"]);
    command.arg("--control").arg(setting.directory.join("control.sock"));
    command.arg("--state-dir").arg(setting.directory.join("state"));
    if let Some(cpu) = setting.around.cpu {
        command.args(["--cpus", &cpu.to_string()]);
    }
    if setting.around.logging {
        command.arg("--log").arg(setting.directory.join("access.log"));
    } else {
        command.args(["--log", "off"]);
    }
    command.args(flags);
    Ok(Recipe { command, last_word: libc::SIGTERM, operator: Some(operator) })
}

fn upstream_tls(setting: &Setting<'_>) -> Option<std::path::PathBuf> {
    setting.tls.and_then(|tls| tls.upstream_authority())
}
