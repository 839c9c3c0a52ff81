//! How the control plane asks others over HTTP: TLS by ring, no redirects, no proxy, within a time.
//!
//! What is asked, and how much of an answer is read, is the caller's to say.

use std::sync::Arc;
use std::time::Duration;

use proto::errors::with_sources;
use reqwest::Client;
use rustls::RootCertStore;

/// How long a whole exchange may take, its connection included.
pub const WITHIN: Duration = Duration::from_secs(10);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Whom this host trusts.
pub fn roots_of_the_host() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// A client that trusts these. Redirects are not followed: where to ask is the operator's to say.
pub fn client(roots: RootCertStore) -> Result<Client, String> {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_WITHIN)
        .timeout(WITHIN)
        .user_agent(concat!("framegate/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| with_sources(&error))
}
