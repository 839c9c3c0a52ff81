//! Extension negotiation, RFC 6455 §9.1, and permessage-deflate, RFC 7692 §5 and §7: the one that is passed on.
//!
//! Other extensions are read, so that the list's grammar is known to be sound, and then left out.

use std::fmt;

use crate::http::list::{is_token, is_token_byte};
use crate::limits::{EXTENSION_PARAMETERS_MAX, EXTENSIONS_MAX};

/// The name of the extension that is passed on.
pub const PERMESSAGE_DEFLATE: &str = "permessage-deflate";

/// The parameters of permessage-deflate, in an offer or in the answer to one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Deflate {
    /// The server does not carry its window over to the next message.
    pub server_no_context_takeover: bool,
    /// The client does not carry its window over to the next message.
    pub client_no_context_takeover: bool,
    /// The base-2 logarithm of the server's window, 8 to 15.
    pub server_max_window_bits: Option<u8>,
    /// The same for the client. In an offer it may stand without a value: the client understands the parameter.
    pub client_max_window_bits: Option<Option<u8>>,
}

impl fmt::Display for Deflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PERMESSAGE_DEFLATE)?;
        if self.server_no_context_takeover {
            f.write_str("; server_no_context_takeover")?;
        }
        if self.client_no_context_takeover {
            f.write_str("; client_no_context_takeover")?;
        }
        if let Some(bits) = self.server_max_window_bits {
            write!(f, "; server_max_window_bits={bits}")?;
        }
        match self.client_max_window_bits {
            Some(Some(bits)) => write!(f, "; client_max_window_bits={bits}"),
            Some(None) => f.write_str("; client_max_window_bits"),
            None => Ok(()),
        }
    }
}

impl Deflate {
    /// Whether this, in an answer, agrees to `offer`, RFC 7692 §7.1.
    pub fn answers(&self, offer: &Self) -> bool {
        let server_takeover = self.server_no_context_takeover || !offer.server_no_context_takeover;
        let server_window = match (offer.server_max_window_bits, self.server_max_window_bits) {
            (Some(most), bits) => bits.is_some_and(|bits| bits <= most),
            (None, _) => true,
        };
        let client_window = match (offer.client_max_window_bits, self.client_max_window_bits) {
            (_, None) => true,
            (Some(most), Some(Some(bits))) => most.is_none_or(|most| bits <= most),
            _ => false,
        };
        server_takeover && server_window && client_window
    }

    fn read(parameters: &[Parameter]) -> Option<Self> {
        let mut deflate = Self::default();
        for Parameter { name, value } in parameters {
            match (name.as_str(), value) {
                ("server_no_context_takeover", None) if !deflate.server_no_context_takeover => {
                    deflate.server_no_context_takeover = true;
                }
                ("client_no_context_takeover", None) if !deflate.client_no_context_takeover => {
                    deflate.client_no_context_takeover = true;
                }
                ("server_max_window_bits", Some(bits)) if deflate.server_max_window_bits.is_none() => {
                    deflate.server_max_window_bits = Some(window_bits(bits)?);
                }
                ("client_max_window_bits", bits) if deflate.client_max_window_bits.is_none() => {
                    deflate.client_max_window_bits = Some(match bits {
                        Some(bits) => Some(window_bits(bits)?),
                        None => None,
                    });
                }
                _ => return None,
            }
        }
        Some(deflate)
    }
}

/// Digits without leading zeros, 8 to 15.
fn window_bits(text: &str) -> Option<u8> {
    let bits = text.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (!text.starts_with(['0', '+'])).then_some(bits)
}

/// One extension of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extension {
    /// permessage-deflate with parameters that are sound.
    Deflate(Deflate),
    /// permessage-deflate with a parameter that is unknown, doubled or out of range. RFC 7692 §7: such an offer is
    /// declined, such an answer fails the connection.
    UnsoundDeflate,
    /// Another extension.
    Other,
}

/// A list of extensions breaks its grammar, or a ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the list of extensions is malformed")]
pub struct BadExtensions;

/// Reads the values of `Sec-WebSocket-Extensions`, as one list. Each value holds at least one extension.
pub fn parse<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Extension>, BadExtensions> {
    let mut extensions = Vec::new();
    for value in values {
        let before = extensions.len();
        let mut reader = Reader { rest: value };
        loop {
            reader.space();
            if !reader.rest.is_empty() && reader.rest[0] != b',' {
                if extensions.len() == EXTENSIONS_MAX {
                    return Err(BadExtensions);
                }
                extensions.push(reader.extension()?);
            }
            match reader.rest.split_first() {
                Some((b',', rest)) => reader.rest = rest,
                Some(_) => return Err(BadExtensions),
                None => break,
            }
        }
        if extensions.len() == before {
            return Err(BadExtensions);
        }
    }
    Ok(extensions)
}

struct Parameter {
    name: String,
    value: Option<String>,
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn extension(&mut self) -> Result<Extension, BadExtensions> {
        let name = self.token()?;
        let mut parameters = Vec::new();
        self.space();
        while self.take(b';') {
            self.space();
            let name = text(self.token()?);
            self.space();
            let value = if self.take(b'=') {
                self.space();
                Some(if self.take(b'"') { self.quoted()? } else { text(self.token()?) })
            } else {
                None
            };
            self.space();
            if parameters.len() == EXTENSION_PARAMETERS_MAX {
                return Err(BadExtensions);
            }
            parameters.push(Parameter { name, value });
        }
        if !name.eq_ignore_ascii_case(PERMESSAGE_DEFLATE.as_bytes()) {
            return Ok(Extension::Other);
        }
        Ok(Deflate::read(&parameters).map_or(Extension::UnsoundDeflate, Extension::Deflate))
    }

    fn space(&mut self) {
        while let [b' ' | b'\t', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn token(&mut self) -> Result<&'a [u8], BadExtensions> {
        let length = self.rest.iter().take_while(|byte| is_token_byte(**byte)).count();
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        if token.is_empty() { Err(BadExtensions) } else { Ok(token) }
    }

    /// Behind the opening quote. What remains without escapes must be a token, RFC 6455 §9.1.
    fn quoted(&mut self) -> Result<String, BadExtensions> {
        let mut value = Vec::new();
        loop {
            let (&byte, rest) = self.rest.split_first().ok_or(BadExtensions)?;
            self.rest = rest;
            match byte {
                b'"' => break,
                b'\\' => {
                    let (&escaped, rest) = self.rest.split_first().ok_or(BadExtensions)?;
                    self.rest = rest;
                    value.push(escaped);
                }
                byte => value.push(byte),
            }
        }
        if is_token(&value) { Ok(text(&value)) } else { Err(BadExtensions) }
    }
}

/// Tokens are ASCII.
fn text(token: &[u8]) -> String {
    token.iter().map(|byte| *byte as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Vec<Extension>, BadExtensions> {
        parse(std::iter::once(value.as_bytes()))
    }

    #[test]
    fn offers_of_browsers_are_read_and_written_the_same() {
        for value in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=8; client_max_window_bits=15",
        ] {
            let list = read(value).unwrap();
            let [Extension::Deflate(deflate)] = list[..] else { panic!("{value}") };
            assert_eq!(deflate.to_string(), value);
        }
    }

    #[test]
    fn lists_and_quotes_are_read() {
        let bits = Deflate { server_max_window_bits: Some(10), ..Deflate::default() };
        assert_eq!(
            read("x-webkit-deflate-frame, , Permessage-Deflate ;\tserver_max_window_bits = \"1\\0\" , mux;max=4")
                .unwrap(),
            [Extension::Other, Extension::Deflate(bits), Extension::Other]
        );
    }

    #[test]
    fn parameters_that_are_unsound_spoil_their_extension_only() {
        for parameters in [
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=08",
            "server_max_window_bits=99",
            "client_max_window_bits=0",
            "client_max_window_bits=+9",
            "what",
            "what=1",
            "server_no_context_takeover=1",
            "server_no_context_takeover; server_no_context_takeover",
            "client_max_window_bits; client_max_window_bits=9",
            "server_max_window_bits=9; server_max_window_bits=9",
        ] {
            let list = read(&format!("permessage-deflate; {parameters}, permessage-deflate")).unwrap();
            assert_eq!(list, [Extension::UnsoundDeflate, Extension::Deflate(Deflate::default())], "{parameters}");
        }
    }

    #[test]
    fn grammar_and_ceilings_are_kept() {
        let many = "x,".repeat(EXTENSIONS_MAX + 1);
        let long = format!("x{}", ";a".repeat(EXTENSION_PARAMETERS_MAX + 1));
        for value in [
            "",
            " , ",
            ";",
            "a b",
            "a;",
            "a;=1",
            "a;b=",
            "a;b=\"",
            "a;b=\"x y\"",
            "a;b=\"\"",
            "a=1",
            "\"a\"",
            "a;b=\"c\\",
            &many,
            &long,
        ] {
            assert_eq!(read(value), Err(BadExtensions), "{value:?}");
        }
    }

    #[test]
    fn an_answer_agrees_with_the_offer() {
        let offer = |text: &str| match read(&format!("permessage-deflate{text}")).unwrap()[..] {
            [Extension::Deflate(deflate)] => deflate,
            _ => panic!("{text}"),
        };
        for (offered, answer, agrees) in [
            ("", "", true),
            ("", "; server_no_context_takeover; client_no_context_takeover", true),
            ("", "; server_max_window_bits=9", true),
            ("", "; client_max_window_bits=9", false),
            ("; client_max_window_bits", "; client_max_window_bits=9", true),
            ("; client_max_window_bits", "; client_max_window_bits", false),
            ("; client_max_window_bits", "", true),
            ("; client_max_window_bits=10", "; client_max_window_bits=11", false),
            ("; client_max_window_bits=10", "; client_max_window_bits=10", true),
            ("; server_max_window_bits=10", "", false),
            ("; server_max_window_bits=10", "; server_max_window_bits=11", false),
            ("; server_max_window_bits=10", "; server_max_window_bits=8", true),
            ("; server_no_context_takeover", "", false),
            ("; client_no_context_takeover", "", true),
        ] {
            assert_eq!(offer(answer).answers(&offer(offered)), agrees, "{offered:?} -> {answer:?}");
        }
    }
}
