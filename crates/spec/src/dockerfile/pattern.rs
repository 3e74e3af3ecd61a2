//! Patterns over paths with `/` between components, as `.dockerignore` and `--exclude` have them.
//!
//! `*` is a run without `/`, `?` one character but `/`, `[a-z]` and `[^a-z]` a character of a class, `\` takes the
//! next character literally, `**` is any number of whole components. Matching follows all
//! ways at once, so the work grows with the product of pattern and path, and a walk can go on from where
//! its directory stood.

/// Most characters of a pattern; names of files are shorter.
const MAX_LENGTH: usize = 8192;

/// Text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// `[` without `]`, an empty class, or a range without end.
    #[error("a class is not closed, or empty, or lacks the end of a range")]
    Class,
    /// A trailing `\`.
    #[error("`\\` stands before nothing")]
    Escape,
    /// A `!` alone.
    #[error("`!` stands before nothing")]
    Nothing,
    /// More characters than anybody needs.
    #[error("the pattern is longer than {MAX_LENGTH} characters")]
    TooLong,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Char(char),
    /// One character but `/`.
    One,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// Any run without `/`.
    Star,
    /// Any number of whole components with their slashes.
    Components,
    /// Any run.
    Any,
}

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

/// Where a match stands after some characters; empty if it can come to nothing.
///
/// Each element is the index of the part that comes next, times two, plus one inside the components that a
/// [`Part::Components`] takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct State(Vec<usize>);

impl State {
    /// Whether no continuation can match.
    pub fn is_dead(&self) -> bool {
        self.0.is_empty()
    }
}

/// A state in the making.
#[derive(Default)]
struct Positions {
    list: Vec<usize>,
    /// One bit for each position in the list; nothing is allocated while nothing matches.
    seen: Vec<u64>,
}

impl Positions {
    fn insert(&mut self, parts: &[Part], position: usize) -> bool {
        if self.seen.is_empty() {
            self.seen.resize(parts.len() / 32 + 1, 0);
        }
        let (word, bit) = (position / 64, 1 << (position % 64));
        let new = self.seen[word] & bit == 0;
        if new {
            self.seen[word] |= bit;
            self.list.push(position);
        }
        new
    }

    /// Adds the beginning of a part, and of those after it if it may take nothing.
    fn add(&mut self, parts: &[Part], mut index: usize) {
        while self.insert(parts, index * 2)
            && matches!(parts.get(index), Some(Part::Star | Part::Components | Part::Any))
        {
            index += 1;
        }
    }

    fn clear(&mut self) {
        for position in self.list.drain(..) {
            self.seen[position / 64] = 0;
        }
    }
}

impl Pattern {
    /// A cleaned pattern of `.dockerignore`, without `!`.
    pub fn ignore(text: &str) -> Result<Self, InvalidPattern> {
        let mut parts = parse(text)?;
        // Two stars are any number of components; a slash after them belongs to them.
        let mut read = Vec::with_capacity(parts.len());
        let plain = |parts: &[Part]| parts.iter().all(|part| matches!(part, Part::Char(_)));
        let mut rest = parts.as_mut_slice();
        while let Some(part) = rest.first() {
            let stars = matches!(rest, [Part::Star, Part::Star, ..]);
            if !stars {
                read.push(part.clone());
                rest = &mut rest[1..];
                continue;
            }
            let slash = rest.get(2) == Some(&Part::Char('/'));
            rest = &mut rest[if slash { 3 } else { 2 }..];
            // Only a text that begins with `**` and has no other sign ends any name: `**.log`.
            let suffix = read.is_empty() && !slash && plain(rest) && !text.contains('\\');
            read.push(if rest.is_empty() || suffix { Part::Any } else { Part::Components });
        }
        Ok(Self(read))
    }

    pub fn start(&self) -> State {
        let mut positions = Positions::default();
        positions.add(&self.0, 0);
        State(positions.list)
    }

    pub fn advance(&self, from: &State, text: &str) -> State {
        let (mut now, mut next) = (Positions::default(), Positions::default());
        let mut first = true;
        for c in text.chars() {
            next.clear();
            self.step(if first { &from.0 } else { &now.list }, c, &mut next);
            std::mem::swap(&mut now, &mut next);
            first = false;
            if now.list.is_empty() {
                break;
            }
        }
        if first { from.clone() } else { State(now.list) }
    }

    pub fn accepts(&self, state: &State) -> bool {
        state.0.contains(&(self.0.len() * 2))
    }

    fn step(&self, from: &[usize], c: char, next: &mut Positions) {
        for position in from {
            let index = position / 2;
            let Some(part) = self.0.get(index) else { continue };
            match part {
                Part::Char(wanted) if *wanted == c => next.add(&self.0, index + 1),
                Part::One if c != '/' => next.add(&self.0, index + 1),
                Part::Class { negated, ranges } => {
                    if ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated {
                        next.add(&self.0, index + 1);
                    }
                }
                Part::Star if c != '/' => next.add(&self.0, index),
                Part::Any => next.add(&self.0, index),
                Part::Components => {
                    next.insert(&self.0, index * 2 + 1);
                    if c == '/' {
                        next.add(&self.0, index + 1);
                    }
                }
                Part::Char(_) | Part::One | Part::Star => {}
            }
        }
    }
}

fn parse(text: &str) -> Result<Vec<Part>, InvalidPattern> {
    if text.len() > MAX_LENGTH {
        return Err(InvalidPattern::TooLong);
    }
    let mut parts = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => Part::Star,
            '?' => Part::One,
            '\\' => Part::Char(chars.next().ok_or(InvalidPattern::Escape)?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
                    let low = class_char(&mut chars)?;
                    let high = match chars.next_if_eq(&'-') {
                        Some(_) => class_char(&mut chars)?,
                        None => low,
                    };
                    ranges.push((low, high));
                }
                Part::Class { negated, ranges }
            }
            c => Part::Char(c),
        });
    }
    Ok(parts)
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, InvalidPattern> {
    match chars.next() {
        Some('\\') => chars.next().ok_or(InvalidPattern::Class),
        None | Some('-' | ']') => Err(InvalidPattern::Class),
        Some(c) => Ok(c),
    }
}
