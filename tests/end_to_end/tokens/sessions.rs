//! Tokens of the gateway's own endpoint at its own data plane: they open a session, and end it when they are taken back.

use std::time::{Duration, Instant};

use super::{CLIENT, House, people};
use crate::kit::{Frame, Opcode, Setup, Upgrade, Variant, on_both_drivers};

on_both_drivers!(a_token_opens_a_session_and_ends_it_when_it_is_revoked);

fn a_token_opens_a_session_and_ends_it_when_it_is_revoked(variant: Variant) {
    let setup = Setup::new(variant);
    let url = setup.probe_url();
    let people = people().subscriptions("shop", &["guarded"]);
    let house = House::with(setup.people(people).api_to("guarded", &url, "authentication: { accept: [bearer] }"), "");
    let token = house.token("every", CLIENT);
    let bearer = format!("Bearer {}", token["access_token"].as_str().unwrap());
    let mut client = house.gateway.connect();
    client.send(&Upgrade::to("/guarded").with("Authorization", &bearer).encode());
    client.upgraded();
    client.send_frame(&Frame::text("in"));
    client.expect(Opcode::TEXT, b"in");

    let revoking = Instant::now();
    let form = format!("token={}", token["access_token"].as_str().unwrap());
    assert_eq!(house.post("revoke", "every", &form).status, 200);
    client.expect_close(1008);
    assert!(revoking.elapsed() < Duration::from_secs(1), "{:?}", revoking.elapsed());
    let mut again = house.gateway.connect();
    again.send(&Upgrade::to("/guarded").with("Authorization", &bearer).encode());
    assert_eq!(again.head().status(), 401);
}
