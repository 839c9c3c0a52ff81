//! Framegate as an operator has it: `framegate run` with a file, one worker, the session log where others log.

use std::io;
use std::process::Command;

use super::others::Setting;
use super::{PATH, Recipe, Upstream};
use crate::kit::Port;

pub fn framegate(setting: &Setting<'_>, flags: &[&str]) -> io::Result<Recipe> {
    let endpoint = match setting.upstream {
        Upstream::Tcp => format!("ws://{}/", setting.around.echo),
        Upstream::Unix => format!("ws+unix:{}:/", setting.around.echo_unix.display()),
    };
    let file = setting.write(
        "gateway.yaml",
        &format!(
            "version: 1\n\
             settings: {{ drain_window: 0s }}\n\
             listeners:\n  - {{ name: public, bind: \"{}\", backlog: 4096 }}\n\
             apis:\n  - {{ name: echo, context: {PATH}, endpoints: {{ production: {{ url: \"{endpoint}\" }} }} }}\n",
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
