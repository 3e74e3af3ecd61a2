//! Glob patterns over paths: Pachyderm's extended syntax.
//!
//! `*` is a run without `/`, `**` any run, `?` one character but `/`, `[a-z]` a class, `{a,b}`
//! alternatives; `(a|b)` = `@(a|b)`, `?( )`, `*( )`, `+( )` and `!( )` are groups that capture; `\` takes the
//! next character literally. Matching is case-sensitive, covers the whole path and treats dot files
//! like others.
//!
//! Two engines share one tree: `flat` for patterns without negation (one shift per character) and
//! `reach` for the rest and for captures. Neither backtracks, so no pattern explodes: the work grows
//! with the product of pattern and path length. The refused alternative, translation to a regular
//! expression with look-ahead, is what the original does, with a timeout of five minutes as its net.

mod class;
mod clean;
mod flat;
mod parse;
mod program;
mod reach;
mod template;
#[cfg(test)]
mod tests;
mod walk;

pub use clean::clean;
pub use parse::{GlobProblem, InvalidGlob};
pub use walk::{Visit, Walk};

use flat::Flat;
use parse::{Item, Sequence};
use program::Program;
use reach::Reach;

/// Which reading of doubtful patterns to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compat {
    /// As documented. Mistakes are refused, and accidents of the original are not repeated:
    /// brackets must close, separators count in the innermost bracket, a negated class never takes
    /// `/`, only a leading `!` or `^` negates a class, and `!(a)` refuses exactly the paths the pattern
    /// would match with `@(a)` in that place. Inside a repetition or another negation, where "the
    /// pattern" would be the negation itself, `!(a)` is read as in [`Compat::Strict`].
    #[default]
    Documented,
    /// Exactly as Pachyderm 1.13.4 behaves, accidents included.
    Strict,
}

/// Characters that make a pattern more than a literal path.
const SPECIAL: &[char] = &['*', '?', '[', ']', '{', '}', '!', '(', ')', '@', '+', '^'];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Syntax {
    separator: Option<char>,
    compat: Compat,
}

impl Syntax {
    fn strict(self) -> bool {
        self.compat == Compat::Strict
    }
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Glob {
    pattern: String,
    syntax: Syntax,
    tree: Sequence,
    literal: Option<String>,
    prefix: String,
    /// Most components a matching path can have; `None` when there is no limit.
    max_depth: Option<usize>,
    groups: usize,
    engine: Engine,
}

#[derive(Debug, Clone)]
enum Engine {
    /// Matches; captures need a program besides when there are groups.
    Flat(Flat, Option<Program>),
    /// Matches and captures.
    Program(Program),
}

impl Glob {
    /// Compiles a pattern for paths: cleans it and matches with `/` as separator.
    ///
    /// # Errors
    /// [`InvalidGlob`] with the place in the cleaned pattern.
    pub fn compile(pattern: &str, compat: Compat) -> Result<Self, InvalidGlob> {
        Self::build(clean(pattern), Syntax { separator: Some('/'), compat })
    }

    /// Compiles a pattern as it stands, without cleaning and without separator: `*` and `?` take `/`
    /// too. This is the reading of `.pachignore`.
    ///
    /// # Errors
    /// [`InvalidGlob`] with the place in the pattern.
    pub fn compile_verbatim(pattern: &str, compat: Compat) -> Result<Self, InvalidGlob> {
        Self::build(pattern.to_owned(), Syntax { separator: None, compat })
    }

    fn build(pattern: String, syntax: Syntax) -> Result<Self, InvalidGlob> {
        let tree = parse::parse(&pattern, syntax.compat)?;
        let literal = literal_path(&pattern, &tree, syntax);
        let prefix = literal_prefix(&tree);
        let max_depth = separators(&tree, syntax);
        let groups = program::groups_in(std::slice::from_ref(&tree));
        let engine = match Flat::compile(&tree, syntax) {
            Some(flat) => Engine::Flat(flat, (groups > 0).then(|| program::compile(&tree, syntax))),
            None => Engine::Program(program::compile(&tree, syntax)),
        };
        Ok(Self { pattern, syntax, tree, literal, prefix, max_depth, groups, engine })
    }

    /// The pattern as compiled, that is after cleaning; empty for the root.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether a cleaned path (see [`clean`]; the root is empty) matches.
    pub fn is_match(&self, path: &str) -> bool {
        match &self.engine {
            Engine::Flat(flat, _) => flat.accepts(flat.advance(flat.start(), path)),
            Engine::Program(program) => {
                path.starts_with(&self.prefix) && Reach::of(program, self.syntax, path).is_match()
            }
        }
    }

    /// The text of every group for a matching path: number 0 is the whole path, groups count by their
    /// opening parenthesis, and a group that took no part is empty. `None` when the path does not match.
    pub fn captures<'t>(&self, path: &'t str) -> Option<Vec<&'t str>> {
        let program = match &self.engine {
            Engine::Program(program) => program,
            Engine::Flat(..) if !self.is_match(path) => return None,
            Engine::Flat(_, None) => return Some(vec![path]),
            Engine::Flat(_, Some(program)) => program,
        };
        let slots = Reach::of(program, self.syntax, path).captures()?;
        let text = |pair: &[Option<usize>]| match pair {
            [Some(start), Some(end)] => path.get(*start..*end).unwrap_or(""),
            _ => "",
        };
        Some(
            std::iter::once(path).chain(slots[2..2 * program.groups + 2].chunks_exact(2).map(text)).collect(),
        )
    }

    /// The key a `join_on` or `group_by` template gives a matching path: `$1` or `${1}` stand for a
    /// group, `$0` for the path, `$$` for a dollar. `None` when the path does not match.
    pub fn replace(&self, path: &str, template: &str) -> Option<String> {
        let groups = self.captures(path)?;
        Some(template::fill(template, |number| groups.get(number).copied()))
    }

    /// The path to look up, when the pattern names one path instead of describing many.
    pub fn literal(&self) -> Option<&str> {
        self.literal.as_deref()
    }

    /// Whether the pattern names one path.
    pub fn is_literal(&self) -> bool {
        self.literal.is_some()
    }

    /// The text every matching path begins with. It may end inside a component.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether a path below the directory `dir` (cleaned; the root is empty) can match. May say yes
    /// when none does, never no when one does.
    pub fn may_descend(&self, dir: &str) -> bool {
        match &self.engine {
            Engine::Flat(flat, _) => flat.advance(flat.advance(flat.start(), dir), "/") != 0,
            Engine::Program(_) => {
                let depth = dir.matches('/').count();
                self.max_depth.is_none_or(|most| depth < most) && self.fits_prefix(dir)
            }
        }
    }

    /// Whether `dir` leads towards the literal prefix or lies below it.
    fn fits_prefix(&self, dir: &str) -> bool {
        dir.starts_with(&self.prefix)
            || self.prefix.starts_with(dir) && self.prefix[dir.len()..].starts_with('/')
    }

    /// A match that a tree walk drives from the root down, one component at a time.
    pub fn walk(&self) -> Walk<'_> {
        Walk::root(self)
    }

    /// Number of capturing groups.
    pub fn groups(&self) -> usize {
        self.groups
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.syntax == other.syntax && self.tree == other.tree
    }
}

/// Strict compatibility looks for special characters only, so an escape is part of the path.
fn literal_path(pattern: &str, tree: &Sequence, syntax: Syntax) -> Option<String> {
    if syntax.strict() {
        return (!pattern.contains(SPECIAL)).then(|| pattern.to_owned());
    }
    let text = |item: &Item| match item {
        Item::Text(text) => Some(text.clone()),
        _ => None,
    };
    tree.iter().map(text).collect()
}

fn literal_prefix(tree: &Sequence) -> String {
    let mut prefix = String::new();
    for item in tree {
        let Item::Text(text) = item else { break };
        prefix.push_str(text);
    }
    prefix
}

/// Most separators a match can hold; `None` when there is no limit (or no separator).
fn separators(tree: &Sequence, syntax: Syntax) -> Option<usize> {
    let separator = syntax.separator?;
    let most = |alternatives: &[Sequence]| -> Option<usize> {
        alternatives
            .iter()
            .map(|sequence| separators(sequence, syntax))
            .try_fold(0, |most, count| count.map(|count| most.max(count)))
    };
    tree.iter().try_fold(0, |sum: usize, item| {
        let count = match item {
            Item::Text(text) => text.matches(separator).count(),
            Item::Single | Item::Star | Item::Not(_) => 0,
            Item::Super => return None,
            Item::Class(class) => usize::from(syntax.takes(&program::Set::Class(class.clone()), separator)),
            Item::Braces(inner) => most(inner)?,
            Item::Group(parse::Repeat::Any | parse::Repeat::AtLeastOnce, inner) => {
                most(inner).filter(|count| *count == 0)?
            }
            Item::Group(_, inner) => most(inner)?,
        };
        Some(sum + count)
    })
}
