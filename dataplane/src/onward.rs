//! What the request to the endpoint has otherwise than the client's: credentials taken out, headers of a policy put in.
//!
//! Authentication and policy write it, connecting reads it. On an API that has neither it is empty and costs nothing.

/// Changes to the upgrade request on its way. A pointer, because every handshake's task has a place for it.
#[derive(Debug, Default)]
pub struct Onward(Option<Box<Changes>>);

#[derive(Debug, Default)]
struct Changes {
    /// In lower case.
    withheld: Vec<Box<str>>,
    headers: Vec<(Box<str>, String)>,
    query: Option<String>,
    carriers: Vec<Box<str>>,
    gives_up_contexts: bool,
}

impl Onward {
    /// The client's header of this name does not travel.
    pub fn withhold(&mut self, name: &str) {
        let name = name.to_ascii_lowercase().into_boxed_str();
        let withheld = &mut self.changes().withheld;
        if !withheld.contains(&name) {
            withheld.push(name);
        }
    }

    /// This header travels, in place of the client's and of one that was set before.
    pub fn set(&mut self, name: &str, value: String) {
        self.unset(name);
        self.withhold(name);
        self.changes().headers.push((name.into(), value));
    }

    /// Takes back what was set.
    pub fn unset(&mut self, name: &str) {
        if let Some(changes) = &mut self.0 {
            changes.headers.retain(|(set, _)| !set.eq_ignore_ascii_case(name));
        }
    }

    /// This query travels in place of the client's; empty: none.
    pub fn set_query(&mut self, query: String) {
        self.changes().query = Some(query);
    }

    /// This subprotocol is a credential: it is not offered onwards, and so never agreed to.
    pub fn add_carrier(&mut self, subprotocol: &str) {
        self.changes().carriers.push(subprotocol.into());
    }

    /// Compressed messages shall not lean on those before them (RFC 7692 §7.1), because some may be left out.
    pub fn give_up_contexts(&mut self) {
        self.changes().gives_up_contexts = true;
    }

    /// Whether they shall not.
    pub fn gives_up_contexts(&self) -> bool {
        self.0.as_ref().is_some_and(|changes| changes.gives_up_contexts)
    }

    /// Names of headers of the client that do not travel, in lower case.
    pub fn withheld(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|changes| changes.withheld.iter().map(|name| &**name))
    }

    /// Headers that travel, in place of the client's of the same name.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|changes| changes.headers.iter().map(|(name, value)| (&**name, value.as_str())))
    }

    /// Whether a subprotocol is a credential.
    pub fn is_carrier(&self, subprotocol: &str) -> bool {
        self.0.as_ref().is_some_and(|changes| changes.carriers.iter().any(|carrier| **carrier == *subprotocol))
    }

    /// The query that travels.
    pub fn query<'a>(&'a self, of_client: Option<&'a str>) -> Option<&'a str> {
        match self.0.as_ref().and_then(|changes| changes.query.as_deref()) {
            Some(query) => Some(query).filter(|query| !query.is_empty()),
            None => of_client,
        }
    }

    fn changes(&mut self) -> &mut Changes {
        self.0.get_or_insert_default()
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
        assert_eq!(onward.headers().collect::<Vec<_>>(), [("x-user", "bob")]);
        assert_eq!(onward.withheld().collect::<Vec<_>>(), ["x-user"]);
        onward.unset("X-User");
        assert_eq!(onward.headers().count(), 0);
    }

    #[test]
    fn an_empty_query_is_none() {
        let mut onward = Onward::default();
        assert_eq!(onward.query(Some("a=1")), Some("a=1"));
        onward.set_query(String::new());
        assert_eq!(onward.query(Some("a=1")), None);
    }
}
