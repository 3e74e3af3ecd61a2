//! From pattern text to a tree.
//!
//! Reading goes character by character with two counters, open braces and open groups. The two
//! compatibility modes differ only in what is text: see [`Compat`].

use super::Compat;
use super::class::Class;

/// Longest pattern, in bytes. Real ones have a few dozen.
const MAX_LENGTH: usize = 4096;
/// Deepest nesting of groups and braces.
const MAX_DEPTH: usize = 32;

/// Why a pattern cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at character {column} of the glob `{pattern}`")]
pub struct InvalidGlob {
    /// The pattern as it was compiled, that is after cleaning.
    pub pattern: String,
    /// Byte offset of the offending character.
    pub offset: usize,
    /// The same place in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub reason: GlobProblem,
}

/// The kinds of mistakes in a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GlobProblem {
    /// `[` without its `]`.
    #[error("`[` is never closed")]
    UnclosedClass,
    /// `[]` or `[!]`.
    #[error("empty character class")]
    EmptyClass,
    /// `[z-a]`.
    #[error("character range in reverse order")]
    ReverseRange,
    /// `^(`, which negates nothing.
    #[error("`^(` has no meaning; negation is written `!(`")]
    CaretGroup,
    /// `(` without its `)`; tolerated in strict compatibility.
    #[error("`(` is never closed")]
    UnclosedGroup,
    /// `{` without its `}`; tolerated in strict compatibility.
    #[error("`{{` is never closed")]
    UnclosedBrace,
    /// `\` at the end; dropped in strict compatibility.
    #[error("`\\` escapes nothing")]
    DanglingEscape,
    /// A NUL character, which no path contains.
    #[error("NUL character")]
    Nul,
    /// More than 4096 bytes.
    #[error("the pattern is longer than 4096 bytes")]
    TooLong,
    /// Groups and braces nested deeper than 32 levels.
    #[error("groups are nested deeper than 32 levels")]
    TooDeep,
}

/// How often the alternatives of a group occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// `(…)` and `@(…)`.
    Once,
    /// `?(…)`.
    AtMostOnce,
    /// `*(…)`.
    Any,
    /// `+(…)`.
    AtLeastOnce,
}

/// One element of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    /// Itself.
    Text(String),
    /// `?`.
    Single,
    /// `*`.
    Star,
    /// `**`.
    Super,
    /// `[…]`.
    Class(Class),
    /// `{…,…}`.
    Braces(Vec<Sequence>),
    /// A capturing group.
    Group(Repeat, Vec<Sequence>),
    /// `!(…)`, capturing.
    Not(Vec<Sequence>),
}

/// Elements one after the other.
pub(super) type Sequence = Vec<Item>;

/// Parses a pattern.
pub(super) fn parse(pattern: &str, compat: Compat) -> Result<Sequence, InvalidGlob> {
    let mut parser =
        Parser { pattern, at: 0, compat, braces: 0, groups: 0, open: Vec::new(), items: Vec::new() };
    if pattern.len() > MAX_LENGTH {
        return Err(parser.error(MAX_LENGTH, GlobProblem::TooLong));
    }
    if let Some(nul) = pattern.find('\0') {
        return Err(parser.error(nul, GlobProblem::Nul));
    }
    while let Some(c) = parser.peek() {
        parser.item(c)?;
    }
    parser.finish()
}

/// A brace or group that is open.
struct Open {
    start: usize,
    kind: OpenKind,
    done: Vec<Sequence>,
    /// What was read before it opened.
    outer: Sequence,
}

#[derive(Clone, Copy, PartialEq)]
enum OpenKind {
    Braces,
    Group(Repeat),
    Not,
}

struct Parser<'p> {
    pattern: &'p str,
    at: usize,
    compat: Compat,
    braces: usize,
    groups: usize,
    open: Vec<Open>,
    items: Sequence,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.pattern[self.at..].chars().next()
    }

    fn rest(&self) -> &str {
        &self.pattern[self.at..]
    }

    fn strict(&self) -> bool {
        self.compat == Compat::Strict
    }

    /// Reads one element that begins with `c`.
    fn item(&mut self, c: char) -> Result<(), InvalidGlob> {
        let before_group = self.rest()[c.len_utf8()..].starts_with('(');
        match c {
            '{' => self.enter(1, OpenKind::Braces),
            '(' => self.enter(1, OpenKind::Group(Repeat::Once)),
            '@' if before_group => self.enter(2, OpenKind::Group(Repeat::Once)),
            '?' if before_group => self.enter(2, OpenKind::Group(Repeat::AtMostOnce)),
            '*' if before_group => self.enter(2, OpenKind::Group(Repeat::Any)),
            '+' if before_group => self.enter(2, OpenKind::Group(Repeat::AtLeastOnce)),
            '!' if before_group => self.enter(2, OpenKind::Not),
            '^' if before_group => Err(self.error(self.at, GlobProblem::CaretGroup)),
            ',' if self.separates(OpenKind::Braces) => self.next_alternative(),
            '|' if self.separates(OpenKind::Not) => self.next_alternative(),
            '}' if self.separates(OpenKind::Braces) => self.leave(OpenKind::Braces),
            ')' if self.separates(OpenKind::Not) => self.leave(OpenKind::Not),
            '?' => self.push(1, Item::Single),
            '*' => self.stars(),
            '[' => self.class(),
            _ => self.text(),
        }
    }

    fn push(&mut self, length: usize, item: Item) -> Result<(), InvalidGlob> {
        self.at += length;
        self.items.push(item);
        Ok(())
    }

    /// `*` and `**`; in `**(` the second star belongs to the group.
    fn stars(&mut self) -> Result<(), InvalidGlob> {
        let double = self.rest().starts_with("**") && !self.rest().starts_with("**(");
        if double { self.push(2, Item::Super) } else { self.push(1, Item::Star) }
    }

    fn class(&mut self) -> Result<(), InvalidGlob> {
        let start = self.at;
        let (length, class) =
            Class::parse(self.rest(), self.compat).map_err(|(at, reason)| self.error(start + at, reason))?;
        self.push(length, Item::Class(class))
    }

    /// Whether the separators and the end of such a bracket mean something here.
    ///
    /// In strict compatibility any open bracket of the kind will do, even one outside the innermost.
    fn separates(&self, kind: OpenKind) -> bool {
        let of_braces = kind == OpenKind::Braces;
        if self.strict() {
            return if of_braces { self.braces > 0 } else { self.groups > 0 };
        }
        self.open.last().is_some_and(|open| (open.kind == OpenKind::Braces) == of_braces)
    }

    fn enter(&mut self, length: usize, kind: OpenKind) -> Result<(), InvalidGlob> {
        if self.open.len() == MAX_DEPTH {
            return Err(self.error(self.at, GlobProblem::TooDeep));
        }
        let outer = std::mem::take(&mut self.items);
        self.open.push(Open { start: self.at, kind, done: Vec::new(), outer });
        *self.counter(kind) += 1;
        self.at += length;
        Ok(())
    }

    fn counter(&mut self, kind: OpenKind) -> &mut usize {
        if kind == OpenKind::Braces { &mut self.braces } else { &mut self.groups }
    }

    fn next_alternative(&mut self) -> Result<(), InvalidGlob> {
        self.at += 1;
        let done = std::mem::take(&mut self.items);
        if let Some(open) = self.open.last_mut() {
            open.done.push(done);
        }
        Ok(())
    }

    fn leave(&mut self, kind: OpenKind) -> Result<(), InvalidGlob> {
        self.at += 1;
        *self.counter(kind) -= 1;
        self.close();
        Ok(())
    }

    /// Closes the innermost bracket, whatever its kind.
    fn close(&mut self) {
        let Some(mut open) = self.open.pop() else { return };
        open.done.push(std::mem::replace(&mut self.items, open.outer));
        self.items.push(match open.kind {
            OpenKind::Braces => Item::Braces(open.done),
            OpenKind::Group(repeat) => Item::Group(repeat, open.done),
            OpenKind::Not => Item::Not(open.done),
        });
    }

    fn text(&mut self) -> Result<(), InvalidGlob> {
        let stops = self.text_stops();
        let start = self.at;
        let mut text = String::new();
        while let Some(c) = self.peek() {
            let width = c.len_utf8();
            if c == '\\' {
                let Some(escaped) = self.rest()[1..].chars().next() else {
                    if !self.strict() {
                        return Err(self.error(self.at, GlobProblem::DanglingEscape));
                    }
                    self.at += 1;
                    break;
                };
                text.push(escaped);
                self.at += 1 + escaped.len_utf8();
                continue;
            }
            if self.at > start && stops.contains(&c) {
                break;
            }
            text.push(c);
            self.at += width;
        }
        if !text.is_empty() {
            self.items.push(Item::Text(text));
        }
        Ok(())
    }

    /// The characters that end a text which begins here.
    ///
    /// In strict compatibility a text that begins with `@ ! ^ +` runs on over separators and
    /// closing brackets, and inside braces `|` and `)` are text.
    fn text_stops(&self) -> &'static [char] {
        const OUTSIDE: &[char] = &['?', '*', '[', '{', '('];
        const PLAIN: &[char] = &['?', '*', '[', '{', '(', '@', '!', '^', '+'];
        const BRACES: &[char] = &['?', '*', '[', '{', '(', '@', '!', '^', '+', '}', ','];
        const GROUP: &[char] = &['?', '*', '[', '{', '(', '@', '!', '^', '+', ')', '|'];
        if self.strict() {
            return match self.peek() {
                Some('@' | '!' | '^' | '+') => OUTSIDE,
                _ if self.braces > 0 => BRACES,
                _ if self.groups > 0 => GROUP,
                _ => PLAIN,
            };
        }
        match self.open.last().map(|open| open.kind) {
            Some(OpenKind::Braces) => BRACES,
            Some(_) => GROUP,
            None => PLAIN,
        }
    }

    fn finish(mut self) -> Result<Sequence, InvalidGlob> {
        if let (false, Some(open)) = (self.strict(), self.open.last()) {
            let braces = open.kind == OpenKind::Braces;
            let reason = if braces { GlobProblem::UnclosedBrace } else { GlobProblem::UnclosedGroup };
            return Err(self.error(open.start, reason));
        }
        while !self.open.is_empty() {
            self.close();
        }
        Ok(self.items)
    }

    fn error(&self, offset: usize, reason: GlobProblem) -> InvalidGlob {
        let mut cut = offset.min(self.pattern.len());
        while !self.pattern.is_char_boundary(cut) {
            cut -= 1;
        }
        let column = self.pattern[..cut].chars().count() + 1;
        let pattern = self.pattern.chars().take(200).collect();
        InvalidGlob { pattern, offset: cut, column, reason }
    }
}
