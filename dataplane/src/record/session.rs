//! Who and where of a session, packed small enough to be kept until its closing line is written.
//!
//! Secrets are removed on the way in: no [`SessionRecord`] holds one. What the lines look like is in `line`.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use proto::limits::{LOG_TARGET_BYTES_MAX, LOG_TEXT_BYTES_MAX};
use proto::snapshot::Environment;

/// Names a session in logs, metrics' exemplars and commands; written as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Where a client comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Address and port; the believed one where a trusted proxy named it.
    Ip(SocketAddr),
    /// A process on this host.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// What a [`SessionRecord`] is made of. A text that is not known (yet) is empty.
#[derive(Debug, Clone, Copy)]
pub struct SessionParts<'a> {
    /// The session's name.
    pub session: SessionId,
    /// The trace that the handshake belongs to (W3C Trace Context §3.2.2.3).
    pub trace_id: [u8; 16],
    /// The request id that both legs carry.
    pub request_id: &'a str,
    /// Who connected.
    pub client: Peer,
    /// The listener's name.
    pub listener: &'a str,
    /// The request's host.
    pub host: &'a str,
    /// The request target, secrets included; they do not get past [`SessionRecord::new`].
    pub target: &'a str,
    /// The API's name.
    pub api: &'a str,
    /// The API's version.
    pub version: &'a str,
    /// The environment of the API.
    pub environment: Environment,
    /// The agreed subprotocol.
    pub subprotocol: &'a str,
    /// The agreed extensions.
    pub extensions: &'a str,
    /// The upstream's name.
    pub upstream: &'a str,
    /// The endpoint's address.
    pub endpoint: &'a str,
    /// When the handshake ended, in milliseconds since 1970.
    pub time_ms: u64,
    /// How long the handshake took, from accept to answer.
    pub handshake: Duration,
}

/// Who and where of one session, without secrets: about 110 bytes and one allocation for the texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    pub(super) session: SessionId,
    pub(super) trace_id: [u8; 16],
    pub(super) client: Peer,
    pub(super) time_ms: u64,
    pub(super) handshake_us: u32,
    pub(super) environment: Environment,
    /// Where each text ends in `texts`; the first begins at 0.
    ends: [u16; Text::ALL.len()],
    texts: Box<str>,
}

/// The texts of a record, in the order in which they are packed and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    RequestId,
    Listener,
    Host,
    Path,
    Api,
    Version,
    Subprotocol,
    Extensions,
    Upstream,
    Endpoint,
}

impl Text {
    pub(super) const ALL: [Self; 10] = [
        Self::RequestId,
        Self::Listener,
        Self::Host,
        Self::Path,
        Self::Api,
        Self::Version,
        Self::Subprotocol,
        Self::Extensions,
        Self::Upstream,
        Self::Endpoint,
    ];

    const fn bytes_max(self) -> usize {
        match self {
            Self::Path => LOG_TARGET_BYTES_MAX,
            _ => LOG_TEXT_BYTES_MAX,
        }
    }
}

const _: () = assert!(LOG_TARGET_BYTES_MAX + (Text::ALL.len() - 1) * LOG_TEXT_BYTES_MAX <= u16::MAX as usize);

impl SessionRecord {
    /// Packs `parts`; values of the query parameters `access_token`, `apikey` and those of `secret_names` become `***`.
    pub fn new<S: AsRef<str>>(parts: &SessionParts<'_>, secret_names: &[S]) -> Self {
        let path = redact_query(parts.target, secret_names);
        let mut texts = String::with_capacity(256);
        let ends = Text::ALL.map(|text| {
            let value = match text {
                Text::RequestId => parts.request_id,
                Text::Listener => parts.listener,
                Text::Host => parts.host,
                Text::Path => &path,
                Text::Api => parts.api,
                Text::Version => parts.version,
                Text::Subprotocol => parts.subprotocol,
                Text::Extensions => parts.extensions,
                Text::Upstream => parts.upstream,
                Text::Endpoint => parts.endpoint,
            };
            push_bounded(&mut texts, value, text.bytes_max());
            texts.len() as u16
        });
        Self {
            session: parts.session,
            trace_id: parts.trace_id,
            client: parts.client,
            time_ms: parts.time_ms,
            handshake_us: u32::try_from(parts.handshake.as_micros()).unwrap_or(u32::MAX),
            environment: parts.environment,
            ends,
            texts: texts.into_boxed_str(),
        }
    }

    /// The session's name.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The API's name and version.
    pub fn api(&self) -> (&str, &str) {
        (self.text(Text::Api), self.text(Text::Version))
    }

    pub(super) fn text(&self, text: Text) -> &str {
        let index = text as usize;
        let start = index.checked_sub(1).map_or(0, |before| usize::from(self.ends[before]));
        &self.texts[start..usize::from(self.ends[index])]
    }
}

/// Appends at most `bytes_max` bytes of `value`, the mark of what is missing included.
///
/// Control characters beyond ASCII are replaced: JSON does not escape them, and terminals obey them.
fn push_bounded(texts: &mut String, value: &str, bytes_max: usize) {
    const MISSING: &str = "…";
    let start = texts.len();
    let mut cut = start;
    for character in value.chars() {
        let character = match character {
            '\u{7f}'..='\u{9f}' => char::REPLACEMENT_CHARACTER,
            character => character,
        };
        if texts.len() + character.len_utf8() - start > bytes_max {
            texts.truncate(cut);
            texts.push_str(MISSING);
            return;
        }
        texts.push(character);
        if texts.len() - start + MISSING.len() <= bytes_max {
            cut = texts.len();
        }
    }
}

/// Query parameters that carry credentials, whatever the settings say.
const SECRET_NAMES: [&str; 2] = ["access_token", "apikey"];

/// The target with the values of secret query parameters replaced by `***`.
///
/// Names are compared after percent-decoding, without regard to case. Beside `&`, the separators `;` and `?` that some
/// servers know are honoured in favour of secrecy: behind a secret name, everything up to the next `&` is replaced.
pub fn redact_query<S: AsRef<str>>(target: &str, secret_names: &[S]) -> String {
    let Some((path, query)) = target.split_once('?') else {
        return target.to_owned();
    };
    let secret = |name: &str| {
        let name = percent_decoded(name);
        let is = |secret: &str| name.eq_ignore_ascii_case(secret.as_bytes());
        SECRET_NAMES.iter().any(|secret| is(secret)) || secret_names.iter().any(|secret| is(secret.as_ref()))
    };
    let mut redacted = String::with_capacity(target.len());
    redacted.push_str(path);
    for (index, pair) in query.split('&').enumerate() {
        redacted.push(if index == 0 { '?' } else { '&' });
        redacted.push_str(&redact_pair(pair, &secret));
    }
    redacted
}

fn redact_pair<'a>(pair: &'a str, secret: &impl Fn(&str) -> bool) -> Cow<'a, str> {
    let mut start = 0;
    for part in pair.split([';', '?']) {
        if let Some((name, _)) = part.split_once('=')
            && secret(name)
        {
            return format!("{}=***", &pair[..start + name.len()]).into();
        }
        start += part.len() + 1;
    }
    pair.into()
}

/// `application/x-www-form-urlencoded` decoding of a name; what is not an escape stands for itself.
fn percent_decoded(name: &str) -> Vec<u8> {
    let hex = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        let escape = match after {
            [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        rest = match escape {
            Some((high, low)) => {
                decoded.push(high << 4 | low);
                &after[2..]
            }
            None => {
                decoded.push(*first);
                after
            }
        };
    }
    decoded
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A typical session.
    pub(in crate::record) fn parts() -> SessionParts<'static> {
        SessionParts {
            session: SessionId(0x1f),
            trace_id: *b"\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36",
            request_id: "0b6c1f0e7d0f4f5d",
            client: Peer::Ip("203.0.113.7:52144".parse().unwrap()),
            listener: "public",
            host: "chat.example.com",
            target: "/chat/v1/rooms/7?access_token=geheim&lang=de",
            api: "chat",
            version: "v1",
            environment: Environment::Production,
            subprotocol: "chat.v2",
            extensions: "permessage-deflate",
            upstream: "chat",
            endpoint: "10.0.0.5:9001",
            time_ms: 1_767_225_600_123,
            handshake: Duration::from_micros(4_321),
        }
    }

    const NO_NAMES: [&str; 0] = [];

    #[test]
    fn texts_are_packed_and_found_again() {
        let record = SessionRecord::new(&parts(), &NO_NAMES);
        assert_eq!(record.text(Text::RequestId), "0b6c1f0e7d0f4f5d");
        assert_eq!(record.text(Text::Path), "/chat/v1/rooms/7?access_token=***&lang=de");
        assert_eq!(record.text(Text::Endpoint), "10.0.0.5:9001");
        assert_eq!(record.api(), ("chat", "v1"));
    }

    #[test]
    fn a_typical_record_stays_small() {
        let record = SessionRecord::new(&parts(), &NO_NAMES);
        let bytes = size_of::<SessionRecord>() + record.texts.len();
        assert!(bytes <= 350, "{bytes}");
    }

    #[test]
    fn texts_are_bounded_at_a_character() {
        let long = "ä".repeat(LOG_TEXT_BYTES_MAX);
        let target = format!("/{long}{long}{long}{long}{long}{long}{long}{long}");
        let record = SessionRecord::new(&SessionParts { host: &long, target: &target, ..parts() }, &NO_NAMES);
        let host = record.text(Text::Host);
        assert!(host.len() <= LOG_TEXT_BYTES_MAX && host.len() > LOG_TEXT_BYTES_MAX - 4, "{}", host.len());
        assert!(host.ends_with("ä…"));
        assert!(record.text(Text::Path).len() <= LOG_TARGET_BYTES_MAX);
        let exact = "x".repeat(LOG_TEXT_BYTES_MAX);
        let record = SessionRecord::new(&SessionParts { host: &exact, ..parts() }, &NO_NAMES);
        assert_eq!(record.text(Text::Host), exact);
    }

    #[test]
    fn control_characters_that_json_does_not_escape_are_replaced() {
        let record = SessionRecord::new(&SessionParts { host: "a\u{9b}31mb\u{7f}", ..parts() }, &NO_NAMES);
        assert_eq!(record.text(Text::Host), "a\u{fffd}31mb\u{fffd}");
    }

    #[test]
    fn secrets_in_the_query_are_replaced() {
        for (target, redacted) in [
            ("/a", "/a"),
            ("/a?", "/a?"),
            ("/a?b=c", "/a?b=c"),
            ("/a?access_token=x", "/a?access_token=***"),
            ("/a?b=c&apikey=x&d=e", "/a?b=c&apikey=***&d=e"),
            ("/a?ACCESS_TOKEN=x&ApiKey=y", "/a?ACCESS_TOKEN=***&ApiKey=***"),
            ("/a?%61ccess%5Ftoken=x", "/a?%61ccess%5Ftoken=***"),
            ("/a?access_token=x;y=z&b=c", "/a?access_token=***&b=c"),
            ("/a?b=c;access_token=x;y", "/a?b=c;access_token=***"),
            ("/a?b?apikey=x", "/a?b?apikey=***"),
            ("/a?access_token=x=y", "/a?access_token=***"),
            ("/a?access_token", "/a?access_token"),
            ("/a?access_tokens=x&session=s1", "/a?access_tokens=x&session=***"),
            ("/a?%zz=1&%=2&%6=3&&=", "/a?%zz=1&%=2&%6=3&&="),
            ("/access_token=x", "/access_token=x"),
        ] {
            assert_eq!(redact_query(target, &["Session"]), redacted, "{target}");
        }
    }
}
