//! The output of a job: the outputs of its datums as one tree.
//!
//! Datums are taken in the order of their keys, so the result depends on nothing else. Directories are united;
//! what several files at one path become is the pipeline's [`MergePolicy`]; a file where another datum has a
//! directory is always an error. Links must be resolved before ([`crate::resolve_links`]).
//!
//! Beside the tree stands a record of the *shared* paths, those to which several datums contribute. With it a later job
//! takes outputs away and adds others at a cost in proportion to them ([`remerge`]).

use std::collections::BTreeMap;

use quern_core::port::{Blobs, PortError};
use quern_core::{ContentRef, Digest, Entry, Tree, TreePath};
use serde::{Deserialize, Serialize};

use crate::concat::concat;
use crate::tree::{TreesError, below, find, kind, open, save};

mod incremental;
mod stored;
pub use incremental::{OutputChange, remerge};

/// What several files at one path become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergePolicy {
    /// One after the other, by datum key; executable if one of them is.
    #[default]
    Concat,
    /// An error.
    Fail,
    /// The one of the datum with the highest key.
    Last,
}

/// Why outputs cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// Two datums disagree about a path.
    #[error("`{path}` is a {first_kind} in the output of datum {} and a {second_kind} in that of datum {}{}", .datums[0].short(), .datums[1].short(), hint(first_kind, second_kind))]
    Conflict {
        /// Where.
        path: TreePath,
        /// What the first datum has there.
        first_kind: &'static str,
        /// What the second datum has there.
        second_kind: &'static str,
        /// Keys of the two datums.
        datums: Box<[Digest; 2]>,
    },
    /// A stored record of shared paths that cannot be read.
    #[error("the record of shared paths cannot be read: {0}; run the pipeline again with --reprocess")]
    Record(String),
    /// The trees cannot be read or written.
    #[error(transparent)]
    Trees(#[from] TreesError),
}

fn hint(first: &str, second: &str) -> &'static str {
    if first == second { "; the pipeline says that no path may have two files" } else { "" }
}

impl From<PortError> for MergeError {
    fn from(error: PortError) -> Self {
        Self::Trees(error.into())
    }
}

/// A merged tree, and what is needed to change it later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The tree.
    pub tree: ContentRef,
    /// The paths to which several datums contribute.
    pub shared: Shared,
}

/// Who contributes to paths with several contributors.
///
/// A directory is listed with those datums in whose output it is empty, if other datums have it too: it then
/// stays when the files in it go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shared {
    /// The policy by which the tree was made of them.
    pub(crate) policy: MergePolicy,
    pub(crate) paths: BTreeMap<TreePath, Vec<Contribution>>,
}

/// What one datum has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contribution {
    pub key: Digest,
    pub entry: Entry,
}

/// Merges outputs, given ascending by datum key, each key once.
///
/// # Errors
/// [`MergeError`].
pub fn merge(
    blobs: &dyn Blobs,
    outputs: &[(Digest, ContentRef)],
    policy: MergePolicy,
) -> Result<Merged, MergeError> {
    merge_anew(blobs, None, outputs, policy)
}

/// The same; where the same datums contribute the same to a path as before, the file made of them is taken over.
fn merge_anew(
    blobs: &dyn Blobs,
    before: Option<&Merged>,
    outputs: &[(Digest, ContentRef)],
    policy: MergePolicy,
) -> Result<Merged, MergeError> {
    let shared = Shared { policy, paths: BTreeMap::new() };
    let before = before.filter(|before| before.shared.policy == policy);
    let mut merger = Merger { blobs, before, outputs, shared };
    let roots = outputs.iter().enumerate().map(|(datum, (_, tree))| (datum, *tree)).collect();
    let tree = merger.directory(&TreePath::root(), roots)?;
    let tree = if tree.size == 0 { save(blobs, &Tree::default())? } else { tree };
    Ok(Merged { tree, shared: merger.shared })
}

struct Merger<'a> {
    blobs: &'a dyn Blobs,
    before: Option<&'a Merged>,
    outputs: &'a [(Digest, ContentRef)],
    shared: Shared,
}

impl Merger<'_> {
    /// One directory that some datums have, given by their places in `outputs`, ascending.
    fn directory(
        &mut self,
        path: &TreePath,
        trees: Vec<(usize, ContentRef)>,
    ) -> Result<ContentRef, MergeError> {
        if let [(_, only)] = trees.as_slice() {
            return Ok(*only);
        }
        let mut entries: Vec<(String, usize, Entry)> = Vec::with_capacity(trees.len());
        for (datum, tree) in trees {
            if tree.size == 0 && !path.is_root() {
                let contribution = Contribution { key: self.outputs[datum].0, entry: Entry::Dir(tree) };
                self.shared.paths.entry(path.clone()).or_default().push(contribution);
            }
            let children = open(self.blobs, &tree)?.into_entries().into_iter();
            entries.extend(children.map(|(name, entry)| (name, datum, entry)));
        }
        // Stable: within a name the datums stay in order.
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let mut merged = Vec::new();
        let mut entries = entries.into_iter().peekable();
        while let Some((name, datum, entry)) = entries.next() {
            let mut same = vec![(datum, entry)];
            while let Some((_, datum, entry)) = entries.next_if(|next| next.0 == name) {
                same.push((datum, entry));
            }
            let entry = match same.len() {
                1 => same.remove(0).1,
                _ => self.together(&below(path, &name)?, same)?,
            };
            merged.push((name, entry));
        }
        Ok(save(self.blobs, &Tree::new(merged).map_err(TreesError::from)?)?)
    }

    /// A path that several datums have.
    fn together(&mut self, path: &TreePath, entries: Vec<(usize, Entry)>) -> Result<Entry, MergeError> {
        let dirs: Vec<(usize, ContentRef)> = entries
            .iter()
            .filter_map(
                |(datum, entry)| if let Entry::Dir(dir) = entry { Some((*datum, *dir)) } else { None },
            )
            .collect();
        if dirs.len() == entries.len() {
            return Ok(Entry::Dir(self.directory(path, dirs)?));
        }
        let contributions: Vec<Contribution> = entries
            .into_iter()
            .map(|(datum, entry)| Contribution { key: self.outputs[datum].0, entry })
            .collect();
        let entry = match self.as_before(path, &contributions)? {
            Some(entry) => entry,
            None => settle(self.blobs, path, &contributions, self.shared.policy)?,
        };
        self.shared.paths.insert(path.clone(), contributions);
        Ok(entry)
    }

    fn as_before(
        &self,
        path: &TreePath,
        contributions: &[Contribution],
    ) -> Result<Option<Entry>, MergeError> {
        match self.before {
            Some(before) if before.shared.paths.get(path).is_some_and(|known| known == contributions) => {
                Ok(find(self.blobs, &before.tree, path)?)
            }
            _ => Ok(None),
        }
    }
}

/// What several contributions to one path, ascending by key, become.
pub(crate) fn settle(
    blobs: &dyn Blobs,
    path: &TreePath,
    contributions: &[Contribution],
    policy: MergePolicy,
) -> Result<Entry, MergeError> {
    let (first, others) = contributions.split_first().expect("a shared path has contributions");
    let other_kind = |other: &&Contribution| kind(&first.entry) != kind(&other.entry);
    let not_wanted = |other: &&Contribution| match policy {
        MergePolicy::Concat => matches!(first.entry, Entry::Link(_)) && first.entry != other.entry,
        MergePolicy::Fail => true,
        MergePolicy::Last => false,
    };
    let conflict = others.iter().find(other_kind).or_else(|| others.iter().find(not_wanted));
    if let Some(other) = conflict {
        return Err(MergeError::Conflict {
            path: path.clone(),
            first_kind: kind(&first.entry),
            second_kind: kind(&other.entry),
            datums: Box::new([first.key, other.key]),
        });
    }
    let last = contributions.last().unwrap_or(first);
    match (policy, &first.entry) {
        (MergePolicy::Concat, Entry::File { .. }) => {
            let files: Vec<Entry> = contributions.iter().map(|c| c.entry.clone()).collect();
            Ok(concat(blobs, &files)?)
        }
        _ => Ok(last.entry.clone()),
    }
}
