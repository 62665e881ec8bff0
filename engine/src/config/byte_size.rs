//! A number of bytes as people write it: `4KiB`, `256MiB`, `2GiB`, or a plain number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// A number of bytes. Parses and prints binary units; `MB` and the like are refused, because they
/// mean different things to different people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Why a text is not a [`ByteSize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ByteSizeError {
    /// There is no number in front.
    #[error("a size begins with a whole number, such as 4KiB or 2GiB")]
    NoNumber,
    /// What follows the number is no unit.
    #[error("the unit of a size is KiB, MiB, GiB or TiB, or nothing for bytes")]
    UnknownUnit,
    /// More than 2^64 - 1 bytes.
    #[error("the size does not fit 64 bits")]
    TooLarge,
}

impl ByteSize {
    /// The number.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number for people: one digit behind the point, and a unit that suits it.
    #[must_use]
    pub fn approximate(self) -> String {
        match UNITS.iter().find(|(_, shift)| self.0 >> shift > 0) {
            Some((name, shift)) => {
                let tenths = (u128::from(self.0) * 10 + (1 << shift) / 2) >> shift;
                match (tenths / 10, tenths % 10) {
                    (whole, 0) => format!("{whole} {name}"),
                    (whole, tenth) => format!("{whole}.{tenth} {name}"),
                }
            }
            None => format!("{} bytes", self.0),
        }
    }

    /// A number of KiB.
    #[must_use]
    pub const fn kib(count: u64) -> ByteSize {
        ByteSize(count << 10)
    }

    /// A number of MiB.
    #[must_use]
    pub const fn mib(count: u64) -> ByteSize {
        ByteSize(count << 20)
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<ByteSize, ByteSizeError> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(end);
        if digits.is_empty() {
            return Err(ByteSizeError::NoNumber);
        }
        let number: u64 = digits.parse().map_err(|_| ByteSizeError::TooLarge)?;
        let unit = unit.trim_start();
        let shift = match unit {
            "" | "B" => 0,
            _ => {
                let known = UNITS.iter().find(|(name, _)| {
                    name.eq_ignore_ascii_case(unit) || name[..1].eq_ignore_ascii_case(unit)
                });
                known.ok_or(ByteSizeError::UnknownUnit)?.1
            }
        };
        let bytes = u128::from(number) << shift;
        u64::try_from(bytes).map(ByteSize).map_err(|_| ByteSizeError::TooLarge)
    }
}

impl fmt::Display for ByteSize {
    /// The largest unit that leaves no remainder: what is printed reads back as the same number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        match unit {
            Some((name, shift)) => write!(f, "{}{name}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(bytes) => Ok(ByteSize(bytes)),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        for (text, bytes) in
            [("0", 0), ("4KiB", 4096), ("6000", 6000), ("1536MiB", 1536 << 20), ("2TiB", 2 << 40)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        assert_eq!("4k".parse(), Ok(ByteSize(4096)));
        assert_eq!("1 GiB".parse(), Ok(ByteSize(1 << 30)));
    }

    #[test]
    fn approximates_for_people() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (4096, "4 KiB"),
            (257_990_656, "246 MiB"),
            (1_600_000_000, "1.5 GiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(ByteSize(bytes).approximate(), text);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, error) in [
            ("", ByteSizeError::NoNumber),
            ("GiB", ByteSizeError::NoNumber),
            ("-1", ByteSizeError::NoNumber),
            ("4KB", ByteSizeError::UnknownUnit),
            ("1.5GiB", ByteSizeError::UnknownUnit),
            ("99999999999999999999", ByteSizeError::TooLarge),
            ("99999999TiB", ByteSizeError::TooLarge),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(error), "{text}");
        }
    }
}
