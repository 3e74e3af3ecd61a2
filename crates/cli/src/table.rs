//! Tables and units for people.

use std::fmt::Write as _;

use quern_core::Timestamp;

/// A table with left-aligned columns; the last column is not padded.
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column titles.
    pub fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; its cells are made safe for a terminal.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// The text, with a line end after each row.
    pub fn render(&self) -> String {
        let header: Vec<String> = self.header.iter().map(ToString::to_string).collect();
        let rows = std::iter::once(&header).chain(&self.rows);
        let width = |i: usize| rows.clone().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..header.len()).map(|i| width(i).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in rows.clone() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:<width$} ");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Text without control characters, so that a file's name cannot drive the terminal.
pub fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text.to_owned() }
}

/// Bytes as people read them: `0B`, `57.27KiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let exponent = (u64::BITS - 1 - bytes.leading_zeros()) / 10;
    let unit = UNITS[exponent as usize - 1..].first().unwrap_or(&"EiB");
    format!("{:.2}{unit}", bytes as f64 / 1024f64.powi(exponent.cast_signed()))
}

/// Reads what [`size`] writes, with or without a fraction; a number alone is bytes.
///
/// # Errors
/// What is wrong, for people.
pub fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 6] =
        [("kib", 10), ("mib", 20), ("gib", 30), ("tib", 40), ("pib", 50), ("b", 0)];
    let lower = text.trim().to_ascii_lowercase();
    let (number, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| lower.strip_suffix(unit).map(|number| (number, *shift)))
        .unwrap_or((&lower, 0));
    let wrong = || format!("`{text}` is no size; write bytes or a number with KiB, MiB, GiB or TiB");
    let number = number.trim();
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(wrong);
    }
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let value = number * (1u64 << shift) as f64;
    if value.is_finite() && (0.0..1e18).contains(&value) { Ok(value as u64) } else { Err(wrong()) }
}

/// A duration as people read it: `12ms`, `3.4s`, `2m05s`, `1h02m`.
pub fn duration(millis: u64) -> String {
    let seconds = millis / 1000;
    match millis {
        0..1000 => format!("{millis}ms"),
        1000..60_000 => format!("{}.{}s", seconds, millis % 1000 / 100),
        60_000..3_600_000 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// How long ago something was.
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.since(then) / 1000;
    let (n, unit) = match seconds {
        0 => return "less than a second ago".into(),
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(time: Timestamp) -> String {
    let millis = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| "out of range".into(), |t| format!("{t:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let sizes = [0, 1023, 1024, 58_644, 1 << 20, 3 << 30, u64::MAX].map(size);
        assert_eq!(sizes, ["0B", "1023B", "1.00KiB", "57.27KiB", "1.00MiB", "3.00GiB", "16.00EiB"]);
        let times = [0, 999, 3_456, 125_000, 3_725_000].map(duration);
        assert_eq!(times, ["0ms", "999ms", "3.4s", "2m05s", "1h02m"]);
        assert_eq!(ago(Timestamp(61_000), Timestamp(0)), "1 minute ago");
        assert_eq!(rfc3339(Timestamp(1_000)), "1970-01-01T00:00:01.000Z");
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(bytes(text).ok(), expected, "{text}");
        check("0", Some(0));
        check("1023B", Some(1023));
        check("50GiB", Some(50 << 30));
        check("1.5 mib", Some(3 << 19));
        for bad in ["", "GiB", "-1", "1 GB", "9999999999PiB", "nan", "inf", "1e300"] {
            check(bad, None);
        }
    }

    #[test]
    fn columns_line_up_and_control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(["a\u{1b}[31m".into(), "1B".into()]);
        table.row(["longer-than-that".into(), "22B".into()]);
        assert_eq!(table.render(), "NAME             SIZE\na\\u{1b}[31m      1B\nlonger-than-that 22B\n");
    }
}
