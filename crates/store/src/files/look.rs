//! What `statx` shows of a file, as [`Stat`].

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, statx};
use rustix::io::Errno;

use super::source::{FileKind, Inode, Stat};
use crate::import::stamp::{Stamp, nanos};

/// Looks at `name` in an open directory, links not followed.
pub(super) fn look(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<Stat, Errno> {
    Ok(stat_of(&statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, MASK)?))
}

/// Looks at an open file.
pub(super) fn look_at(file: impl AsFd) -> Result<Stat, Errno> {
    Ok(stat_of(&statx(file, c"", AtFlags::EMPTY_PATH, MASK)?))
}

const MASK: StatxFlags = StatxFlags::BASIC_STATS;

fn stat_of(found: &Statx) -> Stat {
    let kind = kind_of(FileType::from_raw_mode(u32::from(found.stx_mode)));
    Stat {
        kind,
        mode: u32::from(found.stx_mode) & 0o7777,
        uid: found.stx_uid,
        gid: found.stx_gid,
        size: if kind == FileKind::File { found.stx_size } else { 0 },
        modified: nanos(found.stx_mtime),
        device: (found.stx_rdev_major, found.stx_rdev_minor),
        inode: Inode {
            dev: u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor),
            ino: found.stx_ino,
        },
        links: found.stx_nlink,
        changed: nanos(found.stx_ctime),
    }
}

/// The kind of a file by its type.
pub(super) fn kind_of(file_type: FileType) -> FileKind {
    match file_type {
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Link,
        FileType::Fifo => FileKind::Fifo,
        FileType::CharacterDevice => FileKind::Char,
        FileType::BlockDevice => FileKind::Block,
        FileType::Socket => FileKind::Socket,
        _ => FileKind::File,
    }
}

impl Stat {
    /// What tells that the file was not touched.
    pub(super) fn stamp(&self) -> Stamp {
        let Inode { dev, ino } = self.inode;
        Stamp { dev, inode: ino, size: self.size, modified: self.modified, changed: self.changed }
    }
}
