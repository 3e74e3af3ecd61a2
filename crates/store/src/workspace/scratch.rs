//! Directories for outputs, used again and again.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quern_core::ContentRef;
use quern_core::port::PortError;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::write::DIR_MODE;
use super::{FolderWorkspace, beneath};
use crate::import::{self, ImportError, Output};

/// A directory with more entries than this goes to the trash as a whole.
const FEW: usize = 8;

/// Empty directories of this process.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<PathBuf>>);

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An empty directory. One that was used before is looked at again: nothing of one step may reach another.
pub(super) fn scratch(workspace: &FolderWorkspace) -> Result<PathBuf, PortError> {
    while let Some(dir) = workspace.pool.lock().pop() {
        if fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_none()) {
            return Ok(dir);
        }
        // One that cannot be moved stays behind as a dead process's would.
        let _ = workspace.bins.throw_dir(&dir, 0);
    }
    let dir = workspace.places.scratch.join(workspace.lease.name());
    let made = fs::create_dir(&dir).and_then(|()| Ok(rustix::fs::chmod(&dir, DIR_MODE)?));
    made.map_err(|e| PortError::io(format!("making {}", dir.display()), e))?;
    Ok(dir)
}

/// Keeps what is in a scratch directory as a tree; the directory is disposed of in any case.
pub(super) fn take(workspace: &FolderWorkspace, scratch: &Path) -> Result<ContentRef, PortError> {
    let dir = open(workspace, scratch)?;
    let taken = import::take_in(
        dir.as_fd(),
        &*workspace.blobs,
        Output { path: scratch, large: workspace.large.as_deref() },
    );
    let bytes = taken.as_ref().map_or_else(|_| weight(scratch), |import| import.bytes);
    dispose(workspace, scratch, &dir, bytes);
    taken.map(|import| import.tree).map_err(|error| match error {
        ImportError::Store(error) => error,
        error => PortError::Other(format!("the output cannot be kept:\n{error}")),
    })
}

/// Disposes of a scratch directory. A failure leaves it behind for `prune`.
pub(super) fn discard(workspace: &FolderWorkspace, scratch: &Path) {
    if let Ok(dir) = open(workspace, scratch) {
        dispose(workspace, scratch, &dir, weight(scratch));
    }
}

/// About how many bytes are below a directory; what cannot be read counts nothing.
fn weight(dir: &Path) -> u64 {
    let mut bytes = 0;
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => open.push(entry.path()),
                Ok(found) => bytes += found.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}

fn open(workspace: &FolderWorkspace, scratch: &Path) -> Result<OwnedFd, PortError> {
    let folder = &workspace.places.scratch;
    let name = scratch.strip_prefix(folder).ok().and_then(Path::to_str).filter(|name| !name.contains('/'));
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Err(PortError::Other(format!("{} is not a scratch directory", scratch.display())));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).and_then(|folder| {
        let found = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if found.st_mode & 0o700 != 0o700 {
            beneath::unlock(&folder, name)?;
        }
        beneath::open_dir(&folder, name)
    });
    opened.map_err(|e| PortError::io(format!("opening {}", scratch.display()), e.into()))
}

/// Empties the directory for the next use, or throws it away if it holds much or is not as it was made.
fn dispose(workspace: &FolderWorkspace, scratch: &Path, dir: &OwnedFd, bytes: u64) {
    if is_pristine(dir).unwrap_or(false) && empty(workspace, dir, bytes).unwrap_or(false) {
        workspace.pool.lock().push(scratch.to_owned());
    } else {
        // One that cannot be moved stays behind as a dead process's would.
        let _ = workspace.bins.throw_dir(scratch, bytes);
    }
}

/// Whether owner, mode and attributes are those of a new directory: a step may have left something for the next.
fn is_pristine(dir: &OwnedFd) -> Result<bool, Errno> {
    let found = rustix::fs::fstat(dir)?;
    let own = found.st_uid == rustix::process::geteuid().as_raw()
        && found.st_gid == rustix::process::getegid().as_raw();
    let attributes = match rustix::fs::flistxattr(dir, &mut [0u8; 256][..]) {
        Err(Errno::NOTSUP) => 0,
        Err(Errno::RANGE) => 1,
        result => result?,
    };
    Ok(own && attributes == 0 && Mode::from_raw_mode(found.st_mode) == DIR_MODE)
}

/// Moves the few things in a directory to the trash; false if they are many.
fn empty(workspace: &FolderWorkspace, dir: &OwnedFd, bytes: u64) -> Result<bool, Errno> {
    rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        names.push(OsString::from_vec(name.to_bytes().to_vec()));
        if names.len() > FEW {
            return Ok(false);
        }
    }
    if !names.is_empty() {
        workspace.bins.throw(dir, &names, bytes)?;
    }
    Ok(true)
}
