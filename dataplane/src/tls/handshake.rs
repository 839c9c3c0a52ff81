//! The two TLS handshakes: with a client, and as a client of an endpoint. rustls decides, a socket is awaited here.
//!
//! rustls is given one record at a time, and none once the handshake is complete: what comes behind it is opened by
//! [`Records`], and nothing is lost between the two. What rustls has to say last goes in one segment with the first bytes that are sent:
//! our Finished to an endpoint, and tickets to a client whose request is there already.

use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig, SupportedCipherSuite};

use super::hello;
use super::records::{RECORD_MAX, Records};
use crate::socket::Socket;
use crate::stream::Secure;

/// Bytes that a peer may send before its handshake is complete: a chain of certificates, and some more.
const FLIGHT_MAX: usize = 128 * 1024;
/// Bytes received at a time.
const READ_BYTES: usize = 4096;
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;

/// Why there is no session.
#[derive(Debug)]
pub enum Fault {
    /// The client speaks HTTP, and not TLS.
    PlainHttp,
    /// The peer went away, or its connection failed.
    Gone,
    /// The peer sent more than any handshake needs.
    TooLong,
    /// One of the two did not agree.
    Tls(rustls::Error),
}

impl From<rustls::Error> for Fault {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// What was agreed.
#[derive(Debug)]
pub struct Agreed {
    /// The version.
    pub version: ProtocolVersion,
    /// The cipher suite.
    pub suite: SupportedCipherSuite,
    /// An earlier session was resumed.
    pub resumed: bool,
    /// The server name that the client asked for.
    pub server_name: Option<Box<str>>,
    /// The peer's certificates, its own first; empty if it has shown none.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Makes the handshake with a client, of whom `received` has come already.
pub async fn accept(socket: &Socket, config: &Arc<ServerConfig>, received: Vec<u8>) -> Result<(Secure, Agreed), Fault> {
    let mut connection = Box::new(UnbufferedServerConnection::new(Arc::clone(config))?);
    let mut flight = Flight { received: received.len(), incoming: received, ..Flight::default() };
    shake(socket, &mut *connection, &mut flight).await?;
    if flight.incoming.is_empty() {
        // Nobody knows when the answer goes; and with TLS 1.2 it is our Finished, for which the client waits.
        socket.send_all(&std::mem::take(&mut flight.outgoing)).await?;
    }
    let agreed = agreed(&connection, hello::server_name(&flight.first))?;
    let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
    let records = Records::of_server(secrets, kernel).map_err(|_| unusable())?;
    Ok((Secure::new(records, flight.outgoing, flight.incoming), agreed))
}

/// Makes the handshake with an endpoint.
pub async fn connect(
    socket: &Socket,
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<(Secure, Agreed), Fault> {
    let mut connection = Box::new(UnbufferedClientConnection::new(Arc::clone(config), name)?);
    let mut flight = Flight::default();
    shake(socket, &mut *connection, &mut flight).await?;
    let agreed = agreed(&connection, None)?;
    let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
    let records = Records::of_client(secrets, kernel).map_err(|_| unusable())?;
    Ok((Secure::new(records, flight.outgoing, flight.incoming), agreed))
}

/// What the handshakes have in common.
pub(super) trait Shaking {
    /// Gives rustls what has come, and takes what it has to say. Returns how much of what came it is done with, and
    /// whether it has more to say.
    fn process(&mut self, bytes: &mut [u8], outgoing: &mut Vec<u8>) -> (usize, Result<bool, rustls::Error>);
    fn is_over(&self) -> bool;
}

impl Shaking for UnbufferedServerConnection {
    fn process(&mut self, bytes: &mut [u8], outgoing: &mut Vec<u8>) -> (usize, Result<bool, rustls::Error>) {
        react(self.process_tls_records(bytes), outgoing)
    }

    fn is_over(&self) -> bool {
        !self.is_handshaking()
    }
}

impl Shaking for UnbufferedClientConnection {
    fn process(&mut self, bytes: &mut [u8], outgoing: &mut Vec<u8>) -> (usize, Result<bool, rustls::Error>) {
        react(self.process_tls_records(bytes), outgoing)
    }

    fn is_over(&self) -> bool {
        !self.is_handshaking()
    }
}

async fn shake(socket: &Socket, side: &mut impl Shaking, flight: &mut Flight) -> Result<(), Fault> {
    loop {
        match flight.advance(side) {
            Ok(true) => return Ok(()),
            Ok(false) => flight.exchange(socket).await?,
            Err(fault) => {
                // The alert that says so; who has gone already is not told.
                let _ = socket.send_all(&flight.outgoing).await;
                return Err(fault);
            }
        }
    }
}

fn react<D>(status: UnbufferedStatus<'_, '_, D>, outgoing: &mut Vec<u8>) -> (usize, Result<bool, rustls::Error>) {
    let UnbufferedStatus { discard, state } = status;
    let more = match state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(|room| data.encode(room), outgoing).map(|()| true),
        // It is sent when rustls has no more to add.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(true)
        }
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(false),
        // Data is never given to it, and early data never accepted.
        Ok(_) => Err(rustls::Error::HandshakeNotComplete),
        Err(error) => Err(error),
    };
    (discard, more)
}

fn encode(
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    outgoing: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    let begin = outgoing.len();
    loop {
        match encode(&mut outgoing[begin..]) {
            Ok(written) => {
                outgoing.truncate(begin + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) => outgoing.resize(begin + needed.required_size, 0),
            Err(EncodeError::AlreadyEncoded) => return Ok(()),
        }
    }
}

fn agreed(common: &rustls::CommonState, server_name: Option<Box<str>>) -> Result<Agreed, Fault> {
    let (Some(version), Some(suite)) = (common.protocol_version(), common.negotiated_cipher_suite()) else {
        return Err(Fault::Tls(rustls::Error::HandshakeNotComplete));
    };
    Ok(Agreed {
        version,
        suite,
        resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
        server_name,
        chain: common.peer_certificates().unwrap_or_default().to_vec(),
    })
}

fn unusable() -> Fault {
    Fault::Tls(rustls::Error::General("the cipher suite's keys cannot be used".into()))
}

/// What has come and what is to go, while a handshake is under way.
#[derive(Default)]
struct Flight {
    incoming: Vec<u8>,
    /// So much of it has been given to rustls, and stays for as long as a message is not whole.
    given: usize,
    outgoing: Vec<u8>,
    /// The records that came before anything was sent: a client's hello.
    first: Vec<u8>,
    has_answered: bool,
    /// Bytes received in all.
    received: usize,
}

impl Flight {
    /// Goes on as far as what has come allows. Returns whether the handshake is over; if not, what there is to send is to be
    /// sent, and more to be received.
    fn advance(&mut self, side: &mut impl Shaking) -> Result<bool, Fault> {
        loop {
            let (done, more) = side.process(&mut self.incoming[..self.given], &mut self.outgoing);
            self.incoming.drain(..done);
            self.given -= done;
            match more {
                Ok(true) => {}
                Ok(false) if side.is_over() => return Ok(true),
                Ok(false) if !self.give_record()? => return Ok(false),
                Ok(false) => {}
                Err(error) => {
                    // It has an alert to send, and before that, perhaps, the beginning of an answer. Asked any more, it
                    // would look for messages that are not there.
                    loop {
                        let length = self.outgoing.len();
                        let _ = side.process(&mut self.incoming[..self.given], &mut self.outgoing);
                        if !matches!(self.outgoing.get(length), Some(&(CHANGE_CIPHER_SPEC | HANDSHAKE))) {
                            break;
                        }
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// Gives rustls the next record, if it is whole. Returns whether it is.
    fn give_record(&mut self) -> Result<bool, Fault> {
        let left = &self.incoming[self.given..];
        // Nothing of TLS begins with a letter.
        if self.received == left.len() && left.first().is_some_and(u8::is_ascii_uppercase) {
            return Err(Fault::PlainHttp);
        }
        let Some(header) = left.first_chunk::<5>() else { return Ok(false) };
        let length = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
        // What is no record is given as it is: rustls has the words for it.
        let is_record = (20..=23).contains(&header[0]) && length <= RECORD_MAX;
        let given = if is_record { length } else { left.len() };
        if given > left.len() {
            return Ok(false);
        }
        if header[0] == HANDSHAKE && !self.has_answered && self.first.len() + given <= RECORD_MAX {
            self.first.extend_from_slice(&left[..given]);
        }
        self.given += given;
        Ok(true)
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
        self.received += bytes.len();
    }

    /// Sends what is to go, and waits for more.
    async fn exchange(&mut self, socket: &Socket) -> Result<(), Fault> {
        if !self.outgoing.is_empty() {
            socket.send_all(&self.outgoing).await?;
            self.outgoing.clear();
            self.has_answered = true;
        }
        if self.received > FLIGHT_MAX {
            return Err(Fault::TooLong);
        }
        let length = self.incoming.len();
        self.incoming.resize(length + READ_BYTES, 0);
        let received = socket.receive(&mut self.incoming[length..]).await;
        self.incoming.truncate(length + *received.as_ref().unwrap_or(&0));
        match received? {
            0 => Err(Fault::Gone),
            received => {
                self.received += received;
                Ok(())
            }
        }
    }
}

/// Both ends of a handshake in one process, without a socket: for the fuzzer and for benches.
pub mod memory {
    use super::*;

    /// The records of both ends: the client's, and the server's. What either has sent behind its handshake has been heard.
    pub fn pair(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<(Records, Records), Fault> {
        let name = ServerName::try_from("localhost").map_err(|_| unusable())?;
        let mut client = UnbufferedClientConnection::new(Arc::clone(client), name)?;
        let mut server = UnbufferedServerConnection::new(Arc::clone(server))?;
        let (mut at_client, mut at_server) = (Flight::default(), Flight::default());
        loop {
            let client_is_over = at_client.advance(&mut client)?;
            at_server.hear(&std::mem::take(&mut at_client.outgoing));
            let server_is_over = at_server.advance(&mut server)?;
            at_client.hear(&std::mem::take(&mut at_server.outgoing));
            if client_is_over && server_is_over {
                break;
            }
        }
        let (secrets, kernel) = client.dangerous_into_kernel_connection()?;
        let mut client = Records::of_client(secrets, kernel).map_err(|_| unusable())?;
        let (secrets, kernel) = server.dangerous_into_kernel_connection()?;
        let server = Records::of_server(secrets, kernel).map_err(|_| unusable())?;
        // Tickets.
        client.open(&mut at_client.incoming);
        Ok((client, server))
    }
}

#[cfg(test)]
mod tests;
