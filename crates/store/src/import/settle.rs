//! Fourth pass: directories become trees, leaves first. One in which nothing differs from what is remembered
//! is not encoded again.

use quern_core::port::{Blobs, PortError};
use quern_core::tree::Entry;
use quern_core::{ContentRef, Tree, TreeError};

use super::list::{Folder, Listing};
use super::memory::Code;
use super::survey::Found;
use super::{Failure, Flaw, FlawReason, ImportError, Scene};
use crate::workspace::spread::{SERIAL, spread};

/// The tree of every directory, by index.
pub(super) fn settle(scene: &Scene<'_>, listing: &Listing<'_>) -> Result<Vec<ContentRef>, ImportError> {
    let folders = &listing.folders;
    let mut trees = vec![Tree::default().content_ref(); folders.len()];
    for level in listing.levels.iter().rev() {
        let names: usize = folders[level.clone()].iter().map(Folder::len).sum();
        let grain = if names < 1000 { SERIAL } else { 1 };
        let settled = spread(&folders[level.clone()], grain, |folder| settle_one(scene, folder, &trees));
        trees[level.clone()].copy_from_slice(&super::all_or_flaws(settled)?);
    }
    Ok(trees)
}

fn settle_one(scene: &Scene<'_>, folder: &Folder<'_>, trees: &[ContentRef]) -> Result<ContentRef, Failure> {
    if let Some(before) = folder.before.filter(|_| folder.is_as_before() && !scene.doubtful) {
        let same = |(at, child): &(usize, usize)| before.entry(*at).content() == trees[*child];
        if !folder.has_news() && folder.children.iter().all(same) {
            return Ok(before.tree());
        }
    }
    let entries = entries(folder, trees);
    let tree = Tree::new(entries).map_err(|error| flaw_of(folder, error))?;
    Ok(put_tree(scene.blobs, &tree)?)
}

/// All wanted names with what they stand for: as found, a directory, or as remembered.
fn entries(folder: &Folder<'_>, trees: &[ContentRef]) -> Vec<(String, Entry)> {
    let mut found = folder.found.iter().peekable();
    let mut children = folder.children.iter().peekable();
    let mut entries = Vec::with_capacity(folder.len());
    for position in 0..folder.len() {
        let name = folder.name(position);
        if !name.wanted {
            continue;
        }
        let entry = if let Some((_, what)) = found.next_if(|(at, _)| *at == position) {
            found_entry(what)
        } else if let Some((_, child)) = children.next_if(|(at, _)| *at == position) {
            Some(Entry::Dir(trees[*child]))
        } else {
            folder.before.zip(name.before).and_then(|(before, at)| {
                let entry = before.entry(at);
                let Code::File { executable, .. } = entry.code else { return None };
                Some(Entry::File { content: entry.content(), executable })
            })
        };
        entries.extend(entry.map(|entry| (name.text.to_owned(), entry)));
    }
    entries
}

fn found_entry(found: &Found) -> Option<Entry> {
    match found {
        Found::File { executable, content, .. } => {
            content.map(|content| Entry::File { content, executable: *executable })
        }
        Found::Link { target, .. } => Some(Entry::Link(target.clone())),
    }
}

fn flaw_of(folder: &Folder<'_>, error: TreeError) -> Flaw {
    match error {
        TreeError::Name { name, reason } => {
            Flaw::new(format!("{}/{name}", folder.path.as_str()), FlawReason::Path(reason))
        }
        TreeError::Order { .. } | TreeError::Encoding(_) => Flaw::new(&folder.path, FlawReason::Changing),
    }
}

/// Stores the canonical bytes of a tree.
pub(crate) fn put_tree(blobs: &dyn Blobs, tree: &Tree) -> Result<ContentRef, PortError> {
    blobs.put(&tree.encode())
}
