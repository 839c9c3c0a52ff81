//! The on-upgrade policy of an API: the operator's steps, in their order, between authentication and connecting.
//!
//! Decides from what the client sent and who it is; a step that asks somebody outside does so over the bridge. What a step
//! changes is written down in the route and in [`Onward`]; the request itself is written by connecting.
//!
//! Conditions and templates read the client's request as it came, templates without the credentials that authentication
//! took out of it; what a step removes or renames is the request as the steps before have left it.

mod assertion;
mod forward_auth;
mod plan;

pub use assertion::Signers;
pub use plan::Plan;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use proto::http::RequestView;
use proto::snapshot::{EndpointUrl, MadeTarget, Template, Variable};
use serde_json::Value;

use crate::handshake::{Downstream, Relayed, Request, Stop};
use crate::identity::Identity;
use crate::onward::Onward;
use crate::refusal::Refusal;
use crate::relay::wall_clock_ms;
use crate::route::{self, Route};
use crate::shard::Shard;
use crate::tables::{Tables, UpstreamEntry};
use crate::visitor::{self, Visitor, Who};

use plan::Rule;

/// Takes the steps, which may lead the route elsewhere and change what travels onwards; or says why not.
pub async fn on_upgrade(
    shard: &Rc<Shard>,
    tables: &Tables,
    route: &mut Route,
    request: &Request,
    identity: &Identity,
    onward: &mut Onward,
    downstream: &Downstream,
) -> Result<(), Stop> {
    if route.api.plan.is_none() && route.api.api.authentication.assertion.is_none() {
        return Ok(());
    }
    // Few APIs have steps, and so what they need is not part of every handshake's task.
    Box::pin(async move {
        let stripped = onward.withheld().map(Into::into).collect();
        let client = Client { shard, tables, request, identity, downstream, stripped };
        let mut journey = Journey { client, onward, led: None, is_allowed: false };
        if let Some(plan) = &route.api.plan {
            journey.take(plan).await?;
        }
        journey.lead(route);
        journey.assert_who(route)
    })
    .await
}

/// What is known of who asks.
struct Client<'a> {
    shard: &'a Shard,
    tables: &'a Tables,
    request: &'a Request,
    identity: &'a Identity,
    downstream: &'a Downstream,
    /// Names of headers that authentication took out of the request, in lower case.
    stripped: Box<[Box<str>]>,
}

/// One client's way through the steps.
struct Journey<'a> {
    client: Client<'a>,
    onward: &'a mut Onward,
    led: Option<Led>,
    is_allowed: bool,
}

/// Where a step leads instead; the last one counts.
struct Led {
    upstream: Arc<UpstreamEntry>,
    rest: String,
    query: Option<String>,
}

impl Journey<'_> {
    async fn take(&mut self, plan: &Plan) -> Result<(), Stop> {
        for (at, rule) in plan.rules.iter().enumerate() {
            let outcome = match rule {
                Rule::Ask(asked) => asked.ask(&self.client, self.onward).await,
                rule => self.step(rule),
            };
            let (why, stop) = match outcome {
                Ok(()) => continue,
                Err(Fault::No(why)) => (why.into(), Refusal::Policy.into()),
                Err(Fault::Unavailable(why)) => (why, Refusal::PolicyUnavailable.into()),
                Err(Fault::Said(relayed)) => (format!("the service said {}", relayed.status), Stop::Relayed(relayed)),
                Err(Fault::Gone(stop)) => return Err(stop),
            };
            let colon = if why.is_empty() { "" } else { ": " };
            self.client.downstream.seen.because(format!("step {}: {}{colon}{why}", at + 1, rule.word()));
            return Err(stop);
        }
        Ok(())
    }

    fn step(&mut self, rule: &Rule) -> Result<(), Fault> {
        match rule {
            Rule::Allow(who) => self.is_allowed |= self.client.is_one_of(who),
            Rule::Deny(who) if !self.is_allowed && self.client.is_one_of(who) => return Err(Fault::No("")),
            Rule::Deny(_) => {}
            Rule::Set { name, value } => {
                let value = self.client.fill(value).ok_or(UNSOUND)?;
                self.set(name, &value)?;
            }
            Rule::Remove(names) => {
                for name in names {
                    self.onward.withhold(name);
                    self.onward.unset(name);
                }
            }
            Rule::Rename { from, to } => self.rename(from, to)?,
            Rule::Lead(name) => self.led = Some(self.client.upstream(name)?),
            Rule::LeadBy { value, upstreams, otherwise } => {
                let value = self.client.fill(value).ok_or(UNSOUND)?;
                let name = upstreams.get(value.as_str()).or(otherwise.as_ref());
                self.led = Some(self.client.upstream(name.ok_or(Fault::No("no upstream is named for this value"))?)?);
            }
            Rule::LeadTo { url, allowed } => self.led = Some(self.client.target(url, allowed)?),
            // Is taken where it can be waited for.
            Rule::Ask(_) => {}
        }
        Ok(())
    }

    /// An empty value sets no header, and the client's does not travel either.
    fn set(&mut self, name: &str, value: &str) -> Result<(), Fault> {
        let value = value.trim_matches([' ', '\t']);
        if value.chars().any(|character| character.is_control() && character != '\t') {
            return Err(UNSOUND);
        }
        self.onward.withhold(name);
        self.onward.unset(name);
        if !value.is_empty() {
            self.onward.set(name, value.into());
        }
        Ok(())
    }

    /// What travels under the first name travels under the second, in place of what the client sent there.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), Fault> {
        let set = self.onward.headers().find(|(name, _)| name.eq_ignore_ascii_case(from));
        let value = match set {
            Some((_, value)) => value.to_owned(),
            None if self.onward.withheld().any(|name| name.eq_ignore_ascii_case(from)) => String::new(),
            None => self.client.joined(from).ok_or(UNSOUND)?,
        };
        self.onward.withhold(from);
        self.onward.unset(from);
        self.set(to, &value)
    }

    fn lead(&mut self, route: &mut Route) {
        let Some(led) = self.led.take() else { return };
        route.upstream = led.upstream;
        if !led.rest.is_empty() {
            let mapped = route.suffix.take().unwrap_or_default();
            let rest = if mapped.is_empty() { led.rest.as_str() } else { led.rest.trim_end_matches('/') };
            route.suffix = Some(format!("{rest}{mapped}"));
        }
        if let Some(query) = led.query.filter(|query| !query.is_empty()) {
            let query = match self.onward.query(self.client.request.view().query()).filter(|query| !query.is_empty()) {
                Some(of_client) => format!("{query}&{of_client}"),
                None => query,
            };
            self.onward.set_query(query);
        }
    }

    /// Tells the endpoint, signed, who the client is, where the API wants it; whatever the client sent under the header's
    /// name does not travel.
    fn assert_who(&mut self, route: &Route) -> Result<(), Stop> {
        let Some(name) = &route.api.api.authentication.assertion else { return Ok(()) };
        let shard = self.client.shard;
        let signed = self.client.tables.signers().signer(name).and_then(|signer| {
            let id = shard.keys.borrow_mut().next_octets();
            let assertion = signer.sign(&self.client, route, wall_clock_ms() / 1000, id)?;
            Some((signer.header(), assertion))
        });
        let (header, assertion) = signed.ok_or(Refusal::Internal)?;
        self.onward.set(header, assertion);
        Ok(())
    }
}

/// Why a step ends the handshake. The texts are for the log, and have nothing of the client's.
enum Fault {
    No(&'static str),
    Unavailable(String),
    /// A service that was asked says no, and this to the client.
    Said(Box<Relayed>),
    /// It ended while a service was being asked.
    Gone(Stop),
}

const UNSOUND: Fault = Fault::No("a value of the client cannot stand there");

impl Client<'_> {
    fn view(&self) -> RequestView<'_> {
        self.request.view()
    }

    /// What the client sent under this name, if it is still there.
    fn header<'n>(&self, name: &'n str) -> impl Iterator<Item = &[u8]> + use<'_, 'n> {
        let is_stripped = self.stripped.iter().any(|stripped| stripped.eq_ignore_ascii_case(name));
        self.view().header_values(name).filter(move |_| !is_stripped)
    }

    fn is_one_of(&self, who: &Who) -> bool {
        Visitor::new(self.request, self.identity, self.downstream).is_one_of(who)
    }

    fn fill(&self, template: &Template) -> Option<String> {
        template.fill(|variable| self.value(variable))
    }

    /// What a variable stands for: empty if it is not there, nothing if it cannot be told.
    fn value(&self, variable: &Variable) -> Option<Cow<'_, str>> {
        let grant = self.identity.grant.as_deref();
        Some(match variable {
            Variable::User => grant.and_then(|grant| grant.user.as_deref()).unwrap_or_default().into(),
            Variable::Application => grant.and_then(|grant| grant.application.as_deref()).unwrap_or_default().into(),
            Variable::ClientAddress => {
                let address = self.downstream.seen.client.map(|client| client.ip().to_canonical().to_string());
                address.unwrap_or_default().into()
            }
            Variable::Host => self.request.upgrade.host.name.as_str().into(),
            Variable::Header(name) => {
                let mut values = self.header(name);
                match (values.next(), values.next()) {
                    (None, _) => "".into(),
                    (Some(value), None) => std::str::from_utf8(value).ok()?.into(),
                    // Which of them is meant, the next server may see otherwise.
                    (Some(_), Some(_)) => return None,
                }
            }
            Variable::Claim(name) => {
                let claims = self.identity.claims.as_deref();
                claims.and_then(|claims| visitor::claim(&claims.0, name)).map(claim_text).unwrap_or_default().into()
            }
            Variable::Topic(name) => {
                let path = self.view().route_path();
                let parameter = route::parameter(self.tables, &self.request.wanted(self.downstream, &path), name);
                parameter.unwrap_or_default().into()
            }
        })
    }

    /// All fields of a name as one, RFC 9110 §5.3; empty if there are none, nothing if they are no text.
    fn joined(&self, name: &str) -> Option<String> {
        if self.view().fields().list("connection").any(|option| option.eq_ignore_ascii_case(name.as_bytes())) {
            // It is for this connection only.
            return Some(String::new());
        }
        let separator = if name.eq_ignore_ascii_case("cookie") { "; " } else { ", " };
        let values = self.view().header_values(name).map(std::str::from_utf8);
        Some(values.collect::<Result<Vec<_>, _>>().ok()?.join(separator))
    }

    fn upstream(&self, name: &str) -> Result<Led, Fault> {
        // A snapshot knows the names that it uses.
        let upstream = self.tables.upstream(name).ok_or(Fault::Unavailable("the upstream is not there".into()))?;
        Ok(Led { upstream: Arc::clone(upstream), rest: String::new(), query: None })
    }

    fn target(&self, template: &Template, allowed: &[EndpointUrl]) -> Result<Led, Fault> {
        let url = template.fill_url(|variable| self.value(variable)).ok_or(UNSOUND)?;
        let made = MadeTarget::read(&url, allowed).ok_or(Fault::No("what the template made is not allowed"))?;
        let upstream = self.tables.alone(made.allowed).ok_or(Fault::Unavailable("the endpoint is not there".into()))?;
        Ok(Led { upstream: Arc::clone(upstream), rest: made.rest, query: made.query })
    }
}

/// A claim in a header or URL: text, a number or a truth; of a list its entries, with commas between them.
fn claim_text(value: &Value) -> String {
    match value {
        Value::Array(entries) => entries.iter().filter_map(visitor::text_of).collect::<Vec<_>>().join(","),
        value => visitor::text_of(value).unwrap_or_default(),
    }
}
