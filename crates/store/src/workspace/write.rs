//! Changing a directory so that it equals another tree.
//!
//! Every operation may be repeated: a change that was interrupted is made whole by making it once more.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use quern_core::port::{Blobs, PortError};
use quern_core::tree::Entry;
use quern_core::{ContentRef, TreePath};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::bins::Bin;
use super::change::Change;
use super::spread::{SERIAL, spread};
use super::{LargeFiles, beneath};

/// Files and links one thread writes in one go.
const SLICE: usize = 128;
/// Smaller files are not looked for among the large blobs.
const LINKED: u64 = 64 << 10;
/// Files up to this size are held in memory.
const WHOLE: u64 = 1 << 20;

pub(super) const DIR_MODE: Mode = Mode::from_raw_mode(0o755);

/// The mode of a file in a snapshot.
fn file_mode(executable: bool) -> Mode {
    Mode::from_raw_mode(if executable { 0o755 } else { 0o644 })
}

/// Where changes are made.
pub(super) struct Site<'s> {
    pub blobs: &'s dyn Blobs,
    pub large: Option<&'s dyn LargeFiles>,
    /// The directory to be changed.
    pub root: OwnedFd,
    /// What is removed is moved here.
    pub bin: &'s Bin,
}

/// Makes all changes.
pub(super) fn apply(site: &Site<'_>, changes: &[Change]) -> Result<(), PortError> {
    for change in changes {
        clear_and_make(site, change)?;
    }
    let mut slices = Vec::new();
    for change in changes {
        slices.extend(change.write.chunks(SLICE).map(|part| (&change.dir, part)));
    }
    let writes: usize = changes.iter().map(|change| change.write.len()).sum();
    let grain = if writes < 32 { SERIAL } else { 1 };
    spread(&slices, grain, |(dir, part)| write_all(site, dir, part)).into_iter().collect()
}

/// Removes what is to go and makes the directory if it is to be made.
fn clear_and_make(site: &Site<'_>, change: &Change) -> Result<(), PortError> {
    let failed = |error| failure(&change.dir, error);
    if change.fresh
        && let (Some(parent), Some(name)) = (change.dir.parent(), change.dir.name())
    {
        let parent = beneath::open_dir(&site.root, parent.as_str()).map_err(failed)?;
        make_dir(&parent, name).map_err(failed)?;
    }
    if !change.remove.is_empty() {
        let dir = beneath::open_dir(&site.root, change.dir.as_str()).map_err(failed)?;
        for name in &change.remove {
            site.bin.throw(&dir, name).map_err(failed)?;
        }
    }
    Ok(())
}

/// A directory with the mode of all directories, whatever the process's mask says; it may be there already.
pub(super) fn make_dir(parent: impl AsFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::mkdirat(&parent, name, DIR_MODE) {
        Ok(()) | Err(Errno::EXIST) => rustix::fs::chmodat(&parent, name, DIR_MODE, AtFlags::empty()),
        Err(error) => Err(error),
    }
}

fn write_all(site: &Site<'_>, dir: &TreePath, part: &[(String, Entry)]) -> Result<(), PortError> {
    let fd = beneath::open_dir(&site.root, dir.as_str()).map_err(|error| failure(dir, error))?;
    for (name, entry) in part {
        match entry {
            Entry::File { content, executable } => {
                write_file(site, &fd, name, content, *executable)?;
            }
            Entry::Link(target) => link(site, &fd, name, target)?,
            Entry::Dir(_) => {}
        }
    }
    Ok(())
}

fn link(site: &Site<'_>, dir: &OwnedFd, name: &str, target: &str) -> Result<(), PortError> {
    let failed = |error| failure(name, error);
    match rustix::fs::symlinkat(target, dir, name) {
        Err(Errno::EXIST) => {
            site.bin.throw(dir, name).map_err(failed)?;
            rustix::fs::symlinkat(target, dir, name).map_err(failed)
        }
        result => result.map_err(failed),
    }
}

fn write_file(
    site: &Site<'_>,
    dir: &OwnedFd,
    name: &str,
    content: &ContentRef,
    executable: bool,
) -> Result<(), PortError> {
    let failed = |error| failure(name, error);
    if !executable
        && content.size >= LINKED
        && let Some(blob) = site.large.and_then(|large| large.path(&content.digest))
        && link_blob(site, dir, name, &blob).map_err(failed)?
    {
        return Ok(());
    }
    let (mut file, old_size) = open_file(site, dir, name, executable).map_err(failed)?;
    let written = if content.size <= WHOLE {
        let bytes = site.blobs.get(&content.digest)?;
        file.write_all(&bytes).map(|()| bytes.len() as u64)
    } else {
        copy(&mut *site.blobs.open(&content.digest)?, &mut file)
    };
    let written = written.map_err(|e| PortError::io(format!("writing {name}"), e))?;
    if old_size > written {
        rustix::fs::ftruncate(&file, written).map_err(failed)?;
    }
    Ok(())
}

/// Opens a file for writing from its start: a new one, or the old one if it belongs to this directory alone. Old
/// bytes stay behind what is written; gives their number.
///
/// A file shared with a blob must not be written to. Truncating first would be wrong too: ext4 then writes the
/// file to the disk as soon as it is closed.
fn open_file(site: &Site<'_>, dir: &OwnedFd, name: &str, executable: bool) -> Result<(File, u64), Errno> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = file_mode(executable);
    let made = || rustix::fs::openat(dir, name, flags | OFlags::CREATE | OFlags::EXCL, mode);
    let (file, old_size) = match made() {
        Ok(file) => (file, 0),
        Err(Errno::EXIST) => {
            let old = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            let found = rustix::fs::fstat(&old)?;
            if found.st_nlink == 1 && Mode::from_raw_mode(found.st_mode) == mode {
                return Ok((old.into(), found.st_size as u64));
            } else if found.st_nlink == 1 {
                (old, found.st_size as u64)
            } else {
                site.bin.throw(dir, name)?;
                (made()?, 0)
            }
        }
        Err(error) => return Err(error),
    };
    rustix::fs::fchmod(&file, mode)?;
    Ok((file.into(), old_size))
}

/// Puts a name for the blob's own file into the directory; false if the file system refuses that.
fn link_blob(site: &Site<'_>, dir: &OwnedFd, name: &str, blob: &Path) -> Result<bool, Errno> {
    for _ in 0..2 {
        match rustix::fs::linkat(CWD, blob, dir, name, AtFlags::empty()) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) => site.bin.throw(dir, name)?,
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

pub(super) fn copy(from: &mut dyn Read, to: &mut impl Write) -> io::Result<u64> {
    io::copy(from, to)
}

fn failure(what: impl std::fmt::Display, error: Errno) -> PortError {
    PortError::io(format!("making `{}` in a snapshot", what.to_string().escape_debug()), error.into())
}
