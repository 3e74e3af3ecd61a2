//! Places for mounts that a root lacks: made in a directory beside its layers, never in them.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Timespec, Timestamps, openat2, utimensat};

use crate::order::Point;
use crate::refusal::{Doing, Refusal};

/// Makes the places that the root seen at `view` lacks, in `skeleton`; tells whether there were any.
pub(crate) fn complete(view: &Path, skeleton: &Path, points: &[Point]) -> Result<bool, Refusal> {
    let view = open_root(view)?;
    let mut made = false;
    for point in points {
        made |= complete_one(&view, skeleton, point)?;
    }
    Ok(made)
}

fn complete_one(view: &OwnedFd, skeleton: &Path, point: &Point) -> Result<bool, Refusal> {
    let no = |reason: &str| Refusal::Place { target: point.path.clone(), reason: reason.into() };
    let names: Vec<_> = names_of(&point.path).collect();
    let (depth, found) = (0..=names.len())
        .rev()
        .find_map(|depth| Some((depth, open_in(view, &names[..depth])?)))
        .ok_or_else(|| no("the image cannot be read"))?;
    let is_dir =
        rustix::fs::fstat(&found).doing("looking at the image")?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if depth == names.len() {
        return match (is_dir, point.file) {
            (true, true) => Err(no("the image has a directory there, a file is needed")),
            (false, false) => Err(no("the image has something there that is not a directory")),
            _ => Ok(false),
        };
    }
    if !is_dir {
        return Err(no("a directory above it is a file in the image"));
    }
    let top = real_path(view)?;
    let above = real_path(&found)?;
    let mut at = skeleton.to_owned();
    let mut seen = top.clone();
    for name in above.strip_prefix(&top).map_err(|_| no("it leads out of the image"))?.components() {
        at.push(name);
        seen.push(name);
        if make_dir(&at).doing(format_args!("making room for {}", point.path))? {
            copy_attributes(&seen, &at)?;
        }
    }
    let (last, between) = names[depth..].split_last().expect("the whole path was not found");
    for name in between {
        at.push(name);
        make_dir(&at).doing(format_args!("making room for {}", point.path))?;
    }
    at.push(last);
    if point.file { fs::write(&at, b"") } else { make_dir(&at).map(drop) }
        .doing(format_args!("making room for {}", point.path))?;
    Ok(true)
}

/// Opens a directory as the root of [`open_in`].
pub(crate) fn open_root(dir: &Path) -> Result<OwnedFd, Refusal> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty()).doing("opening the image")
}

/// Opens a path of the image without ever leaving it.
pub(crate) fn open_in(view: &OwnedFd, names: &[&str]) -> Option<OwnedFd> {
    let path = if names.is_empty() { ".".to_owned() } else { names.join("/") };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(view, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).ok()
}

fn real_path(fd: &OwnedFd) -> Result<PathBuf, Refusal> {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).doing("finding a place in the image")
}

fn make_dir(path: &Path) -> io::Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives a directory the owner, mode and time of another.
pub(crate) fn copy_attributes(from: &Path, to: &Path) -> Result<(), Refusal> {
    let found = fs::metadata(from).doing(format_args!("looking at {}", from.display()))?;
    // In a user namespace most owners have no name; the directory then stays the step's own.
    let _ = chown(to, Some(found.uid()), Some(found.gid()));
    let mode = fs::Permissions::from_mode(found.mode() & 0o7777);
    fs::set_permissions(to, mode).doing(format_args!("setting the mode of {}", to.display()))?;
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(found.atime(), found.atime_nsec()),
        last_modification: time(found.mtime(), found.mtime_nsec()),
    };
    utimensat(CWD, to, &times, AtFlags::empty()).doing(format_args!("setting the time of {}", to.display()))
}

fn names_of(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}
