//! OCSP responses, RFC 6960 §4.2.1, as far as an operator's mistake shows: another certificate's, one that has run out,
//! or no response at all.
//!
//! The signature is checked by the clients that the response is for.

use std::time::{Duration, SystemTime};

use x509_parser::prelude::{ASN1Time, FromDer};

/// What a response says of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The certificate's serial number, as its DER integer has it.
    pub serial: Vec<u8>,
    /// `good`, `revoked` or `unknown`.
    pub status: &'static str,
    /// From when on the response may no longer be used.
    pub next_update: Option<SystemTime>,
}

const SEQUENCE: u8 = 0x30;
const ENUMERATED: u8 = 0x0a;
const OBJECT: u8 = 0x06;
const OCTETS: u8 = 0x04;
const INTEGER: u8 = 0x02;
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;
/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const BASIC: [u8; 9] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// What a response (DER) says of the first certificate in it; the error is a sentence.
pub fn read(bytes: &[u8]) -> Result<Said, &'static str> {
    const SHAPE: &str = "it is not an OCSP response";
    let mut outer = Der(Der(bytes).only(SEQUENCE).ok_or(SHAPE)?);
    match outer.take(ENUMERATED).ok_or(SHAPE)? {
        [0] => {}
        _ => return Err("it is an answer that says that the responder failed; ask for another"),
    }
    let mut typed = Der(Der(outer.take(CONTEXT_0).ok_or(SHAPE)?).only(SEQUENCE).ok_or(SHAPE)?);
    if typed.take(OBJECT).ok_or(SHAPE)? != BASIC {
        return Err("it is not of the basic type of RFC 6960");
    }
    let basic = typed.take(OCTETS).ok_or(SHAPE)?;
    single(basic).ok_or("its content is not that of an OCSP response")
}

/// BasicOCSPResponse down to its first SingleResponse.
fn single(basic: &[u8]) -> Option<Said> {
    let mut data = Der(Der(Der(basic).only(SEQUENCE)?).take(SEQUENCE)?);
    if data.tag() == Some(CONTEXT_0) {
        data.any()?; // the version
    }
    data.any()?; // who responds
    data.any()?; // when
    let mut response = Der(Der(data.take(SEQUENCE)?).take(SEQUENCE)?);
    let mut certificate = Der(response.take(SEQUENCE)?);
    for _ in 0..3 {
        certificate.any()?; // algorithm, hash of the issuer's name, hash of its key
    }
    let serial = certificate.take(INTEGER)?.to_vec();
    let status = match response.any()? {
        (0x80, _) => "good",
        (CONTEXT_1, _) => "revoked",
        _ => "unknown",
    };
    response.any()?; // from when on
    let next_update = match response.tag() {
        Some(CONTEXT_0) => Some(time(response.take(CONTEXT_0)?)?),
        _ => None,
    };
    Some(Said { serial, status, next_update })
}

fn time(bytes: &[u8]) -> Option<SystemTime> {
    let (_, time) = ASN1Time::from_der(bytes).ok()?;
    let since = u64::try_from(time.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since))
}

/// What is left of the content of a constructed value.
struct Der<'b>(&'b [u8]);

impl<'b> Der<'b> {
    fn tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next value: tag and content.
    fn any(&mut self) -> Option<(u8, &'b [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn take(&mut self, wanted: u8) -> Option<&'b [u8]> {
        self.any().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }

    /// The content of the one value that there is.
    fn only(mut self, wanted: u8) -> Option<&'b [u8]> {
        self.take(wanted).filter(|_| self.0.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u8::try_from(content.len()).unwrap();
        let head = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
        [head, content].concat()
    }

    fn response(status: &[u8], next_update: &[u8]) -> Vec<u8> {
        let any = value(OCTETS, &[b"x"]);
        let certificate = value(SEQUENCE, &[&any, &any, &any, &value(INTEGER, &[&[0, 0xff]])]);
        let time = value(0x18, &[b"20260101000000Z"]);
        let one = value(SEQUENCE, &[&certificate, status, &time, next_update]);
        let data = value(SEQUENCE, &[&any, &time, &value(SEQUENCE, &[&one])]);
        let basic = value(SEQUENCE, &[&data, &any, &any]);
        let typed = value(SEQUENCE, &[&value(OBJECT, &[&BASIC]), &value(OCTETS, &[&basic])]);
        value(SEQUENCE, &[&value(ENUMERATED, &[&[0]]), &value(CONTEXT_0, &[&typed])])
    }

    #[test]
    fn a_response_is_read() {
        let until = value(CONTEXT_0, &[&value(0x18, &[b"20300101000000Z"])]);
        let said = read(&response(&[0x80, 0], &until)).unwrap();
        let next_update = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000));
        assert_eq!(said, Said { serial: vec![0, 0xff], status: "good", next_update });
        assert_eq!(read(&response(&value(CONTEXT_1, &[]), &[])).unwrap().status, "revoked");
        assert_eq!(read(&response(&[0x82, 0], &[])).unwrap().next_update, None);
    }

    #[test]
    fn what_is_cut_or_something_else_is_refused_quietly() {
        let whole = response(&[0x80, 0], &[]);
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{end}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let _ = read(&bytes);
            }
        }
        let failed = value(SEQUENCE, &[&value(ENUMERATED, &[&[6]])]);
        assert!(read(&failed).unwrap_err().contains("failed"));
        assert!(read(b"-----BEGIN").is_err());
    }
}
