//! Laying one tree over another.

use quern_core::port::Blobs;
use quern_core::{ContentRef, Entry, Tree, TreePath};

use super::{Pairs, TreesError, below as under, kind, open, save};
use crate::concat::concat;

/// What two files at one path become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlay {
    /// The upper one.
    Replace,
    /// The bytes of the lower one, then those of the upper one; executable if one of them is. Links have no
    /// bytes: where one meets a file or another link, the upper one stays.
    Append,
}

/// The tree with everything of both. Directories that only one side has are not looked into; equal ones neither,
/// unless files are appended.
///
/// # Errors
/// [`TreesError::Kind`] for a directory over something else or the reverse; those of the store.
pub fn union(
    blobs: &dyn Blobs,
    below: &ContentRef,
    above: &ContentRef,
    overlay: Overlay,
) -> Result<ContentRef, TreesError> {
    union_at(blobs, &TreePath::root(), [below, above], overlay)
}

fn union_at(
    blobs: &dyn Blobs,
    path: &TreePath,
    [below, above]: [&ContentRef; 2],
    overlay: Overlay,
) -> Result<ContentRef, TreesError> {
    if above.size == 0 || below == above && overlay == Overlay::Replace {
        return Ok(*below);
    }
    if below.size == 0 {
        return Ok(*above);
    }
    let (mut entries, mut is_above) = (Vec::new(), true);
    for (name, below, above) in Pairs::of(open(blobs, below)?, open(blobs, above)?) {
        let entry = match (below, above) {
            (Some(below), Some(above)) => {
                let settled = settle(blobs, &under(path, &name)?, [below, above.clone()], overlay)?;
                is_above &= settled == above;
                Some(settled)
            }
            (below, above) => {
                is_above &= below.is_none();
                below.or(above)
            }
        };
        entries.extend(entry.map(|entry| (name, entry)));
    }
    // Whoever puts a whole directory again mostly replaces all of it: then nothing is encoded again.
    if is_above { Ok(*above) } else { save(blobs, &Tree::new(entries)?) }
}

fn settle(
    blobs: &dyn Blobs,
    path: &TreePath,
    [below, above]: [Entry; 2],
    overlay: Overlay,
) -> Result<Entry, TreesError> {
    match (&below, &above) {
        (Entry::Dir(below), Entry::Dir(above)) => {
            Ok(Entry::Dir(union_at(blobs, path, [below, above], overlay)?))
        }
        (Entry::Dir(_), _) | (_, Entry::Dir(_)) => {
            Err(TreesError::Kind { path: path.clone(), there: kind(&below), wanted: kind(&above) })
        }
        (Entry::File { .. }, Entry::File { .. }) if overlay == Overlay::Append => {
            Ok(concat(blobs, &[below, above])?)
        }
        _ => Ok(above),
    }
}
