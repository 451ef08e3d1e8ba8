//! Quantities that are replicated, traced and shown: durations, cpu and memory.
//!
//! Integers only, so that debug and release, x86 and ARM agree to the byte. Each type parses and
//! prints the spelling that `mill.toml` uses, and is a plain number in JSON.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time in whole milliseconds, written `500ms`, `5s`, `1m30s`, `2h`, `7d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

/// Cpu in thousandths of a core, written as a number of cores: `0.5`, `2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millicores(pub u64);

/// Memory or disk in bytes, written `512MiB`, `20GiB`, `1.5GiB`, `100MB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// Why a quantity could not be read; the sentence says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadQuantity(pub String);

impl Millis {
    /// Whole seconds.
    pub const fn secs(seconds: u64) -> Millis {
        Millis(seconds * 1000)
    }

    /// Whole minutes.
    pub const fn mins(minutes: u64) -> Millis {
        Millis(minutes * 60_000)
    }

    /// The same length for the standard library.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

/// The longest duration that is read: ten years, so that adding it to any clock is safe.
const LONGEST: Millis = Millis(3650 * 86_400_000);

const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl std::str::FromStr for Millis {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Millis, BadQuantity> {
        let bad =
            || BadQuantity(format!("`{text}` is not a duration; write `500ms`, `5s` or `1m30s`"));
        if text.is_empty() {
            return Err(bad());
        }
        let mut rest = text;
        let mut total: u64 = 0;
        let mut ceiling = u64::MAX;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let unit = TIME_UNITS.iter().find(|(name, _)| *name == &rest[..letters]);
            let (_, size) = *unit.ok_or_else(bad)?;
            // Units go from large to small, each once: `30s1m` is a slip, not a duration.
            if size >= ceiling {
                return Err(bad());
            }
            ceiling = size;
            total = number.checked_mul(size).and_then(|n| total.checked_add(n)).ok_or_else(bad)?;
            rest = &rest[letters..];
        }
        if total > LONGEST.0 {
            return Err(BadQuantity(format!("`{text}` is too long; the most is {LONGEST}")));
        }
        Ok(Millis(total))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (name, size) in TIME_UNITS {
            let count = rest / size;
            rest %= size;
            if count > 0 {
                write!(f, "{count}{name}")?;
            }
        }
        Ok(())
    }
}

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

impl std::str::FromStr for Bytes {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Bytes, BadQuantity> {
        let bad =
            || BadQuantity(format!("`{text}` is not a size; write `512MiB`, `20GiB` or `100MB`"));
        let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(bad)?;
        let unit = SIZE_UNITS.iter().find(|(name, _)| *name == &text[split..]);
        let (_, size) = *unit.ok_or_else(bad)?;
        let thousandths = decimal_thousandths(text[..split].trim_end()).ok_or_else(bad)?;
        let bytes = u128::from(thousandths) * u128::from(size) / 1000;
        u64::try_from(bytes).map(Bytes).map_err(|_| bad())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = SIZE_UNITS[..4].iter().find(|(_, size)| self.0 >= *size);
        let Some((name, size)) = binary else { return write!(f, "{}B", self.0) };
        let tenths = u128::from(self.0) * 10 / u128::from(*size);
        match (tenths / 10, tenths % 10) {
            (whole, 0) => write!(f, "{whole}{name}"),
            (whole, tenth) => write!(f, "{whole}.{tenth}{name}"),
        }
    }
}

impl std::str::FromStr for Millicores {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Millicores, BadQuantity> {
        decimal_thousandths(text).map(Millicores).ok_or_else(|| {
            BadQuantity(format!("`{text}` is not a number of cores; write `0.5` or `2`"))
        })
    }
}

impl fmt::Display for Millicores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{rest:03}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

/// Reads `1`, `0.5`, `1.25` as thousandths without passing through a float.
fn decimal_thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 3 {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = format!("{fraction:0<3}").parse().ok()?;
    whole.checked_mul(1000)?.checked_add(fraction)
}

macro_rules! debug_as_display {
    ($($name:ty),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
debug_as_display!(Millis, Millicores, Bytes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_the_same_spelling() {
        for text in ["500ms", "5s", "1m30s", "2h", "7d", "1d2h3m4s5ms"] {
            assert_eq!(text.parse::<Millis>().unwrap().to_string(), text);
        }
        assert_eq!("90s".parse::<Millis>().unwrap().to_string(), "1m30s");
        for text in ["", "5", "s", "5 s", "30s1m", "5s5s", "99999999999d", "-1s", "1.5s"] {
            assert!(text.parse::<Millis>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_binary_and_decimal_units() {
        assert_eq!("512MiB".parse::<Bytes>().unwrap(), Bytes(512 << 20));
        assert_eq!("1.5GiB".parse::<Bytes>().unwrap().to_string(), "1.5GiB");
        assert_eq!("100MB".parse::<Bytes>().unwrap(), Bytes(100_000_000));
        for text in ["512", "MiB", "1.2345MiB", "-1MiB", "1 mib", "99999999999TiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn cores_are_exact_thousandths() {
        assert_eq!("0.5".parse::<Millicores>().unwrap(), Millicores(500));
        assert_eq!("0.125".parse::<Millicores>().unwrap().to_string(), "0.125");
        assert_eq!(Millicores(2000).to_string(), "2");
        assert!("0.0001".parse::<Millicores>().is_err());
    }
}
