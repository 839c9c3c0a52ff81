//! Certificates, whom to trust, and how TLS is spoken on either leg.
//!
//! An operator names files; the control plane reads and checks them, so a generation carries what they say (PEM,
//! RFC 7468) and a data plane never sees a path. What the bytes mean is judged where they are used.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{is_default, is_true, yes};

/// A certificate with its private key: for a listener, or for the gateway as a client of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The certificate's name, unique; listeners, upstreams and logs refer to it.
    pub name: String,
    /// The certificate and, behind it, those between it and an authority: a PEM file, or the PEM text itself.
    pub chain: Pem,
    /// Its private key (EC P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits): a PEM file, or the PEM text itself.
    pub key: Pem,
    /// What the authority says about it (OCSP, RFC 6960), for clients that ask: a DER or PEM file.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(with = "Pem")]
    pub ocsp_response: Option<Pem>,
}

/// Certification authorities that are trusted together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Authorities {
    /// Their name, unique; listeners and upstreams refer to it.
    pub name: String,
    /// Their certificates: a PEM file, or the PEM text itself.
    pub certificates: Pem,
    /// Revocation lists (RFC 5280): PEM or DER files. Where there are any, a certificate whose revocation they do not
    /// settle is refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revocations: Vec<Pem>,
}

/// Text that stands in a file, or here.
///
/// Written as text in either case: what begins with `-----BEGIN`, or has several lines, is the content, all else the
/// path of a file.
/// `Debug` shows no content, which may be a private key.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// The path of a file that the control plane reads; relative to the file that names it.
    File(PathBuf),
    /// The text.
    Text(String),
}

const PEM_BEGINS: &str = "-----BEGIN ";

impl Pem {
    /// Of a text that a file holds, or that stands in its place.
    pub fn new(text: String) -> Self {
        if Self::is_content(&text) { Self::Text(text) } else { Self::File(text.trim().into()) }
    }

    /// Whether a text is content, and not a path: it has a line that begins as PEM does, or more lines than one. So a
    /// damaged key is not taken for a path, which may be shown.
    pub fn is_content(text: &str) -> bool {
        text.trim_start().starts_with(PEM_BEGINS) || text.trim().contains('\n')
    }

    /// The content, if it is here.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::File(_) => None,
        }
    }

    /// The file, if the content is there.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Text(_) => None,
            Self::File(path) => Some(path),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
        }
    }
}

impl Serialize for Pem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) => path.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for Pem {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)? {
            text if text.trim().is_empty() => Err(serde::de::Error::custom("a file, or PEM text, is needed")),
            text => Ok(Self::new(text)),
        }
    }
}

impl JsonSchema for Pem {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Pem".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "description": "The path of a file, or PEM text." })
    }
}

/// How TLS is spoken with clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Names of certificates, at least one. A client gets one that covers the server name that it asks for, and, where
    /// none does or it does not say, the first.
    pub certificates: Vec<String>,
    /// Refuse clients that ask for a server name that no certificate covers, or for none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strict_server_names: bool,
    /// The versions that are spoken; empty: all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub versions: Vec<TlsVersion>,
    /// The cipher suites that are spoken, the preferred ones first; empty: all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cipher_suites: Vec<CipherSuite>,
    /// Whether clients show a certificate.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_certificates: ClientCertificates,
    /// Let clients resume a session by a ticket (RFC 8446 §2.2, RFC 5077), which spares both sides the signatures.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub resumption: bool,
}

impl ListenerTls {
    /// With these certificates, everything else at its default.
    pub fn new(certificates: Vec<String>) -> Self {
        Self {
            certificates,
            strict_server_names: false,
            versions: Vec::new(),
            cipher_suites: Vec::new(),
            client_certificates: ClientCertificates::default(),
            resumption: true,
        }
    }
}

/// Whether clients show a certificate, and who must have signed it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificates {
    /// Whether they are asked for one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: ClientCertificateMode,
    /// Name of the authorities that are trusted for it; needed unless the mode is `off`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub authorities: Option<String>,
}

/// Whether clients are asked for a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificateMode {
    /// They are not.
    #[default]
    Off,
    /// They are, and one that is shown must be good.
    Optional,
    /// They are, and nobody comes in without a good one.
    Required,
}

/// How TLS is spoken with the endpoints of an upstream whose URL says `wss://`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// Name of the authorities that are trusted; none: those of the data plane's host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub authorities: Option<String>,
    /// Name of the certificate that the gateway shows; none: it shows none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub certificate: Option<String>,
    /// The name that is asked for (SNI) and that the endpoint's certificate must cover; none: the host of its URL.
    #[serde(default, skip_serializing_if = "is_default")]
    pub server_name: Option<String>,
    /// Public keys of which the endpoint's certificate must have one, beside being good; empty: any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pins: Vec<Pin>,
    /// The versions that are spoken; empty: all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub versions: Vec<TlsVersion>,
    /// The cipher suites that are spoken, the preferred ones first; empty: all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cipher_suites: Vec<CipherSuite>,
}

/// A version of TLS. Older ones are spoken by nobody any more (RFC 8996).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "tls1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "tls1.3")]
    Tls13,
}

/// A cipher suite, by its IANA name. Those of TLS 1.2 all have forward secrecy and an AEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are IANA's")]
pub enum CipherSuite {
    #[serde(rename = "TLS_AES_256_GCM_SHA384")]
    TlsAes256GcmSha384,
    #[serde(rename = "TLS_AES_128_GCM_SHA256")]
    TlsAes128GcmSha256,
    #[serde(rename = "TLS_CHACHA20_POLY1305_SHA256")]
    TlsChacha20Poly1305Sha256,
    #[serde(rename = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384")]
    TlsEcdheEcdsaWithAes256GcmSha384,
    #[serde(rename = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")]
    TlsEcdheEcdsaWithAes128GcmSha256,
    #[serde(rename = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256")]
    TlsEcdheEcdsaWithChacha20Poly1305Sha256,
    #[serde(rename = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384")]
    TlsEcdheRsaWithAes256GcmSha384,
    #[serde(rename = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")]
    TlsEcdheRsaWithAes128GcmSha256,
    #[serde(rename = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256")]
    TlsEcdheRsaWithChacha20Poly1305Sha256,
}

impl CipherSuite {
    /// The one version that has this suite.
    pub const fn version(self) -> TlsVersion {
        match self {
            Self::TlsAes256GcmSha384 | Self::TlsAes128GcmSha256 | Self::TlsChacha20Poly1305Sha256 => TlsVersion::Tls13,
            Self::TlsEcdheEcdsaWithAes256GcmSha384
            | Self::TlsEcdheEcdsaWithAes128GcmSha256
            | Self::TlsEcdheEcdsaWithChacha20Poly1305Sha256
            | Self::TlsEcdheRsaWithAes256GcmSha384
            | Self::TlsEcdheRsaWithAes128GcmSha256
            | Self::TlsEcdheRsaWithChacha20Poly1305Sha256 => TlsVersion::Tls12,
        }
    }

    /// Whether the suite wants a certificate with an RSA key, or one without; none: it goes with both.
    pub const fn is_rsa(self) -> Option<bool> {
        match self {
            Self::TlsAes256GcmSha384 | Self::TlsAes128GcmSha256 | Self::TlsChacha20Poly1305Sha256 => None,
            Self::TlsEcdheEcdsaWithAes256GcmSha384
            | Self::TlsEcdheEcdsaWithAes128GcmSha256
            | Self::TlsEcdheEcdsaWithChacha20Poly1305Sha256 => Some(false),
            Self::TlsEcdheRsaWithAes256GcmSha384
            | Self::TlsEcdheRsaWithAes128GcmSha256
            | Self::TlsEcdheRsaWithChacha20Poly1305Sha256 => Some(true),
        }
    }
}

/// As the configuration writes it.
impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "tls1.2",
            Self::Tls13 => "tls1.3",
        })
    }
}

/// SHA-256 of a public key (its DER `SubjectPublicKeyInfo`), as in RFC 7469. Written `sha256/` and base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

impl FromStr for Pin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a pin is sha256/ and 44 characters of base64";
        let encoded = text.strip_prefix("sha256/").ok_or(FORM)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| FORM)?;
        bytes.try_into().map(Self).map_err(|_| FORM)
    }
}

super::text_form!(Pin, "framegate-pin", "sha256/ and the base64 of a public key's SHA-256.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_and_versions_have_their_iana_names() {
        for (suite, name) in [
            (CipherSuite::TlsAes256GcmSha384, "TLS_AES_256_GCM_SHA384"),
            (CipherSuite::TlsChacha20Poly1305Sha256, "TLS_CHACHA20_POLY1305_SHA256"),
            (CipherSuite::TlsEcdheEcdsaWithAes128GcmSha256, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
            (CipherSuite::TlsEcdheRsaWithChacha20Poly1305Sha256, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
        ] {
            assert_eq!(serde_json::to_value(suite).unwrap(), name);
        }
        for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
            assert_eq!(serde_json::to_value(version).unwrap(), version.to_string());
        }
    }

    #[test]
    fn a_private_key_is_not_shown() {
        let key = Pem::new("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n".into());
        assert!(!format!("{key:?}").contains("c2VjcmV0"), "{key:?}");
        assert_eq!(serde_json::from_value::<Pem>(serde_json::to_value(&key).unwrap()).unwrap(), key);
        assert_eq!(Pem::new("/etc/key.pem".into()).file(), Some(Path::new("/etc/key.pem")));
        for content in ["# mine\n-----BEGIN PRIVATE KEY-----\nc2VjcmV0", "c2VjcmV0\nc2VjcmV0", " \n-----BEGIN X"] {
            assert_eq!(Pem::new(content.into()).text(), Some(content));
        }
        assert!(Pem::new("key.pem\n".into()).file().is_some(), "a block of YAML with one line");
    }

    #[test]
    fn pins_are_read_and_shown() {
        let pin = Pin([7; 32]);
        assert_eq!(pin.to_string().parse::<Pin>().unwrap(), pin);
        for text in ["", "sha256/", "sha256/AAAA", "sha1/AAAA", "AAAA"] {
            assert!(text.parse::<Pin>().is_err(), "{text:?}");
        }
    }
}
