//! TLS 1.3 for the load: rustls makes the handshakes, and the records after that are sealed and opened here, in place.
//!
//! It costs as little as it can, because it is not what is measured: one version, one cipher suite, no key updates, and the
//! server's signature is looked at only where that is asked for.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConnectionData, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    UnbufferedClientConnection,
};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::kernel::KernelConnection;
use rustls::server::{NoServerSessionStorage, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{
    CipherSuite, ClientConfig, ConnectionTrafficSecrets, DigitallySignedStruct, Error, ExtractedSecrets, HandshakeKind,
    NamedGroup, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// What failed, in words.
type Outcome<T> = Result<T, String>;

/// The one suite, by its IANA name.
pub const SUITE: &str = "TLS_AES_256_GCM_SHA384";
/// The name in the certificates.
pub const SERVER_NAME: &str = "localhost";

const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
/// Plain bytes of a record, RFC 8446 §5.1.
const PLAIN_BYTES_MAX: usize = 16 << 10;
/// A record with its header, its inner type, padding and tag, §5.2.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + PLAIN_BYTES_MAX + 256;
/// Tickets that are kept for later.
const TICKETS_MAX: usize = 1024;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const NEW_SESSION_TICKET: u8 = 4;
const CLOSE_NOTIFY: u8 = 0;

/// How a client speaks, and the tickets that servers have given it.
#[derive(Clone)]
pub struct Terms {
    config: Arc<ClientConfig>,
}

/// What a client does to believe a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It looks at the signature, and the certificate is the one that is expected.
    Signature,
    /// The certificate is the one that is expected.
    Certificate,
}

impl Terms {
    /// With servers that show this certificate. With `resumption` each ticket is used, once.
    pub fn new(chain: &Path, trust: Trust, resumption: bool) -> Outcome<Self> {
        let certificate = CertificateDer::from_pem_file(chain).map_err(say)?;
        let tickets: Arc<dyn ClientSessionStore> = Arc::new(Tickets { kept: Mutex::default(), resumption });
        let provider = provider();
        let known = Known { certificate, trust, provider: Arc::clone(&provider) };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(say)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(known))
            .with_no_client_auth();
        config.resumption = Resumption::store(tickets);
        config.enable_secret_extraction = true;
        Ok(Self { config: Arc::new(config) })
    }

    /// Begins a handshake as a client.
    pub fn begin(&self) -> Outcome<Shaking<UnbufferedClientConnection>> {
        let name = ServerName::try_from(SERVER_NAME).map_err(say)?;
        UnbufferedClientConnection::new(Arc::clone(&self.config), name).map(Shaking::new).map_err(say)
    }
}

/// What a server needs to be one, of a chain and a key in PEM files.
pub fn server_config(chain: &Path, key: &Path) -> Outcome<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(chain).map_err(say)?.collect::<Result<Vec<_>, _>>().map_err(say)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(say)?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).map_err(say)?)
        .map_err(say)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// Begins a handshake as a server.
pub fn accept(config: &Arc<ServerConfig>) -> Outcome<Shaking<UnbufferedServerConnection>> {
    UnbufferedServerConnection::new(Arc::clone(config)).map(Shaking::new).map_err(say)
}

/// A handshake that is under way. It is given what was received, and has what is to be sent.
pub struct Shaking<C> {
    connection: C,
    received: Vec<u8>,
    /// What is to be sent now; the caller takes it.
    pub to_send: Vec<u8>,
    /// What the peer said behind its last message of the handshake.
    early: Vec<u8>,
}

/// What a handshake came to.
pub struct Shaken {
    pub channel: Channel,
    /// An earlier session was resumed.
    pub resumed: bool,
    /// Plain bytes that came already.
    pub plain: Vec<u8>,
}

/// Either side of a connection, as far as its handshake is concerned.
pub trait Side: Sized {
    type Data;

    fn process<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn kind(&self) -> Option<HandshakeKind>;
    fn finish(self) -> Result<(ExtractedSecrets, Option<KernelConnection<ClientConnectionData>>), Error>;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn kind(&self) -> Option<HandshakeKind> {
        self.handshake_kind()
    }

    fn finish(self) -> Result<(ExtractedSecrets, Option<KernelConnection<ClientConnectionData>>), Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, rest)| (secrets, Some(rest)))
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, received: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn kind(&self) -> Option<HandshakeKind> {
        self.handshake_kind()
    }

    fn finish(self) -> Result<(ExtractedSecrets, Option<KernelConnection<ClientConnectionData>>), Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, _)| (secrets, None))
    }
}

impl<C: Side> Shaking<C> {
    fn new(connection: C) -> Self {
        Self { connection, received: Vec::new(), to_send: Vec::new(), early: Vec::new() }
    }

    /// Takes what was received, if anything, and goes on. `true`: the handshake is done, once `to_send` is sent.
    pub fn advance(&mut self, bytes: &[u8]) -> Outcome<bool> {
        self.received.extend_from_slice(bytes);
        loop {
            let UnbufferedStatus { discard, state, .. } = self.connection.process(&mut self.received);
            let done = match state.map_err(say)? {
                ConnectionState::EncodeTlsData(mut piece) => {
                    let at = self.to_send.len();
                    let mut room = RECORD_BYTES_MAX;
                    let count = loop {
                        self.to_send.resize(at + room, 0);
                        match piece.encode(&mut self.to_send[at..]) {
                            Ok(count) => break count,
                            Err(EncodeError::InsufficientSize(wanted)) => room = wanted.required_size,
                            Err(error) => return Err(say(error)),
                        }
                    };
                    self.to_send.truncate(at + count);
                    None
                }
                ConnectionState::TransmitTlsData(piece) => {
                    piece.done();
                    None
                }
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        self.early.extend_from_slice(record.map_err(say)?.payload);
                    }
                    None
                }
                ConnectionState::WriteTraffic(_) => Some(true),
                ConnectionState::BlockedHandshake => Some(false),
                other => return Err(format!("an unexpected turn of a handshake: {other:?}")),
            };
            self.received.drain(..discard);
            if let Some(done) = done {
                return Ok(done);
            }
        }
    }

    /// rustls's side of it, as it is.
    pub fn into_connection(self) -> C {
        self.connection
    }

    /// The session that the handshake was for.
    pub fn finish(self) -> Outcome<Shaken> {
        let resumed = self.connection.kind() == Some(HandshakeKind::Resumed);
        let (secrets, tickets) = self.connection.finish().map_err(say)?;
        let channel = Channel {
            sealing: Direction::new(secrets.tx)?,
            opening: Direction::new(secrets.rx)?,
            carry: self.received,
            tickets,
        };
        Ok(Shaken { channel, resumed, plain: self.early })
    }
}

/// The records of an established session.
pub struct Channel {
    sealing: Direction,
    opening: Direction,
    /// The start of a record whose rest has not come.
    carry: Vec<u8>,
    /// A client's way to understand tickets.
    tickets: Option<KernelConnection<ClientConnectionData>>,
}

/// One direction's key, and how many records it has protected.
struct Direction {
    key: LessSafeKey,
    iv: [u8; 12],
    records: u64,
}

/// A record that was opened where it stood.
pub struct Opened {
    /// Bytes of the whole record.
    pub record_bytes: usize,
    /// Its application data, relative to its start.
    pub data: Range<usize>,
    /// It is the peer's last.
    pub last: bool,
}

impl Channel {
    /// Adds records with the parts, one behind the other, to what is to be sent.
    pub fn seal(&mut self, parts: [&[u8]; 2], out: &mut Vec<u8>) {
        let [mut first, mut second] = parts;
        while first.len() + second.len() > 0 {
            let plain = PLAIN_BYTES_MAX.min(first.len() + second.len());
            let begin = self.begin_record(plain, out);
            for part in [&mut first, &mut second] {
                let room = begin + HEADER_BYTES + plain - out.len();
                let (now, later) = part.split_at(room.min(part.len()));
                out.extend_from_slice(now);
                *part = later;
            }
            self.end_record(begin, APPLICATION_DATA, out);
        }
    }

    /// Adds a word of farewell.
    pub fn seal_close_notify(&mut self, out: &mut Vec<u8>) {
        let begin = self.begin_record(2, out);
        out.extend_from_slice(&[1, CLOSE_NOTIFY]);
        self.end_record(begin, ALERT, out);
    }

    fn begin_record(&mut self, plain: usize, out: &mut Vec<u8>) -> usize {
        let begin = out.len();
        let length = u16::try_from(plain + 1 + TAG_BYTES).expect("a record is no longer than that");
        out.extend_from_slice(&[APPLICATION_DATA, 3, 3]);
        out.extend_from_slice(&length.to_be_bytes());
        begin
    }

    fn end_record(&mut self, begin: usize, kind: u8, out: &mut Vec<u8>) {
        out.push(kind);
        let nonce = self.sealing.next_nonce();
        let (header, content) = out[begin..].split_at_mut(HEADER_BYTES);
        let tag = self.sealing.key.seal_in_place_separate_tag(nonce, Aad::from(&*header), content);
        out.extend_from_slice(tag.expect("a record is not too long for the cipher").as_ref());
    }

    /// Puts what was kept of a record at the start of the room; what is received goes behind it. Returns its length.
    pub fn lead(&mut self, room: &mut [u8]) -> usize {
        let count = self.carry.len();
        room[..count].copy_from_slice(&self.carry);
        self.carry.clear();
        count
    }

    /// Keeps the start of a record.
    pub fn keep(&mut self, bytes: &[u8]) {
        self.carry.extend_from_slice(bytes);
    }

    /// Opens the record at the start of the bytes, in place. `None`: it is not whole.
    pub fn open(&mut self, bytes: &mut [u8]) -> Outcome<Option<Opened>> {
        let Some((header, rest)) = bytes.split_at_mut_checked(HEADER_BYTES) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != APPLICATION_DATA || length > RECORD_BYTES_MAX - HEADER_BYTES {
            return Err(format!("no record begins with {}", header.escape_ascii()));
        }
        let Some(content) = rest.get_mut(..length) else { return Ok(None) };
        let nonce = self.opening.next_nonce();
        let plain = self.opening.key.open_in_place(nonce, Aad::from(&*header), content);
        let plain = plain.map_err(|_| "a record is not authentic")?;
        let end = plain.iter().rposition(|byte| *byte != 0).ok_or("a record has no type")?;
        let kind = plain[end];
        match kind {
            APPLICATION_DATA => {}
            ALERT if plain[..end] == [1, CLOSE_NOTIFY] => {}
            HANDSHAKE => self.take_tickets(&rest[..end])?,
            _ => return Err(format!("a record of type {kind}: {}", rest[..end].escape_ascii())),
        }
        let data = if kind == APPLICATION_DATA { HEADER_BYTES..HEADER_BYTES + end } else { 0..0 };
        Ok(Some(Opened { record_bytes: HEADER_BYTES + length, data, last: kind == ALERT }))
    }

    fn take_tickets(&mut self, mut messages: &[u8]) -> Outcome<()> {
        while let [kind, a, b, c, rest @ ..] = messages {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let (NEW_SESSION_TICKET, Some(connection), Some(body)) = (*kind, &mut self.tickets, rest.get(..length))
            else {
                return Err(format!("an unexpected message of {length} bytes and type {kind} after the handshake"));
            };
            connection.handle_new_session_ticket(body).map_err(say)?;
            messages = &rest[length..];
        }
        Ok(())
    }
}

impl Direction {
    fn new((records, secrets): (u64, ConnectionTrafficSecrets)) -> Outcome<Self> {
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { return Err("another cipher".into()) };
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).map_err(say)?;
        let iv = iv.as_ref().try_into().map_err(say)?;
        Ok(Self { key: LessSafeKey::new(key), iv, records })
    }

    /// RFC 8446 §5.3.
    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.records.to_be_bytes()) {
            *byte ^= count;
        }
        self.records += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Tickets of servers, of which each is used once.
struct Tickets {
    kept: Mutex<VecDeque<Tls13ClientSessionValue>>,
    resumption: bool,
}

impl Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        if self.resumption {
            let mut kept = self.kept.lock().expect("nobody has panicked with it");
            kept.truncate(TICKETS_MAX - 1);
            kept.push_front(value);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.lock().expect("nobody has panicked with it").pop_front()
    }
}

/// Believes one certificate.
#[derive(Debug)]
struct Known {
    certificate: CertificateDer<'static>,
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match shown == &self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::General("the server shows another certificate".into())),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.trust {
            Trust::Certificate => Ok(HandshakeSignatureValid::assertion()),
            Trust::Signature => {
                let algorithms = &self.provider.signature_verification_algorithms;
                rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    let suite = cipher_suite::TLS13_AES_256_GCM_SHA384;
    assert_eq!(suite.suite(), CipherSuite::TLS13_AES_256_GCM_SHA384);
    Arc::new(CryptoProvider { cipher_suites: vec![suite], ..default_provider() })
}

fn say(error: impl Debug) -> String {
    format!("TLS: {error:?}")
}
