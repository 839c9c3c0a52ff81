//! Who the client is by its certificate, in the words that headers and logs use.
//!
//! Whether the certificate is good was decided before. All texts come from whoever made the certificate: they are
//! bounded, have only visible ASCII characters, and nothing in one can be taken for the end of it.

use std::fmt::Write as _;

use proto::limits::{CERTIFICATE_NAMES_MAX, CERTIFICATE_TEXT_BYTES_MAX};
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::der_parser::asn1_rs::{Any, Oid, Tag, ToDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// A client's certificate that has been found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject, as RFC 4514 writes it; empty if there is none, or none that is written in so many bytes.
    pub subject: String,
    /// The issuer, likewise.
    pub issuer: String,
    /// The serial number, in hexadecimal digits.
    pub serial: String,
    /// Alternative names: URIs.
    pub uris: Vec<String>,
    /// Alternative names: DNS names.
    pub dns_names: Vec<String>,
    /// Alternative names: mail addresses.
    pub mail_addresses: Vec<String>,
    /// Alternative names: IP addresses.
    pub addresses: Vec<String>,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// When it expires, in seconds since 1970.
    pub not_after: i64,
}

impl ClientCertificate {
    /// Of a certificate's DER; `None` if it is none.
    pub fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut read = Self {
            subject: distinguished_name(certificate.subject()),
            issuer: distinguished_name(certificate.issuer()),
            serial: hex(certificate.raw_serial()),
            uris: Vec::new(),
            dns_names: Vec::new(),
            mail_addresses: Vec::new(),
            addresses: Vec::new(),
            fingerprint: digest(&SHA256, der).as_ref().try_into().expect("SHA-256 has 32 bytes"),
            not_after: certificate.validity().not_after.timestamp(),
        };
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        let names = alternatives.iter().flat_map(|names| &names.value.general_names);
        for name in names.take(CERTIFICATE_NAMES_MAX) {
            match name {
                GeneralName::URI(uri) => read.uris.extend(percent_encoded(uri)),
                GeneralName::DNSName(name) => read.dns_names.extend(percent_encoded(name)),
                GeneralName::RFC822Name(address) => read.mail_addresses.extend(percent_encoded(address)),
                GeneralName::IPAddress(octets) => read.addresses.extend(address(octets)),
                _ => {}
            }
        }
        Some(read)
    }

    /// The fingerprint in hexadecimal digits.
    pub fn fingerprint_hex(&self) -> String {
        hex(&self.fingerprint)
    }

    /// An element of `X-Forwarded-Client-Cert`, in Envoy's form. The fingerprint always stands first; what follows has
    /// neither quotation marks nor unquoted separators, so no subject or name can pass for another field or element.
    pub fn forwarded(&self) -> String {
        let mut element = format!("Hash={}", self.fingerprint_hex());
        if !self.subject.is_empty() {
            element.push_str(";Subject=\"");
            element.push_str(&self.subject);
            element.push('"');
        }
        for (field, values) in [("URI", &self.uris), ("DNS", &self.dns_names)] {
            for value in values {
                element.push(';');
                element.push_str(field);
                element.push('=');
                if value.contains([',', ';', '=']) {
                    element.push('"');
                    element.push_str(value);
                    element.push('"');
                } else {
                    element.push_str(value);
                }
            }
        }
        element
    }
}

/// A certificate as the log tells of it: subject, issuer and names.
pub(super) fn in_words(der: &CertificateDer<'_>) -> String {
    let Some(certificate) = ClientCertificate::read(der) else { return "that cannot be read".into() };
    let mut words = format!("of {:?} by {:?}", certificate.subject, certificate.issuer);
    let names = certificate.dns_names.iter().chain(&certificate.addresses);
    for (at, name) in names.enumerate() {
        words.push_str(if at == 0 { " for " } else { ", " });
        words.push_str(name);
    }
    words
}

/// A name as RFC 4514 writes it, with every special character as its hexadecimal pair: readers that know no escaping,
/// or another, find no quotation mark, and no backslash before one. A longer name than the log and the headers can bear
/// is none at all: a part of it might be somebody else's.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let relative: Vec<_> = name.iter_rdn().collect();
    for (at, relative) in relative.into_iter().rev().enumerate() {
        if at > 0 {
            text.push(',');
        }
        for (at, attribute) in relative.iter().enumerate() {
            if at > 0 {
                text.push('+');
            }
            match (short_name(attribute.attr_type()), characters(attribute.attr_value())) {
                (Some(short), Some(value)) => {
                    text.push_str(short);
                    text.push('=');
                    push_escaped(&mut text, &value);
                }
                _ => push_encoded(&mut text, attribute.attr_type(), attribute.attr_value()),
            }
        }
        if text.len() > CERTIFICATE_TEXT_BYTES_MAX {
            return String::new();
        }
    }
    text
}

/// RFC 4514 §3, and those of the registry that certificates have.
fn short_name(oid: &Oid<'_>) -> Option<&'static str> {
    Some(match oid.to_id_string().as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "GN",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

/// The value as UTF-8, if it is of a type that has characters.
fn characters(value: &Any<'_>) -> Option<Vec<u8>> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            std::str::from_utf8(value.data).ok().map(|text| text.as_bytes().to_vec())
        }
        // In certificates it has always been Latin-1.
        Tag::T61String => Some(value.data.iter().map(|byte| char::from(*byte)).collect::<String>().into_bytes()),
        Tag::BmpString => {
            let units = value.data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<String, _>>().ok().map(String::into_bytes)
        }
        _ => None,
    }
}

fn push_escaped(text: &mut String, value: &[u8]) {
    for (at, byte) in value.iter().enumerate() {
        let special = matches!(byte, b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=')
            || !(b' '..=b'~').contains(byte)
            || (at == 0 && matches!(byte, b' ' | b'#'))
            || (at + 1 == value.len() && *byte == b' ');
        if special {
            // Writing to a string does not fail.
            let _ = write!(text, "\\{byte:02X}");
        } else {
            text.push(char::from(*byte));
        }
    }
}

/// A type that has no short name, or a value without characters: RFC 4514 §2.4.
fn push_encoded(text: &mut String, oid: &Oid<'_>, value: &Any<'_>) {
    text.push_str(&oid.to_id_string());
    text.push_str("=#");
    text.push_str(&hex(&value.to_der_vec().unwrap_or_default()));
}

/// A name that certificates write in ASCII, without what could end it anywhere; none if it is too long.
fn percent_encoded(name: &str) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'"' | b'\\' | b' ' => _ = write!(text, "%{byte:02X}"),
            b'!'..=b'~' => text.push(char::from(byte)),
            _ => _ = write!(text, "%{byte:02X}"),
        }
    }
    (!text.is_empty() && text.len() <= CERTIFICATE_TEXT_BYTES_MAX).then_some(text)
}

fn address(octets: &[u8]) -> Option<String> {
    match *octets {
        [a, b, c, d] => Some(std::net::Ipv4Addr::new(a, b, c, d).to_string()),
        _ => <[u8; 16]>::try_from(octets).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
