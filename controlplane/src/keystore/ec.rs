//! Private keys of elliptic curves as Java writes them, without the public half, made whole (RFC 5915, RFC 5958).
//!
//! ring takes no key without it. The certificates of the store have it: the one that goes with the private half is it.

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::X509Certificate;

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const OCTETS: u8 = 0x04;
const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
/// `publicKey [1]` of an `ECPrivateKey`.
const PUBLIC_KEY: u8 = 0xa1;
/// 1.2.840.10045.2.1
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// What is left of a DER text.
pub(super) struct Der<'b>(pub(super) &'b [u8]);

impl<'b> Der<'b> {
    /// The content of the value of this kind that is next.
    pub(super) fn next(&mut self, kind: u8) -> Option<&'b [u8]> {
        let ([found, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match *first {
            short if short < 0x80 => (usize::from(short), rest),
            long @ 0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                (digits.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (*found == kind).then_some(content)
    }
}

/// The PKCS#8 key with its public half, if it is one of an elliptic curve that lacks it, and a certificate has it.
pub(super) fn completed(key: &[u8], certificates: &[X509Certificate<'_>]) -> Option<Vec<u8>> {
    let mut info = Der(Der(key).next(SEQUENCE)?);
    info.next(INTEGER)?;
    let algorithm = info.next(SEQUENCE)?;
    let mut inner = Der(Der(info.next(OCTETS)?).next(SEQUENCE)?);
    inner.next(INTEGER)?;
    let private = inner.next(OCTETS)?;
    let is_whole = inner.0.contains(&PUBLIC_KEY) && usable(key);
    if !algorithm.starts_with(EC_PUBLIC_KEY) || is_whole {
        return None;
    }
    certificates.iter().find_map(|certificate| {
        let point = certificate.public_key().subject_public_key.data.as_ref();
        let bits = [&[0][..], point].concat();
        let public = value(PUBLIC_KEY, &[&value(BITS, &[&bits])]);
        let ec = value(SEQUENCE, &[&value(INTEGER, &[&[1]]), &value(OCTETS, &[private]), &public]);
        let version = value(INTEGER, &[&[0]]);
        let whole = value(SEQUENCE, &[&version, &value(SEQUENCE, &[algorithm]), &value(OCTETS, &[&ec])]);
        // ring compares the halves.
        usable(&whole).then_some(whole)
    })
}

fn usable(key: &[u8]) -> bool {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    rustls::crypto::ring::sign::any_supported_type(&key).is_ok()
}

/// A DER value with this content.
fn value(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut value = vec![kind];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => value.push(short),
        Ok(byte) => value.extend([0x81, byte]),
        // What stands here is far below 64 KiB.
        Err(_) => value.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    parts.iter().for_each(|part| value.extend_from_slice(part));
    value
}
