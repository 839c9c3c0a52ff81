//! Sets of public keys that others publish, RFC 7517: what of a set can check signatures, in one plain form.
//!
//! The form is what data planes get: equal keys are equal text, whatever else was said beside them. Where a set comes from
//! is `issuers`' and `material`'s to say.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use proto::limits::{JWKS_BYTES_MAX, JWKS_KEYS_MAX};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::jws::Jwk;

/// Bytes of a modulus: 2048 bits at least, which is what ring checks, and 8192 at most.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// Bytes of an exponent; everybody's has three.
const EXPONENT_BYTES_MAX: usize = 5;
/// Bytes of a key's name.
const KID_BYTES_MAX: usize = 512;
/// The algorithms of RSA keys.
const RSA: [&str; 6] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
/// Members that only a private key has.
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// A set in its plain form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySet {
    /// The keys, in order.
    pub keys: Vec<Jwk>,
}

/// What a set was found to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// What can be used.
    pub set: KeySet,
    /// What is left out and should not have been there, in sentences.
    pub warnings: Vec<String>,
}

/// The text of a set that has no keys.
pub const EMPTY: &str = r#"{"keys":[]}"#;

impl KeySet {
    /// Of these keys, each once.
    pub fn of(mut keys: Vec<Jwk>) -> Self {
        keys.sort();
        keys.dedup();
        Self { keys }
    }

    /// Of its plain form.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Its plain form.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("texts become JSON")
    }
}

/// Reads a set; the error is a sentence that completes "the set of keys …".
pub fn read(text: &[u8]) -> Result<Reading, String> {
    if text.len() > JWKS_BYTES_MAX {
        return Err(format!("has more than {JWKS_BYTES_MAX} bytes"));
    }
    let set: Map<String, Value> = serde_json::from_slice(text).map_err(|_| "is not a JSON object")?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("has no list \"keys\"")?;
    if keys.len() > JWKS_KEYS_MAX {
        return Err(format!("has {} keys; {JWKS_KEYS_MAX} are allowed", keys.len()));
    }
    let mut warnings = Vec::new();
    let mut usable = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let Some(key) = key.as_object() else { continue };
        match usable_key(key) {
            Ok(Some(key)) => usable.push(key),
            // Keys for encryption, curves that nobody here speaks: others may want them.
            Ok(None) => {}
            Err(fault) => warnings.push(format!("key {} of the set {fault}", at + 1)),
        }
    }
    if usable.is_empty() {
        let why = warnings.first().map(|first| format!(": {first}")).unwrap_or_default();
        return Err(format!(
            "has no key that can be used (public, for signatures, and Ed25519, EC on P-256 or P-384, or RSA of 2048 bits \
             and more){why}"
        ));
    }
    Ok(Reading { set: KeySet::of(usable), warnings })
}

/// A key in its plain form; `None`, if it is for something else; an error, if it should not be there.
fn usable_key(key: &Map<String, Value>) -> Result<Option<Jwk>, String> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    if PRIVATE.iter().any(|member| key.contains_key(*member)) {
        return Err("is a private key, which whoever has read the set now has too; make a new one".into());
    }
    if text("kty") == Some("oct") {
        return Err("is a shared secret; whoever can check tokens by it can make them".into());
    }
    let is_for_signatures = text("use").is_none_or(|purpose| purpose == "sig");
    let operations = key.get("key_ops").and_then(Value::as_array);
    let verifies = operations.is_none_or(|all| all.iter().any(|one| one.as_str() == Some("verify")));
    if !is_for_signatures || !verifies {
        return Ok(None);
    }
    let (kty, crv, alg) = (text("kty").unwrap_or_default(), text("crv"), text("alg"));
    // Who names another algorithm than the key's own means another use of it.
    let has = |name: &str| alg.is_none_or(|alg| alg == name || (name == "EdDSA" && alg == "Ed25519"));
    let curve = |crv: &str, alg: &str, x: String, y: Option<String>| Jwk {
        crv: Some(crv.into()),
        alg: Some(alg.into()),
        x: Some(x),
        y,
        ..plain("EC")
    };
    let jwk = match (kty, crv) {
        ("OKP", Some("Ed25519")) if has("EdDSA") => {
            Jwk { kty: "OKP".into(), ..curve("Ed25519", "EdDSA", coordinate(text("x"), 32)?, None) }
        }
        ("EC", Some("P-256")) if has("ES256") => {
            curve("P-256", "ES256", coordinate(text("x"), 32)?, Some(coordinate(text("y"), 32)?))
        }
        ("EC", Some("P-384")) if has("ES384") => {
            curve("P-384", "ES384", coordinate(text("x"), 48)?, Some(coordinate(text("y"), 48)?))
        }
        ("RSA", None) if alg.is_none_or(|alg| RSA.contains(&alg)) => {
            let (n, e) = rsa(text("n"), text("e"))?;
            Jwk { alg: alg.map(str::to_owned), n: Some(n), e: Some(e), ..plain("RSA") }
        }
        _ => return Ok(None),
    };
    let kid = text("kid").map(str::to_owned);
    if kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
        return Err(format!("has a name of more than {KID_BYTES_MAX} bytes"));
    }
    Ok(Some(Jwk { kid, ..jwk }))
}

fn plain(kty: &str) -> Jwk {
    let (purpose, kty) = (Some("sig".into()), kty.into());
    Jwk { kid: None, kty, alg: None, purpose, crv: None, x: None, y: None, n: None, e: None }
}

fn coordinate(text: Option<&str>, bytes: usize) -> Result<String, String> {
    match text.and_then(|text| BASE64.decode(text).ok()) {
        Some(decoded) if decoded.len() == bytes => Ok(BASE64.encode(decoded)),
        _ => Err(format!("has a coordinate that is not {bytes} bytes in base64url")),
    }
}

/// Modulus and exponent, without leading zeros.
fn rsa(n: Option<&str>, e: Option<&str>) -> Result<(String, String), String> {
    let number = |text: Option<&str>| {
        let bytes = BASE64.decode(text?).ok()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Some(bytes[zeros..].to_vec())
    };
    let n = number(n).ok_or("has a modulus that is not base64url")?;
    let e = number(e).ok_or("has an exponent that is not base64url")?;
    // A modulus of 2048 bits has its highest bit set.
    if !MODULUS_BYTES.contains(&n.len()) || (n.len() == 256 && n[0] < 0x80) {
        return Err(format!("is an RSA key of {} bits; 2048 to 8192 are needed", n.len() * 8));
    }
    let is_odd = e.last().is_some_and(|last| last % 2 == 1);
    if !is_odd || e == [1] || e.len() > EXPONENT_BYTES_MAX {
        return Err("has an exponent that no RSA key has".into());
    }
    Ok((BASE64.encode(n), BASE64.encode(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(members: &str) -> String {
        let x = BASE64.encode([7; 32]);
        members.replace("XX", &x).replace("NN", &BASE64.encode([0xff; 256]))
    }

    fn reading(keys: &[&str]) -> Result<Reading, String> {
        let keys: Vec<_> = keys.iter().map(|members| format!("{{{}}}", key(members))).collect();
        read(format!(r#"{{"keys":[{}],"x":1}}"#, keys.join(",")).as_bytes())
    }

    const ED: &str = r#""kty":"OKP","crv":"Ed25519","x":"XX","kid":"a","x5t":"q""#;

    #[test]
    fn only_what_checks_signatures_is_taken_and_in_one_form() {
        let rsa = r#""kty":"RSA","use":"sig","n":"NN","e":"AQAB""#;
        let ec = r#""kty":"EC","crv":"P-256","x":"XX","y":"XX","kid":"b","key_ops":["verify"]"#;
        let read = reading(&[rsa, ED, ec]).unwrap();
        assert_eq!(read.warnings, [""; 0]);
        assert_eq!(read.set.keys.len(), 3);
        assert_eq!(reading(&[ec, ED, rsa, ED]).unwrap(), read, "order and repetition say nothing");
        let text = read.set.text();
        assert!(!text.contains("x5t") && text.contains(r#""alg":"ES256""#), "{text}");
        assert_eq!(KeySet::parse(&text), Some(read.set));
    }

    #[test]
    fn what_is_for_others_is_passed_over_and_what_is_dangerous_is_told() {
        let others = [
            r#""kty":"RSA","use":"enc","n":"NN","e":"AQAB""#,
            r#""kty":"RSA","alg":"RSA-OAEP","n":"NN","e":"AQAB""#,
            r#""kty":"OKP","crv":"X25519","x":"XX""#,
            r#""kty":"EC","crv":"P-521","x":"XX","y":"XX""#,
            r#""kty":"OKP","crv":"Ed25519","x":"XX","key_ops":["sign"]"#,
            r#""kty":"EC","crv":"P-256","alg":"HS256","x":"XX","y":"XX""#,
            r#""kty":"new""#,
        ];
        for other in others {
            let read = reading(&[ED, other]).unwrap();
            assert_eq!((read.set.keys.len(), read.warnings.len()), (1, 0), "{other}");
            assert!(reading(&[other]).unwrap_err().contains("no key that can be used"), "{other}");
        }
        for (dangerous, word) in [
            (r#""kty":"oct","k":"c2VjcmV0""#, "shared secret"),
            (r#""kty":"OKP","crv":"Ed25519","x":"XX","d":"XX""#, "private"),
            (r#""kty":"RSA","n":"NN","e":"AQAB","p":"AQ""#, "private"),
            (r#""kty":"RSA","n":"AQAB","e":"AQAB""#, "2048"),
            (r#""kty":"RSA","n":"NN","e":"AQ""#, "exponent"),
            (r#""kty":"RSA","n":"NN","e":"Ag""#, "exponent"),
            (r#""kty":"EC","crv":"P-256","x":"XX","y":"AA""#, "coordinate"),
            (r#""kty":"OKP","crv":"Ed25519","x":"%%""#, "coordinate"),
        ] {
            let read = reading(&[ED, dangerous]).unwrap();
            assert_eq!(read.set.keys.len(), 1, "{dangerous}");
            assert!(read.warnings.len() == 1 && read.warnings[0].contains(word), "{:?}", read.warnings);
            assert!(reading(&[dangerous]).unwrap_err().contains(word), "{dangerous}");
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, "<html>", r#"{"keys":[1,null]}"#] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(read(&vec![b' '; JWKS_BYTES_MAX + 1]).unwrap_err().contains("bytes"));
        let many = vec![ED; JWKS_KEYS_MAX + 1];
        assert!(reading(&many).unwrap_err().contains("keys"));
        assert!(read("[".repeat(10_000).as_bytes()).is_err());
    }
}
