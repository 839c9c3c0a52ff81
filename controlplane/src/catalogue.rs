//! The published objects: APIs, applications, subscriptions, keys, users, revocations, plans and denials, wherever they
//! come from.
//!
//! Each is declared in the configuration file, and read-only here, brought by the gateway, or stored in the database, and changed by
//! [`Office::change`](crate::office::Office::change). This module has the words for that; the [`office`](crate::office)
//! publishes what comes of it, and HTTP is the admin API's.

mod books;
mod declared;
mod entry;
mod neighbourhood;
mod plans;
mod rows;
mod stored;
mod told;

use std::fmt;
use std::str::FromStr;

use proto::control::message::Generation;
use proto::snapshot::{Digest, Problem, Timestamp};
use serde_json::Value;

pub use books::Books;
pub(crate) use books::Clients;
pub use declared::Declared;
pub(crate) use entry::Entry;
pub(crate) use neighbourhood::count;
pub(crate) use plans::{built_in, built_in_list};
pub(crate) use rows::{counts, expired, find, list};

use crate::answer::NodeOutcome;
use crate::store::StoreError;

/// Changes of one call.
pub const CHANGES_MAX: usize = 10_000;
/// Objects of one page.
pub const PAGE_MAX: usize = 1000;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An API version. Its id is `name`, or `name:version`.
    Api,
    /// An application, by its name.
    Application,
    /// A subscription: `APPLICATION/API`.
    Subscription,
    /// An API key, by its name.
    Key,
    /// A user, by its name.
    User,
    /// A revocation, by what it revokes: `user:alice`.
    Revocation,
    /// A plan, by its name.
    Plan,
    /// A denial, by its name.
    Denial,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Api,
        Self::Application,
        Self::Subscription,
        Self::Key,
        Self::User,
        Self::Revocation,
        Self::Plan,
        Self::Denial,
    ];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Application => "application",
            Self::Subscription => "subscription",
            Self::Key => "key",
            Self::User => "user",
            Self::Revocation => "revocation",
            Self::Plan => "plan",
            Self::Denial => "denial",
        }
    }

    /// The list in the configuration that holds such objects.
    pub const fn family(self) -> &'static str {
        match self {
            Self::Api => "apis",
            Self::Application => "applications",
            Self::Subscription => "subscriptions",
            Self::Key => "keys",
            Self::User => "users",
            Self::Revocation => "revocations",
            Self::Plan => "plans",
            Self::Denial => "denials",
        }
    }

    /// Whether there may be a million of them, each checked with its neighbours only; the others are checked with the
    /// whole file.
    pub const fn is_of_people(self) -> bool {
        !matches!(self, Self::Api | Self::Plan | Self::Denial)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Kind {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a kind is api, application, subscription, key, user, revocation, plan or denial";
        Self::ALL.into_iter().find(|kind| kind.word() == word).ok_or(FORM)
    }
}

/// Where an object comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It stands in this file of the configuration, and is changed there.
    Declared {
        /// The file.
        file: String,
    },
    /// It was created through the admin API.
    Stored,
    /// The gateway brings it: a plan. One of the same name, declared or stored, stands in its place.
    BuiltIn,
}

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// How it is called, unique in its kind.
    pub id: String,
    /// The object as the configuration would have it. Holds hashes of passwords, clients' secrets and keys: whoever shows
    /// it to somebody shows [`Object::shown`].
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
    /// Changes with the value.
    pub etag: String,
    /// When it was stored.
    pub created: Option<Timestamp>,
    /// When it was stored last.
    pub updated: Option<Timestamp>,
}

impl Object {
    fn new(kind: Kind, id: String, value: Value, origin: Origin) -> Self {
        let etag = Digest::of(value.to_string().as_bytes()).to_string()[..32].to_owned();
        Self { kind, id, value, origin, etag, created: None, updated: None }
    }

    /// The value without any hash of a secret: a user has `has_password`, a client `has_secret` in its place.
    pub fn shown(&self) -> Value {
        shown(self.kind, self.value.clone())
    }
}

/// See [`Object::shown`].
pub(crate) fn shown(kind: Kind, mut value: Value) -> Value {
    let told = |holder: &mut Value, field: &str, instead: &str| {
        if let Some(object) = holder.as_object_mut() {
            let has = object.remove(field).is_some();
            object.insert(instead.into(), has.into());
        }
    };
    match kind {
        Kind::Key => {
            value.as_object_mut().map(|key| key.remove("sha256"));
        }
        Kind::User => told(&mut value, "password", "has_password"),
        Kind::Application => {
            let clients = value.get_mut("clients").and_then(Value::as_array_mut);
            clients.into_iter().flatten().for_each(|client| told(client, "secret", "has_secret"));
        }
        Kind::Api | Kind::Subscription | Kind::Revocation | Kind::Plan | Kind::Denial => {}
    }
    value
}

/// Which objects of a kind are wanted. What is not said excludes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of this application.
    pub application: Option<String>,
    /// Those of this API version, by its label.
    pub api: Option<String>,
    /// Those of this user.
    pub user: Option<String>,
    /// Those that are switched on, or off.
    pub enabled: Option<bool>,
    /// Those whose id has this in it.
    pub text: Option<String>,
}

/// Some objects of a kind, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// The objects.
    pub items: Vec<Object>,
    /// The id after which the next page begins; none: this is the last one.
    pub next: Option<String>,
}

/// What must be so for a change to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing. To delete, it must still be there.
    #[default]
    Any,
    /// There is no such object yet.
    MustBeNew,
    /// There is such an object.
    MustExist,
    /// There is such an object, with this etag.
    MustMatch(String),
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Creates or replaces an object.
    Put {
        /// What it is.
        kind: Kind,
        /// How it is called. The value must say the same.
        id: String,
        /// The object as the configuration would have it.
        value: Value,
        /// When.
        condition: Condition,
    },
    /// Deletes an object.
    Delete {
        /// What it is.
        kind: Kind,
        /// How it is called.
        id: String,
        /// When.
        condition: Condition,
        /// Deletes the subscriptions and keys of an application, or the subscriptions to an API, as well. Otherwise they
        /// must be deleted in the same call. A user who counts for an application always stays in its way.
        cascade: bool,
    },
}

impl Change {
    pub(crate) fn target(&self) -> (Kind, &str) {
        match self {
            Self::Put { kind, id, .. } | Self::Delete { kind, id, .. } => (*kind, id),
        }
    }

    pub(crate) fn condition(&self) -> &Condition {
        match self {
            Self::Put { condition, .. } | Self::Delete { condition, .. } => condition,
        }
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// The objects that were put, in the order of the changes.
    pub objects: Vec<Object>,
    /// The objects that are gone, those deleted by a cascade included.
    pub removed: Vec<(Kind, String)>,
    /// What is published now. None: the configuration file is not sound, so nothing is published yet.
    pub generation: Option<Generation>,
    /// What the nodes say to it, where that was waited for.
    pub nodes: Vec<NodeOutcome>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such object.
    #[error("there is no {kind} {id:?}")]
    NotFound {
        /// What.
        kind: Kind,
        /// Which.
        id: String,
    },
    /// There is one already.
    #[error("there is a {kind} {id:?} already")]
    Exists {
        /// What.
        kind: Kind,
        /// Which.
        id: String,
    },
    /// It is not ours to change.
    #[error("the {kind} {id:?} is declared in {file} and can only be changed there")]
    Declared {
        /// What.
        kind: Kind,
        /// Which.
        id: String,
        /// The file.
        file: String,
    },
    /// It is the gateway's own.
    #[error("the gateway brings the {kind} {id:?}: it can be replaced, and not deleted")]
    BuiltIn {
        /// What.
        kind: Kind,
        /// Which.
        id: String,
    },
    /// Somebody else was first.
    #[error("the {kind} {id:?} has been changed meanwhile; read it again (its etag is {etag} now)")]
    Stale {
        /// What.
        kind: Kind,
        /// Which.
        id: String,
        /// What its etag is.
        etag: String,
    },
    /// The result would not be sound. A place is a JSON Pointer: the change's index in the call, then the value's own.
    #[error("{}", .0.iter().map(|one| one.message.as_str()).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Problem>),
    /// Others refer to it.
    #[error(
        "the {kind} {id:?} is used by {}; {}",
        .by.iter().take(10).map(|(kind, id)| format!("{kind} {id:?}")).collect::<Vec<_>>().join(", "),
        if *.kind == Kind::Plan { "give those another first" } else { "delete those first, or all at once by a cascade" }
    )]
    InUse {
        /// What.
        kind: Kind,
        /// Which.
        id: String,
        /// Everything that refers to it, up to [`PAGE_MAX`]: the word of its kind or family, and its id.
        by: Vec<(&'static str, String)>,
    },
    /// Nothing is published yet.
    #[error(
        "the configuration file is not sound, so nothing can be added to it; correct it first, see framegate status"
    )]
    Unready,
    /// The database did not do it.
    #[error("the change was not stored")]
    Store(#[from] StoreError),
}
