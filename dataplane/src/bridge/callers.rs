//! The bridge's HTTP clients: one for each group of authorities, with its connections.
//!
//! Made when somebody is first called under those terms, and dropped when no tables name them any more. Whom to call, for
//! how long, and what an answer means, is the callers' business.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, redirect};
use rustls::ClientConfig;

use super::resolve::Resolver;

/// How long a connection waits for the next question.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections to one host that wait for the next question.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// The longest time an address is used without asking for it again.
const RESOLVE_TTL_MAX: Duration = Duration::from_secs(300);

/// HTTP clients, by the terms of TLS under which they call.
pub(super) struct Callers {
    names: Arc<Names>,
    /// By the address of the terms, which are kept beside it, so that it is nobody else's.
    clients: HashMap<usize, (Arc<ClientConfig>, Client)>,
}

impl Callers {
    pub(super) fn new(resolver: Resolver) -> Self {
        Self { names: Arc::new(Names(resolver)), clients: HashMap::new() }
    }

    /// Who calls under these terms. No redirect is followed, and no proxy is looked for in the environment.
    pub(super) fn of(&mut self, tls: &Arc<ClientConfig>) -> reqwest::Result<Client> {
        let key = Arc::as_ptr(tls).addr();
        if let Some((_, client)) = self.clients.get(&key) {
            return Ok(client.clone());
        }
        let client = Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(tls))
            .dns_resolver(Arc::clone(&self.names))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .tcp_nodelay(true)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build()?;
        self.clients.retain(|_, (terms, _)| Arc::strong_count(terms) > 1);
        self.clients.insert(key, (Arc::clone(tls), client.clone()));
        Ok(client)
    }
}

/// Names are resolved as those of endpoints are, and from the same cache.
struct Names(Resolver);

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.0.clone();
        Box::pin(async move {
            let found = resolver.resolve(name.as_str(), RESOLVE_TTL_MAX).await?;
            let addresses: Vec<SocketAddr> = found.iter().map(|address| SocketAddr::new(*address, 0)).collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
