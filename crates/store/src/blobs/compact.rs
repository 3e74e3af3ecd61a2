//! Compacting: a pack more than half of which is of no use any more is copied without that half.

use std::collections::HashMap;
use std::fs;

use quern_core::Digest;
use quern_core::port::PortError;
use rusqlite::params;

use super::DiskBlobs;
use super::index::{self, length_of};
use super::pack::{self, PackId, PackWriter, RECORD_HEADER, Slot};

/// What compacting did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// Packs removed.
    pub(crate) packs: u64,
    /// Bytes their files had more than the copies of what was alive in them.
    pub(crate) bytes: u64,
}

impl DiskBlobs {
    /// Compacts the packs that are worth it and that nobody writes to.
    ///
    /// The copy is durable before the index points to it, and the old file goes after that; readers that had looked
    /// up a place in it look again.
    pub(crate) fn compact(&self) -> Result<Compacted, PortError> {
        self.release_pack();
        let dir = self.layout.packs();
        let failed = |error| PortError::io(format!("compacting the packs in {}", dir.display()), error);
        let live = self.live_bytes()?;
        let mut done = Compacted::default();
        for (id, length) in pack::list(&dir).map_err(failed)? {
            let alive = live.get(&id).copied().unwrap_or(0);
            if length <= 2 * alive {
                continue;
            }
            let Some(old) = PackWriter::adopt(&dir, id).map_err(failed)? else { continue };
            // A tail the index does not know belongs to a writer who died after the index was compared.
            if old.len() != length || self.index()?.indexed(id)? != length {
                continue;
            }
            if alive > 0 && !self.move_records(&old)? {
                continue;
            }
            // Or a power cut might bring back rows that point to it.
            self.index()?.sync()?;
            fs::remove_file(pack::path(&dir, id)).map_err(failed)?;
            self.forget_pack(id)?;
            done.packs += 1;
            done.bytes += length - alive;
        }
        Ok(done)
    }

    fn live_bytes(&self) -> Result<HashMap<PackId, u64>, PortError> {
        const SQL: &str = "SELECT pack, sum(length), count(*) FROM blobs GROUP BY pack";
        self.index()?.read(|connection| {
            let mut statement = connection.prepare(SQL)?;
            let rows = statement.query_map([], |row| {
                Ok((row.get(0)?, length_of(row.get(1)?) + RECORD_HEADER * length_of(row.get(2)?)))
            })?;
            rows.collect()
        })
    }

    /// Copies what the index has in `old` to another pack. Gives false and changes nothing if some of it is damaged:
    /// then the old pack stays as evidence.
    fn move_records(&self, old: &PackWriter) -> Result<bool, PortError> {
        let mut new = self.open_pack()?;
        let failed = |error| PortError::io(format!("compacting pack {:08x}", old.id()), error);
        let mut moved = Vec::new();
        for (digest, slot) in self.records_of(old.id())? {
            match self.read_slot(&digest, &slot)? {
                Some(bytes) if Digest::of(&bytes) == digest => {
                    moved.push((digest, new.append(&digest, &bytes).map_err(failed)?));
                }
                _ => return Ok(false),
            }
        }
        new.flush().and_then(|()| new.file().sync_data()).map_err(failed)?;
        self.index()?.write(|transaction| {
            point_to(transaction, old.id(), &moved)
                .and_then(|()| index::set_indexed(transaction, new.id(), new.len()))
                .map_err(|error| self.index.failed(&error))
        })?;
        self.known().clear();
        Ok(true)
    }

    fn records_of(&self, pack: PackId) -> Result<Vec<(Digest, Slot)>, PortError> {
        const SQL: &str = "SELECT digest, offset, length FROM blobs WHERE pack = ?1 ORDER BY offset";
        self.index()?.read(|connection| {
            let mut statement = connection.prepare(SQL)?;
            let rows = statement.query_map([pack], |row| {
                let slot = Slot { pack, offset: row.get(1)?, length: row.get(2)? };
                Ok((Digest::from_bytes(row.get(0)?), slot))
            })?;
            rows.collect()
        })
    }

    /// After the file is gone: a pack without a row but with a file would be read as one that was never indexed.
    fn forget_pack(&self, pack: PackId) -> Result<(), PortError> {
        self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&pack);
        self.index()?.write(|transaction| {
            transaction
                .execute("DELETE FROM packs WHERE id = ?1", [pack])
                .map(drop)
                .map_err(|error| self.index.failed(&error))
        })
    }
}

/// A blob put again meanwhile has its place in another pack already.
fn point_to(
    transaction: &rusqlite::Transaction<'_>,
    old: PackId,
    moved: &[(Digest, Slot)],
) -> rusqlite::Result<()> {
    let mut update = transaction
        .prepare_cached("UPDATE blobs SET pack = ?3, offset = ?4 WHERE digest = ?1 AND pack = ?2")?;
    for (digest, slot) in moved {
        update.execute(params![digest.as_bytes(), old, slot.pack, slot.offset])?;
    }
    Ok(())
}
