//! Setting and removing many paths of a tree at once; only directories that contain one of them are rewritten.

use std::collections::BTreeMap;

use quern_core::port::Blobs;
use quern_core::{ContentRef, Entry, Tree, TreePath};

use super::{TreesError, below, kind, open, save};

/// What is to become of some paths. The paths are kept as names, in whose order everything below a directory stands
/// together.
#[derive(Debug, Default)]
pub struct Edits {
    actions: BTreeMap<Vec<String>, Action>,
}

#[derive(Debug)]
enum Action {
    Set(Entry),
    Remove { prune: bool },
}

/// A run of edits whose paths begin alike.
type Run<'a> = [(&'a [String], &'a Action)];

impl Edits {
    /// Puts an entry at a path, in place of one of the same kind. Directories above it are made.
    pub fn set(&mut self, path: &TreePath, entry: Entry) {
        self.actions.insert(names(path), Action::Set(entry));
    }

    /// Removes what is at a path, with everything below. The directory it was in stays, even empty.
    pub fn remove(&mut self, path: &TreePath) {
        self.actions.insert(names(path), Action::Remove { prune: false });
    }

    /// Removes what is at a path, and the directories above it that become empty by this.
    pub fn remove_and_prune(&mut self, path: &TreePath) {
        self.actions.insert(names(path), Action::Remove { prune: true });
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }
}

fn names(path: &TreePath) -> Vec<String> {
    path.names().map(str::to_owned).collect()
}

/// The tree after the edits. Of edits to a path and to one below it, the upper one comes first. Removing what is not
/// there does nothing.
///
/// # Errors
/// [`TreesError::Kind`] if a directory would replace something else or the reverse; those of the store.
pub fn edit(blobs: &dyn Blobs, root: &ContentRef, edits: &Edits) -> Result<ContentRef, TreesError> {
    let run: Vec<_> = edits.actions.iter().map(|(names, action)| (names.as_slice(), action)).collect();
    if run.is_empty() {
        return Ok(*root);
    }
    let path = TreePath::root();
    match entry_after(blobs, &path, Some(Entry::Dir(*root)), &run)?.entry {
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

/// The entry at a path after the edits to it and below it, whose names are given from here on.
fn entry_after(
    blobs: &dyn Blobs,
    path: &TreePath,
    entry: Option<Entry>,
    run: &Run<'_>,
) -> Result<Left, TreesError> {
    let (here, run) = match run {
        [([], action), rest @ ..] => (Some(*action), rest),
        _ => (None, run),
    };
    let (entry, prune) = match (here, entry) {
        (None, entry) => (entry, false),
        (Some(Action::Remove { prune }), entry) => (None, *prune && entry.is_some()),
        (Some(Action::Set(new)), Some(old)) if is_dir(new) != is_dir(&old) => {
            return Err(TreesError::Kind { path: path.clone(), there: kind(&old), wanted: kind(new) });
        }
        (Some(Action::Set(new)), _) => (Some(new.clone()), false),
    };
    if run.is_empty() {
        return Ok(Left { entry, prune });
    }
    let tree = match &entry {
        Some(Entry::Dir(dir)) => open(blobs, dir)?,
        Some(other) if run.iter().any(|(_, action)| matches!(action, Action::Set(_))) => {
            return Err(TreesError::Kind { path: path.clone(), there: kind(other), wanted: "directory" });
        }
        Some(_) => return Ok(Left { entry, prune }),
        None => Tree::default(),
    };
    let existed = entry.is_some();
    let (tree, pruned) = tree_after(blobs, path, tree, run)?;
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
    run: &Run<'_>,
) -> Result<(Tree, bool), TreesError> {
    let mut old = tree.into_entries().into_iter().peekable();
    let mut entries = Vec::with_capacity(old.len());
    let mut pruned = false;
    for same in run.chunk_by(|a, b| a.0[0] == b.0[0]) {
        let name = &same[0].0[0];
        while let Some(untouched) = old.next_if(|(other, _)| other < name) {
            entries.push(untouched);
        }
        let entry = old.next_if(|(other, _)| other == name).map(|(_, entry)| entry);
        let rest: Vec<_> = same.iter().map(|(names, action)| (&names[1..], *action)).collect();
        let left = entry_after(blobs, &below(path, name)?, entry, &rest)?;
        pruned |= left.prune;
        entries.extend(left.entry.map(|entry| (name.clone(), entry)));
    }
    entries.extend(old);
    Ok((Tree::new(entries)?, pruned))
}

const fn is_dir(entry: &Entry) -> bool {
    matches!(entry, Entry::Dir(_))
}
