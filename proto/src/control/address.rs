//! Where a control plane is found: a Unix socket of this host, or a TCP port on which TLS is spoken.
//!
//! Reads and writes the text form; names are looked up by whoever dials.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A path, or `tls://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port, always with TLS on both sides.
    Tls {
        /// A name or an IP address, without brackets: what the control plane's certificate must be for.
        host: String,
        /// The port.
        port: u16,
    },
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "it is the path of a Unix socket, or tls://HOST:PORT";
        const PLAIN: &str = "over TCP the control plane is spoken to with TLS only: write tls://HOST:PORT";
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.is_empty() { Err(FORM) } else { Ok(Self::Unix(text.into())) };
        };
        match scheme {
            "tls" => {}
            "tcp" | "http" | "https" | "ws" | "wss" => return Err(PLAIN),
            _ => return Err(FORM),
        }
        let (host, port) = rest.rsplit_once(':').ok_or(FORM)?;
        let host = match host.strip_prefix('[') {
            Some(address) => address.strip_suffix(']').ok_or(FORM)?,
            None if host.contains(':') => return Err(FORM),
            None => host,
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        match port.parse() {
            Ok(port) if port > 0 && !host.is_empty() && host.bytes().all(is_plain) => {
                Ok(Self::Tls { host: host.into(), port })
            }
            _ => Err(FORM),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tls { host, port } if host.contains(':') => write!(f, "tls://[{host}]:{port}"),
            Self::Tls { host, port } => write!(f, "tls://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_are_written() {
        let tls = |host: &str, port| Address::Tls { host: host.into(), port };
        for (text, address) in [
            ("/run/framegate/control.sock", Address::Unix("/run/framegate/control.sock".into())),
            ("control.sock", Address::Unix("control.sock".into())),
            ("tls://control.internal:9902", tls("control.internal", 9902)),
            ("tls://10.0.0.1:9902", tls("10.0.0.1", 9902)),
            ("tls://[2001:db8::1]:9902", tls("2001:db8::1", 9902)),
        ] {
            assert_eq!(text.parse(), Ok(address.clone()));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_explained() {
        for text in ["", "tls://", "tls://host", "tls://host:0", "tls://:1", "tls://a b:1", "tls://::1:9", "unix://a"] {
            assert!(text.parse::<Address>().unwrap_err().contains("HOST:PORT"), "{text:?}");
        }
        assert!("tcp://host:9902".parse::<Address>().unwrap_err().contains("TLS only"));
    }
}
