//! What tells that a file was not touched since it was hashed.

use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;

use super::Kind;

/// Device, inode, size and times of a file or directory, times in nanoseconds since 1970.
///
/// Two equal stamps mean equal content only if the change time is [settled](Self::settled).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp {
    pub dev: u64,
    pub inode: u64,
    pub size: u64,
    pub modified: i64,
    pub changed: i64,
}

/// A file as `statx` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub kind: Kind,
    pub executable: bool,
    pub stamp: Stamp,
}

/// The kernel stamps files with a clock that may lag by a tick, more on a machine whose processors are shared.
const MARGIN: i64 = 200_000_000;
/// File systems that keep whole seconds or milliseconds only.
const COARSE_MARGIN: i64 = 2_000_000_000;

impl Stamp {
    /// Whether any change after the instant `started`, at which this stamp had not been read yet, must show as
    /// another stamp. Only the change time counts: users can set the modification time, nobody sets this one.
    pub fn settled(&self, started: i64) -> bool {
        let coarse = self.changed % 1_000_000 == 0;
        self.changed.saturating_add(if coarse { COARSE_MARGIN } else { MARGIN }) < started
    }
}

/// The wall clock in nanoseconds, the same clock as file times.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Looks at `name` in an open directory, links not followed.
pub(super) fn look(dir: impl AsFd, name: &str) -> Result<Seen, Errno> {
    Ok(seen(&statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, MASK)?))
}

/// Looks at an open file.
pub(super) fn look_at(file: impl AsFd) -> Result<Seen, Errno> {
    Ok(seen(&statx(file, c"", AtFlags::EMPTY_PATH, MASK)?))
}

const MASK: StatxFlags = StatxFlags::TYPE
    .union(StatxFlags::MODE)
    .union(StatxFlags::INO)
    .union(StatxFlags::SIZE)
    .union(StatxFlags::MTIME)
    .union(StatxFlags::CTIME);

fn seen(found: &Statx) -> Seen {
    let kind = match FileType::from_raw_mode(u32::from(found.stx_mode)) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    };
    let stamp = Stamp {
        dev: u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor),
        inode: found.stx_ino,
        size: found.stx_size,
        modified: nanos(found.stx_mtime),
        changed: nanos(found.stx_ctime),
    };
    Seen { kind, executable: found.stx_mode & 0o100 != 0, stamp }
}

pub(crate) fn nanos(time: StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
}
