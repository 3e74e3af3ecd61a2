//! Making and removing single things: `WORKDIR`, heredocs, and what an intermediate representation can ask for.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::write::{self, Wanted};
use super::{ActionError, Draft, OnTheWay, remove_all, split};
use crate::files::context::{clean, split_wild};
use crate::files::pattern::{Pattern, Stars};
use crate::files::resolve::{Last, resolve};
use crate::files::select::{SelectError, matching};
use crate::files::source::{FileKind, FileSource};
use crate::import::stamp::now;
use crate::workspace::beneath;

/// How a directory is made.
#[derive(Debug, Clone, Copy)]
pub struct MakeDir {
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Those above are made alike if they are missing.
    pub parents: bool,
    /// Modification time in nanoseconds since 1970; else now.
    pub modified: Option<i64>,
}

/// How a file or link is made.
#[derive(Debug, Clone, Copy)]
pub struct MakeFile {
    /// Permission bits; those of a link do not count.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Modification time in nanoseconds since 1970; else now.
    pub modified: Option<i64>,
}

/// How something is removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Remove {
    /// The path is a pattern; it may match nothing.
    pub wildcard: bool,
    /// A path that is not there is no error.
    pub allow_missing: bool,
}

impl Draft<'_> {
    /// Makes a directory. One that is there stays as it is.
    ///
    /// # Errors
    /// [`ActionError`].
    pub fn make_dir(&mut self, path: &Path, make: &MakeDir) -> Result<(), ActionError> {
        let path = resolve(self, &clean(path), Last::Follow)?;
        let there = self.stat(&path)?;
        match there.map(|stat| stat.kind) {
            Some(FileKind::Dir) => return Ok(()),
            Some(_) => return Err(ActionError::NotADirectory(path)),
            None => {}
        }
        let (parent, _) = split(&path);
        if !make.parents && self.stat(parent)?.is_none() && !parent.as_os_str().is_empty() {
            return Err(ActionError::Missing(parent.to_owned()));
        }
        self.enter(&path, &OnTheWay { mode: make.mode, owner: make.owner, modified: make.modified })?;
        self.finish()
    }

    /// Writes a file. What is there goes, unless it is a directory; a link is followed. Its directory has to be there.
    ///
    /// # Errors
    /// [`ActionError`].
    pub fn make_file(&mut self, path: &Path, bytes: &[u8], make: &MakeFile) -> Result<(), ActionError> {
        let path = resolve(self, &clean(path), Last::Follow)?;
        let dir = self.make_room(&path)?;
        let failed = |error: std::io::Error| ActionError::io(&path, error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, split(&path).1, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(|e| failed(e.into()))?);
        file.write_all(bytes).map_err(failed)?;
        write::finish(&file, self.owners, make.owner, Some(make.mode), make.modified, &Vec::new())
            .map_err(failed)?;
        self.finish()
    }

    /// Makes a link. Whatever is there, links included, goes, unless it is a directory. Its directory has to be there.
    ///
    /// # Errors
    /// [`ActionError`].
    pub fn symlink(&mut self, target: &Path, path: &Path, make: &MakeFile) -> Result<(), ActionError> {
        let path = resolve(self, &clean(path), Last::Keep)?;
        let dir = self.make_room(&path)?;
        let failed = |error: Errno| ActionError::io(&path, error);
        let name = split(&path).1;
        rustix::fs::symlinkat(target, &dir, name).map_err(failed)?;
        let modified = make.modified.unwrap_or_else(now);
        let wanted = Wanted { mode: make.mode, owner: make.owner, modified };
        write::finish_at(&dir, name, self.owners, &wanted, true).map_err(failed)?;
        self.finish()
    }

    /// Removes a path, or all that match, with everything below; links are removed, not followed.
    ///
    /// # Errors
    /// [`ActionError`].
    pub fn remove(&mut self, path: &Path, remove: Remove) -> Result<(), ActionError> {
        let written = clean(path);
        let (plain, wild) = split_wild(&written);
        if !remove.wildcard || wild.as_os_str().is_empty() {
            let path = resolve(self, &written, Last::Keep)?;
            if self.stat(&path)?.is_some() && !path.as_os_str().is_empty() {
                self.remove_one(&path)?;
            } else if !remove.allow_missing {
                return Err(ActionError::Missing(path));
            }
            return self.finish();
        }
        let pattern = Pattern::new(wild.as_os_str().as_bytes(), Stars::Plain)
            .map_err(|reason| SelectError::Pattern { source_path: written.clone(), reason })?;
        let base = resolve(self, &plain, Last::Follow)?;
        for (path, _) in matching(self, &base, &pattern)? {
            self.remove_one(&path)?;
        }
        self.finish()
    }

    /// Frees the place of a file, whose directory must be there, and opens the directory.
    fn make_room(&mut self, path: &Path) -> Result<std::os::fd::OwnedFd, ActionError> {
        let (parent, name) = split(path);
        match self.stat(path)?.map(|stat| stat.kind) {
            Some(FileKind::Dir) => return Err(ActionError::IsADirectory(path.to_owned())),
            Some(_) => {}
            None if parent.as_os_str().is_empty() || self.stat(parent)?.is_some() => {}
            None => return Err(ActionError::Missing(parent.to_owned())),
        }
        self.enter(parent, &OnTheWay::default())?;
        let dir = beneath::open_dir(&self.upper, parent).map_err(|e| ActionError::io(path, e))?;
        write::clear(&dir, name, path, false)?;
        Ok(dir)
    }

    fn remove_one(&mut self, path: &Path) -> Result<(), ActionError> {
        let failed = |error: Errno| ActionError::io(path, error);
        let (parent, name) = split(path);
        let hidden = self.enter(parent, &OnTheWay::default())?;
        let dir = beneath::open_dir(&self.upper, parent).map_err(failed)?;
        remove_all(&dir, name).map_err(failed)?;
        self.dirs.retain(|dir, _| !dir.starts_with(path));
        self.finish.retain(|dir, _| !dir.starts_with(path));
        if !hidden && self.below.stat(path)?.is_some() {
            whiteout(&dir, name).map_err(failed)?;
        }
        Ok(())
    }
}

fn whiteout(dir: &std::os::fd::OwnedFd, name: &OsStr) -> Result<(), Errno> {
    rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
}
