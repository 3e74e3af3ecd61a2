//! A directory on disk as it is, and the empty tree.

use std::ffi::OsString;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::source::{Entry, FileKind, FileSource, SourceError, Stat, Xattrs};
use super::{look, xattr};
use crate::workspace::beneath::{self, Through};

/// A directory that nobody changes while it is read, with owners and everything else as it is.
pub struct PlainTree {
    root: OwnedFd,
    place: PathBuf,
}

impl PlainTree {
    /// Opens a directory.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(place: &Path) -> Result<Self, SourceError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(place, flags, Mode::empty()).map_err(|e| SourceError::io(place, e))?;
        Ok(Self { root, place: place.to_owned() })
    }

    fn open_at(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, SourceError> {
        beneath::open(&self.root, path, Through::NoLinks, flags).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => SourceError::Absent(path.to_owned()),
            error => SourceError::io(path, error),
        })
    }
}

impl FileSource for PlainTree {
    fn stat(&self, path: &Path) -> Result<Option<Stat>, SourceError> {
        match self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(file) => look::look_at(file).map(Some).map_err(|error| SourceError::io(path, error)),
            Err(SourceError::Absent(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>, SourceError> {
        let open = self.open_at(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let entry = |name: OsString| look::look(&open, &name).map(|stat| Entry { name, stat });
        let entries = names(&open).and_then(|names| names.into_iter().map(entry).collect());
        let mut entries: Vec<Entry> = entries.map_err(|error| SourceError::io(dir, error))?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn target(&self, path: &Path) -> Result<PathBuf, SourceError> {
        target(&self.root, path).map_err(|error| SourceError::io(path, error))
    }

    fn open(&self, path: &Path) -> Result<File, SourceError> {
        let file = File::from(self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        let stat = look::look_at(&file).map_err(|error| SourceError::io(path, error))?;
        if stat.kind == FileKind::File { Ok(file) } else { Err(SourceError::Absent(path.to_owned())) }
    }

    fn xattrs(&self, path: &Path) -> Result<Xattrs, SourceError> {
        let file = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        xattr::read(&file).map_err(|error| SourceError::io(path, error))
    }

    fn immutable(&self, path: &Path) -> Option<PathBuf> {
        Some(self.place.join(path))
    }
}

/// The tree without any file: below the first layer, and below one that has to stand alone.
pub struct Nothing;

impl FileSource for Nothing {
    fn stat(&self, _: &Path) -> Result<Option<Stat>, SourceError> {
        Ok(None)
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>, SourceError> {
        Err(SourceError::Absent(dir.to_owned()))
    }

    fn target(&self, path: &Path) -> Result<PathBuf, SourceError> {
        Err(SourceError::Absent(path.to_owned()))
    }

    fn open(&self, path: &Path) -> Result<File, SourceError> {
        Err(SourceError::Absent(path.to_owned()))
    }

    fn xattrs(&self, path: &Path) -> Result<Xattrs, SourceError> {
        Err(SourceError::Absent(path.to_owned()))
    }
}

/// The names in an open directory, in no order.
pub(super) fn names(dir: impl AsFd) -> Result<Vec<OsString>, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 16384];
    let mut entries = RawDir::new(&dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(OsString::from_vec(entry.file_name().to_bytes().to_vec()));
        }
    }
    Ok(names)
}

/// The target of a link below an open directory.
pub(super) fn target(root: impl AsFd, path: &Path) -> Result<PathBuf, Errno> {
    let link = beneath::open(root, path, Through::NoLinks, OFlags::PATH | OFlags::NOFOLLOW)?;
    let target = rustix::fs::readlinkat(&link, c"", Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
}
