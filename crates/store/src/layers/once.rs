//! Work of which the layer is known only afterwards: one process does it, the others take what it made.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};

use quern_core::Digest;
use quern_core::port::{Cancel, PortError};

use super::LayerStore;
use super::obtain::ObtainError;

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
        write(&mut note, &layer).map_err(failed)?;
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

/// The layer in a note; none if there is no whole one.
fn read(note: &mut File) -> io::Result<Option<Digest>> {
    let mut text = String::new();
    note.rewind()?;
    note.take(65).read_to_string(&mut text)?;
    Ok(Digest::from_hex(&text).ok())
}

fn write(note: &mut File, layer: &Digest) -> io::Result<()> {
    note.set_len(0)?;
    note.rewind()?;
    note.write_all(layer.hex().as_bytes())
}
