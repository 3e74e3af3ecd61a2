//! Visiting the entries of a tree, and finding one of them.

use quern_core::port::Blobs;
use quern_core::{ContentRef, Entry, TreePath};

use super::{MOST_DEPTH, TreesError, open, too_deep};

/// Whether a walk goes into a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descend {
    /// It does.
    Into,
    /// It goes on behind it.
    Past,
}

/// Shows every entry below the root, parents before children, siblings by name. Paths begin with a slash.
///
/// # Errors
/// [`TreesError`] if a directory cannot be read; those of `visit`.
pub fn walk<E: From<TreesError>>(
    blobs: &dyn Blobs,
    root: &ContentRef,
    visit: &mut dyn FnMut(&str, &Entry) -> Result<Descend, E>,
) -> Result<(), E> {
    walk_below(blobs, root, &mut String::new(), visit, 0)
}

fn walk_below<E: From<TreesError>>(
    blobs: &dyn Blobs,
    dir: &ContentRef,
    path: &mut String,
    visit: &mut dyn FnMut(&str, &Entry) -> Result<Descend, E>,
    depth: usize,
) -> Result<(), E> {
    if depth > MOST_DEPTH {
        return Err(too_deep(path).into());
    }
    let end = path.len();
    path.push('/');
    for (name, entry) in open(blobs, dir)?.entries() {
        path.truncate(end + 1);
        path.push_str(name);
        let descend = visit(path, entry)?;
        if let (Entry::Dir(below), Descend::Into) = (entry, descend) {
            walk_below(blobs, below, path, visit, depth + 1)?;
        }
    }
    path.truncate(end);
    Ok(())
}

/// The entry at a path; the root is a directory.
///
/// # Errors
/// [`TreesError`] if a directory on the way cannot be read.
pub fn find(blobs: &dyn Blobs, root: &ContentRef, path: &TreePath) -> Result<Option<Entry>, TreesError> {
    let mut found = Entry::Dir(*root);
    for name in path.names() {
        let Entry::Dir(dir) = &found else { return Ok(None) };
        let Some(entry) = open(blobs, dir)?.get(name).cloned() else { return Ok(None) };
        found = entry;
    }
    Ok(Some(found))
}
