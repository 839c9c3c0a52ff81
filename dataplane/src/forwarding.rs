//! What the next server is told of a client's way here, and which of the client's own headers do not travel.
//!
//! Connecting and forward-auth both tell it, so that who decides and who serves hear the same. How the fields are written
//! is `proto::http::forwarding`'s.

use std::net::IpAddr;

use proto::http::RequestView;
use proto::http::forwarding::{append_list, forwarded_element, kept_list};

use crate::handshake::{Downstream, Request};
use crate::onward::Onward;
use crate::tables::Tables;

/// Who the client is by its certificate, as the fields of a request are looked up.
const CLIENT_CERTIFICATE: &str = "x-forwarded-client-cert";

/// A client's way here, in fields.
pub struct Told<'a> {
    proto: &'a str,
    host: &'a str,
    forwarded: String,
    hops: Option<String>,
    certificates: String,
    request_id: (&'a str, &'a str),
    trace: String,
}

impl<'a> Told<'a> {
    /// What is believed of what a proxy said, and what is known here.
    pub fn of(tables: &'a Tables, request: &'a Request, downstream: &'a Downstream) -> Self {
        let view = request.view();
        let believed = downstream.is_trusted();
        let client_host = view.authority();
        let peer: Option<IpAddr> = downstream.peer().map(|peer| peer.ip().to_canonical());
        let existing = |name| view.header_values(name).filter(move |_| believed);
        let certificate = downstream.tls.as_ref().and_then(|tls| tls.client.as_deref());
        Self {
            proto: scheme(&view, downstream),
            host: view.header_str("x-forwarded-host").filter(|_| believed).unwrap_or(client_host),
            forwarded: append_list(
                existing("forwarded"),
                &forwarded_element(peer, Some(client_host), spoken_here(downstream)),
            ),
            hops: peer.map(|peer| append_list(existing("x-forwarded-for"), &peer.to_string())),
            certificates: match certificate {
                Some(certificate) => append_list(existing(CLIENT_CERTIFICATE), &certificate.forwarded()),
                None => kept_list(existing(CLIENT_CERTIFICATE)),
            },
            request_id: (&tables.settings().request_id_header, &downstream.seen.request_id),
            trace: downstream.seen.trace.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }

    /// The fields, in place of whatever the client sent under their names.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let certificates = Some(self.certificates.as_str()).filter(|list| !list.is_empty());
        [
            ("X-Forwarded-Proto", Some(self.proto)),
            ("X-Forwarded-Host", Some(self.host)),
            ("Forwarded", Some(self.forwarded.as_str())),
            (self.request_id.0, Some(self.request_id.1)),
            ("traceparent", Some(self.trace.as_str())),
            ("X-Forwarded-For", self.hops.as_deref()),
            ("X-Forwarded-Client-Cert", certificates),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| (name, value)))
    }
}

/// `http` or `https`: as a trusted proxy says, or as it is spoken here.
pub fn scheme<'a>(view: &RequestView<'a>, downstream: &Downstream) -> &'a str {
    let told = view.header_str("x-forwarded-proto").filter(|_| downstream.is_trusted());
    told.unwrap_or(spoken_here(downstream))
}

fn spoken_here(downstream: &Downstream) -> &'static str {
    if downstream.tls.is_some() { "https" } else { "http" }
}

/// Names of headers of the client that do not travel, beside those of one connection only.
pub fn withheld<'a>(downstream: &'a Downstream, onward: &'a Onward) -> Vec<&'a str> {
    let mut withheld: Vec<&str> = downstream.listener.environment_header.as_deref().into_iter().collect();
    if !downstream.seen.continues_trace {
        // It belongs to a trace that ended here.
        withheld.push("tracestate");
    }
    withheld.extend(onward.withheld());
    withheld
}
