//! A tree written into a directory of the user, with the modes the user's mask leaves.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use quern_core::port::{Blobs, PortError};
use quern_core::tree::Entry;
use quern_core::{ContentRef, Digest, TreePath};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::beneath::{self, Through};
use super::change::{self, Change};
use super::spread::{SERIAL, spread};
use super::write;

/// What becomes of files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// They are errors.
    Refuse,
    /// Files and links are replaced; other files stay.
    Replace,
}

/// Why a tree could not be written into a directory.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// Something is there already.
    #[error("`{}` exists; remove it or ask for existing files to be replaced", .0.display())]
    Exists(PathBuf),
    /// A directory of the tree is something else in the destination, such as a link.
    #[error("`{}` is in the way: the tree has a directory there", .0.display())]
    InTheWay(PathBuf),
    /// The destination could not be written.
    #[error("writing `{}`: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

/// Writes a tree below `dest`.
pub(super) fn checkout(
    blobs: &dyn Blobs,
    tree: &Digest,
    dest: &Path,
    existing: Existing,
) -> Result<(), CheckoutError> {
    let changes = change::changes(blobs, None, tree)?;
    let failed = |source| CheckoutError::Io { path: dest.to_owned(), source };
    std::fs::create_dir_all(dest).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(dest, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    let site = Site { blobs, root, dest, existing };
    let mut parts = Vec::new();
    for change in &changes.list {
        site.make_dir(change)?;
        parts.extend(change.write.chunks(PART).map(|part| (&change.dir, part)));
    }
    let grain = if parts.len() < 2 { SERIAL } else { 1 };
    spread(&parts, grain, |(dir, part)| site.fill(dir, part)).into_iter().collect()
}

/// Files one thread writes in one go.
const PART: usize = 64;

struct Site<'s> {
    blobs: &'s dyn Blobs,
    root: OwnedFd,
    dest: &'s Path,
    existing: Existing,
}

impl Site<'_> {
    fn make_dir(&self, change: &Change) -> Result<(), CheckoutError> {
        let path = change.dir.as_str();
        if let (Some(parent), Some(name)) = (change.dir.parent(), change.dir.name()) {
            let parent = beneath::open_dir(&self.root, parent.as_str());
            match parent.and_then(|parent| rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777))) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(self.in_the_way(path, error)),
            }
        }
        // What is there already must be a directory, too.
        beneath::open_dir(&self.root, path).map(drop).map_err(|error| self.in_the_way(path, error))
    }

    fn in_the_way(&self, path: &str, error: Errno) -> CheckoutError {
        match error {
            Errno::LOOP | Errno::NOTDIR => CheckoutError::InTheWay(self.dest.join(path)),
            error => self.failed(path, error),
        }
    }

    fn fill(&self, dir: &TreePath, part: &[(String, Entry)]) -> Result<(), CheckoutError> {
        let path = dir.as_str();
        let fd = beneath::open_dir(&self.root, path).map_err(|error| self.in_the_way(path, error))?;
        for (name, entry) in part {
            let path = dir.child(name).map_err(|e| PortError::Other(e.to_string()))?;
            self.put(&fd, &path, name, entry)?;
        }
        Ok(())
    }

    /// Makes the entry under a name nobody uses and renames it into place.
    fn put(&self, dir: &OwnedFd, path: &TreePath, name: &str, entry: &Entry) -> Result<(), CheckoutError> {
        let temporary =
            format!(".quern-{}-{:x}", rustix::process::getpid().as_raw_nonzero(), path_hash(path));
        let made = match entry {
            Entry::File { content, executable } => self.write(dir, &temporary, path, content, *executable),
            Entry::Link(target) => rustix::fs::symlinkat(target.as_str(), dir, &temporary)
                .map_err(|e| self.failed(path.as_str(), e)),
            Entry::Dir(_) => return Ok(()),
        };
        let placed = made.and_then(|()| self.place(dir, path, &temporary, name));
        if placed.is_err() {
            // The first error counts; a leftover is visible to the user under a telling name.
            let _ = rustix::fs::unlinkat(dir, &temporary, AtFlags::empty());
        }
        placed
    }

    fn place(&self, dir: &OwnedFd, path: &TreePath, from: &str, to: &str) -> Result<(), CheckoutError> {
        let flags = match self.existing {
            Existing::Refuse => RenameFlags::NOREPLACE,
            Existing::Replace => RenameFlags::empty(),
        };
        rustix::fs::renameat_with(dir, from, dir, to, flags).map_err(|error| match error {
            Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY => {
                CheckoutError::Exists(self.dest.join(path.as_str()))
            }
            error => self.failed(path.as_str(), error),
        })
    }

    fn write(
        &self,
        dir: impl AsFd,
        temporary: &str,
        path: &TreePath,
        content: &ContentRef,
        executable: bool,
    ) -> Result<(), CheckoutError> {
        let failed = |error| self.failed(path.as_str(), error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(if executable { 0o777 } else { 0o666 });
        let file = beneath::create(dir, temporary, Through::NoLinks, flags, mode).map_err(failed)?;
        let mut file = std::fs::File::from(file);
        let copied = write::copy(&mut *self.blobs.open(&content.digest)?, &mut file);
        let copied = copied.and_then(|_| file.flush());
        copied.map_err(|source| CheckoutError::Io { path: self.dest.join(path.as_str()), source })
    }

    fn failed(&self, path: &str, error: Errno) -> CheckoutError {
        CheckoutError::Io { path: self.dest.join(path), source: error.into() }
    }
}

fn path_hash(path: &TreePath) -> u64 {
    let digest = Digest::of(path.as_str().as_bytes());
    digest.as_bytes()[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}
