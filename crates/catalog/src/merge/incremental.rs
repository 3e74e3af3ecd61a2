//! Changing a merged tree by the outputs that went and came.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use quern_core::port::Blobs;
use quern_core::{ContentRef, Digest, Entry, Tree, TreePath};

use super::{Contribution, MergeError, MergePolicy, Merged, Shared, merge_anew, settle};
use crate::tree::{Edits, TreesError, below, edit, open};

/// What is different from the merged tree of before. A datum whose output changed is in both lists.
#[derive(Debug, Clone, Copy)]
pub struct OutputChange<'a> {
    /// Outputs that were merged and no longer count.
    pub gone: &'a [(Digest, ContentRef)],
    /// Outputs to be merged.
    pub added: &'a [(Digest, ContentRef)],
}

/// The same as [`super::merge`] of all outputs, at a cost in proportion to the change.
///
/// Where an added output meets a path whose only contributor is not on record, or empty directories are
/// involved, or the policy is another one, there is nothing to go by: then every output is looked at again, which
/// `all` gives, ascending by key. Files made of the same contributions as before are taken over even so.
///
/// # Errors
/// [`MergeError`]; those of `all`.
pub fn remerge(
    blobs: &dyn Blobs,
    before: &Merged,
    change: &OutputChange<'_>,
    policy: MergePolicy,
    all: impl FnOnce() -> Vec<(Digest, ContentRef)>,
) -> Result<Merged, MergeError> {
    let mut trees = Decoded { blobs, known: HashMap::new() };
    let sketch = if before.shared.policy == policy { Sketch::new(&mut trees, before, change)? } else { None };
    let done = match sketch {
        Some(sketch) => sketch.draw(blobs, before)?,
        None => None,
    };
    done.map_or_else(|| merge_anew(blobs, Some(before), &all(), policy), Ok)
}

/// Directories read so far; neighbours in a change are mostly in the same ones.
struct Decoded<'a> {
    blobs: &'a dyn Blobs,
    known: HashMap<Digest, Tree>,
}

impl Decoded<'_> {
    fn get(&mut self, dir: &ContentRef) -> Result<&Tree, TreesError> {
        if !self.known.contains_key(&dir.digest) {
            let tree = open(self.blobs, dir)?;
            self.known.insert(dir.digest, tree);
        }
        Ok(&self.known[&dir.digest])
    }
}

/// What a change does to the paths of the tree.
struct Sketch {
    /// Paths of a single contributor that go.
    gone: BTreeSet<TreePath>,
    /// Paths of a single contributor that come.
    fresh: BTreeMap<TreePath, Entry>,
    shared: Shared,
    /// Shared paths whose contributors changed.
    touched: BTreeSet<TreePath>,
}

impl Sketch {
    /// None if the change cannot be judged from what is on record.
    fn new(
        trees: &mut Decoded<'_>,
        before: &Merged,
        change: &OutputChange<'_>,
    ) -> Result<Option<Self>, MergeError> {
        let mut sketch = Self {
            gone: BTreeSet::new(),
            fresh: BTreeMap::new(),
            shared: before.shared.clone(),
            touched: BTreeSet::new(),
        };
        for (key, output) in change.gone {
            for (path, _) in leaves(trees.blobs, output)? {
                if sketch.in_kept_directory(&path) {
                    return Ok(None);
                }
                match sketch.shared.paths.get_mut(&path) {
                    Some(contributions) => {
                        contributions.retain(|c| c.key != *key);
                        sketch.touched.insert(path);
                    }
                    None => drop(sketch.gone.insert(path)),
                }
            }
        }
        for (key, output) in change.added {
            for (path, entry) in leaves(trees.blobs, output)? {
                if !sketch.add(trees, &before.tree, *key, path, entry)? {
                    return Ok(None);
                }
            }
        }
        Ok(Some(sketch))
    }

    /// Whether the path could be judged.
    fn add(
        &mut self,
        trees: &mut Decoded<'_>,
        tree: &ContentRef,
        key: Digest,
        path: TreePath,
        entry: Entry,
    ) -> Result<bool, MergeError> {
        if self.in_kept_directory(&path) {
            return Ok(false);
        }
        if let Some(contributions) = self.shared.paths.get_mut(&path) {
            let at = contributions.partition_point(|c| c.key < key);
            contributions.insert(at, Contribution { key, entry });
            self.touched.insert(path);
            return Ok(true);
        }
        let free = !self.fresh.contains_key(&path) && self.is_free(trees, tree, &path)?;
        if free {
            self.fresh.insert(path, entry);
        }
        Ok(free)
    }

    /// Whether the path, or a directory above it, is one that stays although files in it go.
    fn in_kept_directory(&self, path: &TreePath) -> bool {
        let is_kept = |path: &TreePath| {
            let contributions = self.shared.paths.get(path);
            contributions.and_then(|list| list.first()).is_some_and(|c| matches!(c.entry, Entry::Dir(_)))
        };
        std::iter::successors(Some(path.clone()), TreePath::parent).any(|path| is_kept(&path))
    }

    /// Whether nobody has anything at the path that would meet what is added there: the old tree has nothing there, or
    /// what goes, and no file or empty directory above it that stays.
    fn is_free(
        &self,
        trees: &mut Decoded<'_>,
        root: &ContentRef,
        path: &TreePath,
    ) -> Result<bool, MergeError> {
        let mut dir = *root;
        let mut here = TreePath::root();
        for name in path.names() {
            let tree = trees.get(&dir)?;
            if tree.is_empty() && !here.is_root() {
                return Ok(self.gone.contains(&here));
            }
            here = here.child(name).map_err(TreesError::from)?;
            match tree.get(name) {
                None => return Ok(true),
                Some(Entry::Dir(below)) => dir = *below,
                Some(_) => return Ok(here == *path && self.gone.contains(path)),
            }
        }
        let empty = dir.size == 0;
        Ok(empty && self.gone.contains(path))
    }

    /// The new tree; none if two of the added outputs meet.
    fn draw(mut self, blobs: &dyn Blobs, before: &Merged) -> Result<Option<Merged>, MergeError> {
        let mut edits = Edits::default();
        for path in &self.gone {
            edits.remove_and_prune(path);
        }
        for (path, entry) in &self.fresh {
            edits.set(path, entry.clone());
        }
        if self.has_nested_paths() {
            return Ok(None);
        }
        for path in &self.touched {
            let contributions = &self.shared.paths[path];
            match contributions.as_slice() {
                [] => edits.remove_and_prune(path),
                [only] if matches!(only.entry, Entry::Dir(_)) => return Ok(None),
                [only] => edits.set(path, only.entry.clone()),
                several => edits.set(path, settle(blobs, path, several, self.shared.policy)?),
            }
            if contributions.len() < 2 {
                self.shared.paths.remove(path);
            }
        }
        match edit(blobs, &before.tree, &edits) {
            Ok(tree) => Ok(Some(Merged { tree, shared: self.shared })),
            Err(TreesError::Kind { .. }) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    /// Whether one added path lies below another, as with a directory that is empty in one output only.
    fn has_nested_paths(&self) -> bool {
        self.fresh.keys().chain(&self.touched).any(|path| {
            let above = std::iter::successors(path.parent(), TreePath::parent);
            above.into_iter().any(|above| self.fresh.contains_key(&above))
        })
    }
}

/// Files, links and empty directories of an output.
fn leaves(blobs: &dyn Blobs, output: &ContentRef) -> Result<Vec<(TreePath, Entry)>, MergeError> {
    let mut found = Vec::new();
    let mut to_visit = vec![(TreePath::root(), *output)];
    while let Some((path, dir)) = to_visit.pop() {
        for (name, entry) in open(blobs, &dir)?.into_entries() {
            let path = below(&path, &name)?;
            match entry {
                Entry::Dir(dir) if dir.size > 0 => to_visit.push((path, dir)),
                leaf => found.push((path, leaf)),
            }
        }
    }
    Ok(found)
}
