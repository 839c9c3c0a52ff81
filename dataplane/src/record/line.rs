//! Lines of the session log: one JSON object each, at open, at close, and where a handshake was refused.
//!
//! Fields, in this order, are described in docs/session-log.md; a field without a value is left out.

use std::fmt::Write as _;
use std::time::Duration;

use proto::limits::LOG_DETAIL_BYTES_MAX;
use proto::snapshot::Environment;
use serde::ser::{SerializeMap, Serializer};

use super::session::{Name, SessionRecord, Text, push_bounded, without_port};
use super::{Cause, Direction, Side};
use crate::refusal::Refusal;
use crate::throttle::Throttled;

/// One line.
#[derive(Debug, Clone)]
pub enum Line {
    /// A session has begun.
    Opened(Box<SessionRecord>),
    /// A session is over.
    Closed(Box<Closed>),
    /// A handshake was refused.
    Refused(Box<Refused>),
}

/// The end of a session.
#[derive(Debug, Clone)]
pub struct Closed {
    /// Who and where.
    pub record: SessionRecord,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// From the 101 until the end.
    pub duration: Duration,
    /// Data messages, by [`Direction::index`].
    pub messages: [u64; 2],
    /// Payload bytes of data frames, by [`Direction::index`].
    pub bytes: [u64; 2],
    /// Messages that were left out because they were too much.
    pub throttled: Throttled,
    /// The close code: 1005 for a close frame without one, 1006 where there was none.
    pub code: u16,
    /// Who ended it.
    pub side: Side,
    /// Why.
    pub cause: Cause,
}

/// A handshake that did not lead to a session.
#[derive(Debug, Clone)]
pub struct Refused {
    record: SessionRecord,
    status: u16,
    reason: &'static str,
    blame: &'static str,
    detail: Option<Box<str>>,
}

impl Refused {
    /// Refused by the gateway.
    pub fn new(record: SessionRecord, refusal: Refusal) -> Self {
        let row = refusal.row();
        Self { record, status: row.status, reason: row.word, blame: row.blame.word(), detail: None }
    }

    /// The upstream answered with another status than 101.
    pub fn by_upstream(record: SessionRecord, status: u16) -> Self {
        Self { record, status, reason: "upstream_answered", blame: "upstream", detail: None }
    }

    /// With another status than the refusal's own.
    pub fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// With what else there is to say about it.
    pub fn with_detail(self, detail: Option<Box<str>>) -> Self {
        let bounded = |detail: Box<str>| {
            let mut text = String::new();
            push_bounded(&mut text, &detail, LOG_DETAIL_BYTES_MAX);
            text.into_boxed_str()
        };
        Self { detail: detail.map(bounded), ..self }
    }
}

impl Line {
    /// Appends the line and its line feed.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let written = self.serialize(&mut serde_json::Serializer::new(&mut *out));
        if written.is_err() {
            // Only an I/O error could do this, and a vector has none.
            out.truncate(start);
            return;
        }
        out.push(b'\n');
    }

    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Opened(record) => {
                who(&mut map, "open", record.numbers().time_ms, record, 101)?;
            }
            Self::Closed(closed) => {
                who(&mut map, "close", closed.time_ms, &closed.record, 101)?;
                how(&mut map, closed)?;
            }
            Self::Refused(refused) => {
                let record = &refused.record;
                who(&mut map, "refused", record.numbers().time_ms, record, refused.status)?;
                map.serialize_entry("reason", refused.reason)?;
                map.serialize_entry("blame", refused.blame)?;
                if let Some(detail) = &refused.detail {
                    map.serialize_entry("detail", detail)?;
                }
            }
        }
        map.end()
    }
}

fn who<M: SerializeMap>(
    map: &mut M,
    event: &str,
    time_ms: u64,
    record: &SessionRecord,
    status: u16,
) -> Result<(), M::Error> {
    let numbers = record.numbers();
    map.serialize_entry("time", &rfc3339(time_ms))?;
    map.serialize_entry("event", event)?;
    map.serialize_entry("session", &numbers.session.to_string())?;
    if numbers.trace_id != [0; 16] {
        map.serialize_entry("trace_id", &hex(&numbers.trace_id))?;
    }
    text(map, "request_id", record.text(Text::RequestId))?;
    map.serialize_entry("client", &numbers.client.to_string())?;
    text(map, "listener", record.name(Name::Listener))?;
    text(map, "host", record.text(Text::Host))?;
    text(map, "path", record.text(Text::Path))?;
    text(map, "api", record.name(Name::Api))?;
    text(map, "version", record.name(Name::Version))?;
    if !record.name(Name::Api).is_empty() {
        let environment = match numbers.environment {
            Environment::Production => "production",
            Environment::Sandbox => "sandbox",
        };
        map.serialize_entry("environment", environment)?;
    }
    text(map, "application", record.text(Text::Application))?;
    text(map, "user", record.text(Text::User))?;
    text(map, "credential", record.text(Text::Credential))?;
    text(map, "subprotocol", record.text(Text::Subprotocol))?;
    text(map, "extensions", record.text(Text::Extensions))?;
    map.serialize_entry("status", &status)?;
    text(map, "upstream", record.name(Name::Upstream))?;
    text(map, "endpoint", record.name(Name::Endpoint))?;
    map.serialize_entry("handshake_ms", &(f64::from(numbers.handshake_us) / 1000.0))?;
    secured(map, record)
}

/// What there is to say of TLS, on either leg.
fn secured<M: SerializeMap>(map: &mut M, record: &SessionRecord) -> Result<(), M::Error> {
    let numbers = record.numbers();
    if let Some(version) = numbers.tls.version {
        map.serialize_entry("tls_version", version)?;
        text(map, "tls_suite", record.name(Name::Suite))?;
        map.serialize_entry("tls_resumed", &numbers.tls.resumed)?;
        if numbers.tls.asked_for_host {
            text(map, "tls_server_name", &without_port(record.text(Text::Host)).to_ascii_lowercase())?;
        } else {
            text(map, "tls_server_name", record.text(Text::ServerName))?;
        }
    }
    text(map, "client_certificate", record.text(Text::Certificate))?;
    if let Some(fingerprint) = &numbers.fingerprint {
        map.serialize_entry("client_certificate_sha256", &hex(fingerprint))?;
    }
    text(map, "upstream_tls_version", numbers.tls.upstream.unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn text<M: SerializeMap>(map: &mut M, field: &'static str, text: &str) -> Result<(), M::Error> {
    if text.is_empty() { Ok(()) } else { map.serialize_entry(field, text) }
}

fn how<M: SerializeMap>(map: &mut M, closed: &Closed) -> Result<(), M::Error> {
    let (up, down) = (Direction::ToUpstream.index(), Direction::ToClient.index());
    map.serialize_entry("duration_ms", &(closed.duration.as_millis() as u64))?;
    map.serialize_entry("messages_to_upstream", &closed.messages[up])?;
    map.serialize_entry("messages_to_client", &closed.messages[down])?;
    map.serialize_entry("bytes_to_upstream", &closed.bytes[up])?;
    map.serialize_entry("bytes_to_client", &closed.bytes[down])?;
    if let Throttled { messages: 1.., by: Some(level) } = closed.throttled {
        map.serialize_entry("messages_throttled", &closed.throttled.messages)?;
        map.serialize_entry("throttled_by", level.word())?;
    }
    map.serialize_entry("code", &closed.code)?;
    map.serialize_entry("side", closed.side.word())?;
    map.serialize_entry("reason", closed.cause.word())?;
    map.serialize_entry("termination", &String::from_iter([closed.side.letter(), closed.cause.letter()]))
}

/// RFC 3339, UTC, with milliseconds. Days to civil date as in Howard Hinnant's `civil_from_days`.
fn rfc3339(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let day_of_epoch = days + 719_468;
    let era = day_of_epoch / 146_097;
    let day_of_era = day_of_epoch % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proto::ws::Violation;

    use crate::throttle::LevelKind;

    use super::super::session::tests::{facts, parts};
    use super::super::{Names, Peer, SessionParts};
    use super::*;

    fn written(line: Line) -> String {
        let mut out = Vec::new();
        line.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn record() -> SessionRecord {
        SessionRecord::new(&parts(), &mut Names::default(), &["lang"])
    }

    const WHO: &str = concat!(
        r#""session":"000000000000001f","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","#,
        r#""request_id":"0b6c1f0e7d0f4f5d","client":"203.0.113.7:52144","listener":"public","host":"chat.example.com","#,
        r#""path":"/chat/v1/rooms/7?access_token=***&lang=***","api":"chat","version":"v1","environment":"production","#,
        r#""subprotocol":"chat.v2","extensions":"permessage-deflate","status":101,"upstream":"chat","#,
        r#""endpoint":"10.0.0.5:9001","handshake_ms":4.321"#
    );

    #[test]
    fn the_opening_line_says_who_and_where() {
        let expected = format!("{{\"time\":\"2026-01-01T00:00:00.123Z\",\"event\":\"open\",{WHO}}}\n");
        assert_eq!(written(Line::Opened(Box::new(record()))), expected);
    }

    #[test]
    fn the_closing_line_stands_alone() {
        let closed = Closed {
            record: record(),
            time_ms: 1_767_225_661_000,
            duration: Duration::from_millis(60_877),
            messages: [3, 4],
            bytes: [300, 400],
            throttled: Throttled::default(),
            code: 1002,
            side: Side::Client,
            cause: Cause::Violation(Violation::Unmasked),
        };
        let expected = format!(
            concat!(
                r#"{{"time":"2026-01-01T00:01:01.000Z","event":"close",{},"duration_ms":60877,"#,
                r#""messages_to_upstream":3,"messages_to_client":4,"bytes_to_upstream":300,"bytes_to_client":400,"#,
                r#""code":1002,"side":"client","reason":"unmasked","termination":"CV"}}"#,
                "\n"
            ),
            WHO
        );
        assert_eq!(written(Line::Closed(Box::new(closed))), expected);
    }

    #[test]
    fn what_was_agreed_in_tls_stands_behind_it() {
        let facts = facts();
        let parts = SessionParts { tls: Some(&facts), upstream_tls: Some("tls1.2"), ..parts() };
        let line = written(Line::Opened(Box::new(SessionRecord::new(&parts, &mut Names::default(), &["lang"]))));
        let expected = format!(
            concat!(
                r#""tls_version":"tls1.3","tls_suite":"TLS_AES_256_GCM_SHA384","tls_resumed":true,"#,
                r#""tls_server_name":"chat.example.com","client_certificate":"CN=device 7","#,
                r#""client_certificate_sha256":"{}","upstream_tls_version":"tls1.2"}}"#,
            ),
            "ab".repeat(32)
        );
        assert!(line.trim_end().ends_with(&expected), "{line}");
    }

    #[test]
    fn what_is_said_of_a_refusal_is_bounded() {
        let detail = "x".repeat(2 * LOG_DETAIL_BYTES_MAX).into();
        let refused = Refused::new(record(), Refusal::UpstreamTls).with_detail(Some(detail));
        assert!(refused.detail.is_some_and(|detail| detail.len() <= LOG_DETAIL_BYTES_MAX && detail.ends_with('…')));
    }

    #[test]
    fn a_refusal_leaves_out_what_is_not_known() {
        let empty = SessionParts {
            trace_id: [0; 16],
            request_id: "",
            client: Peer::Unix,
            host: "",
            target: "",
            api: "",
            version: "",
            subprotocol: "",
            extensions: "",
            upstream: "",
            endpoint: "",
            ..parts()
        };
        let record = SessionRecord::new(&empty, &mut Names::default(), &["lang"]);
        assert_eq!(
            written(Line::Refused(Box::new(Refused::new(record, Refusal::BadHead)))),
            concat!(
                r#"{"time":"2026-01-01T00:00:00.123Z","event":"refused","session":"000000000000001f","client":"unix","#,
                r#""listener":"public","status":400,"handshake_ms":4.321,"reason":"bad_head","blame":"client"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn an_upstreams_own_answer_is_told_with_its_status() {
        let line = written(Line::Refused(Box::new(Refused::by_upstream(record(), 418))));
        assert!(
            line.contains(r#""status":418"#) && line.contains(r#""reason":"upstream_answered","blame":"upstream""#)
        );
    }

    #[test]
    fn peers_cannot_forge_lines() {
        let record = SessionRecord::new(
            &SessionParts { host: "a\"\n{\"event\":\"open\"}\u{1b}[2J", ..parts() },
            &mut Names::default(),
            &["x"],
        );
        let line = written(Line::Opened(Box::new(record)));
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.contains(r#""host":"a\"\n{\"event\":\"open\"}\u001b[2J""#), "{line}");
        serde_json::from_str::<serde_json::Value>(&line).unwrap();
    }

    #[test]
    fn the_manual_describes_every_field_and_no_other() {
        let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/session-log.md")).unwrap();
        let listed: BTreeSet<&str> = manual
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | ").map(|(field, _)| field))
            .collect();
        let closed = Closed {
            record: record(),
            time_ms: 0,
            duration: Duration::ZERO,
            messages: [0; 2],
            bytes: [0; 2],
            throttled: Throttled { messages: 1, by: Some(LevelKind::Keyed) },
            code: 1000,
            side: Side::Client,
            cause: Cause::Closed,
        };
        let facts = facts();
        let secured = SessionParts {
            tls: Some(&facts),
            upstream_tls: Some("tls1.3"),
            application: "mobile",
            user: "alice",
            credential: "bearer",
            ..parts()
        };
        let secured = SessionRecord::new(&secured, &mut Names::default(), &["lang"]);
        let lines = [
            written(Line::Closed(Box::new(closed))),
            written(Line::Refused(Box::new(
                Refused::new(secured, Refusal::UpstreamTls).with_detail(Some("why".into())),
            ))),
        ];
        let lines = lines.map(|line| serde_json::from_str::<BTreeMap<String, serde_json::Value>>(&line).unwrap());
        let found: BTreeSet<&str> = lines.iter().flat_map(BTreeMap::keys).map(String::as_str).collect();
        assert_eq!(listed, found);
    }

    #[test]
    fn dates_are_civil() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59.000Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (1_798_761_599_999, "2026-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
        }
    }
}
