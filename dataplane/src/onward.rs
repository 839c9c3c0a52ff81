//! What the request to the endpoint has otherwise than the client's: credentials taken out, headers of a policy put in.
//!
//! Authentication and policy write it, connecting reads it. On an API that has neither it is empty and costs nothing.

/// Changes to the upgrade request on its way.
#[derive(Debug, Default)]
pub struct Onward {
    /// Names of headers of the client that do not travel, in lower case.
    pub withheld: Vec<Box<str>>,
    /// Headers that travel, in place of the client's of the same name.
    pub headers: Vec<(Box<str>, String)>,
    /// The query, in place of the client's; empty: none.
    pub query: Option<String>,
    /// A subprotocol that is a credential: it is not offered onwards, and so never agreed to.
    pub carrier: Option<Box<str>>,
}

impl Onward {
    /// The client's header of this name does not travel.
    pub fn withhold(&mut self, name: &str) {
        let name = name.to_ascii_lowercase().into_boxed_str();
        if !self.withheld.contains(&name) {
            self.withheld.push(name);
        }
    }

    /// This header travels, in place of the client's and of one that was set before.
    pub fn set(&mut self, name: &str, value: String) {
        self.unset(name);
        self.withhold(name);
        self.headers.push((name.into(), value));
    }

    /// Takes back what was set.
    pub fn unset(&mut self, name: &str) {
        self.headers.retain(|(set, _)| !set.eq_ignore_ascii_case(name));
    }

    /// The query that travels.
    pub fn query<'a>(&'a self, of_client: Option<&'a str>) -> Option<&'a str> {
        match &self.query {
            Some(query) => Some(query.as_str()).filter(|query| !query.is_empty()),
            None => of_client,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_replaces_what_was() {
        let mut onward = Onward::default();
        onward.set("X-User", "alice".into());
        onward.set("x-user", "bob".into());
        onward.withhold("X-USER");
        assert_eq!(onward.headers, [("x-user".into(), "bob".to_owned())]);
        assert_eq!(onward.withheld, ["x-user".into()]);
        onward.unset("X-User");
        assert!(onward.headers.is_empty());
    }

    #[test]
    fn an_empty_query_is_none() {
        let mut onward = Onward::default();
        assert_eq!(onward.query(Some("a=1")), Some("a=1"));
        onward.query = Some(String::new());
        assert_eq!(onward.query(Some("a=1")), None);
    }
}
