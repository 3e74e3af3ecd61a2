//! Variables, quotes and escapes in a word.
//!
//! `$v` and `${v}`; `${v:-w}` and `${v-w}` give `w` if `v` is empty or unset, or only if it is unset;
//! `${v:+w}` and `${v+w}` give `w` in the other case; `${v:?w}` and `${v?w}` are an error with the text `w`;
//! `${v#p}`, `${v##p}`, `${v%p}`, `${v%%p}` cut the shortest or longest match of a pattern off the front or
//! the end; `${v/p/w}` and `${v//p/w}` replace the first or every match. Operands are words themselves.
//! Nothing is expanded between single quotes; between double quotes the escape character counts before
//! `"`, `$` and itself.

mod pattern;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::str::Chars;

use super::go::is_space;
use pattern::Pattern;

/// Most levels of `${a:-${b:-...}}`.
const MAX_DEPTH: usize = 64;
/// Most bytes that the variables of one text may give.
const MAX_SUBSTITUTED: usize = 4 << 20;

/// Where the values of variables come from.
pub trait Variables {
    /// The value; `None` if the variable is not set.
    fn value(&self, name: &str) -> Option<&str>;
}

impl Variables for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// No variable is set.
#[derive(Debug, Clone, Copy)]
pub struct NoVariables;

impl Variables for NoVariables {
    fn value(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// A word that cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWord {
    /// A quote that is not closed.
    #[error("the quote {0} is not closed")]
    OpenQuote(char),
    /// `${` without `}`, or `${v/p` without the second slash.
    #[error("`${{` is not closed: `{0}` is missing")]
    OpenBrace(char),
    /// `${}` and the like.
    #[error("`${{` must be followed by a name")]
    BadSubstitution,
    /// Something else than an operator after a name.
    #[error("`{0}` is no operator of a substitution")]
    UnknownOperator(String),
    /// `${v:?text}` of a variable that is not set, or is empty.
    #[error("`{name}`: {reason}")]
    Required {
        /// The variable.
        name: String,
        /// What the text says.
        reason: String,
    },
    /// A pattern with an escape character before an ordinary one.
    #[error("`{0}` is no pattern: `\\` must stand before `*`, `?`, `\\`, `/` or `}}`")]
    InvalidPattern(String),
    /// More nesting than anybody needs.
    #[error("substitutions are nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// Variables that give more text than anybody needs.
    #[error("the variables give more than {MAX_SUBSTITUTED} bytes, or patterns too much work")]
    TooLarge,
}

/// A word after expansion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// As one word.
    pub text: String,
    /// As many words: split at white space outside quotes, that of variables included.
    pub words: Vec<String>,
    /// The variables that were set.
    pub matched: BTreeSet<String>,
    /// The variables that were not.
    pub unmatched: BTreeSet<String>,
}

/// Expands a word of a file with the given escape character.
///
/// # Errors
/// [`InvalidWord`]; nothing is expanded in part.
pub fn expand(word: &str, variables: &dyn Variables, escape: char) -> Result<Expansion, InvalidWord> {
    Lexer::new(escape).words(word, variables)
}

/// How to read a word; [`Lexer::new`] is the usual way.
#[derive(Debug, Clone, Copy)]
pub struct Lexer {
    /// The escape character.
    pub escape: char,
    /// Keep quotes in the result.
    pub raw_quotes: bool,
    /// Keep escape characters in the result.
    pub raw_escapes: bool,
    /// Quotes are ordinary characters: the reading of here-documents.
    pub ignore_quotes: bool,
    /// Leave substitutions of variables that are not set as they stand.
    pub keep_unset: bool,
}

impl Lexer {
    /// Quotes and escapes are taken away, variables that are not set are empty.
    pub fn new(escape: char) -> Self {
        Self { escape, raw_quotes: false, raw_escapes: false, ignore_quotes: false, keep_unset: false }
    }

    /// Expands a word.
    ///
    /// # Errors
    /// [`InvalidWord`].
    pub fn words(self, word: &str, variables: &dyn Variables) -> Result<Expansion, InvalidWord> {
        let mut walk = Walk {
            lexer: self,
            variables,
            chars: word.chars().peekable(),
            depth: 0,
            substituted: 0,
            found: Expansion::default(),
        };
        let mode = Mode { raw_escapes: self.raw_escapes, pattern: false };
        let mut words = Words::default();
        walk.found.text = walk.until(None, mode, &mut words)?;
        walk.found.words = words.finish();
        Ok(walk.found)
    }
}

/// How a part of a word is read.
#[derive(Debug, Clone, Copy)]
struct Mode {
    /// Escape characters stay.
    raw_escapes: bool,
    /// The part is a pattern: what quotes protect gets an escape character, for the pattern to see.
    pattern: bool,
}

const PLAIN: Mode = Mode { raw_escapes: false, pattern: false };
const PATTERN: Mode = Mode { raw_escapes: true, pattern: true };
const REPLACEMENT: Mode = Mode { raw_escapes: true, pattern: false };

struct Walk<'a> {
    lexer: Lexer,
    variables: &'a dyn Variables,
    chars: Peekable<Chars<'a>>,
    depth: usize,
    substituted: usize,
    found: Expansion,
}

impl Walk<'_> {
    /// Reads up to `stop`, which is taken, or to the end.
    fn until(&mut self, stop: Option<char>, mode: Mode, words: &mut Words) -> Result<String, InvalidWord> {
        let mut out = String::new();
        while let Some(c) = self.chars.next() {
            match c {
                c if Some(c) == stop => return Ok(out),
                '$' => {
                    let value = self.dollar()?;
                    words.text(&value);
                    out.push_str(&value);
                }
                '<' => {
                    let text = self.redirection();
                    words.whole(&text);
                    out.push_str(&text);
                }
                '\'' | '"' if !self.lexer.ignore_quotes => {
                    let quoted = if c == '"' { self.double(mode)? } else { self.single(mode)? };
                    words.whole(&quoted);
                    out.push_str(&quoted);
                }
                c if c == self.lexer.escape => {
                    let kept = mode.raw_escapes.then_some(c);
                    for c in kept.into_iter().chain(self.chars.next()) {
                        words.raw(c);
                        out.push(c);
                    }
                }
                c => {
                    words.char(c);
                    out.push(c);
                }
            }
        }
        match stop {
            None => Ok(out),
            Some(stop) => Err(InvalidWord::OpenBrace(stop)),
        }
    }

    /// `<<` and the blanks after it hold together, so that here-documents can be seen in a line.
    fn redirection(&mut self) -> String {
        if self.chars.next_if_eq(&'<').is_none() {
            return "<".to_owned();
        }
        let mut text = "<<".to_owned();
        while let Some(blank) = self.chars.next_if(|c| matches!(c, ' ' | '\t' | '\r')) {
            text.push(blank);
        }
        text
    }

    fn single(&mut self, mode: Mode) -> Result<String, InvalidWord> {
        let raw = self.lexer.raw_quotes;
        let mut out = String::new();
        out.extend(raw.then_some('\''));
        loop {
            match self.chars.next() {
                None => return Err(InvalidWord::OpenQuote('\'')),
                Some('\'') => {
                    out.extend(raw.then_some('\''));
                    return Ok(out);
                }
                Some(c) => {
                    out.extend((mode.pattern && c == self.lexer.escape).then_some(c));
                    out.push(c);
                }
            }
        }
    }

    fn double(&mut self, mode: Mode) -> Result<String, InvalidWord> {
        let raw = self.lexer.raw_quotes;
        let mut out = String::new();
        out.extend(raw.then_some('"'));
        loop {
            match self.chars.next() {
                None => return Err(InvalidWord::OpenQuote('"')),
                Some('"') => {
                    out.extend(raw.then_some('"'));
                    return Ok(out);
                }
                Some('$') => out.push_str(&self.dollar()?),
                Some(c) if c == self.lexer.escape => {
                    let escape = self.lexer.escape;
                    let next = self.chars.next_if(|next| matches!(next, '"' | '$') || *next == escape);
                    match next {
                        Some(next) => {
                            out.extend(mode.raw_escapes.then_some(c));
                            out.push(next);
                        }
                        // At the end of the word it is dropped; the quote is open anyway.
                        None if self.chars.peek().is_none() => {}
                        None => {
                            out.extend((mode.raw_escapes && (!raw || mode.pattern)).then_some(c));
                            out.push(c);
                        }
                    }
                }
                Some(c) => out.push(c),
            }
        }
    }

    /// What follows a dollar.
    fn dollar(&mut self) -> Result<String, InvalidWord> {
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            return match self.look_up(&name)? {
                _ if name.is_empty() => Ok("$".to_owned()),
                None if self.lexer.keep_unset => Ok(format!("${name}")),
                value => Ok(value.unwrap_or_default()),
            };
        }
        match self.chars.peek() {
            None => return Err(InvalidWord::OpenBrace('}')),
            Some('{' | '}' | ':') => return Err(InvalidWord::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(InvalidWord::TooDeep);
        }
        let value = match self.chars.next() {
            None => return Err(InvalidWord::OpenBrace('}')),
            Some('}') => match self.look_up(&name)? {
                None if self.lexer.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            },
            Some(':') => match self.chars.next() {
                Some(operator @ ('-' | '+' | '?')) => self.conditional(&name, true, operator)?,
                other => {
                    let operator = format!(":{}", other.map(String::from).unwrap_or_default());
                    return Err(InvalidWord::UnknownOperator(operator));
                }
            },
            Some(operator @ ('-' | '+' | '?')) => self.conditional(&name, false, operator)?,
            Some(end @ ('#' | '%')) => self.cut(&name, end)?,
            Some('/') => self.replace(&name)?,
            Some(other) => return Err(InvalidWord::UnknownOperator(other.to_string())),
        };
        self.depth -= 1;
        Ok(value)
    }

    /// `-`, `+` and `?`, with or without colon.
    fn conditional(&mut self, name: &str, colon: bool, operator: char) -> Result<String, InvalidWord> {
        let word = self.operand('}', PLAIN)?;
        let value = self.look_up(name)?;
        if self.lexer.keep_unset && value.is_none() {
            let colon = if colon { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let missing = value.as_ref().is_none_or(|value| colon && value.is_empty());
        match (operator, missing) {
            ('-', true) | ('+', false) => Ok(word),
            ('+', true) => Ok(String::new()),
            ('?', true) => {
                let state = if value.is_none() { "unset" } else { "empty" };
                let reason = if word.is_empty() { format!("is not allowed to be {state}") } else { word };
                Err(InvalidWord::Required { name: name.to_owned(), reason })
            }
            _ => Ok(value.unwrap_or_default()),
        }
    }

    /// `#`, `##`, `%` and `%%`.
    fn cut(&mut self, name: &str, end: char) -> Result<String, InvalidWord> {
        let word = self.operand('}', PATTERN)?;
        let value = self.look_up(name)?;
        if self.lexer.keep_unset && value.is_none() {
            return Ok(format!("${{{name}{end}{word}}}"));
        }
        let value = value.unwrap_or_default();
        let (pattern, longest) = match word.strip_prefix(end) {
            Some(pattern) => (pattern, true),
            None => (word.as_str(), false),
        };
        let pattern = Pattern::parse(pattern)?;
        if end == '#' { pattern.cut_front(&value, longest) } else { pattern.cut_end(&value, longest) }
    }

    /// `/` and `//`.
    fn replace(&mut self, name: &str) -> Result<String, InvalidWord> {
        let all = self.chars.next_if_eq(&'/').is_some();
        let pattern = self.operand('/', PATTERN)?;
        let replacement = self.operand('}', REPLACEMENT)?;
        let value = self.look_up(name)?;
        if self.lexer.keep_unset && value.is_none() {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        let replaced = Pattern::parse(&pattern)?.replace(&value, &replacement, all)?;
        self.count(replaced.len())?;
        Ok(replaced)
    }

    fn operand(&mut self, stop: char, mode: Mode) -> Result<String, InvalidWord> {
        self.until(Some(stop), mode, &mut Words::default())
    }

    /// Letters, digits and `_`; digits alone if it begins with one; or one special character.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.chars.peek() {
            Some(c) if c.is_ascii_digit() => {
                while let Some(c) = self.chars.next_if(char::is_ascii_digit) {
                    name.push(c);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.chars.next()),
            _ => {
                while let Some(c) =
                    self.chars.next_if(|c| c.is_alphabetic() || c.is_ascii_digit() || *c == '_')
                {
                    name.push(c);
                }
            }
        }
        name
    }

    fn look_up(&mut self, name: &str) -> Result<Option<String>, InvalidWord> {
        let value = self.variables.value(name);
        if !name.is_empty() {
            let names = if value.is_some() { &mut self.found.matched } else { &mut self.found.unmatched };
            names.insert(name.to_owned());
        }
        self.count(value.map_or(0, str::len))?;
        Ok(value.map(str::to_owned))
    }

    fn count(&mut self, bytes: usize) -> Result<(), InvalidWord> {
        self.substituted += bytes;
        if self.substituted > MAX_SUBSTITUTED { Err(InvalidWord::TooLarge) } else { Ok(()) }
    }
}

/// Splits what is read into words.
#[derive(Debug, Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    /// A character that separates words if it is white space.
    fn char(&mut self, c: char) {
        if !is_space(c) {
            self.current.push(c);
        } else if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    /// A character that is part of a word.
    fn raw(&mut self, c: char) {
        self.current.push(c);
    }

    /// The value of a variable: its white space separates words.
    fn text(&mut self, text: &str) {
        text.chars().for_each(|c| self.char(c));
    }

    /// Quoted text: its white space does not.
    fn whole(&mut self, text: &str) {
        self.current.push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}
