//! What a tree of files looks like to whoever selects, hashes or copies from it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use quern_core::{Digest, DigestWriter};

/// What stands behind a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A socket.
    Socket,
}

/// Everything about a file but its name, link target, extended attributes and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with set-user-id, set-group-id and sticky: at most 0o7777. 0o777 for a link.
    pub mode: u32,
    /// Number of the owner.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Bytes of a regular file, 0 for anything else.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub modified: i64,
    /// Major and minor number of a device, else 0.
    pub device: (u32, u32),
    /// Names of the same source with equal `inode` are hard links of one file if `links` is more than 1.
    pub inode: Inode,
    /// How many names the file has on its file system, also outside the source; 1 where that is not known.
    pub links: u32,
    /// Change time in nanoseconds since 1970; 0 where files never change.
    pub changed: i64,
}

/// Identity of a file on this machine while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Inode {
    /// Device of the file system.
    pub dev: u64,
    /// Number on it.
    pub ino: u64,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name: any bytes but `/` and NUL, never `.` or `..`.
    pub name: OsString,
    /// What stands behind it, links not followed.
    pub stat: Stat,
}

/// What [`FileSource::content`] tells of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Of its bytes.
    pub digest: Digest,
    /// Whether [`FileSource::xattrs`] may have anything to tell.
    pub xattrs: bool,
}

/// Extended attributes in ascending order of their names.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A tree of files that can be looked at, listed and read.
///
/// Paths are relative to the root of the tree and made of plain names: `usr/bin/env`, the root itself is the empty path.
/// There is no `.`, no `..` and no `/` at either end. No method follows symbolic links: a path that leads
/// through one is absent. [`super::resolve`] follows them, inside the tree.
pub trait FileSource: Send + Sync {
    /// What stands at a path; none if nothing does.
    ///
    /// # Errors
    /// If it cannot be looked at.
    fn stat(&self, path: &Path) -> Result<Option<Stat>, SourceError>;

    /// The names in a directory, ascending by their bytes.
    ///
    /// # Errors
    /// [`SourceError::Absent`] if there is no directory, or if it cannot be read.
    fn list(&self, dir: &Path) -> Result<Vec<Entry>, SourceError>;

    /// The target of a symbolic link, as it is written there.
    ///
    /// # Errors
    /// [`SourceError::Absent`] if there is no link, or if it cannot be read.
    fn target(&self, path: &Path) -> Result<PathBuf, SourceError>;

    /// Opens a regular file for reading, extended attributes included.
    ///
    /// # Errors
    /// [`SourceError::Absent`] if there is no such file, or if it cannot be opened.
    fn open(&self, path: &Path) -> Result<File, SourceError>;

    /// Extended attributes of anything but a link. Those for which [`super::keeps_xattr`] is false are left out.
    ///
    /// # Errors
    /// If they cannot be read.
    fn xattrs(&self, path: &Path) -> Result<Xattrs, SourceError>;

    /// Where the regular file at `path` lies as a file that nobody ever changes, so that it may be hard-linked.
    fn immutable(&self, path: &Path) -> Option<PathBuf> {
        let _ = path;
        None
    }

    /// The digest of the bytes of a regular file, or of no bytes for a directory, that was seen as `stat`; called from several
    /// threads. Sources that are read again and again remember it.
    ///
    /// # Errors
    /// [`SourceError::Changed`] if the file is not the one that was seen, or if it cannot be read.
    fn content(&self, path: &Path, stat: &Stat) -> Result<Content, SourceError> {
        let digest = match stat.kind {
            FileKind::Dir => Digest::of(b""),
            _ => digest_of(&mut self.open(path)?).map_err(|e| SourceError::io(path, e))?,
        };
        Ok(Content { digest, xattrs: true })
    }

    /// Whether the bytes just read from `file`, opened by [`Self::open`], are those for which [`Self::content`] answered.
    ///
    /// # Errors
    /// If the file cannot be looked at.
    fn witness(&self, path: &Path, stat: &Stat, file: &File) -> Result<Witness, SourceError> {
        let _ = (path, stat, file);
        Ok(Witness::Same)
    }

    /// What helps to understand why nothing stands at a path.
    fn absence(&self, path: &Path) -> Absence {
        let beside = self.list(path.parent().unwrap_or(Path::new(""))).unwrap_or_default();
        Absence { ignored: false, beside: beside.into_iter().map(|entry| entry.name).collect() }
    }
}

/// See [`FileSource::absence`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Absence {
    /// Something is there, but kept out of the source by ignore rules.
    pub ignored: bool,
    /// The names in the directory it would be in.
    pub beside: Vec<OsString>,
}

/// What is known of bytes that were read from a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// They are those that were seen.
    Same,
    /// They are if they have this digest.
    IfDigest(Digest),
    /// They are not.
    Changed,
}

/// Why a source could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing of the kind that was asked for is there.
    #[error("`{}` is not there", shown(.0))]
    Absent(PathBuf),
    /// It was written to or replaced after it was first looked at.
    #[error("`{}` changed while it was read; try again when nobody writes to it", shown(.0))]
    Changed(PathBuf),
    /// It could not be read.
    #[error("cannot read `{}`: {source}", shown(path))]
    Io {
        /// Path in the source.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What it is made of is damaged or gone.
    #[error("cannot read `{}`: {reason}", shown(path))]
    Damaged {
        /// Path in the source.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl SourceError {
    /// An input or output error at a path.
    pub fn io(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.to_owned(), source: source.into() }
    }
}

/// A path as people may see it: unprintable characters escaped, the root as `/`.
pub(super) fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() {
        return "/".to_owned();
    }
    path.to_string_lossy().escape_debug().to_string()
}

/// The digest of everything that can still be read from a file.
pub(super) fn digest_of(file: &mut impl io::Read) -> io::Result<Digest> {
    let mut writer = DigestWriter::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(writer.finish()),
            Ok(read) => writer.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether an extended attribute is part of a file: labels of security modules, access lists and the marks of overlayfs are not,
/// file capabilities are. (BuildKit's rule for content digests, applied to copies as well.)
pub fn keeps_xattr(name: &[u8]) -> bool {
    let with = |prefix: &[u8]| name.starts_with(prefix);
    let overlay = with(b"trusted.overlay.") || with(b"user.overlay.");
    name == b"security.capability" || !(with(b"security.") || with(b"system.") || overlay)
}
