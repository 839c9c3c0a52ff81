//! A step that asks an HTTP endpoint: what it is told, and what its answer means.
//!
//! It is told what the upstream would be: the client's headers as the steps before have left them, without those of the
//! handshake and the credentials that authentication took out. How it is asked is the [`bridge`](crate::bridge)'s.

use std::pin::pin;
use std::time::Duration;

use proto::http::write_dictated;
use proto::snapshot::ForwardAuth;
use proto::ws::handshake::end_to_end;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Client, Fault};
use crate::bridge::{Answer, Call, CallError};
use crate::forwarding::{self, Told};
use crate::handshake::{Relayed, while_waited_for};
use crate::onward::Onward;
use crate::refusal::Refusal;
use crate::tls;

/// How much longer than its deadline an answer is waited for: it is the bridge that counts.
const GRACE: Duration = Duration::from_millis(500);
/// How the names of fields begin that tell of the way to a server.
const WAY: &str = "x-forwarded-";
/// Fields of a no that the client is given.
const RELAYED: [&str; 3] = ["WWW-Authenticate", "Location", "Content-Type"];

/// Whom to ask, in compiled form.
#[derive(Debug)]
pub struct Asked {
    /// None: nothing that can be asked, which the tables' building refuses.
    url: Option<Url>,
    config: ForwardAuth,
}

impl Asked {
    pub(super) fn of(config: &ForwardAuth) -> Self {
        Self { url: config.url.parse().ok(), config: config.clone() }
    }

    /// Asks, and lets the answer change what travels onwards.
    pub(super) async fn ask(&self, client: &Client<'_>, onward: &mut Onward) -> Result<(), Fault> {
        let answer = match self.call(client, onward) {
            Some(call) => {
                let asking = pin!(client.shard.shared.forward_auth.ask(call));
                let patience = Duration::from(self.config.timeout) + GRACE;
                let heard = while_waited_for(&client.downstream.stream, patience, asking).await.map_err(Fault::Gone)?;
                heard.unwrap_or(Err(CallError::Late))
            }
            None => Err(CallError::Away),
        };
        let granted = match answer {
            Ok(answer) if answer.is_yes() => granted(&answer, &self.config.response_headers),
            Ok(answer) => return Err(relayed(client, &answer)),
            Err(error) => Err(error.to_string()),
        };
        // What the service vouches for is its to say, whoever lets the client in.
        for name in &self.config.response_headers {
            onward.withhold(name);
            onward.unset(name);
        }
        match granted {
            Ok(headers) => headers.into_iter().for_each(|(name, value)| onward.set(name, value)),
            Err(why) if self.config.fail_open => {
                tracing::debug!(why, "a client is let in though nobody can be asked");
            }
            Err(why) => return Err(Fault::Unavailable(why)),
        }
        Ok(())
    }

    fn call(&self, client: &Client<'_>, onward: &Onward) -> Option<Call> {
        let url = self.url.clone()?;
        let tls = match url.scheme() {
            "https" => client.tables.terms().caller(&self.config.authorities)?,
            _ => tls::nobody_trusted(),
        };
        Some(Call { tls: tls.clone(), url, headers: self.told(client, onward), timeout: self.config.timeout.into() })
    }

    fn told(&self, client: &Client<'_>, onward: &Onward) -> HeaderMap {
        let view = client.request.view();
        let way = Told::of(client.tables, client.request, client.downstream);
        let withheld = forwarding::withheld(client.downstream, onward);
        let is = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
        let is_ours = |name: &str| {
            withheld.iter().any(|other| is(name, other))
                || way.fields().any(|(other, _)| is(name, other))
                // What it is told of the way is told by us.
                || name.get(..WAY.len()).is_some_and(|start| is(start, WAY))
                // An answer in another form could not be relayed.
                || is(name, "accept-encoding")
        };
        let wanted = &self.config.request_headers;
        let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|one| is(one, name));
        let mut headers = HeaderMap::new();
        let of_client = end_to_end(view, is_ours).chain(onward.headers().map(|(name, value)| (name, value.as_bytes())));
        of_client.filter(|(name, _)| is_wanted(name)).for_each(|(name, value)| append(&mut headers, name, value));
        way.fields().for_each(|(name, value)| append(&mut headers, name, value.as_bytes()));
        append(&mut headers, "X-Forwarded-Method", b"GET");
        let mut uri = view.path().to_owned();
        if let Some(query) = onward.query(view.query()) {
            uri.push('?');
            uri.push_str(query);
        }
        append(&mut headers, "X-Forwarded-Uri", uri.as_bytes());
        headers
    }
}

/// A head that was found sound has nothing that cannot be written; were there anything, it is left out.
fn append(headers: &mut HeaderMap, name: &str, value: &[u8]) {
    let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) else {
        return;
    };
    // Whatever prints headers prints none of these.
    value.set_sensitive(true);
    headers.append(name, value);
}

/// The headers of a yes that travel; or why it is none.
fn granted<'n>(answer: &Answer, wanted: &'n [String]) -> Result<Vec<(&'n str, String)>, String> {
    let mut headers = Vec::with_capacity(wanted.len());
    for name in wanted {
        let values = answer.headers.get_all(name.as_str()).iter().map(|value| std::str::from_utf8(value.as_bytes()));
        let Ok(values) = values.collect::<Result<Vec<_>, _>>() else {
            return Err(format!("the service's header {name} is no text"));
        };
        let value = values.join(", ");
        if value.chars().any(|character| character.is_control() && character != '\t') {
            return Err(format!("the service's header {name} cannot be passed on"));
        }
        if !value.is_empty() {
            headers.push((name.as_str(), value));
        }
    }
    Ok(headers)
}

/// A no, in the service's words.
fn relayed(client: &Client<'_>, answer: &Answer) -> Fault {
    let mut fields: Vec<(&str, &[u8])> = Vec::new();
    for name in RELAYED {
        fields.extend(answer.headers.get_all(name).iter().map(|value| (name, value.as_bytes())));
    }
    let id_header = &client.tables.settings().request_id_header;
    fields.push((id_header, client.downstream.seen.request_id.as_bytes()));
    let mut bytes = Vec::with_capacity(256 + answer.body.len());
    match write_dictated(&mut bytes, answer.status, &fields, &answer.body) {
        Ok(()) => Fault::Said(Box::new(Relayed { refusal: Refusal::Policy, status: answer.status, bytes })),
        // What it says cannot be said; that it says no can.
        Err(_) => Fault::No("what the service said cannot be relayed"),
    }
}
