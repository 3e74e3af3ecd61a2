//! Work of which the layer is known only afterwards: one process does it, the others take what it made.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use quern_core::Digest;
use quern_core::port::{Cancel, Layers as _, OpenLayers, PortError};

use super::LayerStore;
use super::obtain::{ObtainError, locking};

impl LayerStore {
    /// The layer that `work` identifies: made by `make` unless a process made it lately and it is still there. Of all processes that
    /// want the same work done at the same time one does it; if that one fails or dies, the next tries.
    ///
    /// What was made is noted in the lock file, which stays until [`LayerStore::prune`] removes it.
    ///
    /// # Errors
    /// [`ObtainError`].
    pub fn make_once<E>(
        &self,
        work: &Digest,
        cancel: &Cancel,
        make: impl FnOnce() -> Result<Digest, E>,
    ) -> Result<Digest, ObtainError<E>> {
        let path = self.making().join(work.hex());
        let failed = |error| PortError::io(format!("noting what is in {}", path.display()), error);
        let mut note = self.wait_for(&path, cancel)?;
        if let Some(layer) = read(&mut note).map_err(failed)?
            && self.exists(&layer)?
        {
            return Ok(layer);
        }
        let layer = make().map_err(ObtainError::Fill)?;
        write(&note, &layer).map_err(failed)?;
        Ok(layer)
    }
}

/// Nobody else does this work while it lives.
pub struct Alone(#[expect(dead_code, reason = "held for its lock")] File);

impl LayerStore {
    /// Waits until no other process does this work.
    ///
    /// # Errors
    /// If the lock cannot be had.
    pub fn alone(&self, work: &Digest) -> Result<Alone, PortError> {
        match self.wait_for::<std::convert::Infallible>(&self.making().join(work.hex()), &Cancel::default()) {
            Ok(lock) => Ok(Alone(lock)),
            Err(ObtainError::Store(error)) => Err(error),
            Err(ObtainError::Cancelled) => unreachable!("nobody cancels"),
            Err(ObtainError::Fill(never)) => match never {},
        }
    }
}

impl LayerStore {
    /// The layer last noted for a place, open; none if there is none any more.
    pub fn noted(&self, place: &Digest) -> Option<OpenLayers> {
        let layer = read(&mut File::open(self.note_of(place)).ok()?).ok()??;
        self.open(&[layer]).ok()
    }

    /// Notes a layer for a place. A note is a hint that may be lost.
    pub fn note(&self, place: &Digest, layer: &Digest) {
        let note = File::options().create(true).truncate(false).write(true).open(self.note_of(place));
        // Whoever reads a torn one finds no such layer.
        let _ = note.and_then(|note| write(&note, layer));
    }

    fn note_of(&self, place: &Digest) -> PathBuf {
        self.layout.imports().join(format!("copy-{}", place.hex()))
    }
}

/// The one that goes first with some work; the others wait until it is dropped or its process dies.
pub struct First {
    lock: File,
    path: PathBuf,
}

impl Drop for First {
    fn drop(&mut self) {
        // Under its own lock, so that nobody can come to hold a file without a name. What stays behind is removed by a prune.
        let _ = fs::remove_file(&self.path);
        let _ = self.lock.unlock();
    }
}

impl LayerStore {
    /// Goes first with this work, unless somebody else does.
    ///
    /// # Errors
    /// If the lock cannot be had.
    pub fn first(&self, work: &Digest) -> Result<Option<First>, PortError> {
        let path = self.making().join(work.hex());
        let lock = self.try_lock(&path, File::try_lock).map_err(|error| locking(&path, error))?;
        Ok(lock.map(|lock| First { lock, path }))
    }

    /// Waits while somebody goes first with this work; `tell` is called once if that takes a while.
    ///
    /// # Errors
    /// If the lock cannot be looked at.
    pub fn wait_for_first(
        &self,
        work: &Digest,
        cancel: &Cancel,
        tell: impl FnOnce(),
    ) -> Result<Waited, PortError> {
        let path = self.making().join(work.hex());
        let failed = |error| locking(&path, error);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Waited::Nobody),
            file => file.map_err(failed)?,
        };
        let (mut waited, mut tell, began) = (Waited::Nobody, Some(tell), Instant::now());
        loop {
            // Shared, so that all who wait see at once that it is over.
            match file.try_lock_shared() {
                Ok(()) => return Ok(waited),
                Err(TryLockError::WouldBlock) if cancel.is_set() => return Ok(Waited::Cancelled),
                Err(TryLockError::WouldBlock) => waited = Waited::Over,
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            if began.elapsed() > A_WHILE
                && let Some(tell) = tell.take()
            {
                tell();
            }
            std::thread::sleep(AGAIN);
        }
    }
}

/// How waiting for the one that goes first ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// There is nobody to wait for.
    Nobody,
    /// Whoever it was has ended.
    Over,
    /// Whoever waited was told to stop.
    Cancelled,
}

/// Those who wait for a whole build look this often.
const AGAIN: Duration = Duration::from_millis(8);
/// Whoever waits longer wants to know for what.
const A_WHILE: Duration = Duration::from_secs(2);

/// The layer in a note; none if there is no whole one.
fn read(note: &mut File) -> io::Result<Option<Digest>> {
    let mut text = String::new();
    note.rewind()?;
    note.take(65).read_to_string(&mut text)?;
    Ok(Digest::from_hex(&text).ok())
}

/// Not emptied before: the kernel would write it to disk at once.
fn write(note: &File, layer: &Digest) -> io::Result<()> {
    note.write_all_at(layer.hex().as_bytes(), 0)
}
