//! What turns one tree into another one, directory by directory.

use quern_core::port::{Blobs, PortError};
use quern_core::tree::Entry;
use quern_core::{Digest, Tree, TreePath};

use super::read_tree;

/// What has to happen in one directory. Removals come first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Which directory.
    pub dir: TreePath,
    /// It does not exist yet.
    pub fresh: bool,
    /// Names to be removed, with all that is below them.
    pub remove: Vec<String>,
    /// Files and links to be written; those that replace a file are not in `remove`.
    pub write: Vec<(String, Entry)>,
}

/// All that turns one tree into another.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Parents before children.
    pub list: Vec<Change>,
    /// Bytes of all files to be written.
    pub added: u64,
    /// Bytes of all files that are overwritten or removed.
    pub removed: u64,
}

/// All changes from one tree (none: nothing at all, not even the root) to another. Reads
/// only directories that differ.
pub(super) fn changes(blobs: &dyn Blobs, from: Option<&Digest>, to: &Digest) -> Result<Changes, PortError> {
    let mut changes = Changes::default();
    let mut open = vec![(TreePath::root(), from.copied(), *to)];
    while let Some((dir, from, to)) = open.pop() {
        if from == Some(to) {
            continue;
        }
        let old = from.map(|digest| read_tree(blobs, &digest)).transpose()?;
        let mut change = Change { dir, fresh: old.is_none(), remove: Vec::new(), write: Vec::new() };
        let gone = compare(&mut change, old.unwrap_or_default(), read_tree(blobs, &to)?, &mut open)?;
        changes.removed += weight(blobs, gone)?;
        changes.added += change.write.iter().map(|(_, entry)| size(entry)).sum::<u64>();
        if change.fresh || !change.remove.is_empty() || !change.write.is_empty() {
            changes.list.push(change);
        }
    }
    Ok(changes)
}

/// Compares the entries of two directories and gives those of the old one that end; directories below that differ go
/// to `open`.
fn compare(
    change: &mut Change,
    old: Tree,
    new: Tree,
    open: &mut Vec<(TreePath, Option<Digest>, Digest)>,
) -> Result<Vec<Entry>, PortError> {
    let mut gone = Vec::new();
    let mut old = old.into_entries().into_iter().peekable();
    for (name, entry) in new.into_entries() {
        while let Some((name, entry)) = old.next_if(|(other, _)| *other < name) {
            change.remove.push(name);
            gone.push(entry);
        }
        let before = old.next_if(|(other, _)| *other == name).map(|(_, before)| before);
        if before.as_ref() == Some(&entry) {
            continue;
        }
        match (&before, entry) {
            (Some(Entry::Dir(from)), Entry::Dir(to)) => {
                open.push((child(&change.dir, &name)?, Some(from.digest), to.digest));
                continue;
            }
            (_, Entry::Dir(to)) => {
                open.push((child(&change.dir, &name)?, None, to.digest));
                change.remove.extend(before.is_some().then_some(name));
            }
            (Some(Entry::File { .. }), entry @ Entry::File { .. }) | (None, entry) => {
                change.write.push((name, entry));
            }
            (Some(_), entry) => {
                change.remove.push(name.clone());
                change.write.push((name, entry));
            }
        }
        gone.extend(before);
    }
    for (name, entry) in old {
        change.remove.push(name);
        gone.push(entry);
    }
    Ok(gone)
}

/// Bytes of all files at and below these entries.
fn weight(blobs: &dyn Blobs, mut open: Vec<Entry>) -> Result<u64, PortError> {
    let mut bytes = 0;
    while let Some(entry) = open.pop() {
        bytes += size(&entry);
        if let Entry::Dir(content) = entry {
            let below = read_tree(blobs, &content.digest)?;
            open.extend(below.into_entries().into_iter().map(|(_, entry)| entry));
        }
    }
    Ok(bytes)
}

/// Bytes of a file.
fn size(entry: &Entry) -> u64 {
    if let Entry::File { content, .. } = entry { content.size } else { 0 }
}

fn child(dir: &TreePath, name: &str) -> Result<TreePath, PortError> {
    dir.child(name).map_err(|e| PortError::Other(e.to_string()))
}
