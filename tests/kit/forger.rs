//! Records of TLS made by hand, behind a handshake that is in order: those that no library would send.
//!
//! Nothing that comes back is deciphered; whether the other end goes on is seen by what reaches the upstream.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

use super::tls::Client;
use super::wait::DEADLINE;

/// Content types, RFC 8446 §5.1.
pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const DATA: u8 = 23;

/// A client that has made its handshake and seals what it sends itself.
#[derive(Debug)]
pub struct Forger {
    socket: TcpStream,
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
    is_tls12: bool,
}

impl Forger {
    /// Connects, and makes the handshake; the suite must be one of AES-GCM.
    #[track_caller]
    pub fn connect(client: &Client, address: SocketAddr) -> Self {
        let mut socket = TcpStream::connect(address).expect("the gateway accepts connections");
        socket.set_nodelay(true).expect("an option");
        socket.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        socket.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
        let mut connection = client.connection();
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut socket).expect("a handshake");
        }
        let is_tls12 = connection.protocol_version() == Some(ProtocolVersion::TLSv1_2);
        let secrets = connection.dangerous_extract_secrets().expect("secrets that may be had");
        let (sequence, secrets) = secrets.tx;
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => panic!("only AES-GCM is forged"),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).expect("a key of its length"));
        Self { socket, key, iv: iv.as_ref().try_into().expect("12 bytes"), sequence, is_tls12 }
    }

    /// A record of this type with this content, whatever they are.
    pub fn sealed(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        if self.is_tls12 { self.sealed_tls12(kind, content) } else { self.sealed_tls13(&[content, &[kind]].concat()) }
    }

    /// RFC 8446 §5.2: the content, its type, and padding.
    pub fn sealed_tls13(&mut self, inner: &[u8]) -> Vec<u8> {
        let header = [[DATA, 3, 3], [0; 3]].concat();
        let length = u16::try_from(inner.len() + 16).expect("a length of a record").to_be_bytes();
        let header = [&header[..3], &length].concat();
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(self.next()).for_each(|(byte, number)| *byte ^= number);
        [header.clone(), self.enciphered(nonce, &header, inner)].concat()
    }

    /// RFC 5288: a nonce of four secret bytes and eight that are sent.
    fn sealed_tls12(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let number = self.next();
        let length = |bytes: usize| u16::try_from(bytes).expect("a length of a record").to_be_bytes();
        let data = [&number[..], &[kind, 3, 3], &length(content.len())].concat();
        let mut nonce = self.iv;
        nonce[4..].copy_from_slice(&number);
        let enciphered = self.enciphered(nonce, &data, content);
        [&[kind, 3, 3][..], &length(8 + enciphered.len()), &number, &enciphered].concat()
    }

    fn next(&mut self) -> [u8; 8] {
        self.sequence += 1;
        (self.sequence - 1).to_be_bytes()
    }

    fn enciphered(&self, nonce: [u8; NONCE_LEN], data: &[u8], content: &[u8]) -> Vec<u8> {
        let mut bytes = content.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(data), &mut bytes).expect("what fits a record");
        bytes
    }

    /// Seals and sends; whether it was taken.
    pub fn say(&mut self, kind: u8, content: &[u8]) -> bool {
        let record = self.sealed(kind, content);
        self.send(&record)
    }

    /// Sends bytes as they are; whether they were taken.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// Ends the sending direction without a close_notify.
    pub fn finish(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Waits for the end of the connection, in whichever way.
    #[track_caller]
    pub fn expect_end(&mut self) {
        assert!(self.ends_within(DEADLINE), "the connection does not end");
    }

    /// Whether the connection ends within so long.
    pub fn ends_within(&mut self, time: Duration) -> bool {
        let (start, mut room) = (Instant::now(), [0; 4096]);
        while let Some(left) = time.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            self.socket.set_read_timeout(Some(left)).expect("a read timeout");
            match self.socket.read(&mut room) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return true,
            }
        }
        false
    }
}
