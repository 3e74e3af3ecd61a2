//! Writing single files into a layer: bytes as fast as the kernel copies them, holes kept, metadata last.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{ActionError, Alike, Draft, remove_all};
use crate::files::source::{FileKind, FileSource, Inode, SourceError, Stat, Witness, Xattrs, digest_of};
use crate::files::xattr;
use crate::layers::Owners;

/// Files up to this size go through memory.
const WHOLE: u64 = 128 << 10;

/// One file that is to be made in a directory that is there.
pub(super) struct Job {
    /// Path in the source.
    pub from: PathBuf,
    /// Path in the root file system.
    pub to: PathBuf,
    /// As the source shows it.
    pub stat: Stat,
    /// As it is to be.
    pub wanted: Wanted,
}

/// Metadata a copy is to have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub mode: u32,
    pub owner: (u32, u32),
    pub modified: i64,
}

/// What was made the time before, of one directory.
pub(super) struct Again<'a> {
    pub alike: Option<&'a Alike>,
    /// The directory of the same path in the layer before.
    pub before: Option<OwnedFd>,
}

/// Makes a file in the open directory it belongs to. What has its name already goes, unless it is a directory and `replace` is not set.
pub(super) fn write(
    draft: &Draft<'_>,
    source: &dyn FileSource,
    dir: &OwnedFd,
    job: &Job,
    replace: bool,
    again: &Again<'_>,
) -> Result<(), ActionError> {
    let name = job.to.file_name().unwrap_or(OsStr::new("."));
    let make = || make(draft, source, dir, name, job, again);
    match make() {
        Err(ActionError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            clear(dir, name, &job.to, replace)?;
            make()
        }
        result => result,
    }
}

/// Frees a name in an open directory.
pub(super) fn clear(dir: &OwnedFd, name: &OsStr, path: &Path, replace: bool) -> Result<(), ActionError> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) if replace => remove_all(dir, name).map_err(|e| ActionError::io(path, e)),
        Err(Errno::ISDIR) => Err(ActionError::IsADirectory(path.to_owned())),
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(ActionError::io(path, error)),
    }
}

fn make(
    draft: &Draft<'_>,
    source: &dyn FileSource,
    dir: &OwnedFd,
    name: &OsStr,
    job: &Job,
    again: &Again<'_>,
) -> Result<(), ActionError> {
    let failed = |error: Errno| ActionError::io(&job.to, error);
    let file_type = match job.stat.kind {
        FileKind::File => return make_file(draft, source, dir, name, job, again),
        FileKind::Link => {
            let target = source.target(&job.from)?;
            rustix::fs::symlinkat(target, dir, name).map_err(failed)?;
            return finish_at(dir, name, draft.owners, &job.wanted, true).map_err(failed);
        }
        FileKind::Dir => return Err(ActionError::IsADirectory(job.to.clone())),
        FileKind::Fifo => FileType::Fifo,
        FileKind::Char => FileType::CharacterDevice,
        FileKind::Block => FileType::BlockDevice,
        FileKind::Socket => FileType::Socket,
    };
    let device = rustix::fs::makedev(job.stat.device.0, job.stat.device.1);
    rustix::fs::mknodat(dir, name, file_type, Mode::RUSR, device).map_err(failed)?;
    finish_at(dir, name, draft.owners, &job.wanted, false).map_err(failed)
}

fn make_file(
    draft: &Draft<'_>,
    source: &dyn FileSource,
    dir: &OwnedFd,
    name: &OsStr,
    job: &Job,
    again: &Again<'_>,
) -> Result<(), ActionError> {
    if link(draft, source, dir, job)? {
        return Ok(());
    }
    // Known already: the content is part of the key for which the copy is made.
    let content = again.alike.map(|_| source.content(&job.from, &job.stat)).transpose()?;
    if let (Some(alike), Some(content), Some(before)) = (again.alike, &content, &again.before)
        && alike.link(draft, (before, dir), name, job, content)?
    {
        return Ok(());
    }
    let failed = |error: io::Error| ActionError::io(&job.to, error);
    let mut from = source.open(&job.from)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
    let mut to = File::from(to);
    let copied = copy_bytes(&mut from, &mut to, job.stat.size).map_err(failed)?;
    if copied != job.stat.size {
        return Err(SourceError::Changed(job.from.clone()).into());
    }
    confirm(source, &job.from, &job.stat, &from, |_| to.try_clone())?;
    let xattrs = xattr::read(&from).map_err(|error| SourceError::io(&job.from, error))?;
    let Wanted { mode, owner, modified } = job.wanted;
    finish(&to, draft.owners, owner, Some(mode), Some(modified), &xattrs).map_err(failed)?;
    if let (Some(alike), Some(content)) = (again.alike, content) {
        alike.made(&to, content);
    }
    Ok(())
}

/// Fails unless what was read from the file is what was seen. `copied` gives a file that holds what was read.
pub(super) fn confirm(
    source: &dyn FileSource,
    path: &Path,
    stat: &Stat,
    from: &File,
    copied: impl FnOnce(&File) -> io::Result<File>,
) -> Result<(), SourceError> {
    let failed = |error| SourceError::io(path, error);
    let same = match source.witness(path, stat, from)? {
        Witness::Same => true,
        Witness::Changed => false,
        Witness::IfDigest(digest) => {
            let mut copied = copied(from).map_err(failed)?;
            copied.rewind().map_err(failed)?;
            digest_of(&mut copied).map_err(failed)? == digest
        }
    };
    if same { Ok(()) } else { Err(SourceError::Changed(path.to_owned())) }
}

/// Gives an immutable file another name instead of copying it, if nothing but the name is to differ. A file is linked once in a
/// draft: two files of the layer must not become one.
fn link(draft: &Draft<'_>, source: &dyn FileSource, dir: &OwnedFd, job: &Job) -> Result<bool, ActionError> {
    let Stat { mode, uid, gid, modified, .. } = job.stat;
    if job.wanted != (Wanted { mode, owner: (uid, gid), modified }) {
        return Ok(false);
    }
    let Some(place) = source.immutable(&job.from) else { return Ok(false) };
    link_at(draft, &job.stat.inode, (CWD, place.as_os_str()), dir, job)
}

/// Links the file `inode`, which is at `from`, unless it is linked in this draft already or cannot be.
pub(super) fn link_at(
    draft: &Draft<'_>,
    inode: &Inode,
    (from, path): (BorrowedFd<'_>, &OsStr),
    dir: &OwnedFd,
    job: &Job,
) -> Result<bool, ActionError> {
    if !draft.linked.lock().is_ok_and(|mut linked| linked.insert(*inode)) {
        return Ok(false);
    }
    let name = job.to.file_name().unwrap_or(OsStr::new("."));
    match rustix::fs::linkat(from, path, dir, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => {
            if let Ok(mut linked) = draft.linked.lock() {
                linked.remove(inode);
            }
            Err(ActionError::io(&job.to, Errno::EXIST))
        }
        // Another file system, too many names, or not ours to link.
        Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::ACCESS | Errno::NOENT) => Ok(false),
        Err(error) => Err(ActionError::io(&job.to, error)),
    }
}

/// Gives an open file or directory its metadata. Changing the owner clears capabilities and set-id bits, so it comes first.
pub(super) fn finish(
    file: impl AsFd,
    owners: Owners,
    owner: (u32, u32),
    mode: Option<u32>,
    modified: Option<i64>,
    xattrs: &Xattrs,
) -> io::Result<()> {
    if let Some((uid, gid)) = owners.to_set(owner) {
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    for (name, value) in xattrs {
        let name = std::ffi::CString::new(&**name)?;
        match rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty()) {
            // A file system that cannot keep attributes keeps none.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(mode) = mode {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    }
    if let Some(modified) = modified {
        rustix::fs::futimens(&file, &times(modified))?;
    }
    Ok(())
}

/// The same for what cannot be opened.
pub(super) fn finish_at(
    dir: &OwnedFd,
    name: &OsStr,
    owners: Owners,
    wanted: &Wanted,
    is_link: bool,
) -> Result<(), Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    if let Some((uid, gid)) = owners.to_set(wanted.owner) {
        rustix::fs::chownat(dir, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)?;
    }
    if !is_link {
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(wanted.mode), AtFlags::empty())?;
    }
    rustix::fs::utimensat(dir, name, &times(wanted.modified), flags)
}

/// Access times are nobody's business: they equal the modification time.
fn times(modified: i64) -> Timestamps {
    let time =
        Timespec { tv_sec: modified.div_euclid(1_000_000_000), tv_nsec: modified.rem_euclid(1_000_000_000) };
    Timestamps { last_access: time, last_modification: time }
}

/// Copies up to `size` bytes and gives how many there were.
fn copy_bytes(from: &mut File, to: &mut File, size: u64) -> io::Result<u64> {
    if size <= WHOLE {
        let mut bytes = Vec::with_capacity(size as usize + 1);
        from.take(size).read_to_end(&mut bytes)?;
        to.write_all(&bytes)?;
        return Ok(bytes.len() as u64);
    }
    let stored = rustix::fs::fstat(&*from)?.st_blocks as u64 * 512;
    if stored >= size {
        return copy_range(from, to, 0, size);
    }
    copy_sparse(from, to, size)
}

/// Copies what is stored and leaves holes where there are some.
fn copy_sparse(from: &mut File, to: &mut File, size: u64) -> io::Result<u64> {
    let mut at = 0;
    while at < size {
        let data = match rustix::fs::seek(&*from, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&*from, rustix::fs::SeekFrom::Hole(data)).unwrap_or(size).min(size);
        if data >= end {
            break;
        }
        let copied = copy_range(from, to, data, end - data)?;
        at = data + copied;
        if copied < end - data {
            return Ok(at);
        }
    }
    let there = rustix::fs::fstat(&*from)?.st_size as u64;
    to.set_len(size)?;
    Ok(there.min(size))
}

/// Copies a range to the same place, inside the kernel if it can.
fn copy_range(from: &mut File, to: &mut File, start: u64, len: u64) -> io::Result<u64> {
    let mut done = 0;
    while done < len {
        let (mut read, mut written) = (start + done, start + done);
        let left = usize::try_from(len - done).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(&*from, Some(&mut read), &*to, Some(&mut written), left) {
            Ok(0) => return Ok(done),
            Ok(copied) => done += copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                from.seek(SeekFrom::Start(start + done))?;
                to.seek(SeekFrom::Start(start + done))?;
                return Ok(done + io::copy(&mut from.take(len - done), to)?);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}
