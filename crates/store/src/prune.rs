//! Making room: unreferenced blobs and layers, idle snapshots, trash.
//!
//! What is alive the caller says, by roots; the store knows no records. Nothing is taken from a process that may rely
//! on it (see `blobs/sweep.rs`). The refused alternative is a grace time: it is too long for those who need room now
//! and too short for a build that takes a day.

pub(crate) mod caches;
mod mark;
mod snapshots;

use std::collections::HashSet;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use quern_core::Digest;
use quern_core::port::{Blobs as _, PortError};

use crate::blobs::Candidate;
use crate::layers::{LayerPruneOptions, LayerStore};
use crate::store::Store;
use crate::tidy::TidyBudget;

/// What is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Root {
    /// One blob.
    Blob(Digest),
    /// A tree with everything below it.
    Tree(Digest),
    /// One layer of a root file system.
    Layer(Digest),
}

/// Shows every root to the function it is given. Called again for a second look, it must see records written since.
pub type Roots<'a> = dyn Fn(&mut dyn FnMut(Root)) -> Result<(), PortError> + 'a;

/// What to remove.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Keep so many bytes of unreferenced blobs, the newest, and as many of unreferenced layers, those used last.
    pub keep_bytes: u64,
    /// Remove only what came, or was last used, longer ago than this.
    pub older_than: Duration,
    /// Remove all idle snapshots, unreferenced layers, memories of imports and what unused cache mounts hold too; otherwise only what was idle for a day.
    pub all: bool,
    /// Remove nothing, only say what would be.
    pub dry_run: bool,
}

/// Things and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Unreferenced blobs.
    pub blobs: Amount,
    /// Unreferenced blobs that go once the processes that may rely on them have ended and prune runs again.
    pub waiting: Amount,
    /// Packs copied without what was removed from them, and the bytes this saved on disk. Zero in a dry run.
    pub packs: Amount,
    /// Idle snapshots.
    pub snapshots: Amount,
    /// Unreferenced layers that no other living process has committed.
    pub layers: Amount,
    /// Memories of imports.
    pub imports: Amount,
    /// Named cache mounts that nobody was using.
    pub caches: Amount,
    /// Files and directories deleted from the trash. Zero in a dry run.
    pub trash: Amount,
    /// Content that roots refer to but that is not there or is damaged.
    pub missing: Vec<Digest>,
}

/// Why nothing was pruned.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// Another process is at it.
    #[error("another process is pruning this state folder; wait for it to end")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
}

impl Store {
    /// Removes what nothing alive refers to.
    ///
    /// This process must not be in the middle of work whose results are not among the roots yet. Other processes
    /// may be: what they may rely on is left to a later prune.
    ///
    /// # Errors
    /// [`PruneError`]; what was removed until then stays removed, and the next prune goes on.
    pub fn prune(&self, options: &PruneOptions, roots: &Roots<'_>) -> Result<Pruned, PruneError> {
        let _alone = self.lock_prune()?;
        self.blobs().sync()?;
        // What records no longer name must not come back by a power cut after it was removed.
        self.meta().sync_all()?;
        let mut pruned = Pruned::default();
        self.prune_blobs(options, roots, &mut pruned)?;
        let idle = if options.all {
            options.older_than
        } else {
            options.older_than.max(Duration::from_secs(86_400))
        };
        pruned.snapshots = snapshots::evict(self, idle, options.dry_run)?;
        pruned.layers = self.prune_layers(idle, options, roots)?;
        if options.all {
            pruned.caches = caches::empty(self, options.dry_run)?;
            pruned.imports = self.prune_imports(options)?;
        }
        if !options.dry_run {
            let compacted = self.blobs().compact()?;
            pruned.packs = Amount { count: compacted.packs, bytes: compacted.bytes };
            pruned.trash = self.tidy(&TidyBudget::UNLIMITED)?.removed;
        }
        Ok(pruned)
    }

    fn prune_blobs(
        &self,
        options: &PruneOptions,
        roots: &Roots<'_>,
        pruned: &mut Pruned,
    ) -> Result<(), PruneError> {
        let blobs = self.blobs();
        let marked = mark::mark(&**blobs, roots)?;
        let mut condemned = blobs.unreferenced(&marked.live)?;
        condemned.truncate(chosen(&condemned, options, SystemTime::now()));
        pruned.missing = marked.missing;
        if options.dry_run {
            pruned.blobs = amount(&condemned);
            return Ok(());
        }
        if !condemned.is_empty() {
            let sentence = blobs.condemn(&condemned)?;
            blobs.wait_for(sentence, &self.others()?)?;
        }
        let due = blobs.due(&self.others()?)?;
        if !due.is_empty() {
            let marked = mark::mark(&**blobs, roots)?;
            for sentence in due {
                let (count, bytes) = blobs.execute(sentence, &marked.live)?;
                pruned.blobs.count += count;
                pruned.blobs.bytes += bytes;
            }
        }
        let (count, bytes) = blobs.waiting()?;
        pruned.waiting = Amount { count, bytes };
        Ok(())
    }

    fn prune_layers(
        &self,
        unused_for: Duration,
        asked: &PruneOptions,
        roots: &Roots<'_>,
    ) -> Result<Amount, PruneError> {
        let mut kept = HashSet::new();
        roots(&mut |root| {
            if let Root::Layer(id) = root {
                kept.insert(id);
            }
        })?;
        let layers = LayerStore::of(self);
        let until_bytes = match asked.keep_bytes {
            0 => None,
            more => Some(layers.bytes_of(&kept)? + more),
        };
        let options = LayerPruneOptions { unused_for, until_bytes, dry_run: asked.dry_run };
        Ok(layers.prune(&|id| kept.contains(id), &options)?)
    }

    fn prune_imports(&self, options: &PruneOptions) -> Result<Amount, PruneError> {
        let dir = self.layout().imports();
        let failed = |error| PortError::io(format!("pruning {}", dir.display()), error);
        let mut removed = Amount::default();
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            let idle = metadata.modified().map_err(failed)?.elapsed().unwrap_or_default();
            if idle < options.older_than {
                continue;
            }
            removed.count += 1;
            removed.bytes += metadata.len();
            if !options.dry_run {
                self.trash(&entry.path()).map_err(failed)?;
            }
        }
        Ok(removed)
    }

    fn others(&self) -> Result<Vec<String>, PortError> {
        let dir = self.layout().leases();
        self.lease()
            .others()
            .map_err(|error| PortError::io(format!("reading the leases in {}", dir.display()), error))
    }

    fn lock_prune(&self) -> Result<File, PruneError> {
        let path: PathBuf = self.layout().root().join("db/prune.lock");
        let failed = |error| PortError::io(format!("locking {}", path.display()), error);
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => Err(PruneError::Busy),
            Err(std::fs::TryLockError::Error(error)) => Err(failed(error).into()),
        }
    }
}

/// How many of the candidates, oldest first, are to go.
fn chosen(candidates: &[Candidate], options: &PruneOptions, now: SystemTime) -> usize {
    let newest =
        now.checked_sub(options.older_than).and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let Some(newest) = newest else { return 0 };
    let old = candidates
        .iter()
        .take_while(|candidate| u64::try_from(candidate.added).is_ok_and(|added| added <= newest.as_secs()))
        .count();
    let mut kept = amount(candidates).bytes;
    let needed = candidates
        .iter()
        .take_while(|candidate| {
            let over = kept > options.keep_bytes;
            kept -= candidate.bytes;
            over
        })
        .count();
    old.min(if options.keep_bytes == 0 { candidates.len() } else { needed })
}

fn amount(candidates: &[Candidate]) -> Amount {
    Amount { count: candidates.len() as u64, bytes: candidates.iter().map(|candidate| candidate.bytes).sum() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let candidates: Vec<_> =
            [100, 200, 300, 1000].map(|added| Candidate { digest: Digest::of(b""), bytes: 10, added }).into();
        let check = |keep_bytes, older_than, expected| {
            let older_than = Duration::from_secs(older_than);
            let options = PruneOptions { keep_bytes, older_than, ..PruneOptions::default() };
            assert_eq!(chosen(&candidates, &options, now), expected, "{options:?}");
        };
        check(0, 0, 4);
        check(0, 1, 3);
        check(0, 750, 2);
        check(0, 2000, 0);
        check(40, 0, 0);
        check(39, 0, 1);
        check(20, 0, 2);
        check(1, 0, 4);
        check(20, 850, 1);
    }
}
