//! Who may come in, as an operator writes it: applications, subscriptions, keys, users, revocations, issuers.
//!
//! Everything is an entry of a YAML list; what it means is the gateway's business.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// A password, with a colon, as RFC 7617 §2 allows it.
pub const PASSWORD: &str = "correct horse: battery";
/// Its hash, of the cheapest kind that there is.
pub const PASSWORD_HASH: &str =
    "$argon2id$v=19$m=64,t=1,p=1$ZnJhbWVnYXRlLXRlc3RzIQ$yDIJcK9Um/xV8gL214MpWKS+XCzmghJkG62+3HomCMo";

/// SHA-256 of a text, in hexadecimal digits.
pub fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("a string can grow");
        digits
    })
}

/// A time as a configuration has it.
pub fn timestamp(unix_s: u64) -> String {
    // Days to civil date as in Howard Hinnant's `civil_from_days`.
    let days = unix_s / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (unix_s / 3600 % 24, unix_s / 60 % 60, unix_s % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The families of a configuration that say who may come in; each entry is a YAML flow mapping without its braces.
#[derive(Debug, Clone, Default)]
pub struct People {
    families: Vec<(&'static str, Vec<String>)>,
}

impl People {
    /// Nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// An issuer whose keys stand in the configuration; `members` may be empty.
    pub fn issuer(self, name: &str, issuer: &str, keys: &str, members: &str) -> Self {
        let comma = if members.is_empty() { "" } else { ", " };
        self.entry("issuers", format!("name: {name}, issuer: \"{issuer}\", jwks: '{keys}'{comma}{members}"))
    }

    /// An issuer whose tokens are asked about.
    pub fn introspecting_issuer(self, name: &str, issuer: &str, url: &str, members: &str) -> Self {
        let comma = if members.is_empty() { "" } else { ", " };
        let introspection = format!("introspection: {{ url: \"{url}\"{comma}{members} }}");
        self.entry("issuers", format!("name: {name}, issuer: \"{issuer}\", {introspection}"))
    }

    /// An application, with one client whose id is the application's name and `-client`.
    pub fn application(self, name: &str, members: &str) -> Self {
        let comma = if members.is_empty() { "" } else { ", " };
        self.entry("applications", format!("name: {name}, clients: [{{ id: {name}-client }}]{comma}{members}"))
    }

    /// Subscribes an application to APIs.
    pub fn subscriptions(self, application: &str, apis: &[&str]) -> Self {
        apis.iter()
            .fold(self, |this, api| this.entry("subscriptions", format!("application: {application}, api: \"{api}\"")))
    }

    /// A key of an application; `members` may be empty.
    pub fn key(self, name: &str, application: &str, key: &str, members: &str) -> Self {
        let comma = if members.is_empty() { "" } else { ", " };
        let hash = sha256(key);
        self.entry("keys", format!("name: {name}, application: {application}, sha256: {hash}{comma}{members}"))
    }

    /// A user whose password is [`PASSWORD`]; `members` may be empty.
    pub fn user(self, name: &str, members: &str) -> Self {
        let comma = if members.is_empty() { "" } else { ", " };
        // A dollar would begin a variable.
        let hash = PASSWORD_HASH.replace('$', "$$");
        self.entry("users", format!("name: {name}, password: \"{hash}\"{comma}{members}"))
    }

    /// What is good no more: `user:alice`; `members` may be empty.
    pub fn revoked(self, what: &str, members: &str) -> Self {
        let comma = if members.is_empty() { "" } else { ", " };
        self.entry("revocations", format!("revoked: \"{what}\"{comma}{members}"))
    }

    /// Another entry of a family.
    pub fn entry(mut self, family: &'static str, members: String) -> Self {
        match self.families.iter_mut().find(|(name, _)| *name == family) {
            Some((_, entries)) => entries.push(members),
            None => self.families.push((family, vec![members])),
        }
        self
    }

    /// As top-level members of a configuration.
    pub fn yaml(&self) -> String {
        let mut text = String::new();
        for (family, entries) in &self.families {
            writeln!(text, "{family}:").expect("a string can grow");
            for entry in entries {
                writeln!(text, "  - {{ {entry} }}").expect("a string can grow");
            }
        }
        text
    }
}
