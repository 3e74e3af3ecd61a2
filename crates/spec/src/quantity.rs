//! Quantities as Kubernetes writes them: `64M`, `1.5Gi`, `500m`, `1e3`.

use std::fmt;
use std::str::FromStr;

/// An amount with the text it was written as. The amount is held in thousandths, so that `500m` of a
/// processor is exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    millis: i128,
}

/// Text that is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a quantity; write a number with a unit like `64M`, `1.5Gi` or `500m`")]
pub struct InvalidQuantity {
    /// The offending text.
    pub text: String,
}

impl Quantity {
    /// Its amount in thousandths, rounded up.
    pub const fn millis(&self) -> i128 {
        self.millis
    }

    /// Its amount in whole units (bytes, processors), rounded up; `None` when negative or too large.
    pub fn units(&self) -> Option<u64> {
        let whole = self.millis.div_euclid(1000) + i128::from(self.millis.rem_euclid(1000) != 0);
        u64::try_from(whole).ok()
    }
}

impl FromStr for Quantity {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let invalid = || InvalidQuantity { text: text.chars().take(100).collect() };
        let millis = parse(text).ok_or_else(invalid)?;
        Ok(Self { text: text.to_owned(), millis })
    }
}

/// The amount in thousandths.
fn parse(text: &str) -> Option<i128> {
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let number_length = unsigned.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, suffix) = unsigned.split_at(number_length);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let good = |digits: &str| digits.len() <= 18 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !good(whole) || !good(fraction) {
        return None;
    }
    let (factor, divisor) = scale(suffix)?;
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = divisor * 10i128.pow(u32::try_from(fraction.len()).ok()?);
    let scaled = digits.checked_mul(factor)?.checked_mul(1000)?;
    let millis = scaled / divisor + i128::from(scaled % divisor != 0);
    Some(if negative { -millis } else { millis })
}

/// What a suffix multiplies by, as a fraction.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let decimal = |power: u32| (10i128.pow(power), 1);
    let binary = |power: u32| (1i128 << (10 * power), 1);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" | "K" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            match u32::try_from(exponent) {
                Ok(power) if power <= 18 => decimal(power),
                Err(_) if exponent >= -18 => (1, 10i128.pow(exponent.unsigned_abs())),
                _ => return None,
            }
        }
    })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl serde::Serialize for Quantity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_scale_the_number() {
        let check = |text: &str, millis: i128| {
            assert_eq!(text.parse::<Quantity>().map(|quantity| quantity.millis()), Ok(millis), "{text}");
        };
        check("64M", 64_000_000_000);
        check("1.5Gi", 1_610_612_736_000);
        check("500m", 500);
        check("0.1", 100);
        check("1e3", 1_000_000);
        check("1E-2", 10);
        check("1E", 10i128.pow(21));
        check("100n", 1);
        check("-2", -2000);
        check(".5", 500);
        check("1K", 1_000_000);
        assert_eq!("1500m".parse::<Quantity>().unwrap().units(), Some(2));
        assert_eq!("-1".parse::<Quantity>().unwrap().units(), None);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "M", "64MB", "1 G", "1.2.3", "0x10", "1e99", "é", "9999999999999999999G"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }
}
