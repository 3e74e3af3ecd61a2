//! Cron specifications: five fields, or `@daily` and the like.

use std::str::FromStr;

use crate::duration::GoDuration;

/// When a clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CronSpec {
    /// At the times all fields agree on.
    Calendar(Calendar),
    /// After every so much time; at least a second.
    Every(GoDuration),
}

/// The times of a calendar, one bit per value of each field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    /// Minutes 0 to 59.
    pub minutes: u64,
    /// Hours 0 to 23.
    pub hours: u64,
    /// Days of the month 1 to 31.
    pub days: u64,
    /// Months 1 to 12.
    pub months: u64,
    /// Days of the week 0 (Sunday) to 6.
    pub weekdays: u64,
    /// Whether the day of the month is `*`; if neither day field is, either may agree.
    pub any_day: bool,
    /// Whether the day of the week is `*`.
    pub any_weekday: bool,
}

/// Text that is no cron specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCron {
    /// Not five fields.
    #[error("a cron spec has 5 fields (minute, hour, day, month, weekday), this has {0}")]
    FieldCount(usize),
    /// A field that cannot be read.
    #[error("`{text}` is no {field}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its text.
        text: String,
    },
    /// An unknown word after `@`.
    #[error("unknown cron word `{0}`; known are @yearly, @monthly, @weekly, @daily, @hourly and @every")]
    Word(String),
    /// `@every` without a duration of a second or more.
    #[error("`{0}`: @every needs a duration of at least one second, like `@every 1h30m`")]
    Every(String),
}

struct Field {
    name: &'static str,
    low: u32,
    high: u32,
    words: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute (0-59)", low: 0, high: 59, words: &[] },
    Field { name: "hour (0-23)", low: 0, high: 23, words: &[] },
    Field { name: "day of the month (1-31)", low: 1, high: 31, words: &[] },
    Field {
        name: "month (1-12 or jan-dec)",
        low: 1,
        high: 12,
        words: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Field {
        name: "day of the week (0-6 or sun-sat)",
        low: 0,
        high: 6,
        words: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    },
];

impl FromStr for CronSpec {
    type Err = InvalidCron;

    fn from_str(text: &str) -> Result<Self, InvalidCron> {
        let text = text.trim();
        if let Some(word) = text.strip_prefix('@') {
            return from_word(word, text);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(InvalidCron::FieldCount(fields.len()));
        };
        let any = |text: &str| text.starts_with(['*', '?']);
        Ok(Self::Calendar(Calendar {
            minutes: FIELDS[0].parse(minutes)?,
            hours: FIELDS[1].parse(hours)?,
            days: FIELDS[2].parse(days)?,
            months: FIELDS[3].parse(months)?,
            weekdays: FIELDS[4].parse(weekdays)?,
            any_day: any(days),
            any_weekday: any(weekdays),
        }))
    }
}

fn from_word(word: &str, text: &str) -> Result<CronSpec, InvalidCron> {
    let fields = match word {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        _ => {
            let every = || InvalidCron::Every(text.to_owned());
            let duration = word.strip_prefix("every ").ok_or_else(|| InvalidCron::Word(text.to_owned()))?;
            let duration: GoDuration = duration.trim().parse().map_err(|_| every())?;
            let long_enough = duration.as_nanos() >= 1_000_000_000;
            return if long_enough { Ok(CronSpec::Every(duration)) } else { Err(every()) };
        }
    };
    fields.parse()
}

impl Field {
    /// The bits of a list like `1-5,10-40/10`.
    fn parse(&self, text: &str) -> Result<u64, InvalidCron> {
        let invalid = || InvalidCron::Field { field: self.name, text: text.chars().take(40).collect() };
        text.split(',').try_fold(0, |bits, part| Ok(bits | self.part(part).ok_or_else(invalid)?))
    }

    /// The bits of one member of a list: `*`, `5`, `1-5`, each with an optional `/step`.
    fn part(&self, part: &str) -> Option<u64> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(number(step)?)),
            None => (part, None),
        };
        let (low, high) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (self.low, self.high),
            Some((low, high)) => (self.value(low)?, self.value(high)?),
            None if step.is_some() => (self.value(range)?, self.high),
            None => (self.value(range)?, self.value(range)?),
        };
        let step = step.unwrap_or(1);
        let valid = low >= self.low && high <= self.high && low <= high && step > 0;
        valid.then(|| (low..=high).step_by(step as usize).fold(0, |bits, value| bits | 1 << value))
    }

    fn value(&self, text: &str) -> Option<u32> {
        let word = self.words.iter().position(|word| text.eq_ignore_ascii_case(word));
        match word {
            Some(index) => Some(self.low + u32::try_from(index).ok()?),
            None => number(text),
        }
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calendar(text: &str) -> Calendar {
        match text.parse() {
            Ok(CronSpec::Calendar(calendar)) => calendar,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn fields_become_bits() {
        let all = calendar("*/15 1-3,5 1 JAN,dec mon-Fri");
        assert_eq!(all.minutes, 1 | 1 << 15 | 1 << 30 | 1 << 45);
        assert_eq!(all.hours, 0b10_1110);
        assert_eq!((all.days, all.months, all.weekdays), (0b10, 1 << 1 | 1 << 12, 0b011_1110));
        assert_eq!((all.any_day, all.any_weekday), (false, false));
        assert_eq!(calendar("50/5 * * * ?").minutes, 1 << 50 | 1 << 55);
        assert_eq!(calendar("@weekly"), calendar("0 0 * * 0"));
        assert_eq!("@every 90s".parse(), Ok(CronSpec::Every(GoDuration::from_nanos(90_000_000_000))));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *"] {
            assert!(text.parse::<CronSpec>().is_err(), "{text}");
        }
        for text in ["* * * * 7", "5-1 * * * *", "*/0 * * * *", "a * * * *", "+1 * * * *", "1--2 * * * *"] {
            assert!(text.parse::<CronSpec>().is_err(), "{text}");
        }
        for text in ["@", "@dayly", "@every", "@every 1", "@every 10ms", "4294967296 * * * *"] {
            assert!(text.parse::<CronSpec>().is_err(), "{text}");
        }
    }
}
