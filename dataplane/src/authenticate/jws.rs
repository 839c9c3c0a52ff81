//! A signed token as it is written: the compact form of JWS (RFC 7515 §7.1), with its claims (RFC 7519).
//!
//! A pure reader, which takes nothing that two readers could take differently: base64url without padding or loose bits,
//! no member twice, bounded length and nesting. Nothing in it is true before its issuer has verified the signature.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto::limits::{CLAIM_DEPTH_MAX, TOKEN_BYTES_MAX};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::identity::Fault;
use crate::issuers::{Algorithm, Believed};

/// A token that was read, and not verified.
pub struct Jws<'a> {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// Header and payload, as they were written.
    signed: &'a str,
    signature: Vec<u8>,
    /// What it claims.
    pub claims: Map<String, Value>,
}

/// Whether a token looks as if it were a JWT: it has two dots.
pub fn is_jwt(token: &str) -> bool {
    token.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl<'a> Jws<'a> {
    /// Reads a token.
    pub fn read(token: &'a str) -> Result<Self, Fault> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Fault::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Fault::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Fault::Malformed)?;
        let header = object(header)?;
        // No extension that must be understood is, RFC 7515 §4.1.11; and what is encrypted is no JWS.
        if ["crit", "enc"].iter().any(|name| header.contains_key(*name)) {
            return Err(Fault::Malformed);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Fault::Malformed)?;
        let algorithm = Algorithm::named(algorithm).ok_or(Fault::Algorithm)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(Fault::Malformed),
        };
        let claims = object(payload)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Fault::Malformed)?;
        Ok(Self { algorithm, key_id, signed, signature, claims })
    }

    /// Whether the issuer has signed it.
    pub fn verify(&self, issuer: &Believed) -> Result<(), Fault> {
        issuer.verify(self.key_id.as_deref(), self.algorithm, self.signed.as_bytes(), &self.signature)
    }
}

/// A JSON object in base64url.
fn object(text: &str) -> Result<Map<String, Value>, Fault> {
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| Fault::Malformed)?;
    parse(&json).ok_or(Fault::Malformed)
}

/// A JSON object, RFC 8259, in which no member stands twice, and which is nested so deep at most.
pub fn parse(json: &[u8]) -> Option<Map<String, Value>> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = Strict { depth: CLAIM_DEPTH_MAX }.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    match value {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

struct Strict {
    depth: usize,
}

impl Strict {
    fn inner<E: Error>(&self) -> Result<Self, E> {
        self.depth.checked_sub(1).map(|depth| Self { depth }).ok_or_else(|| E::custom("nested too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = sequence.next_element_seed(self.inner()?)? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(self.inner()?)?;
            if all.insert(name, value).is_some() {
                return Err(A::Error::custom("a member stands twice"));
            }
        }
        Ok(Value::Object(all))
    }
}
