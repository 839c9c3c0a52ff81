//! Close codes and close payloads, RFC 6455 §5.5.1 and §7.4.

use super::violation::Violation;

/// A close code, RFC 6455 §7.4 and the IANA registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The endpoint goes away: lifetime or idle time over.
    pub const GOING_AWAY: Self = Self(1001);
    /// A rule of the protocol was broken.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// Never sent: stands for a close frame without a code.
    pub const NO_STATUS: Self = Self(1005);
    /// Never sent: stands for a connection that was lost.
    pub const ABNORMAL: Self = Self(1006);
    /// Text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// A policy was broken.
    pub const POLICY: Self = Self(1008);
    /// Too big.
    pub const TOO_BIG: Self = Self(1009);
    /// The other side failed.
    pub const INTERNAL: Self = Self(1011);
    /// The service restarts: connect again.
    pub const RESTART: Self = Self(1012);

    /// Whether an endpoint may put this code into a close frame: 1000-1003, 1007-1014, 3000-4999.
    pub const fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// The checked payload of a close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosePayload<'a> {
    /// An empty payload.
    Empty,
    /// A code and a reason in UTF-8.
    Code(CloseCode, &'a str),
}

impl<'a> ClosePayload<'a> {
    /// Checks an unmasked payload, §5.5.1: none, or a code that may be sent and a reason in UTF-8.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Violation> {
        match payload {
            [] => Ok(Self::Empty),
            [_] => Err(Violation::BadClosePayload),
            [high, low, reason @ ..] => {
                let code = CloseCode(u16::from_be_bytes([*high, *low]));
                if !code.may_be_sent() {
                    return Err(Violation::BadCloseCode);
                }
                let reason = simdutf8::basic::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
                Ok(Self::Code(code, reason))
            }
        }
    }

    /// The code, 1005 for an empty payload.
    pub fn code(&self) -> CloseCode {
        match self {
            Self::Empty => CloseCode::NO_STATUS,
            Self::Code(code, _) => *code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_of_the_registry_may_be_sent() {
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert!(CloseCode(code).may_be_sent(), "{code}");
        }
        for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert!(!CloseCode(code).may_be_sent(), "{code}");
        }
    }

    #[test]
    fn close_payloads_are_checked() {
        assert_eq!(ClosePayload::parse(b""), Ok(ClosePayload::Empty));
        assert_eq!(ClosePayload::parse(b"\x03\xe8bye"), Ok(ClosePayload::Code(CloseCode::NORMAL, "bye")));
        assert_eq!(ClosePayload::parse(b"\x03"), Err(Violation::BadClosePayload));
        assert_eq!(ClosePayload::parse(b"\x03\xed"), Err(Violation::BadCloseCode));
        assert_eq!(ClosePayload::parse(b"\x03\xe8\xff"), Err(Violation::NotUtf8));
    }
}
