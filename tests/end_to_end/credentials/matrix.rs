//! Every form of credentials under every condition: the status, the sentence, the challenge, and what the log says of it.
//!
//! Each carrier × each kind × each condition is a cell, and each cell is told or says in words why it cannot be: how many
//! are which is exact, so that a combination that is missing is one that was forgotten.

use serde_json::{Value, json};

use super::{AUDIENCE, Carrier, Keys, name_and_password, token};
use crate::kit::peer::Refused;
use crate::kit::people::{sha256, timestamp};
use crate::kit::tokens::{Algorithm, Signer, key_set, now_s, tampered};
use crate::kit::{
    EchoBackend, Gateway, IssuerServer, Peer, People, Port, Setup, Upgrade, Variant, aloud, on_both_drivers, pki, tls,
    until,
};

on_both_drivers!(every_credential_under_every_condition);

/// What is right or wrong about a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Valid,
    ValidInSandbox,
    Absent,
    Malformed,
    Twice,
    Expired,
    NotYetValid,
    WrongAudience,
    WrongIssuer,
    IssuerNotAccepted,
    WrongSignature,
    AlgorithmNone,
    PublicKeyAsSecret,
    AlgorithmOfAnotherKey,
    UnknownKeyId,
    Unknown,
    Disabled,
    ApplicationDisabled,
    Revoked,
    WrongScope,
    SandboxOnProduction,
    ProductionOnSandbox,
    NotSubscribed,
}

impl Condition {
    /// Whether the API that is asked for has a sandbox endpoint and no other; else it has only one for production.
    fn wants_sandbox(self) -> bool {
        matches!(self, Self::ValidInSandbox | Self::ProductionOnSandbox)
    }
}

use Condition as C;

const CONDITIONS: [Condition; 23] = [
    C::Valid,
    C::ValidInSandbox,
    C::Absent,
    C::Malformed,
    C::Twice,
    C::Expired,
    C::NotYetValid,
    C::WrongAudience,
    C::WrongIssuer,
    C::IssuerNotAccepted,
    C::WrongSignature,
    C::AlgorithmNone,
    C::PublicKeyAsSecret,
    C::AlgorithmOfAnotherKey,
    C::UnknownKeyId,
    C::Unknown,
    C::Disabled,
    C::ApplicationDisabled,
    C::Revoked,
    C::WrongScope,
    C::SandboxOnProduction,
    C::ProductionOnSandbox,
    C::NotSubscribed,
];

/// What a credential is, however it is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One that is signed.
    Token,
    /// A token that only its issuer can read.
    Opaque,
    Key,
    Password,
    Certificate,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Token, Self::Opaque, Self::Key, Self::Password, Self::Certificate];
}

/// What is presented, or why there is nothing of the sort.
enum Presented {
    /// A text, in its carrier.
    Text(String),
    /// A certificate, if one is shown.
    Certificate(Option<pki::Identity>),
    /// No credential.
    Nothing,
    Meaningless(&'static str),
}

use Presented::{Meaningless, Nothing, Text};

/// Everything that a credential of the matrix can be made of.
struct World {
    keys: Keys,
    /// An issuer that is known, and not accepted here.
    other: Signer,
    /// A key of the issuer that it has not published.
    unpublished: Signer,
    /// Whoever can read opaque tokens; and somebody who can, and is not accepted here.
    reader: IssuerServer,
    other_reader: IssuerServer,
    authority: Option<pki::Authority>,
}

const OTHER_ISSUER: &str = "https://other.test";
const OPAQUE_ISSUER: &str = "https://opaque.test";
const OTHER_OPAQUE_ISSUER: &str = "https://other-opaque.test";
/// Its `jti` stands among what is revoked.
const REVOKED_ID: &str = "taken-back";
const KEY: &str = "fgk_5LmW4dWbcTzq2vHh8nY1";

impl World {
    fn new(setup: &Setup) -> Self {
        Self {
            keys: Keys::new(),
            other: Signer::new(Algorithm::EdDsa, "other"),
            unpublished: Signer::new(Algorithm::EdDsa, "unpublished"),
            reader: IssuerServer::start(),
            other_reader: IssuerServer::start(),
            authority: pki::is_available().then(|| pki::Authority::root(setup.directory(), "clients")),
        }
    }

    fn people(&self) -> People {
        let apis: Vec<String> = forms().into_iter().flat_map(|form| [form.into(), in_sandbox(form)]).collect();
        let apis: Vec<&str> = apis.iter().map(String::as_str).collect();
        let key = |suffix: &str| format!("{KEY}-{suffix}");
        let subject = |name: &str| format!("certificates: [\"CN={name},O=Framegate\"], application: subscribed");
        let people = self
            .keys
            .people()
            .issuer("other", OTHER_ISSUER, &key_set(&[&self.other]), "")
            .entry("issuers", opaque("opaque", OPAQUE_ISSUER, &self.reader))
            .entry("issuers", opaque("other-opaque", OTHER_OPAQUE_ISSUER, &self.other_reader))
            .application("subscribed", "")
            .application("stranger", "")
            .application("off", "enabled: false")
            .subscriptions("subscribed", &apis)
            .subscriptions("off", &apis)
            .key("good", "subscribed", &key("good"), "")
            .key("expired", "subscribed", &key("expired"), &format!("expires: \"{}\"", timestamp(now_s() - 1)))
            .key("disabled", "subscribed", &key("disabled"), "enabled: false")
            .key("of-off", "off", &key("of-off"), "")
            .key("revoked", "subscribed", &key("revoked"), "")
            .key("sandbox", "subscribed", &key("sandbox"), "environment: sandbox")
            .key("stranger", "stranger", &key("stranger"), "")
            .revoked(&format!("token:test/{REVOKED_ID}"), "")
            .revoked(&format!("opaque:{}", sha256(&opaque_token(C::Revoked))), "")
            .revoked("key:revoked", "")
            .revoked("user:revoked", "");
        let of_user = |people: People, name: &str, members: &str| {
            people.user(name, &[&subject(name), members].join(if members.is_empty() { "" } else { ", " }))
        };
        let people = of_user(people, "good", "");
        let people = of_user(people, "disabled", "enabled: false");
        let people = of_user(people, "revoked", "");
        let people = of_user(people, "sandbox", "environment: sandbox");
        let stranger = |application: &str, name: &str| {
            format!("certificates: [\"CN={name},O=Framegate\"], application: {application}")
        };
        people.user("stranger", &stranger("stranger", "stranger")).user("of-off", &stranger("off", "of-off"))
    }

    fn present(&self, kind: Kind, condition: Condition) -> Presented {
        match kind {
            _ if condition == C::Absent => match kind {
                Kind::Certificate => Presented::Certificate(None),
                _ => Nothing,
            },
            Kind::Token => self.token(condition),
            Kind::Opaque => self.opaque(condition),
            Kind::Key => key(condition),
            Kind::Password => password(condition),
            Kind::Certificate => self.certificate(condition),
        }
    }

    fn token(&self, condition: Condition) -> Presented {
        let ed = &self.keys.ed;
        let good = token("subscribed").claim("sub", "somebody").claim("scope", "read write");
        Text(match condition {
            C::Valid | C::WrongScope | C::Twice | C::ProductionOnSandbox => good.sign(ed),
            C::ValidInSandbox | C::SandboxOnProduction => good.claim("keytype", "SANDBOX").sign(ed),
            C::Absent => return Nothing,
            C::Malformed => "not.a-token.at-all".into(),
            C::Expired => good.claim("exp", now_s() - 1).sign(ed),
            C::NotYetValid => good.claim("nbf", now_s() + 600).sign(ed),
            C::WrongAudience => good.claim("aud", "somebody-else").sign(ed),
            C::WrongIssuer => good.claim("iss", "https://unheard-of.test").sign(ed),
            C::IssuerNotAccepted => good.claim("iss", OTHER_ISSUER).sign(&self.other),
            C::WrongSignature => tampered(&good.sign(ed)),
            C::AlgorithmNone => good.unsigned("ed"),
            C::PublicKeyAsSecret => good.sign_with_public_key(&self.keys.rs),
            C::AlgorithmOfAnotherKey => good.header("alg", "ES256").sign(ed),
            C::UnknownKeyId => good.sign(&self.unpublished),
            C::Unknown => return Meaningless("a token that nobody has signed is one with a wrong signature"),
            C::Disabled => good.claim("sub", "disabled").sign(ed),
            C::ApplicationDisabled => token("off").sign(ed),
            C::Revoked => good.claim("jti", REVOKED_ID).sign(ed),
            C::NotSubscribed => token("stranger").sign(ed),
        })
    }

    /// What the issuer says of the token differs; what is presented is always a name that means nothing.
    fn opaque(&self, condition: Condition) -> Presented {
        let (reader, token) = (&self.reader, opaque_token(condition));
        let says = |name: &str, value: Value| {
            let mut answer = json!({
                "client_id": "subscribed-client", "sub": "somebody", "scope": "read write", "aud": AUDIENCE,
                "exp": now_s() + 3600,
            });
            answer[name] = value;
            reader.set_active(&token, answer);
        };
        match condition {
            C::Valid | C::WrongScope | C::Twice | C::Revoked => says("iat", (now_s() - 60).into()),
            C::ProductionOnSandbox => says("keytype", "PRODUCTION".into()),
            C::ValidInSandbox | C::SandboxOnProduction => says("keytype", "SANDBOX".into()),
            C::Absent => return Nothing,
            // Nothing where it should stand: every other text might be one.
            C::Malformed => return Text(String::new()),
            C::Expired => says("exp", (now_s() - 1).into()),
            C::NotYetValid => says("nbf", (now_s() + 600).into()),
            C::WrongAudience => says("aud", "somebody-else".into()),
            C::WrongIssuer => says("iss", "https://unheard-of.test".into()),
            C::IssuerNotAccepted => {
                let answer = json!({ "client_id": "subscribed-client", "aud": AUDIENCE, "exp": now_s() + 3600 });
                self.other_reader.set_active(&token, answer);
            }
            C::WrongSignature | C::AlgorithmNone | C::PublicKeyAsSecret | C::AlgorithmOfAnotherKey => {
                return Meaningless("an opaque token is not signed");
            }
            C::UnknownKeyId => return Meaningless("an opaque token names no key"),
            C::Unknown => reader.set_inactive(&token),
            C::Disabled => says("sub", "disabled".into()),
            C::ApplicationDisabled => says("client_id", "off-client".into()),
            C::NotSubscribed => says("client_id", "stranger-client".into()),
        }
        Text(token)
    }

    fn certificate(&self, condition: Condition) -> Presented {
        let name = match condition {
            C::Valid | C::WrongScope | C::ProductionOnSandbox => "good",
            C::ValidInSandbox | C::SandboxOnProduction => "sandbox",
            C::Unknown => "unheard-of",
            C::Disabled => "disabled",
            C::ApplicationDisabled => "of-off",
            C::Revoked => "revoked",
            C::NotSubscribed => "stranger",
            C::Absent => return Presented::Certificate(None),
            C::Malformed
            | C::Expired
            | C::NotYetValid
            | C::WrongIssuer
            | C::IssuerNotAccepted
            | C::WrongSignature
            | C::AlgorithmNone
            | C::PublicKeyAsSecret
            | C::AlgorithmOfAnotherKey
            | C::UnknownKeyId => return Meaningless("there is no TLS session then: tls/clients has the cases"),
            C::Twice => return Meaningless("a connection has one certificate"),
            C::WrongAudience => return Meaningless("a certificate says nothing of whom it is for"),
        };
        let issue = |authority: &pki::Authority| authority.issue(&pki::Leaf::new(name));
        match &self.authority {
            Some(authority) => Presented::Certificate(Some(issue(authority))),
            None => Meaningless("there is no openssl here"),
        }
    }
}

fn key(condition: Condition) -> Presented {
    let suffix = match condition {
        C::Valid | C::WrongScope | C::Twice | C::ProductionOnSandbox => "good",
        C::ValidInSandbox | C::SandboxOnProduction => "sandbox",
        C::Expired => "expired",
        C::Disabled => "disabled",
        C::ApplicationDisabled => "of-off",
        C::Revoked => "revoked",
        C::NotSubscribed => "stranger",
        C::Unknown => "nobodys",
        C::Absent => return Nothing,
        // It has no form, but that it is one word.
        C::Malformed => return Text("two words".into()),
        C::NotYetValid => return Meaningless("a key is good when it is made"),
        C::WrongAudience | C::WrongIssuer | C::IssuerNotAccepted => {
            return Meaningless("a key says nothing: it is for the gateway that has its hash");
        }
        C::WrongSignature | C::AlgorithmNone | C::PublicKeyAsSecret | C::AlgorithmOfAnotherKey | C::UnknownKeyId => {
            return Meaningless("a key is not signed");
        }
    };
    Text(format!("{KEY}-{suffix}"))
}

fn password(condition: Condition) -> Presented {
    Text(match condition {
        C::Valid | C::WrongScope | C::Twice | C::ProductionOnSandbox => name_and_password("good"),
        C::ValidInSandbox | C::SandboxOnProduction => name_and_password("sandbox"),
        C::Malformed => "a name without a colon".into(),
        C::WrongSignature => "good:not the password".into(),
        C::Unknown => name_and_password("unheard-of"),
        C::Disabled => name_and_password("disabled"),
        C::ApplicationDisabled => name_and_password("of-off"),
        C::Revoked => name_and_password("revoked"),
        C::NotSubscribed => name_and_password("stranger"),
        C::Absent => return Nothing,
        C::Expired | C::NotYetValid => return Meaningless("a password has no dates"),
        C::WrongAudience | C::WrongIssuer | C::IssuerNotAccepted => {
            return Meaningless("a password is for the gateway that has its hash");
        }
        C::AlgorithmNone | C::PublicKeyAsSecret | C::AlgorithmOfAnotherKey | C::UnknownKeyId => {
            return Meaningless("a password is not signed");
        }
    })
}

/// What the client and the log are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    status: u16,
    sentence: &'static str,
    reason: &'static str,
    detail: &'static str,
}

const NOTHING_FOUND: &str = "No authorization header, access_token or apikey was found.";
const INVALID: &str = "Invalid credentials.";

const fn invalid(detail: &'static str) -> Option<Verdict> {
    Some(Verdict { status: 401, sentence: INVALID, reason: "bad_credentials", detail })
}

/// `None`: it is let in.
const fn verdict(kind: Kind, condition: Condition) -> Option<Verdict> {
    match condition {
        C::Valid | C::ValidInSandbox => None,
        C::Absent => Some(Verdict { status: 401, sentence: NOTHING_FOUND, reason: "no_credentials", detail: "absent" }),
        C::Malformed | C::Twice => invalid("malformed"),
        C::Expired => invalid("expired"),
        C::NotYetValid => invalid("not_yet_valid"),
        C::WrongAudience => invalid("audience"),
        // Who is not accepted is not asked, and nobody else knows it.
        C::IssuerNotAccepted if matches!(kind, Kind::Opaque) => invalid("unknown"),
        C::WrongIssuer | C::IssuerNotAccepted => invalid("issuer"),
        C::WrongSignature if matches!(kind, Kind::Password) => invalid("password"),
        C::WrongSignature => invalid("signature"),
        C::AlgorithmNone | C::PublicKeyAsSecret | C::AlgorithmOfAnotherKey => invalid("algorithm"),
        C::UnknownKeyId => invalid("unknown_key_id"),
        C::Unknown => invalid("unknown"),
        C::Disabled | C::ApplicationDisabled => invalid("disabled"),
        C::Revoked => invalid("revoked"),
        C::WrongScope => Some(Verdict {
            status: 403,
            sentence: "The credentials do not allow this topic.",
            reason: "scope",
            detail: "scope",
        }),
        C::SandboxOnProduction | C::ProductionOnSandbox => Some(Verdict {
            status: 401,
            sentence: "Invalid credentials: the API has no endpoint for their key type.",
            reason: "key_type",
            detail: "key_type",
        }),
        C::NotSubscribed => Some(Verdict {
            status: 403,
            sentence: "The application has not subscribed to this API.",
            reason: "not_subscribed",
            detail: "not_subscribed",
        }),
    }
}

/// Why there is no such kind of credential in this carrier; none: there is.
fn why_not(carrier: Carrier, kind: Kind) -> Option<&'static str> {
    use Carrier as R;
    match (carrier, kind) {
        (R::Basic, Kind::Password) | (R::Certificate, Kind::Certificate) => None,
        (R::KeyHeader | R::KeyQuery | R::PersonalHeader | R::PersonalCookie, Kind::Key) => None,
        (R::PersonalHeader | R::PersonalCookie, Kind::Token) => None,
        (
            R::Bearer | R::QueryToken | R::Subprotocol | R::SubprotocolOfKubernetes | R::Cookie,
            Kind::Token | Kind::Opaque,
        ) => None,
        (R::Certificate, _) => Some("a handshake of TLS has no room for it"),
        (_, Kind::Certificate) => Some("a certificate is shown in the handshake of TLS and in no request"),
        (R::Basic, _) => Some("Basic is a name and a password"),
        (_, Kind::Password) => Some("a password goes with a name, which only Basic has"),
        (R::PersonalHeader | R::PersonalCookie, Kind::Opaque) => Some("what is no JWT there is taken for a key"),
        (R::KeyHeader | R::KeyQuery, _) => Some("whatever stands there is taken for a key"),
        (_, Kind::Key) => Some("whatever stands there is taken for a token"),
    }
}

/// What is said of a credential that is good, in a carrier that has no such kind; `None`: it cannot even be written there.
fn out_of_place(carrier: Carrier, kind: Kind) -> Option<Verdict> {
    match (carrier, kind) {
        (Carrier::Certificate, _) | (_, Kind::Password | Kind::Certificate) => None,
        (Carrier::Basic, _) => invalid("malformed"),
        _ => invalid("unknown"),
    }
}

/// The APIs: one for each form, which accepts nothing else.
fn forms() -> Vec<&'static str> {
    let mut forms: Vec<_> = Carrier::ALL.map(Carrier::form).to_vec();
    forms.dedup();
    forms
}

/// Its brother, which has a sandbox endpoint only.
fn in_sandbox(form: &str) -> String {
    format!("{form}-sandbox")
}

/// An issuer that is asked about its tokens.
fn opaque(name: &str, issuer: &str, reader: &IssuerServer) -> String {
    let introspection = format!("introspection: {{ url: \"{}\" }}", reader.introspection_url());
    format!("name: {name}, issuer: \"{issuer}\", audiences: [{AUDIENCE}], {introspection}")
}

fn opaque_token(condition: Condition) -> String {
    format!("2YotnFZFEjr1zCsicMWpAA-{condition:?}")
}

/// A gateway with an API for each form, and a brother of each for the sandbox.
fn started(variant: Variant, secure: &Port, backend: &EchoBackend) -> (Gateway, World) {
    let mut setup = Setup::new(variant);
    let world = World::new(&setup);
    for form in forms() {
        let authentication = format!("authentication: {{ accept: [{form}], issuers: [test, opaque] }}");
        let topics = "topics: [{ topic: /admin, scopes: [admin, root] }, { topic: /* }]";
        let (url, sandbox) = (backend.url("/"), in_sandbox(form));
        setup = setup.api_to(form, &url, &format!("{authentication}, {topics}")).api(&format!(
            "name: {sandbox}, context: /{sandbox}, endpoints: {{ sandbox: {{ url: \"{url}\" }} }}, {authentication}"
        ));
    }
    if let Some(authority) = &world.authority {
        setup = setup.certificate(&pki::shared().edge.entry("shown")).authorities(&authority.entry("clients"));
        let clients = "client_certificates: { mode: optional, authorities: clients }";
        let bind = secure.address();
        setup = setup
            .another_listener(&format!("name: secure, bind: \"{bind}\", tls: {{ certificates: [shown], {clients} }}"));
    }
    let people = world.people();
    (setup.people(people).start(), world)
}

/// Cells that are told, those that are refused for being in the wrong place among them; and cells that say why they
/// cannot be.
const TOLD: usize = 339;
const REASONED: usize = 926;
/// Told of client certificates, which need openssl.
const TOLD_OF_CERTIFICATES: usize = 11;

fn every_credential_under_every_condition(variant: Variant) {
    let (secure, backend) = (Port::free(), EchoBackend::start());
    let (gateway, world) = started(variant, &secure, &backend);
    let (mut told, mut reasoned) = (Vec::new(), 0);
    for (carrier, kind) in Carrier::ALL.into_iter().flat_map(|carrier| Kind::ALL.map(|kind| (carrier, kind))) {
        if let Some(why) = why_not(carrier, kind) {
            aloud(&format!("{carrier:?}-{kind:?}: {why}"));
        }
        for condition in CONDITIONS {
            let case = format!("{carrier:?}-{kind:?}-{condition:?}");
            let verdict = match why_not(carrier, kind) {
                None => verdict(kind, condition),
                Some(_) if condition == C::Valid && out_of_place(carrier, kind).is_some() => {
                    out_of_place(carrier, kind)
                }
                Some(_) => {
                    reasoned += 1;
                    continue;
                }
            };
            match world.present(kind, condition) {
                Meaningless(why) => {
                    aloud(&format!("{case}: {why}"));
                    reasoned += 1;
                }
                presented => {
                    tell(&gateway, &secure, carrier, condition, presented, verdict, &case);
                    told.push((case, carrier, verdict));
                }
            }
        }
    }
    assert_eq!(told.len() + reasoned, Carrier::ALL.len() * Kind::ALL.len() * CONDITIONS.len());
    let missing = if world.authority.is_some() { 0 } else { TOLD_OF_CERTIFICATES };
    assert_eq!((told.len(), reasoned), (TOLD - missing, REASONED + missing), "a combination has come or gone");
    expect_log(&gateway, &told);
}

/// Connects with what is presented, and checks what the client is told.
fn tell(
    gateway: &Gateway,
    secure: &Port,
    carrier: Carrier,
    condition: Condition,
    presented: Presented,
    verdict: Option<Verdict>,
    case: &str,
) {
    let topic = if condition == C::WrongScope { "admin" } else { "anything" };
    let api = if condition.wants_sandbox() { in_sandbox(carrier.form()) } else { carrier.form().into() };
    let target = format!("/{api}/{topic}");
    let (mut client, request) = match presented {
        Text(credential) if condition == C::Twice => (gateway.connect(), carrier.twice(&target, &credential)),
        Text(credential) => (gateway.connect(), carrier.request(&target, &credential)),
        Presented::Certificate(identity) => {
            let terms = tls::Terms::default();
            let terms = identity.iter().fold(terms, tls::Terms::identity);
            (terms.client().connect(secure.address()), carrier.request(&target, ""))
        }
        Nothing => (gateway.connect(), Upgrade::to(&target)),
        Meaningless(_) => unreachable!("such cases are not told"),
    };
    client.send(&request.with("X-Request-Id", case).encode());
    match verdict {
        None => accepted(&mut client, carrier, case),
        Some(verdict) => {
            let answer = client.refused();
            assert_eq!(answer.status, verdict.status, "{case}: {}{}", answer.head, answer.body);
            assert_eq!(answer.body, format!("{}\n", verdict.sentence), "{case}");
            assert_eq!(answer.head.headers("Content-Type"), ["text/plain; charset=utf-8"], "{case}: {}", answer.head);
            assert_eq!(challenges(&answer), expected_challenges(&api, carrier, verdict), "{case}: {}", answer.head);
        }
    }
}

#[track_caller]
fn accepted(client: &mut Peer, carrier: Carrier, case: &str) {
    let head = client.upgraded();
    // The echo agrees to no subprotocol, and what is a credential is not one.
    assert_eq!(head.header("Sec-WebSocket-Protocol"), None, "{case}, {carrier:?}: {head}");
}

fn challenges(answer: &Refused) -> Vec<String> {
    answer.head.headers("WWW-Authenticate").into_iter().map(ToOwned::to_owned).collect()
}

/// RFC 9110 §11.6.1 and RFC 6750 §3: what could be presented, and, where a token was, what is wrong with it.
fn expected_challenges(realm: &str, carrier: Carrier, verdict: Verdict) -> Vec<String> {
    let error = match (verdict.status, verdict.reason) {
        (401, "no_credentials") => "",
        (401, _) => ", error=\"invalid_token\"",
        (_, "scope") => ", error=\"insufficient_scope\", scope=\"admin root\"",
        _ => return Vec::new(),
    };
    match carrier {
        Carrier::Basic if verdict.status == 401 => vec![format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")],
        Carrier::Basic => Vec::new(),
        _ => vec![format!("Bearer realm=\"{realm}\"{error}")],
    }
}

/// The word before the sentence.
fn fault(detail: &Value) -> Value {
    detail.as_str().and_then(|detail| detail.split(": ").next()).map_or(Value::Null, Value::from)
}

fn expect_log(gateway: &Gateway, told: &[(String, Carrier, Option<Verdict>)]) {
    let mut lines: Vec<Value> = Vec::new();
    let is_told = |line: &Value, case: &str| line["request_id"] == case && line["event"] != "close";
    until("every case is in the log", || {
        lines = gateway.log_lines();
        told.iter().all(|(case, ..)| lines.iter().any(|line| is_told(line, case)))
    });
    for (case, carrier, verdict) in told {
        let line = lines.iter().find(|line| is_told(line, case)).expect("it was waited for");
        let expected = match verdict {
            None => ("open", 101, Value::Null, Value::Null, carrier.form().into()),
            Some(verdict) => ("refused", verdict.status, verdict.reason.into(), verdict.detail.into(), Value::Null),
        };
        let (event, status, reason, detail, credential) = expected;
        assert_eq!((&line["event"], &line["status"]), (&event.into(), &status.into()), "{case}: {line}");
        assert_eq!(line["reason"], reason, "{case}: {line}");
        assert_eq!(fault(&line["detail"]), detail, "{case}: {line}");
        if verdict.is_none() {
            assert_eq!(line["credential"], credential, "{case}: {line}");
        }
    }
}
