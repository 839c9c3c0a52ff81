//! A session of which one leg is under TLS: what its peer seals is what the session gets, however it is cut; what the
//! session sends is what the peer opens; whatever is changed on the way is noticed, and ends it; and nobody is kept
//! waiting by more than a record.

use std::cell::Cell;
use std::sync::{Arc, LazyLock};

use dataplane::record::{ApiCounters, Record};
use dataplane::relay::session::{CONTROL_FRAME_MAX, Facts, LegState};
use dataplane::relay::{Birth, Keys, Leg, Session};
use dataplane::tls::handshake::memory;
use dataplane::tls::records::{Alert, End, RECORD_MAX, Records, sealed_max};
use proto::snapshot::{MessageLimits, SessionOptions};
use rustls::crypto::ring::{cipher_suite as suites, default_provider};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite};

const SUITES: [SupportedCipherSuite; 4] = [
    suites::TLS13_AES_128_GCM_SHA256,
    suites::TLS13_CHACHA20_POLY1305_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

type Configs = (Arc<ClientConfig>, Arc<ServerConfig>);

static CONFIGS: LazyLock<[Configs; 4]> = LazyLock::new(|| SUITES.map(configs));

fn configs(suite: SupportedCipherSuite) -> Configs {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate can be made");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::CryptoProvider { cipher_suites: vec![suite], ..default_provider() });
    let version = if suite.tls13().is_some() { &rustls::version::TLS13 } else { &rustls::version::TLS12 };
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("it is sound");
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[version]);
    let server = server.expect("the suite is of this version").with_no_client_auth();
    let mut server = server.with_single_cert(vec![made.cert.der().clone()], key).expect("the key fits");
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
    let client = client.expect("the suite is of this version").with_root_certificates(roots);
    let mut client = client.with_no_client_auth();
    (client.enable_secret_extraction, server.enable_secret_extraction) = (true, true);
    (Arc::new(client), Arc::new(server))
}

/// First byte: suite, and which leg is under TLS. The rest: operations, a byte each, with their arguments behind them.
pub fn run(bytes: &[u8]) {
    let [choices, operations @ ..] = bytes else { return };
    let (client, server) = &CONFIGS[usize::from(choices & 3)];
    let (far, near) = memory::pair(client, server).expect("both are sound and trust each other");
    let leg = Leg::BOTH[usize::from(choices >> 2 & 1)];
    // The gateway is the server of a client, and the client of an endpoint.
    let (far, here) = if leg == Leg::Client { (far, near) } else { (near, far) };
    let mut bench = Bench::new(leg, far, here);
    let mut rest = operations;
    while let Some((&operation, after)) = rest.split_first() {
        rest = after;
        bench.operate(operation, &mut rest);
        if bench.over {
            return;
        }
    }
    bench.deliver(usize::MAX);
}

struct Bench {
    leg: Leg,
    far: Records,
    here: Records,
    session: Session,
    counters: Arc<ApiCounters>,
    keys: Keys,
    /// Sealed by the far end, and on its way.
    under_way: Vec<u8>,
    /// What was in it, as far as it was not opened yet.
    said: Vec<u8>,
    tampered: bool,
    /// Something is under way that the far end would not say; what it says may be taken for what it is not.
    forged: bool,
    over: bool,
}

impl Bench {
    fn new(leg: Leg, far: Records, here: Records) -> Self {
        let limits = Arc::new(MessageLimits::default());
        let birth = Birth::new(limits, 1);
        KEY.set(0);
        Self {
            leg,
            far,
            here,
            session: Session::new(birth),
            counters: Record::new(1, 1).shard(0).api("fuzzed", ""),
            keys: Keys::new(count_up),
            under_way: Vec::new(),
            said: Vec::new(),
            tampered: false,
            forged: false,
            over: false,
        }
    }

    fn operate(&mut self, operation: u8, rest: &mut &[u8]) {
        let (&argument, after) = rest.split_first().unwrap_or((&0, &[]));
        *rest = after;
        match operation & 7 {
            0 | 1 => {
                let (bytes, after) = rest.split_at(usize::from(argument).min(rest.len()));
                *rest = after;
                // As it is, or again and again: enough for records of every size.
                self.far_says(&bytes.repeat(if operation & 8 == 0 { 1 } else { 200 }));
            }
            2 | 3 => self.deliver(usize::from(argument)),
            4 => self.deliver(usize::MAX),
            5 => {
                let at = usize::from(argument).min(self.under_way.len().saturating_sub(1));
                if let Some(byte) = self.under_way.get_mut(at) {
                    *byte ^= 1 << (operation >> 5);
                    self.tampered = true;
                }
            }
            6 => {
                self.under_way.extend_from_slice(&[argument; 7]);
                self.tampered = true;
            }
            _ if operation & 8 != 0 => {
                // Any record at all, in its order: new keys, tickets, alerts, and what has no place here.
                let (bytes, after) = rest.split_at(usize::from(argument & 15).min(rest.len()));
                *rest = after;
                let kind = [21, 22, 23, operation][usize::from(argument >> 4 & 3)];
                self.under_way.extend_from_slice(&self.far.forge(kind, bytes));
                self.forged = true;
            }
            _ => {
                let farewell = self.far.goodbye(if argument == 0 { Alert::CloseNotify } else { Alert::InternalError });
                self.under_way.extend_from_slice(farewell.as_bytes());
            }
        }
    }

    fn far_says(&mut self, plain: &[u8]) {
        let begin = self.under_way.len();
        self.under_way.resize(begin + sealed_max(plain.len()), 0);
        let length = self.far.seal(plain, &mut self.under_way[begin..], 1);
        self.under_way.truncate(begin + length);
        self.said.extend_from_slice(plain);
    }

    /// So many bytes arrive.
    fn deliver(&mut self, count: usize) {
        let mut bytes: Vec<u8> = self.under_way.drain(..count.min(self.under_way.len())).collect();
        let (whole, taken) = self.here.complete(&bytes);
        assert!(whole.as_ref().is_none_or(|record| record.len() <= RECORD_MAX), "no more than a record is held");
        for mut bytes in whole.into_iter().chain([bytes.split_off(taken)]) {
            let opened = self.here.open(&mut bytes);
            let plain = &mut bytes[..opened.plain];
            assert!(self.forged || self.said.starts_with(plain), "what is opened was said, in its order");
            self.said.drain(..plain.len().min(self.said.len()));
            receive(self.leg, &mut self.session, &self.counters, &mut self.keys, plain, |to, sent| {
                if to == self.leg {
                    far_hears(&mut self.far, &mut self.here, sent);
                }
            });
            match opened.end {
                None => {}
                Some(End::Broken(_)) => {
                    assert!(self.tampered || self.forged, "only what was changed is refused");
                    self.over = true;
                }
                Some(End::Closed | End::GivenUp(_)) => self.over = true,
            }
            if self.over {
                return;
            }
        }
    }
}

/// As the engine does it.
fn receive(
    from: Leg,
    session: &mut Session,
    counters: &ApiCounters,
    keys: &mut Keys,
    plain: &[u8],
    mut send: impl FnMut(Leg, &[u8]),
) {
    if plain.is_empty() || session.leg(from) == LegState::Gone {
        return;
    }
    let options = SessionOptions::default();
    let mut facts = Facts { now_ms: 1, options: &options, counters, keys };
    let mut buffer = vec![0; CONTROL_FRAME_MAX];
    buffer.extend_from_slice(plain);
    let held = session.take_held(from, &mut buffer[..CONTROL_FRAME_MAX]);
    let mut at = CONTROL_FRAME_MAX - held;
    while at < buffer.len() {
        let step = session.receive(from, &mut buffer[at..], &mut facts);
        send(from.other(), &buffer[at..at + step.send]);
        for leg in Leg::BOTH {
            while let Some(frame) = session.output(leg, false, &mut facts) {
                send(leg, frame.as_bytes());
            }
        }
        at += step.consumed;
    }
}

fn far_hears(far: &mut Records, here: &mut Records, sent: &[u8]) {
    let mut sealed = vec![0; sealed_max(sent.len())];
    let length = here.seal(sent, &mut sealed, 1);
    let opened = far.open(&mut sealed[..length]);
    assert!(opened.end.is_none() && &sealed[..opened.plain] == sent, "what is sent is what the peer gets");
}

thread_local! {
    static KEY: Cell<u32> = const { Cell::new(0) };
}

/// Octets of which no four are zero or come again soon.
fn count_up(octets: &mut [u8]) {
    for four in octets.chunks_mut(4) {
        KEY.set(KEY.get().wrapping_add(0x0101_0103));
        four.copy_from_slice(&KEY.get().to_le_bytes()[..four.len()]);
    }
}
