//! How much layers take, and removing those that nobody needs.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use quern_core::Digest;
use quern_core::port::PortError;

use super::{LayerStore, Record, is_at};
use crate::prune::Amount;
use crate::store::bury;
use crate::usage;

/// Which layers go.
#[derive(Debug, Clone, Copy, Default)]
pub struct LayerPruneOptions {
    /// Only those that nobody has used for so long.
    pub unused_for: Duration,
    /// Only until all layers together take at most so many bytes, the least recently used first; none for all.
    pub until_bytes: Option<u64>,
    /// Remove nothing, only say what would be.
    pub dry_run: bool,
}

/// A layer that may go.
struct Candidate {
    id: Digest,
    used: SystemTime,
    bytes: u64,
}

impl LayerStore {
    /// What a layer takes on disk, in bytes; a file with several names counts once. Measured when it is first asked.
    ///
    /// # Errors
    /// [`PortError::Missing`] if it is not there.
    pub fn size(&self, id: &Digest) -> Result<u64, PortError> {
        let dir = self.dir(id);
        let known = fs::read_to_string(dir.join("bytes")).ok().and_then(|text| text.parse().ok());
        if let Some(bytes) = known {
            return Ok(bytes);
        }
        if !self.exists(id)? {
            return Err(PortError::Missing(*id));
        }
        let bytes =
            usage::measure(&dir.join("fs")).map_err(|error| self.failed("measuring", id, error))?.bytes;
        // Without the note it is measured again; a torn one is no number or, at worst, a small one.
        let _ = fs::write(dir.join("bytes"), bytes.to_string());
        Ok(bytes)
    }

    /// How many layers there are, and their bytes. Files that two layers share count twice.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn usage(&self) -> Result<Amount, PortError> {
        let mut sum = Amount::default();
        for id in self.ids()? {
            if let Some(bytes) = self.size_if_there(&id)? {
                sum.count += 1;
                sum.bytes += bytes;
            }
        }
        Ok(sum)
    }

    /// Removes layers that `keep` does not want, that nobody uses, and that no other living process has committed. What is not whole
    /// goes in any case.
    ///
    /// # Errors
    /// If the folder cannot be read or a layer not be moved; what was removed until then stays removed.
    pub fn prune(
        &self,
        keep: &dyn Fn(&Digest) -> bool,
        options: &LayerPruneOptions,
    ) -> Result<Amount, PortError> {
        let mut removed = Amount::default();
        let mut total = 0;
        let mut candidates = Vec::new();
        for id in self.ids()? {
            let Some(bytes) = self.size_if_there(&id)? else {
                self.remove(&id, Duration::ZERO, &mut removed, 0, options.dry_run)?;
                continue;
            };
            total += bytes;
            if !keep(&id) {
                let used = fs::metadata(self.dir(&id).join("lock")).and_then(|lock| lock.modified());
                candidates.push(Candidate { id, used: used.unwrap_or(SystemTime::UNIX_EPOCH), bytes });
            }
        }
        candidates.sort_by_key(|candidate| (candidate.used, candidate.id));
        for Candidate { id, bytes, .. } in candidates {
            if options.until_bytes.is_some_and(|limit| total <= limit) {
                break;
            }
            if self.remove(&id, options.unused_for, &mut removed, bytes, options.dry_run)? {
                total -= bytes;
            }
        }
        self.clear_making().map_err(|error| PortError::io("removing lock files of the dead", error))?;
        Ok(removed)
    }

    /// The bytes of those of these layers that are there.
    pub(crate) fn bytes_of(&self, ids: &HashSet<Digest>) -> Result<u64, PortError> {
        let mut sum = 0;
        for id in ids {
            sum += self.size_if_there(id)?.unwrap_or_default();
        }
        Ok(sum)
    }

    /// The ids of all layers, whole or not.
    pub(crate) fn ids(&self) -> Result<Vec<Digest>, PortError> {
        let folder = self.layout.layers();
        let failed = |error| PortError::io(format!("reading {}", folder.display()), error);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            ids.extend(name.to_str().and_then(|name| Digest::from_hex(name).ok()));
        }
        Ok(ids)
    }

    fn size_if_there(&self, id: &Digest) -> Result<Option<u64>, PortError> {
        if !self.exists(id)? {
            return Ok(None);
        }
        match self.size(id) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(PortError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Moves a layer to the trash if it may go, and counts it.
    fn remove(
        &self,
        id: &Digest,
        idle: Duration,
        removed: &mut Amount,
        bytes: u64,
        dry_run: bool,
    ) -> Result<bool, PortError> {
        let dir = self.dir(id);
        let done = self.lock_free(&dir, idle).and_then(|lock| {
            let goes = lock.is_some();
            if goes && !dry_run {
                bury(&self.layout, &self.lease, &dir)?;
            }
            Ok(goes)
        });
        let goes = done.map_err(|error| self.failed("removing", id, error))?;
        if goes {
            removed.count += 1;
            removed.bytes += bytes;
        }
        Ok(goes)
    }

    /// The locks that make a layer ours to remove; none if somebody uses it, used it lately or may be about to record it.
    fn lock_free(&self, dir: &Path, idle: Duration) -> io::Result<Option<Vec<File>>> {
        let path = dir.join("lock");
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            // Nothing makes such a directory; a user may have.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(dir.exists().then(Vec::new)),
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let elsewhere = match Record::read(&lock)? {
            Some(record) if record.maker != self.lease.id() => {
                self.lease.maker_is_alive(&format!("{}-0", record.maker))?
            }
            _ => false,
        };
        let recent = lock.metadata()?.modified()?.elapsed().unwrap_or_default() < idle;
        Ok((!elsewhere && !recent && is_at(&lock, &path)?).then(|| vec![lock]))
    }

    /// Removes the lock files of those who died while they obtained a layer.
    fn clear_making(&self) -> io::Result<()> {
        let entries = match fs::read_dir(self.making()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let paths: Result<HashSet<PathBuf>, _> =
            entries.map(|entry| Ok::<_, io::Error>(entry?.path())).collect();
        for path in paths? {
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_ok() && is_at(&file, &path)? {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}
