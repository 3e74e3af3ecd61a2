//! Times as the configuration writes them: RFC 3339 in UTC, to the nanosecond.

use crate::cache::Timestamp;

const DAY: u64 = 86_400;
const NANOS: u64 = 1_000_000_000;

/// `2026-01-02T03:04:05.000000006Z`.
pub(super) fn write(time: Timestamp) -> String {
    let (seconds, nanos) = (time.0 / NANOS, time.0 % NANOS);
    let (year, month, day) = civil(seconds / DAY);
    let (hour, minute, second) = (seconds % DAY / 3600, seconds % 3600 / 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// The time of a text; with any number of fractional digits, and an offset or `Z`.
pub(super) fn read(text: &str) -> Option<Timestamp> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<u64>);
    let days = days(date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?)?;
    let zone = time.find(['Z', '+', '-'])?;
    let (time, zone) = time.split_at(zone);
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = whole.splitn(3, ':').map(str::parse::<u64>);
    let (hour, minute, second) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let nanos: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    let seconds = days.checked_mul(DAY)?.checked_add(hour * 3600 + minute * 60 + second)?;
    let seconds = seconds.checked_add_signed(-offset(zone)?)?;
    Some(Timestamp(seconds.checked_mul(NANOS)?.checked_add(nanos)?))
}

/// Seconds east of UTC.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    Some(if zone.starts_with('-') { -seconds } else { seconds })
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_before(year: u64) -> u64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400
}

/// Days since 1970 of a date.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let valid = (1970..=2500).contains(&year) && (1..=12).contains(&month) && day >= 1;
    if !valid || day > days_of(year, month) {
        return None;
    }
    let months: u64 = (1..month).map(|m| days_of(year, m)).sum();
    Some(days_before(year) - days_before(1970) + months + day - 1)
}

/// The date of a number of days since 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let mut year = 1970 + days / 366;
    while days_before(year + 1) - days_before(1970) <= days {
        year += 1;
    }
    let mut rest = days - (days_before(year) - days_before(1970));
    let mut month = 1;
    while rest >= days_of(year, month) {
        rest -= days_of(year, month);
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_735_689_599_999_999_999, "2024-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(write(Timestamp(nanos)), text);
            assert_eq!(read(text), Some(Timestamp(nanos)));
        }
        assert_eq!(read("2000-02-29T02:00:00.5+02:00"), Some(Timestamp(951_782_400_500_000_000)));
        for text in ["", "2000-02-30T00:00:00Z", "2000-01-01", "2000-13-01T00:00:00Z", "x-1-1T0:0:0Z"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
