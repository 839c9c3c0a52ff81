//! Who is it, and for how long? Every form of credentials, right and wrong; what the endpoint sees of them; what becomes of
//! live sessions when a credential ends or is taken back; and whether any of it can be read anywhere.

mod cluster;
mod example;
mod forms;
mod hygiene;
mod life;
mod matrix;
mod opaque;
mod tokens;

use crate::kit::people::PASSWORD;
use crate::kit::tokens::{Algorithm, Signer, Token, key_set};
use crate::kit::{People, Upgrade};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// The `iss` of the issuer that every story here knows as `test`.
const ISSUER: &str = "https://issuer.test";
/// The `aud` that it asks for.
const AUDIENCE: &str = "framegate-tests";

/// The keys of the issuer `test`, one of each kind.
#[derive(Debug)]
struct Keys {
    ed: Signer,
    es: Signer,
    rs: Signer,
}

impl Keys {
    fn new() -> Self {
        Self {
            ed: Signer::new(Algorithm::EdDsa, "ed"),
            es: Signer::new(Algorithm::Es256, "es"),
            rs: Signer::new(Algorithm::Rs256, "rs"),
        }
    }

    /// The issuer `test`, without anybody else.
    fn people(&self) -> People {
        let keys = key_set(&[&self.ed, &self.es, &self.rs]);
        People::new().issuer("test", ISSUER, &keys, &format!("audiences: [{AUDIENCE}]"))
    }
}

/// A token that is right, of the client of an application.
fn token(application: &str) -> Token {
    Token::of(ISSUER).claim("aud", AUDIENCE).claim("client_id", format!("{application}-client"))
}

/// Where a credential stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Bearer,
    QueryToken,
    KeyHeader,
    KeyQuery,
    Subprotocol,
    SubprotocolOfKubernetes,
    Basic,
    Cookie,
    PersonalHeader,
    PersonalCookie,
    Certificate,
}

impl Carrier {
    /// In the order in which credentials are looked for.
    const ALL: [Self; 11] = [
        Self::Bearer,
        Self::QueryToken,
        Self::KeyHeader,
        Self::KeyQuery,
        Self::Subprotocol,
        Self::SubprotocolOfKubernetes,
        Self::Basic,
        Self::Cookie,
        Self::PersonalHeader,
        Self::PersonalCookie,
        Self::Certificate,
    ];

    /// The form that an API accepts it as, and the name of the API that accepts nothing else.
    fn form(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::QueryToken => "query_token",
            Self::KeyHeader | Self::KeyQuery => "api_key",
            Self::Subprotocol | Self::SubprotocolOfKubernetes => "subprotocol",
            Self::Basic => "basic",
            Self::Cookie => "cookie",
            Self::PersonalHeader | Self::PersonalCookie => "personal_access_token",
            Self::Certificate => "client_certificate",
        }
    }

    /// A request that carries this, beside what has nothing to do with it. For Basic it is what is put into base64.
    fn request(self, target: &str, credential: &str) -> Upgrade {
        let plain = Upgrade::to(target);
        let in_query = credential.replace(' ', "%20");
        let with_query = |name: &str| Upgrade::to(&format!("{target}?lang=de&{name}={in_query}&page=2"));
        let with_offer = |entry: String| plain.clone().with("Sec-WebSocket-Protocol", &format!("chat.v2, {entry}"));
        match self {
            Self::Bearer => plain.with("Authorization", &format!("Bearer {credential}")),
            Self::QueryToken => with_query("access_token"),
            Self::KeyHeader => plain.with("apikey", credential),
            Self::KeyQuery => with_query("apikey"),
            Self::Subprotocol | Self::SubprotocolOfKubernetes => with_offer(self.subprotocol(credential)),
            Self::Basic => plain.with("Authorization", &format!("Basic {}", STANDARD.encode(credential))),
            Self::Cookie => plain.with("Cookie", &format!("theme=dark; apimlAuthenticationToken={credential}; a=b")),
            Self::PersonalHeader => plain.with("PRIVATE-TOKEN", credential),
            Self::PersonalCookie => plain.with("Cookie", &format!("personalAccessToken={credential}; a=b")),
            Self::Certificate => plain,
        }
    }

    /// A request in which this stands, and beside it another of its form.
    fn twice(self, target: &str, credential: &str) -> Upgrade {
        match self {
            Self::Subprotocol | Self::SubprotocolOfKubernetes => {
                let both = [credential, "another"].map(|one| self.subprotocol(one));
                Upgrade::to(target).with("Sec-WebSocket-Protocol", &both.join(", "))
            }
            _ => self.request(target, credential).merged(&self.request(target, "another")),
        }
    }

    fn subprotocol(self, credential: &str) -> String {
        match self {
            Self::SubprotocolOfKubernetes => {
                format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode(credential))
            }
            _ => format!("bearer.{credential}"),
        }
    }
}

/// A user's name and password, as Basic has them before base64.
fn name_and_password(name: &str) -> String {
    format!("{name}:{PASSWORD}")
}
