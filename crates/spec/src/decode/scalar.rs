//! Readers of single values.

use super::wrong_kind;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::duration::GoDuration;
use crate::value::{Kind, Node};

/// A string; nothing else is turned into one.
pub fn string(node: &Node, diagnostics: &mut Diagnostics) -> Option<String> {
    text(node, diagnostics).map(str::to_owned)
}

/// A string, borrowed.
pub fn text<'n>(node: &'n Node, diagnostics: &mut Diagnostics) -> Option<&'n str> {
    if let Kind::String(text) = &node.kind {
        return Some(text);
    }
    let problem = wrong_kind(node, "a string");
    diagnostics.push(match node.kind {
        Kind::Int(_) | Kind::Float(_) | Kind::Bool(_) => problem.help("put it in quotes"),
        _ => problem,
    });
    None
}

/// A truth value, never quoted.
pub fn boolean(node: &Node, diagnostics: &mut Diagnostics) -> Option<bool> {
    if let Kind::Bool(value) = node.kind {
        return Some(value);
    }
    let problem = wrong_kind(node, "`true` or `false`");
    diagnostics.push(match &node.kind {
        Kind::String(text) if matches!(text.as_str(), "true" | "false") => problem.help("remove the quotes"),
        _ => problem,
    });
    None
}

/// A signed 64-bit integer.
pub fn int64(node: &Node, diagnostics: &mut Diagnostics) -> Option<i64> {
    integer(node, diagnostics, "an integer", i64::try_from)
}

/// An unsigned 64-bit integer.
pub fn uint64(node: &Node, diagnostics: &mut Diagnostics) -> Option<u64> {
    integer(node, diagnostics, "an integer that is not negative", u64::try_from)
}

/// A signed 32-bit integer.
pub fn int32(node: &Node, diagnostics: &mut Diagnostics) -> Option<i32> {
    integer(node, diagnostics, "a 32-bit integer", i32::try_from)
}

fn integer<T, E>(
    node: &Node,
    diagnostics: &mut Diagnostics,
    expected: &str,
    narrow: fn(i128) -> Result<T, E>,
) -> Option<T> {
    let value = match &node.kind {
        Kind::Int(value) => *value,
        // Every float of this size and without fraction is exactly an integer.
        Kind::Float(value) if value.fract() == 0.0 && value.abs() < 1e30 => *value as i128,
        Kind::Float(value) => {
            let message = format!("expected {expected}, found the fraction {value}");
            diagnostics.push(Diagnostic::error("wrong-type", node.span, message));
            return None;
        }
        Kind::String(text) if is_number(text) && text.parse::<i128>().is_ok() => text.parse().ok()?,
        Kind::String(text) => {
            let message = format!("expected {expected}, found the text `{text}`");
            diagnostics.push(Diagnostic::error("wrong-type", node.span, message));
            return None;
        }
        _ => {
            diagnostics.push(wrong_kind(node, expected));
            return None;
        }
    };
    let narrowed = narrow(value).ok();
    if narrowed.is_none() {
        let message = format!("{value} is out of range; expected {expected}");
        diagnostics.push(Diagnostic::error("out-of-range", node.span, message));
    }
    narrowed
}

/// Whether a quoted text begins as a JSON number does: no plus, no leading zero, no bare point.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading_zero = digits.starts_with('0') && digits[1..].starts_with(|c: char| c.is_ascii_digit());
    digits.starts_with(|c: char| c.is_ascii_digit()) && !leading_zero
}

/// A finite number, possibly quoted.
pub fn float(node: &Node, diagnostics: &mut Diagnostics) -> Option<f64> {
    let value = match &node.kind {
        Kind::Int(value) => Some(*value as f64),
        Kind::Float(value) => Some(*value),
        Kind::String(text) if is_number(text) => text.parse().ok(),
        _ => None,
    };
    let finite = value.filter(|value: &f64| value.is_finite());
    if finite.is_none() {
        diagnostics.push(wrong_kind(node, "a number"));
    }
    finite
}

/// A Go duration: a string with units.
pub fn duration(node: &Node, diagnostics: &mut Diagnostics) -> Option<GoDuration> {
    let Kind::String(text) = &node.kind else {
        let problem = wrong_kind(node, "a duration as a string");
        diagnostics.push(problem.help("write the unit, in quotes, like \"300s\" or \"5m\""));
        return None;
    };
    let parsed = text.parse();
    parsed
        .map_err(|error: crate::duration::InvalidDuration| {
            let problem = Diagnostic::error("invalid-duration", node.span, error.to_string());
            diagnostics.push(problem.help("write the unit, like \"300s\", \"5m\" or \"1h30m\""));
        })
        .ok()
}

/// An RFC 3339 time, kept as it is spelled.
pub fn timestamp(node: &Node, diagnostics: &mut Diagnostics) -> Option<String> {
    let text = text(node, diagnostics)?;
    if is_rfc3339(text) && text.parse::<jiff::Timestamp>().is_ok() {
        return Some(text.to_owned());
    }
    let message = format!("`{text}` is not an RFC 3339 time");
    let problem = Diagnostic::error("invalid-time", node.span, message);
    diagnostics.push(problem.help("write it like \"2006-01-02T15:04:05Z\""));
    None
}

/// Whether a text has the shape `2006-01-02T15:04:05[.999](Z|+07:00)`; the time library takes more.
fn is_rfc3339(text: &str) -> bool {
    let shaped = |text: &str, shape: &str| {
        let fits = |(c, wanted): (u8, u8)| if wanted == b'0' { c.is_ascii_digit() } else { c == wanted };
        text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(fits)
    };
    let Some((head, tail)) = text.split_at_checked(19) else { return false };
    let fraction =
        tail.strip_prefix('.').map_or(0, |digits| 1 + digits.bytes().take_while(u8::is_ascii_digit).count());
    let zone = &tail[fraction..];
    let good_zone = zone == "Z" || shaped(zone, "+00:00") || shaped(zone, "-00:00");
    shaped(head, "0000-00-00T00:00:00") && fraction != 1 && good_zone
}

#[cfg(test)]
mod tests {
    use super::{is_number, is_rfc3339};

    #[test]
    fn times_have_one_shape() {
        for text in ["2006-01-02T15:04:05Z", "2006-01-02T15:04:05.999+07:00", "2006-01-02T15:04:05-00:30"] {
            assert!(is_rfc3339(text), "{text}");
        }
        for text in ["", "2006-01-02", "2006-01-02 15:04:05Z", "2006-01-02T15:04Z", "2006-01-02T15:04:05"] {
            assert!(!is_rfc3339(text), "{text}");
        }
        for text in [
            "2006-01-02T15:04:05.Z",
            "2006-01-02T15:04:05+07",
            "2006-01-02T15:04:05Z[UTC]",
            "é".repeat(20).as_str(),
        ] {
            assert!(!is_rfc3339(text), "{text}");
        }
    }

    #[test]
    fn quoted_numbers_are_json_numbers() {
        for text in ["0", "-1", "10", "0.5", "1e3"] {
            assert!(is_number(text), "{text}");
        }
        for text in ["", "-", "+1", "01", "-01", ".5", "inf", "nan", " 1"] {
            assert!(!is_number(text), "{text}");
        }
    }
}
