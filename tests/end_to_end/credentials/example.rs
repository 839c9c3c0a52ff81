//! The script that publishes an API, subscribes to it, connects and revokes does what it says.

use std::process::{Command, Stdio};

use crate::kit::gateway::{FRAMEGATE, die_with_parent};
use crate::kit::{Port, aloud};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/publish-subscribe-connect.sh");

#[test]
fn publish_subscribe_connect() {
    if !Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        assert!(std::env::var("STRANGERS").as_deref() != Ok("require"), "curl is not installed");
        return aloud("skipped: curl is not installed (apt-get install curl)");
    }
    let ports = ["PUBLIC_PORT", "TOKEN_PORT", "ECHO_PORT", "OPERATOR_PORT"].map(|name| (name, Port::free()));
    let mut command = Command::new("sh");
    command.arg(SCRIPT).env("FRAMEGATE", FRAMEGATE).stdin(Stdio::null());
    for (name, port) in &ports {
        command.env(name, port.number.to_string());
    }
    die_with_parent(&mut command);
    let output = command.output().expect("there is a shell");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for words in [
        "API chat:v1 is created",
        "with the key: < HTTP/1.1 101 Switching Protocols",
        "with the token: < HTTP/1.1 101 Switching Protocols",
        "the session of the key heard: credential revoked",
        "the session of the token heard: credential revoked",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(said.matches("HTTP/1.1 401 Unauthorized").count(), 3, "{said}");
}
