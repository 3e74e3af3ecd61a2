//! Setting and removing many paths of a tree at once; only directories that contain one of them are rewritten.

use std::collections::BTreeMap;

use quern_core::port::Blobs;
use quern_core::{ContentRef, Entry, Tree, TreePath};

use super::{TreesError, kind, open, save};

/// What is to become of some paths, arranged as the tree they are in.
#[derive(Debug, Default)]
pub struct Edits {
    here: Option<Action>,
    below: BTreeMap<String, Edits>,
}

#[derive(Debug)]
enum Action {
    Set(Entry),
    Remove { prune: bool },
}

impl Edits {
    /// Puts an entry at a path, in place of one of the same kind. Directories above it are made.
    pub fn set(&mut self, path: &TreePath, entry: Entry) {
        self.at(path).here = Some(Action::Set(entry));
    }

    /// Removes what is at a path, with everything below. The directory it was in stays, even empty.
    pub fn remove(&mut self, path: &TreePath) {
        self.at(path).here = Some(Action::Remove { prune: false });
    }

    /// Removes what is at a path, and the directories above it that become empty by this.
    pub fn remove_and_prune(&mut self, path: &TreePath) {
        self.at(path).here = Some(Action::Remove { prune: true });
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.here.is_none() && self.below.is_empty()
    }

    fn at(&mut self, path: &TreePath) -> &mut Self {
        path.names().fold(self, |edits, name| edits.below.entry(name.to_owned()).or_default())
    }
}

/// The tree after the edits. Removing what is not there does nothing.
///
/// At the root, setting a directory replaces everything, and edits below are made in the new one.
///
/// # Errors
/// [`TreesError::Kind`] if a directory would replace something else or the reverse; those of the store.
pub fn edit(blobs: &dyn Blobs, root: &ContentRef, edits: &Edits) -> Result<ContentRef, TreesError> {
    let path = TreePath::root();
    match entry_after(blobs, &path, Some(Entry::Dir(*root)), edits)?.entry {
        Some(Entry::Dir(tree)) => Ok(tree),
        Some(other) => Err(TreesError::Kind { path, there: "directory", wanted: kind(&other) }),
        None => save(blobs, &Tree::default()),
    }
}

/// What an edit left at a path.
struct Left {
    entry: Option<Entry>,
    /// Whether a directory above that is now empty has to go.
    prune: bool,
}

fn entry_after(
    blobs: &dyn Blobs,
    path: &TreePath,
    entry: Option<Entry>,
    edits: &Edits,
) -> Result<Left, TreesError> {
    let (entry, prune) = match (&edits.here, entry) {
        (None, entry) => (entry, false),
        (Some(Action::Remove { prune }), entry) => (None, *prune && entry.is_some()),
        (Some(Action::Set(new)), Some(old)) if is_dir(new) != is_dir(&old) => {
            return Err(TreesError::Kind { path: path.clone(), there: kind(&old), wanted: kind(new) });
        }
        (Some(Action::Set(new)), _) => (Some(new.clone()), false),
    };
    if edits.below.is_empty() {
        return Ok(Left { entry, prune });
    }
    let tree = match &entry {
        Some(Entry::Dir(dir)) => open(blobs, dir)?,
        Some(other) => {
            let sets = edits.below.values().any(Edits::sets_something);
            if sets {
                return Err(TreesError::Kind { path: path.clone(), there: kind(other), wanted: "directory" });
            }
            return Ok(Left { entry, prune });
        }
        None => Tree::default(),
    };
    let existed = entry.is_some();
    let (tree, pruned) = tree_after(blobs, path, tree, edits)?;
    if tree.is_empty() && (pruned || !existed) {
        return Ok(Left { entry: None, prune: prune || pruned });
    }
    Ok(Left { entry: Some(Entry::Dir(save(blobs, &tree)?)), prune: false })
}

/// The directory after the edits below it, and whether an entry went that takes emptied directories with it.
fn tree_after(
    blobs: &dyn Blobs,
    path: &TreePath,
    tree: Tree,
    edits: &Edits,
) -> Result<(Tree, bool), TreesError> {
    let mut old = tree.into_entries().into_iter().peekable();
    let mut entries = Vec::with_capacity(old.len() + edits.below.len());
    let mut pruned = false;
    for (name, edits) in &edits.below {
        while let Some(untouched) = old.next_if(|(other, _)| other < name) {
            entries.push(untouched);
        }
        let entry = old.next_if(|(other, _)| other == name).map(|(_, entry)| entry);
        let left = entry_after(blobs, &path.child(name)?, entry, edits)?;
        pruned |= left.prune;
        entries.extend(left.entry.map(|entry| (name.clone(), entry)));
    }
    entries.extend(old);
    Ok((Tree::new(entries)?, pruned))
}

impl Edits {
    fn sets_something(&self) -> bool {
        matches!(self.here, Some(Action::Set(_))) || self.below.values().any(Self::sets_something)
    }
}

const fn is_dir(entry: &Entry) -> bool {
    matches!(entry, Entry::Dir(_))
}
