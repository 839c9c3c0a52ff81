//! Who is let in, whom a denial ends, and what outlives a restart.

use std::time::Duration;

use crate::kit::{Frame, Gateway, Opcode, Peer, RawUpstream, Setup, Upgrade, Variant, on_variants_in_clear, until};

on_variants_in_clear!(
    a_seat_that_is_left_is_free_again_also_after_a_handshake_that_failed,
    handshakes_that_come_too_fast_are_told_when_to_come_back,
    an_endpoint_that_is_full_is_not_dialled,
    a_denial_ends_live_sessions_or_silences_them,
    what_is_used_of_a_long_quota_outlives_the_data_plane,
);

const TOO_MUCH: &[u8] = b"Error code: 4003 reason: Websocket frame throttled out";

/// A client that is refused: with which status, and for how many seconds.
#[track_caller]
fn refused(gateway: &Gateway) -> (u16, u64) {
    let mut client = gateway.connect();
    client.send(&Upgrade::to("/chat").encode());
    let answer = client.refused();
    let retry = answer.head.header("Retry-After").and_then(|value| value.parse().ok());
    (answer.status, retry.unwrap_or(0))
}

fn says(from: &mut Peer, to: &mut Peer, text: &str) {
    from.send_frame(&Frame::text(text));
    to.expect(Opcode::TEXT, text.as_bytes());
}

fn a_seat_that_is_left_is_free_again_also_after_a_handshake_that_failed(variant: Variant) {
    let upstream = RawUpstream::listen();
    let admission = "admission: { sessions_per_address_max: 2 }";
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), admission).start();
    // The endpoint refuses: nobody has a seat.
    for _ in 0..3 {
        let mut client = gateway.connect();
        client.send(&Upgrade::to("/chat").encode());
        drop(upstream.accept());
        assert_eq!(client.refused().status, 502);
    }
    let first = gateway.session("/chat", &upstream);
    let _second = gateway.session("/chat", &upstream);
    let (status, seconds) = refused(&gateway);
    assert!(status == 429 && (5..=15).contains(&seconds), "{status}, after {seconds} s");
    drop(first);
    until("there is a seat", || gateway.metric("framegate_sessions_active", &[("api", "chat")]) == 1.0);
    let _third = gateway.session("/chat", &upstream);
    assert_eq!(refused(&gateway).0, 429);
    let reason = [("reason", "sessions_of_address")];
    assert_eq!(gateway.metric("framegate_refusals_total", &reason), 2.0);
    gateway.probe();
}

fn handshakes_that_come_too_fast_are_told_when_to_come_back(variant: Variant) {
    let upstream = RawUpstream::listen();
    let admission = "admission: { connects: 1/h, connects_burst: 2 }";
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), admission).start();
    let _two = [0; 2].map(|_| gateway.session("/chat", &upstream));
    let (status, seconds) = refused(&gateway);
    assert!(status == 503 && (3500..=3610).contains(&seconds), "{status}, after {seconds} s");
    gateway.probe();
}

fn an_endpoint_that_is_full_is_not_dialled(variant: Variant) {
    let upstream = RawUpstream::listen();
    let group = format!("name: group, sessions_per_endpoint_max: 1, endpoints: [{{ url: '{}' }}]", upstream.url("/"));
    let mut gateway = Setup::new(variant)
        .upstream(&group)
        .api("name: chat, context: /chat, endpoints: { production: { upstream: group } }")
        .start();
    let (client, backend) = gateway.session("/chat", &upstream);
    assert_eq!(refused(&gateway).0, 503);
    upstream.expect_no_connection(Duration::ZERO);
    drop((client, backend));
    until("it has room", || gateway.metric("framegate_sessions_active", &[("api", "chat")]) == 0.0);
    let _again = gateway.session("/chat", &upstream);
    gateway.probe();
}

fn a_denial_ends_live_sessions_or_silences_them(variant: Variant) {
    let upstream = RawUpstream::listen();
    let mut gateway = Setup::new(variant).api_to("chat", &upstream.url("/"), "").start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    says(&mut client, &mut backend, "before");
    let open = gateway.setup().yaml();
    let denied = |action: &str| format!("{open}\ndenials:\n  - {{ name: d, api: chat, action: {action} }}\n");
    assert_eq!(gateway.apply(&denied("drop")).code, 0);
    client.send_frame(&Frame::text("unheard"));
    assert_eq!(refused(&gateway).0, 403);
    assert_eq!(gateway.apply(&open).code, 0);
    says(&mut client, &mut backend, "heard again");
    assert_eq!(gateway.apply(&denied("close")).code, 0);
    client.expect_close(1008);
    backend.expect_close(1008);
    assert_eq!(refused(&gateway).0, 403);
    assert_eq!(gateway.apply(&open).code, 0);
    gateway.probe();
}

fn what_is_used_of_a_long_quota_outlives_the_data_plane(variant: Variant) {
    let upstream = RawUpstream::listen();
    let setup = Setup::new(variant).document("plans:\n  - { name: p, limits: [{ quota: 3/year }] }\n");
    let mut gateway = setup.api_to("chat", &upstream.url("/"), "plan: p").start();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    says(&mut client, &mut backend, "one");
    says(&mut backend, &mut client, "two");
    gateway.signal(libc::SIGTERM);
    client.expect_close(1012);
    backend.expect_close(1012);
    drop((client, backend));
    assert!(gateway.ended().success());
    gateway.start_data_plane();
    let (mut client, mut backend) = gateway.session("/chat", &upstream);
    says(&mut client, &mut backend, "three");
    client.send_frame(&Frame::text("four"));
    client.expect(Opcode::TEXT, TOO_MUCH);
    gateway.probe();
}
