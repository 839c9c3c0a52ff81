//! The record layer of an established TLS session: opens and seals in the caller's buffers (RFC 8446 §5, RFC 5246 §6.2).
//!
//! rustls has made the handshake and given up the secrets. What comes is opened where it stands, each record's content
//! moved up to the end of the one before by the cipher itself, so that the plain bytes of many records are one slice.
//! What goes is copied once, into the room where it is sealed. rustls still derives the next keys when either side
//! updates them, and keeps the tickets that an endpoint sends.
//!
//! Budget: no allocation and no system call for records that come whole. Of one that comes in pieces the part that is
//! there is copied, and kept until the rest comes, at most [`RECORD_MAX`]; likewise a ticket of an endpoint, at most 64 KiB. An idle
//! leg has no other buffer.
//! What is kept beside it is the two keys in the form in which they are used, about 0.5 KiB each.

use std::fmt;

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, ProtocolVersion};

/// Bytes of a record's header.
const HEADER: usize = 5;
/// Plain bytes of one record, at most.
const PLAIN_MAX: usize = 1 << 14;
/// What a record of TLS 1.3 may have beyond its plain bytes; of TLS 1.2.
const EXPANSION_MAX: [usize; 2] = [256, 2048];
/// What a record of ours has beyond its plain bytes, at most: header, explicit nonce or inner type, and tag.
const OVERHEAD_MAX: usize = HEADER + 8 + TAG;
/// Bytes of a whole record, at most.
pub const RECORD_MAX: usize = HEADER + PLAIN_MAX + EXPANSION_MAX[1];
const TAG: usize = 16;
const NONCE_EXPLICIT: usize = 8;

/// Plain bytes of a record that fills one segment of an ordinary path. A receiver can open nothing before it has all of a
/// record: who has been quiet begins with records that need not wait for a second segment.
const FIRST_RECORDS: usize = 1400;
/// So many bytes, about what a new connection may send at once (RFC 6928), are sent so; after that records are large.
const FIRST_BYTES: u32 = 14_000;
/// A leg that has sent nothing for so long begins again with small records.
const QUIET_MS: u32 = 1000;

/// Records in a row that bring nothing; more is a flood.
const FRUITLESS_MAX: u8 = 32;
/// Bytes of a handshake message after the handshake: tickets, mostly of a few hundred.
const MESSAGE_MAX: usize = 1 << 16;
/// Kind and length of a handshake message.
const MESSAGE_HEADER: usize = 4;
/// Records sealed under one key of TLS 1.3 before the next is used: AES-GCM is good for 2^24.5 of them (RFC 8446 §5.5).
const UPDATE_AFTER: u64 = 1 << 23;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Room that so many plain bytes need to be sealed.
pub const fn sealed_max(plain: usize) -> usize {
    // The small records at the beginning, the last one, one that is not full between them, and an update of the keys.
    let records = plain / PLAIN_MAX + FIRST_BYTES as usize / FIRST_RECORDS + 4;
    plain + records * OVERHEAD_MAX
}

/// Why a session cannot go on, as the alert that says so (RFC 8446 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the specification")]
pub enum Alert {
    CloseNotify = 0,
    UnexpectedMessage = 10,
    BadRecordMac = 20,
    RecordOverflow = 22,
    AccessDenied = 49,
    DecodeError = 50,
    InternalError = 80,
    NoRenegotiation = 100,
}

/// What came of a slice of bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// So many plain bytes stand at the start of the slice.
    pub plain: usize,
    /// Nothing more comes, and why.
    pub end: Option<End>,
}

/// How the peer's side of a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer has said that it sends nothing more.
    Closed,
    /// The peer has given up, with this alert.
    GivenUp(u8),
    /// The peer broke a rule.
    Broken(Alert),
}

/// The keys of both directions, and what is kept between calls.
pub struct Records {
    version: Version,
    opening: Direction,
    sealing: Direction,
    /// The beginning of a record.
    held: Vec<u8>,
    /// Of TLS 1.3 only.
    successor: Option<Box<Successor>>,
    fruitless: u8,
    said_goodbye: bool,
    /// The peer has asked for new keys, or those that there are have done enough.
    update_due: bool,
    /// Bytes sealed since the leg was quiet.
    streamed: u32,
    /// When something was last sealed, on the worker's clock, modulo 2^32.
    sealed_ms: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Tls13,
    /// AES-GCM: a part of the nonce travels.
    Tls12Explicit,
    Tls12,
}

struct Direction {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

/// What rustls keeps: the secrets from which the next keys are made.
struct Successor {
    kernel: Kernel,
    /// The beginning of a handshake message.
    message: Vec<u8>,
}

enum Kernel {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

impl Records {
    /// Of a session with a client.
    pub fn of_server(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<ServerConnectionData>,
    ) -> Result<Self, ring::error::Unspecified> {
        Self::new(secrets, kernel.protocol_version(), Kernel::Server(kernel))
    }

    /// Of a session with an endpoint.
    pub fn of_client(
        secrets: ExtractedSecrets,
        kernel: KernelConnection<ClientConnectionData>,
    ) -> Result<Self, ring::error::Unspecified> {
        Self::new(secrets, kernel.protocol_version(), Kernel::Client(kernel))
    }

    fn new(
        secrets: ExtractedSecrets,
        version: ProtocolVersion,
        kernel: Kernel,
    ) -> Result<Self, ring::error::Unspecified> {
        let is_gcm = !matches!(secrets.rx.1, ConnectionTrafficSecrets::Chacha20Poly1305 { .. });
        let version = match version {
            ProtocolVersion::TLSv1_3 => Version::Tls13,
            _ if is_gcm => Version::Tls12Explicit,
            _ => Version::Tls12,
        };
        let successor = || Box::new(Successor { kernel, message: Vec::new() });
        Ok(Self {
            version,
            opening: Direction::new(secrets.rx)?,
            sealing: Direction::new(secrets.tx)?,
            held: Vec::new(),
            successor: (version == Version::Tls13).then(successor),
            fruitless: 0,
            said_goodbye: false,
            update_due: false,
            streamed: 0,
            sealed_ms: 0,
        })
    }

    /// Adds to the beginning of a record that is held, if one is, what of `bytes` belongs to it. Returns the record when it
    /// is whole, to be opened like anything else before the rest, and how much of `bytes` was taken.
    pub fn complete(&mut self, bytes: &[u8]) -> (Option<Vec<u8>>, usize) {
        if self.held.is_empty() {
            return (None, 0);
        }
        let mut taken = 0;
        loop {
            let wanted = match self.record_length(&self.held) {
                None => HEADER,
                // What is wrong with it is told by who opens it.
                Some(Err(_)) => return (Some(std::mem::take(&mut self.held)), taken),
                Some(Ok(length)) if self.held.len() >= length => {
                    return (Some(std::mem::take(&mut self.held)), taken);
                }
                Some(Ok(length)) => length,
            };
            let some = (wanted - self.held.len()).min(bytes.len() - taken);
            if some == 0 {
                return (None, taken);
            }
            self.hold(&bytes[taken..taken + some], wanted);
            taken += some;
        }
    }

    /// Opens the records in `bytes`, and holds the beginning of one that is not whole. Nothing may be held before.
    pub fn open(&mut self, bytes: &mut [u8]) -> Opened {
        debug_assert!(self.held.is_empty() || bytes.is_empty(), "what is held comes first");
        let mut at = 0;
        let mut plain = 0;
        while at < bytes.len() {
            let length = match self.record_length(&bytes[at..]) {
                Some(Ok(length)) if length <= bytes.len() - at => length,
                Some(Err(alert)) => return Opened { plain, end: Some(End::Broken(alert)) },
                short => {
                    self.hold(&bytes[at..], short.map_or(HEADER, |length| length.unwrap_or(HEADER)));
                    break;
                }
            };
            let content = match self.open_one(&mut bytes[plain..at + length], at - plain) {
                // RFC 8446 §5.1: nothing stands between the parts of a message.
                Ok((kind, _)) if kind != HANDSHAKE && self.is_inside_message() => {
                    Err(End::Broken(Alert::UnexpectedMessage))
                }
                Ok((DATA, count)) if count > 0 => {
                    self.fruitless = 0;
                    plain += count;
                    Ok(())
                }
                Ok((kind, count)) => self.no_data(kind, &bytes[plain..plain + count]),
                Err(alert) => Err(End::Broken(alert)),
            };
            if let Err(end) = content {
                return Opened { plain, end: Some(end) };
            }
            at += length;
        }
        Opened { plain, end: None }
    }

    /// Seals `plain` and returns how much of the room, [`sealed_max`] or more, that took.
    pub fn seal(&mut self, plain: &[u8], room: &mut [u8], now_ms: u64) -> usize {
        let mut written = 0;
        if self.update_due || self.successor.is_some() && self.sealing.sequence >= UPDATE_AFTER {
            written += self.update(room);
        }
        let mut left = plain;
        while !left.is_empty() {
            let (record, rest) = left.split_at(left.len().min(self.record_size(now_ms)));
            written += self.seal_one(DATA, record, &mut room[written..]);
            self.streamed = self.streamed.saturating_add(record.len() as u32);
            left = rest;
        }
        written
    }

    /// An alert, sealed: the last record of all. Empty if that has been sent.
    pub fn goodbye(&mut self, alert: Alert) -> Farewell {
        let mut farewell = Farewell { bytes: [0; FAREWELL_MAX], length: 0 };
        if !std::mem::replace(&mut self.said_goodbye, true) {
            let level = if matches!(alert, Alert::CloseNotify | Alert::NoRenegotiation) { 1 } else { 2 };
            farewell.length = self.seal_one(ALERT, &[level, alert as u8], &mut farewell.bytes);
        }
        farewell
    }

    /// A record of any kind and content, sealed in its order: for tests and fuzzers, which play peers that break rules.
    pub fn forge(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut room = vec![0; content.len() + OVERHEAD_MAX];
        let length = self.seal_one(kind, content, &mut room);
        room.truncate(length);
        room
    }

    /// The length of the record that begins here, header included; `None` while the header is not whole.
    fn record_length(&self, bytes: &[u8]) -> Option<Result<usize, Alert>> {
        let header = bytes.get(..HEADER)?;
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let expansion_max = EXPANSION_MAX[usize::from(self.version != Version::Tls13)];
        let known = match self.version {
            // All that comes after the handshake is hidden.
            Version::Tls13 => header[0] == DATA,
            _ => matches!(header[0], ALERT..=DATA),
        };
        Some(match () {
            () if !known || header[1] != 3 => Err(Alert::UnexpectedMessage),
            () if length > PLAIN_MAX + expansion_max => Err(Alert::RecordOverflow),
            // Nothing so short can be sealed.
            () if length < self.expansion() => Err(Alert::BadRecordMac),
            () => Ok(HEADER + length),
        })
    }

    fn is_inside_message(&self) -> bool {
        self.successor.as_ref().is_some_and(|successor| !successor.message.is_empty())
    }

    /// What a record that is sealed has at least, beside its header.
    fn expansion(&self) -> usize {
        match self.version {
            Version::Tls13 => 1 + TAG,
            Version::Tls12Explicit => NONCE_EXPLICIT + TAG,
            Version::Tls12 => TAG,
        }
    }

    fn hold(&mut self, bytes: &[u8], wanted: usize) {
        // First what has come, and what was announced only when more of it comes: a header alone commits nothing. Exactly, for
        // there may be one for each session.
        let whole = if self.held.is_empty() { bytes.len() } else { wanted.max(self.held.len() + bytes.len()) };
        self.held.reserve_exact(whole - self.held.len());
        self.held.extend_from_slice(bytes);
    }

    /// Opens the one record that stands at `at` and ends with `bytes`; its content stands at the start then. Returns its
    /// kind and length.
    fn open_one(&mut self, bytes: &mut [u8], at: usize) -> Result<(u8, usize), Alert> {
        let header: [u8; HEADER] = bytes[at..at + HEADER].try_into().map_err(|_| Alert::InternalError)?;
        let body = at + HEADER;
        let length = bytes.len() - body;
        let opening = &mut self.opening;
        let (plain, kind) = match self.version {
            Version::Tls13 => {
                let nonce = opening.nonce();
                let opened = opening.key.open_within(nonce, Aad::from(header), bytes, body..);
                let plain = opened.map_err(|_| Alert::BadRecordMac)?;
                if plain.len() > PLAIN_MAX + 1 {
                    return Err(Alert::RecordOverflow);
                }
                let last = plain.iter().rposition(|byte| *byte != 0).ok_or(Alert::UnexpectedMessage)?;
                (last, plain[last])
            }
            Version::Tls12Explicit => {
                let mut nonce = opening.iv;
                nonce[4..].copy_from_slice(&bytes[body..body + NONCE_EXPLICIT]);
                let aad = opening.header(header[0], length - NONCE_EXPLICIT - TAG);
                let nonce = Nonce::assume_unique_for_key(nonce);
                let opened = opening.key.open_within(nonce, Aad::from(aad), bytes, body + NONCE_EXPLICIT..);
                (opened.map_err(|_| Alert::BadRecordMac)?.len(), header[0])
            }
            Version::Tls12 => {
                let aad = opening.header(header[0], length - TAG);
                let opened = opening.key.open_within(opening.nonce(), Aad::from(aad), bytes, body..);
                (opened.map_err(|_| Alert::BadRecordMac)?.len(), header[0])
            }
        };
        opening.sequence += 1;
        if plain > PLAIN_MAX {
            return Err(Alert::RecordOverflow);
        }
        Ok((kind, plain))
    }

    /// A record that brings no data: an alert, a handshake message, or nothing at all.
    fn no_data(&mut self, kind: u8, content: &[u8]) -> Result<(), End> {
        self.fruitless += 1;
        if self.fruitless > FRUITLESS_MAX {
            return Err(End::Broken(Alert::UnexpectedMessage));
        }
        match (kind, content) {
            (ALERT, [_, 0]) => Err(End::Closed),
            // RFC 8446 §6: whatever its level, but for one that only says why a close comes.
            (ALERT, [level, alert]) if *level == 2 || self.version == Version::Tls13 && *alert != 90 => {
                Err(End::GivenUp(*alert))
            }
            (ALERT, [_, _]) => Ok(()),
            (ALERT, _) => Err(End::Broken(Alert::DecodeError)),
            (HANDSHAKE, [_, ..]) => self.message(content).map_err(End::Broken),
            (DATA, []) => Ok(()),
            _ => Err(End::Broken(Alert::UnexpectedMessage)),
        }
    }

    /// Handshake messages after the handshake. Those of TLS 1.2 would begin another.
    fn message(&mut self, content: &[u8]) -> Result<(), Alert> {
        let Some(successor) = &mut self.successor else { return Err(Alert::NoRenegotiation) };
        let mut gathered = std::mem::take(&mut successor.message);
        if gathered.len() + content.len() > MESSAGE_MAX {
            return Err(Alert::DecodeError);
        }
        let is_part = !gathered.is_empty();
        if is_part {
            gathered.extend_from_slice(content);
        }
        let messages = if is_part { gathered.as_slice() } else { content };
        let mut at = 0;
        while let Some((kind, body, end)) = successor.kernel.message(&messages[at..])? {
            at += end;
            match (kind, body, &mut successor.kernel) {
                (NEW_SESSION_TICKET, _, Kernel::Client(kernel)) => {
                    kernel.handle_new_session_ticket(body).map_err(|_| Alert::DecodeError)?;
                }
                // The next record is under other keys: nothing can be behind this in its own.
                (KEY_UPDATE, [requested @ 0..=1], kernel) if at == messages.len() => {
                    self.opening = Direction::new(kernel.next_rx()?).map_err(|_| Alert::InternalError)?;
                    self.update_due |= *requested == 1;
                }
                _ => return Err(Alert::UnexpectedMessage),
            }
        }
        successor.message = if is_part {
            gathered.drain(..at);
            gathered
        } else {
            content[at..].to_vec()
        };
        Ok(())
    }

    /// Says that what follows is under the next keys, and makes them (RFC 8446 §4.6.3).
    fn update(&mut self, room: &mut [u8]) -> usize {
        self.update_due = false;
        let Some(Ok(next)) = self.successor.as_mut().map(|successor| successor.kernel.next_tx()) else { return 0 };
        let Ok(next) = Direction::new(next) else { return 0 };
        let written = self.seal_one(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], room);
        self.sealing = next;
        written
    }

    fn record_size(&mut self, now_ms: u64) -> usize {
        let now_ms = now_ms as u32;
        if now_ms.wrapping_sub(self.sealed_ms) >= QUIET_MS {
            self.streamed = 0;
        }
        self.sealed_ms = now_ms;
        if self.streamed < FIRST_BYTES { FIRST_RECORDS } else { PLAIN_MAX }
    }

    fn seal_one(&mut self, kind: u8, plain: &[u8], room: &mut [u8]) -> usize {
        let sealing = &mut self.sealing;
        let body = HEADER + if self.version == Version::Tls12Explicit { NONCE_EXPLICIT } else { 0 };
        let inner = plain.len() + usize::from(self.version == Version::Tls13);
        let length = body - HEADER + inner + TAG;
        let hidden = if self.version == Version::Tls13 { DATA } else { kind };
        room[..3].copy_from_slice(&[hidden, 3, 3]);
        room[3..HEADER].copy_from_slice(&(length as u16).to_be_bytes());
        room[body..body + plain.len()].copy_from_slice(plain);
        let nonce = sealing.nonce();
        let tag = match self.version {
            Version::Tls13 => {
                room[body + plain.len()] = kind;
                let (header, rest) = room.split_at_mut(body);
                sealing.key.seal_in_place_separate_tag(nonce, Aad::from(&*header), &mut rest[..inner])
            }
            Version::Tls12 | Version::Tls12Explicit => {
                room[HEADER..body].copy_from_slice(&nonce.as_ref()[12 - (body - HEADER)..]);
                let aad = sealing.header(kind, plain.len());
                sealing.key.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut room[body..body + inner])
            }
        };
        let tag = tag.expect("a record is shorter than the cipher's limit");
        room[body + inner..body + inner + TAG].copy_from_slice(tag.as_ref());
        sealing.sequence += 1;
        HEADER + length
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl Direction {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, ring::error::Unspecified> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(ring::error::Unspecified),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref())?);
        let iv = iv.as_ref().try_into().map_err(|_| ring::error::Unspecified)?;
        Ok(Self { key, iv, sequence })
    }

    /// RFC 8446 §5.3: each record's number, which neither side repeats under one key, makes its nonce.
    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// What TLS 1.2 authenticates beside the content (RFC 5246 §6.2.3.3).
    fn header(&self, kind: u8, length: usize) -> [u8; 13] {
        let mut header = [0; 13];
        header[..8].copy_from_slice(&self.sequence.to_be_bytes());
        header[8..11].copy_from_slice(&[kind, 3, 3]);
        header[11..].copy_from_slice(&(length as u16).to_be_bytes());
        header
    }
}

/// A handshake message: its kind, its body, and where it ends.
type Message<'a> = (u8, &'a [u8], usize);

impl Kernel {
    /// The first handshake message; `None` while it is not whole. One that cannot be
    /// in order is not waited for.
    fn message<'a>(&self, bytes: &'a [u8]) -> Result<Option<Message<'a>>, Alert> {
        let Some(&kind) = bytes.first() else { return Ok(None) };
        let length_max = match (kind, self) {
            (KEY_UPDATE, _) => 1,
            (NEW_SESSION_TICKET, Self::Client(_)) => MESSAGE_MAX - MESSAGE_HEADER,
            _ => return Err(Alert::UnexpectedMessage),
        };
        let Some([_, a, b, c]) = bytes.first_chunk::<MESSAGE_HEADER>() else { return Ok(None) };
        let end = MESSAGE_HEADER + u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if end > MESSAGE_HEADER + length_max {
            return Err(Alert::DecodeError);
        }
        Ok(bytes.get(MESSAGE_HEADER..end).map(|body| (kind, body, end)))
    }

    fn next_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Alert> {
        let next = match self {
            Self::Server(kernel) => kernel.update_rx_secret(),
            Self::Client(kernel) => kernel.update_rx_secret(),
        };
        next.map_err(|_| Alert::InternalError)
    }

    fn next_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Server(kernel) => kernel.update_tx_secret(),
            Self::Client(kernel) => kernel.update_tx_secret(),
        }
    }
}

const FAREWELL_MAX: usize = OVERHEAD_MAX + 2;

/// A sealed alert.
pub struct Farewell {
    bytes: [u8; FAREWELL_MAX],
    length: usize,
}

impl Farewell {
    /// The record.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests;
