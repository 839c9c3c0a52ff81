//! What tests of limits begin with.

use proto::control::message::Generation;
use proto::snapshot::{Api, Config, CredentialForm, Snapshot, Target};

use crate::identity::{Grant, Proof, Word};
use crate::tables::Tables;

/// Tables of the API `chat:v1`, with what a test makes of the configuration.
pub(crate) fn tables(change: impl FnOnce(&mut Config)) -> Tables {
    next_tables(None, change)
}

/// The same, as the generation after another.
pub(crate) fn next_tables(previous: Option<&Tables>, change: impl FnOnce(&mut Config)) -> Tables {
    let api = Api::new("chat", "v1", "/chat", Target::Url("ws://a/".parse().unwrap()));
    let mut config = Config { version: 1, apis: vec![api], ..Config::default() };
    change(&mut config);
    let snapshot = Snapshot::check(config).unwrap();
    Tables::build(Generation { source: "test".into(), number: 1 }, &snapshot, previous).unwrap()
}

/// What the password of a user of an application grants.
pub(crate) fn grant(application: &str, user: &str) -> Grant {
    Grant {
        form: CredentialForm::Basic,
        proof: Proof::Password,
        client: None,
        application: Some(application.into()),
        user: Some(user.into()),
        environment: None,
        scopes: Box::default(),
        issued_s: 0,
        expires_ms: u64::MAX,
        word: Word::default(),
    }
}
