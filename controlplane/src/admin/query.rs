//! What stands behind the question mark of a request target, and what a path segment is in plain.
//!
//! Reads and writes percent-encoding (RFC 3986 §2.1); which parameters there are is each route's to say.

use proto::http::percent;

use super::problem::{Fault, Problem};

/// Parameters of one query; no route has as many.
const PARAMETERS_MAX: usize = 32;

/// The parameters of a request, each at most once.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads them, and refuses what is not one of these.
    pub fn parse(text: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut all: Vec<(String, String)> = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = decode(name, true).zip(decode(value, true));
            let (name, value) = plain.ok_or_else(|| bad("the query is not percent-encoded UTF-8"))?;
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() { "no parameter is known here".into() } else { known.join(", ") };
                return Err(bad(&format!("the parameter {name:?} is not known; known here: {known}")));
            }
            if all.iter().any(|(other, _)| *other == name) || all.len() == PARAMETERS_MAX {
                return Err(bad(&format!("the parameter {name:?} is there twice; say it once")));
            }
            all.push((name, value));
        }
        Ok(Self(all))
    }

    /// The value of a parameter.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter as something else.
    pub fn parsed<T: std::str::FromStr>(&self, name: &str, form: &str) -> Result<Option<T>, Problem> {
        let Some(value) = self.value(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| bad(&format!("{name} is {form}")))
    }
}

fn bad(detail: &str) -> Problem {
    Problem::new(Fault::BadRequest, detail)
}

/// Percent-encoded text in plain; `None` where it is no such text. In a query `+` is a blank.
pub fn decode(text: &str, is_query: bool) -> Option<String> {
    if is_query {
        return percent::decode_form(text.as_bytes());
    }
    String::from_utf8(percent::decode(text.as_bytes())?.into_owned()).ok()
}

/// Plain text as one segment of a path, or one value of a query. A colon stays: it stands in our names.
pub fn encode(text: &str) -> String {
    percent::encode(text.as_bytes(), b":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_to_the_same() {
        for text in ["", "chat:v1", "a/b c+d%&=?#", "grün", "token:partner/ab/cd"] {
            let encoded = encode(text);
            assert!(!encoded.contains(['/', ' ', '+', '&', '=', '?', '#']), "{encoded}");
            assert_eq!(decode(&encoded, true).as_deref(), Some(text));
            assert_eq!(decode(&encoded, false).as_deref(), Some(text));
        }
        for broken in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decode(broken, true), None, "{broken}");
        }
    }

    #[test]
    fn unknown_and_doubled_parameters_are_refused() {
        let known = ["limit", "after"];
        let query = Query::parse(Some("limit=5&after=a+b"), &known).unwrap();
        assert_eq!((query.value("limit"), query.value("after")), (Some("5"), Some("a b")));
        assert_eq!(query.parsed::<u32>("limit", "a number").unwrap(), Some(5));
        assert!(query.parsed::<u32>("after", "a number").is_err());
        for bad in ["limits=5", "limit=5&limit=6", "limit=%"] {
            assert_eq!(Query::parse(Some(bad), &known).unwrap_err().fault, Fault::BadRequest, "{bad}");
        }
    }
}
