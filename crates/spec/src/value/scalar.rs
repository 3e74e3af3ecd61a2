//! What a plain YAML scalar means. YAML readers disagree, so the reader to imitate is named.

use super::Kind;

/// Whose reading of plain scalars to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Go's yaml.v3, as Pachyderm's client reads: `yes` is text, `0777` is octal, dates become
    /// RFC 3339 times, a duplicate key is an error.
    GoYaml,
    /// PyYAML's YAML 1.1, as Polyaxon reads: `yes` is true, `1:30` is ninety, `1e3` is text.
    PyYaml11,
    /// The core schema of YAML 1.2.
    Core12,
}

/// The value of an unquoted, untagged scalar.
pub(super) fn resolve(text: &str, dialect: Dialect) -> Kind {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Kind::Null;
    }
    if let Some(value) = boolean(text, dialect) {
        return Kind::Bool(value);
    }
    if let Some(value) = special_float(text) {
        return Kind::Float(value);
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-')) {
        return Kind::String(text.to_owned());
    }
    let number = match dialect {
        Dialect::GoYaml => go_number(text),
        Dialect::PyYaml11 => py_number(text),
        Dialect::Core12 => core_number(text),
    };
    number.unwrap_or_else(|| Kind::String(text.to_owned()))
}

fn boolean(text: &str, dialect: Dialect) -> Option<bool> {
    let yaml11 = dialect == Dialect::PyYaml11;
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        "yes" | "Yes" | "YES" | "on" | "On" | "ON" if yaml11 => Some(true),
        "no" | "No" | "NO" | "off" | "Off" | "OFF" if yaml11 => Some(false),
        _ => None,
    }
}

fn special_float(text: &str) -> Option<f64> {
    match text {
        ".nan" | ".NaN" | ".NAN" => Some(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn go_number(text: &str) -> Option<Kind> {
    if let Some(time) = go_time(text) {
        return Some(Kind::String(time));
    }
    if text.starts_with('.') {
        return float(text);
    }
    let plain = text.replace('_', "");
    let (sign, digits) = split_sign(&plain);
    let integer = match prefix(digits) {
        Some((radix, digits)) => radix_int(sign, digits, radix),
        None if digits.len() > 1 && digits.starts_with('0') => radix_int(sign, &digits[1..], 8),
        None => radix_int(sign, digits, 10),
    };
    let fits = |value: &i128| (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(value);
    integer.filter(fits).map(Kind::Int).or_else(|| float(&plain))
}

fn core_number(text: &str) -> Option<Kind> {
    let (sign, digits) = split_sign(text);
    let integer = match digits.get(..2) {
        Some("0x") if sign.is_empty() => radix_int("", &digits[2..], 16),
        Some("0o") if sign.is_empty() => radix_int("", &digits[2..], 8),
        _ => radix_int(sign, digits, 10),
    };
    integer.map(Kind::Int).or_else(|| float(text))
}

fn py_number(text: &str) -> Option<Kind> {
    let huge = || text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() > 30;
    let integer = py_int(text).map(Kind::Int);
    integer.or_else(|| py_float(text)).or_else(|| if huge() { float(text) } else { None })
}

fn py_int(text: &str) -> Option<i128> {
    let (sign, digits) = split_sign(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let plain = digits.replace('_', "");
    if let Some(digits) = plain.strip_prefix("0b") {
        return radix_int(sign, digits, 2);
    }
    if let Some(digits) = plain.strip_prefix("0x") {
        return radix_int(sign, digits, 16);
    }
    if plain == "0" {
        return Some(0);
    }
    if let Some(digits) = plain.strip_prefix('0') {
        return radix_int(sign, digits, 8);
    }
    let total = if plain.contains(':') { sexagesimal(&plain)? } else { radix_int("", &plain, 10)? };
    Some(if sign == "-" { -total } else { total })
}

/// `1:30` is ninety: every part but the first has one or two digits below 60.
fn sexagesimal(text: &str) -> Option<i128> {
    let mut total: i128 = 0;
    for (index, part) in text.split(':').enumerate() {
        let value: i128 = radix_int("", part, 10)?;
        if index > 0 && (part.len() > 2 || value > 59) {
            return None;
        }
        total = total.checked_mul(60)?.checked_add(value)?;
    }
    Some(total)
}

/// PyYAML wants a dot in every float and a sign in every exponent.
fn py_float(text: &str) -> Option<Kind> {
    let (sign, digits) = split_sign(text);
    let plain = digits.replace('_', "");
    let (mantissa, exponent) = match plain.find(['e', 'E']) {
        Some(at) => (&plain[..at], Some(&plain[at + 1..])),
        None => (plain.as_str(), None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let signed = exponent.is_none_or(|text| text.starts_with(['+', '-']));
    let bare_point = whole.is_empty() && !digits[1..].starts_with(|c: char| c.is_ascii_digit());
    if whole.is_empty() && !sign.is_empty() || bare_point || !signed {
        return None;
    }
    if !whole.contains(':') {
        return float(&format!("{sign}{plain}"));
    }
    let (Some(minutes), Kind::Float(rest)) = (sexagesimal(whole)?.into(), float(&format!("0.{fraction}"))?)
    else {
        return None;
    };
    let value = minutes as f64 + rest;
    Some(Kind::Float(if sign == "-" { -value } else { value }))
}

/// `[-+]? (digits [. digits?] | . digits) ([eE] [-+]? digits)?`
fn float(text: &str) -> Option<Kind> {
    let (_, rest) = split_sign(text);
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(split_sign(&rest[at + 1..]).1)),
        None => (rest, None),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let has_digits = !whole.is_empty() || !fraction.is_empty();
    let good_exponent = exponent.is_none_or(|digits| !digits.is_empty() && all_digits(digits));
    if !has_digits || !all_digits(whole) || !all_digits(fraction) || !good_exponent {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite()).map(Kind::Float)
}

fn split_sign(text: &str) -> (&str, &str) {
    let length = usize::from(text.starts_with(['+', '-']));
    text.split_at(length)
}

fn prefix(digits: &str) -> Option<(u32, &str)> {
    let radix = match digits.get(..2)? {
        "0x" | "0X" => 16,
        "0o" | "0O" => 8,
        "0b" | "0B" => 2,
        _ => return None,
    };
    Some((radix, &digits[2..]))
}

fn radix_int(sign: &str, digits: &str, radix: u32) -> Option<i128> {
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    Some(if sign == "-" { -value } else { value })
}

/// An unquoted date or time, as RFC 3339. Go's reader turns it into a time, whose JSON form that is.
fn go_time(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    if bytes.len() < 8 || !bytes[..4].iter().all(u8::is_ascii_digit) || bytes[4] != b'-' {
        return None;
    }
    let (date, clock) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some(text[at + 1..].trim_start())),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let two = |part: &str| matches!(part.len(), 1 | 2) && part.bytes().all(|byte| byte.is_ascii_digit());
    if parts.next().is_some() || !two(month) || !two(day) {
        return None;
    }
    let clock = match clock {
        None => "00:00:00Z".to_owned(),
        Some(clock) if clock.ends_with('Z') || clock.contains(['+', '-']) => clock.to_owned(),
        Some(clock) => format!("{clock}Z"),
    };
    let time = format!("{year}-{month:0>2}-{day:0>2}T{clock}");
    time.parse::<jiff::Timestamp>().is_ok().then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dialect: Dialect, rows: &[(&str, Kind)]) {
        for (text, expected) in rows {
            assert_eq!(&resolve(text, dialect), expected, "{dialect:?} `{text}`");
        }
    }

    fn text(text: &str) -> Kind {
        Kind::String(text.to_owned())
    }

    #[test]
    fn go_reads_yes_as_text_and_leading_zeros_as_octal() {
        check(
            Dialect::GoYaml,
            &[
                ("yes", text("yes")),
                ("n", text("n")),
                ("True", Kind::Bool(true)),
                ("~", Kind::Null),
                ("0777", Kind::Int(0o777)),
                ("0o17", Kind::Int(15)),
                ("-0x1F", Kind::Int(-31)),
                ("0b101", Kind::Int(5)),
                ("1_000", Kind::Int(1000)),
                ("089", Kind::Float(89.0)),
                ("1e3", Kind::Float(1000.0)),
                (".5", Kind::Float(0.5)),
                ("._5", text("._5")),
                ("1e400", text("1e400")),
                ("1:30", text("1:30")),
                ("1.2.3", text("1.2.3")),
                ("-", text("-")),
                (".", text(".")),
                ("2021-01-02", text("2021-01-02T00:00:00Z")),
                ("2021-1-2 3:04:05", text("2021-1-2 3:04:05")),
                ("2021-01-02T03:04:05+02:00", text("2021-01-02T03:04:05+02:00")),
                ("5m", text("5m")),
            ],
        );
    }

    #[test]
    fn pyyaml_reads_yaml_1_1() {
        check(
            Dialect::PyYaml11,
            &[
                ("yes", Kind::Bool(true)),
                ("Off", Kind::Bool(false)),
                ("y", text("y")),
                ("010", Kind::Int(8)),
                ("0o10", text("0o10")),
                ("08", text("08")),
                ("1_000", Kind::Int(1000)),
                ("0b1_0", Kind::Int(2)),
                ("1:30", Kind::Int(90)),
                ("-1:30", Kind::Int(-90)),
                ("1:60", text("1:60")),
                ("1:30.5", Kind::Float(90.5)),
                ("1e3", text("1e3")),
                ("1.0e3", text("1.0e3")),
                ("1.0e+3", Kind::Float(1000.0)),
                ("1.", Kind::Float(1.0)),
                (".5", Kind::Float(0.5)),
                ("-.5", text("-.5")),
                ("._5", text("._5")),
                (".", text(".")),
                ("2021-01-02", text("2021-01-02")),
            ],
        );
        assert!(matches!(resolve(".nan", Dialect::PyYaml11), Kind::Float(value) if value.is_nan()));
    }

    #[test]
    fn the_core_schema_is_the_plainest() {
        check(
            Dialect::Core12,
            &[
                ("yes", text("yes")),
                ("010", Kind::Int(10)),
                ("0o10", Kind::Int(8)),
                ("0x1f", Kind::Int(31)),
                ("1_000", text("1_000")),
                ("1e3", Kind::Float(1000.0)),
                ("+.inf", Kind::Float(f64::INFINITY)),
                ("", Kind::Null),
            ],
        );
    }
}
