//! How overlayfs marks what a layer takes away from the layers below it.
//!
//! The kernel's documentation of overlayfs is the source. A mount in a user namespace uses `user.overlay.` where others
//! use `trusted.overlay.`; both are understood, whoever reads.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{FileType, Stat, lgetxattr, llistxattr};
use rustix::io::Errno;

use super::reach;

/// Prefixes of the attributes that belong to overlayfs.
pub(super) const PREFIXES: [&str; 2] = ["trusted.overlay.", "user.overlay."];

/// Whether an entry says that the layers below have no such entry.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// What the attributes of a directory say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// It hides the directory of the same name below.
    pub(super) opaque: bool,
    /// It stands for a directory of another name. Nothing here makes such layers, and nothing can read them.
    pub(super) redirected: bool,
}

impl Marks {
    /// Reads the marks of a directory.
    pub(super) fn of(path: &Path) -> Result<Self, Errno> {
        let mut marks = Self::default();
        for name in names(path)? {
            let Some(mark) = own_part(&name) else { continue };
            match mark {
                b"opaque" => marks.opaque |= value(path, &name)? == b"y",
                b"redirect" | b"metacopy" => marks.redirected = true,
                _ => {}
            }
        }
        Ok(marks)
    }
}

/// What follows overlayfs's prefix in the name of an attribute; none if the attribute is not its own.
pub(super) fn own_part(name: &OsStr) -> Option<&[u8]> {
    PREFIXES.iter().find_map(|prefix| name.as_bytes().strip_prefix(prefix.as_bytes()))
}

/// The names of all extended attributes, sorted. A file system without any has none.
pub(super) fn names(path: &Path) -> Result<Vec<OsString>, Errno> {
    let list = match grow(|buffer| reach::by_name(path, |path| llistxattr(path, buffer))) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        list => list?,
    };
    let parts = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut names: Vec<_> = parts.map(|name| OsStr::from_bytes(name).to_owned()).collect();
    names.sort();
    Ok(names)
}

/// The value of an extended attribute.
pub(super) fn value(path: &Path, name: &OsStr) -> Result<Vec<u8>, Errno> {
    grow(|buffer| reach::by_name(path, |path| lgetxattr(path, name, buffer)))
}

/// Calls `f` with larger buffers until what it writes fits.
fn grow(mut f: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = [0; 512];
    match f(&mut buffer) {
        Err(Errno::RANGE) => {}
        len => return Ok(buffer[..len?].to_vec()),
    }
    // The kernel allows 64 KiB for a list as for a value.
    let mut buffer = vec![0; 64 << 10];
    let len = f(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}
