//! Who and where of a session, packed small enough to be kept until its closing line is written.
//!
//! Secrets are removed on the way in: no [`SessionRecord`] holds one. What the lines look like is in `line`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proto::http::percent;
use proto::limits::{LOG_NAMES_MAX, LOG_TARGET_BYTES_MAX, LOG_TEXT_BYTES_MAX};
use proto::snapshot::Environment;

use crate::tls::{Facts, VERSIONS};

/// Names a session in logs, metrics' exemplars and commands; written as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
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
    /// What the TLS handshake with the client came to; none where TLS is not spoken.
    pub tls: Option<&'a Facts>,
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
    /// The application that the client's credential counts for.
    pub application: &'a str,
    /// The user.
    pub user: &'a str,
    /// The form of the credential, by its word.
    pub credential: &'a str,
    /// The agreed subprotocol.
    pub subprotocol: &'a str,
    /// The agreed extensions.
    pub extensions: &'a str,
    /// The upstream's name.
    pub upstream: &'a str,
    /// The endpoint's address.
    pub endpoint: &'a str,
    /// The version of TLS that is spoken with the endpoint.
    pub upstream_tls: Option<&'static str>,
    /// When the handshake ended, in milliseconds since 1970.
    pub time_ms: u64,
    /// How long the handshake took, from accept to answer.
    pub handshake: Duration,
}

/// Who and where of one session, without secrets: two pointers, and one allocation of a hundred and some bytes.
///
/// It is read when its line is written, and kept for as long as the session lives; so it is packed, and what many
/// sessions have in common, the names, is there once ([`Names`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// [`Numbers`], and the texts behind them.
    packed: Box<[u8]>,
    names: Arc<str>,
}

/// The texts that are a session's own, in the order in which they are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    RequestId,
    Host,
    Path,
    Subprotocol,
    Extensions,
    /// The server name that the client asked for (TLS), where it is another than the host's.
    ServerName,
    /// The subject of the client's certificate.
    Certificate,
    Application,
    User,
    /// The form of the credential.
    Credential,
}

impl Text {
    const ALL: [Self; 10] = [
        Self::RequestId,
        Self::Host,
        Self::Path,
        Self::Subprotocol,
        Self::Extensions,
        Self::ServerName,
        Self::Certificate,
        Self::Application,
        Self::User,
        Self::Credential,
    ];

    const fn bytes_max(self) -> usize {
        match self {
            Self::Path => LOG_TARGET_BYTES_MAX,
            _ => LOG_TEXT_BYTES_MAX,
        }
    }
}

/// The names of what a session has to do with, in the order in which they are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Listener,
    Api,
    Version,
    Upstream,
    Endpoint,
    /// Of the client's leg.
    Suite,
}

const _: () = assert!(LOG_TARGET_BYTES_MAX + (Text::ALL.len() - 1) * LOG_TEXT_BYTES_MAX <= u16::MAX as usize);

/// Between names. None of them has it: the configuration allows no control characters.
const NAME_END: char = '\0';

/// Combinations of names, each once for all sessions of a worker that have them; and the room in which records are made.
#[derive(Debug, Default)]
pub struct Names {
    known: HashSet<Arc<str>>,
    joined: String,
    texts: String,
    packed: Vec<u8>,
}

impl Names {
    fn of(&mut self, parts: &SessionParts<'_>) -> Arc<str> {
        self.joined.clear();
        let suite = parts.tls.map_or("", |tls| tls.suite);
        let names = [parts.listener, parts.api, parts.version, parts.upstream, parts.endpoint, suite];
        for (index, name) in names.into_iter().enumerate() {
            if index > 0 {
                self.joined.push(NAME_END);
            }
            push_bounded(&mut self.joined, name, LOG_TEXT_BYTES_MAX);
        }
        if let Some(known) = self.known.get(self.joined.as_str()) {
            return Arc::clone(known);
        }
        if self.known.len() >= LOG_NAMES_MAX {
            // Those that are in use live on with their sessions.
            self.known.clear();
        }
        let names: Arc<str> = self.joined.as_str().into();
        self.known.insert(Arc::clone(&names));
        names
    }
}

/// The numbers of a record, as they stand in front of its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) session: SessionId,
    pub(super) trace_id: [u8; 16],
    pub(super) time_ms: u64,
    pub(super) handshake_us: u32,
    pub(super) environment: Environment,
    pub(super) client: Peer,
    pub(super) tls: Tls,
    /// SHA-256 of the client's certificate.
    pub(super) fingerprint: Option<[u8; 32]>,
    /// Where each text ends; the first begins at 0.
    ends: [u16; Text::ALL.len()],
}

/// What TLS is like on both legs, as far as it fits a few bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tls {
    /// Of the client's leg; none where TLS is not spoken.
    pub(super) version: Option<&'static str>,
    pub(super) resumed: bool,
    /// The server name that was asked for is the request's host, as nearly always.
    pub(super) asked_for_host: bool,
    pub(super) upstream: Option<&'static str>,
}

impl Tls {
    fn of(parts: &SessionParts<'_>) -> Self {
        let server_name = parts.tls.and_then(|tls| tls.server_name.as_deref());
        let is_host =
            |name: &str| parts.host.len() <= LOG_TEXT_BYTES_MAX && name.eq_ignore_ascii_case(without_port(parts.host));
        Self {
            version: parts.tls.map(|tls| tls.version),
            resumed: parts.tls.is_some_and(|tls| tls.resumed),
            asked_for_host: server_name.is_some_and(is_host),
            upstream: parts.upstream_tls,
        }
    }

    fn pack(self) -> u8 {
        let version = |version: Option<&str>| {
            let at = VERSIONS.iter().position(|other| Some(*other) == version);
            at.map_or(0, |at| at as u8 + 1)
        };
        version(self.version)
            | version(self.upstream) << 2
            | u8::from(self.resumed) << 4
            | u8::from(self.asked_for_host) << 5
    }

    fn unpack(bits: u8) -> Self {
        let version = |bits: u8| usize::from(bits & 3).checked_sub(1).and_then(|at| VERSIONS.get(at).copied());
        Self {
            version: version(bits),
            upstream: version(bits >> 2),
            resumed: bits & 1 << 4 != 0,
            asked_for_host: bits & 1 << 5 != 0,
        }
    }
}

/// Bits of the first packed octet beside those of [`Tls`].
const SANDBOX: u8 = 1 << 6;
const FINGERPRINT: u8 = 1 << 7;

/// The name of a request's host: an address stands in brackets if it has colons of its own.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

impl Numbers {
    fn pack(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.session.0.to_le_bytes());
        out.extend_from_slice(&self.trace_id);
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        out.extend_from_slice(&self.handshake_us.to_le_bytes());
        let sandbox = if self.environment == Environment::Sandbox { SANDBOX } else { 0 };
        let fingerprint = if self.fingerprint.is_some() { FINGERPRINT } else { 0 };
        out.push(self.tls.pack() | sandbox | fingerprint);
        self.fingerprint.iter().for_each(|octets| out.extend_from_slice(octets));
        self.ends.iter().for_each(|end| out.extend_from_slice(&end.to_le_bytes()));
        match self.client {
            Peer::Unix => out.push(0),
            Peer::Ip(address) => {
                let (ip, port) = (address.ip().to_canonical(), address.port());
                match ip {
                    IpAddr::V4(ip) => {
                        out.push(4);
                        out.extend_from_slice(&ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        out.push(6);
                        out.extend_from_slice(&ip.octets());
                    }
                }
                out.extend_from_slice(&port.to_le_bytes());
            }
        }
    }

    /// The numbers, and the texts behind them.
    fn unpack(packed: &[u8]) -> (Self, &[u8]) {
        let mut reader = Reader { left: packed };
        let session = SessionId(u64::from_le_bytes(reader.octets()));
        let trace_id = reader.octets();
        let time_ms = u64::from_le_bytes(reader.octets());
        let handshake_us = u32::from_le_bytes(reader.octets());
        let [bits] = reader.octets();
        let environment = if bits & SANDBOX == 0 { Environment::Production } else { Environment::Sandbox };
        let fingerprint = (bits & FINGERPRINT != 0).then(|| reader.octets());
        let tls = Tls::unpack(bits);
        let ends = std::array::from_fn(|_| u16::from_le_bytes(reader.octets()));
        let client = match reader.octets() {
            [0] => Peer::Unix,
            [4] => reader.address::<4>(),
            _ => reader.address::<16>(),
        };
        let numbers = Self { session, trace_id, time_ms, handshake_us, environment, client, tls, fingerprint, ends };
        (numbers, reader.left)
    }
}

/// Takes from the front of what [`Numbers::pack`] has written.
struct Reader<'a> {
    left: &'a [u8],
}

impl Reader<'_> {
    fn octets<const N: usize>(&mut self) -> [u8; N] {
        let (octets, left) = self.left.split_first_chunk().expect("it was packed whole");
        self.left = left;
        *octets
    }

    fn address<const N: usize>(&mut self) -> Peer
    where
        IpAddr: From<[u8; N]>,
    {
        let ip = IpAddr::from(self.octets::<N>());
        Peer::Ip(SocketAddr::new(ip, u16::from_le_bytes(self.octets())))
    }
}

impl SessionRecord {
    /// Packs `parts`; values of the query parameters `access_token`, `apikey` and those of `secret_names` become `***`.
    pub fn new<S: AsRef<str>>(parts: &SessionParts<'_>, names: &mut Names, secret_names: &[S]) -> Self {
        let path = redact_query(parts.target, secret_names);
        let tls = Tls::of(parts);
        let certificate = parts.tls.and_then(|tls| tls.client.as_deref());
        let server_name = parts.tls.and_then(|tls| tls.server_name.as_deref()).filter(|_| !tls.asked_for_host);
        let texts = &mut names.texts;
        texts.clear();
        let ends = Text::ALL.map(|text| {
            let value = match text {
                Text::RequestId => parts.request_id,
                Text::Host => parts.host,
                Text::Path => &path,
                Text::Subprotocol => parts.subprotocol,
                Text::Extensions => parts.extensions,
                Text::ServerName => server_name.unwrap_or_default(),
                Text::Certificate => certificate.map_or("", |certificate| &certificate.subject),
                Text::Application => parts.application,
                Text::User => parts.user,
                Text::Credential => parts.credential,
            };
            push_bounded(texts, value, text.bytes_max());
            texts.len() as u16
        });
        let numbers = Numbers {
            session: parts.session,
            trace_id: parts.trace_id,
            time_ms: parts.time_ms,
            handshake_us: u32::try_from(parts.handshake.as_micros()).unwrap_or(u32::MAX),
            environment: parts.environment,
            client: parts.client,
            tls,
            fingerprint: certificate.map(|certificate| certificate.fingerprint),
            ends,
        };
        names.packed.clear();
        numbers.pack(&mut names.packed);
        names.packed.extend_from_slice(names.texts.as_bytes());
        Self { packed: names.packed.as_slice().into(), names: names.of(parts) }
    }

    pub(super) fn numbers(&self) -> Numbers {
        Numbers::unpack(&self.packed).0
    }

    pub(super) fn text(&self, text: Text) -> &str {
        let (numbers, texts) = Numbers::unpack(&self.packed);
        let index = text as usize;
        let start = index.checked_sub(1).map_or(0, |before| usize::from(numbers.ends[before]));
        std::str::from_utf8(&texts[start..usize::from(numbers.ends[index])]).expect("it was a text when it was packed")
    }

    pub(super) fn name(&self, name: Name) -> &str {
        self.names.split(NAME_END).nth(name as usize).unwrap_or_default()
    }
}

/// Appends at most `bytes_max` bytes of `value`, the mark of what is missing included.
///
/// Control characters beyond ASCII are replaced: JSON does not escape them, and terminals obey them.
pub(super) fn push_bounded(texts: &mut String, value: &str, bytes_max: usize) {
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
/// Query parameters whose values are never shown, whatever the configuration says.
pub const SECRET_NAMES: [&str; 2] = ["access_token", "apikey"];

/// The target with the values of secret query parameters replaced by `***`.
///
/// Names are compared after percent-decoding, without regard to case. Beside `&`, the separators `;` and `?` that some
/// servers know are honoured in favour of secrecy: behind a secret name, everything up to the next `&` is replaced.
pub fn redact_query<'a, S: AsRef<str>>(target: &'a str, secret_names: &[S]) -> Cow<'a, str> {
    let Some((path, query)) = target.split_once('?') else {
        return target.into();
    };
    let secret = |name: &str| {
        let name = percent::decode_leniently(name.as_bytes());
        let is = |secret: &str| name.eq_ignore_ascii_case(secret.as_bytes());
        SECRET_NAMES.iter().any(|secret| is(secret)) || secret_names.iter().any(|secret| is(secret.as_ref()))
    };
    let mut redacted = String::with_capacity(target.len());
    redacted.push_str(path);
    for (index, pair) in query.split('&').enumerate() {
        redacted.push(if index == 0 { '?' } else { '&' });
        redacted.push_str(&redact_pair(pair, &secret));
    }
    redacted.into()
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::tls::ClientCertificate;

    /// A typical session.
    pub(in crate::record) fn parts() -> SessionParts<'static> {
        SessionParts {
            session: SessionId(0x1f),
            trace_id: *b"\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36",
            request_id: "0b6c1f0e7d0f4f5d",
            client: Peer::Ip("203.0.113.7:52144".parse().unwrap()),
            listener: "public",
            tls: None,
            host: "chat.example.com",
            target: "/chat/v1/rooms/7?access_token=geheim&lang=de",
            api: "chat",
            version: "v1",
            environment: Environment::Production,
            application: "",
            user: "",
            credential: "",
            subprotocol: "chat.v2",
            extensions: "permessage-deflate",
            upstream: "chat",
            endpoint: "10.0.0.5:9001",
            upstream_tls: None,
            time_ms: 1_767_225_600_123,
            handshake: Duration::from_micros(4_321),
        }
    }

    /// What a client with a certificate came to.
    pub(in crate::record) fn facts() -> Facts {
        let certificate = ClientCertificate {
            subject: "CN=device 7".into(),
            fingerprint: [0xab; 32],
            ..ClientCertificate::default()
        };
        Facts {
            version: "tls1.3",
            suite: "TLS_AES_256_GCM_SHA384",
            server_name: Some("chat.example.com".into()),
            resumed: true,
            client: Some(Box::new(certificate)),
        }
    }

    const NO_NAMES: [&str; 0] = [];

    fn packed(parts: &SessionParts<'_>) -> SessionRecord {
        SessionRecord::new(parts, &mut Names::default(), &NO_NAMES)
    }

    #[test]
    fn texts_are_packed_and_found_again() {
        let record = packed(&parts());
        assert_eq!(record.text(Text::RequestId), "0b6c1f0e7d0f4f5d");
        assert_eq!(record.text(Text::Path), "/chat/v1/rooms/7?access_token=***&lang=de");
        assert_eq!(record.text(Text::Extensions), "permessage-deflate");
        assert_eq!(record.name(Name::Listener), "public");
        assert_eq!((record.name(Name::Api), record.name(Name::Version)), ("chat", "v1"));
        assert_eq!(record.name(Name::Endpoint), "10.0.0.5:9001");
        let numbers = record.numbers();
        assert_eq!((numbers.session, numbers.trace_id), (parts().session, parts().trace_id));
        assert_eq!((numbers.time_ms, numbers.handshake_us), (parts().time_ms, 4_321));
        for environment in [Environment::Production, Environment::Sandbox] {
            let record = packed(&SessionParts { environment, ..parts() });
            assert_eq!(record.numbers().environment, environment);
        }
        for (client, shown) in [
            (Peer::Unix, "unix"),
            (Peer::Ip("203.0.113.7:52144".parse().unwrap()), "203.0.113.7:52144"),
            (Peer::Ip("[2001:db8::7]:443".parse().unwrap()), "[2001:db8::7]:443"),
            (Peer::Ip("[::ffff:203.0.113.7]:1".parse().unwrap()), "203.0.113.7:1"),
        ] {
            let record = packed(&SessionParts { client, ..parts() });
            assert_eq!(record.numbers().client.to_string(), shown);
            assert_eq!(record.text(Text::Host), "chat.example.com");
        }
    }

    #[test]
    fn what_is_known_of_tls_is_packed_and_found_again() {
        let facts = facts();
        let plain = Tls { version: None, resumed: false, asked_for_host: false, upstream: None };
        assert_eq!(packed(&parts()).numbers().tls, plain);
        let record = packed(&SessionParts { tls: Some(&facts), upstream_tls: Some("tls1.2"), ..parts() });
        let tls = Tls { version: Some("tls1.3"), resumed: true, asked_for_host: true, upstream: Some("tls1.2") };
        assert_eq!(record.numbers().tls, tls);
        assert_eq!(record.numbers().fingerprint, Some([0xab; 32]));
        assert_eq!((record.text(Text::ServerName), record.text(Text::Certificate)), ("", "CN=device 7"));
        assert_eq!(record.name(Name::Suite), "TLS_AES_256_GCM_SHA384");
        assert_eq!(record.numbers().client, parts().client);
        for (host, name, text) in [
            ("Chat.example.com:8443", "chat.example.com", ""),
            ("other.example.com", "chat.example.com", "chat.example.com"),
            ("[::1]:443", "chat.example.com", "chat.example.com"),
        ] {
            let facts = Facts { server_name: Some(name.into()), client: None, ..super::tests::facts() };
            let record = packed(&SessionParts { tls: Some(&facts), host, ..parts() });
            assert_eq!((record.text(Text::ServerName), record.numbers().fingerprint), (text, None), "{host}");
        }
    }

    #[test]
    fn names_are_there_once_and_forgotten_when_they_are_many() {
        let mut names = Names::default();
        let mut of = |endpoint: &str| SessionRecord::new(&SessionParts { endpoint, ..parts() }, &mut names, &NO_NAMES);
        let (one, same, other) = (of("a"), of("a"), of("b"));
        assert!(Arc::ptr_eq(&one.names, &same.names) && !Arc::ptr_eq(&one.names, &other.names));
        for number in 0..LOG_NAMES_MAX {
            of(&number.to_string());
        }
        let again = of("a");
        assert_eq!(one, again);
        assert!(!Arc::ptr_eq(&one.names, &again.names));
        assert!(names.known.len() <= LOG_NAMES_MAX);
    }

    #[test]
    fn a_typical_record_stays_small() {
        let bytes = size_of::<SessionRecord>() + packed(&parts()).packed.len();
        assert!(bytes <= 220, "{bytes}");
    }

    #[test]
    fn texts_are_bounded_at_a_character() {
        let long = "ä".repeat(LOG_TEXT_BYTES_MAX);
        let target = format!("/{long}{long}{long}{long}{long}{long}{long}{long}");
        let record = packed(&SessionParts { host: &long, target: &target, ..parts() });
        let host = record.text(Text::Host);
        assert!(host.len() <= LOG_TEXT_BYTES_MAX && host.len() > LOG_TEXT_BYTES_MAX - 4, "{}", host.len());
        assert!(host.ends_with("ä…"));
        assert!(record.text(Text::Path).len() <= LOG_TARGET_BYTES_MAX);
        let exact = "x".repeat(LOG_TEXT_BYTES_MAX);
        let record = packed(&SessionParts { host: &exact, ..parts() });
        assert_eq!(record.text(Text::Host), exact);
    }

    #[test]
    fn control_characters_that_json_does_not_escape_are_replaced() {
        let record = packed(&SessionParts { host: "a\u{9b}31mb\u{7f}", ..parts() });
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
