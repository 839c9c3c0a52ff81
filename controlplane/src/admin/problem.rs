//! What an answer says that is a no: RFC 9457, `application/problem+json`.
//!
//! One list of everything that can be wrong, with its status and its title; what it was this time is said by whoever
//! found it. No value of a request stands in one, but for the names that it used.

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The media type.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What kind of no it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request cannot be read: its query, its head, its JSON.
    BadRequest,
    /// Nobody is known by what was presented, or nothing was.
    Unauthenticated,
    /// The caller's role does not allow it.
    ForbiddenRole,
    /// It came from, or was meant for, another site.
    ForeignSite,
    /// There is no such page, or no such thing.
    NotFound,
    /// The page has no such method.
    MethodNotAllowed,
    /// There is one already.
    Exists,
    /// A file of the configuration declares it, so only the file can change it.
    Declared,
    /// Something else refers to it, or the store is in no state for it.
    Conflict,
    /// It is not, or not any more, as the condition says.
    PreconditionFailed,
    /// The body is larger than any that is sound.
    TooLarge,
    /// The body is not JSON by its own account.
    UnsupportedMediaType,
    /// The object is not sound.
    Invalid,
    /// The body did not come in time.
    TooSlow,
    /// It is our doing.
    Internal,
    /// It cannot be done at present.
    Unavailable,
}

impl Fault {
    /// Every one, for the manual and the OpenAPI document.
    pub const ALL: [Self; 16] = [
        Self::BadRequest,
        Self::Unauthenticated,
        Self::ForbiddenRole,
        Self::ForeignSite,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::TooSlow,
        Self::Exists,
        Self::Declared,
        Self::Conflict,
        Self::PreconditionFailed,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Invalid,
        Self::Internal,
        Self::Unavailable,
    ];

    /// Status, the word that ends its `type`, and its title.
    pub const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BadRequest => (400, "bad-request", "The request cannot be read"),
            Self::Unauthenticated => (401, "unauthenticated", "Say who you are"),
            Self::ForbiddenRole => (403, "forbidden-role", "Your role does not allow this"),
            Self::ForeignSite => (403, "foreign-site", "Requests of other sites are not answered"),
            Self::NotFound => (404, "not-found", "There is no such thing"),
            Self::MethodNotAllowed => (405, "method-not-allowed", "This cannot be done here"),
            Self::TooSlow => (408, "too-slow", "The request took too long"),
            Self::Exists => (409, "exists", "There is one already"),
            Self::Declared => (409, "declared", "A file declares this"),
            Self::Conflict => (409, "conflict", "Something stands against it"),
            Self::PreconditionFailed => (412, "precondition-failed", "It is not as you think"),
            Self::TooLarge => (413, "too-large", "The body is too large"),
            Self::UnsupportedMediaType => (415, "unsupported-media-type", "The body must be JSON"),
            Self::Invalid => (422, "invalid", "The object is not sound"),
            Self::Internal => (500, "internal", "This is our doing"),
            Self::Unavailable => (503, "unavailable", "This cannot be done at present"),
        }
    }

    /// The `type` of the problem: a name, not a page.
    pub fn uri(self) -> String {
        format!("urn:framegate:problem:{}", self.row().1)
    }
}

/// A no, with what it was this time.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Its kind.
    pub fault: Fault,
    /// A sentence: what is wrong, and what would be right.
    pub detail: String,
    /// Of an object that is not sound: every place, as a JSON Pointer into it, with what is wrong there.
    pub errors: Vec<(String, String)>,
    /// Of a thing that a file declares: the file.
    pub file: Option<String>,
    /// Of a method that a page does not have: those that it has.
    pub allow: Option<String>,
    /// Somebody else changed the object between our reading and our writing: it may be tried again.
    pub is_race: bool,
}

impl Problem {
    /// With a sentence.
    pub fn new(fault: Fault, detail: impl Into<String>) -> Self {
        Self { fault, detail: detail.into(), errors: Vec::new(), file: None, allow: None, is_race: false }
    }

    /// An object that is not sound.
    pub fn invalid(errors: Vec<(String, String)>) -> Self {
        let count = errors.len();
        let noun = if count == 1 { "error" } else { "errors" };
        Self { errors, ..Self::new(Fault::Invalid, format!("the object has {count} {noun}; see errors")) }
    }

    /// The same of an object that stands at this JSON Pointer. What names no place is wrong with all of the object.
    pub fn inside(mut self, around: &str) -> Self {
        if self.errors.is_empty() {
            self.errors.push((String::new(), self.detail.clone()));
        }
        for (pointer, _) in &mut self.errors {
            pointer.insert_str(0, around);
        }
        self
    }

    /// The document, about the request target `instance`.
    pub fn document(&self, instance: &str) -> Value {
        let (status, _, title) = self.fault.row();
        let mut document = json!({
            "type": self.fault.uri(),
            "title": title,
            "status": status,
            "detail": self.detail,
            "instance": instance,
        });
        if !self.errors.is_empty() {
            let error = |(pointer, detail): &(String, String)| json!({ "pointer": pointer, "detail": detail });
            document["errors"] = self.errors.iter().map(error).collect();
        }
        if let Some(file) = &self.file {
            document["file"] = json!(file);
        }
        document
    }

    /// The answer to a request for this target.
    pub fn answer(&self, instance: &str) -> Response {
        let (status, ..) = self.fault.row();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response =
            (status, [(CONTENT_TYPE, MEDIA_TYPE)], Body::from(self.document(instance).to_string())).into_response();
        if self.fault == Fault::Unauthenticated {
            let challenge = HeaderValue::from_static("Bearer realm=\"framegate-admin\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        if let Some(allow) = self.allow.as_deref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }
}
