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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// When it expires, in seconds since 1970; 0 if that cannot be read.
    pub not_after: i64,
}

impl ClientCertificate {
    /// Of the DER of a certificate that has been found good. Whoever judged it may read what is not read here: then it is
    /// known by its fingerprint alone.
    pub fn of(der: &CertificateDer<'_>) -> Self {
        Self::read(der).unwrap_or_else(|| Self { fingerprint: fingerprint(der), ..Self::default() })
    }

    /// Of a certificate's DER; `None` if it cannot be read.
    pub fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut read = Self {
            subject: distinguished_name(certificate.subject()),
            issuer: distinguished_name(certificate.issuer()),
            serial: hex(certificate.raw_serial()),
            fingerprint: fingerprint(der),
            not_after: certificate.validity().not_after.timestamp(),
            ..Self::default()
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

fn fingerprint(der: &CertificateDer<'_>) -> [u8; 32] {
    digest(&SHA256, der).as_ref().try_into().expect("SHA-256 has 32 bytes")
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn read(change: impl FnOnce(&mut CertificateParams)) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientCertificate::read(certificate.der()).unwrap()
    }

    fn named(parts: &[(DnType, &str)]) -> ClientCertificate {
        read(|params| {
            for (kind, value) in parts {
                params.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).into()));
            }
        })
    }

    #[test]
    fn subjects_are_written_as_rfc_4514_has_them() {
        for (parts, subject) in [
            (
                &[(DnType::CountryName, "DE"), (DnType::OrganizationName, "Example"), (DnType::CommonName, "device 7")]
                    [..],
                "CN=device 7,O=Example,C=DE",
            ),
            (&[(DnType::CommonName, "Lučić")], r"CN=Lu\C4\8Di\C4\87"),
            (&[(DnType::CommonName, "a,b+c=d;e<f>g")], r"CN=a\2Cb\2Bc\3Dd\3Be\3Cf\3Eg"),
            (&[(DnType::CommonName, "#x ")], r"CN=\23x\20"),
            (&[(DnType::CommonName, "a\u{0}\r\nb\u{7f}")], r"CN=a\00\0D\0Ab\7F"),
            (&[(DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 9]), "x")], "1.3.6.1.4.1.9=#0c0178"),
            (&[], ""),
        ] {
            assert_eq!(named(parts).subject, subject);
        }
    }

    #[test]
    fn a_subject_cannot_forge_another_element_or_field() {
        let evil = r#"a\",Hash=00;Subject="CN=admin"#;
        let forwarded = named(&[(DnType::CommonName, evil)]).forwarded();
        assert_eq!(forwarded.matches('"').count(), 2, "{forwarded}");
        assert!(forwarded.ends_with(r#";Subject="CN=a\5C\22\2CHash\3D00\3BSubject\3D\22CN\3Dadmin""#), "{forwarded}");
        assert!(
            !forwarded.contains(r#"\""#),
            "nothing that a reader could take for an escaped quotation mark: {forwarded}"
        );
    }

    #[test]
    fn names_are_written_so_that_none_ends_early() {
        let certificate = read(|params| {
            params.subject_alt_names = vec![
                SanType::URI("spiffe://example.org/a".try_into().unwrap()),
                SanType::URI("urn:x;y=\"z\",w".try_into().unwrap()),
                SanType::DnsName("device.example.org".try_into().unwrap()),
                SanType::Rfc822Name("a@example.org".try_into().unwrap()),
                SanType::IpAddress("192.0.2.7".parse().unwrap()),
                SanType::IpAddress("2001:db8::7".parse().unwrap()),
            ];
        });
        let hash = certificate.fingerprint_hex();
        assert_eq!(
            certificate.forwarded(),
            format!(r#"Hash={hash};URI=spiffe://example.org/a;URI="urn:x;y=%22z%22,w";DNS=device.example.org"#)
        );
        assert_eq!(certificate.mail_addresses, ["a@example.org"]);
        assert_eq!(certificate.addresses, ["192.0.2.7", "2001:db8::7"]);
        assert_eq!(hash.len(), 64);
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_certificate_holds_its_texts_are_visible_ascii(at in 0..400usize, byte: u8, cut in 0..400usize) {
            let der = TEMPLATE.get_or_init(|| {
                let mut params = CertificateParams::new(["device.test".to_owned()]).unwrap();
                params.distinguished_name.push(DnType::OrganizationName, "Example");
                params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
            });
            let mut damaged = der.clone();
            damaged[at % der.len()] = byte;
            damaged.truncate(der.len() - cut % 3 * cut % der.len());
            let der = CertificateDer::from(damaged);
            let words = in_words(&der);
            proptest::prop_assert!(words.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{words}");
            if let Some(read) = ClientCertificate::read(&der) {
                let forwarded = read.forwarded();
                proptest::prop_assert!(forwarded.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{forwarded}");
                proptest::prop_assert!(forwarded.matches('"').count() % 2 == 0, "{forwarded}");
            }
        }
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_known_by_its_fingerprint() {
        let der = CertificateDer::from(vec![0x30, 0x03, 1, 2]);
        assert_eq!(ClientCertificate::read(&der), None);
        let known = ClientCertificate::of(&der);
        // The digest of those four bytes, by sha256sum.
        assert_eq!(known.fingerprint_hex(), "272e238992195fa42f37abee7b9ca8259550d3205ae74b968be8dbce86ef337d");
        assert_eq!(known.forwarded(), format!("Hash={}", known.fingerprint_hex()));
        assert!(known.subject.is_empty() && known.serial.is_empty() && known.dns_names.is_empty());
        let readable = CertificateParams::new(["device.test".to_owned()]).unwrap();
        let readable = readable.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(Some(ClientCertificate::of(readable.der())), ClientCertificate::read(readable.der()));
    }

    static TEMPLATE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();

    #[test]
    fn what_is_too_long_or_too_much_is_left_out() {
        let long = "x".repeat(CERTIFICATE_TEXT_BYTES_MAX);
        let certificate = read(|params| {
            params.distinguished_name.push(DnType::CommonName, long.as_str());
            let name = |at: usize| SanType::DnsName(format!("{at}.test").try_into().unwrap());
            params.subject_alt_names = std::iter::once(SanType::URI(format!("urn:{long}").try_into().unwrap()))
                .chain((0..2 * CERTIFICATE_NAMES_MAX).map(name))
                .collect();
        });
        assert_eq!((certificate.subject.as_str(), certificate.uris.len()), ("", 0));
        assert_eq!(certificate.dns_names.len(), CERTIFICATE_NAMES_MAX - 1);
        assert!(certificate.forwarded().starts_with("Hash="));
        assert!(!certificate.forwarded().contains("Subject"));
        assert_eq!(ClientCertificate::read(&CertificateDer::from(vec![0x30, 0x03, 1, 2])), None);
    }
}
