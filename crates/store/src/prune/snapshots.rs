//! Evicting snapshots that nobody looks at. Their locks are drawn in `workspace/snapshot.rs`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use quern_core::port::PortError;

use super::Amount;
use crate::store::Store;
use crate::usage;

/// Moves the snapshots that nobody has used for `idle` to the trash.
pub(super) fn evict(store: &Store, idle: Duration, dry_run: bool) -> Result<Amount, PortError> {
    let dir = store.layout().snapshots();
    let failed = |error| PortError::io(format!("evicting snapshots in {}", dir.display()), error);
    let mut evicted = Amount::default();
    let selection =
        File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(failed)?;
    for entry in fs::read_dir(&dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !path.is_dir() {
            continue;
        }
        let bytes = usage::measure(&path).map_err(failed)?.bytes;
        // Nobody may choose it between the look at its lock and the move.
        selection.lock().map_err(failed)?;
        let free = is_free(&path.join("lock"), idle).map_err(failed)?;
        if free && !dry_run {
            store.trash(&path).map_err(failed)?;
        }
        selection.unlock().map_err(failed)?;
        if free {
            evicted.count += 1;
            evicted.bytes += bytes;
        }
    }
    Ok(evicted)
}

/// Whether nobody holds the lock file, and nobody has for so long. One without a lock file was never finished.
fn is_free(lock: &Path, idle: Duration) -> io::Result<bool> {
    let file = match File::open(lock) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => Ok(file.metadata()?.modified()?.elapsed().unwrap_or_default() >= idle),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
