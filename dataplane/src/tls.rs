//! TLS on either leg: under which terms it is spoken, the handshakes, and the records of an established session.
//!
//! rustls makes the handshakes and keeps the rules of who is trusted. What a session sends and receives after that are
//! records that are sealed and opened here, in the worker's own buffers: the engine and the session see plain bytes.

pub mod failure;
pub mod handshake;
mod hello;
mod material;
mod names;
pub mod peer;
pub mod records;
pub mod terms;
#[cfg(test)]
mod tests;
mod tickets;
mod verify;

pub use peer::ClientCertificate;
pub use records::Records;
pub use terms::{ClientTerms, ServerTerms, Terms, nobody_trusted};

use rustls::{CipherSuite, ProtocolVersion};

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

impl From<handshake::Agreed> for Facts {
    fn from(agreed: handshake::Agreed) -> Self {
        Self {
            version: version(agreed.version),
            suite: suite(agreed.suite.suite()),
            server_name: agreed.server_name,
            resumed: agreed.resumed,
            client: agreed.chain.first().map(ClientCertificate::of).map(Box::new),
        }
    }
}

/// Every version that is spoken, as configuration, log and metrics write it.
pub const VERSIONS: [&str; 2] = ["tls1.2", "tls1.3"];

/// A version as configuration, log and metrics write it.
pub fn version(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => VERSIONS[0],
        _ => VERSIONS[1],
    }
}

/// A cipher suite by its IANA name.
pub fn suite(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}
