//! Copies of directories, for caches that start with the files of a snapshot.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};

/// Copies a directory that nobody changes to a new one, with owners, modes and times.
///
/// Files that are one file under several names become several.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let found = entry.metadata()?;
        match FileType::from_raw_mode(found.mode()) {
            FileType::Directory => copy_tree(&from, &to)?,
            FileType::RegularFile => {
                fs::copy(&from, &to)?;
                copy_attributes(&found, &to)?;
            }
            FileType::Symlink => {
                symlink(fs::read_link(&from)?, &to)?;
                copy_attributes(&found, &to)?;
            }
            kind => {
                mknodat(CWD, &to, kind, Mode::from_raw_mode(found.mode()), found.rdev())?;
                copy_attributes(&found, &to)?;
            }
        }
    }
    copy_attributes(&fs::metadata(from)?, to)
}

fn copy_attributes(found: &fs::Metadata, to: &Path) -> io::Result<()> {
    // In a user namespace most owners have no name; the copy is the step's own then.
    let _ = lchown(to, Some(found.uid()), Some(found.gid()));
    if !found.is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(found.mode() & 0o7777))?;
    }
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(found.atime(), found.atime_nsec()),
        last_modification: time(found.mtime(), found.mtime_nsec()),
    };
    Ok(utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
