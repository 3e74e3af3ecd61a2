//! Trees that hold little: one entry, or a few, at given paths, with the directories above them.

use std::collections::BTreeMap;

use quern_core::port::Blobs;
use quern_core::{ContentRef, Entry, Tree, TreePath};

use super::{MOST_DEPTH, TreesError, kind, save, too_deep};

/// The tree that holds nothing but `entry` at `path`. A directory at the root is the tree itself.
///
/// # Errors
/// [`TreesError::Kind`] for anything but a directory at the root; those of the store.
pub fn place(blobs: &dyn Blobs, path: &TreePath, entry: &Entry) -> Result<ContentRef, TreesError> {
    check_depth(path)?;
    let mut entry = entry.clone();
    for name in path.names().rev() {
        entry = Entry::Dir(save(blobs, &Tree::new(vec![(name.to_owned(), entry)])?)?);
    }
    match entry {
        Entry::Dir(tree) => Ok(tree),
        other => Err(TreesError::Kind { path: TreePath::root(), there: "directory", wanted: kind(&other) }),
    }
}

/// The tree that holds these entries and nothing else. Later entries replace earlier ones at the same path.
///
/// # Errors
/// [`TreesError::Kind`] if one path leads through another one's entry; those of the store.
pub fn place_many<'e>(
    blobs: &dyn Blobs,
    entries: impl IntoIterator<Item = &'e (TreePath, Entry)>,
) -> Result<ContentRef, TreesError> {
    let mut root = Plot::Inner(BTreeMap::new());
    for (path, entry) in entries {
        check_depth(path)?;
        root.put(path, entry)?;
    }
    match root.save(blobs)? {
        Entry::Dir(tree) => Ok(tree),
        other => Err(TreesError::Kind { path: TreePath::root(), there: "directory", wanted: kind(&other) }),
    }
}

fn check_depth(path: &TreePath) -> Result<(), TreesError> {
    if path.names().count() > MOST_DEPTH { Err(too_deep(path.as_str())) } else { Ok(()) }
}

/// A place in a tree under construction.
enum Plot {
    /// A directory with what was put below it.
    Inner(BTreeMap<String, Plot>),
    /// What was put here.
    Leaf(Entry),
}

impl Plot {
    fn put(&mut self, path: &TreePath, entry: &Entry) -> Result<(), TreesError> {
        let mut plot = self;
        for name in path.names() {
            plot = match plot {
                Self::Inner(below) => {
                    below.entry(name.to_owned()).or_insert_with(|| Self::Inner(BTreeMap::new()))
                }
                Self::Leaf(other) => {
                    return Err(TreesError::Kind {
                        path: path.clone(),
                        there: kind(other),
                        wanted: "directory",
                    });
                }
            };
        }
        match plot {
            Self::Inner(below) if !below.is_empty() => {
                Err(TreesError::Kind { path: path.clone(), there: "directory", wanted: kind(entry) })
            }
            _ => {
                *plot = Self::Leaf(entry.clone());
                Ok(())
            }
        }
    }

    fn save(self, blobs: &dyn Blobs) -> Result<Entry, TreesError> {
        match self {
            Self::Leaf(entry) => Ok(entry),
            Self::Inner(below) => {
                let entries = below
                    .into_iter()
                    .map(|(name, plot)| Ok((name, plot.save(blobs)?)))
                    .collect::<Result<Vec<_>, TreesError>>()?;
                Ok(Entry::Dir(save(blobs, &Tree::new(entries)?)?))
            }
        }
    }
}
