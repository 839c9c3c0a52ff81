//! `token rotate`: the operator has the token endpoint's next signing key made before its time.
//!
//! Asks the admin API, as the nouns of the catalogue do.

use std::process::ExitCode;

use reqwest::Method;

use super::super::calling::{Calling, If, as_json};
use super::super::nouns::text;

/// Options of `token rotate`.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// Sign with the new key as soon as the connected data planes have it, though others who check tokens may not have
    /// read it yet
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    calling: Calling,
}

impl Rotate {
    /// Asks and shows.
    pub fn run(self) -> ExitCode {
        let query: Vec<_> = self.now.then(|| ("now", "true".to_owned())).into_iter().collect();
        let is_json = self.calling.is_json();
        self.calling.run(|client| async move {
            let key = client.ask(Method::POST, &["signing-keys", "rotate"], &query, If::Always, None).await?.body;
            if is_json {
                return Ok((as_json(&key), true));
            }
            let [kid, signs_from, replaces, keys] = ["kid", "signs_from", "replaces", "keys"].map(|it| text(&key[it]));
            let text = format!(
                "the key {kid} is published, and signs from {signs_from} on\n{replaces} stays published until the last \
                 token that it signs has run out; {keys} keys are published\n"
            );
            Ok((text, true))
        })
    }
}
