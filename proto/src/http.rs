//! HTTP/1.1 message heads, RFC 9112, as far as an opening handshake needs them.
//!
//! Reads request and response heads into offsets, writes the answers that are not a 101, and tracks the bodies that are
//! relayed behind them. It refuses what is unsound and never repairs it: a byte that two parsers could read in two ways
//! is where request smuggling begins. What makes a request a WebSocket handshake is [`crate::ws::handshake`]'s.

pub mod answer;
pub mod body;
pub mod forwarding;
pub mod head;
pub mod host;
pub mod list;
pub mod percent;
pub mod request;
pub mod response;
mod scan;
pub mod target;

pub use answer::{reason_phrase, write_dictated, write_refusal, write_relayed_head};
pub use body::{BodyLength, ChunkFault, ChunkTracker, Chunked};
pub use head::{BadField, Fields, HeadFault, Span};
pub use host::Host;
pub use request::{RequestHead, RequestScan, RequestView};
pub use response::{ResponseHead, ResponseScan, ResponseView};
