//! Wildcards of `COPY` sources, matched in time proportional to pattern times path.
//!
//! The rules are those of Go's `filepath.Match`: `*` and `?` do not cross `/`, `[a-z]` and `[^a-z]` are classes, `\` takes the
//! next character as it is. Where `**` is asked for it crosses `/`, and `**/` also matches nothing. A pattern is run as a set of
//! states, never by trying again, so no pattern is slow; and the states that are left tell whether anything below a
//! directory can still match.

use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A pattern that cannot match anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// `[` without its `]`, or nothing between them.
    #[error("has a `[` without a matching `]`; write `[[]` for the character itself")]
    Class,
    /// `\` at the end.
    #[error("ends with a `\\` that escapes nothing")]
    Escape,
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Star,
    /// `**`
    Stars,
    /// `**/`
    AnyDirs,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Whether `**` crosses directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stars {
    Plain,
    Cross,
}

/// Whether a text has a wildcard in it. An escaped one is none.
pub(super) fn is_wild(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

impl Pattern {
    /// Compiles a pattern for paths relative to some directory.
    pub fn new(text: &[u8], stars: Stars) -> Result<Self, PatternError> {
        let mut chars = chars(text).peekable();
        let mut tokens = Vec::new();
        while let Some(char) = chars.next() {
            let token = match char {
                '\\' => Token::Char(chars.next().ok_or(PatternError::Escape)?),
                '?' => Token::One,
                '[' => class(&mut chars)?,
                '*' if stars == Stars::Cross && chars.peek() == Some(&'*') => {
                    chars.next();
                    let starts = tokens.last().is_none_or(|token| *token == Token::Char('/'));
                    if starts && chars.next_if_eq(&'/').is_some() { Token::AnyDirs } else { Token::Stars }
                }
                '*' => Token::Star,
                char => Token::Char(char),
            };
            tokens.push(token);
        }
        Ok(Self { tokens })
    }

    /// The pattern that matches one path only.
    pub fn literal(path: &[u8]) -> Self {
        Self { tokens: chars(path).map(Token::Char).collect() }
    }

    /// Whether the whole path matches.
    pub fn matches(&self, path: &Path) -> bool {
        self.run(path.as_os_str().as_bytes()).contains(&self.tokens.len())
    }

    /// Whether a path below `dir` can match.
    pub fn may_match_below(&self, dir: &Path) -> bool {
        if dir.as_os_str().is_empty() {
            return true;
        }
        let mut states = self.run(dir.as_os_str().as_bytes());
        states = self.step(&states, '/');
        !states.is_empty()
    }

    fn run(&self, text: &[u8]) -> Vec<usize> {
        let mut states = Vec::new();
        self.enter(0, &mut states);
        for char in chars(text) {
            if states.is_empty() {
                break;
            }
            states = self.step(&states, char);
        }
        states
    }

    fn step(&self, states: &[usize], char: char) -> Vec<usize> {
        let mut next = Vec::with_capacity(states.len() + 1);
        for at in states {
            let Some(token) = self.tokens.get(*at) else { continue };
            match token {
                Token::Char(wanted) if *wanted == char => self.enter(at + 1, &mut next),
                Token::One if char != '/' => self.enter(at + 1, &mut next),
                Token::Star if char != '/' => self.enter(*at, &mut next),
                Token::Stars => self.enter(*at, &mut next),
                Token::AnyDirs => {
                    // What follows may only begin after a `/`.
                    push(*at, &mut next);
                    if char == '/' {
                        self.enter(at + 1, &mut next);
                    }
                }
                Token::Class { negated, ranges } if char != '/' && holds(ranges, char) != *negated => {
                    self.enter(at + 1, &mut next);
                }
                _ => {}
            }
        }
        next
    }

    /// Adds a state and those reached from it without reading.
    fn enter(&self, mut at: usize, states: &mut Vec<usize>) {
        push(at, states);
        while let Some(Token::Star | Token::Stars | Token::AnyDirs) = self.tokens.get(at) {
            at += 1;
            push(at, states);
        }
    }
}

fn holds(ranges: &[(char, char)], char: char) -> bool {
    ranges.iter().any(|(low, high)| (*low..=*high).contains(&char))
}

fn push(at: usize, states: &mut Vec<usize>) {
    if !states.contains(&at) {
        states.push(at);
    }
}

/// The rest of a class after `[`.
fn class(chars: &mut Peekable<impl Iterator<Item = char>>) -> Result<Token, PatternError> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match chars.next().ok_or(PatternError::Class)? {
            ']' if !ranges.is_empty() => return Ok(Token::Class { negated, ranges }),
            ']' | '-' => return Err(PatternError::Class),
            '\\' => chars.next().ok_or(PatternError::Class)?,
            char => char,
        };
        let mut high = low;
        if chars.next_if_eq(&'-').is_some() {
            high = match chars.next().ok_or(PatternError::Class)? {
                ']' | '-' => return Err(PatternError::Class),
                '\\' => chars.next().ok_or(PatternError::Class)?,
                char => char,
            };
        }
        ranges.push((low, high));
    }
}

/// The characters of a text. Bytes that are not UTF-8 become characters of their own that no text can hold.
fn chars(text: &[u8]) -> impl Iterator<Item = char> + '_ {
    text.utf8_chunks().flat_map(|chunk| {
        let broken = chunk.invalid().iter().map(|byte| {
            char::from_u32(0x0010_F700 + u32::from(*byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
        });
        chunk.valid().chars().chain(broken)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stars: Stars, pattern: &str, path: &str, expected: bool) {
        let compiled = Pattern::new(pattern.as_bytes(), stars).unwrap();
        assert_eq!(compiled.matches(Path::new(path)), expected, "{pattern} on {path}");
    }

    #[test]
    fn go_match() {
        for (pattern, path, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("[a-ζ]*", "α", true),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("arr[[]0].txt", "arr[0].txt", true),
            ("**", "a/b", false),
            ("", "a", false),
            ("*x", "xxx", true),
        ] {
            check(Stars::Plain, pattern, path, expected);
        }
    }

    #[test]
    fn stars_cross_directories() {
        for (pattern, path, expected) in [
            ("**/*.go", "main.go", true),
            ("**/*.go", "a/b/main.go", true),
            ("**/*.go", "a/b/main.c", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "ab", false),
            ("a/**/b", "a/xb", false),
            ("a/**", "a/b/c", true),
            ("**.txt", "a/b.txt", true),
        ] {
            check(Stars::Cross, pattern, path, expected);
        }
    }

    #[test]
    fn directories_that_lead_nowhere_are_known() {
        for (pattern, dir, expected) in [
            ("a/*.c", "a", true),
            ("a/*.c", "b", false),
            ("a/*.c", "a/b", false),
            ("*/x/y", "q", true),
            ("*/x/y", "q/x", true),
            ("*/x/y", "q/z", false),
            ("**/y", "q/z", true),
            ("a*", "", true),
        ] {
            let compiled = Pattern::new(pattern.as_bytes(), Stars::Cross).unwrap();
            assert_eq!(compiled.may_match_below(Path::new(dir)), expected, "{pattern} below {dir}");
        }
    }

    #[test]
    fn wrong_patterns_are_refused() {
        for pattern in ["[", "[]", "[a", "[-x]", "[a-]", "[^]", "a\\", "[a-\\", "[\\"] {
            assert!(Pattern::new(pattern.as_bytes(), Stars::Plain).is_err(), "{pattern}");
        }
    }

    #[test]
    fn no_pattern_is_slow() {
        let pattern = Pattern::new("*a".repeat(200).as_bytes(), Stars::Cross).unwrap();
        assert!(!pattern.matches(Path::new(&format!("{}b", "a".repeat(4000)))));
    }

    #[test]
    fn bytes_that_are_no_text_match_as_one_character() {
        use std::ffi::OsStr;
        let path = Path::new(OsStr::from_bytes(b"a\xffb"));
        assert!(Pattern::new(b"a?b", Stars::Plain).unwrap().matches(path));
        assert!(Pattern::new(b"a\xffb", Stars::Plain).unwrap().matches(path));
        assert!(!Pattern::new(b"a\xfeb", Stars::Plain).unwrap().matches(path));
    }
}
