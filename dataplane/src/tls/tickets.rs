//! What lets a session be resumed: ticket keys on the clients' leg, remembered sessions on the upstreams'.
//!
//! A resumed session is not asked for a certificate again, so keys live only as long as the rules under which
//! certificates were asked for (nginx shared them between servers with different rules: CVE-2025-23419). Each listener
//! has keys of its own, which all workers share and which rustls replaces every six hours: a ticket is good for six to
//! twelve hours, and none outlives the process.

use std::sync::Arc;

use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::ring::Ticketer;
use rustls::server::ProducesTickets;

/// Tickets that a client gets with a full handshake, and with one that was resumed: each is used once.
pub(super) const TICKETS_SENT: usize = 2;
/// Names of endpoints of one upstream whose sessions are remembered; rustls keeps up to eight tickets of each.
pub(super) const REMEMBERED_NAMES_MAX: usize = 256;
const TICKETS_OF_A_NAME: usize = 8;

/// Fresh keys, for one listener.
pub(super) fn keys() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    Ticketer::new()
}

/// Room for the sessions with so many names.
pub(super) fn memory(names: usize) -> Resumption {
    let names = names.clamp(1, REMEMBERED_NAMES_MAX);
    Resumption::store(Arc::new(ClientSessionMemoryCache::new(names * TICKETS_OF_A_NAME)))
}
