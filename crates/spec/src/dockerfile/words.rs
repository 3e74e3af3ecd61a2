//! Splitting a logical line: flags, words, and JSON arrays. Ranges are offsets in the line's text.

use std::ops::Range;

use super::ast::Word;
use super::go::is_space;
use super::lines::Line;

/// A flag before the arguments, such as `--from=build`.
#[derive(Debug, Clone)]
pub(super) struct Flag {
    /// The name without dashes.
    pub name: String,
    /// What follows `=`, quotes and escapes taken away.
    pub value: Option<String>,
    /// The whole flag as written.
    pub range: Range<usize>,
}

/// The blanks that separate arguments.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// The first word and what follows the blanks after it.
pub(super) fn split_first(line: &Line, range: Range<usize>) -> (Range<usize>, Range<usize>) {
    let text = &line.text[range.clone()];
    let end = text.find(is_blank).unwrap_or(text.len());
    let rest = text.len() - text[end..].trim_start_matches(is_blank).len();
    (range.start..range.start + end, range.start + rest..range.end)
}

/// The arguments between blanks; quotes have no meaning here.
pub(super) fn split_blanks(line: &Line, range: Range<usize>) -> Vec<Word> {
    let mut words = Vec::new();
    let mut at = range.start;
    for part in line.text[range].split(is_blank) {
        if !part.is_empty() {
            words.push(line.word(at..at + part.len()));
        }
        // Every separator is one byte long.
        at += part.len() + 1;
    }
    words
}

/// Takes the flags off the front; what remains are the arguments, without blanks at their ends.
pub(super) fn take_flags(line: &Line, range: Range<usize>, escape: char) -> (Vec<Flag>, Range<usize>) {
    let mut flags = Vec::new();
    let mut rest = line.trim(range);
    while line.text[rest.clone()].starts_with("--") {
        let (end, word) = unquoted_word(&line.text[rest.clone()], escape);
        let range = rest.start..rest.start + end;
        rest = line.trim(range.end..rest.end);
        if word == "--" {
            break;
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let name = name.strip_prefix("--").unwrap_or(name).to_owned();
        flags.push(Flag { name, value, range });
    }
    (flags, rest)
}

/// A word up to the first blank outside quotes: its length, and its text without quotes and escapes.
fn unquoted_word(text: &str, escape: char) -> (usize, String) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && is_space(c) {
            return (at, word);
        } else if quote.is_none() && matches!(c, '\'' | '"') {
            quote = Some(c);
        } else if c == escape {
            word.extend(chars.next().map(|(_, next)| next));
        } else {
            word.push(c);
        }
    }
    (text.len(), word)
}

/// The words between white space, where quotes hold words together. Quotes and escapes stay.
pub(super) fn split_quoted(line: &Line, range: Range<usize>, escape: char) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut chars = line.text[range.clone()].char_indices();
    let mut end = range.end;
    while let Some((at, c)) = chars.next() {
        let at = range.start + at;
        if quote.is_none() && is_space(c) {
            words.extend(start.take().map(|start| start..at));
            continue;
        }
        start.get_or_insert(at);
        if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && matches!(c, '\'' | '"') {
            quote = Some(c);
        } else if c == escape && quote != Some('\'') && chars.next().is_none() {
            end = at; // An escape character with nothing behind it is dropped.
        }
    }
    words.extend(start.filter(|start| *start < end).map(|start| start..end));
    words
}

/// Why an argument list is not in JSON form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotJson {
    /// It is something else, to be read as plain text.
    Text,
    /// It is an array of other things than strings.
    OtherThings,
}

/// A JSON array of strings.
pub(super) fn json_array(line: &Line, range: Range<usize>) -> Result<Vec<Word>, NotJson> {
    let range = line.trim(range);
    let text = &line.text[range.clone()];
    if !text.starts_with('[') {
        return Err(NotJson::Text);
    }
    let values: Vec<serde_json::Value> = serde_json::from_str(text).map_err(|_| NotJson::Text)?;
    let places = string_places(text);
    let word = |(index, value): (usize, serde_json::Value)| match value {
        serde_json::Value::String(value) => {
            let place = places.get(index).cloned().unwrap_or(0..0);
            let span = line.span(range.start + place.start..range.start + place.end);
            Ok(Word::new(value, span))
        }
        _ => Err(NotJson::OtherThings),
    };
    values.into_iter().enumerate().map(word).collect()
}

/// Where the strings of valid JSON stand, quotes included.
fn string_places(text: &str) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let mut start = None;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (byte, start) {
            (b'"', None) => start = Some(at),
            (b'"', Some(first)) => {
                places.push(first..at + 1);
                start = None;
            }
            (b'\\', Some(_)) => {
                bytes.next();
            }
            _ => {}
        }
    }
    places
}
