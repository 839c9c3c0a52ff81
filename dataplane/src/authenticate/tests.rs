//! The room without a worker: requests as bytes, tables of a small configuration, tokens that are signed here.

mod credentials;
mod outside;
mod places;
mod tokens;

use std::cell::RefCell;
use std::net::IpAddr;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto::control::message::Generation;
use proto::http::{RequestHead, RequestView};
use proto::parse::Parse;
use proto::snapshot::{
    Api, ApiKey, Application, Authentication, Config, CredentialForm, Environment, Issuer, Jwks, Listener, OAuthClient,
    SecretHash, Snapshot, Subscription, Target, User,
};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use serde_json::{Value, json};

use super::cache::Verified;
use super::*;
use crate::record::Record;
use crate::route::{self, RouteRequest};

/// The time at which all of this happens: 2027-01-15T08:00:00Z.
pub(super) const NOW_S: u64 = 1_800_000_000;
pub(super) const ISSUER: &str = "https://issuer.example";

pub(super) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A pair of keys that signs tokens.
pub(super) enum Signer {
    Ed(Ed25519KeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Rsa(RsaKeyPair),
}

impl Signer {
    pub(super) fn ed() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    pub(super) fn ec(curve: &'static str) -> Self {
        let how = match curve {
            "P-256" => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            _ => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        };
        let key = EcdsaKeyPair::generate_pkcs8(how, &SystemRandom::new()).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(how, key.as_ref(), &SystemRandom::new()).unwrap(), curve)
    }

    /// Made with `openssl genpkey -algorithm RSA`, for these tests alone.
    pub(super) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::from_pkcs8(include_bytes!("tests/rsa.pk8")).unwrap())
    }

    pub(super) fn jwk(&self) -> Value {
        match self {
            Self::Ed(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(key.public_key())}),
            Self::Ec(key, curve) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
                json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
            Self::Rsa(key) => {
                let key = signature::RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "n": base64url(key.n), "e": base64url(key.e)})
            }
        }
    }

    pub(super) fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Ec(key, _) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rsa(key) => {
                let how: &'static dyn signature::RsaEncoding = match algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; key.public().modulus_len()];
                key.sign(how, &random, message, &mut signed).unwrap();
                signed
            }
        }
    }

    /// A token whose header is this, plus an algorithm.
    pub(super) fn token(&self, algorithm: &str, header: &Value, claims: &Value) -> String {
        let mut header = header.clone();
        header["alg"] = algorithm.into();
        let message = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        let signature = self.sign(algorithm, message.as_bytes());
        format!("{message}.{}", base64url(signature))
    }
}

/// A key with its id.
pub(super) fn named(signer: &Signer, id: &str) -> Value {
    let mut jwk = signer.jwk();
    jwk["kid"] = id.into();
    jwk
}

/// An issuer as an operator writes it.
pub(super) fn issuer(name: &str, iss: &str, keys: &[Value]) -> Issuer {
    let jwks = Jwks::new(json!({ "keys": keys }).to_string());
    serde_json::from_value(json!({"name": name, "issuer": iss, "jwks": jwks})).unwrap()
}

/// Claims of a token that is right.
pub(super) fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "exp": NOW_S + 600, "iat": NOW_S - 5, "client_id": "mobile-client"})
}

/// A configuration with one API that accepts what is said.
pub(super) struct World {
    pub(super) config: Config,
}

impl World {
    pub(super) fn new(accept: &[CredentialForm], issuers: Vec<Issuer>) -> Self {
        let mut api = Api::new("chat", "v1", "/chat", Target::Url("ws://backend/".parse().unwrap()));
        api.endpoints.sandbox = Some(Target::Url("ws://sandbox/".parse().unwrap()));
        api.authentication = Authentication { accept: accept.to_vec(), ..Authentication::default() };
        let client = OAuthClient {
            id: "mobile-client".into(),
            secret: None,
            issuer: String::new(),
            environment: Environment::Sandbox,
            grants: Vec::new(),
            scopes: Vec::new(),
        };
        let application = Application {
            name: "mobile".into(),
            owner: String::new(),
            enabled: true,
            clients: vec![client],
            ..Application::new("")
        };
        let subscription: Subscription =
            serde_json::from_value(json!({"application": "mobile", "api": "chat:v1"})).unwrap();
        let listeners = vec![Listener::new("public", "127.0.0.1:80".parse().unwrap())];
        let config = Config {
            version: 1,
            listeners,
            apis: vec![api],
            applications: vec![application],
            subscriptions: vec![subscription],
            issuers,
            ..Config::default()
        };
        Self { config }
    }

    pub(super) fn asked(&mut self) -> &mut Authentication {
        &mut self.config.apis[0].authentication
    }

    pub(super) fn scopes(&mut self, scopes: &[&str]) {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.config.apis[0].topics = vec![serde_json::from_value(json!({"topic": "/*", "scopes": scopes})).unwrap()];
    }

    pub(super) fn key(&mut self, key: &str, more: Value) {
        let mut value = json!({"name": "k", "application": "mobile", "sha256": SecretHash::of(key).to_string()});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.config.keys.push(serde_json::from_value::<ApiKey>(value).unwrap());
    }

    pub(super) fn user(&mut self, value: Value) {
        self.config.users.push(serde_json::from_value::<User>(value).unwrap());
    }

    pub(super) fn tables(&self, previous: Option<&Tables>) -> Tables {
        let snapshot = Snapshot::check(self.config.clone()).unwrap();
        let number = previous.map_or(1, |tables| tables.generation().number + 1);
        Tables::build(Generation { source: "test".into(), number }, &snapshot, previous).unwrap()
    }
}

/// Who asks, beside what the request says.
pub(super) struct Caller<'a> {
    pub(super) verified: &'a RefCell<Verified>,
    pub(super) credentials: Option<&'a Credentials>,
    pub(super) address: IpAddr,
    pub(super) certificate: Option<&'a ClientCertificate>,
    pub(super) now_s: u64,
}

pub(super) type Looked = (Option<CredentialForm>, Result<Identity, Fault>, Onward);

/// Runs the room, as its door does, over a request with these header lines.
pub(super) fn ask(tables: &Tables, caller: &Caller<'_>, target: &str, lines: &[&str], offer: &[&str]) -> Looked {
    let wanted =
        RouteRequest { listener: "public", host: "a", path: "/chat/v1/x", environment: Environment::Production };
    let place = route::find(tables, &wanted).unwrap();
    let nobody = Credentials::of_nobody();
    let credentials = caller.credentials.unwrap_or(&nobody);
    let room = Room {
        credentials,
        record: &Record::new(1, 1).shard(0),
        verified: caller.verified,
        tables,
        place: &place,
        client: Some(caller.address),
        certificate: caller.certificate,
        now_ms: caller.now_s * 1000,
    };
    let mut onward = Onward::default();
    let offer: Vec<String> = offer.iter().map(|name| (*name).to_owned()).collect();
    let (form, step) = with_head(target, lines, |view| room.look(view, &offer, &mut onward));
    let outcome = match step {
        Step::Done(outcome) => outcome,
        Step::Ask(question) => wait_for(question.answer(credentials, tables)),
    };
    let outcome = outcome.and_then(|identity| room.stands(&identity).map(|()| identity));
    (form, outcome, onward)
}

/// As a worker would, which is woken when the bridge has an answer.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    struct Sleeper(Thread);
    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Sleeper(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return done;
        }
        std::thread::park();
    }
}

/// The same, of a client that is nobody in particular.
pub(super) fn ask_simply(tables: &Tables, target: &str, lines: &[&str]) -> Looked {
    let verified = RefCell::default();
    ask(tables, &somebody(&verified), target, lines, &[])
}

pub(super) fn somebody(verified: &RefCell<Verified>) -> Caller<'_> {
    Caller { verified, credentials: None, address: "192.0.2.7".parse().unwrap(), certificate: None, now_s: NOW_S }
}

pub(super) fn with_head<T>(target: &str, lines: &[&str], work: impl FnOnce(RequestView<'_>) -> T) -> T {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let Ok(Parse::Complete(head, _)) = RequestHead::parse(bytes.as_bytes()) else { panic!("a sound head: {bytes}") };
    work(head.view(bytes.as_bytes()))
}

pub(super) fn grant(looked: &Looked) -> &Grant {
    looked.1.as_ref().unwrap().grant.as_deref().unwrap()
}
