//! Choosing files and directories of a tree by a pattern.

use quern_core::port::Blobs;
use quern_core::{ContentRef, Entry, Tree, TreePath};

use crate::tree::{Descend, MOST_DEPTH, Pairs, TreesError, find, open, too_deep, walk};

/// A pattern over paths; the language belongs to whoever implements it. Paths begin with a slash, and the root is
/// the empty text.
pub trait PathPattern {
    /// Whether the pattern chooses this path.
    fn matches(&self, path: &str) -> bool;
    /// Whether anything below this directory may be chosen. `true` is always right, `false` saves work.
    fn may_descend(&self, dir: &str) -> bool;
    /// The one path that can be chosen, if the pattern is plain text.
    fn literal(&self) -> Option<&str>;
}

/// A pattern that chooses one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal(String);

impl Literal {
    /// Chooses this path.
    pub fn new(path: &TreePath) -> Self {
        Self(if path.is_root() { String::new() } else { path.to_string() })
    }
}

impl PathPattern for Literal {
    fn matches(&self, path: &str) -> bool {
        path == self.0
    }

    fn may_descend(&self, dir: &str) -> bool {
        self.0.starts_with(dir)
    }

    fn literal(&self) -> Option<&str> {
        Some(&self.0)
    }
}

/// Shows every file, link and directory that a pattern chooses, by path; the root is the empty path. A directory and
/// what is in it may both be chosen. A path that is not there is no error.
///
/// # Errors
/// [`TreesError`] if a directory cannot be read; those of `visit`.
pub fn choose<E: From<TreesError>>(
    blobs: &dyn Blobs,
    root: &ContentRef,
    pattern: &dyn PathPattern,
    visit: &mut dyn FnMut(&str, &Entry) -> Result<(), E>,
) -> Result<(), E> {
    if let Some(literal) = pattern.literal() {
        let path = TreePath::parse(literal).map_err(TreesError::from)?;
        if let Some(entry) = find(blobs, root, &path)? {
            let text = if path.is_root() { String::new() } else { path.to_string() };
            visit(&text, &entry)?;
        }
        return Ok(());
    }
    if pattern.matches("") {
        visit("", &Entry::Dir(*root))?;
    }
    walk(blobs, root, &mut |path, entry| {
        if pattern.matches(path) {
            visit(path, entry)?;
        }
        let descend = matches!(entry, Entry::Dir(_)) && pattern.may_descend(path);
        Ok(if descend { Descend::Into } else { Descend::Past })
    })
}

/// Hears of a path with what the old and the new tree have there.
pub type VisitChange<'v, E> = dyn FnMut(&str, Option<&Entry>, Option<&Entry>) -> Result<(), E> + 'v;

/// Shows every path a pattern chooses at which two trees differ, with what is there in the old and the new one, by path.
/// Equal directories are not looked into. [`choose`] on each tree shows these and what is the same in both.
///
/// # Errors
/// As [`choose`].
pub fn choose_changed<E: From<TreesError>>(
    blobs: &dyn Blobs,
    [old, new]: [&ContentRef; 2],
    pattern: &dyn PathPattern,
    visit: &mut VisitChange<'_, E>,
) -> Result<(), E> {
    if let Some(literal) = pattern.literal() {
        let path = TreePath::parse(literal).map_err(TreesError::from)?;
        let (old, new) = (find(blobs, old, &path)?, find(blobs, new, &path)?);
        let text = if path.is_root() { String::new() } else { path.to_string() };
        return if old == new { Ok(()) } else { visit(&text, old.as_ref(), new.as_ref()) };
    }
    let pair = (Some(Entry::Dir(*old)), Some(Entry::Dir(*new)));
    Changes { blobs, pattern, visit }.at(&mut String::new(), pair, 0)
}

struct Changes<'a, 'v, E> {
    blobs: &'a dyn Blobs,
    pattern: &'a dyn PathPattern,
    visit: &'a mut VisitChange<'v, E>,
}

impl<E: From<TreesError>> Changes<'_, '_, E> {
    fn at(
        &mut self,
        path: &mut String,
        (old, new): (Option<Entry>, Option<Entry>),
        depth: usize,
    ) -> Result<(), E> {
        if old == new {
            return Ok(());
        }
        if depth > MOST_DEPTH {
            return Err(too_deep(path).into());
        }
        if self.pattern.matches(path) {
            (self.visit)(path, old.as_ref(), new.as_ref())?;
        }
        if !path.is_empty() && !self.pattern.may_descend(path) {
            return Ok(());
        }
        let below = |entry: &Option<Entry>| match entry {
            Some(Entry::Dir(dir)) => open(self.blobs, dir),
            _ => Ok(Tree::default()),
        };
        let end = path.len();
        for (name, old, new) in Pairs::of(below(&old)?, below(&new)?) {
            path.truncate(end);
            path.push('/');
            path.push_str(&name);
            self.at(path, (old, new), depth + 1)?;
        }
        path.truncate(end);
        Ok(())
    }
}
