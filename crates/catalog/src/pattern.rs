//! Choosing files and directories of a tree by a pattern.

use quern_core::port::Blobs;
use quern_core::{ContentRef, Entry, TreePath};

use crate::tree::{Descend, TreesError, find, walk};

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
