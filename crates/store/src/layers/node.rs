//! A file of a view, with everything a layer keeps of it.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};

use super::{contents::Contents, marks, reach};
use crate::files::{FileKind, Inode, Stat, Xattrs, keeps_xattr};

/// How the owners of files on disk are those that steps see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owners {
    /// The same numbers.
    #[default]
    Same,
    /// A step's root is this user and group, as in a user namespace with nobody else. Others are nobody's (65534).
    Root {
        /// The user on disk.
        uid: u32,
        /// The group on disk.
        gid: u32,
    },
}

impl Owners {
    /// Those of the current user's steps: root sees the disk as it is, others are the one user of their namespace.
    pub fn of_current_user() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() { Self::Same } else { Self::Root { uid: uid.as_raw(), gid: gid.as_raw() } }
    }

    /// What steps see of an owner on disk.
    pub(crate) fn seen(self, uid: u32, gid: u32) -> (u32, u32) {
        const NOBODY: u32 = 65534;
        match self {
            Self::Same => (uid, gid),
            Self::Root { uid: user, gid: group } => {
                (if uid == user { 0 } else { NOBODY }, if gid == group { 0 } else { NOBODY })
            }
        }
    }

    /// The owner a new file on disk has to be given so that steps see this one; none if it has it already.
    pub(crate) fn to_set(self, owner: (u32, u32)) -> Option<(u32, u32)> {
        match self {
            Self::Root { .. } if owner == (0, 0) => None,
            // The kernel refuses what only root may do.
            _ => Some(owner),
        }
    }
}

/// What the kernel says of a file, in the words of [`crate::files`]. Files of layers never change.
pub(super) fn stat_of(found: &rustix::fs::Stat, owners: Owners) -> Stat {
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Link,
        FileType::CharacterDevice => FileKind::Char,
        FileType::BlockDevice => FileKind::Block,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::RegularFile | FileType::Unknown => FileKind::File,
    };
    let (uid, gid) = owners.seen(found.st_uid, found.st_gid);
    let device = (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev));
    Stat {
        kind,
        mode: found.st_mode & 0o7777,
        uid,
        gid,
        size: if kind == FileKind::File { u64::try_from(found.st_size).unwrap_or(0) } else { 0 },
        modified: modified(found),
        device: if matches!(kind, FileKind::Char | FileKind::Block) { device } else { (0, 0) },
        inode: Inode {
            dev: u64::from(rustix::fs::major(found.st_dev)) << 32
                | u64::from(rustix::fs::minor(found.st_dev)),
            ino: found.st_ino,
        },
        links: u32::try_from(found.st_nlink).unwrap_or(u32::MAX),
        changed: 0,
    }
}

/// Nanoseconds since 1970.
pub(super) fn modified(found: &rustix::fs::Stat) -> i64 {
    let nanos = i64::try_from(found.st_mtime_nsec).unwrap_or(0);
    found.st_mtime.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// A file of a [`super::View`].
#[derive(Debug, Clone)]
pub struct Node {
    /// Where it is in the view, from its root, without a slash in front and without links; empty for the root.
    pub path: PathBuf,
    /// What it is.
    pub stat: Stat,
    /// The directory of the layer it comes from.
    pub(super) layer: Arc<Path>,
    /// Of a directory: the layers that have a part of it, by number, uppermost first.
    pub(super) parts: Vec<u32>,
}

impl Node {
    /// The root of no layers at all.
    pub(super) fn nothing() -> Self {
        let stat = Stat {
            kind: FileKind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            modified: 0,
            device: (0, 0),
            inode: Inode::default(),
            links: 1,
            changed: 0,
        };
        Self { path: PathBuf::new(), stat, layer: Arc::from(Path::new("")), parts: Vec::new() }
    }

    /// Whether it is the root of no layers at all, which is nowhere on disk.
    pub(super) fn is_nothing(&self) -> bool {
        self.layer.as_os_str().is_empty()
    }

    /// Where it is on disk. It may be read and, except for directories, hard-linked from a draft; whoever changes it or a link to
    /// it changes a committed layer.
    pub fn real_path(&self) -> PathBuf {
        self.layer.join(&self.path)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.stat.kind == FileKind::Dir
    }

    /// The contents of a regular file.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn contents(&self) -> io::Result<Contents> {
        Contents::open(&self.real_path(), self.stat.size)
    }

    /// A regular file or directory, opened for reading.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn open(&self) -> io::Result<File> {
        Ok(reach::open(&self.real_path(), OFlags::RDONLY)?.into())
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Those of reading it; it fails for anything else.
    pub fn target(&self) -> io::Result<PathBuf> {
        Ok(reach::read_link(&self.real_path())?)
    }

    /// Its extended attributes that are part of a file, see [`keeps_xattr`].
    ///
    /// # Errors
    /// Those of reading them.
    pub fn xattrs(&self) -> io::Result<Xattrs> {
        self.attributes_if(keeps_xattr)
    }

    /// The same, and access lists: what another directory on this machine needs to be alike.
    pub(super) fn attributes(&self) -> io::Result<Xattrs> {
        self.attributes_if(|name| keeps_xattr(name) || name.starts_with(b"system.posix_acl_"))
    }

    fn attributes_if(&self, counts: impl Fn(&[u8]) -> bool) -> io::Result<Xattrs> {
        if self.is_nothing() {
            return Ok(Vec::new());
        }
        let path = self.real_path();
        let names = marks::names(&path)?.into_iter().filter(|name| counts(name.as_bytes()));
        names.map(|name| Ok((name.as_bytes().to_vec(), marks::value(&path, &name)?))).collect()
    }
}
