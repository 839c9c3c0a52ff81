//! Durations and sizes as people write them: `10s`, `250ms`, `1MiB`.
//!
//! Both travel as the same text in every encoding, so a snapshot read by a person says what the file said.

use std::fmt;
use std::str::FromStr;

use schemars::json_schema;

/// A length of time in whole milliseconds. Written `250ms`, `10s`, `5m`, `1h`, `2d`, or `0`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration {
    ms: u64,
}

pub(super) const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Duration {
    /// Zero: where a duration switches something, off.
    pub const ZERO: Self = Self { ms: 0 };

    /// From milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self { ms }
    }

    /// From seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self { ms: secs * 1000 }
    }

    /// In milliseconds.
    pub const fn as_ms(self) -> u64 {
        self.ms
    }

    /// Whether it is zero, which for most fields means off.
    pub const fn is_zero(self) -> bool {
        self.ms == 0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        Self::from_millis(duration.ms)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ms == 0 {
            return f.write_str("0");
        }
        let (unit, factor) =
            DURATION_UNITS.into_iter().find(|(_, factor)| self.ms.is_multiple_of(*factor)).unwrap_or(("ms", 1));
        write!(f, "{}{unit}", self.ms / factor)
    }
}

impl FromStr for Duration {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a duration is a whole number and a unit: 250ms, 10s, 5m, 1h, 2d";
        if text == "0" {
            return Ok(Self::ZERO);
        }
        let ms = scaled(text, &DURATION_UNITS).ok_or(FORM)?;
        Ok(Self { ms })
    }
}

/// A number of bytes. Written `64KiB`, `1MiB`, `16MB`, or a plain number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size {
    bytes: u64,
}

pub(super) const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

impl Size {
    /// From bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self { bytes }
    }

    /// In bytes.
    pub const fn as_bytes(self) -> u64 {
        self.bytes
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary =
            SIZE_UNITS.into_iter().take(3).find(|(_, factor)| self.bytes != 0 && self.bytes.is_multiple_of(*factor));
        match binary {
            Some((unit, factor)) => write!(f, "{}{unit}", self.bytes / factor),
            None => write!(f, "{}", self.bytes),
        }
    }
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a size is a whole number of bytes, or one with a unit: 64KiB, 1MiB, 16MB";
        let bytes = match text.parse() {
            Ok(bytes) => bytes,
            Err(_) => scaled(text, &SIZE_UNITS).ok_or(FORM)?,
        };
        Ok(Self { bytes })
    }
}

/// Digits, then one of the units; `None` for another form or an overflow.
pub(super) fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// Serde and JSON Schema for what people write as a text, or as a plain number.
macro_rules! as_text {
    ($type:ty, $expecting:literal, $from_number:expr, $schema:expr) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$type, E> {
                        let from_number: fn(u64) -> Option<$type> = $from_number;
                        from_number(number).ok_or_else(|| E::custom(concat!("expected ", $expecting)))
                    }
                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$type, E> {
                        u64::try_from(number).map_err(E::custom).and_then(|number| self.visit_u64(number))
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $schema
            }
        }
    };
}

pub(super) use as_text;

as_text!(
    Duration,
    "a duration such as 250ms, 10s, 5m, 1h or 2d",
    |number| (number == 0).then_some(Duration::ZERO),
    json_schema!({
        "type": ["string", "integer"],
        "format": "framegate-duration",
        "pattern": "^(0|[0-9]+(ms|s|m|h|d))$",
        "maximum": 0,
        "description": "A duration: a whole number and a unit, such as 250ms, 10s, 5m, 1h or 2d; or 0."
    })
);
as_text!(
    Size,
    "a size such as 65536, 64KiB or 1MiB",
    |number| Some(Size::from_bytes(number)),
    json_schema!({
        "type": ["string", "integer"],
        "format": "framegate-size",
        "pattern": "^[0-9]+(B|KB|MB|GB|KiB|MiB|GiB)?$",
        "minimum": 0,
        "description": "A number of bytes, plain or with a unit: 65536, 64KiB, 1MiB, 16MB."
    })
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown_in_their_largest_whole_unit() {
        for (text, ms) in [
            ("250ms", 250),
            ("10s", 10_000),
            ("90s", 90_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("0", 0),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.as_ms(), ms, "{text}");
            assert_eq!(duration.to_string(), text, "{ms}");
        }
    }

    #[test]
    fn odd_units_are_refused() {
        for text in ["", "10", "s", "1.5s", "10 s", "10sec", "-1s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(text.parse::<Duration>().is_err(), "{text:?}");
        }
        for text in ["", "KiB", "1.5MiB", "-1", "1TiB", "99999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_read_and_shown_in_binary_units() {
        for (text, bytes, shown) in [
            ("65536", 65536, "64KiB"),
            ("1MiB", 1 << 20, "1MiB"),
            ("16MB", 16_000_000, "15625KiB"),
            ("0", 0, "0"),
            ("7B", 7, "7"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.as_bytes(), bytes, "{text}");
            assert_eq!(size.to_string(), shown, "{text}");
        }
    }
}
