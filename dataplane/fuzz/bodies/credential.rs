//! A request head with whatever is in it: a credential that is found is one that can be sent on; what an API accepts does
//! not travel where it must not; a token that verifies is, octet for octet, the one that was signed.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dataplane::authenticate::forms::{Places, Presented};
use dataplane::authenticate::jws::{self, Jws};
use dataplane::issuers::Believed;
use dataplane::onward::Onward;
use dataplane::tls::Terms;
use proto::http::RequestHead;
use proto::limits::TOKEN_BYTES_MAX;
use proto::parse::Parse;
use proto::snapshot::{Authentication, CredentialForm};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;

/// The one token of an issuer whose key is 32 times the octet 7, which the seeds have, too.
static SIGNED: LazyLock<(Believed, String)> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 octets");
    let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": URL_SAFE_NO_PAD.encode(pair.public_key())});
    let jwks = json!({ "keys": [key] }).to_string();
    let config = json!({"name": "fuzzed", "issuer": "https://i", "jwks": jwks});
    let believed = Believed::new(serde_json::from_value(config).expect("an issuer"), &Terms::default());
    let parts = [r#"{"alg":"EdDSA","kid":"k"}"#, r#"{"iss":"https://i","sub":"alice","exp":4000000000}"#];
    let message = parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()));
    (believed, format!("{message}.{signature}"))
});

/// First byte: the forms that are accepted. Second: whether credentials are passed on. The rest: a request head, in which
/// the subprotocols stand as clients send them.
pub fn run(bytes: &[u8]) {
    let [forms, choices, head @ ..] = bytes else { return };
    token(head);
    let Ok(Parse::Complete(parsed, _)) = RequestHead::parse(head) else { return };
    let view = parsed.view(head);
    let accept = CredentialForm::ALL.into_iter().enumerate().filter(|(at, _)| forms & (1 << at) != 0);
    let asked = Authentication {
        accept: accept.map(|(_, form)| form).collect(),
        forward_credentials: choices & 1 != 0,
        ..Authentication::default()
    };
    let offered = view.fields().list("sec-websocket-protocol");
    let subprotocols: Vec<String> = offered.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let has_certificate = choices & 2 != 0;
    let places = Places { view, subprotocols: &subprotocols, has_certificate, asked: &asked };
    let found = places.find();
    if let Some((form, presented)) = &found {
        assert!(asked.accept.contains(form), "only what is accepted is looked for");
        match presented {
            Ok(Presented::Token(text) | Presented::Key(text)) => {
                assert!(!text.is_empty() && text.len() <= TOKEN_BYTES_MAX);
                assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "it can stand in a header");
                token(text.as_bytes());
            }
            Ok(Presented::Password(login)) => {
                assert!(!login.user.is_empty() && !login.user.contains(':'));
            }
            Ok(Presented::Certificate) | Err(_) => {}
        }
    }
    let mut onward = Onward::default();
    places.strip(found.as_ref(), &mut onward);
    let query = onward.query(view.query()).unwrap_or_default();
    assert!(!query.split('&').any(|pair| pair.split('=').next() == Some("access_token")), "no token in a query");
    for (_, value) in onward.headers() {
        assert!(!value.bytes().any(|byte| byte == b'\r' || byte == b'\n'), "one line stays one line");
    }
    if asked.accept.contains(&CredentialForm::Subprotocol) {
        let carriers = subprotocols.iter().filter(|name| name.starts_with("bearer."));
        carriers.for_each(|name| assert!(onward.is_carrier(name)));
    }
}

fn token(bytes: &[u8]) {
    let _ = jws::parse(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (believed, signed) = &*SIGNED;
    if let Ok(read) = Jws::read(text)
        && read.verify(believed).is_ok()
    {
        assert_eq!(text, signed, "nothing else was ever signed");
    }
}
