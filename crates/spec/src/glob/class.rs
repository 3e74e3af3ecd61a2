//! Character classes: `[a-z]`, `[!x]`, `[[:digit:]_]`.

use super::Compat;
use super::parse::GlobProblem;

/// A set of characters, as sorted ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

const POSIX: [(&str, &[(char, char)]); 14] = [
    ("alnum", &[('0', '9'), ('A', 'Z'), ('a', 'z')]),
    ("alpha", &[('A', 'Z'), ('a', 'z')]),
    ("ascii", &[('\0', '\x7f')]),
    ("blank", &[('\t', '\t'), (' ', ' ')]),
    ("cntrl", &[('\0', '\x1f'), ('\x7f', '\x7f')]),
    ("digit", &[('0', '9')]),
    ("graph", &[('!', '~')]),
    ("lower", &[('a', 'z')]),
    ("print", &[(' ', '~')]),
    ("punct", &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
    ("space", &[('\t', '\r'), (' ', ' ')]),
    ("upper", &[('A', 'Z')]),
    ("word", &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]),
    ("xdigit", &[('0', '9'), ('A', 'F'), ('a', 'f')]),
];

/// A class as spelled, before ranges are formed.
struct Spelling {
    /// Bytes from `[` to `]`.
    length: usize,
    negated: bool,
    /// The members with their offsets; escapes are already resolved.
    members: Vec<(usize, char)>,
}

impl Class {
    /// Reads a class from the front of `text`, which begins with `[`; returns its length in bytes.
    ///
    /// A class ends at its first `]`, but a `[` inside (as in `[:digit:]`) takes one `]` with it. The
    /// first unescaped `!` or `^` negates; in strict compatibility wherever it stands, else only in
    /// front of the other members or of a name (`[:^digit:]`). An escape never keeps `-` from
    /// forming a range.
    pub fn parse(text: &str, compat: Compat) -> Result<(usize, Self), (usize, GlobProblem)> {
        let spelling = spell(text, compat)?;
        if spelling.members.is_empty() {
            return Err((0, GlobProblem::EmptyClass));
        }
        let mut ranges = ranges(&spelling.members, compat)?;
        ranges.sort_unstable();
        Ok((spelling.length, Self { negated: spelling.negated, ranges }))
    }

    /// Whether the class has this character. A negated class never has the separator in
    /// [`Compat::Documented`]; that is the matcher's business, not ours.
    pub fn contains(&self, c: char) -> bool {
        let inside = self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
        inside != self.negated
    }

    /// Whether the class was written with `!` or `^`.
    pub fn is_negated(&self) -> bool {
        self.negated
    }
}

fn spell(text: &str, compat: Compat) -> Result<Spelling, (usize, GlobProblem)> {
    let (mut negated, mut escaped, mut inner) = (false, false, false);
    let mut members: Vec<(usize, char)> = Vec::new();
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
            members.push((at, c));
            continue;
        }
        match c {
            '\\' => {
                escaped = true;
                continue;
            }
            ']' if inner => inner = false,
            ']' => return Ok(Spelling { length: at + 1, negated, members }),
            '[' => inner = true,
            '!' | '^' if !negated && may_negate(&members, compat) => {
                negated = true;
                continue;
            }
            _ => {}
        }
        members.push((at, c));
    }
    Err((0, GlobProblem::UnclosedClass))
}

/// Whether a `!` or `^` after these members negates the class.
fn may_negate(members: &[(usize, char)], compat: Compat) -> bool {
    let after_name_start = matches!(members, [.., (_, '['), (_, ':')]);
    compat == Compat::Strict || members.is_empty() || after_name_start
}

/// Forms ranges and named classes from the members in order.
fn ranges(members: &[(usize, char)], compat: Compat) -> Result<Vec<(char, char)>, (usize, GlobProblem)> {
    let mut out = Vec::new();
    let mut rest = members;
    while let [(at, c), tail @ ..] = rest {
        if let Some((length, named)) = name(rest, compat) {
            out.extend_from_slice(named);
            rest = &rest[length..];
            continue;
        }
        match tail {
            [(_, '-'), (_, high), after @ ..] => {
                if high < c {
                    return Err((*at, GlobProblem::ReverseRange));
                }
                out.push((*c, *high));
                rest = after;
            }
            _ => {
                out.push((*c, *c));
                rest = tail;
            }
        }
    }
    Ok(out)
}

/// A class name at the front of the members, and how many members it takes.
///
/// Strict compatibility replaces `:digit:` wherever it stands and leaves brackets around it in the
/// set; otherwise the brackets belong to the name.
fn name(members: &[(usize, char)], compat: Compat) -> Option<(usize, &'static [(char, char)])> {
    let text: String = members.iter().take(10).map(|(_, c)| *c).collect();
    POSIX
        .iter()
        .find_map(|(name, ranges)| {
            let bare = text.strip_prefix(':')?.strip_prefix(name)?.starts_with(':').then_some(name.len() + 2);
            bare.map(|length| (length, *ranges))
        })
        .or_else(|| {
            let inner = text.strip_prefix("[:").filter(|_| compat != Compat::Strict)?;
            POSIX.iter().find_map(|(name, ranges)| {
                inner.strip_prefix(name)?.starts_with(":]").then_some((name.len() + 4, *ranges))
            })
        })
}
