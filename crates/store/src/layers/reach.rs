//! System calls on paths of any length.
//!
//! A step may leave directories so deep that their paths are longer than the kernel takes at once. Such a path is walked
//! in pieces. Every directory on the way was seen to be one and layers do not change, so no link is ever followed here.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

/// The kernel takes paths shorter than 4,096 bytes; this leaves room for what is put before them.
const SHORT: usize = 4000;

/// Calls `f` with a directory and what of the path is left below it, short enough for one call.
pub(super) fn near<T>(
    path: &Path,
    f: impl FnOnce(BorrowedFd<'_>, &Path) -> Result<T, Errno>,
) -> Result<T, Errno> {
    if path.as_os_str().len() < SHORT {
        return f(CWD, path);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir: Option<OwnedFd> = None;
    let mut piece = PathBuf::new();
    for component in path.components() {
        if piece.as_os_str().len() + component.as_os_str().len() >= SHORT {
            let base = dir.as_ref().map_or(CWD, |dir| dir.as_fd());
            dir = Some(openat(base, &piece, flags, Mode::empty())?);
            piece.clear();
        }
        piece.push(component);
    }
    f(dir.as_ref().map_or(CWD, |dir| dir.as_fd()), &piece)
}

/// What `lstat` gives.
pub(super) fn stat(path: &Path) -> Result<Stat, Errno> {
    near(path, |dir, rest| statat(dir, rest, AtFlags::SYMLINK_NOFOLLOW))
}

/// Opens a file or directory that is no link.
pub(super) fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    near(path, |dir, rest| openat(dir, rest, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()))
}

/// The target of a symbolic link.
pub(super) fn read_link(path: &Path) -> Result<PathBuf, Errno> {
    let target = near(path, |dir, rest| rustix::fs::readlinkat(dir, rest, Vec::new()))?;
    Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
}

/// Calls `f` with a path for calls that take no directory. It must not follow a link at its end.
pub(super) fn by_name<T>(path: &Path, f: impl FnOnce(&Path) -> Result<T, Errno>) -> Result<T, Errno> {
    if path.as_os_str().len() < SHORT {
        return f(path);
    }
    near(path, |dir, rest| {
        debug_assert!(rest.components().all(|part| matches!(part, Component::Normal(_))));
        f(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(rest))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use quern_testkit::TempSpace;

    use super::*;

    #[test]
    fn depth_does_not_matter() {
        let space = TempSpace::new();
        let name = "d".repeat(200);
        space.write("file", "deep");
        rustix::fs::lsetxattr(space.path("file"), "user.note", b"x", rustix::fs::XattrFlags::empty())
            .unwrap();
        std::os::unix::fs::symlink("over there", space.path("link")).unwrap();
        fs::create_dir(space.path("now")).unwrap();
        for thing in ["file", "link"] {
            fs::rename(space.path(thing), space.path("now").join(thing)).unwrap();
        }
        // Built from the inside out, because a path of this depth has no name.
        for _ in 0..50 {
            fs::create_dir(space.path("outer")).unwrap();
            fs::rename(space.path("now"), space.path("outer").join(&name)).unwrap();
            fs::rename(space.path("outer"), space.path("now")).unwrap();
        }
        let mut deep = space.path("now");
        deep.extend(std::iter::repeat_n(&name, 50));
        assert!(deep.as_os_str().len() > 10_000);
        assert_eq!(stat(&deep.join("file")).unwrap().st_size, 4);
        assert_eq!(read_link(&deep.join("link")).unwrap(), Path::new("over there"));
        assert_eq!(open(&deep.join("link"), OFlags::RDONLY).unwrap_err(), Errno::LOOP);
        let mut value = [0; 8];
        let got = by_name(&deep.join("file"), |p| rustix::fs::lgetxattr(p, "user.note", &mut value));
        assert_eq!(got, Ok(1));
        assert_eq!(stat(&deep.join("absent")).unwrap_err(), Errno::NOENT);
    }
}
