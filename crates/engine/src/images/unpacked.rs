//! Directories that are made once, shared by all processes, and removed only when nobody uses them.
//!
//! Beside each directory `<name>` lies `<name>.lock`. Whoever uses the directory holds a shared lock on it; whoever makes or removes the directory
//! holds it exclusively, so a directory is made by one process while the others wait, and a lock left by a killed process is
//! gone with the process. A directory is made as `<name>.partial` and renamed when it is complete and on disk;
//! lock files stay, since removing one would let two processes lock two files of one name.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use quern_core::port::PortError;
use rustix::fs::{FlockOperation, flock};

/// A complete directory that stays as it is while this value lives.
#[derive(Debug)]
pub struct Unpacked {
    /// Where it is.
    pub path: PathBuf,
    _lock: File,
}

/// What was removed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Directories.
    pub count: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// The directory `name` in `folder`, made by `make` if it is not there.
pub(super) fn obtain(
    folder: &Path,
    name: &str,
    make: impl FnOnce(&Path) -> Result<(), PortError>,
) -> Result<Unpacked, PortError> {
    let path = folder.join(name);
    let failed = |error: io::Error| PortError::io(format!("preparing {}", path.display()), error);
    fs::create_dir_all(folder).map_err(failed)?;
    let lock = open_lock(folder, name).map_err(failed)?;
    let mut make = Some(make);
    loop {
        flock(&lock, FlockOperation::LockShared).map_err(|errno| failed(errno.into()))?;
        if path.is_dir() {
            // The time of the lock file says when the directory was used last.
            lock.set_modified(SystemTime::now()).map_err(failed)?;
            return Ok(Unpacked { path, _lock: lock });
        }
        flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        if path.is_dir() {
            continue;
        }
        let Some(make) = make.take() else {
            return Err(PortError::Other(format!("{} was removed while it was prepared", path.display())));
        };
        make_whole(&path, make)?;
    }
}

/// Makes a directory that is either complete or not there. The caller holds the lock.
fn make_whole(path: &Path, make: impl FnOnce(&Path) -> Result<(), PortError>) -> Result<(), PortError> {
    let partial = path.with_extension("partial");
    let failed = |error: io::Error| PortError::io(format!("preparing {}", path.display()), error);
    remove_if_there(&partial).map_err(failed)?;
    fs::create_dir(&partial).map_err(failed)?;
    // Whatever the user's umask is: a step may run as another user.
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    if let Err(error) = make(&partial) {
        // What is left is removed by the next attempt, if it cannot be now.
        let _ = remove_if_there(&partial);
        return Err(error);
    }
    let folder = File::open(&partial).map_err(failed)?;
    rustix::fs::syncfs(&folder).map_err(|errno| failed(errno.into()))?;
    fs::rename(&partial, path).map_err(failed)
}

/// Removes the directories of a folder that nobody uses and nobody has used for some time.
pub(super) fn prune(folder: &Path, unused_for: Duration) -> Result<Pruned, PortError> {
    let failed = |error: io::Error| PortError::io(format!("pruning {}", folder.display()), error);
    let mut pruned = Pruned::default();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pruned),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = name.strip_suffix(".partial").unwrap_or(name);
        if !path.is_dir() {
            continue;
        }
        let lock = open_lock(folder, name).map_err(failed)?;
        let age =
            lock.metadata().and_then(|meta| meta.modified()).map_err(failed)?.elapsed().unwrap_or_default();
        let free = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if free && age >= unused_for {
            pruned.bytes += disk_bytes(&path).map_err(failed)?;
            pruned.count += 1;
            remove_whole(&path).map_err(failed)?;
        }
    }
    Ok(pruned)
}

fn open_lock(folder: &Path, name: &str) -> io::Result<File> {
    File::options().create(true).append(true).open(folder.join(format!("{name}.lock")))
}

/// Removes a directory so that at no time it looks complete and is not. The caller holds the lock.
fn remove_whole(path: &Path) -> io::Result<()> {
    let partial = path.with_extension("partial");
    if path != partial {
        remove_if_there(&partial)?;
        fs::rename(path, &partial)?;
    }
    remove_if_there(&partial)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn disk_bytes(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += meta.blocks() * 512;
        if meta.is_dir() {
            bytes += disk_bytes(&entry.path())?;
        }
    }
    Ok(bytes)
}
