//! TLS on both legs: who is shown which certificate, who is let in, whom the gateway believes, and what becomes of peers
//! that break TLS itself.
//!
//! That sessions are the same over TLS is what the other stories tell on the variants that have it. Here clients and
//! upstreams are rustls on the terms of the story, certificates are made by openssl, and what no library sends is forged.

mod clients;
mod doors;
mod example;
mod hostile;
mod names;
mod renewal;
mod resumption;
mod strangers;
mod suites;
mod upstreams;

use crate::kit::line::End;
use crate::kit::{Frame, Gateway, Opcode, Peer, until};

/// A client that has been let in is served: it asks for the API `probe`, and gets its echo.
#[track_caller]
fn expect_service(mut client: Peer) {
    client.upgrade("/probe");
    expect_echo(&mut client, "am I in?");
}

#[track_caller]
fn expect_echo(client: &mut Peer, word: &str) {
    client.send_frame(&Frame::text(word));
    client.expect(Opcode::TEXT, word.as_bytes());
}

/// Checks that a client was told by an alert.
#[track_caller]
fn expect_alert(end: End, alert: rustls::AlertDescription) {
    assert_eq!(end, End::Alert(alert));
}

/// Waits until handshakes with clients have failed so often for this reason, by the gateway's own account.
#[track_caller]
fn expect_failures(gateway: &Gateway, reason: &str, count: usize) {
    until(&format!("{count} handshakes have failed: {reason}"), || {
        gateway.metric("framegate_tls_failures_total", &[("listener", "public"), ("reason", reason)]) == count as f64
    });
}
