//! Opening paths below a directory without ever leaving it.
//!
//! The kernel resolves every path in one call that refuses to step outside (`openat2`), so a directory swapped
//! for a link by somebody else while we walk cannot lead us away, which checking names first could not promise.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// How links on the way are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Through {
    /// No link anywhere in the path.
    NoLinks,
    /// Links that stay inside.
    Links,
}

/// Opens `path` below `root` (`""` is `root` itself).
///
/// # Errors
/// `ELOOP` for a link where none is allowed, `EXDEV` for one that leads outside, and what `open` gives.
pub(crate) fn open(
    root: impl AsFd,
    path: impl AsRef<OsStr>,
    through: Through,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    create(root, path, through, flags, Mode::empty())
}

/// As [`open`], for flags that may create the file with `mode`.
pub(crate) fn create(
    root: impl AsFd,
    path: impl AsRef<OsStr>,
    through: Through,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let path = path.as_ref();
    let path = if path.is_empty() { OsStr::new(".") } else { path };
    let resolve = match through {
        Through::NoLinks => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
        Through::Links => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    };
    // The kernel asks to be called again when a rename elsewhere made its check of `..` uncertain.
    for _ in 0..64 {
        match openat2(&root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens a directory below `root` for reading its names.
pub(crate) fn open_dir(root: impl AsFd, path: impl AsRef<OsStr>) -> Result<OwnedFd, Errno> {
    open(root, path, Through::NoLinks, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Lets the owner read a file, or read, write and search a directory below `root`.
pub(crate) fn unlock(root: impl AsFd, path: &str) -> Result<(), Errno> {
    let file = open(root, path, Through::NoLinks, OFlags::PATH)?;
    let mode = rustix::fs::fstat(&file)?.st_mode;
    let needed = if FileType::from_raw_mode(mode).is_dir() { 0o700 } else { 0o400 };
    // A descriptor that is good for nothing but naming the file; the kernel changes modes by path only.
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::chmod(link, Mode::from_raw_mode((mode & 0o7777) | needed))
}
