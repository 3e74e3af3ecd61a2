//! A layer, or a whole view, as the entries of an archive.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::contents::Contents;
use super::node::{Node, Owners};
use super::view::{View, ViewError, hides_what_is_below};
use crate::files::{FileKind, Inode, Xattrs};

/// Why a layer cannot be written as an archive.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// It cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// An attribute or link cannot be read.
    #[error("reading {}: {source}", path.display())]
    Io {
        /// Where, on disk.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How times are written; nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Times {
    /// As they are.
    #[default]
    Keep,
    /// None later than this; `SOURCE_DATE_EPOCH` asks for it.
    AtMost(i64),
    /// All the same.
    All(i64),
}

impl Times {
    fn of(self, time: i64) -> i64 {
        match self {
            Self::Keep => time,
            Self::AtMost(latest) => time.min(latest),
            Self::All(time) => time,
        }
    }
}

/// One entry of an archive.
#[derive(Debug, Clone)]
pub struct Change {
    /// From the root, without a slash in front. Of what removes: what is removed, or the directory that is emptied.
    pub path: PathBuf,
    /// What it is.
    pub kind: ChangeKind,
    /// Permission bits with set-user-id, set-group-id and sticky; 0 for what removes.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content changed last, nanoseconds since 1970.
    pub modified: i64,
    /// Extended attributes that go with images, sorted by name.
    pub xattrs: Xattrs,
    node: Option<Node>,
}

/// What an entry of an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// A regular file of so many bytes; [`Change::contents`] gives them.
    File {
        /// Its length.
        size: u64,
    },
    /// Another name for an entry that came before.
    HardLink {
        /// The path of that entry.
        target: PathBuf,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Its target, as it stands in the link.
        target: PathBuf,
    },
    /// A character device.
    CharDevice {
        /// Major and minor number.
        device: (u32, u32),
    },
    /// A block device.
    BlockDevice {
        /// Major and minor number.
        device: (u32, u32),
    },
    /// A named pipe.
    Fifo,
    /// Says that the layers below do not count for this name: a file `.wh.NAME` in an archive.
    Whiteout,
    /// Says that the layers below do not count for what is in this directory: a file `.wh..wh..opq` in it in an archive.
    Opaque,
}

impl Change {
    /// The bytes of a [`ChangeKind::File`].
    ///
    /// # Errors
    /// Those of opening it; it fails for anything else.
    pub fn contents(&self) -> io::Result<Contents> {
        match (&self.node, &self.kind) {
            (Some(node), ChangeKind::File { .. }) => node.contents(),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "only files have contents")),
        }
    }

    /// Where it is on disk; none for what removes.
    pub fn real_path(&self) -> Option<PathBuf> {
        self.node.as_ref().map(Node::real_path)
    }

    /// An entry that removes.
    fn removal(path: PathBuf, kind: ChangeKind, modified: i64) -> Self {
        Self { path, kind, mode: 0, uid: 0, gid: 0, modified, xattrs: Vec::new(), node: None }
    }
}

/// The entries of an archive, in an order that is the same for the same files: parents before their children, siblings in
/// byte order, and what removes before what is there. Sockets are left out, as every builder does; the root has no entry.
///
/// A directory that overlayfs copied up only because something below it changed has an entry as well. After an error the
/// entries end.
pub struct Changes {
    view: View,
    /// Whether what it removes is told.
    is_layer: bool,
    times: Times,
    begun: bool,
    /// What comes next is last.
    todo: Vec<Item>,
    /// Where inodes with several names came first.
    linked: HashMap<Inode, PathBuf>,
}

enum Item {
    Node(Node),
    Removal(Change),
}

impl Changes {
    /// What the directory of a layer adds and removes.
    pub fn of_layer(dir: &Path, owners: Owners, times: Times) -> Self {
        Self::new(View::new(&[dir.to_owned()]).with_owners(owners), true, times)
    }

    /// Everything in a view, as one layer that stands on nothing.
    pub fn of_view(view: &View, times: Times) -> Self {
        Self::new(view.clone(), false, times)
    }

    fn new(view: View, is_layer: bool, times: Times) -> Self {
        Self { view, is_layer, times, begun: false, todo: Vec::new(), linked: HashMap::new() }
    }

    fn step(&mut self) -> Result<Option<Change>, ChangesError> {
        if !self.begun {
            self.begun = true;
            let root = self.view.root()?;
            self.enter(&root, false)?;
        }
        while let Some(item) = self.todo.pop() {
            match item {
                Item::Removal(change) => return Ok(Some(change)),
                Item::Node(node) if node.stat.kind == FileKind::Socket => {}
                Item::Node(node) => return Ok(Some(self.change(node)?)),
            }
        }
        Ok(None)
    }

    /// What is there, as an entry.
    fn change(&mut self, node: Node) -> Result<Change, ChangesError> {
        let stat = node.stat;
        let place = node.real_path();
        let failed = |source| ChangesError::Io { path: place.clone(), source };
        let kind = match stat.kind {
            FileKind::Dir => ChangeKind::Dir,
            _ if stat.links > 1 && self.linked.contains_key(&stat.inode) => {
                ChangeKind::HardLink { target: self.linked[&stat.inode].clone() }
            }
            FileKind::Link => ChangeKind::Symlink { target: node.target().map_err(failed)? },
            FileKind::Char => ChangeKind::CharDevice { device: stat.device },
            FileKind::Block => ChangeKind::BlockDevice { device: stat.device },
            FileKind::Fifo => ChangeKind::Fifo,
            FileKind::File | FileKind::Socket => ChangeKind::File { size: stat.size },
        };
        if stat.links > 1 && !node.is_dir() {
            self.linked.entry(stat.inode).or_insert_with(|| node.path.clone());
        }
        let mut xattrs = Vec::new();
        if !matches!(kind, ChangeKind::HardLink { .. }) {
            xattrs = node.xattrs().map_err(failed)?;
            // Only root can write these, and only on this machine they mean anything.
            xattrs.retain(|(name, _)| !name.starts_with(b"trusted."));
        }
        if node.is_dir() {
            let opaque = self.is_layer && hides_what_is_below(&place)?;
            self.enter(&node, opaque)?;
        }
        Ok(Change {
            path: node.path.clone(),
            kind,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            modified: self.times.of(stat.modified),
            xattrs,
            node: Some(node),
        })
    }

    /// Puts what is in a directory before everything else.
    fn enter(&mut self, dir: &Node, opaque: bool) -> Result<(), ChangesError> {
        let listing = self.view.list_raw(dir)?;
        self.todo.extend(listing.nodes.into_iter().rev().map(Item::Node));
        if !self.is_layer {
            return Ok(());
        }
        for (name, modified) in listing.whiteouts.into_iter().rev() {
            let (path, modified) = (dir.path.join(name), self.times.of(modified));
            self.todo.push(Item::Removal(Change::removal(path, ChangeKind::Whiteout, modified)));
        }
        if opaque {
            let (path, modified) = (dir.path.clone(), self.times.of(dir.stat.modified));
            self.todo.push(Item::Removal(Change::removal(path, ChangeKind::Opaque, modified)));
        }
        Ok(())
    }
}

impl Iterator for Changes {
    type Item = Result<Change, ChangesError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.todo.clear();
        }
        step.transpose()
    }
}
