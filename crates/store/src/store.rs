//! The store as a whole: opening a state folder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::blobs::DiskBlobs;
use crate::layout::Layout;
use crate::lease::Lease;
use crate::meta::SqliteMeta;

/// How to open a state folder.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Whether to make the folder if there is none.
    pub create: bool,
    /// Blobs of at least so many bytes get a file of their own.
    pub loose_from: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { create: true, loose_from: 256 * 1024 }
    }
}

/// Why a state folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none, and none was to be made.
    #[error("no state folder at `{}`; run a command that creates one or check --state", path.display())]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error("`{}` says format {version}, this program knows formats up to {known}; use a newer quern", path.display())]
    Newer {
        /// The format file.
        path: PathBuf,
        /// The format it names.
        version: u32,
        /// The newest format known here.
        known: u32,
    },
    /// Something else lives there.
    #[error("`{}` is not a state folder; name an empty or a new one", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("opening the state folder at `{}`: {source}", path.display())]
    Io {
        /// What was being opened or made.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// An open state folder. Any number of processes may have the same folder open.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    lease: Arc<Lease>,
    blobs: Arc<DiskBlobs>,
    meta: Arc<SqliteMeta>,
}

impl Store {
    /// Opens the state folder `root`. Databases are opened at their first use.
    ///
    /// # Errors
    /// [`OpenError`] if it is not a state folder this program can use.
    pub fn open(root: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        let root = std::path::absolute(root).map_err(|source| OpenError::io(root, source))?;
        let layout = Layout::open(&root, options.create)?;
        let lease =
            Lease::take(&layout.leases()).map_err(|source| OpenError::io(&layout.leases(), source))?;
        let lease = Arc::new(lease);
        let blobs = Arc::new(DiskBlobs::new(layout.clone(), Arc::clone(&lease), options.loose_from));
        let meta = Arc::new(SqliteMeta::new(&layout));
        Ok(Self { layout, lease, blobs, meta })
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The lease of this process.
    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The blobs.
    pub fn blobs(&self) -> &Arc<DiskBlobs> {
        &self.blobs
    }

    /// The records.
    pub fn meta(&self) -> &Arc<SqliteMeta> {
        &self.meta
    }

    /// Renames a file or directory into the trash, which is emptied slowly and elsewhere.
    ///
    /// # Errors
    /// Those of the rename, except that an absent path is no error.
    pub fn trash(&self, path: &Path) -> io::Result<()> {
        bury(&self.layout, &self.lease, path)
    }
}

/// See [`Store::trash`].
pub(crate) fn bury(layout: &Layout, lease: &Lease, path: &Path) -> io::Result<()> {
    match std::fs::rename(path, layout.trash().join(lease.name())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
