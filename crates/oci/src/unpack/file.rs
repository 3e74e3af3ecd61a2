//! Contents and attributes of one file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::root::Place;
use super::{LeftOut, Report, UnpackError, UnpackOptions};
use crate::archive::{ArchiveError, Member, MemberKind, Segment};
use crate::path::LayerPath;

/// Makes a file that did not exist, with its contents.
pub(super) fn create(
    place: &Place,
    size: u64,
    segments: &[Segment],
    content: &mut impl Read,
) -> Result<File, UnpackError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(place.parent(), place.name(), flags, Mode::from_raw_mode(0o600))
        .map_err(UnpackError::io("make the file", &place.path))?;
    let mut file = File::from(fd);
    let failed = |source| UnpackError::Io { action: "write the file", path: place.path.clone(), source };
    for segment in segments {
        copy(content, &mut file, *segment, &failed)?;
    }
    if segments.last().is_none_or(|last| last.offset + last.length != size) {
        file.set_len(size).map_err(failed)?;
    }
    Ok(file)
}

fn copy(
    content: &mut impl Read,
    file: &mut File,
    segment: Segment,
    failed: &impl Fn(io::Error) -> UnpackError,
) -> Result<(), UnpackError> {
    let mut buffer = [0; 1 << 16];
    let mut done = 0;
    while done < segment.length {
        let most = usize::try_from(segment.length - done).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = match content.read(&mut buffer[..most]) {
            Ok(0) => return Err(ArchiveError::Malformed("it is truncated").into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ArchiveError::from(error).into()),
        };
        if segment.offset == 0 {
            file.write_all(&buffer[..count]).map_err(failed)?;
        } else {
            file.write_all_at(&buffer[..count], segment.offset + done).map_err(failed)?;
        }
        done += count as u64;
    }
    Ok(())
}

/// What a member says about its inode.
pub(super) struct Attributes {
    is_directory: bool,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    pub(super) fn of(member: &Member) -> Self {
        let Member { mode, uid, gid, mtime, xattrs, .. } = member;
        let is_directory = member.kind == MemberKind::Directory;
        Self { is_directory, mode: *mode, uid: *uid, gid: *gid, mtime: *mtime, xattrs: xattrs.clone() }
    }

    /// Sets everything on an open file or directory.
    pub(super) fn set_on_open(
        &self,
        file: &File,
        path: &LayerPath,
        options: &UnpackOptions,
        report: &mut Report,
    ) -> Result<(), UnpackError> {
        if options.owners {
            let owned = rustix::fs::fchown(file, Some(uid(self.uid)), Some(gid(self.gid)));
            note_refusal(owned, path, report, LeftOut::Owner)?;
        }
        // An ordinary user must still be able to unpack the next layer into a directory, and to remove it.
        let open_to_owner = if self.is_directory && !options.owners { 0o700 } else { 0 };
        let mode = self.mode | open_to_owner;
        // After the owner, because changing it takes away set-user-id bits and capabilities.
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
            .map_err(UnpackError::io("set the mode of", path))?;
        for (name, value) in &self.xattrs {
            let left_out = LeftOut::Attribute(name.escape_ascii().to_string());
            if !is_kept(name) {
                report.note(path, left_out);
                continue;
            }
            let set = rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty());
            note_refusal(set, path, report, left_out)?;
        }
        rustix::fs::futimens(file, &self.times()).map_err(UnpackError::io("set the time of", path))
    }

    /// Sets what can be set on a link, pipe or device without opening it.
    pub(super) fn set_by_name(
        &self,
        place: &Place,
        options: &UnpackOptions,
        report: &mut Report,
    ) -> Result<(), UnpackError> {
        let path = &place.path;
        let (parent, name) = (place.parent(), place.name());
        if options.owners {
            let (uid, gid) = (Some(uid(self.uid)), Some(gid(self.gid)));
            let owned = rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
            note_refusal(owned, path, report, LeftOut::Owner)?;
        }
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackError::io("look at", path))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Symlink {
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(self.mode), AtFlags::empty())
                .map_err(UnpackError::io("set the mode of", path))?;
        }
        for (name, _) in &self.xattrs {
            report.note(path, LeftOut::Attribute(name.escape_ascii().to_string()));
        }
        rustix::fs::utimensat(parent, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackError::io("set the time of", path))
    }

    fn times(&self) -> Timestamps {
        // Times that no file system can hold become the nearest ones that all can.
        let seconds = self.mtime.0.clamp(i64::from(i32::MIN), i64::from(u32::MAX));
        let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(self.mtime.1) };
        Timestamps { last_access: time, last_modification: time }
    }
}

/// Sets the time of an open file or directory.
pub(super) fn set_time(file: &File, time: Timespec) -> Result<(), Errno> {
    rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })
}

/// Attributes that mean something to the programs in an image. Those of overlayfs would change how the directory is read
/// once it is a lower layer, and labels of security modules belong to the machine.
fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

fn note_refusal(
    result: Result<(), Errno>,
    path: &LayerPath,
    report: &mut Report,
    left_out: LeftOut,
) -> Result<(), UnpackError> {
    match result {
        Ok(()) => Ok(()),
        Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSPC | Errno::RANGE) => {
            report.note(path, left_out);
            Ok(())
        }
        Err(errno) => Err(UnpackError::io("set the attributes of", path)(errno)),
    }
}

fn uid(number: u32) -> Uid {
    Uid::from_raw(number)
}

fn gid(number: u32) -> Gid {
    Gid::from_raw(number)
}
