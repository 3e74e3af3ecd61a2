//! Changes to a root file system, written into the directory of one layer.
//!
//! A [`Draft`] is what lies below and a directory in the form of overlayfs: a name that is gone is a character device 0/0, a
//! directory that hides what is below it has an attribute. It is a [`FileSource`] of both together, so paths are resolved and
//! looked up in what a container would see. Nothing is mounted, and no path leads out of the directory, whatever
//! the layers hold: links are followed by us, name by name, and the kernel is asked never to follow one.
//!
//! A directory that has to be in the layer only because something in it changes is made with the metadata it has below, its
//! modification time included. (The kernel would set the time; without it equal input gives an equal layer.)

mod acts;
mod alike;
mod copy;
mod merged;
mod write;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use quern_core::port::DraftLayer;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::look;
use super::resolve::ResolveError;
use super::select::SelectError;
use super::source::{FileKind, FileSource, Inode, SourceError, Stat, Xattrs, shown};
use crate::layers::Owners;
use crate::workspace::beneath;
use merged::InUpper;

pub use acts::{MakeDir, MakeFile, Remove};
pub use alike::Alike;
pub use copy::{ChangeMode, CopyTo, Unpack};

/// Which extended attribute marks a directory that hides what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// `trusted.overlay.opaque`, which only root may set.
    Trusted,
    /// `user.overlay.opaque`, for overlays mounted in a user namespace.
    User,
}

impl Marks {
    fn opaque(self) -> &'static std::ffi::CStr {
        match self {
            Self::Trusted => c"trusted.overlay.opaque",
            Self::User => c"user.overlay.opaque",
        }
    }
}

/// Why a change could not be made. The layer is to be discarded then.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// Something that is no directory is where one has to be.
    #[error("`{}` is not a directory", shown(.0))]
    NotADirectory(PathBuf),
    /// A directory is where something else is to be put.
    #[error("`{}` is a directory and cannot be replaced by a file", shown(.0))]
    IsADirectory(PathBuf),
    /// Nothing is where something has to be.
    #[error("`{}` does not exist", shown(.0))]
    Missing(PathBuf),
    /// An archive could not be unpacked.
    #[error("cannot unpack `{}`: {reason}", shown(path))]
    Unpack {
        /// The archive.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A pattern is wrong.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Links lead nowhere.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// What is copied, or what lies below, cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The layer cannot be written.
    #[error("cannot write `{}`: {source}", shown(path))]
    Io {
        /// Path in the root file system.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ActionError {
    fn io(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.to_owned(), source: source.into() }
    }
}

/// A layer being written above others.
pub struct Draft<'d> {
    upper: OwnedFd,
    work: PathBuf,
    below: &'d dyn FileSource,
    marks: Marks,
    owners: Owners,
    /// Directories that are known to be in the layer: whether nothing from below shows in them.
    dirs: HashMap<PathBuf, bool>,
    /// What directories are to look like once everything in them is made.
    finish: BTreeMap<PathBuf, Looks>,
    /// Files of other layers that have a name here; a second name would make two files one.
    linked: Mutex<HashSet<Inode>>,
}

/// The metadata of a directory.
struct Looks {
    mode: u32,
    owner: (u32, u32),
    /// None: as the kernel has it.
    modified: Option<i64>,
    xattrs: Xattrs,
}

impl Looks {
    /// As something else looks.
    fn of(stat: &Stat, xattrs: Xattrs) -> Self {
        Self { mode: stat.mode, owner: (stat.uid, stat.gid), modified: Some(stat.modified), xattrs }
    }
}

/// How directories look that have to be made on the way.
#[derive(Debug, Clone, Copy)]
struct OnTheWay {
    mode: u32,
    owner: (u32, u32),
    modified: Option<i64>,
}

impl Default for OnTheWay {
    fn default() -> Self {
        Self { mode: 0o755, owner: (0, 0), modified: None }
    }
}

impl<'d> Draft<'d> {
    /// A draft in an empty directory, above what `below` shows. The root takes the looks of the root below.
    ///
    /// # Errors
    /// [`ActionError`].
    pub fn open(layer: &DraftLayer, below: &'d dyn FileSource, marks: Marks) -> Result<Self, ActionError> {
        let root = Path::new("");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let upper =
            rustix::fs::open(&layer.dir, flags, Mode::empty()).map_err(|e| ActionError::io(root, e))?;
        let stat = below.stat(root)?;
        let mut draft = Self {
            upper,
            work: layer.work.clone(),
            below,
            marks,
            owners: Owners::of_current_user(),
            dirs: HashMap::from([(PathBuf::new(), stat.is_none())]),
            finish: BTreeMap::new(),
            linked: Mutex::default(),
        };
        if let Some(stat) = stat {
            draft.finish.insert(PathBuf::new(), Looks::of(&stat, below.xattrs(root)?));
        }
        draft.finish()?;
        Ok(draft)
    }

    /// Puts the directory at `path`, which is free of links, into the layer, with all above it: copied up with its looks if it is
    /// below, else made. Gives whether nothing from below shows in it.
    fn enter(&mut self, path: &Path, way: &OnTheWay) -> Result<bool, ActionError> {
        if let Some(fresh) = self.dirs.get(path) {
            let fresh = *fresh;
            self.keep_looks(path)?;
            return Ok(fresh);
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        let hidden = self.enter(parent, way)?;
        let under = |draft: &Self| if hidden { Ok(None) } else { draft.below.stat(path) };
        let fresh = match self.in_upper(path)? {
            InUpper::Here(stat) if stat.kind == FileKind::Dir => {
                let opaque = self.is_opaque(path).map_err(|e| ActionError::io(path, e))?;
                let fresh = opaque || under(self)?.is_none_or(|stat| stat.kind != FileKind::Dir);
                self.dirs.insert(path.to_owned(), fresh);
                self.keep_looks(path)?;
                return Ok(fresh);
            }
            InUpper::Here(_) => return Err(ActionError::NotADirectory(path.to_owned())),
            InUpper::Below => match under(self)? {
                Some(stat) if stat.kind == FileKind::Dir => {
                    let looks = Looks::of(&stat, self.below.xattrs(path)?);
                    self.make_dir_at(path, looks, false)?;
                    return Ok(false);
                }
                Some(_) => return Err(ActionError::NotADirectory(path.to_owned())),
                None => true,
            },
            InUpper::Gone => true,
        };
        let OnTheWay { mode, owner, modified } = *way;
        let looks = Looks { mode, owner, modified, xattrs: Vec::new() };
        self.make_dir_at(path, looks, fresh)?;
        Ok(fresh)
    }

    /// Makes a directory that is not there yet in a directory that is known. A whiteout in its place goes, and what it hid stays hidden.
    fn make_dir_at(&mut self, path: &Path, looks: Looks, fresh: bool) -> Result<(), ActionError> {
        let failed = |error: Errno| ActionError::io(path, error);
        let (parent, name) = split(path);
        let dir = beneath::open_dir(&self.upper, parent).map_err(failed)?;
        // Writable until everything in it is made.
        match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&dir, name, AtFlags::empty()).map_err(failed)?;
                rustix::fs::mkdirat(&dir, name, Mode::RWXU).map_err(failed)?;
            }
            result => result.map_err(failed)?,
        }
        let hides = fresh && self.dirs.get(parent) == Some(&false);
        if hides && self.below.stat(path)?.is_some_and(|stat| stat.kind == FileKind::Dir) {
            let made = beneath::open_dir(&self.upper, path).map_err(failed)?;
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::fsetxattr(&made, self.marks.opaque(), b"y", flags).map_err(failed)?;
        }
        self.dirs.insert(path.to_owned(), fresh);
        self.finish.insert(path.to_owned(), looks);
        Ok(())
    }

    /// Remembers how a directory of the layer looks, before something in it is changed.
    fn keep_looks(&mut self, path: &Path) -> Result<(), ActionError> {
        if !self.finish.contains_key(path) {
            let failed = |error: Errno| ActionError::io(path, error);
            let dir = beneath::open_dir(&self.upper, path).map_err(failed)?;
            let stat = self.seen(look::look_at(&dir).map_err(failed)?);
            self.finish.insert(path.to_owned(), Looks::of(&stat, Vec::new()));
        }
        Ok(())
    }

    /// Gives all directories that were changed their looks, those below first.
    fn finish(&mut self) -> Result<(), ActionError> {
        for (path, looks) in std::mem::take(&mut self.finish).into_iter().rev() {
            let dir = beneath::open_dir(&self.upper, &path).map_err(|e| ActionError::io(&path, e))?;
            write::finish(&dir, self.owners, looks.owner, Some(looks.mode), looks.modified, &looks.xattrs)
                .map_err(|e| ActionError::io(&path, e))?;
        }
        Ok(())
    }
}

/// Directory and name of a path that is not the root.
fn split(path: &Path) -> (&Path, &OsStr) {
    (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or(OsStr::new(".")))
}

/// Removes whatever has a name in an open directory, with everything below it.
fn remove_all(dir: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        result => return result,
    }
    let inner = beneath::open_dir(&dir, name)?;
    for name in super::plain::names(&inner)? {
        remove_all(&inner, &name)?;
    }
    rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)
}
