//! A minimal proxy on pingora: every request to one endpoint, one thread, one line a request in a log.
//!
//! `peer-pingora LISTEN UPSTREAM [LOG]`. What it costs is measured by the bench `peers`.

use std::fs::File;
use std::io::Write;

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

struct Proxy {
    upstream: String,
    log: Option<File>,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(&self.upstream, false, String::new())))
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut Self::CTX) {
        let Some(mut log) = self.log.as_ref() else { return };
        let client = session.client_addr().map(ToString::to_string).unwrap_or_default();
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        let sent = session.body_bytes_sent();
        let line = format!("{client} {} {status} {sent}\n", self.request_summary(session, context));
        // A line that cannot be written is lost, as with any access log.
        let _ = log.write_all(line.as_bytes());
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(upstream)) = (arguments.next(), arguments.next()) else {
        eprintln!("pingora {}; peer-pingora LISTEN UPSTREAM [LOG]", version());
        std::process::exit(2);
    };
    let log = arguments.next().map(|path| {
        File::options().create(true).append(true).open(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    });
    let configuration = ServerConf { threads: 1, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, configuration);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Proxy { upstream, log });
    service.add_tcp(&listen);
    server.add_service(service);
    server.run_forever();
}

/// Of pingora, from what this was built with.
fn version() -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let entry = lock.split_once("name = \"pingora\"\nversion = \"").map_or("", |(_, rest)| rest);
    entry.split('"').next().unwrap_or_default()
}
