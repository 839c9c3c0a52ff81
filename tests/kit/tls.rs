//! TLS as the kit's own peers speak it: with rustls, on the terms that a story wants.
//!
//! The gateway's own TLS knows nothing of this; certificates come from `pki`.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ALL_VERSIONS, CipherSuite, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, HandshakeKind,
    ProtocolVersion, RootCertStore, ServerConfig, ServerConnection, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use socket2::{Domain, Socket, Type};

use super::line::{End, Line};
use super::peer::{Peer, Side};
use super::pki::{self, Identity};
use super::wait::DEADLINE;

/// The host that clients ask for where a story does not say.
pub const HOST: &str = "gateway.test";

/// How a client of the gateway speaks TLS.
#[derive(Debug, Clone)]
pub struct Terms {
    name: Option<&'static str>,
    roots: PathBuf,
    identity: Option<Identity>,
    versions: Vec<&'static SupportedProtocolVersion>,
    suites: Vec<CipherSuite>,
    alpn: Vec<Vec<u8>>,
    resumes: bool,
    early_data: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            name: Some(HOST),
            roots: pki::shared().root.clone(),
            identity: None,
            versions: ALL_VERSIONS.to_vec(),
            suites: Vec::new(),
            alpn: Vec::new(),
            resumes: false,
            early_data: false,
        }
    }
}

impl Terms {
    /// The server name that is asked for; `None`: none, and the certificate of 127.0.0.1 is expected.
    pub fn name(mut self, name: Option<&'static str>) -> Self {
        self.name = name;
        self
    }

    /// Whom it trusts.
    pub fn roots(mut self, roots: &Path) -> Self {
        self.roots = roots.to_owned();
        self
    }

    /// Shows a certificate if it is asked for one.
    pub fn identity(mut self, identity: &Identity) -> Self {
        self.identity = Some(identity.clone());
        self
    }

    pub fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    pub fn suite(mut self, suite: CipherSuite) -> Self {
        self.suites.push(suite);
        self
    }

    pub fn alpn(mut self, protocol: &str) -> Self {
        self.alpn.push(protocol.into());
        self
    }

    /// Keeps tickets, and uses them.
    pub fn resuming(mut self) -> Self {
        self.resumes = true;
        self
    }

    /// Offers early data with a ticket that allows it.
    pub fn early_data(mut self) -> Self {
        self.early_data = true;
        self
    }

    /// What stays from connection to connection.
    pub fn client(&self) -> Client {
        let builder = ClientConfig::builder_with_provider(provider(&self.suites));
        let builder = builder.with_protocol_versions(&self.versions).expect("versions that rustls has");
        let builder = builder.with_root_certificates(roots(&self.roots));
        let mut config = match &self.identity {
            Some(identity) => builder
                .with_client_auth_cert(identity.certificates(), identity.private_key())
                .expect("a key that fits its certificate"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_early_data = self.early_data;
        config.enable_secret_extraction = true;
        if !self.resumes {
            config.resumption = Resumption::disabled();
        }
        let name = match self.name {
            Some(name) => ServerName::try_from(name).expect("a name"),
            None => {
                config.enable_sni = false;
                ServerName::try_from("127.0.0.1").expect("an address")
            }
        };
        Client { config: Arc::new(config), name }
    }
}

/// A client with its memory: the tickets that it was given.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// The one that trusts the shared authority and has nothing to show.
pub fn client() -> &'static Client {
    static CLIENT: LazyLock<Client> = LazyLock::new(|| Terms::default().client());
    &CLIENT
}

impl Client {
    /// Connects, and ends the handshake; why not, if not.
    pub fn try_connect(&self, address: SocketAddr) -> io::Result<Peer> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.connect(&address.into())?;
        self.try_over(socket)
    }

    /// Connects, and ends the handshake.
    #[track_caller]
    pub fn connect(&self, address: SocketAddr) -> Peer {
        self.try_connect(address).unwrap_or_else(|error| panic!("cannot speak TLS with {address}: {error}"))
    }

    /// Connects, and hears that it is not let in: how.
    #[track_caller]
    pub fn refusal(&self, address: SocketAddr) -> End {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.connect(&address.into()).expect("the gateway accepts connections");
        let mut peer = self.begin_over(socket);
        // With TLS 1.3 a client is done before its certificate has been looked at.
        match peer.line().handshake() {
            Err(error) if error.kind() == ErrorKind::InvalidData => panic!("the client refuses: {error}"),
            _ => peer.expect_end(),
        }
        peer.line().end().expect("an end")
    }

    /// Speaks TLS over a socket that is connected.
    pub fn try_over(&self, socket: Socket) -> io::Result<Peer> {
        let peer = self.begin_over(socket);
        peer.line().handshake()?;
        Ok(peer)
    }

    /// The same, and the handshake is yet to come.
    pub fn begin_over(&self, socket: Socket) -> Peer {
        // Only a Unix socket has no such option, and nothing to delay.
        let _ = socket.set_tcp_nodelay(true);
        socket.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        Peer::on(Line::new(socket, Some(self.connection().into())), Side::Client)
    }

    /// One connection's TLS, for who moves its bytes otherwise.
    pub fn connection(&self) -> ClientConnection {
        ClientConnection::new(self.config.clone(), self.name.clone()).expect("a connection")
    }

    /// For libraries.
    pub fn parts(&self) -> (Arc<ClientConfig>, ServerName<'static>) {
        (self.config.clone(), self.name.clone())
    }
}

/// What was agreed on.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreed {
    pub version: ProtocolVersion,
    pub suite: CipherSuite,
    pub kind: HandshakeKind,
    pub alpn: Option<String>,
    /// The certificate that the other end showed first.
    pub certificate: Option<Vec<u8>>,
    /// The name that a client asked for.
    pub server_name: Option<String>,
}

impl Agreed {
    /// Of a connection whose handshake is over.
    pub fn on(peer: &Peer) -> Self {
        peer.line().with_tls(|connection| Self {
            version: connection.protocol_version().expect("a version"),
            suite: connection.negotiated_cipher_suite().expect("a suite").suite(),
            kind: connection.handshake_kind().expect("a kind"),
            alpn: connection.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned()),
            certificate: connection.peer_certificates().map(|certificates| certificates[0].to_vec()),
            server_name: match connection {
                Connection::Server(server) => server.server_name().map(ToOwned::to_owned),
                Connection::Client(_) => None,
            },
        })
    }

    /// Whether this is the certificate that was shown.
    pub fn shows(&self, identity: &Identity) -> bool {
        self.certificate.as_deref() == Some(&identity.certificates()[0])
    }
}

/// How a service behind the gateway speaks TLS.
#[derive(Debug, Clone)]
pub struct Service {
    config: Arc<ServerConfig>,
}

/// The one whose certificate everybody trusts.
pub fn service() -> &'static Service {
    static SERVICE: LazyLock<Service> = LazyLock::new(|| Service::new(&pki::shared().service, None));
    &SERVICE
}

impl Service {
    /// Shows a certificate, and wants one by this authority if there is one here.
    pub fn new(identity: &Identity, clients: Option<&Path>) -> Self {
        Self::with(identity, clients, ALL_VERSIONS, &[])
    }

    /// The same with some versions, and some suites (none: all).
    pub fn with(
        identity: &Identity,
        clients: Option<&Path>,
        versions: &[&'static SupportedProtocolVersion],
        suites: &[CipherSuite],
    ) -> Self {
        let provider = provider(suites);
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(versions).expect("versions that rustls has");
        let builder = match clients {
            Some(clients) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(clients)), provider);
                builder.with_client_cert_verifier(verifier.build().expect("authorities"))
            }
            None => builder.with_no_client_auth(),
        };
        let config = builder.with_single_cert(identity.certificates(), identity.private_key());
        Self { config: Arc::new(config.expect("a key that fits its certificate")) }
    }

    /// Its tickets allow early data.
    pub fn allowing_early_data(mut self) -> Self {
        let config = Arc::get_mut(&mut self.config).expect("a config that nobody shares yet");
        config.max_early_data_size = 1 << 14;
        self
    }

    /// One connection's TLS.
    pub fn connection(&self) -> ServerConnection {
        ServerConnection::new(self.config.clone()).expect("a connection")
    }

    /// For libraries.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

fn provider(suites: &[CipherSuite]) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    if !suites.is_empty() {
        provider.cipher_suites.retain(|suite| suites.contains(&suite.suite()));
    }
    Arc::new(provider)
}

fn roots(path: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).expect("a PEM file") {
        roots.add(certificate.expect("a certificate")).expect("an authority");
    }
    roots
}

/// Believes every server: for stories in which the other end is judged, not its certificate.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl Client {
    /// Of these terms, but whatever certificate is shown is good enough.
    pub fn credulous(terms: &Terms) -> Self {
        let mut client = terms.client();
        let config = Arc::get_mut(&mut client.config).expect("a config that nobody shares yet");
        config.dangerous().set_certificate_verifier(Arc::new(Credulous(provider(&[]))));
        client
    }
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
