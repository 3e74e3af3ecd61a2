//! A stack of layers as one directory: where overlayfs cannot be had, or the stack is deeper than it takes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use quern_core::port::{Cancel, Layers as _, OpenLayers};
use quern_core::{Digest, DigestWriter};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, linkat,
    lsetxattr, makedev, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::node::Node;
use super::obtain::ObtainError;
use super::view::{View, ViewError};
use super::{LayerStore, reach};
use crate::files::{FileKind, Inode};

/// Why a view could not be written as a directory. A part of it may be there.
#[derive(Debug, thiserror::Error)]
pub enum FlattenError {
    /// It cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Something cannot be made.
    #[error("making {}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What becomes of everything that is no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Hard links to the files of the layers, copies where the file system refuses. Such a directory must not be written to.
    Link,
    /// Copies, which are the owner's to change.
    Copy,
}

impl LayerStore {
    /// One layer that shows what these show, lowest first. Made once; its id follows from theirs.
    ///
    /// # Errors
    /// [`ObtainError`]; [`quern_core::port::PortError::Missing`] for a layer that is gone.
    pub fn flatten(
        &self,
        layers: &[Digest],
        cancel: &Cancel,
    ) -> Result<(Digest, OpenLayers), ObtainError<FlattenError>> {
        let mut id = DigestWriter::new();
        id.update(b"quern flattened layers 1\n");
        layers.iter().for_each(|layer| id.update(layer.as_bytes()));
        let id = id.finish();
        let stack = self.open(layers)?;
        let open = self.obtain(&id, cancel, |dir| materialise(&View::of(stack), dir, Files::Link))?;
        Ok((id, open))
    }
}

/// Writes what a view shows into an empty directory: contents with their holes, owners, modes, times, hard links, devices,
/// extended attributes. The view must show owners as they are on disk.
///
/// # Errors
/// [`FlattenError`]
pub fn materialise(view: &View, dir: &Path, files: Files) -> Result<(), FlattenError> {
    let root = view.root()?;
    let mut writer = Writer { dir, files, copied: HashMap::new() };
    // A directory gets its mode and time when nothing more is written into it.
    let mut dirs = Vec::new();
    for node in view.walk(&root) {
        let node = node?;
        let place = dir.join(&node.path);
        let made = if node.is_dir() {
            reach::near(&place, |at, name| mkdirat(at, name, Mode::RWXU)).map_err(io::Error::from)
        } else {
            writer.write(&node, &place)
        };
        made.map_err(|source| FlattenError::Io { path: place, source })?;
        if node.is_dir() {
            dirs.push(node);
        }
    }
    for node in dirs.iter().rev().chain([&root]) {
        let place = dir.join(&node.path);
        dress(node, &place).map_err(|source| FlattenError::Io { path: place, source })?;
    }
    Ok(())
}

struct Writer<'a> {
    dir: &'a Path,
    files: Files,
    /// Where inodes with several names were copied to first.
    copied: HashMap<Inode, PathBuf>,
}

impl Writer<'_> {
    fn write(&mut self, node: &Node, place: &Path) -> io::Result<()> {
        if self.files == Files::Link {
            match link(&node.real_path(), place) {
                // Too many names already, another file system, or a file this user may not link.
                Err(Errno::MLINK | Errno::XDEV | Errno::PERM | Errno::ACCESS) => {}
                result => return Ok(result?),
            }
        }
        if node.stat.links > 1 {
            if let Some(first) = self.copied.get(&node.stat.inode) {
                return Ok(link(&self.dir.join(first), place)?);
            }
            self.copied.insert(node.stat.inode, node.path.clone());
        }
        copy(node, place)?;
        dress(node, place)
    }
}

fn link(from: &Path, to: &Path) -> Result<(), Errno> {
    reach::near(from, |from_dir, from| {
        reach::near(to, |to_dir, to| linkat(from_dir, from, to_dir, to, AtFlags::empty()))
    })
}

fn copy(node: &Node, place: &Path) -> io::Result<()> {
    let special = |kind| {
        let device = makedev(node.stat.device.0, node.stat.device.1);
        reach::near(place, |dir, name| mknodat(dir, name, kind, Mode::RUSR, device))
    };
    match node.stat.kind {
        FileKind::File => return copy_file(node, place),
        FileKind::Link => {
            let target = node.target()?;
            reach::near(place, |dir, name| symlinkat(&target, dir, name))?;
        }
        FileKind::Char => special(FileType::CharacterDevice)?,
        FileKind::Block => special(FileType::BlockDevice)?,
        FileKind::Fifo => special(FileType::Fifo)?,
        FileKind::Socket => special(FileType::Socket)?,
        FileKind::Dir => unreachable!("directories are not copied"),
    }
    Ok(())
}

/// Copies the bytes of a file, and its holes as holes.
fn copy_file(node: &Node, place: &Path) -> io::Result<()> {
    let from = node.contents()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to: File = reach::near(place, |dir, name| openat(dir, name, flags, Mode::RUSR | Mode::WUSR))?.into();
    for stretch in from.data()? {
        let (mut source, mut target) = (stretch.start, stretch.start);
        while source < stretch.end {
            let len = usize::try_from(stretch.end - source).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(from.file(), Some(&mut source), &to, Some(&mut target), len) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter")),
                Ok(_) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    let mut buffer = vec![0; len.min(1 << 20)];
                    from.file().read_exact_at(&mut buffer, source)?;
                    to.write_all_at(&buffer, source)?;
                    source += buffer.len() as u64;
                    target = source;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    to.set_len(from.len())
}

/// Gives a new file the owner, mode, attributes and time of another.
fn dress(node: &Node, place: &Path) -> io::Result<()> {
    let stat = &node.stat;
    let (uid, gid) = (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid));
    let own = (rustix::process::geteuid(), rustix::process::getegid());
    if (uid, gid) != own {
        reach::near(place, |dir, name| chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
    }
    for (name, value) in node.attributes()? {
        reach::by_name(place, |path| lsetxattr(path, name.as_slice(), &value, XattrFlags::empty()))?;
    }
    if stat.kind != FileKind::Link {
        let mode = Mode::from_raw_mode(stat.mode);
        reach::near(place, |dir, name| chmodat(dir, name, mode, AtFlags::empty()))?;
    }
    let time = Timespec {
        tv_sec: stat.modified.div_euclid(1_000_000_000),
        tv_nsec: stat.modified.rem_euclid(1_000_000_000),
    };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(reach::near(place, |dir, name| utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW))?)
}
