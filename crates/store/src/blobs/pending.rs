//! What was put but is not public yet, and how it becomes durable and public.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use quern_core::Digest;
use quern_core::port::PortError;

use super::index;
use super::known::Place;
use super::pack::{self, PackId, PackWriter, Slot};
use super::{DiskBlobs, Location, PENDING_LIMIT, loose};
use crate::layout::sync_dir;

/// Blobs on their way in.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    pack: Option<PackWriter>,
    pub(super) pending: HashMap<Digest, Pending>,
    /// How many were ever added.
    count: u64,
}

/// A blob only this process knows.
#[derive(Debug, Clone)]
pub(super) enum Pending {
    /// In the open pack or its buffer.
    Packed(Slot),
    /// In a file of its own in `tmp/`.
    Loose(PathBuf),
}

/// How far syncs have come.
#[derive(Debug, Default)]
pub(super) struct Synced {
    /// So many of the blobs ever added are durable and public.
    count: u64,
    /// Why nothing can be promised any more: after a failed write-back the kernel forgets which bytes were lost.
    broken: Option<String>,
}

/// What one sync makes durable.
struct Batch {
    count: u64,
    packed: Vec<(Digest, Slot)>,
    loose: Vec<(Digest, PathBuf)>,
    pack: Option<(PackId, Arc<File>, u64)>,
}

impl Incoming {
    pub(super) fn locate(&self, digest: &Digest) -> Option<Location> {
        Some(match self.pending.get(digest)? {
            Pending::Loose(path) => Location::File(path.clone()),
            Pending::Packed(slot) => match self.pack.as_ref().and_then(|pack| pack.buffered(slot)) {
                Some(bytes) => Location::Memory(bytes.to_vec()),
                None => Location::Packed(*slot),
            },
        })
    }

    fn add(&mut self, digest: &Digest, pending: Pending) {
        self.pending.insert(*digest, pending);
        self.count += 1;
    }

    fn batch(&mut self) -> Result<Batch, PortError> {
        let mut batch = Batch { count: self.count, packed: Vec::new(), loose: Vec::new(), pack: None };
        for (digest, pending) in &self.pending {
            match pending {
                Pending::Packed(slot) => batch.packed.push((*digest, *slot)),
                Pending::Loose(path) => batch.loose.push((*digest, path.clone())),
            }
        }
        if let Some(pack) = self.pack.as_mut().filter(|_| !batch.packed.is_empty()) {
            pack.flush().map_err(|error| PortError::io(format!("writing pack {:08x}", pack.id()), error))?;
            batch.pack = Some((pack.id(), Arc::clone(pack.file()), pack.len()));
        }
        // Neighbours in the index are written together.
        batch.packed.sort_unstable_by_key(|(digest, _)| *digest);
        Ok(batch)
    }
}

impl DiskBlobs {
    /// Appends to the open pack, opening one if there is none.
    pub(super) fn add_packed(&self, digest: &Digest, bytes: &[u8]) -> Result<(), PortError> {
        let mut incoming = self.incoming();
        if incoming.pending.contains_key(digest) {
            return Ok(());
        }
        if incoming.pack.is_none() {
            incoming.pack = Some(self.open_pack()?);
        }
        let pack = incoming.pack.as_mut().expect("was opened above");
        let slot = pack
            .append(digest, bytes)
            .map_err(|error| PortError::io(format!("writing pack {:08x}", pack.id()), error))?;
        let full = pack.is_full();
        incoming.add(digest, Pending::Packed(slot));
        let many = incoming.pending.len() >= PENDING_LIMIT;
        drop(incoming);
        if full || many { self.sync_pending() } else { Ok(()) }
    }

    pub(super) fn add_loose(&self, digest: &Digest, temp: PathBuf) -> Result<(), PortError> {
        let mut incoming = self.incoming();
        if incoming.pending.contains_key(digest) {
            drop(incoming);
            return fs::remove_file(&temp)
                .map_err(|error| PortError::io(format!("removing {}", temp.display()), error));
        }
        incoming.add(digest, Pending::Loose(temp));
        Ok(())
    }

    /// A pack that is not full and that nobody writes to, or a new one.
    pub(super) fn open_pack(&self) -> Result<PackWriter, PortError> {
        let index = self.index()?;
        let dir = self.layout.packs();
        let failed = |error| PortError::io(format!("opening a pack in {}", dir.display()), error);
        for (id, length) in pack::list(&dir).map_err(failed)? {
            if length >= pack::PACK_LIMIT {
                continue;
            }
            let Some(mut writer) = PackWriter::adopt(&dir, id).map_err(failed)? else { continue };
            // A pack shorter than the index says has lost good records; nothing is written over their places.
            if index.indexed(id)? <= writer.len() {
                self.recover_tail(&mut writer)?;
                return Ok(writer);
            }
        }
        PackWriter::create(&dir).map_err(failed)
    }

    /// Enters what dead writers left in packs and the index does not know.
    pub(super) fn recover_packs(&self) -> Result<(), PortError> {
        let dir = self.layout.packs();
        let failed = |error| PortError::io(format!("reading the packs in {}", dir.display()), error);
        let indexed: HashMap<PackId, u64> = self.index.packs()?.into_iter().collect();
        for (id, length) in pack::list(&dir).map_err(failed)? {
            if length > indexed.get(&id).copied().unwrap_or(0)
                && let Some(mut writer) = PackWriter::adopt(&dir, id).map_err(failed)?
            {
                self.recover_tail(&mut writer)?;
            }
        }
        Ok(())
    }

    fn recover_tail(&self, writer: &mut PackWriter) -> Result<(), PortError> {
        let id = writer.id();
        let failed = |error| PortError::io(format!("mending pack {id:08x}"), error);
        let indexed = self.index.indexed(id)?;
        if indexed >= writer.len() {
            return Ok(());
        }
        let added = writer.file().metadata().and_then(|metadata| metadata.modified()).map_err(failed)?;
        let scanned = pack::scan(writer.file(), id, indexed).map_err(failed)?;
        writer.truncate(scanned.end).map_err(failed)?;
        writer.file().sync_data().map_err(failed)?;
        self.index.write(|transaction| {
            index::insert(transaction, &scanned.records, added)
                .and_then(|()| index::set_indexed(transaction, id, scanned.end))
                .map_err(|error| self.index.failed(&error))
        })
    }

    /// Gives the open pack back, so that it can be compacted. Pending blobs keep it open.
    pub(super) fn release_pack(&self) {
        let mut incoming = self.incoming();
        if incoming.pending.is_empty() {
            incoming.pack = None;
        }
    }

    /// One thread works for all that wait: who finds its blobs synced already returns at once.
    pub(super) fn sync_pending(&self) -> Result<(), PortError> {
        let ticket = self.incoming().count;
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = &synced.broken {
            return Err(PortError::Other(message.clone()));
        }
        if synced.count >= ticket {
            return Ok(());
        }
        let batch = self.incoming().batch()?;
        if let Err(error) = write_back(&batch) {
            let message =
                format!("the disk failed to keep new blobs ({error}); end this process and start again");
            synced.broken = Some(message.clone());
            return Err(PortError::Other(message));
        }
        self.publish(&batch)?;
        synced.count = batch.count;
        Ok(())
    }

    /// Shows durable blobs to all processes. Loose files get their names inside the transaction, so that a prune,
    /// which removes files in one of its own, cannot take a file for the doomed one it replaces.
    fn publish(&self, batch: &Batch) -> Result<(), PortError> {
        let failed = |error| self.index.failed(&error);
        self.index()?.write(|transaction| {
            self.name_loose(&batch.loose).map_err(|error| {
                PortError::io(format!("naming blobs in {}", self.layout.blobs().display()), error)
            })?;
            index::insert(transaction, &batch.packed, SystemTime::now()).map_err(failed)?;
            index::pardon(transaction, batch.loose.iter().map(|(digest, _)| digest)).map_err(failed)?;
            if let Some((id, _, length)) = &batch.pack {
                index::set_indexed(transaction, *id, *length).map_err(failed)?;
            }
            Ok(())
        })?;
        let mut known = self.known();
        batch.packed.iter().for_each(|(digest, slot)| known.insert(*digest, Place::Packed(*slot)));
        batch.loose.iter().for_each(|(digest, _)| known.insert(*digest, Place::Loose));
        drop(known);
        let mut incoming = self.incoming();
        for digest in batch.packed.iter().map(|(digest, _)| digest).chain(batch.loose.iter().map(|(d, _)| d))
        {
            incoming.pending.remove(digest);
        }
        if incoming.pending.is_empty() && incoming.pack.as_ref().is_some_and(PackWriter::is_full) {
            incoming.pack = None;
        }
        Ok(())
    }

    fn name_loose(&self, files: &[(Digest, PathBuf)]) -> std::io::Result<()> {
        let mut dirs = BTreeSet::new();
        for (digest, temp) in files {
            let path = loose::path(&self.layout, digest);
            let dir = path.parent().expect("a loose blob has a directory");
            if !dir.exists() {
                fs::create_dir_all(dir)?;
                dirs.insert(self.layout.blobs());
            }
            match fs::rename(temp, &path) {
                // Named by an attempt of this batch that failed later.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.exists() => {}
                other => other?,
            }
            dirs.insert(dir.to_owned());
        }
        dirs.iter().try_for_each(|dir| sync_dir(dir))
    }
}

/// Files are written back from several threads: the file system commits once for all that wait at the same time.
fn write_back(batch: &Batch) -> std::io::Result<()> {
    const THREADS: usize = 8;
    std::thread::scope(|scope| {
        let shares = batch.loose.chunks(batch.loose.len().div_ceil(THREADS).max(1));
        let threads: Vec<_> = shares
            .map(|share| scope.spawn(move || share.iter().try_for_each(|(_, path)| sync_file(path))))
            .collect();
        let packed = batch.pack.as_ref().map_or(Ok(()), |(_, file, _)| file.sync_data());
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("syncing a file does not panic"))
            .and(packed)
    })
}

fn sync_file(path: &Path) -> std::io::Result<()> {
    match File::open(path) {
        Ok(file) => file.sync_all(),
        // Named already by an attempt that failed later, after it was written back.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
