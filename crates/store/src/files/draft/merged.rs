//! What a container would see: the layer being written and what is below it, as one tree.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Draft;
use crate::files::source::{Entry, FileKind, FileSource, SourceError, Stat, Xattrs};
use crate::files::{look, plain, xattr};
use crate::workspace::beneath::{self, Through};

/// What the layer itself says of a path.
pub(super) enum InUpper {
    Here(Stat),
    /// It is gone, or hidden.
    Gone,
    /// What is below shows.
    Below,
}

impl Draft<'_> {
    /// Looks a path up in the layer alone.
    pub(super) fn in_upper(&self, path: &Path) -> Result<InUpper, SourceError> {
        let failed = |error: Errno| SourceError::io(path, error);
        let mut shows = true;
        let mut prefix = PathBuf::new();
        let mut names = path.iter().peekable();
        while let Some(name) = names.next() {
            prefix.push(name);
            if let Some(fresh) = self.dirs.get(&prefix).filter(|_| names.peek().is_some()) {
                shows &= !fresh;
                continue;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let file = match beneath::open(&self.upper, &prefix, Through::NoLinks, flags) {
                Err(Errno::NOENT) => return Ok(if shows { InUpper::Below } else { InUpper::Gone }),
                result => result.map_err(failed)?,
            };
            let stat = self.seen(look::look_at(&file).map_err(failed)?);
            if is_whiteout(&stat) {
                return Ok(InUpper::Gone);
            }
            if names.peek().is_none() {
                return Ok(InUpper::Here(stat));
            }
            if stat.kind != FileKind::Dir {
                return Ok(InUpper::Gone);
            }
            shows &= !self.is_opaque(&prefix).map_err(failed)?;
        }
        let stat = self.seen(look::look_at(&self.upper).map_err(failed)?);
        Ok(InUpper::Here(stat))
    }

    /// What steps see of a file on disk.
    pub(super) fn seen(&self, stat: Stat) -> Stat {
        let (uid, gid) = self.owners.seen(stat.uid, stat.gid);
        Stat { uid, gid, ..stat }
    }

    /// Whether a directory of the layer hides what is below it.
    pub(super) fn is_opaque(&self, path: &Path) -> Result<bool, Errno> {
        let dir = beneath::open_dir(&self.upper, path)?;
        match rustix::fs::fgetxattr(&dir, self.marks.opaque(), &mut [0u8; 8][..]) {
            Ok(_) | Err(Errno::RANGE) => Ok(true),
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl FileSource for Draft<'_> {
    fn stat(&self, path: &Path) -> Result<Option<Stat>, SourceError> {
        match self.in_upper(path)? {
            InUpper::Here(stat) => Ok(Some(stat)),
            InUpper::Gone => Ok(None),
            InUpper::Below => self.below.stat(path),
        }
    }

    fn list(&self, dir: &Path) -> Result<Vec<Entry>, SourceError> {
        let failed = |error: Errno| SourceError::io(dir, error);
        let mut entries = match self.in_upper(dir)? {
            InUpper::Below => return self.below.list(dir),
            InUpper::Here(stat) if stat.kind == FileKind::Dir => {
                let mut probe = dir.to_owned();
                probe.push("\u{1}");
                // Whether what is below shows in the directory is what is said of a name that is not there.
                match self.in_upper(&probe)? {
                    InUpper::Below if self.below.stat(dir)?.is_some_and(|s| s.kind == FileKind::Dir) => {
                        self.below.list(dir)?
                    }
                    _ => Vec::new(),
                }
            }
            _ => return Err(SourceError::Absent(dir.to_owned())),
        };
        let open = beneath::open_dir(&self.upper, dir).map_err(failed)?;
        for name in plain::names(&open).map_err(failed)? {
            let stat = self.seen(look::look(&open, &name).map_err(failed)?);
            entries.retain(|entry| entry.name != name);
            if !is_whiteout(&stat) {
                entries.push(Entry { name, stat });
            }
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn target(&self, path: &Path) -> Result<PathBuf, SourceError> {
        match self.in_upper(path)? {
            InUpper::Here(stat) if stat.kind == FileKind::Link => {
                plain::target(&self.upper, path).map_err(|error| SourceError::io(path, error))
            }
            InUpper::Below => self.below.target(path),
            _ => Err(SourceError::Absent(path.to_owned())),
        }
    }

    fn open(&self, path: &Path) -> Result<File, SourceError> {
        match self.in_upper(path)? {
            InUpper::Here(stat) if stat.kind == FileKind::File => {
                let file = beneath::open(&self.upper, path, Through::NoLinks, OFlags::RDONLY);
                Ok(file.map_err(|error| SourceError::io(path, error))?.into())
            }
            InUpper::Below => self.below.open(path),
            _ => Err(SourceError::Absent(path.to_owned())),
        }
    }

    fn xattrs(&self, path: &Path) -> Result<Xattrs, SourceError> {
        match self.in_upper(path)? {
            InUpper::Here(_) => {
                let file = beneath::open(&self.upper, path, Through::NoLinks, OFlags::RDONLY);
                let file = file.map_err(|error| SourceError::io(path, error))?;
                xattr::read(&file).map_err(|error| SourceError::io(path, error))
            }
            InUpper::Below => self.below.xattrs(path),
            InUpper::Gone => Err(SourceError::Absent(path.to_owned())),
        }
    }
}

fn is_whiteout(stat: &Stat) -> bool {
    stat.kind == FileKind::Char && stat.device == (0, 0)
}
