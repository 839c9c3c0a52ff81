//! Both handshakes in memory, whole, in pieces and with every kind of rubbish in them.

use proptest::prelude::*;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;

use super::*;

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let provider = Arc::new(ring::default_provider());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let server =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let mut server = server.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    server.enable_secret_extraction = true;
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.enable_secret_extraction = true;
    (Arc::new(client), Arc::new(server))
}

struct Pair {
    client: UnbufferedClientConnection,
    server: UnbufferedServerConnection,
    at_client: Flight,
    at_server: Flight,
}

impl Pair {
    fn new((client, server): &(Arc<ClientConfig>, Arc<ServerConfig>), name: &'static str) -> Self {
        let name = ServerName::try_from(name).unwrap();
        Self {
            client: UnbufferedClientConnection::new(Arc::clone(client), name).unwrap(),
            server: UnbufferedServerConnection::new(Arc::clone(server)).unwrap(),
            at_client: Flight::default(),
            at_server: Flight::default(),
        }
    }

    /// Until both are over, or neither can go on, or one has had enough; what goes passes through `spoil`.
    fn run(&mut self, mut spoil: impl FnMut(usize, Vec<u8>) -> Vec<Vec<u8>>) -> Result<bool, Fault> {
        for turn in 0..20 {
            let over = [self.at_client.advance(&mut self.client)?, {
                for piece in spoil(2 * turn, std::mem::take(&mut self.at_client.outgoing)) {
                    self.at_server.hear(&piece);
                    self.at_server.advance(&mut self.server)?;
                }
                self.at_server.advance(&mut self.server)?
            }];
            for piece in spoil(2 * turn + 1, std::mem::take(&mut self.at_server.outgoing)) {
                self.at_client.hear(&piece);
                self.at_client.advance(&mut self.client)?;
            }
            self.at_server.has_answered = true;
            if over == [true, true] {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[test]
fn a_handshake_may_come_in_pieces_of_any_size() {
    let configs = configs();
    for piece in [1, 2, 3, 7, 100, 5000] {
        let mut pair = Pair::new(&configs, "localhost");
        let over = pair.run(|_, bytes| bytes.chunks(piece).map(<[u8]>::to_vec).collect());
        assert!(over.unwrap(), "{piece}");
        assert_eq!(hello::server_name(&pair.at_server.first).as_deref(), Some("localhost"));
    }
}

#[test]
fn who_does_not_trust_says_why() {
    let (_, server) = configs();
    let (stranger, _) = configs();
    let mut pair = Pair::new(&(stranger, server), "localhost");
    let fault = pair.run(|_, bytes| vec![bytes]).unwrap_err();
    assert!(matches!(fault, Fault::Tls(rustls::Error::InvalidCertificate(_))), "{fault:?}");
    let alert = std::mem::take(&mut pair.at_client.outgoing);
    pair.at_server.hear(&alert);
    let heard = pair.at_server.advance(&mut pair.server).unwrap_err();
    assert!(matches!(heard, Fault::Tls(rustls::Error::AlertReceived(_))), "{heard:?}");
}

#[test]
fn http_is_known_by_its_first_letter_only_where_a_handshake_begins() {
    let (_, server) = configs();
    let mut flight = Flight::default();
    flight.hear(b"G");
    let mut side = UnbufferedServerConnection::new(server).unwrap();
    assert!(matches!(flight.advance(&mut side), Err(Fault::PlainHttp)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever comes, there is an answer and no panic.
    #[test]
    fn rubbish_in_a_handshake_is_borne(
        flight in 0_usize..5,
        at in any::<prop::sample::Index>(),
        change in prop_oneof![Just(0), 1_u8..=255],
        cut in any::<prop::sample::Index>(),
        more in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        static CONFIGS: std::sync::LazyLock<(Arc<ClientConfig>, Arc<ServerConfig>)> = std::sync::LazyLock::new(configs);
        let mut pair = Pair::new(&CONFIGS, "localhost");
        let _ = pair.run(|number, mut bytes| {
            if number == flight && !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= change;
                let cut = cut.index(bytes.len());
                bytes.splice(cut..cut, more.iter().copied());
            }
            vec![bytes]
        });
    }

    #[test]
    fn anything_at_all_may_be_said_first(bytes in proptest::collection::vec(any::<u8>(), 0..600), as_record in any::<bool>()) {
        let (_, server) = configs();
        let mut flight = Flight::default();
        if as_record {
            flight.hear(&[22, 3, 1]);
            flight.hear(&(bytes.len() as u16).to_be_bytes());
        }
        flight.hear(&bytes);
        let mut side = UnbufferedServerConnection::new(server).unwrap();
        let _ = flight.advance(&mut side);
    }
}
