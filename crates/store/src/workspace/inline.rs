//! Small trees, to be written by the sandbox itself into memory.

use quern_core::port::{Blobs, InlineEntry, PortError};
use quern_core::tree::Entry;
use quern_core::{Tree, TreePath};

use super::read_tree;

/// Above either limit a directory on disk is cheaper, because it is made once for many steps.
const MAX_ENTRIES: usize = 64;
const MAX_BYTES: u64 = 256 << 10;

/// All entries of a tree, parents first; none if there are too many or they are too large.
pub(super) fn entries(blobs: &dyn Blobs, root: &Tree) -> Result<Option<Vec<InlineEntry>>, PortError> {
    let Some(found) = survey(blobs, root)? else { return Ok(None) };
    let entries = found.into_iter().map(|(path, entry)| {
        Ok(match entry {
            Entry::Dir(_) => InlineEntry::Dir(path),
            Entry::Link(target) => InlineEntry::Link { path, target },
            Entry::File { content, executable } => {
                InlineEntry::File { path, bytes: blobs.get(&content.digest)?, executable }
            }
        })
    });
    entries.collect::<Result<_, _>>().map(Some)
}

fn survey(blobs: &dyn Blobs, root: &Tree) -> Result<Option<Vec<(TreePath, Entry)>>, PortError> {
    let mut found: Vec<(TreePath, Entry)> = Vec::new();
    let mut bytes = 0;
    let mut at = 0;
    let mut tree = Some((TreePath::root(), root.clone()));
    while let Some((dir, entries)) = tree.take() {
        if found.len() + entries.entries().len() > MAX_ENTRIES {
            return Ok(None);
        }
        for (name, entry) in entries.into_entries() {
            if let Entry::File { content, .. } = &entry {
                bytes += content.size;
            }
            let path = dir.child(&name).map_err(|e| PortError::Other(e.to_string()))?;
            found.push((path, entry));
        }
        if bytes > MAX_BYTES {
            return Ok(None);
        }
        while tree.is_none() && at < found.len() {
            if let (path, Entry::Dir(content)) = &found[at] {
                tree = Some((path.clone(), read_tree(blobs, &content.digest)?));
            }
            at += 1;
        }
    }
    Ok(Some(found))
}
