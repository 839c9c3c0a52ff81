//! One look-up: the hosts file first, then A and AAAA over DNS at the same time, within one deadline.
//!
//! Both system files are read again when they change. nsswitch is not read.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::system_conf::parse_resolv_conf;
use proto::limits::RESOLVER_ADDRESSES_MAX;

use super::cache::Outcome;

/// After this a look-up has failed, whatever the name servers still do.
pub(super) const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);
/// How long one question to one name server may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the other family is waited for when one has answered, RFC 8305 §3.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// An answer from the hosts file; the file is looked at again after it.
const HOSTS_TTL: Duration = Duration::from_secs(5);
/// How often the system's files are looked at.
const FILES_EVERY: Duration = Duration::from_secs(5);

/// Who is asked for names.
#[derive(Debug, Clone)]
pub struct NameServers {
    /// These, instead of those of `resolv_conf`, if there are any.
    pub servers: Vec<SocketAddr>,
    /// The system's resolver configuration. Where there is none, a name server on this host is asked, as the C library does.
    pub resolv_conf: PathBuf,
    /// The system's static names.
    pub hosts: PathBuf,
}

impl Default for NameServers {
    fn default() -> Self {
        Self { servers: Vec::new(), resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }
}

/// The names' source, kept up to date with the system's files.
pub(super) struct Names {
    name_servers: NameServers,
    looked_at: Option<Instant>,
    stamps: [Option<SystemTime>; 2],
    hosts: BTreeMap<String, Vec<IpAddr>>,
    /// `None` if the configuration cannot be used; every question then fails.
    resolver: Option<Arc<TokioResolver>>,
}

impl Names {
    pub(super) fn new(name_servers: NameServers) -> Self {
        Self { name_servers, looked_at: None, stamps: [None; 2], hosts: BTreeMap::new(), resolver: None }
    }

    /// Looks one name up. `name` is in lower case.
    pub(super) fn look_up(&mut self, name: &str) -> impl Future<Output = Outcome> + Send + 'static {
        self.refresh(Instant::now());
        let local = self.hosts.get(name).cloned();
        let resolver = self.resolver.clone();
        let name = name.to_owned();
        async move {
            match (local, resolver) {
                (Some(addresses), _) => Outcome::Found { addresses, ttl: HOSTS_TTL },
                (None, Some(resolver)) => ask(&resolver, &name).await,
                (None, None) => Outcome::Failed,
            }
        }
    }

    fn refresh(&mut self, now: Instant) {
        if self.looked_at.is_some_and(|at| now < at + FILES_EVERY) {
            return;
        }
        let stamp = |path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let stamps = [stamp(&self.name_servers.resolv_conf), stamp(&self.name_servers.hosts)];
        if self.looked_at.is_none() || stamps != self.stamps {
            self.hosts = hosts(&fs::read_to_string(&self.name_servers.hosts).unwrap_or_default());
            self.resolver = match resolver(&self.name_servers) {
                Ok(resolver) => Some(Arc::new(resolver)),
                Err(error) => {
                    tracing::error!(%error, "names can be resolved from the hosts file only");
                    None
                }
            };
            self.stamps = stamps;
        }
        self.looked_at = Some(now);
    }
}

/// Lines of `ADDRESS NAME…`, with comments behind `#`.
fn hosts(text: &str) -> BTreeMap<String, Vec<IpAddr>> {
    let mut hosts: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(address) = words.next().and_then(|address| address.parse().ok()) else { continue };
        for name in words {
            let addresses = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
            if !addresses.contains(&address) && addresses.len() < RESOLVER_ADDRESSES_MAX {
                addresses.push(address);
            }
        }
    }
    hosts.values_mut().for_each(|addresses| addresses.sort_by_key(IpAddr::is_ipv6));
    hosts
}

fn resolver(name_servers: &NameServers) -> Result<TokioResolver, NetError> {
    let (mut config, mut options) = match fs::read(&name_servers.resolv_conf) {
        // A file without a name server line is an error here, and means this host to the C library.
        Ok(text) => parse_resolv_conf(text).unwrap_or_else(|_| this_host()),
        Err(_) => this_host(),
    };
    if !name_servers.servers.is_empty() {
        let (domain, search, _) = config.into_parts();
        config = ResolverConfig::from_parts(domain, search, name_servers.servers.iter().map(name_server).collect());
    }
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // The cache in front of us honours each asker's own ceiling; a second one behind it would only add to the age.
    options.cache_size = 0;
    options.timeout = options.timeout.min(ATTEMPT_TIMEOUT);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

fn this_host() -> (ResolverConfig, ResolverOpts) {
    let server = NameServerConfig::udp_and_tcp(std::net::Ipv4Addr::LOCALHOST.into());
    (ResolverConfig::from_name_servers(vec![server]), ResolverOpts::default())
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let on_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![on_port(ConnectionConfig::udp()), on_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

/// Asks for both families. Whoever has addresses waits for the other only a moment more.
async fn ask(resolver: &TokioResolver, name: &str) -> Outcome {
    let (mut v4, mut v6) = (None, None);
    let mut asking_v4 = pin!(family(resolver, name, RecordType::A));
    let mut asking_v6 = pin!(family(resolver, name, RecordType::AAAA));
    let mut patience = pin!(tokio::time::sleep(LOOKUP_DEADLINE));
    while v4.is_none() || v6.is_none() {
        let answer = tokio::select! {
            answer = &mut asking_v4, if v4.is_none() => v4.insert(answer),
            answer = &mut asking_v6, if v6.is_none() => v6.insert(answer),
            () = &mut patience => break,
        };
        if matches!(answer, Outcome::Found { .. }) {
            patience.as_mut().reset(tokio::time::Instant::now() + RESOLUTION_DELAY);
        }
    }
    both(v4.unwrap_or(Outcome::Failed), v6.unwrap_or(Outcome::Failed))
}

/// A name is absent only if both families say so.
fn both(v4: Outcome, v6: Outcome) -> Outcome {
    match (v4, v6) {
        (Outcome::Found { mut addresses, ttl }, Outcome::Found { addresses: more, ttl: other }) => {
            addresses.extend(more);
            Outcome::Found { addresses, ttl: ttl.min(other) }
        }
        (found @ Outcome::Found { .. }, _) | (_, found @ Outcome::Found { .. }) => found,
        (Outcome::Absent, Outcome::Absent) => Outcome::Absent,
        _ => Outcome::Failed,
    }
}

async fn family(resolver: &TokioResolver, name: &str, record_type: RecordType) -> Outcome {
    match resolver.lookup(name, record_type).await {
        Ok(lookup) => {
            let records = lookup.answers();
            let addresses: Vec<_> =
                records.iter().filter_map(|record| record.data.ip_addr()).take(RESOLVER_ADDRESSES_MAX).collect();
            let ttl_s = records.iter().map(|record| record.ttl).min().unwrap_or(0);
            match addresses.is_empty() {
                true => Outcome::Absent,
                false => Outcome::Found { addresses, ttl: Duration::from_secs(ttl_s.into()) },
            }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            Outcome::Absent
        }
        Err(error) => {
            tracing::debug!(%error, name, ?record_type, "a look-up failed");
            Outcome::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_read_as_the_system_does() {
        let hosts = hosts(
            "# comment\n127.0.0.1 localhost loop.\n::1\tlocalhost ip6-localhost # more\n\nnonsense a\n10.0.0.1 Box box\n",
        );
        let localhost: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(hosts.get("localhost"), Some(&localhost));
        assert_eq!(hosts.get("loop").map(Vec::len), Some(1));
        assert_eq!(hosts.get("box").map(Vec::len), Some(1));
        assert_eq!(hosts.get("a"), None);
    }

    #[test]
    fn a_name_is_absent_only_if_both_families_say_so() {
        let found = |last| Outcome::Found { addresses: vec![[10, 0, 0, last].into()], ttl: Duration::from_secs(9) };
        assert_eq!(both(Outcome::Absent, Outcome::Absent), Outcome::Absent);
        assert_eq!(both(Outcome::Absent, Outcome::Failed), Outcome::Failed);
        assert_eq!(both(found(1), Outcome::Failed), found(1));
        assert_eq!(both(Outcome::Absent, found(2)), found(2));
    }
}
