//! TLS on either leg: under which terms it is spoken, the handshakes, and the records of an established session.
//!
//! rustls makes the handshakes and keeps the rules of who is trusted. What a session sends and receives after that are
//! records that are sealed and opened here, in the worker's own buffers: the engine and the session see plain bytes.

pub mod peer;

pub use peer::ClientCertificate;

/// What a TLS handshake with a client came to.
#[derive(Debug)]
pub struct Facts {
    /// The version, as the log has it.
    pub version: &'static str,
    /// The cipher suite, by its IANA name.
    pub suite: &'static str,
    /// The server name that the client asked for.
    pub server_name: Option<Box<str>>,
    /// An earlier session was resumed.
    pub resumed: bool,
    /// The certificate that the client showed, and that was found good.
    pub client: Option<Box<ClientCertificate>>,
}
