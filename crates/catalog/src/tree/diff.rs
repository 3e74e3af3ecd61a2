//! What differs between two trees.

use quern_core::port::Blobs;
use quern_core::{ContentRef, Entry, Tree, TreePath};

use super::{Pairs, TreesError, below as under, open};

/// One path at which two trees differ. Both absent never occurs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: TreePath,
    /// What the old tree has there.
    pub old: Option<Entry>,
    /// What the new tree has there.
    pub new: Option<Entry>,
}

/// All files, links and empty directories that differ, by path. Of a directory that appears, disappears or
/// replaces something else, everything below is named; equal directories are not looked into.
///
/// # Errors
/// [`TreesError`] if a directory cannot be read.
pub fn diff(
    blobs: &dyn Blobs,
    old: &ContentRef,
    new: &ContentRef,
    visit: &mut dyn FnMut(Difference),
) -> Result<(), TreesError> {
    let [old, new] = [old, new].map(|tree| Some(Entry::Dir(*tree)));
    diff_at(blobs, &TreePath::root(), old, new, visit)
}

fn diff_at(
    blobs: &dyn Blobs,
    path: &TreePath,
    old: Option<Entry>,
    new: Option<Entry>,
    visit: &mut dyn FnMut(Difference),
) -> Result<(), TreesError> {
    if old == new {
        return Ok(());
    }
    let (below_old, old) = split(blobs, old)?;
    let (below_new, new) = split(blobs, new)?;
    // A directory whose entries are named needs no line of its own; an empty one that stays a directory has none.
    let both_dirs = below_old.is_some() && below_new.is_some();
    let named = |below: &Option<Tree>, entry: Option<Entry>| match below {
        Some(tree) if both_dirs || !tree.is_empty() || path.is_root() => None,
        _ => entry,
    };
    let (old, new) = (named(&below_old, old), named(&below_new, new));
    if old.is_some() || new.is_some() {
        visit(Difference { path: path.clone(), old, new });
    }
    for (name, old, new) in Pairs::of(below_old.unwrap_or_default(), below_new.unwrap_or_default()) {
        diff_at(blobs, &under(path, &name)?, old, new, visit)?;
    }
    Ok(())
}

fn split(blobs: &dyn Blobs, entry: Option<Entry>) -> Result<(Option<Tree>, Option<Entry>), TreesError> {
    let below = match &entry {
        Some(Entry::Dir(dir)) => Some(open(blobs, dir)?),
        _ => None,
    };
    Ok((below, entry))
}

/// By how many bytes the files of the new tree are more (or fewer) than those of the old one.
///
/// # Errors
/// [`TreesError`] if a directory cannot be read.
pub fn size_change(blobs: &dyn Blobs, old: &ContentRef, new: &ContentRef) -> Result<i128, TreesError> {
    let mut change = 0;
    diff(blobs, old, new, &mut |difference| {
        change += i128::from(bytes(&difference.new)) - i128::from(bytes(&difference.old));
    })?;
    Ok(change)
}

const fn bytes(entry: &Option<Entry>) -> u64 {
    match entry {
        Some(Entry::File { content, .. }) => content.size,
        _ => 0,
    }
}
