//! Clients that other people wrote speak TLS with the gateway: none of them shares a line with rustls.
//!
//! All of them look at the certificate, by the shared PKI's root or, in the browser, by its key.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use crate::kit::gateway::{die_with_parent, kill};
use crate::kit::{Frame, Gateway, Head, Setup, Upgrade, Variant, on_both_drivers_securely, pki};
use crate::strangers::{browse, browser, converse, node_client, python_client};

on_both_drivers_securely!(
    openssl_speaks_every_version_it_may,
    python_websockets_over_tls,
    node_ws_over_tls,
    a_browser_over_tls,
    strangers_that_trust_nobody_here_go_away,
);

fn url(gateway: &Gateway) -> String {
    format!("wss://localhost:{}/probe", gateway.address().port())
}

fn root() -> &'static str {
    pki::shared().root.to_str().expect("a path in UTF-8")
}

fn openssl_speaks_every_version_it_may(variant: Variant) {
    let gateway = Setup::new(variant).start();
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost", version]);
        command.args(["-servername", "localhost", "-CAfile", root(), "-connect", &gateway.address().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        die_with_parent(&mut command);
        let mut child = command.spawn().expect("openssl starts");
        let (mut stdin, mut stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        stdin.write_all(&Upgrade::to("/probe").encode()).expect("a request");
        let mut heard = Vec::new();
        let mut until = |enough: &dyn Fn(&[u8]) -> bool| {
            let mut room = [0; 4096];
            while !enough(&heard) {
                let count = stdout.read(&mut room).expect("an answer");
                assert_ne!(count, 0, "{version}: it ended after {}", heard.escape_ascii());
                heard.extend_from_slice(&room[..count]);
            }
            std::mem::take(&mut heard)
        };
        let head = Head { bytes: until(&|heard| heard.ends_with(b"\r\n\r\n")) };
        assert_eq!(head.status(), 101, "{head}");
        stdin.write_all(&Frame::text("from openssl").masked([1, 2, 3, 4]).encode()).expect("a frame");
        stdin.flush().expect("a frame");
        let wanted = Frame::text("from openssl").encode();
        let echo = until(&|heard| heard.len() >= wanted.len());
        assert_eq!(echo, wanted, "{version}");
        kill(Some(child));
    }
    // What is too old for both of them: no handshake, whatever openssl would agree to.
    for version in ["-tls1", "-tls1_1"] {
        let mut command = Command::new("openssl");
        command.args(["s_client", version, "-cipher", "ALL:@SECLEVEL=0", "-connect", &gateway.address().to_string()]);
        let output = command.stdin(Stdio::null()).output().expect("openssl runs");
        assert!(!output.status.success(), "{version}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

fn python_websockets_over_tls(variant: Variant) {
    let Some(mut client) = python_client() else { return };
    let gateway = Setup::new(variant).start();
    converse(client.arg(url(&gateway)).env("SSL_CERT_FILE", root()));
}

fn node_ws_over_tls(variant: Variant) {
    let Some(mut client) = node_client() else { return };
    let gateway = Setup::new(variant).start();
    converse(client.arg(url(&gateway)).env("NODE_EXTRA_CA_CERTS", root()));
}

fn a_browser_over_tls(variant: Variant) {
    let Some(command) = browser() else { return };
    let gateway = Setup::new(variant).start();
    let pin = pki::shared().edge.pin();
    let key = pin.strip_prefix("sha256/").expect("a pin");
    browse(command, &url(&gateway), &[&format!("--ignore-certificate-errors-spki-list={key}")]);
}

/// They would not say a word to somebody whose certificate they do not know; that the others above did is worth something.
fn strangers_that_trust_nobody_here_go_away(variant: Variant) {
    let mut gateway = Setup::new(variant).start();
    let (python, node) = (python_client(), node_client());
    // Node looks at the certificate when its handshake is over, and goes without a word.
    let alerts = python.iter().count();
    for mut client in [python, node].into_iter().flatten() {
        let output = client.arg(url(&gateway)).output().expect("a stranger runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).to_lowercase();
        assert!(!output.status.success() && said.contains("certificate"), "{said}");
    }
    super::expect_failures(&gateway, "certificate_refused_by_peer", alerts);
    gateway.probe();
}
