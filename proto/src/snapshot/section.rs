//! How a snapshot travels: a list of sections, each named by the SHA-256 of its bytes.
//!
//! Sections are `settings`, `listeners`, and up to [`BUCKETS`](crate::limits::BUCKETS) buckets each of `upstreams` and
//! `apis`, an entry's bucket being the first byte of the SHA-256 of its name. A section's bytes are the MessagePack, with named fields, of its
//! part of the model. Two nodes that hold a section of the same name hold the same bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::Digest as _;

use super::{Api, Listener, Settings, Upstream};

/// SHA-256 of a section's bytes. Travels as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a digest is 64 lower-case hexadecimal digits";
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(FORM);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| FORM)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| FORM)?;
        }
        Ok(Self(bytes))
    }
}

super::text_form!(Digest);

/// Which part of the configuration a section is. Travels as `settings`, `listeners`, `upstreams/00`, `apis/ff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SectionName {
    /// [`Settings`].
    Settings,
    /// A list of [`Listener`].
    Listeners,
    /// A list of [`Upstream`] whose names fall in this bucket, in the order of their names.
    Upstreams(u8),
    /// A list of [`Api`] whose names fall in this bucket, in the order of (name, version).
    Apis(u8),
}

impl fmt::Display for SectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings => f.write_str("settings"),
            Self::Listeners => f.write_str("listeners"),
            Self::Upstreams(bucket) => write!(f, "upstreams/{bucket:02x}"),
            Self::Apis(bucket) => write!(f, "apis/{bucket:02x}"),
        }
    }
}

impl FromStr for SectionName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a section is settings, listeners, upstreams/HH or apis/HH";
        let (family, bucket) = text.split_once('/').unwrap_or((text, ""));
        let bucket = || match bucket.len() {
            2 => u8::from_str_radix(bucket, 16).map_err(|_| FORM),
            _ => Err(FORM),
        };
        match family {
            "settings" if text == family => Ok(Self::Settings),
            "listeners" if text == family => Ok(Self::Listeners),
            "upstreams" => bucket().map(Self::Upstreams),
            "apis" => bucket().map(Self::Apis),
            _ => Err(FORM),
        }
    }
}

super::text_form!(SectionName);

/// The sections of one generation in order, by name and digest.
pub type SectionList = Vec<(SectionName, Digest)>;

/// One section, decoded. Shared between generations whose bytes are the same.
#[derive(Debug, Clone, PartialEq)]
pub enum Section {
    /// See [`SectionName::Settings`].
    Settings(Settings),
    /// See [`SectionName::Listeners`].
    Listeners(Vec<Listener>),
    /// See [`SectionName::Upstreams`].
    Upstreams(Vec<Upstream>),
    /// See [`SectionName::Apis`].
    Apis(Vec<Api>),
}

/// Sections of a generation, by name: digest and decoded content.
pub type Sections = BTreeMap<SectionName, (Digest, Arc<Section>)>;

/// The bucket of an API or upstream of this name.
pub fn bucket(name: &str) -> u8 {
    Digest::of(name.as_bytes()).0[0]
}
