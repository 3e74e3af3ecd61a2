//! Scalars as Go's standard library reads and prints them; options and history lines follow it.

/// A boolean as `strconv.ParseBool` takes it.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// An unsigned 32-bit number in the given base, digits only.
pub(super) fn parse_u32(text: &str, base: u32) -> Option<u32> {
    let digits = !text.is_empty() && text.chars().all(|c| c.is_digit(base));
    digits.then(|| u32::from_str_radix(text, base).ok()).flatten()
}

/// Text in double quotes as `%q` prints it.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list of texts as `%q` prints it: `["a" "b"]`.
pub(super) fn quote_all(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quote(text)).collect();
    format!("[{}]", quoted.join(" "))
}

/// White space as Go's `unicode.IsSpace` has it.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace()
}

/// Bytes as `units.RAMInBytes` reads them: a number and perhaps `k`, `m`, `g`, `t`, `p`, each 1024 times
/// the one before, then perhaps `i` and `b`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].strip_prefix(' ').unwrap_or(&text[digits..]).to_lowercase();
    let factor = match unit.as_str() {
        "" | "b" => 0,
        unit => {
            let power = "kmgtp".find(unit.chars().next()?)? + 1;
            matches!(&unit[1..], "" | "b" | "ib").then_some(power)?
        }
    };
    let bytes = number * 1024_f64.powi(i32::try_from(factor).ok()?);
    // Below 2^63 the conversion is exact enough; above it the original overflows.
    (bytes.is_finite() && bytes < 9.2e18).then_some(bytes as u64)
}

/// A length of time as Go prints it.
pub(super) fn duration(length: std::time::Duration) -> String {
    let nanos = i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
    crate::duration::GoDuration::from_nanos(nanos).to_string()
}
