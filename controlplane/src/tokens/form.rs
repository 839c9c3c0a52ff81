//! What a client posts, `application/x-www-form-urlencoded`, and how it says who it is, RFC 6749 §2.3.1.
//!
//! Takes apart; whether a client and its secret are good is the desk's to say.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::http::percent::decode_form;

/// Parameters of one form.
const PARAMETERS_MAX: usize = 64;

/// The parameters of a form, each given once. `Debug` shows names only: values are secrets.
#[derive(Default)]
pub struct Form(HashMap<String, String>);

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Form {
    /// Of a body; the error is a sentence that holds nothing of it.
    pub fn parse(body: &[u8]) -> Result<Self, &'static str> {
        let mut parameters = HashMap::new();
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let (name, value) = (&pair[..at], pair.get(at + 1..).unwrap_or_default());
            let both = decode_form(name).zip(decode_form(value));
            let (name, value) = both.ok_or("the body is not a form of percent-encoded UTF-8")?;
            // What is given without a value counts as left out, RFC 6749 §3.2.
            if value.is_empty() {
                continue;
            }
            if parameters.insert(name, value).is_some() {
                return Err("a parameter is given twice");
            }
            if parameters.len() > PARAMETERS_MAX {
                return Err("the form has too many parameters");
            }
        }
        Ok(Self(parameters))
    }

    /// A parameter.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Who a client says it is. `Debug` shows no secret.
pub struct Credentials {
    /// Its id.
    pub id: String,
    /// What proves it.
    pub secret: String,
    /// They stood in `Authorization`.
    pub is_basic: bool,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why there are no credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoCredentials {
    /// There are none, or not whole ones.
    Absent,
    /// There are some in `Authorization` that cannot be read.
    Unreadable,
    /// There are two that do not agree, or in two ways.
    Two,
}

impl Credentials {
    /// Those of a request: of its header, or else of its form.
    pub fn of(authorization: Option<&[u8]>, form: &Form) -> Result<Self, NoCredentials> {
        let (id, secret) = (form.value("client_id"), form.value("client_secret"));
        let Some(authorization) = authorization else {
            let (id, secret) = id.zip(secret).ok_or(NoCredentials::Absent)?;
            return Ok(Self { id: id.into(), secret: secret.into(), is_basic: false });
        };
        let basic = basic(authorization).ok_or(NoCredentials::Unreadable)?;
        // Some clients repeat their id in the form, which says nothing new; a second secret does.
        if secret.is_some() || id.is_some_and(|id| id != basic.id) {
            return Err(NoCredentials::Two);
        }
        Ok(basic)
    }
}

fn basic(header: &[u8]) -> Option<Credentials> {
    let (scheme, encoded) = std::str::from_utf8(header).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let pair = STANDARD.decode(encoded.trim()).ok()?;
    let at = pair.iter().position(|byte| *byte == b':')?;
    let (id, secret) = (decode_form(&pair[..at])?, decode_form(&pair[at + 1..])?);
    Some(Credentials { id, secret, is_basic: true }).filter(|one| !one.id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_strictly() {
        let form = Form::parse(b"grant_type=password&username=J%C3%BCrgen+X&password=a%26b%3D&empty=&none").unwrap();
        assert_eq!(form.value("username"), Some("J\u{fc}rgen X"));
        assert_eq!(form.value("password"), Some("a&b="));
        assert_eq!((form.value("empty"), form.value("none")), (None, None));
        assert!(!format!("{form:?}").contains("a&b="));
        for wrong in ["a=1&a=2", "a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert!(Form::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let many: String = (0..=PARAMETERS_MAX).map(|number| format!("p{number}=1&")).collect();
        assert!(Form::parse(many.as_bytes()).is_err());
        for seed in 0..=255 {
            let _ = Form::parse(&[seed, b'=', b'%', seed, b'&', seed]);
        }
    }

    #[test]
    fn a_client_says_who_it_is_in_one_way() {
        let told = |header: Option<&str>, form: &str| {
            let form = Form::parse(form.as_bytes()).unwrap();
            let found = Credentials::of(header.map(str::as_bytes), &form);
            found.map(|one| (one.id, one.secret, one.is_basic))
        };
        let header = |text: &str| format!("basic {}", STANDARD.encode(text));
        let is = |id: &str, secret: &str, is_basic| Ok((id.to_owned(), secret.to_owned(), is_basic));
        assert_eq!(told(None, "client_id=a&client_secret=b"), is("a", "b", false));
        assert_eq!(told(Some(&header("a%3Ab:c+d")), ""), is("a:b", "c d", true));
        assert_eq!(told(Some(&header("a:b:c")), "client_id=a"), is("a", "b:c", true));
        assert_eq!(told(None, "client_id=a"), Err(NoCredentials::Absent));
        assert_eq!(told(Some(&header("a:b")), "client_id=x"), Err(NoCredentials::Two));
        assert_eq!(told(Some(&header("a:b")), "client_secret=b"), Err(NoCredentials::Two));
        for wrong in ["Basic", "Basic ?", "Bearer x", &header("a"), &header(":b"), &header("%:b")] {
            assert_eq!(told(Some(wrong), ""), Err(NoCredentials::Unreadable), "{wrong}");
        }
    }
}
