//! How much disk everything takes.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use quern_core::port::PortError;

use crate::layers::LayerStore;
use crate::prune::Amount;
use crate::prune::caches::count;
use crate::store::Store;

/// What a state folder takes on disk, by kind. Bytes are those allocated, directories included; a file with several
/// names counts once, with the kind that comes first here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Blobs in files of their own.
    pub loose: Amount,
    /// Packs. The count is that of the blobs in them.
    pub packed: Amount,
    /// Databases. The count is that of their files.
    pub databases: Amount,
    /// Trees kept as directories. The count is that of files.
    pub snapshots: Amount,
    /// Layers of root file systems. The count is that of layers.
    pub layers: Amount,
    /// Directories steps write into, and drafts of layers.
    pub scratch: Amount,
    /// Named cache mounts. The count is that of caches.
    pub caches: Amount,
    /// Memories of imports.
    pub imports: Amount,
    /// What waits to be deleted.
    pub trash: Amount,
    /// Files being written, leases, everything else.
    pub other: Amount,
}

impl DiskUsage {
    /// All kinds together.
    pub fn total_bytes(&self) -> u64 {
        self.kinds().iter().map(|(_, amount)| amount.bytes).sum()
    }

    /// The kinds with their names.
    pub fn kinds(&self) -> [(&'static str, Amount); 10] {
        [
            ("loose blobs", self.loose),
            ("packed blobs", self.packed),
            ("databases", self.databases),
            ("snapshots", self.snapshots),
            ("layers", self.layers),
            ("scratch", self.scratch),
            ("cache mounts", self.caches),
            ("imports", self.imports),
            ("trash", self.trash),
            ("other", self.other),
        ]
    }
}

impl Store {
    /// Measures the state folder. Reads every directory, so it takes a second for some 300,000 files.
    ///
    /// # Errors
    /// If a directory cannot be read; what disappears meanwhile is no error.
    pub fn disk_usage(&self) -> Result<DiskUsage, PortError> {
        let layout = self.layout();
        let mut seen = HashSet::new();
        let mut of = |path: &Path| {
            walk(path, &mut seen)
                .map_err(|error| PortError::io(format!("measuring {}", path.display()), error))
        };
        let mut usage = DiskUsage {
            loose: of(&layout.blobs())?,
            packed: of(&layout.packs())?,
            databases: of(&layout.root().join("db"))?,
            snapshots: of(&layout.snapshots())?,
            layers: of(&layout.layers())?,
            scratch: of(&layout.scratch())?,
            caches: of(&layout.caches())?,
            imports: of(&layout.imports())?,
            trash: of(&layout.trash())?,
            other: Amount::default(),
        };
        // Everything seen before counts once, so the rest is what the kinds above left.
        usage.other = of(layout.root())?;
        usage.packed.count = self.blobs().packed_count()?;
        let caches = layout.caches();
        usage.caches.count =
            count(&caches).map_err(|error| PortError::io(format!("counting {}", caches.display()), error))?;
        usage.layers.count = LayerStore::of(self).ids()?.len() as u64;
        Ok(usage)
    }
}

/// Files and bytes below a path.
pub(crate) fn measure(path: &Path) -> io::Result<Amount> {
    walk(path, &mut HashSet::new())
}

/// Adds up everything below `path` that was not seen before. Links are not followed.
fn walk(path: &Path, seen: &mut HashSet<(u64, u64)>) -> io::Result<Amount> {
    let mut sum = Amount::default();
    let mut open = vec![path.to_owned()];
    while let Some(dir) = open.pop() {
        let Some(metadata) = present(fs::symlink_metadata(&dir))? else { continue };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        sum.bytes += metadata.blocks() * 512;
        let Some(entries) = present(fs::read_dir(&dir))? else { continue };
        for entry in entries {
            let entry = entry?;
            let Some(metadata) = present(entry.metadata())? else { continue };
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())) {
                sum.count += 1;
                sum.bytes += metadata.blocks() * 512;
            }
        }
    }
    Ok(sum)
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
