//! Durations as Go writes them: `300ms`, `-1.5h`, `2h45m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A signed length of time in nanoseconds, as Go's `time.Duration`.
///
/// Text needs units (`ns`, `us`, `µs`, `ms`, `s`, `m`, `h`) for everything but `0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GoDuration {
    nanos: i64,
}

/// Text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// No number where one should stand, or other stray text.
    #[error("`{0}` is not a duration")]
    Syntax(String),
    /// A number without its unit.
    #[error("the duration `{0}` has no unit")]
    MissingUnit(String),
    /// A unit that does not exist.
    #[error("unknown unit `{unit}` in the duration `{text}`")]
    UnknownUnit {
        /// The duration as given.
        text: String,
        /// The unit in question.
        unit: String,
    },
    /// More than about 292 years.
    #[error("the duration `{0}` is too long")]
    TooLong(String),
}

impl GoDuration {
    /// A duration of so many nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self { nanos }
    }

    /// Its nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.nanos
    }

    /// The same length as a standard duration; `None` when it is negative.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.nanos).ok().map(Duration::from_nanos)
    }
}

impl FromStr for GoDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(InvalidDuration::Syntax(text.to_owned()));
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (nanos, after) = component(rest, text)?;
            let too_long = || InvalidDuration::TooLong(text.to_owned());
            total = total.checked_add(nanos).filter(|sum| *sum <= 1 << 63).ok_or_else(too_long)?;
            rest = after;
        }
        match (negative, i64::try_from(total)) {
            (false, Ok(nanos)) => Ok(Self { nanos }),
            (true, Ok(nanos)) => Ok(Self { nanos: -nanos }),
            (true, Err(_)) => Ok(Self { nanos: i64::MIN }),
            (false, Err(_)) => Err(InvalidDuration::TooLong(text.to_owned())),
        }
    }
}

/// Reads one `number unit` from the front of `rest`: its nanoseconds and what follows.
fn component<'a>(rest: &'a str, text: &str) -> Result<(u64, &'a str), InvalidDuration> {
    let syntax = || InvalidDuration::Syntax(text.to_owned());
    let too_long = || InvalidDuration::TooLong(text.to_owned());
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();

    let whole = &rest[..digits(rest)];
    let mut after = &rest[whole.len()..];
    let mut fraction = "";
    if let Some(tail) = after.strip_prefix('.') {
        fraction = &tail[..digits(tail)];
        after = &tail[fraction.len()..];
    }
    if whole.is_empty() && fraction.is_empty() {
        return Err(syntax());
    }
    let unit_end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
    let (unit, after) = after.split_at(unit_end);
    let scale: u64 = match unit {
        "" => return Err(InvalidDuration::MissingUnit(text.to_owned())),
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(InvalidDuration::UnknownUnit { text: text.to_owned(), unit: unit.to_owned() }),
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_long())? };
    let part: u64 = fraction
        .bytes()
        .take(18)
        .fold((0u64, scale), |(sum, unit), digit| (sum * 10 + u64::from(digit - b'0'), unit))
        .0;
    let width = fraction.len().min(18) as u32;
    let part = u128::from(part) * u128::from(scale) / 10u128.pow(width);
    let nanos = whole.checked_mul(scale).ok_or_else(too_long)?;
    // The fraction is below one unit, so it fits.
    let nanos = nanos.checked_add(part as u64).filter(|sum| *sum <= 1 << 63).ok_or_else(too_long)?;
    Ok((nanos, after))
}

impl fmt::Display for GoDuration {
    /// The shortest exact form Go would print, like `1h30m5.5s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.nanos.unsigned_abs();
        if self.nanos < 0 {
            f.write_str("-")?;
        }
        if nanos == 0 {
            return f.write_str("0s");
        }
        match nanos {
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}µs", Decimal(nanos, 3)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", Decimal(nanos, 6)),
            _ => {
                let seconds = nanos / 1_000_000_000;
                let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                write!(f, "{}s", Decimal(nanos % 60_000_000_000, 9))
            }
        }
    }
}

/// A number of so many decimal places, without trailing zeros.
struct Decimal(u64, u32);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = 10u64.pow(self.1);
        write!(f, "{}", self.0 / scale)?;
        let fraction = format!("{:0width$}", self.0 % scale, width = self.1 as usize);
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() { Ok(()) } else { write!(f, ".{fraction}") }
    }
}

impl serde::Serialize for GoDuration {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nanos(text: &str) -> Result<i64, InvalidDuration> {
        text.parse().map(GoDuration::as_nanos)
    }

    #[test]
    fn the_text_form_is_that_of_go() {
        let rows = [
            ("0", 0, "0s"),
            ("5m", 300_000_000_000, "5m0s"),
            ("1h30m5.5s", 5_405_500_000_000, "1h30m5.5s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("-1.5s", -1_500_000_000, "-1.5s"),
            (".5ms", 500_000, "500µs"),
            ("1.s", 1_000_000_000, "1s"),
            ("10us", 10_000, "10µs"),
            ("10µs", 10_000, "10µs"),
            ("3ns", 3, "3ns"),
            ("-9223372036854775808ns", i64::MIN, "-2562047h47m16.854775808s"),
        ];
        for (text, expected, shown) in rows {
            assert_eq!(nanos(text), Ok(expected), "{text}");
            assert_eq!(GoDuration::from_nanos(expected).to_string(), shown, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        for text in ["", "-", ".", "s", "5m x", "1h-5m", "١s"] {
            assert!(nanos(text).is_err(), "{text}");
        }
        assert_eq!(nanos("300"), Err(InvalidDuration::MissingUnit("300".to_owned())));
        assert!(matches!(nanos("3d"), Err(InvalidDuration::UnknownUnit { .. })));
        assert!(matches!(nanos("9223372036854775808ns"), Err(InvalidDuration::TooLong(_))));
        assert!(matches!(nanos("99999999999999999999h"), Err(InvalidDuration::TooLong(_))));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(nanos in any::<i64>()) {
            let duration = GoDuration::from_nanos(nanos);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}
