//! Layers whose id is known before they are made: one process makes it, the others wait.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use quern_core::Digest;
use quern_core::port::{Cancel, Layers as _, OpenLayers, PortError};

use super::LayerStore;

/// Why a layer was not obtained.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError<E> {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] PortError),
    /// The caller said stop while another process was making it.
    #[error("cancelled while another process was making the layer")]
    Cancelled,
    /// Making it failed.
    #[error("{0}")]
    Fill(E),
}

/// A waiting process looks this often, first and at last.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

impl LayerStore {
    /// The layer `id`, made by `fill` in the directory it is given if it is not there. Of all processes that want the same layer
    /// one makes it; if that one fails or dies, the next tries.
    ///
    /// # Errors
    /// [`ObtainError`]; nothing is kept then.
    pub fn obtain<E>(
        &self,
        id: &Digest,
        cancel: &Cancel,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<OpenLayers, ObtainError<E>> {
        if let Some(open) = self.open_if_there(id)? {
            return Ok(open);
        }
        let path = self.making().join(id.hex());
        let lock = self.wait_for(&path, cancel)?;
        let obtained = self.obtain_alone(id, fill);
        // Under its own lock, so that nobody can come to hold a file without a name.
        let removed = fs::remove_file(&path);
        drop(lock);
        removed.map_err(|error| PortError::io(format!("removing {}", path.display()), error))?;
        obtained
    }

    fn obtain_alone<E>(
        &self,
        id: &Digest,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<OpenLayers, ObtainError<E>> {
        if let Some(open) = self.open_if_there(id)? {
            return Ok(open);
        }
        let draft = self.begin()?;
        if let Err(error) = fill(&draft.dir) {
            self.discard(draft);
            return Err(ObtainError::Fill(error));
        }
        self.place(&draft, id)?;
        Ok(self.open(&[*id])?)
    }

    fn open_if_there(&self, id: &Digest) -> Result<Option<OpenLayers>, PortError> {
        match self.open(&[*id]) {
            Ok(open) => Ok(Some(open)),
            Err(PortError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn making(&self) -> std::path::PathBuf {
        self.layout.layers().join(".making")
    }

    /// The lock file at `path`, locked.
    pub(super) fn wait_for<E>(&self, path: &Path, cancel: &Cancel) -> Result<File, ObtainError<E>> {
        let mut pause = LOOK.0;
        loop {
            if let Some(lock) = self.try_lock(path, File::try_lock).map_err(|error| locking(path, error))? {
                return Ok(lock);
            }
            if cancel.is_set() {
                return Err(ObtainError::Cancelled);
            }
            // A lock that can be waited for cannot be given up.
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK.1);
        }
    }

    /// The lock file at `path`, made if need be and locked by `lock`; none if others hold it, or hold what was removed since.
    pub(super) fn try_lock(
        &self,
        path: &Path,
        lock: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> io::Result<Option<File>> {
        let options = File::options().create(true).truncate(false).read(true).write(true).clone();
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(self.making())?;
                options.open(path)?
            }
            file => file?,
        };
        match lock(&file) {
            // Who held it before has removed it.
            Ok(()) if file.metadata()?.nlink() == 0 => Ok(None),
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

pub(super) fn locking(path: &Path, error: io::Error) -> PortError {
    PortError::io(format!("locking {}", path.display()), error)
}
