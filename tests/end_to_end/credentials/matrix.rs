//! Every form of credentials under every condition: the status, the sentence, the challenge, and what the log says of it.
//!
//! What has no meaning says so in words: a combination that is missing is a combination that was forgotten.

use serde_json::Value;

use super::{Carrier, Keys, name_and_password, token};
use crate::kit::peer::Refused;
use crate::kit::people::timestamp;
use crate::kit::tokens::{Algorithm, Signer, key_set, now_s, tampered};
use crate::kit::{
    EchoBackend, Gateway, Peer, People, Port, Setup, Upgrade, Variant, aloud, on_both_drivers, pki, tls, until,
};

on_both_drivers!(every_credential_under_every_condition);

/// What is right or wrong about a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Valid,
    Absent,
    Malformed,
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
    WrongKeyType,
    NotSubscribed,
}

use Condition as C;

const CONDITIONS: [Condition; 20] = [
    C::Valid,
    C::Absent,
    C::Malformed,
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
    C::WrongKeyType,
    C::NotSubscribed,
];

/// What a credential is, however it is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Token,
    Key,
    Password,
    Certificate,
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
    authority: Option<pki::Authority>,
}

const OTHER_ISSUER: &str = "https://other.test";
/// Its `jti` stands among what is revoked.
const REVOKED_ID: &str = "taken-back";
const KEY: &str = "fgk_5LmW4dWbcTzq2vHh8nY1";

impl World {
    fn new(setup: &Setup) -> Self {
        Self {
            keys: Keys::new(),
            other: Signer::new(Algorithm::EdDsa, "other"),
            unpublished: Signer::new(Algorithm::EdDsa, "unpublished"),
            authority: pki::is_available().then(|| pki::Authority::root(setup.directory(), "clients")),
        }
    }

    fn people(&self) -> People {
        let forms: Vec<&str> = Carrier::ALL.iter().map(|carrier| carrier.form()).collect();
        let mut apis = forms.clone();
        apis.dedup();
        let key = |suffix: &str| format!("{KEY}-{suffix}");
        let subject = |name: &str| format!("certificates: [\"CN={name},O=Framegate\"], application: subscribed");
        let people = self
            .keys
            .people()
            .issuer("other", OTHER_ISSUER, &key_set(&[&self.other]), "")
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
            Kind::Key => key(condition),
            Kind::Password => password(condition),
            Kind::Certificate => self.certificate(condition),
        }
    }

    fn token(&self, condition: Condition) -> Presented {
        let ed = &self.keys.ed;
        let good = token("subscribed").claim("sub", "somebody").claim("scope", "read write");
        Text(match condition {
            C::Valid | C::WrongScope => good.sign(ed),
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
            C::WrongKeyType => good.claim("keytype", "SANDBOX").sign(ed),
            C::NotSubscribed => token("stranger").sign(ed),
        })
    }

    fn certificate(&self, condition: Condition) -> Presented {
        let name = match condition {
            C::Valid | C::WrongScope => "good",
            C::Unknown => "unheard-of",
            C::Disabled => "disabled",
            C::ApplicationDisabled => "of-off",
            C::Revoked => "revoked",
            C::WrongKeyType => "sandbox",
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
        C::Valid | C::WrongScope => "good",
        C::Expired => "expired",
        C::Disabled => "disabled",
        C::ApplicationDisabled => "of-off",
        C::Revoked => "revoked",
        C::WrongKeyType => "sandbox",
        C::NotSubscribed => "stranger",
        C::Unknown => "nobodys",
        C::Absent => return Nothing,
        C::Malformed => return Meaningless("a key has no form: what is not known is unknown"),
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
        C::Valid | C::WrongScope => name_and_password("good"),
        C::Malformed => "a name without a colon".into(),
        C::WrongSignature => "good:not the password".into(),
        C::Unknown => name_and_password("unheard-of"),
        C::Disabled => name_and_password("disabled"),
        C::ApplicationDisabled => name_and_password("of-off"),
        C::Revoked => name_and_password("revoked"),
        C::WrongKeyType => name_and_password("sandbox"),
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
        C::Valid => None,
        C::Absent => Some(Verdict { status: 401, sentence: NOTHING_FOUND, reason: "no_credentials", detail: "absent" }),
        C::Malformed => invalid("malformed"),
        C::Expired => invalid("expired"),
        C::NotYetValid => invalid("not_yet_valid"),
        C::WrongAudience => invalid("audience"),
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
        C::WrongKeyType => Some(Verdict {
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

/// The kinds of credentials that a carrier can bring.
fn kinds(carrier: Carrier) -> &'static [Kind] {
    match carrier {
        Carrier::Bearer
        | Carrier::QueryToken
        | Carrier::Subprotocol
        | Carrier::SubprotocolOfKubernetes
        | Carrier::Cookie => &[Kind::Token],
        Carrier::KeyHeader | Carrier::KeyQuery => &[Kind::Key],
        Carrier::PersonalHeader | Carrier::PersonalCookie => &[Kind::Token, Kind::Key],
        Carrier::Basic => &[Kind::Password],
        Carrier::Certificate => &[Kind::Certificate],
    }
}

fn every_credential_under_every_condition(variant: Variant) {
    let secure = Port::free();
    let backend = EchoBackend::start();
    let mut setup = Setup::new(variant);
    let world = World::new(&setup);
    let mut forms: Vec<_> = Carrier::ALL.map(Carrier::form).to_vec();
    forms.dedup();
    for form in forms {
        let authentication = format!("authentication: {{ accept: [{form}], issuers: [test] }}");
        let topics = "topics: [{ topic: /admin, scopes: [admin, root] }, { topic: /* }]";
        setup = setup.api_to(form, &backend.url("/"), &format!("{authentication}, {topics}"));
    }
    if let Some(authority) = &world.authority {
        setup = setup.certificate(&pki::shared().edge.entry("shown")).authorities(&authority.entry("clients"));
        let clients = "client_certificates: { mode: optional, authorities: clients }";
        let bind = secure.address();
        setup = setup
            .another_listener(&format!("name: secure, bind: \"{bind}\", tls: {{ certificates: [shown], {clients} }}"));
    }
    let people = world.people();
    let gateway = setup.people(people).start();
    let mut told = Vec::new();
    for carrier in Carrier::ALL {
        for kind in kinds(carrier) {
            for condition in CONDITIONS {
                let case = format!("{carrier:?}-{kind:?}-{condition:?}");
                match world.present(*kind, condition) {
                    Meaningless(why) => aloud(&format!("{case}: {why}")),
                    presented => {
                        let verdict = verdict(*kind, condition);
                        tell(&gateway, &secure, carrier, condition, presented, verdict, &case);
                        told.push((case, carrier, verdict));
                    }
                }
            }
        }
    }
    assert!(told.len() > 120, "{} cases", told.len());
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
    let target = format!("/{}/{topic}", carrier.form());
    let (mut client, request) = match presented {
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
            assert_eq!(answer.body.trim_end(), verdict.sentence, "{case}");
            assert_eq!(challenges(&answer), expected_challenges(carrier, verdict), "{case}: {}", answer.head);
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
fn expected_challenges(carrier: Carrier, verdict: Verdict) -> Vec<String> {
    let realm = carrier.form();
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
