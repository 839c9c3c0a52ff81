//! Settings, listeners and upstreams, each by itself and among its kind.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::words::{header_problem, name_problem, origin_problem};
use super::{Names, Problems, Spot, tls};
use crate::limits::{
    CIDRS_MAX, DRAIN_WINDOW_MS_MAX, ENDPOINTS_MAX, NAME_BYTES_MAX, ORIGINS_MAX, PATH_BYTES_MAX, SECRET_PARAMETERS_MAX,
};
use crate::snapshot::{Bind, EndpointUrl, Listener, Place, Settings, Upstream};

/// Length of the kernel's accept queue: it takes a `u16` on some kernels.
const BACKLOG_MAX: u32 = 65_535;

pub(super) fn settings(settings: &Settings, names: &Names<'_>, problems: &mut Problems) {
    if !settings.unauthenticated_plan.is_empty() {
        names.plans.known(&settings.unauthenticated_plan, "/settings/unauthenticated_plan", problems);
    }
    super::limits::admission(&settings.admission, "/settings/admission", problems);
    problems.duration_up_to("/settings/drain_window", settings.drain_window, 0, DRAIN_WINDOW_MS_MAX);
    let warning = settings.certificate_expiry_warning;
    problems.duration("/settings/certificate_expiry_warning", warning, 0);
    problems.add_if("/settings/request_id_header", header_problem(&settings.request_id_header));
    problems.ceiling("/settings/origins", "origins", settings.origins.len(), ORIGINS_MAX);
    super::api::words(&settings.origins, "/settings/origins", origin_problem, problems);
    let parameters = &settings.secret_query_parameters;
    let place = "/settings/secret_query_parameters";
    problems.ceiling(place, "secret query parameters", parameters.len(), SECRET_PARAMETERS_MAX);
    for (at, parameter) in parameters.iter().enumerate() {
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'&' | b'=' | b'#');
        if parameter.is_empty() || parameter.len() > NAME_BYTES_MAX || !parameter.bytes().all(plain) {
            problems.add(
                format_args!("{place}/{at}"),
                format!(
                    "{parameter:?} is not the name of a query parameter; write it as it stands in the query, at most {NAME_BYTES_MAX} bytes, without & and ="
                ),
            );
        }
    }
}

pub(super) fn listeners(listeners: &[&Listener], settings: &Settings, known: &Names<'_>, problems: &mut Problems) {
    let mut names = HashMap::new();
    let mut binds = Binds::default();
    for (at, listener) in listeners.iter().enumerate() {
        let spot = problems.spot("listeners", at, &listener.name, "");
        unique_name(&mut names, "listener", &listener.name, spot, problems);
        binds.claim(listener, spot, problems);
        if !(1..=BACKLOG_MAX).contains(&listener.backlog) {
            let message = format!("a backlog of {} is not possible; use 1 to {BACKLOG_MAX}", listener.backlog);
            problems.add(format_args!("{spot}/backlog"), message);
        }
        problems.duration(format_args!("{spot}/handshake_timeout"), listener.handshake_timeout, 1);
        for (field, ranges) in
            [("proxy_protocol_from", &listener.proxy_protocol_from), ("trusted_proxies", &listener.trusted_proxies)]
        {
            problems.ceiling(format_args!("{spot}/{field}"), "address ranges", ranges.len(), CIDRS_MAX);
        }
        if let Some(spoken) = &listener.tls {
            tls::listener(spoken, known, spot, problems);
        }
        if let Some(header) = &listener.environment_header {
            let owned = header.eq_ignore_ascii_case(&settings.request_id_header).then(|| {
                format!("the header {header} already carries the request id; choose another for the environment")
            });
            problems.add_if(format_args!("{spot}/environment_header"), header_problem(header).or(owned));
        }
    }
}

/// The addresses that are taken. A wildcard address takes its port on every address of its family.
#[derive(Default)]
struct Binds<'a> {
    by_port: HashMap<u16, Vec<(SocketAddr, &'a str)>>,
    sockets: HashMap<&'a std::path::Path, &'a str>,
}

impl<'a> Binds<'a> {
    fn claim(&mut self, listener: &'a Listener, spot: Spot<'_>, problems: &mut Problems) {
        let place = format_args!("{spot}/bind");
        let name = listener.name.as_str();
        let holder = match &listener.bind {
            Bind::Unix(path) => self.sockets.insert(path, name),
            Bind::Tcp(address) if address.port() == 0 => {
                problems.add(place, "port 0 is no port to connect to; choose one from 1 to 65535");
                None
            }
            Bind::Tcp(address) => {
                let holders = self.by_port.entry(address.port()).or_default();
                let holder = holders.iter().find(|(held, _)| overlap(held, address)).map(|(_, name)| *name);
                holders.push((*address, name));
                holder
            }
        };
        if let Some(holder) = holder {
            let bind = &listener.bind;
            problems
                .add(place, format!("listener {holder:?} already takes {bind}; give each listener its own address"));
        }
    }
}

fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    let (one, other) = (one.ip().to_canonical(), other.ip().to_canonical());
    one == other || one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified())
}

pub(super) fn upstreams(upstreams: &[&Upstream], known: &Names<'_>, problems: &mut Problems) {
    let mut names = HashMap::with_capacity(upstreams.len());
    for (at, upstream) in upstreams.iter().enumerate() {
        let spot = problems.spot("upstreams", at, &upstream.name, "");
        unique_name(&mut names, "upstream", &upstream.name, spot, problems);
        if upstream.endpoints.is_empty() {
            problems.add(format_args!("{spot}/endpoints"), "an upstream needs at least one endpoint; add its URL");
        }
        problems.ceiling(format_args!("{spot}/endpoints"), "endpoints", upstream.endpoints.len(), ENDPOINTS_MAX);
        let mut urls = HashSet::with_capacity(upstream.endpoints.len());
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            let place = format_args!("{spot}/endpoints/{index}/url");
            if !urls.insert(&endpoint.url) {
                problems.add(place, format!("{} is already an endpoint of this upstream; leave one out", endpoint.url));
            }
            problems.add_if(place, url_problem(&endpoint.url));
        }
        problems.duration(format_args!("{spot}/connect_timeout"), upstream.connect_timeout, 1);
        problems.duration(format_args!("{spot}/handshake_timeout"), upstream.handshake_timeout, 1);
        problems.duration(format_args!("{spot}/resolve_ttl_max"), upstream.resolve_ttl_max, 0);
        tls::upstream(upstream, known, spot, problems);
    }
}

/// A URL that was read from text is sound; one that was put together may not be.
pub(super) fn url_problem(url: &EndpointUrl) -> Option<String> {
    if url.path.len() + url.query.as_ref().map_or(0, String::len) > PATH_BYTES_MAX {
        return Some(format!("the path and query of an endpoint have at most {PATH_BYTES_MAX} bytes; shorten them"));
    }
    if is_plainly_sound(url) {
        return None;
    }
    match url.to_string().parse::<EndpointUrl>() {
        Ok(read) if read == *url => None,
        Ok(read) => Some(format!("the URL of this endpoint would be read back as {read}; write it so")),
        Err(fault) => Some(fault.into()),
    }
}

/// Says yes, without an allocation, to the URLs of nearly all endpoints: there may be 100,000 in a push.
fn is_plainly_sound(url: &EndpointUrl) -> bool {
    let Place::Tcp { host, port } = &url.place else { return false };
    let in_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let in_path = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    let in_query = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    (1..=253).contains(&host.len())
        && *port != 0
        && host.bytes().all(in_host)
        && url.path.starts_with('/')
        && url.path.bytes().all(in_path)
        && url.query.as_ref().is_none_or(|query| query.bytes().all(in_query))
}

pub(super) fn unique_name<'a>(
    names: &mut HashMap<&'a str, usize>,
    kind: &str,
    name: &'a str,
    spot: Spot<'_>,
    problems: &mut Problems,
) {
    problems.add_if(format_args!("{spot}/name"), name_problem(&format!("the {kind}'s name"), name));
    if let Some(index) = names.insert(name, spot.index) {
        let other = Spot { index, ..spot };
        problems.add(format_args!("{spot}/name"), format!("there is another {kind} {name:?} ({other}); rename one"));
    }
}
