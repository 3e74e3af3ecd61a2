//! Trees as directories: what a step sees, and how what it wrote becomes a tree.
//!
//! A small tree is handed over as bytes ([`inline`]). A large one is a directory that stays on disk when nobody
//! looks at it any more ([`snapshot`]): the next large tree is made by changing the most similar free directory
//! ([`sketch`], [`change`], [`write`]), with work in proportion to the difference. The refused alternatives are a
//! fresh hard-link farm for each step (17 us a file, and steps could spoil shared inodes) and overlay mounts of
//! layered differences (a mount per level, slow look-ups in deep stacks).
//!
//! Outputs are written to [`scratch`] directories, which are used again and again; what was in them is moved to the
//! trash ([`bins`]), not deleted: ext4 passes over freshly deleted inodes when it makes new ones, and after 40,000 deletions
//! making a file took 130 us instead of 9.
//!
//! Limits: one machine and one file system; who is allowed to write to the state folder can spoil a snapshot unseen.

pub(crate) mod beneath;
mod bins;
mod change;
mod checkout;
mod inline;
mod scratch;
mod sketch;
mod snapshot;
pub(crate) mod spread;
mod write;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quern_core::port::{Blobs, PortError, Presented, Workspace};
use quern_core::{ContentRef, Digest, Tree};

pub use checkout::{CheckoutError, Existing};

use crate::{DiskBlobs, Lease, Store};
use bins::Bins;
use scratch::Pool;
use snapshot::Lately;

/// A store that keeps large blobs as files on the file system of the workspace, so that they need not be copied.
pub trait LargeFiles: Send + Sync {
    /// The file of a blob: mode 0644, never written to, may be hard-linked. None for small or absent blobs.
    fn path(&self, digest: &Digest) -> Option<PathBuf>;
    /// Keeps the content of a regular file; it is gone afterwards.
    ///
    /// # Errors
    /// If it cannot be read or stored.
    fn adopt(&self, file: &Path) -> Result<ContentRef, PortError>;
}

impl LargeFiles for DiskBlobs {
    fn path(&self, digest: &Digest) -> Option<PathBuf> {
        self.loose_path(digest)
    }

    fn adopt(&self, file: &Path) -> Result<ContentRef, PortError> {
        self.put_file(file)
    }
}

/// The directories a workspace works in, all on one file system.
#[derive(Debug, Clone)]
pub struct Places {
    /// Trees kept as directories.
    pub snapshots: PathBuf,
    /// Directories outputs are written to.
    pub scratch: PathBuf,
    /// Cache mounts.
    pub caches: PathBuf,
    /// What is to be deleted.
    pub trash: PathBuf,
}

/// How much is kept on disk for later.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Number of snapshots; more only while that many are in use.
    pub snapshots: usize,
    /// Bytes of all snapshots together, likewise.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { snapshots: 32, bytes: 32 << 30 }
    }
}

/// The [`Workspace`] port over directories of a state folder.
pub struct FolderWorkspace {
    blobs: Arc<dyn Blobs>,
    places: Places,
    lease: Arc<Lease>,
    large: Option<Arc<dyn LargeFiles>>,
    limits: Limits,
    pool: Pool,
    bins: Bins,
    lately: Lately,
}

impl FolderWorkspace {
    /// The workspace of an open state folder.
    pub fn of(store: &Store) -> Self {
        let layout = store.layout();
        let places = Places {
            snapshots: layout.snapshots(),
            scratch: layout.scratch(),
            caches: layout.caches(),
            trash: layout.trash(),
        };
        let blobs = Arc::clone(store.blobs());
        let large: Arc<dyn LargeFiles> = blobs.clone();
        Self::new(blobs, places, Arc::clone(store.lease()), Some(large))
    }

    /// A workspace in these directories, which exist.
    ///
    /// With `large`, large files are linked and renamed instead of being copied.
    pub fn new(
        blobs: Arc<dyn Blobs>,
        places: Places,
        lease: Arc<Lease>,
        large: Option<Arc<dyn LargeFiles>>,
    ) -> Self {
        let bins = Bins::new(places.trash.clone(), Arc::clone(&lease), bins::LIMIT);
        let (limits, pool, lately) = (Limits::default(), Pool::default(), Lately::default());
        Self { blobs, places, lease, large, limits, pool, bins, lately }
    }

    /// The same workspace with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Writes a tree into a directory of the user, each file at once or not at all.
    ///
    /// `dest` is created if absent. Links found below it are never followed.
    ///
    /// # Errors
    /// [`CheckoutError`]; files written before it stay.
    pub fn checkout_to(&self, tree: &Digest, dest: &Path, existing: Existing) -> Result<(), CheckoutError> {
        checkout::checkout(&*self.blobs, tree, dest, existing)
    }
}

impl Workspace for FolderWorkspace {
    fn present(&self, tree: &Digest) -> Result<Presented, PortError> {
        if let Some(presented) = snapshot::present_again(self, tree)? {
            return Ok(presented);
        }
        let root = read_tree(&*self.blobs, tree)?;
        match inline::entries(&*self.blobs, &root)? {
            Some(entries) => Ok(Presented::Inline(entries)),
            None => snapshot::present(self, tree, &root),
        }
    }

    fn scratch(&self) -> Result<PathBuf, PortError> {
        scratch::scratch(self)
    }

    fn take(&self, scratch: &Path) -> Result<ContentRef, PortError> {
        scratch::take(self, scratch)
    }

    fn discard(&self, scratch: &Path) {
        scratch::discard(self, scratch);
    }

    fn cache_dir(&self, id: &str) -> Result<PathBuf, PortError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if id.is_empty() || id.len() > 128 || id.starts_with('.') || !id.chars().all(plain) {
            let shown: String = id.escape_debug().take(100).collect();
            let rule = "use 1 to 128 letters, digits, `.`, `_` or `-`, not starting with `.`";
            return Err(PortError::Other(format!("`{shown}` cannot be the id of a cache; {rule}")));
        }
        let dir = self.places.caches.join(id);
        fs::create_dir_all(&dir).map_err(|e| PortError::io(format!("making {}", dir.display()), e))?;
        Ok(dir)
    }
}

fn read_tree(blobs: &dyn Blobs, digest: &Digest) -> Result<Tree, PortError> {
    Tree::decode(&blobs.get(digest)?).map_err(|e| PortError::Other(format!("{digest} is no tree: {e}")))
}
