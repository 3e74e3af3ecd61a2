//! What turns one tree into another one, directory by directory.

use quern_core::port::{Blobs, PortError};
use quern_core::tree::Entry;
use quern_core::{Digest, TreePath};

use super::read_tree;
use super::spread::{SERIAL, spread};

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

/// Two versions of one directory.
struct Pair {
    dir: TreePath,
    /// None if the directory is new.
    from: Option<Digest>,
    to: Digest,
}

/// What differs between them.
struct Compared {
    change: Change,
    /// Directories in both that differ, and new ones.
    below: Vec<Pair>,
    /// Entries of the old one that end.
    gone: Vec<Entry>,
}

/// All changes from one tree (none: nothing at all, not even the root) to another. Reads
/// only directories that differ.
pub(super) fn changes(blobs: &dyn Blobs, from: Option<&Digest>, to: &Digest) -> Result<Changes, PortError> {
    let mut changes = Changes::default();
    let mut level = vec![Pair { dir: TreePath::root(), from: from.copied(), to: *to }];
    level.retain(|pair| pair.from != Some(pair.to));
    while !level.is_empty() {
        let grain = if level.len() < 8 { SERIAL } else { 2 };
        let compared = spread(&level, grain, |pair| compare(blobs, pair));
        level.clear();
        for compared in compared {
            let Compared { change, mut below, gone } = compared?;
            level.append(&mut below);
            changes.removed += weight(blobs, gone)?;
            changes.added += change.write.iter().map(|(_, entry)| size(entry)).sum::<u64>();
            if change.fresh || !change.remove.is_empty() || !change.write.is_empty() {
                changes.list.push(change);
            }
        }
    }
    Ok(changes)
}

fn compare(blobs: &dyn Blobs, pair: &Pair) -> Result<Compared, PortError> {
    let old = pair.from.map(|digest| read_tree(blobs, &digest)).transpose()?;
    let change =
        Change { dir: pair.dir.clone(), fresh: old.is_none(), remove: Vec::new(), write: Vec::new() };
    let mut compared = Compared { change, below: Vec::new(), gone: Vec::new() };
    let mut old = old.unwrap_or_default().into_entries().into_iter().peekable();
    for (name, entry) in read_tree(blobs, &pair.to)?.into_entries() {
        while let Some((name, entry)) = old.next_if(|(other, _)| *other < name) {
            compared.remove(name, entry);
        }
        let before = old.next_if(|(other, _)| *other == name).map(|(_, before)| before);
        if before.as_ref() != Some(&entry) {
            compared.replace(name, before, entry)?;
        }
    }
    for (name, entry) in old {
        compared.remove(name, entry);
    }
    Ok(compared)
}

impl Compared {
    fn remove(&mut self, name: String, entry: Entry) {
        self.change.remove.push(name);
        self.gone.push(entry);
    }

    /// Puts an entry in the place of another one or of nothing.
    fn replace(&mut self, name: String, before: Option<Entry>, entry: Entry) -> Result<(), PortError> {
        match (before, entry) {
            (Some(Entry::Dir(from)), Entry::Dir(to)) => self.enter(&name, Some(from.digest), to.digest)?,
            (before, Entry::Dir(to)) => {
                self.enter(&name, None, to.digest)?;
                if let Some(before) = before {
                    self.remove(name, before);
                }
            }
            (Some(before @ Entry::File { .. }), entry @ Entry::File { .. }) => {
                self.gone.push(before);
                self.change.write.push((name, entry));
            }
            (before, entry) => {
                if let Some(before) = before {
                    self.remove(name.clone(), before);
                }
                self.change.write.push((name, entry));
            }
        }
        Ok(())
    }

    fn enter(&mut self, name: &str, from: Option<Digest>, to: Digest) -> Result<(), PortError> {
        let dir = self.change.dir.child(name).map_err(|e| PortError::Other(e.to_string()))?;
        self.below.push(Pair { dir, from, to });
        Ok(())
    }
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
