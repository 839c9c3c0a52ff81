//! The messages of the control protocol, by kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::snapshot::{Digest, SectionList, SectionName};

/// Which generation of which control plane. Numbers of different sources are not compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// Names the control plane (one run of it) that gave the number.
    pub source: String,
    /// Counts the pushes of that source, from 1.
    pub number: u64,
}

/// Node to control plane, first: who I am. Kind 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION) of the node.
    pub protocol: u32,
    /// The node's name.
    pub node: String,
    /// The node's software version.
    pub software: String,
    /// Process id of the data plane.
    #[serde(default)]
    pub pid: u32,
    /// The generation that is being served, if any.
    #[serde(default)]
    pub applied: Option<Generation>,
    /// Sections that the node holds; a push need not carry them.
    #[serde(default)]
    pub sections: Vec<Digest>,
}

/// Control plane to node, in answer to [`Hello`]. Kind 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION) of the control plane.
    pub protocol: u32,
    /// The control plane's software version.
    pub software: String,
    /// How often a [`Report`] is wanted, in milliseconds; 0: only when asked.
    #[serde(default)]
    pub report_every_ms: u64,
}

/// Control plane to node: a whole generation. Exactly one [`Ack`] or [`Reject`] answers it. Kind 3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// The generation's name.
    pub generation: Generation,
    /// SHA-256 over the list: each section's name, a space, its digest and a line feed, in the list's order.
    pub checksum: Digest,
    /// Every section of the generation.
    pub sections: SectionList,
    /// The bytes of those sections that the node does not hold.
    #[serde(default)]
    pub bodies: Vec<Body>,
}

/// The bytes of one section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// Which section.
    pub name: SectionName,
    /// MessagePack of its part of the model.
    #[serde(with = "bytes")]
    pub bytes: Vec<u8>,
}

/// Node to control plane: the generation is being served. Kind 4.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The push that is answered.
    pub generation: Generation,
    /// How long it took to check, build and swap, in microseconds.
    #[serde(default)]
    pub micros: u64,
}

/// Node to control plane: nothing has changed, and why. Kind 5.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// The push that is answered.
    pub generation: Generation,
    /// Every reason, each a sentence that names the place.
    pub reasons: Vec<String>,
}

/// Control plane to node: stop accepting and let sessions end. Kind 6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Over how many milliseconds sessions are closed; none: the snapshot's drain window.
    #[serde(default)]
    pub window_ms: Option<u64>,
}

/// Control plane to node: send a [`Report`] now. Kind 7.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Returned in the report.
    #[serde(default)]
    pub ticket: u64,
}

/// Node to control plane: how it stands. Kind 8.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The ticket of the [`Ask`] that this answers; 0 for a report by the clock.
    #[serde(default)]
    pub ticket: u64,
    /// Seconds since the data plane started.
    #[serde(default)]
    pub uptime_s: u64,
    /// Workers.
    #[serde(default)]
    pub workers: u32,
    /// `io_uring` or `epoll`.
    #[serde(default)]
    pub driver: String,
    /// Whether it is draining.
    #[serde(default)]
    pub draining: bool,
    /// Live sessions.
    #[serde(default)]
    pub sessions: u64,
    /// Live sessions of each API, by `name` or `name:version`; only those that have any.
    #[serde(default)]
    pub sessions_by_api: BTreeMap<String, u64>,
    /// Sessions since start.
    #[serde(default)]
    pub sessions_total: u64,
    /// Handshakes refused since start.
    #[serde(default)]
    pub refusals_total: u64,
    /// Data messages relayed since start, both directions.
    #[serde(default)]
    pub messages_total: u64,
    /// Payload bytes relayed since start, both directions.
    #[serde(default)]
    pub bytes_total: u64,
}

/// Operator to control plane: one request, first on its connection. Kind 64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// How do you and your nodes stand?
    Status,
    /// Read the source again and push it.
    Reload,
    /// Make this file the source, and push it. An absolute path on the control plane's host.
    Apply {
        /// The file.
        file: String,
    },
    /// What would applying this file change?
    Diff {
        /// The file; an absolute path on the control plane's host.
        file: String,
    },
    /// Drain the nodes (all, or the one named).
    Drain {
        /// A node's name.
        node: Option<String>,
        /// Over how many milliseconds.
        window_ms: Option<u64>,
    },
}

/// Control plane to operator: the answer, as JSON text, and whether it is a success. Kind 65.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Whether what was asked has been done.
    pub ok: bool,
    /// A JSON document; its form depends on the request.
    pub json: String,
}

/// Any message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the struct of its name")]
pub enum Message {
    Hello(Hello),
    Welcome(Welcome),
    Push(Push),
    Ack(Ack),
    Reject(Reject),
    Drain(Drain),
    Ask(Ask),
    Report(Report),
    Request(Request),
    Response(Response),
}

/// Byte strings as MessagePack `bin`.
mod bytes {
    use serde::{Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}
