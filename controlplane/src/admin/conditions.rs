//! Entity tags, and what a request says about them: RFC 9110 §8.8.3 and §13.1.
//!
//! A tag is the hash of an object as it is kept; whether it still is so is decided by the catalogue, under its lock.

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};

use super::problem::{Fault, Problem};

/// Entity tags in one header.
const TAGS_MAX: usize = 32;

/// What one header says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    /// `*`
    Any,
    /// These; weak ones are never equal to anything here, because all of ours are strong.
    These(Vec<String>),
}

/// What must hold of an object before something is done to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    must_be: Option<Tags>,
    must_not_be: Option<Tags>,
}

impl Condition {
    /// That of a request.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self { must_be: tags(headers, IF_MATCH)?, must_not_be: tags(headers, IF_NONE_MATCH)? })
    }

    /// Whether anything is asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it holds of an object with this tag, or of one that is not there.
    pub fn holds(&self, present: Option<&str>) -> bool {
        let is = |tags: &Tags| match (tags, present) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::These(tags), Some(present)) => tags.iter().any(|tag| tag == present),
        };
        self.must_be.as_ref().is_none_or(is) && !self.must_not_be.as_ref().is_some_and(is)
    }

    /// Whether whoever reads has this already (`If-None-Match`).
    pub fn is_known(&self, present: &str) -> bool {
        match &self.must_not_be {
            None => false,
            Some(Tags::Any) => true,
            Some(Tags::These(tags)) => tags.iter().any(|tag| tag == present),
        }
    }
}

/// An entity tag as a header has it.
pub fn quoted(tag: &str) -> String {
    format!("\"{tag}\"")
}

fn tags(headers: &HeaderMap, name: HeaderName) -> Result<Option<Tags>, Problem> {
    let bad = || Problem::new(Fault::BadRequest, format!("{name} is * or a list of entity tags such as \"1f2e\""));
    let mut these = Vec::new();
    let mut is_any = false;
    for value in headers.get_all(&name) {
        for one in value.to_str().map_err(|_| bad())?.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let strong = one.strip_prefix('"').and_then(|one| one.strip_suffix('"'));
            match (one, strong) {
                ("*", _) => is_any = true,
                (_, Some(tag)) if !tag.contains('"') => these.push(tag.to_owned()),
                _ if one.starts_with("W/\"") && one.ends_with('"') && one.len() > 3 => these.push(one.to_owned()),
                _ => return Err(bad()),
            }
        }
    }
    match (is_any, these.len()) {
        (true, 0) => Ok(Some(Tags::Any)),
        (false, 0) if headers.contains_key(&name) => Err(bad()),
        (false, 0) => Ok(None),
        (false, 1..=TAGS_MAX) => Ok(Some(Tags::These(these))),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(fields: &[(&str, &str)]) -> Result<Condition, Problem> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        Condition::of(&headers)
    }

    #[test]
    fn a_condition_holds_of_what_it_names() {
        for (field, of_a, of_b, of_none) in [
            (("if-match", "\"a\""), true, false, false),
            (("if-match", "\"x\", \"a\""), true, false, false),
            (("if-match", "W/\"a\""), false, false, false),
            (("if-match", "*"), true, true, false),
            (("if-none-match", "*"), false, false, true),
            (("if-none-match", "\"a\""), false, true, true),
            (("x-other", "\"a\""), true, true, true),
        ] {
            let condition = condition(&[field]).unwrap();
            let found = (condition.holds(Some("a")), condition.holds(Some("b")), condition.holds(None));
            assert_eq!(found, (of_a, of_b, of_none), "{field:?}");
        }
        for bad in ["a", "\"a", "\"a\"b\"", "", "*, \"a\"", "W/"] {
            assert_eq!(condition(&[("if-match", bad)]).unwrap_err().fault, Fault::BadRequest, "{bad}");
        }
        assert!(condition(&[]).unwrap().is_empty());
    }
}
