//! Programs that other people wrote get tokens, and make tokens: Authlib as a client, PyJWT as an issuer.
//!
//! A stranger that is not installed is skipped aloud, as elsewhere.

use super::{House, people, secret};
use crate::kit::people::PASSWORD;
use crate::kit::{Setup, Variant};
use crate::strangers::{converse, python};

#[test]
fn authlib_gets_tokens_and_uses_them() {
    let Some(mut stranger) = python("oauth_client.py", &["authlib", "requests", "websockets"]) else { return };
    let setup = Setup::new(Variant::Automatic);
    let url = setup.probe_url();
    let setup = setup.people(people().subscriptions("shop", &["guarded"]));
    let house = House::with(setup.api_to("guarded", &url, "authentication: { accept: [bearer] }"), "");
    stranger.args([&house.url(), &format!("ws://{}/guarded", house.gateway.address()), "every", "alice"]);
    converse(stranger.env("CLIENT_SECRET", secret("every")).env("USER_PASSWORD", PASSWORD));
}

#[test]
fn what_pyjwt_signs_is_believed_when_its_keys_are_known() {
    let signer = || python("jwt_signer.py", &["jwt", "cryptography", "websockets"]);
    let (Some(mut keys), Some(mut stranger)) = (signer(), signer()) else { return };
    let setup = Setup::new(Variant::Automatic);
    converse(keys.arg("keys").arg(setup.directory()));
    let (issuer, audience) = ("https://login.test", "wss://gateway.test");
    let corporate = format!("name: corporate, issuer: \"{issuer}\", jwks: keys.json, audiences: [\"{audience}\"]");
    let people = people().subscriptions("shop", &["guarded"]).entry("issuers", corporate);
    let url = setup.probe_url();
    let gateway = setup.people(people).api_to("guarded", &url, "authentication: { accept: [bearer] }").start();
    let url = format!("ws://{}/guarded", gateway.address());
    converse(stranger.arg("connect").arg(gateway.setup().directory()).args([&url, issuer, audience, "theirs"]));
}
