//! A directory whose paths are resolved as if it were `/`, without ever leaving it.
//!
//! A path of a layer may lead through links that an earlier layer made (`bin` to `usr/bin`). They are followed here,
//! name by name, with `..` and absolute targets meaning what they mean inside the root; the result is a
//! canonical path without links, and the kernel opens that one with the order to follow nothing
//! (`RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV`).

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::UnpackError;
use super::made::{Made, MadeKind};
use crate::path::{LayerPath, PathProblem};

/// More links than this on one path are a circle; the kernel has the same limit.
const MAX_LINKS: usize = 40;

/// The directory that holds everything.
pub(super) struct Root {
    fd: OwnedFd,
    depth: usize,
    /// The directory asked for last: members of one directory mostly follow one another.
    last: Option<(LayerPath, Directory)>,
}

/// An open directory below the root, under its canonical path.
#[derive(Clone)]
pub(super) struct Directory {
    pub path: LayerPath,
    pub fd: Rc<OwnedFd>,
}

/// A name in an open directory; there may be nothing under it yet.
pub(super) struct Place {
    /// Canonical.
    pub path: LayerPath,
    directory: Directory,
    name: Vec<u8>,
}

impl Directory {
    pub(super) fn child(&self, name: &[u8]) -> Result<Place, PathProblem> {
        let path = self.path.clone().child(name)?;
        Ok(Place { path, directory: self.clone(), name: name.to_vec() })
    }
}

impl Place {
    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.directory.fd.as_fd()
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }
}

/// What a walk along a path does about names that are not there.
enum Missing<'a> {
    /// Makes directories and remembers them as made by the layer.
    Make(&'a mut Made),
    /// Gives up.
    Stop,
}

/// How a walk can fail.
enum Walk {
    Missing,
    TooDeep,
    Through(LayerPath),
    InTheWay(LayerPath, &'static str),
    Path(PathProblem),
    Os(Errno),
}

impl From<Errno> for Walk {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

impl Root {
    pub(super) fn open(directory: &Path, depth: usize) -> Result<Self, Errno> {
        let fd =
            rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd, depth, last: None })
    }

    /// The directory at `path`, for the sake of `member`. Missing ones are made.
    pub(super) fn directory(
        &mut self,
        path: &LayerPath,
        member: &LayerPath,
        made: &mut Made,
    ) -> Result<Directory, UnpackError> {
        if let Some((last, directory)) = &self.last
            && last == path
        {
            return Ok(directory.clone());
        }
        let directory = self.walk(path, Missing::Make(made)).map_err(|walk| match walk {
            Walk::Through(link) => UnpackError::ThroughLink { path: member.clone(), link },
            Walk::InTheWay(at, reason) => UnpackError::Unreachable { path: member.clone(), at, reason },
            Walk::Path(problem) => UnpackError::Path { path: member.to_string(), problem },
            Walk::TooDeep => UnpackError::TooDeep { path: member.clone(), limit: self.depth },
            Walk::Missing => UnpackError::io("make the directory of", member)(Errno::NOENT),
            Walk::Os(errno) => UnpackError::io("make the directory of", member)(errno),
        })?;
        self.last = Some((path.clone(), directory.clone()));
        Ok(directory)
    }

    /// The directory at `path`, none if there is none.
    pub(super) fn existing(&mut self, path: &LayerPath) -> Result<Option<Directory>, Errno> {
        match self.walk(path, Missing::Stop) {
            Ok(directory) => Ok(Some(directory)),
            Err(Walk::Os(errno)) => Err(errno),
            Err(_) => Ok(None),
        }
    }

    fn walk(&self, path: &LayerPath, mut missing: Missing<'_>) -> Result<Directory, Walk> {
        // Most paths have no link in them: one call then does it.
        if let Ok(fd) = self.open_canonical(path) {
            return Ok(Directory { path: path.clone(), fd: Rc::new(fd) });
        }
        let mut current = self.at(LayerPath::root())?;
        let mut ahead: VecDeque<Vec<u8>> = path.names().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == b".." {
                let parent = current.path.split_last().map_or(LayerPath::root(), |(parent, _)| parent);
                current = self.at(parent)?;
                continue;
            }
            let place = current.child(&name).map_err(Walk::Path)?;
            // Checked before anything is made: a tree deeper than a process has descriptors is hard to remove again.
            if place.path.names().count() >= self.depth {
                return Err(Walk::TooDeep);
            }
            match kind_of(&place)? {
                Some(FileType::Directory) => current = self.at(place.path)?,
                Some(FileType::Symlink) => {
                    if let Missing::Make(made) = &missing
                        && made.get(&place.path).is_some()
                    {
                        return Err(Walk::Through(place.path));
                    }
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Walk::InTheWay(place.path, "is a link that leads in a circle"));
                    }
                    let target = rustix::fs::readlinkat(place.parent(), place.name(), Vec::new())?;
                    let target = target.as_bytes();
                    if target.starts_with(b"/") {
                        current = self.at(LayerPath::root())?;
                    }
                    let names =
                        target.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
                    for name in names.rev() {
                        ahead.push_front(name.to_vec());
                    }
                }
                Some(_) => return Err(Walk::InTheWay(place.path, "is not a directory")),
                None => match &mut missing {
                    Missing::Stop => return Err(Walk::Missing),
                    Missing::Make(made) => {
                        made.touch(&current.path, &current.fd)?;
                        rustix::fs::mkdirat(place.parent(), place.name(), Mode::from_raw_mode(0o755))?;
                        made.insert(place.path.clone(), MadeKind::ImpliedDirectory);
                        current = self.at(place.path)?;
                        // Again, since the user's umask may have taken something away.
                        rustix::fs::fchmod(&current.fd, Mode::from_raw_mode(0o755))?;
                    }
                },
            }
        }
        Ok(current)
    }

    fn at(&self, path: LayerPath) -> Result<Directory, Walk> {
        let fd = Rc::new(self.open_canonical(&path)?);
        Ok(Directory { path, fd })
    }

    fn open_canonical(&self, path: &LayerPath) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        loop {
            match rustix::fs::openat2(&self.fd, path.as_path(), flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// The directory at a canonical path, none if there is no directory any more.
    pub(super) fn existing_at(&self, path: &LayerPath) -> Result<Option<File>, UnpackError> {
        match self.open_canonical(path) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(UnpackError::io("open", path)(errno)),
        }
    }

    /// Removes what stands at a place, unless it is a directory and may stay one.
    pub(super) fn make_room(&mut self, place: &Place, for_directory: bool) -> Result<(), UnpackError> {
        match kind_of(place).map_err(UnpackError::io("look for", &place.path))? {
            None => Ok(()),
            Some(FileType::Directory) if for_directory => Ok(()),
            Some(_) => self.remove(place),
        }
    }

    /// Makes a directory, or lets the one that is there be.
    pub(super) fn make_directory(&self, place: &Place) -> Result<(), UnpackError> {
        match rustix::fs::mkdirat(place.parent(), place.name(), Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(UnpackError::io("make the directory", &place.path)(errno)),
        }
    }

    /// Removes whatever stands at a place, with everything below it. Nothing there is no error.
    pub(super) fn remove(&mut self, place: &Place) -> Result<(), UnpackError> {
        self.last = None;
        remove(place.parent(), place.name()).map_err(UnpackError::io("remove", &place.path))
    }

    /// Removes what stands at a place except what the current layer has made.
    pub(super) fn clear(&mut self, place: &Place, made: &mut Made) -> Result<(), UnpackError> {
        match made.get(&place.path) {
            Some(MadeKind::Link | MadeKind::Other) => Ok(()),
            None if !made.any_below(&place.path) => self.remove(place),
            None | Some(MadeKind::Directory | MadeKind::ImpliedDirectory) => {
                let fd = self.open_canonical(&place.path).map_err(UnpackError::io("open", &place.path))?;
                self.keep_only(&Directory { path: place.path.clone(), fd: Rc::new(fd) }, made)
            }
        }
    }

    /// Removes what is below a directory except what the current layer has made.
    pub(super) fn keep_only(&mut self, directory: &Directory, made: &mut Made) -> Result<(), UnpackError> {
        made.touch(&directory.path, &directory.fd).map_err(UnpackError::io("look at", &directory.path))?;
        for name in names(&directory.fd).map_err(UnpackError::io("read", &directory.path))? {
            let place = directory.child(&name).map_err(|problem| super::bad_path(&name, problem))?;
            self.clear(&place, made)?;
        }
        Ok(())
    }
}

fn kind_of(place: &Place) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(place.parent(), place.name(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn names(directory: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_bytes().to_vec());
        }
    }
    Ok(names)
}

/// The depth of the recursion is the depth of the tree, which the limit on directories bounds.
fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for name in names(&directory)? {
        remove(directory.as_fd(), &name)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
