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

#[cfg(test)]
mod tests {
    use quern_testkit::MemBlobs;

    use super::*;
    use quern_core::Tree;

    /// A tree from `path=text` (file), `path>target` (link) and `path/` (empty directory).
    fn tree(blobs: &MemBlobs, text: &str) -> Digest {
        fn put(blobs: &MemBlobs, lines: &[(&str, &str)]) -> Digest {
            let mut tree = Tree::default();
            for (path, rest) in lines {
                let Some((dir, _)) = path.split_once('/') else {
                    let entry = match rest.split_at(1) {
                        ("=", text) => {
                            Entry::File { content: blobs.put(text.as_bytes()).unwrap(), executable: false }
                        }
                        (_, target) => Entry::Link(target.to_owned()),
                    };
                    tree.set(path, Some(entry)).unwrap();
                    continue;
                };
                let below: Vec<(&str, &str)> = lines
                    .iter()
                    .filter_map(|(path, rest)| Some((path.strip_prefix(dir)?.strip_prefix('/')?, *rest)))
                    .filter(|(path, _)| !path.is_empty())
                    .collect();
                let digest = put(blobs, &below);
                let size = blobs.get(&digest).unwrap().len() as u64;
                tree.set(dir, Some(Entry::Dir(quern_core::ContentRef { digest, size }))).unwrap();
            }
            blobs.put(&tree.encode()).unwrap().digest
        }
        let lines: Vec<(&str, &str)> = text
            .split_whitespace()
            .map(|line| line.split_at(line.find(['=', '>']).unwrap_or(line.len())))
            .collect();
        put(blobs, &lines)
    }

    fn check(from: &str, to: &str, expected: &[&str], bytes: (u64, u64)) {
        let blobs = MemBlobs::default();
        let changes = changes(&blobs, Some(&tree(&blobs, from)), &tree(&blobs, to)).unwrap();
        let shown: Vec<String> = changes
            .list
            .iter()
            .map(|change| {
                let new = if change.fresh { "new " } else { "" };
                let written: Vec<&str> = change.write.iter().map(|(name, _)| name.as_str()).collect();
                format!("{new}{}: -{} +{}", change.dir, change.remove.join(","), written.join(","))
            })
            .collect();
        assert_eq!(shown, expected, "{from} to {to}");
        assert_eq!((changes.added, changes.removed), bytes, "{from} to {to}");
    }

    #[test]
    fn only_what_differs_changes() {
        check("a=1 d/b=2", "a=1 d/b=2", &[], (0, 0));
        check("a=1 d/b=2", "a=1 d/b=33", &["/d: - +b"], (2, 1));
        check("a=1 d/b=2 e/c=4", "d/b=2 e/c=4", &["/: -a +"], (0, 1));
        check("d/e/f=123 d/e/g=4", "d/x=5", &["/d: -e +x"], (1, 4));
        check("", "d/e/f=1 g/", &["new /d: - +", "new /g: - +", "new /d/e: - +f"], (1, 0));
        check("a=1", "a/b=2", &["/: -a +", "new /a: - +b"], (1, 1));
        check("a/b=22", "a=1", &["/: -a +a"], (1, 2));
        check("a>x", "a=1", &["/: -a +a"], (1, 0));
        check("a=1", "a>x", &["/: -a +a"], (0, 1));
        check("a>x", "a>y", &["/: -a +a"], (0, 0));
        check("a=1", "", &["/: -a +"], (0, 1));
    }
}
