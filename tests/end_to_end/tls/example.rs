//! Is the example with TLS as easy as it says? The command that it names makes the files; then it serves.

use std::process::{Command, Stdio};

use crate::kit::gateway::{FRAMEGATE, die_with_parent, http_get, kill};
use crate::kit::pki::Identity;
use crate::kit::tls::{Agreed, Client, Terms};
use crate::kit::{EchoBackend, Port, Variant, on_both_drivers_securely, until};

on_both_drivers_securely!(the_example_serves_with_the_certificate_that_it_says_how_to_make);

const EXAMPLE: &str = include_str!("../../../examples/wss.yaml");

fn the_example_serves_with_the_certificate_that_it_says_how_to_make(variant: Variant) {
    let directory = tempfile::tempdir().expect("a directory");
    let indented = EXAMPLE.lines().filter_map(|line| line.strip_prefix("#   "));
    let command = indented.collect::<Vec<_>>().join("\n");
    assert!(command.starts_with("openssl req "), "{command}");
    let made = Command::new("sh").args(["-ec", &command]).current_dir(directory.path()).output().expect("a shell runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let (echo, public, operator) = (EchoBackend::start_on(Variant::Automatic), Port::free(), Port::free());
    let yaml =
        EXAMPLE.replace("0.0.0.0:8443", &public.address().to_string()).replace("ws://127.0.0.1:9001/", &echo.url("/"));
    let file = directory.path().join("wss.yaml");
    std::fs::write(&file, yaml).expect("a file can be written");
    let mut command = Command::new(FRAMEGATE);
    command.arg("run").arg(&file).args(["--operator", &operator.address().to_string()]).args(variant.flags());
    command.arg("--control").arg(directory.path().join("control.sock"));
    command.arg("--state-dir").arg(directory.path().join("state"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    die_with_parent(&mut command);
    variant.confine(&mut command);
    let running = command.spawn().expect("the executable runs");
    until("the gateway is ready", || http_get(operator.address(), "/ready").is_some_and(|(status, _)| status == 200));
    // A certificate that signs itself is believed by who was told to, and rustls cannot be told.
    let mut client = Client::credulous(&Terms::default().name(Some("localhost"))).connect(public.address());
    let files = ["edge.pem", "edge.key"].map(|name| directory.path().join(name));
    let [chain, key] = files;
    assert!(Agreed::on(&client).shows(&Identity { chain, key }));
    client.upgrade("/chat");
    super::expect_echo(&mut client, "as easy as that");
    kill(Some(running));
}
