//! Java's own form of a key store, JKS: how its bytes are laid out, what protects them, and its cipher for keys.
//!
//! ```text
//! feedfeed, version, count | tag 1: alias, time, key, chain · tag 2: alias, time, certificate | SHA-1
//! ```
//!
//! Numbers are big-endian. The SHA-1 is of the password in UTF-16, the words `Mighty Aphrodite`, and all that is before it:
//! nothing is believed before it is right. There is no specification but the program that writes it.

use sha1::{Digest, Sha1};

use super::ec::{Der, OCTETS, SEQUENCE};
use super::{Contents, ENTRIES_MAX, KeystoreError};

const WORDS: &[u8] = b"Mighty Aphrodite";
const DIGEST_BYTES: usize = 20;
const SALT_BYTES: usize = 20;
const KEY_TAG: u32 = 1;
const CERTIFICATE_TAG: u32 = 2;
/// 1.3.6.1.4.1.42.2.17.1.1
const KEY_PROTECTOR: &[u8] = &[0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x2a, 0x02, 0x11, 0x01, 0x01];

/// Reads a whole store.
pub(super) fn read(bytes: &[u8], password: &str, key_password: &str) -> Result<Contents, KeystoreError> {
    let length = bytes.len().checked_sub(DIGEST_BYTES).ok_or(KeystoreError::Damaged("it breaks off"))?;
    let (body, digest) = bytes.split_at(length);
    if digest_of(password, body) != digest {
        return Err(KeystoreError::Password);
    }
    let mut rest = Cursor(body);
    rest.number()?;
    let version = rest.number()?;
    let count = rest.number()?;
    if !(1..=2).contains(&version) || count as usize > ENTRIES_MAX {
        return Err(KeystoreError::Damaged("it is of no known version, or has too many entries"));
    }
    let mut contents = Contents::default();
    for _ in 0..count {
        let tag = rest.number()?;
        let alias = rest.text()?;
        rest.take(8)?;
        match tag {
            KEY_TAG => {
                let protected = rest.block()?;
                let chain = rest.number()?;
                for _ in 0..chain {
                    contents.certificates.push((alias.clone(), rest.certificate(version)?));
                }
                contents.keys.push((alias.clone(), open_key(protected, &alias, key_password)?));
            }
            CERTIFICATE_TAG => contents.certificates.push((alias, rest.certificate(version)?)),
            _ => return Err(KeystoreError::Damaged("it has an entry that is neither key nor certificate")),
        }
    }
    Ok(contents)
}

/// What stands behind a store's bytes.
pub(super) fn digest_of(password: &str, body: &[u8]) -> [u8; DIGEST_BYTES] {
    Sha1::new().chain_update(utf16(password)).chain_update(WORDS).chain_update(body).finalize().into()
}

/// What is left of the bytes.
struct Cursor<'b>(&'b [u8]);

impl<'b> Cursor<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], KeystoreError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(KeystoreError::Damaged("it breaks off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, KeystoreError> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn text(&mut self) -> Result<String, KeystoreError> {
        let length = self.take(2)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn block(&mut self) -> Result<&'b [u8], KeystoreError> {
        let length = self.number()?;
        self.take(length as usize)
    }

    fn certificate(&mut self, version: u32) -> Result<Vec<u8>, KeystoreError> {
        if version == 2 && self.text()? != "X.509" {
            return Err(KeystoreError::Damaged("it has a certificate that is not X.509"));
        }
        self.block().map(<[u8]>::to_vec)
    }
}

/// A key out of its wrapping: salt, the key under a keystream of chained SHA-1, and a digest of password and key.
fn open_key(protected: &[u8], alias: &str, password: &str) -> Result<Vec<u8>, KeystoreError> {
    const LAYOUT: KeystoreError = KeystoreError::Damaged("a key is not laid out as one");
    let mut info = Der(Der(protected).next(SEQUENCE).ok_or(LAYOUT)?);
    if !info.next(SEQUENCE).ok_or(LAYOUT)?.starts_with(KEY_PROTECTOR) {
        return Err(KeystoreError::Damaged("a key is protected in a way that is not Java's"));
    }
    let wrapped = info.next(OCTETS).ok_or(LAYOUT)?;
    let inner =
        wrapped.len().checked_sub(SALT_BYTES + DIGEST_BYTES).ok_or(KeystoreError::Damaged("a key breaks off"))?;
    let (salt, rest) = wrapped.split_at(SALT_BYTES);
    let (hidden, digest) = rest.split_at(inner);
    let password = utf16(password);
    let mut stream = salt.to_vec();
    let mut key = Vec::with_capacity(inner);
    for block in hidden.chunks(DIGEST_BYTES) {
        stream = Sha1::new().chain_update(&password).chain_update(&stream).finalize().to_vec();
        key.extend(block.iter().zip(&stream).map(|(byte, mask)| byte ^ mask));
    }
    let wanted = Sha1::new().chain_update(&password).chain_update(&key).finalize();
    if wanted.as_slice() == digest { Ok(key) } else { Err(KeystoreError::KeyPassword(alias.to_owned())) }
}

/// As Java has passwords: UTF-16, big-endian, without a mark.
fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}
