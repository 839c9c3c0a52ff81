//! Frames of RFC 6455 §5.2, right and wrong ones: built field by field, read without judgement.

/// The four bits that say what a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opcode(pub u8);

impl Opcode {
    pub const CONTINUATION: Self = Self(0);
    pub const TEXT: Self = Self(1);
    pub const BINARY: Self = Self(2);
    pub const CLOSE: Self = Self(8);
    pub const PING: Self = Self(9);
    pub const PONG: Self = Self(10);
}

/// How the length of a payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthForm {
    /// In the fewest bytes, as the RFC demands.
    Shortest,
    /// In two bytes behind 126.
    Two,
    /// In eight bytes behind 127.
    Eight,
    /// This number, in eight bytes, whatever the payload really is.
    Claimed(u64),
}

/// One frame. Payloads are held unmasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    /// Three reserved bits, RSV1 being 4.
    pub reserved: u8,
    pub opcode: Opcode,
    /// Masked when written; what was found when read.
    pub mask: Option<[u8; 4]>,
    pub length: LengthForm,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: Opcode, payload: impl Into<Vec<u8>>) -> Self {
        let payload = payload.into();
        Self { fin: true, reserved: 0, opcode, mask: None, length: LengthForm::Shortest, payload }
    }

    pub fn text(text: &str) -> Self {
        Self::new(Opcode::TEXT, text)
    }

    pub fn binary(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(Opcode::BINARY, payload)
    }

    pub fn continuation(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(Opcode::CONTINUATION, payload)
    }

    pub fn ping(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(Opcode::PING, payload)
    }

    pub fn pong(payload: impl Into<Vec<u8>>) -> Self {
        Self::new(Opcode::PONG, payload)
    }

    pub fn close(code: u16, reason: &str) -> Self {
        Self::new(Opcode::CLOSE, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
    }

    /// Not the last fragment of its message.
    pub fn unfinished(mut self) -> Self {
        self.fin = false;
        self
    }

    pub fn reserved(mut self, bits: u8) -> Self {
        self.reserved = bits;
        self
    }

    pub fn masked(mut self, key: [u8; 4]) -> Self {
        self.mask = Some(key);
        self
    }

    pub fn length_form(mut self, form: LengthForm) -> Self {
        self.length = form;
        self
    }

    /// The code and reason of a close frame; `None` for an empty one.
    pub fn close_code(&self) -> Option<(u16, String)> {
        assert_eq!(self.opcode, Opcode::CLOSE, "not a close frame: {self:?}");
        let (code, reason) = self.payload.split_at_checked(2)?;
        Some((u16::from_be_bytes([code[0], code[1]]), String::from_utf8(reason.to_vec()).expect("reasons are UTF-8")))
    }

    /// On the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.fin) << 7 | self.reserved << 4 | self.opcode.0];
        let mask_bit = u8::from(self.mask.is_some()) << 7;
        let length = self.payload.len() as u64;
        match (self.length, length) {
            (LengthForm::Shortest, 0..=125) => bytes.push(mask_bit | length as u8),
            (LengthForm::Shortest, 126..=0xffff) | (LengthForm::Two, _) => {
                bytes.push(mask_bit | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            (LengthForm::Shortest | LengthForm::Eight, _) => {
                bytes.push(mask_bit | 127);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
            (LengthForm::Claimed(claimed), _) => {
                bytes.push(mask_bit | 127);
                bytes.extend_from_slice(&claimed.to_be_bytes());
            }
        }
        let start = bytes.len() + self.mask.map_or(0, |key| key.len());
        bytes.extend(self.mask.iter().flatten());
        bytes.extend_from_slice(&self.payload);
        if let Some(key) = self.mask {
            mask(&mut bytes[start..], key);
        }
        bytes
    }

    /// Reads the first frame in the bytes and says how many it took; `None` while it is not complete.
    pub fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let [first, second, ..] = *bytes else { return None };
        let (length, form, mut at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(array(bytes, 2)?)), LengthForm::Two, 4),
            127 => (u64::from_be_bytes(array(bytes, 2)?), LengthForm::Eight, 10),
            length => (u64::from(length), LengthForm::Shortest, 2),
        };
        let shortest = match form {
            LengthForm::Two => length > 125,
            LengthForm::Eight => length > 0xffff,
            _ => true,
        };
        let key = if second & 0x80 == 0 { None } else { Some(array::<4>(bytes, at)?) };
        at += key.map_or(0, |key| key.len());
        let end = at.checked_add(usize::try_from(length).ok()?)?;
        let mut payload = bytes.get(at..end)?.to_vec();
        if let Some(key) = key {
            mask(&mut payload, key);
        }
        let frame = Self {
            fin: first & 0x80 != 0,
            reserved: first >> 4 & 7,
            opcode: Opcode(first & 15),
            mask: key,
            length: if shortest { LengthForm::Shortest } else { form },
            payload,
        };
        Some((frame, end))
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Masks or unmasks, RFC 6455 §5.3.
pub fn mask(payload: &mut [u8], key: [u8; 4]) {
    payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
}
