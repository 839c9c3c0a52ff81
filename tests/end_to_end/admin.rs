//! The admin API and the verbs on top of it, as an operator has them: real planes, HTTP by hand, the executable.

mod doors;
mod hostile;
mod objects;
mod pages;
mod shell;
mod stranger;

use crate::kit::people::{PASSWORD_HASH, People};
use crate::kit::{Gateway, Setup, Variant};

/// A gateway whose file declares one thing of each kind.
fn gateway() -> Gateway {
    let people = People::new()
        .entry("applications", "name: filed, owner: file".into())
        .entry("subscriptions", "application: filed, api: \"filed:v1\"".into())
        .entry("keys", format!("name: filed-1, application: filed, sha256: \"{}\"", "ab".repeat(32)))
        .entry("users", format!("name: filed, password: \"{}\"", PASSWORD_HASH.replace('$', "$$")))
        .entry("revocations", "revoked: \"user:filed\"".into())
        .entry("plans", "name: filed, limits: [{ rate: 1000/s }]".into())
        .entry("denials", "name: filed, user: nobody".into());
    let setup = Setup::new(Variant::Automatic);
    let url = setup.probe_url();
    setup.api_to("filed", &url, "version: v1, authentication: { accept: [api_key] }").people(people).start()
}
