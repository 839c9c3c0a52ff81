//! An object as a value of the model, with its name and what it is looked for by.

use proto::snapshot::{
    Api, ApiKey, Application, Config, Denial, Edit, Plan, Revocation, SecretHash, Subscription, Timestamp, User,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Kind;

/// An object of any kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    Api(Box<Api>),
    Application(Application),
    Subscription(Subscription),
    Key(ApiKey),
    User(User),
    Revocation(Revocation),
    Plan(Plan),
    Denial(Denial),
}

impl Entry {
    /// Of the value that a caller or the database has. The error is a sentence without any value in it.
    pub fn read(kind: Kind, value: Value) -> Result<Self, String> {
        fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
            serde_json::from_value(value).map_err(|error| without_value(&error.to_string()))
        }
        Ok(match kind {
            Kind::Api => Self::Api(read(value)?),
            Kind::Application => Self::Application(read(value)?),
            Kind::Subscription => Self::Subscription(read(value)?),
            Kind::Key => Self::Key(read(value)?),
            Kind::User => Self::User(read(value)?),
            Kind::Revocation => Self::Revocation(read(value)?),
            Kind::Plan => Self::Plan(read(value)?),
            Kind::Denial => Self::Denial(read(value)?),
        })
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Api(_) => Kind::Api,
            Self::Application(_) => Kind::Application,
            Self::Subscription(_) => Kind::Subscription,
            Self::Key(_) => Kind::Key,
            Self::User(_) => Kind::User,
            Self::Revocation(_) => Kind::Revocation,
            Self::Plan(_) => Kind::Plan,
            Self::Denial(_) => Kind::Denial,
        }
    }

    pub fn id(&self) -> String {
        match self {
            Self::Api(one) => one.label(),
            Self::Application(one) => one.name.clone(),
            Self::Subscription(one) => subscription_id(&one.application, &one.api),
            Self::Key(one) => one.name.to_string(),
            Self::User(one) => one.name.clone(),
            Self::Revocation(one) => one.revoked.to_string(),
            Self::Plan(one) => one.name.clone(),
            Self::Denial(one) => one.name.clone(),
        }
    }

    /// As the configuration would have it.
    pub fn value(&self) -> Value {
        let value = match self {
            Self::Api(one) => serde_json::to_value(one),
            Self::Application(one) => serde_json::to_value(one),
            Self::Subscription(one) => serde_json::to_value(one),
            Self::Key(one) => serde_json::to_value(one),
            Self::User(one) => serde_json::to_value(one),
            Self::Revocation(one) => serde_json::to_value(one),
            Self::Plan(one) => serde_json::to_value(one),
            Self::Denial(one) => serde_json::to_value(one),
        };
        value.expect("the model is plain data with text keys")
    }

    pub fn application(&self) -> Option<&str> {
        match self {
            Self::Subscription(one) => Some(&one.application),
            Self::Key(one) => Some(&one.application),
            Self::User(one) => one.application.as_deref(),
            Self::Denial(one) => one.application.as_deref(),
            Self::Api(_) | Self::Application(_) | Self::Revocation(_) | Self::Plan(_) => None,
        }
    }

    pub fn api(&self) -> Option<&str> {
        match self {
            Self::Subscription(one) => Some(&one.api),
            Self::Denial(one) => one.api.as_deref(),
            _ => None,
        }
    }

    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Key(one) => one.user.as_deref(),
            Self::Denial(one) => one.user.as_deref(),
            _ => None,
        }
    }

    pub fn secret(&self) -> Option<&SecretHash> {
        match self {
            Self::Key(one) => Some(&one.sha256),
            _ => None,
        }
    }

    pub fn is_enabled(&self) -> bool {
        match self {
            Self::Api(one) => one.enabled,
            Self::Application(one) => one.enabled,
            Self::Subscription(one) => one.enabled,
            Self::Key(one) => one.enabled,
            Self::User(one) => one.enabled,
            Self::Denial(one) => one.enabled,
            Self::Revocation(_) | Self::Plan(_) => true,
        }
    }

    pub fn expires(&self) -> Option<Timestamp> {
        match self {
            Self::Key(one) => one.expires,
            Self::Revocation(one) => one.expires,
            _ => None,
        }
    }

    /// How it comes into a snapshot. What is checked with the whole file is not edited in.
    pub fn put(&self) -> Option<Edit> {
        Some(match self.clone() {
            Self::Api(_) | Self::Plan(_) | Self::Denial(_) => return None,
            Self::Application(one) => Edit::Application(one),
            Self::Subscription(one) => Edit::Subscription(one),
            Self::Key(one) => Edit::Key(one),
            Self::User(one) => Edit::User(one),
            Self::Revocation(one) => Edit::Revocation(one),
        })
    }

    /// How it leaves a snapshot.
    pub fn take(&self) -> Option<Edit> {
        Some(match self.clone() {
            Self::Api(_) | Self::Plan(_) | Self::Denial(_) => return None,
            Self::Application(one) => Edit::NoApplication(one.name),
            Self::Subscription(one) => Edit::NoSubscription(one.application, one.api),
            Self::Key(one) => Edit::NoKey(one.sha256),
            Self::User(one) => Edit::NoUser(one.name),
            Self::Revocation(one) => Edit::NoRevocation(one.revoked),
        })
    }

    /// Appends it to its family; its index there.
    pub fn join(&self, config: &mut Config) -> usize {
        fn push<T>(all: &mut Vec<T>, one: T) -> usize {
            all.push(one);
            all.len() - 1
        }
        match self.clone() {
            Self::Api(one) => push(&mut config.apis, *one),
            Self::Application(one) => push(&mut config.applications, one),
            Self::Subscription(one) => push(&mut config.subscriptions, one),
            Self::Key(one) => push(&mut config.keys, one),
            Self::User(one) => push(&mut config.users, one),
            Self::Revocation(one) => push(&mut config.revocations, one),
            Self::Plan(one) => push(&mut config.plans, one),
            Self::Denial(one) => push(&mut config.denials, one),
        }
    }
}

pub(super) fn subscription_id(application: &str, api: &str) -> String {
    format!("{application}/{api}")
}

/// What serde says holds the value that it did not expect, which may be a secret.
fn without_value(fault: &str) -> String {
    match (fault.starts_with("invalid "), fault.rsplit_once("expected ")) {
        (true, Some((_, expected))) => format!("a value is not of the right form: {expected} is expected"),
        _ => fault.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_not_expected_is_not_repeated() {
        for (kind, value) in [
            (Kind::User, json!({ "name": "alice", "password": ["hunter2"] })),
            (Kind::User, json!({ "name": "alice", "enabled": "hunter2" })),
            (Kind::Key, json!({ "name": "k", "application": "a", "sha256": "hunter2" })),
            (Kind::Key, json!("hunter2")),
        ] {
            let fault = Entry::read(kind, value).unwrap_err();
            assert!(!fault.contains("hunter2"), "{fault}");
        }
        let fault = Entry::read(Kind::User, json!({ "name": "alice", "enabled": "x" })).unwrap_err();
        assert!(fault.contains("a boolean is expected"), "{fault}");
        let fault = Entry::read(Kind::User, json!({ "name": "alice", "pasword": "x" })).unwrap_err();
        assert!(fault.contains("unknown field `pasword`"), "{fault}");
    }

    #[test]
    fn an_object_is_read_back_from_its_value() {
        for (kind, id, value) in [
            (
                Kind::Api,
                "chat:v1",
                json!({ "name": "chat", "version": "v1", "context": "/chat", "endpoints": { "production": { "upstream": "a" } } }),
            ),
            (Kind::Application, "mobile", json!({ "name": "mobile" })),
            (Kind::Subscription, "mobile/chat:v1", json!({ "application": "mobile", "api": "chat:v1" })),
            (Kind::User, "alice", json!({ "name": "alice", "scopes": ["chat"] })),
            (Kind::Plan, "gold", json!({ "name": "gold", "limits": [{ "rate": "100/s" }, { "quota": "5/day" }] })),
            (Kind::Denial, "mallory", json!({ "name": "mallory", "user": "mallory", "action": "drop" })),
            (Kind::Revocation, "user:alice", json!({ "revoked": "user:alice", "expires": "2027-01-31T12:00:00Z" })),
        ] {
            let entry = Entry::read(kind, value.clone()).unwrap();
            assert_eq!((entry.kind(), entry.id().as_str()), (kind, id));
            assert_eq!(entry.value(), value);
        }
    }
}
