//! Configurations without end: each valid, each different, and always with the APIs whose sessions must not notice.

use std::net::TcpListener;

use crate::kit::{Port, Random, Setup};

/// Listeners, upstreams and APIs that come, change and go.
const LISTENERS: usize = 4;
const UPSTREAMS: usize = 6;
const APIS: usize = 24;

/// The source of configurations. What [`Setup`] says is in all of them.
pub struct Changes {
    random: Random,
    ports: Vec<Port>,
    /// Clients came in by it before it went; it comes back now and then.
    leaving: Port,
    backend: String,
    round: usize,
    invalid: usize,
    taken: TcpListener,
}

impl Changes {
    pub fn new(random: Random, backend: String) -> Self {
        let ports = (0..LISTENERS).map(|_| Port::free()).collect();
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self { random, ports, leaving: Port::free(), backend, round: 0, invalid: 0, taken }
    }

    /// The listener that sessions come in by and that then goes.
    pub fn leaving(&self) -> std::net::SocketAddr {
        self.leaving.address()
    }

    /// The number of the newest configuration; its API is at `/round-N`.
    pub fn round(&self) -> usize {
        self.round
    }

    /// The next valid configuration. In the first, every door is open at which sessions are to be opened.
    pub fn next(&mut self, setup: &Setup) -> String {
        self.round += 1;
        let (listeners, upstreams, apis) = (self.listeners(), self.upstreams(), self.apis());
        setup.yaml_with(&listeners, &upstreams, &apis)
    }

    /// A configuration that is not to be had, and a word of the reason.
    pub fn next_invalid(&mut self, setup: &Setup) -> (String, String) {
        (self.round, self.invalid) = (self.round + 1, self.invalid + 1);
        let listeners = self.listeners();
        let api = |members: &str| format!("name: invalid-{}, {members}", self.round);
        let endpoint = |name: &str| format!("endpoints: {{ production: {{ {name} }} }}");
        let url = endpoint("url: \"ws://127.0.0.1:1/\"");
        let with = |members: &str| setup.yaml_with(&listeners, &[], &[api(members)]);
        match self.invalid % 5 {
            0 => (with(&format!("context: /x, {}", endpoint("upstream: nobody"))), "nobody".into()),
            1 => (with(&format!("context: /x, teleport: true, {url}")), "teleport".into()),
            2 => (with(&format!("context: /stable, {url}")), "/stable".into()),
            3 => ("version: 1\nlisteners: [}".into(), "mismatched bracket".into()),
            _ => {
                let address = self.taken.local_addr().expect("an address").to_string();
                let taken = format!("name: taken, bind: \"{address}\"");
                (setup.yaml_with(&[taken], &[], &[]), "listener taken: cannot bind".into())
            }
        }
    }

    fn listeners(&mut self) -> Vec<String> {
        let mut listeners = Vec::new();
        if self.round == 1 || self.random.below(3) == 0 {
            listeners.push(format!("name: leaving, bind: \"{}\"", self.leaving.address()));
        }
        for (index, port) in self.ports.iter().enumerate() {
            let (backlog, seconds) = (1 + self.random.below(5000), 1 + self.random.below(20));
            if self.random.below(2) == 0 {
                let address = port.address();
                let options = format!("backlog: {backlog}, handshake_timeout: {seconds}s");
                listeners.push(format!("name: listener-{index}, bind: \"{address}\", {options}"));
            }
        }
        listeners
    }

    fn upstreams(&mut self) -> Vec<String> {
        let mut upstreams = vec![format!("name: changing, {}", self.upstream_options())];
        for index in 0..UPSTREAMS {
            let options = self.upstream_options();
            if index == 0 || self.random.below(2) == 0 {
                upstreams.push(format!("name: upstream-{index}, {options}"));
            }
        }
        upstreams
    }

    fn upstream_options(&mut self) -> String {
        let balance = ["round_robin", "least_sessions"][self.random.below(2)];
        let mask = ["keep", "fresh"][self.random.below(2)];
        let seconds = 1 + self.random.below(20);
        let endpoint = |number| format!("{{ url: \"{}?endpoint={number}\" }}", self.backend);
        let endpoints = (0..1 + self.random.below(3)).map(endpoint).collect::<Vec<_>>().join(", ");
        format!("balance: {balance}, mask: {mask}, connect_timeout: {seconds}s, endpoints: [{endpoints}]")
    }

    fn apis(&mut self) -> Vec<String> {
        let round = self.round;
        let own = format!("endpoints: {{ production: {{ url: \"{}\" }} }}", self.backend);
        let changing = format!(
            "name: changing, version: v1, context: /changing-{round}, endpoints: {{ production: {{ upstream: changing }} }}, \
             {}",
            self.api_options()
        );
        let mut apis = vec![changing, format!("name: round-{round}, context: /round-{round}, {own}")];
        for index in 0..APIS {
            let options = self.api_options();
            if self.random.below(2) == 0 {
                let target = if self.random.below(2) == 0 { own.as_str() } else { UPSTREAM_0 };
                apis.push(format!("name: api-{index}, context: /api-{index}, {target}, {options}"));
            }
        }
        apis
    }

    /// What live sessions may be given in passing, too: limits hold from their next message.
    fn api_options(&mut self) -> String {
        let (mebibytes, minutes) = (1 + self.random.below(8), 5 + self.random.below(60));
        let compression = ["pass", "off"][self.random.below(2)];
        let fragments = 2 + self.random.below(1000);
        format!(
            "compression: {compression}, session: {{ idle_timeout: {minutes}m, validate_utf8: {} }}, \
             limits: {{ max_message: {mebibytes}MiB, max_fragments: {fragments} }}",
            self.random.below(2) == 0
        )
    }
}

const UPSTREAM_0: &str = "endpoints: { production: { upstream: upstream-0 } }";
