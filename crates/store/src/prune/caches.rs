//! Emptying cache mounts that nobody uses. Their locks are those of the executor: whoever uses `data` holds `lock`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use quern_core::port::PortError;

use super::Amount;
use crate::store::Store;
use crate::usage;

/// Moves what unused caches hold to the trash. Lock files stay, because a step may be waiting for one.
pub(super) fn empty(store: &Store, dry_run: bool) -> Result<Amount, PortError> {
    let folder = store.layout().caches();
    let failed = |error| PortError::io(format!("emptying caches in {}", folder.display()), error);
    let mut emptied = Amount::default();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let dir = entry.map_err(failed)?.path();
        let bytes = empty_one(store, &dir, dry_run).map_err(failed)?;
        emptied.count += u64::from(bytes.is_some());
        emptied.bytes += bytes.unwrap_or_default();
    }
    Ok(emptied)
}

/// The bytes that go; none if nothing does.
fn empty_one(store: &Store, dir: &Path, dry_run: bool) -> io::Result<Option<u64>> {
    let mut gone = None;
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some(end) = name.to_str().and_then(|name| name.strip_prefix("data")) else { continue };
        let end = end.strip_suffix(".new").unwrap_or(end);
        let lock = File::options().create(true).append(true).open(dir.join(format!("lock{end}")))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let data = dir.join(&name);
        *gone.get_or_insert(0) += usage::measure(&data)?.bytes;
        if !dry_run {
            store.trash(&data)?;
        }
    }
    Ok(gone)
}

/// How many caches hold something.
pub(crate) fn count(folder: &Path) -> io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let holds = fs::read_dir(entry?.path()).is_ok_and(|entries| {
            entries
                .filter_map(Result::ok)
                .any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"data"))
        });
        count += u64::from(holds);
    }
    Ok(count)
}
