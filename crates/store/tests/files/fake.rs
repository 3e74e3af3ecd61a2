//! A tree of files in memory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use quern_store::files::{Entry, FileKind, FileSource, Inode, SourceError, Stat, Xattrs};

/// One file of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub stat: Stat,
    pub bytes: Vec<u8>,
    pub target: PathBuf,
    pub xattrs: Xattrs,
}

/// A tree in memory; the root is always there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<PathBuf, Node>);

fn node(kind: FileKind, mode: u32) -> Node {
    let stat = Stat {
        kind,
        mode,
        uid: 0,
        gid: 0,
        size: 0,
        modified: 1_000_000_000,
        device: (0, 0),
        inode: Inode::default(),
        links: 1,
        changed: 0,
    };
    Node { stat, bytes: Vec::new(), target: PathBuf::new(), xattrs: Vec::new() }
}

impl Tree {
    pub fn new() -> Self {
        Self(BTreeMap::from([(PathBuf::new(), node(FileKind::Dir, 0o755))]))
    }

    /// `dir/`, `file=bytes` or `link>target`; directories above are made.
    pub fn of(items: &[&str]) -> Self {
        let mut tree = Self::new();
        for item in items {
            if let Some(path) = item.strip_suffix('/') {
                tree.put(path, node(FileKind::Dir, 0o755));
            } else if let Some((path, target)) = item.split_once('>') {
                tree.put(path, Node { target: target.into(), ..node(FileKind::Link, 0o777) });
            } else {
                let (path, bytes) = item.split_once('=').unwrap_or((item, ""));
                let mut file = node(FileKind::File, 0o644);
                file.bytes = bytes.as_bytes().to_vec();
                file.stat.size = bytes.len() as u64;
                tree.put(path, file);
            }
        }
        tree
    }

    pub fn put(&mut self, path: impl AsRef<Path>, node_there: Node) {
        let path = path.as_ref();
        for parent in path.ancestors().skip(1) {
            self.0.entry(parent.to_owned()).or_insert_with(|| node(FileKind::Dir, 0o755));
        }
        self.0.insert(path.to_owned(), node_there);
    }

    pub fn at(&mut self, path: &str) -> &mut Node {
        self.0.get_mut(Path::new(path)).unwrap()
    }
}

impl FileSource for Tree {
    fn stat(&self, path: &Path) -> Result<Option<Stat>, SourceError> {
        Ok(self.0.get(path).map(|node| node.stat))
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>, SourceError> {
        if self.0.get(dir).is_none_or(|node| node.stat.kind != FileKind::Dir) {
            return Err(SourceError::Absent(dir.to_owned()));
        }
        let below = self.0.iter().filter(|(path, _)| path.parent() == Some(dir));
        let entry = |(path, node): (&PathBuf, &Node)| Entry {
            name: OsString::from(path.file_name().unwrap()),
            stat: node.stat,
        };
        Ok(below.map(entry).collect())
    }

    fn target(&self, path: &Path) -> Result<PathBuf, SourceError> {
        match self.0.get(path) {
            Some(node) if node.stat.kind == FileKind::Link => Ok(node.target.clone()),
            _ => Err(SourceError::Absent(path.to_owned())),
        }
    }

    fn open(&self, path: &Path) -> Result<File, SourceError> {
        let node = self.0.get(path).filter(|node| node.stat.kind == FileKind::File);
        let node = node.ok_or_else(|| SourceError::Absent(path.to_owned()))?;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&node.bytes).unwrap();
        file.rewind().unwrap();
        for (name, value) in &node.xattrs {
            let name = std::ffi::CString::new(&**name).unwrap();
            rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty()).unwrap();
        }
        Ok(file)
    }

    fn xattrs(&self, path: &Path) -> Result<Xattrs, SourceError> {
        let node = self.0.get(path).ok_or_else(|| SourceError::Absent(path.to_owned()))?;
        Ok(node.xattrs.clone())
    }
}
